# What can be wrong with the results of a batch: lines, files and answers.
# Each case is a job of its own, and all run at the same time.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use Test::More;

my $node = start_node('results');

# A fault of the row whose text is "itemN of many".
sub row
{
	my ($n, $row, %more) = @_;
	return { match => { prompt => "item$n of" }, row => $row, times => 1, %more };
}

# A fault of the download of results.
sub download
{
	my (%fault) = @_;
	return { match => { method => 'GET', path => '/v1/files/*/content' }, times => 1, %fault };
}

# How single rows ended: "1 ok, 2 stale"
sub each_row
{
	my ($s, $what) = @_;
	return $s->look('rows', "string_agg(concat_ws(' ', row_key ->> 'id', $what), ', ' ORDER BY (row_key ->> 'id')::integer)");
}

# ---- lines

scenario(
	'every kind of bad line',
	rows => 14,
	faults => [
		row(1, { outcome => 'duplicate' }),
		row(2, { outcome => 'missing' }),
		row(3, { outcome => 'unknown_custom_id' }),
		row(4, { outcome => 'status_zero' }),
		row(5, { outcome => 'string_error' }),
		row(6, { outcome => 'error_object', code => 'server_error', message => 'try again' }),
		row(7, { outcome => 'http_error', status => 400, code => 'unsupported_value', message => 'Unsupported value: temperature' }),
		row(8, { outcome => 'garbage' }),
		row(9, { outcome => 'http_error', status => 500 }),
		row(10, { answer => { content => undef, refusal => 'I cannot help with that.' } }),
		row(11, { answer => { content => '', finish_reason => 'length' } }),
		row(12, { outcome => 'http_error_in_output', status => 429 }),
		row(13, { answer => { content_kind => 'null', finish_reason => 'content_filter' } })
	],
	check => sub {
		my ($s) = @_;
		is(each_row($s, 'outcome'),
			'1 ok, 2 ok, 3 ok, 4 ok, 5 ok, 6 ok, 7 rejected, 8 ok, 9 ok, 10 refused, 11 truncated, 12 ok, 13 refused, 14 ok',
			'outcomes');
		is(each_row($s, 'attempts'),
			'1 1, 2 2, 3 2, 4 2, 5 2, 6 2, 7 1, 8 2, 9 2, 10 1, 11 1, 12 1, 13 1, 14 1',
			'what time may heal was sent again; a 429 was no attempt');
		$s->ended('done', 10, 4);
		is($s->sql("SELECT sum(unmatched), sum(duplicates) FROM dess_batch.batch WHERE job_id = $s->{job}"), '2|1', 'stray lines are counted');
		is($s->look('errors', q{string_agg(error_code || ': ' || error, '; ' ORDER BY error_code) FILTER (WHERE outcome = 'rejected')}),
			'unsupported_value: Unsupported value: temperature', 'a refusal has the provider\'s words');
		is($s->look('errors', q{string_agg(error, '; ') FILTER (WHERE error_code = 'refusal')}),
			'I cannot help with that.', 'that of a model too');
		is($s->sql("SELECT string_agg(id::text, ' ' ORDER BY id) FROM $s->{table} WHERE answer IS NULL"),
			'7 10 11 13', 'no error text is written into the table');
		is($s->sql("SELECT count(*) FROM $s->{table} WHERE answer LIKE 'item' || id || ' %'"), 10, 'every answer is in its row');
		my $before = $s->stats->{rows_served};
		my $again = submit_job($node, "'$s->{table}', 'gpt-4o-mini', prompt => '{body}', target => 'answer', server => '$s->{server_name}'");
		is(wait_for_job($node, $again), 'done', 'submitted again');
		is(job_figures($node, $again), 'done 0 0 0 0', 'what is refused for good is not bought again');
		is($s->stats->{rows_served}, $before, 'and nothing is paid');
		is($s->sql("SELECT dess_batch_retry($s->{job})"), 2, 'unless it is asked for');
		is(wait_for_job($node, $s->{job}), 'done', 'which is done');
		is(each_row($s, 'outcome'),
			'1 ok, 2 ok, 3 ok, 4 ok, 5 ok, 6 ok, 7 ok, 8 ok, 9 ok, 10 refused, 11 ok, 12 ok, 13 refused, 14 ok',
			'for all but those that were refused');
	});

scenario(
	'rows that never get better',
	rows => 6,
	faults => [
		row(1, { outcome => 'status_zero' }, times => 9),
		row(2, { outcome => 'missing' }, times => 9),
		row(3, { outcome => 'http_error', status => 500, message => 'The server had an error' }, times => 9)
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 3, 3);
		is(each_row($s, "outcome || ' ' || attempts"), '1 lost 3, 2 lost 3, 3 lost 3, 4 ok 1, 5 ok 1, 6 ok 1',
			'are lost after three attempts');
		is($s->stats->{batches_created}, 3, 'in three batches');
		like($s->look('errors', q{string_agg(error, ' ')}), qr/The server had an error/, 'with the last words');
		my $before = $s->stats->{rows_served};
		my $again = submit_job($node, "'$s->{table}', 'gpt-4o-mini', prompt => '{body}', target => 'answer', server => '$s->{server_name}'");
		is(wait_for_job($node, $again), 'done', 'submitted again');
		like(job_figures($node, $again), qr/^done 3 /, 'they are taken again');
	});

foreach my $id ('empty', 'absent', 'null')
{
	scenario(
		"an error file only, output_file_id is $id",
		rows => 5,
		faults => [
			{ batch => { output_file_id => $id } },
			{ row => { outcome => 'http_error', status => 400, message => 'no' } }
		],
		check => sub {
			my ($s) = @_;
			$s->ended('done', 0, 5);
			is($s->ends, 'rejected 5', 'all rows are rejected');
			is($s->stats->{batches_created}, 1, 'at once');
			$s->cleaned;
		});
}

scenario(
	'no counts, no usage, no newline at the end, an empty error file',
	faults => [ { batch => { no_usage => TRUE, no_counts => TRUE, no_last_newline => TRUE, zero_byte_error_file => TRUE, error_file_id => 'empty' } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
	});

scenario(
	'lines that mean that nothing more will be answered',
	rows => 30,
	server => { max_batch_requests => 10, max_active_batches => 1 },
	faults => [ row(5, { outcome => 'error_object', code => 'insufficient_quota', message => 'You exceeded your current quota' }) ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails');
		is($s->look('jobs', 'error_code'), 'insufficient_quota', 'for that reason');
		my $batches = $s->stats->{batches_created};
		cmp_ok($batches, '<', 3, 'nothing more is sent');
		is($s->look('jobs', 'done, failed'), $batches * 10 - 1 . '|0', 'what was answered is kept, no row has failed');
		is($s->sql("SELECT count(answer) FROM $s->{table}"), $batches * 10 - 1, 'and written');
		$s->sql("SELECT dess_batch_retry($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'when it is paid it goes on');
		$s->ended('done', 30, 0);
		$s->all_answered;
		is($s->stats->{rows_served}, 30, 'nothing was bought twice');
	});

# ---- too many failures

scenario(
	'more failures than max_failed allows',
	rows => 1000,
	server => { max_batch_requests => 250, max_active_batches => 1 },
	arguments => 'max_failed => 0.3',
	faults => [ { match => { prompt => '1' }, row => { outcome => 'http_error', status => 400, message => 'no' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'paused', 'the job pauses');
		is($s->look('jobs', 'error_code'), 'max_failed', 'and says why');
		my $batches = $s->stats->{batches_created};
		cmp_ok($batches, '<', 3, 'nothing more is sent');
		$s->until_true("done + failed = $batches * 250 AND failed > 100 FROM dess_batch_jobs WHERE job_id = $s->{job}",
			'what was under way is merged');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'it can be cancelled');
	});

scenario(
	'as many failures, allowed',
	rows => 300,
	server => { max_batch_requests => 250, max_active_batches => 1 },
	arguments => 'max_failed => 1',
	faults => [ { row => { outcome => 'http_error', status => 400, message => 'no' } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 0, 300);
	});

# ---- files

scenario(
	'results come later than the word that they are there',
	faults => [ { batch => { result_missing_ms => 700 } } ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{rows_served}, 10, 'nothing was bought twice');
	});

scenario(
	'the download breaks off',
	faults => [ download(drop_after => 700), download(drop => 'reset') ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{rows_served}, 10, 'it is read again, nothing was bought twice');
	});

scenario(
	'the file is cut off without a sign',
	faults => [ download(truncate => 900) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered('every row has its own answer in the end');
		is($s->stats->{rows_served}, 10, 'it is fetched again, nothing was bought twice');
	});

scenario(
	'a page of HTML instead of results',
	faults => [ download(body => "<html>\n<body>Please log in</body>\n</html>\n", content_type => 'text/html') ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->sql("SELECT sum(unmatched) FROM dess_batch.batch WHERE job_id = $s->{job}"), 3, 'its lines are counted');
		is($s->stats->{rows_served}, 10, 'nothing was bought twice');
	});

scenario(
	'a redirect instead of results',
	faults => [ download(status => 302, headers => { Location => 'http://127.0.0.1:9/secret' }) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{rows_served}, 10, 'is not followed');
	});

scenario(
	'JSON of 10,000 levels',
	faults => [ download(repeat => { text => '[', count => 10000 }) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
	});

scenario(
	'a hundred megabytes without a newline',
	faults => [ download(fill => { bytes => 100_000_000, byte => ' ' }) ],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
		$s->all_answered;
	});

scenario(
	'a status reply that is no JSON, and one of 10,000 levels',
	faults => [
		{ match => { method => 'GET', path => '/v1/batches/*' }, times => 1, body => '<html>' },
		{ match => { method => 'GET', path => '/v1/batches/*' }, times => 1, repeat => { text => '{"a":', count => 10000 } }
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 10, 0);
	});

# ---- answers

scenario(
	'answers that PostgreSQL cannot hold',
	rows => 8,
	faults => [
		row(1, { answer => { content_raw => '"a\u0000b"' } }),
		row(2, { answer => { content_raw => '"a\ud83d"' } }),
		row(3, { answer => { content_kind => 'invalid_utf8' } }),
		row(4, { answer => { content_raw => '"a\u2028b"' } }),
		row(5, { answer => { content_raw => '"\ud83d\ude00 \u00e9"' } }),
		row(6, { answer => { content_raw => '[{"type":"text","text":"two "},{"type":"text","text":"parts"}]' } }),
		row(7, { answer => { content_raw => '"  spaces \n"' } })
	],
	check => sub {
		my ($s) = @_;
		$s->ended('done', 7, 1);
		is($s->sql("SELECT string_agg(id || ' ' || answer, ', ' ORDER BY id) FROM $s->{table} WHERE id IN (1, 2, 4, 5, 6, 7)"),
			"1 a\x{ef}\x{bf}\x{bd}b, 2 a\x{ef}\x{bf}\x{bd}, 4 a\x{e2}\x{80}\x{a8}b, 5 \x{f0}\x{9f}\x{98}\x{80} \x{c3}\x{a9}, 6 two parts, 7 spaces",
			'are made so that it can');
		is($s->look('errors', q{string_agg(concat_ws(' ', row_key ->> 'id', outcome, error_code), ', ')}), '3 invalid 22021', 'and one in no encoding at all is invalid');
	});

run_scenarios($node);
$node->stop;
done_testing();
