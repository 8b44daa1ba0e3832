/*-------------------------------------------------------------------------
 *
 * answer.c
 *		From a model's text to the values of columns, or why not.
 *
 * What a model writes around its answer is taken off only where the built-in
 * department prompt asked (answer_department.c); an answer to any other prompt
 * is not interpreted.  An empty answer is missing whatever the prompt.  Numbers
 * and JSON leave as the model wrote them, never printed again from a double.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "text/answer.h"
#include "text/answer_text.h"
#include "text/json.h"

uint32
text_next_char(const char **p)
{
	const unsigned char *s = (const unsigned char *) *p;
	int			length = s[0] < 0x80 ? 1 : s[0] < 0xE0 ? 2 : s[0] < 0xF0 ? 3 : 4;
	uint32		c = length == 1 ? s[0] : s[0] & (0x7F >> length);

	for (int i = 1; i < length; i++)
		c = (c << 6) | (s[i] & 0x3F);
	*p += length;
	return c;
}

uint32
text_fold_char(uint32 c)
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
		if (text_fold_char(text_next_char(&text.start)) != text_fold_char(text_next_char(&other.start)))
			return false;
	}
	return text.start == text.end && other.start == other.end;
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

static void
read_department(const AnswerRules *rules, Span text, Answer *answer)
{
	static const char *const missing[] = {"n/a", "none", "unknown", "missing"};
	Span		name = department_find_name(text);

	if (is_missing(rules, name))
		answer->kind = ANSWER_MISSING;
	for (int i = 0; i < lengthof(missing); i++)
	{
		if (equals_word(name, missing[i]))
			answer->kind = ANSWER_MISSING;
	}
	if (answer->kind != ANSWER_MISSING)
	{
		char	   *why = department_why_not(name);

		if (why != NULL)
		{
			set_invalid(answer, "22P02", why);
			return;
		}
		answer->values[0] = span_copy(name);
	}
	answer->text = span_copy(name);
}

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

/* Nothing but arrays in it, and those empty or alike? */
static bool
is_hollow(JsonValue *array)
{
	for (JsonValue *element = json_first(array); element != NULL; element = json_next(element))
	{
		if (!json_is_array(element) || !is_hollow(element))
			return false;
	}
	return true;
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
	if (is_array && !is_json && is_hollow(value))
		appendStringInfoString(&out, "{}");	/* it has no other empty array */
	else if (is_array)
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
	doc = json_parse_line(answer->text, strlen(answer->text), &why);
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
