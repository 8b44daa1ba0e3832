# Limits over minutes: rates in every sliding minute, concurrency that adapts to
# a server that allows 20 at once, and a batch that is not found for a quarter of
# an hour.  The figures are printed for test/RESULTS.md.

use strict;
use warnings;

use DessBatch;
use DessBatch::Misbehaviour;
use DessBatch::Scenarios;
use List::Util qw(max);
use Test::More;

my $node = start_node('limits_long');
my $minute = 60_000;
$PostgreSQL::Test::Utils::timeout_default = 1800;

# Arrivals of inference requests: [milliseconds, status].
sub arrivals
{
	my ($s) = @_;
	my @all;

	for (my $since = 0;;)
	{
		my $reply = $s->{simulator}->get("requests?path=/v1/chat/completions&limit=20000&since=$since");
		push @all, map { [ $_->{t}, $_->{status} ] } @{ $reply->{requests} };
		last if !@{ $reply->{requests} };
		$since = $reply->{last_seq};
	}
	return sort { $a->[0] <=> $b->[0] } @all;
}

# The most, by weight, that arrived within any 60 seconds.
sub most_in_a_minute
{
	my ($weight, @times) = @_;
	my ($most, $first) = (0, 0);

	foreach my $last (0 .. $#times)
	{
		$first++ while $times[$last] - $times[$first] >= $minute;
		$most = max($most, ($last - $first + 1) * $weight);
	}
	return $most;
}

sub per_minute
{
	my ($weight, @times) = @_;
	my %n;

	$n{ int(($_ - $times[0]) / $minute) } += $weight foreach @times;
	return join ', ', map { $n{$_} // 0 } 0 .. int(($times[-1] - $times[0]) / $minute);
}

scenario(
	'60 requests a minute',
	mode => 'online',
	rows => 200,
	server => { requests_per_minute => 60 },
	check => sub {
		my ($s) = @_;
		my @times = map { $_->[0] } arrivals($s);

		$s->ended('done', 200, 0);
		is(scalar @times, 200, 'each row once');
		my $most = most_in_a_minute(1, @times);
		cmp_ok($most, '<=', 60, "no sixty seconds have more than 60 ($most)");
		my $rate = (@times - 1) / ($times[-1] - $times[0]) * $minute;
		cmp_ok($rate, '>=', 60 * 0.85, sprintf('and not many less (%.1f a minute)', $rate));
		cmp_ok($s->stats->{max_inference_in_any_60s}, '<=', 60, 'so says the simulator');
		diag(sprintf 'requests_per_minute 60: by minute %s; most in sixty seconds %d; %.1f a minute in all', per_minute(1, @times), $most, $rate);
	});

scenario(
	'12,000 tokens a minute, most of which only replies tell',
	mode => 'online',
	rows => 120,
	server => { tokens_per_minute => 12000 },
	faults => [ { match => { path => '/v1/chat/*' }, answer => { content => 'x' x 1000, usage => { input => 20, output => 280 } } } ],
	check => sub {
		my ($s) = @_;
		my @times = map { $_->[0] } arrivals($s);

		$s->ended('done', 120, 0);
		my $most = most_in_a_minute(300, @times);
		cmp_ok($most, '<=', 12000, "no sixty seconds have more than 12,000 ($most)");
		my $rate = 300 * (@times - 1) / ($times[-1] - $times[0]) * $minute;
		cmp_ok($rate, '>=', 12000 * 0.75, sprintf('and not many less (%.0f a minute)', $rate));
		diag(sprintf 'tokens_per_minute 12000: by minute %s; most in sixty seconds %d; %.0f a minute in all', per_minute(300, @times), $most, $rate);
	});

# What is possible ends where the server itself asks for a pause.
my @servers = ([ 'no word of when', 0, {} ], [ 'Retry-After: 1', 1, { headers => { 'Retry-After' => '1' } } ]);

foreach my $server (@servers)
{
	my ($name, $pause, $more) = @$server;
	my ($allowed, $latency, $rows) = (20, 250, 24000);

	scenario(
		"20 at once, 429 above, with $name",
		mode => 'online',
		rows => $rows,
		settings => { latency_ms => $latency, record_body => 0, record_limit => 100000 },
		faults => [ { match => { path => '/v1/chat/*' }, limit => { concurrent => $allowed }, status => 429, %$more } ],
		check => sub {
			my ($s) = @_;
			my @all = arrivals($s);
			my $start = $all[0][0];
			my @later = grep { $_->[0] >= $start + $minute } @all;
			my $good = grep { $_->[1] == 200 } @later;
			my $refused = grep { $_->[1] == 429 } @later;
			my $seconds = ($later[-1][0] - $start - $minute) / 1000;
			my $possible = ($seconds - $refused * $pause) * $allowed * 1000 / $latency;

			$s->ended('done', $rows, 0);
			is($s->look('rows', 'DISTINCT attempts'), 1, 'a 429 is no attempt');
			is($s->stats->{rows_served}, $rows, 'each row is answered once');
			cmp_ok($seconds, '>', 120, sprintf('%.0f seconds are looked at', $seconds));
			cmp_ok($good, '>=', 0.8 * $possible, sprintf('%.1f %% of the possible throughput', 100 * $good / $possible));
			cmp_ok($refused, '<', 0.05 * @later, sprintf('%.2f %% of the replies are 429', 100 * $refused / @later));
			diag(sprintf 'allowed 20, %s: after the first minute %.1f %% of the possible throughput, %.2f %% of replies 429 (%d of %d in %.0f s)',
				$name, 100 * $good / $possible, 100 * $refused / @later, $refused, scalar @later, $seconds);
		});
}

# The last, because it is waited for longest.
my $lost;
scenario(
	'a batch that is not found any more',
	settings => { run_ms => 30000 },
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->look('batches', q{string_agg(remote_id, ' ' ORDER BY batch_no) LIKE '} . $lost . q{ %' AND count(*) = 2}), 't', 'its rows go in another one');
		is($s->look('rows', 'DISTINCT attempts'), 2, 'which is their second attempt');
		is($s->sql("SELECT extract(epoch FROM min(finished_at) - min(created_at)) >= 900 FROM dess_batch_batches WHERE job_id = $s->{job} AND batch_no = 1"),
			't', 'after a quarter of an hour');
		my $looks = seen($s, 'GET', "/v1/batches/$lost", 404);
		cmp_ok($looks, '>=', 4, "and several looks ($looks)");
		diag("a batch that is not found: $looks looks, then lost");
	});

my $pid;
run_scenarios($node, started => sub {
	my ($s) = @_;

	$pid = worker_pid($node);
	$s->until_true("remote_id IS NOT NULL FROM dess_batch_batches WHERE job_id = $s->{job}", 'a batch runs');
	$lost = $s->look('batches', 'remote_id');
	$s->{simulator}->post('faults', { match => { path => "/v1/batches/$lost" }, status => 404,
		error => { message => 'No batch found', type => 'invalid_request_error' } });
});
worker_unharmed($node, $pid);
$node->stop;
done_testing();
