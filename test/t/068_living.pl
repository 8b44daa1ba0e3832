# Living with it: an update of the extension beside a live worker, roles that are
# dropped or hand over what they own, jobs that are forgotten in time.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('living');

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }
sub settings { return $simulator->post('settings', {@_}); }
sub created { return $simulator->get('stats')->{batches_created}; }

sub worker { return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = 'postgres'}); }

# A job of the role whose batches are all at the provider, and stay there.
sub away
{
	my ($role, $table) = @_;

	settings(run_ms => 600000);
	my $job = sql(qq{SET ROLE $role; SELECT dess_batch_submit('$table', 'gpt-6-luna', prompt => '{body}', target => 'answer')});
	$node->poll_query_until('postgres', qq{
		SELECT count(*) > 0 AND bool_and(state = 'running') FROM dess_batch_batches WHERE job_id = $job})
	  or die 'batches do not run';
	return $job;
}

sub let_end
{
	my ($job) = @_;

	settings(run_ms => 20);
	sql("SELECT dess_batch_status($job)");
	return wait_for_job($node, $job);
}

sub table
{
	my ($name, $owner) = @_;

	sql(qq{CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $name SELECT i, '$name ' || i FROM generate_series(1, 30) i;
		ALTER TABLE $name OWNER TO $owner});
	return;
}

create_server($node, $simulator, options => { max_batch_requests => 10 });
sql(q{CREATE ROLE keeper; CREATE ROLE heir; GRANT USAGE ON FOREIGN SERVER openai TO keeper, heir;
	GRANT CREATE ON SCHEMA public TO keeper, heir});

# ---- ALTER EXTENSION UPDATE beside a live worker

table('updated', 'keeper');
my $job = away('keeper', 'updated');
my $batches = created();
my $pid = worker();
my $share = $node->config_data('--sharedir') . '/extension';
append_to_file("$share/dess_batch--1.0--1.0test.sql", q{
	LOCK TABLE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result;
	ALTER TABLE dess_batch.job ADD COLUMN of_the_update integer NOT NULL DEFAULT 1;
	ALTER TABLE dess_batch.batch ADD COLUMN of_the_update integer NOT NULL DEFAULT 1;
});
END { unlink "$share/dess_batch--1.0--1.0test.sql" if defined $share; }

my ($status, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '20s'; ALTER EXTENSION dess_batch UPDATE TO '1.0test'});
is($status, 0, 'the extension is updated while its worker runs') or diag($err);
is(worker(), $pid, 'the worker lives on');
is(let_end($job), 'done', 'its job ends');
is(sql('SELECT count(answer) FROM updated'), 30, 'with all answers');
is(created(), $batches, 'and no second batch');
table('after_update', 'keeper');
$job = sql(q{SET ROLE keeper; SELECT dess_batch_submit('after_update', 'gpt-6-luna', prompt => '{body}', target => 'answer', mode => 'online')});
is(wait_for_job($node, $job), 'done', 'a new job ends as well');
is(sql("SELECT extension_version FROM dess_batch_jobs WHERE job_id = $job"), '1.0test', 'and knows which version made it');

# an update in the middle of a merge waits for a transaction of it, not for the job
table('merging', 'keeper');
sql(q{INSERT INTO merging SELECT i, 'merging ' || i FROM generate_series(31, 20000) i; ALTER SERVER openai OPTIONS (SET max_batch_requests '20000')});
append_to_file("$share/dess_batch--1.0test--1.0again.sql", q{
	LOCK TABLE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result;
	ALTER TABLE dess_batch.job DROP COLUMN of_the_update;
});
END { unlink "$share/dess_batch--1.0test--1.0again.sql" if defined $share; }
settings(run_ms => 20);
$job = sql(q{SET ROLE keeper; SELECT dess_batch_submit('merging', 'gpt-6-luna', prompt => '{body}', target => 'answer')});
$node->poll_query_until('postgres', "SELECT done > 0 FROM dess_batch_jobs WHERE job_id = $job") or die 'nothing is merged';
($status, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '20s'; ALTER EXTENSION dess_batch UPDATE TO '1.0again'});
is($status, 0, 'updated in the middle of a merge') or diag($err);
is(wait_for_job($node, $job), 'done', 'the job ends');
is(sql('SELECT count(answer) FROM merging'), 20000, 'with all answers');

# ---- REASSIGN OWNED, DROP OWNED, DROP ROLE

sql(q{ALTER SERVER openai OPTIONS (SET max_batch_requests '10')});
table('inherited', 'keeper');
$job = away('keeper', 'inherited');
sql('REASSIGN OWNED BY keeper TO heir');
is(let_end($job), 'failed', 'a job whose owner handed over the table fails');
like(sql("SELECT error_code || ' ' || error FROM dess_batch_jobs WHERE job_id = $job"), qr/^42501 permission denied for table inherited/,
	'in the words of the right that is missing');
is(sql('SELECT count(answer) FROM inherited'), 0, 'and nothing is written with rights that are gone');
sql('GRANT SELECT, UPDATE ON inherited TO keeper');
sql("SELECT dess_batch_retry($job)");
is(wait_for_job($node, $job), 'done', 'given the right and retried, it ends');
is(sql('SELECT count(answer) FROM inherited'), 30, 'with the answers that were paid for');

table('left_behind', 'heir');
$job = away('heir', 'left_behind');
sql('DROP OWNED BY heir; DROP OWNED BY keeper');
settings(run_ms => 20);
sql("SELECT dess_batch_status($job)");
$node->poll_query_until('postgres', "SELECT error LIKE 'permission denied for foreign server%' FROM dess_batch_jobs WHERE job_id = $job")
  or die 'nothing is said about the right';
like(sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"), qr/permission denied for foreign server "openai".*GRANT USAGE ON FOREIGN SERVER openai TO heir/,
	'a job whose owner lost the right to its server says so, and keeps what is paid for');
my $before = () = slurp_file($node->logfile) =~ /permission denied for foreign server/g;
cmp_ok($before, '<', 20, 'without filling the log');
sql('GRANT USAGE ON FOREIGN SERVER openai TO heir');
is(wait_for_job($node, $job), 'failed', 'given it back, it fails because its table went with DROP OWNED');
like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/left_behind.*does not exist/, 'and names the table');
sql('DROP OWNED BY heir; DROP ROLE heir; DROP ROLE keeper');
like(sql("SELECT string_agg(owner, ' ') FROM dess_batch_jobs"), qr/keeper.*heir/, 'the views remember who they were');
is(sql(q{SELECT count(*) FROM dess_batch_usage WHERE owner IN ('keeper', 'heir')}) > 0, 1, 'and so does usage');

# ---- retention

my $usage = sql('SELECT sum(input_tokens) FROM dess_batch_usage');
table('kept', 'CURRENT_USER');
settings(run_ms => 20);
$job = submit_job($node, q{'kept', 'gpt-6-luna', prompt => '{body}', target => 'answer', missing => NULL});
is(wait_for_job($node, $job), 'done', 'a job to be forgotten');
sql(q{UPDATE dess_batch.job SET finished_at = finished_at - interval '2 days'});
sql(q{ALTER SYSTEM SET dess_batch.job_retention = '1d'; ALTER SYSTEM SET dess_batch.idle_timeout = '1s'});
$node->restart;
my $next = submit_job($node, q{'kept', 'gpt-6-luna', prompt => '{body}', target => 'answer'});
wait_for_job($node, $next);
$node->poll_query_until('postgres', "SELECT count(*) = 0 FROM dess_batch.job WHERE id <= $job") or die 'jobs are not forgotten';
pass('jobs older than dess_batch.job_retention are forgotten');
is(sql('SELECT count(*) FROM dess_batch.item i WHERE NOT EXISTS (SELECT FROM dess_batch.job j WHERE j.id = i.job_id)')
	+ sql('SELECT count(*) FROM dess_batch.result i WHERE NOT EXISTS (SELECT FROM dess_batch.job j WHERE j.id = i.job_id)')
	+ sql('SELECT count(*) FROM dess_batch.batch i WHERE NOT EXISTS (SELECT FROM dess_batch.job j WHERE j.id = i.job_id)'),
	0, 'with all that belonged to them');
cmp_ok(sql('SELECT sum(input_tokens) FROM dess_batch_usage'), '>', $usage, 'usage stays');

# ---- DROP EXTENSION in the middle

table('dropped', 'CURRENT_USER');
$job = away('NONE', 'dropped');
my $log = -s $node->logfile;
($status, $out, $err) = $node->psql('postgres', q{SET lock_timeout = '20s'; DROP EXTENSION dess_batch CASCADE});
is($status, 0, 'the extension is dropped while its worker runs') or diag($err);
$node->poll_query_until('postgres', q{SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}) or die 'the worker stays';
pass('the worker goes');
unlike(slurp_file($node->logfile, $log), qr/PANIC|FATAL|terminated by signal/, 'without an error');
sql('CREATE EXTENSION dess_batch');
create_server($node, $simulator);
settings(run_ms => 20);
$job = submit_job($node, q{'dropped', 'gpt-6-luna', prompt => '{body}', target => 'answer'});
is(wait_for_job($node, $job), 'done', 'created again, it works');

done_testing();
