/*-------------------------------------------------------------------------
 *
 * prepare_list.c
 *		Before stage 1, for jobs that name their rows: sample, and who sees to only.
 *
 * Their keys are put into the ledger first, and taken from there by key; other
 * jobs go through the table in key order and need no list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pipeline/internal.h"
#include "runtime/usercxt.h"
#include "text/sample.h"

/* keys that are put into the ledger in one transaction */
#define SAVE_ROWS		5000

/* A sample while the table's keys are gone through, a page at a time. */
typedef struct SampleState
{
	MemoryContext cxt;
	Sample	   *sample;
	char	   *last_key;
	bool		end;

	/* then they are put into the ledger */
	bool		cleared;
	char	  **keys;
	int			saved;
	bool		all_saved;
} SampleState;

static void
sample_txn(void *arg)
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
	nkeys = source_read_key_page(jobtask_table(task), sample->last_key, limit,
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
sample_save_txn(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	SampleState *state = task->sample;
	const Sample *sample = state->sample;
	int			n = Min(sample->nkeys - state->saved, SAVE_ROWS);

	ledger_job_started(task->job->id);
	/* what an earlier attempt has left */
	if (!state->cleared)
		state->cleared = list_length(ledger_retry_queue_take(task->job->id, SAVE_ROWS)) < SAVE_ROWS;
	if (!state->cleared)
		return;
	if (state->keys == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(state->cxt);

		state->keys = sample_keys(sample);
		MemoryContextSwitchTo(caller);
	}
	ledger_retry_queue_insert(task->job->id, state->keys + state->saved, NULL, n);
	state->saved += n;
	state->all_saved = state->saved == sample->nkeys;
	if (state->all_saved)
		ledger_set_listed(task->job->id);
}

/*
 * One page on the way to a sample: the rows whose keys have the smallest
 * digests, so that every call finds the same ones.
 */
static WorkerTxnVerdict
prepare_sample(JobTask *task, WorkerTxnError *error)
{
	WorkerTxnVerdict verdict;

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
		return jobtask_run(task, &task->scanning, "choosing sample rows", sample_txn, task, error);

	verdict = jobtask_run(task, NULL, "choosing sample rows", sample_save_txn, task, error);
	if (verdict == WORKER_TXN_DONE && !task->sample->all_saved)
		return verdict;
	/* after a failure the sample is chosen once more */
	MemoryContextDelete(task->sample->cxt);
	task->sample = NULL;
	task->job->listed = verdict == WORKER_TXN_DONE;
	return verdict;
}

/* Puts the rows that sample or only names into the ledger, to be taken by key. */
void
prepare_list(JobTask *task)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (task->job->sample)
		verdict = prepare_sample(task, &error);
	else
		verdict = prepare_outcomes(task, &error);
	if (verdict != WORKER_TXN_DONE)
		jobtask_trouble(task, verdict, &error);
	else if (task->job->listed && task->job->state == JOB_QUEUED)
		task->job->state = JOB_ACTIVE;
}
