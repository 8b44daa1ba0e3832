# Vertex AI: requests and results go through Cloud Storage, and a result line
# carries no key.  First the faculty table in both modes, then the stages one by
# one, then what can go wrong, each case as a job of its own beside the others.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use Test::More;

my $node = start_node('vertex', conf => 'dess_batch.idle_timeout = 1s');
my $folder = '/upload/storage/*';
my $jobs = '/v1/projects/*/batchPredictionJobs';

# ---- the faculty table

my $simulator = start_simulator(google => 1, batch_ms => 50);
my $expected = source_file('test/data/faculty_expected.csv');

$node->safe_psql(
	'postgres', qq{
	CREATE TABLE expected (id integer PRIMARY KEY, department text, shape text);
	COPY expected FROM '$expected' WITH (FORMAT csv, HEADER);});
create_faculty($node);
create_server($node, $simulator, name => 'vertex', provider => 'vertex');

foreach my $mode ('batch', 'online')
{
	subtest "the faculty table, $mode" => sub {
		my $before = $simulator->get('stats');
		my $arguments = "'faculty', 'gemini-3.5-flash', mode => '$mode', server => 'vertex'";

		# lines in no order, in three objects, with names of another kind
		$simulator->post('settings', { output_files => 3, output_names => 1 });
		$node->safe_psql('postgres', 'UPDATE faculty SET department_llm = NULL; TRUNCATE dess_batch.settled');
		my $job = submit_job($node, $arguments);
		is(wait_for_job($node, $job), 'done', 'the job ends');
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
		my ($now, $then) = ($after->{providers}{vertex}, $before->{providers}{vertex});
		my $answered = $after->{rows_served} - $before->{rows_served};
		cmp_ok($answered, '<=', 205, "equal rows are sent once ($answered requests)");
		my $spent = join '|', $answered,
		  map { $now->{tokens}{$mode}{$_} - $then->{tokens}{$mode}{$_} } qw(input cached output reasoning);
		is($node->safe_psql('postgres',
			"SELECT requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens FROM dess_batch_jobs WHERE job_id = $job"),
			$spent, 'the tokens of the job are those that were handed out');
		is($node->safe_psql('postgres', qq{
			SELECT count(*) FILTER (WHERE input_tokens > 0), sum(input_tokens), sum(cached_tokens), sum(output_tokens), sum(reasoning_tokens)
			FROM dess_batch_rows WHERE job_id = $job}),
			$spent, 'and those of its rows');

		if ($mode eq 'batch')
		{
			ok($node->poll_query_until('postgres',
				"SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job"),
				'what is at the provider is marked as removed');
			my $removed = $simulator->get("requests?method=DELETE&path=/v1/projects/*")->{requests};
			is(scalar(grep { $_->{status} == 200 } @$removed), 1, 'the job is');
		}
		is(join(' ', $simulator->objects), '', 'the bucket is empty');

		my $again = submit_job($node, $arguments);
		is(wait_for_job($node, $again), 'done', 'submitted once more');
		is(job_figures($node, $again), 'done 0 0 0 0', 'it finds no row');
		is($simulator->get('stats')->{rows_served}, $after->{rows_served}, 'and pays for nothing');
	};
}

# ---- stage by stage

subtest 'stage by stage' => sub {
	$simulator->post('settings', { output_files => 1, output_names => 0 });
	$node->safe_psql('postgres', q{
		CREATE TABLE staged (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO staged SELECT i, 'item' || i || ' of many' FROM generate_series(1, 5) i});
	my $before = $simulator->get('stats');
	my $job = $node->safe_psql('postgres',
		"SELECT dess_batch_prepare('staged', 'gemini-3.5-flash', '{body}', 'answer', server => 'vertex')");
	my $look = sub {
		return $node->safe_psql('postgres', "SELECT $_[0] FROM dess_batch_batches WHERE job_id = $job");
	};

	is(wait_for_job($node, $job), 'prepared', 'prepared');
	is($look->('requests, input_uri IS NULL, remote_id IS NULL'), '5|t|t', 'nothing has left the machine');
	is(join(' ', $simulator->objects), '', 'indeed');

	$node->safe_psql('postgres', "SELECT dess_batch_upload($job)");
	is(wait_for_job($node, $job), 'uploaded', 'uploaded');
	like($look->('input_uri'), qr{^gs://test-bucket/dess_batch/[^/]+/requests\.jsonl$}, 'the file is in the bucket');
	is(join(' ', map { "gs://test-bucket/$_" } $simulator->objects), $look->('input_uri'), 'and nothing else');
	is($simulator->get('stats')->{batches_created}, $before->{batches_created}, 'no job');

	$node->safe_psql('postgres', "SELECT dess_batch_create($job)");
	ok($node->poll_query_until('postgres',
		"SELECT remote_state = 'JOB_STATE_SUCCEEDED' FROM dess_batch_batches WHERE job_id = $job"), 'created, and run');
	is($node->safe_psql('postgres', "SELECT count(answer) FROM staged"), 0, 'nothing is merged');
	like($look->('remote_id'), qr{^projects/\d+/locations/us-central1/batchPredictionJobs/\d+$}, 'the job is known');
	like($node->safe_psql('postgres', "SELECT dess_batch_status($job)"), qr/^\w+$/, 'its state can be asked for');

	$node->safe_psql('postgres', "SELECT dess_batch_retrieve($job)");
	is(wait_for_job($node, $job), 'done', 'retrieved');
	like($look->('output_uri'), qr{^gs://test-bucket/dess_batch/[^/]+/results-[^/]+/prediction-model-[^/]+/predictions\.jsonl$},
		'from where the results lie');
	is($node->safe_psql('postgres', "SELECT count(*) FROM staged WHERE answer LIKE 'item' || id || ' %'"), 5, 'and merged');
	my $create = $simulator->get("requests?method=POST&path=$jobs")->{requests}[-1]{body};
	like($create, qr/"displayName"\s*:\s*"dess_batch job $job batch 1 /, 'the job has a name that tells whose it is');
	ok($node->poll_query_until('postgres',
		"SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job"), 'all is removed');
	is(join(' ', $simulator->objects), '', 'from the bucket too');
};
$simulator->stop;

# ---- what is refused at submit

subtest 'what cannot be said is refused at submit' => sub {
	$node->safe_psql('postgres', q{
		CREATE TABLE refused (id integer PRIMARY KEY, body text, answer text); INSERT INTO refused VALUES (1, 'x')});
	foreach my $case (
		[ q{parameters => '{"reasoning_effort": "none"}'}, 'gemini-2.5-pro', qr/"reasoning_effort" must not be none/ ],
		[ q{parameters => '{"reasoning_effort": "minimal"}'}, 'gemini-3.1-pro-preview', qr/"reasoning_effort" must not be minimal/ ],
		[ q{parameters => '{"temperature": "hot"}'}, 'gemini-3.5-flash', qr/temperature/ ],
		[ q{parameters => '{"extra": {"contents": []}}'}, 'gemini-3.5-flash', qr/contents/ ])
	{
		my ($arguments, $model, $words) = @$case;
		my ($status, $out, $err) = $node->psql('postgres',
			"SELECT dess_batch_submit('refused', '$model', '{body}', 'answer', server => 'vertex', $arguments)");
		isnt($status, 0, "$arguments with $model");
		like($err, $words, 'is refused in words');
	}
};

# ---- everything else

# A scenario at Vertex AI, in which every fault has to come true.
sub vertex
{
	my ($name, %options) = @_;
	my $check = $options{check};

	return scenario(
		$name,
		provider => 'vertex',
		%options,
		check => sub {
			my ($s) = @_;
			$check->($s);
			is(scalar(grep { $_->{fired} == 0 } @{ $s->{simulator}->get('faults') }), 0, 'every fault came true');
		});
}

# How often the kind of request came.
sub seen
{
	my ($s, $method, $path, $status) = @_;
	my $list = $s->{simulator}->get("requests?limit=20000&method=$method&path=$path")->{requests};
	return scalar grep { !defined $status || $_->{status} == $status } @$list;
}

sub row
{
	my ($n, $row, %more) = @_;
	return { match => { prompt => "item$n of" }, row => $row, times => 1, %more };
}

sub each_row
{
	my ($s, $what) = @_;
	return $s->look('rows', "string_agg(concat_ws(' ', row_key ->> 'id', $what), ', ' ORDER BY (row_key ->> 'id')::integer)");
}

# That nothing was bought twice: each row was answered once, by one job.
sub paid_once
{
	my ($s, $rows) = @_;
	is($s->stats->{rows_served}, $rows // $s->{rows}, 'nothing was bought twice');
	is($s->stats->{batches_created}, 1, 'one job');
	return;
}

vertex(
	'every kind of bad line',
	rows => 12,
	settings => { output_files => 4 },
	faults => [
		row(1, { outcome => 'duplicate' }),
		row(2, { outcome => 'missing' }),
		row(3, { outcome => 'unknown_custom_id' }),
		row(4, { outcome => 'http_error', status => 429 }),
		row(5, { outcome => 'http_error', status => 500 }),
		row(6, { outcome => 'blocked' }),
		row(7, { answer => { finish_reason => 'MAX_TOKENS' } }),
		row(8, { outcome => 'garbage' }),
		row(9, { outcome => 'http_error', status => 400, message => 'Unsupported value: temperature' }),
		row(10, { answer => { content => undef, content_kind => 'null' } }),
		row(11, { answer => { content => '', finish_reason => 'SAFETY' } })
	],
	check => sub {
		my ($s) = @_;
		is(each_row($s, 'outcome'),
			'1 ok, 2 ok, 3 ok, 4 ok, 5 ok, 6 refused, 7 truncated, 8 ok, 9 rejected, 10 ok, 11 refused, 12 ok', 'outcomes');
		is(each_row($s, 'attempts'), '1 1, 2 2, 3 2, 4 1, 5 2, 6 1, 7 1, 8 2, 9 1, 10 2, 11 1, 12 1',
			'what time may heal was sent again; a 429 was no attempt');
		$s->ended('done', 8, 4);
		is($s->sql("SELECT sum(unmatched), sum(duplicates) FROM dess_batch.batch WHERE job_id = $s->{job}"), '2|1', 'stray lines are counted');
		is($s->look('batches', "count(*) FILTER (WHERE error_code = 'stray_lines')"), 1, 'and shown');
		like($s->look('errors', q{string_agg(error, ' ')}), qr/Unsupported value: temperature/, 'a refusal has the provider\'s words');
		like($s->look('errors', q{string_agg(error_code, ' ')}), qr/PROHIBITED_CONTENT/, 'and its reason');
		is($s->sql("SELECT count(answer) FROM $s->{table} WHERE answer LIKE 'item' || id || ' %'"), 8,
			'every answer is in its row, and nothing else is');
		$s->cleaned;
	});

vertex(
	'equal requests',
	rows => 20,
	body => q{'item' || i % 4 || ' of many'},
	check => sub {
		my ($s) = @_;
		$s->ended('done', 20, 0);
		is($s->stats->{rows_served}, 4, 'are sent once');
		is($s->sql("SELECT count(*) FROM $s->{table} WHERE answer LIKE 'item' || id % 4 || ' %'"), 20, 'and answered for all');
	});

vertex(
	'a structured answer',
	rows => 3,
	arguments => q{parameters => '{"temperature": 0.2, "seed": 7, "max_output_tokens": 900, "reasoning_effort": "low", "extra": {"generationConfig": {"topK": 5}}}',
		system_prompt => 'Be brief.',
		response_schema => '{"type": "object", "properties": {"word": {"type": "string"}, "n": {"type": ["integer", "null"]}}, "required": ["word", "n"], "additionalProperties": false}',
		target_columns => '{"word": "answer"}'},
	check => sub {
		my ($s) = @_;
		$s->ended('done', 3, 0);
		is($s->sql("SELECT count(answer) FROM $s->{table}"), 3, 'is taken apart');
		my $line = $s->sql("SELECT request FROM dess_batch_show($s->{job}, '{\"id\": 1}')");
		like($line, qr/"responseSchema"\s*:\s*\{[^}]*"(STRING|OBJECT)"/i, 'the schema goes as responseSchema');
		like($line, qr/"responseMimeType"\s*:\s*"application\/json"/, 'with its type');
		like($line, qr/"temperature"\s*:\s*0\.2\b/, 'parameters go along');
		like($line, qr/"topK"\s*:\s*5\b/, 'also those that only Google knows');
		like($line, qr/"thinkingLevel"\s*:\s*"LOW"/, 'and how much to think');
		like($line, qr/"systemInstruction"/, 'and the system prompt');
	});

# ---- states

foreach my $state (qw(QUEUED PENDING RUNNING UPDATING PAUSED CANCELLING UNSPECIFIED BEING_REVIEWED))
{
	vertex(
		"state $state",
		rows => 2,
		faults => [ { batch => { show_state => "JOB_STATE_$state", show_ms => 700 } } ],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 2, 0);
			$s->all_answered;
			paid_once($s);
		});
}

vertex(
	'a job that succeeds in part',
	faults => [ { batch => { state => 'PARTIALLY_SUCCEEDED', fraction => 0.6 }, times => 1 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{rows_served}, 10, 'the rest is sent again, and nothing else');
		is($s->stats->{batches_created}, 2, 'in a second job');
	});

foreach my $state (qw(EXPIRED FAILED))
{
	foreach my $info ('absent', 'prefix', 'right')
	{
		vertex(
			"a job that ends $state, outputInfo $info",
			faults => [ { batch => { state => $state, fraction => 0.4,
				$info eq 'right' ? () : (output_info => $info) }, times => 1 } ],
			check => sub {
				my ($s) = @_;
				$s->ended('done', 10, 0);
				$s->all_answered;
				is($s->stats->{rows_served}, 10, 'what it had done counts, the rest is sent again');
				$s->cleaned;
			});
	}
}

vertex(
	'a job that expires without a result',
	faults => [ { batch => { state => 'EXPIRED' }, times => 1 } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'paused', 'pauses the job');
		is($s->stats->{batches_created}, 1, 'no other job was tried');
		$s->sql("SELECT dess_batch_resume($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'until it is resumed');
		$s->all_answered;
	});

vertex(
	'a job that is cancelled with a part done',
	faults => [ { batch => { stuck_at => 'RUNNING', fraction => 0.5 } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		wait_until('half of the job is done', sub { return $s->stats->{batch_rows_ok} == 5 });
		$s->until_true(
			"EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND state = 'running')", 'it runs');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the job is cancelled');
		is($s->stats->{batches_cancelled}, 1, 'at the provider too');
		is($s->ends, 'cancelled 5, ok 5', 'what was finished is merged');
		$s->cleaned;
	});

vertex(
	'results that come late, in a list with an empty page',
	faults => [
		{ batch => { result_missing_ms => 1500 } },
		{ match => { path => '/storage/v1/b/*' }, storage => { empty_page => TRUE }, times => 1 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
	});

# ---- lost replies

vertex(
	'the reply to create is lost',
	faults => [ { match => { method => 'POST', path => $jobs }, times => 1, lose_reply => TRUE } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
		is(seen($s, 'POST', $jobs), 1, 'that was asked for once');
	});

vertex(
	'create answers 503 and has done nothing',
	faults => [ { match => { method => 'POST', path => $jobs }, times => 1, status => 503 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		paid_once($s);
		is(seen($s, 'POST', $jobs), 2, 'that was asked for again');
		cmp_ok(seen($s, 'GET', $jobs), '>', 0, 'after a look for the first');
	});

vertex(
	'every kind of call fails once',
	faults => [
		{ match => { method => 'POST', path => '/token' }, times => 1, status => 503 },
		{ match => { method => 'POST', path => $folder }, times => 1, status => 503 },
		{ match => { method => 'GET', path => "$jobs/*" }, times => 1, status => 502, body => '<html>' },
		{ match => { method => 'GET', path => '/storage/*' }, times => 1, status => 500 },
		{ match => { method => 'DELETE', path => '/storage/*' }, times => 1, status => 500 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
		$s->cleaned;
	});

vertex(
	'downloads that break off',
	faults => [
		{ match => { method => 'GET', path => '/storage/v1/b/*/o/*predictions.jsonl' }, skip => 1, times => 1, drop_after => 900 },
		{ match => { method => 'GET', path => '/storage/v1/b/*/o/*predictions.jsonl' }, skip => 1, times => 1, truncate => 300 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
	});

# ---- uploads of more than one piece

my %large = (rows => 200, body => q{'item' || i || ' ' || repeat('of many ', 11000)});

sub uploaded_well
{
	my ($s) = @_;
	$s->ended('done', 200, 0);
	is($s->sql("SELECT count(*) FROM $s->{table} WHERE answer LIKE 'item' || id || ' %'"), 200, 'every row has its own answer');
	paid_once($s);
	cmp_ok(seen($s, 'PUT', $folder), '>', 1, 'the file went in pieces');
	return;
}

vertex(
	'tokens that live for four seconds',
	rows => 5,
	settings => { token_seconds => 4, run_ms => 5500 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 5, 0);
		$s->all_answered;
		paid_once($s);
		cmp_ok(seen($s, 'POST', '/token'), '>', 1, 'are fetched anew');
		is(seen($s, 'GET', "$jobs/*", 401), 0, 'before they end');
	});

vertex(
	'a token that is refused in the middle of an upload and of a poll',
	%large,
	faults => [
		{ match => { method => 'PUT', path => $folder }, skip => 1, times => 1, status => 401 },
		{ match => { method => 'GET', path => "$jobs/*" }, times => 1, status => 401 },
		{ match => { method => 'POST', path => $jobs }, times => 1, status => 401 }
	],
	check => sub {
		my ($s) = @_;
		uploaded_well($s);
		is(seen($s, 'POST', '/token'), 4, 'a new one is fetched each time');
		is(seen($s, 'POST', $folder), 1, 'in one session');
	});

vertex(
	'pieces that are stored in part, and one that breaks off',
	%large,
	faults => [
		{ match => { method => 'PUT', path => $folder }, storage => { persist => 1048576 }, times => 1 },
		{ match => { method => 'PUT', path => $folder }, skip => 1, times => 1, drop_upload_after => 2000000 }
	],
	check => sub {
		my ($s) = @_;
		uploaded_well($s);
		cmp_ok(seen($s, 'PUT', $folder, 308), '>', 0, 'where it was is asked and gone on from');
		is(seen($s, 'POST', $folder), 1, 'in one session');
	});

foreach my $status (404, 410)
{
	vertex(
		"a session that dies with $status",
		%large,
		faults => [ { match => { method => 'PUT', path => $folder }, storage => { die => $status }, skip => 1, times => 1 } ],
		check => sub {
			my ($s) = @_;
			uploaded_well($s);
			is(seen($s, 'POST', $folder), 2, 'in a second session');
		});
}

vertex(
	'the reply to the end of the upload is lost',
	faults => [ { match => { method => 'PUT', path => $folder }, times => 1, lose_reply => TRUE } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		paid_once($s);
		$s->cleaned;
	});

vertex(
	'an upload that had succeeded, as 412 says',
	faults => [
		{ match => { method => 'PUT', path => $folder }, times => 1, lose_reply => TRUE },
		{ match => { method => 'PUT', path => $folder }, times => 1, status => 410 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		paid_once($s);
		is(seen($s, 'POST', $folder, 412), 1, 'a second session is refused');
		is(seen($s, 'PUT', $folder), 2, 'and nothing is sent again');
		$s->cleaned;
	});

run_scenarios($node);
$node->stop;
done_testing();
