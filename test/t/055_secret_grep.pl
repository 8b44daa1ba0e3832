# A secret that came by file or environment, a token that was got with it, and
# the address of an upload session, leave no trace.  Every provider works in both
# modes, fails in several ways and is killed in the middle; then everything that
# the server has written is searched, byte by byte: data directory with its WAL,
# log, spool, other files; and what can be seen of it from outside.
use strict;
use warnings;

use DessBatch;
use DessBatch::Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $canary = 'canary-0123456789-in-a-row';
my %secret = (
	file => 'sk-file-4f1c2a9b7e6d5c4b3a29',
	environment => 'sk-environment-0a1b2c3d4e5f60718293',
	gemini => 'AIzaSy-variable-9e8d7c6b5a4f3e2d1c0b');

my $simulator = start_simulator(
	key => $secret{file},
	batch_ms => 20,
	google => 1,
	arguments => [ map { ('--key', $_) } @secret{qw(environment gemini)} ]);
my $place = PostgreSQL::Test::Utils::tempdir();
my $spool = PostgreSQL::Test::Utils::tempdir();

# ---- credentials, each of a kind that no SQL has ever mentioned

append_to_file("$place/key", "$secret{file}\n");
chmod 0600, "$place/key", $simulator->credentials('service-account');
my $login = slurp_file($simulator->credentials('authorized-user'));
my $token_address = $simulator->url . '/token';
$login =~ s/\{/{"token_uri": "$token_address", /;
append_to_file("$place/login.json", $login);
chmod 0600, "$place/login.json";

my $key_file = slurp_file($simulator->credentials('service-account'));
my ($private_key) = $key_file =~ /BEGIN PRIVATE KEY-----\\n([A-Za-z0-9+\/]{40})/ or die 'no private key';
my ($refresh_token) = $login =~ /"(1\/\/0e[^"]+)"/ or die 'no refresh token';
my ($client_secret) = $login =~ /"(GOCSPX-[^"]+)"/ or die 'no client secret';

# what is searched for; the last ones are how tokens, sessions and assertions begin
my @needles = (values %secret, $private_key, $refresh_token, $client_secret, 'ya29.', 'AHxI1n', 'AFiWUQ', 'eyJhbGciOi');

my $node = start_node(
	'grep',
	preload => 0,
	conf => "shared_preload_libraries = 'pg_stat_statements, dess_batch'
		pg_stat_statements.track = all
		pg_stat_statements.track_utility = on
		compute_query_id = on
		track_activity_query_size = 100kB
		restart_after_crash = on
		log_statement = none
		dess_batch.spool_directory = '$spool'",
	environment => {
		OPENAI_API_KEY => $secret{environment},
		VARIABLE_OF_GEMINI => $secret{gemini},
		GCE_METADATA_HOST => '127.0.0.1:1' });

# not before the start: PostgreSQL itself would log its environment
$node->append_conf('postgresql.conf', "log_min_messages = debug5\nlog_error_verbosity = verbose");
$node->reload;

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# The same after a crash, when the server may still be recovering.
sub query_again
{
	my ($sql) = @_;
	my $out;

	wait_until('the server answers', sub { return $node->psql('postgres', $sql, stdout => \$out) == 0 });
	return $out;
}

my %server = (
	by_file => [ 'openai', "$secret{file}", { api_key_file => "$place/key" } ],
	by_environment => [ 'openai', $secret{environment}, {} ],
	gemini => [ 'gemini', $secret{gemini}, { api_key_env => 'VARIABLE_OF_GEMINI' } ],
	vertex => [ 'vertex', undef, { credentials_file => $simulator->credentials('service-account') } ],
	login => [ 'vertex', undef, { credentials_file => "$place/login.json" } ]);
query('CREATE EXTENSION pg_stat_statements');
foreach my $name (sort keys %server)
{
	create_server($node, $simulator, name => $name, provider => $server{$name}[0], key => undef, options => $server{$name}[2]);
	query(
		qq{CREATE TABLE $name (id integer PRIMARY KEY, note text, batch text, online text, crash text, failed text);
		INSERT INTO $name SELECT i, '$name $canary ' || i FROM generate_series(1, 20) i;});
}

my $seen = '';

# What others can see of the server while it is at work.
sub look_around
{
	$seen .= query_again('SELECT string_agg(a::text, chr(10)) FROM pg_stat_activity a');
	foreach my $pid (split /\n/, query_again('SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()'))
	{
		open(my $file, '<', "/proc/$pid/cmdline") or next;
		local $/;
		$seen .= <$file> . "\n";
	}
	return;
}

sub submit
{
	my ($name, $target, $mode) = @_;
	my $model = $server{$name}[0] eq 'openai' ? 'gpt-4o-mini' : 'gemini-3.5-flash';

	return query_again("SELECT dess_batch_submit('$name', '$model', '$target {note}', '$target', server => '$name', mode => '$mode', keep => 'reply')");
}

# Any number of workers may be gone when it is looked for.
sub kill_worker
{
	my $pid = wait_until('a worker', sub {
		my $out;
		$node->psql('postgres', q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}, stdout => \$out);
		return $out; });

	look_around();
	return kill('KILL', $pid);
}

my $listener = DessBatch::Session->new($node);
$listener->query('LISTEN dess_batch');

# ---- both modes, with replies that say the secret back, break off, and refuse tokens

$simulator->post('faults', [
	(map { ({ match => { path => '/v1/*', method => 'POST', key => substr($_, -4) }, times => 2, status => 500,
		error => { message => "the key $_ is not at work", code => $_, type => $_ } }) } @secret{qw(file environment)}),
	{ match => { path => '/v1beta/*', method => 'POST' }, times => 2, status => 503,
		json => { error => { code => 503, status => 'UNAVAILABLE', message => "API key $secret{gemini} is not at work" } } },
	{ match => { path => '/upload/storage/*', method => 'PUT' }, times => 2, drop => 'reset' },
	{ match => { path => '/upload/storage/*', method => 'PUT' }, times => 1, storage => { die => 410 } },
	{ match => { path => '/upload/v1beta/*', method => 'POST' }, skip => 1, times => 1, drop => 'reset' } ]);
my %job = map { my $name = $_; map { ("$name $_" => submit($name, $_, $_)) } qw(batch online) } sort keys %server;
look_around();
$simulator->post('tokens', { revoke => 'all' });
is(wait_for_job($node, $job{$_}), 'done', "$_: done") foreach sort keys %job;
is(join(' ', map { outcomes($node, $job{$_}) } sort keys %job), join(' ', ('ok 20') x 10), 'with all rows');
is(join(' ', map { $_->{fired} } @{ $simulator->get('faults') }), '2 2 2 2 1 1', 'in spite of all that went wrong');
$simulator->post('faults/clear');
$listener->query('SELECT 1') foreach 1 .. 3;

# ---- calls in flight, killed

foreach my $kind ([ 'by_file', '/v1/files', 0 ], [ 'gemini', '/upload/v1beta/*', 1 ], [ 'vertex', '/upload/storage/*', 1 ], [ 'vertex', '/token', 0 ])
{
	my ($name, $path, $skip) = @$kind;

	query_again("UPDATE $name SET crash = NULL");
	query_again('TRUNCATE dess_batch.settled');
	$simulator->post('tokens', { revoke => 'all' }) if $path eq '/token';
	$simulator->post('faults', { match => { path => $path }, skip => $skip, delay_ms => 5000 });
	my $job = submit($name, 'crash', 'batch');
	wait_until("a call to $path is in flight", sub { return $simulator->get('faults')->[0]{fired} > 0 });
	is(kill_worker(), 1, "$name: killed at $path");
	$simulator->post('faults/clear');
	query_again('SELECT 1');
	is(wait_for_job($node, $job), 'done', 'and done after the crash');
}
$listener->close;

# ---- secrets that are no good any more, and are said back

sub refused
{
	my ($name) = @_;
	my $model = $server{$name}[0] eq 'openai' ? 'gpt-4o-mini' : 'gemini-3.5-flash';
	my $failed = submit($name, 'failed', $name eq 'by_environment' ? 'online' : 'batch');
	my $err;

	is(wait_for_job($node, $failed), 'failed', "$name: with a secret that is refused the job fails");
	like(query("SELECT error FROM dess_batch_jobs WHERE job_id = $failed"), qr/\*{6}|Invalid JWT/, "with the provider's words");
	$seen .= query("SELECT string_agg(e, ' ') FROM dess_batch_explain($failed) e; SELECT string_agg(c::text, ' ') FROM dess_batch_check('$name') c");
	$node->psql('postgres', "CALL dess_batch_run('$name', '$model', 'run {note}', 'failed', server => '$name')", stderr => \$err);
	like($err, qr/ERROR/, 'dess_batch_run raises it');
	$seen .= $err;
	return;
}

$simulator->post('faults', [
	(map { ({ match => { path => '/v1/*', key => substr($_, -4) }, status => 401,
		error => { message => "Incorrect API key provided: $_", code => 'invalid_api_key' } }) } @secret{qw(file environment)}),
	{ match => { path => '/*v1beta/*' }, status => 400, json => { error => { code => 400, status => 'INVALID_ARGUMENT',
		message => "API key not valid: $secret{gemini}", details => [ { '@type' => 'type.googleapis.com/google.rpc.ErrorInfo', reason => 'API_KEY_INVALID' } ] } } },
	{ match => { path => '/token' }, status => 400, json => { error => 'invalid_grant', error_description => 'Invalid JWT Signature.' } } ]);
$simulator->post('tokens', { revoke => 'all' });
refused($_) foreach qw(by_file by_environment gemini vertex);
$simulator->post('faults/clear');
$simulator->post('faults', { match => { path => '/token' }, status => 400, json => { error => 'invalid_grant',
	error_description => "Token $refresh_token of $client_secret has been revoked." } });
refused('login');
look_around();

# ---- what there is to be seen

foreach my $view (qw(jobs batches rows errors progress usage))
{
	$seen .= query("SELECT string_agg(v::text, chr(10)) FROM dess_batch_$view v");
}
my $statements = query('SELECT string_agg(s::text, chr(10)) FROM pg_stat_statements s');
like($statements, qr/dess_batch\.batch/, "pg_stat_statements has the worker's statements");
my $dump = $node->data_dir . '/../dump.sql';
$node->command_ok([ 'pg_dumpall', '-f', $dump ], 'the cluster can be dumped');
$seen .= $statements . slurp_file($dump);
$seen .= join ' ', map { my $r = $_; map { "$_=$r->{$_}" } qw(path query) } @{ $simulator->get('requests?limit=20000&method=GET&path=/v1*')->{requests} };
unlink $dump;
foreach my $needle (@needles)
{
	is(index($seen, $needle), -1, 'no secret in what can be seen: ' . substr($needle, 0, 7));
}

# ---- what there is on disk, as it is: nothing is checkpointed or tidied up first

$node->stop('immediate');
my $list = "$place/needles";
append_to_file($list, join("\n", @needles) . "\n");
my $canaries = "$place/canaries";
append_to_file($canaries, "$canary\n");

# Files below the directories that hold one of the lines of a file.
sub found
{
	my ($lines, @directories) = @_;
	my $out = '';

	IPC::Run::run([ 'grep', '-rlaF', '-f', $lines, @directories ], '>', \$out, '2>', \my $err);
	return $out;
}
my @places = ($node->data_dir, $spool);
my $hits = found($canaries, $node->data_dir);
like($hits, qr{/base/}, 'what is looked for in tables is found');
like($hits, qr{/pg_wal/}, 'and in the WAL');
is(found($list, @places), '', 'the data directory and the spool hold no secret');

my $log = slurp_file($node->logfile);
cmp_ok(length $log, '>', 100000, 'the log is long');
like($log, qr/DEBUG:  .*dess_batch|DEBUG: /, 'and at its most talkative');
is(index($log, $_), -1, 'the log does not hold ' . substr($_, 0, 7)) foreach @needles;

# files that somebody may have left where files are left
my $stray = '';
foreach my $file (grep { -f $_ && -o $_ && -M $_ < 0 } map { glob("$_/* $_/.*") } '/tmp', '/var/tmp', '/dev/shm', $ENV{TMPDIR} // '/tmp')
{
	my $content = slurp_file($file);
	$stray .= "$file " if grep { index($content, $_) >= 0 } @needles;
}
is($stray, '', 'nor does any new file in the directories for temporary files');
is(join(' ', glob($node->data_dir . '/core*')), '', 'nothing has crashed but what was killed');

$simulator->stop;
done_testing();
