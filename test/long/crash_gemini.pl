# The whole crash matrix of provider gemini: see crash_rounds in DessBatch/Crash.pm.

use strict;
use warnings;

use DessBatch::Crash;
use Test::More;

crash_rounds('gemini');
done_testing();
