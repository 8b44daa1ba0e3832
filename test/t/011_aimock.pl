# A job in each mode against an OpenAI server that others have written
# (@copilotkit/aimock).  Needs node and test/npm/node_modules.

use strict;
use warnings;

use DessBatch;
use IPC::Run ();
use JSON::PP;
use HTTP::Tiny;
use PostgreSQL::Test::Utils;
use Test::More;

my ($in, $out, $err) = ('', '', '');
my $server = IPC::Run::start(
	[ 'node', source_file('test/npm/aimock_server.mjs'), '--parent', $$ ],
	'<', \$in, '>', \$out, '2>', \$err);
my $url = wait_until(
	'the address of aimock',
	sub {
		$server->pump_nb;
		return $1 if $out =~ m{listening on (http://127\.0\.0\.1:\d+)};
		die "aimock does not start: $out$err" unless $server->pumpable;
		return;
	});
my $node = start_node('aimock');

sub sql { return $node->safe_psql('postgres', $_[0]); }

sub get
{
	my ($path) = @_;
	my $reply = HTTP::Tiny->new->get("$url$path", { headers => { Authorization => 'Bearer k' } });
	return decode_json($reply->{content});
}

create_server($node, undef, base_url => "$url/v1", key => 'k');
create_faculty($node);
sql(q{
	ALTER TABLE faculty ADD COLUMN word text;
	CREATE TABLE small (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO small SELECT n, 'row ' || n FROM generate_series(1, 7) n});

subtest 'online' => sub {
	my $job = submit_job($node, "'faculty', 'gpt-4o-mini', mode => 'online'");
	is(wait_for_job($node, $job), 'done', 'the job ends');
	is(outcomes($node, $job), 'empty 24, ok 216', 'every row is answered');
	is(sql('SELECT DISTINCT department_llm FROM faculty WHERE department_llm IS NOT NULL'), 'History', 'with the answer');
	is(sql("SELECT input_tokens > 0 AND output_tokens > 0 FROM dess_batch_jobs WHERE job_id = $job"), 't', 'which has been counted');
};

subtest 'batch' => sub {
	my $job = submit_job($node, q{'faculty', 'gpt-4o-mini', prompt => 'Which word? {snippet_1}', target => 'word', where_sql => 'id <= 100'});
	is(wait_for_job($node, $job), 'done', 'the job ends');
	is(outcomes($node, $job) =~ s/empty \d+, //r, 'ok ' . sql('SELECT count(word) FROM faculty'), 'every row is answered');
	is(sql('SELECT DISTINCT word FROM faculty WHERE word IS NOT NULL'), 'Mock batch completion', 'with the answer');
	is(sql("SELECT DISTINCT remote_state FROM dess_batch_batches WHERE job_id = $job"), 'completed', 'by a batch');
	is(sql("SELECT sum(unmatched) + sum(duplicates) FROM dess_batch.batch WHERE job_id = $job"), 0, 'without a stray line');
	is(sql("SELECT input_tokens = requests AND output_tokens = requests FROM dess_batch_jobs WHERE job_id = $job"), 't', 'counted as it says');
	ok($node->poll_query_until('postgres', "SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job"),
		'its files are removed');
	is(scalar @{ get('/v1/files')->{data} // [] }, 0, 'indeed');
};

subtest 'in two batches, stage by stage' => sub {
	sql("ALTER SERVER openai OPTIONS (ADD max_batch_requests '4')");
	my $job = sql(q{SELECT dess_batch_prepare('small', 'gpt-4o-mini', prompt => '{body}', target => 'answer')});
	is(wait_for_job($node, $job), 'prepared', 'prepared');
	sql("SELECT dess_batch_upload($job)");
	is(wait_for_job($node, $job), 'uploaded', 'uploaded');
	sql("SELECT dess_batch_create($job)");
	is(wait_for_job($node, $job), 'running', 'running');
	is(sql("SELECT count(DISTINCT remote_id) FROM dess_batch_batches WHERE job_id = $job"), 2, 'two batches');
	sql("SELECT dess_batch_retrieve($job)");
	is(wait_for_job($node, $job), 'done', 'done');
	is(sql('SELECT count(*) FROM small WHERE answer IS NOT NULL'), 7, 'every row is answered');
};

subtest 'cancelled' => sub {
	sql('UPDATE small SET answer = NULL');
	my $job = sql(q{SELECT dess_batch_prepare('small', 'gpt-4o-mini', prompt => '{body} again', target => 'answer')});
	foreach my $call ('upload', 'create')
	{
		wait_for_job($node, $job);
		sql("SELECT dess_batch_$call($job)");
	}
	is(wait_for_job($node, $job), 'running', 'while it runs');
	sql("SELECT dess_batch_cancel($job)");
	is(wait_for_job($node, $job), 'cancelled', 'the job ends');
	is(job_figures($node, $job), 'cancelled 7 0 7 0', 'with an outcome for each row');
	ok($node->poll_query_until('postgres', "SELECT bool_and(remote_deleted_at IS NOT NULL) FROM dess_batch_batches WHERE job_id = $job"),
		'its files are removed');
};

$node->stop;
$server->signal('TERM');
$server->finish;
done_testing();
