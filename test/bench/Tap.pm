# Tap.pm
#		A proxy between the worker and a server, which notes when what passed.
#
# For each request: the moment when its first byte came, and the moment when
# the last byte of its reply was about to be handed on, by the clock that PostgreSQL's
# timestamps come from.  Replies on a connection come in the order of requests.

package Tap;

use strict;
use warnings;

use Carp;
use IO::Select;
use JSON::PP;
use Socket;
use Time::HiRes qw(time);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

# To "http://127.0.0.1:PORT"; ends with the benchmark.
sub new
{
	my ($class, $server) = @_;
	my ($port) = $server =~ /:(\d+)$/ or croak "no port in $server";
	my ($ours, $theirs);

	socket(my $listener, PF_INET, SOCK_STREAM, 0) or croak "socket: $!";
	bind($listener, pack_sockaddr_in(0, INADDR_LOOPBACK)) && listen($listener, 128) or croak "listen: $!";
	my ($own_port) = unpack_sockaddr_in(getsockname($listener));
	socketpair($ours, $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak "socketpair: $!";
	my $child = fork // croak "fork: $!";
	if ($child == 0)
	{
		close $ours;
		$SIG{PIPE} = 'IGNORE';
		_serve($listener, $theirs, $port);
		POSIX::_exit(0);
	}
	close $theirs;
	close $listener;
	return bless { url => "http://127.0.0.1:$own_port", control => $ours }, $class;
}

sub url { return $_[0]{url}; }

# What has passed since the last call: hashes with request ("POST /v1/files"), begun and ended.
sub passed
{
	my ($self) = @_;
	my $text = '';

	syswrite($self->{control}, "?\n") or croak 'the proxy is gone';
	while ($text !~ /\n\z/)
	{
		sysread($self->{control}, $text, 65536, length $text) or croak 'the proxy is gone';
	}
	return @{ decode_json($text) };
}

sub _serve
{
	my ($listener, $control, $port) = @_;
	my $select = IO::Select->new($listener, $control);
	my %other;
	my %open;				# by the client's socket: its request that is not answered
	my @passed;

	for (;;)
	{
		foreach my $socket ($select->can_read)
		{
			if ($socket == $control)
			{
				sysread($control, my $question, 16) or return;
				_write($control, encode_json(\@passed) . "\n");
				@passed = ();
			}
			elsif ($socket == $listener)
			{
				accept(my $client, $listener) or next;
				socket(my $server, PF_INET, SOCK_STREAM, 0) or die "socket: $!";
				connect($server, pack_sockaddr_in($port, INADDR_LOOPBACK)) or die "connect: $!";
				setsockopt($_, 6, 1, 1) foreach $client, $server;	# TCP_NODELAY
				$other{$client} = [ $server, 1 ];
				$other{$server} = [ $client, 0 ];
				$select->add($client, $server);
			}
			elsif ($other{$socket})
			{
				my ($peer, $is_client) = @{ $other{$socket} };
				my $begun = time;
				my $data = '';

				if (!sysread($socket, $data, 262144))
				{
					$select->remove($socket, $peer);
					delete @other{ $socket, $peer };
					close $_ foreach $socket, $peer;
					next;
				}
				if ($is_client && $data =~ m{^([A-Z]+ \S+) HTTP/1\.1\r\n})
				{
					$open{$socket} = { request => $1, begun => $begun };
					push @passed, $open{$socket};
				}
				# before it is handed on: nobody can act on it earlier
				$open{$peer}{ended} = time if !$is_client && $open{$peer};
				_write($peer, $data);
			}
		}
	}
}

sub _write
{
	my ($socket, $data) = @_;

	while (length $data)
	{
		my $written = syswrite($socket, $data) // return;
		substr($data, 0, $written) = '';
	}
	return;
}

1;
