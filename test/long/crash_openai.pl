# The whole crash matrix of provider openai: see crash_rounds in DessBatch/Crash.pm.

use strict;
use warnings;

use DessBatch::Crash;
use Test::More;

crash_rounds('openai');
done_testing();
