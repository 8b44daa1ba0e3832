/*-------------------------------------------------------------------------
 *
 * fuzz_openai_line.c
 *		The first byte chooses the reader, the rest is what a server sent or a
 *		user wrote: a result line, a reply, a request line, extra or a schema.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "text/json.h"
#include "provider/openai/openai.h"
#include "reply_stubs.h"

static void
check_text(const char *text)
{
	MUST(text == NULL || json_is_utf8(text, strlen(text)));
}

/* Near the depth that the reader allows a text may be good and a line that holds it not. */
static bool
nests_deep(const char *text)
{
	int			open = 0;

	for (; *text != '\0'; text++)
		open += (*text == '[' || *text == '{');
	return open > JSON_MAX_DEPTH - 10;
}

static void
check_error(const StepError *error)
{
	check_text(error->code);
	check_text(error->message);
	MUST(error->message != NULL && strlen(error->message) <= 200);
	MUST(strpbrk(error->message, "\r\n") == NULL);
	MUST(error->retry_after_ms >= -1);
	MUST(strcmp(error_class_name(error->class), "unknown") != 0);
}

static bool
check_line(const char *line, size_t length)
{
	BatchReply	reply;
	const char *why = NULL;

	if (!openai_read_line(line, length, &reply, &why))
	{
		MUST(why != NULL);
		return false;
	}
	MUST(reply.custom_id != NULL);
	check_text(reply.custom_id);
	check_text(reply.text);
	check_text(reply.finish_reason);
	check_text(reply.model_version);
	check_text(reply.response_id);
	MUST(reply.input_tokens >= 0 && reply.cached_tokens >= 0 && reply.output_tokens >= 0 && reply.reasoning_tokens >= 0);
	MUST((reply.kind == REPLY_TEXT) <= (reply.text != NULL));
	MUST(reply.text == NULL || reply.kind == REPLY_TEXT || reply.kind == REPLY_TRUNCATED);
	if (reply.kind != REPLY_TEXT && reply.kind != REPLY_TRUNCATED)
		check_error(&reply.error);
	MUST(reply.kind != REPLY_FAILED || reply.error.code != NULL);
	return true;
}

/* Whatever a server sends, the line made of it can be read. */
static void
check_reply(const char *text, size_t length)
{
	static const int statuses[] = {200, 204, 302, 400, 401, 404, 429, 500, 503};
	StringInfoData line;
	HttpReply  *reply;
	StepError	error;

	if (length < 1)
		return;
	reply = stub_reply(statuses[(unsigned char) text[0] % lengthof(statuses)], "");
	reply->body = unconstify(char *, text + 1);
	reply->body_length = length - 1;
	error_from_http(&error, reply);
	check_error(&error);

	initStringInfo(&line);
	openai_write_result(&line, "r-1", reply);
	MUST(line.len > 0 && memchr(line.data, '\n', line.len) == line.data + line.len - 1);
	/* as whoever reads result files does */
	json_replace_invalid(line.data, line.len - 1);
	MUST(check_line(line.data, line.len - 1) || nests_deep(text + 1));
}

/* Options that pass the check make lines of valid JSON. */
static void
check_options(const char *text, size_t length, OpenAIEndpoint endpoint, bool schema)
{
	Account		account = {.base_url = OPENAI_BASE_URL};
	BatchOptions options = {.account = &account, .model = "gpt-5", .system = "s", .department = true};
	BatchItem	item = {"r-1", text, length};
	StringInfoData head;
	StringInfoData tail;
	StringInfoData line;
	const char *why;
	const char *body;
	size_t		body_length;

	options.parameters.max_output_tokens = 100;
	if (schema)
		options.schema = text;
	else
		options.parameters.extra = unconstify(char *, text);
	if (openai_check_options(&options, endpoint) != NULL)
		return;

	initStringInfo(&head);
	initStringInfo(&tail);
	initStringInfo(&line);
	openai_write_head(&head, &options, endpoint);
	openai_write_tail(&tail, &options, endpoint);
	openai_write_line(&line, &item, head.data, tail.data);
	MUST(memchr(line.data, '\n', line.len) == line.data + line.len - 1);
	MUST(json_is_valid(line.data, line.len, &why) || nests_deep(text));
	MUST(openai_split_line(line.data, line.len, &endpoint, &body, &body_length));
	MUST(json_is_valid(body, body_length, &why) || nests_deep(text));
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	char	   *text;
	OpenAIEndpoint endpoint;
	const char *body;
	size_t		length;
	StepError	error;

	if (size < 1)
		return 0;
	text = palloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	switch (data[0] % 7)
	{
		case 0:
		case 1:
			check_line(text, size - 1);
			break;
		case 2:
			check_reply(text, size - 1);
			break;
		case 3:
			error_from_body(&error, data[0] * 4, text, size - 1);
			check_error(&error);
			break;
		case 4:
			if (openai_split_line(text, size - 1, &endpoint, &body, &length))
				MUST(body >= text && body + length <= text + size - 1);
			break;
		case 5:
			check_options(text, strlen(text), OPENAI_CHAT, (data[0] & 0x80) != 0);
			break;
		case 6:
			check_options(text, strlen(text), OPENAI_RESPONSES, (data[0] & 0x80) != 0);
			break;
	}
	arena_reset();
	return 0;
}
