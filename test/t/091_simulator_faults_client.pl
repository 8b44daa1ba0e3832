# Every misbehaviour that can be ordered from the simulator, seen from outside.
# Needs nothing but the simulator: a fault that does not happen would make the
# tests that order it pass for nothing.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use HTTP::Tiny;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $test = dirname(dirname(abs_path(__FILE__)));
my $simulator = $ENV{DESS_SIM} // "$test/simulator/simulator";
my $json = JSON::PP->new->utf8->canonical;
my $http = HTTP::Tiny->new(timeout => 20, max_redirect => 0);
my ($pid, $url);

END
{
	my $status = $?;

	if ($pid)
	{
		kill 'TERM', $pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

sub start_simulator
{
	my $port_file = tempdir(CLEANUP => 1) . '/port';
	my $until = time + 20;
	my $parent = $$;

	$pid = fork // die "could not fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		exec($simulator, '--port-file', $port_file, '--batch-ms', '30', '--parent', $parent)
		  or POSIX::_exit(127);
	}
	while (time < $until)
	{
		if (open my $in, '<', $port_file)
		{
			chomp($url = <$in>);
			return 1;
		}
		sleep 0.02;
	}
	return 0;
}

sub control
{
	my ($method, $name, $data) = @_;
	my $r = $http->request($method, "$url/_sim/$name",
		defined $data ? { content => $json->encode($data) } : {});

	die "$name: $r->{content}" unless $r->{success};
	return $json->decode($r->{content});
}

sub fault
{
	control('DELETE', 'faults');
	return control('POST', 'faults', [@_]);
}

my %auth = (Authorization => 'Bearer test-key', 'Content-Type' => 'application/json');

sub ask
{
	my ($prompt, %more) = @_;
	return $http->post("$url/v1/chat/completions", { headers => \%auth, content => $json->encode(
		{ model => 'gpt-4o-mini', messages => [ { role => 'user', content => $prompt // 'hi' } ], %more }) });
}

sub get
{
	my ($path) = @_;
	my $r = $http->get("$url$path", { headers => \%auth });
	return wantarray ? ($r, eval { $json->decode($r->{content}) }) : $json->decode($r->{content});
}

# One request over a socket of its own; returns all bytes until the end.
sub raw
{
	my ($request) = @_;
	my ($host, $port) = $url =~ m{//([^:]+):(\d+)};
	my $s = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port) or die $!;
	my $all = '';

	print $s $request;
	1 while sysread($s, $all, 65536, length $all);
	return $all;
}

my $raw_get = "GET /v1/models HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
  . "Connection: close\r\n\r\n";

sub upload
{
	my (@lines) = @_;
	my $body = "--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n"
	  . "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.jsonl\"\r\n"
	  . "Content-Type: application/jsonl\r\n\r\n" . join('', map { "$_\n" } @lines) . "\r\n--B--\r\n";
	my $r = $http->post("$url/v1/files", { content => $body, headers => {
		%auth, 'Content-Type' => 'multipart/form-data; boundary=B' } });
	return $json->decode($r->{content});
}

sub rows
{
	my ($n) = @_;
	return map { $json->encode({ custom_id => "r$_", method => 'POST',
		url => '/v1/chat/completions', body => { model => 'gpt-4o-mini',
			messages => [ { role => 'user', content => "row $_" } ] } }) } 1 .. $n;
}

sub create
{
	my ($file) = @_;
	return $http->post("$url/v1/batches", { headers => \%auth, content => $json->encode(
		{ input_file_id => $file->{id}, endpoint => '/v1/chat/completions', completion_window => '24h' }) });
}

# Runs a batch of n rows; returns it and the lines of both files, by custom_id.
sub batch
{
	my ($n) = @_;
	my $b = $json->decode(create(upload(rows($n)))->{content});
	my $until = time + 15;

	while ($b->{status} !~ /^(completed|failed|expired|cancelled)$/ && time < $until)
	{
		sleep 0.02;
		$b = get("/v1/batches/$b->{id}");
	}
	my @files = map { $b->{$_} ? scalar $http->get("$url/v1/files/$b->{$_}/content",
		{ headers => \%auth })->{content} : '' } qw(output_file_id error_file_id);
	return ($b, map { [ map { eval { $json->decode($_) } // { bad => $_ } } split /\n/ ] } @files);
}

ok(-x $simulator, 'the simulator is built');
ok(start_simulator(), 'the simulator listens');

subtest 'replies' => sub {
	fault({ match => { path => '/v1/chat/*', prompt => 'needle' }, status => 429,
		headers => { 'retry-after-ms' => '12.5', 'Retry-After' => 'Fri, 31 Dec 1999 23:59:59 GMT' } });
	my $r = ask('a needle here');
	is_deeply([ $r->{status}, $r->{headers}{'retry-after-ms'} ], [ 429, '12.5' ], 'status and headers');
	is($json->decode($r->{content})->{error}{code}, 'rate_limit_exceeded', 'usual body');
	is(ask('hay')->{status}, 200, 'another prompt is not touched');

	fault({ skip => 1, times => 2, status => 500 });
	is(join(' ', map { ask()->{status} } 1 .. 5), '200 500 500 200 200', 'skip and times');
	fault({ every => 2, status => 404 });
	is(join(' ', map { ask()->{status} } 1 .. 4), '404 200 404 200', 'comes and goes');
	fault({ status => 429, error => { message => 'm', type => 'insufficient_quota', code => 'insufficient_quota' } });
	is($json->decode(ask()->{content})->{error}{type}, 'insufficient_quota', 'error object');

	fault({ body => '<html>oops', content_type => 'text/html' });
	$r = ask();
	is_deeply([ @$r{qw(status content)}, $r->{headers}{'content-type'} ], [ 200, '<html>oops', 'text/html' ], 'not JSON');
	fault({ repeat => { text => '[', count => 10000 } });
	is(ask()->{content}, '[' x 10000, 'deep JSON');
	fault({ fill => { bytes => 300_000_000, byte => ' ' } });
	my $bytes = 0;
	$r = $http->get("$url/v1/models", { headers => \%auth, data_callback => sub { $bytes += length $_[0] } });
	is($bytes, 300_000_000, '300 MB');
	fault({ truncate => 30 });
	is(length ask()->{content}, 30, 'JSON cut off, with a right length');
	fault({ status => 308, headers => { Location => 'http://127.0.0.2:1/' } });
	$r = ask();
	is_deeply([ $r->{status}, $r->{headers}{location} ], [ 308, 'http://127.0.0.2:1/' ], 'redirect');
	fault({ status => 204 });
	is(ask()->{status}, 204, 'no content');
};

subtest 'connections' => sub {
	my $start = time;

	fault({ delay_ms => 400 });
	is(ask()->{status}, 200, 'delayed');
	cmp_ok(time - $start, '>=', 0.4, 'as long as ordered');
	fault({ drop => JSON::PP::true });
	is(raw($raw_get), '', 'closed without a reply');
	fault({ drop => 'reset' });
	is(raw($raw_get), '', 'reset without a reply');
	fault({ drop_after => 100 });
	my $all = raw($raw_get);
	my ($head, $body) = split /\r\n\r\n/, $all, 2;
	my ($length) = $head =~ /Content-Length: (\d+)/i;
	is(length $body, 100, 'body broken off');
	cmp_ok($length, '>', 100, 'though more was announced');
	fault({ match => { path => '/v1/files' }, drop_upload_after => 100, times => 1 });
	is($http->post("$url/v1/files", { headers => \%auth, content => 'x' x 100_000 })->{status}, 599,
		'reset in the middle of an upload');
	is(control('GET', 'stats')->{files_created}, 0, 'of which nothing stays');
	fault({ body => '{"a":1}', trickle_ms => 60 });
	$start = time;
	is(ask()->{content}, '{"a":1}', 'byte by byte');
	cmp_ok(time - $start, '>=', 0.35, 'slowly');
};

subtest 'reply lost after the work' => sub {
	control('DELETE', 'faults');
	my $file = upload(rows(2));
	my $before = control('GET', 'stats')->{batches_created};

	fault({ times => 1, match => { method => 'POST', path => '/v1/batches' }, lose_reply => JSON::PP::true });
	is(create($file)->{status}, 599, 'no reply');
	is(control('GET', 'stats')->{batches_created}, $before + 1, 'but a batch');
	my $seen = control('GET', 'requests?path=/v1/batches&method=POST');
	is($seen->{requests}[-1]{how}, 'reply lost', 'and a record of it');
};

subtest 'limits' => sub {
	fault({ match => { path => '/v1/chat/*' }, limit => { per_window => 2, window_ms => 60000 }, status => 429 });
	is(join(' ', map { ask()->{status} } 1 .. 4), '200 200 429 429', 'per window');
	fault({ match => { path => '/v1/chat/*' }, limit => { concurrent => 2 }, status => 429 });
	control('POST', 'settings', { latency_ms => 500 });
	my @children;
	for (1 .. 4)
	{
		my $child = fork // die;
		POSIX::_exit(ask()->{status} == 429 ? 1 : 0) if $child == 0;
		push @children, $child;
	}
	my $refused = 0;
	foreach my $child (@children)
	{
		waitpid $child, 0;
		$refused += $? >> 8;
	}
	control('POST', 'settings', { latency_ms => 0 });
	is($refused, 2, 'concurrent');
	is(ask()->{status}, 200, 'free again');
};

subtest 'answers' => sub {
	my @kinds = ([ lone_surrogate => qr/"content":"hi\\ud83d"/ ], [ nul => qr/"content":"hi\\u0000tail"/ ],
		[ invalid_utf8 => qr/"content":"hi\xC3\x28\xFF"/ ], [ u2028 => qr/"content":"hi\xE2\x80\xA8"/ ],
		[ null => qr/"content":null/ ], [ parts => qr/"content":\[\{"type":"text","text":"hi"\}\]/ ],
		[ long => qr/"content":"hix{3000}"/ ]);

	foreach my $kind (@kinds)
	{
		fault({ answer => { content_kind => $kind->[0] } });
		like(ask()->{content}, $kind->[1], $kind->[0]);
	}
	fault({ answer => { content => "```\n\"X\"\n```", finish_reason => 'length', usage => { cached => 3 } } });
	my $a = $json->decode(ask()->{content});
	is_deeply([ $a->{choices}[0]{message}{content}, $a->{choices}[0]{finish_reason},
		$a->{usage}{prompt_tokens_details}{cached_tokens} ], [ "```\n\"X\"\n```", 'length', 3 ], 'in detail');
	fault({ answer => { body => { choices => [] } } });
	is(ask()->{content}, '{"choices":[]}', 'whole body');
	control('DELETE', 'faults');
	control('POST', 'answers', [ { contains => 'alpha', answer => 'first', times => 1 },
		{ contains => 'alpha', answer => { content_raw => '"a\u0041"' } } ]);
	is($json->decode(ask('alpha')->{content})->{choices}[0]{message}{content}, 'first', 'ordered, once');
	like(ask('alpha')->{content}, qr/"content":"a\\u0041"/, 'ordered, raw');
	control('DELETE', 'answers');
};

subtest 'rows of a batch' => sub {
	fault(map { { match => { custom_id => "r$_->[0]" }, row => $_->[1] } } (
		[ 1, { outcome => 'duplicate' } ], [ 2, { outcome => 'missing' } ],
		[ 3, { outcome => 'unknown_custom_id' } ], [ 4, { outcome => 'status_zero' } ],
		[ 5, { outcome => 'string_error' } ], [ 6, { outcome => 'error_object', code => 'x' } ],
		[ 7, { outcome => 'http_error', status => 400, code => 'y' } ], [ 8, { outcome => 'garbage' } ],
		[ 9, { answer => { finish_reason => 'content_filter', content_kind => 'null' } } ]));
	my ($b, $out, $err) = batch(10);
	my %out;
	push @{ $out{ $_->{custom_id} // 'bad' } }, $_ foreach @$out;
	my %err = map { $_->{custom_id} => $_ } @$err;

	is_deeply({ map { $_ => scalar @{ $out{$_} } } keys %out },
		{ r1 => 2, 'no-such-row' => 1, r4 => 1, bad => 1, r9 => 1, r10 => 1 }, 'output lines');
	is($out{r4}[0]{response}{status_code}, 0, 'status code 0');
	is($out{r9}[0]{response}{body}{choices}[0]{finish_reason}, 'content_filter', 'finish reason');
	is_deeply([ sort keys %err ], [qw(r5 r6 r7)], 'error lines');
	is_deeply([ $err{r5}{error}, $err{r6}{error}{code}, $err{r7}{error}, $err{r7}{response}{body}{error}{code} ],
		[ 'internal error', 'x', undef, 'y' ], 'three shapes of errors');
};

subtest 'batches' => sub {
	my ($b, $out, $err);

	fault({ batch => { state => 'expired', fraction => 0.6 } });
	($b, $out, $err) = batch(10);
	is_deeply([ $b->{status}, scalar @$out, scalar @$err, $err->[0]{error}{code}, $b->{request_counts}{failed} ],
		[ 'expired', 6, 4, 'batch_expired', 0 ], 'expired');
	fault({ batch => { state => 'failed', code => 'token_limit_exceeded', line => 3 } });
	($b) = batch(2);
	is_deeply([ $b->{status}, @{ $b->{errors}{data}[0] }{qw(code line)} ], [ 'failed', 'token_limit_exceeded', 3 ], 'failed');
	fault({ batch => { output_file_id => 'empty', error_file_id => 'absent' } });
	($b) = batch(2);
	is_deeply([ $b->{output_file_id}, exists $b->{error_file_id} ], [ '', !1 ], 'file ids empty and absent');
	fault({ batch => { no_usage => JSON::PP::true, no_counts => JSON::PP::true, zero_byte_error_file => JSON::PP::true } });
	($b, $out, $err) = batch(2);
	is_deeply([ exists $b->{usage}, $b->{request_counts}, defined $b->{error_file_id}, scalar @$err ],
		[ !1, undef, !!1, 0 ], 'no usage, no counts, an empty error file');

	fault({ batch => { show_state => 'being_reviewed', show_ms => 100 } });
	$b = $json->decode(create(upload(rows(1)))->{content});
	is($b->{status}, 'being_reviewed', 'unknown state');
	fault({ batch => { stuck_at => 'in_progress', fraction => 0.5 } });
	$b = $json->decode(create(upload(rows(4)))->{content});
	sleep 0.4;
	$b = get("/v1/batches/$b->{id}");
	is_deeply([ $b->{status}, $b->{request_counts}{completed} ], [ 'in_progress', 2 ], 'stuck halfway');
	control('POST', 'settings', { window_ms => 1 });
	sleep 0.1;
	is(get("/v1/batches/$b->{id}")->{status}, 'expired', 'the window ends');
	control('POST', 'settings', { window_ms => 86400000 });
	fault({ batch => { result_missing_ms => 300 } });
	($b) = batch(1);
	my ($r) = get("/v1/files/$b->{output_file_id}/content");
	is($r->{status}, 404, 'result not there yet');
	sleep 0.35;
	($r) = get("/v1/files/$b->{output_file_id}/content");
	is($r->{status}, 200, 'result there');
};

subtest 'files' => sub {
	fault({ file => { missing_ms => 300 } });
	my $f = upload(rows(1));
	is((get("/v1/files/$f->{id}"))[0]{status}, 404, 'not there yet');
	is(create($f)->{status}, 404, 'nor for a batch');
	sleep 0.35;
	is(create($f)->{status}, 200, 'there');
	fault({ file => { ready_ms => 200 } });
	$f = upload(rows(1));
	is($f->{status}, 'uploaded', 'not ready');
	is(create($f)->{status}, 400, 'not usable');
	sleep 0.25;
	is(get("/v1/files/$f->{id}")->{status}, 'processed', 'ready');
};

subtest 'strictness' => sub {
	control('DELETE', 'faults');
	my $r = $http->post("$url/_sim/faults", { content => '{"statsu":500}' });
	is($r->{status}, 400, 'a misspelt fault is refused');
	foreach my $body ('{"model":', "{\"model\":\"\xFF\"}", '{"model":"gpt-4o","messages":[]} x', '{"a":"\ud800"}')
	{
		$r = $http->post("$url/v1/chat/completions", { headers => \%auth, content => $body });
		is($r->{status}, 400, "refused: $body" =~ s/[^ -~]/?/gr);
	}
	foreach my $form ("--B\nContent-Disposition: form-data; name=\"purpose\"\n\nbatch\n--B--\n",
		"--B\r\nContent-Disposition: form-data; name=\"purpose\"\r\n\r\nbatch\r\n", "", "--B--\r\n")
	{
		$r = $http->post("$url/v1/files", { content => $form, headers => {
			%auth, 'Content-Type' => 'multipart/form-data; boundary=B' } });
		is($r->{status}, 400, 'a broken form is refused');
	}
	is((get('/v1/nothing'))[0]{status}, 404, 'unknown path');
	is($http->delete("$url/v1/models", { headers => \%auth })->{status}, 405, 'wrong method');
};

# Sends a request, waits until it is held, lets it go; returns what came back,
# and whether the client is gone before that.
sub held
{
	my ($at, $release, %more) = @_;
	my $body = $json->encode({ model => 'gpt-4o-mini', messages => [ { role => 'user', content => "held $at" } ] });
	my ($host, $port) = $url =~ m{//([^:]+):(\d+)};
	my $s = IO::Socket::INET->new(PeerAddr => $host, PeerPort => $port) or die $!;
	my $until = time + 15;
	my ($held, $all) = ([], '');

	fault({ match => { path => '/v1/chat/*' }, hold => { at => $at }, times => 1 });
	print $s "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer test-key\r\n"
	  . "Content-Type: application/json\r\nContent-Length: " . length($body) . "\r\nConnection: close\r\n\r\n$body";
	while (@$held == 0 && time < $until)
	{
		sleep 0.02;
		$held = control('GET', 'held');
	}
	is_deeply([ map { "$_->{method} $_->{path} $_->{at}" } @$held ], [ "POST /v1/chat/completions $at" ], "held at $at");
	is(control('GET', 'stats')->{rows_served}, $more{before}, 'what is done by then');
	close $s if $more{gone};
	is(control('POST', 'release', $release)->{released}, 1, 'released');
	unless ($more{gone})
	{
		1 while sysread($s, $all, 65536, length $all);
	}
	is(control('GET', 'stats')->{rows_served}, $more{after}, 'and what afterwards');
	is_deeply(control('GET', 'held'), [], 'nothing is held any more');
	return $all;
}

subtest 'held requests' => sub {
	control('POST', 'reset');
	like(held('arrival', {}, before => 0, after => 1), qr/ 200 .*"held arrival"/s, 'answered late');
	is(held('arrival', { drop => JSON::PP::true }, before => 1, after => 1), '', 'as if it had not arrived');
	held('arrival', {}, before => 1, after => 2, gone => 1);
	is(held('reply', { drop => JSON::PP::true }, before => 3, after => 3), '', 'done and not answered');
	like(held('reply', {}, before => 4, after => 4), qr/"held reply"/, 'answered late');
	like(held('request_body', {}, before => 4, after => 5), qr/"held request_body"/, 'the rest of a body');
	is(held('request_body', { drop => JSON::PP::true }, before => 5, after => 5), '', 'half a body');
	like(held('response_body', {}, before => 6, after => 6), qr/"held response_body".*\}$/s, 'the rest of an answer');
	like(held('response_body', { drop => JSON::PP::true }, before => 7, after => 7), qr/ 200 .*[^}]$/s, 'half an answer');
	is($http->post("$url/_sim/faults", { content => '{"hold":{"at":"nowhere"}}' })->{status}, 400, 'a misspelt place');
	control('DELETE', 'faults');
};

subtest 'records' => sub {
	control('POST', 'reset');
	is(control('GET', 'stats')->{rows_served}, 0, 'reset');
	ask('twice') for 1 .. 2;
	ask('once');
	my $stats = control('GET', 'stats');
	is_deeply([ @{ $stats->{prompts} }{qw(answered distinct answered_more_than_once most_often)} ],
		[ 3, 2, 1, 2 ], 'prompts are counted');
	is($stats->{requests}{'POST /v1/chat/completions'}, 3, 'paths are counted');
	my $seen = control('GET', 'requests');
	my @requests = @{ $seen->{requests} };
	is(scalar @requests, 3, 'requests are kept');
	unlike($json->encode($seen), qr/test-key/, 'without the key');
	like($requests[0]{body}, qr/twice/, 'with the body');
	is(scalar @{ control('GET', "requests?since=$requests[1]{seq}")->{requests} }, 1, 'since');
};

done_testing();
