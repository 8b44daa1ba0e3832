/*-------------------------------------------------------------------------
 *
 * schema.c
 *		JSON Schema in the words of Gemini's responseSchema.
 *
 * That is a subset of OpenAPI's: upper-case types, "nullable" where JSON Schema
 * has a union with null, enumerated strings, no references.  What the subset
 * cannot say is refused by name and place, because a schema that lost a
 * rule on the way would promise what nobody keeps.  Left out is only what rules
 * nothing: annotations, and keywords for values of another type.
 *
 * A $ref is written out where it stands, so one that contains itself has no end
 * and is refused, and so is a schema that becomes huge by it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/google/google.h"
#include "text/json.h"

#define MAX_DEPTH		64
#define MAX_SCHEMAS		5000

/* Which types a keyword says something about. */
#define ON_STRING		0x01
#define ON_NUMBER		0x02
#define ON_INTEGER		0x04
#define ON_BOOLEAN		0x08
#define ON_ARRAY		0x10
#define ON_OBJECT		0x20

typedef struct TypeName
{
	const char *json;
	const char *gemini;
	int			mask;
} TypeName;

static const TypeName type_names[] = {
	{"string", "STRING", ON_STRING},
	{"number", "NUMBER", ON_NUMBER},
	{"integer", "INTEGER", ON_INTEGER},
	{"boolean", "BOOLEAN", ON_BOOLEAN},
	{"array", "ARRAY", ON_ARRAY},
	{"object", "OBJECT", ON_OBJECT},
};

typedef enum KeywordUse
{
	KEYWORD_RULE,				/* looked at below */
	KEYWORD_SAME,				/* means the same there */
	KEYWORD_NOTE				/* rules nothing */
} KeywordUse;

static const struct
{
	const char *name;
	KeywordUse	use;
	int			types;
}			keywords[] = {
	{"$ref", KEYWORD_RULE, 0}, {"allOf", KEYWORD_RULE, 0}, {"anyOf", KEYWORD_RULE, 0},
	{"oneOf", KEYWORD_RULE, 0}, {"type", KEYWORD_RULE, 0}, {"enum", KEYWORD_RULE, 0},
	{"const", KEYWORD_RULE, 0}, {"properties", KEYWORD_RULE, 0}, {"required", KEYWORD_RULE, 0},
	{"additionalProperties", KEYWORD_RULE, 0}, {"items", KEYWORD_RULE, 0},
	{"exclusiveMinimum", KEYWORD_RULE, 0}, {"exclusiveMaximum", KEYWORD_RULE, 0},
	{"format", KEYWORD_RULE, 0},

	{"minLength", KEYWORD_SAME, ON_STRING}, {"maxLength", KEYWORD_SAME, ON_STRING},
	{"pattern", KEYWORD_SAME, ON_STRING},
	{"minimum", KEYWORD_SAME, ON_NUMBER | ON_INTEGER}, {"maximum", KEYWORD_SAME, ON_NUMBER | ON_INTEGER},
	{"minItems", KEYWORD_SAME, ON_ARRAY}, {"maxItems", KEYWORD_SAME, ON_ARRAY},
	{"minProperties", KEYWORD_SAME, ON_OBJECT}, {"maxProperties", KEYWORD_SAME, ON_OBJECT},

	{"title", KEYWORD_NOTE, 0}, {"description", KEYWORD_NOTE, 0}, {"nullable", KEYWORD_NOTE, 0},
	{"propertyOrdering", KEYWORD_NOTE, 0}, {"$schema", KEYWORD_NOTE, 0}, {"$id", KEYWORD_NOTE, 0},
	{"$anchor", KEYWORD_NOTE, 0}, {"$comment", KEYWORD_NOTE, 0}, {"$defs", KEYWORD_NOTE, 0},
	{"definitions", KEYWORD_NOTE, 0}, {"default", KEYWORD_NOTE, 0}, {"example", KEYWORD_NOTE, 0},
	{"examples", KEYWORD_NOTE, 0}, {"deprecated", KEYWORD_NOTE, 0}, {"readOnly", KEYWORD_NOTE, 0},
	{"writeOnly", KEYWORD_NOTE, 0}, {"contentEncoding", KEYWORD_NOTE, 0}, {"contentMediaType", KEYWORD_NOTE, 0},
};

typedef struct Translation
{
	JsonValue  *root;
	StringInfo	out;
	StringInfoData place;		/* where in the schema, for words about it */
	char	   *problem;		/* NULL as long as all is well */
	JsonValue  *refs[MAX_DEPTH];	/* definitions being written out */
	int			nrefs;
	int			depth;
	int			schemas;
} Translation;

/* A schema with what stood around it. */
typedef struct Spot
{
	JsonValue  *schema;
	JsonValue  *title;
	JsonValue  *description;
	bool		nullable;
} Spot;

static bool translate(Translation *t, JsonValue *schema);

/* Says why the schema cannot be said; always false. */
static bool
refuse(Translation *t, const char *what)
{
	if (t->problem == NULL)
		t->problem = psprintf("response_schema%s %s", t->place.data, what);
	return false;
}

/* Goes one step down, and back to where it came from. */
static int
place_enter(Translation *t, const char *keyword, const char *name)
{
	int			before = t->place.len;

	appendStringInfo(&t->place, ".%s", keyword);
	if (name != NULL)
		appendStringInfo(&t->place, ".%s", name);
	return before;
}

static void
place_leave(Translation *t, int before)
{
	t->place.len = before;
	t->place.data[before] = '\0';
}

static int
find_keyword(const char *name)
{
	for (int i = 0; i < lengthof(keywords); i++)
	{
		if (strcmp(keywords[i].name, name) == 0)
			return i;
	}
	return -1;
}

static bool
check_keywords(Translation *t, JsonValue *schema)
{
	if (!json_is_object(schema))
		return refuse(t, "must be an object");
	for (JsonValue *member = json_first(schema); member != NULL; member = json_next(member))
	{
		if (find_keyword(json_name(member)) < 0)
			return refuse(t, psprintf("has \"%s\", which Gemini's response schemas cannot say", json_name(member)));
	}
	return true;
}

/* May a schema be replaced by what its keyword leads to?  Not if it has rules beside it. */
static bool
check_alone(Translation *t, JsonValue *schema, const char *keyword)
{
	for (JsonValue *member = json_first(schema); member != NULL; member = json_next(member))
	{
		const char *name = json_name(member);

		if (strcmp(name, keyword) != 0 && keywords[find_keyword(name)].use != KEYWORD_NOTE)
			return refuse(t, psprintf("has \"%s\" beside \"%s\", which Gemini's response schemas cannot say",
									  name, keyword));
	}
	return true;
}

/* One token of a JSON pointer, from p to end, without its escapes; palloc'd. */
static char *
pointer_token(const char *p, const char *end)
{
	StringInfoData token;

	initStringInfo(&token);
	for (; p < end; p++)
	{
		if (*p == '~' && end - p > 1 && (p[1] == '0' || p[1] == '1'))
			appendStringInfoChar(&token, *++p == '0' ? '~' : '/');
		else
			appendStringInfoChar(&token, *p);
	}
	return token.data;
}

/* What a reference within the document points to, or NULL. */
static JsonValue *
find_ref(Translation *t, const char *ref)
{
	JsonValue  *value = t->root;

	if (ref[0] != '#' || (ref[1] != '\0' && ref[1] != '/'))
		return NULL;
	for (const char *p = ref + 1; *p == '/' && value != NULL;)
	{
		const char *end = p + 1 + strcspn(p + 1, "/");

		/* schemas are members of objects, or elements of anyOf and its kin */
		if (json_is_array(value))
		{
			char	   *index = pointer_token(p + 1, end);
			int			n = strspn(index, "0123456789") == strlen(index) && strlen(index) < 6 ? atoi(index) : -1;

			for (value = n < 0 ? NULL : json_first(value); value != NULL && n > 0; n--)
				value = json_next(value);
		}
		else
			value = json_member(value, pointer_token(p + 1, end));
		p = end;
	}
	return value;
}

static bool
follow_ref(Translation *t, Spot *spot)
{
	JsonValue  *ref = json_member(spot->schema, "$ref");
	JsonValue  *target = json_is_string(ref) ? find_ref(t, json_string(ref)) : NULL;

	if (!check_alone(t, spot->schema, "$ref"))
		return false;
	if (target == NULL)
		return refuse(t, "has a \"$ref\" that leads nowhere in the schema");
	for (int i = 0; i < t->nrefs; i++)
	{
		if (t->refs[i] == target)
			return refuse(t, "contains itself, which Gemini's response schemas cannot say");
	}
	if (t->nrefs == MAX_DEPTH)
		return refuse(t, "nests too deep");
	t->refs[t->nrefs++] = target;
	spot->schema = target;
	return true;
}

static bool
is_null_type(JsonValue *schema)
{
	const char *type = json_member_string(schema, "type");

	return type != NULL && pg_strcasecmp(type, "null") == 0;
}

/*
 * A union with null is what stands beside it, and nullable; *done is set when
 * several alternatives are left.
 */
static bool
follow_union(Translation *t, Spot *spot, const char *keyword, bool *done)
{
	JsonValue  *branches = json_member(spot->schema, keyword);
	JsonValue  *only = NULL;
	int			count = 0;

	if (!check_alone(t, spot->schema, keyword))
		return false;
	for (JsonValue *branch = json_is_array(branches) ? json_first(branches) : NULL; branch != NULL; branch = json_next(branch))
	{
		if (is_null_type(branch))
			spot->nullable = true;
		else if (count++ == 0)
			only = branch;
	}
	if (count == 0)
		return refuse(t, psprintf("has no alternative but null in \"%s\"", keyword));
	if (count == 1)
	{
		spot->schema = only;
		return true;
	}
	*done = true;
	if (strcmp(keyword, "anyOf") != 0)
		return refuse(t, psprintf("has several schemas in \"%s\", which Gemini's response schemas cannot say",
								  keyword));
	return true;
}

/* Follows references and what is mere wrapping, to a schema with rules of its own. */
static bool
unwrap(Translation *t, Spot *spot)
{
	bool		done = false;

	while (!done)
	{
		if (t->schemas++ > MAX_SCHEMAS)
			return refuse(t, "is too large when its references are written out");
		if (!check_keywords(t, spot->schema))
			return false;
		if (spot->title == NULL)
			spot->title = json_member(spot->schema, "title");
		if (spot->description == NULL)
			spot->description = json_member(spot->schema, "description");
		if (json_bool(json_member(spot->schema, "nullable"), false))
			spot->nullable = true;

		if (json_member(spot->schema, "$ref") != NULL)
		{
			if (!follow_ref(t, spot))
				return false;
		}
		else if (json_member(spot->schema, "anyOf") != NULL)
		{
			if (!follow_union(t, spot, "anyOf", &done))
				return false;
		}
		else if (json_member(spot->schema, "oneOf") != NULL)
		{
			if (!follow_union(t, spot, "oneOf", &done))
				return false;
		}
		else if (json_member(spot->schema, "allOf") != NULL)
		{
			if (!follow_union(t, spot, "allOf", &done))
				return false;
		}
		else
			done = true;
	}
	return true;
}

static const TypeName *
find_type(const char *name)
{
	for (int i = 0; i < lengthof(type_names); i++)
	{
		if (pg_strcasecmp(type_names[i].json, name) == 0)
			return &type_names[i];
	}
	return NULL;
}

/* Adds the type that a value names; null is none but makes the spot nullable. */
static bool
add_type(Translation *t, JsonValue *value, const TypeName **types, int *ntypes, bool *with_null)
{
	const char *name = json_string(value);

	if (name != NULL && pg_strcasecmp(name, "null") == 0)
	{
		*with_null = true;
		return true;
	}
	if (name == NULL || find_type(name) == NULL || *ntypes == lengthof(type_names))
		return refuse(t, "has a \"type\" that is none");
	types[(*ntypes)++] = find_type(name);
	return true;
}

/* The types of a spot; where none is named, what its keywords are for. */
static bool
read_types(Translation *t, Spot *spot, const TypeName **types, int *ntypes)
{
	JsonValue  *type = json_member(spot->schema, "type");
	bool		with_null = false;

	*ntypes = 0;
	if (json_is_array(type))
	{
		for (JsonValue *one = json_first(type); one != NULL; one = json_next(one))
		{
			if (!add_type(t, one, types, ntypes, &with_null))
				return false;
		}
	}
	else if (type != NULL)
	{
		if (!add_type(t, type, types, ntypes, &with_null))
			return false;
	}
	else if (json_member(spot->schema, "properties") != NULL)
		types[(*ntypes)++] = find_type("object");
	else if (json_member(spot->schema, "items") != NULL)
		types[(*ntypes)++] = find_type("array");
	else if (json_member(spot->schema, "enum") != NULL || json_member(spot->schema, "const") != NULL)
	{
		types[(*ntypes)++] = find_type("string");
		with_null = true;		/* as far as null is enumerated */
	}
	if (*ntypes == 0)
		return refuse(t, with_null ? "allows nothing but null" : "has no \"type\"");

	/* what is enumerated decides about null as well */
	if (json_member(spot->schema, "const") != NULL)
		with_null = false;
	if (with_null && json_member(spot->schema, "enum") != NULL)
	{
		with_null = false;
		for (JsonValue *one = json_first(json_member(spot->schema, "enum")); one != NULL; one = json_next(one))
			with_null = with_null || json_is_null(one);
	}
	spot->nullable = spot->nullable || with_null;
	return true;
}

/* "enum" and "const": strings alone can be enumerated. */
static bool
write_enum(Translation *t, JsonValue *schema, const TypeName *type)
{
	JsonValue  *constant = json_member(schema, "const");
	JsonValue  *values = json_member(schema, "enum");
	const char *comma = "";

	if (constant == NULL && values == NULL)
		return true;
	if (constant != NULL && values != NULL)
		return refuse(t, "has \"const\" beside \"enum\"");
	if (type->mask != ON_STRING || (constant != NULL && !json_is_string(constant)))
		return refuse(t, "enumerates other values than strings, which Gemini's response schemas cannot say");

	appendStringInfoString(t->out, ",\"enum\":[");
	if (constant != NULL)
		json_append_value(t->out, constant);
	for (JsonValue *value = json_first(values); value != NULL; value = json_next(value))
	{
		if (json_is_null(value))
			continue;
		if (!json_is_string(value))
			return refuse(t, "enumerates other values than strings, which Gemini's response schemas cannot say");
		appendStringInfoString(t->out, comma);
		json_append_value(t->out, value);
		comma = ",";
	}
	appendStringInfoChar(t->out, ']');
	if (constant == NULL && comma[0] == '\0')
		return refuse(t, "enumerates no string");
	return true;
}

/* A bound that is not part of the range: of whole numbers, the next one is. */
static bool
write_exclusive(Translation *t, JsonValue *schema, const TypeName *type, const char *exclusive, const char *inclusive, int step)
{
	JsonValue  *bound = json_member(schema, exclusive);
	int64		value;

	if (bound == NULL || (type->mask & (ON_NUMBER | ON_INTEGER)) == 0)
		return true;
	if (type->mask != ON_INTEGER || json_is_string(bound) || !json_int64(bound, &value) ||
		value == PG_INT64_MAX || value == PG_INT64_MIN || json_member(schema, inclusive) != NULL)
		return refuse(t, psprintf("has \"%s\", which Gemini's response schemas cannot say here", exclusive));
	appendStringInfo(t->out, ",\"%s\":" INT64_FORMAT, inclusive, value + step);
	return true;
}

/* Formats rule nothing in JSON Schema; those that Gemini takes are passed on. */
static void
write_format(Translation *t, JsonValue *schema, const TypeName *type)
{
	static const struct
	{
		const char *format;
		int			types;
	}			known[] = {
		{"date-time", ON_STRING}, {"float", ON_NUMBER}, {"double", ON_NUMBER},
		{"int32", ON_INTEGER}, {"int64", ON_INTEGER}
	};
	const char *format = json_member_string(schema, "format");

	for (int i = 0; format != NULL && i < lengthof(known); i++)
	{
		if (strcmp(format, known[i].format) == 0 && (known[i].types & type->mask) != 0)
			appendStringInfo(t->out, ",\"format\":\"%s\"", format);
	}
}

static bool
write_required(Translation *t, JsonValue *schema, JsonValue *properties)
{
	JsonValue  *required = json_member(schema, "required");

	if (json_first(required) == NULL)
		return true;
	for (JsonValue *name = json_first(required); name != NULL; name = json_next(name))
	{
		if (!json_is_string(name) || json_member(properties, json_string(name)) == NULL)
			return refuse(t, "requires a property that it does not describe");
	}
	appendStringInfoString(t->out, ",\"required\":");
	json_append_value(t->out, required);
	return true;
}

static bool
write_object(Translation *t, JsonValue *schema)
{
	JsonValue  *properties = json_member(schema, "properties");
	JsonValue  *more = json_member(schema, "additionalProperties");
	JsonValue  *ordering = json_member(schema, "propertyOrdering");
	const char *comma = "";

	if (json_first(properties) == NULL || !json_is_object(properties))
		return refuse(t, "is an object without \"properties\", which Gemini's response schemas cannot say");
	if (json_first(more) != NULL)
		return refuse(t, "has a schema in \"additionalProperties\", which Gemini's response schemas cannot say");

	appendStringInfoString(t->out, ",\"properties\":{");
	for (JsonValue *property = json_first(properties); property != NULL; property = json_next(property))
	{
		int			before = place_enter(t, "properties", json_name(property));

		appendStringInfoString(t->out, comma);
		json_append_cstring(t->out, json_name(property));
		appendStringInfoChar(t->out, ':');
		if (!translate(t, property))
			return false;
		place_leave(t, before);
		comma = ",";
	}
	appendStringInfoString(t->out, "},\"propertyOrdering\":");
	if (json_is_array(ordering))
		json_append_value(t->out, ordering);
	else
	{
		comma = "[";
		for (JsonValue *property = json_first(properties); property != NULL; property = json_next(property))
		{
			appendStringInfoString(t->out, comma);
			json_append_cstring(t->out, json_name(property));
			comma = ",";
		}
		appendStringInfoChar(t->out, ']');
	}
	return write_required(t, schema, properties);
}

static bool
write_array(Translation *t, JsonValue *schema)
{
	JsonValue  *items = json_member(schema, "items");
	int			before = place_enter(t, "items", NULL);

	if (items == NULL)
	{
		place_leave(t, before);
		return refuse(t, "is an array without \"items\", which Gemini's response schemas cannot say");
	}
	appendStringInfoString(t->out, ",\"items\":");
	if (!translate(t, items))
		return false;
	place_leave(t, before);
	return true;
}

/* A schema of one type, behind the name of that type. */
static bool
write_rules(Translation *t, JsonValue *schema, const TypeName *type)
{
	for (JsonValue *member = json_first(schema); member != NULL; member = json_next(member))
	{
		int			keyword = find_keyword(json_name(member));

		if (keywords[keyword].use == KEYWORD_SAME && (keywords[keyword].types & type->mask) != 0)
		{
			appendStringInfo(t->out, ",\"%s\":", json_name(member));
			json_append_value(t->out, member);
		}
	}
	write_format(t, schema, type);
	if (!write_enum(t, schema, type) ||
		!write_exclusive(t, schema, type, "exclusiveMinimum", "minimum", 1) ||
		!write_exclusive(t, schema, type, "exclusiveMaximum", "maximum", -1))
		return false;
	if (type->mask == ON_OBJECT)
		return write_object(t, schema);
	return type->mask != ON_ARRAY || write_array(t, schema);
}

/* Several types are alternatives, as long as there are no rules to be shared out among them. */
static bool
write_types(Translation *t, JsonValue *schema, const TypeName **types, int ntypes)
{
	const char *comma = "";

	if (!check_alone(t, schema, "type"))
		return false;
	appendStringInfoString(t->out, "\"anyOf\":[");
	for (int i = 0; i < ntypes; i++)
	{
		if ((types[i]->mask & (ON_ARRAY | ON_OBJECT)) != 0)
			return refuse(t, psprintf("has several types with %s among them, which Gemini's response schemas cannot say",
									  types[i]->json));
		appendStringInfo(t->out, "%s{\"type\":\"%s\"}", comma, types[i]->gemini);
		comma = ",";
	}
	appendStringInfoChar(t->out, ']');
	return true;
}

static bool
write_alternatives(Translation *t, JsonValue *schema)
{
	const char *comma = "";
	int			number = 0;

	appendStringInfoString(t->out, "\"anyOf\":[");
	for (JsonValue *branch = json_first(json_member(schema, "anyOf")); branch != NULL; branch = json_next(branch))
	{
		int			before = place_enter(t, "anyOf", psprintf("%d", number++));

		if (!is_null_type(branch))
		{
			appendStringInfoString(t->out, comma);
			if (!translate(t, branch))
				return false;
			comma = ",";
		}
		place_leave(t, before);
	}
	appendStringInfoChar(t->out, ']');
	return true;
}

static bool
write_spot(Translation *t, Spot *spot)
{
	const TypeName *types[lengthof(type_names)];
	int			ntypes;

	appendStringInfoChar(t->out, '{');
	if (json_member(spot->schema, "anyOf") != NULL)
	{
		if (!write_alternatives(t, spot->schema))
			return false;
	}
	else if (!read_types(t, spot, types, &ntypes))
		return false;
	else if (ntypes > 1)
	{
		if (!write_types(t, spot->schema, types, ntypes))
			return false;
	}
	else
	{
		appendStringInfo(t->out, "\"type\":\"%s\"", types[0]->gemini);
		if (!write_rules(t, spot->schema, types[0]))
			return false;
	}

	if (spot->nullable)
		appendStringInfoString(t->out, ",\"nullable\":true");
	if (json_is_string(spot->title))
	{
		appendStringInfoString(t->out, ",\"title\":");
		json_append_value(t->out, spot->title);
	}
	if (json_is_string(spot->description))
	{
		appendStringInfoString(t->out, ",\"description\":");
		json_append_value(t->out, spot->description);
	}
	appendStringInfoChar(t->out, '}');
	return true;
}

/* Appends one schema with all that is in it; false when t->problem says why not. */
static bool
translate(Translation *t, JsonValue *schema)
{
	Spot		spot = {.schema = schema};
	int			nrefs = t->nrefs;
	bool		good;

	if (t->depth == MAX_DEPTH)
		return refuse(t, "nests too deep");
	t->depth++;
	good = unwrap(t, &spot) && write_spot(t, &spot);
	t->depth--;
	t->nrefs = nrefs;
	return good;
}

char *
gemini_write_schema(StringInfo out, const char *schema)
{
	const char *why;
	JsonDoc    *doc = json_parse(schema, strlen(schema), &why);
	Translation t = {.out = out};

	if (doc == NULL)
		return psprintf("response_schema is not JSON: %s", why);
	initStringInfo(&t.place);
	t.root = json_root(doc);
	translate(&t, t.root);
	json_free(doc);
	return t.problem;
}
