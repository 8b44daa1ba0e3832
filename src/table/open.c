/*-------------------------------------------------------------------------
 *
 * open.c
 *		A job's table is opened: its key, targets, template and rules.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "runtime/usercxt.h"
#include "table/internal.h"

static void
open_encoding(SourceTable *table)
{
	int			encoding = GetDatabaseEncoding();

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return;
	table->to_utf8 = FindDefaultConversionProc(encoding, PG_UTF8);
	table->from_utf8 = FindDefaultConversionProc(PG_UTF8, encoding);
}

static void
open_keys(SourceTable *table, Relation rel, const Job *job)
{
	Bitmapset  *attnums = NULL;
	ListCell   *lc;

	foreach(lc, job->key_columns)
	{
		Form_pg_attribute att = source_find_attribute(rel, lfirst(lc));

		if (att == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("key column \"%s\" of relation \"%s\" does not exist",
							(char *) lfirst(lc), RelationGetRelationName(rel))));
		source_add_column(table, att, true);
		attnums = bms_add_member(attnums, att->attnum);
	}
	table->nkeys = table->ncolumns;
	table->key_index = source_find_key(rel, attnums, NULL);
}

/* A column that answers are written to.  property is NULL for a single target. */
static void
add_target(SourceTable *table, Relation rel, const char *name, char *property)
{
	Form_pg_attribute att = source_find_attribute(rel, name);
	int			before = table->ncolumns;

	if (att == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("target column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel)),
				 errhint("Run: ALTER %s %s ADD COLUMN %s text;",
						 table->relkind == RELKIND_FOREIGN_TABLE ? "FOREIGN TABLE" : "TABLE",
						 table->name, quote_identifier(name))));
	if (att->attgenerated != '\0' || att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("target column \"%s\" of relation \"%s\" is always generated",
						name, RelationGetRelationName(rel))));
	if (source_add_column(table, att, false) < before)
		ereport(ERROR,
				(errcode(ERRCODE_DUPLICATE_COLUMN),
				 errmsg("column \"%s\" cannot be a target, because it is one already or part of the key",
						name)));
	table->properties[table->ntargets++] = property;
}

static bool
property_is_special(const char *property)
{
	return property[0] == '$';
}

static void
open_target_columns(SourceTable *table, Relation rel, const char *target_columns)
{
	Jsonb	   *object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(target_columns)));
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *property = NULL;

	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			property = source_own_text(table, pnstrdup(value.val.string.val, value.val.string.len),
										"a property of target_columns");
			if (property_is_special(property) &&
				strcmp(property, "$answer") != 0 && strcmp(property, "$outcome") != 0 &&
				strcmp(property, "$job") != 0 && strcmp(property, "$model") != 0)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("target_columns has no special property \"%s\"", property),
						 errhint("Special properties are \"$answer\", \"$outcome\", \"$job\" and \"$model\".")));
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("target_columns must be an object of column names")));
			add_target(table, rel, pnstrdup(value.val.string.val, value.val.string.len), property);
		}
	}
}

/*
 * The word for "nothing found", in UTF-8.  Where the target cannot hold the
 * usual word, submit has put NULL into the job, but the model says it all the
 * same.
 */
static char *
missing_word(SourceTable *table, Relation rel, const Job *job)
{
	Form_pg_attribute att = NULL;

	if (job->missing != NULL)
		return source_own_text(table, job->missing, "the missing word");
	if (job->target != NULL && job->target_columns == NULL)
		att = source_find_attribute(rel, job->target);
	if (att == NULL || source_type_takes(att->atttypid, att->atttypmod, DEFAULT_MISSING))
		return NULL;
	return pstrdup(DEFAULT_MISSING);
}

static void
open_rules(SourceTable *table, Relation rel, const Job *job)
{
	AnswerRules *rules = &table->rules;
	AnswerColumn *columns = palloc0_array(AnswerColumn, table->ntargets + 1);

	rules->department = job->department;
	rules->missing = missing_word(table, rel, job);
	rules->expect_json = job->response_schema != NULL;

	for (int i = 0; i < table->ntargets; i++)
	{
		Oid			type = table->columns[table->nkeys + i].type;
		bool		is_json = type == JSONOID || type == JSONBOID;
		bool		is_array = OidIsValid(get_element_type(type));

		if (table->properties[i] == NULL)
		{
			rules->target_is_json = is_json;
			rules->target_is_array = is_array;
		}
		else if (!property_is_special(table->properties[i]))
		{
			columns[rules->ncolumns].property = table->properties[i];
			columns[rules->ncolumns].is_json = is_json;
			columns[rules->ncolumns].is_array = is_array;
			rules->ncolumns++;
		}
	}
	rules->columns = rules->ncolumns > 0 ? columns : NULL;
}

/* One spelling of a JSON text, so that blanks and the order of members do not matter. */
static char *
normal_json(const char *text)
{
	if (text == NULL)
		return NULL;
	return DatumGetCString(DirectFunctionCall1(jsonb_out,
											   DirectFunctionCall1(jsonb_in, CStringGetDatum(text))));
}

/* What makes requests of two jobs the same, beside their text. */
static void
open_constant(SourceTable *table, const Job *job)
{
	StringInfoData constant;

	initStringInfo(&constant);
	source_append_part(&constant, job->model);
	source_append_part(&constant, job->system_prompt);
	source_append_part(&constant, normal_json(job->response_schema));
	source_append_part(&constant, normal_json(job->parameters));
	digest_sha256(NULL, 0, constant.data, constant.len, &table->constant);
}

/* The reset callback of the table's context. */
static void
close_table(void *arg)
{
	SourceTable *table = (SourceTable *) arg;

	dlist_delete(&table->link);
	source_free_plans(table);
}

SourceTable *
source_open(const Job *job)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch target",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext caller = MemoryContextSwitchTo(context);
	SourceTable *table = palloc0_object(SourceTable);
	int			nestlevel = source_limit_lock_wait(false);
	Relation	rel = source_open_relation(job->source, job->source_name, AccessShareLock);
	int			natts = RelationGetNumberOfAttributes(rel);

	table->context = context;
	table->relid = job->source;
	table->job_owner = job->owner;
	if (!source_role_is_right(table))
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("owner of relation \"%s\" was changed meanwhile", RelationGetRelationName(rel))));
	table->relkind = rel->rd_rel->relkind;
	table->foreign = source_is_foreign(table->relid, table->relkind);
	table->name = source_relation_name(rel);
	table->from = psprintf("%s%s AS " SOURCE_ALIAS,
						   table->relkind == RELKIND_RELATION ? "ONLY " : "", table->name);
	table->where_sql = job->where_sql == NULL ? NULL : pstrdup(job->where_sql);
	table->overwrite = job->overwrite;
	table->columns = palloc0_array(SourceColumn, natts + 1);
	table->properties = palloc0_array(char *, natts + 1);

	open_encoding(table);
	open_keys(table, rel, job);
	if (job->target_columns != NULL)
		open_target_columns(table, rel, job->target_columns);
	else if (job->target != NULL)
		add_target(table, rel, job->target, NULL);
	source_open_template(table, rel, job);
	open_rules(table, rel, job);
	open_constant(table, job);
	table->close.func = close_table;
	table->close.arg = table;
	MemoryContextRegisterResetCallback(context, &table->close);
	source_watch(table);

	relation_close(rel, NoLock);
	AtEOXact_GUC(false, nestlevel);
	MemoryContextSwitchTo(caller);
	return table;
}
