# The real pg_cron calls submit every minute while rows are being inserted:
# every row is paid once, and rounds without work leave no heap of jobs.
#
# pg_cron 1.4 knows minutes only, so this takes three or four of them, nearly all
# of it waiting.

use strict;
use warnings;

use DessBatch;
use Test::More;

plan skip_all => 'not run: this PostgreSQL has no pg_cron'
  unless -f qx{pg_config --sharedir} =~ s/\n//r . '/extension/pg_cron.control';

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node(
	'cron',
	preload => 0,
	conf => "shared_preload_libraries = 'pg_cron, dess_batch'\n"
	  . "cron.database_name = 'postgres'\ncron.use_background_workers = on\nmax_worker_processes = 20");

sub sql { return $node->safe_psql('postgres', $_[0]); }
sub paid { return $simulator->get('stats')->{rows_served}; }
sub rounds { return sql(q{SELECT count(*) FROM cron.job_run_details WHERE status = 'succeeded' AND command LIKE '%submit%'}); }

create_server($node, $simulator);
sql(q{
	CREATE EXTENSION pg_cron;
	CREATE TABLE notes (id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY, body text, answer text);
	CREATE INDEX ON notes (id) WHERE answer IS NULL;
	SELECT cron.schedule('answers', '* * * * *',
		$$SELECT dess_batch_submit('notes', 'gpt-6-luna', prompt => '{body}', target => 'answer', label => 'cron')$$);
	SELECT cron.schedule('purge', '* * * * *', $$SELECT dess_batch_purge(interval '1 minute')$$);});

# ---- rows come in while it goes round

my $rows = 0;
wait_until('two rounds of pg_cron', sub {
	sql('INSERT INTO notes (body) VALUES (' . ++$rows . "::text || ' of many'); SELECT pg_sleep(0.2)");
	return rounds() >= 2;
});
my $met = rounds();
wait_until('a round that sees all rows', sub { return rounds() >= $met + 1; });
$node->poll_query_until('postgres', 'SELECT bool_and(answer IS NOT NULL) FROM notes') or die 'no answers';
cmp_ok($rows, '>', 50, 'rows came in all the time');
is(sql('SELECT count(answer) FROM notes'), $rows, 'every row has an answer');
is(paid(), $rows, 'and was paid once');
is(sql(q{SELECT sum(requests) FROM dess_batch_usage WHERE label = 'cron'}), $rows, 'usage adds up to it');
is(sql(q{SELECT count(*) FROM dess_batch_errors}), 0, 'nothing failed');

# ---- a round without work

my $last = sql('SELECT max(job_id) FROM dess_batch_jobs WHERE rows > 0');
$met = rounds();
wait_until('a round without work', sub { return rounds() >= $met + 1; });
$node->poll_query_until('postgres', 'SELECT bool_and(stands_still) FROM dess_batch.figures') or die 'no end';
is(sql("SELECT count(*) FROM dess_batch_jobs WHERE rows > 0 AND job_id > $last"), 0, 'a round without work makes no job with rows');
is(paid(), $rows, 'and pays nothing');
$node->poll_query_until('postgres', 'SELECT count(*) <= 1 FROM dess_batch_jobs WHERE rows = 0') or die 'jobs without rows stay';
pass('jobs without rows are gone after a minute');

# ---- the purge

cmp_ok(sql('SELECT count(*) FROM dess_batch.job'), '<', rounds(), 'older jobs have been purged');
is(sql(q{SELECT sum(requests) FROM dess_batch_usage WHERE label = 'cron'}), $rows, 'usage outlives them');
is(sql(q{SELECT count(*) FROM cron.job_run_details WHERE status = 'failed'}), 0, 'no round failed');
wait_for_job($node, submit_job($node, q{'notes', 'gpt-6-luna', prompt => '{body}', target => 'answer'}));
is(paid(), $rows, 'and what was answered is not asked again');

done_testing();
