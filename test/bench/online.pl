# online.pl
#		Online mode: requests per second, answers written.
#
# The server is nginx, the same for all, so that it is no part of what is
# compared.  Ours is timed from the call of submit to the end of the job: rows
# read, requests rendered, sent, answers checked and committed into the table,
# the ledger's rows as well.  What it is compared with alternates with it.

use strict;
use warnings;
use utf8;

use Bench;
use DessBatch;
use List::Util qw(min);
use PostgreSQL::Test::Utils;
use Web;

my $rows = min(bench_rows(), 20_000);
my $few = int($rows / 4);
my $rounds = 3;
my $at_once = 100;
my $node = start_bench_node('online');
my $web = Web->new;
my $tables = 0;

foreach my $server ([ 'fast', $web->url ], [ 'slow', $web->slow_url ])
{
	create_server(
		$node, undef,
		name => $server->[0],
		base_url => $server->[1],
		key => 'test-key',
		options => { max_concurrency => $at_once });
}

sub new_table
{
	my ($n) = @_;
	my $table = 'faculty_' . ++$tables;

	create_big_faculty($node, $table, $n, fillfactor => 80);
	return $table;
}

sub check_table
{
	my ($table, $n) = @_;
	my $written = $node->safe_psql('postgres',
		"SELECT count(*) FROM $table WHERE department_llm = '" . Web::answer() . "'");

	die "$table: $written of $n rows have an answer" unless $written == $n;
	$node->safe_psql('postgres', "DROP TABLE $table; CHECKPOINT");
	return;
}

# Requests per second of a job, and the share of a processor that the worker used.
sub ours
{
	my ($server, $n) = @_;
	my $table = new_table($n);
	my $job;
	my $busy = processor_seconds(worker_pid($node)) // 0;
	my $took = seconds(sub {
		$job = $node->safe_psql('postgres',
			"SELECT dess_batch_submit('$table', 'gpt-5.4-nano', mode => 'online', server => '$server')");
		$node->safe_psql('postgres', "CALL dess_batch_wait($job)");
	});
	$busy = processor_seconds(worker_pid($node)) - $busy;

	my $figures = job_figures($node, $job);
	die "job $job: $figures" unless $figures eq "done $n $n 0 0";
	check_table($table, $n);
	return ($n / $took, $busy / $took);
}

# curl's configuration file: the requests that we send, as the preview shows them.
sub write_curl_config
{
	my ($n) = @_;
	my $table = new_table($n);
	my $path = $node->basedir . '/curl_config';
	my $url = $web->url . '/chat/completions';
	my $bodies = $node->safe_psql('postgres',
		"SELECT request ->> 'body' FROM dess_batch_preview('$table', 'gpt-5.4-nano', mode => 'online', server => 'fast', max_rows => $n)");
	my $count = 0;

	open(my $file, '>', $path) or die "$path: $!";
	foreach my $body (split /\n/, $bodies)
	{
		$body =~ s/([\\"])/\\$1/g;
		print $file "next\n" if $count++ > 0;
		print $file qq{url = "$url"\nheader = "Content-Type: application/json"\nheader = "Authorization: Bearer test-key"\n},
		  qq{data-binary = "$body"\noutput = "/dev/null"\n};
	}
	close $file or die "$path: $!";
	die "$count of $n requests in the preview" unless $count == $n;
	$node->safe_psql('postgres', "DROP TABLE $table");
	return $path;
}

# Requests per second of curl; what it receives goes to /dev/null.
sub curl
{
	my ($config, $n) = @_;
	my $took = seconds(sub {
		system('curl', '-q', '--silent', '--fail', '--parallel', '--parallel-max', $at_once, '--config', $config) == 0
		  or die "curl ended with $?";
	});

	return $n / $took;
}

# Requests per second of the official client, each answer an UPDATE of its own.
sub client
{
	my ($n) = @_;
	my $table = new_table($n);
	my $written;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = 'postgres';
	local $ENV{PGUSER} = getpwuid($<);
	my $took = seconds(sub {
		$written = run_program('node', source_file('test/npm/online_client.mjs'), $web->url, $table, $at_once);
	});

	die "the client wrote $written of $n rows" unless $written == $n;
	check_table($table, $n);
	return $n / $took;
}

sub run_program
{
	my (@command) = @_;

	open(my $output, '-|', @command) or die "$command[0]: $!";
	chomp(my $text = do { local $/; <$output> } // '');
	close $output or die "$command[0] ended with $?";
	return $text;
}

sub goal
{
	my ($value, $limit) = @_;
	return (ratio => sprintf('%.2f', $value), goal => "at least $limit", met => $value >= $limit ? 1 : 0);
}

# the worker starts, and learns what the servers take
ours('fast', 1000);
ours('slow', 1000);
my $template = new_table(1);
$node->safe_psql('postgres', qq{
	CREATE TABLE prompt AS SELECT request #>> '{body,messages,0,content}' AS words
	FROM dess_batch_preview('$template', 'gpt-5.4-nano', mode => 'online', server => 'fast', max_rows => 1)});
my $config = write_curl_config($rows);
my (@ours, @busy, @curl, @client, @slow, @slow_busy);

foreach my $round (1 .. $rounds)
{
	my ($rate, $share);

	push @curl, curl($config, $rows);
	($rate, $share) = ours('fast', $rows);
	push @ours, $rate;
	push @busy, $share;
	push @client, client($few);
	($rate, $share) = ours('slow', $rows);
	push @slow, $rate;
	push @slow_busy, $share;
	bench_say('round %d: ours %.0f/s, curl %.0f/s, client %.0f/s; with delay %.0f/s', $round, $ours[-1], $curl[-1],
		$client[-1], $slow[-1]);
}
my ($ours, $curl, $client, $slow) = (median(@ours), median(@curl), median(@client), median(@slow));
my $ideal = $at_once / Web::delay();

bench_result(
	title => 'single requests, answers written',
	how => sprintf('%d rows (the client: %d) of about 1 kB, requests of 2.4 kB, %d at once, HTTP/1.1 on loopback; nginx answers at once, or after %.0f ms. '
		  . 'Ours: from submit to the end of the job, with rows, requests, answers and ledger committed, fsync on. '
		  . '`curl` 7.88 has its requests in a file and writes to /dev/null. The client updates one row a transaction, over ten connections. '
		  . 'Medians of %d rounds in turn: ours %s, curl %s, client %s, with delay %s. Our worker used %.0f %% of a processor, %.0f %% with the delay.',
		$rows, $few, $at_once, 1000 * Web::delay(), $rounds,
		(map { my $list = $_; join(' ', map { sprintf('%.0f', $_) } @$list) } \@ours, \@curl, \@client, \@slow),
		100 * median(@busy), 100 * median(@slow_busy)),
	rows => [
		{
			work => 'online, server on loopback with no delay',
			ours => sprintf('%.0f/s', $ours),
			other => sprintf('`curl --parallel --parallel-max %d`: %.0f/s', $at_once, $curl),
			goal($ours / $curl, 0.7)
		},
		{
			work => sprintf('online, server with %.0f ms delay', 1000 * Web::delay()),
			ours => sprintf('%.0f/s', $slow),
			other => sprintf('the ideal: %.0f/s', $ideal),
			goal($slow / $ideal, 0.95)
		},
		{
			work => 'online, server on loopback with no delay',
			ours => sprintf('%.0f/s', $ours),
			other => sprintf('npm clients `openai` and `pg`: %.0f/s', $client),
			goal($ours / $client, 4)
		}
	],
	plots => [
		{
			file => 'online',
			title => 'Online: requests per second, server without delay',
			unit => '/s',
			bars => [
				[ 'dess_batch, answers written', $ours, 'ours' ],
				[ 'curl --parallel, thrown away', $curl, 'other' ],
				[ 'openai and pg (npm)', $client, 'other' ]
			],
			limit => 0.7 * $curl,
			limit_word => 'at least'
		},
		{
			file => 'online_delay',
			title => "Online: requests per second, server with 50 ms delay, $at_once at once",
			unit => '/s',
			bars => [ [ 'dess_batch, answers written', $slow, 'ours' ], [ 'ideal', $ideal, 'other' ] ],
			limit => 0.95 * $ideal,
			limit_word => 'at least'
		}
	]);
