# The Gemini API: files and batches behind one key.  First the faculty table in
# both modes, then what can go wrong, each case as a job of its own beside the
# others.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use JSON::PP;
use Test::More;

my $node = start_node('gemini', conf => 'dess_batch.idle_timeout = 1s');
my $create = '/v1beta/models/*';
my $uploads = '/upload/v1beta/files';

# The key of every request stands in its header and nowhere else.
sub key_only_in_header
{
	my ($simulator) = @_;
	my @requests = @{ $simulator->get('requests?limit=20000')->{requests} };
	my $tail = substr($simulator->key, -4);
	my $key = $simulator->key;

	cmp_ok(scalar @requests, '>', 3, 'there are requests');
	is(scalar(grep { ($_->{query} // '') =~ /key=|\Q$key\E/ || $_->{path} =~ /\Q$key\E/ } @requests), 0,
		'no address holds the key');
	is(scalar(grep { JSON::PP->new->encode($_->{headers}) !~ /"x-goog-api-key":"[^"]*\Q$tail\E"/i } @requests), 0,
		'every header does');
	return;
}

# ---- the faculty table

my $simulator = start_simulator(batch_ms => 50);
my $expected = source_file('test/data/faculty_expected.csv');

$node->safe_psql(
	'postgres', qq{
	CREATE TABLE expected (id integer PRIMARY KEY, department text, shape text);
	COPY expected FROM '$expected' WITH (FORMAT csv, HEADER);});
create_faculty($node);
create_server($node, $simulator, name => 'gemini', provider => 'gemini');

foreach my $mode ('batch', 'online')
{
	subtest "the faculty table, $mode" => sub {
		my $before = $simulator->get('stats');
		my $arguments = "'faculty', 'gemini-3.5-flash', mode => '$mode', server => 'gemini'";

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
		my ($now, $then) = ($after->{providers}{gemini}, $before->{providers}{gemini});
		my $answered = $after->{rows_served} - $before->{rows_served};
		cmp_ok($answered, '<=', 205, "equal rows are sent once ($answered requests)");
		my $spent = join '|', $answered,
		  map { $now->{tokens}{$mode}{$_} - $then->{tokens}{$mode}{$_} } qw(input cached output reasoning);
		is($node->safe_psql('postgres',
			"SELECT requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens FROM dess_batch_jobs WHERE job_id = $job"),
			$spent, 'the tokens of the job are those that were handed out');

		if ($mode eq 'batch')
		{
			is($node->safe_psql('postgres', qq{
				SELECT count(*), bool_and(remote_id ~ '^batches/'), bool_and(input_uri ~ '^files/'), bool_and(output_uri ~ '^files/')
				FROM dess_batch_batches WHERE job_id = $job}),
				'1|t|t|t', 'what stands at the provider can be seen');
			ok($node->poll_query_until('postgres',
				"SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job"),
				'and is marked as removed');
		}
		is($simulator->gemini_files, 0, 'no file is left');

		my $again = submit_job($node, $arguments);
		is(wait_for_job($node, $again), 'done', 'submitted once more');
		is(job_figures($node, $again), 'done 0 0 0 0', 'it finds no row');
		is($simulator->get('stats')->{rows_served}, $after->{rows_served}, 'and pays for nothing');
	};
}
key_only_in_header($simulator);
$simulator->stop;

# ---- everything else

# A scenario at the Gemini API, in which every fault has to come true.
sub gemini
{
	my ($name, %options) = @_;
	my $check = $options{check};

	return scenario(
		$name,
		provider => 'gemini',
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

# That nothing was bought twice: each row was answered once, by one batch.
sub paid_once
{
	my ($s) = @_;
	is($s->stats->{rows_served}, $s->{rows}, 'nothing was bought twice');
	is($s->stats->{batches_created}, 1, 'one batch');
	return;
}

gemini(
	'every kind of bad line',
	rows => 13,
	faults => [
		row(1, { outcome => 'duplicate' }),
		row(2, { outcome => 'missing' }),
		row(3, { outcome => 'unknown_custom_id' }),
		row(4, { outcome => 'http_error', status => 429 }),
		row(5, { outcome => 'error_object', status => 500 }),
		row(6, { outcome => 'blocked' }),
		row(7, { answer => { finish_reason => 'MAX_TOKENS' } }),
		row(8, { outcome => 'garbage' }),
		row(9, { outcome => 'error_object', status => 400, message => 'Unsupported value: temperature' }),
		row(10, { outcome => 'status_object', status => 400, message => 'Request contains an invalid argument.' }),
		row(11, { answer => { content => '', finish_reason => 'SAFETY' } }),
		row(12, { outcome => 'status_object', status => 503 })
	],
	check => sub {
		my ($s) = @_;
		is(each_row($s, 'outcome'),
			'1 ok, 2 ok, 3 ok, 4 ok, 5 ok, 6 refused, 7 truncated, 8 ok, 9 rejected, 10 rejected, 11 refused, 12 ok, 13 ok', 'outcomes');
		is(each_row($s, 'attempts'), '1 1, 2 2, 3 2, 4 1, 5 2, 6 1, 7 1, 8 2, 9 1, 10 1, 11 1, 12 2, 13 1',
			'what time may heal was sent again; a 429 was no attempt');
		$s->ended('done', 8, 5);
		is($s->sql("SELECT sum(unmatched), sum(duplicates) FROM dess_batch.batch WHERE job_id = $s->{job}"), '2|1', 'stray lines are counted');
		like($s->look('errors', q{string_agg(error, ' ')}), qr/Unsupported value: temperature/, 'a refusal has the provider\'s words');
		like($s->look('errors', q{string_agg(error_code, ' ')}), qr/PROHIBITED_CONTENT/, 'and its reason');
		is($s->sql("SELECT count(answer) FROM $s->{table} WHERE answer LIKE 'item' || id || ' %'"), 8, 'every answer is in its row');
		$s->cleaned;
	});

gemini(
	'a file that is not ready at first',
	settings => { file_ms => 1500 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		paid_once($s);
		is(seen($s, 'POST', $create), 1, 'it is used when it is ready');
		key_only_in_header($s->{simulator});
		$s->cleaned;
	});

gemini(
	'a file that the provider cannot process',
	faults => [ { file => { status => 'error' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->look('jobs', 'error_code'), 'file_error', 'for that reason');
		is($s->stats->{batches_created}, 0, 'nothing is created');
	});

foreach my $names (0, 1)
{
	gemini(
		'states are called ' . ($names ? 'JOB_STATE_*' : 'BATCH_STATE_*'),
		settings => { gemini_job_names => $names },
		check => sub {
			my ($s) = @_;
			$s->ended('done', 10, 0);
			paid_once($s);
			is($s->look('batches', 'remote_state'), ($names ? 'JOB' : 'BATCH') . '_STATE_SUCCEEDED', 'as shown');
		});
}

foreach my $at ('response', 'metadata')
{
	gemini(
		"results are named by $at alone",
		faults => [ { batch => { output_at => $at } } ],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 10, 0);
			$s->all_answered;
			paid_once($s);
		});
}

gemini(
	'the first download path is not known',
	faults => [ { match => { path => '/download/*' }, status => 404 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
		cmp_ok(seen($s, 'GET', '/v1beta/files/*', 200), '>', 0, 'the second is');
		key_only_in_header($s->{simulator});
	});

gemini(
	'the download breaks off',
	faults => [ { match => { path => '/download/*' }, times => 1, drop_after => 700 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
	});

gemini(
	'results that come late',
	faults => [ { batch => { result_missing_ms => 1500 } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
	});

gemini(
	'a batch that expires, of which nothing is left',
	faults => [ { batch => { state => 'EXPIRED', fraction => 0.5 }, times => 1 } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'paused', 'pauses the job');
		is($s->stats->{batches_created}, 1, 'no other batch was tried');
		$s->sql("SELECT dess_batch_resume($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'until it is resumed');
		$s->all_answered;
	});

gemini(
	'a batch that fails for a reason that passes',
	faults => [ { batch => { state => 'FAILED', fraction => 0.4, partial => TRUE }, times => 1 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{batches_created}, 2, 'is followed by another');
	});

gemini(
	'the quota is used up when the batch is to be created',
	faults => [ { match => { method => 'POST', path => $create }, times => 1, status => 429, headers => { 'retry-after' => '1' } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		paid_once($s);
		is(seen($s, 'POST', $create), 2, 'it is a delay');
		is($s->look('rows', 'DISTINCT attempts'), 1, 'and no attempt');
	});

gemini(
	'the reply to create is lost',
	faults => [ { match => { method => 'POST', path => $create }, times => 1, lose_reply => TRUE } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
	});

gemini(
	'every kind of call fails once',
	faults => [
		{ match => { method => 'POST', path => $uploads }, times => 1, status => 503 },
		{ match => { method => 'GET', path => '/v1beta/batches/*' }, times => 1, status => 502, body => '<html>' },
		{ match => { method => 'GET', path => '/download/*' }, times => 1, status => 500 },
		{ match => { method => 'DELETE', path => '/v1beta/*' }, times => 1, status => 500 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		paid_once($s);
		$s->cleaned;
	});

gemini(
	'an upload in pieces, one of which breaks off',
	rows => 200,
	body => q{'item' || i || ' ' || repeat('of many ', 11000)},
	faults => [ { match => { method => 'POST', path => $uploads }, skip => 1, times => 1, drop_upload_after => 2000000 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 200, 0);
		is($s->sql("SELECT count(*) FROM $s->{table} WHERE answer LIKE 'item' || id || ' %'"), 200, 'every row has its own answer');
		paid_once($s);
	});

gemini(
	'an upload whose session dies',
	faults => [ { match => { method => 'POST', path => $uploads }, storage => { die => 410 }, times => 1 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		paid_once($s);
		$s->cleaned;
	});

gemini(
	'a key that the provider does not know',
	key => 'another-key-of-mine',
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', "error_code || ': ' || error"), qr/^API_KEY_INVALID: .*API key not valid/, 'with the provider\'s words');
		unlike($s->look('jobs', 'error'), qr/another-key/, 'and without the key');
		is($s->stats->{batches_created}, 0, 'nothing was created');
	});

gemini(
	'the same, online',
	key => 'another-key-of-mine',
	mode => 'online',
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', 'error'), qr/API key not valid/, 'with the provider\'s words');
		is($s->stats->{rows_served}, 0, 'nothing was answered');
	});

gemini(
	'more rows than a batch takes',
	rows => 10050,
	body => q{'item' || i || ' of many'},
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10050, 0);
		is($s->look('batches', q{string_agg(requests::text, ' ' ORDER BY batch_no)}), '10000 50', 'batches are small by default');
		is($s->stats->{rows_served}, 10050, 'nothing was bought twice');
	});

run_scenarios($node);
$node->stop;
done_testing();
