# dess_batch_report: a page that a browser shows whole, on a desk, in the dark
# and on a phone, whose figures are those of the views and whose texts are text.

use strict;
use warnings;

use DessBatch;
use Encode ();
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my $json = JSON::PP->new->utf8;
my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('report');
my $chromium = '/usr/bin/chromium';
my $directory = PostgreSQL::Test::Utils::tempdir();

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

# The page as a browser sees it: its checks are ours; returns its facts.
sub rendered
{
	my ($page, $name) = @_;
	my $file = "$directory/$name.html";
	my ($facts, $done);

	append_to_file($file, $page);
	local $ENV{HOME} = $directory;
	open my $out, '-|', 'node', source_file('test/npm/report_page.mjs'), $chromium, $file
	  or die "could not run node: $!";
	while (my $line = <$out>)
	{
		chomp $line;
		if ($line =~ /^(not )?ok (.*)/) { ok(!$1, "$name: $2"); }
		elsif ($line =~ /^facts (.*)/) { $facts = $json->decode($1); }
		elsif ($line =~ /^done (\d+)/) { $done = $1; }
		else { diag($line); }
	}
	close $out;
	ok($done && $facts, "$name: the browser saw the page to its end");
	return $facts // {};
}

ok(-x $chromium, 'a browser is installed');

create_server($node, $simulator, options => { max_batch_requests => 40 });
create_faculty($node);

# ---- a job with answers of every kind

my $job = submit_job($node, q{'faculty', 'gpt-6-luna', overwrite => true, parameters => '{"max_output_tokens": 6}',
	label => '<script>alert(1)</script> & "label"'});
is(wait_for_job($node, $job), 'done', 'a job with some answers cut off');
my $page = sql("SELECT dess_batch_report($job)");
unlike($page, qr/[^\x00-\x7f]/, 'the page is ASCII');
unlike($page, qr{https?://|url\(|\@import}, 'and names no address');
my $facts = rendered($page, 'done');

like($facts->{subtitle}, qr{^<script>alert\(1\)</script> & "label" .* \S*faculty . department_llm . gpt-6-luna on openai},
	'a label of markup is text');
my %cards = map { s/,//gr } %{ $facts->{cards} // {} };
is("$cards{rows} $cards{done} $cards{failed} $cards{requests}",
	sql("SELECT concat_ws(' ', rows, done, failed, requests) FROM dess_batch_jobs WHERE job_id = $job"),
	'the figures are those of dess_batch_jobs');
is(join(', ', map { "$_->[0] $_->[1]" } sort { $a->[0] cmp $b->[0] } @{ $facts->{outcomes} // [] }),
	outcomes($node, $job), 'and so are the outcomes');
is(join(' ', map { s/,//gr } @{ $facts->{tokens} // [] }),
	sql("SELECT concat_ws(' ', input_tokens, cached_tokens, output_tokens, reasoning_tokens, trim_scale(round(cost, 6))) FROM dess_batch_jobs WHERE job_id = $job"),
	'and tokens and cost');
is($facts->{batches}, sql("SELECT count(*) FROM dess_batch_batches WHERE job_id = $job"), 'and the batches');
is_deeply([ map { [ @$_[0, 2] ] } @{ $facts->{errors} // [] } ],
	[ map { [ split /\|/ ] } split /\n/, sql("SELECT outcome, count(*) FROM dess_batch_errors WHERE job_id = $job GROUP BY 1 ORDER BY 2 DESC") ],
	'and the errors');
like($facts->{errors}[0][3], qr/limit of output tokens/, 'an error without words gets some');
foreach my $sample (@{ $facts->{samples} // [] })
{
	my ($key, $outcome, $answer) = @$sample;
	my $id = $json->decode($key)->{id};

	is($outcome, sql(qq{SELECT outcome FROM dess_batch_rows WHERE job_id = $job AND row_key = '$key'}), "outcome of row $key");
	is($answer, sql("SELECT department_llm FROM faculty WHERE id = $id"), "what was written for row $key")
	  if $outcome eq 'ok' || $outcome eq 'missing';
}

# ---- a job that cannot go on, and one that has not begun

sql(q{
	CREATE TABLE odd ("<i>key</i>" text PRIMARY KEY, "it's" text, answer text);
	INSERT INTO odd VALUES ('</td><img src=x onerror=alert(1)>', E'caf\u00e9 \u202e & <b>', NULL);});
my $failed = submit_job($node, q{'odd', 'no-such-model', prompt => '<b>{it''s}</b>', target => 'answer', server => 'openai'});
is(wait_for_job($node, $failed), 'failed', 'a job whose model nobody knows');
$facts = rendered(sql("SELECT dess_batch_report($failed)"), 'failed');
is($facts->{cards}{done}, '0', 'it has done nothing');

my $trial = submit_job($node, q{'odd', 'gpt-6-luna', prompt => '<b>{it''s}</b>', target => NULL, keep => 'answer', mode => 'online'});
is(wait_for_job($node, $trial), 'done', 'a trial with hostile text');
$facts = rendered(sql("SELECT dess_batch_report($trial)"), 'trial');
is($facts->{samples}[0][0], '{"<i>key</i>": "</td><img src=x onerror=alert(1)>"}', 'a key of markup is text');
my $kept = Encode::decode('UTF-8', sql("SELECT answer FROM dess_batch_rows WHERE job_id = $trial"));
ok($kept =~ s/\x{202e}/[U+202E]/, 'its answer has a mark of direction');
is($facts->{samples}[0][2], $kept, 'a trial shows the answers that were kept, such marks made harmless');

sql('ALTER SYSTEM SET dess_batch.enabled = off; SELECT pg_reload_conf()');
my $waiting = submit_job($node, q{'faculty', 'gpt-6-luna', overwrite => true});
$page = sql("SELECT dess_batch_report($waiting)");
like($page, qr/No row has an outcome yet/, 'a job that has not begun has a page');
like($page, qr{</html>\s*$}, 'which is whole');
sql("SELECT dess_batch_cancel($waiting); ALTER SYSTEM RESET dess_batch.enabled; SELECT pg_reload_conf()");

# ---- the table is gone, the caller a stranger, the database another one

sql('DROP TABLE odd');
like(sql("SELECT dess_batch_report($failed)"), qr{</html>\s*$}, 'the page outlives the table');

sql('CREATE ROLE stranger');
my ($status, $out, $err) = $node->psql('postgres', "SET ROLE stranger; SELECT dess_batch_report($job)");
isnt($status, 0, 'a stranger gets no page');
like($err, qr/job $job|permission denied/, 'and is told so');
sql('GRANT pg_read_all_stats TO stranger');
($status, $out, $err) = $node->psql('postgres', "SET ROLE stranger; SELECT dess_batch_report($job)");
isnt($status, 0, 'nor does who only reads statistics: the page shows rows');
($status, $out, $err) = $node->psql('postgres', 'SELECT dess_batch_report(4711)');
like($err, qr/job 4711 does not exist/, 'an unknown job is named');

sql(q{CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
sql(q{CREATE EXTENSION dess_batch; CREATE TABLE staff (id int PRIMARY KEY, body text, answer text);
	INSERT INTO staff VALUES (1, chr(233) || 'cole', NULL)}, 'latin');
create_server($node, $simulator, database => 'latin');
my $latin = submit_job($node, q{'staff', 'gpt-6-luna', prompt => chr(233) || ' {body}', target => 'answer', label => chr(252)}, 'latin');
is(wait_for_job($node, $latin, 'latin'), 'done', 'a job in LATIN1');
$page = sql("SELECT dess_batch_report($latin)", 'latin');
like($page, qr/&#xFC;/, 'its label is readable in every encoding');
like($page, qr/&#xE9; \{body\}/, 'and so is its prompt');

done_testing();
