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

/* What a failed slice means. */
typedef enum SliceVerdict
{
	SLICE_DONE,
	SLICE_AGAIN,				/* serialization, deadlock, lock timeout: repeat, nobody's fault */
	SLICE_SLOW,					/* it took longer than slice_run_limited() allowed: repeat with less */
	SLICE_TROUBLE,				/* resources, I/O, internal: repeat with back-off */
	SLICE_HOPELESS				/* the same will happen again: table gone, rights gone, bad data */
} SliceVerdict;

typedef struct SliceError
{
	char		sqlstate[6];
	char		message[512];
} SliceError;

/*
 * Runs fn(arg) in a transaction.  What it allocates lives until the next call
 * of slice_run().  An error is caught, logged once and described in error.  The
 * worker ends (by exit code 0) when the extension is gone.
 */
extern SliceVerdict slice_run(const char *activity, void (*fn) (void *arg), void *arg, SliceError *error);

/*
 * The same for a look at the ledger alone, without a time limit: PostgreSQL
 * leaves the timer of a disabled one running, and the late signal sets the
 * latch, which would ask for the next look.
 */
extern SliceVerdict slice_look(const char *activity, void (*fn) (void *arg), void *arg, SliceError *error);

/*
 * The same for what the own code of a table, that of job job_id, can make slow:
 * after limit_ms it is cancelled.  One that may take longer than others should have to wait is also
 * cancelled, as SLICE_AGAIN, when somebody wakes the worker.
 */
extern SliceVerdict slice_run_limited(const char *activity, void (*fn) (void *arg), void *arg,
									  int64 job_id, int limit_ms, SliceError *error);

/* In a slice: what is done between these two is bounded by itself, and its time does not count. */
extern void slice_begin_own_work(void);
extern void slice_end_own_work(void);

/*
 * Called once by the worker: from then on, when such code ends the process, the
 * job is noted for the next one, see spool_culprit(), which is started at once.
 */
extern void slice_init(void);

/* A longer slice is one that a newcomer does not have to wait for. */
#define SLICE_PATIENCE_MS	1200
/* and none is longer than this */
#define SLICE_LIMIT_MS		30000

/* How long the last one took. */
extern int64 slice_ms;

/*
 * How many have run.  Whatever waits inside one (a lock, a foreign server, a
 * parallel query, a trigger) resets MyLatch, and with it a wake-up.
 */
extern uint64 slice_count;

/* Called after a failed slice: an abort releases session locks as well. */
extern void (*slice_after_abort) (void);

#endif							/* DESS_RUNTIME_WORKER_TXN_H */
