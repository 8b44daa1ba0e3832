/*-------------------------------------------------------------------------
 *
 * batch.c
 *		Batches in the worker's memory: what the stages of the pipeline need.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/internal.h"
#include "runtime/batch_token.h"
#include "text/encoding.h"

/* how an estimate of tokens is made from bytes */
#define BYTES_A_TOKEN		3.5
#define RETRY_FIRST_MS		1000
/* how often an account that was lost is looked for */
#define ACCOUNT_RETRY_MS	10000
/* of a file, in one turn */
#define CHECKSUM_BYTES		(32 * 1024 * 1024)

/* ---- small database work ---- */

typedef struct MoveArg
{
	BatchTask  *batch;
	BatchState	to;
	const StepError *error;
} MoveArg;

static void
move_txn(void *arg)
{
	MoveArg    *move = (MoveArg *) arg;

	if (!ledger_move_batch(&move->batch->batch, move->batch->batch.state, move->to))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("batch %d of job " INT64_FORMAT " was changed meanwhile",
						move->batch->batch.no, move->batch->job->job->id)));
}

/* Commits a new state of the batch, with what is known of it at the provider. */
bool
batch_move(BatchTask *batch, BatchState to, const char *activity)
{
	MoveArg		move;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	move.batch = batch;
	move.to = to;
	verdict = worker_txn_run(activity, move_txn, &move, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = batch->job->due;
		return false;
	}
	batch->batch.state = to;
	batch->due = 0;
	return true;
}

typedef struct PutBackArg
{
	const StepError *why;
	Batch		row;			/* what the batch becomes */
	char		token[BATCH_TOKEN_SIZE];
} PutBackArg;

static void
put_back_txn(void *arg)
{
	PutBackArg *back = (PutBackArg *) arg;
	Batch	   *row = &back->row;

	batch_renew_token(back->token);
	ledger_batch_error(row->job_id, row->no, encoding_to_server_lossy(back->why->code),
						 encoding_to_server_lossy(back->why->message));
	if (!ledger_move_batch(row, row->state, BATCH_UPLOADED))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("batch %d of job " INT64_FORMAT " was changed meanwhile", row->no, row->job_id)));
}

bool
batch_put_back(BatchTask *batch, const StepError *why, TimestampTz due)
{
	PutBackArg	back;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	back.why = why;
	back.row = batch->batch;
	strlcpy(back.token, batch->batch.token, sizeof(back.token));
	back.row.token = back.token;
	back.row.remote.remote_id = NULL;
	back.row.remote.status = REMOTE_UNKNOWN;
	back.row.remote_created_at = 0;
	back.row.remote_cancelled_at = 0;
	back.row.next_poll_at = due;
	verdict = worker_txn_run("putting a batch back", put_back_txn, &back, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = batch->job->due;
		return false;
	}
	strlcpy(batch->batch.token, back.token, BATCH_TOKEN_SIZE);
	batch->batch.remote.remote_id = NULL;
	batch->batch.remote.status = REMOTE_UNKNOWN;
	batch->batch.remote_created_at = 0;
	batch->batch.remote_cancelled_at = 0;
	batch->looks.cancel_sent = false;
	batch->looks.watch = WATCH_WAIT;
	batch->batch.state = BATCH_UPLOADED;
	batch->batch.next_poll_at = due;
	batch->due = due;
	return true;
}

static void
save_txn(void *arg)
{
	MoveArg    *move = (MoveArg *) arg;

	ledger_save_batch(&move->batch->batch);
	if (move->error == NULL && move->batch->failures > 0)
		ledger_batch_error(move->batch->job->job->id, move->batch->batch.no, NULL, NULL);
	if (move->error != NULL)
		ledger_batch_error(move->batch->job->job->id, move->batch->batch.no,
							 encoding_to_server_lossy(move->error->code),
							 encoding_to_server_lossy(move->error->message));
}

void
batch_save(BatchTask *batch, const StepError *why)
{
	MoveArg		move;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	move.batch = batch;
	move.error = why;
	verdict = worker_txn_run("saving a batch", save_txn, &move, &error);
	if (verdict != WORKER_TXN_DONE)
		jobtask_trouble(batch->job, verdict, &error);
}

/*
 * Sees to the session's access token.  A refused secret fails a job that has
 * nothing at the provider; one that has waits for a better one.
 */
static bool
batch_authorize(BatchTask *batch)
{
	AccountSession    *session = batch->job->session;
	const StepError *error = &session->authorize_error;

	session_authorize(session);
	if (session_is_authorized(session))
		return true;
	if (error->code != NULL && (error->class == ERROR_AUTH || error->class == ERROR_PERMANENT) &&
		batch->batch.state < BATCH_CREATING && jobtask_may_send(batch->job))
		jobtask_fail(batch->job, encoding_to_server_lossy(error->code),
					 encoding_to_server_lossy(error->message));
	else if (error->code != NULL && batch->job->note == NOTE_NONE)
		jobtask_note(batch->job, encoding_to_server_lossy(error->code),
					 encoding_to_server_lossy(error->message));
	batch->due = Max(session->authorize_due, batch->due);
	return false;
}

static void
abandon_txn(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;

	ledger_batch_cleaned(batch->job->job->id, batch->batch.no, false);
}

/*
 * The account of a batch that is at the provider cannot be used.  A right may
 * be granted again; a server or a role that is gone stays gone.
 */
static void
batch_account_lost(BatchTask *batch, const WorkerTxnError *error)
{
	JobTask    *task = batch->job;
	bool		gone = strcmp(error->sqlstate, unpack_sql_state(ERRCODE_UNDEFINED_OBJECT)) == 0;
	WorkerTxnError	ignored;

	batch->due = ms_from_now(ACCOUNT_RETRY_MS);
	if (batch->batch.state >= BATCH_DONE)
	{
		/* nobody is left who could remove what is at the provider */
		if (gone && worker_txn_run("giving up remote files", abandon_txn, batch, &ignored) == WORKER_TXN_DONE)
			batch->batch.remote_deleted = true;
	}
	else if (task->job->control == CONTROL_CANCEL)
		batch_release(batch);
	else if (gone)
	{
		jobtask_fail(task, error->sqlstate, error->message);
		jobtask_end_failed(task);
	}
	else if (task->note == NOTE_NONE)
		jobtask_note(task, error->sqlstate, error->message);
}

/* The account as it is now, with a secret; otherwise the job waits or has failed. */
bool
batch_account_ready(BatchTask *batch)
{
	AccountSession    *session = batch->job->session;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	verdict = session_refresh(session, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		if (verdict == WORKER_TXN_HOPELESS && batch->batch.state >= BATCH_CREATING)
			batch_account_lost(batch, &error);
		else
		{
			jobtask_trouble(batch->job, verdict, &error);
			batch->due = Max(batch->due, batch->job->due);
		}
		return false;
	}
	if (session->account->secret == NULL)
	{
		jobtask_wait_for_secret(batch->job);
		batch->due = batch->job->due;
		return false;
	}
	if (!session_is_authorized(session) && !batch_authorize(batch))
		return false;
	jobtask_note_gone(batch->job);
	return true;
}

/* ---- the provider's side ---- */

char *
batch_copy_text(BatchTask *batch, const char *text)
{
	return text != NULL ? MemoryContextStrdup(batch->cxt, text) : NULL;
}

/* What a step has learnt becomes the batch's own. */
void
batch_adopt_remote(BatchTask *batch, const BatchRemote *learnt)
{
	BatchRemote *remote = &batch->batch.remote;
	MemoryContext caller;
	ListCell   *lc;
	List	   *uris = NIL;

	remote->input_uri = batch_copy_text(batch, learnt->input_uri);
	remote->remote_id = batch_copy_text(batch, learnt->remote_id);
	remote->remote_state = batch_copy_text(batch, learnt->remote_state);
	remote->status = learnt->status;
	remote->error = learnt->error;
	remote->error.code = batch_copy_text(batch, learnt->error.code);
	remote->error.message = batch_copy_text(batch, learnt->error.message);
	remote->total = learnt->total;
	remote->finished = learnt->finished;
	caller = MemoryContextSwitchTo(batch->cxt);
	foreach(lc, learnt->output_uris)
		uris = lappend(uris, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(caller);
	remote->output_uris = uris;
}

/* ---- room at the provider ---- */

/* How much of this session's server is at the provider, or on its way. */
static void
session_load(const AccountSession *session, int *batches, double *tokens)
{
	dlist_iter	jobs;
	dlist_iter	iter;

	*batches = 0;
	*tokens = 0;
	dlist_foreach(jobs, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, jobs.cur);

		if (task->session->limits != session->limits || task->job->online)
			continue;
		dlist_foreach(iter, &task->batches)
		{
			const BatchTask *batch = dlist_container(BatchTask, node, iter.cur);

			if (batch->batch.state < BATCH_UPLOADING || batch->batch.state > BATCH_RUNNING)
				continue;
			(*batches)++;
			*tokens += batch->batch.bytes / BYTES_A_TOKEN;
		}
	}
}

/* May another batch go to the provider? */
bool
batch_has_room(const BatchTask *batch)
{
	const AccountSession *session = batch->job->session;
	int			batches;
	double		tokens;

	session_load(session, &batches, &tokens);
	if (batches >= session->account->max_active_batches)
		return false;
	return session->account->max_enqueued_tokens == 0 || batches == 0 ||
		tokens + batch->batch.bytes / BYTES_A_TOKEN <= session->account->max_enqueued_tokens;
}

/*
 * Room that another batch has made since this one asked was not seen by the
 * provider then: it is tried without delay.
 */
TimestampTz
batch_queue_full(BatchTask *batch)
{
	batch->queue.refusals++;
	if (batch->job->session->limits->left_queue_at > batch->queue.entered_at)
		return ms_from_now(RETRY_FIRST_MS);
	return ms_from_now(sched_backoff_ms(batch->queue.refusals, QUEUE_RETRY_MS, QUEUE_RETRY_CAP_MS, random_fraction()));
}

/* Does this batch wait for room in the queue that the other one has left? */
static bool
waits_for_room(const BatchTask *batch, const BatchTask *left)
{
	return batch->queue.refusals > 0 && batch != left && batch->run.transfer == NULL && batch->run.step == NULL &&
		(batch->batch.state == BATCH_UPLOADED || batch->batch.state == BATCH_CREATING) &&
		batch->job->session->limits == left->job->session->limits &&
		strcmp(batch->job->job->model, left->job->job->model) == 0;
}

void
batch_left_queue(const BatchTask *left)
{
	BatchTask  *first = NULL;
	dlist_iter	jobs;
	dlist_iter	iter;

	left->job->session->limits->left_queue_at = GetCurrentTimestamp();
	dlist_foreach(jobs, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, jobs.cur);

		dlist_foreach(iter, &task->batches)
		{
			BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

			if (waits_for_room(batch, left) && (first == NULL || batch->due < first->due))
				first = batch;
		}
	}
	if (first != NULL)
		first->due = 0;
}

/* ---- the request file ---- */

typedef struct FileCheck
{
	const Batch *row;
	bool		intact;
} FileCheck;

/* Is the request file as long as the ledger says? */
static void
check_file_txn(void *arg)
{
	FileCheck  *check = (FileCheck *) arg;
	const Batch *row = check->row;
	int64		length = spool_length(spool_path(row->job_id, row->no, SPOOL_REQUESTS, 0));

	/* while it is being filled, what a crash left behind the committed length is no damage */
	check->intact = length == row->bytes || (row->state == BATCH_PREPARING && length > row->bytes);
}

/* A request file that is not what the ledger says is thrown away and prepared anew. */
bool
batch_file_intact(BatchTask *batch)
{
	FileCheck	check = {.row = &batch->batch};
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (batch->release_from > 0)
		return false;
	verdict = worker_txn_run("checking a request file", check_file_txn, &check, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = Max(batch->due, batch->job->due);
		return false;
	}
	if (check.intact)
		return true;
	ereport(LOG,
			(errmsg("request file of batch %d of dess_batch job " INT64_FORMAT " is missing or damaged, preparing its rows again",
					batch->batch.no, batch->job->job->id)));
	batch_release(batch);
	return false;
}

static void
checksum_txn(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;
	int64		length = Min(batch->checksum.length - batch->checksum.at, CHECKSUM_BYTES);

	batch->checksum.value = spool_crc32c(batch->checksum.file, batch->checksum.at, length, batch->checksum.value);
	batch->checksum.at += length;
}

bool
batch_checksum(BatchTask *batch)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict = worker_txn_run("computing a checksum", checksum_txn, batch, &error);

	if (verdict != WORKER_TXN_DONE)
	{
		/* the step begins anew */
		batch->run.step = NULL;
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = batch->job->due;
		return false;
	}
	if (batch->checksum.at < batch->checksum.length)
		return false;
	batch->run.stage.checksum = batch->checksum.value;
	batch->checksum.at = -1;
	return true;
}

/* ---- batches that will not run ---- */

typedef struct ReleaseArg
{
	BatchTask  *batch;
	bool		cancelled;
	int			from;
	int			rows;
} ReleaseArg;

/* A crash must not let a job that goes on send this batch, part of whose rows wait already. */
static void
release_for_good(BatchTask *batch)
{
	const Batch *row = &batch->batch;

	if (row->state > BATCH_UPLOADING && !ledger_move_batch(row, row->state, BATCH_PREPARED))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("batch %d of job " INT64_FORMAT " was changed meanwhile", row->no, row->job_id)));
	spool_truncate(spool_path(row->job_id, row->no, SPOOL_REQUESTS, 0), 0);
}

static void
release_txn(void *arg)
{
	ReleaseArg *release = (ReleaseArg *) arg;
	BatchTask  *batch = release->batch;
	JobControl	control = batch->job->job->control;

	release->rows = ledger_give_up_batch(batch->job->job, batch->batch.no, &release->from,
										   release->cancelled ? BATCH_CANCELLED : BATCH_FAILED,
										   release->cancelled ? OUTCOME_CANCELLED : OUTCOME_SUPERSEDED, NULL, NULL);
	/* what may have arrived there is looked for by whoever removes what is left, be it after a restart */
	if (batch->batch.maybe_uploaded)
		ledger_save_batch(&batch->batch);
	if (release->from > 0 && control != CONTROL_CANCEL && control != CONTROL_FAIL)
		release_for_good(batch);
}

bool
batch_release(BatchTask *batch)
{
	ReleaseArg	release;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	memset(&release, 0, sizeof(release));
	release.batch = batch;
	release.cancelled = batch->job->job->control == CONTROL_CANCEL;
	release.from = Max(batch->release_from, 1);
	if (batch->batch.state == BATCH_UPLOADING)
		batch->upload_in_doubt = true;	/* a file may have arrived */
	batch->batch.maybe_uploaded = batch->upload_in_doubt && batch->batch.remote.input_uri == NULL;
	verdict = jobtask_run(batch->job, NULL, "releasing a batch", release_txn, &release, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = batch->job->due;
		return false;
	}
	if (!release.cancelled)
		batch->job->job->requeued += release.rows;
	batch->release_from = release.from;
	batch->due = 0;
	http_free(batch->run.transfer);
	batch->run.transfer = NULL;
	batch->run.step = NULL;
	if (release.from > 0)
	{
		if (batch->batch.state > BATCH_UPLOADING && batch->job->job->control != CONTROL_CANCEL &&
			batch->job->job->control != CONTROL_FAIL)
			batch->batch.state = BATCH_PREPARED;
		return true;
	}
	batch->batch.state = release.cancelled ? BATCH_CANCELLED : BATCH_FAILED;
	if (batch->job->filling == batch)
		batch->job->filling = NULL;
	spool_remove_batch(batch->job->job->id, batch->batch.no);
	return true;
}

/* ---- after a failure ---- */

void
batch_retry_step(BatchTask *batch, const StepError *error)
{
	TimestampTz due = ms_from_now(sched_backoff_ms(++batch->failures, RETRY_FIRST_MS, RETRY_CAP_MS, random_fraction()));

	/* a pause of nothing is no pause */
	if (error->retry_after_ms > 0)
		due = ms_from_now(error->retry_after_ms);
	else if (error->class == ERROR_RATE && batch->batch.state == BATCH_CREATING)
		due = batch_queue_full(batch);
	batch->due = due;
	batch->batch.next_poll_at = due;
	batch_save(batch, error);
	/* saving may have been postponed by trouble, but the delay stands */
	batch->due = Max(batch->due, due);
}

typedef struct SplitArg
{
	BatchTask  *batch;
	int64		bytes;
} SplitArg;

static void
split_txn(void *arg)
{
	SplitArg   *split = (SplitArg *) arg;

	ledger_set_batch_bytes(split->batch->job->job->id, split->bytes);
}

/* The provider takes smaller files than we thought: the rows are prepared again in smaller batches. */
void
batch_too_large(BatchTask *batch, const StepError *why)
{
	SplitArg	split;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	split.batch = batch;
	split.bytes = batch->batch.bytes / 2;
	if (batch->batch.requests <= 1)
	{
		jobtask_fail(batch->job, encoding_to_server_lossy(why->code), encoding_to_server_lossy(why->message));
		return;
	}
	verdict = worker_txn_run("cutting batches smaller", split_txn, &split, &error);
	if (verdict != WORKER_TXN_DONE)
		jobtask_trouble(batch->job, verdict, &error);
	else
	{
		batch->job->job->batch_bytes = split.bytes;
		batch_release(batch);
	}
}
