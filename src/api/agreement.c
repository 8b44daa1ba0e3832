/*-------------------------------------------------------------------------
 *
 * agreement.c
 *		dess_batch_agreement and dess_batch_agreement_rows: how far two columns agree.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/tuplestore.h"

#include "api/submit.h"
#include "table/table.h"
#include "text/agreement.h"

PG_FUNCTION_INFO_V1(dess_batch_agreement);
PG_FUNCTION_INFO_V1(dess_batch_agreement_rows);

/*
 * A text of the database as UTF-8.  What SQL_ASCII lets in and is not UTF-8 is
 * read as LATIN1: two equal values stay equal.
 */
static const char *
as_utf8(const char *text)
{
	int			length;

	if (text == NULL)
		return NULL;
	length = strlen(text);
	if (GetDatabaseEncoding() != PG_SQL_ASCII)
		return pg_server_to_any(text, length, PG_UTF8);
	if (pg_verify_mbstr(PG_UTF8, text, length, true))
		return text;
	return (char *) pg_do_encoding_conversion((unsigned char *) unconstify(char *, text), length,
											  PG_LATIN1, PG_UTF8);
}

static AgreementClass
classify(const char *a, const char *b)
{
	return agreement_compare(agreement_normalize(as_utf8(a)), agreement_normalize(as_utf8(b)));
}

/* ---- the figures ---- */

static void
count_pair(void *arg, const char *a, const char *b, char **key, int nkeys)
{
	int64	   *counts = arg;

	counts[classify(a, b)]++;
}

/* part / whole with four decimals; null when there is nothing to compare. */
static Datum
share(int64 part, int64 whole, bool *isnull)
{
	*isnull = whole == 0;
	if (*isnull)
		return (Datum) 0;
	return DirectFunctionCall2(numeric_round,
							   DirectFunctionCall2(numeric_div,
												   NumericGetDatum(int64_to_numeric(part)),
												   NumericGetDatum(int64_to_numeric(whole))),
							   Int32GetDatum(4));
}

Datum
dess_batch_agreement(PG_FUNCTION_ARGS)
{
	int64		counts[AGREEMENT_CLASSES] = {0};
	int64		rows = 0;
	int64		both;
	TupleDesc	desc;
	Datum		values[9];
	bool		nulls[9] = {false};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	source_read_pairs(PG_GETARG_OID(0), NameStr(*PG_GETARG_NAME(1)), NameStr(*PG_GETARG_NAME(2)),
					  NIL, count_pair, counts);

	for (int i = 0; i < AGREEMENT_CLASSES; i++)
		rows += counts[i];
	both = counts[AGREEMENT_EQUAL] + counts[AGREEMENT_CONTAINED] + counts[AGREEMENT_DIFFERENT];
	values[0] = Int64GetDatum(rows);
	values[1] = Int64GetDatum(both);
	for (int i = 0; i < AGREEMENT_CLASSES; i++)
		values[i + 2] = Int64GetDatum(counts[i]);
	values[8] = share(counts[AGREEMENT_EQUAL], both, &nulls[8]);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* ---- the rows behind a figure ---- */

typedef struct Listing
{
	bool		wanted[AGREEMENT_CLASSES];
	Datum		key_columns;
	Datum		key_kinds;
	bool		has_key;
	ReturnSetInfo *rsinfo;
} Listing;

static void
list_pair(void *arg, const char *a, const char *b, char **key, int nkeys)
{
	Listing    *listing = arg;
	Datum		values[3] = {0};
	bool		nulls[3];

	if (!listing->wanted[classify(a, b)])
		return;
	nulls[0] = !listing->has_key;
	nulls[1] = a == NULL;
	nulls[2] = b == NULL;
	if (listing->has_key)
		values[0] = DirectFunctionCall3(dess_batch_row_key, CStringGetTextDatum(key_join(key, nkeys)),
										listing->key_columns, listing->key_kinds);
	if (a != NULL)
		values[1] = CStringGetTextDatum(a);
	if (b != NULL)
		values[2] = CStringGetTextDatum(b);
	tuplestore_putvalues(listing->rsinfo->setResult, listing->rsinfo->setDesc, values, nulls);
}

/* Raises 22023 for what is no class. */
static void
choose_classes(bool *wanted, const char *name)
{
	bool		both = strcmp(name, "both_present") == 0;
	bool		known = both;

	for (int i = 0; i < AGREEMENT_CLASSES; i++)
	{
		wanted[i] = both ? i <= AGREEMENT_DIFFERENT : strcmp(name, agreement_class_name(i)) == 0;
		known = known || wanted[i];
	}
	if (!known)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown class \"%s\"", name),
				 errhint("Valid classes are \"equal\", \"contained\", \"different\", \"only_a\", \"only_b\", "
						 "\"neither\" and \"both_present\".")));
}

/* The columns of the key; NIL for a relation that has none of its own. */
static List *
resolve_key(Oid source, char **kinds)
{
	char		relkind = get_rel_relkind(source);

	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		return NIL;
	return source_resolve_key(source, NIL, kinds);
}

Datum
dess_batch_agreement_rows(PG_FUNCTION_ARGS)
{
	Listing		listing = {0};
	char	   *kinds = "";
	List	   *key_columns;
	Datum	   *names;
	ListCell   *lc;
	int			n = 0;

	choose_classes(listing.wanted, text_to_cstring(PG_GETARG_TEXT_PP(3)));
	key_columns = resolve_key(PG_GETARG_OID(0), &kinds);
	names = palloc_array(Datum, list_length(key_columns) + 1);
	foreach(lc, key_columns)
		names[n++] = CStringGetTextDatum(lfirst(lc));
	listing.has_key = n > 0;
	listing.key_columns = PointerGetDatum(construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT));
	listing.key_kinds = CStringGetTextDatum(kinds);

	InitMaterializedSRF(fcinfo, 0);
	listing.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	source_read_pairs(PG_GETARG_OID(0), NameStr(*PG_GETARG_NAME(1)), NameStr(*PG_GETARG_NAME(2)),
					  key_columns, list_pair, &listing);
	return (Datum) 0;
}
