#!/bin/bash
#
# Runs fuzz targets, one after the other; the Makefile calls it.
#
#   fuzz.sh check RUNS SEED TARGET...     from the kept corpus, and forget what is new
#   fuzz.sh fuzz SECONDS SEED TARGET...   from the kept corpus and build/corpus, which grows
#   fuzz.sh corpus TARGET...              make both the kept corpus, as small as it can be
#
# check ends with "N passed, N failed": a target that ran less often than it was
# told to has failed.

cd "$(dirname "$0")" || exit

passed=0
failed=0

# fuzz TARGET OPTION... DIRECTORY...
fuzz()
{
	local target=$1
	shift

	"build/$target" -dict=words.dict -max_len=4096 -timeout=10 -rss_limit_mb=2048 \
		-artifact_prefix="build/found/$target-" -print_final_stats=1 "$@"
}

# The kept corpus of a target, as files in build/kept.
unpack_kept()
{
	rm -rf build/kept build/new
	mkdir -p build/kept build/new build/found "build/corpus/$1"
	[ ! -e "corpus/$1.txt" ] || perl corpus.pl unpack "corpus/$1.txt" build/kept
}

runs_of()
{
	sed -n 's/^stat::number_of_executed_units: *//p' "$1"
}

check()
{
	local runs=$1 seed=$2 target ran
	shift 2

	for target in "$@"
	do
		unpack_kept "$target"
		fuzz "$target" -runs="$runs" -seed="$seed" -verbosity=0 build/new build/kept >build/log 2>&1
		if [ $? -eq 0 ] && ran=$(runs_of build/log) && [ "${ran:-0}" -ge "$runs" ]
		then
			passed=$((passed + 1))
			echo "ok $((passed + failed)) - $target, $ran runs"
		else
			failed=$((failed + 1))
			tail -n 60 build/log
			echo "not ok $((passed + failed)) - $target"
		fi
	done
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
}

fuzz_for()
{
	local seconds=$1 seed=$2 target
	shift 2

	for target in "$@"
	do
		unpack_kept "$target"
		fuzz "$target" -max_total_time="$seconds" -seed="$seed" -verbosity=0 \
			"build/corpus/$target" build/kept >build/log 2>&1 ||
			{ tail -n 60 build/log; exit 1; }
		echo "$target: $(runs_of build/log) runs"
	done
}

keep()
{
	local target

	mkdir -p corpus
	for target in "$@"
	do
		unpack_kept "$target"
		fuzz "$target" -merge=1 -max_len=512 build/new build/kept "build/corpus/$target" >build/log 2>&1 ||
			{ tail -n 60 build/log; exit 1; }
		perl corpus.pl pack build/new >"corpus/$target.txt"
		echo "$target: $(wc -l <"corpus/$target.txt") inputs, $(wc -c <"corpus/$target.txt") bytes"
	done
}

action=$1
shift
case $action in
	check) check "$@" ;;
	fuzz) fuzz_for "$@" ;;
	corpus) keep "$@" ;;
	*) echo "fuzz.sh: unknown action \"$action\"" >&2; exit 2 ;;
esac
