# Prints the reports in which code of ours has a part, and how many there are:
# report.pl SOURCES LOG...
#
# A frame is ours when its file lies in SOURCES, or its object is dess_batch.so.

use strict;
use warnings;

my $sources = shift @ARGV;
my $processes = 0;
my %seen;
my @ours;

foreach my $name (@ARGV)
{
	open(my $file, '<', $name) or die "could not open \"$name\": $!\n";
	local $/;
	my $log = <$file> // '';

	$processes++;
	$log =~ s/^==\d+== ?//mg;
	foreach my $report (split /\n\s*\n/, $log)
	{
		my ($stack) = split /^\{$/m, $report;
		next unless $stack =~ m{\(\Q$sources\E/|dess_batch\.so\)};
		my $same = $stack =~ s/0x[0-9A-F]+|[\d,]+ bytes in [\d,]+ blocks|loss record .*//gr;
		push @ours, "$name\n$report" unless $seen{$same}++;
	}
}
print "$_\n\n" foreach @ours;
print "$processes processes, ", scalar @ours, " reports of code of ours\n";
exit($processes > 0 && @ours == 0 ? 0 : 1);
