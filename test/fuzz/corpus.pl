# A corpus as one file of text: corpus.pl unpack FILE DIRECTORY, or
# corpus.pl pack DIRECTORY, which prints it.
#
# A line is an input.  Bytes that are not printable ASCII, and the backslash,
# are written as \xHH, a line feed as \n.

use strict;
use warnings;

sub unpack_corpus
{
	my ($name, $directory) = @_;
	my $number = 0;

	open(my $file, '<', $name) or die "could not open \"$name\": $!\n";
	while (my $line = <$file>)
	{
		chomp $line;
		$line =~ s/\\(?:x([0-9a-f]{2})|n)/defined $1 ? chr(hex($1)) : "\n"/ge;
		open(my $input, '>:raw', sprintf('%s/%05d', $directory, $number++))
		  or die "could not write into \"$directory\": $!\n";
		print $input $line;
		close($input) or die "could not write into \"$directory\": $!\n";
	}
	return;
}

sub pack_corpus
{
	my ($directory) = @_;
	my @lines;

	foreach my $name (glob "$directory/*")
	{
		open(my $file, '<:raw', $name) or die "could not open \"$name\": $!\n";
		local $/;
		my $line = <$file> // '';
		$line =~ s/([^ -\[\]-~])/$1 eq "\n" ? '\n' : sprintf('\x%02x', ord($1))/ge;
		push @lines, $line;
	}
	print "$_\n" foreach sort { length($a) <=> length($b) || $a cmp $b } @lines;
	return;
}

my $action = shift @ARGV // '';

if ($action eq 'unpack' && @ARGV == 2)
{
	unpack_corpus(@ARGV);
}
elsif ($action eq 'pack' && @ARGV == 1)
{
	pack_corpus(@ARGV);
}
else
{
	die "usage: corpus.pl unpack FILE DIRECTORY | pack DIRECTORY\n";
}
