/*-------------------------------------------------------------------------
 *
 * prepare_list.c
 *		Before stage 1, for jobs that name their rows: sample and only.
 *
 * Their keys are put into the ledger first, and taken from there by key; other
 * jobs go through the table in key order and need no list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pipeline.h"
#include "sample.h"
#include "usercxt.h"

static void
only_slice(void *arg)
{
	JobTask    *task = (JobTask *) arg;

	jobstore_job_started(task->job->id);
	jobstore_list_only(task->job);
	jobstore_set_listed(task->job->id);
}

/* A sample while the table's keys are gone through, a page at a time. */
typedef struct SampleState
{
	MemoryContext cxt;
	Sample	   *sample;
	char	   *last_key;
	bool		end;
} SampleState;

static void
sample_slice(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	SampleState *sample = task->sample;
	const Job  *job = task->job;
	UserContext user;
	char	  **keys;
	bool	   *matches;
	int			limit = task->scanning.rows;
	int			nkeys;

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	nkeys = target_read_key_page(jobtask_table(task), sample->last_key, limit,
								 &keys, &matches);
	usercxt_leave(&user);

	for (int i = 0; i < nkeys; i++)
		if (matches[i])
			sample_add(sample->sample, keys[i]);
	sample->end = nkeys < limit;
	if (nkeys > 0)
		sample->last_key = MemoryContextStrdup(sample->cxt, keys[nkeys - 1]);
}

static void
sample_save_slice(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	const Sample *sample = task->sample->sample;

	jobstore_job_started(task->job->id);
	jobstore_again_insert(task->job->id, sample_keys(sample), NULL, sample->nkeys);
	jobstore_set_listed(task->job->id);
}

/*
 * One page on the way to a sample: the rows whose keys have the smallest
 * digests, so that every call finds the same ones.
 */
static SliceVerdict
prepare_sample(JobTask *task, SliceError *error)
{
	SliceVerdict verdict;

	if (task->sample == NULL)
	{
		MemoryContext cxt = AllocSetContextCreate(task->cxt, "dess_batch sample",
												  ALLOCSET_DEFAULT_SIZES);
		MemoryContext caller;

		task->sample = MemoryContextAllocZero(cxt, sizeof(SampleState));
		task->sample->cxt = cxt;
		caller = MemoryContextSwitchTo(cxt);
		task->sample->sample = sample_create(task->job->max_rows);
		MemoryContextSwitchTo(caller);
	}
	if (!task->sample->end)
		return pace_run(task, &task->scanning, "choosing sample rows", sample_slice, task, error);

	verdict = pace_run(task, NULL, "choosing sample rows", sample_save_slice, task, error);
	if (verdict == SLICE_DONE)
	{
		MemoryContextDelete(task->sample->cxt);
		task->sample = NULL;
		task->job->listed = true;
	}
	return verdict;
}

/* Puts the rows that sample or only names into the ledger, to be taken by key. */
void
prepare_list(JobTask *task)
{
	SliceError	error;
	SliceVerdict verdict;

	if (task->job->sample)
		verdict = prepare_sample(task, &error);
	else
	{
		verdict = pace_run(task, NULL, "choosing rows", only_slice, task, &error);
		task->job->listed = verdict == SLICE_DONE;
	}
	if (verdict != SLICE_DONE)
		jobtask_trouble(task, verdict, &error);
	else if (task->job->listed && task->job->state == JOB_QUEUED)
		task->job->state = JOB_ACTIVE;
}
