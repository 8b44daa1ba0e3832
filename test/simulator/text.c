/*
 * text.c
 *		UTF-8: decoding, case folding of European letters, searching, cutting.
 *
 * The folding covers Latin, Greek and Cyrillic letters that have a one-to-one
 * counterpart; it does not depend on the locale of the process.
 */
#include "sim.h"

#include <ctype.h>

bool
utf8_valid(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *) s;
	const unsigned char *end = p + len;

	while (p < end)
	{
		int			more;
		uint32_t	c;

		if (*p < 0x80)
		{
			p++;
			continue;
		}
		if (*p >= 0xC2 && *p <= 0xDF)
			more = 1, c = *p & 0x1F;
		else if ((*p & 0xF0) == 0xE0)
			more = 2, c = *p & 0x0F;
		else if (*p >= 0xF0 && *p <= 0xF4)
			more = 3, c = *p & 0x07;
		else
			return false;
		if (end - p <= more)
			return false;
		for (int i = 1; i <= more; i++)
		{
			if ((p[i] & 0xC0) != 0x80)
				return false;
			c = (c << 6) | (p[i] & 0x3F);
		}
		if ((more == 2 && (c < 0x800 || (c >= 0xD800 && c <= 0xDFFF))) ||
			(more == 3 && (c < 0x10000 || c > 0x10FFFF)))
			return false;
		p += more + 1;
	}
	return true;
}

/* Next character of valid UTF-8; 0 at the end.  Bad bytes come as they are. */
uint32_t
utf8_next(const char **s)
{
	const unsigned char *p = (const unsigned char *) *s;
	int			more = 0;
	uint32_t	c = *p;

	if (c == 0)
		return 0;
	if (c >= 0xF0)
		more = 3, c &= 0x07;
	else if (c >= 0xE0)
		more = 2, c &= 0x0F;
	else if (c >= 0xC0)
		more = 1, c &= 0x1F;
	p++;
	while (more-- > 0 && (*p & 0xC0) == 0x80)
		c = (c << 6) | (*p++ & 0x3F);
	*s = (const char *) p;
	return c;
}

void
utf8_put(StrBuf *b, uint32_t c)
{
	if (c < 0x80)
		buf_char(b, (char) c);
	else if (c < 0x800)
	{
		buf_char(b, (char) (0xC0 | (c >> 6)));
		buf_char(b, (char) (0x80 | (c & 0x3F)));
	}
	else if (c < 0x10000)
	{
		buf_char(b, (char) (0xE0 | (c >> 12)));
		buf_char(b, (char) (0x80 | ((c >> 6) & 0x3F)));
		buf_char(b, (char) (0x80 | (c & 0x3F)));
	}
	else
	{
		buf_char(b, (char) (0xF0 | (c >> 18)));
		buf_char(b, (char) (0x80 | ((c >> 12) & 0x3F)));
		buf_char(b, (char) (0x80 | ((c >> 6) & 0x3F)));
		buf_char(b, (char) (0x80 | (c & 0x3F)));
	}
}

uint32_t
fold_char(uint32_t c)
{
	if (c < 0x80)
		return (c >= 'A' && c <= 'Z') ? c + 32 : c;
	if (c >= 0xC0 && c <= 0xDE && c != 0xD7)
		return c + 32;
	if (c == 0x178)
		return 0xFF;
	if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E))
		return (c & 1) ? c + 1 : c;
	if (c >= 0x100 && c <= 0x177 && c != 0x130 && c != 0x131 && c != 0x138 && c != 0x149)
		return (c & 1) ? c : c + 1;
	if (c >= 0x391 && c <= 0x3A9)
		return c + 32;
	if (c >= 0x410 && c <= 0x42F)
		return c + 32;
	if (c >= 0x400 && c <= 0x40F)
		return c + 80;
	return c;
}

/* Folded copy; every folded letter has as many bytes as the letter had. */
char *
fold_text(const char *s)
{
	StrBuf		b = {0};
	uint32_t	c;

	buf_reserve(&b, strlen(s) + 1);
	b.data[0] = '\0';
	while ((c = utf8_next(&s)) != 0)
		utf8_put(&b, fold_char(c));
	return b.data;
}

bool
is_letter(uint32_t c)
{
	if (c < 0x80)
		return isalpha((int) c) != 0;
	if (c < 0xC0)
		return c == 0xAA || c == 0xB5 || c == 0xBA;
	if (c == 0xD7 || c == 0xF7)
		return false;
	if (c < 0x2000)
		return true;
	return c >= 0x2E80 && c < 0xE000;
}

bool
is_upper(uint32_t c)
{
	return fold_char(c) != c;
}

/* First place where needle (already in lower case) occurs, case aside. */
const char *
find_nocase(const char *hay, const char *needle)
{
	size_t		len = strlen(needle);

	for (; *hay; hay++)
	{
		if (tolower((unsigned char) *hay) == (unsigned char) *needle &&
			strncasecmp(hay, needle, len) == 0)
			return hay;
	}
	return NULL;
}

bool
starts_nocase(const char *s, const char *prefix)
{
	return strncasecmp(s, prefix, strlen(prefix)) == 0;
}

/* Largest length up to max that does not split a character. */
size_t
cut_at(const char *s, size_t len, size_t max)
{
	if (len <= max)
		return len;
	while (max > 0 && ((unsigned char) s[max] & 0xC0) == 0x80)
		max--;
	return max;
}

char *
trim_copy(const char *s, size_t len)
{
	while (len > 0 && isspace((unsigned char) *s))
		s++, len--;
	while (len > 0 && isspace((unsigned char) s[len - 1]))
		len--;
	return xstrndup(s, len);
}

/* The first words of a text, blanks collapsed. */
char *
first_words(const char *s, int words, size_t max_bytes)
{
	StrBuf		b = {0};
	int			n = 0;

	buf_str(&b, "");
	while (*s && n < words && b.len < max_bytes)
	{
		const char *from;

		while (*s && isspace((unsigned char) *s))
			s++;
		from = s;
		while (*s && !isspace((unsigned char) *s))
			s++;
		if (s > from)
		{
			if (n++ > 0)
				buf_char(&b, ' ');
			buf_add(&b, from, s - from);
		}
	}
	b.len = cut_at(b.data, b.len, max_bytes);
	b.data[b.len] = '\0';
	return b.data;
}
