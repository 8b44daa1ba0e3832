/*-------------------------------------------------------------------------
 *
 * fair_share.c
 *		Whose turn it is, and for how long: the worker's time is shared.
 *
 * One process works for all jobs, and what it does with a user's table takes as
 * long as that table's triggers, functions and locks make it.  So a round lets
 * one job do such work, the one that has used least time lately; the transaction is
 * cut short, and repeated with fewer rows, down to one, when it takes long; and
 * who has held up the others rests, the longer the worse it was, unless nobody
 * else has anything to do.
 *
 * The machine belongs to all sessions of the server.  While more of them are at
 * work than there are processors, every job's tables rest after a worker transaction, so that
 * this process uses no more than its equal part.  Requests and replies go on.
 *
 * A single row that needs more than WORKER_TXN_PATIENCE_MS has to wait until the
 * other jobs leave the time.  It then may take WORKER_TXN_LIMIT_MS, but gives way to
 * whoever wakes the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/timestamp.h"

#include "pipeline/pipeline.h"
#include "runtime/processor_share.h"

/* worker transactions that take no longer than this may grow, if they need not be this quick */
#define QUICK_MS		75
/* those that take longer are halved, if that helps */
#define LONG_MS			250
/* several rows must be done in this, or in some times what they took before */
#define GROUP_MS		400
#define GROUP_TIMES		3
/* after so many slow worker transactions of a few rows a larger one is tried */
#define PROBE_EVERY		16
/* after a worker transaction of t ms its job rests t * t / REST_DIVISOR ms */
#define REST_FROM_MS	100
#define REST_DIVISOR	100
#define REST_CAP_MS		20000
/* how long the other sessions may have the machine after one transaction */
#define YIELD_CAP_MS	1000
/* a job that did something this long ago has something to do */
#define ACTIVE_MS		3000
/* time used is worth half after this */
#define HALF_LIFE_MS	5000
/* refused rows after which the user is told */
#define TELL_AFTER		3

static JobTask *ran = NULL;		/* who had the turn in this round */
static bool denied;				/* somebody else wanted it */
static TimestampTz yield_until = 0; /* until when the machine is left to other sessions */

void
group_size_init(GroupSize *group_size, int first, int most)
{
	memset(group_size, 0, sizeof(*group_size));
	group_size->rows = first;
	group_size->most = most;
}

/* ---- the others ---- */

static bool
job_has_requests(const JobTask *task)
{
	dlist_iter	iter;

	dlist_foreach(iter, &((JobTask *) task)->batches)
	{
		const BatchTask *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->transfer != NULL || online_in_flight(batch))
			return true;
	}
	return false;
}

/* When another job was last at work, or 0. */
static TimestampTz
others_active_at(const JobTask *task)
{
	TimestampTz last = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &pipeline_jobs)
	{
		const JobTask *other = dlist_container(JobTask, node, iter.cur);

		if (other != task)
			last = Max(last, other->share.active_at);
	}
	return last;
}

static bool
others_are_active(const JobTask *task)
{
	return others_active_at(task) + ACTIVE_MS * 1000 > GetCurrentTimestamp();
}

/* How long a single row may take without another job having to wait. */
static int
row_limit(const JobTask *task)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz end = now + WORKER_TXN_LIMIT_MS * INT64CONST(1000);
	dlist_iter	iter;

	if (others_are_active(task))
		return WORKER_TXN_PATIENCE_MS;
	dlist_foreach(iter, &pipeline_jobs)
	{
		const JobTask *other = dlist_container(JobTask, node, iter.cur);
		TimestampTz due;

		if (other == task)
			continue;
		if (job_has_requests(other))
			return WORKER_TXN_PATIENCE_MS;
		due = pipeline_job_due(other, now);
		end = Min(end, due);
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

void
fair_share_enqueue(JobTask *task)
{
	TimestampTz now = GetCurrentTimestamp();
	double		used = time_used(&task->share, now);
	dlist_iter	iter;

	dlist_foreach(iter, &pipeline_jobs)
	{
		JobTask    *other = dlist_container(JobTask, node, iter.cur);

		if (time_used(&other->share, now) > used)
		{
			dlist_insert_before(iter.cur, &task->node);
			return;
		}
	}
	dlist_push_tail(&pipeline_jobs, &task->node);
}

bool
fair_share_is_turn(JobTask *task)
{
	FairShare	   *share = &task->share;
	TimestampTz now = GetCurrentTimestamp();

	/* a clock that was set back must not hold up everybody */
	if (yield_until > now + YIELD_CAP_MS * INT64CONST(1000))
		yield_until = 0;
	if (yield_until > now || (share->rest_until > now && others_are_active(task)))
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
	dlist_foreach(iter, &pipeline_jobs)
		dlist_container(JobTask, node, iter.cur)->share.waits = false;
}

bool
fair_share_end_round(void)
{
	if (ran != NULL)
	{
		dlist_delete(&ran->node);
		fair_share_enqueue(ran);
	}
	ran = NULL;
	return denied;
}

void
fair_share_forget(JobTask *task)
{
	if (ran == task)
		ran = NULL;
}

TimestampTz
fair_share_due(const JobTask *task)
{
	if (!task->share.waits)
		return DT_NOEND;
	return Max(Min(task->share.rest_until, others_active_at(task) + ACTIVE_MS * INT64CONST(1000)), yield_until);
}

static void
charge(FairShare *share, int64 ms)
{
	TimestampTz now = GetCurrentTimestamp();

	share->used = time_used(share, now) + ms;
	share->at = now;
	if (ms >= REST_FROM_MS)
		share->rest_until = now + Min(ms * ms / REST_DIVISOR, REST_CAP_MS) * 1000;
}

/* After a worker transaction of ms: the other sessions have the rest of the time. */
static void
yield_to_sessions(int64 ms)
{
	if (ms > 0)
		yield_until = GetCurrentTimestamp() +
			Min((int64) (ms * 1000 * (1 / processor_share() - 1)), YIELD_CAP_MS * INT64CONST(1000));
}

/* ---- rows ---- */

static int
group_size_limit(const GroupSize *group_size, const JobTask *task)
{
	int			patience = row_limit(task);

	if (group_size->rows <= 1)
		return patience;
	return Max(GROUP_MS, Min(group_size->ms * GROUP_TIMES, patience));
}

/* A larger transaction is tried; when it takes as long in proportion, that was all. */
static void
group_size_probe(GroupSize *group_size, int64 ms)
{
	group_size->probed_from = ms <= QUICK_MS ? 0 : group_size->used;
	group_size->rows = Min(group_size->used * 2, group_size->most);
	group_size->slow = 0;
}

/* Returns whether the number of rows has been seen to. */
static bool
group_size_halve(GroupSize *group_size, int64 ms)
{
	int64		before = group_size->halved_ms;

	group_size->halved_ms = 0;
	if (before > 0 && ms * 4 > before * 3)
	{
		group_size->fixed = true;
		group_size->rows = Min(group_size->used * 2, group_size->most);
		return true;
	}
	if (ms <= LONG_MS || group_size->used <= 1 || group_size->fixed || group_size->probed_from > 0)
		return false;
	group_size->halved_ms = ms;
	group_size->rows = group_size->used / 2;
	return true;
}

static void
group_size_went_well(GroupSize *group_size, int64 ms)
{
	bool		cheaper = ms <= QUICK_MS || ms * 2 < group_size->ms * 3;

	if (group_size->used < group_size->rows)
		return;
	if (group_size_halve(group_size, ms))
	{
		group_size->ms = ms;
		return;
	}
	if (group_size->probed_from > 0 && !cheaper)
	{
		group_size->rows = group_size->probed_from;
		group_size->probed_from = 0;
		group_size->slow = 1;
		return;
	}
	if (group_size->rows < group_size->most &&
		(ms <= QUICK_MS || group_size->probed_from > 0 || group_size->slow++ % PROBE_EVERY == 0))
		group_size_probe(group_size, ms);
	else
		group_size->probed_from = 0;
	group_size->ms = ms;
}

static void
group_size_took_long(GroupSize *group_size)
{
	if (group_size->probed_from > 0 && group_size->probed_from < group_size->rows)
		group_size->rows = group_size->probed_from;
	else
		group_size->rows = Max(Min(group_size->rows, group_size->used) / 8, 1);
	group_size->probed_from = 0;
	group_size->halved_ms = 0;
	group_size->fixed = false;
	group_size->slow = 1;
}

/* One row took longer than the others can wait: after some times the user is told. */
static void
fair_share_refuse_row(JobTask *task)
{
	if (++task->share.refused == TELL_AFTER)
		jobtask_note_failing(task, "57014",
							 psprintf("code of the table (trigger, function) needs more than %.1f s for a row, which waits until other jobs leave that time",
									  WORKER_TXN_PATIENCE_MS / 1000.0));
}

WorkerTxnVerdict
fair_share_run(JobTask *task, GroupSize *group_size, const char *activity,
		 void (*fn) (void *arg), void *arg, WorkerTxnError *error)
{
	char		what[64];
	WorkerTxnVerdict verdict;
	int64		ms;

	snprintf(what, sizeof(what), "%s of job " INT64_FORMAT, activity, task->job->id);
	if (group_size == NULL)
	{
		verdict = worker_txn_run(what, fn, arg, error);
		ms = worker_txn_ms;
	}
	else
	{
		group_size->used = group_size->rows;
		verdict = worker_txn_run_limited(what, fn, arg, task->job->id, group_size_limit(group_size, task), error);
		ms = worker_txn_ms;
		if (verdict == WORKER_TXN_DONE)
		{
			task->share.refused = 0;
			group_size_went_well(group_size, ms);
		}
		else if (verdict == WORKER_TXN_SLOW && group_size->rows <= 1)
			fair_share_refuse_row(task);
		else if (verdict == WORKER_TXN_SLOW)
			group_size_took_long(group_size);
	}
	charge(&task->share, ms);
	yield_to_sessions(ms);
	ran = task;
	return verdict;
}
