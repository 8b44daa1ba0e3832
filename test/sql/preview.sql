--
-- dess_batch_preview: the requests, to the letter
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dess_batch;
RESET client_min_messages;

CREATE SCHEMA preview;
CREATE SERVER regress_dess_chat FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1', models 'gpt-*,o1*,o3*,o4*,some-*');
CREATE SERVER regress_dess_responses FOREIGN DATA WRAPPER dess_batch
	OPTIONS (provider 'openai', base_url 'https://127.0.0.1:1/v1', endpoint 'responses', models 'none');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess_chat OPTIONS (api_key 'sk-regress-secret');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess_responses OPTIONS (api_key 'sk-regress-secret');
SET search_path = preview, public;
\pset format unaligned
\pset tuples_only on

-- what is sent as the user's message
CREATE FUNCTION message_of(request jsonb) RETURNS text
LANGUAGE sql RETURN coalesce(request #>> '{body,messages,-1,content}', request #>> '{body,input}');

-- ------------------------------------------------------ the built-in prompt
CREATE TABLE faculty (
	id				integer PRIMARY KEY,
	id_text			text,
	firstname		text,
	lastname		text,
	university		text,
	snippet_1		text,
	snippet_2		text,
	snippet_3		text,
	department_llm	text,
	department_old	text
);
INSERT INTO faculty VALUES
	(1, 'Samir Van-Dyke university of northern lakes', 'Samir', 'Van-Dyke', 'university of northern lakes',
		'Dr. Samir Van-Dyke, Professor, Department of Sociology, university of northern lakes',
		'Missing: Van-Dyke | Show results with: Van-Dyke', U&'\202aSamir Van-Dyke\202c · See more', NULL, 'Soc.'),
	(2, 'Priya Çelik x state university', 'Priya', 'Çelik', 'x state university', '""Priya Çelik"" nan', NULL,
		E'Tab\there, line\nend, back\\slash, {braces} and \U0001F600', NULL, NULL),
	(3, 'no snippets', 'No', 'Snippets', 'x', NULL, NULL, NULL, NULL, NULL),
	(4, 'blank snippets', 'Blank', 'Snippets', 'x', '  ', E'\n\t', '', NULL, NULL),
	(5, 'already answered', 'Has', 'Answer', 'x', 'Department of Music', NULL, NULL, 'Music', NULL),
	(6, 'third only', NULL, 'Six', NULL, NULL, NULL, 'Dept. of Art', NULL, NULL);
SELECT row_key, jsonb_pretty(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', max_rows => 1);
SELECT row_key, message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini');
-- answered rows only where they are asked for
SELECT row_key FROM dess_batch_preview('faculty', 'gpt-4o-mini', overwrite => true);
SELECT row_key FROM dess_batch_preview('faculty', 'gpt-4o-mini', where_sql => 'id > 1');
-- it writes nothing
SELECT count(*) FROM dess_batch.job;
SELECT count(*) FROM dess_batch.batch;
-- the secret is not part of a request
SELECT count(*) FROM dess_batch_preview('faculty', 'gpt-4o-mini') WHERE request::text LIKE '%sk-regress%';
-- further instructions come behind the built-in ones
SELECT DISTINCT right(request #>> '{body,messages,0,content}', 50) FROM dess_batch_preview('faculty', 'gpt-4o-mini', system_prompt => 'Prefer German names.');
-- snippets that are key columns are shown as well, and without snippets the whole row but departments
CREATE TABLE people (id integer PRIMARY KEY, name text, about text, department_1 text, department_llm text);
INSERT INTO people VALUES (1, 'Ada', 'mathematician', 'Maths', NULL);
SELECT message_of(request) FROM dess_batch_preview('people', 'gpt-4o-mini');
CREATE TABLE keyed (id_text text PRIMARY KEY, snippet_1 text, department_llm text);
INSERT INTO keyed VALUES ('Ada Byron', 'mathematician');
SELECT row_key, message_of(request) FROM dess_batch_preview('keyed', 'gpt-4o-mini');

-- ---------------------------------------------------------------- templates
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', 'Where is {firstname} {lastname}?', max_rows => 2);
-- no system message unless there is one
SELECT request #> '{body,messages}' FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{firstname}', max_rows => 1);
SELECT request #> '{body,messages}' FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{firstname}', system_prompt => E'Be "brief".\n', max_rows => 1);
-- braces, a column twice, text of the row is not a template
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{{"a": "{firstname}", "b": {{}}}} {firstname}{firstname} {{firstname}}', max_rows => 1);
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', '[{snippet_3}]', where_sql => 'id = 2');
-- nulls are nothing; a row without any text is not sent
SELECT row_key, message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', 'a{firstname}b{snippet_2}c', max_rows => 10);
SELECT row_key FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{snippet_1}', max_rows => 10);
-- {row}: without nulls, key and targets
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', 'Read {row}.', where_sql => 'id IN (1, 6)');
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{row}', input_columns => '{lastname,id,department_old}', where_sql => 'id IN (1, 6)');
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{row}', input_columns => '{snippet_1}', where_sql => 'id < 5');
SELECT message_of(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', input_columns => '{lastname,snippet_3}', max_rows => 10);
-- a column that another job writes is no input any more
SET client_min_messages = warning;
SELECT dess_batch_submit('people', 'gpt-4o-mini', '{name}', 'department_1') IS NOT NULL;
RESET client_min_messages;
SELECT message_of(request) FROM dess_batch_preview('people', 'gpt-4o-mini', '{row}', 'department_llm');
SELECT message_of(request) FROM dess_batch_preview('people', 'gpt-4o-mini', '{row} {department_1}', 'department_llm');
-- names are literal
CREATE TABLE "Quoted Names" ("The ""Id""" integer PRIMARY KEY, "Full Name" text, "full name" text, "row" text, "ä" text, a text, department_llm text);
INSERT INTO "Quoted Names" VALUES (1, 'upper', 'lower', 'a column', 'umlaut', 'plain');
SELECT row_key, message_of(request) FROM dess_batch_preview('"Quoted Names"', 'gpt-4o-mini', '{Full Name}, {full name}, {ä}, {a}, {row}');

-- -------------------------------------------------------------------- types
CREATE TYPE colour AS ENUM ('red', 'light green');
CREATE DOMAIN posint AS integer CHECK (value > 0);
CREATE TYPE pair AS (x integer, y text);
CREATE TABLE types (
	id			bigint PRIMARY KEY,
	boolean_	boolean,
	smallint_	smallint,
	bigint_		bigint,
	numeric_	numeric,
	real_		real,
	double_		double precision,
	money_		text,
	text_		text,
	char_		char(5),
	date_		date,
	time_		time,
	timestamp_	timestamp,
	timestamptz_ timestamptz,
	interval_	interval,
	uuid_		uuid,
	bytea_		bytea,
	json_		json,
	jsonb_		jsonb,
	ints_		integer[],
	texts_		text[],
	enum_		colour,
	domain_		posint,
	pair_		pair,
	range_		tstzrange,
	inet_		inet,
	department_llm text
);
INSERT INTO types VALUES
	(9007199254740993, true, -1, 9223372036854775807, 123456789012345678901234567890.10, 0.1, 0.1, NULL, 'x', 'ab',
		'2024-02-29', '13:30:00.5', '2024-02-29 13:30:00', '2024-07-01 00:00:00+02', '1 year 2 months 3 days 04:05:06',
		'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '\x00ff', '{"b" : 1,  "a": [null, 1e2]}', '{"b": 1, "a": 12345678901234567890}',
		'{1,NULL,3}', '{"a b","c\"d",NULL}', 'light green', 7, '(1,"x y")', '[2024-01-01 00:00+00,2024-01-02 00:00+00)', '10.0.0.1/8'),
	(2, false, 0, -9223372036854775808, 'NaN', 'Infinity', '-Infinity', NULL, '', NULL, 'infinity', NULL, '-infinity', NULL, '-1 day', NULL, '', '1', 'null',
		'{}', '{}', NULL, NULL, NULL, 'empty', NULL);
INSERT INTO types (id, numeric_, real_, double_) VALUES (3, 1e-7, 1e30, 1.7976931348623157e308);
SELECT message_of(request) FROM dess_batch_preview('types', 'gpt-4o-mini', '{row}');
SELECT message_of(request) FROM dess_batch_preview('types', 'gpt-4o-mini', '{boolean_} {double_} {date_} {timestamptz_} {interval_} {bytea_} {json_} {ints_} {char_}|');
-- whatever the session has
CREATE TABLE seen AS SELECT request FROM dess_batch_preview('types', 'gpt-4o-mini', '{row} {timestamptz_} {interval_} {double_} {bytea_}');
SET DateStyle = 'SQL, DMY';
SET IntervalStyle = 'sql_standard';
SET TimeZone = 'Asia/Kathmandu';
SET extra_float_digits = -5;
SET bytea_output = 'escape';
SET standard_conforming_strings = off;
SET lc_monetary = 'C';
SELECT count(*) FROM seen;
SELECT count(*) FROM (SELECT request FROM dess_batch_preview('types', 'gpt-4o-mini', '{row} {timestamptz_} {interval_} {double_} {bytea_}')
	INTERSECT SELECT request FROM seen) s;
SHOW DateStyle;
RESET DateStyle;
RESET IntervalStyle;
RESET TimeZone;
RESET extra_float_digits;
RESET bytea_output;
RESET standard_conforming_strings;
RESET lc_monetary;

-- --------------------------------------- parameters, models, endpoints, schema
CREATE FUNCTION body_of(model text, server name, parameters jsonb DEFAULT '{}', prompt text DEFAULT '{firstname}', response_schema jsonb DEFAULT NULL) RETURNS SETOF jsonb
LANGUAGE sql BEGIN ATOMIC
	SELECT (request -> 'body') - 'messages' - 'instructions' - 'input' FROM dess_batch_preview('preview.faculty'::regclass, model, prompt, server => server,
		parameters => parameters, response_schema => response_schema, max_rows => 1);
END;
SELECT DISTINCT request - 'body' - 'custom_id' FROM dess_batch_preview('faculty', 'gpt-4o-mini');
SELECT jsonb_pretty(request) FROM dess_batch_preview('faculty', 'gpt-4o-mini', '{firstname}', system_prompt => 'Be brief.', server => 'regress_dess_responses', max_rows => 1);
SELECT body_of('gpt-4o-mini', 'regress_dess_chat', '{"temperature": 0.20, "top_p": 1, "seed": 7, "max_output_tokens": 30}');
CREATE SERVER regress_dess_openai FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', models 'none');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess_openai OPTIONS (api_key 'sk-regress-secret');
SELECT body_of('gpt-4o-mini', 'regress_dess_openai', '{"max_output_tokens": 30}');
SELECT body_of('gpt-4o-mini', 'regress_dess_responses', '{"temperature": 0.20, "top_p": 1, "max_output_tokens": 30}');
SELECT body_of('gpt-5-mini', 'regress_dess_chat', '{"max_output_tokens": 30, "reasoning_effort": "low"}');
SELECT body_of('gpt-5-mini', 'regress_dess_responses', '{"max_output_tokens": 30, "reasoning_effort": "low"}');
SELECT body_of('gpt-4o-mini', 'regress_dess_chat', '{"temperature": null, "extra": {"user": "me", "logit_bias": {"1": -100}, "temperature": 1.0}}');
SELECT body_of('gpt-4o-mini', 'regress_dess_chat', '{"temperature": 0, "extra": {}}');
-- the built-in prompt asks for as little reasoning as the model allows, other prompts leave it alone
SELECT model, a ->> 'reasoning_effort', b #>> '{reasoning,effort}', c ->> 'reasoning_effort'
FROM unnest('{gpt-4o-mini,gpt-4.1,gpt-5,gpt-5-mini,gpt-5-2025-08-07,gpt-5.1,gpt-5.2-pro,gpt-5-chat-latest,o1,o1-mini,o3,o4-mini,some-model}'::text[]) WITH ORDINALITY AS m(model, n),
	body_of(model, 'regress_dess_chat', '{}', NULL) a, body_of(model, 'regress_dess_responses', '{}', NULL) b, body_of(model, 'regress_dess_chat') c
ORDER BY n;
SELECT body_of('gpt-5-mini', 'regress_dess_chat', '{"reasoning_effort": "high"}', NULL);
-- a schema is passed on as it is; strict only where it meets the rules of strict mode
SELECT body_of('gpt-4o-mini', 'regress_dess_chat', '{}', '{firstname}',
	'{"type": "object", "properties": {"department": {"type": ["string", "null"]}}, "required": ["department"], "additionalProperties": false}');
SELECT body_of('gpt-4o-mini', 'regress_dess_responses', '{}', '{firstname}',
	'{"type": "object", "properties": {"department": {"type": "string"}, "year": {"type": "integer"}}, "required": ["department"], "additionalProperties": false}');
SELECT body_of('gpt-4o-mini', 'regress_dess_chat', '{}', '{firstname}', '{"type": "array", "items": {"type": "string"}}');

-- --------------------------------------------------- which rows, and how many
CREATE TABLE many (id integer PRIMARY KEY, a text, department_llm text);
INSERT INTO many SELECT g, 'text ' || g FROM generate_series(1, 1200) g;
SELECT count(*) FROM dess_batch_preview('many', 'gpt-4o-mini', '{a}');
SELECT count(*), count(DISTINCT request ->> 'custom_id') FROM dess_batch_preview('many', 'gpt-4o-mini', '{a}', max_rows => 1100);
SELECT array_agg(row_key ->> 'id') FROM dess_batch_preview('many', 'gpt-4o-mini', '{a}', where_sql => 'id > 1195', max_rows => 100);
-- a sample is the same on every call, and grows where more are asked for
SELECT count(*), bool_and(s.row_key = t.row_key) FROM
	(SELECT row_key, row_number() OVER (ORDER BY row_key) n FROM dess_batch_preview('many', 'gpt-4o-mini', '{a}', sample => true, max_rows => 20)) s
	JOIN (SELECT row_key, row_number() OVER (ORDER BY row_key) n FROM dess_batch_preview('many', 'gpt-4o-mini', '{a}', sample => true, max_rows => 20)) t USING (n);
SELECT max((row_key ->> 'id')::integer) > 20 FROM dess_batch_preview('many', 'gpt-4o-mini', '{a}', sample => true, max_rows => 20);
-- composite keys and partitions
CREATE TABLE parts (region text, id integer, a text, department_llm text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN ('north');
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES IN ('south, "east"');
INSERT INTO parts VALUES ('south, "east"', 1, 'se 1'), ('north', 2, 'n 2'), ('north', 1, 'n 1');
SELECT row_key, message_of(request) FROM dess_batch_preview('parts', 'gpt-4o-mini', '{a}', max_rows => 10);
-- of tables with children only their own rows
CREATE TABLE child () INHERITS (people);
INSERT INTO child VALUES (2, 'Child', 'x');
SELECT row_key FROM dess_batch_preview('people', 'gpt-4o-mini', '{name}');
-- several targets: rows where all are null
CREATE TABLE several (id integer PRIMARY KEY, a text, b text, c text);
INSERT INTO several VALUES (1, 'a', NULL, NULL), (2, 'a', 'b', NULL), (3, 'a', 'b', 'c');
SELECT row_key FROM dess_batch_preview('several', 'gpt-4o-mini', '{a} in JSON', target_columns => '{"x": "b", "y": "c"}');
SELECT row_key FROM dess_batch_preview('several', 'gpt-4o-mini', '{a}', NULL);
-- what is wrong is wrong here as well
SELECT * FROM dess_batch_preview('several', 'gpt-4o-mini', '{z}', 'b');
\echo :LAST_ERROR_SQLSTATE
SELECT * FROM dess_batch_preview('several', 'gpt-4o-mini', '{a}', 'z');
\echo :LAST_ERROR_SQLSTATE

-- --------------------------------------- rows that are settled are passed over
CREATE TABLE settled (id integer PRIMARY KEY, a text, b text);
INSERT INTO settled SELECT g, 'text ' || g FROM generate_series(1, 4) g;
SET client_min_messages = warning;
SELECT dess_batch_submit('settled', 'gpt-4o-mini', '{a}', 'b') AS job \gset
RESET client_min_messages;
-- what makes a request the same for as long as the table exists
CREATE FUNCTION part(value text) RETURNS bytea
LANGUAGE sql RETURN coalesce(int4send(octet_length(value)) || convert_to(value, 'UTF8'), '\xffffffff');
CREATE FUNCTION request_hash(model text, system_prompt text, response_schema jsonb, parameters jsonb, message text) RETURNS bytea
LANGUAGE sql RETURN sha256(sha256(part(model) || part(system_prompt) || part(response_schema::text) || part(parameters::text))
	|| convert_to(message, 'UTF8'));
CREATE FUNCTION settle(job bigint, key text, message text, outcome dess_batch.outcome) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO dess_batch.settled (source, source_name, target, key, hash, key_columns, outcome)
	SELECT j.source, j.source_name, j.target, settle.key, request_hash('gpt-4o-mini', NULL, NULL, '{}', message), 'id', settle.outcome
	FROM dess_batch.job j WHERE j.id = job
$$;
SELECT settle(:job, '1', 'text 1', 'missing');
SELECT settle(:job, '2', 'text 2', 'refused');
SELECT settle(:job, '3', 'text 3, as it was', 'invalid');
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b');
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', parameters => '{ }', max_rows => 1);
-- overwrite and outcomes name them
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', overwrite => true);
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', outcomes => '{refused}');
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', outcomes => '{changed}');
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', outcomes => '{missing,changed}');
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', outcomes => '{missing,refused,invalid}', max_rows => 2);
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', outcomes => '{lost}');
-- another request is another matter: model, prompt, system prompt, parameters, target
SELECT count(*) FROM dess_batch_preview('settled', 'gpt-4o', '{a}', 'b');
SELECT count(*) FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}.', 'b');
SELECT count(*) FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', system_prompt => 'Be brief.');
SELECT count(*) FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', parameters => '{"temperature": 0}');
SELECT count(*) FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', NULL);
-- the same in a schema or in parameters that are only written differently
UPDATE dess_batch.settled SET hash = request_hash('gpt-4o-mini', 'Be brief.', '{"type": "object", "title": "t"}', '{"seed": 1, "top_p": 1}', 'text 1')
WHERE key = '1' AND source = 'settled'::regclass;
SELECT row_key FROM dess_batch_preview('settled', 'gpt-4o-mini', '{a}', 'b', system_prompt => 'Be brief.',
	response_schema => '{"title":"t",   "type":"object"}', parameters => '{"top_p":1,"seed":1}');
-- no trace is left of a preview
SELECT count(*) FROM dess_batch.retry_queue;
SELECT count(*) FROM dess_batch.job WHERE id <> :job AND source = 'settled'::regclass;

-- --------------------------------------------------------------------- end
RESET search_path;
SET client_min_messages = warning;
TRUNCATE dess_batch.job, dess_batch.batch, dess_batch.item, dess_batch.result, dess_batch.answer,
	dess_batch.retry_queue, dess_batch.settled, dess_batch.usage;
DROP SERVER regress_dess_chat CASCADE;
DROP SERVER regress_dess_responses CASCADE;
DROP SERVER regress_dess_openai CASCADE;
DROP SCHEMA preview CASCADE;
