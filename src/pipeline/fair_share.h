/*-------------------------------------------------------------------------
 *
 * fair_share.h
 *		How many rows of a table one transaction takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_FAIR_SHARE_H
#define DESS_PIPELINE_FAIR_SHARE_H

#include "datatype/timestamp.h"

#include "runtime/worker_txn.h"

struct JobTask;

/*
 * One kind of work on a job's table.  Who does it takes at most "rows" rows
 * and says in "used", before it begins, how many; the rest is seen to by
 * fair_share_run().
 */
typedef struct GroupSize
{
	int			rows;			/* in the next transaction, at most */
	int			most;			/* and never more */
	int			used;			/* by the transaction that runs */
	int			probed_from;	/* rows was doubled from this to see what it costs; 0: it was not */
	int64		ms;				/* what the last transaction that ended well took */
	int			slow;			/* worker transactions in a row that took long */
	int64		halved_ms;		/* what the transaction took after which rows was halved; 0: it was not */
	bool		fixed;			/* half of the rows took as long */
} GroupSize;

/* A job's part of the worker's time. */
typedef struct FairShare
{
	double		used;			/* milliseconds, those of long ago forgotten, as of "at" */
	TimestampTz at;
	TimestampTz rest_until;		/* when others have work */
	TimestampTz active_at;		/* when the job last did anything */
	bool		waits;			/* it asked for its turn in this round and rests */
	int			refused;		/* single rows in a row that took longer than others let them */
} FairShare;

extern void group_size_init(GroupSize *group_size, int first, int most);

/*
 * May the job do what takes time now?  It may not when another one has done so
 * in this round, or when it has just held up others for long.
 */
extern bool fair_share_is_turn(struct JobTask *task);

/*
 * Runs such a piece of work as a worker transaction and charges it to the job.  With a group_size,
 * which is adapted, it is cancelled when it takes long: WORKER_TXN_SLOW means that
 * it is to be repeated with the rows that the group_size allows now, when it is the
 * job's turn again.  Without (NULL) it is the ledger's own work.
 */
extern WorkerTxnVerdict fair_share_run(struct JobTask *task, GroupSize *group_size, const char *activity,
							 void (*fn) (void *arg), void *arg, WorkerTxnError *error);

/* A round begins; at its end, whether some job has to be given another one at once. */
extern void fair_share_begin_round(void);
extern bool fair_share_end_round(void);

/* The job is about to be dropped. */
extern void fair_share_forget(struct JobTask *task);

/* Those that have used little lately come first. */
extern void fair_share_enqueue(struct JobTask *task);

/* When a job that rests has its turn; DT_NOEND if none does. */
extern TimestampTz fair_share_due(const struct JobTask *task);

#endif							/* DESS_PIPELINE_FAIR_SHARE_H */
