/*
 * vertex.c
 *		Vertex AI: routes, the names of models, online calls.
 */
#include "vertex.h"

#include "providers.h"

/* "gs://bucket/name"; the parts are to be freed. */
bool
gs_split(const char *uri, char **bucket, char **name)
{
	size_t		len;

	if (uri == NULL || strncmp(uri, "gs://", 5) != 0)
		return false;
	uri += 5;
	len = strcspn(uri, "/");
	if (len == 0)
		return false;
	*bucket = xstrndup(uri, len);
	*name = xstrdup(uri[len] ? uri + len + 1 : "");
	return true;
}

/* A model as a job names it, below a project or not. */
bool
vertex_model(const char *name, const GModel **model, GError *e)
{
	const char *at = name ? strstr(name, "publishers/") : NULL;

	if (name == NULL || at == NULL || (at != name && strncmp(name, "projects/", 9) != 0))
		return gerror(e, 400, "List of found errors:\t1.Field: batch_prediction_job.model; "
					  "Message: Invalid Model resource name.\t");
	*model = strncmp(at, "publishers/google/models/", 25) == 0 ? gmodel_find(at + 25) : NULL;
	return *model != NULL ||
		gerror(e, 404, "Publisher Model `%.200s` was not found or your project does not have "
			   "access to it. Please ensure you are using a valid model version. For more "
			   "information, see: https://cloud.google.com/vertex-ai/generative-ai/docs/learn/"
			   "model-versions", name);
}

static bool
vertex_claims(const Request *req)
{
	return strncmp(req->path, "/v1/projects/", 13) == 0 ||
		strncmp(req->path, "/v1beta1/projects/", 18) == 0 ||
		strncmp(req->path, "/v1beta1/publishers/", 20) == 0 ||
		strncmp(req->path, "/v1/publishers/", 15) == 0;
}

static bool
is_generate(const Request *req)
{
	const char *at = strstr(req->path, "/publishers/google/models/");

	return strcmp(req->method, "POST") == 0 && at != NULL &&
		strstr(at, ":generateContent") != NULL;
}

static void
vertex_prepare(Request *req)
{
	bearer_secret(req);
	req->inference = is_generate(req);
	if (req->inference && faults_any(ON_REQUEST))
	{
		const char *why;
		cJSON	   *body = json_parse(req->body.data ? req->body.data : "", req->body.len, &why);

		gprompt_text(body, &req->prompt);
		cJSON_Delete(body);
	}
}

static void
serve_model(Request *req, Reply *reply, char *name)
{
	char	   *colon = strrchr(name, ':');
	const GModel *model;
	StrBuf		full = {0};
	GError		e;

	if (colon == NULL || strcmp(colon, ":generateContent") != 0)
	{
		gerror(&e, 404, "Method not found.");
		gerror_reply(reply, &e);
		return;
	}
	*colon = '\0';
	buf_printf(&full, "projects/%s/locations/x/publishers/google/models/%s", google_project(),
			   name);
	if (vertex_model(full.data, &model, &e))
		serve_generate(req, reply, model, BY_VERTEX);
	else
		gerror_reply(reply, &e);
	buf_free(&full);
}

static bool
check_place(char **seg, GError *e)
{
	if (!own_project(seg[2]))
	{
		gerror(e, 403, "Permission 'aiplatform.endpoints.predict' denied on resource "
			   "'//aiplatform.googleapis.com/projects/%.100s/locations/%.100s' (or it may not "
			   "exist).", seg[2], seg[4]);
		snprintf(e->details, sizeof(e->details), "{\"@type\":\"type.googleapis.com/google.rpc."
				 "ErrorInfo\",\"reason\":\"IAM_PERMISSION_DENIED\",\"domain\":"
				 "\"aiplatform.googleapis.com\"}");
		return false;
	}
	if (seg[4][0] == '\0' || strspn(seg[4], "abcdefghijklmnopqrstuvwxyz0123456789-") !=
		strlen(seg[4]))
		return gerror(e, 400, "Unsupported region for Vertex AI, select from {asia-east1, "
					  "europe-west4, us-central1, us-east1}.");
	return true;
}

/* projects/P/locations/L and what follows. */
static void
route(Request *req, Reply *reply, char **seg, int n)
{
	bool		get = strcmp(req->method, "GET") == 0;
	bool		post = strcmp(req->method, "POST") == 0;
	GError		e;

	if (n < 6 || strcmp(seg[1], "projects") != 0 || strcmp(seg[3], "locations") != 0)
		gerror(&e, 404, "Not found.");
	else if (req->too_large)
		gerror(&e, 413, "Request payload size exceeds the limit.");
	else if (token_check(req, SCOPE_CLOUD, &e) && check_place(seg, &e))
	{
		gerror(&e, 404, "Method not found.");
		if (strcmp(seg[5], "batchPredictionJobs") == 0 && n == 6 && post)
			vertex_create(req, reply, seg[4]);
		else if (strcmp(seg[5], "batchPredictionJobs") == 0 && n == 6 && get)
			vertex_list(req, reply, seg[4]);
		else if (strcmp(seg[5], "batchPredictionJobs") == 0 && n == 7)
			vertex_one(req, reply, seg[4], seg[6]);
		else if (n == 9 && strcmp(seg[5], "publishers") == 0 && strcmp(seg[6], "google") == 0 &&
				 strcmp(seg[7], "models") == 0 && post)
			serve_model(req, reply, seg[8]);
		else
			gerror_reply(reply, &e);
		return;
	}
	gerror_reply(reply, &e);
}

/* publishers/google/models: which models there are, in v1beta1. */
static void
serve_publisher(Request *req, Reply *reply, char **seg, int n)
{
	GError		e;
	const GModel *m;

	if (!token_check(req, SCOPE_CLOUD, &e))
	{
		gerror_reply(reply, &e);
		return;
	}
	m = n == 5 ? gmodel_find(seg[4]) : NULL;
	if (m == NULL || strcmp(req->method, "GET") != 0 || strcmp(seg[2], "google") != 0)
	{
		gerror(&e, 404, "Publisher Model `%.200s` is not found.", n == 5 ? seg[4] : "");
		gerror_reply(reply, &e);
		return;
	}
	reply->status = 200;
	buf_printf(&reply->body, "{\"name\":\"publishers/google/models/%s\",\"versionId\":\"default\","
			   "\"openSourceCategory\":\"PROPRIETARY\",\"launchStage\":\"GA\"}", m->base.name);
}

static void
vertex_serve(Request *req, Reply *reply)
{
	char	   *seg[12];
	int			n = split_path(req->path, seg, 12);

	reply->content_type = "application/json; charset=UTF-8";
	if (n >= 2 && strcmp(seg[1], "publishers") == 0)
		serve_publisher(req, reply, seg, n);
	else
		route(req, reply, seg, n);
	free_path(seg, n);
}

const Provider vertex_provider = {
	.name = "vertex", .claims = vertex_claims, .prepare = vertex_prepare, .serve = vertex_serve,
	.fault_body = google_fault_body
};
