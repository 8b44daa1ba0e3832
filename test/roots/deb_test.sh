#!/bin/bash
#
# Runs in a copy of a root (see deb.sh): the package of /exchange is installed
# over an older one, runs jobs, and is purged.

set -uo pipefail

passed=0
failed=0

# ok DESCRIPTION COMMAND...
ok()
{
	local description=$1
	shift

	if "$@"
	then
		passed=$((passed + 1))
		echo "ok - $description"
	else
		failed=$((failed + 1))
		echo "not ok - $description"
	fi
}

as_postgres()
{
	setpriv --reuid=postgres --regid=postgres --clear-groups env HOME=/tmp "$@"
}

query()
{
	as_postgres psql -X -q -A -t -v ON_ERROR_STOP=1 -c "$1"
}

says()
{
	[ "$(query "$1")" = "$2" ]
}

# A job over three rows, whose answers are then looked at.
run_job()
{
	query "UPDATE people SET answer = NULL" &&
		job=$(query "SELECT dess_batch_submit('people', 'gpt-6-luna', prompt => '{body}', target => 'answer')") &&
		query "CALL dess_batch_wait($job)" &&
		says "SELECT state FROM dess_batch_jobs WHERE job_id = $job" done &&
		says 'SELECT count(answer) FROM people' 3
}

cd /tmp || exit
package=$(ls /exchange/postgresql-*-dess-batch_*.deb | tail -n 1)
name=$(dpkg-deb -f "$package" Package)
major=$(sed 's/postgresql-\([0-9]*\)-.*/\1/' <<<"$name")

# the same package as an older version of itself
dpkg-deb -R "$package" older && sed -i 's/^Version: .*/Version: 0.9-1/' older/DEBIAN/control &&
	dpkg-deb -b older older.deb >/dev/null || exit
make -s -C /tree/test/simulator || exit
install -d -o postgres /tmp/simulator
as_postgres /tree/test/simulator/simulator --port-file /tmp/simulator/address --data /tmp/simulator/data \
	--key key --batch-ms 100 --parent $$ &
simulator=$!

ok "the package is installed" dpkg -i older.deb
ok "a cluster is made" pg_createcluster "$major" main -- --auth-local=trust >/dev/null
data=/var/lib/postgresql/$major/main
echo "shared_preload_libraries = 'dess_batch'" >>"/etc/postgresql/$major/main/postgresql.conf"
ok "it starts with the module preloaded" pg_ctlcluster "$major" main start
until [ -s /tmp/simulator/address ]
do
	sleep 0.1
done
query "
	CREATE EXTENSION dess_batch;
	CREATE SERVER openai FOREIGN DATA WRAPPER dess_batch
		OPTIONS (provider 'openai', base_url '$(cat /tmp/simulator/address)/v1', poll_interval '1');
	CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key 'key');
	CREATE TABLE people (id integer PRIMARY KEY, body text, answer text);
	INSERT INTO people SELECT n, 'row ' || n FROM generate_series(1, 3) n"
ok "a job runs" run_job
first=$job

ok "a newer version is installed over it" dpkg -i "$package"
ok "which is the one that is there" test "$(dpkg-query -W -f '${Version}' "$name")" = "$(dpkg-deb -f "$package" Version)"
ok "the server restarts" pg_ctlcluster "$major" main restart
ok "ALTER EXTENSION UPDATE" query 'ALTER EXTENSION dess_batch UPDATE'
ok "the job before the upgrade is known" says "SELECT state FROM dess_batch_jobs WHERE job_id = $first" done
ok "a job runs after the upgrade" run_job
ok "the spool is there" test -d "$data/dess_batch"

sed -i '/shared_preload_libraries/d' "/etc/postgresql/$major/main/postgresql.conf"
ok "the package is purged" dpkg --purge "$name"
ok "the spool is gone" test ! -e "$data/dess_batch"
ok "no file of the package is left" test -z "$(find /usr/share/postgresql /usr/lib/postgresql -name '*dess_batch*')"
ok "the server starts without it" pg_ctlcluster "$major" main restart
ok "the answers stay" says 'SELECT count(answer) FROM people' 3
ok "so does the ledger" says 'SELECT count(*) FROM dess_batch.job' 2

pg_ctlcluster "$major" main stop
kill "$simulator"
echo
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
