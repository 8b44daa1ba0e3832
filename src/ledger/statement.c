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
prepare_statement(Statement *statement, const Args *args)
{
	SPIPlanPtr	plan;

	plan = SPI_prepare(statement->sql, args->n, (Oid *) args->types);
	if (plan == NULL)
		elog(ERROR, "could not prepare statement \"%s\": %s",
			 statement->sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan of statement \"%s\"", statement->sql);
	statement->plan = plan;
}

uint64
ledger_run(Statement *statement, const Args *args)
{
	int			result;

	if (statement->plan == NULL)
		prepare_statement(statement, args);

	result = SPI_execute_plan(statement->plan, (Datum *) args->values, args->nulls, false, 0);
	if (result < 0)
		elog(ERROR, "could not execute statement \"%s\": %s",
			 statement->sql, SPI_result_code_string(result));
	return SPI_processed;
}

/* ---- arguments ---- */

void
arg_datum(Args *args, Oid type, Datum value, bool isnull)
{
	if (args->n >= MAX_ARGS)
		elog(ERROR, "too many arguments");
	args->types[args->n] = type;
	args->values[args->n] = value;
	args->nulls[args->n] = isnull ? 'n' : ' ';
	args->n++;
}

void
arg_int64(Args *args, int64 value)
{
	arg_datum(args, INT8OID, Int64GetDatum(value), false);
}

void
arg_int32(Args *args, int32 value)
{
	arg_datum(args, INT4OID, Int32GetDatum(value), false);
}

void
arg_oid(Args *args, Oid value)
{
	arg_datum(args, OIDOID, ObjectIdGetDatum(value), false);
}

void
arg_bool(Args *args, bool value)
{
	arg_datum(args, BOOLOID, BoolGetDatum(value), false);
}

void
arg_float8(Args *args, double value)
{
	arg_datum(args, FLOAT8OID, Float8GetDatum(value), false);
}

void
arg_time(Args *args, TimestampTz value)
{
	arg_datum(args, TIMESTAMPTZOID, TimestampTzGetDatum(value), value == 0);
}

void
arg_text(Args *args, const char *value)
{
	arg_datum(args, TEXTOID, value ? CStringGetTextDatum(value) : (Datum) 0, value == NULL);
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

void
arg_words(Args *args, const char *value, int limit)
{
	arg_datum(args, TEXTOID, value ? words_datum(value, limit) : (Datum) 0, value == NULL);
}

void
arg_bytes(Args *args, const void *bytes, size_t length)
{
	bytea	   *value = palloc(VARHDRSZ + length);

	SET_VARSIZE(value, VARHDRSZ + length);
	memcpy(VARDATA(value), bytes, length);
	arg_datum(args, BYTEAOID, PointerGetDatum(value), false);
}

/* An array of n elements; nulls may be NULL. */
static Datum
array_datum(Datum *values, bool *nulls, int n, Oid type, int length, bool byval, char align)
{
	int			lower = 1;

	return PointerGetDatum(construct_md_array(values, nulls, 1, &n, &lower,
											  type, length, byval, align));
}

static void
arg_array(Args *args, Datum *values, bool *nulls, int n, Oid type, Oid array_type)
{
	Datum		array;

	if (n == 0)
		array = PointerGetDatum(construct_empty_array(type));
	else if (type == INT4OID)
		array = array_datum(values, nulls, n, type, sizeof(int32), true, TYPALIGN_INT);
	else if (type == INT8OID)
		array = array_datum(values, nulls, n, type, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE);
	else
		array = array_datum(values, nulls, n, type, -1, false, TYPALIGN_INT);
	arg_datum(args, array_type, array, false);
}

void
arg_texts(Args *args, const char *const *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);
	bool	   *nulls = palloc_array(bool, n + 1);

	for (int i = 0; i < n; i++)
	{
		nulls[i] = values[i] == NULL;
		datums[i] = nulls[i] ? (Datum) 0 : CStringGetTextDatum(values[i]);
	}
	arg_array(args, datums, nulls, n, TEXTOID, TEXTARRAYOID);
}

void
arg_words_array(Args *args, const char *const *values, int n, int limit)
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
	if (any)
		arg_array(args, datums, nulls, n, TEXTOID, TEXTARRAYOID);
	else
		arg_datum(args, TEXTARRAYOID, (Datum) 0, true);
}

void
arg_list(Args *args, List *values)
{
	const char **texts = palloc_array(const char *, list_length(values) + 1);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, values)
		texts[n++] = lfirst(lc);
	arg_texts(args, texts, n);
}

void
arg_int32s(Args *args, const int32 *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
		datums[i] = Int32GetDatum(values[i]);
	arg_array(args, datums, NULL, n, INT4OID, INT4ARRAYOID);
}

void
arg_int64s(Args *args, const int64 *values, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
		datums[i] = Int64GetDatum(values[i]);
	arg_array(args, datums, NULL, n, INT8OID, INT8ARRAYOID);
}

void
arg_digests(Args *args, const Digest *digests, int n)
{
	Datum	   *datums = palloc_array(Datum, n + 1);

	for (int i = 0; i < n; i++)
	{
		bytea	   *value = palloc(VARHDRSZ + DIGEST_LENGTH);

		SET_VARSIZE(value, VARHDRSZ + DIGEST_LENGTH);
		memcpy(VARDATA(value), digests[i].bytes, DIGEST_LENGTH);
		datums[i] = PointerGetDatum(value);
	}
	arg_array(args, datums, NULL, n, BYTEAOID, BYTEAARRAYOID);
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
