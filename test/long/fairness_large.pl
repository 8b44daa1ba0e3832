# A ledger of a million rows: choosing by what is known of them, cancelling,
# failing, retrying and forgetting do not hold up another owner's ten rows.  The
# figures are printed for test/RESULTS.md.

use strict;
use warnings;

use DessBatch;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('fairness_large');
my $copies = $ENV{FAIRNESS_BATCHES} // 20;
my $batch_rows = 50_000;
my $rows = $copies * $batch_rows;
my $rounds = 0;
$PostgreSQL::Test::Utils::timeout_default = 1800;

sub sql { return $node->safe_psql('postgres', $_[0]); }

create_server($node, $simulator);
sql(qq{
	CREATE ROLE other LOGIN;
	GRANT USAGE ON FOREIGN SERVER openai TO other;
	CREATE TABLE ten (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO ten SELECT i, 'row ' || i FROM generate_series(1, 10) i;
	ALTER TABLE ten OWNER TO other;
	CREATE TABLE large (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO large SELECT i, 'text ' || i FROM generate_series(1, $rows) i;
	ANALYZE large;});

sub ten_rows
{
	my $prompt = 'number ' . ++$rounds . ' {body}';
	my $job = sql(qq{
		SET client_min_messages = warning;
		SET ROLE other;
		SELECT dess_batch_submit('ten', 'gpt-4o-mini', '$prompt', 'answer', overwrite => true, server => 'openai')});
	wait_for_job($node, $job);
	return sql("SELECT extract(epoch FROM finished_at - created_at) FROM dess_batch_jobs WHERE job_id = $job");
}

my $alone = (sort { $a <=> $b } map { ten_rows() } 1 .. 3)[1];

# Ten rows again and again, until the condition holds.
sub beside
{
	my ($what, $until) = @_;
	my $start = time;
	my @took;

	do { push @took, ten_rows() } until sql("SELECT $until") eq 't' || time - $start > 1800;
	diag sprintf('%s: %d s; ten rows beside it %d times, alone %.2f s, at most %.2f s',
		$what, time - $start, scalar(@took), $alone, max(@took));
	cmp_ok(max(@took) - $alone, '<', 2, "$what: ten rows wait for less than 2 s");
	return;
}

sub figures { return "(SELECT concat_ws(' ', state, rows, done, failed, pending) FROM dess_batch_jobs WHERE job_id = $_[0])"; }

# ---- batches that were prepared, and are cancelled

my $job = sql(q{
	SET client_min_messages = warning;
	SELECT dess_batch_prepare('large', 'gpt-4o-mini', '{body}', 'answer', server => 'openai')});
beside("preparing $rows rows", "(SELECT prepared FROM (SELECT count(*) = $rows AS prepared FROM dess_batch_rows WHERE job_id = $job) p)");
sql("SELECT dess_batch_cancel($job)");
beside("cancelling $rows rows", figures($job) . " = 'cancelled $rows 0 $rows 0'");

# ---- chosen by what is known of them

my $only = sql(q{
	SET client_min_messages = warning;
	SELECT dess_batch_prepare('large', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', outcomes => '{cancelled}')});
beside("choosing $rows rows with \"outcomes\"", "(SELECT rows = $rows FROM dess_batch_jobs WHERE job_id = $only)");
sql("SELECT dess_batch_cancel($only)");
beside("cancelling them", figures($only) . " = 'cancelled $rows 0 $rows 0'");

# ---- sent once more, and forgotten

my $start = time;
sql("SELECT dess_batch_retry($only, '{cancelled}')");
diag sprintf('dess_batch_retry of %d rows: %d s in the session of the caller', $rows, time - $start);
beside('preparing some of them again', "(SELECT pending < $rows OR count(*) > 0 FROM dess_batch_jobs LEFT JOIN dess_batch_batches b USING (job_id) WHERE job_id = $only AND b.batch_no > $copies GROUP BY pending)");
sql("SELECT dess_batch_cancel($only)");
beside("cancelling what waits", "(SELECT state = 'cancelled' FROM dess_batch_jobs WHERE job_id = $only)");

$node->stop;
$simulator->stop;
done_testing();
