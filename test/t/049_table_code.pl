# Code of a table's owner that ends the worker does so once: its job fails with
# the reason, other owners' jobs go on, and it can be retried when the code is
# mended.
use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('table_code');

sub sql { return $node->safe_psql('postgres', $_[0]); }

create_server($node, $simulator);
sql(q{
	CREATE ROLE other LOGIN;
	GRANT USAGE ON FOREIGN SERVER openai TO other;
	CREATE TABLE ten (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO ten SELECT i, 'row ' || i FROM generate_series(1, 10) i;
	ALTER TABLE ten OWNER TO other;
	CREATE FUNCTION go_on() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		LOOP
			BEGIN
				PERFORM pg_catalog.pg_sleep(1000);
			EXCEPTION WHEN query_canceled THEN
				NULL;
			END;
		END LOOP;
	END $$;
	CREATE FUNCTION exit_on_error() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		SET exit_on_error = on;
		RAISE 'no';
	END $$;});

my $rounds = 0;

# A job of another owner on the same server.
sub ten_rows
{
	my $prompt = 'number ' . ++$rounds . ' {body}';
	my $job = sql(qq{
		SET client_min_messages = warning;
		SET ROLE other;
		SELECT dess_batch_submit('ten', 'gpt-4o-mini', '$prompt', 'answer', overwrite => true, server => 'openai')});

	is(wait_for_job($node, $job), 'done', 'ten rows of another owner are done');
	return sql("SELECT extract(epoch FROM finished_at - created_at) FROM dess_batch_jobs WHERE job_id = $job");
}

# How often a worker was ended by such code.
sub ends
{
	my $log = slurp_file($node->logfile);
	return scalar(() = $log =~ /was ended by code of the table/g);
}

foreach my $case ([ 'go_on', 'batch' ], [ 'exit_on_error', 'batch' ], [ 'go_on', 'online' ], [ 'exit_on_error', 'online' ])
{
	my ($function, $mode) = @$case;
	my $table = "${function}_$mode";

	subtest "$function, $mode" => sub {
		my $before = ends();

		sql(qq{
			CREATE TABLE $table (id integer PRIMARY KEY, body text, answer text);
			INSERT INTO $table SELECT i, '$table ' || i FROM generate_series(1, 20) i;
			CREATE TRIGGER t BEFORE UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION $function();});
		my $job = submit_job($node, qq{'$table', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => '$mode'});
		my $took = ten_rows();
		is(wait_for_job($node, $job), 'failed', 'the job fails');
		like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/ended the worker/, 'and says why');
		is(sql("SELECT count(answer) FROM $table"), 0, 'nothing is written');
		is(ends(), $before + 1, 'the worker was ended once');
		cmp_ok($took, '<', 10, sprintf('the others waited for no more than that: %.1f s', $took));
		cmp_ok(ten_rows(), '<', 10, 'and then not at all');

		sql("DROP TRIGGER t ON $table; SELECT dess_batch_retry($job)");
		is(wait_for_job($node, $job), 'done', 'without the trigger it goes on');
		is(sql("SELECT count(answer) FROM $table"), 20, 'with all answers');
		is(ends(), $before + 1, 'and no worker ends');
	};
}

subtest 'a job that is being cancelled' => sub {
	my $before = ends();

	sql(q{
		CREATE TABLE cancelled (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO cancelled SELECT i, 'cancelled ' || i FROM generate_series(1, 20) i;
		CREATE TRIGGER t BEFORE UPDATE ON cancelled FOR EACH ROW EXECUTE FUNCTION exit_on_error();});
	$simulator->post('settings', { run_ms => 1000 });
	my $job = submit_job($node, q{'cancelled', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	$node->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job")
	  or die 'the batch does not run';
	$simulator->post('faults', { match => { path => '/cancel' }, status => 409, error => { message => 'too late', code => 'late' } });
	sql("SELECT dess_batch_cancel($job)");
	like(wait_for_job($node, $job), qr/failed|cancelled/, 'it ends');
	cmp_ok(ends(), '<=', $before + 1, 'the worker ends once at most');
	$simulator->post('faults/clear', {});
	$simulator->post('settings', { run_ms => 20 });
	ten_rows();
};

subtest 'a worker that is told to end' => sub {
	my $before = ends();

	sql(q{
		CREATE FUNCTION sleep_a_while() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_catalog.pg_sleep(0.3);
			RETURN NEW;
		END $$;
		CREATE TABLE slow (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO slow SELECT i, 'slow ' || i FROM generate_series(1, 10) i;
		CREATE TRIGGER t BEFORE UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION sleep_a_while();});
	my $job = submit_job($node, q{'slow', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
	$node->poll_query_until('postgres', 'SELECT count(answer) > 0 FROM slow') or die 'no row is written';
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
	sql('SELECT dess_batch_start()');
	is(wait_for_job($node, $job), 'done', 'blames no job');
	is(ends(), $before, 'nor says that it was ended by one');
};

$node->stop;
$simulator->stop;
done_testing();
