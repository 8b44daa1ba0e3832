/*-------------------------------------------------------------------------
 *
 * test_json.c
 *		Tests of src/json.c and src/json_scan.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/json.h"
#include "tap.h"

/* json_parse() or json_parse_line(): they are to do the same. */
static JsonDoc *(*parse) (const char *text, size_t len, const char **why);

/* Parses and prints again; NULL, with why in *why, where the text is refused. */
static char *
round_trip(const char *text, size_t length, const char **why)
{
	JsonDoc    *doc = parse(text, length, why);
	StringInfoData out;

	if (doc == NULL)
		return NULL;
	initStringInfo(&out);
	json_append_value(&out, json_root(doc));
	json_free(doc);
	return out.data;
}

static void
test_accepted(void)
{
	static const struct
	{
		const char *text;
		const char *printed;
	}			cases[] = {
		{"null", "null"}, {"true", "true"}, {" \t\r\n false \n", "false"}, {"\"\"", "\"\""}, {"[]", "[]"}, {"{}", "{}"},
		{"[ ]", "[]"}, {"{ }", "{}"}, {"[1,2 , 3]", "[1,2,3]"}, {"[[],[[]],{}]", "[[],[[]],{}]"},
		{"{\"a\":{\"b\":[{}]},\"c\":null}", "{\"a\":{\"b\":[{}]},\"c\":null}"},
		{"\xEF\xBB\xBF{\"bom\":1}", "{\"bom\":1}"}, {"\xEF\xBB\xBF" "1", "1"}, {"\xEF\xBB\xBF\"\\u0000\"", "\"\uFFFD\""},
		{"{\"\":1}", "{\"\":1}"}, {"{\"a\":1,\"a\":2,\"A\":3}", "{\"a\":1,\"a\":2,\"A\":3}"},
		{"\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"", "\"\\\"\\\\/\\u0008\\u000c\\n\\r\\t\""},
		{"\"\\u00e9\\u00C9\\u4e2d\"", "\"\u00e9\u00c9\u4e2d\""},
		{"\"\\ud83c\\udf93\\uD83C\\uDF93\"", "\"\U0001F393\U0001F393\""},
		{"\"\u00e9\u4e2d\U0001F393\u2028\"", "\"\u00e9\u4e2d\U0001F393\u2028\""},
		{"\"\x7f\"", "\"\x7f\""},

		/* what PostgreSQL's text cannot hold */
		{"\"a\\u0000b\"", "\"a\uFFFDb\""}, {"\"\\u0000\"", "\"\uFFFD\""}, {"{\"\\u0000\":1}", "{\"\uFFFD\":1}"},
		{"\"\\ud800\"", "\"\uFFFD\""}, {"\"\\udc00\"", "\"\uFFFD\""}, {"\"\\ud800x\"", "\"\uFFFDx\""},
		{"\"\\ud800\\n\"", "\"\uFFFD\\n\""}, {"\"\\ud800\\ud800\\udc00\"", "\"\uFFFD\U00010000\""},
		{"\"\\udc00\\ud800\"", "\"\uFFFD\uFFFD\""}, {"\"\\ud800\\u0041\"", "\"\uFFFDA\""},
		{"\"\\uDBFF\\uDFFF\\uDBFF\"", "\"\U0010FFFF\uFFFD\""},
		{"\"\\\\u0000\"", "\"\\\\u0000\""}, {"\"\\\\\\u0000\"", "\"\\\\\uFFFD\""}, {"\"\\\\ud800\"", "\"\\\\ud800\""},

		/* numbers stay as they were written */
		{"0", "0"}, {"-0", "-0"}, {"-1", "-1"}, {"123456789012345", "123456789012345"},
		{"9007199254740993", "9007199254740993"}, {"-9223372036854775808", "-9223372036854775808"},
		{"123456789012345678901234567890.123456789", "123456789012345678901234567890.123456789"},
		{"1.10", "1.10"}, {"1e400", "1e400"}, {"-1E-400", "-1E-400"}, {"1e+2", "1e+2"}, {"0.1e1", "0.1e1"}, {"0e0", "0e0"},
		{"[1,1.0,[2,2.50],{\"a\":3,\"b\":3.750},4]", "[1,1.0,[2,2.50],{\"a\":3,\"b\":3.750},4]"},
		{"[[[1.0]],2.0,{\"a\":[],\"b\":{}},3.0]", "[[[1.0]],2.0,{\"a\":[],\"b\":{}},3.0]"},
		{"[1111111111222222222233333333334444444444555555555566666666667777777777,5]",
		"[1111111111222222222233333333334444444444555555555566666666667777777777,5]"},
		{"[\"\\u0000\",0.1111111111222222222233333333334444444444555555555566666666667777777777]",
		"[\"\uFFFD\",0.1111111111222222222233333333334444444444555555555566666666667777777777]"}
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		const char *why = NULL;
		size_t		length = strlen(cases[i].text);
		char	   *printed = round_trip(cases[i].text, length, &why);

		is_text(printed, cases[i].printed, "accepted: %s", cases[i].text);
		ok(json_is_valid(cases[i].text, length, &why) == (cases[i].text[0] != '\xEF'), "valid: %s", cases[i].text);
		if (printed != NULL)
			is_text(round_trip(printed, strlen(printed), &why), printed, "twice: %s", cases[i].text);
		arena_reset();
	}
}

static void
test_refused(void)
{
	static const char *const cases[] = {
		"", " ", "\xEF\xBB\xBF", "nul", "nullx", "True", "NaN", "Infinity", "-Infinity", "undefined", "'a'", "a",
		"[", "]", "{", "}", "[1", "[1,", "[1,]", "[,1]", "[1,,2]", "[1 2]", "[1}", "{]", "[[]", "[]]", "{}}",
		"{\"a\"}", "{\"a\":}", "{\"a\":1,}", "{\"a\" 1}", "{a:1}", "{1:1}", "{\"a\":1 \"b\":2}", "{,}", "{\"a\":1,,\"b\":2}",
		"1 2", "{} x", "\"a\" \"b\"", "null,", "[] []", "{\"a\":1}\xEF\xBB\xBF",
		"01", "-01", "+1", "1.", ".1", "1.e1", "1e", "1e+", "-", "--1", "0x1", "1_000", "1e1.5", "00", "-a", "1.2.3",
		"\"", "\"a", "\"\\", "\"\\\"", "\"\\x\"", "\"\\u\"", "\"\\u12\"", "\"\\u12g4\"", "\"\\u123\"", "\"\\U0041\"",
		"\"\n\"", "\"\t\"", "\"\x01\"", "\"\x1f\"", "\"\\\n\"", "{\"a\nb\":1}",
		"\"\xff\"", "\"\xc0\x80\"", "\"\xc1\xbf\"", "\"\xed\xa0\x80\"", "\"\xed\xbf\xbf\"", "\"\xf4\x90\x80\x80\"", "\"\xf5\x80\x80\x80\"",
		"\"\xe2\x82\"", "\"\xe0\x80\x80\"", "\"\xe0\x9f\xbf\"", "\"\xf0\x80\x80\x80\"", "\"\xf0\x8f\xbf\xbf\"", "\"\x80\"", "\"\xc3\"", "\"\xe2\x28\xa1\"",
		"/* c */ 1", "// c\n1", "[1]\f", "\xc2\xa0" "1", "\xef\xbb\xbf\xef\xbb\xbf" "1"
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		const char *why = NULL;
		size_t		length = strlen(cases[i]);

		ok(parse(cases[i], length, &why) == NULL && why != NULL, "refused: %s (%s)", cases[i], why ? why : "?");
		ok(!json_is_valid(cases[i], length, &why), "invalid: %s", cases[i]);
		ok(json_clean(cases[i], length, &why) == NULL, "not cleaned: %s", cases[i]);
		arena_reset();
	}
}

/* Every piece of a document that ends too early must be refused, and nothing read behind its end. */
static void
test_cut(void)
{
	static const char text[] = "{\"k\\u00e9\\ud83c\\udf93\":[1,-2.5e+3,true,false,null,\"\u4e2d\\n\",{}],\"x\":{\"y\":[[]]}}";
	size_t		length = strlen(text);
	int			accepted = 0;
	const char *why;

	for (size_t cut = 0; cut <= length; cut++)
	{
		char	   *copy = malloc(Max(cut, 1));
		JsonDoc    *doc;

		/* exactly so long, so that a sanitizer sees a read too far */
		memcpy(copy, text, cut);
		doc = parse(copy, cut, &why);
		if (doc != NULL)
			accepted++;
		json_free(doc);
		free(copy);
	}
	is_int(accepted, 1, "of all beginnings of a document only the whole one is accepted");
	ok(parse("\"a\0b\"", 5, &why) == NULL, "a NUL byte in a string is refused");
	ok(parse("1\0", 2, &why) == NULL, "a NUL byte behind the value is refused");
	arena_reset();
}

static void
test_limits(void)
{
	const char *why = NULL;
	JsonDoc    *doc;
	char	   *text;
	double		start;

	text = psprintf("%s%s", repeat("[", JSON_MAX_DEPTH), repeat("]", JSON_MAX_DEPTH));
	is_text(round_trip(text, strlen(text), &why), text, "as deep as allowed");
	text = psprintf("%s1.5%s", repeat("{\"a\":[", JSON_MAX_DEPTH / 2), repeat("]}", JSON_MAX_DEPTH / 2));
	is_text(round_trip(text, strlen(text), &why), text, "as deep as allowed, with a number to keep");
	text = psprintf("%s%s", repeat("[", JSON_MAX_DEPTH + 1), repeat("]", JSON_MAX_DEPTH + 1));
	ok(parse(text, strlen(text), &why) == NULL, "one level more is refused: %s", why);
	text = psprintf("%s1%s", repeat("{\"a\":", 10000), repeat("}", 10000));
	ok(parse(text, strlen(text), &why) == NULL, "10,000 levels are refused: %s", why);
	text = repeat("[", 10000000);
	ok(parse(text, 10000000, &why) == NULL, "ten million levels are refused: %s", why);
	arena_reset();

	text = psprintf("[%s1]", repeat("1,", JSON_MAX_VALUES - 2));
	doc = parse(text, strlen(text), &why);
	ok(doc != NULL, "as many values as allowed");
	json_free(doc);
	text = psprintf("[%s1]", repeat("1,", JSON_MAX_VALUES - 1));
	ok(parse(text, strlen(text), &why) == NULL, "one more is refused: %s", why);
	ok(json_is_valid(text, strlen(text), &why), "though it is valid");
	arena_reset();

	start = cpu_ms();
	text = psprintf("[%s1]", repeat("1.5,", 500000));
	doc = parse(text, strlen(text), &why);
	ok(doc != NULL, "half a million numbers to keep");
	json_free(doc);
	text = psprintf("\"%s\"", repeat("\\u0000\\ud800", 1000000));
	doc = parse(text, strlen(text), &why);
	ok(doc != NULL && strlen(json_string(json_root(doc))) == 6000000, "two million escapes to replace");
	json_free(doc);
	text = psprintf("\"%s\"", repeat("\\", 5000000));
	doc = parse(text, strlen(text), &why);
	ok(doc != NULL && strlen(json_string(json_root(doc))) == 2500000, "five million backslashes");
	json_free(doc);
	ok(cpu_ms() - start < 20000, "in linear time");
	arena_reset();
}

static void
test_access(void)
{
	static const char text[] =
		"{\"Key\":\"upper\",\"key\":\"lower\",\"n\":null,\"twice\":1,\"twice\":2,\"gone\":1,\"gone\":null,"
		"\"response\":{\"body\":{\"error\":{\"message\":\"m\",\"code\":429}}},"
		"\"choices\":[{\"message\":{\"content\":\"c\"}},{\"message\":null},null,[[7]]],"
		"\"t\":true,\"f\":false,\"size\":\"123\",\"dotted.name\":1,\"\":\"empty\"}";
	const char *why;
	JsonDoc    *doc = parse(text, strlen(text), &why);
	JsonValue  *root = json_root(doc);
	int			count = 0;

	is_text(json_member_string(root, "key"), "lower", "members are found case-sensitively");
	is_text(json_member_string(root, "Key"), "upper", "both ways");
	ok(json_member(root, "KEY") == NULL, "and not otherwise");
	ok(json_member(root, "ke") == NULL && json_member(root, "keyy") == NULL, "nor by a part");
	ok(json_member(root, "n") == NULL, "null counts as absent");
	is_int(json_member_int64(root, "twice", 0), 2, "the last of equal names counts");
	ok(json_member(root, "gone") == NULL, "also where it is null");
	is_text(json_member_string(root, ""), "empty", "an empty name");
	is_text(json_string(json_path(root, "response.body.error.message")), "m", "a path");
	is_text(json_string(json_path(root, "choices[0].message.content")), "c", "a path with an index");
	ok(json_path(root, "choices[1].message") == NULL, "a path to null");
	ok(json_path(root, "choices[2]") == NULL, "a path to an element that is null");
	ok(json_path(root, "choices[9].message") == NULL, "a path behind the end");
	ok(json_path(root, "choices.message") == NULL && json_path(root, "response[0]") == NULL, "a path of the wrong kind");
	ok(json_path(root, "response.nothing.error") == NULL, "a path to nothing");
	ok(json_path(root, "choices[") == NULL && json_path(root, "choices[0") == NULL, "half a path");
	{
		int64		seven = 0;

		ok(json_int64(json_path(root, "choices[3][0][0]"), &seven) && seven == 7, "indexes in a row");
	}
	ok(json_path(root, "") == root, "no path");
	for (JsonValue *child = json_first(root); child != NULL; child = json_next(child))
		count++;
	is_int(count, 14, "iteration sees every member");
	is_text(json_name(json_first(root)), "Key", "with its name");
	ok(json_bool(json_member(root, "t"), false) && !json_bool(json_member(root, "f"), true), "booleans");
	ok(json_bool(json_member(root, "size"), true) && !json_bool(NULL, false), "what is no boolean");
	ok(json_is_object(root) && !json_is_array(root) && !json_is_string(root) && !json_is_null(root), "kinds");
	ok(json_string(json_member(root, "twice")) == NULL, "a number is no string");
	is_text(json_to_text(json_path(root, "response.body")), "{\"error\":{\"message\":\"m\",\"code\":429}}", "an object as text");
	is_text(json_to_text(json_member(root, "t")), "true", "true as text");
	is_text(json_to_text(json_member(root, "key")), "lower", "a string as text");
	is_text(json_to_text(json_member(root, "twice")), "2", "a number as text");
	is_text(json_to_text(NULL), "null", "nothing as text");
	ok(json_member(NULL, "a") == NULL && json_path(NULL, "a") == NULL && json_first(NULL) == NULL && json_next(NULL) == NULL &&
	   json_name(NULL) == NULL && json_string(NULL) == NULL && json_is_null(NULL) && !json_is_object(NULL), "nothing has nothing");
	json_free(doc);
	json_free(NULL);
	arena_reset();
}

static void
test_int64(void)
{
	static const struct
	{
		const char *text;
		bool		good;
		int64		value;
	}			cases[] = {
		{"0", true, 0}, {"-0", true, 0}, {"42", true, 42}, {"-42", true, -42}, {"\"123\"", true, 123}, {"\"-5\"", true, -5},
		{"9007199254740993", true, INT64CONST(9007199254740993)}, {"9223372036854775807", true, PG_INT64_MAX},
		{"-9223372036854775808", true, PG_INT64_MIN}, {"9223372036854775808", false, 0}, {"-9223372036854775809", false, 0},
		{"\"9223372036854775807\"", true, PG_INT64_MAX}, {"\"9223372036854775808\"", false, 0},
		{"1.0", true, 1}, {"2e3", true, 2000}, {"1.5", false, 0}, {"1e300", false, 0}, {"1e400", false, 0}, {"-2.50e1", true, -25},
		{"\"\"", false, 0}, {"\" 1\"", false, 0}, {"\"1 \"", false, 0}, {"\"+1\"", false, 0}, {"\"1.0\"", false, 0}, {"\"-\"", false, 0},
		{"\"1a\"", false, 0}, {"true", false, 0}, {"null", false, 0}, {"[1]", false, 0}, {"{}", false, 0},
		{"111111111122222222223333333333444444444455555555556666666666", false, 0},
		{"1111111111222222222233333333334444444444555555555566666666667777777777", false, 0}
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		const char *why;
		JsonDoc    *doc = parse(cases[i].text, strlen(cases[i].text), &why);
		int64		value = 0;
		bool		good = json_int64(json_root(doc), &value);

		ok(good == cases[i].good && (!good || value == cases[i].value), "integer of %s", cases[i].text);
		json_free(doc);
	}
	arena_reset();
}

static void
test_clean(void)
{
	static const char text[] = " {\"a\" : 1.50, \"b\":\"\\u0000 \\\\u0000 \\ud800 \\ud83c\\udf93\",\"long\":"
		"1111111111222222222233333333334444444444555555555566666666667777777777}\n";
	const char *why;

	is_text(json_clean(text, strlen(text), &why),
			" {\"a\" : 1.50, \"b\":\"\\ufffd \\\\u0000 \\ufffd \\ud83c\\udf93\",\"long\":"
			"1111111111222222222233333333334444444444555555555566666666667777777777}\n",
			"cleaned text differs only in escapes");
	is_text(json_clean("[1 ]", 4, &why), "[1 ]", "clean text stays");
	arena_reset();
}

static void
test_writing(void)
{
	static const struct
	{
		const char *text;
		const char *written;
	}			cases[] = {
		{"", "\"\""}, {"abc", "\"abc\""}, {"\"", "\"\\\"\""}, {"\\", "\"\\\\\""}, {"a\"b\\c", "\"a\\\"b\\\\c\""},
		{"\b\f\n\r\t\x01\x1f", "\"\\u0008\\u000c\\n\\r\\t\\u0001\\u001f\""}, {"\x7f", "\"\x7f\""},
		{"12345678\"12345678", "\"12345678\\\"12345678\""}, {"/", "\"/\""},
		{"\u00e9\u4e2d\U0001F393\u2028", "\"\u00e9\u4e2d\U0001F393\u2028\""}
	};
	StringInfoData out;
	const char *why;
	int			wrong = 0;

	initStringInfo(&out);
	for (int i = 0; i < lengthof(cases); i++)
	{
		resetStringInfo(&out);
		json_append_cstring(&out, cases[i].text);
		is_text(out.data, cases[i].written, "written: %s", cases[i].text);
	}
	resetStringInfo(&out);
	json_append_string(&out, "a\0b", 3);
	is_text(out.data, "\"a\\u0000b\"", "a NUL is escaped");

	/* every byte at every place of a word */
	for (int c = 1; c < 0x80; c++)
	{
		for (int place = 0; place < 20; place++)
		{
			char		text[21];
			JsonDoc    *doc;

			memset(text, 'x', 20);
			text[20] = '\0';
			text[place] = c;
			resetStringInfo(&out);
			json_append_cstring(&out, text);
			doc = parse(out.data, out.len, &why);
			if (doc == NULL || strcmp(json_string(json_root(doc)), text) != 0)
				wrong++;
			json_free(doc);
		}
	}
	is_int(wrong, 0, "every character at every place is read back");
	arena_reset();
}

/* A decoder that is slow and plain: is it one character of UTF-8 other than NUL? */
static bool
plain_is_utf8(const unsigned char *s, size_t length)
{
	size_t		i = 0;

	while (i < length)
	{
		uint32		c = s[i];
		int			more = c >= 0xF0 ? 3 : c >= 0xE0 ? 2 : c >= 0xC0 ? 1 : 0;
		static const uint32 least[] = {1, 0x80, 0x800, 0x10000};

		if ((c >= 0x80 && c < 0xC0) || c >= 0xF8)
			return false;
		if (more > 0)
			c &= 0x3F >> more;
		for (int k = 1; k <= more; k++)
		{
			if (i + k >= length || (s[i + k] & 0xC0) != 0x80)
				return false;
			c = c << 6 | (s[i + k] & 0x3F);
		}
		if (c < least[more] || c > 0x10FFFF || (c >= 0xD800 && c <= 0xDFFF))
			return false;
		i += more + 1;
	}
	return true;
}

static void
test_utf8(void)
{
	int			wrong = 0;
	uint32		random = 1;

	for (uint32 pair = 0; pair < 0x10000; pair++)
	{
		static const unsigned char ends[] = {0x00, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC2, 0xFF};

		for (int k = 0; k < lengthof(ends); k++)
		{
			unsigned char s[4] = {pair >> 8, pair & 0xFF, ends[k], 0x80};

			for (int length = 1; length <= 4; length++)
			{
				if (json_is_utf8((char *) s, length) != plain_is_utf8(s, length))
					wrong++;
			}
		}
	}
	is_int(wrong, 0, "all pairs of bytes");

	wrong = 0;
	for (int round = 0; round < 200000; round++)
	{
		static const char *const parts[] = {"a", "12345678", "\u00e9", "\u4e2d", "\U0001F393", "\xff", "\xc3", "\xed\xa0\x80", "", "zz"};
		unsigned char s[64];
		size_t		length = 0;

		for (int k = 0; k < 6; k++)
		{
			const char *part;

			random = random * 1103515245 + 12345;
			part = parts[(random >> 16) % ((round % 2) ? 5 : lengthof(parts))];
			memcpy(s + length, part, strlen(part));
			length += strlen(part);
		}
		if (json_is_utf8((char *) s, length) != plain_is_utf8(s, length))
			wrong++;
	}
	is_int(wrong, 0, "random texts");
	ok(json_is_utf8("", 0), "the empty text");
	ok(!json_is_utf8("1234567\0", 8) && !json_is_utf8("\0", 1), "a NUL");
}

static void
test_excerpt(void)
{
	static const struct
	{
		const char *text;
		size_t		limit;
		const char *expected;
	}			cases[] = {
		{"", 10, ""}, {"abc", 10, "abc"}, {"abc", 3, "abc"}, {"abc", 2, "ab"}, {"abc", 0, ""},
		{"a\u00e9", 2, "a"}, {"a\u00e9", 3, "a\u00e9"}, {"\U0001F393", 3, ""}, {"\U0001F393", 4, "\U0001F393"},
		{"x\U0001F393y", 5, "x\U0001F393"}, {"a\nb\tc\x01" "d\x7f" "e", 20, "a b c d e"}, {"a\xc2\x85" "b\xc2\x9f" "c\u00a0d", 20, "a b c\u00a0d"},
		{"a\xff" "b", 20, "a?b"}, {"\xc3", 20, "?"}, {"\xc3\xa9\xc3", 20, "\u00e9?"}, {"ab\xe4\xb8", 3, "ab?"}
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_text(json_excerpt(cases[i].text, cases[i].limit), cases[i].expected, "excerpt %d", i);
	is_text(json_excerpt(NULL, 5), "", "excerpt of nothing");
	is_int(strlen(json_excerpt(repeat("\u4e2d", 1000), 200)), 198, "excerpt of a long text");
	arena_reset();
}

static void
test_all(void)
{
	test_accepted();
	test_refused();
	test_cut();
	test_limits();
	test_access();
	test_int64();
	test_clean();
	test_writing();
	test_utf8();
	test_excerpt();
}

int
main(void)
{
	parse = json_parse;
	test_all();
	parse = json_parse_line;
	test_all();
	return done_testing();
}
