/*
 * google_message.c
 *		GenerateContentRequest as a tree of fields: names, types, enums.
 *
 * After content.proto and openapi.proto of Vertex AI and the Gemini API's
 * discovery document.  A field may be written in camelCase or in snake_case;
 * anything else is unknown and refused, as both services do.
 */
#include "google_content.h"

typedef enum FieldType
{
	T_STRING, T_BOOL, T_INT, T_FLOAT, T_ENUM, T_MESSAGE, T_ANY, T_STRINGS_BY_NAME,
	T_MESSAGES_BY_NAME
} FieldType;

#define LIST		1
#define VERTEX		2			/* only there */
#define GEMINI_API	4
#define SHOWN		8			/* null in the echo of a request that lacks it */

typedef struct FieldDef
{
	const char *name;
	FieldType	type;
	int			flags;
	const struct MessageDef *message;
	const char *values;			/* of an enum, between blanks */
} FieldDef;

typedef struct MessageDef
{
	const char *name;
	const FieldDef *fields;
} MessageDef;

#define END		{NULL, T_ANY, 0, NULL, NULL}

static const FieldDef blob_fields[] = {
	{"mimeType", T_STRING, 0, NULL, NULL}, {"data", T_STRING, 0, NULL, NULL},
	{"displayName", T_STRING, 0, NULL, NULL}, END
};
static const MessageDef blob = {"Blob", blob_fields};

static const FieldDef file_data_fields[] = {
	{"mimeType", T_STRING, 0, NULL, NULL}, {"fileUri", T_STRING, 0, NULL, NULL},
	{"displayName", T_STRING, 0, NULL, NULL}, END
};
static const MessageDef file_data = {"FileData", file_data_fields};

static const FieldDef part_fields[] = {
	{"text", T_STRING, SHOWN, NULL, NULL}, {"inlineData", T_MESSAGE, SHOWN, &blob, NULL},
	{"fileData", T_MESSAGE, SHOWN, &file_data, NULL}, {"functionCall", T_ANY, SHOWN, NULL, NULL},
	{"functionResponse", T_ANY, SHOWN, NULL, NULL}, {"executableCode", T_ANY, 0, NULL, NULL},
	{"codeExecutionResult", T_ANY, 0, NULL, NULL}, {"thought", T_BOOL, 0, NULL, NULL},
	{"thoughtSignature", T_STRING, 0, NULL, NULL}, {"videoMetadata", T_ANY, SHOWN, NULL, NULL},
	{"mediaResolution", T_ANY, 0, NULL, NULL}, {"partMetadata", T_ANY, GEMINI_API, NULL, NULL}, END
};
static const MessageDef part = {"Part", part_fields};

static const FieldDef content_fields[] = {
	{"role", T_STRING, SHOWN, NULL, NULL}, {"parts", T_MESSAGE, LIST, &part, NULL}, END
};
static const MessageDef content = {"Content", content_fields};

static const MessageDef schema;
static const FieldDef schema_fields[] = {
	{"type", T_ENUM, 0, NULL, " TYPE_UNSPECIFIED STRING NUMBER INTEGER BOOLEAN ARRAY OBJECT NULL "},
	{"format", T_STRING, 0, NULL, NULL}, {"title", T_STRING, 0, NULL, NULL},
	{"description", T_STRING, 0, NULL, NULL}, {"nullable", T_BOOL, 0, NULL, NULL},
	{"default", T_ANY, 0, NULL, NULL}, {"items", T_MESSAGE, 0, &schema, NULL},
	{"minItems", T_INT, 0, NULL, NULL}, {"maxItems", T_INT, 0, NULL, NULL},
	{"enum", T_STRING, LIST, NULL, NULL}, {"properties", T_MESSAGES_BY_NAME, 0, &schema, NULL},
	{"propertyOrdering", T_STRING, LIST, NULL, NULL}, {"required", T_STRING, LIST, NULL, NULL},
	{"minProperties", T_INT, 0, NULL, NULL}, {"maxProperties", T_INT, 0, NULL, NULL},
	{"minimum", T_FLOAT, 0, NULL, NULL}, {"maximum", T_FLOAT, 0, NULL, NULL},
	{"minLength", T_INT, 0, NULL, NULL}, {"maxLength", T_INT, 0, NULL, NULL},
	{"pattern", T_STRING, 0, NULL, NULL}, {"example", T_ANY, 0, NULL, NULL},
	{"anyOf", T_MESSAGE, LIST, &schema, NULL},
	{"additionalProperties", T_ANY, VERTEX, NULL, NULL}, {"ref", T_STRING, VERTEX, NULL, NULL},
	{"defs", T_MESSAGES_BY_NAME, VERTEX, &schema, NULL}, END
};
static const MessageDef schema = {"Schema", schema_fields};

static const FieldDef thinking_fields[] = {
	{"includeThoughts", T_BOOL, 0, NULL, NULL}, {"thinkingBudget", T_INT, 0, NULL, NULL},
	{"thinkingLevel", T_ENUM, 0, NULL, " THINKING_LEVEL_UNSPECIFIED LOW MEDIUM HIGH MINIMAL "}, END
};
static const MessageDef thinking = {"GenerationConfig.ThinkingConfig", thinking_fields};

static const FieldDef config_fields[] = {
	{"temperature", T_FLOAT, SHOWN, NULL, NULL}, {"topP", T_FLOAT, SHOWN, NULL, NULL},
	{"topK", T_FLOAT, SHOWN, NULL, NULL}, {"candidateCount", T_INT, SHOWN, NULL, NULL},
	{"maxOutputTokens", T_INT, SHOWN, NULL, NULL}, {"stopSequences", T_STRING, LIST, NULL, NULL},
	{"responseLogprobs", T_BOOL, 0, NULL, NULL}, {"logprobs", T_INT, 0, NULL, NULL},
	{"presencePenalty", T_FLOAT, SHOWN, NULL, NULL},
	{"frequencyPenalty", T_FLOAT, SHOWN, NULL, NULL}, {"seed", T_INT, SHOWN, NULL, NULL},
	{"responseMimeType", T_STRING, SHOWN, NULL, NULL},
	{"responseSchema", T_MESSAGE, SHOWN, &schema, NULL},
	{"responseJsonSchema", T_ANY, 0, NULL, NULL}, {"routingConfig", T_ANY, VERTEX, NULL, NULL},
	{"audioTimestamp", T_BOOL, VERTEX, NULL, NULL},
	{"responseModalities", T_ENUM, LIST, NULL, " MODALITY_UNSPECIFIED TEXT IMAGE AUDIO "},
	{"mediaResolution", T_ENUM, 0, NULL, " MEDIA_RESOLUTION_UNSPECIFIED MEDIA_RESOLUTION_LOW "
	"MEDIA_RESOLUTION_MEDIUM MEDIA_RESOLUTION_HIGH "},
	{"speechConfig", T_ANY, 0, NULL, NULL},
	{"thinkingConfig", T_MESSAGE, SHOWN, &thinking, NULL}, {"imageConfig", T_ANY, 0, NULL, NULL},
	{"enableEnhancedCivicAnswers", T_BOOL, GEMINI_API, NULL, NULL}, END
};
static const MessageDef config = {"GenerationConfig", config_fields};

static const FieldDef safety_fields[] = {
	{"category", T_ENUM, 0, NULL, " HARM_CATEGORY_UNSPECIFIED HARM_CATEGORY_HATE_SPEECH "
		"HARM_CATEGORY_DANGEROUS_CONTENT HARM_CATEGORY_HARASSMENT "
	"HARM_CATEGORY_SEXUALLY_EXPLICIT HARM_CATEGORY_CIVIC_INTEGRITY HARM_CATEGORY_JAILBREAK "},
	{"threshold", T_ENUM, 0, NULL, " HARM_BLOCK_THRESHOLD_UNSPECIFIED BLOCK_LOW_AND_ABOVE "
	"BLOCK_MEDIUM_AND_ABOVE BLOCK_ONLY_HIGH BLOCK_NONE OFF "},
	{"method", T_ENUM, VERTEX, NULL, " HARM_BLOCK_METHOD_UNSPECIFIED SEVERITY PROBABILITY "}, END
};
static const MessageDef safety = {"SafetySetting", safety_fields};

static const FieldDef request_fields[] = {
	{"model", T_STRING, 0, NULL, NULL}, {"contents", T_MESSAGE, LIST, &content, NULL},
	{"systemInstruction", T_MESSAGE, SHOWN, &content, NULL},
	{"cachedContent", T_STRING, 0, NULL, NULL}, {"tools", T_ANY, LIST, NULL, NULL},
	{"toolConfig", T_ANY, 0, NULL, NULL}, {"labels", T_STRINGS_BY_NAME, VERTEX, NULL, NULL},
	{"safetySettings", T_MESSAGE, LIST, &safety, NULL},
	{"modelArmorConfig", T_ANY, VERTEX, NULL, NULL},
	{"generationConfig", T_MESSAGE, SHOWN, &config, NULL},
	{"serviceTier", T_STRING, GEMINI_API, NULL, NULL}, {"store", T_BOOL, GEMINI_API, NULL, NULL},
	END
};
static const MessageDef request = {"GenerateContentRequest", request_fields};

typedef struct Check
{
	bool		vertex;
	GError	   *e;
} Check;

static void
snake_case(const char *name, StrBuf *b)
{
	for (; *name; name++)
	{
		if (*name >= 'A' && *name <= 'Z')
		{
			buf_char(b, '_');
			buf_char(b, (char) (*name - 'A' + 'a'));
		}
		else
			buf_char(b, *name);
	}
}

/* Whether key names the field, in one of its two spellings. */
static bool
spells(const char *key, const char *name)
{
	StrBuf		b = {0};
	bool		same = strcmp(key, name) == 0;

	if (!same)
	{
		snake_case(name, &b);
		same = strcmp(key, b.data) == 0;
	}
	buf_free(&b);
	return same;
}

static const FieldDef *
field_find(const MessageDef *m, const char *key, bool vertex)
{
	for (const FieldDef *f = m->fields; f->name != NULL; f++)
	{
		if (!(f->flags & (vertex ? GEMINI_API : VERTEX)) && spells(key, f->name))
			return f;
	}
	return NULL;
}

/* Adds to the details of the error which field was wrong. */
static bool
violation(Check *c, const char *path)
{
	StrBuf		b = {0};
	GError	   *e = c->e;
	char		message[300];

	snprintf(message, sizeof(message), "%.296s", e->message);
	message[cut_at(message, strlen(message), 290)] = '\0';
	buf_str(&b, "{\"@type\":\"type.googleapis.com/google.rpc.BadRequest\",\"fieldViolations\":[{");
	if (*path)
		jw_str(&b, "field", path);
	jw_str(&b, "description", message);
	buf_str(&b, "}]}");
	if (b.len < sizeof(e->details))
		memcpy(e->details, b.data, b.len + 1);
	buf_free(&b);
	return false;
}

static bool
wrong_value(Check *c, const char *path, const char *type, const cJSON *v)
{
	char	   *text = cJSON_PrintUnformatted(v);

	gerror(c->e, 400, "Invalid value at '%.200s' (%s), %.200s", path, type, text);
	free(text);
	return violation(c, path);
}

static bool check_message(Check *c, const MessageDef *m, const cJSON *o, const char *path);

static bool
check_enum(Check *c, const FieldDef *f, const cJSON *v, const char *path)
{
	StrBuf		b = {0};
	char		type[200];
	bool		known;

	snprintf(type, sizeof(type), "type.googleapis.com/google.%s.%s",
			 c->vertex ? "cloud.aiplatform.v1" : "ai.generativelanguage.v1beta", f->name);
	if (cJSON_IsNumber(v))
		return true;
	if (!cJSON_IsString(v))
		return wrong_value(c, path, type, v);
	buf_printf(&b, " %s ", v->valuestring);
	known = strchr(v->valuestring, ' ') == NULL && strstr(f->values, b.data) != NULL;
	buf_free(&b);
	return known || wrong_value(c, path, type, v);
}

static bool
is_integer(const cJSON *v)
{
	char	   *end;

	if (cJSON_IsString(v))
		return *v->valuestring && (strtoll(v->valuestring, &end, 10), *end == '\0');
	return cJSON_IsNumber(v) && v->valuedouble == (double) (int64_t) v->valuedouble;
}

static bool
check_named(Check *c, const FieldDef *f, const cJSON *v, const char *path)
{
	const cJSON *one;

	if (!cJSON_IsObject(v))
		return wrong_value(c, path, "Map", v);
	cJSON_ArrayForEach(one, v)
	{
		char		inner[400];

		snprintf(inner, sizeof(inner), "%.200s[%.100s].value", path, one->string);
		if (f->type == T_MESSAGES_BY_NAME && !check_message(c, f->message, one, inner))
			return false;
		if (f->type == T_STRINGS_BY_NAME && !cJSON_IsString(one))
			return wrong_value(c, inner, "TYPE_STRING", one);
	}
	return true;
}

static bool
check_value(Check *c, const FieldDef *f, const cJSON *v, const char *path)
{
	switch (f->type)
	{
		case T_STRING:
			return cJSON_IsString(v) || wrong_value(c, path, "TYPE_STRING", v);
		case T_BOOL:
			return cJSON_IsBool(v) || wrong_value(c, path, "TYPE_BOOL", v);
		case T_INT:
			return is_integer(v) || wrong_value(c, path, "TYPE_INT32", v);
		case T_FLOAT:
			return cJSON_IsNumber(v) || wrong_value(c, path, "TYPE_FLOAT", v);
		case T_ENUM:
			return check_enum(c, f, v, path);
		case T_MESSAGE:
			return check_message(c, f->message, v, path);
		case T_STRINGS_BY_NAME:
		case T_MESSAGES_BY_NAME:
			return check_named(c, f, v, path);
		case T_ANY:
			break;
	}
	return true;
}

static bool
check_list(Check *c, const FieldDef *f, const cJSON *list, const char *path)
{
	const cJSON *v;
	int			i = 0;

	/* a single value stands for a list of one, as the service's parser has it */
	if (!cJSON_IsArray(list))
		return check_value(c, f, list, path);
	cJSON_ArrayForEach(v, list)
	{
		char		inner[400];

		snprintf(inner, sizeof(inner), "%.300s[%d]", path, i++);
		if (!check_value(c, f, v, inner))
			return false;
	}
	return true;
}

static bool
check_message(Check *c, const MessageDef *m, const cJSON *o, const char *path)
{
	const cJSON *v;

	if (!cJSON_IsObject(o))
	{
		char		type[200];

		snprintf(type, sizeof(type), "type.googleapis.com/google.%s.%s", c->vertex ?
				 "cloud.aiplatform.v1" : "ai.generativelanguage.v1beta", m->name);
		return wrong_value(c, path, type, o);
	}
	cJSON_ArrayForEach(v, o)
	{
		const FieldDef *f = field_find(m, v->string, c->vertex);
		StrBuf		inner = {0};
		bool		ok;

		if (f == NULL)
		{
			gerror(c->e, 400, "Invalid JSON payload received. Unknown name \"%.100s\"%s%.200s%s: "
				   "Cannot find field.", v->string, *path ? " at '" : "", path, *path ? "'" : "");
			return violation(c, path);
		}
		if (cJSON_IsNull(v))
			continue;
		buf_printf(&inner, "%s%s", path, *path ? "." : "");
		snake_case(f->name, &inner);
		if (cJSON_IsArray(v) && !(f->flags & LIST) && f->type != T_ANY)
		{
			gerror(c->e, 400, "Invalid JSON payload received. Unknown name \"%s\"%s%.200s%s: Proto "
				   "field is not repeating, cannot start list.", v->string, *path ? " at '" : "",
				   path, *path ? "'" : "");
			ok = violation(c, path);
		}
		else
			ok = f->flags & LIST ? check_list(c, f, v, inner.data) :
				check_value(c, f, v, inner.data);
		buf_free(&inner);
		if (!ok)
			return false;
	}
	return true;
}

/* Whether the body is a GenerateContentRequest in form; what it says is not looked at. */
bool
message_check(const cJSON *body, bool vertex, GError *e)
{
	Check		c = {vertex, e};

	return check_message(&c, &request, body, "");
}

static void echo_message(StrBuf *b, const MessageDef *m, const cJSON *o, bool drop_labels);

static void
echo_value(StrBuf *b, const FieldDef *f, const cJSON *v)
{
	const cJSON *one;

	if (f == NULL || f->type != T_MESSAGE)
		jw_json(b, NULL, v);
	else if (cJSON_IsArray(v))
	{
		buf_char(b, '[');
		cJSON_ArrayForEach(one, v)
		{
			jw_comma(b);
			echo_message(b, f->message, one, false);
		}
		buf_char(b, ']');
	}
	else
		echo_message(b, f->message, v, false);
}

/* Members backwards, then nulls for what is not there. */
static void
echo_message(StrBuf *b, const MessageDef *m, const cJSON *o, bool drop_labels)
{
	const cJSON *v = o->child;

	if (!cJSON_IsObject(o))
	{
		jw_json(b, NULL, o);
		return;
	}
	while (v != NULL && v->next != NULL)
		v = v->next;
	buf_char(b, '{');
	for (; v != NULL; v = v == o->child ? NULL : v->prev)
	{
		if (drop_labels && strcmp(v->string, "labels") == 0)
			continue;
		jw_key(b, v->string);
		echo_value(b, field_find(m, v->string, true), v);
	}
	for (const FieldDef *f = m->fields; f->name != NULL; f++)
	{
		if ((f->flags & SHOWN) && proto_get(o, f->name) == NULL)
			jw_raw(b, f->name, "null");
	}
	buf_char(b, '}');
}

/*
 * A request as a batch of Vertex AI repeats it: the same values, but members
 * in another order and null for some of those that are absent.
 */
void
echo_write(StrBuf *b, const cJSON *body, bool drop_labels)
{
	echo_message(b, &request, body, drop_labels);
}
