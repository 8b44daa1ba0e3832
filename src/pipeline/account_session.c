/*-------------------------------------------------------------------------
 *
 * account_session.c
 *		An account in use: what all jobs of one server and role share.
 *
 * The secret is the role's, so each has a session of its own; the limits are
 * the server's, so its sessions share them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "foreign/foreign.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "account/account.h"
#include "pipeline/account_session.h"

/* An account is read again when it is older than this. */
#define ACCOUNT_MAX_AGE_MS	1000
/* one that cannot be read is tried again after this */
#define REFUSED_MS			5000

/* counts changes of servers and user mappings */
static uint64 catalog_generation = 1;

static dlist_head sessions = DLIST_STATIC_INIT(sessions);
static dlist_head all_limits = DLIST_STATIC_INIT(all_limits);

/* A server, a user mapping or a role was changed: every account is read again. */
static void
catalog_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	catalog_generation++;
}

void
session_init(void)
{
	CacheRegisterSyscacheCallback(FOREIGNSERVEROID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(USERMAPPINGUSERSERVER, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHOID, catalog_changed, (Datum) 0);
	CacheRegisterSyscacheCallback(AUTHMEMROLEMEM, catalog_changed, (Datum) 0);
}

/* The limits of a server; made when new. */
static AccountLimits *
session_get_limits(Oid server, const char *provider_name)
{
	dlist_iter	iter;
	AccountLimits *limits;

	dlist_foreach(iter, &all_limits)
	{
		limits = dlist_container(AccountLimits, node, iter.cur);
		if (limits->server == server && strcmp(limits->provider_name, provider_name) == 0)
			return limits;
	}

	limits = MemoryContextAllocZero(TopMemoryContext, sizeof(AccountLimits));
	limits->server = server;
	strlcpy(limits->provider_name, provider_name, sizeof(limits->provider_name));
	dlist_push_tail(&all_limits, &limits->node);
	return limits;
}

AccountSession *
session_get(Oid server, const char *server_name, const char *provider_name, Oid role)
{
	dlist_iter	iter;
	AccountSession    *session;

	dlist_foreach(iter, &sessions)
	{
		session = dlist_container(AccountSession, node, iter.cur);
		if (session->server == server && session->role == role &&
			strcmp(session->provider_name, provider_name) == 0)
			return session;
	}

	session = MemoryContextAllocZero(TopMemoryContext, sizeof(AccountSession));
	session->server = server;
	strlcpy(session->server_name, server_name, sizeof(session->server_name));
	session->role = role;
	strlcpy(session->provider_name, provider_name, sizeof(session->provider_name));
	session->owner.session = session;
	session->limits = session_get_limits(server, provider_name);
	session->account_cxt = AllocSetContextCreate(TopMemoryContext, "dess_batch account",
												 ALLOCSET_SMALL_SIZES);
	session->token_cxt = AllocSetContextCreate(TopMemoryContext, "dess_batch token",
											   ALLOCSET_SMALL_SIZES);
	step_run_init(&session->run, TopMemoryContext);
	dlist_push_tail(&sessions, &session->node);
	return session;
}

/* Limits that the user has changed take effect without losing what was learnt. */
static void
session_apply_limits(AccountLimits *limits, const Account *account)
{
	int64		now = GetCurrentTimestamp() / 1000;

	if (limits->concurrency.ceiling != account->max_concurrency)
		sched_concurrency_init(&limits->concurrency, account->max_concurrency);
	if (limits->requests.per_minute != account->requests_per_minute)
		sched_rate_init(&limits->requests, account->requests_per_minute, now);
	if (limits->tokens.per_minute != account->tokens_per_minute)
		sched_rate_init(&limits->tokens, account->tokens_per_minute, now);
}

/* Would session_account() do nothing? */
static bool
session_is_fresh(const AccountSession *session)
{
	return session->account != NULL && session->generation == catalog_generation &&
		!TimestampDifferenceExceeds(session->loaded_at, GetCurrentTimestamp(), ACCOUNT_MAX_AGE_MS);
}

Account *
session_account(AccountSession *session)
{
	MemoryContext fresh;
	MemoryContext caller;
	Account    *account;
	uint64		generation = catalog_generation;

	if (session_is_fresh(session))
		return session->account;
	if (OidIsValid(session->server) && GetForeignServerExtended(session->server, FSV_MISSING_OK) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("server \"%s\" does not exist any more", session->server_name)));

	fresh = AllocSetContextCreate(TopMemoryContext, "dess_batch account", ALLOCSET_SMALL_SIZES);
	PG_TRY();
	{
		caller = MemoryContextSwitchTo(fresh);
		account = account_load(session->server, session->provider_name, session->role);
		MemoryContextSwitchTo(caller);
	}
	PG_CATCH();
	{
		MemoryContextDelete(fresh);
		PG_RE_THROW();
	}
	PG_END_TRY();

	session_apply_limits(session->limits, account);
	MemoryContextDelete(session->account_cxt);
	session->account_cxt = fresh;
	session->account = account;
	if (session->token != NULL && strcmp(session->token_secret, account_fingerprint(account)) != 0)
		session_drop_token(session);
	account->access_token = session->token;
	session->generation = generation;
	session->loaded_at = GetCurrentTimestamp();
	return account;
}

static void
refresh_txn(void *arg)
{
	(void) session_account((AccountSession *) arg);
}

WorkerTxnVerdict
session_refresh(AccountSession *session, WorkerTxnError *error)
{
	if (session_is_fresh(session))
		return WORKER_TXN_DONE;
	if (session->refused == WORKER_TXN_DONE || session->refused_generation != catalog_generation ||
		session->refused_until <= GetCurrentTimestamp())
	{
		session->refused = worker_txn_run("reading server options", refresh_txn, session, &session->why_refused);
		session->refused_generation = catalog_generation;
		session->refused_until = GetCurrentTimestamp() + REFUSED_MS * INT64CONST(1000);
	}
	*error = session->why_refused;
	return session->refused;
}
