/*
 * google_content.c
 *		What a GenerateContentRequest says, and why it may be refused.
 *
 * The form was checked by google_message.c.  The two services refuse the same
 * things in different words; Vertex AI alone insists on roles and takes labels.
 */
#include "google_content.h"

#include <ctype.h>

#define LEARN_MORE	" Learn more: https://cloud.google.com/vertex-ai/generative-ai/docs/" \
	"model-reference/gemini"

static void
add_text(StrBuf *b, const char *s)
{
	if (b->len > 0)
		buf_char(b, '\n');
	buf_str(b, s);
}

/* A repeated field may be written as a single value. */
static const cJSON *
first_of(const cJSON *list)
{
	return cJSON_IsArray(list) ? list->child : list;
}

static const cJSON *
next_of(const cJSON *list, const cJSON *one)
{
	return cJSON_IsArray(list) ? one->next : NULL;
}

static void
content_text(const cJSON *content, StrBuf *out)
{
	const cJSON *parts = json_get(content, "parts");

	for (const cJSON *p = first_of(parts); p != NULL; p = next_of(parts, p))
	{
		if (json_str(p, "text") != NULL && !json_true(p, "thought"))
			add_text(out, json_str(p, "text"));
	}
}

/* All text of a body that may be wrong in any way; for matching only. */
void
gprompt_text(const cJSON *body, StrBuf *out)
{
	const cJSON *list = proto_get(body, "contents");

	content_text(proto_get(body, "systemInstruction"), out);
	for (const cJSON *c = first_of(list); c != NULL; c = next_of(list, c))
		content_text(c, out);
}

static bool
check_part(const cJSON *p, const char *where, bool vertex, GError *e)
{
	static const char *const data[] = {"text", "inlineData", "fileData", "functionCall",
	"functionResponse", "executableCode", "codeExecutionResult", NULL};
	int			n = 0;

	for (int i = 0; data[i] != NULL; i++)
	{
		const cJSON *v = proto_get(p, data[i]);

		n += v != NULL && !cJSON_IsNull(v);
	}
	if (n > 1)
		return gerror(e, 400, "Invalid value at '%s' (oneof), oneof field 'data' is already set. "
					  "Cannot set a second one.", where);
	if (vertex && (n == 0 || (json_str(p, "text") != NULL && *json_str(p, "text") == '\0')))
		return gerror(e, 400, "Unable to submit request because it must have a text parameter. "
					  "Add a text parameter and try again." LEARN_MORE);
	if (n == 0)
		return gerror(e, 400, "* GenerateContentRequest.%s.data: required oneof field 'data' must "
					  "have one initialized field\n", where);
	return true;
}

static bool
check_parts(const cJSON *content, const char *where, bool vertex, GError *e)
{
	const cJSON *parts = json_get(content, "parts");
	int			i = 0;

	if (first_of(parts) == NULL || cJSON_IsNull(parts))
	{
		if (vertex)
			return gerror(e, 400, "Unable to submit request because it must include at least one "
						  "parts field, which describes the prompt input." LEARN_MORE);
		return gerror(e, 400, "* GenerateContentRequest.%s.parts: contents.parts must not be "
					  "empty.\n", where);
	}
	for (const cJSON *p = first_of(parts); p != NULL; p = next_of(parts, p))
	{
		char		inner[100];

		snprintf(inner, sizeof(inner), "%s.parts[%d]", where, i++);
		if (!check_part(p, inner, vertex, e))
			return false;
	}
	return true;
}

static bool
read_contents(const cJSON *body, GQuestion *g, GError *e)
{
	const cJSON *list = proto_get(body, "contents");
	const cJSON *system = proto_get(body, "systemInstruction");
	const char *role = NULL;
	int			i = 0;

	if (cJSON_IsObject(system))
	{
		if (!check_parts(system, "system_instruction", g->vertex, e))
			return false;
		content_text(system, &g->q.system);
		buf_str(&g->q.all, g->q.system.data);
	}
	if (first_of(list) == NULL || cJSON_IsNull(list))
		return g->vertex ? gerror(e, 400, "Unable to submit request because at least one contents "
								  "field is required." LEARN_MORE) :
			gerror(e, 400, "* GenerateContentRequest.contents: contents is not specified\n");
	for (const cJSON *c = first_of(list); c != NULL; c = next_of(list, c))
	{
		StrBuf		text = {0};
		char		where[40];

		snprintf(where, sizeof(where), "contents[%d]", i++);
		role = json_str(c, "role");
		if (role != NULL && *role == '\0')
			role = NULL;
		if ((role == NULL && g->vertex) || (role != NULL && strcmp(role, "user") != 0 &&
											strcmp(role, "model") != 0 &&
											strcmp(role, "function") != 0))
			return gerror(e, 400, "Please use a valid role: user, model.");
		if (!check_parts(c, where, g->vertex, e))
			return false;
		buf_str(&text, "");
		content_text(c, &text);
		add_text(&g->q.all, text.data);
		if (role == NULL || strcmp(role, "user") == 0)
		{
			buf_reset(&g->q.user);
			buf_str(&g->q.user, text.data);
		}
		buf_free(&text);
	}
	return true;
}

static bool
out_of_range(GError *e, const GQuestion *g, const char *name, const char *snake, double v,
			 const char *from, const char *to)
{
	if (g->vertex)
		return gerror(e, 400, "Unable to submit request because it has a %s value of %.15g but the "
					  "supported range is from %s to %s. Update the value and try again.", name, v,
					  from, to);
	return gerror(e, 400, "* GenerateContentRequest.generation_config.%s: %s must be in the range "
				  "[%s, %s].\n", snake, snake, from, to);
}

static double
number(const cJSON *config, const char *name, double dflt)
{
	const cJSON *v = proto_get(config, name);

	if (cJSON_IsString(v))
		return strtod(v->valuestring, NULL);
	return cJSON_IsNumber(v) ? v->valuedouble : dflt;
}

static bool
check_numbers(const cJSON *config, GQuestion *g, GError *e)
{
	double		t = number(config, "temperature", 1);
	double		p = number(config, "topP", 1);
	double		max = number(config, "maxOutputTokens", -1);
	double		n = number(config, "candidateCount", 1);
	const cJSON *stop = proto_get(config, "stopSequences");

	if (t < 0 || t > 2)
		return out_of_range(e, g, "temperature", "temperature", t, "0 (inclusive)",
							g->vertex ? "2.0001 (exclusive)" : "2 (inclusive)");
	if (p < 0 || p > 1)
		return out_of_range(e, g, "topP", "top_p", p, "0 (inclusive)",
							g->vertex ? "1.0001 (exclusive)" : "1 (inclusive)");
	if (proto_get(config, "maxOutputTokens") != NULL && !cJSON_IsNull(proto_get(config,
																				"maxOutputTokens"))
		&& (max < 1 || max > 65536))
		return out_of_range(e, g, "maxOutputTokens", "max_output_tokens", max, "1 (inclusive)",
							"65537 (exclusive)");
	if (n < 1 || n > 8)
		return out_of_range(e, g, "candidateCount", "candidate_count", n, "1 (inclusive)",
							"9 (exclusive)");
	if (cJSON_GetArraySize(stop) > 5)
		return gerror(e, 400, "The number of stop sequences must not exceed 5.");
	g->q.max_tokens = max < 1 ? -1 : (int64_t) max;
	g->q.choices = (int) n;
	return true;
}

static bool
check_budget(const cJSON *thinking, GQuestion *g, GError *e)
{
	const GModel *m = g->model;
	double		budget = number(thinking, "thinkingBudget", -1);

	if (budget == 0 && !m->budget_zero)
		return gerror(e, 400, g->vertex ? "Unable to submit request because thinking_budget is out "
					  "of range; supported values are integers from %d to %d." :
					  "Budget 0 is invalid. This model only works in thinking mode.",
					  m->budget_min, m->budget_max);
	if (budget != 0 && budget != -1 && (budget < m->budget_min || budget > m->budget_max))
		return gerror(e, 400, "The thinking budget %.0f is invalid. Please choose a value between "
					  "%d and %d.", budget, m->budget_min, m->budget_max);
	if (budget == 0)
		g->q.effort = EFFORT_MINIMAL;
	else if (budget > 0)
		g->q.effort = budget >= 2560 ? EFFORT_MEDIUM : EFFORT_LOW;
	return true;
}

static bool
read_thinking(const cJSON *config, GQuestion *g, GError *e)
{
	static const char *const names[] = {"MINIMAL", "LOW", "MEDIUM", "HIGH", NULL};
	static const Effort efforts[] = {EFFORT_MINIMAL, EFFORT_LOW, EFFORT_MEDIUM, EFFORT_HIGH};
	const cJSON *thinking = proto_get(config, "thinkingConfig");
	const cJSON *budget = proto_get(thinking, "thinkingBudget");
	const char *level = proto_str(thinking, "thinkingLevel");

	g->q.effort = g->model->base.effort;
	g->thoughts = cJSON_IsTrue(proto_get(thinking, "includeThoughts"));
	if (level != NULL && budget != NULL && !cJSON_IsNull(budget))
		return gerror(e, 400, "You can only set only one of thinking budget and thinking level.");
	if (level == NULL)
		return check_budget(thinking, g, e);
	if (!g->model->levels)
		return gerror(e, 400, "Thinking level is not supported for this model.");
	for (int i = 0; names[i] != NULL; i++)
	{
		if (strcmp(level, names[i]) != 0)
			continue;
		if (!(g->model->base.efforts & (1u << efforts[i])))
			return gerror(e, 400, "Thinking level %s is not supported for this model. Please retry "
						  "with other thinking level.", level);
		g->q.effort = efforts[i];
	}
	return true;
}

/* A Schema in JSON Schema's terms: lower case, null as a type. */
static cJSON *
json_schema(const cJSON *s)
{
	cJSON	   *o = cJSON_CreateObject();
	const char *type = json_str(s, "type");
	const cJSON *v;

	cJSON_ArrayForEach(v, s)
	{
		const cJSON *one;

		if (strcmp(v->string, "type") == 0 || strcmp(v->string, "nullable") == 0)
			continue;
		if (strcmp(v->string, "items") == 0)
			cJSON_AddItemToObject(o, "items", json_schema(v));
		else if (strcmp(v->string, "properties") == 0)
		{
			cJSON	   *props = cJSON_AddObjectToObject(o, "properties");

			cJSON_ArrayForEach(one, v)
				cJSON_AddItemToObject(props, one->string, json_schema(one));
		}
		else if (strcmp(v->string, "anyOf") == 0 || strcmp(v->string, "any_of") == 0)
		{
			cJSON	   *any = cJSON_AddArrayToObject(o, "anyOf");

			cJSON_ArrayForEach(one, v)
				cJSON_AddItemToArray(any, json_schema(one));
		}
		else
			cJSON_AddItemToObject(o, v->string, cJSON_Duplicate(v, 1));
	}
	if (type != NULL)
	{
		char	   *low = xstrdup(type);
		cJSON	   *types = cJSON_AddArrayToObject(o, "type");

		for (char *p = low; *p; p++)
			*p = (char) tolower((unsigned char) *p);
		cJSON_AddItemToArray(types, cJSON_CreateString(low));
		if (json_true(s, "nullable"))
			cJSON_AddItemToArray(types, cJSON_CreateString("null"));
		free(low);
	}
	return o;
}

static bool
bad_schema(GError *e, const char *path, const char *why)
{
	return gerror(e, 400, "* GenerateContentRequest.generation_config.response_schema%.300s: %s\n",
				  path, why);
}

static bool
check_schema(const cJSON *s, const char *path, int depth, GError *e)
{
	const char *type = json_str(s, "type");
	const cJSON *props = json_get(s, "properties");
	const cJSON *any = proto_get(s, "anyOf");
	const cJSON *one;
	char		inner[400];

	if (depth > 20)
		return bad_schema(e, "", "reached maximum nesting depth");
	if (type == NULL && any == NULL && json_get(s, "ref") == NULL)
		return bad_schema(e, path, "type must be specified");
	if (type != NULL && strcmp(type, "OBJECT") == 0 && cJSON_GetArraySize(props) == 0)
		return bad_schema(e, path, "properties: should be non-empty for OBJECT type");
	if (type != NULL && strcmp(type, "ARRAY") == 0 && json_get(s, "items") == NULL)
		return bad_schema(e, path, "items: missing field.");
	if (json_get(s, "enum") != NULL && (type == NULL || strcmp(type, "STRING") != 0))
		return bad_schema(e, path, "enum: only allowed for STRING type");
	cJSON_ArrayForEach(one, json_get(s, "enum"))
	{
		if (*one->valuestring == '\0')
			return bad_schema(e, path, "enum[0]: cannot be empty");
	}
	cJSON_ArrayForEach(one, json_get(s, "required"))
	{
		if (json_get(props, one->valuestring) == NULL)
			return bad_schema(e, path, "required[0]: property is not defined");
	}
	cJSON_ArrayForEach(one, props)
	{
		snprintf(inner, sizeof(inner), "%.200s.properties[%.80s]", path, one->string);
		if (!check_schema(one, inner, depth + 1, e))
			return false;
	}
	cJSON_ArrayForEach(one, any)
	{
		snprintf(inner, sizeof(inner), "%.200s.any_of", path);
		if (!check_schema(one, inner, depth + 1, e))
			return false;
	}
	snprintf(inner, sizeof(inner), "%.300s.items", path);
	return json_get(s, "items") == NULL || check_schema(json_get(s, "items"), inner, depth + 1, e);
}

static bool
read_format(const cJSON *config, GQuestion *g, GError *e)
{
	const char *mime = proto_str(config, "responseMimeType");
	const cJSON *schema = proto_get(config, "responseSchema");
	const cJSON *json = proto_get(config, "responseJsonSchema");
	bool		is_json = mime != NULL && strcmp(mime, "application/json") == 0;

	schema = cJSON_IsNull(schema) ? NULL : schema;
	json = cJSON_IsNull(json) ? NULL : json;
	g->bare_enum = mime != NULL && strcmp(mime, "text/x.enum") == 0;
	if (mime != NULL && *mime && !is_json && !g->bare_enum && strcmp(mime, "text/plain") != 0)
		return gerror(e, 400, "* GenerateContentRequest.generation_config.response_mime_type: "
					  "allowed mimetypes are `text/plain`, `application/json`, `application/xml`, "
					  "`application/yaml` and `text/x.enum`.\n");
	if (schema != NULL && json != NULL)
		return gerror(e, 400, "Only one of response_schema and response_json_schema can be set.");
	if ((schema != NULL || json != NULL) && !is_json && !(g->bare_enum && schema != NULL))
		return gerror(e, 400, "response_schema and response_json_schema can only be set with "
					  "response_mime_type `application/json`.");
	if (schema != NULL)
	{
		if (!check_schema(schema, "", 0, e))
			return false;
		g->schema = json_schema(schema);
	}
	else if (json != NULL)
	{
		if (!cJSON_IsObject(json))
			return gerror(e, 400, "* GenerateContentRequest.generation_config."
						  "response_json_schema: must be an object.\n");
		g->schema = cJSON_Duplicate(json, 1);
	}
	g->q.schema = g->schema;
	g->q.json_mode = is_json && g->schema == NULL;
	return true;
}

static bool
label_text(const char *s, bool key)
{
	size_t		len = strlen(s);

	if (len > 63 || (key && (len == 0 || !islower((unsigned char) *s))))
		return false;
	for (; *s; s++)
	{
		if (!islower((unsigned char) *s) && !isdigit((unsigned char) *s) && *s != '_' && *s != '-')
			return false;
	}
	return true;
}

static bool
check_labels(const cJSON *labels, GError *e)
{
	const cJSON *v;

	if (cJSON_GetArraySize(labels) > 64)
		return gerror(e, 400, "The number of labels must not exceed 64.");
	cJSON_ArrayForEach(v, labels)
	{
		if (!label_text(v->string, true) || !label_text(v->valuestring, false))
			return gerror(e, 400, "Invalid label '%.70s': keys and values can contain only "
						  "lowercase letters, numeric characters, underscores and dashes, at most "
						  "63 of them, and a key must start with a letter.", v->string);
	}
	return true;
}

static bool
check_safety(const cJSON *list, GError *e)
{
	for (const cJSON *a = first_of(list); a != NULL; a = next_of(list, a))
	{
		const char *category = json_str(a, "category");

		if (category == NULL || json_get(a, "threshold") == NULL)
			return gerror(e, 400, "* GenerateContentRequest.safety_settings: category and "
						  "threshold must be specified\n");
		for (const cJSON *b = next_of(list, a); b != NULL; b = b->next)
		{
			if (json_str(b, "category") != NULL && strcmp(json_str(b, "category"), category) == 0)
				return gerror(e, 400, "* GenerateContentRequest.safety_settings: duplicate "
							  "setting for category %s\n", category);
		}
	}
	return true;
}

static bool
check_tools(const cJSON *list, GError *e)
{
	for (const cJSON *t = first_of(list); t != NULL; t = next_of(list, t))
	{
		const cJSON *v;

		cJSON_ArrayForEach(v, t)
		{
			if (cJSON_IsObject(v) && v->child == NULL && strcmp(v->string, "googleSearch") != 0)
				return gerror(e, 400, "Invalid value at 'tools': \"%.60s\" is empty.", v->string);
		}
	}
	return true;
}

/* Reads body into g, to be freed in either case; false with the refusal in e. */
bool
gquestion_read(const cJSON *body, const GModel *model, bool vertex, GQuestion *g, GError *e)
{
	const cJSON *config = proto_get(body, "generationConfig");

	memset(g, 0, sizeof(*g));
	g->model = model;
	g->vertex = vertex;
	g->q.model = &model->base;
	g->q.body = body;
	g->q.max_tokens = -1;
	g->q.choices = 1;
	buf_str(&g->q.system, "");
	buf_str(&g->q.user, "");
	buf_str(&g->q.all, "");
	return message_check(body, vertex, e) && read_contents(body, g, e) &&
		check_numbers(config, g, e) && read_thinking(config, g, e) && read_format(config, g, e) &&
		check_labels(json_get(body, "labels"), e) &&
		check_safety(proto_get(body, "safetySettings"), e) &&
		(!vertex || check_tools(json_get(body, "tools"), e));
}

void
gquestion_free(GQuestion *g)
{
	question_free(&g->q);
	cJSON_Delete(g->schema);
	g->schema = NULL;
}
