/*-------------------------------------------------------------------------
 *
 * account_token.c
 *		Access tokens, for providers that exchange the account's secret for one.
 *
 * A token belongs to a channel and serves all its batches.  It is fetched
 * before the first request, five minutes before it ends, and when a request
 * was refused because of it; whoever needs it meanwhile waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/account_session.h"
#include "account/account.h"

#define REFRESH_EARLY_SECONDS	300
#define RETRY_FIRST_MS			1000
#define RETRY_CAP_MS			300000
/* a refused secret is tried again after this, in case it was replaced */
#define REFUSED_RETRY_MS		5000

static TimestampTz
from_now(int64 ms)
{
	return GetCurrentTimestamp() + ms * 1000;
}

void
channel_complete_request(HttpRequest *request, const Account *account)
{
	request->idle_timeout = account->request_timeout;
	request->ca_file = account->ca_file;
	request->proxy = account->proxy;
	request->trusted = account->trusted;
}

bool
channel_is_authorized(const Channel *channel)
{
	return channel->account->provider->authorize == NULL ||
		(channel->token != NULL && channel->token_until > GetCurrentTimestamp());
}

void
channel_drop_token(Channel *channel)
{
	if (channel->token != NULL)
		explicit_bzero(channel->token, strlen(channel->token));
	channel->token = NULL;
	if (channel->account != NULL)
		channel->account->access_token = NULL;
	/* its words are in the same context */
	memset(&channel->authorize_error, 0, sizeof(StepError));
	MemoryContextReset(channel->token_cxt);
}

void
channel_forget_refusal(Channel *channel)
{
	const StepError *error = &channel->authorize_error;

	if (error->code != NULL && (error->class == ERROR_AUTH || error->class == ERROR_PERMANENT))
	{
		channel->authorize_due = 0;
		memset(&channel->authorize_error, 0, sizeof(StepError));
	}
}

static void
channel_keep_token(Channel *channel)
{
	const BatchStage *stage = &channel->stage;
	int64		seconds = stage->access_token_seconds;

	channel_drop_token(channel);
	channel->token = MemoryContextStrdup(channel->token_cxt, stage->access_token);
	channel->token_secret = MemoryContextStrdup(channel->token_cxt, account_fingerprint(channel->account));
	/* of a short life, half is used */
	seconds = Max(seconds - REFRESH_EARLY_SECONDS, seconds / 2);
	channel->token_until = from_now(seconds * 1000);
	channel->account->access_token = channel->token;
	channel->authorize_failures = 0;
	explicit_bzero(stage->access_token, strlen(stage->access_token));
}

static void
channel_authorize_failed(Channel *channel, const StepError *error)
{
	int64		ms;

	/* the token that is left, if any, is too old to be used */
	channel_drop_token(channel);
	channel->authorize_failures++;
	channel->authorize_error = *error;
	channel->authorize_error.code = MemoryContextStrdup(channel->token_cxt, error->code ? error->code : "authorization");
	channel->authorize_error.message = MemoryContextStrdup(channel->token_cxt, error->message ? error->message : "no access token");
	if (error->class == ERROR_AUTH || error->class == ERROR_PERMANENT)
		ms = REFUSED_RETRY_MS;
	else
		ms = sched_backoff_ms(channel->authorize_failures, RETRY_FIRST_MS, RETRY_CAP_MS,
							  pg_prng_double(&pg_global_prng_state));
	channel->authorize_due = from_now(Max(ms, error->retry_after_ms));
}

/* Lets the step look at a reply (NULL: none) and does what it says. */
void
channel_take_reply(Channel *channel, HttpReply *reply)
{
	MemoryContext caller = MemoryContextSwitchTo(channel->step_cxt);
	StepResult	result;

	memset(&result, 0, sizeof(result));
	result.error.retry_after_ms = -1;
	channel->stage.account = channel->account;
	provider_step(channel->account->provider->authorize, &channel->stage, reply, &result);
	MemoryContextSwitchTo(caller);

	http_free(channel->transfer);
	channel->transfer = NULL;
	switch (result.kind)
	{
		case STEP_REQUEST:
			channel_complete_request(&result.request, channel->account);
			channel->transfer = http_start(&result.request, &channel->owner);
			break;
		case STEP_WAIT:
			channel->authorize_due = from_now(result.wait_ms);
			break;
		case STEP_DONE:
			channel->authorizing = false;
			channel_keep_token(channel);
			break;
		case STEP_AUTHORIZE:
		case STEP_CHECKSUM:
		case STEP_FAILED:
			channel->authorizing = false;
			channel_authorize_failed(channel, &result.error);
			break;
	}
}

void
channel_authorize(Channel *channel)
{
	if (channel->transfer != NULL || channel->authorize_due > GetCurrentTimestamp())
		return;
	if (!channel->authorizing)
	{
		MemoryContextReset(channel->step_cxt);
		memset(&channel->stage, 0, sizeof(BatchStage));
		memset(&channel->authorize_error, 0, sizeof(StepError));
		channel->authorizing = true;
	}
	channel_take_reply(channel, NULL);
}

TimestampTz
channel_due(const Channel *channel)
{
	if (channel->transfer != NULL || channel->account == NULL || channel_is_authorized(channel))
		return DT_NOEND;
	return channel->authorize_due;
}
