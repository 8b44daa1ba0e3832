/*
 * schema.c
 *		JSON Schema: what strict mode accepts, and instances made from a text.
 *
 * Strict mode knows a subset of JSON Schema; the rules that are met most often
 * are checked, in the service's words.  An instance is always valid: enums
 * before types, null where nothing else is known and null is allowed.
 */
#include "schema.h"

#include <ctype.h>

#define MAX_NESTING 10

typedef struct Maker
{
	const cJSON *root;
	const char *text;
	SchemaText	fn;
	void	   *arg;
	int			depth;
} Maker;

static const cJSON *
resolve_ref(const cJSON *root, const cJSON *schema)
{
	for (int hops = 0; hops < 10; hops++)
	{
		const char *ref = json_str(schema, "$ref");
		const cJSON *at = root;

		if (ref == NULL || *ref != '#')
			return schema;
		for (ref++; *ref == '/' && at != NULL;)
		{
			size_t		len = strcspn(++ref, "/");
			char	   *key = xstrndup(ref, len);

			at = json_get(at, key);
			free(key);
			ref += len;
		}
		if (at == NULL)
			return schema;
		schema = at;
	}
	return schema;
}

static bool
has_type(const cJSON *schema, const char *type)
{
	const cJSON *t = json_get(schema, "type");
	const cJSON *one;

	if (cJSON_IsString(t))
		return strcmp(t->valuestring, type) == 0;
	cJSON_ArrayForEach(one, t)
	{
		if (cJSON_IsString(one) && strcmp(one->valuestring, type) == 0)
			return true;
	}
	return false;
}

static bool
complain(char *why, size_t size, const char *context, const char *text)
{
	snprintf(why, size, "In context=(%s), %s", context, text);
	return false;
}

static bool
in_list(const cJSON *list, const char *s)
{
	const cJSON *one;

	cJSON_ArrayForEach(one, list)
	{
		if (cJSON_IsString(one) && strcmp(one->valuestring, s) == 0)
			return true;
	}
	return false;
}

static bool strict_node(const cJSON *schema, const char *context, int depth, char *why,
						size_t size);

static bool
strict_object(const cJSON *schema, const char *context, int depth, char *why, size_t size)
{
	const cJSON *props = json_get(schema, "properties");
	const cJSON *required = json_get(schema, "required");
	const cJSON *p;
	char		text[200];

	if (!cJSON_IsFalse(json_get(schema, "additionalProperties")))
		return complain(why, size, context, "'additionalProperties' is required to be supplied "
						"and to be false.");
	cJSON_ArrayForEach(p, props)
	{
		char		inner[200];

		if (!in_list(required, p->string))
		{
			snprintf(text, sizeof(text), "'required' is required to be supplied and to be an "
					 "array including every key in properties. Missing '%.80s'.", p->string);
			return complain(why, size, context, text);
		}
		snprintf(inner, sizeof(inner), "%.90s%s'properties', '%.80s'", context,
				 *context ? ", " : "", p->string);
		if (!strict_node(p, inner, depth + 1, why, size))
			return false;
	}
	cJSON_ArrayForEach(p, required)
	{
		if (!cJSON_IsString(p) || json_get(props, p->valuestring) == NULL)
			return complain(why, size, context, "'required' is required to be supplied and to "
							"be an array including every key in properties. Extra required key "
							"supplied.");
	}
	return true;
}

static bool
strict_node(const cJSON *schema, const char *context, int depth, char *why, size_t size)
{
	static const char *const refused[] = {"allOf", "not", "dependentRequired",
	"dependentSchemas", "if", "then", "else", "patternProperties", "oneOf", NULL};
	const cJSON *one;
	char		text[120];

	if (!cJSON_IsObject(schema))
		return complain(why, size, context, "schema must be an object.");
	if (depth > MAX_NESTING)
		return complain(why, size, context, "schema exceeds the limit of 10 levels of nesting.");
	for (int i = 0; refused[i] != NULL; i++)
	{
		if (json_get(schema, refused[i]) != NULL)
		{
			snprintf(text, sizeof(text), "'%s' is not permitted.", refused[i]);
			return complain(why, size, context, text);
		}
	}
	if (json_get(schema, "type") == NULL && json_get(schema, "anyOf") == NULL &&
		json_get(schema, "$ref") == NULL && json_get(schema, "enum") == NULL &&
		json_get(schema, "const") == NULL)
		return complain(why, size, context, "schema must have a 'type' key.");
	if (has_type(schema, "object") && !strict_object(schema, context, depth, why, size))
		return false;
	if (has_type(schema, "array"))
	{
		if (json_get(schema, "items") == NULL)
			return complain(why, size, context, "array schema missing items.");
		if (!strict_node(json_get(schema, "items"), context, depth + 1, why, size))
			return false;
	}
	cJSON_ArrayForEach(one, json_get(schema, "anyOf"))
	{
		if (!strict_node(one, context, depth + 1, why, size))
			return false;
	}
	cJSON_ArrayForEach(one, json_get(schema, "$defs"))
	{
		if (!strict_node(one, context, depth + 1, why, size))
			return false;
	}
	return true;
}

/* Whether strict mode takes the schema; the reason in the service's words. */
bool
schema_strict(const cJSON *schema, char *why, size_t size)
{
	if (!has_type(schema, "object"))
	{
		const char *type = json_str(schema, "type");

		snprintf(why, size, "schema must be a JSON Schema of 'type: \"object\"', got 'type: "
				 "\"%s\"'.", type ? type : "None");
		return false;
	}
	return strict_node(schema, "", 0, why, size);
}

static cJSON *make_node(Maker *m, const cJSON *schema, const char *property);

/* The first value that the text mentions, else null if allowed, else the first. */
static cJSON *
make_enum(const Maker *m, const cJSON *values)
{
	const cJSON *v;
	const cJSON *null = NULL;

	cJSON_ArrayForEach(v, values)
	{
		char	   *low;
		bool		hit;

		if (cJSON_IsNull(v))
			null = v;
		if (!cJSON_IsString(v) || *v->valuestring == '\0')
			continue;
		low = fold_text(v->valuestring);
		hit = find_nocase(m->text, low) != NULL;
		free(low);
		if (hit)
			return cJSON_Duplicate(v, 1);
	}
	if (null != NULL)
		return cJSON_CreateNull();
	return values->child ? cJSON_Duplicate(values->child, 1) : cJSON_CreateNull();
}

static cJSON *
make_string(const Maker *m, const cJSON *schema, const char *property, bool nullable)
{
	const char *format = json_str(schema, "format");
	char	   *s;
	cJSON	   *v;
	size_t		max = (size_t) json_num(schema, "maxLength", 4000);

	if (format != NULL && strcmp(format, "date") == 0)
		return cJSON_CreateString("2026-11-22");
	if (format != NULL && strcmp(format, "date-time") == 0)
		return cJSON_CreateString("2026-11-22T12:00:00Z");
	if (format != NULL && strcmp(format, "uuid") == 0)
		return cJSON_CreateString("00000000-0000-4000-8000-000000000000");
	if (format != NULL && strcmp(format, "email") == 0)
		return cJSON_CreateString("someone@example.org");
	s = m->fn ? m->fn(m->arg, property, nullable) : NULL;
	if (s == NULL && nullable)
		return cJSON_CreateNull();
	if (s == NULL)
		s = first_words(m->text, 6, 80);
	s[cut_at(s, strlen(s), max)] = '\0';
	v = cJSON_CreateString(s);
	free(s);
	return v;
}

/* The first number of the text, brought into the schema's range. */
static cJSON *
make_number(const Maker *m, const cJSON *schema, bool integer)
{
	double		low = json_num(schema, "minimum", json_num(schema, "exclusiveMinimum", -1e15));
	double		high = json_num(schema, "maximum", json_num(schema, "exclusiveMaximum", 1e15));
	double		v = 0;

	for (const char *p = m->text; *p; p++)
	{
		if (isdigit((unsigned char) *p))
		{
			v = strtod(p, NULL);
			if (!(v < 1e15))
				v = 1e15;
			break;
		}
	}
	if (integer)
		v = (double) (int64_t) v;
	if (v <= low && low > -1e15)
		v = json_get(schema, "exclusiveMinimum") ? low + 1 : low;
	if (v >= high && high < 1e15)
		v = json_get(schema, "exclusiveMaximum") ? high - 1 : high;
	return cJSON_CreateNumber(v);
}

static cJSON *
make_object(Maker *m, const cJSON *schema)
{
	cJSON	   *o = cJSON_CreateObject();
	const cJSON *p;

	cJSON_ArrayForEach(p, json_get(schema, "properties"))
		cJSON_AddItemToObject(o, p->string, make_node(m, p, p->string));
	return o;
}

static cJSON *
make_array(Maker *m, const cJSON *schema, const char *property)
{
	cJSON	   *a = cJSON_CreateArray();
	int			n = (int) json_num(schema, "minItems", 1);

	for (int i = 0; i < n && json_get(schema, "items") != NULL; i++)
		cJSON_AddItemToArray(a, make_node(m, json_get(schema, "items"), property));
	return a;
}

static cJSON *
make_node(Maker *m, const cJSON *schema, const char *property)
{
	const cJSON *any;
	bool		nullable;
	cJSON	   *v;

	if (m->depth > 40)
		return cJSON_CreateNull();
	schema = resolve_ref(m->root, schema);
	any = json_get(schema, "anyOf");
	if (any == NULL)
		any = json_get(schema, "oneOf");
	if (json_get(schema, "const") != NULL)
		return cJSON_Duplicate(json_get(schema, "const"), 1);
	if (json_get(schema, "enum") != NULL)
		return make_enum(m, json_get(schema, "enum"));
	m->depth++;
	if (cJSON_IsArray(any) && any->child != NULL)
	{
		const cJSON *one;
		bool		null = false;
		const cJSON *pick = any->child;

		cJSON_ArrayForEach(one, any)
			null = null || has_type(one, "null");
		if (has_type(pick, "null") && pick->next != NULL)
			pick = pick->next;
		/* a nullable string is null when nothing is known about it */
		v = null && has_type(pick, "string") && json_get(pick, "enum") == NULL ?
			make_string(m, pick, property, true) : make_node(m, pick, property);
		m->depth--;
		return v;
	}
	nullable = has_type(schema, "null");
	if (has_type(schema, "object"))
		v = make_object(m, schema);
	else if (has_type(schema, "array"))
		v = make_array(m, schema, property);
	else if (has_type(schema, "string"))
		v = make_string(m, schema, property, nullable);
	else if (has_type(schema, "integer") || has_type(schema, "number"))
		v = make_number(m, schema, has_type(schema, "integer"));
	else if (has_type(schema, "boolean"))
		v = cJSON_CreateBool(strlen(m->text) % 2 == 0);
	else if (json_get(schema, "properties") != NULL)
		v = make_object(m, schema);
	else
		v = cJSON_CreateNull();
	m->depth--;
	return v;
}

/* A valid instance of the schema; fn may be NULL, and return NULL for unknown. */
cJSON *
schema_instance(const cJSON *schema, const char *text, SchemaText fn, void *arg)
{
	Maker		m = {schema, text, fn, arg, 0};

	return make_node(&m, schema, "");
}
