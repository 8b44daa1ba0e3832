# Tables and columns of all kinds as targets: what fits is written, what does
# not is its row's outcome with the SQLSTATE, and never a failed job.

use strict;
use warnings;

use DessBatch;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('targets');
create_server($node, $simulator);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Submits in online mode; the model repeats "body" unless told otherwise.
sub submit
{
	my ($table, $more) = @_;
	return sql("SELECT dess_batch_submit('$table', 'gpt-4o-mini', mode => 'online'"
		  . ($more =~ /prompt =>/ ? '' : ", prompt => '{body}'")
		  . ($more =~ /target/ ? '' : ", target => 'answer'")
		  . ($more ? ", $more)" : ')'));
}

sub run
{
	my ($table, $more) = @_;
	my $job = submit($table, $more // '');

	is(wait_for_job($node, $job), 'done', "job on $table ends");
	return $job;
}

# "1 ok, 2 invalid 22001"
sub each_row
{
	my ($job) = @_;
	return sql("SELECT string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ' ORDER BY row_key ->> 'id') FROM dess_batch_rows WHERE job_id = $job");
}

sub answers
{
	my ($table) = @_;
	return sql("SELECT string_agg(id || ' ' || coalesce(answer::text, '-'), ', ' ORDER BY id) FROM $table");
}

# A table with a target of that type and a row for each text.
sub table
{
	my ($name, $type, @texts) = @_;
	my $i = 0;

	sql("CREATE TABLE $name (id integer PRIMARY KEY, body text, answer $type);"
		  . join('', map { "INSERT INTO $name VALUES (" . ++$i . ", \$t\$$_\$t\$);" } @texts));
	return;
}

subtest 'types' => sub {
	sql(q{
		CREATE TYPE mood AS ENUM ('sad', 'so so', 'happy');
		CREATE DOMAIN grade AS integer CHECK (VALUE BETWEEN 1 AND 6);
		CREATE DOMAIN code AS text CHECK (VALUE ~ '^[A-Z]+$');});
	my @cases = (
		[ 'varchar(5)', [ 'short', 'longer', 'five5' ], '1 ok, 2 invalid 22001, 3 ok', '1 short, 2 -, 3 five5' ],
		[ 'char(3)', [ 'ab', 'abcd' ], '1 ok, 2 invalid 22001', '1 ab, 2 -' ],
		[ 'mood', [ 'happy', 'so so', 'glad' ], '1 ok, 2 ok, 3 invalid 22P02', '1 happy, 2 so so, 3 -' ],
		[ 'integer', [ '42', ' 7 ', 'seven', '99999999999', '1.5' ],
			'1 ok, 2 ok, 3 invalid 22P02, 4 invalid 22003, 5 invalid 22P02', '1 42, 2 7, 3 -, 4 -, 5 -' ],
		[ 'numeric(5,2)', [ '3.14159', '12345' ], '1 ok, 2 invalid 22003', '1 3.14, 2 -' ],
		[ 'boolean', [ 'yes', 'false', 'perhaps' ], '1 ok, 2 ok, 3 invalid 22P02', '1 true, 2 false, 3 -' ],
		[ 'date', [ '2026-02-28', '2026-02-30', 'soon' ], '1 ok, 2 invalid 22008, 3 invalid 22007', '1 2026-02-28, 2 -, 3 -' ],
		[ 'uuid', [ '0e37df36-f698-11e6-8dd4-cb9ced3df976', 'x' ], '1 ok, 2 invalid 22P02', '1 0e37df36-f698-11e6-8dd4-cb9ced3df976, 2 -' ],
		[ 'jsonb', [ '{"a": [1, 2.50]}', 'null and void', '"text"' ], '1 ok, 2 invalid 22032, 3 ok', '1 {"a": [1, 2.50]}, 2 -, 3 "text"' ],
		[ 'json', [ '{"b":1,  "a":2}' ], '1 ok', undef ],
		[ 'text[]', [ '["a", "b c", null, "d,e"]', '"a"', '{a}' ], '1 ok, 2 invalid 22P02, 3 invalid 22032', '1 {a,"b c",NULL,"d,e"}, 2 -, 3 -' ],
		[ 'integer[]', [ '[1, 2]', '[1, "x"]', '[]' ], '1 ok, 2 invalid 22P02, 3 ok', '1 {1,2}, 2 -, 3 {}' ],
		[ 'grade', [ '6', '7' ], '1 ok, 2 invalid 23514', '1 6, 2 -' ],
		[ 'code', [ 'ABC', 'abc' ], '1 ok, 2 invalid 23514', '1 ABC, 2 -' ],
		[ 'int4range', [ '[1,4)', '4' ], '1 ok, 2 invalid 22P02', '1 [1,4), 2 -' ]);
	my $n = 0;

	foreach my $case (@cases)
	{
		my ($type, $texts, $outcomes, $written) = @$case;
		my $name = 'type_' . ++$n;
		table($name, $type, @$texts);
		my $job = run($name);
		is(each_row($job), $outcomes, "$type: outcomes");
		is(answers($name), $written, "$type: values") if defined $written;
		isnt(sql("SELECT string_agg(error, '') FROM dess_batch_errors WHERE job_id = $job"), '', "$type: reasons")
		  if $outcomes =~ /invalid/;
	}

	table('no_word', 'integer', 'missing', '5');
	is(each_row(run('no_word')), '1 missing, 2 ok', 'a target that cannot hold the word');
	is(answers('no_word'), '1 -, 2 5', 'gets NULL');
	my ($status, $out, $err) = $node->psql('postgres',
		q{SELECT dess_batch_submit('no_word', 'gpt-4o-mini', prompt => '{body}', target => 'answer', missing => 'none')});
	like($err, qr/ERROR.*none/, 'an explicit word that does not fit is refused');
	is(each_row(run('no_word', q{missing => '5', overwrite => true})), '1 invalid 22P02, 2 missing', 'one that fits is the word');
	is(answers('no_word'), '1 -, 2 5', 'and is written');
};

subtest 'constraints and triggers' => sub {
	table('checked', 'text', 'good', 'bad', 'twin', 'twin!', 'tw', 'orphan', 'angry', 'changed', 'passed over');
	sql(q{
		CREATE TABLE log_of_triggers (id integer);
		CREATE TABLE parent (name text PRIMARY KEY);
		INSERT INTO parent VALUES ('good'), ('TWIN'), ('angry'), ('changed'), ('CHANGED'), ('tw'), ('bad'), ('passed over');
		ALTER TABLE checked ADD CHECK (answer <> 'bad'), ADD UNIQUE (answer),
			ADD FOREIGN KEY (answer) REFERENCES parent DEFERRABLE INITIALLY DEFERRED;
		CREATE FUNCTION public.mind() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			INSERT INTO public.log_of_triggers VALUES (NEW.id);
			IF NEW.answer = 'angry' THEN RAISE EXCEPTION 'I am angry' USING ERRCODE = 'P0042'; END IF;
			IF NEW.answer LIKE 'twin%' THEN NEW.answer := 'TWIN'; END IF;
			IF NEW.answer = 'changed' THEN NEW.answer := 'CHANGED'; END IF;
			IF NEW.answer = 'passed over' THEN RETURN NULL; END IF;
			RETURN NEW;
		END $$;
		CREATE TRIGGER mind BEFORE UPDATE ON checked FOR EACH ROW EXECUTE FUNCTION mind();});
	my $job = run('checked');
	# which of the two equal ones is first is nobody's business
	my $winner = sql('SELECT id FROM checked WHERE answer = $$TWIN$$');
	my $loser = 7 - $winner;
	is(each_row($job) =~ s/\b[34] (ok|invalid 23505)/x $1/gr =~ s/x invalid 23505, x ok/x ok, x invalid 23505/r,
		'1 ok, 2 invalid 23514, x ok, x invalid 23505, 5 ok, 6 invalid 23503, 7 invalid P0042, 8 ok, 9 invalid',
		'each row for itself, a deferred constraint too');
	is(answers('checked') =~ s/\b$winner TWIN/x TWIN/r =~ s/\b$loser -, x TWIN/x TWIN, $loser -/r,
		"1 good, 2 -, x TWIN, $loser -, 5 tw, 6 -, 7 -, 8 CHANGED, 9 -", 'what was written');
	is(sql("SELECT error FROM dess_batch_errors WHERE job_id = $job AND error_code = 'P0042'"), 'I am angry', 'in the words of the trigger');
	is(sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM (SELECT DISTINCT id FROM log_of_triggers) l WHERE id IN (2, $loser, 6, 7)"),
		'', 'what triggers did for a row that raised is undone');
	is(sql("SELECT max(n) FROM (SELECT count(*) AS n FROM log_of_triggers GROUP BY id) l"), 1, 'and done once for the others');
	is(job_figures($node, $job), 'done 9 4 5 0', 'figures');
};

subtest 'several columns from one answer' => sub {
	sql(q{
		CREATE TABLE several (id integer PRIMARY KEY, body text, name text, year integer, tags text[],
			raw text, how text, which bigint, who text);
		INSERT INTO several SELECT i, 'row ' || i FROM generate_series(1, 6) i;});
	$simulator->post('answers', [
		{ contains => 'row 1', answer => '{"name": "Ada", "year": 1815, "tags": ["a", "b"]}' },
		{ contains => 'row 2', answer => "```json\n{\"name\": \"Bob\", \"year\": null, \"tags\": []}\n```" },
		{ contains => 'row 3', answer => '{"name": null, "year": null, "tags": null}' },
		{ contains => 'row 4', answer => '{"name": "Cy", "year": "MCM", "tags": []}' },
		{ contains => 'row 5', answer => 'I would say Ada' },
		{ contains => 'row 6', answer => '{"name": "Eve", "year": 7, "tags": "none"}' } ]);
	my $schema = q({"type": "object", "properties": {"name": {"type": ["string", "null"]}, "year": {"type": ["integer", "null"]},
		"tags": {"type": ["array", "null"], "items": {"type": "string"}}}, "required": ["name", "year", "tags"], "additionalProperties": false});
	my $columns = q({"name": "name", "year": "year", "tags": "tags", "$answer": "raw", "$outcome": "how", "$job": "which", "$model": "who"});
	my $job = run('several', "prompt => '{body}', response_schema => '$schema', target_columns => '$columns'");
	is(each_row($job), '1 ok, 2 ok, 3 missing, 4 invalid 22P02, 5 invalid 22032, 6 invalid 22P02', 'outcomes');
	is(sql(q{SELECT string_agg(concat_ws(' ', id, coalesce(name, '-'), coalesce(year::text, '-'), coalesce(tags::text, '-')), ', ' ORDER BY id) FROM several}),
		'1 Ada 1815 {a,b}, 2 Bob - {}, 3 - - -, 4 - - -, 5 - - -, 6 - - -', 'values');
	is(sql("SELECT string_agg(concat_ws(' ', id, how, which = $job, who), ', ' ORDER BY id) FROM several WHERE id <= 3"),
		'1 ok t gpt-4o-mini, 2 ok t gpt-4o-mini, 3 missing t gpt-4o-mini', 'and the rest');
	is(sql('SELECT raw FROM several WHERE id = 1'), '{"name": "Ada", "year": 1815, "tags": ["a", "b"]}', 'and the answer itself');
	my $body = $simulator->get('requests?path=/v1/chat/completions&limit=20000')->{requests}[-1]{body};
	like($body, qr/"response_format":\{"type":"json_schema"/, 'the schema is sent');
	is(each_row(run('several', "prompt => '{body}', response_schema => '$schema', target_columns => '$columns'")), '',
		'none of them is bought again');
	$simulator->post('answers/clear');
};

subtest 'keys' => sub {
	sql(q{
		CREATE TABLE composite (a integer, "B c" text, body text, answer text, PRIMARY KEY ("B c", a));
		INSERT INTO composite VALUES (1, 'x', '1 x'), (2, 'x', '2 x'), (1, E'tab\there', '1 tab'), (1, E'line\nend', '1 line'),
			(1, 'quote''s "\', '1 quote'), (-5, '', 'negative'), (7, 'ünï', 'unicode'), (7, '{a,b}', 'braces');
		CREATE TABLE uuids (id uuid PRIMARY KEY, body text, answer text);
		INSERT INTO uuids SELECT md5(i::text)::uuid, 'u' || i FROM generate_series(1, 50) i;
		CREATE TABLE "Mixed Case" ("Id" text PRIMARY KEY, "The Text" text, "The Answer" text);
		INSERT INTO "Mixed Case" VALUES ('a', 'first'), ('B', 'second'), ('', 'third');
		CREATE TABLE moments (at timestamptz, price numeric, raw bytea, f float8, body text, answer text, UNIQUE (at, price, raw, f));
		ALTER TABLE moments ALTER at SET NOT NULL, ALTER price SET NOT NULL, ALTER raw SET NOT NULL, ALTER f SET NOT NULL;
		INSERT INTO moments VALUES ('2026-03-29 02:30:00.123456+02', 1.50, '\x00ff', 0.1, 'one'),
			('infinity', 'NaN', '', 'NaN', 'two'), ('0044-03-15 BC', -0.0001, '\xdeadbeef', '-Infinity', 'three'),
			('2026-01-01', 1e20, '\x27', 1e-300, 'four');
		CREATE TABLE partitioned (region text, id integer, body text, answer text, PRIMARY KEY (region, id)) PARTITION BY LIST (region);
		CREATE TABLE part_a PARTITION OF partitioned FOR VALUES IN ('a');
		CREATE TABLE part_bc PARTITION OF partitioned FOR VALUES IN ('b', 'c') PARTITION BY RANGE (id);
		CREATE TABLE part_bc_low PARTITION OF part_bc FOR VALUES FROM (MINVALUE) TO (50);
		CREATE TABLE part_bc_high PARTITION OF part_bc DEFAULT;
		INSERT INTO partitioned SELECT chr(97 + i % 3), i, 'p' || i FROM generate_series(1, 99) i;});
	foreach my $table ('composite', 'uuids', 'moments', 'partitioned')
	{
		my $job = run($table);
		is(sql("SELECT count(*) FILTER (WHERE answer IS DISTINCT FROM body) FROM $table"), 0, "$table: every row has its own answer");
		is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id = $job AND outcome = 'ok'"), sql("SELECT count(*) FROM $table"), 'and outcome');
	}
	my $job = run('"Mixed Case"', q{prompt => 'Say {The Text}', target => 'The Answer'});
	is(sql('SELECT string_agg("The Answer", $$, $$ ORDER BY "The Text") FROM "Mixed Case"'), 'Say first, Say second, Say third', 'names are literal');
	is(sql("SELECT string_agg(row_key::text, ' ' ORDER BY row_key ->> 'Id' COLLATE \"C\") FROM dess_batch_rows WHERE job_id = $job"),
		'{"Id": ""} {"Id": "B"} {"Id": "a"}', 'keys are objects');
	is(sql(q{SELECT count(*) FROM dess_batch_rows r JOIN moments m ON (r.row_key ->> 'at')::timestamptz = m.at AND (r.row_key ->> 'f')::float8 = m.f
		AND (r.row_key ->> 'raw')::bytea = m.raw AND (r.row_key ->> 'price')::numeric = m.price}), 4, 'from which each row can be found');
	my ($status, $out, $err) = $node->psql('postgres',
		'CREATE TABLE keyless (body text, answer text); SELECT dess_batch_submit($$keyless$$, $$gpt-4o-mini$$, prompt => $${body}$$, target => $$answer$$)');
	like($err, qr/ERROR.*key/, 'a table without a key is refused');
	sql('UPDATE composite SET answer = NULL WHERE a = 7; ALTER TABLE composite ADD n integer GENERATED ALWAYS AS IDENTITY; ALTER TABLE composite ADD UNIQUE (n)');
	$job = run('composite', q{key => ARRAY['n']});
	is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id = $job AND outcome = 'ok' AND row_key ? 'n'"), 2, 'another key');
};

subtest 'rights' => sub {
	sql(q{
		CREATE ROLE keeper LOGIN; CREATE ROLE reader LOGIN;
		GRANT USAGE ON FOREIGN SERVER openai TO keeper, reader;
		GRANT CREATE ON SCHEMA public TO keeper;
		SET ROLE keeper;
		CREATE TABLE secured (id integer PRIMARY KEY, who text, body text, answer text, writer text);
		INSERT INTO secured VALUES (1, 'reader', 'one'), (2, 'keeper', 'two'), (3, 'reader', 'forbidden'), (4, 'reader', 'four');
		ALTER TABLE secured ENABLE ROW LEVEL SECURITY;
		CREATE POLICY own ON secured USING (who = current_user) WITH CHECK (answer <> 'forbidden');
		GRANT SELECT, UPDATE (answer) ON secured TO reader;
		CREATE FUNCTION public.sign() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.writer := current_user; RETURN NEW; END';
		CREATE TRIGGER sign BEFORE UPDATE ON secured FOR EACH ROW EXECUTE FUNCTION sign();});
	my $job = sql(q{SET ROLE reader; SELECT dess_batch_submit('secured', 'gpt-4o-mini', prompt => '{body}', target => 'answer', mode => 'online')});
	is(wait_for_job($node, $job), 'done', "a job of a role that sees a part");
	is(each_row($job), '1 ok, 3 invalid 42501, 4 ok', 'takes its part, and a policy keeps a row');
	is(sql(q{SELECT string_agg(concat_ws(' ', id, answer, writer), ', ' ORDER BY id) FROM secured}),
		'1 one reader, 2, 3, 4 four reader', 'written as that role');
	$job = run('secured', q{overwrite => true});
	is(sql(q{SELECT string_agg(DISTINCT coalesce(writer, '-'), ' ') FROM secured WHERE answer IS NOT NULL AND id <> 3}), 'keeper',
		"a superuser's job is done as the owner of the table");
	sql('REVOKE UPDATE (answer) ON secured FROM reader; UPDATE secured SET answer = NULL');
	my ($status, $out, $err) = $node->psql('postgres',
		q{SET ROLE reader; SELECT dess_batch_submit('secured', 'gpt-4o-mini', prompt => '{body}', target => 'answer', mode => 'online')});
	like($err, qr/permission denied/, 'rights are checked at once');
	sql('GRANT UPDATE (answer) ON secured TO reader');
	$job = sql(q{SET ROLE reader; SELECT dess_batch_prepare('secured', 'gpt-4o-mini', prompt => '{body} again', target => 'answer')});
	is(wait_for_job($node, $job), 'prepared', 'and');
	sql("REVOKE UPDATE (answer) ON secured FROM reader; SELECT dess_batch_upload($job)");
	wait_for_job($node, $job);
	sql("SELECT dess_batch_create($job)") ;
	wait_for_job($node, $job);
	sql("SELECT dess_batch_retrieve($job)");
	is(wait_for_job($node, $job), 'failed', 'anew when answers are written');
	like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $job"), qr/permission denied/, 'with the reason');
	is(sql('SELECT count(answer) FROM secured'), 0, 'nothing is written');
	my $before = $simulator->get('stats')->{rows_served};
	sql("GRANT UPDATE (answer) ON secured TO reader; SELECT dess_batch_retry($job)");
	is(wait_for_job($node, $job), 'done', 'with the right given back it goes on');
	is(sql('SELECT count(answer) FROM secured'), 3, 'and writes');
	is($simulator->get('stats')->{rows_served}, $before, 'what has been paid');
};

subtest 'tables that change while rows are away' => sub {
	my %jobs;

	foreach my $case ('renamed', 'dropped', 'retyped', 'column_gone', 'column_new')
	{
		table("table_$case", 'text', '11', '12');
		$jobs{$case} = sql("SELECT dess_batch_prepare('table_$case', 'gpt-4o-mini', prompt => '{body}', target => 'answer')");
	}
	foreach my $call ('upload', 'create', undef)
	{
		wait_for_job($node, $_) foreach values %jobs;
		sql("SELECT dess_batch_$call($_)") foreach $call ? values %jobs : ();
	}
	sql(q{
		ALTER TABLE table_renamed RENAME TO another_name;
		DROP TABLE table_dropped;
		ALTER TABLE table_retyped ALTER answer TYPE integer USING NULL;
		ALTER TABLE table_column_gone DROP answer;
		ALTER TABLE table_column_new ADD more text;});
	sql("SELECT dess_batch_retrieve($_)") foreach values %jobs;
	is(wait_for_job($node, $jobs{renamed}), 'done', 'renamed');
	is(answers('another_name'), '1 11, 2 12', 'the answers find it');
	is(wait_for_job($node, $jobs{dropped}), 'failed', 'dropped');
	isnt(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $jobs{dropped}"), '', 'the job says so');
	is(wait_for_job($node, $jobs{retyped}), 'done', 'another type');
	is(answers('table_retyped'), '1 11, 2 12', 'the answers are cast to it');
	is(wait_for_job($node, $jobs{column_gone}), 'failed', 'the target is gone');
	like(sql("SELECT error FROM dess_batch_jobs WHERE job_id = $jobs{column_gone}"), qr/answer/, 'the job says so');
	is(wait_for_job($node, $jobs{column_new}), 'done', 'another column');
	is(answers('table_column_new'), '1 11, 2 12', 'does no harm');
	sql("SELECT dess_batch_erase($_)") foreach @jobs{qw(dropped column_gone)};
	ok($node->poll_query_until('postgres',
		'SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE remote_id IS NOT NULL'),
		'nothing has to stay at the provider');
	is($simulator->get('stats')->{files_alive}, 0, 'and does');
};

# The text of a bytea has twice its length, and more than 1 GB cannot be had.
subtest 'a target that holds more than can be a text' => sub {
	sql(q{
		CREATE TABLE held (id integer PRIMARY KEY, body text, answer bytea);
		INSERT INTO held VALUES (1, 'one', convert_to(repeat('x', 540000000), 'UTF8')), (2, 'two', 'small'), (3, 'three', NULL)});
	is(each_row(run('held')), '3 ok', 'it is no hindrance to other rows');
	is(each_row(run('held', 'overwrite => true')), '1 ok, 2 ok, 3 ok', 'nor to being overwritten');
	is(sql(q{SELECT string_agg(id || ' ' || convert_from(answer, 'UTF8'), ', ' ORDER BY id) FROM held}), '1 one, 2 two, 3 three', 'with the answer');
	sql('DROP TABLE held');
};

$node->stop;
done_testing();
