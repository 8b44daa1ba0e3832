/*
 * json.c
 *		Strict JSON reading and JSON writing.
 *
 * cJSON takes invalid UTF-8, control characters and trailing garbage; a real
 * service refuses them.  So the syntax is checked here first and cJSON only
 * builds the tree.  Keys are always compared with their case.
 */
#include "sim.h"

#include <ctype.h>

#define MAX_DEPTH 500

typedef struct Scan
{
	const char *p;
	const char *end;
	int			depth;
	const char *why;
} Scan;

static bool scan_value(Scan *s);

static void
skip_space(Scan *s)
{
	while (s->p < s->end &&
		   (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
		s->p++;
}

static bool
scan_fail(Scan *s, const char *why)
{
	if (s->why == NULL)
		s->why = why;
	return false;
}

static int
scan_hex4(const char *p, const char *end)
{
	int			v = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		if (!isxdigit((unsigned char) p[i]))
			return -1;
		v = v * 16 + (isdigit((unsigned char) p[i]) ? p[i] - '0' :
					  tolower((unsigned char) p[i]) - 'a' + 10);
	}
	return v;
}

/* One \u escape, p behind the u; surrogates must come in pairs. */
static bool
scan_unicode(Scan *s)
{
	int			v = scan_hex4(s->p, s->end);

	if (v < 0)
		return scan_fail(s, "bad \\u escape");
	s->p += 4;
	if (v >= 0xDC00 && v <= 0xDFFF)
		return scan_fail(s, "lone surrogate");
	if (v >= 0xD800 && v <= 0xDBFF)
	{
		int			low;

		if (s->end - s->p < 6 || s->p[0] != '\\' || s->p[1] != 'u')
			return scan_fail(s, "lone surrogate");
		low = scan_hex4(s->p + 2, s->end);
		if (low < 0xDC00 || low > 0xDFFF)
			return scan_fail(s, "lone surrogate");
		s->p += 6;
	}
	return true;
}

static bool
scan_string(Scan *s)
{
	if (s->p >= s->end || *s->p != '"')
		return scan_fail(s, "string expected");
	s->p++;
	while (s->p < s->end)
	{
		unsigned char c = *s->p++;

		if (c == '"')
			return true;
		if (c < 0x20)
			return scan_fail(s, "control character in string");
		if (c != '\\')
			continue;
		if (s->p >= s->end)
			break;
		c = *s->p++;
		if (c == 'u')
		{
			if (!scan_unicode(s))
				return false;
		}
		else if (strchr("\"\\/bfnrt", c) == NULL)
			return scan_fail(s, "bad escape");
	}
	return scan_fail(s, "unterminated string");
}

static bool
scan_digits(Scan *s)
{
	const char *from = s->p;

	while (s->p < s->end && isdigit((unsigned char) *s->p))
		s->p++;
	return s->p > from;
}

static bool
scan_number(Scan *s)
{
	if (*s->p == '-')
		s->p++;
	if (s->p < s->end && *s->p == '0')
		s->p++;
	else if (!scan_digits(s))
		return scan_fail(s, "bad number");
	if (s->p < s->end && *s->p == '.')
	{
		s->p++;
		if (!scan_digits(s))
			return scan_fail(s, "bad number");
	}
	if (s->p < s->end && (*s->p == 'e' || *s->p == 'E'))
	{
		s->p++;
		if (s->p < s->end && (*s->p == '+' || *s->p == '-'))
			s->p++;
		if (!scan_digits(s))
			return scan_fail(s, "bad number");
	}
	return true;
}

/* Members of an object or elements of an array, p behind the bracket. */
static bool
scan_members(Scan *s, char close)
{
	if (++s->depth > MAX_DEPTH)
		return scan_fail(s, "nested too deeply");
	skip_space(s);
	if (s->p < s->end && *s->p == close)
	{
		s->p++;
		s->depth--;
		return true;
	}
	for (;;)
	{
		skip_space(s);
		if (close == '}')
		{
			if (!scan_string(s))
				return false;
			skip_space(s);
			if (s->p >= s->end || *s->p++ != ':')
				return scan_fail(s, "colon expected");
		}
		if (!scan_value(s))
			return false;
		skip_space(s);
		if (s->p >= s->end)
			return scan_fail(s, "unexpected end");
		if (*s->p == close)
			break;
		if (*s->p++ != ',')
			return scan_fail(s, "comma expected");
	}
	s->p++;
	s->depth--;
	return true;
}

static bool
scan_word(Scan *s, const char *word)
{
	size_t		len = strlen(word);

	if ((size_t) (s->end - s->p) < len || memcmp(s->p, word, len) != 0)
		return scan_fail(s, "unknown word");
	s->p += len;
	return true;
}

static bool
scan_value(Scan *s)
{
	skip_space(s);
	if (s->p >= s->end)
		return scan_fail(s, "unexpected end");
	switch (*s->p)
	{
		case '{':
			s->p++;
			return scan_members(s, '}');
		case '[':
			s->p++;
			return scan_members(s, ']');
		case '"':
			return scan_string(s);
		case 't':
			return scan_word(s, "true");
		case 'f':
			return scan_word(s, "false");
		case 'n':
			return scan_word(s, "null");
		default:
			return scan_number(s);
	}
}

/*
 * Parses exactly len bytes; NULL if they are not one JSON text, with the
 * reason in *why.  The caller deletes the tree.
 */
cJSON *
json_parse(const char *s, size_t len, const char **why)
{
	Scan		scan = {s, s + len, 0, NULL};
	cJSON	   *tree;

	*why = NULL;
	if (!utf8_valid(s, len))
	{
		*why = "invalid UTF-8";
		return NULL;
	}
	if (scan_value(&scan))
	{
		skip_space(&scan);
		if (scan.p < scan.end)
			scan_fail(&scan, "trailing characters");
	}
	if (scan.why != NULL)
	{
		*why = scan.why;
		return NULL;
	}
	tree = cJSON_ParseWithLength(s, len);
	if (tree == NULL)
		*why = "not JSON";
	return tree;
}

const cJSON *
json_get(const cJSON *o, const char *key)
{
	return cJSON_IsObject(o) ? cJSON_GetObjectItemCaseSensitive(o, key) : NULL;
}

const char *
json_str(const cJSON *o, const char *key)
{
	const cJSON *v = json_get(o, key);

	return cJSON_IsString(v) ? v->valuestring : NULL;
}

double
json_num(const cJSON *o, const char *key, double dflt)
{
	const cJSON *v = json_get(o, key);

	return cJSON_IsNumber(v) ? v->valuedouble : dflt;
}

bool
json_true(const cJSON *o, const char *key)
{
	return cJSON_IsTrue(json_get(o, key));
}

/* A JSON string with its quotes; bytes above 0x7F are copied. */
void
buf_json(StrBuf *b, const char *s, size_t len)
{
	size_t		from = 0;

	buf_char(b, '"');
	for (size_t i = 0; i < len; i++)
	{
		unsigned char c = s[i];

		if (c >= 0x20 && c != '"' && c != '\\')
			continue;
		buf_add(b, s + from, i - from);
		from = i + 1;
		if (c == '"' || c == '\\')
		{
			buf_char(b, '\\');
			buf_char(b, (char) c);
		}
		else if (c == '\n')
			buf_str(b, "\\n");
		else if (c == '\t')
			buf_str(b, "\\t");
		else if (c == '\r')
			buf_str(b, "\\r");
		else
			buf_printf(b, "\\u%04x", c);
	}
	buf_add(b, s + from, len - from);
	buf_char(b, '"');
}

void
jw_comma(StrBuf *b)
{
	if (b->len > 0 && strchr("{[:,", b->data[b->len - 1]) == NULL)
		buf_char(b, ',');
}

void
jw_key(StrBuf *b, const char *key)
{
	jw_comma(b);
	if (key != NULL)
	{
		buf_json(b, key, strlen(key));
		buf_char(b, ':');
	}
}

void
jw_str(StrBuf *b, const char *key, const char *val)
{
	jw_key(b, key);
	if (val == NULL)
		buf_str(b, "null");
	else
		buf_json(b, val, strlen(val));
}

void
jw_int(StrBuf *b, const char *key, int64_t val)
{
	jw_key(b, key);
	buf_printf(b, "%lld", (long long) val);
}

void
jw_bool(StrBuf *b, const char *key, bool val)
{
	jw_key(b, key);
	buf_str(b, val ? "true" : "false");
}

void
jw_raw(StrBuf *b, const char *key, const char *json)
{
	jw_key(b, key);
	buf_str(b, json);
}

void
jw_json(StrBuf *b, const char *key, const cJSON *val)
{
	char	   *s = val ? cJSON_PrintUnformatted(val) : NULL;

	jw_raw(b, key, s ? s : "null");
	free(s);
}

/* Seconds since 1970; 0 is null. */
void
jw_time(StrBuf *b, const char *key, int64_t seconds)
{
	if (seconds == 0)
		jw_raw(b, key, "null");
	else
		jw_int(b, key, seconds);
}
