/*-------------------------------------------------------------------------
 *
 * merge_state.c
 *		The state of a batch whose results are merged: its items, how far its
 *		result files were read, and what failed work means for it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pipeline/merge_internal.h"

/* how long rows wait that the provider's load has refused */
#define DELAY_FIRST_MS		1000
#define DELAY_CAP_MS		600000

static void
load_txn(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;
	MergeState *state = batch->merge;
	int		   *tail;
	MemoryContext caller = MemoryContextSwitchTo(state->cxt);

	state->nitems = ledger_load_items(batch->job->job->id, batch->batch.no,
										&state->items, &state->finished);
	state->seen = palloc0_array(bool, state->nitems + 1);
	state->next_same = palloc0_array(int, state->nitems + 1);
	MemoryContextSwitchTo(caller);

	tail = palloc_array(int, state->nitems + 1);
	for (int no = 1; no <= state->nitems; no++)
	{
		int			first = state->items[no - 1].same_as;

		tail[no] = no;
		if (first > 0 && first < no)
		{
			state->next_same[tail[first]] = no;
			tail[first] = no;
		}
		if (state->finished[no - 1])
			state->nfinished++;
	}
	state->nanswered = state->nfinished;
}

bool
merge_begin(BatchTask *batch)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;
	MemoryContext cxt;

	if (batch->merge != NULL)
		return true;
	cxt = AllocSetContextCreate(batch->cxt, "dess_batch merge", ALLOCSET_DEFAULT_SIZES);
	batch->merge = MemoryContextAllocZero(cxt, sizeof(MergeState));
	batch->merge->cxt = cxt;
	verdict = jobtask_run(batch->job, NULL, "reading the ledger", load_txn, batch, &error);
	if (verdict == WORKER_TXN_DONE)
		return true;
	merge_end(batch);
	merge_trouble(batch, verdict, &error);
	return false;
}

void
merge_end(BatchTask *batch)
{
	if (batch->merge == NULL)
		return;
	MemoryContextDelete(batch->merge->cxt);
	batch->merge = NULL;
}

void
merge_close_reader(MergeState *state)
{
	if (state->reader != NULL)
		MemoryContextDelete(state->reader_cxt);
	state->reader = NULL;
}

void
merge_rewind(MergeState *state)
{
	merge_close_reader(state);
	memset(state->seen, 0, state->nitems * sizeof(bool));
}

void
merge_start_pass(BatchTask *batch)
{
	MergeState *state = batch->merge;

	merge_rewind(state);
	state->file = 0;
	state->offset = 0;
	state->rest = 0;
	state->locked_left = false;
	state->passes++;
	state->good_lines = 0;
	state->bad_lines = 0;
	batch->due = ms_from_now(sched_backoff_ms(state->passes, 1000, 30000, random_fraction()));
}

/* The more batches in a row had such rows, the longer. */
void
merge_delay_retries(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (batch->merge->delayed)
		return;
	batch->merge->delayed = true;
	task->rate_rounds++;
	task->retry_due = Max(task->retry_due,
						  ms_from_now(sched_backoff_ms(task->rate_rounds, DELAY_FIRST_MS, DELAY_CAP_MS, random_fraction())));
}

void
merge_trouble(BatchTask *batch, WorkerTxnVerdict verdict, const WorkerTxnError *error)
{
	dlist_iter	iter;

	jobtask_trouble(batch->job, verdict, error);
	if (verdict == WORKER_TXN_HOPELESS)
		jobtask_end_failed(batch->job);
	batch->due = Max(batch->job->due, ms_from_now(50));

	/* the job's other batches would only wait for the same lock */
	dlist_foreach(iter, &batch->job->batches)
	{
		BatchTask  *other = dlist_container(BatchTask, node, iter.cur);

		if (other->batch.state == BATCH_RETRIEVING && other->run.transfer == NULL)
			other->due = Max(other->due, batch->due);
	}
}
