/*-------------------------------------------------------------------------
 *
 * online_reserve.c
 *		Online mode: requests of a batch that a budget has to reckon with.
 *
 * Each job that sends asks for those of all batches of its server.  So they are
 * summed up as they come and go, and counted anew only when some were merged.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pipeline/merge.h"
#include "pipeline/internal.h"

void
online_reserve_init(OnlineReserve *reserve, int nitems)
{
	memset(reserve, 0, sizeof(*reserve));
	reserve->sizes = palloc0_array(uint32, nitems + 1);
	reserve->as_of = -1;
}

void
online_reserve_set(OnlineReserve *reserve, int no, uint32 bytes)
{
	uint32		before = reserve->sizes[no - 1];

	reserve->sizes[no - 1] = bytes;
	reserve->requests += (bytes != 0) - (before != 0);
	reserve->bytes += (int64) bytes - before;
}

void
online_reserve_settle(OnlineReserve *reserve, const struct MergeState *merge)
{
	if (reserve->as_of == merge->nfinished)
		return;
	for (int i = 0; i < merge->nitems; i++)
	{
		if (merge->finished[i])
			online_reserve_set(reserve, i + 1, 0);
	}
	reserve->as_of = merge->nfinished;
}

void
online_reserved(const BatchTask *batch, int64 *requests, int64 *bytes)
{
	OnlineReserve *reserve = batch->reserve;

	*requests = 0;
	*bytes = 0;
	if (reserve != NULL)
	{
		online_reserve_settle(reserve, batch->merge);
		*requests = reserve->requests;
		*bytes = reserve->bytes;
	}
	else if (batch->batch.state == BATCH_RUNNING)
	{
		*requests = batch->batch.requests;
		*bytes = batch->batch.bytes;
	}
}
