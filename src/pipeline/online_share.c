/*-------------------------------------------------------------------------
 *
 * online_share.c
 *		Online mode: what part of its server's patience a job may use.
 *
 * Jobs that wait for the same server have equal parts of the requests that it
 * takes at a time.  Nothing is taken back: who has more than his part sends
 * nothing until enough answers have come.  So the places that a large job
 * leaves go to the small one that has come later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "pipeline/internal.h"

/* the count of jobs that want to send holds for so long: each of them asks, in each round */
#define COUNT_HOLDS_MS	5

static TimestampTz counted_at = 0;

/* Could the job send more now? */
static bool
job_wants(JobTask *task, TimestampTz now)
{
	dlist_iter	iter;

	if (!jobtask_may_send(task))
		return false;
	dlist_foreach(iter, &task->batches)
	{
		if (online_wants(dlist_container(BatchTask, node, iter.cur), now))
			return true;
	}
	return false;
}

/* For all servers at once. */
static void
count_jobs(TimestampTz now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, iter.cur);

		if (task->job->online)
			task->session->limits->online_jobs = 0;
	}
	dlist_foreach(iter, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, iter.cur);

		task->online_wants = task->job->online && job_wants(task, now);
		if (task->online_wants)
			task->session->limits->online_jobs++;
	}
	counted_at = now;
}

int
online_room(const BatchTask *batch)
{
	JobTask    *task = batch->job;
	const AccountLimits *limits = task->session->limits;
	TimestampTz now = GetCurrentTimestamp();
	int			room = session_room(task->session);
	int			others;

	if (room == 0)
		return 0;
	if (now < counted_at || TimestampDifferenceExceeds(counted_at, now, COUNT_HOLDS_MS))
		count_jobs(now);
	others = limits->online_jobs - (task->online_wants ? 1 : 0);
	if (others <= 0)
		return room;
	return Min(room, Max(Max(limits->concurrency.limit / (others + 1), 1) - task->online_in_flight, 0));
}
