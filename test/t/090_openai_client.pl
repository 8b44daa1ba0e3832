# The official client of OpenAI judges the simulator: files, batches, chat,
# responses, models and their errors.  Needs node and test/npm/node_modules.
#
# DESS_SIM names the simulator's program; without it the one built in
# test/simulator is taken.
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Temp qw(tempdir);
use POSIX ();
use Test::More;
use Time::HiRes qw(sleep time);

my $test = dirname(dirname(abs_path(__FILE__)));
my $simulator = $ENV{DESS_SIM} // "$test/simulator/simulator";
my $modules = "$test/npm/node_modules";
my $pid;

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

# Starts the simulator; returns its address.
sub start_simulator
{
	my $port_file = tempdir(CLEANUP => 1) . '/port';
	my $until = time + 20;
	my $parent = $$;

	$pid = fork // die "could not fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		exec($simulator, '--port-file', $port_file, '--batch-ms', '60', '--key', 'test-key',
			'--key', 'other-key', '--parent', $parent)
		  or POSIX::_exit(127);
	}
	while (time < $until)
	{
		if (open my $in, '<', $port_file)
		{
			chomp(my $address = <$in>);
			return $address;
		}
		last if waitpid($pid, 1) == $pid;
		sleep 0.02;
	}
	return;
}

ok(-x $simulator, "the simulator is built (make -C test/simulator)");
ok(-d "$modules/openai", "the official client is installed (npm install in test/npm)");

my $address = -x $simulator ? start_simulator() : undef;
ok($address, "the simulator listens");

if ($address && -d "$modules/openai")
{
	my $announced;
	my $seen = 0;

	open my $out, '-|', 'node', "$test/npm/openai_client.mjs", $address
	  or die "could not run node: $!";
	while (my $line = <$out>)
	{
		chomp $line;
		if ($line =~ /^ok (.*)/)
		{
			pass($1);
			$seen++;
		}
		elsif ($line =~ /^not ok (.*)/)
		{
			fail($1);
			$seen++;
		}
		elsif ($line =~ /^done (\d+)$/)
		{
			$announced = $1;
		}
		else
		{
			diag($line);
		}
	}
	close $out;
	is($?, 0, 'the client ends well');
	is($announced, $seen, 'the client went through all checks');
}

done_testing();
