# Accidents at the moments when a second file, batch or answer could be bought:
# a restart after half an upload, another project when it is asked whether a
# batch exists, the end of the worker while a large batch is being given up.
# Each case has a simulator of its own; one kill serves all of them.

use strict;
use warnings;

use DessBatch;
use DessBatch::Crash;
use DessBatch::Session;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my %model = (openai => 'gpt-4o-mini', vertex => 'gemini-3.5-flash', gemini => 'gemini-3.5-flash');
my $node = crash_node('paid_once');
my @cases;

sub sql { return $node->safe_psql($_[1] // 'postgres', $_[0]); }

sub until_true
{
	my ($what, $sql, $database) = @_;
	return ok($node->poll_query_until($database // 'postgres', "SELECT $sql"), $what);
}

# Options: provider, rows, body, faults, flags, database, setup (SQL), ready (what
# is held, unless it is a function), drop (what is held), before (the kill), after
# (it), check (in the end).
sub begin_case
{
	my ($name, %options) = @_;
	my $c = { provider => 'openai', rows => 15, body => q{'item' || i || ' of many'}, database => 'postgres',
		name => $name, table => 'case_' . (@cases + 1), %options };
	my $s = $c->{simulator} = start_simulator(batch_ms => 30, google => $c->{provider} eq 'vertex',
		arguments => [ '--threads', 2, @{ $c->{flags} // [] } ]);

	push @cases, $c;
	$s->post('faults', $c->{faults});
	if ($c->{database} ne 'postgres')
	{
		sql("CREATE DATABASE $c->{database}");
		sql('CREATE EXTENSION dess_batch', $c->{database});
	}
	create_server($node, $s, name => $c->{table}, provider => $c->{provider}, database => $c->{database});
	sql(qq{
		CREATE TABLE $c->{table} (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $c->{table} SELECT i, $c->{body} FROM generate_series(1, $c->{rows}) i;}, $c->{database});
	sql($c->{setup}, $c->{database}) if $c->{setup};
	$c->{session} = $c->{pin}->($c) if $c->{pin};
	$c->{job} = submit_job($node,
		"'$c->{table}', '$model{$c->{provider}}', '{body}', 'answer', server => '$c->{table}'", $c->{database});
	return;
}

sub requests { return $_[0]{simulator}->get('stats')->{requests}{ $_[1] } // 0; }

# Every row is answered once, in so many batches that were made.
sub paid_once
{
	my ($c, $batches) = @_;

	is(wait_for_job($node, $c->{job}, $c->{database}), 'done', 'the job ends');
	is(job_figures($node, $c->{job}, $c->{database}), "done $c->{rows} $c->{rows} 0 0", 'all rows are done');
	is(sql("SELECT count(*) FROM $c->{table} WHERE answer IS NULL OR answer NOT LIKE 'item' || id || ' %'", $c->{database}), 0,
		'each has its own answer');
	my $stats = $c->{simulator}->get('stats');
	is($stats->{rows_served}, $c->{rows}, 'nothing was bought twice');
	is($stats->{prompts}{answered_more_than_once}, 0, 'no row was answered twice');
	is($stats->{batches_created}, $batches, "batches: $batches");
	is(sql("SELECT max(attempts) FROM dess_batch_rows WHERE job_id = $c->{job}", $c->{database}), 1, 'at the first attempt');
	return;
}

# ---- another project, when it is asked whether a batch exists

my %elsewhere = (
	openai => [ "ALTER SERVER %s OPTIONS (ADD openai_project 'proj_other')", 'ALTER SERVER %s OPTIONS (DROP openai_project)' ],
	gemini => [ map { "ALTER USER MAPPING FOR PUBLIC SERVER %s OPTIONS (SET api_key '$_')" } 'other-key', 'test-key' ]);
my %create = (openai => '/v1/batches', gemini => '/v1beta/models/*:batchGenerateContent');
my %list = (openai => 'GET /v1/batches', gemini => 'GET /v1beta/batches');

# Then the project is named again, or the batch is given up.
sub looked_for_elsewhere
{
	my ($c) = @_;

	until_true('the batch is waited for', "state = 'creating' AND error_code = 'other_account' FROM dess_batch_batches WHERE job_id = $c->{job}");
	my $looks = requests($c, $list{ $c->{provider} });
	wait_until('it is looked for again', sub {
		sql("SELECT dess_batch_status($c->{job})");
		return requests($c, $list{ $c->{provider} }) > $looks;
	});
	is($c->{simulator}->get('stats')->{batches_created}, $c->{drop} ? 0 : 1, 'none is made in the other project');
	like(sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($c->{job}) e"),
		qr/the secret or the project has changed.*not bought again .*\bALTER SERVER.*dess_batch_cancel\($c->{job}\)/, 'explain says why, and what to do');
	is(sql("SELECT waiting_for FROM dess_batch_progress WHERE job_id = $c->{job}"), 'the account that created batch 1', 'progress says it as well');
	sql($c->{give_up} ? "SELECT dess_batch_cancel($c->{job})" : sprintf $elsewhere{ $c->{provider} }[1], $c->{table});
	sql("SELECT dess_batch_status($c->{job})");
	return;
}

sub found_or_given_up
{
	my ($c) = @_;

	return paid_once($c, 1) unless $c->{give_up};
	is(wait_for_job($node, $c->{job}), 'cancelled', 'the job is cancelled');
	is(outcomes($node, $c->{job}), "cancelled $c->{rows}", 'with its rows');
	is($c->{simulator}->get('stats')->{batches_created}, 1, 'and not made again');
	until_true('what is left at the provider is not called removed',
		"remote_deleted_at = 'infinity' AND error_code = 'other_account' FROM dess_batch_batches WHERE job_id = $c->{job}");
	return;
}

foreach my $case (
	[ 'openai', 'has not arrived', 'arrival', drop => 1 ],
	[ 'openai', 'was carried out', 'reply' ],
	[ 'openai', 'was carried out and is given up', 'reply', give_up => 1 ],
	[ 'gemini', 'was carried out', 'reply' ])
{
	my ($provider, $what, $at, @more) = @$case;

	begin_case("a creation at $provider $what, and another project is asked for it",
		provider => $provider, @more,
		flags => [ '--key', 'test-key', '--key', 'other-key' ],
		faults => [ { match => { method => 'POST', path => $create{$provider} }, times => 1, hold => { at => $at } } ],
		before => sub { sql(sprintf $elsewhere{$provider}[0], $_[0]{table}) },
		after => \&looked_for_elsewhere,
		check => \&found_or_given_up);
}

# ---- an upload that broke off, and then a restart

my %upload = (
	openai => [ 'POST', '/v1/files', 'GET', '/v1/files' ],
	vertex => [ 'PUT', '/upload/storage/*', 'PUT', '/upload/storage/*' ],
	gemini => [ 'POST', '/upload/v1beta/files*', 'POST', '/upload/v1beta/files*' ]);

foreach my $provider ('openai', 'vertex', 'gemini')
{
	my ($method, $path, $then, $there) = @{ $upload{$provider} };

	begin_case("an upload to $provider broke off, then the worker is killed",
		provider => $provider,
		body => q{'item' || i || ' of many' || repeat(' and more', 8000)},
		faults => [
			{ match => { method => $method, path => $path }, skip => $provider eq 'gemini' ? 1 : 0, drop_upload_after => 600000, times => 1 },
			{ match => { method => $then, path => $there }, skip => $provider eq 'gemini' ? 1 : 0, hold => { at => 'arrival' }, times => 1 } ],
		drop => 1,
		check => sub { paid_once($_[0], 1) });
}

# ---- a large batch that is given up in parts

# Stops when it is told of more rows than the first part has.
my $part = q{
	CREATE FUNCTION public.pin() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS $$ BEGIN
		IF (SELECT sum(cardinality(r.nos)) FROM dess_batch.result r WHERE r.job_id = NEW.job_id AND r.batch_no = NEW.batch_no) > 5000
		THEN PERFORM pg_advisory_xact_lock_shared(1); END IF;
		RETURN NULL;
	END $$;
	CREATE TRIGGER pin AFTER INSERT ON dess_batch.result FOR EACH ROW EXECUTE FUNCTION public.pin();};

foreach my $path ('/v1/files', '/v1/batches')
{
	my $state = $path eq '/v1/files' ? 'uploading' : 'creating';

	begin_case("a batch of 7000 rows is too large at POST $path, then the worker is killed",
		rows => 7000,
		database => "large_$state",
		faults => [ { match => { method => 'POST', path => $path }, times => 1, status => 400,
				error => { code => 'too_many_tasks', message => 'The batch has too many tasks.' } } ],
		setup => $part,
		pin => sub {
			my $session = DessBatch::Session->new($node, database => $_[0]{database});
			$session->query('SELECT pg_advisory_lock(1)');
			return $session;
		},
		ready => sub {
			my ($c) = @_;
			return sql(qq{
				SELECT count(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
				WHERE d.datname = '$c->{database}' AND l.locktype = 'advisory' AND NOT l.granted}) > 0
				&& sql('SELECT sum(cardinality(nos)) FROM dess_batch.result', $c->{database}) >= 5000;
		},
		check => sub {
			my ($c) = @_;

			paid_once($c, 2);
			is(sql("SELECT string_agg(state, ' ' ORDER BY batch_no) FROM dess_batch_batches WHERE job_id = $c->{job}", $c->{database}),
				'failed done done', 'the large batch is given up, two smaller ones are done');
		});
}

# ---- all at once

foreach my $c (@cases)
{
	wait_until("$c->{name}: ready", $c->{ready} ? sub { return $c->{ready}->($c) }
		: sub { return @{ $c->{simulator}->get('held') } > 0 });
}
$_->{before}->($_) foreach grep { $_->{before} } @cases;
kill_workers($node);
foreach my $c (@cases)
{
	$c->{session}->close if $c->{session};
	$c->{simulator}->post('release', $c->{drop} ? { drop => JSON::PP::true } : {});
}
foreach my $c (grep { $_->{after} } @cases)
{
	subtest "$c->{name}: it waits" => sub { $c->{after}->($c) };
}
foreach my $c (@cases)
{
	subtest $c->{name} => sub { $c->{check}->($c) };
	$c->{simulator}->stop;
}
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal (?!9)/,
	'nothing has crashed but what was killed');
done_testing();
