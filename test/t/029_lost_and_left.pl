# What is gone at the provider, and what cannot be removed there: batches and
# result files that are not found for good, and jobs that go on while nothing
# can be cleaned.  "Not found" is believed after a quarter of an hour, so this
# server's clock is moved.

use strict;
use warnings;

use DessBatch;
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;

my $directory = PostgreSQL::Test::Utils::tempdir();
my $minutes = 0;
my @cases;

# Moves the server's clock so many minutes on.
sub pass_time
{
	$minutes += $_[0];
	open(my $file, -e "$directory/clock" ? '+<' : '>', "$directory/clock") or die "could not open the clock: $!";
	syswrite($file, pack('q', int(60 * $minutes + 0.5))) == 8 or die "could not set the clock: $!";
	close $file;
	return;
}

pass_time(0);
system_or_bail('cc', '-shared', '-fPIC', '-O', '-o', "$directory/clock.so", source_file('test/perl/DessBatch/clock.c'));
my $node = start_node('lost_and_left', environment => { LD_PRELOAD => "$directory/clock.so", CLOCK_FILE => "$directory/clock" });

sub sql { return $node->safe_psql('postgres', $_[0]); }

# Options: provider, match (of the requests that are refused), skip, status (404),
# more (faults before that one), mended (does the provider find again what it has
# of the second batch?), check.
sub begin_case
{
	my ($name, %options) = @_;
	my $c = { provider => 'openai', status => 404, mended => 1, name => $name, table => 'case_' . (@cases + 1), seen => 0, %options };
	my $s = $c->{simulator} = start_simulator(batch_ms => 20, google => $c->{provider} eq 'vertex', arguments => [ '--threads', 2 ]);
	my %account;

	push @cases, $c;
	# a login: what is signed with a clock that is wrong is refused
	if ($c->{provider} eq 'vertex')
	{
		my $login = JSON::PP::decode_json(slurp_file($s->credentials('authorized-user')));

		append_to_file("$directory/login", JSON::PP::encode_json({ %$login, token_uri => $s->url . '/token' }));
		chmod 0600, "$directory/login";
		%account = (key => undef, options => { credentials_file => "$directory/login" });
	}
	$s->post('faults', [ @{ $c->{more} // [] }, { match => $c->{match}, status => $c->{status}, skip => $c->{skip} // 0 } ]);
	create_server($node, $s, name => $c->{table}, provider => $c->{provider}, %account);
	sql(qq{
		CREATE TABLE $c->{table} (id integer PRIMARY KEY, body text, answer text, n integer DEFAULT 0);
		INSERT INTO $c->{table} SELECT i, 'item' || i || ' of many' FROM generate_series(1, 10) i;
		CREATE FUNCTION $c->{table}_count() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.n := NEW.n + 1; RETURN NEW; END';
		CREATE TRIGGER n BEFORE UPDATE OF answer ON $c->{table} FOR EACH ROW EXECUTE FUNCTION $c->{table}_count()});
	my $model = $c->{provider} eq 'openai' ? 'gpt-4o-mini' : 'gemini-3.5-flash';
	$c->{job} = submit_job($node, "'$c->{table}', '$model', '{body}', 'answer', server => '$c->{table}'");
	return;
}

sub stats { return $_[0]{simulator}->get('stats'); }
sub fired { return $_[0]{simulator}->get('faults')->[-1]{fired}; }

# Each of the rows has its own answer, which was written once.
sub is_answered
{
	my ($c, $rows) = @_;
	return is(sql("SELECT count(*) FILTER (WHERE n = 1 AND answer LIKE 'item' || id || ' %'), sum(n) FROM $c->{table}"), "$rows|$rows",
		"$rows rows have their answer, written once");
}

# "1 ok, 2 ok": attempts and outcome, and how many rows there are.
sub attempts
{
	return sql("SELECT string_agg(concat_ws(' ', attempts, outcome, n), ', ' ORDER BY attempts, outcome)
		FROM (SELECT attempts, outcome, count(*) AS n FROM dess_batch_rows WHERE job_id = $_[0]{job} GROUP BY 1, 2) r");
}

sub is_cleaned
{
	my ($c) = @_;
	my $left = wait_until('nothing is left', sub {
		sql('SELECT dess_batch_start()');
		return (stats($c)->{files_alive} == 0) || ($c->{patience}++ > 200 && 'files');
	});
	return is($left, 1, 'nothing is left at the provider');
}

# ---- not found

my %content = (
	openai => [ match => { method => 'GET', path => '/v1/files/*/content' } ],
	# the object is there when the list is read
	vertex => [ match => { method => 'GET', path => '/storage/v1/b/test-bucket/o/*prediction*' } ],
	gemini => [ match => { method => 'GET', path => '*:download' } ]);

foreach my $provider ('openai', 'vertex', 'gemini')
{
	begin_case("the results of a batch at $provider are gone",
		provider => $provider, @{ $content{$provider} },
		check => sub {
			my ($c) = @_;

			is(attempts($c), '2 ok 10', 'its rows were sent once more');
			is_answered($c, 10);
			is(stats($c)->{batches_created}, 2, 'in one other batch');
			is(sql("SELECT string_agg(DISTINCT e, ' ') FROM dess_batch.result, unnest(error_codes) e WHERE job_id = $c->{job} AND batch_no = 1"),
				'not_found', 'the ledger says why');
		});
}

begin_case('the results of each batch are gone',
	@{ $content{openai} }, mended => 0,
	check => sub {
		my ($c) = @_;

		is(attempts($c), '3 lost 10', 'three attempts, then its rows are lost');
		is(job_figures($node, $c->{job}), 'done 10 0 10 0', 'and the job ends');
		is(stats($c)->{batches_created}, 3, 'in three batches');
		is_answered($c, 0);
	});

begin_case('the file of errors is gone, that of answers is not',
	@{ $content{openai} }, skip => 1,
	more => [ map { { match => { prompt => "item$_ of" }, row => { outcome => 'http_error', status => 400, message => 'no' }, times => 1 } } 3, 7 ],
	check => sub {
		my ($c) = @_;

		is(attempts($c), '1 ok 8, 2 ok 2', 'only what it was to tell of was sent once more');
		is_answered($c, 10);
		is(stats($c)->{batches_created}, 2, 'in one other batch');
		is(stats($c)->{rows_served}, 10, 'nothing was bought twice');
	});

begin_case('a batch is gone',
	match => { method => 'GET', path => '/v1/batches/*' },
	check => sub {
		my ($c) = @_;

		is(attempts($c), '2 ok 10', 'its rows were sent once more');
		is_answered($c, 10);
		is(stats($c)->{batches_created}, 2, 'in one other batch');
	});

# ---- not to be removed

foreach my $held (0, 1)
{
	begin_case('rows are sent again while ' . ($held ? 'a file is being removed' : 'no file can be removed'),
		match => { method => 'DELETE', path => '/v1/files/*' }, status => 500,
		mended => 0,
		more => [
			$held ? { match => { method => 'DELETE', path => '/v1/files/*' }, hold => { at => 'arrival' }, times => 1, status => 500 } : (),
			map { { match => { prompt => "item$_ of" }, row => { outcome => 'http_error', status => 400, message => 'no' }, times => 1 } } 3, 7 ],
		check => sub {
			my ($c) = @_;

			is(job_figures($node, $c->{job}), 'done 10 8 2 0', 'two rows were refused');
			wait_until('a removal fails', sub { return $held ? @{ $c->{simulator}->get('held') } : fired($c) });
			is(sql("SELECT dess_batch_retry($c->{job})"), 2, 'they are sent again');
			is(wait_for_job($node, $c->{job}), 'done', 'the job ends once more');
			$c->{simulator}->post('release', {}) if $held;
			is(job_figures($node, $c->{job}), 'done 10 10 0 0', 'all are done');
			is_answered($c, 10);
			is(stats($c)->{batches_created}, 2, 'in one other batch');
			is(stats($c)->{rows_served}, 10, 'nothing was bought twice');
			cmp_ok(stats($c)->{files_alive}, '>', 0, 'the files are still there');
			$c->{simulator}->post('faults/clear', {});
			pass_time(10);
			is_cleaned($c);
		});
}

# ---- time passes

my ($gone) = grep { $_->{name} eq 'a batch is gone' } @cases;

wait_until('it is looked for', sub {
	pass_time(0.2);
	sql("SELECT dess_batch_start(); SELECT dess_batch_status($gone->{job})");
	return fired($gone) >= 6;
});
cmp_ok($minutes, '<', 14, 'several looks');
is(sql("SELECT string_agg(state, ' ') FROM dess_batch_batches WHERE job_id = $gone->{job}"), 'running', 'are not believed within a quarter of an hour');

my $worker = wait_until('a worker', sub {
	return sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'});
});

my $idle = 0;

wait_until('all jobs have ended', sub {
	my $open = sql("SELECT string_agg(job_id::text, ' ') FROM dess_batch.figures WHERE NOT stands_still");
	my @open = grep { $open =~ /\b$_->{job}\b/ } @cases;
	my $looked = 0;

	foreach my $c (@open)
	{
		my $fired = $c->{mended} == 2 ? 0 : fired($c);

		if ($c->{mended} == 1 && stats($c)->{batches_created} == 2)
		{
			$c->{simulator}->post('faults/clear', {});
			$c->{mended} = 2;
		}
		$looked = 1 if $fired > $c->{seen};
		$c->{seen} = $fired;
	}
	# what the worker waits for comes sooner, and it is told to look at the clock
	pass_time(5) if $looked || ++$idle % 5 == 0;
	sql(join ';', 'SELECT dess_batch_start()', map { "SELECT dess_batch_status($_->{job})" } @open);
	return !@open;
});
foreach my $c (@cases)
{
	subtest $c->{name} => sub {
		is(sql("SELECT state FROM dess_batch_jobs WHERE job_id = $c->{job}"), 'done', 'the job is done');
		$c->{check}->($c);
		$c->{simulator}->stop;
	};
}
is(sql(q{SELECT pid FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'}), $worker, 'the worker lives on');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP:|terminated by signal/, 'nothing has crashed');
done_testing();
