/*-------------------------------------------------------------------------
 *
 * account_session.h
 *		An account in use: what all jobs of one server and role share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_ACCOUNT_SESSION_H
#define DESS_PIPELINE_ACCOUNT_SESSION_H

#include "lib/ilist.h"

#include "account/step_run.h"
#include "runtime/clock.h"
#include "runtime/sched.h"
#include "runtime/worker_txn.h"

struct BatchTask;
struct AccountSession;

/* What comes back with a finished transfer. */
typedef struct TransferOwner
{
	struct BatchTask *batch;	/* NULL: the session asks for a token */
	struct AccountSession *session;
	bool		online;			/* an OnlineRequest begins here */
} TransferOwner;

/*
 * What a server's options allow, and what was learnt of its patience: one for
 * all roles, because the server is the account.
 */
typedef struct AccountLimits
{
	dlist_node	node;
	Oid			server;
	char		provider_name[NAMEDATALEN];
	Concurrency concurrency;	/* online requests */
	RateWindow	requests;
	RateWindow	tokens;
	int64		surplus;		/* tokens of a request beyond what its length tells, by experience */
	int			online_in_flight;
	int			online_jobs;	/* that could send more, as of the last count */
	TimestampTz blocked_until;	/* online: the server asked for a pause, or cannot be reached */
	int			unreachable;	/* failures to connect in a row */
	int64		answers;		/* online requests that were answered, and that were refused for load */
	int64		refusals;
	TimestampTz left_queue_at;	/* a batch has ended at the provider */
} AccountLimits;

typedef struct AccountSession
{
	dlist_node	node;
	Oid			server;			/* InvalidOid: built in */
	char		server_name[NAMEDATALEN];	/* for messages */
	char		provider_name[NAMEDATALEN];
	Oid			role;
	MemoryContext account_cxt;
	Account    *account;		/* NULL until loaded */
	TimestampTz loaded_at;
	uint64		generation;		/* of servers and user mappings, as of then */

	/* the last try to load it, while it holds */
	WorkerTxnVerdict refused;		/* WORKER_TXN_DONE: it was loaded */
	WorkerTxnError	why_refused;
	TimestampTz refused_until;
	uint64		refused_generation;

	/* the access token, for providers that exchange the secret for one */
	MemoryContext token_cxt;
	char	   *token;			/* NULL: none */
	TimestampTz token_until;	/* a new one is fetched from then on */
	char	   *token_secret;	/* fingerprint of the account it was given for */

	StepRun		run;			/* the step that fetches it */
	TransferOwner owner;
	TimestampTz authorize_due;	/* not before */
	int			authorize_failures;
	StepError	authorize_error;	/* why the last try failed; code NULL: it did not */

	AccountLimits *limits;
} AccountSession;

/* To be called once by the worker. */
extern void session_init(void);

/* The session of a server and a role; made when new.  Lives as long as the process. */
extern AccountSession *session_get(Oid server, const char *server_name, const char *provider_name, Oid role);

/*
 * The account as it is now: a changed secret is used from the next request on.
 * What is not in a catalog (key files, environment) is looked at every second.  Needs a transaction; raises what account_load() raises.
 */
extern Account *session_account(AccountSession *session);

/*
 * Sees to the account in a transaction of its own, if it is not fresh.  What
 * failed is not tried again for five seconds, however many batches ask.
 */
extern WorkerTxnVerdict session_refresh(AccountSession *session, WorkerTxnError *error);

/* ---- session_token.c ---- */

/* Does every request have what it must carry?  If not, session_authorize() is to be called. */
extern bool session_is_authorized(const AccountSession *session);

/* Sees to a token; one turn.  What comes of it is told by session_is_authorized() and authorize_error. */
extern void session_authorize(AccountSession *session);
extern void session_take_reply(AccountSession *session, HttpReply *reply);

/* The provider refused the token. */
extern void session_drop_token(AccountSession *session);

/* A job begins, or once more: what was refused before may have been put right, and is tried at once. */
extern void session_forget_refusal(AccountSession *session);

/* When session_authorize() has something to do again; DT_NOEND: never by time. */
extern TimestampTz session_due(const AccountSession *session);

/* ---- session_pace.c ---- */

/* What a request was expected to cost when it left. */
typedef struct RequestTicket
{
	int64		bytes;
	int64		tokens;
	int64		taken_at;		/* milliseconds */
} RequestTicket;

/* How many online requests may leave now, and when some may although no reply comes (DT_NOEND: never). */
extern int	session_room(const AccountSession *session);
extern TimestampTz session_opens(const AccountSession *session);

/* Milliseconds until the rates let a request of this length go; 0: now. */
extern int64 session_delay(AccountSession *session, int64 bytes);

/* It goes. */
extern void session_take(AccountSession *session, int64 bytes, RequestTicket *ticket);

/* Is it worth knowing what a reply cost?  0: the reply does not tell. */
extern bool session_counts_tokens(const AccountSession *session);
extern void session_settle_tokens(AccountSession *session, const RequestTicket *ticket, int64 tokens);

/* A reply was an answer; was a 429 (retry_after_ms: -1 if not said); was none.  True: the trouble has become worth telling. */
extern void session_succeeded(AccountSession *session);
extern void session_refused(AccountSession *session, int64 retry_after_ms);
extern bool session_unwell(AccountSession *session);

#endif							/* DESS_PIPELINE_ACCOUNT_SESSION_H */
