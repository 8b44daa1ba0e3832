/*-------------------------------------------------------------------------
 *
 * test_answer.c
 *		Tests of src/answer.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/answer.h"
#include "text/json.h"
#include "tap.h"

/* What an answer is, in one line: "ok: value", "missing" or "invalid SQLSTATE". */
static char *
show(const AnswerRules *rules, const char *text)
{
	Answer		answer;
	StringInfoData out;
	int			nvalues = Max(rules->ncolumns, 1);

	answer_read(rules, text, &answer);
	if (answer.text == NULL || !json_is_utf8(answer.text, strlen(answer.text)) || answer.values == NULL)
		return "broken: no text";
	if (answer.kind == ANSWER_INVALID)
	{
		if (answer.message == NULL || answer.message[0] == '\0')
			return "broken: no message";
		return psprintf("invalid %s", answer.sqlstate);
	}
	if (answer.message != NULL || answer.sqlstate != NULL)
		return "broken: a message without an error";

	initStringInfo(&out);
	appendStringInfoString(&out, answer.kind == ANSWER_OK ? "ok" : "missing");
	for (int i = 0; i < nvalues; i++)
	{
		if (answer.kind == ANSWER_OK)
			appendStringInfo(&out, "%s%s", i == 0 ? ": " : "|", answer.values[i] ? answer.values[i] : "NULL");
		else if (answer.values[i] != NULL)
			return "broken: missing with a value";
	}
	return out.data;
}

typedef struct Case
{
	const char *text;
	const char *expected;
} Case;

static void
run_cases(const char *what, const AnswerRules *rules, const Case *cases, int ncases)
{
	for (int i = 0; i < ncases; i++)
	{
		is_text(show(rules, cases[i].text), cases[i].expected, "%s: %s", what, cases[i].text ? cases[i].text : "(null)");
		arena_reset();
	}
}

static const Case department[] = {
	/* as asked for */
	{"Physics", "ok: Physics"},
	{"Chemistry and Biochemistry", "ok: Chemistry and Biochemistry"},
	{"\u00c9conomie", "ok: \u00c9conomie"},
	{"Ingenier\u00eda Qu\u00edmica", "ok: Ingenier\u00eda Qu\u00edmica"},
	{"\u7269\u7406\u5b66\u7cfb", "ok: \u7269\u7406\u5b66\u7cfb"},
	{"Sociology, Anthropology, Social Work, and Criminal Justice", "ok: Sociology, Anthropology, Social Work, and Criminal Justice"},

	/* white space */
	{" \t\r\n Physics \n\n", "ok: Physics"},
	{"\u00a0\u3000Physics\u200b\ufeff", "ok: Physics"},
	{"\ufeffPhysics", "ok: Physics"},
	{"\u202aPhysics\u202c", "ok: Physics"},
	{"\u2028Physics\u2029", "ok: Physics"},

	/* quotes */
	{"\"Physics\"", "ok: Physics"}, {"'Physics'", "ok: Physics"}, {"\u201cPhysics\u201d", "ok: Physics"},
	{"\u201ePhysik\u201c", "ok: Physik"}, {"\u00abPhysique\u00bb", "ok: Physique"}, {"\u00ab\u00a0Physique\u00a0\u00bb", "ok: Physique"},
	{"\u00bbPhysik\u00ab", "ok: Physik"}, {"\u203aPhysik\u2039", "ok: Physik"}, {"\u2018Physics\u2019", "ok: Physics"},
	{"\u201aPhysik\u2018", "ok: Physik"}, {"\u300c\u7269\u7406\u300d", "ok: \u7269\u7406"}, {"\u300e\u7269\u7406\u300f", "ok: \u7269\u7406"},
	{"\u300a\u7269\u7406\u300b", "ok: \u7269\u7406"}, {"``Physics''", "ok: Physics"}, {"\"\"Physics\"\"", "ok: Physics"},
	{"\"Physics", "ok: Physics"}, {"Physics\u201d", "ok: Physics"}, {"'\"Physics\"'", "ok: Physics"},
	{"Women's Studies", "ok: Women's Studies"}, {"'Women's Studies'", "ok: Women's Studies"}, {"Teachers'", "ok: Teachers'"},
	{"\"A\" and \"B\"", "ok: \"A\" and \"B\""}, {"D\u00e9partement d'\u00c9conomie", "ok: D\u00e9partement d'\u00c9conomie"},

	/* Markdown */
	{"**Physics**", "ok: Physics"}, {"*Physics*", "ok: Physics"}, {"__Physics__", "ok: Physics"}, {"***Physics***", "ok: Physics"},
	{"`Physics`", "ok: Physics"}, {"# Physics", "ok: Physics"}, {"### Physics", "ok: Physics"}, {"- Physics", "ok: Physics"},
	{"* Physics", "ok: Physics"}, {"\u2022 Physics", "ok: Physics"}, {"> Physics", "ok: Physics"}, {"- **\"Physics\"**.", "ok: Physics"},
	{"~~Physics~~", "ok: Physics"}, {"[Physics]", "ok: Physics"}, {"**Physics.**", "ok: Physics"}, {"\"Physics.\"", "ok: Physics"}, {"\"Physics\".", "ok: Physics"},
	{"C*-Algebras and K-Theory", "ok: C*-Algebras and K-Theory"}, {"-", "missing"}, {"**", "missing"}, {"[", "ok: ["}, {"[]", "missing"}, {"\"\"", "missing"},

	/* fences */
	{"```\nPhysics\n```", "ok: Physics"}, {"```text\nPhysics\n```", "ok: Physics"}, {"```plaintext\r\nPhysics\r\n```\r\n", "ok: Physics"},
	{"~~~\nPhysics\n~~~", "ok: Physics"}, {"```Physics```", "ok: Physics"}, {"```\nPhysics", "ok: Physics"}, {"```\n```", "missing"},
	{"```\nMISSING\n```", "missing"}, {"````md\n**Physics**\n````", "ok: Physics"},

	/* final period */
	{"Physics.", "ok: Physics"}, {"Physics..", "ok: Physics.."}, {"Physics...", "ok: Physics..."}, {"Physics\u2026", "ok: Physics\u2026"},
	{"\u7269\u7406\u3002", "ok: \u7269\u7406"}, {"History of the U.S.", "ok: History of the U.S."}, {"Dept. Elec. Eng.", "ok: Dept. Elec. Eng"},
	{".", "missing"},

	/* labels and "Department of" */
	{"Department: Physics", "ok: Physics"}, {"**Department:** Physics", "ok: Physics"}, {"**Department**: Physics", "ok: Physics"},
	{"Answer: Physics", "ok: Physics"}, {"Answer: **Physics**.", "ok: Physics"}, {"final answer: \"Physics\"", "ok: Physics"},
	{"The primary department: Physics", "ok: Physics"}, {"Department\uff1aPhysics", "ok: Physics"}, {"Department name : Physics", "ok: Physics"},
	{"Department:\nPhysics", "ok: Physics"}, {"# Department\n\nPhysics", "ok: Physics"}, {"**Department**\nPhysics", "ok: Physics"},
	{"Here you go:\n\nPhysics", "ok: Physics"}, {"Answer: Department: Department of Physics.", "ok: Physics"},
	{"Department: MISSING", "missing"}, {"Department:", "missing"}, {"Answer:", "missing"},
	{"Department of Physics", "ok: Physics"}, {"The Department of Physics", "ok: Physics"}, {"DEPT. OF ENGLISH", "ok: ENGLISH"},
	{"dept of English.", "ok: English"}, {"Department of", "ok: Department of"}, {"Departmental Studies", "ok: Departmental Studies"},
	{"Physics Department", "ok: Physics Department"}, {"Department of Department of Physics", "ok: Department of Physics"},

	/* nothing found */
	{"", "missing"}, {" \n\t ", "missing"}, {"\u00a0\u200b\ufeff", "missing"}, {"MISSING", "missing"}, {"missing", "missing"}, {"Missing.", "missing"},
	{"**MISSING**", "missing"}, {"\"MISSING\"", "missing"}, {"`MISSING`.", "missing"}, {"N/A", "missing"}, {"n/a", "missing"}, {"None", "missing"},
	{"NONE.", "missing"}, {"Unknown", "missing"}, {"unknown.", "missing"}, {"[MISSING]", "missing"}, {"MISSING\n\nThe text does not say.", "missing"},
	{"nichts", "missing"}, {"NICHTS", "missing"}, {"None of these", "ok: None of these"}, {"Unknown Studies", "ok: Unknown Studies"},
	{NULL, "missing"},

	/* the first line that says anything */
	{"Physics\n\nThe snippet says that she is a professor of physics.", "ok: Physics"}, {"Physics\nChemistry", "ok: Physics"},
	{"- Physics\n- Chemistry", "ok: Physics"}, {"Physics\u2028because", "ok: Physics"}, {"**Department:** Physics\n**Reason:** because", "ok: Physics"},
	{"\n\n---\nPhysics", "ok: ---"},

	/* what is no name */
	{"The department is Physics.", "invalid 22P02"}, {"Ann Doe is a professor in the Department of History.", "invalid 22P02"},
	{"I could not find a department.", "invalid 22P02"}, {"The text does not say.", "invalid 22P02"}, {"Physics. The text says so clearly.", "invalid 22P02"},
	{"Die Abteilung ist Physik", "invalid 22P02"}, {"Le d\u00e9partement est la physique", "invalid 22P02"}, {"Il dipartimento \u00e8 Fisica", "invalid 22P02"},
	{"The snippets were about someone else", "invalid 22P02"},
	{"Based on the provided information, she is in Physics.\n\nPhysics", "invalid 22P02"},
	{"{\"department\": \"Physics\"}", "invalid 22P02"}, {"<answer>Physics</answer>", "invalid 22P02"},
	{"a b c d e f g h i j k l m n o p q r s t u", "invalid 22P02"},
	{"Dept. Sci. St. Brendan School", "ok: Dept. Sci. St. Brendan School"},
	{"\xff\xfe", "invalid 22021"}, {"Phys\xc3", "invalid 22021"}, {"\xed\xa0\x80", "invalid 22021"},
	{"\x01\x02", "ok: \x01\x02"}
};

static void
test_department(void)
{
	AnswerRules rules = {.department = true, .missing = "Nichts"};
	AnswerRules bare = {.department = true};
	char	   *text;

	run_cases("department", &rules, department, lengthof(department));
	is_text(show(&bare, "MISSING"), "missing", "MISSING counts without a word of one's own");
	is_text(show(&bare, "nichts"), "ok: nichts", "and another does not");

	text = repeat("x", 200);
	is_text(show(&rules, text), psprintf("ok: %s", text), "200 characters are a name");
	is_text(show(&rules, repeat("\u4e2d", 200)), psprintf("ok: %s", repeat("\u4e2d", 200)), "whatever their bytes");
	is_text(show(&rules, repeat("x", 201)), "invalid 22P02", "201 are not");
	is_text(show(&rules, repeat("lorem ipsum ", 250)), "invalid 22P02", "nor 3,000");
	is_text(show(&rules, psprintf("%sPhysics%s", repeat("*", 3990), repeat("*", 3))), "ok: Physics", "much Markdown");
	is_text(show(&rules, psprintf("%sPhysics", repeat("*", 5000))), "invalid 22P02", "too much Markdown");
	arena_reset();
}

static const Case plain[] = {
	{"Physics", "ok: Physics"}, {" \u00a0Physics.\n", "ok: Physics."}, {"**Physics**", "ok: **Physics**"}, {"\"Physics\"", "ok: \"Physics\""},
	{"```\nx\n```", "ok: ```\nx\n```"}, {"N/A", "ok: N/A"}, {"None", "ok: None"}, {"a\nb", "ok: a\nb"},
	{"FEHLT", "missing"}, {"fehlt", "missing"}, {" Fehlt \n", "missing"}, {"Fehlt.", "ok: Fehlt."}, {"Fehlt nicht", "ok: Fehlt nicht"}, {"Fehl", "ok: Fehl"},
	{"", "missing"}, {"\u200b", "missing"}, {NULL, "missing"}, {"\xff", "invalid 22021"}, {"{\"a\":1}", "ok: {\"a\":1}"}
};

static void
test_plain(void)
{
	static const struct
	{
		const char *word;
		const char *text;
		bool		same;
	}			words[] = {
		{"MANQU\u00c9", "manqu\u00e9", true}, {"\u041d\u0415\u0422", "\u043d\u0435\u0442", true}, {"\u0401", "\u0451", true},
		{"\u039b\u0395\u0399\u03a0\u0395\u0399", "\u03bb\u03b5\u03b9\u03c0\u03b5\u03b9", true}, {"\u0388", "\u03ad", true}, {"\u038c", "\u03cc", true},
		{"\u038f", "\u03ce", true}, {"\u0386", "\u03ac", true}, {"BRAK \u0141", "brak \u0142", true}, {"\u017b", "\u017c", true}, {"\u0178", "\u00ff", true},
		{"\u0118", "\u0119", true}, {"\u1ea4", "\u1ea5", true}, {"\u0531", "\u0561", true}, {"\u0490", "\u0491", true},
		{"\u4e2d", "\u4e2d", true}, {"\U0001F393", "\U0001F393", true}, {" fehlt ", "FEHLT", true},
		{"\u00d7", "\u00f7", false}, {"\u00c9", "e", false}, {"abc", "ab", false}, {"ab", "abc", false}, {"\u0130", "i", false}
	};
	AnswerRules rules = {.missing = "fehlt"};
	AnswerRules none = {0};

	run_cases("plain", &rules, plain, lengthof(plain));
	is_text(show(&none, "MISSING"), "ok: MISSING", "no missing word");
	for (int i = 0; i < lengthof(words); i++)
	{
		AnswerRules other = {.missing = words[i].word};

		is_text(show(&other, words[i].text), words[i].same ? "missing" : psprintf("ok: %s", words[i].text),
				"%s and %s", words[i].word, words[i].text);
	}
	arena_reset();
}

static const Case any_json[] = {
	{"{\"a\": 1.50}", "ok: {\"a\": 1.50}"}, {" [1, 2]\n", "ok: [1, 2]"}, {"```json\n{\"a\":1}\n```", "ok: {\"a\":1}"}, {"```\n{\"a\":1}\n```", "ok: {\"a\":1}"},
	{"```json {\"a\":1} ```", "ok: {\"a\":1}"}, {"```{\"a\":1}```", "ok: {\"a\":1}"}, {"~~~json\n[1]\n~~~", "ok: [1]"}, {"```json\n[1]", "ok: [1]"},
	{"42", "ok: 42"}, {"9007199254740993", "ok: 9007199254740993"}, {"true", "ok: true"}, {"null", "missing"}, {"```\nnull\n```", "missing"},
	{"\"red\"", "ok: red"}, {"\" red \"", "ok: red"}, {"\"\"", "missing"}, {"\"missing\"", "missing"}, {"MISSING", "missing"}, {"```\nMISSING\n```", "missing"},
	{"\ufeff{\"a\":1}", "ok: {\"a\":1}"}, {"{\"a\":\"\\u0000\\ud800\"}", "ok: {\"a\":\"\\ufffd\\ufffd\"}"}, {"{\"a\":\"```\"}", "ok: {\"a\":\"```\"}"},
	{"red", "invalid 22032"}, {"{\"a\":1", "invalid 22032"}, {"{\"a\":1} and more", "invalid 22032"}, {"```json\n{\"a\":1}\n```\nmore", "invalid 22032"},
	{"{'a':1}", "invalid 22032"}, {"```", "missing"}, {"NaN", "invalid 22032"}, {"", "missing"}, {"\xff", "invalid 22021"}
};

static const Case json_target[] = {
	{"{\"a\": 1.50}", "ok: {\"a\": 1.50}"}, {"\"red\"", "ok: \"red\""}, {"\" \\u00e9 \"", "ok: \" \\u00e9 \""}, {"\"\"", "ok: \"\""}, {"null", "missing"},
	{"\"MISSING\"", "missing"}, {"[]", "ok: []"}, {"red", "invalid 22032"}, {"```json\n[1]\n```", "ok: [1]"}
};

static const Case array_target[] = {
	{"[]", "ok: {}"}, {"[1,2.50,-3e2]", "ok: {1,2.50,-3e2}"}, {"[\"a\",\"b c\",\"\"]", "ok: {\"a\",\"b c\",\"\"}"}, {"[null,\"null\",\"NULL\"]", "ok: {NULL,\"null\",\"NULL\"}"},
	{"[\"a\\\"b\",\"c\\\\d\",\"{}\",\",\"]", "ok: {\"a\\\"b\",\"c\\\\d\",\"{}\",\",\"}"}, {"[[1,2],[3,4]]", "ok: {{1,2},{3,4}}"}, {"[[],[[]]]", "ok: {}"}, {"[[1],[]]", "ok: {{1},{}}"},
	{"[true,false]", "ok: {true,false}"}, {"[{\"a\":\"b\"}]", "ok: {\"{\\\"a\\\":\\\"b\\\"}\"}"}, {"```json\n[1]\n```", "ok: {1}"}, {"[9007199254740993]", "ok: {9007199254740993}"},
	{"[\"\u4e2d\\n\"]", "ok: {\"\u4e2d\n\"}"}, {"null", "missing"}, {"MISSING", "missing"}, {"\"MISSING\"", "missing"}, {"{\"a\":[1]}", "invalid 22P02"}, {"1", "invalid 22P02"},
	{"\"a\"", "invalid 22P02"}, {"{a,b}", "invalid 22032"}, {"a, b", "invalid 22032"}, {"[1", "invalid 22032"}
};

static const Case json_array_target[] = {
	{"[1,\"a\",null,[1,\"b\"],{\"c\":null}]", "ok: {1,\"\\\"a\\\"\",NULL,\"[1,\\\"b\\\"]\",\"{\\\"c\\\":null}\"}"}
};

static const Case several[] = {
	{"{\"name\":\"Ann\",\"year\":1990,\"tags\":[\"a\",\"b\"],\"raw\":{\"x\": [1]}}", "ok: Ann|1990|{\"a\",\"b\"}|{\"x\":[1]}"},
	{"{\"name\":\"Ann\"}", "ok: Ann|NULL|NULL|NULL"}, {"{\"year\":null,\"name\":\" Ann \"}", "ok: Ann|NULL|NULL|NULL"},
	{"{\"name\":\"MISSING\",\"year\":\"missing\",\"tags\":null,\"raw\":\"MISSING\"}", "missing"}, {"{}", "missing"}, {"{\"Name\":\"Ann\"}", "missing"},
	{"{\"name\":{\"name\":1}}", "ok: {\"name\":1}|NULL|NULL|NULL"}, {"{\"name\":true,\"raw\":\"s\"}", "ok: true|NULL|NULL|\"s\""}, {"{\"name\":\"\"}", "ok: |NULL|NULL|NULL"},
	{"{\"name\":[1,2],\"raw\":[1,2]}", "ok: [1,2]|NULL|NULL|[1,2]"}, {"{\"year\":12345678901234567890}", "ok: NULL|12345678901234567890|NULL|NULL"},
	{"{\"name\":\"a\",\"name\":\"b\"}", "ok: b|NULL|NULL|NULL"}, {"{\"name\":\"a\\u0000b\"}", "ok: a\uFFFDb|NULL|NULL|NULL"},
	{"```json\n{\"name\":\"Ann\"}\n```", "ok: Ann|NULL|NULL|NULL"}, {"{\"tags\":\"MISSING\",\"name\":\"a\"}", "ok: a|NULL|NULL|NULL"},
	{"{\"tags\":\"a\"}", "invalid 22P02"}, {"{\"tags\":{}}", "invalid 22P02"}, {"[]", "invalid 22P02"}, {"null", "invalid 22P02"}, {"\"Ann\"", "invalid 22P02"},
	{"Ann", "invalid 22032"}, {"{\"name\":\"Ann\"", "invalid 22032"}, {"MISSING", "missing"}, {"", "missing"}
};

static void
test_json(void)
{
	static const AnswerColumn columns[] = {{"name", false, false}, {"year", false, false}, {"tags", true, false}, {"raw", false, true}};
	AnswerRules any = {.expect_json = true, .missing = "MISSING"};
	AnswerRules target = {.target_is_json = true, .missing = "MISSING"};
	AnswerRules array = {.target_is_array = true, .missing = "MISSING"};
	AnswerRules json_array = {.target_is_array = true, .target_is_json = true};
	AnswerRules members = {.expect_json = true, .missing = "MISSING", .columns = columns, .ncolumns = 4, .department = true};
	AnswerRules only_answer = {.columns = columns, .ncolumns = 0};
	Answer		answer;

	run_cases("schema", &any, any_json, lengthof(any_json));
	run_cases("json target", &target, json_target, lengthof(json_target));
	run_cases("array target", &array, array_target, lengthof(array_target));
	run_cases("json array target", &json_array, json_array_target, lengthof(json_array_target));
	run_cases("columns", &members, several, lengthof(several));
	is_text(show(&only_answer, "any text"), "ok: any text", "no property is asked for");

	answer_read(&members, "{\"tags\":1,\"name\":\"x\"}", &answer);
	is_text(answer.message, "property \"tags\" of the answer is not a JSON array", "the message names the property");
	is_text(answer.text, "{\"tags\":1,\"name\":\"x\"}", "and the text is kept");
	ok(answer.values[0] == NULL, "but no value");
	answer_read(&any, "{", &answer);
	is_text(answer.message, "answer is not valid JSON: the text ends too early", "the message says why");
	arena_reset();
}

/* Ten megabytes of what is worst, in linear time. */
static void
test_large(void)
{
	static const AnswerColumn column = {"a", true, false};
	static const char *const worst[] = {
		"*", "\"", "'", "\"'", "\u201c\u2019", "`", "```", "```\n", "\n", " ", "\u00a0", "\u200b", "# ", "- ", "> ", "[", "]", "{", "[]", "{\"a\":",
		"Department: ", "Department of ", ".", ". ", "is ", "x", "x\n", ":\n", "\\", "\\u0000", "1,", "\u4e2d", "\xff", "\xc3", "~~~", "MISSING ", "M"
	};
	AnswerRules rules[] = {
		{.department = true, .missing = "MISSING"}, {.missing = "MISSING"}, {.expect_json = true, .missing = "MISSING"},
		{.target_is_array = true}, {.target_is_json = true}, {.expect_json = true, .columns = &column, .ncolumns = 1}
	};
	AnswerRules array = {.target_is_array = true};
	double		slowest = 0;

	for (int i = 0; i < lengthof(worst); i++)
	{
		char	   *text = repeat(worst[i], 10000000 / strlen(worst[i]));

		for (int k = 0; k < lengthof(rules); k++)
		{
			Answer		answer;
			double		start = cpu_ms();

			answer_read(&rules[k], text, &answer);
			slowest = Max(slowest, cpu_ms() - start);
		}
		arena_reset();
	}
	ok(slowest < 10000, "ten megabytes of anything: %.0f ms at most", slowest);

	ok(strlen(show(&array, psprintf("[%s\"\"]", repeat("\"\\\"\\\\\",", 300000)))) == 300000 * 7 + 8, "a large array");
	arena_reset();
	ok(strncmp(show(&array, psprintf("%s1%s", repeat("[", 500), repeat("]", 500))), "ok: {{{", 7) == 0, "a deep array");
	is_text(show(&array, psprintf("%s%s", repeat("[", 10000), repeat("]", 10000))), "invalid 22032", "too deep an array");
	arena_reset();
}

int
main(void)
{
	test_department();
	test_plain();
	test_json();
	test_large();
	return done_testing();
}
