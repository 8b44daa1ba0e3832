/*
 * faults.h
 *		Misbehaviour that a test ordered.
 */
#ifndef FAULTS_H
#define FAULTS_H

#include "hold.h"

typedef enum RuleScope
{
	ON_REQUEST,					/* any HTTP request */
	ON_BODY,					/* a request whose body begins to arrive */
	ON_FILE,					/* an upload that succeeded */
	ON_BATCH,					/* a batch that was created */
	ON_ROW,						/* a row of a batch that is being answered */
	ON_STORAGE,					/* a page of a list, or a piece of an upload */
	ON_HOLD						/* and what follows, in the order of HoldAt */
} RuleScope;

/* What a rule does to an HTTP request. */
typedef struct Effect
{
	int			status;			/* 0: the provider answers */
	char	   *body;			/* NULL: the usual error body */
	size_t		body_len;
	const char *content_type;
	Header	   *headers;
	double		delay_ms;
	DropKind	drop;			/* before any reply; nothing is done */
	DropKind	lose_reply;		/* the work is done, then the drop */
	int64_t		drop_after;
	int64_t		truncate;		/* body cut to so many bytes, -1: not */
	char	   *prefix;			/* stands before the body */
	bool		gzip;			/* the body is encoded so, and says it */
	int64_t		fill;
	char		fill_byte;
	double		trickle_ms;
	cJSON	   *answer;			/* shapes an inference answer */
} Effect;

extern bool faults_add(const cJSON *rules, char *why, size_t size);
extern void faults_clear(void);
extern void faults_write(StrBuf *b);
extern Effect *faults_request(Request *req);
extern int64_t faults_body(Request *req);
extern void faults_release(Request *req);
extern cJSON *faults_object(RuleScope scope, const Request *req, const char *custom_id,
							const char *prompt);
extern bool faults_hold(Request *req, HoldAt at, int64_t *after);
extern bool faults_any(RuleScope scope);
extern void effect_free(Effect *e);

#endif							/* FAULTS_H */
