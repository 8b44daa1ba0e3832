/*-------------------------------------------------------------------------
 *
 * worker_txn.c
 *		The worker's one error boundary.
 *
 * Everything that the worker does with the database goes through worker_txn_run():
 * one transaction, one memory context, one place where errors end.  Transfers
 * live in contexts of their own and go on whatever happens here.
 *
 * A worker transaction has a time limit, because triggers and functions of the user's table
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
#include "runtime/spool.h"
#include "runtime/sqlstate.h"
#include "runtime/txn.h"
#include "runtime/wake.h"
#include "runtime/worker_txn.h"

/* how often the clock is looked at; code that catches a cancellation is cancelled again so often */
#define ALARM_MS			20
#define CANCEL_TIMES		50

static MemoryContext worker_txn_context = NULL;
static TimeoutId worker_txn_timeout = MAX_TIMEOUTS;
static int	worker_txn_limit;
static TimestampTz worker_txn_end;
static TimestampTz worker_txn_own_since = 0;	/* our own work, that of no table, goes on since; 0: it does not */
static bool worker_txn_patient;		/* it ends when somebody wakes the worker */
static uint64 worker_txn_wakes;
static volatile sig_atomic_t worker_txn_cancelled = 0;
static volatile sig_atomic_t worker_txn_disturbed = false;
static volatile sig_atomic_t told_to_end = false;
static int64 worker_txn_job = 0;		/* whose table's code may run now; 0: nobody's */
int64		worker_txn_ms = 0;
static bool worker_txn_commits = false;
static bool lock_lost = false;
static bool extension_replaced = false;
static Oid	extension_seen = InvalidOid;	/* the one that the process began with */
uint64		worker_txn_count = 0;
void		(*worker_txn_after_abort) (void) = NULL;

static WorkerTxnVerdict
worker_txn_verdict(int sqlerrcode)
{
	switch (sqlstate_kind(sqlerrcode))
	{
		case SQLSTATE_LOCKED:
		case SQLSTATE_CANCELED:
		case SQLSTATE_CONFLICT:
			return WORKER_TXN_RETRY;
		case SQLSTATE_RESOURCES:
		case SQLSTATE_SERVER:
		case SQLSTATE_READ_ONLY:
		case SQLSTATE_REMOTE:
		case SQLSTATE_INTERNAL:
			return WORKER_TXN_TROUBLE;
		case SQLSTATE_OWN:
			break;
	}
	return WORKER_TXN_HOPELESS;
}

/* In a signal handler. */
static void
worker_txn_alarm(void)
{
	if (worker_txn_own_since != 0)
		return;
	if (GetCurrentTimestamp() >= worker_txn_end)
	{
		/* what nobody has looked at yet has not been caught either */
		if (!QueryCancelPending)
			worker_txn_cancelled++;
	}
	else if (worker_txn_patient && shmem_wake_count() != worker_txn_wakes)
		worker_txn_disturbed = true;
	else
		return;
	if (worker_txn_cancelled > CANCEL_TIMES)
		ProcDiePending = true;
	else
		QueryCancelPending = true;
	InterruptPending = true;
	SetLatch(MyLatch);
}

/* A cancellation that came too late for the last transaction is forgotten. */
static void
worker_txn_start_clock(int limit_ms, bool patient)
{
	TimestampTz now = GetCurrentTimestamp();

	if (worker_txn_timeout == MAX_TIMEOUTS)
		worker_txn_timeout = RegisterTimeout(USER_TIMEOUT, worker_txn_alarm);
	worker_txn_limit = limit_ms;
	worker_txn_end = TimestampTzPlusMilliseconds(now, limit_ms);
	worker_txn_own_since = 0;
	worker_txn_cancelled = 0;
	worker_txn_disturbed = false;
	worker_txn_patient = patient;
	worker_txn_wakes = shmem_wake_count();
	QueryCancelPending = false;
	if (limit_ms == 0)
		return;
	enable_timeout_every(worker_txn_timeout,
						 TimestampTzPlusMilliseconds(now, Min(limit_ms, WORKER_TXN_PATIENCE_MS)), ALARM_MS);
}

void
worker_txn_begin_own_work(void)
{
	worker_txn_own_since = GetCurrentTimestamp();
}

void
worker_txn_end_own_work(void)
{
	worker_txn_end += GetCurrentTimestamp() - worker_txn_own_since;
	worker_txn_own_since = 0;
}

static void
worker_txn_stop_clock(void)
{
	disable_timeout(worker_txn_timeout, false);
	QueryCancelPending = false;
}

/* ---- code that ends the process ---- */

static void
worker_txn_terminate(SIGNAL_ARGS)
{
	told_to_end = true;
	die(postgres_signal_arg);
}

/* Locks have been released: the next process can take over. */
static void
worker_txn_exit(int code, Datum arg)
{
	if (extension_replaced)
		(void) wake_start_worker(MyDatabaseId);
	if (worker_txn_job == 0 || told_to_end || !PostmasterIsAlive())
		return;
	ereport(LOG,
			(errmsg("dess_batch worker was ended by code of the table (trigger, function) of job " INT64_FORMAT, worker_txn_job)));
	spool_note_culprit(worker_txn_job);
	(void) wake_start_worker(MyDatabaseId);
}

void
worker_txn_init(void)
{
	on_shmem_exit(worker_txn_exit, (Datum) 0);
	pqsignal(SIGTERM, worker_txn_terminate);
}

/* ---- running ---- */

static WorkerTxnVerdict
worker_txn_recover(WorkerTxnError *error)
{
	ErrorData  *edata;
	WorkerTxnVerdict verdict;

	HOLD_INTERRUPTS();
	worker_txn_stop_clock();
	MemoryContextSwitchTo(worker_txn_context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	LWLockReleaseAll();
	pgstat_report_activity(STATE_IDLE, NULL);
	RESUME_INTERRUPTS();
	lock_lost = true;

	verdict = worker_txn_verdict(edata->sqlerrcode);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED && worker_txn_cancelled > 0)
	{
		verdict = worker_txn_limit < WORKER_TXN_LIMIT_MS ? WORKER_TXN_SLOW : WORKER_TXN_TROUBLE;
		edata->message = psprintf("canceled after %.1f s: code of the table (trigger, function) is too slow",
								  worker_txn_limit / 1000.0);
	}
	/* a trigger of the table notifies, and the queue of notifications is full: it will have room again */
	if (worker_txn_commits && edata->sqlerrcode == ERRCODE_PROGRAM_LIMIT_EXCEEDED)
		verdict = WORKER_TXN_TROUBLE;
	strlcpy(error->sqlstate, unpack_sql_state(edata->sqlerrcode), sizeof(error->sqlstate));
	strlcpy(error->message, edata->message ? edata->message : "unknown error", sizeof(error->message));
	error->message[pg_mbcliplen(error->message, strlen(error->message), sizeof(error->message) - 5)] = '\0';

	if (verdict != WORKER_TXN_RETRY && verdict != WORKER_TXN_SLOW)
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("dess_batch worker: %s", error->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 edata->context ? errcontext("%s", edata->context) : 0));
	return verdict;
}

/*
 * The extension is gone, or there is another one: what the process has in
 * memory belongs to a ledger that no longer exists, although the numbers of
 * jobs and batches may be the same.
 */
static void
worker_txn_end_process(bool replaced)
{
	/* at the first look that is no news: not every database has the extension */
	if (OidIsValid(extension_seen))
		ereport(LOG,
				(replaced ? errmsg("dess_batch worker ends because the extension was created anew") :
				 errmsg("dess_batch worker ends because the extension is gone")));
	if (OidIsValid(extension_seen) && !replaced)
		spool_remove_database(MyDatabaseId);
	extension_replaced = replaced;
	proc_exit(0);
}

static WorkerTxnVerdict
worker_txn_execute(const char *activity, void (*fn) (void *arg), void *arg,
			  int64 job_id, int limit_ms, bool patient, WorkerTxnError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	TimestampTz start = GetCurrentTimestamp();
	volatile WorkerTxnVerdict verdict = WORKER_TXN_DONE;

	if (worker_txn_context == NULL)
		worker_txn_context = AllocSetContextCreate(TopMemoryContext, "dess_batch worker transaction",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(worker_txn_context);
	worker_txn_count++;

	PG_TRY();
	{
		if (!txn_begin(activity))
			worker_txn_end_process(false);
		if (!OidIsValid(extension_seen))
			extension_seen = txn_extension_oid();
		else if (txn_extension_oid() != extension_seen)
			worker_txn_end_process(true);
		MemoryContextSwitchTo(worker_txn_context);
		worker_txn_commits = false;
		if (patient)
			wake_lock_interruptible();
		worker_txn_start_clock(limit_ms, patient);
		worker_txn_job = job_id;
		fn(arg);
		worker_txn_stop_clock();
		worker_txn_commits = true;
		txn_commit();
		worker_txn_job = 0;
	}
	PG_CATCH();
	{
		worker_txn_job = 0;
		verdict = worker_txn_recover(error);
	}
	PG_END_TRY();

	/* advisory locks that a table's own code took for its session: this one has no end */
	LockReleaseSession(USER_LOCKMETHOD);
	MemoryContextSwitchTo(caller);
	if (lock_lost)
	{
		lock_lost = false;
		if (worker_txn_after_abort != NULL)
			worker_txn_after_abort();
	}
	/* that was a worker transaction as well */
	worker_txn_ms = TimestampDifferenceMilliseconds(start, GetCurrentTimestamp());
	return verdict;
}

WorkerTxnVerdict
worker_txn_run(const char *activity, void (*fn) (void *arg), void *arg, WorkerTxnError *error)
{
	return worker_txn_execute(activity, fn, arg, 0, WORKER_TXN_LIMIT_MS, false, error);
}

WorkerTxnVerdict
worker_txn_look(const char *activity, void (*fn) (void *arg), void *arg, WorkerTxnError *error)
{
	return worker_txn_execute(activity, fn, arg, 0, 0, false, error);
}

WorkerTxnVerdict
worker_txn_run_limited(const char *activity, void (*fn) (void *arg), void *arg,
				  int64 job_id, int limit_ms, WorkerTxnError *error)
{
	return worker_txn_execute(activity, fn, arg, job_id, limit_ms, true, error);
}
