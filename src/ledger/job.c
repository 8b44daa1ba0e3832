/*-------------------------------------------------------------------------
 *
 * job.c
 *		The ledger: jobs.
 *
 * Counters of a job are changed by addition and its states under a condition
 * on what they were, because users control a job while the worker works on it.
 *
 * A job's "requeued" is the number of its rows that wait in the retry queue and
 * are counted in no batch.  Whoever moves such rows changes it in the same
 * transaction, so that the number of the job's rows stays the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "ledger/internal.h"

const char *const job_state_names[] = {"queued", "active", "done", "cancelled", "failed"};
const char *const job_control_names[] = {"run", "pause", "hold", "cancel", "fail"};
const char *const job_stage_names[] = {"prepare", "upload", "create", "retrieve"};

static const char *const keep_names[] = {"none", "unwritten", "answer", "reply"};

static const char *const outcome_names[] = {
	"ok", "missing", "empty", "stale", "gone", "refused", "truncated",
	"invalid", "rejected", "expired", "cancelled", "lost", "superseded"
};

StaticAssertDecl(lengthof(outcome_names) == OUTCOME_NONE, "an outcome has no name");

const char *
outcome_name(Outcome outcome)
{
	return outcome < OUTCOME_NONE ? outcome_names[outcome] : "none";
}

bool
outcome_from_name(const char *name, Outcome *outcome)
{
	int			position = name_position(outcome_names, lengthof(outcome_names), name);

	if (position < 0)
		return false;
	*outcome = (Outcome) position;
	return true;
}

bool
outcome_settles(Outcome outcome)
{
	switch (outcome)
	{
		case OUTCOME_OK:
		case OUTCOME_MISSING:
		case OUTCOME_EMPTY:
		case OUTCOME_REFUSED:
		case OUTCOME_TRUNCATED:
		case OUTCOME_INVALID:
		case OUTCOME_REJECTED:
			return true;
		case OUTCOME_STALE:
		case OUTCOME_GONE:
		case OUTCOME_EXPIRED:
		case OUTCOME_CANCELLED:
		case OUTCOME_LOST:
		case OUTCOME_SUPERSEDED:
		case OUTCOME_NONE:
			return false;
	}
	return false;
}

bool
outcome_is_done(Outcome outcome)
{
	return outcome == OUTCOME_OK || outcome == OUTCOME_MISSING || outcome == OUTCOME_EMPTY;
}

const char *
job_state_name(JobState state)
{
	return job_state_names[state];
}

bool
job_state_is_final(const char *name)
{
	return name_position(job_state_names, lengthof(job_state_names), name) >= JOB_DONE;
}

bool
keep_from_name(const char *name, KeepWhat *keep)
{
	int			position = name_position(keep_names, lengthof(keep_names), name);

	if (position < 0)
		return false;
	*keep = (KeepWhat) position;
	return true;
}

/* ---- one job as a row ---- */

/* The columns that read_job() expects. */
#define JOB_COLUMNS \
	"j.id, dess_batch.owner_here(j.owner, j.owner_name, j.home), j.owner_name, j.submitted_by, " \
	"dess_batch.source_here(j.source, j.source_name, j.home), j.source_name, j.target, j.model, " \
	"j.mode = 'online', j.provider, j.server, j.server_name, j.label, j.key_columns, j.key_kinds, " \
	"j.prompt, j.system_prompt, j.department, j.input_columns, j.counting_columns, j.where_sql, " \
	"j.overwrite, j.response_schema::text, j.target_columns::text, j.missing, j.parameters::text, " \
	"j.max_rows, j.sample, j.outcomes, j.max_cost::text, j.max_failed::float8, j.keep, " \
	"j.stage, j.control, j.state, j.listed, j.last_key, j.last_batch, j.all_prepared, j.taken, " \
	"j.counted, j.requeued, j.error IS NOT NULL, j.batch_bytes, j.paused_until, j.created_at"

#define JOB_ARGUMENTS	32		/* columns before "stage" */

/* What submit resolved: the first JOB_ARGUMENTS columns. */
static void
read_arguments(const Ledger *ledger, uint64 row, Job *job)
{
	int			c = 0;
	char	   *keep;

	job->id = ledger_get_int64(row, ++c, 0);
	job->owner = ledger_get_oid(row, ++c);
	job->owner_name = ledger_get_text(ledger, row, ++c);
	job->submitted_by = ledger_get_text(ledger, row, ++c);
	job->source = ledger_get_oid(row, ++c);
	job->source_name = ledger_get_text(ledger, row, ++c);
	job->target = ledger_get_text(ledger, row, ++c);
	job->model = ledger_get_text(ledger, row, ++c);
	job->online = ledger_get_bool(row, ++c);
	job->provider = ledger_get_text(ledger, row, ++c);
	job->server = ledger_get_oid(row, ++c);
	job->server_name = ledger_get_text(ledger, row, ++c);
	job->label = ledger_get_text(ledger, row, ++c);
	job->key_columns = ledger_get_list(ledger, row, ++c);
	job->key_kinds = ledger_get_text(ledger, row, ++c);
	job->prompt = ledger_get_text(ledger, row, ++c);
	job->system_prompt = ledger_get_text(ledger, row, ++c);
	job->department = ledger_get_bool(row, ++c);
	job->input_columns = ledger_get_list(ledger, row, ++c);
	job->counting_columns = ledger_get_list(ledger, row, ++c);
	job->where_sql = ledger_get_text(ledger, row, ++c);
	job->overwrite = ledger_get_bool(row, ++c);
	job->response_schema = ledger_get_text(ledger, row, ++c);
	job->target_columns = ledger_get_text(ledger, row, ++c);
	job->missing = ledger_get_text(ledger, row, ++c);
	job->parameters = ledger_get_text(ledger, row, ++c);
	job->max_rows = ledger_get_int64(row, ++c, 0);
	job->sample = ledger_get_bool(row, ++c);
	job->outcomes = ledger_get_list(ledger, row, ++c);
	job->max_cost = ledger_get_text(ledger, row, ++c);
	job->max_failed = ledger_get_float8(row, ++c, 0);
	keep = ledger_get_text(ledger, row, ++c);
	if (!keep_from_name(keep, &job->keep))
		elog(ERROR, "job " INT64_FORMAT " has an unknown value of keep", job->id);
	Assert(c == JOB_ARGUMENTS);
}

static int
read_name(const Ledger *ledger, uint64 row, int column, const char *const *names, int nnames)
{
	char	   *name = ledger_get_text(ledger, row, column);
	int			position = name_position(names, nnames, name);

	if (position < 0)
		elog(ERROR, "unknown value \"%s\" in the ledger", name);
	return position;
}

static Job *
read_job(const Ledger *ledger, uint64 row)
{
	Job		   *job = MemoryContextAllocZero(ledger->caller, sizeof(Job));
	int			c = JOB_ARGUMENTS;

	read_arguments(ledger, row, job);
	job->stage = read_name(ledger, row, ++c, job_stage_names, lengthof(job_stage_names));
	job->control = read_name(ledger, row, ++c, job_control_names, lengthof(job_control_names));
	job->state = read_name(ledger, row, ++c, job_state_names, lengthof(job_state_names));
	job->listed = ledger_get_bool(row, ++c);
	job->last_key = ledger_get_text(ledger, row, ++c);
	job->last_batch = ledger_get_int32(row, ++c);
	job->all_prepared = ledger_get_bool(row, ++c);
	job->taken = ledger_get_int64(row, ++c, 0);
	job->counted = ledger_get_int64(row, ++c, -1);
	job->requeued = ledger_get_int64(row, ++c, 0);
	job->noted = ledger_get_bool(row, ++c);
	job->batch_bytes = ledger_get_int64(row, ++c, 0);
	job->paused_until = ledger_get_time(row, ++c);
	job->created_at = ledger_get_time(row, ++c);
	return job;
}

/* ---- making and loading ---- */

static Statement insert_job = {
	.sql = "INSERT INTO dess_batch.job (owner, owner_name, submitted_by, source, source_name, target, model, mode, "
	"provider, server, server_name, label, key_columns, key_kinds, prompt, system_prompt, department, "
	"input_columns, counting_columns, where_sql, overwrite, response_schema, target_columns, missing, "
	"parameters, max_rows, sample, outcomes, max_cost, max_failed, keep, args, stage, home, extension_version) "
	"SELECT $1, $2, $3, $4, $4::regclass::text, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, "
	"$18, $19, $20, $21::jsonb, $22::jsonb, $23, $24::jsonb, nullif($25, 0), $26, "
	"CASE WHEN cardinality($27) > 0 THEN $27 END, $28::numeric, $29::numeric, $30, $31::jsonb, $32, $33, extversion "
	"FROM pg_catalog.pg_extension WHERE extname = 'dess_batch' "
	"RETURNING id"
};

int64
ledger_insert_job(const Job *job)
{
	Ledger		ledger;
	int64		id;

	ledger_open(&ledger);
	if (ledger_run(&insert_job, arg_oid(job->owner), arg_text(job->owner_name), arg_text(job->submitted_by),
				   arg_oid(job->source), arg_text(job->target), arg_text(job->model),
				   arg_text(job->online ? "online" : "batch"), arg_text(job->provider), arg_oid(job->server),
				   arg_text(job->server_name), arg_text(job->label), arg_list(job->key_columns),
				   arg_text(job->key_kinds), arg_text(job->prompt), arg_text(job->system_prompt),
				   arg_bool(job->department), arg_list(job->input_columns), arg_list(job->counting_columns),
				   arg_text(job->where_sql), arg_bool(job->overwrite), arg_text(job->response_schema),
				   arg_text(job->target_columns), arg_text(job->missing), arg_text(job->parameters),
				   arg_int64(job->max_rows), arg_bool(job->sample), arg_list(job->outcomes),
				   arg_text(job->max_cost), arg_float8(job->max_failed), arg_text(keep_names[job->keep]),
				   arg_text(job->args), arg_text(job_stage_names[job->stage]), arg_home()) != 1)
		elog(ERROR, "could not insert a job");
	id = ledger_get_int64(0, 1, 0);
	ledger_close(&ledger);
	return id;
}

/*
 * Jobs with anything left to do: open ones that are not paused, paused ones with
 * batches in the given states, and those with something to be removed at the
 * provider.  The first condition finds candidates by partial indexes.
 * Jobs that were restored from elsewhere are passed over until ledger_check_identity().
 */
#define WORKING_JOBS(batch_states) \
	"j.id IN (" \
	"SELECT o.id FROM dess_batch.job o WHERE " JOB_IS_OPEN("o.") " AND " JOB_GOES_ON("o.") " " \
	"UNION " \
	"SELECT b.job_id FROM dess_batch.batch b WHERE " BATCH_IS_OPEN("b.") \
	" AND (b.state IN (" batch_states ") OR " BATCH_REMAINS("b.") ")) " \
	"AND j.control <> 'hold' AND j.home = $1 AND (" \
	JOB_IS_OPEN("j.") " AND " JOB_GOES_ON("j.") " " \
	"OR EXISTS (SELECT FROM dess_batch.batch b WHERE b.job_id = j.id AND " BATCH_IS_OPEN("b.") " AND CASE " \
	"WHEN " JOB_IS_OPEN("j.") " THEN b.state IN (" batch_states ") OR " BATCH_IS_FINAL("b.") " " \
	"ELSE " BATCH_IS_FINAL("b.") " AND " BATCH_REMAINS("b.") " END))"

/* What was begun for a paused job is finished, but a worker stays only for what is paid for. */
static Statement select_working_jobs = {
	.sql = "SELECT j.id, j.xmin, j.ctid FROM dess_batch.job j WHERE "
	WORKING_JOBS("'uploading', 'uploaded', 'creating', 'running', 'retrieving'") " ORDER BY j.id"
};

static Statement any_working_job = {
	.sql = "SELECT EXISTS (SELECT FROM dess_batch.job j WHERE "
	WORKING_JOBS("'creating', 'running', 'retrieving'") ")"
};

static Statement select_job = {
	.sql = "SELECT " JOB_COLUMNS " FROM dess_batch.job j WHERE j.id = $1"
};

int
ledger_load_versions(JobVersion **versions)
{
	Ledger		ledger;
	JobVersion *result;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&select_working_jobs, arg_home());
	result = MemoryContextAllocHuge(ledger.caller, Max(n, 1) * sizeof(JobVersion));
	for (uint64 i = 0; i < n; i++)
	{
		result[i].id = ledger_get_int64(i, 1, 0);
		result[i].xmin = DatumGetTransactionId(ledger_datum(i, 2));
		ItemPointerCopy((ItemPointer) DatumGetPointer(ledger_datum(i, 3)), &result[i].place);
	}
	ledger_close(&ledger);
	*versions = result;
	return (int) n;
}

bool
ledger_any_work(void)
{
	Ledger		ledger;
	bool		any;

	ledger_open(&ledger);
	ledger_run(&any_working_job, arg_home());
	any = ledger_get_bool(0, 1);
	ledger_close(&ledger);
	return any;
}

Job *
ledger_load_job(int64 id)
{
	Ledger		ledger;
	Job		   *job = NULL;

	ledger_open(&ledger);
	if (ledger_run(&select_job, arg_int64(id)) > 0)
		job = read_job(&ledger, 0);
	ledger_close(&ledger);
	return job;
}

/* ---- other jobs on the same table and target ---- */

static Statement select_conflict = {
	.sql = "SELECT 'Job ' || j.id || ' has key (' || array_to_string(ARRAY(SELECT quote_ident(c) FROM unnest(j.key_columns) c), ', ') || ').' "
	"FROM dess_batch.job j "
	"WHERE " JOB_IS_OPEN("j.") " AND j.source = $1 AND j.target IS NOT DISTINCT FROM $2 AND j.key_columns <> $3 "
	"AND ($4 = 0 OR j.id < $4) ORDER BY j.id LIMIT 1"
};

static char *
ledger_conflicting_key(Oid source, const char *target, List *key_columns, int64 before_id)
{
	Ledger		ledger;
	char	   *words = NULL;

	ledger_open(&ledger);
	if (ledger_run(&select_conflict, arg_oid(source), arg_text(target), arg_list(key_columns),
				   arg_int64(before_id)) > 0)
		words = ledger_get_text(&ledger, 0, 1);
	ledger_close(&ledger);
	return words;
}

void
ledger_check_key(const Job *job, int64 before_id)
{
	char	   *conflict = ledger_conflicting_key(job->source, job->target, job->key_columns, before_id);
	char	   *name = get_rel_name(job->source);

	if (conflict != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("another job in flight on relation \"%s\" uses another key",
						name != NULL ? name : job->source_name),
				 errdetail_internal("%s", conflict),
				 errhint("Use the same key, or wait for that job.")));
}

static Statement select_known_targets = {
	.sql = "SELECT coalesce(pg_catalog.array_agg(DISTINCT c.name), '{}') FROM "
	"(SELECT j.target AS name FROM dess_batch.job j "
	"WHERE j.source = $1 AND j.target IS NOT NULL AND j.target_columns IS NULL "
	"UNION SELECT e.value FROM dess_batch.job j, pg_catalog.jsonb_each_text(j.target_columns) e "
	"WHERE j.source = $1 "
	"UNION SELECT s.target FROM dess_batch.settled s WHERE s.source = $1 AND s.target <> '') c"
};

List *
ledger_known_targets(Oid source)
{
	Ledger		ledger;
	List	   *targets = NIL;

	ledger_open(&ledger);
	if (ledger_run(&select_known_targets, arg_oid(source)) > 0)
		targets = ledger_get_list(&ledger, 0, 1);
	ledger_close(&ledger);
	return targets;
}

/* ---- progress ---- */

bool
ledger_job_started(int64 id)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job SET state = 'active', started_at = now() WHERE id = $1 AND state = 'queued'"
	};

	return ledger_execute(&statement, arg_int64(id)) > 0;
}

bool
ledger_set_listed(int64 id)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job SET listed = true WHERE id = $1 AND NOT listed"
	};

	return ledger_execute(&statement, arg_int64(id)) > 0;
}

bool
ledger_advance(int64 id, const char *last_key, int64 taken, bool all_prepared, int last_batch)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET last_key = coalesce($2, j.last_key), taken = j.taken + $3, "
		"all_prepared = j.all_prepared OR $4, last_batch = greatest(j.last_batch, $5) "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.")
	};

	return ledger_execute(&statement, arg_int64(id), arg_text(last_key), arg_int64(taken),
						  arg_bool(all_prepared), arg_int32(last_batch)) > 0;
}

void
ledger_set_counted(int64 id, int64 counted)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job SET counted = $2 WHERE id = $1"
	};

	ledger_execute(&statement, arg_int64(id), arg_int64(counted));
}

void
ledger_set_batch_bytes(int64 id, int64 bytes)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job SET batch_bytes = $2 WHERE id = $1"
	};

	ledger_execute(&statement, arg_int64(id), arg_int64(bytes));
}

/* ---- endings ---- */

static bool
update_with_error(Statement *statement, int64 id, const char *error_code, const char *error)
{
	return ledger_execute(statement, arg_int64(id), arg_words(error_code, ERROR_BYTES),
						  arg_words(error, ERROR_BYTES)) > 0;
}

/* If a retry commits first, this statement sees it in "requeued". */
bool
ledger_finish(int64 id, JobState state, const char *error_code, const char *error)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET state = $2, finished_at = now(), "
		"all_prepared = j.all_prepared OR $2 = 'cancelled', "
		"error_code = CASE WHEN $2 = 'done' THEN NULL WHEN $4 IS NULL THEN j.error_code ELSE $3 END, "
		"error = CASE WHEN $2 = 'done' THEN NULL ELSE coalesce($4, j.error) END "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND ($2 <> 'done' OR j.requeued = 0) "
		"AND ($2 = 'failed' OR NOT EXISTS (SELECT FROM dess_batch.batch b WHERE b.job_id = j.id "
		"AND " BATCH_IS_OPEN("b.") " AND NOT " BATCH_IS_FINAL("b.") "))"
	};

	return ledger_execute(&statement, arg_int64(id), arg_text(job_state_names[state]),
						  arg_words(error_code, ERROR_BYTES), arg_words(error, ERROR_BYTES)) > 0;
}

void
ledger_set_failing(int64 id, const char *error_code, const char *error)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET control = 'fail', error_code = $2, error = $3 "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND j.control IN ('run', 'pause')"
	};

	(void) update_with_error(&statement, id, error_code, error);
}

bool
ledger_pause(int64 id, TimestampTz until, const char *error_code, const char *error)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET control = 'pause', paused_until = $2, error_code = $3, error = $4 "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND j.control = 'run'"
	};

	return ledger_execute(&statement, arg_int64(id), arg_time(until), arg_words(error_code, ERROR_BYTES),
						  arg_words(error, ERROR_BYTES)) > 0;
}

bool
ledger_unpause(int64 id)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET control = 'run', paused_until = NULL, error_code = NULL, error = NULL "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND j.control = 'pause' AND j.paused_until <= now()"
	};

	return ledger_execute(&statement, arg_int64(id)) > 0;
}

bool
ledger_note_error(int64 id, const char *error_code, const char *error)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET error_code = $2, error = $3 "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.")
		" AND (j.error_code, j.error) IS DISTINCT FROM ($2, $3)"
	};

	return update_with_error(&statement, id, error_code, error);
}

void
ledger_notify(int64 id, JobState state)
{
	char		payload[80];

	snprintf(payload, sizeof(payload), "{\"job\": " INT64_FORMAT ", \"state\": \"%s\"}",
			 id, job_state_names[state]);
	Async_Notify("dess_batch", payload);
}
