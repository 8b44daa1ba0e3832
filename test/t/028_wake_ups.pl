# Work that comes at a bad moment is not forgotten: while the ledger is locked,
# while all slots for workers are taken, when its end cannot be notified.

use strict;
use warnings;

use DessBatch;
use DessBatch::Session;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);

sub create_table
{
	my ($node, $name, $database) = @_;
	return $node->safe_psql($database // 'postgres', qq{
		CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $name SELECT i, '$name ' || i FROM generate_series(1, 5) i;});
}

sub arguments { return "'$_[0]', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'"; }

sub is_answered
{
	my ($node, $job, $table, $database) = @_;

	is(wait_for_job($node, $job, $database), 'done', 'the job is done');
	is($node->safe_psql($database // 'postgres', "SELECT count(*) FROM $table WHERE answer = body"), 5, 'every row is answered');
	return;
}

# ---- the ledger is locked

# Submits in such a way that the lock is there when the worker is woken, and
# nothing wakes it when the lock goes.
sub submitted_before_a_lock
{
	my ($node, $table) = @_;
	my $locker = DessBatch::Session->new($node);
	my $submitter = DessBatch::Session->new($node);
	my %tries;

	create_table($node, $table);
	my $job = $submitter->query('BEGIN; SELECT dess_batch_submit(' . arguments($table) . ')');
	$locker->start('BEGIN; LOCK TABLE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result, dess_batch.retry_queue IN ACCESS EXCLUSIVE MODE');
	$node->poll_query_until('postgres', "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = " . $locker->pid)
	  or die 'nobody waits for the lock';
	$submitter->query('COMMIT');
	$locker->finish;
	is($submitter->errors . $locker->errors, '', 'the job is committed, and the ledger locked');
	wait_until('the worker gives up and comes again', sub {
		my $found = $node->safe_psql('postgres', qq{
			SELECT string_agg(DISTINCT concat(a.pid, ' ', a.xact_start), ',') FROM pg_stat_activity a JOIN pg_locks l ON l.pid = a.pid
			WHERE a.backend_type = 'dess_batch worker' AND NOT l.granted AND l.relation::regclass::text LIKE 'dess_batch.%'});

		$tries{$_} = 1 foreach split /,/, $found;
		return keys %tries >= 2;
	});
	$locker->query('COMMIT');
	is_answered($node, $job, $table);
	$_->close foreach $locker, $submitter;
	return;
}

foreach my $preload (1, 0)
{
	my $words = $preload ? 'with preload' : 'without preload';
	my $node = start_node("locked_$preload", preload => $preload);

	create_server($node, $simulator);
	subtest "a worker that is started while the ledger is locked, $words" => sub {
		submitted_before_a_lock($node, "first_$preload");
	};
	subtest "a worker that is woken while the ledger is locked, $words" => sub {
		is($node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), 1, 'there is one');
		submitted_before_a_lock($node, "second_$preload");
	};
	$node->stop;
}

# ---- more databases than slots

subtest 'more databases with work than slots for workers' => sub {
	my @databases = map { "database_$_" } 1 .. 6;
	my %job;
	my $node = start_node(
		'slots',
		conf => qq{
			max_worker_processes = 3	# the launcher and two workers
			max_logical_replication_workers = 0
			dess_batch.idle_timeout = 100ms});

	foreach my $database (@databases)
	{
		$node->safe_psql('postgres', "CREATE DATABASE $database");
		$node->safe_psql($database, 'CREATE EXTENSION dess_batch');
		create_server($node, $simulator, database => $database);
		create_table($node, 'notes', $database);
	}
	$simulator->post('settings', { run_ms => 1500 });
	foreach my $database (@databases)
	{
		my $err;

		$node->psql($database, 'SELECT dess_batch_submit(' . arguments('notes') . ')', stdout => \$job{$database}, stderr => \$err);
		like($job{$database}, qr/^\d+$/, "$database: the job is committed");
	}
	my $n = $node->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
	cmp_ok($n, '<=', 2, "there are $n workers");
	$simulator->post('settings', { run_ms => 20 });
	my $start = time;
	foreach my $database (@databases)
	{
		subtest $database => sub { is_answered($node, $job{$database}, 'notes', $database) };
		note "$database after " . (time - $start) . ' s';
	}
	# the pauses between two looks for a slot do not grow while slots become free
	cmp_ok(time - $start, '<', 30, 'all have had their turn soon');
	$node->stop;
};

# ---- the queue of notifications is full

# To fill it takes eight gigabytes: here the first commit of an end fails as it
# then would.
subtest 'nobody can be notified' => sub {
	my $node = start_node('notifications');

	create_server($node, $simulator);
	create_table($node, $_) foreach qw(good bad);
	$node->safe_psql('postgres', q{
		CREATE SEQUENCE first_done;
		CREATE SEQUENCE first_failed;
		CREATE FUNCTION public.queue_is_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('public.first_' || NEW.state) = 1 THEN
				RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
			END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER queue AFTER UPDATE ON dess_batch.job DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW WHEN (OLD.state <> NEW.state AND NEW.state IN ('done', 'failed')) EXECUTE FUNCTION public.queue_is_full()});
	my $good = submit_job($node, arguments('good'));
	is_answered($node, $good, 'good');
	$simulator->post('faults', { match => { method => 'POST', path => '/v1/files' }, status => 401, error => { message => 'no', code => 'invalid_api_key' } });
	my $bad = submit_job($node, arguments('bad'));
	is(wait_for_job($node, $bad), 'failed', 'one that fails fails');
	is($node->safe_psql('postgres', "SELECT error_code FROM dess_batch_jobs WHERE job_id = $bad"), 'invalid_api_key', 'for its own reason');
	is($node->safe_psql('postgres', 'SELECT first_done.last_value, first_failed.last_value FROM first_done, first_failed'), '2|2', 'each at the second try');
	$simulator->post('faults/clear', {});

	# a trigger of the table that notifies fails the commit of rows as well
	create_table($node, 'noisy');
	$node->safe_psql('postgres', q{
		CREATE SEQUENCE tries;
		CREATE FUNCTION public.still_full() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			IF nextval('public.tries') <= 2 THEN
				RAISE EXCEPTION 'too many notifications in the NOTIFY queue' USING ERRCODE = 'program_limit_exceeded';
			END IF;
			RETURN NULL;
		END $$;
		CREATE CONSTRAINT TRIGGER queue AFTER INSERT ON dess_batch.item DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION public.still_full()});
	my $noisy = submit_job($node, arguments('noisy'));
	is_answered($node, $noisy, 'noisy');
	cmp_ok($node->safe_psql('postgres', 'SELECT last_value FROM tries'), '>', 2, 'when the queue has room');
	$node->stop;
};

$simulator->stop;
done_testing();
