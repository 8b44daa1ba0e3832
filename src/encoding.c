/*-------------------------------------------------------------------------
 *
 * encoding.c
 *		Between UTF-8, which the wire speaks, and the database's encoding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "mb/pg_wchar.h"

#include "encoding.h"

/* Bytes that are no UTF-8 become "?", so that the result is always valid. */
static void
replace_invalid(char *text, size_t length)
{
	const unsigned char *end = (const unsigned char *) text + length;
	unsigned char *p = (unsigned char *) text;

	while (p < end)
	{
		int			l = pg_utf_mblen(p);

		if (p + l <= end && pg_utf8_islegal(p, l))
			p += l;
		else
			*p++ = '?';
	}
}

char *
encoding_to_server_lossy(const char *utf8)
{
	int			encoding = GetDatabaseEncoding();
	size_t		length;
	char	   *copy;
	char	   *result;
	size_t		from = 0;
	size_t		to = 0;
	Oid			proc;

	if (utf8 == NULL)
		return NULL;
	length = strlen(utf8);
	copy = pnstrdup(utf8, length);
	replace_invalid(copy, length);
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return copy;

	proc = FindDefaultConversionProc(PG_UTF8, encoding);
	result = palloc(length * MAX_CONVERSION_GROWTH + 1);
	while (from < length)
	{
		int			done = 0;

		if (OidIsValid(proc))
			done = pg_do_encoding_conversion_buf(proc, PG_UTF8, encoding,
												 (unsigned char *) copy + from, length - from,
												 (unsigned char *) result + to,
												 (length - from) * MAX_CONVERSION_GROWTH + 1, true);
		from += done;
		to += strlen(result + to);
		if (from < length)
		{
			from += pg_utf_mblen((unsigned char *) copy + from);
			result[to++] = '?';
		}
	}
	result[to] = '\0';
	return result;
}
