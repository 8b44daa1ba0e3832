# The whole crash matrix of provider vertex: see crash_rounds in DessBatch/Crash.pm.

use strict;
use warnings;

use DessBatch::Crash;
use Test::More;

crash_rounds('vertex');
done_testing();
