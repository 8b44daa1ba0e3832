/*-------------------------------------------------------------------------
 *
 * test_template.c
 *		Tests of src/template.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/json.h"
#include "tap.h"
#include "text/template.h"

static const TemplateColumn columns[] = {
	{"id", true, false, false},
	{"name", false, true, true},
	{"Full Name", false, true, false},
	{"n", true, true, true},
	{"row", false, false, false},
	{"a\"b", false, true, true},
	{"\u00e9", false, false, false}
};

#define NCOLUMNS lengthof(columns)

static const char *const filled[] = {"7", "Ann \"A\"", "Ann\nDoe", "1.50", "R", "x", "\u4e2d"};

static void
test_parse(void)
{
	static const struct
	{
		const char *text;
		TemplateErrorKind kind;
		int			position;
		const char *name;
	}			cases[] = {
		{"", TEMPLATE_OK, 0, NULL}, {"text", TEMPLATE_OK, 0, NULL}, {"{name}", TEMPLATE_OK, 0, NULL},
		{"{Full Name}", TEMPLATE_OK, 0, NULL}, {"{{}}", TEMPLATE_OK, 0, NULL}, {"{{{name}}}", TEMPLATE_OK, 0, NULL},
		{"{row}", TEMPLATE_OK, 0, NULL}, {"{a\"b}", TEMPLATE_OK, 0, NULL}, {"{\u00e9}", TEMPLATE_OK, 0, NULL},
		{"{Name}", TEMPLATE_UNKNOWN_COLUMN, 0, "Name"}, {"x {full name}", TEMPLATE_UNKNOWN_COLUMN, 2, "full name"},
		{"{ name}", TEMPLATE_UNKNOWN_COLUMN, 0, " name"}, {"{nam}", TEMPLATE_UNKNOWN_COLUMN, 0, "nam"},
		{"{\"a\": 1}", TEMPLATE_UNKNOWN_COLUMN, 0, "\"a\": 1"}, {"{ROW}", TEMPLATE_UNKNOWN_COLUMN, 0, "ROW"},
		{"{name} {nothing}", TEMPLATE_UNKNOWN_COLUMN, 7, "nothing"},
		{"abc {name", TEMPLATE_UNCLOSED_BRACE, 4, NULL}, {"{", TEMPLATE_UNCLOSED_BRACE, 0, NULL},
		{"{na{me}", TEMPLATE_UNCLOSED_BRACE, 0, NULL}, {"{{{", TEMPLATE_UNCLOSED_BRACE, 2, NULL},
		{"{name}}", TEMPLATE_STRAY_BRACE, 6, NULL}, {"}", TEMPLATE_STRAY_BRACE, 0, NULL}, {"a } b", TEMPLATE_STRAY_BRACE, 2, NULL},
		{"{{name}", TEMPLATE_STRAY_BRACE, 6, NULL}, {"}}}", TEMPLATE_STRAY_BRACE, 2, NULL},
		{"{}", TEMPLATE_EMPTY_NAME, 0, NULL}, {"a{}b", TEMPLATE_EMPTY_NAME, 1, NULL}
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		TemplateError error;
		Template   *template = template_parse(cases[i].text, columns, NCOLUMNS, &error);

		ok((template != NULL) == (cases[i].kind == TEMPLATE_OK) && error.kind == cases[i].kind &&
		   error.position == cases[i].position, "parse %s", cases[i].text);
		is_text(error.name, cases[i].name, "name of %s", cases[i].text);
		arena_reset();
	}
}

static void
check_render(const char *text, const char *const *values, bool readable, const char *expected)
{
	TemplateError error;
	Template   *template = template_parse(text, columns, NCOLUMNS, &error);
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, ">");
	ok(template_render(template, values, &out) == readable, "%s has %s to read", text, readable ? "something" : "nothing");
	is_text(out.data + 1, expected, "rendered: %s", text);
	arena_reset();
}

static void
test_render(void)
{
	static const char *const nothing[NCOLUMNS] = {NULL};
	static const char *const blank[] = {" ", " \t\n", "\u00a0\u3000", "\ufeff\u200b", "\u202a\u202c", "\r", "\u2028"};
	static const char *const numbers[] = {"7", "", NULL, "NaN", NULL, "Infinity", NULL};
	static const char *const json[] = {"7", NULL, NULL, "{\"a\": [1, null]}", NULL, NULL, NULL};
	static const char *const broken[] = {"7", NULL, NULL, "{\"a\": ", NULL, "\x01", NULL};
	static const char *const boolean[] = {NULL, NULL, NULL, "true", NULL, NULL, NULL};
	static const char *const hidden[] = {"7", NULL, "shown but does not count", NULL, "r", NULL, "e"};

	check_render("plain text", filled, false, "plain text");
	check_render("", filled, false, "");
	check_render("{{}}", filled, false, "{}");
	check_render("Who is {name}?", filled, true, "Who is Ann \"A\"?");
	check_render("{name}{name}{{{Full Name}}}", filled, true, "Ann \"A\"Ann \"A\"{Ann\nDoe}");
	check_render("{id}{\u00e9}{a\"b}", filled, true, "7\u4e2dx");
	check_render("{row}", filled, true, "{\"name\":\"Ann \\\"A\\\"\",\"Full Name\":\"Ann\\nDoe\",\"n\":1.50,\"a\\\"b\":\"x\"}");
	check_render("<{row}|{row}>", json, true, "<{\"n\":{\"a\": [1, null]}}|{\"n\":{\"a\": [1, null]}}>");
	check_render("{row}", nothing, false, "{}");
	check_render("{name}, {row}", nothing, false, ", {}");
	check_render("{name}{Full Name}{id}", blank, false, " \t\n\u00a0\u3000 ");
	check_render("{\u00e9}", blank, false, "\u2028");
	check_render("{row}", blank, false, "{\"name\":\" \\t\\n\",\"Full Name\":\"\u00a0\u3000\",\"n\":\"\ufeff\u200b\",\"a\\\"b\":\"\\r\"}");
	check_render("{row}", numbers, true, "{\"name\":\"\",\"n\":\"NaN\",\"a\\\"b\":\"Infinity\"}");
	check_render("{row}", broken, true, "{\"n\":\"{\\\"a\\\": \",\"a\\\"b\":\"\\u0001\"}");
	check_render("{row}", boolean, true, "{\"n\":true}");
	check_render("{row}", hidden, false, "{\"Full Name\":\"shown but does not count\"}");
	check_render("{row}{id}", hidden, true, "{\"Full Name\":\"shown but does not count\"}7");
}

static void
test_used(void)
{
	static const struct
	{
		const char *text;
		int			count;
		const char *used;
	}			cases[] = {
		{"none {{name}}", 0, "0000000"}, {"{name}{name}", 1, "0100000"}, {"{id}{Full Name}", 2, "1010000"},
		{"{row}", 4, "0111010"}, {"{row}{id}{name}", 5, "1111010"}
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		TemplateError error;
		bool		used[NCOLUMNS];
		char		got[NCOLUMNS + 1] = {0};
		int			count;

		memset(used, true, sizeof(used));
		count = template_used_columns(template_parse(cases[i].text, columns, NCOLUMNS, &error), used);
		for (int k = 0; k < NCOLUMNS; k++)
			got[k] = used[k] ? '1' : '0';
		is_int(count, cases[i].count, "columns used by %s", cases[i].text);
		is_text(got, cases[i].used, "which are used by %s", cases[i].text);
		arena_reset();
	}
}

static void
test_large(void)
{
	TemplateError error;
	Template   *template;
	StringInfoData out;
	bool		used[NCOLUMNS];
	const char *values[NCOLUMNS] = {NULL};

	template = template_parse(repeat("{{{name}}}", 100000), columns, NCOLUMNS, &error);
	ok(template != NULL && template_used_columns(template, used) == 1, "a hundred thousand placeholders");
	initStringInfo(&out);
	ok(template_render(template, filled, &out) && out.len == 900000, "are rendered");
	ok(template_parse("{row}", NULL, 0, &error) != NULL, "no columns at all");

	values[1] = repeat("\u00a0", 5000000);
	resetStringInfo(&out);
	template = template_parse("{row}", columns, NCOLUMNS, &error);
	ok(!template_render(template, values, &out), "ten million bytes of blanks are blank");
	arena_reset();
}

static void
test_department(void)
{
	static const TemplateColumn faculty[] = {{"firstname", false, true, false}, {"snippet_1", false, true, true}};
	static const char *const values[] = {"Ann", "Department of \"History\""};
	TemplateError error;
	StringInfoData out;
	Template   *template = template_parse(template_department_user, faculty, 2, &error);

	initStringInfo(&out);
	ok(template_render(template, values, &out), "the built-in prompt is rendered");
	is_text(out.data, "{\"firstname\":\"Ann\",\"snippet_1\":\"Department of \\\"History\\\"\"}", "as an object");
	ok(strlen(template_department_system) <= 1200, "its system text is short");
	ok(json_is_utf8(template_department_system, strlen(template_department_system)), "and UTF-8");
	ok(strstr(template_department_system, "MISSING") != NULL, "and names the missing word");
	arena_reset();
}

int
main(void)
{
	test_parse();
	test_render();
	test_used();
	test_large();
	test_department();
	return done_testing();
}
