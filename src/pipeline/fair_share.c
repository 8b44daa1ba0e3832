/*-------------------------------------------------------------------------
 *
 * fair_share.c
 *		Whose turn it is: jobs have equal shares of the worker's time.
 *
 * One process works for all jobs, and what it does with a user's table takes as
 * long as that table's triggers, functions and locks make it.  So in each round
 * one job does such work: the one that has used least time lately.  A job that
 * has held up the others rests, the longer the worse it was, unless nobody else
 * has anything to do.
 *
 * The machine belongs to all sessions of the server.  While more of them are at
 * work than there are processors, the tables of all jobs rest after a worker
 * transaction, so that this process uses no more than an equal part of the
 * machine.  Requests and replies go on.
 *
 * A single row that needs more than WORKER_TXN_PATIENCE_MS has to wait until the
 * other jobs leave the time for it.  It then may take WORKER_TXN_LIMIT_MS, but
 * gives way to whoever wakes the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/timestamp.h"

#include "pipeline/fair_share.h"
#include "runtime/processor_share.h"
#include "runtime/worker_txn.h"

/* after t ms of work a job rests t * t / REST_DIVISOR ms */
#define REST_FROM_MS	100
#define REST_DIVISOR	100
#define REST_CAP_MS		20000
/* how long the other sessions may have the machine after one transaction */
#define YIELD_CAP_MS	INT64CONST(1000)
/* a job that did something this long ago has something to do */
#define ACTIVE_MS		INT64CONST(3000)
/* time used is worth half after this */
#define HALF_LIFE_MS	5000

dlist_head	fair_share_queue = DLIST_STATIC_INIT(fair_share_queue);

static FairShare *ran = NULL;	/* who had the turn in this round */
static bool denied;				/* somebody else wanted it */
static TimestampTz yield_until = 0; /* until when the machine is left to other sessions */

/* ---- the others ---- */

/* When somebody else was last at work, or 0. */
static TimestampTz
others_active_at(const FairShare *share)
{
	TimestampTz last = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &fair_share_queue)
	{
		const FairShare *other = dlist_container(FairShare, node, iter.cur);

		if (other != share)
			last = Max(last, other->active_at);
	}
	return last;
}

static bool
others_are_active(const FairShare *share)
{
	return others_active_at(share) + ACTIVE_MS * 1000 > GetCurrentTimestamp();
}

int
fair_share_row_limit(const FairShare *share)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz end = now + WORKER_TXN_LIMIT_MS * INT64CONST(1000);
	dlist_iter	iter;

	if (others_are_active(share))
		return WORKER_TXN_PATIENCE_MS;
	dlist_foreach(iter, &fair_share_queue)
	{
		const FairShare *other = dlist_container(FairShare, node, iter.cur);

		if (other == share)
			continue;
		if (other->has_requests)
			return WORKER_TXN_PATIENCE_MS;
		end = Min(end, other->due);
	}
	return Max((end - now) / 1000, WORKER_TXN_PATIENCE_MS);
}

/* ---- turns ---- */

static double
time_used(const FairShare *share, TimestampTz now)
{
	if (share->used == 0)
		return 0;
	return share->used * exp2((share->at - now) / 1000.0 / HALF_LIFE_MS);
}

/* Puts the share behind those that have used no more time. */
static void
enqueue(FairShare *share)
{
	TimestampTz now = GetCurrentTimestamp();
	double		used = time_used(share, now);
	dlist_iter	iter;

	dlist_foreach(iter, &fair_share_queue)
	{
		if (time_used(dlist_container(FairShare, node, iter.cur), now) > used)
		{
			dlist_insert_before(iter.cur, &share->node);
			return;
		}
	}
	dlist_push_tail(&fair_share_queue, &share->node);
}

void
fair_share_join(FairShare *share)
{
	share->active_at = GetCurrentTimestamp();
	share->due = DT_NOEND;
	enqueue(share);
}

void
fair_share_leave(FairShare *share)
{
	if (ran == share)
		ran = NULL;
	dlist_delete(&share->node);
}

bool
fair_share_is_turn(FairShare *share)
{
	TimestampTz now = GetCurrentTimestamp();

	/* a clock that was set back must not hold up everybody */
	if (yield_until > now + YIELD_CAP_MS * 1000)
		yield_until = 0;
	if (yield_until > now || (share->rest_until > now && others_are_active(share)))
	{
		share->waits = true;
		return false;
	}
	if (ran != NULL)
		denied = true;
	return ran == NULL;
}

void
fair_share_begin_round(void)
{
	dlist_iter	iter;

	ran = NULL;
	denied = false;
	dlist_foreach(iter, &fair_share_queue)
		dlist_container(FairShare, node, iter.cur)->waits = false;
}

bool
fair_share_end_round(void)
{
	if (ran != NULL)
	{
		dlist_delete(&ran->node);
		enqueue(ran);
	}
	ran = NULL;
	return denied;
}

TimestampTz
fair_share_due(const FairShare *share)
{
	if (!share->waits)
		return DT_NOEND;
	return Max(Min(share->rest_until, others_active_at(share) + ACTIVE_MS * 1000), yield_until);
}

void
fair_share_charge(FairShare *share, int64 ms)
{
	TimestampTz now = GetCurrentTimestamp();

	share->used = time_used(share, now) + ms;
	share->at = now;
	if (ms >= REST_FROM_MS)
		share->rest_until = now + Min(ms * ms / REST_DIVISOR, REST_CAP_MS) * 1000;
	if (ms > 0)
		yield_until = now + Min((int64) (ms * 1000 * (1 / processor_share() - 1)), YIELD_CAP_MS * 1000);
	ran = share;
}
