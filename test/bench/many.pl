# many.pl
#		More requests at once than a process usually has descriptors.
#
# The server, nginx, keeps every request waiting, so all connections are open at
# the same time.  What the worker uses of a processor meanwhile is what it does
# for nothing.

use strict;
use warnings;
use utf8;

use Bench;
use DessBatch;
use Time::HiRes qw(sleep time);
use Web;

my $at_once = 1500;
my $seconds = 8;

# a quarter of a process's descriptors is for connections
system('prlimit', '--pid', $$, '--nofile=8000:') == 0 or die 'could not raise the limit of open files';
my $node = start_bench_node('many', conf => "max_files_per_process = 7500\n");
my $web = Web->new;

create_server($node, undef, base_url => $web->slow_url, key => 'test-key', options => { max_concurrency => $at_once });
create_big_faculty($node, 'learning', 10 * $at_once);
create_big_faculty($node, 'faculty', 2 * $at_once);
# how many at once the server takes, the worker finds out answer by answer
my $learning = $node->safe_psql('postgres', "SELECT dess_batch_submit('learning', 'gpt-5.4-nano', mode => 'online')");
$node->safe_psql('postgres', "CALL dess_batch_wait($learning)");
$node->safe_psql('postgres', "ALTER SERVER openai OPTIONS (SET base_url '" . $web->late_url . "')");

sub descriptors
{
	my ($pid) = @_;
	my @files = glob "/proc/$pid/fd/*";
	return scalar @files;
}

# Is the kernel not asked for anything?  Voluntary switches of a process, each an end of a wait.
sub waits
{
	my ($pid) = @_;

	open(my $status, '<', "/proc/$pid/status") or die "process $pid: $!";
	my ($count) = map { /^voluntary_ctxt_switches:\s*(\d+)/ } <$status>;
	close $status;
	return $count;
}

my $job = $node->safe_psql('postgres', "SELECT dess_batch_submit('faculty', 'gpt-5.4-nano', mode => 'online')");
my $worker;
wait_until('the worker runs', sub { return $worker = worker_pid($node) });
wait_until('all requests are at the server', sub { return descriptors($worker) > $at_once });
# the last of them are still being sent
sleep 2;
my ($open, $used, $waits) = (descriptors($worker), processor_seconds($worker), waits($worker));
my $start = time;
sleep $seconds;
my $took = time - $start;
my $still = descriptors($worker);
$used = processor_seconds($worker) - $used;
$waits = waits($worker) - $waits;
die "$open connections became $still" unless $still >= $open;

$node->safe_psql('postgres', "CALL dess_batch_wait($job)");
my $rows = 2 * $at_once;
my $figures = job_figures($node, $job);
die "job $job: $figures" unless $figures eq "done $rows $rows 0 0";

bench_result(
	title => 'many requests at once',
	how => sprintf('max_concurrency %d, max_files_per_process 7500; nginx answers after %d s. The worker\'s descriptors as /proc/PID/fd has them, its processor time '
		  . 'over %.1f s in which all requests waited. All %d rows were answered.', $at_once, Web::long_delay(), $took, $rows),
	rows => [
		{
			work => 'descriptors of the worker',
			ours => "$open",
			goal => 'more than 1024',
			met => $open > 1024 ? 1 : 0
		},
		{
			work => "processor while $at_once requests wait",
			ours => sprintf('%.4f %% of one', 100 * $used / $took),
			other => sprintf('%.1f wake-ups a second', $waits / $took),
			goal => 'under 0.1 %',
			met => $used / $took < 0.001 ? 1 : 0
		}
	]);
