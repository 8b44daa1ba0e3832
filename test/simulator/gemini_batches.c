/*
 * gemini_batches.c
 *		Batches of the Gemini API: create, look, list, cancel, delete.
 *
 * What clients see is a long-running operation whose metadata is the batch.
 * Members that are false or zero are left out, so a batch at work has no
 * "done".  The number of requests shows from the start, and too many batches
 * or tokens are refused at create, not later.
 */
#include "gemini.h"

#include <fcntl.h>
#include <unistd.h>

#define TYPE	"type.googleapis.com/google.ai.generativelanguage.v1main.GenerateContentBatch"

static const char *
prefix(void)
{
	return settings_get().gemini_job_names == 1 ? "JOB_STATE_" : "BATCH_STATE_";
}

static void
write_stats(StrBuf *b, const Job *job)
{
	int64_t		open = job->total - job->ok - job->bad;

	if (json_true(job->order, "no_counts"))
		return;
	jw_raw(b, "batchStats", "{");
	jw_int_text(b, "requestCount", job->total);
	if (job->ok > 0)
		jw_int_text(b, "successfulRequestCount", job->ok);
	if (job->bad > 0)
		jw_int_text(b, "failedRequestCount", job->bad);
	if (open > 0)
		jw_int_text(b, "pendingRequestCount", open);
	buf_char(b, '}');
}

static void
write_output(StrBuf *b, const char *key, const Job *job, bool type)
{
	if (job->output == NULL && job->inlined == NULL)
		return;
	jw_key(b, key);
	buf_char(b, '{');
	if (type)
		jw_str(b, "@type", TYPE "Output");
	if (job->inlined != NULL)
	{
		jw_raw(b, "inlinedResponses", "{\"inlinedResponses\":[");
		buf_str(b, job->inlined);
		buf_str(b, "]}");
	}
	else
		jw_str(b, "responsesFile", job->output);
	buf_char(b, '}');
}

static void
operation_write(StrBuf *b, const Job *job)
{
	const char *at = json_str(job->order, "output_at");
	StrBuf		text = {0};

	buf_printf(&text, "batches/%s", job->id);
	jw_key(b, NULL);
	buf_char(b, '{');
	jw_str(b, "name", text.data);
	jw_raw(b, "metadata", "{");
	jw_str(b, "@type", TYPE);
	buf_reset(&text);
	buf_printf(&text, "models/%s", job->model->base.name);
	jw_str(b, "model", text.data);
	jw_str(b, "displayName", job->display_name);
	if (job->input_name != NULL)
	{
		jw_raw(b, "inputConfig", "{");
		jw_str(b, "fileName", job->input_name);
		buf_char(b, '}');
	}
	if (at == NULL || strcmp(at, "response") != 0)
		write_output(b, "output", job, false);
	jw_stamp(b, "createTime", job->created);
	jw_stamp(b, "endTime", job->ended);
	jw_stamp(b, "updateTime", job->updated);
	write_stats(b, job);
	jw_str(b, "state", job_state_name(job, prefix()));
	buf_reset(&text);
	buf_printf(&text, "batches/%s", job->id);
	jw_str(b, "name", text.data);
	buf_char(b, '}');
	if (job_final(job))
		jw_bool(b, "done", true);
	if (job->error.status != 0 && job_final(job))
	{
		jw_raw(b, "error", "{");
		jw_int(b, "code", gerror_code(&job->error));
		jw_str(b, "message", job->error.message);
		buf_char(b, '}');
	}
	else if (at == NULL || strcmp(at, "metadata") != 0)
		write_output(b, "response", job, true);
	buf_char(b, '}');
	buf_free(&text);
}

/* Only the listed members, in either spelling; the list ends with NULL. */
static bool
known_fields(const cJSON *o, const char *at, const char *const *names, GError *e)
{
	const cJSON *v;

	cJSON_ArrayForEach(v, o)
	{
		int			i = 0;

		while (names[i] != NULL && proto_get(o, names[i]) != v)
			i++;
		if (names[i] == NULL)
			return gerror(e, 400, "Invalid JSON payload received. Unknown name \"%.60s\"%s%s%s: "
						  "Cannot find field.", v->string, *at ? " at '" : "", at, *at ? "'" : "");
	}
	return true;
}

static bool
check_batch(const cJSON *body, GError *e)
{
	static const char *const root[] = {"batch", NULL};
	static const char *const batch[] = {"name", "model", "displayName", "inputConfig", "priority",
	"webhookConfig", NULL};
	static const char *const input[] = {"fileName", "requests", NULL};
	static const char *const list[] = {"requests", NULL};
	const cJSON *b = json_get(body, "batch");
	const cJSON *in = proto_get(b, "inputConfig");
	const char *display = proto_str(b, "displayName");

	if (!known_fields(body, "", root, e) || !known_fields(b, "batch", batch, e) ||
		!known_fields(in, "batch.input_config", input, e) ||
		!known_fields(json_get(in, "requests"), "batch.input_config.requests", list, e))
		return false;
	if (display == NULL || *display == '\0')
		return gerror(e, 400, "* BatchGenerateContentRequest.batch.display_name: display_name must "
					  "not be empty\n");
	if (!cJSON_IsObject(in) || (proto_get(in, "fileName") == NULL) ==
		(json_get(in, "requests") == NULL))
		return gerror(e, 400, "* BatchGenerateContentRequest.batch.input_config.source: required "
					  "oneof field 'source' must have one initialized field\n");
	return true;
}

/* Lines that are not blank. */
static int64_t
count_lines(int fd)
{
	char		buf[65536];
	int64_t		at = 0;
	int64_t		lines = 0;
	bool		text = false;
	ssize_t		n;

	while ((n = pread(fd, buf, sizeof(buf), (off_t) at)) > 0)
	{
		for (ssize_t i = 0; i < n; i++)
		{
			if (buf[i] == '\n')
			{
				lines += text;
				text = false;
			}
			else if (buf[i] != ' ' && buf[i] != '\r' && buf[i] != '\t')
				text = true;
		}
		at += n;
	}
	return lines + text;
}

/* The requests of the body as lines of an unnamed file; -1 with the error. */
static int
spool_inlined(const cJSON *requests, GError *e)
{
	static const char *const names[] = {"request", "metadata", NULL};
	const cJSON *one;
	FILE	   *f;
	int			fd;
	int			i = 0;

	if (cJSON_GetArraySize(requests) == 0)
	{
		gerror(e, 400, "* BatchGenerateContentRequest.batch.input_config.requests: must not be "
			   "empty\n");
		return -1;
	}
	fd = spool_file(NULL);
	f = fdopen(fcntl(fd, F_DUPFD_CLOEXEC, 3), "w");
	if (f == NULL)
		die("could not spool a batch");
	cJSON_ArrayForEach(one, requests)
	{
		char		at[80];
		char	   *text;

		snprintf(at, sizeof(at), "batch.input_config.requests.requests[%d]", i++);
		if (!known_fields(one, at, names, e) || !message_check(json_get(one, "request"), false, e))
		{
			fclose(f);
			close(fd);
			return -1;
		}
		text = cJSON_PrintUnformatted(one);
		fputs(text, f);
		fputc('\n', f);
		free(text);
	}
	fclose(f);
	return fd;
}

/* A descriptor of the input, or -1 with the error. */
static int
open_input(const cJSON *in, int key, GError *e)
{
	const char *name = proto_str(in, "fileName");
	GFile	   *f;
	int			fd = -1;

	if (proto_get(in, "fileName") == NULL)
		return spool_inlined(json_get(json_get(in, "requests"), "requests"), e);
	pthread_mutex_lock(&google_lock);
	f = name != NULL && strncmp(name, "files/", 6) == 0 ? gfile_find(name + 6, key) : NULL;
	if (name == NULL || strncmp(name, "files/", 6) != 0)
		gerror(e, 400, "* BatchGenerateContentRequest.batch.input_config.file_name: must be of "
			   "the form files/{file}\n");
	else if (f == NULL)
		gerror(e, 404, "Requested entity was not found.");
	else if (strcmp(gfile_state(f), "ACTIVE") != 0)
	{
		gerror(e, 400, "The File %s is not in an ACTIVE state and usage is not allowed.", f->id);
		snprintf(e->name, sizeof(e->name), "FAILED_PRECONDITION");
	}
	else
		fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
	pthread_mutex_unlock(&google_lock);
	return fd;
}

/* Too many batches or tokens of this key?  The caller holds google_lock. */
static bool
check_quota(int key, const GModel *model, int64_t tokens, GError *e)
{
	Settings	set = settings_get();
	int			active = 0;
	int64_t		waiting = tokens;

	for (Job *job = job_newest(); job != NULL; job = job->older)
	{
		if (job->kind != &gemini_jobs || job->key != key || job->deleted || job_final(job))
			continue;
		active++;
		if (job->model == model)
			waiting += job->tokens;
	}
	if (active < set.gemini_jobs && (set.gemini_tokens <= 0 || waiting <= set.gemini_tokens))
		return true;
	gerror(e, 429, "You exceeded your current quota, please check your plan and billing details. "
		   "For more information on this error, head over to: "
		   "https://ai.google.dev/gemini-api/docs/rate-limits.");
	snprintf(e->details, sizeof(e->details), "{\"@type\":\"type.googleapis.com/google.rpc.Help\","
			 "\"links\":[{\"description\":\"Learn more about Gemini API quotas\",\"url\":"
			 "\"https://ai.google.dev/gemini-api/docs/rate-limits\"}]}");
	return false;
}

/* POST models/{model}:batchGenerateContent */
void
gemini_create(Request *req, Reply *reply, int key, const GModel *model)
{
	GError		e;
	cJSON	   *body = google_body(req, &e);
	const cJSON *batch = json_get(body, "batch");
	const cJSON *in = proto_get(batch, "inputConfig");
	int			fd = -1;
	int64_t		lines;
	int64_t		tokens;

	if (body == NULL || !check_batch(body, &e) || (fd = open_input(in, key, &e)) < 0)
	{
		gerror_reply(reply, &e);
		cJSON_Delete(body);
		return;
	}
	lines = count_lines(fd);
	tokens = lseek(fd, 0, SEEK_END) / 4;
	pthread_mutex_lock(&google_lock);
	if (check_quota(key, model, tokens, &e))
	{
		Job		   *job = job_add(req, &gemini_jobs);

		lower_id(job->id, sizeof(job->id), 36);
		job->key = key;
		job->model = model;
		job->display_name = xstrdup(proto_str(batch, "displayName"));
		job->input_fd = fd;
		job->tokens = tokens;
		job->total = lines;
		if (proto_str(in, "fileName") != NULL)
			job->input_name = xstrdup(proto_str(in, "fileName"));
		fd = -1;
		reply->status = 200;
		operation_write(&reply->body, job);
	}
	else
		gerror_reply(reply, &e);
	pthread_mutex_unlock(&google_lock);
	google_runner_wake();
	if (fd >= 0)
		close(fd);
	cJSON_Delete(body);
}

static bool
visible(const Job *job, int key)
{
	return job->kind == &gemini_jobs && job->key == key && !job->deleted;
}

void
gemini_batches_list(Request *req, Reply *reply, int key)
{
	StrBuf	   *b = &reply->body;
	char	   *after;
	long		size;
	bool		on;
	bool		any = false;
	GError		e;
	Job		   *job;
	const Job  *last = NULL;

	if (!gemini_page(req, 50, 1000, &size, &after, &e))
	{
		gerror_reply(reply, &e);
		return;
	}
	on = after == NULL;
	reply->status = 200;
	buf_char(b, '{');
	pthread_mutex_lock(&google_lock);
	for (job = job_newest(); job != NULL; job = job->older)
	{
		if (!visible(job, key))
			continue;
		if (!on)
		{
			on = strcmp(job->id, after) == 0;
			continue;
		}
		if (size-- == 0)
			break;
		if (!any)
			jw_raw(b, "operations", "[");
		any = true;
		operation_write(b, job);
		last = job;
	}
	if (any)
		buf_char(b, ']');
	if (job != NULL && last != NULL)
		gemini_token(b, last->id);
	pthread_mutex_unlock(&google_lock);
	buf_char(b, '}');
	free(after);
}

/* id may have ":cancel" behind it. */
void
gemini_batch(Request *req, Reply *reply, int key, char *id)
{
	char	   *colon = strchr(id, ':');
	bool		ok = true;
	GError		e;
	Job		   *job;

	if (colon != NULL)
		*colon++ = '\0';
	pthread_mutex_lock(&google_lock);
	for (job = job_newest(); job != NULL; job = job->older)
	{
		if (visible(job, key) && strcmp(job->id, id) == 0)
			break;
	}
	if (job == NULL)
		ok = gerror(&e, 404, "Requested entity was not found.");
	else if (strcmp(req->method, "GET") == 0 && colon == NULL)
	{
		reply->status = 200;
		operation_write(&reply->body, job);
	}
	else if (strcmp(req->method, "POST") == 0 && colon != NULL && strcmp(colon, "cancel") == 0 &&
			 job_final(job))
	{
		ok = gerror(&e, 400, "Batch is in state %s and cannot be cancelled.",
					job_state_name(job, prefix()));
		snprintf(e.name, sizeof(e.name), "FAILED_PRECONDITION");
	}
	else if (strcmp(req->method, "POST") == 0 && colon != NULL && strcmp(colon, "cancel") == 0)
	{
		job_cancel(job);
		reply->status = 200;
		buf_str(&reply->body, "{}");
	}
	else if (strcmp(req->method, "DELETE") == 0 && colon == NULL)
	{
		job->deleted = true;
		reply->status = 200;
		buf_str(&reply->body, "{}");
	}
	else
		ok = gerror(&e, 404, "Method not found.");
	if (!ok)
		gerror_reply(reply, &e);
	pthread_mutex_unlock(&google_lock);
	google_runner_wake();
}
