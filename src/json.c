/*-------------------------------------------------------------------------
 *
 * json.c
 *		Strict JSON reading in one pass, and JSON writing into a StringInfo.
 *
 * A document is a copy of its text, in which strings are decoded where they
 * stand, and values that point into it: what nobody asks for has cost no more
 * than being looked at.  Numbers stay text, so that none loses a digit.
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

#include "json.h"
#include "json_scan.h"

struct JsonDoc
{
	JsonValue  *root;
	JsonBlock  *blocks;
	char		copy[FLEXIBLE_ARRAY_MEMBER];
};

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
	free_blocks(doc->blocks);
	pfree(doc);
}

JsonDoc *
json_parse(const char *text, size_t len, const char **why)
{
	JsonScan	scan = {.build = true};
	JsonDoc    *doc;
	bool		good;

	/* a byte order mark may stand in front */
	if (len >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
	{
		text += 3;
		len -= 3;
	}
	if (len > MaxAllocSize / 2)
	{
		*why = "is larger than 512 MB";
		return NULL;
	}
	doc = palloc(offsetof(JsonDoc, copy) + 1 + len + 1);
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

JsonValue *
json_root(const JsonDoc *doc)
{
	return doc->root;
}

static JsonValue *
unless_null(JsonValue *value)
{
	return value == NULL || value->kind == JSON_NULL ? NULL : value;
}

static JsonValue *
find_member(JsonValue *object, const char *name, size_t length)
{
	JsonValue  *found = NULL;

	if (!json_is_object(object))
		return NULL;
	for (JsonValue *member = object->child; member != NULL; member = member->next)
	{
		if (member->name_length == length && memcmp(member->name, name, length) == 0)
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
	return value != NULL ? value->name : NULL;
}

static bool
is_kind(JsonValue *value, JsonKind kind)
{
	return value != NULL && value->kind == kind;
}

bool
json_is_object(JsonValue *value)
{
	return is_kind(value, JSON_OBJECT);
}

bool
json_is_array(JsonValue *value)
{
	return is_kind(value, JSON_ARRAY);
}

bool
json_is_string(JsonValue *value)
{
	return is_kind(value, JSON_STRING);
}

bool
json_is_null(JsonValue *value)
{
	return unless_null(value) == NULL;
}

const char *
json_string(JsonValue *value)
{
	return json_is_string(value) ? value->text : NULL;
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

	if (!is_kind(value, JSON_NUMBER) && !json_is_string(value))
		return false;
	if (parse_int64(value->text, result))
		return true;
	if (value->kind != JSON_NUMBER || strpbrk(value->text, ".eE") == NULL)
		return false;

	/* "1.0" and "2e3" are integers too, as far as a double is exact */
	number = strtod(value->text, NULL);
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
	if (is_kind(value, JSON_TRUE) || is_kind(value, JSON_FALSE))
		return value->kind == JSON_TRUE;
	return otherwise;
}

char *
json_to_text(JsonValue *value)
{
	StringInfoData out;

	if (json_is_string(value))
		return pstrdup(value->text);
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
			json_append_cstring(out, value->text);
		else if (is_kind(value, JSON_NUMBER))
			appendStringInfoString(out, value->text);
		else if (json_is_null(value))
			appendStringInfoString(out, "null");
		else
			appendStringInfoString(out, value->kind == JSON_TRUE ? "true" : "false");
		return;
	}

	appendStringInfoChar(out, object ? '{' : '[');
	for (JsonValue *child = value->child; child != NULL; child = child->next)
	{
		if (child != value->child)
			appendStringInfoChar(out, ',');
		if (object)
		{
			json_append_string(out, child->name, child->name_length);
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
