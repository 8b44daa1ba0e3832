# The rules of the source tree that a machine can check: which layer may know
# which, and the form and size of files and functions.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use Test::More;

# From the bottom up.  A file belongs where its name, or what stands before an
# underscore in it, is listed; it includes headers of its own layer and below.
my @layers = (
	[qw(compat)],
	[qw(batch_token digest encoding guc sessions shmem spool txn usercxt waits wake whitespace)],
	[qw(agreement answer http json provider template)],
	[qw(credential gcs gemini google jobstore openai parameters provider_anthropic provider_body
		  provider_error provider_gemini provider_google provider_openai provider_vertex sample sched target)],
	[qw(batch_task batch_watch budget channel job_task merge online pace pipeline prepare slice triggered)],
	[qw(api dess_batch launcher report submit worker)]);

my $longest_function = 75;
my $longest_file = 750;

my %text;
my %layer_of;

foreach my $path (glob dirname(__FILE__) . '/../../src/*.[ch]')
{
	open(my $file, '<', $path) or die "could not open \"$path\": $!";
	local $/;
	$text{ basename($path) } = <$file>;
}
foreach my $layer (0 .. $#layers)
{
	$layer_of{$_} = $layer foreach @{ $layers[$layer] };
}

my @files = sort keys %text;

# The number of a file's layer; undef if none claims it.
sub layer
{
	my ($name) = @_;

	$name =~ s/\.[ch]$//;
	for (;;)
	{
		return $layer_of{$name} if exists $layer_of{$name};
		$name =~ s/_[^_]*$// or return;
	}
}

# The text without comments and the content of strings, line numbers kept.
sub code_only
{
	my ($text) = @_;

	$text =~ s{(/\*.*?\*/)|("(?:[^"\\\n]|\\.)*")|('(?:[^'\\\n]|\\.)+')}
			  {my $comment = $1; defined $comment ? $comment =~ s/[^\n]//gr : '""'}gse;
	return $text;
}

# "file:line" of every line that matches.
sub lines_with
{
	my ($pattern, %in) = @_;
	my @found;

	foreach my $file (sort keys %in)
	{
		my $number = 0;
		foreach my $line (split /\n/, $in{$file})
		{
			$number++;
			push @found, "$file:$number" if $line =~ $pattern;
		}
	}
	return \@found;
}

# The files that include the header.
sub including
{
	my ($header) = @_;
	return grep { $text{$_} =~ /^\s*#\s*include\s+[<"]\Q$header\E[>"]/m } @files;
}

my %code = map { $_ => code_only($text{$_}) } @files;

# layers
cmp_ok(scalar @files, '>', 40, 'the sources are here');
is_deeply([ grep { !defined layer($_) } @files ], [], 'every file has a layer');
my @upward;
foreach my $file (@files)
{
	while ($text{$file} =~ /^\s*#\s*include\s+"([a-z_]+\.h)"/mg)
	{
		push @upward, "$file includes $1"
		  if exists $text{$1} && (layer($1) // 0) > (layer($file) // 0);
	}
}
is_deeply(\@upward, [], 'no layer knows one above it');
# txn_procedure.c runs no SQL: procedures commit through SPI
is_deeply([ grep { !/^(jobstore|target)[._]/ && $_ ne 'txn_procedure.c' } including('executor/spi.h') ],
	[], 'only jobstore and target run SQL');
is_deeply([ grep { !/^http[._]/ } including('curl/curl.h') ],
	[], 'only http knows libcurl');
is_deeply(
	lines_with(qr/provider/i, map { $_ => $code{$_} } grep { /^http[._]/ } @files),
	[], 'http knows no provider');
is_deeply(
	lines_with(qr/PG_VERSION_NUM/, map { $_ => $code{$_} } grep { $_ ne 'compat.h' } @files),
	[], 'only compat.h looks at the version of PostgreSQL');
is_deeply(
	lines_with(qr/\b(curl_easy_perform|curl_multi_(poll|wait|perform)|u?sleep|pg_usleep)\s*\(/, %code),
	[], 'nothing blocks but on the latch');

# form
my @unnamed = grep { $text{$_} !~ m{\A/\*-+\n \*\n \* \Q$_\E\n \*\t\t\S} } @files;
is_deeply(\@unnamed, [], 'every file begins with its name and its purpose');
is_deeply(lines_with(qr{//}, %code), [], 'no // comments');
is_deeply(lines_with(qr/[ \t\r]$/, %text), [], 'no white space at the end of a line');
is_deeply(lines_with(qr/^    /, %text), [], 'tabs, not spaces');
is_deeply(lines_with(qr/\b(TODO|FIXME|XXX)\b/, %text), [], 'nothing left to do');
is_deeply(lines_with(qr/"failed to /, %text), [], 'errors say "could not"');

# size
my @long_files = grep { ($text{$_} =~ tr/\n//) > $longest_file } @files;
is_deeply(\@long_files, [], "no file is longer than $longest_file lines");
my @long_functions;
foreach my $file (@files)
{
	my $number = 0;
	my $start;
	foreach my $line (split /\n/, $text{$file})
	{
		$number++;
		$start = $number if $line =~ /^\{/;
		next unless $line =~ /^\}/ && defined $start;
		push @long_functions, "$file:$start" if $number - $start > $longest_function;
		undef $start;
	}
}
is_deeply(\@long_functions, [], "no function is longer than $longest_function lines");

done_testing();
