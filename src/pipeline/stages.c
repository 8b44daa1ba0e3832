/*-------------------------------------------------------------------------
 *
 * stages.c
 *		The five stages of a batch, in the order in which they happen.
 *
 *		prepare -> upload -> create -> status -> retrieve and merge
 *
 * Every arrow is a committed state.  A state that begins with a request to the
 * provider is committed before the request leaves, its result afterwards; no
 * transaction is open in between.  A batch that is found in a state that was
 * under way when the worker died takes the step again; only "creating" first
 * asks the provider whether it has happened, because a second batch costs
 * money.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "account/account.h"
#include "pipeline/internal.h"
#include "pipeline/merge.h"
#include "text/encoding.h"

/* result files of a job that are fetched at once: of more, all would come late, and nothing could be merged meanwhile */
#define MAX_DOWNLOADS		4

/* for a job that has come to nothing */
#define REMOVE_TRIES		3

/* for an upload that is answered with something that is no file */
#define UPLOAD_TRIES		3

static void stage_done(BatchTask *batch);
static void stage_failed(BatchTask *batch, const StepError *error);

/* ---- steps ---- */

static StageStep
step_callback(const BatchProvider *provider, BatchStep step)
{
	switch (step)
	{
		case BATCH_STEP_UPLOAD:
			return provider->upload_batch_file;
		case BATCH_STEP_FIND:
			return provider->find_batch_job;
		case BATCH_STEP_CREATE:
			return provider->create_batch_job;
		case BATCH_STEP_STATUS:
			return provider->get_batch_status;
		case BATCH_STEP_CANCEL:
			return provider->cancel_batch_job;
		case BATCH_STEP_REMOVE_JOB:
			return provider->remove_batch_job;
		case BATCH_STEP_DOWNLOAD:
			return provider->retrieve_and_merge_results;
		case BATCH_STEP_CLEAN:
			return provider->remove_remote;
	}
	return NULL;
}

/* Begins a step of the provider.  The account is fresh. */
static void
step_begin(BatchTask *batch, BatchStep step)
{
	BatchStage *stage = step_run_begin(&batch->run, step_callback(batch->job->session->account->provider, step));
	Batch	   *row = &batch->batch;
	MemoryContext caller = MemoryContextSwitchTo(batch->run.context);

	/* the job's values are replaced while the step goes on */
	stage->model = pstrdup(batch->job->job->model);
	stage->token = row->token;
	stage->label = psprintf("dess_batch job " INT64_FORMAT " batch %d", row->job_id, row->no);
	stage->job_id = row->job_id;
	stage->batch_no = row->no;
	stage->created_at = row->created_at;
	stage->requests = row->requests;
	stage->spool_file = spool_path(row->job_id, row->no, SPOOL_REQUESTS, 0);
	stage->spool_length = row->bytes;
	stage->resumed = batch->upload_in_doubt;
	if (step == BATCH_STEP_DOWNLOAD)
	{
		stage->uri = list_nth(row->remote.output_uris, batch->download.files);
		stage->sink_file = spool_path(row->job_id, row->no, SPOOL_RESULTS, batch->download.files);
	}
	stage->remote = palloc_object(BatchRemote);
	*stage->remote = row->remote;
	MemoryContextSwitchTo(caller);

	batch->step = step;
	batch->checksum.at = -1;
	batch_take_reply(batch, NULL);
}

/* Lets the step look at a reply (NULL: none) and does what it says. */
void
batch_take_reply(BatchTask *batch, HttpReply *reply)
{
	StepResult	result;

	switch (step_run_advance(&batch->run, batch->job->session->account, reply, &batch->owner, &result))
	{
		case STEP_REQUEST:
			batch_asks(batch);
			break;
		case STEP_WAIT:
			batch->due = ms_from_now(result.wait_ms);
			break;
		case STEP_AUTHORIZE:
			session_drop_token(batch->job->session);
			break;
		case STEP_CHECKSUM:
			batch->checksum.file = result.checksum_file;
			batch->checksum.length = result.checksum_length;
			batch->checksum.at = 0;
			batch->checksum.value = 0;
			break;
		case STEP_DONE:
			batch_adopt_remote(batch, batch->run.stage.remote);
			stage_done(batch);
			break;
		case STEP_FAILED:
			batch_adopt_remote(batch, batch->run.stage.remote);
			stage_failed(batch, &result.error);
			break;
	}
}

/* ---- before money is spent ---- */

/* May the batch go to the provider?  One of which only a part fits into a budget is prepared again, smaller. */
static bool
batch_is_affordable(BatchTask *batch)
{
	switch (budget_takes_batch(batch))
	{
		case BUDGET_FITS:
			return true;
		case BUDGET_CUT:
			(void) batch_release(batch);
			return false;
		case BUDGET_WAIT:
			return false;
	}
	return false;
}

/* ---- stage 2: upload ---- */

static bool
upload_work(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (!jobtask_may_send(task) || task->job->stage < STAGE_UPLOAD || !batch_account_ready(batch))
		return false;
	if (batch->batch.state == BATCH_PREPARED)
	{
		if (!batch_has_room(batch) || !batch_file_intact(batch) || !batch_is_affordable(batch))
			return false;
		if (!batch_move(batch, BATCH_UPLOADING, "starting an upload"))
			return false;
	}
	else if (!batch_file_intact(batch))
		return false;
	step_begin(batch, BATCH_STEP_UPLOAD);
	return true;
}

/* ---- stage 3: create ---- */

/* Commits that the account as it is now is going to be asked for the batch. */
static bool
create_commit(BatchTask *batch)
{
	char		before[ACCOUNT_IDENTITY_SIZE];

	strlcpy(before, batch->batch.account, sizeof(before));
	account_identity(batch->job->session->account, batch->batch.account);
	if (batch_move(batch, BATCH_CREATING, "creating a batch"))
		return true;
	strlcpy(batch->batch.account, before, sizeof(before));
	return false;
}

/* The provider does not have this batch.  What another account has made is not to be seen. */
static void
create_absent(BatchTask *batch)
{
	JobTask    *task = batch->job;
	bool		strange = batch_is_of_another_account(batch);

	if (strange && task->job->control != CONTROL_CANCEL)
	{
		batch_wait_for_creator(batch);
		jobtask_end_failed(task);
	}
	else if (task->job->control == CONTROL_CANCEL || task->job->control == CONTROL_FAIL)
	{
		if (strange)
			batch->batch.remote.status = REMOTE_LOST;
		batch_release(batch);
	}
	else
		batch->known_absent = true;
}

/* The provider was asked whether it has this batch, or has made it. */
static void
create_done(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (batch->batch.remote.remote_id == NULL)
	{
		create_absent(batch);
		return;
	}
	batch->failures = 0;
	batch_was_seen(batch);
	if (batch->batch.remote_created_at == 0)
		batch->batch.remote_created_at = GetCurrentTimestamp();
	batch->batch.polls = 0;
	batch->batch.next_poll_at = ms_from_now(sched_poll_ms(0, task->session->account->poll_interval * INT64CONST(1000), random_fraction()));
	if (batch_move(batch, BATCH_RUNNING, "saving a batch"))
		batch->due = batch->batch.next_poll_at;
}

static bool
create_work(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (batch->batch.state == BATCH_UPLOADED)
	{
		if (!jobtask_may_send(task) || task->job->stage < STAGE_CREATE || !batch_account_ready(batch) ||
			!batch_is_affordable(batch))
			return false;
		if (!create_commit(batch))
			return false;
		batch->known_absent = true;
	}
	else if (batch->batch.remote.remote_id != NULL)
	{
		/* it was made, and only its name could not be committed yet */
		create_done(batch);
		return true;
	}
	else if (!batch_account_ready(batch))
		return false;

	if (batch->known_absent && jobtask_may_send(task))
	{
		batch_asks(batch);
		if (batch_is_of_another_account(batch) && !create_commit(batch))
			return false;
		batch->queue.entered_at = GetCurrentTimestamp();
		step_begin(batch, BATCH_STEP_CREATE);
	}
	else
		step_begin(batch, BATCH_STEP_FIND);
	return true;
}

/* ---- stage 4: status ---- */

static bool
status_work(BatchTask *batch)
{
	const BatchProvider *provider;

	if (!batch_account_ready(batch))
		return false;
	provider = batch->job->session->account->provider;
	if (batch_was_turned_away(batch) && provider->remove_batch_job != NULL)
		step_begin(batch, BATCH_STEP_REMOVE_JOB);
	else if (batch_was_turned_away(batch))
		batch_go_back(batch);
	else if ((batch->job->job->control == CONTROL_CANCEL || batch->looks.watch == WATCH_OVERDUE) && !batch->looks.cancel_sent)
		step_begin(batch, BATCH_STEP_CANCEL);
	else
		step_begin(batch, BATCH_STEP_STATUS);
	return true;
}

/* ---- stage 5: retrieve and merge ---- */

static bool
may_download(const JobTask *task)
{
	int			n = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &((JobTask *) task)->batches)
	{
		const BatchTask *batch = dlist_container(BatchTask, node, iter.cur);

		n += batch->batch.state == BATCH_RETRIEVING && batch->run.transfer != NULL;
	}
	return n < MAX_DOWNLOADS;
}

static bool
retrieve_work(BatchTask *batch)
{
	if (batch->job->job->stage < STAGE_RETRIEVE && batch->job->job->control == CONTROL_RUN)
		return false;
	if (batch->download.files < list_length(batch->batch.remote.output_uris))
	{
		/* while one file is not to be found, the others are merged */
		if (batch->looks.not_found > 0 && merge_has_unread(batch))
			return fair_share_is_turn(&batch->job->share) && merge_work(batch);
		if (!may_download(batch->job) || !batch_account_ready(batch))
			return false;
		step_begin(batch, BATCH_STEP_DOWNLOAD);
	}
	else
	{
		if (!fair_share_is_turn(&batch->job->share))
			return false;
		return merge_work(batch);
	}
	return true;
}

/* ---- afterwards: nothing of ours stays at the provider ---- */

bool
batch_needs_cleaning(const BatchTask *batch)
{
	return !batch->batch.remote_deleted &&
		(batch->batch.remote.input_uri != NULL || batch->batch.remote.remote_id != NULL || batch->upload_in_doubt);
}

static bool
clean_work(BatchTask *batch)
{
	if (!batch_needs_cleaning(batch) || !batch_account_ready(batch))
		return false;
	step_begin(batch, BATCH_STEP_CLEAN);
	return true;
}

/* The end of cleaning, or why the provider will never let us. */
typedef struct CleanArg
{
	BatchTask  *batch;
	const StepError *refusal;	/* NULL: all is removed */
} CleanArg;

static void
clean_txn(void *arg)
{
	CleanArg   *clean = (CleanArg *) arg;
	int64		job_id = clean->batch->job->job->id;
	int			no = clean->batch->batch.no;

	if (clean->refusal != NULL)
		ledger_batch_error(job_id, no, encoding_to_server_lossy(clean->refusal->code),
							 encoding_to_server_lossy(clean->refusal->message));
	ledger_batch_cleaned(job_id, no, clean->refusal == NULL);
	spool_remove_batch(job_id, no);
}

static void
clean_done(BatchTask *batch, const StepError *refusal)
{
	static const StepError strange = {
		.code = CODE_OTHER_ACCOUNT,
		.message = "the account that created the batch is not the one in use: what it left at the provider could not be removed"
	};
	CleanArg	clean = {batch, refusal};
	WorkerTxnError	error;

	/* what this account does not find is not gone */
	if (batch->batch.remote.status == REMOTE_LOST && batch_is_of_another_account(batch))
		clean.refusal = &strange;
	if (worker_txn_run("removing remote files", clean_txn, &clean, &error) == WORKER_TXN_DONE)
		batch->batch.remote_deleted = true;
	else
		batch->due = ms_from_now(RETRY_CAP_MS);
}

/* ---- what the end of a step means ---- */

/* At a batch that runs three kinds of step are taken. */
static void
running_step_done(BatchTask *batch)
{
	if (batch->step == BATCH_STEP_CANCEL)
	{
		batch->looks.cancel_sent = true;
		if (batch->batch.remote_cancelled_at == 0)
			batch->batch.remote_cancelled_at = GetCurrentTimestamp();
		batch->due = 0;
	}
	else if (batch->step == BATCH_STEP_REMOVE_JOB)
		batch_go_back(batch);
	else
		batch_looked_at(batch);
}

static void
stage_done(BatchTask *batch)
{
	switch (batch->batch.state)
	{
		case BATCH_UPLOADING:
			batch->failures = 0;
			batch->upload_in_doubt = false;
			batch_move(batch, BATCH_UPLOADED, "saving an upload");
			break;
		case BATCH_CREATING:
			create_done(batch);
			break;
		case BATCH_RUNNING:
			running_step_done(batch);
			break;
		case BATCH_RETRIEVING:
			batch_was_seen(batch);
			batch->failures = 0;
			batch->looks.not_found = 0;
			batch->download.files++;
			break;
		case BATCH_DONE:
		case BATCH_CANCELLED:
		case BATCH_FAILED:
			clean_done(batch, NULL);
			break;
		case BATCH_PREPARING:
		case BATCH_PREPARED:
		case BATCH_UPLOADED:
			break;
	}
}

/* The provider's words; where it has no batch service, with what to do. */
static char *
failure_in_words(const BatchTask *batch, const StepError *error)
{
	char	   *words = encoding_to_server_lossy(error->message);

	if (error->class != ERROR_NO_SERVICE && batch->batch.state != BATCH_UPLOADING)
		return words;
	if (error->class != ERROR_NO_SERVICE && (error->code == NULL || strcmp(error->code, CODE_BAD_REPLY) != 0))
		return words;
	return psprintf("server \"%s\" has no batch service, submit with mode => 'online': %s",
					batch->job->job->server_name, words != NULL ? words : "");
}

/*
 * Whether the batch exists at the provider cannot be found out.  A second one
 * would be paid, so it waits; the user decides by cancelling the job.
 */
static void
create_unknown(BatchTask *batch, const StepError *error)
{
	JobTask    *task = batch->job;

	if (task->job->control == CONTROL_CANCEL && error->code != NULL && strcmp(error->code, CODE_UNCERTAIN) == 0)
	{
		batch_release(batch);
		return;
	}
	batch_retry_step(batch, error);
	if (task->job->control == CONTROL_FAIL)
		jobtask_end_failed(task);
}

/* Does the server take files, and answer with something that is no file, time and again? */
static bool
is_no_upload(const BatchTask *batch, const StepError *error)
{
	return batch->batch.state == BATCH_UPLOADING && batch->failures + 1 >= UPLOAD_TRIES &&
		error->code != NULL && strcmp(error->code, CODE_BAD_REPLY) == 0;
}

/* Before the batch exists at the provider: nothing is paid yet. */
static void
unsent_stage_failed(BatchTask *batch, const StepError *error)
{
	JobTask    *task = batch->job;

	switch (error->class)
	{
		case ERROR_TEMPORARY:
		case ERROR_RATE:
			if (is_no_upload(batch, error))
			{
				if (jobtask_may_send(task))
					jobtask_fail(task, encoding_to_server_lossy(error->code), failure_in_words(batch, error));
				break;
			}
			/* if the request may have had its effect, the provider is asked before it is repeated */
			if (error->maybe_done)
			{
				batch->known_absent = false;
				batch->upload_in_doubt = true;
			}
			batch_retry_step(batch, error);
			break;
		case ERROR_TOO_LARGE:
			batch_too_large(batch, error);
			break;
		case ERROR_QUOTA:
		case ERROR_AUTH:
		case ERROR_PERMANENT:
		case ERROR_NO_SERVICE:
			if (batch->batch.state == BATCH_CREATING && !batch->known_absent)
			{
				create_unknown(batch, error);
				break;
			}
			if (batch->batch.state == BATCH_CREATING &&
				!batch_move(batch, BATCH_UPLOADED, "putting a batch back"))
				break;
			if (jobtask_may_send(task))
				jobtask_fail(task, encoding_to_server_lossy(error->code), failure_in_words(batch, error));
			break;
	}
}

static void
give_up_txn(void *arg)
{
	spool_truncate(((BatchTask *) arg)->run.stage.sink_file, 0);
}

/* A result file is gone: an empty one stands for it, and the next is fetched. */
static void
give_up_file(BatchTask *batch)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict = worker_txn_run("giving up a result file", give_up_txn, batch, &error);

	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = Max(batch->due, batch->job->due);
		return;
	}
	batch->download.files++;
	batch->looks.not_found = 0;
	batch->failures = 0;
}

/* The batch is at the provider and paid for: looking for its results is never given up lightly. */
static void
paid_stage_failed(BatchTask *batch, const StepError *error)
{
	bool		strange;

	if (batch->step == BATCH_STEP_REMOVE_JOB && batch->batch.state == BATCH_RUNNING &&
		(error->class == ERROR_PERMANENT || batch->failures >= REMOVE_TRIES))
	{
		/* it stays there, and costs nothing */
		batch_go_back(batch);
		return;
	}
	if (batch->step == BATCH_STEP_CANCEL && batch->batch.state == BATCH_RUNNING &&
		error->class == ERROR_PERMANENT)
	{
		/* it cannot be cancelled any more */
		batch->looks.cancel_sent = true;
		batch->due = 0;
		return;
	}
	if (batch_not_found_for_good(batch, error))
	{
		batch->batch.remote.status = REMOTE_LOST;
		batch->batch.remote.error = *error;
		batch->batch.remote.error.code = batch_copy_text(batch, error->code);
		batch->batch.remote.error.message = batch_copy_text(batch, error->message);
		if (batch->batch.state == BATCH_RUNNING)
		{
			batch->batch.remote.output_uris = NIL;
			batch_move(batch, BATCH_RETRIEVING, "giving up a batch");
		}
		else
			give_up_file(batch);
		return;
	}
	strange = batch_wait_for_account(batch, error);
	if (!strange)
		batch_retry_step(batch, error);
	if ((error->class == ERROR_AUTH || strange) && batch->job->job->control == CONTROL_FAIL)
		jobtask_end_failed(batch->job);
}

static void
stage_failed(BatchTask *batch, const StepError *error)
{
	switch (batch->batch.state)
	{
		case BATCH_UPLOADING:
		case BATCH_CREATING:
			unsent_stage_failed(batch, error);
			break;
		case BATCH_RUNNING:
		case BATCH_RETRIEVING:
			paid_stage_failed(batch, error);
			break;
		case BATCH_DONE:
		case BATCH_CANCELLED:
		case BATCH_FAILED:
			if (error->class == ERROR_PERMANENT || error->class == ERROR_NO_SERVICE)
				clean_done(batch, error);
			else
				batch_retry_step(batch, error);
			break;
		case BATCH_PREPARING:
		case BATCH_PREPARED:
		case BATCH_UPLOADED:
			break;
	}
}

/* ---- one turn ---- */

/* A step that waited, or wanted a token or a checksum, goes on. */
static bool
step_continue(BatchTask *batch)
{
	if (batch->checksum.at >= 0 && !batch_checksum(batch))
		return true;
	if (!batch_account_ready(batch) || batch->run.step == NULL)
		return false;
	batch_take_reply(batch, NULL);
	return true;
}

/* A job that is being ended takes back at once what is not at the provider. */
static bool
cancel_work(BatchTask *batch)
{
	JobControl	control = batch->job->job->control;

	if ((control != CONTROL_CANCEL && control != CONTROL_FAIL) || batch->batch.state > BATCH_UPLOADED)
		return false;
	return fair_share_is_turn(&batch->job->share) && batch_release(batch);
}

bool
batch_work(BatchTask *batch)
{
	bool		online = batch->job->job->online;

	if (batch->due > GetCurrentTimestamp() && batch->batch.state != BATCH_PREPARING)
		return false;
	if (batch->release_from > 0)
		return fair_share_is_turn(&batch->job->share) && batch_release(batch);
	if (cancel_work(batch))
		return true;
	if (batch->run.transfer != NULL || (batch->job->blocked && batch->batch.state < BATCH_DONE))
		return false;
	if (batch->run.step != NULL)
		return step_continue(batch);

	switch (batch->batch.state)
	{
		case BATCH_PREPARING:
			return false;
		case BATCH_PREPARED:
			if (online)
				return jobtask_may_send(batch->job) && batch->job->job->stage == STAGE_RETRIEVE &&
					batch_file_intact(batch) && online_work(batch);
			return upload_work(batch);
		case BATCH_UPLOADING:
			return upload_work(batch);
		case BATCH_UPLOADED:
		case BATCH_CREATING:
			return create_work(batch);
		case BATCH_RUNNING:
			if (!online)
				return status_work(batch);
			if (batch->online == NULL && !batch_file_intact(batch))
				return false;
			return online_work(batch);
		case BATCH_RETRIEVING:
			return retrieve_work(batch);
		case BATCH_DONE:
		case BATCH_CANCELLED:
		case BATCH_FAILED:
			return clean_work(batch);
	}
	return false;
}
