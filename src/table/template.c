/*-------------------------------------------------------------------------
 *
 * template.c
 *		A job's prompt over the columns of a user's table.
 *
 * The template knows every column, so that a message can say which ones there
 * are; only those that it uses are read.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_attribute.h"
#include "catalog/pg_type.h"
#include "mb/pg_wchar.h"
#include "utils/lsyscache.h"

#include "table/internal.h"

static bool
list_has_name(List *names, const char *name)
{
	ListCell   *lc;

	foreach(lc, names)
	{
		if (strcmp(lfirst(lc), name) == 0)
			return true;
	}
	return false;
}

/* Is the type's text a JSON value as it stands? */
static bool
type_is_json_value(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case FLOAT4OID:
		case FLOAT8OID:
		case NUMERICOID:
		case JSONOID:
		case JSONBOID:
			return true;
		default:
			return false;
	}
}

/* Names of all columns, for a hint. */
static char *
placeholder_list(Relation rel)
{
	TupleDesc	desc = RelationGetDescr(rel);
	StringInfoData names;

	initStringInfo(&names);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!TupleDescAttr(desc, i)->attisdropped)
			appendStringInfo(&names, "{%s}, ", NameStr(TupleDescAttr(desc, i)->attname));
	}
	return names.data;
}

static void
raise_template_error(const SourceTable *table, Relation rel, const char *prompt, const TemplateError *error)
{
	int			character = pg_verify_mbstr_len(PG_UTF8, prompt, error->position, true) + 1;
	const char *name = error->name == NULL ? NULL : source_from_utf8(table, error->name);
	const char *complaint = NULL;

	switch (error->kind)
	{
		case TEMPLATE_OK:
			elog(ERROR, "could not parse the prompt");
			break;
		case TEMPLATE_UNKNOWN_COLUMN:
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("placeholder {%s} names no column of relation \"%s\"",
							name != NULL ? name : "?", RelationGetRelationName(rel)),
					 errhint("Placeholders are %s{row}. Double a brace that is meant as text.",
							 placeholder_list(rel))));
			break;
		case TEMPLATE_UNCLOSED_BRACE:
			complaint = "is not closed";
			break;
		case TEMPLATE_STRAY_BRACE:
			complaint = "closes nothing";
			break;
		case TEMPLATE_EMPTY_NAME:
			complaint = "begins a placeholder without a name";
			break;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("brace at character %d of the prompt %s", character, complaint),
			 errhint("Double a brace that is meant as text.")));
}

/* {row} shows the columns that submit resolved, and no fewer. */
static void
check_input_columns(Relation rel, const Job *job)
{
	ListCell   *lc;

	if (strstr(job->prompt, "{row}") == NULL)
		return;
	foreach(lc, job->input_columns)
	{
		if (source_find_attribute(rel, lfirst(lc)) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_COLUMN),
					 errmsg("input column \"%s\" of relation \"%s\" does not exist",
							(char *) lfirst(lc), RelationGetRelationName(rel))));
	}
}

/* Tells the template about the table's columns; attributes gets their descriptions. */
static TemplateColumn *
describe_inputs(SourceTable *table, Relation rel, const Job *job, Form_pg_attribute *attributes)
{
	TupleDesc	desc = RelationGetDescr(rel);
	TemplateColumn *columns = palloc0_array(TemplateColumn, desc->natts + 1);

	table->inputs = palloc_array(int, desc->natts + 1);
	table->input_is_boolean = palloc0_array(bool, desc->natts + 1);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		TemplateColumn *column = &columns[table->ninputs];
		const char *name;
		size_t		length;
		Oid			type;

		/* what has no name in UTF-8 cannot be named in a prompt */
		name = att->attisdropped ? NULL : source_to_utf8(table, NameStr(att->attname), &length);
		if (name == NULL)
			continue;
		type = getBaseType(att->atttypid);
		column->name = pstrdup(name);
		column->is_json = type_is_json_value(type);
		column->in_row = list_has_name(job->input_columns, NameStr(att->attname));
		column->counts = list_has_name(job->counting_columns, NameStr(att->attname));
		table->input_is_boolean[table->ninputs] = type == BOOLOID;
		attributes[table->ninputs++] = att;
	}
	return columns;
}

void
source_open_template(SourceTable *table, Relation rel, const Job *job)
{
	int			natts = RelationGetNumberOfAttributes(rel);
	Form_pg_attribute *attributes = palloc_array(Form_pg_attribute, natts + 1);
	bool	   *used = palloc0_array(bool, natts + 1);
	char	   *prompt = source_own_text(table, job->prompt, "the prompt");
	TemplateColumn *columns;
	TemplateError error;

	check_input_columns(rel, job);
	columns = describe_inputs(table, rel, job, attributes);
	table->template = template_parse(prompt, columns, table->ninputs, &error);
	if (table->template == NULL)
		raise_template_error(table, rel, prompt, &error);
	template_used_columns(table->template, used);
	for (int i = 0; i < table->ninputs; i++)
		table->inputs[i] = used[i] ? source_add_column(table, attributes[i], false) : -1;
}
