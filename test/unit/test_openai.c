/*-------------------------------------------------------------------------
 *
 * test_openai.c
 *		Request lines, result lines and error bodies of the provider "openai".
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/json.h"
#include "provider/openai/openai.h"
#include "reply_stubs.h"
#include "tap.h"

static Account account = {.base_url = OPENAI_BASE_URL};

/* ---- request lines ---- */

static char *
write_line(const BatchOptions *options, OpenAIEndpoint endpoint, const char *prompt)
{
	BatchItem	item = {"r-1", prompt, strlen(prompt)};
	StringInfoData head;
	StringInfoData tail;
	StringInfoData line;

	initStringInfo(&head);
	initStringInfo(&tail);
	initStringInfo(&line);
	openai_write_head(&head, options, endpoint);
	openai_write_tail(&tail, options, endpoint);
	openai_write_line(&line, &item, head.data, tail.data);
	return line.data;
}

/* The body of a line for these options. */
static char *
write_body(const BatchOptions *options, OpenAIEndpoint endpoint)
{
	char	   *line = write_line(options, endpoint, "Hi");
	OpenAIEndpoint found;
	const char *body;
	const char *why;
	size_t		length;

	ok(json_is_valid(line, strlen(line), &why), "line is JSON");
	ok(strchr(line, '\n') == line + strlen(line) - 1, "line has one newline, at its end");
	if (!ok(openai_split_line(line, strlen(line), &found, &body, &length), "line can be split"))
		return NULL;
	ok(found == endpoint, "line names its endpoint");
	return pnstrdup(body, length);
}

typedef struct BodyCase
{
	const char *name;
	OpenAIEndpoint endpoint;
	const char *base_url;
	BatchOptions options;
	const char *expected;
} BodyCase;

#define CHAT_HI(model)	"{\"model\":\"" model "\",\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]"
#define STRICT_SCHEMA	"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"a\"],\"additionalProperties\":false}"
#define LOCAL_URL		"http://127.0.0.1:8080/v1"

static const BodyCase body_cases[] = {
	{"chat, nothing but a prompt", OPENAI_CHAT, NULL, {.model = "gpt-4o"}, CHAT_HI("gpt-4o") "}"},
	{"chat, system and all parameters", OPENAI_CHAT, NULL,
		{.model = "gpt-4o", .system = "S\"1", .parameters = {.temperature = "0.20", .top_p = "1", .seed = "9007199254740993", .max_output_tokens = 50, .reasoning_effort = "high"}},
		"{\"model\":\"gpt-4o\",\"messages\":[{\"role\":\"system\",\"content\":\"S\\\"1\"},{\"role\":\"user\",\"content\":\"Hi\"}],"
		"\"max_completion_tokens\":50,\"temperature\":0.20,\"top_p\":1,\"seed\":9007199254740993,\"reasoning_effort\":\"high\"}"},
	{"JSON forms written once are taken", OPENAI_CHAT, NULL,
		{.model = "m", .model_json = "\"M\"", .system = "s", .system_json = "\"SYS\""},
		"{\"model\":\"M\",\"messages\":[{\"role\":\"system\",\"content\":\"SYS\"},{\"role\":\"user\",\"content\":\"Hi\"}]}"},
	{"chat, max_tokens elsewhere", OPENAI_CHAT, LOCAL_URL, {.model = "llama3", .parameters = {.max_output_tokens = 9}}, CHAT_HI("llama3") ",\"max_tokens\":9}"},
	{"a host that only ends like OpenAI's", OPENAI_CHAT, "https://evilapi.openai.com.example/v1", {.model = "x", .parameters = {.max_output_tokens = 9}}, CHAT_HI("x") ",\"max_tokens\":9}"},
	{"another host", OPENAI_CHAT, "https://notapi.openai.com/v1", {.model = "x", .parameters = {.max_output_tokens = 9}}, CHAT_HI("x") ",\"max_tokens\":9}"},
	{"a region of OpenAI", OPENAI_CHAT, "https://eu.api.openai.com/v1", {.model = "x", .parameters = {.max_output_tokens = 9}}, CHAT_HI("x") ",\"max_completion_tokens\":9}"},
	{"Azure", OPENAI_CHAT, "https://r.openai.azure.com/openai/v1", {.model = "x", .parameters = {.max_output_tokens = 9}}, CHAT_HI("x") ",\"max_completion_tokens\":9}"},
	{"reasoning model elsewhere", OPENAI_CHAT, LOCAL_URL, {.model = "gpt-5-mini", .parameters = {.max_output_tokens = 9}}, CHAT_HI("gpt-5-mini") ",\"max_completion_tokens\":9}"},
	{"o3 behind a gateway", OPENAI_CHAT, LOCAL_URL, {.model = "openai/o3", .parameters = {.max_output_tokens = 9}}, CHAT_HI("openai/o3") ",\"max_completion_tokens\":9}"},
	{"gpt-35 is no gpt-5", OPENAI_CHAT, LOCAL_URL, {.model = "gpt-35-turbo", .department = true, .parameters = {.max_output_tokens = 9}}, CHAT_HI("gpt-35-turbo") ",\"max_tokens\":9}"},
	{"gpt-oss is no reasoning name", OPENAI_CHAT, LOCAL_URL, {.model = "gpt-oss-120b", .department = true}, CHAT_HI("gpt-oss-120b") "}"},
	{"department, gpt-5", OPENAI_CHAT, NULL, {.model = "gpt-5-nano-2025-08-07", .department = true}, CHAT_HI("gpt-5-nano-2025-08-07") ",\"reasoning_effort\":\"minimal\"}"},
	{"department, gpt-5.1", OPENAI_CHAT, NULL, {.model = "gpt-5.1", .department = true}, CHAT_HI("gpt-5.1") ",\"reasoning_effort\":\"none\"}"},
	{"department, gpt-6", OPENAI_CHAT, LOCAL_URL, {.model = "gpt-6-luna", .department = true}, CHAT_HI("gpt-6-luna") ",\"reasoning_effort\":\"none\"}"},
	{"department, o4", OPENAI_CHAT, NULL, {.model = "o4-mini", .department = true}, CHAT_HI("o4-mini") ",\"reasoning_effort\":\"low\"}"},
	{"department, fine-tuned", OPENAI_CHAT, NULL, {.model = "ft:gpt-5-mini:org::x", .department = true}, CHAT_HI("ft:gpt-5-mini:org::x") ",\"reasoning_effort\":\"minimal\"}"},
	{"department, a model without the least effort", OPENAI_CHAT, NULL, {.model = "gpt-5-pro", .department = true}, CHAT_HI("gpt-5-pro") "}"},
	{"department, chat variant", OPENAI_CHAT, NULL, {.model = "gpt-5-chat-latest", .department = true}, CHAT_HI("gpt-5-chat-latest") "}"},
	{"department, gpt-4o", OPENAI_CHAT, NULL, {.model = "gpt-4o-mini", .department = true}, CHAT_HI("gpt-4o-mini") "}"},
	{"department, the user's effort counts", OPENAI_CHAT, NULL, {.model = "gpt-5", .department = true, .parameters = {.reasoning_effort = "low"}}, CHAT_HI("gpt-5") ",\"reasoning_effort\":\"low\"}"},
	{"department, the user's extra counts", OPENAI_CHAT, NULL, {.model = "gpt-5", .department = true, .parameters = {.extra = "{\"reasoning_effort\": null}"}}, CHAT_HI("gpt-5") ",\"reasoning_effort\": null}"},
	{"strict schema", OPENAI_CHAT, NULL, {.model = "x", .schema = STRICT_SCHEMA},
		CHAT_HI("x") ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\",\"strict\":true,\"schema\":" STRICT_SCHEMA "}}}"},
	{"schema with an optional member, over lines", OPENAI_CHAT, NULL, {.model = "x", .schema = "{\"type\": \"object\",\n\"properties\": {\"a\": {}}, \"additionalProperties\": false}"},
		CHAT_HI("x") ",\"response_format\":{\"type\":\"json_schema\",\"json_schema\":{\"name\":\"answer\",\"strict\":false,\"schema\":{\"type\": \"object\", \"properties\": {\"a\": {}}, \"additionalProperties\": false}}}}"},
	{"extra goes last, verbatim", OPENAI_CHAT, NULL, {.model = "x", .parameters = {.extra = " { \"top_k\": 1e2,\n \"big\": 12345678901234567890 } "}},
		CHAT_HI("x") ", \"top_k\": 1e2,  \"big\": 12345678901234567890 }"},
	{"empty extra", OPENAI_CHAT, NULL, {.model = "x", .parameters = {.extra = "{ }"}}, CHAT_HI("x") "}"},
	{"extra overrides", OPENAI_CHAT, NULL,
		{.model = "x", .schema = "{}", .parameters = {.temperature = "1", .top_p = "1", .seed = "1", .max_output_tokens = 3, .reasoning_effort = "low",
		.extra = "{\"temperature\":0,\"top_p\":0,\"seed\":0,\"max_tokens\":7,\"reasoning_effort\":\"x\",\"response_format\":{\"type\":\"text\"}}"}},
		CHAT_HI("x") ",\"temperature\":0,\"top_p\":0,\"seed\":0,\"max_tokens\":7,\"reasoning_effort\":\"x\",\"response_format\":{\"type\":\"text\"}}"},
	{"responses", OPENAI_RESPONSES, NULL,
		{.model = "gpt-5.5", .system = "S", .schema = STRICT_SCHEMA, .department = true, .parameters = {.temperature = "1", .max_output_tokens = 16}},
		"{\"model\":\"gpt-5.5\",\"instructions\":\"S\",\"input\":\"Hi\",\"max_output_tokens\":16,\"temperature\":1,\"reasoning\":{\"effort\":\"none\"},"
		"\"text\":{\"format\":{\"type\":\"json_schema\",\"name\":\"answer\",\"strict\":true,\"schema\":" STRICT_SCHEMA "}},\"store\":false}"},
	{"responses, extra overrides", OPENAI_RESPONSES, NULL,
		{.model = "x", .system = "S", .schema = "{}", .parameters = {.reasoning_effort = "low", .max_output_tokens = 20,
		.extra = "{\"instructions\":\"T\",\"store\":true,\"reasoning\":{},\"text\":{\"format\":{}},\"max_output_tokens\":99}"}},
		"{\"model\":\"x\",\"input\":\"Hi\",\"instructions\":\"T\",\"store\":true,\"reasoning\":{},\"text\":{\"format\":{}},\"max_output_tokens\":99}"},
};

static void
test_bodies(void)
{
	for (int i = 0; i < lengthof(body_cases); i++)
	{
		const BodyCase *test = &body_cases[i];
		BatchOptions options = test->options;
		Account		here = {.base_url = unconstify(char *, test->base_url ? test->base_url : OPENAI_BASE_URL)};

		options.account = &here;
		is_text(write_body(&options, test->endpoint), test->expected, "body: %s", test->name);
		arena_reset();
	}
}

static void
test_lines(void)
{
	BatchOptions options = {.account = &account, .model = "m"};
	OpenAIEndpoint endpoint;
	const char *body;
	size_t		length;
	char	   *line;

	is_text(write_line(&options, OPENAI_CHAT, "a\"b\\c\n\t\x01\xe2\x80\xa8" "\"body\":{}"),
			"{\"custom_id\":\"r-1\",\"method\":\"POST\",\"url\":\"/v1/chat/completions\",\"body\":{\"model\":\"m\",\"messages\":"
			"[{\"role\":\"user\",\"content\":\"a\\\"b\\\\c\\n\\t\\u0001\xe2\x80\xa8\\\"body\\\":{}\"}]}}\n", "whole line");
	line = write_line(&options, OPENAI_RESPONSES, ",\"body\":x");
	ok(openai_split_line(line, strlen(line) - 1, &endpoint, &body, &length) && endpoint == OPENAI_RESPONSES, "split without newline");
	is_text(pnstrdup(body, length), "{\"model\":\"m\",\"input\":\",\\\"body\\\":x\",\"store\":false}", "body of a split line");

	ok(!openai_split_line("", 0, &endpoint, &body, &length), "nothing cannot be split");
	ok(!openai_split_line("\n", 1, &endpoint, &body, &length), "an empty line cannot be split");
	ok(!openai_split_line("{\"custom_id\":\"r", 15, &endpoint, &body, &length), "a cut line cannot be split");
	ok(!openai_split_line("{\"custom_id\":\"r-1\",\"method\":\"GET\"}", 33, &endpoint, &body, &length), "another line cannot be split");
	arena_reset();
}

/* ---- strictness ---- */

static const struct
{
	const char *schema;
	bool		strict;
}			schemas[] = {
	{STRICT_SCHEMA, true},
	{"{\"type\":\"object\",\"additionalProperties\":false}", true},
	{"{\"type\":\"object\",\"properties\":{\"a\":{}}}", false},
	{"{\"type\":\"object\",\"additionalProperties\":true}", false},
	{"{\"type\":\"object\",\"additionalProperties\":{\"type\":\"string\"}}", false},
	{"{\"type\":\"string\"}", false},
	{"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"object\"}},\"required\":[\"a\"],\"additionalProperties\":false}", false},
	{"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":[\"object\",\"null\"],\"additionalProperties\":false}},\"required\":[\"a\"],\"additionalProperties\":false}", true},
	{"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"array\",\"items\":{\"type\":\"object\"}}},\"required\":[\"a\"],\"additionalProperties\":false}", false},
	{"{\"type\":\"object\",\"properties\":{\"a\":{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\"}]}},\"required\":[\"a\"],\"additionalProperties\":false}", false},
	{"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#/$defs/x\"}},\"required\":[\"a\"],\"additionalProperties\":false,\"$defs\":{\"x\":{\"type\":\"object\"}}}", false},
	{"{\"type\":\"object\",\"properties\":{\"properties\":{\"type\":\"string\"},\"type\":{\"type\":\"string\",\"enum\":[\"object\"]}},\"required\":[\"properties\",\"type\"],\"additionalProperties\":false}", true},
	{"{\"type\":\"object\",\"allOf\":[],\"additionalProperties\":false}", false},
	{"{\"type\":\"object\",\"properties\":{\"a\":true},\"required\":[\"a\"],\"additionalProperties\":false}", false},
	{"{\"type\":\"object\",\"properties\":{\"a\":{}},\"required\":\"a\",\"additionalProperties\":false}", false},
};

static void
test_strictness(void)
{
	for (int i = 0; i < lengthof(schemas); i++)
	{
		BatchOptions options = {.account = &account, .model = "m", .schema = schemas[i].schema};
		char	   *body = write_body(&options, OPENAI_CHAT);

		ok(strstr(body, schemas[i].strict ? "\"strict\":true" : "\"strict\":false") != NULL, "strict or not: %s", schemas[i].schema);
		ok(strstr(body, schemas[i].schema) != NULL, "schema is verbatim");
		arena_reset();
	}
}

/* ---- checks ---- */

static const struct
{
	BatchOptions options;
	OpenAIEndpoint endpoint;
	const char *culprit;		/* part of the words; NULL: good */
}			checks[] = {
	{{.schema = NULL}, OPENAI_CHAT, NULL},
	{{.schema = STRICT_SCHEMA, .parameters = {.temperature = "2", .top_p = "0.5", .seed = "-1", .max_output_tokens = 1, .reasoning_effort = "xhigh", .extra = "{\"n\":1}"}}, OPENAI_CHAT, NULL},
	{{.parameters = {.temperature = "2.1"}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.temperature = "-0.1"}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.temperature = "warm"}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.temperature = ""}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.temperature = "1,\"x\":1"}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.temperature = "01"}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.temperature = "1e999"}}, OPENAI_CHAT, "\"temperature\""},
	{{.parameters = {.top_p = "1.5"}}, OPENAI_CHAT, "\"top_p\""},
	{{.parameters = {.seed = "1.5"}}, OPENAI_CHAT, "\"seed\""},
	{{.parameters = {.seed = "9223372036854775808"}}, OPENAI_CHAT, "\"seed\""},
	{{.parameters = {.seed = "-9223372036854775808"}}, OPENAI_CHAT, NULL},
	{{.parameters = {.seed = "-"}}, OPENAI_CHAT, "\"seed\""},
	{{.parameters = {.seed = "1"}}, OPENAI_RESPONSES, "\"seed\""},
	{{.parameters = {.max_output_tokens = -1}}, OPENAI_CHAT, "\"max_output_tokens\""},
	{{.parameters = {.max_output_tokens = 15}}, OPENAI_RESPONSES, "\"max_output_tokens\""},
	{{.parameters = {.reasoning_effort = "High"}}, OPENAI_CHAT, "\"reasoning_effort\""},
	{{.parameters = {.reasoning_effort = ""}}, OPENAI_CHAT, "\"reasoning_effort\""},
	{{.schema = "[]"}, OPENAI_CHAT, "response_schema"},
	{{.schema = "{"}, OPENAI_CHAT, "response_schema"},
	{{.schema = "{\"type\":\"array\"}"}, OPENAI_CHAT, "\"type\": \"object\""},
	{{.parameters = {.extra = "[1]"}}, OPENAI_CHAT, "\"extra\" must be a JSON object"},
	{{.parameters = {.extra = "{]"}}, OPENAI_CHAT, "\"extra\" is not JSON"},
	{{.parameters = {.extra = "{\"stream\":false}"}}, OPENAI_CHAT, "\"stream\""},
	{{.parameters = {.extra = "{\"model\":\"y\"}"}}, OPENAI_CHAT, "\"model\""},
	{{.parameters = {.extra = "{\"messages\":[]}"}}, OPENAI_CHAT, "\"messages\""},
	{{.parameters = {.extra = "{\"input\":\"\"}"}}, OPENAI_RESPONSES, "\"input\""},
	{{.schema = STRICT_SCHEMA, .parameters = {.extra = "{\"text\":{\"verbosity\":\"low\"}}"}}, OPENAI_RESPONSES, "\"text\""},
	{{.schema = STRICT_SCHEMA, .parameters = {.extra = "{\"text\":{\"format\":{\"type\":\"text\"}}}"}}, OPENAI_RESPONSES, NULL},
	{{.parameters = {.extra = "{\"text\":{\"verbosity\":\"low\"}}"}}, OPENAI_RESPONSES, NULL},
};

static void
test_checks(void)
{
	for (int i = 0; i < lengthof(checks); i++)
	{
		BatchOptions options = checks[i].options;
		char	   *words;

		options.account = &account;
		options.model = "m";
		words = openai_check_options(&options, checks[i].endpoint);
		if (checks[i].culprit == NULL)
			is_text(words, NULL, "options %d are good", i);
		else
			ok(words != NULL && strstr(words, checks[i].culprit) != NULL, "options %d: %s", i, words ? words : "(good)");
		arena_reset();
	}
}

/* ---- errors ---- */

static char *
describe_error(const StepError *error)
{
	return psprintf("%s|%s|%s|%d%s", error_class_name(error->class), error->code ? error->code : "-",
					error->message ? error->message : "-", (int) error->retry_after_ms,
					error->maybe_done ? "|maybe" : "");
}

typedef struct ErrorCase
{
	int			status;
	const char *body;
	const char *header;
	const char *value;
	const char *expected;
} ErrorCase;

static const ErrorCase error_cases[] = {
	{401, "{\"error\":{\"message\":\"Incorrect API key provided\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":\"invalid_api_key\"}}", NULL, NULL, "auth|invalid_api_key|Incorrect API key provided|-1"},
	{403, "{\"error\":{\"message\":\"Country not supported\",\"type\":\"request_forbidden\",\"code\":null}}", NULL, NULL, "auth|request_forbidden|Country not supported|-1"},
	{422, "{\"error\":{\"message\":\"No\",\"code\":null}}", NULL, NULL, "permanent|422|No|-1"},
	{404, "{\"error\":{\"message\":\"No such model\",\"type\":\"invalid_request_error\",\"code\":\"model_not_found\"}}", NULL, NULL, "permanent|model_not_found|No such model|-1"},
	{429, "{\"error\":{\"message\":\"You exceeded your current quota\",\"type\":\"insufficient_quota\",\"code\":\"insufficient_quota\"}}", NULL, NULL, "quota|insufficient_quota|You exceeded your current quota|-1"},
	{429, "{\"error\":{\"message\":\"q\",\"type\":\"insufficient_quota\",\"code\":null}}", NULL, NULL, "quota|insufficient_quota|q|-1"},
	{429, "[{\"error\":{\"code\":429,\"message\":\"You exceeded your current quota\",\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"x\":1},{\"@type\":\"RetryInfo\",\"retryDelay\":\"32s\"}]}}]", NULL, NULL, "rate|RESOURCE_EXHAUSTED|You exceeded your current quota|32000"},
	{429, "{\"error\":{\"message\":\"Rate limit reached\",\"type\":\"requests\",\"code\":\"rate_limit_exceeded\"}}", "retry-after-ms", "1500.5", "rate|rate_limit_exceeded|Rate limit reached|1501"},
	{429, "", "retry-after", "7", "rate|429|HTTP status 429|7000"},
	{429, "", "retry-after", "Sun, 06 Nov 1994 08:49:37 GMT", "rate|429|HTTP status 429|0"},
	{429, "", "retry-after", "600", "rate|429|HTTP status 429|600000"},
	{429, "", "retry-after", "7200", "rate|429|HTTP status 429|600000"},
	{429, "", "retry-after", "999999999999", "rate|429|HTTP status 429|-1"},
	{429, "", "retry-after", "-3", "rate|429|HTTP status 429|0"},
	{429, "", "retry-after-ms", "99999999999999", "rate|429|HTTP status 429|-1"},
	{429, "[{\"error\":{\"code\":429,\"status\":\"RESOURCE_EXHAUSTED\",\"details\":[{\"retryDelay\":\"999999999s\"}]}}]", NULL, NULL, "rate|RESOURCE_EXHAUSTED|HTTP status 429|-1"},
	{429, "", "retry-after", "soon", "rate|429|HTTP status 429|-1"},
	{429, "{}", "x-should-retry", "false", "quota|429|HTTP status 429|-1"},
	{400, "{}", "x-should-retry", "true", "temporary|400|HTTP status 400|-1"},
	{500, "{}", "x-should-retry", "false", "permanent|500|HTTP status 500|-1|maybe"},
	{500, "{\"error\":{\"message\":\"The server had an error\",\"type\":\"server_error\"}}", NULL, NULL, "temporary|server_error|The server had an error|-1|maybe"},
	{502, "<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body><center><h1>502 Bad Gateway</h1></center><hr>nginx</body></html>", NULL, NULL, "temporary|502|502 Bad Gateway 502 Bad Gateway nginx|-1|maybe"},
	{503, "{\"error\":{\"code\":503,\"message\":\"Loading model\",\"type\":\"unavailable_error\"}}", NULL, NULL, "temporary|unavailable_error|Loading model|-1|maybe"},
	{529, "{\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}", NULL, NULL, "temporary|overloaded_error|Overloaded|-1|maybe"},
	{400, "{\"error\":\"model 'x' not found, try pulling it\"}", NULL, NULL, "permanent|400|model 'x' not found, try pulling it|-1"},
	{400, "{\"error\":{\"code\":400,\"message\":\"bad\"}}", NULL, NULL, "permanent|400|bad|-1"},
	{400, "{\"object\":\"error\",\"message\":\"too long\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}", NULL, NULL, "permanent|BadRequestError|too long|-1"},
	{404, "{\"detail\":\"Not Found\"}", NULL, NULL, "permanent|404|Not Found|-1"},
	{422, "{\"detail\":[{\"loc\":[\"body\",\"model\"],\"msg\":\"field required\",\"type\":\"value_error\"}]}", NULL, NULL, "permanent|422|field required|-1"},
	{400, "{\"message\":\"plain\"}", NULL, NULL, "permanent|400|plain|-1"},
	{400, "{\"error\":\"invalid_grant\",\"error_description\":\"Token expired\"}", NULL, NULL, "permanent|invalid_grant|Token expired|-1"},
	{400, "{\"errors\":[{\"code\":\"empty_file\",\"message\":\"Empty\"}]}", NULL, NULL, "permanent|empty_file|Empty|-1"},
	{400, "{\"error\":{\"error\":{\"message\":\"deep\",\"code\":\"x\"}}}", NULL, NULL, "permanent|x|deep|-1"},
	{400, "{\"error\":null}", NULL, NULL, "permanent|400|HTTP status 400|-1"},
	{400, "{\"error\":{\"message\":{\"a\":1}}}", NULL, NULL, "permanent|400|{\"a\":1}|-1"},
	{400, "{\"error\":{\"message\":\"limit\",\"code\":\"billing_hard_limit_reached\"}}", NULL, NULL, "quota|billing_hard_limit_reached|limit|-1"},
	{402, "pay", NULL, NULL, "quota|402|pay|-1"},
	{408, "", NULL, NULL, "temporary|408|HTTP status 408|-1|maybe"},
	{409, "", NULL, NULL, "temporary|409|HTTP status 409|-1"},
	{413, "<html>Too Large", NULL, NULL, "too large|413|Too Large|-1"},
	{302, "<a href=\"http://x\">", NULL, NULL, "permanent|302|the server answered with a redirect, and none is followed|-1"},
	{200, "{}", NULL, NULL, "temporary|bad_reply|the server's reply is not what its interface promises|-1|maybe"},
	{400, "caf\xe9 \x01\x02\n\n end", NULL, NULL, "permanent|400|caf? end|-1"},
	{400, "\"just words\"", NULL, NULL, "permanent|400|just words|-1"},
	{500, "[]", NULL, NULL, "temporary|500|HTTP status 500|-1|maybe"},
};

static void
test_errors(void)
{
	StepError	error;
	HttpReply  *reply;
	char	   *text;

	for (int i = 0; i < lengthof(error_cases); i++)
	{
		const ErrorCase *test = &error_cases[i];

		reply = stub_reply(test->status, test->body);
		if (test->header != NULL)
			stub_header(test->header, test->value);
		error_from_http(&error, reply);
		is_text(describe_error(&error), test->expected, "error %d: %s", test->status, test->body);
		arena_reset();
	}

	/* 200 bytes, on a character boundary */
	text = psprintf("{\"message\":\"%s\"}", repeat("\xc3\xa4\xe2\x82\xac", 1000));
	error_from_body(&error, 400, text, strlen(text));
	is_int(strlen(error.message), 200, "message is cut to 200 bytes");
	ok(json_is_utf8(error.message, strlen(error.message)), "message is cut between characters");

	error_from_http(&error, stub_failure(HTTP_NOT_SENT, "could not connect"));
	is_text(describe_error(&error), "temporary|connection_failed|could not connect|-1", "not sent");
	error_from_http(&error, stub_failure(HTTP_BROKEN, "reset"));
	is_text(describe_error(&error), "temporary|connection_lost|reset|-1|maybe", "broken");
	error_from_http(&error, stub_failure(HTTP_TOO_LARGE, NULL));
	is_text(describe_error(&error), "permanent|reply_too_large|the request was not answered|-1|maybe", "too large");
	error_from_http(&error, stub_failure(HTTP_REFUSED_ADDRESS, "no"));
	is_text(describe_error(&error), "permanent|address_refused|no|-1", "refused address");
	error_from_http(&error, stub_failure(HTTP_LOCAL, "disk full"));
	is_text(describe_error(&error), "temporary|local_failure|disk full|-1|maybe", "local trouble");

	reply = stub_reply(401, "key sk-secret-1 sk-secret-12 sk-secret-");
	reply_blot_secret(reply, "sk-secret-1");
	is_text(reply->body, "key *********** ***********2 sk-secret-", "secret is blotted out");
	reply_blot_secret(reply, "key");
	reply_blot_secret(reply, NULL);
	ok(reply->body[0] == 'k', "a short word is not blotted out");
	error_set(&error, ERROR_AUTH, "sk-secret-1", "key sk-secret-1 is wrong");
	error_blot_secret(&error, "sk-secret-1");
	is_text(describe_error(&error), "auth|***********|key *********** is wrong|-1", "nor does a secret stay in an error");
	arena_reset();
}

/* ---- result lines ---- */

static char *
describe_reply(const BatchReply *reply)
{
	static const char *const kinds[] = {"text", "refused", "truncated", "expired", "cancelled", "failed", "no answer"};
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfo(&out, "%s %s", reply->custom_id, kinds[reply->kind]);
	if (reply->text != NULL)
		appendStringInfo(&out, " <%s>", reply->text);
	if (reply->is_json)
		appendStringInfoString(&out, " json");
	if (reply->kind == REPLY_FAILED)
		appendStringInfo(&out, " %s", error_class_name(reply->error.class));
	if (reply->kind != REPLY_TEXT && reply->kind != REPLY_TRUNCATED)
		appendStringInfo(&out, " %s: %s", reply->error.code ? reply->error.code : "-", reply->error.message);
	if (reply->finish_reason != NULL)
		appendStringInfo(&out, " (%s)", reply->finish_reason);
	if (reply->input_tokens + reply->output_tokens + reply->cached_tokens + reply->reasoning_tokens > 0)
		appendStringInfo(&out, " " INT64_FORMAT "/" INT64_FORMAT "/" INT64_FORMAT "/" INT64_FORMAT,
						 reply->input_tokens, reply->cached_tokens, reply->output_tokens, reply->reasoning_tokens);
	if (reply->model_version != NULL)
		appendStringInfo(&out, " %s", reply->model_version);
	if (reply->response_id != NULL)
		appendStringInfo(&out, " %s", reply->response_id);
	if (reply->error.retry_after_ms >= 0)
		appendStringInfo(&out, " after " INT64_FORMAT, reply->error.retry_after_ms);
	return out.data;
}

#define LINE(rest)		"{\"custom_id\":\"r-1\"," rest "}"
#define BODY(body)		LINE("\"response\":{\"status_code\":200,\"request_id\":\"q\",\"body\":" body "},\"error\":null")
#define CHOICE(choice)	BODY("{\"choices\":[" choice "]}")
#define STATUS(status, body)	LINE("\"response\":{\"status_code\":" #status ",\"body\":" body "},\"error\":null")
#define OUTPUT(output, rest)	BODY("{\"id\":\"resp_1\",\"object\":\"response\",\"output\":" output rest "}")

typedef struct LineCase
{
	const char *line;
	const char *expected;
} LineCase;

static const LineCase line_cases[] = {
	/* 1.3, 1.6: the documented shapes */
	{"{\"id\":\"batch_req_1\",\"custom_id\":\"r-000001\",\"response\":{\"status_code\":200,\"request_id\":\"req_x\",\"body\":{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion\",\"created\":1795301000,\"model\":\"gpt-4o\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":\"A\",\"refusal\":null},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":31,\"completion_tokens\":2,\"total_tokens\":33,\"prompt_tokens_details\":{\"cached_tokens\":16},\"completion_tokens_details\":{\"reasoning_tokens\":1}}}},\"error\":null}",
	"r-000001 text <A> (stop) 31/16/2/1 gpt-4o chatcmpl-1"},
	{"{\"id\":\"batch_req_2\",\"custom_id\":\"r-000002\",\"response\":{\"status_code\":400,\"request_id\":\"req_y\",\"body\":{\"error\":{\"message\":\"Use max_completion_tokens\",\"type\":\"invalid_request_error\",\"param\":\"max_tokens\",\"code\":\"unsupported_parameter\"}}},\"error\":null}",
	"r-000002 failed permanent unsupported_parameter: Use max_completion_tokens"},
	{LINE("\"response\":null,\"error\":{\"code\":\"batch_expired\",\"message\":\"Not run in time\"}"), "r-1 expired batch_expired: Not run in time"},
	{LINE("\"response\":null,\"error\":{\"code\":\"batch_cancelled\",\"message\":\"x\"}"), "r-1 cancelled batch_cancelled: x"},
	{LINE("\"error\":{\"code\":\"Batch_Canceled\",\"message\":\"x\"}"), "r-1 cancelled Batch_Canceled: x"},
	{STATUS(0, "null"), "r-1 failed temporary 0: unknown error"},
	{STATUS(0, "{\"error\":{\"message\":\"m\"}}"), "r-1 failed temporary 0: m"},
	{STATUS(408, "null"), "r-1 failed temporary 408: HTTP status 408"},
	{STATUS(409, "{}"), "r-1 failed temporary 409: HTTP status 409"},
	{STATUS(429, "{\"error\":{\"message\":\"slow\",\"code\":\"rate_limit_exceeded\"}}"), "r-1 failed rate rate_limit_exceeded: slow"},
	{STATUS(429, "{\"error\":{\"message\":\"money\",\"type\":\"insufficient_quota\"}}"), "r-1 failed quota insufficient_quota: money"},
	{STATUS(500, "{\"error\":{\"message\":\"oops\",\"type\":\"server_error\",\"code\":null}}"), "r-1 failed temporary server_error: oops"},
	{STATUS(529, "\"overloaded\""), "r-1 failed temporary 529: overloaded"},
	{STATUS(401, "{\"error\":{\"message\":\"key\",\"code\":\"invalid_api_key\"}}"), "r-1 failed auth invalid_api_key: key"},
	{STATUS(404, "{\"error\":{\"message\":\"gone\",\"code\":\"model_not_found\"}}"), "r-1 failed permanent model_not_found: gone"},
	{STATUS(302, "{}"), "r-1 failed permanent 302: HTTP status 302"},
	{STATUS(99999999999, "{}"), "r-1 failed temporary 0: unknown error"},
	{STATUS(-5, "{}"), "r-1 failed temporary 0: unknown error"},
	{STATUS("200", "{\"choices\":[{\"message\":{\"content\":\"s\"}}]}"), "r-1 text <s>"},
	{STATUS(500, "{\"choices\":[{\"message\":{\"content\":\"s\"}}]}"), "r-1 failed temporary 500: HTTP status 500"},

	/* how a chat completion ends */
	{CHOICE("{\"message\":{\"content\":null,\"refusal\":\"I cannot\"},\"finish_reason\":\"stop\"}"), "r-1 refused refusal: I cannot (stop)"},
	{CHOICE("{\"message\":{\"content\":\"x\",\"refusal\":\"\"},\"finish_reason\":\"stop\"}"), "r-1 text <x> (stop)"},
	{CHOICE("{\"message\":{\"content\":[{\"type\":\"refusal\",\"refusal\":\"No\"}]},\"finish_reason\":\"stop\"}"), "r-1 refused refusal: No (stop)"},
	{CHOICE("{\"message\":{\"content\":\"\"},\"finish_reason\":\"length\"}"), "r-1 truncated <> (length)"},
	{CHOICE("{\"message\":{\"content\":null},\"finish_reason\":\"length\"}"), "r-1 truncated (length)"},
	{CHOICE("{\"message\":{\"content\":\"part\"},\"finish_reason\":\"length\"}"), "r-1 truncated <part> (length)"},
	{CHOICE("{\"message\":{\"content\":\"half\"},\"finish_reason\":\"content_filter\"}"), "r-1 refused content_filter: half (content_filter)"},
	{CHOICE("{\"message\":{},\"finish_reason\":\"content_filter\"}"), "r-1 refused content_filter: the model or a filter declined to answer (content_filter)"},
	{CHOICE("{\"message\":{\"content\":null,\"tool_calls\":[]},\"finish_reason\":\"tool_calls\"}"), "r-1 failed permanent tool_calls: the model called a tool instead of answering (tool_calls)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"stop\"}"), "r-1 text <A> (stop)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"eos\"}"), "r-1 text <A> (eos)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"end_turn\"}"), "r-1 text <A> (end_turn)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"stop_sequence\"}"), "r-1 text <A> (stop_sequence)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"eos_token\"}"), "r-1 text <A> (eos_token)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"STOP\"}"), "r-1 text <A> (STOP)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"max_tokens\"}"), "r-1 truncated <A> (max_tokens)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"MAX_TOKENS\"}"), "r-1 truncated <A> (MAX_TOKENS)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"model_length\"}"), "r-1 truncated <A> (model_length)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"model_context_window_exceeded\"}"), "r-1 truncated <A> (model_context_window_exceeded)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"sensitive\"}"), "r-1 refused sensitive: A (sensitive)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"recitation\"}"), "r-1 refused recitation: A (recitation)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"SAFETY\"}"), "r-1 refused SAFETY: A (SAFETY)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"refusal\"}"), "r-1 refused refusal: A (refusal)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"abort\"}"), "r-1 failed temporary abort: the model stopped with finish reason \"abort\" (abort)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"error\"}"), "r-1 failed temporary error: the model stopped with finish reason \"error\" (error)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"network_error\"}"), "r-1 failed temporary network_error: the model stopped with finish reason \"network_error\" (network_error)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"insufficient_system_resource\"}"), "r-1 failed temporary insufficient_system_resource: the model stopped with finish reason \"insufficient_system_resource\" (insufficient_system_resource)"},
	{CHOICE("{\"message\":{\"content\":\"A\"},\"finish_reason\":\"never_heard_of\"}"), "r-1 failed permanent never_heard_of: the model stopped with finish reason \"never_heard_of\" (never_heard_of)"},
	{CHOICE("{\"message\":{\"content\":null,\"reasoning_content\":\"A\"},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has no text that could be an answer (stop)"},
	{CHOICE("{\"message\":{\"content\":null,\"reasoning\":\"A\"},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has no text that could be an answer (stop)"},
	{CHOICE("{\"message\":{\"content\":[]},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has no text that could be an answer (stop)"},
	{CHOICE("{\"message\":{\"content\":[{\"type\":\"thinking\",\"thinking\":\"A\"}]},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has no text that could be an answer (stop)"},
	{CHOICE("{\"message\":{\"content\":\"\",\"tool_calls\":[{\"id\":\"c\"}]},\"finish_reason\":\"stop\"}"), "r-1 failed permanent tool_calls: the model called a tool instead of answering (stop)"},
	{CHOICE("{\"message\":{\"content\":\"Let me see\",\"tool_calls\":[{\"id\":\"c\"}]},\"finish_reason\":\"stop\"}"), "r-1 failed permanent tool_calls: the model called a tool instead of answering (stop)"},
	{CHOICE("{\"message\":{\"content\":null,\"function_call\":{\"name\":\"f\"}},\"finish_reason\":\"stop\"}"), "r-1 failed permanent tool_calls: the model called a tool instead of answering (stop)"},
	{CHOICE("{\"message\":{\"content\":7},\"finish_reason\":\"stop\"}"), "r-1 text <7> json (stop)"},
	{CHOICE("{\"message\":{\"content\":\"\"},\"finish_reason\":\"stop\"}"), "r-1 text <> (stop)"},
	{CHOICE("{\"message\":{\"content\":\"<think>a</think>\"},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has reasoning, and no answer (stop)"},
	{CHOICE("{\"message\":{\"content\":\"<think>a\"},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has reasoning, and no answer (stop)"},
	{CHOICE("{\"message\":{\"content\":\"a</think>\\n\\nB\"},\"finish_reason\":\"stop\"}"), "r-1 text <B> (stop)"},
	{CHOICE("{\"message\":{\"content\":\"B <think>a</think>\"},\"finish_reason\":\"stop\"}"), "r-1 text <B <think>a</think>> (stop)"},
	{BODY("{\"choices\":[{\"message\":{\"content\":\"A\"},\"finish_reason\":\"stop\"}],\"error\":{\"message\":\"upstream broke off\",\"code\":502}}"), "r-1 failed temporary 502: upstream broke off"},
	{BODY("{\"choices\":[],\"error\":{\"message\":\"no credit\",\"code\":402}}"), "r-1 failed quota 402: no credit"},
	{BODY("{\"choices\":[],\"error\":{\"message\":\"slow down\",\"code\":429}}"), "r-1 failed rate 429: slow down"},
	{CHOICE("{\"message\":{\"content\":null},\"finish_reason\":\"stop\"}"), "r-1 no answer no_answer: the reply has no text that could be an answer (stop)"},
	{CHOICE(""), "r-1 failed temporary bad_reply: the reply has no message"},
	{CHOICE("null"), "r-1 failed temporary bad_reply: the reply has no message"},
	{CHOICE("7"), "r-1 failed temporary bad_reply: the reply has no message"},
	{CHOICE("{\"finish_reason\":\"error\",\"error\":{\"code\":502,\"message\":\"upstream\"}}"), "r-1 failed temporary 502: upstream (error)"},
	{CHOICE("{\"text\":\"old style\",\"finish_reason\":\"stop\"}"), "r-1 text <old style> (stop)"},
	{CHOICE("{\"message\":{\"content\":\"<think>a</think>b\",\"reasoning_content\":\"zzz\"}}"), "r-1 text <b>"},

	/* 1.9: compatible servers */
	{CHOICE("{\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"a\"},{\"type\":\"image\",\"text\":\"no\"},{\"text\":\"b\"},\"c\",7,null]}}"), "r-1 text <abc>"},
	{CHOICE("{\"message\":{\"content\":{\"text\":\"x\"}},\"finish_reason\":\"stop\"}"), "r-1 text <{\"text\":\"x\"}> json (stop)"},
	{LINE("\"response\":{\"status_code\":400,\"request_id\":\"v\",\"body\":null},\"error\":\"The prompt is too long\""), "r-1 failed permanent 400: The prompt is too long"},
	{LINE("\"response\":{\"status_code\":400,\"body\":null},\"error\":{\"error\":{\"message\":\"m\",\"type\":\"BadRequestError\",\"param\":null,\"code\":400}}"), "r-1 failed permanent BadRequestError: m"},
	{LINE("\"response\":null,\"error\":{\"message\":\"m\",\"code\":400}"), "r-1 failed permanent 400: m"},
	{LINE("\"response\":null,\"error\":{\"message\":\"m\",\"code\":\"503\"}"), "r-1 failed temporary 503: m"},
	{LINE("\"response\":null,\"error\":\"boom\""), "r-1 failed temporary 0: boom"},
	{LINE("\"response\":null,\"error\":{\"message\":\"An error occurred\",\"code\":\"generic\"}"), "r-1 failed temporary generic: An error occurred"},
	{LINE("\"response\":null,\"error\":{\"message\":\"m\",\"code\":\"invalid_json\"}"), "r-1 failed permanent invalid_json: m"},
	{LINE("\"response\":null,\"error\":{\"message\":\"m\",\"code\":\"model_not_found\"}"), "r-1 failed permanent model_not_found: m"},
	{LINE("\"response\":{\"status_code\":200,\"body\":{\"choices\":[{\"message\":{\"content\":\"x\"}}]}},\"error\":{}"), "r-1 text <x>"},
	{LINE("\"response\":{\"status_code\":200,\"body\":{\"choices\":[{\"message\":{\"content\":\"x\"}}]}},\"error\":\"\""), "r-1 text <x>"},
	{LINE("\"response\":{\"status_code\":200,\"body\":{\"choices\":[{\"message\":{\"content\":\"x\"}}]}}"), "r-1 text <x>"},
	{LINE("\"response\":{\"body\":{\"choices\":[{\"message\":{\"content\":\"x\"}}]}}"), "r-1 text <x>"},
	{LINE("\"response\":null,\"error\":null"), "r-1 failed temporary bad_reply: the line has neither a response nor an error"},
	{LINE("\"x\":1"), "r-1 failed temporary bad_reply: the line has neither a response nor an error"},
	{BODY("null"), "r-1 failed temporary 200: unknown error"},
	{BODY("{}"), "r-1 failed temporary 200: unknown error"},
	{BODY("[]"), "r-1 failed temporary 200: unknown error"},
	{BODY("{\"error\":{\"message\":\"late\",\"code\":\"server_error\"}}"), "r-1 failed temporary server_error: late"},
	{LINE("\"response\":\"text\""), "r-1 failed temporary 0: unknown error"},
	{BODY("{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":{\"prompt_tokens\":-4,\"completion_tokens\":99999999999999999999,\"prompt_tokens_details\":[]}}"), "r-1 text <x>"},
	{BODY("{\"choices\":[{\"message\":{\"content\":\"x\"}}],\"usage\":null}"), "r-1 text <x>"},

	/* refusals by the service */
	{STATUS(400, "{\"error\":{\"message\":\"filtered\",\"code\":\"content_filter\"}}"), "r-1 refused content_filter: filtered"},
	{STATUS(400, "{\"error\":{\"message\":\"policy\",\"code\":\"content_policy_violation\"}}"), "r-1 refused content_policy_violation: policy"},
	{STATUS(400, "{\"error\":{\"message\":\"flagged\",\"type\":\"invalid_request_error\",\"code\":\"invalid_prompt\"}}"), "r-1 refused invalid_prompt: flagged"},

	/* 1.6: responses */
	{OUTPUT("[{\"type\":\"reasoning\",\"content\":[{\"type\":\"output_text\",\"text\":\"hm\"}]},{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"a\"},{\"type\":\"output_text\",\"text\":\"b\"}]}]", ",\"status\":\"completed\",\"model\":\"gpt-5\",\"usage\":{\"input_tokens\":5,\"input_tokens_details\":{\"cached_tokens\":4},\"output_tokens\":3,\"output_tokens_details\":{\"reasoning_tokens\":2}}"),
	"r-1 text <ab> (completed) 5/4/3/2 gpt-5 resp_1"},
	{OUTPUT("[{\"type\":\"message\",\"phase\":\"commentary\",\"content\":[{\"type\":\"output_text\",\"text\":\"I will\"}]},{\"type\":\"message\",\"phase\":\"final_answer\",\"content\":[{\"type\":\"output_text\",\"text\":\"B\"}]}]", ""), "r-1 text <B> resp_1"},
	{OUTPUT("[{\"type\":\"message\",\"content\":[{\"type\":\"refusal\",\"refusal\":\"No\"}]}]", ",\"status\":\"completed\""), "r-1 refused refusal: No (completed) resp_1"},
	{OUTPUT("[]", ",\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"), "r-1 truncated (max_output_tokens) resp_1"},
	{OUTPUT("[{\"type\":\"message\",\"content\":[{\"type\":\"output_text\",\"text\":\"pa\"}]}]", ",\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"max_output_tokens\"}"), "r-1 truncated <pa> (max_output_tokens) resp_1"},
	{OUTPUT("[]", ",\"status\":\"incomplete\",\"incomplete_details\":{\"reason\":\"content_filter\"}"), "r-1 refused content_filter: the model or a filter declined to answer (content_filter) resp_1"},
	{OUTPUT("[]", ",\"status\":\"failed\",\"error\":{\"code\":\"server_error\",\"message\":\"oops\"}"), "r-1 failed temporary server_error: oops (failed) resp_1"},
	{OUTPUT("[]", ",\"status\":\"failed\",\"error\":{\"code\":\"rate_limit_exceeded\",\"message\":\"slow\"}"), "r-1 failed rate rate_limit_exceeded: slow (failed) resp_1"},
	{OUTPUT("[]", ",\"status\":\"failed\",\"error\":{\"code\":\"invalid_prompt\",\"message\":\"flag\"}"), "r-1 refused invalid_prompt: flag (failed) resp_1"},
	{OUTPUT("[]", ",\"status\":\"failed\",\"error\":{\"code\":\"data_residency_mismatch\",\"message\":\"m\"}"), "r-1 failed permanent data_residency_mismatch: m (failed) resp_1"},
	{OUTPUT("[]", ",\"status\":\"failed\""), "r-1 failed temporary failed: the response has status \"failed\" (failed) resp_1"},
	{OUTPUT("[]", ",\"status\":\"cancelled\""), "r-1 cancelled cancelled: the response was cancelled (cancelled) resp_1"},
	{OUTPUT("[]", ",\"status\":\"in_progress\""), "r-1 failed temporary in_progress: the response has status \"in_progress\" (in_progress) resp_1"},
	{OUTPUT("[{\"type\":\"function_call\"}]", ",\"status\":\"completed\""), "r-1 failed permanent tool_calls: the model called a tool instead of answering (completed) resp_1"},
	{OUTPUT("[null,7,\"x\",[]]", ",\"status\":\"completed\""), "r-1 no answer no_answer: the reply has no text that could be an answer (completed) resp_1"},

	/* text that PostgreSQL cannot hold, and text that looks odd */
	{CHOICE("{\"message\":{\"content\":\"a\\u0000b\\ud800c\xe2\x80\xa8" "d\"}}"), "r-1 text <a\xef\xbf\xbd" "b\xef\xbf\xbd" "c\xe2\x80\xa8" "d>"},
	{"\xef\xbb\xbf{\"custom_id\":\"r-1\",\"error\":\"x\"}\r", "r-1 failed temporary 0: x"},
	{"{\"custom_id\":\"r-1\",\"CUSTOM_ID\":\"r-2\",\"Error\":1,\"error\":\"x\"}", "r-1 failed temporary 0: x"},

	/* what our own lines of online mode add */
	{LINE("\"response\":{\"status_code\":429,\"retry_after_ms\":1500,\"body\":{}},\"error\":null"), "r-1 failed rate 429: HTTP status 429 after 1500"},
	{LINE("\"response\":{\"status_code\":500,\"x_should_retry\":\"false\",\"body\":{}},\"error\":null"), "r-1 failed permanent 500: HTTP status 500"},
};

static const char *const no_lines[] = {
	"", " ", "\xef\xbb\xbf", "{", "[]", "7", "null", "\"custom_id\"", "{}", "{\"custom_id\":null,\"error\":1}", "{\"custom_id\":5}",
	"{\"custom_id\":\"r-1\"} x", "{\"custom_id\":\"r-1\",}", "{\"custom_id\":\"\xff\"}", "<html>", "{\"custom_id\":\"r-1\",\"response\":{\"sta",
};

static void
test_result_lines(void)
{
	BatchReply	reply;
	const char *why;
	char	   *deep;

	for (int i = 0; i < lengthof(line_cases); i++)
	{
		const LineCase *test = &line_cases[i];

		why = NULL;
		if (!openai_read_line(test->line, strlen(test->line), &reply, &why))
			ok(false, "could not read %s: %s", test->line, why);
		else
			is_text(describe_reply(&reply), test->expected, "read %s", test->line);
		arena_reset();
	}
	for (int i = 0; i < lengthof(no_lines); i++)
	{
		why = NULL;
		ok(!openai_read_line(no_lines[i], strlen(no_lines[i]), &reply, &why) && why != NULL, "no result line: %s", no_lines[i]);
		arena_reset();
	}

	deep = psprintf("{\"custom_id\":\"r-1\",\"error\":%s%s}", repeat("[", 10000), repeat("]", 10000));
	why = NULL;
	ok(!openai_read_line(deep, strlen(deep), &reply, &why) && why != NULL, "10,000 levels: %s", why);
	arena_reset();
}

/* ---- results of online mode ---- */

static char *
round_trip(const HttpReply *http)
{
	StringInfoData line;
	BatchReply	reply;
	const char *why = NULL;

	initStringInfo(&line);
	openai_write_result(&line, "r-1", http);
	ok(strchr(line.data, '\n') == line.data + line.len - 1, "one newline, at the end");
	if (!ok(openai_read_line(line.data, line.len - 1, &reply, &why), "own result line can be read (%s)", why ? why : "yes"))
		return line.data;
	return describe_reply(&reply);
}

static void
test_online(void)
{
	HttpReply  *reply;
	StringInfoData line;

	reply = stub_reply(200, "{\n  \"choices\": [\r\n {\"message\":{\"content\":\"a\\nb\"}}],\n \"n\": 12345678901234567890 }\n");
	stub_header("x-request-id", "req\"1");
	initStringInfo(&line);
	openai_write_result(&line, "r-1", reply);
	is_text(line.data, "{\"custom_id\":\"r-1\",\"response\":{\"status_code\":200,\"request_id\":\"req\\\"1\",\"body\":{   \"choices\": [   "
			"{\"message\":{\"content\":\"a\\nb\"}}],  \"n\": 12345678901234567890 } },\"error\":null}\n", "body is verbatim");
	is_text(round_trip(reply), "r-1 text <a\nb>", "a good reply");

	is_text(round_trip(stub_reply(200, "not JSON")), "r-1 failed temporary unreadable_reply: the server's reply is not JSON: not JSON", "200 without JSON");
	is_text(round_trip(stub_reply(502, "<html><h1>Bad \"Gateway\"</h1>")), "r-1 failed temporary 502: Bad \"Gateway\"", "502 of a proxy");
	is_text(round_trip(stub_reply(413, "")), "r-1 failed too large 413: HTTP status 413", "413 without a body");
	is_text(round_trip(stub_reply(400, "\xff\xfe")), "r-1 failed permanent 400: ??", "400 without UTF-8");
	is_text(round_trip(stub_reply(401, "{\"error\":{\"message\":\"key\",\"code\":\"invalid_api_key\"}}")), "r-1 failed auth invalid_api_key: key", "401");
	reply = stub_reply(429, "{\"error\":{\"message\":\"slow\",\"code\":\"rate_limit_exceeded\"}}");
	stub_header("retry-after-ms", "20");
	stub_header("x-should-retry", "true");
	is_text(round_trip(reply), "r-1 failed rate rate_limit_exceeded: slow after 20", "429 with its headers");
	reply = stub_reply(503, "{}");
	stub_header("x-should-retry", "false");
	is_text(round_trip(reply), "r-1 failed permanent 503: HTTP status 503", "503 that is final");

	is_text(round_trip(stub_failure(HTTP_NOT_SENT, "could not connect")), "r-1 failed temporary connection_failed: could not connect", "not sent");
	is_text(round_trip(stub_failure(HTTP_BROKEN, "reset")), "r-1 failed temporary connection_lost: reset", "broken");
	is_text(round_trip(stub_failure(HTTP_TOO_LARGE, "big")), "r-1 failed permanent reply_too_large: big", "too large");
	is_text(round_trip(stub_failure(HTTP_REFUSED_ADDRESS, "no")), "r-1 failed permanent address_refused: no", "refused address");
	is_text(round_trip(stub_failure(HTTP_LOCAL, "disk")), "r-1 failed temporary local_failure: disk", "local trouble");
	arena_reset();
}

int
main(void)
{
	test_bodies();
	test_lines();
	test_strictness();
	test_checks();
	test_errors();
	test_result_lines();
	test_online();
	return done_testing();
}
