/*-------------------------------------------------------------------------
 *
 * answer_department.c
 *		Cleaning of answers to the built-in department prompt.
 *
 * The first line that says anything is taken: models add their reasons below.
 * That line is either a name, once its dress is off, or the answer is invalid;
 * nothing is searched for inside a sentence, because a wrong department is
 * worse than none.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "text/answer_text.h"

#define NAME_MAX_CHARS	200
#define NAME_MAX_WORDS	20
#define LINE_MAX_BYTES	4000	/* a longer line is no name however it is dressed */

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

char *
department_why_not(Span text)
{
	int			words = 0;
	int			after_stop = 0;
	int			chars = 0;

	if (*text.start == '{' || *text.start == '<')
		return pstrdup("answer is markup, not the name of a department");
	for (const char *p = text.start; p < text.end; p++)
	{
		if (((unsigned char) *p & 0xC0) != 0x80)
			chars++;
	}
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

Span
department_find_name(Span text)
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
