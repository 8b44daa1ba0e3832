/*-------------------------------------------------------------------------
 *
 * merge.c
 *		Stage 5: result lines become answers in rows and outcomes in the ledger.
 *
 * A group of lines is one transaction: lock the rows, render and hash them
 * again, write where the request is still the same and the target still holds
 * what it held, append the outcomes.  After a crash the file is read again
 * from its start and what is finished is passed over; so is what others had
 * locked, which waits for the next pass.
 *
 * Lines are taken as they come, in an order that providers do not keep.  To
 * sort a batch's lines first would make things worse: as each group touches
 * rows all over the batch's part of the table, the versions that one leaves
 * behind are pruned by the next ones, which find room in the same page.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/budget.h"
#include "text/encoding.h"
#include "pipeline/merge_internal.h"
#include "runtime/usercxt.h"

#define ENOUGH_ANSWERS		200	/* before max_failed is looked at */
/* how long rows wait that the provider's load has refused */
#define DELAY_FIRST_MS		1000
#define DELAY_CAP_MS		600000

/* ---- what a reply means for its row ---- */

static void
merge_words(MergeEntry *entry, const StepError *error)
{
	entry->result.error_code = error->code;
	entry->result.error = error->message;
}

/* A failure that time may heal: sent again, or final after three attempts. */
static void
merge_again(MergeSlice *slice, MergeEntry *entry, Outcome final)
{
	int			attempts = slice->state->items[entry->no - 1].attempts;
	bool		may_send = slice->task->job->control != CONTROL_CANCEL;

	entry->result.outcome = attempts < MAX_ATTEMPTS && may_send ? OUTCOME_AGAIN : final;
}

static void
merge_classify_failure(MergeSlice *slice, MergeEntry *entry)
{
	const StepError *error = &entry->reply->error;

	merge_words(entry, error);
	switch (error->class)
	{
		case ERROR_TEMPORARY:
			merge_again(slice, entry, OUTCOME_LOST);
			break;
		case ERROR_RATE:
			/* a delay and no attempt */
			entry->delayed = slice->task->job->control != CONTROL_CANCEL;
			entry->result.outcome = entry->delayed ? OUTCOME_AGAIN : OUTCOME_LOST;
			break;
		case ERROR_QUOTA:
		case ERROR_AUTH:
			slice->fatal = error;
			entry->result.outcome = slice->task->job->control == CONTROL_CANCEL ?
				OUTCOME_CANCELLED : OUTCOME_AGAIN;
			break;
		case ERROR_PERMANENT:
		case ERROR_NO_SERVICE:
		case ERROR_TOO_LARGE:
			entry->result.outcome = OUTCOME_REJECTED;
			break;
	}
}

static void
merge_classify_text(MergeSlice *slice, MergeEntry *entry)
{
	const Job  *job = slice->task->job;
	int			ncolumns = target_column_count(slice->table);

	if (entry->garbled)
	{
		entry->result.outcome = OUTCOME_INVALID;
		entry->result.error_code = "22021";
		entry->result.error = "the answer is not valid UTF-8";
		return;
	}
	answer_read(slice->rules, entry->reply->text, &entry->answer);
	switch (entry->answer.kind)
	{
		case ANSWER_OK:
			entry->result.outcome = OUTCOME_OK;
			entry->write = ncolumns > 0;
			break;
		case ANSWER_MISSING:
			entry->result.outcome = OUTCOME_MISSING;
			entry->write = ncolumns > 0 &&
				(job->missing != NULL || job->overwrite || job->target_columns != NULL);
			break;
		case ANSWER_INVALID:
			entry->result.outcome = OUTCOME_INVALID;
			entry->result.error_code = entry->answer.sqlstate;
			entry->result.error = entry->answer.message;
			break;
	}
}

static void
merge_classify(MergeSlice *slice, MergeEntry *entry)
{
	const BatchReply *reply = entry->reply;

	entry->result.no = entry->no;
	entry->result.finish_reason = reply->finish_reason;
	entry->result.model_version = reply->model_version;
	entry->result.response_id = reply->response_id;
	if (entry->own)
	{
		entry->result.input_tokens = reply->input_tokens;
		entry->result.cached_tokens = Min(reply->cached_tokens, reply->input_tokens);
		entry->result.output_tokens = reply->output_tokens;
		entry->result.reasoning_tokens = reply->reasoning_tokens;
	}

	switch (reply->kind)
	{
		case REPLY_TEXT:
			merge_classify_text(slice, entry);
			break;
		case REPLY_REFUSED:
			entry->result.outcome = OUTCOME_REFUSED;
			merge_words(entry, &reply->error);
			break;
		case REPLY_TRUNCATED:
			entry->result.outcome = OUTCOME_TRUNCATED;
			merge_words(entry, &reply->error);
			break;
		case REPLY_EXPIRED:
			merge_words(entry, &reply->error);
			merge_again(slice, entry, OUTCOME_EXPIRED);
			break;
		case REPLY_CANCELLED:
			merge_words(entry, &reply->error);
			entry->result.outcome = OUTCOME_CANCELLED;
			/* by us, because it did not end */
			if (slice->batch->batch.remote.status == REMOTE_EXPIRED)
			{
				merge_words(entry, &slice->batch->batch.remote.error);
				merge_again(slice, entry, OUTCOME_EXPIRED);
			}
			break;
		case REPLY_FAILED:
			merge_classify_failure(slice, entry);
			break;
	}
	entry->result.billed = entry->own &&
		(reply->kind <= REPLY_TRUNCATED || reply->input_tokens + reply->output_tokens > 0);
}

/* ---- writing ---- */

static int
compare_keys(const void *a, const void *b)
{
	return strcmp(((const TargetRow *) a)->key, ((const TargetRow *) b)->key);
}

static TargetRow *
merge_find_row(TargetRow *rows, int nrows, char *key)
{
	TargetRow	sought;

	sought.key = key;
	return bsearch(&sought, rows, nrows, sizeof(TargetRow), compare_keys);
}

static char **
merge_values(MergeSlice *slice, const MergeEntry *entry)
{
	const Job  *job = slice->task->job;
	int			ncolumns = target_column_count(slice->table);
	char	  **values = palloc0_array(char *, ncolumns);
	int			next = 0;

	for (int i = 0; i < ncolumns; i++)
	{
		const char *property = target_column_property(slice->table, i);

		if (property == NULL)
			values[i] = entry->answer.kind == ANSWER_OK ? entry->answer.values[0] : (char *) slice->rules->missing;
		else if (strcmp(property, "$answer") == 0)
			values[i] = entry->answer.text;
		else if (strcmp(property, "$outcome") == 0)
			values[i] = pstrdup(outcome_name(entry->result.outcome));
		else if (strcmp(property, "$job") == 0)
			values[i] = psprintf(INT64_FORMAT, job->id);
		else if (strcmp(property, "$model") == 0)
			values[i] = (char *) jobtask_options(slice->task)->model;
		else if (entry->answer.values != NULL)
			values[i] = entry->answer.values[next++];
	}
	return values;
}

/* A row that could not be locked. */
static void
merge_pass_over(MergeEntry *entry, bool is_there, bool locked)
{
	entry->write = false;
	entry->locked = is_there && locked;
	if (!is_there)
		entry->result.outcome = OUTCOME_GONE;
	else if (!locked)
	{
		entry->result.outcome = OUTCOME_INVALID;
		entry->result.error_code = "42501";
		entry->result.error = "a policy lets the row be seen, but not updated";
	}
}

/* Those of the keys that no row has; returns how many. */
static int
merge_missed_keys(TargetRow *rows, int nrows, char **keys, int nkeys, char **missed)
{
	int			nmissed = 0;

	for (int i = 0; i < nkeys; i++)
	{
		if (merge_find_row(rows, nrows, keys[i]) == NULL)
			missed[nmissed++] = keys[i];
	}
	return nmissed;
}

static bool
merge_are_locked(MergeSlice *slice, TargetRow *rows, int nrows)
{
	char	  **keys = palloc_array(char *, nrows + 1);

	for (int i = 0; i < nrows; i++)
		keys[i] = rows[i].key;
	return nrows > 0 && target_are_locked(slice->table, keys, nrows);
}

static void
merge_stale(MergeEntry *entry, bool target)
{
	entry->result.outcome = OUTCOME_STALE;
	entry->result.error = target ? "the target was changed while the row was away" :
		"the row's text was changed while it was away";
}

/*
 * Compares the rows with what was sent.  Those that may be written are put
 * into writes; the others get their outcome here.
 */
static int
merge_check_rows(MergeSlice *slice, TargetWrite *writes)
{
	MergeState *state = slice->state;
	char	  **keys = palloc_array(char *, slice->nentries + 1);
	char	  **missed = palloc_array(char *, slice->nentries + 1);
	TargetRow  *rows;
	TargetRow  *present;
	int			nkeys = 0;
	int			nmissed;
	int			nwrites = 0;
	int			nrows;
	int			npresent = 0;
	bool		locked = false;

	for (int i = 0; i < slice->nentries; i++)
		if (slice->entries[i].write)
			keys[nkeys++] = state->items[slice->entries[i].no - 1].key;
	if (nkeys == 0)
		return 0;
	nrows = target_lock_keys(slice->table, keys, nkeys, &rows);
	qsort(rows, nrows, sizeof(TargetRow), compare_keys);
	nmissed = merge_missed_keys(rows, nrows, keys, nkeys, missed);
	if (nmissed > 0)
	{
		npresent = target_read_keys(slice->table, missed, nmissed, &present);
		locked = merge_are_locked(slice, present, npresent);
		qsort(present, npresent, sizeof(TargetRow), compare_keys);
	}

	for (int i = 0; i < slice->nentries; i++)
	{
		MergeEntry *entry = &slice->entries[i];
		const JobItem *item = &state->items[entry->no - 1];
		TargetRow  *row;

		if (!entry->write)
			continue;
		row = merge_find_row(rows, nrows, item->key);
		if (row == NULL)
		{
			merge_pass_over(entry, npresent > 0 && merge_find_row(present, npresent, item->key) != NULL,
							locked);
		}
		else if (memcmp(&row->hash, &item->hash, sizeof(Digest)) != 0 || row->held != item->held)
		{
			entry->write = false;
			merge_stale(entry, row->held != item->held);
		}
		else
		{
			writes[nwrites].item = i;
			writes[nwrites].key = item->key;
			writes[nwrites].values = merge_values(slice, entry);
			nwrites++;
		}
	}
	return nwrites;
}

static void
merge_written(MergeEntry *entry, const TargetWrite *write)
{
	entry->written = write->written;
	entry->locked = write->locked;
	if (entry->written || entry->locked)
		return;
	entry->result.outcome = OUTCOME_INVALID;
	entry->result.error_code = write->sqlstate;
	entry->result.error = write->message;
}

/* In the order of the batch, which is that of the keys: the hashes lie in the array of its items. */
static int
compare_items(const void *a, const void *b)
{
	const TargetWrite *x = (const TargetWrite *) a;
	const TargetWrite *y = (const TargetWrite *) b;

	return x->hash < y->hash ? -1 : x->hash > y->hash ? 1 : 0;
}

/* Writes what can be written in one pass; what is left over still has "write" set. */
static void
merge_write_unchanged(MergeSlice *slice)
{
	TargetWrite *writes = palloc0_array(TargetWrite, slice->nentries + 1);
	int			nwrites = 0;

	for (int i = 0; i < slice->nentries; i++)
	{
		const JobItem *item = &slice->state->items[slice->entries[i].no - 1];

		if (!slice->entries[i].write)
			continue;
		writes[nwrites].item = i;
		writes[nwrites].key = item->key;
		writes[nwrites].hash = &item->hash;
		writes[nwrites].held = item->held;
		writes[nwrites].values = merge_values(slice, &slice->entries[i]);
		nwrites++;
	}
	/* rows that lie together are visited together */
	qsort(writes, nwrites, sizeof(TargetWrite), compare_items);
	if (nwrites == 0 || !target_write_unchanged(slice->table, writes, nwrites))
		return;

	for (int i = 0; i < nwrites; i++)
	{
		MergeEntry *entry = &slice->entries[writes[i].item];

		entry->write = writes[i].verdict == WRITE_OPEN;
		switch (writes[i].verdict)
		{
			case WRITE_OPEN:
				break;
			case WRITE_UNCHANGED:
				entry->written = true;
				break;
			case WRITE_TEXT_CHANGED:
				merge_stale(entry, false);
				break;
			case WRITE_TARGET_CHANGED:
				merge_stale(entry, true);
				break;
		}
	}
}

static void
merge_write(MergeSlice *slice)
{
	TargetWrite *writes = palloc0_array(TargetWrite, slice->nentries + 1);
	int			nwrites;

	merge_write_unchanged(slice);
	nwrites = merge_check_rows(slice, writes);
	if (nwrites == 0)
		return;
	target_write(slice->table, writes, nwrites);
	for (int i = 0; i < nwrites; i++)
		merge_written(&slice->entries[writes[i].item], &writes[i]);
}

/* ---- the ledger ---- */

/* What is kept of an answer. */
static void
merge_keep(MergeSlice *slice, MergeEntry *entry)
{
	KeepWhat	keep = slice->task->job->keep;
	const char *text = entry->answer.text != NULL ? entry->answer.text : entry->reply->text;

	if (keep == KEEP_NONE || entry->result.outcome == OUTCOME_AGAIN)
		return;
	if (keep >= KEEP_ANSWER || !entry->written)
		entry->result.answer = text;
	if (keep == KEEP_REPLY)
		entry->result.reply = entry->raw;
}

static void
merge_to_server(ItemResult *result)
{
	result->error_code = encoding_to_server_lossy(result->error_code);
	result->error = encoding_to_server_lossy(result->error);
	result->finish_reason = encoding_to_server_lossy(result->finish_reason);
	result->model_version = encoding_to_server_lossy(result->model_version);
	result->response_id = encoding_to_server_lossy(result->response_id);
	result->answer = encoding_to_server_lossy(result->answer);
	result->reply = encoding_to_server_lossy(result->reply);
}

/* Does the row's NULL stay, so that the same request must not be bought again? */
static bool
merge_settles(MergeSlice *slice, const MergeEntry *entry)
{
	if (entry->written)
		return false;
	if (entry->result.outcome == OUTCOME_OK)
		return target_column_count(slice->table) == 0;
	return outcome_settles(entry->result.outcome);
}

static void
merge_save(MergeSlice *slice)
{
	JobTask    *task = slice->task;
	const Job  *job = task->job;
	MergeState *state = slice->state;
	int			n = slice->nentries + 1;
	ItemResult *results = palloc_array(ItemResult, n);
	char	  **again_keys = palloc_array(char *, n);
	int		   *again_attempts = palloc_array(int, n);
	char	  **keys = palloc_array(char *, n);
	Digest	   *hashes = palloc_array(Digest, n);
	Outcome    *outcomes = palloc_array(Outcome, n);
	int			nresults = 0;
	int			nsettled = 0;

	for (int i = 0; i < slice->nentries; i++)
	{
		MergeEntry *entry = &slice->entries[i];
		const JobItem *item = &state->items[entry->no - 1];

		if (entry->locked)
			continue;
		merge_keep(slice, entry);
		merge_to_server(&entry->result);
		results[nresults++] = entry->result;
		if (entry->result.billed)
			slice->requests++;
		if (entry->result.outcome == OUTCOME_AGAIN)
		{
			again_keys[slice->nagain] = item->key;
			again_attempts[slice->nagain++] = item->attempts - (slice->fatal != NULL || entry->delayed ? 1 : 0);
			slice->delayed |= entry->delayed;
			slice->max_again = Max(slice->max_again, item->attempts);
		}
		if (merge_settles(slice, entry))
		{
			keys[nsettled] = item->key;
			hashes[nsettled] = item->hash;
			outcomes[nsettled++] = entry->result.outcome;
		}
	}
	if (nresults > 0)
		jobstore_add_results(job, slice->batch->batch.no, results, nresults, slice->requests);
	if (slice->nagain > 0)
		jobstore_again_insert(job->id, again_keys, again_attempts, slice->nagain);
	if (nsettled > 0)
		jobstore_settle(job, keys, hashes, outcomes, nsettled);
	if (slice->unmatched > 0 || slice->duplicates > 0)
		jobstore_count_strays(job->id, slice->batch->batch.no, slice->unmatched, slice->duplicates);
	jobstore_count_answers(job->id, &slice->answers, &slice->failed);
}

static void
merge_slice(void *arg)
{
	MergeSlice *slice = (MergeSlice *) arg;
	UserContext user;
	const Job  *job = slice->task->job;

	(void) channel_account(slice->task->channel);
	slice->capacity = slice->task->writing.rows + 1;
	slice->entries = palloc_array(MergeEntry, slice->capacity);

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	slice->table = jobtask_table(slice->task);
	slice->rules = target_answer_rules(slice->table);
	/* a line can have a hundred megabytes */
	slice_begin_own_work();
	merge_read_lines(slice);
	slice_end_own_work();
	for (int i = 0; i < slice->nentries; i++)
		merge_classify(slice, &slice->entries[i]);
	if (slice->nentries > 0)
		merge_write(slice);
	usercxt_leave(&user);

	if (slice->nentries > 0)
		merge_save(slice);
	else if (slice->unmatched > 0 || slice->duplicates > 0)
		jobstore_count_strays(job->id, slice->batch->batch.no, slice->unmatched, slice->duplicates);
}

/* ---- after a group ---- */

static void
merge_remember(MergeSlice *slice)
{
	MergeState *state = slice->state;
	JobTask    *task = slice->task;

	for (int i = 0; i < slice->nentries; i++)
	{
		const MergeEntry *entry = &slice->entries[i];

		if (entry->locked)
			state->locked_left = true;
		else
		{
			state->finished[entry->no - 1] = true;
			state->nfinished++;
			if (entry->reply->kind != REPLY_EXPIRED && entry->reply->kind != REPLY_CANCELLED)
				state->nanswered++;
			if (entry->own)
				budget_note_answer(task, entry->result.input_tokens, entry->result.output_tokens);
		}
	}
	budget_note_spending();
	state->offset = slice->offset_after;
	state->rest = slice->rest;
	if (state->rest != 0)
		merge_close_reader(state);
	task->job->requeued += slice->nagain;
	if (slice->nagain > 0 && task->job->online)
		task->again_due = later(1000 << Min(slice->max_again, 5));
	if (slice->delayed)
		merge_delay_again(slice->batch);
}

/* The more batches in a row had such rows, the longer. */
void
merge_delay_again(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (batch->merge->delayed)
		return;
	batch->merge->delayed = true;
	task->rate_rounds++;
	task->again_due = Max(task->again_due,
						  later(sched_backoff_ms(task->rate_rounds, DELAY_FIRST_MS, DELAY_CAP_MS, dice())));
}

static void
merge_judge(MergeSlice *slice)
{
	JobTask    *task = slice->task;

	if (slice->fatal != NULL && jobtask_may_send(task))
	{
		/* the words live in the slice's memory, which the next slice takes */
		char		code[64];
		char		message[512];

		strlcpy(code, encoding_to_server_lossy(slice->fatal->code), sizeof(code));
		strlcpy(message, encoding_to_server_lossy(slice->fatal->message), sizeof(message));
		jobtask_fail(task, code, message);
		return;
	}
	if (slice->answers >= ENOUGH_ANSWERS && jobtask_may_send(task) &&
		(double) slice->failed / slice->answers > task->job->max_failed)
		jobtask_pause(task, "max_failed",
					  psprintf(INT64_FORMAT " of " INT64_FORMAT " answers failed, more than max_failed allows",
							   slice->failed, slice->answers));
}

/*
 * What failed database work means for a batch whose results are there.  If it
 * is hopeless (the table or a right is gone), the job ends; its batches stay
 * as they are, so that dess_batch_retry() can go on where it stopped.
 */
void
merge_trouble(BatchTask *batch, SliceVerdict verdict, const SliceError *error)
{
	dlist_iter	iter;

	jobtask_trouble(batch->job, verdict, error);
	if (verdict == SLICE_HOPELESS)
		jobtask_end_failed(batch->job);
	batch->due = Max(batch->job->due, later(50));

	/* the job's other batches would only wait for the same lock */
	dlist_foreach(iter, &batch->job->batches)
	{
		BatchTask  *other = dlist_container(BatchTask, node, iter.cur);

		if (other->batch.state == BATCH_RETRIEVING && other->transfer == NULL)
			other->due = Max(other->due, batch->due);
	}
}

/*
 * One group of lines of the current result file.  Returns false at its end.
 */
static bool
merge_group(BatchTask *batch, bool *trouble)
{
	MergeSlice	slice;
	SliceError	error;
	SliceVerdict verdict;

	memset(&slice, 0, sizeof(slice));
	slice.batch = batch;
	slice.task = batch->job;
	slice.state = batch->merge;
	*trouble = false;

	verdict = pace_run(batch->job, &batch->job->writing, "merging answers", merge_slice, &slice, &error);
	if (verdict != SLICE_DONE)
	{
		*trouble = true;
		merge_rewind(batch->merge);
		if (verdict != SLICE_SLOW)
			merge_trouble(batch, verdict, &error);
		return true;
	}
	merge_remember(&slice);
	merge_judge(&slice);
	jobtask_well(batch->job);
	return !slice.end_of_file;
}

/* ---- entry points ---- */

void
merge_lines(BatchTask *batch, bool *end)
{
	bool		trouble;

	*end = !merge_group(batch, &trouble) && !trouble;
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
	batch->due = later(sched_backoff_ms(state->passes, 1000, 30000, dice()));
}

/*
 * A job merges one batch after the other: to take turns would only spread over
 * the whole table what touches one part of it, and hold the items of all of
 * them in memory.  One that waits, for rows that are locked, holds up nobody.
 */
static bool
merge_must_wait(const BatchTask *batch)
{
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	if (batch->merge != NULL)
		return false;
	dlist_foreach(iter, &batch->job->batches)
	{
		const BatchTask *other = dlist_container(BatchTask, node, iter.cur);

		if (other != batch && other->merge != NULL && other->batch.state == BATCH_RETRIEVING &&
			other->due <= now)
			return true;
	}
	return false;
}

/* One slice of a batch whose result files are in the spool. */
bool
merge_work(BatchTask *batch)
{
	MergeState *state;
	bool		end;

	if (merge_must_wait(batch))
		return false;
	if (!merge_begin(batch))
		return true;
	state = batch->merge;
	if (state->file < batch->downloaded)
	{
		merge_lines(batch, &end);
		if (end)
		{
			merge_close_reader(state);
			state->file++;
			state->offset = 0;
		}
	}
	else if (state->locked_left)
		merge_start_pass(batch);
	else
		merge_close(batch);
	return true;
}
