/*-------------------------------------------------------------------------
 *
 * history.c
 *		The ledger: what is known of the rows of a table and target, piece by piece.
 *
 * The history of a large table has as many rows as all its jobs together, so
 * it is read in pieces that take a moment each: a batch, some thousand waiting
 * rows of a job, some thousand settled ones.  Of two rows with the same time, the
 * one that comes later in the order of sources, and of rows within them, counts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "ledger/internal.h"

/* waiting or settled rows in one piece */
#define PIECE_ROWS		5000

/* ---- where there is anything ---- */

/* Settled rows come first, then batches, then waiting rows: what is in flight is later than anything else. */
static Statement select_sources = {
	.sql = "SELECT 0::bigint AS job_id, $4::integer AS batch_no, 0 AS items "
	"UNION ALL "
	"(SELECT b.job_id, b.no, b.items FROM dess_batch.job j JOIN dess_batch.batch b ON b.job_id = j.id "
	"WHERE j.source = $1 AND j.target IS NOT DISTINCT FROM $2 AND j.key_columns = $3 ORDER BY b.job_id, b.no) "
	"UNION ALL "
	"(SELECT j.id, $5::integer, 0 FROM dess_batch.job j "
	"WHERE j.source = $1 AND j.target IS NOT DISTINCT FROM $2 AND j.key_columns = $3 AND " JOB_IS_OPEN("j.") " ORDER BY j.id)"
};

int
ledger_history_sources(const Job *job, HistorySource **sources)
{
	Ledger		ledger;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&select_sources, arg_oid(job->source), arg_text(job->target), arg_list(job->key_columns),
				   arg_int32(HISTORY_SETTLED), arg_int32(HISTORY_WAITING));
	*sources = MemoryContextAllocHuge(ledger.caller, n * sizeof(HistorySource));
	for (uint64 i = 0; i < n; i++)
	{
		(*sources)[i].job_id = ledger_get_int64(i, 1, 0);
		(*sources)[i].batch_no = ledger_get_int32(i, 2);
		(*sources)[i].rows = ledger_get_int32(i, 3);
	}
	ledger_close(&ledger);
	return (int) n;
}

/* ---- a batch ---- */

static Statement select_outcomes = {
	.sql = "SELECT r.nos, r.outcomes::text[], r.finished_at FROM dess_batch.result r "
	"WHERE r.job_id = $1 AND r.batch_no = $2 ORDER BY r.seq"
};

static Outcome
read_outcome(const char *name)
{
	Outcome		outcome;

	if (!outcome_from_name(name, &outcome))
		elog(ERROR, "unknown outcome \"%s\" in the ledger", name);
	return outcome;
}

/* One tuple of results. */
static void
set_outcomes(uint64 tuple, HistoryRow *rows, int nrows)
{
	TimestampTz at = ledger_get_time(tuple, 3);
	Datum	   *nos;
	Datum	   *outcomes;
	int			n;
	int			noutcomes;

	deconstruct_array(DatumGetArrayTypeP(ledger_datum(tuple, 1)), INT4OID, sizeof(int32), true, TYPALIGN_INT,
					  &nos, NULL, &n);
	deconstruct_array(DatumGetArrayTypeP(ledger_datum(tuple, 2)), TEXTOID, -1, false, TYPALIGN_INT,
					  &outcomes, NULL, &noutcomes);
	for (int i = 0; i < Min(n, noutcomes); i++)
	{
		int			no = DatumGetInt32(nos[i]);

		if (no < 1 || no > nrows)
			continue;
		rows[no - 1].outcome = read_outcome(TextDatumGetCString(outcomes[i]));
		rows[no - 1].at = at;
	}
}

static int
batch_rows(const HistorySource *source, HistoryRow **rows)
{
	Ledger		ledger;
	MemoryContext tuple_context;
	MemoryContext connection;
	JobItem    *items;
	bool	   *finished;
	int			nrows = ledger_load_items(source->job_id, source->batch_no, &items, &finished);
	uint64		n;

	*rows = MemoryContextAllocHuge(CurrentMemoryContext, (nrows + 1) * sizeof(HistoryRow));
	for (int i = 0; i < nrows; i++)
	{
		(*rows)[i].key = items[i].key;
		(*rows)[i].hash = items[i].hash;
		(*rows)[i].no = i + 1;
		(*rows)[i].outcome = OUTCOME_NONE;
		(*rows)[i].at = DT_NOEND;
	}

	ledger_open(&ledger);
	n = ledger_run(&select_outcomes, arg_int64(source->job_id), arg_int32(source->batch_no));
	tuple_context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch history",
										  ALLOCSET_DEFAULT_SIZES);
	connection = MemoryContextSwitchTo(tuple_context);
	for (uint64 i = 0; i < n; i++)
	{
		set_outcomes(i, *rows, nrows);
		MemoryContextReset(tuple_context);
	}
	MemoryContextSwitchTo(connection);
	ledger_close(&ledger);
	return nrows;
}

/* ---- waiting and settled rows ---- */

static Statement select_waiting = {
	.sql = "SELECT w.key, NULL::bytea, NULL::text, 'infinity'::timestamptz, w.counts, w.id FROM dess_batch.retry_queue w "
	"WHERE w.job_id = $1 AND w.id > $2 ORDER BY w.id LIMIT $3"
};

/* Rows with another key are read as well, so that a piece stays bounded. */
static Statement select_settled = {
	.sql = "SELECT s.key, s.hash, s.outcome::text, s.settled_at, s.key_columns = $3 FROM dess_batch.settled s "
	"WHERE s.source = $1 AND s.target = $2 AND (s.key, s.hash) > ($4, $5) ORDER BY s.key, s.hash LIMIT $6"
};

/* Reads the rows of the statements above and the place where they end; rows that do not count get no key. */
static int
read_piece(const Ledger *ledger, uint64 n, HistoryRow **rows, HistoryPlace *place)
{
	*rows = MemoryContextAllocZero(ledger->caller, (n + 1) * sizeof(HistoryRow));
	for (uint64 i = 0; i < n; i++)
	{
		HistoryRow *row = &(*rows)[i];

		row->key = ledger_get_text(ledger, i, 1);
		row->outcome = OUTCOME_NONE;
		if (!ledger_is_null(i, 2))
		{
			ledger_get_digest(i, 2, &row->hash);
			row->outcome = read_outcome(ledger_get_text(ledger, i, 3));
		}
		row->at = ledger_get_time(i, 4);
		place->key = row->key;
		place->hash = row->hash;
		if (!ledger_get_bool(i, 5))
			row->key = NULL;
	}
	place->end = n < PIECE_ROWS;
	return (int) n;
}

static int
waiting_rows(const HistorySource *source, HistoryPlace *place, HistoryRow **rows)
{
	Ledger		ledger;
	uint64		n;
	int			nrows;

	ledger_open(&ledger);
	n = ledger_run(&select_waiting, arg_int64(source->job_id), arg_int64(place->id), arg_int64(PIECE_ROWS));
	if (n > 0)
		place->id = ledger_get_int64(n - 1, 6, 0);
	nrows = read_piece(&ledger, n, rows, place);
	ledger_close(&ledger);
	return nrows;
}

static int
settled_rows(const Job *job, HistoryPlace *place, HistoryRow **rows)
{
	Ledger		ledger;
	uint64		n;
	int			nrows;

	ledger_open(&ledger);
	n = ledger_run(&select_settled, arg_oid(job->source), arg_text(job->target != NULL ? job->target : ""),
				   arg_text(key_join_list(job->key_columns)), arg_text(place->key != NULL ? place->key : ""),
				   arg_bytes(place->hash.bytes, place->key != NULL ? DIGEST_LENGTH : 0),
				   arg_int64(PIECE_ROWS));
	nrows = read_piece(&ledger, n, rows, place);
	ledger_close(&ledger);
	return nrows;
}

int
ledger_history_rows(const Job *job, const HistorySource *source, HistoryPlace *place, HistoryRow **rows)
{
	if (source->batch_no == HISTORY_WAITING)
		return waiting_rows(source, place, rows);
	if (source->batch_no == HISTORY_SETTLED)
		return settled_rows(job, place, rows);
	place->end = true;
	return batch_rows(source, rows);
}
