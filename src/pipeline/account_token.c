/*-------------------------------------------------------------------------
 *
 * account_token.c
 *		Access tokens, for providers that exchange the account's secret for one.
 *
 * A token belongs to a session and serves all its batches.  It is fetched
 * before the first request, five minutes before it ends, and when a request
 * was refused because of it; whoever needs it meanwhile waits.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "account/account.h"
#include "pipeline/account_session.h"

#define REFRESH_EARLY_SECONDS	300
#define RETRY_FIRST_MS			1000
#define RETRY_CAP_MS			300000
/* a refused secret is tried again after this, in case it was replaced */
#define REFUSED_RETRY_MS		5000

bool
session_is_authorized(const AccountSession *session)
{
	return session->account->provider->authorize == NULL ||
		(session->token != NULL && session->token_until > GetCurrentTimestamp());
}

void
session_drop_token(AccountSession *session)
{
	if (session->token != NULL)
		explicit_bzero(session->token, strlen(session->token));
	session->token = NULL;
	if (session->account != NULL)
		session->account->access_token = NULL;
	/* its words are in the same context */
	memset(&session->authorize_error, 0, sizeof(StepError));
	MemoryContextReset(session->token_cxt);
}

void
session_forget_refusal(AccountSession *session)
{
	const StepError *error = &session->authorize_error;

	if (error->code != NULL && (error->class == ERROR_AUTH || error->class == ERROR_PERMANENT))
	{
		session->authorize_due = 0;
		memset(&session->authorize_error, 0, sizeof(StepError));
	}
}

static void
session_keep_token(AccountSession *session)
{
	const BatchStage *stage = &session->run.stage;
	int64		seconds = stage->access_token_seconds;

	session_drop_token(session);
	session->token = MemoryContextStrdup(session->token_cxt, stage->access_token);
	session->token_secret = MemoryContextStrdup(session->token_cxt, account_fingerprint(session->account));
	/* of a short life, half is used */
	seconds = Max(seconds - REFRESH_EARLY_SECONDS, seconds / 2);
	session->token_until = ms_from_now(seconds * 1000);
	session->account->access_token = session->token;
	session->authorize_failures = 0;
	explicit_bzero(stage->access_token, strlen(stage->access_token));
}

static void
session_authorize_failed(AccountSession *session, const StepError *error)
{
	int64		ms;

	/* the token that is left, if any, is too old to be used */
	session_drop_token(session);
	session->authorize_failures++;
	session->authorize_error = *error;
	session->authorize_error.code = MemoryContextStrdup(session->token_cxt, error->code ? error->code : "authorization");
	session->authorize_error.message = MemoryContextStrdup(session->token_cxt, error->message ? error->message : "no access token");
	if (error->class == ERROR_AUTH || error->class == ERROR_PERMANENT)
		ms = REFUSED_RETRY_MS;
	else
		ms = sched_backoff_ms(session->authorize_failures, RETRY_FIRST_MS, RETRY_CAP_MS,
							  random_fraction());
	session->authorize_due = ms_from_now(Max(ms, error->retry_after_ms));
}

void
session_take_reply(AccountSession *session, HttpReply *reply)
{
	StepResult	result;

	switch (step_run_advance(&session->run, session->account, reply, &session->owner, &result))
	{
		case STEP_REQUEST:
			break;
		case STEP_WAIT:
			session->authorize_due = ms_from_now(result.wait_ms);
			break;
		case STEP_DONE:
			session_keep_token(session);
			break;
		case STEP_AUTHORIZE:
		case STEP_CHECKSUM:
		case STEP_FAILED:
			step_run_stop(&session->run);
			session_authorize_failed(session, &result.error);
			break;
	}
}

void
session_authorize(AccountSession *session)
{
	if (session->run.transfer != NULL || session->authorize_due > GetCurrentTimestamp())
		return;
	if (session->run.step == NULL)
	{
		step_run_begin(&session->run, session->account->provider->authorize);
		memset(&session->authorize_error, 0, sizeof(StepError));
	}
	session_take_reply(session, NULL);
}

TimestampTz
session_due(const AccountSession *session)
{
	if (session->run.transfer != NULL || session->account == NULL || session_is_authorized(session))
		return DT_NOEND;
	return session->authorize_due;
}
