/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		Control block in shared memory; exists only with preload.
 *
 * The block is small and of fixed size: what does not fit is not remembered
 * one by one but as "look at all databases".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"
#include "storage/spin.h"

#include "runtime/shmem.h"
#include "runtime/wait_event.h"

#define MAX_FLAGGED		32
#define MAX_WORKERS		256
#define STOP_TIMEOUT_MS	10000

typedef struct WorkerSlot
{
	Oid			database;		/* InvalidOid: free */
	pid_t		pid;
	Latch	   *latch;
	uint64		wakes;			/* how often somebody has set it */
	bool		stop;
} WorkerSlot;

typedef struct ControlBlock
{
	slock_t		mutex;
	Latch	   *launcher;		/* NULL: none is running */
	uint64		ended;			/* workers that have ended */
	int			nflagged;
	Oid			flagged[MAX_FLAGGED];
	WorkerSlot	workers[MAX_WORKERS];
} ControlBlock;

static ControlBlock *control = NULL;
static WorkerSlot *my_slot = NULL;
static uint64 wakes_before = 0; /* while this worker was registered earlier */
static shmem_request_hook_type previous_request_hook = NULL;
static shmem_startup_hook_type previous_startup_hook = NULL;

static void
shmem_request(void)
{
	if (previous_request_hook)
		previous_request_hook();
	RequestAddinShmemSpace(MAXALIGN(sizeof(ControlBlock)));
}

static void
shmem_startup(void)
{
	bool		found;

	if (previous_startup_hook)
		previous_startup_hook();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	control = ShmemInitStruct("dess_batch", sizeof(ControlBlock), &found);
	if (!found)
	{
		memset(control, 0, sizeof(ControlBlock));
		SpinLockInit(&control->mutex);
	}
	LWLockRelease(AddinShmemInitLock);
}

void
shmem_init(void)
{
	previous_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	previous_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

bool
shmem_available(void)
{
	return control != NULL;
}

void
shmem_flag_database(Oid database)
{
	Latch	   *launcher;
	bool		known = false;

	if (control == NULL)
		return;
	SpinLockAcquire(&control->mutex);
	for (int i = 0; i < control->nflagged; i++)
		known = known || control->flagged[i] == database;
	/* a full list keeps its last place for "all of them" */
	if (!known && control->nflagged < MAX_FLAGGED)
	{
		control->flagged[control->nflagged] = control->nflagged == MAX_FLAGGED - 1 ? InvalidOid : database;
		control->nflagged++;
	}
	launcher = control->launcher;
	SpinLockRelease(&control->mutex);
	if (launcher != NULL)
		SetLatch(launcher);
}

bool
shmem_next_flagged(Oid *database)
{
	bool		found;

	SpinLockAcquire(&control->mutex);
	found = control->nflagged > 0;
	if (found)
		*database = control->flagged[--control->nflagged];
	SpinLockRelease(&control->mutex);
	return found;
}

static void
launcher_exit(int code, Datum arg)
{
	SpinLockAcquire(&control->mutex);
	control->launcher = NULL;
	SpinLockRelease(&control->mutex);
}

void
shmem_register_launcher(void)
{
	before_shmem_exit(launcher_exit, (Datum) 0);
	SpinLockAcquire(&control->mutex);
	control->launcher = MyLatch;
	SpinLockRelease(&control->mutex);
}

void
shmem_unregister_worker(void)
{
	if (my_slot == NULL)
		return;
	SpinLockAcquire(&control->mutex);
	wakes_before = my_slot->wakes;
	memset(my_slot, 0, sizeof(WorkerSlot));
	SpinLockRelease(&control->mutex);
	my_slot = NULL;
}

static void
worker_exit(int code, Datum arg)
{
	Latch	   *launcher;

	shmem_unregister_worker();
	SpinLockAcquire(&control->mutex);
	control->ended++;
	launcher = control->launcher;
	SpinLockRelease(&control->mutex);
	if (launcher != NULL)
		SetLatch(launcher);
}

uint64
shmem_ended_workers(void)
{
	uint64		ended;

	SpinLockAcquire(&control->mutex);
	ended = control->ended;
	SpinLockRelease(&control->mutex);
	return ended;
}

void
shmem_register_worker(Oid database)
{
	static bool exit_registered = false;

	if (control == NULL || my_slot != NULL)
		return;
	SpinLockAcquire(&control->mutex);
	for (int i = 0; i < MAX_WORKERS && my_slot == NULL; i++)
	{
		if (OidIsValid(control->workers[i].database))
			continue;
		my_slot = &control->workers[i];
		my_slot->database = database;
		my_slot->pid = MyProcPid;
		my_slot->latch = MyLatch;
		my_slot->wakes = wakes_before;
		my_slot->stop = false;
	}
	SpinLockRelease(&control->mutex);
	if (!exit_registered)
		before_shmem_exit(worker_exit, (Datum) 0);
	exit_registered = true;
}

bool
shmem_wake_worker(Oid database)
{
	Latch	   *latch = NULL;

	if (control == NULL)
		return false;
	SpinLockAcquire(&control->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		if (control->workers[i].database != database)
			continue;
		latch = control->workers[i].latch;
		control->workers[i].wakes++;
	}
	SpinLockRelease(&control->mutex);
	if (latch != NULL)
		SetLatch(latch);
	return latch != NULL;
}

uint64
shmem_wake_count(void)
{
	return my_slot != NULL ? ((volatile WorkerSlot *) my_slot)->wakes : wakes_before;
}

bool
shmem_counts_wakes(void)
{
	return my_slot != NULL;
}

bool
shmem_stop_requested(void)
{
	return my_slot != NULL && ((volatile WorkerSlot *) my_slot)->stop;
}

/* Marks the workers of a database as unwanted; returns how many there are. */
static int
shmem_mark_workers(Oid database)
{
	Latch	   *latches[MAX_WORKERS];
	int			n = 0;

	SpinLockAcquire(&control->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
	{
		if (control->workers[i].database != database)
			continue;
		control->workers[i].stop = true;
		control->workers[i].wakes++;
		latches[n++] = control->workers[i].latch;
	}
	SpinLockRelease(&control->mutex);
	for (int i = 0; i < n; i++)
		SetLatch(latches[i]);
	return n;
}

bool
shmem_stop_worker(Oid database)
{
	if (control == NULL)
		return true;
	for (int waited = 0; waited < STOP_TIMEOUT_MS; waited += 10)
	{
		if (shmem_mark_workers(database) == 0)
			return true;
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, 10,
						 wait_event_info(WAIT_WORKER));
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
	}
	return false;
}

bool
shmem_has_worker(Oid database)
{
	bool		found = false;

	if (control == NULL)
		return false;
	SpinLockAcquire(&control->mutex);
	for (int i = 0; i < MAX_WORKERS; i++)
		found = found || control->workers[i].database == database;
	SpinLockRelease(&control->mutex);
	return found;
}
