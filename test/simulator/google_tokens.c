/*
 * google_tokens.c
 *		Access tokens: issued, shown, expired, revoked.
 *
 * A token is good for the setting token_seconds as it was when the token was
 * issued, by the real clock, to the millisecond.  Beside issued tokens a
 * self-signed JWT of the service account is accepted, as the APIs do.
 */
#include "google.h"

typedef struct Token
{
	char	   *text;
	char	   *scope;
	TokenKind	kind;
	double		until;			/* on the clock of now_ms() */
	bool		revoked;
	struct Token *older;
} Token;

static Token *newest;
static int64_t issued[TOKEN_KINDS];
static int64_t accepted;
static int64_t refused;

static const char *const kind_names[TOKEN_KINDS] = {
	"service_account", "user", "metadata", "federated", "impersonated"
};

/* Lengths differ as they do in life, where some exceed a kilobyte. */
static char *
token_text(TokenKind kind)
{
	static const char *const prefix[TOKEN_KINDS] = {"ya29.c.c0", "ya29.a0", "ya29.c.b0",
	"ya29.d.c0", "ya29.c.e0"};
	static const int chars[TOKEN_KINDS] = {1015, 247, 1500, 820, 1020};
	StrBuf		b = {0};

	buf_str(&b, prefix[kind]);
	while ((int) b.len < chars[kind])
	{
		char		piece[64];

		make_id(piece, sizeof(piece), "", 40);
		buf_str(&b, piece);
	}
	return b.data;
}

/* The text lives until the next reset. */
const char *
token_issue(TokenKind kind, const char *scope, double seconds)
{
	Token	   *t = xcalloc(sizeof(Token));

	t->text = token_text(kind);
	t->scope = xstrdup(scope);
	t->kind = kind;
	t->until = now_ms() + seconds * 1000.0;
	pthread_mutex_lock(&google_lock);
	t->older = newest;
	newest = t;
	issued[kind]++;
	pthread_mutex_unlock(&google_lock);
	return t->text;
}

/* Whether one of the granted scopes (by spaces or commas) allows the wanted one. */
static bool
scope_allows(const char *granted, const char *wanted)
{
	if (strstr(granted, SCOPE_CLOUD) != NULL)
		return true;
	return strcmp(wanted, SCOPE_STORAGE) == 0 && strstr(granted, SCOPE_STORAGE) != NULL;
}

static bool
unauthenticated(GError *e, const char *service)
{
	gerror(e, 401, "Request had invalid authentication credentials. Expected OAuth 2 access "
		   "token, login cookie or other valid authentication credential. See "
		   "https://developers.google.com/identity/sign-in/web/devconsole-project.");
	snprintf(e->reason, sizeof(e->reason), "authError");
	snprintf(e->details, sizeof(e->details),
			 "{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":"
			 "\"ACCESS_TOKEN_TYPE_UNSUPPORTED\",\"domain\":\"googleapis.com\",\"metadata\":"
			 "{\"service\":\"%s.googleapis.com\"}}", service);
	return false;
}

static bool
no_scope(GError *e, const char *service)
{
	gerror(e, 403, "Request had insufficient authentication scopes.");
	snprintf(e->reason, sizeof(e->reason), "insufficientPermissions");
	snprintf(e->details, sizeof(e->details),
			 "{\"@type\":\"type.googleapis.com/google.rpc.ErrorInfo\",\"reason\":"
			 "\"ACCESS_TOKEN_SCOPE_INSUFFICIENT\",\"domain\":\"googleapis.com\",\"metadata\":"
			 "{\"service\":\"%s.googleapis.com\"}}", service);
	return false;
}

/* A JWT of the service account instead of a token; aud or scope must fit. */
static bool
self_signed_good(const char *text)
{
	Jwt			jwt;
	bool		good = false;

	if (jwt_read(text, &jwt) && jwt.signed_well)
	{
		const char *iss = json_str(jwt.claims, "iss");
		const char *sub = json_str(jwt.claims, "sub");
		const char *aud = json_str(jwt.claims, "aud");
		const char *scope = json_str(jwt.claims, "scope");
		double		iat = json_num(jwt.claims, "iat", 0);
		double		exp = json_num(jwt.claims, "exp", 0);
		double		now = real_ms() / 1000;

		good = iss != NULL && sub != NULL && strcmp(iss, sub) == 0 &&
			strcmp(iss, service_account_email()) == 0 && exp > now && iat <= now + 300 &&
			exp - iat <= 3600 &&
			((scope != NULL && scope_allows(scope, SCOPE_CLOUD)) ||
			 (aud != NULL && strncmp(aud, "https://", 8) == 0 &&
			  strstr(aud, "googleapis.com/") != NULL));
	}
	jwt_free(&jwt);
	return good;
}

/* True if the request shows a token that is good for the scope. */
bool
token_check(const Request *req, const char *scope, GError *e)
{
	const char *service = req->provider->name;
	const char *secret = req->secret;
	bool		known = false;
	bool		wide = false;

	if (strcmp(service, "vertex") == 0)
		service = "aiplatform";
	if (secret != NULL && strncmp(secret, "eyJ", 3) == 0)
		known = wide = self_signed_good(secret);
	pthread_mutex_lock(&google_lock);
	for (Token *t = newest; t != NULL && !known && secret != NULL; t = t->older)
	{
		if (strcmp(t->text, secret) != 0)
			continue;
		known = !t->revoked && now_ms() < t->until;
		wide = scope_allows(t->scope, scope);
		break;
	}
	if (known && wide)
		accepted++;
	else
		refused++;
	pthread_mutex_unlock(&google_lock);
	if (!known)
	{
		unauthenticated(e, service);
		if (secret == NULL)
			snprintf(e->reason, sizeof(e->reason), "required");
		return false;
	}
	return wide || no_scope(e, service);
}

/* All tokens, or with a tail only those that end so, are no longer good. */
void
tokens_revoke(const char *tail)
{
	pthread_mutex_lock(&google_lock);
	for (Token *t = newest; t != NULL; t = t->older)
	{
		size_t		len = strlen(t->text);
		size_t		n = tail ? strlen(tail) : 0;

		if (tail == NULL || (n <= len && strcmp(t->text + len - n, tail) == 0))
			t->revoked = true;
	}
	pthread_mutex_unlock(&google_lock);
}

void
tokens_clear(void)
{
	pthread_mutex_lock(&google_lock);
	while (newest != NULL)
	{
		Token	   *t = newest;

		newest = t->older;
		free(t->text);
		free(t->scope);
		free(t);
	}
	memset(issued, 0, sizeof(issued));
	accepted = refused = 0;
	pthread_mutex_unlock(&google_lock);
}

void
tokens_write(StrBuf *b)
{
	int			good = 0;

	pthread_mutex_lock(&google_lock);
	for (Token *t = newest; t != NULL; t = t->older)
		good += !t->revoked && now_ms() < t->until;
	buf_char(b, '{');
	jw_raw(b, "issued", "{");
	for (int i = 0; i < TOKEN_KINDS; i++)
		jw_int(b, kind_names[i], issued[i]);
	buf_char(b, '}');
	jw_int(b, "good", good);
	jw_int(b, "accepted", accepted);
	jw_int(b, "refused", refused);
	buf_char(b, '}');
	pthread_mutex_unlock(&google_lock);
}
