# What once went wrong in the worker, and must not again.
use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('regressions');
my $locker = DessBatch::Session->new($node);

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

sub until_true
{
	my ($what, $sql, $database) = @_;
	$node->poll_query_until($database // 'postgres', $sql) or die "in vain: $what";
	return;
}

sub worker_pid
{
	my ($database) = @_;
	return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = '} . ($database // 'postgres') . q{'});
}

# Seconds of processor time that a process has used.
sub cpu_seconds
{
	my ($pid) = @_;
	my @fields = split ' ', slurp_file("/proc/$pid/stat");
	return ($fields[13] + $fields[14]) / 100;
}

sub create_table
{
	my ($name, $rows, $database) = @_;
	sql(qq{
		CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $name SELECT i, '$name ' || i FROM generate_series(1, $rows) i;}, $database);
	return;
}

create_server($node, $simulator);

subtest 'a job that fails in a database that is not UTF-8' => sub {
	sql(q{CREATE DATABASE latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'});
	sql('CREATE EXTENSION dess_batch', 'latin1');
	create_server($node, $simulator, database => 'latin1');
	create_table('notes', 5, 'latin1');
	$simulator->post('faults', { match => { path => '/v1/files' }, status => 401, times => 1,
		error => { message => "cl\x{e9} refus\x{e9}e \x{2192} no", code => 'invalid_api_key' } });
	my $job = submit_job($node, q{'notes', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'}, 'latin1');
	is(wait_for_job($node, $job, 'latin1'), 'failed', 'it fails');
	like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job", 'latin1'), qr/cl.* refus.* no/, 'with the words of the provider');
	is(sql(q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = 'latin1'}), 1, 'the worker lives');
	sql("SELECT dess_batch_retry($job)", 'latin1');
	is(wait_for_job($node, $job, 'latin1'), 'done', 'and does it once more');
};

subtest 'an online row that somebody has locked' => sub {
	create_table('held', 3);
	$locker->query('BEGIN; SELECT FROM held WHERE id = 2 FOR UPDATE');
	my $job = submit_job($node, q{'held', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => 'online'});
	until_true('the others are written', 'SELECT count(answer) = 2 FROM held');
	my $pid = worker_pid();
	my $cpu = cpu_seconds($pid);
	my $log = -s $node->logfile;
	sql('SELECT pg_sleep(3)');
	cmp_ok(cpu_seconds($pid) - $cpu, '<', 1, 'the worker does not spin');
	my $new = substr(slurp_file($node->logfile), $log);
	my $lines = () = $new =~ /dess_batch worker/g;
	cmp_ok($lines, '<', 20, 'nor does it fill the log');
	$locker->query('COMMIT');
	is(wait_for_job($node, $job), 'done', 'it is written when it is free');
	is(sql('SELECT count(answer) FROM held'), 3, 'like the others');
};

subtest 'an online answer that is no UTF-8, when the worker ends' => sub {
	create_table('garbled', 3);
	$simulator->post('faults', { match => { prompt => 'garbled 2' }, answer => { content_kind => 'invalid_utf8' } });
	my $served = $simulator->get('stats')->{rows_served};
	# nothing can be merged
	$locker->query('BEGIN; LOCK TABLE dess_batch.result IN EXCLUSIVE MODE');
	my $job = submit_job($node, q{'garbled', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => 'online'});
	wait_until('all are answered', sub { return $simulator->get('stats')->{rows_served} == $served + 3 });
	my $results = $node->data_dir . "/dess_batch/*/$job-1.results*";
	wait_until('the answers are in the spool', sub { return 3 == map { slurp_file($_) =~ /"custom_id"/g } glob $results });
	my $pid = worker_pid();
	sql("SELECT pg_terminate_backend($pid)");
	until_true('the worker ends', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	$locker->query('COMMIT');
	sql('SELECT dess_batch_start()');
	is(wait_for_job($node, $job), 'done', 'the job is done');
	is(sql("SELECT string_agg(outcome, ' ' ORDER BY row_key ->> 'id') FROM dess_batch_rows WHERE job_id = $job"), 'ok invalid ok', 'each row has its outcome');
	is($simulator->get('stats')->{rows_served}, $served + 3, 'and no answer was bought twice');
	$simulator->post('faults/clear', {});
};

subtest 'a filter that an index serves' => sub {
	create_table('filtered', 20_000);
	sql('ANALYZE filtered');
	my $job = submit_job($node, q{'filtered', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => 'online', where_sql => 'id BETWEEN 15001 AND 15010'});
	is(wait_for_job($node, $job), 'done', 'the job is done');
	is(job_figures($node, $job), 'done 10 10 0 0', 'with its rows');
	is(sql("SELECT last_key FROM dess_batch.job WHERE id = $job"), '15010', 'and has looked at no others');
};

subtest 'two batches that are refused at once' => sub {
	create_table('refused', 4);
	sql(q{ALTER SERVER openai OPTIONS (ADD max_batch_requests '2')});
	$simulator->post('faults', { match => { method => 'POST', path => '/v1/batches' }, status => 401, delay_ms => 300 });
	my $job = submit_job($node, q{'refused', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	is(wait_for_job($node, $job), 'failed', 'the job ends');
	is(sql("SELECT string_agg(DISTINCT state, ' ') FROM dess_batch_batches WHERE job_id = $job"), 'failed', 'with all its batches');
	is(sql("SELECT pending FROM dess_batch_jobs WHERE job_id = $job"), 4, 'its rows wait for a retry');
	$simulator->post('faults/clear', {});
	sql("SELECT dess_batch_retry($job)");
	is(wait_for_job($node, $job), 'done', 'which succeeds');
	sql('ALTER SERVER openai OPTIONS (DROP max_batch_requests)');
};

subtest 'a spool limit smaller than a batch' => sub {
	create_table('wide', 40);
	sql(q{
		UPDATE wide SET body = repeat('word ' || id || ' ', 10000);
		ALTER SYSTEM SET dess_batch.spool_limit = '1MB';
		SELECT pg_reload_conf();});
	until_true('the limit is read', "SELECT current_setting('dess_batch.spool_limit') = '1MB'");
	my $job = submit_job($node, q{'wide', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	is(wait_for_job($node, $job), 'done', 'what there is is sent');
	sql('ALTER SYSTEM RESET dess_batch.spool_limit; SELECT pg_reload_conf()');
};

subtest 'work that is announced while a trigger waits' => sub {
	create_table('waiting', 20);
	create_table('meanwhile', 3);
	sql(q{
		CREATE FUNCTION wait_a_moment() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_catalog.pg_sleep(0.1);
			RETURN NEW;
		END $$;
		CREATE TRIGGER t BEFORE UPDATE ON waiting FOR EACH ROW EXECUTE FUNCTION wait_a_moment();});
	my $first = submit_job($node, q{'waiting', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	until_true('rows are written', 'SELECT count(answer) > 0 FROM waiting');
	my $second = submit_job($node, q{'meanwhile', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => 'online'});
	is(wait_for_job($node, $second), 'done', 'the new job is done');
	is(wait_for_job($node, $first), 'done', 'and the old one');
	is(sql("SELECT extract(epoch FROM finished_at - created_at) < 5 FROM dess_batch_jobs WHERE job_id = $second"), 't', 'at once');
};

subtest 'a note of an earlier worker' => sub {
	create_table('noted', 3);
	create_server($node, $simulator, name => 'keyless', key => undef);
	my $job = submit_job($node, q{'noted', 'gpt-4o-mini', '{body}', 'answer', server => 'keyless'});
	until_true('the missing secret is noted', "SELECT error LIKE 'no secret%' FROM dess_batch_jobs WHERE job_id = $job");
	my $pid = worker_pid();
	sql("SELECT pg_terminate_backend($pid)");
	until_true('the worker ends', "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)");
	$simulator->post('settings', { run_ms => 3000 });
	sql("CREATE USER MAPPING FOR PUBLIC SERVER keyless OPTIONS (api_key '" . $simulator->key . "'); SELECT dess_batch_start()");
	until_true('the batch runs', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job");
	is(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), '', 'goes when its reason is over');
	$simulator->post('settings', { run_ms => 20 });
	is(wait_for_job($node, $job), 'done', 'the job is done');
};

subtest 'many rows that wait, and a cancel' => sub {
	create_table('many', 12000);
	$simulator->post('faults', { match => { method => 'POST', path => '/v1/batches' }, status => 400, error => { message => 'no', code => 'bad' } });
	my $job = submit_job($node, q{'many', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	is(wait_for_job($node, $job), 'failed', 'its rows go back to the queue');
	$simulator->post('faults', { match => { path => '/v1/files' }, delay_ms => 60000 });
	sql("SELECT dess_batch_retry($job); SELECT dess_batch_cancel($job)");
	is(wait_for_job($node, $job), 'cancelled', 'it is cancelled');
	is(job_figures($node, $job), 'cancelled 12000 0 12000 0', 'with an outcome for every row');
	$simulator->post('faults/clear', {});
};

subtest 'rows chosen by what is known of them' => sub {
	create_table('known', 300);
	my $first = submit_job($node, q{'known', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	is(wait_for_job($node, $first), 'done', 'all are done');
	sql(q{UPDATE known SET body = body || ' once more' WHERE id % 3 = 0});

	# How many rows a job with outcomes has.
	my $rows_of = sub {
		my ($only, $mode) = @_;
		$mode //= 'batch';
		my $job = submit_job($node, qq{'known', 'gpt-4o-mini', '{body}', 'answer', overwrite => true, server => 'openai', mode => '$mode', outcomes => '$only'});
		wait_for_job($node, $job);
		return job_figures($node, $job);
	};
	is($rows_of->('{changed}'), 'done 100 100 0 0', 'those that are not what they were');
	is($rows_of->('{changed}'), 'done 0 0 0 0', 'once');
	is($rows_of->('{ok}'), 'done 300 300 0 0', 'each one once, whatever the number of jobs');
	is($rows_of->('{refused,lost}'), 'done 0 0 0 0', 'none');

	$simulator->post('settings', { run_ms => 3600000 });
	my $cancelled = submit_job($node, q{'known', 'gpt-4o-mini', '{body}!', 'answer', overwrite => true, where_sql => 'id <= 50', server => 'openai'});
	until_true('it runs', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $cancelled");
	is($rows_of->('{ok}', 'online'), 'done 250 250 0 0', 'not those that are in flight');
	sql("SELECT dess_batch_cancel($cancelled)");
	is(wait_for_job($node, $cancelled), 'cancelled', 'some are cancelled');
	$simulator->post('settings', { run_ms => 20 });
	is($rows_of->('{cancelled}'), 'done 50 50 0 0', 'and chosen for that');
	sql("SELECT dess_batch_purge('0')");
	is($rows_of->('{ok}'), 'done 0 0 0 0', 'what was forgotten is not known');
};

# Statistics from a time when the table of waiting rows was empty made each page
# of them take seconds.
subtest 'many rows that wait, and old statistics' => sub {
	create_table('queueing', 20000);
	sql('ALTER TABLE dess_batch.retry_queue SET (autovacuum_enabled = off); VACUUM ANALYZE dess_batch.retry_queue');
	$simulator->post('faults', { match => { method => 'POST', path => '/v1/batches' }, status => 400, error => { message => 'no', code => 'bad' } });
	my $job = submit_job($node, q{'queueing', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	is(wait_for_job($node, $job), 'failed', 'its rows go back to the queue');
	$simulator->post('faults/clear', {});
	sql("SELECT dess_batch_retry($job)");
	is(wait_for_job($node, $job), 'done', 'and are taken from there');
	is(job_figures($node, $job), 'done 20000 20000 0 0', 'in good time');
	sql('ALTER TABLE dess_batch.retry_queue RESET (autovacuum_enabled)');
};

subtest 'a database that is dropped' => sub {
	my $directory = $node->data_dir . '/dess_batch/' . sql(q{SELECT oid FROM pg_database WHERE datname = 'latin1'});

	create_table('remaining', 5, 'latin1');
	$simulator->post('settings', { run_ms => 3600000 });
	my $job = submit_job($node, q{'remaining', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'}, 'latin1');
	until_true('the batch runs', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job", 'latin1');
	ok(scalar(() = glob "$directory/*"), 'it has files in the spool');
	sql('DROP DATABASE latin1');
	ok(!-e $directory, 'they go with it');
};

subtest 'a worker that only waits sleeps' => sub {
	# the alarm of each transaction came after its end, and was the reason for the next one
	my $sleeps = q{count(*) = 1 FROM pg_stat_activity WHERE datname = 'postgres' AND backend_type = 'dess_batch worker'
		AND state = 'idle' AND state_change < clock_timestamp() - interval '4 seconds'};

	$simulator->post('settings', { run_ms => 3600000 });
	sql(q{ALTER SERVER openai OPTIONS (SET poll_interval '3600')});
	create_table('patient', 5);
	my $job = submit_job($node, q{'patient', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	until_true('the batch runs', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job");
	ok($node->poll_query_until('postgres', "SELECT $sleeps"), 'for seconds while a batch runs');
	sql("SELECT dess_batch_cancel($job)");
	$simulator->post('settings', { run_ms => 20 });
	is(wait_for_job($node, $job), 'cancelled', 'it hears of a cancellation all the same');
	ok($node->poll_query_until('postgres', "SELECT $sleeps"), 'and for seconds without jobs');
};

$node->stop;
$simulator->stop;
done_testing();
