# Answers are written by one UPDATE that looks at each row, compares and writes:
# what that does to the table's triggers, and what its function does for others.

use strict;
use warnings;

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

use DessBatch;

my $simulator = start_simulator();
my $node = start_node('one_pass');

create_server($node, $simulator);
create_faculty($node);
$node->safe_psql('postgres', q{DELETE FROM faculty WHERE coalesce(btrim(snippet_1), '') = ''});

my $rows = $node->safe_psql('postgres', 'SELECT count(*) FROM faculty');

# A fresh copy of faculty with a log of what its trigger sees.
sub copy_faculty
{
	my ($table, $trigger, $body) = @_;

	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE $table (LIKE faculty INCLUDING ALL);
		INSERT INTO $table SELECT * FROM faculty;
		CREATE TABLE ${table}_log (id integer);
		CREATE FUNCTION ${table}_trigger() RETURNS trigger LANGUAGE plpgsql SET search_path = public
			AS \$\$ BEGIN $body END \$\$;
		CREATE TRIGGER t $trigger EXECUTE FUNCTION ${table}_trigger();});
	return;
}

sub run_on
{
	my ($table) = @_;
	my $job = submit_job($node, "'$table', 'gpt-6-luna'");

	is(wait_for_job($node, $job), 'done', "$table: the job comes to its end");
	return $job;
}

sub logged
{
	my ($table) = @_;
	return $node->safe_psql('postgres', "SELECT count(*), count(DISTINCT id) FROM ${table}_log");
}

copy_faculty('statements', 'AFTER UPDATE ON statements FOR EACH STATEMENT',
	'INSERT INTO statements_log VALUES (1); RETURN NULL;');
run_on('statements');
is(logged('statements'), '1|1', "all $rows rows are written by one UPDATE");
is($node->safe_psql('postgres', 'SELECT count(department_llm) FROM statements'), $rows, 'and all are');

# a row that a trigger keeps is not tried a second time
copy_faculty('kept', 'BEFORE UPDATE ON kept FOR EACH ROW',
	'INSERT INTO kept_log VALUES (old.id); RETURN CASE WHEN old.id % 2 = 0 THEN new END;');
my $kept = run_on('kept');
is(logged('kept'), "$rows|$rows", 'a trigger sees each row once');
is( $node->safe_psql('postgres', qq{
		SELECT bool_and((outcome = 'invalid') = ((row_key->>'id')::integer % 2 = 1)),
			min(error) FILTER (WHERE outcome = 'invalid') LIKE '%passed over%'
		FROM dess_batch_rows WHERE job_id = $kept}),
	't|t', 'rows that it keeps are invalid, the others written');

# a row that another one deletes while the statement runs is gone
copy_faculty('deleting', 'BEFORE UPDATE ON deleting FOR EACH ROW',
	'INSERT INTO deleting_log VALUES (old.id); RETURN new;');
my ($first, $second) = split /\n/, $node->safe_psql('postgres', 'SELECT id FROM deleting ORDER BY id LIMIT 2');
my $session = DessBatch::Session->new($node);
$session->query("BEGIN; UPDATE deleting SET snippet_1 = snippet_1 || '!' WHERE id = $first; DELETE FROM deleting WHERE id = $second");
my $deleting = submit_job($node, "'deleting', 'gpt-6-luna'");
$node->poll_query_until('postgres', 'SELECT count(department_llm) = ' . ($rows - 2) . ' FROM deleting')
  or die 'the other rows are not written';
is($node->safe_psql('postgres', "SELECT count(*) FROM dess_batch_rows WHERE job_id = $deleting AND outcome = 'sent'"),
	'2', 'rows that others have locked wait');
$session->query('COMMIT');
$session->close;
is(wait_for_job($node, $deleting), 'done', 'until they are free');
is( $node->safe_psql('postgres', qq{
		SELECT string_agg(outcome::text, ' ' ORDER BY (row_key->>'id')::integer)
		FROM dess_batch_rows WHERE job_id = $deleting AND row_key->>'id' IN ('$first', '$second')}),
	'stale gone', 'and are then what they have become');

# its function is of no use to anybody else
my ($result, $output, $error) = $node->psql('postgres', q{SELECT dess_batch_unchanged(1, ROW(1, 'x'::text))});
like($error, qr/called by the worker of dess_batch alone/, 'the function answers to nobody else');
copy_faculty('misused', 'BEFORE UPDATE ON misused FOR EACH ROW', q{
	IF dess_batch_unchanged(1, ROW(1, 2, 3, 4, 5, 6, 7, 8, 9, 10)) THEN RETURN NULL; END IF; RETURN new;});
my $misused = run_on('misused');
is(outcomes($node, $misused), "invalid $rows", 'nor to a trigger of the table that passes other types');
is($node->safe_psql('postgres', "SELECT DISTINCT error_code FROM dess_batch_errors WHERE job_id = $misused"),
	'55000', 'which is an error of its row');

$node->stop;
done_testing();
