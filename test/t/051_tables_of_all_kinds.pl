# Tables in many pieces, keys of all types, names with everything in them: each
# answer finds its row, and a page or a group costs no more than itself.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 10);
my $node = start_node(
	'kinds', preload => 0,
	conf => "shared_preload_libraries = 'dess_batch, pg_stat_statements'\npg_stat_statements.track = all\nautovacuum = off\n");
create_server($node, $simulator, options => { max_active_batches => 100 });

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

sub submit
{
	my ($table, $more) = @_;
	return sql("SELECT dess_batch_submit(\$t\$$table\$t\$, 'gpt-4o-mini'"
		  . ($more =~ /prompt =>/ ? '' : ", prompt => '{body}'")
		  . ($more =~ /target/ ? '' : ", target => 'answer'")
		  . ($more ? ", $more)" : ')'));
}

sub run
{
	my ($table, $more) = @_;
	my $job = submit($table, $more // '');

	is(wait_for_job($node, $job), 'done', "job on $table ends")
	  or diag(sql("SELECT error_code, error FROM dess_batch_jobs WHERE job_id = $job"));
	return $job;
}

# Every row of the table has its own text as answer.
sub answered
{
	my ($job, $table, $rows) = @_;

	is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id = $job AND outcome = 'ok'"), $rows, "$table: rows that are ok");
	is(sql("SELECT count(*) FILTER (WHERE answer = body), count(*) FROM $table"), "$rows|$rows", 'each has its own answer');
	return;
}

# Goes through the stages; what is given is done when all rows are away.
sub away
{
	my ($table, $sql, $more) = @_;
	my $job = sql("SELECT dess_batch_prepare('$table', 'gpt-4o-mini', prompt => '{body}', target => 'answer'" . ($more // '') . ')');

	foreach my $call ('upload', 'create')
	{
		wait_for_job($node, $job);
		sql("SELECT dess_batch_$call($job)");
	}
	wait_for_job($node, $job);
	sql($sql);
	sql("SELECT dess_batch_retrieve($job)");
	is(wait_for_job($node, $job), 'done', "job on $table ends");
	return $job;
}

sub outcomes_of
{
	my ($job) = @_;
	return sql("SELECT string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ' ORDER BY (row_key ->> 'id')::integer) FROM dess_batch_rows WHERE job_id = $job");
}

# ---- partitions

subtest 'partitions that change' => sub {
	sql(q{
		CREATE TABLE measures (region text, id integer, body text, answer text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
		CREATE TABLE measures_a PARTITION OF measures FOR VALUES IN ('a');
		CREATE TABLE measures_b PARTITION OF measures FOR VALUES IN ('b') PARTITION BY RANGE (id);
		CREATE TABLE measures_b_1 PARTITION OF measures_b FOR VALUES FROM (MINVALUE) TO (50);
		CREATE TABLE measures_b_2 (body text, answer text, dropped text, region text NOT NULL, id integer NOT NULL);
		ALTER TABLE measures_b_2 DROP dropped;
		ALTER TABLE measures_b ATTACH PARTITION measures_b_2 FOR VALUES FROM (50) TO (MAXVALUE);
		CREATE TABLE measures_x PARTITION OF measures DEFAULT;
		INSERT INTO measures SELECT chr(97 + i % 4), i, 'text ' || i FROM generate_series(1, 100) i;});
	my $job = away('measures', q{
		UPDATE measures SET region = 'b' WHERE id = 4;
		UPDATE measures SET region = 'z' WHERE id = 2;
		UPDATE measures SET id = 149 WHERE id = 49;
		UPDATE measures SET id = 41 WHERE id = 141;
		ALTER TABLE measures DETACH PARTITION measures_a;
		CREATE TABLE measures_c PARTITION OF measures FOR VALUES IN ('c2');
		DELETE FROM measures_a WHERE id > 90;
		ALTER TABLE measures ATTACH PARTITION measures_a FOR VALUES IN ('a');
		ALTER TABLE measures_b DETACH PARTITION measures_b_2;});
	# in measures_a, which came back, is every fourth row from 4 on; 92, 96 and
	# 100 were deleted; what lay in measures_b_2 is 53, 57, ..., 97
	is(sql("SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (SELECT outcome, count(*) AS n FROM dess_batch_rows WHERE job_id = $job GROUP BY 1) o"),
		'gone 18, ok 82', 'rows that moved have another key, those of a detached partition are gone');
	is(sql('SELECT count(*) FILTER (WHERE answer = body), count(*) FROM measures'), '82|84', 'the others have their answers');
	sql('ALTER TABLE measures_b ATTACH PARTITION measures_b_2 FOR VALUES FROM (50) TO (MAXVALUE)');
	$job = run('measures');
	is(outcomes_of($job), join(', ', map { "$_ ok" } sort { $a <=> $b } 2, 4, 149, map { 4 * $_ + 1 } 13 .. 24),
		'another job takes what was left');
	is(sql('SELECT count(*) FILTER (WHERE answer = body), count(*) FROM measures'), '97|97', 'and now all have theirs');
};

subtest 'a row that moves between partitions while its answer is written' => sub {
	sql(q{
		CREATE TABLE moving (region integer, id integer, body text, answer text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
		CREATE TABLE moving_1 PARTITION OF moving FOR VALUES IN (1);
		CREATE TABLE moving_2 PARTITION OF moving FOR VALUES IN (2);
		INSERT INTO moving SELECT 1, i, 'text ' || i FROM generate_series(1, 20) i});
	my $holder = DessBatch::Session->new($node);
	my $job = sql("SELECT dess_batch_prepare('moving', 'gpt-4o-mini', prompt => '{body}', target => 'answer')");
	foreach my $call ('upload', 'create')
	{
		wait_for_job($node, $job);
		sql("SELECT dess_batch_$call($job)");
	}
	wait_for_job($node, $job);
	$holder->query('BEGIN; UPDATE moving SET region = 2 WHERE id <= 5');
	sql("SELECT dess_batch_retrieve($job)");
	ok($node->poll_query_until('postgres', "SELECT done = 15 FROM dess_batch_jobs WHERE job_id = $job"), 'the others are written');
	$holder->query('COMMIT');
	$holder->close;
	is(wait_for_job($node, $job), 'done', 'the job ends');
	is(outcomes_of($job), join(', ', (map { "$_ gone" } 1 .. 5), (map { "$_ ok" } 6 .. 20)), 'with an outcome for each');
};

subtest 'many partitions' => sub {
	sql(q{
		CREATE TABLE many (id bigint PRIMARY KEY, body text, answer text) PARTITION BY HASH (id);
		SELECT format('CREATE TABLE many_%s PARTITION OF many FOR VALUES WITH (MODULUS 40, REMAINDER %s)', i, i) FROM generate_series(0, 39) i \gexec
		INSERT INTO many SELECT i, 'text ' || i FROM generate_series(1, 200000) i;
		ANALYZE many;
		CREATE EXTENSION pg_stat_statements});
	# the session that built the indexes has reported its scans when it ended
	sql('SELECT pg_stat_reset()');
	my $job = run('many', "where_sql => 'id % 100 = 0', max_rows => 1500");
	is(sql(q{SELECT sum(seq_scan), sum(idx_tup_fetch) BETWEEN 1500 AND 400000 FROM pg_stat_user_tables WHERE relname ~ '^many_[0-9]'}), '0|t',
		'no partition is read as a whole, neither for a page nor for a group of answers');
	is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id = $job AND outcome = 'ok'"), 1500, 'all rows that are meant are ok');
	is(sql('SELECT count(answer), count(*) FILTER (WHERE answer <> body) FROM many'), '1500|0', 'each has its own answer');

};

subtest 'a table without statistics' => sub {
	sql(q{
		CREATE TABLE fresh (tenant integer, id integer, body text, answer text, PRIMARY KEY (tenant, id));
		INSERT INTO fresh SELECT 1, i, 'text ' || i FROM generate_series(1, 50000) i;
		SELECT pg_stat_reset();});
	my $job = run('fresh', "where_sql => 'id % 5000 = 0'");
	cmp_ok(sql(q{SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_user_tables WHERE relname = 'fresh'}), '<', 3 * 50000,
		'rows that share the first column of their key are not read for every page');
	is(outcomes($node, $job), 'ok 10', 'and found');
};

subtest 'inheritance' => sub {
	sql(q{
		CREATE TABLE mother (id integer PRIMARY KEY, body text, answer text);
		CREATE TABLE daughter (more text) INHERITS (mother);
		INSERT INTO mother SELECT i, 'text ' || i FROM generate_series(1, 3) i;
		INSERT INTO daughter SELECT i, 'daughter ' || i FROM generate_series(3, 4) i;});
	is(outcomes_of(run('mother')), '1 ok, 2 ok, 3 ok', 'a table is its own rows, as its key is');
	is(sql('SELECT string_agg(coalesce(answer, $$-$$), $$, $$ ORDER BY body DESC) FROM mother'), 'text 3, text 2, text 1, -, -', "those of a child are not touched");
};

# ---- foreign tables

my $host = $node->host;
my $port = $node->port;
sql('CREATE DATABASE far');
sql(q{
	CREATE TABLE far_a (id bigint PRIMARY KEY, region integer, body text, answer text);
	CREATE TABLE far_b (id bigint PRIMARY KEY, region integer, body text, answer text);
	CREATE TABLE far_pair (a integer, b text, body text, answer varchar(7), PRIMARY KEY (a, b));}, 'far');
sql(qq{
	CREATE EXTENSION postgres_fdw;
	CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '$host', port '$port', dbname 'far', options '-c lock_timeout=500');
	CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user '} . sql('SELECT current_user') . q{');
	CREATE TABLE spread (id bigint, region integer, body text, answer text) PARTITION BY LIST (region);
	CREATE FOREIGN TABLE spread_a PARTITION OF spread FOR VALUES IN (1) SERVER far OPTIONS (table_name 'far_a');
	CREATE FOREIGN TABLE spread_b PARTITION OF spread FOR VALUES IN (2) SERVER far OPTIONS (table_name 'far_b');
	CREATE TABLE spread_c PARTITION OF spread FOR VALUES IN (3) PARTITION BY RANGE (id);
	CREATE TABLE spread_c_1 PARTITION OF spread_c FOR VALUES FROM (MINVALUE) TO (MAXVALUE);
	CREATE UNIQUE INDEX ON spread_c (id);
	CREATE FOREIGN TABLE single (id bigint, region integer, body text, answer text) SERVER far OPTIONS (table_name 'far_a');
	CREATE FOREIGN TABLE pair (a integer, b text, body text, answer varchar(7)) SERVER far OPTIONS (table_name 'far_pair');});

# Statements that the remote side has seen on its tables: "select 3, update 2"
sub remote_statements
{
	return sql(q{
		SELECT string_agg(kind || ' ' || n, ', ' ORDER BY kind) FROM (
			SELECT CASE WHEN query ~ 'UPDATE public.far' THEN 'update' WHEN query ~ 'ANY ' THEN 'select by key' ELSE 'select a page' END AS kind, sum(calls) AS n
			FROM pg_stat_statements s JOIN pg_database d ON d.oid = s.dbid
			WHERE datname = 'far' AND toplevel AND query ~ '^(DECLARE|SELECT|UPDATE)' AND query ~ 'public.far' GROUP BY 1) s});
}

subtest 'a foreign table' => sub {
	sql(q{INSERT INTO far_a SELECT i, 1, 'text ' || i FROM generate_series(1, 1200) i}, 'far');
	sql('SELECT pg_stat_statements_reset()');
	my $job = run('single', "key => '{id}'");
	answered($job, 'single', 1200);
	my $groups = sql("SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE 'UPDATE public.single%'");
	cmp_ok($groups, '<=', 3 + 3, 'in few groups');
	is(remote_statements() =~ s/select a page \d+, //r, "select by key $groups, update $groups", 'one remote read and one remote write each');
};

subtest 'foreign partitions' => sub {
	my ($status, $out, $err) = $node->psql('postgres', "SELECT dess_batch_submit('spread', 'gpt-4o-mini', '{body}', 'answer')");
	like($err, qr/ERROR:  table "spread" with foreign partitions does not tell its key.*key => '\{id\}'/s, 'their key must be named');

	sql(q{UPDATE far_a SET answer = NULL; INSERT INTO far_b SELECT i, 2, 'text ' || i FROM generate_series(1201, 2400) i}, 'far');
	sql(q{INSERT INTO spread_c SELECT i, 3, 'text ' || i FROM generate_series(2401, 2500) i; SELECT pg_stat_statements_reset()});
	my $job = run('spread', "key => '{id}', where_sql => 'region < 3'");
	is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id = $job AND outcome = 'ok'"), 2400, 'rows on the foreign server are ok');
	is(sql('SELECT count(answer), count(*) FILTER (WHERE answer <> body) FROM spread'), '2400|0', 'each has its own answer');
	my $groups = sql("SELECT sum(calls) FROM pg_stat_statements WHERE query LIKE 'UPDATE public.spread%'");
	my $statements = 2 * $groups;
	is(remote_statements() =~ s/select a page \d+, //r, "select by key $statements, update $statements",
		'one remote read and one remote write for each partition and group');

	# rows of all partitions, changed while they are away
	sql('UPDATE far_a SET answer = NULL WHERE id <= 20; UPDATE far_b SET answer = NULL WHERE id <= 1220', 'far');
	$job = away('spread', q{
		UPDATE spread SET answer = 'mine' WHERE id IN (1, 1201, 2401);
		UPDATE spread SET body = 'other' WHERE id IN (2, 1202, 2402);
		DELETE FROM spread WHERE id IN (3, 1203, 2403);
		UPDATE spread SET region = 3 WHERE id = 1204;}, ", key => '{id}'");
	is(sql("SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (SELECT outcome, count(*) AS n FROM dess_batch_rows WHERE job_id = $job GROUP BY 1) o"),
		'gone 3, ok 131, stale 6', 'each row has its outcome, also one that moved');
	is(sql('SELECT count(*) FILTER (WHERE answer = body), count(*) FILTER (WHERE answer IS NULL), count(*) FILTER (WHERE answer = $$mine$$) FROM spread'),
		'2491|3|3', 'and what it should hold');

	# locks, here and there
	sql('UPDATE spread SET answer = NULL WHERE id % 100 < 10');
	my $n = sql('SELECT count(*) FROM spread WHERE answer IS NULL');
	my $here = DessBatch::Session->new($node);
	my $there = DessBatch::Session->new($node, database => 'far');
	$here->query('BEGIN; SELECT FROM spread_c WHERE id = 2405 FOR UPDATE');
	$there->query('BEGIN; SELECT FROM far_a WHERE id = 5 FOR UPDATE');
	$job = submit('spread', "key => '{id}', overwrite => false, parameters => '{\"seed\": 1}'");
	ok($node->poll_query_until('postgres', "SELECT done = rows - 2 AND rows = $n FROM dess_batch_jobs WHERE job_id = $job"),
		'all rows but the two that are locked are written') or diag(sql("SELECT rows, done, failed, pending FROM dess_batch_jobs WHERE job_id = $job"));
	$_->query('COMMIT'), $_->close foreach $here, $there;
	is(wait_for_job($node, $job), 'done', 'when they are free the job ends');
	is(outcomes($node, $job), "ok $n", 'with all rows');
};

subtest 'a foreign table with a composite key' => sub {
	sql(q{INSERT INTO far_pair SELECT i, 'k' || i, 'text ' || i FROM generate_series(1, 120) i}, 'far');
	my $job = run('pair', "key => '{a,b}'");
	is(sql("SELECT string_agg(DISTINCT outcome || coalesce(' ' || error_code, ''), ', ') FROM dess_batch_rows WHERE job_id = $job"), 'invalid 22001, ok', 'an answer that does not fit there');
	is(sql('SELECT count(*) FILTER (WHERE answer = body), count(*) FILTER (WHERE answer IS NULL) FROM pair'), '99|21', 'keeps no other away');
};

# ---- keys

subtest 'keys of all types' => sub {
	my %value = (
		smallint => [ -32768, 0, 32767 ],
		bigint => [ '-9223372036854775808', 0, '9223372036854775807', '9007199254740993' ],
		'numeric' => [ '1.50', '-0.00001', '1e40', 'NaN', 'Infinity', '123456789012345678901234567890.123456789' ],
		'numeric(6,2)' => [ '1.5', '-9999.99', 0 ],
		real => [ '0.1', '-0', '3.4e38', 'NaN', '-Infinity' ],
		'double precision' => [ '0.1', '5e-324', '1.7976931348623157e308', 'NaN' ],
		uuid => [ '00000000-0000-0000-0000-000000000000', 'ffffffff-ffff-ffff-ffff-ffffffffffff' ],
		text => [ '', ' ', 'a', 'A', 'ä', "tab\there", "line\nend", "quote'", '"', '\\', '{a,b}', 'NULL', 'null', '😀', "\xe2\x80\x8f", '%s', '$1', "e\xcc\x81", 'é' ],
		'text COLLATE "C"' => [ 'a', 'B', 'ß', 'ss' ],
		'text COLLATE ignore_case' => [ 'Abc', 'abd', 'ÄÖ' ],
		'varchar(5)' => [ 'abc', 'abcde', '' ],
		'char(5)' => [ 'abc', 'abcde', '' ],
		'"char"' => [ 'a', '\\351', '' ],
		name => [ 'abc', 'x' x 63 ],
		citext => [ 'Abc', 'xyz' ],
		bytea => [ '\\x', '\\x00', '\\xff00', '\\x5c' ],
		boolean => [ 'true', 'false' ],
		date => [ '2026-02-28', '-infinity', 'infinity', '0044-03-15 BC', '5874897-12-31' ],
		time => [ '00:00', '24:00:00', '12:34:56.789012' ],
		timetz => [ '12:00+02', '12:00-11:30' ],
		timestamp => [ '2026-03-29 02:30', 'infinity', '4713-01-01 00:00:00 BC', '2026-01-01 00:00:00.000001' ],
		timestamptz => [ '2026-03-29 02:30+02', '-infinity', '294276-12-31 23:59:59.999999+00' ],
		interval => [ '1 day', '-1 mon +3 days -04:05:06.7', '178000000 years', '0' ],
		mood => [ 'sad', 'so so', q{it's}, 'happy' ],
		positive => [ 1, 1000000 ],
		'integer[]' => [ '{1,2}', '{}', '{NULL,3}', '{{1,2},{3,4}}', '[0:1]={7,8}' ],
		'text[]' => [ '{a,"b c","d,e","\\"","NULL",NULL}', '{}' ],
		int4range => [ '[1,5)', 'empty', '(,3)' ],
		int4multirange => [ '{[1,3),[5,7)}', '{}' ],
		inet => [ '10.0.0.1', '10.0.0.0/8', '::1' ],
		macaddr => [ '08:00:2b:01:02:03' ],
		'bit(4)' => [ '0101', '1111' ],
		varbit => [ '', '1', '10101010101' ],
		jsonb => [ '{"a": 1}', '"text"', 'null', '[]', '{}', '1.50' ],
		money => [ '$1,234.56', '-$0.01' ],
		oid => [ 0, 4294967295 ],
		regclass => [ 'pg_class', '0' ],
		pg_lsn => [ '16/B374D848' ],
		tsvector => [ q{'a':1 'b c':2}, '' ],
		xid8 => [ '18446744073709551615' ]);
	my %job;
	my %table;

	sql(q{
		CREATE EXTENSION citext;
		CREATE COLLATION ignore_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
		CREATE TYPE mood AS ENUM ('sad', 'so so', 'it''s', 'happy');
		CREATE DOMAIN positive AS integer CHECK (VALUE > 0);});
	foreach my $type (sort keys %value)
	{
		my $i = 0;
		$table{$type} = 'key_' . (1 + keys %table);
		sql("CREATE TABLE $table{$type} (k $type PRIMARY KEY, body text, answer text); INSERT INTO $table{$type} (k, body) VALUES "
			  . join(', ', map { "(\$q\$$_\$q\$, '$table{$type} " . ++$i . "')" } @{ $value{$type} }));
		$job{$type} = submit($table{$type}, '');
	}
	foreach my $type (sort keys %value)
	{
		my $n = @{ $value{$type} };

		is(wait_for_job($node, $job{$type}), 'done', "$type: the job ends");
		is(outcomes($node, $job{$type}), "ok $n", 'every row is ok')
		  or diag(sql("SELECT row_key, outcome, error_code, error FROM dess_batch_rows WHERE job_id = $job{$type} AND outcome <> 'ok'"));
		is(sql("SELECT count(*) FROM $table{$type} WHERE answer = body"), $n, 'and has its own answer');
		# the key that the ledger shows is one that the user can give back
		is(sql("SELECT count(*) FROM dess_batch_rows r, dess_batch_show($job{$type}, r.row_key) s WHERE job_id = $job{$type} AND request IS NOT NULL AND is_current IS NOT NULL"), $n,
			'and can be shown by its key');
	}
	sql("UPDATE $table{'text COLLATE ignore_case'} SET k = 'ABC', answer = NULL WHERE k = 'abc'");
	is(outcomes($node, run($table{'text COLLATE ignore_case'})), 'ok 1', 'a key that is equal and not the same');
};

# ---- names and widths

subtest 'names' => sub {
	my $long = 'ä' x 31 . 'x';
	my @names = ("it's \"quoted\" \\ and %s", 'Größe der Tür', 'select', 't', 'v', 'c1', 'k1', '$1', "tab\tline\nend", $long, '{curly', ' ', '😀');

	foreach my $i (0 .. $#names)
	{
		my $name = $names[$i];
		my $quoted = '"' . $name =~ s/"/""/gr . '"';
		my $literal = q{E'} . $name =~ s/(['\\])/\\$1/gr . q{'};
		my $key = '"' . ($name . 'k') =~ s/"/""/gr . '"';
		$key = '"' . substr($name, 0, 30) . 'k"' if $name eq $long;
		my $target = $quoted =~ s/"$/t"/r;
		$target = '"' . substr($name, 0, 30) . 't"' if $name eq $long;
		my $target_literal = q{E'} . (substr($target, 1, -1) =~ s/""/"/gr) =~ s/(['\\])/\\$1/gr . q{'};

		sql(qq{CREATE SCHEMA $quoted; CREATE TABLE $quoted.$quoted ($key integer PRIMARY KEY, $quoted text, $target text);
			INSERT INTO $quoted.$quoted VALUES (1, 'one'), (2, 'two')});
		my $job = sql(qq{SELECT dess_batch_submit(format('%I.%I', $literal, $literal), 'gpt-4o-mini', prompt => '{row}', input_columns => ARRAY[$literal],
			target => $target_literal, where_sql => format('%I <> \$\$two\$\$', $literal), mode => 'online')});
		is(wait_for_job($node, $job), 'done', "$name: the job ends");
		is(outcomes($node, $job), 'ok 1', 'the row is ok');
		is(sql(qq{SELECT ($target)::jsonb ->> $literal FROM $quoted.$quoted WHERE $key = 1}), 'one', 'and has its answer');
	}
};

subtest 'wide tables' => sub {
	sql('CREATE TABLE wide (id integer PRIMARY KEY, answer text, ' . join(', ', map { "c$_ text" } 1 .. 1598) . ');'
		  . 'INSERT INTO wide (id, c1, c1598) VALUES (1, $$first$$, $$last$$), (2, NULL, $$last$$);');
	my $job = run('wide', "prompt => '{row}'");
	is(outcomes($node, $job), 'ok 2', '1600 columns');
	is(sql('SELECT answer FROM wide WHERE id = 1'), '{"c1":"first","c1598":"last"}', 'of which two say something');
	sql('CREATE TABLE holes (' . join(', ', map { "d$_ integer" } 1 .. 500) . ', id integer PRIMARY KEY, body text, answer text);'
		  . 'ALTER TABLE holes ' . join(', ', map { "DROP d$_" } 1 .. 500) . '; INSERT INTO holes VALUES (1, $$text 1$$)');
	answered(run('holes'), 'holes', 1);
};

$node->stop;
done_testing();
