# Without preload: a commit starts the worker, or wakes the one that is there.

use strict;
use warnings;

use DessBatch;
use Test::More;
use Time::HiRes qw(time);

my $simulator = start_simulator(batch_ms => 50);
my $node = start_node('on_demand', preload => 0, conf => "restart_after_crash = on\n");

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

sub workers
{
	return sql("SELECT coalesce(string_agg(pid::text, ' '), '') FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'");
}

# The one worker that is left: without preload a commit starts another, which
# finds the lock taken, wakes its holder and goes.
sub the_worker
{
	$node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'})
		or die 'not one worker: ' . workers();
	return workers();
}

sub table
{
	my ($name, $rows, $database) = @_;
	return sql("CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $name SELECT n, '$name ' || n FROM generate_series(1, $rows) n", $database);
}

sub submit
{
	my ($table, $more, $database) = @_;
	return submit_job($node, "'$table', 'gpt-4o-mini', prompt => '{body}', target => 'answer'" . ($more ? ", $more" : ''), $database);
}

sub complete
{
	my ($table, $name) = @_;
	return is(sql("SELECT count(*) FROM $table WHERE answer IS DISTINCT FROM body"), 0, $name // 'every row is answered');
}

create_server($node, $simulator);
is(workers(), '', 'nothing runs at first');

subtest 'a commit starts a worker' => sub {
	table('first', 5);
	$node->psql('postgres', q{BEGIN; SELECT dess_batch_submit('first', 'gpt-4o-mini', prompt => '{body}', target => 'answer'); ROLLBACK});
	$node->psql('postgres', q{BEGIN; SAVEPOINT s; SELECT dess_batch_submit('first', 'gpt-4o-mini', prompt => '{body}', target => 'answer'); ROLLBACK TO s; COMMIT});
	is(workers(), '', 'a rollback does not');
	my ($status, $out, $err) = $node->psql('postgres',
		q{BEGIN; SELECT dess_batch_submit('first', 'gpt-4o-mini', prompt => '{body}', target => 'answer'); PREPARE TRANSACTION 'x'});
	like($err, qr/ERROR.*PREPARE/, 'PREPARE TRANSACTION is refused');
	my $job = submit('first');
	is(wait_for_job($node, $job), 'done', 'the job ends');
	complete('first');
	like(the_worker(), qr/^\d+$/, 'there is one worker');
	is($simulator->get('stats')->{batches_created}, 1, 'one batch');
};

subtest 'and wakes the one that is there' => sub {
	my $worker = the_worker();
	table('second', 5);
	my @jobs;
	foreach my $n (1 .. 5)
	{
		push @jobs, submit('second', "where_sql => 'id = $n', mode => 'online'");
		my $took = time;
		is(wait_for_job($node, $jobs[-1]), 'done', "job $n ends");
		$took = time - $took;
		cmp_ok($took, '<', 5, sprintf('soon (%.2f s)', $took));
	}
	complete('second');
	is(the_worker(), $worker, 'it is still the same worker');
};

subtest 'even while it submits for a trigger' => sub {
	table('slow', 0);
	table('quick', 1);
	sql(q{CREATE TABLE patience (); INSERT INTO patience DEFAULT VALUES;
		CREATE FUNCTION slow(text) RETURNS boolean LANGUAGE plpgsql AS $$
		BEGIN PERFORM pg_sleep(4.5) FROM public.patience; RETURN true; END$$;
		CREATE DOMAIN slow_text AS text CHECK (public.slow(VALUE));
		ALTER TABLE slow ALTER answer TYPE slow_text;
		CREATE TRIGGER ask AFTER INSERT ON slow FOR EACH STATEMENT EXECUTE FUNCTION
			dess_batch_trigger('gpt-4o-mini', 'prompt={body}', 'target=answer', 'mode=online');
		INSERT INTO slow VALUES (1, 'slow 1')});
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'
		AND state = 'active' AND query = 'submitting for a trigger' AND xact_start < clock_timestamp() - interval '0.5 seconds'}),
		'a trigger asks for something that takes long');
	my $job = submit('quick', "mode => 'online'");
	is(wait_for_job($node, $job), 'done', 'a job that comes then ends');
	cmp_ok(sql("SELECT extract(epoch FROM started_at - created_at) FROM dess_batch_jobs WHERE job_id = $job"), '<', 3,
		'and did not wait for it');
	sql('DELETE FROM patience');
	ok($node->poll_query_until('postgres', "SELECT count(*) = 1 FROM dess_batch_jobs WHERE source = 'slow' AND state = 'done'"),
		'the trigger has its turn later');
};

subtest 'which sleeps when it has nothing to do' => sub {
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'
		AND state = 'idle' AND state_change < clock_timestamp() - interval '4 seconds'}), 'for seconds');
};

subtest 'a restart of the server' => sub {
	table('third', 20);
	$simulator->post('settings', { run_ms => 600000 });
	my $job = submit('third');
	ok($node->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job"), 'a batch is at the provider');
	$node->restart;
	$simulator->post('settings', { run_ms => 50 });
	is(workers(), '', 'nothing runs');
	like(sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"), qr/dess_batch_start\(\)/, 'it is told what to do');
	sql('SELECT dess_batch_start()');
	is(wait_for_job($node, $job), 'done', 'which helps');
	complete('third');
	is($simulator->get('stats')->{batches_created}, 2, 'no batch was created twice');
};

subtest 'kill -9' => sub {
	table('fourth', 400);
	$simulator->post('settings', { latency_ms => 50 });
	my $job = submit('fourth', "mode => 'online'");
	ok($node->poll_query_until('postgres', 'SELECT count(answer) > 0 FROM fourth'), 'some rows are answered');
	my $worker = the_worker();
	like($worker, qr/^\d+$/, 'there is one worker');
	is(kill('KILL', $worker), 1, 'it is killed') if $worker =~ /^\d+$/;
	wait_until('the server is there again',
		sub { return $node->psql('postgres', "SELECT 1/(count(*) = 0)::integer FROM pg_stat_activity WHERE pid = $worker") == 0 });
	sql('SELECT dess_batch_start(); SELECT dess_batch_start(); SELECT dess_batch_start()');
	is(wait_for_job($node, $job), 'done', 'the next one goes on');
	$simulator->post('settings', { latency_ms => 0 });
	complete('fourth');
	like(the_worker(), qr/^\d+$/, 'there is one worker');
};

subtest 'no slot is free' => sub {
	sql('ALTER SYSTEM SET max_worker_processes = 1');
	$node->restart;
	table('fifth', 3);
	my ($status, $out, $err) = $node->psql('postgres',
		q{SELECT dess_batch_submit('fifth', 'gpt-4o-mini', prompt => '{body}', target => 'answer', mode => 'online')});
	is($status, 0, 'submit succeeds');
	like($err, qr/WARNING.*no background worker slot/, 'with a warning');
	like($err, qr/HINT.*dess_batch_start/, 'and a hint');
	my $job = sql('SELECT max(job_id) FROM dess_batch_jobs');
	is(sql("SELECT state FROM dess_batch_jobs WHERE job_id = $job"), 'queued', 'the job waits');
	sql('ALTER SYSTEM RESET max_worker_processes');
	$node->restart;
	sql('SELECT dess_batch_start()');
	is(wait_for_job($node, $job), 'done', 'until there is one');
	complete('fifth');
};

subtest 'DROP DATABASE' => sub {
	sql('CREATE DATABASE other');
	sql('CREATE EXTENSION dess_batch', 'other');
	create_server($node, $simulator, database => 'other');
	table('sixth', 5, 'other');
	$simulator->post('settings', { latency_ms => 60000 });
	my $waiting = $simulator->get('stats')->{in_flight};
	submit('sixth', "mode => 'online'", 'other');
	wait_until('requests wait', sub { return $simulator->get('stats')->{in_flight} > $waiting });
	my $start = time;
	sql('DROP DATABASE other WITH (FORCE)');
	my $took = time - $start;
	cmp_ok($took, '<', 5, sprintf('WITH (FORCE) ends the worker (%.2f s)', $took));
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE datname = 'other'}), 'which does not come back');
};

$node->stop;
my $log = PostgreSQL::Test::Utils::slurp_file($node->logfile);
unlike($log, qr/PANIC|terminated by signal (?!9)/, 'nothing has crashed but what was killed');
done_testing();
