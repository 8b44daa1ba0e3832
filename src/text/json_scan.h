/*-------------------------------------------------------------------------
 *
 * json_scan.h
 *		What json.c and json_scan.c share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_JSON_SCAN_H
#define DESS_TEXT_JSON_SCAN_H

#include <cjson/cJSON.h>

/* Values of a line are handed out of blocks, each larger than the one before it. */
typedef struct JsonBlock
{
	struct JsonBlock *before;
	int			size;
	int			used;
	cJSON		nodes[FLEXIBLE_ARRAY_MEMBER];
} JsonBlock;

/* Where a number stands in the text. */
typedef struct JsonNumber
{
	size_t		offset;
	size_t		length;
} JsonNumber;

typedef struct JsonScan
{
	const char *text;
	const char *p;
	const char *end;
	const char *why;
	int64		values;

	/* json_clean() and json_parse() */
	bool		want_copy;		/* replace escapes that PostgreSQL's text cannot hold */
	char	   *copy;			/* the text with replacements, made at the first one */

	/* json_parse(): numbers are noted, and those that cJSON cannot read are 0 in the copy */
	bool		want_numbers;
	JsonNumber *numbers;
	int			nnumbers;
	int			most_numbers;

	/* json_parse_line(): the text is a copy with one byte before it, and is changed */
	bool		build;
	JsonBlock  *blocks;
	cJSON	   *root;
	char	   *name;			/* of the member whose value is due */
} JsonScan;

/*
 * Goes through a document whose text and end are set; false, with scan->why, if
 * it is not exactly one JSON value.  Allocates copy, numbers and blocks where
 * needed.
 */
extern bool json_scan_document(JsonScan *scan);

/* Makes scan->copy if it is not there, and returns where the byte at p stands in it. */
extern char *json_scan_copy_at(JsonScan *scan, const char *p);

/*
 * First byte from p on that a JSON string cannot hold as it is: a quote, a
 * backslash or a control character; end if there is none.
 */
static inline const char *
json_skip_clean(const char *p, const char *end)
{
	const uint64 ones = UINT64CONST(0x0101010101010101);
	const uint64 highs = UINT64CONST(0x8080808080808080);

	while (end - p >= 8)
	{
		uint64		chunk;
		uint64		quote;
		uint64		backslash;

		memcpy(&chunk, p, 8);
		quote = chunk ^ (ones * '"');
		backslash = chunk ^ (ones * '\\');
		if ((((chunk - ones * 0x20) & ~chunk) |
			 ((quote - ones) & ~quote) |
			 ((backslash - ones) & ~backslash)) & highs)
			break;
		p += 8;
	}
	while (p < end && (unsigned char) *p >= 0x20 && *p != '"' && *p != '\\')
		p++;
	return p;
}

/* Length of the UTF-8 character at s, of which left > 0 bytes are there; 0 if it is none. */
static inline int
json_utf8_length(const unsigned char *s, size_t left)
{
	unsigned char low = 0x80;
	unsigned char high = 0xBF;
	int			length;

	if (s[0] < 0x80)
		return 1;
	if (s[0] < 0xC2 || s[0] > 0xF4)
		return 0;
	length = s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
	if (left < length)
		return 0;

	/* no overlong forms, no surrogates, nothing above U+10FFFF */
	if (s[0] == 0xE0)
		low = 0xA0;
	else if (s[0] == 0xED)
		high = 0x9F;
	else if (s[0] == 0xF0)
		low = 0x90;
	else if (s[0] == 0xF4)
		high = 0x8F;
	if (s[1] < low || s[1] > high)
		return 0;
	for (int i = 2; i < length; i++)
	{
		if ((s[i] & 0xC0) != 0x80)
			return 0;
	}
	return length;
}

#endif							/* DESS_TEXT_JSON_SCAN_H */
