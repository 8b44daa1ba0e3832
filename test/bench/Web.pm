# Web.pm
#		A web server that is not ours and costs next to nothing: nginx.
#
# It gives every request the same answer of OpenAI's, at once under /v1, and
# under /slow/v1 after 50 ms (Debian's libnginx-mod-http-echo), so that what
# online mode is compared with is not held up by the server, and under /late/v1
# after 20 s.  It ends with the benchmark.

package Web;

use strict;
use warnings;

use Carp;
use POSIX ();
use Socket;
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Utils;

my %running;

# The answer's text
sub answer { return 'Computer Science'; }

# Seconds after which it comes under slow_url
sub delay { return 0.05; }

# and under late_url
sub long_delay { return 20; }

my $reply = '{"id":"chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT","object":"chat.completion","created":1741569952,'
  . '"model":"gpt-5.4-nano-2026-03-05","choices":[{"index":0,"message":{"role":"assistant","content":"' . answer()
  . '","refusal":null,"annotations":[]},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":412,'
  . '"completion_tokens":3,"total_tokens":415,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},'
  . '"completion_tokens_details":{"reasoning_tokens":0,"audio_tokens":0,"accepted_prediction_tokens":0,'
  . '"rejected_prediction_tokens":0}},"service_tier":"default","system_fingerprint":null}';

sub new
{
	my ($class) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir();
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my $self = bless { url => "http://127.0.0.1:$port", port => $port }, $class;
	my ($delay, $long_delay) = (delay(), long_delay());
	my $temporary = join("\n", map { "${_}_temp_path $directory/$_;" } qw(client_body proxy fastcgi uwsgi scgi));

	append_to_file("$directory/nginx.conf", <<"END");
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid $directory/pid;
error_log $directory/error.log;
load_module /usr/lib/nginx/modules/ngx_http_echo_module.so;
events { worker_connections 4096; }
http {
	access_log off;
	keepalive_requests 10000000;
	keepalive_timeout 600s;
	client_body_buffer_size 64k;
	default_type application/json;
	$temporary
	server {
		listen 127.0.0.1:$port backlog=4096;
		location /v1/ { return 200 '$reply'; }
		location /slow/ { echo_read_request_body; echo_sleep $delay; echo '$reply'; }
		location /late/ { echo_read_request_body; echo_sleep $long_delay; echo '$reply'; }
	}
}
END
	defined($self->{pid} = fork) or croak "could not fork: $!";
	if ($self->{pid} == 0)
	{
		open(STDERR, '>', "$directory/output") && open(STDOUT, '>&', \*STDERR)
		  && exec { 'nginx' } 'nginx', '-p', $directory, '-e', "$directory/error.log", '-c', "$directory/nginx.conf";
		POSIX::_exit(127);
	}
	$running{ $self->{pid} } = 1;
	$self->_wait_for_port("$directory/output");
	return $self;
}

sub url { return "$_[0]{url}/v1"; }
sub slow_url { return "$_[0]{url}/slow/v1"; }
sub late_url { return "$_[0]{url}/late/v1"; }

sub _wait_for_port
{
	my ($self, $output) = @_;
	my $deadline = time + 30;

	while (time < $deadline)
	{
		socket(my $socket, PF_INET, SOCK_STREAM, 0) or croak "socket: $!";
		return if connect($socket, pack_sockaddr_in($self->{port}, INADDR_LOOPBACK));
		close $socket;
		last if waitpid($self->{pid}, POSIX::WNOHANG()) != 0;
		sleep 0.05;
	}
	croak 'nginx does not listen: ' . (-s $output ? slurp_file($output) : 'is nginx-light installed?');
}

END
{
	my $status = $?;

	foreach my $pid (keys %running)
	{
		kill 'TERM', $pid;
		waitpid($pid, 0);
	}
	$? = $status;
}

1;
