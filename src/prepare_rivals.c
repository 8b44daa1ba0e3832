/*-------------------------------------------------------------------------
 *
 * prepare_rivals.c
 *		Rows that other jobs on the same table and target have in flight.
 *
 * They are passed over, so that no row is bought twice.  Their keys' digests
 * are kept by batch, because hundreds of jobs may wait and each page of each of
 * them asks: only rows that a batch has taken since are read.  Rows that have
 * ended since the batch was read are passed over for once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline.h"

/* a batch of which rows have ended is read anew, at most as often as this */
#define READ_ANEW_MS	1000
/* a batch that nobody has asked for is forgotten after this */
#define FORGET_MS		60000

typedef struct InFlightKey
{
	int64		job_id;
	int64		batch_no;		/* as wide as the other: no padding is hashed */
} InFlightKey;

typedef struct InFlight
{
	InFlightKey key;			/* first */
	int			items;			/* rows that were looked at */
	int			finished;		/* how many had ended when they were */
	uint64	   *hashes;			/* of the keys of the others, ascending; NULL: none */
	int			n;
	TimestampTz read_at;
	TimestampTz asked_at;
} InFlight;

static HTAB *in_flight = NULL;
static MemoryContext hashes_cxt;

/* what the slice under way asks; in its memory */
static InFlight **asked;
static int	nasked;
static uint64 *waiting;
static int	nwaiting;

static void
rivals_init(void)
{
	HASHCTL		ctl = {.keysize = sizeof(InFlightKey), .entrysize = sizeof(InFlight), .hcxt = TopMemoryContext};

	hashes_cxt = AllocSetContextCreate(TopMemoryContext, "dess_batch rows in flight", ALLOCSET_DEFAULT_SIZES);
	in_flight = hash_create("dess_batch batches in flight", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* Both ascending, into a new array of the same order. */
static uint64 *
merge_hashes(const uint64 *a, int na, const uint64 *b, int nb)
{
	uint64	   *result = MemoryContextAllocHuge(hashes_cxt, Max((Size) na + nb, 1) * sizeof(uint64));
	int			i = 0;
	int			j = 0;
	int			n = 0;

	while (i < na && j < nb)
		result[n++] = a[i] <= b[j] ? a[i++] : b[j++];
	while (i < na)
		result[n++] = a[i++];
	while (j < nb)
		result[n++] = b[j++];
	return result;
}

/* A batch's rows in flight, as they are now or were a moment ago. */
static InFlight *
rivals_read_batch(const RivalBatch *batch, TimestampTz now)
{
	InFlightKey key = {batch->job_id, batch->no};
	bool		found;
	bool		anew;
	InFlight   *entry = hash_search(in_flight, &key, HASH_ENTER, &found);
	uint64	   *before;
	uint64	   *hashes;
	int			n;

	if (!found)
		memset((char *) entry + sizeof(InFlightKey), 0, sizeof(InFlight) - sizeof(InFlightKey));
	entry->asked_at = now;
	anew = batch->items < entry->items ||
		(batch->finished != entry->finished && TimestampDifferenceExceeds(entry->read_at, now, READ_ANEW_MS));
	if (!anew && batch->items == entry->items)
		return entry;

	n = jobstore_load_batch_keys(batch, anew ? 0 : entry->items, &hashes);
	before = entry->hashes;
	entry->hashes = merge_hashes(before, anew ? 0 : entry->n, hashes, n);
	entry->n = anew ? n : entry->n + n;
	if (before != NULL)
		pfree(before);
	if (anew || entry->items == 0)
	{
		entry->finished = batch->finished;
		entry->read_at = now;
	}
	entry->items = batch->items;
	pfree(hashes);
	return entry;
}

static void
rivals_forget(TimestampTz now)
{
	HASH_SEQ_STATUS status;
	InFlight   *entry;

	hash_seq_init(&status, in_flight);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		if (!TimestampDifferenceExceeds(entry->asked_at, now, FORGET_MS))
			continue;
		if (entry->hashes != NULL)
			pfree(entry->hashes);
		(void) hash_search(in_flight, &entry->key, HASH_REMOVE, NULL);
	}
}

void
rivals_load(const JobTask *task)
{
	TimestampTz now = GetCurrentTimestamp();
	RivalBatch *batches;
	int			n = jobstore_load_rival_batches(task->job, &batches);

	if (in_flight == NULL)
		rivals_init();
	nasked = 0;
	asked = palloc_array(InFlight *, Max(n, 1));
	for (int i = 0; i < n; i++)
		asked[nasked++] = rivals_read_batch(&batches[i], now);
	nwaiting = jobstore_load_rivals_waiting(task->job, &waiting);
	rivals_forget(now);
}

static int
compare_uint64(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

static bool
have_hash(const uint64 *hashes, int n, uint64 hash)
{
	return n > 0 && bsearch(&hash, hashes, n, sizeof(uint64), compare_uint64) != NULL;
}

bool
rivals_have(const char *key)
{
	uint64		hash;

	if (nasked == 0 && nwaiting == 0)
		return false;
	hash = key_hash64(key);
	for (int i = 0; i < nasked; i++)
		if (have_hash(asked[i]->hashes, asked[i]->n, hash))
			return true;
	return have_hash(waiting, nwaiting, hash);
}
