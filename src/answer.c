/*-------------------------------------------------------------------------
 *
 * answer.c
 *		From a model's text to the values of columns, or why not.
 *
 * Of an answer to the built-in department prompt the first line that says
 * anything is taken: models add their reasons below.  That line is either a
 * name, once its dress is off, or the answer is invalid; nothing is searched
 * for inside a sentence, because a wrong department is worse than none.  An
 * answer to any other prompt is not interpreted.  An empty answer is missing
 * whatever the prompt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "answer.h"
#include "json.h"
#include "whitespace.h"

#define NAME_MAX_CHARS	200
#define NAME_MAX_WORDS	20
#define LINE_MAX_BYTES	4000	/* a longer line is no name however it is dressed */

/* what may name a language behind a code fence */
#define LANGUAGE_CHARS	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-_."

/* A piece of a text, not NUL-terminated. */
typedef struct Span
{
	const char *start;
	const char *end;
} Span;

static Span
trim(Span span)
{
	span.start = whitespace_skip(span.start, span.end);
	span.end = whitespace_trim_end(span.start, span.end);
	return span;
}

static Span
whole(const char *text)
{
	Span		span = {text, text + strlen(text)};

	return span;
}

static char *
span_copy(Span span)
{
	return pnstrdup(span.start, span.end - span.start);
}

static bool
starts_with(Span span, const char *what)
{
	size_t		length = strlen(what);

	return span.end - span.start >= length && memcmp(span.start, what, length) == 0;
}

static bool
ends_with(Span span, const char *what)
{
	size_t		length = strlen(what);

	return span.end - span.start >= length && memcmp(span.end - length, what, length) == 0;
}

/* The character at *p of valid UTF-8, which is moved behind it. */
static uint32
next_char(const char **p)
{
	const unsigned char *s = (const unsigned char *) *p;
	int			length = s[0] < 0x80 ? 1 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
	uint32		c = length == 1 ? s[0] : s[0] & (0x7F >> length);

	for (int i = 1; i < length; i++)
		c = (c << 6) | (s[i] & 0x3F);
	*p += length;
	return c;
}

/*
 * Lower case of Latin, Greek, Cyrillic and Armenian letters, enough for the
 * word that a user chose for "nothing found"; no locale is asked.
 */
static uint32
fold_char(uint32 c)
{
	if (c < 0x80)
		return c >= 'A' && c <= 'Z' ? c + 32 : c;
	if ((c >= 0xC0 && c <= 0xDE && c != 0xD7) || (c >= 0x391 && c <= 0x3AB) ||
		(c >= 0x410 && c <= 0x42F))
		return c + 32;
	if (c == 0x178)
		return 0xFF;
	if ((c >= 0x139 && c <= 0x148) || (c >= 0x179 && c <= 0x17E))
		return c + (c & 1);
	if ((c >= 0x100 && c <= 0x137 && c != 0x130 && c != 0x131) || (c >= 0x14A && c <= 0x177) ||
		(c >= 0x1E00 && c <= 0x1E95) || (c >= 0x1EA0 && c <= 0x1EFF) ||
		(c >= 0x460 && c <= 0x481) || (c >= 0x48A && c <= 0x4BF))
		return c | 1;
	if (c == 0x386)
		return 0x3AC;
	if (c >= 0x388 && c <= 0x38A)
		return c + 37;
	if (c == 0x38C)
		return 0x3CC;
	if (c == 0x38E || c == 0x38F)
		return c + 63;
	if (c >= 0x400 && c <= 0x40F)
		return c + 80;
	if (c >= 0x531 && c <= 0x556)
		return c + 48;
	return c;
}

/* Does the text equal the word, case and white space around them aside? */
static bool
equals_word(Span text, const char *word)
{
	Span		other = trim(whole(word));

	text = trim(text);
	while (text.start < text.end && other.start < other.end)
	{
		if (fold_char(next_char(&text.start)) != fold_char(next_char(&other.start)))
			return false;
	}
	return text.start == text.end && other.start == other.end;
}

/* Moves behind the word, which is in lower case, if the text starts with it; case of ASCII letters aside. */
static bool
skip_word(Span *text, const char *word)
{
	size_t		length = strlen(word);

	if (text->end - text->start < length || pg_strncasecmp(text->start, word, length) != 0)
		return false;
	text->start += length;
	return true;
}

static bool
is_missing(const AnswerRules *rules, Span text)
{
	return text.start == text.end || (rules->missing != NULL && equals_word(text, rules->missing));
}

static void
set_invalid(Answer *answer, const char *sqlstate, char *message)
{
	answer->kind = ANSWER_INVALID;
	answer->sqlstate = sqlstate;
	answer->message = message;
}

/*
 * ---------------------------------------------------------------------------
 * The built-in department prompt
 * ---------------------------------------------------------------------------
 */

typedef struct Quote
{
	const char *text;
	bool		apostrophe;		/* may also stand within or at the end of a word */
} Quote;

static const Quote quotes[] = {
	{"\"", false}, {"''", false}, {"'", true},
	{"\u2018", true}, {"\u2019", true}, {"\u201A", false}, {"\u201B", true},
	{"\u201C", false}, {"\u201D", false}, {"\u201E", false}, {"\u201F", false},
	{"\u00AB", false}, {"\u00BB", false}, {"\u2039", false}, {"\u203A", false},
	{"\u300C", false}, {"\u300D", false}, {"\u300E", false}, {"\u300F", false},
	{"\u3008", false}, {"\u3009", false}, {"\u300A", false}, {"\u300B", false},
	{"\u301D", false}, {"\u301E", false}, {"\u301F", false},
	{"\uFF02", false}, {"\uFF07", true}, {"\u00B4", true}
};

static const Quote *
quote_at_start(Span text)
{
	for (int i = 0; i < lengthof(quotes); i++)
	{
		if (starts_with(text, quotes[i].text))
			return &quotes[i];
	}
	return NULL;
}

static const Quote *
quote_at_end(Span text)
{
	for (int i = 0; i < lengthof(quotes); i++)
	{
		if (ends_with(text, quotes[i].text))
			return &quotes[i];
	}
	return NULL;
}

/* Does the quote also stand inside the text, rather than at its ends only? */
static bool
is_inside(Span text, const char *what)
{
	size_t		length = strlen(what);

	while (starts_with(text, what))
		text.start += length;
	while (ends_with(text, what))
		text.end -= length;
	for (; text.end - text.start >= length; text.start++)
	{
		if (memcmp(text.start, what, length) == 0)
			return true;
	}
	return false;
}

/*
 * Takes off a pair of quotes, or a lone one, but neither an apostrophe nor
 * the outer ones of several quoted words ("A" and "B").
 */
static bool
strip_quotes(Span *text)
{
	const Quote *first = quote_at_start(*text);
	const Quote *last;
	Span		inner = *text;

	if (first != NULL)
		inner.start += strlen(first->text);
	last = inner.start < inner.end ? quote_at_end(inner) : NULL;
	if (last != NULL)
		inner.end -= strlen(last->text);
	if (first == NULL && last == NULL)
		return false;

	if (first == NULL || last == NULL)
	{
		if ((first != NULL ? first : last)->apostrophe)
			return false;
	}
	if ((first != NULL && !first->apostrophe && is_inside(inner, first->text)) ||
		(last != NULL && !last->apostrophe && is_inside(inner, last->text)))
		return false;
	*text = inner;
	return true;
}

/* Takes off emphasis, code marks, headings, bullets, quotation and brackets of Markdown. */
static bool
strip_marks(Span *text)
{
	static const char *const bullets[] = {"-", "+", ">", "\u2022", "\u2013", "\u2014", "\u00B7", "\u2023", "\u25E6"};
	const char *start = text->start;
	const char *end = text->end;

	while (text->start < text->end && strchr("*_`~#", *text->start) != NULL)
		text->start++;
	while (text->start < text->end && strchr("*_`~", text->end[-1]) != NULL)
		text->end--;
	if (text->end - text->start > 1 && *text->start == '[' && text->end[-1] == ']')
	{
		text->start++;
		text->end--;
	}
	for (int i = 0; i < lengthof(bullets); i++)
	{
		const char *behind = text->start + strlen(bullets[i]);

		if (starts_with(*text, bullets[i]) &&
			(behind == text->end || whitespace_length(behind, text->end) > 0))
			text->start = behind;
	}
	return text->start != start || text->end != end;
}

/* Takes off a label such as "Department:"; one without its colon only if it is the whole text. */
static bool
strip_label(Span *text)
{
	static const char *const labels[] = {
		"final answer", "answer", "output", "result", "primary department", "academic department",
		"department name", "department"
	};

	for (int i = 0; i < lengthof(labels); i++)
	{
		Span		rest = *text;

		skip_word(&rest, "the ");
		if (!skip_word(&rest, labels[i]))
			continue;
		while (rest.start < rest.end && strchr("*_`\"' ", *rest.start) != NULL)
			rest.start++;
		if (rest.start < rest.end && !skip_word(&rest, ":") && !skip_word(&rest, "\uFF1A"))
			continue;
		*text = rest;
		return true;
	}
	return false;
}

/* Takes off one final period, but none of an ellipsis or of an abbreviation such as "U.S." */
static bool
strip_period(Span *text)
{
	if (ends_with(*text, "\u3002"))
	{
		text->end -= 3;
		return true;
	}
	if (!ends_with(*text, "."))
		return false;
	for (const char *p = text->end - 1; p > text->start && p[-1] != ' '; p--)
	{
		if (p[-1] == '.')
			return false;
	}
	text->end--;
	return true;
}

/* Takes off "Department of"; something follows it, because the text is trimmed. */
static bool
strip_department_of(Span *text)
{
	static const char *const prefixes[] = {"department of ", "dept. of ", "dept of "};
	Span		rest = *text;

	skip_word(&rest, "the ");
	for (int i = 0; i < lengthof(prefixes); i++)
	{
		if (skip_word(&rest, prefixes[i]))
		{
			*text = rest;
			return true;
		}
	}
	return false;
}

static Span
clean_name(Span text)
{
	bool		period = false;
	bool		prefix = false;

	for (;;)
	{
		text = trim(text);
		if (strip_marks(&text) || strip_quotes(&text) || strip_label(&text))
			continue;
		if (!period && (period = strip_period(&text)))
			continue;
		if (!prefix && (prefix = strip_department_of(&text)))
			continue;
		return text;
	}
}

/* Words that make a sentence, and never stand in small letters within a department's name. */
static bool
is_verb(Span word)
{
	static const char *const verbs[] = {
		"is", "was", "are", "were", "does", "has", "not", "cannot", "could",
		"ist", "wird", "est", "es", "\u00E8", "\u00E9"
	};

	for (int i = 0; i < lengthof(verbs); i++)
	{
		if (starts_with(word, verbs[i]) && ends_with(word, verbs[i]) &&
			word.end - word.start == strlen(verbs[i]))
			return true;
	}
	return false;
}

/* Does the word end a sentence, rather than being abbreviated? */
static bool
is_full_stop(Span word)
{
	return word.end - word.start > 5 && strchr(".!?", word.end[-1]) != NULL;
}

/* NULL if the cleaned text may be the name of a department, else why not. */
static char *
why_no_name(Span text)
{
	int			words = 0;
	int			after_stop = 0;
	int			chars = 0;

	if (*text.start == '{' || *text.start == '<')
		return pstrdup("answer is markup, not the name of a department");
	for (const char *p = text.start; p < text.end; chars++)
		next_char(&p);
	if (chars > NAME_MAX_CHARS)
		return psprintf("answer has more than %d characters in a line", NAME_MAX_CHARS);

	while (text.start < text.end)
	{
		Span		word = text;

		while (word.start < word.end && whitespace_length(word.start, word.end) == 0)
			word.start++;
		word.end = word.start;
		word.start = text.start;
		text.start = whitespace_skip(word.end, text.end);
		words++;
		if (after_stop > 0)
			after_stop++;
		else if (is_full_stop(word))
			after_stop = 1;
		if (is_verb(word) || after_stop > 3 || words > NAME_MAX_WORDS)
			return pstrdup("answer is a sentence, not the name of a department");
	}
	return NULL;
}

/* Bytes of the line break at p: LF, VT, FF, CR, U+0085, U+2028, U+2029; 0 if there is none. */
static int
line_break_length(const char *p, const char *end)
{
	Span		rest = {p, end};

	if (!IS_HIGHBIT_SET(*p))
		return *p >= '\n' && *p <= '\r';
	if (starts_with(rest, "\xC2\x85"))
		return 2;
	if (starts_with(rest, "\u2028") || starts_with(rest, "\u2029"))
		return 3;
	return 0;
}

/* Takes the next line from the text, trimmed. */
static Span
next_line(Span *text)
{
	Span		line = {text->start, text->start};
	int			length = 0;

	while (line.end < text->end && (length = line_break_length(line.end, text->end)) == 0)
		line.end++;
	text->start = line.end + (line.end < text->end ? length : 0);
	return trim(line);
}

/* "```" or "~~~", with the name of a language or without. */
static bool
is_fence(Span line)
{
	if (!starts_with(line, "```") && !starts_with(line, "~~~"))
		return false;
	while (line.start < line.end && (*line.start == '`' || *line.start == '~'))
		line.start++;
	while (line.start < line.end && strchr(LANGUAGE_CHARS, *line.start) != NULL)
		line.start++;
	return line.start == line.end;
}

/* The first line that says something, cleaned; empty if there is none. */
static Span
find_name(Span text)
{
	Span		name = {text.end, text.end};

	while (text.start < text.end && name.start == name.end)
	{
		Span		line = next_line(&text);

		if (is_fence(line) || (ends_with(line, ":") && text.start < text.end))
			continue;
		name = line.end - line.start > LINE_MAX_BYTES ? line : clean_name(line);
	}
	return name;
}

static void
read_department(const AnswerRules *rules, Span text, Answer *answer)
{
	static const char *const missing[] = {"n/a", "none", "unknown", "missing"};
	Span		name = find_name(text);

	if (is_missing(rules, name))
		answer->kind = ANSWER_MISSING;
	for (int i = 0; i < lengthof(missing); i++)
	{
		if (equals_word(name, missing[i]))
			answer->kind = ANSWER_MISSING;
	}
	if (answer->kind != ANSWER_MISSING)
	{
		char	   *why = why_no_name(name);

		if (why != NULL)
		{
			set_invalid(answer, "22P02", why);
			return;
		}
		answer->values[0] = span_copy(name);
	}
	answer->text = span_copy(name);
}

/*
 * ---------------------------------------------------------------------------
 * JSON
 * ---------------------------------------------------------------------------
 */

/* What is inside, if the whole text is one fenced block; else the text. */
static Span
strip_fence(Span text)
{
	Span		rest = text;
	const char *language;
	char		mark[4] = "```";

	if (starts_with(text, "~~~"))
		memset(mark, '~', 3);
	else if (!starts_with(text, "```"))
		return text;

	while (rest.start < rest.end && *rest.start == mark[0])
		rest.start++;
	language = rest.start;
	while (language < rest.end && strchr(LANGUAGE_CHARS, *language) != NULL)
		language++;
	if (whitespace_length(language, rest.end) > 0)
		rest.start = language;
	if (ends_with(rest, mark))
	{
		while (rest.start < rest.end && rest.end[-1] == mark[0])
			rest.end--;
	}
	return trim(rest);
}

static void
append_quoted(StringInfo out, const char *text)
{
	appendStringInfoChar(out, '"');
	while (*text != '\0')
	{
		size_t		length = strcspn(text, "\"\\");

		appendBinaryStringInfo(out, text, length);
		text += length;
		if (*text != '\0')
		{
			appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, *text++);
		}
	}
	appendStringInfoChar(out, '"');
}

/* A JSON value as JSON text, inside the quotes of an array literal. */
static void
append_quoted_json(StringInfo out, JsonValue *value)
{
	StringInfoData json;

	initStringInfo(&json);
	json_append_value(&json, value);
	append_quoted(out, json.data);
	pfree(json.data);
}

/*
 * The array in PostgreSQL's syntax.  Elements of json and jsonb arrays are JSON
 * text, arrays among them too; elsewhere an array in the array is a dimension.
 */
static void
append_array(StringInfo out, JsonValue *array, bool of_json)
{
	char		separator = '{';

	for (JsonValue *element = json_first(array); element != NULL; element = json_next(element))
	{
		appendStringInfoChar(out, separator);
		separator = ',';
		if (json_is_null(element))
			appendStringInfoString(out, "NULL");
		else if (json_is_array(element) && !of_json)
			append_array(out, element, of_json);
		else if (json_is_string(element) && !of_json)
			append_quoted(out, json_string(element));
		else if (json_is_object(element) || json_is_array(element) || json_is_string(element))
			append_quoted_json(out, element);
		else
			json_append_value(out, element);
	}
	if (separator == '{')
		appendStringInfoChar(out, separator);
	appendStringInfoChar(out, '}');
}

/*
 * The value in the input syntax of its column, NULL for a null.  Returns NULL
 * with *fits false if an array is due and the value is none.
 */
static char *
value_to_text(const AnswerRules *rules, JsonValue *value, bool is_array, bool is_json, bool *fits)
{
	StringInfoData out;

	if (json_is_null(value))
		return NULL;
	if (json_is_string(value) && rules->missing != NULL && equals_word(whole(json_string(value)), rules->missing))
		return NULL;
	if (is_array && !json_is_array(value))
	{
		*fits = false;
		return NULL;
	}
	if (!is_array && !is_json && json_is_string(value))
		return span_copy(trim(whole(json_string(value))));

	initStringInfo(&out);
	if (is_array)
		append_array(&out, value, is_json);
	else
		json_append_value(&out, value);
	return out.data;
}

static void
read_members(const AnswerRules *rules, JsonValue *object, Answer *answer)
{
	bool		found = false;

	if (!json_is_object(object))
	{
		set_invalid(answer, "22P02", pstrdup("answer is not a JSON object"));
		return;
	}
	for (int i = 0; i < rules->ncolumns; i++)
	{
		const AnswerColumn *column = &rules->columns[i];
		bool		fits = true;

		answer->values[i] = value_to_text(rules, json_member(object, column->property),
										  column->is_array, column->is_json, &fits);
		if (!fits)
		{
			set_invalid(answer, "22P02",
						psprintf("property \"%s\" of the answer is not a JSON array", column->property));
			return;
		}
		found = found || answer->values[i] != NULL;
	}
	if (!found)
		answer->kind = ANSWER_MISSING;
}

static void
read_single(const AnswerRules *rules, JsonValue *value, Answer *answer)
{
	bool		fits = true;
	const char *why;

	answer->values[0] = value_to_text(rules, value, rules->target_is_array, rules->target_is_json, &fits);
	if (!fits)
		set_invalid(answer, "22P02", pstrdup("answer is not a JSON array"));
	else if (answer->values[0] == NULL || *answer->values[0] == '\0')
	{
		answer->kind = ANSWER_MISSING;
		answer->values[0] = NULL;
	}
	else if (!rules->target_is_array && (rules->target_is_json || !json_is_string(value)))
	{
		/* what the model wrote, not what we would write */
		answer->values[0] = json_clean(answer->text, strlen(answer->text), &why);
	}
}

static void
read_json(const AnswerRules *rules, Span text, Answer *answer)
{
	const char *why;
	JsonDoc    *doc;

	text = strip_fence(text);
	answer->text = span_copy(text);
	if (is_missing(rules, text))
	{
		answer->kind = ANSWER_MISSING;
		return;
	}
	doc = json_parse(answer->text, strlen(answer->text), &why);
	if (doc == NULL)
	{
		set_invalid(answer, "22032", psprintf("answer is not valid JSON: the text %s", why));
		return;
	}
	if (rules->ncolumns > 0)
		read_members(rules, json_root(doc), answer);
	else
		read_single(rules, json_root(doc), answer);
	json_free(doc);
}

void
answer_read(const AnswerRules *rules, const char *text, Answer *answer)
{
	Span		span;

	memset(answer, 0, sizeof(Answer));
	answer->kind = ANSWER_OK;
	answer->values = palloc0(sizeof(char *) * Max(rules->ncolumns, 1));
	if (text == NULL)
		text = "";
	if (!json_is_utf8(text, strlen(text)))
	{
		answer->text = json_excerpt(text, strlen(text));
		set_invalid(answer, "22021", pstrdup("answer is not valid UTF-8"));
		return;
	}

	span = trim(whole(text));
	if (is_missing(rules, span))
		answer->kind = ANSWER_MISSING;
	else if (rules->ncolumns > 0 || rules->expect_json || rules->target_is_json || rules->target_is_array)
		read_json(rules, span, answer);
	else if (rules->department)
		read_department(rules, span, answer);
	else
		answer->values[0] = span_copy(span);

	if (answer->text == NULL)
		answer->text = span_copy(span);
	if (answer->kind != ANSWER_OK)
		memset(answer->values, 0, sizeof(char *) * Max(rules->ncolumns, 1));
}
