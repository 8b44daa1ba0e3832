/*-------------------------------------------------------------------------
 *
 * online_internal.h
 *		Mode online: what sending requests and taking replies share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_ONLINE_INTERNAL_H
#define DESS_PIPELINE_ONLINE_INTERNAL_H

#include "lib/stringinfo.h"

#include "pipeline/internal.h"

typedef struct OnlineRequest
{
	TransferOwner owner;		/* first */
	dlist_node	node;			/* in the list of requests in flight or put back */
	MemoryContext cxt;
	MemoryContextCallback gone;
	int			no;
	char	   *line;
	size_t		length;
	bool		in_flight;
	HttpTransfer *transfer;
	RequestTicket ticket;
	bool		token_refused;	/* the next refusal of an access token is final */

	/* refusals for the server's load */
	TimestampTz due;			/* it is not sent before this */
	int			refused;		/* how often */
	int			refused_alone;	/* of these, while others were answered */
	int64		answers;		/* of the account, as of its first refusal */
	int64		refusals;		/* of the account, but for its own */
} OnlineRequest;

typedef struct OnlineState
{
	MemoryContext cxt;
	MemoryContextCallback gone;
	SpoolReader *reader;		/* of the request file */
	int			next_no;		/* the first item not looked at */
	bool	   *answered;		/* by item: a line is in the result file */
	OnlineReserve reserve;		/* what is sent and not merged; the batch points to it */
	int			nunsent;
	bool		stalled;		/* what is under way must be merged before more is sent */
	dlist_head	in_flight;
	dlist_head	put_back;
	int			nin_flight;
	char	   *result_path;
	int64		result_length;
	StringInfoData arrived;		/* lines not in the file yet */
	int			narrived;
	TimestampTz write_due;		/* they are not written before this, after a failure */
	int			nunmerged;
	TimestampTz first_unmerged;
	TimestampTz send_due;		/* nothing is sent before this */
} OnlineState;

/* The reply of a request in flight has come, or it is given up. */
extern void online_landed(OnlineRequest *request);

#endif							/* DESS_PIPELINE_ONLINE_INTERNAL_H */
