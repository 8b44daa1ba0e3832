# DessBatch/Session.pm
#		A psql that stays connected, for tests that need a session to wait, to
#		listen or to hold a transaction open.
#
# PostgreSQL's own class for this differs from version to version.

package DessBatch::Session;

use strict;
use warnings;

use Carp;
use IPC::Run;
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Utils;

my $marks = 0;

# Options: database (postgres), user.  Statements run with autocommit.
sub new
{
	my ($class, $node, %options) = @_;
	my $self = bless { in => '', out => '', err => '' }, $class;
	my $connection = $node->connstr($options{database} // 'postgres');

	$connection .= " user=$options{user}" if defined $options{user};
	$self->{run} = IPC::Run::start(
		[ $node->installed_command('psql'), '-XAtq', '-d', $connection ],
		'<', \$self->{in}, '>', \$self->{out}, '2>', \$self->{err});
	$self->{pid} = $self->query('SELECT pg_backend_pid()');
	return $self;
}

# The process id of the session's backend.
sub pid { return $_[0]{pid}; }

# Runs SQL to its end and returns what it printed.  Errors are in errors().
sub query
{
	my ($self, $sql) = @_;

	$self->start($sql);
	return $self->finish;
}

# Sends SQL and does not wait.
sub start
{
	my ($self, $sql) = @_;

	$self->{mark} = 'mark ' . ++$marks;
	$self->{out} = $self->{err} = '';
	$self->{in} .= "$sql\n;\n\\echo $self->{mark}\n\\warn $self->{mark}\n";
	$self->{run}->pump_nb;
	return;
}

# Waits for what was started and returns what it printed.
sub finish
{
	my ($self) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;
	my $mark = qr/^$self->{mark}\n/m;

	until ($self->{out} =~ $mark && $self->{err} =~ $mark)
	{
		croak "psql does not come to an end: $self->{out}$self->{err}"
		  if time > $deadline || !$self->{run}->pumpable;
		$self->{run}->pump_nb;
		sleep 0.01;
	}
	s/$mark// foreach @$self{qw(out err)};
	$self->{out} =~ s/\n\z//;
	return $self->{out};
}

# What the last query wrote to its standard error.
sub errors { return $_[0]{err}; }

# Ends the session.
sub close
{
	my ($self) = @_;

	return unless $self->{run};
	$self->{in} .= "\\q\n";
	eval { $self->{run}->finish; };
	delete $self->{run};
	return;
}

1;
