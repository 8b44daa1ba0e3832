/*-------------------------------------------------------------------------
 *
 * merge_close.c
 *		The end of stage 5: rows that no result line answered.
 *
 * What a missing line means follows from how the batch ended at the provider;
 * it is never guessed from the lines' positions.  Where the provider has
 * counted more finished requests than its files have lines, the files are
 * fetched again first: what is missing was paid for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pipeline/merge.h"

#define CLOSE_ROWS			5000
#define MORE_FETCHES		2

typedef struct CloseGroup
{
	BatchTask  *batch;
	int			closed;
	int			nretries;
	bool		end;
	bool		delayed;		/* the batch broke off for the provider's load: this was no attempt */
} CloseGroup;

/* What a row without a result line means, by how the batch ended. */
static Outcome
close_outcome(const BatchTask *batch, const JobItem *item, bool *heals)
{
	*heals = batch->job->job->control != CONTROL_CANCEL && item->attempts < MAX_ATTEMPTS;
	switch (batch->batch.remote.status)
	{
		case REMOTE_EXPIRED:
			return OUTCOME_EXPIRED;
		case REMOTE_CANCELLED:
			*heals = false;
			return OUTCOME_CANCELLED;
		case REMOTE_FAILED:
			if (batch->batch.remote.error.class == ERROR_PERMANENT)
			{
				*heals = false;
				return OUTCOME_REJECTED;
			}
			return OUTCOME_LOST;
		case REMOTE_UNKNOWN:
		case REMOTE_QUEUED:
		case REMOTE_RUNNING:
		case REMOTE_FINISHED:
		case REMOTE_LOST:
			return OUTCOME_LOST;
	}
	return OUTCOME_LOST;
}

static void
close_txn(void *arg)
{
	CloseGroup *closing = (CloseGroup *) arg;
	BatchTask  *batch = closing->batch;
	MergeState *state = batch->merge;
	ItemResult *results = palloc0_array(ItemResult, CLOSE_ROWS);
	char	  **keys = palloc_array(char *, CLOSE_ROWS);
	int		   *attempts = palloc_array(int, CLOSE_ROWS);
	int			n = 0;

	closing->nretries = 0;
	closing->delayed = batch->batch.remote.status == REMOTE_FAILED &&
		batch->batch.remote.error.class == ERROR_RATE && batch->job->job->control != CONTROL_CANCEL;
	for (int no = 1; no <= state->nitems && n < CLOSE_ROWS; no++)
	{
		const JobItem *item = &state->items[no - 1];
		Outcome		outcome;
		bool		heals;

		if (state->finished[no - 1])
			continue;
		outcome = close_outcome(batch, item, &heals);
		heals |= closing->delayed;
		results[n].no = no;
		results[n].outcome = heals ? OUTCOME_SUPERSEDED : outcome;
		results[n].error_code = batch->batch.remote.error.code;
		results[n].error = batch->batch.remote.error.message;
		n++;
		if (heals)
		{
			keys[closing->nretries] = item->key;
			attempts[closing->nretries++] = item->attempts - (closing->delayed ? 1 : 0);
		}
	}
	closing->closed = n;
	closing->end = n < CLOSE_ROWS;
	if (n > 0)
		ledger_add_results(batch->job->job, batch->batch.no, results, n, 0);
	if (closing->nretries > 0)
		ledger_retry_queue_insert(batch->job->job->id, keys, attempts, closing->nretries);
	if (closing->end && !ledger_move_batch(&batch->batch, batch->batch.state, BATCH_DONE))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("batch %d of job " INT64_FORMAT " was changed meanwhile",
						batch->batch.no, batch->job->job->id)));
}

/* Do the result files have fewer answers than the provider says that it has given? */
static bool
files_lack_lines(const BatchTask *batch, int *answered)
{
	const MergeState *state = batch->merge;

	*answered = 0;
	for (int i = 0; i < state->nitems; i++)
	{
		if (state->items[i].same_as == 0 && state->finished[i])
			(*answered)++;
	}
	return batch->batch.remote.output_uris != NIL &&
		*answered < Min(batch->batch.remote.finished, batch->batch.requests);
}

/* Has the result files fetched once more if that may help.  What was merged is passed over then. */
static bool
close_later(BatchTask *batch)
{
	int			answered;

	if (batch->job->job->online || batch->download.fetched_again >= MORE_FETCHES || !files_lack_lines(batch, &answered))
		return false;
	ereport(LOG,
			(errmsg("the result files of batch %d of dess_batch job " INT64_FORMAT " have %d answers of " INT64_FORMAT ", fetching them again",
					batch->batch.no, batch->job->job->id, answered, batch->batch.remote.finished)));
	batch->download.fetched_again++;
	batch->download.files = 0;
	merge_start_pass(batch);
	return true;
}

/* Was there something in the result files, but not one line of a result? */
static bool
files_are_broken(const BatchTask *batch)
{
	const MergeState *state = batch->merge;

	return !batch->job->job->online && state->bad_lines > 0 && state->good_lines == 0 &&
		state->nanswered == 0 && batch->job->job->control != CONTROL_CANCEL;
}

/*
 * The answers are paid, and their file cannot be read.  Its rows are not bought
 * again: it is fetched anew, later and later, until it can be read or the job
 * is cancelled.
 */
static void
fetch_later(BatchTask *batch)
{
	static const StepError why = {
		.class = ERROR_TEMPORARY,
		.code = CODE_UNREADABLE,
		.message = "not one line of the result files could be read; they are fetched again",
		.retry_after_ms = -1
	};

	batch->download.files = 0;
	merge_start_pass(batch);
	batch_retry_step(batch, &why);
	jobtask_note(batch->job, why.code, why.message);
}

/* Gives the rows that have no line their outcome and ends the batch. */
void
merge_close(BatchTask *batch)
{
	CloseGroup	closing;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;
	MergeState *state = batch->merge;
	JobTask    *task = batch->job;
	bool		nothing_came = state->nanswered == 0;

	if (close_later(batch))
		return;
	if (files_are_broken(batch))
	{
		fetch_later(batch);
		return;
	}
	memset(&closing, 0, sizeof(closing));
	closing.batch = batch;
	verdict = jobtask_run(task, NULL, "closing a batch", close_txn, &closing, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		merge_trouble(batch, verdict, &error);
		return;
	}
	for (int i = 0, n = 0; i < state->nitems && n < closing.closed; i++)
	{
		if (!state->finished[i])
		{
			state->finished[i] = true;
			n++;
		}
	}
	state->nfinished += closing.closed;
	task->job->requeued += closing.nretries;
	if (closing.delayed && closing.nretries > 0)
		merge_delay_retries(batch);
	if (!closing.end)
		return;
	if (!state->delayed)
		task->rate_rounds = 0;

	batch->batch.state = BATCH_DONE;
	batch->due = 0;
	spool_remove_batch(task->job->id, batch->batch.no);
	merge_end(batch);
	if (batch->batch.remote.status == REMOTE_EXPIRED && nothing_came && jobtask_may_send(task))
		jobtask_pause(task, "expired",
					  psprintf(batch->batch.remote_cancelled_at != 0 ?
							   "batch %d did not end at the provider, and was cancelled without one answer" :
							   "batch %d expired at the provider without one answer", batch->batch.no));
}
