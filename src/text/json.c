/*-------------------------------------------------------------------------
 *
 * json.c
 *		Strict JSON reading over cJSON, and JSON writing into a StringInfo.
 *
 * cJSON alone is too kind: it accepts invalid UTF-8, bad numbers and trailing
 * garbage, cuts strings at \u0000 and keeps numbers as double.  So the whole
 * text is scanned first, without recursion, and only what is right goes to
 * cJSON; the scan notes the numbers, whose texts are hung into the finished tree
 * (valuestring of a number, which cJSON leaves unused and frees).  cJSON's memory
 * comes from malloc, and its hooks are global to the process and so not ours to
 * set: a document has a small memory context of its own whose reset callback
 * gives the tree back.
 *
 * Lines of results come by the million, and a malloc for each of their pieces
 * took a sixth of a merge's time.  Their nodes, cJSON's as well, come out of
 * blocks and point into one copy of the line, in which the scan decodes strings
 * where they stand.  Whoever reads a value need not know which of the two it is.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <math.h>

#ifndef FRONTEND
#include "utils/memutils.h"
#endif

#include "runtime/compat.h"
#include "text/json.h"
#include "text/json_scan.h"

struct JsonDoc
{
	cJSON	   *root;
	bool		is_line;
#ifndef FRONTEND
	MemoryContext context;		/* of a document */
	MemoryContextCallback callback;
#endif
	JsonBlock  *blocks;			/* of a line */
	char		copy[FLEXIBLE_ARRAY_MEMBER];
};

/* ---- documents ---- */

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

static void
free_blocks(JsonBlock *block)
{
	while (block != NULL)
	{
		JsonBlock  *before = block->before;

		pfree(block);
		block = before;
	}
}

void
json_free(JsonDoc *doc)
{
	if (doc == NULL)
		return;
	if (doc->is_line)
	{
		free_blocks(doc->blocks);
		pfree(doc);
		return;
	}
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

/* Gives the numbers of the tree their texts; false when out of memory. */
static bool
attach_numbers(cJSON *root, const JsonScan *scan)
{
	cJSON	   *path[JSON_MAX_DEPTH];
	int			depth = 0;
	int			next = 0;

	for (cJSON *value = root; value != NULL && next < scan->nnumbers;
		 value = next_in_text(value, path, &depth))
	{
		const JsonNumber *number = &scan->numbers[next];

		if (!cJSON_IsNumber(value))
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

/* A byte order mark may stand in front, but cJSON does not always take it. */
static void
skip_mark(const char **text, size_t *len)
{
	if (*len >= 3 && memcmp(*text, "\xEF\xBB\xBF", 3) == 0)
	{
		*text += 3;
		*len -= 3;
	}
}

JsonDoc *
json_parse(const char *text, size_t len, const char **why)
{
	JsonScan	scan = {.want_copy = true, .want_numbers = true};
	JsonDoc    *doc = create_doc();
	bool		good;
#ifndef FRONTEND
	MemoryContext old = MemoryContextSwitchTo(doc->context);
#endif

	skip_mark(&text, &len);
	scan.text = text;
	scan.end = text + len;
	good = build_tree(doc, &scan);

#ifndef FRONTEND
	MemoryContextSwitchTo(old);
#else
	if (scan.copy != NULL)
		pfree(scan.copy);
	if (scan.numbers != NULL)
		pfree(scan.numbers);
#endif
	if (good)
		return doc;
	json_free(doc);
	*why = scan.why;
	return NULL;
}

/* ---- lines ---- */

JsonDoc *
json_parse_line(const char *text, size_t len, const char **why)
{
	JsonScan	scan = {.build = true};
	JsonDoc    *doc;
	bool		good;

	skip_mark(&text, &len);
	if (len > MaxAllocSize / 2)
	{
		*why = "is larger than 512 MB";
		return NULL;
	}
	doc = palloc(offsetof(JsonDoc, copy) + 1 + len + 1);
	doc->is_line = true;
	memcpy(doc->copy + 1, text, len);
	scan.text = doc->copy + 1;
	scan.end = scan.text + len;

	good = json_scan_document(&scan);
	doc->root = scan.root;
	doc->blocks = scan.blocks;
	if (good)
		return doc;
	json_free(doc);
	*why = scan.why;
	return NULL;
}

/* ---- values ---- */

JsonValue *
json_root(const JsonDoc *doc)
{
	return doc->root;
}

static JsonValue *
unless_null(JsonValue *value)
{
	return cJSON_IsNull(value) ? NULL : value;
}

static JsonValue *
find_member(JsonValue *object, const char *name, size_t length)
{
	JsonValue  *found = NULL;

	if (!json_is_object(object))
		return NULL;
	for (JsonValue *member = object->child; member != NULL; member = member->next)
	{
		/* most differ in their first character */
		if (member->string[0] == name[0] &&
			strncmp(member->string, name, length) == 0 && member->string[length] == '\0')
			found = member;
	}
	return unless_null(found);
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

			value = json_is_array(value) ? value->child : NULL;
			while (value != NULL && index-- > 0)
				value = value->next;
			value = unless_null(value);
			if (*behind != ']')
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
	return unless_null(value) == NULL;
}

const char *
json_string(JsonValue *value)
{
	return json_is_string(value) ? value->valuestring : NULL;
}

const char *
json_member_string(JsonValue *object, const char *name)
{
	return json_string(json_member(object, name));
}

char *
json_member_copy(JsonValue *object, const char *name)
{
	const char *text = json_member_string(object, name);

	return text == NULL ? NULL : pstrdup(text);
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

	if (!cJSON_IsNumber(value) && !json_is_string(value))
		return false;
	if (parse_int64(value->valuestring, result))
		return true;
	if (!cJSON_IsNumber(value) || strpbrk(value->valuestring, ".eE") == NULL)
		return false;

	/* "1.0" and "2e3" are integers too, as far as a double is exact */
	number = strtod(value->valuestring, NULL);
	if (!(number >= -9007199254740992.0 && number <= 9007199254740992.0) || number != floor(number))
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

char *
json_to_text(JsonValue *value)
{
	StringInfoData out;

	if (json_is_string(value))
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
	bool		object = json_is_object(value);

	if (!object && !json_is_array(value))
	{
		if (json_is_string(value))
			json_append_cstring(out, value->valuestring);
		else if (cJSON_IsNumber(value))
			appendStringInfoString(out, value->valuestring);
		else if (json_is_null(value))
			appendStringInfoString(out, "null");
		else
			appendStringInfoString(out, cJSON_IsTrue(value) ? "true" : "false");
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
