/*-------------------------------------------------------------------------
 *
 * retry_queue.c
 *		The ledger: rows that wait to be taken by key, and those that need not
 *		be taken at all.
 *
 * A waiting row either is one of the job's rows already (it failed and is sent
 * once more; the job's "requeued" counts it) or is named by sample or only and
 * becomes one when it is taken.
 *
 * A row is settled if its very same request has ended in a way that another
 * try would only repeat.  This outlives the job.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ledger/internal.h"

/* ---- waiting rows ---- */

/*
 * Where the last ledger_retry_queue_take() ended, so that it need not pass again
 * over the index entries of what it deleted.  Only a hint: when there is too
 * little behind it, the search begins anew.
 */
static int64 taken_job = 0;
static int64 taken_id = 0;

static void
add_requeued(int64 job_id, int64 n)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET requeued = j.requeued + $2 WHERE j.id = $1"
	};
	Args		args = {0};

	if (n == 0)
		return;
	arg_int64(&args, job_id);
	arg_int64(&args, n);
	ledger_run(&statement, &args);
}

void
ledger_retry_queue_insert(int64 job_id, char **keys, const int *attempts, int n)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts) "
		"SELECT $1, u.key, coalesce(u.attempts, 0), $4 "
		"FROM unnest($2, $3) WITH ORDINALITY AS u(key, attempts, i) "
		"WHERE u.key IS NOT NULL ORDER BY u.i"
	};
	Ledger		ledger;
	Args		args = {0};
	uint64		inserted;

	if (n <= 0)
		return;

	ledger_open(&ledger);
	arg_int64(&args, job_id);
	arg_texts(&args, (const char *const *) keys, n);
	if (attempts != NULL)
		arg_int32s(&args, attempts, n);
	else
		arg_datum(&args, INT4ARRAYOID, (Datum) 0, true);
	arg_bool(&args, attempts != NULL);
	inserted = ledger_run(&statement, &args);
	if (attempts != NULL)
		add_requeued(job_id, inserted);
	ledger_close(&ledger);
}

void
ledger_retry_queue_list(int64 job_id, char **keys, const Digest *hashes, const int *with_hash, int n)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts, unless_hash) "
		"SELECT $1, u.key, 0, false, CASE WHEN u.with_hash <> 0 THEN u.hash END "
		"FROM unnest($2, $3, $4) WITH ORDINALITY AS u(key, hash, with_hash, i) ORDER BY u.i"
	};
	Ledger		ledger;
	Args		args = {0};

	if (n <= 0)
		return;

	ledger_open(&ledger);
	arg_int64(&args, job_id);
	arg_texts(&args, (const char *const *) keys, n);
	arg_digests(&args, hashes, n);
	arg_int32s(&args, with_hash, n);
	ledger_run(&statement, &args);
	ledger_close(&ledger);
}

void
ledger_retry_queue_return(int64 job_id, const RetryRow *row)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.retry_queue (job_id, id, key, attempts, counts, unless_hash) "
		"VALUES ($1, $2, $3, $4, $5, $6)"
	};
	Ledger		ledger;
	Args		args = {0};

	ledger_open(&ledger);
	arg_int64(&args, job_id);
	arg_int64(&args, row->id);
	arg_text(&args, row->key);
	arg_int32(&args, row->attempts);
	arg_bool(&args, row->counts);
	if (row->has_hash)
		arg_bytes(&args, row->unless_hash.bytes, DIGEST_LENGTH);
	else
		arg_datum(&args, BYTEAOID, (Datum) 0, true);
	ledger_run(&statement, &args);
	if (row->counts)
		add_requeued(job_id, 1);
	ledger_close(&ledger);
	taken_job = 0;
}

static RetryRow *
read_retry_row(const Ledger *ledger, uint64 i)
{
	RetryRow   *row = MemoryContextAllocZero(ledger->caller, sizeof(RetryRow));

	row->id = ledger_get_int64(i, 1, 0);
	row->key = ledger_get_text(ledger, i, 2);
	row->attempts = ledger_get_int32(i, 3);
	row->counts = ledger_get_bool(i, 4);
	row->has_hash = !ledger_is_null(i, 5);
	if (row->has_hash)
	{
		bytea	   *hash = DatumGetByteaPP(ledger_datum(i, 5));

		if (VARSIZE_ANY_EXHDR(hash) != DIGEST_LENGTH)
			elog(ERROR, "a waiting row's digest has the wrong length");
		memcpy(row->unless_hash.bytes, VARDATA_ANY(hash), DIGEST_LENGTH);
	}
	return row;
}

/* Takes rows behind id after; appends them to rows and returns how many of them count. */
static int64
take_behind(const Ledger *ledger, int64 job_id, int64 after, int limit, List **rows)
{
	static Statement statement = {
		/* an array is made once; IN would be a join, made anew for each row where statistics say that there are few */
		.sql = "WITH gone AS (DELETE FROM dess_batch.retry_queue a WHERE a.job_id = $1 AND a.id = ANY (ARRAY("
		"SELECT w.id FROM dess_batch.retry_queue w WHERE w.job_id = $1 AND w.id > $2 ORDER BY w.id LIMIT $3)) "
		"RETURNING a.id, a.key, a.attempts::integer, a.counts, a.unless_hash) "
		"SELECT * FROM gone ORDER BY id"
	};
	Args		args = {0};
	int64		counting = 0;
	uint64		n;

	arg_int64(&args, job_id);
	arg_int64(&args, after);
	arg_int64(&args, limit);
	n = ledger_run(&statement, &args);
	for (uint64 i = 0; i < n; i++)
	{
		RetryRow   *row = read_retry_row(ledger, i);
		MemoryContext old = MemoryContextSwitchTo(ledger->caller);

		*rows = lappend(*rows, row);
		MemoryContextSwitchTo(old);
		counting += row->counts ? 1 : 0;
	}
	return counting;
}

List *
ledger_retry_queue_take(int64 job_id, int limit)
{
	Ledger		ledger;
	List	   *rows = NIL;
	int64		counting = 0;

	if (limit <= 0)
		return NIL;

	ledger_open(&ledger);
	if (taken_job == job_id)
		counting += take_behind(&ledger, job_id, taken_id, limit, &rows);
	if (list_length(rows) < limit)
		counting += take_behind(&ledger, job_id, 0, limit - list_length(rows), &rows);
	add_requeued(job_id, -counting);
	ledger_close(&ledger);

	if (rows != NIL)
	{
		taken_job = job_id;
		taken_id = ((RetryRow *) llast(rows))->id;
	}
	return rows;
}

int64
ledger_retry_queue_count(int64 job_id, int64 *counted_ones)
{
	static Statement statement = {
		.sql = "SELECT count(*), count(*) FILTER (WHERE a.counts) FROM dess_batch.retry_queue a WHERE a.job_id = $1"
	};
	Ledger		ledger;
	Args		args = {0};
	int64		all;

	ledger_open(&ledger);
	arg_int64(&args, job_id);
	ledger_run(&statement, &args);
	all = ledger_get_int64(0, 1, 0);
	if (counted_ones != NULL)
		*counted_ones = ledger_get_int64(0, 2, 0);
	ledger_close(&ledger);
	return all;
}

/* Those that count become rows of batch 0 with an outcome, the others are dropped. */
bool
ledger_close_retry_queue(const Job *job, Outcome outcome, int limit)
{
	List	   *rows;
	int			taken = 0;

	while (taken < limit && (rows = ledger_retry_queue_take(job->id, Min(limit - taken, 1000))) != NIL)
	{
		JobItem    *items = palloc0_array(JobItem, list_length(rows));
		ItemResult *results = palloc0_array(ItemResult, list_length(rows));
		int			first_no;
		int			n = 0;
		ListCell   *lc;

		foreach(lc, rows)
		{
			const RetryRow *row = lfirst(lc);

			if (!row->counts)
				continue;
			items[n].key = row->key;
			items[n].attempts = row->attempts;
			results[n++].outcome = outcome;
		}
		first_no = ledger_insert_items(job->id, 0, 0, items, n);
		for (int i = 0; i < n; i++)
			results[i].no = first_no + i;
		ledger_add_results(job, 0, results, n, 0);
		taken += list_length(rows);
	}
	return taken < limit;
}

bool
job_takes_new(const Job *job)
{
	ListCell   *lc;

	foreach(lc, job->only)
	{
		if (strcmp(lfirst(lc), "new") == 0)
			return true;
	}
	return false;
}

/*
 * The last thing known of each key on this table and target: what a row that is
 * in flight will be is not known, so it is not listed.  Rows with "changed" are
 * passed over later if their request still has the hash it had.  The worker
 * does the same piece by piece, see prepare_only.c.
 */
int64
ledger_list_only(const Job *job)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.retry_queue (job_id, key, attempts, counts, unless_hash) "
		"SELECT $1, l.key, 0, false, CASE WHEN l.outcome <> ALL ($6) THEN l.hash END "
		"FROM (SELECT DISTINCT ON (e.key) e.key, e.hash, e.outcome FROM ("
		"SELECT r.key COLLATE \"C\" AS key, r.hash, r.outcome::text AS outcome, "
		"coalesce(r.finished_at, 'infinity') AS at, r.job_id, r.batch_no, r.no "
		"FROM dess_batch.job j JOIN dess_batch.item_result r ON r.job_id = j.id "
		"WHERE j.source = $2 AND j.target IS NOT DISTINCT FROM $3 AND j.key_columns = $4 "
		"AND r.key IS NOT NULL AND r.outcome IS DISTINCT FROM 'superseded' "
		"UNION ALL "
		"SELECT w.key, NULL, NULL, 'infinity', 0, 0, 0 FROM dess_batch.job j JOIN dess_batch.retry_queue w ON w.job_id = j.id "
		"WHERE j.source = $2 AND j.target IS NOT DISTINCT FROM $3 AND j.key_columns = $4 "
		"AND w.counts AND " JOB_IS_OPEN("j.") " "
		"UNION ALL "
		"SELECT s.key, s.hash, s.outcome::text, s.settled_at, 0, 0, 0 FROM dess_batch.settled s "
		"WHERE s.source = $2 AND s.target = coalesce($3, '') AND s.key_columns = $5"
		") e ORDER BY e.key, e.at DESC, e.job_id DESC, e.batch_no DESC, e.no DESC) l "
		"WHERE l.outcome = ANY ($6) OR l.outcome IS NOT NULL AND 'changed' = ANY ($6) "
		"ORDER BY l.key"
	};
	Ledger		ledger;
	Args		args = {0};
	char	   *names;
	uint64		n;

	ledger_open(&ledger);
	names = key_join_list(job->key_columns);
	arg_int64(&args, job->id);
	arg_oid(&args, job->source);
	arg_text(&args, job->target);
	arg_list(&args, job->key_columns);
	arg_text(&args, names);
	arg_list(&args, job->only);
	n = ledger_run(&statement, &args);
	ledger_close(&ledger);
	return (int64) n;
}

/* ---- settled rows ---- */

/* The first five arguments: source, target, names of the key's columns, keys, hashes. */
static void
settled_args(Args *args, const Job *job, char **keys, const Digest *hashes, int n)
{
	arg_oid(args, job->source);
	arg_text(args, job->target ? job->target : "");
	arg_text(args, key_join_list(job->key_columns));
	arg_texts(args, (const char *const *) keys, n);
	arg_digests(args, hashes, n);
}

void
ledger_settle(const Job *job, char **keys, const Digest *hashes, const Outcome *outcomes, int n)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.settled AS s (source, source_name, target, key_columns, key, hash, outcome) "
		"SELECT DISTINCT ON (u.key COLLATE \"C\", u.hash) $1, $7, $2, $3, u.key, u.hash, u.outcome::dess_batch.outcome "
		"FROM unnest($4, $5, $6) WITH ORDINALITY AS u(key, hash, outcome, i) "
		"WHERE u.key IS NOT NULL ORDER BY u.key COLLATE \"C\", u.hash, u.i DESC "
		"ON CONFLICT (source, target, key, hash) DO UPDATE SET outcome = excluded.outcome, "
		"key_columns = excluded.key_columns, settled_at = excluded.settled_at"
	};
	Ledger		ledger;
	Args		args = {0};
	const char **names;

	if (n <= 0)
		return;

	ledger_open(&ledger);
	names = palloc_array(const char *, n);
	for (int i = 0; i < n; i++)
		names[i] = outcome_name(outcomes[i]);
	settled_args(&args, job, keys, hashes, n);
	arg_texts(&args, names, n);
	arg_text(&args, job->source_name);
	ledger_run(&statement, &args);
	ledger_close(&ledger);
}

void
ledger_find_settled(const Job *job, char **keys, const Digest *hashes, int n, bool *settled)
{
	static Statement statement = {
		.sql = "SELECT u.i FROM unnest($4, $5) WITH ORDINALITY AS u(key, hash, i) "
		"JOIN dess_batch.settled s ON s.source = $1 AND s.target = $2 AND s.key = u.key AND s.hash = u.hash "
		"WHERE s.key_columns = $3"
	};
	Ledger		ledger;
	Args		args = {0};
	uint64		found;

	memset(settled, 0, n * sizeof(bool));
	if (n <= 0)
		return;

	ledger_open(&ledger);
	settled_args(&args, job, keys, hashes, n);
	found = ledger_run(&statement, &args);
	for (uint64 i = 0; i < found; i++)
		settled[ledger_get_int64(i, 1, 0) - 1] = true;
	ledger_close(&ledger);
}

/* ---- rows that other jobs have in flight ---- */

/* their keys are in memory at a time */
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

/* A job that failed may have left a batch at the provider: its rows are paid for and not bought again. */
static Statement select_in_flight_batches = {
	.sql = "SELECT b.job_id, b.no, b.items, b.ok + b.missing + b.empty + b.failed + b.superseded "
	"FROM dess_batch.job j JOIN dess_batch.batch b ON b.job_id = j.id "
	"WHERE j.source = $2 AND j.target IS NOT DISTINCT FROM $3 AND j.id <> $1 "
	"AND " BATCH_IS_OPEN("b.") " AND NOT " BATCH_IS_FINAL("b.")
};

/* Ids of a job's waiting rows rise in the order of commits: whoever adds some has locked the job, or is its worker. */
static Statement select_in_flight_waiting = {
	.sql = "SELECT j.id, j.requeued, (SELECT max(w.id) FROM dess_batch.retry_queue w WHERE w.job_id = j.id) "
	"FROM dess_batch.job j "
	"WHERE " JOB_IS_OPEN("j.") " AND j.source = $2 AND j.target IS NOT DISTINCT FROM $3 AND j.id <> $1 AND j.requeued > 0"
};

static void
in_flight_args(Args *args, const Job *job)
{
	arg_int64(args, job->id);
	arg_oid(args, job->source);
	arg_text(args, job->target);
}

int
ledger_load_in_flight_batches(const Job *job, InFlightBatch **batches)
{
	Ledger		ledger;
	Args		args = {0};
	InFlightBatch *result;
	uint64		n;

	ledger_open(&ledger);
	in_flight_args(&args, job);
	n = ledger_run(&select_in_flight_batches, &args);
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

/* Adds a tuple's keys, but for those of rows that have ended, by number above "after". */
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
	Args		args = {0};
	HashArray	array = {NULL, 0, 1024};
	MemoryContext tuple_context;
	MemoryContext connection;
	bool	   *finished = palloc0(Max(batch->items - after, 0) + 1);
	uint64		n;

	array.hashes = palloc_array(uint64, array.size);
	ledger_open(&ledger);
	arg_int64(&args, batch->job_id);
	arg_int32(&args, batch->no);
	arg_int32(&args, after);
	n = batch->finished > 0 ? ledger_run(&select_finished_after, &args) : 0;
	for (uint64 i = 0; i < n; i++)
	{
		int			no = ledger_get_int32(i, 1);

		if (no > after && no <= batch->items)
			finished[no - after] = true;
	}
	n = ledger_run(&select_keys, &args);
	tuple_context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch in_flight", ALLOCSET_DEFAULT_SIZES);
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
	Args		args = {0};
	InFlightWaiting *result;
	uint64		n;

	ledger_open(&ledger);
	in_flight_args(&args, job);
	n = ledger_run(&select_in_flight_waiting, &args);
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
	Args		args = {0};
	HashArray	array = {NULL, 0, WAITING_KEYS_A_LOOK};
	uint64		n;

	array.hashes = palloc_array(uint64, array.size);
	ledger_open(&ledger);
	arg_int64(&args, job_id);
	arg_int64(&args, *last_id);
	arg_int64(&args, WAITING_KEYS_A_LOOK);
	n = ledger_run(&statement, &args);
	for (uint64 i = 0; i < n; i++)
	{
		*last_id = ledger_get_int64(i, 1, 0);
		if (ledger_get_bool(i, 3))
			add_hash(&array, TextDatumGetCString(ledger_datum(i, 2)));
	}
	ledger_close(&ledger);
	return hashes_of(&array, hashes);
}

/* Adds what has been loaded. */
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
