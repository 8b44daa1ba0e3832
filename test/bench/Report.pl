# Report.pl
#		Makes RESULTS.md and the plots from results/*.json: Report.pl DIRECTORY
#
# What is plotted is drawn by hand: a bar or a line each, a dashed line for a
# goal.  Colours are told apart also in grey.

use strict;
use warnings;

use JSON::PP;
use List::Util qw(max);

my $directory = shift or die "usage: Report.pl DIRECTORY\n";
my %colour = (ours => '#336791', other => '#b9c4cd', goal => '#c0392b');
my $font = 'font-family="sans-serif" font-size="13"';

sub escape
{
	my ($text) = @_;
	my %entity = ('&' => '&amp;', '<' => '&lt;', '>' => '&gt;', '"' => '&quot;');

	$text =~ s/([&<>"])/$entity{$1}/g;
	return $text;
}

sub number
{
	my ($value) = @_;
	return sprintf('%.' . ($value >= 100 ? 0 : $value >= 10 ? 1 : 2) . 'f', $value);
}

sub write_file
{
	my ($path, $text) = @_;

	open(my $file, '>:encoding(UTF-8)', $path) or die "$path: $!\n";
	print $file $text;
	close $file or die "$path: $!\n";
	return;
}

sub svg
{
	my ($width, $height, $title, @elements) = @_;

	return join("\n",
		qq{<svg xmlns="http://www.w3.org/2000/svg" width="$width" height="$height" viewBox="0 0 $width $height" $font>},
		qq{<rect width="$width" height="$height" fill="white"/>},
		qq{<text x="12" y="22" font-weight="bold">} . escape($title) . '</text>',
		@elements, "</svg>\n");
}

sub draw_bars
{
	my ($plot) = @_;
	my @bars = @{ $plot->{bars} };
	my ($left, $room, $step) = (270, 380, 28);
	my $scale = $room / (max(map({ $_->[1] } @bars), $plot->{limit} // 0) || 1);
	my $y = 40;
	my @elements;

	foreach my $bar (@bars)
	{
		my ($label, $value, $kind) = @$bar;

		push @elements,
		  sprintf('<text x="%d" y="%d" text-anchor="end">%s</text>', $left - 8, $y + 15, escape($label)),
		  sprintf('<rect x="%d" y="%d" width="%.1f" height="20" fill="%s"/>',
			$left, $y, $value * $scale, $colour{$kind}),
		  sprintf('<text x="%.1f" y="%d">%s %s</text>',
			$left + $value * $scale + 6, $y + 15, number($value), escape($plot->{unit}));
		$y += $step;
	}
	if (defined $plot->{limit})
	{
		my $x = $left + $plot->{limit} * $scale;

		push @elements,
		  sprintf('<line x1="%.1f" y1="34" x2="%.1f" y2="%d" stroke="%s" stroke-dasharray="5 4"/>',
			$x, $x, $y, $colour{goal}),
		  sprintf('<text x="%.1f" y="%d" text-anchor="end" fill="%s">goal: %s %s</text>',
			$x, $y + 14, $colour{goal}, $plot->{limit_word} // 'at most', number($plot->{limit}));
	}
	return svg($left + $room + 110, $y + 26, $plot->{title}, @elements);
}

sub draw_lines
{
	my ($plot) = @_;
	my @lines = @{ $plot->{lines} };
	my ($left, $top, $width, $height) = (80, 40, 560, 240);
	my $most_x = max(map { map { $_->[0] } @{ $_->{points} } } @lines) || 1;
	my $most_y = max(map { map { $_->[1] } @{ $_->{points} } } @lines) || 1;
	my $legend = $top + 14;
	my @elements;

	foreach my $part (0 .. 4)
	{
		my $y = $top + $height * (1 - $part / 4);
		my $x = $left + $width * $part / 4;

		push @elements,
		  sprintf('<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#e3e7ea"/>', $left, $y, $left + $width, $y),
		  sprintf('<text x="%d" y="%.1f" text-anchor="end">%s</text>', $left - 8, $y + 4, number($most_y * $part / 4)),
		  sprintf('<text x="%.1f" y="%d" text-anchor="middle">%s</text>', $x, $top + $height + 18, number($most_x * $part / 4));
	}
	foreach my $line (@lines)
	{
		my $points = join(' ', map {
			sprintf('%.1f,%.1f', $left + $_->[0] / $most_x * $width, $top + $height * (1 - $_->[1] / $most_y))
		} @{ $line->{points} });
		my $colour = $colour{ $line->{kind} };

		push @elements,
		  qq{<polyline points="$points" fill="none" stroke="$colour" stroke-width="2"/>},
		  sprintf('<text x="%d" y="%d" fill="%s">%s</text>', $left + 14, $legend, $colour, escape($line->{label}));
		$legend += 18;
	}
	push @elements,
	  sprintf('<text x="%d" y="%d" text-anchor="middle">%s; upwards: %s</text>', $left + $width / 2,
		$top + $height + 38, escape($plot->{x_unit}), escape($plot->{unit}));
	return svg($left + $width + 40, $top + $height + 52, $plot->{title}, @elements);
}

sub table
{
	my ($result) = @_;
	my $text = "| work | ours | compared with | ratio | goal | |\n| --- | --- | --- | --- | --- | --- |\n";

	foreach my $row (@{ $result->{rows} })
	{
		$text .= '| ' . join(' | ', map { $_ // '' } @$row{qw(work ours other ratio goal)})
		  . ' | ' . (!defined $row->{goal} ? '' : $row->{met} ? 'met' : '**missed**') . " |\n";
	}
	return $text;
}

my $text = <<'END';
# What was measured

Made by `make bench`; do not edit. Each table is one run: ours and what a user would do instead, on the same rows, machine and
settings. Only the ratios mean anything elsewhere.
END

foreach my $path (sort glob("$directory/results/*.json"))
{
	local $/;
	open(my $file, '<', $path) or die "$path: $!\n";
	my $result = JSON::PP->new->utf8->decode(<$file>);
	my ($name) = $path =~ m{([^/]+)\.json$};

	$text .= "\n## $name: $result->{title}\n\n" . table($result) . "\n$result->{how}\n\n"
	  . "`$result->{command}` at commit $result->{commit}, $result->{date}, $result->{machine}.\n";
	foreach my $plot (@{ $result->{plots} })
	{
		write_file("$directory/$plot->{file}.svg", $plot->{bars} ? draw_bars($plot) : draw_lines($plot));
		$text .= "\n![$plot->{title}]($plot->{file}.svg)\n";
	}
}
write_file("$directory/RESULTS.md", $text);
print "\nThe results are in test/bench/RESULTS.md.\n";
