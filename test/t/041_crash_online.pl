# Online mode, when the worker or the whole server is killed: in the middle of
# every transaction, and while requests are under way.  What is sent again is
# at most what was under way.

use strict;
use warnings;

use DessBatch;
use DessBatch::Crash;
use DessBatch::CrashPoints;
use Test::More;

my $node = crash_node('crash_online');

crash_matrix($node, [ online_request_points('openai'), online_transaction_points() ],
	mode => 'online', kill => \&kill_workers, prefix => 'worker: ');
crash_matrix($node, [ online_request_points('openai'), online_transaction_points() ],
	mode => 'online', kill => \&kill_server, prefix => 'server: ');

$node->stop;
note crash_figures();
done_testing();
