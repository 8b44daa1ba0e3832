/*-------------------------------------------------------------------------
 *
 * prepare_rivals.c
 *		Rows that other jobs on the same table and target have in flight.
 *
 * They are passed over, so that no row is bought twice.  Their keys' digests
 * are kept as of a moment, and loaded again whenever a row was prepared since
 * or a user changed a job.  What has ended meanwhile is passed over for once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pipeline.h"

/* counts inserts of items by any job */
static uint64 items_generation = 1;

void
rivals_note_items(void)
{
	items_generation++;
}

void
rivals_load(JobTask *task)
{
	uint64	   *loaded;

	if (!jobstore_has_rival(task->job))
	{
		task->nrivals = 0;
		task->rivals_loaded = false;
		return;
	}
	if (task->rivals_loaded && task->rivals_generation == items_generation)
		return;

	if (task->rivals != NULL)
		pfree(task->rivals);
	task->rivals = NULL;
	task->nrivals = 0;
	task->nrivals = jobstore_load_rival_keys(task->job, &loaded);
	if (task->nrivals > 0)
	{
		task->rivals = MemoryContextAllocHuge(task->cxt, task->nrivals * sizeof(uint64));
		memcpy(task->rivals, loaded, task->nrivals * sizeof(uint64));
	}
	task->rivals_generation = items_generation;
	task->rivals_loaded = true;
}

static int
compare_uint64(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

bool
rivals_have(const JobTask *task, const char *key)
{
	uint64		hash;

	if (task->nrivals == 0)
		return false;
	hash = key_hash64(key);
	return bsearch(&hash, task->rivals, task->nrivals, sizeof(uint64), compare_uint64) != NULL;
}
