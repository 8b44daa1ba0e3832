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

#include "pipeline/internal.h"
#include "pipeline/merge_internal.h"
#include "runtime/usercxt.h"
#include "text/encoding.h"

#define ENOUGH_ANSWERS		200	/* before max_failed is looked at */
/* so many replies that cannot be read, before any that can, end the job; at least the first number, and fewer than the second in a small batch */
#define UNREADABLE_LEAST	3
#define UNREADABLE_MOST		10

/* ---- what a reply means for its row ---- */

static void
merge_words(MergeEntry *entry, const StepError *error)
{
	entry->result.error_code = error->code;
	entry->result.error = error->message;
}

/* A failure that time may heal: sent again, or final after three attempts. */
static void
merge_retry(MergeGroup *group, MergeEntry *entry, Outcome final)
{
	int			attempts = group->state->items[entry->no - 1].attempts;
	bool		may_send = group->task->job->control != CONTROL_CANCEL;

	entry->result.outcome = attempts < MAX_ATTEMPTS && may_send ? OUTCOME_SUPERSEDED : final;
}

static bool
is_unreadable(const BatchReply *reply)
{
	return reply->kind == REPLY_FAILED && reply->error.code != NULL && strcmp(reply->error.code, CODE_UNREADABLE) == 0;
}

static void
merge_classify_failure(MergeGroup *group, MergeEntry *entry)
{
	const StepError *error = &entry->reply->error;

	merge_words(entry, error);
	switch (error->class)
	{
		case ERROR_TEMPORARY:
			if (is_unreadable(entry->reply))
				group->nunreadable++;
			merge_retry(group, entry, OUTCOME_LOST);
			break;
		case ERROR_RATE:
			/* online.c has seen to delays: this is the row's own */
			if (group->task->job->online)
			{
				entry->result.outcome = OUTCOME_REJECTED;
				break;
			}
			/* a delay and no attempt */
			entry->delayed = group->task->job->control != CONTROL_CANCEL;
			entry->result.outcome = entry->delayed ? OUTCOME_SUPERSEDED : OUTCOME_LOST;
			break;
		case ERROR_QUOTA:
		case ERROR_AUTH:
			group->fatal = error;
			entry->result.outcome = group->task->job->control == CONTROL_CANCEL ?
				OUTCOME_CANCELLED : OUTCOME_SUPERSEDED;
			break;
		case ERROR_PERMANENT:
		case ERROR_NO_SERVICE:
		case ERROR_TOO_LARGE:
			entry->result.outcome = OUTCOME_REJECTED;
			break;
	}
}

static void
merge_classify_text(MergeGroup *group, MergeEntry *entry)
{
	const Job  *job = group->task->job;
	int			ncolumns = source_target_count(group->table);

	if (entry->garbled)
	{
		entry->result.outcome = OUTCOME_INVALID;
		entry->result.error_code = "22021";
		entry->result.error = "the answer is not valid UTF-8";
		return;
	}
	if (entry->reply->is_json && !group->rules->expect_json)
	{
		entry->result.outcome = OUTCOME_INVALID;
		entry->result.error_code = "22P02";
		entry->result.error = "the answer is a JSON value instead of text";
		return;
	}
	answer_read(group->rules, entry->reply->text, &entry->answer);
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
merge_classify(MergeGroup *group, MergeEntry *entry)
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
		entry->result.cache_write_tokens = Min(reply->cache_write_tokens,
											   reply->input_tokens - entry->result.cached_tokens);
		entry->result.output_tokens = reply->output_tokens;
		entry->result.reasoning_tokens = reply->reasoning_tokens;
	}

	switch (reply->kind)
	{
		case REPLY_TEXT:
			merge_classify_text(group, entry);
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
			merge_retry(group, entry, OUTCOME_EXPIRED);
			break;
		case REPLY_CANCELLED:
			merge_words(entry, &reply->error);
			entry->result.outcome = OUTCOME_CANCELLED;
			/* by us, because it did not end */
			if (group->batch->batch.remote.status == REMOTE_EXPIRED)
			{
				merge_words(entry, &group->batch->batch.remote.error);
				merge_retry(group, entry, OUTCOME_EXPIRED);
			}
			break;
		case REPLY_NO_ANSWER:
			merge_words(entry, &reply->error);
			merge_retry(group, entry, OUTCOME_REJECTED);
			break;
		case REPLY_FAILED:
			merge_classify_failure(group, entry);
			break;
	}
	entry->result.billed = entry->own &&
		(reply->kind <= REPLY_TRUNCATED || reply->input_tokens + reply->output_tokens > 0);
}

/*
 * A server none of whose first replies can be read will hardly send better
 * ones, and all of them are paid: the job ends before it has bought the rest.
 */
static void
merge_check_readable(MergeGroup *group)
{
	JobTask    *task = group->task;

	if (group->nunreadable < group->nentries)
		return;
	ledger_count_answers(task->job->id, &group->answers, &group->failed);
	if (group->answers > 0 ||
		task->unreadable + group->nunreadable < Max(UNREADABLE_LEAST, Min(UNREADABLE_MOST, group->batch->batch.requests)))
		return;
	group->fatal = &group->entries[0].reply->error;
	for (int i = 0; i < group->nentries; i++)
		group->entries[i].result.outcome = task->job->control == CONTROL_CANCEL ? OUTCOME_CANCELLED : OUTCOME_SUPERSEDED;
}

/* ---- writing ---- */

static int
compare_keys(const void *a, const void *b)
{
	return strcmp(((const SourceRow *) a)->key, ((const SourceRow *) b)->key);
}

static SourceRow *
merge_find_row(SourceRow *rows, int nrows, char *key)
{
	SourceRow	sought;

	sought.key = key;
	return bsearch(&sought, rows, nrows, sizeof(SourceRow), compare_keys);
}

static char **
merge_values(MergeGroup *group, const MergeEntry *entry)
{
	const Job  *job = group->task->job;
	int			ncolumns = source_target_count(group->table);
	char	  **values = palloc0_array(char *, ncolumns);
	int			next = 0;

	for (int i = 0; i < ncolumns; i++)
	{
		const char *property = source_target_property(group->table, i);

		if (property == NULL)
			values[i] = entry->answer.kind == ANSWER_OK ? entry->answer.values[0] : (char *) group->rules->missing;
		else if (strcmp(property, "$answer") == 0)
			values[i] = entry->answer.text;
		else if (strcmp(property, "$outcome") == 0)
			values[i] = pstrdup(outcome_name(entry->result.outcome));
		else if (strcmp(property, "$job") == 0)
			values[i] = psprintf(INT64_FORMAT, job->id);
		else if (strcmp(property, "$model") == 0)
			values[i] = (char *) jobtask_options(group->task)->model;
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
merge_missed_keys(SourceRow *rows, int nrows, char **keys, int nkeys, char **missed)
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
merge_are_locked(MergeGroup *group, SourceRow *rows, int nrows)
{
	char	  **keys = palloc_array(char *, nrows + 1);

	for (int i = 0; i < nrows; i++)
		keys[i] = rows[i].key;
	return nrows > 0 && source_are_locked(group->table, keys, nrows);
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
merge_check_rows(MergeGroup *group, SourceWrite *writes)
{
	MergeState *state = group->state;
	char	  **keys = palloc_array(char *, group->nentries + 1);
	char	  **missed = palloc_array(char *, group->nentries + 1);
	SourceRow  *rows;
	SourceRow  *present;
	int			nkeys = 0;
	int			nmissed;
	int			nwrites = 0;
	int			nrows;
	int			npresent = 0;
	bool		locked = false;

	for (int i = 0; i < group->nentries; i++)
		if (group->entries[i].write)
			keys[nkeys++] = state->items[group->entries[i].no - 1].key;
	if (nkeys == 0)
		return 0;
	nrows = source_lock_keys(group->table, keys, nkeys, &rows);
	qsort(rows, nrows, sizeof(SourceRow), compare_keys);
	nmissed = merge_missed_keys(rows, nrows, keys, nkeys, missed);
	if (nmissed > 0)
	{
		npresent = source_read_keys(group->table, missed, nmissed, &present);
		locked = merge_are_locked(group, present, npresent);
		qsort(present, npresent, sizeof(SourceRow), compare_keys);
	}

	for (int i = 0; i < group->nentries; i++)
	{
		MergeEntry *entry = &group->entries[i];
		const JobItem *item = &state->items[entry->no - 1];
		SourceRow  *row;

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
			writes[nwrites].values = merge_values(group, entry);
			nwrites++;
		}
	}
	return nwrites;
}

static void
merge_written(MergeEntry *entry, const SourceWrite *write)
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
	const SourceWrite *x = (const SourceWrite *) a;
	const SourceWrite *y = (const SourceWrite *) b;

	return x->hash < y->hash ? -1 : x->hash > y->hash ? 1 : 0;
}

/* Writes what can be written in one pass; what is left over still has "write" set. */
static void
merge_write_unchanged(MergeGroup *group)
{
	SourceWrite *writes = palloc0_array(SourceWrite, group->nentries + 1);
	int			nwrites = 0;

	for (int i = 0; i < group->nentries; i++)
	{
		const JobItem *item = &group->state->items[group->entries[i].no - 1];

		if (!group->entries[i].write)
			continue;
		writes[nwrites].item = i;
		writes[nwrites].key = item->key;
		writes[nwrites].hash = &item->hash;
		writes[nwrites].held = item->held;
		writes[nwrites].values = merge_values(group, &group->entries[i]);
		nwrites++;
	}
	/* rows that lie together are visited together */
	qsort(writes, nwrites, sizeof(SourceWrite), compare_items);
	if (nwrites == 0 || !source_write_unchanged(group->table, writes, nwrites))
		return;

	for (int i = 0; i < nwrites; i++)
	{
		MergeEntry *entry = &group->entries[writes[i].item];

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
merge_write(MergeGroup *group)
{
	SourceWrite *writes = palloc0_array(SourceWrite, group->nentries + 1);
	int			nwrites;

	merge_write_unchanged(group);
	nwrites = merge_check_rows(group, writes);
	if (nwrites == 0)
		return;
	source_write(group->table, writes, nwrites);
	for (int i = 0; i < nwrites; i++)
		merge_written(&group->entries[writes[i].item], &writes[i]);
}

/* ---- the ledger ---- */

/* What is kept of an answer. */
static void
merge_keep(MergeGroup *group, MergeEntry *entry)
{
	KeepWhat	keep = group->task->job->keep;
	const char *text = entry->answer.text != NULL ? entry->answer.text : entry->reply->text;

	if (keep == KEEP_NONE || entry->result.outcome == OUTCOME_SUPERSEDED)
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
merge_settles(MergeGroup *group, const MergeEntry *entry)
{
	if (entry->written)
		return false;
	if (entry->result.outcome == OUTCOME_OK)
		return source_target_count(group->table) == 0;
	return outcome_settles(entry->result.outcome);
}

static void
merge_save(MergeGroup *group)
{
	JobTask    *task = group->task;
	const Job  *job = task->job;
	MergeState *state = group->state;
	int			n = group->nentries + 1;
	ItemResult *results = palloc_array(ItemResult, n);
	char	  **retry_keys = palloc_array(char *, n);
	int		   *retry_attempts = palloc_array(int, n);
	char	  **keys = palloc_array(char *, n);
	Digest	   *hashes = palloc_array(Digest, n);
	Outcome    *outcomes = palloc_array(Outcome, n);
	int			nresults = 0;
	int			nsettled = 0;

	for (int i = 0; i < group->nentries; i++)
	{
		MergeEntry *entry = &group->entries[i];
		const JobItem *item = &state->items[entry->no - 1];

		if (entry->locked)
			continue;
		merge_keep(group, entry);
		merge_to_server(&entry->result);
		results[nresults++] = entry->result;
		if (entry->result.billed)
			group->requests++;
		if (entry->result.outcome == OUTCOME_SUPERSEDED)
		{
			retry_keys[group->nretries] = item->key;
			retry_attempts[group->nretries++] = item->attempts - (group->fatal != NULL || entry->delayed ? 1 : 0);
			group->delayed |= entry->delayed;
			group->max_retry_attempts = Max(group->max_retry_attempts, item->attempts);
		}
		if (merge_settles(group, entry))
		{
			keys[nsettled] = item->key;
			hashes[nsettled] = item->hash;
			outcomes[nsettled++] = entry->result.outcome;
		}
	}
	if (nresults > 0)
		ledger_add_results(job, group->batch->batch.no, results, nresults, group->requests);
	if (group->nretries > 0)
		ledger_retry_queue_insert(job->id, retry_keys, retry_attempts, group->nretries);
	if (nsettled > 0)
		ledger_settle(job, keys, hashes, outcomes, nsettled);
	if (group->unmatched > 0 || group->duplicates > 0)
		ledger_count_strays(job->id, group->batch->batch.no, group->unmatched, group->duplicates);
	ledger_count_answers(job->id, &group->answers, &group->failed);
}

static void
merge_txn(void *arg)
{
	MergeGroup *group = (MergeGroup *) arg;
	UserContext user;
	const Job  *job = group->task->job;

	(void) session_account(group->task->session);
	group->capacity = group->task->writing.rows + 1;
	group->entries = palloc_array(MergeEntry, group->capacity);

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	group->table = jobtask_table(group->task);
	group->rules = source_answer_rules(group->table);
	/* a line can have a hundred megabytes */
	worker_txn_begin_own_work();
	merge_read_lines(group);
	worker_txn_end_own_work();
	for (int i = 0; i < group->nentries; i++)
		merge_classify(group, &group->entries[i]);
	if (group->nunreadable > 0)
		merge_check_readable(group);
	if (group->nentries > 0)
		merge_write(group);
	usercxt_leave(&user);

	if (group->nentries > 0)
		merge_save(group);
	else if (group->unmatched > 0 || group->duplicates > 0)
		ledger_count_strays(job->id, group->batch->batch.no, group->unmatched, group->duplicates);
}

/* ---- after a group ---- */

static void
merge_remember(MergeGroup *group)
{
	MergeState *state = group->state;
	JobTask    *task = group->task;

	state->good_lines += group->good_lines;
	state->bad_lines += group->bad_lines;
	task->unreadable = group->nunreadable < group->nentries ? 0 : task->unreadable + group->nunreadable;
	for (int i = 0; i < group->nentries; i++)
	{
		const MergeEntry *entry = &group->entries[i];

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
	state->offset = group->offset_after;
	state->rest = group->rest;
	if (state->rest != 0)
		merge_close_reader(state);
	task->job->requeued += group->nretries;
	if (group->nretries > 0 && task->job->online)
		task->retry_due = ms_from_now(1000 << Min(group->max_retry_attempts, 5));
	if (group->delayed)
		merge_delay_retries(group->batch);
}

static void
merge_judge(MergeGroup *group)
{
	JobTask    *task = group->task;

	if (group->fatal != NULL && jobtask_may_send(task))
	{
		/* the words live in the transaction's memory, which the next transaction takes */
		char		code[64];
		char		message[512];

		strlcpy(code, encoding_to_server_lossy(group->fatal->code), sizeof(code));
		strlcpy(message, encoding_to_server_lossy(group->fatal->message), sizeof(message));
		jobtask_fail(task, code, message);
		return;
	}
	if (group->answers >= ENOUGH_ANSWERS && jobtask_may_send(task) &&
		(double) group->failed / group->answers > task->job->max_failed)
		jobtask_pause(task, "max_failed",
					  psprintf(INT64_FORMAT " of " INT64_FORMAT " answers failed, more than max_failed allows",
							   group->failed, group->answers));
}

/*
 * One group of lines of the current result file.  Returns false at its end.
 */
static bool
merge_group(BatchTask *batch, bool *trouble)
{
	MergeGroup	group;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	memset(&group, 0, sizeof(group));
	group.batch = batch;
	group.task = batch->job;
	group.state = batch->merge;
	*trouble = false;

	verdict = jobtask_run(batch->job, &batch->job->writing, "merging answers", merge_txn, &group, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		*trouble = true;
		merge_rewind(batch->merge);
		if (verdict != WORKER_TXN_SLOW)
			merge_trouble(batch, verdict, &error);
		return true;
	}
	merge_remember(&group);
	merge_judge(&group);
	jobtask_recovered(batch->job);
	return !group.end_of_file;
}

/* ---- entry points ---- */

void
merge_lines(BatchTask *batch, bool *end)
{
	bool		trouble;

	*end = !merge_group(batch, &trouble) && !trouble;
}

bool
merge_has_unread(const BatchTask *batch)
{
	return (batch->merge != NULL ? batch->merge->file : 0) < batch->download.files;
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

/* One transaction of a batch whose result files are in the spool. */
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
	if (state->file < batch->download.files)
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
