/*-------------------------------------------------------------------------
 *
 * reply.c
 *		What the readers of all providers' result lines share: how an answer
 *		ended, and what that makes of its text.
 *
 * An answer counts as one only if the model itself ended it.  The good endings
 * are listed, so that a word that nobody has heard of is never taken for one.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/reply.h"
#include "runtime/whitespace.h"

#define MAX_TOKENS_SAID	INT64CONST(1000000000000)

/* The words of OpenAI, Gemini, Anthropic, Mistral, and of servers that speak like one of them. */
static const struct
{
	const char *finish;
	Ending		ending;
}			endings[] =
{
	{"stop", ENDING_GOOD}, {"eos", ENDING_GOOD}, {"eos_token", ENDING_GOOD}, {"end_turn", ENDING_GOOD},
	{"stop_sequence", ENDING_GOOD}, {"complete", ENDING_GOOD}, {"completed", ENDING_GOOD},
	{"FINISH_REASON_UNSPECIFIED", ENDING_GOOD},

	{"length", ENDING_TRUNCATED}, {"max_tokens", ENDING_TRUNCATED}, {"max_output_tokens", ENDING_TRUNCATED},
	{"max_length", ENDING_TRUNCATED}, {"model_length", ENDING_TRUNCATED}, {"CONTINUATION", ENDING_TRUNCATED},
	{"model_context_window_exceeded", ENDING_TRUNCATED},

	{"content_filter", ENDING_REFUSED}, {"content_filtered", ENDING_REFUSED}, {"sensitive", ENDING_REFUSED},
	{"refusal", ENDING_REFUSED}, {"SAFETY", ENDING_REFUSED}, {"RECITATION", ENDING_REFUSED},
	{"BLOCKLIST", ENDING_REFUSED}, {"PROHIBITED_CONTENT", ENDING_REFUSED}, {"SPII", ENDING_REFUSED},
	{"MODEL_ARMOR", ENDING_REFUSED}, {"JAILBREAK", ENDING_REFUSED}, {"IMAGE_SAFETY", ENDING_REFUSED},
	{"IMAGE_PROHIBITED_CONTENT", ENDING_REFUSED}, {"IMAGE_RECITATION", ENDING_REFUSED},

	{"tool_calls", ENDING_TOOL}, {"tool_use", ENDING_TOOL}, {"function_call", ENDING_TOOL},
	{"pause_turn", ENDING_TOOL}, {"MALFORMED_FUNCTION_CALL", ENDING_TOOL},
	{"UNEXPECTED_TOOL_CALL", ENDING_TOOL}, {"TOO_MANY_TOOL_CALLS", ENDING_TOOL},

	{"abort", ENDING_BROKEN}, {"aborted", ENDING_BROKEN}, {"error", ENDING_BROKEN},
	{"network_error", ENDING_BROKEN}, {"insufficient_system_resource", ENDING_BROKEN},
	{"timeout", ENDING_BROKEN}, {"OTHER", ENDING_BROKEN}, {"MALFORMED_RESPONSE", ENDING_BROKEN},
};

Ending
ending_of(const char *finish)
{
	if (finish == NULL)
		return ENDING_GOOD;
	for (int i = 0; i < lengthof(endings); i++)
	{
		if (pg_strcasecmp(finish, endings[i].finish) == 0)
			return endings[i].ending;
	}
	return ENDING_UNKNOWN;
}

char *
reply_copy_member(JsonValue *object, const char *name)
{
	const char *text = json_member_string(object, name);

	return text ? pstrdup(text) : NULL;
}

int64
reply_tokens(int64 said)
{
	return said < 0 || said > MAX_TOKENS_SAID ? 0 : said;
}

void
reply_failed(BatchReply *reply, ErrorClass class, const char *code, const char *message)
{
	reply->kind = REPLY_FAILED;
	error_set(&reply->error, class, code, message);
}

void
reply_refused(BatchReply *reply, const char *code, const char *words)
{
	reply->kind = REPLY_REFUSED;
	error_set(&reply->error, ERROR_PERMANENT, code,
			  (words != NULL && words[0] != '\0') ? words : "the model or a filter declined to answer");
}

/*
 * Behind a block of reasoning that begins the text, or that ends without
 * having begun, where the server has taken its first tag away; NULL if nothing
 * is behind it.
 */
static char *
cut_reasoning(char *text)
{
	static const char first[] = "<think>";
	static const char last[] = "</think>";
	const char *end = text + strlen(text);
	const char *begin = whitespace_skip(text, end);
	char	   *opened = strstr(text, first);
	char	   *closed = strstr(text, last);

	if (opened == begin && closed == NULL)
		return NULL;
	if (closed == NULL || (opened != NULL && opened != begin && opened < closed))
		return text;
	begin = whitespace_skip(closed + strlen(last), end);
	return begin < end ? text + (begin - text) : NULL;
}

void
reply_end(BatchReply *reply, Ending ending, const char *finish, char *text, const char *words)
{
	char	   *answer = text != NULL ? cut_reasoning(text) : NULL;

	switch (ending)
	{
		case ENDING_GOOD:
			reply->text = answer;
			reply->kind = answer != NULL ? REPLY_TEXT : REPLY_NO_ANSWER;
			if (answer == NULL)
				error_set(&reply->error, ERROR_TEMPORARY, "no_answer",
						  text != NULL ? "the reply has reasoning, and no answer" : "the reply has no text that could be an answer");
			break;
		case ENDING_TRUNCATED:
			reply->kind = REPLY_TRUNCATED;
			reply->text = answer;
			error_set(&reply->error, ERROR_PERMANENT, finish, words ? words : "the answer was cut at the limit of output tokens");
			break;
		case ENDING_REFUSED:
			reply_refused(reply, finish, words);
			break;
		case ENDING_TOOL:
			reply_failed(reply, ERROR_PERMANENT, finish, words ? words : "the model called a tool instead of answering");
			break;
		case ENDING_BROKEN:
		case ENDING_UNKNOWN:
			reply_failed(reply, ending == ENDING_BROKEN ? ERROR_TEMPORARY : ERROR_PERMANENT, finish,
						 words ? words : psprintf("the model stopped with finish reason \"%s\"", finish));
			break;
	}
}
