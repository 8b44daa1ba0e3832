/*-------------------------------------------------------------------------
 *
 * in_flight.c
 *		The ledger: rows that other jobs on the same table and target have in flight.
 *
 * Of their keys only hashes are kept, because there may be very many.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ledger/internal.h"

/* waiting rows whose keys are in memory at the same time */
#define WAITING_KEYS_A_LOOK	20000

typedef struct HashArray
{
	uint64	   *hashes;
	size_t		n;
	size_t		size;
} HashArray;

static void
add_hash(HashArray *array, const char *key)
{
	if (array->n == array->size)
	{
		array->size *= 2;
		array->hashes = repalloc_huge(array->hashes, array->size * sizeof(uint64));
	}
	array->hashes[array->n++] = key_hash64(key);
}

static int
compare_hashes(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

static int
hashes_of(HashArray *array, uint64 **hashes)
{
	if (array->n > INT_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many rows in flight")));
	qsort(array->hashes, array->n, sizeof(uint64), compare_hashes);
	*hashes = array->hashes;
	return (int) array->n;
}

/* A job that failed may have left a batch at the provider, whose rows are paid for and must not be bought again. */
static Statement select_in_flight_batches = {
	.sql = "SELECT b.job_id, b.no, b.items, b.ok + b.missing + b.empty + b.failed + b.superseded "
	"FROM dess_batch.job j JOIN dess_batch.batch b ON b.job_id = j.id "
	"WHERE j.source = $2 AND j.target IS NOT DISTINCT FROM $3 AND j.id <> $1 "
	"AND " BATCH_IS_OPEN("b.") " AND NOT " BATCH_IS_FINAL("b.")
};

/* Ids of a job's waiting rows rise in the order of commits, because whoever adds some has locked the job or is its worker. */
static Statement select_in_flight_waiting = {
	.sql = "SELECT j.id, j.requeued, (SELECT max(w.id) FROM dess_batch.retry_queue w WHERE w.job_id = j.id) "
	"FROM dess_batch.job j "
	"WHERE " JOB_IS_OPEN("j.") " AND j.source = $2 AND j.target IS NOT DISTINCT FROM $3 AND j.id <> $1 AND j.requeued > 0"
};

int
ledger_load_in_flight_batches(const Job *job, InFlightBatch **batches)
{
	Ledger		ledger;
	InFlightBatch *result;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&select_in_flight_batches, arg_int64(job->id), arg_oid(job->source),
				   arg_text(job->target));
	result = MemoryContextAllocHuge(ledger.caller, Max(n, 1) * sizeof(InFlightBatch));
	for (uint64 i = 0; i < n; i++)
	{
		result[i].job_id = ledger_get_int64(i, 1, 0);
		result[i].no = ledger_get_int32(i, 2);
		result[i].items = ledger_get_int32(i, 3);
		result[i].finished = ledger_get_int32(i, 4);
	}
	ledger_close(&ledger);
	*batches = result;
	return (int) n;
}

static Statement select_keys = {
	.sql = "SELECT i.first_no, i.keys FROM dess_batch.item i "
	"WHERE i.job_id = $1 AND i.batch_no = $2 AND i.first_no > $3"
};

static Statement select_finished_after = {
	.sql = "SELECT no FROM dess_batch.result r, unnest(r.nos) no WHERE r.job_id = $1 AND r.batch_no = $2 AND no > $3"
};

/* Adds a tuple's keys, except those of rows that have ended; finished begins with the number "after". */
static void
add_tuple_keys(HashArray *array, uint64 row, const bool *finished, int after, int items)
{
	int			first = ledger_get_int32(row, 1);
	Datum	   *keys;
	bool	   *forgotten;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, 2)), TEXTOID, -1, false, TYPALIGN_INT,
					  &keys, &forgotten, &n);
	for (int i = 0; i < n; i++)
	{
		int			no = first + i;

		if (!forgotten[i] && !(no > after && no <= items && finished[no - after]))
			add_hash(array, TextDatumGetCString(keys[i]));
	}
}

int
ledger_load_batch_keys(const InFlightBatch *batch, int after, uint64 **hashes)
{
	Ledger		ledger;
	HashArray	array = {NULL, 0, 1024};
	MemoryContext tuple_context;
	MemoryContext connection;
	bool	   *finished = palloc0(Max(batch->items - after, 0) + 1);
	uint64		n;

	array.hashes = palloc_array(uint64, array.size);
	ledger_open(&ledger);
	n = batch->finished > 0 ? ledger_run(&select_finished_after, arg_int64(batch->job_id),
										 arg_int32(batch->no), arg_int32(after)) : 0;
	for (uint64 i = 0; i < n; i++)
	{
		int			no = ledger_get_int32(i, 1);

		if (no > after && no <= batch->items)
			finished[no - after] = true;
	}
	n = ledger_run(&select_keys, arg_int64(batch->job_id), arg_int32(batch->no), arg_int32(after));
	tuple_context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch rows in flight", ALLOCSET_DEFAULT_SIZES);
	connection = MemoryContextSwitchTo(tuple_context);
	for (uint64 i = 0; i < n; i++)
	{
		add_tuple_keys(&array, i, finished, after, batch->items);
		MemoryContextReset(tuple_context);
	}
	MemoryContextSwitchTo(connection);
	ledger_close(&ledger);
	pfree(finished);
	return hashes_of(&array, hashes);
}

int
ledger_load_in_flight_waiting(const Job *job, InFlightWaiting **waiting)
{
	Ledger		ledger;
	InFlightWaiting *result;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&select_in_flight_waiting, arg_int64(job->id), arg_oid(job->source),
				   arg_text(job->target));
	result = MemoryContextAllocHuge(ledger.caller, Max(n, 1) * sizeof(InFlightWaiting));
	for (uint64 i = 0; i < n; i++)
	{
		result[i].job_id = ledger_get_int64(i, 1, 0);
		result[i].rows = ledger_get_int64(i, 2, 0);
		result[i].last_id = ledger_get_int64(i, 3, 0);
	}
	ledger_close(&ledger);
	*waiting = result;
	return (int) n;
}

int
ledger_load_waiting_keys(int64 job_id, int64 *last_id, uint64 **hashes)
{
	static Statement statement = {
		.sql = "SELECT w.id, w.key, w.counts FROM dess_batch.retry_queue w WHERE w.job_id = $1 AND w.id > $2 ORDER BY w.id LIMIT $3"
	};
	Ledger		ledger;
	HashArray	array = {NULL, 0, WAITING_KEYS_A_LOOK};
	uint64		n;

	array.hashes = palloc_array(uint64, array.size);
	ledger_open(&ledger);
	n = ledger_run(&statement, arg_int64(job_id), arg_int64(*last_id), arg_int64(WAITING_KEYS_A_LOOK));
	for (uint64 i = 0; i < n; i++)
	{
		*last_id = ledger_get_int64(i, 1, 0);
		if (ledger_get_bool(i, 3))
			add_hash(&array, TextDatumGetCString(ledger_datum(i, 2)));
	}
	ledger_close(&ledger);
	return hashes_of(&array, hashes);
}

/* Adds hashes that were loaded, and frees them. */
static void
add_hashes(HashArray *array, uint64 *more, int n)
{
	array->hashes = repalloc_huge(array->hashes, Max(array->n + n, 1) * sizeof(uint64));
	memcpy(array->hashes + array->n, more, n * sizeof(uint64));
	array->n += n;
	pfree(more);
}

int
ledger_load_in_flight_keys(const Job *job, uint64 **hashes)
{
	HashArray	array = {palloc(sizeof(uint64)), 0, 1};
	InFlightBatch *batches;
	InFlightWaiting *waiting;
	int			nbatches = ledger_load_in_flight_batches(job, &batches);
	int			nwaiting = ledger_load_in_flight_waiting(job, &waiting);
	uint64	   *more;
	int			n;

	for (int i = 0; i < nwaiting; i++)
	{
		int64		last_id = 0;

		while (last_id < waiting[i].last_id)
		{
			int64		before = last_id;

			n = ledger_load_waiting_keys(waiting[i].job_id, &last_id, &more);
			add_hashes(&array, more, n);
			if (last_id == before)
				break;
		}
	}
	for (int i = 0; i < nbatches; i++)
	{
		n = ledger_load_batch_keys(&batches[i], 0, &more);
		add_hashes(&array, more, n);
	}
	return hashes_of(&array, hashes);
}
