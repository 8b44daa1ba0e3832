# dess_batch_trigger: rows that are inserted or whose input changes are asked
# about, many transactions in one job, and no statement suffers for it.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('trigger', conf => "max_prepared_transactions = 2");

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

# The statement's error: empty if it has none.
sub refused
{
	my ($statement) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $statement);
	return $status == 0 ? '' : $err;
}

# Waits until the worker has made jobs of all that was asked for, and they ended.
sub settle
{
	$node->poll_query_until('postgres', q{
		SELECT NOT EXISTS (SELECT FROM dess_batch.request)
			AND coalesce(bool_and(stands_still), true) FROM dess_batch.figures})
	  or die 'jobs of triggers do not come to an end';
	return;
}

# Jobs with rows that are younger than the given one.
sub jobs_after
{
	my ($job) = @_;
	return sql("SELECT count(*) FROM dess_batch_jobs WHERE job_id > $job AND rows > 0");
}

sub last_job { return sql('SELECT coalesce(max(id), 0) FROM dess_batch.job'); }

create_server($node, $simulator, options => { models => 'gpt-*' });
sql(q{
	CREATE ROLE keeper;
	GRANT USAGE ON FOREIGN SERVER openai TO keeper;
	CREATE TABLE notes (id integer PRIMARY KEY, body text, other text, answer text);
	ALTER TABLE notes OWNER TO keeper;
	CREATE TRIGGER ask AFTER INSERT OR UPDATE OF body ON notes
		FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna', 'prompt=Say {body}', 'target=answer', 'label=by trigger');});

# ---- inserted rows, and no loop

my $before = last_job();
sql(q{INSERT INTO notes VALUES (1, 'first', 'x'), (2, 'second', 'x')});
settle();
is(jobs_after($before), 1, 'two rows make a job');
is(sql('SELECT count(*) FROM notes WHERE answer IS NOT NULL'), 2, 'which answers them');
is(sql("SELECT concat_ws(' ', owner, submitted_by, label, model, target, rows) FROM dess_batch_jobs WHERE job_id > $before"),
	'keeper keeper by trigger gpt-6-luna answer 2', "it is the table owner's, with the trigger's arguments");
is(sql('SELECT count(*) FROM dess_batch.request'), 0, "the worker's own UPDATE asks for nothing");

# ---- changed input

$before = last_job();
sql(q{UPDATE notes SET answer = 'by hand', body = 'second, changed' WHERE id = 2;
	UPDATE notes SET body = body WHERE id = 1;
	INSERT INTO notes VALUES (3, 'third', 'x')});
settle();
is(jobs_after($before), 1, 'an INSERT and two UPDATEs make one job');
is(sql("SELECT string_agg(row_key->>'id', ' ' ORDER BY row_key) FROM dess_batch_rows WHERE job_id > $before"), '2 3',
	'of the new row and the one whose input changed');
isnt(sql('SELECT answer FROM notes WHERE id = 2'), 'by hand', 'whose old answer is replaced');

$before = last_job();
sql(q{UPDATE notes SET other = 'y'});
is(sql('SELECT count(*) FROM dess_batch.request'), 0, 'columns that the trigger does not name ask for nothing');

# ---- transactions that are undone

$before = last_job();
sql(q{BEGIN; INSERT INTO notes VALUES (10, 'undone', 'x'); ROLLBACK});
sql(q{BEGIN; SAVEPOINT s; INSERT INTO notes VALUES (11, 'undone', 'x'); ROLLBACK TO s; COMMIT});
is(sql('SELECT count(*) FROM dess_batch.request'), 0, 'what is rolled back asks for nothing');
sql(q{BEGIN; SAVEPOINT s; INSERT INTO notes VALUES (12, 'undone', 'x'); ROLLBACK TO s;
	INSERT INTO notes VALUES (13, 'kept', 'x'); SAVEPOINT t; INSERT INTO notes VALUES (14, 'kept', 'x'); RELEASE t; COMMIT});
settle();
is(sql("SELECT string_agg(row_key->>'id', ' ' ORDER BY row_key) FROM dess_batch_rows WHERE job_id > $before"), '13 14',
	'a transaction asks for what of it was kept');
is(sql(q{BEGIN; INSERT INTO notes SELECT i, NULL, 'x' FROM generate_series(100, 149) i; UPDATE notes SET body = NULL WHERE id > 99;
	UPDATE notes SET body = NULL WHERE id > 99; INSERT INTO notes VALUES (99, NULL, 'x');
	SELECT count(*) FROM dess_batch.request; COMMIT}), 2, 'a transaction asks once for what is new and once for what changed');
settle();

# ---- many transactions, many rows

$before = last_job();
$node->append_conf('postgresql.conf', "synchronous_commit = off");
$node->reload;
sql(join "\n", map { "INSERT INTO notes VALUES (" . (1000 + $_) . ", 'single $_', 'x');" } 1 .. 1000);
settle();
$node->adjust_conf('postgresql.conf', 'synchronous_commit', 'on');
$node->reload;
is(jobs_after($before), 1, 'a thousand single INSERTs make one job');
is(sql("SELECT rows || ' ' || done FROM dess_batch_jobs WHERE job_id > $before AND rows > 0"), '1000 1000', 'which answers them all');
is(sql('SELECT count(*) FROM dess_batch_jobs WHERE rows = 0 AND job_id > ' . $before), 0, 'and leaves no empty jobs');

my $copy = PostgreSQL::Test::Utils::tempdir() . '/rows';
append_to_file($copy, join '', map { "$_\tthe same for all\tx\t\\N\n" } 1_000_001 .. 1_200_000);
$before = last_job();
sql("ALTER TABLE notes DISABLE TRIGGER ask");
sql("ALTER TABLE notes ENABLE TRIGGER ask; COPY notes FROM '$copy'");
settle();
is(jobs_after($before), 1, 'a COPY of two hundred thousand rows makes one job');
is(sql("SELECT done FROM dess_batch_jobs WHERE job_id > $before AND rows > 0"), 200000, 'which answers them all');
is(sql("SELECT max(cardinality(nos)) <= 4000 AND (SELECT sum(requests) = 1 FROM dess_batch_jobs WHERE job_id > $before) FROM dess_batch.result WHERE job_id > $before"),
	't', 'of one request, in groups that nobody has to wait for');

# ---- wrong arguments

sql(q{CREATE TABLE wrong (id integer PRIMARY KEY, body text, answer text); ALTER TABLE wrong OWNER TO keeper});
my %wrong = (
	q{} => qr/names no model/,
	q{'no-such'} => qr/no provider serves model/,
	q{'gpt-6-luna', 'colour=red', 'target=answer'} => qr/invalid option "colour=red"/,
	q{'gpt-6-luna', 'source=notes'} => qr/invalid option "source=notes"/,
	q{'gpt-6-luna', 'target'} => qr/invalid option "target"/,
	q{'gpt-6-luna', 'target=answer', 'target=body'} => qr/option "target" is given twice/,
	q{'gpt-6-luna', 'target=nowhere', 'prompt={body}'} => qr/column "nowhere"/,
	q{'gpt-6-luna', 'target=answer', 'max_rows=many'} => qr/invalid input syntax for type bigint: "many"/,
	q{'gpt-6-luna', 'target=answer', 'prompt={nothing}'} => qr/nothing/,
	q{'gpt-6-luna', 'target=answer', 'prompt='';DROP TABLE wrong;--{body}', 'server=o''x'} => qr/server "o'x" does not exist/);
foreach my $arguments (sort keys %wrong)
{
	$before = last_job();
	sql(qq{CREATE OR REPLACE TRIGGER ask AFTER INSERT OR UPDATE ON wrong
		FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger($arguments)});
	is(refused(q{INSERT INTO wrong VALUES (1, 'x'); UPDATE wrong SET body = 'y'; DELETE FROM wrong}), '', "($arguments) leaves the statement alone");
	settle();
	like(sql("SELECT concat_ws(' ', state, owner, error_code, error) FROM dess_batch_jobs WHERE job_id > $before"),
		qr/^failed keeper \w{5} .*$wrong{$arguments}/, 'and fails the job');
}
$before = last_job();
sql(q{INSERT INTO wrong VALUES (2, 'x')});
settle();
is(last_job(), $before, 'the same mistake again makes no other job');
is(sql(q{SELECT count(*) FROM dess_batch_progress}) > 0, 1, 'failed jobs of triggers are in the views');
sql('SELECT dess_batch_explain(job_id), length(dess_batch_report(job_id)) FROM dess_batch_jobs');
pass('and can be explained and shown');

# ---- one that cannot be submitted now does not keep others from their turn

sql(q{CREATE FUNCTION full(text) RETURNS boolean IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN RAISE 'full' USING ERRCODE = '53400'; END $$;
	CREATE TABLE stuck (id integer PRIMARY KEY, body text, answer text); ALTER TABLE stuck OWNER TO keeper;
	CREATE TRIGGER ask AFTER INSERT ON stuck
		FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna', 'target=answer', 'where_sql=public.full(''x'')');
	INSERT INTO stuck VALUES (1, 'x')});
sql(q{INSERT INTO notes VALUES (70, 'behind it', 'x')});
$node->poll_query_until('postgres', 'SELECT answer IS NOT NULL FROM notes WHERE id = 70') or die 'no answer';
is(sql("SELECT count(*) FROM dess_batch.request WHERE source = 'stuck'::regclass"), 1, 'a request that meets trouble waits, and others do not');
sql('DROP TABLE stuck');
settle();

# ---- what a trigger asks for is done as the table's owner: who made it counts

sql(q{CREATE ROLE mallory; GRANT USAGE, CREATE ON SCHEMA public TO mallory; GRANT INSERT, TRIGGER ON notes TO mallory;
	CREATE TABLE leaked (who text); GRANT INSERT ON leaked TO PUBLIC;
	SET ROLE mallory;
	CREATE FUNCTION leak(id integer) RETURNS boolean LANGUAGE plpgsql STABLE AS 'BEGIN RETURN true; END';
	CREATE TRIGGER own AFTER INSERT ON notes
		FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna', 'prompt=Say {body}', 'target=other', 'overwrite=true', 'where_sql=public.leak(id)');
	RESET ROLE;
	REVOKE TRIGGER ON notes FROM mallory});
$before = last_job();
sql(q{INSERT INTO notes VALUES (80, 'whose trigger?', 'x')});
settle();
like(sql("SELECT concat_ws(' ', state, error_code, error) FROM dess_batch_jobs WHERE job_id > $before AND state = 'failed'"),
	qr/^failed 42501 .*trigger "own" was not made by the owner/, "what another role's trigger asks for is not done as the table's owner, whatever rights it has left");
is(sql('SELECT other FROM notes WHERE id = 80'), 'x', 'and changes nothing');
isnt(sql('SELECT answer FROM notes WHERE id = 80'), '', "the owner's own trigger works beside it");
sql(q{DROP TRIGGER own ON notes; REVOKE ALL ON notes FROM mallory; REVOKE CREATE ON SCHEMA public FROM mallory});

# ---- rows of before

sql(q{CREATE TABLE aged (id integer PRIMARY KEY, body text, answer text); ALTER TABLE aged OWNER TO keeper;
	INSERT INTO aged VALUES (1, 'old', NULL), (2, 'old too', NULL), (3, 'old and answered', 'yes');
	SET ROLE keeper;
	CREATE TRIGGER ask AFTER INSERT OR UPDATE ON aged
		FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna', 'prompt=Say {body}', 'target=answer')});
sql(q{INSERT INTO aged VALUES (4, 'new', NULL)});
settle();
is(sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM aged WHERE answer IS NOT NULL"), '3 4', 'rows that are older than the trigger are left alone');
sql(q{BEGIN; SAVEPOINT a; UPDATE aged SET body = 'old, changed' WHERE id = 1; RELEASE a; COMMIT});
settle();
is(sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM aged WHERE answer IS NOT NULL"), '1 3 4', 'until they are changed');
sql(q{DROP TRIGGER ask ON aged; SET ROLE keeper;
	CREATE TRIGGER ask AFTER INSERT ON aged
		FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna', 'prompt=Say {body}', 'target=answer', 'where_sql=id <> 6', 'old_rows=true')});
sql(q{INSERT INTO aged VALUES (5, 'new', NULL), (6, 'not this one', NULL)});
settle();
is(sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM aged WHERE answer IS NOT NULL"), '1 2 3 4 5', 'with old_rows=true they are asked about as well');

# ---- functions that somebody has put beside the extension's

sql(q{GRANT CREATE ON SCHEMA public TO mallory; SET ROLE mallory;
	CREATE FUNCTION dess_batch_submit(source regclass, model text, prompt text, target text, label text) RETURNS bigint
		LANGUAGE plpgsql AS 'BEGIN RAISE ''that of mallory''; END';
	CREATE FUNCTION dess_batch_submit(source regclass, model text, target name, prompt text, label text DEFAULT NULL, VARIADIC more text[] DEFAULT '{}')
		RETURNS bigint LANGUAGE plpgsql AS 'BEGIN RAISE ''that of mallory''; END'});
$before = last_job();
sql(q{INSERT INTO notes VALUES (82, 'by the right function', 'x')});
settle();
is(sql("SELECT string_agg(concat_ws(' ', state, error), ', ') FROM dess_batch_jobs WHERE job_id > $before"), 'done',
	'functions of the same name are not called, and not in the way');
sql('DROP OWNED BY mallory');

# ---- empty value, transition table, other kinds of triggers

sql(q{CREATE OR REPLACE TRIGGER ask AFTER INSERT ON wrong REFERENCING NEW TABLE AS added
	FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna', 'target=answer', 'prompt={body}', 'missing=', 'where_sql=body <> ''no''')});
$before = last_job();
sql(q{INSERT INTO wrong SELECT 5, 'x' WHERE false});
is(sql('SELECT count(*) FROM dess_batch.request'), 0, 'a statement without rows asks for nothing where a transition table tells');
sql(q{INSERT INTO wrong VALUES (6, 'yes'), (7, 'no')});
settle();
is(sql("SELECT string_agg(row_key->>'id', ' ' ORDER BY row_key) FROM dess_batch_rows WHERE job_id > $before"), '6', 'where_sql holds');
is(sql("SELECT args->'missing' FROM dess_batch_jobs WHERE job_id > $before"), 'null', 'nothing behind the equals sign is null');

foreach my $kind ('BEFORE INSERT ON wrong FOR EACH STATEMENT', 'AFTER INSERT ON wrong FOR EACH ROW', 'AFTER DELETE ON wrong FOR EACH STATEMENT')
{
	sql("CREATE TRIGGER odd $kind EXECUTE FUNCTION dess_batch_trigger('gpt-6-luna')");
	like(refused(q{INSERT INTO wrong VALUES (20, 'x'); DELETE FROM wrong WHERE id = 20}), qr/trigger "odd" must be fired AFTER INSERT OR UPDATE for each statement/,
		"$kind is refused with what to do");
	sql('DROP TRIGGER odd ON wrong');
}
like(refused('SELECT dess_batch_trigger()'), qr/trigger/, 'it is no function to call');
like(refused(q{BEGIN; INSERT INTO wrong VALUES (30, 'x'); PREPARE TRANSACTION 'p'}), qr/cannot PREPARE/, 'PREPARE TRANSACTION is refused');

# ---- a stranger's INSERT; a table that is dropped; the worker is off

sql(q{CREATE ROLE writer; GRANT INSERT ON notes TO writer});
$before = last_job();
is(refused(q{SET ROLE writer; INSERT INTO notes VALUES (50, 'by a stranger', 'x')}), '', 'who may insert needs no other right');
settle();
is(sql("SELECT owner FROM dess_batch_jobs WHERE job_id > $before AND source = 'notes'"), 'keeper', "the job is the table owner's");

sql('ALTER SYSTEM SET dess_batch.enabled = off; SELECT pg_reload_conf()');
sql(q{INSERT INTO wrong VALUES (40, 'while off'); INSERT INTO notes VALUES (60, 'while off', 'x')});
my $failed = sql(q{SELECT count(*) FROM dess_batch_jobs WHERE state = 'failed'});
sql(q{UPDATE dess_batch.job SET finished_at = finished_at - interval '5 minutes' WHERE state = 'failed'});
$node->stop('immediate');
$node->start;
sql('DROP TABLE wrong');
$before = last_job();
sql('ALTER SYSTEM RESET dess_batch.enabled; SELECT pg_reload_conf()');
settle();
is(sql('SELECT count(*) FROM notes WHERE id = 60 AND answer IS NOT NULL'), 1, 'what was asked for while the worker was off and the server crashed is done');
is(sql("SELECT count(*) FROM dess_batch.job WHERE id > $before"), 1, 'and a table that was dropped is forgotten');

is(sql(q{SELECT count(*) FROM dess_batch_jobs WHERE state = 'failed'}), $failed, 'jobs that failed before they had a row stay, with their reasons');

# ---- in another schema; without preload

sql('DROP EXTENSION dess_batch CASCADE; CREATE SCHEMA "Ext ras"; CREATE EXTENSION dess_batch SCHEMA "Ext ras"');
create_server($node, $simulator);
sql(q{CREATE TABLE third (id integer PRIMARY KEY, body text, answer text);
	CREATE TRIGGER ask AFTER INSERT ON third FOR EACH STATEMENT
		EXECUTE FUNCTION "Ext ras".dess_batch_trigger('gpt-6-luna', 'target=answer', 'prompt={body}');
	INSERT INTO third VALUES (1, 'one')});
$node->poll_query_until('postgres', 'SELECT answer IS NOT NULL FROM third') or die 'no answer';
pass('the extension may be in any schema');
$node->adjust_conf('postgresql.conf', 'shared_preload_libraries', "''");
$node->restart;
sql(q{INSERT INTO third VALUES (2, 'two')});
$node->poll_query_until('postgres', 'SELECT bool_and(answer IS NOT NULL) FROM third') or die 'no answer';
pass('and nothing need be preloaded');

done_testing();
