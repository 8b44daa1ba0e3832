# latency.pl
#		How soon a submitted job is at the server, and an answer in its row.
#
# The worker is running.  Begin: the moment before COMMIT of the transaction of
# submit is sent; the commit itself is part of what is measured.  End of a row:
# the time of its commit, as track_commit_timestamp keeps it.  What passes
# between the worker and the server, a proxy tells.

use strict;
use warnings;
use utf8;

use Bench;
use DBI;
use DessBatch;
use Tap;
use Time::HiRes qw(time);

my $times = 15;
my $rows = 100;
my $node = start_bench_node('latency', conf => "track_commit_timestamp = on\n");
my $simulator = start_simulator(batch_ms => 50);
my $tap = Tap->new($simulator->url);
my $dbh = DBI->connect('dbi:Pg:' . $node->connstr('postgres'), '', '', { RaiseError => 1, PrintWarn => 0, AutoCommit => 1 });

create_server($node, $simulator, base_url => $tap->url . '/v1');
create_big_faculty($node, 'faculty', $rows);

# One job; milliseconds from commit to the first request, and from the last byte of a result to the last row.
sub run_job
{
	my ($mode) = @_;

	$dbh->do('UPDATE faculty SET department_llm = NULL');
	$tap->passed;
	$dbh->begin_work;
	my ($job) = $dbh->selectrow_array("SELECT dess_batch_submit('faculty', 'gpt-5.4-nano', mode => ?)", undef, $mode);
	my $committed = time;
	$dbh->commit;
	$dbh->do("CALL dess_batch_wait($job)");

	my ($answered, $written) = $dbh->selectrow_array(
		'SELECT count(department_llm), extract(epoch FROM max(pg_xact_commit_timestamp(xmin))) FROM faculty');
	my @passed = $tap->passed;
	my ($first) = grep { $_->{request} =~ m{^POST} } @passed;
	my @results = grep { $_->{request} =~ ($mode eq 'online' ? qr{^POST /v1/chat} : qr{^GET /v1/files/[^/]+/content}) } @passed;
	my ($last) = sort { $b <=> $a } map { $_->{ended} } @results;

	die "$answered of $rows rows were answered" unless $answered == $rows;
	return (1000 * ($first->{begun} - $committed), 1000 * ($written - $last));
}

run_job($_) foreach qw(online batch);
my (%first, %last);

foreach my $time (1 .. $times)
{
	foreach my $mode (qw(batch online))
	{
		my ($first, $last) = run_job($mode);

		push @{ $first{$mode} }, $first;
		push @{ $last{$mode} }, $last;
	}
}
$dbh->disconnect;

sub line
{
	my ($work, $limit, @milliseconds) = @_;
	my @sorted = sort { $a <=> $b } @milliseconds;

	return {
		work => $work,
		ours => sprintf('%.1f ms', median(@sorted)),
		other => sprintf('%.1f to %.1f ms', $sorted[0], $sorted[-1]),
		goal => "under $limit ms",
		met => median(@sorted) < $limit ? 1 : 0
	};
}

bench_result(
	title => 'from commit to server, from answer to row',
	how => "$times jobs of $rows rows for each mode, in turn; the median, and the range beside it. The worker was running, fsync on; "
	  . 'the proxy that measures is in the way. The first request of a batch is its upload; the last byte of a result is that of the result file, or of the last answer.',
	rows => [
		line('commit of submit to first request, batch', 20, @{ $first{batch} }),
		line('commit of submit to first request, online', 20, @{ $first{online} }),
		line('last byte of a result to the committed row, batch', 300, @{ $last{batch} }),
		line('last byte of a result to the committed row, online', 300, @{ $last{online} })
	]);
