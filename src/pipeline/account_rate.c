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
channel_room(const Channel *channel)
{
	const ChannelLimits *limits = channel->limits;

	if (limits->blocked_until > GetCurrentTimestamp())
		return 0;
	return sched_concurrency_room(&limits->concurrency, limits->online_in_flight, now_ms());
}

TimestampTz
channel_opens(const Channel *channel)
{
	const ChannelLimits *limits = channel->limits;
	int64		opens;

	if (limits->blocked_until > GetCurrentTimestamp())
		return limits->blocked_until;
	opens = sched_concurrency_opens(&limits->concurrency, now_ms());
	return opens == PG_INT64_MAX ? DT_NOEND : opens * 1000;
}

static int64
estimate_tokens(const ChannelLimits *limits, int64 bytes)
{
	return Max(bytes / BYTES_A_TOKEN + limits->surplus, 1);
}

int64
channel_delay(Channel *channel, int64 bytes)
{
	ChannelLimits *limits = channel->limits;
	int64		now = now_ms();
	int64		delay = sched_rate_delay(&limits->requests, 1, now);

	return Max(delay, sched_rate_delay(&limits->tokens, estimate_tokens(limits, bytes), now));
}

void
channel_take(Channel *channel, int64 bytes, ChannelTicket *ticket)
{
	ChannelLimits *limits = channel->limits;

	ticket->bytes = bytes;
	ticket->tokens = estimate_tokens(limits, bytes);
	ticket->taken_at = now_ms();
	limits->online_in_flight++;
	sched_rate_take(&limits->requests, 1, ticket->taken_at);
	sched_rate_take(&limits->tokens, ticket->tokens, ticket->taken_at);
}

bool
channel_counts_tokens(const Channel *channel)
{
	return channel->limits->tokens.per_minute > 0;
}

/* More than expected is learnt faster than less. */
void
channel_settle_tokens(Channel *channel, const ChannelTicket *ticket, int64 tokens)
{
	ChannelLimits *limits = channel->limits;
	int64		surplus;

	if (tokens <= 0)
		return;
	tokens = Min(tokens, PG_INT32_MAX);
	surplus = tokens - ticket->bytes / BYTES_A_TOKEN;
	sched_rate_correct(&limits->tokens, tokens - ticket->tokens, ticket->taken_at, now_ms());
	limits->surplus += (surplus - limits->surplus) / (surplus > limits->surplus ? 2 : 8);
}

void
channel_succeeded(Channel *channel)
{
	ChannelLimits *limits = channel->limits;

	limits->unreachable = 0;
	sched_concurrency_success(&limits->concurrency, limits->online_in_flight, now_ms());
}

/* The server is left alone for a while: it asked for it, or does not answer. */
static void
channel_block(ChannelLimits *limits, int64 ms)
{
	limits->blocked_until = Max(limits->blocked_until, GetCurrentTimestamp() + ms * 1000);
}

void
channel_refused(Channel *channel, int64 retry_after_ms)
{
	ChannelLimits *limits = channel->limits;

	sched_concurrency_limited(&limits->concurrency, retry_after_ms, now_ms());
	if (retry_after_ms > 0)
		channel_block(limits, retry_after_ms);
}

/* What fails together counts once: the delay grows by rounds, not by requests. */
bool
channel_unwell(Channel *channel)
{
	ChannelLimits *limits = channel->limits;

	if (limits->unreachable >= TROUBLE_AFTER && limits->blocked_until > GetCurrentTimestamp())
		return false;
	limits->unreachable++;
	if (limits->unreachable >= TROUBLE_AFTER)
		channel_block(limits, sched_backoff_ms(limits->unreachable - TROUBLE_AFTER + 1, 500, 60000,
											   pg_prng_double(&pg_global_prng_state)));
	return limits->unreachable == TROUBLE_AFTER;
}
