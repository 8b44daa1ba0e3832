/*-------------------------------------------------------------------------
 *
 * control.c
 *		The ledger: what users do to their jobs.
 *
 * The functions of the SQL interface call ledger_control_job() first, which
 * checks rights.  The worker may be at work on the same job: it can cope with
 * each of these changes at any time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"

#include "ledger/internal.h"

static void
raise_no_job(int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_UNDEFINED_OBJECT),
			 errmsg("job " INT64_FORMAT " does not exist", id)));
}

static void
raise_held(int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("job " INT64_FORMAT " is held", id),
			 errdetail("Its ledger was restored from another cluster or database, where the job may go on."),
			 errhint("Call dess_batch_adopt(" INT64_FORMAT ") first, if it is to go on here.", id)));
}

/* Is it a job of the cluster or database that this ledger was copied from? */
static bool
is_copied(int64 id)
{
	static Statement statement = {
		.sql = "SELECT FROM dess_batch.job j WHERE j.id = $1 AND j.home <> $2"
	};

	return ledger_execute(&statement, arg_int64(id), arg_home()) > 0;
}

/* Nobody but superusers has the rights of a role that was dropped. */
Job *
ledger_look_at_job(int64 id)
{
	Job		   *job = ledger_load_job(id);

	if (job == NULL)
		raise_no_job(id);
	if (!has_privs_of_role(GetUserId(), job->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for job " INT64_FORMAT, id),
				 errdetail("Only roles with the rights of role \"%s\" may control it.", job->owner_name)));
	if (is_copied(id))
		job->control = CONTROL_HOLD;
	return job;
}

Job *
ledger_control_job(int64 id)
{
	(void) ledger_check_identity();
	return ledger_look_at_job(id);
}

/* Raises when the job is gone or held. */
static void
require_not_held(int64 id)
{
	static Statement statement = {
		.sql = "SELECT j.control = 'hold' FROM dess_batch.job j WHERE j.id = $1"
	};

	if (ledger_run(&statement, arg_int64(id)) == 0)
		raise_no_job(id);
	if (ledger_get_bool(0, 1))
		raise_held(id);
}

void
ledger_set_control(int64 id, JobControl control)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET control = $2, paused_until = NULL WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND CASE $2 "
		"WHEN 'pause' THEN j.control = 'run' OR j.control = 'pause' AND j.paused_until IS NOT NULL "
		"WHEN 'cancel' THEN j.control IN ('run', 'pause', 'fail') "
		"WHEN 'run' THEN j.control = 'pause' "
		"ELSE false END"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_int64(id), arg_text(job_control_names[control])) == 0)
		require_not_held(id);
	ledger_close(&ledger);
}

void
ledger_resume(int64 id, const char *max_cost)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET max_cost = coalesce($2::numeric, j.max_cost), "
		"control = CASE j.control WHEN 'pause' THEN 'run' ELSE j.control END, "
		"paused_until = NULL, "
		"error_code = CASE j.control WHEN 'pause' THEN NULL ELSE j.error_code END, "
		"error = CASE j.control WHEN 'pause' THEN NULL ELSE j.error END "
		"WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND j.control <> 'hold'"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_int64(id), arg_text(max_cost)) == 0)
		require_not_held(id);
	ledger_close(&ledger);
}

void
ledger_set_stage(int64 id, JobStage stage)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET stage = $2 WHERE j.id = $1 AND " JOB_IS_OPEN("j.") " AND j.control <> 'hold' "
		"AND array_position($3, j.stage) < array_position($3, $2)"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_int64(id), arg_text(job_stage_names[stage]),
				   arg_texts(job_stage_names, STAGE_RETRIEVE + 1)) == 0)
		require_not_held(id);
	ledger_close(&ledger);
}

void
ledger_ask_poll(int64 id)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch b SET next_poll_at = now() "
		"WHERE b.job_id = $1 AND b.state = 'running' AND b.remote_id IS NOT NULL"
	};

	ledger_execute(&statement, arg_int64(id));
}

List *
ledger_asked_polls(void)
{
	static Statement statement = {
		.sql = "SELECT b.job_id, b.no FROM dess_batch.batch b "
		"WHERE " BATCH_IS_OPEN("b.") " AND b.state = 'running' AND b.next_poll_at <= now()"
	};
	Ledger		ledger;
	List	   *asked = NIL;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run_plain(&statement);
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(ledger.caller);
		AskedPoll  *poll = palloc(sizeof(AskedPoll));

		poll->job_id = ledger_get_int64(i, 1, 0);
		poll->batch_no = ledger_get_int32(i, 2);
		asked = lappend(asked, poll);
		MemoryContextSwitchTo(old);
	}
	ledger_close(&ledger);
	return asked;
}

/* ---- retry ---- */

/*
 * Rows with these outcomes begin to wait, and what settles them is deleted.  Rows
 * that were forgotten are left out, because they have no key by which they could
 * be taken.
 */
static Statement retry_rows = {
	.sql = "WITH chosen AS MATERIALIZED (SELECT r.batch_no, r.no, r.key, r.hash FROM dess_batch.item_result r "
	"WHERE r.job_id = $1 AND r.outcome::text = ANY ($2) AND r.key IS NOT NULL), "
	"unsettled AS (DELETE FROM dess_batch.settled s USING chosen c "
	"WHERE s.source = $3 AND s.target = $4 AND s.key = c.key AND s.hash = c.hash) "
	"INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts) "
	"SELECT $1, c.key, 0, true FROM chosen c ORDER BY c.batch_no, c.no"
};

static Statement retry_counters = {
	.sql = "UPDATE dess_batch.batch b SET failed = b.failed - r.n, superseded = b.superseded + r.n "
	"FROM (SELECT g.batch_no, count(*)::integer AS n FROM dess_batch.result g, unnest(g.outcomes) AS o "
	"WHERE g.job_id = $1 AND o::text = ANY ($2) GROUP BY g.batch_no) r "
	"WHERE b.job_id = $1 AND b.no = r.batch_no"
};

static Statement retry_results = {
	.sql = "UPDATE dess_batch.result g SET outcomes = ("
	"SELECT array_agg(CASE WHEN u.o::text = ANY ($2) THEN 'superseded' ELSE u.o END ORDER BY u.i) "
	"FROM unnest(g.outcomes) WITH ORDINALITY AS u(o, i)) "
	"WHERE g.job_id = $1 AND g.outcomes && $2::dess_batch.outcome[]"
};

/* A cancelled job must not buy rows that had not been prepared when it was cancelled. */
static Statement wake_job = {
	.sql = "UPDATE dess_batch.job j SET requeued = j.requeued + $2, "
	"control = 'run', error_code = NULL, error = NULL, finished_at = NULL, "
	"all_prepared = j.all_prepared OR j.state = 'cancelled', "
	"state = CASE WHEN " JOB_IS_OPEN("j.") " THEN j.state ELSE 'active' END "
	"WHERE j.id = $1"
};

/* Names of the failed outcomes among those that are asked for; NIL: all failed ones but gone and refused. */
static List *
failed_outcomes(List *asked_for)
{
	List	   *names = NIL;

	for (Outcome outcome = OUTCOME_OK; outcome < OUTCOME_SUPERSEDED; outcome++)
	{
		bool		wanted = outcome != OUTCOME_GONE && outcome != OUTCOME_REFUSED;
		ListCell   *lc;

		if (asked_for != NIL)
		{
			wanted = false;
			foreach(lc, asked_for)
				wanted = wanted || strcmp(lfirst(lc), outcome_name(outcome)) == 0;
		}
		if (wanted && !outcome_is_done(outcome))
			names = lappend(names, unconstify(char *, outcome_name(outcome)));
	}
	return names;
}

/*
 * Locks the job and finds what it has left: rows that wait to be sent, or for
 * their results in a batch that a failed job left behind.  Raises an error if it
 * cannot be retried.
 */
static void
lock_for_retry(int64 id, bool *final, int64 *waiting, bool *unprepared)
{
	static Statement statement = {
		.sql = "SELECT j.state, j.control, j.requeued + coalesce((SELECT sum(b.items - b.ok - b.missing - b.empty - b.failed - b.superseded) "
		"FROM dess_batch.batch b WHERE b.job_id = j.id AND NOT " BATCH_IS_FINAL("b.") "), 0)::bigint, NOT j.all_prepared "
		"FROM dess_batch.job j WHERE j.id = $1 FOR NO KEY UPDATE"
	};
	char	   *state;
	char	   *control;

	if (ledger_run(&statement, arg_int64(id)) == 0)
		raise_no_job(id);
	state = TextDatumGetCString(ledger_datum(0, 1));
	control = TextDatumGetCString(ledger_datum(0, 2));
	*final = job_state_is_final(state);
	*waiting = *final ? ledger_get_int64(0, 3, 0) : 0;
	*unprepared = strcmp(state, job_state_names[JOB_FAILED]) == 0 && ledger_get_bool(0, 4);

	if (strcmp(control, job_control_names[CONTROL_HOLD]) == 0)
		raise_held(id);
	if (!*final && (strcmp(control, job_control_names[CONTROL_CANCEL]) == 0 ||
					strcmp(control, job_control_names[CONTROL_FAIL]) == 0))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is still ending", id),
				 errhint("Retry it when its batches at the provider have been merged.")));
}

int64
ledger_retry_job(const Job *job, List *outcomes)
{
	Ledger		ledger;
	List	   *names = failed_outcomes(outcomes);
	bool		final;
	bool		unprepared;
	int64		waiting;
	int64		n;

	ledger_open(&ledger);
	lock_for_retry(job->id, &final, &waiting, &unprepared);
	require_job_is_here(&ledger, job->id);

	ledger_run(&retry_counters, arg_int64(job->id), arg_list(names));
	n = ledger_run(&retry_rows, arg_int64(job->id), arg_list(names), arg_oid(job->source),
				   arg_text(job->target ? job->target : ""));
	ledger_run(&retry_results, arg_int64(job->id), arg_list(names));
	if (n > 0 || waiting > 0 || unprepared)
		ledger_run(&wake_job, arg_int64(job->id), arg_int64(n));
	ledger_close(&ledger);
	return n + waiting;
}
