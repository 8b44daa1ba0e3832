# What users do with their tables while rows are away, and what their tables do
# themselves when answers come: triggers, constraints, policies, locks.  Each
# row gets its own outcome, and no other row is kept from its answer.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 10);
my $node = start_node('user_tables');
create_server($node, $simulator, options => { max_active_batches => 100 });

my @cases;

sub sql { return $node->safe_psql('postgres', $_[0]); }

# A table NAME (id, body, answer) with rows 1 to ROWS whose body is "text ID",
# which the model repeats.  Options: rows (4), create (instead of that table),
# setup, away (SQL before submit, and while the rows are away; %s is the name),
# source and table (what the table is called at submit and in the end),
# arguments (further ones of submit), role (that submits), state (done),
# outcomes (of the rows, in the order of their keys) and answers (what the table
# holds in the end; undef: not looked at), check (called with the case).
sub a_table
{
	my ($name, %options) = @_;

	push @cases, { name => $name, rows => 4, state => 'done', %options };
	return;
}

sub outcomes_of
{
	my ($job) = @_;
	return sql(
		"SELECT string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ' ORDER BY (row_key ->> 'id')::integer)
		FROM dess_batch_rows WHERE job_id = $job");
}

sub answers_of
{
	my ($name) = @_;
	return sql("SELECT string_agg(id || ' ' || coalesce(answer::text, '-'), ', ' ORDER BY id) FROM $name");
}

sub error_of
{
	my ($job) = @_;
	return sql("SELECT concat_ws(': ', error_code, error) FROM dess_batch_jobs WHERE job_id = $job");
}

sub until_all_stand_still
{
	my $jobs = join ', ', map { $_->{job} } @cases;

	$node->poll_query_until('postgres', "SELECT bool_and(stands_still) FROM dess_batch.figures WHERE job_id IN ($jobs)")
	  or die 'a stage does not come to an end';
	return;
}

# Prepares all jobs, sends them away, does what is done meanwhile, merges.
sub run_cases
{
	foreach my $case (@cases)
	{
		my $name = $case->{name};
		my $create = $case->{create}
		  // 'CREATE TABLE %s (id integer PRIMARY KEY, body text, answer text)';
		my $role = $case->{role} ? "SET ROLE $case->{role};" : '';
		my $arguments = $case->{arguments} ? ", $case->{arguments}" : '';

		sql(join(';', map { s/%s/$name/gr } $create,
				"INSERT INTO %s (id, body) SELECT i, 'text ' || i FROM generate_series(1, $case->{rows}) i",
				$case->{setup} // ''));
		$case->{job} = sql("$role SELECT dess_batch_prepare('" . ($case->{source} // $name) . "', 'gpt-4o-mini', target => 'answer'"
			  . ($arguments =~ /prompt =>/ ? '' : ", prompt => '{body}'") . "$arguments)");
	}
	foreach my $call ('upload', 'create')
	{
		until_all_stand_still();
		sql(join ';', map { "SELECT dess_batch_$call($_->{job})" } @cases);
	}
	until_all_stand_still();
	foreach my $case (@cases)
	{
		sql($case->{away} =~ s/%s/$case->{name}/gr) if $case->{away};
	}
	sql(join ';', map { "SELECT dess_batch_retrieve($_->{job})" } @cases);
	foreach my $case (@cases)
	{
		subtest $case->{name} =~ s/_/ /gr => sub { check_case($case) };
	}
	@cases = ();
	return;
}

sub check_case
{
	my ($case) = @_;

	is(wait_for_job($node, $case->{job}), $case->{state}, 'the state of the job') or diag(error_of($case->{job}));
	is(outcomes_of($case->{job}), $case->{outcomes} // join(', ', map { "$_ ok" } 1 .. $case->{rows}), 'outcomes')
	  unless exists $case->{outcomes} && !defined $case->{outcomes};
	is(answers_of($case->{table} // $case->{name}), $case->{answers} // join(', ', map { "$_ text $_" } 1 .. $case->{rows}), 'answers')
	  unless exists $case->{answers} && !defined $case->{answers};
	$case->{check}->($case) if $case->{check};
	return;
}

# A trigger function public.NAME() with that body.
sub trigger_function
{
	my ($name, $body) = @_;
	return "CREATE FUNCTION public.$name() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN $body END \$\$;";
}

# ---- what users do meanwhile

a_table('typed_by_hand',
	arguments => "keep => 'answer'",
	away => "UPDATE %s SET answer = 'mine' WHERE id = 2; UPDATE %s SET body = 'else' WHERE id = 3; DELETE FROM %s WHERE id = 4",
	outcomes => '1 ok, 2 stale, 3 stale, 4 gone',
	answers => '1 text 1, 2 mine, 3 -',
	check => sub {
		my ($case) = @_;
		is(sql("SELECT string_agg(answer, ', ' ORDER BY batch_no, row_key ->> 'id') FROM dess_batch_rows WHERE job_id = $case->{job}"),
			'text 1, text 2, text 3, text 4', 'the answers that were not written are kept');
	});
a_table('other_keys',
	away => 'UPDATE %s SET id = id + 100 WHERE id > 2; ALTER TABLE %s REPLICA IDENTITY FULL',
	outcomes => '1 ok, 2 ok, 3 gone, 4 gone',
	answers => '1 text 1, 2 text 2, 103 -, 104 -');
a_table('swapped_keys',
	away => 'UPDATE %s SET id = 0 WHERE id = 1; UPDATE %s SET id = 1 WHERE id = 2; UPDATE %s SET id = 2 WHERE id = 0',
	outcomes => '1 stale, 2 stale, 3 ok, 4 ok',
	answers => '1 -, 2 -, 3 text 3, 4 text 4');
a_table('truncated', away => 'TRUNCATE %s', outcomes => '1 gone, 2 gone, 3 gone, 4 gone', answers => '');
a_table('rewritten', away => 'VACUUM FULL %s');
a_table("clustered", away => "CLUSTER %s USING %s_pkey; REINDEX TABLE %s");
a_table('made_unlogged', away => 'ALTER TABLE %s SET UNLOGGED');
a_table('unlogged', create => 'CREATE UNLOGGED TABLE %s (id integer PRIMARY KEY, body text, answer text)');
a_table('moved_to_a_schema', setup => 'CREATE SCHEMA elsewhere', away => 'ALTER TABLE %s SET SCHEMA elsewhere',
	table => 'elsewhere.moved_to_a_schema');
a_table('renamed_schema',
	setup => 'CREATE SCHEMA old_name; ALTER TABLE %s SET SCHEMA old_name', source => 'old_name.renamed_schema',
	away => 'ALTER SCHEMA old_name RENAME TO new_name', table => 'new_name.renamed_schema');
a_table('made_again', away => 'DROP TABLE %s; CREATE TABLE %s (id integer PRIMARY KEY, body text, answer text)',
	state => 'failed', outcomes => '1 sent, 2 sent, 3 sent, 4 sent', answers => '',
	check => sub { like(error_of($_[0]{job}), qr/^42P01: .*made_again/, 'says which table is gone'); });
a_table('wider_key', away => 'ALTER TABLE %s ALTER id TYPE bigint');
a_table('text_key', away => 'ALTER TABLE %s ALTER id TYPE text', answers => '1 text 1, 2 text 2, 3 text 3, 4 text 4');
a_table('other_input', away => "ALTER TABLE %s ALTER body TYPE varchar(100)");
a_table('other_text', away => "ALTER TABLE %s ALTER body TYPE char(10)",
	outcomes => '1 stale, 2 stale, 3 stale, 4 stale', answers => '1 -, 2 -, 3 -, 4 -');
a_table('short_target', away => 'ALTER TABLE %s ALTER answer TYPE varchar(5)',
	outcomes => '1 invalid 22001, 2 invalid 22001, 3 invalid 22001, 4 invalid 22001', answers => '1 -, 2 -, 3 -, 4 -');
a_table('generated_target',
	away => "ALTER TABLE %s DROP answer; ALTER TABLE %s ADD answer text GENERATED ALWAYS AS ('x' || id::text) STORED",
	state => 'failed', outcomes => '1 sent, 2 sent, 3 sent, 4 sent', answers => '1 x1, 2 x2, 3 x3, 4 x4',
	check => sub { like(error_of($_[0]{job}), qr/^428C9: .*answer/, 'says why'); });
a_table('other_columns',
	setup => 'ALTER TABLE %s ADD gone integer DEFAULT 1, ADD stays integer DEFAULT 2',
	away => 'ALTER TABLE %s DROP gone; ALTER TABLE %s ADD fresh text DEFAULT $$x$$; ALTER TABLE %s RENAME stays TO renamed');
a_table('another_index',
	setup => 'ALTER TABLE %s DROP CONSTRAINT %s_pkey; CREATE UNIQUE INDEX %s_a ON %s (id); CREATE UNIQUE INDEX %s_b ON %s (id); ALTER TABLE %s ALTER id SET NOT NULL',
	away => 'DROP INDEX %s_a');
a_table('no_index',
	setup => 'ALTER TABLE %s DROP CONSTRAINT %s_pkey; CREATE UNIQUE INDEX %s_a ON %s (id); ALTER TABLE %s ALTER id SET NOT NULL',
	away => 'DROP INDEX %s_a',
	state => 'failed', outcomes => '1 sent, 2 sent, 3 sent, 4 sent', answers => '1 -, 2 -, 3 -, 4 -',
	check => sub {
		my ($case) = @_;
		like(error_of($case->{job}), qr/^42P10: .*\(id\)/, 'says which key is gone');
		sql('ALTER TABLE no_index ADD PRIMARY KEY (id)');
		is(sql("SELECT dess_batch_retry($case->{job})"), 4, 'with an index again, retry takes up the rows');
		is(wait_for_job($node, $case->{job}), 'done', 'the job is done');
		is(answers_of('no_index'), '1 text 1, 2 text 2, 3 text 3, 4 text 4', 'and has its answers');
	});
a_table('views', away => "CREATE VIEW %s_view AS SELECT * FROM %s; CREATE MATERIALIZED VIEW %s_mv AS SELECT * FROM %s");

# ---- triggers

a_table('before_triggers',
	rows => 5,
	setup => trigger_function('before', q{
		IF NEW.id = 1 THEN NEW.answer := 'changed'; END IF;
		IF NEW.id = 2 THEN RETURN NULL; END IF;
		IF NEW.id = 3 THEN RAISE EXCEPTION 'not me' USING ERRCODE = 'ZZ003'; END IF;
		IF NEW.id = 4 THEN NEW.id := 44; END IF;
		RETURN NEW;}) . 'CREATE TRIGGER before BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION before()',
	outcomes => '1 ok, 2 invalid, 3 invalid ZZ003, 4 ok, 5 ok',
	answers => '1 changed, 2 -, 3 -, 5 text 5, 44 text 4');
a_table('after_trigger',
	setup => trigger_function('after', q{
		IF NEW.id % 2 = 0 THEN RAISE EXCEPTION 'even % after', NEW.id USING ERRCODE = 'ZZ004'; END IF;
		RETURN NULL;}) . 'CREATE TRIGGER after AFTER UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION after()',
	outcomes => '1 ok, 2 invalid ZZ004, 3 ok, 4 invalid ZZ004',
	answers => '1 text 1, 2 -, 3 text 3, 4 -',
	check => sub { is(sql("SELECT max(error) FROM dess_batch_errors WHERE job_id = $_[0]{job}"), 'even 4 after', 'in its words'); });
a_table('statement_trigger',
	setup => 'CREATE TABLE %s_log (n integer);' . trigger_function('statement', q{
		INSERT INTO public.statement_trigger_log SELECT count(*) FROM now_there;
		RETURN NULL;}) . 'CREATE TRIGGER statement AFTER UPDATE ON %s REFERENCING NEW TABLE AS now_there FOR EACH STATEMENT EXECUTE FUNCTION statement()',
	check => sub { is(sql('SELECT string_agg(n::text, $$ $$) FROM statement_trigger_log'), 4, 'is called once for the group'); });
a_table('statement_trigger_that_raises',
	setup => trigger_function('statement_raises', q{
		IF EXISTS (SELECT FROM now_there WHERE id = 3) THEN RAISE EXCEPTION 'three is too many'; END IF;
		RETURN NULL;}) . 'CREATE TRIGGER statement AFTER UPDATE ON %s REFERENCING NEW TABLE AS now_there FOR EACH STATEMENT EXECUTE FUNCTION statement_raises()',
	outcomes => '1 ok, 2 ok, 3 invalid P0001, 4 ok',
	answers => '1 text 1, 2 text 2, 3 -, 4 text 4');
a_table('deferred_trigger',
	setup => trigger_function('deferred', q{
		IF NEW.id = 2 THEN RAISE EXCEPTION 'later' USING ERRCODE = 'ZZ005'; END IF;
		RETURN NULL;}) . 'CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON %s DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION deferred()',
	outcomes => '1 ok, 2 invalid ZZ005, 3 ok, 4 ok',
	answers => '1 text 1, 2 -, 3 text 3, 4 text 4');
a_table('trigger_that_defers',
	setup => trigger_function('defers', q{
		SET CONSTRAINTS ALL DEFERRED;
		RETURN NEW;}) . 'CREATE TRIGGER defers BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION defers();
		CREATE CONSTRAINT TRIGGER deferred AFTER UPDATE ON %s DEFERRABLE FOR EACH ROW EXECUTE FUNCTION deferred()',
	outcomes => '1 invalid 42501, 2 invalid 42501, 3 invalid 42501, 4 invalid 42501',
	answers => '1 -, 2 -, 3 -, 4 -',
	check => sub {
		like(sql("SELECT max(error) FROM dess_batch_errors WHERE job_id = $_[0]{job}"), qr/cannot fire deferred trigger/, 'PostgreSQL keeps it from raising when it is too late');
	});
a_table('trigger_that_submits',
	setup => 'CREATE TABLE %s_next (id integer PRIMARY KEY, body text, answer text);' . trigger_function('submits', q{
		INSERT INTO public.trigger_that_submits_next VALUES (NEW.id, 'next ' || NEW.id);
		PERFORM public.dess_batch_submit('public.trigger_that_submits_next', 'gpt-4o-mini', prompt => '{body}', target => 'answer',
			where_sql => 'id = ' || NEW.id, server => 'openai');
		RETURN NEW;}) . 'CREATE TRIGGER submits BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION submits()',
	check => sub {
		ok($node->poll_query_until('postgres',
				q{SELECT string_agg(answer, ' ' ORDER BY id) = 'next 1 next 2 next 3 next 4' FROM trigger_that_submits_next}),
			'the jobs of the trigger are done as well');
	});
a_table('trigger_that_listens',
	setup => trigger_function('listens', q{
		IF NEW.id = 1 THEN LISTEN something; END IF;
		IF NEW.id = 2 THEN SET ROLE postgres; END IF;
		IF NEW.id = 3 THEN PERFORM pg_catalog.pg_advisory_unlock_all(); END IF;
		IF NEW.id = 4 THEN PERFORM pg_catalog.set_config('search_path', 'nowhere', false); END IF;
		RETURN NEW;}) . 'CREATE TRIGGER listens BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION listens()',
	outcomes => '1 invalid 42501, 2 invalid 42501, 3 ok, 4 ok',
	answers => '1 -, 2 -, 3 text 3, 4 text 4');

# ---- constraints

a_table('not_null',
	create => "CREATE TABLE %s (id integer PRIMARY KEY, body text, answer text NOT NULL DEFAULT 'old')",
	setup => q{UPDATE %s SET body = 'say nothing' WHERE id = 2},
	arguments => 'overwrite => true, missing => NULL',
	outcomes => '1 ok, 2 invalid 23502, 3 ok, 4 ok',
	answers => '1 text 1, 2 old, 3 text 3, 4 text 4');
a_table('checked',
	setup => "ALTER TABLE %s ADD CHECK (answer <> 'text 2'), ADD CONSTRAINT two CHECK (answer IS NULL OR id <> 3) NOT VALID",
	outcomes => '1 ok, 2 invalid 23514, 3 invalid 23514, 4 ok',
	answers => '1 text 1, 2 -, 3 -, 4 text 4');
a_table('excluded',
	setup => 'ALTER TABLE %s ADD EXCLUDE USING btree ((left(answer, 4)) WITH =)',
	outcomes => undef, answers => undef,
	check => sub {
		is(sql("SELECT string_agg(outcome || coalesce(' ' || error_code, ''), ', ' ORDER BY outcome) FROM dess_batch_rows WHERE job_id = $_[0]{job}"),
			'invalid 23P01, invalid 23P01, invalid 23P01, ok', 'one of them has its answer');
	});
a_table('foreign_keys',
	setup => "CREATE TABLE parents (name text PRIMARY KEY); INSERT INTO parents VALUES ('text 1'), ('text 2'), ('text 3');
		ALTER TABLE %s ADD FOREIGN KEY (answer) REFERENCES parents",
	away => "DELETE FROM parents WHERE name = 'text 3'",
	outcomes => '1 ok, 2 ok, 3 invalid 23503, 4 invalid 23503',
	answers => '1 text 1, 2 text 2, 3 -, 4 -');
a_table('referenced',
	setup => 'ALTER TABLE %s ADD UNIQUE (answer); CREATE TABLE %s_child (id integer REFERENCES %s, answer text REFERENCES %s (answer) ON UPDATE CASCADE)');
a_table('domains',
	create => q{CREATE DOMAIN short_name AS varchar(6) CHECK (VALUE <> 'text 2'); CREATE DOMAIN shorter AS short_name NOT NULL;
		CREATE TABLE %s (id integer PRIMARY KEY, body text, answer shorter DEFAULT 'old')},
	setup => "UPDATE %s SET body = 'text 33' WHERE id = 3",
	away => q{ALTER DOMAIN short_name ADD CHECK (VALUE <> 'text 4') NOT VALID},
	arguments => 'overwrite => true',
	outcomes => '1 ok, 2 invalid 23514, 3 invalid 22001, 4 invalid 23514',
	answers => '1 text 1, 2 old, 3 old, 4 old');
a_table('generated',
	create => q{CREATE TABLE %s (id integer PRIMARY KEY, body text, answer text,
		shout text GENERATED ALWAYS AS (upper(body)) STORED, echo text GENERATED ALWAYS AS (answer || '!') STORED)},
	arguments => q{prompt => '{shout}'},
	answers => '1 TEXT 1, 2 TEXT 2, 3 TEXT 3, 4 TEXT 4',
	check => sub { is(sql('SELECT string_agg(echo, $$ $$ ORDER BY id) FROM generated'), 'TEXT 1! TEXT 2! TEXT 3! TEXT 4!', 'what depends on the answer follows'); });

# ---- row-level security

sql(q{
	CREATE ROLE keeper; CREATE ROLE guest;
	GRANT USAGE ON FOREIGN SERVER openai TO keeper, guest;
	GRANT CREATE ON SCHEMA public TO keeper;});
a_table('forced_security',
	setup => q{ALTER TABLE %s ADD who text DEFAULT 'keeper'; UPDATE %s SET who = 'guest' WHERE id = 4;
		ALTER TABLE %s OWNER TO keeper; ALTER TABLE %s ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
		CREATE POLICY own ON %s USING (who = current_user) WITH CHECK (answer <> 'text 2')},
	role => 'keeper',
	away => q{UPDATE %s SET who = 'guest' WHERE id = 3},
	outcomes => '1 ok, 2 invalid 42501, 3 gone',
	answers => '1 text 1, 2 -, 3 -, 4 -');
a_table('hiding_policy',
	setup => 'ALTER TABLE %s OWNER TO keeper; GRANT SELECT, UPDATE (answer) ON %s TO guest',
	role => 'guest',
	away => 'ALTER TABLE %s ENABLE ROW LEVEL SECURITY; CREATE POLICY most ON %s FOR SELECT USING (id < 4);
		CREATE POLICY fewer ON %s FOR UPDATE USING (id < 3)',
	outcomes => undef, answers => '1 text 1, 2 text 2, 3 -, 4 -',
	check => sub {
		is(outcomes_of($_[0]{job}), '1 ok, 2 ok, 3 invalid 42501, 4 gone', 'what may be seen but not updated is not waited for');
	});

$simulator->post('answers', [ { contains => 'say nothing', answer => '' } ]);
run_cases();

# ---- what cannot be a source

sql(q{CREATE SEQUENCE numbers; CREATE INDEX views_i ON views (body);
	CREATE TYPE pair AS (a integer, b text);
	CREATE FUNCTION public.instead() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN UPDATE public.views SET answer = NEW.answer WHERE id = NEW.id; RETURN NEW; END';
	CREATE TRIGGER instead INSTEAD OF UPDATE ON views_view FOR EACH ROW EXECUTE FUNCTION instead();});
foreach my $case (
	[ 'views_view', 'views' ], [ 'views_mv', 'materialized views' ], [ 'numbers', 'sequences' ], [ 'views_i', 'indexes' ],
	[ 'pair', 'composite types' ], [ 'pg_class', 'system catalog' ], [ 'pg_catalog.pg_authid', 'system catalog' ],
	[ 'dess_batch.job', 'extension' ])
{
	my ($name, $words) = @$case;
	my ($status, $out, $err) = $node->psql('postgres',
		"SELECT dess_batch_submit('$name', 'gpt-4o-mini', prompt => 'x', target => 'answer')", extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	like($err, qr/ERROR:  42809: .*$words/s, "$name is refused");
}
my ($status, $out, $err) = $node->psql('postgres',
	q{CREATE TEMP TABLE passing (id integer PRIMARY KEY, body text, answer text); SELECT dess_batch_submit('passing', 'gpt-4o-mini', '{body}', 'answer')});
like($err, qr/temporary table "passing"/, 'and a temporary table');

# ---- locks

# Rows that are locked, and rows whose update waits for others, are left for
# later; the others of the table, and other tables, have their answers at once.
foreach my $case (
	[ 'row_locks', '', 'SELECT FROM %s WHERE id = 2 FOR UPDATE' ],
	[ 'key_locks', 'ALTER TABLE %s ADD UNIQUE (answer)', "INSERT INTO %s VALUES (900, NULL, 'text 2')", 'ROLLBACK' ],
	[ 'parent_locks', 'CREATE TABLE %s_parent (name text PRIMARY KEY); INSERT INTO %s_parent SELECT body FROM %s;
		ALTER TABLE %s ADD FOREIGN KEY (answer) REFERENCES %s_parent', "SELECT FROM %s_parent WHERE name = 'text 2' FOR UPDATE" ],
	[ 'trigger_locks', 'CREATE TABLE %s_other (id integer PRIMARY KEY, n integer); INSERT INTO %s_other SELECT id, 0 FROM %s;'
		  . trigger_function('trigger_locks', 'UPDATE public.trigger_locks_other SET n = n + 1 WHERE id = NEW.id; RETURN NEW;')
		  . 'CREATE TRIGGER locks BEFORE UPDATE ON %s FOR EACH ROW EXECUTE FUNCTION trigger_locks()', 'SELECT FROM %s_other WHERE id = 2 FOR UPDATE' ],
	[ 'table_lock', '', 'LOCK TABLE %s' ])
{
	my ($name, $setup, $lock, $end) = @$case;
	my $holder = DessBatch::Session->new($node);
	my %job;

	foreach my $table ($name, "beside_$name")
	{
		sql("CREATE TABLE $table (id integer PRIMARY KEY, body text, answer text);
			INSERT INTO $table SELECT i, 'text ' || i FROM generate_series(1, 50) i");
	}
	sql($setup =~ s/%s/$name/gr);
	$job{$name} = sql("SELECT dess_batch_prepare('$name', 'gpt-4o-mini', '{body}', 'answer')");
	foreach my $call ('upload', 'create', undef)
	{
		wait_for_job($node, $job{$name});
		sql("SELECT dess_batch_$call($job{$name})") if $call;
	}
	$holder->query('BEGIN; ' . $lock =~ s/%s/$name/gr);
	sql("SELECT dess_batch_retrieve($job{$name})");
	if ($name ne 'table_lock')
	{
		ok($node->poll_query_until('postgres', "SELECT done + failed = 49 FROM dess_batch_jobs WHERE job_id = $job{$name}"),
			"$name: all rows but one have their answers");
		is(sql("SELECT count(answer) FROM $name WHERE id <= 50"), 49, 'indeed');
	}
	$job{beside} = sql("SELECT dess_batch_submit('beside_$name', 'gpt-4o-mini', '{body}', 'answer')");
	is(wait_for_job($node, $job{beside}), 'done', "$name: a job on another table is done meanwhile");
	is(sql("SELECT state FROM dess_batch_jobs WHERE job_id = $job{$name}"), 'retrieving', 'the first one waits');
	like($holder->query('SELECT count(*) FROM pg_locks WHERE NOT granted'), qr/^[0-9]+$/, 'the locks are still held');
	is($holder->errors, '', 'by a healthy session');
	$holder->query($end // 'COMMIT');
	$holder->close;
	is(wait_for_job($node, $job{$name}), 'done', 'and goes on when it may');
	is(outcomes($node, $job{$name}), 'ok 50', 'with every row');
	is(sql("SELECT count(*) FROM $name WHERE answer = body"), 50, 'that now has its answer');
}

# A row that a foreign key of somebody's transaction refers to can be written at once.
sql(q{CREATE TABLE referred (id integer PRIMARY KEY, body text, answer text); CREATE TABLE refers (id integer REFERENCES referred);
	INSERT INTO referred VALUES (1, 'text 1')});
my $holder = DessBatch::Session->new($node);
$holder->query('BEGIN; INSERT INTO refers VALUES (1)');
my $referred = sql(q{SELECT dess_batch_submit('referred', 'gpt-4o-mini', '{body}', 'answer')});
is(wait_for_job($node, $referred), 'done', 'a key share lock keeps no answer away');
$holder->query('COMMIT');
$holder->close;

my $log = slurp_file($node->logfile);
unlike($log, qr/PANIC|terminated by signal|TRAP|WARNING:  .*leak/, 'nothing has crashed or leaked');

$node->stop;
done_testing();
