/*-------------------------------------------------------------------------
 *
 * template.h
 *		Prompt templates: parse once, render for every row.
 *
 * "{column}" is that column's text, "{row}" a JSON object of columns without
 * nulls, "{{" and "}}" are braces.  Values come in as text that the caller
 * produced under pinned settings; nothing here knows a table or a datum.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_TEMPLATE_H
#define DESS_TEXT_TEMPLATE_H

#include "lib/stringinfo.h"

typedef enum TemplateErrorKind
{
	TEMPLATE_OK,
	TEMPLATE_UNKNOWN_COLUMN,	/* name holds what was asked for */
	TEMPLATE_UNCLOSED_BRACE,
	TEMPLATE_STRAY_BRACE,		/* a single "}" */
	TEMPLATE_EMPTY_NAME
} TemplateErrorKind;

typedef struct TemplateError
{
	TemplateErrorKind kind;
	int			position;		/* byte offset, from 0 */
	char	   *name;
} TemplateError;

typedef struct TemplateColumn
{
	const char *name;
	bool		is_json;		/* its text already is a JSON value (number, boolean, json) */
	bool		in_row;			/* shown by {row} */
	bool		counts;			/* for {row}: non-blank text here makes the row worth sending */
} TemplateColumn;

typedef struct Template Template;

/*
 * Parse text over the given columns (the array must outlive the template).
 * Returns NULL and fills error when the text is wrong.  {row} always means
 * the object, even where a column has that name.
 */
extern Template *template_parse(const char *text, const TemplateColumn *columns, int ncolumns,
								TemplateError *error);

/* used[i] is set for every column that rendering reads; returns how many. */
extern int	template_used_columns(const Template *template, bool *used);

/*
 * Append the rendered text to out.  values[i] is column i's text, or NULL for
 * SQL null.  Returns false when there is nothing to read: no placeholder had
 * text other than white space.  A template without placeholders never has.
 */
extern bool template_render(const Template *template, const char *const *values, StringInfo out);

/* The built-in department prompt: the system text and the template ("{row}"). */
extern const char *const template_department_system;
extern const char *const template_department_user;

#endif							/* DESS_TEXT_TEMPLATE_H */
