/*-------------------------------------------------------------------------
 *
 * vertex.c
 *		The provider "vertex": batches of Gemini models on Vertex AI.
 *
 * Requests and results travel through a bucket.  Everything of one request file
 * lies in a folder of its own, named by a random token, so that what lies there
 * is ours to remove.  A batch that is made once more from the same file gets
 * another place in that folder for its results.
 *
 * Result lines carry no key, only the request as the server understood it; its
 * text tells the row (gemini_reply.c).
 *
 * A job may write its results late, or elsewhere than it says: an empty place is
 * looked at again before a job that succeeded is believed to have none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "provider/body.h"
#include "provider/google/auth.h"
#include "provider/google/gcs.h"
#include "provider/google/google.h"

#define VERTEX_MAX_REQUESTS 200000
#define VERTEX_MAX_BYTES	INT64CONST(1000000000)	/* 1 GB, taken as the smaller of its two meanings */
#define VERTEX_MAX_HOURS	120		/* jobs expire after 72 in the queue and 24 at work */
#define MAX_OUTPUTS			10000
#define LIST_PAGES			1000
#define DEFAULT_PREFIX		"dess_batch"

/* ---- options ---- */

/* Is the value made of these characters, and not of none? */
static bool
is_made_of(const char *value, const char *characters)
{
	return value[0] != '\0' && value[strspn(value, characters)] == '\0';
}

static const char *
check_project(const char *value)
{
	return is_made_of(value, "abcdefghijklmnopqrstuvwxyz0123456789-.:") ? NULL :
		"the id of a Google Cloud project: lower-case letters, digits and hyphens";
}

static const char *
check_location(const char *value)
{
	return is_made_of(value, "abcdefghijklmnopqrstuvwxyz0123456789-") ? NULL :
		"a location such as us-central1, us, eu or global";
}

static const char *
check_bucket(const char *value)
{
	return is_made_of(value, "abcdefghijklmnopqrstuvwxyz0123456789-_.") && strlen(value) >= 3 && strlen(value) <= 222 ? NULL :
		"the name of a bucket, without gs:// and folders";
}

static const char *
check_prefix(const char *value)
{
	size_t		length = strlen(value);

	if (length == 0 || length > 500 || value[0] == '/' || value[length - 1] == '/' || strstr(value, "//") != NULL ||
		!is_made_of(value, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./"))
		return "the name of a folder: letters, digits, hyphens, underscores, periods and slashes, no slash at its ends";
	return NULL;
}

static const char *
check_file(const char *value)
{
	return is_absolute_path(value) && strlen(value) < MAXPGPATH ? NULL : "the absolute path of a file";
}

/* ---- addresses ---- */

static const char *
bucket_of(const BatchStage *stage)
{
	return account_option(stage->account, "bucket");
}

/* Where the batch's own files lie: the folder of its request file. */
static char *
folder_of(const BatchStage *stage)
{
	const char *prefix = account_option(stage->account, "prefix");
	char	   *bucket;
	char	   *name;
	char	   *slash;

	if (gcs_parse_uri(stage->remote->input_uri, &bucket, &name) && strcmp(bucket, bucket_of(stage)) == 0)
	{
		slash = strrchr(name, '/');
		if (slash != NULL && slash > name)
			return pnstrdup(name, slash - name);
	}
	return psprintf("%s/%s", prefix ? prefix : DEFAULT_PREFIX, stage->token);
}

/* Where its results lie, whatever the folders below are called. */
static char *
output_folder_of(const BatchStage *stage)
{
	return psprintf("%s/results-%s", folder_of(stage), stage->token);
}

/* "https://us-central1-aiplatform.googleapis.com/v1", or what base_url says. */
static char *
base_url(const Account *account)
{
	const char *location = account_option(account, "location");
	char	   *host;

	if (account->base_url != NULL && account->base_url[0] != '\0')
		return google_base_url(account->base_url, "v1", NULL);
	if (strcmp(location, "global") == 0)
		host = pstrdup("aiplatform.googleapis.com");
	else if (strcmp(location, "us") == 0 || strcmp(location, "eu") == 0)
		host = psprintf("aiplatform.%s.rep.googleapis.com", location);
	else
		host = psprintf("%s-aiplatform.googleapis.com", location);
	return psprintf("https://%s/v1", host);
}

static char *
parent_of(const Account *account)
{
	return psprintf("projects/%s/locations/%s",
					account_option(account, "project"), account_option(account, "location"));
}

/* A model's resource name; what has slashes is one. */
static char *
model_path(const char *model)
{
	return strchr(model, '/') != NULL ? pstrdup(model) : psprintf("publishers/google/models/%s", model);
}

static const char *
vertex_check_model(const char *model)
{
	static const char *const patterns[] = {
		"*", "publishers/*/models/*", "projects/*/locations/*/publishers/*/models/*",
		"projects/*/locations/*/models/*", "projects/*/locations/*/endpoints/*"
	};

	for (int i = 0; i < lengthof(patterns); i++)
	{
		if (provider_model_fits(model, patterns[i]))
			return NULL;
	}
	return "a model such as gemini-3.5-flash, publishers/PUBLISHER/models/MODEL, or the resource name of a model or an endpoint of a project";
}

/* A request for a resource, with what stands behind its name. */
static void
ask(BatchStage *stage, StepResult *result, const char *method, const char *resource, const char *rest)
{
	StringInfoData url;

	initStringInfo(&url);
	appendStringInfo(&url, "%s/", base_url(stage->account));
	google_append_escaped(&url, resource, "/");
	appendStringInfoString(&url, rest);
	step_request(result, method, url.data);
	google_add_token(stage->account, &result->request);
	step_header(result, "Accept", "application/json");
}

/* ---- request lines, upload ---- */

static void
vertex_upload(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	gcs_upload(stage, bucket_of(stage), psprintf("%s/requests.jsonl", folder_of(stage)), reply, result);
}

/* ---- create, find, cancel ---- */

/* Takes over what a job says; false if it is none. */
static bool
read_job(JsonValue *job, BatchRemote *remote)
{
	char	   *name = google_read_name(job, "name", "projects/");
	const char *state = json_member_string(job, "state");
	JsonValue  *counts = json_member(job, "completionStats");
	int64		good = google_read_count(counts, "successfulCount");
	int64		bad = google_read_count(counts, "failedCount");
	int64		rest = google_read_count(counts, "incompleteCount");

	if (name == NULL)
		return false;
	if (remote->remote_id == NULL)
		remote->remote_id = name;
	google_set_state(remote, state ? state : "JOB_STATE_UNSPECIFIED");
	remote->total = -1;
	remote->finished = -1;
	if (good >= 0 && bad >= 0)
		remote->finished = good + bad;
	if (good >= 0 && bad >= 0 && rest >= 0)
		remote->total = good + bad + rest;
	if (remote->status == REMOTE_FAILED)
	{
		error_from_value(&remote->error, 0, json_member(job, "error"), ERROR_TEMPORARY);
		if (remote->error.code == NULL)
			error_set(&remote->error, ERROR_TEMPORARY, "failed", "the provider does not say why the job failed");
	}
	return true;
}

static void
ask_create(BatchStage *stage, StepResult *result)
{
	StringInfoData body;

	initStringInfo(&body);
	appendStringInfoString(&body, "{\"displayName\":");
	json_append_cstring(&body, google_display_name(stage));
	appendStringInfoString(&body, ",\"model\":");
	json_append_cstring(&body, model_path(stage->model));
	appendStringInfoString(&body, ",\"inputConfig\":{\"instancesFormat\":\"jsonl\",\"gcsSource\":{\"uris\":[");
	json_append_cstring(&body, stage->remote->input_uri);
	appendStringInfoString(&body, "]}},\"outputConfig\":{\"predictionsFormat\":\"jsonl\",\"gcsDestination\":{\"outputUriPrefix\":");
	json_append_cstring(&body, psprintf("gs://%s/%s", bucket_of(stage), output_folder_of(stage)));
	appendStringInfoString(&body, "}}}");
	ask(stage, result, "POST", parent_of(stage->account), "/batchPredictionJobs");
	step_json_body(result, body.data);
}

static void
vertex_create(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root;

	if (reply == NULL)
	{
		ask_create(stage, result);
		return;
	}
	if (google_take_reply(stage, reply, false, result) != TURN_GOOD)
		return;
	root = body_open_reply(reply, &doc);
	if (root != NULL && read_job(root, stage->remote))
		step_done(result);
	else
		step_fail_http(result, reply);
	json_free(doc);
}

static void
find_ask(BatchStage *stage, StepResult *result, const char *page)
{
	StringInfoData query;

	initStringInfo(&query);
	appendStringInfoString(&query, "/batchPredictionJobs?pageSize=100&filter=");
	google_append_escaped(&query, psprintf("display_name=\"%s\"", google_display_name(stage)), "");
	if (page[0] != '\0')
	{
		appendStringInfoString(&query, "&pageToken=");
		google_append_escaped(&query, page, "");
	}
	ask(stage, result, "GET", parent_of(stage->account), query.data);
}

static bool
is_our_job(const BatchStage *stage, JsonValue *job)
{
	const char *name = json_member_string(job, "displayName");

	return name != NULL && strcmp(name, google_display_name(stage)) == 0;
}

static void
vertex_find(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	static const GoogleFinder finder = {"batchPredictionJobs", find_ask, is_our_job, read_job};

	google_find(stage, reply, &finder, result);
}

static void
vertex_cancel(BatchStage *stage, const HttpReply *reply, StepResult *result)
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

/* ---- status, and which objects hold the results ---- */

enum
{
	STATUS_LOOKING,
	STATUS_LISTING,				/* the directory that the job names */
	STATUS_LISTING_ALL			/* the place that was given to it */
};

/* What is being listed, and from which page on; kept as text in stage->scratch, separated by a line end. */
static void
listing_save(BatchStage *stage, const char *prefix, const char *page)
{
	stage->scratch = psprintf("%s\n%s", prefix, page);
}

static void
listing_ask(BatchStage *stage, StepResult *result)
{
	const char *end = strchr(stage->scratch, '\n');

	gcs_ask_list(stage, result, bucket_of(stage), pnstrdup(stage->scratch, end - stage->scratch), end + 1);
}

/* Is this one of the files that a job writes? */
static bool
is_output(const char *name, int64 size)
{
	const char *slash = strrchr(name, '/');
	const char *base = slash ? slash + 1 : name;
	size_t		length = strlen(base);

	return size > 0 && (strncmp(base, "prediction", 10) == 0 ||
						(length > 6 && strcmp(base + length - 6, ".jsonl") == 0));
}

/* Takes over a page's objects.  Returns the next page's token, palloc'd, or NULL. */
static char *
take_outputs(BatchStage *stage, JsonValue *root)
{
	BatchRemote *remote = stage->remote;
	const char *next = json_member_string(root, "nextPageToken");

	for (JsonValue *item = json_first(json_member(root, "items")); item != NULL; item = json_next(item))
	{
		const char *name = json_member_string(item, "name");

		if (name != NULL && strlen(name) <= 1024 && list_length(remote->output_uris) < MAX_OUTPUTS &&
			is_output(name, json_member_int64(item, "size", 1)))
			remote->output_uris = lappend(remote->output_uris, psprintf("gs://%s/%s", bucket_of(stage), name));
	}
	return (next != NULL && next[0] != '\0') ? pstrdup(next) : NULL;
}

/* The job has ended: its results are looked for where it says, if that is in our place. */
static void
begin_listing(BatchStage *stage, JsonValue *job, StepResult *result)
{
	const char *directory = json_member_string(json_member(job, "outputInfo"), "gcsOutputDirectory");
	char	   *ours = output_folder_of(stage);
	char	   *bucket;
	char	   *name;

	stage->remote->output_uris = NIL;
	stage->phase = STATUS_LISTING_ALL;
	if (gcs_parse_uri(directory, &bucket, &name) && strcmp(bucket, bucket_of(stage)) == 0 &&
		strncmp(name, ours, strlen(ours)) == 0 && name[strlen(ours)] == '/' && strchr(name, '\n') == NULL)
	{
		int			length = strlen(name);

		while (length > 0 && name[length - 1] == '/')
			length--;
		stage->phase = STATUS_LISTING;
		listing_save(stage, psprintf("%.*s/", length, name), "");
	}
	else
		listing_save(stage, psprintf("%s/", ours), "");
	stage->tries = 0;
	listing_ask(stage, result);
}

static void
take_job(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);

	if (root == NULL || !read_job(root, stage->remote))
		step_fail_http(result, reply);
	else
	{
		switch (stage->remote->status)
		{
			case REMOTE_UNKNOWN:
			case REMOTE_QUEUED:
			case REMOTE_RUNNING:
			case REMOTE_LOST:
				step_done(result);
				break;
			case REMOTE_FINISHED:
			case REMOTE_EXPIRED:
			case REMOTE_CANCELLED:
			case REMOTE_FAILED:
				begin_listing(stage, root, result);
				break;
		}
	}
	json_free(doc);
}

/* All has been listed. */
static void
end_listing(BatchStage *stage, StepResult *result)
{
	const BatchRemote *remote = stage->remote;

	if (remote->output_uris != NIL)
		step_done(result);
	else if (stage->phase == STATUS_LISTING)
	{
		stage->phase = STATUS_LISTING_ALL;
		listing_save(stage, psprintf("%s/", output_folder_of(stage)), "");
		listing_ask(stage, result);
	}
	else if (remote->status == REMOTE_FINISHED)
		step_fail(result, ERROR_TEMPORARY, CODE_NOT_FOUND,
				  "the job has succeeded, but its results are not in the bucket yet");
	else
		step_done(result);
}

static void
take_listing(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	char	   *next;

	if (!json_is_object(root))
		step_fail_http(result, reply);
	else
	{
		next = take_outputs(stage, root);
		if (next != NULL && ++stage->tries < LIST_PAGES)
		{
			listing_save(stage, pnstrdup(stage->scratch, strchr(stage->scratch, '\n') - stage->scratch), next);
			listing_ask(stage, result);
		}
		else
			end_listing(stage, result);
	}
	json_free(doc);
}

static void
vertex_get_status(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL && stage->phase == STATUS_LOOKING)
		ask(stage, result, "GET", stage->remote->remote_id, "");
	else if (reply == NULL)
		listing_ask(stage, result);
	else
	{
		switch (google_take_reply(stage, reply, false, result))
		{
			case TURN_GOOD:
				if (stage->phase == STATUS_LOOKING)
					take_job(stage, reply, result);
				else
					take_listing(stage, reply, result);
				break;
			case TURN_OTHER:
				if (stage->phase == STATUS_LOOKING)
					google_fail_look(result, reply);
				break;
			case TURN_SETTLED:
				break;
		}
	}
}

static void
vertex_download(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	char	   *bucket;
	char	   *name;

	if (gcs_parse_uri(stage->uri, &bucket, &name))
		gcs_download(stage, bucket, name, reply, result);
	else
		step_fail(result, ERROR_PERMANENT, CODE_BAD_REPLY, "the result file's address is not one of Cloud Storage");
}

/* ---- the end ---- */

enum
{
	REMOVE_LISTING,				/* what is left in the folder */
	REMOVE_FILE,
	REMOVE_JOB
};

/* Scratch holds the names still to be removed, a line each; while the job is removed, a refusal. */
static void
remove_ask(BatchStage *stage, StepResult *result)
{
	switch (stage->phase)
	{
		case REMOVE_LISTING:
			gcs_ask_list(stage, result, bucket_of(stage), psprintf("%s/", folder_of(stage)), "");
			break;
		case REMOVE_FILE:
			gcs_ask_delete(stage, result, bucket_of(stage),
						   pnstrdup(stage->scratch, strcspn(stage->scratch, "\n")), NULL);
			break;
		default:
			ask(stage, result, "DELETE", stage->remote->remote_id, "");
			break;
	}
}

static void
remove_end(BatchStage *stage, StepResult *result)
{
	if (stage->scratch != NULL)
		step_fail(result, ERROR_PERMANENT, "403", stage->scratch);
	else
		step_done(result);
}

/* The files are gone, or cannot be removed; what remains is the job. */
static void
remove_job(BatchStage *stage, char *refusal, StepResult *result)
{
	stage->scratch = refusal;
	stage->phase = REMOVE_JOB;
	if (stage->remote->remote_id != NULL)
		remove_ask(stage, result);
	else
		remove_end(stage, result);
}

static void
remove_take_listing(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	StringInfoData names;
	bool		more = json_member(root, "nextPageToken") != NULL;

	initStringInfo(&names);
	for (JsonValue *item = json_first(json_member(root, "items")); item != NULL; item = json_next(item))
	{
		const char *name = json_member_string(item, "name");

		if (name != NULL && name[0] != '\0' && strchr(name, '\n') == NULL)
			appendStringInfo(&names, "%s\n", name);
	}
	if (!json_is_object(root) || ++stage->tries > LIST_PAGES)
		step_fail_http(result, reply);
	else if (names.len > 0)
	{
		stage->phase = REMOVE_FILE;
		stage->scratch = names.data;
		remove_ask(stage, result);
	}
	else if (more)
		step_fail(result, ERROR_TEMPORARY, CODE_BAD_REPLY, "the bucket's list has an empty page");
	else
		remove_job(stage, NULL, result);
	json_free(doc);
}

/* One file is gone: the next, or what the list shows now. */
static void
remove_next(BatchStage *stage, StepResult *result)
{
	const char *rest = stage->scratch + strcspn(stage->scratch, "\n");

	stage->scratch = (rest[0] != '\0' && rest[1] != '\0') ? pstrdup(rest + 1) : NULL;
	if (stage->scratch == NULL)
		stage->phase = REMOVE_LISTING;
	remove_ask(stage, result);
}

/*
 * A refusal for good is kept while the job is removed, and then reported as
 * permanent, so that it is not tried for ever.
 */
static void
vertex_remove(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	GoogleTurn	turn;

	if (reply == NULL)
	{
		remove_ask(stage, result);
		return;
	}
	turn = google_take_reply(stage, reply, false, result);
	if (turn == TURN_SETTLED)
		return;
	if (turn == TURN_OTHER && reply->status != 404 && reply->status != 410)
	{
		if (stage->phase == REMOVE_JOB)
			stage->scratch = pstrdup(result->error.message);
		else
		{
			remove_job(stage, pstrdup(result->error.message), result);
			return;
		}
	}

	if (stage->phase == REMOVE_JOB)
		remove_end(stage, result);
	else if (stage->phase == REMOVE_FILE)
		remove_next(stage, result);
	else if (turn == TURN_GOOD)
		remove_take_listing(stage, reply, result);
	else
		remove_job(stage, NULL, result);	/* the bucket itself is gone */
}

static void
vertex_remove_job(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	if (reply == NULL)
		ask(stage, result, "DELETE", stage->remote->remote_id, "");
	else
		google_take_removal(stage, reply, result);
}

/* ---- online ---- */

/* Raises only for a line that prepare_batch_file has not written. */
static void
vertex_infer(const Account *account, const char *model, const char *line, size_t length, HttpRequest *request)
{
	StringInfoData url;
	char	   *path = model_path(model);

	memset(request, 0, sizeof(HttpRequest));
	if (!gemini_split_line(line, length, &request->body, &request->body_length))
		elog(ERROR, "request line is malformed");
	initStringInfo(&url);
	appendStringInfo(&url, "%s/", base_url(account));
	if (strncmp(path, "projects/", 9) != 0)
		appendStringInfo(&url, "%s/", parent_of(account));
	google_append_escaped(&url, path, "/");
	appendStringInfoString(&url, ":generateContent");
	request->method = "POST";
	request->url = url.data;
	google_add_token(account, request);
	request_header(request, "Accept", "application/json");
	request_header(request, "Content-Type", "application/json");
}

/* ---- check ---- */

enum
{
	CHECK_WRITING,
	CHECK_REMOVING,
	CHECK_LISTING
};

/* Is the bucket writable, are there jobs to be seen? */
static void
vertex_check_account(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	const char *prefix = account_option(stage->account, "prefix");
	char	   *probe = psprintf("%s/dess_batch_check", prefix ? prefix : DEFAULT_PREFIX);

	if (reply != NULL)
	{
		GoogleTurn	turn = google_take_reply(stage, reply, false, result);

		if (turn == TURN_SETTLED)
			return;
		if (turn == TURN_OTHER)
		{
			step_fail(result, result->error.class, result->error.code,
					  psprintf("%s: %s", stage->phase == CHECK_WRITING ? "bucket cannot be written" :
							   stage->phase == CHECK_REMOVING ? "objects in the bucket cannot be removed" :
							   "batch jobs cannot be listed", result->error.message));
			return;
		}
		if (stage->phase++ == CHECK_LISTING)
		{
			stage->scratch = psprintf("bucket \"%s\" is writable, batch jobs in %s can be listed",
									  bucket_of(stage), account_option(stage->account, "location"));
			step_done(result);
			return;
		}
	}
	if (stage->phase == CHECK_WRITING)
		gcs_ask_small_upload(stage, result, bucket_of(stage), probe, "dess_batch_check\n");
	else if (stage->phase == CHECK_REMOVING)
		gcs_ask_delete(stage, result, bucket_of(stage), probe, NULL);
	else
		ask(stage, result, "GET", parent_of(stage->account), "/batchPredictionJobs?pageSize=1");
}

static const ProviderOption vertex_options[] = {
	{"project", true, false, check_project, true},
	{"location", true, false, check_location, true},
	{"bucket", true, false, check_bucket, true},
	{"prefix", false, false, check_prefix},
	{"storage_url", false, false, NULL},
	{"credentials_file", false, true, check_file},
	{NULL, false, false, NULL}
};

const BatchProvider vertex_provider = {
	.check_model = vertex_check_model,
	.name = "vertex",
	.usual_models = "gemini-*,publishers/google/models/*",
	.mapping_option = "service_account_key",
	.limits = {VERTEX_MAX_REQUESTS, VERTEX_MAX_BYTES, VERTEX_MAX_HOURS},
	.options = vertex_options,
	.check_options = gemini_check_options,
	.prepare_options = gemini_prepare_options,
	.authorize = google_authorize,
	.prepare_batch_file = gemini_write_bare_line,
	.upload_batch_file = vertex_upload,
	.create_batch_job = vertex_create,
	.get_batch_status = vertex_get_status,
	.read_result_line = gemini_read_line,
	.retrieve_and_merge_results = vertex_download,
	.find_batch_job = vertex_find,
	.cancel_batch_job = vertex_cancel,
	.remove_remote = vertex_remove,
	.remove_batch_job = vertex_remove_job,
	.infer = vertex_infer,
	.infer_result = gemini_write_result,
	.check_account = vertex_check_account
};
