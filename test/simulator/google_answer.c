/*
 * google_answer.c
 *		GenerateContentResponse, and online calls.
 *
 * The text and the tokens are those that the same prompt gets under OpenAI.
 * candidatesTokenCount does not include the thoughts; what is zero is left
 * out, as proto JSON does.
 */
#include "google_content.h"

#include "answer.h"

static const char *
finish_reason(const char *finish)
{
	if (strcmp(finish, "stop") == 0)
		return "STOP";
	if (strcmp(finish, "length") == 0)
		return "MAX_TOKENS";
	if (strcmp(finish, "content_filter") == 0)
		return "SAFETY";
	return finish;
}

static void
jw_count(StrBuf *b, const char *key, int64_t n)
{
	if (n != 0)
		jw_int(b, key, n);
}

static void
write_details(StrBuf *b, const char *key, int64_t n)
{
	if (n == 0)
		return;
	jw_key(b, key);
	buf_printf(b, "[{\"modality\":\"TEXT\",\"tokenCount\":%lld}]", (long long) n);
}

static void
write_usage(const GQuestion *g, const Usage *u, StrBuf *b)
{
	int64_t		candidates = u->output - u->reasoning;

	jw_raw(b, "usageMetadata", "{");
	jw_count(b, "promptTokenCount", u->input);
	jw_count(b, "candidatesTokenCount", candidates);
	jw_count(b, "totalTokenCount", u->input + u->output);
	jw_count(b, "cachedContentTokenCount", u->cached);
	if (g->vertex)
		jw_str(b, "trafficType", "ON_DEMAND");
	write_details(b, "promptTokensDetails", u->input);
	write_details(b, "cacheTokensDetails", u->cached);
	if (g->vertex)
		write_details(b, "candidatesTokensDetails", candidates);
	jw_count(b, "thoughtsTokenCount", u->reasoning);
	buf_char(b, '}');
}

static void
text_part(StrBuf *b, const char *text, size_t len)
{
	jw_key(b, NULL);
	buf_str(b, "{\"text\":");
	buf_json(b, text, len);
	buf_char(b, '}');
}

/* The parts of the answer; false if there are none. */
static bool
write_parts(const GQuestion *g, const Answer *a, const cJSON *order, StrBuf *b)
{
	size_t		from = b->len;
	const char *thought = json_str(order, "thoughts");

	if (thought == NULL && g->thoughts && a->usage.reasoning > 0)
		thought = "**Reading the question**\n\nI look at what the text says.";
	if (thought != NULL)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_bool(b, "thought", true);
		jw_str(b, "text", thought);
		buf_char(b, '}');
	}
	if (a->content != NULL && a->content[0] == '[' && a->text != NULL)
	{
		/* one answer in two parts */
		size_t		half = cut_at(a->text, strlen(a->text), strlen(a->text) / 2);

		text_part(b, a->text, half);
		text_part(b, a->text + half, strlen(a->text) - half);
	}
	else if (a->content != NULL && strcmp(a->content, "null") != 0)
	{
		jw_raw(b, NULL, "{\"text\":");
		buf_str(b, a->content);
		buf_char(b, '}');
	}
	else if (a->content == NULL && a->text != NULL && a->text[0] != '\0')
		text_part(b, a->text, strlen(a->text));
	return b->len > from;
}

static void
write_candidate(const GQuestion *g, const Answer *a, const cJSON *order, int i, StrBuf *b)
{
	StrBuf		parts = {0};

	jw_key(b, NULL);
	buf_char(b, '{');
	if (a->message != NULL)
		jw_raw(b, "content", a->message);
	else if (a->refusal == NULL)
	{
		jw_raw(b, "content", "{");
		if (write_parts(g, a, order, &parts))
		{
			jw_raw(b, "parts", "[");
			buf_add(b, parts.data, parts.len);
			buf_char(b, ']');
		}
		jw_str(b, "role", "model");
		buf_char(b, '}');
	}
	jw_str(b, "finishReason", a->refusal ? "SAFETY" : finish_reason(a->finish));
	if (a->refusal != NULL)
		jw_str(b, "finishMessage", a->refusal);
	if (!g->vertex || i > 0)
		jw_int(b, "index", i);
	if (g->vertex)
		jw_raw(b, "avgLogprobs", "-0.0123");
	buf_char(b, '}');
	buf_free(&parts);
}

static void
write_answer(const GQuestion *g, const Answer *a, const cJSON *order, StrBuf *b)
{
	const char *block = json_str(order, "block_reason");
	char		id[64];

	make_id(id, sizeof(id), "", 23);
	buf_char(b, '{');
	if (block != NULL)
	{
		jw_raw(b, "promptFeedback", "{");
		jw_str(b, "blockReason", block);
		buf_char(b, '}');
	}
	else if (!json_true(order, "no_candidates"))
	{
		jw_raw(b, "candidates", "[");
		for (int i = 0; i < g->q.choices; i++)
			write_candidate(g, a, order, i, b);
		buf_char(b, ']');
	}
	if (!a->no_usage)
		write_usage(g, &a->usage, b);
	jw_str(b, "modelVersion", g->model->base.snapshot);
	if (g->vertex)
		jw_stamp(b, "createTime", real_ms());
	jw_str(b, "responseId", id);
	buf_char(b, '}');
}

/*
 * Answers the question, as order (which may be NULL) or an ordered answer
 * says.  False if the model was not asked at all: the prompt is blocked.
 */
bool
ganswer_write(const GQuestion *g, const cJSON *order, Usage *usage, StrBuf *b)
{
	cJSON	   *ordered = order ? NULL : answers_find(g->q.all.data);
	bool		blocked;
	Answer		a;

	if (order == NULL)
		order = ordered;
	blocked = json_str(order, "block_reason") != NULL;
	answer_make(&g->q, order, &a);
	if (g->bare_enum && a.text != NULL && a.text[0] == '"' && strlen(a.text) > 1)
	{
		memmove(a.text, a.text + 1, strlen(a.text));
		a.text[strlen(a.text) - 1] = '\0';
	}
	if (blocked)
		a.usage.output = a.usage.reasoning = 0;
	if (a.body != NULL)
		buf_str(b, a.body);
	else
		write_answer(g, &a, order, b);
	*usage = a.usage;
	answer_free(&a);
	cJSON_Delete(ordered);
	return !blocked;
}

/* :generateContent */
void
serve_generate(Request *req, Reply *reply, const GModel *model, By who)
{
	Settings	set = settings_get();
	GQuestion	g = {0};
	GError		e;
	Usage		usage;
	cJSON	   *body = google_body(req, &e);

	if (body != NULL && gquestion_read(body, model, who == BY_VERTEX, &g, &e))
	{
		reply->status = 200;
		reply->content_type = "application/json; charset=UTF-8";
		ganswer_write(&g, req->effect ? req->effect->answer : NULL, &usage, &reply->body);
		stats_count_by(who, COUNT_ONLINE_OK, 1);
		stats_served(false, &usage, g.q.all.data, g.q.all.len, NULL);
		stats_used_by(who, false, &usage);
		reply->delay_ms = set.latency_ms;
		if (set.jitter_ms > 0)
			reply->delay_ms += set.jitter_ms * (double) (mix64(req->seq) % 1000) / 1000;
	}
	else
	{
		gerror_reply(reply, &e);
		stats_count_by(who, COUNT_ONLINE_FAILED, 1);
	}
	gquestion_free(&g);
	cJSON_Delete(body);
}
