/*-------------------------------------------------------------------------
 *
 * json.c
 *		Strict JSON reading over cJSON, and JSON writing into a StringInfo.
 *
 * cJSON alone is too kind: it accepts invalid UTF-8, bad numbers and trailing
 * garbage, cuts strings at \u0000 and keeps numbers as double.  So the whole
 * text is scanned first, without recursion, and only what is right goes to
 * cJSON; after that cJSON can only fail for want of memory.  The scan also
 * notes every number that a double or its printing could change, and its text
 * is hung into the finished tree (valuestring of a number, which cJSON leaves
 * unused and frees).  cJSON's memory comes from malloc, and its hooks are
 * global to the process and so not ours to set: a document has a small memory
 * context of its own whose reset callback gives the tree back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <cjson/cJSON.h>

#ifndef FRONTEND
#include "utils/memutils.h"
#endif

#include "json.h"
#include "json_scan.h"

struct JsonDoc
{
	cJSON	   *root;
#ifndef FRONTEND
	MemoryContext context;
	MemoryContextCallback callback;
#endif
};

#ifndef FRONTEND
static void
free_tree(void *arg)
{
	JsonDoc    *doc = arg;

	cJSON_Delete(doc->root);
	doc->root = NULL;
}
#endif

static JsonDoc *
create_doc(void)
{
	JsonDoc    *doc;

#ifndef FRONTEND
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch JSON",
												  ALLOCSET_SMALL_SIZES);

	doc = MemoryContextAllocZero(context, sizeof(JsonDoc));
	doc->context = context;
	doc->callback.func = free_tree;
	doc->callback.arg = doc;
	MemoryContextRegisterResetCallback(context, &doc->callback);
#else
	doc = palloc0(sizeof(JsonDoc));
#endif
	return doc;
}

void
json_free(JsonDoc *doc)
{
	if (doc == NULL)
		return;
#ifndef FRONTEND
	MemoryContextDelete(doc->context);
#else
	cJSON_Delete(doc->root);
	pfree(doc);
#endif
}

/* The value behind this one in the order of the text; path holds the open containers. */
static cJSON *
next_in_text(cJSON *value, cJSON **path, int *depth)
{
	if (value->child != NULL)
	{
		path[(*depth)++] = value;
		return value->child;
	}
	while (value->next == NULL && *depth > 0)
		value = path[--(*depth)];
	return value->next;
}

/* Gives the noted numbers of the tree their texts; false when out of memory. */
static bool
attach_numbers(cJSON *root, const JsonScan *scan)
{
	cJSON	   *path[JSON_MAX_DEPTH];
	int			depth = 0;
	int			next = 0;
	int64		ordinal = 0;

	for (cJSON *value = root; value != NULL && next < scan->nexact;
		 value = next_in_text(value, path, &depth))
	{
		const ExactNumber *number = &scan->exact[next];

		if (!cJSON_IsNumber(value) || ordinal++ != number->ordinal)
			continue;
		value->valuestring = cJSON_malloc(number->length + 1);
		if (value->valuestring == NULL)
			return false;
		memcpy(value->valuestring, scan->text + number->offset, number->length);
		value->valuestring[number->length] = '\0';
		next++;
	}
	return true;
}

/* Fills doc->root, or returns false with scan->why. */
static bool
build_tree(JsonDoc *doc, JsonScan *scan)
{
	if (!json_scan_document(scan))
		return false;
	if (scan->values > JSON_MAX_VALUES)
	{
		scan->why = "has too many values";
		return false;
	}

	doc->root = cJSON_ParseWithLengthOpts(scan->copy != NULL ? scan->copy : scan->text,
										  scan->end - scan->text, NULL, false);
	if (doc->root != NULL && attach_numbers(doc->root, scan))
		return true;
#ifndef FRONTEND
	ereport(ERROR,
			(errcode(ERRCODE_OUT_OF_MEMORY),
			 errmsg("out of memory")));
#endif
	scan->why = "does not fit into memory";
	return false;
}

JsonDoc *
json_parse(const char *text, size_t len, const char **why)
{
	JsonScan	scan = {.text = text, .end = text + len, .want_copy = true, .want_exact = true};
	JsonDoc    *doc = create_doc();
	bool		good;
#ifndef FRONTEND
	MemoryContext old = MemoryContextSwitchTo(doc->context);
#endif

	/* a byte order mark may stand in front, but cJSON does not always take it */
	if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
		scan.text += 3;
	good = build_tree(doc, &scan);

#ifndef FRONTEND
	MemoryContextSwitchTo(old);
#else
	if (scan.copy != NULL)
		pfree(scan.copy);
	if (scan.exact != NULL)
		pfree(scan.exact);
#endif
	if (good)
		return doc;
	json_free(doc);
	*why = scan.why;
	return NULL;
}

JsonValue *
json_root(const JsonDoc *doc)
{
	return doc->root;
}

/* Does the member's name equal the length bytes at name? */
static bool
has_name(JsonValue *member, const char *name, size_t length)
{
	return member->string != NULL &&
		strncmp(member->string, name, length) == 0 && member->string[length] == '\0';
}

static JsonValue *
find_member(JsonValue *object, const char *name, size_t length)
{
	JsonValue  *found = NULL;

	if (!cJSON_IsObject(object))
		return NULL;
	for (JsonValue *member = object->child; member != NULL; member = member->next)
	{
		if (has_name(member, name, length))
			found = member;
	}
	return cJSON_IsNull(found) ? NULL : found;
}

JsonValue *
json_member(JsonValue *object, const char *name)
{
	return find_member(object, name, strlen(name));
}

JsonValue *
json_path(JsonValue *value, const char *path)
{
	while (value != NULL && *path != '\0')
	{
		if (*path == '[')
		{
			char	   *behind;
			unsigned long index = strtoul(path + 1, &behind, 10);

			value = cJSON_IsArray(value) ? value->child : NULL;
			while (value != NULL && index-- > 0)
				value = value->next;
			if (cJSON_IsNull(value) || *behind != ']')
				return NULL;
			path = behind + 1;
		}
		else
		{
			size_t		length = strcspn(path, ".[");

			value = find_member(value, path, length);
			path += length;
		}
		if (*path == '.')
			path++;
	}
	return value;
}

JsonValue *
json_first(JsonValue *container)
{
	return container != NULL ? container->child : NULL;
}

JsonValue *
json_next(JsonValue *value)
{
	return value != NULL ? value->next : NULL;
}

const char *
json_name(JsonValue *value)
{
	return value != NULL ? value->string : NULL;
}

bool
json_is_object(JsonValue *value)
{
	return cJSON_IsObject(value);
}

bool
json_is_array(JsonValue *value)
{
	return cJSON_IsArray(value);
}

bool
json_is_string(JsonValue *value)
{
	return cJSON_IsString(value);
}

bool
json_is_null(JsonValue *value)
{
	return value == NULL || cJSON_IsNull(value);
}

const char *
json_string(JsonValue *value)
{
	return cJSON_IsString(value) ? value->valuestring : NULL;
}

const char *
json_member_string(JsonValue *object, const char *name)
{
	return json_string(json_member(object, name));
}

/* An optional minus sign and digits, and nothing else. */
static bool
parse_int64(const char *text, int64 *result)
{
	const char *digits = text + (*text == '-');
	char	   *end;

	if (*digits < '0' || *digits > '9')
		return false;
	errno = 0;
	*result = strtoll(text, &end, 10);
	return errno == 0 && *end == '\0';
}

bool
json_int64(JsonValue *value, int64 *result)
{
	double		number;

	if (!cJSON_IsNumber(value) && !cJSON_IsString(value))
		return false;
	if (value->valuestring != NULL && parse_int64(value->valuestring, result))
		return true;
	if (!cJSON_IsNumber(value))
		return false;

	/* "1.0" and "2e3" are integers too, as far as a double is exact */
	number = value->valuedouble;
	if (!(number >= -9007199254740992.0 && number <= 9007199254740992.0) ||
		number != (double) (int64) number ||
		(value->valuestring != NULL && strpbrk(value->valuestring, ".eE") == NULL))
		return false;
	*result = (int64) number;
	return true;
}

int64
json_member_int64(JsonValue *object, const char *name, int64 otherwise)
{
	int64		result;

	return json_int64(json_member(object, name), &result) ? result : otherwise;
}

bool
json_bool(JsonValue *value, bool otherwise)
{
	return cJSON_IsBool(value) ? cJSON_IsTrue(value) : otherwise;
}

static void
append_number(StringInfo out, JsonValue *value)
{
	if (value->valuestring != NULL)
		appendStringInfoString(out, value->valuestring);
	else
		appendStringInfo(out, INT64_FORMAT, (int64) value->valuedouble);
}

char *
json_to_text(JsonValue *value)
{
	StringInfoData out;

	if (cJSON_IsString(value))
		return pstrdup(value->valuestring);
	initStringInfo(&out);
	json_append_value(&out, value);
	return out.data;
}

void
json_append_string(StringInfo out, const char *text, size_t len)
{
	static const char digits[] = "0123456789abcdef";
	const char *end = text + len;

	enlargeStringInfo(out, (int) Min(len, MaxAllocSize) + 2);
	appendStringInfoCharMacro(out, '"');
	for (;;)
	{
		const char *stop = json_skip_clean(text, end);
		unsigned char c;

		if (stop > text)
			appendBinaryStringInfo(out, text, stop - text);
		if (stop == end)
			break;
		c = *stop;
		appendStringInfoCharMacro(out, '\\');
		switch (c)
		{
			case '"':
			case '\\':
				appendStringInfoCharMacro(out, c);
				break;
			case '\n':
				appendStringInfoCharMacro(out, 'n');
				break;
			case '\r':
				appendStringInfoCharMacro(out, 'r');
				break;
			case '\t':
				appendStringInfoCharMacro(out, 't');
				break;
			default:
				appendBinaryStringInfo(out, "u00", 3);
				appendStringInfoCharMacro(out, digits[c >> 4]);
				appendStringInfoCharMacro(out, digits[c & 0x0F]);
				break;
		}
		text = stop + 1;
	}
	appendStringInfoCharMacro(out, '"');
}

void
json_append_cstring(StringInfo out, const char *text)
{
	json_append_string(out, text, strlen(text));
}

/* Recurses at most JSON_MAX_DEPTH deep, because json_parse() refuses what is deeper. */
void
json_append_value(StringInfo out, JsonValue *value)
{
	bool		object = cJSON_IsObject(value);

	if (!object && !cJSON_IsArray(value))
	{
		if (cJSON_IsString(value))
			json_append_cstring(out, value->valuestring);
		else if (cJSON_IsNumber(value))
			append_number(out, value);
		else if (cJSON_IsBool(value))
			appendStringInfoString(out, cJSON_IsTrue(value) ? "true" : "false");
		else
			appendStringInfoString(out, "null");
		return;
	}

	appendStringInfoChar(out, object ? '{' : '[');
	for (JsonValue *child = value->child; child != NULL; child = child->next)
	{
		if (child != value->child)
			appendStringInfoChar(out, ',');
		if (object)
		{
			json_append_cstring(out, child->string);
			appendStringInfoChar(out, ':');
		}
		json_append_value(out, child);
	}
	appendStringInfoChar(out, object ? '}' : ']');
}

char *
json_excerpt(const char *text, size_t limit)
{
	size_t		left = text != NULL ? strnlen(text, limit + 4) : 0;
	const unsigned char *p = (const unsigned char *) text;
	char	   *result = palloc(Min(left, limit) + 1);
	char	   *q = result;

	while (left > 0)
	{
		int			length = json_utf8_length(p, left);
		int			taken = Max(length, 1);
		bool		control = *p < 0x20 || *p == 0x7F || (*p == 0xC2 && length == 2 && p[1] < 0xA0);

		/* what is written is never longer than what was read */
		if ((p + taken) - (const unsigned char *) text > limit)
			break;
		if (control || length == 0)
			*q++ = control ? ' ' : '?';
		else
		{
			memcpy(q, p, length);
			q += length;
		}
		p += taken;
		left -= taken;
	}
	*q = '\0';
	return result;
}
