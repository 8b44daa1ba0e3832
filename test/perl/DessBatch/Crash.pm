# DessBatch/Crash.pm
#		Jobs that are stopped at a chosen point, and what must be true of them
#		after the server was killed there.
#
# A point is either a request that the simulator holds ("hold"), or a place in
# one of the worker's transactions ("pin"), where a trigger or a function waits
# for an advisory lock of ours.  Each point has a simulator, a server and a
# table of its own; a pin has a database too, because it stops its worker.  So
# one kill serves all points of a matrix at once.

package DessBatch::Crash;

use strict;
use warnings;

use DessBatch;
use DessBatch::CrashPoints;
use DessBatch::Session;
use Exporter 'import';
use JSON::PP ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);

our @EXPORT = qw(
  crash_node
  crash_matrix
  crash_rounds
  crash_figures
  kill_workers
  kill_server
);

use constant BATCH_ROWS => 15;
use constant CONCURRENCY => 8;

my %model = (openai => 'gpt-4o-mini', vertex => 'gemini-3.5-flash', gemini => 'gemini-3.5-flash');
my $serial = 0;
my %figures = (points => 0, kills => 0, jobs => 0, rows => 0, answered => 0, 'answered again' => 0,
	batches => 0, 'batches too many' => 0, 'left over' => 0);

# What all matrices of this test came to, in words.
sub crash_figures
{
	return join ', ', map { "$_ $figures{$_}" }
	  ('points', 'kills', 'jobs', 'rows', 'answered', 'answered again', 'batches', 'batches too many', 'left over');
}

# A server that comes up again after a crash.  Options as of start_node.
sub crash_node
{
	my ($name, %options) = @_;

	return start_node($name, %options,
		conf => "restart_after_crash = on\nmax_worker_processes = 60\nmax_connections = 150\ndess_batch.idle_timeout = 1s\n" . ($options{conf} // ''));
}

# ---- killing

# The workers of all databases, at the same moment; returns when they are gone
# and the server, which starts anew because of it, takes connections.
sub kill_workers
{
	my ($node) = @_;
	my @pids = wait_until('a worker', sub {
		return $node->safe_psql('postgres',
			"SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type = 'dess_batch worker'");
	});

	@pids = split / /, $pids[0];

	# its end tells that the server has noticed
	my $witness = DessBatch::Session->new($node);

	# one without work may have gone by itself, and then the server stays
	if (kill('KILL', @pids) > 0)
	{
		$figures{kills}++;
		_wait_for_end(@pids, $witness->pid);
	}
	$witness->close;
	wait_until('the server is there again', sub { return _answers($node) });
	return;
}

# The postmaster, and with it, as when the machine goes down, all its children
# at once; or, with children => 0, only it, so that they notice.  Starts the
# server again unless told not to (start => 0).
sub kill_server
{
	my ($node, %options) = @_;
	my $postmaster = (split /\n/, slurp_file($node->data_dir . '/postmaster.pid'))[0];
	my @children = _children($postmaster);

	$figures{kills}++;
	$node->kill9;
	kill 'KILL', @children if $options{children} // 1;
	_wait_for_end($postmaster, @children);
	# a zombie's number would pass for a running server's
	unlink $node->data_dir . '/postmaster.pid';
	$node->start if $options{start} // 1;
	return;
}

sub _children
{
	my ($parent) = @_;
	my @children;

	foreach my $stat (glob '/proc/[0-9]*/stat')
	{
		my $text = eval { slurp_file($stat) } // next;
		push @children, $1 if $text =~ /^([0-9]+) \(.*\) \S $parent /s;
	}
	return @children;
}

# Where nobody asks orphans for their exit status, they stay as zombies: that
# is an end, too, after a while.
sub _wait_for_end
{
	my @pids = @_;
	my $patience = time + 10;

	wait_until("the end of @pids", sub {
		foreach my $pid (@pids)
		{
			my $text = eval { slurp_file("/proc/$pid/stat") } // next;
			return 0 unless time > $patience && $text =~ /^[0-9]+ \(.*\) Z /s;
		}
		return 1;
	});
	return;
}

sub _answers
{
	my ($node) = @_;
	my ($status, $out);

	# psql may end before it has read its input
	eval { ($status, $out) = $node->psql('postgres', 'SELECT 1'); };
	return defined $status && $status == 0;
}

# ---- a matrix

# Stops a job at each of the points, kills, and looks at what became of them.
# Options: kill (called with the node), provider, mode, prefix (of the names).
# A point: [name, what => ...], with
#   hold      the simulator's order: {method, path, at, after, skip, every}
#   pin       the name of the place in a transaction; impatient: lock_timeout
#             is what the worker has set
#   release   what becomes of a held request after the kill: "drop" (it never
#             arrived, or its client is gone), "work" (it is carried out), "late" (as soon
#             as the next worker has looked for what it would have made)
#   looks     how the simulator counts such looks, for "late"
#   again     a further hold, for the same job when it recovers, and a second kill
#   fat       rows are so long that a body is sent in more than one piece
#   faults    further rules; settings: of the simulator
#   act       called with the point when the job is submitted
#   reached   instead of hold and pin: is the job there?  Called again and again
#   between   called with the point after the kill
#   left      how many files that expire by themselves may remain
#   batches   how many batches more than usual are made
#   ends      the job's state (done)
sub crash_matrix
{
	my ($node, $points, %options) = @_;
	my @points = map { _point($node, $_, %options) } @$points;

	$_->prepare foreach @points;
	$node->safe_psql('postgres', join('', map { $_->_table } grep { !$_->{pin} } @points));
	$_->submit foreach @points;
	$_->reach foreach @points;
	$options{kill}->($node);
	$_->after_kill foreach @points;
	if (my @again = grep { $_->{again} } @points)
	{
		$_->reach foreach @again;
		$options{kill}->($node);
		$_->release($_->{again}{release} // 'drop') foreach @again;
	}
	foreach my $p (@points)
	{
		subtest $p->{title} => sub { $p->check };
		$p->{simulator}->stop;
	}
	return;
}

# The matrices of a provider in both modes, for a killed worker and for a killed
# server, three times, each time with random kills beside.  SEED=N in the
# environment repeats the random ones of a run.
sub crash_rounds
{
	my ($provider) = @_;
	my $seed = $ENV{SEED} // time % 1000000;

	foreach my $round (1 .. 3)
	{
		my $node = crash_node("crash_$round");
		# in one round the postmaster alone: its children find out by themselves
		my %kill = (worker => \&kill_workers,
			server => sub { kill_server($_[0], children => $round != 2) });

		foreach my $way ('worker', 'server')
		{
			crash_matrix($node, [ request_points($provider), transaction_points() ],
				provider => $provider, kill => $kill{$way}, prefix => "$round, $way: ");
			crash_matrix($node, [ online_request_points($provider), online_transaction_points() ],
				provider => $provider, mode => 'online', kill => $kill{$way}, prefix => "$round, $way, online: ");
		}
		_random($node, $provider, int($seed) + $round, 12);
		$node->stop;
		unlike(slurp_file($node->logfile), qr/PANIC|terminated by signal (?!9)/,
			'nothing has crashed but what was killed');
		diag "$provider, after round $round: " . crash_figures();
	}
	return;
}

# Kills at random moments, in random ways, while a job for each provider and
# mode runs.  What happens when is up to the seed and the machine.
sub _random
{
	my ($node, $first, $seed, $kills) = @_;
	my @points = map {
		my ($provider, $mode) = @$_;

		_point($node, [ "$provider, $mode", rows => 150, left => 99, reached => sub { return 1 },
			settings => { batch_ms => 400, latency_ms => 150 } ],
			provider => $provider, mode => $mode, prefix => "seed $seed: ");
	} map { ([ $_, 'batch' ], [ $_, 'online' ]) } ($first, grep { $_ ne $first } ('openai', 'vertex', 'gemini'));

	note "seed $seed";
	srand($seed);
	$_->prepare foreach @points;
	$node->safe_psql('postgres', join('', map { $_->_table } @points));
	$_->submit foreach @points;
	$_->reach foreach @points;
	foreach my $n (1 .. $kills)
	{
		my ($moment, $way) = (rand(1.5), int(rand(3)));

		sleep $moment;
		kill_server($node, children => $way == 1) if $way < 2;
		next unless $way == 2;
		last if $node->safe_psql('postgres',
			'SELECT bool_and(stands_still) FROM dess_batch.figures') eq 't';
		kill_workers($node);
	}
	foreach my $p (@points)
	{
		$p->{kills} = $kills;
		$p->{held} = CONCURRENCY * $kills;
		subtest $p->{title} => sub { $p->check };
		$p->{simulator}->stop;
	}
	return;
}

sub _point
{
	my ($node, $definition, %options) = @_;
	my ($name, %point) = @$definition;
	my $provider = $options{provider} // 'openai';
	my $mode = $options{mode} // 'batch';
	my $id = ++$serial;

	return bless {
		rows => 40, release => 'drop', left => _copies($provider, $name), batches => 0, ends => 'done', %point,
		name => $name, title => ($options{prefix} // '') . $name, node => $node,
		provider => $provider, mode => $mode, id => $id, table => "crash_$id",
		database => $point{pin} ? "crash_$id" : 'postgres'
	}, __PACKAGE__;
}

# The Gemini API's files cannot be found by name, so what was being sent is sent
# again, and the copies expire: as many as there are batches, when the kill comes
# before all of them are there.
sub _copies
{
	my ($provider, $name) = @_;
	return $provider eq 'gemini' && $name !~ /look|download|cancel|remov|results|answer|outcome|usage|merged|job ends/ ? 3 : 0;
}

sub sql
{
	my ($p, $sql) = @_;
	return $p->{node}->safe_psql($p->{database}, $sql);
}

sub simulator { return $_[0]{simulator}; }
sub stats { return $_[0]{simulator}->get('stats'); }

# How often requests of this kind came ("POST /v1/batches").
sub requests { return $_[0]->stats->{requests}{ $_[1] } // 0; }

# Where a transaction of the worker can be pinned: row triggers on the ledger
# name every change of a batch, a job and its results; "read" is in the middle
# of a page of the user's table, "write" in the middle of a group of answers.
sub _pins
{
	my ($p) = @_;
	my $patience = $p->{impatient} ? '' : 'SET lock_timeout = 0';

	return qq{
		CREATE FUNCTION public.pin(name text) RETURNS boolean LANGUAGE plpgsql STABLE $patience}
	  . q{
		AS $$ BEGIN PERFORM pg_catalog.pg_advisory_xact_lock_shared(pg_catalog.hashtext(name)); RETURN true; END $$;
		CREATE FUNCTION public.pin_batch() RETURNS trigger LANGUAGE plpgsql
		AS $$ BEGIN
			PERFORM public.pin(CASE WHEN TG_OP = 'INSERT' THEN '>' || NEW.state
				WHEN OLD.state <> NEW.state THEN OLD.state || '>' || NEW.state
				WHEN OLD.remote_deleted_at IS NULL AND NEW.remote_deleted_at IS NOT NULL THEN 'cleaned'
				WHEN OLD.polls < NEW.polls THEN 'polled'
				WHEN OLD.ok < NEW.ok THEN 'counted'
				ELSE 'other' END);
			RETURN NULL;
		END $$;
		CREATE FUNCTION public.pin_job() RETURNS trigger LANGUAGE plpgsql
		AS $$ BEGIN PERFORM public.pin('job>' || NEW.state); RETURN NULL; END $$;
		CREATE FUNCTION public.pin_table() RETURNS trigger LANGUAGE plpgsql
		AS $$ BEGIN PERFORM public.pin(TG_TABLE_NAME); RETURN NULL; END $$;
		CREATE TRIGGER pin AFTER INSERT OR UPDATE ON dess_batch.batch FOR EACH ROW EXECUTE FUNCTION public.pin_batch();
		CREATE TRIGGER pin AFTER UPDATE ON dess_batch.job FOR EACH ROW WHEN (OLD.state <> NEW.state) EXECUTE FUNCTION public.pin_job();
		CREATE TRIGGER pin AFTER INSERT ON dess_batch.item FOR EACH ROW EXECUTE FUNCTION public.pin_table();
		CREATE TRIGGER pin AFTER INSERT ON dess_batch.result FOR EACH ROW EXECUTE FUNCTION public.pin_table();
		CREATE TRIGGER pin AFTER INSERT OR UPDATE ON dess_batch.usage FOR EACH ROW EXECUTE FUNCTION public.pin_table();};
}

sub prepare
{
	my ($p) = @_;

	$p->{simulator} = start_simulator(
		batch_ms => 60,
		google => $p->{provider} eq 'vertex',
		arguments => [ '--threads', 2 ]);
	$p->{simulator}->post('settings', $p->{settings}) if $p->{settings};
	$p->{simulator}->post('faults', $p->{faults}) if $p->{faults};
	$p->order($p->{$_}) foreach grep { $p->{$_} } ('hold', 'again');
	if ($p->{pin})
	{
		$p->{node}->safe_psql('postgres', "CREATE DATABASE $p->{database}");
		$p->sql('CREATE EXTENSION dess_batch');
	}
	create_server($p->{node}, $p->{simulator},
		database => $p->{database}, name => $p->{table}, provider => $p->{provider},
		options => { max_batch_requests => BATCH_ROWS, max_concurrency => CONCURRENCY, %{ $p->{server} // {} } });
	if ($p->{pin})
	{
		$p->sql($p->_pins . $p->_table);
		$p->{session} = DessBatch::Session->new($p->{node}, database => $p->{database});
		$p->{session}->query("SELECT pg_advisory_lock(hashtext('$p->{pin}'))");
	}
	return;
}

# The rows, and a table in which every write of an answer leaves a row.
sub _table
{
	my ($p) = @_;
	my ($table, $rows) = @$p{qw(table rows)};
	my $more = $p->{fat} ? q{ || repeat(' and more', 12000)} : '';
	my $pin = $p->{pin} ? "IF NEW.id = $rows - 2 THEN PERFORM public.pin('write'); END IF;" : '';

	return qq{
		CREATE TABLE $table (id integer PRIMARY KEY, body text, answer text);
		INSERT INTO $table SELECT i, 'item' || i || ' of many'$more FROM generate_series(1, $rows) i;
		CREATE TABLE ${table}_writes (id integer);
		CREATE FUNCTION public.${table}_note() RETURNS trigger LANGUAGE plpgsql AS \$\$ BEGIN
			INSERT INTO public.${table}_writes VALUES (NEW.id);
			$pin
			RETURN NULL;
		END \$\$;
		CREATE TRIGGER note AFTER UPDATE ON $table FOR EACH ROW EXECUTE FUNCTION public.${table}_note();};
}

# Has the simulator hold requests; the first one of this kind, in batch mode.
sub order
{
	my ($p, $hold) = @_;
	my %match = map { $_ => $hold->{$_} } grep { defined $hold->{$_} } qw(method path body);
	my %rule = (match => \%match, hold => { at => $hold->{at}, defined $hold->{after} ? (after => $hold->{after}) : () });

	$rule{skip} = $hold->{skip} if $hold->{skip};
	$rule{times} = 1 if $p->{mode} eq 'batch';
	$p->{simulator}->post('faults', \%rule);
	return;
}

sub submit
{
	my ($p) = @_;
	my $where = $p->{pin} ? qq{, where_sql => 'id <> $p->{rows} - 2 OR public.pin(''read'')'} : '';

	$figures{points}++;
	$figures{jobs}++;
	$figures{rows} += $p->{rows};
	$p->{job} = submit_job($p->{node},
		"'$p->{table}', '$model{$p->{provider}}', prompt => '{body}', target => 'answer', "
		  . "mode => '$p->{mode}', server => '$p->{table}'$where", $p->{database});
	$p->{act}->($p) if $p->{act};
	return;
}

# Waits until the job stands at its point.  Online, as many requests as may be
# under way stand there at the same time.
sub reach
{
	my ($p) = @_;
	my $held = 0;
	my $since = time;

	if ($p->{reached})
	{
		wait_until($p->{title}, sub { return $p->{reached}->($p) });
		$p->{held} = CONCURRENCY;
		$p->{ids} = [];
		return;
	}
	if ($p->{pin})
	{
		$p->{node}->poll_query_until('postgres', qq{
			SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.database
				WHERE d.datname = '$p->{database}' AND l.locktype = 'advisory' AND NOT l.granted)})
		  or die "$p->{title}: the job does not come to this point";
		$p->{held} = CONCURRENCY;
		return;
	}
	eval {
		wait_until($p->{title}, sub {
			my $now = @{ $p->{simulator}->get('held') };

			($held, $since) = ($now, time) if $now != $held;
			return $held > 0 && ($p->{mode} eq 'batch' || time > $since + 0.4);
		});
		1;
	} or die "$p->{title} is not reached: " . $p->story;
	$p->{held} = $held;
	$p->{ids} = [ map { $_->{id} } @{ $p->{simulator}->get('held') } ];
	# the next worker's requests are not held
	$p->{simulator}->post('faults/clear') if $p->{mode} eq 'online';
	return;
}

# Are so many rows answered by the simulator, and no more for two seconds?
sub stands_still
{
	my ($p, $least) = @_;
	my $now = $p->stats->{rows_served};

	@$p{qw(served since)} = ($now, time) if $now != ($p->{served} // -1);
	return $now >= $least && time > $p->{since} + 2;
}

# What the ledger and the simulator know, for the message of a test that dies.
sub story
{
	my ($p) = @_;
	return $p->sql(qq{SELECT row_to_json(j) FROM dess_batch_jobs j WHERE job_id = $p->{job};
		SELECT row_to_json(b) FROM dess_batch_batches b WHERE job_id = $p->{job};
		SELECT dess_batch_explain($p->{job})})
	  . JSON::PP->new->canonical->encode({ held => $p->{simulator}->get('held'), %{ $p->stats->{requests} } });
}

# What was held goes on without the client that sent it.
sub after_kill
{
	my ($p) = @_;

	if ($p->{session})
	{
		(delete $p->{session})->close;
	}
	else
	{
		if ($p->{release} eq 'late')
		{
			my $path = $p->{looks};

			wait_until("$p->{title}: a look", sub { return $p->requests($path) > 0 });
		}
		$p->release($p->{release});
	}
	$p->{between}->($p) if $p->{between};
	return;
}

# Lets go what was held when the job was seen at its point.
sub release
{
	my ($p, $how) = @_;
	my %drop = $how eq 'drop' ? (drop => JSON::PP::true) : ();

	$p->{simulator}->post('release', { id => $_, %drop }) foreach @{ $p->{ids} };
	return;
}

# ---- afterwards

sub check
{
	my ($p) = @_;
	my $state = wait_for_job($p->{node}, $p->{job}, $p->{database});
	my ($figures, $answers, $batches, @usage) = split /\n/, $p->sql($p->_facts);
	my ($rows, $done, $failed, $pending) = split /\|/, $figures;

	is($state, $p->{ends}, "the job ends as $p->{ends}");
	is($done + $failed + $pending, $rows, "done $done + failed $failed + pending $pending = rows $rows");
	is("$rows $done", "$p->{rows} $p->{rows}", 'every row is done') if $p->{ends} eq 'done';
	is($answers, "0|0|$done", 'each has its own answer, written once');
	$p->check_paid($done, $batches, @usage);
	$p->check_left;
	return;
}

# Lines: figures of the job; answers that are wrong, not written once, in all;
# batches; requests and tokens of the job, of the server, of the rows.
sub _facts
{
	my ($p) = @_;
	my ($table, $job) = @$p{qw(table job)};

	return qq{
		SELECT rows, done, failed, pending FROM dess_batch_jobs WHERE job_id = $job;
		SELECT count(*) FILTER (WHERE answer IS NOT NULL AND answer NOT LIKE 'item' || id || ' %'),
			count(*) FILTER (WHERE answer IS NOT NULL AND n IS DISTINCT FROM 1), count(answer)
		FROM $table LEFT JOIN (SELECT id, count(*) AS n FROM ${table}_writes GROUP BY id) w USING (id);
		SELECT count(*), count(DISTINCT remote_id) FROM dess_batch.batch WHERE job_id = $job AND no > 0;
		SELECT requests, input_tokens, output_tokens FROM dess_batch_jobs WHERE job_id = $job;
		SELECT sum(requests), sum(input_tokens), sum(output_tokens) FROM dess_batch_usage WHERE server = '$table';
		SELECT count(*) FILTER (WHERE input_tokens > 0), sum(input_tokens), sum(output_tokens)
		FROM dess_batch_rows WHERE job_id = $job};
}

# What was bought, as the simulator counts it and as the ledger says.
sub check_paid
{
	my ($p, $done, $batches, @usage) = @_;
	my $stats = $p->stats;
	my $tokens = $stats->{tokens}{ $p->{mode} };
	my $again = $stats->{rows_served} - $done;

	$figures{answered} += $stats->{rows_served};
	$figures{'answered again'} += $again;
	if ($p->{mode} eq 'batch')
	{
		my $expected = int(($p->{rows} + BATCH_ROWS - 1) / BATCH_ROWS);

		$figures{batches} += $stats->{batches_created};
		$figures{'batches too many'} += $stats->{batches_created} - $expected - $p->{batches};
		is($stats->{batches_created}, $expected + $p->{batches}, 'one batch was made of each set of rows');
		is($batches, "$expected|$expected", 'and the ledger knows it');
		is($again, 0, 'nothing was bought twice');
		is($stats->{prompts}{answered_more_than_once}, 0, 'no row was');
	}
	else
	{
		my $at = $p->{hold} ? $p->{hold}{at} : '';
		my $most = $p->{release} eq 'drop' && $at =~ /arrival|request_body/ ? 0 : $p->{held};

		cmp_ok($again, '<=', $most, "$again requests were sent again, of $p->{held} that were under way");
		is($stats->{prompts}{answered_more_than_once}, $again, 'each of them once') unless $p->{kills};
	}
	return if $again > 0 || $p->{ends} ne 'done';
	is_deeply(\@usage, [ ("$stats->{rows_served}|$tokens->{input}|$tokens->{output}") x 3 ],
		'requests and tokens of job, usage and rows are those that were handed out');
	return;
}

# Nothing of ours stays: not at the provider but what expires by itself, not in the spool.
sub check_left
{
	my ($p) = @_;
	my @left = ('?') x 99;
	my @spool = ('?');
	my $oid = $p->sql('SELECT oid FROM pg_database WHERE datname = current_database()');

	eval {
		wait_until('all is removed', sub {
			@left = $p->files_left;
			return @left <= $p->{left};
		});
	};
	$figures{'left over'} += @left;
	cmp_ok(scalar(@left), '<=', $p->{left}, 'files at the provider: ' . (join(' ', @left) || 'none'));
	is($p->{simulator}->gemini_files_that_stay, 0, 'all of which expire') if $p->{provider} eq 'gemini' && @left > 0;
	eval {
		wait_until('the spool is empty', sub {
			@spool = glob $p->{node}->data_dir . "/dess_batch/$oid/$p->{job}-*";
			return @spool == 0;
		});
	};
	is("@spool", '', 'none in the spool');
	return;
}

sub files_left
{
	my ($p) = @_;

	return $p->{simulator}->objects if $p->{provider} eq 'vertex';
	return ('file') x ($p->{provider} eq 'gemini' ? $p->{simulator}->gemini_files : $p->stats->{files_alive});
}

1;
