/*-------------------------------------------------------------------------
 *
 * group_size.c
 *		How many rows of a table one worker transaction takes.
 *
 * What a row takes depends on the table's triggers, functions and locks.  A
 * worker transaction that takes long is cancelled and repeated with fewer rows,
 * down to one.  Now and then a larger one is tried.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pipeline/group_size.h"

/* worker transactions that take no longer than this may grow */
#define QUICK_MS		75
/* those that take longer are halved, if that helps */
#define LONG_MS			250
/* several rows must be done in this, or in some times what they took before */
#define GROUP_MS		400
#define GROUP_TIMES		3
/* after so many slow ones of a few rows a larger one is tried */
#define PROBE_EVERY		16

void
group_size_init(GroupSize *size, int first, int most)
{
	memset(size, 0, sizeof(*size));
	size->rows = first;
	size->most = most;
}

int
group_size_limit(const GroupSize *size, int row_limit)
{
	if (size->rows <= 1)
		return row_limit;
	return Max(GROUP_MS, Min(size->ms * GROUP_TIMES, row_limit));
}

/* Tries a larger one.  If it takes as long in proportion, it stays at that. */
static void
probe(GroupSize *size, int64 ms)
{
	size->probed_from = ms <= QUICK_MS ? 0 : size->used;
	size->rows = Min(size->used * 2, size->most);
	size->slow = 0;
}

/* Sees whether half of the rows take half of the time.  Returns true if the number of rows is settled. */
static bool
halve(GroupSize *size, int64 ms)
{
	int64		before = size->halved_ms;

	size->halved_ms = 0;
	if (before > 0 && ms * 4 > before * 3)
	{
		size->fixed = true;
		size->rows = Min(size->used * 2, size->most);
		return true;
	}
	if (ms <= LONG_MS || size->used <= 1 || size->fixed || size->probed_from > 0)
		return false;
	size->halved_ms = ms;
	size->rows = size->used / 2;
	return true;
}

void
group_size_went_well(GroupSize *size, int64 ms)
{
	bool		cheaper = ms <= QUICK_MS || ms * 2 < size->ms * 3;

	if (size->used < size->rows)
		return;
	if (halve(size, ms))
	{
		size->ms = ms;
		return;
	}
	if (size->probed_from > 0 && !cheaper)
	{
		size->rows = size->probed_from;
		size->probed_from = 0;
		size->slow = 1;
		return;
	}
	if (size->rows < size->most &&
		(ms <= QUICK_MS || size->probed_from > 0 || size->slow++ % PROBE_EVERY == 0))
		probe(size, ms);
	else
		size->probed_from = 0;
	size->ms = ms;
}

void
group_size_took_long(GroupSize *size)
{
	if (size->probed_from > 0 && size->probed_from < size->rows)
		size->rows = size->probed_from;
	else
		size->rows = Max(Min(size->rows, size->used) / 8, 1);
	size->probed_from = 0;
	size->halved_ms = 0;
	size->fixed = false;
	size->slow = 1;
}
