# The worker and the launcher with preload: starts, ends, crashes, and commands
# that want a database for themselves.

use strict;
use warnings;

use DessBatch;
use Test::More;
use Time::HiRes qw(time);

my $simulator = start_simulator(batch_ms => 50);
my $node = start_node('worker', conf => "restart_after_crash = on\nmax_worker_processes = 16\n");

sub sql
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# A database with the extension, a server, and tables t1, t2, ... of so many rows each.
sub database
{
	my ($name, @rows) = @_;
	my $i = 0;

	sql("CREATE DATABASE $name") if $name ne 'postgres';
	sql('CREATE EXTENSION dess_batch', $name) if $name ne 'postgres';
	create_server($node, $simulator, database => $name, options => { max_concurrency => 50 });
	tables($name, @rows);
	return;
}

# Every write of an answer leaves a row in table "writes".
sub tables
{
	my ($name, @rows) = @_;
	my $i = 0;

	sql(q{
		CREATE TABLE IF NOT EXISTS writes (which text, id integer);
		CREATE OR REPLACE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN INSERT INTO public.writes VALUES (TG_TABLE_NAME, NEW.id); RETURN NULL; END'}, $name);
	foreach my $n (@rows)
	{
		$i++;
		sql(qq{
			DROP TABLE IF EXISTS t$i;
			CREATE TABLE t$i (id integer PRIMARY KEY, body text, answer text);
			INSERT INTO t$i SELECT n, '$name t$i row ' || n FROM generate_series(1, $n) n;
			DELETE FROM writes WHERE which = 't$i';
			CREATE TRIGGER note AFTER UPDATE ON t$i FOR EACH ROW EXECUTE FUNCTION note()}, $name);
	}
	return;
}

sub submit
{
	my ($database, $table, $more) = @_;
	return submit_job($node,
		"'$table', 'gpt-4o-mini', prompt => '{body}', target => 'answer'" . ($more ? ", $more" : ''), $database);
}

# Is every row of the table answered, and written once?
sub complete
{
	my ($database, $table, $name) = @_;

	return is(
		sql("SELECT count(*) FILTER (WHERE t.answer IS DISTINCT FROM t.body), count(*) FILTER (WHERE w.n <> 1)
			 FROM $table t LEFT JOIN (SELECT id, count(*) AS n FROM writes WHERE which = '$table' GROUP BY id) w USING (id)", $database),
		'0|0', $name // 'every row is answered and written once');
}

sub workers
{
	my ($database) = @_;
	return sql("SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = '$database'");
}

sub wait_for_workers
{
	my ($database, $n, $name) = @_;
	return ok($node->poll_query_until('postgres',
		"SELECT count(*) = $n FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = '$database'"), $name);
}

# Returns the process id of the one that was there.
sub kill_worker
{
	my ($database) = @_;
	my $pid = wait_until('a worker', sub { return workers($database) });

	$pid =~ /^[0-9]+$/ or die "several workers: $pid";
	is(kill('KILL', $pid), 1, 'the worker is killed');
	return $pid;
}

sub stats { return $simulator->get('stats'); }
sub settings { return $simulator->post('settings', { @_ }); }

# Runs a command and says how many seconds it took.
sub timed
{
	my ($command) = @_;
	my $start = time;

	$command->();
	return sprintf '%.2f', time - $start;
}

database('postgres', 20, 20, 20);
database('second', 20, 60);
database('third');
sql('CREATE DATABASE without');

subtest 'after a restart' => sub {
	settings(run_ms => 600000);
	my $job = submit('postgres', 't1');
	my $other = submit('second', 't1');
	foreach my $pair ([ 'postgres', $job ], [ 'second', $other ])
	{
		ok($node->poll_query_until($pair->[0],
			"SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $pair->[1]"), 'a batch is at the provider');
	}
	my $took = timed(sub { $node->stop('fast') });
	cmp_ok($took, '<', 10, "a fast shutdown ($took s)");
	$node->start;
	wait_for_workers('postgres', 1, 'the launcher starts a worker where there is work');
	wait_for_workers('second', 1, 'in every database');
	wait_for_workers('third', 0, 'but none where there is none');
	is(workers('without'), '', 'nor where the extension is not');
	settings(run_ms => 50);
	sql("SELECT dess_batch_status($job)");
	sql("SELECT dess_batch_status($other)", 'second');
	is(wait_for_job($node, $job), 'done', 'the jobs end');
	is(wait_for_job($node, $other, 'second'), 'done', 'both');
	complete('postgres', 't1');
	complete('second', 't1');
	is(stats()->{batches_created}, 2, 'no batch was created twice');
};

subtest 'kill -9 in batch mode' => sub {
	tables('postgres', 600);
	sql("ALTER SERVER openai OPTIONS (ADD max_batch_requests '100')");
	my $before = stats();
	my $job = submit('postgres', 't1');
	my $answered = 'coalesce((SELECT count(answer) FROM t1), 0)';

	foreach my $moment (
		"EXISTS (SELECT FROM dess_batch.batch WHERE job_id = $job AND state IN ('uploading', 'uploaded', 'creating', 'running'))",
		"(SELECT count(*) >= 2 FROM dess_batch.batch WHERE job_id = $job AND remote_id IS NOT NULL)",
		"$answered > 0", "$answered > 250")
	{
		ok($node->poll_query_until('postgres', "SELECT $moment"), 'at some moment');
		my $pid = kill_worker('postgres');
		ok($node->poll_query_until('postgres',
			"SELECT count(*) = 1 AND bool_and(pid <> $pid) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = 'postgres'"),
			'and there is another one')
		  or last;
	}
	is(wait_for_job($node, $job), 'done', 'the job ends');
	complete('postgres', 't1');
	is(job_figures($node, $job), 'done 600 600 0 0', 'figures');
	is(stats()->{batches_created} - $before->{batches_created}, 6, 'no batch was created twice');
	is(stats()->{rows_served} - $before->{rows_served}, 600, 'no row was bought twice');
	is(sql("SELECT sum(requests) FROM dess_batch_usage"), stats()->{rows_served} - 20, 'the usage is right');
	sql("ALTER SERVER openai OPTIONS (DROP max_batch_requests)");
};

subtest 'kill -9 in online mode' => sub {
	tables('postgres', 800);
	my $before = stats();
	settings(latency_ms => 50);
	my $job = submit('postgres', 't1', "mode => 'online'");
	foreach my $n (50, 300)
	{
		ok($node->poll_query_until('postgres', "SELECT count(answer) >= $n FROM t1"), 'some rows are answered');
		kill_worker('postgres');
		wait_until('the server is there again', sub { return $node->psql('postgres', 'SELECT 1') == 0 });
	}
	is(wait_for_job($node, $job), 'done', 'the job ends');
	settings(latency_ms => 0);
	complete('postgres', 't1');
	is(job_figures($node, $job), 'done 800 800 0 0', 'figures');
	my $served = stats()->{rows_served} - $before->{rows_served};
	cmp_ok($served, '<=', 1000, "at most what was in flight was asked for again ($served)");
};

subtest 'pg_terminate_backend' => sub {
	tables('postgres', 300);
	settings(latency_ms => 50);
	my $job = submit('postgres', 't1', "mode => 'online'");
	ok($node->poll_query_until('postgres', 'SELECT count(answer) >= 20 FROM t1'), 'some rows are answered');
	my $pid = workers('postgres');
	my $took = timed(
		sub {
			sql("SELECT pg_terminate_backend($pid)");
			$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $pid");
		});
	cmp_ok($took, '<', 5, "it goes at once ($took s)");
	is(wait_for_job($node, $job), 'done', 'another one goes on');
	settings(latency_ms => 0);
	complete('postgres', 't1');
};

subtest 'a fast shutdown while requests wait' => sub {
	tables('postgres', 300);
	settings(latency_ms => 60000);
	my $job = submit('postgres', 't1', "mode => 'online'");
	wait_until('requests wait', sub { return stats()->{in_flight} >= 4 });
	my $took = timed(sub { $node->stop('fast') });
	cmp_ok($took, '<', 10, "is fast ($took s)");
	settings(latency_ms => 0);
	$node->start;
	is(wait_for_job($node, $job), 'done', 'the job goes on afterwards');
	complete('postgres', 't1');
};

subtest 'idle' => sub {
	sql(q{ALTER SYSTEM SET dess_batch.idle_timeout = '200ms'; SELECT pg_reload_conf()});
	wait_for_workers('postgres', 0, 'an idle worker goes');
	tables('postgres', 5);
	my $job = submit('postgres', 't1', "mode => 'online'");
	is(wait_for_job($node, $job), 'done', 'a commit starts another one');
	foreach my $round (1 .. 10)
	{
		sql("UPDATE t1 SET answer = NULL; DELETE FROM writes");
		$job = submit('postgres', 't1', "mode => 'online'");
		wait_for_job($node, $job) eq 'done' or last;
		wait_until('the worker goes', sub { return workers('postgres') eq '' }) if $round % 3 == 0;
	}
	complete('postgres', 't1', 'every time');
	sql(q{ALTER SYSTEM RESET dess_batch.idle_timeout; SELECT pg_reload_conf()});
};

subtest 'enabled' => sub {
	sql(q{ALTER SYSTEM SET dess_batch.enabled = off; SELECT pg_reload_conf()});
	ok($node->poll_query_until('postgres', q{SELECT current_setting('dess_batch.enabled') = 'off'}), 'it is turned off');
	tables('postgres', 5);
	my $requests = stats()->{requests}{'POST /v1/chat/completions'};
	my $job = submit('postgres', 't1', "mode => 'online'");
	like(sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"), qr/enabled is off/, 'a job waits, and it is told why');
	my $other = submit('second', 't2', "mode => 'online'");
	is(stats()->{requests}{'POST /v1/chat/completions'}, $requests, 'nothing is sent');
	sql(q{ALTER SYSTEM RESET dess_batch.enabled; SELECT pg_reload_conf()});
	is(wait_for_job($node, $job), 'done', 'turned on, it goes on');
	is(wait_for_job($node, $other, 'second'), 'done', 'in every database');
	complete('postgres', 't1');
};

subtest 'commands that want a database for themselves' => sub {
	tables('second', 10, 10, 10);
	settings(run_ms => 600000);
	my $job = submit('second', 't1');
	ok($node->poll_query_until('second', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job"), 'a batch is at the provider');
	wait_for_workers('second', 1, 'and a worker there');
	my $took = timed(sub { sql('CREATE DATABASE copy TEMPLATE second') });
	cmp_ok($took, '<', 5, "it can be a template ($took s)");
	wait_for_workers('second', 1, 'the worker comes back');
	$took = timed(sub { sql('ALTER DATABASE second RENAME TO renamed') });
	cmp_ok($took, '<', 5, "it can be renamed ($took s)");
	wait_for_workers('renamed', 1, 'the worker comes back');
	my $tablespace = PostgreSQL::Test::Utils::tempdir_short();
	sql("CREATE TABLESPACE elsewhere LOCATION '$tablespace'");
	$took = timed(sub { sql('ALTER DATABASE renamed SET TABLESPACE elsewhere') });
	cmp_ok($took, '<', 10, "it can be moved ($took s)");
	wait_for_workers('renamed', 1, 'the worker comes back');
	settings(run_ms => 50);
	sql("SELECT dess_batch_status($job)", 'renamed');
	is(wait_for_job($node, $job, 'renamed'), 'done', 'the job ends');
	complete('renamed', 't1');
	submit('copy', 't2');
	ok($node->poll_query_until('copy', "SELECT state = 'held' FROM dess_batch_jobs WHERE job_id = $job"),
		'in the copy it is held');

	settings(latency_ms => 60000);
	my $waiting = stats()->{in_flight};
	$job = submit('renamed', 't3', "mode => 'online'");
	wait_until('requests wait', sub { return stats()->{in_flight} > $waiting });
	$took = timed(sub { sql('DROP DATABASE renamed') });
	cmp_ok($took, '<', 5, "it can be dropped ($took s)");
	settings(latency_ms => 0);
	is(workers('renamed'), '', 'and the worker is gone');
};

subtest 'DROP EXTENSION' => sub {
	tables('postgres', 50);
	settings(latency_ms => 60000);
	my $waiting = stats()->{in_flight};
	my $job = submit('postgres', 't1', "mode => 'online'");
	wait_until('requests wait', sub { return stats()->{in_flight} > $waiting });
	my $took = timed(sub { sql('DROP EXTENSION dess_batch CASCADE') });
	cmp_ok($took, '<', 5, "while a job runs ($took s)");
	settings(latency_ms => 0);
	sql('CREATE EXTENSION dess_batch');
	create_server($node, $simulator);
	$job = submit('postgres', 't1', "mode => 'online'");
	is(wait_for_job($node, $job), 'done', 'a new one works');
	complete('postgres', 't1');
};

is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch launcher'}), 1, 'there is one launcher');
$node->stop;
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
unlike($log, qr/PANIC|terminated by signal (?!9)/, 'nothing has crashed but what was killed');
done_testing();
