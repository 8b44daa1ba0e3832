/*-------------------------------------------------------------------------
 *
 * worker.c
 *		One database's process: everything that is waited for, in one loop.
 *
 * There is one worker a database: it holds a session lock, and one that finds
 * the lock taken wakes the holder and goes.  An idle worker gives the lock
 * back, looks again with a fresh snapshot and takes it again if there is work,
 * so no commit falls between its last look and its exit: who commits after
 * that look finds no holder and starts a new worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "http/http.h"
#include "ledger/ledger.h"
#include "pipeline/pipeline.h"
#include "runtime/guc.h"
#include "runtime/shmem.h"
#include "runtime/spool.h"
#include "runtime/wait_event.h"
#include "runtime/wake.h"
#include "runtime/worker_txn.h"
#include "worker/worker.h"

/* empty jobs are forgotten after this */
#define EMPTY_JOB_SECONDS	60

/* how long, and how often, one that found the lock taken looks at the holder */
#define HURRY_MS			2000
#define HURRY_LOOK_MS		100

/* how often a busy worker looks for new work, and at most which part of its time it spends on that */
#define LOOK_MS				200
#define LOOK_SHARE			20

/* how often memory that is free is given back */
#define TRIM_MS				10000

static bool connected = false;
static bool holds_lock = false;
static TimestampTz purge_due = 0;	/* 0: not planned */
static bool purge_unfinished = false;	/* the last one left something to do */

/*
 * A database that cannot be connected to (it may be gone) is no reason to be
 * started again.  Shared memory has been left when this is called.
 */
static void
worker_no_restart(int code, Datum arg)
{
	if (!connected)
		_exit(0);
}

static void
lock_txn(void *arg)
{
	holds_lock = wake_lock_worker();
	if (holds_lock)
		shmem_register_worker(MyDatabaseId);
	else
		wake_lock_holder();
}

static void
unlock_txn(void *arg)
{
	/* who commits from now on finds nobody to wake and starts a new worker */
	shmem_unregister_worker();
	wake_unlock_worker();
	holds_lock = false;
}

/* The holder's transaction that one without preload has to wait for. */
typedef struct Hurry
{
	TimestampTz since;			/* 0: not looked at yet */
	bool		over;
} Hurry;

static void
hurry_txn(void *arg)
{
	Hurry	   *hurry = (Hurry *) arg;
	TimestampTz since;
	int			pid = ledger_find_slow_worker(WORKER_TXN_PATIENCE_MS, &since);

	hurry->over = pid != 0 || since == 0 || (hurry->since != 0 && since != hurry->since);
	hurry->since = since;
	if (pid != 0)
		(void) kill(pid, SIGINT);
}

/*
 * The holder was woken.  Without preload that does not show while it is at work
 * on a table; where that takes long, it is interrupted.
 */
static void
worker_hurry_holder(void)
{
	Hurry		hurry = {0};
	WorkerTxnError	error;

	for (int waited = 0; waited < HURRY_MS && !hurry.over; waited += HURRY_LOOK_MS)
	{
		if (worker_txn_run("waking the worker", hurry_txn, &hurry, &error) != WORKER_TXN_DONE)
			return;
		if (hurry.over)
			return;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, HURRY_LOOK_MS,
						 wait_event_info(WAIT_WORKER));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
}

static void
worker_take_lock(void)
{
	WorkerTxnError	error;

	if (worker_txn_run("starting", lock_txn, NULL, &error) != WORKER_TXN_DONE)
	{
		spool_note_start_error(error.message);
		proc_exit(1);
	}
	if (holds_lock)
		return;
	if (!shmem_available())
		worker_hurry_holder();
	proc_exit(0);
}

/* An aborted transaction has released the lock: takes it again, or ends the process. */
static void
worker_keep_lock(void)
{
	if (!holds_lock)
		return;
	holds_lock = false;
	worker_take_lock();
}

static void
purge_txn(void *arg)
{
	bool	   *more = (bool *) arg;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz before = now - (int64) dess_job_retention * USECS_PER_MINUTE;

	*more = ledger_close_left(before) ||
		ledger_purge(before, now - EMPTY_JOB_SECONDS * USECS_PER_SEC, NULL);
}

/* Forgets some old jobs; returns whether there are more. */
static bool
worker_purge(void)
{
	bool		more = false;
	WorkerTxnError	error;

	purge_unfinished = worker_txn_run("forgetting old jobs", purge_txn, &more, &error) == WORKER_TXN_DONE && more;
	return purge_unfinished;
}

static void
any_work_txn(void *arg)
{
	*(bool *) arg = ledger_any_work();
}

/*
 * Nothing has been left to do for a while: exits, unless work has come in
 * between.
 */
static void
worker_exit_if_idle(void)
{
	bool		work = true;
	WorkerTxnError	error;

	while (worker_purge())
	{
		CHECK_FOR_INTERRUPTS();
		/* who has come meanwhile does not wait */
		pipeline_refresh();
		if (!pipeline_is_idle())
			return;
	}
	if (worker_txn_run("giving up the lock", unlock_txn, NULL, &error) != WORKER_TXN_DONE)
		proc_exit(1);
	if (worker_txn_run("looking for jobs", any_work_txn, &work, &error) != WORKER_TXN_DONE)
		proc_exit(1);
	if (!work)
		proc_exit(0);
	worker_take_lock();
	pipeline_refresh();
}

static void
worker_start(Oid database)
{
	on_proc_exit(worker_no_restart, (Datum) 0);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	connected = true;
	worker_txn_init();

	if (RecoveryInProgress() || IsBinaryUpgrade)
		proc_exit(0);
	/* "creating" must not be forgotten by a crash: a second batch would be paid */
	if (synchronous_commit < SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("application_name", "dess_batch", PGC_USERSET, PGC_S_OVERRIDE);
	/* a time limit for transactions that the database has (PostgreSQL 17) would end the process */
	if (GetConfigOption("transaction_timeout", true, false) != NULL)
		SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("exit_on_error", "off", PGC_USERSET, PGC_S_OVERRIDE);
}

static void
worker_reload(void)
{
	ConfigReloadPending = false;
	ProcessConfigFile(PGC_SIGHUP);
	if (synchronous_commit < SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		SetConfigOption("synchronous_commit", "local", PGC_USERSET, PGC_S_OVERRIDE);
}

/* How long the loop may sleep; idle_since is when the last work was seen. */
static long
worker_timeout(TimestampTz idle_since)
{
	long		idle;
	long		busy;

	if (!dess_enabled)
		return -1;
	if (!pipeline_is_idle())
	{
		busy = pipeline_timeout_ms();
		if (purge_due == 0)
			return busy;
		idle = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), purge_due);
		return busy < 0 ? idle : Min(busy, idle);
	}
	idle = TimestampDifferenceMilliseconds(GetCurrentTimestamp(),
										   TimestampTzPlusMilliseconds(idle_since, dess_idle_timeout));
	return Max(idle, 1);
}

/*
 * Forgets old jobs now and then while there is other work; an idle worker does
 * it before it exits.  Closing what an old job has left at its provider makes
 * work, so that goes on at once.
 */
static void
worker_purge_sometimes(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (pipeline_is_idle())
		purge_due = 0;				/* it is done before the end */
	else if (purge_unfinished)
		purge_due = worker_purge() ? now : 0;
	else if (purge_due == 0)
		purge_due = TimestampTzPlusMilliseconds(now, EMPTY_JOB_SECONDS * 1000);
	else if (now >= purge_due)
		purge_due = worker_purge() ? now : 0;
}

/*
 * Gives memory back to the system.  What hundreds of jobs have held lies among
 * what is still in use, so that free() alone gives back next to nothing.
 */
static void
worker_trim_sometimes(void)
{
#ifdef __GLIBC__
	static TimestampTz trimmed_at = 0;
	static uint64 trimmed_txn = 0;
	TimestampTz now = GetCurrentTimestamp();

	if (trimmed_txn == worker_txn_count || !TimestampDifferenceExceeds(trimmed_at, now, TRIM_MS))
		return;
	trimmed_at = now;
	trimmed_txn = worker_txn_count;
	(void) malloc_trim(0);
#endif
}

/* How many worker transactions had run, and how often we had been woken, when the ledger was last looked at; and how long that took. */
static uint64 looked_at = 0;
static uint64 woken_at = 0;
static TimestampTz look_due = 0;

static void
worker_look(void)
{
	TimestampTz start = GetCurrentTimestamp();

	woken_at = shmem_wake_count();
	pipeline_refresh();
	looked_at = worker_txn_count;
	look_due = GetCurrentTimestamp();
	look_due += Max(LOOK_MS * INT64CONST(1000), (look_due - start) * LOOK_SHARE);
}

/*
 * May work have come in since the ledger was last looked at?  Where wake-ups
 * are not counted, every transaction may have taken one from the latch.
 */
static bool
worker_may_have_work(void)
{
	return shmem_counts_wakes() ? shmem_wake_count() != woken_at : worker_txn_count != looked_at;
}

/* While there is much to do: looks for work now and then. */
static void
worker_look_around(void)
{
	if (worker_may_have_work() &&
		(shmem_wake_count() != woken_at || GetCurrentTimestamp() >= look_due))
		worker_look();
}

/*
 * The same before the loop sleeps.  Returns whether there was something to do.
 */
static bool
worker_look_again(void)
{
	bool		busy;

	if (!worker_may_have_work())
		return false;
	worker_look();
	busy = pipeline_work();
	if (!busy)
		looked_at = worker_txn_count;
	return busy;
}

/*
 * Looks at dess_batch.enabled.  When it goes off, what can be taken up again
 * is dropped at once; online requests that are under way are paid for, so their
 * replies still go to the spool.
 */
static void
worker_follow_enabled(void)
{
	static bool was_enabled = true;

	if (dess_enabled == was_enabled)
		return;
	was_enabled = dess_enabled;
	if (dess_enabled)
		pipeline_refresh();
	else
		pipeline_suspend();
}

/*
 * Says in pg_stat_activity what is waited for, for timeout ms (-1: any time);
 * returns the wait event.
 */
static uint32
worker_say_wait(long timeout)
{
	int			jobs = pipeline_open_jobs();
	int			requests = http_in_flight();
	StringInfoData words;

	initStringInfo(&words);
	if (!dess_enabled)
		appendStringInfoString(&words, "waiting: dess_batch.enabled is off");
	else if (jobs == 0)
		appendStringInfoString(&words, "waiting for work");
	else
		appendStringInfo(&words, "waiting for %s: %d job%s",
						 requests > 0 ? "replies" : "the next look", jobs, jobs == 1 ? "" : "s");
	if (requests > 0)
		appendStringInfo(&words, ", %d request%s under way", requests, requests == 1 ? "" : "s");
	else if (dess_enabled && jobs > 0 && timeout >= 1000)
		appendStringInfo(&words, ", in %ld s", timeout / 1000);
	pgstat_report_activity(STATE_IDLE, words.data);
	pfree(words.data);
	return wait_event_info(requests > 0 ? WAIT_REPLY : jobs > 0 ? WAIT_TIME : WAIT_IDLE);
}

/* Between two worker transactions there is no query to cancel, but the process may have to end. */
static void
worker_check_interrupts(void)
{
	QueryCancelPending = false;
	CHECK_FOR_INTERRUPTS();
}

static void
worker_loop(void)
{
	MemoryContext turn = AllocSetContextCreate(TopMemoryContext, "dess_batch turn",
											   ALLOCSET_DEFAULT_SIZES);
	TimestampTz idle_since = GetCurrentTimestamp();

	MemoryContextSwitchTo(turn);
	for (;;)
	{
		bool		busy = false;
		bool		woken;
		long		timeout;

		worker_check_interrupts();
		if (ConfigReloadPending)
			worker_reload();
		if (shmem_stop_requested())
			proc_exit(0);

		worker_follow_enabled();
		pipeline_finished_transfers();
		if (dess_enabled)
		{
			worker_look_around();
			busy = pipeline_work();
			worker_purge_sometimes();
		}
		worker_trim_sometimes();
		if (!pipeline_is_idle())
			idle_since = GetCurrentTimestamp();
		else if (dess_enabled &&
				 TimestampDifferenceExceeds(idle_since, GetCurrentTimestamp(), dess_idle_timeout))
		{
			worker_exit_if_idle();
			idle_since = GetCurrentTimestamp();
		}
		if (dess_enabled && !busy)
			busy = worker_look_again();

		/* the network is never waited for with a transaction or a snapshot */
		Assert(!IsTransactionState());
		timeout = busy || ConfigReloadPending ? 0 : worker_timeout(idle_since);
		woken = http_wait(timeout, timeout == 0 ? wait_event_info(WAIT_TIME) : worker_say_wait(timeout));
		if (woken)
		{
			worker_check_interrupts();
			if (ConfigReloadPending)
				worker_reload();
			if (shmem_stop_requested())
				proc_exit(0);
			/* the alarm of a worker transaction that has ended sets the latch as well */
			if (dess_enabled && (!shmem_counts_wakes() || worker_may_have_work()))
				worker_look();
		}
		MemoryContextReset(turn);
	}
}

void
dess_batch_worker_main(Datum main_arg)
{
	worker_start(DatumGetObjectId(main_arg));
	worker_take_lock();
	worker_txn_after_abort = worker_keep_lock;
	http_init();
	pipeline_init();
	purge_due = GetCurrentTimestamp();
	worker_loop();
}
