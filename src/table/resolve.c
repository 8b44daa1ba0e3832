/*-------------------------------------------------------------------------
 *
 * resolve.c
 *		What submit asks about a table: its key, and what where_sql means.
 *
 * A key is a unique index whose order is the default one, because pages are
 * read along it.  where_sql is analyzed once, in the session that names it,
 * and kept with every name qualified, so that it means the same to a worker
 * with another search_path.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "catalog/pg_am.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "optimizer/optimizer.h"
#include "parser/parse_clause.h"
#include "parser/parse_collate.h"
#include "parser/parse_node.h"
#include "parser/parse_relation.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/relcache.h"
#include "utils/ruleutils.h"

#include "runtime/guc.h"
#include "table/internal.h"

/* ---- key ---- */

/* The numbers of an index's columns if it can be a key, else NIL. */
static List *
index_as_key(Relation rel, Relation index)
{
	Form_pg_index form = index->rd_index;
	List	   *attnums = NIL;

	if (!form->indisunique || !form->indimmediate || !form->indisvalid || !form->indisready ||
		index->rd_rel->relam != BTREE_AM_OID ||
		!heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL))
		return NIL;

	for (int i = 0; i < form->indnkeyatts; i++)
	{
		AttrNumber	attnum = form->indkey.values[i];
		Form_pg_attribute att;
		Oid			opclass;

		if (attnum <= 0)
			return NIL;
		att = TupleDescAttr(RelationGetDescr(rel), attnum - 1);
		opclass = GetDefaultOpClass(att->atttypid, BTREE_AM_OID);
		if (!att->attnotnull || !OidIsValid(opclass) ||
			get_opclass_family(opclass) != index->rd_opfamily[i] ||
			index->rd_indcollation[i] != att->attcollation)
			return NIL;
		attnums = lappend_int(attnums, attnum);
	}
	return attnums;
}

static bool
same_columns(List *attnums, const Bitmapset *wanted)
{
	Bitmapset  *set = NULL;
	ListCell   *lc;

	foreach(lc, attnums)
		set = bms_add_member(set, lfirst_int(lc));
	return bms_equal(set, wanted);
}

#define KEY_RULE	"The index of a key must not be deferrable, partial or in another order than the type's own."

/* Raises 42P10 for columns that no index makes a key. */
static void
raise_no_such_key(Relation rel, const Bitmapset *wanted)
{
	StringInfoData names;
	int			attnum = -1;

	initStringInfo(&names);
	while ((attnum = bms_next_member(wanted, attnum)) >= 0)
		appendStringInfo(&names, "%s%s", names.len > 0 ? ", " : "",
						 quote_identifier(NameStr(TupleDescAttr(RelationGetDescr(rel), attnum - 1)->attname)));
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
			 errmsg("no unique index of relation \"%s\" has exactly the key columns (%s)",
					RelationGetRelationName(rel), names.data),
			 errdetail(KEY_RULE),
			 errhint("Run: ALTER TABLE %s ADD UNIQUE (%s);", source_relation_name(rel), names.data)));
}

/* Raises 55000, with the SQL that gives the relation a key. */
static void
raise_no_key(Relation rel, bool has_primary)
{
	char	   *name = source_relation_name(rel);
	Form_pg_attribute id = source_find_attribute(rel, "id");

	if (has_primary)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the primary key of relation \"%s\" cannot identify rows here",
						RelationGetRelationName(rel)),
				 errdetail(KEY_RULE),
				 errhint("Add a unique index on NOT NULL columns with: ALTER TABLE %s ADD UNIQUE (...);", name)));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("relation \"%s\" has no primary key and no unique index on columns that are NOT NULL",
					RelationGetRelationName(rel)),
			 id != NULL ?
			 errhint("Run: ALTER TABLE %s ADD PRIMARY KEY (id);", name) :
			 errhint("Run: ALTER TABLE %s ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY;", name)));
}

/*
 * The index that makes the wanted columns a key; any columns for NULL: then
 * the primary key, else the index with the fewest columns, else the oldest.
 * Its columns, in its order, are put into attnums unless that is NULL.
 * InvalidOid where source_is_foreign(): the key is what the user says it is.
 * Raises 42P10 or 55000 where there is no such index.
 */
Oid
source_find_key(Relation rel, const Bitmapset *wanted, List **attnums)
{
	List	   *indexes;
	ListCell   *lc;
	Oid			best = InvalidOid;
	List	   *best_attnums = NIL;
	bool		has_primary = false;

	if (source_is_foreign(RelationGetRelid(rel), rel->rd_rel->relkind))
		return InvalidOid;

	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = relation_open(lfirst_oid(lc), AccessShareLock);
		List	   *found = index_as_key(rel, index);
		bool		is_primary = index->rd_index->indisprimary;

		relation_close(index, AccessShareLock);
		has_primary = has_primary || is_primary;
		if (found == NIL || (wanted != NULL && !same_columns(found, wanted)))
			continue;
		if (is_primary || best_attnums == NIL || list_length(found) < list_length(best_attnums))
		{
			best = lfirst_oid(lc);
			best_attnums = found;
		}
		if (is_primary)
			break;
	}
	list_free(indexes);

	if (!OidIsValid(best) && wanted != NULL)
		raise_no_such_key(rel, wanted);
	if (!OidIsValid(best))
		raise_no_key(rel, has_primary);
	if (attnums != NULL)
		*attnums = best_attnums;
	return best;
}

/* The columns that the user names, checked one by one. */
static List *
given_attnums(Relation rel, List *given, Bitmapset **set)
{
	List	   *attnums = NIL;
	ListCell   *lc;

	foreach(lc, given)
	{
		const char *name = lfirst(lc);
		Form_pg_attribute att = source_find_attribute(rel, name);

		if (att == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(rel))));
		if (bms_is_member(att->attnum, *set))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("key column \"%s\" is named more than once", name)));
		if (!att->attnotnull && !source_is_foreign(RelationGetRelid(rel), rel->rd_rel->relkind))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
					 errmsg("key column \"%s\" of relation \"%s\" can be null",
							name, RelationGetRelationName(rel)),
					 errhint("Run: ALTER TABLE %s ALTER COLUMN %s SET NOT NULL;",
							 source_relation_name(rel), quote_identifier(name))));
		*set = bms_add_member(*set, att->attnum);
		attnums = lappend_int(attnums, att->attnum);
	}
	return attnums;
}

/* A letter for the key's JSON form: a number, a boolean, anything else as a string. */
static char
key_kind(Form_pg_attribute att)
{
	switch (getBaseType(att->atttypid))
	{
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
			return 'n';
		case BOOLOID:
			return 'b';
		default:
			return 's';
	}
}

/*
 * Key columns of a relation, in the order of their index: those given, checked;
 * else the primary key, else a unique index on NOT NULL columns.  kinds gets a
 * letter for each.  Whether a key that no index vouches for can be sorted is
 * for source_open() to find out.
 */
List *
source_resolve_key(Oid source, List *given, char **kinds)
{
	Relation	rel = source_open_relation(source, NULL, AccessShareLock);
	Bitmapset  *set = NULL;
	List	   *attnums = given_attnums(rel, given, &set);
	List	   *names = NIL;
	StringInfoData letters;
	ListCell   *lc;

	if (!source_is_foreign(source, rel->rd_rel->relkind))
		(void) source_find_key(rel, set, &attnums);
	else if (attnums == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 rel->rd_rel->relkind == RELKIND_FOREIGN_TABLE ?
				 errmsg("foreign table \"%s\" does not tell its key", RelationGetRelationName(rel)) :
				 errmsg("table \"%s\" with foreign partitions does not tell its key", RelationGetRelationName(rel)),
				 errhint("Name the columns that identify a row, for example \"key => '{id}'\".")));
	if (list_length(attnums) > INDEX_MAX_KEYS)
		ereport(ERROR,
				(errcode(ERRCODE_TOO_MANY_COLUMNS),
				 errmsg("a key cannot have more than %d columns", INDEX_MAX_KEYS)));

	initStringInfo(&letters);
	foreach(lc, attnums)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), lfirst_int(lc) - 1);

		names = lappend(names, pstrdup(NameStr(att->attname)));
		appendStringInfoChar(&letters, key_kind(att));
	}
	*kinds = letters.data;
	relation_close(rel, NoLock);
	return names;
}

/* ---- a key from outside ---- */

/* A member as text for an input function. */
static char *
member_text(const JsonbValue *value, const char *name)
{
	switch (value->type)
	{
		case jbvString:
			return pnstrdup(value->val.string.val, value->val.string.len);
		case jbvNumeric:
			return DatumGetCString(DirectFunctionCall1(numeric_out,
													   NumericGetDatum(value->val.numeric)));
		case jbvBool:
			return pstrdup(value->val.boolean ? "true" : "false");
		default:
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("key column \"%s\" must be a string, a number or a boolean", name)));
	}
	return NULL;
}

/* The text that the type itself gives to a value. */
static char *
canonical_text(Form_pg_attribute att, char *text)
{
	Oid			function;
	Oid			param;
	bool		is_varlena;
	Datum		value;

	getTypeInputInfo(att->atttypid, &function, &param);
	value = OidInputFunctionCall(function, text, param, att->atttypmod);
	getTypeOutputInfo(att->atttypid, &function, &is_varlena);
	return OidOutputFunctionCall(function, value);
}

char *
source_key_from_json(Oid source, List *key_columns, Jsonb *row_key)
{
	Relation	rel = source_open_relation(source, NULL, AccessShareLock);
	int			nestlevel = guc_pin_output();
	char	  **values = palloc_array(char *, list_length(key_columns));
	int			n = 0;
	char	   *key;
	ListCell   *lc;

	if (!JB_ROOT_IS_OBJECT(row_key) || JB_ROOT_COUNT(row_key) != list_length(key_columns))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("row_key must be an object of exactly the key columns"),
				 errhint("See column row_key of dess_batch_rows.")));
	foreach(lc, key_columns)
	{
		const char *name = lfirst(lc);
		Form_pg_attribute att = source_find_attribute(rel, name);
		JsonbValue	member;

		if (att == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" of relation \"%s\" does not exist",
							name, RelationGetRelationName(rel))));
		if (getKeyJsonValueFromContainer(&row_key->root, name, strlen(name), &member) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("row_key does not name key column \"%s\"", name)));
		values[n++] = canonical_text(att, member_text(&member, name));
	}
	key = key_join(values, n);
	guc_unpin(nestlevel);
	relation_close(rel, NoLock);
	return key;
}

/* ---- where_sql ---- */

#define WHERE_PREFIX	"SELECT 1 WHERE "

/* Lets a position in our statement point into where_sql. */
static void
where_error_callback(void *arg)
{
	int			position = geterrposition();

	if (position > (int) strlen(WHERE_PREFIX))
	{
		errposition(0);
		internalerrposition(position - strlen(WHERE_PREFIX));
		internalerrquery((const char *) arg);
	}
	errcontext("where_sql");
}

/* The condition as it was written, which must be nothing but a condition. */
static Node *
parse_where(const char *statement)
{
	List	   *statements = raw_parser(statement, RAW_PARSE_DEFAULT);
	SelectStmt *select;

	select = (SelectStmt *) linitial_node(RawStmt, statements)->stmt;
	if (list_length(statements) != 1 || !IsA(select, SelectStmt) ||
		select->op != SETOP_NONE || select->whereClause == NULL ||
		list_length(select->targetList) != 1 ||
		select->distinctClause != NIL || select->intoClause != NULL ||
		select->fromClause != NIL || select->groupClause != NIL ||
		select->havingClause != NULL || select->windowClause != NIL ||
		select->valuesLists != NIL || select->sortClause != NIL ||
		select->limitOffset != NULL || select->limitCount != NULL ||
		select->lockingClause != NIL || select->withClause != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("where_sql must be one condition"),
				 errhint("Give what would stand behind WHERE, and nothing else.")));
	return select->whereClause;
}

/* Raises where a subquery does more than read, or reads what a worker cannot see. */
static bool
check_subqueries(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		Query	   *query = (Query *) node;

		if (query->commandType != CMD_SELECT || query->hasModifyingCTE || query->rowMarks != NIL)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("where_sql must not write or lock rows")));
		if (isQueryUsingTempRelation(query))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("where_sql must not read temporary tables"),
					 errdetail("The background worker cannot see temporary tables of other sessions.")));
		return query_tree_walker(query, check_subqueries, context, 0);
	}
	return expression_tree_walker(node, check_subqueries, context);
}

static Node *
analyze_where(Relation rel, const char *where_sql)
{
	char	   *statement = psprintf(WHERE_PREFIX "%s", where_sql);
	ParseState *pstate = make_parsestate(NULL);
	ErrorContextCallback callback;
	ParseNamespaceItem *item;
	Node	   *condition;

	callback.callback = where_error_callback;
	callback.arg = unconstify(char *, where_sql);
	callback.previous = error_context_stack;
	error_context_stack = &callback;

	condition = parse_where(statement);
	pstate->p_sourcetext = statement;
	item = addRangeTableEntryForRelation(pstate, rel, AccessShareLock, NULL, false, true);
	addNSItemToQuery(pstate, item, true, true, true);
	condition = transformWhereClause(pstate, condition, EXPR_KIND_WHERE, "where_sql");
	assign_expr_collations(pstate, condition);
	check_subqueries(condition, NULL);
	if (contain_volatile_functions(condition))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("where_sql must not call volatile functions"),
				 errdetail("Whether a row is meant must not change from one look to the next.")));

	error_context_stack = callback.previous;
	free_parsestate(pstate);
	return condition;
}

char *
source_resolve_where(Oid source, const char *where_sql)
{
	Relation	rel = source_open_relation(source, NULL, AccessShareLock);
	Node	   *condition = analyze_where(rel, where_sql);
	int			nestlevel = guc_pin_output();
	char	   *text = deparse_expression(condition, deparse_context_for(SOURCE_ALIAS, source), false, false);

	guc_unpin(nestlevel);
	relation_close(rel, NoLock);
	return text;
}
