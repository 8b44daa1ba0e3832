# beside.pl
#		What other sessions feel of a large job that merges: pgbench beside it.
#
# pgbench runs alone and beside the merge, in turn.  A watcher looks all the
# time at what vacuum would have to keep for the worker.

use strict;
use warnings;
use utf8;

use Bench;
use DessBatch;
use DessBatch::Session;
use IPC::Run;
use List::Util qw(min);

my $rows = min(bench_rows(), 200_000);
my $rounds = 3;
my $seconds = 4;
my $clients = 8;
my $node = start_bench_node('beside');
my $simulator = start_simulator(batch_ms => 50);

create_server($node, $simulator);
run_quietly($node->installed_command('pgbench'), '-i', '-q', '-s', 20, '-h', $node->host, '-p', $node->port, 'postgres');

sub run_quietly
{
	my (@command) = @_;
	my ($out, $err);

	IPC::Run::run(\@command, '>', \$out, '2>', \$err) or die "$command[0]: $err";
	return $out;
}

# Transactions per second.
sub pgbench
{
	my ($report) = run_quietly(
		$node->installed_command('pgbench'), '-n', '-c', $clients, '-j', 2, '-T', $seconds, '-h', $node->host,
		'-p', $node->port, 'postgres') =~ /^tps = ([\d.]+)/m;

	return $report // die 'pgbench tells no rate';
}

# Writes the age of the worker's oldest snapshot and of its transaction, ten times a second.
sub watch_snapshots
{
	$node->safe_psql('postgres', 'CREATE TABLE watched (transaction float8, snapshot float8)');
	$node->safe_psql('postgres', q{
		CREATE PROCEDURE watch(seconds integer) LANGUAGE plpgsql AS $$
		DECLARE
			until timestamptz := clock_timestamp() + seconds * interval '1 second';
			since timestamptz;
			held xid;
			now_held xid;
			started timestamptz;
		BEGIN
			LOOP
				PERFORM pg_stat_clear_snapshot();
				SELECT backend_xmin, xact_start INTO now_held, started FROM pg_stat_activity
				WHERE backend_type LIKE 'dess_batch worker%';
				IF now_held IS NULL OR now_held IS DISTINCT FROM held THEN
					since := clock_timestamp();
					held := now_held;
				END IF;
				INSERT INTO watched VALUES (coalesce(extract(epoch FROM clock_timestamp() - started), 0),
					coalesce(extract(epoch FROM clock_timestamp() - since), 0));
				COMMIT;
				EXIT WHEN clock_timestamp() > until;
				PERFORM pg_sleep(0.1);
			END LOOP;
		END $$});
	my $watcher = DessBatch::Session->new($node);
	$watcher->start("CALL watch(" . ($rounds * 4 * $seconds) . ')');
	return $watcher;
}

# A job that stands before its merge.
sub prepared_job
{
	my ($table) = @_;
	my $job;

	create_big_faculty($node, $table, $rows);
	$job = $node->safe_psql('postgres', "SELECT dess_batch_prepare('$table', 'gpt-5.4-nano')");
	$node->safe_psql('postgres', "CALL dess_batch_wait($job); SELECT dess_batch_upload($job)");
	$node->safe_psql('postgres', "CALL dess_batch_wait($job); SELECT dess_batch_create($job)");
	foreach my $try (1 .. 10)
	{
		last if $node->poll_query_until('postgres',
			"SELECT bool_and(state = 'retrieving') FROM dess_batch_batches WHERE job_id = $job");
	}
	return $job;
}

sub done
{
	my ($job) = @_;
	return $node->safe_psql('postgres', "SELECT done FROM dess_batch_jobs WHERE job_id = $job");
}

my @jobs = map { prepared_job("faculty_$_") } 1 .. $rounds;
my (@alone, @beside, @merged, @worker);

pgbench();
my $watcher = watch_snapshots();
foreach my $job (@jobs)
{
	push @alone, pgbench();
	$node->safe_psql('postgres', "SELECT dess_batch_retrieve($job)");
	wait_until('the merge begins', sub { return done($job) > 0 });
	my $before = done($job);
	my $busy = processor_seconds(worker_pid($node));
	push @beside, pgbench();
	my $after = done($job);

	die "the merge was over before pgbench: it needs more than $rows rows" if $after == $rows;
	push @merged, ($after - $before) / $seconds;
	push @worker, (processor_seconds(worker_pid($node)) - $busy) / $seconds;
	bench_say('alone %.0f/s, beside %.0f/s, %.0f rows/s merged', $alone[-1], $beside[-1], $merged[-1]);
	$node->safe_psql('postgres', "CALL dess_batch_wait($job)");
	die 'the job has not ended well' unless job_figures($node, $job) eq "done $rows $rows 0 0";
}
$watcher->finish;

my ($transaction, $snapshot) = split /\|/, $node->safe_psql('postgres', 'SELECT max(transaction), max(snapshot) FROM watched');
my $ratio = median(map { $beside[$_] / $alone[$_] } 0 .. $#beside);

bench_result(
	title => 'what others feel of a merge',
	how => sprintf('`pgbench` (TPC-B, scale 20, %d clients, fsync on) for %d s alone and beside the merge of a job of %d rows, %d times in turn: '
		  . 'alone %s, beside %s. Meanwhile %.0f rows were merged a second, and the worker used %.0f %% of a processor; '
		  . 'the simulator, which sends the results, runs on the same machine. Snapshot: how long pg_stat_activity showed the same backend_xmin for the worker, '
		  . 'looked at ten times a second.',
		$clients, $seconds, $rows, $rounds, (map { my $list = $_; join(' ', map { sprintf('%.0f', $_) } @$list) } \@alone, \@beside),
		median(@merged), 100 * median(@worker)),
	rows => [
		{
			work => 'pgbench beside a merging job',
			ours => sprintf('%.0f/s', median(@beside)),
			other => sprintf('alone: %.0f/s', median(@alone)),
			ratio => sprintf('%.2f', $ratio),
			goal => 'at least 0.7',
			met => $ratio >= 0.7 ? 1 : 0
		},
		{
			work => 'oldest snapshot of the worker',
			ours => sprintf('%.2f s', $snapshot),
			other => sprintf('oldest transaction: %.2f s', $transaction),
			goal => 'under 5 s',
			met => $snapshot < 5 ? 1 : 0
		}
	],
	plots => [
		{
			file => 'beside',
			title => 'pgbench, transactions per second',
			unit => '/s',
			bars => [ [ 'beside a merging job', median(@beside), 'ours' ], [ 'alone', median(@alone), 'other' ] ],
			limit => 0.7 * median(@alone),
			limit_word => 'at least'
		}
	]);
