/*
 * gemini_rows.c
 *		The requests of a Gemini API batch, and its results.
 *
 * A line of the input has a key and a request, one of the output the key and
 * a response or an error; inlined requests have metadata in the key's place.
 * Expired, failed and cancelled batches leave nothing behind unless an order
 * says "partial".
 */
#include "gemini.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static bool
gemini_open(JobRun *run, GError *e)
{
	int			fd = fcntl(run->job->input_fd, F_DUPFD_CLOEXEC, 3);

	if (fd < 0)
		return gerror(e, 500, "Internal error encountered.");
	run->input[run->ninputs++] = fd;
	return true;
}

/* A key or an inlined request's metadata.key. */
static const char *
line_key(const Job *job, const cJSON *line)
{
	if (job->input_name == NULL)
		return json_str(json_get(line, "metadata"), "key");
	return json_str(line, "key");
}

static bool
gemini_check(JobRun *run, const cJSON *line, int64_t number, GError *e)
{
	const char *key = line_key(run->job, line);
	const cJSON *v;

	cJSON_ArrayForEach(v, line)
	{
		if (strcmp(v->string, "key") != 0 && strcmp(v->string, "request") != 0 &&
			strcmp(v->string, "metadata") != 0)
			return gerror(e, 400, "Failed to parse line %lld of the input: unknown name \"%.60s\".",
						  (long long) number, v->string);
	}
	if (!cJSON_IsObject(json_get(line, "request")))
		return gerror(e, 400, "Line %lld of the input has no \"request\".", (long long) number);
	if (run->job->input_name != NULL && key == NULL)
		return gerror(e, 400, "Line %lld of the input has no \"key\".", (long long) number);
	if (key != NULL && table_add(&run->keys, hash_bytes(key, strlen(key))) > 1 &&
		run->job->input_name != NULL)
		return gerror(e, 400, "Line %lld of the input: key \"%.60s\" was used before.",
					  (long long) number, key);
	return true;
}

/* A line of the output; member is "response", "error" or "status". */
static void
write_line(JobRun *run, const cJSON *line, const char *key, const char *member, const char *json)
{
	const cJSON *meta = json_get(line, "metadata");
	bool		first = run->next % 2 == 0;
	StrBuf		b = {0};

	buf_char(&b, '{');
	if (first)
		jw_raw(&b, member, json);
	if (run->job->input_name == NULL && meta != NULL && key != NULL)
		jw_json(&b, "metadata", meta);
	else if (run->job->input_name != NULL && key != NULL)
		jw_str(&b, "key", key);
	if (!first)
		jw_raw(&b, member, json);
	buf_str(&b, "}\n");
	fwrite(b.data, 1, b.len, job_output(run));
	buf_free(&b);
}

/* An error as google.rpc.Status, or with the HTTP status as the APIs show it. */
static void
row_refused(JobRun *run, const cJSON *line, const char *key, const GError *e, const char *member,
			bool http)
{
	StrBuf		b = {0};

	buf_char(&b, '{');
	jw_int(&b, "code", http ? e->status : gerror_code(e));
	jw_str(&b, "message", e->message);
	if (http)
		jw_str(&b, "status", gerror_name(e));
	buf_char(&b, '}');
	write_line(run, line, key, member, b.data);
	job_row_done(run, false, NULL, NULL, 0, NULL);
	buf_free(&b);
}

/* Failures that were ordered; true if the row is done with. */
static bool
row_fails(JobRun *run, const cJSON *line, const char *key, const cJSON *order)
{
	const char *what = json_str(order, "outcome");
	const char *message = json_str(order, "message");
	const char *code = json_str(order, "code");
	bool		status = what != NULL && strcmp(what, "status_object") == 0;
	bool		http = what != NULL && strcmp(what, "http_error") == 0;
	GError		e;

	if (what == NULL)
		return false;
	if (strcmp(what, "garbage") == 0)
	{
		fputs("{\"key\":\"\n", job_output(run));
		run->ok++;
		return true;
	}
	if (strcmp(what, "string_error") == 0)
	{
		StrBuf		b = {0};

		jw_str(&b, NULL, message ? message : "internal error");
		write_line(run, line, key, "error", b.data);
		job_row_done(run, false, NULL, NULL, 0, NULL);
		buf_free(&b);
		return true;
	}
	if (!status && !http && strcmp(what, "error_object") != 0)
		return false;
	gerror(&e, (int) json_num(order, "status", 500), "%s", message ? message :
		   "Internal error encountered.");
	if (code != NULL)
		snprintf(e.name, sizeof(e.name), "%s", code);
	row_refused(run, line, key, &e, status ? "status" : "error", http);
	return true;
}

static void
row_answer(JobRun *run, const cJSON *line, const char *key, const GQuestion *g, const cJSON *order)
{
	const char *what = json_str(order, "outcome");
	const char *shown = key;
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
	if (what != NULL && strcmp(what, "unknown_custom_id") == 0)
		shown = "no-such-row";
	else if (what != NULL && strcmp(what, "no_key") == 0)
		shown = NULL;
	ganswer_write(g, shape, &usage, &b);
	if (what == NULL || strcmp(what, "missing") != 0)
		write_line(run, line, shown, "response", b.data);
	if (what != NULL && strcmp(what, "duplicate") == 0)
		write_line(run, line, shown, "response", b.data);
	job_row_done(run, true, &usage, g->q.all.data, g->q.all.len, key);
	cJSON_Delete(shape);
	buf_free(&b);
}

static void
gemini_row(JobRun *run, const cJSON *line)
{
	const cJSON *request = json_get(line, "request");
	const char *key = line_key(run->job, line);
	cJSON	   *order = NULL;
	GQuestion	g;
	GError		e;
	bool		ok = gquestion_read(request, run->job->model, false, &g, &e);

	if (faults_any(ON_ROW))
	{
		StrBuf		prompt = {0};

		gprompt_text(request, &prompt);
		order = faults_object(ON_ROW, NULL, key, prompt.data);
		buf_free(&prompt);
	}
	if (!row_fails(run, line, key, order))
	{
		if (ok)
			row_answer(run, line, key, &g, order);
		else
			row_refused(run, line, key, &e, "error", false);
	}
	cJSON_Delete(order);
	gquestion_free(&g);
}

/* The lines of a small file with commas between them, to be freed. */
static char *
lines_joined(int fd)
{
	struct stat st;
	char	   *text;
	ssize_t		n;

	if (fstat(fd, &st) != 0)
		return xstrdup("");
	text = xmalloc((size_t) st.st_size + 1);
	n = pread(fd, text, (size_t) st.st_size, 0);
	text[n > 0 ? n : 0] = '\0';
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = '\0';
	for (char *p = text; *p; p++)
	{
		if (*p == '\n')
			*p = ',';
	}
	return text;
}

static void
gemini_publish(JobRun *run, JobState state)
{
	Job		   *job = run->job;
	int			fds[MAX_OUTPUTS];
	char		id[80];
	GFile	   *f;
	StrBuf		name = {0};

	if (run->nout == 0 || (state != JOB_SUCCEEDED && state != JOB_PARTIALLY_SUCCEEDED &&
						   !json_true(job->order, "partial")))
		return;
	job_take_outputs(run, fds);
	if (fds[0] < 0)
		return;
	if (job->input_name == NULL)
	{
		char	   *joined = lines_joined(fds[0]);

		close(fds[0]);
		pthread_mutex_lock(&google_lock);
		job->inlined = joined;
		pthread_mutex_unlock(&google_lock);
		return;
	}
	snprintf(id, sizeof(id), "batch-%s", job->id);
	f = gfile_add(job->key, id, fds[0], "application/jsonl");
	f->generated = true;
	f->visible_at = now_ms() + json_num(job->order, "result_missing_ms", 0);
	f->until = now_ms() + 42.0 * 86400000;
	buf_printf(&name, "files/%s", id);
	job->output = name.data;
	pthread_mutex_unlock(&google_lock);
}

const JobKind gemini_jobs = {
	.by = BY_GEMINI, .open = gemini_open, .check = gemini_check, .row = gemini_row,
	.publish = gemini_publish
};
