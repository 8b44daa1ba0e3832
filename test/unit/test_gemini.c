/*-------------------------------------------------------------------------
 *
 * test_gemini.c
 *		Request lines, schemas and result lines of Gemini models.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "text/json.h"
#include "provider/google/google.h"
#include "reply_stubs.h"
#include "tap.h"

/* ---- request lines ---- */

#define HEAD	"{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":\"Hi\"}]}]"

typedef struct BodyCase
{
	const char *name;
	BatchOptions options;
	const char *expected;		/* behind the contents */
} BodyCase;

static const BodyCase body_cases[] = {
	{"nothing", {.model = "gemini-2.5-flash"}, "}"},
	{"system", {.model = "gemini-2.5-flash", .system = "Be\nshort"}, ",\"systemInstruction\":{\"parts\":[{\"text\":\"Be\\nshort\"}]}}"},
	{"system written before", {.model = "x", .system = "s", .system_json = "\"s!\""}, ",\"systemInstruction\":{\"parts\":[{\"text\":\"s!\"}]}}"},
	{"parameters", {.model = "gemini-2.0-flash", .parameters = {.temperature = "0.20", .top_p = "1", .seed = "-7", .max_output_tokens = 5}},
	",\"generationConfig\":{\"temperature\":0.20,\"topP\":1,\"maxOutputTokens\":5,\"seed\":-7}}"},
	{"schema", {.model = "x", .schema = "{\"type\":\"string\"}"}, ",\"generationConfig\":{\"responseMimeType\":\"application/json\",\"responseSchema\":{\"type\":\"STRING\"}}}"},
	{"extra", {.model = "x", .parameters = {.temperature = "1", .extra = "{\"safetySettings\":[{\"a\":1.50}],\"labels\":{\"k\":\"v\"}}"}},
	",\"generationConfig\":{\"temperature\":1},\"safetySettings\":[{\"a\":1.50}],\"labels\":{\"k\":\"v\"}}"},
	{"extra within generationConfig", {.model = "gemini-3.5-flash", .department = true, .parameters = {.temperature = "1", .seed = "3", .extra = "{\"generation_config\":{\"TopK\":3,\"temperature\":0,\"thinking_config\":{}}}"}},
	",\"generationConfig\":{\"seed\":3,\"TopK\":3,\"temperature\":0,\"thinking_config\":{}}}"},
	{"extra system", {.model = "x", .system = "s", .parameters = {.extra = "{\"system_instruction\":{}}"}}, ",\"system_instruction\":{}}"},

	{"department, 2.5 flash", {.model = "gemini-2.5-flash", .department = true}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":0}}}"},
	{"department, 2.5 flash-lite", {.model = "gemini-2.5-flash-lite-preview-09-2025", .department = true}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":0}}}"},
	{"department, 2.5 pro", {.model = "publishers/google/models/gemini-2.5-pro", .department = true}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":128}}}"},
	{"department, 3.5 flash", {.model = "gemini-3.5-flash", .department = true}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingLevel\":\"MINIMAL\"}}}"},
	{"department, 3 flash", {.model = "gemini-3-flash-preview", .department = true}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingLevel\":\"MINIMAL\"}}}"},
	{"department, 3.1 pro", {.model = "gemini-3.1-pro-preview", .department = true}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingLevel\":\"LOW\"}}}"},
	{"department, 2.0", {.model = "gemini-2.0-flash-001", .department = true}, "}"},
	{"department, latest", {.model = "gemini-flash-latest", .department = true}, "}"},
	{"department, image", {.model = "gemini-2.5-flash-image", .department = true}, "}"},
	{"department, tuned", {.model = "projects/1/locations/l/endpoints/5", .department = true}, "}"},
	{"effort none, 2.5 flash", {.model = "gemini-2.5-flash", .parameters = {.reasoning_effort = "none"}}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":0}}}"},
	{"effort none, 2.0", {.model = "gemini-2.0-flash", .parameters = {.reasoning_effort = "none"}}, "}"},
	{"effort minimal, 2.5 pro", {.model = "gemini-2.5-pro", .parameters = {.reasoning_effort = "minimal"}}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":128}}}"},
	{"effort high, 2.5 pro", {.model = "gemini-2.5-pro", .parameters = {.reasoning_effort = "high"}}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingBudget\":24576}}}"},
	{"effort medium, 3.1 pro", {.model = "gemini-3.1-pro", .parameters = {.reasoning_effort = "medium"}}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingLevel\":\"MEDIUM\"}}}"},
	{"effort over department", {.model = "gemini-3.5-flash", .department = true, .parameters = {.reasoning_effort = "high"}}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingLevel\":\"HIGH\"}}}"},
	{"effort, unknown model", {.model = "gemini-pro-latest", .parameters = {.reasoning_effort = "low"}}, ",\"generationConfig\":{\"thinkingConfig\":{\"thinkingLevel\":\"LOW\"}}}"},
};

static void
test_bodies(void)
{
	BatchItem	item = {"abc-1", "Hi", 2};

	for (int i = 0; i < lengthof(body_cases); i++)
	{
		const BodyCase *test = &body_cases[i];
		BatchOptions options = test->options;
		StringInfoData line;
		StringInfoData again;
		const char *why = "";
		const char *body = "";
		size_t		length = 0;

		is_text(gemini_check_options(&options), NULL, "%s: options are good", test->name);
		initStringInfo(&line);
		gemini_write_bare_line(&line, &item, &options);
		ok(json_is_valid(line.data, line.len, &why), "%s: line is JSON", test->name);
		ok(strchr(line.data, '\n') == line.data + line.len - 1, "%s: one line end", test->name);
		ok(gemini_split_line(line.data, line.len, &body, &length), "%s: line can be split", test->name);
		is_text(pnstrdup(body, length), psprintf("%s%s", HEAD, test->expected), "%s", test->name);

		gemini_prepare_options(&options);
		initStringInfo(&again);
		gemini_write_keyed_line(&again, &item, &options);
		is_text(again.data, psprintf("{\"key\":\"abc-1\",%s", line.data + 1), "%s: with a key", test->name);
		ok(gemini_split_line(again.data, again.len, &body, &length), "%s: line with a key can be split", test->name);
		is_text(pnstrdup(body, length), psprintf("%s%s", HEAD, test->expected), "%s: with a key", test->name);
		arena_reset();
	}
}

static void
test_split(void)
{
	static const char *const bad[] = {"", "{}", "{\"request\":}", "{\"request\":1}", "{\"key\":\"x", "{\"key\":\"x\"}", "{\"key\":\"x\",\"request\":", "[\"request\":{}]", "{\"request\":{}"};
	const char *body;
	size_t		length;

	for (int i = 0; i < lengthof(bad); i++)
		ok(!gemini_split_line(bad[i], strlen(bad[i]), &body, &length) || length > 0, "%s is no line", bad[i]);
	ok(gemini_split_line("{\"request\":{}}\r\n", 16, &body, &length) && length == 2, "line ends do not count");
}

static void
test_bad_options(void)
{
	static const struct
	{
		BatchOptions options;
		const char *expected;
	}			cases[] = {
		{{.model = "x", .parameters = {.temperature = "3"}}, "parameter \"temperature\" must be a number from 0 to 2, not \"3\""},
		{{.model = "x", .parameters = {.top_p = "2"}}, "parameter \"top_p\" must be a number from 0 to 1, not \"2\""},
		{{.model = "x", .parameters = {.seed = "3000000000"}}, "parameter \"seed\" must be a 32-bit integer for Gemini models, not \"3000000000\""},
		{{.model = "x", .parameters = {.seed = "1.5"}}, "parameter \"seed\" must be a 32-bit integer for Gemini models, not \"1.5\""},
		{{.model = "x", .parameters = {.max_output_tokens = 3000000000}}, "parameter \"max_output_tokens\" must be a positive 32-bit integer for Gemini models"},
		{{.model = "x", .parameters = {.reasoning_effort = "xhigh"}}, "parameter \"reasoning_effort\" must be none, minimal, low, medium or high for Gemini models, not \"xhigh\""},
		{{.model = "gemini-2.5-pro", .parameters = {.reasoning_effort = "none"}}, "parameter \"reasoning_effort\" must not be none for model \"gemini-2.5-pro\": the least is minimal"},
		{{.model = "gemini-2.0-flash", .parameters = {.reasoning_effort = "low"}}, "parameter \"reasoning_effort\" must be none for model \"gemini-2.0-flash\", which does not think before it answers"},
		{{.model = "gemini-3.5-flash", .parameters = {.reasoning_effort = "none"}}, "parameter \"reasoning_effort\" must not be none for model \"gemini-3.5-flash\": the least is minimal"},
		{{.model = "gemini-3.1-pro", .parameters = {.reasoning_effort = "minimal"}}, "parameter \"reasoning_effort\" must not be minimal for model \"gemini-3.1-pro\": it knows low, medium and high"},
		{{.model = "gemini-3-pro-preview", .parameters = {.reasoning_effort = "medium"}}, "parameter \"reasoning_effort\" must not be medium for model \"gemini-3-pro-preview\": it knows low and high"},
		{{.model = "x", .parameters = {.extra = "[]"}}, "parameter \"extra\" must be a JSON object"},
		{{.model = "x", .parameters = {.extra = "{"}}, "parameter \"extra\" is not JSON: ends too early"},
		{{.model = "x", .parameters = {.extra = "{\"contents\":[]}"}}, "parameter \"extra\" must not contain \"contents\" or \"model\""},
		{{.model = "x", .parameters = {.extra = "{\"generationConfig\":null}"}}, "parameter \"extra\" has a \"generationConfig\" that is not an object"},
		{{.model = "x", .schema = "{\"type\":\"string\"}", .parameters = {.extra = "{\"generationConfig\":{\"response_json_schema\":{}}}"}}, "parameter \"extra\" must not contain \"responseJsonSchema\" beside response_schema"},
		{{.model = "x", .schema = "{\"type\":\"null\"}"}, "response_schema allows nothing but null"},
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_text(gemini_check_options(&cases[i].options), cases[i].expected, "%s", cases[i].expected);
	arena_reset();
}

/* ---- schemas ---- */

static void
test_schemas(void)
{
	static const struct
	{
		const char *schema;
		const char *expected;	/* the translation, or why there is none */
	}			cases[] = {
		{"{\"type\":\"string\",\"minLength\":1,\"maxLength\":9,\"pattern\":\"^a\",\"minimum\":5}", "{\"type\":\"STRING\",\"minLength\":1,\"maxLength\":9,\"pattern\":\"^a\"}"},
		{"{\"type\":\"number\",\"minimum\":0.50,\"format\":\"double\"}", "{\"type\":\"NUMBER\",\"minimum\":0.50,\"format\":\"double\"}"},
		{"{\"type\":[\"string\",\"null\"],\"description\":\"d\",\"title\":\"t\"}", "{\"type\":\"STRING\",\"nullable\":true,\"title\":\"t\",\"description\":\"d\"}"},
		{"{\"type\":\"STRING\",\"nullable\":true,\"format\":\"email\"}", "{\"type\":\"STRING\",\"nullable\":true}"},
		{"{\"enum\":[\"a\",\"b\",null]}", "{\"type\":\"STRING\",\"enum\":[\"a\",\"b\"],\"nullable\":true}"},
		{"{\"type\":[\"string\",\"null\"],\"enum\":[\"a\"]}", "{\"type\":\"STRING\",\"enum\":[\"a\"]}"},
		{"{\"const\":\"x\"}", "{\"type\":\"STRING\",\"enum\":[\"x\"]}"},
		{"{\"type\":\"integer\",\"exclusiveMinimum\":0,\"exclusiveMaximum\":10}", "{\"type\":\"INTEGER\",\"minimum\":1,\"maximum\":9}"},
		{"{\"type\":\"array\",\"items\":{\"type\":\"boolean\"},\"maxItems\":3}", "{\"type\":\"ARRAY\",\"maxItems\":3,\"items\":{\"type\":\"BOOLEAN\"}}"},
		{"{\"type\":\"object\",\"properties\":{\"b\":{\"type\":\"string\"},\"a\":{\"type\":\"integer\"}},\"required\":[\"a\"],\"additionalProperties\":false}",
		"{\"type\":\"OBJECT\",\"properties\":{\"b\":{\"type\":\"STRING\"},\"a\":{\"type\":\"INTEGER\"}},\"propertyOrdering\":[\"b\",\"a\"],\"required\":[\"a\"]}"},
		{"{\"properties\":{\"a\":{\"type\":\"string\"}},\"propertyOrdering\":[\"a\"],\"$schema\":\"s\",\"$comment\":\"c\"}", "{\"type\":\"OBJECT\",\"properties\":{\"a\":{\"type\":\"STRING\"}},\"propertyOrdering\":[\"a\"]}"},
		{"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}],\"default\":null,\"title\":\"t\"}", "{\"type\":\"STRING\",\"nullable\":true,\"title\":\"t\"}"},
		{"{\"oneOf\":[{\"type\":\"null\"},{\"type\":\"integer\"}]}", "{\"type\":\"INTEGER\",\"nullable\":true}"},
		{"{\"allOf\":[{\"type\":\"string\"}],\"description\":\"d\"}", "{\"type\":\"STRING\",\"description\":\"d\"}"},
		{"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\"},{\"type\":\"null\"}]}", "{\"anyOf\":[{\"type\":\"STRING\"},{\"type\":\"INTEGER\"}],\"nullable\":true}"},
		{"{\"type\":[\"string\",\"integer\",\"null\"]}", "{\"anyOf\":[{\"type\":\"STRING\"},{\"type\":\"INTEGER\"}],\"nullable\":true}"},
		{"{\"$ref\":\"#/$defs/a\",\"$defs\":{\"a\":{\"$ref\":\"#/$defs/b~1c\",\"description\":\"inner\"},\"b/c\":{\"type\":\"string\",\"title\":\"t\"}},\"description\":\"outer\"}", "{\"type\":\"STRING\",\"title\":\"t\",\"description\":\"outer\"}"},
		{"{\"properties\":{\"x\":{\"$ref\":\"#/$defs/a\"},\"y\":{\"$ref\":\"#/$defs/a\"}},\"$defs\":{\"a\":{\"type\":\"string\"}}}",
		"{\"type\":\"OBJECT\",\"properties\":{\"x\":{\"type\":\"STRING\"},\"y\":{\"type\":\"STRING\"}},\"propertyOrdering\":[\"x\",\"y\"]}"},
		{"{\"anyOf\":[{\"type\":\"string\"},{\"$ref\":\"#/anyOf/0\"}]}", "{\"anyOf\":[{\"type\":\"STRING\"},{\"type\":\"STRING\"}]}"},

		{"1", "response_schema must be an object"},
		{"{", "response_schema is not JSON: ends too early"},
		{"{}", "response_schema has no \"type\""},
		{"{\"type\":\"any\"}", "response_schema has a \"type\" that is none"},
		{"{\"type\":\"object\"}", "response_schema is an object without \"properties\", which Gemini's response schemas cannot say"},
		{"{\"type\":\"array\"}", "response_schema is an array without \"items\", which Gemini's response schemas cannot say"},
		{"{\"properties\":{\"a\":{\"items\":{\"not\":{}}}}}", "response_schema.properties.a.items has \"not\", which Gemini's response schemas cannot say"},
		{"{\"properties\":{\"a\":{\"type\":\"string\",\"x-mine\":1}}}", "response_schema.properties.a has \"x-mine\", which Gemini's response schemas cannot say"},
		{"{\"properties\":{\"a\":{\"properties\":{\"b\":{\"type\":\"string\"}},\"additionalProperties\":{\"type\":\"string\"}}}}", "response_schema.properties.a has a schema in \"additionalProperties\", which Gemini's response schemas cannot say"},
		{"{\"properties\":{\"a\":true}}", "response_schema.properties.a must be an object"},
		{"{\"properties\":{\"a\":{\"type\":\"string\"}},\"required\":[\"b\"]}", "response_schema requires a property that it does not describe"},
		{"{\"type\":\"integer\",\"enum\":[1,2]}", "response_schema enumerates other values than strings, which Gemini's response schemas cannot say"},
		{"{\"enum\":[null]}", "response_schema enumerates no string"},
		{"{\"const\":5}", "response_schema enumerates other values than strings, which Gemini's response schemas cannot say"},
		{"{\"type\":\"number\",\"exclusiveMinimum\":0}", "response_schema has \"exclusiveMinimum\", which Gemini's response schemas cannot say here"},
		{"{\"oneOf\":[{\"type\":\"string\"},{\"type\":\"integer\"}]}", "response_schema has several schemas in \"oneOf\", which Gemini's response schemas cannot say"},
		{"{\"allOf\":[{\"type\":\"string\"},{\"maxLength\":5}]}", "response_schema has several schemas in \"allOf\", which Gemini's response schemas cannot say"},
		{"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"null\"}],\"maxLength\":5}", "response_schema has \"maxLength\" beside \"anyOf\", which Gemini's response schemas cannot say"},
		{"{\"anyOf\":[{\"type\":\"null\"}]}", "response_schema has no alternative but null in \"anyOf\""},
		{"{\"anyOf\":[{\"type\":\"string\"},{\"if\":{}}]}", "response_schema.anyOf.1 has \"if\", which Gemini's response schemas cannot say"},
		{"{\"type\":[\"string\",\"integer\"],\"maxLength\":5}", "response_schema has \"maxLength\" beside \"type\", which Gemini's response schemas cannot say"},
		{"{\"type\":[\"array\",\"string\"]}", "response_schema has several types with array among them, which Gemini's response schemas cannot say"},
		{"{\"$ref\":\"#/$defs/x\"}", "response_schema has a \"$ref\" that leads nowhere in the schema"},
		{"{\"$ref\":\"http://x\"}", "response_schema has a \"$ref\" that leads nowhere in the schema"},
		{"{\"$ref\":\"#\"}", "response_schema contains itself, which Gemini's response schemas cannot say"},
		{"{\"properties\":{\"a\":{\"$ref\":\"#/$defs/n\"}},\"$defs\":{\"n\":{\"properties\":{\"next\":{\"$ref\":\"#/$defs/n\"}}}}}", "response_schema.properties.a.properties.next contains itself, which Gemini's response schemas cannot say"},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		StringInfoData out;
		char	   *problem;

		initStringInfo(&out);
		problem = gemini_write_schema(&out, cases[i].schema);
		is_text(problem ? problem : out.data, cases[i].expected, "%s", cases[i].schema);
	}
	arena_reset();
}

/* References that double at every step. */
static void
test_huge_schema(void)
{
	StringInfoData schema;
	StringInfoData out;

	initStringInfo(&schema);
	initStringInfo(&out);
	appendStringInfoString(&schema, "{\"$ref\":\"#/$defs/d0\",\"$defs\":{");
	for (int i = 0; i < 40; i++)
		appendStringInfo(&schema, "\"d%d\":{\"properties\":{\"a\":{\"$ref\":\"#/$defs/d%d\"},\"b\":{\"$ref\":\"#/$defs/d%d\"}}},", i, i + 1, i + 1);
	appendStringInfoString(&schema, "\"d40\":{\"type\":\"string\"}}}");
	ok(strstr(gemini_write_schema(&out, schema.data), "is too large when its references are written out") != NULL, "schema that doubles forty times");
	ok(out.len < 2000000, "is given up in time");
	ok(strstr(gemini_write_schema(&out, psprintf("%s{\"type\":\"string\"}%s", repeat("{\"items\":", 100), repeat("}", 100))), "nests too deep") != NULL, "schema that nests too deep");
	arena_reset();
}

/* ---- result lines ---- */

typedef struct LineCase
{
	const char *line;
	ReplyKind	kind;
	const char *text;			/* or the error's message */
	const char *code;
	ErrorClass	class;
} LineCase;

#define KEYED(rest)		"{\"key\":\"k-1\"," rest "}"
#define ANSWER(rest)	KEYED("\"response\":{" rest "}")
#define PARTS(parts, finish)	ANSWER("\"candidates\":[{\"content\":{\"role\":\"model\",\"parts\":[" parts "]}" finish "}]")
#define STATUS(status)	"{\"status\":" status ",\"request\":{\"contents\":[{\"parts\":[{\"text\":\"q\"}]}]},\"response\":{}}"

static const LineCase line_cases[] = {
	{PARTS("{\"text\":\"A\"}", ",\"finishReason\":\"STOP\""), REPLY_TEXT, "A"},
	{PARTS("{\"text\":\"A\"},{\"text\":\"thought\",\"thought\":true},{\"text\":\"B\"}", ",\"finishReason\":\"STOP\""), REPLY_TEXT, "AB"},
	{PARTS("{\"text\":\"A\"}", ""), REPLY_TEXT, "A"},
	{PARTS("{\"text\":\"\"}", ",\"finishReason\":\"STOP\""), REPLY_TEXT, ""},
	{"{\"metadata\":{\"key\":\"k-1\"},\"response\":{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"A\"}]}}]}}", REPLY_TEXT, "A"},
	{PARTS("{\"text\":\"A\"}", ",\"finishReason\":\"MAX_TOKENS\""), REPLY_TRUNCATED, "A"},
	{ANSWER("\"candidates\":[{\"finishReason\":\"MAX_TOKENS\"}]"), REPLY_TRUNCATED, NULL},
	{PARTS("{\"text\":\"t\",\"thought\":true}", ",\"finishReason\":\"MAX_TOKENS\""), REPLY_TRUNCATED, NULL},
	{PARTS("{\"text\":\"A\"}", ",\"finishReason\":\"SAFETY\""), REPLY_REFUSED, "the model or a filter declined to answer", "SAFETY", ERROR_PERMANENT},
	{PARTS("{\"text\":\"A\"}", ",\"finishReason\":\"RECITATION\",\"finishMessage\":\"cites\""), REPLY_REFUSED, "cites", "RECITATION", ERROR_PERMANENT},
	{ANSWER("\"candidates\":[{\"finishReason\":\"PROHIBITED_CONTENT\"}]"), REPLY_REFUSED, "the model or a filter declined to answer", "PROHIBITED_CONTENT", ERROR_PERMANENT},
	{ANSWER("\"promptFeedback\":{\"blockReason\":\"SAFETY\"}"), REPLY_REFUSED, "the prompt was blocked (SAFETY)", "SAFETY", ERROR_PERMANENT},
	{ANSWER("\"promptFeedback\":{\"blockReason\":\"OTHER\",\"blockReasonMessage\":\"words\"},\"candidates\":[]"), REPLY_REFUSED, "words", "OTHER", ERROR_PERMANENT},
	{ANSWER("\"candidates\":[{\"finishReason\":\"STOP\"}]"), REPLY_NO_ANSWER, "the reply has no text that could be an answer", "no_answer", ERROR_TEMPORARY},
	{PARTS("", ""), REPLY_NO_ANSWER, "the reply has no text that could be an answer", "no_answer", ERROR_TEMPORARY},
	{PARTS("{\"functionCall\":{}}", ",\"finishReason\":\"UNEXPECTED_TOOL_CALL\""), REPLY_FAILED, "the model called a tool instead of answering", "UNEXPECTED_TOOL_CALL", ERROR_PERMANENT},
	{PARTS("{\"text\":\"A\"}", ",\"finishReason\":\"NEVER_SEEN\""), REPLY_FAILED, "the model stopped with finish reason \"NEVER_SEEN\"", "NEVER_SEEN", ERROR_PERMANENT},
	{ANSWER("\"candidates\":[{\"finishReason\":\"OTHER\"}]"), REPLY_FAILED, "the model stopped with finish reason \"OTHER\"", "OTHER", ERROR_TEMPORARY},
	{PARTS("{\"text\":\"t\",\"thought\":true}", ",\"finishReason\":\"STOP\""), REPLY_NO_ANSWER, "the reply has no text that could be an answer", "no_answer", ERROR_TEMPORARY},
	{PARTS("{\"functionCall\":{\"name\":\"f\"}}", ",\"finishReason\":\"STOP\""), REPLY_FAILED, "the model called a tool instead of answering", "functionCall", ERROR_PERMANENT},
	{PARTS("{\"text\":\"Let me see\"},{\"functionCall\":{\"name\":\"f\"}}", ",\"finishReason\":\"STOP\""), REPLY_FAILED, "the model called a tool instead of answering", "functionCall", ERROR_PERMANENT},
	{PARTS("{\"text\":\"<think>t</think>\\nA\"}", ",\"finishReason\":\"STOP\""), REPLY_TEXT, "A"},
	{PARTS("{\"text\":\"<think>t</think>\"}", ",\"finishReason\":\"STOP\""), REPLY_NO_ANSWER, "the reply has reasoning, and no answer", "no_answer", ERROR_TEMPORARY},
	{ANSWER(""), REPLY_FAILED, "the reply has no candidates", "no_candidates", ERROR_TEMPORARY},
	{KEYED("\"x\":1"), REPLY_FAILED, "the line has neither a response nor an error", "bad_reply", ERROR_TEMPORARY},
	{KEYED("\"error\":{\"code\":400,\"message\":\"m\",\"status\":\"INVALID_ARGUMENT\"}"), REPLY_FAILED, "m", "INVALID_ARGUMENT", ERROR_PERMANENT},
	{KEYED("\"error\":{\"code\":8,\"message\":\"m\",\"details\":[{\"retryDelay\":\"32s\"}]}"), REPLY_FAILED, "m", "RESOURCE_EXHAUSTED", ERROR_RATE},
	{KEYED("\"error\":{\"code\":13,\"message\":\"m\"}"), REPLY_FAILED, "m", "INTERNAL", ERROR_TEMPORARY},
	{KEYED("\"error\":{\"code\":3,\"message\":\"m\"}"), REPLY_FAILED, "m", "INVALID_ARGUMENT", ERROR_PERMANENT},
	{KEYED("\"error\":{\"code\":1,\"message\":\"m\"}"), REPLY_CANCELLED, "m", "CANCELLED", ERROR_TEMPORARY},
	{KEYED("\"error\":{},\"response\":{\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"A\"}]}}]}"), REPLY_TEXT, "A"},
	{KEYED("\"status\":{\"code\":14,\"message\":\"m\"}"), REPLY_FAILED, "m", "UNAVAILABLE", ERROR_TEMPORARY},
	{STATUS("\"Bad Request: {\\\"error\\\": {\\\"code\\\": 400, \\\"message\\\": \\\"m\\\", \\\"status\\\": \\\"INVALID_ARGUMENT\\\"}}\""), REPLY_FAILED, "m", "INVALID_ARGUMENT", ERROR_PERMANENT},
	{STATUS("\"Too Many Requests: {\\\"error\\\": {\\\"code\\\": 429, \\\"message\\\": \\\"m\\\", \\\"status\\\": \\\"RESOURCE_EXHAUSTED\\\"}}\""), REPLY_FAILED, "m", "RESOURCE_EXHAUSTED", ERROR_RATE},
	{STATUS("\"x {\\\"error\\\": {\\\"code\\\": 503, \\\"mess\""), REPLY_FAILED, "x {\"error\": {\"code\": 503, \"mess", "503", ERROR_TEMPORARY},
	{STATUS("\"Internal error\""), REPLY_FAILED, "Internal error", "500", ERROR_TEMPORARY},
	{STATUS("\"Something new\""), REPLY_FAILED, "Something new", "error", ERROR_PERMANENT},
	{STATUS("\"Bad Request: {\\\"error\\\": {\\\"code\\\": 400, \\\"message\\\": \\\"Service agents are being provisioned (link)\\\"}}\""), REPLY_FAILED, "Service agents are being provisioned (link)", "400", ERROR_TEMPORARY},
	{STATUS("\"\""), REPLY_FAILED, "the reply has no candidates", "no_candidates", ERROR_TEMPORARY},
};

static void
test_lines(void)
{
	for (int i = 0; i < lengthof(line_cases); i++)
	{
		const LineCase *test = &line_cases[i];
		BatchReply	reply;
		const char *why = "";

		if (!ok(gemini_read_line(test->line, strlen(test->line), &reply, &why), "%s", test->line))
			continue;
		is_int(reply.kind, test->kind, "its kind");
		is_text(reply.kind == REPLY_TEXT || reply.kind == REPLY_TRUNCATED ? reply.text : reply.error.message, test->text, "its text");
		if (reply.kind == REPLY_TEXT || reply.kind == REPLY_TRUNCATED)
			continue;
		is_text(reply.error.code, test->code, "its code");
		is_int(reply.error.class, test->class, "its class");
	}
	arena_reset();
}

static void
test_echo(void)
{
	const char *line = "{\"response\":{\"usageMetadata\":{\"totalTokenCount\":20,\"promptTokenCount\":9,\"cachedContentTokenCount\":4,\"candidatesTokenCount\":1,"
		"\"thoughtsTokenCount\":7,\"toolUsePromptTokenCount\":2},\"modelVersion\":\"gemini-9\",\"responseId\":\"r9\",\"candidates\":[{\"finishReason\":\"STOP\",\"content\":{\"parts\":[{\"text\":\"A\"}]}}]},"
		"\"request\":{\"systemInstruction\":null,\"contents\":[{\"parts\":[{\"text\":\"first\"}],\"role\":\"user\"},{\"role\":\"model\",\"parts\":[{\"text\":\"no\"}]},"
		"{\"parts\":[{\"fileData\":null,\"text\":\"Zo\\u00eb \"},{\"inlineData\":null,\"text\":\"x\"},{\"text\":null}],\"role\":\"user\"}]},\"status\":\"\"}";
	BatchReply	reply;
	const char *why = "";

	ok(gemini_read_line(line, strlen(line), &reply, &why), "line with an echo");
	is_text(reply.custom_id, NULL, "no key");
	is_text(reply.echoed_text, "Zo\xC3\xAB x", "text of the last content of the user");
	is_int(reply.input_tokens, 11, "input, with that of tools");
	is_int(reply.cached_tokens, 4, "cached");
	is_int(reply.output_tokens, 8, "output, with thoughts");
	is_int(reply.reasoning_tokens, 7, "thoughts");
	is_text(reply.finish_reason, "STOP", "reason");
	is_text(reply.model_version, "gemini-9", "version");
	is_text(reply.response_id, "r9", "id");
	ok(!gemini_read_line("{\"response\":{}}", 15, &reply, &why), "line of nobody");
	is_text(why, "has neither a key nor its request", "why");
	ok(!gemini_read_line("[1]", 3, &reply, &why), "no object");
	is_text(why, "is not an object", "why");
	ok(!gemini_read_line("{\"key\":", 7, &reply, &why), "no JSON");
	arena_reset();
}

/* The reply of online mode as a line, read again. */
static BatchReply
through_line(const HttpReply *http)
{
	StringInfoData line;
	BatchReply	reply;
	const char *why = "";

	initStringInfo(&line);
	gemini_write_result(&line, "k-1", http);
	ok(line.data[line.len - 1] == '\n', "line ends");
	ok(gemini_read_line(line.data, line.len - 1, &reply, &why), "line can be read");
	is_text(reply.custom_id, "k-1", "its key");
	return reply;
}

static void
test_online(void)
{
	HttpReply  *http = stub_reply(200, "{\n\"candidates\":[{\"content\":{\"parts\":[{\"text\":\"A\"}]}}]}\n");
	BatchReply	reply = through_line(http);

	is_text(reply.text, "A", "answer");
	reply = through_line(stub_reply(200, "<html>"));
	is_int(reply.error.class, ERROR_TEMPORARY, "200 that is not JSON");
	http = stub_reply(429, "{\"error\":{\"code\":429,\"message\":\"m\",\"status\":\"RESOURCE_EXHAUSTED\"}}");
	stub_header("retry-after", "7");
	reply = through_line(http);
	is_int(reply.error.class, ERROR_RATE, "rate");
	is_int(reply.error.retry_after_ms, 7000, "its delay");
	reply = through_line(stub_reply(400, "[{\"error\":{\"code\":400,\"message\":\"bad key\",\"status\":\"INVALID_ARGUMENT\",\"details\":[{\"reason\":\"API_KEY_INVALID\"}]}}]"));
	is_int(reply.error.class, ERROR_AUTH, "bad key");
	is_text(reply.error.code, "API_KEY_INVALID", "its reason");
	reply = through_line(stub_reply(400, "{}"));
	is_int(reply.error.class, ERROR_PERMANENT, "400 without a word");
	reply = through_line(stub_reply(503, "Service Unavailable"));
	is_int(reply.error.class, ERROR_TEMPORARY, "503");
	reply = through_line(stub_failure(HTTP_BROKEN, "cut"));
	is_int(reply.error.class, ERROR_TEMPORARY, "broken connection");
	is_text(reply.error.message, "cut", "in words");
	arena_reset();
}

int
main(void)
{
	test_bodies();
	test_split();
	test_bad_options();
	test_schemas();
	test_huge_schema();
	test_lines();
	test_echo();
	test_online();
	return done_testing();
}
