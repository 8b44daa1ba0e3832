/*-------------------------------------------------------------------------
 *
 * answer_text.h
 *		What the files that read models' text share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_ANSWER_TEXT_H
#define DESS_TEXT_ANSWER_TEXT_H

#include "runtime/whitespace.h"

/* what may name a language behind a code fence */
#define LANGUAGE_CHARS	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-_."

/* A piece of a text, not NUL-terminated. */
typedef struct Span
{
	const char *start;
	const char *end;
} Span;

static inline Span
trim(Span span)
{
	span.start = whitespace_skip(span.start, span.end);
	span.end = whitespace_trim_end(span.start, span.end);
	return span;
}

static inline Span
whole(const char *text)
{
	Span		span = {text, text + strlen(text)};

	return span;
}

static inline char *
span_copy(Span span)
{
	return pnstrdup(span.start, span.end - span.start);
}

static inline bool
starts_with(Span span, const char *what)
{
	size_t		length = strlen(what);

	return span.end - span.start >= length && memcmp(span.start, what, length) == 0;
}

static inline bool
ends_with(Span span, const char *what)
{
	size_t		length = strlen(what);

	return span.end - span.start >= length && memcmp(span.end - length, what, length) == 0;
}

/* The character at *p of valid UTF-8, which is moved behind it. */
extern uint32 text_next_char(const char **p);

/*
 * Lower case of Latin, Greek, Cyrillic and Armenian letters, enough to compare
 * names and words; no locale is asked.
 */
extern uint32 text_fold_char(uint32 c);

/* The line of an answer to the department prompt that is the name, cleaned; empty if nothing is said. */
extern Span department_find_name(Span text);

/* NULL if the cleaned text, which is not empty, may be the name of a department, else why not, palloc'd. */
extern char *department_why_not(Span name);

#endif							/* DESS_TEXT_ANSWER_TEXT_H */
