/*-------------------------------------------------------------------------
 *
 * explain.c
 *		The ledger: what those who wait, explain or show ask about a job.
 *
 * Nothing here writes, so all of it works on a standby as well.  The worker is
 * found by its lock in pg_locks, because asking must not wake it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "ledger/internal.h"
#include "runtime/wake.h"

/* ---- a job ---- */

static Statement select_facts = {
	.sql = "SELECT f.state, f.stands_still, f.rows, f.rows_known, f.done, f.failed, j.error_code, j.error, "
	"(SELECT count(*) FROM dess_batch.retry_queue a WHERE a.job_id = j.id), "
	"(SELECT count(*) FROM dess_batch.batch b WHERE b.job_id = j.id AND " BATCH_IS_OPEN("b.") " AND " BATCH_REMAINS("b.") "), "
	"(SELECT count(*) FROM dess_batch.job o JOIN dess_batch.batch b ON b.job_id = o.id "
	"WHERE o.server = j.server AND o.provider = j.provider AND o.owner = j.owner AND o.mode = 'batch' "
	"AND o.control <> 'hold' AND " JOB_IS_OPEN("o.") " AND " BATCH_IS_OPEN("b.") " "
	"AND b.state IN ('uploading', 'uploaded', 'creating', 'running')), "
	"j.all_prepared, (SELECT sum(b.bytes)::bigint FROM dess_batch.batch b WHERE NOT " BATCH_IS_FINAL("b.") ") "
	"FROM dess_batch.job j JOIN dess_batch.figures f ON f.job_id = j.id WHERE j.id = $1"
};

JobFacts *
ledger_load_facts(int64 id)
{
	Ledger		ledger;
	JobFacts   *facts = NULL;

	ledger_open(&ledger);
	if (ledger_run(&select_facts, arg_int64(id)) > 0)
	{
		facts = MemoryContextAllocZero(ledger.caller, sizeof(JobFacts));
		facts->state = ledger_get_text(&ledger, 0, 1);
		facts->stands_still = ledger_get_bool(0, 2);
		facts->rows = ledger_get_int64(0, 3, 0);
		facts->rows_known = ledger_get_bool(0, 4);
		facts->done = ledger_get_int64(0, 5, 0);
		facts->failed = ledger_get_int64(0, 6, 0);
		facts->error_code = ledger_get_text(&ledger, 0, 7);
		facts->error = ledger_get_text(&ledger, 0, 8);
		facts->waiting_rows = ledger_get_int64(0, 9, 0);
		facts->remains = ledger_get_int64(0, 10, 0);
		facts->active_batches = ledger_get_int64(0, 11, 0);
		facts->all_prepared = ledger_get_bool(0, 12);
		facts->spool_bytes = ledger_get_int64(0, 13, 0);
	}
	ledger_close(&ledger);
	return facts;
}

/* ---- its batches ---- */

/* A job may have thousands of batches, but only a few kinds of them. */
static Statement select_groups = {
	.sql = "SELECT b.state, b.remote_state, b.error_code, b.error, count(*), min(b.no), "
	"sum(b.items - b.ok - b.missing - b.empty - b.failed - b.superseded)::bigint, sum(b.requests)::bigint, "
	"sum(b.remote_finished)::bigint, min(b.next_poll_at), min(b.moved_at) "
	"FROM dess_batch.batch b WHERE b.job_id = $1 AND " BATCH_IS_OPEN("b.") " AND NOT " BATCH_IS_FINAL("b.") " "
	"GROUP BY b.state, b.remote_state, b.error_code, b.error ORDER BY min(b.no) LIMIT $2"
};

static BatchGroup *
read_group(const Ledger *ledger, uint64 row)
{
	BatchGroup *group = MemoryContextAllocZero(ledger->caller, sizeof(BatchGroup));

	group->state = batch_state_from_name(TextDatumGetCString(ledger_datum(row, 1)));
	group->remote_state = ledger_get_text(ledger, row, 2);
	group->error_code = ledger_get_text(ledger, row, 3);
	group->error = ledger_get_text(ledger, row, 4);
	group->batches = ledger_get_int64(row, 5, 0);
	group->first_no = ledger_get_int32(row, 6);
	group->rows_left = ledger_get_int64(row, 7, 0);
	group->requests = ledger_get_int64(row, 8, 0);
	group->remote_finished = ledger_get_int64(row, 9, -1);
	group->next_poll_at = ledger_get_time(row, 10);
	group->moved_at = ledger_get_time(row, 11);
	return group;
}

List *
ledger_load_groups(int64 id, int limit)
{
	Ledger		ledger;
	List	   *groups = NIL;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&select_groups, arg_int64(id), arg_int64(limit));
	for (uint64 i = 0; i < n; i++)
	{
		BatchGroup *group = read_group(&ledger, i);
		MemoryContext old = MemoryContextSwitchTo(ledger.caller);

		groups = lappend(groups, group);
		MemoryContextSwitchTo(old);
	}
	ledger_close(&ledger);
	return groups;
}

/* ---- others who draw on the same budgets ---- */

List *
ledger_load_spenders(const Job *job, int limit)
{
	static Statement statement = {
		.sql = "SELECT CASE WHEN v.visible THEN j.id END AS id, count(*), v.visible AND f.stands_still AS still FROM dess_batch.job j "
		"CROSS JOIN LATERAL (SELECT pg_has_role($4, dess_batch.owner_here(j.owner, j.owner_name, j.home), 'USAGE') AS visible) v "
		"JOIN dess_batch.figures f ON f.job_id = j.id JOIN dess_batch.batch b ON b.job_id = j.id "
		"WHERE j.server = $1 AND j.id <> $2 AND j.control <> 'hold' AND " JOB_IS_OPEN("j.") " AND " BATCH_IS_OPEN("b.") " "
		"AND b.state IN ('uploading', 'creating', 'running', 'retrieving') "
		"GROUP BY 1, 3 ORDER BY still DESC, id LIMIT $3"
	};
	Oid			caller = GetUserId();
	Ledger		ledger;
	List	   *spenders = NIL;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&statement, arg_oid(job->server), arg_int64(job->id), arg_int64(limit), arg_oid(caller));
	for (uint64 i = 0; i < n; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(ledger.caller);
		Spender    *spender = palloc(sizeof(Spender));

		spender->job_id = ledger_get_int64(i, 1, 0);
		spender->batches = ledger_get_int64(i, 2, 0);
		spender->stands_still = ledger_get_bool(i, 3);
		spenders = lappend(spenders, spender);
		MemoryContextSwitchTo(old);
	}
	ledger_close(&ledger);
	return spenders;
}

/* ---- the worker and locks ---- */

/* Processes that hold a lock of runtime/wake.h. */
#define WORKER_LOCKS(subobject) \
	"SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'object' AND l.granted " \
	"AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) " \
	"AND l.classid = 'pg_catalog.pg_foreign_data_wrapper'::pg_catalog.regclass " \
	"AND l.objsubid = " CppAsString2(subobject) " AND l.mode = 'ExclusiveLock'"

int
ledger_find_slow_worker(int64 ms, TimestampTz *since)
{
	static Statement statement = {
		.sql = "SELECT a.pid, a.xact_start, a.xact_start < clock_timestamp() - $1 * interval '1 ms' "
		"FROM pg_catalog.pg_stat_activity a WHERE a.pid IN (" WORKER_LOCKS(WAKE_INTERRUPTIBLE_SUBOBJECT) ")"
	};
	Ledger		ledger;
	int			pid = 0;

	*since = 0;
	ledger_open(&ledger);
	if (ledger_run(&statement, arg_int64(ms)) > 0)
	{
		*since = ledger_get_time(0, 2);
		if (*since != 0 && ledger_get_bool(0, 3))
			pid = ledger_get_int32(0, 1);
	}
	ledger_close(&ledger);
	return pid;
}

int
ledger_find_worker(void)
{
	static Statement statement = {.sql = WORKER_LOCKS(WAKE_WORKER_SUBOBJECT) " LIMIT 1"};
	Ledger		ledger;
	int			pid = 0;

	ledger_open(&ledger);
	if (ledger_run_plain(&statement) > 0)
		pid = ledger_get_int32(0, 1);
	ledger_close(&ledger);
	return pid;
}

int
ledger_find_locker(Oid source)
{
	static Statement statement = {
		.sql = "SELECT l.pid FROM pg_catalog.pg_locks l WHERE l.locktype = 'relation' AND l.granted "
		"AND l.relation IN (SELECT $1 UNION SELECT p.relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.regclass) p) "
		"AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()) "
		"AND l.mode <> 'AccessShareLock' AND l.pid <> pg_catalog.pg_backend_pid() "
		"AND l.pid NOT IN (" WORKER_LOCKS(WAKE_WORKER_SUBOBJECT) ") ORDER BY l.pid LIMIT 1"
	};
	Ledger		ledger;
	int			pid = 0;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_oid(source)) > 0)
		pid = ledger_get_int32(0, 1);
	ledger_close(&ledger);
	return pid;
}

/* ---- for those who wait ---- */

bool
ledger_is_forgotten(int64 id)
{
	static Statement statement = {
		.sql = "SELECT s.is_called AND $1 BETWEEN 1 AND s.last_value "
		"AND NOT EXISTS (SELECT FROM dess_batch.job j WHERE j.id = $1) FROM dess_batch.job_id_seq s"
	};
	Ledger		ledger;
	bool		forgotten;

	ledger_open(&ledger);
	ledger_run(&statement, arg_int64(id));
	forgotten = ledger_get_bool(0, 1);
	ledger_close(&ledger);
	return forgotten;
}

/* Tuples carry the transaction that wrote them, so nothing has to be remembered. */
bool
ledger_written_here(int64 id)
{
	static Statement statement = {
		.sql = "SELECT j.xmin FROM dess_batch.job j WHERE j.id = $1 "
		"UNION SELECT b.xmin FROM dess_batch.batch b WHERE b.job_id = $1 AND " BATCH_IS_OPEN("b.")
	};
	Ledger		ledger;
	bool		here = false;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&statement, arg_int64(id));
	for (uint64 i = 0; i < n && !here; i++)
		here = TransactionIdIsCurrentTransactionId(DatumGetTransactionId(ledger_datum(i, 1)));
	ledger_close(&ledger);
	return here;
}

/* ---- a row ---- */

bool
ledger_trace_row(int64 job_id, int batch_no, const char *key, RowTrace *trace)
{
	static Statement statement = {
		.sql = "SELECT b.token, coalesce(nullif(i.same_as[p.i], 0), i.first_no + p.i - 1), "
		"(SELECT r.outcomes[array_position(r.nos, i.first_no + p.i - 1)]::text FROM dess_batch.result r "
		"WHERE r.job_id = i.job_id AND r.batch_no = i.batch_no AND i.first_no + p.i - 1 = ANY (r.nos)) "
		"FROM dess_batch.item i CROSS JOIN LATERAL (SELECT array_position(i.keys, $3) AS i) p "
		"JOIN dess_batch.batch b ON b.job_id = i.job_id AND b.no = i.batch_no "
		"WHERE i.job_id = $1 AND i.batch_no = $2 AND p.i IS NOT NULL ORDER BY i.first_no DESC LIMIT 1"
	};
	Ledger		ledger;
	char	   *outcome;
	bool		found;

	memset(trace, 0, sizeof(*trace));
	trace->outcome = OUTCOME_NONE;
	ledger_open(&ledger);
	found = ledger_run(&statement, arg_int64(job_id), arg_int32(batch_no), arg_text(key)) > 0;
	if (found)
	{
		trace->token = ledger_get_text(&ledger, 0, 1);
		trace->request_no = ledger_get_int32(0, 2);
		outcome = ledger_get_text(&ledger, 0, 3);
		if (outcome != NULL)
			(void) outcome_from_name(outcome, &trace->outcome);
	}
	ledger_close(&ledger);
	return found;
}
