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

#include "pipeline.h"

/* The job's requests in flight; wants: could it send more now? */
static int
job_in_flight(JobTask *task, TimestampTz now, bool *wants)
{
	dlist_iter	iter;
	int			result = 0;

	*wants = false;
	dlist_foreach(iter, &task->batches)
	{
		const BatchTask *batch = dlist_container(BatchTask, node, iter.cur);

		result += online_in_flight(batch);
		*wants = *wants || online_wants(batch, now);
	}
	*wants = *wants && jobtask_may_send(task);
	return result;
}

int
online_room(const BatchTask *batch)
{
	const ChannelLimits *limits = batch->job->channel->limits;
	TimestampTz now = GetCurrentTimestamp();
	int			room = channel_room(batch->job->channel);
	int			jobs = 1;
	int			own = 0;
	dlist_iter	iter;

	if (room == 0)
		return 0;
	dlist_foreach(iter, &pipeline_jobs)
	{
		JobTask    *task = dlist_container(JobTask, node, iter.cur);
		bool		wants;
		int			in_flight;

		if (!task->job->online || task->channel->limits != limits)
			continue;
		in_flight = job_in_flight(task, now, &wants);
		if (task == batch->job)
			own = in_flight;
		else if (wants)
			jobs++;
	}
	if (jobs == 1)
		return room;
	return Min(room, Max(Max(limits->concurrency.limit / jobs, 1) - own, 0));
}
