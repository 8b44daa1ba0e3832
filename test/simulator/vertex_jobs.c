/*
 * vertex_jobs.c
 *		batchPredictionJobs: create, look, list, cancel, delete.
 *
 * What is wrong with the request is told at once; what is wrong with the
 * buckets or the input shows later, as state JOB_STATE_FAILED.
 */
#include "vertex.h"

static bool
field_error(GError *e, const char *field, const char *message)
{
	return gerror(e, 400, "List of found errors:\t1.Field: batch_prediction_job.%s; Message: "
				  "%s\t", field, message);
}

/* Only the listed members; the list ends with NULL. */
static bool
known_fields(const cJSON *o, const char *at, const char *const *names, GError *e)
{
	const cJSON *v;

	cJSON_ArrayForEach(v, o)
	{
		bool		known = false;

		for (int i = 0; names[i] != NULL && !known; i++)
		{
			known = proto_get(o, names[i]) == v;
		}
		if (!known)
			return gerror(e, 400, "Invalid JSON payload received. Unknown name \"%.100s\" at "
						  "'batch_prediction_job%s': Cannot find field.", v->string, at);
	}
	return true;
}

static bool
check_fields(const cJSON *body, GError *e)
{
	static const char *const job[] = {"name", "displayName", "model", "inputConfig",
		"instanceConfig", "modelParameters", "outputConfig", "dedicatedResources",
		"serviceAccount", "manualBatchTuningParameters", "generateExplanation", "explanationSpec",
		"labels", "encryptionSpec", "disableContainerLogging", "modelVersionId",
	"unmanagedContainerModel", "state", NULL};
	static const char *const input[] = {"instancesFormat", "gcsSource", "bigquerySource",
	"vertexMultimodalDatasetSource", NULL};
	static const char *const output[] = {"predictionsFormat", "gcsDestination",
	"bigqueryDestination", "vertexMultimodalDatasetDestination", NULL};
	static const char *const source[] = {"uris", NULL};
	static const char *const destination[] = {"outputUriPrefix", NULL};
	const cJSON *in = proto_get(body, "inputConfig");
	const cJSON *out = proto_get(body, "outputConfig");

	return known_fields(body, "", job, e) && known_fields(in, ".input_config", input, e) &&
		known_fields(out, ".output_config", output, e) &&
		known_fields(proto_get(in, "gcsSource"), ".input_config.gcs_source", source, e) &&
		known_fields(proto_get(out, "gcsDestination"), ".output_config.gcs_destination",
					 destination, e);
}

static bool
check_uri(const char *uri, const char *field, bool object, GError *e)
{
	char	   *bucket;
	char	   *name;
	bool		ok;

	if (!gs_split(uri, &bucket, &name))
		return field_error(e, field, "The URI must be a Google Cloud Storage URI that starts "
						   "with gs://.");
	ok = !object || *name != '\0';
	free(bucket);
	free(name);
	return ok || field_error(e, field, "The URI names no object.");
}

static bool
check_labels(const cJSON *labels, GError *e)
{
	const cJSON *v;

	if (labels != NULL && !cJSON_IsObject(labels))
		return field_error(e, "labels", "Labels must be a map of strings.");
	if (cJSON_GetArraySize(labels) > 64)
		return field_error(e, "labels", "The number of labels must not exceed 64.");
	cJSON_ArrayForEach(v, labels)
	{
		const char *texts[2] = {v->string, v->valuestring};

		if (!cJSON_IsString(v))
			return field_error(e, "labels", "Labels must be a map of strings.");
		for (int i = 0; i < 2; i++)
		{
			if (strlen(texts[i]) > 64 || (i == 0 && texts[0][0] == '\0') ||
				strspn(texts[i], "abcdefghijklmnopqrstuvwxyz0123456789_-") != strlen(texts[i]))
				return field_error(e, "labels", "Label keys and values can be no longer than 64 "
								   "characters, can only contain lowercase letters, numeric "
								   "characters, underscores and dashes.");
		}
	}
	return true;
}

/* Characters of a text in UTF-8. */
static size_t
characters(const char *s)
{
	size_t		n = 0;

	for (; *s; s++)
		n += ((unsigned char) *s & 0xC0) != 0x80;
	return n;
}

static bool
check_config(const cJSON *in, const cJSON *out, GError *e)
{
	const cJSON *uris = proto_get(proto_get(in, "gcsSource"), "uris");
	const char *from = proto_str(in, "instancesFormat");
	const char *to = proto_str(out, "predictionsFormat");
	const cJSON *uri;

	if (!cJSON_IsObject(in))
		return field_error(e, "input_config", "Required field is not set.");
	if (!cJSON_IsObject(out))
		return field_error(e, "output_config", "Required field is not set.");
	if (from == NULL || strcmp(from, "jsonl") != 0)
		return field_error(e, "input_config.instances_format", "The instances format must be "
						   "\"jsonl\" for a Cloud Storage source.");
	if (to == NULL || strcmp(to, "jsonl") != 0)
		return field_error(e, "output_config.predictions_format", "The predictions format must be "
						   "\"jsonl\" for a Cloud Storage destination.");
	if (!cJSON_IsArray(uris) || uris->child == NULL)
		return field_error(e, "input_config.gcs_source", "Required field is not set.");
	if (cJSON_GetArraySize(uris) > MAX_INPUTS)
		return field_error(e, "input_config.gcs_source", "Too many URIs.");
	cJSON_ArrayForEach(uri, uris)
	{
		if (!check_uri(cJSON_IsString(uri) ? uri->valuestring : NULL,
					   "input_config.gcs_source.uris", true, e))
			return false;
	}
	return check_uri(proto_str(proto_get(out, "gcsDestination"), "outputUriPrefix"),
					 "output_config.gcs_destination.output_uri_prefix", false, e);
}

static bool
check_create(const cJSON *body, const GModel **model, GError *e)
{
	const char *display = proto_str(body, "displayName");

	if (!check_fields(body, e))
		return false;
	if (display == NULL || *display == '\0')
		return field_error(e, "display_name", "Required field is not set.");
	if (characters(display) > 128)
		return field_error(e, "display_name", "The display name can be up to 128 characters long "
						   "and can consist of any UTF-8 characters.");
	return check_config(proto_get(body, "inputConfig"), proto_get(body, "outputConfig"), e) &&
		check_labels(json_get(body, "labels"), e) &&
		vertex_model(json_str(body, "model"), model, e);
}

static void
write_output_info(StrBuf *b, const Job *job)
{
	const char *how = json_str(job->order, "output_info");
	const char *prefix = proto_str(proto_get(proto_get(job->request, "outputConfig"),
											 "gcsDestination"), "outputUriPrefix");

	if (job->output == NULL || (how != NULL && strcmp(how, "absent") == 0))
		return;
	jw_raw(b, "outputInfo", "{");
	jw_str(b, "gcsOutputDirectory", how != NULL && strcmp(how, "prefix") == 0 ? prefix :
		   job->output);
	buf_char(b, '}');
}

static void
write_stats(StrBuf *b, const Job *job)
{
	int64_t		open = job->total - job->ok - job->bad;

	if (!job_final(job) || json_true(job->order, "no_counts"))
		return;
	jw_raw(b, "completionStats", "{");
	if (json_true(job->order, "unknown_counts"))
	{
		jw_str(b, "successfulCount", "-1");
		jw_str(b, "failedCount", "-1");
		jw_str(b, "incompleteCount", "-1");
	}
	else
	{
		/* zero is left out */
		if (job->ok)
			jw_int_text(b, "successfulCount", job->ok);
		if (job->bad)
			jw_int_text(b, "failedCount", job->bad);
		if (open)
			jw_int_text(b, "incompleteCount", open);
	}
	buf_char(b, '}');
}

static void
job_write(StrBuf *b, const Job *job)
{
	static const char *const repeated[] = {"model", "inputConfig", "modelParameters",
	"outputConfig", "labels", "instanceConfig", NULL};
	StrBuf		name = {0};

	jw_key(b, NULL);
	buf_char(b, '{');
	buf_printf(&name, "projects/" PROJECT_NUMBER "/locations/%s/batchPredictionJobs/%s",
			   job->location, job->id);
	jw_str(b, "name", name.data);
	buf_free(&name);
	jw_str(b, "displayName", job->display_name);
	for (int i = 0; repeated[i] != NULL; i++)
	{
		const cJSON *v = proto_get(job->request, repeated[i]);

		if (v != NULL)
			jw_json(b, repeated[i], v);
	}
	jw_str(b, "state", job_state_name(job, "JOB_STATE_"));
	if (job->error.status != 0 && job_final(job))
	{
		jw_raw(b, "error", "{");
		jw_int(b, "code", gerror_code(&job->error));
		jw_str(b, "message", job->error.message);
		buf_char(b, '}');
	}
	write_output_info(b, job);
	write_stats(b, job);
	jw_stamp(b, "createTime", job->created);
	jw_stamp(b, "startTime", job->started);
	jw_stamp(b, "endTime", job->ended);
	jw_stamp(b, "updateTime", job->updated);
	jw_str(b, "modelVersionId", "1");
	buf_char(b, '}');
}

/* An id is a number of nineteen digits. */
static void
number_id(char *dst, size_t size)
{
	char		text[64];
	uint64_t	x;

	make_id(text, sizeof(text), "job", 40);
	x = hash_bytes(text, strlen(text));
	snprintf(dst, size, "%llu", (unsigned long long) (x % 8000000000000000000ULL +
													   1000000000000000000ULL));
}

void
vertex_create(Request *req, Reply *reply, const char *location)
{
	GError		e;
	const GModel *model = NULL;
	cJSON	   *body = google_body(req, &e);

	if (body != NULL && check_create(body, &model, &e))
	{
		Job		   *job;

		pthread_mutex_lock(&google_lock);
		job = job_add(req, &vertex_jobs);
		number_id(job->id, sizeof(job->id));
		job->location = xstrdup(location);
		job->display_name = xstrdup(proto_str(body, "displayName"));
		job->model_name = xstrdup(json_str(body, "model"));
		job->model = model;
		job->request = body;
		body = NULL;
		reply->status = 200;
		job_write(&reply->body, job);
		pthread_mutex_unlock(&google_lock);
		google_runner_wake();
	}
	else
		gerror_reply(reply, &e);
	cJSON_Delete(body);
}

/* The job behind a page token, or NULL. */
static bool
after_token(Request *req, char **after, GError *e)
{
	char	   *token = req_query(req, "pageToken");
	size_t		n;

	*after = NULL;
	if (token != NULL && *token)
	{
		*after = (char *) base64url_decode(token, strlen(token), &n);
		if (*after == NULL || n < 10)
		{
			free(token);
			return gerror(e, 400, "The page token is invalid.");
		}
	}
	free(token);
	return true;
}

static bool
page_size(Request *req, long *size, GError *e)
{
	char	   *text = req_query(req, "pageSize");
	char	   *end;

	*size = 100;
	if (text != NULL && *text)
	{
		*size = strtol(text, &end, 10);
		if (*end || *size < 0)
		{
			free(text);
			return gerror(e, 400, "Invalid value at 'page_size' (TYPE_INT32)");
		}
	}
	if (*size == 0 || *size > 100)
		*size = 100;
	free(text);
	return true;
}

static bool
list_write(Reply *reply, const char *location, const char *filter, long size, const char *after,
		   GError *e)
{
	StrBuf	   *b = &reply->body;
	const Job  *last = NULL;
	bool		on = after == NULL;
	size_t		from;

	buf_char(b, '{');
	from = b->len;
	for (Job *job = job_newest(); job != NULL; job = job->older)
	{
		if (job->kind != &vertex_jobs || job->deleted || strcmp(job->location, location) != 0)
			continue;
		if (!on)
		{
			on = strcmp(job->id, after) == 0;
			continue;
		}
		e->status = 0;
		if (!filter_match(job, filter, e))
		{
			if (e->status != 0)
				return false;
			continue;
		}
		if (size-- == 0)
		{
			char	   *token = base64_encode((const unsigned char *) last->id, strlen(last->id));

			token[strcspn(token, "=")] = '\0';
			buf_char(b, ']');
			jw_str(b, "nextPageToken", token);
			buf_char(b, '}');
			free(token);
			return true;
		}
		if (b->len == from)
			jw_raw(b, "batchPredictionJobs", "[");
		job_write(b, job);
		last = job;
	}
	buf_str(b, b->len > from ? "]}" : "}");
	return true;
}

void
vertex_list(Request *req, Reply *reply, const char *location)
{
	char	   *filter = req_query(req, "filter");
	char	   *after = NULL;
	long		size;
	GError		e = {0};

	if (after_token(req, &after, &e) && page_size(req, &size, &e))
	{
		bool		ok;

		pthread_mutex_lock(&google_lock);
		reply->status = 200;
		ok = list_write(reply, location, filter ? filter : "", size, after, &e);
		pthread_mutex_unlock(&google_lock);
		if (!ok)
			gerror_reply(reply, &e);
	}
	else
		gerror_reply(reply, &e);
	free(filter);
	free(after);
}

static void
delete_job(Reply *reply, Job *job)
{
	StrBuf	   *b = &reply->body;
	StrBuf		name = {0};
	char		id[32];

	number_id(id, sizeof(id));
	buf_printf(&name, "projects/" PROJECT_NUMBER "/locations/%s/operations/%s", job->location, id);
	job->deleted = true;
	reply->status = 200;
	buf_char(b, '{');
	jw_str(b, "name", name.data);
	jw_raw(b, "metadata", "{\"@type\":\"type.googleapis.com/google.cloud.aiplatform.v1."
		   "DeleteOperationMetadata\",\"genericMetadata\":{");
	jw_stamp(b, "createTime", real_ms());
	jw_stamp(b, "updateTime", real_ms());
	buf_str(b, "}}");
	jw_bool(b, "done", true);
	jw_raw(b, "response", "{\"@type\":\"type.googleapis.com/google.protobuf.Empty\"}");
	buf_char(b, '}');
	buf_free(&name);
}

/* id may have a verb behind it. */
void
vertex_one(Request *req, Reply *reply, const char *location, char *id)
{
	char	   *colon = strchr(id, ':');
	bool		get = strcmp(req->method, "GET") == 0;
	bool		post = strcmp(req->method, "POST") == 0;
	GError		e = {0};
	Job		   *job;

	if (colon != NULL)
		*colon++ = '\0';
	pthread_mutex_lock(&google_lock);
	for (job = job_newest(); job != NULL; job = job->older)
	{
		if (job->kind == &vertex_jobs && !job->deleted && strcmp(job->id, id) == 0 &&
			strcmp(job->location, location) == 0)
			break;
	}
	if (job == NULL)
		gerror(&e, 404, "The BatchPredictionJob \"projects/" PROJECT_NUMBER "/locations/%.60s/"
			   "batchPredictionJobs/%.60s\" does not exist.", location, id);
	else if (get && colon == NULL)
	{
		reply->status = 200;
		job_write(&reply->body, job);
	}
	else if (post && colon != NULL && strcmp(colon, "cancel") == 0)
	{
		if (job_final(job))
		{
			gerror(&e, 400, "The BatchPredictionJob is in state %s and cannot be cancelled.",
				   job_state_name(job, "JOB_STATE_"));
			snprintf(e.name, sizeof(e.name), "FAILED_PRECONDITION");
		}
		else
		{
			job_cancel(job);
			reply->status = 200;
			buf_str(&reply->body, "{}");
		}
	}
	else if (strcmp(req->method, "DELETE") == 0 && colon == NULL && !job_final(job))
	{
		gerror(&e, 400, "The BatchPredictionJob is in state %s and cannot be deleted; it has to be "
			   "cancelled first.", job_state_name(job, "JOB_STATE_"));
		snprintf(e.name, sizeof(e.name), "FAILED_PRECONDITION");
	}
	else if (strcmp(req->method, "DELETE") == 0 && colon == NULL)
		delete_job(reply, job);
	else
		gerror(&e, 404, "Method not found.");
	if (e.status != 0)
		gerror_reply(reply, &e);
	pthread_mutex_unlock(&google_lock);
	google_runner_wake();
}
