/*
 * vertex_rows.c
 *		The lines of a Vertex AI job: read from Cloud Storage, written there.
 *
 * A line whose request is refused gets a status with the error in it and an
 * empty response.  Every line repeats its request, not byte by byte.  A member
 * beside "request" fails the whole job, drops out, or comes through, as the
 * setting extra_field says (0, 1, 2): nothing about it is documented.
 */
#include "vertex.h"

#include <time.h>
#include <unistd.h>

static bool
open_one(JobRun *run, const char *bucket, const char *name, int64_t *total, GError *e)
{
	int64_t		bytes = 0;
	double		visible;
	int			fd = storage_open(bucket, name, &bytes, &visible);

	if (fd < 0)
		return gerror(e, 404, "Failed to read the input: gs://%.100s/%.300s was not found.", bucket,
					  name);
	if (run->ninputs == MAX_INPUTS)
	{
		close(fd);
		return gerror(e, 400, "Too many input files.");
	}
	run->input[run->ninputs++] = fd;
	*total += bytes;
	if (*total > (int64_t) settings_get().vertex_bytes)
		return gerror(e, 400, "The input exceeds the maximum size of %.0f bytes.",
					  settings_get().vertex_bytes);
	return true;
}

static bool
open_uri(JobRun *run, const char *uri, int64_t *total, GError *e)
{
	char	   *bucket;
	char	   *name;
	char	  **names = NULL;
	int			n = 0;
	bool		ok = true;

	if (!gs_split(uri, &bucket, &name))
		return gerror(e, 400, "\"%.300s\" is not a URI of Cloud Storage.", uri);
	if (!storage_bucket_exists(bucket))
		ok = gerror(e, 404, "The Cloud Storage bucket of the input, gs://%.100s, was not found.",
					bucket);
	else if (strchr(name, '*') != NULL)
	{
		n = storage_match(bucket, name, &names);
		if (n == 0)
			ok = gerror(e, 404, "Failed to read the input: no object matches %.300s.", uri);
		for (int i = 0; i < n; i++)
		{
			ok = ok && open_one(run, bucket, names[i], total, e);
			free(names[i]);
		}
		free(names);
	}
	else
		ok = open_one(run, bucket, name, total, e);
	free(bucket);
	free(name);
	return ok;
}

static bool
vertex_open(JobRun *run, GError *e)
{
	const cJSON *in = proto_get(run->job->request, "inputConfig");
	const cJSON *out = proto_get(run->job->request, "outputConfig");
	const cJSON *uri;
	int64_t		total = 0;
	char	   *bucket;
	char	   *name;
	bool		ok = true;

	if (gs_split(proto_str(proto_get(out, "gcsDestination"), "outputUriPrefix"), &bucket, &name))
	{
		if (!storage_bucket_exists(bucket))
			ok = gerror(e, 404, "The Cloud Storage bucket of the output, gs://%.100s, was not "
						"found.", bucket);
		free(bucket);
		free(name);
	}
	pthread_mutex_lock(&google_lock);
	cJSON_ArrayForEach(uri, proto_get(proto_get(in, "gcsSource"), "uris"))
		ok = ok && open_uri(run, uri->valuestring, &total, e);
	pthread_mutex_unlock(&google_lock);
	return ok;
}

static bool
vertex_check(JobRun *run, const cJSON *line, int64_t number, GError *e)
{
	const cJSON *v;

	(void) run;
	if (!cJSON_IsObject(json_get(line, "request")))
		return gerror(e, 400, "Line %lld of the input has no \"request\".", (long long) number);
	cJSON_ArrayForEach(v, line)
	{
		if (strcmp(v->string, "request") != 0 && settings_get().extra_field == 0)
		{
			gerror(e, 500, "INTERNAL");
			return false;
		}
	}
	return true;
}

static const char *
http_phrase(int status)
{
	switch (status)
	{
		case 400:
			return "Bad Request";
		case 403:
			return "Forbidden";
		case 404:
			return "Not Found";
		case 429:
			return "Too Many Requests";
		case 500:
			return "Internal Server Error";
		case 503:
			return "Service Unavailable";
		default:
			return "Error";
	}
}

/* A line; status is a text, response is JSON. */
static void
write_line(JobRun *run, const cJSON *line, const cJSON *request, const char *status,
		   const char *response)
{
	FILE	   *f = job_output(run);
	StrBuf		b = {0};
	StrBuf		t = {0};
	const cJSON *v;

	buf_char(&b, '{');
	cJSON_ArrayForEach(v, line)
	{
		if (settings_get().extra_field == 2 && strcmp(v->string, "request") != 0)
			jw_json(&b, v->string, v);
	}
	jw_str(&b, "status", status);
	jw_stamp(&t, NULL, real_ms());
	jw_key(&b, "processed_time");
	buf_add(&b, t.data, t.len - 5);
	buf_str(&b, "+00:00\"");
	jw_key(&b, "request");
	echo_write(&b, request, json_true(run->job->order, "no_labels"));
	jw_raw(&b, "response", response);
	buf_str(&b, "}\n");
	fwrite(b.data, 1, b.len, f);
	buf_free(&b);
	buf_free(&t);
}

static void
row_refused(JobRun *run, const cJSON *line, const GError *e, bool bare)
{
	StrBuf		error = {0};
	StrBuf		status = {0};

	gerror_write(&error, e);
	if (bare)
		buf_str(&status, e->message);
	else
		buf_printf(&status, "%s: %s", http_phrase(e->status), error.data);
	write_line(run, line, json_get(line, "request"), status.data, "{}");
	job_row_done(run, false, NULL, NULL, 0, NULL);
	buf_free(&error);
	buf_free(&status);
}

/* Failures that were ordered; true if the row is done with. */
static bool
row_fails(JobRun *run, const cJSON *line, const cJSON *order)
{
	const char *what = json_str(order, "outcome");
	const char *message = json_str(order, "message");
	const char *code = json_str(order, "code");
	GError		e;

	if (what == NULL)
		return false;
	if (strcmp(what, "garbage") == 0)
	{
		fputs("{\"status\":\"\",\"processed_ti\n", job_output(run));
		run->ok++;
		return true;
	}
	if (strcmp(what, "http_error") != 0 && strcmp(what, "string_error") != 0 &&
		strcmp(what, "error_object") != 0)
		return false;
	gerror(&e, (int) json_num(order, "status", 500), "%s", message ? message :
		   "Internal error encountered.");
	if (code != NULL)
		snprintf(e.name, sizeof(e.name), "%s", code);
	row_refused(run, line, &e, strcmp(what, "string_error") == 0);
	return true;
}

/* A request that nobody sent, for a line that nobody can place. */
static void
write_stranger(JobRun *run, const cJSON *line, const char *response)
{
	cJSON	   *strange = cJSON_Parse("{\"contents\":[{\"role\":\"user\",\"parts\":[{\"text\":"
									  "\"nobody asked this\"}]}]}");

	write_line(run, line, strange, "", response);
	cJSON_Delete(strange);
}

static void
row_answer(JobRun *run, const cJSON *line, const GQuestion *g, const cJSON *order, const char *key)
{
	const char *what = json_str(order, "outcome");
	const cJSON *request = json_get(line, "request");
	cJSON	   *shape = json_get(order, "answer") ? cJSON_Duplicate(json_get(order, "answer"), 1) :
		NULL;
	StrBuf		b = {0};
	Usage		usage;

	if (what != NULL && strcmp(what, "blocked") == 0)
	{
		if (shape == NULL)
			shape = cJSON_CreateObject();
		cJSON_AddStringToObject(shape, "block_reason", json_str(order, "code") ?
								json_str(order, "code") : "PROHIBITED_CONTENT");
	}
	ganswer_write(g, shape, &usage, &b);
	if (what != NULL && strcmp(what, "unknown_custom_id") == 0)
		write_stranger(run, line, b.data);
	else if (what == NULL || strcmp(what, "missing") != 0)
		write_line(run, line, request, "", b.data);
	if (what != NULL && strcmp(what, "duplicate") == 0)
		write_line(run, line, request, "", b.data);
	job_row_done(run, true, &usage, g->q.all.data, g->q.all.len, key);
	cJSON_Delete(shape);
	buf_free(&b);
}

static void
vertex_row(JobRun *run, const cJSON *line)
{
	const cJSON *request = json_get(line, "request");
	const cJSON *labels = json_get(request, "labels");
	const char *key = cJSON_IsObject(labels) && cJSON_IsString(labels->child) ?
		labels->child->valuestring : NULL;
	cJSON	   *order = NULL;
	GQuestion	g;
	GError		e;
	bool		ok = gquestion_read(request, run->job->model, true, &g, &e);

	if (faults_any(ON_ROW))
	{
		StrBuf		prompt = {0};

		gprompt_text(request, &prompt);
		order = faults_object(ON_ROW, NULL, key, prompt.data);
		buf_free(&prompt);
	}
	if (!row_fails(run, line, order))
	{
		if (ok)
			row_answer(run, line, &g, order, key);
		else
			row_refused(run, line, &e, false);
	}
	cJSON_Delete(order);
	gquestion_free(&g);
}

/* "prefix/prediction-model-2026-11-22T09:13:16.826123Z" */
static char *
output_directory(const char *prefix)
{
	StrBuf		b = {0};
	StrBuf		t = {0};

	jw_stamp(&t, NULL, real_ms());
	buf_str(&b, prefix);
	while (b.len > 0 && b.data[b.len - 1] == '/')
		b.data[--b.len] = '\0';
	buf_str(&b, "/prediction-model-");
	buf_add(&b, t.data + 1, t.len - 2);
	buf_free(&t);
	return b.data;
}

static void
vertex_publish(JobRun *run, JobState state)
{
	const Job  *job = run->job;
	const char *prefix = proto_str(proto_get(proto_get(job->request, "outputConfig"),
											 "gcsDestination"), "outputUriPrefix");
	double		visible = now_ms() + json_num(job->order, "result_missing_ms", 0);
	int			fds[MAX_OUTPUTS];
	char	   *directory;
	char	   *bucket;
	char	   *name;

	if (run->nout == 0 && state != JOB_SUCCEEDED)
		return;
	directory = output_directory(prefix);
	gs_split(directory, &bucket, &name);
	job_take_outputs(run, fds);
	for (int i = 0; i < run->nout; i++)
	{
		StrBuf		path = {0};

		if (fds[i] < 0)
			continue;
		if (run->nout == 1)
			buf_printf(&path, "%s/predictions.jsonl", name);
		else if (settings_get().output_names == 1)
			buf_printf(&path, "%s/prediction.results-%05d-of-%05d", name, i, run->nout);
		else
			buf_printf(&path, "%s/predictions_%04d.jsonl", name, i + 1);
		storage_put(bucket, path.data, "application/octet-stream", fds[i], visible);
		buf_free(&path);
	}
	pthread_mutex_lock(&google_lock);
	run->job->output = directory;
	pthread_mutex_unlock(&google_lock);
	free(bucket);
	free(name);
}

const JobKind vertex_jobs = {
	.by = BY_VERTEX, .open = vertex_open, .check = vertex_check, .row = vertex_row,
	.publish = vertex_publish
};
