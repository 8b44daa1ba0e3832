/*
 * google_metadata.c
 *		The metadata server of a virtual machine, as far as tokens need it.
 */
#include "google.h"

#include "providers.h"

#define ROOT	"/computeMetadata/v1"

static bool
metadata_claims(const Request *req)
{
	return strncmp(req->path, "/computeMetadata/", 17) == 0 || strcmp(req->path, "/") == 0;
}

static void
plain(Reply *reply, int status, const char *text)
{
	reply->status = status;
	reply->content_type = status == 200 ? "application/text" : "text/html; charset=UTF-8";
	buf_str(&reply->body, text);
}

static void
serve_metadata_token(Request *req, Reply *reply)
{
	char	   *scopes = req_query(req, "scopes");
	Settings	set = settings_get();

	if (scopes != NULL && strstr(scopes, "https://www.googleapis.com/auth/") == NULL)
		plain(reply, 403, "The scope is not permitted for this service account.");
	else
	{
		reply->status = 200;
		buf_char(&reply->body, '{');
		jw_str(&reply->body, "access_token",
			   token_issue(TOKEN_METADATA, scopes ? scopes : SCOPE_CLOUD, set.token_seconds));
		jw_int(&reply->body, "expires_in", (int64_t) set.token_seconds);
		jw_str(&reply->body, "token_type", "Bearer");
		buf_char(&reply->body, '}');
	}
	free(scopes);
}

/* What follows the account's name in the path. */
static void
serve_account(Request *req, Reply *reply, const char *what)
{
	if (strcmp(what, "token") == 0)
		serve_metadata_token(req, reply);
	else if (strcmp(what, "email") == 0)
		plain(reply, 200, service_account_email());
	else if (strcmp(what, "scopes") == 0)
		plain(reply, 200, SCOPE_CLOUD "\n");
	else if (strcmp(what, "aliases") == 0)
		plain(reply, 200, "default\n");
	else if (*what == '\0')
	{
		reply->status = 200;
		buf_char(&reply->body, '{');
		jw_raw(&reply->body, "aliases", "[\"default\"]");
		jw_str(&reply->body, "email", service_account_email());
		jw_raw(&reply->body, "scopes", "[\"" SCOPE_CLOUD "\"]");
		buf_char(&reply->body, '}');
	}
	else
		plain(reply, 404, "The requested URL was not found on this server.");
}

static void
metadata_serve(Request *req, Reply *reply)
{
	const char *flavor = req_header(req, "Metadata-Flavor");
	const char *path = req->path;
	const char *email = service_account_email();
	size_t		len = strlen(email);

	reply_header(reply, "Metadata-Flavor", "Google");
	if (strcmp(req->method, "GET") != 0)
		plain(reply, 405, "Method not allowed.");
	else if (strcmp(path, "/") == 0)
		plain(reply, 200, "computeMetadata/\n");
	else if (flavor == NULL || strcmp(flavor, "Google") != 0)
		plain(reply, 403, "Missing Metadata-Flavor:Google header.");
	else if (req_header(req, "X-Forwarded-For") != NULL)
		plain(reply, 403, "Request with X-Forwarded-For header is not allowed.");
	else if (strncmp(path, ROOT "/", sizeof(ROOT)) != 0)
		plain(reply, 404, "The requested URL was not found on this server.");
	else if (path += sizeof(ROOT), strcmp(path, "project/project-id") == 0)
		plain(reply, 200, google_project());
	else if (strcmp(path, "project/numeric-project-id") == 0)
		plain(reply, 200, PROJECT_NUMBER);
	else if (strcmp(path, "universe/universe-domain") == 0 ||
			 strcmp(path, "universe/universe_domain") == 0)
		plain(reply, 200, "googleapis.com");
	else if (strcmp(path, "instance") == 0 || strcmp(path, "instance/") == 0)
		plain(reply, 200, "id\nname\nservice-accounts/\nzone\n");
	else if (strncmp(path, "instance/service-accounts/default/", 34) == 0)
		serve_account(req, reply, path + 34);
	else if (strncmp(path, "instance/service-accounts/", 26) == 0 &&
			 strncmp(path + 26, email, len) == 0 && path[26 + len] == '/')
		serve_account(req, reply, path + 27 + len);
	else
		plain(reply, 404, "The requested URL was not found on this server.");
}

static void
metadata_fault_body(int status, StrBuf *out)
{
	if (status >= 400)
		buf_str(out, "The metadata server says no.");
}

const Provider google_metadata_provider = {
	.name = "metadata", .claims = metadata_claims, .serve = metadata_serve,
	.fault_body = metadata_fault_body
};
