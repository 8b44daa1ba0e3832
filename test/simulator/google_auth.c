/*
 * google_auth.c
 *		The token endpoint, the security token service, and impersonation.
 *
 * The credential files that the simulator writes are the only ones it knows:
 * one service account, one user, one federated identity.  What the extension
 * signs is verified with the public half of the key that it was given.
 */
#include "google.h"

#include "providers.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#define GRANT_JWT		"urn:ietf:params:oauth:grant-type:jwt-bearer"
#define GRANT_EXCHANGE	"urn:ietf:params:oauth:grant-type:token-exchange"
#define TYPE_ACCESS		"urn:ietf:params:oauth:token-type:access_token"
#define TYPE_JWT		"urn:ietf:params:oauth:token-type:jwt"
#define AUDIENCE		"//iam.googleapis.com/projects/" PROJECT_NUMBER \
	"/locations/global/workloadIdentityPools/pool/providers/provider"
#define CLIENT_ID		"123456789012-simulated.apps.googleusercontent.com"

static char account[200];
static char client_secret[48];
static char refresh_token[128];
static char subject_token[128];
static bool user_revoked;

const char *
google_project(void)
{
	return sim_options.project ? sim_options.project : "test-project";
}

/* A project may be named by its id or its number. */
bool
own_project(const char *name)
{
	return strcmp(name, google_project()) == 0 || strcmp(name, PROJECT_NUMBER) == 0;
}

const char *
service_account_email(void)
{
	return account;
}

/* Called before the address is told to anybody. */
static void
make_secrets(void)
{
	snprintf(account, sizeof(account), "batch@%s.iam.gserviceaccount.com", google_project());
	make_id(client_secret, sizeof(client_secret), "GOCSPX-", 28);
	make_id(refresh_token, sizeof(refresh_token), "1//0e", 98);
	make_id(subject_token, sizeof(subject_token), "subject.", 60);
}

/* An OAuth error, which looks unlike those of the APIs. */
static void
oauth_error(Reply *reply, int status, const char *error, const char *description)
{
	reply->status = status;
	reply->content_type = "application/json; charset=utf-8";
	buf_reset(&reply->body);
	buf_char(&reply->body, '{');
	jw_str(&reply->body, "error", error);
	jw_str(&reply->body, "error_description", description);
	buf_char(&reply->body, '}');
}

static void
oauth_token(Reply *reply, const char *token, const char *scope, const char *issued_type)
{
	StrBuf	   *b = &reply->body;

	reply->status = 200;
	reply->content_type = "application/json; charset=utf-8";
	buf_char(b, '{');
	jw_str(b, "access_token", token);
	jw_int(b, "expires_in", (int64_t) settings_get().token_seconds);
	if (issued_type != NULL)
		jw_str(b, "issued_token_type", issued_type);
	if (scope != NULL)
		jw_str(b, "scope", scope);
	jw_str(b, "token_type", "Bearer");
	buf_char(b, '}');
}

/* The right audience is our own address, as the client reached us. */
static bool
audience_good(const Request *req, const char *aud)
{
	char	   *origin = request_origin(req);
	StrBuf		right = {0};
	bool		good;

	buf_printf(&right, "%s/token", origin);
	good = strcmp(aud, right.data) == 0;
	buf_reset(&right);
	buf_printf(&right, "http://127.0.0.1:%d/token", http_port());
	good = good || strcmp(aud, right.data) == 0;
	buf_free(&right);
	free(origin);
	return good;
}

/* What is wrong with the claims, in Google's words, or NULL. */
static const char *
claims_wrong(const Request *req, const Jwt *jwt, const char **error)
{
	const cJSON *iat = json_get(jwt->claims, "iat");
	const cJSON *exp = json_get(jwt->claims, "exp");
	const char *iss = json_str(jwt->claims, "iss");
	const char *aud = json_str(jwt->claims, "aud");
	const char *scope = json_str(jwt->claims, "scope");
	double		now = real_ms() / 1000;

	*error = "invalid_grant";
	if (iss == NULL || strcmp(iss, service_account_email()) != 0)
		return "Invalid grant: account not found";
	if (!jwt->signed_well)
		return "Invalid JWT Signature.";
	if (aud == NULL || !audience_good(req, aud))
		return "Invalid JWT: Failed audience check. The right audience is "
			"https://oauth2.googleapis.com/token.";
	if (!cJSON_IsNumber(iat) || !cJSON_IsNumber(exp) || exp->valuedouble <= now ||
		iat->valuedouble > now + 300 || iat->valuedouble < now - 3600 - 300 ||
		exp->valuedouble > now + 3600 + 300 ||
		exp->valuedouble - iat->valuedouble > 3600 || exp->valuedouble <= iat->valuedouble)
		return "Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable "
			"timeframe. Check your iat and exp values in the JWT claim.";
	if (json_get(jwt->claims, "sub") != NULL && strcmp(json_str(jwt->claims, "sub") ?
													   json_str(jwt->claims, "sub") : "", iss) != 0)
	{
		*error = "unauthorized_client";
		return "Client is unauthorized to retrieve access tokens using this method, or client "
			"not authorized for any of the scopes requested.";
	}
	if (scope == NULL || strncmp(scope, "https://www.googleapis.com/auth/", 32) != 0)
	{
		*error = "invalid_scope";
		return "Invalid OAuth scope or ID token audience provided.";
	}
	return NULL;
}

static void
grant_jwt(const Request *req, Reply *reply, const char *assertion)
{
	const char *error = "invalid_grant";
	const char *wrong = NULL;
	Jwt			jwt;

	if (assertion == NULL || *assertion == '\0')
	{
		oauth_error(reply, 400, "invalid_request", "Missing required parameter: assertion");
		return;
	}
	if (!jwt_read(assertion, &jwt))
		wrong = "Invalid JWT: the assertion is not a signed JWT.";
	else
		wrong = claims_wrong(req, &jwt, &error);
	if (wrong != NULL)
		oauth_error(reply, strcmp(error, "unauthorized_client") == 0 ? 401 : 400, error, wrong);
	else
		oauth_token(reply, token_issue(TOKEN_SERVICE_ACCOUNT, json_str(jwt.claims, "scope"),
									   settings_get().token_seconds), NULL, NULL);
	jwt_free(&jwt);
}

/* The value of a field of an x-www-form-urlencoded body, to be freed, or NULL. */
static char *
form_value(const Request *req, const char *name)
{
	Request		r = {.query = req->body.data ? req->body.data : ""};

	return req_query(&r, name);
}

static void
grant_refresh(const Request *req, Reply *reply)
{
	char	   *id = form_value(req, "client_id");
	char	   *secret = form_value(req, "client_secret");
	char	   *token = form_value(req, "refresh_token");

	if (id == NULL || secret == NULL)
		oauth_error(reply, 400, "invalid_request", "Could not determine client ID from request.");
	else if (strcmp(id, CLIENT_ID) != 0)
		oauth_error(reply, 401, "invalid_client", "The OAuth client was not found.");
	else if (strcmp(secret, client_secret) != 0)
		oauth_error(reply, 401, "invalid_client", "The provided client secret is invalid.");
	else if (token == NULL || *token == '\0')
		oauth_error(reply, 400, "invalid_request", "Missing required parameter: refresh_token");
	else if (strcmp(token, refresh_token) != 0)
		oauth_error(reply, 400, "invalid_grant", "Bad Request");
	else if (user_revoked)
		oauth_error(reply, 400, "invalid_grant", "Token has been expired or revoked.");
	else
		oauth_token(reply, token_issue(TOKEN_USER, SCOPE_CLOUD, settings_get().token_seconds),
					SCOPE_CLOUD, NULL);
	free(id);
	free(secret);
	free(token);
}

static bool
form_type(const Request *req)
{
	const char *type = req_header(req, "Content-Type");

	return type != NULL && starts_nocase(type, "application/x-www-form-urlencoded");
}

static void
serve_token(Request *req, Reply *reply)
{
	char	   *grant = form_value(req, "grant_type");
	char	   *assertion = form_value(req, "assertion");

	if (!form_type(req))
		oauth_error(reply, 400, "invalid_request", "Bad Request");
	else if (grant != NULL && strcmp(grant, GRANT_JWT) == 0)
		grant_jwt(req, reply, assertion);
	else if (grant != NULL && strcmp(grant, "refresh_token") == 0)
		grant_refresh(req, reply);
	else
	{
		StrBuf		b = {0};

		buf_printf(&b, "Invalid grant_type: %s", grant ? grant : "");
		oauth_error(reply, 400, "unsupported_grant_type", b.data);
		buf_free(&b);
	}
	free(grant);
	free(assertion);
}

/* The security token service: a foreign token for a Google one. */
static void
serve_exchange(Request *req, Reply *reply)
{
	static const char *const names[] = {"grant_type", "audience", "subject_token_type",
	"subject_token", "requested_token_type", "scope"};
	char	   *v[6];

	for (int i = 0; i < 6; i++)
		v[i] = form_value(req, names[i]);
	if (!form_type(req) || v[0] == NULL || strcmp(v[0], GRANT_EXCHANGE) != 0)
		oauth_error(reply, 400, "unsupported_grant_type", "The grant type is not supported.");
	else if (v[1] == NULL || strcmp(v[1], AUDIENCE) != 0)
		oauth_error(reply, 400, "invalid_target", "The target service indicated by the "
					"\"audience\" parameters is invalid. This might either be because the pool or "
					"provider is disabled or deleted or because it doesn't exist.");
	else if (v[2] == NULL || strcmp(v[2], TYPE_JWT) != 0 || v[4] == NULL ||
			 strcmp(v[4], TYPE_ACCESS) != 0)
		oauth_error(reply, 400, "invalid_request", "Invalid value for \"subject_token_type\" or "
					"\"requested_token_type\".");
	else if (v[3] == NULL || strcmp(v[3], subject_token) != 0)
		oauth_error(reply, 400, "invalid_grant", "The subject token is not a valid JWT of the "
					"identity provider.");
	else if (v[5] == NULL || *v[5] == '\0')
		oauth_error(reply, 400, "invalid_scope", "Scope is required.");
	else
		oauth_token(reply, token_issue(TOKEN_FEDERATED, v[5], settings_get().token_seconds), NULL,
					TYPE_ACCESS);
	for (int i = 0; i < 6; i++)
		free(v[i]);
}

static bool
read_lifetime(const cJSON *body, double *seconds, GError *e)
{
	const char *text = json_str(body, "lifetime");
	char	   *end;

	*seconds = 3600;
	if (text == NULL)
		return true;
	*seconds = strtod(text, &end);
	if (end == text || strcmp(end, "s") != 0 || *seconds <= 0)
		return gerror(e, 400, "Invalid value at 'lifetime' (type.googleapis.com/google.protobuf."
					  "Duration), \"%s\"", text);
	if (*seconds > 3600)
		return gerror(e, 400, "The access token lifetime cannot exceed 3600 seconds.");
	return true;
}

/* iamcredentials: POST .../serviceAccounts/{email}:generateAccessToken */
static void
serve_impersonation(Request *req, Reply *reply)
{
	char	   *seg[6];
	int			n = split_path(req->path, seg, 6);
	GError		e = {0};
	cJSON	   *body = NULL;
	char	   *colon = n == 5 ? strrchr(seg[4], ':') : NULL;
	double		seconds;

	if (!token_check(req, SCOPE_CLOUD, &e))
		gerror_reply(reply, &e);
	else if (colon == NULL || strcmp(colon, ":generateAccessToken") != 0)
	{
		gerror(&e, 404, "Method not found.");
		gerror_reply(reply, &e);
	}
	else if ((body = google_body(req, &e)) == NULL || !read_lifetime(body, &seconds, &e))
		gerror_reply(reply, &e);
	else if ((*colon = '\0', strcmp(seg[4], service_account_email()) != 0))
	{
		gerror(&e, 403, "Permission 'iam.serviceAccounts.getAccessToken' denied on resource (or "
			   "it may not exist).");
		gerror_reply(reply, &e);
	}
	else if (cJSON_GetArraySize(json_get(body, "scope")) == 0)
	{
		gerror(&e, 400, "Request must contain at least one scope.");
		gerror_reply(reply, &e);
	}
	else
	{
		Settings	set = settings_get();
		const cJSON *scope = json_get(body, "scope")->child;

		if (seconds > set.token_seconds)
			seconds = set.token_seconds;
		reply->status = 200;
		buf_char(&reply->body, '{');
		jw_str(&reply->body, "accessToken",
			   token_issue(TOKEN_IMPERSONATED, cJSON_IsString(scope) ? scope->valuestring : "",
						   seconds));
		jw_stamp(&reply->body, "expireTime", real_ms() + seconds * 1000);
		buf_char(&reply->body, '}');
	}
	cJSON_Delete(body);
	free_path(seg, n);
}

static bool
auth_claims(const Request *req)
{
	return strcmp(req->path, "/token") == 0 || strcmp(req->path, "/v1/token") == 0 ||
		strncmp(req->path, "/v1/projects/-/serviceAccounts/", 31) == 0;
}

/* Forms hold secrets; the record gets their names and which grant it was. */
static void
auth_prepare(Request *req)
{
	char	   *grant = form_type(req) ? form_value(req, "grant_type") : NULL;
	StrBuf		b = {0};

	bearer_secret(req);
	req->private = true;
	buf_char(&b, '{');
	jw_str(&b, "grant_type", grant && utf8_valid(grant, strlen(grant)) ? grant : NULL);
	buf_char(&b, '}');
	req->note = b.data;
	free(grant);
}

static void
auth_serve(Request *req, Reply *reply)
{
	GError		e;

	if (strcmp(req->method, "POST") != 0)
	{
		gerror(&e, 404, "Not found.");
		gerror_reply(reply, &e);
	}
	else if (strcmp(req->path, "/token") == 0)
		serve_token(req, reply);
	else if (strcmp(req->path, "/v1/token") == 0)
		serve_exchange(req, reply);
	else
		serve_impersonation(req, reply);
}

static void
auth_fault_body(int status, StrBuf *out)
{
	if (status >= 500)
		buf_str(out, "{\"error\":\"internal_failure\"}");
	else if (status >= 400)
		buf_str(out, "{\"error\":\"invalid_grant\",\"error_description\":\"Bad Request\"}");
}

const Provider google_auth_provider = {
	.name = "auth", .claims = auth_claims, .prepare = auth_prepare, .serve = auth_serve,
	.fault_body = auth_fault_body
};

void
credentials_revoke_user(void)
{
	user_revoked = true;
}

void
credentials_reset(void)
{
	user_revoked = false;
	tokens_clear();
}

static void
write_file(const char *path, const char *text, size_t len)
{
	char		tmp[4096];
	int			fd;

	snprintf(tmp, sizeof(tmp), "%s.tmp", path);
	fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || write(fd, text, len) != (ssize_t) len || close(fd) != 0 ||
		rename(tmp, path) != 0)
		die("could not write \"%s\": %s", path, strerror(errno));
}

static void
write_service_account(const char *path, const char *base)
{
	char	   *pem = signing_key_pem();
	StrBuf		b = {0};
	StrBuf		url = {0};

	buf_printf(&url, "%s/token", base);
	buf_char(&b, '{');
	jw_str(&b, "type", "service_account");
	jw_str(&b, "project_id", google_project());
	jw_str(&b, "private_key_id", signing_key_id());
	jw_str(&b, "private_key", pem);
	jw_str(&b, "client_email", service_account_email());
	jw_str(&b, "client_id", "100000000000000000001");
	jw_str(&b, "auth_uri", "https://accounts.google.com/o/oauth2/auth");
	jw_str(&b, "token_uri", url.data);
	jw_str(&b, "universe_domain", "googleapis.com");
	buf_char(&b, '}');
	write_file(path, b.data, b.len);
	buf_free(&b);
	buf_free(&url);
	free(pem);
}

/* As google-auth's to_json() writes it, which names the token address too. */
static void
user_credential(StrBuf *b, const char *base)
{
	StrBuf		url = {0};

	buf_printf(&url, "%s/token", base);
	buf_char(b, '{');
	jw_str(b, "type", "authorized_user");
	jw_str(b, "client_id", CLIENT_ID);
	jw_str(b, "client_secret", client_secret);
	jw_str(b, "refresh_token", refresh_token);
	jw_str(b, "token_uri", url.data);
	jw_str(b, "quota_project_id", google_project());
	jw_str(b, "account", "");
	jw_str(b, "universe_domain", "googleapis.com");
	buf_char(b, '}');
	buf_free(&url);
}

static void
impersonation_url(StrBuf *b, const char *base)
{
	buf_printf(b, "%s/v1/projects/-/serviceAccounts/%s:generateAccessToken", base,
			   service_account_email());
}

static void
write_impersonated(const char *path, const char *base)
{
	StrBuf		b = {0};
	StrBuf		url = {0};

	impersonation_url(&url, base);
	buf_char(&b, '{');
	jw_str(&b, "type", "impersonated_service_account");
	jw_str(&b, "service_account_impersonation_url", url.data);
	jw_raw(&b, "delegates", "[]");
	jw_key(&b, "source_credentials");
	user_credential(&b, base);
	buf_char(&b, '}');
	write_file(path, b.data, b.len);
	buf_free(&b);
	buf_free(&url);
}

/* The subject token lies beside the file, as a mounted secret would. */
static void
write_external(const char *path, const char *base)
{
	StrBuf		b = {0};
	StrBuf		url = {0};
	StrBuf		subject = {0};

	buf_printf(&subject, "%s.subject", path);
	write_file(subject.data, subject_token, strlen(subject_token));
	buf_printf(&url, "%s/v1/token", base);
	buf_char(&b, '{');
	jw_str(&b, "type", "external_account");
	jw_str(&b, "audience", AUDIENCE);
	jw_str(&b, "subject_token_type", TYPE_JWT);
	jw_str(&b, "token_url", url.data);
	jw_raw(&b, "credential_source", "{");
	jw_str(&b, "file", subject.data);
	buf_char(&b, '}');
	buf_reset(&url);
	impersonation_url(&url, base);
	jw_str(&b, "service_account_impersonation_url", url.data);
	jw_str(&b, "universe_domain", "googleapis.com");
	buf_char(&b, '}');
	write_file(path, b.data, b.len);
	buf_free(&b);
	buf_free(&url);
	buf_free(&subject);
}

/* Writes what the command line asked for; the port is known by now. */
void
credentials_write_files(void)
{
	const Options *o = &sim_options;
	char		base[64];
	StrBuf		user = {0};

	make_secrets();
	snprintf(base, sizeof(base), "http://127.0.0.1:%d", http_port());
	if (o->service_account_file != NULL)
		write_service_account(o->service_account_file, base);
	if (o->authorized_user_file != NULL)
	{
		user_credential(&user, base);
		write_file(o->authorized_user_file, user.data, user.len);
		buf_free(&user);
	}
	if (o->impersonated_file != NULL)
		write_impersonated(o->impersonated_file, base);
	if (o->external_account_file != NULL)
		write_external(o->external_account_file, base);
}
