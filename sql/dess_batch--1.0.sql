/* sql/dess_batch--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION dess_batch" to load this file. \quit

/*
 * Functions, procedures and views live in the extension's schema and are
 * called dess_batch_*.  Tables live in schema dess_batch, and no role has rights
 * on them: the views show each role what it may see, and the C code becomes
 * the owner of the tables while it works on them.
 */
CREATE SCHEMA dess_batch;
COMMENT ON SCHEMA dess_batch IS 'ledger of dess_batch: jobs, batches, items, results';

-- ------------------------------------------------------------------ servers

CREATE FUNCTION dess_batch_validator(options text[], catalog oid)
RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_validator'
LANGUAGE C STRICT STABLE PARALLEL SAFE;
COMMENT ON FUNCTION dess_batch_validator(text[], oid) IS
'checks the options of servers and user mappings of wrapper dess_batch; raises HY000-class errors (HV00D, 22023, 42501) with the valid ones in the hint';

CREATE FOREIGN DATA WRAPPER dess_batch VALIDATOR dess_batch_validator;
COMMENT ON FOREIGN DATA WRAPPER dess_batch IS
'accounts at providers of large language models: a server is an account, a user mapping holds its secret';

-- ------------------------------------------------------------------- ledger

/*
 * From here to the end of the views no name is looked up but in pg_catalog: an
 * operator or function that somebody has left in the extension's schema may
 * suit an expression better than PostgreSQL's own, and would become part of the views.
 */
SET LOCAL search_path TO pg_catalog, pg_temp;

CREATE TYPE dess_batch.outcome AS ENUM (
	'ok', 'missing', 'empty', 'stale', 'gone', 'refused', 'truncated',
	'invalid', 'rejected', 'expired', 'cancelled', 'lost',
	'superseded'				-- the row is sent once more by a later batch
);
COMMENT ON TYPE dess_batch.outcome IS 'how a row of a job ended';

-- The cluster and database that this ledger is in.  A dump that is restored adds
-- the row of where it was made, until the worker has noticed.
CREATE TABLE dess_batch.ledger (
	system_identifier text NOT NULL,
	database		oid NOT NULL
);
-- not a key: a dump may be restored where it was made.  Without either a table
-- that is published refuses DELETE.
ALTER TABLE dess_batch.ledger REPLICA IDENTITY FULL;
INSERT INTO dess_batch.ledger
SELECT c.system_identifier::text, d.oid
FROM pg_catalog.pg_control_system() c, pg_catalog.pg_database d
WHERE d.datname = pg_catalog.current_database();

CREATE SEQUENCE dess_batch.job_id_seq;

CREATE TABLE dess_batch.job (
	id				bigint PRIMARY KEY DEFAULT pg_catalog.nextval('dess_batch.job_id_seq'),
	owner			oid NOT NULL,
	owner_name		text NOT NULL,
	submitted_by	text NOT NULL,
	source			oid NOT NULL,	-- 0: the copy of the ledger found no table of that name
	source_name		text NOT NULL,	-- qualified
	target			text,			-- what is written, as one name; NULL: a trial
	model			text NOT NULL,
	mode			text NOT NULL CHECK (mode IN ('batch', 'online')),
	provider		text NOT NULL,
	server			oid NOT NULL,	-- 0: built in; 1: the copy of the ledger found none of that name
	server_name		text NOT NULL,
	label			text,
	key_columns		text[] NOT NULL,
	key_kinds		text NOT NULL,	-- a letter a key column: n number, b boolean, s anything else
	prompt			text NOT NULL,
	system_prompt	text,
	department		boolean NOT NULL,
	input_columns	text[] NOT NULL,	-- what {row} shows
	counting_columns text[] NOT NULL,	-- of these, one must have text
	where_sql		text,
	overwrite		boolean NOT NULL,
	response_schema	jsonb,
	target_columns	jsonb,
	missing			text,
	parameters		jsonb NOT NULL,
	max_rows		bigint,
	sample			boolean NOT NULL,
	outcomes		text[],
	max_cost		numeric,
	max_failed		numeric NOT NULL,
	keep			text NOT NULL,
	args			jsonb NOT NULL,
	extension_version text NOT NULL,
	home			text NOT NULL,	-- cluster and database; a copy that finds itself elsewhere is held
	stage			text NOT NULL DEFAULT 'retrieve'	-- how far it may go
					CHECK (stage IN ('prepare', 'upload', 'create', 'retrieve')),
	control			text NOT NULL DEFAULT 'run'
					CHECK (control IN ('run', 'pause', 'hold', 'cancel', 'fail')),
	held_control	text,			-- what control was before it was held
	paused_until	timestamptz,	-- paused by a budget of the server's that begins anew then
	state			text NOT NULL DEFAULT 'queued'
					CHECK (state IN ('queued', 'active', 'done', 'cancelled', 'failed')),
	listed			boolean NOT NULL DEFAULT false,	-- sample or outcomes: its rows are in the retry queue
	last_key		text,			-- the last row that was looked at
	last_batch		integer NOT NULL DEFAULT 0,
	all_prepared	boolean NOT NULL DEFAULT false,
	taken			bigint NOT NULL DEFAULT 0,	-- rows taken, against max_rows
	counted			bigint,
	requeued		bigint NOT NULL DEFAULT 0,	-- rows in the retry queue that already count
	batch_bytes		bigint,			-- smaller limit learnt from the provider
	error_code		text,
	error			text,
	created_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),
	started_at		timestamptz,
	finished_at		timestamptz
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);
CREATE INDEX job_open ON dess_batch.job (id) WHERE state IN ('queued', 'active');

CREATE TABLE dess_batch.batch (
	job_id			bigint NOT NULL,
	no				integer NOT NULL,	-- 0: rows that were never sent
	state			text NOT NULL
					CHECK (state IN ('preparing', 'prepared', 'uploading', 'uploaded', 'creating',
									 'running', 'retrieving', 'done', 'cancelled', 'failed')),
	token			text NOT NULL,	-- travels with the batch, so that it can be found again
	items			integer NOT NULL DEFAULT 0,	-- rows
	requests		integer NOT NULL DEFAULT 0,	-- lines: equal requests are one
	bytes			bigint NOT NULL DEFAULT 0,	-- of the request file that are committed
	input_uri		text,			-- "": a file may be there, under a name that is not known
	remote_id		text,
	remote_state	text,
	remote_status	text,
	remote_error	text[],			-- class, code and words, where remote_status is "failed", "expired" or "lost"
	output_uris		text[],
	remote_total	bigint,
	remote_finished	bigint,
	polls			integer NOT NULL DEFAULT 0,
	ok				integer NOT NULL DEFAULT 0,
	missing			integer NOT NULL DEFAULT 0,
	empty			integer NOT NULL DEFAULT 0,
	failed			integer NOT NULL DEFAULT 0,
	superseded		integer NOT NULL DEFAULT 0,
	unmatched		bigint NOT NULL DEFAULT 0,	-- result lines that belong to no row
	duplicates		bigint NOT NULL DEFAULT 0,	-- result lines for a row that had one
	input_tokens	bigint NOT NULL DEFAULT 0,
	cached_tokens	bigint NOT NULL DEFAULT 0,
	output_tokens	bigint NOT NULL DEFAULT 0,
	reasoning_tokens bigint NOT NULL DEFAULT 0,
	cache_write_tokens bigint NOT NULL DEFAULT 0,
	cost			numeric NOT NULL DEFAULT 0,	-- of those tokens whose price was known
	unpriced		bigint NOT NULL DEFAULT 0,	-- requests whose price was not known
	created_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),
	moved_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),	-- into its state
	polled_at		timestamptz,
	next_poll_at	timestamptz,
	finished_at		timestamptz,
	remote_deleted_at timestamptz,
	account			text,			-- that owns it at the provider: digest of the secret or of the project
	remote_created_at timestamptz,	-- when it was created at the provider
	remote_cancelled_at timestamptz,	-- when the provider was asked to cancel it
	error_code		text,
	error			text,
	PRIMARY KEY (job_id, no)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);
-- batches with anything left to do, so that a job with thousands of batches is searched quickly
CREATE INDEX batch_open ON dess_batch.batch (job_id, no)
WHERE state NOT IN ('done', 'cancelled', 'failed')
	OR remote_deleted_at IS NULL AND (input_uri IS NOT NULL OR remote_id IS NOT NULL);

-- Rows of a batch, many to a tuple; never changed after their insert but by dess_batch_forget().
CREATE TABLE dess_batch.item (
	job_id			bigint NOT NULL,
	batch_no		integer NOT NULL,
	first_no		integer NOT NULL,	-- number of the first row here, from 1 in a batch
	keys			text[] NOT NULL,
	hashes			bytea NOT NULL,		-- 32 bytes a row: SHA-256 of its request
	same_as			integer[],			-- number of the row whose request serves this one too; NULL: all are sent
	held			bytea,				-- 8 bytes a row: digest of what the target held; NULL: nothing
	attempts		smallint[],			-- which attempt this is; NULL: the first, or in batch 0 none
	PRIMARY KEY (job_id, batch_no, first_no)
);
-- digests do not compress
ALTER TABLE dess_batch.item ALTER hashes SET STORAGE EXTERNAL, ALTER held SET STORAGE EXTERNAL;

-- Outcomes, a group of rows to a tuple, appended by each merge.
CREATE TABLE dess_batch.result (
	job_id			bigint NOT NULL,
	batch_no		integer NOT NULL,
	seq				integer NOT NULL,
	nos				integer[] NOT NULL,
	outcomes		dess_batch.outcome[] NOT NULL,
	error_codes		text[],
	errors			text[],
	input_tokens	integer[],
	cached_tokens	integer[],
	output_tokens	integer[],
	reasoning_tokens integer[],
	cache_write_tokens integer[],
	prices			numeric[],		-- US dollars for a token of input, cached input, output, input written to the cache; NULL: none or not known
	finish_reasons	text[],
	model_versions	text[],
	response_ids	text[],
	finished_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (job_id, batch_no, seq)
);
-- identifiers and the order of results are random: compressing them would take time and save little
ALTER TABLE dess_batch.result ALTER COLUMN response_ids SET STORAGE EXTERNAL, ALTER COLUMN nos SET STORAGE EXTERNAL;

-- Answers that were not written, and those that "keep" asks for.
CREATE TABLE dess_batch.answer (
	job_id			bigint NOT NULL,
	batch_no		integer NOT NULL,
	no				integer NOT NULL,
	answer			text,
	reply			text,
	PRIMARY KEY (job_id, batch_no, no)
);

-- Rows that wait to be taken by their key: once more after a failure, or because "sample" or "outcomes" names them.
CREATE SEQUENCE dess_batch.retry_queue_id_seq;
CREATE TABLE dess_batch.retry_queue (
	job_id			bigint NOT NULL,
	id				bigint NOT NULL DEFAULT pg_catalog.nextval('dess_batch.retry_queue_id_seq'),
	key				text NOT NULL,
	attempts		smallint NOT NULL,	-- made so far
	counts			boolean NOT NULL,	-- already one of the job's rows, contained in job.requeued
	unless_hash		bytea,			-- the row is passed over if its request still has this hash
	PRIMARY KEY (job_id, id)
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);

-- What triggers ask for, one row for each transaction, until the worker has made a
-- job of it.  A dump leaves it out, because it concerns this database alone.
CREATE TABLE dess_batch.request (
	source			oid NOT NULL,
	trigger_name	text NOT NULL,
	arguments		text[] NOT NULL,
	updates			boolean NOT NULL,	-- rows were changed, not only inserted
	xid				bigint NOT NULL DEFAULT pg_catalog.pg_current_xact_id()::text::bigint,	-- rows of it are not older
	at				timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 500);
ALTER TABLE dess_batch.request REPLICA IDENTITY FULL;

-- Who made the triggers that ask for jobs: what they ask for is done as the
-- table's owner, so that only his own ones and those of superusers work.
CREATE TABLE dess_batch.trigger_maker (
	source_name		text NOT NULL,	-- schema.table
	name			text NOT NULL,
	trigger			oid NOT NULL,
	maker_name		text NOT NULL,
	home			text NOT NULL,	-- where it was made
	PRIMARY KEY (source_name, name)
);

-- Requests that need not be bought again although the row's target is NULL.
CREATE TABLE dess_batch.settled (
	source			oid NOT NULL,
	source_name		text NOT NULL,
	target			text COLLATE "C" NOT NULL,	-- "" for a trial
	key				text COLLATE "C" NOT NULL,
	hash			bytea NOT NULL,
	key_columns		text NOT NULL,	-- their names, joined as a key's values are
	outcome			dess_batch.outcome NOT NULL,
	settled_at		timestamptz NOT NULL DEFAULT pg_catalog.now(),
	PRIMARY KEY (source, target, key, hash)
);

CREATE TABLE dess_batch.usage (
	day				date NOT NULL,
	owner			oid NOT NULL,
	owner_name		text NOT NULL,
	server			text NOT NULL,
	model			text NOT NULL,
	mode			text NOT NULL,
	label			text NOT NULL,
	requests		bigint NOT NULL,
	input_tokens	bigint NOT NULL,
	cached_tokens	bigint NOT NULL,
	output_tokens	bigint NOT NULL,
	reasoning_tokens bigint NOT NULL,
	cache_write_tokens bigint NOT NULL,
	cost			numeric NOT NULL,	-- at the prices of that day, of what had one
	unpriced		bigint NOT NULL,	-- requests that had none
	cluster			text NOT NULL,	-- whose role the owner is
	PRIMARY KEY (day, owner, server, model, mode, label)
) WITH (fillfactor = 50);

/*
 * Prices, in US dollars for a million tokens.  Shipped rows are replaced by
 * upgrade scripts and are no part of a dump.  A row that a user adds or changes
 * is not a shipped one: it stays, and it beats those that are shipped.
 */
CREATE TABLE dess_batch.price (
	model			text NOT NULL,	-- glob: * and ?
	provider		text NOT NULL DEFAULT '*',	-- its name, or * for any
	server			text NOT NULL DEFAULT '*',	-- its name, or * for any
	input			numeric NOT NULL CHECK (input >= 0 AND input < 'Infinity'),
	cached			numeric CHECK (cached >= 0 AND cached < 'Infinity'),	-- input that the provider had in its cache; NULL: costs the same
	cache_write		numeric CHECK (cache_write >= 0 AND cache_write < 'Infinity'),	-- input that the provider wrote to its cache; NULL: costs the same
	output			numeric NOT NULL CHECK (output >= 0 AND output < 'Infinity'),	-- reasoning included
	batch_discount	numeric NOT NULL DEFAULT 0.5 CHECK (batch_discount BETWEEN 0 AND 1),	-- share by which mode batch is cheaper
	valid_from		date NOT NULL DEFAULT '-infinity',	-- in UTC
	as_of			date NOT NULL DEFAULT CURRENT_DATE,	-- when it was read
	source			text NOT NULL DEFAULT '',
	shipped			boolean NOT NULL DEFAULT false,
	PRIMARY KEY (model, provider, server, valid_from, shipped)
);
COMMENT ON TABLE dess_batch.price IS 'what models cost, in US dollars for a million tokens; for the extension''s owner to change';

CREATE FUNCTION dess_batch.price_changed()
RETURNS trigger
AS 'MODULE_PATHNAME', 'dess_batch_price_changed'
LANGUAGE C;
COMMENT ON FUNCTION dess_batch.price_changed() IS 'a price that is changed is the user''s own from then on';

CREATE TRIGGER price_changed BEFORE UPDATE ON dess_batch.price
FOR EACH ROW EXECUTE FUNCTION dess_batch.price_changed();
REVOKE EXECUTE ON FUNCTION dess_batch.price_changed() FROM PUBLIC;

/*
 * Standard prices of short requests, as read on as_of; costs are estimates.  Surcharges for
 * long inputs, regions and audio are left out, and so are models whose price is not known for certain.
 */
INSERT INTO dess_batch.price (model, provider, input, cached, cache_write, output, valid_from, as_of, source, shipped)
SELECT m.name || e.ending, m.provider, m.input, m.cached, m.cache_write, m.output, m.valid_from, m.as_of, m.source, true
FROM (
	-- from GPT-5.6 on a token that is written to the cache costs 1.25 times as much
	SELECT n.name, 'openai' AS provider, n.input, n.cached, CASE WHEN n.name ~ '^gpt-(5[.]6|6)' THEN 1.25 * n.input END AS cache_write, n.output,
		   date '-infinity' AS valid_from, date '2026-10-26' AS as_of, 'OpenAI, list of API prices' AS source,
		   ARRAY['', '-20*'] AS endings
	FROM (VALUES
		('gpt-6-astra', 10, 1, 50),
		('gpt-6-sol', 2, 0.20, 10),
		('gpt-6.1-sol', 2, 0.10, 10),
		('gpt-6.1-terra', 1, 0.05, 5),
		('gpt-6-luna', 0.10, 0.01, 0.50),
		('gpt-5.6-sol', 4, 0.40, 20),
		('gpt-5.6-terra', 2, 0.20, 12),
		('gpt-5.6-luna', 0.20, 0.02, 1.20),
		('gpt-5.5', 5, 0.50, 30),
		('gpt-5.4', 2.50, 0.25, 15),
		('gpt-5.4-mini', 0.75, 0.075, 4.50),
		('gpt-5.4-nano', 0.20, 0.02, 1.25),
		('gpt-4o', 2.50, 1.25, 10),
		('gpt-4o-mini', 0.15, 0.075, 0.60)
	) AS n(name, input, cached, output)
	UNION ALL
	-- Vertex AI is taken to cost what the Gemini API does
	SELECT n.name, g.provider, n.input, NULL, NULL, n.output, n.valid_from, '2026-10-07',
		   'Gemini API, list of prices', ARRAY['', '-0*', '-preview*']
	FROM (VALUES
		('gemini-3.8-flash', 0.75, 3.75, date '-infinity'),
		('gemini-3.8-flash', 1.50, 7.50, '2027-01-01'),
		('gemini-3.5-flash', 1.50, 9, '-infinity'),
		('gemini-3.5-flash-lite', 0.30, 2.50, '-infinity'),
		('gemini-3.1-pro', 2, 12, '-infinity'),
		('gemini-3.1-flash-lite', 0.25, 1.50, '-infinity'),
		('gemini-2.5-flash-lite', 0.10, 0.40, '-infinity')
	) AS n(name, input, output, valid_from)
		CROSS JOIN (VALUES ('gemini'), ('vertex')) AS g(provider)
	UNION ALL
	SELECT n.name, 'anthropic', n.input, NULL, NULL, n.output, '-infinity', '2026-09-24',
		   'Anthropic, list of prices', ARRAY['', '-20*']
	FROM (VALUES
		('claude-opus-5', 5, 25),
		('claude-opus-5-5', 4, 20),
		('claude-opus-4-8', 5, 25),
		('claude-opus-4-7', 5, 25),
		('claude-opus-4-6', 5, 25),
		('claude-opus-4-5', 5, 25),
		('claude-sonnet-5', 2, 10),
		('claude-sonnet-4-6', 3, 15),
		('claude-sonnet-4-5', 3, 15),
		('claude-haiku-4-5', 1, 5),
		('claude-fable-5', 10, 50)
	) AS n(name, input, output)
) m
	CROSS JOIN LATERAL pg_catalog.unnest(m.endings) AS e(ending);

/*
 * What a token costs, and the row that says so: of those that fit the user's
 * own, then the one for this server, then the most specific glob, then the one
 * for this provider, then the latest that is valid.
 */
CREATE FUNCTION dess_batch.price_of(model text, provider text, server text, online boolean, day date,
	OUT input numeric, OUT cached numeric, OUT cache_write numeric, OUT output numeric, OUT price_date date)
RETURNS SETOF record
LANGUAGE SQL STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
	SELECT p.input * u.unit, coalesce(p.cached, p.input) * u.unit, coalesce(p.cache_write, p.input) * u.unit, p.output * u.unit,
		   CASE WHEN pg_catalog.isfinite(p.valid_from) THEN p.valid_from ELSE p.as_of END
	FROM dess_batch.price p
		CROSS JOIN LATERAL (SELECT 0.000001 * (1 - CASE WHEN price_of.online THEN 0 ELSE p.batch_discount END) AS unit) u
		CROSS JOIN LATERAL (SELECT pg_catalog.length(pg_catalog.translate(p.model, '*?', '')) AS letters) g
	WHERE price_of.model LIKE pg_catalog.translate(pg_catalog.regexp_replace(p.model, '([\\%_])', '\\\1', 'g'), '*?', '%_')
		AND p.provider IN ('*', price_of.provider) AND p.server IN ('*', price_of.server)
		AND p.valid_from <= price_of.day
	ORDER BY p.shipped, p.server = '*', g.letters DESC, p.model <> price_of.model, p.provider = '*', p.valid_from DESC, p.model
	LIMIT 1;
END;
COMMENT ON FUNCTION dess_batch.price_of(text, text, text, boolean, date) IS
'US dollars for one token of input, of input read from and written to the cache, and of output; no row where no price is known';

-- one statement each: they all change the same row of pg_extension
SELECT pg_catalog.pg_extension_config_dump('dess_batch.ledger', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.job', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.batch', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.trigger_maker', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.item', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.result', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.answer', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.retry_queue_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.retry_queue', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.settled', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.usage', '');
SELECT pg_catalog.pg_extension_config_dump('dess_batch.price', 'WHERE NOT shipped');

-- ------------------------------------------------------- helpers of the views

CREATE FUNCTION dess_batch.row_key(key text, columns text[], kinds text)
RETURNS jsonb
AS 'MODULE_PATHNAME', 'dess_batch_row_key'
LANGUAGE C STRICT IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION dess_batch.row_key(text, text[], text) IS 'the key of a row as an object, from the form the ledger keeps';

CREATE FUNCTION dess_batch.home()
RETURNS text
AS 'MODULE_PATHNAME', 'dess_batch_home'
LANGUAGE C STRICT STABLE PARALLEL SAFE;
COMMENT ON FUNCTION dess_batch.home() IS 'cluster and database that the ledger is in, as "cluster/database"; jobs whose home is another one are held';

/*
 * In another cluster an OID is another role's, or nobody's: what was copied
 * from there belongs to the role of the same name.
 */
CREATE FUNCTION dess_batch.owner_here(owner oid, owner_name text, home text)
RETURNS oid
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN CASE WHEN split_part(home, '/', 1) = split_part(dess_batch.home(), '/', 1) THEN owner
	ELSE coalesce((SELECT r.oid FROM pg_catalog.pg_roles r WHERE r.rolname = owner_name), 0) END;
COMMENT ON FUNCTION dess_batch.owner_here(oid, text, text) IS 'the role that owns what has this owner in a ledger that was at home there; 0 if there is none';

CREATE FUNCTION dess_batch.source_here(source oid, source_name text, home text)
RETURNS oid
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN CASE WHEN home = dess_batch.home() THEN source ELSE coalesce(to_regclass(source_name)::oid, 0) END;
COMMENT ON FUNCTION dess_batch.source_here(oid, text, text) IS 'the same for a table';

CREATE FUNCTION dess_batch.may_see(owner oid, owner_name text, home text, statistics_only boolean)
RETURNS boolean
LANGUAGE SQL STABLE PARALLEL SAFE
RETURN pg_catalog.pg_has_role(dess_batch.owner_here(owner, owner_name, home), 'USAGE')
	OR statistics_only AND pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE');
COMMENT ON FUNCTION dess_batch.may_see(oid, text, text, boolean) IS 'whether the caller has the rights of that owner, or reads all statistics';

-- All figures of a job in one snapshot.
CREATE VIEW dess_batch.figures AS
SELECT f.*,
	   f.state IN ('done', 'cancelled', 'failed', 'paused', 'held')
		   OR f.control = 'run' AND f.all_prepared AND f.requeued = 0 AND CASE f.stage
			   WHEN 'prepare' THEN coalesce(f.least >= 1, true)
			   WHEN 'upload' THEN coalesce(f.least >= 3, true)
			   WHEN 'create' THEN coalesce(f.least >= 5, true)
			   ELSE false
		   END AS stands_still
FROM (
	SELECT j.id AS job_id, j.control, j.stage, j.all_prepared, j.requeued,
		   CASE WHEN j.all_prepared THEN b.prepared + j.requeued
				ELSE greatest(j.counted, b.prepared + j.requeued) END AS rows,
		   j.all_prepared OR j.counted IS NOT NULL AS rows_known,
		   b.*,
		   CASE
			   WHEN j.state IN ('done', 'cancelled', 'failed') THEN j.state
			   WHEN j.control = 'hold' OR j.home <> dess_batch.home() THEN 'held'
			   WHEN j.control = 'cancel' THEN 'cancelling'
			   WHEN j.control = 'pause' THEN 'paused'
			   WHEN j.state = 'queued' THEN 'queued'
			   WHEN b.least = 0 OR (NOT j.all_prepared OR b.least IS NULL AND j.requeued > 0) AND j.control <> 'fail'
				   THEN 'preparing'
			   ELSE (ARRAY['prepared', 'uploading', 'uploaded', 'creating', 'running', 'retrieving'])[coalesce(b.least, 6)]
		   END AS state
	FROM dess_batch.job j
		CROSS JOIN LATERAL (
			SELECT coalesce(sum(x.items - x.superseded), 0)::bigint AS prepared,
				   coalesce(sum(x.requests), 0)::bigint AS requests,
				   coalesce(sum(x.ok + x.missing + x.empty), 0)::bigint AS done,
				   coalesce(sum(x.failed), 0)::bigint AS failed,
				   coalesce(sum(x.ok + x.missing + x.failed) FILTER (WHERE x.no > 0), 0)::bigint AS answered,
				   coalesce(sum(x.ok + x.missing) FILTER (WHERE x.no > 0), 0)::bigint AS answered_well,
				   -- answers that are merged, or that the provider says it has
				   coalesce(sum(CASE WHEN x.state = 'retrieving' AND j.mode = 'batch' THEN x.items - x.superseded
									 WHEN x.state = 'running' AND x.requests > 0 AND x.remote_finished > 0
									 THEN x.items * least(x.remote_finished, x.requests) / x.requests
									 ELSE x.ok + x.missing + x.failed END) FILTER (WHERE x.no > 0), 0)::bigint AS reached,
				   coalesce(sum(x.requests) FILTER (WHERE x.state = 'running'), 0) AS running,
				   coalesce(sum(least(coalesce(x.remote_finished, 0), x.requests)) FILTER (WHERE x.state = 'running'), 0) AS running_reached,
				   coalesce(sum(x.input_tokens), 0)::bigint AS input_tokens,
				   coalesce(sum(x.cached_tokens), 0)::bigint AS cached_tokens,
				   coalesce(sum(x.output_tokens), 0)::bigint AS output_tokens,
				   coalesce(sum(x.reasoning_tokens), 0)::bigint AS reasoning_tokens,
				   coalesce(sum(x.cache_write_tokens), 0)::bigint AS cache_write_tokens,
				   CASE WHEN coalesce(sum(x.unpriced), 0) = 0 THEN coalesce(sum(x.cost), 0) END AS cost,
				   min(CASE x.state WHEN 'preparing' THEN 0 WHEN 'prepared' THEN 1 WHEN 'uploading' THEN 2
									WHEN 'uploaded' THEN 3 WHEN 'creating' THEN 4 WHEN 'running' THEN 5
									WHEN 'retrieving' THEN 6 END) AS least,
				   min(x.next_poll_at) FILTER (WHERE x.state = 'running') AS next_poll_at,
				   min(x.next_poll_at) FILTER (WHERE x.error_code IS NOT NULL AND x.next_poll_at > pg_catalog.now()
											   AND x.state NOT IN ('done', 'cancelled', 'failed')) AS retry_at,
				   min(x.no) FILTER (WHERE x.error_code = 'other_account' AND x.state IN ('creating', 'running', 'retrieving')) AS other_account
			FROM dess_batch.batch x
			WHERE x.job_id = j.id
		) b
) f;

-- Rows of batches with what became of them.  The join is made batch by batch, and
-- it is a full join because that is never a nested loop: the planner does not
-- know the lengths of the arrays.  OFFSET 0 keeps it so, and keeps the wide
-- columns of item below the join.
CREATE VIEW dess_batch.item_result AS
SELECT b.job_id, b.no AS batch_no, b.remote_id IS NOT NULL OR b.state = 'running' AS sent, x.*
FROM dess_batch.batch b
	CROSS JOIN LATERAL (
		SELECT i.no, i.key, i.attempts, i.hash, r.outcome, r.error_code, r.error,
			   coalesce(r.input_tokens, r.none) AS input_tokens,
			   coalesce(r.cached_tokens, r.none) AS cached_tokens,
			   coalesce(r.output_tokens, r.none) AS output_tokens,
			   coalesce(r.reasoning_tokens, r.none) AS reasoning_tokens,
			   coalesce(r.cache_write_tokens, r.none) AS cache_write_tokens,
			   CASE WHEN coalesce(r.input_tokens, 0) = 0 AND coalesce(r.output_tokens, 0) = 0 THEN r.none
					ELSE (r.input_tokens - coalesce(r.cached_tokens, 0) - coalesce(r.cache_write_tokens, 0)) * r.prices[1]
						+ coalesce(r.cached_tokens, 0) * r.prices[2] + coalesce(r.output_tokens, 0) * r.prices[3]
						+ coalesce(r.cache_write_tokens, 0) * r.prices[4]
			   END AS cost,
			   r.finish_reason, r.model_version, r.response_id, r.finished_at
		FROM (
			SELECT g.first_no + u.n::integer - 1 AS no, u.key,
				   coalesce(u.attempts, CASE WHEN b.no = 0 THEN 0 ELSE 1 END)::integer AS attempts,
				   pg_catalog.substr(h.hashes, (u.n::integer - 1) * 32 + 1, 32) AS hash
			FROM dess_batch.item g
				CROSS JOIN LATERAL (SELECT g.hashes || ''::bytea AS hashes OFFSET 0) h
				CROSS JOIN LATERAL unnest(g.keys, g.attempts) WITH ORDINALITY AS u(key, attempts, n)
			WHERE g.job_id = b.job_id AND g.batch_no = b.no
			OFFSET 0
		) i FULL JOIN (
			SELECT u.*, 0 AS none, g.prices, g.finished_at
			FROM dess_batch.result g
				CROSS JOIN LATERAL unnest(
					g.nos, g.outcomes, g.error_codes, g.errors, g.input_tokens, g.cached_tokens,
					g.output_tokens, g.reasoning_tokens, g.cache_write_tokens, g.finish_reasons, g.model_versions, g.response_ids)
					AS u(no, outcome, error_code, error, input_tokens, cached_tokens,
						 output_tokens, reasoning_tokens, cache_write_tokens, finish_reason, model_version, response_id)
			WHERE g.job_id = b.job_id AND g.batch_no = b.no
			OFFSET 0
		) r ON r.no = i.no
		OFFSET 0
	) x;

CREATE VIEW dess_batch.progress AS
SELECT j.id AS job_id, j.owner, j.owner_name, j.home, j.label, j.source, j.source_name, j.model, j.finished_at, f.state, f.stands_still,
	   p.percent,
	   pg_catalog.rpad(pg_catalog.repeat('#', coalesce(pg_catalog.trunc(p.percent / 5), 0)::integer), 20, '.') AS bar,
	   f.rows, f.rows_known, f.done, f.failed,
	   pg_catalog.round((t.answered / nullif(t.seconds, 0))::numeric, 1) AS rows_per_second,
	   -- at the rate so far; not before there is a rate, and not when only merging is left
	   CASE WHEN f.rows_known AND t.reached > 0.02 * f.rows AND t.waits > 0
				 AND f.state IN ('preparing', 'prepared', 'uploading', 'uploaded', 'creating', 'running', 'retrieving')
			THEN pg_catalog.date_trunc('second', pg_catalog.make_interval(secs => t.seconds * t.waits / t.reached)) END AS eta,
	   CASE
		   WHEN f.state IN ('done', 'cancelled', 'failed') THEN NULL
		   WHEN f.state = 'held' THEN 'dess_batch_adopt(' || j.id || ')'
		   WHEN f.state = 'paused' AND j.paused_until IS NOT NULL THEN j.error
		   WHEN f.state = 'paused' AND j.error_code = 'max_cost' THEN 'dess_batch_resume(' || j.id || ', max_cost => ...)'
		   WHEN f.state = 'paused' THEN 'dess_batch_resume(' || j.id || ')'
		   WHEN f.stands_still AND j.stage = 'prepare' THEN 'dess_batch_upload(' || j.id || ')'
		   WHEN f.stands_still AND j.stage = 'upload' THEN 'dess_batch_create(' || j.id || ')'
		   WHEN f.stands_still THEN 'dess_batch_retrieve(' || j.id || ')'
		   WHEN j.error IS NOT NULL THEN j.error
		   WHEN f.other_account IS NOT NULL AND f.state <> 'cancelling' THEN 'the account that created batch ' || f.other_account
		   WHEN f.state = 'queued' THEN 'a worker'
		   WHEN f.state = 'running' AND j.mode = 'online' THEN 'answers'
		   WHEN f.state = 'running' THEN 'the provider' ||
			   CASE WHEN f.running_reached > 0 THEN ' (' || pg_catalog.trunc(100 * f.running_reached / f.running) || ' % there)' ELSE '' END ||
			   coalesce(', next look ' || pg_catalog.to_char(f.next_poll_at, 'HH24:MI:SS'), '')
		   WHEN f.state = 'cancelling' THEN 'the provider'
		   WHEN f.retry_at IS NOT NULL THEN 'the provider, again at ' || pg_catalog.to_char(f.retry_at, 'HH24:MI:SS')
		   WHEN f.state IN ('uploading', 'creating') THEN 'the provider'
		   ELSE 'the worker'
	   END AS waiting_for
FROM dess_batch.job j
	JOIN dess_batch.figures f ON f.job_id = j.id
	CROSS JOIN LATERAL (
		-- rows that were given up were not worked at
		SELECT j.state IN ('cancelled', 'failed') OR j.control IN ('cancel', 'fail') AS given_up
	) g
	CROSS JOIN LATERAL (
		SELECT CASE WHEN NOT f.rows_known THEN NULL
					WHEN f.rows = 0 THEN 100.0
					ELSE pg_catalog.trunc(100.0 * (f.done + CASE WHEN g.given_up THEN 0 ELSE f.failed END) / f.rows, 1) END AS percent
	) p
	CROSS JOIN LATERAL (
		SELECT (CASE WHEN g.given_up THEN f.answered_well ELSE f.answered END)::double precision AS answered, f.reached::double precision AS reached,
			   f.rows - f.done - f.failed - (f.reached - f.answered) AS waits,
			   extract(epoch FROM coalesce(j.finished_at, pg_catalog.clock_timestamp()) - j.started_at)::double precision AS seconds
	) t;

-- -------------------------------------------------------------------- views

CREATE VIEW @extschema@.dess_batch_jobs WITH (security_barrier) AS
SELECT j.id AS job_id, j.label,
	   coalesce((SELECT c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.oid = dess_batch.source_here(j.source, j.source_name, j.home)), j.source_name) AS source,
	   j.target, j.model, j.server_name AS server, j.mode,
	   f.state, f.rows, f.requests, f.done, f.failed, f.rows - f.done - f.failed AS pending,
	   f.input_tokens, f.cached_tokens, f.output_tokens, f.reasoning_tokens, pg_catalog.trim_scale(f.cost) AS cost,
	   coalesce((SELECT r.rolname::text FROM pg_catalog.pg_roles r WHERE r.oid = dess_batch.owner_here(j.owner, j.owner_name, j.home)), j.owner_name) AS owner,
	   j.submitted_by, j.args, pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(coalesce(j.system_prompt || E'\n', '') || j.prompt, 'UTF8')), 'hex') AS prompt_sha256,
	   j.extension_version, j.created_at, j.started_at, j.finished_at, j.error_code, j.error, f.cache_write_tokens
FROM dess_batch.job j JOIN dess_batch.figures f ON f.job_id = j.id
WHERE dess_batch.may_see(j.owner, j.owner_name, j.home, true)
	-- a job that found no row is forgotten after a minute, even if no worker is there to remove it
	AND NOT (j.state = 'done' AND f.rows = 0 AND j.finished_at < pg_catalog.now() - interval '1 minute');
COMMENT ON VIEW @extschema@.dess_batch_jobs IS 'jobs with their state and figures; rows = done + failed + pending';

CREATE VIEW @extschema@.dess_batch_batches WITH (security_barrier) AS
SELECT b.job_id, b.no AS batch_no, b.state, b.remote_id, b.remote_state, b.requests, b.bytes,
	   nullif(b.input_uri, '') AS input_uri, pg_catalog.array_to_string(b.output_uris, ' ') AS output_uri,
	   b.created_at, b.polled_at, b.next_poll_at, b.finished_at, b.remote_deleted_at,
	   coalesce(b.error_code, CASE WHEN b.error IS NULL THEN s.code END) AS error_code, coalesce(b.error, s.words) AS error
FROM dess_batch.batch b
	JOIN dess_batch.job j ON j.id = b.job_id
	LEFT JOIN LATERAL (
		SELECT 'stray_lines' AS code, pg_catalog.format(
			'%s lines of results belong to no row of the batch, %s to a row that had one', b.unmatched, b.duplicates) AS words
	) s ON b.unmatched + b.duplicates > 0
WHERE b.no > 0 AND dess_batch.may_see(j.owner, j.owner_name, j.home, true);
COMMENT ON VIEW @extschema@.dess_batch_batches IS 'batches of the jobs, with what each stage produced at the provider';

CREATE VIEW @extschema@.dess_batch_rows WITH (security_barrier) AS
SELECT r.job_id, nullif(r.batch_no, 0) AS batch_no,
	   dess_batch.row_key(r.key, j.key_columns, j.key_kinds) AS row_key,
	   coalesce(r.outcome::text, CASE WHEN r.sent THEN 'sent' ELSE 'pending' END) AS outcome,
	   r.error_code, r.error,
	   CASE WHEN r.outcome IS NULL AND NOT r.sent THEN r.attempts - 1 ELSE r.attempts END AS attempts,
	   r.input_tokens, r.cached_tokens, r.output_tokens, r.reasoning_tokens, pg_catalog.trim_scale(r.cost) AS cost,
	   pg_catalog.encode(nullif(r.hash, pg_catalog.decode(pg_catalog.repeat('00', 32), 'hex')), 'hex') AS request_hash,
	   a.answer, r.finish_reason, r.model_version, r.response_id, r.finished_at, r.cache_write_tokens
FROM dess_batch.job j
	JOIN dess_batch.item_result r ON r.job_id = j.id
	LEFT JOIN dess_batch.answer a ON a.job_id = r.job_id AND a.batch_no = r.batch_no AND a.no = r.no
WHERE r.outcome IS DISTINCT FROM 'superseded' AND r.key IS NOT NULL
	AND dess_batch.may_see(j.owner, j.owner_name, j.home, false)
UNION ALL
SELECT w.job_id, NULL, dess_batch.row_key(w.key, j.key_columns, j.key_kinds), 'pending',
	   NULL, NULL, w.attempts, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM dess_batch.retry_queue w JOIN dess_batch.job j ON j.id = w.job_id
WHERE w.counts AND dess_batch.may_see(j.owner, j.owner_name, j.home, false);
COMMENT ON VIEW @extschema@.dess_batch_rows IS 'rows of the jobs with their outcomes; rows that were forgotten are not shown, though the figures of their job still count them';

CREATE VIEW @extschema@.dess_batch_errors WITH (security_barrier) AS
SELECT * FROM @extschema@.dess_batch_rows
WHERE outcome NOT IN ('pending', 'sent', 'ok', 'missing', 'empty');
COMMENT ON VIEW @extschema@.dess_batch_errors IS 'rows that failed, with the provider''s words';

CREATE VIEW @extschema@.dess_batch_progress WITH (security_barrier) AS
SELECT p.job_id, p.label,
	   coalesce((SELECT c.oid::regclass::text FROM pg_catalog.pg_class c WHERE c.oid = dess_batch.source_here(p.source, p.source_name, p.home)), p.source_name) AS source,
	   p.model, p.state, p.percent, p.bar, p.rows, p.done, p.failed, p.rows_per_second, p.eta, p.waiting_for
FROM dess_batch.progress p
WHERE dess_batch.may_see(p.owner, p.owner_name, p.home, true)
	AND NOT (p.state = 'done' AND p.rows = 0 AND p.finished_at < pg_catalog.now() - interval '1 minute');
COMMENT ON VIEW @extschema@.dess_batch_progress IS 'how far each job is and what it is waiting for; for \watch';

CREATE VIEW @extschema@.dess_batch_usage WITH (security_barrier) AS
SELECT u.day,
	   coalesce(r.rolname::text, u.owner_name) AS owner,
	   u.server, u.model, u.mode, nullif(u.label, '') AS label, u.requests,
	   u.input_tokens, u.cached_tokens, u.output_tokens, u.reasoning_tokens,
	   CASE WHEN u.cost > 0 OR u.unpriced = 0 THEN pg_catalog.trim_scale(u.cost) END AS cost,
	   u.cache_write_tokens, u.unpriced AS unpriced_requests
FROM dess_batch.usage u
	-- a join also keeps the view from being written through, by whoever was granted that
	LEFT JOIN pg_catalog.pg_roles r ON r.oid = dess_batch.owner_here(u.owner, u.owner_name, u.cluster)
WHERE dess_batch.may_see(u.owner, u.owner_name, u.cluster, true);
COMMENT ON VIEW @extschema@.dess_batch_usage IS 'what was used, by UTC day; outlives the jobs';

SET LOCAL search_path TO @extschema@, pg_temp;

CREATE VIEW dess_batch_prices WITH (security_barrier) AS
SELECT p.model, p.provider, p.server, p.input, p.cached, p.output, p.batch_discount,
	   p.valid_from, p.as_of, p.source, p.shipped, p.cache_write
FROM dess_batch.price p
OFFSET 0;	-- so that it cannot be written through, by whoever was granted that
COMMENT ON VIEW dess_batch_prices IS 'prices that costs are worked out with, from table dess_batch.price, which the extension''s owner changes';

GRANT SELECT ON dess_batch_jobs, dess_batch_batches, dess_batch_rows, dess_batch_errors,
	dess_batch_progress, dess_batch_usage, dess_batch_prices TO PUBLIC;

-- ---------------------------------------------------------------- submitting

CREATE FUNCTION dess_batch_submit(
	source			regclass,
	model			text,
	prompt			text DEFAULT NULL,
	target			name DEFAULT 'department_llm',
	key				name[] DEFAULT NULL,
	where_sql		text DEFAULT NULL,
	overwrite		boolean DEFAULT false,
	mode			text DEFAULT 'batch',
	server			name DEFAULT NULL,
	system_prompt	text DEFAULT NULL,
	response_schema	jsonb DEFAULT NULL,
	target_columns	jsonb DEFAULT NULL,
	input_columns	name[] DEFAULT NULL,
	missing			text DEFAULT 'MISSING',
	parameters		jsonb DEFAULT '{}',
	max_rows		bigint DEFAULT NULL,
	sample			boolean DEFAULT false,
	outcomes		text[] DEFAULT NULL,
	max_cost		numeric DEFAULT NULL,
	max_failed		numeric DEFAULT 0.5,
	keep			text DEFAULT 'unwritten',
	label			text DEFAULT NULL
) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_submit'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_submit(regclass, text, text, name, name[], text, boolean, text, name, text, jsonb, jsonb, name[], text, jsonb, bigint, boolean, text[], numeric, numeric, text, text) IS
'makes a job that sends the rows of a table to a model and writes the answers into them; returns its number at once; belongs to the transaction';

CREATE FUNCTION dess_batch_prepare(
	source			regclass,
	model			text,
	prompt			text DEFAULT NULL,
	target			name DEFAULT 'department_llm',
	key				name[] DEFAULT NULL,
	where_sql		text DEFAULT NULL,
	overwrite		boolean DEFAULT false,
	mode			text DEFAULT 'batch',
	server			name DEFAULT NULL,
	system_prompt	text DEFAULT NULL,
	response_schema	jsonb DEFAULT NULL,
	target_columns	jsonb DEFAULT NULL,
	input_columns	name[] DEFAULT NULL,
	missing			text DEFAULT 'MISSING',
	parameters		jsonb DEFAULT '{}',
	max_rows		bigint DEFAULT NULL,
	sample			boolean DEFAULT false,
	outcomes		text[] DEFAULT NULL,
	max_cost		numeric DEFAULT NULL,
	max_failed		numeric DEFAULT 0.5,
	keep			text DEFAULT 'unwritten',
	label			text DEFAULT NULL
) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_prepare'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_prepare(regclass, text, text, name, name[], text, boolean, text, name, text, jsonb, jsonb, name[], text, jsonb, bigint, boolean, text[], numeric, numeric, text, text) IS
'like dess_batch_submit, but the job stops when all its request files are ready; go on with dess_batch_upload';

CREATE FUNCTION dess_batch_preview(
	source			regclass,
	model			text,
	prompt			text DEFAULT NULL,
	target			name DEFAULT 'department_llm',
	key				name[] DEFAULT NULL,
	where_sql		text DEFAULT NULL,
	overwrite		boolean DEFAULT false,
	mode			text DEFAULT 'batch',
	server			name DEFAULT NULL,
	system_prompt	text DEFAULT NULL,
	response_schema	jsonb DEFAULT NULL,
	target_columns	jsonb DEFAULT NULL,
	input_columns	name[] DEFAULT NULL,
	missing			text DEFAULT 'MISSING',
	parameters		jsonb DEFAULT '{}',
	max_rows		bigint DEFAULT 5,
	sample			boolean DEFAULT false,
	outcomes		text[] DEFAULT NULL,
	max_cost		numeric DEFAULT NULL,
	max_failed		numeric DEFAULT 0.5,
	keep			text DEFAULT 'unwritten',
	label			text DEFAULT NULL,
	OUT row_key jsonb, OUT request jsonb
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dess_batch_preview'
LANGUAGE C VOLATILE PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION dess_batch_preview(regclass, text, text, name, name[], text, boolean, text, name, text, jsonb, jsonb, name[], text, jsonb, bigint, boolean, text[], numeric, numeric, text, text) IS
'the exact request lines that dess_batch_submit would send for the first rows; sends nothing, writes nothing';

CREATE FUNCTION dess_batch_estimate(
	source			regclass,
	model			text,
	prompt			text DEFAULT NULL,
	target			name DEFAULT 'department_llm',
	key				name[] DEFAULT NULL,
	where_sql		text DEFAULT NULL,
	overwrite		boolean DEFAULT false,
	mode			text DEFAULT 'batch',
	server			name DEFAULT NULL,
	system_prompt	text DEFAULT NULL,
	response_schema	jsonb DEFAULT NULL,
	target_columns	jsonb DEFAULT NULL,
	input_columns	name[] DEFAULT NULL,
	missing			text DEFAULT 'MISSING',
	parameters		jsonb DEFAULT '{}',
	max_rows		bigint DEFAULT NULL,
	sample			boolean DEFAULT false,
	outcomes		text[] DEFAULT NULL,
	max_cost		numeric DEFAULT NULL,
	max_failed		numeric DEFAULT 0.5,
	keep			text DEFAULT 'unwritten',
	label			text DEFAULT NULL,
	OUT rows bigint, OUT requests bigint, OUT batches bigint,
	OUT input_tokens bigint, OUT output_tokens bigint, OUT cost numeric, OUT price_date date
) RETURNS record
AS 'MODULE_PATHNAME', 'dess_batch_estimate'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_estimate(regclass, text, text, name, name[], text, boolean, text, name, text, jsonb, jsonb, name[], text, jsonb, bigint, boolean, text[], numeric, numeric, text, text) IS
'what a job with these arguments would take, from a sample of its rows; cost is in US dollars, NULL where no price is known; sends nothing, writes nothing';

CREATE PROCEDURE dess_batch_run(
	source			regclass,
	model			text,
	prompt			text DEFAULT NULL,
	target			name DEFAULT 'department_llm',
	key				name[] DEFAULT NULL,
	where_sql		text DEFAULT NULL,
	overwrite		boolean DEFAULT false,
	mode			text DEFAULT 'batch',
	server			name DEFAULT NULL,
	system_prompt	text DEFAULT NULL,
	response_schema	jsonb DEFAULT NULL,
	target_columns	jsonb DEFAULT NULL,
	input_columns	name[] DEFAULT NULL,
	missing			text DEFAULT 'MISSING',
	parameters		jsonb DEFAULT '{}',
	max_rows		bigint DEFAULT NULL,
	sample			boolean DEFAULT false,
	outcomes		text[] DEFAULT NULL,
	max_cost		numeric DEFAULT NULL,
	max_failed		numeric DEFAULT 0.5,
	keep			text DEFAULT 'unwritten',
	label			text DEFAULT NULL,
	INOUT job		bigint DEFAULT NULL
)
AS 'MODULE_PATHNAME', 'dess_batch_run'
LANGUAGE C;
COMMENT ON PROCEDURE dess_batch_run(regclass, text, text, name, name[], text, boolean, text, name, text, jsonb, jsonb, name[], text, jsonb, bigint, boolean, text[], numeric, numeric, text, text, bigint) IS
'submits, commits, waits and prints progress as notices; raises an error when the job ends failed or paused; Ctrl-C leaves the job running';

-- ------------------------------------------------------------ stage by stage

CREATE FUNCTION dess_batch_upload(job bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_upload'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_upload(bigint) IS
'lets a prepared job go one stage further: its request files are uploaded; returns the job';

CREATE FUNCTION dess_batch_create(job bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_create'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_create(bigint) IS
'lets an uploaded job go one stage further: its batches are created at the provider; returns the job';

CREATE FUNCTION dess_batch_retrieve(job bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_retrieve'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_retrieve(bigint) IS
'lets a created job go to its end: results are fetched and merged; returns the job';

CREATE FUNCTION dess_batch_status(job bigint) RETURNS text
AS 'MODULE_PATHNAME', 'dess_batch_status'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_status(bigint) IS
'asks for a look at the provider and returns the last known state';

CREATE PROCEDURE dess_batch_wait(job bigint, timeout interval DEFAULT NULL, INOUT state text DEFAULT NULL)
AS 'MODULE_PATHNAME', 'dess_batch_wait'
LANGUAGE C;
COMMENT ON PROCEDURE dess_batch_wait(bigint, interval, text) IS
'returns when the job stands still; past the timeout raises 57014; in the transaction that submitted raises 55000';

-- ------------------------------------------------------------------- control

CREATE FUNCTION dess_batch_cancel(job bigint) RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_cancel'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_cancel(bigint) IS
'cancels the job, at the provider too; what was finished is merged';

CREATE FUNCTION dess_batch_pause(job bigint) RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_pause'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_pause(bigint) IS
'stops sending; polling and merging go on';

CREATE FUNCTION dess_batch_resume(job bigint, max_cost numeric DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_resume'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_resume(bigint, numeric) IS
'lets a paused job go on, with a new budget if given';

CREATE FUNCTION dess_batch_retry(job bigint, outcomes text[] DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_retry'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_retry(bigint, text[]) IS
'sends failed rows again, by default all but gone and refused; returns how many';

CREATE FUNCTION dess_batch_adopt(job bigint DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_adopt'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_adopt(bigint) IS
'takes over jobs that are held because this ledger came from elsewhere';

CREATE FUNCTION dess_batch_erase(job bigint) RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_erase'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_erase(bigint) IS
'removes the job''s files and jobs at the provider and its kept answers';

CREATE FUNCTION dess_batch_forget(source regclass, row_key jsonb) RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_forget'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_forget(regclass, jsonb) IS
'removes every trace of a row from the ledger';

CREATE FUNCTION dess_batch_purge(older_than interval) RETURNS bigint
AS 'MODULE_PATHNAME', 'dess_batch_purge'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_purge(interval) IS
'forgets jobs that finished longer ago than this; returns how many; what settles rows and usage stay';

CREATE FUNCTION dess_batch.note_trigger_makers() RETURNS event_trigger
AS 'MODULE_PATHNAME', 'dess_batch_note_trigger_makers'
LANGUAGE C;
COMMENT ON FUNCTION dess_batch.note_trigger_makers() IS 'remembers who makes triggers that call dess_batch_trigger';
CREATE EVENT TRIGGER dess_batch_trigger_makers ON ddl_command_end WHEN TAG IN ('CREATE TRIGGER')
	EXECUTE FUNCTION dess_batch.note_trigger_makers();
COMMENT ON EVENT TRIGGER dess_batch_trigger_makers IS 'remembers who makes triggers that call dess_batch_trigger';

CREATE FUNCTION dess_batch_trigger() RETURNS trigger
AS 'MODULE_PATHNAME', 'dess_batch_trigger'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_trigger() IS
'AFTER INSERT OR UPDATE ... FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger(''model'' [, ''argument=value'' ...]): one job of the table''s owner for rows that were inserted or changed since the trigger was made, with ''old_rows=true'' also for older ones without an answer; only triggers made by the owner or a superuser work; a wrong argument fails the job, never the statement; raises 39P01 for another kind of trigger';

-- The worker passes arguments of exactly these types, so that no function of that
-- name that somebody else creates suits them better.  The cost is high so that
-- keys are compared first, whatever operator compares them.
CREATE FUNCTION dess_batch_unchanged(n bigint, columns record) RETURNS boolean
AS 'MODULE_PATHNAME', 'dess_batch_unchanged'
LANGUAGE C VOLATILE PARALLEL UNSAFE COST 100;
COMMENT ON FUNCTION dess_batch_unchanged(bigint, record) IS
'part of the worker''s UPDATE of a user''s table: is the row still what was sent? Not to be called otherwise';

CREATE FUNCTION dess_batch_start() RETURNS void
AS 'MODULE_PATHNAME', 'dess_batch_start'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_start() IS
'starts the worker of this database if it is not running';

-- ------------------------------------------------------------------- looking

CREATE FUNCTION dess_batch_show(job bigint, row_key jsonb, OUT request jsonb, OUT is_current boolean, OUT answer text, OUT reply jsonb) RETURNS record
AS 'MODULE_PATHNAME', 'dess_batch_show'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_show(bigint, jsonb) IS
'what was asked and answered for one row';

CREATE FUNCTION dess_batch_explain(job bigint) RETURNS SETOF text
AS 'MODULE_PATHNAME', 'dess_batch_explain'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION dess_batch_explain(bigint) IS
'why the job is waiting, in words with the remedy';

CREATE FUNCTION dess_batch_check(server name, OUT step text, OUT ok boolean, OUT detail text) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dess_batch_check'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE ROWS 5;
COMMENT ON FUNCTION dess_batch_check(name) IS
'tries an account step by step; the one call that does network in the caller''s backend';

CREATE FUNCTION dess_batch_report(job bigint) RETURNS text
AS 'MODULE_PATHNAME', 'dess_batch_report'
LANGUAGE C VOLATILE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_report(bigint) IS
'a page of HTML about the job that needs nothing from elsewhere: outcomes, progress, batches, tokens and cost, errors, sample rows, prompt; for whoever has the rights of the job''s owner';

-- ---------------------------------------------------------------- comparison

CREATE FUNCTION dess_batch_agreement(
	source regclass, column_a name, column_b name,
	OUT rows bigint, OUT both_present bigint, OUT equal bigint, OUT contained bigint, OUT different bigint,
	OUT only_a bigint, OUT only_b bigint, OUT neither bigint, OUT share numeric
) RETURNS record
AS 'MODULE_PATHNAME', 'dess_batch_agreement'
LANGUAGE C STABLE STRICT PARALLEL UNSAFE;
COMMENT ON FUNCTION dess_batch_agreement(regclass, name, name) IS
'how far two columns of departments agree: equal after normalising, one contained in the other, different, or only one present (MISSING is nothing); share is equal / both_present';

CREATE FUNCTION dess_batch_agreement_rows(
	source regclass, column_a name, column_b name, class text,
	OUT row_key jsonb, OUT a text, OUT b text
) RETURNS SETOF record
AS 'MODULE_PATHNAME', 'dess_batch_agreement_rows'
LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 1000;
COMMENT ON FUNCTION dess_batch_agreement_rows(regclass, name, name, text) IS
'the rows behind a figure of dess_batch_agreement; class is equal, contained, different, only_a, only_b, neither or both_present; row_key is null for views and foreign tables';

-- -------------------------------------------------------------------- rights

/*
 * The views call functions of the ledger's schema as whoever reads them.
 * The names stand here without arguments, so that CREATE EXTENSION fails where
 * somebody has left another function of such a name, to be called by mistake.
 */
GRANT EXECUTE ON FUNCTION dess_batch.row_key, dess_batch.may_see, dess_batch.owner_here, dess_batch.source_here, dess_batch.home TO PUBLIC;
GRANT EXECUTE ON FUNCTION dess_batch_validator,
	dess_batch_submit, dess_batch_prepare, dess_batch_preview, dess_batch_estimate, dess_batch_trigger,
	dess_batch_upload, dess_batch_create, dess_batch_retrieve, dess_batch_status,
	dess_batch_cancel, dess_batch_pause, dess_batch_resume, dess_batch_retry,
	dess_batch_adopt, dess_batch_erase, dess_batch_forget, dess_batch_purge, dess_batch_start,
	dess_batch_unchanged, dess_batch_show, dess_batch_explain, dess_batch_check, dess_batch_report,
	dess_batch_agreement, dess_batch_agreement_rows TO PUBLIC;
GRANT EXECUTE ON PROCEDURE dess_batch_run, dess_batch_wait TO PUBLIC;
