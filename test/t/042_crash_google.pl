# Vertex AI and the Gemini API, when the worker or the whole server is killed:
# at every state that is committed, in the middle of every transaction, and at
# every request under way.

use strict;
use warnings;

use DessBatch;
use DessBatch::Crash;
use DessBatch::CrashPoints;
use Test::More;

my $node = crash_node('crash_google');

foreach my $provider ('vertex', 'gemini')
{
	crash_matrix($node, [ request_points($provider) ],
		provider => $provider, kill => \&kill_workers, prefix => "$provider, worker: ");
}

$node->stop;
note crash_figures();
done_testing();
