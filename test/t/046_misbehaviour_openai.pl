# Everything that an OpenAI-like provider was seen to do wrong and that other files
# do not show yet: test/README.md says which entry is shown where.  Each table of
# answers, and each case of the other tables, is a job of its own; all run at the
# same time, in one worker that has to outlive them.

use strict;
use warnings;

use DessBatch;
use DessBatch::Misbehaviour;
use DessBatch::Scenarios;
use Test::More;

# the worker is to be the same at the end, even if the machine is slow
my $node = start_node('misbehaviour_openai', conf => "dess_batch.idle_timeout = '1h'");
my $chat = '/v1/chat/*';
my $mebibyte = 1024 * 1024;

sub message { return { json => { choices => [ { index => 0, message => $_[0], finish_reason => $_[1] } ] } }; }

# ---- what takes longest begins first

scenario(
	'all rows are done long before the batch is',
	faults => [ { batch => { finalize_ms => 4000 } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->look('batches', "count(*) = 1 AND min(finished_at - created_at) > interval '4 s'"), 't', 'is waited for');
		is($s->stats->{rows_served}, 10, 'and nothing is bought twice');
	});

scenario(
	'an input file that the batches\' side never finds',
	faults => [ { match => { method => 'POST', path => '/v1/batches' }, status => 404,
			error => { message => 'No such File object: file-x', type => 'invalid_request_error', param => 'input_file_id' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', 'error'), qr/No such File object/, "with the provider's words");
		cmp_ok($s->requests('POST /v1/batches'), '>=', 5, 'after several tries');
		is($s->figures, 'failed 10 0 0 10', 'its rows wait for a retry');
		$s->cleaned;
	});

scenario(
	'a byte a second',
	mode => 'online',
	rows => 6,
	server => { request_timeout => 1 },
	faults => [ { match => { path => $chat, prompt => 'item2 of' }, times => 1, trickle_ms => 700 } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'done', 'is given up in the end');
		is($s->look('rows', q{min(finished_at) FILTER (WHERE row_key ->> 'id' = '2') - max(finished_at) FILTER (WHERE row_key ->> 'id' <> '2') > interval '10 s'}),
			't', 'the other rows have not waited for it');
		$s->ended('done', 6, 0);
		$s->all_answered;
		is($s->look('rows', q{string_agg(attempts::text, '' ORDER BY (row_key ->> 'id')::integer)}), '121111', 'and asked for again');
	});

# ---- single requests: statuses, codes, bodies, answers

answers(
	'statuses of single requests',
	mode => 'online',
	path => $chat,
	cases => [
		[ '400 unsupported_value', { status => 400, error => { message => 'Unsupported value: temperature', type => 'invalid_request_error', param => 'temperature', code => 'unsupported_value' } },
			'rejected', 1, 'unsupported_value', qr/^Unsupported value: temperature$/ ],
		[ '400 context_length_exceeded', { status => 400, error => { message => 'Too long', code => 'context_length_exceeded' } },
			'rejected', 1, 'context_length_exceeded', qr/^Too long$/ ],
		[ '400 by a content filter', { status => 400, error => { message => 'Filtered', code => 'content_filter' } }, 'refused', 1, 'content_filter', qr/^Filtered$/ ],
		[ '408', { status => 408, times => 1 }, 'ok', 2 ],
		[ '409', { status => 409, times => 1, error => { message => 'Conflict', type => 'conflict_error' } }, 'ok', 2 ],
		[ '413', { status => 413, error => { message => 'Too large', type => 'invalid_request_error' } }, 'rejected', 1, undef, qr/^Too large$/ ],
		[ '422', { status => 422, error => { message => 'Unprocessable', type => 'invalid_request_error' } }, 'rejected', 1, undef, qr/^Unprocessable$/ ],
		[ '425', { status => 425, times => 1 }, 'ok', 2 ],
		[ '429 rate_limit_exceeded', { status => 429, times => 3, error => { message => 'Rate limit reached', code => 'rate_limit_exceeded' } }, 'ok', 1 ],
		[ '500 for ever', { status => 500, error => { message => 'The server had an error', type => 'server_error' } }, 'lost', 3, 'server_error', qr/^The server had an error$/ ],
		[ '502 with a page', { status => 502, times => 1, body => '<html><h1>Bad gateway</h1></html>', content_type => 'text/html' }, 'ok', 2 ],
		[ '503 while loading, a number for a code', { status => 503, times => 2, json => { error => { code => 503, message => 'Loading model', type => 'unavailable_error' } } }, 'ok', 3 ],
		[ '504', { status => 504, times => 1, body => '' }, 'ok', 2 ],
		[ '529 overloaded', { status => 529, times => 1, error => { type => 'overloaded_error', message => 'Overloaded' } }, 'ok', 2 ],
		[ '500 that says that it is final', { status => 500, headers => { 'x-should-retry' => 'false' }, error => { message => 'Never' } }, 'rejected', 1, undef, qr/^Never$/ ],
		[ '400 that says that it is not', { status => 400, times => 1, headers => { 'x-should-retry' => 'true' } }, 'ok', 2 ],
		[ 'a redirect', { status => 307, headers => { Location => 'http://127.0.0.1:9/' } }, 'rejected', 1, '307', qr/redirect/ ],
		[ 'a dropped connection', { times => 1, drop => TRUE }, 'ok', 2 ],
		[ 'a reset', { times => 1, drop => 'reset' }, 'ok', 2 ],
		[ 'a reset in the middle of the body', { times => 1, drop_after => 60 }, 'ok', 2 ],
		[ 'a lost reply', { times => 1, lose_reply => 'reset' }, 'ok', 2 ]
	]);

answers(
	'bodies of single requests',
	mode => 'online',
	path => $chat,
	cases => [
		[ '300 MB', { fill => { bytes => 300 * $mebibyte, byte => ' ' } }, 'rejected', 1, 'reply_too_large', qr/./ ],
		[ 'not JSON', { times => 1, body => 'OK', content_type => 'text/plain' }, 'ok', 2 ],
		[ 'cut JSON', { times => 1, truncate => 50 }, 'ok', 2 ],
		[ 'nothing', { times => 1, status => 200, body => '' }, 'ok', 2 ],
		[ '204', { times => 1, status => 204 }, 'ok', 2 ],
		[ '10,000 levels', { times => 1, repeat => { text => '{"a":[', count => 10000 } }, 'ok', 2 ],
		[ 'an error under 200', { times => 1, status => 200, json => { error => { message => 'late', code => 'server_error' } } }, 'ok', 2 ],
		[ 'no choices for ever', { json => { choices => [] } }, 'lost', 3, 'bad_reply', qr/./ ],
		[ 'a choice that is null', { times => 1, json => { choices => [undef] } }, 'ok', 2 ],
		[ 'a refusal', message({ role => 'assistant', content => undef, refusal => 'I cannot help' }, 'stop'), 'refused', 1, 'refusal', qr/^I cannot help$/ ],
		[ 'length with nothing', message({ content => '' }, 'length'), 'truncated', 1 ],
		[ 'length with null', message({ content => undef }, 'length'), 'truncated', 1 ],
		[ 'length with a part', message({ content => 'half an' }, 'length'), 'truncated', 1 ],
		[ 'a content filter', message({ content => 'half' }, 'content_filter'), 'refused', 1, 'content_filter' ],
		[ 'a tool call', message({ content => undef, tool_calls => [] }, 'tool_calls'), 'rejected', 1, 'tool_calls' ],
		[ 'a lone surrogate', { answer => { content_kind => 'lone_surrogate' } }, 'ok', 1 ],
		[ 'NUL', { answer => { content_kind => 'nul' } }, 'ok', 1 ],
		[ 'invalid UTF-8', { answer => { content_kind => 'invalid_utf8' } }, 'invalid', 1, '22021', qr{not valid UTF-8} ],
		[ 'U+2028', { answer => { content_kind => 'u2028' } }, 'ok', 1 ],
		[ 'parts', { answer => { content_kind => 'parts' } }, 'ok', 1 ],
		[ '3,000 characters', { answer => { content => 'x' x 3000 } }, 'ok', 1 ],
		[ 'a megabyte', { json => { choices => [ { message => { content => 'x' x $mebibyte } } ] } }, 'ok', 1 ]
	]);

sub response
{
	my ($output, %more) = @_;
	return { json => { id => 'resp_1', object => 'response', status => 'completed', output => $output, %more } };
}

answers(
	'the endpoint responses',
	mode => 'online',
	path => '/v1/responses',
	server => { endpoint => 'responses' },
	cases => [
		[ 'a refusal', response([ { type => 'message', content => [ { type => 'refusal', refusal => 'No' } ] } ]), 'refused', 1, 'refusal', qr/^No$/ ],
		[ 'cut at the limit', response([], status => 'incomplete', incomplete_details => { reason => 'max_output_tokens' }), 'truncated', 1 ],
		[ 'filtered', response([], status => 'incomplete', incomplete_details => { reason => 'content_filter' }), 'refused', 1, 'content_filter' ],
		[ 'failed for a while', { %{ response([], status => 'failed', error => { code => 'server_error', message => 'oops' }) }, times => 1 }, 'ok', 2 ],
		[ 'only thoughts', { %{ response([ { type => 'reasoning', summary => [] } ]) }, times => 1 }, 'ok', 2 ],
		[ 'not finished', { %{ response([], status => 'in_progress') }, times => 1 }, 'ok', 2 ],
		[ 'no output', { %{ response(undef) }, times => 1 }, 'ok', 2 ],
		[ '500', { status => 500, times => 1 }, 'ok', 2 ]
	]);

# ---- lines of a batch

my %overload = (message => 'Overloaded', type => 'overloaded_error');

answers(
	'lines of a batch',
	cases => [
		[ '400 in the error file', { row => { outcome => 'http_error', status => 400, code => 'unsupported_parameter', message => 'Use max_completion_tokens' } },
			'rejected', 1, 'unsupported_parameter', qr/^Use max_completion_tokens$/ ],
		[ '400 in the output file', { row => { outcome => 'http_error_in_output', status => 400, message => 'no' } }, 'rejected', 1, undef, qr/^no$/ ],
		[ '404 for a model', { row => { outcome => 'http_error', status => 404, code => 'model_not_found', message => 'gone' } }, 'rejected', 1, 'model_not_found', qr/^gone$/ ],
		[ '408', { times => 1, row => { outcome => 'http_error', status => 408 } }, 'ok', 2 ],
		[ '409', { times => 1, row => { outcome => 'http_error', status => 409 } }, 'ok', 2 ],
		[ '422', { row => { outcome => 'http_error', status => 422, message => 'no' } }, 'rejected', 1 ],
		[ '429, which is no attempt', { times => 1, row => { outcome => 'http_error', status => 429, code => 'rate_limit_exceeded', message => 'slow' } }, 'ok', 1 ],
		[ '500', { times => 1, row => { outcome => 'http_error', status => 500 } }, 'ok', 2 ],
		[ '503', { times => 1, row => { outcome => 'http_error', status => 503 } }, 'ok', 2 ],
		[ '529', { times => 1, row => { outcome => 'http_error', status => 529 } }, 'ok', 2 ],
		[ 'status 0', { times => 1, row => { outcome => 'status_zero' } }, 'ok', 2 ],
		[ 'an error that is a string', { times => 1, row => { outcome => 'string_error' } }, 'ok', 2 ],
		[ 'an error object that heals', { times => 1, row => { outcome => 'error_object', code => 'server_error', message => 'once' } }, 'ok', 2 ],
		[ 'an error object that does not', { row => { outcome => 'error_object', code => 'invalid_prompt_template', message => 'never' } }, 'rejected', 1, 'invalid_prompt_template', qr/^never$/ ],
		[ 'no line for ever', { row => { outcome => 'missing' } }, 'lost', 3 ],
		[ 'another\'s id for ever', { row => { outcome => 'unknown_custom_id' } }, 'lost', 3 ],
		[ 'no JSON for ever', { row => { outcome => 'garbage' } }, 'lost', 3 ],
		[ 'two lines', { row => { outcome => 'duplicate' } }, 'ok', 1 ],
		[ 'a refusal', { row => { answer => { content => undef, refusal => 'I cannot' } } }, 'refused', 1, 'refusal', qr/^I cannot$/ ],
		[ 'length with nothing', { row => { answer => { content => '', finish_reason => 'length' } } }, 'truncated', 1 ],
		[ 'a content filter', { row => { answer => { content_kind => 'null', finish_reason => 'content_filter' } } }, 'refused', 1 ],
		[ 'a lone surrogate', { row => { answer => { content_kind => 'lone_surrogate' } } }, 'ok', 1 ],
		[ 'invalid UTF-8', { row => { answer => { content_kind => 'invalid_utf8' } } }, 'invalid', 1, '22021', qr{not valid UTF-8} ]
	]);

# ---- answers to the built-in question

my @departments = (
	[ '"History"', 'History' ], [ "'History'", 'History' ], [ '**History**', 'History' ], [ "```\nHistory\n```", 'History' ],
	[ "```json\n\"History\"\n```", 'History' ], [ '# History', 'History' ], [ 'History.', 'History' ], [ "  History \n", 'History' ],
	[ 'MISSING', 'MISSING' ], [ 'N/A', 'MISSING' ], [ 'None', 'MISSING' ], [ 'unknown.', 'MISSING' ], [ '', 'MISSING' ]);
my @wordy = ('The person is a professor in the department that the text calls History, I think, but it is not certain.', 'word ' x 600);

scenario(
	'answers in quotes, fences, Markdown, sentences and 3,000 characters',
	rows => @departments + @wordy,
	faults => [ map { { match => { prompt => "person$_ of" },
			row => { answer => { content => $_ <= @departments ? $departments[ $_ - 1 ][0] : $wordy[ $_ - 1 - @departments ] } } } } 1 .. @departments + @wordy ],
	check => sub {
		my ($s) = @_;
		$s->sql(qq{
			CREATE TABLE people (id integer PRIMARY KEY, lastname text, university text, snippet_1 text, department_llm text);
			INSERT INTO people SELECT i, 'person' || i || ' of many', 'Somewhere', 'a text about person' || i
			FROM generate_series(1, $s->{rows}) i});
		my $job = submit_job($node, "'people', 'gpt-4o-mini', server => '$s->{server_name}'");
		is(wait_for_job($node, $job), 'done', 'the job ends');
		foreach my $n (1 .. @departments)
		{
			is($s->sql("SELECT department_llm FROM people WHERE id = $n"), $departments[ $n - 1 ][1], "answered with $departments[$n - 1][0]");
		}
		foreach my $n (@departments + 1 .. @departments + @wordy)
		{
			like($s->sql("SELECT coalesce(p.department_llm, r.outcome) FROM people p JOIN dess_batch_rows r ON r.job_id = $job AND (r.row_key ->> 'id')::integer = p.id WHERE p.id = $n"),
				qr/^(invalid|History)$/, 'a sentence is no department');
		}
	});

# ---- what stops a job, after one certain answer

refusals(
	'online',
	mode => 'online',
	rows => 600,
	server => { max_concurrency => 64 },
	settings => { latency_ms => 150 },
	match => { path => $chat },
	cases => [
		[ 'no quota left', { skip => 400, status => 429, headers => { 'Retry-After' => '1' },
				error => { message => 'You exceeded your current quota', type => 'insufficient_quota', code => 'insufficient_quota' } },
			'insufficient_quota', qr/^You exceeded your current quota$/ ],
		[ 'quota in the type alone', { skip => 400, status => 429, error => { message => 'No money', type => 'insufficient_quota', code => undef } },
			'insufficient_quota', qr/^No money$/ ],
		[ 'a key that was revoked', { skip => 400, status => 401, error => { message => 'Incorrect API key provided', code => 'invalid_api_key' } },
			'invalid_api_key', qr/^Incorrect API key provided$/ ],
		[ 'a country', { skip => 400, status => 403, error => { message => 'Country not supported', code => 'unsupported_country_region_territory' } },
			'unsupported_country_region_territory', qr/^Country not supported$/ ],
		[ 'a bill', { skip => 400, status => 402, error => { message => 'Payment required', type => 'billing_error' } }, 'billing_error', qr/^Payment required$/ ],
		[ 'a model that is gone', { skip => 400, status => 404, error => { message => 'The model does not exist', code => 'model_not_found' } },
			'model_not_found', qr/^The model does not exist$/ ]
	]);

refusals(
	'create',
	match => { method => 'POST', path => '/v1/batches' },
	cases => [
		[ '400', { status => 400, error => { message => 'Duplicate custom_id', code => 'duplicate_custom_id' } }, 'duplicate_custom_id', qr/^Duplicate custom_id$/ ],
		[ '401', { status => 401, error => { message => 'Incorrect API key provided', code => 'invalid_api_key' } }, 'invalid_api_key', qr/^Incorrect API key provided$/ ],
		[ '403', { status => 403, error => { message => 'Not allowed', code => 'request_forbidden' } }, 'request_forbidden', qr/^Not allowed$/ ],
		[ '422', { status => 422, error => { message => 'Unprocessable', type => 'invalid_request_error' } }, 'invalid_request_error', qr/^Unprocessable$/ ],
		[ '429 insufficient_quota', { status => 429, error => { message => 'You exceeded your current quota', code => 'insufficient_quota' } },
			'insufficient_quota', qr/^You exceeded your current quota$/ ]
	]);

refusals(
	'validation',
	match => { path => '*' },
	cases => [
		map { [ $_, { batch => { state => 'failed', code => $_, message => "words about $_", line => 2 } }, $_, qr/^line 2: words about $_$/ ] }
		  qw(url_mismatch model_not_found mismatched_model duplicate_custom_id empty_file invalid_request input_modified
		  input_no_permissions billing_hard_limit_reached something_new) ]);

# ---- what passes

foreach my $status (408, 409, 429, 500, 502, 503, 529)
{
	scenario(
		"create answers $status once",
		faults => [ { match => { method => 'POST', path => '/v1/batches' }, status => $status, times => 1, headers => { 'retry-after-ms' => '200' } } ],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 10, 0);
			$s->all_answered;
			is($s->stats->{batches_created}, 1, 'one batch');
			is($s->stats->{rows_served}, 10, 'nothing was bought twice');
			is($s->look('rows', 'DISTINCT attempts'), 1, 'and it was no attempt');
			$s->cleaned;
		});
}

scenario(
	'more rows in a file than the provider takes',
	rows => 12,
	faults => [ { times => 1, batch => { state => 'failed', code => 'too_many_tasks', message => 'The input file has more than the maximum' } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 12, 0);
		$s->all_answered;
		cmp_ok($s->stats->{batches_created}, '>=', 3, 'they go in smaller ones');
		is($s->look('rows', 'DISTINCT attempts'), 1, 'and it was no attempt');
		$s->cleaned;
	});

foreach my $call ([ 'POST', '/v1/files' ], [ 'POST', '/v1/batches' ], [ 'GET', '/v1/batches/*' ], [ 'GET', '/v1/files/*/content' ])
{
	my ($method, $path) = @$call;
	my %match = (match => { method => $method, path => $path }, times => 1);

	scenario(
		"what $method $path may answer instead",
		# in their order: too much, nothing that makes sense, and nothing at all
		faults => [
			# (a result file may be that large)
			{ %match, fill => { bytes => ($path =~ /content/ ? 10 : 300) * $mebibyte, byte => ' ' } },
			{ %match, repeat => { text => '[', count => 10000 } },
			{ %match, status => 529, error => {%overload} },
			{ %match, drop_after => 10 }
		],
		check => sub {
			my ($s) = @_;
			if ($path eq '/v1/files' || $path eq '/v1/batches')
			{
				# what is too large is not asked for again by itself, for it may be paid
				$s->sql("SELECT dess_batch_retry($s->{job})") if $s->{state} eq 'failed';
				is(wait_for_job($node, $s->{job}), 'done', 'the job ends');
			}
			$s->ended('done', 10, 0);
			$s->all_answered;
			is($s->stats->{batches_created}, 1, 'one batch');
			is($s->stats->{rows_served}, 10, 'nothing was bought twice');
			$s->cleaned;
		});
}

scenario(
	'a server that shows no files, lists in another shape and calls its states otherwise',
	faults => [
		{ match => { method => 'GET', path => '/v1/files/*' }, skip => 0, times => 1, status => 405 },
		{ batch => { show_state => 'In_Progress', show_ms => 900, no_counts => TRUE, no_usage => TRUE, zero_byte_error_file => TRUE } }
	],
	settings => { file_ms => 500 },
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'done', 'the job ends');
		$s->all_answered;
		is($s->look('batches', 'count(*)'), 1, 'in one batch');
	});

my $pid;
run_scenarios($node, started => sub {
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), 'a worker works');
	$pid = worker_pid($node);
});
worker_unharmed($node, $pid);
$node->stop;
done_testing();
