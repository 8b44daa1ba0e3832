/*-------------------------------------------------------------------------
 *
 * openai.c
 *		The provider "openai": OpenAI, Azure's v1 interface, and the many
 *		servers with the same files and batches.
 *
 * Creating a batch is not idempotent and costs money, so its token travels in
 * the metadata and the file's name, and whatever may have been done is looked
 * for before it is done again.  No expiry is asked for: files with purpose
 * "batch" expire after 30 days by themselves, and compatible servers refuse
 * parts that they do not know.
 *
 * A 404 is no proof of anything for the first minutes of a file or a batch.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/body.h"
#include "provider/openai/openai.h"
#include "text/json.h"

/* the provider's 200 MB, taken as the smaller of its two meanings */
#define OPENAI_MAX_BYTES	INT64CONST(200000000)
#define OPENAI_MAX_REQUESTS 50000
#define OPENAI_MAX_HOURS	36		/* batches expire after 24 */

#define FILE_POLLS			24	/* 1, 2, 4, 8, 16, then 30 s each: ten minutes */
#define FILE_POLLS_404		6
#define CREATE_TRIES_404	5	/* 2, 4, 8, 16 s between them */
#define LIST_OF_UPLOADS		"/files?purpose=batch&limit=1000&order=desc"
#define LIST_OF_BATCHES		"/batches?limit=100"
#define LIST_LOOKS			3	/* a batch may be listed late: 2 and 8 s between them */

static OpenAIEndpoint
endpoint_of(const Account *account)
{
	const char *endpoint = account_option(account, "endpoint");

	return (endpoint != NULL && strcmp(endpoint, "responses") == 0) ? OPENAI_RESPONSES : OPENAI_CHAT;
}

static const char *
check_endpoint(const char *value)
{
	if (strcmp(value, "chat/completions") == 0 || strcmp(value, "responses") == 0)
		return NULL;
	return "chat/completions or responses";
}

static const char *
check_header_value(const char *value)
{
	for (const char *p = value; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7F)
			return "printable ASCII without blanks";
	}
	return value[0] != '\0' ? NULL : "not empty";
}

static void
add_account_headers(const Account *account, HttpRequest *request)
{
	const char *organization = account_option(account, "organization");
	const char *project = account_option(account, "openai_project");

	if (account->secret != NULL)
		request_header(request, "Authorization", psprintf("Bearer %s", account->secret));
	if (organization != NULL)
		request_header(request, "OpenAI-Organization", organization);
	if (project != NULL)
		request_header(request, "OpenAI-Project", project);
}

/* A request for base_url with path behind it, "%" in it standing for id. */
static void
send_request(BatchStage *stage, StepResult *result, const char *method, const char *path, const char *id)
{
	step_request(result, method, provider_url(stage->account->base_url, path, id));
	add_account_headers(stage->account, &result->request);
	step_header(result, "Accept", "application/json");
}

/* ---- request lines ---- */

static char *
openai_check(const BatchOptions *options)
{
	return openai_check_options(options, endpoint_of(options->account));
}

static void
openai_prepare_options(BatchOptions *options)
{
	OpenAIEndpoint endpoint = endpoint_of(options->account);
	StringInfoData head;
	StringInfoData tail;

	initStringInfo(&head);
	initStringInfo(&tail);
	openai_write_head(&head, options, endpoint);
	openai_write_tail(&tail, options, endpoint);
	options->line_head = head.data;
	options->line_tail = tail.data;
}

static void
openai_prepare_batch_file(StringInfo line, const BatchItem *item, const BatchOptions *options)
{
	BatchOptions copy = *options;

	if (copy.line_head == NULL)
		openai_prepare_options(&copy);
	openai_write_line(line, item, copy.line_head, copy.line_tail);
}

/* A failed look at something that was there before: a 404 is to be counted by the caller. */
static void
fail_look(StepResult *result, const HttpReply *reply)
{
	step_fail_http(result, reply);
	if (reply->failure == HTTP_OK && reply->status == 404)
	{
		result->error.class = ERROR_TEMPORARY;
		result->error.code = pstrdup(CODE_NOT_FOUND);
	}
}

static bool
has_no_service(const HttpReply *reply)
{
	return reply->failure == HTTP_OK &&
		(reply->status == 404 || reply->status == 405 || reply->status == 501);
}

/* Would the same request fail again, whatever the time? */
static bool
is_final(const StepError *error)
{
	return error->class == ERROR_PERMANENT ||
		error->class == ERROR_NO_SERVICE ||
		error->class == ERROR_TOO_LARGE;
}

/* ---- upload ---- */

enum
{
	UPLOAD_START,
	UPLOAD_LISTING,
	UPLOAD_SENDING,
	UPLOAD_POLLING,
	UPLOAD_REMOVING				/* a file whose id cannot be kept */
};

static char *
upload_filename(const BatchStage *stage)
{
	return psprintf("dess_batch-%s.jsonl", stage->token);
}

static bool
is_our_upload(const BatchStage *stage, JsonValue *file)
{
	const char *name = json_member_string(file, "filename");

	return name != NULL && strcmp(name, upload_filename(stage)) == 0 && body_read_id(file, "id") != NULL;
}

static bool
is_whole_upload(const BatchStage *stage, JsonValue *file)
{
	return is_our_upload(stage, file) &&
		json_member_int64(file, "bytes", stage->spool_length) == stage->spool_length;
}

/* Asks for the next page of the list of uploaded files. */
static void
uploads_ask(BatchStage *stage, StepResult *result)
{
	ListWalk	walk;

	openai_walk_load(stage, &walk);
	if (walk.after[0] == '\0')
		send_request(stage, result, "GET", LIST_OF_UPLOADS, NULL);
	else
		send_request(stage, result, "GET", LIST_OF_UPLOADS "&after=%", walk.after);
}

/*
 * Looks for a file of ours, whose upload nobody saw the end of, in a page.
 * Returns true when the search is over, with remote->input_uri set if there is
 * one; else result says how it goes on.  A list that cannot be had, or does
 * not tell, is no reason to stop: a second copy costs nothing.
 */
static bool
uploads_take(BatchStage *stage, const HttpReply *reply, StepResult *result,
			 bool (*matches) (const BatchStage *stage, JsonValue *file))
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	JsonValue  *found = NULL;
	ListWalk	walk;
	PageEnd		end = PAGE_UNCLEAR;

	openai_walk_load(stage, &walk);
	if (root != NULL)
		end = openai_walk_page(stage, &walk, root, matches, &found);
	if (end == PAGE_FOUND)
		stage->remote->input_uri = body_read_id(found, "id");
	json_free(doc);

	if (end == PAGE_MORE)
	{
		openai_walk_save(stage, &walk);
		uploads_ask(stage, result);
		return false;
	}
	stage->scratch = NULL;
	if (root != NULL)
		return true;
	step_fail_http(result, reply);
	return is_final(&result->error) || has_no_service(reply) || reply->status == 403;
}

static HttpPart *
make_part(const char *name, const char *text)
{
	HttpPart   *part = palloc0(sizeof(HttpPart));

	part->name = name;
	part->text = text;
	return part;
}

static void
upload_send(BatchStage *stage, StepResult *result)
{
	HttpPart   *file = make_part("file", NULL);

	file->filename = upload_filename(stage);
	file->content_type = "application/jsonl";
	stage->phase = UPLOAD_SENDING;
	send_request(stage, result, "POST", "/files", NULL);
	result->request.parts = list_make2(make_part("purpose", "batch"), file);
	result->request.body_file = stage->spool_file;
	result->request.body_file_length = stage->spool_length;
}

/* The next request: look at what is there, search what may be there, or send. */
static void
upload_ask(BatchStage *stage, StepResult *result)
{
	if (stage->remote->input_uri != NULL)
	{
		stage->phase = UPLOAD_POLLING;
		send_request(stage, result, "GET", "/files/%", stage->remote->input_uri);
	}
	else if (stage->resumed && (stage->phase == UPLOAD_START || stage->phase == UPLOAD_LISTING))
	{
		stage->phase = UPLOAD_LISTING;
		uploads_ask(stage, result);
	}
	else
		upload_send(stage, result);
}

/* After 1, 2, 4, 8, 16 and then every 30 seconds. */
static void
upload_wait(BatchStage *stage, StepResult *result)
{
	int64		ms = stage->tries < 5 ? INT64CONST(1000) << stage->tries : 30000;

	stage->phase = UPLOAD_POLLING;
	if (stage->tries++ >= FILE_POLLS)
		step_fail(result, ERROR_TEMPORARY, "file_not_ready",
				  "the provider has not processed the uploaded file within ten minutes");
	else
		step_wait(result, ms);
}

/* A file object: settled if it is processed. */
static void
upload_take_file(BatchStage *stage, JsonValue *file, StepResult *result)
{
	const char *status = json_member_string(file, "status");
	const char *details = json_member_string(file, "status_details");

	stage->remote->input_uri = body_read_id(file, "id");
	if (status == NULL || pg_strcasecmp(status, "processed") == 0)
		step_done(result);
	else if (pg_strcasecmp(status, "error") == 0 || pg_strcasecmp(status, "failed") == 0)
		step_fail(result, ERROR_PERMANENT, "file_error",
				  details ? details : "the provider could not process the uploaded file");
	else if (pg_strcasecmp(status, "deleted") == 0 || pg_strcasecmp(status, "expired") == 0)
	{
		stage->remote->input_uri = NULL;
		step_fail(result, ERROR_TEMPORARY, "file_deleted", "the uploaded file was deleted");
	}
	else
		upload_wait(stage, result);
}

static void
upload_take_sent(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);

	if (root != NULL && body_read_id(root, "id") != NULL)
		upload_take_file(stage, root, result);
	else if (root != NULL && json_member_string(root, "id") != NULL && json_member_string(root, "id")[0] != '\0')
	{
		stage->phase = UPLOAD_REMOVING;
		send_request(stage, result, "DELETE", "/files/%", json_member_string(root, "id"));
	}
	else
	{
		step_fail_http(result, reply);
		if (has_no_service(reply))
			result->error.class = ERROR_NO_SERVICE;
	}
	json_free(doc);
}

static void
upload_take_poll(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);

	if (root != NULL && body_read_id(root, "id") != NULL)
		upload_take_file(stage, root, result);
	else if (reply->failure == HTTP_OK && (reply->status == 405 || reply->status == 501))
		step_done(result);		/* a server that keeps files and does not show them */
	else if (reply->failure == HTTP_OK && reply->status == 404)
	{
		upload_wait(stage, result);
		if (stage->tries > FILE_POLLS_404)
		{
			stage->remote->input_uri = NULL;
			fail_look(result, reply);
		}
	}
	else
		step_fail_http(result, reply);
	json_free(doc);
}

static void
openai_upload(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
		upload_ask(stage, result);
	else if (stage->phase == UPLOAD_LISTING)
	{
		if (!uploads_take(stage, reply, result, is_whole_upload))
			return;
		stage->phase = UPLOAD_SENDING;
		upload_ask(stage, result);
	}
	else if (stage->phase == UPLOAD_SENDING)
		upload_take_sent(stage, reply, result);
	else if (stage->phase == UPLOAD_REMOVING)
		step_fail(result, ERROR_PERMANENT, CODE_BAD_REPLY, "the provider gave the uploaded file an id that is too long or has blanks");
	else
		upload_take_poll(stage, reply, result);
}

/* ---- create, look, find, cancel ---- */

static void
openai_create(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	StringInfoData body;

	if (reply != NULL && reply->failure == HTTP_OK && reply->status == 404 &&
		++stage->tries < CREATE_TRIES_404)
	{
		/* the file may not have come through to where batches are made */
		step_wait(result, INT64CONST(1000) << stage->tries);
		return;
	}
	if (reply != NULL)
	{
		if (openai_take_batch(reply, stage->remote, result))
			step_done(result);
		else if (has_no_service(reply) && strcasestr(result->error.message, "file") == NULL)
			result->error.class = ERROR_NO_SERVICE;
		return;
	}

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"input_file_id\":");
	json_append_cstring(&body, stage->remote->input_uri);
	appendStringInfo(&body, ",\"endpoint\":\"/v1%s\"", openai_endpoint_path(endpoint_of(stage->account)));
	appendStringInfoString(&body, ",\"completion_window\":\"24h\",\"metadata\":{\"dess_batch\":");
	json_append_cstring(&body, stage->token);
	appendStringInfo(&body, ",\"job\":\"" INT64_FORMAT "\",\"batch\":\"%d\"}}",
					 stage->job_id, stage->batch_no);
	send_request(stage, result, "POST", "/batches", NULL);
	step_json_body(result, body.data);
}

static void
openai_get_status(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
		send_request(stage, result, "GET", "/batches/%", stage->remote->remote_id);
	else if (reply->failure == HTTP_OK && reply->status == 404)
		fail_look(result, reply);
	else if (openai_take_batch(reply, stage->remote, result))
		step_done(result);
}

/*
 * The token tells; where a server keeps no metadata, the input file does,
 * because no two batches of ours have the same one.
 */
static bool
is_our_batch(const BatchStage *stage, JsonValue *batch)
{
	const char *token = json_member_string(json_member(batch, "metadata"), "dess_batch");
	const char *file = json_member_string(batch, "input_file_id");

	if (token != NULL)
		return strcmp(token, stage->token) == 0;
	return file != NULL && stage->remote->input_uri != NULL && strcmp(file, stage->remote->input_uri) == 0;
}

static void
find_ask(BatchStage *stage, StepResult *result)
{
	ListWalk	walk;

	openai_walk_load(stage, &walk);
	if (walk.after[0] == '\0')
		send_request(stage, result, "GET", LIST_OF_BATCHES, NULL);
	else
		send_request(stage, result, "GET", LIST_OF_BATCHES "&after=%", walk.after);
}

/* Nothing on this look; an absence is believed after several. */
static void
find_look_again(BatchStage *stage, const ListWalk *walk, StepResult *result)
{
	ListWalk	next;

	stage->scratch = NULL;
	openai_walk_load(stage, &next);
	next.looks = walk->looks + 1;
	openai_walk_save(stage, &next);
	if (next.looks >= LIST_LOOKS)
		step_done(result);
	else
		step_wait(result, INT64CONST(500) << (2 * next.looks));
}

/* The list cannot be had: later perhaps; or it never tells, and then only the user can. */
static void
find_fail(StepResult *result, const HttpReply *reply, bool readable)
{
	step_fail_http(result, reply);
	if (readable)
		step_fail(result, ERROR_PERMANENT, CODE_UNCERTAIN,
				  "the provider's list of batches does not tell whether the batch exists");
	else if (has_no_service(reply) || is_final(&result->error))
		step_fail(result, ERROR_PERMANENT, CODE_UNCERTAIN, result->error.message);
	result->error.maybe_done = true;
}

static void
openai_find(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root;
	JsonValue  *found = NULL;
	ListWalk	walk;
	PageEnd		end = PAGE_UNCLEAR;

	if (stage->remote->remote_id != NULL)
	{
		step_done(result);
		return;
	}
	if (reply == NULL)
	{
		find_ask(stage, result);
		return;
	}

	openai_walk_load(stage, &walk);
	root = body_open_reply(reply, &doc);
	if (root != NULL)
		end = openai_walk_page(stage, &walk, root, is_our_batch, &found);
	if (end == PAGE_FOUND && !openai_read_batch(found, stage->remote))
		end = PAGE_UNCLEAR;
	json_free(doc);
	switch (end)
	{
		case PAGE_FOUND:
			step_done(result);
			break;
		case PAGE_MORE:
			openai_walk_save(stage, &walk);
			find_ask(stage, result);
			break;
		case PAGE_LAST:
			find_look_again(stage, &walk, result);
			break;
		case PAGE_UNCLEAR:
			find_fail(result, reply, root != NULL);
			break;
	}
}

static void
openai_cancel(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (stage->remote->remote_id == NULL)
		step_done(result);
	else if (reply == NULL)
	{
		send_request(stage, result, "POST", "/batches/%/cancel", stage->remote->remote_id);
		result->request.body = "";
	}
	else if (reply->failure == HTTP_OK && (reply->status == 400 || reply->status == 409))
		step_done(result);		/* it ended by itself: the next look will tell how */
	else if (reply_ok(reply))
	{
		/* a server that answers with nothing has cancelled as well */
		openai_take_batch(reply, stage->remote, result);
		step_done(result);
	}
	else
		fail_look(result, reply);
}

/* ---- results and the end ---- */

static void
openai_download(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
	{
		step_request(result, "GET", provider_url(stage->account->base_url, "/files/%/content", stage->uri));
		add_account_headers(stage->account, &result->request);
		step_header(result, "Accept", "application/binary");
		result->request.sink_file = stage->sink_file;
	}
	else if (reply_ok(reply))
		step_done(result);
	else
		fail_look(result, reply);
}

/* The file that is number n of those to be removed, or NULL behind the last. */
static const char *
file_to_remove(const BatchRemote *remote, int n)
{
	if (remote->input_uri != NULL && n-- == 0)
		return remote->input_uri;
	return (n >= 0 && n < list_length(remote->output_uris)) ? list_nth(remote->output_uris, n) : NULL;
}

/* Files are deleted one after the other; stage->phase counts them, from 1. */
static void
remove_next(BatchStage *stage, StepResult *result)
{
	const char *uri = file_to_remove(stage->remote, stage->phase++);

	if (uri != NULL)
		send_request(stage, result, "DELETE", "/files/%", uri);
	else if (stage->scratch != NULL)
		step_fail(result, ERROR_PERMANENT, pnstrdup(stage->scratch, 3), stage->scratch + 4);
	else
		step_done(result);
}

/*
 * A refusal for good is kept in scratch while the other files are removed, and
 * then reported as permanent, so that it is not tried for ever.
 */
static void
openai_remove(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
	{
		stage->phase = 0;
		if (stage->remote->input_uri == NULL && stage->resumed)
			uploads_ask(stage, result);
		else
			remove_next(stage, result);
		return;
	}
	if (stage->phase == 0)
	{
		if (uploads_take(stage, reply, result, is_our_upload))
			remove_next(stage, result);
		return;
	}

	step_fail_http(result, reply);
	if (!reply_ok(reply) && reply->status != 404 && reply->status != 410)
	{
		if (reply->failure != HTTP_OK || (reply->status != 403 && !is_final(&result->error)))
			return;
		stage->scratch = psprintf("%d %s", reply->status, result->error.message);
	}
	remove_next(stage, result);
}

/* ---- online ---- */

/* Raises only for a line that prepare_batch_file has not written. */
static void
openai_infer(const Account *account, const char *model, const char *line, size_t length, HttpRequest *request)
{
	OpenAIEndpoint endpoint;

	memset(request, 0, sizeof(HttpRequest));
	if (!openai_split_line(line, length, &endpoint, &request->body, &request->body_length))
		elog(ERROR, "request line is malformed");
	request->method = "POST";
	request->url = psprintf("%s%s", account->base_url, openai_endpoint_path(endpoint));
	add_account_headers(account, request);
	request_header(request, "Accept", "application/json");
	request_header(request, "Content-Type", "application/json");
}

/* ---- check ---- */

/* Words about the model list, palloc'd. */
static char *
describe_models(JsonValue *models, const char *model)
{
	JsonValue  *found = NULL;
	const char *shutdown;
	int			count = 0;

	for (JsonValue *one = json_first(models); one != NULL; one = json_next(one))
	{
		const char *id = json_member_string(one, "id");

		if (model != NULL && id != NULL && strcmp(id, model) == 0)
			found = one;
		count++;
	}
	if (model == NULL)
		return psprintf("the model list is readable (%d models)", count);
	if (found == NULL)
		return psprintf("model \"%s\" is not among the %d models of the list", model, count);
	shutdown = json_member_string(found, "shutdown_date");
	if (shutdown != NULL)
		return psprintf("model \"%s\" is there, and will be shut down on %s",
						model, json_excerpt(shutdown, 40));
	return psprintf("model \"%s\" is there", model);
}

static void
openai_check_account(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root;
	JsonValue  *models;

	if (reply == NULL)
	{
		send_request(stage, result, "GET", "/models", NULL);
		return;
	}
	root = body_open_reply(reply, &doc);
	models = json_is_array(root) ? root : json_member(root, "data");
	if (root != NULL && (json_is_array(models) || json_member(root, "object") != NULL))
	{
		stage->scratch = describe_models(models, stage->model);
		step_done(result);
	}
	else
		step_fail_http(result, reply);
	json_free(doc);
}

static const char *const openai_variables[] = {"OPENAI_API_KEY", NULL};

static const ProviderOption openai_options[] = {
	{"endpoint", false, false, check_endpoint},
	{"organization", false, false, check_header_value, true},
	{"openai_project", false, false, check_header_value, true},
	{NULL, false, false, NULL}
};

const BatchProvider openai_provider = {
	.name = "openai",
	.usual_models = "gpt-*,o1*,o3*,o4*,chatgpt-*",
	.base_url = OPENAI_BASE_URL,
	.secret_variables = openai_variables,
	.mapping_option = "api_key",
	.built_in = true,
	.limits = {OPENAI_MAX_REQUESTS, OPENAI_MAX_BYTES, OPENAI_MAX_HOURS},
	.options = openai_options,
	.check_options = openai_check,
	.prepare_options = openai_prepare_options,
	.prepare_batch_file = openai_prepare_batch_file,
	.upload_batch_file = openai_upload,
	.create_batch_job = openai_create,
	.get_batch_status = openai_get_status,
	.read_result_line = openai_read_line,
	.retrieve_and_merge_results = openai_download,
	.find_batch_job = openai_find,
	.cancel_batch_job = openai_cancel,
	.remove_remote = openai_remove,
	.infer = openai_infer,
	.infer_result = openai_write_result,
	.check_account = openai_check_account
};
