/*-------------------------------------------------------------------------
 *
 * wake.h
 *		Waking or starting the worker when a transaction that wrote work
 *		commits, and the lock that makes it the only one of its database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_WAKE_H
#define DESS_RUNTIME_WAKE_H

#include "postmaster/bgworker.h"

/* Remembers that this transaction wrote work.  Raises 0A000 at PREPARE TRANSACTION. */
extern void wake_at_commit(void);

/* Is this process a worker of ours? */
extern bool wake_in_worker(void);

/* Registers a worker for a database.  False: no slot is free. */
extern bool wake_start_worker(Oid database);
extern bool wake_start_worker_handle(Oid database, BackgroundWorkerHandle **handle);

/* Sets the latch of whoever holds the worker's lock of this database. */
extern void wake_lock_holder(void);

/* The worker's lock, held by the session. */
extern bool wake_lock_worker(void);
extern void wake_unlock_worker(void);

/*
 * Held until the end of the transaction while the worker is at work that
 * whoever waits for it may interrupt with SIGINT, see worker_txn_run_limited().
 */
#define WAKE_WORKER_SUBOBJECT			77
#define WAKE_INTERRUPTIBLE_SUBOBJECT	78
extern void wake_lock_interruptible(void);

extern void wake_init(void);

#endif							/* DESS_RUNTIME_WAKE_H */
