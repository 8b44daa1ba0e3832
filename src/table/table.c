/*-------------------------------------------------------------------------
 *
 * table.c
 *		The user's table as a job sees it: its columns, template and rules.
 *
 * A SourceTable outlives transactions, so it holds names, types and operators
 * as text of statements.  Whatever happens to the table, its type or its
 * schema marks it as changed; then its definition is compared anew, because
 * most of such messages come from VACUUM and ANALYZE and mean nothing.
 *
 * Keys are in the database's encoding, as the ledger keeps them.  Prompts,
 * names in {row}, properties and the missing word are in UTF-8.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "common/string.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

#include "runtime/usercxt.h"
#include "table/internal.h"

static dlist_head open_tables = DLIST_STATIC_INIT(open_tables);

/* ---- relations ---- */

/*
 * Starts a level of settings, for AtEOXact_GUC(), in which nobody waits longer
 * than a second for a lock: a worker that waits holds up all jobs.  In a
 * user's session that holds only where always is set.
 */
int
source_limit_lock_wait(bool always)
{
	int			nestlevel = NewGUCNestLevel();

	if ((always || MyBackendType == B_BG_WORKER) && (LockTimeout == 0 || LockTimeout > 1000))
		(void) set_config_option("lock_timeout", "1000", PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	return nestlevel;
}

/*
 * Opens and locks a relation that can be a job's source.  Raises 42P01 when it
 * is gone (name may be NULL), 42809 when it is none of the right kind.
 */
Relation
source_open_relation(Oid relid, const char *name, LOCKMODE lockmode)
{
	Relation	rel = try_relation_open(relid, lockmode);

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 name != NULL ? errmsg("relation \"%s\" does not exist", name) :
				 errmsg("relation with OID %u does not exist", relid)));

	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE &&
		rel->rd_rel->relkind != RELKIND_FOREIGN_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot send rows of \"%s\"", RelationGetRelationName(rel)),
				 errdetail_relkind_not_supported(rel->rd_rel->relkind),
				 errhint("Name a table, a partitioned table or a foreign table.")));
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot send rows of temporary table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("The background worker cannot see temporary tables of other sessions.")));
	return rel;
}

/*
 * Is it a foreign table, or are some of its partitions?  No index spans those,
 * so the key is what the user says it is, and locks there cannot be skipped.
 */
bool
source_is_foreign(Oid relid, char relkind)
{
	ListCell   *lc;

	if (relkind != RELKIND_PARTITIONED_TABLE)
		return relkind == RELKIND_FOREIGN_TABLE;
	foreach(lc, find_all_inheritors(relid, NoLock, NULL))
	{
		if (get_rel_relkind(lfirst_oid(lc)) == RELKIND_FOREIGN_TABLE)
			return true;
	}
	return false;
}

/* The column of exactly that name, or NULL.  Points into the relation's descriptor. */
Form_pg_attribute
source_find_attribute(Relation rel, const char *name)
{
	TupleDesc	desc = RelationGetDescr(rel);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att;
	}
	return NULL;
}

/* Qualified and quoted, for statements and hints. */
char *
source_relation_name(Relation rel)
{
	return quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
									  RelationGetRelationName(rel));
}

/* ---- encodings ---- */

/* Text in another encoding, in the current context, or NULL where a character has no equal there. */
static char *
convert_text(Oid proc, int from, int to, const char *text, size_t length)
{
	size_t		room = length * MAX_CONVERSION_GROWTH + 1;
	char	   *result;

	if (!OidIsValid(proc) || !AllocSizeIsValid(room))
		return NULL;
	result = palloc(room);
	if (pg_do_encoding_conversion_buf(proc, from, to, unconstify(unsigned char *, (const unsigned char *) text),
									  length, (unsigned char *) result, room, true) != length)
		return NULL;
	return result;
}

const char *
source_to_utf8(const SourceTable *table, const char *text, size_t *length)
{
	int			encoding = GetDatabaseEncoding();
	const char *result;

	*length = strlen(text);
	if (encoding == PG_UTF8 || pg_is_ascii(text))
		return text;
	if (encoding == PG_SQL_ASCII)
		return pg_verify_mbstr(PG_UTF8, text, *length, true) ? text : NULL;

	result = convert_text(table->to_utf8, encoding, PG_UTF8, text, *length);
	if (result != NULL)
		*length = strlen(result);
	return result;
}

const char *
source_from_utf8(const SourceTable *table, const char *text)
{
	int			encoding = GetDatabaseEncoding();

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII || pg_is_ascii(text))
		return text;
	return convert_text(table->from_utf8, PG_UTF8, encoding, text, strlen(text));
}

/* Text of the job itself, which must be text in UTF-8; what says what it is. */
char *
source_own_text(const SourceTable *table, const char *text, const char *what)
{
	size_t		length;
	const char *result = source_to_utf8(table, text, &length);

	if (result == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_CHARACTER_NOT_IN_REPERTOIRE),
				 errmsg("%s is not valid text in UTF-8", what)));
	return pstrdup(result);
}

/* ---- columns ---- */

/* "OPERATOR(schema.name)", so that no search path matters. */
static char *
operator_text(Oid operator)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(operator));
	Form_pg_operator form;
	char	   *text;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", operator);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	text = psprintf("OPERATOR(%s.%s)",
					quote_identifier(get_namespace_name(form->oprnamespace)),
					NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return text;
}

/*
 * Describes a column as the catalogs have it now, all but how its values are
 * read and written as text.
 * A key column gets its operators; raises 42883 when its type has no order.
 */
static void
describe_column(SourceColumn *column, Form_pg_attribute att, bool is_key)
{
	TypeCacheEntry *type;

	column->attnum = att->attnum;
	column->name = pstrdup(NameStr(att->attname));
	column->quoted = pstrdup(quote_identifier(column->name));
	column->nullable = !att->attnotnull;
	column->type = getBaseType(att->atttypid);
	column->type_name = format_type_extended(column->type, -1,
											 FORMAT_TYPE_TYPEMOD_GIVEN | FORMAT_TYPE_FORCE_QUALIFY);
	column->array_type = OidIsValid(get_element_type(column->type)) ? InvalidOid :
		get_array_type(column->type);
	if (!is_key)
		return;

	if (type_is_rowtype(column->type))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("key column \"%s\" is of composite type %s", column->name,
						format_type_be(att->atttypid)),
				 errhint("Name other columns that identify a row in argument \"key\".")));
	type = lookup_type_cache(column->type, TYPECACHE_EQ_OPR | TYPECACHE_GT_OPR);
	if (!OidIsValid(type->eq_opr) || !OidIsValid(type->gt_opr))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_FUNCTION),
				 errmsg("key column \"%s\" has type %s, which cannot be sorted",
						column->name, format_type_be(att->atttypid))));
	column->equal = operator_text(type->eq_opr);
	column->greater = operator_text(type->gt_opr);
}

/* The position of a column, which is added if it is new. */
int
source_add_column(SourceTable *table, Form_pg_attribute att, bool is_key)
{
	SourceColumn *column;
	Oid			function;
	bool		is_varlena;

	for (int i = 0; i < table->ncolumns; i++)
	{
		if (table->columns[i].attnum == att->attnum)
			return i;
	}
	column = &table->columns[table->ncolumns];
	describe_column(column, att, is_key);
	get_typlenbyvalalign(column->type, &column->typlen, &column->typbyval, &column->typalign);
	getTypeOutputInfo(column->type, &function, &is_varlena);
	fmgr_info_cxt(function, &column->output, table->context);
	getTypeInputInfo(column->type, &function, &column->input_param);
	fmgr_info_cxt(function, &column->input, table->context);
	return table->ncolumns++;
}

/* ---- rules and digest ---- */

void
source_append_part(StringInfo out, const char *text)
{
	uint32		length = text == NULL ? PG_UINT32_MAX : pg_hton32((uint32) strlen(text));

	appendBinaryStringInfo(out, (char *) &length, sizeof(length));
	if (text != NULL)
		appendStringInfoString(out, text);
}

/* ---- watching the definition ---- */

/* Must not raise; called at any time. */
static void
relation_changed(Datum arg, Oid relid)
{
	dlist_iter	iter;

	dlist_foreach(iter, &open_tables)
	{
		SourceTable *table = dlist_container(SourceTable, link, iter.cur);

		if (relid == InvalidOid || relid == table->relid || relid == table->key_index)
			table->changed = true;
	}
}

static void
catalog_changed(Datum arg, int cacheid, uint32 hashvalue)
{
	relation_changed(arg, InvalidOid);
}

void
source_watch(SourceTable *table)
{
	static bool registered = false;

	if (!registered)
	{
		CacheRegisterRelcacheCallback(relation_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(NAMESPACEOID, catalog_changed, (Datum) 0);
		CacheRegisterSyscacheCallback(TYPEOID, catalog_changed, (Datum) 0);
		registered = true;
	}
	dlist_push_tail(&open_tables, &table->link);
}

/*
 * Is the current user still whom to act as?  That was found out before the
 * relation was locked; its owner may have become another one while the lock was
 * waited for, and has triggers of his own by now.
 */
bool
source_role_is_right(const SourceTable *table)
{
	return usercxt_effective_role(table->job_owner, table->relid) == GetUserId();
}

static bool
column_is_same(const SourceTable *table, int i)
{
	const SourceColumn *old = &table->columns[i];
	HeapTuple	tuple = SearchSysCacheAttNum(table->relid, old->attnum);
	Form_pg_attribute att;
	SourceColumn now;
	bool		is_key = i < table->nkeys;
	bool		is_target = !is_key && i < table->nkeys + table->ntargets;
	bool		writable;

	if (!HeapTupleIsValid(tuple))
		return false;
	att = (Form_pg_attribute) GETSTRUCT(tuple);
	describe_column(&now, att, is_key);
	writable = att->attgenerated == '\0' && att->attidentity != ATTRIBUTE_IDENTITY_ALWAYS;
	ReleaseSysCache(tuple);

	return strcmp(now.name, old->name) == 0 &&
		now.nullable == old->nullable &&
		now.type == old->type &&
		strcmp(now.type_name, old->type_name) == 0 &&
		(!is_key || (strcmp(now.equal, old->equal) == 0 && strcmp(now.greater, old->greater) == 0)) &&
		(!is_target || writable);
}

static bool
definition_is_same(const SourceTable *table)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(table->relid));
	Form_pg_class class;
	char	   *namespace;
	bool		same;

	if (!HeapTupleIsValid(tuple))
		return false;
	class = (Form_pg_class) GETSTRUCT(tuple);
	namespace = get_namespace_name(class->relnamespace);
	same = namespace != NULL && class->relkind == table->relkind &&
		source_is_foreign(table->relid, table->relkind) == table->foreign &&
		strcmp(quote_qualified_identifier(namespace, NameStr(class->relname)), table->name) == 0;
	ReleaseSysCache(tuple);

	if (!same || !source_role_is_right(table))
		return false;
	if (OidIsValid(table->key_index) &&
		!SearchSysCacheExists1(INDEXRELID, ObjectIdGetDatum(table->key_index)))
		return false;
	for (int i = 0; i < table->ncolumns && same; i++)
		same = column_is_same(table, i);
	return same;
}

bool
source_is_current(SourceTable *table)
{
	if (!table->changed)
		return true;

	/* what arrives while the catalogs are read counts again */
	table->changed = false;
	if (definition_is_same(table))
		return true;
	table->changed = true;
	return false;
}

/* ---- what callers ask ---- */

List *
source_columns_read(const SourceTable *table)
{
	List	   *names = NIL;

	for (int i = 0; i < table->ninputs; i++)
	{
		if (table->inputs[i] >= 0)
			names = lappend(names, pstrdup(table->columns[table->inputs[i]].name));
	}
	return names;
}

int
source_target_count(const SourceTable *table)
{
	return table->ntargets;
}

const char *
source_target_property(const SourceTable *table, int i)
{
	return table->properties[i];
}

const AnswerRules *
source_answer_rules(const SourceTable *table)
{
	return &table->rules;
}
