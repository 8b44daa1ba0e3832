/* A provider for dess_batch in a module of its own: single requests only, for mode online. */
#include "postgres.h"

#include "extension/dess_batch/provider.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/* GET /about with the key: dess_batch_check. */
static void
echo_check(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "GET", "/about", "X-Echo-Key");
}

/* A row becomes a line of a request file ... */
static void
echo_write_line(StringInfo line, const BatchItem *item, const BatchOptions *options)
{
	json_append_string(line, item->text, item->text_length);
	appendStringInfoChar(line, '\n');
}

/* ... the line a request: POST /say ... */
static void
echo_infer(const Account *account, const char *model, const char *line, size_t length, HttpRequest *request)
{
	memset(request, 0, sizeof(HttpRequest));
	request->method = "POST";
	request->url = provider_url(account->base_url, "/say", NULL);
	request->body = line;
	request->body_length = length;
	request_header(request, "X-Echo-Key", account->secret);
}

/* ... its reply, whatever it is, a line of a result file ... */
static void
echo_infer_result(StringInfo line, const char *custom_id, const HttpReply *reply)
{
	appendStringInfo(line, "{\"id\": \"%s\", \"status\": %d, \"body\": ", custom_id, reply->status);
	json_append_string(line, reply->body, reply->body_length);
	appendStringInfoString(line, "}\n");
}

/* ... and that line an answer. */
static bool
echo_read_line(const char *line, size_t length, BatchReply *reply, const char **why)
{
	JsonDoc    *doc = json_parse(line, length, why);
	const char *body;
	int			status;

	if (doc == NULL)
		return false;
	status = json_member_int64(json_root(doc), "status", 0);
	reply->custom_id = json_member_copy(json_root(doc), "id");
	body = json_member_string(json_root(doc), "body");
	reply->text = pstrdup(body == NULL ? "" : body);
	reply->kind = status == 200 ? REPLY_TEXT : REPLY_FAILED;
	if (status != 200)
		error_from_body(&reply->error, status, reply->text, strlen(reply->text));
	json_free(doc);
	return true;
}

static const char *const variables[] = {"ECHO_API_KEY", NULL};

static const BatchProvider echo = {
	.name = "echo",
	.usual_models = "echo-*",
	.base_url = "https://api.echo.example",
	.secret_variables = variables,
	.mapping_option = "api_key",
	.prepare_batch_file = echo_write_line,
	.infer = echo_infer,
	.infer_result = echo_infer_result,
	.read_result_line = echo_read_line,
	.check_account = echo_check
};

void
_PG_init(void)
{
	register_batch_provider(&echo);
}
