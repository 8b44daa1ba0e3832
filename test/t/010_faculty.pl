# The whole way for the 240 rows of the faculty table, in both modes and with
# both endpoints: the answers, the figures at every moment, what was paid, what
# stays behind, and whether every request is one that OpenAI's description of
# its API allows.

use strict;
use warnings;

use DessBatch;
use IPC::Run ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $kept = PostgreSQL::Test::Utils::tempdir();
my $simulator = start_simulator(arguments => [ '--keep-uploads', $kept ]);
my $node = start_node('faculty', conf => 'dess_batch.idle_timeout = 1s');
my $expected = source_file('test/data/faculty_expected.csv');
my $json = JSON::PP->new->utf8;

$node->safe_psql(
	'postgres', qq{
	CREATE TABLE expected (id integer PRIMARY KEY, department text, shape text);
	COPY expected FROM '$expected' WITH (FORMAT csv, HEADER);});
create_faculty($node);
foreach my $endpoint ('chat/completions', 'responses')
{
	create_server($node, $simulator, name => "at $endpoint",
		options => { endpoint => $endpoint });
}

# Runs until the job in setting test.job has ended, and looks at it without
# pause.  A look is one statement and so one snapshot: the figures of the job
# must be what its rows add up to, and nothing that is finished comes back.
my $looks = q{
DO $do$
DECLARE
	job		bigint := current_setting('test.job');
	looks	bigint := 0;
	least	bigint := 0;
	l		record;
BEGIN
	LOOP
		SELECT j.state, j.rows, j.done, j.failed, j.pending, r.*
		INTO STRICT l
		FROM dess_batch_jobs j CROSS JOIN (
			SELECT count(*) AS all_rows,
				   count(*) FILTER (WHERE outcome IN ('ok', 'missing', 'empty')) AS done_rows,
				   count(*) FILTER (WHERE outcome IN ('pending', 'sent')) AS pending_rows
			FROM dess_batch_rows WHERE job_id = job) r
		WHERE j.job_id = job;
		looks := looks + 1;
		IF l.rows <> l.done + l.failed + l.pending OR l.pending < 0 OR l.failed <> 0
			OR l.done <> l.done_rows OR l.done < least
			OR l.rows < l.all_rows OR l.pending < l.pending_rows
			OR l.state NOT IN ('queued', 'preparing') AND (l.rows <> l.all_rows OR l.rows <> 240)
		THEN
			RAISE 'look % does not add up: %', looks, l;
		END IF;
		least := l.done;
		EXIT WHEN l.state IN ('done', 'failed', 'cancelled', 'paused') OR looks > 100000;
	END LOOP;
	PERFORM set_config('test.looks', looks::text, false);
END
$do$;
};

# Submits, looks until the end, and returns job, number of looks and what was notified.
sub run_watched
{
	my ($arguments) = @_;
	my $session = DessBatch::Session->new($node);

	my $job = $session->query("LISTEN dess_batch; SELECT dess_batch_submit($arguments);");
	my $heard = $session->query("SET test.job = $job; $looks");
	is($session->errors, '', 'the figures add up at every look');
	$heard .= "\n" . $session->query("SELECT 'looks ' || current_setting('test.looks')");
	my ($number) = $heard =~ /^looks (\d+)/m;
	wait_until(
		'the notification',
		sub {
			$heard .= $session->query('SELECT 1');
			return $heard =~ /notification "dess_batch"/;
		});
	$session->close;
	my ($payload) = $heard =~ /payload "(\{.*\})"/;
	return ($job, $number, $payload);
}

# Is what the extension has sent since the last call what OpenAI's document says?
sub validate
{
	my ($since) = @_;
	my $record = $simulator->get("requests?limit=20000&since=$since");
	my $file = "$PostgreSQL::Test::Utils::tmp_check/faculty_requests_$since.json";
	my @uploads = glob "$kept/*.jsonl";
	my $out = '';

	open(my $handle, '>', $file) or die "could not write \"$file\": $!";
	print $handle $json->encode($record);
	close $handle;
	my $good = IPC::Run::run(
		[
			'node', source_file('test/npm/validate_requests.mjs'),
			source_file('test/data/openapi.subset.json'), $file, @uploads
		],
		'>', \$out, '2>&1');
	ok($good, 'every request is as OpenAI describes it') or diag($out);
	my ($checked) = $out =~ /^(\d+) checked/m;
	return ($checked, scalar @{ $record->{requests} }, $record->{last_seq}, @uploads);
}

my $since = 0;
my $uploads = 0;

# slow enough that a job can be looked at while it runs
$simulator->post('settings', { latency_ms => 150 });

foreach my $mode ('batch', 'online')
{
	foreach my $endpoint ('chat/completions', 'responses')
	{
		subtest "$mode, $endpoint" => sub {
			my $before = $simulator->get('stats');
			my $arguments = "'faculty', 'gpt-6-luna', mode => '$mode', server => 'at $endpoint'";

			$node->safe_psql('postgres',
				'UPDATE faculty SET department_llm = NULL; TRUNCATE dess_batch.settled');
			my ($job, $looks, $heard) = run_watched($arguments);
			cmp_ok($looks, '>', 3, "there were looks ($looks)");
			is_deeply($json->decode($heard), { job => $job + 0, state => 'done' },
				'the end is notified');
			is(job_figures($node, $job), 'done 240 240 0 0', 'every row is done');

			is($node->safe_psql('postgres', q{
				SELECT count(*) FILTER (WHERE department_llm IS NOT DISTINCT FROM department)
				FROM faculty JOIN expected USING (id)}),
				240, 'every answer is as expected');
			is($node->safe_psql('postgres', qq{
				SELECT count(*) FILTER (WHERE r.outcome <> CASE
						   WHEN e.department IS NULL THEN 'empty'
						   WHEN e.department = 'MISSING' THEN 'missing' ELSE 'ok' END),
					   count(*) FILTER (WHERE r.outcome = 'empty'), count(DISTINCT e.id)
				FROM dess_batch_rows r JOIN expected e ON e.id = (r.row_key ->> 'id')::integer
				WHERE r.job_id = $job}),
				'0|24|240', 'and every outcome');

			my $after = $simulator->get('stats');
			my $tokens = $after->{tokens}{$mode};
			my $tokens_before = $before->{tokens}{$mode};
			my $answered = $after->{rows_served} - $before->{rows_served};
			cmp_ok($answered, '<=', 205, "equal rows are sent once ($answered requests)");
			my $spent = join '|',
			  $answered, map { $tokens->{$_} - $tokens_before->{$_} } qw(input cached output reasoning);
			my $columns = 'input_tokens, cached_tokens, output_tokens, reasoning_tokens';
			is($node->safe_psql('postgres',
				"SELECT requests, $columns FROM dess_batch_jobs WHERE job_id = $job"),
				$spent, 'the tokens of the job are those that were handed out');
			my $sums = join ', ', map { "sum($_)" } split /, /, $columns;
			is($node->safe_psql('postgres',
				"SELECT count(*) FILTER (WHERE input_tokens > 0), $sums FROM dess_batch_rows WHERE job_id = $job"),
				$spent, 'and those of its rows');
			is($node->safe_psql('postgres',
				"SELECT sum(requests), $sums FROM dess_batch_usage WHERE server = 'at $endpoint' AND mode = '$mode'"),
				$spent, 'and of the usage');

			ok($node->poll_query_until('postgres', qq{
				SELECT bool_and(remote_deleted_at IS NOT NULL OR input_uri IS NULL)
				FROM dess_batch_batches WHERE job_id = $job}),
				'the remote files are marked as removed');
			$after = $simulator->get('stats');
			is($after->{files_alive}, 0, 'and are');
			is_deeply([ map { scalar(my @found = glob $node->data_dir . "/dess_batch/$_") } '*', '*/*' ],
				[ 1, 0 ], 'the spool is empty');

			my ($checked, $requests, $last, @files) = validate($since);
			my $lines = $mode eq 'batch' ? $answered : 0;
			cmp_ok($checked, '>=', $requests + $lines, "all of them ($checked)");
			is(@files - $uploads, $mode eq 'batch' ? 1 : 0, 'and the uploaded file');
			($since, $uploads) = ($last, scalar @files);

			my $again = submit_job($node, $arguments);
			is(wait_for_job($node, $again), 'done', 'submitted once more');
			is(job_figures($node, $again), 'done 0 0 0 0', 'it finds no row');
			my $now = $simulator->get('stats');
			is_deeply(
				[ @$now{qw(rows_served batches_created files_created)} ],
				[ @$after{qw(rows_served batches_created files_created)} ],
				'and pays for nothing');
			$node->safe_psql('postgres',
				"UPDATE dess_batch.job SET finished_at = now() - interval '2 minutes' WHERE id = $again");
			ok($node->poll_query_until('postgres',
				"SELECT NOT EXISTS (SELECT FROM dess_batch_jobs WHERE job_id = $again)"),
				'after a while it is forgotten');
		};
	}
}

is($simulator->get('stats')->{prompts}{answered_more_than_once} > 0, 1,
	'(the simulator did see the same rows in every round)');
$node->stop;
done_testing();
