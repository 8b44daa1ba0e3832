# Copies of a ledger: a dump that is restored, a database made from another, an
# upgraded cluster, a standby.  What would pay or poll twice holds its jobs until
# somebody adopts them; a standby that is promoted simply goes on.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);

sub stats { return $simulator->get('stats'); }
sub created { return stats()->{batches_created}; }

# Requests about batches, other than of the worker that is meant to ask.
sub asked { return $simulator->get('requests?limit=1')->{last_seq}; }

# A table of so many rows in a database of the node, with a server.
sub furnish
{
	my ($node, $database, $rows) = @_;

	create_server($node, $simulator, database => $database, options => { max_batch_requests => 10 });
	$node->safe_psql($database, qq{
		CREATE TABLE notes (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO notes SELECT i, 'item ' || i FROM generate_series(1, $rows) i;
		INSERT INTO dess_batch.price (model, input, output, source) VALUES ('house-*', 1, 2, 'ours')});
	return;
}

# A job whose batches are all at the provider, and stay there.
sub away
{
	my ($node, $database, %more) = @_;

	$simulator->post('settings', { run_ms => 600000 });
	my $job = submit_job($node, q{'notes', 'gpt-6-luna', prompt => '{body}', target => 'answer'}, $database);
	$node->poll_query_until($database, qq{
		SELECT count(*) > 0 AND bool_and(state = 'running') FROM dess_batch_batches WHERE job_id = $job})
	  or die 'batches do not run';
	return $job;
}

# The provider ends what it has; the node's worker is made to look at once.
sub let_end
{
	my ($node, $database, $job) = @_;

	$simulator->post('settings', { run_ms => 20 });
	$node->safe_psql($database, "SELECT dess_batch_status($job)");
	return wait_for_job($node, $job, $database);
}

sub answered { return $_[0]->safe_psql($_[1], 'SELECT count(answer) FROM notes'); }

sub state_of
{
	my ($node, $database, $job) = @_;
	return $node->safe_psql($database, "SELECT state FROM dess_batch_jobs WHERE job_id = $job");
}

sub explanation
{
	my ($node, $database, $job) = @_;
	return $node->safe_psql($database, "SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e");
}

# A worker looks at the copy, and writes down that it holds its jobs.
sub held
{
	my ($node, $database, $job) = @_;

	$node->safe_psql($database, 'SELECT dess_batch_start()');
	ok($node->poll_query_until($database, "SELECT control = 'hold' FROM dess_batch.job WHERE id = $job"), "$database: the job is held");
	return;
}

# Roles have other OIDs in another cluster: here what is Alice's has Bob's.
sub bob_is_not_alice
{
	my ($where, $database) = @_;
	my $seen = q{SELECT (SELECT count(*) FROM dess_batch_jobs), (SELECT count(*) FROM dess_batch_rows), (SELECT count(answer) FROM dess_batch_rows),
		(SELECT count(*) FROM dess_batch_batches), (SELECT count(*) FROM dess_batch_progress), (SELECT sum(cost) > 0 FROM dess_batch_usage)};
	my ($alices) = $where->safe_psql($database, q{
		UPDATE dess_batch.job SET owner = 'regress_bob'::regrole WHERE owner_name = 'regress_alice' RETURNING id});
	$where->safe_psql($database, q{UPDATE dess_batch.usage SET owner = 'regress_bob'::regrole WHERE owner_name = 'regress_alice'});

	foreach my $moment ('before a worker has looked', 'and when one has')
	{
		is($where->safe_psql($database, "SET ROLE regress_bob; $seen"), '0|0|0|0|0|', "Bob sees nothing of Alice's, $moment");
		is($where->safe_psql($database, "SET ROLE regress_alice; $seen"), '1|1|1|1|1|t', 'Alice does');
		foreach my $call ("dess_batch_show($alices, '{\"id\": 1}')", "dess_batch_explain($alices)", "dess_batch_report($alices)",
			"dess_batch_erase($alices)", "dess_batch_retry($alices)", "dess_batch_cancel($alices)")
		{
			my ($status, $out, $err) = $where->psql($database, "SET ROLE regress_bob; SELECT $call");
			like($err, qr/permission denied for job $alices.*regress_alice/s, "Bob may not call $call");
		}
		is($where->safe_psql($database, "SET ROLE regress_bob; SELECT dess_batch_purge('0 seconds')"), 0, 'nor forget it');
		$where->safe_psql($database, 'SELECT dess_batch_start()');
		$where->poll_query_until($database, 'SELECT count(*) = 1 FROM dess_batch.ledger') or die 'no worker looks';
	}
	return;
}

# ---- pg_dump and pg_restore, into the same cluster and into another

my $node = start_node('original');
my $other = start_node('other', extension => 0);

furnish($node, 'postgres', 30);
my $first = submit_job($node, q{'notes', 'gpt-6-luna', prompt => '{body}', target => 'answer', where_sql => 'id <= 5', label => 'before'});
is(wait_for_job($node, $first), 'done', 'a job is done before the dump');
my $usage = $node->safe_psql('postgres', 'SELECT sum(input_tokens), sum(cost) FROM dess_batch_usage');

# a role's own job; in the other cluster its OID will be somebody else's
$_->safe_psql('postgres', 'CREATE ROLE regress_alice; CREATE ROLE regress_bob') foreach $node, $other;
$node->safe_psql('postgres', q{GRANT USAGE ON FOREIGN SERVER openai TO regress_alice; GRANT SELECT, UPDATE ON notes TO regress_alice});
my $alices = $node->safe_psql('postgres', q{SET ROLE regress_alice;
	SELECT dess_batch_submit('notes', 'gpt-6-luna', prompt => 'Secret: {body}', target => NULL, where_sql => 'id = 1', keep => 'answer', label => 'alice')});
is(wait_for_job($node, $alices), 'done', 'so is one of another role');
$usage = $node->safe_psql('postgres', 'SELECT sum(input_tokens), sum(cost) FROM dess_batch_usage');
my $job = away($node, 'postgres');
my $batches = created();
my $dump = PostgreSQL::Test::Utils::tempdir() . '/dump';

command_ok([ 'pg_dump', '-Fc', '-f', $dump, $node->connstr('postgres') ], 'pg_dump');
foreach my $to ([ $node, 'restored', 'the same cluster' ], [ $other, 'elsewhere', 'another cluster' ])
{
	my ($where, $database, $name) = @$to;

	$where->safe_psql('postgres', "CREATE DATABASE $database");
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $where->connstr($database), $dump ], "pg_restore into $name");
	is($where->safe_psql($database, "SELECT state, waiting_for FROM dess_batch_progress WHERE job_id = $job"),
		"held|dess_batch_adopt($job)", 'its job is held before a worker has looked');
	bob_is_not_alice($where, $database) if $where == $other;
	like(explanation($where, $database, $job), qr/It is held, .*dess_batch_adopt\($job\).*nobody looks at it here\.$/s, 'and so it is explained');
	unlike(explanation($where, $database, $job), qr/No worker|cannot be used|next look/, 'without what is not its trouble');
	held($where, $database, $job);
	like($where->safe_psql($database, "SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"), qr/dess_batch_adopt\($job\)/,
		'and says how to take it over');
	is($where->safe_psql($database, 'SELECT sum(input_tokens), sum(cost) FROM dess_batch_usage'), $usage, 'usage is there');
	is($where->safe_psql($database, q{SELECT count(*) FROM dess_batch.price WHERE source = 'ours'}), 1, "and the user's price, once");
	is($where->safe_psql($database, q{SELECT count(*) = count(DISTINCT p.*) FROM dess_batch.price p}), 't', 'and the others not twice');

	my $seen = asked();
	my $fresh = submit_job($where, q{'notes', 'gpt-6-luna', prompt => '{body}', target => 'answer'}, $database);
	is(wait_for_job($where, $fresh, $database), 'done', 'a new job there ends');
	is(asked(), $seen, 'without a request: the held job has the rows');
}
is(created(), $batches, 'no batch was created for the copies');

# whoever ends a batch removes its files, so only one of two may
$node->stop('immediate');
$other->safe_psql('elsewhere', "SELECT dess_batch_adopt($job)");
is(let_end($other, 'elsewhere', $job), 'done', 'adopted, the job ends in the other cluster');
is(answered($other, 'elsewhere'), 30, 'with all its answers');
is(created(), $batches, 'from the batches that were there');
$node->start;
$node->safe_psql('postgres', 'DROP EXTENSION dess_batch CASCADE; DROP TABLE notes; CREATE EXTENSION dess_batch');
furnish($node, 'postgres', 30);

# ---- CREATE DATABASE ... TEMPLATE

$node->safe_psql('postgres', 'CREATE DATABASE model');
$node->safe_psql('model', 'CREATE EXTENSION dess_batch');
furnish($node, 'model', 20);
$job = away($node, 'model');
$batches = created();
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE model');
{
	my ($status, $out, $err) = $node->psql('copy', "SELECT dess_batch_cancel($job)");
	like($err, qr/job $job is held.*dess_batch_adopt\($job\)/s, 'a copy holds its job at once');
}
held($node, 'copy', $job);
is(let_end($node, 'model', $job), 'done', 'a database that was a template ends its job');
is(answered($node, 'model'), 20, 'with all answers');
is(state_of($node, 'copy', $job), 'held', 'the copy still holds it');
is(created(), $batches, 'and created no batch');
{
	my ($status, $out, $err) = $node->psql('copy', "SELECT dess_batch_cancel($job)");
	like($err, qr/may go on.*dess_batch_adopt\($job\)/s, 'and does not let it be cancelled for the other one');
}

# ---- pg_upgrade, from and to this version

$node->safe_psql('postgres', 'DROP DATABASE restored; DROP DATABASE copy; DROP DATABASE model');
$job = away($node, 'postgres');
$batches = created();
my $upgraded = PostgreSQL::Test::Cluster->new('upgraded');
$upgraded->init;
$upgraded->append_conf('postgresql.conf', "shared_preload_libraries = 'dess_batch'\ntimezone = 'UTC'");
$node->stop;
{
	my $directory = PostgreSQL::Test::Utils::tempdir_short();
	my $bin = $node->config_data('--bindir');
	my ($out, $err) = ('', '');

	ok( IPC::Run::run(
			[ 'pg_upgrade', '--no-sync', '-b', $bin, '-B', $bin, '-d', $node->data_dir, '-D', $upgraded->data_dir,
				'-s', $directory, '-p', $node->port, '-P', $upgraded->port ],
			'<', \undef, '>', \$out, '2>', \$err, init => sub { chdir $directory }),
		'pg_upgrade') or diag($out, $err);
	is(asked(), $simulator->get('requests?limit=1')->{last_seq}, 'nothing is asked in binary upgrade mode');
}
my $seen = asked();
$upgraded->start;
held($upgraded, 'postgres', $job);
is(asked(), $seen, 'an upgraded cluster neither polls nor pays');
$upgraded->safe_psql('postgres', 'SELECT dess_batch_adopt()');
is(let_end($upgraded, 'postgres', $job), 'done', 'adopted, the job ends');
is(answered($upgraded, 'postgres'), 30, 'with all its answers');
is(created(), $batches, 'and no second batch');
is($upgraded->safe_psql('postgres', q{SELECT count(*) FROM dess_batch.price WHERE source = 'ours'}), 1, "the user's price is there");
$upgraded->stop;

# ---- a standby, and its promotion

my $primary = start_node('primary', preload => 1, conf => "wal_level = replica\nmax_wal_senders = 5\nhot_standby = on");
furnish($primary, 'postgres', 30);
$primary->backup('base');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'base', has_streaming => 1);
$standby->start;
$job = away($primary, 'postgres');
$batches = created();
$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));

is(state_of($standby, 'postgres', $job), 'running', 'a standby shows the job');
like($standby->safe_psql('postgres', 'SELECT bar FROM dess_batch_progress'), qr/^\.+$/, 'and its progress');
like($standby->safe_psql('postgres', "SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e"), qr/standby/, 'and explains that it is one');
is($standby->safe_psql('postgres', q{SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), 0, 'no worker runs there');
my ($status, $out, $err) = $standby->psql('postgres', q{SELECT dess_batch_submit('notes', 'gpt-6-luna', prompt => '{body}', target => 'answer')});
like($err, qr/read-only|recovery/, 'and it takes no job');

$primary->stop('immediate');
$seen = asked();
$simulator->post('settings', { run_ms => 20 });
is(asked(), $seen, 'while nobody is primary, nobody asks');
$standby->promote;
is(wait_for_job($standby, $job), 'done', 'promoted, it goes on by itself');
is(answered($standby, 'postgres'), 30, 'with all answers');
is(created(), $batches, 'and no second batch');
is(job_figures($standby, $job), 'done 30 30 0 0', 'each row once');

# ---- logical replication of the table

my $publisher = $standby;
$publisher->safe_psql('postgres', 'ALTER SYSTEM SET wal_level = logical');
$publisher->restart;
my $subscriber = start_node('subscriber');
$subscriber->safe_psql('postgres', 'CREATE TABLE notes (id integer PRIMARY KEY, body text, answer text)');
$publisher->safe_psql('postgres', 'CREATE PUBLICATION answers FOR TABLE notes');
$subscriber->safe_psql('postgres', sprintf q{CREATE SUBSCRIPTION answers CONNECTION '%s' PUBLICATION answers}, $publisher->connstr('postgres') =~ s/'/''/gr);
$publisher->safe_psql('postgres', q{INSERT INTO notes SELECT i, 'item ' || i FROM generate_series(31, 50) i});
$job = submit_job($publisher, q{'notes', 'gpt-6-luna', prompt => '{body}', target => 'answer'});
is(wait_for_job($publisher, $job), 'done', 'a job on a published table');
$subscriber->poll_query_until('postgres', 'SELECT count(answer) = 50 FROM notes') or die 'answers are not replicated';
is( $subscriber->safe_psql('postgres', 'SELECT string_agg(answer, \',\' ORDER BY id) FROM notes'),
	$publisher->safe_psql('postgres', 'SELECT string_agg(answer, \',\' ORDER BY id) FROM notes'),
	'its answers are replicated like other updates');

$_->stop foreach $subscriber, $publisher, $other;
done_testing();
