# Bench.pm
#		What the benchmarks share: servers, tables, clocks, and how a result is kept.
#
# A benchmark measures ours and what a user would do instead on the same rows,
# machine and server settings, in one run: only the ratio counts.  It ends with
# bench_result(), which writes results/NAME.json; Report.pl does the rest.

package Bench;

use strict;
use warnings;
use utf8;

# before PostgreSQL's modules turn standard output to their log
my $terminal;
BEGIN
{
	open($terminal, '>&', \*STDOUT) or die "standard output: $!";
	binmode($terminal, ':encoding(UTF-8)');
}

use Carp;
use Exporter 'import';
use File::Basename qw(basename dirname);
use IO::Handle;
use IO::Select;
use JSON::PP;
use POSIX qw(strftime);
use Socket;
use Time::HiRes qw(sleep time);

use DessBatch;

our @EXPORT = qw(
  bench_rows
  bench_small_rows
  start_bench_node
  create_big_faculty
  settle_table
  seconds
  wal_bytes
  worker_pid
  processor_seconds
  watch_memory
  peak_memory
  median
  bench_say
  bench_result
);

# where this file lies
my $here = dirname(__FILE__);

# Rows of the large and of the small case, which is large enough not to be all beginning and end.
sub bench_rows { return $ENV{ROWS} // 1_000_000; }

sub bench_small_rows
{
	my $rows = int(bench_rows() / 100);

	$rows = 10_000 if $rows < 10_000;
	return $rows < bench_rows() ? $rows : bench_rows();
}

# Says where a benchmark is; what it prints goes to the terminal.
sub bench_say
{
	my ($format, @values) = @_;
	printf $terminal "$format\n", @values;
	$terminal->flush;
	return;
}

# A server that syncs to disk, as a user's does, and checkpoints only when told,
# so that what is compared begins alike.  conf is appended.
sub start_bench_node
{
	my ($name, %options) = @_;

	return start_node(
		$name,
		conf => qq{
fsync = on
log_statement = none
shared_buffers = 512MB
max_wal_size = 100GB
checkpoint_timeout = 1h
autovacuum = off
dess_batch.idle_timeout = '1h'
} . ($options{conf} // ''));
}

# A table of n faculty rows of about 1 kB, in the shapes of test/data: no two
# alike, all with text.  Options: fillfactor (100), source (the seed's table).
sub create_big_faculty
{
	my ($node, $table, $n, %options) = @_;
	my $file = source_file('test/data/faculty.csv');
	my $fillfactor = $options{fillfactor} // 100;

	$node->safe_psql(
		'postgres', qq{
		CREATE TABLE IF NOT EXISTS seed (id integer, id_text text, firstname text, lastname text,
			university text, snippet_1 text, snippet_2 text, snippet_3 text, snippet_4 text);
		TRUNCATE seed;
		COPY seed FROM '$file' WITH (FORMAT csv, HEADER);
		DELETE FROM seed WHERE coalesce(btrim(snippet_1), '') = '' OR length(snippet_1) > 2000 OR lastname IS NULL;
		CREATE TABLE $table (id integer, id_text text, firstname text, lastname text, university text,
			snippet_1 text, snippet_2 text, snippet_3 text, snippet_4 text, department_llm text)
			WITH (fillfactor = $fillfactor);
		WITH pool AS MATERIALIZED (
			SELECT (row_number() OVER (ORDER BY id) - 1)::integer AS n, count(*) OVER ()::integer AS count, * FROM seed)
		INSERT INTO $table
		SELECT g, concat_ws(' ', p.firstname, p.lastname, g, p.university), p.firstname, p.lastname, p.university,
			p.snippet_1, left(repeat(q.snippet_1 || ' ... ', 10), 280), left(repeat(r.snippet_1 || ' ', 10), 230),
			left(repeat(q.id_text || '; ', 10), 150)
		FROM generate_series(1, $n) g
			JOIN (SELECT max(count) AS count FROM pool) c ON true
			JOIN pool p ON p.n = g % c.count
			JOIN pool q ON q.n = (g * 7::bigint + 3) % c.count
			JOIN pool r ON r.n = (g * 13::bigint + 5) % c.count
		ORDER BY g;
		ALTER TABLE $table ADD PRIMARY KEY (id);});
	settle_table($node, $table);
	return;
}

# Everything written and known to the planner; the next write begins behind a checkpoint.
sub settle_table
{
	my ($node, @tables) = @_;

	$node->safe_psql('postgres', "VACUUM (ANALYZE) $_") foreach @tables;
	$node->safe_psql('postgres', 'CHECKPOINT');
	return;
}

# How long a function takes, in seconds.
sub seconds
{
	my ($function) = @_;
	my $start = time;

	$function->();
	return time - $start;
}

# Bytes of WAL that were ever written.
sub wal_bytes
{
	my ($node) = @_;
	return $node->safe_psql('postgres', "SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn");
}

sub worker_pid
{
	my ($node) = @_;
	return $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type LIKE 'dess_batch worker%'");
}

# How long a process has had a processor, to the nanosecond; undef if it is gone.
sub processor_seconds
{
	my ($pid) = @_;

	open(my $file, '<', "/proc/$pid/schedstat") or return undef;
	my ($nanoseconds) = split ' ', <$file> // '';
	close $file;
	return defined $nanoseconds ? $nanoseconds / 1e9 : undef;
}

# Looks every 5 ms at what a process has in memory of its own (RssAnon) and of
# files (RssFile: programs and libraries); shared buffers are not counted.
sub watch_memory
{
	my ($pid) = @_;
	my ($ours, $theirs);

	socketpair($ours, $theirs, AF_UNIX, SOCK_STREAM, PF_UNSPEC) or croak "socketpair: $!";
	my $child = fork // croak "fork: $!";
	if ($child == 0)
	{
		close $ours;
		_watch($pid, $theirs);
		POSIX::_exit(0);
	}
	close $theirs;
	return $ours;
}

# The most that was seen since the last call, in bytes.
sub peak_memory
{
	my ($watch) = @_;

	syswrite($watch, "?") or croak "could not ask for memory: $!";
	sysread($watch, my $answer, 64) or croak "nobody watches the memory";
	return 1024 * $answer;
}

sub _watch
{
	my ($pid, $socket) = @_;
	my $select = IO::Select->new($socket);
	my $peak = 0;

	for (;;)
	{
		if (open(my $status, '<', "/proc/$pid/status"))
		{
			my $sum = 0;
			/^Rss(?:Anon|File):\s*(\d+)/ and $sum += $1 while <$status>;
			close $status;
			$peak = $sum if $sum > $peak;
		}
		next unless $select->can_read(0.005);
		sysread($socket, my $question, 1) or last;
		syswrite($socket, "$peak\n");
		$peak = 0;
	}
	return;
}

sub median
{
	my @sorted = sort { $a <=> $b } @_;
	return $sorted[ @sorted / 2 ];
}

# Keeps the result of this benchmark.  title; how: a sentence or more on what
# was measured; rows: references to hashes with work, ours, other (texts with
# their units), ratio (text) and goal, met (of a goal); plots: references to
# hashes with file (of the plot, without .svg), title, unit, and either bars
# ([label, value, kind], kind "ours" or "other"), limit (a goal's value) and
# limit_word ("at most" unless told), or
# lines ({label, kind, points => [[x, y], ...]}) and x_unit.
sub bench_result
{
	my (%result) = @_;
	my $name = basename($0, '.pl');
	my $json = JSON::PP->new->utf8->canonical->pretty;

	$result{date} = strftime('%Y-%m-%d %H:%M UTC', gmtime);
	$result{command} = $ENV{BENCH_COMMAND};
	$result{commit} = $ENV{BENCH_COMMIT};
	$result{machine} = _machine();
	mkdir "$here/results";
	open(my $file, '>', "$here/results/$name.json") or croak "results/$name.json: $!";
	print $file $json->encode(\%result);
	close $file or croak "results/$name.json: $!";
	foreach my $row (@{ $result{rows} })
	{
		bench_say('%s: %s, %s: %s %s', $row->{work}, $row->{ours}, $row->{other} // '',
			$row->{ratio} // '',
			!defined $row->{goal} ? '' : "(goal $row->{goal}: " . ($row->{met} ? 'met' : 'MISSED') . ')');
	}
	return;
}

sub _slurp
{
	my ($path) = @_;
	local $/;
	open(my $file, '<', $path) or return '';
	return <$file>;
}

sub _machine
{
	my $cpuinfo = _slurp('/proc/cpuinfo');
	my $cores = () = $cpuinfo =~ /^processor\s*:/mg;
	my ($model) = $cpuinfo =~ /^model name\s*:\s*(.*)$/m;
	my ($memory) = _slurp('/proc/meminfo') =~ /^MemTotal:\s*(\d+)/m;
	my ($load) = split ' ', _slurp('/proc/loadavg');
	my ($version) = `pg_config --version` =~ /([\d.]+)/;

	return sprintf('%d cores (%s), %d GB, PostgreSQL %s; load %s at the end',
		$cores, $model // 'unknown', ($memory // 0) / 1048576 + 0.5, $version // '?', $load // '?');
}

1;
