/*-------------------------------------------------------------------------
 *
 * encoding.c
 *		Between UTF-8, which the wire speaks, and the database's encoding.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "common/string.h"
#include "fmgr.h"
#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "text/encoding.h"

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

/*
 * The conversion from UTF-8 is looked up once, in a transaction; it is needed
 * between transactions too, where the catalogs must not be touched.
 */
static FmgrInfo from_utf8;
static bool from_utf8_known = false;

void
encoding_init(void)
{
	Oid			proc;

	if (from_utf8_known || !IsTransactionState())
		return;
	proc = FindDefaultConversionProc(PG_UTF8, GetDatabaseEncoding());
	if (OidIsValid(proc))
		fmgr_info_cxt(proc, &from_utf8, TopMemoryContext);
	from_utf8_known = true;
}

/* Converts as much as can be; returns how many bytes of text that was. */
static int
convert_some(char *text, size_t length, char *result)
{
	*result = '\0';
	if (!OidIsValid(from_utf8.fn_oid))
		return 0;
	return DatumGetInt32(FunctionCall6(&from_utf8, Int32GetDatum(PG_UTF8),
									   Int32GetDatum(GetDatabaseEncoding()),
									   CStringGetDatum(text), CStringGetDatum(result),
									   Int32GetDatum((int32) length), BoolGetDatum(true)));
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

	if (utf8 == NULL)
		return NULL;
	length = strlen(utf8);
	copy = pnstrdup(utf8, length);
	if (pg_is_ascii(copy))
		return copy;
	replace_invalid(copy, length);
	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII || pg_is_ascii(copy))
		return copy;

	encoding_init();
	result = palloc(length * MAX_CONVERSION_GROWTH + 1);
	while (from < length)
	{
		from += convert_some(copy + from, length - from, result + to);
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
