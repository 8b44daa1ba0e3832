/*
 * openai_check.c
 *		Reads the body of an inference call and refuses it as the service does.
 *
 * The same code serves online calls and lines of a batch.  Checks go from
 * coarse to fine: known fields, model, what this model takes, messages,
 * schema.  Fields that change nothing here are only checked for their type.
 */
#include "openai.h"

#include "schema.h"

#include <ctype.h>

typedef enum FieldKind
{
	K_ANY, K_STRING, K_NUMBER, K_INTEGER, K_BOOL, K_OBJECT, K_ARRAY
} FieldKind;

typedef struct Field
{
	const char *name;
	FieldKind	kind;
	double		low;
	double		high;			/* low == high: no range */
} Field;

static const Field chat_fields[] = {
	{"model", K_STRING, 0, 0}, {"messages", K_ARRAY, 0, 0},
	{"max_completion_tokens", K_INTEGER, 1, 1e9}, {"max_tokens", K_INTEGER, 1, 1e9},
	{"temperature", K_NUMBER, 0, 2}, {"top_p", K_NUMBER, 0, 1},
	{"frequency_penalty", K_NUMBER, -2, 2}, {"presence_penalty", K_NUMBER, -2, 2},
	{"reasoning_effort", K_STRING, 0, 0}, {"verbosity", K_STRING, 0, 0},
	{"response_format", K_OBJECT, 0, 0}, {"seed", K_INTEGER, 0, 0},
	{"service_tier", K_STRING, 0, 0}, {"store", K_BOOL, 0, 0}, {"metadata", K_OBJECT, 0, 0},
	{"prompt_cache_key", K_STRING, 0, 0}, {"prompt_cache_retention", K_STRING, 0, 0},
	{"prompt_cache_options", K_OBJECT, 0, 0}, {"safety_identifier", K_STRING, 0, 0},
	{"user", K_STRING, 0, 0}, {"n", K_INTEGER, 1, 128}, {"stop", K_ANY, 0, 0},
	{"stream", K_BOOL, 0, 0}, {"stream_options", K_OBJECT, 0, 0},
	{"logprobs", K_BOOL, 0, 0}, {"top_logprobs", K_INTEGER, 0, 20},
	{"logit_bias", K_OBJECT, 0, 0}, {"modalities", K_ARRAY, 0, 0}, {"audio", K_OBJECT, 0, 0},
	{"prediction", K_OBJECT, 0, 0}, {"tools", K_ARRAY, 0, 0}, {"tool_choice", K_ANY, 0, 0},
	{"parallel_tool_calls", K_BOOL, 0, 0}, {"function_call", K_ANY, 0, 0},
	{"functions", K_ARRAY, 0, 0}, {"web_search_options", K_OBJECT, 0, 0},
	{"moderation", K_ANY, 0, 0}, {NULL, K_ANY, 0, 0}
};

static const Field responses_fields[] = {
	{"model", K_STRING, 0, 0}, {"input", K_ANY, 0, 0}, {"instructions", K_ANY, 0, 0},
	{"max_output_tokens", K_INTEGER, 16, 1e9}, {"temperature", K_NUMBER, 0, 2},
	{"top_p", K_NUMBER, 0, 1}, {"reasoning", K_OBJECT, 0, 0}, {"text", K_OBJECT, 0, 0},
	{"store", K_BOOL, 0, 0}, {"metadata", K_OBJECT, 0, 0}, {"service_tier", K_STRING, 0, 0},
	{"prompt_cache_key", K_STRING, 0, 0}, {"prompt_cache_retention", K_STRING, 0, 0},
	{"prompt_cache_options", K_OBJECT, 0, 0}, {"safety_identifier", K_STRING, 0, 0},
	{"user", K_STRING, 0, 0}, {"stream", K_BOOL, 0, 0}, {"stream_options", K_OBJECT, 0, 0},
	{"top_logprobs", K_INTEGER, 0, 20}, {"previous_response_id", K_STRING, 0, 0},
	{"background", K_BOOL, 0, 0}, {"max_tool_calls", K_INTEGER, 0, 0},
	{"tools", K_ARRAY, 0, 0}, {"tool_choice", K_ANY, 0, 0}, {"prompt", K_OBJECT, 0, 0},
	{"truncation", K_STRING, 0, 0}, {"include", K_ARRAY, 0, 0},
	{"parallel_tool_calls", K_BOOL, 0, 0}, {"conversation", K_ANY, 0, 0},
	{"context_management", K_ARRAY, 0, 0}, {"moderation", K_ANY, 0, 0},
	{NULL, K_ANY, 0, 0}
};

static const char *
json_type(const cJSON *v)
{
	if (cJSON_IsString(v))
		return "a string";
	if (cJSON_IsBool(v))
		return "a boolean";
	if (cJSON_IsNumber(v))
		return v->valuedouble == (double) (int64_t) v->valuedouble ? "an integer" : "a decimal";
	if (cJSON_IsArray(v))
		return "an array";
	if (cJSON_IsObject(v))
		return "an object";
	return "null";
}

static bool
wrong_type(ApiError *e, const char *name, const char *wanted, const cJSON *v)
{
	return api_error(e, 400, "invalid_type", name, "Invalid type for '%s': expected %s, but "
					 "got %s instead.", name, wanted, json_type(v));
}

static bool
check_range(const Field *f, const cJSON *v, ApiError *e)
{
	const char *kind = f->kind == K_INTEGER ? "integer" : "decimal";
	bool		low = v->valuedouble < f->low;
	char		code[48];

	if (f->low >= f->high || (!low && v->valuedouble <= f->high))
		return true;
	snprintf(code, sizeof(code), "%s_%s_value", kind, low ? "below_min" : "above_max");
	return api_error(e, 400, code, f->name, "Invalid '%s': %s %s value. Expected a value %s "
					 "%.15g, but got %.15g instead.", f->name, kind,
					 low ? "below minimum" : "above maximum", low ? ">=" : "<=",
					 low ? f->low : f->high, v->valuedouble);
}

static bool
check_field(const Field *f, const cJSON *v, ApiError *e)
{
	if (cJSON_IsNull(v))
		return true;
	switch (f->kind)
	{
		case K_ANY:
			return true;
		case K_STRING:
			return cJSON_IsString(v) || wrong_type(e, f->name, "a string", v);
		case K_BOOL:
			return cJSON_IsBool(v) || wrong_type(e, f->name, "a boolean", v);
		case K_OBJECT:
			return cJSON_IsObject(v) || wrong_type(e, f->name, "an object", v);
		case K_ARRAY:
			return cJSON_IsArray(v) || wrong_type(e, f->name, "an array of objects", v);
		case K_INTEGER:
			if (!cJSON_IsNumber(v) || v->valuedouble != (double) (int64_t) v->valuedouble)
				return wrong_type(e, f->name, "an integer", v);
			return check_range(f, v, e);
		case K_NUMBER:
			if (!cJSON_IsNumber(v))
				return wrong_type(e, f->name, "a decimal", v);
			return check_range(f, v, e);
	}
	return true;
}

static bool
check_fields(const cJSON *body, const Field *fields, ApiError *e)
{
	const cJSON *v;

	cJSON_ArrayForEach(v, body)
	{
		const Field *f = fields;

		while (f->name != NULL && strcmp(f->name, v->string) != 0)
			f++;
		if (f->name == NULL)
			return api_error(e, 400, "unknown_parameter", v->string, "Unknown parameter: '%s'.",
							 v->string);
		if (!check_field(f, v, e))
			return false;
	}
	return true;
}

static bool
check_model(const cJSON *body, Question *q, ApiError *e)
{
	const char *name = json_str(body, "model");

	if (name == NULL || *name == '\0')
	{
		if (q->api == API_CHAT)
			return api_error(e, 400, NULL, NULL, "you must provide a model parameter");
		return api_error(e, 400, "missing_required_parameter", "model",
						 "Missing required parameter: 'model'.");
	}
	q->model = model_find(name);
	if (q->model == NULL)
		return api_error(e, 404, "model_not_found", NULL, "The model `%s` does not exist or you "
						 "do not have access to it.", name);
	return true;
}

/* The list "'a', 'b', and 'c'" of the efforts that a model takes. */
static void
effort_list(unsigned efforts, char *dst, size_t size)
{
	StrBuf		b = {0};
	int			left = __builtin_popcount(efforts);

	buf_str(&b, "");
	for (int i = 0; i < EFFORTS; i++)
	{
		if (!(efforts & (1u << i)))
			continue;
		left--;
		if (b.len > 0)
			buf_str(&b, left == 0 ? ", and " : ", ");
		buf_printf(&b, "'%s'", effort_name((Effort) i));
	}
	snprintf(dst, size, "%s", b.data);
	buf_free(&b);
}

static bool
check_effort(const char *name, const char *param, Question *q, ApiError *e)
{
	int			effort;
	char		list[200];

	q->effort = q->model->effort;
	if (name == NULL)
		return true;
	effort = effort_find(name);
	if (q->model->efforts == 0)
	{
		if (q->api == API_CHAT)
			return api_error(e, 400, NULL, NULL, "Unrecognized request argument supplied: %s",
							 param);
		return api_error(e, 400, "unsupported_parameter", param, "Unsupported parameter: '%s' "
						 "is not supported with this model.", param);
	}
	if (effort < 0)
	{
		effort_list((1u << EFFORTS) - 1, list, sizeof(list));
		return api_error(e, 400, "invalid_value", param, "Invalid value: '%s'. Supported values "
						 "are: %s.", name, list);
	}
	if (!(q->model->efforts & (1u << effort)))
	{
		effort_list(q->model->efforts, list, sizeof(list));
		return api_error(e, 400, "unsupported_value", param, "Unsupported value: '%s' does not "
						 "support '%s' with this model. Supported values are: %s.", param, name,
						 list);
	}
	q->effort = (Effort) effort;
	return true;
}

/* Sampling parameters that a model takes only when it does not reason. */
static bool
check_sampling(const cJSON *body, const Question *q, ApiError *e)
{
	static const char *const names[] = {"temperature", "top_p", "frequency_penalty",
	"presence_penalty", "logprobs", "top_logprobs", "logit_bias", NULL};

	if (q->model->efforts == 0 ||
		(q->effort == EFFORT_NONE && (q->model->efforts & (1u << EFFORT_NONE))))
		return true;
	for (int i = 0; names[i] != NULL; i++)
	{
		const cJSON *v = json_get(body, names[i]);

		if (v == NULL || cJSON_IsNull(v) || cJSON_IsFalse(v))
			continue;
		if (i < 2 && v->valuedouble == 1)
			continue;
		if (i < 4 && q->api == API_CHAT)
			return api_error(e, 400, "unsupported_value", names[i], "Unsupported value: '%s' "
							 "does not support %.15g with this model. Only the default (%d) "
							 "value is supported.", names[i], v->valuedouble, i < 2 ? 1 : 0);
		return api_error(e, 400, "unsupported_parameter", names[i], "Unsupported parameter: "
						 "'%s' is not supported with this model.", names[i]);
	}
	return true;
}

static bool
check_enum(const cJSON *body, const char *name, const char *const *values, ApiError *e)
{
	const char *v = json_str(body, name);
	StrBuf		list = {0};

	if (v == NULL)
		return true;
	for (int i = 0; values[i] != NULL; i++)
	{
		if (strcmp(values[i], v) == 0)
		{
			buf_free(&list);
			return true;
		}
		buf_printf(&list, "%s'%s'", i == 0 ? "" : values[i + 1] ? ", " : ", and ", values[i]);
	}
	api_error(e, 400, "invalid_value", name, "Invalid value: '%s'. Supported values are: %s.",
			  v, list.data);
	buf_free(&list);
	return false;
}

static void
add_text(StrBuf *b, const char *s)
{
	if (b->len > 0)
		buf_char(b, '\n');
	buf_str(b, s);
}

/* Text of a message's content, which is a string or a list of parts. */
static void
content_text(const cJSON *content, StrBuf *out)
{
	const cJSON *part;

	if (cJSON_IsString(content))
		add_text(out, content->valuestring);
	cJSON_ArrayForEach(part, content)
	{
		if (json_str(part, "text") != NULL)
			add_text(out, json_str(part, "text"));
	}
}

static void
take_message(Question *q, const char *role, const cJSON *content)
{
	StrBuf		text = {0};

	buf_str(&text, "");
	content_text(content, &text);
	add_text(&q->all, text.data);
	if (strcmp(role, "system") == 0 || strcmp(role, "developer") == 0)
		add_text(&q->system, text.data);
	else if (strcmp(role, "user") == 0)
	{
		buf_reset(&q->user);
		buf_str(&q->user, text.data);
	}
	buf_free(&text);
}

static bool
check_parts(const cJSON *content, const char *where, Question *q, ApiError *e)
{
	const cJSON *part;
	int			i = 0;

	cJSON_ArrayForEach(part, content)
	{
		const char *type = json_str(part, "type");
		char		param[100];

		snprintf(param, sizeof(param), "%s.content[%d].type", where, i++);
		if (type == NULL)
			return api_error(e, 400, "missing_required_parameter", param,
							 "Missing required parameter: '%s'.", param);
		if (q->api == API_CHAT && strcmp(type, "text") != 0 && strcmp(type, "image_url") != 0 &&
			strcmp(type, "input_audio") != 0 && strcmp(type, "refusal") != 0 &&
			strcmp(type, "file") != 0)
			return api_error(e, 400, "invalid_value", param, "Invalid value: '%s'. Supported "
							 "values are: 'text', 'image_url', 'input_audio', 'refusal', "
							 "'audio', and 'file'.", type);
		if (q->api == API_RESPONSES && strncmp(type, "input_", 6) != 0 &&
			strcmp(type, "output_text") != 0 && strcmp(type, "refusal") != 0)
			return api_error(e, 400, "invalid_value", param, "Invalid value: '%s'. Supported "
							 "values are: 'input_text', 'input_image', 'output_text', "
							 "'refusal', and 'input_file'.", type);
	}
	return true;
}

static bool
check_message(const cJSON *m, const char *list, int i, Question *q, ApiError *e)
{
	const char *role = json_str(m, "role");
	const cJSON *content = json_get(m, "content");
	char		where[40];
	char		param[80];

	snprintf(where, sizeof(where), "%s[%d]", list, i);
	snprintf(param, sizeof(param), "%s.role", where);
	if (!cJSON_IsObject(m))
		return wrong_type(e, where, "an object", m);
	if (role == NULL)
		return api_error(e, 400, "missing_required_parameter", param,
						 "Missing required parameter: '%s'.", param);
	if (strcmp(role, "system") != 0 && strcmp(role, "developer") != 0 &&
		strcmp(role, "user") != 0 && strcmp(role, "assistant") != 0 &&
		(q->api == API_RESPONSES || (strcmp(role, "tool") != 0 && strcmp(role, "function") != 0)))
		return api_error(e, 400, "invalid_value", param, "Invalid value: '%s'. Supported values "
						 "are: 'system', 'assistant', 'user', 'function', 'tool', and "
						 "'developer'.", role);
	snprintf(param, sizeof(param), "%s.content", where);
	if (strcmp(role, "assistant") != 0 && !cJSON_IsString(content) && !cJSON_IsArray(content))
	{
		if (content == NULL)
			return api_error(e, 400, "missing_required_parameter", param,
							 "Missing required parameter: '%s'.", param);
		return api_error(e, 400, "invalid_type", param, "Invalid type for '%s': expected one of "
						 "a string or array of objects, but got %s instead.", param,
						 json_type(content));
	}
	if (!check_parts(content, where, q, e))
		return false;
	take_message(q, role, content);
	return true;
}

static bool
check_messages(const cJSON *list, const char *name, Question *q, ApiError *e)
{
	const cJSON *m;
	int			i = 0;

	if (cJSON_GetArraySize(list) == 0)
		return api_error(e, 400, "empty_array", name, "Invalid '%s': empty array. Expected an "
						 "array with minimum length 1, but got an empty array instead.", name);
	cJSON_ArrayForEach(m, list)
	{
		const char *type = json_str(m, "type");

		/* other items of a Responses input carry no text of ours */
		if (q->api == API_RESPONSES && type != NULL && strcmp(type, "message") != 0)
			continue;
		if (!check_message(m, name, i++, q, e))
			return false;
	}
	return true;
}

/* Name, schema and strictness of a JSON schema format; path is its parameter. */
static bool
check_format(const cJSON *f, const char *path, Question *q, ApiError *e)
{
	const char *name = json_str(f, "name");
	const cJSON *schema = json_get(f, "schema");
	char		param[80];
	char		why[400];

	snprintf(param, sizeof(param), "%s.name", path);
	if (name == NULL)
		return api_error(e, 400, "missing_required_parameter", param,
						 "Missing required parameter: '%s'.", param);
	for (const char *p = name; *p; p++)
	{
		if (!isalnum((unsigned char) *p) && *p != '_' && *p != '-')
			return api_error(e, 400, "invalid_value", param, "Invalid '%s': string does not "
							 "match pattern. Expected a string that matches the pattern "
							 "'^[a-zA-Z0-9_-]+$'.", param);
	}
	if (*name == '\0' || strlen(name) > 64)
		return api_error(e, 400, *name ? "string_above_max_length" : "string_below_min_length",
						 param, "Invalid '%s': expected a string with length from 1 to 64, but "
						 "got a string with length %zu instead.", param, strlen(name));
	snprintf(param, sizeof(param), "%s.schema", path);
	if (!cJSON_IsObject(schema))
	{
		if (schema == NULL)
			return api_error(e, 400, "missing_required_parameter", param,
							 "Missing required parameter: '%s'.", param);
		return wrong_type(e, param, "an object", schema);
	}
	if (json_true(f, "strict") && !schema_strict(schema, why, sizeof(why)))
		return api_error(e, 400, q->api == API_CHAT ? NULL : "invalid_json_schema",
						 q->api == API_CHAT ? "response_format" : param,
						 "Invalid schema for response_format '%s': %s", name, why);
	q->schema = schema;
	return true;
}

static bool
check_response_format(const cJSON *format, const char *path, Question *q, ApiError *e)
{
	const char *type = json_str(format, "type");
	char		param[80];

	if (format == NULL || cJSON_IsNull(format))
		return true;
	snprintf(param, sizeof(param), "%s.type", path);
	if (type == NULL)
		return api_error(e, 400, "missing_required_parameter", param,
						 "Missing required parameter: '%s'.", param);
	if (strcmp(type, "text") == 0)
		return true;
	if (strcmp(type, "json_object") == 0)
	{
		q->json_mode = true;
		if (find_nocase(q->all.data, "json") == NULL)
			return api_error(e, 400, NULL, q->api == API_CHAT ? "messages" : "input",
							 "'%s' must contain the word 'json' in some form, to use '%s' of "
							 "type 'json_object'.",
							 q->api == API_CHAT ? "messages" : "input", path);
		return true;
	}
	if (strcmp(type, "json_schema") != 0)
		return api_error(e, 400, "invalid_value", param, "Invalid value: '%s'. Supported values "
						 "are: 'json_object', 'json_schema', and 'text'.", type);
	if (q->api == API_RESPONSES)
		return check_format(format, path, q, e);
	snprintf(param, sizeof(param), "%s.json_schema", path);
	if (!cJSON_IsObject(json_get(format, "json_schema")))
		return api_error(e, 400, "missing_required_parameter", param,
						 "Missing required parameter: '%s'.", param);
	return check_format(json_get(format, "json_schema"), param, q, e);
}

static bool
read_chat(const cJSON *body, Question *q, ApiError *e)
{
	static const char *const verbosity[] = {"low", "medium", "high", NULL};
	static const char *const tiers[] = {"auto", "default", "flex", "scale", "priority", "fast",
	NULL};
	const cJSON *messages = json_get(body, "messages");

	if (!check_effort(json_str(body, "reasoning_effort"), "reasoning_effort", q, e) ||
		!check_sampling(body, q, e) || !check_enum(body, "verbosity", verbosity, e) ||
		!check_enum(body, "service_tier", tiers, e))
		return false;
	if (messages == NULL || cJSON_IsNull(messages))
		return api_error(e, 400, "missing_required_parameter", "messages",
						 "Missing required parameter: 'messages'.");
	if (json_get(body, "max_tokens") != NULL && q->model->efforts != 0)
		return api_error(e, 400, "unsupported_parameter", "max_tokens", "Unsupported parameter: "
						 "'max_tokens' is not supported with this model. Use "
						 "'max_completion_tokens' instead.");
	if (json_get(body, "max_tokens") != NULL && json_get(body, "max_completion_tokens") != NULL)
		return api_error(e, 400, "invalid_parameter_combination", "max_tokens", "Setting "
						 "'max_tokens' and 'max_completion_tokens' at the same time is not "
						 "supported.");
	if (json_true(body, "stream"))
		return api_error(e, 400, "unsupported_value", "stream", "Streaming is not available "
						 "here.");
	q->max_tokens = (int64_t) json_num(body, "max_completion_tokens",
									   json_num(body, "max_tokens", -1));
	q->choices = (int) json_num(body, "n", 1);
	return check_messages(messages, "messages", q, e) &&
		check_response_format(json_get(body, "response_format"), "response_format", q, e);
}

static bool
read_responses(const cJSON *body, Question *q, ApiError *e)
{
	const cJSON *input = json_get(body, "input");
	const char *instructions = json_str(body, "instructions");

	if (!check_effort(json_str(json_get(body, "reasoning"), "effort"), "reasoning.effort", q, e) ||
		!check_sampling(body, q, e))
		return false;
	if (json_true(body, "stream"))
		return api_error(e, 400, "unsupported_value", "stream", "Streaming is not available "
						 "here.");
	if (input == NULL || cJSON_IsNull(input))
		return api_error(e, 400, "missing_required_parameter", NULL, "One of \"input\" or "
						 "\"previous_response_id\" or 'prompt' or 'conversation_id' must be "
						 "provided.");
	q->max_tokens = (int64_t) json_num(body, "max_output_tokens", -1);
	if (instructions != NULL)
	{
		add_text(&q->system, instructions);
		add_text(&q->all, instructions);
	}
	if (cJSON_IsString(input))
		take_message(q, "user", input);
	else if (!cJSON_IsArray(input))
		return api_error(e, 400, "invalid_type", "input", "Invalid type for 'input': expected "
						 "one of a string or array of input items, but got %s instead.",
						 json_type(input));
	else if (!check_messages(input, "input", q, e))
		return false;
	return check_response_format(json_get(json_get(body, "text"), "format"), "text.format", q, e);
}

/* Reads body into q, to be freed in either case; false with the refusal in e. */
bool
question_read(const cJSON *body, Api api, Question *q, ApiError *e)
{
	memset(q, 0, sizeof(*q));
	q->api = api;
	q->body = body;
	q->max_tokens = -1;
	q->choices = 1;
	buf_str(&q->system, "");
	buf_str(&q->user, "");
	buf_str(&q->all, "");
	if (!cJSON_IsObject(body))
		return api_error(e, 400, NULL, NULL, "Invalid type for body: expected an object.");
	if (!check_fields(body, api == API_CHAT ? chat_fields : responses_fields, e) ||
		!check_model(body, q, e))
		return false;
	if (json_get(body, "metadata") != NULL && !metadata_check(json_get(body, "metadata"), e))
		return false;
	return api == API_CHAT ? read_chat(body, q, e) : read_responses(body, q, e);
}

void
question_free(Question *q)
{
	buf_free(&q->system);
	buf_free(&q->user);
	buf_free(&q->all);
}

/* All text of a body that may be wrong in any way; for matching only. */
void
prompt_text(const cJSON *body, Api api, StrBuf *out)
{
	const cJSON *m;
	const cJSON *list = json_get(body, api == API_CHAT ? "messages" : "input");

	if (json_str(body, "instructions") != NULL)
		add_text(out, json_str(body, "instructions"));
	if (cJSON_IsString(list))
		add_text(out, list->valuestring);
	else
		cJSON_ArrayForEach(m, list)
			content_text(json_get(m, "content"), out);
}
