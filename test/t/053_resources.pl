# What runs out, and what is set so that it might: disk space, memory for locks,
# worker slots, file descriptors, time; and settings of the server, the database
# or the role that are odd or restrict.  The reason can be read in
# dess_batch_explain, nothing is lost or paid twice, and the job goes on when the
# cause is gone.
use strict;
use warnings;

use DessBatch;
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $spool = PostgreSQL::Test::Utils::tempdir();
my $full = PostgreSQL::Test::Utils::tempdir() . '/full';

# A disk that is full as soon as a file says so: what is written below the spool
# directory, at or behind the offset that the file names, gets ENOSPC.
my $shim = PostgreSQL::Test::Utils::tempdir() . '/disk.so';
append_to_file("$shim.c", <<'C');
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int
is_full(int fd, off_t end)
{
	char		link[64], path[4096];
	ssize_t		length;
	long		room = -1;
	FILE	   *file;

	file = fopen(getenv("DISK_FULL"), "r");
	if (file == NULL)
		return 0;
	if (fscanf(file, "%ld", &room) != 1)
		room = 0;
	fclose(file);
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	length = readlink(link, path, sizeof(path) - 1);
	if (length < 0)
		return 0;
	path[length] = '\0';
	return strncmp(path, getenv("DISK"), strlen(getenv("DISK"))) == 0 && end > room;
}

ssize_t
write(int fd, const void *data, size_t length)
{
	static ssize_t (*original) (int, const void *, size_t);

	if (original == NULL)
		original = (ssize_t (*) (int, const void *, size_t)) dlsym(RTLD_NEXT, "write");
	if (is_full(fd, lseek(fd, 0, SEEK_CUR) + length))
	{
		errno = ENOSPC;
		return -1;
	}
	return original(fd, data, length);
}

ssize_t
pwrite64(int fd, const void *data, size_t length, off_t offset)
{
	static ssize_t (*original) (int, const void *, size_t, off_t);

	if (original == NULL)
		original = (ssize_t (*) (int, const void *, size_t, off_t)) dlsym(RTLD_NEXT, "pwrite64");
	if (is_full(fd, offset + length))
	{
		errno = ENOSPC;
		return -1;
	}
	return original(fd, data, length, offset);
}

ssize_t
pwrite(int fd, const void *data, size_t length, off_t offset)
{
	return pwrite64(fd, data, length, offset);
}

/* As a file system in the network: that there is no room is told at the end. */
int
close(int fd)
{
	static int	(*original) (int);
	char		link[64], path[4096];
	ssize_t		length = -1;
	int			flags = fcntl(fd, F_GETFL);

	if (original == NULL)
		original = (int (*) (int)) dlsym(RTLD_NEXT, "close");
	snprintf(path, sizeof(path), "%s.close", getenv("DISK_FULL"));
	if (flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && access(path, F_OK) == 0)
	{
		snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
		length = readlink(link, path, sizeof(path) - 1);
		path[length < 0 ? 0 : length] = '\0';
	}
	if (original(fd) != 0)
		return -1;
	if (length < 0 || strncmp(path, getenv("DISK"), strlen(getenv("DISK"))) != 0)
		return 0;
	errno = EDQUOT;
	return -1;
}
C
system_or_bail('cc', '-O', '-shared', '-fPIC', '-o', $shim, "$shim.c", '-ldl');

my $node = start_node(
	'resources',
	conf => "dess_batch.spool_directory = '$spool'\nmax_worker_processes = 6\nmax_files_per_process = 100\ndess_batch.idle_timeout = 10min",
	environment => { LD_PRELOAD => $shim, DISK => $spool, DISK_FULL => $full });

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

# Waits until dess_batch_explain says it.
sub explained
{
	my ($job, $words, $name, $database) = @_;
	my $quoted = $words =~ s/'/''/gr;

	ok($node->poll_query_until($database // 'postgres',
		"SELECT EXISTS (SELECT FROM dess_batch_explain($job) e WHERE e ~ '$quoted')"), $name)
	  or diag(query("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e", $database));
	return;
}

# From this length on no file in the spool can grow; undef: there is room again.
sub disk_has
{
	my ($bytes) = @_;

	unlink $full, "$full.close";
	return unless defined $bytes;
	append_to_file("$full.new", $bytes);
	rename("$full.new", $full) or die "could not rename: $!";
	return;
}

sub worker
{
	return query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = 'postgres'});
}

sub served { return $simulator->get('stats')->{rows_served}; }

query(
	q{CREATE TABLE notes (id integer PRIMARY KEY, note text, department_llm text);
	INSERT INTO notes SELECT i, 'note ' || i || repeat(' and more', 100) FROM generate_series(1, 40) i;});

# ---- a full disk, at every stage that writes

my $pid;
my %stage = (
	'the first page' => [ 'batch', sub { disk_has(0) }, sub { }, '\.requests": No space left on device' ],
	'the middle of a page' => [ 'batch', sub { disk_has(20000) }, sub { }, '\.requests": No space left on device' ],
	'a download' => [ 'batch', sub { $simulator->post('settings', { run_ms => 600000 }) },
		sub { disk_has(0); $simulator->post('settings', { run_ms => 20 }); query("SELECT dess_batch_status($_[0])") }, 'No space left on device' ],
	'the middle of a download' => [ 'batch', sub { $simulator->post('settings', { run_ms => 600000 }) },
		sub { disk_has(8000); $simulator->post('settings', { run_ms => 20 }); query("SELECT dess_batch_status($_[0])") }, 'No space left on device' ],
	'online replies' => [ 'online', sub { $simulator->post('settings', { latency_ms => 2000 }) },
		sub { disk_has(0) }, '53100: could not write to the spool' ],
	'online replies, told when the file is closed' => [ 'online', sub { $simulator->post('settings', { latency_ms => 2000 }) },
		sub { append_to_file("$full.close", '') }, '53100: could not write to the spool' ]);
foreach my $name (sort keys %stage)
{
	my ($mode, $before, $meanwhile, $words) = @{ $stage{$name} };
	my $served = served();

	query('UPDATE notes SET department_llm = NULL; TRUNCATE dess_batch.settled');
	$before->();
	my $job = submit_job($node, "'notes', 'gpt-4o-mini', '$name: {note}', server => 'openai', mode => '$mode'");
	until_true("SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $job", 'it runs') if $name =~ /download|replies/;
	$meanwhile->($job);
	explained($job, $words, "$name: explain says that the disk is full");
	isnt(query("SELECT state FROM dess_batch_jobs WHERE job_id = $job"), 'failed', 'the job waits');
	$pid //= worker();
	disk_has(undef);
	$simulator->post('settings', { latency_ms => 0, run_ms => 20 });
	is(wait_for_job($node, $job), 'done', 'it goes on when there is room');
	is(outcomes($node, $job), 'ok 40', 'with all rows');
	is(query("SELECT coalesce(error, '') FROM dess_batch_jobs WHERE job_id = $job"), '', 'and forgets the trouble');
	is(served() - $served, 40, 'nothing was bought twice') if $mode eq 'batch';
	cmp_ok(served() - $served, '<=', 40 + 64, 'at most what was in flight was asked again') if $mode eq 'online';
}
is(worker(), $pid, 'the worker has lived through all that');

# ---- settings

my @setting = (
	[ 'statement_timeout', '1ms' ], [ 'lock_timeout', '1ms' ], [ 'idle_in_transaction_session_timeout', '1ms' ],
	[ 'default_transaction_read_only', 'on' ], [ 'default_transaction_isolation', 'serializable' ], [ 'default_transaction_deferrable', 'on' ],
	[ 'row_security', 'off' ], [ 'search_path', 'nowhere' ], [ 'work_mem', '64kB' ], [ 'session_replication_role', 'replica' ],
	[ 'timezone', 'Pacific/Kiritimati' ], [ 'datestyle', 'SQL, DMY' ], [ 'intervalstyle', 'iso_8601' ], [ 'extra_float_digits', '-15' ], [ 'bytea_output', 'escape' ],
	[ 'synchronous_commit', 'off' ], [ 'temp_file_limit', '0' ], [ 'standard_conforming_strings', 'off' ], [ 'transform_null_equals', 'on' ],
	[ 'array_nulls', 'off' ], [ 'quote_all_identifiers', 'on' ], [ 'enable_indexscan', 'off' ], [ 'plan_cache_mode', 'force_generic_plan' ],
	[ 'client_encoding', 'LATIN1' ], [ 'check_function_bodies', 'off' ], [ 'jit_above_cost', '0' ]);
query(
	q{CREATE TABLE parents (id integer PRIMARY KEY);
	INSERT INTO parents VALUES (1);
	CREATE TABLE typed (id integer PRIMARY KEY, d date, t timestamptz, i interval, f float8, b bytea, body text, department_llm text, stamped text, parent integer REFERENCES parents);
	INSERT INTO typed SELECT n, date '2024-04-03' + n, timestamptz '2024-04-03 12:00+00', interval '1 day 02:03', 0.1, '\x00ff', E'back\\\\slash', NULL, NULL, 1 FROM generate_series(1, 5) n;
	CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.stamped := 'trigger'; RETURN NEW; END $$;
	CREATE TRIGGER stamp BEFORE UPDATE ON typed FOR EACH ROW EXECUTE FUNCTION stamp();});
my $plain;
# the test's own sessions are spared
local $ENV{PGOPTIONS} = join ' ', map { "-c $_" } qw(statement_timeout=0 lock_timeout=0 idle_in_transaction_session_timeout=0
	default_transaction_read_only=off search_path=public standard_conforming_strings=on session_replication_role=origin);
foreach my $level ('nowhere', 'postgresql.conf', 'DATABASE postgres', 'ROLE postgres')
{
	my $all = join ' ', map { "$_->[0] = '$_->[1]'\n" } grep { $_->[0] ne 'session_replication_role' || $level =~ /ROLE|nowhere/ } @setting;

	query("SELECT pg_terminate_backend($pid)");
	until_true("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)", 'the worker ends');

	if ($level eq 'postgresql.conf')
	{
		$node->append_conf('postgresql.conf', $all);
		$node->reload;
	}
	elsif ($level ne 'nowhere')
	{
		query(join '; ', map { "ALTER $level SET $_->[0] = " . ($_->[0] eq 'search_path' ? 'nowhere' : "'$_->[1]'") }
			grep { $_->[0] ne 'session_replication_role' || $level =~ /ROLE/ } @setting);
	}
	query(q{UPDATE public.typed SET department_llm = NULL, stamped = NULL; TRUNCATE dess_batch.settled});
	my $job = submit_job($node, q{'public.typed', 'gpt-4o-mini', '{d} {t} {i} {f} {b} {body}', server => 'openai'});
	wait_for_job($node, $job);
	is(query("SELECT concat_ws(' ', state, rows, done, error) FROM public.dess_batch_jobs WHERE job_id = $job"), 'done 5 5',
		"settings of $level: the job is done");
	is(query(q{SELECT count(*) FROM public.typed WHERE stamped = 'trigger' AND department_llm IS NOT NULL}), 5, 'with triggers');
	my $hashes = query("SELECT string_agg(request_hash, ' ' ORDER BY row_key ->> 'id') FROM public.dess_batch_rows WHERE job_id = $job");
	$plain //= $hashes;
	is($hashes, $plain, 'and the same requests');
	$pid = query(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker' AND datname = 'postgres'});
	unlike(slurp_file("/proc/$pid/maps"), qr/llvmjit/, 'and no compiler, which stays in memory');
	query("ALTER $level RESET ALL") if $level =~ /ROLE|DATABASE/;
	if ($level eq 'postgresql.conf')
	{
		my $conf = slurp_file($node->data_dir . '/postgresql.conf') =~ s/\Q$all\E//r;
		open(my $file, '>', $node->data_dir . '/postgresql.conf') or die;
		print $file $conf;
		close $file;
		$node->reload;
	}
}

# ---- more batches with files than there are descriptors: they are for connections

my $log_before = -s $node->logfile;
$simulator->post('settings', { latency_ms => 200 });
my @many = map {
	query("CREATE TABLE many_$_ (id integer PRIMARY KEY, note text, department_llm text);
		INSERT INTO many_$_ SELECT i, 'many $_ ' || i FROM generate_series(1, 20) i");
	submit_job($node, "'many_$_', 'gpt-4o-mini', '{note}', server => 'openai', mode => 'online'");
} 1 .. 40;
$simulator->post('settings', { latency_ms => 0 });
is(join(' ', map { wait_for_job($node, $_) } @many), join(' ', ('done') x @many), '40 online jobs have files at once, of 100 descriptors');
unlike(slurp_file($node->logfile, $log_before), qr/too many open files/i, 'and none is refused one');

$node->stop;
$simulator->stop;
done_testing();
