# Runs TAP tests: tap.pl JOBS COUNTS FILE..., so many files at a time.
#
# It counts single tests and writes "N passed, N failed" into COUNTS.  What
# prove lets pass is a failure here: a skipped test and one marked "todo",
# because a missing tool must not look like a success.  Only a file that skips
# all with a reason that begins with "not run: " counts as neither: it needs what
# does not exist for this version of PostgreSQL.  A file that runs longer
# than FILE_TIMEOUT seconds is stopped.

use strict;
use warnings;

use TAP::Harness;

my $file_timeout = $ENV{FILE_TIMEOUT} // 900;

my $passed = 0;
my $failed = 0;

sub count_file
{
	my ($file, $parser) = @_;
	my %bad = map { $_ => 'failed' } $parser->failed;

	$bad{$_} = 'skipped' foreach $parser->skipped;
	$bad{$_} = 'marked todo' foreach $parser->todo;

	my $ran = $parser->tests_run;
	my $left_out = $parser->skip_all // '';

	if ($left_out =~ /^not run: /)
	{
		print "$file: $left_out\n";
		return;
	}
	my $missing = ($parser->tests_planned // $ran) - $ran;
	my $broken = $parser->skip_all || $parser->has_problems || $ran == 0;

	print "$file: test $_ $bad{$_}\n" foreach sort { $a <=> $b } keys %bad;
	print "$file: skipped altogether: ", $parser->skip_all, "\n"
	  if $parser->skip_all;
	print "$file: $missing tests did not run\n" if $missing > 0;

	my $failures = keys(%bad) + ($missing > 0 ? $missing : 0);
	$failures = 1 if $failures == 0 && $broken;

	$passed += $ran - keys %bad;
	$failed += $failures;
	return;
}

my $jobs = shift @ARGV;
my $counts = shift @ARGV;
die "tap.pl: no tests given\n" unless @ARGV;

my $harness = TAP::Harness->new(
	{
		jobs => $jobs,
		timer => 1,
		failures => 1,
		exec => [ 'timeout', '--foreground', $file_timeout, $^X ]
	});
my $result = $harness->runtests(@ARGV);

count_file($_, $result->parsers($_)) foreach $result->descriptions;
open(my $file, '>', $counts) or die "could not write \"$counts\": $!";
print $file "$passed passed, $failed failed\n";
close($file);
exit($failed ? 1 : 0);
