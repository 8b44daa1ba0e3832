/*-------------------------------------------------------------------------
 *
 * reply.h
 *		What the readers of all providers' result lines share: how an answer
 *		ended, and what that makes of its text.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_REPLY_H
#define DESS_PROVIDER_REPLY_H

#include "provider/provider.h"
#include "text/json.h"

/* Why a model stopped, whatever its provider calls it. */
typedef enum Ending
{
	ENDING_GOOD,				/* the model ended its answer */
	ENDING_TRUNCATED,			/* a limit of tokens */
	ENDING_REFUSED,				/* the model or a filter declined */
	ENDING_TOOL,				/* it wants a tool to be called, or its turn to be continued */
	ENDING_BROKEN,				/* it broke off; another try may end otherwise */
	ENDING_UNKNOWN
} Ending;

/* The meaning of a finish reason, case aside; NULL is a good ending. */
extern Ending ending_of(const char *finish);

/* Text of a member, palloc'd, or NULL. */
extern char *reply_copy_member(JsonValue *object, const char *name);

/* A count of tokens as it can be; 0 for what cannot. */
extern int64 reply_tokens(int64 said);

extern void reply_failed(BatchReply *reply, ErrorClass class, const char *code, const char *message);
extern void reply_refused(BatchReply *reply, const char *code, const char *words);

/*
 * Settles what was said with how it ended.  finish is the provider's word,
 * which names a failure; text is what the model said, NULL if there was nothing
 * that could be read; words are the provider's, or NULL.  A block of reasoning
 * at the beginning of the text is cut off: reasoning is no answer.
 */
extern void reply_end(BatchReply *reply, Ending ending, const char *finish, char *text, const char *words);

#endif							/* DESS_PROVIDER_REPLY_H */
