/*-------------------------------------------------------------------------
 *
 * wait.c
 *		dess_batch_wait and dess_batch_run: waiting for a job.
 *
 * Where it can, a wait commits between two looks, so that it holds neither a
 * snapshot nor a lock however long it takes.  In a transaction block it cannot;
 * there each look has a snapshot of its own.
 *
 * What must outlive a commit is kept in the context in which the procedure was
 * called; the look's own context is emptied before each look.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "api/submit.h"
#include "ledger/ledger.h"
#include "runtime/txn.h"
#include "runtime/wait_event.h"

PG_FUNCTION_INFO_V1(dess_batch_wait);
PG_FUNCTION_INFO_V1(dess_batch_run);

/* between two looks: a hundredth of the time that was waited, but within these */
#define PAUSE_SHARE			100
#define FIRST_PAUSE_MS		20
#define LAST_PAUSE_MS		500
#define NOTICE_PAUSE_MS		1000	/* between two lines of progress */
#define RATE_AFTER_MS		1000

typedef struct Wait
{
	int64		job;
	bool		atomic;			/* cannot commit */
	TimestampTz deadline;		/* DT_NOEND: none */
	TimestampTz began_at;
	MemoryContext look;			/* what one look needs */
} Wait;

static void
wait_init(Wait *wait, int64 job, bool atomic)
{
	wait->job = job;
	wait->atomic = atomic;
	wait->deadline = DT_NOEND;
	wait->began_at = GetCurrentTimestamp();
	wait->look = AllocSetContextCreate(CurrentMemoryContext, "dess_batch look",
									   ALLOCSET_SMALL_SIZES);
}

/* ---- one look ---- */

/* Between these two there is a new snapshot, and memory that the next look takes. */
static MemoryContext
look_begin(Wait *wait)
{
	MemoryContextReset(wait->look);
	PushActiveSnapshot(GetTransactionSnapshot());
	return MemoryContextSwitchTo(wait->look);
}

static void
look_end(MemoryContext caller)
{
	MemoryContextSwitchTo(caller);
	PopActiveSnapshot();
}

/* Does the job stand still?  *state lives until the next look. */
static bool
wait_look(Wait *wait, char **state)
{
	MemoryContext caller = look_begin(wait);
	bool		still = ledger_stands_still(wait->job, state);

	look_end(caller);
	return still;
}

/* Sleeps until the next look, or the deadline; nothing is held if it need not be. */
static void
wait_pause(Wait *wait)
{
	TimestampTz now = GetCurrentTimestamp();
	long		left = TimestampDifferenceMilliseconds(now, wait->deadline);
	long		pause = TimestampDifferenceMilliseconds(wait->began_at, now) / PAUSE_SHARE;

	if (!wait->atomic)
		txn_procedure_commit();
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(left, Min(Max(pause, FIRST_PAUSE_MS), LAST_PAUSE_MS)), wait_event_info(WAIT_JOB));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

/* ---- dess_batch_wait ---- */

/* Rights, and that there is something that can be waited for. */
static void
wait_check_job(Wait *wait)
{
	MemoryContext caller = look_begin(wait);

	if (!ledger_is_forgotten(wait->job))
	{
		(void) ledger_look_at_job(wait->job);
		if (ledger_written_here(wait->job))
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("job " INT64_FORMAT " was submitted or changed by this transaction", wait->job),
					 errhint("COMMIT before you wait: the worker sees nothing of it until then.")));
	}
	look_end(caller);
}

/* Raises where no later look could see more than the first one. */
static void
wait_check_isolation(const Wait *wait)
{
	if (wait->atomic && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot wait for a job in a transaction that sees only what was committed when it began"),
				 errhint("Call dess_batch_wait outside a transaction block, or at isolation level READ COMMITTED.")));
}

static TimestampTz
deadline_after(Interval *timeout)
{
	Interval	none;

	memset(&none, 0, sizeof(none));
	if (DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(timeout),
										 IntervalPGetDatum(&none))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"timeout\" must not be negative")));
	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_pl_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   IntervalPGetDatum(timeout)));
}

/* Returns the state in which the job stands still, in the current context. */
static char *
wait_for_job(Wait *wait)
{
	char	   *state;

	wait_check_job(wait);
	while (!wait_look(wait, &state))
	{
		wait_check_isolation(wait);
		if (GetCurrentTimestamp() >= wait->deadline)
			ereport(ERROR,
					(errcode(ERRCODE_QUERY_CANCELED),
					 errmsg("timeout while waiting for job " INT64_FORMAT, wait->job),
					 errdetail("Its state is \"%s\".", state),
					 errhint("The job goes on; see dess_batch_explain(" INT64_FORMAT ") for what it is waiting for.",
							 wait->job)));
		wait_pause(wait);
	}
	return pstrdup(state);
}

/* The one INOUT argument of a procedure, as the record that CALL expects. */
static Datum
call_result(FunctionCallInfo fcinfo, Datum value)
{
	TupleDesc	tupdesc;
	bool		isnull = false;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), &value, &isnull));
}

/*
 * Waits in one of the two ways.  Whoever interrupts it is told, by a hint to the
 * error that is raised anyway, that the job is not interrupted.
 */
static char *
wait_interruptible(Wait *wait, char *(*wait_for) (Wait *wait))
{
	MemoryContext caller = CurrentMemoryContext;
	char	   *volatile state = NULL;

	PG_TRY();
	{
		state = wait_for(wait);
	}
	PG_CATCH();
	{
		ErrorData  *error;

		if (geterrcode() != ERRCODE_QUERY_CANCELED)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		if (error->hint == NULL)
			error->hint = psprintf("Job " INT64_FORMAT " goes on. SELECT dess_batch_cancel(" INT64_FORMAT ") cancels it, CALL dess_batch_wait(" INT64_FORMAT ") waits for it.",
								   wait->job, wait->job, wait->job);
		ReThrowError(error);
	}
	PG_END_TRY();
	return state;
}

Datum
dess_batch_wait(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	Wait		wait;
	char	   *state;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"job\" must not be null")));
	wait_init(&wait, PG_GETARG_INT64(0), txn_call_is_atomic(fcinfo));
	if (!PG_ARGISNULL(1))
		wait.deadline = deadline_after(PG_GETARG_INTERVAL_P(1));

	if (!wait.atomic)
		txn_procedure_begin();
	MemoryContextSwitchTo(caller);
	state = wait_interruptible(&wait, wait_for_job);
	if (!wait.atomic)
		txn_procedure_end();
	return call_result(fcinfo, CStringGetTextDatum(state));
}

/* ---- progress ---- */

typedef struct Progress
{
	MemoryContext context;		/* of what was printed last */
	char	   *printed;		/* without the figures that change by themselves */
	TimestampTz printed_at;
	TimestampTz began_at;
} Progress;

/* How much is done, in words. */
static void
append_rows(StringInfo words, int64 rows, int64 done, int64 failed, bool rows_known)
{
	if (rows_known)
		appendStringInfo(words, INT64_FORMAT " of " INT64_FORMAT " row%s", done + failed, rows, rows == 1 ? "" : "s");
	else
		appendStringInfo(words, INT64_FORMAT " row%s", done + failed, done + failed == 1 ? "" : "s");
	if (failed > 0)
		appendStringInfo(words, ", " INT64_FORMAT " failed", failed);
}

/* Without digits: times and counts change from look to look and mean nothing new. */
static char *
without_digits(const char *words)
{
	char	   *result = pstrdup(words);
	char	   *end = result;

	for (const char *c = words; *c != '\0'; c++)
		if (*c < '0' || *c > '9')
			*end++ = *c;
	*end = '\0';
	return result;
}

/* The same figures as the view's, once there is a second to measure. */
static void
append_rate(StringInfo words, const Progress *progress, double rate, const char *eta)
{
	if (!TimestampDifferenceExceeds(progress->began_at, GetCurrentTimestamp(), RATE_AFTER_MS))
		return;
	if (rate > 0)
		appendStringInfo(words, ", %.1f rows/s", rate);
	if (eta != NULL)
		appendStringInfo(words, ", %s left", eta);
}

/* Prints how far the job is if that is news, and if there was no news a moment ago. */
static void
progress_look(Progress *progress, Wait *wait)
{
	MemoryContext caller = look_begin(wait);
	StringInfoData line;
	StringInfoData news;
	char	   *state;
	char	   *eta;
	char	   *bar;
	char	   *waiting_for;
	int64		rows;
	int64		done;
	int64		failed;
	double		rate;
	bool		rows_known;

	waiting_for = ledger_job_figures(wait->job, &state, &rows, &done, &failed, &rate,
									   &rows_known, &eta, &bar);
	initStringInfo(&line);
	appendStringInfo(&line, "[%s] ", bar != NULL ? bar : "");
	if (rows_known && rows > 0)
		appendStringInfo(&line, "%5.1f %%  ", floor(1000.0 * (done + failed) / rows) / 10);
	append_rows(&line, rows, done, failed, rows_known);

	initStringInfo(&news);
	appendStringInfo(&news, "%s %s %s", line.data, state,
					 waiting_for != NULL ? without_digits(waiting_for) : "");
	append_rate(&line, progress, rate, eta);
	if (waiting_for != NULL)
		appendStringInfo(&line, "; %s, waiting for %s", state, waiting_for);

	if (bar != NULL && (progress->printed == NULL || strcmp(progress->printed, news.data) != 0) &&
		TimestampDifferenceExceeds(progress->printed_at, GetCurrentTimestamp(), NOTICE_PAUSE_MS))
	{
		ereport(NOTICE, (errmsg_internal("%s", line.data)));
		MemoryContextReset(progress->context);
		progress->printed = MemoryContextStrdup(progress->context, news.data);
		progress->printed_at = GetCurrentTimestamp();
	}
	look_end(caller);
}

/* ---- dess_batch_run ---- */

/* Waits and prints.  The state in which the job stands still lives until the next look. */
static char *
run_wait(Wait *wait)
{
	Progress	progress;
	char	   *state;

	memset(&progress, 0, sizeof(progress));
	progress.began_at = GetCurrentTimestamp();
	progress.context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch progress",
											 ALLOCSET_SMALL_SIZES);
	for (;;)
	{
		progress_look(&progress, wait);
		if (wait_look(wait, &state))
			return state;
		wait_pause(wait);
	}
}

/* The last line of progress, for a job that has ended as it should. */
static void
report_success(const JobFacts *facts, int64 id, TimestampTz began_at)
{
	StringInfoData words;
	long		ms = TimestampDifferenceMilliseconds(began_at, GetCurrentTimestamp());

	initStringInfo(&words);
	if (facts != NULL)
		append_rows(&words, facts->rows, facts->done, facts->failed, false);
	else
		appendStringInfoString(&words, "already forgotten");
	ereport(NOTICE,
			(errmsg("job " INT64_FORMAT " is done: %s, %ld.%ld s", id, words.data, ms / 1000, ms % 1000 / 100),
			 facts != NULL && facts->failed > 0 ?
			 errhint("SELECT * FROM dess_batch_errors WHERE job_id = " INT64_FORMAT " shows why rows failed.", id) : 0));
}

/* Raises for a job that stands still without being done. */
static void
report_failure(const JobFacts *facts, int64 id, const char *state)
{
	StringInfoData words;
	const char *colon = facts->error != NULL ? ": " : "";
	const char *error = facts->error != NULL ? facts->error : "";
	bool		failed = strcmp(state, "failed") == 0;
	bool		paused = strcmp(state, "paused") == 0;
	const char *rows = facts->failed == 0 ? "" :
		psprintf("; SELECT * FROM dess_batch_errors WHERE job_id = " INT64_FORMAT " lists the rows that failed", id);

	initStringInfo(&words);
	append_rows(&words, facts->rows, facts->done, facts->failed, facts->rows_known);
	ereport(ERROR,
			(errcode(ERRCODE_EXTERNAL_ROUTINE_EXCEPTION),
			 failed ? errmsg("job " INT64_FORMAT " failed%s%s", id, colon, error) :
			 paused ? errmsg("job " INT64_FORMAT " is paused%s%s", id, colon, error) :
			 errmsg("job " INT64_FORMAT " is %s%s%s", id, state, colon, error),
			 errdetail("Finished: %s.", words.data),
			 failed ? errhint("SELECT dess_batch_retry(" INT64_FORMAT ") lets it go on when the cause is gone%s.", id, rows) :
			 paused ? errhint("SELECT dess_batch_resume(" INT64_FORMAT "%s) lets it go on%s.", id,
							  facts->error_code != NULL && strcmp(facts->error_code, "max_cost") == 0 ? ", max_cost => ..." : "", rows) :
			 errhint("SELECT * FROM dess_batch_explain(" INT64_FORMAT ") says more.", id)));
}

Datum
dess_batch_run(PG_FUNCTION_ARGS)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz began_at = GetCurrentTimestamp();
	Wait		wait;
	JobFacts   *facts;
	char	   *state;
	int64		id;

	if (txn_call_is_atomic(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("dess_batch_run cannot run inside a transaction block"),
				 errdetail("It commits the job before it waits for it."),
				 errhint("Use dess_batch_submit, and dess_batch_wait after COMMIT.")));

	txn_procedure_begin();
	id = submit_from_args(fcinfo, STAGE_RETRIEVE);
	txn_procedure_commit();
	ereport(NOTICE,
			(errmsg("job " INT64_FORMAT " is submitted", id)));

	MemoryContextSwitchTo(caller);
	wait_init(&wait, id, false);
	state = wait_interruptible(&wait, run_wait);
	state = pstrdup(state);
	(void) look_begin(&wait);
	facts = ledger_load_facts(id);
	look_end(caller);
	if (facts == NULL || strcmp(state, "done") == 0)
		report_success(facts, id, began_at);
	else
		report_failure(facts, id, state);
	txn_procedure_end();
	return call_result(fcinfo, Int64GetDatum(id));
}
