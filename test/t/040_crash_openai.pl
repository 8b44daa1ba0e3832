# OpenAI's batches, when the worker is killed: at every state that is committed,
# in the middle of every transaction, and at every request under way.

use strict;
use warnings;

use DessBatch;
use DessBatch::Crash;
use DessBatch::CrashPoints;
use DessBatch::Session;
use Test::More;

my $node = crash_node('crash_openai');
my @requests = request_points('openai');
my @transactions = transaction_points();

crash_matrix($node, [ @requests, @transactions ], kill => \&kill_workers, prefix => 'worker: ');

# The provider's queue was full, so the batch is put back: that is one step, or
# a batch that runs and has no name would be found.
crash_matrix($node, [
	[ 'a batch is put back', pin => 'running>uploaded', batches => 1,
		faults => [ { batch => { state => 'failed', code => 'token_limit_exceeded', message => 'Enqueued token limit reached' }, times => 1 } ],
		between => sub {
			my ($p) = @_;

			wait_until('it is put back', sub {
				return $p->sql("SELECT count(*) FROM dess_batch.batch WHERE job_id = $p->{job} AND state = 'uploaded' AND remote_id IS NULL") > 0
				  || $p->stats->{batches_created} > 3;
			});
			# the wait is over, says the ledger to the next worker
			$p->sql("UPDATE dess_batch.batch SET next_poll_at = now() WHERE job_id = $p->{job} AND state = 'uploaded'");
			kill_workers($p->{node}) if $p->stats->{batches_created} == 3;
		} ] ], kill => \&kill_workers, prefix => 'worker: ');

# The batch is made and its name cannot be committed: no crash, and no second one.
crash_matrix($node, [ [ 'the commit of the name of a batch fails', pin => 'creating>running' ] ],
	kill => sub {
		my ($n) = @_;

		$n->safe_psql('postgres', q{
			SELECT pg_cancel_backend(a.pid) FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
			WHERE l.locktype = 'advisory' AND NOT l.granted});
	});

$node->stop;
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|terminated by signal (?!9)/,
	'nothing has crashed but what was killed');

note crash_figures();
done_testing();
