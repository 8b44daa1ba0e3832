/*-------------------------------------------------------------------------
 *
 * item.c
 *		The ledger: rows of batches, as they are prepared.
 *
 * Rows are kept many to a tuple, as arrays.  Items are inserted when they are
 * prepared and results when they are merged (result.c), and neither is updated
 * in the ordinary course; a row's result is found by its number in the batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "port/pg_bswap.h"
#include "utils/memutils.h"

#include "ledger/internal.h"

static Statement insert_items = {
	.sql = "INSERT INTO dess_batch.item (job_id, batch_no, first_no, keys, hashes, same_as, held, attempts) "
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
};

static Statement grow_unsent = {
	.sql = "INSERT INTO dess_batch.batch AS b (job_id, no, state, token, items, finished_at) "
	"VALUES ($1, 0, 'done', '', $2, now()) "
	"ON CONFLICT (job_id, no) DO UPDATE SET items = b.items + excluded.items "
	"RETURNING b.items"
};

/* The number of attempts that is stored as null. */
static int
usual_attempts(int batch_no)
{
	return batch_no == 0 ? 0 : 1;
}

/* Makes batch 0 if there is none, adds n rows to its number, and returns the number of the first one. */
static int
make_unsent_room(int64 job_id, int n)
{
	ledger_run(&grow_unsent, arg_int64(job_id), arg_int32(n));
	return ledger_get_int32(0, 1) - n + 1;
}

/* A column of one number a row; NULL if all are the usual one. */
static Arg
arg_same_as(const JobItem *items, int nitems)
{
	int32	   *same_as = palloc_array(int32, nitems);
	bool		any = false;

	for (int i = 0; i < nitems; i++)
	{
		same_as[i] = items[i].same_as;
		any = any || same_as[i] != 0;
	}
	return any ? arg_int32s(same_as, nitems) : arg_null(INT4ARRAYOID);
}

static Arg
arg_attempts(const JobItem *items, int nitems, int usual)
{
	int16	   *attempts = palloc_array(int16, nitems);
	bool		any = false;

	for (int i = 0; i < nitems; i++)
	{
		attempts[i] = (int16) Min(items[i].attempts, PG_INT16_MAX);
		any = any || items[i].attempts != usual;
	}
	return any ? arg_int16s(attempts, nitems) : arg_null(INT2ARRAYOID);
}

/* A column of some bytes a row. */
static Arg
arg_hashes(const JobItem *items, int nitems)
{
	Digest	   *hashes = palloc_array(Digest, nitems);

	for (int i = 0; i < nitems; i++)
		hashes[i] = items[i].hash;
	return arg_bytes(hashes, nitems * sizeof(Digest));
}

static Arg
arg_held(const JobItem *items, int nitems)
{
	uint64	   *held = palloc_array(uint64, nitems);
	bool		any = false;

	for (int i = 0; i < nitems; i++)
	{
		held[i] = pg_hton64(items[i].held);
		any = any || held[i] != 0;
	}
	return any ? arg_bytes(held, nitems * sizeof(uint64)) : arg_null(BYTEAOID);
}

int
ledger_insert_items(int64 job_id, int batch_no, int first_no, const JobItem *items, int nitems)
{
	Ledger		ledger;
	const char **keys;

	if (nitems <= 0)
		return first_no;

	ledger_open(&ledger);
	if (batch_no == 0)
		first_no = make_unsent_room(job_id, nitems);

	keys = palloc_array(const char *, nitems);
	for (int i = 0; i < nitems; i++)
		keys[i] = items[i].key;

	ledger_run(&insert_items, arg_int64(job_id), arg_int32(batch_no), arg_int32(first_no),
			   arg_texts(keys, nitems), arg_hashes(items, nitems), arg_same_as(items, nitems),
			   arg_held(items, nitems), arg_attempts(items, nitems, usual_attempts(batch_no)));
	ledger_close(&ledger);
	return first_no;
}

/* ---- loading items ---- */

static Statement select_items = {
	.sql = "SELECT first_no, keys, hashes, same_as, held, attempts FROM dess_batch.item "
	"WHERE job_id = $1 AND batch_no = $2 AND first_no >= $3 AND first_no < $4 ORDER BY first_no"
};

static Statement select_finished = {
	.sql = "SELECT nos FROM dess_batch.result WHERE job_id = $1 AND batch_no = $2"
};

/* Bytes of a column that has width bytes for each of nitems rows; NULL if the column is null. */
static const uint8 *
fixed_column(uint64 row, int column, int nitems, int width)
{
	bytea	   *value;

	if (ledger_is_null(row, column))
		return NULL;
	value = DatumGetByteaPP(ledger_datum(row, column));
	if (VARSIZE_ANY_EXHDR(value) != nitems * width)
		elog(ERROR, "column %d of an item has the wrong length", column);
	return (const uint8 *) VARDATA_ANY(value);
}

/* Elements of a column of fixed-length integers; NULL if the column is null. */
static Datum *
integer_column(uint64 row, int column, int nitems, Oid type, int length, char align)
{
	Datum	   *elements;
	int			n;

	if (ledger_is_null(row, column))
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, column)),
					  type, length, true, align, &elements, NULL, &n);
	if (n != nitems)
		elog(ERROR, "column %d of an item has the wrong length", column);
	return elements;
}

/*
 * Adds one tuple of items; returns how many there are now.  (*items)[0] is that
 * of number before + 1; *items grows together with *places.
 */
static int
load_item_tuple(const Ledger *ledger, uint64 row, int batch_no, int before, JobItem **items, int *places)
{
	int			first = ledger_get_int32(row, 1) - 1 - before;
	Datum	   *keys;
	bool	   *forgotten;
	int			n;
	const uint8 *hashes;
	Datum	   *same_as;
	const uint8 *held;
	Datum	   *attempts;
	size_t		room = 0;
	char	   *place;

	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, 2)), TEXTOID, -1, false, TYPALIGN_INT,
					  &keys, &forgotten, &n);
	hashes = fixed_column(row, 3, n, DIGEST_LENGTH);
	same_as = integer_column(row, 4, n, INT4OID, sizeof(int32), TYPALIGN_INT);
	held = fixed_column(row, 5, n, sizeof(uint64));
	attempts = integer_column(row, 6, n, INT2OID, sizeof(int16), TYPALIGN_SHORT);

	if (first + n > *places)
	{
		/* a batch can have hundreds of thousands of rows, so the array grows by an eighth only */
		int			more = Max(*places + *places / 8, first + n);

		*items = repalloc_huge(*items, more * sizeof(JobItem));
		memset(*items + *places, 0, (more - *places) * sizeof(JobItem));
		*places = more;
	}
	/* the keys of a tuple share one piece of memory */
	for (int i = 0; i < n; i++)
		room += forgotten[i] ? 0 : VARSIZE_ANY_EXHDR(DatumGetTextPP(keys[i])) + 1;
	place = MemoryContextAlloc(ledger->caller, room + 1);
	for (int i = 0; i < n; i++)
	{
		JobItem    *item = *items + first + i;
		uint64		digest = 0;

		if (!forgotten[i])
		{
			text	   *key = DatumGetTextPP(keys[i]);
			size_t		length = VARSIZE_ANY_EXHDR(key);

			item->key = place;
			memcpy(item->key, VARDATA_ANY(key), length);
			item->key[length] = '\0';
			place += length + 1;
		}
		memcpy(item->hash.bytes, hashes + i * DIGEST_LENGTH, DIGEST_LENGTH);
		item->same_as = same_as ? DatumGetInt32(same_as[i]) : 0;
		if (held != NULL)
			memcpy(&digest, held + i * sizeof(uint64), sizeof(uint64));
		item->held = pg_ntoh64(digest);
		item->attempts = attempts ? DatumGetInt16(attempts[i]) : usual_attempts(batch_no);
	}
	return first + n;
}

/* Marks the rows of one tuple of results; finished[0] is that of number before + 1. */
static void
mark_finished(uint64 row, int before, bool *finished, int nitems)
{
	Datum	   *nos;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, 1)), INT4OID, sizeof(int32), true, TYPALIGN_INT,
					  &nos, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		int			no = DatumGetInt32(nos[i]) - before;

		if (no >= 1 && no <= nitems)
			finished[no - 1] = true;
	}
}

int
ledger_load_items_between(int64 job_id, int batch_no, int from, int to, JobItem **items, bool **finished)
{
	Ledger		ledger;
	MemoryContext connection;
	MemoryContext tuple_context;
	int			before = from - 1;
	int			places = 1024;
	int			nitems = 0;
	uint64		n;

	ledger_open(&ledger);
	tuple_context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch items",
										  ALLOCSET_DEFAULT_SIZES);
	*items = MemoryContextAllocExtended(ledger.caller, places * sizeof(JobItem), MCXT_ALLOC_ZERO);

	n = ledger_run(&select_items, arg_int64(job_id), arg_int32(batch_no), arg_int32(from), arg_int32(to));
	connection = MemoryContextSwitchTo(tuple_context);
	for (uint64 i = 0; i < n; i++)
	{
		nitems = load_item_tuple(&ledger, i, batch_no, before, items, &places);
		MemoryContextReset(tuple_context);
	}
	MemoryContextSwitchTo(connection);

	*finished = MemoryContextAllocZero(ledger.caller, nitems + 1);
	n = ledger_run(&select_finished, arg_int64(job_id), arg_int32(batch_no));
	MemoryContextSwitchTo(tuple_context);
	for (uint64 i = 0; i < n; i++)
	{
		mark_finished(i, before, *finished, nitems);
		MemoryContextReset(tuple_context);
	}
	MemoryContextSwitchTo(connection);
	ledger_close(&ledger);
	return nitems;
}

int
ledger_load_items(int64 job_id, int batch_no, JobItem **items, bool **finished)
{
	return ledger_load_items_between(job_id, batch_no, 1, PG_INT32_MAX, items, finished);
}
