# What a user sees of a job that is under way: dess_batch_progress, the notices
# of dess_batch_run, and the worker in pg_stat_activity.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $simulator = start_simulator();
my $node = start_node('progress', conf => 'dess_batch.idle_timeout = 10min');
my $named_waits = $node->pg_version >= 17;

create_server($node, $simulator);
create_server($node, $simulator, name => 'single', options => { models => 'none', max_concurrency => 3 });
create_faculty($node);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# What the worker says it does: "state|query|wait event's type|wait event".
sub worker
{
	return sql(q{SELECT state, query, wait_event_type, wait_event FROM pg_stat_activity
				 WHERE backend_type = 'dess_batch worker'});
}

sub wait_for_worker
{
	my ($what, $query, $event) = @_;
	my $named = $named_waits ? $event : 'Extension';

	ok( $node->poll_query_until(
			'postgres', qq{
			SELECT count(*) = 1 FROM pg_stat_activity
			WHERE backend_type = 'dess_batch worker' AND state = 'idle'
				AND wait_event_type = 'Extension' AND wait_event = '$named' AND query ~ '$query'}),
		"the worker says that it waits for $what") or diag(worker());
	return;
}

sub progress
{
	my ($job, $columns) = @_;
	return sql("SELECT $columns FROM dess_batch_progress WHERE job_id = $job");
}

sub wait_for_progress
{
	my ($job, $condition) = @_;
	return $node->poll_query_until('postgres', "SELECT $condition FROM dess_batch_progress WHERE job_id = $job");
}

subtest 'a batch of which the provider has not said anything yet' => sub {
	$simulator->post('faults', { batch => { stuck_at => 'in_progress', fraction => 0.4, no_counts => 1 }, times => 1 });
	my $job = submit_job($node, q{'faculty', 'gpt-6-luna', label => 'nothing said'});

	ok(wait_for_progress($job, q{state = 'running' AND waiting_for LIKE 'the provider, next look %'}),
		'it waits for the provider');
	is(progress($job, 'percent, bar, rows, done, failed, rows_per_second, eta'),
		'10.0|##..................|240|24|0|0.0|', 'rows without text are done; there is no pace and no remaining time');
	wait_for_worker('the next look', "^waiting for the next look: 1 job(, in \\d+ s)?\$", 'DessBatchTime');
	sql("SELECT dess_batch_cancel($job)");
	is(wait_for_job($node, $job), 'cancelled', 'it is cancelled');
};

subtest 'a batch with a part done at the provider' => sub {
	$simulator->post('faults', { batch => { stuck_at => 'in_progress', fraction => 0.4 }, times => 1 });
	my $job = submit_job($node, q{'faculty', 'gpt-6-luna', overwrite => true});

	ok(wait_for_progress($job, q{waiting_for ~ '^the provider \([34]\d % there\), next look \d\d:\d\d:\d\d$'}),
		'the provider\'s own figures are shown') or diag(progress($job, '*'));
	is(progress($job, 'percent, done'), '10.0|24', 'what is not merged is not done');
	my ($eta, $since) = split /\|/, progress($job, q{extract(epoch FROM eta),
		(SELECT extract(epoch FROM clock_timestamp() - started_at) FROM dess_batch_jobs j WHERE j.job_id = p.job_id)} =~ s/p\.job_id/dess_batch_progress.job_id/r);
	# 60 % are left after 40 %: half as long again as it took
	cmp_ok($eta, '>=', $since * 1.5 - 2, 'the remaining time is at the pace so far');
	cmp_ok($eta, '<=', $since * 1.8 + 2, 'and not much more');
	my @lines = split /\n/, (psql_screen(qq{SELECT job_id AS job, state, percent AS "%", bar, rows, eta
		FROM dess_batch_progress WHERE job_id = $job}));
	cmp_ok((sort { $b <=> $a } map { length } @lines)[0], '<=', 80, 'what the README shows fits 80 columns')
	  or diag(join "\n", @lines);
	my $screen = psql_screen("SELECT * FROM dess_batch_progress WHERE job_id = $job", '-x');
	cmp_ok((sort { $b <=> $a } map { length } split /\n/, $screen)[0], '<=', 80, 'and all of it does, one below the other')
	  or diag($screen);
	sql("SELECT dess_batch_cancel($job)");
	is(wait_for_job($node, $job), 'cancelled', 'it is cancelled');
};

subtest 'a job that is cancelled before it has an answer' => sub {
	$simulator->post('faults', { batch => { stuck_at => 'in_progress', fraction => 0 }, times => 1 });
	my $job = submit_job($node, q{'faculty', 'gpt-6-luna', overwrite => true});

	ok(wait_for_progress($job, q{state = 'running'}), 'it is running');
	sql("SELECT dess_batch_cancel($job)");
	is(wait_for_job($node, $job), 'cancelled', 'it is cancelled');
	is(progress($job, 'percent, bar, rows, done, failed, rows_per_second'), '10.0|##..................|240|24|216|0.0',
		'what was given up was not worked at');
};

# What psql prints to a screen.
sub psql_screen
{
	my ($sql, @arguments) = @_;
	my ($out, $err) = ('', '');

	PostgreSQL::Test::Utils::run_log(
		[ 'psql', '-X', @arguments, '-d', $node->connstr('postgres'), '-c', $sql ], '>', \$out, '2>', \$err)
	  or die $err;
	return $out;
}

subtest 'online' => sub {
	$simulator->post('settings', { latency_ms => 150 });
	my $job = submit_job($node, q{'faculty', 'gpt-6-luna', mode => 'online', server => 'single', overwrite => true, where_sql => 'id <= 120'});

	ok(wait_for_progress($job, q{rows > 0 AND state = 'running'}), 'it is running');
	wait_for_worker('replies', "^waiting for replies: 1 job, [123] requests? under way\$", 'DessBatchReply');
	ok(wait_for_progress($job, q{eta IS NOT NULL AND percent >= 20 OR state = 'done'}), 'there is a remaining time');
	my $seen = time;
	my ($percent, $eta, $rate) = split /\|/, progress($job, 'percent, extract(epoch FROM eta), rows_per_second');
	cmp_ok($percent, '>', 2, 'it is not shown before there is a pace');
	cmp_ok($rate, '>', 0, 'there is one');
	is(wait_for_job($node, $job), 'done', 'the job ends');
	my $left = time - $seen;
	cmp_ok($eta, '<', 4 * $left + 4, "the remaining time was honest: $eta s said, $left s passed");
	cmp_ok($eta, '>', $left / 4 - 4, 'and no flattery');
	is(progress($job, 'percent, bar, eta, waiting_for'), '100.0|####################||', 'a job that is done waits for nothing');
	$simulator->post('settings', { latency_ms => 0 });
};

subtest 'merging' => sub {
	sql(q{CREATE TABLE slow (id integer PRIMARY KEY, t text, a text);
		  INSERT INTO slow SELECT i, 'text ' || i FROM generate_series(1, 10) i;
		  CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
			'BEGIN PERFORM pg_catalog.pg_sleep(0.2); RETURN new; END';
		  CREATE TRIGGER slow BEFORE UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION slow()});
	my $job = submit_job($node, q{'slow', 'gpt-6-luna', prompt => '{t}', target => 'a'});

	ok( $node->poll_query_until(
			'postgres', qq{
			SELECT count(*) = 1 FROM pg_stat_activity
			WHERE backend_type = 'dess_batch worker' AND state = 'active' AND query = 'merging answers of job $job'}),
		'the worker says that it merges, and of which job');
	is(progress($job, 'eta'), '', 'no remaining time is promised when the provider is through');
	is(wait_for_job($node, $job), 'done', 'the job ends');
};

subtest 'dess_batch_run' => sub {
	$simulator->post('settings', { run_ms => 5000 });
	my ($status, $out, $err) = $node->psql('postgres',
		q{CALL dess_batch_run('faculty', 'gpt-6-luna', overwrite => true, where_sql => 'id <= 100')});
	my @lines = $err =~ /NOTICE:  (\[.*)/g;

	is($status, 0, 'it ends well');
	cmp_ok(scalar @lines, '>=', 2, 'and tells how far it is');
	is((grep { !/^\[[#.]{20}\] .*\d+ (?:of \d+ )?rows?/ } @lines), 0, 'each line has a bar and rows') or diag($err);
	like($err, qr/running, waiting for the provider \(\d+ % there\)/, 'the provider\'s figures are among it');
	like($err, qr/ 10 of 100 rows, 00:00:\d\d left; running/, 'and what is left of the time');
	is((grep { / left/ && !/% there/ } @lines), 0, 'but not before the provider reports');
	like($err, qr/job \d+ is done: 100 rows, \d+\.\d s/, 'the last line says how long it took');
	$simulator->post('settings', { run_ms => 100 });
};

subtest 'a session that waits, and a worker without work' => sub {
	$simulator->post('faults', { batch => { stuck_at => 'in_progress' }, times => 1 });
	my $job = submit_job($node, q{'faculty', 'gpt-6-luna', overwrite => true, where_sql => 'id = 1'});
	my $session = DessBatch::Session->new($node);
	my $named = $named_waits ? 'DessBatchJob' : 'Extension';

	$session->start("CALL dess_batch_wait($job)");
	ok( $node->poll_query_until(
			'postgres', sprintf(
				"SELECT count(*) = 1 FROM pg_stat_activity WHERE pid = %d AND wait_event_type = 'Extension' AND wait_event = '%s'",
				$session->pid, $named)),
		'the session waits for an event');
	sql("SELECT dess_batch_cancel($job)");
	is($session->finish, 'cancelled', 'and hears of the end');
	$session->close;

	wait_for_worker('work', '^waiting for work$', 'DessBatchIdle');
	$node->append_conf('postgresql.conf', 'dess_batch.enabled = off');
	$node->reload;
	wait_for_worker('permission to work', '^waiting: dess_batch.enabled is off$', 'DessBatchIdle');
};

$node->stop;
done_testing();
