/*-------------------------------------------------------------------------
 *
 * statement.c
 *		The statements on a user's table, and the rights that they need.
 *
 * Pages are read in key order.  A page that starts inside a composite key is
 * read by one statement for each key column, from the last to the first:
 * (a = $1 AND b > $2), then (a > $1).  Each of them starts in the index
 * at once, whatever schema the operators live in, and each can be sent to a
 * foreign server.  An OR of them would start at the first row of a, and a row
 * comparison needs operators of one name and is not sent.
 *
 * Whether a row is wanted is computed in the select list, so that a statement
 * does not run long because few rows are wanted.  The other rows are left out
 * by WHERE only where the planner knows a cheap way to all wanted rows at once,
 * for example a partial index on the null target.
 *
 * Parameters have the type of their column, without its length, so that they
 * are constants for the planner and for foreign servers.  The length, and what
 * a domain asks for, is enforced by the assignment, which raises where a cast
 * would cut.  Arrays cannot be elements of arrays and travel as text.
 *
 * The planner does not learn how many keys there are.  It does not know that a
 * key is looked up in one partition only, so with many keys it would read the
 * whole of a partitioned table rather than visit each partition for each key.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/plannodes.h"
#include "optimizer/optimizer.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/catcache.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/syscache.h"

#include "runtime/txn.h"
#include "table/internal.h"

/* No statement that reads all wanted rows may cost more, in the planner's units: about a second's work. */
#define CHEAP_COST	20000.0

#define FUNCTION_NAME	"dess_batch_unchanged"

/* ---- pieces of statements ---- */

static void
append_target_null(StringInfo sql, const SourceTable *table)
{
	if (table->ntargets == 0)
		appendStringInfoString(sql, "true");
	for (int i = 0; i < table->ntargets; i++)
		appendStringInfo(sql, "%s" SOURCE_ALIAS ".%s IS NULL", i > 0 ? " AND " : "",
						 table->columns[table->nkeys + i].quoted);
}

static void
append_where(StringInfo sql, const SourceTable *table)
{
	if (table->where_sql == NULL)
		appendStringInfoString(sql, "true");
	else
		appendStringInfo(sql, "((%s) IS TRUE)", table->where_sql);
}

/* c1, c2, ...: columns of the kind, for PAGE_KEYS whether the targets are null, and whether where_sql holds. */
static void
append_select_list(StringInfo sql, const SourceTable *table, PageKind kind)
{
	int			ncolumns = kind == PAGE_ROWS ? table->ncolumns : table->nkeys;

	for (int i = 0; i < ncolumns; i++)
		appendStringInfo(sql, SOURCE_ALIAS ".%s AS c%d, ", table->columns[i].quoted, i + 1);
	if (kind == PAGE_KEYS)
	{
		append_target_null(sql, table);
		appendStringInfo(sql, " AS c%d, ", ++ncolumns);
	}
	append_where(sql, table);
	appendStringInfo(sql, " AS c%d", ncolumns + 1);
}

/* Rows after the key in $1, $2, ... that have its first level - 1 columns; level 0: all rows. */
static void
append_start(StringInfo sql, const SourceTable *table, int level)
{
	appendStringInfoString(sql, "true");
	for (int i = 0; i < level; i++)
		appendStringInfo(sql, " AND " SOURCE_ALIAS ".%s %s $%d", table->columns[i].quoted,
						 i < level - 1 ? table->columns[i].equal : table->columns[i].greater, i + 1);

	/* nobody keeps nulls out of a foreign table's key */
	for (int i = 0; i < table->nkeys; i++)
	{
		if (table->columns[i].nullable)
			appendStringInfo(sql, " AND " SOURCE_ALIAS ".%s IS NOT NULL", table->columns[i].quoted);
	}
}

static void
append_wanted(StringInfo sql, const SourceTable *table)
{
	/* not "IS TRUE", which no index can tell */
	appendStringInfo(sql, "(%s)", table->where_sql != NULL ? table->where_sql : "true");
	if (!table->overwrite)
	{
		appendStringInfoString(sql, " AND ");
		append_target_null(sql, table);
	}
}

/* Keys, and behind them values, as rows: of how many, a subquery keeps from the planner. */
static void
append_unnest(StringInfo sql, int narrays)
{
	appendStringInfoString(sql, "ROWS FROM (");
	for (int i = 0; i < narrays; i++)
		appendStringInfo(sql, "%spg_catalog.unnest((SELECT $%d))", i > 0 ? ", " : "", i + 1);
	appendStringInfoChar(sql, ')');
}

/* An element of what was unnested, as a value of the column. */
static void
append_element(StringInfo sql, const SourceColumn *column, char letter, int number)
{
	appendStringInfo(sql, "v.%c%d", letter, number);
	if (!OidIsValid(column->array_type))
		appendStringInfo(sql, "::%s", column->type_name);
}

/*
 * The table's key equals that of v.  A foreign server does not see v, so it
 * also gets the list of values of each key column; without it the whole table
 * would be fetched.
 */
static void
append_key_match(StringInfo sql, const SourceTable *table)
{
	for (int i = 0; i < table->nkeys && table->foreign; i++)
	{
		if (OidIsValid(table->columns[i].array_type))
			appendStringInfo(sql, SOURCE_ALIAS ".%s %s ANY ($%d) AND ", table->columns[i].quoted,
							 table->columns[i].equal, i + 1);
	}
	for (int i = 0; i < table->nkeys; i++)
	{
		appendStringInfo(sql, "%s" SOURCE_ALIAS ".%s %s ", i > 0 ? " AND " : "",
						 table->columns[i].quoted, table->columns[i].equal);
		append_element(sql, &table->columns[i], 'k', i + 1);
	}
}

static bool
key_is_one_element(const SourceTable *table)
{
	return table->nkeys == 1 && OidIsValid(table->columns[0].array_type);
}

/* ---- statements ---- */

/* Parameters: the key's columns, the limit. */
static char *
page_sql(const SourceTable *table, PageKind kind, bool only_wanted, int level)
{
	StringInfoData sql;

	initStringInfo(&sql);
	if (only_wanted)
		appendStringInfoString(&sql, "SELECT * FROM (");
	appendStringInfoString(&sql, "SELECT ");
	append_select_list(&sql, table, kind);
	appendStringInfo(&sql, " FROM %s WHERE ", table->from);
	append_start(&sql, table, level);

	/*
	 * OFFSET 0 keeps the limit out of the planner's sight: it takes the way
	 * to all wanted rows whose cost was asked for, and not the primary key in
	 * the hope of meeting enough of them soon.
	 */
	if (only_wanted)
	{
		appendStringInfoString(&sql, " AND ");
		append_wanted(&sql, table);
		appendStringInfoString(&sql, " OFFSET 0) AS " SOURCE_ALIAS);
	}
	appendStringInfoString(&sql, " ORDER BY ");
	for (int i = 0; i < table->nkeys; i++)
	{
		if (only_wanted)
			appendStringInfo(&sql, "%s" SOURCE_ALIAS ".c%d", i > 0 ? ", " : "", i + 1);
		else
			appendStringInfo(&sql, "%s" SOURCE_ALIAS ".%s", i > 0 ? ", " : "", table->columns[i].quoted);
	}
	appendStringInfo(&sql, " LIMIT $%d", table->nkeys + 1);
	return sql.data;
}

/* No parameters. */
static char *
wanted_sql(const SourceTable *table)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT " SOURCE_ALIAS ".%s FROM %s WHERE ", table->columns[0].quoted, table->from);
	append_wanted(&sql, table);
	return sql.data;
}

/* Parameters: an array for each key column.  lock is NULL or what is done about rows that are locked. */
static char *
keys_sql(const SourceTable *table, const char *lock)
{
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_select_list(&sql, table, PAGE_ROWS);
	if (table->foreign)
		appendStringInfo(&sql, ", " SOURCE_ALIAS ".tableoid AS c%d", table->ncolumns + 2);
	appendStringInfo(&sql, " FROM %s WHERE ", table->from);
	if (key_is_one_element(table) && (table->foreign || table->relkind != RELKIND_PARTITIONED_TABLE))
		appendStringInfo(&sql, SOURCE_ALIAS ".%s %s ANY ($1)",
						 table->columns[0].quoted, table->columns[0].equal);
	else
	{
		/* in a subquery, so that where_sql does not see v */
		appendStringInfoString(&sql, "EXISTS (SELECT FROM ");
		append_unnest(&sql, table->nkeys);
		appendStringInfoString(&sql, " AS v(");
		for (int i = 0; i < table->nkeys; i++)
			appendStringInfo(&sql, "%sk%d", i > 0 ? ", " : "", i + 1);
		appendStringInfoString(&sql, ") WHERE ");
		append_key_match(&sql, table);
		appendStringInfoChar(&sql, ')');
	}
	if (lock != NULL)
		appendStringInfo(&sql, " FOR NO KEY UPDATE OF " SOURCE_ALIAS " %s", lock);
	return sql.data;
}

/*
 * On a foreign table an UPDATE with FROM locks and fetches the whole remote
 * table and writes row by row.  This form is one remote statement.
 */
bool
source_writes_by_position(const SourceTable *table)
{
	if (!table->foreign || !key_is_one_element(table))
		return false;
	for (int i = 0; i < table->ntargets; i++)
	{
		if (!OidIsValid(table->columns[table->nkeys + i].array_type))
			return false;
	}
	return true;
}

static void
append_position(StringInfo sql, const SourceTable *table)
{
	const SourceColumn *key = &table->columns[0];

	appendStringInfo(sql, "pg_catalog.array_position($1, " SOURCE_ALIAS ".%s::%s)",
					 key->quoted, key->type_name);
}

/* The function that the UPDATE calls for each row (check.c), qualified and quoted. */
static char *
unchanged_function(void)
{
	Oid			extension = txn_extension_oid();
	CatCList   *candidates = SearchSysCacheList1(PROCNAMEARGSNSP, CStringGetDatum(FUNCTION_NAME));
	char	   *name = NULL;

	for (int i = 0; i < candidates->n_members; i++)
	{
		Form_pg_proc function = (Form_pg_proc) GETSTRUCT(&candidates->members[i]->tuple);

		if (getExtensionOfObject(ProcedureRelationId, function->oid) == extension)
			name = quote_qualified_identifier(get_namespace_name(function->pronamespace), FUNCTION_NAME);
	}
	ReleaseSysCacheList(candidates);
	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("the extension has no function \"%s\"", FUNCTION_NAME)));
	return name;
}

/* The row is what it was: see check.c. */
static void
append_check(StringInfo sql, const SourceTable *table)
{
	appendStringInfo(sql, " AND %s(v.n, ROW(", unchanged_function());
	for (int i = 0; i < table->ncolumns; i++)
		appendStringInfo(sql, "%s" SOURCE_ALIAS ".%s", i > 0 ? ", " : "", table->columns[i].quoted);
	appendStringInfoString(sql, "))");
}

/*
 * Parameters: an array for each key column, an array for each target.  Returns
 * the numbers of rows written, from 1.  check: only rows that are what they
 * were, and nothing is returned.
 */
static char *
write_sql(const SourceTable *table, bool check)
{
	bool		by_position = source_writes_by_position(table);
	StringInfoData sql;

	initStringInfo(&sql);
	appendStringInfo(&sql, "UPDATE %s SET ", table->from);
	for (int i = 0; i < table->ntargets; i++)
	{
		const SourceColumn *target = &table->columns[table->nkeys + i];

		appendStringInfo(&sql, "%s%s = ", i > 0 ? ", " : "", target->quoted);
		if (by_position)
		{
			appendStringInfo(&sql, "($%d)[", table->nkeys + i + 1);
			append_position(&sql, table);
			appendStringInfoChar(&sql, ']');
		}
		else
			append_element(&sql, target, 'v', i + 1);
	}
	if (by_position)
	{
		appendStringInfo(&sql, " WHERE " SOURCE_ALIAS ".%s %s ANY ($1) RETURNING ",
						 table->columns[0].quoted, table->columns[0].equal);
		append_position(&sql, table);
		appendStringInfoString(&sql, "::bigint");
		return sql.data;
	}

	appendStringInfoString(&sql, " FROM ");
	append_unnest(&sql, table->nkeys + table->ntargets);
	appendStringInfoString(&sql, " WITH ORDINALITY AS v(");
	for (int i = 0; i < table->nkeys; i++)
		appendStringInfo(&sql, "k%d, ", i + 1);
	for (int i = 0; i < table->ntargets; i++)
		appendStringInfo(&sql, "v%d, ", i + 1);
	appendStringInfoString(&sql, "n) WHERE ");
	append_key_match(&sql, table);
	if (check)
		append_check(&sql, table);
	else
		appendStringInfoString(&sql, " RETURNING v.n");
	return sql.data;
}

/* ---- parameters ---- */

Datum
source_value(SourceColumn *column, const char *text)
{
	return InputFunctionCall(&column->input, unconstify(char *, text), column->input_param, -1);
}

Datum
source_array(SourceColumn *column, char *const *texts, int ntexts)
{
	bool		typed = OidIsValid(column->array_type);
	Datum	   *values = palloc_array(Datum, ntexts + 1);
	bool	   *nulls = palloc_array(bool, ntexts + 1);
	int			dims[1];
	int			lbs[1];

	for (int i = 0; i < ntexts; i++)
	{
		nulls[i] = texts[i] == NULL;
		values[i] = nulls[i] ? (Datum) 0 :
			typed ? source_value(column, texts[i]) : CStringGetTextDatum(texts[i]);
	}
	dims[0] = ntexts;
	lbs[0] = 1;
	if (typed)
		return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, column->type,
												  column->typlen, column->typbyval, column->typalign));
	return PointerGetDatum(construct_md_array(values, nulls, 1, dims, lbs, TEXTOID,
											  -1, false, TYPALIGN_INT));
}

/* Types of the parameters of a page, which there are one more of than key columns. */
static int
page_types(const SourceTable *table, Oid *types)
{
	for (int i = 0; i < table->nkeys; i++)
		types[i] = table->columns[i].type;
	types[table->nkeys] = INT8OID;
	return table->nkeys + 1;
}

/* Types of arrays for the first ncolumns columns. */
static Oid *
array_types(const SourceTable *table, int ncolumns)
{
	Oid		   *types = palloc_array(Oid, ncolumns);

	for (int i = 0; i < ncolumns; i++)
		types[i] = OidIsValid(table->columns[i].array_type) ? table->columns[i].array_type : TEXTARRAYOID;
	return types;
}

/* ---- plans ---- */

static SPIPlanPtr
prepare(const char *sql, int nargs, Oid *types, int options)
{
	SPIPlanPtr	plan = SPI_prepare_cursor(sql, nargs, types, options);

	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql, SPI_result_code_string(SPI_result));
	if (SPI_keepplan(plan) != 0)
		elog(ERROR, "could not keep the plan of \"%s\"", sql);
	return plan;
}

/*
 * Plans see the values of their parameters each time: where a page starts and
 * how many keys there are make all the difference.
 */
SPIPlanPtr
source_page_plan(SourceTable *table, PageKind kind, bool only_wanted, int level)
{
	SPIPlanPtr *plan = &table->page_plans[kind][only_wanted][level];
	Oid			types[INDEX_MAX_KEYS + 1];
	int			nargs = page_types(table, types);

	if (*plan == NULL)
		*plan = prepare(page_sql(table, kind, only_wanted, level), nargs, types,
						CURSOR_OPT_CUSTOM_PLAN);
	return *plan;
}

SPIPlanPtr
source_keys_plan(SourceTable *table, bool lock)
{
	SPIPlanPtr *plan = lock ? &table->lock_plan : &table->read_plan;

	if (*plan == NULL)
		*plan = prepare(keys_sql(table, lock ? "SKIP LOCKED" : NULL), table->nkeys,
						array_types(table, table->nkeys), CURSOR_OPT_CUSTOM_PLAN);
	return *plan;
}

SPIPlanPtr
source_nowait_plan(SourceTable *table)
{
	if (table->nowait_plan == NULL)
		table->nowait_plan = prepare(keys_sql(table, "NOWAIT"), table->nkeys,
									 array_types(table, table->nkeys), CURSOR_OPT_CUSTOM_PLAN);
	return table->nowait_plan;
}

SPIPlanPtr
source_write_plan(SourceTable *table, bool check)
{
	SPIPlanPtr *plan = check ? &table->check_plan : &table->write_plan;
	int			narrays = table->nkeys + table->ntargets;

	if (*plan == NULL)
		*plan = prepare(write_sql(table, check), narrays, array_types(table, narrays),
						CURSOR_OPT_CUSTOM_PLAN);
	return *plan;
}

/* All columns of rows of some blocks, the same ones every time.  Not kept. */
SPIPlanPtr
source_sample_plan(SourceTable *table, double percent)
{
	StringInfoData sql;
	SPIPlanPtr	plan;

	initStringInfo(&sql);
	appendStringInfoString(&sql, "SELECT ");
	append_select_list(&sql, table, PAGE_ROWS);
	appendStringInfo(&sql, " FROM %s TABLESAMPLE SYSTEM (%.9f) REPEATABLE (0)", table->from, percent);
	plan = SPI_prepare(sql.data, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", sql.data, SPI_result_code_string(SPI_result));
	return plan;
}

static void
free_plan(SPIPlanPtr *plan)
{
	if (*plan != NULL)
		SPI_freeplan(*plan);
	*plan = NULL;
}

/* Needs neither a transaction nor SPI, so that a memory context may do it. */
void
source_free_plans(SourceTable *table)
{
	for (int kind = 0; kind < PAGE_KINDS; kind++)
	{
		for (int level = 0; level <= INDEX_MAX_KEYS; level++)
		{
			free_plan(&table->page_plans[kind][false][level]);
			free_plan(&table->page_plans[kind][true][level]);
		}
	}
	free_plan(&table->wanted_plan);
	free_plan(&table->read_plan);
	free_plan(&table->lock_plan);
	free_plan(&table->nowait_plan);
	free_plan(&table->write_plan);
	free_plan(&table->check_plan);
}

/* ---- is there a cheap way to all wanted rows? ---- */

static double
table_rows(const SourceTable *table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table->relid));
	double		rows;

	if (!HeapTupleIsValid(tuple))
		return -1;
	rows = ((Form_pg_class) GETSTRUCT(tuple))->reltuples;
	ReleaseSysCache(tuple);
	return rows;
}

/*
 * True if reading only wanted rows, limit at a time, costs less than walking
 * through all rows by their key, and no statement of it much.  What the
 * statistics say about a table that was not analyzed for long can make this
 * slow, but never let one statement run long.  The cost of a foreign table is
 * a guess, so that is always walked through.
 */
bool
source_wanted_is_cheap(SourceTable *table, int limit)
{
	CachedPlan *cached;
	Plan	   *plan;
	double		statements;
	double		walk;
	bool		cheap;

	if (table->walk || table->foreign ||
		(table->where_sql == NULL && (table->overwrite || table->ntargets == 0)))
		return false;
	if (table->wanted_plan == NULL)
		table->wanted_plan = prepare(wanted_sql(table), 0, NULL, 0);

	cached = SPI_plan_get_cached_plan(table->wanted_plan);
	if (cached == NULL)
		return false;
	plan = linitial_node(PlannedStmt, cached->stmt_list)->planTree;
	statements = 1 + floor(plan->plan_rows / limit);
	walk = table_rows(table) * (cpu_tuple_cost + cpu_index_tuple_cost + cpu_operator_cost);
	cheap = plan->total_cost <= CHEAP_COST && statements * plan->total_cost <= walk;
	ReleaseCachedPlan(cached, CurrentResourceOwner);
	return cheap;
}

void
source_walk(SourceTable *table)
{
	table->walk = true;
}

/* ---- around every use ---- */

/*
 * Nothing is compiled: a page or a group is over before a compiler has been
 * loaded, which even the EXPLAIN that checks rights would do for a large table,
 * and which takes 44 MB of a process that stays.
 */
int
source_begin(SourceTable *table, LOCKMODE lockmode, bool impatient)
{
	int			nestlevel = source_limit_lock_wait(impatient);

	(void) set_config_option("jit", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	LockRelationOid(table->relid, lockmode);
	if (!source_is_current(table))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("definition of table %s was changed meanwhile", table->name)));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	return nestlevel;
}

void
source_end(int nestlevel)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
	AtEOXact_GUC(false, nestlevel);
}

/* ---- rights ---- */

/*
 * Raises 42501 where the current user lacks a right on some of the columns from
 * first up to end, with the SQL that grants it.
 */
static void
check_columns(const SourceTable *table, int first, int end, AclMode mode, const char *right)
{
	Oid			user = GetUserId();
	StringInfoData missing;

	if (pg_class_aclcheck(table->relid, user, mode) == ACLCHECK_OK)
		return;
	initStringInfo(&missing);
	for (int i = first; i < end; i++)
	{
		if (pg_attribute_aclcheck(table->relid, table->columns[i].attnum, user, mode) != ACLCHECK_OK)
			appendStringInfo(&missing, "%s%s", missing.len > 0 ? ", " : "", table->columns[i].quoted);
	}
	if (missing.len == 0)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for table %s", table->name),
			 errdetail("Role \"%s\" lacks the right to %s (%s).",
					   GetUserNameFromId(user, false), right, missing.data),
			 errhint("Run: GRANT %s (%s) ON %s TO %s;", right, missing.data, table->name,
					 quote_identifier(GetUserNameFromId(user, false)))));
}

/* Checks the rights for a statement as its execution would, but does nothing else. */
static void
check_statement(const char *sql, int nargs, Oid *types)
{
	Datum	   *values = palloc0_array(Datum, nargs);
	char	   *nulls = palloc(nargs);
	int			rc;

	memset(nulls, 'n', nargs);
	rc = SPI_execute_with_args(psprintf("EXPLAIN %s", sql), nargs, types, values, nulls, false, 0);
	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "could not check the rights for \"%s\": %s", sql, SPI_result_code_string(rc));
}

void
source_check_rights(SourceTable *table)
{
	int			narrays = table->nkeys + table->ntargets;
	int			nestlevel = source_begin(table, AccessShareLock, false);
	Oid			types[INDEX_MAX_KEYS + 1];
	int			nargs = page_types(table, types);

	check_columns(table, 0, table->ncolumns, ACL_SELECT, "SELECT");
	check_columns(table, table->nkeys, narrays, ACL_UPDATE, "UPDATE");

	/* what where_sql reads, and what nobody thought of */
	check_statement(page_sql(table, PAGE_ROWS, false, 0), nargs, types);
	if (table->ntargets > 0)
	{
		if (!table->foreign)
			check_statement(keys_sql(table, "SKIP LOCKED"), table->nkeys, array_types(table, table->nkeys));
		check_statement(write_sql(table, false), narrays, array_types(table, narrays));
	}
	source_end(nestlevel);
}
