#!/bin/bash
#
# Sourced by run.sh and demo.sh: a scratch directory in which an
# ordinary user can run PostgreSQL with this extension.
#
# PostgreSQL finds its files relative to its own executable, so a copy of the
# installation, laid out like the original, takes the extension without
# anything being installed into the system.  The tree is copied as well, because
# the user that runs PostgreSQL need not be able to read it where it lies.

set -uo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# the one of the system, whatever PATH becomes below
PG_CONFIG=$(command -v "${PG_CONFIG:-pg_config}")
export PG_CONFIG

# Nothing of the caller's may reach a test: neither his server nor his secrets,
# and no proxy between us and 127.0.0.1.
unset PGHOST PGHOSTADDR PGPORT PGUSER PGPASSWORD PGPASSFILE PGDATABASE PGDATA \
	PGOPTIONS PGSERVICE PGSERVICEFILE PGSSLMODE PGTZ PGDATESTYLE \
	PGCLIENTENCODING PGCONNECT_TIMEOUT PGAPPNAME PSQLRC
unset OPENAI_API_KEY GOOGLE_API_KEY GEMINI_API_KEY ANTHROPIC_API_KEY \
	GOOGLE_APPLICATION_CREDENTIALS CLOUDSDK_CONFIG GOOGLE_CLOUD_QUOTA_PROJECT
# a cloud machine has a metadata server: no test may ask it
export GCE_METADATA_HOST=127.0.0.1:1
unset http_proxy https_proxy all_proxy no_proxy \
	HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
# the library of the TAP tests removes LC_ALL, and then LANG decides on the encoding
export LC_ALL=C.UTF-8 LANG=C.UTF-8 TZ=UTC

# initdb refuses root: root lends its work to the user that the system has for
# it.  Programs are exec'ed, so that $! of one in the background is its own.
as_server_user()
{
	"${lend[@]}" "$@"
}

choose_server_user()
{
	local user=postgres

	lend=(env HOME="$scratch")
	[ "$(id -u)" -eq 0 ] || return 0
	id "$user" >/dev/null 2>&1 || user=nobody
	chown -R --no-dereference "$user": "$scratch" || return
	lend=(setpriv --reuid="$user" --regid="$(id -g "$user")" --init-groups
		env HOME="$scratch" USER="$user" LOGNAME="$user")
}

# Copies the sources to $tree, without what building and fuzzing leave in them.
copy_tree()
{
	tar -C "$top" -cf - --no-wildcards-match-slash --exclude='./test/simulator/*.o' \
		--exclude=./.git --exclude=./tmp_check \
		--exclude='./test/*/build' --exclude='./test/*/build_*' . |
		tar -C "$tree" -xf -
}

# Sets $scratch (directory), $tree (copy of the sources in it) and $pg_bin,
# $pg_lib (the private installation's).
make_scratch()
{
	local bindir pkglibdir sharedir

	bindir=$("$PG_CONFIG" --bindir)
	pkglibdir=$("$PG_CONFIG" --pkglibdir)
	sharedir=$("$PG_CONFIG" --sharedir)

	# not in TMPDIR: the path of a Unix socket must stay short
	scratch=$(mktemp -d /tmp/dess_batch.XXXXXX) || return
	trap remove_scratch EXIT
	trap 'exit 130' INT
	trap 'exit 143' HUP TERM

	local root=$scratch/pg
	pg_bin=$root$bindir
	pg_lib=$root$pkglibdir
	tree=$scratch/tree

	# executables must be copies: PostgreSQL follows symbolic links to them
	mkdir -p "$pg_bin" "$pg_lib" "$root$sharedir" "$tree" "$scratch/tmp" &&
		cp -rL "$bindir/." "$pg_bin" &&
		cp -rs "$pkglibdir/." "$pg_lib" &&
		cp -rs "$sharedir/." "$root$sharedir" &&
		rm -f "$pg_lib"/dess_batch* "$root$sharedir"/extension/dess_batch* &&
		env -u MAKEFLAGS -u MAKELEVEL make -s --no-print-directory -C "$top" \
			install DESTDIR="$root" &&
		copy_tree || return

	choose_server_user || return

	export PATH=$pg_bin:$PATH TMPDIR=$scratch/tmp
	export PG_REGRESS=$pg_lib/pgxs/src/test/regress/pg_regress
}

# Stops every server that was started in the scratch directory and still runs,
# and whatever else is left of what we started, by process id: its home is the
# scratch directory.  Then removes the directory.
remove_scratch()
{
	local pidfile

	trap '' INT HUP TERM
	find "$scratch" -name postmaster.pid -print0 2>/dev/null |
		while IFS= read -r -d '' pidfile
		do
			as_server_user "$pg_bin/pg_ctl" -s -w -t 60 -m immediate \
				-D "$(dirname "$pidfile")" stop >/dev/null 2>&1
		done
	grep -lzx "HOME=$scratch" /proc/[0-9]*/environ 2>/dev/null |
		sed 's|/proc/\([0-9]*\)/environ|\1|' | xargs -r kill 2>/dev/null
	rm -rf "$scratch"
}
