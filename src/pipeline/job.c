/*-------------------------------------------------------------------------
 *
 * job.c
 *		Jobs in the worker's memory: loading, failing, pausing, ending.
 *
 * A job that cannot go on stops sending at once, but what is already at the
 * provider is paid for: its batches are polled and merged before the job ends
 * as failed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/internal.h"
#include "provider/parameters.h"
#include "runtime/usercxt.h"

/* repetitions of database work without a word; then it is told */
#define MAX_REPEATS			10
#define ROW_RETRY_FIRST_MS		100
#define ROW_RETRY_CAP_MS		2000

/* waiting rows that are closed in one transaction */
#define CLOSE_ROWS			5000

/* how often a missing secret is looked for */
#define SECRET_RETRY_MS		2000

/* single rows that are too slow, in a row, after which the reason is noted */
#define NOTE_SLOW_ROWS		3

BatchTask *
jobtask_add_batch(JobTask *task, const Batch *batch)
{
	MemoryContext cxt = AllocSetContextCreate(task->cxt, "dess_batch batch", ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(cxt);
	BatchTask  *result = palloc0(sizeof(BatchTask));
	const BatchRemote *remote = &batch->remote;
	ListCell   *lc;

	result->job = task;
	result->cxt = cxt;
	result->owner.batch = result;
	result->checksum.at = -1;
	result->batch = *batch;
	result->batch.token = pstrdup(batch->token);
	result->batch.remote.input_uri = remote->input_uri ? pstrdup(remote->input_uri) : NULL;
	result->batch.remote.remote_id = remote->remote_id ? pstrdup(remote->remote_id) : NULL;
	result->batch.remote.remote_state = remote->remote_state ? pstrdup(remote->remote_state) : NULL;
	result->batch.remote.error.code = remote->error.code ? pstrdup(remote->error.code) : NULL;
	result->batch.remote.error.message = remote->error.message ? pstrdup(remote->error.message) : NULL;
	result->batch.remote.output_uris = NIL;
	foreach(lc, remote->output_uris)
		result->batch.remote.output_uris = lappend(result->batch.remote.output_uris,
												   pstrdup(lfirst(lc)));
	step_run_init(&result->run, cxt);
	result->due = batch->next_poll_at;
	result->upload_in_doubt = batch->state == BATCH_UPLOADING || batch->maybe_uploaded;
	/* an upload waits for nothing but room */
	result->queue.refusals = batch->state == BATCH_UPLOADED && batch->next_poll_at > GetCurrentTimestamp();
	MemoryContextSwitchTo(caller);

	dlist_push_tail(&task->batches, &result->node);
	return result;
}

void
jobtask_drop_batch(BatchTask *batch)
{
	if (batch->job->filling == batch)
		batch->job->filling = NULL;
	dlist_delete(&batch->node);
	MemoryContextDelete(batch->cxt);
}

void
jobtask_drop(JobTask *task)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &task->batches)
		jobtask_drop_batch(dlist_container(BatchTask, node, iter.cur));
	fair_share_leave(&task->share);
	MemoryContextDelete(task->cxt);
}

/* An empty task, in a context of its own below the current one. */
static JobTask *
jobtask_new(void)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "dess_batch job",
											  ALLOCSET_SMALL_SIZES);
	JobTask    *task = MemoryContextAllocZero(cxt, sizeof(JobTask));

	task->cxt = cxt;
	dlist_init(&task->batches);
	group_size_init(&task->reading, PREPARE_PAGE_ROWS, PREPARE_PAGE_ROWS);
	group_size_init(&task->scanning, COUNT_PAGE_ROWS, COUNT_PAGE_ROWS);
	group_size_init(&task->writing, MERGE_FIRST_LINES, MERGE_MOST_LINES);
	return task;
}

static void
jobtask_load_batches(JobTask *task)
{
	ListCell   *lc;

	foreach(lc, ledger_load_batches(task->job->id))
	{
		BatchTask  *batch = jobtask_add_batch(task, lfirst(lc));

		if (batch->batch.state == BATCH_PREPARING)
			task->filling = batch;
	}
}

/*
 * What the user asks for does not wait for a time that was set before; but a
 * step that waits before it asks again has its reason.
 */
static void
batch_hurry(BatchTask *batch)
{
	if (batch->run.step == NULL || batch->batch.state <= BATCH_UPLOADED)
		batch->due = 0;
}

static void
jobtask_hurry(JobTask *task)
{
	dlist_iter	iter;

	task->due = 0;
	dlist_foreach(iter, &task->batches)
		batch_hurry(dlist_container(BatchTask, node, iter.cur));
}

void
jobtask_ask_poll(JobTask *task, int batch_no)
{
	dlist_iter	iter;

	if (task->job->online)
		return;
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->batch.no == batch_no)
			batch_hurry(batch);
	}
}

/* Are the values that we have those of this version? */
static bool
jobtask_is_current(const JobTask *task, const JobVersion *version)
{
	return !task->stale && TransactionIdIsValid(task->version.xmin) &&
		task->version.xmin == version->xmin &&
		ItemPointerEquals(unconstify(ItemPointerData *, &task->version.place),
						  unconstify(ItemPointerData *, &version->place));
}

/*
 * Takes over the ledger's values of a job, making the task if it is new (NULL).
 * A job that had ended here and goes on has batches that were let go, so it is
 * loaded anew.  What an error leaves half done goes with the transaction's memory.
 */
void
jobtask_refresh(JobTask *task, const JobVersion *version)
{
	MemoryContext job_cxt;
	MemoryContext caller;
	Job		   *loaded;
	bool		fresh;
	bool		running;

	if (task != NULL && jobtask_is_current(task, version))
	{
		task->seen = true;
		return;
	}
	job_cxt = AllocSetContextCreate(CurrentMemoryContext, "dess_batch job values", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(job_cxt);
	loaded = ledger_load_job(version->id);
	MemoryContextSwitchTo(caller);
	if (loaded == NULL)
		elog(ERROR, "job " INT64_FORMAT " vanished", version->id);
	if (task != NULL && (task->stale || (task->job->state > JOB_ACTIVE && loaded->state <= JOB_ACTIVE)))
	{
		jobtask_drop(task);
		task = NULL;
	}
	fresh = task == NULL;
	running = !fresh && task->job->control != CONTROL_CANCEL;

	if (fresh)
		task = jobtask_new();
	MemoryContextSetParent(job_cxt, task->cxt);
	if (task->job_cxt != NULL)
		MemoryContextDelete(task->job_cxt);
	task->job_cxt = job_cxt;
	task->job = loaded;
	task->version = *version;
	task->seen = true;
	task->session = session_get(loaded->server, loaded->server_name, loaded->provider, loaded->owner);

	if (fresh)
	{
		session_forget_refusal(task->session);
		/* what an earlier worker noted goes when it is over */
		task->note = loaded->noted && loaded->control == CONTROL_RUN ? NOTE_FAILING : NOTE_NONE;
		jobtask_load_batches(task);
		MemoryContextSetParent(task->cxt, TopMemoryContext);
		/* who comes new is served at once */
		fair_share_join(&task->share);
	}
	else if (running && loaded->control == CONTROL_CANCEL)
		jobtask_hurry(task);
}

/* What the job's requests have in common; the account in it is the session's current one. */
BatchOptions *
jobtask_options(JobTask *task)
{
	Account    *account = session_account(task->session);

	if (task->options == NULL)
	{
		MemoryContext caller;

		task->options_cxt = AllocSetContextCreate(task->cxt, "dess_batch options",
												  ALLOCSET_SMALL_SIZES);
		caller = MemoryContextSwitchTo(task->options_cxt);
		task->options = parameters_to_options(account, task->job->model, task->job->system_prompt, task->job->response_schema,
													task->job->department, task->job->parameters);
		if (account->provider->prepare_options != NULL)
			account->provider->prepare_options(task->options);
		MemoryContextSwitchTo(caller);
	}
	task->options->account = account;
	return task->options;
}

/* The user's table as its definition is now.  The caller has entered the owner's context. */
SourceTable *
jobtask_table(JobTask *task)
{
	MemoryContext caller;

	if (task->table != NULL && source_is_current(task->table))
		return task->table;

	task->table = NULL;
	if (task->table_cxt != NULL)
		MemoryContextReset(task->table_cxt);
	else
		task->table_cxt = AllocSetContextCreate(task->cxt, "dess_batch table", ALLOCSET_SMALL_SIZES);
	caller = MemoryContextSwitchTo(task->table_cxt);
	task->table = source_open(task->job);
	MemoryContextSwitchTo(caller);
	/* a right that was lost since submit shows before anything is bought */
	source_check_rights(task->table);
	return task->table;
}

/* ---- ending ---- */

typedef struct EndArg
{
	JobTask    *task;
	const char *code;
	const char *message;
	JobState	state;
	bool		ended;
	bool		more;			/* rows are left to be closed first */
	bool		silent;			/* nobody is notified */
} EndArg;

static bool
batch_is_final(const BatchTask *batch)
{
	return batch->batch.state >= BATCH_DONE;
}

/* At the provider, or answered there already: paid for. */
static bool
batch_is_paid(const BatchTask *batch)
{
	return batch->batch.state == BATCH_CREATING || batch->batch.state == BATCH_RUNNING ||
		batch->batch.state == BATCH_RETRIEVING;
}

static void
fail_txn(void *arg)
{
	EndArg	   *end = (EndArg *) arg;
	JobTask    *task = end->task;
	dlist_iter	iter;

	end->ended = true;
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch_is_final(batch))
			continue;
		end->ended = false;
		if (!batch_is_paid(batch))
			ledger_batch_error(task->job->id, batch->batch.no, end->code, end->message);
	}
	if (!end->ended)
		ledger_set_failing(task->job->id, end->code, end->message);
	else if (ledger_finish(task->job->id, JOB_FAILED, end->code, end->message) && !end->silent)
		ledger_notify(task->job->id, JOB_FAILED);
}

/*
 * Nothing more of this job is sent.  It ends as failed now, or when what was
 * not sent has been released, batch by batch, and the batches that are at the
 * provider have been merged.
 */
void
jobtask_fail(JobTask *task, const char *code, const char *message)
{
	EndArg		end = {.task = task, .code = code, .message = message};
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;
	dlist_iter	iter;

	verdict = worker_txn_run("failing a job", fail_txn, &end, &error);
	if (verdict != WORKER_TXN_DONE && strcmp(error.sqlstate, unpack_sql_state(ERRCODE_PROGRAM_LIMIT_EXCEEDED)) == 0)
	{
		/* as in jobtask_finish() */
		end.silent = true;
		verdict = worker_txn_run("failing a job", fail_txn, &end, &error);
	}
	/* until it can be said that nothing more is sent, nothing is */
	if (verdict != WORKER_TXN_DONE)
		task->due = ms_from_now(5000);
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (verdict != WORKER_TXN_DONE)
			batch->due = Max(batch->due, task->due);
		else if (!batch_is_final(batch) && !batch_is_paid(batch))
			batch->due = 0;
	}
	if (verdict != WORKER_TXN_DONE)
		return;
	task->note = NOTE_NONE;
	task->job->control = CONTROL_FAIL;
	if (end.ended)
		task->job->state = JOB_FAILED;
}

static void
pause_txn(void *arg)
{
	EndArg	   *end = (EndArg *) arg;

	ledger_pause(end->task->job->id, 0, end->code, end->message);
}

void
jobtask_pause(JobTask *task, const char *code, const char *message)
{
	EndArg		end;
	WorkerTxnError	error;

	end.task = task;
	end.code = code;
	end.message = message;
	if (worker_txn_run("pausing a job", pause_txn, &end, &error) == WORKER_TXN_DONE)
	{
		task->note = NOTE_NONE;
		task->job->control = CONTROL_PAUSE;
	}
	else
		task->due = ms_from_now(1000);
}

static void
note_txn(void *arg)
{
	EndArg	   *end = (EndArg *) arg;

	ledger_note_error(end->task->job->id, end->code, end->message);
}

/* Writes the reason of a delay into the ledger, or takes it away (NULL); the job goes on. */
static void
note_reason(JobTask *task, JobNote note, const char *code, const char *message)
{
	EndArg		end = {.task = task, .code = code, .message = message};
	WorkerTxnError error;

	task->note = note;
	(void) worker_txn_run("noting an error", note_txn, &end, &error);
}

void
jobtask_note(JobTask *task, const char *code, const char *message)
{
	note_reason(task, task->note == NOTE_FAILING ? NOTE_FAILING : NOTE_WAITING, code, message);
}

void
jobtask_note_gone(JobTask *task)
{
	if (task->note != NOTE_NONE && task->note != NOTE_BUDGET)
		note_reason(task, NOTE_NONE, NULL, NULL);
}

void
jobtask_note_budget(JobTask *task, const char *words)
{
	if (words != NULL && task->note == NOTE_NONE)
		note_reason(task, NOTE_BUDGET, "budget", words);
	else if (words == NULL && task->note == NOTE_BUDGET)
		note_reason(task, NOTE_NONE, NULL, NULL);
}

/* Database work of the job fails. */
static void
jobtask_note_failing(JobTask *task, const char *code, const char *message)
{
	note_reason(task, NOTE_FAILING, code, message);
}

void
jobtask_recovered(JobTask *task)
{
	task->repeats = 0;
	if (task->note != NOTE_FAILING && task->failures == 0)
		return;
	task->failures = 0;
	task->due = 0;
	if (task->note == NOTE_FAILING)
		jobtask_note_gone(task);
}

/* Nothing can be sent until somebody provides a secret; it is looked for again soon. */
void
jobtask_wait_for_secret(JobTask *task)
{
	const Account *account = task->session->account;

	if (task->note == NOTE_NONE)
		jobtask_note(task, "no_secret",
					 psprintf("no secret for server \"%s\"; looked at: %s",
							  account->server, account->secret_searched));
	task->due = ms_from_now(SECRET_RETRY_MS);
}

/*
 * Others stand in the way.  That is nobody's fault, but each try may take a
 * while: the pauses grow, and in the end the reason is told.
 */
static void
jobtask_try_again(JobTask *task, const WorkerTxnError *error)
{
	task->repeats++;
	task->due = ms_from_now(50 + sched_backoff_ms(task->repeats, ROW_RETRY_FIRST_MS, ROW_RETRY_CAP_MS, random_fraction()));
	if (task->repeats == MAX_REPEATS)
		jobtask_note_failing(task, error->sqlstate, error->message);
}

/* What a failed piece of database work means for its job. */
void
jobtask_trouble(JobTask *task, WorkerTxnVerdict verdict, const WorkerTxnError *error)
{
	/* the memory may be ahead of the ledger: what it has is loaded again */
	task->version.xmin = InvalidTransactionId;

	switch (verdict)
	{
		case WORKER_TXN_DONE:
		case WORKER_TXN_SLOW:
			break;
		case WORKER_TXN_RETRY:
			jobtask_try_again(task, error);
			break;
		case WORKER_TXN_TROUBLE:
			task->failures++;
			task->due = ms_from_now(sched_backoff_ms(task->failures, 1000, 300000, random_fraction()));
			jobtask_note_failing(task, error->sqlstate, error->message);
			break;
		case WORKER_TXN_HOPELESS:
			jobtask_fail(task, error->sqlstate, error->message);
			break;
	}
}

/* One row took longer than the others can wait: after some times the user is told. */
static void
jobtask_refuse_row(JobTask *task)
{
	if (++task->slow_rows == NOTE_SLOW_ROWS)
		jobtask_note_failing(task, "57014",
							 psprintf("code of the table (trigger, function) needs more than %.1f s for a row, which waits until other jobs leave that time",
									  WORKER_TXN_PATIENCE_MS / 1000.0));
}

WorkerTxnVerdict
jobtask_run(JobTask *task, GroupSize *size, const char *activity,
			void (*fn) (void *arg), void *arg, WorkerTxnError *error)
{
	char		what[64];
	WorkerTxnVerdict verdict;

	snprintf(what, sizeof(what), "%s of job " INT64_FORMAT, activity, task->job->id);
	if (size == NULL)
		verdict = worker_txn_run(what, fn, arg, error);
	else
	{
		size->used = size->rows;
		verdict = worker_txn_run_limited(what, fn, arg, task->job->id,
										 group_size_limit(size, fair_share_row_limit(&task->share)), error);
	}
	fair_share_charge(&task->share, worker_txn_ms);
	if (size == NULL)
		return verdict;
	if (verdict == WORKER_TXN_DONE)
	{
		task->slow_rows = 0;
		group_size_went_well(size, worker_txn_ms);
	}
	else if (verdict == WORKER_TXN_SLOW && size->rows <= 1)
		jobtask_refuse_row(task);
	else if (verdict == WORKER_TXN_SLOW)
		group_size_took_long(size);
	return verdict;
}

static void
finish_txn(void *arg)
{
	EndArg	   *end = (EndArg *) arg;
	JobTask    *task = end->task;

	if (task->job->control == CONTROL_CANCEL)
	{
		if (!ledger_close_retry_queue(task->job, OUTCOME_CANCELLED, CLOSE_ROWS))
		{
			end->ended = false;
			end->more = true;
			return;
		}
	}
	else if (task->job->control != CONTROL_FAIL && ledger_retry_queue_count(task->job->id, NULL) > 0)
	{
		end->ended = false;
		return;
	}
	end->ended = ledger_finish(task->job->id, end->state, NULL, NULL);
	if (end->ended && !end->silent)
		ledger_notify(task->job->id, end->state);
}

/*
 * Ends the job.  Where nobody can be notified, because some session has not
 * listened for so long that the queue is full, it ends all the same.
 */
static WorkerTxnVerdict
jobtask_finish(EndArg *end, WorkerTxnError *error)
{
	const char *activity = "finishing a job";
	WorkerTxnVerdict verdict;

	end->silent = false;
	end->ended = true;
	end->more = false;
	verdict = jobtask_run(end->task, NULL, activity, finish_txn, end, error);
	if (verdict == WORKER_TXN_DONE || strcmp(error->sqlstate, unpack_sql_state(ERRCODE_PROGRAM_LIMIT_EXCEEDED)) != 0)
		return verdict;
	end->silent = true;
	end->ended = true;
	return jobtask_run(end->task, NULL, activity, finish_txn, end, error);
}

void
jobtask_end_failed(JobTask *task)
{
	EndArg		end;
	WorkerTxnError	error;
	dlist_iter	iter;

	if (task->job->control != CONTROL_FAIL && !task->blocked)
		return;
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		/* first its rows go back */
		if (!batch_is_final(batch) && (!batch_is_paid(batch) || batch->release_from > 0))
			return;
	}
	end.task = task;
	end.state = JOB_FAILED;
	if (jobtask_finish(&end, &error) == WORKER_TXN_DONE && end.ended)
		task->job->state = JOB_FAILED;
}

/*
 * What is at the provider stays as it is, as where the table is gone, so that
 * dess_batch_retry() can go on when the code is mended.
 */
void
jobtask_block(JobTask *task)
{
	const char *message = "code of the table (trigger, function) ended the worker: it may have caught its cancellation, or set exit_on_error";
	char		code[6];

	strlcpy(code, unpack_sql_state(ERRCODE_TRIGGERED_ACTION_EXCEPTION), sizeof(code));
	task->blocked = true;
	if (task->job->control == CONTROL_CANCEL)
		jobtask_note(task, code, message);
	else
		jobtask_fail(task, code, message);
}

/*
 * Ends the job if every row has its outcome.  Returns true if anything was
 * done about it.
 */
bool
jobtask_try_finish(JobTask *task)
{
	EndArg		end;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;
	dlist_iter	iter;

	if (task->job->state != JOB_QUEUED && task->job->state != JOB_ACTIVE)
		return false;
	if (task->blocked)
	{
		task->due = ms_from_now(1000);
		if (task->job->control != CONTROL_FAIL && task->job->control != CONTROL_CANCEL)
			jobtask_block(task);
		jobtask_end_failed(task);
		return task->job->state > JOB_ACTIVE;
	}
	if (task->job->control != CONTROL_CANCEL && task->job->control != CONTROL_FAIL &&
		(!task->job->all_prepared || task->job->requeued > 0))
		return false;
	dlist_foreach(iter, &task->batches)
	{
		if (!batch_is_final(dlist_container(BatchTask, node, iter.cur)))
			return false;
	}

	if (!fair_share_is_turn(&task->share))
		return false;

	end.task = task;
	end.state = task->job->control == CONTROL_CANCEL ? JOB_CANCELLED :
		task->job->control == CONTROL_FAIL ? JOB_FAILED : JOB_DONE;
	verdict = jobtask_finish(&end, &error);
	if (verdict != WORKER_TXN_DONE)
		jobtask_trouble(task, verdict, &error);
	else if (end.ended)
		task->job->state = end.state;
	else if (!end.more)
	{
		/* the ledger knows of something that is left to do */
		task->stale = true;
		task->due = ms_from_now(1000);
		pipeline_refresh_soon();
	}
	return true;
}
