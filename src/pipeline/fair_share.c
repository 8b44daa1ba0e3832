/*-------------------------------------------------------------------------
 *
 * fair_share.c
 *		Whose turn it is, and for how long: the worker's time is shared.
 *
 * One process works for all jobs, and what it does with a user's table takes as
 * long as that table's triggers, functions and locks make it.  So a round lets
 * one job do such work, the one that has used least time lately; the slice is
 * cut short, and repeated with fewer rows, down to one, when it takes long; and
 * who has held up the others rests, the longer the worse it was, unless nobody
 * else has anything to do.
 *
 * The machine belongs to all sessions of the server.  While more of them are at
 * work than there are processors, every job's tables rest after a slice, so that
 * this process uses no more than its equal part.  Requests and replies go on.
 *
 * A single row that needs more than SLICE_PATIENCE_MS has to wait until the
 * other jobs leave the time.  It then may take SLICE_LIMIT_MS, but gives way to
 * whoever wakes the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "utils/timestamp.h"

#include "pipeline/pipeline.h"
#include "runtime/processor_share.h"

/* slices that take no longer than this may grow, if they need not be this quick */
#define QUICK_MS		75
/* those that take longer are halved, if that helps */
#define LONG_MS			250
/* several rows must be done in this, or in some times what they took before */
#define GROUP_MS		400
#define GROUP_TIMES		3
/* after so many slow slices of a few rows a larger one is tried */
#define PROBE_EVERY		16
/* after a slice of t ms its job rests t * t / REST_DIVISOR ms */
#define REST_FROM_MS	100
#define REST_DIVISOR	100
#define REST_CAP_MS		20000
/* how long the other sessions may have the machine after one slice */
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
pace_init(Pace *pace, int first, int most)
{
	memset(pace, 0, sizeof(*pace));
	pace->rows = first;
	pace->most = most;
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
	TimestampTz end = now + SLICE_LIMIT_MS * INT64CONST(1000);
	dlist_iter	iter;

	if (others_are_active(task))
		return SLICE_PATIENCE_MS;
	dlist_foreach(iter, &pipeline_jobs)
	{
		const JobTask *other = dlist_container(JobTask, node, iter.cur);
		TimestampTz due;

		if (other == task)
			continue;
		if (job_has_requests(other))
			return SLICE_PATIENCE_MS;
		due = pipeline_job_due(other, now);
		end = Min(end, due);
	}
	return Max((end - now) / 1000, SLICE_PATIENCE_MS);
}

/* ---- turns ---- */

static double
time_used(const Share *share, TimestampTz now)
{
	if (share->used == 0)
		return 0;
	return share->used * exp2((share->at - now) / 1000.0 / HALF_LIFE_MS);
}

void
pace_enqueue(JobTask *task)
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
pace_is_turn(JobTask *task)
{
	Share	   *share = &task->share;
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
pace_begin_round(void)
{
	dlist_iter	iter;

	ran = NULL;
	denied = false;
	dlist_foreach(iter, &pipeline_jobs)
		dlist_container(JobTask, node, iter.cur)->share.waits = false;
}

bool
pace_end_round(void)
{
	if (ran != NULL)
	{
		dlist_delete(&ran->node);
		pace_enqueue(ran);
	}
	ran = NULL;
	return denied;
}

void
pace_forget(JobTask *task)
{
	if (ran == task)
		ran = NULL;
}

TimestampTz
pace_due(const JobTask *task)
{
	if (!task->share.waits)
		return DT_NOEND;
	return Max(Min(task->share.rest_until, others_active_at(task) + ACTIVE_MS * INT64CONST(1000)), yield_until);
}

static void
charge(Share *share, int64 ms)
{
	TimestampTz now = GetCurrentTimestamp();

	share->used = time_used(share, now) + ms;
	share->at = now;
	if (ms >= REST_FROM_MS)
		share->rest_until = now + Min(ms * ms / REST_DIVISOR, REST_CAP_MS) * 1000;
}

/* After a slice of ms: the other sessions have the rest of the time. */
static void
yield_to_sessions(int64 ms)
{
	if (ms > 0)
		yield_until = GetCurrentTimestamp() +
			Min((int64) (ms * 1000 * (1 / sessions_share() - 1)), YIELD_CAP_MS * INT64CONST(1000));
}

/* ---- rows ---- */

static int
pace_limit(const Pace *pace, const JobTask *task)
{
	int			patience = row_limit(task);

	if (pace->rows <= 1)
		return patience;
	return Max(GROUP_MS, Min(pace->ms * GROUP_TIMES, patience));
}

/* A larger slice is tried; when it takes as long in proportion, that was all. */
static void
pace_probe(Pace *pace, int64 ms)
{
	pace->probed_from = ms <= QUICK_MS ? 0 : pace->used;
	pace->rows = Min(pace->used * 2, pace->most);
	pace->slow = 0;
}

/* Returns whether the number of rows has been seen to. */
static bool
pace_halve(Pace *pace, int64 ms)
{
	int64		before = pace->halved_ms;

	pace->halved_ms = 0;
	if (before > 0 && ms * 4 > before * 3)
	{
		pace->fixed = true;
		pace->rows = Min(pace->used * 2, pace->most);
		return true;
	}
	if (ms <= LONG_MS || pace->used <= 1 || pace->fixed || pace->probed_from > 0)
		return false;
	pace->halved_ms = ms;
	pace->rows = pace->used / 2;
	return true;
}

static void
pace_went_well(Pace *pace, int64 ms)
{
	bool		cheaper = ms <= QUICK_MS || ms * 2 < pace->ms * 3;

	if (pace->used < pace->rows)
		return;
	if (pace_halve(pace, ms))
	{
		pace->ms = ms;
		return;
	}
	if (pace->probed_from > 0 && !cheaper)
	{
		pace->rows = pace->probed_from;
		pace->probed_from = 0;
		pace->slow = 1;
		return;
	}
	if (pace->rows < pace->most &&
		(ms <= QUICK_MS || pace->probed_from > 0 || pace->slow++ % PROBE_EVERY == 0))
		pace_probe(pace, ms);
	else
		pace->probed_from = 0;
	pace->ms = ms;
}

static void
pace_took_long(Pace *pace)
{
	if (pace->probed_from > 0 && pace->probed_from < pace->rows)
		pace->rows = pace->probed_from;
	else
		pace->rows = Max(Min(pace->rows, pace->used) / 8, 1);
	pace->probed_from = 0;
	pace->halved_ms = 0;
	pace->fixed = false;
	pace->slow = 1;
}

/* One row took longer than the others can wait: after some times the user is told. */
static void
pace_refuse_row(JobTask *task)
{
	if (++task->share.refused == TELL_AFTER)
		jobtask_tell_trouble(task, "57014",
							 psprintf("code of the table (trigger, function) needs more than %.1f s for a row, which waits until other jobs leave that time",
									  SLICE_PATIENCE_MS / 1000.0));
}

SliceVerdict
pace_run(JobTask *task, Pace *pace, const char *activity,
		 void (*fn) (void *arg), void *arg, SliceError *error)
{
	char		what[64];
	SliceVerdict verdict;
	int64		ms;

	snprintf(what, sizeof(what), "%s of job " INT64_FORMAT, activity, task->job->id);
	if (pace == NULL)
	{
		verdict = slice_run(what, fn, arg, error);
		ms = slice_ms;
	}
	else
	{
		pace->used = pace->rows;
		verdict = slice_run_limited(what, fn, arg, task->job->id, pace_limit(pace, task), error);
		ms = slice_ms;
		if (verdict == SLICE_DONE)
		{
			task->share.refused = 0;
			pace_went_well(pace, ms);
		}
		else if (verdict == SLICE_SLOW && pace->rows <= 1)
			pace_refuse_row(task);
		else if (verdict == SLICE_SLOW)
			pace_took_long(pace);
	}
	charge(&task->share, ms);
	yield_to_sessions(ms);
	ran = task;
	return verdict;
}
