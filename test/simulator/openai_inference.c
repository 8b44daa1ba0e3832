/*
 * openai_inference.c
 *		Answers of chat completions and responses, and what they cost.
 *
 * Tokens are counted so that a test can foretell them: bytes of all message
 * texts divided by four, rounded up; the same for the answer.  A reasoning
 * model adds hidden tokens by its effort, which count against the limit, so a
 * small limit gives an empty answer that ends with "length".
 */
#include "openai.h"

#include "answer.h"

static const int effort_tokens[EFFORTS] = {0, 0, 64, 192, 640, 1280, 2560};

static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;
static HashTable cache = {.limit = 1000000};

void
inference_reset(void)
{
	pthread_mutex_lock(&cache_lock);
	table_free(&cache);
	pthread_mutex_unlock(&cache_lock);
}

static int64_t
count_tokens(size_t bytes)
{
	return (int64_t) ((bytes + 3) / 4);
}

/*
 * Tokens of the prompt that were seen before at the beginning of another one:
 * from 1024 on, in steps of 128, as the service caches prompts.
 */
static int64_t
cached_tokens(const Question *q)
{
	int64_t		total = count_tokens(q->all.len);
	int64_t		hit = 0;

	if (total < 1024 || settings_get().cached_tokens == 0)
		return 0;
	pthread_mutex_lock(&cache_lock);
	for (int64_t n = 1024; n <= total && n <= 8192; n += 128)
	{
		size_t		bytes = (size_t) n * 4 < q->all.len ? (size_t) n * 4 : q->all.len;
		uint64_t	key = hash_bytes(q->all.data, bytes) ^ hash_bytes(q->model->name,
																	  strlen(q->model->name));

		if (table_add(&cache, key) > 1)
			hit = n;
	}
	pthread_mutex_unlock(&cache_lock);
	return hit;
}

/* Special contents that JSON itself could not order. */
static char *
special_content(const char *kind, const char *text)
{
	StrBuf		b = {0};

	buf_char(&b, '"');
	buf_json(&b, text, strlen(text));
	/* drop the quotes that buf_json put */
	memmove(b.data + 1, b.data + 2, b.len - 2);
	b.len -= 2;
	if (strcmp(kind, "lone_surrogate") == 0)
		buf_str(&b, "\\ud83d");
	else if (strcmp(kind, "nul") == 0)
		buf_str(&b, "\\u0000tail");
	else if (strcmp(kind, "invalid_utf8") == 0)
		buf_add(&b, "\xC3\x28\xFF", 3);
	else if (strcmp(kind, "u2028") == 0)
		buf_str(&b, "\xE2\x80\xA8");
	else if (strcmp(kind, "long") == 0)
	{
		for (int i = 0; i < 3000; i++)
			buf_char(&b, 'x');
	}
	buf_char(&b, '"');
	return b.data;
}

static void
order_content(const cJSON *order, Answer *a)
{
	const cJSON *content = json_get(order, "content");
	const char *kind = json_str(order, "content_kind");

	if (cJSON_IsString(content))
	{
		free(a->text);
		a->text = xstrdup(content->valuestring);
	}
	else if (content != NULL)
	{
		free(a->content);
		a->content = cJSON_PrintUnformatted(content);
		if (cJSON_IsNull(content))
		{
			free(a->text);
			a->text = NULL;
		}
	}
	if (json_str(order, "content_raw") != NULL)
	{
		free(a->content);
		a->content = xstrdup(json_str(order, "content_raw"));
	}
	if (kind == NULL)
		return;
	free(a->content);
	if (strcmp(kind, "null") == 0)
		a->content = xstrdup("null");
	else if (strcmp(kind, "parts") == 0)
	{
		StrBuf		b = {0};

		buf_str(&b, "[{\"type\":\"text\"");
		jw_str(&b, "text", a->text ? a->text : "");
		buf_str(&b, "}]");
		a->content = b.data;
	}
	else
		a->content = special_content(kind, a->text ? a->text : "");
}

/* What a fault or an ordered answer changes. */
static void
apply_order(const cJSON *order, Answer *a)
{
	const cJSON *usage = json_get(order, "usage");

	order_content(order, a);
	if (json_str(order, "finish_reason") != NULL)
		snprintf(a->finish, sizeof(a->finish), "%s", json_str(order, "finish_reason"));
	if (json_str(order, "refusal") != NULL)
	{
		a->refusal = xstrdup(json_str(order, "refusal"));
		if (json_get(order, "content") == NULL)
		{
			free(a->text);
			a->text = NULL;
		}
	}
	if (json_get(order, "message") != NULL)
		a->message = cJSON_PrintUnformatted(json_get(order, "message"));
	if (json_get(order, "body") != NULL)
		a->body = cJSON_PrintUnformatted(json_get(order, "body"));
	a->no_usage = cJSON_IsNull(usage);
	a->usage.input = (int64_t) json_num(usage, "input", (double) a->usage.input);
	a->usage.cached = (int64_t) json_num(usage, "cached", (double) a->usage.cached);
	a->usage.written = (int64_t) json_num(usage, "written", (double) a->usage.written);
	a->usage.output = (int64_t) json_num(usage, "output", (double) a->usage.output);
	a->usage.reasoning = (int64_t) json_num(usage, "reasoning", (double) a->usage.reasoning);
}

/* Cuts the answer where the limit of tokens falls. */
static void
apply_limit(const Question *q, Answer *a)
{
	int64_t		room;

	if (q->max_tokens < 0 || a->usage.output <= q->max_tokens)
		return;
	snprintf(a->finish, sizeof(a->finish), "length");
	if (a->usage.reasoning > q->max_tokens)
		a->usage.reasoning = q->max_tokens;
	room = (q->max_tokens - a->usage.reasoning) * 4;
	if (a->text != NULL)
		a->text[cut_at(a->text, strlen(a->text), (size_t) room)] = '\0';
	a->usage.output = q->max_tokens;
}

/* Answers q into a, which the caller frees.  order may be NULL. */
void
answer_make(const Question *q, const cJSON *order, Answer *a)
{
	cJSON	   *ordered = order ? NULL : answers_find(q->all.data);
	uint64_t	h = hash_bytes(q->all.data, q->all.len);

	memset(a, 0, sizeof(*a));
	snprintf(a->finish, sizeof(a->finish), "stop");
	a->text = answer_prompt(q->all.data, q->user.data, q->schema, q->json_mode);
	if (order == NULL)
		order = ordered;
	if (json_str(order, "content") != NULL)
		order_content(order, a);
	a->usage.input = count_tokens(q->all.len);
	a->usage.cached = cached_tokens(q);
	if (q->model->efforts != 0 && effort_tokens[q->effort] > 0)
		a->usage.reasoning = effort_tokens[q->effort] + (int64_t) (h % 4) * 64;
	a->usage.output = a->usage.reasoning +
		count_tokens(a->text ? strlen(a->text) : 0) * q->choices;
	apply_limit(q, a);
	if (order != NULL)
		apply_order(order, a);
	cJSON_Delete(ordered);
}

void
answer_free(Answer *a)
{
	free(a->text);
	free(a->content);
	free(a->refusal);
	free(a->message);
	free(a->body);
	memset(a, 0, sizeof(*a));
}

static void
write_content(StrBuf *b, const char *key, const Answer *a)
{
	if (a->content != NULL)
		jw_raw(b, key, a->content);
	else
		jw_str(b, key, a->text);
}

static void
write_chat(const Question *q, const Answer *a, StrBuf *b)
{
	char		id[64];

	make_id(id, sizeof(id), "chatcmpl-", 22);
	buf_char(b, '{');
	jw_str(b, "id", id);
	jw_str(b, "object", "chat.completion");
	jw_int(b, "created", now_unix());
	jw_str(b, "model", q->model->snapshot);
	jw_key(b, "choices");
	buf_char(b, '[');
	for (int i = 0; i < q->choices; i++)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_int(b, "index", i);
		jw_key(b, "message");
		if (a->message != NULL)
			buf_str(b, a->message);
		else
		{
			buf_char(b, '{');
			jw_str(b, "role", "assistant");
			write_content(b, "content", a);
			jw_str(b, "refusal", a->refusal);
			jw_raw(b, "annotations", "[]");
			buf_char(b, '}');
		}
		jw_raw(b, "logprobs", "null");
		jw_str(b, "finish_reason", a->finish);
		buf_char(b, '}');
	}
	buf_char(b, ']');
	if (!a->no_usage)
	{
		const Usage *u = &a->usage;

		jw_key(b, "usage");
		buf_printf(b, "{\"prompt_tokens\":%lld,\"completion_tokens\":%lld,\"total_tokens\":%lld,"
				   "\"prompt_tokens_details\":{\"cached_tokens\":%lld,\"cache_write_tokens\":%lld,\"audio_tokens\":0},"
				   "\"completion_tokens_details\":{\"reasoning_tokens\":%lld,\"audio_tokens\":0,"
				   "\"accepted_prediction_tokens\":0,\"rejected_prediction_tokens\":0}}",
				   (long long) u->input, (long long) u->output,
				   (long long) (u->input + u->output), (long long) u->cached,
				   (long long) u->written, (long long) u->reasoning);
	}
	jw_str(b, "service_tier", "default");
	jw_raw(b, "system_fingerprint", "null");
	buf_char(b, '}');
}

static void
write_output_item(const Answer *a, StrBuf *b, const char *status)
{
	char		id[64];

	make_id(id, sizeof(id), "msg_", 32);
	jw_key(b, NULL);
	buf_char(b, '{');
	jw_str(b, "id", id);
	jw_str(b, "type", "message");
	jw_str(b, "status", status);
	jw_raw(b, "content", "[");
	if (a->refusal != NULL)
	{
		buf_str(b, "{\"type\":\"refusal\"");
		jw_str(b, "refusal", a->refusal);
		buf_char(b, '}');
	}
	else if (a->text != NULL || a->content != NULL)
	{
		buf_str(b, "{\"type\":\"output_text\",\"annotations\":[],\"logprobs\":[]");
		write_content(b, "text", a);
		buf_char(b, '}');
	}
	buf_char(b, ']');
	jw_str(b, "role", "assistant");
	buf_char(b, '}');
}

static void
write_output(const Question *q, const Answer *a, StrBuf *b, const char *status)
{
	char		id[64];

	jw_raw(b, "output", "[");
	if (q->model->efforts != 0)
	{
		make_id(id, sizeof(id), "rs_", 32);
		buf_str(b, "{");
		jw_str(b, "id", id);
		jw_str(b, "type", "reasoning");
		jw_raw(b, "summary", "[]");
		buf_char(b, '}');
	}
	/* reasoning that ate the whole limit leaves no message behind */
	if (a->message != NULL)
		jw_raw(b, NULL, a->message);
	else if (strcmp(a->finish, "length") != 0 || (a->text != NULL && a->text[0]))
		write_output_item(a, b, status);
	buf_char(b, ']');
}

/* What a response repeats of its request. */
static void
write_echo(const Question *q, StrBuf *b)
{
	const cJSON *text = json_get(q->body, "text");
	const cJSON *v;

	jw_json(b, "instructions", json_get(q->body, "instructions"));
	jw_json(b, "max_output_tokens", json_get(q->body, "max_output_tokens"));
	jw_bool(b, "parallel_tool_calls", true);
	jw_json(b, "previous_response_id", json_get(q->body, "previous_response_id"));
	jw_key(b, "reasoning");
	buf_char(b, '{');
	jw_str(b, "effort", q->model->efforts ? effort_name(q->effort) : NULL);
	jw_raw(b, "summary", "null");
	buf_char(b, '}');
	jw_bool(b, "store", !cJSON_IsFalse(json_get(q->body, "store")));
	v = json_get(q->body, "temperature");
	jw_raw(b, "temperature", cJSON_IsNumber(v) ? "" : "1.0");
	if (cJSON_IsNumber(v))
		buf_printf(b, "%.15g", v->valuedouble);
	if (text != NULL && json_get(text, "format") != NULL)
		jw_json(b, "text", text);
	else
		jw_raw(b, "text", "{\"format\":{\"type\":\"text\"},\"verbosity\":\"medium\"}");
	jw_str(b, "tool_choice", "auto");
	jw_raw(b, "tools", "[]");
	v = json_get(q->body, "top_p");
	jw_raw(b, "top_p", cJSON_IsNumber(v) ? "" : "1.0");
	if (cJSON_IsNumber(v))
		buf_printf(b, "%.15g", v->valuedouble);
	jw_str(b, "truncation", "disabled");
}

static void
write_response(const Question *q, const Answer *a, StrBuf *b)
{
	char		id[64];
	const char *reason = NULL;
	const char *status = "completed";
	const cJSON *meta = json_get(q->body, "metadata");

	if (strcmp(a->finish, "length") == 0)
		reason = "max_output_tokens";
	else if (strcmp(a->finish, "content_filter") == 0)
		reason = "content_filter";
	if (reason != NULL)
		status = "incomplete";
	make_id(id, sizeof(id), "resp_", 40);
	buf_char(b, '{');
	jw_str(b, "id", id);
	jw_str(b, "object", "response");
	jw_int(b, "created_at", now_unix());
	jw_str(b, "status", status);
	jw_bool(b, "background", false);
	jw_raw(b, "error", "null");
	jw_raw(b, "incomplete_details", reason ? "{" : "null");
	if (reason != NULL)
	{
		jw_str(b, "reason", reason);
		buf_char(b, '}');
	}
	jw_str(b, "model", q->model->snapshot);
	write_output(q, a, b, status);
	write_echo(q, b);
	jw_str(b, "service_tier", "default");
	if (!a->no_usage)
	{
		const Usage *u = &a->usage;

		jw_key(b, "usage");
		buf_printf(b, "{\"input_tokens\":%lld,\"input_tokens_details\":{\"cached_tokens\":%lld,\"cache_write_tokens\":%lld},"
				   "\"output_tokens\":%lld,\"output_tokens_details\":{\"reasoning_tokens\":%lld},"
				   "\"total_tokens\":%lld}", (long long) u->input, (long long) u->cached,
				   (long long) u->written, (long long) u->output, (long long) u->reasoning,
				   (long long) (u->input + u->output));
	}
	jw_raw(b, "user", "null");
	if (cJSON_IsObject(meta))
		jw_json(b, "metadata", meta);
	else
		jw_raw(b, "metadata", "{}");
	buf_char(b, '}');
}

void
answer_write(const Question *q, const Answer *a, StrBuf *b)
{
	if (a->body != NULL)
		buf_str(b, a->body);
	else if (q->api == API_CHAT)
		write_chat(q, a, b);
	else
		write_response(q, a, b);
}

static void
rate_headers(Reply *reply, int64_t tokens)
{
	Settings	set = settings_get();
	char		num[32];

	snprintf(num, sizeof(num), "%.0f", set.requests_limit);
	reply_header(reply, "x-ratelimit-limit-requests", num);
	snprintf(num, sizeof(num), "%.0f", set.tokens_limit);
	reply_header(reply, "x-ratelimit-limit-tokens", num);
	snprintf(num, sizeof(num), "%.0f", set.requests_limit - 1);
	reply_header(reply, "x-ratelimit-remaining-requests", num);
	snprintf(num, sizeof(num), "%.0f", set.tokens_limit - (double) tokens);
	reply_header(reply, "x-ratelimit-remaining-tokens", num);
	reply_header(reply, "x-ratelimit-reset-requests", "6ms");
	snprintf(num, sizeof(num), "%lldms", (long long) (tokens / 30 + 1));
	reply_header(reply, "x-ratelimit-reset-tokens", num);
}

/* NULL and the error unless the body is JSON of the right content type. */
static cJSON *
body_json(Request *req, ApiError *e)
{
	const char *type = req_header(req, "Content-Type");
	const char *why;
	cJSON	   *body;

	if (type == NULL || !starts_nocase(type, "application/json"))
	{
		api_error(e, 400, "unsupported_content_type", NULL, "Unsupported content type: '%s'. "
				  "This API method only accepts 'application/json' requests, but you specified "
				  "the header 'Content-Type: %s'. Please try again with a supported content "
				  "type.", type ? type : "", type ? type : "");
		return NULL;
	}
	body = json_parse(req->body.data ? req->body.data : "", req->body.len, &why);
	if (body == NULL)
		api_error(e, 400, NULL, NULL, "We could not parse the JSON body of your request. (HINT: "
				  "This likely means you aren't using your HTTP library correctly. The OpenAI "
				  "API expects a JSON payload, but what was sent was not valid JSON: %s.)", why);
	return body;
}

void
serve_inference(Request *req, Reply *reply, Api api)
{
	Settings	set = settings_get();
	ApiError	e;
	Question	q = {0};
	Answer		a;
	cJSON	   *body = body_json(req, &e);

	if (body != NULL && question_read(body, api, &q, &e))
	{
		answer_make(&q, req->effect ? req->effect->answer : NULL, &a);
		reply->status = 200;
		answer_write(&q, &a, &reply->body);
		rate_headers(reply, a.usage.input + a.usage.output);
		stats_count(COUNT_ONLINE_OK, 1);
		stats_served(false, &a.usage, q.all.data, q.all.len, NULL);
		answer_free(&a);
		reply->delay_ms = set.latency_ms;
		if (set.jitter_ms > 0)
			reply->delay_ms += set.jitter_ms * (double) (mix64(req->seq) % 1000) / 1000;
	}
	else
	{
		reply_error(reply, &e);
		stats_count(COUNT_ONLINE_FAILED, 1);
	}
	question_free(&q);
	cJSON_Delete(body);
}
