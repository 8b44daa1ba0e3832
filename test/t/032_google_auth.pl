# How Vertex AI's access tokens are got: from credentials of every kind, and what
# is said when they are no good.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use File::Copy ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->utf8->canonical;
my $simulator = start_simulator(google => 1, batch_ms => 20);
my $stranger = start_simulator(google => 1);
my $empty = PostgreSQL::Test::Utils::tempdir();
my ($host) = $simulator->url =~ m{^http://(.*)$};
my $node = start_node(
	'google_auth',
	conf => "log_min_messages = debug2\nlog_statement = none\nlog_min_error_statement = panic",
	environment => { GCE_METADATA_HOST => $host, CLOUDSDK_CONFIG => $empty });

$node->safe_psql('postgres', q{
	CREATE TABLE notes (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO notes SELECT i, 'item' || i || ' of many' FROM generate_series(1, 3) i});

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Submits the three rows anew.
sub submit
{
	my ($server) = @_;
	sql('UPDATE notes SET answer = NULL; TRUNCATE dess_batch.settled');
	return submit_job($node, "'notes', 'gemini-3.5-flash', prompt => '{body}', target => 'answer', server => '$server'");
}

sub seen
{
	my ($method, $path) = @_;
	return scalar @{ $simulator->get("requests?limit=20000&method=$method&path=$path")->{requests} };
}

# A statement that has to fail: its SQLSTATE, and the words of its message.
sub refused
{
	my ($statement, $state, $words, $name) = @_;
	my ($status, $out, $err) = $node->psql('postgres', "\\set VERBOSITY verbose\n$statement");
	like($err, qr/ERROR:  $state: /, "$name is refused");
	like($err, $words, 'in words');
	return;
}

# A login names no address of its own: without one, Google's is asked.
sub at_simulator
{
	my ($kind) = @_;
	my $file = "$empty/$kind.json";
	my $key = $json->decode(slurp_file($simulator->credentials($kind)));
	my $login = $key->{source_credentials} // $key;

	$login->{token_uri} = $simulator->url . '/token' if $login->{type} eq 'authorized_user';
	append_to_file($file, $json->encode($key)) unless -e $file;
	chmod 0600, $file;
	return $file;
}

# ---- every kind of credentials

my %kinds = (
	'service-account' => [ 'POST /token' ],
	'authorized-user' => [ 'POST /token' ],
	'impersonated' => [ 'POST /token', 'POST /v1/projects/-/serviceAccounts/*' ],
	'external-account' => [ 'POST /v1/token', 'POST /v1/projects/-/serviceAccounts/*' ]);

foreach my $kind (sort keys %kinds)
{
	subtest "credentials_file, $kind" => sub {
		my %before = map { $_ => seen(split / /, $_) } @{ $kinds{$kind} };
		create_server($node, $simulator, name => $kind, provider => 'vertex', key => undef,
			options => { credentials_file => at_simulator($kind) });
		my $job = submit($kind);
		is(wait_for_job($node, $job), 'done', 'the job ends');
		is(job_figures($node, $job), 'done 3 3 0 0', 'well');
		is(seen(split / /, $_), $before{$_} + 1, "one token came by $_") foreach @{ $kinds{$kind} };
		is(sql("SELECT count(*) FILTER (WHERE NOT ok) FROM dess_batch_check('$kind')"), 0, 'dess_batch_check likes it');
	};
}

subtest 'the project that pays, of a login' => sub {
	my @requests = @{ $simulator->get('requests?limit=20000&method=POST&path=/v1/projects/*/batchPredictionJobs')->{requests} };
	is(scalar(grep { $json->encode($_->{headers}) =~ /"x-goog-user-project":"test-project"/i } @requests), 1,
		'is named with the requests of that login');
};

subtest 'the metadata server' => sub {
	my $before = seen('GET', '/computeMetadata/*/token');
	create_server($node, $simulator, name => 'metadata', provider => 'vertex', key => undef);
	my $job = submit('metadata');
	is(wait_for_job($node, $job), 'done', 'the job ends');
	is(job_figures($node, $job), 'done 3 3 0 0', 'well');
	is(seen('GET', '/computeMetadata/*/token'), $before + 1, 'it was asked once');
	like(sql(q{SELECT string_agg(detail, ' ') FROM dess_batch_check('metadata')}), qr/metadata server/, 'dess_batch_check says so');
};

# ---- credentials that are no good

subtest 'a key that was revoked' => sub {
	my $key = $json->decode(slurp_file($stranger->credentials('service-account')));
	$key->{token_uri} = $simulator->url . '/token';
	create_server($node, $simulator, name => 'revoked', provider => 'vertex', key => $json->encode($key));
	my $job = submit('revoked');
	is(wait_for_job($node, $job), 'failed', 'the job fails');
	is(sql("SELECT error_code FROM dess_batch_jobs WHERE job_id = $job"), 'invalid_grant', 'for that reason');
	like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/was revoked.*Invalid JWT Signature/, 'with what to do, and Google\'s words');
	is(sql(q{SELECT count(*) FROM dess_batch_check('revoked') WHERE NOT ok AND detail LIKE '%Invalid JWT Signature%'}), 1, 'dess_batch_check says it as well');
};

subtest 'a login that has ended' => sub {
	$simulator->post('tokens', { revoke => 'user' });
	create_server($node, $simulator, name => 'logged out', provider => 'vertex', key => undef,
		options => { credentials_file => at_simulator('authorized-user') });
	my $job = submit('logged out');
	is(wait_for_job($node, $job), 'failed', 'the job fails');
	like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/gcloud auth application-default login/, 'and says what to do');
};

subtest 'a clock that is wrong' => sub {
	$simulator->post('faults', {
		match => { method => 'POST', path => '/token' }, status => 400, times => 1,
		json => { error => 'invalid_grant', error_description => 'Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim.' } });
	create_server($node, $simulator, name => 'skewed', provider => 'vertex');
	my $job = submit('skewed');
	is(wait_for_job($node, $job), 'failed', 'the job fails');
	is(sql("SELECT error_code FROM dess_batch_jobs WHERE job_id = $job"), 'clock_skew', 'for that reason');
	like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/clock/, 'and speaks of the clock');
	sql("SELECT dess_batch_retry($job)");
	is(wait_for_job($node, $job), 'done', 'when the clock is right it goes on');
};

subtest 'a key that is revoked while a job is at the provider' => sub {
	$simulator->post('settings', { run_ms => 1500 });
	create_server($node, $simulator, name => 'later', provider => 'vertex');
	my $before = $simulator->get('stats');
	my $job = submit('later');
	ok($node->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job"), 'it runs');
	$simulator->post('faults', {
		match => { method => 'POST', path => '/token' }, status => 400,
		json => { error => 'invalid_grant', error_description => 'Invalid JWT Signature.' } });
	$simulator->post('tokens', { revoke => 'all' });
	ok($node->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM dess_batch_explain($job) e WHERE e LIKE '%Invalid JWT Signature%'"), 'dess_batch_explain says why it waits');
	isnt(sql("SELECT state FROM dess_batch_jobs WHERE job_id = $job"), 'failed', 'the job waits');
	$simulator->post('faults/clear');
	is(wait_for_job($node, $job), 'done', 'with a good key it goes on');
	my $after = $simulator->get('stats');
	is($after->{batches_created} - $before->{batches_created}, 1, 'with its one job');
	is($after->{rows_served} - $before->{rows_served}, 3, 'and nothing is bought twice');
	$simulator->post('settings', { run_ms => 20 });
};

# ---- what is refused at once

subtest 'keys of another kind' => sub {
	create_server($node, $simulator, name => 'unkeyed', provider => 'vertex', key => undef);
	my $mapping = 'CREATE USER MAPPING FOR PUBLIC SERVER unkeyed OPTIONS';
	refused("$mapping (service_account_key 'AIzaSyD-not-a-key-file')", '22023', qr/API key is no use to Vertex AI/, 'an API key');
	refused(qq{$mapping (service_account_key '{"installed": {"client_id": "x"}}')}, '22023', qr/OAuth client/, 'the file of an OAuth client');
	refused(qq{$mapping (service_account_key '{"type": "authorized_user", "client_id": "a", "client_secret": "b", "refresh_token": "c"}')},
		'22023', qr/credentials_file/, 'a login');
	refused(qq{$mapping (service_account_key '{"type": "service_account", "client_email": "a"}')}, '22023', qr/private_key/, 'half a key');
};

subtest 'files that others can read' => sub {
	my $loose = "$empty/loose.json";
	File::Copy::copy($simulator->credentials('service-account'), $loose);
	chmod 0644, $loose;
	create_server($node, $simulator, name => 'loose', provider => 'vertex', key => undef, options => { credentials_file => $loose });
	like(sql(q{SELECT string_agg(detail, ' ') FROM dess_batch_check('loose') WHERE NOT ok}), qr/permissions/, 'are not used');
};

subtest 'what belongs to superusers' => sub {
	sql('CREATE ROLE clerk; GRANT USAGE ON FOREIGN DATA WRAPPER dess_batch TO clerk; GRANT USAGE ON FOREIGN SERVER unkeyed TO clerk');
	my $server = "SET ROLE clerk; CREATE SERVER mine FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'vertex', project 'p', location 'global', bucket 'abc'";
	refused("$server, credentials_file '/etc/passwd')", '42501', qr/credentials_file.*superuser-only/, 'credentials_file');
	refused("$server, storage_url 'http://127.0.0.1:1')", '42501', qr/storage_url/, 'an address on this machine');
	my $key = slurp_file($simulator->credentials('service-account'));
	refused("SET ROLE clerk; CREATE USER MAPPING FOR clerk SERVER unkeyed OPTIONS (service_account_key '$key')",
		'42501', qr/token_uri/, 'a key whose token_uri is on this machine');
	sql("SET ROLE clerk; $server)" =~ s/^SET ROLE clerk; //r);
	like(sql(q{SET ROLE clerk; SELECT string_agg(detail, ' ') FROM dess_batch_check('mine') WHERE NOT ok}),
		qr/serve only servers owned by a superuser/, 'the metadata server');
};

# ---- secrets stay secret

subtest 'no secret is shown' => sub {
	my $secrets = 'ya29|1//0e|GOCSPX|subject\.[A-Za-z0-9]|BEGIN PRIVATE KEY|AHxI1n|eyJhbGciOi';
	my $log = slurp_file($node->logfile);

	cmp_ok(length $log, '>', 10000, 'the log is long');
	unlike($log, qr/$secrets/, 'and holds none');
	is(sql(qq{
		CREATE TEMP TABLE found (place text);
		DO \$\$
		DECLARE
			place regclass;
		BEGIN
			FOR place IN SELECT c.oid FROM pg_class c
				WHERE relkind IN ('r', 'v') AND (relnamespace = 'dess_batch'::regnamespace OR relname LIKE 'dess\\_batch\\_%')
			LOOP
				EXECUTE format('INSERT INTO found SELECT %L FROM %s t WHERE t::text ~ %L', place, place, '$secrets');
			END LOOP;
		END \$\$;
		SELECT string_agg(DISTINCT place, ' ') FROM found}), '', 'no table and no view does');
	is(sql(qq{SELECT count(*) FROM dess_batch_check('service-account') c WHERE c::text ~ '$secrets'}), 0, 'nor does dess_batch_check');
};
$node->stop;

# ---- nothing there but an API key

my $bare = start_node(
	'google_bare',
	environment => {
		GCE_METADATA_HOST => '127.0.0.1:9', CLOUDSDK_CONFIG => $empty, GOOGLE_API_KEY => 'AIza-for-gemini' });

subtest 'an API key where a service account is needed' => sub {
	create_server($bare, $simulator, name => 'vertex', provider => 'vertex', key => undef);
	my $detail = $bare->safe_psql('postgres', q{SELECT string_agg(detail, ' ') FROM dess_batch_check('vertex')});
	like($detail, qr/GOOGLE_API_KEY is set, but Vertex AI needs a service account/, 'is what dess_batch_check says');
	unlike($detail, qr/AIza-for/, 'without the key');
	$bare->safe_psql('postgres', q{
		CREATE TABLE notes (id integer PRIMARY KEY, body text, answer text); INSERT INTO notes VALUES (1, 'item1 of many')});
	my $job = submit_job($bare, "'notes', 'gemini-3.5-flash', prompt => '{body}', target => 'answer', server => 'vertex'");
	ok($bare->poll_query_until('postgres',
		"SELECT count(*) > 0 FROM dess_batch_explain($job) e WHERE e LIKE '%GOOGLE_API_KEY is set%'"), 'and dess_batch_explain');
	my $key = slurp_file($simulator->credentials('service-account'));
	$bare->safe_psql('postgres', "CREATE USER MAPPING FOR PUBLIC SERVER vertex OPTIONS (service_account_key '$key')");
	is(wait_for_job($bare, $job), 'done', 'with a service account the job goes on, without a restart');
};
$bare->stop;
done_testing();
