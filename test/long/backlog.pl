# Many jobs of ten rows on two tables, while a large one asks the same server:
# how many end in a second when fifty wait, and when five hundred do.

use strict;
use warnings;

use DessBatch;
use Test::More;
use Time::HiRes qw(time);

my $big_rows = 100_000;
my $simulator = start_simulator();
my $node = start_node('backlog');
my $made = 0;

create_server($node, $simulator, options => { max_concurrency => 16 });
foreach my $table (qw(small0 small1 big))
{
	$node->safe_psql('postgres', qq{
		CREATE TABLE $table (id integer PRIMARY KEY, body text NOT NULL, answer text);
		INSERT INTO $table SELECT i, '$table ' || i FROM generate_series(1, $big_rows) i;
		ANALYZE $table;});
}
my $big = submit_job($node, q{'big', 'gpt-4o-mini', '{body}', 'answer', server => 'openai', mode => 'online'});

# Jobs that end in a second, of so many that are submitted at once.
sub jobs_a_second
{
	my ($n) = @_;
	my $start;

	$node->safe_psql('postgres', join "\n", map {
		my $i = $made++;
		my $first = 10 * int($i / 2) + 1;
		my $last = $first + 9;
		my $table = 'small' . $i % 2;
		"SELECT dess_batch_submit('$table', 'gpt-4o-mini', prompt => '{body}', target => 'answer', server => 'openai', "
		  . "mode => 'online', label => 'small', where_sql => 'id BETWEEN $first AND $last');"
	} 1 .. $n);
	$start = time;
	$node->poll_query_until('postgres', q{SELECT bool_and(state = 'done') FROM dess_batch_jobs WHERE label = 'small'})
	  or die "the jobs did not end";
	return $n / (time - $start);
}

my $few = jobs_a_second(50);
my $many = jobs_a_second(500);
note(sprintf('%.1f jobs a second of 50, %.1f of 500', $few, $many));
cmp_ok($many, '>', $few / 4, 'many jobs that wait do not make one another slow');
is($node->safe_psql('postgres', q{SELECT sum(done) FROM dess_batch_jobs WHERE label = 'small'}), 10 * $made, 'each has its rows');
is($node->safe_psql('postgres', "SELECT state FROM dess_batch_jobs WHERE job_id = $big"), 'running', 'the large one goes on');
cmp_ok($node->safe_psql('postgres', 'SELECT count(answer) FROM big'), '>', 0, 'and has had its part');
done_testing();
