/*
 * openai_batch_rows.c
 *		The lines of a batch: checked one by one, answered one by one.
 *
 * What is wrong with a line itself (JSON, id, method, url, model) fails the
 * whole batch before anything runs.  What is wrong with its body is that
 * row's error, as an online call would get it.
 */
#include "openai_batch.h"

#include <stdarg.h>
#include <unistd.h>

#define MAX_LINES		50000
#define MAX_ERRORS		100

void
batch_line_error(BatchRun *run, const char *code, const char *param, int64_t line, const char *fmt,...)
{
	char		message[300];
	va_list		args;
	StrBuf	   *b = &run->errors;

	if (run->nerrors >= MAX_ERRORS)
		return;
	va_start(args, fmt);
	vsnprintf(message, sizeof(message), fmt, args);
	va_end(args);
	message[cut_at(message, strlen(message), sizeof(message) - 4)] = '\0';
	if (run->nerrors++ > 0)
		buf_char(b, ',');
	buf_char(b, '{');
	jw_str(b, "code", code);
	jw_str(b, "message", message);
	jw_str(b, "param", param);
	if (line > 0)
		jw_int(b, "line", line);
	else
		jw_raw(b, "line", "null");
	buf_char(b, '}');
}

static void
check_line_model(BatchRun *run, const cJSON *body, int64_t line)
{
	const char *model = json_str(body, "model");
	const Model *m;

	if (model == NULL)
	{
		batch_line_error(run, "missing_required_parameter", "body.model", line,
				   "Missing required parameter: 'body.model'.");
		return;
	}
	m = model_find(model);
	if (m == NULL)
		batch_line_error(run, "model_not_found", "body.model", line,
				   "The provided model '%s' is not supported by the Batch API.", model);
	if (run->model_name == NULL)
	{
		run->model_name = xstrdup(model);
		run->model = xstrdup(m ? m->snapshot : model);
	}
	else if (strcmp(run->model_name, model) != 0)
		batch_line_error(run, "mismatched_model", "body.model", line, "The provided model '%s' does not "
				   "match the model '%s' of the first request. All requests of a batch must have "
				   "the same model.", model, run->model_name);
}

static void
check_line(BatchRun *run, const char *s, size_t len, int64_t line, HashTable *ids)
{
	const char *why;
	cJSON	   *json = json_parse(s, len, &why);
	const char *id = json_str(json, "custom_id");
	const char *method = json_str(json, "method");
	const char *url = json_str(json, "url");

	if (!cJSON_IsObject(json))
	{
		batch_line_error(run, "invalid_json_line", NULL, line,
				   "This line is not parseable as valid JSON.");
		cJSON_Delete(json);
		return;
	}
	if (id == NULL || *id == '\0')
		batch_line_error(run, "missing_required_parameter", "custom_id", line,
				   "Missing required parameter: 'custom_id'.");
	else if (table_add(ids, hash_bytes(id, strlen(id))) > 1)
		batch_line_error(run, "duplicate_custom_id", "custom_id", line, "The custom_id '%s' for this "
				   "request is a duplicate of another request. The custom_id parameter must be "
				   "unique for each request in a batch.", id);
	if (method == NULL || strcmp(method, "POST") != 0)
		batch_line_error(run, method ? "invalid_method" : "missing_required_parameter", "method", line,
				   "The method provided for this request must be 'POST'.");
	if (url == NULL || strcmp(url, run->batch->endpoint) != 0)
		batch_line_error(run, url ? "invalid_url" : "missing_required_parameter", "url", line,
				   "The URL provided for this request does not match the batch endpoint '%s'.",
				   run->batch->endpoint);
	if (!cJSON_IsObject(json_get(json, "body")))
		batch_line_error(run, "missing_required_parameter", "body", line,
				   "Missing required parameter: 'body'.");
	else
		check_line_model(run, json_get(json, "body"), line);
	cJSON_Delete(json);
}

static bool
is_blank_line(const char *s, size_t len)
{
	return strspn(s, " \t\r\n") >= len;
}

/* Reads the whole input once: checks each line and notes where it is. */
void
batch_check_input(BatchRun *run)
{
	FILE	   *f = fdopen(dup(run->fd), "r");
	HashTable	ids = {0};
	char	   *line = NULL;
	size_t		cap = 0;
	ssize_t		len;
	uint64_t	at = 0;
	size_t		slots = 0;
	int64_t		number = 0;

	run->checked = true;
	while (f != NULL && (len = getline(&line, &cap, f)) > 0 && run->nerrors < MAX_ERRORS)
	{
		size_t		text = (size_t) len - (line[len - 1] == '\n');

		number++;
		at += (uint64_t) len;
		if (is_blank_line(line, (size_t) len))
			continue;
		if (run->total >= MAX_LINES)
		{
			batch_line_error(run, "too_many_tasks", NULL, 0, "The input file has more than the maximum "
					   "of %d requests.", MAX_LINES);
			break;
		}
		if ((size_t) run->total * 2 + 2 > slots)
		{
			slots = slots ? slots * 2 : 1024;
			run->offset = xrealloc(run->offset, slots * sizeof(uint64_t));
		}
		run->offset[run->total * 2] = at - (uint64_t) len;
		run->offset[run->total * 2 + 1] = text;
		run->total++;
		check_line(run, line, text, number, &ids);
	}
	if (run->total == 0 && run->nerrors == 0)
		batch_line_error(run, "empty_file", NULL, 0, "The input file is empty. Please ensure that the "
				   "batch contains at least one request.");
	free(line);
	table_free(&ids);
	if (f != NULL)
		fclose(f);
}

/* The line of row number i, parsed, to be deleted. */
static cJSON *
read_row(BatchRun *run, int64_t i)
{
	size_t		len = run->offset[i * 2 + 1];
	char	   *line = xmalloc(len + 1);
	ssize_t		n = pread(run->fd, line, len, (off_t) run->offset[i * 2]);
	cJSON	   *json = NULL;

	if (n == (ssize_t) len)
		json = cJSON_ParseWithLength(line, len);
	free(line);
	return json;
}

static void
line_begin(StrBuf *b, const char *custom_id)
{
	char		id[64];

	make_id(id, sizeof(id), "batch_req_", 22);
	buf_char(b, '{');
	jw_str(b, "id", id);
	jw_str(b, "custom_id", custom_id);
}

/* A line whose response has a status and, in body, a JSON text. */
static void
write_response(FILE *f, const char *custom_id, int status, const char *body)
{
	StrBuf		b = {0};
	char		id[64];

	make_id(id, sizeof(id), "req_", 22);
	line_begin(&b, custom_id);
	jw_raw(&b, "response", "{");
	jw_int(&b, "status_code", status);
	jw_str(&b, "request_id", status ? id : "");
	jw_raw(&b, "body", body);
	buf_char(&b, '}');
	jw_raw(&b, "error", "null");
	buf_str(&b, "}\n");
	fwrite(b.data, 1, b.len, f);
	buf_free(&b);
}

/* A line for a row that was not executed; error is JSON. */
static void
write_not_run(FILE *f, const char *custom_id, const char *error)
{
	StrBuf		b = {0};

	line_begin(&b, custom_id);
	jw_raw(&b, "response", "null");
	jw_raw(&b, "error", error);
	buf_str(&b, "}\n");
	fwrite(b.data, 1, b.len, f);
	buf_free(&b);
}

static void
row_refused(BatchRun *run, const char *custom_id, const ApiError *e, FILE *f)
{
	StrBuf		b = {0};

	api_error_write(&b, e);
	write_response(f, custom_id, e->status, b.data);
	buf_free(&b);
	run->failed++;
	stats_count(COUNT_ROWS_FAILED, 1);
}

/* Failures that were ordered; true if the row is done with. */
static bool
row_fails(BatchRun *run, const char *custom_id, const cJSON *order)
{
	const char *what = json_str(order, "outcome");
	const char *code = json_str(order, "code");
	const char *message = json_str(order, "message");
	StrBuf		b = {0};
	ApiError	e;

	if (what == NULL)
		return false;
	if (strcmp(what, "http_error") == 0 || strcmp(what, "http_error_in_output") == 0)
	{
		api_error(&e, (int) json_num(order, "status", 500), code, NULL, "%s",
				  message ? message : "The server had an error while processing your request.");
		row_refused(run, custom_id, &e, what[10] ? run->out : run->err);
		return true;
	}
	if (strcmp(what, "status_zero") == 0)
	{
		/* seen in the wild: counted as completed, without an answer */
		write_response(run->out, custom_id, 0, "null");
		run->completed++;
		return true;
	}
	if (strcmp(what, "garbage") == 0)
	{
		fputs("{\"id\":\"batch_req_\n", run->out);
		run->completed++;
		return true;
	}
	if (strcmp(what, "string_error") == 0)
		jw_str(&b, NULL, message ? message : "internal error");
	else if (strcmp(what, "error_object") == 0)
	{
		buf_char(&b, '{');
		jw_str(&b, "code", code ? code : "server_error");
		jw_str(&b, "message", message ? message : "The request could not be executed.");
		buf_char(&b, '}');
	}
	else
		return false;
	write_not_run(run->err, custom_id, b.data);
	run->failed++;
	stats_count(COUNT_ROWS_FAILED, 1);
	buf_free(&b);
	return true;
}

static void
row_answer(BatchRun *run, const char *custom_id, const Question *q, const cJSON *order)
{
	const char *what = json_str(order, "outcome");
	StrBuf		b = {0};
	Answer		a;

	answer_make(q, json_get(order, "answer"), &a);
	answer_write(q, &a, &b);
	if (what != NULL && strcmp(what, "unknown_custom_id") == 0)
		write_response(run->out, "no-such-row", 200, b.data);
	else if (what == NULL || strcmp(what, "missing") != 0)
		write_response(run->out, custom_id, 200, b.data);
	if (what != NULL && strcmp(what, "duplicate") == 0)
		write_response(run->out, custom_id, 200, b.data);
	run->completed++;
	run->usage.input += a.usage.input;
	run->usage.cached += a.usage.cached;
	run->usage.output += a.usage.output;
	run->usage.reasoning += a.usage.reasoning;
	stats_count(COUNT_ROWS_OK, 1);
	stats_served(true, &a.usage, q->all.data, q->all.len, custom_id);
	answer_free(&a);
	buf_free(&b);
}

void
batch_run_row(BatchRun *run, int64_t i)
{
	cJSON	   *json = read_row(run, i);
	const cJSON *body = json_get(json, "body");
	const char *custom_id = json_str(json, "custom_id");
	cJSON	   *order = NULL;
	Question	q;
	ApiError	e;
	bool		ok = question_read(body, run->batch->api, &q, &e);

	if (custom_id == NULL)
		custom_id = "";
	if (ok && strcmp(run->batch->endpoint, "/v1/chat/completions") != 0 &&
		strcmp(run->batch->endpoint, "/v1/responses") != 0)
		ok = api_error(&e, 400, NULL, NULL, "This endpoint is not simulated.");
	if (faults_any(ON_ROW))
	{
		StrBuf		prompt = {0};

		prompt_text(body, run->batch->api, &prompt);
		order = faults_object(ON_ROW, NULL, custom_id, prompt.data);
		buf_free(&prompt);
	}
	if (!row_fails(run, custom_id, order))
	{
		if (ok)
			row_answer(run, custom_id, &q, order);
		else
			row_refused(run, custom_id, &e, run->err);
	}
	cJSON_Delete(order);
	question_free(&q);
	cJSON_Delete(json);
}

/* Rows that nobody will answer any more, each with its line in the error file. */
void
batch_give_up_rows(BatchRun *run, const char *code, const char *message)
{
	StrBuf		b = {0};

	buf_char(&b, '{');
	jw_str(&b, "code", code);
	jw_str(&b, "message", message);
	buf_char(&b, '}');
	for (; run->next < run->total; run->next++)
	{
		cJSON	   *json = read_row(run, run->order[run->next]);
		const char *id = json_str(json, "custom_id");

		write_not_run(run->err, id ? id : "", b.data);
		cJSON_Delete(json);
	}
	buf_free(&b);
}
