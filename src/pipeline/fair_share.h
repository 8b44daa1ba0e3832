/*-------------------------------------------------------------------------
 *
 * fair_share.h
 *		Whose turn it is: jobs have equal shares of the worker's time.
 *
 * These rules know shares, not jobs: who has used how much time, who has work
 * under way, when somebody's next work is due.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_FAIR_SHARE_H
#define DESS_PIPELINE_FAIR_SHARE_H

#include "datatype/timestamp.h"
#include "lib/ilist.h"

/* A job's share of the worker's time. */
typedef struct FairShare
{
	dlist_node	node;			/* in fair_share_queue */
	double		used;			/* milliseconds, those of long ago forgotten, as of "at" */
	TimestampTz at;
	TimestampTz rest_until;		/* when others have work */
	bool		waits;			/* it asked for its turn in this round and has to rest */

	/* what the others have to know of it; its owner keeps it up to date */
	TimestampTz active_at;		/* when it last did anything */
	bool		has_requests;	/* replies to its requests are awaited */
	TimestampTz due;			/* when it has work by time; DT_NOEND: never */
} FairShare;

/* All shares; those that have used little time lately come first. */
extern dlist_head fair_share_queue;

extern void fair_share_join(FairShare *share);	/* a new share, all zeros: it counts as active now */
extern void fair_share_leave(FairShare *share);

/*
 * May the share's owner do what takes time now?  It may not when another one
 * has done so in this round, or when it has just held up others for long.
 */
extern bool fair_share_is_turn(FairShare *share);

/* The owner has used this time.  It was its turn, and the other sessions of the server have theirs. */
extern void fair_share_charge(FairShare *share, int64 ms);

/* Milliseconds that a single row may take without another job having to wait. */
extern int	fair_share_row_limit(const FairShare *share);

/* A round begins; at its end, whether somebody has to be given another one at once. */
extern void fair_share_begin_round(void);
extern bool fair_share_end_round(void);

/* When a share that rests has its turn; DT_NOEND if it does not rest. */
extern TimestampTz fair_share_due(const FairShare *share);

#endif							/* DESS_PIPELINE_FAIR_SHARE_H */
