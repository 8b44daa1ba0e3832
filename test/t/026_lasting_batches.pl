# Batches that do not end as they should: another account's, those that never end,
# those that the provider turns away.  What takes days is brought about by moving
# the times in the ledger, which the worker reads when it starts.

use strict;
use warnings;

use DessBatch;
use DessBatch::Misbehaviour;
use DessBatch::Scenarios;
use Test::More;

my $node = start_node('lasting_batches');
my %one = (openai => '/v1/batches/*', gemini => '/v1beta/batches/*', vertex => '/v1/projects/*/batchPredictionJobs/*');
my %hours = (openai => 36, gemini => 72, vertex => 120);
my @keys = ('--rotated-key', 'rotated-key', '--key', 'other-key');

sub running
{
	my ($s) = @_;
	return $s->until_true("EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND remote_state ~* 'progress|running')", 'a batch runs');
}

sub set_secret
{
	my ($s, $option, $secret) = @_;
	$s->sql("ALTER USER MAPPING FOR PUBLIC SERVER $s->{server_name} OPTIONS (SET $option \$secret\$$secret\$secret\$)");
	$s->sql("SELECT dess_batch_status($s->{job})");
	return;
}

# The batch runs no longer, and is looked at until the job stands still.
sub finish
{
	my ($s) = @_;

	$s->{simulator}->post('settings', { run_ms => 0 });
	wait_until('the job has ended', sub {
		$s->sql("SELECT dess_batch_status($s->{job})");
		return $s->look('jobs', 'state') =~ /^(done|failed|paused)$/;
	});
	return;
}

sub noted
{
	my ($s) = @_;
	return $s->until_true("EXISTS (SELECT FROM dess_batch_batches WHERE job_id = $s->{job} AND error_code = 'other_account')", 'why it waits is noted');
}

# ---- another account's

foreach my $provider ('openai', 'gemini')
{
	scenario(
		"the key of another project, at $provider",
		provider => $provider,
		flags => \@keys,
		settings => { run_ms => 600000 },
		wait => 0,
		check => sub {
			my ($s) = @_;
			running($s);
			set_secret($s, 'api_key', 'other-key');
			noted($s);
			wait_until('it is looked for again', sub {
				$s->sql("SELECT dess_batch_status($s->{job})");
				return seen($s, 'GET', $one{$provider}, 404) >= 3;
			});
			like($s->look('batches', 'error'), qr/^the secret or the project has changed .*not found/i, "in our words and the provider's");
			is($s->look('progress', 'waiting_for'), 'the account that created batch 1', 'progress shows it');
			like($s->sql("SELECT string_agg(e, ' ') FROM dess_batch_explain($s->{job}) e"),
				qr/not bought again .*\bALTER USER MAPPING.*dess_batch_cancel\($s->{job}\)/, 'explain names the remedy');
			set_secret($s, 'api_key', 'test-key');
			finish($s);
			$s->ended('done', 10, 0);
			$s->all_answered;
			is($s->stats->{batches_created}, 1, 'one batch');
			is($s->stats->{rows_served}, 10, 'nothing was bought twice');
			$s->cleaned;
		});
}

scenario(
	'a batch of another project is given up',
	flags => \@keys,
	settings => { run_ms => 600000 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		running($s);
		set_secret($s, 'api_key', 'other-key');
		noted($s);
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the job is cancelled');
		is($s->ends, 'lost 10', 'its rows are lost');
		is($s->stats->{batches_created}, 1, 'and not bought again');
		$s->until_true("remote_deleted_at = 'infinity' AND error_code = 'other_account' FROM dess_batch_batches WHERE job_id = $s->{job}",
			'what is left at the provider is not called removed');
	});

scenario(
	'a new key of the same project',
	flags => \@keys,
	settings => { run_ms => 600000 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		running($s);
		my $account = $s->sql("SELECT account FROM dess_batch.batch WHERE job_id = $s->{job}");
		# it is not found for a moment as well
		$s->{simulator}->post('faults', { match => { method => 'GET', path => '/v1/batches/*', key => 'ated-key' }, times => 2, status => 404 });
		set_secret($s, 'api_key', 'rotated-key');
		$s->until_true("account <> '$account' FROM dess_batch.batch WHERE job_id = $s->{job}", 'sees the batch, and is remembered');
		is($s->look('batches', 'error_code'), '', 'nothing stands in its way');
		finish($s);
		$s->ended('done', 10, 0);
		$s->all_answered;
		is($s->stats->{batches_created}, 1, 'one batch');
	});

scenario(
	'a new key of a service account',
	provider => 'vertex',
	settings => { run_ms => 600000 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		running($s);
		my $before = $s->sql("SELECT account FROM dess_batch.batch WHERE job_id = $s->{job}");
		like($before, qr/^[0-9a-f]{16}$/, 'the account is remembered');
		set_secret($s, 'service_account_key', ' ' . PostgreSQL::Test::Utils::slurp_file($s->{simulator}->credentials('service-account')));
		finish($s);
		$s->ended('done', 10, 0);
		is($s->sql("SELECT account FROM dess_batch.batch WHERE job_id = $s->{job}"), $before, 'is no other account');
	});

# ---- never ending

my @overdue;

foreach my $provider ('openai', 'vertex', 'gemini')
{
	my $leaves = $provider ne 'gemini';

	scenario(
		"a batch that does not end, at $provider",
		provider => $provider,
		faults => [ { batch => { stuck_at => $provider eq 'openai' ? 'in_progress' : 'RUNNING', fraction => 0.5 }, times => 1 } ],
		settings => { cancel_ms => 300 },
		wait => 0,
		check => sub {
			my ($s) = @_;
			$s->until_true("state IN ('done', 'paused') FROM dess_batch_jobs WHERE job_id = $s->{job}", 'is cancelled');
			is($s->{simulator}->get('stats')->{batches_cancelled}, 1, 'at the provider');
			if (!$leaves)
			{
				like($s->look('jobs', 'error'), qr/^batch 1 did not end at the provider, and was cancelled without one answer$/, 'the job is paused');
				$s->sql("SELECT dess_batch_resume($s->{job})");
				is(wait_for_job($node, $s->{job}), 'done', 'and resumed');
			}
			$s->ended('done', 10, 0);
			$s->all_answered;
			is($s->stats->{batches_created}, 2, 'the rest went in another batch');
			is($s->look('rows', "string_agg(DISTINCT attempts::text, ' ' ORDER BY attempts::text)"), $leaves ? '1 2' : '2', 'as a second attempt');
			is($s->stats->{rows_served}, $leaves ? 10 : 15, 'what was done there counts where it is given out');
			is($s->sql("SELECT string_agg(DISTINCT e, ' ') FROM dess_batch.result, unnest(errors) e WHERE job_id = $s->{job} AND batch_no = 1 AND e IS NOT NULL"),
				"the batch did not end at the provider within $hours{$provider} hours", 'the ledger says why');
			like(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/batch 1 of dess_batch job $s->{job} has not ended at the provider within $hours{$provider} hours/, 'and the log');
			$s->cleaned;
		});
	push @overdue, [ $provider, $hours{$provider} ];
}

scenario(
	'a batch that does not end, and cannot be cancelled',
	faults => [
		{ batch => { stuck_at => 'in_progress', fraction => 0.5 }, times => 1 },
		{ match => { method => 'POST', path => '/v1/batches/*/cancel' }, json => {} }
	],
	wait => 0,
	check => sub {
		my ($s) = @_;
		$s->until_true("state = 'paused' FROM dess_batch_jobs WHERE job_id = $s->{job}", 'is given up');
		cmp_ok(seen($s, 'POST', '/v1/batches/*/cancel'), '>=', 1, 'after it was told to end');
		like($s->look('jobs', 'error'), qr/did not end at the provider, and was cancelled without one answer/, 'the job says why it is paused');
		$s->sql("SELECT dess_batch_resume($s->{job})");
		is(wait_for_job($node, $s->{job}), 'done', 'and goes on');
		$s->ended('done', 10, 0);
		is($s->stats->{batches_created}, 2, 'in another batch');
	});
push @overdue, [ 'openai', $hours{openai}, 2 ];

scenario(
	'a batch that may still end',
	faults => [ { batch => { stuck_at => 'in_progress' }, times => 1 } ],
	wait => 0,
	check => sub {
		my ($s) = @_;
		my $looks = seen($s, 'GET', $one{openai});

		wait_until('it is looked at', sub {
			$s->sql("SELECT dess_batch_status($s->{job})");
			return seen($s, 'GET', $one{openai}) >= $looks + 3;
		});
		is(seen($s, 'POST', '/v1/batches/*/cancel'), 0, 'is not cancelled');
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		is(wait_for_job($node, $s->{job}), 'cancelled', 'but by the user');
	});
push @overdue, [ 'openai', $hours{openai} - 1 ];

# ---- others

scenario(
	'a job that is cancelled while its batch is looked at',
	settings => { run_ms => 600000, cancel_ms => 300 },
	wait => 0,
	check => sub {
		my ($s) = @_;
		my $held;

		running($s);
		$s->{simulator}->post('faults', { match => { method => 'GET', path => '/v1/batches/*' }, times => 1, hold => { at => 'reply' } });
		$s->sql("SELECT dess_batch_status($s->{job})");
		wait_until('a look is under way', sub { return @{ $s->{simulator}->get('held') } > 0 });
		$s->sql("SELECT dess_batch_cancel($s->{job})");
		$s->until_true("state = 'cancelling' FROM dess_batch_jobs WHERE job_id = $s->{job}", 'the job is being cancelled');
		$s->{simulator}->post('release', {});
		is(wait_for_job($node, $s->{job}), 'cancelled', 'the job ends');
		is($s->stats->{batches_cancelled}, 1, 'and the provider was told');
	});

foreach my $provider ('gemini', 'vertex')
{
	scenario(
		"a batch that fails at $provider before it has begun, for load",
		provider => $provider,
		faults => [ { batch => { state => 'FAILED', fraction => 0, code => 'RESOURCE_EXHAUSTED', message => 'Resource exhausted, please try again later' } } ],
		wait => 0,
		check => sub {
			my ($s) = @_;
			$s->until_true("state = 'uploaded' AND remote_id IS NULL AND error_code = 'RESOURCE_EXHAUSTED' FROM dess_batch_batches WHERE job_id = $s->{job}", 'is put back');
			is(seen($s, 'DELETE', $one{$provider}, 200), $s->stats->{batches_created}, 'its job there is removed, as often as it was tried');
			is($s->files_left, 1, 'its request file is not');
			$s->sql("SELECT dess_batch_cancel($s->{job})");
			is(wait_for_job($node, $s->{job}), 'cancelled', 'the job is cancelled');
			is($s->stats->{rows_served}, 0, 'nothing was bought');
			$s->cleaned;
		});
}

run_scenarios($node, started => sub {
	my $jobs = $node->safe_psql('postgres', q{SELECT string_agg(job_id::text, ' ' ORDER BY job_id) FROM dess_batch_jobs});
	my @jobs = (split / /, $jobs)[5 .. 9];

	my $updates = '';

	foreach my $i (0 .. $#overdue)
	{
		my (undef, $hours, $cancelled) = @{ $overdue[$i] };

		ok($node->poll_query_until('postgres', "SELECT remote_state ~* 'progress|running' FROM dess_batch_batches WHERE job_id = $jobs[$i]"), 'a batch runs');
		$updates .= "UPDATE dess_batch.batch SET remote_created_at = now() - interval '$hours hours 1 minute'"
		  . ($cancelled ? ", remote_cancelled_at = now() - interval '$cancelled hours'" : '') . " WHERE job_id = $jobs[$i];";
	}
	# the worker must not save what it knows in between
	$node->safe_psql('postgres', qq{
		BEGIN;
		LOCK TABLE dess_batch.batch IN EXCLUSIVE MODE;
		$updates
		SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE backend_type = 'dess_batch worker';
		COMMIT});
});
$node->stop;
done_testing();
