/*-------------------------------------------------------------------------
 *
 * body.c
 *		Request lines for OpenAI and for servers that speak like it.
 *
 * All lines of a job are equal but for the id and the prompt, so the text
 * before and after the prompt is written once.
 *
 * What a model takes is decided by its name, as nothing else is known before
 * the money is spent.  A name that is not known gets what every server takes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/body.h"
#include "provider/openai/openai.h"
#include "text/json.h"

/* what stands in a line between the custom_id and the body */
#define LINE_BETWEEN	"\",\"method\":\"POST\",\"url\":\"/v1%s\",\"body\":"

static const char *const effort_words[] = {"none", "minimal", "low", "medium", "high", "xhigh", "max"};

const char *
openai_endpoint_path(OpenAIEndpoint endpoint)
{
	switch (endpoint)
	{
		case OPENAI_CHAT:
			return "/chat/completions";
		case OPENAI_RESPONSES:
			return "/responses";
	}
	return NULL;
}

/* "openai/gpt-5" and "ft:gpt-5:org::id" are named by what is in the middle. */
static const char *
model_base_name(const char *model)
{
	const char *slash = strrchr(model, '/');

	if (slash != NULL)
		model = slash + 1;
	return strncmp(model, "ft:", 3) == 0 ? model + 3 : model;
}

/*
 * Is the model of a generation that thinks first: o1 and its kin, gpt-5 and
 * later?  The number is one digit and ends there: gpt-35 is no such model.
 */
static bool
model_reasons(const char *model)
{
	const char *name = model_base_name(model);

	if (name[0] == 'o' && name[1] >= '1' && name[1] <= '9')
		return name[2] == '\0' || name[2] == '-' || name[2] == ':';
	return strncmp(name, "gpt-", 4) == 0 && name[4] >= '5' && name[4] <= '9' &&
		(name[5] == '\0' || strchr("-.:", name[5]) != NULL);
}

/* The least effort that the model takes, or NULL where that is not known. */
static const char *
model_least_effort(const char *model)
{
	static const char *const variants[] = {
		"-pro", "-chat", "-codex", "-search", "-image", "-audio", "-realtime", "-deep",
		"o1-mini", "o1-preview"
	};
	const char *name = model_base_name(model);

	if (!model_reasons(model))
		return NULL;
	for (int i = 0; i < lengthof(variants); i++)
	{
		if (strstr(name, variants[i]) != NULL)
			return NULL;
	}
	if (name[0] == 'o')
		return "low";
	return (name[4] == '5' && name[5] != '.') ? "minimal" : "none";
}

/* Is this OpenAI's own service, or Azure's? */
static bool
is_openai_host(const char *base_url)
{
	static const char *const suffixes[] = {"api.openai.com", ".openai.azure.com", ".services.ai.azure.com"};
	const char *host = strstr(base_url, "://");
	size_t		length;

	if (host == NULL)
		return false;
	host += 3;
	length = strcspn(host, ":/?#");
	for (int i = 0; i < lengthof(suffixes); i++)
	{
		size_t		suffix = strlen(suffixes[i]);

		if (length >= suffix && pg_strncasecmp(host + length - suffix, suffixes[i], suffix) == 0 &&
			(length == suffix || suffixes[i][0] == '.' || host[length - suffix - 1] == '.'))
			return true;
	}
	return false;
}

/* Strict mode asks of an object that nothing else is allowed and nothing may be left out. */
static bool
object_is_strict(JsonValue *schema, JsonValue *properties)
{
	JsonValue  *required = json_member(schema, "required");

	if (json_bool(json_member(schema, "additionalProperties"), true))
		return false;
	for (JsonValue *property = json_first(properties); property != NULL; property = json_next(property))
	{
		JsonValue  *name = json_first(required);

		while (name != NULL && !(json_is_string(name) && strcmp(json_string(name), json_name(property)) == 0))
			name = json_next(name);
		if (name == NULL)
			return false;
	}
	return true;
}

static bool schema_is_strict(JsonValue *schema);

static bool
all_are_strict(JsonValue *container)
{
	for (JsonValue *schema = json_first(container); schema != NULL; schema = json_next(schema))
	{
		if (!schema_is_strict(schema))
			return false;
	}
	return true;
}

static bool
schema_has_type(JsonValue *schema, const char *type)
{
	JsonValue  *value = json_member(schema, "type");

	if (json_is_string(value))
		return strcmp(json_string(value), type) == 0;
	for (JsonValue *one = json_first(value); one != NULL; one = json_next(one))
	{
		if (json_is_string(one) && strcmp(json_string(one), type) == 0)
			return true;
	}
	return false;
}

/*
 * Does the schema, with all that is in it, meet the rules of strict mode?
 * Recurses no deeper than the JSON reader allows.
 */
static bool
schema_is_strict(JsonValue *schema)
{
	static const char *const foreign[] = {
		"allOf", "oneOf", "not", "if", "then", "else",
		"dependentRequired", "dependentSchemas", "patternProperties"
	};
	JsonValue  *properties;
	JsonValue  *items;

	if (!json_is_object(schema))
		return false;
	for (int i = 0; i < lengthof(foreign); i++)
	{
		if (json_member(schema, foreign[i]) != NULL)
			return false;
	}

	properties = json_member(schema, "properties");
	items = json_member(schema, "items");
	if ((properties != NULL || schema_has_type(schema, "object")) && !object_is_strict(schema, properties))
		return false;
	return all_are_strict(properties) &&
		(items == NULL || schema_is_strict(items)) &&
		all_are_strict(json_member(schema, "anyOf")) &&
		all_are_strict(json_member(schema, "$defs")) &&
		all_are_strict(json_member(schema, "definitions"));
}

/*
 * Strict mode is asked for only where the schema meets its rules as it stands.
 * Changing the user's schema until it does would change what may be answered.
 */
static bool
schema_text_is_strict(const char *text)
{
	const char *why;
	JsonDoc    *doc = json_parse(text, strlen(text), &why);
	bool		strict;

	if (doc == NULL)
		return false;
	strict = schema_has_type(json_root(doc), "object") && schema_is_strict(json_root(doc));
	json_free(doc);
	return strict;
}

/* What stands in a line between the custom_id and the prompt. */
void
openai_write_head(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint)
{
	JsonDoc    *doc;
	JsonValue  *extra = body_open_extra(options, &doc);

	appendStringInfo(out, LINE_BETWEEN "{\"model\":", openai_endpoint_path(endpoint));
	body_append_text(out, options->model_json, options->model);
	switch (endpoint)
	{
		case OPENAI_CHAT:
			appendStringInfoString(out, ",\"messages\":[");
			if (options->system != NULL)
			{
				appendStringInfoString(out, "{\"role\":\"system\",\"content\":");
				body_append_text(out, options->system_json, options->system);
				appendStringInfoString(out, "},");
			}
			appendStringInfoString(out, "{\"role\":\"user\",\"content\":");
			break;
		case OPENAI_RESPONSES:
			if (options->system != NULL && !body_names(extra, "instructions"))
			{
				appendStringInfoString(out, ",\"instructions\":");
				body_append_text(out, options->system_json, options->system);
			}
			appendStringInfoString(out, ",\"input\":");
			break;
	}
	json_free(doc);
}

/* The output limit under the name that model and server take, unless the user chose a name himself. */
static void
append_output_limit(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint, JsonValue *extra)
{
	const char *name = "max_output_tokens";

	if (endpoint == OPENAI_CHAT)
	{
		if (body_names(extra, "max_tokens") || body_names(extra, "max_completion_tokens"))
			return;
		name = (model_reasons(options->model) || is_openai_host(options->account->base_url)) ?
			"max_completion_tokens" : "max_tokens";
	}
	if (options->parameters.max_output_tokens > 0 && !body_names(extra, name))
		appendStringInfo(out, ",\"%s\":" INT64_FORMAT, name, options->parameters.max_output_tokens);
}

static void
append_effort(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint, JsonValue *extra)
{
	const char *effort = options->parameters.reasoning_effort;

	if (effort == NULL && options->department)
		effort = model_least_effort(options->model);
	if (effort == NULL || body_names(extra, endpoint == OPENAI_CHAT ? "reasoning_effort" : "reasoning"))
		return;
	switch (endpoint)
	{
		case OPENAI_CHAT:
			appendStringInfoString(out, ",\"reasoning_effort\":");
			json_append_cstring(out, effort);
			break;
		case OPENAI_RESPONSES:
			appendStringInfoString(out, ",\"reasoning\":{\"effort\":");
			json_append_cstring(out, effort);
			appendStringInfoChar(out, '}');
			break;
	}
}

static void
append_schema(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint, JsonValue *extra)
{
	const char *strict;

	if (options->schema == NULL || body_names(extra, endpoint == OPENAI_CHAT ? "response_format" : "text"))
		return;
	strict = schema_text_is_strict(options->schema) ? "true" : "false";
	switch (endpoint)
	{
		case OPENAI_CHAT:
			appendStringInfoString(out, ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{");
			break;
		case OPENAI_RESPONSES:
			appendStringInfoString(out, ",\"text\":{\"format\":{\"type\":\"json_schema\",");
			break;
	}
	appendStringInfo(out, "\"name\":\"answer\",\"strict\":%s", strict);
	body_append_member(out, "schema", options->schema);
	appendStringInfoString(out, "}}");
}

/* What stands in a line after the prompt. */
void
openai_write_tail(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint)
{
	const BatchParameters *parameters = &options->parameters;
	JsonDoc    *doc;
	JsonValue  *extra = body_open_extra(options, &doc);

	if (endpoint == OPENAI_CHAT)
		appendStringInfoString(out, "}]");
	append_output_limit(out, options, endpoint, extra);
	if (parameters->temperature != NULL && !body_names(extra, "temperature"))
		body_append_member(out, "temperature", parameters->temperature);
	if (parameters->top_p != NULL && !body_names(extra, "top_p"))
		body_append_member(out, "top_p", parameters->top_p);
	if (parameters->seed != NULL && !body_names(extra, "seed"))
		body_append_member(out, "seed", parameters->seed);
	append_effort(out, options, endpoint, extra);
	append_schema(out, options, endpoint, extra);
	if (endpoint == OPENAI_RESPONSES && !body_names(extra, "store"))
		body_append_member(out, "store", "false");
	if (extra != NULL)
		body_append_members_of(out, parameters->extra);
	appendStringInfoString(out, "}}\n");
	json_free(doc);
}

void
openai_write_line(StringInfo line, const BatchItem *item, const char *head, const char *tail)
{
	appendStringInfo(line, "{\"custom_id\":\"%s", item->custom_id);
	appendStringInfoString(line, head);
	json_append_string(line, item->text, item->text_length);
	appendStringInfoString(line, tail);
}

bool
openai_split_line(const char *line, size_t length, OpenAIEndpoint *endpoint,
				  const char **body, size_t *body_length)
{
	static const OpenAIEndpoint endpoints[] = {OPENAI_CHAT, OPENAI_RESPONSES};
	const char *quote;
	size_t		rest;

	while (length > 0 && (line[length - 1] == '\n' || line[length - 1] == '\r'))
		length--;
	if (length < 16 || strncmp(line, "{\"custom_id\":\"", 14) != 0 || line[length - 1] != '}')
		return false;
	quote = memchr(line + 14, '"', length - 14);
	if (quote == NULL)
		return false;
	rest = line + length - quote;

	for (int i = 0; i < lengthof(endpoints); i++)
	{
		char		between[100];
		size_t		n = snprintf(between, sizeof(between), LINE_BETWEEN, openai_endpoint_path(endpoints[i]));

		if (rest > n + 1 && memcmp(quote, between, n) == 0)
		{
			*endpoint = endpoints[i];
			*body = quote + n;
			*body_length = rest - n - 1;
			return true;
		}
	}
	return false;
}

/* ---- checks ---- */

static char *
check_parameters(const BatchParameters *parameters, OpenAIEndpoint endpoint)
{
	bool		known = (parameters->reasoning_effort == NULL);
	char	   *result = body_check_sampling(parameters);

	if (result != NULL)
		return result;
	if (parameters->seed != NULL && endpoint == OPENAI_RESPONSES)
		return pstrdup("parameter \"seed\" is not known to the endpoint \"responses\"");
	if (parameters->seed != NULL && !body_is_integer(parameters->seed))
		return psprintf("parameter \"seed\" must be a 64-bit integer, not \"%s\"",
						parameters->seed);
	if (parameters->max_output_tokens < 0)
		return pstrdup("parameter \"max_output_tokens\" must be positive");
	if (endpoint == OPENAI_RESPONSES &&
		parameters->max_output_tokens > 0 && parameters->max_output_tokens < 16)
		return pstrdup("parameter \"max_output_tokens\" must be at least 16 for the endpoint \"responses\"");

	for (int i = 0; i < lengthof(effort_words) && !known; i++)
		known = (strcmp(parameters->reasoning_effort, effort_words[i]) == 0);
	if (!known)
		return psprintf("parameter \"reasoning_effort\" must be none, minimal, low, medium, high, "
						"xhigh or max, not \"%s\"", parameters->reasoning_effort);
	return NULL;
}

static char *
check_schema(const BatchOptions *options)
{
	const char *why;
	JsonDoc    *doc = json_parse(options->schema, strlen(options->schema), &why);
	char	   *result = NULL;

	if (doc == NULL)
		return psprintf("response_schema is not JSON: %s", why);
	if (!json_is_object(json_root(doc)))
		result = pstrdup("response_schema must be a JSON object");
	else if (is_openai_host(options->account->base_url) && !schema_has_type(json_root(doc), "object"))
		result = pstrdup("response_schema must have \"type\": \"object\" at its top");
	json_free(doc);
	return result;
}

/* Extra members may replace what we write, but not what makes a line a request for one row. */
static char *
check_extra(const BatchOptions *options, OpenAIEndpoint endpoint)
{
	static const char *const refused[] = {
		"model", "messages", "input", "prompt", "previous_response_id", "conversation",
		"stream", "stream_options", "background"
	};
	const char *why;
	const char *text = options->parameters.extra;
	JsonDoc    *doc = json_parse(text, strlen(text), &why);
	JsonValue  *extra;
	char	   *result = NULL;

	if (doc == NULL)
		return psprintf("parameter \"extra\" is not JSON: %s", why);
	extra = json_root(doc);
	if (!json_is_object(extra))
		result = pstrdup("parameter \"extra\" must be a JSON object");
	for (int i = 0; i < lengthof(refused) && result == NULL; i++)
	{
		if (body_names(extra, refused[i]))
			result = psprintf("parameter \"extra\" must not contain \"%s\"", refused[i]);
	}
	if (result == NULL && endpoint == OPENAI_RESPONSES && options->schema != NULL &&
		body_names(extra, "text") && json_path(extra, "text.format") == NULL)
		result = pstrdup("parameter \"extra\" replaces \"text\" without a \"format\", "
						 "so that response_schema would be lost");
	json_free(doc);
	return result;
}

/* NULL if all is well, else words that name the culprit, palloc'd. */
char *
openai_check_options(const BatchOptions *options, OpenAIEndpoint endpoint)
{
	char	   *result = check_parameters(&options->parameters, endpoint);

	if (result == NULL && options->schema != NULL)
		result = check_schema(options);
	if (result == NULL && options->parameters.extra != NULL)
		result = check_extra(options, endpoint);
	return result;
}
