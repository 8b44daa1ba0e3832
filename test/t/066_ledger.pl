# The ledger among what administrators do with a database: it is published with
# all tables, dropped and made anew beside a worker, or damaged.

use strict;
use warnings;

use DessBatch;
use Test::More;

my $simulator = start_simulator(batch_ms => 50);
my $node = start_node('ledger');
my $plain = start_node('plain', preload => 0);

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub table
{
	my ($on, $name, $rows) = @_;

	return $on->safe_psql('postgres', "CREATE TABLE $name (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $name SELECT n, '$name ' || n FROM generate_series(1, $rows) n");
}

sub submit
{
	my ($on, $table, $more) = @_;

	return submit_job($on, "'$table', 'gpt-4o-mini', prompt => '{body}', target => 'answer'" . ($more ? ", $more" : ''));
}

sub unanswered { return $_[0]->safe_psql('postgres', "SELECT count(*) FROM $_[1] WHERE answer IS DISTINCT FROM body"); }

create_server($_, $simulator) foreach $node, $plain;

subtest 'a publication of all tables' => sub {
	is(sql(q{SELECT string_agg(c.oid::regclass::text, ' ') FROM pg_class c
		WHERE c.relnamespace = 'dess_batch'::regnamespace AND c.relkind = 'r' AND c.relreplident <> 'f'
		AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisprimary)}), '', 'every table of the ledger has a key');
	sql('CREATE PUBLICATION everything FOR ALL TABLES');
	table($node, 'published', 20);
	is(wait_for_job($node, submit($node, 'published')), 'done', 'a job ends');
	is(unanswered($node, 'published'), 0, 'with answers');
	sql(q{CREATE TRIGGER ask AFTER INSERT ON published FOR EACH STATEMENT EXECUTE FUNCTION
			dess_batch_trigger('gpt-4o-mini', 'prompt={body}', 'target=answer');
		INSERT INTO published VALUES (21, 'published 21')});
	ok($node->poll_query_until('postgres', 'SELECT count(*) = 0 FROM published WHERE answer IS DISTINCT FROM body'), 'a trigger is heard');
	sql('DROP PUBLICATION everything; DROP TRIGGER ask ON published');
};

# A worker that has jobs of the old ledger in memory must not take the new one's for them.
foreach my $on ($node, $plain)
{
	subtest 'the extension is dropped and made anew, ' . $on->name => sub {
		table($on, 'former', 40);
		table($on, 'latter', 30);
		$simulator->post('settings', { run_ms => 600000 });
		my $former = submit($on, 'former');
		$on->poll_query_until('postgres', "SELECT state = 'running' FROM dess_batch_jobs WHERE job_id = $former") or die 'no batch runs';
		$on->safe_psql('postgres', q{BEGIN; DROP EXTENSION dess_batch CASCADE; CREATE EXTENSION dess_batch; COMMIT});
		create_server($on, $simulator);
		$on->safe_psql('postgres', "SELECT setval('dess_batch.job_id_seq', $former, false)");
		$simulator->post('settings', { run_ms => 50 });
		my $latter = submit($on, 'latter');
		is($latter, $former, 'a job of the new ledger has the number of one of the old');
		is(wait_for_job($on, $latter), 'done', 'it ends');
		is(unanswered($on, 'latter'), 0, 'its rows are answered');
		is($on->safe_psql('postgres', 'SELECT count(answer) FROM former'), 0, 'and nobody else\'s are');
		is(job_figures($on, $latter), 'done 30 30 0 0', 'it counts its rows');
		$on->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'})
		  or die 'not one worker';
		pass('one worker is left');
	};
}

subtest 'a worker that fails at its start' => sub {
	table($node, 'unheard', 3);
	sql('ALTER TABLE dess_batch.ledger RENAME TO mislaid');
	sql(q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
	my $job = submit($node, 'unheard');
	my $words = qr/relation "dess_batch\.ledger" does not exist/;
	wait_until('explain says why no worker runs', sub {
		return sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($job) e") =~ $words });
	my ($step) = grep { /^worker/ } split /\n/, sql(q{SELECT * FROM dess_batch_check('openai')});
	like($step, qr/^worker\|f\|.*$words/, 'and so does check');
	sql('ALTER TABLE dess_batch.mislaid RENAME TO ledger');
	sql('SELECT dess_batch_start()');
	is(wait_for_job($node, $job), 'done', 'the job goes on when that is mended');
	unlike(sql("SELECT coalesce(string_agg(e, ' '), '') FROM dess_batch_explain($job) e"), $words, 'and explain says no more of it');
	unlike(sql(q{SELECT string_agg(step, ' ') FROM dess_batch_check('openai')}), qr/worker/, 'nor does check');
};

subtest 'a job whose owner or table is gone' => sub {
	sql(q{CREATE ROLE regress_leaver; GRANT USAGE ON FOREIGN SERVER openai TO regress_leaver});
	table($node, $_, 3), sql("ALTER TABLE $_ OWNER TO regress_leaver") foreach qw(orphan ghost);
	$simulator->post('faults', [ { match => { prompt => 'o' }, row => { outcome => 'http_error', status => 400, message => 'no' } } ]);
	my @jobs = map { sql("SET ROLE regress_leaver; SELECT dess_batch_submit('$_', 'gpt-4o-mini', prompt => '{body}', target => 'answer')") } qw(orphan ghost);
	is(wait_for_job($node, $_), 'done', 'it is done') foreach @jobs;
	sql('DROP TABLE ghost; REASSIGN OWNED BY regress_leaver TO CURRENT_USER; DROP OWNED BY regress_leaver; DROP ROLE regress_leaver');
	my ($status, $out, $err) = $node->psql('postgres', "SELECT dess_batch_retry($jobs[0])");
	like($err, qr/role "regress_leaver" of job $jobs[0] does not exist.*HINT:  Submit the job anew; dess_batch_erase\($jobs[0]\)/s, 'retry does not promise what the owner cannot do');
	($status, $out, $err) = $node->psql('postgres', "SELECT dess_batch_retry($jobs[1])");
	like($err, qr/relation "(public\.)?ghost" of job $jobs[1] does not exist.*HINT:  Submit the job anew; dess_batch_erase\($jobs[1]\)/s, 'nor what the table cannot hold');
	$simulator->post('faults', []);
};

$_->stop foreach $node, $plain;
done_testing();
