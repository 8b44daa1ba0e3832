# Rows in flight: a row that a job on the same table and target will send once
# more is not taken by another job.  Finding these rows must stay cheap, however
# many there are.

use strict;
use warnings;

use PostgreSQL::Test::Utils;
use Test::More;

use DessBatch;

use constant { WAITING => 200_000, FREE => 5_000 };

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('rows_in_flight');

sub sql { return $node->safe_psql('postgres', $_[0]); }

create_server($node, $simulator);
sql(sprintf(q{
	CREATE TABLE texts (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO texts SELECT i, 'text ' || i %% 100, NULL FROM generate_series(1, %d) i}, WAITING + FREE));

# A job that stands still, as one does of which so many rows have failed.
my $submit = q{SELECT dess_batch_submit('texts', 'gpt-4o-mini', '{body}', 'answer', server => 'openai')};
my $other_job = (split /\n/, sql(qq{BEGIN; $submit;
	SELECT dess_batch_pause(max(id)) FROM dess_batch.job;
	UPDATE dess_batch.job SET all_prepared = true;
	COMMIT}))[0];

# The rows from the first id to the last one wait.
sub add_waiting
{
	my ($from, $to) = @_;

	sql(qq{BEGIN; SELECT FROM dess_batch.job WHERE id = $other_job FOR NO KEY UPDATE;
		INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts) SELECT $other_job, i, 1, true FROM generate_series($from, $to) i;
		UPDATE dess_batch.job SET requeued = requeued + $to - $from + 1 WHERE id = $other_job; COMMIT});
	return;
}

sub answered { return sql('SELECT concat_ws(\' \', count(*), min(id)) FROM texts WHERE answer IS NOT NULL'); }

add_waiting(1, WAITING);
my $begin = time;
my $job = sql($submit);
is(wait_for_job($node, $job), 'done', 'a job beside one of which many rows wait');
cmp_ok(time - $begin, '<', 40, 'is done soon');
is(answered(), FREE . ' ' . (WAITING + 1), 'and has taken none of those');

# What waits is known from the last job's look at it; more and less is seen.
sql('UPDATE texts SET answer = NULL');
add_waiting(WAITING + 1, WAITING + 1000);
$job = sql($submit =~ s/'answer',/'answer', overwrite => true,/r);
is(wait_for_job($node, $job), 'done', 'another one');
is(answered(), (FREE - 1000) . ' ' . (WAITING + 1001), 'knows of rows that have been added');

sql(qq{BEGIN; DELETE FROM dess_batch.retry_queue WHERE job_id = $other_job AND key::integer > 10;
	UPDATE dess_batch.job SET requeued = 10 WHERE id = $other_job; COMMIT});
# submit's notice would be taken for a failure
$ENV{PGOPTIONS} = '-c client_min_messages=error';
$node->poll_query_until('postgres', qq{
	SELECT dess_batch_submit('texts', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', where_sql => 'id BETWEEN 1 AND 20', overwrite => true) IS NULL
	OR count(*) = 10 FROM texts WHERE answer IS NOT NULL AND id <= 20})
  or die 'rows that wait no more are never taken';
is(sql('SELECT min(id) FROM texts WHERE answer IS NOT NULL'), 11, 'rows that wait no more are free again');

$node->stop;
$simulator->stop;
done_testing();
