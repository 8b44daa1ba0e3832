/*-------------------------------------------------------------------------
 *
 * pairs.c
 *		Reads two columns of a relation, side by side.
 *
 * Runs as the caller, whose rights and row-level security hold, through a
 * cursor, so that a table of any size takes little memory.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "runtime/guc.h"
#include "table/internal.h"

#define PAIRS_A_FETCH	1000

/* Appends the column's name, quoted; raises 42703 where there is no such column. */
static void
append_column(StringInfo sql, Relation rel, const char *name)
{
	if (source_find_attribute(rel, name) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel))));
	appendStringInfo(sql, "%s%s", sql->len > strlen("SELECT ") ? ", " : "", quote_identifier(name));
}

/* The statement, and what it reads of the key. */
static char *
pairs_statement(Oid source, const char *a, const char *b, List *key_columns)
{
	Relation	rel = relation_open(source, AccessShareLock);
	StringInfoData sql;
	ListCell   *lc;

	if (rel->rd_rel->relkind == RELKIND_INDEX || rel->rd_rel->relkind == RELKIND_PARTITIONED_INDEX ||
		rel->rd_rel->relkind == RELKIND_COMPOSITE_TYPE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot read rows of \"%s\"", RelationGetRelationName(rel)),
				 errdetail_relkind_not_supported(rel->rd_rel->relkind)));

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_column(&sql, rel, a);
	append_column(&sql, rel, b);
	foreach(lc, key_columns)
		append_column(&sql, rel, lfirst(lc));
	appendStringInfo(&sql, " FROM %s", source_relation_name(rel));
	relation_close(rel, NoLock);
	return sql.data;
}

static void
report_row(HeapTuple tuple, TupleDesc desc, int nkeys, PairCallback report, void *arg)
{
	char	   *a = SPI_getvalue(tuple, desc, 1);
	char	   *b = SPI_getvalue(tuple, desc, 2);
	char	  **key = palloc_array(char *, nkeys + 1);

	for (int i = 0; i < nkeys; i++)
		key[i] = SPI_getvalue(tuple, desc, i + 3);
	report(arg, a, b, key, nkeys);
}

void
source_read_pairs(Oid source, const char *a, const char *b, List *key_columns,
				  PairCallback report, void *arg)
{
	char	   *sql = pairs_statement(source, a, b, key_columns);
	MemoryContext row_context;
	int			nestlevel = guc_pin_output();
	Portal		portal;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	row_context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch pair", ALLOCSET_DEFAULT_SIZES);
	portal = SPI_cursor_open_with_args(NULL, sql, 0, NULL, NULL, NULL, true, 0);
	for (;;)
	{
		SPITupleTable *rows;
		MemoryContext old;

		SPI_cursor_fetch(portal, true, PAIRS_A_FETCH);
		if (SPI_processed == 0)
			break;
		rows = SPI_tuptable;
		for (uint64 i = 0; i < rows->numvals; i++)
		{
			old = MemoryContextSwitchTo(row_context);
			report_row(rows->vals[i], rows->tupdesc, list_length(key_columns), report, arg);
			MemoryContextSwitchTo(old);
			MemoryContextReset(row_context);
			CHECK_FOR_INTERRUPTS();
		}
		SPI_freetuptable(rows);
	}
	SPI_cursor_close(portal);
	SPI_finish();
	guc_unpin(nestlevel);
}
