# Budgets: nothing is sent that could pass one, whatever the answers are like;
# several jobs, a restart and a new day change nothing about that.

use strict;
use warnings;

use DessBatch;
use Test::More;

my $node = start_node('budget');
my $simulator = start_simulator(batch_ms => 20);

sub query { return $node->safe_psql('postgres', $_[0]); }

# Dollars that the provider's tokens cost, at the prices of gpt-5.4-mini and of
# gpt-4o-mini; one of them is asked at a time.
my %prices = ('gpt-5.4-mini' => [ 0.75, 0.075, 4.50 ], 'gpt-4o-mini' => [ 0.15, 0.075, 0.60 ]);

sub bill
{
	my ($model) = @_;
	my $tokens = $simulator->get('stats')->{tokens};
	my ($input, $cached, $output) = @{ $prices{$model} };
	my $sum = 0;

	foreach my $mode ('batch', 'online')
	{
		my $t = $tokens->{$mode};
		$sum += (($t->{input} - $t->{cached}) * $input + $t->{cached} * $cached + $t->{output} * $output)
		  / 1e6 * ($mode eq 'batch' ? 0.5 : 1);
	}
	return $sum;
}

sub table
{
	my ($name, $rows, $length, $seed) = @_;
	query(qq{
		CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text);
		SELECT setseed($seed / 1000.0);
		INSERT INTO $name SELECT i, 'item' || i || repeat(' of many words', (random() ^ 3 * $length)::integer) FROM generate_series(1, $rows) i});
}

create_server($node, $simulator, name => 'openai');

# ---- many jobs, each with a budget that is too small

# How long answers are is decided by each prompt: reasoning of very different
# lengths, and none.  In the first jobs all answers are alike but for a few.
my (@jobs, %efforts, %limits);
my $before = bill('gpt-5.4-mini');
$simulator->post('answers', { contains => 'item' . $_ . '7 of', answer => { content => 'long ' x 500, usage => { input => 100, output => 900, reasoning => 700 } } })
  foreach 1 .. 4;
foreach my $seed (1 .. 9)
{
	my $mode = $seed % 2 ? 'online' : 'batch';
	my $effort = (qw(none low medium high))[ $seed % 4 ];
	my $bounded = $seed % 3 ? '' : ', "max_output_tokens": 2000';
	my $limit = 0.004 * $seed * ($effort eq 'none' ? 1 : 4);

	table("seed_$seed", 150 + 30 * $seed, 120, $seed);
	my $job = submit_job($node, qq{'seed_$seed', 'gpt-5.4-mini', '{body}', 'answer', mode => '$mode', max_cost => $limit,
		server => 'openai', parameters => '{"reasoning_effort": "$effort"$bounded}'});
	push @jobs, $job;
	$efforts{$job} = "$mode, effort $effort$bounded";
	$limits{$job} = $limit;
}
my $paused = 0;
my $sum = 0;
foreach my $job (@jobs)
{
	my $state = wait_for_job($node, $job);
	my ($cost, $done, $rows) = split /\|/, query("SELECT cost, done, rows FROM dess_batch_jobs WHERE job_id = $job");

	cmp_ok($cost, '<=', $limits{$job}, "job $job ($efforts{$job}) is $state with $done of $rows rows: $cost of $limits{$job}");
	$sum += $cost;
	next if $state eq 'done';
	$paused++;
	is($state, 'paused', 'it pauses');
	is(query("SELECT error_code FROM dess_batch_jobs WHERE job_id = $job"), 'max_cost', 'because of its budget');
	cmp_ok($cost, '>=', $limits{$job} / 2, 'which is used');
}
cmp_ok($paused, '>=', 5, "$paused of the jobs had to stop");
my $billed = bill('gpt-5.4-mini') - $before;
cmp_ok(abs($billed - $sum), '<', 1e-9, "the provider's bill is the sum of that ($billed)");

# ---- why, and how to go on

my ($stopped) = grep { query("SELECT state FROM dess_batch_jobs WHERE job_id = $_") eq 'paused' } @jobs;
my $limit = $limits{$stopped};
like(query("SELECT dess_batch_explain($stopped)"),
	qr/It is paused: the next request could pass max_cost: [\d.]+ of $limit US dollars are spent\. SELECT dess_batch_resume\($stopped, max_cost => \.\.\.\)/,
	'dess_batch_explain names the budget and the remedy');
like(query("SELECT waiting_for FROM dess_batch_progress WHERE job_id = $stopped"), qr/^dess_batch_resume\($stopped, max_cost => /, 'progress does, too');
my $spent = query("SELECT cost FROM dess_batch_jobs WHERE job_id = $stopped");
query("SELECT dess_batch_resume($stopped)");
is(wait_for_job($node, $stopped), 'paused', 'with the same budget it pauses once more');
is(query("SELECT cost < $limit FROM dess_batch_jobs WHERE job_id = $stopped"), 't', 'without passing it');
query("SELECT dess_batch_resume($stopped, max_cost => 100)");
is(wait_for_job($node, $stopped), 'done', 'with a higher one it goes on to the end');
is(query("SELECT rows - done - failed, cost > $spent FROM dess_batch_jobs WHERE job_id = $stopped"), '0|t', 'with all rows');
query("SELECT dess_batch_cancel($_)") foreach grep { query("SELECT state FROM dess_batch_jobs WHERE job_id = $_") eq 'paused' } @jobs;

table('none', 5, 1, 1);
is(wait_for_job($node, submit_job($node, q{'none', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', max_cost => 0.00000001})), 'paused',
	'nothing can be spent');
is(query(q{SELECT count(*) FROM dess_batch_rows r JOIN dess_batch_jobs USING (job_id) WHERE source = 'none' AND r.outcome <> 'pending'}), 0, 'nothing was sent');
my ($status, $stdout, $stderr) = $node->psql('postgres',
	q{CALL dess_batch_run('none', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => 'online', max_cost => 0.00000001)});
like($stderr, qr/ERROR:  job \d+ is paused: the next request could pass max_cost.*HINT:  SELECT dess_batch_resume\(\d+, max_cost => \.\.\.\)/s,
	'dess_batch_run raises, and says how to go on');

# ---- a day's budget of a server, for all its jobs together

$simulator->post('reset', {});
$simulator->post('settings', { batch_ms => 20 });
query('TRUNCATE dess_batch.usage');
create_server($node, $simulator, name => 'daily', options => { max_cost_per_day => '0.004', max_cost_per_month => '5' });
my @together;
foreach my $i (1 .. 4)
{
	my $mode = $i % 2 ? 'batch' : 'online';

	table("day_$i", 400, 100, $i);
	push @together, submit_job($node, "'day_$i', 'gpt-4o-mini', '{body}', 'answer', server => 'daily', mode => '$mode'");
}
is(wait_for_job($node, $_), 'paused', "job $_ pauses with the others") foreach @together;
$billed = bill('gpt-4o-mini');
cmp_ok($billed, '<=', 0.004, "together they spent $billed of 0.004");
cmp_ok($billed, '>=', 0.002, 'and not much less');
my $ids = join ',', @together;
is(query("SELECT DISTINCT error_code FROM dess_batch_jobs WHERE job_id IN ($ids)"), 'max_cost_per_day', 'that is why');
is(query("SELECT DISTINCT paused_until = date_trunc('day', now() AT TIME ZONE 'UTC' + interval '1 day') AT TIME ZONE 'UTC' FROM dess_batch.job WHERE id IN ($ids)"),
	't', 'until the next day in UTC');
like(query("SELECT dess_batch_explain($together[0])"),
	qr/max_cost_per_day of server "daily": [\d.]+ of 0\.004 US dollars are spent; it goes on at .*ALTER SERVER daily OPTIONS \(SET max_cost_per_day '\.\.\.'\).*Server "daily" has spent [\d.]+ of 0\.004 US dollars today/s,
	'dess_batch_explain says which budget, until when, and what can be done');

# who wants it to stay paused says so
query("SELECT dess_batch_pause($together[3])");
is(query("SELECT control, paused_until FROM dess_batch.job WHERE id = $together[3]"), 'pause|', 'a pause of the user has no end');

# midnight passes, as far as the ledger can tell; what a day may cost is enough for some
query(qq{
	UPDATE dess_batch.usage SET day = day - 1;
	UPDATE dess_batch.job SET paused_until = now() + interval '1 second' WHERE id IN ($ids) AND paused_until IS NOT NULL;
	SELECT dess_batch_start()});
$node->poll_query_until('postgres', "SELECT sum(cost) > 0.001 FROM dess_batch_usage WHERE day = (now() AT TIME ZONE 'UTC')::date")
  or die 'nothing goes on';
ok(wait_for_job($node, $_), "job $_ has gone on by itself") foreach @together[0 .. 2];
$billed = bill('gpt-4o-mini');
cmp_ok($billed, '<=', 0.008, "in two days they spent $billed");
is(query("SELECT state FROM dess_batch_jobs WHERE job_id = $together[3]"), 'paused', 'the one that is to stay paused does');
query('ALTER SERVER daily OPTIONS (DROP max_cost_per_day)');
query("SELECT dess_batch_resume($_)") foreach grep { query("SELECT state FROM dess_batch_jobs WHERE job_id = $_") eq 'paused' } @together;
is(wait_for_job($node, $_), 'done', "without it job $_ ends") foreach @together;

# ---- a month's

query(q{ALTER SERVER daily OPTIONS (SET max_cost_per_month '0.00001'); UPDATE day_1 SET answer = NULL; TRUNCATE dess_batch.settled});
my $monthly = submit_job($node, q{'day_1', 'gpt-4o-mini', '{body}', 'answer', server => 'daily'});
is(wait_for_job($node, $monthly), 'paused', 'a month has its budget, too');
is(query("SELECT error_code, extract(day FROM paused_until), paused_until > now() FROM dess_batch.job WHERE id = $monthly"),
	'max_cost_per_month|1|t', 'that begins anew with the next');
query("SELECT dess_batch_cancel($monthly)");

# ---- what is under way stays reserved over a crash of the whole server

create_server($node, $simulator, name => 'crash', options => { max_cost_per_day => '0.014' });
create_server($node, $simulator, name => 'free', options => { models => 'none' });
table('first', 40, 1, 1);
table('second', 40, 1, 2);
table('free', 3, 1, 3);
$simulator->post('settings', { run_ms => 600000 });
# 40 requests of at first 1000 tokens: 0.0120 and a little for the input
my $first = submit_job($node, q{'first', 'gpt-4o-mini', '{body}', 'answer', server => 'crash'});
$node->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $first") or die 'not sent';
$node->stop('immediate');
$node->start;
my $second = submit_job($node, q{'second', 'gpt-4o-mini', '{body}', 'answer', server => 'crash', parameters => '{"max_output_tokens": 1000}'});
is(wait_for_job($node, submit_job($node, q{'free', 'gpt-4o-mini', '{body}', 'answer', server => 'free', mode => 'online'})), 'done',
	'the worker is at work again');
is(query("SELECT sum(requests) FROM dess_batch_batches WHERE job_id IN ($first, $second) AND state NOT IN ('preparing', 'prepared')"), 40,
	'what the first job may cost leaves no room for the second');
is(query("SELECT state IN ('queued', 'preparing', 'prepared') FROM dess_batch_jobs WHERE job_id = $second"), 't', 'which waits');
my $waiting = qr/a budget: 0 of 0\.014 US dollars \(max_cost_per_day\) are spent, and 0\.012\d* are reserved for requests under way/;
like(query("SELECT waiting_for FROM dess_batch_progress WHERE job_id = $second"), $waiting, 'progress says for what, and how much of it is reserved');
like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($second) e"), qr/It waits for $waiting\./, 'so does explain');
$simulator->post('settings', { run_ms => 20 });
query("SELECT dess_batch_status($first)");
is(wait_for_job($node, $first), 'done', 'when the first has its answers');
is(wait_for_job($node, $second), 'done', 'there is room');
is(query("SELECT error FROM dess_batch_jobs WHERE job_id = $second"), '', 'and the reason is gone');

# ---- no budget without a price

query(q{INSERT INTO dess_batch.price (model, input, output) VALUES ('gpt-4.1-mini', 0.4, 1.6); UPDATE first SET answer = NULL; TRUNCATE dess_batch.settled});
my $unpriced = submit_job($node, q{'first', 'gpt-4.1-mini', '{body}', 'answer', server => 'openai', max_cost => 0.00000001});
is(wait_for_job($node, $unpriced), 'paused', 'paused');
query("DELETE FROM dess_batch.price WHERE model = 'gpt-4.1-mini'");
query("SELECT dess_batch_resume($unpriced)");
$node->poll_query_until('postgres', "SELECT error_code = 'no_price' FROM dess_batch_jobs WHERE job_id = $unpriced") or die 'goes on';
like(query("SELECT dess_batch_explain($unpriced)"), qr/no price is known for model "gpt-4.1-mini", and a budget needs one\. INSERT INTO dess_batch\.price .*SELECT dess_batch_resume\($unpriced\)/,
	'a price that is gone stops the job, and explain says so');
($status, $stdout, $stderr) = $node->psql('postgres', "SELECT dess_batch_resume($unpriced, max_cost => 1)");
like($stderr, qr/no price is known for model "gpt-4.1-mini"/, 'no higher budget without a price');
query(q{INSERT INTO dess_batch.price (model, input, output) VALUES ('gpt-4.1-mini', 0.4, 1.6)});
query("SELECT dess_batch_resume($unpriced, max_cost => 1)");
is(wait_for_job($node, $unpriced), 'done', 'with a price it goes on');

# ---- no budget that contains what nobody knows

create_server($node, $simulator, name => 'dark');
query(q{DELETE FROM dess_batch.price WHERE model = 'gpt-4.1-mini'; UPDATE first SET answer = NULL; TRUNCATE dess_batch.settled});
is(wait_for_job($node, submit_job($node, q{'first', 'gpt-4.1-mini', '{body}', 'answer', server => 'dark', max_rows => 2})), 'done', 'without a price');
query(q{INSERT INTO dess_batch.price (model, input, output) VALUES ('gpt-4.1-mini', 0.4, 1.6);
	ALTER SERVER dark OPTIONS (ADD max_cost_per_day '1000')});
my $dark = submit_job($node, q{'first', 'gpt-4.1-mini', '{body}', 'answer', server => 'dark'});
is(wait_for_job($node, $dark), 'paused', 'a job that has a price is paused');
is(query("SELECT error_code FROM dess_batch_jobs WHERE job_id = $dark"), 'unknown_cost', 'because of those that had none');
like(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($dark) e"),
	qr/max_cost_per_day of server "dark" cannot be watched, because no price was known for 2 of the requests; it goes on at .*UPDATE dess_batch\.usage SET cost = cost \+ \.\.\., unpriced = 0 WHERE server = 'dark' AND unpriced > 0/,
	'and explain says so, with the remedy');
query("UPDATE dess_batch.usage SET cost = cost + 0.01, unpriced = 0 WHERE server = 'dark' AND unpriced > 0; SELECT dess_batch_resume($dark)");
is(wait_for_job($node, $dark), 'done', 'which helps');
is(query("SELECT cost > 0.01, unpriced_requests FROM dess_batch_usage WHERE server = 'dark'"), 't|0', 'and the day has a cost');

# the same of a job's own budget
query(q{DELETE FROM dess_batch.price WHERE model = 'gpt-4.1-mini'; UPDATE first SET answer = NULL; TRUNCATE dess_batch.settled});
create_server($node, $simulator, name => 'slow', options => { max_concurrency => 1 });
$simulator->post('settings', { latency_ms => 500 });
$dark = submit_job($node, q{'first', 'gpt-4.1-mini', '{body}', 'answer', server => 'slow', mode => 'online'});
$node->poll_query_until('postgres', "SELECT done > 0 FROM dess_batch_jobs WHERE job_id = $dark") or die 'no answer';
query(q{INSERT INTO dess_batch.price (model, input, output) VALUES ('gpt-4.1-mini', 0.4, 1.6)});
query("SELECT dess_batch_pause($dark); SELECT dess_batch_resume($dark, max_cost => 1000)");
is(wait_for_job($node, $dark), 'paused', 'a job\'s own budget is not believed either');
like(query("SELECT dess_batch_explain($dark)"),
	qr/max_cost cannot be watched, because no price was known for \d+ of the requests\. UPDATE dess_batch\.batch SET .* WHERE job_id = $dark AND/, 'and explain says so');

$node->stop;
done_testing();
