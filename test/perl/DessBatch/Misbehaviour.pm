# DessBatch/Misbehaviour.pm
#		Tables of what a provider can do wrong, and what has to come of it.
#
# Built on DessBatch::Scenarios: a table of single answers becomes one job with a
# row for each line of the table and some good rows beside them, so that whatever
# is wrong with one must not touch the others.

package DessBatch::Misbehaviour;

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use Exporter 'import';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  answers
  refusals
  seen
  worker_pid
  worker_unharmed
);

# Adds a scenario out of a table of single answers.  Options: provider, mode,
# path (of online requests, as the simulator's rules have it), cases, more as
# for scenario().  A case: [name, fault, outcome, attempts, error code (undef: any),
# words (regular expression or undef)]; the fault is what the simulator does to the
# row's request, or in mode batch to its line.
sub answers
{
	my ($name, %options) = @_;
	my @cases = @{ delete $options{cases} };
	my $path = delete $options{path};
	my $good = 5;
	my @faults;

	foreach my $n (1 .. @cases)
	{
		my %fault = %{ $cases[$n - 1][1] };
		my $match = { prompt => "item$n of", $path ? (path => $path) : () };

		push @faults, { match => $match, %fault };
	}
	scenario(
		$name,
		%options,
		rows => @cases + $good,
		faults => \@faults,
		arguments => join(', ', 'max_failed => 1', $options{arguments} // ()),
		check => sub {
			my ($s) = @_;
			my %told;

			foreach my $row (split /\n/, $s->sql(qq{
				SELECT concat_ws('~', row_key ->> 'id', outcome, attempts, coalesce(error_code, ''), coalesce(error, ''))
				FROM dess_batch_rows WHERE job_id = $s->{job}}))
			{
				my ($id, @values) = split /~/, $row, 5;
				$told{$id} = \@values;
			}
			is($s->{state}, 'done', 'the job ends');
			foreach my $n (1 .. @cases)
			{
				my ($case, undef, $outcome, $attempts, $code, $words) = @{ $cases[$n - 1] };

				is("$told{$n}[0] $told{$n}[1]", "$outcome $attempts", "$case: $outcome, attempts $attempts")
				  or diag("error: $told{$n}[2]: $told{$n}[3]");
				is($told{$n}[2], $code, "$case: error code") if defined $code;
				like($told{$n}[3], $words, "$case: words") if defined $words;
			}
			my @bad = grep { $cases[ $_ - 1 ][2] !~ /^(ok|missing)$/ } 1 .. @cases;
			$s->ended('done', @cases + $good - @bad, scalar @bad);
			is($s->sql("SELECT count(*) FROM $s->{table} WHERE id > " . @cases . " AND answer LIKE 'item' || id || ' %'"),
				$good, 'the rows beside them are answered');
			is($s->sql("SELECT count(answer) FROM $s->{table} WHERE id IN (0" . join('', map { ", $_" } @bad) . ')'),
				0, 'no error text stands in the table');
			is($s->sql(qq{
				SELECT count(*) FROM $s->{table} t JOIN dess_batch_rows r ON r.job_id = $s->{job} AND (r.row_key ->> 'id')::integer = t.id
				WHERE r.outcome = 'ok' AND t.answer IS NULL}), 0, 'what ended well is written');
			is(join(' ', map { $_->{rule}{match}{prompt} } grep { $_->{fired} == 0 } @{ $s->{simulator}->get('faults') }),
				'', 'every fault came true');
			$s->cleaned;
		});
	return;
}

# Adds a scenario for each line of a table of answers that stop a whole job.
# Options as for scenario(), cases.  A case: [name, fault, error code, words].
# Requests of the mode's kind are counted: after the first certain answer, only
# what was under way may still come.
sub refusals
{
	my ($name, %options) = @_;
	my @cases = @{ delete $options{cases} };
	my $match = delete $options{match};

	foreach my $case (@cases)
	{
		my ($what, $fault, $code, $words) = @$case;

		scenario(
			"$name: $what",
			%options,
			faults => [ { match => $match, %$fault } ],
			check => sub {
				my ($s) = @_;
				my $fired = $s->{simulator}->get('faults')->[0]{fired};

				is($s->{state}, 'failed', 'the job fails');
				is($s->look('jobs', 'error_code'), $code, 'for that reason');
				like($s->look('jobs', 'error'), $words, "with the provider's words");
				cmp_ok($fired, '<=', $options{server}{max_concurrency} // 1, "after one certain answer ($fired)");
				is($s->look('jobs', 'failed'), 0, 'no row has failed');
				is($s->sql("SELECT count(answer) FROM $s->{table}"), $s->look('jobs', 'done'), 'what was answered before is written');
				is($s->look('jobs', 'done'), $s->stats->{rows_served}, 'all of it');
			});
	}
	return;
}

# How often this kind of request came, with this status if one is given.
sub seen
{
	my ($s, $method, $path, $status) = @_;
	my $list = $s->{simulator}->get("requests?limit=20000&method=$method&path=$path")->{requests};
	return scalar grep { !defined $status || $_->{status} == $status } @$list;
}

# The process that does all this.
sub worker_pid
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		q{SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
}

# It is still the same, and nothing has crashed.
sub worker_unharmed
{
	my ($node, $pid) = @_;
	my $log = slurp_file($node->logfile);

	like($pid, qr/^\d+$/, 'there was one worker');
	is(worker_pid($node), $pid, 'the worker is still the same');
	unlike($log, qr/terminated by signal|PANIC|TRAP:|exited with exit code|invalid memory|corrupt/, 'and nothing has crashed');
	return;
}

1;
