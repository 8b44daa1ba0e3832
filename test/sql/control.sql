--
-- What is done to jobs: stage by stage, pause, cancel, retry and the like
--
-- No worker acts here (dess_batch.enabled is off): what is written down is
-- seen, and the ledger is changed by hand where a worker would have.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dess_batch;
RESET client_min_messages;
SHOW dess_batch.enabled;

CREATE SCHEMA control;
CREATE ROLE regress_dess_owner;
CREATE ROLE regress_dess_stranger;
GRANT USAGE ON SCHEMA control TO regress_dess_owner, regress_dess_stranger;
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key 'sk-regress');
GRANT USAGE ON FOREIGN SERVER regress_dess TO regress_dess_owner;
CREATE TABLE control.faculty (id integer PRIMARY KEY, a text, department_llm text);
INSERT INTO control.faculty SELECT g, 'text ' || g FROM generate_series(1, 12) g;
ALTER TABLE control.faculty OWNER TO regress_dess_owner;
SET search_path = control, public;
\pset format unaligned
\pset tuples_only on

-- numbers that do not depend on what ran before
ALTER SEQUENCE dess_batch.job_id_seq RESTART WITH 1001;

-- shows an error or a result with all its parts
CREATE PROCEDURE try(command text)
LANGUAGE plpgsql
AS $$
DECLARE
	result text;
	message text;
	detail text;
	hint text;
BEGIN
	EXECUTE command INTO result;
	RAISE INFO 'returns %', coalesce(quote_literal(result), 'null');
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
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
-- every function that is given a job's number, one after the other; none of them takes effect
CREATE PROCEDURE try_all(job bigint)
LANGUAGE plpgsql
AS $$
DECLARE
	command text;
BEGIN
	FOREACH command IN ARRAY '{upload,create,retrieve,status,cancel,pause,resume,retry,adopt,erase,explain}'::text[] LOOP
		RAISE INFO '--- %', command;
		BEGIN
			CALL try(format('SELECT dess_batch_%s(%s)', command, coalesce(job::text, 'NULL')));
			RAISE EXCEPTION 'not this time' USING ERRCODE = 'ZZ000';
		EXCEPTION WHEN SQLSTATE 'ZZ000' THEN
			NULL;
		END;
	END LOOP;
END
$$;
GRANT EXECUTE ON PROCEDURE try(text), try_all(bigint) TO PUBLIC;

CREATE VIEW standing AS SELECT label, state, rows, done, failed, pending FROM dess_batch_jobs ORDER BY job_id;
GRANT SELECT ON standing TO PUBLIC;

-- ------------------------------------------------------- no job, no number
CALL try_all(-1);
CALL try_all(NULL);
CALL try($$ SELECT dess_batch_show(-1, '{"id": 1}') $$);
CALL dess_batch_wait(-1);
\echo :LAST_ERROR_SQLSTATE
CALL dess_batch_wait(NULL);
\echo :LAST_ERROR_SQLSTATE

-- ------------------------------------------------------------------- rights
SET ROLE regress_dess_owner;
SET client_min_messages = warning;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'batch') AS job \gset
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'online', mode => 'online') AS online \gset
RESET client_min_messages;
SET ROLE regress_dess_stranger;
CALL try_all(:job);
CALL try(format($$ SELECT dess_batch_show(%s, '{"id": 1}') $$, :job));
CALL dess_batch_wait(:job);
\echo :LAST_ERROR_SQLSTATE
SELECT dess_batch_adopt();
RESET ROLE;
GRANT pg_read_all_stats TO regress_dess_stranger;
SET ROLE regress_dess_stranger;
CALL try(format('SELECT dess_batch_cancel(%s)', :job));
RESET ROLE;

-- ------------------------------------------------------ pause, resume, cancel
SET ROLE regress_dess_owner;
CALL try_all(:job);
SELECT dess_batch_pause(:job);
SELECT * FROM standing;
CALL try(format('SELECT dess_batch_pause(%s)', :job));
CALL try_all(:job);
SELECT dess_batch_resume(:job);
SELECT * FROM standing;
SELECT dess_batch_resume(:job);
CALL try(format('SELECT dess_batch_resume(%s, -1)', :job));
-- what paused it is over
SELECT dess_batch_pause(:job);
RESET ROLE;
UPDATE dess_batch.job SET error_code = 'too_many_failures', error = 'more than half of the answers failed' WHERE id = :job;
SET ROLE regress_dess_owner;
SELECT state, error_code, error FROM dess_batch_jobs WHERE job_id = :job;
SELECT dess_batch_explain(:job);
SELECT dess_batch_resume(:job);
SELECT state, error_code, error FROM dess_batch_jobs WHERE job_id = :job;
-- cancelled while paused
SELECT dess_batch_pause(:job);
SELECT dess_batch_cancel(:job);
SELECT * FROM standing;
CALL try_all(:job);
-- rolled back, nothing happened
BEGIN;
SELECT dess_batch_cancel(:online);
ROLLBACK;
BEGIN;
SELECT dess_batch_pause(:online);
PREPARE TRANSACTION 'regress_dess';
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM standing;
CALL try_all(:online);
RESET ROLE;

-- --------------------------------------------------------- jobs that are held
UPDATE dess_batch.job SET control = 'hold', held_control = 'pause' WHERE id = :job;
SET ROLE regress_dess_owner;
SELECT * FROM standing;
CALL try_all(:job);
SET ROLE regress_dess_stranger;
CALL try(format('SELECT dess_batch_adopt(%s)', :job));
SELECT dess_batch_adopt();
SET ROLE regress_dess_owner;
SELECT * FROM standing;
SELECT dess_batch_adopt(:job);
SELECT * FROM standing;
SELECT dess_batch_adopt(:job);
RESET ROLE;
UPDATE dess_batch.job SET control = 'hold', held_control = 'run';
SET ROLE regress_dess_owner;
SELECT dess_batch_adopt();
SELECT * FROM standing;
RESET ROLE;

-- -------------------------------------------------------------- stage by stage
SET ROLE regress_dess_owner;
SET client_min_messages = warning;
SELECT dess_batch_prepare('faculty', 'gpt-4o-mini', '{a}', label => 'stages') AS stages \gset
RESET client_min_messages;
RESET ROLE;
CREATE VIEW stage AS SELECT stage FROM dess_batch.job WHERE label = 'stages';
CALL try(format('SELECT dess_batch_create(%s)', :stages));
CALL try(format('SELECT dess_batch_retrieve(%s)', :stages));
SELECT * FROM stage;
SELECT dess_batch_upload(:stages) = :stages;
SELECT * FROM stage;
CALL try(format('SELECT dess_batch_upload(%s)', :stages));
CALL try(format('SELECT dess_batch_retrieve(%s)', :stages));
SELECT dess_batch_create(:stages) = :stages;
SELECT * FROM stage;
CALL try(format('SELECT dess_batch_create(%s)', :stages));
SELECT dess_batch_retrieve(:stages) = :stages;
SELECT * FROM stage;
CALL try(format('SELECT dess_batch_retrieve(%s)', :stages));
CALL try(format('SELECT dess_batch_upload(%s)', :stages));
-- status asks for a look
INSERT INTO dess_batch.batch (job_id, no, state, token, remote_id, next_poll_at, items) VALUES (:stages, 1, 'running', 't', 'batch_1', 'infinity', 0);
UPDATE dess_batch.job SET state = 'active', all_prepared = true WHERE id = :stages;
SELECT dess_batch_status(:stages);
SELECT next_poll_at <= now() FROM dess_batch_batches WHERE job_id = :stages;
CALL try(format('SELECT dess_batch_status(%s)', :online));
-- a paused job is advanced, but says that it is paused
UPDATE dess_batch.job SET stage = 'upload', control = 'pause' WHERE id = :stages;
SELECT dess_batch_create(:stages) = :stages;
SELECT * FROM stage;
DELETE FROM dess_batch.batch WHERE job_id = :stages;

-- -------------------------------------------------------------- jobs that ended
UPDATE dess_batch.job SET state = 'done', control = 'run', finished_at = now() WHERE id = :stages;
CALL try_all(:stages);
UPDATE dess_batch.job SET state = 'failed', error_code = 'unknown_model', error = 'The model does not exist.' WHERE id = :stages;
CALL try_all(:stages);
UPDATE dess_batch.job SET state = 'cancelled', control = 'cancel', error_code = NULL, error = NULL WHERE id = :stages;
CALL try_all(:stages);
-- a job that cannot go on, while answers are still on their way
UPDATE dess_batch.job SET state = 'active', control = 'fail' WHERE id = :stages;
INSERT INTO dess_batch.batch (job_id, no, state, token, remote_id, items) VALUES (:stages, 1, 'running', 't', 'batch_1', 0);
CALL try_all(:stages);
DELETE FROM dess_batch.batch WHERE job_id = :stages;
UPDATE dess_batch.job SET state = 'cancelled', finished_at = now();

-- -------------------------------------------------------------------- retry
SET ROLE regress_dess_owner;
SET client_min_messages = warning;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'retry', keep => 'reply') AS job \gset
RESET client_min_messages;
RESET ROLE;
-- rows 1 to 12 with every outcome
CREATE FUNCTION request_hash(id integer) RETURNS bytea
LANGUAGE sql RETURN sha256(sha256('\x0000000b'::bytea || 'gpt-4o-mini'::bytea || '\xffffffffffffffff'::bytea || '\x00000002'::bytea || '{}'::bytea)
	|| convert_to('text ' || id, 'UTF8'));
CREATE PROCEDURE finish(job bigint)
LANGUAGE sql AS $$
	INSERT INTO dess_batch.batch (job_id, no, state, token, items, requests, ok, missing, empty, failed, input_uri, remote_id, remote_deleted_at)
	VALUES (finish.job, 1, 'done', 'token', 12, 12, 1, 1, 1, 9, 'file-1', 'batch_1', now());
	INSERT INTO dess_batch.item (job_id, batch_no, first_no, keys, hashes)
	SELECT finish.job, 1, 1, array_agg(g::text ORDER BY g), string_agg(request_hash(g), '' ORDER BY g) FROM generate_series(1, 12) g;
	INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, errors, response_ids)
	SELECT finish.job, 1, 1, array_agg(o.n ORDER BY n), array_agg(o.outcome ORDER BY n), array_agg('error ' || n ORDER BY n), array_agg('response ' || n ORDER BY n)
	FROM unnest(enum_range(NULL::dess_batch.outcome)) WITH ORDINALITY AS o(outcome, n) WHERE n <= 12;
	INSERT INTO dess_batch.answer (job_id, batch_no, no, answer, reply)
	SELECT finish.job, 1, g, 'answer ' || g, format('{"n": %s}', g) FROM generate_series(1, 9) g;
	INSERT INTO dess_batch.settled (source, source_name, target, key, hash, key_columns, outcome)
	SELECT j.source, j.source_name, j.target, u.o::text, request_hash(u.o), 'id', 'refused'
	FROM dess_batch.job j, generate_series(6, 9) AS u(o) WHERE j.id = finish.job;
	UPDATE dess_batch.job SET state = 'done', all_prepared = true, started_at = now(), finished_at = now() WHERE id = finish.job;
$$;
CALL finish(:job);
CREATE VIEW outcomes AS
SELECT string_agg((row_key ->> 'id') || ' ' || outcome || ' ' || attempts, ', ' ORDER BY (row_key ->> 'id')::integer)
FROM dess_batch_rows WHERE job_id = (SELECT max(job_id) FROM dess_batch_jobs);
GRANT SELECT ON outcomes TO PUBLIC;
SELECT * FROM outcomes;
SET ROLE regress_dess_owner;
CALL try(format($$ SELECT dess_batch_retry(%s, '{ok}') $$, :job));
CALL try(format($$ SELECT dess_batch_retry(%s, '{pending}') $$, :job));
CALL try(format($$ SELECT dess_batch_retry(%s, '{Lost}') $$, :job));
CALL try(format($$ SELECT dess_batch_retry(%s, '{lost,NULL}') $$, :job));
CALL try(format($$ SELECT dess_batch_retry(%s, '{}') $$, :job));
SELECT label, state, rows, done, failed, pending FROM standing WHERE label = 'retry';
SELECT dess_batch_retry(:job, '{refused,lost}');
SELECT label, state, rows, done, failed, pending FROM standing WHERE label = 'retry';
SELECT * FROM outcomes;
-- again: nothing is left of these
SELECT dess_batch_retry(:job, '{refused,lost}');
-- by default all but gone and refused
SELECT dess_batch_retry(:job);
SELECT label, state, rows, done, failed, pending FROM standing WHERE label = 'retry';
SELECT * FROM outcomes;
SELECT dess_batch_retry(:job);
SELECT dess_batch_retry(:job, '{gone}');
SELECT label, state, rows, done, failed, pending FROM standing WHERE label = 'retry';
-- what is waiting is cancelled with the job
SELECT dess_batch_cancel(:job);
RESET ROLE;
-- what settled them is forgotten
SELECT key FROM dess_batch.settled ORDER BY key COLLATE "C";

-- --------------------------------------------------------------------- show
TRUNCATE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result, dess_batch.answer, dess_batch.retry_queue, dess_batch.settled;
SET ROLE regress_dess_owner;
SET client_min_messages = warning;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'show', keep => 'reply') AS job \gset
RESET client_min_messages;
RESET ROLE;
CALL finish(:job);
SET ROLE regress_dess_owner;
SELECT jsonb_pretty(request), is_current, answer, reply FROM dess_batch_show(:job, '{"id": 1}');
-- of answers that were not kept, what was written is shown
RESET ROLE;
DELETE FROM dess_batch.answer WHERE no = 1;
UPDATE faculty SET department_llm = 'Mathematics' WHERE id = 1;
UPDATE faculty SET a = 'changed' WHERE id = 3;
UPDATE faculty SET a = NULL WHERE id = 4;
DELETE FROM faculty WHERE id = 5;
SET ROLE regress_dess_owner;
SELECT is_current, answer, reply FROM dess_batch_show(:job, '{"id": 1}');
SELECT request #>> '{body,messages,0,content}', is_current, answer, reply FROM dess_batch_show(:job, '{"id": 3}');
SELECT request IS NULL, is_current, answer, reply FROM dess_batch_show(:job, '{"id": 4}');
SELECT request IS NULL, is_current, answer, reply FROM dess_batch_show(:job, '{"id": 5}');
SELECT request IS NULL, is_current, answer, reply FROM dess_batch_show(:job, '{"id": 12}');
CALL try(format($$ SELECT dess_batch_show(%s, '{"id": 13}') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '{"id": "1"}') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '{"id": "one"}') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '{"ID": 1}') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '{"id": 1, "a": 1}') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '{"id": null}') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '[1]') $$, :job));
CALL try(format($$ SELECT dess_batch_show(%s, '1') $$, :job));

-- ----------------------------------------------------------- forget and erase
SET ROLE regress_dess_stranger;
CALL try($$ SELECT dess_batch_forget('faculty', '{"id": 3}') $$);
SET ROLE regress_dess_owner;
CALL try($$ SELECT dess_batch_forget('faculty', '{"a": 3}') $$);
CALL try($$ SELECT dess_batch_forget('faculty', '[3]') $$);
CALL try($$ SELECT dess_batch_forget('faculty', '{"id": "x"}') $$);
CREATE TEMPORARY TABLE unknown (id integer PRIMARY KEY);
SELECT dess_batch_forget('unknown', '{"id": 3}');
DROP TABLE unknown;
SELECT dess_batch_forget('faculty', '{"id": 6}');
SELECT dess_batch_forget('faculty', '{"id": 99}');
SELECT label, state, rows, done, failed, pending FROM standing;
SELECT * FROM outcomes;
RESET ROLE;
-- nothing of the row is left, and nothing of the others is gone
SELECT keys, octet_length(hashes) / 32, substr(hashes, 5 * 32 + 1, 32) = decode(repeat('00', 32), 'hex') FROM dess_batch.item;
SELECT errors, response_ids FROM dess_batch.result;
SELECT array_agg(no ORDER BY no) FROM dess_batch.answer;
SELECT array_agg(key ORDER BY key COLLATE "C") FROM dess_batch.settled;
-- not while it is in flight
UPDATE dess_batch.batch SET state = 'running';
UPDATE dess_batch.job SET state = 'active', finished_at = NULL;
DELETE FROM dess_batch.result;
CALL try($$ SELECT dess_batch_forget('faculty', '{"id": 7}') $$);
UPDATE dess_batch.batch SET state = 'done';
UPDATE dess_batch.job SET state = 'done', finished_at = now();
-- a row that waits to be sent again is forgotten too, and counts no more
INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts) VALUES (:job, '7', 1, true), (:job, '8', 1, true);
UPDATE dess_batch.batch SET superseded = 2;
UPDATE dess_batch.job SET requeued = 2;
SELECT rows FROM standing;
SELECT dess_batch_forget('faculty', '{"id": 7}');
SELECT rows FROM standing;
SELECT key FROM dess_batch.retry_queue;
DELETE FROM dess_batch.retry_queue;
UPDATE dess_batch.job SET requeued = 0;
-- erase removes what was kept, and lets the worker look at the provider once more
SELECT count(*) FROM dess_batch.answer;
SET ROLE regress_dess_owner;
SELECT remote_deleted_at IS NOT NULL FROM dess_batch_batches;
SELECT dess_batch_erase(:job);
SELECT remote_deleted_at IS NOT NULL FROM dess_batch_batches;
RESET ROLE;
SELECT count(*) FROM dess_batch.answer;

-- -------------------------------------------------------------------- purge
CALL try($$ SELECT dess_batch_purge('-1 day') $$);
CALL try($$ SELECT dess_batch_purge(NULL) $$);
UPDATE dess_batch.job SET finished_at = now() - interval '2 days';
-- not with anything left at the provider
SELECT dess_batch_purge('1 day');
UPDATE dess_batch.batch SET remote_deleted_at = now();
SELECT dess_batch_purge('3 days');
SET ROLE regress_dess_stranger;
SELECT dess_batch_purge('1 day');
SET ROLE regress_dess_owner;
SELECT dess_batch_purge('1 day');
RESET ROLE;
SELECT count(*) FROM dess_batch.job;
SELECT count(*) FROM dess_batch.batch;
SELECT count(*) FROM dess_batch.item;
SELECT count(*) FROM dess_batch.settled;

-- --------------------------------------------------------------------- wait
-- a number that was given once
CALL dess_batch_wait(:job);
CALL dess_batch_wait(:job + 1000);
\echo :LAST_ERROR_SQLSTATE
BEGIN;
SET client_min_messages = warning;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'wait') AS job \gset
RESET client_min_messages;
CALL dess_batch_wait(:job);
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
SET client_min_messages = warning;
SELECT dess_batch_submit('faculty', 'gpt-4o-mini', '{a}', label => 'wait') AS job \gset
RESET client_min_messages;
CALL dess_batch_wait(:job, '0');
\echo :LAST_ERROR_SQLSTATE
CALL dess_batch_wait(:job, '50 ms');
\echo :LAST_ERROR_SQLSTATE
CALL dess_batch_wait(:job, '-1 s');
\echo :LAST_ERROR_SQLSTATE
BEGIN;
CALL dess_batch_wait(:job, '50 ms');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
CALL dess_batch_wait(:job, '50 ms');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
-- jobs that stand still
SELECT dess_batch_pause(:job);
CALL dess_batch_wait(:job);
CALL dess_batch_wait(:job, '1 hour');
DO $$
DECLARE
	job bigint;
	state text;
BEGIN
	job := max(job_id) FROM dess_batch_jobs;
	CALL dess_batch_wait(job, '1 hour', state);
	RAISE INFO '%', state;
END
$$;
UPDATE dess_batch.job SET state = 'done', control = 'run', finished_at = now() WHERE id = :job;
CALL dess_batch_wait(:job);

-- ---------------------------------------------------------------------- run
BEGIN;
CALL dess_batch_run('faculty', 'gpt-4o-mini', '{a}');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
CALL try($$ CALL dess_batch_run('faculty', 'gpt-4o-mini', '{a}') $$);
CALL dess_batch_run('faculty', 'gpt-4o-mini', '{b}');
\echo :LAST_ERROR_SQLSTATE
-- interrupted, the job goes on
-- where in the wait it is interrupted is not the same every time
\set SHOW_CONTEXT never
SET statement_timeout = '2s';
SET client_min_messages = error;
CALL dess_batch_run('faculty', 'gpt-4o-mini', '{a}', label => 'run');
\echo :LAST_ERROR_SQLSTATE
RESET client_min_messages;
RESET statement_timeout;
\set SHOW_CONTEXT errors
SELECT label, state FROM standing WHERE label = 'run';

-- many jobs in one transaction: none is met again after it was deleted
CREATE TEMP TABLE old_job AS SELECT * FROM dess_batch.job LIMIT 1;
UPDATE old_job SET state = 'done', finished_at = '2001-01-01';
INSERT INTO dess_batch.job
SELECT (jsonb_populate_record(o, jsonb_build_object('id', 1000000 + i))).* FROM old_job o, generate_series(1, 1000) i;
ANALYZE dess_batch.job;
BEGIN;
SELECT dess_batch_purge('10 years');
-- in fifty rounds, by an index or not
SELECT pg_stat_get_xact_tuples_returned('dess_batch.job_pkey'::regclass) + pg_stat_get_xact_tuples_returned('dess_batch.job'::regclass) < 10000 AS few_were_read;
COMMIT;

-- ------------------------------------------------------------- start, check
CALL try($$ SELECT dess_batch_check('no_such_server') $$);
CALL try($$ SELECT dess_batch_check(NULL) $$);
SET ROLE regress_dess_stranger;
CALL try($$ SELECT dess_batch_check('regress_dess') $$);
RESET ROLE;
SELECT dess_batch_start();

-- --------------------------------------------------------------------- end
RESET search_path;
SET client_min_messages = warning;
TRUNCATE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result, dess_batch.answer,
	dess_batch.retry_queue, dess_batch.settled, dess_batch.usage;
DROP SCHEMA control CASCADE;
DROP SERVER regress_dess CASCADE;
DROP ROLE regress_dess_owner;
DROP ROLE regress_dess_stranger;
