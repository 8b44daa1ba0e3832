# Submitting inside a migration is like any other statement of it: rolled back,
# nothing was sent; committed, it starts; run twice, it pays once.  The tools are
# the real ones, the migrations those of test/migrations.

use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('migrations');
my $migrations = source_file('test/migrations');
my $rows_to_ask = 204;

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

# A database with the faculty, without a department, and a server.
sub create_database
{
	my ($name) = @_;

	sql("CREATE DATABASE $name");
	sql('CREATE EXTENSION dess_batch', $name);
	create_faculty($node, $name);
	sql('ALTER TABLE faculty DROP COLUMN department_llm', $name);
	create_server($node, $simulator, database => $name);
	return;
}

# Requests paid for so far, by the simulator's own books.
sub paid { return $simulator->get('stats')->{rows_served}; }

# Waits for the database's last job; returns its state and figures.
sub finished
{
	my ($database) = @_;
	my $job = sql('SELECT max(job_id) FROM dess_batch_jobs', $database);
	wait_for_job($node, $job, $database);
	return job_figures($node, $job, $database);
}

# What a broken migration must not leave behind.
sub check_untouched
{
	my ($tool, $database, $label, $before) = @_;

	is(sql("SELECT count(*) FROM dess_batch_jobs WHERE label = '$label'", $database), 0, "$tool: a migration that fails leaves no job");
	is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'faculty'::regclass AND attname = 'department_gone'}, $database), 0,
		"$tool: nor its column");
	is(paid(), $before, "$tool: and pays nothing");
	return;
}

# Runs a command; returns its exit status, what it printed goes to the log.
sub run_tool
{
	my (@command) = @_;
	my ($out, $err) = ('', '');
	IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err);
	note("@command\n$out$err");
	return $? >> 8;
}

# ---- psql

sub run_psql
{
	my ($file) = @_;
	return run_tool('psql', '-X', '-v', 'ON_ERROR_STOP=1', '--single-transaction', '-d', $node->connstr('plain'),
		'-f', "$migrations/psql/$file");
}

create_database('plain');
my $before = paid();
is(run_psql('001_department.sql'), 0, 'psql: the migration runs');
is(finished('plain'), 'done 240 240 0 0', 'psql: the job starts at its end and answers all');
is(paid(), $before + $rows_to_ask, 'psql: each request is paid once');
is(run_psql('001_department.sql'), 0, 'psql: it runs again');
is(finished('plain'), 'done 0 0 0 0', 'psql: there is nothing to do');
is(paid(), $before + $rows_to_ask, 'psql: and nothing is paid twice');
isnt(run_psql('002_broken.sql'), 0, 'psql: a broken migration fails');
check_untouched('psql', 'plain', 'migration 002', $before + $rows_to_ask);

# run twice at the same moment, by two deployments
sql('ALTER TABLE faculty DROP COLUMN department_llm; TRUNCATE dess_batch.settled', 'plain');
$before = paid();
my @runs = map {
	my ($out, $err) = ('', '');
	IPC::Run::start([ 'psql', '-X', '-v', 'ON_ERROR_STOP=1', '--single-transaction', '-d', $node->connstr('plain'),
		'-f', "$migrations/psql/001_department.sql" ], '<', \undef, '>', \$out, '2>', \$err)
} 1 .. 2;
$_->finish foreach @runs;
$node->poll_query_until('plain', 'SELECT bool_and(stands_still) FROM dess_batch.figures') or die 'no end';
is(paid(), $before + $rows_to_ask, 'psql: two at the same moment pay once');

# ---- sqitch

sub run_sqitch
{
	my ($command, @arguments) = @_;
	my $target = 'db:pg://postgres@/squirrel?host=' . $node->host . '&port=' . $node->port;
	local %ENV = (%ENV, SQITCH_FULLNAME => 'Registrar', SQITCH_EMAIL => 'registrar@example.com', HOME => PostgreSQL::Test::Utils::tempdir(),
		PGUSER => $ENV{PGUSER} // scalar getpwuid($>));
	$target =~ s/postgres\@/$ENV{PGUSER}\@/;
	return run_tool('sqitch', '--chdir', "$migrations/sqitch", $command, '--target', $target, @arguments);
}

create_database('squirrel');
$before = paid();
is(run_sqitch('deploy', '--to-change', 'department', '--verify'), 0, 'sqitch: deploys and verifies');
is(finished('squirrel'), 'done 240 240 0 0', 'sqitch: the job answers all');
is(run_sqitch('verify', '--to-change', 'department'), 0, 'sqitch: verifies when it is done');
is(run_sqitch('deploy', '--to-change', 'department'), 0, 'sqitch: deploying again');
is(paid(), $before + $rows_to_ask, 'sqitch: pays nothing again');
isnt(run_sqitch('deploy', '--mode', 'change'), 0, 'sqitch: a broken change fails');
check_untouched('sqitch', 'squirrel', 'sqitch broken', $before + $rows_to_ask);
is(run_sqitch('revert', '-y'), 0, 'sqitch: reverts');
is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'faculty'::regclass AND attname = 'department_llm'}, 'squirrel'), 0,
	'sqitch: the column is gone');

# ---- node-pg-migrate

sub run_node
{
	my (@arguments) = @_;
	my $host = $node->host =~ s{/}{%2F}gr;
	local $ENV{DATABASE_URL} = sprintf 'postgres://%s@%s:%d/node', $ENV{PGUSER} // scalar getpwuid($>), $host, $node->port;
	return run_tool('node', source_file('test/npm/node_modules/node-pg-migrate/bin/node-pg-migrate.js'), @arguments,
		'-m', "$migrations/node-pg-migrate");
}

create_database('node');
$before = paid();
is(run_node('up', '1'), 0, 'node-pg-migrate: goes up');
is(finished('node'), 'done 240 240 0 0', 'node-pg-migrate: the job answers all');
is(paid(), $before + $rows_to_ask, 'node-pg-migrate: each request is paid once');
isnt(run_node('up', '1'), 0, 'node-pg-migrate: a broken migration fails');
check_untouched('node-pg-migrate', 'node', 'node broken', $before + $rows_to_ask);
is(run_node('down', '1'), 0, 'node-pg-migrate: goes down');
is(sql(q{SELECT count(*) FROM pg_attribute WHERE attrelid = 'faculty'::regclass AND attname = 'department_llm'}, 'node'), 0,
	'node-pg-migrate: the column is gone');

done_testing();
