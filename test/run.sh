#!/bin/bash
#
# Runs the tests and counts them: run.sh [part or file ...]
#
# Parts are unit (test/unit), fuzz (test/fuzz), regress (test/sql), isolation
# (test/specs) and tap (test/t); without arguments, all of them.  Asked for by
# name only: long (test/long), whose files run one after the other, and valgrind.
# A part that breaks off, finds no test or skips one counts as failed.  Neither a
# part nor the whole run has a time limit; a TAP file has one (FILE_TIMEOUT, see
# tap.pl).  The last line is "N passed, N failed".

. "$(dirname "$0")/scratch.sh"

LONG_FILE_TIMEOUT=${LONG_FILE_TIMEOUT:-3600}
FUZZ_RUNS=${FUZZ_RUNS:-40000}
VALGRIND_TESTS=${VALGRIND_TESTS:-test/t/010_faculty.pl test/t/030_vertex.pl test/t/031_gemini.pl}

passed=0
failed=0

# count PART STATUS PASSED FAILED: a part that failed without a failed test,
# or ran none, is a failure of its own
count()
{
	local part=$1 status=$2 good=$3 bad=$4

	if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] || [ "$good" -eq 0 ]; }
	then
		echo "$part: ended with exit status $status after $good tests"
		bad=1
	fi
	echo "$part: $good passed, $bad failed"
	passed=$((passed + good))
	failed=$((failed + bad))
}

matches()
{
	grep -cE "$1" "$2"
}

# sum FILE N: adds up the Nth number of the lines "N passed, N failed" in FILE
sum()
{
	sed -nE 's/^.*\b([0-9]+) passed, ([0-9]+) failed.*$/\1 \2/p' "$1" 2>/dev/null |
		awk -v n="$2" '{ s += $n } END { print s + 0 }'
}

run_unit()
{
	local log=$scratch/unit.log

	env -u MAKEFLAGS -u MAKELEVEL \
		make -s --no-print-directory -C "$top/test/unit" check 2>&1 | tee "$log"
	count unit "${PIPESTATUS[0]}" "$(sum "$log" 1)" "$(sum "$log" 2)"
}

# the same runs each time, unless FUZZ_SEED is 0
run_fuzz()
{
	local log=$scratch/fuzz.log

	env -u MAKEFLAGS -u MAKELEVEL \
		make -s --no-print-directory -j"$(nproc)" -C "$top/test/fuzz" check \
		RUNS="$FUZZ_RUNS" SEED="${FUZZ_SEED:-1}" 2>&1 | tee "$log"
	count fuzz "${PIPESTATUS[0]}" "$(sum "$log" 1)" "$(sum "$log" 2)"
}

# run_regress PART PROGRAM NAME...: pg_regress and its twin for isolation tests
# say "test NAME ... ok" up to PostgreSQL 15 and "ok N - NAME" from 16 on
run_regress()
{
	local part=$1 program=$2 output=$scratch/$1 log=$scratch/$1.log
	local status
	shift 2

	as_server_user mkdir -p "$output"
	as_server_user cp -r "$tree/expected" "$output"
	as_server_user "$program" --bindir="$pg_bin" \
		--inputdir="$tree/test" --outputdir="$output" \
		--temp-instance="$output/instance" --temp-config="$tree/test/$part.conf" \
		--encoding=UTF8 --no-locale --dbname=contrib_regression "$@" 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	count "$part" "$status" \
		"$(matches '^(ok [0-9]+ |(test|   ) .* \.\.\. ok)' "$log")" \
		"$(matches '^(not ok [0-9]+ |(test|   ) .* \.\.\. FAILED)' "$log")"
	if [ "$status" -ne 0 ]
	then
		head -n 400 "$output/regression.diffs" 2>/dev/null
		grep -hE 'PANIC|FATAL|terminated by signal' "$output"/log/*.log 2>/dev/null | head -n 20
	fi
}

# run_tap PART JOBS FILE...: so many files at a time
run_tap()
{
	local part=$1 jobs=$2 log=$scratch/$1.log
	local status
	shift 2

	as_server_user mkdir -p "$scratch/$part/tmp_check"
	# TESTDIR is read up to PostgreSQL 15, the other two from 16 on
	as_server_user env TESTDIR="$scratch/$part" \
		TESTDATADIR="$scratch/$part/tmp_check" TESTLOGDIR="$scratch/$part/tmp_check/log" \
		PERL5LIB="$pg_lib/pgxs/src/test/perl:$tree/test/perl" \
		perl test/tap.pl "$jobs" "$scratch/$part/counts" "$@" 2>&1 | tee "$log"
	status=${PIPESTATUS[0]}
	count "$part" "$status" "$(sum "$scratch/$part/counts" 1)" "$(sum "$scratch/$part/counts" 2)"
}

# Everything that follows runs its servers under valgrind, some thirty times slower.
use_valgrind()
{
	export VALGRIND_DIR=$tree/test/valgrind VALGRIND_LOGS=$scratch/valgrind
	export PGCTLTIMEOUT=600 PG_TEST_TIMEOUT_DEFAULT=1800 FILE_TIMEOUT=3600

	as_server_user mkdir -p "$VALGRIND_LOGS"
	mv "$pg_bin/postgres" "$pg_bin/postgres.real" &&
		cp "$tree/test/valgrind/postgres" "$pg_bin/postgres" && chmod 755 "$pg_bin/postgres"
}

# The regression tests and some jobs; passed if no report is about our code.
run_valgrind()
{
	use_valgrind || return
	run_regress regress "$PG_REGRESS" $(names .sql test/sql/*.sql)
	run_tap tap 1 $VALGRIND_TESTS
	if perl test/valgrind/report.pl "$top/src" "$VALGRIND_LOGS"/*.log
	then
		count valgrind 0 1 0
	else
		count valgrind 1 0 1
	fi
}

# names SUFFIX PATH...: what pg_regress calls these files
names()
{
	local suffix=$1 path
	shift

	for path in "$@"
	do
		basename "$path" "$suffix"
	done
}

# What a failed run leaves behind for whoever looks into it.
keep_logs()
{
	rm -rf "$top/tmp_check"
	mkdir -p "$top/tmp_check" &&
		(cd "$scratch" &&
			find . \( -path ./pg -o -path ./tree \) -prune -o -type f \
				\( -name '*.log' -o -name '*.diffs' -o -name '*.out' -o -name 'regress_log_*' \) \
				-print0 | tar -cf - --null --files-from=-) |
		tar -C "$top/tmp_check" --no-same-owner -xf - &&
		echo "The logs of this run are in tmp_check."
}

[ $# -gt 0 ] || set -- unit fuzz regress isolation tap

parts=
sql=()
specs=()
tap=()
long=()
shopt -s nullglob
cd "$top" || exit
for argument in "$@"
do
	case $argument in
		unit | fuzz | valgrind) parts+=" $argument" ;;
		regress) parts+=" regress" sql+=(test/sql/*.sql) ;;
		isolation) parts+=" isolation" specs+=(test/specs/*.spec) ;;
		tap) parts+=" tap" tap+=(test/t/*.pl) ;;
		long) parts+=" long" long+=(test/long/*.pl) ;;
		*.sql) parts+=" regress" sql+=("$argument") ;;
		*.spec) parts+=" isolation" specs+=("$argument") ;;
		test/long/*.pl) parts+=" long" long+=("$argument") ;;
		*.pl) parts+=" tap" tap+=("$argument") ;;
		*) echo "run.sh: neither a part nor a test: $argument" >&2; exit 2 ;;
	esac
done

if ! make_scratch
then
	echo "could not prepare a scratch installation in /tmp" >&2
	echo "0 passed, 1 failed"
	exit 1
fi
cd "$tree" || exit

for part in unit fuzz regress isolation tap long valgrind
do
	[[ " $parts " == *" $part "* ]] || continue
	echo
	echo "== $part"
	case $part in
		unit) run_unit ;;
		fuzz) run_fuzz ;;
		regress) run_regress "$part" "$PG_REGRESS" $(names .sql "${sql[@]}") ;;
		isolation) run_regress "$part" \
			"$pg_lib/pgxs/src/test/isolation/pg_isolation_regress" \
			$(names .spec "${specs[@]}") ;;
		tap) run_tap tap 4 "${tap[@]}" ;;
		long) FILE_TIMEOUT=$LONG_FILE_TIMEOUT run_tap long 1 "${long[@]}" ;;
		valgrind) run_valgrind ;;
	esac
done

echo
[ "$failed" -eq 0 ] || keep_logs
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
