# Bad input gets a clear error and loses nothing: arguments that cannot be, models
# and secrets that the provider does not know, answers that do not fit, and
# tables that change or go while their rows are away.
use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('bad_input');

create_server($node, $simulator, options => { max_active_batches => 20 });

sub query
{
	my ($sql) = @_;
	return $node->safe_psql('postgres', $sql);
}

# The submit fails with that SQLSTATE and says what is expected.
sub refused
{
	my ($arguments, $sqlstate, $words, $name) = @_;
	my ($status, undef, $err) = $node->psql('postgres', "SELECT dess_batch_submit($arguments)",
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	like($err, qr/ERROR:  $sqlstate: .*$words/s, $name);
	return;
}

# A table with n rows and the columns given.
sub make_table
{
	my ($name, $rows, $columns) = @_;

	query(
		qq{CREATE TABLE $name (id integer PRIMARY KEY, note text, $columns);
		INSERT INTO $name (id, note) SELECT i, 'note ' || i FROM generate_series(1, $rows) i;});
	return;
}

sub error_of
{
	my ($job) = @_;
	return query("SELECT concat_ws(': ', error_code, error) FROM dess_batch_jobs WHERE job_id = $job");
}

sub until_true
{
	my ($sql, $what) = @_;

	$node->poll_query_until('postgres', $sql) or die "in vain: $what";
	return;
}

# ---- arguments

make_table('notes', 3, 'department_llm text, remark text, doubled text GENERATED ALWAYS AS (note || note) STORED');
query(
	q{CREATE TABLE keyless (note text, department_llm text);
	CREATE VIEW seen AS SELECT * FROM notes;
	CREATE MATERIALIZED VIEW stored AS SELECT * FROM notes;
	CREATE TABLE untargeted (id integer PRIMARY KEY, note text);});

my $rest = q{server => 'openai'};

refused("999999, 'gpt-4o-mini', '{note}', $rest", '42P01', 'OID 999999 does not exist', 'no such relation');
refused("'seen', 'gpt-4o-mini', '{note}', $rest", '42809', 'cannot send rows.*views', 'a view');
refused("'stored', 'gpt-4o-mini', '{note}', $rest", '42809', 'cannot send rows', 'a materialized view');
refused("'notes_pkey', 'gpt-4o-mini', '{note}', $rest", '42809', 'cannot send rows', 'an index');
refused("'dess_batch.job_id_seq', 'gpt-4o-mini', '{note}', $rest", '42809', 'cannot send rows', 'a sequence');
refused("'keyless', 'gpt-4o-mini', '{note}', $rest", '55000', 'no primary key.*HINT:.*ALTER TABLE public\.keyless ADD',
	'a table without a key, with the SQL that makes one');
refused("'notes', 'gpt-4o-mini', '{note}', key => '{note}', $rest", '42P10', 'can be null', 'a key that can be null');
refused("'notes', 'gpt-4o-mini', '{note}', key => '{nothing}', $rest", '42703', '"nothing"', 'a key that is no column');
refused("'untargeted', 'gpt-4o-mini', '{note}', $rest", '42703',
	'ALTER TABLE public\.untargeted ADD COLUMN department_llm text', 'no target, with the SQL that makes one');
refused("'notes', 'gpt-4o-mini', '{note}', 'Remark', $rest", '42703', '"Remark"', 'names are literal');
refused("'notes', 'gpt-4o-mini', '{note}', 'doubled', $rest", '428C9', 'doubled', 'a generated target');
refused("'notes', 'gpt-4o-mini', '{note}', 'id', $rest", '42P10', 'part of the key', 'the key as target');
refused("'notes', 'gpt-4o-mini', 'Say {noet}', $rest", '42703', '\{noet\}.*\{id\}, \{note\}', 'an unknown placeholder, with those there are');
refused("'notes', 'gpt-4o-mini', 'Say {note', $rest", '22023', 'character 5 .*not closed', 'an open brace');
refused("'notes', 'gpt-4o-mini', 'Say note}', $rest", '22023', 'closes nothing', 'a stray brace');
refused("'notes', 'gpt-4o-mini', '{note}', input_columns => '{note,noet}', $rest", '42703', '"noet"', 'an input column that is none');
refused("'notes', 'gpt-4o-mini', '{note}', where_sql => 'note =', $rest", '42601', '', 'where_sql without its end');
refused("'notes', 'gpt-4o-mini', '{note}', where_sql => 'true; DROP TABLE notes', $rest", '42601', 'one condition', 'two statements');
refused("'notes', 'gpt-4o-mini', '{note}', where_sql => 'random() < 0.5', $rest", '42P17', 'volatile', 'a volatile function');
refused("'notes', 'gpt-4o-mini', '{note}', where_sql => 'noet > 1', $rest", '42703', 'noet', 'an unknown column in where_sql');
refused("'notes', 'gpt-4o-mini', '{note}', where_sql => 'id', $rest", '42804', 'boolean', 'where_sql that is no condition');
refused("'notes', 'gpt-4o-mini', '{note}', mode => 'Batch', $rest", '22023', 'batch, online', 'an unknown mode');
refused("'notes', 'gpt-4o-mini', '{note}', keep => 'all', $rest", '22023', 'none, unwritten, answer, reply', 'an unknown keep');
refused("'notes', 'gpt-4o-mini', '{note}', \"outcomes\" => '{good}', $rest", '22023', '"good"', 'an unknown outcome');
refused("'notes', 'gpt-4o-mini', '{note}', max_rows => 0, $rest", '22023', 'max_rows', 'no rows at all');
refused("'notes', 'gpt-4o-mini', '{note}', max_failed => 'NaN', $rest", '22023', 'max_failed', 'max_failed that is no share');
refused("'notes', 'gpt-4o-mini', '{note}', parameters => '{\"temprature\": 1}', $rest", '22023', 'temprature', 'an unknown parameter');
refused("'notes', 'gpt-4o-mini', '{note}', target_columns => '[1]', $rest", '22023', 'target_columns', 'target_columns that are no object');
refused("'notes', 'gpt-4o-mini', '{note}', target_columns => '{\"a\": \"noet\"}', $rest", '42703', '"noet"', 'target_columns that do not exist');
refused("'notes', NULL, '{note}', $rest", '22004', '"model"', 'no model');
refused("NULL, 'gpt-4o-mini', '{note}', $rest", '22004', '"source"', 'no source');
refused("'notes', 'gpt-4o-mini', '{note}', server => 'nowhere'", '42704', '"nowhere".*CREATE SERVER nowhere', 'no such server');
refused("'notes', 'my-model', '{note}'", '42704', 'no provider serves model "my-model".*HINT', 'a model that no server serves');
refused("'notes', 'gpt-3.9', '{note}', max_cost => 1, $rest", '55000', 'no price.*HINT.*INSERT INTO dess_batch.price', 'a budget without a price');
is(query('SELECT count(*) FROM dess_batch_jobs'), 0, 'no job was made');

# ---- a model that the provider does not know

foreach my $mode ('batch', 'online')
{
	my $job = submit_job($node, "'notes', 'gpt-no-such-model', '{note}', mode => '$mode', $rest");

	is(wait_for_job($node, $job), 'failed', "$mode: a model that the provider does not know");
	like(error_of($job), qr/^model_not_found: .*gpt-no-such-model/, "the provider's words say which");
	is(query("SELECT done + failed FROM dess_batch_jobs WHERE job_id = $job"), 0, 'no row has failed for it');
}
is(query('SELECT count(department_llm) FROM notes'), 0, 'the rows are untouched');

# ---- no secret, a bad one, a good one

foreach my $mode ('batch', 'online')
{
	create_server($node, $simulator, name => "late_$mode", key => undef);
	make_table("late_$mode", 3, 'department_llm text');
	my ($job, $warning);
	$node->psql('postgres', qq{SELECT dess_batch_submit('late_$mode', 'gpt-4o-mini', '{note}', mode => '$mode', server => 'late_$mode')},
		stdout => \$job, stderr => \$warning);
	like($warning, qr/WARNING:  server "late_$mode" has no secret yet, the job will wait for it.*environment variable OPENAI_API_KEY/s,
		"$mode: submit warns that there is no secret, and where it was looked for");
	until_true("SELECT error_code = 'no_secret' FROM dess_batch_jobs WHERE job_id = $job", 'it waits for a secret');
	like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"),
		qr/no secret for server "late_$mode"; looked at: user mapping of "postgres" \(there is none\), user mapping of public \(there is none\), environment variable OPENAI_API_KEY \(it is not set\).*CREATE USER MAPPING FOR postgres SERVER late_$mode OPTIONS \(api_key/,
		'explain names the places and the remedy');
	like(query("SELECT waiting_for FROM dess_batch_progress WHERE job_id = $job"), qr/no secret/, 'progress says so too');

	query("CREATE USER MAPPING FOR postgres SERVER late_$mode OPTIONS (api_key 'not-the-key')");
	is(wait_for_job($node, $job), 'failed', 'a secret that the provider refuses');
	like(error_of($job), qr/^invalid_api_key: Incorrect API key provided/, "with the provider's words");
	is(query("SELECT count(department_llm) FROM late_$mode"), 0, 'the rows are untouched');

	query("ALTER USER MAPPING FOR postgres SERVER late_$mode OPTIONS (SET api_key 'test-key')");
	query("SELECT dess_batch_retry($job)");
	is(wait_for_job($node, $job), 'done', 'after retry with the right one it is done');
	is(query("SELECT count(department_llm) FROM late_$mode"), 3, 'with all rows');
	is(query("SELECT concat_ws(' ', rows, done, failed, pending, error) FROM dess_batch_jobs WHERE job_id = $job"),
		'3 3 0 0', 'its figures add up, and the error is gone');
}

# ---- answers that do not fit

make_table('misfits', 4, q{whole integer, short varchar(6), mood text CHECK (mood LIKE 'good%'), data jsonb, stubborn text});
query(
	q{CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		IF NEW.stubborn IS NOT NULL AND NEW.id = 2 THEN
			RAISE EXCEPTION 'row % does not want it', NEW.id USING ERRCODE = 'ZZ001';
		END IF;
		RETURN NEW;
	END $$;
	CREATE TRIGGER refuse BEFORE UPDATE ON misfits FOR EACH ROW EXECUTE FUNCTION refuse();});
$simulator->post('answers', [
	{ contains => 'whole note 1', answer => '42' },
	{ contains => 'whole', answer => 'forty-two' },
	{ contains => 'short note 1', answer => 'brief' },
	{ contains => 'short', answer => 'much too long' },
	{ contains => 'mood note 1', answer => 'good enough' },
	{ contains => 'mood', answer => 'bad' },
	{ contains => 'data note 1', answer => '{"a": [1]}' },
	{ contains => 'data', answer => 'not JSON at all' },
	{ contains => 'stubborn', answer => 'please' } ]);

my %misfit = (whole => '22P02', short => '22001', mood => '23514', data => '22032', stubborn => 'ZZ001');
my %job = map { $_ => submit_job($node, "'misfits', 'gpt-4o-mini', '$_ {note}', '$_', $rest") } sort keys %misfit;
$job{schema} = submit_job($node,
	qq{'misfits', 'gpt-4o-mini', 'data schema {note}', NULL, $rest,
	response_schema => '{"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"], "additionalProperties": false}'});
foreach my $column (sort keys %misfit)
{
	my $failed = $column eq 'stubborn' ? 1 : 3;

	is(wait_for_job($node, $job{$column}), 'done', "answers that do not fit into $column: the job is done");
	is(query("SELECT count($column) FROM misfits"), 4 - $failed, 'what fits is written, and nothing else');
	is( query(
			qq{SELECT count(*), count(answer), min(outcome), max(error_code), min(error) <> '' FROM dess_batch_errors WHERE job_id = $job{$column}}),
		"$failed|$failed|invalid|$misfit{$column}|t",
		'the others are invalid, with SQLSTATE and message, and their answers are kept');
	is(query("SELECT rows = done + failed + pending AND failed = $failed FROM dess_batch_jobs WHERE job_id = $job{$column}"), 't',
		'the figures add up');
}
is(wait_for_job($node, $job{schema}), 'done', 'answers that are not JSON although there is a schema: the job is done');
is(query("SELECT count(*), min(outcome), count(answer), bool_and(answer = 'not JSON at all') FROM dess_batch_errors WHERE job_id = $job{schema}"),
	'4|invalid|4|t', 'all of them are invalid, and kept');
my $served = $simulator->get('stats')->{rows_served};
my $again = submit_job($node, "'misfits', 'gpt-4o-mini', 'whole {note}', 'whole', $rest");
is(wait_for_job($node, $again), 'done', 'the same once more');
is($simulator->get('stats')->{rows_served}, $served, 'is not bought again');

# ---- large rows

make_table('large', 4, 'department_llm text');
query(
	q{UPDATE large SET note = CASE id WHEN 1 THEN repeat('x', 1000000) WHEN 2 THEN repeat(E'\u00e9\U0001F600"\\\n', 100000)
		WHEN 3 THEN repeat('y', 33 * 1024 * 1024) ELSE 'small' END});
my $large = submit_job($node, "'large', 'gpt-4o-mini', '{note}', $rest");
is(wait_for_job($node, $large), 'done', 'rows of a megabyte and more: the job is done');
is(query(qq{SELECT string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ' ORDER BY row_key ->> 'id') FROM dess_batch_rows WHERE job_id = $large}),
	'1 ok, 2 ok, 3 invalid 54000, 4 ok', 'what is too long is invalid, and says so');

# ---- tables that change while their rows are away

my %change = (
	rename_target => [ 'ALTER TABLE %s RENAME department_llm TO gone', 'ALTER TABLE %s RENAME gone TO department_llm', '42703', 'department_llm' ],
	drop_target => [ 'ALTER TABLE %s DROP department_llm', 'ALTER TABLE %s ADD department_llm text', '42703', 'department_llm' ],
	rename_input => [ 'ALTER TABLE %s RENAME note TO gone', 'ALTER TABLE %s RENAME gone TO note', '42703', '\{note\}' ],
	drop_key => [ 'ALTER TABLE %s DROP CONSTRAINT %1$s_pkey', 'ALTER TABLE %s ADD PRIMARY KEY (id)', '42P10', 'id' ],
	revoke_update => [ 'REVOKE UPDATE ON %s FROM worker', 'GRANT UPDATE ON %s TO worker', '42501', 'permission denied' ],
	drop_table => [ 'DROP TABLE %s', undef, '42P01', 'does not exist' ],
	rename_table => [ 'ALTER TABLE %s RENAME TO %1$s_2', undef, undef ],
	retype_target => [ 'ALTER TABLE %s ALTER department_llm TYPE varchar(200)', undef, undef ],
	healthy => [ 'SELECT', undef, undef ]);

query('CREATE ROLE worker; GRANT USAGE ON FOREIGN SERVER openai TO worker');
$simulator->post('settings', { run_ms => 12000 });
my $pid = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
foreach my $name (sort keys %change)
{
	make_table($name, 3, 'department_llm text');
	query("GRANT SELECT, UPDATE ON $name TO worker");
	$job{$name} = query("SET ROLE worker; SELECT dess_batch_submit('$name', 'gpt-4o-mini', '$name {note}', $rest)");
}
my $jobs = join ', ', @job{ sort keys %change };
until_true("SELECT count(*) = 9 FROM dess_batch_jobs WHERE job_id IN ($jobs) AND state = 'running'", 'all run');
my $created = $simulator->get('stats')->{batches_created};
query(join '; ', map { sprintf($change{$_}[0], $_) } sort keys %change);
is(query("SELECT count(*) FROM dess_batch_jobs WHERE job_id IN ($jobs) AND state = 'running'"), 9,
	'tables change while their rows are away');

foreach my $name (sort keys %change)
{
	my (undef, $repair, $sqlstate, $words) = @{ $change{$name} };

	is(wait_for_job($node, $job{$name}), defined $sqlstate ? 'failed' : 'done', "$name: the job's end");
	next unless defined $sqlstate;
	like(error_of($job{$name}), qr/^$sqlstate: .*$words/, 'with the reason');
	like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job{$name}) e"), $name eq 'drop_table' ? qr/$sqlstate.*was dropped and is gone for good: submit anew/ : qr/$sqlstate.*dess_batch_retry\($job{$name}\)/,
		'explain tells it, and how to go on');
	is(query("SELECT pending FROM dess_batch_jobs WHERE job_id = $job{$name}"), 3, 'its answers are still to come');
}
is(query('SELECT count(department_llm) FROM rename_table_2'), 3, 'a renamed table is the same one');
is(query('SELECT count(department_llm) FROM retype_target'), 3, 'a target of another type takes the answers');
is(query('SELECT count(department_llm) FROM healthy'), 3, 'the others are served');
is(query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), $pid, 'by the same worker');

foreach my $name (grep { defined $change{$_}[1] } sort keys %change)
{
	query(sprintf($change{$name}[1], $name));
	is(query("SELECT dess_batch_retry($job{$name})"), 3, "$name: when the cause is gone, retry takes up the rows");
	is(wait_for_job($node, $job{$name}), 'done', 'the job is done');
	is(query("SELECT count(department_llm) FROM $name"), 3, 'all rows have their answers');
}
is($simulator->get('stats')->{batches_created}, $created, 'and no answer was bought twice');


# a table that is gone for good
query("SELECT dess_batch_erase($job{drop_table})");
until_true("SELECT bool_and(state = 'failed' AND remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job{drop_table}",
	'what is left at the provider is removed');
is($simulator->get('stats')->{files_alive}, 0, 'nothing stays at the provider, not even of the table that is gone');

# ---- accounts that go while rows are away

my %account = (
	drop_server => 'DROP SERVER %s CASCADE',
	drop_role => 'DROP OWNED BY %s; DROP ROLE %s',
	drop_mapping => 'DROP USER MAPPING FOR PUBLIC SERVER %s',
	revoke_usage => 'REVOKE USAGE ON FOREIGN SERVER %s FROM %s',
	revoke_and_cancel => 'REVOKE USAGE ON FOREIGN SERVER %s FROM %s');

foreach my $name (sort keys %account)
{
	create_server($node, $simulator, name => $name);
	make_table($name, 3, 'department_llm text');
	query("CREATE ROLE $name; GRANT USAGE ON FOREIGN SERVER $name TO $name; GRANT SELECT, UPDATE ON $name TO $name");
	$job{$name} = query("SET ROLE $name; SELECT dess_batch_submit('$name', 'gpt-4o-mini', 'account {note}', server => '$name')");
}
$jobs = join ', ', @job{ sort keys %account };
until_true("SELECT count(*) = 5 FROM dess_batch_jobs WHERE job_id IN ($jobs) AND state = 'running'", 'all run');
query(join '; ', map { $account{$_} =~ s/%s/$_/gr } sort keys %account);

foreach my $name ('drop_server', 'drop_role')
{
	is(wait_for_job($node, $job{$name}), 'failed', "$name: the job fails");
	like(error_of($job{$name}), qr/^42704: .*does not exist/, 'with the reason');
}
like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job{drop_server}) e"),
	qr/Server "drop_server" was dropped and is gone for good.*dess_batch_erase\($job{drop_server}\)/, 'drop_server: explain says what to do');
until_true("SELECT error_code = '42501' FROM dess_batch_jobs WHERE job_id = $job{revoke_usage}", 'the trouble is noted');
like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job{revoke_usage}) e"),
	qr/permission denied for foreign server "revoke_usage".*GRANT USAGE ON FOREIGN SERVER revoke_usage TO revoke_usage/,
	'revoke_usage: explain says what is missing');
query('GRANT USAGE ON FOREIGN SERVER revoke_usage TO revoke_usage');
until_true("SELECT error_code = 'no_secret' FROM dess_batch_jobs WHERE job_id = $job{drop_mapping}", 'the trouble is noted');
query("CREATE USER MAPPING FOR PUBLIC SERVER drop_mapping OPTIONS (api_key 'test-key')");
query("SELECT dess_batch_cancel($job{revoke_and_cancel})");
is(wait_for_job($node, $job{revoke_and_cancel}), 'cancelled', 'revoke_and_cancel: the job can be cancelled');
foreach my $name ('drop_mapping', 'revoke_usage')
{
	is(wait_for_job($node, $job{$name}), 'done', "$name: the job goes on when it may");
	is(query("SELECT count(department_llm) FROM $name"), 3, 'all rows have their answers');
}

# ---- what is asked for is not put off until the next poll

create_server($node, $simulator, name => 'slow', options => { poll_interval => 3600 });
$simulator->post('settings', { run_ms => 600000 });
my $slow = submit_job($node, "'notes', 'gpt-4o-mini', 'slow {note}', 'remark', server => 'slow'");
until_true("SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $slow", 'it runs');
is(query("SELECT dess_batch_status($slow)"), 'running', 'status tells the state');
until_true("SELECT polled_at IS NOT NULL FROM dess_batch_batches WHERE job_id = $slow", 'and has the provider asked');
query("SELECT dess_batch_cancel($slow)");
is(wait_for_job($node, $slow), 'cancelled', 'cancel does not wait either');

is(query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), $pid, 'it is still the same worker');

$node->stop;
$simulator->stop;
done_testing();
