/*
 * control.c
 *		/_sim/: what tests ask of the simulator itself.  No key is needed.
 */
#include "answer.h"
#include "faults.h"
#include "providers.h"
#include "record.h"

static bool
control_claims(const Request *req)
{
	return strncmp(req->path, "/_sim/", 6) == 0;
}

static void
refuse(Reply *reply, int status, const char *why)
{
	reply->status = status;
	buf_reset(&reply->body);
	buf_char(&reply->body, '{');
	jw_str(&reply->body, "error", why);
	buf_char(&reply->body, '}');
}

static void
serve_requests(Request *req, Reply *reply)
{
	char	   *since = req_query(req, "since");
	char	   *path = req_query(req, "path");
	char	   *method = req_query(req, "method");
	char	   *limit = req_query(req, "limit");

	record_write(&reply->body, since ? strtoll(since, NULL, 10) : 0, path, method,
				 limit ? strtoll(limit, NULL, 10) : 1000);
	free(since);
	free(path);
	free(method);
	free(limit);
}

static void
serve_stats(Reply *reply)
{
	buf_char(&reply->body, '{');
	jw_key(&reply->body, "uptime_ms");
	buf_printf(&reply->body, "%.0f", now_ms());
	stats_write(&reply->body);
	openai_stats(&reply->body);
	google_stats(&reply->body);
	buf_char(&reply->body, '}');
}

static void
serve_reset(Reply *reply)
{
	faults_clear();
	answers_clear();
	settings_reset();
	openai_reset();
	google_reset();
	record_reset();
	stats_reset();
	buf_str(&reply->body, "{\"reset\":true}");
}

static void
serve_post(const char *what, const cJSON *json, Reply *reply)
{
	char		why[200] = "";

	if (strcmp(what, "faults") == 0)
	{
		if (faults_add(json, why, sizeof(why)))
			faults_write(&reply->body);
	}
	else if (strcmp(what, "answers") == 0)
	{
		if (answers_add(json, why, sizeof(why)))
			answers_write(&reply->body);
	}
	else if (strcmp(what, "release") == 0)
		hold_release(json, &reply->body, why, sizeof(why));
	else if (strcmp(what, "tokens") == 0)
	{
		if (google_revoke(json, why, sizeof(why)))
			google_tokens(&reply->body);
	}
	else if (settings_set(json, why, sizeof(why)))
		settings_write(&reply->body);
	if (*why)
		refuse(reply, 400, why);
}

static void
control_serve(Request *req, Reply *reply)
{
	const char *what = req->path + strlen("/_sim/");
	bool		get = strcmp(req->method, "GET") == 0;
	bool		post = strcmp(req->method, "POST") == 0;
	bool		delete = strcmp(req->method, "DELETE") == 0;
	bool		list = strcmp(what, "faults") == 0 || strcmp(what, "answers") == 0;

	reply->status = 200;
	if (post && strcmp(what, "reset") == 0)
		serve_reset(reply);
	else if (post && (list || strcmp(what, "settings") == 0 ||
							  strcmp(what, "tokens") == 0 || strcmp(what, "release") == 0))
	{
		const char *why;
		cJSON	   *json = json_parse(req->body.data ? req->body.data : "", req->body.len, &why);

		if (json == NULL)
			refuse(reply, 400, why);
		else
			serve_post(what, json, reply);
		cJSON_Delete(json);
	}
	else if (get && strcmp(what, "requests") == 0)
		serve_requests(req, reply);
	else if (get && strcmp(what, "held") == 0)
		hold_write(&reply->body);
	else if (get && strcmp(what, "stats") == 0)
		serve_stats(reply);
	else if (get && strcmp(what, "settings") == 0)
		settings_write(&reply->body);
	else if (get && strcmp(what, "tokens") == 0)
		google_tokens(&reply->body);
	else if (get && strcmp(what, "faults") == 0)
		faults_write(&reply->body);
	else if (get && strcmp(what, "answers") == 0)
		answers_write(&reply->body);
	else if ((delete && list) || (post && (strcmp(what, "faults/clear") == 0 ||
										   strcmp(what, "answers/clear") == 0)))
	{
		if (strncmp(what, "faults", 6) == 0)
			faults_clear();
		else
			answers_clear();
		buf_str(&reply->body, "[]");
	}
	else if (get && strcmp(what, "ping") == 0)
		buf_str(&reply->body, "{\"ok\":true}");
	else
		refuse(reply, 404, "no such control");
}

const Provider control_provider = {
	.name = "control", .claims = control_claims, .serve = control_serve
};
