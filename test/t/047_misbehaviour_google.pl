# Everything that Vertex AI and the Gemini API were seen to do wrong and that other
# files do not show yet: test/README.md says which entry is shown where.  Built like
# 046_misbehaviour_openai.pl; what both services have in common runs at both.

use strict;
use warnings;

use DessBatch;
use DessBatch::Misbehaviour;
use DessBatch::Scenarios;
use Test::More;

# the worker is to be the same at the end, even if the machine is slow
my $node = start_node('misbehaviour_google', conf => "dess_batch.idle_timeout = '1h'");
my $mebibyte = 1024 * 1024;
my %online = (vertex => '/v1/projects/*:generateContent', gemini => '/v1beta/models/*:generateContent');
my %create = (vertex => '/v1/projects/*/batchPredictionJobs', gemini => '/v1beta/models/*:batchGenerateContent');
my %status = (vertex => '/v1/projects/*/batchPredictionJobs/*', gemini => '/v1beta/batches/*');
my %results = (vertex => '/storage/v1/b/*/o/*predictions.jsonl', gemini => '/download/*');

# An error as Google words it.
sub google
{
	my ($code, $status, $message, @details) = @_;
	return (status => $code, json => { error => { code => $code, message => $message, status => $status, @details ? (details => \@details) : () } });
}

my %retry_info = ('@type' => 'type.googleapis.com/google.rpc.RetryInfo', retryDelay => '0.3s');

sub ends
{
	my ($reason, $text, %more) = @_;
	return { json => { candidates => [ { finishReason => $reason, defined $text ? (content => { role => 'model', parts => [ { text => $text } ] }) : (), %more } ] } };
}

# ---- single requests

foreach my $provider ('vertex', 'gemini')
{
	answers(
		"statuses of single requests at $provider",
		provider => $provider,
		mode => 'online',
		path => $online{$provider},
		cases => [
			[ '400 INVALID_ARGUMENT', { google(400, 'INVALID_ARGUMENT', 'Request contains an invalid argument.') }, 'rejected', 1, 'INVALID_ARGUMENT', qr/^Request contains an invalid argument\.$/ ],
			[ '400 FAILED_PRECONDITION', { google(400, 'FAILED_PRECONDITION', 'User location is not supported') }, 'rejected', 1, 'FAILED_PRECONDITION', qr/^User location is not supported$/ ],
			[ '408', { status => 408, times => 1 }, 'ok', 2 ],
			[ '409 ABORTED', { google(409, 'ABORTED', 'Aborted'), times => 1 }, 'ok', 2 ],
			[ '409 ALREADY_EXISTS', { google(409, 'ALREADY_EXISTS', 'There already') }, 'rejected', 1, 'ALREADY_EXISTS', qr/^There already$/ ],
			[ '429 RESOURCE_EXHAUSTED', { google(429, 'RESOURCE_EXHAUSTED', 'Resource exhausted'), times => 3 }, 'ok', 1 ],
			[ '429 with RetryInfo', { google(429, 'RESOURCE_EXHAUSTED', 'You exceeded your current quota', \%retry_info), times => 2 }, 'ok', 1 ],
			[ '499', { google(499, 'CANCELLED', 'Cancelled'), times => 1 }, 'ok', 2 ],
			[ '500 for ever', { google(500, 'INTERNAL', 'Internal error encountered.') }, 'lost', 3, 'INTERNAL', qr/^Internal error encountered\.$/ ],
			[ '502 with a page', { status => 502, times => 1, body => '<html>Bad gateway', content_type => 'text/html' }, 'ok', 2 ],
			[ '503 UNAVAILABLE', { google(503, 'UNAVAILABLE', 'The model is overloaded.'), times => 1 }, 'ok', 2 ],
			[ '504 DEADLINE_EXCEEDED', { google(504, 'DEADLINE_EXCEEDED', 'Deadline'), times => 1 }, 'ok', 2 ],
			[ 'a redirect', { status => 302, headers => { Location => 'http://127.0.0.1:9/' } }, 'rejected', 1, undef, qr/redirect/ ],
			[ 'a dropped connection', { times => 1, drop => TRUE }, 'ok', 2 ],
			[ 'a reset in the middle of the body', { times => 1, drop_after => 60 }, 'ok', 2 ],
			[ 'a lost reply', { times => 1, lose_reply => 'reset' }, 'ok', 2 ]
		]);

	answers(
		"bodies of single requests at $provider",
		provider => $provider,
		mode => 'online',
		path => $online{$provider},
		cases => [
			[ '300 MB', { fill => { bytes => 300 * $mebibyte, byte => ' ' } }, 'rejected', 1, 'reply_too_large', qr/./ ],
			[ 'not JSON', { times => 1, body => 'OK', content_type => 'text/plain' }, 'ok', 2 ],
			[ 'cut JSON', { times => 1, truncate => 50 }, 'ok', 2 ],
			[ 'nothing', { times => 1, status => 200, body => '' }, 'ok', 2 ],
			[ '10,000 levels', { times => 1, repeat => { text => '{"a":[', count => 10000 } }, 'ok', 2 ],
			[ 'no candidates for ever', { json => { usageMetadata => { promptTokenCount => 3 } } }, 'lost', 3, 'no_candidates', qr/./ ],
			[ 'an empty list of candidates', { times => 1, json => { candidates => [] } }, 'ok', 2 ],
			[ 'a blocked prompt', { json => { promptFeedback => { blockReason => 'SAFETY' } } }, 'refused', 1, 'SAFETY', qr/blocked/ ],
			[ 'a prompt blocked otherwise', { json => { promptFeedback => { blockReason => 'JAILBREAK' } } }, 'refused', 1, 'JAILBREAK', qr/blocked/ ],
			[ 'no content', ends('STOP'), 'rejected', 3, 'no_answer', qr/no text/ ],
			[ 'content without parts', ends('STOP', undef, content => { role => 'model' }), 'rejected', 3, 'no_answer', qr/no text/ ],
			[ 'thoughts alone', ends('STOP', undef, content => { parts => [ { text => 'hm', thought => TRUE } ] }), 'rejected', 3, 'no_answer', qr/no text/ ],
			[ 'MAX_TOKENS with nothing', ends('MAX_TOKENS'), 'truncated', 1, 'MAX_TOKENS' ],
			[ 'MAX_TOKENS with a part', ends('MAX_TOKENS', 'half an'), 'truncated', 1, 'MAX_TOKENS' ],
			(map { [ $_, ends($_), 'refused', 1, $_ ] } qw(SAFETY RECITATION BLOCKLIST PROHIBITED_CONTENT SPII)),
			(map { [ $_, { %{ ends($_) }, times => 1 }, 'ok', 2 ] } qw(OTHER MALFORMED_RESPONSE)),
			(map { [ $_, ends($_), 'rejected', 1, $_ ] } qw(LANGUAGE MALFORMED_FUNCTION_CALL UNEXPECTED_TOOL_CALL SOMETHING_NEW)),
			[ 'a lone surrogate', { answer => { content_kind => 'lone_surrogate' } }, 'ok', 1 ],
			[ 'NUL', { answer => { content_kind => 'nul' } }, 'ok', 1 ],
			[ 'invalid UTF-8', { answer => { content_kind => 'invalid_utf8' } }, 'invalid', 1, '22021', qr{not valid UTF-8} ],
			[ 'U+2028', { answer => { content_kind => 'u2028' } }, 'ok', 1 ],
			[ 'parts', { answer => { content_kind => 'parts' } }, 'ok', 1 ],
			[ '3,000 characters', { answer => { content => 'x' x 3000 } }, 'ok', 1 ]
		]);

	# ---- lines of a batch

	answers(
		"lines of a batch at $provider",
		provider => $provider,
		cases => [
			[ '400', { row => { outcome => 'http_error', status => 400, message => 'Unsupported value' } }, 'rejected', 1, undef, qr/Unsupported value/ ],
			[ '429, which is no attempt', { times => 1, row => { outcome => 'http_error', status => 429 } }, 'ok', 1 ],
			[ '500', { times => 1, row => { outcome => 'http_error', status => 500 } }, 'ok', 2 ],
			[ '503', { times => 1, row => { outcome => 'http_error', status => 503 } }, 'ok', 2 ],
			[ '504 as a string', { times => 1, row => { outcome => 'string_error', status => 504, message => 'Deadline exceeded' } }, 'ok', 2 ],
			[ 'service agents that are not there yet', { times => 1, row => { outcome => 'http_error', status => 400, code => 'FAILED_PRECONDITION',
				message => 'Service agents are being provisioned. Please retry in a few minutes.' } }, 'ok', 2 ],
			[ 'no line for ever', { row => { outcome => 'missing' } }, 'lost', 3 ],
			[ 'another\'s line for ever', { row => { outcome => 'unknown_custom_id' } }, 'lost', 3 ],
			[ 'no JSON for ever', { row => { outcome => 'garbage' } }, 'lost', 3 ],
			[ 'two lines', { row => { outcome => 'duplicate' } }, 'ok', 1 ],
			[ 'a blocked prompt', { row => { outcome => 'blocked', code => 'BLOCKLIST' } }, 'refused', 1, 'BLOCKLIST' ],
			[ 'no candidates', { times => 1, row => { answer => { no_candidates => TRUE } } }, 'ok', 2 ],
			[ 'no parts', { row => { answer => { content_kind => 'null' } } }, 'rejected', 3, 'no_answer' ],
			[ 'MAX_TOKENS with nothing', { row => { answer => { content => '', finish_reason => 'MAX_TOKENS' } } }, 'truncated', 1 ],
			[ 'thoughts before the answer', { row => { answer => { thoughts => 'I look at it.' } } }, 'ok', 1 ],
			[ 'a lone surrogate', { row => { answer => { content_kind => 'lone_surrogate' } } }, 'ok', 1 ],
			[ 'NUL', { row => { answer => { content_kind => 'nul' } } }, 'ok', 1 ],
			[ 'invalid UTF-8', { row => { answer => { content_kind => 'invalid_utf8' } } }, 'invalid', 1, '22021', qr{not valid UTF-8} ],
			[ 'U+2028', { row => { answer => { content_kind => 'u2028' } } }, 'ok', 1 ],
			[ 'parts', { row => { answer => { content_kind => 'parts' } } }, 'ok', 1 ]
		]);

	# ---- what stops a job, after one certain answer

	refusals(
		"online at $provider",
		provider => $provider,
		mode => 'online',
		rows => 300,
		server => { max_concurrency => 32 },
		settings => { latency_ms => 100 },
		match => { path => $online{$provider} },
		cases => [
			[ '403', { skip => 150, google(403, 'PERMISSION_DENIED', 'Permission denied on resource project') }, 'PERMISSION_DENIED', qr/^Permission denied on resource project$/ ],
			[ 'billing', { skip => 150, google(403, 'PERMISSION_DENIED', 'Billing is off', { '@type' => 'type.googleapis.com/google.rpc.ErrorInfo', reason => 'BILLING_DISABLED' }) },
				'BILLING_DISABLED', qr/^Billing is off$/ ],
			[ 'a model that is gone', { skip => 150, google(404, 'NOT_FOUND', 'models/gemini-old is not found') }, 'NOT_FOUND', qr/^models\/gemini-old is not found$/ ]
		]);

	refusals(
		"create at $provider",
		provider => $provider,
		match => { method => 'POST', path => $create{$provider} },
		cases => [
			[ '400', { google(400, 'INVALID_ARGUMENT', 'Not like this') }, 'INVALID_ARGUMENT', qr/^Not like this$/ ],
			[ '400 FAILED_PRECONDITION', { google(400, 'FAILED_PRECONDITION', 'Not from there') }, 'FAILED_PRECONDITION', qr/^Not from there$/ ],
			[ '403', { google(403, 'PERMISSION_DENIED', 'Not allowed') }, 'PERMISSION_DENIED', qr/^Not allowed$/ ]
		]);

	# ---- what passes

	foreach my $case ([ 409, 'ABORTED' ], [ 429, 'RESOURCE_EXHAUSTED' ], [ 499, 'CANCELLED' ], [ 500, 'INTERNAL' ], [ 503, 'UNAVAILABLE' ], [ 504, 'DEADLINE_EXCEEDED' ])
	{
		my ($code, $name) = @$case;

		scenario(
			"create at $provider answers $code $name once",
			provider => $provider,
			faults => [ { match => { method => 'POST', path => $create{$provider} }, times => 1, google($code, $name, 'Not now', \%retry_info) } ],
			check => sub {
				my ($s) = @_;
				$s->ended('done', 10, 0);
				$s->all_answered;
				is(seen($s, 'POST', $create{$provider}), 2, 'it is asked for once more');
				is($s->stats->{batches_created}, 1, 'one batch');
				is($s->stats->{rows_served}, 10, 'nothing was bought twice');
				is($s->look('rows', 'DISTINCT attempts'), 1, 'and it was no attempt');
				$s->cleaned;
			});
	}

	scenario(
		"a batch at $provider that is not found now and then, and says what nobody knows",
		provider => $provider,
		faults => [
			{ match => { method => 'GET', path => $status{$provider} }, times => 2, google(404, 'NOT_FOUND', 'not found') },
			{ batch => { show_state => ($provider eq 'vertex' ? 'JOB' : 'BATCH') . '_STATE_BEING_REVIEWED', show_ms => 3000, unknown_counts => TRUE } }
		],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 10, 0);
			$s->all_answered;
			is($s->stats->{batches_created}, 1, 'is waited for');
			is($s->stats->{rows_served}, 10, 'nothing was bought twice');
		});

	foreach my $call ([ 'POST', $create{$provider} ], [ 'GET', $status{$provider} ], [ 'GET', $results{$provider} ])
	{
		my ($method, $path) = @$call;
		my %match = (match => { method => $method, path => $path }, times => 1);

		scenario(
			"what $method $path may answer instead",
			provider => $provider,
			faults => [
				{ %match, repeat => { text => '[', count => 10000 } },
				{ %match, body => '<html>Log in', content_type => 'text/html' },
				{ %match, google(503, 'UNAVAILABLE', 'later') },
				{ %match, drop_after => 10 }
			],
			check => sub {
				my ($s) = @_;
				$s->ended('done', 10, 0);
				$s->all_answered;
				is($s->stats->{batches_created}, 1, 'one batch');
				is($s->stats->{rows_served}, 10, 'nothing was bought twice');
				$s->cleaned;
			});
	}

	scenario(
		"a batch at $provider that fails for the shared pool's load",
		provider => $provider,
		faults => [ { batch => { state => 'FAILED', fraction => 0.4, partial => TRUE, code => 'RESOURCE_EXHAUSTED', message => 'Resource exhausted, please try again later' }, times => 3 } ],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 10, 0);
			$s->all_answered;
			is($s->stats->{rows_served}, 10, 'what it had done counts, the rest is sent again');
			is($s->stats->{batches_created}, 4, 'as often as it takes');
			is($s->look('rows', 'DISTINCT attempts'), 1, 'and it was no attempt');
			$s->cleaned;
		});

	scenario(
		"a batch at $provider that fails for good",
		provider => $provider,
		faults => [ { batch => { state => 'FAILED', code => 'INVALID_ARGUMENT', message => 'The input is not what it should be' } } ],
		check => sub {
			my ($s) = @_;
			is($s->{state}, 'failed', 'the job fails');
			is($s->look('jobs', "error_code || ': ' || error"), 'INVALID_ARGUMENT: The input is not what it should be', "with the provider's words");
			is($s->stats->{batches_created}, 1, 'after one certain answer');
			is($s->figures, 'failed 10 0 0 10', 'its rows wait for a retry');
			$s->cleaned;
		});
}

# ---- one of them alone

scenario(
	'a token that is refused online',
	provider => 'vertex',
	mode => 'online',
	rows => 40,
	faults => [ { match => { path => $online{vertex} }, skip => 10, times => 1, google(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials.') } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 40, 0);
		is($s->look('rows', 'DISTINCT attempts'), 1, 'is no attempt');
		is($s->stats->{access_tokens}{issued}{service_account} // seen($s, 'POST', '/token'), 2, 'a new one was fetched');
	});

scenario(
	'a token that is always refused online',
	provider => 'vertex',
	mode => 'online',
	rows => 40,
	server => { max_concurrency => 4 },
	faults => [ { match => { path => $online{vertex} }, google(401, 'UNAUTHENTICATED', 'Request had invalid authentication credentials.') } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->look('jobs', 'error_code'), 'UNAUTHENTICATED', 'for that reason');
		cmp_ok(seen($s, 'POST', $online{vertex}), '<=', 12, 'after each that was under way was tried with a new one');
	});

scenario(
	'a batch of the Gemini API that is cancelled',
	provider => 'gemini',
	faults => [ { batch => { stuck_at => 'RUNNING', fraction => 0.5 } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true("EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND state = 'running')", 'it runs');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the job is cancelled');
		is($s->stats->{batches_cancelled}, 1, 'at the provider too');
		is($s->ends, 'cancelled 10', 'nothing is left of it');
		$s->cleaned;
	});

my $pid;
run_scenarios($node, started => sub {
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), 'a worker works');
	$pid = worker_pid($node);
});
worker_unharmed($node, $pid);
$node->stop;
done_testing();
