/*-------------------------------------------------------------------------
 *
 * read.c
 *		Reads rows of a user's table: page by page, and by key.
 *
 * Rows go from the executor straight into a receiver that renders them, so no
 * more than one row is held beside the result, and reading can stop when the
 * result has become large.  Output functions run in a context that is reset
 * for every row; what is returned lies in the caller's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "executor/tuptable.h"
#include "nodes/params.h"
#include "optimizer/plancat.h"
#include "tcop/dest.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/resowner.h"
#include "utils/rls.h"

#include "table/internal.h"

/* A page ends early when its texts are larger than this. */
#define PAGE_TEXT_BYTES		(16 * 1024 * 1024)

/* A larger value of a target is not made a text to be compared. */
#define HELD_TEXT_BYTES		(1024 * 1024)

/* ---- receiving ---- */

typedef struct Receiver
{
	DestReceiver dest;			/* must be first */
	SourceTable *table;
	MemoryContext result;
	MemoryContext scratch;		/* of one row */
	int			nrows;
	bool		full;			/* no more, please */
} Receiver;

static void
receiver_startup(DestReceiver *self, int operation, TupleDesc typeinfo)
{
}

static void
receiver_shutdown(DestReceiver *self)
{
}

static void
receiver_init(Receiver *receiver, SourceTable *table, bool (*receive) (TupleTableSlot *, DestReceiver *))
{
	memset(receiver, 0, sizeof(*receiver));
	receiver->dest.receiveSlot = receive;
	receiver->dest.rStartup = receiver_startup;
	receiver->dest.rShutdown = receiver_shutdown;
	receiver->dest.rDestroy = receiver_shutdown;
	receiver->dest.mydest = DestTuplestore;
	receiver->table = table;
	receiver->result = CurrentMemoryContext;
	receiver->scratch = AllocSetContextCreate(CurrentMemoryContext, "dess_batch row",
											  ALLOCSET_DEFAULT_SIZES);
}

/* The row's key in the given context. */
static char *
slot_key(Receiver *receiver, TupleTableSlot *slot, MemoryContext context)
{
	SourceTable *table = receiver->table;
	MemoryContext before = MemoryContextSwitchTo(receiver->scratch);
	char	  **values = palloc_array(char *, table->nkeys);
	char	   *key;

	for (int i = 0; i < table->nkeys; i++)
	{
		if (slot->tts_isnull[i])
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("key column \"%s\" of table %s is null",
							table->columns[i].name, table->name)));
		values[i] = OutputFunctionCall(&table->columns[i].output, slot->tts_values[i]);
	}
	MemoryContextSwitchTo(context);
	key = key_join(values, table->nkeys);
	MemoryContextSwitchTo(before);
	return key;
}

/* ---- rows ---- */

typedef struct RowReceiver
{
	Receiver	base;			/* must be first */
	bool		render_all;		/* and not only wanted rows */
	bool		bounded;		/* stop when there is much text */
	bool		no_text;		/* the digest is all that is wanted */
	bool		partitions;		/* the last column tells in which one a row lies */
	SourceRow  *rows;
	int			capacity;
	size_t		bytes;
	StringInfoData text;
	StringInfoData parts;
} RowReceiver;

static bool
row_targets_are_null(const SourceTable *table, const bool *nulls)
{
	for (int i = table->nkeys; i < table->nkeys + table->ntargets; i++)
	{
		if (!nulls[i])
			return false;
	}
	return true;
}

/*
 * What stands for a target's value in the digest of what the row holds.  A
 * text cannot have more than 1 GB, and that of a large value may be many times
 * as long as the value itself, so such a value is digested as it is stored.
 */
static const char *
held_text(SourceColumn *column, Datum value)
{
	struct varlena *stored;
	Digest		digest;

	if (column->typlen != -1 || toast_raw_datum_size(value) <= HELD_TEXT_BYTES)
		return OutputFunctionCall(&column->output, value);
	stored = PG_DETOAST_DATUM_PACKED(value);
	digest_sha256(NULL, 0, VARDATA_ANY(stored), VARSIZE_ANY_EXHDR(stored), &digest);
	return digest_to_hex(&digest);
}

static void
row_set_held(RowReceiver *receiver, const Datum *values, const bool *nulls, SourceRow *row)
{
	SourceTable *table = receiver->base.table;
	Digest		digest;

	if (row_targets_are_null(table, nulls))
		return;
	resetStringInfo(&receiver->parts);
	for (int i = table->nkeys; i < table->nkeys + table->ntargets; i++)
		source_append_part(&receiver->parts,
						   nulls[i] ? NULL : held_text(&table->columns[i], values[i]));
	digest_sha256(NULL, 0, receiver->parts.data, receiver->parts.len, &digest);
	row->held = digest_hash64(&digest);
	if (row->held == 0)
		row->held = 1;
}

/* Would the row's text be too long for any request?  Looks without fetching it. */
static bool
row_is_too_large(const SourceTable *table, const Datum *values, const bool *nulls)
{
	size_t		total = 0;

	for (int i = 0; i < table->ninputs; i++)
	{
		int			column = table->inputs[i];

		if (column >= 0 && !nulls[column] && table->columns[column].typlen == -1)
			total += toast_raw_datum_size(values[column]);
	}
	return total > SOURCE_TEXT_LIMIT;
}

/* The text of an input in the database's encoding, or NULL for null. */
static const char *
input_text(SourceTable *table, const Datum *values, const bool *nulls, int input)
{
	int			column = table->inputs[input];

	if (column < 0 || nulls[column])
		return NULL;
	if (table->input_is_boolean[input])
		return DatumGetBool(values[column]) ? "true" : "false";
	return OutputFunctionCall(&table->columns[column].output, values[column]);
}

/*
 * Texts of what the template reads, in UTF-8.  Returns false when they cannot
 * be had; parts then holds what stands for them in the row's digest.
 */
static bool
row_read_inputs(RowReceiver *receiver, const Datum *values, const bool *nulls, const char **texts)
{
	SourceTable *table = receiver->base.table;
	bool		convertible = true;

	resetStringInfo(&receiver->parts);
	if (row_is_too_large(table, values, nulls))
	{
		source_append_part(&receiver->parts, "too large");
		return false;
	}
	for (int i = 0; i < table->ninputs; i++)
	{
		const char *text = input_text(table, values, nulls, i);
		size_t		length;

		texts[i] = text == NULL ? NULL : source_to_utf8(table, text, &length);
		if (text != NULL && texts[i] == NULL)
			convertible = false;
	}
	for (int i = 0; i < table->ninputs && !convertible; i++)
		source_append_part(&receiver->parts, input_text(table, values, nulls, i));
	return convertible;
}

void
source_request_hash(const SourceTable *table, const char *text, size_t length, Digest *hash)
{
	digest_sha256(table->constant.bytes, DIGEST_LENGTH, text, length, hash);
}

static void
row_render(RowReceiver *receiver, const Datum *values, const bool *nulls, SourceRow *row)
{
	SourceTable *table = receiver->base.table;
	const char **texts = palloc_array(const char *, table->ninputs + 1);
	bool		readable;

	row->too_large = row_is_too_large(table, values, nulls);
	row->convertible = row_read_inputs(receiver, values, nulls, texts);
	if (!row->convertible)
	{
		source_request_hash(table, receiver->parts.data, receiver->parts.len, &row->hash);
		return;
	}

	resetStringInfo(&receiver->text);
	readable = template_render(table->template, texts, &receiver->text);
	row->too_large = receiver->text.len > SOURCE_TEXT_LIMIT;
	row->convertible = !row->too_large;
	if (readable && row->convertible && !receiver->no_text)
	{
		row->text_length = receiver->text.len;
		row->text = MemoryContextAlloc(receiver->base.result, receiver->text.len + 1);
		memcpy(row->text, receiver->text.data, receiver->text.len + 1);
		receiver->bytes += receiver->text.len;
	}
	source_request_hash(table, receiver->text.data, receiver->text.len, &row->hash);
}

static bool
receive_row(TupleTableSlot *slot, DestReceiver *self)
{
	RowReceiver *receiver = (RowReceiver *) self;
	SourceTable *table = receiver->base.table;
	MemoryContext before;
	SourceRow  *row;

	slot_getallattrs(slot);
	MemoryContextReset(receiver->base.scratch);
	if (receiver->base.nrows == receiver->capacity)
	{
		receiver->capacity *= 2;
		receiver->rows = repalloc_array(receiver->rows, SourceRow, receiver->capacity);
	}
	row = &receiver->rows[receiver->base.nrows++];
	memset(row, 0, sizeof(*row));
	row->convertible = true;
	row->key = slot_key(&receiver->base, slot, receiver->base.result);

	before = MemoryContextSwitchTo(receiver->base.scratch);
	row->target_null = row_targets_are_null(table, slot->tts_isnull);
	row->wanted = DatumGetBool(slot->tts_values[table->ncolumns]) &&
		(table->overwrite || row->target_null);
	if (row->wanted || receiver->render_all)
	{
		row_set_held(receiver, slot->tts_values, slot->tts_isnull, row);
		row_render(receiver, slot->tts_values, slot->tts_isnull, row);
	}
	if (receiver->partitions)
		row->remote = get_rel_relkind(DatumGetObjectId(slot->tts_values[table->ncolumns + 1])) ==
			RELKIND_FOREIGN_TABLE;
	MemoryContextSwitchTo(before);

	receiver->base.full = receiver->bounded && receiver->bytes >= PAGE_TEXT_BYTES;
	return !receiver->base.full;
}

static void
row_receiver_init(RowReceiver *receiver, SourceTable *table, int expected)
{
	memset(receiver, 0, sizeof(*receiver));
	receiver_init(&receiver->base, table, receive_row);
	receiver->capacity = Max(expected, 16);
	receiver->rows = palloc_array(SourceRow, receiver->capacity);
	initStringInfo(&receiver->text);
	initStringInfo(&receiver->parts);
}

static int
row_receiver_end(RowReceiver *receiver, SourceRow **rows)
{
	MemoryContextDelete(receiver->base.scratch);
	pfree(receiver->text.data);
	pfree(receiver->parts.data);
	*rows = receiver->rows;
	return receiver->base.nrows;
}

/* ---- one row at a time, from wherever it comes ---- */

struct RowDigester
{
	RowReceiver receiver;
};

RowDigester *
source_digester_begin(SourceTable *table)
{
	RowDigester *digester = palloc_object(RowDigester);

	row_receiver_init(&digester->receiver, table, 1);
	digester->receiver.no_text = true;
	return digester;
}

void
source_digest_row(RowDigester *digester, const Datum *values, const bool *nulls, Digest *hash, uint64 *held)
{
	RowReceiver *receiver = &digester->receiver;
	MemoryContext before;
	SourceRow	row;

	memset(&row, 0, sizeof(row));
	MemoryContextReset(receiver->base.scratch);
	before = MemoryContextSwitchTo(receiver->base.scratch);
	row_set_held(receiver, values, nulls, &row);
	row_render(receiver, values, nulls, &row);
	MemoryContextSwitchTo(before);
	*hash = row.hash;
	*held = row.held;
}

void
source_digester_end(RowDigester *digester)
{
	SourceRow  *rows;

	(void) row_receiver_end(&digester->receiver, &rows);
	pfree(rows);
	pfree(digester);
}

/* ---- executing ---- */

static void
execute(SPIPlanPtr plan, ParamListInfo params, Receiver *receiver)
{
	SPIExecuteOptions options;
	int			rc;

	memset(&options, 0, sizeof(options));
	options.params = params;
	options.dest = &receiver->dest;
	rc = SPI_execute_plan_extended(plan, &options);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not read a table: %s", SPI_result_code_string(rc));
}

static void
set_parameter(ParamListInfo params, int i, Oid type, Datum value)
{
	params->params[i].value = value;
	params->params[i].isnull = false;
	params->params[i].pflags = PARAM_FLAG_CONST;
	params->params[i].ptype = type;
}

/*
 * Has pages read along the index of the key.  Without statistics the planner
 * thinks that few rows share the first columns of a composite key, and would
 * rather fetch and sort all of them, for every page.
 */
static void
read_in_order(void)
{
	(void) set_config_option("enable_sort", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * The next rows after last_key, at most limit of them, in key order, between
 * source_begin() and source_end().  One statement for each level of the key,
 * see statement.c.
 */
static void
read_page(SourceTable *table, PageKind kind, bool only_wanted,
		  const char *last_key, int limit, Receiver *receiver)
{
	ParamListInfo params = makeParamList(table->nkeys + 1);
	char	  **values = palloc_array(char *, table->nkeys);
	int			level = last_key == NULL ? 0 : table->nkeys;

	if (!only_wanted)
		read_in_order();
	for (int i = 0; i < table->nkeys; i++)
	{
		set_parameter(params, i, table->columns[i].type, (Datum) 0);
		params->params[i].isnull = true;
	}
	if (last_key != NULL)
	{
		key_split(last_key, table->nkeys, values);
		for (int i = 0; i < table->nkeys; i++)
			set_parameter(params, i, table->columns[i].type, source_value(&table->columns[i], values[i]));
	}

	do
	{
		set_parameter(params, table->nkeys, INT8OID, Int64GetDatum(limit - receiver->nrows));
		execute(source_page_plan(table, kind, only_wanted, level), params, receiver);
	} while (--level > 0 && receiver->nrows < limit && !receiver->full);
}

int
source_read_page(SourceTable *table, const char *last_key, int limit, SourceRow **rows, bool *more)
{
	RowReceiver receiver;
	int			nestlevel;

	row_receiver_init(&receiver, table, limit);
	receiver.bounded = true;

	nestlevel = source_begin(table, AccessShareLock, false);
	read_page(table, PAGE_ROWS, source_wanted_is_cheap(table, limit), last_key, limit, &receiver.base);
	source_end(nestlevel);

	*more = receiver.base.full;
	return row_receiver_end(&receiver, rows);
}

/* ---- from all over the table ---- */

double
source_guess_rows(SourceTable *table, bool *analyzed, bool *samples)
{
	double		rows = 0;
	ListCell   *lc;

	*samples = *analyzed = true;
	foreach(lc, find_all_inheritors(table->relid, AccessShareLock, NULL))
	{
		Relation	rel = table_open(lfirst_oid(lc), NoLock);

		if (RELKIND_HAS_TABLE_AM(rel->rd_rel->relkind))
		{
			BlockNumber pages;
			double		tuples;
			double		all_visible;

			estimate_rel_size(rel, NULL, &pages, &tuples, &all_visible);
			rows += tuples;
			*analyzed = *analyzed && rel->rd_rel->reltuples >= 0;
		}
		else if (rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE)
		{
			*samples = false;
			*analyzed = *analyzed && rel->rd_rel->reltuples >= 0;
			rows += Max(rel->rd_rel->reltuples, 0);
		}
		table_close(rel, NoLock);
	}
	return rows;
}

int
source_read_sample(SourceTable *table, double percent, SourceRow **rows, bool *more)
{
	RowReceiver receiver;
	int			nestlevel;
	ParamListInfo params = makeParamList(0);

	row_receiver_init(&receiver, table, 1024);
	receiver.bounded = true;

	nestlevel = source_begin(table, AccessShareLock, false);
	execute(source_sample_plan(table, percent), params, &receiver.base);
	source_end(nestlevel);

	*more = receiver.base.full;
	return row_receiver_end(&receiver, rows);
}

/* ---- by key ---- */

static ParamListInfo
key_parameters(SourceTable *table, char **keys, int nkeys)
{
	ParamListInfo params = makeParamList(table->nkeys);
	char	  **values = palloc_array(char *, table->nkeys);
	char	 ***columns = palloc_array(char **, table->nkeys);

	for (int i = 0; i < table->nkeys; i++)
		columns[i] = palloc_array(char *, nkeys);
	for (int row = 0; row < nkeys; row++)
	{
		key_split(keys[row], table->nkeys, values);
		for (int i = 0; i < table->nkeys; i++)
			columns[i][row] = values[i];
	}
	for (int i = 0; i < table->nkeys; i++)
	{
		Oid			type = table->columns[i].array_type;

		set_parameter(params, i, OidIsValid(type) ? type : TEXTARRAYOID,
					  source_array(&table->columns[i], columns[i], nkeys));
	}
	return params;
}

static int
read_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows, bool to_write, bool lock, bool *more)
{
	RowReceiver receiver;
	int			nestlevel;

	row_receiver_init(&receiver, table, nkeys);
	receiver.render_all = true;
	receiver.no_text = to_write;
	receiver.bounded = more != NULL;
	receiver.partitions = table->foreign;

	nestlevel = source_begin(table, lock ? RowShareLock : AccessShareLock, lock);
	execute(source_keys_plan(table, lock), key_parameters(table, keys, nkeys), &receiver.base);
	source_end(nestlevel);

	if (more != NULL)
		*more = receiver.base.full;
	return row_receiver_end(&receiver, rows);
}

int
source_read_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows)
{
	return read_keys(table, keys, nkeys, rows, false, false, NULL);
}

int
source_read_some_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows, bool *more)
{
	return read_keys(table, keys, nkeys, rows, false, false, more);
}

/*
 * A foreign server's locks cannot be skipped, so there nothing is locked: it
 * keeps one snapshot through the transaction and refuses to update what others
 * have changed since.  Where only some partitions are foreign, the rows of the
 * others are read once more with a lock.
 */
int
source_lock_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows)
{
	SourceRow  *all;
	SourceRow  *locked;
	char	  **local;
	int			nall;
	int			nlocal = 0;
	int			nlocked;
	int			n = 0;

	if (!table->foreign)
		return read_keys(table, keys, nkeys, rows, true, true, NULL);

	nall = read_keys(table, keys, nkeys, &all, true, false, NULL);
	local = palloc_array(char *, nall + 1);
	for (int i = 0; i < nall; i++)
	{
		if (all[i].remote)
			all[n++] = all[i];
		else
			local[nlocal++] = all[i].key;
	}
	*rows = all;
	if (nlocal == 0)
		return n;
	nlocked = read_keys(table, local, nlocal, &locked, true, true, NULL);
	for (int i = 0; i < nlocked && n < nall; i++)
	{
		if (!locked[i].remote)
			all[n++] = locked[i];
	}
	return n;
}

/*
 * A policy for UPDATE hides rows from a locking SELECT just as SKIP LOCKED
 * does; one that does not skip tells both apart.
 */
bool
source_are_locked(SourceTable *table, char **keys, int nkeys)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	RowReceiver receiver;
	int			nestlevel;
	volatile bool locked = false;

	if (check_enable_rls(table->relid, InvalidOid, true) != RLS_ENABLED)
		return true;
	row_receiver_init(&receiver, table, nkeys);
	BeginInternalSubTransaction(NULL);
	PG_TRY();
	{
		nestlevel = source_begin(table, RowShareLock, true);
		execute(source_nowait_plan(table), key_parameters(table, keys, nkeys), &receiver.base);
		source_end(nestlevel);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		if (geterrcode() != ERRCODE_LOCK_NOT_AVAILABLE)
			PG_RE_THROW();
		MemoryContextSwitchTo(caller);
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		locked = true;
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return locked || receiver.base.nrows > 0;
}

/* ---- keys alone ---- */

typedef struct KeyReceiver
{
	Receiver	base;			/* must be first */
	int			limit;
	char	  **keys;			/* NULL: only the last one is kept */
	bool	   *matches;
	char	   *last_key;
	int64		nwanted;
} KeyReceiver;

static bool
receive_key(TupleTableSlot *slot, DestReceiver *self)
{
	KeyReceiver *receiver = (KeyReceiver *) self;
	SourceTable *table = receiver->base.table;
	int			row = receiver->base.nrows++;
	bool		target_null;
	bool		matches;

	slot_getallattrs(slot);
	MemoryContextReset(receiver->base.scratch);
	target_null = DatumGetBool(slot->tts_values[table->nkeys]);
	matches = DatumGetBool(slot->tts_values[table->nkeys + 1]);

	if (matches && (table->overwrite || target_null))
		receiver->nwanted++;
	if (receiver->keys != NULL)
	{
		receiver->keys[row] = slot_key(&receiver->base, slot, receiver->base.result);
		receiver->matches[row] = matches;
	}
	else if (row + 1 == receiver->limit)
		receiver->last_key = slot_key(&receiver->base, slot, receiver->base.result);
	return true;
}

int64
source_count_page(SourceTable *table, char **last_key, int limit)
{
	KeyReceiver receiver;
	int			nestlevel;

	memset(&receiver, 0, sizeof(receiver));
	receiver_init(&receiver.base, table, receive_key);
	receiver.limit = limit;

	nestlevel = source_begin(table, AccessShareLock, false);
	read_page(table, PAGE_KEYS, source_wanted_is_cheap(table, limit), *last_key, limit, &receiver.base);
	source_end(nestlevel);

	MemoryContextDelete(receiver.base.scratch);
	*last_key = receiver.last_key;
	return receiver.nwanted;
}

int
source_read_key_page(SourceTable *table, const char *last_key, int limit, char ***keys, bool **matches)
{
	KeyReceiver receiver;
	int			nestlevel;

	memset(&receiver, 0, sizeof(receiver));
	receiver_init(&receiver.base, table, receive_key);
	receiver.limit = limit;
	receiver.keys = palloc_array(char *, limit);
	receiver.matches = palloc_array(bool, limit);

	nestlevel = source_begin(table, AccessShareLock, false);
	read_page(table, PAGE_KEYS, false, last_key, limit, &receiver.base);
	source_end(nestlevel);

	MemoryContextDelete(receiver.base.scratch);
	*keys = receiver.keys;
	*matches = receiver.matches;
	return receiver.base.nrows;
}
