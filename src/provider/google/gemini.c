/*-------------------------------------------------------------------------
 *
 * gemini.c
 *		The provider "gemini": batches of the Gemini Developer API.
 *
 * Batches are kept small by default: one that is not done within two days
 * expires without a single result.
 *
 * The key travels in a header, never in an address.  The address of an upload
 * session is a secret as well; it lives in stage->scratch alone.  A file that was
 * uploaded in vain removes itself after two days.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/body.h"
#include "provider/google/gcs.h"
#include "provider/google/google.h"

#define GEMINI_BASE_URL		"https://generativelanguage.googleapis.com/v1beta"
#define GEMINI_VERSION		"v1beta"
#define GEMINI_MAX_REQUESTS 10000
#define GEMINI_MAX_HOURS	72		/* batches expire after 48 */
#define GEMINI_MAX_BYTES	INT64CONST(2000000000)	/* 2 GB, taken as the smaller of its two meanings */

#define RESTARTS			3		/* of uploads within one step */
#define STALLS				7
#define FILE_POLLS			24	/* 1, 2, 4, 8, 16, then 30 s each: ten minutes */
#define CREATE_TRIES_404	4	/* 2, 4, 8 s between them */

static void
add_key(const Account *account, HttpRequest *request)
{
	if (account->secret != NULL)
		request_header(request, "x-goog-api-key", account->secret);
}

/* A request for a resource such as "files/abc", with what stands behind its name. */
static void
ask(BatchStage *stage, StepResult *result, const char *method, const char *resource, const char *rest)
{
	StringInfoData url;

	initStringInfo(&url);
	appendStringInfo(&url, "%s/", google_base_url(stage->account->base_url, GEMINI_VERSION, NULL));
	google_append_escaped(&url, resource, "/");
	appendStringInfoString(&url, rest);
	step_request(result, method, url.data);
	add_key(stage->account, &result->request);
	step_header(result, "Accept", "application/json");
}

static char *
model_path(const char *model)
{
	return psprintf("models/%s", gemini_base_name(model));
}

static const char *
gemini_check_model(const char *model)
{
	if (provider_model_fits(model, "*") || provider_model_fits(model, "models/*"))
		return NULL;
	return "a model such as gemini-3.5-flash or models/gemini-3.5-flash";
}

/* ---- upload ---- */

enum
{
	UPLOAD_BEGIN,
	UPLOAD_STARTING,
	UPLOAD_SENDING,
	UPLOAD_ASKING,				/* how much has arrived */
	UPLOAD_POLLING				/* is the file ready */
};

/* Where an upload is; kept as text in stage->scratch. */
typedef struct Upload
{
	int64		offset;
	int			restarts;
	const char *session;
} Upload;

static void
upload_load(const BatchStage *stage, Upload *upload)
{
	long long	offset = 0;
	int			length = 0;

	memset(upload, 0, sizeof(Upload));
	if (stage->scratch != NULL)
		sscanf(stage->scratch, "%lld %d %n", &offset, &upload->restarts, &length);
	upload->offset = offset;
	upload->session = length > 0 ? stage->scratch + length : "";
}

static void
upload_save(BatchStage *stage, int64 offset, int restarts, const char *session)
{
	stage->scratch = psprintf("%lld %d %s", (long long) offset, restarts, session);
}

static void
upload_ask_session(BatchStage *stage, StepResult *result)
{
	char	   *url = google_base_url(stage->account->base_url, GEMINI_VERSION, "/upload");
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"file\":{\"displayName\":");
	json_append_cstring(&body, psprintf("dess_batch-%s", stage->token));
	appendStringInfoString(&body, "}}");
	stage->phase = UPLOAD_STARTING;
	step_request(result, "POST", psprintf("%s/files", url));
	add_key(stage->account, &result->request);
	step_json_body(result, body.data);
	step_header(result, "X-Goog-Upload-Protocol", "resumable");
	step_header(result, "X-Goog-Upload-Command", "start");
	step_header(result, "X-Goog-Upload-Header-Content-Length", psprintf(INT64_FORMAT, stage->spool_length));
	step_header(result, "X-Goog-Upload-Header-Content-Type", "application/jsonl");
}

/* The next piece, or the question where the last one ended. */
static void
upload_put(BatchStage *stage, StepResult *result, bool question)
{
	Upload		upload;
	int64		length;

	upload_load(stage, &upload);
	length = Min(stage->spool_length - upload.offset, GCS_CHUNK);
	stage->phase = question ? UPLOAD_ASKING : UPLOAD_SENDING;
	step_request(result, "POST", upload.session);
	if (provider_same_origin(upload.session, stage->account->base_url))
		add_key(stage->account, &result->request);
	if (question)
	{
		result->request.body = "";
		step_header(result, "X-Goog-Upload-Command", "query");
		return;
	}
	step_header(result, "X-Goog-Upload-Offset", psprintf(INT64_FORMAT, upload.offset));
	step_header(result, "X-Goog-Upload-Command",
				upload.offset + length == stage->spool_length ? "upload, finalize" : "upload");
	result->request.body_file = stage->spool_file;
	result->request.body_offset = upload.offset;
	result->request.body_file_length = length;
}

static void
upload_ask(BatchStage *stage, StepResult *result)
{
	if (stage->remote->input_uri != NULL)
	{
		stage->phase = UPLOAD_POLLING;
		ask(stage, result, "GET", stage->remote->input_uri, "");
	}
	else if (stage->phase == UPLOAD_BEGIN || stage->phase == UPLOAD_STARTING)
		upload_ask_session(stage, result);
	else
		upload_put(stage, result, true);
}

/* The whole from the beginning, unless it was tried often enough: then result stays what it is. */
static void
upload_restart(BatchStage *stage, StepResult *result)
{
	Upload		upload;

	upload_load(stage, &upload);
	if (upload.restarts >= RESTARTS)
		return;
	upload_save(stage, 0, upload.restarts + 1, "");
	stage->tries = 0;
	upload_ask_session(stage, result);
}

/* A file's description: settled if it is ready. */
static void
upload_take_file(BatchStage *stage, JsonValue *file, StepResult *result)
{
	const char *state = json_member_string(file, "state");

	stage->remote->input_uri = google_read_name(file, "name", "files/");
	if (state == NULL || pg_strcasecmp(state, "ACTIVE") == 0)
		step_done(result);
	else if (pg_strcasecmp(state, "FAILED") == 0)
	{
		const char *words = json_member_string(json_member(file, "error"), "message");

		stage->remote->input_uri = NULL;
		step_fail(result, ERROR_PERMANENT, "file_error", words ? words : "the provider could not process the uploaded file");
	}
	else if (stage->tries++ >= FILE_POLLS)
		step_fail(result, ERROR_TEMPORARY, "file_not_ready",
				  "the provider has not processed the uploaded file within ten minutes");
	else
		step_wait(result, stage->tries <= 5 ? INT64CONST(500) << stage->tries : 30000);
	stage->phase = UPLOAD_POLLING;
}

/* The end of an upload: the file's description, or the whole once more where it did not come. */
static void
upload_take_end(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	JsonValue  *file = json_member(root, "file") != NULL ? json_member(root, "file") : root;

	if (google_read_name(file, "name", "files/") != NULL)
	{
		if (stage->phase != UPLOAD_POLLING)
			stage->tries = 0;
		upload_take_file(stage, file, result);
	}
	else
	{
		step_fail_http(result, reply);
		if (stage->phase != UPLOAD_POLLING)
			upload_restart(stage, result);
	}
	json_free(doc);
}

static void
upload_take_good(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	const char *session = http_header(reply, "x-goog-upload-url");
	const char *state = http_header(reply, "x-goog-upload-status");
	const char *received = http_header(reply, "x-goog-upload-size-received");
	Upload		upload;
	int64		next;

	upload_load(stage, &upload);
	if (stage->phase == UPLOAD_STARTING)
	{
		if (session == NULL || session[0] == '\0')
		{
			step_fail_http(result, reply);
			return;
		}
		upload_save(stage, 0, upload.restarts, session);
		stage->tries = 0;
		upload_put(stage, result, false);
		return;
	}
	next = Min(upload.offset + GCS_CHUNK, stage->spool_length);
	if (stage->phase == UPLOAD_POLLING || state == NULL || pg_strcasecmp(state, "active") != 0 ||
		(stage->phase == UPLOAD_SENDING && next == stage->spool_length))
	{
		upload_take_end(stage, reply, result);
		return;
	}

	/* more is expected: behind what was sent, or what is said to have arrived */
	if (stage->phase == UPLOAD_ASKING)
		next = (received != NULL && strspn(received, "0123456789") == strlen(received)) ?
			strtoll(received, NULL, 10) : upload.offset;
	if (next > upload.offset && next < stage->spool_length)
		stage->tries = 0;
	else if (next < 0 || next >= stage->spool_length || stage->tries > STALLS)
	{
		step_fail(result, ERROR_TEMPORARY, "no_progress", "the provider does not take the file's next piece");
		upload_restart(stage, result);
		return;
	}
	upload_save(stage, next, upload.restarts, upload.session);
	upload_put(stage, result, false);
}

/* A status that is no success; result has been set to a failure. */
static void
upload_take_status(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	switch (stage->phase)
	{
		case UPLOAD_STARTING:
			if (reply->status == 404 || reply->status == 405 || reply->status == 501)
				result->error.class = ERROR_NO_SERVICE;
			break;
		case UPLOAD_POLLING:
			/* 403 is what a file gets that is not there */
			if (reply->status == 404 || reply->status == 403)
			{
				stage->remote->input_uri = NULL;
				result->error.class = ERROR_TEMPORARY;
			}
			break;
		default:
			if (reply->status == 400 || reply->status == 404 || reply->status == 410)
			{
				if (result->error.class == ERROR_PERMANENT)
					result->error.class = ERROR_TEMPORARY;
				upload_restart(stage, result);
			}
			break;
	}
}

static void
gemini_upload(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
	{
		upload_ask(stage, result);
		return;
	}
	switch (google_take_reply(stage, reply, true, result))
	{
		case TURN_GOOD:
			upload_take_good(stage, reply, result);
			break;
		case TURN_OTHER:
			upload_take_status(stage, reply, result);
			break;
		case TURN_SETTLED:
			break;
	}
}

/* ---- create, look, find, cancel ---- */

/* The result file of an operation, palloc'd, or NULL: it stands in one of two places. */
static char *
read_responses_file(JsonValue *operation)
{
	static const char *const places[] = {
		"response.responsesFile", "response.output.responsesFile", "metadata.output.responsesFile", "metadata.dest.fileName"
	};

	for (int i = 0; i < lengthof(places); i++)
	{
		JsonValue  *value = json_path(operation, places[i]);

		if (json_is_string(value) && strncmp(json_string(value), "files/", 6) == 0)
			return body_read_id(json_path(operation, pnstrdup(places[i], strrchr(places[i], '.') - places[i])),
								strrchr(places[i], '.') + 1);
	}
	return NULL;
}

/* Takes over what an operation says; false if it is none. */
static bool
read_operation(JsonValue *root, BatchRemote *remote)
{
	char	   *name = google_read_name(root, "name", "batches/");
	JsonValue  *metadata = json_member(root, "metadata");
	JsonValue  *error = json_member(root, "error");
	JsonValue  *counts = json_member(metadata, "batchStats");
	const char *state = json_member_string(metadata, "state");
	char	   *file = read_responses_file(root);
	int64		good = google_read_count(counts, "successfulRequestCount");
	int64		bad = google_read_count(counts, "failedRequestCount");

	if (name == NULL)
		return false;
	if (state == NULL)
		state = json_member_string(root, "state");
	if (error == NULL)
		error = json_member(metadata, "error");
	if (remote->remote_id == NULL)
		remote->remote_id = name;
	google_set_state(remote, state ? state : "BATCH_STATE_UNSPECIFIED");

	/* it is over when either says so */
	if (json_bool(json_member(root, "done"), false) &&
		(remote->status == REMOTE_UNKNOWN || remote->status == REMOTE_QUEUED || remote->status == REMOTE_RUNNING))
		remote->status = error != NULL ? REMOTE_FAILED : REMOTE_FINISHED;

	remote->output_uris = file ? lappend(NIL, file) : NIL;
	remote->total = google_read_count(counts, "requestCount");
	remote->finished = (good >= 0 && bad >= 0) ? good + bad : -1;
	if (remote->status == REMOTE_FAILED)
	{
		error_from_value(&remote->error, 0, error, ERROR_TEMPORARY);
		if (remote->error.code == NULL)
			error_set(&remote->error, ERROR_TEMPORARY, "failed", "the provider does not say why the batch failed");
	}
	return true;
}

static void
take_operation(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);

	if (root == NULL || !read_operation(root, stage->remote))
		step_fail_http(result, reply);
	else if (stage->remote->status == REMOTE_FINISHED && stage->remote->output_uris == NIL)
		step_fail(result, ERROR_TEMPORARY, CODE_NOT_FOUND, "the batch has succeeded, but names no file with results");
	else
		step_done(result);
	json_free(doc);
}

static void
ask_create(BatchStage *stage, StepResult *result)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"batch\":{\"displayName\":");
	json_append_cstring(&body, google_display_name(stage));
	appendStringInfoString(&body, ",\"inputConfig\":{\"fileName\":");
	json_append_cstring(&body, stage->remote->input_uri);
	appendStringInfoString(&body, "}}}");
	ask(stage, result, "POST", model_path(stage->model), ":batchGenerateContent");
	step_json_body(result, body.data);
}

/* Does an error come from the API itself, and not from some server without it? */
static bool
is_google_error(const HttpReply *reply)
{
	const char *why;
	JsonDoc    *doc = reply->body ? json_parse(reply->body, reply->body_length, &why) : NULL;
	bool		result = doc != NULL && json_path(json_root(doc), "error.status") != NULL;

	json_free(doc);
	return result;
}

static void
gemini_create(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root;

	if (reply == NULL)
	{
		ask_create(stage, result);
		return;
	}
	switch (google_take_reply(stage, reply, false, result))
	{
		case TURN_GOOD:
			/* whatever state it is in by now, it exists */
			root = body_open_reply(reply, &doc);
			if (root != NULL && read_operation(root, stage->remote))
				step_done(result);
			else
				step_fail_http(result, reply);
			json_free(doc);
			break;
		case TURN_OTHER:
			/* the file may not have come through to where batches are made */
			if (reply->status == 404 && ++stage->tries < CREATE_TRIES_404)
				step_wait(result, INT64CONST(1000) << stage->tries);
			else if ((reply->status == 404 || reply->status == 405 || reply->status == 501) && !is_google_error(reply))
				result->error.class = ERROR_NO_SERVICE;
			break;
		case TURN_SETTLED:
			break;
	}
}

static void
gemini_get_status(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
	{
		ask(stage, result, "GET", stage->remote->remote_id, "");
		return;
	}
	switch (google_take_reply(stage, reply, false, result))
	{
		case TURN_GOOD:
			take_operation(stage, reply, result);
			break;
		case TURN_OTHER:
			google_fail_look(result, reply);
			break;
		case TURN_SETTLED:
			break;
	}
}

static void
find_ask(BatchStage *stage, StepResult *result, const char *page)
{
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "?pageSize=100");
	if (page[0] != '\0')
	{
		appendStringInfoString(&query, "&pageToken=");
		google_append_escaped(&query, page, "");
	}
	ask(stage, result, "GET", "batches", query.data);
}

static bool
is_our_batch(const BatchStage *stage, JsonValue *operation)
{
	const char *name = json_member_string(json_member(operation, "metadata"), "displayName");

	return name != NULL && strcmp(name, google_display_name(stage)) == 0;
}

static void
gemini_find(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	static const GoogleFinder finder = {"operations", find_ask, is_our_batch, read_operation};

	google_find(stage, reply, &finder, result);
}

static void
gemini_cancel(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (stage->remote->remote_id == NULL)
		step_done(result);
	else if (reply == NULL)
	{
		ask(stage, result, "POST", stage->remote->remote_id, ":cancel");
		step_json_body(result, "{}");
	}
	else
		google_take_cancel(stage, reply, result);
}

/* ---- results and the end ---- */

enum
{
	DOWNLOAD_FIRST,
	DOWNLOAD_SECOND				/* by the other of the two addresses that are in use */
};

static void
gemini_download(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
	{
		ask(stage, result, "GET", stage->uri, ":download?alt=media");
		if (stage->phase == DOWNLOAD_FIRST)
		{
			StringInfoData url;

			initStringInfo(&url);
			appendStringInfo(&url, "%s/", google_base_url(stage->account->base_url, GEMINI_VERSION, "/download"));
			google_append_escaped(&url, stage->uri, "/");
			appendStringInfoString(&url, ":download?alt=media");
			result->request.url = url.data;
		}
		result->request.sink_file = stage->sink_file;
		return;
	}
	switch (google_take_reply(stage, reply, false, result))
	{
		case TURN_GOOD:
			step_done(result);
			break;
		case TURN_OTHER:
			if (stage->phase++ == DOWNLOAD_FIRST && reply->status == 404)
				gemini_download(stage, NULL, result);
			else
				google_fail_look(result, reply);
			break;
		case TURN_SETTLED:
			break;
	}
}

/* What is number n of those to be removed, or NULL behind the last: files, then the batch. */
static const char *
thing_to_remove(const BatchRemote *remote, int n)
{
	if (remote->input_uri != NULL && n-- == 0)
		return remote->input_uri;
	if (n >= 0 && n < list_length(remote->output_uris))
		return list_nth(remote->output_uris, n);
	return n == list_length(remote->output_uris) ? remote->remote_id : NULL;
}

/* One after the other; stage->phase counts them. */
static void
remove_ask(BatchStage *stage, StepResult *result)
{
	const char *name = thing_to_remove(stage->remote, stage->phase);

	if (name != NULL)
		ask(stage, result, "DELETE", name, "");
	else if (stage->scratch != NULL)
		step_fail(result, ERROR_PERMANENT, "not_removed", stage->scratch);
	else
		step_done(result);
}

/*
 * A refusal for good is kept in scratch while the rest is removed, and then
 * reported as permanent, so that it is not tried for ever.  403 is what a file
 * gets that is not there.
 */
static void
gemini_remove(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply != NULL)
	{
		GoogleTurn	turn = google_take_reply(stage, reply, false, result);

		if (turn == TURN_SETTLED)
			return;
		if (turn == TURN_OTHER && reply->status != 404 && reply->status != 410 && reply->status != 403)
			stage->scratch = pstrdup(result->error.message);
		stage->phase++;
	}
	remove_ask(stage, result);
}

static void
gemini_remove_job(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
		ask(stage, result, "DELETE", stage->remote->remote_id, "");
	else
		google_take_removal(stage, reply, result);
}

/* ---- online ---- */

/* Raises only for a line that prepare_batch_file has not written. */
static void
gemini_infer(const Account *account, const char *model, const char *line, size_t length, HttpRequest *request)
{
	StringInfoData url;

	memset(request, 0, sizeof(HttpRequest));
	if (!gemini_split_line(line, length, &request->body, &request->body_length))
		elog(ERROR, "request line is malformed");
	initStringInfo(&url);
	appendStringInfo(&url, "%s/", google_base_url(account->base_url, GEMINI_VERSION, NULL));
	google_append_escaped(&url, model_path(model), "/");
	appendStringInfoString(&url, ":generateContent");
	request->method = "POST";
	request->url = url.data;
	add_key(account, request);
	request_header(request, "Accept", "application/json");
	request_header(request, "Content-Type", "application/json");
}

/* ---- check ---- */

/* Words about the model list, palloc'd. */
static char *
describe_models(JsonValue *models, const char *model)
{
	bool		found = false;
	int			count = 0;

	for (JsonValue *one = json_first(models); one != NULL; one = json_next(one))
	{
		const char *name = json_member_string(one, "name");

		if (model != NULL && name != NULL && strcmp(gemini_base_name(name), gemini_base_name(model)) == 0)
			found = true;
		count++;
	}
	if (model == NULL)
		return psprintf("the model list is readable (%d models)", count);
	return psprintf(found ? "model \"%s\" is there" : "model \"%s\" is not among the models of the list", model);
}

static void
gemini_check_account(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root;

	if (reply == NULL)
	{
		ask(stage, result, "GET", "models", "?pageSize=1000");
		return;
	}
	if (google_take_reply(stage, reply, false, result) != TURN_GOOD)
		return;
	root = body_open_reply(reply, &doc);
	if (json_is_object(root))
	{
		stage->scratch = describe_models(json_member(root, "models"), stage->model);
		step_done(result);
	}
	else
		step_fail_http(result, reply);
	json_free(doc);
}

static const char *const gemini_variables[] = {"GOOGLE_API_KEY", "GEMINI_API_KEY", NULL};

static const ProviderOption gemini_options[] = {
	{NULL, false, false, NULL}
};

const BatchProvider gemini_provider = {
	.check_model = gemini_check_model,
	.name = "gemini",
	.usual_models = "gemini-*,gemma-*",
	.base_url = GEMINI_BASE_URL,
	.secret_variables = gemini_variables,
	.mapping_option = "api_key",
	.built_in = true,
	.limits = {GEMINI_MAX_REQUESTS, GEMINI_MAX_BYTES, GEMINI_MAX_HOURS},
	.options = gemini_options,
	.check_options = gemini_check_options,
	.prepare_options = gemini_prepare_options,
	.prepare_batch_file = gemini_write_keyed_line,
	.upload_batch_file = gemini_upload,
	.create_batch_job = gemini_create,
	.get_batch_status = gemini_get_status,
	.read_result_line = gemini_read_line,
	.retrieve_and_merge_results = gemini_download,
	.find_batch_job = gemini_find,
	.cancel_batch_job = gemini_cancel,
	.remove_remote = gemini_remove,
	.remove_batch_job = gemini_remove_job,
	.infer = gemini_infer,
	.infer_result = gemini_write_result,
	.check_account = gemini_check_account
};
