/*-------------------------------------------------------------------------
 *
 * whitespace.h
 *		What a reader does not see: white space of Unicode and invisible marks.
 *
 * Besides the characters of property White_Space these are the zero-width
 * ones, the byte order mark and the marks of direction, which search results
 * and models put around words.  None of them counts as text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_WHITESPACE_H
#define DESS_RUNTIME_WHITESPACE_H

/* Bytes of the white space character at p, or 0 if there is none. */
static inline int
whitespace_length(const char *p, const char *end)
{
	const unsigned char *s = (const unsigned char *) p;
	uint32		c;

	if (p >= end)
		return 0;
	if (s[0] < 0x80)
		return s[0] == ' ' || (s[0] >= '\t' && s[0] <= '\r');
	if (s[0] == 0xC2 && end - p >= 2)
		return (s[1] == 0x85 || s[1] == 0xA0) ? 2 : 0;
	if (s[0] < 0xE1 || s[0] > 0xEF || end - p < 3)
		return 0;

	c = ((s[0] & 0x0F) << 12) | ((s[1] & 0x3F) << 6) | (s[2] & 0x3F);
	if (c == 0x1680 || c == 0x180E ||
		(c >= 0x2000 && c <= 0x200F) || (c >= 0x2028 && c <= 0x202F) ||
		(c >= 0x205F && c <= 0x2064) || (c >= 0x2066 && c <= 0x2069) ||
		c == 0x3000 || c == 0xFEFF)
		return 3;
	return 0;
}

/* First byte at or after p that is not white space, or end. */
static inline const char *
whitespace_skip(const char *p, const char *end)
{
	int			n;

	while ((n = whitespace_length(p, end)) > 0)
		p += n;
	return p;
}

/* The end of the text from start to end without the white space at its end. */
static inline const char *
whitespace_trim_end(const char *start, const char *end)
{
	while (end > start)
	{
		const char *p = end - 1;

		while (p > start && end - p < 3 && ((unsigned char) *p & 0xC0) == 0x80)
			p--;
		if (whitespace_length(p, end) != end - p)
			break;
		end = p;
	}
	return end;
}

#endif							/* DESS_RUNTIME_WHITESPACE_H */
