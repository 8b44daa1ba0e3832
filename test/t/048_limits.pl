# What a provider allows: pauses that it asks for in every form, rates, requests
# at once, room in its queues.  What takes minutes is in test/long/limits.pl.

use strict;
use warnings;

use DessBatch;
use DessBatch::Misbehaviour;
use DessBatch::Scenarios;
use List::Util qw(max min);
use POSIX qw(strftime);
use Test::More;

# the worker is to be the same at the end, even if the machine is slow
my $node = start_node('limits', conf => "dess_batch.idle_timeout = '1h'");
my $chat = '/v1/chat/*';

# Requests of this kind in the order of their arrival: [milliseconds, status].
sub arrivals
{
	my ($s, $path) = @_;
	my $list = $s->{simulator}->get("requests?path=$path&limit=20000")->{requests};
	return sort { $a->[0] <=> $b->[0] } map { [ $_->{t}, $_->{status} ] } @$list;
}

# ---- pauses

my $error = { code => 429, status => 'RESOURCE_EXHAUSTED', message => 'slow down' };

# Each form means three seconds.
foreach my $case (
	[ 'openai', 'retry-after-ms: 3000.0', { headers => { 'retry-after-ms' => '3000.0' } } ],
	[ 'openai', 'Retry-After: 3', { headers => { 'Retry-After' => '3' } } ],
	[ 'openai', 'Retry-After: 3.0', { headers => { 'Retry-After' => '3.0' } } ],
	[ 'openai', 'retry-after-ms beside another', { headers => { 'retry-after-ms' => '3000', 'Retry-After' => '600' } } ],
	[ 'gemini', 'RetryInfo', { json => { error => { %$error, details => [ { '@type' => 'type.googleapis.com/google.rpc.RetryInfo', retryDelay => '3s' } ] } } } ],
	[ 'vertex', 'RetryInfo', { json => { error => { %$error, details => [ { '@type' => 'type.googleapis.com/google.rpc.RetryInfo', retryDelay => '3.000s' } ] } } } ])
{
	my ($provider, $name, $reply) = @$case;
	my $path = { openai => $chat, gemini => '/v1beta/models/*', vertex => '/v1/projects/*' }->{$provider};

	scenario(
		"$name, at $provider",
		provider => $provider,
		mode => 'online',
		rows => 12,
		server => { max_concurrency => 1 },
		faults => [ { match => { path => $path }, skip => 4, times => 1, status => 429, %$reply } ],
		check => sub {
			my ($s) = @_;
			my @all = arrivals($s, $path);
			my ($refused) = grep { $all[$_][1] == 429 } 0 .. $#all;

			$s->ended('done', 12, 0);
			is($s->look('rows', 'DISTINCT attempts'), 1, 'is no attempt');
			is(scalar @all, 13, 'one request is made again');
			cmp_ok($all[ $refused + 1 ][0] - $all[$refused][0], '>=', 2950, 'after the pause');
		});
}

# A date has whole seconds: this one is passed by nobody.
my $date = time + 30;
scenario(
	'Retry-After as a date',
	mode => 'online',
	rows => 12,
	faults => [ { match => { path => $chat }, status => 429, times => 3, headers => { 'Retry-After' => strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime $date) } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 12, 0);
		is($s->look('rows', 'DISTINCT attempts'), 1, 'is no attempt');
		is($s->look('rows', "count(*) FILTER (WHERE finished_at < to_timestamp($date) - interval '50 ms') <= 1"), 't', 'it is waited for');
	});

foreach my $value ('99999999999999999999', 'Fri, 31 Dec 9999 23:59:59 GMT', '-1', '0', 'nan', '1e9', '')
{
	scenario(
		"Retry-After: $value",
		mode => 'online',
		rows => 12,
		faults => [ { match => { path => $chat }, status => 429, times => 16, headers => { 'Retry-After' => $value } } ],
		check => sub {
			my ($s) = @_;
			my @refused = grep { $_->[1] == 429 } arrivals($s, $chat);

			$s->ended('done', 12, 0);
			is($s->look('rows', 'DISTINCT attempts'), 1, 'is no attempt');
			my $all = $refused[-1][0] - $refused[0][0];
			cmp_ok($all, '>=', 3000, 'and no reason to ask again and again');
			cmp_ok($all, '<', 60_000, 'nor to wait for long');
		});
}

scenario(
	'429 at every call of a batch',
	faults => [ map { { match => { method => $_->[0], path => $_->[1] }, times => 2, status => 429, headers => { 'retry-after-ms' => '100' } } }
		  [ 'POST', '/v1/files' ], [ 'POST', '/v1/batches' ], [ 'GET', '/v1/batches/*' ], [ 'GET', '/v1/files/*/content' ], [ 'DELETE', '/v1/files/*' ] ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		is($s->look('rows', 'DISTINCT attempts'), 1, 'is no attempt');
		is($s->stats->{batches_created}, 1, 'one batch');
		is($s->stats->{rows_served}, 10, 'nothing was bought twice');
		$s->cleaned;
	});

scenario(
	'a pause that is worth telling',
	mode => 'online',
	rows => 5,
	faults => [ { match => { path => $chat }, status => 429, headers => { 'Retry-After' => '300' }, error => { message => 'Come back later', code => 'rate_limit_exceeded' } } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true("string_agg(e, ' ') ~ 'pause until \\d{4}-.*Come back later' FROM dess_batch_explain($s->{job}) e", 'is told, with its end');
		cmp_ok(seen($s, 'POST', $chat), '<=', 4, 'after what was under way nothing is asked');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'it can be cancelled meanwhile');
	});

# ---- rates

scenario(
	'120 requests a minute',
	mode => 'online',
	rows => 50,
	server => { requests_per_minute => 120 },
	check => sub {
		my ($s) = @_;
		my @times = map { $_->[0] } arrivals($s, $chat);
		my $most = 0;

		$s->ended('done', 50, 0);
		is(scalar @times, 50, 'each row once');
		foreach my $first (@times)
		{
			$most = max($most, scalar grep { $_ >= $first && $_ < $first + 10_000 } @times);
		}
		cmp_ok($most, '<=', 20 + 2 + 1, "in any ten seconds a sixth of them, and a second's worth ($most)");
		cmp_ok($times[-1] - $times[0], '<', 50_000, 'and they are made use of');
	});

scenario(
	'24,000 tokens a minute, most of which only replies tell',
	mode => 'online',
	rows => 40,
	server => { tokens_per_minute => 24000 },
	faults => [ { match => { path => $chat }, answer => { content => 'x' x 1000, usage => { input => 20, output => 380 } } } ],
	check => sub {
		my ($s) = @_;
		my @times = map { $_->[0] } arrivals($s, $chat);

		$s->ended('done', 40, 0);
		is($s->stats->{tokens}{online}{output} + $s->stats->{tokens}{online}{input}, 40 * 400, 'as many as were said');
		# what leaves before the first replies are there is an estimate
		cmp_ok($times[-1] - $times[8], '>=', 0.9 * 31 * 400 / 24000 * 60_000, 'they are spread over time');
	});

# ---- at once

scenario(
	'20 at once, 429 above',
	mode => 'online',
	rows => 1500,
	settings => { latency_ms => 250 },
	faults => [ { match => { path => $chat }, limit => { concurrent => 20 }, status => 429 } ],
	check => sub {
		my ($s) = @_;
		my @all = arrivals($s, $chat);
		my $refused = grep { $_->[1] == 429 } @all;
		my $possible = ($all[-1][0] - $all[0][0]) / 250 * 20;

		$s->ended('done', 1500, 0);
		is($s->look('rows', 'DISTINCT attempts'), 1, 'a 429 is no attempt');
		is($s->stats->{rows_served}, 1500, 'each row is answered once');
		cmp_ok(1500, '>=', 0.5 * $possible, sprintf('%.0f %% of what is possible, from the beginning', 150000 / $possible));
		cmp_ok($refused, '<', 0.2 * @all, sprintf('%.1f %% are refused', 100 * $refused / @all));
	});

# ---- room in queues

foreach my $provider ('openai', 'gemini')
{
	scenario(
		"a queue that holds one batch, at $provider",
		provider => $provider,
		rows => 15,
		server => { max_batch_requests => 5 },
		settings => { run_ms => 1500, $provider eq 'openai' ? 'batch_tokens' : 'gemini_tokens', $provider eq 'openai' ? 450 : 200 },
		check => sub {
			my ($s) = @_;
			$s->ended('done', 15, 0);
			$s->all_answered;
			is($s->look('rows', 'DISTINCT attempts'), 1, 'a full queue is no attempt');
			is($s->stats->{rows_served}, 15, 'nothing was bought twice');
			is($s->look('batches', 'count(*)'), 3, 'the same files waited');
			is($s->stats->{batches_completed}, 3, 'and went one after the other');
			cmp_ok($provider eq 'openai' ? $s->stats->{batches_failed} : seen($s, 'POST', '/v1beta/models/*', 429), '>', 0, 'after they had been sent away');
			# a full queue is tried again after a minute at the earliest, unless something has left it
			is($s->look('batches', "max(finished_at) - min(created_at) < interval '50 s'"), 't', 'as soon as another had ended');
			$s->cleaned;
		});
}

scenario(
	'max_enqueued_tokens',
	rows => 20,
	server => { max_batch_requests => 5, max_enqueued_tokens => 700 },
	settings => { run_ms => 1000, batch_tokens => 700 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 20, 0);
		$s->all_answered;
		is($s->stats->{batches_created}, 4, 'four batches');
		is($s->stats->{batches_failed}, 0, 'none of which was too much for the queue');
		like($s->look('batches', 'max(bytes) * 4 / 3.5 > 700 AND max(bytes) / 3.5 < 700'), qr/^t$/, 'all at once would have been');
	});

# ---- two roles at one server

subtest 'limits are the server\'s, not each role\'s' => sub {
	my $batches = start_simulator(batch_ms => 20);
	my $online = start_simulator();
	my @jobs;

	$batches->post('settings', { run_ms => 600000 });
	$online->post('settings', { latency_ms => 200 });
	create_server($node, $batches, name => 'shared_batches', options => { max_batch_requests => 2, max_active_batches => 3 });
	create_server($node, $online, name => 'shared_online', options => { max_concurrency => 4 });
	foreach my $role ('one', 'two')
	{
		$node->safe_psql('postgres', qq{
			CREATE ROLE $role;
			GRANT USAGE ON FOREIGN SERVER shared_batches, shared_online TO $role;
			GRANT CREATE ON SCHEMA public TO $role;
			SET ROLE $role;
			CREATE TABLE of_$role (id integer PRIMARY KEY, body text, answer text, other text);
			INSERT INTO of_$role SELECT i, 'item' || i || ' of many' FROM generate_series(1, 20) i});
		push @jobs, $node->safe_psql('postgres', qq{
			SET ROLE $role;
			SELECT dess_batch_submit('of_$role', 'gpt-4o-mini', '{body}', 'answer', server => 'shared_batches'),
				dess_batch_submit('of_$role', 'gpt-4o-mini', '{body}', 'other', server => 'shared_online', mode => 'online')});
	}
	foreach my $pair (@jobs)
	{
		my ($batch, $single) = split /\|/, $pair;
		is(wait_for_job($node, $single), 'done', 'single requests of a role are answered');
	}
	is($online->get('stats')->{max_in_flight}, 4, 'max_concurrency counts for both');
	my ($first, $second) = map { (split /\|/, $_)[0] } @jobs;
	ok($node->poll_query_until('postgres',
		"SELECT count(*) FILTER (WHERE state = 'running') = 3 AND bool_or(state = 'prepared' AND job_id = $second) FROM dess_batch_batches WHERE job_id IN ($first, $second)"),
		'three batches run, others wait');
	$node->safe_psql('postgres', "SELECT dess_batch_status($first), dess_batch_status($second)");
	wait_until('they are looked at', sub { return ($batches->get('stats')->{requests}{'GET /v1/batches/{id}'} // 0) >= 6 });
	is($batches->get('stats')->{batches_active}, 3, 'max_active_batches too');
	foreach my $job ($first, $second)
	{
		$node->safe_psql('postgres', "SELECT dess_batch_cancel($job)");
	}
	is(wait_for_job($node, $_), 'cancelled', 'cancelled') foreach $first, $second;
	$_->stop foreach $batches, $online;
};

my $pid;
run_scenarios($node, started => sub { $pid = worker_pid($node) });
worker_unharmed($node, $pid);
$node->stop;
done_testing();
