/*-------------------------------------------------------------------------
 *
 * fuzz_json.c
 *		Both readers accept the same and understand the same; what is accepted is
 *		printed, read again and printed the same; what is written as a string is
 *		read back.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "text/json.h"

static char *
print(const char *text, size_t length)
{
	const char *why = NULL;
	const char *why_line = NULL;
	JsonDoc    *doc = json_parse(text, length, &why);
	JsonDoc    *line = json_parse_line(text, length, &why_line);
	StringInfoData out;
	StringInfoData out_line;

	MUST((doc == NULL) == (line == NULL));
	if (doc == NULL)
	{
		MUST(why != NULL && strcmp(why, why_line) == 0);
		return NULL;
	}
	initStringInfo(&out);
	json_append_value(&out, json_root(doc));
	json_free(doc);
	initStringInfo(&out_line);
	json_append_value(&out_line, json_root(line));
	json_free(line);
	MUST(strcmp(out.data, out_line.data) == 0);
	return out.data;
}

static void
check_document(const char *text, size_t length)
{
	const char *why;
	char	   *cleaned = json_clean(text, length, &why);
	char	   *printed = print(text, length);

	/* only a parsed document may start with a byte order mark */
	if (length >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0)
		return;
	MUST((printed != NULL) == json_is_valid(text, length, &why));
	MUST((printed != NULL) == (cleaned != NULL));
	if (printed == NULL)
		return;
	MUST(json_is_utf8(printed, strlen(printed)));
	MUST(strlen(cleaned) == length);
	MUST(strcmp(print(printed, strlen(printed)), printed) == 0);
	MUST(strcmp(print(cleaned, length), printed) == 0);
}

static void
check_string(const char *text, size_t length)
{
	const char *why;
	StringInfoData out;
	JsonDoc    *doc;

	if (!json_is_utf8(text, length))
		return;
	initStringInfo(&out);
	json_append_string(&out, text, length);
	doc = json_parse_line(out.data, out.len, &why);
	MUST(doc != NULL);
	MUST(strlen(json_string(json_root(doc))) == length);
	MUST(memcmp(json_string(json_root(doc)), text, length) == 0);
	json_free(doc);
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	const char *text = (const char *) data;
	char	   *copy = palloc(size + 1);

	check_document(text, size);
	check_string(text, size);

	memcpy(copy, text, size);
	copy[size] = '\0';
	for (size_t limit = 0; limit < 20; limit++)
	{
		char	   *excerpt = json_excerpt(copy, limit);

		MUST(strlen(excerpt) <= limit);
		MUST(json_is_utf8(excerpt, strlen(excerpt)));
	}
	arena_reset();
	return 0;
}
