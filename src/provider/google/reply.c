/*-------------------------------------------------------------------------
 *
 * reply.c
 *		Result lines of Gemini models, on Vertex AI and the Gemini API.
 *
 * A line of the Gemini API has a key; one of Vertex AI has the request as its
 * server understood it, with other spacing, another order and nulls, so that
 * only its text can tell whose it is.  Vertex AI says what went wrong in a
 * sentence with JSON in it, cut off perhaps.
 *
 * Every part of a reply may be absent.  A filter stops a prompt before there
 * are candidates, or an answer in its middle; both are refusals.  What stops
 * an answer for a reason that nobody knows yet is no answer.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/body.h"
#include "provider/google/google.h"
#include "provider/reply.h"
#include "text/json.h"

/* ---- failures ---- */

/*
 * Settles an error that was read: not every one is a failure of the request.
 * A line of a batch is cancelled with the batch; a single request, which we do
 * not cancel, has only been broken off.
 */
static void
reply_settle_error(BatchReply *reply, bool online)
{
	reply->kind = REPLY_FAILED;
	if (reply->error.code == NULL)
		reply->error.code = pstrdup("error");
	if (pg_strcasecmp(reply->error.code, "CANCELLED") == 0 && !online)
		reply->kind = REPLY_CANCELLED;

	/* the first batch of a project: another one may go through */
	if (strcasestr(reply->error.message, "service agents are being provisioned") != NULL)
		reply->error.class = ERROR_TEMPORARY;
}

/* The number behind "code" in a text that holds JSON, be it broken; else by its first words; 0 for none. */
static int
status_in_text(const char *text)
{
	static const struct
	{
		const char *words;
		int			status;
	}			phrases[] = {
		{"Bad Request", 400}, {"Unauthorized", 401}, {"Forbidden", 403}, {"Not Found", 404},
		{"Too Many Requests", 429}, {"Resource exhausted", 429}, {"Internal", 500},
		{"Bad Gateway", 502}, {"Service Unavailable", 503}, {"Gateway Timeout", 504},
		{"Deadline", 504},
	};
	const char *code = strstr(text, "\"code\"");

	if (code != NULL)
	{
		code += strlen("\"code\"");
		code += strspn(code, " \t:\\\"");
		if (strspn(code, "0123456789") == 3)
			return atoi(code);
	}
	for (int i = 0; i < lengthof(phrases); i++)
	{
		if (pg_strncasecmp(text, phrases[i].words, strlen(phrases[i].words)) == 0)
			return phrases[i].status;
	}
	return 0;
}

/* Vertex AI's "status": a sentence with an error as JSON in it. */
static void
reply_from_status(BatchReply *reply, const char *status)
{
	const char *brace = strchr(status, '{');
	const char *end = strrchr(status, '}');
	const char *why;
	JsonDoc    *doc = NULL;

	if (brace != NULL && end > brace)
		doc = json_parse(brace, end + 1 - brace, &why);
	if (doc != NULL && json_first(json_root(doc)) != NULL)
		error_from_value(&reply->error, status_in_text(status), json_root(doc), ERROR_PERMANENT);
	else
	{
		int			number = status_in_text(status);

		error_from_body(&reply->error, number, status, strlen(status));
		if (number == 0)
			reply->error.class = ERROR_PERMANENT;
	}
	json_free(doc);
	reply_settle_error(reply, false);
}

static void
reply_from_error(BatchReply *reply, int status, JsonValue *error)
{
	error_from_value(&reply->error, status, error, ERROR_TEMPORARY);
	reply_settle_error(reply, status != 0);
}

/* ---- answers ---- */

static int64
read_tokens(JsonValue *usage, const char *name)
{
	return reply_tokens(json_member_int64(usage, name, 0));
}

/* Thoughts are billed as output, and what tools put into the prompt as input. */
static void
read_usage(JsonValue *response, BatchReply *reply)
{
	JsonValue  *usage = json_member(response, "usageMetadata");

	reply->input_tokens = read_tokens(usage, "promptTokenCount") + read_tokens(usage, "toolUsePromptTokenCount");
	reply->cached_tokens = read_tokens(usage, "cachedContentTokenCount");
	reply->reasoning_tokens = read_tokens(usage, "thoughtsTokenCount");
	reply->output_tokens = read_tokens(usage, "candidatesTokenCount") + reply->reasoning_tokens;
}

/* Appends the text of a content's parts, thoughts left out.  Returns whether there was any, be it empty. */
static bool
append_parts(StringInfo text, JsonValue *content)
{
	bool		any = false;

	for (JsonValue *part = json_first(json_member(content, "parts")); part != NULL; part = json_next(part))
	{
		const char *words = json_member_string(part, "text");

		if (words == NULL || json_bool(json_member(part, "thought"), false))
			continue;
		appendStringInfoString(text, words);
		any = true;
	}
	return any;
}

static bool
calls_tool(JsonValue *content)
{
	for (JsonValue *part = json_first(json_member(content, "parts")); part != NULL; part = json_next(part))
	{
		if (json_is_object(json_member(part, "functionCall")))
			return true;
	}
	return false;
}

/* The first candidate, with how it ended. */
static void
read_candidate(JsonValue *candidate, BatchReply *reply)
{
	JsonValue  *content = json_member(candidate, "content");
	const char *finish = json_member_string(candidate, "finishReason");
	Ending		ending = ending_of(finish);
	StringInfoData text;
	bool		any;

	initStringInfo(&text);
	any = append_parts(&text, content);
	reply->finish_reason = reply_copy_member(candidate, "finishReason");
	if (ending == ENDING_GOOD && calls_tool(content))
		reply_end(reply, ENDING_TOOL, "functionCall", NULL, NULL);
	else
		reply_end(reply, ending, finish, any ? text.data : NULL, json_member_string(candidate, "finishMessage"));
}

static void
read_response(JsonValue *response, BatchReply *reply)
{
	JsonValue  *feedback = json_member(response, "promptFeedback");
	const char *blocked = json_member_string(feedback, "blockReason");
	JsonValue  *candidate = json_first(json_member(response, "candidates"));

	if (candidate != NULL)
		read_candidate(candidate, reply);
	else if (blocked != NULL && pg_strcasecmp(blocked, "BLOCK_REASON_UNSPECIFIED") != 0)
	{
		const char *words = json_member_string(feedback, "blockReasonMessage");

		reply->finish_reason = pstrdup(blocked);
		reply_refused(reply, blocked, words ? words : psprintf("the prompt was blocked (%s)", blocked));
	}
	else
		reply_failed(reply, ERROR_TEMPORARY, "no_candidates", "the reply has no candidates");
}

/* ---- lines ---- */

/* The text of the last content of the user in the request as it was echoed, palloc'd; NULL if there is none. */
static char *
read_echo(JsonValue *request)
{
	JsonValue  *last = NULL;
	StringInfoData text;

	for (JsonValue *content = json_first(json_member(request, "contents")); content != NULL; content = json_next(content))
	{
		const char *role = json_member_string(content, "role");

		if (role == NULL || strcmp(role, "user") == 0)
			last = content;
	}
	if (last == NULL)
		return NULL;
	initStringInfo(&text);
	return append_parts(&text, last) ? text.data : NULL;
}

/* An "error" that is empty is none. */
static bool
is_error(JsonValue *error)
{
	if (json_is_string(error))
		return json_string(error)[0] != '\0';
	return error != NULL && (!(json_is_object(error) || json_is_array(error)) || json_first(error) != NULL);
}

static void
read_result(JsonValue *line, BatchReply *reply)
{
	JsonValue  *response = json_member(line, "response");
	JsonValue  *error = json_member(line, "error");
	JsonValue  *status = json_member(line, "status");
	int64		http = json_member_int64(line, "http_status", 0);

	reply->model_version = reply_copy_member(response, "modelVersion");
	reply->response_id = reply_copy_member(response, "responseId");
	read_usage(response, reply);

	if (is_error(error) || http >= 300)
		reply_from_error(reply, (http < 0 || http > 999) ? 0 : (int) http, error);
	else if (json_is_object(status) && is_error(status))
		reply_from_error(reply, 0, status);
	else if (json_is_string(status) && json_string(status)[0] != '\0')
		reply_from_status(reply, json_string(status));
	else if (json_is_object(response))
		read_response(response, reply);
	else
		reply_failed(reply, ERROR_TEMPORARY, CODE_BAD_REPLY, "the line has neither a response nor an error");
}

/* Everything in reply is palloc'd. */
bool
gemini_read_line(const char *line, size_t length, BatchReply *reply, const char **why)
{
	JsonDoc    *doc;
	JsonValue  *root;
	int64		delay;

	memset(reply, 0, sizeof(BatchReply));
	reply->error.retry_after_ms = -1;

	doc = json_parse_line(line, length, why);
	if (doc == NULL)
		return false;

	root = json_root(doc);
	reply->custom_id = reply_copy_member(root, "key");
	if (reply->custom_id == NULL)
		reply->custom_id = reply_copy_member(json_member(root, "metadata"), "key");
	reply->echoed_text = read_echo(json_member(root, "request"));
	if (reply->custom_id == NULL && reply->echoed_text == NULL)
	{
		*why = json_is_object(root) ? "has neither a key nor its request" : "is not an object";
		json_free(doc);
		return false;
	}
	read_result(root, reply);
	delay = json_member_int64(root, "retry_after_ms", -1);
	if (delay >= 0 && reply->kind == REPLY_FAILED)
		reply->error.retry_after_ms = delay;
	json_free(doc);
	return true;
}

/* The body of a reply as the value of a member: verbatim where it is JSON, else an error made of it. */
static void
append_error(StringInfo line, const HttpReply *reply)
{
	if (reply->failure == HTTP_OK && !reply_ok(reply) && body_is_json(reply))
	{
		body_append_json(line, reply->body, reply->body_length);
		return;
	}
	appendStringInfoChar(line, '{');
	body_append_unreadable(line, reply);
	appendStringInfoChar(line, '}');
}

/* Appends the line, with its newline, that a batch would have had for this reply. */
void
gemini_write_result(StringInfo line, const char *custom_id, const HttpReply *reply)
{
	int64		delay = reply->failure == HTTP_OK ? reply_retry_after_ms(reply) : -1;

	appendStringInfoString(line, "{\"key\":");
	json_append_cstring(line, custom_id);
	if (reply_ok(reply) && body_is_json(reply))
	{
		appendStringInfoString(line, ",\"response\":");
		body_append_json(line, reply->body, reply->body_length);
		appendStringInfoString(line, "}\n");
		return;
	}
	if (reply->failure == HTTP_OK)
		appendStringInfo(line, ",\"http_status\":%d", reply->status);
	if (delay >= 0 && !reply_ok(reply))
		appendStringInfo(line, ",\"retry_after_ms\":" INT64_FORMAT, delay);
	appendStringInfoString(line, ",\"error\":");
	append_error(line, reply);
	appendStringInfoString(line, "}\n");
}
