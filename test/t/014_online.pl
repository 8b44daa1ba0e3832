# Online mode: how a server can misbehave while it answers single requests.
# Each case is a job of its own, and all run at the same time.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use PostgreSQL::Test::Cluster;
use Test::More;

my $node = start_node('online');
my $late_port = PostgreSQL::Test::Cluster::get_free_port();

sub online
{
	my ($name, %options) = @_;
	return scenario($name, mode => 'online', %options);
}

# A fault of online requests, of those for the row whose text is "itemN of many" if a number is given.
sub chat
{
	my ($n, %fault) = @_;
	my %match = (path => '/v1/chat/*');

	$match{prompt} = "item$n of" if defined $n;
	return { match => \%match, %fault };
}

sub each_row
{
	my ($s, $what) = @_;
	return $s->look('rows', "string_agg(concat_ws(' ', row_key ->> 'id', $what), ', ' ORDER BY (row_key ->> 'id')::integer)");
}

# ---- what has to be watched from its beginning

online(
	'cancelled while requests are under way',
	rows => 400,
	server => { max_concurrency => 4 },
	settings => { latency_ms => 400 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true("done > 0 FROM dess_batch_jobs WHERE job_id = $s->{job}", 'some rows are answered');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the job is cancelled');
		my ($done, $failed) = split /\|/, $s->look('jobs', 'done, failed');
		is($done + $failed, 400, 'every row has its outcome');
		is($s->stats->{rows_served}, $done, 'whatever was answered is merged');
		is($s->sql("SELECT count(answer) FROM $s->{table}"), $done, 'and written');
		cmp_ok($failed, '>', 20, 'the others were not sent');
	});

online(
	'two jobs at one server',
	rows => 4000,
	server => { max_concurrency => 4 },
	settings => { latency_ms => 100 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true("done > 20 FROM dess_batch_jobs WHERE job_id = $s->{job}", 'some rows of the large job are answered');
		$s->sql("CREATE TABLE $s->{table}_small AS SELECT id, body, answer FROM $s->{table} WHERE id <= 10;
			UPDATE $s->{table}_small SET answer = NULL;
			ALTER TABLE $s->{table}_small ADD PRIMARY KEY (id)");
		my $small = submit_job($node, "'$s->{table}_small', 'gpt-4o-mini', prompt => '{body} again', target => 'answer', "
			  . "mode => 'online', server => '$s->{server_name}'");
		is(wait_for_job($node, $small), 'done', 'the small job ends');
		is(job_figures($node, $small), 'done 10 10 0 0', 'with all its rows');
		cmp_ok($s->look('jobs', 'pending'), '>', 2000, 'before the large one');
		cmp_ok($s->stats->{max_in_flight}, '<=', 5, 'both share the places of the server');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the large one is cancelled');
	});

online(
	'paused and resumed',
	rows => 400,
	server => { max_concurrency => 4 },
	settings => { latency_ms => 400 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->sql("SELECT dess_batch_pause($s->{job})");
		$s->until_true("done = (SELECT count(answer) FROM $s->{table}) AND state = 'paused' FROM dess_batch_jobs WHERE job_id = $s->{job}",
			'it is paused');
		wait_until('what was under way has arrived', sub { return $s->stats->{in_flight} == 0 });
		$s->until_true("done = " . $s->stats->{rows_served} . " FROM dess_batch_jobs WHERE job_id = $s->{job}",
			'what was under way is merged');
		cmp_ok($s->stats->{rows_served}, '<', 400, 'no more is sent');
		$s->{simulator}->post('settings', { latency_ms => 0 });
		$s->sql("SELECT dess_batch_resume($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'resumed, it ends');
		$s->all_answered;
		is($s->stats->{rows_served}, 400, 'nothing was bought twice');
	});

online(
	'a server that is not there yet',
	base_url => "http://127.0.0.1:$late_port/v1",
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true("error IS NOT NULL FROM dess_batch_jobs WHERE job_id = $s->{job}", 'the trouble is told');
		like($s->look('jobs', 'error'), qr/connect/i, 'in words');
		is($s->look('jobs', 'failed'), 0, 'and no row has failed');
		my $late = start_simulator(arguments => [ '--port', $late_port ]);
		is(wait_for_job($node, $s->{job}), 'done', 'when it appears the job goes on');
		$s->all_answered;
		is($s->look('rows', 'DISTINCT attempts'), 1, 'it was no attempt');
		is($s->look('jobs', 'error'), '', 'the trouble is over');
		$late->stop;
	});

# ---- rates

online(
	'as many at once as max_concurrency says',
	rows => 60,
	server => { max_concurrency => 6 },
	settings => { latency_ms => 150 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 60, 0);
		$s->all_answered;
		my $stats = $s->stats;
		is($stats->{max_in_flight}, 6, 'not more, and not less');
		is($stats->{rows_served}, 60, 'each row once');
		cmp_ok($stats->{connections}, '<=', 7, "connections are used again ($stats->{connections})");
	});

online(
	'as many a minute as requests_per_minute says',
	rows => 100,
	server => { requests_per_minute => 600 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 100, 0);
		my @at = map { $_->{t} } @{ $s->{simulator}->get('requests?path=/v1/chat/completions')->{requests} };
		is(scalar @at, 100, 'each row once');
		my $all = $at[-1] - $at[0];
		cmp_ok($all, '>', 3500, "a tenth of a minute's at once, the others at that rate ($all ms)");
		cmp_ok($all, '<', 20000, 'and not much slower');
	});

online(
	'as many tokens as tokens_per_minute says',
	rows => 60,
	server => { tokens_per_minute => 24000 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 60, 0);
		my @requests = @{ $s->{simulator}->get('requests?path=/v1/chat/completions')->{requests} };
		my $bytes = 0;
		$bytes += $_->{bytes} foreach @requests;
		my $all = $requests[-1]{t} - $requests[0]{t};
		my $least = ($bytes / 4 - 2400 - 100) / 400 * 1000;
		cmp_ok($all, '>', $least * 0.8, "they are spread ($all ms for $bytes bytes)");
	});

# ---- 429

my $http_date = 'Fri, 31 Dec 1999 23:59:59 GMT';
foreach my $form (
	[ 'retry-after-ms' => '300' ], [ 'Retry-After' => '1' ], [ 'Retry-After' => '0.2' ],
	[ 'Retry-After' => $http_date ], [ 'Retry-After' => '-5' ], [ 'Retry-After' => 'soon' ])
{
	online(
		"429 with $form->[0]: $form->[1]",
		faults => [ chat(undef, skip => 2, times => 4, status => 429, headers => { @$form }) ],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 10, 0);
			is($s->look('rows', 'DISTINCT attempts'), 1, 'is a delay and no attempt');
			is($s->stats->{rows_served}, 10, 'each row is answered once');
			is($s->stats->{faults_fired}, 4, 'after four refusals');
		});
}

online(
	'a server that takes three at a time',
	rows => 40,
	settings => { latency_ms => 30 },
	faults => [ chat(undef, limit => { concurrent => 3 }, status => 429, headers => { 'retry-after-ms' => 50 }) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 40, 0);
		is($s->look('rows', 'DISTINCT attempts'), 1, 'no attempt is lost');
	});

# ---- failures that time may heal

online(
	'5xx',
	rows => 9,
	faults => [
		chat(1, times => 1, status => 500),
		chat(2, times => 2, status => 503),
		chat(3, status => 502, body => '<html><body>Bad gateway</body></html>', content_type => 'text/html'),
		chat(4, times => 1, status => 529, error => { type => 'overloaded_error', message => 'Overloaded' })
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 8, 1);
		is(each_row($s, "outcome || ' ' || attempts"),
			'1 ok 2, 2 ok 3, 3 lost 3, 4 ok 2, 5 ok 1, 6 ok 1, 7 ok 1, 8 ok 1, 9 ok 1', 'three attempts at most');
		like($s->look('errors', 'error'), qr/Bad gateway/, 'then the last words');
		unlike($s->look('errors', 'error'), qr/</, 'without tags');
	});

online(
	'dropped connections',
	rows => 20,
	faults => [
		chat(3, times => 1, drop => TRUE), chat(7, times => 1, drop => 'reset'),
		chat(11, times => 1, drop_after => 40), chat(15, times => 1, lose_reply => TRUE)
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 20, 0);
		$s->all_answered;
		is($s->look('rows', q{string_agg(row_key ->> 'id', ' ' ORDER BY (row_key ->> 'id')::integer) FILTER (WHERE attempts = 2)}),
			'3 7 11 15', 'are attempts');
	});

online(
	'a reply that does not come',
	rows => 6,
	server => { request_timeout => 1 },
	faults => [ chat(2, times => 1, delay_ms => 6000), chat(4, times => 1, trickle_ms => 20) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 6, 0);
		$s->all_answered;
		is(each_row($s, 'attempts'), '1 1, 2 2, 3 1, 4 1, 5 1, 6 1',
			'is given up after request_timeout without a byte, a slow one is not');
	});

online(
	'garbage',
	rows => 8,
	faults => [
		chat(1, times => 1, body => '<html>oops', content_type => 'text/html'),
		chat(2, times => 1, truncate => 60),
		chat(3, times => 1, body => ''),
		chat(4, times => 1, status => 204),
		chat(5, times => 1, repeat => { text => '[', count => 10000 }),
		chat(6, times => 1, json => { choices => [] }),
		chat(7, times => 1, body => '"text"')
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 8, 0);
		$s->all_answered;
		is(each_row($s, 'attempts'), '1 2, 2 2, 3 2, 4 2, 5 2, 6 2, 7 2, 8 1', 'is sent again');
	});

online(
	'a reply of a hundred megabytes',
	rows => 4,
	faults => [ chat(2, fill => { bytes => 100_000_000, byte => ' ' }) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 3, 1);
		is(each_row($s, 'outcome'), '1 ok, 2 rejected, 3 ok, 4 ok', 'is not read to its end, and not asked for again');
	});

# ---- servers that are only compatible

online(
	'shapes that other servers use',
	rows => 9,
	faults => [
		chat(1, json => { choices => [ { message => { role => 'assistant', content => [ { type => 'text', text => 'an ' }, { type => 'text', text => 'array' } ] } } ] }),
		chat(2, json => { choices => [ { message => { role => 'assistant', content => 'no usage' }, finish_reason => 'stop' } ] }),
		chat(3, status => 400, json => { error => 'model is too small for this' }),
		chat(4, status => 400, json => { error => { code => 400, message => 'a number for a code', type => 'invalid_request_error' } }),
		chat(5, times => 1, status => 503, json => { error => { code => 503, message => 'Loading model', type => 'unavailable_error' } }),
		chat(6, json => { choices => [ { text => 'a completion', finish_reason => 'stop' } ] }),
		chat(7, json => { choices => [ { message => { content => '', reasoning_content => 'thinking' }, finish_reason => 'length' } ], usage => { prompt_tokens => 5, completion_tokens => 7 } }),
		chat(8, status => 422, json => { detail => [ { loc => ['body'], msg => 'field required' } ] }),
	],
	check => sub {
		my ($s) = @_;
		is(each_row($s, 'outcome'),
			'1 ok, 2 ok, 3 rejected, 4 rejected, 5 ok, 6 ok, 7 truncated, 8 rejected, 9 ok', 'are understood');
		is($s->sql("SELECT string_agg(id || ' ' || answer, ', ' ORDER BY id) FROM $s->{table} WHERE id IN (1, 2, 6)"),
			'1 an array, 2 no usage, 6 a completion', 'answers');
		is($s->look('errors', q{string_agg(error, '; ' ORDER BY (row_key ->> 'id')::integer) FILTER (WHERE outcome = 'rejected')}),
			'model is too small for this; a number for a code; field required', 'and errors');
		is($s->look('rows', q{string_agg(concat_ws('+', input_tokens, output_tokens), ' ' ORDER BY (row_key ->> 'id')::integer) FILTER (WHERE row_key ->> 'id' IN ('2', '7'))}),
			'0+0 5+7', 'and tokens, where there are any');
	});

# ---- refusals that stop the job

foreach my $case (
	[ 'a key that is withdrawn', 401, { code => 'invalid_api_key', message => 'Incorrect API key provided' } ],
	[ 'no quota left', 429, { code => 'insufficient_quota', type => 'insufficient_quota', message => 'You exceeded your current quota' } ],
	[ 'a model that is gone', 404, { code => 'model_not_found', message => 'The model does not exist' } ])
{
	my ($name, $status, $error) = @$case;

	online(
		$name,
		rows => 50,
		server => { max_concurrency => 2 },
		faults => [ chat(undef, skip => 20, times => 4, status => $status, error => $error) ],
		check => sub {
			my ($s) = @_;
			is($s->{state}, 'failed', 'the job fails');
			is($s->look('jobs', "error_code || ': ' || error"), "$error->{code}: $error->{message}", "with the provider's words");
			cmp_ok($s->stats->{faults_fired}, '<=', 2, 'after the first refusals');
			my $done = $s->stats->{rows_served};
			is($s->look('jobs', 'done, failed'), "$done|0", 'what was answered before stays');
			is($s->sql("SELECT count(answer) FROM $s->{table}"), $done, 'in the table too');
			$s->{simulator}->post('faults/clear');
			$s->sql("SELECT dess_batch_retry($s->{job})");
			is(wait_for_job($node, $s->{job}), 'done', 'when that is mended it goes on');
			$s->all_answered;
			is($s->stats->{rows_served}, 50, 'nothing was bought twice');
		});
}

online(
	'more failures than max_failed allows',
	rows => 3000,
	server => { max_concurrency => 8 },
	faults => [ chat(undef, status => 400, error => { message => 'no' }) ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'paused', 'the job pauses');
		is($s->look('jobs', 'error_code'), 'max_failed', 'and says why');
		cmp_ok($s->stats->{faults_fired}, '<', 1500, 'soon');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'it can be cancelled');
	});

run_scenarios($node);
$node->stop;
done_testing();
