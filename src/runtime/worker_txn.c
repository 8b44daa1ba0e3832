/*-------------------------------------------------------------------------
 *
 * worker_txn.c
 *		The worker's one error boundary.
 *
 * Everything that the worker does with the database goes through slice_run():
 * one transaction, one memory context, one place where errors end.  Transfers
 * live in contexts of their own and go on whatever happens here.
 *
 * A slice has a time limit, because triggers and functions of the user's table
 * run in it.  Code that catches the cancellation is cancelled again and again;
 * if it goes on all the same, the process ends rather than stand still.  Code
 * can also turn an error into the end of the process by itself (exit_on_error).
 * Whose it was is noted, so that the next process does not meet it again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "tcop/tcopprot.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "runtime/shmem.h"
#include "runtime/worker_txn.h"
#include "runtime/spool.h"
#include "runtime/txn.h"
#include "runtime/wake.h"

/* how often the clock is looked at; code that catches a cancellation is cancelled again so often */
#define ALARM_MS			20
#define CANCEL_TIMES		50

static MemoryContext slice_context = NULL;
static TimeoutId slice_timeout = MAX_TIMEOUTS;
static int	slice_limit;
static TimestampTz slice_end;
static TimestampTz slice_own_since = 0;	/* our own work, that of no table, goes on since; 0: it does not */
static bool slice_patient;		/* it ends when somebody wakes the worker */
static uint64 slice_wakes;
static volatile sig_atomic_t slice_cancelled = 0;
static volatile sig_atomic_t slice_disturbed = false;
static volatile sig_atomic_t told_to_end = false;
static int64 slice_job = 0;		/* whose table's code may run now; 0: nobody's */
int64		slice_ms = 0;
static bool lock_lost = false;
static bool extension_seen = false;
uint64		slice_count = 0;
void		(*slice_after_abort) (void) = NULL;

/* Repetition without charge, with back-off, or never: by SQLSTATE class. */
static SliceVerdict
slice_verdict(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
			return SLICE_AGAIN;
		case ERRCODE_READ_ONLY_SQL_TRANSACTION:
			return SLICE_TROUBLE;
		default:
			break;
	}

	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_FDW_ERROR:
			return SLICE_TROUBLE;
		default:
			return SLICE_HOPELESS;
	}
}

/* In a signal handler. */
static void
slice_alarm(void)
{
	if (slice_own_since != 0)
		return;
	if (GetCurrentTimestamp() >= slice_end)
	{
		/* what nobody has looked at yet has not been caught either */
		if (!QueryCancelPending)
			slice_cancelled++;
	}
	else if (slice_patient && shmem_wake_count() != slice_wakes)
		slice_disturbed = true;
	else
		return;
	if (slice_cancelled > CANCEL_TIMES)
		ProcDiePending = true;
	else
		QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* A cancellation that came too late for the last slice is forgotten. */
static void
slice_start_clock(int limit_ms, bool patient)
{
	TimestampTz now = GetCurrentTimestamp();

	if (slice_timeout == MAX_TIMEOUTS)
		slice_timeout = RegisterTimeout(USER_TIMEOUT, slice_alarm);
	slice_limit = limit_ms;
	slice_end = TimestampTzPlusMilliseconds(now, limit_ms);
	slice_own_since = 0;
	slice_cancelled = 0;
	slice_disturbed = false;
	slice_patient = patient;
	slice_wakes = shmem_wake_count();
	QueryCancelPending = false;
	if (limit_ms == 0)
		return;
	enable_timeout_every(slice_timeout,
						 TimestampTzPlusMilliseconds(now, Min(limit_ms, SLICE_PATIENCE_MS)), ALARM_MS);
}

void
slice_begin_own_work(void)
{
	slice_own_since = GetCurrentTimestamp();
}

void
slice_end_own_work(void)
{
	slice_end += GetCurrentTimestamp() - slice_own_since;
	slice_own_since = 0;
}

static void
slice_stop_clock(void)
{
	disable_timeout(slice_timeout, false);
	QueryCancelPending = false;
}

/* ---- code that ends the process ---- */

static void
slice_terminate(SIGNAL_ARGS)
{
	told_to_end = true;
	die(postgres_signal_arg);
}

/* Locks have been released: the next process can take over. */
static void
slice_exit(int code, Datum arg)
{
	if (slice_job == 0 || told_to_end || !PostmasterIsAlive())
		return;
	ereport(LOG,
			(errmsg("dess_batch worker was ended by code of the table (trigger, function) of job " INT64_FORMAT, slice_job)));
	spool_note_culprit(slice_job);
	(void) wake_start_worker(MyDatabaseId);
}

void
slice_init(void)
{
	on_shmem_exit(slice_exit, (Datum) 0);
	pqsignal(SIGTERM, slice_terminate);
}

/* ---- running ---- */

static SliceVerdict
slice_recover(SliceError *error)
{
	ErrorData  *edata;
	SliceVerdict verdict;

	HOLD_INTERRUPTS();
	slice_stop_clock();
	MemoryContextSwitchTo(slice_context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	LWLockReleaseAll();
	pgstat_report_activity(STATE_IDLE, NULL);
	RESUME_INTERRUPTS();
	lock_lost = true;

	verdict = slice_verdict(edata->sqlerrcode);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED && slice_cancelled > 0)
	{
		verdict = slice_limit < SLICE_LIMIT_MS ? SLICE_SLOW : SLICE_TROUBLE;
		edata->message = psprintf("canceled after %.1f s: code of the table (trigger, function) is too slow",
								  slice_limit / 1000.0);
	}
	strlcpy(error->sqlstate, unpack_sql_state(edata->sqlerrcode), sizeof(error->sqlstate));
	strlcpy(error->message, edata->message ? edata->message : "unknown error", sizeof(error->message));
	error->message[pg_mbcliplen(error->message, strlen(error->message), sizeof(error->message) - 5)] = '\0';

	if (verdict != SLICE_AGAIN && verdict != SLICE_SLOW)
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("dess_batch worker: %s", error->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 edata->context ? errcontext("%s", edata->context) : 0));
	return verdict;
}

static SliceVerdict
slice_execute(const char *activity, void (*fn) (void *arg), void *arg,
			  int64 job_id, int limit_ms, bool patient, SliceError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz start = GetCurrentTimestamp();
	volatile SliceVerdict verdict = SLICE_DONE;

	if (slice_context == NULL)
		slice_context = AllocSetContextCreate(TopMemoryContext, "dess_batch slice",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(slice_context);
	slice_count++;

	PG_TRY();
	{
		if (!txn_begin(activity))
		{
			/* at the first look that is no news: not every database has the extension */
			if (extension_seen)
			{
				ereport(LOG, (errmsg("dess_batch worker stops because the extension is gone")));
				spool_remove_database(MyDatabaseId);
			}
			proc_exit(0);
		}
		extension_seen = true;
		MemoryContextSwitchTo(slice_context);
		slice_start_clock(limit_ms, patient);
		slice_job = job_id;
		fn(arg);
		slice_stop_clock();
		txn_commit();
		slice_job = 0;
	}
	PG_CATCH();
	{
		slice_job = 0;
		verdict = slice_recover(error);
	}
	PG_END_TRY();

	/* advisory locks that a table's own code took for its session: this one has no end */
	LockReleaseSession(USER_LOCKMETHOD);
	MemoryContextSwitchTo(caller);
	if (lock_lost)
	{
		lock_lost = false;
		if (slice_after_abort != NULL)
			slice_after_abort();
	}
	/* that was a slice as well */
	slice_ms = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
	return verdict;
}

SliceVerdict
slice_run(const char *activity, void (*fn) (void *arg), void *arg, SliceError *error)
{
	return slice_execute(activity, fn, arg, 0, SLICE_LIMIT_MS, false, error);
}

SliceVerdict
slice_look(const char *activity, void (*fn) (void *arg), void *arg, SliceError *error)
{
	return slice_execute(activity, fn, arg, 0, 0, false, error);
}

SliceVerdict
slice_run_limited(const char *activity, void (*fn) (void *arg), void *arg,
				  int64 job_id, int limit_ms, SliceError *error)
{
	return slice_execute(activity, fn, arg, job_id, limit_ms, true, error);
}
