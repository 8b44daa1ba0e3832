/*-------------------------------------------------------------------------
 *
 * test_google_auth.c
 *		Access tokens of Google, from credentials of every kind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <time.h>

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include "provider/google/google.h"
#include "provider/google/auth.h"
#include "provider/google/key.h"
#include "google_play.h"
#include "text/json.h"
#include "tap.h"

#define LOGIN	"{\"type\":\"authorized_user\",\"client_id\":\"id-1\",\"client_secret\":\"s3cret-0123\",\"refresh_token\":\"1//refresh-0123\"}"
#define TOKEN_REPLY	"{\"access_token\":\"ya29.abc\",\"expires_in\":3599,\"token_type\":\"Bearer\"}"
#define ASK		"POST https://oauth2.googleapis.com/token; "
#define GRANT(words)	"{\"error\":\"invalid_grant\",\"error_description\":\"" words "\"}"

static char *private_key;

static void
make_private_key(void)
{
	EVP_PKEY   *key = EVP_RSA_gen(2048);
	BIO		   *bio = BIO_new(BIO_s_mem());
	char	   *data;
	long		length;

	PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL);
	length = BIO_get_mem_data(bio, &data);
	private_key = malloc(length + 1);
	memcpy(private_key, data, length);
	private_key[length] = '\0';
	BIO_free(bio);
	EVP_PKEY_free(key);
}

/* The text of a key file of a service account. */
static char *
service_account(const char *more)
{
	StringInfoData text;

	initStringInfo(&text);
	appendStringInfoString(&text, "{\"type\":\"service_account\",\"client_email\":\"sa@p.iam.gserviceaccount.com\",\"private_key_id\":\"k1\",\"private_key\":");
	json_append_cstring(&text, private_key);
	appendStringInfo(&text, "%s}", more);
	return text.data;
}

static Play *
auth_play(const char *secret)
{
	Play	   *play = new_play(&vertex_provider);

	play->account.secret = pstrdup(secret);
	return play;
}

#define AUTHORIZE(play, ...)	PLAY(play, authorize, __VA_ARGS__)

static void
test_service_account(void)
{
	Play	   *play = auth_play(service_account(""));

	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}), ASK "done", "service account");
	is_text(play->stage.access_token, "ya29.abc", "token");
	is_int(play->stage.access_token_seconds, 3599, "its lifetime");
	is_text(play_header(&play->first, "Content-Type"), "application/x-www-form-urlencoded", "a form");
	ok(strncmp(play->last_body, "grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion=eyJ", 76) == 0, "with an assertion");
	ok(play->first.body[0] == '\0', "that is overwritten afterwards");
	is_text(AUTHORIZE(play, {503, ""}), ASK "failed temporary 503: HTTP status 503", "server that is down");
	is_text(AUTHORIZE(play, {-1}), ASK "failed temporary connection_failed: no connection", "no connection");
	is_text(AUTHORIZE(play, {200, "{\"access_token\":\"a b\"}"}), ASK "failed temporary bad_reply: the server's reply is not what its interface promises (maybe done)", "token that is none");
	is_text(AUTHORIZE(play, {400, GRANT("Invalid JWT Signature.")}),
			ASK "failed auth invalid_grant: the service account's key was revoked, or the account is gone: use a new key (Invalid JWT Signature.)", "revoked key");
	is_text(AUTHORIZE(play, {400, GRANT("Invalid grant: account not found")}),
			ASK "failed auth invalid_grant: the service account's key was revoked, or the account is gone: use a new key (Invalid grant: account not found)", "no such account");
	is_text(AUTHORIZE(play, {401, "{\"error\":\"invalid_client\",\"error_description\":\"The OAuth client was not found.\"}"}), ASK "failed auth invalid_client: The OAuth client was not found.", "no such client");
	play = auth_play("{\"type\":\"service_account\",\"client_email\":\"x\",\"private_key\":\"-----BEGIN nothing\"}");
	is_text(AUTHORIZE(play, {0}), "failed auth bad_key: the service account's key cannot be used: the \"private_key\" is not a private key in PEM too early", "key that is none");
	arena_reset();
}

static void
test_clock(void)
{
	static const int skews[] = {7200, -7200, 10};
	static const char *const words[] = {
		" seconds behind Google's, so that its signatures are not valid",
		" seconds ahead of Google's, so that its signatures are not valid",
		"failed auth clock_skew: Google finds the signature's time wrong, look at this machine's clock: Invalid JWT: Token must be a short-lived token",
	};

	for (int i = 0; i < lengthof(skews); i++)
	{
		Play	   *play = auth_play(service_account(""));
		time_t		server = time(NULL) + skews[i];
		char		date[100];
		char	   *told;

		strftime(date, sizeof(date), "date: %a, %d %b %Y %H:%M:%S GMT", gmtime(&server));
		told = AUTHORIZE(play, {400, GRANT("Invalid JWT: Token must be a short-lived token (60 minutes) and in a reasonable timeframe. Check your iat and exp values in the JWT claim."), date});
		ok(strstr(told, words[i]) != NULL, "clock %d seconds off: %s", skews[i], told);
	}
	arena_reset();
}

static void
test_addresses(void)
{
	static const char *const theirs = ",\"token_uri\":\"https://evil.example/token\"";
	Play	   *play = auth_play(service_account(theirs));

	is_text(AUTHORIZE(play, {0}), "failed auth address_refused: the credentials' \"token_uri\" is no address of Google, which only servers owned by a superuser may use too early", "address of others");
	play->account.trusted = true;
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}), "POST https://evil.example/token; done", "for a superuser's server");
	play = auth_play(service_account(",\"token_uri\":\"https://oauth2.googleapis.com/token\",\"service_account_impersonation_url\":\"https://x\""));
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}), ASK "done", "Google's own address");
	arena_reset();
}

static void
test_login(void)
{
	Play	   *play = auth_play(LOGIN);

	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}), ASK "done", "login");
	is_text(play->last_body, "grant_type=refresh_token&refresh_token=1%2F%2Frefresh-0123&client_id=id-1&client_secret=s3cret-0123", "form");
	is_text(AUTHORIZE(play, {400, GRANT("Token has been expired or revoked.")}),
			ASK "failed auth invalid_grant: the login has expired or was revoked: run \"gcloud auth application-default login\" again (Token has been expired or revoked.)", "login that has ended");
	is_text(AUTHORIZE(play, {400, GRANT("you sent 1//refresh-0123 and s3cret-0123")}),
			ASK "failed auth invalid_grant: the login has expired or was revoked: run \"gcloud auth application-default login\" again (you sent *************** and ***********)", "secrets that are echoed");
	arena_reset();
}

#define IMPERSONATE	"https://iamcredentials.googleapis.com/v1/projects/-/serviceAccounts/x@y:generateAccessToken"

static void
test_impersonation(void)
{
	Play	   *play = auth_play("{\"type\":\"impersonated_service_account\",\"delegates\":[\"d\"],\"service_account_impersonation_url\":\"" IMPERSONATE "\",\"source_credentials\":" LOGIN "}");
	char		expiry[100];
	char	   *reply;
	time_t		until = time(NULL) + 1800;

	strftime(expiry, sizeof(expiry), "%Y-%m-%dT%H:%M:%SZ", gmtime(&until));
	reply = psprintf("{\"accessToken\":\"ya29.imp\",\"expireTime\":\"%s\"}", expiry);
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}, {200, reply}), ASK "POST " IMPERSONATE "; done", "impersonation");
	is_text(play->stage.access_token, "ya29.imp", "token");
	ok(play->stage.access_token_seconds >= 1798 && play->stage.access_token_seconds <= 1800, "its lifetime");
	is_text(play->last_body, "{\"delegates\":[\"d\"],\"scope\":[\"https://www.googleapis.com/auth/cloud-platform\"],\"lifetime\":\"3600s\"}", "what is asked for");
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}, {200, "{\"accessToken\":\"t\",\"expireTime\":\"soon\"}"}), ASK "POST " IMPERSONATE "; done", "expiry that is none");
	is_int(play->stage.access_token_seconds, 3600, "is what was asked for");
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}, {403, "{\"error\":{\"code\":403,\"message\":\"no\",\"status\":\"PERMISSION_DENIED\"}}"}),
			ASK "POST " IMPERSONATE "; failed auth PERMISSION_DENIED: the service account cannot be impersonated: no", "not allowed");
	arena_reset();
}

static void
test_external(void)
{
	const char *text = "{\"type\":\"external_account\",\"audience\":\"//iam/aud\",\"subject_token_type\":\"urn:jwt\",\"credential_source\":{\"file\":\"/t\"}}";
	const char *why;
	Play	   *play = auth_play(google_key_with_subject(text, "subject-0123", &why));

	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}), "POST https://sts.googleapis.com/v1/token; done", "external account");
	is_text(play->last_body,
			"grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Atoken-exchange&audience=%2F%2Fiam%2Faud&scope=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform"
			"&requested_token_type=urn%3Aietf%3Aparams%3Aoauth%3Atoken-type%3Aaccess_token&subject_token_type=urn%3Ajwt&subject_token=subject-0123", "form");
	text = "{\"type\":\"external_account\",\"audience\":\"a\",\"subject_token_type\":\"t\",\"credential_source\":{\"file\":\"/t\"},\"service_account_impersonation_url\":\"" IMPERSONATE "\"}";
	play = auth_play(google_key_with_subject(text, "subject-0123", &why));
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}, {200, "{\"accessToken\":\"ya29.imp\"}"}), "POST https://sts.googleapis.com/v1/token; POST " IMPERSONATE "; done", "and impersonation");
	is_text(AUTHORIZE(play, {400, "{\"error\":\"invalid_request\",\"error_description\":\"bad subject-0123\"}"}), "POST https://sts.googleapis.com/v1/token; failed auth invalid_request: bad ************", "refused");
	arena_reset();
}

#define METADATA(host)	"GET http://" host "/computeMetadata/v1/instance/service-accounts/default/token?scopes=https%3A%2F%2Fwww.googleapis.com%2Fauth%2Fcloud-platform; "

static void
test_metadata(void)
{
	Play	   *play = auth_play(google_key_metadata_server(NULL, false));

	is_text(AUTHORIZE(play, {200, TOKEN_REPLY, "metadata-flavor: Google"}), METADATA("metadata.google.internal") "done", "metadata server");
	is_text(play_header(&play->first, "Metadata-Flavor"), "Google", "its header");
	ok(play->first.no_proxy, "never through a proxy");
	is_text(AUTHORIZE(play, {-1}, {200, TOKEN_REPLY, "metadata-flavor: Google"}), METADATA("metadata.google.internal") METADATA("169.254.169.254") "done", "by its address");
	is_text(AUTHORIZE(play, {-1}, {-1}), METADATA("metadata.google.internal") METADATA("169.254.169.254") "failed temporary no_credentials: no key file was found, and no metadata server answers: no connection", "there is none");
	is_text(AUTHORIZE(play, {200, TOKEN_REPLY}), METADATA("metadata.google.internal") "failed auth no_credentials: what answers as metadata server is none", "somebody else answers");
	is_text(AUTHORIZE(play, {404, ""}), METADATA("metadata.google.internal") "failed auth no_service_account: no service account is attached to this machine", "no account");
	play = auth_play(google_key_metadata_server("127.0.0.1:99", true));
	is_text(AUTHORIZE(play, {-1}), METADATA("127.0.0.1:99") "failed temporary no_credentials: GOOGLE_API_KEY is set, but Vertex AI needs a service account's key file, and there is none, and no metadata server answers: no connection", "an API key instead");
	arena_reset();
}

int
main(void)
{
	make_private_key();
	test_service_account();
	test_clock();
	test_addresses();
	test_login();
	test_impersonation();
	test_external();
	test_metadata();
	free(private_key);
	return done_testing();
}
