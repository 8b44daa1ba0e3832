/*-------------------------------------------------------------------------
 *
 * fuzz_template.c
 *		The text up to the first NUL is the template, what follows are values.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "text/json.h"
#include "text/template.h"

static const TemplateColumn columns[] = {
	{"name", false, true, true}, {"n", true, true, false}, {"a b", true, true, true}, {"x", false, false, false}
};

#define NCOLUMNS lengthof(columns)

/* The object must be JSON whatever the values, as long as they are UTF-8. */
static void
check_row(const char *const *values)
{
	TemplateError error;
	Template   *template = template_parse("{row}", columns, NCOLUMNS, &error);
	StringInfoData out;
	const char *why;

	initStringInfo(&out);
	template_render(template, values, &out);
	for (int i = 0; i < NCOLUMNS; i++)
	{
		if (values[i] != NULL && !json_is_utf8(values[i], strlen(values[i])))
			return;
	}
	MUST(json_is_valid(out.data, out.len, &why));
}

static void
check_template(const char *text, const char *const *values)
{
	TemplateError error;
	Template   *template = template_parse(text, columns, NCOLUMNS, &error);
	StringInfoData out;
	bool		used[NCOLUMNS];

	MUST((template != NULL) == (error.kind == TEMPLATE_OK));
	MUST((error.name != NULL) == (error.kind == TEMPLATE_UNKNOWN_COLUMN));
	MUST(error.position >= 0 && error.position <= strlen(text));
	if (template == NULL)
		return;
	initStringInfo(&out);
	if (template_render(template, values, &out))
		MUST(template_used_columns(template, used) > 0);
	else if (template_used_columns(template, used) == 0)
		MUST(out.len <= strlen(text));
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	const char *values[NCOLUMNS] = {NULL};
	char	   *text = palloc(size + 1);
	char	   *p = text;

	memcpy(text, data, size);
	text[size] = '\0';
	for (int i = 0; i < NCOLUMNS && (p += strlen(p) + 1) <= text + size; i++)
		values[i] = *p == '!' ? NULL : p;
	check_template(text, values);
	check_row(values);
	arena_reset();
	return 0;
}
