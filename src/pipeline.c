/*-------------------------------------------------------------------------
 *
 * pipeline.c
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

#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "encoding.h"
#include "guc.h"
#include "pipeline.h"

/* how an estimate of tokens is made from bytes */
#define BYTES_A_TOKEN		3.5
#define RETRY_FIRST_MS		1000
#define RETRY_CAP_MS		300000
/* a limit of the provider's queue: what waits there must shrink first */
#define QUEUE_RETRY_MS		60000
#define QUEUE_RETRY_CAP_MS	600000
/* "not found" is believed after this many looks over this time */
#define NOT_FOUND_LOOKS		4
#define NOT_FOUND_MS		(15 * 60 * 1000)
#define CANCEL_POLL_MS		2000

static void step_take(BatchTask *batch, const HttpReply *reply);
static void stage_done(BatchTask *batch);
static void stage_failed(BatchTask *batch, const StepError *error);

/* ---- small database work ---- */

typedef struct MoveArg
{
	BatchTask  *batch;
	BatchState	to;
	const StepError *error;
} MoveArg;

static void
move_slice(void *arg)
{
	MoveArg    *move = (MoveArg *) arg;

	if (!jobstore_move_batch(&move->batch->batch, move->batch->batch.state, move->to))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("batch %d of job " INT64_FORMAT " was changed meanwhile",
						move->batch->batch.no, move->batch->job->job->id)));
}

/* Commits a new state of the batch, with what is known of it at the provider. */
static bool
batch_move(BatchTask *batch, BatchState to, const char *activity)
{
	MoveArg		move;
	SliceError	error;
	SliceVerdict verdict;

	move.batch = batch;
	move.to = to;
	verdict = slice_run(activity, move_slice, &move, &error);
	if (verdict != SLICE_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = batch->job->due;
		return false;
	}
	batch->batch.state = to;
	batch->due = 0;
	return true;
}

static void
save_slice(void *arg)
{
	MoveArg    *move = (MoveArg *) arg;

	jobstore_save_batch(&move->batch->batch);
	if (move->error != NULL)
		jobstore_batch_error(move->batch->job->job->id, move->batch->batch.no,
							 encoding_to_server_lossy(move->error->code),
							 encoding_to_server_lossy(move->error->message));
}

static void
batch_save(BatchTask *batch, const StepError *why)
{
	MoveArg		move;
	SliceError	error;
	SliceVerdict verdict;

	move.batch = batch;
	move.error = why;
	verdict = slice_run("saving a batch", save_slice, &move, &error);
	if (verdict != SLICE_DONE)
		jobtask_trouble(batch->job, verdict, &error);
}

static void
account_slice(void *arg)
{
	(void) channel_account((Channel *) arg);
}

/* The account as it is now, with a secret; otherwise the job waits or has failed. */
static bool
account_ready(BatchTask *batch)
{
	Channel    *channel = batch->job->channel;
	SliceError	error;
	SliceVerdict verdict;

	if (!channel_is_fresh(channel))
	{
		verdict = slice_run("reading server options", account_slice, channel, &error);
		if (verdict != SLICE_DONE)
		{
			if (verdict == SLICE_HOPELESS && batch->batch.state >= BATCH_CREATING)
				batch->due = later(RETRY_CAP_MS);
			else
				jobtask_trouble(batch->job, verdict, &error);
			return false;
		}
	}
	if (channel->account->secret != NULL)
		return true;
	jobtask_wait_for_secret(batch->job);
	batch->due = batch->job->due;
	return false;
}

/* ---- steps ---- */

void
pipeline_complete_request(HttpRequest *request, const Account *account)
{
	request->idle_timeout = account->request_timeout;
	request->ca_file = account->ca_file;
	request->proxy = account->proxy;
	request->trusted = account->trusted;
}

static char *
copy_text(MemoryContext cxt, const char *text)
{
	return text != NULL ? MemoryContextStrdup(cxt, text) : NULL;
}

/* What a step has learnt becomes the batch's own. */
static void
remote_adopt(BatchTask *batch, const BatchRemote *learnt)
{
	BatchRemote *remote = &batch->batch.remote;
	MemoryContext caller;
	ListCell   *lc;
	List	   *uris = NIL;

	remote->input_uri = copy_text(batch->cxt, learnt->input_uri);
	remote->remote_id = copy_text(batch->cxt, learnt->remote_id);
	remote->remote_state = copy_text(batch->cxt, learnt->remote_state);
	remote->status = learnt->status;
	remote->error = learnt->error;
	remote->error.code = copy_text(batch->cxt, learnt->error.code);
	remote->error.message = copy_text(batch->cxt, learnt->error.message);
	remote->total = learnt->total;
	remote->finished = learnt->finished;
	caller = MemoryContextSwitchTo(batch->cxt);
	foreach(lc, learnt->output_uris)
		uris = lappend(uris, pstrdup(lfirst(lc)));
	MemoryContextSwitchTo(caller);
	remote->output_uris = uris;
}

/* Begins a step of the provider.  The account is fresh. */
static void
step_begin(BatchTask *batch, StageStep step)
{
	BatchStage *stage = &batch->stage;
	Batch	   *row = &batch->batch;
	MemoryContext caller;

	MemoryContextReset(batch->step_cxt);
	caller = MemoryContextSwitchTo(batch->step_cxt);
	memset(stage, 0, sizeof(*stage));
	stage->model = batch->job->job->model;
	stage->token = row->token;
	stage->label = psprintf("dess_batch job " INT64_FORMAT " batch %d", row->job_id, row->no);
	stage->job_id = row->job_id;
	stage->batch_no = row->no;
	stage->created_at = row->created_at;
	stage->requests = row->requests;
	stage->spool_file = spool_path(row->job_id, row->no, SPOOL_REQUESTS, 0);
	stage->spool_length = row->bytes;
	if (row->state == BATCH_RETRIEVING && batch->downloaded < list_length(row->remote.output_uris))
	{
		stage->uri = list_nth(row->remote.output_uris, batch->downloaded);
		stage->sink_file = spool_path(row->job_id, row->no, SPOOL_RESULTS, batch->downloaded);
	}
	stage->remote = palloc_object(BatchRemote);
	*stage->remote = row->remote;
	MemoryContextSwitchTo(caller);

	batch->step = step;
	step_take(batch, NULL);
}

/* Lets the step look at a reply (NULL: none) and does what it says. */
static void
step_take(BatchTask *batch, const HttpReply *reply)
{
	StepResult	result;
	MemoryContext caller = MemoryContextSwitchTo(batch->step_cxt);
	const Account *account = batch->job->channel->account;

	memset(&result, 0, sizeof(result));
	result.error.retry_after_ms = -1;
	batch->stage.account = account;
	batch->step(&batch->stage, reply, &result);
	MemoryContextSwitchTo(caller);

	http_free(batch->transfer);
	batch->transfer = NULL;
	switch (result.kind)
	{
		case STEP_REQUEST:
			pipeline_complete_request(&result.request, account);
			batch->transfer = http_start(&result.request, &batch->owner);
			break;
		case STEP_WAIT:
			batch->due = later(result.wait_ms);
			break;
		case STEP_DONE:
			batch->step = NULL;
			remote_adopt(batch, batch->stage.remote);
			stage_done(batch);
			break;
		case STEP_FAILED:
			batch->step = NULL;
			remote_adopt(batch, batch->stage.remote);
			stage_failed(batch, &result.error);
			break;
	}
}

/* ---- stage 2: upload ---- */

/* How much of this channel is at the provider, or on its way. */
static void
channel_load(const Channel *channel, int *batches, double *tokens)
{
	dlist_iter	jobs;
	dlist_iter	iter;

	*batches = 0;
	*tokens = 0;
	dlist_foreach(jobs, &pipeline_jobs)
	{
		JobTask    *task = dlist_container(JobTask, node, jobs.cur);

		if (task->channel != channel || task->job->online)
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
static bool
channel_has_room(const Channel *channel, const BatchTask *batch)
{
	int			batches;
	double		tokens;

	channel_load(channel, &batches, &tokens);
	if (batches >= channel->account->max_active_batches)
		return false;
	return channel->account->max_enqueued_tokens == 0 || batches == 0 ||
		tokens + batch->batch.bytes / BYTES_A_TOKEN <= channel->account->max_enqueued_tokens;
}

typedef struct RebuildArg
{
	BatchTask  *batch;
	bool		intact;
} RebuildArg;

/* A request file that is not what the ledger says is thrown away and prepared anew. */
static void
check_file_slice(void *arg)
{
	RebuildArg *rebuild = (RebuildArg *) arg;
	const Batch *row = &rebuild->batch->batch;
	int64		length = spool_length(spool_path(row->job_id, row->no, SPOOL_REQUESTS, 0));

	rebuild->intact = length == row->bytes;
	if (!rebuild->intact)
		rebuild->batch->job->job->requeued +=
			jobstore_release_batch(rebuild->batch->job->job, row->no, BATCH_FAILED, false);
}

static bool
batch_file_intact(BatchTask *batch)
{
	RebuildArg	rebuild;
	SliceError	error;
	SliceVerdict verdict;

	rebuild.batch = batch;
	verdict = slice_run("checking a request file", check_file_slice, &rebuild, &error);
	if (verdict != SLICE_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		return false;
	}
	if (!rebuild.intact)
	{
		batch->batch.state = BATCH_FAILED;
		ereport(LOG,
				(errmsg("request file of batch %d of dess_batch job " INT64_FORMAT " is missing or damaged, preparing its rows again",
						batch->batch.no, batch->job->job->id)));
	}
	return rebuild.intact;
}

static bool
upload_work(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (!jobtask_may_send(task) || task->job->stage < STAGE_UPLOAD || !account_ready(batch))
		return false;
	if (batch->batch.state == BATCH_PREPARED)
	{
		if (!channel_has_room(task->channel, batch) || !batch_file_intact(batch))
			return false;
		if (!batch_move(batch, BATCH_UPLOADING, "starting an upload"))
			return false;
	}
	else if (!batch_file_intact(batch))
		return false;
	step_begin(batch, task->channel->account->provider->upload_batch_file);
	return true;
}

/* ---- stage 3: create ---- */

static bool
create_work(BatchTask *batch)
{
	JobTask    *task = batch->job;
	const BatchProvider *provider;

	if (batch->batch.state == BATCH_UPLOADED)
	{
		if (!jobtask_may_send(task) || task->job->stage < STAGE_CREATE || !account_ready(batch))
			return false;
		if (!batch_move(batch, BATCH_CREATING, "creating a batch"))
			return false;
		batch->asked = true;
	}
	else if (!account_ready(batch))
		return false;

	provider = task->channel->account->provider;
	if (batch->asked && jobtask_may_send(task))
		step_begin(batch, provider->create_batch_job);
	else
		step_begin(batch, provider->find_batch_job);
	return true;
}

typedef struct ReleaseArg
{
	BatchTask  *batch;
	BatchState	state;
	bool		cancelled;
	int64		requeued;
} ReleaseArg;

static void
release_slice(void *arg)
{
	ReleaseArg *release = (ReleaseArg *) arg;
	Job		   *job = release->batch->job->job;
	int			no = release->batch->batch.no;

	if (release->cancelled)
		jobstore_close_batch(job, no, BATCH_CANCELLED, OUTCOME_CANCELLED, NULL, NULL);
	else
		release->requeued = jobstore_release_batch(job, no, BATCH_FAILED, false);
}

/* The batch will not run: its rows go back, or are cancelled with the job. */
static bool
batch_release(BatchTask *batch)
{
	ReleaseArg	release;
	SliceError	error;
	SliceVerdict verdict;

	memset(&release, 0, sizeof(release));
	release.batch = batch;
	release.cancelled = batch->job->job->control == CONTROL_CANCEL;
	verdict = slice_run("releasing a batch", release_slice, &release, &error);
	if (verdict != SLICE_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		batch->due = batch->job->due;
		return false;
	}
	batch->batch.state = release.cancelled ? BATCH_CANCELLED : BATCH_FAILED;
	batch->batch.finished_at = GetCurrentTimestamp();
	batch->due = 0;
	batch->job->job->requeued += release.requeued;
	http_free(batch->transfer);
	batch->transfer = NULL;
	batch->step = NULL;
	if (batch->job->filling == batch)
		batch->job->filling = NULL;
	spool_remove_batch(batch->job->job->id, batch->batch.no);
	return true;
}

/* The provider was asked whether it has this batch, or has made it. */
static void
create_done(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (batch->batch.remote.remote_id == NULL)
	{
		/* provably absent */
		if (task->job->control == CONTROL_CANCEL || task->job->control == CONTROL_FAIL)
			batch_release(batch);
		else
			batch->asked = true;
		return;
	}
	batch->failures = 0;
	batch->batch.polls = 0;
	batch->batch.next_poll_at = later(sched_poll_ms(0, task->channel->account->poll_interval * INT64CONST(1000), dice()));
	if (batch_move(batch, BATCH_RUNNING, "saving a batch"))
		batch->due = batch->batch.next_poll_at;
}

/* ---- stage 4: status ---- */

static bool
status_work(BatchTask *batch)
{
	JobTask    *task = batch->job;

	if (!account_ready(batch))
		return false;
	if (task->job->control == CONTROL_CANCEL && !batch->cancel_sent)
		step_begin(batch, task->channel->account->provider->cancel_batch_job);
	else
		step_begin(batch, task->channel->account->provider->get_batch_status);
	return true;
}

static void
status_poll_later(BatchTask *batch)
{
	const Account *account = batch->job->channel->account;
	int64		ms = sched_poll_ms(batch->batch.polls, account->poll_interval * INT64CONST(1000), dice());

	if (batch->job->job->control == CONTROL_CANCEL)
		ms = Min(ms, CANCEL_POLL_MS);
	batch->batch.polls++;
	batch->batch.next_poll_at = later(ms);
	batch->due = batch->batch.next_poll_at;
}

/* The batch ended without anything to read: what now depends on why. */
static void
status_batch_failed(BatchTask *batch)
{
	StepError	why = batch->batch.remote.error;
	JobTask    *task = batch->job;

	if (why.class == ERROR_RATE && task->job->control == CONTROL_RUN)
	{
		/* the provider's queue is full: the same file is submitted again later */
		batch->failures++;
		batch->batch.remote.remote_id = NULL;
		batch_save(batch, &why);
		if (batch_move(batch, BATCH_UPLOADED, "putting a batch back"))
			batch->due = later(sched_backoff_ms(batch->failures, QUEUE_RETRY_MS, QUEUE_RETRY_CAP_MS, dice()));
		return;
	}
	if (why.class == ERROR_TEMPORARY || why.class == ERROR_RATE)
	{
		batch_move(batch, BATCH_RETRIEVING, "reading results");
		return;
	}
	if (batch_release(batch) && task->job->control != CONTROL_CANCEL)
		jobtask_fail(task, encoding_to_server_lossy(why.code), encoding_to_server_lossy(why.message));
}

static void
status_done(BatchTask *batch)
{
	batch->failures = 0;
	batch->not_found = 0;
	switch (batch->batch.remote.status)
	{
		case REMOTE_UNKNOWN:
		case REMOTE_QUEUED:
		case REMOTE_RUNNING:
			status_poll_later(batch);
			batch_save(batch, NULL);
			break;
		case REMOTE_FAILED:
			if (batch->batch.remote.output_uris == NIL)
			{
				status_batch_failed(batch);
				break;
			}
			/* FALLTHROUGH */
		case REMOTE_FINISHED:
		case REMOTE_EXPIRED:
		case REMOTE_CANCELLED:
		case REMOTE_LOST:
			batch->downloaded = 0;
			batch_move(batch, BATCH_RETRIEVING, "reading results");
			break;
	}
}

/* ---- stage 5: retrieve and merge ---- */

static bool
retrieve_work(BatchTask *batch)
{
	if (batch->job->job->stage < STAGE_RETRIEVE && batch->job->job->control == CONTROL_RUN)
		return false;
	if (batch->downloaded < list_length(batch->batch.remote.output_uris))
	{
		if (!account_ready(batch))
			return false;
		step_begin(batch, batch->job->channel->account->provider->download_results);
	}
	else
		merge_work(batch);
	return true;
}

/* ---- afterwards: nothing of ours stays at the provider ---- */

static bool
clean_wanted(const BatchTask *batch)
{
	return !batch->batch.remote_deleted &&
		(batch->batch.remote.input_uri != NULL || batch->batch.remote.remote_id != NULL);
}

static bool
clean_work(BatchTask *batch)
{
	if (!clean_wanted(batch) || !account_ready(batch))
		return false;
	step_begin(batch, batch->job->channel->account->provider->remove_remote);
	return true;
}

static void
clean_slice(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;

	jobstore_batch_cleaned(batch->job->job->id, batch->batch.no);
}

static void
clean_done(BatchTask *batch)
{
	SliceError	error;

	if (slice_run("removing remote files", clean_slice, batch, &error) == SLICE_DONE)
		batch->batch.remote_deleted = true;
	else
		batch->due = later(RETRY_CAP_MS);
}

/* ---- what the end of a step means ---- */

static void
stage_done(BatchTask *batch)
{
	switch (batch->batch.state)
	{
		case BATCH_UPLOADING:
			batch->failures = 0;
			batch_move(batch, BATCH_UPLOADED, "saving an upload");
			break;
		case BATCH_CREATING:
			create_done(batch);
			break;
		case BATCH_RUNNING:
			if (batch->job->job->control == CONTROL_CANCEL && !batch->cancel_sent)
			{
				batch->cancel_sent = true;
				batch->due = 0;
			}
			else
				status_done(batch);
			break;
		case BATCH_RETRIEVING:
			batch->failures = 0;
			batch->not_found = 0;
			batch->downloaded++;
			break;
		case BATCH_DONE:
		case BATCH_CANCELLED:
		case BATCH_FAILED:
			clean_done(batch);
			break;
		case BATCH_PREPARING:
		case BATCH_PREPARED:
		case BATCH_UPLOADED:
			break;
	}
}

/* Is "not found" old enough to be believed? */
static bool
not_found_for_good(BatchTask *batch, const StepError *error)
{
	if (error->code == NULL || (strcmp(error->code, "404") != 0 && strcmp(error->code, "not_found") != 0))
	{
		batch->not_found = 0;
		return false;
	}
	if (batch->not_found++ == 0)
		batch->not_found_since = GetCurrentTimestamp();
	return batch->not_found >= NOT_FOUND_LOOKS &&
		TimestampDifferenceExceeds(batch->not_found_since, GetCurrentTimestamp(), NOT_FOUND_MS);
}

static void
retry_step(BatchTask *batch, const StepError *error)
{
	int64		ms = sched_backoff_ms(++batch->failures, RETRY_FIRST_MS, RETRY_CAP_MS, dice());

	if (error->class == ERROR_RATE && batch->batch.state == BATCH_CREATING)
		ms = sched_backoff_ms(batch->failures, QUEUE_RETRY_MS, QUEUE_RETRY_CAP_MS, dice());
	if (error->retry_after_ms >= 0)
		ms = error->retry_after_ms;
	batch->due = later(ms);
	batch_save(batch, error);
	/* saving may have been postponed by trouble, but the delay stands */
	batch->due = Max(batch->due, later(ms));
}

typedef struct SplitArg
{
	BatchTask  *batch;
	int64		bytes;
} SplitArg;

static void
split_slice(void *arg)
{
	SplitArg   *split = (SplitArg *) arg;

	jobstore_set_batch_bytes(split->batch->job->job->id, split->bytes);
}

/* The provider takes smaller files than we thought: the rows are prepared again in smaller batches. */
static void
batch_too_large(BatchTask *batch, const StepError *why)
{
	SplitArg	split;
	SliceError	error;
	SliceVerdict verdict;

	split.batch = batch;
	split.bytes = batch->batch.bytes / 2;
	if (batch->batch.requests <= 1)
	{
		jobtask_fail(batch->job, encoding_to_server_lossy(why->code), encoding_to_server_lossy(why->message));
		return;
	}
	verdict = slice_run("cutting batches smaller", split_slice, &split, &error);
	if (verdict != SLICE_DONE)
		jobtask_trouble(batch->job, verdict, &error);
	else
	{
		batch->job->job->batch_bytes = split.bytes;
		batch_release(batch);
	}
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
			/* if the request may have had its effect, the provider is asked before it is repeated */
			if (error->maybe_done)
				batch->asked = false;
			retry_step(batch, error);
			break;
		case ERROR_TOO_LARGE:
			batch_too_large(batch, error);
			break;
		case ERROR_QUOTA:
		case ERROR_AUTH:
		case ERROR_PERMANENT:
		case ERROR_NO_SERVICE:
			if (batch->batch.state == BATCH_CREATING && !batch->asked)
			{
				/* whether the batch exists is still unknown */
				retry_step(batch, error);
				break;
			}
			if (batch->batch.state == BATCH_CREATING &&
				!batch_move(batch, BATCH_UPLOADED, "putting a batch back"))
				break;
			if (jobtask_may_send(task))
				jobtask_fail(task, encoding_to_server_lossy(error->code),
							 encoding_to_server_lossy(error->message));
			break;
	}
}

/* The batch is at the provider and paid for: looking for its results is never given up lightly. */
static void
paid_stage_failed(BatchTask *batch, const StepError *error)
{
	if (batch->job->job->control == CONTROL_CANCEL && !batch->cancel_sent &&
		batch->batch.state == BATCH_RUNNING && error->class == ERROR_PERMANENT)
	{
		/* it cannot be cancelled any more */
		batch->cancel_sent = true;
		batch->due = 0;
		return;
	}
	if (not_found_for_good(batch, error))
	{
		batch->batch.remote.status = REMOTE_LOST;
		batch->batch.remote.error = *error;
		batch->batch.remote.error.code = copy_text(batch->cxt, error->code);
		batch->batch.remote.error.message = copy_text(batch->cxt, error->message);
		if (batch->batch.state == BATCH_RUNNING)
			batch->batch.remote.output_uris = NIL;
		batch->downloaded = list_length(batch->batch.remote.output_uris);
		if (batch->batch.state == BATCH_RUNNING)
			batch_move(batch, BATCH_RETRIEVING, "giving up a batch");
		return;
	}
	retry_step(batch, error);
	if (error->class == ERROR_AUTH && batch->job->job->control == CONTROL_FAIL)
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
				clean_done(batch);
			else
				retry_step(batch, error);
			break;
		case BATCH_PREPARING:
		case BATCH_PREPARED:
		case BATCH_UPLOADED:
			break;
	}
}

/* ---- one turn ---- */

/* Cancelling ends at once what is not at the provider. */
static bool
cancel_work(BatchTask *batch)
{
	if (batch->job->job->control != CONTROL_CANCEL || batch->batch.state > BATCH_UPLOADED)
		return false;
	return batch_release(batch);
}

static bool
batch_work(BatchTask *batch)
{
	bool		online = batch->job->job->online;

	if (batch->due > GetCurrentTimestamp() && batch->batch.state != BATCH_PREPARING &&
		!(online && batch->batch.state == BATCH_RUNNING))
		return false;
	if (cancel_work(batch))
		return true;
	if (batch->transfer != NULL)
		return false;
	if (batch->step != NULL)
	{
		step_take(batch, NULL);
		return true;
	}

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
			return online ? online_work(batch) : status_work(batch);
		case BATCH_RETRIEVING:
			return retrieve_work(batch);
		case BATCH_DONE:
		case BATCH_CANCELLED:
		case BATCH_FAILED:
			return clean_work(batch);
	}
	return false;
}

/* Is there room in the spool? */
static bool
spool_has_room(void)
{
	dlist_iter	jobs;
	dlist_iter	iter;
	int64		bytes = 0;

	dlist_foreach(jobs, &pipeline_jobs)
	{
		JobTask    *task = dlist_container(JobTask, node, jobs.cur);

		dlist_foreach(iter, &task->batches)
		{
			BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

			if (batch->batch.state < BATCH_DONE)
				bytes += batch->batch.bytes;
		}
	}
	return bytes < (int64) dess_spool_limit * 1024 * 1024;
}

static bool
job_work(JobTask *task)
{
	dlist_mutable_iter iter;
	bool		did = false;

	if (task->due <= GetCurrentTimestamp() && prepare_wanted(task) && spool_has_room())
		did = prepare_work(task);

	dlist_foreach_modify(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch_work(batch))
			did = true;
		/* a job that failed for good leaves alone what it cannot fetch */
		if (batch->batch.state >= BATCH_DONE ?
			batch->transfer == NULL && batch->step == NULL && !clean_wanted(batch) :
			task->job->state > JOB_ACTIVE)
			jobtask_drop_batch(batch);
	}
	if (task->due <= GetCurrentTimestamp() && jobtask_try_finish(task))
		did = true;
	return did;
}

bool
pipeline_work(void)
{
	dlist_mutable_iter iter;
	bool		did = false;

	dlist_foreach_modify(iter, &pipeline_jobs)
	{
		JobTask    *task = dlist_container(JobTask, node, iter.cur);

		if (job_work(task))
			did = true;
		if (task->job->state > JOB_ACTIVE && dlist_is_empty(&task->batches))
			jobtask_drop(task);
	}
	return did;
}

void
pipeline_finished_transfers(void)
{
	HttpTransfer *transfer;

	while ((transfer = http_next_finished()) != NULL)
	{
		TransferOwner *owner = http_owner(transfer);

		if (owner->online)
			online_reply(owner, transfer);
		else
			step_take(owner->batch, http_reply(transfer));
	}
	online_flush();
}

/* ---- time ---- */

static TimestampTz
batch_due(const BatchTask *batch)
{
	if (batch->transfer != NULL)
		return DT_NOEND;
	if (batch->job->job->online && batch->batch.state == BATCH_RUNNING)
		return online_due(batch);
	return batch->due;
}

long
pipeline_timeout_ms(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz first = DT_NOEND;
	dlist_iter	jobs;
	dlist_iter	iter;

	dlist_foreach(jobs, &pipeline_jobs)
	{
		JobTask    *task = dlist_container(JobTask, node, jobs.cur);

		/* what is due already and could not be done waits for an event, not for time */
		if (task->due > now)
			first = Min(first, task->due);
		if (task->again_due > now)
			first = Min(first, task->again_due);
		dlist_foreach(iter, &task->batches)
		{
			TimestampTz due = batch_due(dlist_container(BatchTask, node, iter.cur));

			if (due > now)
				first = Min(first, due);
		}
	}
	if (first == DT_NOEND)
		return -1;
	return (first - now) / 1000 + 1;
}

bool
pipeline_is_idle(void)
{
	return dlist_is_empty(&pipeline_jobs);
}

/* ---- the ledger ---- */

static bool
spool_is_claimed(int64 job_id, int batch_no)
{
	JobTask    *task = jobtask_find(job_id);
	dlist_iter	iter;

	if (task == NULL)
		return jobstore_batch_is_open(job_id, batch_no);
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->batch.no == batch_no)
			return batch->batch.state < BATCH_DONE;
	}
	return false;
}

static void
refresh_slice(void *arg)
{
	ListCell   *lc;

	foreach(lc, jobstore_load_jobs())
	{
		const Job  *job = lfirst(lc);

		jobtask_refresh(jobtask_find(job->id), job);
	}
}

void
pipeline_refresh(void)
{
	dlist_mutable_iter iter;
	SliceError	error;

	dlist_foreach_modify(iter, &pipeline_jobs)
		dlist_container(JobTask, node, iter.cur)->seen = false;
	if (slice_run("looking for jobs", refresh_slice, NULL, &error) != SLICE_DONE)
		return;
	dlist_foreach_modify(iter, &pipeline_jobs)
	{
		JobTask    *task = dlist_container(JobTask, node, iter.cur);

		if (!task->seen)
			jobtask_drop(task);
	}
}

static void
init_slice(void *arg)
{
	jobstore_check_identity();
}

static void
sweep_slice(void *arg)
{
	spool_sweep(spool_is_claimed);
}

void
pipeline_init(void)
{
	SliceError	error;

	if (slice_run("starting", init_slice, NULL, &error) != SLICE_DONE)
		proc_exit(1);
	pipeline_refresh();
	(void) slice_run("sweeping the spool", sweep_slice, NULL, &error);
}
