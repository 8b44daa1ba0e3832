# waiting.pl
#		What a server costs that only waits: 50 running batches, and no job at all.
#
# Processor time is the scheduler's own count of the worker and the launcher.
# Statements are those that pg_stat_statements counts, nested ones as well; per
# poll, because they are all that a poll may cause.

use strict;
use warnings;
use utf8;

use Bench;
use DessBatch;
use Time::HiRes qw(sleep time);

my $batches = 50;
my $seconds = 120;
my $node = start_bench_node(
	'waiting',
	conf => q{
shared_preload_libraries = 'dess_batch,pg_stat_statements'
pg_stat_statements.track = all
});
my $simulator = start_simulator();

# no state of a batch ends while we look, and polls come at the usual interval
$simulator->post('settings', { run_ms => 86_400_000 });
create_server(
	$node, $simulator,
	options => { max_active_batches => $batches, max_batch_requests => 10, poll_interval => 30 });
$node->safe_psql('postgres', 'CREATE EXTENSION pg_stat_statements');
create_big_faculty($node, 'faculty', 10 * $batches);

sub launcher_pid
{
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'dess_batch launcher%'");
}

sub polls { return $simulator->get('stats')->{requests}{'GET /v1/batches/{id}'} // 0; }

# Looks on for a while: processor seconds of the processes given, polls, and the statements that were run.
sub look_on
{
	my (@pids) = @_;
	my $polls = polls();

	$node->safe_psql('postgres', 'SELECT pg_stat_statements_reset()');
	my $start = time;
	my @before = map { processor_seconds($_) } @pids;
	sleep $seconds;
	my @used = map { processor_seconds($pids[$_]) - $before[$_] } 0 .. $#pids;
	my $took = time - $start;
	my %calls = map { reverse split /\|/, $_, 2 } split /\n/, $node->safe_psql('postgres', q{
		SELECT sum(calls), left(regexp_replace(query, '\s+', ' ', 'g'), 60) FROM pg_stat_statements
		WHERE query NOT LIKE '%pg_stat_statements%' GROUP BY 2 ORDER BY 1 DESC});

	return { used => \@used, took => $took, polls => polls() - $polls, calls => \%calls };
}

my $job = submit_job($node, "'faculty', 'gpt-5.4-nano'");
$node->poll_query_until('postgres',
	"SELECT count(*) = $batches FROM dess_batch_batches WHERE job_id = $job AND state = 'running' AND polled_at IS NOT NULL")
  or die 'the batches do not come to run';
my $worker = worker_pid($node);
my $running = look_on($worker, launcher_pid());

die 'another worker was started' unless worker_pid($node) == $worker;
die 'no poll was seen' unless $running->{polls} > 0;
$node->safe_psql('postgres', "SELECT dess_batch_cancel($job); CALL dess_batch_wait($job)");
# what is removed at the provider is removed, and old jobs are looked for, once
$node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM dess_batch_batches WHERE remote_deleted_at IS NULL')
  or die 'the remote files stay';
sleep 5;
my $idle = look_on(worker_pid($node), launcher_pid());

sub total { my $sum = 0; $sum += $_ foreach @_; return $sum; }

sub share
{
	my ($look, @which) = @_;
	return 100 * total(@{ $look->{used} }[@which]) / $look->{took};
}

my $statements = total(values %{ $running->{calls} });
my $by_poll = $running->{polls} > 0 ? $statements / $running->{polls} : 0;
my $other = join(', ', map { "`$_` $running->{calls}{$_}" }
	  sort { $running->{calls}{$b} <=> $running->{calls}{$a} } keys %{ $running->{calls} });
# a statement that comes by the clock comes without polls as well
my $periodic = grep { $running->{calls}{$_} > 2 * $running->{polls} + 2 } keys %{ $running->{calls} };

bench_result(
	title => 'a server that waits',
	how => sprintf('%d s with %d running batches, first polled every 30 s, then ever less often (%d polls, %.0f processor seconds in a year for each batch), '
		  . 'and %d s with neither job nor batch, the worker still there. Processor time from /proc/PID/schedstat, worker and launcher. '
		  . 'Statements by pg_stat_statements (track = all), calls in that time: %s.',
		$running->{took}, $batches, $running->{polls}, total(@{ $running->{used} }) / $running->{took} * 31_557_600 / $batches,
		$idle->{took}, $other || 'none'),
	rows => [
		{
			work => "processor, $batches running batches",
			ours => sprintf('%.4f %% of one', share($running, 0, 1)),
			other => sprintf('worker %.4f %%, launcher %.4f %%', share($running, 0), share($running, 1)),
			goal => 'under 0.1 %',
			met => share($running, 0, 1) < 0.1 ? 1 : 0
		},
		{
			work => 'processor, no jobs',
			ours => sprintf('%.4f %% of one', share($idle, 0, 1)),
			other => sprintf('worker %.4f %%, launcher %.4f %%', share($idle, 0), share($idle, 1)),
			goal => 'none',
			met => share($idle, 0, 1) < 0.001 ? 1 : 0
		},
		{
			work => 'statements, running batches',
			ours => sprintf('%d', $statements),
			other => sprintf('%d polls', $running->{polls}),
			ratio => sprintf('%.1f a poll', $by_poll),
			goal => 'none but the polls\'',
			met => $periodic == 0 ? 1 : 0
		},
		{
			work => 'statements, no jobs',
			ours => sprintf('%d', total(values %{ $idle->{calls} })),
			goal => 'none',
			met => total(values %{ $idle->{calls} }) == 0 ? 1 : 0
		}
	]);
