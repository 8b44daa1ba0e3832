/*-------------------------------------------------------------------------
 *
 * online_reply.c
 *		Mode online: what a reply means, for its row and for the account.
 *
 * A reply that is an answer of some kind, be it an error of the request's own,
 * becomes a line of the batch's result file.  What the server could not or
 * would not do now is put back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/merge.h"
#include "pipeline/online_internal.h"
#include "runtime/batch_token.h"
#include "text/encoding.h"

/* a request that is refused so often while others are answered has its answer */
#define REFUSALS_ALONE		5
/* others, for each of them that is refused */
#define OTHERS_ANSWERED		5
#define REFUSALS_WORTH_TELLING	3
#define OWN_PAUSE_MS		INT64CONST(500)
/* a pause that a server asks for is told from this length on */
#define PAUSE_WORTH_TELLING_MS	2000
/* a reply that says no more than that it is a refusal is not longer */
#define SHORT_REPLY			65536

static void
online_put_back(BatchTask *batch, OnlineRequest *request)
{
	http_free(request->transfer);
	request->transfer = NULL;
	online_reserve_set(&batch->online->reserve, request->no, 0);
	dlist_push_tail(&batch->online->put_back, &request->node);
	batch->online->nunsent++;
}

/* What the answer cost, as its line tells; a session that counts tokens wants to know. */
static void
online_settle(BatchTask *batch, OnlineRequest *request, const char *line, size_t length)
{
	const BatchProvider *provider = batch->job->session->account->provider;
	MemoryContext caller = MemoryContextSwitchTo(request->cxt);
	BatchReply	told;
	bool		garbled;

	memset(&told, 0, sizeof(told));
	if (merge_parse_line(provider, line, length, &told, &garbled))
		session_settle_tokens(batch->job->session, &request->ticket, told.input_tokens + told.output_tokens);
	MemoryContextSwitchTo(caller);
}

/* The reply is an answer of some kind: it becomes a line of the result file. */
static void
online_record(BatchTask *batch, OnlineRequest *request, const HttpReply *reply)
{
	OnlineState *state = batch->online;
	const BatchProvider *provider = batch->job->session->account->provider;
	char		custom_id[64];
	int			before = state->arrived.len;

	batch_custom_id(custom_id, sizeof(custom_id), batch->batch.token, request->no);
	provider->infer_result(&state->arrived, custom_id, reply);
	if (session_counts_tokens(batch->job->session))
		online_settle(batch, request, state->arrived.data + before, state->arrived.len - before - 1);
	state->answered[request->no - 1] = true;
	state->narrived++;
	MemoryContextDelete(request->cxt);
}

/*
 * A refusal for load is a delay of the account.  But a request that is refused
 * again, while others are answered and hardly any other is refused, delays
 * nobody else: it is tried later and later, and then the refusal is its answer.
 * Returns false when it is.
 */
static bool
online_delay(BatchTask *batch, OnlineRequest *request, const StepError *error)
{
	AccountSession *session = batch->job->session;
	AccountLimits *limits = session->limits;
	int64		answers = limits->answers - request->answers;
	int64		refusals = limits->refusals - request->refusals;
	bool		alone = request->refused > 0 && answers > 0 && answers >= OTHERS_ANSWERED * refusals;
	const char *words = NULL;

	if (request->refused++ == 0)
	{
		request->answers = limits->answers;
		request->refusals = limits->refusals;
	}
	if (alone && ++request->refused_alone >= REFUSALS_ALONE)
		return false;
	if (!alone)
	{
		session_refused(session, error->retry_after_ms);
		/* its own refusal does not count as another one's */
		request->refusals++;
	}
	if (alone)
		words = "the server refuses a request for its load while it answers others";
	else if (error->retry_after_ms >= PAUSE_WORTH_TELLING_MS)
		words = psprintf("the server asks for a pause until %s", timestamptz_to_str(session_opens(session)));
	else if (request->refused >= REFUSALS_WORTH_TELLING)
		words = "the server refuses a request for its load, time and again";
	if (words != NULL && batch->job->note == NOTE_NONE)
		jobtask_note(batch->job, encoding_to_server_lossy(error->code),
					 psprintf("%s: %s", words, encoding_to_server_lossy(error->message)));
	/* others go first, so that it can be told whether they are refused as well */
	request->due = Max(limits->blocked_until, GetCurrentTimestamp()) + (OWN_PAUSE_MS << Min(request->refused - 1, 5)) * 1000;
	online_put_back(batch, request);
	return true;
}

/*
 * What a reply that is no answer means.  Returns false when it is one after
 * all, bad as it may be, and belongs to its row.
 */
static bool
online_handle_refusal(BatchTask *batch, OnlineRequest *request, const HttpReply *reply)
{
	JobTask    *task = batch->job;
	AccountSession    *session = task->session;
	StepError	error;

	memset(&error, 0, sizeof(error));
	error.retry_after_ms = -1;
	error_from_http(&error, reply);

	if (reply->failure == HTTP_NOT_SENT || reply->failure == HTTP_LOCAL)
	{
		if (session_unwell(session))
			jobtask_note(task, encoding_to_server_lossy(error.code),
						 encoding_to_server_lossy(error.message));
		online_put_back(batch, request);
		return true;
	}
	if (reply->failure == HTTP_OK && error.class == ERROR_RATE)
		return online_delay(batch, request, &error);
	if (reply->status == 401 && session->account->provider->authorize != NULL && !request->token_refused)
	{
		/* a token may have ended before its time: once more with a new one */
		request->token_refused = true;
		session_drop_token(session);
		online_put_back(batch, request);
		return true;
	}
	if (error.class == ERROR_QUOTA || error.class == ERROR_AUTH || error.class == ERROR_NO_SERVICE ||
		reply->failure == HTTP_REFUSED_ADDRESS || reply->status == 404)
	{
		online_put_back(batch, request);
		if (jobtask_may_send(task))
			jobtask_fail(task, encoding_to_server_lossy(error.code),
						 encoding_to_server_lossy(error.message));
		return true;
	}
	if (error.class == ERROR_TEMPORARY && session_unwell(session))
		jobtask_note(task, encoding_to_server_lossy(error.code), encoding_to_server_lossy(error.message));
	return false;
}

/* Some servers say 200 and put the refusal into the body. */
static bool
online_is_refusal(const BatchTask *batch, const OnlineRequest *request, const HttpReply *reply, StepError *error)
{
	const BatchProvider *provider = batch->job->session->account->provider;
	MemoryContext caller;
	StringInfoData line;
	BatchReply	said;
	bool		garbled;
	bool		refused;

	if (reply->body_length > SHORT_REPLY || strstr(reply->body, "\"error\"") == NULL)
		return false;
	caller = MemoryContextSwitchTo(request->cxt);
	initStringInfo(&line);
	provider->infer_result(&line, "r-1", reply);
	memset(&said, 0, sizeof(said));
	refused = merge_parse_line(provider, line.data, line.len - 1, &said, &garbled) &&
		said.kind == REPLY_FAILED && said.error.class == ERROR_RATE;
	*error = said.error;
	MemoryContextSwitchTo(caller);
	return refused;
}

void
online_reply(TransferOwner *owner, HttpTransfer *transfer)
{
	OnlineRequest *request = (OnlineRequest *) owner;
	BatchTask  *batch = owner->batch;
	AccountSession    *session = batch->job->session;
	HttpReply  *reply = http_reply(transfer);
	StepError	error;
	bool		answered;

	reply_blot_secret(reply, session->account->secret);
	reply_blot_secret(reply, session->account->access_token);
	answered = reply_ok(reply) && !online_is_refusal(batch, request, reply, &error);
	if (answered)
		session_succeeded(session);
	online_landed(request);
	if (reply_ok(reply) && !answered)
	{
		if (!online_delay(batch, request, &error))
			online_record(batch, request, reply);
	}
	else if (answered || !online_handle_refusal(batch, request, reply))
		online_record(batch, request, reply);
}
