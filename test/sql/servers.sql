--
-- Options of servers and user mappings
--
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS dess_batch;
RESET client_min_messages;

CREATE ROLE regress_dess_app;
GRANT USAGE ON FOREIGN DATA WRAPPER dess_batch TO regress_dess_app;

-- the wrapper: no options, no foreign tables
ALTER FOREIGN DATA WRAPPER dess_batch OPTIONS (ADD provider 'openai');
\echo :LAST_ERROR_SQLSTATE

-- a server needs a provider that is there; the hint lists them
\set VERBOSITY terse
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch;
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'oracle');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'OpenAI');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (models 'gpt-*');
\set VERBOSITY default

-- unknown options
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', host 'x');
\echo :LAST_ERROR_SQLSTATE
-- a secret does not belong here
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', api_key 'sk-1');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', "Models" 'gpt-*');
\echo :LAST_ERROR_SQLSTATE

-- everything that servers of every provider have, and what this provider has
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (
	provider 'openai', models 'gpt-*, o1* ,ft:gpt-?', base_url 'https://api.example.com/v1/',
	api_key_env 'MY_KEY_2', api_key_file '/etc/keys/openai', ca_file '/etc/ca.pem',
	proxy 'http://proxy.example.com:3128', max_concurrency '10000',
	requests_per_minute '1', tokens_per_minute '9223372036854775807',
	max_batch_requests '100', max_batch_bytes '1000000', max_active_batches '2',
	max_enqueued_tokens '90000', max_cost_per_day '2.50', max_cost_per_month '0',
	poll_interval '1', request_timeout '86400', endpoint 'responses',
	organization 'org-1', openai_project 'proj_1');
SELECT option_name, option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)
WHERE srvname = 'regress_dess' ORDER BY option_name COLLATE "C";

-- values
ALTER SERVER regress_dess OPTIONS (SET endpoint 'completions');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (SET models '');
ALTER SERVER regress_dess OPTIONS (SET models 'gpt-*,,o1');
ALTER SERVER regress_dess OPTIONS (SET models 'gpt-* o1');
ALTER SERVER regress_dess OPTIONS (SET models 'gpt-*,');
ALTER SERVER regress_dess OPTIONS (SET models E'gpt-*\n');
ALTER SERVER regress_dess OPTIONS (SET max_concurrency '0');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (SET max_concurrency '10001');
ALTER SERVER regress_dess OPTIONS (SET max_concurrency '-1');
ALTER SERVER regress_dess OPTIONS (SET max_concurrency '8x');
ALTER SERVER regress_dess OPTIONS (SET max_concurrency ' 8');
ALTER SERVER regress_dess OPTIONS (SET max_concurrency '1.5');
ALTER SERVER regress_dess OPTIONS (SET max_concurrency '99999999999999999999');
ALTER SERVER regress_dess OPTIONS (SET tokens_per_minute '9223372036854775808');
ALTER SERVER regress_dess OPTIONS (SET max_batch_requests 'many');
ALTER SERVER regress_dess OPTIONS (SET poll_interval '0.5');
ALTER SERVER regress_dess OPTIONS (SET request_timeout '90000');
ALTER SERVER regress_dess OPTIONS (SET max_cost_per_day '-1');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (SET max_cost_per_day 'NaN');
ALTER SERVER regress_dess OPTIONS (SET max_cost_per_day '1e9');
ALTER SERVER regress_dess OPTIONS (SET max_cost_per_day '.');
ALTER SERVER regress_dess OPTIONS (SET max_cost_per_month '$5');
ALTER SERVER regress_dess OPTIONS (SET api_key_env 'NO-SUCH NAME');
ALTER SERVER regress_dess OPTIONS (SET api_key_env '1ST');
ALTER SERVER regress_dess OPTIONS (SET api_key_file 'keys/openai');
ALTER SERVER regress_dess OPTIONS (SET ca_file '');
ALTER SERVER regress_dess OPTIONS (SET proxy 'http://me:secret@proxy.example.com');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (SET proxy 'ftp://proxy.example.com');
ALTER SERVER regress_dess OPTIONS (SET organization E'org\r\nX-Evil: 1');
\echo :LAST_ERROR_SQLSTATE

-- addresses
ALTER SERVER regress_dess OPTIONS (SET base_url 'api.example.com');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (SET base_url 'ftp://api.example.com');
ALTER SERVER regress_dess OPTIONS (SET base_url 'file:///etc/passwd');
ALTER SERVER regress_dess OPTIONS (SET base_url 'https://me:secret@api.example.com/');
ALTER SERVER regress_dess OPTIONS (SET base_url 'https://api.example.com/v1?key=secret');
ALTER SERVER regress_dess OPTIONS (SET base_url 'https://api.example.com/#v1');
ALTER SERVER regress_dess OPTIONS (SET base_url 'https://');
ALTER SERVER regress_dess OPTIONS (SET base_url '');
ALTER SERVER regress_dess OPTIONS (SET base_url 'http://127.0.0.1:8080/v1');
ALTER SERVER regress_dess OPTIONS (SET base_url 'http://[::1]:8080/v1');

-- the provider stays
\set VERBOSITY terse
ALTER SERVER regress_dess OPTIONS (DROP provider);
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (ADD nonsense '1');
\echo :LAST_ERROR_SQLSTATE
SELECT option_name, option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)
WHERE srvname = 'regress_dess' AND option_name IN ('base_url', 'max_concurrency', 'models')
ORDER BY option_name COLLATE "C";

\set VERBOSITY default

-- the wrapper has no tables
CREATE FOREIGN TABLE regress_dess_table (a int) SERVER regress_dess;
\echo :LAST_ERROR_SQLSTATE

-- nobody but a superuser alters a server with superuser-only options, whoever owns it
ALTER SERVER regress_dess OWNER TO regress_dess_app;
SET ROLE regress_dess_app;
ALTER SERVER regress_dess OPTIONS (SET poll_interval '5');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (DROP api_key_env, DROP api_key_file, DROP ca_file, DROP proxy, SET base_url 'https://evil.example.com');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess VERSION '2';
ALTER SERVER regress_dess RENAME TO regress_dess_2;
RESET ROLE;
ALTER SERVER regress_dess OPTIONS (DROP api_key_env, DROP api_key_file, DROP ca_file, DROP proxy);
SET ROLE regress_dess_app;
-- http and loopback stay superusers' as well
ALTER SERVER regress_dess OPTIONS (SET poll_interval '5');
\echo :LAST_ERROR_SQLSTATE
ALTER SERVER regress_dess OPTIONS (SET base_url 'https://api.example.com/v1', SET poll_interval '5');
SELECT option_value FROM pg_foreign_server, pg_options_to_table(srvoptions)
WHERE srvname = 'regress_dess' AND option_name = 'poll_interval';
DROP SERVER regress_dess;

-- what an ordinary user may and may not give
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', api_key_env 'PATH');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', api_key_file '/etc/passwd');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', ca_file '/tmp/ca.pem');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', proxy 'http://proxy.example.com');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url 'http://api.example.com');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url 'https://127.0.0.1');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url 'https://169.254.169.254');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url 'https://[::ffff:127.0.0.1]');
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai', base_url 'https://localhost');
\echo :LAST_ERROR_SQLSTATE
CREATE SERVER regress_dess FOREIGN DATA WRAPPER dess_batch OPTIONS (provider 'openai');

-- user mappings; neither message nor hint shows the value
\set VERBOSITY terse
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (password 'x');
\echo :LAST_ERROR_SQLSTATE
\set VERBOSITY default
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key '');
\echo :LAST_ERROR_SQLSTATE
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key E'sk-1\n');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key 'sk-1 sk-2');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key E'sk-1\r\nX-Evil: 1');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key 'sk-é');
CREATE USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (api_key 'sk-1');
ALTER USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (SET api_key E'sk-\t2');
\echo :LAST_ERROR_SQLSTATE
ALTER USER MAPPING FOR PUBLIC SERVER regress_dess OPTIONS (SET api_key 'sk-2');
CREATE USER MAPPING FOR regress_dess_app SERVER regress_dess;
ALTER USER MAPPING FOR regress_dess_app SERVER regress_dess OPTIONS (ADD api_key 'sk-3');
SELECT usename, umoptions FROM pg_user_mappings WHERE srvname = 'regress_dess' ORDER BY usename COLLATE "C";
RESET ROLE;
SET client_min_messages = warning;
DROP SERVER regress_dess CASCADE;
RESET client_min_messages;

-- settings
SELECT name, boot_val, unit, context FROM pg_settings
WHERE name LIKE 'dess\_batch.%' ORDER BY name COLLATE "C";
ALTER SYSTEM SET dess_batch.spool_directory = 'spool';
\echo :LAST_ERROR_SQLSTATE
ALTER SYSTEM SET dess_batch.allowed_hosts = 'https://api.openai.com';
ALTER SYSTEM SET dess_batch.databases = 'a,,b';
-- the message has units since PostgreSQL 17
SELECT min_val, max_val FROM pg_settings WHERE name = 'dess_batch.idle_timeout';
\set VERBOSITY sqlstate
ALTER SYSTEM SET dess_batch.idle_timeout = '-1';
\set VERBOSITY default
SET dess_batch.enabled = off;
\echo :LAST_ERROR_SQLSTATE
SET dess_batch.no_such_setting = 1;
\echo :LAST_ERROR_SQLSTATE

REVOKE USAGE ON FOREIGN DATA WRAPPER dess_batch FROM regress_dess_app;
DROP ROLE regress_dess_app;
