# DessBatch/Plot.pm
#		Curves over time as a picture (SVG).

package DessBatch::Plot;

use strict;
use warnings;

use Exporter 'import';
use List::Util qw(max);

our @EXPORT = qw(write_plot);

use constant {
	WIDTH => 900,
	HEIGHT => 360,
	LEFT => 70,
	RIGHT => 20,
	TOP => 60,
	BOTTOM => 45
};

my @colors = ('#1f6fb4', '#d2691e', '#2e8b57', '#8a2be2', '#555555');

# Writes FILE.  Options: title, x and y (what the axes show), series (reference to
# an array of [name, [x, y], [x, y], ...]), marks (reference to an array of
# [x, what happened then]).
sub write_plot
{
	my ($name, %options) = @_;
	my @series = @{ $options{series} };
	my @points = map { my (undef, @p) = @$_; @p } @series;
	my ($step_x, $step_y) = (_step(max(1, map { $_->[0] } @points)), _step(max(1, map { $_->[1] } @points)));
	my $max_x = max(1, map { $_->[0] } @points);
	my $max_y = $step_y * (1 + int(max(1, map { $_->[1] } @points) / $step_y));
	my $at_x = sub { LEFT + $_[0] / $max_x * (WIDTH - LEFT - RIGHT) };
	my $at_y = sub { HEIGHT - BOTTOM - $_[0] / $max_y * (HEIGHT - TOP - BOTTOM) };
	my $svg = sprintf(
		qq{<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">\n}
		  . qq{<rect width="100%%" height="100%%" fill="white"/>\n}
		  . qq{<text x="%d" y="22" font-size="15">%s</text>\n},
		WIDTH, HEIGHT, LEFT, _text($options{title}));

	for (my $y = 0; $y <= $max_y; $y += $step_y)
	{
		$svg .= sprintf(
			qq{<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#dddddd"/>\n}
			  . qq{<text x="%d" y="%.1f" text-anchor="end">%s</text>\n},
			LEFT, WIDTH - RIGHT, ($at_y->($y)) x 2, LEFT - 6, $at_y->($y) + 4, $y);
	}
	for (my $x = 0; $x <= $max_x; $x += $step_x)
	{
		$svg .= sprintf(qq{<text x="%.1f" y="%d" text-anchor="middle">%s</text>\n},
			$at_x->($x), HEIGHT - BOTTOM + 16, $x);
	}
	foreach my $mark (@{ $options{marks} // [] })
	{
		my ($x, $what) = @$mark;
		$svg .= sprintf(
			qq{<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#bb0000" stroke-dasharray="3 3"><title>%s</title></line>\n},
			($at_x->($x)) x 2, TOP, HEIGHT - BOTTOM, _text($what));
	}
	foreach my $i (0 .. $#series)
	{
		my ($label, @curve) = @{ $series[$i] };
		my $color = $colors[ $i % @colors ];
		$svg .= sprintf(
			qq{<polyline fill="none" stroke="%s" stroke-width="1.3" points="%s"/>\n}
			  . qq{<text x="%d" y="42" fill="%s">%s</text>\n},
			$color, join(' ', map { sprintf('%.1f,%.1f', $at_x->($_->[0]), $at_y->($_->[1])) } @curve),
			LEFT + $i * 260, $color, _text($label));
	}
	$svg .= sprintf(
		qq{<text x="%d" y="%d" text-anchor="middle">%s</text>\n}
		  . qq{<text x="16" y="%d" text-anchor="middle" transform="rotate(-90 16 %d)">%s</text>\n</svg>\n},
		(WIDTH + LEFT) / 2, HEIGHT - 8, _text($options{x}), (HEIGHT) / 2, (HEIGHT) / 2, _text($options{y}));

	open(my $file, '>', $name) or die "could not open \"$name\": $!";
	print $file $svg;
	close($file) or die "could not write \"$name\": $!";
	return;
}

# A round distance of lines, for about eight of them.
sub _step
{
	my ($largest) = @_;
	my $step = 1;

	for (my $i = 0; $step * 8 < $largest; $i++)
	{
		$step *= (2, 2.5, 2)[ $i % 3 ];
	}
	return $step;
}

sub _text
{
	my ($text) = @_;
	return $text =~ s/&/&amp;/gr =~ s/</&lt;/gr;
}

1;
