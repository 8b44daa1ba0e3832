--
-- prices, dess_batch_estimate and what is refused of budgets
--
-- No worker acts here, so nothing is spent.
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dess_batch;
RESET client_min_messages;

CREATE SCHEMA cost;
SET search_path = cost, public;
SET datestyle = 'ISO';
CREATE ROLE regress_dess_cost;

-- ------------------------------------------------------------- shipped prices

-- dollars for a million tokens, as they come out of the unit prices
CREATE FUNCTION cost.price(model text, provider text DEFAULT 'openai', server text DEFAULT 's', online boolean DEFAULT true, day date DEFAULT '2026-11-22')
RETURNS text
LANGUAGE sql
AS $$
	SELECT trim_scale(p.input * 1000000) || ' / ' || trim_scale(p.cached * 1000000) || ' / ' || trim_scale(p.output * 1000000) || ', ' || p.price_date
	FROM dess_batch.price_of($1, $2, $3, $4, $5) p
$$;

SELECT count(*) > 50 AS many, bool_and(shipped) AS shipped, bool_and(source <> '') AS sources,
	bool_and(as_of <= current_date) AS read, bool_and(batch_discount = 0.5) AS half
FROM dess_batch_prices;
SELECT price('gpt-4o-mini');
SELECT price('gpt-4o-mini', online => false);
SELECT price('gpt-4o-mini-2024-07-18');
-- other models whose names begin so are not that model
SELECT price('gpt-4o-mini-audio-preview') IS NULL AS none, price('gpt-4o-minimal') IS NULL AS none, price('gpt-4o-min') IS NULL AS none;
-- nor is the same name elsewhere
SELECT price('gpt-4o-mini', 'gemini') IS NULL AS none;
SELECT price('gemini-3.5-flash', 'gemini'), price('gemini-3.5-flash', 'vertex'), price('gemini-3.5-flash-lite', 'vertex');
-- a price with an end
SELECT day, price('gemini-3.8-flash', 'gemini', day => day)
FROM unnest('{2026-12-31, 2027-01-01, 2030-01-01}'::date[]) day;
-- the one whose clock is wrong gets prices as well
SELECT price('gpt-4o-mini', day => '2001-01-01');
-- of a discount, to the last digit
SELECT * FROM dess_batch.price_of('gpt-6.1-terra', 'openai', 's', false, '2026-11-22');

-- ----------------------------------------------------------- the user's prices

BEGIN;
INSERT INTO dess_batch.price (model, input, output, valid_from, source) VALUES
	('gpt-4o*', 7, 8, '2026-01-01', 'a contract'),
	('gpt-4o*', 9, 10, '2026-12-01', 'a contract');
-- they beat those that are shipped, however vague; what is not valid yet does not count
SELECT price('gpt-4o-mini'), price('gpt-4o-mini', day => '2026-12-01'), price('gpt-4o-mini', day => '2025-12-31');
-- the more specific one goes first, then the latest
INSERT INTO dess_batch.price (model, input, cached, output, batch_discount, valid_from) VALUES
	('gpt-4o-m*', 1, 0.5, 2, 0.25, '2026-01-01'),
	('gpt-4o-m??i', 3, 0.5, 4, 0, '2026-02-01');
SELECT price('gpt-4o-mini'), price('gpt-4o-mini', online => false), price('gpt-4o-mxni'), price('gpt-4o-mono', online => false);
INSERT INTO dess_batch.price (model, input, output, valid_from) VALUES ('gpt-4o-mini', 5, 6, '2026-01-01');
SELECT price('gpt-4o-mini');
-- for one provider, for one server
INSERT INTO dess_batch.price (model, provider, input, output, valid_from) VALUES ('gpt-4o-mini', 'openai', 11, 12, '2026-01-01');
INSERT INTO dess_batch.price (model, server, input, output, valid_from) VALUES ('*', 'at home', 0, 0, '2026-01-01');
SELECT price('gpt-4o-mini'), price('gpt-4o-mini', 'other'), price('gpt-4o-mini', server => 'at home'), price('llama', 'openai', 'at home');
ROLLBACK;

-- wild cards of LIKE are none
BEGIN;
INSERT INTO dess_batch.price (model, input, output, valid_from) VALUES ('my_model\%', 1, 1, '2026-01-01');
SELECT price('my_model\%'), price('my-model\%') IS NULL AS none, price('my_model\x') IS NULL AS none;
ROLLBACK;

-- who corrects a shipped price owns it from then on
BEGIN;
UPDATE dess_batch.price SET input = 0.2 WHERE model = 'gpt-4o-mini';
SELECT model, input, shipped FROM dess_batch_prices WHERE model LIKE 'gpt-4o-mini%' ORDER BY model;
SELECT price('gpt-4o-mini'), price('gpt-4o-mini-2024-07-18');
ROLLBACK;

\set VERBOSITY terse
INSERT INTO dess_batch.price (model, input, output) VALUES ('x', -1, 0);
INSERT INTO dess_batch.price (model, input, output) VALUES ('x', 0, 'NaN');
INSERT INTO dess_batch.price (model, input, cached, output) VALUES ('x', 0, 'Infinity', 0);
INSERT INTO dess_batch.price (model, input, output, batch_discount) VALUES ('x', 0, 0, 1.5);
INSERT INTO dess_batch.price (model, input) VALUES ('x', 0);
\set VERBOSITY default

-- its trigger is for no other table, whoever may look into the schema
SELECT has_function_privilege('regress_dess_cost', 'dess_batch.price_changed()', 'EXECUTE');
CREATE TABLE cost.parcel (id integer PRIMARY KEY, shipped text);
INSERT INTO cost.parcel VALUES (1, 'yesterday');
CREATE TRIGGER price_changed BEFORE UPDATE ON cost.parcel FOR EACH ROW EXECUTE FUNCTION dess_batch.price_changed();
UPDATE cost.parcel SET id = 2;
DROP TABLE cost.parcel;

-- a dump has the user's own
SELECT extcondition[array_position(extconfig, 'dess_batch.price'::regclass::oid)] FROM pg_extension WHERE extname = 'dess_batch';

-- everybody may read them, nobody else write
SET ROLE regress_dess_cost;
SELECT count(*) > 50 AS many FROM dess_batch_prices;
UPDATE dess_batch_prices SET input = 0;
INSERT INTO dess_batch.price (model, input, output) VALUES ('x', 0, 0);
RESET ROLE;

-- ------------------------------------------------------------------ estimates

CREATE SERVER regress_dess_cost FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1', models 'gpt-*', max_batch_requests '100');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess_cost OPTIONS (api_key 'sk-regress');
CREATE TABLE texts (id integer PRIMARY KEY, body text, answer text);
INSERT INTO texts SELECT i, repeat('word', 99) || to_char(i, 'FM0000'), NULL FROM generate_series(1, 250) i;

-- 400 bytes each are 100 tokens; an answer that nothing is known of is 100 tokens
CREATE FUNCTION cost.estimate(condition text DEFAULT NULL, limit_rows bigint DEFAULT NULL, parameters jsonb DEFAULT '{}', mode text DEFAULT 'batch', again boolean DEFAULT false)
RETURNS TABLE (rows bigint, requests bigint, batches bigint, a_request numeric, output_tokens bigint, cost numeric, price_date date)
LANGUAGE sql
AS $$
	SELECT e.rows, e.requests, e.batches, round(e.input_tokens::numeric / nullif(e.requests, 0)), e.output_tokens, e.cost, e.price_date
	FROM dess_batch_estimate('cost.texts', 'gpt-4o-mini', '{body}', 'answer', where_sql => $1, max_rows => $2, parameters => $3, mode => $4, overwrite => $5) e
$$;
SELECT * FROM estimate();
SELECT * FROM estimate(mode => 'online');
SELECT * FROM estimate('id <= 20');
SELECT * FROM estimate('id > 10', 30);
SELECT * FROM estimate(parameters => '{"max_output_tokens": 20}');
SELECT * FROM estimate('id < 0');
-- rows that have an answer or no text are not sent, equal ones once
UPDATE texts SET answer = 'yes' WHERE id <= 10;
UPDATE texts SET body = '  ' WHERE id BETWEEN 11 AND 20;
UPDATE texts SET body = 'the same' WHERE id BETWEEN 21 AND 50;
SELECT rows, requests, batches FROM estimate();
SELECT rows, requests, batches FROM estimate(again => true);
-- a sample
SELECT rows, requests FROM dess_batch_estimate('texts', 'gpt-4o-mini', '{body}', 'answer', max_rows => 7, sample => true);
-- no price, no cost
SELECT requests, cost IS NULL AS unknown, price_date IS NULL AS none FROM dess_batch_estimate('texts', 'gpt-nobody-knows', '{body}', 'answer');
-- nor is a budget refused that is only asked about
SELECT requests, cost FROM dess_batch_estimate('texts', 'gpt-nobody-knows', '{body}', 'answer', max_cost => 1);
-- what submit refuses is refused
SELECT * FROM dess_batch_estimate('texts', 'gpt-4o-mini', '{nobody}', 'answer');
-- nothing is left behind
SELECT count(*) FROM dess_batch.job WHERE source = 'texts'::regclass;

-- a large table is not read as a whole: half of its rows have an answer, four others each share a text
CREATE TABLE many (id integer PRIMARY KEY, body text, answer text) WITH (autovacuum_enabled = off);
INSERT INTO many SELECT i, repeat('word', 24) || to_char(i / 8, 'FM0000000'), CASE WHEN i % 2 = 0 THEN 'yes' END FROM generate_series(0, 199999) i;
CREATE FUNCTION cost.near(share numeric)
RETURNS TABLE (rows boolean, requests boolean, batches boolean, input_tokens boolean)
LANGUAGE sql
AS $$
	SELECT abs(e.rows / 100000.0 - 1) < share, abs(e.requests / 25000.0 - 1) < share,
		abs(e.batches / 250.0 - 1) < share, abs(e.input_tokens / (25000 * 26.0) - 1) < share
	FROM dess_batch_estimate('cost.many', 'gpt-4o-mini', '{body}', 'answer') e
$$;
SELECT * FROM near(0.35);
ANALYZE many;
SELECT * FROM near(0.15);
-- with batches as large as can be; equal rows that lie together, and such that do not
ALTER SERVER regress_dess_cost OPTIONS (DROP max_batch_requests);
SELECT * FROM dess_batch_estimate('many', 'gpt-4o-mini', '{body}', 'answer') WHERE abs(requests / 25000.0 - 1) > 0.15;
UPDATE many SET body = repeat('word', 24) || to_char(id % 500, 'FM0000000');
VACUUM ANALYZE many;
SELECT requests BETWEEN 450 AND 1100 AS requests, batches FROM dess_batch_estimate('many', 'gpt-4o-mini', '{body}', 'answer');
-- statistics of a table that has become another one are not believed
UPDATE pg_class SET reltuples = reltuples * 5 WHERE oid = 'many'::regclass;
SELECT rows BETWEEN 65000 AND 135000 AS rows FROM dess_batch_estimate('many', 'gpt-4o-mini', '{body}', 'answer');
SELECT rows FROM dess_batch_estimate('many', 'gpt-4o-mini', '{body}', 'answer', max_rows => 123);

-- -------------------------------------------------------------------- budgets

SELECT dess_batch_submit('texts', 'gpt-4o-nobody', '{body}', 'answer', max_cost => 1);
SELECT dess_batch_submit('texts', 'gpt-4o-mini', '{body}', 'answer', max_cost => -1);
SELECT dess_batch_submit('texts', 'gpt-4o-mini', '{body}', 'answer', max_cost => 'NaN');
ALTER SERVER regress_dess_cost OPTIONS (ADD max_cost_per_month '10');
SELECT dess_batch_submit('texts', 'gpt-4o-nobody', '{body}', 'answer');
ALTER SERVER regress_dess_cost OPTIONS (DROP max_cost_per_month);
SET client_min_messages = warning;
SELECT dess_batch_submit('texts', 'gpt-4o-mini', '{body}', 'answer', max_cost => 1.50) AS job,
	dess_batch_submit('texts', 'gpt-4o-nobody', '{body}', 'answer') AS unpriced \gset
RESET client_min_messages;
SELECT j.max_cost, v.args -> 'max_cost' AS args FROM dess_batch.job j JOIN dess_batch_jobs v ON v.job_id = j.id WHERE id = :job;
SELECT cost FROM dess_batch_jobs WHERE job_id = :job;
-- a running job gets a higher one, too
SELECT dess_batch_resume(:job, 3);
SELECT max_cost FROM dess_batch.job WHERE id = :job;
\set VERBOSITY terse
SELECT dess_batch_resume(:job, -3);
SELECT dess_batch_resume(:unpriced, 3);
\set VERBOSITY default

DELETE FROM dess_batch.job WHERE id IN (:job, :unpriced);
SET client_min_messages = warning;
DROP SERVER regress_dess_cost CASCADE;
DROP SCHEMA cost CASCADE;
DROP ROLE regress_dess_cost;
