# merge.pl
#		Stage 5: result lines become answers in rows and outcomes in the ledger.
#
# Compared with one UPDATE of a table like it from answers that lie in another
# table.  All batches have ended at the simulator before the job is let go, so
# ours is timed from dess_batch_retrieve() to the end of the job: it contains
# downloading, syncing and committing, but not the simulator's thinking.  The
# memory of the worker is watched on the way through all stages.

use strict;
use warnings;
use utf8;

use Bench;
use DessBatch;

my $rows = bench_rows();
my $small = bench_small_rows();
my $node = start_bench_node('merge');
my $simulator = start_simulator();
my $watch;

create_server($node, $simulator, options => { max_active_batches => 100 });

sub call
{
	my ($job, $name) = @_;
	$node->safe_psql('postgres', "SELECT dess_batch_$name($job); CALL dess_batch_wait($job)");
	return;
}

# Takes a job through all stages.  Returns a hash: seconds and WAL bytes of the
# last one, and the worker's peak of memory in each.
sub run_job
{
	my ($table) = @_;
	my (%memory, $wal);
	my $job = $node->safe_psql('postgres', "SELECT dess_batch_prepare('$table', 'gpt-6-luna')");

	$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type LIKE 'dess_batch worker%'")
	  or die 'there is no worker';
	$watch //= watch_memory(worker_pid($node));
	peak_memory($watch);
	$node->safe_psql('postgres', "CALL dess_batch_wait($job)");
	$memory{prepare} = peak_memory($watch);
	call($job, 'upload');
	$memory{upload} = peak_memory($watch);
	$node->safe_psql('postgres', "SELECT dess_batch_create($job)");
	foreach my $try (1 .. 10)
	{
		# each try takes a few minutes at most
		last if $node->poll_query_until('postgres',
			"SELECT bool_and(state = 'retrieving') FROM dess_batch_batches WHERE job_id = $job");
	}
	$memory{'create and status'} = peak_memory($watch);

	settle_table($node, $table);
	$wal = wal_bytes($node);
	my $took = seconds(sub { call($job, 'retrieve') });
	$wal = wal_bytes($node) - $wal;
	$memory{'retrieve and merge'} = peak_memory($watch);

	my $figures = job_figures($node, $job);
	my $written = $node->safe_psql('postgres', "SELECT count(department_llm) FROM $table");
	die "job $job: $figures, $written written" unless $figures =~ /^done (\d+) \1 0 0$/ && $1 == $written;
	return { job => $job, took => $took, wal => $wal, memory => \%memory };
}

# Seconds and WAL bytes of the UPDATE that a user would write.
sub update
{
	my ($table, $source) = @_;
	my $wal;

	settle_table($node, $table, 'staged');
	$wal = wal_bytes($node);
	my $took = seconds(sub {
		$node->safe_psql('postgres',
			"UPDATE $table f SET department_llm = s.answer FROM staged s WHERE s.id = f.id");
	});
	return ($took, wal_bytes($node) - $wal);
}

# Rows merged so far over seconds, as the ledger has it; at most some dozen points.
sub curve
{
	my ($job) = @_;
	return [
		map { [ map { 0 + $_ } split /\|/ ] } split /\n/, $node->safe_psql('postgres', qq{
			SELECT round(extract(epoch FROM max(s) - min(min(s)) OVER ())::numeric, 2), max(n)
			FROM (SELECT finished_at AS s, sum(cardinality(nos)) OVER (ORDER BY finished_at, batch_no, seq) AS n,
					ntile(40) OVER (ORDER BY finished_at, batch_no, seq) AS part
				FROM dess_batch.result WHERE job_id = $job) r
			GROUP BY part ORDER BY part})
	];
}

my @small;
foreach my $i (1 .. 3)
{
	create_big_faculty($node, "small_$i", $small);
	push @small, run_job("small_$i");
}
create_big_faculty($node, 'faculty', $rows);
create_big_faculty($node, 'plain_before', $rows);
create_big_faculty($node, 'plain_after', $rows);

my $merge = run_job('faculty');
$node->safe_psql('postgres', 'CREATE TABLE staged AS SELECT id, department_llm AS answer FROM faculty');
my ($took_first, $wal_first) = update('plain_before');
my ($took_second, $wal_second) = update('plain_after');
my $update = ($took_first + $took_second) / 2;
my $update_wal = ($wal_first + $wal_second) / 2;
my $small_took = median(map { $_->{took} } @small);
my $growth = ($merge->{took} / $rows) / ($small_took / $small);

sub goal
{
	my ($value, $limit) = @_;
	return (goal => "at most $limit", met => $value <= $limit ? 1 : 0);
}

my @memory;
foreach my $stage ('prepare', 'upload', 'create and status', 'retrieve and merge')
{
	my $most = $merge->{memory}{$stage} / 1048576;
	my $before = median(map { $_->{memory}{$stage} } @small) / 1048576;

	push @memory,
	  {
		work => "memory, $stage",
		ours => sprintf('%.1f MB', $most),
		other => sprintf('%d rows: %.1f MB', $small, $before),
		ratio => sprintf('%+.1f MB', $most - $before),
		goal => '+16 MB, 64 MB in all',
		met => $most <= 64 && $most - $before <= 16 ? 1 : 0
	  };
}
bench_result(
	title => 'from result lines to rows',
	how => sprintf('%d rows of about 1 kB, primary key, fillfactor 100, vacuumed, from a checkpoint, fsync on. `UPDATE`: the mean of two '
		  . 'tables, %.1f s and %.1f s. Ours contains the download from the simulator on the same machine, which also takes its share of '
		  . 'the processors. Time per row and memory of the small case: median of three. Memory is RssAnon + RssFile of the worker, '
		  . 'looked at every 5 ms.',
		$rows, $took_first, $took_second),
	rows => [
		{
			work => "merge $rows result lines, time",
			ours => sprintf('%.1f s', $merge->{took}),
			other => sprintf('`UPDATE ... FROM staged`: %.1f s', $update),
			ratio => sprintf('%.2f', $merge->{took} / $update),
			goal($merge->{took} / $update, 1.5)
		},
		{
			work => 'the same, WAL',
			ours => sprintf('%.0f MB', $merge->{wal} / 1e6),
			other => sprintf('%.0f MB', $update_wal / 1e6),
			ratio => sprintf('%.2f', $merge->{wal} / $update_wal),
			goal($merge->{wal} / $update_wal, 1.5)
		},
		{
			work => 'growth, time per row',
			ours => sprintf('%.2f µs', $merge->{took} / $rows * 1e6),
			other => sprintf('%d rows: %.2f µs', $small, $small_took / $small * 1e6),
			ratio => sprintf('%.2f', $growth),
			goal($growth, 1.1)
		},
		@memory
	],
	plots => [
		{
			file => 'merge',
			title => "Merge $rows answers",
			unit => 's',
			bars => [
				[ 'dess_batch_retrieve()', $merge->{took}, 'ours' ],
				[ 'UPDATE ... FROM staged', $update, 'other' ]
			],
			limit => 1.5 * $update
		},
		{
			file => 'merge_rows',
			title => 'Rows merged over time',
			unit => 'rows',
			x_unit => 'seconds',
			lines => [ { label => 'committed rows', kind => 'ours', points => curve($merge->{job}) } ]
		}
	]);
