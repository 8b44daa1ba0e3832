/*-------------------------------------------------------------------------
 *
 * online.c
 *		Stages 2 to 4 of online mode: a batch's lines as single requests.
 *
 * The request file is read line by line and sent, many requests at once; each
 * reply is appended at once to a result file of the shape that a batch service
 * would return, which merge.c reads while it grows.  So a killed worker knows
 * from the spool what was answered, and sends again only what was in flight.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "account/account.h"
#include "pipeline/internal.h"
#include "pipeline/merge.h"
#include "pipeline/online_internal.h"
#include "runtime/batch_token.h"
#include "text/encoding.h"

#define GROUP_ANSWERS		1000
#define GROUP_DELAY_MS		250
#define SENDS_A_TURN		256

/* ---- the state ---- */

/* What was answered before a restart; a line that a crash left unfinished is cut off. */
static void
online_read_answered(BatchTask *batch, OnlineState *state)
{
	const BatchProvider *provider = batch->job->session->account->provider;
	SpoolReader *reader = spool_open(state->result_path, 0);
	MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "dess_batch line",
												  ALLOCSET_DEFAULT_SIZES);
	char	   *line;
	size_t		length;

	while ((line = spool_next_line(reader, &length, false)) != NULL)
	{
		BatchReply	reply;
		bool		garbled;
		MemoryContext caller = MemoryContextSwitchTo(scratch);
		int			no = 0;

		memset(&reply, 0, sizeof(reply));
		if (merge_parse_line(provider, line, length, &reply, &garbled) && reply.custom_id != NULL)
			no = batch_parse_custom_id(reply.custom_id, batch->batch.token);
		if (no > 0 && no <= batch->merge->nitems)
			state->answered[no - 1] = true;
		MemoryContextSwitchTo(caller);
		MemoryContextReset(scratch);
	}
	state->result_length = spool_offset(reader);
	spool_close(reader);
}

static void
online_open_txn(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;
	OnlineState *state = batch->online;
	int64		job_id = batch->job->job->id;
	char	   *request_path;
	MemoryContext caller;

	(void) session_account(batch->job->session);
	caller = MemoryContextSwitchTo(state->cxt);
	request_path = spool_path(job_id, batch->batch.no, SPOOL_REQUESTS, 0);
	state->result_path = spool_path(job_id, batch->batch.no, SPOOL_RESULTS, 0);
	state->answered = palloc0_array(bool, batch->merge->nitems + 1);
	online_reserve_init(&state->reserve, batch->merge->nitems);
	initStringInfo(&state->arrived);
	state->reader = spool_open(request_path, 0);
	spool_create(state->result_path);
	MemoryContextSwitchTo(caller);
	online_read_answered(batch, state);

	for (int i = 0; i < batch->merge->nitems; i++)
	{
		if (batch->merge->finished[i])
			state->answered[i] = true;
		else if (state->answered[i])
			online_reserve_set(&state->reserve, i + 1,
							   (uint32) (batch->batch.bytes / Max(batch->batch.requests, 1) + 1));
		if (batch->merge->items[i].same_as == 0 && !state->answered[i])
			state->nunsent++;
	}
	state->nunmerged = 1;		/* the file may hold lines that were not merged */
	state->first_unmerged = 0;
	if (batch->batch.state == BATCH_PREPARED &&
		!ledger_move_batch(&batch->batch, BATCH_PREPARED, BATCH_RUNNING))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("batch %d of job " INT64_FORMAT " was changed meanwhile",
						batch->batch.no, job_id)));
}

static void
online_end(BatchTask *batch)
{
	MemoryContextDelete(batch->online->cxt);
}

/* The reset callback of the state's context. */
static void
online_forget(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;

	batch->online = NULL;
	batch->reserve = NULL;
}

static bool
online_begin(BatchTask *batch)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;
	MemoryContext cxt;

	if (batch->online != NULL)
		return true;
	if (!merge_begin(batch))
		return false;
	cxt = AllocSetContextCreate(batch->cxt, "dess_batch online", ALLOCSET_DEFAULT_SIZES);
	batch->online = MemoryContextAllocZero(cxt, sizeof(OnlineState));
	batch->online->cxt = cxt;
	batch->online->gone.func = online_forget;
	batch->online->gone.arg = batch;
	MemoryContextRegisterResetCallback(cxt, &batch->online->gone);
	batch->online->next_no = 1;
	dlist_init(&batch->online->in_flight);
	dlist_init(&batch->online->put_back);

	verdict = worker_txn_run("starting online requests", online_open_txn, batch, &error);
	if (verdict == WORKER_TXN_DONE)
	{
		batch->batch.state = BATCH_RUNNING;
		batch->reserve = &batch->online->reserve;
		return true;
	}
	online_end(batch);
	jobtask_trouble(batch->job, verdict, &error);
	batch->due = batch->job->due;
	return false;
}

int64
online_unsent(const BatchTask *batch)
{
	return batch->online != NULL ? batch->online->nunsent : batch->batch.requests;
}

int
online_in_flight(const BatchTask *batch)
{
	return batch->online != NULL ? batch->online->nin_flight : 0;
}

bool
online_wants(const BatchTask *batch, TimestampTz now)
{
	const OnlineState *state = batch->online;

	return state != NULL && state->nunsent > 0 && !state->stalled && state->send_due <= now;
}

/* ---- sending ---- */

/* The request has left: it counts until online_landed(). */
static void
online_leaves(OnlineRequest *request)
{
	BatchTask  *batch = request->owner.batch;

	dlist_push_tail(&batch->online->in_flight, &request->node);
	request->in_flight = true;
	batch->online->nin_flight++;
	batch->job->online_in_flight++;
	batch->job->session->limits->online_in_flight++;
}

void
online_landed(OnlineRequest *request)
{
	BatchTask  *batch = request->owner.batch;

	dlist_delete(&request->node);
	request->in_flight = false;
	batch->online->nin_flight--;
	batch->job->online_in_flight--;
	batch->job->session->limits->online_in_flight--;
}

/* The reset callback of a request's context. */
static void
online_request_gone(void *arg)
{
	OnlineRequest *request = (OnlineRequest *) arg;

	if (request->in_flight)
		online_landed(request);
	http_free(request->transfer);
}

/* When the first of the requests that were put back may leave; DT_NOEND: there is none. */
static TimestampTz
online_put_back_due(const OnlineState *state)
{
	TimestampTz due = DT_NOEND;
	dlist_iter	iter;

	dlist_foreach(iter, &((OnlineState *) state)->put_back)
		due = Min(due, dlist_container(OnlineRequest, node, iter.cur)->due);
	return due;
}

/* The next request that was never answered and may leave, or NULL. */
static OnlineRequest *
online_next_request(BatchTask *batch)
{
	OnlineState *state = batch->online;
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	dlist_foreach(iter, &state->put_back)
	{
		if (dlist_container(OnlineRequest, node, iter.cur)->due <= now)
		{
			dlist_delete(iter.cur);
			return dlist_container(OnlineRequest, node, iter.cur);
		}
	}
	while (state->next_no <= batch->merge->nitems)
	{
		int			no = state->next_no;
		MemoryContext cxt;
		OnlineRequest *request;
		size_t		length;
		char	   *line;

		/* lines stand in the order of the items that are sent */
		if (batch->merge->items[no - 1].same_as != 0)
		{
			state->next_no++;
			continue;
		}
		line = spool_next_line(state->reader, &length, true);
		state->next_no++;
		if (line == NULL)
			elog(ERROR, "request file of batch %d is shorter than its items", batch->batch.no);
		if (state->answered[no - 1])
			continue;

		cxt = AllocSetContextCreate(state->cxt, "dess_batch request", ALLOCSET_SMALL_SIZES);
		request = MemoryContextAllocZero(cxt, sizeof(OnlineRequest));
		request->gone.func = online_request_gone;
		request->gone.arg = request;
		MemoryContextRegisterResetCallback(cxt, &request->gone);
		request->owner.batch = batch;
		request->owner.online = true;
		request->cxt = cxt;
		request->no = no;
		request->line = MemoryContextAlloc(cxt, length + 1);
		memcpy(request->line, line, length);
		request->line[length] = '\0';
		request->length = length;
		return request;
	}
	return NULL;
}

static void
online_start(BatchTask *batch, OnlineRequest *request)
{
	AccountSession    *session = batch->job->session;
	const Account *account = session->account;
	HttpRequest http;

	memset(&http, 0, sizeof(http));
	account->provider->infer(account, batch->job->job->model, request->line, request->length, &http);
	account_complete_request(&http, account);
	request->transfer = http_start(&http, request);

	online_reserve_set(&batch->online->reserve, request->no, (uint32) Max(request->length, 1));
	online_leaves(request);
	batch->online->nunsent--;
	session_take(session, request->length, &request->ticket);
}

/* Sees to the session's access token; the job fails when its secret is refused. */
static void
online_authorize(BatchTask *batch)
{
	AccountSession    *session = batch->job->session;
	const StepError *error = &session->authorize_error;

	session_authorize(session);
	if (error->code != NULL && (error->class == ERROR_AUTH || error->class == ERROR_PERMANENT))
		jobtask_fail(batch->job, encoding_to_server_lossy(error->code),
					 encoding_to_server_lossy(error->message));
	else
		batch->online->send_due = session->authorize_due;
}

/* Does the request fit into the budget?  If not it is put back. */
static bool
online_takes(BatchTask *batch, OnlineRequest *request, double *room)
{
	if (budget_takes_request(batch->job, request->length, room))
		return true;
	dlist_push_head(&batch->online->put_back, &request->node);
	batch->online->stalled = true;
	return false;
}

/* Does a request wait that the server refuses time and again? */
static bool
online_has_refused(const OnlineState *state)
{
	dlist_iter	iter;

	dlist_foreach(iter, &((OnlineState *) state)->put_back)
	{
		if (dlist_container(OnlineRequest, node, iter.cur)->refused > 1)
			return true;
	}
	return false;
}

/*
 * Sends what the session allows; sets send_due when it has to wait.  Returns
 * true if more could be sent at once.
 */
static bool
online_send(BatchTask *batch)
{
	AccountSession    *session = batch->job->session;
	OnlineState *state = batch->online;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;
	double		room;
	int			places;

	state->stalled = false;
	if (state->nunsent == 0 || state->send_due > GetCurrentTimestamp() ||
		(places = online_room(batch)) == 0)
		return false;
	verdict = session_refresh(session, &error);
	if (verdict != WORKER_TXN_DONE)
	{
		jobtask_trouble(batch->job, verdict, &error);
		state->send_due = batch->job->due;
		return false;
	}
	if (session->account->provider->infer == NULL)
	{
		jobtask_fail(batch->job, "0A000", "the server's provider has no mode \"online\"");
		return false;
	}
	if (session->account->secret == NULL)
	{
		jobtask_wait_for_secret(batch->job);
		state->send_due = batch->job->due;
		return false;
	}
	if (!session_is_authorized(session))
	{
		online_authorize(batch);
		return false;
	}
	if (session->limits->unreachable == 0 && !online_has_refused(state))
		jobtask_note_gone(batch->job);
	if (!budget_find_room(batch->job, &room))
		return false;

	places = Min(places, SENDS_A_TURN);
	while (places > 0 && state->nunsent > 0 && session_room(session) > 0)
	{
		OnlineRequest *request = online_next_request(batch);
		int64		delay;

		if (request == NULL)
		{
			state->send_due = online_put_back_due(state);
			return false;
		}
		if (!online_takes(batch, request, &room))
			return false;
		delay = session_delay(session, request->length);
		if (delay > 0)
		{
			dlist_push_head(&state->put_back, &request->node);
			state->send_due = ms_from_now(delay);
			return false;
		}
		online_start(batch, request);
		places--;
	}
	return state->nunsent > 0 && online_room(batch) > 0;
}

/* ---- replies on their way to the file ---- */

/* Lines that have arrived go to the file.  False: they could not, and stay. */
static bool
online_write_arrived(BatchTask *batch)
{
	OnlineState *state = batch->online;

	if (!spool_write_at(state->result_path, state->result_length, state->arrived.data, state->arrived.len))
	{
		ereport(LOG,
				(errcode_for_file_access(),
				 errmsg("could not write to file \"%s\": %m", state->result_path)));
		return false;
	}
	state->result_length += state->arrived.len;
	resetStringInfo(&state->arrived);
	if (state->nunmerged == 0)
		state->first_unmerged = GetCurrentTimestamp();
	state->nunmerged += state->narrived;
	state->narrived = 0;
	return true;
}

void
online_flush(void)
{
	dlist_iter	jobs;
	dlist_iter	batches;

	dlist_foreach(jobs, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, jobs.cur);

		if (!task->job->online)
			continue;
		dlist_foreach(batches, &task->batches)
		{
			BatchTask  *batch = dlist_container(BatchTask, node, batches.cur);

			/* whatever else the batch waits for: what is not in the file would be bought again after a crash */
			if (batch->online != NULL && batch->online->narrived > 0 &&
				batch->online->write_due <= GetCurrentTimestamp() && !online_write_arrived(batch))
			{
				jobtask_note(task, "53100", "could not write to the spool");
				batch->online->write_due = ms_from_now(5000);
				batch->due = Max(batch->due, batch->online->write_due);
			}
		}
	}
}

/* ---- one turn ---- */

static bool
online_should_merge(const OnlineState *state, bool stopping)
{
	if (state->nunmerged == 0)
		return false;
	return state->nunmerged >= GROUP_ANSWERS ||
		state->nin_flight + (stopping || state->stalled ? 0 : state->nunsent) == 0 ||
		TimestampDifferenceExceeds(state->first_unmerged, GetCurrentTimestamp(), GROUP_DELAY_MS);
}

static void
release_txn(void *arg)
{
	BatchTask  *batch = (BatchTask *) arg;
	int			from = 1;

	/* it has a thousand rows at most */
	while (from > 0)
		ledger_give_up_batch(batch->job->job, batch->batch.no, &from, BATCH_FAILED, OUTCOME_SUPERSEDED, NULL, NULL);
}

/* Everything that was sent is answered and merged: what was not sent goes back or ends. */
static void
online_finish(BatchTask *batch)
{
	JobTask    *task = batch->job;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (batch->merge->locked_left)
	{
		merge_start_pass(batch);
		batch->online->nunmerged = 1;
		return;
	}
	if (task->job->control == CONTROL_FAIL)
	{
		verdict = worker_txn_run("releasing a batch", release_txn, batch, &error);
		if (verdict != WORKER_TXN_DONE)
		{
			jobtask_trouble(task, verdict, &error);
			batch->due = task->due;
			return;
		}
		batch->batch.state = BATCH_FAILED;
		spool_remove_batch(task->job->id, batch->batch.no);
		merge_end(batch);
	}
	else
	{
		batch->batch.remote.status = task->job->control == CONTROL_CANCEL ? REMOTE_CANCELLED : REMOTE_FINISHED;
		merge_close(batch);
	}
	if (batch->batch.state >= BATCH_DONE)
		online_end(batch);
}

/* One turn.  Returns true if there is more to do at once. */
bool
online_work(BatchTask *batch)
{
	OnlineState *state;
	bool		stopping = batch->job->job->control == CONTROL_CANCEL ||
		batch->job->job->control == CONTROL_FAIL;
	bool		more = false;
	bool		end;

	if (batch->online == NULL && !fair_share_is_turn(&batch->job->share))
		return false;
	if (!online_begin(batch))
		return true;
	state = batch->online;
	if (jobtask_may_send(batch->job))
		more = online_send(batch);

	if (online_should_merge(state, stopping))
	{
		if (!fair_share_is_turn(&batch->job->share))
			return more;
		merge_lines(batch, &end);
		if (end)
			state->nunmerged = 0;
		state->first_unmerged = GetCurrentTimestamp();
		return true;
	}
	if (state->nin_flight == 0 && state->narrived == 0 && state->nunmerged == 0 &&
		(state->nunsent == 0 || stopping))
	{
		if (!fair_share_is_turn(&batch->job->share))
			return more;
		online_finish(batch);
		return true;
	}
	return more;
}

/* When online_work() has to be called again although nothing arrives. */
TimestampTz
online_due(const BatchTask *batch)
{
	const OnlineState *state = batch->online;
	const AccountSession *session = batch->job->session;
	TimestampTz due = DT_NOEND;
	TimestampTz opens = session_opens(session);

	if (state == NULL)
		return batch->due;
	if (state->nunmerged > 0)
		due = state->first_unmerged + GROUP_DELAY_MS * 1000 + 1000;
	if (state->nunsent > 0 && jobtask_may_send(batch->job))
	{
		if (session_room(session) > 0)
			due = Min(due, state->send_due);
		else if (opens != DT_NOEND)
			due = Min(due, Max(state->send_due, opens));
	}
	if (due == DT_NOEND && state->nin_flight > 0)
		return due;
	return due == DT_NOEND ? batch->due : Max(due, batch->due);
}
