# Whatever holds up one job, another server's and another owner's ten rows do
# not have to wait for it: the difference to an idle worker is less than two
# seconds.
use strict;
use warnings;

use DessBatch;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;

my $simulator = start_simulator(batch_ms => 20, arguments => [ '--key', 'hanging', '--key', 'trickling' ]);
my $node = start_node('fairness');
my $locker = DessBatch::Session->new($node);
my $tables = 0;

sub sql { return $node->safe_psql('postgres', $_[0]); }

create_server($node, $simulator);
create_server($node, $simulator, name => 'quick');
create_server($node, $simulator, name => 'hanging', key => 'hanging');
create_server($node, $simulator, name => 'trickling', key => 'trickling');
create_server($node, $simulator, name => 'refusing', base_url => 'http://127.0.0.1:1/v1');
sql(q{
	CREATE ROLE other LOGIN;
	GRANT USAGE ON FOREIGN SERVER quick TO other;
	CREATE TABLE ten (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO ten SELECT i, 'row ' || i FROM generate_series(1, 10) i;
	ALTER TABLE ten OWNER TO other;
	CREATE FUNCTION sleep_trigger() RETURNS trigger LANGUAGE plpgsql AS $$
	BEGIN
		PERFORM pg_catalog.pg_sleep(TG_ARGV[0]::float8);
		RETURN NEW;
	END $$;
	CREATE FUNCTION slow_filter(id integer) RETURNS boolean LANGUAGE plpgsql STABLE AS $$
	BEGIN
		PERFORM pg_catalog.pg_sleep(0.01);
		RETURN id % 100 = 0;
	END $$;});

# The seconds that ten rows of another owner take on another server.
sub ten_rows
{
	my $prompt = 'number ' . ++$tables . ' {body}';
	my $job = sql(qq{
		SET client_min_messages = warning;
		SET ROLE other;
		SELECT dess_batch_submit('ten', 'gpt-4o-mini', '$prompt', 'answer', overwrite => true, server => 'quick')});
	is(wait_for_job($node, $job), 'done', 'ten rows are done') or return 1000;
	return sql("SELECT extract(epoch FROM finished_at - created_at) FROM dess_batch_jobs WHERE job_id = $job");
}

my @alone = sort { $a <=> $b } map { ten_rows() } 1 .. 3;
my $alone = $alone[1];
note "alone: @alone s";

# Measures beside what is going on.
sub is_not_held_up
{
	my ($what, $times) = @_;
	my @took = map { ten_rows() } 1 .. ($times // 2);
	my $worst = max(@took);

	note "$what: @took s";
	cmp_ok($worst - $alone, '<', 2, sprintf('%s: %.2f s later', $what, $worst - $alone));
	return;
}

# A table of rows with numbers, texts and an empty answer.
sub create_table
{
	my ($name, $rows) = @_;
	sql(qq{
		CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text, answer_2 text);
		INSERT INTO $name (id, body) SELECT i, '$name ' || i FROM generate_series(1, $rows) i;
		ANALYZE $name;});
	return;
}

sub submit
{
	my ($table, %options) = @_;
	my $target = $options{target} // 'answer';
	my $server = $options{server} // 'openai';
	my $more = $options{more} // '';
	return submit_job($node, "'$table', 'gpt-4o-mini', '{body}', '$target', server => '$server'$more");
}

sub cancel
{
	sql("SELECT dess_batch_cancel($_)") foreach @_;
	return;
}

sub until_true
{
	my ($what, $sql) = @_;
	$node->poll_query_until('postgres', $sql) or die "in vain: $what";
	return;
}

subtest 'servers' => sub {
	my @jobs;

	$simulator->post('faults', [
		{ match => { key => 'ging' }, delay_ms => 600000 },
		{ match => { key => 'ling' }, trickle_ms => 1000 } ]);
	foreach my $server (qw(hanging trickling refusing))
	{
		foreach my $mode (qw(batch online))
		{
			create_table("${server}_$mode", 500);
			push @jobs, submit("${server}_$mode", server => $server, more => ", mode => '$mode'");
		}
	}
	wait_until('the servers are called', sub {
		my $fired = $simulator->get('faults');
		return $fired->[0]{fired} > 0 && $fired->[1]{fired} > 0;
	});
	is_not_held_up('servers that hang, trickle and refuse', 3);
	is(sql("SELECT count(*) FROM dess_batch_jobs WHERE job_id IN (" . join(',', @jobs) . ") AND state IN ('done', 'failed')"), 0,
		'they go on meanwhile');
	cancel(@jobs);
	$simulator->post('faults/clear', {});
};

subtest 'a filter that few rows meet' => sub {
	my @jobs;

	create_table('vast', 1000000);
	push @jobs, submit('vast', more => q{, where_sql => 'id % 100000 = 7 AND length(md5(body)) > 3'});
	is_not_held_up('one in 100,000', 2);
	push @jobs, submit('vast', target => 'answer_2', more => q{, where_sql => 'slow_filter(id)'});
	until_true('it looks for rows', "SELECT state <> 'queued' FROM dess_batch_jobs WHERE job_id = $jobs[1]");
	is_not_held_up('a filter of 10 ms a row', 3);
	is(wait_for_job($node, $jobs[0]), 'done', 'the first one comes to its end');
	is(sql("SELECT done FROM dess_batch_jobs WHERE job_id = $jobs[0]"), 10, 'with its ten rows');
	cancel($jobs[1]);
};

subtest 'locks' => sub {
	my @jobs;

	create_table("locked_$_", 1000) foreach 1 .. 4;
	push @jobs, submit("locked_$_", more => ", overwrite => true") foreach 1 .. 3;
	$locker->query('BEGIN');
	$locker->query("SELECT count(*) FROM (SELECT FROM locked_$_ FOR UPDATE) l") foreach 1 .. 3;
	$locker->query('LOCK TABLE locked_3, locked_4');
	push @jobs, submit('locked_1', target => 'answer_2');
	is($locker->errors, '', 'the rows and the tables are locked');
	is_not_held_up('rows and tables that are locked', 3);
	$locker->query('COMMIT');
	is(wait_for_job($node, $_), 'done', 'what waited for the locks goes on') foreach @jobs;
};

subtest 'triggers' => sub {
	my @jobs;

	create_table($_, 600) foreach qw(slow sleepy);
	sql(q{
		CREATE TRIGGER t BEFORE UPDATE ON slow FOR EACH ROW EXECUTE FUNCTION sleep_trigger(0.3);
		CREATE TRIGGER t BEFORE UPDATE ON sleepy FOR EACH ROW EXECUTE FUNCTION sleep_trigger(60);});
	push @jobs, submit('slow');
	until_true('rows are written', 'SELECT count(answer) > 2 FROM slow');
	is_not_held_up('0.3 s a row', 3);
	push @jobs, submit('sleepy');
	until_true('its rows have answers', "SELECT state = 'retrieving' FROM dess_batch_jobs WHERE job_id = $jobs[1]");
	is_not_held_up('a minute a row', 3);
	my $before = sql('SELECT count(answer) FROM slow');
	until_true('the slow table goes on', "SELECT count(answer) > $before FROM slow");
	cancel($jobs[0]);
	sql('DROP TRIGGER t ON slow; DROP TRIGGER t ON sleepy');
	is(wait_for_job($node, $_), 'done', 'without the trigger the job is done') foreach $jobs[1];
};

$node->stop;
$simulator->stop;
done_testing();
