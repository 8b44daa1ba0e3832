/*-------------------------------------------------------------------------
 *
 * openai.h
 *		What the files of the OpenAI provider share.
 *
 * openai_body.c and openai_reply.c know neither lists nor the options of
 * servers, so that they compile outside the backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_OPENAI_H
#define DESS_PROVIDER_OPENAI_H

#include "provider/provider.h"
#include "text/json.h"

#define OPENAI_BASE_URL	"https://api.openai.com/v1"

typedef enum OpenAIEndpoint
{
	OPENAI_CHAT,
	OPENAI_RESPONSES
} OpenAIEndpoint;

/* openai_body.c */
extern const char *openai_endpoint_path(OpenAIEndpoint endpoint);	/* "/chat/completions" */
extern char *openai_check_options(const BatchOptions *options, OpenAIEndpoint endpoint);
extern void openai_write_head(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint);
extern void openai_write_tail(StringInfo out, const BatchOptions *options, OpenAIEndpoint endpoint);
extern void openai_write_line(StringInfo line, const BatchItem *item, const char *head, const char *tail);

/* The endpoint and the body, which lies within the line, of such a line.  False if it is none. */
extern bool openai_split_line(const char *line, size_t length, OpenAIEndpoint *endpoint,
							  const char **body, size_t *body_length);

/* openai_reply.c */
extern bool openai_read_line(const char *line, size_t length, BatchReply *reply, const char **why);
extern void openai_write_result(StringInfo line, const char *custom_id, const HttpReply *reply);

/* openai_object.c */
extern bool openai_read_batch(JsonValue *root, BatchRemote *remote);
extern bool openai_take_batch(const HttpReply *reply, BatchRemote *remote, StepResult *result);

/* How far a list has been gone through; kept as text in stage->scratch. */
typedef struct ListWalk
{
	int			pages;
	int			looks;			/* whole passes that found nothing */
	bool		ordered;		/* newest first, so far */
	int64		last_created;
	const char *after;			/* "" for the first page */
} ListWalk;

typedef enum PageEnd
{
	PAGE_FOUND,
	PAGE_MORE,
	PAGE_LAST,					/* there is nothing further that could match */
	PAGE_UNCLEAR				/* no list, or one that does not end */
} PageEnd;

extern void openai_walk_load(const BatchStage *stage, ListWalk *walk);
extern void openai_walk_save(BatchStage *stage, const ListWalk *walk);
extern PageEnd openai_walk_page(const BatchStage *stage, ListWalk *walk, JsonValue *root,
								bool (*matches) (const BatchStage *stage, JsonValue *item), JsonValue **found);

extern const BatchProvider openai_provider;

#endif							/* DESS_PROVIDER_OPENAI_H */
