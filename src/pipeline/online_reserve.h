/*-------------------------------------------------------------------------
 *
 * online_reserve.h
 *		Online mode: requests of a batch that a budget has to reckon with.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_ONLINE_RESERVE_H
#define DESS_PIPELINE_ONLINE_RESERVE_H

struct MergeState;

typedef struct OnlineReserve
{
	uint32	   *sizes;			/* by item: bytes of the request, while it is sent and not merged; else 0 */
	int64		requests;		/* how many are not 0 */
	int64		bytes;			/* their sum */
	int			as_of;			/* when so many items were finished; -1: they were never counted */
} OnlineReserve;

/* For a batch of so many items, none of them sent; palloc'd. */
extern void online_reserve_init(OnlineReserve *reserve, int nitems);

/* The item's request is sent, or is not (0 bytes). */
extern void online_reserve_set(OnlineReserve *reserve, int no, uint32 bytes);

/* Sees to it that what has been merged is reserved no more. */
extern void online_reserve_settle(OnlineReserve *reserve, const struct MergeState *merge);

#endif							/* DESS_PIPELINE_ONLINE_RESERVE_H */
