/*
 * openai_batches.c
 *		/v1/batches: create, look, list, cancel.
 *
 * What is wrong with the request is told at once; what is wrong with the
 * input file shows later, as state "failed".  openai_batch_run.c does the work.
 */
#include "openai.h"

#include <fcntl.h>

static const char *const state_names[] = {
	"validating", "failed", "in_progress", "finalizing", "completed", "expired", "cancelling",
	"cancelled"
};

static const char *const endpoints[] = {
	"/v1/responses", "/v1/chat/completions", "/v1/embeddings", "/v1/completions",
	"/v1/moderations", "/v1/images/generations", "/v1/images/edits", "/v1/videos", NULL
};

static Batch *newest;

Batch *
batches_newest(void)
{
	return newest;
}

bool
batch_final(const Batch *b)
{
	return b->state == BATCH_FAILED || b->state == BATCH_COMPLETED ||
		b->state == BATCH_EXPIRED || b->state == BATCH_CANCELLED;
}

/* The caller holds openai_lock. */
void
batch_enter(Batch *b, BatchState state)
{
	static const int counts[] = {-1, COUNT_BATCHES_FAILED, -1, -1, COUNT_BATCHES_COMPLETED,
	COUNT_BATCHES_EXPIRED, -1, COUNT_BATCHES_CANCELLED};

	b->state = state;
	b->at[state] = now_unix();
	if (counts[state] >= 0)
		stats_count((Counter) counts[state], 1);
}

/* Frees all; the runner is stopped. */
void
batches_clear(void)
{
	pthread_mutex_lock(&openai_lock);
	while (newest != NULL)
	{
		Batch	   *b = newest;

		newest = b->older;
		free(b->metadata);
		free(b->model);
		buf_free(&b->errors);
		cJSON_Delete(b->order);
		free(b);
	}
	pthread_mutex_unlock(&openai_lock);
}

static void
write_file_id(StrBuf *out, const Batch *b, const char *key, const char *id)
{
	const char *how = json_str(b->order, key);

	if (how != NULL && strcmp(how, "absent") == 0)
		return;
	if (how != NULL && strcmp(how, "empty") == 0 && batch_final(b))
		jw_str(out, key, "");
	else if (how != NULL && strcmp(how, "null") == 0)
		jw_str(out, key, NULL);
	else
		jw_str(out, key, *id ? id : NULL);
}

static const char *
shown_state(const Batch *b)
{
	const char *show = json_str(b->order, "show_state");
	double		ms = json_num(b->order, "show_ms", 0);

	if (show != NULL && !(ms > 0 && now_ms() > b->created_ms + ms) && !(ms == 0 && batch_final(b)))
		return show;
	return state_names[b->state];
}

static void
write_usage(StrBuf *out, const Batch *b)
{
	Usage		u = {0};

	/* tokens show when the work is over */
	if (batch_final(b))
		u = b->usage;
	jw_key(out, "usage");
	buf_printf(out, "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld},"
			   "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld},"
			   "\"total_tokens\":%lld}", (long long) u.input, (long long) u.cached,
			   (long long) u.output, (long long) u.reasoning, (long long) (u.input + u.output));
}

static void
batch_write(StrBuf *out, const Batch *b)
{
	jw_key(out, NULL);
	buf_char(out, '{');
	jw_str(out, "id", b->id);
	jw_str(out, "object", "batch");
	jw_str(out, "endpoint", b->endpoint);
	if (b->model != NULL)
		jw_str(out, "model", b->model);
	jw_raw(out, "errors", b->nerrors ? "{\"object\":\"list\",\"data\":[" : "null");
	if (b->nerrors)
	{
		buf_add(out, b->errors.data, b->errors.len);
		buf_str(out, "]}");
	}
	jw_str(out, "input_file_id", b->input_id);
	jw_str(out, "completion_window", "24h");
	jw_str(out, "status", shown_state(b));
	write_file_id(out, b, "output_file_id", b->output_id);
	write_file_id(out, b, "error_file_id", b->error_id);
	jw_int(out, "created_at", b->created_at);
	jw_time(out, "in_progress_at", b->at[BATCH_IN_PROGRESS]);
	jw_time(out, "expires_at", b->expires_at);
	jw_time(out, "finalizing_at", b->at[BATCH_FINALIZING]);
	jw_time(out, "completed_at", b->at[BATCH_COMPLETED]);
	jw_time(out, "failed_at", b->at[BATCH_FAILED]);
	jw_time(out, "expired_at", b->at[BATCH_EXPIRED]);
	jw_time(out, "cancelling_at", b->at[BATCH_CANCELLING]);
	jw_time(out, "cancelled_at", b->at[BATCH_CANCELLED]);
	if (json_true(b->order, "no_counts"))
		jw_raw(out, "request_counts", "null");
	else
	{
		jw_key(out, "request_counts");
		buf_printf(out, "{\"total\":%lld,\"completed\":%lld,\"failed\":%lld}",
				   (long long) b->total, (long long) b->completed, (long long) b->failed);
	}
	if (!json_true(b->order, "no_usage"))
		write_usage(out, b);
	jw_raw(out, "metadata", b->metadata ? b->metadata : "null");
	buf_char(out, '}');
}

/* At most 16 pairs of strings; keys to 64 and values to 512 characters. */
bool
metadata_check(const cJSON *meta, ApiError *e)
{
	const cJSON *c;

	if (meta == NULL || cJSON_IsNull(meta))
		return true;
	if (!cJSON_IsObject(meta))
		return api_error(e, 400, "invalid_type", "metadata", "Invalid type for 'metadata': "
						 "expected an object.");
	if (cJSON_GetArraySize(meta) > 16)
		return api_error(e, 400, "object_above_max_properties", "metadata", "Invalid "
						 "'metadata': too many properties. Expected an object with at most 16 "
						 "properties, but got an object with %d properties instead.",
						 cJSON_GetArraySize(meta));
	cJSON_ArrayForEach(c, meta)
	{
		char		param[120];

		snprintf(param, sizeof(param), "metadata.%.80s", c->string);
		if (!cJSON_IsString(c))
			return api_error(e, 400, "invalid_type", param, "Invalid type for '%s': expected a "
							 "string.", param);
		if (strlen(c->string) > 64)
			return api_error(e, 400, "property_name_above_max_length", "metadata", "Invalid "
							 "property name in 'metadata': '%.80s' is too long. Expected a "
							 "string with maximum length 64.", c->string);
		if (strlen(c->valuestring) > 512)
			return api_error(e, 400, "string_above_max_length", param, "Invalid '%s': string "
							 "too long. Expected a string with maximum length 512, but got a "
							 "string with length %zu instead.", param, strlen(c->valuestring));
	}
	return true;
}

static bool
check_output_expiry(const cJSON *o, ApiError *e)
{
	double		seconds = json_num(o, "seconds", -1);

	if (o == NULL || cJSON_IsNull(o))
		return true;
	if (json_str(o, "anchor") == NULL || strcmp(json_str(o, "anchor"), "created_at") != 0)
		return api_error(e, 400, "invalid_value", "output_expires_after.anchor", "Invalid value "
						 "for 'output_expires_after.anchor'. Supported values are: "
						 "'created_at'.");
	if (seconds < 3600 || seconds > 2592000)
		return api_error(e, 400, seconds < 3600 ? "integer_below_min_value" :
						 "integer_above_max_value", "output_expires_after.seconds",
						 "Invalid 'output_expires_after.seconds': expected an integer between "
						 "3600 and 2592000.");
	return true;
}

static bool
check_create(const cJSON *body, ApiError *e)
{
	static const char *const fields[] = {"input_file_id", "endpoint", "completion_window",
	"metadata", "output_expires_after", NULL};
	const cJSON *c;

	cJSON_ArrayForEach(c, body)
	{
		int			i;

		for (i = 0; fields[i] != NULL && strcmp(fields[i], c->string) != 0; i++)
			;
		if (fields[i] == NULL)
			return api_error(e, 400, "unknown_parameter", c->string, "Unknown parameter: '%s'.",
							 c->string);
	}
	for (int i = 0; i < 3; i++)
	{
		const cJSON *v = json_get(body, fields[i]);

		if (v == NULL || cJSON_IsNull(v))
			return api_error(e, 400, "missing_required_parameter", fields[i],
							 "Missing required parameter: '%s'.", fields[i]);
		if (!cJSON_IsString(v))
			return api_error(e, 400, "invalid_type", fields[i], "Invalid type for '%s': expected "
							 "a string.", fields[i]);
	}
	for (int i = 0;; i++)
	{
		if (endpoints[i] == NULL)
			return api_error(e, 400, "invalid_value", "endpoint", "Invalid value: '%s'. "
							 "Supported values are: '/v1/chat/completions', '/v1/completions', "
							 "'/v1/embeddings', '/v1/responses', and '/v1/moderations'.",
							 json_str(body, "endpoint"));
		if (strcmp(endpoints[i], json_str(body, "endpoint")) == 0)
			break;
	}
	if (strcmp(json_str(body, "completion_window"), "24h") != 0)
		return api_error(e, 400, "invalid_value", "completion_window", "Invalid value: '%s'. "
						 "Value must be '24h'.", json_str(body, "completion_window"));
	return metadata_check(json_get(body, "metadata"), e) &&
		check_output_expiry(json_get(body, "output_expires_after"), e);
}

/* Opens the input file, or -1 with the error.  The caller holds openai_lock. */
static int
open_input(const char *id, int key, ApiError *e)
{
	File	   *f = file_find(id, key);
	int			fd;

	if (f == NULL)
	{
		api_error(e, 404, NULL, "id", "No such File object: %s", id);
		return -1;
	}
	if (strcmp(f->purpose, "batch") != 0)
	{
		api_error(e, 400, "invalid_value", "input_file_id", "Invalid file purpose: '%s'. The "
				  "file must have the purpose 'batch'.", f->purpose);
		return -1;
	}
	if (f->broken || now_ms() < f->ready_at)
	{
		api_error(e, 400, "file_not_ready", "input_file_id", "The file '%s' is not ready: it "
				  "must have the status 'processed'.", id);
		return -1;
	}
	fd = open(f->path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		api_error(e, 500, NULL, NULL, "The server had an error while processing your request.");
	return fd;
}

static Batch *
batch_make(Request *req, const cJSON *body, int key)
{
	const cJSON *meta = json_get(body, "metadata");
	Batch	   *b = xcalloc(sizeof(Batch));

	make_id(b->id, sizeof(b->id), "batch_", 32);
	b->key = key;
	snprintf(b->endpoint, sizeof(b->endpoint), "%s", json_str(body, "endpoint"));
	snprintf(b->input_id, sizeof(b->input_id), "%s", json_str(body, "input_file_id"));
	b->api = strcmp(b->endpoint, "/v1/responses") == 0 ? API_RESPONSES : API_CHAT;
	if (cJSON_IsObject(meta))
		b->metadata = cJSON_PrintUnformatted(meta);
	b->created_ms = now_ms();
	b->created_at = now_unix();
	b->expires_at = b->created_at + (int64_t) (settings_get().window_ms / 1000);
	b->output_seconds = (int64_t) json_num(json_get(body, "output_expires_after"), "seconds", 0);
	b->order = faults_object(ON_BATCH, req, NULL, NULL);
	b->older = newest;
	if (newest != NULL)
		newest->newer = b;
	newest = b;
	return b;
}

void
batches_create(Request *req, Reply *reply, int key)
{
	const char *why;
	ApiError	e;
	cJSON	   *body = json_parse(req->body.data ? req->body.data : "", req->body.len, &why);
	int			fd = -1;

	if (!cJSON_IsObject(body))
	{
		api_error(&e, 400, NULL, NULL, "We could not parse the JSON body of your request.");
		reply_error(reply, &e);
	}
	else if (!check_create(body, &e))
		reply_error(reply, &e);
	else
	{
		pthread_mutex_lock(&openai_lock);
		fd = open_input(json_str(body, "input_file_id"), key, &e);
		if (fd >= 0)
		{
			Batch	   *b = batch_make(req, body, key);

			runner_add(b, fd);
			stats_count(COUNT_BATCHES_CREATED, 1);
			reply->status = 200;
			batch_write(&reply->body, b);
		}
		else
			reply_error(reply, &e);
		pthread_mutex_unlock(&openai_lock);
		runner_wake();
	}
	cJSON_Delete(body);
}

static void
list_write(Reply *reply, int key, long limit, const char *after)
{
	StrBuf	   *out = &reply->body;
	const char *first = NULL;
	const char *last = NULL;
	bool		on = after == NULL;
	bool		more = false;

	buf_char(out, '{');
	jw_str(out, "object", "list");
	jw_key(out, "data");
	buf_char(out, '[');
	for (Batch *b = newest; b != NULL; b = b->older)
	{
		if (b->key != key)
			continue;
		if (!on)
		{
			on = strcmp(b->id, after) == 0;
			continue;
		}
		if (limit-- == 0)
		{
			more = true;
			break;
		}
		batch_write(out, b);
		last = b->id;
		if (first == NULL)
			first = b->id;
	}
	buf_char(out, ']');
	jw_str(out, "first_id", first);
	jw_str(out, "last_id", last);
	jw_bool(out, "has_more", more);
	buf_char(out, '}');
}

void
batches_list(Request *req, Reply *reply, int key)
{
	char	   *after = req_query(req, "after");
	long		limit;
	ApiError	e;

	if (list_limit(req, 100, 20, &limit, &e))
	{
		reply->status = 200;
		pthread_mutex_lock(&openai_lock);
		list_write(reply, key, limit, after);
		pthread_mutex_unlock(&openai_lock);
	}
	else
		reply_error(reply, &e);
	free(after);
}

static void
batch_cancel(Batch *b, Reply *reply)
{
	ApiError	e;

	if (batch_final(b))
	{
		api_error(&e, 409, NULL, NULL, "Cannot cancel a batch with status '%s'.",
				  state_names[b->state]);
		reply_error(reply, &e);
		return;
	}
	b->cancel = true;
	if (b->state != BATCH_CANCELLING)
		batch_enter(b, BATCH_CANCELLING);
	reply->status = 200;
	batch_write(&reply->body, b);
}

/* rest is what follows /v1/batches/ in the path. */
void
batches_one(Request *req, Reply *reply, int key, const char *rest)
{
	size_t		len = strcspn(rest, "/");
	char	   *id = url_decode(rest, len);
	ApiError	e;
	Batch	   *b;

	pthread_mutex_lock(&openai_lock);
	for (b = newest; b != NULL && (b->key != key || strcmp(b->id, id) != 0); b = b->older)
		;
	if (b == NULL)
	{
		api_error(&e, 404, NULL, NULL, "No batch found with id '%s'.", id);
		reply_error(reply, &e);
	}
	else if (strcmp(req->method, "GET") == 0 && rest[len] == '\0')
	{
		reply->status = 200;
		batch_write(&reply->body, b);
	}
	else if (strcmp(req->method, "POST") == 0 && strcmp(rest + len, "/cancel") == 0)
		batch_cancel(b, reply);
	else
	{
		api_error(&e, 405, NULL, NULL, "Not allowed to %s on %s (HINT: Perhaps you meant to use "
				  "a different HTTP method?)", req->method, req->path);
		reply_error(reply, &e);
	}
	pthread_mutex_unlock(&openai_lock);
	free(id);
	runner_wake();
}
