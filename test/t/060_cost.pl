# Costs: what the ledger says was used is what the provider handed out, to the
# token and to the last digit of a dollar, and an estimate is near it before.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = start_node('cost');
my $simulator = start_simulator(google => 1, batch_ms => 30);

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

# Tokens that the provider handed out so far: input, cached, output, reasoning.
sub handed_out
{
	my ($provider, $mode) = @_;
	my $tokens = $simulator->get('stats')->{providers}{$provider}{tokens}{$mode};
	return map { $tokens->{$_} } qw(input cached output reasoning);
}

# Runs a job, alone at its provider, and returns its number.  What it used must
# be what the provider handed out meanwhile, in every view, and its cost that of
# the tokens at these prices (input, cached, output; dollars for a million).
sub run_and_compare
{
	my ($what, $provider, $mode, $prices, $arguments, $run) = @_;
	my @before = handed_out($provider, $mode);
	my $other = $mode eq 'batch' ? 'online' : 'batch';
	my @others = handed_out($provider, $other);
	my $job = submit_job($node, "$arguments, mode => '$mode', label => '$what'");
	my $state = $run ? $run->($job) : wait_for_job($node, $job);
	my @after = handed_out($provider, $mode);
	my @used = map { $after[$_] - $before[$_] } 0 .. 3;
	my $tokens = join '|', @used;
	my $share = $mode eq 'batch' ? 0.5 : 1;
	my $cost = query("SELECT trim_scale((($used[0] - $used[1]) * $prices->[0] + $used[1] * $prices->[1] + $used[2] * $prices->[2]) / 1000000.0000 * $share)");

	cmp_ok($used[0], '>', 0, "$what: something was used (@used)");
	is(join('|', handed_out($provider, $other)), join('|', @others), "$what: nothing in another mode");
	is(query("SELECT input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost FROM dess_batch_usage WHERE label = '$what'"),
		"$tokens|$cost", "$what: usage is what the provider handed out, and costs that");
	is(query("SELECT input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost FROM dess_batch_jobs WHERE job_id = $job"),
		"$tokens|$cost", "$what: so is the job's");
	is(query("SELECT trim_scale(sum(b.cost)) FROM dess_batch.batch b WHERE job_id = $job"), $cost, "$what: so are its batches'");
	return $job;
}

# An estimate must be within 15 percent of what then is spent.
sub near
{
	my ($what, $estimate, $job) = @_;
	my ($requests, $cost) = split /\|/, $estimate;
	my ($sent, $spent) = split /\|/,
	  query("SELECT requests, cost FROM dess_batch_jobs WHERE job_id = $job");

	is($requests, $sent, "$what: $sent requests, as estimated");
	cmp_ok(abs($cost / $spent - 1), '<', 0.15, "$what: spent $spent, estimated $cost");
	return;
}

create_faculty($node);
create_server($node, $simulator, name => 'openai');
create_server($node, $simulator, name => 'responses', options => { endpoint => 'responses', models => 'none' });
create_server($node, $simulator, name => 'vertex', provider => 'vertex');
create_server($node, $simulator, name => 'gemini', provider => 'gemini');
query(q{CREATE FUNCTION again() RETURNS void LANGUAGE sql AS 'TRUNCATE dess_batch.settled; UPDATE faculty SET department_llm = NULL'});

# ---- the faculty table: estimated, sent, paid

my @runs = (
	[ 'openai batch', 'openai', 'batch', 'gpt-4o-mini', 'openai', [ 0.15, 0.075, 0.60 ] ],
	[ 'openai online', 'openai', 'online', 'gpt-5.4-nano', 'responses', [ 0.20, 0.02, 1.25 ] ],
	[ 'vertex batch', 'vertex', 'batch', 'gemini-3.5-flash', 'vertex', [ 1.50, 1.50, 9 ] ],
	[ 'gemini batch', 'gemini', 'batch', 'gemini-3.5-flash-lite', 'gemini', [ 0.30, 0.30, 2.50 ] ],
	[ 'gemini online', 'gemini', 'online', 'gemini-3.1-flash-lite', 'gemini', [ 0.25, 0.25, 1.50 ] ]);

foreach my $run (@runs)
{
	my ($what, $provider, $mode, $model, $server, $prices) = @$run;
	my $arguments = "'faculty', '$model', server => '$server'";
	my $ask = "SELECT requests, cost FROM dess_batch_estimate($arguments, mode => '$mode', overwrite => true)";

	query('SELECT again()');
	my $served = $simulator->get('stats')->{rows_served};
	my $estimate = query("SELECT requests, cost FROM dess_batch_estimate($arguments, mode => '$mode')");
	is($simulator->get('stats')->{rows_served}, $served, "$what: an estimate sends nothing");
	my $job = run_and_compare($what, $provider, $mode, $prices, $arguments);
	is(query("SELECT state FROM dess_batch_jobs WHERE job_id = $job"), 'done', "$what: done");
	is(query("SELECT trim_scale(sum(r.cost)) = (SELECT cost FROM dess_batch_jobs WHERE job_id = $job), count(*) FILTER (WHERE r.cost IS NULL) FROM dess_batch_rows r WHERE job_id = $job"),
		't|0', "$what: its rows cost that together");
	near($what, $estimate, $job);
	# now there is something to learn from
	my ($requests, $again) = split /\|/, query($ask);
	my $spent = query("SELECT cost FROM dess_batch_jobs WHERE job_id = $job");
	cmp_ok(abs($again / $spent - 1), '<', 0.02, "$what: the next estimate, $again, knows what $spent was spent on");
	is(query("SELECT rows, requests, cost FROM dess_batch_estimate($arguments, mode => '$mode')"), '0|0|0',
		"$what: what is done is estimated to cost nothing");
}

# ---- cached input, and endings of every kind

query(q{
	CREATE TABLE texts (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO texts SELECT i, 'item' || i || ' of many' FROM generate_series(1, 60) i;
	INSERT INTO dess_batch.price (model, provider, input, cached, output, source) VALUES ('gemini-3.5-flash', '*', 2, 0.3, 7, 'a contract')});
my $long = "repeat('These are the rules, one after the other. ', 200)";
foreach my $run (
	[ 'cached batch', 'openai', 'batch', 'gpt-4o-mini', 'openai', [ 0.15, 0.075, 0.60 ] ],
	[ 'cached online', 'openai', 'online', 'gpt-4o-mini', 'openai', [ 0.15, 0.075, 0.60 ] ],
	[ 'cached vertex', 'vertex', 'batch', 'gemini-3.5-flash', 'vertex', [ 2, 0.3, 7 ] ])
{
	my ($what, $provider, $mode, $model, $server, $prices) = @$run;

	query('UPDATE texts SET answer = NULL');
	run_and_compare($what, $provider, $mode, $prices,
		"'texts', '$model', '{body}', 'answer', server => '$server', system_prompt => $long");
	cmp_ok(query("SELECT cached_tokens FROM dess_batch_usage WHERE label = '$what'"), '>', 10000, "$what: much of it was cached");
}

$simulator->post('answers', [
	{ contains => 'item3 ', answer => { content => 'cut', finish_reason => 'length', usage => { input => 1000, cached => 128, output => 777 } } },
	{ contains => 'item4 ', answer => { refusal => 'no', usage => { input => 100, output => 33 } } },
	{ contains => 'item5 ', answer => { content => '', usage => { input => 90, output => 64, reasoning => 64 } } },
	{ contains => 'item6 ', answer => { content => 'no number', usage => { input => 17, output => 19 } } } ]);
query(q{
	CREATE TABLE mixed (id integer PRIMARY KEY, body text, answer integer);
	INSERT INTO mixed SELECT i, 'item' || CASE WHEN i > 20 THEN 20 ELSE i END || ' is here' FROM generate_series(1, 30) i;
	UPDATE mixed SET body = '7' WHERE id = 7});
$simulator->post('faults', [
	{ match => { prompt => 'item8 ' }, row => { outcome => 'http_error', status => 400, message => 'no' } },
	{ match => { prompt => 'item9 ' }, times => 1, row => { outcome => 'http_error', status => 500, message => 'not now' } } ]);
my $mixed = run_and_compare('endings', 'openai', 'batch', [ 0.15, 0.075, 0.60 ], q{'mixed', 'gpt-4o-mini', '{body}', 'answer', server => 'openai'});
like(outcomes($node, $mixed), qr/^invalid \d+, missing 1, ok 1, refused 1, rejected 1, truncated 1$/, 'endings of every kind');
is(query("SELECT count(*), sum((cost > 0)::integer), sum(cost) = max(cost) FROM dess_batch_rows WHERE job_id = $mixed AND (row_key ->> 'id')::integer >= 20"),
	'11|1|t', 'equal requests are paid once');
is(query("SELECT cost FROM dess_batch_rows WHERE job_id = $mixed AND outcome = 'rejected'"), '0', 'what is rejected costs nothing');
is(query("SELECT string_agg(DISTINCT outcome, ' ' ORDER BY outcome) FROM dess_batch_rows WHERE job_id = $mixed AND cost > 0"),
	'invalid missing ok refused truncated', 'what was answered is paid, whatever became of it');
is(query(q{SELECT requests FROM dess_batch_estimate('mixed', 'gpt-4o-mini', '{body}', 'answer', server => 'openai')}), 0,
	'what is settled is not estimated once more');

# ---- cancelled: what was finished is paid

$simulator->post('settings', { run_ms => 8000 });
query('UPDATE texts SET answer = NULL; TRUNCATE dess_batch.settled');
run_and_compare('cancelled', 'openai', 'batch', [ 0.15, 0.075, 0.60 ],
	q{'texts', 'gpt-4o-mini', 'Again: {body}', 'answer', server => 'openai'}, sub {
		my ($job) = @_;
		$node->poll_query_until('postgres', "SELECT coalesce(bool_or(remote_finished > 0), false) FROM dess_batch.batch WHERE job_id = $job")
		  or die 'nothing was finished';
		query("SELECT dess_batch_cancel($job)");
		is(wait_for_job($node, $job), 'cancelled', 'cancelled');
		like(outcomes($node, $job), qr/cancelled \d+, ok \d+/, 'in the middle of a batch');
	});
$simulator->post('settings', { batch_ms => 30 });

# ---- prices that change, and such that nobody knows

my $before = query("SELECT sum(cost) FROM dess_batch_usage WHERE model = 'gpt-4o-mini'");
query("UPDATE dess_batch.price SET input = 100, cached = 50, output = 200 WHERE model = 'gpt-4o-mini'");
is(query("SELECT sum(cost) FROM dess_batch_usage WHERE model = 'gpt-4o-mini'"), $before, 'another price rewrites nothing');
query('UPDATE texts SET answer = NULL; TRUNCATE dess_batch.settled');
run_and_compare('a new price', 'openai', 'batch', [ 100, 50, 200 ],
	q{'texts', 'gpt-4o-mini', 'New: {body}', 'answer', server => 'openai', max_rows => 3});

# what is written to a cache has a price of its own
$simulator->post('answers', [{ contains => 'Written', answer => { content => 'yes', usage => { input => 4000, cached => 1024, written => 2000, output => 10 } } }]);
foreach my $run ([ 'batch', 'gpt-5.6-luna', 'openai', 0.5 ], [ 'online', 'gpt-5.6-luna', 'responses', 1 ], [ 'online', 'gpt-5.4-nano', 'openai', 1 ])
{
	my ($mode, $model, $server, $share) = @$run;
	my $what = "$model $mode";
	my $write = $model eq 'gpt-5.6-luna' ? 0.25 : 0.20;
	query('UPDATE texts SET answer = NULL; TRUNCATE dess_batch.settled');
	my $job = submit_job($node, "'texts', '$model', 'Written: {body}', 'answer', server => '$server', mode => '$mode', max_rows => 2, label => '$what'");
	my $output = $model eq 'gpt-5.6-luna' ? 1.20 : 1.25;
	my $cost = query("SELECT trim_scale(2 * (976 * 0.20 + 1024 * 0.02 + 2000 * $write + 10 * $output) / 1000000.0000 * $share)");
	is(wait_for_job($node, $job), 'done', "$what: done");
	is(query("SELECT input_tokens, cached_tokens, cache_write_tokens, cost FROM dess_batch_jobs WHERE job_id = $job"),
		"8000|2048|4000|$cost", "$what: tokens that are written to the cache are counted and paid");
	is(query("SELECT input_tokens, cached_tokens, cache_write_tokens, cost FROM dess_batch_usage WHERE label = '$what'"),
		"8000|2048|4000|$cost", "$what: so they are of the day");
	is(query("SELECT sum(cache_write_tokens), trim_scale(sum(cost)) FROM dess_batch_rows WHERE job_id = $job"), "4000|$cost", "$what: and of the rows");
}
$simulator->post('answers', []);

my $unpriced = submit_job($node, q{'texts', 'gpt-4.1-mini', 'Unpriced: {body}', 'answer', server => 'openai', max_rows => 3, label => 'unpriced'});
is(wait_for_job($node, $unpriced), 'done', 'a model without a price can be asked');
is(query("SELECT input_tokens > 0, cost FROM dess_batch_jobs WHERE job_id = $unpriced"), 't|', 'what it cost is not known');
is(query("SELECT count(*), count(cost) FROM dess_batch_rows WHERE job_id = $unpriced"), '3|0', 'nor is it of a row');
is(query("SELECT input_tokens > 0, cost FROM dess_batch_usage WHERE label = 'unpriced'"), 't|', 'nor of that day');
# what is known stays, and what is not is counted
query(q{INSERT INTO dess_batch.price (model, input, output) VALUES ('gpt-4.1-mini', 1, 2)});
my $priced = submit_job($node, q{'texts', 'gpt-4.1-mini', 'Priced: {body}', 'answer', server => 'openai', max_rows => 3, label => 'unpriced', overwrite => true});
is(wait_for_job($node, $priced), 'done', 'when it has a price');
is(query("SELECT u.cost = j.cost AND u.cost > 0, u.unpriced_requests FROM dess_batch_usage u, dess_batch_jobs j WHERE u.label = 'unpriced' AND j.job_id = $priced"),
	't|3', 'usage keeps what is known and counts what is not');
query(q{DELETE FROM dess_batch.price WHERE model = 'gpt-4.1-mini'});
is(query(q{SELECT requests, cost, price_date FROM dess_batch_estimate('texts', 'gpt-4.1-mini', 'Again: {body}', 'answer', server => 'openai', overwrite => true)}),
	'60||', 'and there is no estimate of it');

# what is in flight is not estimated
query('UPDATE texts SET answer = NULL');
$simulator->post('settings', { run_ms => 600000 });
my $flying = submit_job($node, q{'texts', 'gpt-4o-mini', 'In flight: {body}', 'answer', server => 'openai', max_rows => 25});
$node->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $flying") or die 'not sent';
is(query(q{SELECT rows FROM dess_batch_estimate('texts', 'gpt-4o-mini', 'Others: {body}', 'answer', server => 'openai')}), 35,
	'rows that are in flight are passed over');
query("SELECT dess_batch_cancel($flying)");
is(wait_for_job($node, $flying), 'cancelled', 'cancelled as well');

# ---- a dump has the user's prices, the script the others

query('CREATE DATABASE copy');
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump.sql';
$node->command_ok([ 'pg_dump', '-f', $dump, '-d', $node->connstr('postgres') ], 'dumped');
$node->command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-f', $dump, '-d', $node->connstr('copy') ], 'restored');
my $own = 'SELECT model, provider, input, cached, output, source FROM dess_batch_prices WHERE NOT shipped ORDER BY model';
is(query($own, 'copy'), query($own), 'the own prices are there');
is(query(q{SELECT count(*) FROM dess_batch_prices WHERE NOT shipped}, 'copy'), 2, 'both of them');
is(query(q{SELECT count(*) FROM dess_batch_prices WHERE shipped AND model = 'gpt-4o-mini'}, 'copy'), 1, 'and the shipped ones');
my $sums = 'SELECT count(*), sum(cost) FROM dess_batch_usage';
is(query($sums, 'copy'), query($sums), 'and what was spent');

$node->stop;
done_testing();
