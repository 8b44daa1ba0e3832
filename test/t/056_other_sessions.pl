# The machine belongs to all sessions: while they want more processors than
# there are, the worker uses less than the equal part that the system would
# give to a process that never rests; as soon as they are gone, it goes on.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

use constant ROWS => 30_000;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('other_sessions');
my ($processors) = `nproc` =~ /(\d+)/ or die 'how many processors?';
my @busy = map { DessBatch::Session->new($node) } 1 .. 3 * $processors;

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub merged { return sql('SELECT count(answer) FROM texts'); }

# Seconds of processor time that a process has used.
sub cpu_seconds
{
	my ($pid) = @_;
	my @fields = split ' ', slurp_file("/proc/$pid/stat");
	return ($fields[13] + $fields[14]) / 100;
}

create_server($node, $simulator);
sql('CREATE TABLE texts (id integer PRIMARY KEY, body text, answer text)');
sql('INSERT INTO texts SELECT i, md5(i::text) FROM generate_series(1, ' . ROWS . ') i');
my $job = sql(q{SELECT dess_batch_prepare('texts', 'gpt-4o-mini', '{body}', 'answer')});

foreach my $step (qw(upload create))
{
	sql("CALL dess_batch_wait($job)");
	sql("SELECT dess_batch_$step($job)");
}
$node->poll_query_until('postgres', "SELECT bool_and(state = 'retrieving') FROM dess_batch_batches WHERE job_id = $job")
  or die 'the batch does not end';
my $worker = sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});

$_->start(q{DO $$ BEGIN LOOP NULL; END LOOP; END $$}) foreach @busy;
$node->poll_query_until('postgres',
	'SELECT count(*) = ' . @busy . q{ FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'DO %' AND pid <> pg_backend_pid()})
  or die 'the sessions are not busy';
sql("SELECT dess_batch_retrieve($job)");
$node->poll_query_until('postgres', 'SELECT count(answer) > 0 FROM texts') or die 'nothing is merged';

my $start = time;
my $used = cpu_seconds($worker);
my $before = merged();
wait_until('it has been watched', sub { return time - $start > 6 || merged() > ROWS / 2 });
my $share = (cpu_seconds($worker) - $used) / (time - $start);
my $between = merged();
my $equal = $processors / (@busy + 1);

cmp_ok($between, '>', $before, sprintf('rows are merged beside busy sessions (%d)', $between - $before));
cmp_ok($share, '<', $equal / 2,
	sprintf('the worker uses %.0f %% of a processor, less than half its equal part (%.0f %%)', 100 * $share, 100 * $equal));

sql(q{SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'DO %' AND pid <> pg_backend_pid()});
$start = time;
is(wait_for_job($node, $job), 'done', 'without them it ends');
cmp_ok(time - $start, '<', 20, sprintf('soon (%.1f s)', time - $start));
is(merged(), ROWS, 'with all answers');

$_->close foreach @busy;
$node->stop;
done_testing();
