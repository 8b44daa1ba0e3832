--
-- What the extension shows: objects, their signatures, rights and comments,
-- and the figures of the views
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dess_batch;
RESET client_min_messages;
CREATE ROLE regress_dess_owner;
CREATE ROLE regress_dess_stranger;
CREATE ROLE regress_dess_stats;
GRANT pg_read_all_stats TO regress_dess_stats;
\pset format unaligned
\pset tuples_only on

-- ------------------------------------------------------------------ objects
-- the columns of the views, which applications select by name and by place
SELECT c.relname || ': ' || string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relname LIKE 'dess\_batch\_%' AND c.relkind IN ('v', 'r', 'm', 'S', 'f') AND a.attnum > 0
GROUP BY c.relname ORDER BY c.relname COLLATE "C";
-- security barriers
SELECT relname, reloptions FROM pg_class WHERE relname LIKE 'dess\_batch\_%' AND relkind = 'v' ORDER BY relname COLLATE "C";
-- functions and procedures
SELECT p.proname || CASE prokind WHEN 'p' THEN ' (procedure): ' ELSE ': ' END || pg_get_function_arguments(p.oid) || coalesce(' -> ' || pg_get_function_result(p.oid), '')
FROM pg_proc p
WHERE p.proname LIKE 'dess\_batch\_%' ORDER BY p.proname COLLATE "C";
-- all of them may cost money or read what is not committed, but the validator
SELECT p.proname, p.provolatile, p.proparallel, p.proisstrict, p.prosecdef
FROM pg_proc p
WHERE p.proname LIKE 'dess\_batch\_%' AND p.prokind = 'f' ORDER BY p.proname COLLATE "C";
SELECT p.proname, p.provolatile, p.proparallel, p.proisstrict, p.prosecdef
FROM pg_proc p
WHERE p.pronamespace = 'dess_batch'::regnamespace ORDER BY p.proname COLLATE "C";
-- what is public has a comment
SELECT pg_describe_object(d.classid, d.objid, 0)
FROM pg_depend d JOIN pg_extension e ON e.oid = d.refobjid
WHERE d.refclassid = 'pg_extension'::regclass AND e.extname = 'dess_batch' AND d.deptype = 'e'
	AND obj_description(d.objid, d.classid::regclass::name) IS NULL
	AND NOT (d.classid = 'pg_class'::regclass AND (SELECT relnamespace FROM pg_class WHERE oid = d.objid) = 'dess_batch'::regnamespace)
	AND NOT (d.classid = 'pg_type'::regclass AND (SELECT typrelid <> 0 OR typelem <> 0 FROM pg_type WHERE oid = d.objid))
ORDER BY 1;
-- every table and sequence of the ledger is dumped
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'dess_batch'::regnamespace AND c.relkind IN ('r', 'S')
	AND c.oid <> ALL ((SELECT extconfig FROM pg_extension WHERE extname = 'dess_batch')::oid[]);

-- ------------------------------------------------------- rights of everybody
SELECT has_schema_privilege('regress_dess_stranger', 'dess_batch', 'USAGE'),
	has_schema_privilege('regress_dess_stranger', 'dess_batch', 'CREATE'),
	has_foreign_data_wrapper_privilege('regress_dess_stranger', 'dess_batch', 'USAGE');
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'dess_batch'::regnamespace AND c.relkind IN ('r', 'v') AND (
	has_table_privilege('regress_dess_stranger', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
	OR has_any_column_privilege('regress_dess_stranger', c.oid, 'SELECT, INSERT, UPDATE, REFERENCES'));
SELECT c.oid::regclass FROM pg_class c
WHERE c.relnamespace = 'dess_batch'::regnamespace AND CASE WHEN c.relkind = 'S' THEN has_sequence_privilege('regress_dess_stranger', c.oid, 'USAGE, SELECT, UPDATE') END;
SELECT relname, has_table_privilege('regress_dess_stranger', oid, 'SELECT'),
	has_table_privilege('regress_dess_stranger', oid, 'INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER')
FROM pg_class WHERE relname LIKE 'dess\_batch\_%' AND relkind = 'v' ORDER BY relname COLLATE "C";
SELECT p.proname FROM pg_proc p
WHERE (p.proname LIKE 'dess\_batch\_%' OR p.pronamespace = 'dess_batch'::regnamespace)
	AND NOT has_function_privilege('regress_dess_stranger', p.oid, 'EXECUTE') ORDER BY 1;

-- ------------------------------------------------------------------ figures
CREATE SCHEMA views;
GRANT USAGE ON SCHEMA views TO regress_dess_owner;
SET search_path = views, public;
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key 'sk-regress');
GRANT USAGE ON FOREIGN SERVER regress_dess TO regress_dess_owner;
CREATE TABLE faculty (region text, id integer, flag boolean, a text, department_llm text, PRIMARY KEY (region, id, flag));
ALTER TABLE faculty OWNER TO regress_dess_owner;
SET ROLE regress_dess_owner;
SET client_min_messages = warning;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'figures') AS job \gset
RESET client_min_messages;
RESET ROLE;

CREATE VIEW figures AS
SELECT state, rows, requests, done, failed, pending, rows = done + failed + pending AS adds_up,
	input_tokens, cached_tokens, output_tokens, reasoning_tokens
FROM dess_batch_jobs WHERE label = 'figures';
CREATE VIEW progress AS
SELECT state, percent, bar, rows, done, failed, waiting_for FROM dess_batch_progress WHERE label = 'figures';

-- nothing prepared, not even counted
SELECT * FROM figures;
SELECT regexp_replace(waiting_for, '\d+', 'N') IS NOT NULL, percent IS NULL, bar, eta IS NULL, rows_per_second IS NULL FROM dess_batch_progress WHERE label = 'figures';
-- counted
UPDATE dess_batch.job SET state = 'active', counted = 12, started_at = now() WHERE id = :job;
SELECT * FROM figures;
SELECT * FROM progress;

-- a batch of six rows in two tuples; the fourth row has the second's request
INSERT INTO dess_batch.batch (job_id, no, state, token, items, requests, bytes, next_poll_at, created_at)
VALUES (:job, 1, 'preparing', 't1', 6, 5, 1000, '2020-01-01 12:00:00+00', '2020-01-01 11:00:00+00');
INSERT INTO dess_batch.item (job_id, batch_no, first_no, keys, hashes, same_as) VALUES
	(:job, 1, 1, ARRAY[E'north\t1\tt', E'north\t2\tf', E'north\t3\tt', E'north\t4\tt'], sha256('1') || sha256('2') || sha256('3') || sha256('2'), '{NULL,NULL,NULL,2}'),
	(:job, 1, 5, ARRAY[E'so\\\tu\\\\th\t5\tt', E'"s"\t6\tf'], sha256('5') || sha256('6'), NULL);
-- and a row that had nothing to read
INSERT INTO dess_batch.batch (job_id, no, state, token, items, empty, finished_at) VALUES (:job, 0, 'done', '', 1, 1, now());
INSERT INTO dess_batch.item (job_id, batch_no, first_no, keys, hashes) VALUES (:job, 0, 1, ARRAY[E'west\t7\tt'], sha256('7'));
INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, finished_at) VALUES (:job, 0, 1, '{1}', '{empty}', '2020-01-01 11:30:00+00');

CREATE VIEW rows AS
SELECT batch_no, row_key, outcome, error_code, error, attempts, input_tokens, cached_tokens, output_tokens, reasoning_tokens,
	(SELECT n FROM generate_series(1, 9) n WHERE encode(sha256(n::text::bytea), 'hex') = request_hash) AS request, answer, finish_reason, model_version, response_id
FROM dess_batch_rows WHERE job_id = (SELECT id FROM dess_batch.job WHERE label = 'figures')
ORDER BY batch_no NULLS FIRST, row_key ->> 'id', attempts;
SELECT * FROM figures;
SELECT * FROM progress;
SELECT * FROM rows;
-- the job's state is that of its least advanced batch
INSERT INTO dess_batch.batch (job_id, no, state, token) VALUES (:job, 2, 'retrieving', 't2');
UPDATE dess_batch.job SET all_prepared = true WHERE id = :job;
CREATE FUNCTION states(id bigint, VARIADIC batch_states text[] DEFAULT '{preparing,prepared,uploading,uploaded,creating,running,retrieving,done}') RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	s text;
BEGIN
	FOREACH s IN ARRAY batch_states LOOP
		UPDATE dess_batch.batch SET state = s WHERE job_id = id AND no = 1;
		RETURN QUERY SELECT s || ': ' || p.state || ', ' || regexp_replace(p.waiting_for, '\d+(?=\))', 'N') FROM dess_batch_progress p WHERE p.job_id = id;
	END LOOP;
END
$$;
SELECT states(:job);
DELETE FROM dess_batch.batch WHERE job_id = :job AND no = 2;
-- without any batch left, the end is near
UPDATE dess_batch.batch SET state = 'done' WHERE job_id = :job AND no = 1;
SELECT state FROM dess_batch_jobs WHERE job_id = :job;
-- a job that stops at a stage
UPDATE dess_batch.job SET stage = 'prepare' WHERE id = :job;
SELECT states(:job, 'preparing', 'prepared');
UPDATE dess_batch.job SET stage = 'upload' WHERE id = :job;
SELECT states(:job, 'prepared', 'uploading', 'uploaded');
UPDATE dess_batch.job SET stage = 'create' WHERE id = :job;
SELECT states(:job, 'uploaded', 'creating', 'running');
-- not while more is to be prepared
UPDATE dess_batch.job SET all_prepared = false WHERE id = :job;
SELECT states(:job, 'running');
UPDATE dess_batch.job SET all_prepared = true, stage = 'retrieve' WHERE id = :job;
-- what its owner wants goes first
CREATE FUNCTION controls(id bigint) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
	c text;
BEGIN
	FOREACH c IN ARRAY '{run,pause,hold,cancel,fail}'::text[] LOOP
		UPDATE dess_batch.job j SET control = c WHERE j.id = controls.id;
		RETURN QUERY SELECT c || ': ' || p.state || ', ' || regexp_replace(p.waiting_for, '\d+(?=\))', 'N') FROM dess_batch_progress p WHERE p.job_id = id;
	END LOOP;
	UPDATE dess_batch.job j SET control = 'run' WHERE j.id = controls.id;
END
$$;
SELECT controls(:job);
-- the last trouble is what a job waits for
UPDATE dess_batch.job SET error_code = 'no_secret', error = 'there is no secret' WHERE id = :job;
SELECT state, waiting_for FROM progress;
UPDATE dess_batch.job SET error_code = NULL, error = NULL WHERE id = :job;

-- sent; half of the answers; one row goes again
UPDATE dess_batch.batch SET state = 'running', remote_id = 'batch_1' WHERE job_id = :job AND no = 1;
SELECT outcome, count(*) FROM dess_batch_rows WHERE job_id = :job GROUP BY 1 ORDER BY 1;
INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, error_codes, errors, input_tokens, cached_tokens, output_tokens,
	reasoning_tokens, finish_reasons, model_versions, response_ids, finished_at)
VALUES (:job, 1, 1, '{4,1,2}', '{missing,ok,missing}', NULL, NULL, '{0,100,50}', '{0,64,0}', '{0,7,2}', '{0,3,0}',
	'{stop,stop,stop}', '{gpt-4o-mini-2024-07-18,gpt-4o-mini-2024-07-18,gpt-4o-mini-2024-07-18}', '{r2,r1,r2}', '2020-01-01 12:30:00+00');
UPDATE dess_batch.batch SET state = 'retrieving', ok = 1, missing = 2, input_tokens = 150, cached_tokens = 64, output_tokens = 9, reasoning_tokens = 3
WHERE job_id = :job AND no = 1;
SELECT * FROM figures;
SELECT * FROM progress;
INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, error_codes, errors, finished_at) VALUES
	(:job, 1, 2, '{3,5}', '{refused,superseded}', '{content_filter,server_error}', '{"The prompt was refused",NULL}', '2020-01-01 12:31:00+00');
INSERT INTO dess_batch.answer (job_id, batch_no, no, answer, reply) VALUES (:job, 1, 3, 'I cannot', '{"refusal": "I cannot"}');
UPDATE dess_batch.batch SET failed = 1, superseded = 1 WHERE job_id = :job AND no = 1;
INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts) VALUES (:job, E'so\\\tu\\\\th\t5\tt', 1, true);
UPDATE dess_batch.job SET requeued = 1 WHERE id = :job;
SELECT * FROM figures;
SELECT * FROM rows;
SELECT row_key, outcome, error_code, error FROM dess_batch_errors WHERE job_id = :job;
-- that row in its second batch
DELETE FROM dess_batch.retry_queue WHERE job_id = :job;
UPDATE dess_batch.job SET requeued = 0 WHERE id = :job;
INSERT INTO dess_batch.batch (job_id, no, state, token, items, requests, bytes, created_at) VALUES (:job, 2, 'prepared', 't2', 1, 1, 100, '2020-01-01 13:00:00+00');
INSERT INTO dess_batch.item (job_id, batch_no, first_no, keys, hashes, attempts) VALUES (:job, 2, 1, ARRAY[E'so\\\tu\\\\th\t5\tt'], sha256('5'), '{2}');
SELECT * FROM figures;
SELECT batch_no, outcome, attempts FROM rows WHERE row_key ->> 'id' = '5';
UPDATE dess_batch.batch SET state = 'running', remote_id = 'batch_2' WHERE job_id = :job AND no = 2;
SELECT batch_no, outcome, attempts FROM rows WHERE row_key ->> 'id' = '5';
-- the end
INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, finished_at) VALUES
	(:job, 1, 3, '{6}', '{lost}', '2020-01-01 12:31:00+00'), (:job, 2, 1, '{1}', '{ok}', '2020-01-01 14:00:00+00');
UPDATE dess_batch.batch SET state = 'done', finished_at = '2020-01-01 12:31:00+00', failed = failed + 1, unmatched = 2, duplicates = 1 WHERE job_id = :job AND no = 1;
UPDATE dess_batch.batch SET state = 'done', ok = 1, input_uri = 'file-1', output_uris = '{file-2,file-3}', remote_state = 'completed',
	error_code = 'later', error = 'Words of the provider', finished_at = '2020-01-01 14:00:00+00' WHERE job_id = :job AND no = 2;
UPDATE dess_batch.job SET state = 'done', started_at = '2020-01-01 11:00:00+00', finished_at = '2020-01-01 11:00:35+00' WHERE id = :job;
SELECT * FROM figures;
SELECT * FROM progress;
SELECT * FROM rows;
SELECT rows_per_second, eta FROM dess_batch_progress WHERE job_id = :job;
SELECT batch_no, state, remote_id, remote_state, requests, bytes, input_uri, output_uri, error_code, error FROM dess_batch_batches WHERE job_id = :job ORDER BY 1;
-- the figures of the jobs are those of the rows
SELECT rows = count(*), done = count(*) FILTER (WHERE outcome IN ('ok', 'missing', 'empty')), failed = count(*) FILTER (WHERE outcome NOT IN ('ok', 'missing', 'empty', 'pending', 'sent'))
FROM dess_batch_jobs JOIN dess_batch_rows USING (job_id) WHERE job_id = :job GROUP BY rows, done, failed;

-- a row that was forgotten counts, but is not shown
UPDATE dess_batch.item SET keys[1] = NULL WHERE job_id = :job AND batch_no = 1 AND first_no = 1;
SELECT rows FROM figures;
SELECT count(*) FROM rows;

-- the larger of what was counted and what was prepared
UPDATE dess_batch.job SET state = 'active', all_prepared = false, counted = 3 WHERE id = :job;
SELECT * FROM figures;
SELECT * FROM progress;
UPDATE dess_batch.job SET counted = NULL WHERE id = :job;
SELECT * FROM progress;
UPDATE dess_batch.job SET state = 'done', all_prepared = true WHERE id = :job;

-- keys of one column, verbatim; numbers that JSON does not have
SELECT dess_batch.row_key(k, '{id}', kind) FROM (VALUES ('7', 'n'), ('007', 's'), ('-1.50', 'n'), ('NaN', 'n'), ('Infinity', 'n'), ('t', 'b'), ('f', 'b'), (E'a\tb\\', 's'), ('', 's')) AS v(k, kind);
SELECT dess_batch.row_key(E'1\t2', '{a,b}', 'ns');
SELECT dess_batch.row_key('1', '{a,b}', 'ns');
SELECT dess_batch.row_key(E'1\t2', '{a}', 'ns');

-- --------------------------------------------------------- who sees what
INSERT INTO dess_batch.usage VALUES ('2020-01-01', 'regress_dess_owner'::regrole, 'regress_dess_owner', 'regress_dess', 'gpt-4o-mini', 'batch', 'figures', 5, 150, 64, 9, 3, 0, 0, 5, split_part(dess_batch.home(), '/', 1));
INSERT INTO dess_batch.usage VALUES ('2020-01-01', 'regress_dess_owner'::regrole, 'regress_dess_owner', 'regress_dess', 'gpt-4o-mini', 'batch', '', 1, 1, 0, 1, 0, 0, 0, 1, split_part(dess_batch.home(), '/', 1));
CREATE VIEW seen AS
SELECT (SELECT count(*) FROM dess_batch_jobs) AS jobs, (SELECT count(*) FROM dess_batch_batches) AS batches,
	(SELECT count(*) FROM dess_batch_rows) AS rows, (SELECT count(*) FROM dess_batch_errors) AS errors,
	(SELECT count(*) FROM dess_batch_progress) AS progress, (SELECT count(*) FROM dess_batch_usage) AS usage;
GRANT USAGE ON SCHEMA views TO PUBLIC;
GRANT SELECT ON seen TO PUBLIC;
SELECT * FROM seen;
SET ROLE regress_dess_owner;
SELECT * FROM seen;
SET ROLE regress_dess_stranger;
SELECT * FROM seen;
SET ROLE regress_dess_stats;
SELECT * FROM seen;
RESET ROLE;
SELECT * FROM dess_batch_usage ORDER BY label;
SET ROLE regress_dess_stranger;
SELECT count(*) FROM dess_batch.job;
SELECT dess_batch.may_see(10, true);
RESET ROLE;
-- members of the owner see it all
GRANT regress_dess_owner TO regress_dess_stranger;
SET ROLE regress_dess_stranger;
SELECT count(*) FROM dess_batch_rows;
RESET ROLE;
-- a function that leaks does not see rows of others
REVOKE regress_dess_owner FROM regress_dess_stranger;
CREATE FUNCTION leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE NOTICE 'saw %', $1; RETURN true; END $$;
SET ROLE regress_dess_stranger;
SELECT count(*) FROM dess_batch_rows WHERE leak(answer);
SELECT count(*) FROM dess_batch_jobs WHERE leak(label);
RESET ROLE;

-- names outlive what they name
DROP TABLE faculty;
SELECT source, owner FROM dess_batch_jobs WHERE job_id = :job;
ALTER ROLE regress_dess_owner RENAME TO regress_dess_owner_2;
SELECT owner FROM dess_batch_jobs WHERE job_id = :job;
SELECT DISTINCT owner FROM dess_batch_usage;
REVOKE USAGE ON FOREIGN SERVER regress_dess FROM regress_dess_owner_2;
REVOKE USAGE ON SCHEMA views FROM regress_dess_owner_2;
DROP SERVER regress_dess CASCADE;
DROP ROLE regress_dess_owner_2;
SELECT owner, server, submitted_by = session_user FROM dess_batch_jobs WHERE job_id = :job;
SELECT DISTINCT owner FROM dess_batch_usage;
-- nobody but superusers has the rights of a role that is gone
SET ROLE regress_dess_stranger;
SELECT count(*) FROM dess_batch_jobs;
RESET ROLE;

-- --------------------------------------------------------------------- end
RESET search_path;
SET client_min_messages = warning;
TRUNCATE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result, dess_batch.answer,
	dess_batch.retry_queue, dess_batch.settled, dess_batch.usage;
DROP SCHEMA views CASCADE;
DROP ROLE regress_dess_stranger;
DROP ROLE regress_dess_stats;
