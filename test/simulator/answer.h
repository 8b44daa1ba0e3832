/*
 * answer.h
 *		What the model says.
 */
#ifndef ANSWER_H
#define ANSWER_H

#include "sim.h"

/* facts.c: what a prompt shows about a person */
typedef struct Facts
{
	char	   *first;			/* all of these may be NULL */
	char	   *last;
	char	   *full;
	char	   *university;
	char	   *id_text;
	char	   *text[32];
	int			ntext;
	char	   *name[64];		/* every field as it was shown */
	char	   *value[64];
	int			nfields;
} Facts;

extern void facts_read(const char *prompt, Facts *f);
extern const char *facts_value(const Facts *f, const char *name);
extern void facts_free(Facts *f);

/* department.c: NULL when the text does not say */
extern char *department_of(const Facts *f);

/* answer.c */
extern char *answer_prompt(const char *all, const char *user, const cJSON *schema,
						   bool json_mode);
extern bool answers_add(const cJSON *list, char *why, size_t size);
extern cJSON *answers_find(const char *prompt);
extern void answers_write(StrBuf *b);
extern void answers_clear(void);

#endif							/* ANSWER_H */
