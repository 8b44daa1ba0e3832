# The official clients of Google judge the simulator: google-auth-library,
# @google-cloud/storage, @google/genai in both its modes, and the
# JobServiceClient of @google-cloud/aiplatform.  Needs node and
# test/npm/node_modules.
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
my $directory = tempdir(CLEANUP => 1);
my %judges = (
	'google_auth_client.mjs' => 'google-auth-library',
	'storage_client.mjs' => '@google-cloud/storage',
	'genai_client.mjs' => '@google/genai',
	'aiplatform_client.mjs' => '@google-cloud/aiplatform');
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

# Starts the simulator, with its credentials in $directory; returns its address.
sub start_simulator
{
	my $until = time + 20;
	my $parent = $$;
	my @files =
	  map { my $option = $_ =~ tr/_/-/r; ("--$option-file", "$directory/$_.json") }
	  qw(service_account authorized_user external_account impersonated);

	$pid = fork // die "could not fork: $!";
	if ($pid == 0)
	{
		open STDOUT, '>', '/dev/null';
		exec($simulator, '--port-file', "$directory/address", '--batch-ms', '60',
			'--key', 'test-key', '--key', 'other-key', '--parent', $parent, @files)
		  or POSIX::_exit(127);
	}
	while (time < $until)
	{
		if (open my $in, '<', "$directory/address")
		{
			chomp(my $address = <$in>);
			return $address;
		}
		last if waitpid($pid, 1) == $pid;
		sleep 0.02;
	}
	return;
}

# Runs one script; what it prints becomes tests.
sub judge
{
	my ($script, $address) = @_;
	my $announced;
	my $seen = 0;

	open my $out, '-|', 'node', '--no-warnings', "$test/npm/$script", $address, $directory
	  or die "could not run node: $!";
	while (my $line = <$out>)
	{
		chomp $line;
		if ($line =~ /^(not )?ok (.*)/)
		{
			ok(!$1, $2);
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
	is($?, 0, "$script ends well");
	is($announced, $seen, "$script went through all checks");
	return;
}

ok(-x $simulator, "the simulator is built (make -C test/simulator)");

my $address = -x $simulator ? start_simulator() : undef;
ok($address, "the simulator listens");

foreach my $script (sort keys %judges)
{
	ok(-d "$modules/$judges{$script}", "$judges{$script} is installed (npm install in test/npm)");
	judge($script, $address) if $address && -d "$modules/$judges{$script}";
}

done_testing();
