/*-------------------------------------------------------------------------
 *
 * worker_txn.h
 *		The worker's one error boundary: a bounded piece of database work in a
 *		transaction of its own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_WORKER_TXN_H
#define DESS_RUNTIME_WORKER_TXN_H

/* What a failed transaction means. */
typedef enum WorkerTxnVerdict
{
	WORKER_TXN_DONE,
	WORKER_TXN_RETRY,				/* serialization, deadlock, lock timeout: repeat, nobody's fault */
	WORKER_TXN_SLOW,					/* it took longer than worker_txn_run_limited() allowed: repeat with less */
	WORKER_TXN_TROUBLE,				/* resources, I/O, internal: repeat with back-off */
	WORKER_TXN_HOPELESS				/* the same will happen again: table gone, rights gone, bad data */
} WorkerTxnVerdict;

typedef struct WorkerTxnError
{
	char		sqlstate[6];
	char		message[512];
} WorkerTxnError;

/*
 * Runs fn(arg) in a transaction.  What it allocates lives until the next call
 * of worker_txn_run().  An error is caught, logged once and described in error.  The
 * worker ends (by exit code 0) when the extension is gone.
 */
extern WorkerTxnVerdict worker_txn_run(const char *activity, void (*fn) (void *arg), void *arg, WorkerTxnError *error);

/*
 * The same for a look at the ledger alone, without a time limit: PostgreSQL
 * leaves the timer of a disabled one running, and the late signal sets the
 * latch, which would ask for the next look.
 */
extern WorkerTxnVerdict worker_txn_look(const char *activity, void (*fn) (void *arg), void *arg, WorkerTxnError *error);

/*
 * The same for what the own code of a table, that of job job_id, can make slow:
 * after limit_ms it is cancelled.  One that may take longer than others should have to wait is also
 * cancelled, as WORKER_TXN_RETRY, when somebody wakes the worker.
 */
extern WorkerTxnVerdict worker_txn_run_limited(const char *activity, void (*fn) (void *arg), void *arg,
									  int64 job_id, int limit_ms, WorkerTxnError *error);

/* In a worker transaction: what is done between these two is bounded by itself, and its time does not count. */
extern void worker_txn_begin_own_work(void);
extern void worker_txn_end_own_work(void);

/*
 * Called once by the worker: from then on, when such code ends the process, the
 * job is noted for the next one, see spool_culprit(), which is started at once.
 */
extern void worker_txn_init(void);

/* A longer transaction is one that a newcomer does not have to wait for. */
#define WORKER_TXN_PATIENCE_MS	1200
/* and none is longer than this */
#define WORKER_TXN_LIMIT_MS		30000

/* How long the last one took. */
extern int64 worker_txn_ms;

/*
 * How many have run.  Whatever waits inside one (a lock, a foreign server, a
 * parallel query, a trigger) resets MyLatch, and with it a wake-up.
 */
extern uint64 worker_txn_count;

/* Called after a failed transaction: an abort releases session locks as well. */
extern void (*worker_txn_after_abort) (void);

#endif							/* DESS_RUNTIME_WORKER_TXN_H */
