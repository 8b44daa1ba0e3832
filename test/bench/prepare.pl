# prepare.pl
#		Stage 1: rows become request files and ledger rows.
#
# Compared with COPY of the same lines, made by json_build_object().  Ours is
# timed from the call to the moment when the job stands still with all its
# request files synced, so it contains the ledger and all commits.

use strict;
use warnings;
use utf8;

use Bench;
use DessBatch;

my $rows = bench_rows();
my $small = bench_small_rows();
my $node = start_bench_node('prepare');
my $simulator = start_simulator();

create_server($node, $simulator);
create_big_faculty($node, 'faculty', $rows);
create_big_faculty($node, 'small', $small);

# Seconds for all rows of a table; the job is cancelled afterwards.
sub prepare
{
	my ($table) = @_;
	my $job;
	my $took = seconds(sub {
		$job = $node->safe_psql('postgres', "SELECT dess_batch_prepare('$table', 'gpt-6-luna')");
		$node->safe_psql('postgres', "CALL dess_batch_wait($job)");
	});
	my ($state, $requests, $bytes) = split /\|/, $node->safe_psql('postgres', qq{
		SELECT j.state, j.requests, sum(b.bytes) FROM dess_batch_jobs j JOIN dess_batch_batches b USING (job_id)
		WHERE job_id = $job GROUP BY 1, 2});

	die "job $job is $state with $requests requests" unless $state eq 'prepared' && $requests > 0;
	$node->safe_psql('postgres', "SELECT dess_batch_cancel($job); CALL dess_batch_wait($job)");
	$node->safe_psql('postgres', 'CHECKPOINT');
	return ($took, $requests, $bytes);
}

# The same lines as a user would write them; returns seconds and bytes.
sub copy
{
	my $file = $node->basedir . '/lines';
	my $took = seconds(sub {
		$node->safe_psql('postgres', qq{
			COPY (
				SELECT json_build_object('custom_id', '20b391ce3377-' || id, 'method', 'POST', 'url', '/v1/chat/completions',
					'body', json_build_object('model', 'gpt-6-luna', 'messages', json_build_array(
						json_build_object('role', 'system', 'content', p.words),
						json_build_object('role', 'user', 'content', json_build_object(
							'id_text', id_text, 'firstname', firstname, 'lastname', lastname, 'university', university,
							'snippet_1', snippet_1, 'snippet_2', snippet_2, 'snippet_3', snippet_3, 'snippet_4', snippet_4)::text)),
						'reasoning_effort', 'none'))
				FROM faculty, prompt p)
			TO '$file'});
	});
	my $bytes = -s $file;

	unlink $file;
	$node->safe_psql('postgres', 'CHECKPOINT');
	return ($took, $bytes);
}

$node->safe_psql('postgres', q{
	CREATE TABLE prompt AS SELECT request #>> '{body,messages,0,content}' AS words
	FROM dess_batch_preview('small', 'gpt-6-luna', max_rows => 1);
	ANALYZE prompt});

my @small = map { (prepare('small'))[0] } 1 .. 5;
my ($copy_before, $copy_bytes) = copy();
my ($took, $requests, $bytes) = prepare('faculty');
my ($copy_after) = copy();
my $copy = ($copy_before + $copy_after) / 2;
my $growth = ($took / $rows) / (median(@small) / $small);

die "$requests of $rows rows were prepared" unless $requests == $rows;
bench_result(
	title => 'from rows to request files',
	how => sprintf('%d rows of about 1 kB; ours wrote %.0f MB of lines and the ledger, `COPY` %.0f MB (the mean of a run before '
		  . 'ours, %.1f s, and one behind it, %.1f s). Time per row of the small case: median of five.',
		$rows, $bytes / 1e6, $copy_bytes / 1e6, $copy_before, $copy_after),
	rows => [
		{
			work => "prepare $rows rows",
			ours => sprintf('%.1f s', $took),
			other => sprintf('`COPY (SELECT json_build_object(...)) TO`: %.1f s', $copy),
			ratio => sprintf('%.2f', $took / $copy),
			goal => 'at most 1.3',
			met => $took / $copy <= 1.3 ? 1 : 0
		},
		{
			work => 'growth, time per row',
			ours => sprintf('%.2f µs', $took / $rows * 1e6),
			other => sprintf('%d rows: %.2f µs', $small, median(@small) / $small * 1e6),
			ratio => sprintf('%.2f', $growth),
			goal => 'at most 1.1',
			met => $growth <= 1.1 ? 1 : 0
		}
	],
	plots => [
		{
			file => 'prepare',
			title => "Prepare $rows rows",
			unit => 's',
			bars => [ [ 'dess_batch_prepare()', $took, 'ours' ], [ 'COPY of the same lines', $copy, 'other' ] ],
			limit => 1.3 * $copy
		}
	]);
