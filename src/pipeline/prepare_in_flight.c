/*-------------------------------------------------------------------------
 *
 * prepare_in_flight.c
 *		Rows that other jobs on the same table and target have in flight.
 *
 * They are passed over, so that no row is bought twice.  Their keys' digests
 * are kept by batch, because hundreds of jobs may wait and each page of each of
 * them asks: only rows that a batch has taken since are read.  Rows that have
 * ended since the batch was read are passed over for once.  Rows that wait to be
 * sent once more are kept by job, in the same way.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "pipeline/internal.h"

/* a batch of which rows have ended is read anew, at most as often as this */
#define READ_ANEW_MS	1000
/* a batch that nobody has asked for is forgotten after this */
#define FORGET_MS		60000
/* rows that wait are read anew for this part of the time at most */
#define WAITING_SHARE	20
/* they are no batch's */
#define NO_BATCH		(-1)

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
	int64		last_id;		/* of the rows that wait: those up to it were looked at */
	int64		read_ms;		/* and how long it took */
	uint64	   *hashes;			/* of the keys of the others, ascending; NULL: none */
	int			n;
	TimestampTz read_at;
	TimestampTz asked_at;
} InFlight;

static HTAB *in_flight = NULL;
static MemoryContext hashes_cxt;

/* what the transaction under way asks; in its memory */
static InFlight **asked;
static int	nasked;

static void
in_flight_init(void)
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

static InFlight *
in_flight_entry(int64 job_id, int64 batch_no, TimestampTz now)
{
	InFlightKey key = {job_id, batch_no};
	bool		found;
	InFlight   *entry = hash_search(in_flight, &key, HASH_ENTER, &found);

	if (!found)
		memset((char *) entry + sizeof(InFlightKey), 0, sizeof(InFlight) - sizeof(InFlightKey));
	entry->asked_at = now;
	return entry;
}

/* Adds keys; the old ones go if it is read anew. */
static void
in_flight_add(InFlight *entry, bool anew, uint64 *hashes, int n)
{
	uint64	   *before = entry->hashes;

	entry->hashes = merge_hashes(before, anew ? 0 : entry->n, hashes, n);
	entry->n = anew ? n : entry->n + n;
	if (before != NULL)
		pfree(before);
	pfree(hashes);
}

/* A batch's rows in flight, as they are now or were a moment ago. */
static InFlight *
in_flight_read_batch(const InFlightBatch *batch, TimestampTz now)
{
	InFlight   *entry = in_flight_entry(batch->job_id, batch->no, now);
	bool		anew;
	uint64	   *hashes;
	int			n;

	anew = batch->items < entry->items ||
		(batch->finished != entry->finished && TimestampDifferenceExceeds(entry->read_at, now, READ_ANEW_MS));
	if (!anew && batch->items == entry->items)
		return entry;

	n = ledger_load_batch_keys(batch, anew ? 0 : entry->items, &hashes);
	in_flight_add(entry, anew, hashes, n);
	if (anew || entry->items == 0)
	{
		entry->finished = batch->finished;
		entry->read_at = now;
	}
	entry->items = batch->items;
	return entry;
}

/* Rows of a job that wait to be sent once more; those that no longer do are known as its batches' for a while. */
static InFlight *
in_flight_read_waiting(const InFlightWaiting *waiting, TimestampTz now)
{
	InFlight   *entry = in_flight_entry(waiting->job_id, NO_BATCH, now);
	bool		anew = waiting->rows < entry->n &&
		TimestampDifferenceExceeds(entry->read_at, now, Max(READ_ANEW_MS, WAITING_SHARE * entry->read_ms));

	if (anew)
		entry->last_id = 0;
	if (entry->last_id == 0)
		entry->read_at = now;
	while (entry->last_id < waiting->last_id)
	{
		int64		last_id = entry->last_id;
		uint64	   *hashes;
		int			n = ledger_load_waiting_keys(waiting->job_id, &last_id, &hashes);

		in_flight_add(entry, entry->last_id == 0, hashes, n);
		if (entry->last_id == last_id)
			break;
		entry->last_id = last_id;
		CHECK_FOR_INTERRUPTS();
	}
	if (entry->read_at == now)
		entry->read_ms = TimestampDifferenceMilliseconds(now, GetCurrentTimestamp());
	return entry;
}

static void
in_flight_forget(TimestampTz now)
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
in_flight_load(const JobTask *task)
{
	TimestampTz now = GetCurrentTimestamp();
	InFlightBatch *batches;
	InFlightWaiting *waiting;
	int			nbatches = ledger_load_in_flight_batches(task->job, &batches);
	int			nwaiting = ledger_load_in_flight_waiting(task->job, &waiting);

	if (in_flight == NULL)
		in_flight_init();
	nasked = 0;
	asked = palloc_array(InFlight *, nbatches + nwaiting + 1);
	for (int i = 0; i < nbatches; i++)
		asked[nasked++] = in_flight_read_batch(&batches[i], now);
	/* as many as there are, and no code of the table's */
	worker_txn_begin_own_work();
	for (int i = 0; i < nwaiting; i++)
		asked[nasked++] = in_flight_read_waiting(&waiting[i], now);
	worker_txn_end_own_work();
	in_flight_forget(now);
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
in_flight_have(const char *key)
{
	uint64		hash;

	if (nasked == 0)
		return false;
	hash = key_hash64(key);
	for (int i = 0; i < nasked; i++)
		if (have_hash(asked[i]->hashes, asked[i]->n, hash))
			return true;
	return false;
}
