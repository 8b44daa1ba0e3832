# What a role without the rights cannot do: see or control the jobs of others,
# send from tables it cannot read, write what it may not, use an account that
# was not lent to it, or gain rights through code of its own that runs while
# somebody else's job touches its table.
use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('security');

create_server($node, $simulator);
create_server($node, $simulator, name => 'hers', options => { models => 'hers-*' });

# Runs SQL as a role; returns what it prints and its errors with SQLSTATEs.
sub as
{
	my ($role, $sql) = @_;
	my ($status, $out, $err) = $node->psql('postgres', $sql,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return ($out, $err);
}

# The SQL fails with that SQLSTATE, and says what is expected.
sub refused
{
	my ($role, $sql, $sqlstate, $words, $name) = @_;
	my (undef, $err) = as($role, $sql);

	like($err, qr/ERROR:  $sqlstate: .*$words/s, $name);
	return;
}

# The SQL succeeds with that output.
sub gives
{
	my ($role, $sql, $expected, $name) = @_;
	my ($out, $err) = as($role, $sql);

	is($out, $expected, $name) or diag($err);
	return;
}

# The SQL succeeds; the role has logged in, so that it has nobody to go back to.
sub make
{
	my ($role, $sql) = @_;
	my (undef, $err) = as($role, "\\set ON_ERROR_STOP\n" . $sql);

	die "$role: $err" if $err =~ /ERROR|FATAL/;
	return;
}

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# Submits as a role and returns the job's number.
sub submit_as
{
	my ($role, $arguments) = @_;
	my ($out, $err) = as($role, "SELECT dess_batch_submit($arguments)");

	like($out, qr/^\d+$/, "$role submits $arguments") or diag($err);
	return $out;
}

# Submits as a role and takes away a right in the same transaction.
sub submit_then
{
	my ($role, $arguments, $revoke) = @_;
	my $job = query(
		qq{BEGIN;
		SET LOCAL ROLE $role;
		SELECT dess_batch_submit($arguments);
		RESET ROLE;
		$revoke;
		COMMIT;});

	return $job;
}

sub end_of
{
	my ($job) = @_;

	wait_for_job($node, $job);
	return query("SELECT concat_ws(' ', state, error_code) FROM dess_batch_jobs WHERE job_id = $job");
}

sub files_uploaded
{
	return $simulator->get('stats')->{files_created};
}

query(
	q{CREATE ROLE alice LOGIN;
	CREATE ROLE mallory LOGIN;
	CREATE ROLE stats LOGIN IN ROLE pg_read_all_stats;
	CREATE ROLE heir LOGIN INHERIT IN ROLE alice;
	CREATE ROLE guest LOGIN NOINHERIT IN ROLE alice;
	CREATE SCHEMA alice AUTHORIZATION alice;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA alice TO mallory;
	GRANT USAGE ON SCHEMA mallory TO alice;
	GRANT USAGE ON FOREIGN SERVER openai TO alice, mallory;
	GRANT USAGE ON FOREIGN SERVER hers TO alice;
	GRANT USAGE ON FOREIGN DATA WRAPPER dess_batch TO mallory;});
make('alice',
	q{	CREATE TABLE alice.notes (id integer PRIMARY KEY, note text, department_llm text, remark text);
	INSERT INTO alice.notes SELECT i, 'confidential note ' || i FROM generate_series(1, 3) i;});
make('mallory',
	q{	CREATE TABLE mallory.bait (id integer PRIMARY KEY, note text, department_llm text);
	INSERT INTO mallory.bait SELECT i, 'bait ' || i FROM generate_series(1, 3) i;});

# ---- the jobs of others

my $job = submit_as('alice',
	q{'alice.notes', 'gpt-4o-mini', '{note}', server => 'openai', keep => 'reply', label => 'hers'});
is(end_of($job), 'done', "alice's job is done");
my $failing = submit_as('alice',
	q{'alice.notes', 'no-such-model', '{note}', 'remark', server => 'openai'});
like(end_of($failing), qr/^failed/, "alice's other job has failed");
is(query('SELECT count(*) FROM dess_batch_rows WHERE answer IS NOT NULL'), 3, 'answers are kept');

foreach my $view (qw(jobs batches rows errors progress usage))
{
	gives('mallory', "SELECT count(*) FROM dess_batch_$view", 0,
		"dess_batch_$view shows a stranger nothing");
}
foreach my $view (qw(jobs batches progress usage))
{
	gives('stats', "SELECT count(*) > 0 FROM dess_batch_$view", 't',
		"dess_batch_$view shows pg_read_all_stats everything");
	gives('heir', "SELECT count(*) > 0 FROM dess_batch_$view", 't',
		"dess_batch_$view shows a member what belongs to its role");
}
foreach my $view (qw(rows errors))
{
	gives('stats', "SELECT count(*) FROM dess_batch_$view", 0,
		"dess_batch_$view shows pg_read_all_stats nothing");
}
gives('guest', 'SELECT count(*) FROM dess_batch_jobs', 0,
	'a member that does not inherit sees nothing');
gives('guest', 'SET ROLE alice; SELECT count(*) FROM dess_batch_jobs', 2,
	'a member that does not inherit sees the jobs after SET ROLE');
refused('guest', "SELECT dess_batch_retry($job)", '42501', 'permission denied for job',
	'a member that does not inherit controls nothing');
gives('heir', "SELECT count(*) FROM dess_batch_explain($job)", 1,
	'a member that inherits explains');

my %control = (
	(map { $_ => "SELECT dess_batch_$_($job)" }
		  qw(upload create retrieve status cancel pause resume retry adopt erase explain)),
	wait => "CALL dess_batch_wait($job)",
	show => qq{SELECT dess_batch_show($job, '{"id": 1}')});
foreach my $role (qw(mallory stats))
{
	refused($role, $control{$_}, '42501', 'permission denied for job',
		"$role cannot call dess_batch_$_ on alice's job")
	  foreach sort keys %control;
}
refused('mallory', q{SELECT dess_batch_forget('alice.notes', '{"id": 1}')}, '42501', 'must be owner',
	"a stranger cannot make the ledger forget alice's rows");
gives('mallory', q{SELECT dess_batch_purge('0')}, 0, "a stranger purges nothing of alice's");
gives('mallory', 'SELECT dess_batch_adopt() IS NULL', 'f', 'a stranger adopts nothing');
is(query('SELECT count(*) FROM dess_batch_jobs'), 2, "alice's jobs are all there");

# a function that costs nothing is not asked about rows that its caller must not see
make('mallory',
	q{CREATE FUNCTION mallory.peek(anyelement) RETURNS boolean COST 0.0000001 LANGUAGE plpgsql
	AS $$ BEGIN RAISE NOTICE 'seen: %', $1; RETURN true; END $$});
foreach my $column ('dess_batch_rows.answer', 'dess_batch_rows.row_key', 'dess_batch_errors.error',
	'dess_batch_jobs.args', 'dess_batch_batches.remote_id', 'dess_batch_progress.model', 'dess_batch_usage.label')
{
	my ($view) = split /\./, $column;
	my ($out, $err) = as('mallory', "SELECT count(*) FROM $view WHERE mallory.peek($column)");

	is($out, 0, "$view, filtered by a leaking function, is empty");
	unlike($err, qr/seen/, "$column does not leak");
}

# ---- the ledger

is( query(
		q{SELECT count(*) > 10, count(*) FILTER (WHERE has_any)
		FROM (SELECT CASE c.relkind WHEN 'S' THEN has_sequence_privilege('mallory', c.oid, 'USAGE, SELECT, UPDATE')
				ELSE has_table_privilege('mallory', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END AS has_any
			FROM pg_class c WHERE c.relnamespace = 'dess_batch'::regnamespace AND c.relkind IN ('r', 'v', 'S')) p}),
	't|0',
	'nobody has rights on anything in schema dess_batch');
foreach my $sql (
	'SELECT * FROM dess_batch.job',
	"UPDATE dess_batch.job SET control = 'cancel'",
	'DELETE FROM dess_batch.settled',
	"INSERT INTO dess_batch.result VALUES ($job, 1, 99, '{1}', '{ok}')",
	"SELECT nextval('dess_batch.job_id_seq')",
	'SELECT dess_batch.may_see(0::oid, true)',
	'CREATE TABLE dess_batch.mine ()',
	'DROP TABLE dess_batch.job',
	'CREATE TRIGGER t BEFORE INSERT ON dess_batch.job EXECUTE FUNCTION suppress_redundant_updates_trigger()')
{
	refused('mallory', $sql, '42501', '', "a stranger is refused: $sql");
}

# ---- reading what must not be read

my $sent = files_uploaded();

refused('mallory', q{SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', '{note}', server => 'openai')},
	'42501', 'permission denied for table alice\.notes.*GRANT SELECT',
	'submit from a table that cannot be read');
refused('mallory', q{SELECT dess_batch_preview('alice.notes', 'gpt-4o-mini', '{note}', NULL, server => 'openai')},
	'42501', 'permission denied for table alice\.notes', 'preview of a table that cannot be read');
refused('mallory',
	q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}', server => 'openai',
		where_sql => $$EXISTS (SELECT FROM alice.notes n WHERE n.note ~ '^a' AND n.id = bait.id)$$)},
	'42501', 'permission denied for table notes', 'where_sql with a subquery on a table that cannot be read');
make('mallory',
	q{CREATE FUNCTION mallory.spy(integer) RETURNS boolean STABLE LANGUAGE plpgsql
	AS $$ BEGIN RETURN EXISTS (SELECT FROM alice.notes n WHERE n.id = $1); END $$;});
refused('mallory',
	q{SELECT dess_batch_preview('mallory.bait', 'gpt-4o-mini', '{note}', server => 'openai', where_sql => 'mallory.spy(id)')},
	'42501', 'permission denied for table notes', 'preview with a function that reads such a table');
my $spy = submit_as('mallory',
	q{'mallory.bait', 'gpt-4o-mini', '{note}', server => 'openai', where_sql => 'mallory.spy(id)'});
is(end_of($spy), 'failed 42501', 'the worker has no more rights than the owner of the job');

query('GRANT SELECT (id, department_llm), UPDATE (department_llm) ON alice.notes TO mallory');
refused('mallory', q{SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', '{note}', server => 'openai')},
	'42501', 'SELECT \(note\)', 'a column that cannot be read is named');
refused('mallory', q{SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', '{row}', server => 'openai')},
	'42501', 'SELECT \(', '{row} shows no column that cannot be read');
refused('mallory',
	q{SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', '{id}', server => 'openai', where_sql => $$note ~ 'a'$$)},
	'42501', 'permission denied', 'where_sql asks for no column that cannot be read');
query('GRANT SELECT (note) ON alice.notes TO mallory');
refused('mallory', q{SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', '{note}', 'remark', server => 'openai')},
	'42501', '\(remark\)', 'a column that may not be written is named');
refused('mallory',
	q{SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', '{note} in JSON', server => 'openai',
		target_columns => '{"a": "department_llm", "$answer": "remark"}')},
	'42501', '\(remark\)', 'nor may it be one of several');

# ---- rights that are taken away after submit

query('UPDATE alice.notes SET department_llm = NULL');
my $no_select = submit_then('mallory',
	q{'alice.notes', 'gpt-4o-mini', 'a {note}', server => 'openai'},
	'REVOKE SELECT (note) ON alice.notes FROM mallory');
is(end_of($no_select), 'failed 42501', 'SELECT taken away: the job fails');
query('GRANT SELECT (note) ON alice.notes TO mallory');

my $no_usage = submit_then('mallory',
	q{'alice.notes', 'gpt-4o-mini', 'b {note}', server => 'openai'},
	'REVOKE USAGE ON FOREIGN SERVER openai FROM mallory');
is(end_of($no_usage), 'failed 42501', 'USAGE on the server taken away: the job fails');
like(query("SELECT error FROM dess_batch_jobs WHERE job_id = $no_usage"),
	qr/permission denied for foreign server "openai"/, 'and says so');

my $no_schema = submit_then('alice', q{'alice.notes', 'gpt-4o-mini', 'c {note}', server => 'openai'},
	'REVOKE USAGE ON FOREIGN SERVER openai FROM alice');
is(end_of($no_schema), 'failed 42501', "the owner of the table needs the server's USAGE as well");
is(files_uploaded(), $sent, 'nothing has left the database');
query('GRANT USAGE ON FOREIGN SERVER openai TO alice, mallory');

my $no_update = submit_then('mallory',
	q{'alice.notes', 'gpt-4o-mini', 'd {note}', server => 'openai'},
	'REVOKE UPDATE (department_llm) ON alice.notes FROM mallory');
is(end_of($no_update), 'failed 42501', 'UPDATE taken away: the job fails');
is(query('SELECT count(department_llm) FROM alice.notes'), 0, 'and has written nothing');

# ---- accounts

refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}', server => 'hers')},
	'42501', 'permission denied for foreign server "hers".*GRANT USAGE ON FOREIGN SERVER hers TO mallory',
	'a server without USAGE');
refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'hers-1', '{note}')},
	'42704', 'no provider serves model "hers-1".*has no USAGE',
	'a model of a server without USAGE');
gives('mallory', q{SELECT step, ok FROM dess_batch_check('hers')}, 'server|f',
	'dess_batch_check of a server without USAGE goes no further');
refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}', server => '(built-in openai)')},
	'42501', 'only superusers may use', 'the built-in server');
refused('mallory', q{CREATE USER MAPPING FOR mallory SERVER hers OPTIONS (api_key 'sk-own')},
	'42501', '', 'a user mapping on a server without USAGE');
refused('mallory', q{CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key 'sk-own')},
	'42501', '', 'a user mapping for all on a server that was only lent');
refused('mallory', 'SELECT umoptions FROM pg_user_mapping', '42501', '', 'the catalog of user mappings');
gives('mallory', 'SELECT count(*), count(umoptions) FROM pg_user_mappings', '2|0',
	'the view of user mappings shows no secret');
refused('mallory', q{ALTER SERVER openai OPTIONS (SET base_url 'https://example.com')}, '42501', '',
	'options of a server that was only lent');
refused('mallory', 'ALTER FOREIGN DATA WRAPPER dess_batch NO VALIDATOR', '42501', '',
	'the validator of the wrapper');
refused('mallory', 'CREATE FOREIGN TABLE mallory.f (a integer) SERVER openai', '0A000', 'has no foreign tables',
	'a foreign table on an account');
refused('mallory', qq{SET dess_batch.$_ = DEFAULT}, '55P02', '', "setting dess_batch.$_")
  foreach qw(enabled databases spool_directory spool_limit allowed_hosts);
refused('mallory', 'SET dess_batch.anything = 1', '42602', '', 'a setting that does not exist');
gives('mallory', q{SELECT count(*) FROM pg_settings WHERE name = 'dess_batch.spool_directory'}, 0,
	'the spool directory is not shown');

# a server for everything does not catch the rows of others
make('mallory',
	q{CREATE SERVER net FOREIGN DATA WRAPPER dess_batch
		OPTIONS (provider 'openai', base_url 'https://collector.example.com/v1', models '*');
	CREATE USER MAPPING FOR PUBLIC SERVER net OPTIONS (api_key 'sk-collector');
	GRANT USAGE ON FOREIGN SERVER net TO PUBLIC;});
my $caught = submit_as('alice', q{'alice.notes', 'gpt-4o-mini', 'e {note}'});
is(query("SELECT server FROM dess_batch_jobs WHERE job_id = $caught"), 'openai',
	"a stranger's server for all models is not chosen");
foreach my $role (qw(alice postgres))
{
	refused($role, q{SELECT dess_batch_submit('alice.notes', 'my-model', '{note}')},
		'42704', 'belongs to role "mallory", so it must be named',
		"$role: not even where no other server serves the model");
}
refused('mallory', q{SELECT dess_batch_submit('mallory.bait', 'gpt-4o-mini', '{note}')},
	'42725', '"net", "openai"', 'its owner, for whom both serve, is asked which');
is(end_of($caught), 'done', "alice's job is done");

# ---- code of the owner of a table, while a superuser's job is at work on it

make('mallory',
	q{	CREATE TABLE mallory.calls (place text, who text, note text);
	CREATE FUNCTION mallory.strike(place text) RETURNS void LANGUAGE plpgsql AS $$
		DECLARE statement text; outcome text := '';
		BEGIN
			FOREACH statement IN ARRAY ARRAY['ALTER ROLE mallory SUPERUSER', 'RESET ROLE', 'SET ROLE postgres',
				'SET SESSION AUTHORIZATION postgres', 'RESET SESSION AUTHORIZATION',
				'CREATE TEMPORARY TABLE job (id integer)', 'SELECT * FROM dess_batch.job',
				'GRANT pg_read_server_files TO mallory', 'LISTEN dess_batch']
			LOOP
				BEGIN
					EXECUTE statement;
					outcome := outcome || statement || ';';
				EXCEPTION WHEN OTHERS THEN
					NULL;
				END;
			END LOOP;
			INSERT INTO mallory.calls VALUES (place, current_user, outcome);
		EXCEPTION WHEN read_only_sql_transaction OR feature_not_supported THEN
			NULL;
		END $$;
	CREATE FUNCTION mallory.row_trigger() RETURNS trigger LANGUAGE plpgsql
		AS $$ BEGIN PERFORM mallory.strike(TG_NAME); RETURN NEW; END $$;
	CREATE FUNCTION mallory.checked(text) RETURNS boolean LANGUAGE plpgsql
		AS $$ BEGIN PERFORM mallory.strike('domain'); RETURN true; END $$;
	CREATE FUNCTION mallory.wanted(integer) RETURNS boolean STABLE LANGUAGE plpgsql
		AS $$ BEGIN PERFORM mallory.strike('where'); RETURN true; END $$;
	CREATE FUNCTION mallory.indexed(integer) RETURNS integer IMMUTABLE LANGUAGE plpgsql
		AS $$ BEGIN PERFORM mallory.strike('index'); RETURN $1; END $$;
	CREATE FUNCTION mallory.same(text, text) RETURNS boolean LANGUAGE plpgsql
		AS $$ BEGIN PERFORM mallory.strike('operator'); RETURN true; END $$;
	CREATE OPERATOR mallory.= (leftarg = text, rightarg = text, function = mallory.same);
	CREATE OPERATOR mallory.|| (leftarg = text, rightarg = text, function = mallory.same);
	CREATE FUNCTION mallory.now() RETURNS timestamptz LANGUAGE plpgsql
		AS $$ BEGIN PERFORM mallory.strike('search_path'); RETURN clock_timestamp(); END $$;
	CREATE DOMAIN mallory.checked_text AS text CHECK (mallory.checked(VALUE));
	CREATE TABLE mallory.trap (id integer PRIMARY KEY, note text, department_llm mallory.checked_text);
	CREATE INDEX ON mallory.trap ((mallory.indexed(1) + id));
	INSERT INTO mallory.trap SELECT i, 'trap ' || i FROM generate_series(1, 3) i;
	ALTER TABLE mallory.trap ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
	CREATE POLICY p ON mallory.trap USING (mallory.wanted(id));
	CREATE RULE r AS ON UPDATE TO mallory.trap DO ALSO SELECT mallory.strike('rule');
	CREATE TRIGGER before_row BEFORE UPDATE ON mallory.trap FOR EACH ROW EXECUTE FUNCTION mallory.row_trigger();
	CREATE TRIGGER after_row AFTER UPDATE ON mallory.trap FOR EACH ROW EXECUTE FUNCTION mallory.row_trigger();
	CREATE TRIGGER after_all AFTER UPDATE ON mallory.trap EXECUTE FUNCTION mallory.row_trigger();
	CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON mallory.trap DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION mallory.row_trigger();
	TRUNCATE mallory.calls;});
query('ALTER TABLE mallory.trap DISABLE RULE r');

my $trapped = query(
	q{SET search_path = mallory, pg_catalog, public;
	SELECT dess_batch_submit('trap', 'gpt-4o-mini', '{note}', server => 'openai', where_sql => 'wanted(id)');});
query(
	q{SELECT * FROM dess_batch_preview('mallory.trap', 'gpt-4o-mini', '{note}', server => 'openai',
		where_sql => 'mallory.wanted(id)')});
is(end_of($trapped), 'done', "a superuser's job on a stranger's table is done");
is(query("SELECT done FROM dess_batch_jobs WHERE job_id = $trapped"), 3, 'with all its rows');
is(query("SELECT is_current FROM dess_batch_show($trapped, '{\"id\": 1}')"), 't',
	'a superuser shows one of its rows');
is( query(q{SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM mallory.calls WHERE place <> 'index'}),
	'after_all after_row at_commit before_row domain where',
	"the stranger's triggers, domain and function did run");
is( query(q{SELECT string_agg(DISTINCT who, ' ') FROM mallory.calls}),
	'mallory', 'as the stranger, never as the superuser');
is( query(q{SELECT string_agg(DISTINCT note, ' ') FROM mallory.calls}),
	'', 'and nothing that they tried has succeeded');
is(query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'the stranger is no superuser');

# whose partition it is counts as well
query(
	q{CREATE TABLE parted (id integer PRIMARY KEY, note text, department_llm text) PARTITION BY RANGE (id);
	CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (1) TO (10);
	CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
	INSERT INTO parted VALUES (1, 'one'), (11, 'eleven');
	ALTER TABLE parted_2 OWNER TO mallory;});
make('mallory', 'CREATE TRIGGER before_row BEFORE UPDATE ON parted_2 FOR EACH ROW EXECUTE FUNCTION mallory.row_trigger()');
refused('postgres', q{SELECT dess_batch_submit('parted', 'gpt-4o-mini', '{note}', server => 'openai')},
	'42501', 'partition "parted_2" does not belong to a superuser',
	"a superuser's table with a stranger's partition");
query('ALTER TABLE parted_2 OWNER TO postgres');
$job = query(
	q{BEGIN;
	SELECT dess_batch_submit('parted', 'gpt-4o-mini', '{note}', server => 'openai');
	ALTER TABLE parted_2 OWNER TO mallory;
	COMMIT;});
is(end_of($job), 'failed 42501', 'given away after submit: the job fails');
is(query(q{SELECT count(*) FROM mallory.calls WHERE who <> 'mallory'}), 0, 'its triggers have not run');

make('mallory', 'CREATE VIEW mallory.window AS SELECT * FROM mallory.bait');
refused('postgres', q{SELECT dess_batch_submit('mallory.window', 'gpt-4o-mini', '{note}', server => 'openai')},
	'42809', 'cannot send rows', 'a view is no source');

# ---- names that want to be SQL, JSON or a template

query(<<'SQL');
CREATE SCHEMA "s""; DROP TABLE alice.notes; --";
CREATE TABLE "s""; DROP TABLE alice.notes; --"."t {row} ""' \ $1" (
	"i""d} OR true" text PRIMARY KEY,
	"{row}" text,
	"c}{d" text,
	"line
break" text,
	"a,b" text,
	"'; DROP TABLE alice.notes; --" text,
	"tar""get', $1" text);
INSERT INTO "s""; DROP TABLE alice.notes; --"."t {row} ""' \ $1"
VALUES (E'k"1\n\\', '{note}', '{{', E'two\nlines', 'x', 'y'), ('{"id": 1}', NULL, NULL, NULL, NULL, '$1');
SQL
my $oid = query(q{SELECT oid FROM pg_class WHERE relname LIKE 't {row}%' AND relkind = 'r'});
$job = query(<<"SQL");
SELECT dess_batch_submit($oid, 'gpt-4o-mini', \$\$Say {row} {{}} {'; DROP TABLE alice.notes; --}\$\$,
	target => \$\$tar"get', \$1\$\$, server => 'openai', label => E'"}\\n'', \\\\',
	where_sql => \$\$"'; DROP TABLE alice.notes; --" <> ''\$\$)
SQL
is(end_of($job), 'done', 'a table of crafted names is done');
is(query(qq{SELECT rows FROM dess_batch_jobs WHERE job_id = $job}), 2, 'with all its rows');
is(query(<<'SQL'), 2, 'and its answers are written');
SELECT count("tar""get', $1") FROM "s""; DROP TABLE alice.notes; --"."t {row} ""' \ $1"
SQL
is( query("SELECT string_agg(row_key::text, ' ' ORDER BY row_key::text COLLATE \"C\") FROM dess_batch_rows WHERE job_id = $job"),
	q({"i\"d} OR true": "k\"1\n\\\\"} {"i\"d} OR true": "{\"id\": 1}"}),
	'its keys are what they are');
is(query(<<"SQL"), <<'JSON' =~ s/\n\z//r, '{row} shows names and values as JSON, and reads no placeholder in them');
SELECT request -> 'body' -> 'messages' -> 0 ->> 'content'
FROM dess_batch_preview($oid, 'gpt-4o-mini', '{row}', target => \$\$tar"get', \$1\$\$, server => 'openai', overwrite => true)
WHERE row_key::text LIKE '%k%'
SQL
{"{row}":"{note}","c}{d":"{{","line\nbreak":"two\nlines","a,b":"x","'; DROP TABLE alice.notes; --":"y"}
JSON
is(query(q{SELECT count(*) FROM alice.notes}), 3, 'nothing was dropped');

# ---- the notification

my ($out) = as('alice',
	q{UPDATE alice.notes SET department_llm = NULL;
	LISTEN dess_batch;
	SELECT dess_batch_submit('alice.notes', 'gpt-4o-mini', 'f {note}', server => 'openai',
		label => '", "state": "x') AS job \gset
	\echo :job
	CALL dess_batch_wait(:job);
	} . 'SELECT pg_sleep(0.05);' x 20);
my ($number) = $out =~ /^(\d+)$/m;
like($out, qr/notification "dess_batch" with payload "\{"job": $number, "state": "done"\}"/,
	'the notification tells number and state, and nothing that a user has written');
unlike($out, qr/"state": "x/, 'not even the label');

$node->stop;
$simulator->stop;
done_testing();
