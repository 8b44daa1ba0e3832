/*-------------------------------------------------------------------------
 *
 * erase.c
 *		The ledger: forgetting answers, rows and jobs.
 *
 * A row that was forgotten keeps its number, outcome and tokens, so that figures
 * stay what they were; its key is null and its digests are zeros.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "ledger/internal.h"

/* Bounds of one ledger_purge(). */
#define PURGE_JOBS			20
#define PURGE_ROWS			200000
#define PURGE_ANSWERS		10000
#define PURGE_SETTLED		10000

/* ---- a job's answers ---- */

static Statement lock_job = {
	.sql = "SELECT j.state, j.control = 'hold' FROM dess_batch.job j WHERE j.id = $1 FOR NO KEY UPDATE"
};

static Statement delete_answers = {
	.sql = "DELETE FROM dess_batch.answer a WHERE a.job_id = $1"
};

static Statement remove_retries = {
	.sql = "UPDATE dess_batch.batch b SET remote_deleted_at = NULL WHERE b.job_id = $1 "
	"AND b.remote_deleted_at IS NOT NULL AND (b.input_uri IS NOT NULL OR b.remote_id IS NOT NULL)"
};

/* Batches that were left behind when their job failed: their results were never fetched. */
static Statement select_left = {
	.sql = "SELECT b.job_id, b.no FROM dess_batch.batch b JOIN dess_batch.job j ON j.id = b.job_id "
	"WHERE " BATCH_IS_OPEN("b.") " AND NOT " BATCH_IS_FINAL("b.") " AND NOT " JOB_IS_OPEN("j.") " "
	"AND (j.id = $1 OR j.finished_at < $2) LIMIT 1"
};

/* Gives up some thousand rows of such a batch; returns whether there may be more. */
static bool
close_left(int64 id, TimestampTz before)
{
	Ledger		ledger;
	int64		job_id = 0;
	int			no = 0;
	int			from = 1;
	Job		   *job;

	ledger_open(&ledger);
	if (ledger_run(&select_left, arg_int64(id), arg_time(before)) > 0)
	{
		job_id = ledger_get_int64(0, 1, 0);
		no = ledger_get_int32(0, 2);
	}
	ledger_close(&ledger);
	if (job_id == 0)
		return false;
	/* parts that have been given up before are passed over */
	job = ledger_load_job(job_id);
	while (ledger_give_up_batch(job, no, &from, BATCH_FAILED, OUTCOME_CANCELLED,
								  "erased", "the job was given up before its results were fetched") == 0 && from > 0)
		CHECK_FOR_INTERRUPTS();
	return true;
}

bool
ledger_close_left(TimestampTz before)
{
	return close_left(0, before);
}

void
ledger_erase(int64 id)
{
	Ledger		ledger;

	ledger_open(&ledger);
	if (ledger_run(&lock_job, arg_int64(id)) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " does not exist", id)));
	if (ledger_get_bool(0, 2))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is held", id),
				 errhint("Call dess_batch_adopt(" INT64_FORMAT ") first.", id)));
	if (!job_state_is_final(TextDatumGetCString(ledger_datum(0, 1))))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " has not ended", id),
				 errhint("Call dess_batch_cancel(" INT64_FORMAT ") first and wait until it has.", id)));
	ledger_run(&delete_answers, arg_int64(id));
	ledger_run(&remove_retries, arg_int64(id));
	ledger_close(&ledger);
	while (close_left(id, 0))
		CHECK_FOR_INTERRUPTS();
}

/* ---- a row ---- */

static Statement select_source_keys = {
	.sql = "SELECT DISTINCT j.key_columns FROM dess_batch.job j WHERE j.source = $1"
};

/* settled rows outlive the jobs */
static Statement select_settled_keys = {
	.sql = "SELECT DISTINCT s.key_columns FROM dess_batch.settled s WHERE s.source = $1"
};

static bool
same_names(const List *a, const List *b)
{
	ListCell   *la;
	ListCell   *lb;

	if (list_length(a) != list_length(b))
		return false;
	forboth(la, a, lb, b)
		if (strcmp(lfirst(la), lfirst(lb)) != 0)
			return false;
	return true;
}

/* Adds columns, unless they are among the keys. */
static List *
add_source_key(List *keys, List *columns)
{
	ListCell   *lc;

	foreach(lc, keys)
		if (same_names(lfirst(lc), columns))
			return keys;
	return lappend(keys, columns);
}

/* The reverse of key_join_list(). */
static List *
split_names(const char *names)
{
	List	   *list = NIL;
	char	  **values;
	int			n = 1;

	for (const char *p = names; *p != '\0'; p++)
	{
		if (*p == '\\' && p[1] != '\0')
			p++;
		else if (*p == '\t')
			n++;
	}
	values = palloc_array(char *, n);
	key_split(names, n, values);
	for (int i = 0; i < n; i++)
		list = lappend(list, values[i]);
	return list;
}

List *
ledger_source_keys(Oid source)
{
	Ledger		ledger;
	List	   *keys = NIL;
	MemoryContext connection;
	uint64		n;

	/* in a copied ledger another table may have this OID */
	(void) ledger_check_identity();
	ledger_open(&ledger);
	n = ledger_run(&select_source_keys, arg_oid(source));
	connection = MemoryContextSwitchTo(ledger.caller);
	for (uint64 i = 0; i < n; i++)
		keys = add_source_key(keys, ledger_get_list(&ledger, i, 1));
	MemoryContextSwitchTo(connection);

	n = ledger_run(&select_settled_keys, arg_oid(source));
	connection = MemoryContextSwitchTo(ledger.caller);
	for (uint64 i = 0; i < n; i++)
		keys = add_source_key(keys, split_names(ledger_get_text(&ledger, i, 1)));
	MemoryContextSwitchTo(connection);
	ledger_close(&ledger);
	return keys;
}

#define JOBS_OF_KEY		"j.source = $1 AND j.key_columns = $3"

static Statement select_in_flight = {
	.sql = "SELECT j.id FROM dess_batch.job j JOIN dess_batch.batch b ON b.job_id = j.id "
	"JOIN dess_batch.item i ON i.job_id = b.job_id AND i.batch_no = b.no "
	"WHERE " JOBS_OF_KEY " AND " BATCH_IS_OPEN("b.") " AND NOT " BATCH_IS_FINAL("b.") " "
	"AND $2 = ANY (i.keys) AND NOT EXISTS (SELECT FROM dess_batch.result r WHERE r.job_id = b.job_id "
	"AND r.batch_no = b.no AND i.first_no + array_position(i.keys, $2) - 1 = ANY (r.nos)) LIMIT 1"
};

/* Changes one place in each tuple and returns the places. */
static Statement forget_items = {
	.sql = "WITH hit AS MATERIALIZED (SELECT i.job_id, i.batch_no, i.first_no, array_position(i.keys, $2) AS at "
	"FROM dess_batch.job j JOIN dess_batch.item i ON i.job_id = j.id WHERE " JOBS_OF_KEY " AND $2 = ANY (i.keys)) "
	"UPDATE dess_batch.item i SET keys[h.at] = NULL, "
	"hashes = overlay(i.hashes PLACING decode(repeat('00', 32), 'hex') FROM (h.at - 1) * 32 + 1 FOR 32), "
	"held = overlay(i.held PLACING decode(repeat('00', 8), 'hex') FROM (h.at - 1) * 8 + 1 FOR 8) "
	"FROM hit h WHERE i.job_id = h.job_id AND i.batch_no = h.batch_no AND i.first_no = h.first_no "
	"RETURNING i.job_id, i.batch_no, i.first_no + h.at - 1"
};

static Statement forget_answer = {
	.sql = "DELETE FROM dess_batch.answer a WHERE a.job_id = $1 AND a.batch_no = $2 AND a.no = $3"
};

static Statement forget_result = {
	.sql = "UPDATE dess_batch.result r SET "
	"errors = CASE WHEN r.errors IS NOT NULL THEN (SELECT array_agg(CASE WHEN u.no = $3 THEN NULL ELSE u.text END ORDER BY u.i) "
	"FROM unnest(r.nos, r.errors) WITH ORDINALITY AS u(no, text, i)) END, "
	"response_ids = CASE WHEN r.response_ids IS NOT NULL THEN (SELECT array_agg(CASE WHEN u.no = $3 THEN NULL ELSE u.text END ORDER BY u.i) "
	"FROM unnest(r.nos, r.response_ids) WITH ORDINALITY AS u(no, text, i)) END "
	"WHERE r.job_id = $1 AND r.batch_no = $2 AND $3 = ANY (r.nos)"
};

static Statement forget_waiting = {
	.sql = "WITH gone AS (DELETE FROM dess_batch.retry_queue w USING dess_batch.job j "
	"WHERE " JOBS_OF_KEY " AND w.job_id = j.id AND w.key = $2 RETURNING w.job_id, w.counts), "
	"counted AS (SELECT g.job_id, count(*) AS n FROM gone g WHERE g.counts GROUP BY g.job_id) "
	"UPDATE dess_batch.job j SET requeued = j.requeued - c.n FROM counted c WHERE j.id = c.job_id"
};

static Statement forget_settled = {
	.sql = "DELETE FROM dess_batch.settled s WHERE s.source = $1 AND s.key = $2 AND s.key_columns = $3"
};

/* A job that is being prepared may stand at this row; when all is prepared, its place is not needed any more. */
static Statement forget_position = {
	.sql = "UPDATE dess_batch.job j SET last_key = NULL WHERE " JOBS_OF_KEY " AND j.last_key = $2 AND j.all_prepared"
};

/* Deletes what belongs to the n places that forget_items has just returned. */
static void
forget_outcomes(int n)
{
	typedef struct Place
	{
		int64		job_id;
		int32		batch_no;
		int32		no;
	} Place;
	Place	   *places = palloc_array(Place, n + 1);

	for (int i = 0; i < n; i++)
		places[i] = (Place) {ledger_get_int64(i, 1, 0), ledger_get_int32(i, 2), ledger_get_int32(i, 3)};
	for (int i = 0; i < n; i++)
	{
		ledger_run(&forget_answer, arg_int64(places[i].job_id), arg_int32(places[i].batch_no),
				   arg_int32(places[i].no));
		ledger_run(&forget_result, arg_int64(places[i].job_id), arg_int32(places[i].batch_no),
				   arg_int32(places[i].no));
	}
}

/* $1 to $3 of the statements on JOBS_OF_KEY */
#define ROW_ARGS		arg_oid(source), arg_text(key), arg_list(key_columns)

bool
ledger_forget_row(Oid source, List *key_columns, const char *key)
{
	Ledger		ledger;
	int			n;
	bool		found = false;

	ledger_open(&ledger);
	if (ledger_run(&select_in_flight, ROW_ARGS) > 0)
	{
		int64		job_id = ledger_get_int64(0, 1, 0);

		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("the row is in flight in job " INT64_FORMAT, job_id),
				 errhint("Wait until the job has ended, or call dess_batch_cancel(" INT64_FORMAT ").", job_id)));
	}

	do
	{
		n = ledger_run(&forget_items, ROW_ARGS);
		forget_outcomes(n);
		found = found || n > 0;
	} while (n > 0);
	found = ledger_run(&forget_waiting, ROW_ARGS) > 0 || found;
	found = ledger_run(&forget_position, ROW_ARGS) > 0 || found;
	found = ledger_run(&forget_settled, arg_oid(source), arg_text(key),
					   arg_text(key_join_list(key_columns))) > 0 || found;
	ledger_close(&ledger);
	return found;
}

/* ---- jobs ---- */

static Statement select_old_jobs = {
	.sql = "SELECT j.id, (SELECT sum(b.items) FROM dess_batch.batch b WHERE b.job_id = j.id) "
	"FROM dess_batch.job j WHERE NOT " JOB_IS_OPEN("j.") " "
	"AND (j.finished_at < $1 OR j.finished_at < $2 AND j.state = 'done' AND j.requeued = 0 "
	"AND NOT EXISTS (SELECT FROM dess_batch.batch b WHERE b.job_id = j.id AND b.items > b.superseded)) "
	"AND NOT EXISTS (SELECT FROM dess_batch.batch b WHERE b.job_id = j.id AND " BATCH_IS_OPEN("b.") ") "
	"AND pg_has_role($3, dess_batch.owner_here(j.owner, j.owner_name, j.home), 'USAGE') AND j.id > $5 "
	"ORDER BY j.id LIMIT $4 FOR UPDATE SKIP LOCKED"
};

/* Tables with one tuple for each row come first, a part at a time. */
static Statement delete_rows[] = {
	{.sql = "DELETE FROM dess_batch.answer a WHERE a.ctid = ANY (ARRAY("
	"SELECT x.ctid FROM dess_batch.answer x WHERE x.job_id = ANY ($1) LIMIT $2))"},
	{.sql = "DELETE FROM dess_batch.retry_queue w WHERE w.ctid = ANY (ARRAY("
	"SELECT x.ctid FROM dess_batch.retry_queue x WHERE x.job_id = ANY ($1) LIMIT $2))"}
};

static Statement delete_jobs[] = {
	{.sql = "DELETE FROM dess_batch.result r WHERE r.job_id = ANY ($1)"},
	{.sql = "DELETE FROM dess_batch.item i WHERE i.job_id = ANY ($1)"},
	{.sql = "DELETE FROM dess_batch.batch b WHERE b.job_id = ANY ($1)"},
	{.sql = "DELETE FROM dess_batch.job j WHERE j.id = ANY ($1)"}
};

/* Some rows of one table that was dropped; none while the ledger is a copy in which OIDs mean nothing. */
static Statement delete_settled = {
	.sql = "WITH RECURSIVE s(source) AS (SELECT min(t.source) FROM dess_batch.settled t UNION ALL "
	"SELECT (SELECT min(t.source) FROM dess_batch.settled t WHERE t.source > s.source) FROM s WHERE s.source IS NOT NULL), "
	"dropped AS (SELECT s.source FROM s WHERE s.source IS NOT NULL "
	"AND NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = s.source) LIMIT 1) "
	"DELETE FROM dess_batch.settled t WHERE t.ctid = ANY (ARRAY("
	"SELECT x.ctid FROM dess_batch.settled x WHERE x.source = (SELECT d.source FROM dropped d) LIMIT $3)) "
	"AND NOT EXISTS (SELECT FROM dess_batch.ledger l WHERE l.system_identifier <> $1 OR l.database <> $2)"
};

static uint64
purge_settled(void)
{
	return ledger_run(&delete_settled, arg_system_identifier(), arg_oid(MyDatabaseId),
					  arg_int64(PURGE_SETTLED));
}

/* Returns false if so many rows were deleted that the jobs are left for the next call. */
static bool
delete_old_jobs(const int64 *ids, int n)
{
	for (int i = 0; i < lengthof(delete_rows); i++)
		if (ledger_run(&delete_rows[i], arg_int64s(ids, n), arg_int64(PURGE_ANSWERS)) == PURGE_ANSWERS)
			return false;
	for (int i = 0; i < lengthof(delete_jobs); i++)
		ledger_run(&delete_jobs[i], arg_int64s(ids, n));
	return true;
}

bool
ledger_purge(TimestampTz before, TimestampTz empty_before, PurgeProgress *progress)
{
	Oid			caller = GetUserId();
	Ledger		ledger;
	int64		ids[PURGE_JOBS];
	int64		rows = 0;
	int			n = 0;
	uint64		found;
	bool		more;

	ledger_open(&ledger);
	found = ledger_run(&select_old_jobs, arg_time(before), arg_time(empty_before), arg_oid(caller),
					   arg_int64(PURGE_JOBS), arg_int64(progress != NULL ? progress->last_id : 0));
	while (n < found && rows < PURGE_ROWS)
	{
		rows += ledger_get_int64(n, 2, 0);
		ids[n] = ledger_get_int64(n, 1, 0);
		n++;
	}
	more = found == PURGE_JOBS || n < found;
	if (n > 0 && !delete_old_jobs(ids, n))
	{
		more = true;
		n = 0;
	}
	if (!more)
		more = purge_settled() == PURGE_SETTLED;
	ledger_close(&ledger);
	if (progress != NULL && n > 0)
	{
		progress->last_id = ids[n - 1];
		progress->removed += n;
	}
	return more;
}
