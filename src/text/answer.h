/*-------------------------------------------------------------------------
 *
 * answer.h
 *		From a model's text to the values of columns, or why not.
 *
 * Knows no type of PostgreSQL but arrays: values leave as text in the input
 * syntax of their column, and the UPDATE casts them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_ANSWER_H
#define DESS_TEXT_ANSWER_H

typedef struct AnswerColumn
{
	const char *property;		/* JSON property, as in target_columns */
	bool		is_array;		/* target is an array type: JSON arrays become array literals */
	bool		is_json;		/* target is json or jsonb: values stay JSON text */
} AnswerColumn;

typedef struct AnswerRules
{
	bool		department;		/* the built-in prompt's cleaning */
	const char *missing;		/* word that means "nothing found", or NULL */
	bool		expect_json;	/* a schema was given */
	const AnswerColumn *columns;	/* for target_columns; NULL for a single target */
	int			ncolumns;
	bool		target_is_json; /* the single target's type is json or jsonb */
	bool		target_is_array;
} AnswerRules;

typedef enum AnswerKind
{
	ANSWER_OK,
	ANSWER_MISSING,				/* nothing found */
	ANSWER_INVALID				/* message says why */
} AnswerKind;

typedef struct Answer
{
	AnswerKind	kind;
	char	   *text;			/* the cleaned answer, UTF-8; also set when missing or invalid */
	char	  **values;			/* ncolumns texts or NULLs, or one for a single target */
	const char *sqlstate;		/* for ANSWER_INVALID: "22P02", "22032" ... */
	char	   *message;
} Answer;

/* Never raises because of the text.  Everything is palloc'd in the current context. */
extern void answer_read(const AnswerRules *rules, const char *text, Answer *answer);

#endif							/* DESS_TEXT_ANSWER_H */
