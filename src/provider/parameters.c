/*-------------------------------------------------------------------------
 *
 * parameters.c
 *		The "parameters" argument: provider-neutral names and their checks.
 *
 * Numbers are passed on as the user wrote them; what a provider makes of a
 * name is its own business (check_options).
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"

#include "provider/parameters.h"
#include "text/json.h"

/* Text of the database in UTF-8; NULL stays NULL. */
static char *
to_utf8(const char *text)
{
	if (text == NULL)
		return NULL;
	return pstrdup(pg_server_to_any(text, strlen(text), PG_UTF8));
}

static char *
json_quoted(const char *text)
{
	StringInfoData buf;

	initStringInfo(&buf);
	json_append_cstring(&buf, text);
	return buf.data;
}

static void
bad_parameter(const char *name, const char *expected)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid value for \"%s\" in argument \"parameters\"", name),
			 errdetail("It must be %s.", expected)));
}

static char *
number_parameter(const char *name, JsonValue *value)
{
	if (json_is_string(value) || json_is_object(value) || json_is_array(value))
		bad_parameter(name, "a number");
	return json_to_text(value);
}

static void
parameters_read_member(const char *name, JsonValue *value, BatchParameters *parameters)
{
	if (json_is_null(value))
		return;
	if (strcmp(name, "temperature") == 0)
		parameters->temperature = number_parameter(name, value);
	else if (strcmp(name, "top_p") == 0)
		parameters->top_p = number_parameter(name, value);
	else if (strcmp(name, "seed") == 0)
		parameters->seed = number_parameter(name, value);
	else if (strcmp(name, "max_output_tokens") == 0)
	{
		if (json_is_string(value) || !json_int64(value, &parameters->max_output_tokens) ||
			parameters->max_output_tokens <= 0)
			bad_parameter(name, "a positive integer");
	}
	else if (strcmp(name, "reasoning_effort") == 0)
	{
		if (!json_is_string(value))
			bad_parameter(name, "a string");
		parameters->reasoning_effort = pstrdup(json_string(value));
	}
	else if (strcmp(name, "extra") == 0)
	{
		if (!json_is_object(value))
			bad_parameter(name, "a JSON object");
		parameters->extra = json_to_text(value);
	}
	else
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unknown name \"%s\" in argument \"parameters\"", name),
				 errhint("Valid names are: temperature, top_p, max_output_tokens, seed, reasoning_effort, extra.")));
}

void
parameters_read(const char *json, BatchParameters *parameters)
{
	const char *why = NULL;
	JsonDoc    *doc;
	JsonValue  *member;

	memset(parameters, 0, sizeof(*parameters));
	json = to_utf8(json);
	doc = json_parse(json, strlen(json), &why);
	if (doc == NULL || !json_is_object(json_root(doc)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"parameters\" must be a JSON object")));
	for (member = json_first(json_root(doc)); member != NULL; member = json_next(member))
		parameters_read_member(json_name(member), member, parameters);
	json_free(doc);
}

BatchOptions *
parameters_to_options(const Account *account, const char *model, const char *system_prompt,
					  const char *response_schema, bool department, const char *parameters)
{
	BatchOptions *options = palloc0(sizeof(BatchOptions));

	options->account = account;
	options->model = to_utf8(model);
	options->model_json = json_quoted(options->model);
	options->system = to_utf8(system_prompt);
	options->system_json = options->system ? json_quoted(options->system) : NULL;
	options->schema = to_utf8(response_schema);
	options->department = department;
	parameters_read(parameters, &options->parameters);
	return options;
}
