# Providers of other modules: the two of test/extending are built with PGXS
# against what "make install" has installed, and run jobs to their ends.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use DessBatch;
use IO::Socket::INET;
use IPC::Run;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = source_file('test/extending');
my $json = JSON::PP->new->canonical;

# ---- the service: two imaginary wire formats at one address

my %file;
my %job;
my $said = 0;

# What it answers to a request: status and body.
sub serve
{
	my ($method, $path, $key, $body) = @_;

	return (401, '{"error": {"message": "no such key"}}') if $key ne 'secret-word';
	return (200, '{}') if "$method $path" eq 'GET /about';
	if ("$method $path" eq 'POST /say')
	{
		my $text = JSON::PP->new->allow_nonref->decode($body);
		# the first request meets trouble that heals
		return (503, 'not now') if $said++ == 0;
		return (422, '{"error": {"message": "bad words"}}') if $text =~ /bad/;
		return (200, uc $text);
	}
	my ($kind, $name, $rest) = $path =~ m{^/(files|jobs)/([^/]+)(/answers)?$} or return (404, '');
	if ("$method $kind" eq 'PUT files')
	{
		$file{$name} = $body;
	}
	elsif ("$method $kind" eq 'PUT jobs')
	{
		return (409, '{"error": {"message": "no such file"}}') unless defined $file{$name};
		$job{$name} //= { looks => 0 };
	}
	elsif ("$method $kind" eq 'DELETE files')
	{
		delete $file{$name};
	}
	elsif (!$job{$name})
	{
		return (404, '{"error": {"message": "no such job"}}');
	}
	elsif ($rest)
	{
		return (200, join '', map { answer($json->decode($_)) } split /\n/, $file{$name});
	}
	else
	{
		return (200, $job{$name}{looks}++ ? '{"state": "done"}' : '{"state": "busy", "finished": 1}');
	}
	return (200, '{}');
}

sub answer
{
	my ($request) = @_;

	return $json->encode({ id => $request->{id}, error => { code => 'bad_words', message => 'bad words' } }) . "\n"
	  if $request->{text} =~ /bad/;
	return $json->encode({ id => $request->{id}, answer => uc $request->{text}, words => scalar split(/ /, $request->{text}) })
	  . "\n";
}

# One request a connection.
sub handle
{
	my ($client) = @_;
	my ($method, $path) = (readline($client) // '') =~ /^(\w+) (\S+) HTTP/ or return;
	my %header;
	my $body = '';

	while (defined(my $line = readline $client))
	{
		$line =~ s/\r?\n\z//;
		last if $line eq '';
		$header{ lc $1 } = $2 if $line =~ /^([^:]+):\s*(.*)/;
	}
	print $client "HTTP/1.1 100 Continue\r\n\r\n" if lc($header{expect} // '') eq '100-continue';
	read($client, $body, $header{'content-length'}) if $header{'content-length'};
	my ($status, $reply) = serve($method, $path, $header{'x-echo-key'} // $header{'x-postbox-key'} // '', $body);
	printf $client "HTTP/1.1 %d Status\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", $status, length $reply, $reply;
	close $client;
	return;
}

my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 20, ReuseAddr => 1)
  or die "could not listen: $!";
my $address = 'http://127.0.0.1:' . $listener->sockport;
my $parent = $$;
my $service = fork // die "could not fork: $!";
if ($service == 0)
{
	$SIG{PIPE} = 'IGNORE';
	$listener->timeout(5);
	while (getppid() == $parent)
	{
		my $client = $listener->accept or next;
		$client->autoflush(1);
		handle($client);
	}
	POSIX::_exit(0);
}
close $listener;

END
{
	local $?;
	kill 'TERM', $service if $service;
}

# ---- the modules

sub pg_config
{
	my ($program, $what) = @_;
	my $path = qx("$program" --$what);

	chomp $path;
	return $path;
}

# The system's PGXS, and the header that "make install" has put into the private installation.
my $built = PostgreSQL::Test::Utils::tempdir();
my $include = pg_config('pg_config', 'includedir-server');
my ($out, $err) = ('', '');

PostgreSQL::Test::Utils::system_or_bail('cp', '-r', "$directory/.", $built);
IPC::Run::run(
	[ 'make', '-s', '-C', $built, "PG_CPPFLAGS=-I$include", 'COPT=-Wall -Werror' ],
	'>', \$out, '2>', \$err);
is("$out$err", '', 'both modules are built without a warning');
PostgreSQL::Test::Utils::system_or_bail('cp', "$built/provider_echo.so", "$built/provider_postbox.so",
	pg_config('pg_config', 'pkglibdir'));

my $readme = slurp_file(source_file('doc/extending.md'));
foreach my $name ('provider_echo.c', 'provider_postbox.c')
{
	my $source = slurp_file("$directory/$name");
	ok(index($readme, "```c\n$source```\n") >= 0, "doc/extending.md shows $name as it is");
}

# ---- with both preloaded

my $node = start_node(
	'extending',
	preload => 0,
	conf => "shared_preload_libraries = 'dess_batch, provider_echo, provider_postbox'");

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub error_of
{
	my ($sql) = @_;
	return ($node->psql('postgres', $sql))[2];
}

foreach my $provider ('echo', 'postbox')
{
	sql(qq{CREATE SERVER $provider FOREIGN DATA WRAPPER dess_batch
				OPTIONS (provider '$provider', base_url '$address', poll_interval '1');
		   CREATE USER MAPPING FOR PUBLIC SERVER $provider OPTIONS (api_key 'secret-word')});
	is(sql("SELECT count(*) FILTER (WHERE ok) || ' of ' || count(*) FROM dess_batch_check('$provider')"),
		'6 of 6', "dess_batch_check tries $provider") or diag(sql("SELECT * FROM dess_batch_check('$provider')"));
}
sql(q{CREATE TABLE saying (id integer PRIMARY KEY, words text, a text);
	  INSERT INTO saying VALUES (1, 'so it goes'), (2, E'a "quoted"\n\tline'), (3, 'bad words'), (4, 'über')});

sub say
{
	my ($model, $mode) = @_;
	sql('UPDATE saying SET a = NULL');
	my $job = submit_job($node, "'saying', '$model', prompt => '{words}', target => 'a', mode => '$mode', overwrite => true");

	is(wait_for_job($node, $job), 'done', "a job of $model, mode $mode, comes to its end");
	is(outcomes($node, $job), 'ok 3, rejected 1', 'each row has its outcome');
	like(sql(q{SELECT a FROM saying WHERE id = 1}), qr/^SO IT GOES$/, 'the answers are in the table');
	is(sql(q{SELECT a FROM saying WHERE id = 2}), qq{A "QUOTED"\n\tLINE}, 'with all that JSON has to hide');
	is(sql("SELECT error_code || ' ' || error FROM dess_batch_errors WHERE job_id = $job") =~ /bad words/ ? 1 : 0, 1,
		"the service's words are in dess_batch_errors");
	return $job;
}

say('echo-1', 'online');
my $job = say('postbox-1', 'batch');

is(sql("SELECT output_tokens FROM dess_batch_rows WHERE job_id = $job AND row_key = '{\"id\": 1}'"), '3', 'tokens are counted');
ok( $node->poll_query_until('postgres', "SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job"),
	'what lay at the service is removed');

like(error_of(q{SELECT dess_batch_submit('saying', 'echo-1', prompt => '{words}', target => 'a')}),
	qr/provider "echo" of server "echo" has no mode "batch".*Use mode => 'online'/s, 'a provider without batches says so at submit');
like(error_of(q{SELECT dess_batch_submit('saying', 'postbox-1', prompt => '{words}', target => 'a', mode => 'online')}),
	qr/provider "postbox" of server "postbox" has no mode "online".*Use mode => 'batch'/s, 'and one without single requests');
like(error_of(q{LOAD 'provider_echo'; SELECT dess_batch_start(); CREATE SERVER no FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'acme')}),
	qr/echo.*postbox/s, 'the hint for an unknown provider names them');

# ---- in a server that does not preload them

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'dess_batch'");
$node->restart;
like(error_of(q{SELECT dess_batch_submit('saying', 'postbox-1', prompt => '{words}', target => 'a', server => 'postbox')}),
	qr/provider "postbox" of server "postbox" is not registered.*shared_preload_libraries/s, 'a module that is not there is missed by name');
is(error_of(q{LOAD 'dess_batch'; LOAD 'provider_postbox';
			  SELECT count(*) FROM dess_batch_preview('saying', 'postbox-1', prompt => '{words}', target => NULL)}),
	'', 'LOAD brings it into a session');

$node->stop;
done_testing();
