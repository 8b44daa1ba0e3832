# Where requests and secrets may go.  A role that owns a server cannot make
# PostgreSQL read a file, call an address inside, or send away a key that is not
# its own; and no secret shows up in a log, a view, the ledger or a spool file.
use strict;
use warnings;

use Fcntl ':mode';
use File::Find;
use IO::Select;
use IO::Socket::INET;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $secret = 'sk-mapping-0123456789-abcdef';
my $environment_secret = 'sk-environment-9876543210-fedcba';
my $mallorys_secret = 'sk-mallory-5555555555';

my $simulator = start_simulator(
	key => $secret,
	batch_ms => 20,
	arguments => [ '--key', $environment_secret ]);

# Something that listens and only takes note of who comes.
my $inside = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1')
  or die "could not listen: $!";
my $proxy = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1')
  or die "could not listen: $!";

# The server's resolver knows a name for 127.0.0.1 that looks like any other.
my $shim = PostgreSQL::Test::Utils::tempdir() . '/resolver.so';
append_to_file("$shim.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <string.h>
int
getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **result)
{
	int			(*original) (const char *, const char *, const struct addrinfo *, struct addrinfo **) =
		dlsym(RTLD_NEXT, "getaddrinfo");

	if (node != NULL && strcmp(node, "inside.example.com") == 0)
		node = "127.0.0.1";
	return original(node, service, hints, result);
}
C
system_or_bail('cc', '-shared', '-fPIC', '-o', $shim, "$shim.c", '-ldl');

my $node = start_node(
	'secrets',
	environment => {
		LD_PRELOAD => $shim,
		OPENAI_API_KEY => $environment_secret,
		https_proxy => 'http://127.0.0.1:' . $proxy->sockport,
		no_proxy => 'inside.example.com'
	});

# not before the start: PostgreSQL itself would log its environment
$node->append_conf('postgresql.conf',
	"log_min_messages = debug5\nlog_error_verbosity = verbose\nlog_statement = none");
$node->reload;

sub as
{
	my ($role, $sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return ($out, $err);
}

sub refused
{
	my ($role, $sql, $sqlstate, $words, $name) = @_;
	my (undef, $err) = as($role, $sql);

	like($err, qr/ERROR:  $sqlstate: .*$words/s, $name);
	return $err;
}

sub make
{
	my ($role, $sql) = @_;
	my (undef, $err) = as($role, "\\set ON_ERROR_STOP\n" . $sql);

	die "$role: $err" if $err =~ /ERROR|FATAL/;
	return $err;
}

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

sub submit_as
{
	my ($role, $arguments) = @_;
	my ($out, $err) = as($role, "SELECT dess_batch_submit($arguments)");

	like($out, qr/^\d+$/, "$role submits $arguments") or diag($err);
	return wantarray ? ($out, $err) : $out;
}

# What the first that came has said, within some seconds; undef: nobody came.
sub visitor
{
	my ($socket, $seconds) = @_;
	my $text = '';

	return undef unless IO::Select->new($socket)->can_read($seconds);
	my $peer = $socket->accept;
	sysread($peer, $text, 65536) if IO::Select->new($peer)->can_read($seconds);
	close $peer;
	return $text;
}

query(
	q{CREATE ROLE mallory LOGIN;
	CREATE ROLE boss LOGIN SUPERUSER;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE ON FOREIGN DATA WRAPPER dess_batch TO mallory;});
make('mallory',
	q{CREATE TABLE mallory.bait (id integer PRIMARY KEY, note text, department_llm text, remark text);
	INSERT INTO mallory.bait SELECT i, 'bait ' || i FROM generate_series(1, 3) i;});
query(
	q{CREATE TABLE notes (id integer PRIMARY KEY, note text, department_llm text, remark text, third text);
	INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 3) i;});

my $url = $simulator->url . '/v1';

# ---- options that only superusers give

my $server = q{CREATE SERVER own FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai'};

foreach my $option (
	[ api_key_file => '/etc/passwd' ],
	[ api_key_env => 'OPENAI_API_KEY' ],
	[ ca_file => '/etc/ssl/certs/ca-certificates.crt' ],
	[ proxy => 'http://127.0.0.1:3128' ])
{
	refused('mallory', "$server, $option->[0] '$option->[1]')", '42501', "\"$option->[0]\" is superuser-only",
		"option $option->[0] is superuser-only");
	refused('mallory',
		"SELECT dess_batch_validator(ARRAY['provider=openai', '$option->[0]=$option->[1]'], 'pg_foreign_server'::regclass)",
		'42501', 'superuser-only', "the validator says the same of $option->[0]");
}

foreach my $address (
	'http://api.example.com', 'https://127.0.0.1', 'https://127.1', 'https://0x7f000001',
	'https://2130706433', 'https://0.0.0.0', 'https://[::1]', 'https://[::ffff:127.0.0.1]',
	'https://[::]', 'https://[fe80::1]', 'https://169.254.169.254', 'https://localhost', 'https://LOCALHOST.',
	'https://a.localhost', $url)
{
	refused('mallory', "$server, base_url '$address')", '42501', 'permission denied for the address',
		"address $address is for superusers");
}
foreach my $address ('file:///etc/passwd', 'ftp://example.com', 'gopher://example.com',
	'https://me:word@example.com', 'https://example.com/?key=1', 'https://exa mple.com', '')
{
	refused('mallory', "$server, base_url '$address')", '22023', 'base_url', "address \"$address\" is for nobody");
	refused('postgres', "$server, base_url '$address')", '22023', 'base_url', "not even for superusers");
}

# a server with such an option is out of its owner's hands
query(
	qq{CREATE SERVER given FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', api_key_env 'OPENAI_API_KEY');
	CREATE SERVER given_address FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url '$url');
	ALTER SERVER given OWNER TO mallory;
	ALTER SERVER given_address OWNER TO mallory;});
foreach my $change (q{OPTIONS (DROP api_key_env)}, q{OPTIONS (ADD models '*')},
	q{OPTIONS (ADD base_url 'https://collector.example.com')})
{
	refused('mallory', "ALTER SERVER given $change", '42501', '', "its owner cannot alter it: $change");
}
refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}', server => 'given')},
	'42501', 'superuser-only option "api_key_env"', 'nor use it');
refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}', server => 'given_address')},
	'42501', 'scheme "http" is allowed only for servers owned by a superuser', 'nor one with an http address');
query('DROP SERVER given; DROP SERVER given_address;');

# ---- a name that resolves to an address inside

make('mallory',
	q{CREATE SERVER inside FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', poll_interval '1',
		base_url 'https://inside.example.com:} . $inside->sockport . q{/v1');
	CREATE USER MAPPING FOR mallory SERVER inside OPTIONS (api_key 'sk-mallory-5555555555');});
my $job = submit_as('mallory', q{'mallory.bait', 'gpt-4o-mini', '{note}', server => 'inside'});
is(wait_for_job($node, $job), 'failed', 'a name that resolves to a loopback address: the job fails');
like(query("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/loopback.*superuser/,
	'and says why');
$job = submit_as('mallory', q{'mallory.bait', 'gpt-4o-mini', '{note}', mode => 'online', server => 'inside'});
is(wait_for_job($node, $job), 'failed', 'online as well');
like((as('mallory', q{SELECT ok, detail FROM dess_batch_check('inside') ORDER BY ok LIMIT 1}))[0],
	qr/^f\|.*superuser/, 'and for dess_batch_check');
is(visitor($inside, 0), undef, 'nobody came to that address');

query('ALTER SERVER inside OWNER TO boss; GRANT USAGE ON FOREIGN SERVER inside TO mallory');
$job = submit_as('mallory', q{'mallory.bait', 'gpt-4o-mini', '{note}', mode => 'online', server => 'inside'});
isnt(visitor($inside, 30), undef, 'for a server of a superuser somebody comes');
close $inside;
query("SELECT dess_batch_cancel($job)");
is(wait_for_job($node, $job), 'cancelled', 'the job is cancelled');

# ---- the key in the environment

make('mallory',
	q{CREATE SERVER collector FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', poll_interval '1',
		base_url 'https://collector.example.com/v1');
	GRANT USAGE ON FOREIGN SERVER collector TO PUBLIC;});
my ($waiting, $err) = submit_as('mallory', q{'mallory.bait', 'gpt-4o-mini', '{note}', 'remark', server => 'collector'});
like($err, qr/WARNING: .*server "collector" has no secret yet/, 'a server without a mapping: a warning at submit');
my $for_boss = submit_as('postgres', q{'notes', 'gpt-4o-mini', '{note}', 'third', server => 'collector'});
foreach my $job ($waiting, $for_boss)
{
	$node->poll_query_until('postgres', "SELECT error_code = 'no_secret' FROM dess_batch_jobs WHERE job_id = $job")
	  or die "job $job does not wait for a secret";
	like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"),
		qr/no secret for server "collector".*only servers owned by a superuser/,
		'it waits for a secret, and is told where none is looked for');
}
like((as('mallory', q{SELECT detail FROM dess_batch_check('collector') WHERE NOT ok}))[0],
	qr/only servers owned by a superuser/, 'dess_batch_check says the same');
is(visitor($proxy, 0), undef, 'nothing was sent');

make('mallory', "CREATE USER MAPPING FOR mallory SERVER collector OPTIONS (api_key '$mallorys_secret')");
my $said = visitor($proxy, 30);
like($said, qr/^CONNECT collector\.example\.com:443 /, 'with a key of its own the job goes on');
unlike($said, qr/\Q$environment_secret/, 'and takes no other key along');
query("SELECT dess_batch_cancel($_)") foreach $waiting, $for_boss;
is(wait_for_job($node, $_), 'cancelled', 'the job is cancelled') foreach $waiting, $for_boss;
query('DROP SERVER collector CASCADE');

query(
	qq{CREATE SERVER environment FOREIGN DATA WRAPPER dess_batch
		OPTIONS (provider 'openai', poll_interval '1', base_url '$url');
	ALTER SERVER environment OWNER TO boss;
	GRANT USAGE ON FOREIGN SERVER environment TO mallory;});
$job = submit_as('mallory', q{'mallory.bait', 'gpt-4o-mini', '{note}', mode => 'online', server => 'environment'});
is(wait_for_job($node, $job), 'done', "a superuser's server lends the key in the environment");
is( $simulator->get('requests?path=/v1/chat/*&limit=1')->{requests}[0]{headers}{Authorization}
	  =~ /(....)$/ ? $1 : '', substr($environment_secret, -4), 'which is what was sent');
query('ALTER ROLE boss NOSUPERUSER');
refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}', 'remark', server => 'environment')},
	'42501', 'allowed only for servers owned by a superuser', 'until its owner is a superuser no longer');
query('ALTER ROLE boss SUPERUSER');

# ---- secrets in places where they do not belong

refused('postgres', qq{CREATE SERVER s FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', api_key '$secret')},
	'HV00D', 'Secrets belong into a user mapping', 'a secret among the options of a server');
create_server($node, $simulator, options => { max_batch_requests => 2 });
foreach my $option ("api_key 'sk mallory $secret'", "api_key E'$secret\\n'", "password '$secret'",
	"service_account_key '{\"type\": \"service_account\", \"private_key\": \"$secret\"}'")
{
	my $err = refused('postgres', "CREATE USER MAPPING FOR mallory SERVER openai OPTIONS ($option)",
		'(22023|HV00D)', '', 'a bad option of a mapping');
	unlike($err, qr/\Q$secret/, 'is not quoted');
}

# the provider says the key back, in every kind of reply
$simulator->post('faults', [
	{ match => { path => '/v1/files', method => 'POST' }, times => 1, status => 500,
		error => { message => "the key $secret is not at work", code => $secret } },
	{ match => { path => '/v1/chat/*' }, times => 1, status => 401,
		error => { message => "Incorrect API key provided: $secret", code => 'invalid_api_key' } } ]);
my $online = submit_as('postgres', q{'notes', 'gpt-4o-mini', 'a {note}', mode => 'online', server => 'openai'});
is(wait_for_job($node, $online), 'failed', 'a key that is refused: the job fails');
like(query("SELECT error FROM dess_batch_jobs WHERE job_id = $online"),
	qr/Incorrect API key provided: \*+$/, "with the provider's words, but not with the key");

$simulator->post('settings', { run_ms => 60000 });
my $batch = submit_as('postgres', q{'notes', 'gpt-4o-mini', 'b {note}', 'remark', server => 'openai', keep => 'reply'});
$node->poll_query_until('postgres',
	"SELECT count(*) = 2 FROM dess_batch_batches WHERE job_id = $batch AND state = 'running' AND polled_at IS NOT NULL")
  or die 'the batches do not run';
is($simulator->get('faults')->[0]{fired}, 1, 'the provider has said the key back');

# ---- files while they travel

my ($files, $directories) = (0, 0);
my %modes;
find(
	{
		no_chdir => 1,
		wanted => sub {
			my $mode = S_IMODE((stat $_)[2]);

			return if -d $_ ? !++$directories : !++$files;
			$modes{ (-d $_ ? 'directory ' : 'file ') . sprintf('%04o', $mode) }++;
			unlike(slurp_file($_), qr/\Q$secret/, 'no secret in a spool file') if -f $_;
		}
	},
	$node->data_dir . '/dess_batch');
is($files, 2, 'request files lie in the spool');
is(join(', ', sort keys %modes), 'directory 0700, file 0600', 'and are readable by the server alone');

# ---- every place where a secret might show

my @places = split /\n/, query(
	q{SELECT c.oid::regclass FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
	WHERE c.relkind IN ('r', 'v') AND (n.nspname = 'dess_batch' OR c.relname ~ '^dess_batch_')
	UNION ALL SELECT unnest(ARRAY['pg_stat_activity', 'pg_settings', 'pg_foreign_server', 'pg_stat_ssl', 'pg_locks'])::regclass});
cmp_ok(@places, '>', 20, 'there are places to look at');
foreach my $place (@places)
{
	my $found = join ' OR ', map { 'position(' . join('||', map { "'$_'" } split /(?<=-)/) . ' IN p::text) > 0' }
	  $secret, $environment_secret, $mallorys_secret;

	is(query("SELECT count(*) FROM $place p WHERE $found"), 0, "no secret in $place");
}
foreach my $job ($online, $batch)
{
	unlike(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"), qr/\Q$secret/,
		'no secret in an explanation');
}
is(query(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), 1, 'the worker is at work');
my $titles = '';
foreach my $pid (split /\n/, query('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'))
{
	$titles .= slurp_file("/proc/$pid/cmdline") . "\n" if -e "/proc/$pid/cmdline";
}
like($titles, qr/dess_batch/, 'process titles name the worker');
unlike($titles, qr/\Q$secret\E|\Q$environment_secret/, 'and no secret');

query("SELECT dess_batch_cancel($batch)");
$node->stop;
my $log = slurp_file($node->logfile);
like($log, qr/DEBUG: /, 'the log is at its most talkative');
is(index($log, $_), -1, 'and has no secret') foreach $secret, $environment_secret, $mallorys_secret;

$simulator->stop;
done_testing();
