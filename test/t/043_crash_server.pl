# OpenAI's batches, when the whole server is killed: at every state that is
# committed, in the middle of every transaction, and at every request under way.

use strict;
use warnings;

use DessBatch;
use DessBatch::Crash;
use DessBatch::CrashPoints;
use Test::More;

my $node = crash_node('crash_server');
my @requests = request_points('openai');
my @transactions = transaction_points();

crash_matrix($node, [ @requests, @transactions ], kill => \&kill_server, prefix => 'server: ');

# The postmaster alone: its children find out by themselves.
crash_matrix($node, [ grep { $_->[0] =~ /creation|upload/ } @requests ],
	kill => sub { kill_server($_[0], children => 0) }, prefix => 'postmaster: ');

$node->stop;
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|terminated by signal (?!9)/,
	'nothing has crashed but what was killed');

# Without preload nobody starts the worker again but the next commit, or whoever asks.
$node = crash_node('crash_without_preload', preload => 0);
crash_matrix($node, [ grep { $_->[0] =~ /^a creation/ } @requests ],
	kill => sub {
		my ($n) = @_;

		kill_server($n);
		is($n->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}),
			0, 'without preload no worker comes by itself');
		$n->safe_psql('postgres', 'SELECT dess_batch_start()');
	}, prefix => 'without preload: ');
$node->stop;

note crash_figures();
done_testing();
