# The rooms of src/: which of them may call which, and the form and size of files
# and functions.
#
# Calls are read from the symbols of the object files that were just built, so
# that a function that is declared by hand or reached through a header of
# another room is found as well.

use strict;
use warnings;

use File::Basename qw(basename dirname);
use Test::More;

my $root = dirname(__FILE__) . '/../..';

# From the bottom up: the rooms whose functions a room may call.
my @rooms = (
	runtime => [],
	text => [qw(runtime)],
	http => [qw(runtime)],
	provider => [qw(http text runtime)],
	account => [qw(provider http text runtime)],
	ledger => [qw(text runtime)],
	table => [qw(text runtime)],
	pipeline => [qw(account ledger table provider http text runtime)],
	worker => [qw(pipeline ledger http runtime)],
	api => [qw(account ledger table provider http text runtime)],
	dess_batch => [qw(api worker pipeline account ledger table provider http text runtime)]);
my %rooms = @rooms;

# Rooms that know types of another, but call nothing in it.
my %types = (ledger => ['provider'], table => [qw(ledger provider)]);

# Files of one room that call each other in a circle: at most so many.
my $largest_circle = 3;

my $longest_function = 75;
my $longest_file = 750;

sub contents
{
	my ($path) = @_;

	open(my $file, '<', $path) or die "could not open \"$path\": $!";
	local $/;
	return <$file>;
}

# The sources, by their path below src.
my %text = map { (s{^\Q$root\E/src/}{}r => contents($_)) } map { glob "$root/src/$_.[ch]" } qw(* */* */*/* */*/*/*);
our @files = sort keys %text;

# A file's room: its folder, or what the module starts with.
sub room
{
	my ($path) = @_;

	return $path =~ m{^([^/]+)/} ? $1 : $path =~ s/\.[cho]$//r;
}

# The rooms that a room may call, itself included, as a set.
sub callable
{
	my ($room) = @_;

	return map { $_ => 1 } $room, @{ $rooms{$room} };
}

# The text without comments and the content of strings, line numbers kept.
sub code_only
{
	my ($text) = @_;

	$text =~ s{(/\*.*?\*/)|("(?:[^"\\\n]|\\.)*")|('(?:[^'\\\n]|\\.)+')}
			  {my $comment = $1; defined $comment ? $comment =~ s/[^\n]//gr : '""'}gse;
	return $text;
}

# Passes if the list is empty; otherwise shows all of it.
sub none
{
	my ($list, $name) = @_;

	ok(@$list == 0, $name) or diag(join("\n", @$list));
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

# What the object files define, as symbol => file, and what each refers to.
sub read_symbols
{
	my (%defined, %used);
	my @objects = map { "$root/src/" . s/\.c$/.o/r } grep { /\.c$/ } @files;

	open(my $nm, '-|', 'nm', '--format=posix', '--print-file-name', @objects)
	  or die "could not run nm: $!";
	while (my $line = <$nm>)
	{
		my ($source, $name, $kind) = $line =~ m{/src/([a-z0-9_/]+)\.o: (\S+) (\S)} or next;
		if ($kind eq 'U') { push @{ $used{"$source.c"} }, $name }
		elsif ($kind =~ /[A-Z]/) { $defined{$name} = "$source.c" }
	}
	close($nm) or die 'nm could not read all object files; run make first';
	return (\%defined, \%used);
}

# References between files: file => { other file => [ symbols ] }.
sub references
{
	my ($defined, $used) = @_;
	my %references;

	foreach my $file (keys %$used)
	{
		foreach my $name (@{ $used->{$file} })
		{
			my $other = $defined->{$name};
			push @{ $references{$file}{$other} }, $name if defined $other && $other ne $file;
		}
	}
	return \%references;
}

# References to rooms that the file's own room may not use, as "file -> file (symbols)".
sub upward
{
	my ($references) = @_;
	my @upward;

	foreach my $file (sort keys %$references)
	{
		my %usable = callable(room($file));
		foreach my $other (sort keys %{ $references->{$file} })
		{
			push @upward, "$file -> $other (" . join(', ', sort @{ $references->{$file}{$other} }) . ')'
			  unless $usable{ room($other) };
		}
	}
	return \@upward;
}

# Groups of files of one room that reach each other (Tarjan's strongly connected components).
sub circles
{
	my ($references) = @_;
	my ($count, %index, %low, @stack, %on_stack, @circles) = (0);
	my $visit;

	$visit = sub {
		my ($file) = @_;

		$index{$file} = $low{$file} = $count++;
		push @stack, $file;
		$on_stack{$file} = 1;
		foreach my $other (sort keys %{ $references->{$file} // {} })
		{
			next if room($other) ne room($file);
			$visit->($other) unless exists $index{$other};
			$low{$file} = $low{$other} if $on_stack{$other} && $low{$other} < $low{$file};
		}
		return if $low{$file} != $index{$file};
		my @circle;
		do
		{
			push @circle, pop @stack;
			delete $on_stack{ $circle[-1] };
		} while ($circle[-1] ne $file);
		push @circles, [ sort @circle ] if @circle > 1;
	};
	foreach my $file (@files) { $visit->($file) unless exists $index{$file} }
	return @circles;
}

my %code = map { $_ => code_only($text{$_}) } @files;

# rooms
cmp_ok(scalar @files, '>', 40, 'the sources are here');
none([ grep { !exists $rooms{ room($_) } } @files ], 'every file lies in a room');
is_deeply([ grep { !m{/} } grep { /\.[ch]$/ } @files ], ['dess_batch.c'], 'no file but the start of the module lies outside');

my @upward_includes;
foreach my $file (@files)
{
	my %usable = (callable(room($file)), map { $_ => 1 } @{ $types{ room($file) } // [] });
	while ($text{$file} =~ /^\s*#\s*include\s+"([a-z_\/]+\.h)"/mg)
	{
		push @upward_includes, "$file includes $1" if exists $text{$1} && !$usable{ room($1) };
	}
}
none(\@upward_includes, 'no room includes a header of one above it');

my $references = references(read_symbols());
cmp_ok(scalar(map { keys %$_ } values %$references), '>', 100, 'the objects refer to each other');
none(upward($references), 'no room calls one above it');

my @circles = circles($references);
note "circle: @$_" foreach @circles;
none([ map { "@$_" } grep { @$_ > $largest_circle } @circles ], "no circle of files has more than $largest_circle");

# the check itself: calls in a wrong direction and a circle of four are found
is_deeply(upward({ 'runtime/a.c' => { 'api/b.c' => ['b'] }, 'api/b.c' => { 'runtime/a.c' => ['a'], 'pipeline/c.c' => ['c'] } }),
	[ 'api/b.c -> pipeline/c.c (c)', 'runtime/a.c -> api/b.c (b)' ], 'a call that runs up or aside would be found');
{
	local @files = map { "text/$_.c" } qw(a b c d e);
	my %ring = map { ("text/$_->[0].c" => { "text/$_->[1].c" => ['f'] }) } [qw(a b)], [qw(b c)], [qw(c d)], [qw(d a)], [qw(e a)];
	is_deeply([ circles(\%ring) ], [ [ map { "text/$_.c" } qw(a b c d) ] ], 'a circle would be found');
}

# who may know what; txn_procedure.c runs no SQL: procedures commit through SPI
none([ grep { !m{^(ledger|table)/} && $_ ne 'runtime/txn_procedure.c' } including('executor/spi.h') ], 'only the ledger and the user\'s table run SQL');
none([ grep { !m{^http/} } including('curl/curl.h') ], 'only http knows libcurl');
none(lines_with(qr/provider/i, map { $_ => $code{$_} } grep { m{^http/} } @files), 'http knows no provider');
none(lines_with(qr/PG_VERSION_NUM/, map { $_ => $code{$_} } grep { $_ ne 'runtime/compat.h' } @files), 'only compat.h looks at the version of PostgreSQL');
none(lines_with(qr/\b(curl_easy_perform|curl_multi_(poll|wait|perform)|u?sleep|pg_usleep)\s*\(/, %code), 'nothing blocks but on the latch');

# form
my @unnamed = grep { my $name = basename($_); $text{$_} !~ m{\A/\*-+\n \*\n \* \Q$name\E\n \*\t\t\S} } @files;
none(\@unnamed, 'every file begins with its name and its purpose');
none(lines_with(qr{//}, %code), 'no // comments');
none(lines_with(qr/[ \t\r]$/, %text), 'no white space at the end of a line');
none(lines_with(qr/^    /, %text), 'tabs, not spaces');
none(lines_with(qr/\b(TODO|FIXME|XXX)\b/, %text), 'nothing left to do');
none(lines_with(qr/"failed to /, %text), 'errors say "could not"');

# size
my @long_files = grep { ($text{$_} =~ tr/\n//) > $longest_file } @files;
none(\@long_files, "no file is longer than $longest_file lines");
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
none(\@long_functions, "no function is longer than $longest_function lines");

done_testing();
