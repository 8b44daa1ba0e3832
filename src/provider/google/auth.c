/*-------------------------------------------------------------------------
 *
 * auth.c
 *		Access tokens of Google, from credentials of every kind.
 *
 * One request gets a token: for a signed assertion (service account), a refresh
 * token (login), a foreign token (external account), or just by asking (metadata
 * server).  Where the token is to be another account's, a second request
 * exchanges it for one of that account.
 *
 * Assertions and refresh tokens go to Google's own hosts; to others only for
 * servers that a superuser owns.  What was sent is overwritten once a reply is
 * there, and blotted out of what the reply says.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <time.h>

#include "provider/body.h"
#include "provider/google/auth.h"
#include "provider/google/google.h"
#include "provider/google/key.h"
#include "runtime/sched.h"

#define METADATA_HOST		"metadata.google.internal"
#define METADATA_ADDRESS	"169.254.169.254"
#define TOKEN_LIMIT			16384
#define LIFETIME			3600
#define SKEW_LIMIT			300
#define HALF_A_DAY			(12 * 60 * 60)

enum
{
	AUTH_BEGIN,
	AUTH_EXCHANGING,			/* the secret */
	AUTH_ADDRESS,				/* asking the metadata server by its address instead of its name */
	AUTH_IMPERSONATING
};

/* The account's secret as a document; *doc is to be freed by google_key_free(). */
static JsonValue *
open_key(const BatchStage *stage, JsonDoc **doc)
{
	const char *secret = stage->account->secret;
	const char *why;

	*doc = secret ? json_parse(secret, strlen(secret), &why) : NULL;
	return *doc ? json_root(*doc) : NULL;
}

/* What gets the first token: of an impersonated account, the credentials within. */
static JsonValue *
source_of(JsonValue *key)
{
	return google_key_kind(key) == GOOGLE_IMPERSONATED ? json_member(key, "source_credentials") : key;
}

/* Fails unless secrets may go to this address. */
static bool
check_url(const BatchStage *stage, const char *url, const char *member, StepResult *result)
{
	if (stage->account->trusted || google_is_own_url(url))
		return true;
	step_fail(result, ERROR_AUTH, CODE_ADDRESS_REFUSED,
			  psprintf("the credentials' \"%s\" is no address of Google, which only servers owned by a superuser may use", member));
	return false;
}

/* ---- requests ---- */

static void
append_field(StringInfo form, const char *name, const char *value)
{
	if (value == NULL)
		return;
	appendStringInfo(form, "%s%s=", form->len > 0 ? "&" : "", name);
	google_append_escaped(form, value, "");
}

/* The form is a secret: it is overwritten when the reply is there. */
static void
post_form(BatchStage *stage, StepResult *result, const char *url, StringInfo form)
{
	step_request(result, "POST", url);
	step_header(result, "Content-Type", "application/x-www-form-urlencoded");
	step_header(result, "Accept", "application/json");
	result->request.body = form->data;
	result->request.body_length = form->len;
	stage->scratch = form->data;
}

static void
ask_by_assertion(BatchStage *stage, JsonValue *key, StepResult *result)
{
	const char *url = json_member_string(key, "token_uri");
	const char *email = json_member_string(key, "client_email");
	const char *private_key = json_member_string(key, "private_key");
	const char *why;
	char	   *assertion;
	StringInfoData form;

	if (url == NULL)
		url = GOOGLE_TOKEN_URL;
	if (!check_url(stage, url, "token_uri", result))
		return;
	assertion = google_jwt_sign(google_jwt_unsigned(email ? email : "", json_member_string(key, "private_key_id"),
													url, (int64) time(NULL)),
								private_key ? private_key : "", &why);
	if (assertion == NULL)
	{
		step_fail(result, ERROR_AUTH, "bad_key", psprintf("the service account's key cannot be used: %s", why));
		return;
	}
	initStringInfo(&form);
	append_field(&form, "grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer");
	append_field(&form, "assertion", assertion);
	explicit_bzero(assertion, strlen(assertion));
	post_form(stage, result, url, &form);
}

static void
ask_by_refresh_token(BatchStage *stage, JsonValue *key, StepResult *result)
{
	const char *url = json_member_string(key, "token_uri");
	StringInfoData form;

	if (url == NULL)
		url = GOOGLE_TOKEN_URL;
	if (!check_url(stage, url, "token_uri", result))
		return;
	initStringInfo(&form);
	append_field(&form, "grant_type", "refresh_token");
	append_field(&form, "refresh_token", json_member_string(key, "refresh_token"));
	append_field(&form, "client_id", json_member_string(key, "client_id"));
	append_field(&form, "client_secret", json_member_string(key, "client_secret"));
	post_form(stage, result, url, &form);
}

static void
ask_by_foreign_token(BatchStage *stage, JsonValue *key, StepResult *result)
{
	const char *url = json_member_string(key, "token_url");
	StringInfoData form;

	if (url == NULL)
		url = GOOGLE_STS_URL;
	if (!check_url(stage, url, "token_url", result))
		return;
	initStringInfo(&form);
	append_field(&form, "grant_type", "urn:ietf:params:oauth:grant-type:token-exchange");
	append_field(&form, "audience", json_member_string(key, "audience"));
	append_field(&form, "scope", GOOGLE_SCOPE);
	append_field(&form, "requested_token_type", "urn:ietf:params:oauth:token-type:access_token");
	append_field(&form, "subject_token_type", json_member_string(key, "subject_token_type"));
	append_field(&form, "subject_token", json_member_string(key, "subject_token"));
	post_form(stage, result, url, &form);
}

static void
ask_metadata_server(BatchStage *stage, JsonValue *key, StepResult *result)
{
	const char *host = json_member_string(key, "host");
	StringInfoData url;

	if (host == NULL)
		host = stage->phase == AUTH_ADDRESS ? METADATA_ADDRESS : METADATA_HOST;
	initStringInfo(&url);
	appendStringInfo(&url, "http://%s/computeMetadata/v1/instance/service-accounts/default/token?scopes=", host);
	google_append_escaped(&url, GOOGLE_SCOPE, "");
	step_request(result, "GET", url.data);
	step_header(result, "Metadata-Flavor", "Google");
	result->request.no_proxy = true;
}

static void
ask_token(BatchStage *stage, JsonValue *key, StepResult *result)
{
	if (stage->phase == AUTH_BEGIN)
		stage->phase = AUTH_EXCHANGING;
	switch (google_key_kind(source_of(key)))
	{
		case GOOGLE_SERVICE_ACCOUNT:
			ask_by_assertion(stage, source_of(key), result);
			break;
		case GOOGLE_AUTHORIZED_USER:
			ask_by_refresh_token(stage, source_of(key), result);
			break;
		case GOOGLE_EXTERNAL:
			ask_by_foreign_token(stage, key, result);
			break;
		case GOOGLE_METADATA_SERVER:
			ask_metadata_server(stage, key, result);
			break;
		case GOOGLE_IMPERSONATED:
		case GOOGLE_NO_KEY:
			step_fail(result, ERROR_AUTH, "bad_key", "the secret is not the JSON text of credentials of Google");
			break;
	}
}

/* The token is exchanged for one of the account that the credentials name. */
static void
ask_impersonation(BatchStage *stage, JsonValue *key, const char *token, StepResult *result)
{
	const char *url = json_member_string(key, "service_account_impersonation_url");
	JsonValue  *delegates = json_member(key, "delegates");
	StringInfoData body;

	if (!check_url(stage, url, "service_account_impersonation_url", result))
		return;
	initStringInfo(&body);
	appendStringInfoString(&body, "{\"delegates\":");
	if (json_is_array(delegates))
		json_append_value(&body, delegates);
	else
		appendStringInfoString(&body, "[]");
	appendStringInfo(&body, ",\"scope\":[\"" GOOGLE_SCOPE "\"],\"lifetime\":\"%ds\"}", LIFETIME);
	stage->phase = AUTH_IMPERSONATING;
	step_request(result, "POST", url);
	step_json_body(result, body.data);
	step_header(result, "Authorization", psprintf("Bearer %s", token));
}

/* ---- failures, in words ---- */

/* Seconds that this machine's clock is ahead of the server's; 0 if that is not known. */
static int64
clock_ahead(const HttpReply *reply)
{
	int64		noon = (int64) time(NULL) - HALF_A_DAY;
	int64		ms = sched_parse_retry_after(http_header(reply, "date"), noon * 1000);

	return ms < 0 ? 0 : HALF_A_DAY - ms / 1000;
}

static void
fail_by_clock(StepResult *result, const HttpReply *reply, const char *words)
{
	int64		ahead = clock_ahead(reply);

	if (ahead > SKEW_LIMIT || ahead < -SKEW_LIMIT)
		step_fail(result, ERROR_AUTH, "clock_skew",
				  psprintf("the clock of this machine is " INT64_FORMAT " seconds %s Google's, so that its signatures are not valid",
						   ahead > 0 ? ahead : -ahead, ahead > 0 ? "ahead of" : "behind"));
	else
		step_fail(result, ERROR_AUTH, "clock_skew",
				  psprintf("Google finds the signature's time wrong, look at this machine's clock: %s", words));
}

/* An "invalid_grant": the secret is not good, and why. */
static void
fail_by_grant(StepResult *result, const HttpReply *reply, JsonValue *key, const char *words)
{
	const char *remedy;

	switch (google_key_kind(source_of(key)))
	{
		case GOOGLE_SERVICE_ACCOUNT:
			if (strcasestr(words, "short-lived") != NULL || strcasestr(words, "timeframe") != NULL ||
				strcasestr(words, " iat") != NULL)
			{
				fail_by_clock(result, reply, words);
				return;
			}
			remedy = "the service account's key was revoked, or the account is gone: use a new key";
			break;
		case GOOGLE_AUTHORIZED_USER:
			remedy = "the login has expired or was revoked: run \"gcloud auth application-default login\" again";
			break;
		default:
			remedy = "the credentials are not accepted";
			break;
	}
	step_fail(result, ERROR_AUTH, "invalid_grant", psprintf("%s (%s)", remedy, words));
}

/* The metadata server is not there, or has no account for us. */
static void
fail_by_metadata(BatchStage *stage, const HttpReply *reply, JsonValue *key, StepResult *result)
{
	bool		api_key = json_bool(json_member(key, "api_key_seen"), false);

	if (reply->failure == HTTP_NOT_SENT || reply->failure == HTTP_BROKEN)
		step_fail(result, ERROR_TEMPORARY, "no_credentials",
				  psprintf("%s, and no metadata server answers: %s",
						   api_key ? "GOOGLE_API_KEY is set, but Vertex AI needs a service account's key file, and there is none" :
						   "no key file was found",
						   reply->message ? reply->message : "no connection"));
	else if (reply->failure == HTTP_OK && reply->status == 404)
		step_fail(result, ERROR_AUTH, "no_service_account", "no service account is attached to this machine");
	else if (reply->failure == HTTP_OK && reply->status == 403)
		step_fail(result, ERROR_AUTH, "scope", "this machine's service account may not use the scope cloud-platform");
}

/* What a server of tokens answers may hold one: a reply that is none of an error is not quoted. */
static void
fail_without_quoting(StepResult *result, const HttpReply *reply)
{
	if (reply_ok(reply))
	{
		step_fail(result, ERROR_TEMPORARY, CODE_BAD_REPLY, "the server's reply is not what its interface promises");
		result->error.maybe_done = true;
	}
	else
		step_fail_http(result, reply);
}

static void
fail_exchange(BatchStage *stage, const HttpReply *reply, JsonValue *key, StepResult *result)
{
	const char *code;

	fail_without_quoting(result, reply);
	code = result->error.code ? result->error.code : "";
	if (stage->phase == AUTH_IMPERSONATING)
	{
		if (result->error.class == ERROR_AUTH || result->error.class == ERROR_PERMANENT)
			step_fail(result, ERROR_AUTH, code,
					  psprintf("the service account cannot be impersonated: %s", result->error.message));
	}
	else if (google_key_kind(key) == GOOGLE_METADATA_SERVER)
		fail_by_metadata(stage, reply, key, result);
	else if (strcmp(code, "invalid_grant") == 0)
		fail_by_grant(result, reply, key, result->error.message);
	else if (result->error.class == ERROR_PERMANENT)
		result->error.class = ERROR_AUTH;
	result->error.maybe_done = false;
}

/* ---- replies ---- */

/* An access token that can stand in a header, palloc'd, or NULL. */
static char *
read_token(JsonValue *root, const char *name)
{
	const char *token = json_member_string(root, name);

	if (token == NULL || token[0] == '\0' || strlen(token) > TOKEN_LIMIT)
		return NULL;
	for (const char *p = token; *p != '\0'; p++)
	{
		if ((unsigned char) *p <= ' ' || (unsigned char) *p >= 0x7F)
			return NULL;
	}
	return pstrdup(token);
}

static int
two_digits(const char *text)
{
	return (text[0] - '0') * 10 + text[1] - '0';
}

/* Seconds until a time such as "2026-11-22T10:00:00Z", at most what was asked for. */
static int64
seconds_until(const char *text, int64 now)
{
	struct tm	when;
	int64		days;
	int			year;

	if (text == NULL || strlen(text) < 20 || strspn(text, "0123456789-T:") < 19 ||
		text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' || text[16] != ':')
		return LIFETIME;
	memset(&when, 0, sizeof(when));
	year = two_digits(text) * 100 + two_digits(text + 2);
	when.tm_mon = two_digits(text + 5);
	when.tm_mday = two_digits(text + 8);

	/* days since 1970 of the proleptic Gregorian calendar, years beginning in March */
	if (when.tm_mon <= 2)
	{
		year--;
		when.tm_mon += 12;
	}
	days = INT64CONST(365) * year + year / 4 - year / 100 + year / 400 +
		(153 * (when.tm_mon - 3) + 2) / 5 + when.tm_mday - 1 - 719468;
	return Min(Max(days * 86400 + two_digits(text + 11) * 3600 + two_digits(text + 14) * 60 +
				   two_digits(text + 17) - now, 1), LIFETIME);
}

static void
take_token(BatchStage *stage, const HttpReply *reply, JsonValue *key, StepResult *result)
{
	bool		impersonated = (stage->phase == AUTH_IMPERSONATING);
	bool		exchangeable = google_key_kind(key) == GOOGLE_IMPERSONATED || google_key_kind(key) == GOOGLE_EXTERNAL;
	const char *flavor = http_header(reply, "metadata-flavor");
	JsonDoc    *doc;
	JsonValue  *root = body_open_reply(reply, &doc);
	char	   *token = read_token(root, impersonated ? "accessToken" : "access_token");

	if (token != NULL && google_key_kind(key) == GOOGLE_METADATA_SERVER &&
		(flavor == NULL || strcmp(flavor, "Google") != 0))
		step_fail(result, ERROR_AUTH, "no_credentials", "what answers as metadata server is none");
	else if (token == NULL)
		fail_without_quoting(result, reply);
	else if (exchangeable && !impersonated &&
			 json_member_string(key, "service_account_impersonation_url") != NULL)
	{
		ask_impersonation(stage, key, token, result);
		explicit_bzero(token, strlen(token));
	}
	else
	{
		stage->access_token = token;
		stage->access_token_seconds = impersonated ?
			seconds_until(json_member_string(root, "expireTime"), (int64) time(NULL)) :
			Min(Max(json_member_int64(root, "expires_in", LIFETIME), 1), SECS_PER_DAY);
		step_done(result);
	}
	google_key_free(doc);
}

/* Overwrites, in a reply's body, what must reach no message. */
static void
blot_key(const HttpReply *reply, JsonValue *key)
{
	static const char *const secrets[] = {"refresh_token", "client_secret", "subject_token", "private_key"};
	HttpReply	writable = *reply;

	for (int i = 0; i < lengthof(secrets); i++)
		reply_blot_secret(&writable, json_member_string(key, secrets[i]));
}

static void
take_reply(BatchStage *stage, const HttpReply *reply, JsonValue *key, StepResult *result)
{
	if (stage->scratch != NULL)
		explicit_bzero(stage->scratch, strlen(stage->scratch));
	stage->scratch = NULL;
	blot_key(reply, source_of(key));

	if (reply_ok(reply))
		take_token(stage, reply, key, result);
	else if (reply->failure == HTTP_NOT_SENT && stage->phase == AUTH_EXCHANGING &&
			 google_key_kind(key) == GOOGLE_METADATA_SERVER && json_member_string(key, "host") == NULL)
	{
		/* the name is not known everywhere, the address is */
		stage->phase = AUTH_ADDRESS;
		ask_token(stage, key, result);
	}
	else
		fail_exchange(stage, reply, key, result);
}

void
google_authorize(BatchStage *stage, const HttpReply *reply, StepResult *result)
{
	JsonDoc    *doc;
	JsonValue  *key = open_key(stage, &doc);

	if (key == NULL)
		step_fail(result, ERROR_AUTH, "bad_key", "the secret is not the JSON text of credentials of Google");
	else if (reply == NULL)
	{
		stage->phase = AUTH_BEGIN;
		ask_token(stage, key, result);
	}
	else
		take_reply(stage, reply, key, result);
	google_key_free(doc);
}
