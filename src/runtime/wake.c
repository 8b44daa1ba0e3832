/*-------------------------------------------------------------------------
 *
 * wake.c
 *		Waking or starting the worker when a transaction that wrote work
 *		commits.
 *
 * With preload the worker has left its latch in shared memory.  Without, a new
 * worker is started; one that finds the lock taken looks for the holder among
 * all locks, wakes it and goes.  The lock is a session lock of the default
 * method on the class of wrappers (sub-object 77), which nobody's
 * pg_advisory_unlock_all() releases.  Sub-object 78 is locked, for the length
 * of a transaction, by a worker that may be interrupted.  What runs at commit must not raise, so it
 * allocates nothing.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_foreign_data_wrapper.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/proc.h"
#include "storage/procarray.h"

#include "runtime/shmem.h"
#include "runtime/wake.h"

#define WORKER_RESTART_SECONDS	5
#define WORKER_TYPE				"dess_batch worker"

static bool wake_needed = false;
static int	wake_level;			/* nesting level of the transaction that needs it */

bool
wake_in_worker(void)
{
	return MyBgworkerEntry != NULL && strcmp(MyBgworkerEntry->bgw_type, WORKER_TYPE) == 0;
}

/* No wrapper's OID: a worker that has outlived its extension must be met by one of the next. */
static void
worker_locktag(LOCKTAG *tag, int subobject)
{
	SET_LOCKTAG_OBJECT(*tag, MyDatabaseId, ForeignDataWrapperRelationId, InvalidOid, subobject);
}

/*
 * PostgreSQL releases a session lock when a transaction is aborted, but there
 * is none when the process ends between two.
 */
static void
wake_release_locks(int code, Datum arg)
{
	LockReleaseAll(DEFAULT_LOCKMETHOD, true);
}

bool
wake_lock_worker(void)
{
	static bool exit_registered = false;
	LOCKTAG		tag;

	if (!exit_registered)
		on_shmem_exit(wake_release_locks, (Datum) 0);
	exit_registered = true;
	worker_locktag(&tag, WAKE_WORKER_SUBOBJECT);
	return LockAcquire(&tag, ExclusiveLock, true, true) != LOCKACQUIRE_NOT_AVAIL;
}

void
wake_unlock_worker(void)
{
	LOCKTAG		tag;

	worker_locktag(&tag, WAKE_WORKER_SUBOBJECT);
	LockRelease(&tag, ExclusiveLock, true);
}

void
wake_lock_interruptible(void)
{
	LOCKTAG		tag;

	worker_locktag(&tag, WAKE_INTERRUPTIBLE_SUBOBJECT);
	(void) LockAcquire(&tag, ExclusiveLock, false, true);
}

void
wake_lock_holder(void)
{
	LOCKTAG		tag;
	LockData   *locks;

	if (shmem_wake_worker(MyDatabaseId))
		return;
	locks = GetLockStatusData();
	worker_locktag(&tag, WAKE_WORKER_SUBOBJECT);
	for (int i = 0; i < locks->nelements; i++)
	{
		LockInstanceData *lock = &locks->locks[i];
		PGPROC	   *proc;

		if (memcmp(&lock->locktag, &tag, sizeof(LOCKTAG)) != 0 || lock->holdMask == 0)
			continue;
		proc = BackendPidGetProc(lock->pid);
		if (proc != NULL)
			SetLatch(&proc->procLatch);
	}
}

bool
wake_start_worker_handle(Oid database, BackgroundWorkerHandle **handle)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = WORKER_RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "dess_batch", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "dess_batch_worker_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "dess_batch worker for database %u", database);
	strlcpy(worker.bgw_type, WORKER_TYPE, BGW_MAXLEN);
	worker.bgw_main_arg = ObjectIdGetDatum(database);
	worker.bgw_notify_pid = handle != NULL ? MyProcPid : 0;
	return RegisterDynamicBackgroundWorker(&worker, handle);
}

bool
wake_start_worker(Oid database)
{
	return wake_start_worker_handle(database, NULL);
}

/* The work is committed and visible: somebody must look at it. */
static void
wake_commit(void)
{
	if (shmem_wake_worker(MyDatabaseId) || wake_start_worker(MyDatabaseId))
		return;
	shmem_flag_database(MyDatabaseId);
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("no background worker slot is free for dess_batch"),
			 errdetail("The job is committed and waits."),
			 errhint("Increase max_worker_processes, or call dess_batch_start() when a slot is free.")));
}

static void
wake_xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_COMMIT:
			if (wake_needed)
				wake_commit();
			wake_needed = false;
			break;
		case XACT_EVENT_ABORT:
			wake_needed = false;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (wake_needed)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("cannot PREPARE a transaction that has changed dess_batch jobs")));
			break;
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
			break;
	}
}

static void
wake_subxact_callback(SubXactEvent event, SubTransactionId my, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();

	if (!wake_needed || wake_level < level)
		return;
	if (event == SUBXACT_EVENT_ABORT_SUB)
		wake_needed = false;
	else if (event == SUBXACT_EVENT_COMMIT_SUB)
		wake_level = level - 1;
}

void
wake_at_commit(void)
{
	int			level = GetCurrentTransactionNestLevel();

	wake_level = wake_needed ? Min(wake_level, level) : level;
	wake_needed = true;
}

void
wake_init(void)
{
	RegisterXactCallback(wake_xact_callback, NULL);
	RegisterSubXactCallback(wake_subxact_callback, NULL);
}
