/*-------------------------------------------------------------------------
 *
 * submit_args.c
 *		The arguments of a job as resolved, as JSON for the ledger.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "api/submit.h"
#include "text/json.h"

static void
args_text(StringInfo out, const char *name, const char *value)
{
	if (out->len > 1)
		appendStringInfoString(out, ", ");
	json_append_cstring(out, name);
	appendStringInfoString(out, ": ");
	if (value == NULL)
		appendStringInfoString(out, "null");
	else
		json_append_cstring(out, value);
}

/* A value that is JSON already. */
static void
args_json(StringInfo out, const char *name, const char *value)
{
	if (out->len > 1)
		appendStringInfoString(out, ", ");
	json_append_cstring(out, name);
	appendStringInfo(out, ": %s", value != NULL ? value : "null");
}

static void
args_list(StringInfo out, const char *name, const List *values)
{
	StringInfoData buf;
	ListCell   *lc;

	initStringInfo(&buf);
	foreach(lc, values)
	{
		appendStringInfoString(&buf, buf.len > 0 ? ", " : "[");
		json_append_cstring(&buf, lfirst(lc));
	}
	if (buf.len > 0)
		appendStringInfoChar(&buf, ']');
	args_json(out, name, buf.len > 0 ? buf.data : NULL);
}

char *
submit_args_json(const Job *job, const char *keep)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	args_text(&out, "source", job->source_name);
	args_text(&out, "model", job->model);
	args_text(&out, "prompt", job->prompt);
	args_text(&out, "target", job->target_columns == NULL ? job->target : NULL);
	args_list(&out, "key", job->key_columns);
	args_text(&out, "where_sql", job->where_sql);
	args_json(&out, "overwrite", job->overwrite ? "true" : "false");
	args_text(&out, "mode", job->online ? "online" : "batch");
	args_text(&out, "server", job->server_name);
	args_text(&out, "system_prompt", job->system_prompt);
	args_json(&out, "response_schema", job->response_schema);
	args_json(&out, "target_columns", job->target_columns);
	args_list(&out, "input_columns", job->input_columns);
	args_text(&out, "missing", job->missing);
	args_json(&out, "parameters", job->parameters);
	args_json(&out, "max_rows", job->max_rows > 0 ? psprintf(INT64_FORMAT, job->max_rows) : NULL);
	args_json(&out, "sample", job->sample ? "true" : "false");
	args_list(&out, "outcomes", job->outcomes);
	args_json(&out, "max_cost", job->max_cost);
	args_json(&out, "max_failed", psprintf("%g", job->max_failed));
	args_text(&out, "keep", keep);
	args_text(&out, "label", job->label);
	appendStringInfoChar(&out, '}');
	return out.data;
}
