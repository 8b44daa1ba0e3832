# Bad situations as a new user meets them: dess_batch_explain (or _check, where
# the account is bad) names the remedy in words, and the remedy, carried out
# here word for word where it is SQL, lets the job go on.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../perl";
use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(google => 1, arguments => [ '--latency-ms', 0 ]);
my $node = start_node('explain', conf => "wal_level = replica\nmax_wal_senders = 4\n");
my $holder;

create_server($node, $simulator, options => { models => 'none' });

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub explanation
{
	my ($job) = @_;
	return sql("SELECT string_agg(e, E'\\n') FROM dess_batch_explain($job) e");
}

# What dess_batch_check finds wrong.
sub check
{
	my ($server) = @_;
	return sql(qq{SELECT coalesce(string_agg(step || ': ' || detail, E'\\n'), '') FROM dess_batch_check('$server') WHERE NOT ok});
}

# A new table of so many rows, and a job on it.
my $tables = 0;
sub job
{
	my ($more, $rows) = @_;
	my $table = 't' . ++$tables;

	$rows //= 3;
	sql(qq{CREATE TABLE $table (id integer PRIMARY KEY, body text, answer text);
		   INSERT INTO $table SELECT i, '$table ' || i FROM generate_series(1, $rows) i});
	$more //= q{server => 'openai'};
	$more = "model => 'gpt-6-luna', $more" if $more !~ /model/;
	return submit_job($node, "'$table', prompt => '{body}', target => 'answer', $more");
}

sub setting
{
	my ($name, $value) = @_;
	sql("ALTER SYSTEM SET $name = $value");
	sql('SELECT pg_reload_conf()');
	return;
}

# The statement that the words name, as it stands in them.
sub remedy
{
	my ($pattern) = @_;
	return sub {
		my ($job, $words) = @_;
		my ($statement) = $words =~ $pattern or return;
		sql($statement);
		return;
	};
}

sub server
{
	my ($name, %options) = @_;
	my $key = exists $options{key} ? delete $options{key} : $simulator->key;

	create_server($node, $simulator, name => $name, key => $key,
		provider => delete $options{provider} // 'openai', options => { models => 'none', %options });
	return;
}

my @situations = (
	{
		name => 'dess_batch.enabled is off',
		begin => sub { setting('dess_batch.enabled', 'off'); return job(); },
		words => qr/dess_batch\.enabled is off.*ALTER SYSTEM SET dess_batch\.enabled = on, then SELECT pg_reload_conf\(\)/,
		remedy => sub { setting('dess_batch.enabled', 'on') },
	},
	{
		name => 'no secret',
		begin => sub { server('bare', key => undef, api_key_env => 'NO_SUCH_VARIABLE'); return job(q{server => 'bare'}); },
		words => qr/no secret for server "bare"; looked at: .*NO_SUCH_VARIABLE.*CREATE USER MAPPING FOR \w+ SERVER bare OPTIONS \(api_key '\.\.\.'\)/,
		check => [ 'bare', qr/^secret: not found; looked at: .*NO_SUCH_VARIABLE.*CREATE USER MAPPING/ ],
		remedy => sub {
			my ($job, $words) = @_;
			my ($statement) = $words =~ /(CREATE USER MAPPING .*?\))/;
			my $key = $simulator->key;
			sql($statement =~ s/'\.\.\.'/'$key'/r);
		},
	},
	{
		name => 'a wrong key',
		begin => sub { server('wrong', key => 'sk-wrong'); return job(q{server => 'wrong'}); },
		words => qr/has failed.*invalid_api_key.*dess_batch_check\('wrong'\).*SELECT dess_batch_retry\(\d+\)/s,
		check => [ 'wrong', qr/^credentials: invalid_api_key: .*ALTER USER MAPPING/ ],
		remedy => sub {
			my ($job, $words) = @_;
			sql(sprintf "ALTER USER MAPPING FOR PUBLIC SERVER wrong OPTIONS (SET api_key '%s')", $simulator->key);
			is(check('wrong'), '', 'dess_batch_check is content');
			sql("SELECT dess_batch_retry($job)");
		},
	},
	{
		name => 'a model that the provider does not know',
		begin => sub { return job(q{model => 'gpt-0-nobody', server => 'openai'}); },
		words => qr/has failed.*gpt-0-nobody.*dess_batch_check\('openai'\).*cannot be changed.*submit anew/s,
		remedy => sub { return job(); },
	},
	{
		name => 'nothing at that address',
		begin => sub {
			server('nowhere');
			sql(q{ALTER SERVER nowhere OPTIONS (SET base_url 'http://127.0.0.1:1/v1')});
			return job(q{server => 'nowhere'});
		},
		words => qr/connection_failed.*127\.0\.0\.1.*tried again at .*dess_batch_check\('nowhere'\)/s,
		check => [ 'nowhere', qr/^connection: connection_failed: / ],
		remedy => sub {
			sql(sprintf q{ALTER SERVER nowhere OPTIONS (SET base_url '%s/v1')}, $simulator->url);
			# what is being waited for comes to an end early
			sql("SELECT dess_batch_status($_[0])");
		},
	},
	{
		name => 'a rate limit online',
		begin => sub {
			$simulator->post('faults', { match => { path => '/v1/chat/*' }, status => 429, headers => { 'retry-after' => '3600' }, times => 1 });
			server('busy');
			return job(q{server => 'busy', mode => 'online'});
		},
		words => qr/pause until \d{4}-/,
		remedy => 'cancel',
	},
	{
		name => "the provider's queue is full",
		begin => sub {
			$simulator->post('faults', { match => { method => 'POST', path => '/v1/batches' }, times => 1, batch => {
				state => 'failed', code => 'token_limit_exceeded', message => 'Enqueued token limit reached for gpt-6-luna' } });
			server('queue');
			return job(q{server => 'queue'});
		},
		words => qr/Enqueued token limit reached.*tried again at .*nothing need be done/s,
		remedy => 'cancel',
	},
	{
		name => 'max_active_batches',
		begin => sub {
			$simulator->post('settings', { run_ms => 600000 });
			server('narrow', max_active_batches => 1, max_batch_requests => 2);
			return job(q{server => 'narrow'}, 4);
		},
		words => qr/Batch 2 is prepared, but there is no room: 1 batch is at server "narrow".*ALTER SERVER narrow OPTIONS \((?:SET|ADD) max_active_batches '\.\.\.'\)/s,
		remedy => sub {
			my ($job, $words) = @_;
			my ($statement) = $words =~ /(ALTER SERVER narrow OPTIONS \(.*?\))/;
			sql($statement =~ s/'\.\.\.'/'5'/r);
			sql("SELECT dess_batch_status($job)");
			ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'"),
				'the second batch is on its way');
			$simulator->post('settings', { run_ms => 100 });
			sql("SELECT dess_batch_cancel($job)");
			return 'cancelled';
		},
	},
	{
		name => 'a budget that is reached',
		begin => sub { return job(q{model => 'gpt-4o-mini', server => 'openai', max_cost => 0.0000001}); },
		words => qr/It is paused: .*max_cost.*SELECT dess_batch_resume\(\d+, max_cost => \.\.\.\)/s,
		remedy => sub {
			my ($job, $words) = @_;
			my ($statement) = $words =~ /(SELECT dess_batch_resume\(.*?\.\.\.\))/;
			sql($statement =~ s/\.\.\./10/r);
		},
	},
	{
		name => "a budget of the server's that a job which stands still has reserved",
		begin => sub {
			server('thrifty', max_cost_per_day => '0.0008');
			sql('CREATE TABLE first_come (id integer PRIMARY KEY, body text, answer text)');
			sql(q{INSERT INTO first_come SELECT i, 'row ' || i FROM generate_series(1, 3) i});
			$holder = sql(q{SELECT dess_batch_prepare('first_come', 'gpt-6-luna', prompt => '{body}', target => 'answer', server => 'thrifty')});
			foreach my $next ('upload', 'create')
			{
				$node->poll_query_until('postgres', "SELECT string_agg(e, ' ') ~ 'SELECT dess_batch_$next' FROM dess_batch_explain($holder) e");
				sql("SELECT dess_batch_$next($holder)");
			}
			wait_until('the batch is finished there', sub { explanation($holder) =~ /SELECT dess_batch_retrieve.*\nBatch 1 is finished at the provider, to be fetched\.$/s });
			return job(q{server => 'thrifty'});
		},
		words => qr/has spent 0 of 0\.0008 US dollars today.*reserved as well.*: 1 batch of job (\d+)\.\nJob \1 keeps its reservation.*SELECT dess_batch_retrieve\(\1\)/s,
		remedy => sub {
			my ($job, $words) = @_;
			is($node->safe_psql('postgres', "SELECT done FROM dess_batch_jobs WHERE job_id = $job"), 0, 'until then the job waits');
			remedy(qr/(SELECT dess_batch_retrieve\(\d+\))/)->($job, $words);
			is(wait_for_job($node, $holder), 'done', 'the other job ends');
		},
	},
	{
		name => 'an upload that the provider does not answer',
		begin => sub {
			$simulator->post('faults', { match => { method => 'POST', path => '/v1/files' }, delay_ms => 60000, times => 1 });
			server('slow', request_timeout => 6);
			return job(q{server => 'slow'});
		},
		words => qr/Batch 1 is being uploaded since \d{4}-.* \(\d+ s\)\.\nA request that makes no progress for 6 s is given up and made again later: option request_timeout of server "slow"/,
		# that is what happens
		remedy => sub {
			my ($job) = @_;
			is(sql("SELECT waiting_for FROM dess_batch_progress WHERE job_id = $job"), 'the provider', 'dess_batch_progress says who is awaited');
			return;
		},
	},
	{
		name => 'a job that somebody has paused',
		begin => sub { my $job = job(q{server => 'openai', label => 'paused'}); sql("SELECT dess_batch_pause($job)"); return $job; },
		words => qr/It is paused\. (SELECT dess_batch_resume\(\d+\))/,
		remedy => remedy(qr/(SELECT dess_batch_resume\(\d+\))/),
		may_be_done => 1,
	},
	{
		name => 'a stage that waits for the next call',
		begin => sub {
			sql('CREATE TABLE staged (id integer PRIMARY KEY, body text, answer text)');
			sql(q{INSERT INTO staged VALUES (1, 'one')});
			return sql(q{SELECT dess_batch_prepare('staged', 'gpt-6-luna', prompt => '{body}', target => 'answer', server => 'openai')});
		},
		words => qr/All its batches are prepared.*(SELECT dess_batch_upload\(\d+\))/,
		remedy => sub {
			my ($job, $words) = @_;
			foreach my $next ('upload', 'create', 'retrieve')
			{
				$node->poll_query_until('postgres', "SELECT string_agg(e, ' ') ~ 'SELECT dess_batch_$next' FROM dess_batch_explain($job) e");
				sql("SELECT dess_batch_$next($job)");
			}
		},
	},
	{
		name => 'LOCK TABLE in another session',
		begin => sub {
			$simulator->post('settings', { run_ms => 1500 });
			my $job = job(q{server => 'openai'});
			$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'");
			$simulator->post('settings', { run_ms => 100 });
			$holder = DessBatch::Session->new($node);
			$holder->query("BEGIN; LOCK TABLE t$tables IN EXCLUSIVE MODE");
			return $job;
		},
		words => qr/retrieving.*process (\d+) has a lock on .*SELECT pg_terminate_backend\(\1\)/s,
		remedy => remedy(qr/(SELECT pg_terminate_backend\(\d+\))/),
	},
	{
		name => 'rows that another session has locked',
		begin => sub {
			$simulator->post('settings', { run_ms => 1500 });
			my $job = job(q{server => 'openai'});
			$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'");
			$simulator->post('settings', { run_ms => 100 });
			$holder = DessBatch::Session->new($node);
			$holder->query("BEGIN; SELECT FROM t$tables WHERE id = 2 FOR UPDATE");
			return $job;
		},
		words => qr/retrieving.*process (\d+) has a lock on .*SELECT pg_terminate_backend\(\1\)/s,
		remedy => sub { $holder->query('COMMIT'); $holder->close; },
	},
	{
		name => 'a table that was dropped',
		begin => sub {
			$simulator->post('settings', { run_ms => 1500 });
			my $job = job(q{server => 'openai'});
			$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'");
			$simulator->post('settings', { run_ms => 100 });
			sql("DROP TABLE t$tables");
			return $job;
		},
		words => qr/has failed.*42P01.*Table public\.t\d+ was dropped and is gone for good: submit anew/s,
		remedy => sub { return job(); },
	},
	{
		name => 'a column that was dropped',
		begin => sub {
			$simulator->post('settings', { run_ms => 1500 });
			my $job = job(q{server => 'openai'});
			$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'");
			$simulator->post('settings', { run_ms => 100 });
			sql("ALTER TABLE t$tables DROP COLUMN answer");
			return $job;
		},
		words => qr/has failed.*42703.*answer.*SELECT dess_batch_retry\(\d+\)/s,
		remedy => sub {
			my ($job) = @_;
			sql("ALTER TABLE t$tables ADD COLUMN answer text");
			sql("SELECT dess_batch_retry($job)");
		},
	},
	{
		name => 'a bucket that is not there',
		begin => sub {
			server('vertex', provider => 'vertex', key => PostgreSQL::Test::Utils::slurp_file($simulator->credentials('service-account')),
				bucket => 'no-such-bucket');
			return job(q{model => 'gemini-3.5-flash', server => 'vertex'});
		},
		words => qr/has failed.*no-such-bucket|bucket does not exist.*dess_batch_check\('vertex'\)/s,
		check => [ 'vertex', qr/bucket/ ],
		remedy => sub {
			my ($job) = @_;
			sql(q{ALTER SERVER vertex OPTIONS (SET bucket 'test-bucket')});
			is(check('vertex'), '', 'dess_batch_check is content');
			sql("SELECT dess_batch_retry($job)");
		},
	},
	{
		name => 'a spool that is full',
		begin => sub {
			setting('dess_batch.spool_limit', q{'1MB'});
			sql(q{CREATE TABLE wide (id integer PRIMARY KEY, body text, answer text);
				  INSERT INTO wide SELECT i, repeat(md5(i::text), 1000) FROM generate_series(1, 60) i});
			$simulator->post('settings', { run_ms => 600000 });
			server('full', max_batch_requests => 40);
			return submit_job($node, q{'wide', 'gpt-6-luna', prompt => '{body}', target => 'answer', server => 'full'});
		},
		words => qr/spool is full: .* of dess_batch\.spool_limit \(1 ?MB\).*ALTER SYSTEM SET dess_batch\.spool_limit = '\.\.\.', then SELECT pg_reload_conf\(\)/s,
		remedy => sub {
			my ($job) = @_;
			setting('dess_batch.spool_limit', q{'1GB'});
			ok($node->poll_query_until('postgres', "SELECT count(*) = 2 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'"),
				'the rest is prepared and sent');
			sql("SELECT dess_batch_cancel($job)");
			$simulator->post('settings', { run_ms => 100 });
			return 'cancelled';
		},
	},
	{
		name => 'a ledger that was copied',
		begin => sub {
			$simulator->post('settings', { run_ms => 600000 });
			my $job = job(q{server => 'openai'});
			$node->poll_query_until('postgres', "SELECT count(*) = 1 FROM dess_batch_batches WHERE job_id = $job AND state = 'running'");
			$simulator->post('settings', { run_ms => 100 });
			sql("UPDATE dess_batch.job SET control = 'hold' WHERE id = $job");
			return $job;
		},
		words => qr/It is held.*(SELECT dess_batch_adopt\(\d+\))/,
		remedy => sub {
			my ($job, $words) = @_;
			sql($words =~ /(SELECT dess_batch_adopt\(\d+\))/ ? $1 : 'SELECT 1');
			sql("SELECT dess_batch_cancel($job)");
			return 'cancelled';
		},
	},
);

foreach my $situation (@situations)
{
	subtest $situation->{name} => sub {
		my $job = $situation->{begin}->();
		my $words = '';

		ok( eval {
				wait_until($situation->{name}, sub { $words = explanation($job); return $words =~ $situation->{words}; });
			},
			'the words name the remedy') or diag($words);
		if (my $check = $situation->{check})
		{
			like(check($check->[0]), $check->[1], 'dess_batch_check does so too');
		}
		my $end = 'done';
		if (!ref $situation->{remedy})
		{
			# the words say that time is the remedy: the job could go on, and is let go
			sql("SELECT dess_batch_cancel($job)");
			$end = 'cancelled';
		}
		else
		{
			my $result = $situation->{remedy}->($job, $words) // '';
			$end = 'cancelled' if $result eq 'cancelled';
			$job = $result if $result =~ /^\d+$/;
		}
		is(wait_for_job($node, $job), $end, 'carried out, it helps');
	};
}

# ---- a standby

$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('explain_standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
$simulator->post('settings', { run_ms => 600000 });
my $job = job(q{server => 'openai'});
$node->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job");
$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
like($standby->safe_psql('postgres', "SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"),
	qr/This server is a standby: the worker runs on the primary server, and starts here after a promotion/, 'a standby says what it is');
sql("SELECT dess_batch_cancel($job)");
is(wait_for_job($node, $job), 'cancelled', 'the primary server sees to the job');
$standby->stop;

# ---- no worker slot

sql('ALTER SYSTEM SET max_worker_processes = 1');
$node->restart;
$job = job(q{server => 'openai'});
like(explanation($job), qr/No worker runs in this database.*increase max_worker_processes \(now 1\) and restart/, 'no slot for a worker: the words name the setting');
sql('ALTER SYSTEM RESET max_worker_processes');
$node->restart;
$simulator->post('settings', { run_ms => 100 });
is(wait_for_job($node, $job), 'done', 'increased, it helps');

$node->stop;
done_testing();
