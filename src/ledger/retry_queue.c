/*-------------------------------------------------------------------------
 *
 * retry_queue.c
 *		The ledger: rows that wait to be taken by their key.
 *
 * A waiting row either is one of the job's rows already (it failed and is sent
 * once more; the job's "requeued" counts it) or is named by "sample" or "outcomes"
 * and becomes one when it is taken.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "ledger/internal.h"

/*
 * Where the last ledger_retry_queue_take() ended, so that it does not have to pass
 * again over the index entries of rows that it deleted.  This is only a hint:
 * if too few rows lie behind it, the search begins anew.
 */
static int64 taken_job = 0;
static int64 taken_id = 0;

static void
add_requeued(int64 job_id, int64 n)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.job j SET requeued = j.requeued + $2 WHERE j.id = $1"
	};

	if (n == 0)
		return;
	ledger_run(&statement, arg_int64(job_id), arg_int64(n));
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
	uint64		inserted;

	if (n <= 0)
		return;

	ledger_open(&ledger);
	inserted = ledger_run(&statement, arg_int64(job_id), arg_texts((const char *const *) keys, n),
						  attempts != NULL ? arg_int32s(attempts, n) : arg_null(INT4ARRAYOID),
						  arg_bool(attempts != NULL));
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

	if (n <= 0)
		return;

	ledger_execute(&statement, arg_int64(job_id), arg_texts((const char *const *) keys, n),
				   arg_digests(hashes, n), arg_int32s(with_hash, n));
}

void
ledger_retry_queue_return(int64 job_id, const RetryRow *row)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.retry_queue (job_id, id, key, attempts, counts, unless_hash) "
		"VALUES ($1, $2, $3, $4, $5, $6)"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	ledger_run(&statement, arg_int64(job_id), arg_int64(row->id), arg_text(row->key),
			   arg_int32(row->attempts), arg_bool(row->counts),
			   row->has_hash ? arg_bytes(row->unless_hash.bytes, DIGEST_LENGTH) : arg_null(BYTEAOID));
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
		ledger_get_digest(i, 5, &row->unless_hash);
	return row;
}

/* Takes rows behind id after; appends them to rows and returns how many of them count. */
static int64
take_behind(const Ledger *ledger, int64 job_id, int64 after, int limit, List **rows)
{
	static Statement statement = {
		/* an array is made once; IN would be a join, which is made anew for each row if statistics say that there are few */
		.sql = "WITH gone AS (DELETE FROM dess_batch.retry_queue a WHERE a.job_id = $1 AND a.id = ANY (ARRAY("
		"SELECT w.id FROM dess_batch.retry_queue w WHERE w.job_id = $1 AND w.id > $2 ORDER BY w.id LIMIT $3)) "
		"RETURNING a.id, a.key, a.attempts::integer, a.counts, a.unless_hash) "
		"SELECT * FROM gone ORDER BY id"
	};
	int64		counting = 0;
	uint64		n;

	n = ledger_run(&statement, arg_int64(job_id), arg_int64(after), arg_int64(limit));
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
	int64		all;

	ledger_open(&ledger);
	ledger_run(&statement, arg_int64(job_id));
	all = ledger_get_int64(0, 1, 0);
	if (counted_ones != NULL)
		*counted_ones = ledger_get_int64(0, 2, 0);
	ledger_close(&ledger);
	return all;
}

bool
job_takes_new(const Job *job)
{
	ListCell   *lc;

	foreach(lc, job->outcomes)
	{
		if (strcmp(lfirst(lc), "new") == 0)
			return true;
	}
	return false;
}

/*
 * Looks at the last outcome of each key on this table and target.  Rows that are
 * listed because of "changed" are passed over later if their request still has
 * the hash that it had.
 */
int64
ledger_list_outcomes(const Job *job)
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
	char	   *names;
	uint64		n;

	ledger_open(&ledger);
	names = key_join_list(job->key_columns);
	n = ledger_run(&statement, arg_int64(job->id), arg_oid(job->source), arg_text(job->target),
				   arg_list(job->key_columns), arg_text(names), arg_list(job->outcomes));
	ledger_close(&ledger);
	return (int64) n;
}
