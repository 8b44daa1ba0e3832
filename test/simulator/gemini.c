/*
 * gemini.c
 *		The Gemini API: keys, routes, models, online calls.
 *
 * Below /v1 it shares names with OpenAI: there a request is for Gemini when
 * it shows its key the way Google wants it.
 */
#include "gemini.h"

#include "providers.h"

#include <ctype.h>

#define MAX_BODY	(20LL * 1024 * 1024)
#define MAX_FILE	(2LL * 1024 * 1024 * 1024)

/* Small letters and digits, as the ids of files and batches are. */
void
lower_id(char *dst, size_t size, int chars)
{
	make_id(dst, size, "", chars);
	for (char *p = dst; *p; p++)
		*p = (char) tolower((unsigned char) *p);
}

static bool
shows_key(const Request *req)
{
	const char *q = req->query;

	return req_header(req, "x-goog-api-key") != NULL || strncmp(q, "key=", 4) == 0 ||
		strstr(q, "&key=") != NULL;
}

static bool
gemini_claims(const Request *req)
{
	const char *p = req->path;

	if (strncmp(p, "/v1beta/", 8) == 0 || strncmp(p, "/v1alpha/", 9) == 0 ||
		strncmp(p, "/upload/v1", 10) == 0 || strncmp(p, "/download/v1", 12) == 0)
		return true;
	return strncmp(p, "/v1/", 4) == 0 && (shows_key(req) ||
										  strstr(p, "GenerateContent") != NULL ||
										  strstr(p, ":generateContent") != NULL);
}

static void
gemini_body(Request *req)
{
	const char *command = req_header(req, "X-Goog-Upload-Command");

	req->body_max = MAX_BODY;
	if (strncmp(req->path, "/upload/", 8) == 0 && command != NULL &&
		find_nocase(command, "start") == NULL)
	{
		req->body_kind = BODY_FILE;
		req->body_max = MAX_FILE + 1;
	}
}

static void
gemini_prepare(Request *req)
{
	const char *key = req_header(req, "x-goog-api-key");

	req->secret = key ? xstrdup(key) : req_query(req, "key");
	req->inference = strcmp(req->method, "POST") == 0 &&
		strstr(req->path, ":generateContent") != NULL;
	if (req->inference && faults_any(ON_REQUEST))
	{
		const char *why;
		cJSON	   *body = json_parse(req->body.data ? req->body.data : "", req->body.len, &why);

		gprompt_text(body, &req->prompt);
		cJSON_Delete(body);
	}
}

static int
bad_key(GError *e)
{
	static const char text[] = "API key not valid. Please pass a valid API key.";

	gerror(e, 400, "%s", text);
	snprintf(e->details, sizeof(e->details),
			 "{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":"
			 "\"API_KEY_INVALID\",\"domain\":\"googleapis.com\",\"metadata\":{\"service\":"
			 "\"generativelanguage.googleapis.com\"}},{\"@type\":\"type.googleapis.com/"
			 "google.rpc.LocalizedMessage\",\"locale\":\"en-US\",\"message\":\"%s\"}", text);
	return -1;
}

/* Index of the key that was shown, or -1 with the error. */
int
gemini_key(const Request *req, GError *e)
{
	if (req->secret == NULL || *req->secret == '\0')
	{
		gerror(e, 403, "Method doesn't allow unregistered callers (callers without established "
			   "identity). Please use API Key or other form of API consumer identity to call "
			   "this API.");
		return -1;
	}
	for (int i = 0; i < sim_options.nkeys; i++)
	{
		if (strcmp(sim_options.keys[i], req->secret) == 0)
			return sim_options.key_projects[i];
	}
	return bad_key(e);
}

static void
model_write(StrBuf *b, const GModel *m)
{
	jw_key(b, NULL);
	buf_printf(b, "{\"name\":\"models/%s\",\"version\":\"001\",\"displayName\":\"%s\","
			   "\"description\":\"Simulated.\",\"inputTokenLimit\":1048576,"
			   "\"outputTokenLimit\":65536,\"supportedGenerationMethods\":[\"generateContent\","
			   "\"countTokens\",\"createCachedContent\",\"batchGenerateContent\"],"
			   "\"temperature\":1,\"topP\":0.95,\"topK\":64,\"maxTemperature\":2,"
			   "\"thinking\":true}", m->base.name, m->title);
}

static void
models_list_write(Request *req, Reply *reply)
{
	StrBuf	   *b = &reply->body;
	char	   *after = NULL;
	long		size;
	bool		on;
	GError		e;
	const GModel *m;
	const GModel *last = NULL;

	if (!gemini_page(req, 50, 1000, &size, &after, &e))
	{
		gerror_reply(reply, &e);
		free(after);
		return;
	}
	on = after == NULL;
	buf_str(b, "{\"models\":[");
	for (int i = 0; (m = gmodel_at(i)) != NULL; i++)
	{
		if (!on)
		{
			on = strcmp(m->base.name, after) == 0;
			continue;
		}
		if (size-- == 0)
			break;
		model_write(b, m);
		last = m;
	}
	buf_char(b, ']');
	if (m != NULL && last != NULL)
		gemini_token(b, last->base.name);
	buf_char(b, '}');
	reply->status = 200;
	free(after);
}

/* models/NAME, perhaps with a verb. */
static void
serve_model(Request *req, Reply *reply, int key, char *name)
{
	char	   *colon = strchr(name, ':');
	bool		post = strcmp(req->method, "POST") == 0;
	const GModel *m;
	GError		e;

	if (colon != NULL)
		*colon++ = '\0';
	m = gmodel_find(name);
	if (m == NULL)
		gerror(&e, 404, "models/%.100s is not found for API version v1beta, or is not supported "
			   "for %.60s. Call ModelService.ListModels to see the list of available models and "
			   "their supported methods.", name, colon ? colon : "GetModel");
	else if (colon == NULL && !post)
	{
		reply->status = 200;
		model_write(&reply->body, m);
		return;
	}
	else if (post && colon != NULL && strcmp(colon, "generateContent") == 0)
	{
		serve_generate(req, reply, m, BY_GEMINI);
		return;
	}
	else if (post && colon != NULL && strcmp(colon, "batchGenerateContent") == 0)
	{
		gemini_create(req, reply, key, m);
		return;
	}
	else
		gerror(&e, 404, "Method not found.");
	gerror_reply(reply, &e);
}

/* VERSION, what, and an id. */
static void
route(Request *req, Reply *reply, int key, char **seg, int n)
{
	bool		get = strcmp(req->method, "GET") == 0;
	const char *what = n > 1 ? seg[1] : "";
	GError		e;

	if (strcmp(what, "models") == 0 && n == 2 && get)
		models_list_write(req, reply);
	else if (strcmp(what, "models") == 0 && n == 3)
		serve_model(req, reply, key, seg[2]);
	else if (strcmp(what, "files") == 0 && n == 2 && get)
		gemini_files_list(req, reply, key);
	else if (strcmp(what, "files") == 0 && n == 3)
		gemini_file(req, reply, key, seg[2], false);
	else if (strcmp(what, "batches") == 0 && n == 2 && get)
		gemini_batches_list(req, reply, key);
	else if (strcmp(what, "batches") == 0 && n == 3)
		gemini_batch(req, reply, key, seg[2]);
	else
	{
		gerror(&e, 404, "Requested entity was not found.");
		gerror_reply(reply, &e);
	}
}

static void
gemini_serve(Request *req, Reply *reply)
{
	char	   *seg[8];
	int			n = split_path(req->path, seg, 8);
	GError		e;
	int			key;

	reply->content_type = "application/json; charset=UTF-8";
	if (req->too_large)
	{
		gerror(&e, 400, "Request payload size exceeds the limit: %lld bytes. Please reduce the "
			   "size of the request.", (long long) req->body_max);
		gerror_reply(reply, &e);
	}
	else if (n >= 3 && strcmp(seg[0], "upload") == 0 && strcmp(seg[2], "files") == 0)
		gemini_upload(req, reply);
	else if ((key = gemini_key(req, &e)) < 0)
		gerror_reply(reply, &e);
	else if (n == 4 && strcmp(seg[0], "download") == 0 && strcmp(seg[2], "files") == 0)
		gemini_file(req, reply, key, seg[3], true);
	else
		route(req, reply, key, seg, n);
	free_path(seg, n);
}

const Provider gemini_provider = {
	.name = "gemini", .claims = gemini_claims, .body = gemini_body, .prepare = gemini_prepare,
	.serve = gemini_serve, .fault_body = google_fault_body, .broken = gemini_broken
};
