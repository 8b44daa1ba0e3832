# How a batch service can misbehave as a whole: sizes it does not take, states,
# replies that are lost, refusals.  Each case is a job of its own, and all run
# at the same time.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use Test::More;

my $node = start_node('service');

# ---- what has to be watched

scenario(
	'batches are cut by number',
	rows => 25,
	server => { max_batch_requests => 10, max_active_batches => 2 },
	settings => { run_ms => 600000 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		my $states = "SELECT string_agg(state, ' ' ORDER BY state) FROM dess_batch_batches WHERE job_id = $s->{job}";
		$s->until_true("($states) = 'prepared running running'", 'two at a time, as max_active_batches says');
		my $polls = $s->requests('GET /v1/batches/{id}');
		$s->sql("SELECT dess_batch_status($s->{job})");
		wait_until('both are looked at', sub { return $s->requests('GET /v1/batches/{id}') >= $polls + 2 });
		is($s->stats->{batches_created}, 2, 'the third waits');
		$s->{simulator}->post('settings', { run_ms => 30 });
		$s->sql("SELECT dess_batch_status($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'the job ends');
		$s->ended('done', 25, 0);
		$s->all_answered;
		is($s->look('batches', q{string_agg(requests::text, ' ' ORDER BY requests DESC)}), '10 10 5', 'into three');
		is($s->stats->{batches_created}, 3, 'which are created');
	});

# ---- what waits for long, beside the rest

scenario(
	'the reply to create is lost',
	faults => [ { match => { method => 'POST', path => '/v1/batches' }, times => 1, lose_reply => TRUE } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		is(wait_for_job($node, $s->{job}), 'done', 'the job goes on');
		$s->all_answered;
		is($s->stats->{batches_created}, 1, 'with one batch');
		is($s->requests('POST /v1/batches'), 1, 'that was asked for once');
		$s->cleaned;
	});

scenario(
	'create answers 500 and has done nothing',
	faults => [ { match => { method => 'POST', path => '/v1/batches' }, times => 1, status => 500 } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		is(wait_for_job($node, $s->{job}), 'done', 'the job goes on');
		$s->all_answered;
		is($s->stats->{batches_created}, 1, 'with one batch');
		is($s->requests('POST /v1/batches'), 2, 'that was asked for again');
		cmp_ok($s->requests('GET /v1/batches'), '>', 1, 'after a look for the first');
	});

scenario(
	'create answers with something that is no batch, which has been made',
	faults => [ { match => { method => 'POST', path => '/v1/batches' }, times => 1, truncate => 20 } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		is(wait_for_job($node, $s->{job}), 'done', 'the job goes on');
		$s->all_answered;
		is($s->stats->{batches_created}, 1, 'with one batch');
	});

scenario(
	'the reply to the upload is lost',
	faults => [ { match => { method => 'POST', path => '/v1/files' }, times => 1, lose_reply => TRUE } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		is($s->stats->{batches_created}, 1, 'one batch');
		$s->cleaned;
	});

scenario(
	'every kind of call fails once',
	faults => [
		{ match => { method => 'POST', path => '/v1/files' }, times => 1, status => 503 },
		{ match => { method => 'GET', path => '/v1/batches/*' }, times => 1, status => 502, body => '<html><h1>Bad gateway</h1>' },
		{ match => { method => 'GET', path => '/v1/files/*/content' }, times => 1, status => 500 },
		{ match => { method => 'DELETE', path => '/v1/files/*' }, times => 1, status => 500 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{batches_created}, 1, 'one batch');
		is($s->look('rows', 'DISTINCT attempts'), 1, 'it was no row\'s fault');
		$s->cleaned;
	});

# ---- sizes

scenario(
	'batches are cut by size',
	rows => 20,
	server => { max_batch_bytes => 1000 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 20, 0);
		$s->all_answered;
		is($s->look('batches', 'max(bytes) <= 1000 AND sum(bytes) > 3000 AND sum(requests) = 20'), 't',
			'none is larger than max_batch_bytes');
	});

scenario(
	'more than one batch is at the provider at a time',
	rows => 40,
	server => { max_batch_requests => 5 },
	settings => { batch_ms => 700 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 40, 0);
		my @created = map { $_->{t} } @{ $s->{simulator}->get('requests?path=/v1/batches&method=POST')->{requests} };
		is(scalar @created, 8, 'eight batches');
		cmp_ok($created[7] - $created[0], '<', 2100, 'the last is created while the first is running');
	});

scenario(
	'a row that is larger than a batch',
	rows => 3,
	server => { max_batch_bytes => 100 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 0, 3);
		is($s->ends, 'rejected 3', 'is not sent');
		is($s->look('errors', 'DISTINCT error_code'), 'too_large', 'and says so');
		is($s->requests('POST /v1/files'), 0, 'nothing is uploaded');
	});

scenario(
	'the provider takes smaller files than we think',
	rows => 8,
	faults => [ { match => { method => 'POST', path => '/v1/files' }, times => 1, status => 413 } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 8, 0);
		$s->all_answered;
		cmp_ok($s->stats->{batches_created}, '>=', 2, 'the rows go in smaller batches');
		is($s->look('rows', 'DISTINCT attempts'), 1, 'this was no attempt');
	});

scenario(
	'the provider takes no file at all',
	rows => 4,
	faults => [ { match => { method => 'POST', path => '/v1/files' }, status => 413,
			error => { message => 'Maximum content size limit exceeded', type => 'invalid_request_error' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', 'error'), qr/Maximum content size/, "with the provider's words");
		is($s->figures, 'failed 4 0 0 4', 'its rows wait for a retry');
	});

# ---- files and states

scenario(
	'a file is not ready and not found at first',
	faults => [ { file => { missing_ms => 700, ready_ms => 1500 } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		is($s->requests('POST /v1/files'), 1, 'it is uploaded once');
		is($s->requests('POST /v1/batches'), 1, 'and used when it is ready');
	});

scenario(
	'a file that the provider cannot process',
	faults => [ { file => { status => 'error' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->look('jobs', 'error_code'), 'file_error', 'for that reason');
		is($s->requests('POST /v1/batches'), 0, 'nothing is created');
		$s->cleaned;
	});

scenario(
	'batch and results are not found now and then',
	faults => [
		{ match => { method => 'GET', path => '/v1/batches/*' }, times => 2, status => 404 },
		{ match => { method => 'GET', path => '/v1/files/*/content' }, times => 1, status => 404 }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{batches_created}, 1, 'it is not given up');
	});

scenario(
	'a state that nobody has heard of',
	faults => [ { batch => { show_state => 'being_reviewed', show_ms => 1300 } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true(
			"EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND remote_state = 'being_reviewed' OR state = 'done')",
			'is shown');
		is(wait_for_job($node, $s->{job}), 'done', 'and waited for');
		$s->all_answered;
	});

# ---- refusals

scenario(
	'no batch service',
	faults => [ { match => { path => '/v1/files*' }, status => 404 } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->requests('POST /v1/files'), 1, 'at its first try');
		like($s->look('jobs', 'error'), qr/mode => 'online'/, 'and names the other mode');
	});

scenario(
	'no batch service, 405',
	faults => [ { match => { path => '/v1/files*' }, status => 405, body => 'Method Not Allowed', content_type => 'text/plain' } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', 'error'), qr/mode => 'online'/, 'and names the other mode');
	});

scenario(
	'a wrong key',
	key => 'sk-wrong',
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', 'error_code'), qr/invalid_api_key/, 'with its code');
		like($s->look('jobs', 'error'), qr/Incorrect API key provided/, "and the provider's words");
		unlike($s->look('jobs', 'error'), qr/sk-wrong/, 'not with the key');
		is($s->sql("SELECT count(answer) FROM $s->{table}"), 0, 'the rows are untouched');
		my $key = $s->{simulator}->key;
		$s->sql("ALTER USER MAPPING FOR PUBLIC SERVER $s->{server_name} OPTIONS (SET api_key '$key')");
		is($s->sql("SELECT dess_batch_retry($s->{job}) >= 0"), 't', 'with the right key it is tried again');
		is(wait_for_job($node, $s->{job}), 'done', 'and ends well');
		$s->ended('done', 10, 0);
		$s->all_answered;
	});

scenario(
	'an unknown model',
	model => 'gpt-nobody-knows',
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		like($s->look('jobs', 'error'), qr/gpt-nobody-knows/, "with the provider's words");
		is($s->stats->{batches_created}, 1, 'after one certain answer');
		$s->cleaned;
	});

scenario(
	'the file is refused when the batch is validated',
	faults => [ { batch => { state => 'failed', code => 'invalid_json_line', message => 'This line is not parseable as valid JSON.', line => 3 } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->look('jobs', "error_code || ': ' || error"),
			'invalid_json_line: line 3: This line is not parseable as valid JSON.', "with the provider's words");
		is($s->figures, 'failed 10 0 0 10', 'its rows are unanswered');
		is($s->look('rows', 'DISTINCT outcome'), 'pending', 'and wait for a retry');
		$s->cleaned;
		my $job = submit_job($node, "'$s->{table}', 'gpt-4o-mini', prompt => '{body} once more', target => 'answer', server => '$s->{server_name}', mode => 'online'");
		is(wait_for_job($node, $job), 'done', 'or for another job');
		is(job_figures($node, $job), 'done 10 10 0 0', 'which takes them');
	});

scenario(
	'no quota for a batch',
	faults => [ { match => { method => 'POST', path => '/v1/batches' }, times => 1, status => 429,
			error => { message => 'You exceeded your current quota', type => 'insufficient_quota', code => 'insufficient_quota' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->look('jobs', 'error_code'), 'insufficient_quota', 'for that reason');
		is($s->requests('POST /v1/batches'), 1, 'without another try');
		$s->sql("SELECT dess_batch_retry($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'when it is paid it is tried again');
		$s->ended('done', 10, 0);
	});

scenario(
	'a full queue at create is a delay',
	faults => [ { match => { method => 'POST', path => '/v1/batches' }, times => 2, status => 429, headers => { 'retry-after-ms' => '300' } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		is($s->look('rows', 'DISTINCT attempts'), 1, 'and no attempt');
		is($s->stats->{batches_created}, 1, 'one batch');
	});

scenario(
	'the queue is full after create',
	faults => [ { times => 1, batch => { state => 'failed', code => 'token_limit_exceeded',
				message => 'Enqueued token limit reached for gpt-4o-mini' } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true(
			"EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND state = 'uploaded' AND error_code = 'token_limit_exceeded')",
			'the batch is put back');
		is($s->look('jobs', 'failed'), 0, 'no row has failed');
		like($s->sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($s->{job}) e"),
			qr/Enqueued token limit/, 'the delay is explained');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'it can be cancelled while it waits');
		is($s->stats->{batches_created}, 1, 'and was not created again at once');
		is($s->look('batches', 'max(batch_no)'), 1, 'the same file waited');
		$s->cleaned;
	});

# ---- ends

scenario(
	'a batch that expires with a part done',
	faults => [ { times => 1, batch => { state => 'expired', fraction => 0.6 } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->look('rows', q{string_agg(attempts::text, '' ORDER BY attempts)}), '1111112222',
			'only the rest was sent again');
		is($s->stats->{rows_served}, 10, 'nothing was bought twice');
	});

scenario(
	'batches that always expire with a part done',
	rows => 20,
	faults => [ { batch => { state => 'expired', fraction => 0.3 } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 13, 7);
		is($s->ends, 'expired 7, ok 13', 'three attempts, then it is final');
		is($s->look('errors', 'DISTINCT attempts'), 3, 'of which each is counted');
		is($s->stats->{batches_created}, 3, 'in three batches');
		is($s->sql("SELECT count(answer) FROM $s->{table}"), 13, 'what came is written');
	});

scenario(
	'a batch that expires with nothing',
	faults => [ { times => 1, batch => { state => 'expired', fraction => 0 } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'paused', 'pauses the job');
		is($s->look('jobs', 'error_code'), 'expired', 'and says why');
		is($s->look('jobs', 'pending'), 10, 'the rows wait');
		is($s->stats->{batches_created}, 1, 'no other batch was tried');
		$s->sql("SELECT dess_batch_resume($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'until it is resumed');
		$s->all_answered;
	});

scenario(
	'a batch that is cancelled with a part done',
	faults => [ { batch => { stuck_at => 'in_progress', fraction => 0.5 } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		wait_until('half of the batch is done', sub { return $s->stats->{batch_rows_ok} == 5 });
		$s->until_true(
			"EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND state = 'running')", 'it runs');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the job is cancelled');
		is($s->stats->{batches_cancelled}, 1, 'at the provider too');
		$s->ended('cancelled', 5, 5);
		is($s->ends, 'cancelled 5, ok 5', 'what was finished is merged');
		is($s->sql("SELECT count(answer) FROM $s->{table}"), 5, 'and written');
		$s->cleaned;
	});

scenario(
	'nobody but the provider cancels a batch',
	faults => [ { batch => { stuck_at => 'in_progress', fraction => 0.5 } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		my $batch;
		wait_until('half of the batch is done', sub { return $s->stats->{batch_rows_ok} == 5 });
		ok($batch = wait_until('the batch is known', sub { return $s->look('batches', 'remote_id') }), 'it runs');
		my $reply = $s->{simulator}{http}->post("$s->{simulator}{url}/v1/batches/$batch/cancel",
			{ headers => { Authorization => 'Bearer ' . $s->{simulator}->key } });
		is($reply->{status}, 200, 'it is cancelled from elsewhere');
		wait_until('it is', sub { return $s->stats->{batches_cancelled} == 1 });
		$s->sql("SELECT dess_batch_status($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'a look that is asked for finds out');
		is($s->ends, 'cancelled 5, ok 5', 'with what there is');
	});

run_scenarios($node);
$node->stop;
done_testing();
