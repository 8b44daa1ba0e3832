# Who wants more rights than he has: traps that lie in wait for CREATE EXTENSION,
# rights that change between submit and merge, code of a table's owner that the
# worker runs, and replies that send requests elsewhere.
use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;

use DessBatch;
use DessBatch::Session;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20, google => 1);
my $node = start_node('rights', extension => 0, conf => "max_connections = 30\ndeadlock_timeout = 100ms");

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# Runs SQL as a role; returns what it prints and its errors with SQLSTATEs.
sub as
{
	my ($role, $sql, $database) = @_;
	my ($status, $out, $err) = $node->psql($database // 'postgres', $sql,
		extra_params => [ '-U', $role, '-v', 'VERBOSITY=verbose' ]);

	return ($out, $err);
}

sub refused
{
	my ($role, $sql, $sqlstate, $words, $name, $database) = @_;
	my (undef, $err) = as($role, $sql, $database);

	like($err, qr/ERROR:  $sqlstate: .*$words/s, $name);
	return;
}

sub make
{
	my ($role, $sql, $database) = @_;
	my (undef, $err) = as($role, "\\set ON_ERROR_STOP\n" . $sql, $database);

	die "$role: $err" if $err =~ /ERROR|FATAL/;
	return;
}

sub until_true
{
	my ($sql, $what, $database) = @_;

	$node->poll_query_until($database // 'postgres', $sql) or die "in vain: $what";
	return;
}

# ---- CREATE EXTENSION in a schema where a stranger has been before

query(
	q{CREATE ROLE mallory LOGIN;
	CREATE ROLE alice LOGIN;
	CREATE DATABASE trapped;
	GRANT CREATE ON DATABASE trapped TO mallory;});
query('GRANT CREATE ON SCHEMA public TO mallory', 'trapped');

# what has a name that the extension needs is no part of it
foreach my $trap (
	[ 'SCHEMA dess_batch', '42P06' ],
	[ 'VIEW dess_batch_rows AS SELECT 1 AS a', '42P07' ],
	[ 'TABLE dess_batch_usage (day date)', '42P07' ],
	[ q{FUNCTION dess_batch_start() RETURNS void LANGUAGE sql AS 'SELECT'}, '42723' ],
	[ q{FUNCTION dess_batch_submit(text, text) RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'}, '42725', 'is not unique' ])
{
	my ($object, $sqlstate, $words) = @$trap;
	my ($drop) = $object =~ /^(\w+ \w+(?:\([\w, ]*\))?)/;

	make('mallory', "CREATE $object", 'trapped');
	refused('postgres', 'CREATE EXTENSION dess_batch', $sqlstate, $words // 'already exists', "$drop, made beforehand, is not taken over", 'trapped');
	make('mallory', "DROP $drop", 'trapped');
}

# operators that suit its expressions better than those of PostgreSQL
make('mallory', <<'SQL', 'trapped');
CREATE TABLE struck (who text, query text);
GRANT INSERT ON struck TO PUBLIC;
DO $$
DECLARE
	types text[] := '{smallint, integer, bigint, numeric, double precision, text, name, bytea, boolean, oid, regclass, timestamptz, interval, text[]}';
	pair record;
	made integer := 0;
BEGIN
	FOR pair IN
		SELECT a, b, op, CASE WHEN op = '||' THEN 'text'
			WHEN op IN ('+', '-', '*', '/') THEN CASE
				WHEN 'numeric' IN (a, b) THEN 'numeric'
				WHEN 'double precision' IN (a, b) THEN 'double precision'
				WHEN 'timestamptz' IN (a, b) THEN 'timestamptz' ELSE 'bigint' END
			ELSE 'boolean' END AS result
		FROM unnest(types) a, unnest(types) b, unnest('{=,<>,<,>,<=,>=,+,-,*,/,||,~}'::text[]) op
		WHERE NOT EXISTS (SELECT FROM pg_operator o WHERE oprname = op
			AND o.oprleft = a::regtype AND o.oprright = b::regtype)
	LOOP
		made := made + 1;
		EXECUTE format('CREATE FUNCTION trap_%s(%s, %s) RETURNS %s LANGUAGE plpgsql AS '
			'''BEGIN INSERT INTO public.struck VALUES (current_user, current_query()); RETURN NULL; END''', made, pair.a, pair.b, pair.result);
		EXECUTE format('CREATE OPERATOR %s (leftarg = %s, rightarg = %s, function = trap_%s)', pair.op, pair.a, pair.b, made);
	END LOOP;
	FOR pair IN
		SELECT f, t, r FROM unnest('{round,trunc,repeat,rpad,encode,format,to_char,unnest,min,sum,substr,date_trunc,now,coalesce}'::text[]) f,
			(VALUES ('integer', 'text'), ('numeric', 'numeric'), ('text[]', 'text'), ('bigint', 'bigint')) v(t, r)
	LOOP
		EXECUTE format('CREATE FUNCTION %I(%s) RETURNS %s LANGUAGE plpgsql AS '
			'''BEGIN INSERT INTO public.struck VALUES (current_user, current_query()); RETURN NULL; END''', pair.f, pair.t, pair.r);
	END LOOP;
END $$;
SQL
is(query(q{SELECT count(*) > 500 FROM pg_operator WHERE oprnamespace = 'public'::regnamespace}, 'trapped'), 't', 'a stranger has set many traps');
query('TRUNCATE struck; CREATE EXTENSION dess_batch', 'trapped');
is(query(q{
	SELECT count(*), string_agg(DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid), ', ')
	FROM pg_depend d
	WHERE (d.refclassid = 'pg_operator'::regclass::oid AND d.refobjid IN (SELECT oid FROM pg_operator WHERE oprnamespace = 'public'::regnamespace::oid)
		OR d.refclassid = 'pg_proc'::regclass::oid AND d.refobjid IN (SELECT oid FROM pg_proc WHERE proowner = 'mallory'::regrole::oid))
		AND d.classid <> 'pg_operator'::regclass::oid}, 'trapped'), '0|', 'nothing in the extension has been caught');
create_server($node, $simulator, database => 'trapped');
query(
	q{CREATE TABLE notes (id integer PRIMARY KEY, note text, department_llm text);
	INSERT INTO notes VALUES (1, 'trapped 1'), (2, 'trapped 2'), (3, 'trapped 3');}, 'trapped');
my $job = submit_job($node, "'notes', 'gpt-4o-mini', '{note}', server => 'openai'", 'trapped');
is(wait_for_job($node, $job, 'trapped'), 'done', 'a job there is done');
query("SELECT * FROM dess_batch_$_", 'trapped') foreach qw(jobs batches rows errors progress usage);
query("SELECT dess_batch_explain($job); SELECT dess_batch_show($job, '{\"id\": 1}'); SELECT dess_batch_retry($job); SELECT dess_batch_purge('0')", 'trapped');
is(query(q{SELECT count(*), string_agg(DISTINCT format('%s: %s', who, query), E'\n') FROM struck}, 'trapped'), '0|', 'no trap has sprung, neither in the views nor in the worker');
query('DROP DATABASE trapped WITH (FORCE)');

# ---- what the extension grants

query(
	q{ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
	CREATE EXTENSION dess_batch;
	ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;});
my $members = q{
	SELECT d.objid FROM pg_depend d JOIN pg_extension e ON d.refobjid = e.oid AND d.refclassid = 'pg_extension'::regclass
	WHERE e.extname = 'dess_batch' AND d.deptype = 'e' AND d.classid = };
is(query(qq{
	SELECT count(*), string_agg(DISTINCT c.oid::regclass || ' ' || a.privilege_type, ', ')
		FILTER (WHERE a.grantee <> c.relowner AND NOT (a.privilege_type = 'SELECT' AND a.grantee = 0 AND c.relkind = 'v' AND c.relnamespace = 'public'::regnamespace))
	FROM pg_class c, aclexplode(coalesce(c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 'S' ELSE 'r' END::"char", c.relowner))) a
	WHERE c.oid IN ($members 'pg_class'::regclass)}) =~ s/^\d{2,}\|//r, '',
	'of its tables, views and sequences, everybody may read the views, and nothing else');
is(query(qq{
	SELECT string_agg(p.oid::regprocedure::text, ', ')
	FROM pg_proc p WHERE p.oid IN ($members 'pg_proc'::regclass) AND p.prosecdef}), '', 'no function runs with the rights of its owner');
is(query(qq{
	SELECT count(*) > 20, string_agg(p.oid::regprocedure::text, ', ') FILTER (WHERE NOT has_function_privilege('mallory', p.oid, 'EXECUTE'))
	FROM pg_proc p WHERE p.oid IN ($members 'pg_proc'::regclass) AND (p.pronamespace = 'public'::regnamespace OR p.proname IN ('row_key', 'may_see'))}), 't|',
	'everybody may call its functions, whatever the default privileges say');
is(query(q{SELECT count(*) FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'dess_batch' AND a.grantee <> n.nspowner}), 0,
	'nobody has rights on the schema of the ledger');
is(query(q{SELECT count(*) FROM pg_foreign_data_wrapper w, aclexplode(w.fdwacl) a WHERE w.fdwname = 'dess_batch' AND a.grantee <> w.fdwowner}), 0,
	'nor may anybody create servers');
is(query(qq{SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c WHERE c.oid IN ($members 'pg_class'::regclass) AND c.relkind = 'v'
	AND c.relnamespace = 'public'::regnamespace AND (pg_relation_is_updatable(c.oid, true) <> 0 OR NOT 'security_barrier=true' = ANY (c.reloptions))}), '',
	'no view can be written through, even by who was granted everything, and all are barriers');

# ---- rights that change while the answers are under way

query(
	q{CREATE ROLE boss LOGIN SUPERUSER;
	CREATE ROLE staff;
	CREATE ROLE clerk LOGIN IN ROLE staff;
	CREATE ROLE renamed LOGIN;
	CREATE SCHEMA hidden;
	CREATE SCHEMA shelf;
	CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA shelf TO alice, staff, mallory, renamed;
	GRANT USAGE ON SCHEMA mallory TO PUBLIC;
	CREATE TABLE writers (relation text, who text);
	GRANT INSERT ON writers TO PUBLIC;
	CREATE FUNCTION note_writer() RETURNS trigger LANGUAGE plpgsql
	AS $$ BEGIN INSERT INTO public.writers VALUES (TG_TABLE_NAME, current_user); RETURN NULL; END $$;});
create_server($node, $simulator, options => { max_active_batches => 20 });
query('GRANT USAGE ON FOREIGN SERVER openai TO PUBLIC');

# name => who submits, what changes, the job's end, who has written
my %change = (
	select_gone => [ 'alice', 'REVOKE SELECT ON shelf.%s FROM alice', 'failed 42501', '' ],
	update_gone => [ 'alice', 'REVOKE UPDATE ON shelf.%s FROM alice', 'failed 42501', '' ],
	schema_gone => [ 'alice', 'ALTER TABLE shelf.%s SET SCHEMA hidden', 'failed 42501', '' ],
	membership_gone => [ 'clerk', 'REVOKE staff FROM clerk', 'failed 42501', '' ],
	renamed_role => [ 'renamed', 'ALTER ROLE renamed RENAME TO renamed_twice', 'done', 'renamed_twice' ],
	given_to_superuser => [ 'mallory', 'ALTER TABLE shelf.%s OWNER TO postgres', 'failed 42501', '' ],
	given_by_superuser => [ 'postgres', 'ALTER TABLE shelf.%s OWNER TO mallory', 'done', 'mallory' ],
	superuser_no_more => [ 'boss', 'ALTER ROLE boss NOSUPERUSER', 'failed 42501', '' ],
	rows_hidden => [ 'alice', 'ALTER TABLE shelf.%s ENABLE ROW LEVEL SECURITY', 'done', '' ],
	superuser_made => [ 'renamed', 'ALTER TABLE shelf.%s OWNER TO mallory; ALTER ROLE renamed_twice SUPERUSER', 'done', 'mallory' ]);
my %job;

$simulator->post('settings', { run_ms => 600000 });
foreach my $name (sort keys %change)
{
	query(
		qq{CREATE TABLE shelf.$name (id integer PRIMARY KEY, note text, department_llm text);
		INSERT INTO shelf.$name SELECT i, '$name ' || i FROM generate_series(1, 3) i;
		CREATE TRIGGER note_writer AFTER UPDATE ON shelf.$name FOR EACH ROW EXECUTE FUNCTION note_writer();});
	query("ALTER TABLE shelf.$name OWNER TO mallory") if $name eq 'given_to_superuser';
	query("GRANT SELECT, UPDATE ON shelf.$name TO staff") if $change{$name}[0] eq 'clerk';
	query("GRANT SELECT, UPDATE ON shelf.$name TO $change{$name}[0]") if $change{$name}[0] =~ /alice|renamed/;
	my ($number, $err) = as($change{$name}[0],
		"SELECT dess_batch_submit('shelf.$name', 'gpt-4o-mini', '{note}', server => 'openai')");
	like($number, qr/^\d+$/, "$name: submitted") or diag($err);
	$job{$name} = $number;
}
my $jobs = join ', ', values %job;
until_true("SELECT count(*) = @{[ scalar keys %change ]} FROM dess_batch_jobs WHERE job_id IN ($jobs) AND state = 'running'", 'all run');
query(sprintf($change{$_}[1], $_)) foreach sort keys %change;
$simulator->post('settings', { run_ms => 20 });
query("SELECT dess_batch_status(job_id) FROM dess_batch_jobs WHERE job_id IN ($jobs)");
foreach my $name (sort keys %change)
{
	my (undef, undef, $end, $writer) = @{ $change{$name} };

	wait_for_job($node, $job{$name});
	is(query("SELECT concat_ws(' ', state, error_code) FROM dess_batch_jobs WHERE job_id = $job{$name}"), $end, "$name: the job's end");
	is(query("SELECT string_agg(DISTINCT who, ' ') FROM writers WHERE relation = '$name'"), $writer,
		$writer eq '' ? 'nobody has written' : "$writer has written");
}
is(outcomes($node, $job{rows_hidden}), 'gone 3', 'rows that a policy hides are gone');
query('ALTER ROLE renamed_twice NOSUPERUSER');

# ---- code of a table's owner, while a superuser's job is at work

make('mallory', <<'SQL');
CREATE TABLE mallory.calls (place text, who text, succeeded text);
CREATE FUNCTION mallory.strike(place text) RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	statement text;
	outcome text := '';
BEGIN
	IF current_setting('application_name') <> 'dess_batch' THEN
		RETURN;
	END IF;
	FOREACH statement IN ARRAY ARRAY[
		'ALTER ROLE mallory SUPERUSER', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET SESSION AUTHORIZATION postgres',
		'SET CONSTRAINTS ALL DEFERRED; UPDATE mallory.later SET id = id',
		'SELECT pg_terminate_backend(pg_backend_pid())', 'SELECT pg_cancel_backend(pg_backend_pid())',
		'CREATE FUNCTION dess_batch.trap() RETURNS void LANGUAGE sql AS ''SELECT''', 'CREATE TABLE dess_batch.trap ()',
		'CREATE TEMPORARY TABLE trap ()', 'ALTER EXTENSION dess_batch ADD TABLE mallory.calls',
		'CREATE EVENT TRIGGER trap ON ddl_command_start EXECUTE FUNCTION mallory.row_trigger()',
		'SELECT * FROM dess_batch.job', 'DELETE FROM public.dess_batch_jobs', 'SELECT pg_read_file(''postgresql.conf'')',
		'COPY mallory.calls TO PROGRAM ''true''', 'COPY mallory.calls TO ''/tmp/trap''', 'ALTER SYSTEM SET dess_batch.allowed_hosts = ''*''',
		'SET session_replication_role = replica', 'SET dess_batch.enabled = off', 'LISTEN dess_batch', 'LOAD ''dess_batch''', 'PREPARE trap AS SELECT 1',
		'DECLARE trap CURSOR WITH HOLD FOR SELECT 1', 'CALL mallory.commits()', 'SELECT umoptions FROM pg_user_mapping',
		'SELECT lo_import(''postgresql.conf'')', 'DROP TABLE public.superusers', 'SELECT * FROM public.superusers']
	LOOP
		BEGIN
			EXECUTE statement;
			outcome := outcome || statement || ';';
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
	END LOOP;
	-- what is allowed must not last
	PERFORM set_config('search_path', 'mallory, pg_catalog', false), set_config('work_mem', '77MB', false),
		set_config('datestyle', 'German', false), pg_advisory_lock(4711);
	INSERT INTO mallory.calls VALUES (place, current_user, outcome);
EXCEPTION WHEN read_only_sql_transaction OR feature_not_supported THEN
	NULL;
END $$;
CREATE PROCEDURE mallory.commits() LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
CREATE FUNCTION mallory.row_trigger() RETURNS trigger LANGUAGE plpgsql
	AS $$ BEGIN PERFORM mallory.strike(TG_NAME); RETURN NEW; END $$;
CREATE TABLE mallory.later (id integer);
INSERT INTO mallory.later VALUES (1);
CREATE CONSTRAINT TRIGGER at_commit AFTER UPDATE ON mallory.later DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION mallory.row_trigger();
CREATE FUNCTION mallory.generated(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
	AS $$ BEGIN PERFORM mallory.strike('generated'); RETURN $1; END $$;
CREATE FUNCTION mallory.indexed(text) RETURNS text IMMUTABLE LANGUAGE plpgsql
	AS $$ BEGIN PERFORM mallory.strike('index'); RETURN $1; END $$;
CREATE FUNCTION mallory.checked(text) RETURNS boolean LANGUAGE plpgsql
	AS $$ BEGIN PERFORM mallory.strike('check'); RETURN true; END $$;
CREATE FUNCTION mallory.wanted(integer) RETURNS boolean STABLE LANGUAGE plpgsql
	AS $$ BEGIN PERFORM mallory.strike('policy'); RETURN true; END $$;
CREATE TYPE mallory.pair AS (a text, b text);
CREATE FUNCTION mallory.rendered(mallory.pair) RETURNS text LANGUAGE plpgsql
	AS $$ BEGIN PERFORM mallory.strike('cast'); RETURN 'cast'; END $$;
CREATE CAST (mallory.pair AS text) WITH FUNCTION mallory.rendered(mallory.pair) AS IMPLICIT;
CREATE TABLE mallory.trap (id integer PRIMARY KEY, note text, shown mallory.pair, department_llm text CHECK (mallory.checked(department_llm)));
ALTER TABLE mallory.trap ADD doubled text GENERATED ALWAYS AS (mallory.generated(department_llm)) STORED;
CREATE INDEX ON mallory.trap (mallory.indexed(department_llm));
INSERT INTO mallory.trap SELECT i, 'trap ' || i, ROW('a', 'b')::mallory.pair FROM generate_series(1, 3) i;
ALTER TABLE mallory.trap ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY p ON mallory.trap USING (mallory.wanted(id));
CREATE TRIGGER before_row BEFORE UPDATE ON mallory.trap FOR EACH ROW EXECUTE FUNCTION mallory.row_trigger();
SQL
query(
	q{CREATE TABLE superusers (id integer PRIMARY KEY, note text, department_llm text, seen text);
	INSERT INTO superusers VALUES (1, 'mine');});
foreach my $mode ('batch', 'online')
{
	query('UPDATE mallory.trap SET department_llm = NULL') if $mode eq 'online';
	query('SELECT pg_advisory_unlock_all(); TRUNCATE mallory.calls');
	my $trapped = submit_job($node, "'mallory.trap', 'gpt-4o-mini', '$mode {note} {shown}', server => 'openai', mode => '$mode'");
	is(wait_for_job($node, $trapped), 'done', "$mode: a superuser's job on a stranger's table is done");
	is(outcomes($node, $trapped), 'ok 3', 'with all its rows');
	like(query(q{SELECT string_agg(DISTINCT place, ' ' ORDER BY place) FROM mallory.calls}), qr/^before_row (cast )?check generated index policy$/,
		"the stranger's code did run");
	is(query(q{SELECT string_agg(DISTINCT who, ' ') FROM mallory.calls}), 'mallory', 'as the stranger');
	is(query(q{SELECT string_agg(DISTINCT succeeded, ' ') FROM mallory.calls}), '', 'and nothing that it tried has succeeded');
	is(query('SELECT pg_try_advisory_lock(4711)'), 't', 'an advisory lock that it took is not held on');
}
is(query(q{SELECT rolsuper FROM pg_roles WHERE rolname = 'mallory'}), 'f', 'the stranger is no superuser');
query(
	q{CREATE FUNCTION settings() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN NEW.seen := concat_ws(' ', current_setting('search_path'), current_setting('work_mem'), current_setting('datestyle')); RETURN NEW; END $$;
	CREATE TRIGGER settings BEFORE UPDATE ON superusers FOR EACH ROW EXECUTE FUNCTION settings();});
my $mine = submit_job($node, "'superusers', 'gpt-4o-mini', '{note}', server => 'openai'");
is(wait_for_job($node, $mine), 'done', "the superuser's own table is next");
is(query('SELECT seen FROM superusers'), 'pg_catalog, pg_temp ' . query('SHOW work_mem') . ' ISO, YMD', 'under none of the settings that the stranger made');

# ---- a table that changes hands while the worker waits for its lock

query(
	q{CREATE TABLE handed (id integer PRIMARY KEY, note text, department_llm text);
	INSERT INTO handed SELECT i, 'handed ' || i FROM generate_series(1, 3) i;});
make('mallory',
	q{CREATE FUNCTION mallory.escalate() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN INSERT INTO public.writers VALUES (TG_TABLE_NAME, current_user); RETURN NULL; END $$;});
$simulator->post('settings', { run_ms => 600000 });
my $handed = submit_job($node, "'handed', 'gpt-4o-mini', '{note}', server => 'openai'");
until_true("SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $handed", 'it runs');
my $giver = DessBatch::Session->new($node);
my $taker = DessBatch::Session->new($node, user => 'mallory');
$giver->query('BEGIN; ALTER TABLE handed OWNER TO mallory');
$taker->start('CREATE TRIGGER escalate AFTER UPDATE ON handed FOR EACH ROW EXECUTE FUNCTION mallory.escalate()');
until_true(qq{SELECT count(*) = 1 FROM pg_locks WHERE pid = @{[ $taker->pid ]} AND NOT granted}, 'the new owner waits with a trigger');
$simulator->post('settings', { run_ms => 20 });
query("SELECT dess_batch_status($handed)");
# nothing waits between the look and the commit
$giver->query(
	q{DO $$
	DECLARE
		due timestamptz := clock_timestamp() + interval '1 minute';
	BEGIN
		WHILE clock_timestamp() < due AND NOT EXISTS (SELECT FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE a.backend_type = 'dess_batch worker' AND NOT l.granted AND l.relation = 'handed'::regclass)
		LOOP
			PERFORM pg_stat_clear_snapshot();
		END LOOP;
	END $$;
	COMMIT});
$taker->finish;
is(wait_for_job($node, $handed), 'done', 'a table that changes hands while the worker waits for its lock');
is(query(q{SELECT string_agg(DISTINCT who, ' ') FROM writers WHERE relation = 'handed'}), 'mallory',
	'is written as the new owner, with whose trigger it comes');
$_->close foreach $giver, $taker;

# ---- addresses that a reply names

my $elsewhere = IO::Socket::INET->new(Listen => 16, LocalAddr => '127.0.0.1') or die "could not listen: $!";
my $port = $elsewhere->sockport;

# What the first that came has said, within some seconds, and is sent away; undef: nobody came.
sub visitor
{
	my ($seconds) = @_;
	my $text = '';

	return undef unless IO::Select->new($elsewhere)->can_read($seconds);
	my $peer = $elsewhere->accept;
	sysread($peer, $text, 65536) if IO::Select->new($peer)->can_read($seconds);
	syswrite($peer, "HTTP/1.1 410 Gone\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
	shutdown($peer, 1);
	1 while IO::Select->new($peer)->can_read($seconds) && sysread($peer, my $rest, 65536);
	close $peer;
	return $text;
}

query(
	q{CREATE TABLE routed (id integer PRIMARY KEY, note text, department_llm text);
	INSERT INTO routed SELECT i, 'routed ' || i FROM generate_series(1, 3) i;});
my %session = (
	gemini => [ 'x-goog-upload-url', '/upload/v1beta/files', qr/^x-goog-api-key/mi ],
	vertex => [ 'location', '/upload/storage/*', qr/^authorization/mi ]);
foreach my $provider (sort keys %session)
{
	my ($header, $path, $secret) = @{ $session{$provider} };
	my $arguments = "'routed', 'gemini-3.5-flash', '$provider {note}', server => '$provider', overwrite => true";

	create_server($node, $simulator, name => $provider, provider => $provider);
	$simulator->post('faults', { match => { method => 'POST', path => $path }, times => 1, status => 200,
		headers => { $header => "http://127.0.0.1:$port/session?secret=1" }, body => '' });
	my $routed = submit_job($node, $arguments);
	my $request = visitor(60);
	like($request, qr{^P\w+ /session\?secret=1}, "$provider: an upload session elsewhere is followed");
	unlike($request, $secret, 'but is not told the secret');
	is(wait_for_job($node, $routed), 'done', 'the job begins another one, and is done');
	is(scalar @{ $simulator->get("requests?limit=20000&path=$path")->{requests} } > 1, 1, 'which it was sent to');

	query(q{ALTER SYSTEM SET dess_batch.allowed_hosts = '127.0.0.1'; SELECT pg_reload_conf()});
	until_true(q{SELECT current_setting('dess_batch.allowed_hosts') = '127.0.0.1'}, 'the setting is read');
	$simulator->post('faults', { match => { method => 'POST', path => $path }, status => 200,
		headers => { $header => "http://localhost:$port/session?secret=2" }, body => '' });
	$routed = submit_job($node, $arguments);
	until_true("SELECT EXISTS (SELECT FROM dess_batch_explain($routed) e WHERE e LIKE '%host \"localhost\" is not among those of dess_batch.allowed_hosts%')",
		'explain says which host is not allowed');
	is(visitor(0), undef, 'nobody came there');
	unlike(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($routed) e"), qr/secret=/, 'the address of the session is not shown');
	$simulator->post('faults/clear');
	query('ALTER SYSTEM RESET dess_batch.allowed_hosts; SELECT pg_reload_conf()');
	is(wait_for_job($node, $routed), 'failed', 'the job has failed for it');
	query("SELECT dess_batch_retry($routed)");
	is(wait_for_job($node, $routed), 'done', 'and goes on where it may');
}

# a redirection
foreach my $mode ('batch', 'online')
{
	$simulator->post('faults', { match => { method => 'POST' }, times => 1, status => 307,
		headers => { location => "http://127.0.0.1:$port/elsewhere" }, body => '' });
	my $redirected = submit_job($node, "'routed', 'gpt-4o-mini', '$mode redirected {note}', server => 'openai', overwrite => true, mode => '$mode'");
	wait_for_job($node, $redirected);
	is($simulator->get('faults')->[0]{fired}, 1, "$mode: the provider sends a request elsewhere");
	is(visitor(0), undef, 'where nobody came');
	$simulator->post('faults/clear');
}

# whoever owns a server is not sent inside by any spelling of an address
query('GRANT USAGE ON FOREIGN DATA WRAPPER dess_batch TO mallory');
foreach my $address ('https://[::ffff:169.254.169.254]', 'https://[::ffff:7f00:1]', 'https://[fe80::1%25lo]', 'https://[64:ff9b::7f00:1]', 'https://[64:ff9b::169.254.169.254]',
	'https://2852039166', 'https://0xA9FEA9FE', 'https://0251.0376.0251.0376', 'https://169.254.169.254.', 'https://127.0.0.1.', 'https://%31%32%37.0.0.1',
	'https://0', 'https://[fd00:ec2::254]', 'https://[fd20:ce::254]', 'https://100.100.100.200', 'https://localhost.:443', 'https://x.localhost.')
{
	refused('mallory', "CREATE SERVER \"$address\" FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url '$address/v1')",
		'42501', 'permission denied for the address', "$address is for superusers");
}
foreach my $address ('https://me@example.com', 'https://127.0.0.1\@example.com', "https://127\x{3002}0.0.1", 'https://exa%00mple.com', 'https://example.com:99999')
{
	my $text = $address;

	utf8::encode($text);
	refused('mallory', "CREATE SERVER nobodys FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url '$text/v1')",
		'(22023|42501)', 'option "base_url"', "$text is for nobody");
}

$node->stop;
$simulator->stop;
done_testing();
