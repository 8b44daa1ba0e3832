#!/bin/bash
#
# Builds and tests with other versions of PostgreSQL, each in a root of the
# release of Debian that has it: versions.sh [SUITE ...]
#
# The last line is "N passed, N failed".  A release that cannot be had is a
# failure, but only a warning when it is Debian unstable, which may be broken
# on any day.  TESTS replaces what is run.

. "$(dirname "$0")/root.sh"

# what may depend on the version of the server; the other TAP files look at
# providers, whose code is the same in all
TESTS=${TESTS:-unit regress isolation
	test/t/012_merge.pl
	test/t/015_worker.pl
	test/t/017_targets.pl
	test/t/020_security.pl
	test/t/021_bad_input.pl
	test/t/023_bad_surroundings.pl
	test/t/029_lost_and_left.pl
	test/t/043_crash_server.pl
	test/t/049_table_code.pl
	test/t/050_user_tables.pl
	test/t/051_tables_of_all_kinds.pl
	test/t/052_text.pl
	test/t/063_trigger.pl
	test/t/066_ledger.pl
	test/t/067_copies.pl
	test/t/069_extending.pl
	test/t/071_explain.pl}

passed=0
failed=0
report=

version_of()
{
	case $1 in
		trixie) echo 17 ;;
		sid) echo 18 ;;
		*) return 1 ;;
	esac
}

# test_suite SUITE VERSION: adds a line to the report
test_suite()
{
	local suite=$1 version=$2 log=$roots/$1.test.log sums good bad

	if ! make_root "$suite" $("$top/test/bootstrap.sh" packages) make ccache libipc-run-perl \
		"postgresql-$version" "postgresql-server-dev-$version"
	then
		report+="PostgreSQL $version, Debian $suite: could not be had"$'\n'
		[ "$suite" = sid ] || failed=$((failed + 1))
		return
	fi

	echo
	echo "== PostgreSQL $version, Debian $suite"
	# shellcheck disable=SC2086
	in_copy "$suite" bash -c 'cd /tree && export WERROR=1 PG_CONFIG=/usr/lib/postgresql/$1/bin/pg_config && shift &&
			make -s -j2 all simulator && test/run.sh "$@"
			status=$?; [ ! -d tmp_check ] || cp -r tmp_check /exchange; exit "$status"' \
		test "$version" $TESTS 2>&1 | tee "$log"
	sums=$(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1)
	good=${sums%% *}
	bad=${sums#*, }
	bad=${bad%% *}
	[ -n "$sums" ] || sums="did not build"
	report+="PostgreSQL $version, Debian $suite: $sums"$'\n'
	passed=$((passed + ${good:-0}))
	failed=$((failed + ${bad:-1}))
}

install_tools || { echo "0 passed, 1 failed"; exit 1; }

[ $# -gt 0 ] || set -- trixie sid
for suite in "$@"
do
	version=$(version_of "$suite") || { echo "versions.sh: unknown suite: $suite" >&2; exit 2; }
	exchange=$top/tmp_check.$suite
	rm -rf "$exchange"
	mkdir -p "$exchange" && chmod 1777 "$exchange"
	export exchange
	test_suite "$suite" "$version"
	rmdir "$exchange" 2>/dev/null
done

echo
printf '%s' "$report"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
