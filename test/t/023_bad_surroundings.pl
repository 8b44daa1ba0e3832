# What is wrong around a job: no room or no right for its files, no slot for the
# worker, a database in another encoding.  The reason is told, nothing is lost,
# and the job goes on when the cause is gone.
use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('surroundings');

create_server($node, $simulator);

sub query
{
	my ($sql, $database) = @_;
	return $node->safe_psql($database // 'postgres', $sql);
}

sub until_true
{
	my ($sql, $what, $database) = @_;

	$node->poll_query_until($database // 'postgres', $sql) or die "in vain: $what";
	return;
}

sub explanation
{
	my ($job) = @_;
	return query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e");
}

# Sets the spool directory and returns when the server has read it.
sub set_spool
{
	my ($directory) = @_;

	query("ALTER SYSTEM SET dess_batch.spool_directory = '$directory'; SELECT pg_reload_conf()");
	until_true("SELECT current_setting('dess_batch.spool_directory') = '$directory'", 'the setting is read');
	return;
}

query(
	q{CREATE TABLE notes (id integer PRIMARY KEY, note text, department_llm text, a text, b text, c text);
	INSERT INTO notes SELECT i, 'note ' || i FROM generate_series(1, 5) i;
	CREATE TABLE big (id integer PRIMARY KEY, note text, department_llm text);
	ALTER TABLE big ALTER note SET STORAGE EXTERNAL;
	INSERT INTO big SELECT i, i || repeat('x', 1024 * 1024) FROM generate_series(1, 20) i;});

# ---- a spool directory that nobody may write into

my $locked = PostgreSQL::Test::Utils::tempdir();

chmod 0500, $locked or die "could not change the mode of $locked: $!";
ok(!open(my $probe, '>', "$locked/probe"), 'the directory cannot be written into');
set_spool("$locked/spool");
my %job;
foreach my $mode (qw(batch online))
{
	my $column = $mode eq 'batch' ? 'a' : 'b';

	$job{$mode} = submit_job($node, "'notes', 'gpt-4o-mini', 'locked {note}', '$column', mode => '$mode', server => 'openai'");
}
foreach my $mode (sort keys %job)
{
	until_true("SELECT error IS NOT NULL FROM dess_batch_jobs WHERE job_id = $job{$mode}", 'the trouble is noted');
	like(explanation($job{$mode}), qr/58030: could not create directory "\Q$locked\E\/spool": Permission denied/,
		"$mode: explain says why the job waits");
	is(query("SELECT state FROM dess_batch_jobs WHERE job_id = $job{$mode}"), 'queued', 'and it does wait');
}
my $pid = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
chmod 0700, $locked or die "could not change the mode of $locked: $!";
foreach my $mode (sort keys %job)
{
	is(wait_for_job($node, $job{$mode}), 'done', "$mode: when it may be written into, the job goes on");
	is(query("SELECT error FROM dess_batch_jobs WHERE job_id = $job{$mode}"), '', 'and forgets the trouble');
}
is(query('SELECT count(a) + count(b) FROM notes'), 10, 'all rows have their answers');

# while a batch is at the provider
$simulator->post('settings', { run_ms => 2000 });
my $job = submit_job($node, "'notes', 'gpt-4o-mini', 'moved {note}', 'c', server => 'openai'");
until_true("SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job", 'the batch runs');
chmod 0500, $locked or die "could not change the mode of $locked: $!";
set_spool("$locked/moved");
until_true("SELECT error IS NOT NULL FROM dess_batch_batches WHERE job_id = $job", 'the trouble is noted');
like(explanation($job), qr/could not create file "\Q$locked\E\/moved.*No such file/, 'explain says why its results are not fetched');
chmod 0700, $locked or die "could not change the mode of $locked: $!";
is(wait_for_job($node, $job), 'done', 'they are fetched when there is a place for them');
is(query('SELECT count(c) FROM notes'), 5, 'all rows have their answers');
is(query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), $pid,
	'the worker has lived through all that');
$simulator->post('settings', { run_ms => 20 });

# ---- a worker that is ended between two transactions leaves nothing behind

until_true("SELECT count(*) = 0 FROM dess_batch_jobs WHERE state NOT IN ('done', 'failed', 'cancelled')", 'nothing is to be done');
query("SELECT pg_terminate_backend($pid)");
until_true("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", 'the worker ends');
is(query("SELECT count(*) FROM pg_locks WHERE pid = $pid"), 0, 'its lock ends with it');
query('SELECT dess_batch_start()');
until_true("SELECT count(*) = 1 FROM pg_locks WHERE objsubid = 77 AND granted AND pid <> $pid", 'another one takes over');
$pid = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});

# ---- a disk that is full: here, files that may not grow

system_or_bail('prlimit', '--pid', $pid, '--fsize=' . 17 * 1024 * 1024 . ':');
$job = submit_job($node, "'big', 'gpt-4o-mini', '{note}', server => 'openai'");
until_true("SELECT error IS NOT NULL FROM dess_batch_jobs WHERE job_id = $job", 'the trouble is noted');
like(explanation($job), qr/58030: could not write to file ".*\.requests": File too large/, 'explain says that the file cannot be written');
my $small = submit_job($node, "'notes', 'gpt-4o-mini', 'small {note}', server => 'openai'");
is(wait_for_job($node, $small), 'done', 'a smaller job of somebody else is done meanwhile');
system_or_bail('prlimit', '--pid', $pid, '--fsize=unlimited:');
is(wait_for_job($node, $job), 'done', 'when there is room again, the job goes on');
is(query('SELECT count(department_llm) FROM big'), 20, 'all rows have their answers');
is($simulator->get('stats')->{custom_ids}{answered_more_than_once}, 0, 'and none was asked for twice');
query('ALTER SYSTEM RESET dess_batch.spool_directory; SELECT pg_reload_conf()');

# ---- other encodings

$simulator->post('answers', [
	{ contains => "caf\x{e9}", answer => "Universit\x{e9}" },
	{ contains => 'arrow', answer => "left \x{2192} right" },
	{ contains => 'nothing', answer => { content_kind => 'nul' } } ]);
foreach my $encoding ('LATIN1', 'SQL_ASCII')
{
	my $database = lc $encoding;
	my $e_acute = $encoding eq 'LATIN1' ? q{E'\xe9'} : q{E'\xc3\xa9'};

	query("CREATE DATABASE $database TEMPLATE template0 ENCODING '$encoding' LOCALE 'C'");
	query('CREATE EXTENSION dess_batch', $database);
	create_server($node, $simulator, database => $database);
	query(
		qq{SET client_encoding = '$encoding';
		CREATE TABLE notes (id integer PRIMARY KEY, note text, a text, b text);
		INSERT INTO notes VALUES (1, 'caf' || $e_acute), (2, 'arrow'), (3, 'nothing'), (4, 'plain');
		INSERT INTO notes SELECT 5, E'broken \\xe9 text' WHERE '$encoding' = 'SQL_ASCII';},
		$database);

	foreach my $mode ('batch', 'online')
	{
		my $column = $mode eq 'batch' ? 'a' : 'b';
		my $job = submit_job($node,
			"'notes', 'gpt-4o-mini', '{note}', '$column', mode => '$mode', server => 'openai'", $database);

		is(wait_for_job($node, $job, $database), 'done', "$encoding, $mode: the job is done");
		is(query("SELECT string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ' ORDER BY row_key ->> 'id') FROM dess_batch_rows WHERE job_id = $job", $database),
			$encoding eq 'LATIN1' ? '1 ok, 2 invalid 22P05, 3 invalid 22P05, 4 ok'
			: '1 ok, 2 ok, 3 ok, 4 ok, 5 invalid 22021',
			'what the encoding does not have is invalid');
		is(query("SELECT $column = 'Universit' || $e_acute FROM notes WHERE id = 1", $database), 't',
			'the others are converted both ways');
		is(query("SELECT count(*) FROM dess_batch_errors WHERE job_id = $job AND answer IS NULL AND row_key ->> 'id' <> '5'", $database), 0,
			'answers that could not be written are kept');
		query("SELECT * FROM dess_batch_$_", $database) foreach qw(jobs batches rows errors progress usage);
	}
}
$node->stop;

# ---- no slot for the worker

my $narrow = start_node(
	'narrow',
	conf => qq{
		max_worker_processes = 2	# the launcher and one worker
		max_logical_replication_workers = 0
		dess_batch.idle_timeout = 100ms});

$narrow->safe_psql('postgres', 'CREATE DATABASE other');
$narrow->safe_psql('other', 'CREATE EXTENSION dess_batch');
foreach my $database ('postgres', 'other')
{
	create_server($narrow, $simulator, database => $database);
	$narrow->safe_psql($database,
		q{CREATE TABLE notes (id integer PRIMARY KEY, note text, department_llm text);
		INSERT INTO notes SELECT i, 'narrow ' || i FROM generate_series(1, 3) i;});
}
$simulator->post('settings', { run_ms => 5000 });
my $first = submit_job($narrow, "'notes', 'gpt-4o-mini', '{note}', server => 'openai'", 'other');
$narrow->poll_query_until('other', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $first")
  or die 'the first job does not run';
$simulator->post('settings', { run_ms => 20 });
my ($second, $warning);
$narrow->psql('postgres', q{SELECT dess_batch_submit('notes', 'gpt-4o-mini', '{note}', server => 'openai')},
	stdout => \$second, stderr => \$warning);
like($second, qr/^\d+$/, 'submit succeeds although all slots are taken');
like($warning, qr/WARNING:  no background worker slot is free for dess_batch.*The job is committed and waits.*max_worker_processes/s,
	'with a warning');
like($narrow->safe_psql('postgres', "SELECT string_agg(e, ' ') FROM dess_batch_explain($second) e"),
	qr/state queued.*No worker runs in this database.*max_worker_processes \(now 2\)/, 'explain says so');
is($narrow->safe_psql('other', "SELECT state FROM dess_batch_jobs WHERE job_id = $first"), 'running', 'the slot is still taken');
is(wait_for_job($narrow, $first, 'other'), 'done', 'the first job is done');
is(wait_for_job($narrow, $second), 'done', 'and then the second one, by itself');

$narrow->stop;
$simulator->stop;
done_testing();
