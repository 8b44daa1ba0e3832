/*-------------------------------------------------------------------------
 *
 * account_session.c
 *		An account in use: what all jobs of one server and role share.
 *
 * The secret is the role's, so each has a channel of its own; the limits are
 * the server's, so its channels share them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "pipeline/account_session.h"
#include "account/account.h"

/* An account is read again when it is older than this. */
#define ACCOUNT_MAX_AGE_MS	1000
/* one that cannot be read is tried again after this */
#define REFUSED_MS			5000

/* counts changes of servers and user mappings */
static uint64 catalog_generation = 1;

static dlist_head channels = DLIST_STATIC_INIT(channels);
static dlist_head all_limits = DLIST_STATIC_INIT(all_limits);

/* A server, a user mapping or a role was changed: every account is read again. */
static void
catalog_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	catalog_generation++;
}

void
channel_init(void)
{
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGUSERSERVER, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, catalog_changed, (Datum) 0);
}

/* The limits of a server; made when new. */
static ChannelLimits *
channel_get_limits(Oid server, const char *provider_name)
{
	dlist_iter	iter;
	ChannelLimits *limits;

	dlist_foreach(iter, &all_limits)
	{
		limits = dlist_container(ChannelLimits, node, iter.cur);
		if (limits->server == server && strcmp(limits->provider_name, provider_name) == 0)
			return limits;
	}

	limits = MemoryContextAllocZero(TopMemoryContext, sizeof(ChannelLimits));
	limits->server = server;
	strlcpy(limits->provider_name, provider_name, sizeof(limits->provider_name));
	dlist_push_tail(&all_limits, &limits->node);
	return limits;
}

Channel *
channel_get(Oid server, const char *server_name, const char *provider_name, Oid role)
{
	dlist_iter	iter;
	Channel    *channel;

	dlist_foreach(iter, &channels)
	{
		channel = dlist_container(Channel, node, iter.cur);
		if (channel->server == server && channel->role == role &&
			strcmp(channel->provider_name, provider_name) == 0)
			return channel;
	}

	channel = MemoryContextAllocZero(TopMemoryContext, sizeof(Channel));
	channel->server = server;
	strlcpy(channel->server_name, server_name, sizeof(channel->server_name));
	channel->role = role;
	strlcpy(channel->provider_name, provider_name, sizeof(channel->provider_name));
	channel->owner.channel = channel;
	channel->limits = channel_get_limits(server, provider_name);
	channel->account_cxt = AllocSetContextCreate(TopMemoryContext, "dess_batch account",
												 ALLOCSET_SMALL_SIZES);
	channel->token_cxt = AllocSetContextCreate(TopMemoryContext, "dess_batch token",
											   ALLOCSET_SMALL_SIZES);
	channel->step_cxt = AllocSetContextCreate(TopMemoryContext, "dess_batch token request",
											  ALLOCSET_SMALL_SIZES);
	dlist_push_tail(&channels, &channel->node);
	return channel;
}

/* Limits that the user has changed take effect without losing what was learnt. */
static void
channel_apply_limits(ChannelLimits *limits, const Account *account)
{
	int64		now = GetCurrentTimestamp() / 1000;

	if (limits->concurrency.ceiling != account->max_concurrency)
		sched_concurrency_init(&limits->concurrency, account->max_concurrency);
	if (limits->requests.per_minute != account->requests_per_minute)
		sched_rate_init(&limits->requests, account->requests_per_minute, now);
	if (limits->tokens.per_minute != account->tokens_per_minute)
		sched_rate_init(&limits->tokens, account->tokens_per_minute, now);
}

/* Would channel_account() do nothing? */
static bool
channel_is_fresh(const Channel *channel)
{
	return channel->account != NULL && channel->generation == catalog_generation &&
		!TimestampDifferenceExceeds(channel->loaded_at, GetCurrentTimestamp(), ACCOUNT_MAX_AGE_MS);
}

Account *
channel_account(Channel *channel)
{
	MemoryContext fresh;
	MemoryContext caller;
	Account    *account;
	uint64		generation = catalog_generation;

	if (channel_is_fresh(channel))
		return channel->account;
	if (OidIsValid(channel->server) && GetForeignServerExtended(channel->server, FSV_MISSING_OK) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist any more", channel->server_name)));

	fresh = AllocSetContextCreate(TopMemoryContext, "dess_batch account", ALLOCSET_SMALL_SIZES);
	PG_TRY();
	{
		caller = MemoryContextSwitchTo(fresh);
		account = account_load(channel->server, channel->provider_name, channel->role);
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		MemoryContextDelete(fresh);
		PG_RE_THROW();
	}
	PG_END_TRY();

	channel_apply_limits(channel->limits, account);
	MemoryContextDelete(channel->account_cxt);
	channel->account_cxt = fresh;
	channel->account = account;
	if (channel->token != NULL && strcmp(channel->token_secret, account_fingerprint(account)) != 0)
		channel_drop_token(channel);
	account->access_token = channel->token;
	channel->generation = generation;
	channel->loaded_at = GetCurrentTimestamp();
	return account;
}

static void
refresh_slice(void *arg)
{
	(void) channel_account((Channel *) arg);
}

SliceVerdict
channel_refresh(Channel *channel, SliceError *error)
{
	if (channel_is_fresh(channel))
		return SLICE_DONE;
	if (channel->refused == SLICE_DONE || channel->refused_generation != catalog_generation ||
		channel->refused_until <= GetCurrentTimestamp())
	{
		channel->refused = slice_run("reading server options", refresh_slice, channel, &channel->why_refused);
		channel->refused_generation = catalog_generation;
		channel->refused_until = GetCurrentTimestamp() + REFUSED_MS * INT64CONST(1000);
	}
	*error = channel->why_refused;
	return channel->refused;
}
