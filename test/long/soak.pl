# Long use with a provider that misbehaves all the time: some two thousand small
# jobs and three big ones, with all providers, in both modes, for a quarter of an
# hour.  In the first third the worker is killed now and then; after that one and
# the same worker has to go on, and what it holds must not grow.
#
# SOAK_MINUTES, SOAK_JOBS and SOAK_ROWS make it shorter or longer; the samples and
# the pictures are written into SOAK_OUTPUT, if that is set.

use strict;
use warnings;
use feature 'state';

use DessBatch;
use DessBatch::Plot;
use File::Basename qw(basename);
use List::Util qw(max min sum0);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

my $seconds = 60 * ($ENV{SOAK_MINUTES} // 16);
my $small_jobs = $ENV{SOAK_JOBS} // 2000;
my $big_rows = $ENV{SOAK_ROWS} // 100_000;
my $output = $ENV{SOAK_OUTPUT} // $PostgreSQL::Test::Utils::log_path;
my $concurrency = 16;

my @providers = qw(openai vertex gemini);
my %model = (openai => 'gpt-4o-mini', vertex => 'gemini-3.5-flash', gemini => 'gemini-3.5-flash');

# seconds after the start, as shares of the whole
my @kills = map { $_ * $seconds } 0.05, 0.12, 0.19, 0.26, 0.33;
my $steady_from = 0.4 * $seconds;
my %big_at = (
	openai => [ 0.02 * $seconds, 'batch' ],
	vertex => [ 0.22 * $seconds, 'batch' ],
	gemini => [ 0.45 * $seconds, 'online' ]);

# What goes wrong, all the time.  Calls that answer a row fail before they are
# answered, never after it, so that what was paid can be compared to the token.
my @faults;
foreach my $path ('/v1/chat/*', '*:generateContent')
{
	push @faults,
	  { match => { path => $path }, chance => 0.02, status => 429, headers => { 'retry-after-ms' => '100' } },
	  { match => { path => $path }, chance => 0.005, status => 500 },
	  { match => { path => $path }, chance => 0.002, status => 503, body => '<html>unavailable</html>' },
	  { match => { path => $path }, chance => 0.002, drop => 'reset' },
	  { match => { path => $path }, chance => 0.002, delay_ms => 3000 };
}
push @faults,
  { match => { method => 'GET' }, chance => 0.02, status => 500 },
  { match => { method => 'GET' }, chance => 0.01, drop => 'reset' },
  { match => { method => 'GET' }, chance => 0.01, drop_after => 40 },
  { match => { method => 'GET' }, chance => 0.01, status => 429, headers => { 'retry-after' => '1' } },
  { match => { method => 'DELETE' }, chance => 0.02, status => 503 },
  { match => { path => '/v1/files', method => 'POST' }, chance => 0.02, drop_upload_after => 100 },
  { match => { path => '/v1/files', method => 'POST' }, chance => 0.01, lose_reply => JSON::PP::true },
  { match => { path => '/upload/*' }, chance => 0.02, status => 503 },
  { match => { path => '/v1/batches', method => 'POST' }, chance => 0.01, lose_reply => 'reset' },
  { match => { path => '/v1/batches', method => 'POST' }, chance => 0.02, status => 500 },
  { match => { path => '*/batchPredictionJobs', method => 'POST' }, chance => 0.01, lose_reply => 'reset' },
  { match => { path => '*/batchPredictionJobs', method => 'POST' }, chance => 0.02, status => 429 },
  { match => { path => '*:batchGenerateContent' }, chance => 0.01, lose_reply => 'reset' },
  { match => { path => '*:batchGenerateContent' }, chance => 0.02, status => 503 },
  { match => { method => 'POST' }, chance => 0.02, batch => { state => 'expired', fraction => 0.5 } },
  { match => { method => 'POST' }, chance => 0.02, batch => { run_ms => 5000 } },
  { chance => 0.002, row => { outcome => 'missing' } },
  { chance => 0.002, row => { outcome => 'duplicate' } },
  { chance => 0.001, row => { outcome => 'unknown_custom_id' } },
  { chance => 0.001, row => { outcome => 'garbage' } },
  { chance => 0.002, row => { outcome => 'http_error', status => 500, code => 'server_error', message => 'The server had an error' } },
  { chance => 0.002, row => { outcome => 'http_error', status => 429, code => 'rate_limit_exceeded', message => 'Slow down' } };

my $simulator = start_simulator(
	google => 1,
	batch_ms => 200,
	arguments => [ '--set', 'record_limit=100' ]);
my $node = start_node(
	'soak',
	conf => "restart_after_crash = on\nautovacuum_naptime = 10s\nautovacuum_vacuum_cost_delay = 0\nmax_wal_size = 2GB\nlog_checkpoints = off");
my $worker_pid = q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'};

# ---- the tables and the servers

sub small_rows { return 1 + $_[0] * 7 % 20; }

foreach my $provider (@providers)
{
	create_server($node, $simulator, name => $provider, provider => $provider,
		options => { max_concurrency => $concurrency });
	foreach my $table ("small_$provider", "big_$provider")
	{
		my $rows = $table =~ /^small/ ? 20 * $small_jobs : $big_rows;
		$node->safe_psql('postgres', qq{
			CREATE TABLE $table (id integer PRIMARY KEY, body text NOT NULL, answer text);
			INSERT INTO $table SELECT i, format('item%s of the soak', lpad(i::text, 8, '0')) FROM generate_series(1, $rows) i;
			ANALYZE $table;});
	}
}

# ---- one session that submits, one that looks; a killed worker ends both

my %session;
my (@samples, @events);
my ($submitted, $idle_in_transaction, $longest_transaction) = (0, 0, 0);
my (%big_done, $start);

sub elapsed { return time - $start; }

# The result of SQL in the named session; undef when the server goes down meanwhile,
# which must not be for long.
sub ask
{
	my ($name, $sql) = @_;
	state %answered_at;
	my $result = eval {
		$session{$name} //= DessBatch::Session->new($node);
		$session{$name}->query($sql);
	};
	my $errors = $session{$name} ? $session{$name}->errors : '';

	if (defined $result && $errors eq '')
	{
		$answered_at{$name} = time;
		return $result;
	}
	die "\"$sql\": $errors"
	  if $errors =~ /ERROR:/ || time > ($answered_at{$name} // $start) + $PostgreSQL::Test::Utils::timeout_default;
	eval { $session{$name}->close } if $session{$name};
	delete $session{$name};
	return undef;
}

sub submit
{
	my ($label, $provider, $table, $mode, $where) = @_;
	my $known = ask('submit', "SELECT count(*) FROM dess_batch_jobs WHERE label = '$label'");

	return 0 unless defined $known;
	return 1 if $known ne '0';
	return defined ask('submit', qq{
		SELECT dess_batch_submit('$table', '$model{$provider}', prompt => '{body}', target => 'answer',
			mode => '$mode', server => '$provider', label => '$label', where_sql => '$where')});
}

sub submit_due
{
	my $due = min($small_jobs, int(elapsed() / (0.95 * $seconds) * $small_jobs));

	foreach my $provider (keys %big_at)
	{
		my ($when, $mode) = @{ $big_at{$provider} };
		next if $big_done{$provider} || elapsed() < $when;
		$big_done{$provider} = submit("big $provider", $provider, "big_$provider", $mode, 'true');
		push @events, [ elapsed(), "$big_rows rows, $provider, $mode" ] if $big_done{$provider};
	}
	while ($submitted < $due)
	{
		my $provider = $providers[ $submitted % 3 ];
		my $mode = int($submitted / 3) % 2 ? 'online' : 'batch';
		my $first = 20 * $submitted + 1;
		my $last = $first + small_rows($submitted) - 1;
		submit("small $submitted", $provider, "small_$provider", $mode, "id BETWEEN $first AND $last")
		  or return;
		$submitted++;
	}
	return;
}

# RssAnon in kB and the number of descriptors of a process.
sub held_by
{
	my ($pid) = @_;
	my ($memory) = (eval { slurp_file("/proc/$pid/status") } // '') =~ /^RssAnon:\s*(\d+)/m;
	my $descriptors = () = glob "/proc/$pid/fd/*";

	return ($memory, $descriptors);
}

sub sample
{
	my $look = ask('look', q{
		SELECT coalesce(max(pid) FILTER (WHERE backend_type = 'dess_batch worker'), 0),
			count(*) FILTER (WHERE state LIKE 'idle in transaction%'),
			coalesce(max(extract(epoch FROM clock_timestamp() - xact_start)) FILTER (WHERE backend_type = 'dess_batch worker'), 0),
			(SELECT sum(pg_total_relation_size(c.oid)) FROM pg_class c
			 WHERE relnamespace = 'dess_batch'::regnamespace AND relkind = 'r'),
			(SELECT count(*) FROM dess_batch.job WHERE state IN ('queued', 'active'))
		FROM pg_stat_activity}) // return;
	my ($pid, $idle, $transaction, $ledger, $open) = split /\|/, $look;
	my ($memory, $descriptors) = held_by($pid);

	$idle_in_transaction += $idle;
	$longest_transaction = max($longest_transaction, $transaction);
	return unless $pid && defined $memory;
	my ($submitter) = $session{submit} ? held_by($session{submit}->pid) : ();
	push @samples, { t => elapsed(), pid => $pid, memory => $memory, descriptors => $descriptors,
		submitter => $submitter, ledger => $ledger, open => $open };
	return;
}

# Kills the worker, which makes the server start anew; every other time only ends it.
sub kill_worker
{
	my $pid = ask('look', $worker_pid) or return 0;
	my $signal = @kills % 2 ? 'KILL' : 'TERM';

	shift @kills;
	push @events, [ elapsed(), "worker ended by SIG$signal" ];
	kill $signal, $pid;
	return $signal eq 'KILL' ? 1 : 0;
}

# ---- the quarter of an hour

my $killed = 0;

$simulator->post('faults', \@faults);
$start = time;
my $next_sample = 0;
while (elapsed() < $seconds)
{
	$killed += kill_worker() if @kills && elapsed() > $kills[0];
	submit_due();
	if (elapsed() >= $next_sample)
	{
		sample();
		$next_sample += 1;
	}
	sleep 0.1;
}
submit_due() until $submitted == $small_jobs;
my $last_submit = elapsed();
my $deadline = time + max(600, $seconds);
my $open = 1;
my $resumed = 0;
while ($open && time < $deadline)
{
	sample();
	sleep 1;
	# a batch that expires without one answer pauses its job
	$resumed += ask('look', q{
		SELECT count(*) FROM (
			SELECT dess_batch_resume(job_id) FROM dess_batch_jobs WHERE state = 'paused' AND error_code = 'expired' OFFSET 0) r}) // 0;
	$open = ask('look', 'SELECT count(*) FROM dess_batch.figures WHERE NOT stands_still') // 1;
}
my $end = elapsed();
is($open, 0, 'every job comes to an end');
ok($node->poll_query_until('postgres', q{
	SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE remote_id IS NOT NULL}),
	'what is at the provider is removed');
sample();
my $stats = $simulator->get('stats');
$_->close foreach values %session;

# ---- every row is accounted for

my @figures;

sub say_figure
{
	push @figures, $_[0];
	note($_[0]);
	return;
}

sub value { return $node->safe_psql('postgres', $_[0]); }

is(value("SELECT string_agg(state || ' ' || n, ', ') FROM (SELECT state, count(*) AS n FROM dess_batch_jobs GROUP BY 1) s"),
	'done ' . ($small_jobs + 3), 'all jobs are done');
is(value('SELECT count(*) FROM dess_batch_jobs WHERE rows <> done + failed OR pending <> 0'), 0, 'nothing is pending');
my $rows = 3 * $big_rows + sum0 map { small_rows($_) } 0 .. $small_jobs - 1;
is(value('SELECT sum(rows) FROM dess_batch_jobs'), $rows, 'they have all rows that were asked for');
is(value('SELECT count(*) FROM dess_batch_rows'), $rows, 'each row has one outcome');
my $outcomes = value(q{
	SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome)
	FROM (SELECT outcome, count(*) AS n FROM dess_batch_rows GROUP BY 1) o});
say_figure("outcomes: $outcomes");
like($outcomes, qr/^ok \d+(, (lost|rejected|expired) \d+)*$/, 'outcomes are of the kinds that were asked for');
my ($ok) = $outcomes =~ /\bok (\d+)/;
cmp_ok($rows - $ok, '<=', $rows / 10_000, 'three attempts are enough for nearly all rows');
foreach my $table (map { ("small_$_", "big_$_") } @providers)
{
	is(value(qq{
		SELECT count(*) FROM dess_batch_rows r JOIN dess_batch_jobs j USING (job_id)
			JOIN $table t ON t.id = (r.row_key ->> 'id')::integer
		WHERE j.source = '$table' AND (r.outcome = 'ok') <> (t.answer IS NOT NULL AND t.answer LIKE 'item' || lpad(t.id::text, 8, '0') || ' %')}),
		0, "$table has its own answer in each row that is ok, and only there");
}

# ---- what was paid

# All requests of a server are of one length, so a surplus at the provider says
# how many answers did not come.
my %fired;
foreach my $fault (@{ $simulator->get('faults') })
{
	my $rule = $fault->{rule} // $fault;
	$fired{ $rule->{row} ? $rule->{row}{outcome} : 'other' } += $fault->{fired};
}
my %surplus;
foreach my $provider (@providers)
{
	foreach my $mode (qw(online batch))
	{
		my $of_rows = "FROM dess_batch_rows r JOIN dess_batch_jobs j USING (job_id) WHERE j.server = '$provider' AND j.mode = '$mode'";
		my ($input, $output) = split /\|/, value(
			"SELECT sum(input_tokens), sum(output_tokens) FROM dess_batch_usage WHERE server = '$provider' AND mode = '$mode'");
		my ($one, $answered) = split /\|/, value("SELECT max(r.input_tokens), count(*) FILTER (WHERE r.outcome = 'ok') $of_rows");
		my $paid = $stats->{providers}{$provider}{tokens}{$mode};

		say_figure("tokens, $provider, $mode: $paid->{input} + $paid->{output} at the provider, $input + $output here");
		is($input, $one * $answered, "$provider, $mode: each row that is ok is paid for once");
		$surplus{$mode}{$provider} = ($paid->{input} - $input) / $one;
		cmp_ok($surplus{$mode}{$provider}, '>=', 0, 'and nothing that the provider did not count');
	}
	cmp_ok($surplus{online}{$provider}, '<=', $killed * $concurrency, "$provider, online: what a kill found in flight may be paid twice");
}
my $lost = sum0 @fired{qw(missing garbage unknown_custom_id)};
cmp_ok($surplus{batch}{openai} + $surplus{batch}{vertex}, '<=', $lost, "batch: only what the provider did not deliver is paid twice, of $lost");
# a batch of the Gemini API that expires delivers nothing of what it has done
cmp_ok($surplus{batch}{gemini}, '<=', $lost + 20 * $small_jobs / 6 * 0.05, 'batch, gemini: nor what expired');
foreach my $mode (sort keys %surplus)
{
	say_figure("answers paid for without a line, $mode: "
		  . join(', ', map { "$_ $surplus{$mode}{$_}" } sort keys %{ $surplus{$mode} }));
}
say_figure('faults of rows: ' . join(', ', map { "$_ $fired{$_}" } grep { $_ ne 'other' } sort keys %fired));
is(join('|', map { value("SELECT sum($_) FROM dess_batch_usage") } qw(input_tokens output_tokens)),
	join('|', map { value("SELECT sum($_) FROM dess_batch_jobs") } qw(input_tokens output_tokens)),
	'the days add up to the jobs');

# ---- memory and descriptors

sub within
{
	my ($from, $to, $what) = @_;
	return map { $_->{$what} } grep { $_->{t} >= $from && $_->{t} < $to } @samples;
}

# What is open is in memory: the second half is compared where no more jobs are open than in the first.
my $middle = ($steady_from + $seconds) / 2;
my $most_open = max(within($steady_from, $middle, 'open'));
my @second = grep { $_->{t} >= $middle && $_->{t} < $end } @samples;
my @comparable = grep { $_->{open} <= $most_open } @second;
say_figure(sprintf('open jobs: at most %d in the first half, %d in the second', $most_open, max(map { $_->{open} } @second)));
cmp_ok(scalar @comparable, '>=', @second / 2, 'jobs do not pile up');
my %steady = map { $_->{pid} => 1 } grep { $_->{t} >= $steady_from } @samples;
is(scalar(keys %steady), 1, 'one worker serves the last part');
foreach my $what ([ 'memory', 1.1, 2048 ], [ 'descriptors', 1, 4 ], [ 'submitter', 1.1, 1024 ])
{
	my ($name, $factor, $slack) = @$what;
	my $first = max(grep { defined } within($steady_from, $middle, $name));
	my $second = max(grep { defined } map { $_->{$name} } @comparable);
	say_figure("$name: at most $first in the first half, $second in the second");
	cmp_ok($second, '<=', $first * $factor + $slack, "$name does not grow");
}
is($idle_in_transaction, 0, 'nobody is ever idle in a transaction');
cmp_ok($longest_transaction, '<', 30, sprintf('the longest transaction of the worker seen took %.1f s', $longest_transaction));

my $file = "$output/soak_samples.csv";
open(my $csv, '>', $file) or die "could not open \"$file\": $!";
print $csv "seconds,worker,memory_kb,descriptors,submitter_kb,ledger_bytes,open_jobs\n";
printf $csv "%.1f,%d,%d,%d,%s,%d,%d\n", @$_{qw(t pid memory descriptors)}, $_->{submitter} // '', @$_{qw(ledger open)} foreach @samples;
close($csv) or die "could not write \"$file\": $!";
my %plot = (x => 'minutes', marks => [ map { [ $_->[0] / 60, $_->[1] ] } @events ]);
write_plot("$output/soak_memory.svg", %plot, title => 'Soak: private memory', y => 'MB',
	series => [
		[ 'worker', map { [ $_->{t} / 60, $_->{memory} / 1024 ] } @samples ],
		[ 'session that submits', map { [ $_->{t} / 60, $_->{submitter} / 1024 ] } grep { defined $_->{submitter} } @samples ] ]);
write_plot("$output/soak_descriptors.svg", %plot, title => 'Soak: open descriptors', y => 'descriptors',
	series => [ [ 'worker', map { [ $_->{t} / 60, $_->{descriptors} ] } @samples ] ]);

# ---- the ledger

my @ledger = split /\n/, value(q{
	SELECT relname FROM pg_class WHERE relnamespace = 'dess_batch'::regnamespace AND relkind = 'r' ORDER BY 1});
ok($node->poll_query_until('postgres', q{
	SELECT count(*) = 0 FROM pg_stat_progress_vacuum}), 'autovacuum is not at work');
my ($size, $live) = (0, 0);
foreach my $table (@ledger)
{
	my $now = value("SELECT pg_total_relation_size('dess_batch.$table')");
	value("VACUUM FULL dess_batch.$table");
	my $least = value("SELECT pg_total_relation_size('dess_batch.$table')");
	$size += $now;
	$live += $least;
	say_figure("$table: $now bytes, of which $least are alive");
	# one that was emptied keeps its index, and the pages of its busiest moment for the next one
	cmp_ok($now, '<=', 1.5 * $least + 262144, "$table is not much larger than what is alive in it");
}
say_figure("ledger: $size bytes, of which $live are alive");
cmp_ok($size, '<=', 1.5 * $live, 'nor is the ledger');

# ---- forgetting

is(value("SELECT dess_batch_purge('1 hour')"), 0, 'no job ended that long ago');
is(value("SELECT dess_batch_purge('0')"), $small_jobs + 3, 'every job can be forgotten');
is(value('SELECT (SELECT count(*) FROM dess_batch.job) + (SELECT count(*) FROM dess_batch.batch)
	+ (SELECT count(*) FROM dess_batch.item) + (SELECT count(*) FROM dess_batch.result)'), 0, 'with all that belongs to them');
my @spooled = grep { -f } glob $node->data_dir . '/dess_batch/*/* ' . $node->data_dir . '/dess_batch/*';
is(join(' ', map { basename($_) } @spooled), '', 'the spool is empty');

say_figure(sprintf('%d jobs, %d rows, last submitted after %.0f s, ended after %.0f s; %d server restarts; %d jobs resumed; %d faults fired',
	$small_jobs + 3, $rows, $last_submit, $end, $killed, $resumed, $stats->{faults_fired}));
append_to_file("$output/soak_figures.txt", join("\n", @figures, ''));
done_testing();
