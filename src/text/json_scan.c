/*-------------------------------------------------------------------------
 *
 * json_scan.c
 *		Is a text exactly one JSON value?  Checked, and read, in one pass.
 *
 * Follows RFC 8259 to the letter.  Does not recurse, so that the depth of
 * hostile text costs nothing.  Where the values of a line are wanted, strings are decoded in
 * place, which never makes them longer; the NUL that ends a number takes the
 * place of its last digit, after all of it has moved one byte to the front.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#ifndef FRONTEND
#include "utils/memutils.h"
#endif

#include "runtime/compat.h"
#include "text/json.h"
#include "text/json_scan.h"

#define CJSON_DIGITS		60	/* cJSON reads at most 63 characters of a number */
#define FIRST_BLOCK_NODES	32
#define LARGEST_BLOCK_NODES	16384

bool
json_is_utf8(const char *text, size_t len)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 highs = UINT64CONST(0x8080808080808080);
	const unsigned char *p = (const unsigned char *) text;
	const unsigned char *end = p + len;

	while (p < end)
	{
		uint64		chunk;
		int			length;

		if (end - p >= 8)
		{
			memcpy(&chunk, p, 8);

			/* with no high bit set, the subtraction sets one only for a NUL */
			if (((chunk | (chunk - ones)) & highs) == 0)
			{
				p += 8;
				continue;
			}
		}
		length = json_utf8_length(p, end - p);
		if (length == 0 || *p == '\0')
			return false;
		p += length;
	}
	return true;
}

void
json_replace_invalid(char *text, size_t len)
{
	unsigned char *p = (unsigned char *) text;
	const unsigned char *end = p + len;

	while (p < end)
	{
		int			length = json_utf8_length(p, end - p);

		if (length == 0)
			*p = '?';
		p += Max(length, 1);
	}
}

static bool
refuse(JsonScan *scan, const char *why)
{
	scan->why = why;
	return false;
}

static inline int
peek(const JsonScan *scan)
{
	return scan->p < scan->end ? (unsigned char) *scan->p : -1;
}

static inline void
skip_space(JsonScan *scan)
{
	while (scan->p < scan->end &&
		   (*scan->p == ' ' || *scan->p == '\n' || *scan->p == '\r' || *scan->p == '\t'))
		scan->p++;
}

char *
json_scan_copy_at(JsonScan *scan, const char *p)
{
	if (scan->copy == NULL)
	{
		size_t		len = scan->end - scan->text;

		scan->copy = palloc(len + 1);
		memcpy(scan->copy, scan->text, len);
		scan->copy[len] = '\0';
	}
	return scan->copy + (p - scan->text);
}

/* The four hexadecimal digits at p, or -1. */
static int
read_hex4(const char *p, const char *end)
{
	int			value = 0;

	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++)
	{
		unsigned char c = p[i];
		unsigned char letter = c | 0x20;

		if (c >= '0' && c <= '9')
			value = value * 16 + (c - '0');
		else if (letter >= 'a' && letter <= 'f')
			value = value * 16 + (letter - 'a' + 10);
		else
			return -1;
	}
	return value;
}

/* scan->p is at a backslash. */
static bool
scan_escape(JsonScan *scan)
{
	const char *p = scan->p;
	int			unit;

	if (scan->end - p < 2)
		return refuse(scan, "ends within a string");
	if (p[1] != 'u')
	{
		if (p[1] == '\0' || strchr("\"\\/bfnrt", p[1]) == NULL)
			return refuse(scan, "has an unknown escape in a string");
		scan->p += 2;
		return true;
	}

	unit = read_hex4(p + 2, scan->end);
	if (unit < 0)
		return refuse(scan, "has a bad Unicode escape in a string");
	scan->p += 6;
	if (unit >= 0xD800 && unit <= 0xDBFF && scan->end - p >= 12 && p[6] == '\\' && p[7] == 'u')
	{
		int			low = read_hex4(p + 8, scan->end);

		if (low >= 0xDC00 && low <= 0xDFFF)
		{
			scan->p += 6;
			return true;
		}
	}
	if (scan->want_copy && (unit == 0 || (unit >= 0xD800 && unit <= 0xDFFF)))
		memcpy(json_scan_copy_at(scan, p + 2), "fffd", 4);
	return true;
}

/* Writes a character of the Basic Multilingual Plane, or above it, as UTF-8; returns the byte behind it. */
static char *
write_utf8(char *out, uint32 c)
{
	if (c < 0x80)
		*out++ = c;
	else if (c < 0x800)
	{
		*out++ = 0xC0 | (c >> 6);
		*out++ = 0x80 | (c & 0x3F);
	}
	else if (c < 0x10000)
	{
		*out++ = 0xE0 | (c >> 12);
		*out++ = 0x80 | ((c >> 6) & 0x3F);
		*out++ = 0x80 | (c & 0x3F);
	}
	else
	{
		*out++ = 0xF0 | (c >> 18);
		*out++ = 0x80 | ((c >> 12) & 0x3F);
		*out++ = 0x80 | ((c >> 6) & 0x3F);
		*out++ = 0x80 | (c & 0x3F);
	}
	return out;
}

/* Writes what the escape from p to end means, which scan_escape() has passed; out may be p. */
static char *
write_escape(char *out, const char *p, const char *end)
{
	static const char escapes[] = "\"\\/bfnrt";
	static const char meanings[] = "\"\\/\b\f\n\r\t";
	uint32		unit;

	if (p[1] != 'u')
	{
		*out++ = meanings[strchr(escapes, p[1]) - escapes];
		return out;
	}
	unit = read_hex4(p + 2, end);
	if (end - p == 12)
		return write_utf8(out, 0x10000 + ((unit - 0xD800) << 10) + (read_hex4(p + 8, end) - 0xDC00));
	return write_utf8(out, unit == 0 || (unit >= 0xD800 && unit <= 0xDFFF) ? 0xFFFD : unit);
}

/* Where values are wanted, sets *content to what the string means. */
static bool
scan_string(JsonScan *scan, char **content)
{
	const char *start = scan->p + 1;
	char	   *out = NULL;		/* where the next byte goes, since the first escape */

	if (peek(scan) != '"')
		return refuse(scan, peek(scan) == -1 ? "ends too early" : "has no string where a member's name is due");
	scan->p++;
	for (;;)
	{
		const char *from = scan->p;

		scan->p = json_skip_clean(from, scan->end);
		if (out != NULL)
		{
			memmove(out, from, scan->p - from);
			out += scan->p - from;
		}
		from = scan->p;
		switch (peek(scan))
		{
			case -1:
				return refuse(scan, "ends within a string");
			case '"':
				scan->p++;
				if (scan->build)
				{
					if (out == NULL)
						out = unconstify(char *, from);
					*out = '\0';
					*content = unconstify(char *, start);
				}
				return true;
			case '\\':
				if (!scan_escape(scan))
					return false;
				if (scan->build)
					out = write_escape(out != NULL ? out : unconstify(char *, from), from, scan->p);
				break;
			default:
				return refuse(scan, "has a control character in a string");
		}
	}
}

static bool
scan_digits(JsonScan *scan)
{
	const char *start = scan->p;

	while (scan->p < scan->end && *scan->p >= '0' && *scan->p <= '9')
		scan->p++;
	return scan->p > start || refuse(scan, "has a bad number");
}

/* Notes the number from start to scan->p. */
static void
note_number(JsonScan *scan, const char *start)
{
	size_t		length = scan->p - start;

	if (scan->nnumbers == scan->most_numbers)
	{
		scan->most_numbers = Max(16, 2 * scan->most_numbers);
		scan->numbers = scan->numbers == NULL ?
			palloc(scan->most_numbers * sizeof(JsonNumber)) :
			repalloc(scan->numbers, scan->most_numbers * sizeof(JsonNumber));
	}
	scan->numbers[scan->nnumbers].offset = start - scan->text;
	scan->numbers[scan->nnumbers++].length = length;

	if (length > CJSON_DIGITS)
	{
		char	   *copy = json_scan_copy_at(scan, start);

		memset(copy, ' ', length);
		copy[0] = '0';
	}
}

static bool
scan_number(JsonScan *scan, cJSON *node)
{
	const char *start = scan->p;
	const char *digits;

	if (peek(scan) == '-')
		scan->p++;
	digits = scan->p;
	if (!scan_digits(scan))
		return false;
	if (*digits == '0' && scan->p > digits + 1)
		return refuse(scan, "has a bad number");
	if (peek(scan) == '.')
	{
		scan->p++;
		if (!scan_digits(scan))
			return false;
	}
	if (peek(scan) == 'e' || peek(scan) == 'E')
	{
		scan->p++;
		if (peek(scan) == '+' || peek(scan) == '-')
			scan->p++;
		if (!scan_digits(scan))
			return false;
	}

	if (node != NULL)
	{
		node->type = cJSON_Number;
		node->valuestring = unconstify(char *, start) - 1;
		memmove(node->valuestring, start, scan->p - start);
		node->valuestring[scan->p - start] = '\0';
	}
	if (scan->want_numbers)
		note_number(scan, start);
	return true;
}

static bool
scan_word(JsonScan *scan, const char *word, int type, cJSON *node)
{
	size_t		length = strlen(word);

	if (scan->end - scan->p < length || memcmp(scan->p, word, length) != 0)
		return refuse(scan, "has a word that is not a JSON value");
	scan->p += length;
	if (node != NULL)
		node->type = type;
	return true;
}

/* node is NULL where values are not wanted. */
static bool
scan_scalar(JsonScan *scan, cJSON *node)
{
	char	   *content = NULL;

	switch (peek(scan))
	{
		case -1:
			return refuse(scan, "ends too early");
		case '"':
			if (!scan_string(scan, &content))
				return false;
			if (node != NULL)
			{
				node->type = cJSON_String;
				node->valuestring = content;
			}
			return true;
		case 't':
			return scan_word(scan, "true", cJSON_True, node);
		case 'f':
			return scan_word(scan, "false", cJSON_False, node);
		case 'n':
			return scan_word(scan, "null", cJSON_NULL, node);
		case '-':
		case '0':
		case '1':
		case '2':
		case '3':
		case '4':
		case '5':
		case '6':
		case '7':
		case '8':
		case '9':
			return scan_number(scan, node);
		default:
			return refuse(scan, "has something else where a value is due");
	}
}

/* A member's name and its colon. */
static bool
scan_name(JsonScan *scan)
{
	skip_space(scan);
	if (!scan_string(scan, &scan->name))
		return false;
	skip_space(scan);
	if (peek(scan) != ':')
		return refuse(scan, peek(scan) == -1 ? "ends too early" : "has no colon behind a member's name");
	scan->p++;
	return true;
}

/* A value that begins here, with the name that was read for it. */
static cJSON *
new_node(JsonScan *scan)
{
	JsonBlock  *block = scan->blocks;
	cJSON *node;

	if (block == NULL || block->used == block->size)
	{
		int			size = block == NULL ? FIRST_BLOCK_NODES : Min(4 * block->size, LARGEST_BLOCK_NODES);

		block = palloc(offsetof(JsonBlock, nodes) + size * sizeof(cJSON));
		block->before = scan->blocks;
		block->size = size;
		block->used = 0;
		scan->blocks = block;
	}
	node = &block->nodes[block->used++];
	memset(node, 0, sizeof(*node));
	node->string = scan->name;
	scan->name = NULL;
	return node;
}

bool
json_scan_document(JsonScan *scan)
{
	bool		in_object[JSON_MAX_DEPTH];
	cJSON **place[JSON_MAX_DEPTH + 1];	/* where the next value of each open container goes */
	cJSON *node = NULL;
	int			depth = 0;

	if (scan->end - scan->text > MaxAllocSize / 2)
		return refuse(scan, "is larger than 512 MB");
	if (!json_is_utf8(scan->text, scan->end - scan->text))
		return refuse(scan, "is not valid UTF-8");
	scan->p = scan->text;
	place[0] = &scan->root;

	for (;;)
	{
		bool		opened = false;
		int			c;

		/* a value is due */
		skip_space(scan);
		if ((scan->build || scan->want_numbers) && ++scan->values > JSON_MAX_VALUES)
			return refuse(scan, "has too many values");
		if (scan->build)
		{
			node = new_node(scan);
			*place[depth] = node;
			place[depth] = &node->next;
		}
		c = peek(scan);
		if (c == '{' || c == '[')
		{
			if (depth == JSON_MAX_DEPTH)
				return refuse(scan, "nests too deep");
			in_object[depth++] = (c == '{');
			if (scan->build)
			{
				node->type = c == '{' ? cJSON_Object : cJSON_Array;
				place[depth] = &node->child;
			}
			scan->p++;
			opened = true;
		}
		else if (!scan_scalar(scan, node))
			return false;

		/* behind a value, or in a new container: close what ends here */
		for (;;)
		{
			skip_space(scan);
			if (depth == 0)
				return scan->p == scan->end || refuse(scan, "does not end where its value ends");
			c = peek(scan);
			if (c != (in_object[depth - 1] ? '}' : ']'))
				break;
			scan->p++;
			depth--;
			opened = false;
		}

		if (!opened)
		{
			if (c != ',')
				return refuse(scan, c == -1 ? "ends too early" : "has no comma between two values");
			scan->p++;
		}
		if (in_object[depth - 1] && !scan_name(scan))
			return false;
	}
}

bool
json_is_valid(const char *text, size_t len, const char **why)
{
	JsonScan	scan = {.text = text, .end = text + len};

	if (json_scan_document(&scan))
		return true;
	*why = scan.why;
	return false;
}

char *
json_clean(const char *text, size_t len, const char **why)
{
	JsonScan	scan = {.text = text, .end = text + len, .want_copy = true};

	if (json_scan_document(&scan))
	{
		json_scan_copy_at(&scan, text);
		return scan.copy;
	}
	if (scan.copy != NULL)
		pfree(scan.copy);
	*why = scan.why;
	return NULL;
}
