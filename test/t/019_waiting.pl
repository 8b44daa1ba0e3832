# While a thousand requests wait for their answers nobody else has to: no
# transaction is open, other databases can be dropped, sessions can be
# interrupted, and a commit is on its way at once.

use strict;
use warnings;

use DessBatch;
use HTTP::Tiny;
use Test::More;
use Time::HiRes qw(time);

my $simulator = start_simulator();

# a quarter of a process's descriptors is for connections
system('prlimit', '--pid', $$, '--nofile=5000:') == 0
  or die 'could not raise the limit of open files';
my $node = start_node('waiting', conf => 'max_files_per_process = 4500');
my $session = DessBatch::Session->new($node);

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub stats { return $simulator->get('stats'); }
sub settings { return $simulator->post('settings', { @_ }); }

create_server($node, $simulator, options => { max_concurrency => 1000 });
create_server($node, $simulator, name => 'single');

subtest 'from commit to the first byte' => sub {
	my $http = HTTP::Tiny->new;
	my @took;

	sql(q{CREATE TABLE quick (id integer PRIMARY KEY, body text, answer text)});
	$session->query('SET client_min_messages = warning');
	foreach my $n (1 .. 11)
	{
		# the simulator's clock and ours
		$http->get($simulator->url . '/v1/models');
		my $now = time;
		my $clock = $simulator->get('requests?path=/v1/models&limit=20000')->{requests}[-1]{t};

		$session->query("INSERT INTO quick VALUES ($n, 'row $n')");
		my $job = $session->query(q{
			BEGIN;
			SELECT dess_batch_submit('quick', 'gpt-4o-mini', prompt => '{body}', target => 'answer', mode => 'online', server => 'single')});
		my $commit = time;
		$session->query('COMMIT');
		is(wait_for_job($node, $job), 'done', "job $n ends");
		my $sent = $simulator->get('requests?path=/v1/chat/completions&limit=20000')->{requests}[-1]{t};
		push @took, ($now - $commit) * 1000 + $sent - $clock;
	}
	shift @took;	# the first one starts the worker
	my ($median) = (sort { $a <=> $b } @took)[5];
	note sprintf 'from COMMIT to the request at the provider: %s ms, median %.0f ms',
	  join(' ', map { sprintf '%.0f', $_ } @took), $median;
	cmp_ok($median, '<', 500, sprintf('a worker that runs is quick (%.0f ms)', $median));
};

subtest 'submit on a large table' => sub {
	my @took;

	sql(q{
		CREATE TABLE large (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO large SELECT n, 'text' FROM generate_series(1, 1000000) n;});
	foreach my $n (1 .. 5)
	{
		$session->query('BEGIN');
		$session->query(q{
			DO $$
			DECLARE
				start timestamptz := clock_timestamp();
			BEGIN
				PERFORM dess_batch_submit('large', 'gpt-4o-mini', prompt => '{body}', target => 'answer', server => 'single');
				PERFORM set_config('test.took', extract(epoch FROM clock_timestamp() - start)::text, true);
			END $$});
		is($session->errors, '', 'submitted');
		push @took, $session->query(q{SELECT current_setting('test.took')}) * 1000;
		$session->query('ROLLBACK');
	}
	my ($best) = sort { $a <=> $b } @took;
	note sprintf 'submit on 1,000,000 rows: %s ms', join(' ', map { sprintf '%.1f', $_ } @took);
	cmp_ok($best, '<', 200, sprintf('takes %.1f ms', $best));
	is(sql(q{SELECT count(*) FROM dess_batch_jobs WHERE source = 'large'}), 0, 'rolled back, nothing has happened');
	sql('DROP TABLE large');
};

subtest 'a thousand requests' => sub {
	sql(q{
		CREATE DATABASE victim;
		CREATE TABLE many (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO many SELECT n, 'row ' || n FROM generate_series(1, 20000) n;});
	settings(latency_ms => 400);
	my $job = sql(q{SELECT dess_batch_submit('many', 'gpt-4o-mini', prompt => '{body}', target => 'answer', mode => 'online', server => 'openai')});
	# how many may wait grows with the answers
	wait_until('the concurrency has grown', sub { return stats()->{max_in_flight} >= 900 });
	settings(latency_ms => 30000);
	wait_until('a thousand requests wait', sub { return stats()->{in_flight} >= 900 });
	ok($node->poll_query_until('postgres',
		"SELECT done > 0 AND done = (SELECT count(answer) FROM many) FROM dess_batch_jobs WHERE job_id = $job"), 'what has arrived is written');
	note 'in flight: ' . stats()->{in_flight};

	is(sql(q{
		CREATE TABLE looks (age interval);
		DO $$
		BEGIN
			FOR i IN 1 .. 200 LOOP
				PERFORM pg_stat_clear_snapshot();
				INSERT INTO looks SELECT clock_timestamp() - coalesce(xact_start, clock_timestamp())
				FROM pg_stat_activity WHERE backend_type = 'dess_batch worker';
				PERFORM pg_sleep(0.005);
			END LOOP;
		END $$;
		SELECT count(*) >= 200, max(age) < interval '1 s' FROM looks}),
		't|t', 'no transaction is open while they wait');
	is(sql(q{SELECT coalesce(max(age(backend_xmin)), 0) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}),
		0, 'and no snapshot');

	my $start = time;
	sql('DROP DATABASE victim');
	my $took = time - $start;
	cmp_ok($took, '<', 3, sprintf('another database is dropped meanwhile (%.2f s)', $took));

	$session->start("CALL dess_batch_wait($job)");
	my $pid = $session->pid;
	ok($node->poll_query_until('postgres',
		"SELECT state = 'active' AND wait_event IS NOT NULL FROM pg_stat_activity WHERE pid = $pid"), 'a session waits for the job');
	$start = time;
	is(sql("SELECT pg_cancel_backend($pid)"), 't', 'it is interrupted');
	$session->finish;
	$took = time - $start;
	like($session->errors, qr/canceling statement due to user request/, 'which it notices');
	cmp_ok($took, '<', 3, sprintf('at once (%.2f s)', $took));
	$session->query("CALL dess_batch_wait($job, '100 ms')");
	like($session->errors, qr/ERROR/, 'a timeout ends it too');
	like($session->query("SELECT state FROM dess_batch_jobs WHERE job_id = $job"), qr{^(preparing|running)$}, 'the job goes on');

	$start = time;
	sql("SELECT dess_batch_cancel($job)");
	ok($node->poll_query_until('postgres', "SELECT state IN ('cancelling', 'cancelled') FROM dess_batch_jobs WHERE job_id = $job"),
		'it can be cancelled');
	$start = time;
	$node->stop('fast');
	$took = time - $start;
	cmp_ok($took, '<', 10, sprintf('and the server stopped (%.2f s)', $took));
};

done_testing();
