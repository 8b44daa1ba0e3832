/*-------------------------------------------------------------------------
 *
 * account_rate.c
 *		How fast a server is asked in mode online.
 *
 * What a request costs in tokens is known when it is answered.  Until then its
 * length stands for its input, and experience for the rest; the difference is
 * charged to the second in which the request left.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "utils/timestamp.h"

#include "pipeline/account_session.h"

#define BYTES_A_TOKEN		4
/* failures in a row after which the server is left alone for a while */
#define TROUBLE_AFTER		5

static int64
now_ms(void)
{
	return GetCurrentTimestamp() / 1000;
}

int
session_room(const AccountSession *session)
{
	const AccountLimits *limits = session->limits;

	if (limits->blocked_until > GetCurrentTimestamp())
		return 0;
	return sched_concurrency_room(&limits->concurrency, limits->online_in_flight, now_ms());
}

TimestampTz
session_opens(const AccountSession *session)
{
	const AccountLimits *limits = session->limits;
	int64		opens;

	if (limits->blocked_until > GetCurrentTimestamp())
		return limits->blocked_until;
	opens = sched_concurrency_opens(&limits->concurrency, now_ms());
	return opens == PG_INT64_MAX ? DT_NOEND : opens * 1000;
}

static int64
estimate_tokens(const AccountLimits *limits, int64 bytes)
{
	return Max(bytes / BYTES_A_TOKEN + limits->surplus, 1);
}

int64
session_delay(AccountSession *session, int64 bytes)
{
	AccountLimits *limits = session->limits;
	int64		now = now_ms();
	int64		delay = sched_rate_delay(&limits->requests, 1, now);

	return Max(delay, sched_rate_delay(&limits->tokens, estimate_tokens(limits, bytes), now));
}

void
session_take(AccountSession *session, int64 bytes, RequestTicket *ticket)
{
	AccountLimits *limits = session->limits;

	ticket->bytes = bytes;
	ticket->tokens = estimate_tokens(limits, bytes);
	ticket->taken_at = now_ms();
	sched_rate_take(&limits->requests, 1, ticket->taken_at);
	sched_rate_take(&limits->tokens, ticket->tokens, ticket->taken_at);
}

bool
session_counts_tokens(const AccountSession *session)
{
	return session->limits->tokens.per_minute > 0;
}

/* More than expected is learnt faster than less. */
void
session_settle_tokens(AccountSession *session, const RequestTicket *ticket, int64 tokens)
{
	AccountLimits *limits = session->limits;
	int64		surplus;

	if (tokens <= 0)
		return;
	tokens = Min(tokens, PG_INT32_MAX);
	surplus = tokens - ticket->bytes / BYTES_A_TOKEN;
	sched_rate_correct(&limits->tokens, tokens - ticket->tokens, ticket->taken_at, now_ms());
	limits->surplus += (surplus - limits->surplus) / (surplus > limits->surplus ? 2 : 8);
}

void
session_succeeded(AccountSession *session)
{
	AccountLimits *limits = session->limits;

	limits->unreachable = 0;
	limits->answers++;
	sched_concurrency_success(&limits->concurrency, limits->online_in_flight, now_ms());
}

/* The server is left alone for a while: it asked for it, or does not answer. */
static void
session_block(AccountLimits *limits, int64 ms)
{
	limits->blocked_until = Max(limits->blocked_until, GetCurrentTimestamp() + ms * 1000);
}

void
session_refused(AccountSession *session, int64 retry_after_ms)
{
	AccountLimits *limits = session->limits;

	limits->refusals++;
	sched_concurrency_limited(&limits->concurrency, retry_after_ms, now_ms());
	if (retry_after_ms > 0)
		session_block(limits, retry_after_ms);
}

/* What fails together counts once: the delay grows by rounds, not by requests. */
bool
session_unwell(AccountSession *session)
{
	AccountLimits *limits = session->limits;

	if (limits->unreachable >= TROUBLE_AFTER && limits->blocked_until > GetCurrentTimestamp())
		return false;
	limits->unreachable++;
	if (limits->unreachable >= TROUBLE_AFTER)
		session_block(limits, sched_backoff_ms(limits->unreachable - TROUBLE_AFTER + 1, 500, 60000,
											   pg_prng_double(&pg_global_prng_state)));
	return limits->unreachable == TROUBLE_AFTER;
}
