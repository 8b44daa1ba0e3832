#!/bin/bash
#
# Shows one job from start to end: a scratch server, the provider simulator,
# and 240 faculty members whose departments a model is asked for.  Nothing is
# installed, nothing leaves this machine, nothing stays behind.
#
#   MODEL=gpt-6-luna     a model; gemini-* are asked through Vertex AI
#   PROVIDER=gemini      openai, vertex or gemini instead

# the first of the caller's own secrets, of which none is used
real_key=''
for variable in OPENAI_API_KEY GOOGLE_APPLICATION_CREDENTIALS GOOGLE_API_KEY GEMINI_API_KEY
do
	[ -n "$real_key" ] || [ -z "${!variable:-}" ] || real_key=$variable
done
. "$(dirname "$0")/scratch.sh"

MODEL=${MODEL:-gpt-6-luna}
looks=8

# which service is simulated: by the model's name, or as PROVIDER says
case $MODEL in
	gemini-*) PROVIDER=${PROVIDER:-vertex} ;;
	*) PROVIDER=${PROVIDER:-openai} ;;
esac
case $PROVIDER in
	openai) service="OpenAI's batch service" ;;
	vertex) service="Vertex AI and Cloud Storage" ;;
	gemini) service="the Gemini API's batch service" ;;
	*)
		echo "demo: PROVIDER must be openai, vertex or gemini, not \"$PROVIDER\"" >&2
		exit 1
		;;
esac
api_key=demo-key
project=my-project
bucket=my-bucket

bold='' blue='' plain=''
if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]
then
	bold=$'\e[1m' blue=$'\e[36m' plain=$'\e[0m'
fi

chapter()
{
	printf '\n\n%s-- %s%s\n' "$bold" "$*" "$plain"
}

give_up()
{
	printf '\ndemo: %s\n' "$*" >&2
	tail -n 15 "$scratch"/*.log >&2
	exit 1
}

# query SQL: bare values, separated by tabs
query()
{
	as_server_user psql -X -q -A -t -F $'\t' -v ON_ERROR_STOP=1 -c "$1"
}

# show SQL: the statement, then what it gives
show()
{
	printf '\n%s%s%s\n' "$blue" "$1" "$plain"
	as_server_user psql -X -v ON_ERROR_STOP=1 -P footer=off -P linestyle=unicode \
		-P border=1 -P null=NULL <<<"$1" || give_up "this statement failed"
}

finish()
{
	trap '' INT HUP TERM
	if [ -n "${simulator:-}" ]
	then
		kill "$simulator" 2>/dev/null
		wait "$simulator" 2>/dev/null
	fi
	remove_scratch
}

start_server()
{
	export PGHOST=$scratch/tmp PGDATABASE=postgres PGUSER=postgres
	as_server_user initdb -D "$scratch/data" -A trust -U postgres -N \
		--locale=C.UTF-8 -E UTF8 >"$scratch/initdb.log" 2>&1 ||
		give_up "could not create a scratch server"
	as_server_user tee -a "$scratch/data/postgresql.conf" >/dev/null <<-END
		shared_preload_libraries = 'dess_batch'
		listen_addresses = ''
		unix_socket_directories = '$scratch/tmp'
		fsync = off
	END
	as_server_user pg_ctl -s -w -D "$scratch/data" -l "$scratch/server.log" start ||
		give_up "could not start the scratch server"
}

# Starts the simulator and sets $url.
start_simulator()
{
	local tries=0

	as_server_user "$tree/test/simulator/simulator" --port 0 --key "$api_key" \
		--project "$project" --bucket "$bucket" --service-account-file "$scratch/tmp/account.json" \
		--port-file "$scratch/tmp/address" --data "$scratch/tmp/spool" \
		--batch-ms 1500 --parent $$ >"$scratch/simulator.log" 2>&1 &
	simulator=$!
	until [ -s "$scratch/tmp/address" ]
	do
		tries=$((tries + 1))
		[ "$tries" -lt 200 ] && kill -0 "$simulator" 2>/dev/null ||
			give_up "could not start the simulator"
		sleep 0.05
	done
	url=$(cat "$scratch/tmp/address")
}

# The account: a server and its secret, where and how as $PROVIDER has them.
show_account()
{
	case $PROVIDER in
		openai)
			show "CREATE SERVER openai FOREIGN DATA WRAPPER dess_batch
  OPTIONS (provider 'openai', base_url '$url/v1', poll_interval '1');"
			show "CREATE USER MAPPING FOR PUBLIC SERVER openai OPTIONS (api_key '$api_key');"
			;;
		vertex)
			show "CREATE SERVER vertex FOREIGN DATA WRAPPER dess_batch
  OPTIONS (provider 'vertex', project '$project', location 'us-central1', bucket '$bucket',
           base_url '$url/v1', storage_url '$url', poll_interval '1');"
			show "\\set key \`cat $scratch/tmp/account.json\`
CREATE USER MAPPING FOR PUBLIC SERVER vertex OPTIONS (service_account_key :'key');"
			;;
		gemini)
			show "CREATE SERVER gemini FOREIGN DATA WRAPPER dess_batch
  OPTIONS (provider 'gemini', base_url '$url/v1beta', poll_interval '1');"
			show "CREATE USER MAPPING FOR PUBLIC SERVER gemini OPTIONS (api_key '$api_key');"
			;;
	esac
}

# The same account at the real service.
print_real_account()
{
	case $PROVIDER in
		vertex)
			cat <<-END
				  CREATE SERVER vertex FOREIGN DATA WRAPPER dess_batch
				    OPTIONS (provider 'vertex', project '...', location 'us-central1', bucket '...');
				  CREATE USER MAPPING FOR PUBLIC SERVER vertex OPTIONS (service_account_key '{...}');
			END
			;;
		*)
			cat <<-END
				  CREATE SERVER $PROVIDER FOREIGN DATA WRAPPER dess_batch OPTIONS (provider '$PROVIDER');
				  CREATE USER MAPPING FOR PUBLIC SERVER $PROVIDER OPTIONS (api_key '...');
			END
			;;
	esac
}

# How it goes with fewer statements.
print_shortcut()
{
	case $PROVIDER in
		openai)
			cat <<-END
				Where OPENAI_API_KEY is set in the environment of the server, a superuser needs
				neither CREATE SERVER nor CREATE USER MAPPING.
			END
			;;
		vertex)
			cat <<-END
				A superuser's server needs no CREATE USER MAPPING where GOOGLE_APPLICATION_CREDENTIALS
				in the environment of the server names a key file, or on a machine of Google's cloud
				that has a service account. SELECT * FROM dess_batch_check('vertex') tells what is missing.
			END
			;;
		gemini)
			cat <<-END
				Where GOOGLE_API_KEY or GEMINI_API_KEY is set in the environment of the server, a
				superuser needs neither CREATE SERVER nor CREATE USER MAPPING.
			END
			;;
	esac
}

load_faculty()
{
	query "CREATE TABLE faculty (id integer PRIMARY KEY, id_text text,
			   firstname text, lastname text, university text,
			   snippet_1 text, snippet_2 text, snippet_3 text, snippet_4 text)" &&
		query "CREATE TABLE expected (id integer PRIMARY KEY, department text, shape text)" &&
		query "COPY faculty FROM '$tree/test/data/faculty.csv' WITH (FORMAT csv, HEADER)" &&
		query "COPY expected FROM '$tree/test/data/faculty_expected.csv' WITH (FORMAT csv, HEADER)" ||
		give_up "could not load the faculty table"
}

# Looks at the job now and then while it moves.
watch_progress()
{
	local state percent bar rows finished failed waiting look last=''
	local sql="SELECT state, percent, bar, rows, done, failed, waiting_for FROM dess_batch_progress;"

	printf '\n%s%s%s\n' "$blue" "$sql" "$plain"
	for ((look = 0; look < looks * 10; look++))
	do
		IFS=$'\t' read -r state percent bar rows finished failed waiting < <(
			query "SELECT state, coalesce(percent::text, '-'), coalesce(bar, '-'), coalesce(rows::text, '-'),
					   done, failed, coalesce(waiting_for, '-') FROM dess_batch_progress")
		if [ "$state" != "$last" ]
		then
			[ -n "$last" ] || printf ' %-10s │ %7s │ %-20s │ %4s │ %4s │ %6s │ %s\n' \
				state percent bar rows "done" failed waiting_for
			printf ' %-10s │ %7s │ %-20s │ %4s │ %4s │ %6s │ %s\n' \
				"$state" "$percent" "$bar" "$rows" "$finished" "$failed" "$waiting"
			last=$state
		fi
		case $state in running | done | failed | paused | cancelled) break ;; esac
		sleep 0.1
	done
}

make_scratch || exit
trap finish EXIT
cd "$scratch" || exit
start_server
start_simulator
load_faculty

cat <<END

${bold}dess_batch${plain}: a language model reads the rows of a table and fills in a column.

This is PostgreSQL $(query 'SHOW server_version') in a scratch directory. At
$url, on this machine, a simulator answers as
$service would: no key, no cost, nothing leaves the house.
END

chapter "What we have: people, and the text that a search found about them"
show "SELECT id, firstname, lastname, left(snippet_1, 64) AS snippet_1
  FROM faculty ORDER BY id LIMIT 6;"

chapter "Set up, once: an account at a provider is a server, its key a user mapping"
show "CREATE EXTENSION dess_batch;"
show_account

chapter "One column, one call: it returns at once, a background worker does the rest"
show "ALTER TABLE faculty ADD COLUMN department_llm text;"
show "SELECT dess_batch_submit('faculty', '$MODEL') AS job;"
job=$(query "SELECT max(job_id) FROM dess_batch_jobs")

chapter "Look, as often as you like"
watch_progress
show "CALL dess_batch_wait($job, '90 s');"

chapter "The answers are in the table"
show "SELECT id, lastname, left(concat_ws(' … ', nullif(snippet_1, ''), nullif(snippet_2, '')), 54) AS snippets,
       department_llm
  FROM faculty WHERE id <= 20 ORDER BY id;"
show "SELECT state, rows, requests, done, failed, input_tokens, output_tokens,
       finished_at - created_at AS took
  FROM dess_batch_jobs WHERE job_id = $job;"

chapter "How good is it? The faculty table was made with the right answers beside it"
show "SELECT shape AS kind_of_text, count(*) AS rows,
       count(*) FILTER (WHERE department_llm IS NOT DISTINCT FROM department) AS as_expected,
       min(department_llm) AS for_example
  FROM faculty JOIN expected USING (id) GROUP BY shape ORDER BY shape;"
read -r right all < <(query "SELECT count(*) FILTER (WHERE department_llm IS NOT DISTINCT FROM department), count(*)
	FROM faculty JOIN expected USING (id)" | tr '\t' ' ')
cat <<END
$right of $all rows are as expected. The simulator's model is a set of rules: this is a
check of the way there and back, a real model has its own score.
END

chapter "The same with the real service"
cat <<END

In a server that has the extension installed ("make install", then
shared_preload_libraries = 'dess_batch' and a restart), with your own key:

  CREATE EXTENSION dess_batch;
$(print_real_account)
  SELECT dess_batch_submit('faculty', '$MODEL');

$(print_shortcut)
END
[ -z "$real_key" ] || echo "(Your $real_key was not used here.)"
[ "$(query "SELECT state FROM dess_batch_jobs WHERE job_id = $job")" = "done" ] ||
	give_up "the job did not end well"
