/*-------------------------------------------------------------------------
 *
 * prepare.c
 *		Stage 1: rows of the user's table become lines of a request file.
 *
 * One transaction takes one page of rows.  Its lines are appended to the spool file
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

#include "pipeline/internal.h"
#include "runtime/batch_token.h"
#include "runtime/guc.h"
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

/* What one transaction of preparing does. */
typedef struct PreparePage
{
	JobTask    *task;
	SourceTable *table;
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
	RetryRow  **leftover;		/* taken from again, but the batch is full */
	int			nleftover;

	char	   *last_key;
	int64		taken;
	bool		end_of_table;
	bool		full;
	int64		requeued;		/* counting rows that left again */
	bool		none_waits;		/* there are none in again */
	UserContext user;
} PreparePage;

/* ---- limits of a batch ---- */

static int64
smaller(int64 a, int64 b)
{
	return b > 0 && b < a ? b : a;
}

static void
prepare_set_limits(PreparePage *page)
{
	const Account *account = page->options->account;
	const Job  *job = page->task->job;

	page->max_requests = account->max_batch_requests;
	page->max_bytes = smaller(account->max_batch_bytes, job->batch_bytes);
	if (job->online)
	{
		page->max_requests = smaller(page->max_requests, ONLINE_BATCH_ROWS);
		page->max_bytes = smaller(page->max_bytes, ONLINE_BATCH_BYTES);
	}
	page->max_cost = budget_for_batch(page->task);
}

/* ---- one row ---- */

static JobItem *
prepare_end_row(PreparePage *page, const SourceRow *row, int attempts, Outcome outcome,
				const char *code, const char *message)
{
	JobItem	   *item = &page->unsent[page->nunsent];
	ItemResult *result = &page->unsent_results[page->nunsent];

	memset(item, 0, sizeof(*item));
	item->key = row->key;
	item->hash = row->hash;
	item->attempts = attempts;
	memset(result, 0, sizeof(*result));
	result->outcome = outcome;
	result->error_code = code;
	result->error = message;
	page->nunsent++;
	return item;
}

/*
 * Adds a row to the batch.  Returns false when the batch has no room for it.
 */
static bool
prepare_add_row(PreparePage *page, const SourceRow *row, int attempts)
{
	JobTask    *task = page->task;
	Batch	   *batch = page->batch;
	int			no = batch->items + page->nitems + 1;
	uint64		hash = digest_hash64(&row->hash);
	RequestEntry *entry;
	bool		found;
	JobItem	   *item;
	int			length_before = page->lines.len;

	entry = requests_insert(task->requests, hash, &found);
	if (!found)
	{
		BatchItem	request;
		char		custom_id[64];

		request.custom_id = custom_id;
		batch_custom_id(custom_id, sizeof(custom_id), batch->token, no);
		request.text = row->text;
		request.text_length = row->text_length;
		task->session->account->provider->prepare_batch_file(&page->lines, &request, page->options);

		if (page->lines.len - length_before > page->max_bytes)
		{
			prepare_end_row(page, row, attempts - 1, OUTCOME_REJECTED, "too_large",
							psprintf("the request has %d bytes, the server takes files of " INT64_FORMAT,
									 page->lines.len - length_before, page->max_bytes));
			page->lines.len = length_before;
			requests_delete(task->requests, hash);
			return true;
		}
		page->unaffordable = page->max_cost >= 0 &&
			budget_reserve(task, batch->requests + page->nrequests + 1, batch->bytes + page->lines.len) > page->max_cost;
		if (batch->requests + page->nrequests >= page->max_requests ||
			batch->bytes + page->lines.len > page->max_bytes || page->unaffordable)
		{
			page->lines.len = length_before;
			requests_delete(task->requests, hash);
			page->full = true;
			return false;
		}
		entry->no = no;
		page->nrequests++;
	}

	item = &page->items[page->nitems++];
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
prepare_row(PreparePage *page, const SourceRow *row, int attempts)
{
	/* what ends here was sent one time less */
	if (row->too_large)
		prepare_end_row(page, row, attempts, OUTCOME_INVALID, "54000",
						"the row's text is longer than 32 MB");
	else if (!row->convertible)
		prepare_end_row(page, row, attempts - 1, OUTCOME_INVALID, "22021",
						"the row's text is not valid in UTF-8");
	else if (row->text == NULL)
		prepare_end_row(page, row, attempts - 1, OUTCOME_EMPTY, NULL, NULL);
	else if (!prepare_add_row(page, row, attempts))
		return false;
	return true;
}

static void
prepare_allocate(PreparePage *page, int nrows)
{
	page->items = palloc0_array(JobItem, nrows + 1);
	page->unsent = palloc0_array(JobItem, nrows + 1);
	page->unsent_results = palloc0_array(ItemResult, nrows + 1);
}

/* ---- rows from the table, in key order ---- */

static void
prepare_filter_settled(PreparePage *page, const SourceRow *rows, int nrows, bool *passed_over)
{
	const Job  *job = page->task->job;
	char	  **keys = palloc_array(char *, nrows + 1);
	Digest	   *hashes = palloc_array(Digest, nrows + 1);
	int		   *index = palloc_array(int, nrows + 1);
	bool	   *settled = palloc0_array(bool, nrows + 1);
	bool		only_null = job_takes_new(job);
	int			n = 0;

	for (int i = 0; i < nrows; i++)
	{
		passed_over[i] = !rows[i].wanted || (only_null && !rows[i].target_null) ||
			in_flight_have(rows[i].key);
		if (passed_over[i] || (job->overwrite && !only_null))
			continue;
		keys[n] = rows[i].key;
		hashes[n] = rows[i].hash;
		index[n++] = i;
	}
	if (n == 0)
		return;
	ledger_find_settled(job, keys, hashes, n, settled);
	for (int i = 0; i < n; i++)
		passed_over[index[i]] = settled[i];
}

static void
prepare_from_table(PreparePage *page)
{
	JobTask    *task = page->task;
	const Job  *job = task->job;
	SourceRow  *rows;
	bool	   *passed_over;
	bool		more = false;
	int			limit = task->reading.rows;
	int			nrows;

	nrows = source_read_page(page->table, job->last_key, limit, &rows, &more);
	usercxt_leave(&page->user);

	passed_over = palloc0_array(bool, nrows + 1);
	prepare_allocate(page, nrows);
	prepare_filter_settled(page, rows, nrows, passed_over);

	for (int i = 0; i < nrows; i++)
	{
		if (job->max_rows > 0 && job->taken + page->taken >= job->max_rows)
		{
			page->end_of_table = true;
			return;
		}
		if (!passed_over[i])
		{
			if (!prepare_row(page, &rows[i], 1))
				return;
			page->taken++;
		}
		page->last_key = rows[i].key;
	}
	page->end_of_table = nrows < limit && !more;
}

/* ---- rows by their keys: again, sample, only ---- */

static int
compare_rows_by_key(const void *a, const void *b)
{
	return strcmp(((const SourceRow *) a)->key, ((const SourceRow *) b)->key);
}

static SourceRow *
prepare_find_row(SourceRow *rows, int nrows, char *key)
{
	SourceRow	sought;

	sought.key = key;
	return bsearch(&sought, rows, nrows, sizeof(SourceRow), compare_rows_by_key);
}

/* A row that already counts: it gets an outcome whatever happened to it. */
static bool
prepare_retry_row(PreparePage *page, const RetryRow *again, const SourceRow *row)
{
	SourceRow	gone;

	if (row == NULL)
	{
		memset(&gone, 0, sizeof(gone));
		gone.key = again->key;
		prepare_end_row(page, &gone, again->attempts, OUTCOME_GONE, NULL, NULL);
		return true;
	}
	if (!page->task->job->overwrite && !row->target_null)
	{
		prepare_end_row(page, row, again->attempts, OUTCOME_STALE, NULL,
						"the target got a value in the meantime");
		return true;
	}
	return prepare_row(page, row, again->attempts + 1);
}

/* A row that sample or only names: taken like one from the table. */
static bool
prepare_named_row(PreparePage *page, const RetryRow *again, const SourceRow *row)
{
	const Job  *job = page->task->job;
	bool		settled = false;

	if (row == NULL || !row->wanted || in_flight_have(row->key))
		return true;
	/* the table will be gone through for these */
	if (row->target_null && job_takes_new(job))
		return true;
	if (job->max_rows > 0 && job->taken + page->taken >= job->max_rows)
		return true;
	if (again->has_hash && memcmp(&again->unless_hash, &row->hash, sizeof(Digest)) == 0)
		return true;
	if (!job->overwrite && job->outcomes == NIL)
	{
		ledger_find_settled(job, (char **) &row->key, &row->hash, 1, &settled);
		if (settled)
			return true;
	}
	if (!prepare_row(page, row, 1))
		return false;
	page->taken++;
	return true;
}

static void
prepare_from_retry_queue(PreparePage *page, List *waiting)
{
	int			nwaiting = list_length(waiting);
	char	  **keys = palloc_array(char *, nwaiting);
	SourceRow  *rows;
	int			nrows;
	bool		more;
	int			i = 0;
	ListCell   *lc;

	foreach(lc, waiting)
		keys[i++] = ((RetryRow *) lfirst(lc))->key;
	nrows = source_read_some_keys(page->table, keys, nwaiting, &rows, &more);
	usercxt_leave(&page->user);

	qsort(rows, nrows, sizeof(SourceRow), compare_rows_by_key);
	prepare_allocate(page, nwaiting);
	page->leftover = palloc_array(RetryRow *, nwaiting);

	foreach(lc, waiting)
	{
		RetryRow   *again = lfirst(lc);
		bool		taken;
		SourceRow  *row = prepare_find_row(rows, nrows, again->key);

		if (page->full || (row == NULL && more))
			taken = false;
		else if (again->counts)
			taken = prepare_retry_row(page, again, row);
		else
			taken = prepare_named_row(page, again, row);
		if (!taken)
			page->leftover[page->nleftover++] = again;
		else if (again->counts)
			page->requeued++;
	}
}

/* ---- the batch ---- */

/* The requests that the batch being filled already has. */
static void
prepare_load_requests(PreparePage *page)
{
	JobTask    *task = page->task;
	JobItem	   *items;
	bool	   *finished;
	int			nitems;

	if (task->requests != NULL)
		return;
	task->requests = requests_create(task->cxt, 1024, NULL);
	if (page->new_batch)
		return;
	nitems = ledger_load_items(task->job->id, page->batch->no, &items, &finished);
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

/* Saves what the transaction made: lines, items, rows that ended, the job's place. */
static void
prepare_save(PreparePage *page)
{
	JobTask    *task = page->task;
	Job		   *job = task->job;
	Batch	   *batch = page->batch;

	if (page->nitems > 0)
	{
		int			first_no = batch->items + 1;

		spool_write(spool_path(job->id, batch->no, SPOOL_REQUESTS, 0), batch->bytes,
					page->lines.data, page->lines.len);
		/* a crash of the machine must not leave zeros before the committed length */
		spool_sync(spool_path(job->id, batch->no, SPOOL_REQUESTS, 0));
		if (page->new_batch)
			ledger_insert_batch(batch);
		ledger_insert_items(job->id, batch->no, first_no, page->items, page->nitems);
		ledger_grow_batch(job->id, batch->no, page->nitems, page->nrequests, page->lines.len);
	}
	if (page->nunsent > 0)
	{
		int			first_no = ledger_insert_items(job->id, 0, 0, page->unsent, page->nunsent);
		char	  **keys = palloc_array(char *, page->nunsent);
		Digest	   *hashes = palloc_array(Digest, page->nunsent);
		Outcome    *outcomes = palloc_array(Outcome, page->nunsent);
		int			n = 0;

		for (int i = 0; i < page->nunsent; i++)
		{
			page->unsent_results[i].no = first_no + i;
			if (!outcome_settles(page->unsent_results[i].outcome))
				continue;
			keys[n] = page->unsent[i].key;
			hashes[n] = page->unsent[i].hash;
			outcomes[n++] = page->unsent_results[i].outcome;
		}
		ledger_add_results(job, 0, page->unsent_results, page->nunsent, 0);
		ledger_settle(job, keys, hashes, outcomes, n);
	}
	for (int i = 0; i < page->nleftover; i++)
		ledger_retry_queue_return(job->id, page->leftover[i]);
	if (page->end_of_table || page->last_key != NULL || page->taken > 0)
	{
		if (!ledger_advance(job->id, page->last_key, page->taken, page->end_of_table,
							  page->nitems > 0 && page->new_batch ? batch->no : 0))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("job " INT64_FORMAT " was changed meanwhile", job->id)));
	}
}

static void
prepare_txn(void *arg)
{
	PreparePage *page = (PreparePage *) arg;
	JobTask    *task = page->task;
	Job		   *job = task->job;
	List	   *waiting = NIL;

	page->options = jobtask_options(task);
	prepare_set_limits(page);
	if (job->state == JOB_QUEUED)
	{
		/* two transactions may have submitted at once without seeing each other */
		ledger_check_key(job, job->id);
		ledger_job_started(job->id);
	}
	if (job->requeued > 0 || (job->listed && !job->all_prepared))
	{
		waiting = ledger_retry_queue_take(job->id, Max(task->reading.rows / 2, 1));
		page->none_waits = waiting == NIL;
	}
	in_flight_load(task);
	initStringInfo(&page->lines);
	prepare_load_requests(page);

	usercxt_enter(&page->user, usercxt_effective_role(job->owner, job->source));
	page->table = jobtask_table(task);
	if (waiting != NIL)
		prepare_from_retry_queue(page, waiting);
	else if (!job->all_prepared && (!job->listed || job_takes_new(job)))
		prepare_from_table(page);
	else
	{
		usercxt_leave(&page->user);
		page->end_of_table = true;
	}
	prepare_save(page);
}

/* The batch is complete: its file goes to disk and its state changes. */
static void
complete_txn(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	BatchTask  *filling = task->filling;

	spool_sync(spool_path(task->job->id, filling->batch.no, SPOOL_REQUESTS, 0));
	if (!ledger_move_batch(&filling->batch, BATCH_PREPARING, BATCH_PREPARED))
		elog(ERROR, "batch %d of job " INT64_FORMAT " is not in preparation",
			 filling->batch.no, task->job->id);
}

static void
prepare_complete(JobTask *task)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	verdict = worker_txn_run("completing a request file", complete_txn, task, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(task, verdict, &error);
		return;
	}
	task->filling->batch.state = BATCH_PREPARED;
	task->filling->due = 0;
	task->filling = NULL;
	prepare_forget_requests(task);
}

/* Memory follows the ledger after a worker transaction has been committed. */
static void
prepare_remember(PreparePage *page)
{
	JobTask    *task = page->task;
	Job		   *job = task->job;

	if (job->state == JOB_QUEUED)
		job->state = JOB_ACTIVE;
	job->taken += page->taken;
	job->requeued = page->none_waits ? 0 : job->requeued - page->requeued;
	if (page->end_of_table)
		job->all_prepared = true;
	if (page->last_key != NULL)
		job->last_key = MemoryContextStrdup(task->job_cxt, page->last_key);
	if (page->nitems > 0)
	{
		if (page->new_batch)
		{
			task->filling = jobtask_add_batch(task, page->batch);
			task->filling_checked = true;
			job->last_batch = page->batch->no;
		}
		task->filling->batch.items += page->nitems;
		task->filling->batch.requests += page->nrequests;
		task->filling->batch.bytes += page->lines.len;
	}
}

/* ---- entry points ---- */

static bool
prepare_has_rows(const JobTask *task)
{
	dlist_iter	iter;

	if (!task->job->all_prepared)
		return true;
	if (task->job->requeued == 0 || task->retry_due > GetCurrentTimestamp())
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
	PreparePage page;
	Batch		fresh;
	char		token[BATCH_TOKEN_SIZE];
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (task->filling != NULL && !task->filling_checked)
		return prepare_check_filling(task);
	if (!budget_may_prepare(task))
		return false;
	if (!task->job->listed && (task->job->sample || task->job->outcomes != NIL))
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

	memset(&page, 0, sizeof(page));
	page.task = task;
	if (task->filling != NULL)
		page.batch = &task->filling->batch;
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
		page.batch = &fresh;
		page.new_batch = true;
	}

	verdict = jobtask_run(task, &task->reading, "preparing requests", prepare_txn, &page, &error);
	if (verdict == WORKER_TXN_DONE)
	{
		prepare_remember(&page);
		jobtask_recovered(task);
	}
	else
	{
		/* the digests may name rows that were rolled back */
		prepare_forget_requests(task);
		jobtask_trouble(task, verdict, &error);
		if (verdict == WORKER_TXN_SLOW && task->table != NULL)
			source_walk(task->table);
	}

	if (verdict == WORKER_TXN_DONE && page.full && task->filling != NULL)
		prepare_complete(task);
	else if (verdict == WORKER_TXN_DONE && page.unaffordable)
		budget_pause(task);
	return verdict == WORKER_TXN_DONE;
}
