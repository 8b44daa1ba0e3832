/*-------------------------------------------------------------------------
 *
 * fuzz_google.c
 *		The first byte chooses the reader, the rest is what a server sent or a
 *		user wrote: a result line, a reply, a request line, extra, a schema, a
 *		key file, an address, a Range header.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "provider/google/gcs.h"
#include "provider/google/key.h"
#include "text/json.h"
#include "provider/google/google.h"
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

	if (!gemini_read_line(line, length, &reply, &why))
	{
		MUST(why != NULL);
		return false;
	}
	MUST(reply.custom_id != NULL || reply.echoed_text != NULL);
	check_text(reply.custom_id);
	check_text(reply.echoed_text);
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

	if (length < 1)
		return;
	reply = stub_reply(statuses[(unsigned char) text[0] % lengthof(statuses)], "");
	reply->body = unconstify(char *, text + 1);
	reply->body_length = length - 1;
	initStringInfo(&line);
	gemini_write_result(&line, "r-1", reply);
	MUST(line.len > 0 && memchr(line.data, '\n', line.len) == line.data + line.len - 1);
	/* as whoever reads result files does */
	json_replace_invalid(line.data, line.len - 1);
	MUST(check_line(line.data, line.len - 1) || nests_deep(text + 1));
}

/* Options that pass the check make lines of valid JSON, and the prompt comes back out of an echo. */
static void
check_options(const char *text, bool schema)
{
	Account		account = {.base_url = "https://x/v1beta"};
	BatchOptions options = {.account = &account, .model = "gemini-3.5-flash", .system = "s", .department = true};
	BatchItem	item = {"r-1", text, strlen(text)};
	StringInfoData line;
	BatchReply	reply;
	const char *why;
	const char *body;
	size_t		body_length;

	options.parameters.max_output_tokens = 100;
	if (schema)
		options.schema = text;
	else
		options.parameters.extra = unconstify(char *, text);
	if (gemini_check_options(&options) != NULL)
		return;

	initStringInfo(&line);
	gemini_write_keyed_line(&line, &item, &options);
	MUST(memchr(line.data, '\n', line.len) == line.data + line.len - 1);
	MUST(json_is_valid(line.data, line.len, &why) || nests_deep(text));
	MUST(gemini_split_line(line.data, line.len, &body, &body_length));
	MUST(json_is_valid(body, body_length, &why) || nests_deep(text));
	if (gemini_read_line(line.data, line.len, &reply, &why) && reply.echoed_text != NULL)
		MUST(strcmp(reply.echoed_text, text) == 0 || strstr(text, "ontents") != NULL);
}

static void
check_key(const char *text)
{
	const char *why = NULL;
	char	   *whole;

	(void) google_is_own_url(text);
	google_key_problem(text, false);
	if (google_key_problem(text, true) != NULL)
		return;
	if (google_key_subject_file(text) == NULL)
		return;
	whole = google_key_with_subject(text, "token", &why);
	MUST(whole != NULL || why != NULL);
	MUST(whole == NULL || google_key_problem(whole, true) == NULL || nests_deep(text));
}

static void
check_headers(const char *text)
{
	int64		first;
	int64		last;
	int64		total;
	char	   *bucket;
	char	   *name;

	MUST(gcs_parse_range(text) >= -1);
	if (gcs_parse_content_range(text, &first, &last, &total))
		MUST(first >= 0 && first <= last && (total == -1 || last < total));
	if (gcs_parse_uri(text, &bucket, &name))
		MUST(bucket[0] != '\0' && name[0] != '\0');
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	char	   *text;
	const char *body;
	size_t		length;

	if (size < 1)
		return 0;
	text = palloc(size);
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	switch (data[0] % 8)
	{
		case 0:
		case 1:
			check_line(text, size - 1);
			break;
		case 2:
			check_reply(text, size - 1);
			break;
		case 3:
			if (gemini_split_line(text, size - 1, &body, &length))
				MUST(body >= text && body + length <= text + size - 1);
			break;
		case 4:
			check_options(text, true);
			break;
		case 5:
			check_options(text, false);
			break;
		case 6:
			check_key(text);
			break;
		case 7:
			check_headers(text);
			break;
	}
	arena_reset();
	return 0;
}
