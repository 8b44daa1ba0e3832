/*
 * google_content.h
 *		GenerateContent: requests as Vertex AI and the Gemini API take them, and
 *		their answers.
 */
#ifndef GOOGLE_CONTENT_H
#define GOOGLE_CONTENT_H

#include "google.h"
#include "openai.h"

typedef struct GModel
{
	Model		base;
	const char *title;
	int			budget_min;		/* thinkingBudget, when it is not 0 or -1 */
	int			budget_max;		/* 0: this model takes levels alone */
	bool		budget_zero;	/* thinking can be switched off */
	bool		levels;			/* takes thinkingLevel */
} GModel;

/* A request that was understood.  q is what answer_make() works on. */
typedef struct GQuestion
{
	Question	q;
	const GModel *model;
	bool		vertex;
	bool		thoughts;		/* includeThoughts */
	bool		bare_enum;		/* text/x.enum: the answer is not quoted */
	cJSON	   *schema;			/* in JSON Schema's terms */
} GQuestion;

/* google_models.c */
extern const GModel *gmodel_find(const char *name);
extern const GModel *gmodel_at(int i);

/* google_message.c */
extern bool message_check(const cJSON *body, bool vertex, GError *e);
extern void echo_write(StrBuf *b, const cJSON *body, bool drop_labels);

/* google_content.c */
extern bool gquestion_read(const cJSON *body, const GModel *model, bool vertex, GQuestion *g,
						   GError *e);
extern void gquestion_free(GQuestion *g);
extern void gprompt_text(const cJSON *body, StrBuf *out);

/* google_answer.c */
extern bool ganswer_write(const GQuestion *g, const cJSON *order, Usage *usage, StrBuf *b);
extern void serve_generate(Request *req, Reply *reply, const GModel *model, By who);

#endif							/* GOOGLE_CONTENT_H */
