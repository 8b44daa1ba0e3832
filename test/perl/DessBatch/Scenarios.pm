# DessBatch/Scenarios.pm
#		Many jobs at once, each with a provider that misbehaves in its own way.
#
# Each scenario has a simulator, a server and a table of its own, named after
# its number.  All jobs are submitted before the first one is looked at, so
# that they wait beside each other and one worker has to do justice to all.

package DessBatch::Scenarios;

use strict;
use warnings;

use DessBatch;
use Exporter 'import';
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  scenario
  run_scenarios
  TRUE
);

use constant TRUE => JSON::PP::true;

my @scenarios;

# Adds a scenario.  Options: provider (openai), rows (10), body (SQL expression
# of a row's text, given its number i), server (reference to a hash of server
# options), faults (reference to an array of the simulator's rules), settings
# (reference to a hash of its settings), model, arguments (further SQL arguments
# of dess_batch_submit), mode, key (what the user mapping says), base_url
# (instead of the simulator's), flags (reference to an array: more of the simulator's), check (called with the scenario, in a subtest,
# when the job stands still; with wait => 0 at once).
sub scenario
{
	my ($name, %options) = @_;
	my $number = @scenarios + 1;

	push @scenarios,
	  bless { rows => 10, wait => 1, %options, name => $name,
		server_name => "server_$number", table => "table_$number" }, __PACKAGE__;
	return;
}

# Starts all scenarios, then checks them in order.  Option: started, called in
# between with the last one.
sub run_scenarios
{
	my ($node, %options) = @_;

	foreach my $s (@scenarios)
	{
		$s->{node} = $node;
		$s->start;
	}
	$options{started}->($scenarios[-1]) if $options{started};
	foreach my $s (@scenarios)
	{
		subtest $s->{name} => sub {
			$s->{state} = wait_for_job($node, $s->{job}) if $s->{wait};
			$s->{check}->($s);
			$s->{simulator}->stop;
		};
	}
	return;
}

sub start
{
	my ($s) = @_;
	my $mode = $s->{mode} // 'batch';
	my $provider = $s->{provider} // 'openai';
	my $model = $s->{model} // ($provider eq 'openai' ? 'gpt-4o-mini' : 'gemini-3.5-flash');
	my $body = $s->{body} // q{'item' || i || ' of many'};
	my $more = $s->{arguments} ? ", $s->{arguments}" : '';

	$s->{simulator} = start_simulator(
		batch_ms => $s->{batch_ms} // 30,
		google => $provider eq 'vertex',
		arguments => [ '--threads', 2, @{ $s->{flags} // [] } ]);
	$s->{simulator}->post('settings', $s->{settings}) if $s->{settings};
	$s->{simulator}->post('faults', $s->{faults}) if $s->{faults};
	create_server(
		$s->{node}, $s->{simulator},
		name => $s->{server_name},
		provider => $provider,
		options => $s->{server} // {},
		exists $s->{key} ? (key => $s->{key}) : (),
		$s->{base_url} ? (base_url => $s->{base_url}) : ());
	$s->sql(qq{
		CREATE TABLE $s->{table} (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $s->{table} SELECT i, $body FROM generate_series(1, $s->{rows}) i});
	$s->{job} = submit_job($s->{node},
		"'$s->{table}', '$model', prompt => '{body}', target => 'answer', "
		  . "mode => '$mode', server => '$s->{server_name}'$more");
	return;
}

sub sql
{
	my ($s, $sql) = @_;
	return $s->{node}->safe_psql('postgres', $sql);
}

# One value or row out of a query on view dess_batch_NAME for this job.
sub look
{
	my ($s, $view, $what) = @_;
	return $s->sql("SELECT $what FROM dess_batch_$view WHERE job_id = $s->{job}");
}

sub stats { return $_[0]{simulator}->get('stats'); }
sub ends { return outcomes($_[0]{node}, $_[0]{job}); }
sub figures { return job_figures($_[0]{node}, $_[0]{job}); }

# Is every row of the table answered with what belongs to it?
sub all_answered
{
	my ($s, $name) = @_;

	is($s->sql("SELECT count(*) FILTER (WHERE answer NOT LIKE 'item' || id || ' %' OR answer IS NULL) FROM $s->{table}"),
		0, $name // 'every row has its own answer');
	return;
}

# "state, done, failed": what the job has come to.
sub ended
{
	my ($s, $state, $done, $failed) = @_;

	is($s->figures, join(' ', $state, $done + $failed, $done, $failed, 0),
		"$state, $done done, $failed failed");
	return;
}

# Waits until nothing of the job is left at the provider.
sub cleaned
{
	my ($s) = @_;
	my $left = -1;

	eval {
		wait_until('the remote files are gone',
			sub { return ($left = $s->files_left) == 0 });
	};
	is($left, 0, 'nothing is left at the provider');
	return;
}

# How many files of ours the provider has.
sub files_left
{
	my ($s) = @_;
	my $provider = $s->{provider} // 'openai';

	return $s->stats->{files_alive} if $provider eq 'openai';
	return scalar(my @objects = $s->{simulator}->objects) if $provider eq 'vertex';
	return $s->{simulator}->gemini_files;
}

# How often requests of this kind came ("POST /v1/batches").
sub requests { return $_[0]->stats->{requests}{ $_[1] } // 0; }

# Waits for an SQL condition.
sub until_true
{
	my ($s, $sql, $name) = @_;
	return ok($s->{node}->poll_query_until('postgres', "SELECT $sql"), $name);
}

1;
