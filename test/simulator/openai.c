/*
 * openai.c
 *		The OpenAI provider: keys, routes, error objects.
 *
 * Order of the checks is that of the service: unknown path, key, method, body.
 * Files and batches belong to the key that made them (a key stands for a
 * project, with the headers that name one); another gets the same 404 as for
 * what never existed.
 */
#include "openai.h"

#include "providers.h"

#include <stdarg.h>

#define MAX_FILE		(512LL * 1024 * 1024)
#define FORM_OVERHEAD	(64 * 1024)

pthread_mutex_t openai_lock = PTHREAD_MUTEX_INITIALIZER;

/* Fills e and returns false, for "return api_error(...)". */
bool
api_error(ApiError *e, int status, const char *code, const char *param, const char *fmt,...)
{
	va_list		args;

	memset(e, 0, sizeof(*e));
	e->status = status;
	snprintf(e->type, sizeof(e->type), "%s",
			 status >= 500 ? "server_error" : "invalid_request_error");
	snprintf(e->code, sizeof(e->code), "%s", code ? code : "");
	snprintf(e->param, sizeof(e->param), "%s", param ? param : "");
	va_start(args, fmt);
	vsnprintf(e->message, sizeof(e->message), fmt, args);
	va_end(args);
	e->message[cut_at(e->message, strlen(e->message), sizeof(e->message) - 4)] = '\0';
	return false;
}

void
api_error_write(StrBuf *b, const ApiError *e)
{
	buf_str(b, "{\"error\":{");
	jw_str(b, "message", e->message);
	jw_str(b, "type", e->type);
	jw_str(b, "param", e->param[0] ? e->param : NULL);
	jw_str(b, "code", e->code[0] ? e->code : NULL);
	buf_str(b, "}}");
}

void
reply_error(Reply *reply, const ApiError *e)
{
	reply->status = e->status;
	buf_reset(&reply->body);
	api_error_write(&reply->body, e);
}

static bool
openai_claims(const Request *req)
{
	return strncmp(req->path, "/v1/", 4) == 0;
}

static void
openai_body(Request *req)
{
	if (strcmp(req->method, "POST") == 0 && strcmp(req->path, "/v1/files") == 0)
	{
		req->body_kind = BODY_FORM;
		req->body_max = MAX_FILE + FORM_OVERHEAD;
	}
}

/*
 * Files and batches belong to a project: the key's, unless headers name another
 * organization or project of the key's user.
 */
static int
named_project(const Request *req, int project)
{
	static const char *const headers[] = {"openai-organization", "openai-project"};
	uint32_t	hash = 2166136261u;
	bool		named = false;

	for (int i = 0; i < 2; i++)
	{
		const char *name = req_header(req, headers[i]);

		named = named || (name != NULL && *name != '\0');
		for (; name != NULL && *name; name++)
			hash = (hash ^ (unsigned char) *name) * 16777619u;
		hash *= 16777619u;
	}
	return named ? (int) (64 + (hash & 0x3fffff) * 64) + project : project;
}

/* Project of the key that was shown, or -1 with the error. */
static int
find_key(const Request *req, ApiError *e)
{
	const char *key = req->secret;
	size_t		len;
	char		masked[80];

	if (key == NULL || *key == '\0')
	{
		api_error(e, 401, NULL, NULL,
				  "You didn't provide an API key. You need to provide your API key in an "
				  "Authorization header using Bearer auth (i.e. Authorization: Bearer "
				  "YOUR_KEY), or as the password field (with blank username) if you're "
				  "accessing the API from your browser and are prompted for a username and "
				  "password. You can obtain an API key from "
				  "https://platform.openai.com/account/api-keys.");
		return -1;
	}
	for (int i = 0; i < sim_options.nkeys; i++)
	{
		if (strcmp(sim_options.keys[i], key) == 0)
			return named_project(req, sim_options.key_projects[i]);
	}
	len = strlen(key);
	if (len > 12)
		snprintf(masked, sizeof(masked), "%.4s************%s", key, key + len - 4);
	else
		snprintf(masked, sizeof(masked), "%.2s****", key);
	api_error(e, 401, "invalid_api_key", NULL,
			  "Incorrect API key provided: %s. You can find your API key at "
			  "https://platform.openai.com/account/api-keys.", masked);
	return -1;
}

static Api
inference_api(const Request *req, bool *is)
{
	*is = strcmp(req->method, "POST") == 0 &&
		(strcmp(req->path, "/v1/chat/completions") == 0 ||
		 strcmp(req->path, "/v1/responses") == 0);
	return strcmp(req->path, "/v1/responses") == 0 ? API_RESPONSES : API_CHAT;
}

/* What of an upload goes into the record: its fields and its size. */
static void
note_upload(Request *req)
{
	StrBuf		b = {0};

	buf_char(&b, '{');
	for (FormPart *p = form_first(req->form); p != NULL; p = p->next)
	{
		const char *name = p->name ? p->name : "";

		if (!utf8_valid(name, strlen(name)))
			name = "(not UTF-8)";
		if (p->filename == NULL)
		{
			jw_str(&b, name, utf8_valid(p->value.data, p->value.len) ? p->value.data : "?");
			continue;
		}
		jw_key(&b, name);
		buf_char(&b, '{');
		jw_str(&b, "filename", utf8_valid(p->filename, strlen(p->filename)) ? p->filename : "?");
		jw_str(&b, "content_type", p->content_type);
		jw_int(&b, "bytes", p->bytes);
		buf_char(&b, '}');
	}
	buf_char(&b, '}');
	req->note = b.data;
}

static void
openai_prepare(Request *req)
{
	const char *auth = req_header(req, "Authorization");
	Api			api = inference_api(req, &req->inference);

	if (auth != NULL && starts_nocase(auth, "Bearer "))
		req->secret = trim_copy(auth + 7, strlen(auth + 7));
	if (req->body_kind == BODY_FORM)
		note_upload(req);
	if (req->inference && faults_any(ON_REQUEST))
	{
		const char *why;
		cJSON	   *body = json_parse(req->body.data ? req->body.data : "", req->body.len, &why);

		prompt_text(body, api, &req->prompt);
		cJSON_Delete(body);
	}
}

static void
not_allowed(const Request *req, Reply *reply)
{
	ApiError	e;

	api_error(&e, 405, NULL, NULL, "Not allowed to %s on %s (HINT: Perhaps you meant to use "
			  "a different HTTP method?)", req->method, req->path);
	reply_error(reply, &e);
}

static void
route(Request *req, Reply *reply, int key)
{
	const char *path = req->path + strlen("/v1");
	bool		get = strcmp(req->method, "GET") == 0;
	bool		post = strcmp(req->method, "POST") == 0;

	if (strcmp(path, "/chat/completions") == 0 && post)
		serve_inference(req, reply, API_CHAT);
	else if (strcmp(path, "/responses") == 0 && post)
		serve_inference(req, reply, API_RESPONSES);
	else if (strcmp(path, "/models") == 0 && get)
		models_list(reply);
	else if (strncmp(path, "/models/", 8) == 0 && get)
		models_get(path + 8, reply);
	else if (strcmp(path, "/files") == 0 && post)
		files_upload(req, reply, key);
	else if (strcmp(path, "/files") == 0 && get)
		files_list(req, reply, key);
	else if (strncmp(path, "/files/", 7) == 0)
		files_one(req, reply, key, path + 7);
	else if (strcmp(path, "/batches") == 0 && post)
		batches_create(req, reply, key);
	else if (strcmp(path, "/batches") == 0 && get)
		batches_list(req, reply, key);
	else if (strncmp(path, "/batches/", 9) == 0)
		batches_one(req, reply, key, path + 9);
	else
		not_allowed(req, reply);
}

static bool
known_path(const char *path)
{
	static const char *const exact[] = {"/v1/chat/completions", "/v1/responses",
	"/v1/models", "/v1/files", "/v1/batches", NULL};

	for (int i = 0; exact[i] != NULL; i++)
	{
		if (strcmp(path, exact[i]) == 0)
			return true;
	}
	return strncmp(path, "/v1/models/", 11) == 0 || strncmp(path, "/v1/files/", 10) == 0 ||
		strncmp(path, "/v1/batches/", 12) == 0;
}

static void
openai_serve(Request *req, Reply *reply)
{
	ApiError	e;
	int			key;

	reply_header(reply, "openai-version", "2020-10-01");
	reply_header(reply, "openai-processing-ms", "7");
	if (!known_path(req->path))
		api_error(&e, 404, NULL, NULL, "Invalid URL (%s %s)", req->method, req->path);
	else if ((key = find_key(req, &e)) >= 0)
	{
		if (!req->too_large)
		{
			reply_header(reply, "openai-organization", "org-simulated");
			route(req, reply, key);
			return;
		}
		api_error(&e, 413, NULL, NULL, "Maximum content size limit (%lld) exceeded (%lld bytes "
				  "read)", (long long) req->body_max, (long long) req->body_bytes);
	}
	reply_error(reply, &e);
}

/* The body that usually goes with an error status. */
static void
openai_fault_body(int status, StrBuf *out)
{
	ApiError	e;

	if (status == 429)
	{
		api_error(&e, 429, "rate_limit_exceeded", NULL, "Rate limit reached for requests. "
				  "Please try again later.");
		snprintf(e.type, sizeof(e.type), "requests");
	}
	else if (status == 401)
		api_error(&e, 401, "invalid_api_key", NULL, "Incorrect API key provided.");
	else if (status == 404)
		api_error(&e, 404, NULL, NULL, "Not found.");
	else if (status >= 500)
		api_error(&e, status, NULL, NULL, "The server had an error while processing your "
				  "request. Sorry about that!");
	else if (status >= 400)
		api_error(&e, status, NULL, NULL, "The request was refused.");
	else
		return;
	api_error_write(out, &e);
}

const Provider openai_provider = {
	.name = "openai", .claims = openai_claims, .body = openai_body, .prepare = openai_prepare,
	.serve = openai_serve, .fault_body = openai_fault_body
};

void
openai_start(void)
{
	runner_start();
}

void
openai_stop(void)
{
	runner_stop();
	batches_clear();
	files_clear();
	inference_reset();
}

/* Forgets all files and batches, as if newly started. */
void
openai_reset(void)
{
	openai_stop();
	openai_start();
}

void
openai_stats(StrBuf *b)
{
	int			active = 0;

	jw_int(b, "files_alive", files_alive());
	pthread_mutex_lock(&openai_lock);
	for (Batch *x = batches_newest(); x != NULL; x = x->older)
		active += !batch_final(x);
	pthread_mutex_unlock(&openai_lock);
	jw_int(b, "batches_active", active);
}
