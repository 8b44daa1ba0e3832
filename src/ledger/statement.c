/*-------------------------------------------------------------------------
 *
 * statement.c
 *		Statements on the ledger: plans, arguments, values of rows.
 *
 * A plan is kept for the life of the process; the plan cache makes it anew
 * when tables change or the extension is dropped and created again.  No
 * argument has a type of the extension (enums go as text), because such a
 * type's OID would change then.
 *
 * Statements see what was committed before they began, and what the
 * transaction did itself.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "ledger/internal.h"
#include "text/encoding.h"

void
ledger_open(Ledger *ledger)
{
	ledger->caller = CurrentMemoryContext;
	ledger_enter(&ledger->user);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

void
ledger_close(Ledger *ledger)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	ledger_leave(&ledger->user);
}

static void
prepare_statement(Statement *statement, const Oid *types, int nargs)
{
	SPIPlanPtr	plan;

	plan = SPI_prepare(statement->sql, nargs, unconstify(Oid *, types));
	if (plan == NULL)
		elog(ERROR, "could not prepare statement \"%s\": %s",
			 statement->sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan of statement \"%s\"", statement->sql);
	statement->plan = plan;
}

uint64
ledger_run_args(Statement *statement, const Arg *args, int nargs)
{
	Oid			types[MAX_ARGS];
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS];
	int			result;

	Assert(nargs <= MAX_ARGS);
	for (int i = 0; i < nargs; i++)
	{
		types[i] = args[i].type;
		values[i] = args[i].value;
		nulls[i] = args[i].isnull ? 'n' : ' ';
		Assert(statement->plan == NULL || SPI_getargtypeid(statement->plan, i) == types[i]);
	}
	if (statement->plan == NULL)
		prepare_statement(statement, types, nargs);
	Assert(SPI_getargcount(statement->plan) == nargs);

	result = SPI_execute_plan(statement->plan, values, nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute statement \"%s\": %s",
			 statement->sql, SPI_result_code_string(result));
	return SPI_processed;
}

uint64
ledger_execute_args(Statement *statement, const Arg *args, int nargs)
{
	Ledger		ledger;
	uint64		processed;

	ledger_open(&ledger);
	processed = ledger_run_args(statement, args, nargs);
	ledger_close(&ledger);
	return processed;
}

/* ---- arguments ---- */

static Arg
make_arg(Oid type, Datum value)
{
	return (Arg) {type, value, false};
}

Arg
arg_null(Oid type)
{
	return (Arg) {type, (Datum) 0, true};
}

Arg
arg_int64(int64 value)
{
	return make_arg(INT8OID, Int64GetDatum(value));
}

Arg
arg_int32(int32 value)
{
	return make_arg(INT4OID, Int32GetDatum(value));
}

Arg
arg_oid(Oid value)
{
	return make_arg(OIDOID, ObjectIdGetDatum(value));
}

Arg
arg_bool(bool value)
{
	return make_arg(BOOLOID, BoolGetDatum(value));
}

Arg
arg_float8(double value)
{
	return make_arg(FLOAT8OID, Float8GetDatum(value));
}

Arg
arg_time(TimestampTz value)
{
	return value != 0 ? make_arg(TIMESTAMPTZOID, TimestampTzGetDatum(value)) : arg_null(TIMESTAMPTZOID);
}

Arg
arg_text(const char *value)
{
	return value != NULL ? make_arg(TEXTOID, CStringGetTextDatum(value)) : arg_null(TEXTOID);
}

/* Text that can be stored: valid in the database's encoding, at most limit bytes. */
static Datum
words_datum(const char *value, int limit)
{
	int			length = strlen(value);

	if (!pg_verify_mbstr(GetDatabaseEncoding(), value, length, true))
	{
		value = encoding_to_server_lossy(value);
		length = strlen(value);
	}
	if (length > limit)
		length = pg_mbcliplen(value, length, limit);
	return PointerGetDatum(cstring_to_text_with_len(value, length));
}

Arg
arg_words(const char *value, int limit)
{
	return value != NULL ? make_arg(TEXTOID, words_datum(value, limit)) : arg_null(TEXTOID);
}

static Datum
bytes_datum(const void *bytes, size_t length)
{
	bytea	   *value = palloc(VARHDRSZ + length);

	SET_VARSIZE(value, VARHDRSZ + length);
	memcpy(VARDATA(value), bytes, length);
	return PointerGetDatum(value);
}

Arg
arg_bytes(const void *bytes, size_t length)
{
	return make_arg(BYTEAOID, bytes_datum(bytes, length));
}

/* An array of elements of a type that this file knows; nulls may be NULL. */
static Arg
arg_array(Datum *values, bool *nulls, int n, Oid type)
{
	int			lower = 1;
	int16		length;
	bool		byval;
	char		align;
	Datum		array;

	get_typlenbyvalalign(type, &length, &byval, &align);
	if (n > 0)
		array = PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower, type, length, byval, align));
	else
		array = PointerGetDatum(construct_empty_array(type));
	return make_arg(get_array_type(type), array);
}

Arg
arg_texts(const char *const *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);
	bool	   *nulls = palloc_array(bool, n + 1);

	for (int i = 0; i < n; i++)
	{
		nulls[i] = values[i] == NULL;
		datums[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(values[i]);
	}
	return arg_array(datums, nulls, n, TEXTOID);
}

Arg
arg_words_array(const char *const *values, int n, int limit)
{
	Datum	   *datums = palloc_array(Datum, n + 1);
	bool	   *nulls = palloc_array(bool, n + 1);
	bool		any = false;

	for (int i = 0; i < n; i++)
	{
		nulls[i] = values[i] == NULL;
		datums[i] = nulls[i] ? (Datum) 0 : words_datum(values[i], limit);
		any = any || !nulls[i];
	}
	return any ? arg_array(datums, nulls, n, TEXTOID) : arg_null(TEXTARRAYOID);
}

Arg
arg_list(List *values)
{
	const char **texts = palloc_array(const char *, list_length(values) + 1);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, values)
		texts[n++] = lfirst(lc);
	return arg_texts(texts, n);
}

Arg
arg_int16s(const int16 *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
		datums[i] = Int16GetDatum(values[i]);
	return arg_array(datums, NULL, n, INT2OID);
}

Arg
arg_int32s(const int32 *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
		datums[i] = Int32GetDatum(values[i]);
	return arg_array(datums, NULL, n, INT4OID);
}

Arg
arg_int64s(const int64 *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
		datums[i] = Int64GetDatum(values[i]);
	return arg_array(datums, NULL, n, INT8OID);
}

Arg
arg_digests(const Digest *digests, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
		datums[i] = bytes_datum(digests[i].bytes, DIGEST_LENGTH);
	return arg_array(datums, NULL, n, BYTEAOID);
}

/* ---- values ---- */

static Datum
get_datum(uint64 row, int column, bool *isnull)
{
	Datum		value;

	if (SPI_tuptable == NULL || row >= SPI_tuptable->numvals)
		elog(ERROR, "no such row");
	value = SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
	if (SPI_result < 0)
		elog(ERROR, "could not read column %d: %s", column, SPI_result_code_string(SPI_result));
	return value;
}

bool
ledger_is_null(uint64 row, int column)
{
	bool		isnull;

	(void) get_datum(row, column, &isnull);
	return isnull;
}

Datum
ledger_datum(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	if (isnull)
		elog(ERROR, "unexpected null in column %d", column);
	return value;
}

int64
ledger_get_int64(uint64 row, int column, int64 ifnull)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	return isnull ? ifnull : DatumGetInt64(value);
}

int32
ledger_get_int32(uint64 row, int column)
{
	return DatumGetInt32(ledger_datum(row, column));
}

Oid
ledger_get_oid(uint64 row, int column)
{
	return DatumGetObjectId(ledger_datum(row, column));
}

bool
ledger_get_bool(uint64 row, int column)
{
	return DatumGetBool(ledger_datum(row, column));
}

double
ledger_get_float8(uint64 row, int column, double ifnull)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	return isnull ? ifnull : DatumGetFloat8(value);
}

TimestampTz
ledger_get_time(uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);

	return isnull ? 0 : DatumGetTimestampTz(value);
}

void
ledger_get_digest(uint64 row, int column, Digest *digest)
{
	bytea	   *bytes = DatumGetByteaPP(ledger_datum(row, column));

	if (VARSIZE_ANY_EXHDR(bytes) != DIGEST_LENGTH)
		elog(ERROR, "column %d has no digest", column);
	memcpy(digest->bytes, VARDATA_ANY(bytes), DIGEST_LENGTH);
}

char *
ledger_get_text(const Ledger *ledger, uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);
	MemoryContext old;
	char	   *result;

	if (isnull)
		return NULL;
	old = MemoryContextSwitchTo(ledger->caller);
	result = TextDatumGetCString(value);
	MemoryContextSwitchTo(old);
	return result;
}

List *
ledger_get_list(const Ledger *ledger, uint64 row, int column)
{
	bool		isnull;
	Datum		value = get_datum(row, column, &isnull);
	MemoryContext old;
	Datum	   *elements;
	int			n;
	List	   *result = NIL;

	if (isnull)
		return NIL;
	deconstruct_array(DatumGetArrayTypeP(value), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &n);
	old = MemoryContextSwitchTo(ledger->caller);
	for (int i = 0; i < n; i++)
		result = lappend(result, TextDatumGetCString(elements[i]));
	MemoryContextSwitchTo(old);
	return result;
}

int
name_position(const char *const *names, int nnames, const char *name)
{
	for (int i = 0; i < nnames; i++)
		if (strcmp(names[i], name) == 0)
			return i;
	return -1;
}
