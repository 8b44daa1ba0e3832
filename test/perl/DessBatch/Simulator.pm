# DessBatch/Simulator.pm
#		A running provider simulator (test/simulator) and its control plane.

package DessBatch::Simulator;

use strict;
use warnings;

use Carp;
use HTTP::Tiny;
use JSON::PP;
use POSIX qw(:sys_wait_h);
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Utils;

my %running;

# Options: program, directory (a new one), log (a file), key, batch_ms (how long
# each state of a batch lasts), google (write Google's credential files),
# arguments (reference to an array).
sub new
{
	my ($class, %options) = @_;
	my $directory = $options{directory};
	my $self = bless {
		key => $options{key} // 'test-key',
		log => $options{log},
		directory => $directory,
		json => JSON::PP->new->utf8->canonical->allow_nonref,
		http => HTTP::Tiny->new(timeout => 30)
	}, $class;
	my @command = (
		$options{program}, '--port', 0,
		'--port-file', "$directory/address", '--data', "$directory/spool",
		'--key', $self->{key}, '--batch-ms', $options{batch_ms} // 100,
		'--parent', $$, @{ $options{arguments} // [] });
	push @command, map { ("--$_-file", $self->credentials($_)) }
	  qw(service-account authorized-user impersonated external-account)
	  if $options{google};

	defined($self->{pid} = fork) or croak "could not fork: $!";
	if ($self->{pid} == 0)
	{
		open(STDOUT, '>', $self->{log}) && open(STDERR, '>&', \*STDOUT)
		  && exec { $command[0] } @command;
		POSIX::_exit(127);
	}
	$running{ $self->{pid} } = 1;
	$self->{url} = $self->_wait_for_address("$directory/address");
	return $self;
}

# "http://127.0.0.1:PORT", without a slash at its end
sub url { return $_[0]{url}; }
sub key { return $_[0]{key}; }
sub pid { return $_[0]{pid}; }

# The path of a credential file: service-account, authorized-user, impersonated
# or external-account.
sub credentials { return "$_[0]{directory}/$_[1].json"; }

# GET or POST of /_sim/NAME; both return what the reply holds.
sub get
{
	my ($self, $name) = @_;
	return $self->_reply($self->{http}->get("$self->{url}/_sim/$name"), $name);
}

sub post
{
	my ($self, $name, $data) = @_;
	my $body = $self->{json}->encode($data // {});

	return $self->_reply(
		$self->{http}->post(
			"$self->{url}/_sim/$name",
			{
				content => $body,
				headers => { 'Content-Type' => 'application/json' }
			}),
		$name);
}

# The names of all objects in Cloud Storage's bucket, as anyone with a token sees them.
sub objects
{
	my ($self) = @_;
	my $metadata = "$self->{url}/computeMetadata/v1/instance/service-accounts/default/token";
	my $token = $self->_reply(
		$self->{http}->get($metadata, { headers => { 'Metadata-Flavor' => 'Google' } }), 'token');
	my $list = $self->_reply(
		$self->{http}->get(
			"$self->{url}/storage/v1/b/test-bucket/o",
			{ headers => { Authorization => "Bearer $token->{access_token}" } }),
		'objects');

	return map { $_->{name} } @{ $list->{items} // [] };
}

# How many files the Gemini API has for our key.
sub gemini_files
{
	my ($self) = @_;
	my $list = $self->_reply(
		$self->{http}->get(
			"$self->{url}/v1beta/files", { headers => { 'x-goog-api-key' => $self->{key} } }),
		'files');

	return scalar @{ $list->{files} // [] };
}

# How many of them would stay for ever.
sub gemini_files_that_stay
{
	my ($self) = @_;
	my $list = $self->_reply(
		$self->{http}->get(
			"$self->{url}/v1beta/files", { headers => { 'x-goog-api-key' => $self->{key} } }),
		'files');

	return scalar grep { !$_->{expirationTime} } @{ $list->{files} // [] };
}

# Ends it by its process id; more than once does no harm.
sub stop
{
	my ($self) = @_;
	return _stop($self->{pid});
}

sub _stop
{
	my ($pid) = @_;

	return unless delete $running{$pid};
	local $?;
	kill 'TERM', $pid;
	my $deadline = time + 10;
	while (waitpid($pid, WNOHANG) == 0)
	{
		kill 'KILL', $pid if time > $deadline;
		sleep 0.02;
	}
	return;
}

sub _wait_for_address
{
	my ($self, $file) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	while (time < $deadline)
	{
		if (-s $file)
		{
			my $address = slurp_file($file);
			chomp $address;
			return $address;
		}
		if (waitpid($self->{pid}, WNOHANG) != 0)
		{
			delete $running{ $self->{pid} };
			croak "the simulator did not start: " . slurp_file($self->{log});
		}
		sleep 0.02;
	}
	croak "the simulator has not written its address to \"$file\"; its log: "
	  . slurp_file($self->{log});
}

sub _reply
{
	my ($self, $response, $name) = @_;

	croak "simulator, $name: $response->{status} $response->{reason} $response->{content}"
	  unless $response->{success};
	return length $response->{content}
	  ? $self->{json}->decode($response->{content})
	  : undef;
}

END
{
	_stop($_) foreach keys %running;
}

1;
