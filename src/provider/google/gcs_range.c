/*-------------------------------------------------------------------------
 *
 * gcs_range.c
 *		Headers and names of Cloud Storage: ranges, checksums, addresses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/google/gcs.h"
#include "provider/google/key.h"

/* Reads decimal digits and goes behind them; false for none or too many. */
static bool
read_number(const char **p, int64 *number)
{
	size_t		digits = strspn(*p, "0123456789");

	if (digits == 0 || digits > 18)
		return false;
	*number = strtoll(*p, NULL, 10);
	*p += digits;
	return true;
}

int64
gcs_parse_range(const char *value)
{
	int64		first;
	int64		last;

	if (value == NULL)
		return 0;
	if (pg_strncasecmp(value, "bytes=", 6) == 0)
		value += 6;
	if (!read_number(&value, &first) || first != 0 || *value++ != '-' ||
		!read_number(&value, &last) || *value != '\0')
		return -1;
	return last + 1;
}

bool
gcs_parse_content_range(const char *value, int64 *first, int64 *last, int64 *total)
{
	if (value == NULL || pg_strncasecmp(value, "bytes ", 6) != 0)
		return false;
	value += 6;
	if (!read_number(&value, first) || *value++ != '-' || !read_number(&value, last) || *value++ != '/')
		return false;
	if (strcmp(value, "*") == 0)
	{
		*total = -1;
		return *first <= *last;
	}
	return read_number(&value, total) && *value == '\0' && *first <= *last && *last < *total;
}

char *
gcs_crc32c_text(uint32 crc)
{
	uint8		bytes[4] = {crc >> 24, crc >> 16, crc >> 8, crc};

	return google_base64(bytes, sizeof(bytes), false);
}

bool
gcs_parse_uri(const char *uri, char **bucket, char **name)
{
	const char *start;
	const char *slash;

	if (uri == NULL || strncmp(uri, "gs://", 5) != 0)
		return false;
	start = uri + 5;
	slash = strchr(start, '/');
	if (slash == NULL || slash == start || slash[1] == '\0')
		return false;
	*bucket = pnstrdup(start, slash - start);
	*name = pstrdup(slash + 1);
	return true;
}
