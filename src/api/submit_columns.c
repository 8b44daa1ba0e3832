/*-------------------------------------------------------------------------
 *
 * submit_columns.c
 *		The table of a job: which of its columns are read, and which written.
 *
 * Names in arguments are literal.  Code of the table's owner (constraints of
 * domains) runs as the role that the worker will be.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/catalog.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_attribute.h"
#include "catalog/pg_class.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "api/submit.h"
#include "runtime/usercxt.h"
#include "table/table.h"
#include "text/json.h"

/* Columns that the built-in prompt shows beside the snippets. */
static const char *const department_columns[] = {"id_text", "firstname", "lastname", "university"};

static bool
list_has(const List *list, const char *name)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* ---- the relation and its columns ---- */

Relation
submit_open_source(Oid source)
{
	Relation	rel = try_relation_open(source, AccessShareLock);

	if (rel == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", source)));
	switch (rel->rd_rel->relkind)
	{
		case RELKIND_RELATION:
		case RELKIND_PARTITIONED_TABLE:
		case RELKIND_FOREIGN_TABLE:
			break;
		default:
			ereport(ERROR,
					(errcode(ERRCODE_WRONG_OBJECT_TYPE),
					 errmsg("cannot send rows of relation \"%s\"", RelationGetRelationName(rel)),
					 errdetail_relkind_not_supported(rel->rd_rel->relkind),
					 errhint("Name the table whose rows get the answers.")));
	}
	if (rel->rd_rel->relpersistence == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot send rows of temporary table \"%s\"", RelationGetRelationName(rel)),
				 errdetail("Temporary tables are not visible to the background worker."),
				 errhint("Copy the rows into a permanent or an unlogged table.")));
	if (IsCatalogRelation(rel))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot send rows of system catalog \"%s\"", RelationGetRelationName(rel))));
	if (RelationGetNamespace(rel) == get_namespace_oid("dess_batch", true))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("cannot send rows of table \"%s\" of extension \"dess_batch\"", RelationGetRelationName(rel))));
	return rel;
}

/* Names of all columns, in their order. */
static List *
relation_columns(Relation rel)
{
	List	   *result = NIL;

	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped)
			result = lappend(result, pstrdup(NameStr(att->attname)));
	}
	return result;
}

static Form_pg_attribute
relation_column(Relation rel, const char *name)
{
	for (int i = 0; i < RelationGetDescr(rel)->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(rel), i);

		if (!att->attisdropped && strcmp(NameStr(att->attname), name) == 0)
			return att;
	}
	return NULL;
}

char *
submit_column_list(const List *columns)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? ", " : "", quote_identifier(lfirst(lc)));
	return buf.data;
}

void
submit_check_columns(Relation rel, const List *names, const char *argument)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		if (relation_column(rel, lfirst(lc)) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("column \"%s\" of relation \"%s\" does not exist",
							(char *) lfirst(lc), RelationGetRelationName(rel)),
					 errdetail("It is named in argument \"%s\".", argument),
					 errhint("The columns are: %s.", submit_column_list(relation_columns(rel)))));
	}
}

/* Why a column cannot get answers, or NULL. */
static const char *
why_not_written(Form_pg_attribute att, const Job *job)
{
	const char *column = NameStr(att->attname);

	if (list_has(job->key_columns, column))
		return psprintf("Column \"%s\" is part of the key.", column);
	if (type_is_rowtype(att->atttypid))
		return psprintf("Column \"%s\" is of composite type %s; argument \"target_columns\" fills several columns from one answer.",
						column, format_type_be(att->atttypid));
	return NULL;
}

static void
check_written_column(Relation rel, const Job *job, const char *column, const char *type)
{
	Form_pg_attribute att = relation_column(rel, column);
	const char *why;

	if (att == NULL && SystemAttributeByName(column) != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("column \"%s\" of relation \"%s\" cannot get answers",
						column, RelationGetRelationName(rel)),
				 errdetail("Column \"%s\" is a system column.", column)));
	if (att == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						column, RelationGetRelationName(rel)),
				 errhint("Add it with: ALTER TABLE %s ADD COLUMN %s %s;",
						 job->source_name, quote_identifier(column), type)));
	if (att->attgenerated || att->attidentity == ATTRIBUTE_IDENTITY_ALWAYS)
		ereport(ERROR,
				(errcode(ERRCODE_GENERATED_ALWAYS),
				 errmsg("column \"%s\" of relation \"%s\" cannot get answers",
						column, RelationGetRelationName(rel)),
				 errdetail("Column \"%s\" is always generated.", column)));
	why = why_not_written(att, job);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_COLUMN_REFERENCE),
				 errmsg("column \"%s\" of relation \"%s\" cannot get answers",
						column, RelationGetRelationName(rel)),
				 errdetail_internal("%s", why)));
}

/* ---- what is written ---- */

static int
compare_names(const ListCell *a, const ListCell *b)
{
	return strcmp(lfirst(a), lfirst(b));
}

static bool
is_special_property(const char *property)
{
	return strcmp(property, "$answer") == 0 || strcmp(property, "$outcome") == 0 ||
		strcmp(property, "$job") == 0 || strcmp(property, "$model") == 0;
}

/* JSON is read in UTF-8; names in it are given back to the database's encoding, from which they come. */
static JsonDoc *
parse_argument(const char *json)
{
	const char *why;
	const char *utf8 = pg_server_to_any(json, strlen(json), PG_UTF8);

	return json_parse(utf8, strlen(utf8), &why);
}

static const char *
name_from_json(const char *utf8)
{
	return utf8 == NULL ? NULL : pstrdup(pg_any_to_server(utf8, strlen(utf8), PG_UTF8));
}

/*
 * A property that the schema excludes would be missing from every answer, when
 * all of them are paid.
 */
static void
check_property(const Job *job, JsonValue *member)
{
	const char *property = name_from_json(json_name(member));
	JsonDoc    *doc;
	JsonValue  *properties;

	if (job->response_schema == NULL || property[0] == '$')
		return;
	doc = parse_argument(job->response_schema);
	properties = doc != NULL ? json_member(json_root(doc), "properties") : NULL;
	if (json_is_object(properties) && json_member(properties, json_name(member)) == NULL &&
		!json_bool(json_member(json_root(doc), "additionalProperties"), true))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("property \"%s\" in argument \"target_columns\" is not in the response schema", property)));
	json_free(doc);
}

/* Checks target_columns; the columns, sorted and joined, are the name of the target. */
static void
resolve_target_columns(Relation rel, Job *job)
{
	JsonDoc    *doc = parse_argument(job->target_columns);
	JsonValue  *member;
	List	   *columns = NIL;
	StringInfoData buf;
	ListCell   *lc;

	if (doc == NULL || !json_is_object(json_root(doc)) || json_first(json_root(doc)) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"target_columns\" must be a JSON object of properties and columns"),
				 errhint("For example: '{\"department\": \"department_llm\", \"$outcome\": \"outcome\"}'.")));
	for (member = json_first(json_root(doc)); member != NULL; member = json_next(member))
	{
		const char *property = name_from_json(json_name(member));
		const char *column = name_from_json(json_string(member));

		if (property[0] == '$' && !is_special_property(property))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unknown property \"%s\" in argument \"target_columns\"", property),
					 errhint("Properties that begin with a dollar sign are: $answer, $outcome, $job, $model.")));
		if (column == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("property \"%s\" in argument \"target_columns\" must name a column", property)));
		if (list_has(columns, column))
			ereport(ERROR,
					(errcode(ERRCODE_DUPLICATE_COLUMN),
					 errmsg("column \"%s\" is named twice in argument \"target_columns\"", column)));
		check_property(job, member);
		check_written_column(rel, job, column, strcmp(property, "$job") == 0 ? "bigint" : "text");
		columns = lappend(columns, pstrdup(column));
	}
	json_free(doc);

	list_sort(columns, compare_names);
	initStringInfo(&buf);
	foreach(lc, columns)
		appendStringInfo(&buf, "%s%s", buf.len > 0 ? "," : "", (char *) lfirst(lc));
	job->target = buf.data;
}

static bool
speaks_of_json(const char *text)
{
	for (; text != NULL && *text != '\0'; text++)
	{
		if (pg_strncasecmp(text, "json", 4) == 0)
			return true;
	}
	return false;
}

/* A schema of strings for the properties of target_columns; NULL if all of them are special. */
static char *
schema_of_strings(const Job *job)
{
	JsonDoc    *doc = parse_argument(job->target_columns);
	JsonValue  *member;
	StringInfoData properties;
	StringInfoData required;

	initStringInfo(&properties);
	initStringInfo(&required);
	for (member = json_first(json_root(doc)); member != NULL; member = json_next(member))
	{
		const char *property = name_from_json(json_name(member));
		const char *comma = properties.len > 0 ? ", " : "";

		if (property[0] == '$')
			continue;
		appendStringInfoString(&properties, comma);
		json_append_cstring(&properties, property);
		appendStringInfoString(&properties, ": {\"type\": \"string\"}");
		appendStringInfoString(&required, comma);
		json_append_cstring(&required, property);
	}
	json_free(doc);
	if (properties.len == 0)
		return NULL;
	return psprintf("{\"type\": \"object\", \"properties\": {%s}, \"required\": [%s], \"additionalProperties\": false}",
					properties.data, required.data);
}

/*
 * Properties are taken from answers in JSON.  Where neither a schema nor a word
 * of the caller's (prompt, system_prompt, parameters) asks for it, all answers
 * would be paid for and none would fit.  Raises 22023.
 */
void
submit_check_properties(const Job *job, const char *prompt, const char *system_prompt)
{
	char	   *schema;

	if (job->target_columns == NULL || job->response_schema != NULL || speaks_of_json(prompt) ||
		speaks_of_json(system_prompt) || speaks_of_json(job->parameters))
		return;
	schema = schema_of_strings(job);
	if (schema != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"target_columns\" needs argument \"response_schema\""),
				 errdetail("Its properties are taken from answers in JSON, and neither a schema nor the prompt asks for JSON."),
				 errhint("For example: response_schema => %s; or ask for a JSON object in the prompt.",
						 quote_literal_cstr(schema))));
}

/* Writes where the answers go into the job. */
void
submit_resolve_target(Relation rel, Job *job, char *target)
{
	if (job->target_columns != NULL)
	{
		resolve_target_columns(rel, job);
		return;
	}
	job->target = target;
	if (target != NULL)
		check_written_column(rel, job, target, "text");
}

void
submit_resolve_missing(Relation rel, Job *job)
{
	UserContext user;
	Form_pg_attribute att;
	bool		takes;

	if (job->missing == NULL || job->target == NULL || job->target_columns != NULL)
		return;
	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	att = relation_column(rel, job->target);
	takes = source_type_takes(att->atttypid, att->atttypmod, job->missing);
	usercxt_leave(&user);
	if (takes)
		return;
	if (strcmp(job->missing, DEFAULT_MISSING) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("column \"%s\" cannot hold \"%s\", the value of argument \"missing\"",
						job->target, job->missing),
				 errhint("Use missing => NULL to leave the column NULL when the model finds nothing.")));
	job->missing = NULL;
}

/* ---- what is read ---- */

/* The number in "snippet_<number>", or 0. */
static int
snippet_number(const char *column)
{
	int			number = 0;

	if (strncmp(column, "snippet_", 8) != 0 || column[8] == '\0')
		return 0;
	for (const char *p = column + 8; *p != '\0'; p++)
	{
		if (*p < '0' || *p > '9' || number > 100000)
			return 0;
		number = number * 10 + (*p - '0');
	}
	return number;
}

static int
compare_snippets(const ListCell *a, const ListCell *b)
{
	return snippet_number(lfirst(a)) - snippet_number(lfirst(b));
}

static List *
snippet_columns(const List *columns)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, columns)
	{
		if (snippet_number(lfirst(lc)) > 0)
			result = lappend(result, lfirst(lc));
	}
	list_sort(result, compare_snippets);
	return result;
}

/* {row} of the built-in prompt: who it is about, and the snippets. */
static void
resolve_department_columns(Job *job, const List *columns, List *snippets)
{
	for (int i = 0; i < lengthof(department_columns); i++)
	{
		if (list_has(columns, department_columns[i]))
			job->input_columns = lappend(job->input_columns, pstrdup(department_columns[i]));
	}
	job->input_columns = list_concat(job->input_columns, snippets);
	job->counting_columns = snippets;
}

/* What {row} shows unless input_columns says so. */
static void
resolve_row_columns(Relation rel, Job *job)
{
	List	   *columns = relation_columns(rel);
	List	   *targets = ledger_known_targets(job->source);
	ListCell   *lc;

	if (job->department && snippet_columns(columns) != NIL && list_has(columns, "snippet_1"))
	{
		resolve_department_columns(job, columns, snippet_columns(columns));
		return;
	}
	foreach(lc, columns)
	{
		char	   *column = lfirst(lc);

		if (list_has(job->key_columns, column) || list_has(targets, column) ||
			(job->target_columns == NULL && job->target != NULL && strcmp(job->target, column) == 0))
			continue;
		if (job->department && strncmp(column, "department", 10) == 0)
			continue;
		job->input_columns = lappend(job->input_columns, column);
	}
	job->counting_columns = job->input_columns;
}

void
submit_resolve_input(Relation rel, Job *job, List *input_columns)
{
	if (input_columns == NIL)
	{
		resolve_row_columns(rel, job);
		return;
	}
	submit_check_columns(rel, input_columns, "input_columns");
	job->input_columns = input_columns;
	job->counting_columns = job->department ? snippet_columns(input_columns) : NIL;
	if (job->counting_columns == NIL)
		job->counting_columns = input_columns;
}
