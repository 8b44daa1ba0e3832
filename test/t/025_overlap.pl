# No stage of a batch waits for another batch's stage: while one batch stands
# still in uploading, creating, polling, downloading or merging, the others of
# its job are prepared, sent, fetched, written and done.  The simulator holds a
# request of one batch until it is told to go on, so nothing here is a matter of
# time.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use DessBatch;

# rows of a batch, and batches of a job
use constant { ROWS => 30, BATCHES => 4 };

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('overlap');
my $locker = DessBatch::Session->new($node);

create_server($node, $simulator, options => { max_batch_requests => ROWS });

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub until_true
{
	my ($what, $sql) = @_;
	$node->poll_query_until('postgres', $sql) or die "in vain: $what: " . sql('TABLE dess_batch_batches');
	return;
}

# Submits a table of its own; returns the table and the job.
sub submit
{
	my $table = 'texts_' . sql('SELECT count(*) FROM dess_batch_jobs');

	sql(sprintf(
		q{CREATE TABLE %s (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO %s SELECT i, '%s ' || i, NULL FROM generate_series(1, %d) i}, $table, $table, $table, ROWS * BATCHES));
	return ($table, submit_job($node, qq{'$table', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'}));
}

# The others are done, their rows written, and one batch is in this state: it
# may come there after the others are done.
sub others_are_done
{
	my ($table, $job, $state, $written) = @_;
	my $others = BATCHES - 1;

	until_true("one batch is $state, all others are done",
		"SELECT count(*) FILTER (WHERE state = 'done') = $others AND count(*) FILTER (WHERE state = '$state') = 1
			FROM dess_batch_batches WHERE job_id = $job");
	until_true("$written rows are written", "SELECT count(answer) >= $written FROM $table");
	is(sql("SELECT string_agg(state, ' ' ORDER BY state) FROM dess_batch_batches WHERE job_id = $job"),
		join(' ', sort(('done') x $others, $state)), "all others are done while one is $state");
	is(sql("SELECT count(answer) FROM $table"), $written, 'and their rows are written');
	return;
}

sub ends_well
{
	my ($table, $job) = @_;
	my $rows = ROWS * BATCHES;

	is(wait_for_job($node, $job), 'done', 'the last one ends as well');
	is(job_figures($node, $job), "done $rows $rows 0 0", 'with all answers');
	is(sql("SELECT count(answer) FROM $table"), $rows, 'in their rows');
	return;
}

foreach my $point (
	[ 'uploading', { method => 'POST', path => '/v1/files' }, 'request_body' ],
	[ 'uploading', { method => 'POST', path => '/v1/files' }, 'reply' ],
	[ 'creating', { method => 'POST', path => '/v1/batches' }, 'arrival' ],
	[ 'running', { method => 'GET', path => '/v1/batches/*' }, 'reply' ],
	[ 'retrieving', { method => 'GET', path => '/v1/files/*/content' }, 'response_body' ])
{
	my ($state, $match, $at) = @$point;

	subtest "$state, held at $at" => sub {
		$simulator->post('faults', { match => $match, times => 1, hold => { at => $at } });
		my ($table, $job) = submit();

		others_are_done($table, $job, $state, ROWS * (BATCHES - 1));
		is(scalar(@{ $simulator->get('held') }), 1, 'its request is still held');
		$simulator->post('release', {});
		ends_well($table, $job);
		$simulator->post('faults/clear', {});
	};
}

# A row that somebody has locked keeps a batch in its merge.
subtest 'merging' => sub {
	$simulator->post('settings', { run_ms => 1000 });
	my ($table, $job) = submit();

	$locker->query("BEGIN; SELECT FROM $table WHERE id = 1 FOR UPDATE");
	others_are_done($table, $job, 'retrieving', ROWS * BATCHES - 1);
	$locker->query('COMMIT');
	ends_well($table, $job);
	$simulator->post('settings', { run_ms => 20 });
};

# Nothing held: what was prepared, sent and fetched after the first rows were
# written and before the last ones.
subtest 'a slow table' => sub {
	sql(q{
		CREATE TABLE slow (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO slow SELECT i, 'slow ' || i, NULL FROM generate_series(1, 300) i;
		CREATE FUNCTION wait_a_moment() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			PERFORM pg_catalog.pg_sleep(0.01);
			RETURN NEW;
		END $$;
		CREATE TRIGGER t BEFORE UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION wait_a_moment();
		ALTER SERVER openai OPTIONS (ADD max_active_batches '2');});
	my $job = submit_job($node, q{'slow', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});

	until_true('rows are written', 'SELECT count(answer) > 0 FROM slow');
	my $seen = $simulator->get('requests?limit=20000')->{requests}[-1]{seq};
	is(wait_for_job($node, $job), 'done', 'the job is done');
	my @later = @{ $simulator->get("requests?limit=20000&since=$seen")->{requests} };

	cmp_ok(sql(qq{SELECT count(*) FROM dess_batch_batches WHERE job_id = $job
		AND created_at > (SELECT min(finished_at) FROM dess_batch.result WHERE job_id = $job)}),
		'>=', 3, 'batches were prepared between the first rows and the last');
	cmp_ok(scalar(grep { $_->{method} eq 'POST' && $_->{path} eq '/v1/files' } @later), '>=', 3, 'and uploaded');
	cmp_ok(scalar(grep { $_->{path} =~ m{/content$} } @later), '>=', 3, 'and fetched');
};

$node->stop;
$simulator->stop;
done_testing();
