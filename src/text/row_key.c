/*-------------------------------------------------------------------------
 *
 * row_key.c
 *		Text form of a row's key.
 *
 * A key of one column is that column's text, verbatim.  The texts of several
 * columns are separated by tabs; tabs and backslashes in them are escaped.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "text/digest.h"
#include "text/row_key.h"

#define SEPARATOR	'\t'
#define ESCAPE		'\\'

char *
key_join(char *const *values, int nvalues)
{
	StringInfoData key;

	if (nvalues == 1)
		return pstrdup(values[0]);

	initStringInfo(&key);
	for (int i = 0; i < nvalues; i++)
	{
		if (i > 0)
			appendStringInfoChar(&key, SEPARATOR);
		for (const char *p = values[i]; *p != '\0'; p++)
		{
			if (*p == SEPARATOR || *p == ESCAPE)
				appendStringInfoChar(&key, ESCAPE);
			appendStringInfoChar(&key, *p);
		}
	}
	return key.data;
}

char *
key_join_list(List *values)
{
	char	  **texts = palloc_array(char *, list_length(values) + 1);
	int			n = 0;
	ListCell   *lc;

	foreach(lc, values)
		texts[n++] = lfirst(lc);
	return key_join(texts, n);
}

void
key_split(const char *key, int nvalues, char **values)
{
	StringInfoData value;
	int			n = 0;

	if (nvalues == 1)
	{
		values[0] = pstrdup(key);
		return;
	}

	initStringInfo(&value);
	for (const char *p = key;; p++)
	{
		if (*p == SEPARATOR || *p == '\0')
		{
			if (n < nvalues)
				values[n] = pstrdup(value.data);
			n++;
			if (*p == '\0')
				break;
			resetStringInfo(&value);
			continue;
		}
		if (*p == ESCAPE && p[1] != '\0')
			p++;
		appendStringInfoChar(&value, *p);
	}
	if (n != nvalues)
		elog(ERROR, "key \"%s\" has %d columns instead of %d", key, n, nvalues);
}

uint64
key_hash64(const char *key)
{
	Digest		digest;

	digest_sha256(NULL, 0, key, strlen(key), &digest);
	return digest_hash64(&digest);
}
