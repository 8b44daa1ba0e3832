/*-------------------------------------------------------------------------
 *
 * google.h
 *		What the files of the providers "gemini" and "vertex" share.
 *
 * The Gemini API and Vertex AI take the same requests and give the same
 * replies; they differ in how a batch goes in and out.  gemini_*.c and
 * google_key.c compile outside the backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_GOOGLE_H
#define DESS_PROVIDER_GOOGLE_H

#include "provider/provider.h"
#include "text/json.h"

/* ---- gemini_schema.c ---- */

/* Appends a JSON Schema as a responseSchema.  NULL, or what cannot be said and where, palloc'd. */
extern char *gemini_write_schema(StringInfo out, const char *schema);

/* ---- gemini_body.c ---- */

extern char *gemini_check_options(const BatchOptions *options);
extern void gemini_prepare_options(BatchOptions *options);

/* A line of a request file: with the request's id as its key, or without one. */
extern void gemini_write_keyed_line(StringInfo line, const BatchItem *item, const BatchOptions *options);
extern void gemini_write_bare_line(StringInfo line, const BatchItem *item, const BatchOptions *options);

/* The body, which lies within such a line.  False if it is none. */
extern bool gemini_split_line(const char *line, size_t length, const char **body, size_t *body_length);

/* "publishers/google/models/gemini-x" and "models/gemini-x" without what stands in front */
extern const char *gemini_base_name(const char *model);

/* ---- gemini_reply.c ---- */

extern bool gemini_read_line(const char *line, size_t length, BatchReply *reply, const char **why);
extern void gemini_write_result(StringInfo line, const char *custom_id, const HttpReply *reply);

/* ---- google_request.c: what steps share ---- */

/* base_url with the version behind it, unless it ends in one; service ("/upload") or NULL stands before the version. */
extern char *google_base_url(const char *base_url, const char *version, const char *service);

/* Appends text with everything percent-encoded that is no unreserved character, but for those in keep. */
extern void google_append_escaped(StringInfo url, const char *text, const char *keep);

/* A resource's name such as "batches/9xk" from a reply, palloc'd; NULL unless it begins with prefix. */
extern char *google_read_name(JsonValue *object, const char *member, const char *prefix);

/* How a step that got a reply goes on. */
typedef enum GoogleTurn
{
	TURN_GOOD,					/* a 2xx arrived */
	TURN_OTHER,					/* another status, which may mean something to the step; result is its failure */
	TURN_SETTLED				/* result says what comes next: a new token, a wait, a failure */
} GoogleTurn;

/*
 * To be called for every reply.  Sees to refused tokens and, where repeating is harmless, to failures that
 * time may heal: after a wait the step is called again with reply NULL.
 */
extern GoogleTurn google_take_reply(BatchStage *stage, const HttpReply *reply, bool repeatable, StepResult *result);

/* A failed look at something that was there before: a 404 is to be counted by the caller. */
extern void google_fail_look(StepResult *result, const HttpReply *reply);

/* The reply to a cancellation; of what has ended by itself, the next look will tell how. */
extern void google_take_cancel(BatchStage *stage, const HttpReply *reply, StepResult *result);

/* The reply to the removal of a job: one that is gone already is good. */
extern void google_take_removal(BatchStage *stage, const HttpReply *reply, StepResult *result);

/* Adds the bearer token of an account, and the project that pays if its key file names one. */
extern void google_add_token(const Account *account, HttpRequest *request);

/* Reads a state such as "JOB_STATE_RUNNING" by what stands behind "_STATE_". */
extern RemoteStatus google_read_state(const char *word);
extern void google_set_state(BatchRemote *remote, const char *word);

extern int64 google_read_count(JsonValue *counts, const char *name);

/* A batch's name, in which its token travels. */
extern char *google_display_name(const BatchStage *stage);

/* Looks for the batch in a list of many pages: a StageStep with what it needs to know. */
typedef struct GoogleFinder
{
	const char *items;			/* the list's member */
	void		(*ask) (BatchStage *stage, StepResult *result, const char *page);
	bool		(*matches) (const BatchStage *stage, JsonValue *item);
	bool		(*adopt) (JsonValue *item, BatchRemote *remote);
} GoogleFinder;

extern void google_find(BatchStage *stage, const HttpReply *reply, const GoogleFinder *finder, StepResult *result);

extern const BatchProvider gemini_provider;
extern const BatchProvider vertex_provider;

#endif							/* DESS_PROVIDER_GOOGLE_H */
