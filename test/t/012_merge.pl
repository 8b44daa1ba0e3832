# What becomes of a row while its request is away, and which rows are bought
# again: nothing newer is overwritten, nothing is paid for twice.

use strict;
use warnings;

use DessBatch;
use Test::More;

my $simulator = start_simulator(batch_ms => 20);
my $node = start_node('merge');
create_server($node, $simulator);

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Makes a table of rows (1, text) ... with an empty column "answer".
sub table
{
	my ($name, @texts) = @_;
	my $i = 0;

	sql("CREATE TABLE $name (id integer PRIMARY KEY, body text, other integer, answer text);"
		  . join('', map { "INSERT INTO $name VALUES (" . ++$i . ", '$_');" } @texts));
	return;
}

# Arguments of submit for that table: the model repeats the column "body".
sub arguments
{
	my ($name, $more) = @_;
	return "'$name', 'gpt-4o-mini', prompt => '{body}', target => 'answer'" . ($more ? ", $more" : '');
}

# Submits in online mode and waits for the end.
sub run
{
	my ($name, $more) = @_;
	my $job = submit_job($node, arguments($name, "mode => 'online'" . ($more ? ", $more" : '')));

	is(wait_for_job($node, $job), 'done', "job $job on $name ends");
	return $job;
}

sub each_row
{
	my ($job, $what) = @_;
	return sql("SELECT string_agg(concat_ws(' ', row_key ->> 'id', " . ($what // 'outcome')
		  . "), ', ' ORDER BY (row_key ->> 'id')::integer) FROM dess_batch_rows WHERE job_id = $job");
}

sub answers
{
	my ($name) = @_;
	return sql("SELECT string_agg(id || ' ' || coalesce(answer, '-'), ', ' ORDER BY id) FROM $name");
}

sub served { return $simulator->get('stats')->{rows_served}; }

# Goes to the end of a stage.
sub stage
{
	my ($call, $job, $state) = @_;
	sql("SELECT dess_batch_$call($job)") if $call;
	return is(wait_for_job($node, $job), $state, "all batches are $state");
}

subtest 'rows that change while they are away' => sub {
	table('away', map { "text $_" } 1 .. 9);
	my $job = sql('SELECT dess_batch_prepare(' . arguments('away') . ')');
	stage(undef, $job, 'prepared');
	is(served(), 0, 'nothing is sent');
	sql('UPDATE away SET body = $$text 9, changed$$ WHERE id = 9');
	stage('upload', $job, 'uploaded');
	is($simulator->get('stats')->{batches_created}, 0, 'nothing is created');
	stage('create', $job, 'running');
	is(answers('away'), '1 -, 2 -, 3 -, 4 -, 5 -, 6 -, 7 -, 8 -, 9 -', 'nothing is written');

	sql(q{
		UPDATE away SET answer = 'by hand' WHERE id = 1;
		UPDATE away SET body = 'another text' WHERE id = 2;
		DELETE FROM away WHERE id = 3;
		UPDATE away SET other = 1 WHERE id = 4;
		UPDATE away SET body = body || '' WHERE id = 5;
		UPDATE away SET answer = 'for a moment' WHERE id = 6;
		UPDATE away SET answer = NULL WHERE id = 6;
		UPDATE away SET id = 107 WHERE id = 7;});
	my $holder = DessBatch::Session->new($node);
	$holder->query('BEGIN; SELECT FROM away WHERE id = 8 FOR UPDATE');
	sql("SELECT dess_batch_retrieve($job)");
	ok($node->poll_query_until('postgres', "SELECT done + failed = 8 FROM dess_batch_jobs WHERE job_id = $job"),
		'a locked row holds up no other');
	is(sql("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'dess_batch' AND xact_start < now() - interval '3 s'"),
		0, 'and no transaction waits for it');
	$holder->query('COMMIT');
	$holder->close;
	is(wait_for_job($node, $job), 'done', 'and is written when it is free');
	is(each_row($job), '1 stale, 2 stale, 3 gone, 4 ok, 5 ok, 6 ok, 7 gone, 8 ok, 9 stale', 'outcomes');
	is(answers('away'), '1 by hand, 2 -, 4 text 4, 5 text 5, 6 text 6, 8 text 8, 9 -, 107 -', 'nothing newer is overwritten');
	is(job_figures($node, $job), 'done 9 4 5 0', 'figures');

	$job = run('away');
	is(each_row($job), '2 ok, 9 ok, 107 ok', 'what was stale is taken again, and a new key is a new row');
	is(answers('away'), '1 by hand, 2 another text, 4 text 4, 5 text 5, 6 text 6, 8 text 8, 9 text 9, changed, 107 text 7', 'answers');
};

subtest 'a row that is locked until after the worker has died' => sub {
	table('locked', 'text 1', 'text 2');
	my $holder = DessBatch::Session->new($node);
	$holder->query('BEGIN; SELECT FROM locked WHERE id = 2 FOR UPDATE');
	my $before = served();
	my $job = submit_job($node, arguments('locked'));
	ok($node->poll_query_until('postgres', "SELECT done = 1 FROM dess_batch_jobs WHERE job_id = $job"), 'one row is written');
	my $worker = sql("SELECT pid FROM pg_stat_activity WHERE application_name = 'dess_batch'");
	is(sql("SELECT pg_terminate_backend($worker)"), 't', 'the worker is ended');
	ok($node->poll_query_until('postgres',
		"SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = $worker"), 'and is gone');
	sql('SELECT dess_batch_start()');
	$holder->query('COMMIT');
	$holder->close;
	is(wait_for_job($node, $job), 'done', 'the next one goes on');
	is(each_row($job), '1 ok, 2 ok', 'both rows are written');
	is(served() - $before, 2, 'and paid once');
};

subtest 'overwrite' => sub {
	table('again', map { "text $_" } 1 .. 5);
	sql("UPDATE again SET answer = 'old ' || id WHERE id < 5");
	is(each_row(run('again')), '5 ok', 'without it only empty targets are taken');
	$simulator->post('faults', { match => { prompt => 'text 3' }, row => { outcome => 'http_error', status => 400 } });
	$simulator->post('answers', [ { contains => 'text 4', answer => 'MISSING' } ]);
	my $job = sql('SELECT dess_batch_prepare(' . arguments('again', 'overwrite => true') . ')');
	stage(undef, $job, 'prepared');
	isnt($node->psql('postgres', "SELECT dess_batch_retrieve($job)"), 0, 'no stage can be left out');
	sql("UPDATE again SET answer = 'by hand' WHERE id = 1");
	stage('upload', $job, 'uploaded');
	stage('create', $job, 'running');
	stage('retrieve', $job, 'done');
	is(each_row($job), '1 stale, 2 ok, 3 rejected, 4 missing, 5 ok', 'with it all rows are sent');
	is(answers('again'), '1 by hand, 2 text 2, 3 old 3, 4 MISSING, 5 text 5', 'and written where that ends well');
	$simulator->post('faults/clear');
	$simulator->post('answers/clear');
};

subtest 'nothing found' => sub {
	table('found', 'missing', 'something', 'nowhere', ' Missing ');
	my $job = run('found');
	is(each_row($job), '1 missing, 2 ok, 3 ok, 4 missing', 'the word is known, case aside');
	is(answers('found'), '1 MISSING, 2 something, 3 nowhere, 4 MISSING', 'and written');
	sql('UPDATE found SET answer = NULL');
	is(each_row(run('found', "missing => 'Nowhere'")), '1 ok, 2 ok, 3 missing, 4 ok', 'another word');
	is(answers('found'), '1 missing, 2 something, 3 Nowhere, 4 Missing', 'is written as it was given');
	sql('UPDATE found SET answer = NULL');
	is(each_row(run('found', 'missing => NULL')), '1 ok, 2 ok, 3 ok, 4 ok', 'without a word there is none');
	$simulator->post('answers', [ { contains => 'something', answer => '' } ]);
	sql('UPDATE found SET answer = NULL');
	$job = run('found', 'missing => NULL');
	is(each_row($job), '1 ok, 2 missing, 3 ok, 4 ok', 'but an empty answer');
	is(sql('SELECT answer IS NULL FROM found WHERE id = 2'), 't', 'which leaves the NULL');
	is(each_row(run('found', 'missing => NULL')), '', 'and is not bought again');
	sql("UPDATE found SET body = 'something else' WHERE id = 2");
	is(each_row(run('found', 'missing => NULL')), '2 missing', 'unless the text changes');
	$simulator->post('answers/clear');
};

subtest 'what is settled' => sub {
	table('settled', map { "text $_" } 1 .. 5);
	sql("INSERT INTO settled VALUES (6, NULL), (7, '  '), (8, 'fine')");
	$simulator->post('faults',
		[ { match => { prompt => 'text 1' }, answer => { content => undef, refusal => 'no' } },
			{ match => { prompt => 'text 2' }, answer => { content => 'cut', finish_reason => 'length' } },
			{ match => { prompt => 'text 3' }, status => 400 } ]);
	$simulator->post('answers', [ { contains => 'text 4', answer => '' } ]);
	my $job = run('settled', 'missing => NULL, target_columns => NULL');
	is(each_row($job), '1 refused, 2 truncated, 3 rejected, 4 missing, 5 ok, 6 empty, 7 empty, 8 ok', 'outcomes');
	is(answers('settled'), '1 -, 2 -, 3 -, 4 -, 5 text 5, 6 -, 7 -, 8 fine', 'nothing but answers is written');
	my $before = served();
	is(each_row(run('settled', 'missing => NULL')), '', 'none of them is bought again');
	is(served(), $before, 'indeed');
	is(each_row(run('settled', "missing => NULL, parameters => '{\"max_output_tokens\": 50}'")),
		'1 refused, 2 truncated, 3 rejected, 4 missing, 6 empty, 7 empty', 'another request is another matter');
	is(each_row(run('settled', "missing => NULL, \"outcomes\" => ARRAY['rejected', 'truncated']")),
		'2 truncated, 3 rejected', 'those that are named are');
	sql('UPDATE settled SET answer = NULL WHERE id = 8');
	is(each_row(run('settled', 'missing => NULL')), '8 ok', 'and one whose answer was cleared');
	$simulator->post('faults/clear');
	$simulator->post('answers/clear');
	is(each_row(run('settled', 'missing => NULL, overwrite => true')),
		'1 ok, 2 ok, 3 ok, 4 ok, 5 ok, 6 empty, 7 empty, 8 ok', 'overwrite takes all');
	is(sql('SELECT dess_batch_purge($$0 s$$) > 5'), 't', 'the jobs are forgotten');
	sql('UPDATE settled SET answer = NULL, body = NULL');
	is(each_row(run('settled')), '1 empty, 2 empty, 3 empty, 4 empty, 5 empty, 7 empty, 8 empty', 'empty ones');
	sql('SELECT dess_batch_purge($$0 s$$)');
	is(each_row(run('settled')), '', 'stay settled without a job');
};

subtest 'which rows' => sub {
	table('which', map { "text $_" } 1 .. 20);
	is(each_row(run('which', "where_sql => 'id % 7 = 0'")), '7 ok, 14 ok', 'where_sql');
	is(each_row(run('which', 'max_rows => 3')), '1 ok, 2 ok, 3 ok', 'max_rows');
	my $first = sql('SELECT string_agg(row_key::text, $$ $$ ORDER BY row_key::text) FROM dess_batch_preview('
		  . arguments('which', 'sample => true, max_rows => 4') . ')');
	my $job = run('which', 'sample => true, max_rows => 4');
	is(sql("SELECT string_agg(row_key::text, ' ' ORDER BY row_key::text) FROM dess_batch_rows WHERE job_id = $job"),
		$first, 'sample takes the same rows on every call');
	isnt(each_row($job), '4 ok, 5 ok, 6 ok, 8 ok', 'which are not the first');
	run('which');
	sql("UPDATE which SET body = 'text 5 changed' WHERE id = 5; UPDATE which SET other = 7 WHERE id = 6");
	is(each_row(run('which', "\"outcomes\" => ARRAY['changed']")), '', 'only changed takes none that has an answer');
	is(each_row(run('which', "\"outcomes\" => ARRAY['changed'], overwrite => true")), '5 ok', 'but with overwrite');
	is(sql('SELECT answer FROM which WHERE id = 5'), 'text 5 changed', 'which is written');
	is(each_row(run('which', "\"outcomes\" => ARRAY['changed'], overwrite => true")), '', 'once');
};

subtest 'equal requests' => sub {
	table('equal', ('same') x 5, 'other', ('same') x 3);
	foreach my $mode ('online', 'batch')
	{
		my $before = served();
		my $job = submit_job($node, arguments('equal', "mode => '$mode', overwrite => true"));
		is(wait_for_job($node, $job), 'done', $mode);
		is(served() - $before, 2, 'are sent once');
		is(each_row($job), join(', ', map { "$_ ok" } 1 .. 9), 'and answered for all their rows');
		is(sql("SELECT count(*) FILTER (WHERE input_tokens > 0), count(*) FILTER (WHERE input_tokens = 0) FROM dess_batch_rows WHERE job_id = $job"),
			'2|7', 'tokens stand on one of them');
		is(sql("SELECT requests FROM dess_batch_jobs WHERE job_id = $job"), 2, 'requests');
	}
	is(answers('equal'), '1 same, 2 same, 3 same, 4 same, 5 same, 6 other, 7 same, 8 same, 9 same', 'answers');
};

subtest 'what is kept of answers' => sub {
	table('kept', 'written', 'too long for it');
	sql("ALTER TABLE kept ALTER answer TYPE varchar(8)");
	foreach my $case (
		[ 'none', '1 -, 2 -', 'f' ], [ 'unwritten', '1 -, 2 too long for it', 'f' ],
		[ 'answer', '1 written, 2 too long for it', 'f' ], [ 'reply', '1 written, 2 too long for it', 't' ])
	{
		my ($keep, $kept, $reply) = @$case;
		my $job = run('kept', "overwrite => true, keep => '$keep'");
		is(each_row($job), '1 ok, 2 invalid', 'one fits, one does not');
		is(each_row($job, "coalesce(answer, '-')"), $kept, "keep => '$keep'");
		is(sql("SELECT reply IS NOT NULL FROM dess_batch_show($job, '{\"id\": 1}')"), $reply, 'and the reply');
	}
	my $before = served();
	my $job = submit_job($node, "'kept', 'gpt-4o-mini', prompt => '{body}!', target => NULL, mode => 'online'");
	is(wait_for_job($node, $job), 'done', 'a trial');
	is(each_row($job, "outcome || ' ' || answer"), '1 ok written!, 2 ok too long for it!', 'keeps its answers');
	is(answers('kept'), '1 written, 2 -', 'and writes nothing');
	is(served() - $before, 2, 'it is paid');
	$job = submit_job($node, "'kept', 'gpt-4o-mini', prompt => '{body}!', target => NULL, mode => 'online'");
	is(wait_for_job($node, $job), 'done', 'the same trial again');
	is(served() - $before, 2, 'is not');
	is(sql("SELECT request #>> '{body,messages,0,content}', is_current, answer FROM dess_batch_show((SELECT max(job_id) FROM dess_batch_rows), '{\"id\": 1}')"),
		'written!|t|written!', 'it can be shown');
};

subtest 'two jobs on the same rows' => sub {
	table('twice', map { "text $_" } 1 .. 50);
	my $before = served();
	$simulator->post('settings', { run_ms => 800 });
	my @jobs = map { submit_job($node, arguments('twice')) } 1 .. 2;
	$simulator->post('settings', { run_ms => 20 });
	is(wait_for_job($node, $_), 'done', "job $_ ends") foreach @jobs;
	is(served() - $before, 50, 'no row is in flight twice');
	is(sql("SELECT count(*) FROM dess_batch_rows WHERE job_id IN ($jobs[0], $jobs[1]) AND outcome = 'ok'"), 50, 'each is answered once');
	my ($status, $out, $err) = $node->psql('postgres',
		"BEGIN; ALTER TABLE twice ADD other_key integer UNIQUE; UPDATE twice SET other_key = id, answer = NULL; ALTER TABLE twice ALTER other_key SET NOT NULL; COMMIT;"
		  . 'SELECT dess_batch_prepare(' . arguments('twice') . ');'
		  . 'SELECT dess_batch_submit(' . arguments('twice', "key => ARRAY['other_key']") . ');',
		on_error_stop => 0);
	like($err, qr/ERROR.*key/, 'jobs in flight must use the same key');
	is($node->psql('postgres', '\set VERBOSITY sqlstate' . "\nSELECT dess_batch_submit(" . arguments('twice', "key => ARRAY['other_key']") . ')', on_error_stop => 0, stderr => \my $code), 0, 'asked again');
	like($code, qr/55006/, 'with its SQLSTATE');
};

$node->stop;
done_testing();
