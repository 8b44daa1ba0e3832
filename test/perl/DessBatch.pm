# DessBatch.pm
#		What the TAP tests share: a server with the extension, the provider
#		simulator, and the faculty table.
#
# Everything listens on 127.0.0.1 or on a Unix socket, on ports that are free.
# A simulator ends with the test that started it, however the test ends.

package DessBatch;

use strict;
use warnings;

use Exporter 'import';
use File::Basename qw(basename dirname);
use Cwd qw(abs_path);

use Carp;
use Time::HiRes qw(sleep time);

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;

use DessBatch::Session;
use DessBatch::Simulator;

our @EXPORT = qw(
  source_file
  start_simulator
  start_node
  create_server
  create_faculty
  submit_job
  wait_for_job
  wait_until
  job_figures
  outcomes
);

my $simulators = 0;
my $top = abs_path(dirname(__FILE__) . '/../..');

# The path of a file of the source tree.
sub source_file
{
	my ($path) = @_;
	return "$top/$path";
}

# A running simulator (a DessBatch::Simulator).  Options: key, batch_ms, google
# (write credential files), arguments (a reference to an array of further
# command-line arguments).
sub start_simulator
{
	my (%options) = @_;
	return DessBatch::Simulator->new(
		program => source_file('test/simulator/simulator'),
		directory => PostgreSQL::Test::Utils::tempdir(),
		log => $PostgreSQL::Test::Utils::log_path . '/'
		  . basename($0, '.pl') . '_simulator_' . ++$simulators . '.log',
		%options);
}

# A running server (a PostgreSQL::Test::Cluster).  Options: preload (default 1)
# loads the module at server start, extension (default 1) creates the extension
# in database postgres, conf is appended to postgresql.conf, environment is a
# reference to a hash of variables that the server sees.
sub start_node
{
	my ($name, %options) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init;
	$node->append_conf('postgresql.conf', "timezone = 'UTC'");
	$node->append_conf('postgresql.conf',
		"shared_preload_libraries = 'dess_batch'")
	  if $options{preload} // 1;
	$node->append_conf('postgresql.conf', $options{conf}) if $options{conf};
	{
		local %ENV = (%ENV, %{ $options{environment} // {} });
		$node->start;
	}
	$node->safe_psql('postgres', 'CREATE EXTENSION dess_batch')
	  if $options{extension} // 1;
	return $node;
}

# A foreign server at the simulator, with a user mapping for PUBLIC.  Options:
# name (openai), provider (openai), base_url, key (the simulator's; undef: no
# mapping; for vertex the text of a key file, by default the simulator's service
# account), database (postgres), options (reference to a hash of further server
# options).  Polls every second unless told otherwise.
sub create_server
{
	my ($node, $simulator, %options) = @_;
	my $name = $options{name} // 'openai';
	my $provider = $options{provider} // 'openai';
	my $vertex = $provider eq 'vertex';
	my $key = exists $options{key} ? $options{key}
	  : $vertex ? slurp_file($simulator->credentials('service-account'))
	  : $simulator->key;
	my $mapping = $vertex ? 'service_account_key' : 'api_key';
	my %server = (
		provider => $provider,
		base_url => $options{base_url}
		  // $simulator->url . ($provider eq 'gemini' ? '/v1beta' : '/v1'),
		poll_interval => 1,
		$vertex ? (
			project => 'test-project',
			location => 'us-central1',
			bucket => 'test-bucket',
			storage_url => $simulator->url) : (),
		%{ $options{options} // {} });
	my $sql = qq{CREATE SERVER "$name" FOREIGN DATA WRAPPER dess_batch OPTIONS (}
	  . join(', ', map { "$_ " . _literal($server{$_}) } sort keys %server)
	  . ');';

	$sql .= qq{CREATE USER MAPPING FOR PUBLIC SERVER "$name" OPTIONS ($mapping }
	  . _literal($key) . ');'
	  if defined $key;
	$node->safe_psql($options{database} // 'postgres', $sql);
	return;
}

# Table faculty with the 240 rows of test/data, and an empty department_llm.
sub create_faculty
{
	my ($node, $database) = @_;
	my $file = source_file('test/data/faculty.csv');

	$node->safe_psql(
		$database // 'postgres', qq{
		CREATE TABLE faculty (id integer PRIMARY KEY, id_text text,
			firstname text, lastname text, university text,
			snippet_1 text, snippet_2 text, snippet_3 text, snippet_4 text);
		COPY faculty FROM '$file' WITH (FORMAT csv, HEADER);
		ALTER TABLE faculty ADD COLUMN department_llm text;});
	return;
}

# Submits with the given SQL argument list and returns the job's number.
sub submit_job
{
	my ($node, $arguments, $database) = @_;
	return $node->safe_psql($database // 'postgres',
		"SELECT dess_batch_submit($arguments)");
}

# Waits until the job stands still and returns its state.  Dies, with what the
# views know about the job, when that takes too long.
sub wait_for_job
{
	my ($node, $job, $database) = @_;
	$database //= 'postgres';

	$node->poll_query_until(
		$database, qq{
		SELECT coalesce(bool_and(stands_still), true) FROM dess_batch.figures WHERE job_id = $job})
	  or die "job $job does not come to an end: "
	  . $node->safe_psql($database,
		qq{SELECT row_to_json(j) FROM dess_batch_jobs j WHERE job_id = $job;
		   SELECT row_to_json(b) FROM dess_batch_batches b WHERE job_id = $job;
		   SELECT dess_batch_explain($job);});
	return $node->safe_psql($database,
		"SELECT state FROM dess_batch_jobs WHERE job_id = $job");
}

# Calls a function until it returns true, and returns that; dies with the
# description when that takes too long.
sub wait_until
{
	my ($description, $condition) = @_;
	my $deadline = time + $PostgreSQL::Test::Utils::timeout_default;

	for (;;)
	{
		my $result = $condition->();
		return $result if $result;
		croak "timed out: $description" if time > $deadline;
		sleep 0.02;
	}
}

# "state rows done failed pending" of a job.
sub job_figures
{
	my ($node, $job, $database) = @_;
	return $node->safe_psql($database // 'postgres',
		"SELECT concat_ws(' ', state, rows, done, failed, pending) FROM dess_batch_jobs WHERE job_id = $job");
}

# "ok 3, stale 1" and so on: how the rows of a job ended, in alphabetical order.
sub outcomes
{
	my ($node, $job, $database) = @_;
	return $node->safe_psql(
		$database // 'postgres', qq{
		SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome COLLATE "C")
		FROM (SELECT outcome, count(*) AS n FROM dess_batch_rows WHERE job_id = $job GROUP BY outcome) o});
}

sub _literal
{
	my ($value) = @_;
	$value =~ s/'/''/g;
	return "'$value'";
}

1;
