# Text of every kind, in databases of every encoding, batch and online: what a
# row says reaches the model, what the model says reaches the row byte for byte,
# and what cannot be had in the database's encoding is that row's outcome.

use strict;
use warnings;

use DessBatch;
use Digest::MD5 qw(md5_hex);
use Encode qw(encode decode);
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $uploads = PostgreSQL::Test::Utils::tempdir();
my $simulator = start_simulator(batch_ms => 10, arguments => [ '--keep-uploads', $uploads, '--set', 'record_body=1000000' ]);
my $node = start_node('text', extension => 0, conf => "autovacuum = off\n");
my %encoding = (u8 => 'UTF8', latin1 => 'LATIN1', ascii => 'SQL_ASCII', jp => 'EUC_JP');
my $json = JSON::PP->new->allow_nonref;

# SQL in UTF-8, whatever the database's encoding is.
sub sql
{
	my ($sql, $database) = @_;
	my $client = $database eq 'ascii' ? '' : "SET client_encoding = 'UTF8';";
	return $node->safe_psql($database, $client . $sql);
}

sub wait_done
{
	my ($job, $database, $name) = @_;
	is(wait_for_job($node, $job, $database), 'done', $name)
	  or diag(sql("SELECT error_code, error FROM dess_batch_jobs WHERE job_id = $job", $database));
	return;
}

sub outcomes_of
{
	my ($job, $database) = @_;
	return sql("SELECT string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ' ORDER BY (row_key ->> 'id')::integer)
		FROM dess_batch_rows WHERE job_id = $job", $database);
}

# The bytes of a text of the database, in UTF-8, as hexadecimal digits.
sub hex_of
{
	my ($expression, $database) = @_;
	my $encoding = $database eq 'ascii' ? 'SQL_ASCII' : 'UTF8';
	return "encode(convert_to($expression, '$encoding'), 'hex')";
}

foreach my $database (sort keys %encoding)
{
	$node->safe_psql('postgres', "CREATE DATABASE $database TEMPLATE template0 ENCODING '$encoding{$database}' LOCALE 'C'");
	$node->safe_psql($database, 'CREATE EXTENSION dess_batch');
	create_server($node, $simulator, database => $database);
}

# ---- answers

# What the model writes, as JSON; what it means, in UTF-8; and in which of the
# databases it cannot be.
my @answers = (
	[ 'plain', '"plain text"', 'plain text' ],
	[ 'an escaped NUL', '"a\u0000b"', "a\xef\xbf\xbdb", 'latin1 jp' ],
	[ 'a high surrogate alone', '"a\ud83db"', "a\xef\xbf\xbdb", 'latin1 jp' ],
	[ 'a low surrogate alone', '"a\ude00 \ud83d\ud83d\ude00"', "a\xef\xbf\xbd \xef\xbf\xbd\xf0\x9f\x98\x80", 'latin1 jp' ],
	[ 'a pair of surrogates', '"a\ud83d\ude00b"', "a\xf0\x9f\x98\x80b", 'latin1 jp' ],
	[ 'separators of lines and paragraphs', "\"a\xe2\x80\xa8b\\u2028c\\u2029d\"", "a\xe2\x80\xa8b\xe2\x80\xa8c\xe2\x80\xa9d", 'latin1 jp' ],
	[ 'marks of direction', '"a\u202eb\u2066c\u2069d\u200fe"', "a\xe2\x80\xaeb\xe2\x81\xa6c\xe2\x81\xa9d\xe2\x80\x8fe", 'latin1 jp' ],
	[ 'no characters at all', '"a\uffff\ufdd0\udbff\udfffb"', "a\xef\xbf\xbf\xef\xb7\x90\xf4\x8f\xbf\xbfb", 'latin1 jp' ],
	[ 'a combining mark', '"e\u0301a\u0308x"', "e\xcc\x81a\xcc\x88x", 'latin1 jp' ],
	[ 'a byte order mark', '"\ufeffa\ufeffb"', "a\xef\xbb\xbfb", 'latin1 jp' ],
	[ 'ends of lines', '"a\r\nb\rc\n\td\u000be\ff"', "a\r\nb\rc\n\td\x0be\x0cf" ],
	[ 'control characters', '"a\u0001\u001b[0m\u007f\bb"', "a\x01\x1b[0m\x7f\x08b" ],
	[ 'control characters of Latin 1', '"a\u0080\u0085\u009fb"', "a\xc2\x80\xc2\x85\xc2\x9fb", 'jp' ],
	[ 'letters of Latin 1', "\"\\u00e9t\xc3\xa9 \\u00ff\"", "\xc3\xa9t\xc3\xa9 \xc3\xbf" ],
	[ 'Japanese', "\"\xe6\x97\xa5\\u672c\xe8\xaa\x9e \xef\xbd\xb1 \xe7\xab\xa0\"", "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e \xef\xbd\xb1 \xe7\xab\xa0", 'latin1' ],
	[ 'quotes and backslashes', '"\"a\" \\\\ \/ \' $1 %s {b} \\\\x41 \\\\N"', q{"a" \\ / ' $1 %s {b} \\x41 \\N} ],
	[ 'what looks like an array', '"{a,\"b\"}"', '{a,"b"}' ]);

my $no = 0;
$simulator->post('answers', [ map { { contains => 'answer ' . ++$no . '.', answer => { content_raw => decode('utf8', $_->[1]) } } } @answers ]);

foreach my $database (sort keys %encoding)
{
	sql(q{CREATE TABLE answers (id integer PRIMARY KEY, note text, batch text, online text, whole jsonb);
		INSERT INTO answers SELECT i, 'answer ' || i || '.' FROM generate_series(1, } . @answers . ') i', $database);
	my %job = map { $_ => submit_job($node, "'answers', 'gpt-4o-mini', '{note}', '$_', mode => '$_', keep => 'reply'", $database) } 'batch', 'online';

	foreach my $mode ('batch', 'online')
	{
		wait_done($job{$mode}, $database, "$encoding{$database}, $mode: answers");
		is(outcomes_of($job{$mode}, $database),
			join(', ', map { "$_ " . (($answers[ $_ - 1 ][3] // '') =~ /$database/ ? 'invalid 22P05' : 'ok') } 1 .. @answers),
			'what the encoding does not have is invalid');
		my @hex = split /\n/, sql("SELECT coalesce(" . hex_of($mode, $database) . ", '') FROM answers ORDER BY id", $database);
		is_deeply(\@hex, [ map { ($_->[3] // '') =~ /$database/ ? '' : unpack('H*', $_->[2]) } @answers ], 'the others are there byte for byte')
		  or diag(join "\n", map { "$answers[$_][0]: " . ($hex[$_] // '') . ' ' . unpack('H*', $answers[$_][2]) } 0 .. $#answers);
		is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id = $job{$mode} AND answer IS NULL", $database), 0, 'all are kept');
		is(sql("SELECT count(*) FROM dess_batch_rows r, dess_batch_show(job_id, row_key) s WHERE job_id = $job{$mode} AND s.reply IS NOT NULL AND s.is_current", $database),
			scalar(@answers), 'with what the provider sent');
	}
}

# ---- what rows say

my @texts = (
	"caf\xc3\xa9 \xc3\xbf\xc2\xa0x", "\"quoted\" \\ / \b\f\n\r\t\x01\x1f\x7f", "\xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e", "\xf0\x9f\x98\x80 e\xcc\x81",
	"\xe2\x80\xa8 \xe2\x80\xae \xef\xbb\xbf \xef\xbf\xbf \xef\xbf\xbd", '{curly} {{double}} %s $1', "</td>\x{26}amp;");
my %fits = (u8 => [ 1 .. 7 ], ascii => [ 1 .. 7 ], latin1 => [ 1, 2, 6, 7 ], jp => [ 2, 3, 6, 7 ]);

foreach my $database (sort keys %encoding)
{
	my @ids = @{ $fits{$database} };
	sql('CREATE TABLE texts (id integer PRIMARY KEY, note text, batch text, online text);' . join('', map {
		"INSERT INTO texts VALUES ($_, \$q\$$texts[$_ - 1]\$q\$);" } @ids), $database);
	sql(q{INSERT INTO texts VALUES (8, E'a\xe9b'), (9, E'\xed\xa0\x80'), (10, E'\xf8')}, $database) if $database eq 'ascii';
	my $online = 'requests?path=/v1/chat/completions';
	my $since = $simulator->get("$online&limit=100000")->{last_seq};
	my %job = map { $_ => submit_job($node, "'texts', 'gpt-4o-mini', '{note}', '$_', mode => '$_'", $database) } 'batch', 'online';

	wait_done($job{$_}, $database, "$encoding{$database}, $_: texts") foreach 'batch', 'online';
	my $strange = $database eq 'ascii' ? ', 8 invalid 22021, 9 invalid 22021, 10 invalid 22021' : '';
	is(outcomes_of($job{$_}, $database), join(', ', map { "$_ ok" } @ids) . $strange, 'all are sent that are text') foreach 'batch', 'online';

	my @online = map { $json->decode($_->{body})->{messages}[0]{content} }
	  @{ $simulator->get("$online&since=$since&limit=1000")->{requests} };
	is_deeply([ sort @online ], [ sort map { decode('utf8', $texts[ $_ - 1 ]) } @ids ], 'the model reads what they say, online');
	my $remote = sql("SELECT input_uri FROM dess_batch_batches WHERE job_id = $job{batch}", $database);
	my @lines = split /\n/, slurp_file("$uploads/$remote.jsonl");
	is_deeply([ sort map { $json->decode(decode('utf8', $_))->{body}{messages}[0]{content} } @lines ],
		[ sort map { decode('utf8', $texts[ $_ - 1 ]) } @ids ], 'and in a batch');
}

# ---- names, prompts, words, errors

my %word = (u8 => "\xce\xb1\xf0\x9f\x98\x80", latin1 => "gr\xc3\xbcn", ascii => "gr\xc3\xbcn", jp => "\xe5\xad\xa6\xe9\x83\xa8");
$simulator->post('answers/clear');
foreach my $database (sort keys %encoding)
{
	my $w = $word{$database};
	my $wide = decode('utf8', $w);

	$simulator->post('answers', [
		{ contains => 'nothing', answer => uc($wide) . ' ' },
		{ contains => "say $wide", answer => "yes, $wide" },
		{ contains => "object", answer => $json->encode({ $wide => "in $wide" }) } ]);
	$simulator->post('faults', [
		{ match => { prompt => 'bad row' }, times => 1, status => 400, error => { message => "bad $wide \x{2192} \x{1F600}", code => "c_$wide" } },
		{ match => { prompt => 'bad row' }, times => 1, row => { outcome => 'http_error', status => 400, message => "bad $wide \x{2192} \x{1F600}", code => "c_$wide" } } ]);
	sql(qq{CREATE SCHEMA "$w"; CREATE TABLE "$w"."$w" ("$w k" text PRIMARY KEY, "$w" text, "$w t" text, "$w j" text);
		INSERT INTO "$w"."$w" VALUES ('1 $w', '$w'), ('2 $w', 'nothing'), ('3 $w', 'bad row'), ('4', 'left out');
		CREATE FUNCTION public.complain() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION \$\$no $w\$\$; END'}, $database);
	foreach my $mode ('online', 'batch')
	{
		my $job = sql(qq{SELECT dess_batch_submit('"$w"."$w"', 'gpt-4o-mini', prompt => 'say {$w} $w', target => '$w t', where_sql => '"$w" <> ''left out'' AND ''$w'' = ''$w''',
			missing => '$w', mode => '$mode', system_prompt => 'system $w', label => '$w', overwrite => true, server => 'openai')}, $database);
		wait_done($job, $database, "$encoding{$database}, $mode: names in the database's encoding");
		is(sql("SELECT string_agg(concat_ws(' ', row_key ->> '$w k', outcome), ', ' ORDER BY row_key ->> '$w k') FROM dess_batch_rows WHERE job_id = $job", $database),
			"1 $w ok, 2 $w missing, 3 $w rejected", 'outcomes');
		is(sql(qq{SELECT "$w t" FROM "$w"."$w" WHERE "$w k" LIKE '1%'}, $database), "yes, $w", 'the answer');
		is(sql("SELECT error_code || ': ' || error FROM dess_batch_errors WHERE job_id = $job", $database),
			"c_$w: bad $w " . ($database =~ /latin1/ ? '? ?' : $database eq 'jp' ? "\xe2\x86\x92 ?" : "\xe2\x86\x92 \xf0\x9f\x98\x80"),
			"the provider's words, as far as the encoding has them");
		is(sql("SELECT label || ' ' || source || ' ' || (args ->> 'system_prompt') FROM dess_batch_jobs WHERE job_id = $job", $database),
			qq{$w $w.$w system $w} =~ s/ \K\S+(?= system)/sql(qq{SELECT '"$w"."$w"'::regclass}, $database)/er, 'the views show it all');
	}

	# one answer for several columns, a property that is no ASCII, and a trigger that complains in the same words
	my $columns = $json->ascii->encode({ $wide => "$wide j" });
	my $schema = $json->ascii->encode({ type => 'object', properties => { $wide => { type => 'string' } }, required => [$wide], additionalProperties => JSON::PP::false });
	$_ = encode('UTF-8', $json->ascii(0)->encode($json->decode($_))) foreach $columns, $schema;
	my $job = sql(qq{SELECT dess_batch_submit('"$w"."$w"', 'gpt-4o-mini', prompt => 'object {row}', input_columns => '{$w}', target_columns => '$columns', response_schema => '$schema',
		where_sql => '"$w" = ''$w''', mode => 'online', server => 'openai')}, $database);
	wait_done($job, $database, "$encoding{$database}: properties");
	is(sql(qq{SELECT "$w j" FROM "$w"."$w" WHERE "$w k" LIKE '1%'}, $database), "in $w", 'find their column');
	my ($status, undef, $err) = $node->psql($database, "SET client_encoding = '" . ($database eq 'ascii' ? 'SQL_ASCII' : 'UTF8') . "';"
		  . qq{SELECT dess_batch_submit('"$w"."$w"', 'gpt-4o-mini', prompt => 'object {row}', target_columns => '{"no $w": "$w j"}', response_schema => '$schema', server => 'openai')});
	like($err, qr/ERROR:  property "no $w" in argument "target_columns" is not in the response schema/, 'one that the schema does not have is refused');
	sql(qq{CREATE TRIGGER complain BEFORE UPDATE ON "$w"."$w" FOR EACH ROW EXECUTE FUNCTION public.complain()}, $database);
	$job = sql(qq{SELECT dess_batch_submit('"$w"."$w"', 'gpt-4o-mini', prompt => 'say {$w}', target => '$w t', overwrite => true, mode => 'online', server => 'openai')}, $database);
	wait_done($job, $database, "$encoding{$database}: a trigger that complains");
	is(sql("SELECT DISTINCT error FROM dess_batch_errors WHERE job_id = $job", $database), "no $w", 'is understood');
	$simulator->post('answers/clear');
	$simulator->post('faults/clear');
}

# ---- bytes that are no text, from the provider

foreach my $mode ('batch', 'online')
{
	my $database = 'u8';
	sql("CREATE TABLE broken_$mode (id integer PRIMARY KEY, note text, answer text); INSERT INTO broken_$mode SELECT i, 'broken ' || i || '.' FROM generate_series(1, 3) i", $database);
	$simulator->post('answers', [ { contains => 'broken 2.', answer => { content_kind => 'invalid_utf8' } } ]);
	my $job = submit_job($node, "'broken_$mode', 'gpt-4o-mini', '{note}', 'answer', mode => '$mode'", $database);
	wait_done($job, $database, "$mode: an answer that is not UTF-8");
	is(outcomes_of($job, $database), '1 ok, 2 invalid 22021, 3 ok', 'is not written, and the others are');
	is(sql("SELECT answer FROM dess_batch_rows WHERE job_id = $job AND outcome = 'invalid'", $database), 'broken 2.?(?', 'it is kept, as far as it is text');
	is(sql("SELECT max(attempts) FROM dess_batch_rows WHERE job_id = $job", $database), 1, 'and not paid again');
	is(sql("SELECT count(answer) FROM broken_$mode", $database), 2, 'indeed');
	$simulator->post('answers/clear');
}

# ---- large ones

my $large = 10 * 1024 * 1024;
my $piece = "\xc3\xa9\xf0\x9f\x98\x80 \"a\"\n\\";
my $text = substr($piece x ($large / length($piece) + 1), 0, length($piece) * int($large / length($piece))) . 'end';
$simulator->post('answers', [ { contains => 'say much', answer => decode('utf8', $text) } ]);
sql(q{CREATE TABLE large (id integer PRIMARY KEY, note text, batch text, online text);
	INSERT INTO large VALUES (1, 'say much'), (2, repeat(U&'x\00e9\+01F600"\\\\' || E'\n\t', 90000)), (3, repeat('y', 30 * 1024 * 1024)), (4, 'small')}, 'u8');
my $length = sql('SELECT octet_length(note) FROM large WHERE id = 2', 'u8');
foreach my $mode ('batch', 'online')
{
	my $job = submit_job($node, "'large', 'gpt-4o-mini', '{note}', '$mode', mode => '$mode', keep => 'reply'", 'u8');
	wait_done($job, 'u8', "$mode: rows of a megabyte and of 30, an answer of 10");
	# what OpenAI takes in a file and what it takes in a request differ
	is(outcomes_of($job, 'u8'), '1 ok, 2 ok, 3 ' . ($mode eq 'batch' ? 'ok' : 'rejected invalid_request_error') . ', 4 ok', 'outcomes');
	is(sql("SELECT string_agg(input_tokens::text, ' ' ORDER BY row_key ->> 'id') FROM dess_batch_rows WHERE job_id = $job AND row_key ->> 'id' IN ('2', '3')", 'u8'),
		int(($length + 3) / 4) . ' ' . ($mode eq 'batch' ? 30 * 1024 * 1024 / 4 : 0), 'the model has read all of it');
	is(sql("SELECT octet_length($mode) || ' ' || md5($mode) FROM large WHERE id = 1", 'u8'), length($text) . ' ' . md5_hex($text),
		'and the row has the whole answer');
}

unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal|TRAP|invalid memory alloc|out of memory/, 'nothing has crashed');
$node->stop;
$simulator->stop;
done_testing();
