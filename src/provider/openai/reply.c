/*-------------------------------------------------------------------------
 *
 * reply.c
 *		Result lines of OpenAI and of servers that speak like it.
 *
 * A line is read by its shape and not by what was asked: chat completions have
 * "choices", responses have "output", and whatever has neither is an error.
 * Nothing but the custom_id is required.  Where a server says that a request
 * failed but not why, time may heal it; only named faults of the request are
 * final.
 *
 * A reply of online mode is put into the same shape, so that there is one
 * reader.  What such a line needs beyond it, what the headers said about a
 * repetition, stands beside the status_code.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include "provider/body.h"
#include "provider/openai/openai.h"
#include "provider/reply.h"
#include "text/json.h"

static bool
equals(const char *text, const char *word)
{
	return text != NULL && pg_strcasecmp(text, word) == 0;
}

/* An error value of any shape.  Some codes are no failures but outcomes of their own. */
static void
reply_from_error(BatchReply *reply, int status, JsonValue *value)
{
	static const char *const refusals[] = {
		"content_filter", "content_policy_violation", "invalid_prompt", "ResponsibleAIPolicyViolation"
	};
	const char *code;

	reply->kind = REPLY_FAILED;
	error_from_value(&reply->error, status, value, ERROR_TEMPORARY);
	code = reply->error.code;
	if (equals(code, "batch_expired"))
		reply->kind = REPLY_EXPIRED;
	else if (equals(code, "batch_cancelled") || equals(code, "batch_canceled"))
		reply->kind = REPLY_CANCELLED;
	for (int i = 0; i < lengthof(refusals); i++)
	{
		if (equals(code, refusals[i]))
			reply->kind = REPLY_REFUSED;
	}
	if (reply->kind == REPLY_REFUSED)
		reply->error.class = ERROR_PERMANENT;
}

/* An "error" that is null, empty or {} is none. */
static bool
is_error(JsonValue *error)
{
	if (error == NULL)
		return false;
	if (json_is_string(error))
		return json_string(error)[0] != '\0';
	return !(json_is_object(error) || json_is_array(error)) || json_first(error) != NULL;
}

static int64
read_tokens(JsonValue *usage, const char *chat_name, const char *responses_name)
{
	int64		tokens = 0;

	if (!json_int64(json_path(usage, chat_name), &tokens))
		json_int64(json_path(usage, responses_name), &tokens);
	return reply_tokens(tokens);
}

static void
read_usage(JsonValue *body, BatchReply *reply)
{
	JsonValue  *usage = json_member(body, "usage");

	reply->input_tokens = read_tokens(usage, "prompt_tokens", "input_tokens");
	reply->cached_tokens = read_tokens(usage, "prompt_tokens_details.cached_tokens",
									   "input_tokens_details.cached_tokens");
	reply->cache_write_tokens = read_tokens(usage, "prompt_tokens_details.cache_write_tokens",
											"input_tokens_details.cache_write_tokens");
	reply->output_tokens = read_tokens(usage, "completion_tokens", "output_tokens");
	reply->reasoning_tokens = read_tokens(usage, "completion_tokens_details.reasoning_tokens",
										  "output_tokens_details.reasoning_tokens");
}

/*
 * Appends what is text in a message's content; *refusal is set to a refusal
 * found there.  Returns whether there was any text, be it empty.
 */
static bool
append_content(StringInfo text, JsonValue *content, const char **refusal)
{
	bool		any = false;

	if (json_is_string(content))
	{
		appendStringInfoString(text, json_string(content));
		return true;
	}
	if (!json_is_array(content))
		return false;
	for (JsonValue *part = json_first(content); part != NULL; part = json_next(part))
	{
		const char *type = json_member_string(part, "type");
		const char *words = json_is_string(part) ? json_string(part) : json_member_string(part, "text");

		if (equals(type, "refusal"))
			*refusal = json_member_string(part, "refusal");
		else if (words != NULL && (type == NULL || equals(type, "text") || equals(type, "output_text")))
		{
			appendStringInfoString(text, words);
			any = true;
		}
	}
	return any;
}

/* What stands in place of a message's text: an object, a number, true or false. */
static char *
read_json_content(JsonValue *content)
{
	StringInfoData text;

	if (content == NULL || json_is_null(content) || json_is_string(content) || json_is_array(content))
		return NULL;
	initStringInfo(&text);
	json_append_value(&text, content);
	return text.data;
}

static bool
calls_tool(JsonValue *message)
{
	return json_first(json_member(message, "tool_calls")) != NULL || json_is_object(json_member(message, "function_call"));
}

static void
read_chat(JsonValue *body, BatchReply *reply)
{
	JsonValue  *choice = json_first(json_member(body, "choices"));
	JsonValue  *message = json_member(choice, "message");
	const char *finish = json_member_string(choice, "finish_reason");
	const char *refusal = json_member_string(message, "refusal");
	Ending		ending = ending_of(finish);
	StringInfoData text;
	char	   *json = read_json_content(json_member(message, "content"));
	bool		any;

	reply->finish_reason = reply_copy_member(choice, "finish_reason");
	if (is_error(json_member(choice, "error")))
	{
		reply_from_error(reply, 0, json_member(choice, "error"));
		return;
	}
	if (refusal != NULL && refusal[0] == '\0')
		refusal = NULL;

	initStringInfo(&text);
	any = append_content(&text, json_member(message, "content"), &refusal);
	if (message == NULL && !any)
		any = append_content(&text, json_member(choice, "text"), &refusal);

	if (choice == NULL || (message == NULL && !any && finish == NULL))
		reply_failed(reply, ERROR_TEMPORARY, CODE_BAD_REPLY, "the reply has no message");
	else if (refusal != NULL)
		reply_refused(reply, "refusal", refusal);
	else if (ending == ENDING_GOOD && calls_tool(message))
		reply_end(reply, ENDING_TOOL, "tool_calls", NULL, NULL);
	else if (json != NULL)
	{
		reply->is_json = true;
		reply_end(reply, ending, finish, json, NULL);
	}
	else
		reply_end(reply, ending, finish, any ? text.data : NULL, ending == ENDING_REFUSED ? text.data : NULL);
}

/* A response that did not come to its end: returns true if that settles it. */
static bool
read_response_status(JsonValue *body, const char *status, BatchReply *reply)
{
	if (status == NULL || equals(status, "completed") || equals(status, "incomplete"))
		return false;
	if (equals(status, "cancelled") || equals(status, "canceled"))
	{
		reply->kind = REPLY_CANCELLED;
		error_set(&reply->error, ERROR_TEMPORARY, "cancelled", "the response was cancelled");
	}
	else if (json_member(body, "error") != NULL)
		reply_from_error(reply, 0, json_member(body, "error"));
	else
		reply_failed(reply, ERROR_TEMPORARY, status, psprintf("the response has status \"%s\"", status));
	return true;
}

static void
read_response(JsonValue *body, BatchReply *reply)
{
	const char *status = json_member_string(body, "status");
	const char *reason = json_member_string(json_member(body, "incomplete_details"), "reason");
	const char *refusal = NULL;
	StringInfoData text;
	bool		any = false;
	bool		tool = false;
	bool		incomplete = equals(status, "incomplete");

	reply->finish_reason = (reason != NULL && incomplete) ? pstrdup(reason) : reply_copy_member(body, "status");
	if (read_response_status(body, status, reply))
		return;

	initStringInfo(&text);
	for (JsonValue *item = json_first(json_member(body, "output")); item != NULL; item = json_next(item))
	{
		const char *type = json_member_string(item, "type");

		tool |= equals(type, "function_call") || equals(type, "custom_tool_call");
		/* what a model says about its own doings on the way is no answer */
		if (equals(type, "message") &&
			!equals(json_member_string(item, "phase"), "commentary"))
			any |= append_content(&text, json_member(item, "content"), &refusal);
	}
	if (refusal != NULL)
		reply_refused(reply, "refusal", refusal);
	else if (incomplete)
		reply_end(reply, reason != NULL ? ending_of(reason) : ENDING_TRUNCATED, reason,
				  any ? text.data : NULL, any && equals(reason, "content_filter") ? text.data : NULL);
	else if (tool)
		reply_end(reply, ENDING_TOOL, "tool_calls", NULL, NULL);
	else
		reply_end(reply, ending_of(status), status, any ? text.data : NULL, NULL);
}

static void
read_result(JsonValue *line, BatchReply *reply)
{
	JsonValue  *response = json_member(line, "response");
	JsonValue  *body = json_member(response, "body");
	JsonValue  *error = json_member(line, "error");
	bool		is_chat = json_is_array(json_member(body, "choices"));
	bool		answered = is_chat || json_is_array(json_member(body, "output"));
	int64		status = json_member_int64(response, "status_code", answered ? 200 : 0);

	if (status < 0 || status > 999)
		status = 0;
	reply->model_version = reply_copy_member(body, "model");
	reply->response_id = reply_copy_member(body, "id");
	read_usage(body, reply);

	if (is_error(error))
		reply_from_error(reply, (int) status, error);
	else if (is_chat && is_error(json_member(body, "error")))
		reply_from_error(reply, (int) status, json_member(body, "error"));
	else if (answered && status >= 200 && status < 300)
	{
		if (is_chat)
			read_chat(body, reply);
		else
			read_response(body, reply);
	}
	else if (body != NULL)
		reply_from_error(reply, (int) status, body);
	else if (response != NULL)
		reply_from_error(reply, (int) status, NULL);
	else
		reply_failed(reply, ERROR_TEMPORARY, CODE_BAD_REPLY, "the line has neither a response nor an error");
	if (reply->kind == REPLY_FAILED && reply->error.code == NULL)
		reply->error.code = psprintf("%d", (int) status);
}

/* Of a failure in online mode, what the headers said about trying again. */
static void
read_retry_hints(JsonValue *line, BatchReply *reply)
{
	JsonValue  *response = json_member(line, "response");
	const char *should_retry = json_member_string(response, "x_should_retry");
	int64		delay = json_member_int64(response, "retry_after_ms", -1);

	if (reply->kind != REPLY_FAILED)
		return;
	error_obey_should_retry(&reply->error, should_retry);
	if (delay >= 0)
		reply->error.retry_after_ms = delay;
}

/* Everything in reply is palloc'd. */
bool
openai_read_line(const char *line, size_t length, BatchReply *reply, const char **why)
{
	JsonDoc    *doc;
	JsonValue  *root;

	memset(reply, 0, sizeof(BatchReply));
	reply->error.retry_after_ms = -1;

	doc = json_parse_line(line, length, why);
	if (doc == NULL)
		return false;

	root = json_root(doc);
	reply->custom_id = reply_copy_member(root, "custom_id");
	if (reply->custom_id == NULL)
	{
		*why = json_is_object(root) ? "has no custom_id" : "is not an object";
		json_free(doc);
		return false;
	}
	read_result(root, reply);
	read_retry_hints(root, reply);
	json_free(doc);
	return true;
}

/* The reply's body as the value of a member: verbatim where it is JSON, else an error made of it. */
static void
append_body(StringInfo line, const HttpReply *reply)
{
	if (body_is_json(reply))
	{
		body_append_json(line, reply->body, reply->body_length);
		return;
	}
	appendStringInfoString(line, "{\"error\":{");
	body_append_unreadable(line, reply);
	appendStringInfoString(line, "}}");
}

/* Appends the line, with its newline, that a batch would have had for this reply. */
void
openai_write_result(StringInfo line, const char *custom_id, const HttpReply *reply)
{
	const char *value;
	int64		delay;
	StepError	error;

	appendStringInfoString(line, "{\"custom_id\":");
	json_append_cstring(line, custom_id);
	if (reply->failure != HTTP_OK)
	{
		error_from_http(&error, reply);
		appendStringInfoString(line, ",\"response\":null,\"error\":{\"code\":");
		json_append_cstring(line, error.code);
		appendStringInfoString(line, ",\"message\":");
		json_append_cstring(line, error.message);
		appendStringInfoString(line, "}}\n");
		return;
	}

	appendStringInfo(line, ",\"response\":{\"status_code\":%d", reply->status);
	value = http_header(reply, "x-request-id");
	if (value != NULL && json_is_utf8(value, strlen(value)))
	{
		appendStringInfoString(line, ",\"request_id\":");
		json_append_cstring(line, value);
	}
	value = http_header(reply, "x-should-retry");
	if (value != NULL && !reply_ok(reply))
		appendStringInfo(line, ",\"x_should_retry\":\"%s\"", equals(value, "true") ? "true" : "false");
	delay = reply_retry_after_ms(reply);
	if (delay >= 0 && !reply_ok(reply))
		appendStringInfo(line, ",\"retry_after_ms\":" INT64_FORMAT, delay);
	appendStringInfoString(line, ",\"body\":");
	append_body(line, reply);
	appendStringInfoString(line, "},\"error\":null}\n");
}
