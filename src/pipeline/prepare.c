/*-------------------------------------------------------------------------
 *
 * prepare.c
 *		Stage 1: rows of the user's table become lines of a request file.
 *
 * One slice takes one page of rows.  Its lines are appended to the spool file
 * first and become valid when the transaction commits the new length, so a
 * crash leaves at most bytes that the next write cuts off.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/batch.h"
#include "runtime/batch_token.h"
#include "pipeline/budget.h"
#include "runtime/guc.h"
#include "pipeline/pipeline.h"
#include "runtime/usercxt.h"


/* Requests of the batch being filled: digest -> number of the row that sends it. */
typedef struct RequestEntry
{
	uint64		hash;
	int			no;
	char		status;
} RequestEntry;

#define SH_PREFIX requests
#define SH_ELEMENT_TYPE RequestEntry
#define SH_KEY_TYPE uint64
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) ((uint32) (key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

/* What one slice of preparing does. */
typedef struct PrepareSlice
{
	JobTask    *task;
	TargetTable *table;
	BatchOptions *options;
	Batch	   *batch;			/* being filled; its no is 0 until there is one */
	bool		new_batch;
	int64		max_requests;
	int64		max_bytes;
	double		max_cost;		/* that may be reserved for it; negative: no limit */
	bool		unaffordable;	/* not even one request */

	StringInfoData lines;
	JobItem	   *items;			/* sent */
	int			nitems;
	int			nrequests;
	JobItem	   *unsent;			/* rows that end here */
	ItemResult *unsent_results;
	int			nunsent;
	AgainRow  **leftover;		/* taken from again, but the batch is full */
	int			nleftover;

	char	   *last_key;
	int64		taken;
	bool		end_of_table;
	bool		full;
	int64		requeued;		/* counting rows that left again */
	bool		none_waits;		/* there are none in again */
	UserContext user;
} PrepareSlice;

/* ---- limits of a batch ---- */

static int64
smaller(int64 a, int64 b)
{
	return b > 0 && b < a ? b : a;
}

static void
prepare_set_limits(PrepareSlice *slice)
{
	const Account *account = slice->options->account;
	const Job  *job = slice->task->job;

	slice->max_requests = account->max_batch_requests;
	slice->max_bytes = smaller(account->max_batch_bytes, job->batch_bytes);
	if (job->online)
	{
		slice->max_requests = smaller(slice->max_requests, ONLINE_BATCH_ROWS);
		slice->max_bytes = smaller(slice->max_bytes, ONLINE_BATCH_BYTES);
	}
	slice->max_cost = budget_for_batch(slice->task);
}

/* ---- one row ---- */

static JobItem *
prepare_end_row(PrepareSlice *slice, const TargetRow *row, int attempts, Outcome outcome,
				const char *code, const char *message)
{
	JobItem	   *item = &slice->unsent[slice->nunsent];
	ItemResult *result = &slice->unsent_results[slice->nunsent];

	memset(item, 0, sizeof(*item));
	item->key = row->key;
	item->hash = row->hash;
	item->attempts = attempts;
	memset(result, 0, sizeof(*result));
	result->outcome = outcome;
	result->error_code = code;
	result->error = message;
	slice->nunsent++;
	return item;
}

/*
 * Adds a row to the batch.  Returns false when the batch has no room for it.
 */
static bool
prepare_add_row(PrepareSlice *slice, const TargetRow *row, int attempts)
{
	JobTask    *task = slice->task;
	Batch	   *batch = slice->batch;
	int			no = batch->items + slice->nitems + 1;
	uint64		hash = digest_hash64(&row->hash);
	RequestEntry *entry;
	bool		found;
	JobItem	   *item;
	int			length_before = slice->lines.len;

	entry = requests_insert(task->requests, hash, &found);
	if (!found)
	{
		BatchItem	request;
		char		custom_id[64];

		request.custom_id = custom_id;
		batch_custom_id(custom_id, sizeof(custom_id), batch->token, no);
		request.text = row->text;
		request.text_length = row->text_length;
		task->channel->account->provider->prepare_batch_file(&slice->lines, &request, slice->options);

		if (slice->lines.len - length_before > slice->max_bytes)
		{
			prepare_end_row(slice, row, attempts - 1, OUTCOME_REJECTED, "too_large",
							psprintf("the request has %d bytes, the server takes files of " INT64_FORMAT,
									 slice->lines.len - length_before, slice->max_bytes));
			slice->lines.len = length_before;
			requests_delete(task->requests, hash);
			return true;
		}
		slice->unaffordable = slice->max_cost >= 0 &&
			budget_reserve(task, batch->requests + slice->nrequests + 1, batch->bytes + slice->lines.len) > slice->max_cost;
		if (batch->requests + slice->nrequests >= slice->max_requests ||
			batch->bytes + slice->lines.len > slice->max_bytes || slice->unaffordable)
		{
			slice->lines.len = length_before;
			requests_delete(task->requests, hash);
			slice->full = true;
			return false;
		}
		entry->no = no;
		slice->nrequests++;
	}

	item = &slice->items[slice->nitems++];
	item->key = row->key;
	item->hash = row->hash;
	item->same_as = found ? entry->no : 0;
	item->held = row->held;
	item->attempts = attempts;
	return true;
}

/*
 * What becomes of one row that the job takes.  Returns false when the batch is
 * full and the row has to wait for the next one.
 */
static bool
prepare_row(PrepareSlice *slice, const TargetRow *row, int attempts)
{
	/* what ends here was sent one time less */
	if (row->too_large)
		prepare_end_row(slice, row, attempts, OUTCOME_INVALID, "54000",
						"the row's text is longer than 32 MB");
	else if (!row->convertible)
		prepare_end_row(slice, row, attempts - 1, OUTCOME_INVALID, "22021",
						"the row's text is not valid in UTF-8");
	else if (row->text == NULL)
		prepare_end_row(slice, row, attempts - 1, OUTCOME_EMPTY, NULL, NULL);
	else if (!prepare_add_row(slice, row, attempts))
		return false;
	return true;
}

static void
prepare_allocate(PrepareSlice *slice, int nrows)
{
	slice->items = palloc0_array(JobItem, nrows + 1);
	slice->unsent = palloc0_array(JobItem, nrows + 1);
	slice->unsent_results = palloc0_array(ItemResult, nrows + 1);
}

/* ---- rows from the table, in key order ---- */

static void
prepare_filter_settled(PrepareSlice *slice, const TargetRow *rows, int nrows, bool *passed_over)
{
	const Job  *job = slice->task->job;
	char	  **keys = palloc_array(char *, nrows + 1);
	Digest	   *hashes = palloc_array(Digest, nrows + 1);
	int		   *index = palloc_array(int, nrows + 1);
	bool	   *settled = palloc0_array(bool, nrows + 1);
	bool		only_null = job_takes_new(job);
	int			n = 0;

	for (int i = 0; i < nrows; i++)
	{
		passed_over[i] = !rows[i].wanted || (only_null && !rows[i].target_null) ||
			rivals_have(rows[i].key);
		if (passed_over[i] || (job->overwrite && !only_null))
			continue;
		keys[n] = rows[i].key;
		hashes[n] = rows[i].hash;
		index[n++] = i;
	}
	if (n == 0)
		return;
	jobstore_find_settled(job, keys, hashes, n, settled);
	for (int i = 0; i < n; i++)
		passed_over[index[i]] = settled[i];
}

static void
prepare_from_table(PrepareSlice *slice)
{
	JobTask    *task = slice->task;
	const Job  *job = task->job;
	TargetRow  *rows;
	bool	   *passed_over;
	bool		more = false;
	int			limit = task->reading.rows;
	int			nrows;

	nrows = target_read_page(slice->table, job->last_key, limit, &rows, &more);
	usercxt_leave(&slice->user);

	passed_over = palloc0_array(bool, nrows + 1);
	prepare_allocate(slice, nrows);
	prepare_filter_settled(slice, rows, nrows, passed_over);

	for (int i = 0; i < nrows; i++)
	{
		if (job->max_rows > 0 && job->taken + slice->taken >= job->max_rows)
		{
			slice->end_of_table = true;
			return;
		}
		if (!passed_over[i])
		{
			if (!prepare_row(slice, &rows[i], 1))
				return;
			slice->taken++;
		}
		slice->last_key = rows[i].key;
	}
	slice->end_of_table = nrows < limit && !more;
}

/* ---- rows by their keys: again, sample, only ---- */

static int
compare_rows_by_key(const void *a, const void *b)
{
	return strcmp(((const TargetRow *) a)->key, ((const TargetRow *) b)->key);
}

static TargetRow *
prepare_find_row(TargetRow *rows, int nrows, char *key)
{
	TargetRow	sought;

	sought.key = key;
	return bsearch(&sought, rows, nrows, sizeof(TargetRow), compare_rows_by_key);
}

/* A row that already counts: it gets an outcome whatever happened to it. */
static bool
prepare_again_row(PrepareSlice *slice, const AgainRow *again, const TargetRow *row)
{
	TargetRow	gone;

	if (row == NULL)
	{
		memset(&gone, 0, sizeof(gone));
		gone.key = again->key;
		prepare_end_row(slice, &gone, again->attempts, OUTCOME_GONE, NULL, NULL);
		return true;
	}
	if (!slice->task->job->overwrite && !row->target_null)
	{
		prepare_end_row(slice, row, again->attempts, OUTCOME_STALE, NULL,
						"the target got a value in the meantime");
		return true;
	}
	return prepare_row(slice, row, again->attempts + 1);
}

/* A row that sample or only names: taken like one from the table. */
static bool
prepare_named_row(PrepareSlice *slice, const AgainRow *again, const TargetRow *row)
{
	const Job  *job = slice->task->job;
	bool		settled = false;

	if (row == NULL || !row->wanted || rivals_have(row->key))
		return true;
	/* the table will be gone through for these */
	if (row->target_null && job_takes_new(job))
		return true;
	if (job->max_rows > 0 && job->taken + slice->taken >= job->max_rows)
		return true;
	if (again->has_hash && memcmp(&again->unless_hash, &row->hash, sizeof(Digest)) == 0)
		return true;
	if (!job->overwrite && job->only == NIL)
	{
		jobstore_find_settled(job, (char **) &row->key, &row->hash, 1, &settled);
		if (settled)
			return true;
	}
	if (!prepare_row(slice, row, 1))
		return false;
	slice->taken++;
	return true;
}

static void
prepare_from_again(PrepareSlice *slice, List *waiting)
{
	int			nwaiting = list_length(waiting);
	char	  **keys = palloc_array(char *, nwaiting);
	TargetRow  *rows;
	int			nrows;
	bool		more;
	int			i = 0;
	ListCell   *lc;

	foreach(lc, waiting)
		keys[i++] = ((AgainRow *) lfirst(lc))->key;
	nrows = target_read_some_keys(slice->table, keys, nwaiting, &rows, &more);
	usercxt_leave(&slice->user);

	qsort(rows, nrows, sizeof(TargetRow), compare_rows_by_key);
	prepare_allocate(slice, nwaiting);
	slice->leftover = palloc_array(AgainRow *, nwaiting);

	foreach(lc, waiting)
	{
		AgainRow   *again = lfirst(lc);
		bool		taken;
		TargetRow  *row = prepare_find_row(rows, nrows, again->key);

		if (slice->full || (row == NULL && more))
			taken = false;
		else if (again->counts)
			taken = prepare_again_row(slice, again, row);
		else
			taken = prepare_named_row(slice, again, row);
		if (!taken)
			slice->leftover[slice->nleftover++] = again;
		else if (again->counts)
			slice->requeued++;
	}
}

/* ---- the batch ---- */

/* The requests that the batch being filled already has. */
static void
prepare_load_requests(PrepareSlice *slice)
{
	JobTask    *task = slice->task;
	JobItem	   *items;
	bool	   *finished;
	int			nitems;

	if (task->requests != NULL)
		return;
	task->requests = requests_create(task->cxt, 1024, NULL);
	if (slice->new_batch)
		return;
	nitems = jobstore_load_items(task->job->id, slice->batch->no, &items, &finished);
	for (int i = 0; i < nitems; i++)
	{
		RequestEntry *entry;
		bool		found;

		if (items[i].same_as != 0)
			continue;
		entry = requests_insert(task->requests, digest_hash64(&items[i].hash), &found);
		entry->no = i + 1;
	}
}

static void
prepare_forget_requests(JobTask *task)
{
	if (task->requests != NULL)
		requests_destroy(task->requests);
	task->requests = NULL;
}

/* Saves what the slice made: lines, items, rows that ended, the job's place. */
static void
prepare_save(PrepareSlice *slice)
{
	JobTask    *task = slice->task;
	Job		   *job = task->job;
	Batch	   *batch = slice->batch;

	if (slice->nitems > 0)
	{
		int			first_no = batch->items + 1;

		spool_write(spool_path(job->id, batch->no, SPOOL_REQUESTS, 0), batch->bytes,
					slice->lines.data, slice->lines.len);
		/* a crash of the machine must not leave zeros before the committed length */
		spool_sync(spool_path(job->id, batch->no, SPOOL_REQUESTS, 0));
		if (slice->new_batch)
			jobstore_insert_batch(batch);
		jobstore_insert_items(job->id, batch->no, first_no, slice->items, slice->nitems);
		jobstore_grow_batch(job->id, batch->no, slice->nitems, slice->nrequests, slice->lines.len);
	}
	if (slice->nunsent > 0)
	{
		int			first_no = jobstore_insert_items(job->id, 0, 0, slice->unsent, slice->nunsent);
		char	  **keys = palloc_array(char *, slice->nunsent);
		Digest	   *hashes = palloc_array(Digest, slice->nunsent);
		Outcome    *outcomes = palloc_array(Outcome, slice->nunsent);
		int			n = 0;

		for (int i = 0; i < slice->nunsent; i++)
		{
			slice->unsent_results[i].no = first_no + i;
			if (!outcome_settles(slice->unsent_results[i].outcome))
				continue;
			keys[n] = slice->unsent[i].key;
			hashes[n] = slice->unsent[i].hash;
			outcomes[n++] = slice->unsent_results[i].outcome;
		}
		jobstore_add_results(job, 0, slice->unsent_results, slice->nunsent, 0);
		jobstore_settle(job, keys, hashes, outcomes, n);
	}
	for (int i = 0; i < slice->nleftover; i++)
		jobstore_again_return(job->id, slice->leftover[i]);
	if (slice->end_of_table || slice->last_key != NULL || slice->taken > 0)
	{
		if (!jobstore_advance(job->id, slice->last_key, slice->taken, slice->end_of_table,
							  slice->nitems > 0 && slice->new_batch ? batch->no : 0))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("job " INT64_FORMAT " was changed meanwhile", job->id)));
	}
}

static void
prepare_slice(void *arg)
{
	PrepareSlice *slice = (PrepareSlice *) arg;
	JobTask    *task = slice->task;
	Job		   *job = task->job;
	List	   *waiting = NIL;

	slice->options = jobtask_options(task);
	prepare_set_limits(slice);
	if (job->state == JOB_QUEUED)
	{
		/* two transactions may have submitted at once without seeing each other */
		jobstore_check_key(job, job->id);
		jobstore_job_started(job->id);
	}
	if (job->requeued > 0 || (job->listed && !job->all_prepared))
	{
		waiting = jobstore_again_take(job->id, Max(task->reading.rows / 2, 1));
		slice->none_waits = waiting == NIL;
	}
	rivals_load(task);
	initStringInfo(&slice->lines);
	prepare_load_requests(slice);

	usercxt_enter(&slice->user, usercxt_effective_role(job->owner, job->source));
	slice->table = jobtask_table(task);
	if (waiting != NIL)
		prepare_from_again(slice, waiting);
	else if (!job->all_prepared && (!job->listed || job_takes_new(job)))
		prepare_from_table(slice);
	else
	{
		usercxt_leave(&slice->user);
		slice->end_of_table = true;
	}
	prepare_save(slice);
}

/* The batch is complete: its file goes to disk and its state changes. */
static void
complete_slice(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	BatchTask  *filling = task->filling;

	spool_sync(spool_path(task->job->id, filling->batch.no, SPOOL_REQUESTS, 0));
	if (!jobstore_move_batch(&filling->batch, BATCH_PREPARING, BATCH_PREPARED))
		elog(ERROR, "batch %d of job " INT64_FORMAT " is not in preparation",
			 filling->batch.no, task->job->id);
}

static void
prepare_complete(JobTask *task)
{
	SliceError	error;
	SliceVerdict verdict;

	verdict = slice_run("completing a request file", complete_slice, task, &error);
	if (verdict != SLICE_DONE)
	{
		jobtask_trouble(task, verdict, &error);
		return;
	}
	task->filling->batch.state = BATCH_PREPARED;
	task->filling->due = 0;
	task->filling = NULL;
	prepare_forget_requests(task);
}

/* Memory follows the ledger after a slice has been committed. */
static void
prepare_remember(PrepareSlice *slice)
{
	JobTask    *task = slice->task;
	Job		   *job = task->job;

	if (job->state == JOB_QUEUED)
		job->state = JOB_ACTIVE;
	job->taken += slice->taken;
	job->requeued = slice->none_waits ? 0 : job->requeued - slice->requeued;
	if (slice->end_of_table)
		job->all_prepared = true;
	if (slice->last_key != NULL)
		job->last_key = MemoryContextStrdup(task->job_cxt, slice->last_key);
	if (slice->nitems > 0)
	{
		if (slice->new_batch)
		{
			task->filling = jobtask_add_batch(task, slice->batch);
			task->filling_checked = true;
			job->last_batch = slice->batch->no;
		}
		task->filling->batch.items += slice->nitems;
		task->filling->batch.requests += slice->nrequests;
		task->filling->batch.bytes += slice->lines.len;
	}
}

/* ---- entry points ---- */

static bool
prepare_has_rows(const JobTask *task)
{
	dlist_iter	iter;

	if (!task->job->all_prepared)
		return true;
	if (task->job->requeued == 0 || task->again_due > GetCurrentTimestamp())
		return false;

	/* rows to be sent once more are gathered until the merge that finds them has ended */
	dlist_foreach(iter, &((JobTask *) task)->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->batch.state == BATCH_RETRIEVING ||
			(task->job->online && batch->batch.state == BATCH_RUNNING))
			return false;
	}
	return true;
}

/*
 * Is there room for another batch?  Batches are prepared one ahead of what may
 * be sent, all of them when the job is to stop after this stage.
 */
bool
prepare_wanted(JobTask *task)
{
	int			ahead = 0;
	dlist_iter	iter;

	if (!jobtask_may_send(task))
		return false;
	if (task->filling != NULL)
		return true;
	if (!prepare_has_rows(task))
		return false;
	if (task->job->stage == STAGE_PREPARE)
		return true;
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->batch.state == BATCH_PREPARED)
			ahead++;
		else if (task->job->online && batch->batch.state == BATCH_RUNNING && online_unsent(batch) > 0)
			ahead++;
	}
	return ahead < (task->job->online ? 2 : 1);
}

/*
 * Where the spool is full, the batch being filled must leave it before there is
 * room for more.  Returns false when there is none.
 */
bool
prepare_close(JobTask *task)
{
	if (task->filling == NULL)
		return false;
	prepare_complete(task);
	return true;
}

/* After a restart, the file of the batch that was being filled is looked at first.  Returns false where that failed. */
static bool
prepare_check_filling(JobTask *task)
{
	BatchTask  *filling = task->filling;

	task->filling_checked = batch_file_intact(filling);
	if (task->filling_checked)
		return true;
	if (filling->batch.state == BATCH_PREPARING)
		return false;
	task->filling = NULL;
	prepare_forget_requests(task);
	return true;
}

/*
 * One page of rows.  Returns false when there was nothing to take.
 */
bool
prepare_work(JobTask *task)
{
	PrepareSlice slice;
	Batch		fresh;
	char		token[BATCH_TOKEN_SIZE];
	SliceError	error;
	SliceVerdict verdict;

	if (task->filling != NULL && !task->filling_checked)
		return prepare_check_filling(task);
	if (!budget_may_prepare(task))
		return false;
	if (!task->job->listed && (task->job->sample || task->job->only != NIL))
	{
		prepare_list(task);
		return true;
	}
	if (task->filling != NULL && task->job->all_prepared &&
		(task->job->requeued == 0 || !prepare_has_rows(task)))
	{
		prepare_complete(task);
		return true;
	}

	memset(&slice, 0, sizeof(slice));
	slice.task = task;
	if (task->filling != NULL)
		slice.batch = &task->filling->batch;
	else
	{
		memset(&fresh, 0, sizeof(fresh));
		fresh.job_id = task->job->id;
		fresh.no = task->job->last_batch + 1;
		fresh.state = BATCH_PREPARING;
		fresh.token = token;
		batch_new_token(token);
		fresh.remote.total = fresh.remote.finished = -1;
		fresh.created_at = GetCurrentTimestamp();
		slice.batch = &fresh;
		slice.new_batch = true;
	}

	verdict = pace_run(task, &task->reading, "preparing requests", prepare_slice, &slice, &error);
	if (verdict == SLICE_DONE)
	{
		prepare_remember(&slice);
		jobtask_well(task);
	}
	else
	{
		/* the digests may name rows that were rolled back */
		prepare_forget_requests(task);
		jobtask_trouble(task, verdict, &error);
		if (verdict == SLICE_SLOW && task->table != NULL)
			target_walk(task->table);
	}

	if (verdict == SLICE_DONE && slice.full && task->filling != NULL)
		prepare_complete(task);
	else if (verdict == SLICE_DONE && slice.unaffordable)
		budget_pause(task);
	return verdict == SLICE_DONE;
}
