--
-- dess_batch_submit: every argument, as it is checked and as it is kept
--
-- No worker acts here (dess_batch.enabled is off), so a job stays as it was
-- written.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dess_batch;
RESET client_min_messages;
SHOW dess_batch.enabled;

CREATE SCHEMA submit;
CREATE ROLE regress_dess_app;
CREATE ROLE regress_dess_other;
GRANT USAGE ON SCHEMA submit TO regress_dess_app, regress_dess_other;

-- shows an error with all its parts, without the numbers of jobs
CREATE PROCEDURE submit.refused(command text)
LANGUAGE plpgsql
AS $$
DECLARE
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command;
	RAISE INFO 'accepted';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
	message := regexp_replace(message, '\mjob \d+', 'job N');
	detail := regexp_replace(detail, '\m([Jj])ob \d+', '\1ob N');
	hint := regexp_replace(hint, '\d+(?=\))', 'N');
	IF detail <> '' AND hint <> '' THEN
		RAISE INFO '%: %', SQLSTATE, message USING DETAIL = detail, HINT = hint;
	ELSIF detail <> '' THEN
		RAISE INFO '%: %', SQLSTATE, message USING DETAIL = detail;
	ELSIF hint <> '' THEN
		RAISE INFO '%: %', SQLSTATE, message USING HINT = hint;
	ELSE
		RAISE INFO '%: %', SQLSTATE, message;
	END IF;
END
$$;
GRANT EXECUTE ON PROCEDURE submit.refused(text) TO PUBLIC;

-- arguments of a job as they were resolved, only those that were asked for
CREATE FUNCTION submit.args(job bigint, VARIADIC names text[])
RETURNS SETOF text
LANGUAGE sql
AS $$
	SELECT n || ': ' || coalesce(args ->> n, 'null')
	FROM dess_batch_jobs, unnest(names) WITH ORDINALITY AS u(n, i) WHERE job_id = job ORDER BY i
$$;

CREATE SERVER regress_dess_a FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1', models 'gpt-4o*,gpt-5*');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess_a OPTIONS (api_key 'sk-regress');

CREATE TABLE submit.faculty (
	id				integer PRIMARY KEY,
	id_text			text NOT NULL,
	firstname		text,
	lastname		text,
	university		text,
	snippet_2		text,
	snippet_1		text,
	snippet_10		text,
	notes			text,
	department_llm	text,
	department_old	text
);
INSERT INTO submit.faculty VALUES
	(1, 'Ada Byron x', 'Ada', 'Byron', 'x', 'second', 'Ada Byron, Department of Mathematics', NULL, NULL, NULL, 'Maths');
SET search_path = submit, public;
\pset format unaligned
\pset tuples_only on

-- ---------------------------------------------------------------- defaults
SELECT dess_batch_submit('faculty', 'gpt-4o-mini') AS job \gset
SELECT source, target, model, server, mode, state, rows, done, failed, pending, label, owner = session_user, submitted_by = session_user,
	error, started_at IS NULL, finished_at IS NULL
FROM dess_batch_jobs WHERE job_id = :job;
SELECT key || ': ' || value FROM dess_batch_jobs, jsonb_each(args - 'system_prompt') WHERE job_id = :job ORDER BY key COLLATE "C";
SELECT count(*) FROM dess_batch_batches WHERE job_id = :job;
SELECT count(*) FROM dess_batch_rows WHERE job_id = :job;

-- ------------------------------------------------------------ nulls, values
CALL refused($$ SELECT dess_batch_submit(NULL, 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', NULL) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', mode => 'fast') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', mode => NULL) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', mode => 'Batch') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', keep => 'all') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', keep => NULL) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_rows => 0) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_rows => -1) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', sample => true) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', sample => true, max_rows => 100000000) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_failed => -0.1) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_failed => 1.1) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_failed => 'NaN') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_failed => 'Infinity') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-nobody', max_cost => 5) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_cost => -0.01) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_cost => 'NaN') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', max_cost => 'Infinity') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{good}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{superseded}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{pending}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{ok,NULL}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{ok}', sample => true, max_rows => 5) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', input_columns => '{}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', input_columns => '{notes,NULL}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', input_columns => '{notes,snippet_3}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', input_columns => '{notes,notes}') $$);

-- what is given is kept
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', mode => 'online', keep => 'reply', max_rows => 7, sample => true,
	max_failed => 0.25, label => 'März', overwrite => true, where_sql => 'true', system_prompt => 'Be brief.',
	prompt => 'Where is {firstname} {lastname}?', missing => 'NOT SAID', outcomes => NULL) AS job \gset
SELECT key || ': ' || value FROM dess_batch_jobs, jsonb_each(args) WHERE job_id = :job ORDER BY key COLLATE "C";
SELECT label, mode FROM dess_batch_jobs WHERE job_id = :job;
SELECT prompt_sha256 = encode(sha256(E'Be brief.\nWhere is {firstname} {lastname}?'), 'hex') FROM dess_batch_jobs WHERE job_id = :job;
-- a label is for reading: one that is too long is refused; bytes count
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', label => repeat('x', 1001)) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', label => repeat('ä', 501)) $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o' || repeat('x', 1000)) $$);
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Where is {firstname}?') AS job \gset
SELECT prompt_sha256 = encode(sha256('Where is {firstname}?'), 'hex') FROM dess_batch_jobs WHERE job_id = :job;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', outcomes => '{lost,changed,expired}', max_failed => 1, max_rows => 1) AS job \gset
SELECT args(:job, 'outcomes', 'max_failed', 'max_rows', 'sample');
-- nulls of arguments that have a default
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', overwrite => NULL, sample => NULL, parameters => NULL, max_failed => NULL) AS job \gset
SELECT args(:job, 'overwrite', 'sample', 'parameters', 'max_failed');
-- the built-in prompt takes further instructions
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', system_prompt => 'Prefer German names.') AS job \gset
SELECT right(args ->> 'system_prompt', 80) FROM dess_batch_jobs WHERE job_id = :job;

-- --------------------------------------------------------------- the source
CREATE VIEW faculty_view AS SELECT * FROM faculty;
CREATE MATERIALIZED VIEW faculty_matview AS SELECT * FROM faculty;
CREATE SEQUENCE faculty_sequence;
CREATE TEMPORARY TABLE faculty_temp (id int PRIMARY KEY, a text, department_llm text);
CREATE UNLOGGED TABLE faculty_unlogged (id int PRIMARY KEY, a text, department_llm text);
CALL refused($$ SELECT dess_batch_submit('faculty_view', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('faculty_matview', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('faculty_sequence', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('faculty_pkey', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('faculty_temp', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('pg_class', 'gpt-4o-mini', '{relname}', 'relname') $$);
CALL refused($$ SELECT dess_batch_submit('no_such_table', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit(4294967295::regclass, 'gpt-4o-mini') $$);
SELECT dess_batch_submit('faculty_unlogged', 'gpt-4o-mini') AS job \gset

-- --------------------------------------------------------------- the target
CREATE TABLE "My Faculty" (
	"Id"		bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	"Full Name"	text,
	"Answer"	text,
	length		integer GENERATED ALWAYS AS (length("Full Name")) STORED,
	serial		bigint GENERATED ALWAYS AS IDENTITY
);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => 'department_gpt') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => 'Department LLM') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => 'DEPARTMENT_LLM') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => 'ctid') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => 'id') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', target => 'length') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', target => 'serial') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', target => 'Id') $$);
-- the hint of the first error is SQL that helps
ALTER TABLE submit.faculty ADD COLUMN department_gpt text;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => 'department_gpt') AS job \gset
-- names are literal
SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', 'Who is {Full Name}?', 'Answer') AS job \gset
SELECT source, target, args ->> 'source' FROM dess_batch_jobs WHERE job_id = :job;
-- a trial is written nowhere
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', target => NULL) AS job \gset
SELECT target IS NULL, args ->> 'target' IS NULL FROM dess_batch_jobs WHERE job_id = :job;
-- columns that are or were targets are not what {row} shows
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}') AS job \gset

-- types of targets, and the word for nothing
CREATE TYPE colour AS ENUM ('red', 'green', 'MISSING');
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE DOMAIN short AS varchar(3);
CREATE DOMAIN shouted AS text CHECK (value = upper(value));
CREATE TABLE typed (
	id		integer PRIMARY KEY,
	a		text,
	text_	text,
	v3		varchar(3),
	v7		varchar(7),
	c10		char(10),
	colour	colour,
	mood	mood,
	int_	integer,
	num		numeric(6,2),
	bool_	boolean,
	date_	date,
	jsonb_	jsonb,
	json_	json,
	texts	text[],
	ints	integer[],
	short	short,
	shouted	shouted,
	uuid_	uuid,
	bytea_	bytea,
	point_	point,
	row_	faculty
);
CREATE FUNCTION missing_of(target name) RETURNS text
LANGUAGE plpgsql AS $$
DECLARE
	made bigint;
BEGIN
	made := dess_batch_submit('submit.typed', 'gpt-4o-mini', '{a}', target);
	RETURN coalesce(args ->> 'missing', 'null') FROM dess_batch_jobs WHERE job_id = made;
EXCEPTION WHEN OTHERS THEN
	RETURN SQLSTATE || ': ' || SQLERRM;
END
$$;
SET client_min_messages = warning;
SELECT attname || ' ' || format_type(atttypid, atttypmod) || ': ' || missing_of(attname)
FROM pg_attribute WHERE attrelid = 'typed'::regclass AND attnum > 2 ORDER BY attnum;
RESET client_min_messages;
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'row_') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'v3', missing => 'NONE') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'mood', missing => 'unknown') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'int_', missing => 'none') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'jsonb_', missing => 'none') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'short', missing => 'none') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'shouted', missing => 'none') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'texts', missing => 'none') $$);
-- canceled is not the same as not taken
CREATE FUNCTION waits(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN true; END';
CREATE DOMAIN slow AS text CHECK (waits(value));
CREATE TABLE slowly_typed (id integer PRIMARY KEY, a text, slow slow);
SET statement_timeout = '100ms';
\set VERBOSITY sqlstate
SELECT dess_batch_submit('slowly_typed', 'gpt-4o-mini', '{a}', 'slow');
\set VERBOSITY default
RESET statement_timeout;
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'v3', missing => 'n/a') AS job \gset
SELECT args(:job, 'missing');
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'int_', missing => '-1') AS job \gset
SELECT args(:job, 'missing');
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'jsonb_', missing => '"none"') AS job \gset
SELECT args(:job, 'missing');
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'text_', missing => NULL) AS job \gset
SELECT args(:job, 'missing');

-- target_columns: one answer for several columns
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '[]') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => 'null') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '"text_"') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"colour": 1}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"colour": "color"}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"$job": "job"}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"$cost": "num"}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"a": "text_", "b": "text_"}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"a": "id"}') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', '{Full Name}', target_columns => '{"a": "serial"}') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', '{Full Name}', target_columns => '{"a": "length"}') $$);
-- properties need answers in JSON: a schema, or words that ask for it
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"colour": "colour", "it''s \"n\"": "int_", "$job": "num"}') $$);
CALL refused($$ SELECT dess_batch_submit('typed', 'gpt-4o-mini', target_columns => '{"colour": "colour"}') $$);
SELECT count(dess_batch_submit('typed', 'gpt-4o-mini', prompt, target_columns => '{"colour": "colour"}', system_prompt => system, parameters => parameters::jsonb)) AS accepted
FROM (VALUES ('{a} as Json', NULL, '{}'), ('{a}', 'Answer in JSON.', '{}'),
	('{a}', NULL, '{"extra": {"response_format": {"type": "json_object"}}}')) v(prompt, system, parameters);
-- target is ignored, even one that is not there
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a} in JSON', 'no_such_column',
	target_columns => '{"colour": "colour", "n": "int_", "$answer": "text_", "$outcome": "v7", "$job": "num", "$model": "c10"}') AS job \gset
SELECT target FROM dess_batch_jobs WHERE job_id = :job;
SELECT args(:job, 'target', 'target_columns', 'missing');
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', target_columns => '{"$answer": "text_"}') AS job \gset
SELECT target FROM dess_batch_jobs WHERE job_id = :job;

-- ------------------------------------------------------------------ the key
CREATE FUNCTION key_of(source regclass, key name[] DEFAULT NULL, OUT key_of text)
LANGUAGE plpgsql AS $$
DECLARE
	made bigint;
BEGIN
	made := dess_batch_submit(source, 'gpt-4o-mini', '{a}', 'b', key);
	key_of := args ->> 'key' FROM dess_batch_jobs WHERE job_id = made;
	DELETE FROM dess_batch.job WHERE id = made;
END
$$;
SET client_min_messages = warning;
CREATE TABLE key_int (a text, b text, k integer PRIMARY KEY);
SELECT key_of('key_int');
CREATE TABLE key_bigint (k bigint PRIMARY KEY, a text, b text);
SELECT key_of('key_bigint');
CREATE TABLE key_text (k text PRIMARY KEY, a text, b text);
SELECT key_of('key_text');
CREATE TABLE key_uuid (k uuid PRIMARY KEY, a text, b text);
SELECT key_of('key_uuid');
CREATE TABLE key_several (k date, l text, m integer, a text, b text, PRIMARY KEY (m, k, l));
SELECT key_of('key_several');
SELECT key_of('key_several', '{l,m,k}');
CREATE TABLE "key Quoted" ("K, ""1""" integer, k integer, a text, b text, PRIMARY KEY ("K, ""1""", k));
SELECT key_of('"key Quoted"');
SELECT key_of('"key Quoted"', ARRAY['k', 'K, "1"']);
-- an index on NOT NULL columns, the one with the fewest columns
CREATE TABLE key_index (k integer NOT NULL, l integer NOT NULL, m integer UNIQUE, a text, b text);
CREATE UNIQUE INDEX ON key_index (k, l);
SELECT key_of('key_index');
CREATE UNIQUE INDEX ON key_index (l);
SELECT key_of('key_index');
SELECT key_of('key_index', '{l,k}');
CREATE TABLE key_include (k integer NOT NULL, l integer NOT NULL, a text, b text);
CREATE UNIQUE INDEX ON key_include (k) INCLUDE (l);
SELECT key_of('key_include');
-- the primary key first, whatever its width
CREATE TABLE key_both (k integer, l integer, m integer NOT NULL UNIQUE, a text, b text, PRIMARY KEY (k, l));
SELECT key_of('key_both');
SELECT key_of('key_both', '{m}');
CREATE TABLE key_parts (k integer, p integer, a text, b text, PRIMARY KEY (k, p)) PARTITION BY LIST (p);
CREATE TABLE key_parts_1 PARTITION OF key_parts FOR VALUES IN (1);
SELECT key_of('key_parts');
SELECT key_of('key_parts_1');
-- other types
CREATE TABLE key_kinds (k bytea, l boolean, m timestamptz, n numeric, o float8, p colour, q short, r int4range, s integer[], t jsonb,
	a text, b text, PRIMARY KEY (k, l, m, n, o, p, q, r, s, t));
SELECT key_of('key_kinds');
RESET client_min_messages;
-- what cannot be a key
CREATE TABLE key_none (id integer, a text, b text);
CALL refused($$ SELECT key_of('key_none') $$);
CREATE TABLE "key None" (k integer, a text, b text);
CALL refused($$ SELECT key_of('"key None"') $$);
CREATE TABLE key_null (k integer UNIQUE, a text, b text);
CALL refused($$ SELECT key_of('key_null') $$);
CALL refused($$ SELECT key_of('key_null', '{k}') $$);
CREATE TABLE key_partial (k integer NOT NULL, a text, b text);
CREATE UNIQUE INDEX ON key_partial (k) WHERE k > 0;
CALL refused($$ SELECT key_of('key_partial', '{k}') $$);
CREATE TABLE key_expression (k text NOT NULL, a text, b text);
CREATE UNIQUE INDEX ON key_expression (lower(k));
CALL refused($$ SELECT key_of('key_expression') $$);
CREATE TABLE key_deferrable (k integer PRIMARY KEY DEFERRABLE, a text, b text);
CALL refused($$ SELECT key_of('key_deferrable') $$);
CREATE TABLE key_composite (k faculty PRIMARY KEY, a text, b text);
CALL refused($$ SELECT key_of('key_composite') $$);
CALL refused($$ SELECT key_of('key_both', '{k}') $$);
CALL refused($$ SELECT key_of('key_both', '{K}') $$);
CALL refused($$ SELECT key_of('key_both', '{m,m}') $$);
CALL refused($$ SELECT key_of('key_both', '{}') $$);
CALL refused($$ SELECT key_of('key_both', '{m,NULL}') $$);
CREATE TABLE key_plain (k integer NOT NULL, a text, b text);
CALL refused($$ SELECT key_of('key_plain', '{k}') $$);
-- the hint is SQL that helps
ALTER TABLE submit.key_plain ADD UNIQUE (k);
CALL refused($$ SELECT key_of('key_plain', '{k}') $$);

-- a foreign table does not tell its key
CREATE EXTENSION postgres_fdw SCHEMA submit;
CREATE SERVER regress_dess_remote FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess_remote;
CREATE FOREIGN TABLE key_foreign (k integer, l point, a text, b text) SERVER regress_dess_remote;
CALL refused($$ SELECT key_of('key_foreign') $$);
CALL refused($$ SELECT key_of('key_foreign', '{l}') $$);
SELECT key_of('key_foreign', '{k}');

-- jobs in flight on the same target use the same key
CREATE TABLE key_two (k integer PRIMARY KEY, l integer NOT NULL UNIQUE, a text, b text, c text);
SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a}', 'b') AS job \gset
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a}', 'b', '{l}') $$);
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a}', 'b', '{k}') $$);
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a}', 'c', '{l}') $$);
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a}', NULL, '{l}') $$);
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a}', NULL, '{k}') $$);
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a} in JSON', target_columns => '{"x": "b"}', key => '{l}') $$);
CALL refused($$ SELECT dess_batch_submit('key_two', 'gpt-4o-mini', '{a} in JSON', target_columns => '{"x": "b", "y": "c"}', key => '{l}') $$);

-- --------------------------------------------------------------- the prompt
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Where is {first_name}?') $$);
CALL refused($$ SELECT dess_batch_submit('"My Faculty"', 'gpt-4o-mini', 'Where is {full name}?', 'Answer') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Where is { firstname }?') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Where is {Row}?') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Wo ist März {firstname?') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Wo ist März firstname}?') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Answer {} {firstname}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Answer as {"department": "..."} {firstname}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Who is who?') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', 'Who {{is}} who?') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '') $$);
CREATE TABLE no_input (id integer PRIMARY KEY, department_llm text);
CALL refused($$ SELECT dess_batch_submit('no_input', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('no_input', 'gpt-4o-mini', '{row}') $$);
CALL refused($$ SELECT dess_batch_submit('no_input', 'gpt-4o-mini', '{id}') $$);

-- ---------------------------------------------------------------- where_sql
\pset tuples_only off
\set SHOW_CONTEXT always
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'nots IS NULL');
\echo :LAST_ERROR_SQLSTATE
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id >');
\echo :LAST_ERROR_SQLSTATE
\set SHOW_CONTEXT errors
\pset tuples_only on
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => '') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id > 1; DROP TABLE faculty') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id > 1 ORDER BY id') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id > 1 LIMIT 5') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'true UNION SELECT 1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'true FOR UPDATE') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'true GROUP BY id') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id > 1) OR (true') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'random() < 0.1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id IN (SELECT (random() * 10)::int)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'count(*) > 1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'row_number() OVER () > 1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'generate_series(1, id) > 1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id = $1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id IN (WITH x AS (DELETE FROM typed RETURNING id) SELECT id FROM x)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id IN (SELECT id FROM typed FOR UPDATE)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id IN (SELECT id FROM faculty_temp)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'id IN (SELECT id FROM no_such_table)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => 'no_such_function(id)') $$);
-- comments and line ends are harmless
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', where_sql => E'id > 1 -- only these\n  AND /* and */ notes IS NULL -- or not') AS job \gset
SELECT args(:job, 'where_sql');
-- it means the same whatever the search path is
CREATE SCHEMA submit_2;
CREATE FUNCTION is_wanted(n integer) RETURNS boolean LANGUAGE sql STABLE RETURN n = 1;
CREATE FUNCTION submit_2.is_wanted(n integer) RETURNS boolean LANGUAGE sql STABLE RETURN false;
CREATE TABLE submit_2.typed (id integer, a text);
CREATE FUNCTION submit_2.same(integer, integer) RETURNS boolean LANGUAGE sql IMMUTABLE RETURN false;
CREATE OPERATOR submit_2.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = submit_2.same);
SELECT dess_batch_submit('faculty', 'gpt-4o-mini',
	where_sql => $$is_wanted(id) AND id NOT IN (SELECT t.id FROM typed t WHERE t.mood = 'sad') AND faculty.notes IS NULL AND id OPERATOR(submit_2.=) 1$$) AS job \gset
SELECT args(:job, 'where_sql');
SET search_path = submit_2, public;
SELECT submit.args(:job, 'where_sql');
RESET search_path;
SELECT submit.args(:job, 'where_sql');
-- nor the format of dates
SET search_path = submit, public;
SET datestyle = 'German';
SELECT dess_batch_submit('typed', 'gpt-4o-mini', '{a}', 'text_', where_sql => $$date_ < '03.10.1990' AND a COLLATE "C" > 'x'$$) AS job \gset
SELECT args(:job, 'where_sql');
RESET datestyle;
SELECT args(:job, 'where_sql');

-- -------------------------------------------- response_schema and parameters
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}', response_schema => '[]') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}', response_schema => 'null') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}', response_schema => '"string"') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}', response_schema => '{"type": "string"}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}', response_schema => '{"type": "object", "properties": {"a": {"type": "string"}}}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '[]') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '1') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => 'null') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"max_tokens": 5}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"temperature": "0"}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"temperature": true}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"temperature": 3}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"temperature": -1}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"top_p": 2}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"seed": 1.5}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"max_output_tokens": 0}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"max_output_tokens": 1.5}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"max_output_tokens": 99999999999999999999}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"reasoning_effort": 1}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-5', parameters => '{"reasoning_effort": "much"}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-5', parameters => '{"temperature": 0}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"extra": []}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"extra": {"messages": []}}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"extra": {"model": "gpt-5"}}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"extra": {"stream": true}}') $$);
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', parameters => '{"temperature": 0.20, "top_p": 1, "seed": 7, "max_output_tokens": 30, "extra": {"user": "me"}}') AS job \gset
SELECT args(:job, 'parameters');
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{row}', response_schema => '{"type": "object", "required": ["b", "a"], "additionalProperties": false, "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}') AS job \gset
SELECT args(:job, 'response_schema');

-- --------------------------------------------------------- model and server
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-3.5-turbo', server => 'no_such_server') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'llama-4') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', '') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', server => 'Regress_dess_a') $$);
-- a server that is named need not list the model
SELECT dess_batch_submit('faculty', 'llama-4', server => 'regress_dess_a') AS job \gset
SELECT model, server FROM dess_batch_jobs WHERE job_id = :job;
-- superusers have a built-in server, whose secret may come later
SET client_min_messages = error;
SELECT dess_batch_submit('faculty', 'gpt-3.5-turbo') AS job \gset
SELECT model, server FROM dess_batch_jobs WHERE job_id = :job;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', server => '(built-in openai)') AS job \gset
RESET client_min_messages;
-- two that serve the model
CREATE SERVER regress_dess_b FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1', models 'gpt-*');
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini') $$);
SET client_min_messages = error;
SELECT dess_batch_submit('faculty', 'gpt-4.1') AS job \gset
SELECT model, server FROM dess_batch_jobs WHERE job_id = :job;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', server => 'regress_dess_b') AS job \gset
SELECT model, server FROM dess_batch_jobs WHERE job_id = :job;
RESET client_min_messages;
DROP SERVER regress_dess_b;
-- one of another wrapper
CREATE FOREIGN DATA WRAPPER regress_dess_fdw;
CREATE SERVER regress_dess_c FOREIGN DATA WRAPPER regress_dess_fdw;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', server => 'regress_dess_c') $$);
DROP FOREIGN DATA WRAPPER regress_dess_fdw CASCADE;
-- a budget of the server's needs a price as well
ALTER SERVER regress_dess_a OPTIONS (ADD max_cost_per_day '10');
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-nobody') $$);
ALTER SERVER regress_dess_a OPTIONS (DROP max_cost_per_day);

-- --------------------------------------------------------------- privileges
SET ROLE regress_dess_app;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', server => 'regress_dess_a') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', server => '(built-in openai)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-3.5-turbo') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'llama-4') $$);
RESET ROLE;
GRANT USAGE ON FOREIGN SERVER regress_dess_a TO regress_dess_app;
SET ROLE regress_dess_app;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname} {notes}') $$);
RESET ROLE;
GRANT SELECT (id, department_llm, firstname) ON faculty TO regress_dess_app;
SET ROLE regress_dess_app;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname} {notes}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname}') $$);
RESET ROLE;
GRANT UPDATE (department_llm) ON faculty TO regress_dess_app;
SET ROLE regress_dess_app;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname} {notes}') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname}', where_sql => 'notes IS NULL') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname}', where_sql => 'id IN (SELECT id FROM typed)') $$);
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname} in JSON', target_columns => '{"a": "department_llm", "b": "department_gpt"}') $$);
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname}', where_sql => 'firstname > ''A''') AS job \gset
SELECT owner, submitted_by = session_user FROM dess_batch_jobs WHERE job_id = :job;
-- a trial needs no UPDATE
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{firstname}', NULL) AS job \gset
RESET ROLE;
-- others do not see it
SET ROLE regress_dess_other;
SELECT count(*) FROM dess_batch_jobs;
RESET ROLE;
-- a server of somebody else's must be named
REVOKE USAGE ON FOREIGN SERVER regress_dess_a FROM regress_dess_app;
GRANT USAGE ON FOREIGN DATA WRAPPER dess_batch TO regress_dess_other;
SET ROLE regress_dess_other;
CREATE SERVER regress_dess_d FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', models '*');
GRANT USAGE ON FOREIGN SERVER regress_dess_d TO PUBLIC;
SET ROLE regress_dess_app;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-3.5-turbo', '{firstname}') $$);
SELECT dess_batch_submit('faculty', 'gpt-3.5-turbo', '{firstname}', server => 'regress_dess_d') AS job \gset
SELECT server FROM dess_batch_jobs WHERE job_id = :job;
RESET ROLE;
-- nor does it get a superuser's rows by itself
SET client_min_messages = error;
SELECT dess_batch_submit('faculty', 'gpt-3.5-turbo', '{firstname}') AS job \gset
RESET client_min_messages;
SELECT server FROM dess_batch_jobs WHERE job_id = :job;

-- ------------------------------------------------------------- transactions
SELECT count(*) AS before FROM dess_batch_jobs \gset
BEGIN;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini') AS job \gset
SELECT state FROM dess_batch_jobs WHERE job_id = :job;
ROLLBACK;
SELECT count(*) FROM dess_batch_jobs WHERE job_id = :job;
SELECT count(*) - :before FROM dess_batch_jobs;
BEGIN;
SAVEPOINT s;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini') AS job \gset
ROLLBACK TO s;
COMMIT;
SELECT count(*) FROM dess_batch_jobs WHERE job_id = :job;
BEGIN;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini') AS job \gset
PREPARE TRANSACTION 'regress_dess';
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM dess_batch_jobs WHERE job_id = :job;
BEGIN READ ONLY;
CALL refused($$ SELECT dess_batch_submit('faculty', 'gpt-4o-mini') $$);
ROLLBACK;
-- as quick on a large table as on an empty one: no row is looked at
CREATE TABLE large (id integer PRIMARY KEY, a text, department_llm text);
INSERT INTO large SELECT g, 'text ' || g FROM generate_series(1, 1000) g;
BEGIN;
SELECT seq_scan, idx_scan, n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'large' \gset before_
SELECT dess_batch_submit('large', 'gpt-4o-mini', '{a}', where_sql => 'id % 2 = 0') AS job \gset
SELECT seq_scan - :before_seq_scan, idx_scan - :before_idx_scan, n_tup_upd - :before_n_tup_upd
FROM pg_stat_xact_user_tables WHERE relname = 'large';
COMMIT;
SELECT count(*) FROM dess_batch.batch;

-- of a large table it is said that its pages have no room
BEGIN;
UPDATE pg_class SET reltuples = 100000 WHERE oid = 'large'::regclass;
SELECT dess_batch_submit('large', 'gpt-4o-mini', '{a}', where_sql => 'id % 2 = 1') IS NOT NULL AS submitted;
ROLLBACK;
ALTER TABLE large SET (fillfactor = 80);
BEGIN;
UPDATE pg_class SET reltuples = 100000 WHERE oid = 'large'::regclass;
SELECT dess_batch_submit('large', 'gpt-4o-mini', '{a}', where_sql => 'id % 2 = 1') IS NOT NULL AS submitted;
ROLLBACK;

-- ------------------------------------------------------------------ prepare
SELECT dess_batch_prepare('faculty', 'gpt-4o-mini', label => 'stage by stage') AS job \gset
SELECT label, state, mode FROM dess_batch_jobs WHERE job_id = :job;
CALL refused($$ SELECT dess_batch_prepare('faculty', 'gpt-4o-mini', mode => 'online') $$);
CALL refused($$ SELECT dess_batch_prepare('faculty', 'gpt-4o-mini', target => 'nowhere') $$);

-- --------------------------------------------------------------------- end
RESET search_path;
SET client_min_messages = warning;
TRUNCATE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result, dess_batch.answer,
	dess_batch.retry_queue, dess_batch.settled, dess_batch.usage;
DROP SERVER regress_dess_a CASCADE;
DROP SERVER regress_dess_d CASCADE;
DROP SERVER regress_dess_remote CASCADE;
DROP SCHEMA submit CASCADE;
DROP SCHEMA submit_2 CASCADE;
REVOKE USAGE ON FOREIGN DATA WRAPPER dess_batch FROM regress_dess_other;
DROP ROLE regress_dess_app;
DROP ROLE regress_dess_other;
