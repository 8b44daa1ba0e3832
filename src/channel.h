/*-------------------------------------------------------------------------
 *
 * channel.h
 *		An account in use: what all jobs of one server and role share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_CHANNEL_H
#define DESS_CHANNEL_H

#include "lib/ilist.h"

#include "provider.h"
#include "sched.h"

typedef struct Channel
{
	dlist_node	node;
	Oid			server;			/* InvalidOid: built in */
	char		provider_name[NAMEDATALEN];
	Oid			role;
	MemoryContext account_cxt;
	Account    *account;		/* NULL until loaded */
	TimestampTz loaded_at;

	Concurrency concurrency;	/* online requests */
	RateWindow	requests;
	RateWindow	tokens;
	int			online_in_flight;
	TimestampTz blocked_until;	/* online: the server asked for a pause, or cannot be reached */
	int			unreachable;	/* failures to connect in a row */
	int64		enqueued_tokens;	/* estimate of what waits at the provider */
	int			active_batches; /* uploading .. running */
} Channel;

/* The channel of a server and a role; made when new.  Lives as long as the process. */
extern Channel *channel_get(Oid server, const char *provider_name, Oid role);

/*
 * The account, not older than a second: a changed secret is used from the next
 * request on.  Needs a transaction; raises what account_load() raises.
 */
extern Account *channel_account(Channel *channel);
extern bool channel_is_fresh(const Channel *channel);	/* channel_account() would do nothing */

#endif							/* DESS_CHANNEL_H */
