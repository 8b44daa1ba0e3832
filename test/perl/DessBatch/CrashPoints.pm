# DessBatch/CrashPoints.pm
#		Where a job can be stopped: every committed state and every request, for
#		each provider.  What the words mean is in DessBatch/Crash.pm.

package DessBatch::CrashPoints;

use strict;
use warnings;

use Exporter 'import';

our @EXPORT = qw(
  transaction_points
  online_transaction_points
  request_points
  online_request_points
);

# The middle of each transaction in the life of a batch.  What was there before
# is committed, what the transaction says is not.
sub transaction_points
{
	return map { my ($name, $pin, @more) = @$_; [ $name, pin => $pin, @more ] } (
		[ 'in the middle of a page', 'read' ],
		[ 'rows are prepared, not committed', 'item' ],
		[ 'the first batch is begun', '>preparing' ],
		[ 'the file is written', 'preparing>prepared' ],
		[ 'before an upload', 'prepared>uploading' ],
		[ 'the file is there, its name not committed', 'uploading>uploaded' ],
		[ 'before a creation', 'uploaded>creating' ],
		[ 'the batch is made, its name not committed', 'creating>running' ],
		[ 'a look, not committed', 'polled', settings => { run_ms => 2500 } ],
		[ 'the results are known, not committed', 'running>retrieving' ],
		[ 'in the middle of a group of answers', 'write' ],
		[ 'outcomes, not committed', 'result' ],
		[ 'usage, not committed', 'usage' ],
		[ 'the last group is merged', 'retrieving>done' ],
		[ 'the job ends', 'job>done' ],
		[ 'all is removed, not committed', 'cleaned' ]);
}

sub online_transaction_points
{
	return map { my ($name, $pin, @more) = @$_; [ $name, pin => $pin, @more ] } (
		[ 'in the middle of a page', 'read' ],
		[ 'rows are prepared, not committed', 'item' ],
		[ 'the file is written', 'preparing>prepared' ],
		[ 'before the first request', 'prepared>running' ],
		[ 'in the middle of a group of answers', 'write' ],
		[ 'outcomes, not committed', 'result' ],
		[ 'counters, not committed', 'counted' ],
		[ 'usage, not committed', 'usage' ],
		[ 'the last group is merged', 'running>done' ],
		[ 'the job ends', 'job>done' ],
		# the worker gives up each second, and replies come meanwhile
		map { [ "answers cannot be written for a while ($_)", $_, impatient => 1,
				reached => sub { return $_[0]->stands_still(27) } ] } ('result', 'counted', 'usage'));
}

# A request before it arrives, and after it has arrived and was carried out.
sub _lost
{
	my ($name, $method, $path, %more) = @_;

	return (
		[ "$name has not arrived", hold => { method => $method, path => $path, at => 'arrival' }, %more ],
		[ "$name is carried out, the reply is not there", hold => { method => $method, path => $path, at => 'reply' },
			release => 'work', %more ]);
}

# In the middle of what a request sends.
sub _sent
{
	my ($name, $method, $path, %more) = @_;
	return [ "$name breaks off", hold => { method => $method, path => $path, at => 'request_body' }, fat => 1, %more ];
}

# In the middle of what comes back.
sub _received
{
	my ($name, $method, $path, %more) = @_;
	return [ "$name comes in part", hold => { method => $method, path => $path, at => 'response_body' }, release => 'work', %more ];
}

# A creation that is carried out when nobody waits for it any more: at once, or
# when the next worker has already looked for it.
sub _overtaken
{
	my ($path, $looks) = @_;
	my $hold = { method => 'POST', path => $path, at => 'arrival' };

	return (
		[ 'a creation is carried out after the crash', hold => $hold, release => 'work' ],
		[ 'a creation is carried out after the first look for it', hold => $hold, release => 'late', looks => $looks ]);
}

# A job that is cancelled while its batches run.
sub _cancelled
{
	my ($path) = @_;
	my $cancel = sub {
		my ($p) = @_;

		$p->{node}->poll_query_until('postgres',
			"SELECT bool_and(state = 'running') AND count(*) = 3 FROM dess_batch.batch WHERE job_id = $p->{job}")
		  or die 'the batches do not run';
		$p->sql("SELECT dess_batch_cancel($p->{job})");
	};

	return map { [ @$_, settings => { run_ms => 600000 }, act => $cancel, ends => 'cancelled' ] }
	  _lost('a cancellation', 'POST', $path);
}

# The job stands in "creating", and the worker is killed once more while it
# looks for the batch.
sub _killed_again
{
	my ($path, $list) = @_;
	my $again = { method => 'GET', path => $list, at => 'reply' };

	return (
		[ 'a creation was not there, then the search for it is killed',
			hold => { method => 'POST', path => $path, at => 'arrival' }, again => $again ],
		[ 'a creation was carried out, then the search for it is killed',
			hold => { method => 'POST', path => $path, at => 'reply' }, again => $again ]);
}

my %requests = (
	openai => sub {
		my ($files, $batches) = ('/v1/files', '/v1/batches');

		return (
			_lost('an upload', 'POST', $files),
			_sent('an upload', 'POST', $files),
			_received('the reply to an upload', 'POST', $files),
			_lost('a look at an upload', 'GET', "$files/file-*", faults => [ { file => { ready_ms => 600 } } ]),
			_lost('a creation', 'POST', $batches),
			_received('the reply to a creation', 'POST', $batches),
			_overtaken($batches, "GET $batches"),
			_killed_again($batches, $batches),
			_lost('a look', 'GET', "$batches/*"),
			_received('the reply to a look', 'GET', "$batches/*"),
			_lost('a download', 'GET', "$files/*/content"),
			_received('a download', 'GET', "$files/*/content"),
			_cancelled("$batches/*/cancel"),
			_lost('a removal', 'DELETE', "$files/*"));
	},
	vertex => sub {
		my ($put, $jobs, $objects) =
		  ('/upload/storage/*', '/v1/projects/*/batchPredictionJobs', '/storage/v1/b/*/o');

		return (
			_lost('a token', 'POST', '/token'),
			_lost('a session', 'POST', $put),
			_lost('an upload', 'PUT', $put),
			_sent('an upload', 'PUT', $put),
			_received('the reply to an upload', 'PUT', $put),
			_lost('a creation', 'POST', $jobs),
			_received('the reply to a creation', 'POST', $jobs),
			_overtaken($jobs, 'GET /v1/projects/test-project/locations/us-central1/batchPredictionJobs'),
			_killed_again($jobs, $jobs),
			_lost('a look', 'GET', "$jobs/*"),
			_lost('a list of results', 'GET', $objects),
			_received('a list of results', 'GET', $objects),
			_lost('a download', 'GET', "$objects/*"),
			_received('a download', 'GET', "$objects/*"),
			_cancelled("$jobs/*:cancel"),
			_lost('the removal of an object', 'DELETE', "$objects/*"),
			_lost('the removal of a job', 'DELETE', "$jobs/*"));
	},
	gemini => sub {
		my ($upload, $create, $batches, $files) =
		  ('/upload/v1beta/files', '/v1beta/models/*:batchGenerateContent', '/v1beta/batches', '/v1beta/files');

		return (
			_lost('a session', 'POST', $upload),
			_lost('an upload', 'POST', "$upload*", left => 1),
			_sent('an upload', 'POST', "$upload*"),
			_lost('a creation', 'POST', $create),
			_received('the reply to a creation', 'POST', $create),
			_overtaken($create, "GET $batches"),
			_killed_again($create, $batches),
			_lost('a look', 'GET', "$batches/*"),
			_received('the reply to a look', 'GET', "$batches/*"),
			_lost('a download', 'GET', '/download/v1beta/files/*'),
			_received('a download', 'GET', '/download/v1beta/files/*'),
			_cancelled("$batches/*:cancel"),
			_lost('the removal of a file', 'DELETE', "$files/*"),
			_lost('the removal of a batch', 'DELETE', "$batches/*"));
	});

sub request_points
{
	my ($provider) = @_;
	return $requests{$provider}->();
}

# All requests that may be under way are stopped at the same time, from the
# beginning or when some rows are answered.
sub online_request_points
{
	my ($provider) = @_;
	my %path = (
		openai => '/v1/chat/completions',
		vertex => '/v1/projects/*:generateContent',
		gemini => '/v1beta/models/*:generateContent');
	my @points;

	foreach my $skip (0, 18)
	{
		my %hold = (method => 'POST', path => $path{$provider}, skip => $skip);
		my $when = $skip ? 'some rows are answered, then ' : '';

		push @points,
		  [ "${when}requests have not arrived", hold => { %hold, at => 'arrival' } ],
		  [ "${when}requests are carried out after the crash", hold => { %hold, at => 'arrival' }, release => 'work' ],
		  [ "${when}requests break off", hold => { %hold, at => 'request_body' } ],
		  [ "${when}requests are carried out, the replies are not there", hold => { %hold, at => 'reply' }, release => 'work' ],
		  [ "${when}replies come in part", hold => { %hold, at => 'response_body' }, release => 'work' ];
	}
	return @points;
}

1;
