#!/bin/bash
#
# Installs what building and showing (argument "demo"), testing (argument
# "test"), testing under valgrind (argument "valgrind") or measuring (argument
# "bench") need and is not there yet; with "packages", prints what building needs.  Quick when nothing is missing.
#
# Debian's PostgreSQL packages create and start a cluster "main" when they are
# first installed.  That is switched off while they are being installed; a
# cluster that exists already is not touched.

set -eu

PG_CONFIG=${PG_CONFIG:-pg_config}
OLDEST_POSTGRESQL=15

BUILD_PACKAGES="gcc libc6-dev libcurl4-openssl-dev libcjson-dev libssl-dev libmicrohttpd-dev perl"
VALGRIND_PACKAGES="valgrind libc6-dbg"
BENCH_PACKAGES="curl nginx-light libnginx-mod-http-echo"
TEST_PACKAGES="libipc-run-perl
	nodejs
	npm
	chromium
	clang
	fonts-dejavu-core
	libclang-rt-dev
	libdbd-pg-perl
	sqitch"

here=$(cd "$(dirname "$0")" && pwd)

complain()
{
	echo "bootstrap: $*" >&2
	exit 1
}

as_root()
{
	if [ "$(id -u)" -eq 0 ]
	then
		"$@"
	else
		sudo "$@"
	fi
}

have_libfuzzer()
{
	ls "$(clang -print-resource-dir 2>/dev/null)"/lib/*/libclang_rt.fuzzer*.a >/dev/null 2>&1
}

# Prints those of the given packages that are not installed.  Node and clang
# may have come from elsewhere.
missing_packages()
{
	for package in "$@"
	do
		case $package in
			nodejs) ! command -v node >/dev/null || continue ;;
			npm) ! command -v npm >/dev/null || continue ;;
			clang | libclang-rt-dev) ! have_libfuzzer || continue ;;
		esac
		dpkg-query -W -f '${db:Status-Status}\n' "$package" 2>/dev/null |
			grep -qx installed || echo "$package"
	done
}

# A server, its headers and its test programs, all of one version.
have_postgresql()
{
	pgxs=$("$PG_CONFIG" --pgxs 2>/dev/null) && [ -f "$pgxs" ] &&
		[ -x "$("$PG_CONFIG" --bindir)/initdb" ] &&
		[ -f "$("$PG_CONFIG" --includedir-server)/postgres.h" ] &&
		[ -x "$(dirname "$pgxs")/../test/regress/pg_regress" ]
}

# The packages of the version that pg_config names, else of the version that
# this release of Debian has.
postgresql_packages()
{
	major=$("$PG_CONFIG" --version 2>/dev/null | sed -n 's/^PostgreSQL \([0-9]*\).*/\1/p')
	[ -n "$major" ] || major=$(apt-cache show postgresql 2>/dev/null |
		sed -n 's/^Depends:.*postgresql-\([0-9][0-9]*\).*/\1/p' | sort -n | tail -n 1)
	major=${major:-$OLDEST_POSTGRESQL}
	echo "postgresql-$major postgresql-server-dev-$major"
}

apt()
{
	as_root env DEBIAN_FRONTEND=noninteractive \
		apt-get -qq -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 "$@"
}

no_main_cluster=/etc/postgresql-common/createcluster.d/dess_batch.conf
no_services=/usr/sbin/policy-rc.d

allow_main_cluster()
{
	[ ! -e "$no_main_cluster" ] || as_root rm -f "$no_main_cluster"
	! grep -qs dess_batch "$no_services" || as_root rm -f "$no_services"
}

forbid_main_cluster()
{
	trap allow_main_cluster EXIT
	trap 'exit 1' HUP INT TERM
	as_root mkdir -p "$(dirname "$no_main_cluster")"
	echo 'create_main_cluster = false' | as_root tee "$no_main_cluster" >/dev/null
	# nor is nginx started, which only benchmarks need; a rule that is there stays
	[ -e "$no_services" ] && return
	printf '#!/bin/sh\n# dess_batch: nothing is started\nexit 101\n' | as_root tee "$no_services" >/dev/null
	as_root chmod 755 "$no_services"
}

install_packages()
{
	command -v apt-get >/dev/null ||
		complain "this is not a Debian system; please install what these packages hold: $*"
	[ "$(id -u)" -eq 0 ] || command -v sudo >/dev/null ||
		complain "neither root nor sudo; please have these packages installed: $*"

	apt update
	have_postgresql || set -- "$@" $(postgresql_packages)
	echo "bootstrap: installing $*"
	forbid_main_cluster
	log=$(mktemp)
	if ! apt install --yes --no-install-recommends "$@" >"$log" 2>&1
	then
		cat "$log" >&2
		rm -f "$log"
		complain "could not install: $*"
	fi
	rm -f "$log"
	allow_main_cluster
}

# Clients of the providers, written by others, that judge the simulator.
install_node_modules()
{
	cd "$here/npm"
	[ node_modules/.package-lock.json -nt package.json ] && return
	echo "bootstrap: installing the Node packages of test/npm"
	npm install --no-audit --no-fund --no-package-lock --loglevel=error ||
		complain "could not install the Node packages of test/npm"
	touch node_modules/.package-lock.json
}

purpose=${1:-test}
[ "$purpose" != packages ] || { echo $BUILD_PACKAGES; exit; }
wanted=$BUILD_PACKAGES
[ "$purpose" = demo ] || wanted="$wanted $TEST_PACKAGES"
[ "$purpose" != valgrind ] || wanted="$wanted $VALGRIND_PACKAGES"
[ "$purpose" != bench ] || wanted="$wanted $BENCH_PACKAGES"

if command -v dpkg-query >/dev/null
then
	missing=$(missing_packages $wanted)
	if [ -n "$missing" ] || ! have_postgresql
	then
		install_packages $missing
	fi
fi

have_postgresql ||
	complain "no PostgreSQL server with development files found by \"$PG_CONFIG\""
major=$("$PG_CONFIG" --version | sed 's/^[^0-9]*\([0-9]*\).*/\1/')
[ "$major" -ge "$OLDEST_POSTGRESQL" ] ||
	complain "PostgreSQL $OLDEST_POSTGRESQL or later is needed, this is $("$PG_CONFIG" --version)"

[ "$purpose" = demo ] && exit

# Extensions of others come for one version of Debian's server, and not for each.
# Where there is none, the test that needs it says that it was not run.
cron=postgresql-$major-cron
if [ ! -f "$("$PG_CONFIG" --sharedir)/extension/pg_cron.control" ] &&
	apt-cache show "$cron" >/dev/null 2>&1 &&
	[ "$("$PG_CONFIG" --bindir)" = "/usr/lib/postgresql/$major/bin" ]
then
	install_packages "$cron"
fi
install_node_modules
