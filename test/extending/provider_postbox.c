/* A provider with a batch service, for dess_batch, in a module of its own: see doc/extending.md. */
#include "postgres.h"

#include "extension/dess_batch/provider.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

#define KEY_HEADER	"X-Postbox-Key"

/* PUT /files/TOKEN.  The name is ours, so that a second try replaces the first. */
static void
postbox_upload(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "PUT", "/files/%", KEY_HEADER);
	result->request.body_file = stage->spool_file;
	result->request.body_file_length = stage->spool_length;
	stage->remote->input_uri = pstrdup(stage->token);
}

/* PUT /jobs/TOKEN.  Nothing is paid twice either. */
static void
postbox_create(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "PUT", "/jobs/%", KEY_HEADER);
	if (reply != NULL && reply_ok(reply))
		stage->remote->remote_id = pstrdup(stage->token);
}

/* After a crash: 404 proves that there is no job of this name. */
static void
postbox_find(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "GET", "/jobs/%", KEY_HEADER);
	if (reply != NULL && reply->status == 404)
		step_done(result);
	else if (reply != NULL && reply_ok(reply))
		stage->remote->remote_id = pstrdup(stage->token);
}

/* GET /jobs/TOKEN: {"state": "busy", "finished": 3} */
static void
postbox_status(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	const char *why;
	JsonDoc    *doc;
	const char *state;

	step_call(stage, reply, result, "GET", "/jobs/%", KEY_HEADER);
	if (reply == NULL || !reply_ok(reply))
		return;
	doc = json_parse(reply->body, reply->body_length, &why);
	state = doc == NULL ? NULL : json_member_string(json_root(doc), "state");
	stage->remote->status = REMOTE_UNKNOWN;
	if (state != NULL)
	{
		stage->remote->remote_state = json_excerpt(state, 80);
		stage->remote->finished = json_member_int64(json_root(doc), "finished", -1);
		stage->remote->status = strcmp(state, "done") == 0 ? REMOTE_FINISHED : REMOTE_RUNNING;
	}
	if (stage->remote->status == REMOTE_FINISHED)
		stage->remote->output_uris = list_make1(pstrdup("answers"));
}

/* GET /jobs/TOKEN/answers: the lines that postbox_read_line reads. */
static void
postbox_download(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "GET", "/jobs/%/answers", KEY_HEADER);
	result->request.sink_file = stage->sink_file;
}

static void
postbox_remove(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "DELETE", "/files/%", KEY_HEADER);
}

static void
postbox_check(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	step_call(stage, reply, result, "GET", "/about", KEY_HEADER);
}

/* A row as a line: {"id": "...", "text": "..."} */
static void
postbox_write_line(StringInfo line, const BatchItem *item, const BatchOptions *options)
{
	appendStringInfoString(line, "{\"id\": ");
	json_append_cstring(line, item->custom_id);
	appendStringInfoString(line, ", \"text\": ");
	json_append_string(line, item->text, item->text_length);
	appendStringInfoString(line, "}\n");
}

/* A line as an answer: {"id": "...", "answer": "..."} or {"id": "...", "error": {"code": "...", "message": "..."}} */
static bool
postbox_read_line(const char *line, size_t length, BatchReply *reply, const char **why)
{
	JsonDoc    *doc = json_parse(line, length, why);

	if (doc == NULL)
		return false;
	reply->custom_id = json_member_copy(json_root(doc), "id");
	reply->text = json_member_copy(json_root(doc), "answer");
	reply->kind = reply->text == NULL ? REPLY_FAILED : REPLY_TEXT;
	if (reply->text == NULL)
		error_from_value(&reply->error, 0, json_member(json_root(doc), "error"), ERROR_PERMANENT);
	reply->output_tokens = json_member_int64(json_root(doc), "words", 0);
	json_free(doc);
	return true;
}

void
_PG_init(void)
{
	static const char *const variables[] = {"POSTBOX_API_KEY", NULL};
	static const BatchProvider postbox = {
		.name = "postbox",
		.usual_models = "postbox-*",
		.base_url = "https://api.postbox.example/v1",
		.secret_variables = variables,
		.mapping_option = "api_key",
		.limits = {1000, 1024 * 1024},
		.prepare_batch_file = postbox_write_line,
		.upload_batch_file = postbox_upload,
		.create_batch_job = postbox_create,
		.find_batch_job = postbox_find,
		.get_batch_status = postbox_status,
		.retrieve_and_merge_results = postbox_download,
		.read_result_line = postbox_read_line,
		.remove_remote = postbox_remove,
		.check_account = postbox_check
	};

	register_batch_provider(&postbox);
}
