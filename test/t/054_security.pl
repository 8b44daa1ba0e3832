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
	FROM pg_proc p WHERE p.oid IN ($members 'pg_proc'::regclass)}), 't|',
	'everybody may call its functions, whatever the default privileges say');
is(query(q{SELECT count(*) FROM pg_namespace n, aclexplode(n.nspacl) a WHERE n.nspname = 'dess_batch' AND a.grantee <> n.nspowner}), 0,
	'nobody has rights on the schema of the ledger');
is(query(q{SELECT count(*) FROM pg_foreign_data_wrapper w, aclexplode(w.fdwacl) a WHERE w.fdwname = 'dess_batch' AND a.grantee <> w.fdwowner}), 0,
	'nor may anybody create servers');
is(query(qq{SELECT string_agg(c.oid::regclass::text, ', ') FROM pg_class c WHERE c.oid IN ($members 'pg_class'::regclass) AND c.relkind = 'v'
	AND c.relnamespace = 'public'::regnamespace AND (pg_relation_is_updatable(c.oid, true) <> 0 OR NOT 'security_barrier=true' = ANY (c.reloptions))}), '',
	'no view can be written through, even by who was granted everything, and all are barriers');

$node->stop;
$simulator->stop;
done_testing();
