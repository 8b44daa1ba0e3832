# Servers that answer in ways which nobody asked for: encodings, a byte order
# mark, a stream of events; endings that no list has; refusals of one request
# while others are answered; result files that are missing or cannot be read.
# Each case is a job of its own, and all run at the same time.

use strict;
use warnings;

use DessBatch;
use DessBatch::Scenarios;
use JSON::PP ();
use Test::More;

my $node = start_node('unexpected');

sub online
{
	my ($name, %options) = @_;
	return scenario($name, mode => 'online', %options);
}

# A fault of online requests, of those for the row whose text is "itemN of many" if a number is given.
sub chat
{
	my ($n, %fault) = @_;
	my %match = (path => '/v1/chat/*');

	$match{prompt} = "item$n of" if defined $n;
	return { match => \%match, %fault };
}

sub download
{
	my (%fault) = @_;
	return { match => { method => 'GET', path => '/v1/files/*/content' }, %fault };
}

# "outcome code attempts words" of one row.
sub row
{
	my ($s, $n) = @_;
	return $s->sql("SELECT concat_ws(' ', outcome, error_code, attempts, error) FROM dess_batch_rows WHERE job_id = $s->{job} AND row_key ->> 'id' = '$n'");
}

sub complete
{
	my ($s, $rows) = @_;

	is($s->{state}, 'done', 'the job is done');
	is($s->look('jobs', 'rows, done, failed'), "$rows|$rows|0", 'every row is answered');
	is($s->stats->{rows_served}, $rows, 'and bought once');
}

# ---- what can be read all the same

foreach my $how ({ name => 'gzip', fault => { encode => 'gzip' } }, { name => 'a byte order mark', fault => { prefix => "\x{FEFF}" } })
{
	online("$how->{name} that nobody asked for, online", faults => [ chat(undef, %{ $how->{fault} }) ],
		check => sub { complete($_[0], 10) });
	scenario("$how->{name} that nobody asked for, in a result file", faults => [ download(%{ $how->{fault} }) ],
		check => sub { complete($_[0], 10) });
}

# ---- what cannot be read

online(
	'a stream of events although none was asked for',
	rows => 200,
	server => { max_concurrency => 4 },
	faults => [ chat(undef, status => 200, content_type => 'text/event-stream', delay_ms => 100,
			body => qq(data: {"choices":[{"delta":{"content":"A"}}]}\n\ndata: [DONE]\n\n)) ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job ends');
		like($s->look('jobs', 'error_code, error'), qr/^unreadable_reply\|.*stream of events/, 'and says why');
		cmp_ok(scalar(@{ $s->{simulator}->get('requests?path=/v1/chat/*&limit=1000')->{requests} }), '<', 150, 'before it has bought all rows');
		is($s->sql("SELECT count(answer) FROM $s->{table}"), 0, 'nothing is written');
	});

scenario(
	'a result file of which no line can be read',
	faults => [ download(times => 4, status => 200, body => "<html><body>Please log in</body></html>\n") ],
	check => sub { complete($_[0], 10) });

scenario(
	'an upload that is answered with a page',
	faults => [ { match => { method => 'POST', path => '/v1/files' }, status => 200, content_type => 'text/html', body => '<html><body>Welcome</body></html>' } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails after a few tries');
		like($s->look('jobs', 'error'), qr/mode => 'online'.*Welcome/, 'with the words of the server and what to do');
	});

scenario(
	'an upload that is answered with an error and status 200',
	faults => [ { match => { method => 'POST', path => '/v1/files' }, status => 200, json => { error => 'Unexpected endpoint' } } ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'failed', 'the job fails after a few tries');
		like($s->look('jobs', 'error'), qr/mode => 'online'.*Unexpected endpoint/, 'with the words of the server');
	});

# ---- one file is missing

scenario(
	'an error file that is not found holds up nothing else',
	wait => 0,
	faults => [
		{ match => { custom_id => '*' }, times => 1, row => { outcome => 'http_error', status => 400, code => 'invalid_request', message => 'bad row' } },
		download(skip => 1, status => 404) ],
	check => sub {
		my ($s) = @_;
		$s->until_true("count(answer) = 9 FROM $s->{table}", 'what is in the other file is written');
		is($s->look('jobs', 'done, pending'), '9|1', 'one row is open');
		$s->{simulator}->post('faults/clear', {});
		$s->sql("SELECT dess_batch_status($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'the job ends when the file is there');
		is($s->look('jobs', 'done, failed'), '9|1', 'all rows have their outcome');
	});

# ---- refusals

online(
	'one request is refused for load while others are answered',
	rows => 300,
	faults => [ chat(7, status => 429, error => { message => 'Request too large for the tokens per minute of this model', code => 'rate_limit_exceeded' }) ],
	check => sub {
		my ($s) = @_;
		is($s->{state}, 'done', 'the job is done');
		is($s->look('jobs', 'done, failed'), '299|1', 'its neighbours are answered');
		like(row($s, 7), qr/^rejected rate_limit_exceeded/, 'and it is rejected');
		like(row($s, 7), qr/Request too large/, 'with the words of the provider');
	});

online(
	'a refusal for load with status 200',
	rows => 30,
	faults => [ chat(undef, times => 3, status => 200, json => { choices => [], error => { message => 'slow down', code => 429 } }) ],
	check => sub { complete($_[0], 30) });

# ---- endings

my @endings = (
	[ 'abort', { content => 'half', finish_reason => 'abort' }, qr/^lost abort 3/ ],
	[ 'an unknown word', { content => 'half', finish_reason => 'never_heard_of' }, qr/^rejected never_heard_of/ ],
	[ 'max_tokens', { content => 'half', finish_reason => 'max_tokens' }, qr/^truncated/ ],
	[ 'sensitive', { content => 'half', finish_reason => 'sensitive' }, qr/^refused/ ],
	[ 'end_turn', { content => 'all', finish_reason => 'end_turn' }, qr/^ok/ ],
	[ 'a tool call', { message => { role => 'assistant', content => '', tool_calls => [ { id => 'c', type => 'function', function => { name => 'f', arguments => '{}' } } ] } }, qr/^rejected tool_calls/ ],
	[ 'reasoning alone', { message => { role => 'assistant', content => undef, reasoning_content => 'hm' } }, qr/^rejected no_answer 3/ ],
	[ 'an object', { message => { role => 'assistant', content => { a => 1 } } }, qr/^invalid 22P02/ ],
	[ 'a thought in the text', { content => '<think>hm</think>all' }, qr/^ok/ ],
	[ 'an empty text', { content => '' }, qr/^missing/ ]);

foreach my $mode ('online', 'batch')
{
	scenario(
		"endings, $mode",
		mode => $mode,
		rows => scalar(@endings),
		faults => [
			map {
				my $answer = $endings[ $_ - 1 ][1];
				$mode eq 'online' ? chat($_, answer => $answer) : { match => { prompt => "item$_ of" }, row => { answer => $answer } }
			} 1 .. @endings ],
		check => sub {
			my ($s) = @_;
			is($s->{state}, 'done', 'the job is done');
			like(row($s, $_), $endings[ $_ - 1 ][2], $endings[ $_ - 1 ][0]) foreach 1 .. @endings;
			is($s->sql("SELECT string_agg(answer, ', ' ORDER BY id) FROM $s->{table} WHERE answer IS NOT NULL"), 'all, all, MISSING', 'nothing else is written');
		});
}

run_scenarios($node);
is($node->log_content =~ /terminated by signal|PANIC/ ? 1 : 0, 0, 'nothing has crashed') if $node->can('log_content');
$node->stop;
done_testing();
