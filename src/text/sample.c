/*-------------------------------------------------------------------------
 *
 * sample.c
 *		The rows of a sample: those whose keys have the smallest digests.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "text/row_key.h"
#include "text/sample.h"

Sample *
sample_create(int64 rows)
{
	Sample	   *sample = palloc0_object(Sample);

	sample->cxt = CurrentMemoryContext;
	sample->capacity = (int) Min(rows, SAMPLE_MAX_ROWS);
	sample->heap = palloc_array(SampleKey, sample->capacity);
	return sample;
}

static void
swap_keys(SampleKey *a, SampleKey *b)
{
	SampleKey	swap = *a;

	*a = *b;
	*b = swap;
}

static void
sift_down(SampleKey *heap, int n)
{
	int			i = 0;

	for (;;)
	{
		int			child = 2 * i + 1;

		if (child >= n)
			return;
		if (child + 1 < n && heap[child + 1].hash > heap[child].hash)
			child++;
		if (heap[i].hash >= heap[child].hash)
			return;
		swap_keys(&heap[i], &heap[child]);
		i = child;
	}
}

static void
sift_up(SampleKey *heap, int i)
{
	while (i > 0 && heap[i].hash > heap[(i - 1) / 2].hash)
	{
		swap_keys(&heap[i], &heap[(i - 1) / 2]);
		i = (i - 1) / 2;
	}
}

void
sample_add(Sample *sample, const char *key)
{
	uint64		hash = key_hash64(key);

	if (sample->nkeys < sample->capacity)
	{
		sample->heap[sample->nkeys].hash = hash;
		sample->heap[sample->nkeys].key = MemoryContextStrdup(sample->cxt, key);
		sift_up(sample->heap, sample->nkeys++);
	}
	else if (hash < sample->heap[0].hash)
	{
		pfree(sample->heap[0].key);
		sample->heap[0].hash = hash;
		sample->heap[0].key = MemoryContextStrdup(sample->cxt, key);
		sift_down(sample->heap, sample->nkeys);
	}
}

char **
sample_keys(const Sample *sample)
{
	char	  **keys = palloc_array(char *, sample->nkeys + 1);

	for (int i = 0; i < sample->nkeys; i++)
		keys[i] = sample->heap[i].key;
	return keys;
}
