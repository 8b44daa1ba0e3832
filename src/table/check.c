/*-------------------------------------------------------------------------
 *
 * check.c
 *		Writes answers into rows that are still what they were, in one pass.
 *
 * The UPDATE of a group calls dess_batch_unchanged() for every row that it
 * finds.  That renders and hashes the row and compares it with what was sent,
 * so that looking, comparing and writing is one visit of the row, and a row
 * that somebody changes at this very moment is looked at again in its new
 * version (the executor calls the function once more behind the row's lock).
 *
 * UPDATE cannot skip locked rows, so it waits for a lock only for a moment.
 * When it raises or passes a row over, for whatever reason, all is undone and
 * the rows go the slower way: they are locked, compared and written, and the
 * group is cut in halves where a row raises.  Where that happens often, the
 * fast way is not tried for a while.
 *
 * Anybody can call the function, even a trigger of the table while the UPDATE
 * runs.  So it answers only while an UPDATE is running, and checks the types of
 * its arguments.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xlog.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "runtime/sqlstate.h"
#include "runtime/txn.h"
#include "table/internal.h"

/* how long a locked row is waited for before the slower way is taken */
#define PATIENCE		"20ms"
#define LONGEST_PAUSE	64
/* the WAL writer is woken after so many rows */
#define PUSH_ROWS		128

/* The UPDATE that runs. */
typedef struct Check
{
	SourceTable *table;
	SourcePending *pending;
	int			npending;
	RowDigester *digester;
	Datum	   *values;			/* of a row's columns */
	bool	   *nulls;
} Check;

static Check *running = NULL;

PG_FUNCTION_INFO_V1(dess_batch_unchanged);

/* ---- called by the UPDATE ---- */

/* Are these the columns of the table? */
static bool
columns_fit(TupleDesc desc, const SourceTable *table)
{
	if (desc->natts != table->ncolumns)
		return false;
	for (int i = 0; i < desc->natts; i++)
	{
		Oid			type = TupleDescAttr(desc, i)->atttypid;

		if (type != table->columns[i].type && getBaseType(type) != table->columns[i].type)
			return false;
	}
	return true;
}

/* Takes the record apart; false where it is not one of the table's columns. */
static bool
read_columns(HeapTupleHeader record)
{
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(record),
											  HeapTupleHeaderGetTypMod(record));
	bool		fit = columns_fit(desc, running->table);
	HeapTupleData tuple;

	if (fit)
	{
		tuple.t_len = HeapTupleHeaderGetDatumLength(record);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = InvalidOid;
		tuple.t_data = record;
		heap_deform_tuple(&tuple, desc, running->values, running->nulls);
	}
	ReleaseTupleDesc(desc);
	return fit;
}

/*
 * The commit of a group waits until its WAL, some megabytes, is on disk.  A WAL
 * writer that is woken in time has written most of it by then.  It is asked to
 * write up to the end of our last record, not up to the insert position, which
 * may lie behind the header of a page that nobody has begun.
 */
static void
push_wal(void)
{
	if (!XLogRecPtrIsInvalid(XactLastRecEnd))
		XLogSetAsyncXactLSN(XactLastRecEnd);
}

/* dess_batch_unchanged(n, record): is the row with these columns what was sent as the nth one? */
Datum
dess_batch_unchanged(PG_FUNCTION_ARGS)
{
	SourceWrite *write;
	Digest		hash;
	uint64		held;
	int64		n = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);

	if (running == NULL || PG_ARGISNULL(1) || !read_columns(PG_GETARG_HEAPTUPLEHEADER(1)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dess_batch_unchanged is called by the worker of dess_batch alone")));
	if (n < 1 || n > running->npending)
		PG_RETURN_BOOL(false);
	if (n % PUSH_ROWS == 0)
		push_wal();
	source_digest_row(running->digester, running->values, running->nulls, &hash, &held);
	write = running->pending[n - 1].write;
	if (held != write->held)
		write->verdict = WRITE_TARGET_CHANGED;
	else if (memcmp(&hash, write->hash, sizeof(Digest)) != 0)
		write->verdict = WRITE_TEXT_CHANGED;
	else
		write->verdict = WRITE_UNCHANGED;
	PG_RETURN_BOOL(write->verdict == WRITE_UNCHANGED);
}

/* ---- a group ---- */

/* Would the slower way meet the same error, or must it not be met twice? */
static bool
is_serious(int sqlerrcode)
{
	SqlstateKind kind = sqlstate_kind(sqlerrcode);

	return kind == SQLSTATE_CANCELED || kind == SQLSTATE_RESOURCES || kind == SQLSTATE_SERVER;
}

static ErrorData *
try_running(SourceTable *table, SourcePending *pending, int npending)
{
	Check		check = {
		.table = table,
		.pending = pending,
		.npending = npending,
		.digester = source_digester_begin(table),
		.values = palloc_array(Datum, table->ncolumns),
		.nulls = palloc_array(bool, table->ncolumns)
	};
	ErrorData  *error;

	running = &check;
	PG_TRY();
	{
		error = source_try_group(table, pending, npending, true);
	}
	PG_FINALLY();
	{
		running = NULL;
	}
	PG_END_TRY();
	source_digester_end(check.digester);
	return error;
}

/* Returns false when the group was undone. */
static bool
write_at_once(SourceTable *table, SourcePending *pending, int npending)
{
	int			nestlevel = source_begin_write(table);
	ErrorData  *error;

	(void) set_config_option("lock_timeout", PATIENCE, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	error = try_running(table, pending, npending);
	if (error != NULL && is_serious(error->sqlerrcode))
		ReThrowError(error);
	source_end(nestlevel);
	if (error != NULL)
	{
		FreeErrorData(error);
		return false;
	}
	push_wal();
	for (int i = 0; i < npending; i++)
		pending[i].write->written = pending[i].write->verdict == WRITE_UNCHANGED;
	return true;
}

/* Can rows of the table be written this way (foreign ones: see source_writes_by_position()), and is now a time to try? */
static bool
may_try(SourceTable *table)
{
	if (table->foreign)
		return false;
	if (table->check_pause > 0)
	{
		table->check_pause--;
		return false;
	}
	return true;
}

bool
source_write_unchanged(SourceTable *table, SourceWrite *writes, int nwrites)
{
	SourcePending *pending;
	int			npending;

	for (int i = 0; i < nwrites; i++)
		writes[i].verdict = WRITE_OPEN;
	if (!may_try(table))
		return false;

	pending = palloc_array(SourcePending, nwrites + 1);
	npending = source_convert_writes(table, writes, nwrites, pending);
	if (npending == 0 || write_at_once(table, pending, npending))
	{
		table->check_failures = 0;
		return true;
	}
	for (int i = 0; i < nwrites; i++)
		writes[i].verdict = WRITE_OPEN;
	table->check_failures = Min(table->check_failures + 1, 6);
	table->check_pause = (1 << table->check_failures) - 1;
	return false;
}
