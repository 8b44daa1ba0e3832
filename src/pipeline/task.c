/*-------------------------------------------------------------------------
 *
 * task.c
 *		Jobs and batches in the worker's memory: what lies below everybody.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pipeline/internal.h"

TimestampTz pipeline_refresh_due = DT_NOEND;

void
pipeline_refresh_soon(void)
{
	pipeline_refresh_due = Min(pipeline_refresh_due, GetCurrentTimestamp());
}

JobTask *
jobtask_find(int64 id)
{
	dlist_iter	iter;

	dlist_foreach(iter, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, iter.cur);

		if (task->job->id == id)
			return task;
	}
	return NULL;
}

bool
jobtask_may_send(const JobTask *task)
{
	return task->job->control == CONTROL_RUN &&
		(task->job->state == JOB_QUEUED || task->job->state == JOB_ACTIVE);
}
