#!/bin/bash
#
# Runs benchmarks and writes what they found: run.sh [NAME ...]
#
# A benchmark is a Perl program NAME.pl here (not one that begins with a capital
# or an underscore) on top of Bench.pm; without arguments all of them run, one
# after the other, each with a server and a simulator of its own in a scratch
# directory.  Each leaves results/NAME.json; RESULTS.md and the plots are made
# from all of these, also from those of earlier runs.
#
#   ROWS=N     rows of the large case (1000000); about 20 kB of /tmp for each

. "$(dirname "$0")/../scratch.sh"

bench=$top/test/bench
ROWS=${ROWS:-1000000}
export ROWS
# of the machine, before anybody is lent anything
export BENCH_COMMAND="make bench BENCH=\"$*\" ROWS=$ROWS"
export BENCH_COMMIT=$(git -C "$top" -c safe.directory='*' rev-parse --short HEAD 2>/dev/null)

complain()
{
	echo "bench: $*" >&2
	exit 1
}

if [ $# -eq 0 ]
then
	for file in "$bench"/[a-z]*.pl
	do
		set -- "$@" "$(basename "$file" .pl)"
	done
	BENCH_COMMAND="make bench ROWS=$ROWS"
fi
for name in "$@"
do
	[ -f "$bench/$name.pl" ] || complain "there is no benchmark \"$name\""
done
[ "$(df -Pk /tmp | awk 'NR == 2 { print $4 }')" -gt $((ROWS / 1000 * 20000 / 1000 + 1000000)) ] ||
	complain "not enough room in /tmp for ROWS=$ROWS"

make_scratch || complain "could not prepare a scratch installation in /tmp"
cd "$tree" || exit
export PERL5LIB=$pg_lib/pgxs/src/test/perl:$tree/test/perl:$tree/test/bench
failed=0

for name in "$@"
do
	echo
	echo "== $name"
	as_server_user mkdir -p "$scratch/bench/$name"
	if as_server_user env TESTDIR="$scratch/bench/$name" \
		TESTDATADIR="$scratch/bench/$name/tmp_check" \
		TESTLOGDIR="$scratch/bench/$name/tmp_check/log" perl "test/bench/$name.pl"
	then
		mkdir -p "$bench/results"
		cat "$tree/test/bench/results/$name.json" >"$bench/results/$name.json" || failed=1
	else
		failed=1
		echo "bench: $name failed" >&2
		tail -n 20 "$scratch/bench/$name/tmp_check/log/"* 2>/dev/null >&2
	fi
	# the next one needs the room
	find "$scratch/bench/$name" -name pgdata -prune -exec rm -rf {} +
done

perl "$bench/Report.pl" "$bench" || failed=1
exit "$failed"
