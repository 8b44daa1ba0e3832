/*-------------------------------------------------------------------------
 *
 * key.c
 *		Credentials of Google: files of several kinds, and signed assertions.
 *
 * An account's secret is the JSON text of such a file, whatever its kind.  To an
 * external account belongs a second file, whose content is put into the text
 * when it is read, because nothing else here reads files.
 *
 * Nothing is palloc'd while libcrypto's objects exist, so that no error can
 * leave them behind.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include "provider/google/key.h"

#define MAX_SIGNATURE	1024	/* of a key of 8192 bits */
#define JWT_LIFETIME	3600

#define SERVICE_ACCOUNT_WANTED \
	"the JSON text of a service account's key file, with \"type\": \"service_account\", \"client_email\" and \"private_key\""

/* What a kind of credentials cannot do without. */
static const struct
{
	const char *type;
	GoogleKeyKind kind;
	const char *members[4];
	const char *wanted;
}			kinds[] = {
	{"service_account", GOOGLE_SERVICE_ACCOUNT, {"client_email", "private_key"}, SERVICE_ACCOUNT_WANTED},
	{"authorized_user", GOOGLE_AUTHORIZED_USER, {"client_id", "client_secret", "refresh_token"},
	"the JSON text of a login's file, with \"client_id\", \"client_secret\" and \"refresh_token\""},
	{"impersonated_service_account", GOOGLE_IMPERSONATED, {"service_account_impersonation_url"},
	"the JSON text of an impersonated service account, with \"service_account_impersonation_url\" and \"source_credentials\" of a service account or a login"},
	{"external_account", GOOGLE_EXTERNAL, {"audience", "subject_token_type"},
	"the JSON text of an external account, with \"audience\", \"subject_token_type\" and the name of a \"file\" in \"credential_source\" (programs, URLs and AWS are not supported)"},
	{"dess_batch metadata server", GOOGLE_METADATA_SERVER, {NULL}, NULL},
};

static bool
has_text(JsonValue *object, const char *name)
{
	const char *value = json_member_string(object, name);

	return value != NULL && value[0] != '\0';
}

/* The index in kinds, or -1. */
static int
find_kind(JsonValue *key)
{
	const char *type = json_member_string(key, "type");

	for (int i = 0; type != NULL && i < lengthof(kinds); i++)
	{
		if (strcmp(type, kinds[i].type) == 0)
			return i;
	}
	return -1;
}

GoogleKeyKind
google_key_kind(JsonValue *key)
{
	int			kind = find_kind(key);

	return kind >= 0 ? kinds[kind].kind : GOOGLE_NO_KEY;
}

static bool
has_members(JsonValue *key, int kind)
{
	for (int i = 0; i < lengthof(kinds[kind].members) && kinds[kind].members[i] != NULL; i++)
	{
		if (!has_text(key, kinds[kind].members[i]))
			return false;
	}
	return true;
}

/* Is what stands in the key of the kind complete? */
static bool
is_complete(JsonValue *key, int kind)
{
	JsonValue  *source;
	int			source_kind;

	if (!has_members(key, kind))
		return false;
	switch (kinds[kind].kind)
	{
		case GOOGLE_IMPERSONATED:
			source = json_member(key, "source_credentials");
			source_kind = find_kind(source);
			return source_kind >= 0 && has_members(source, source_kind) &&
				(kinds[source_kind].kind == GOOGLE_SERVICE_ACCOUNT ||
				 kinds[source_kind].kind == GOOGLE_AUTHORIZED_USER);
		case GOOGLE_EXTERNAL:
			return has_text(json_member(key, "credential_source"), "file");
		case GOOGLE_SERVICE_ACCOUNT:
		case GOOGLE_AUTHORIZED_USER:
		case GOOGLE_METADATA_SERVER:
		case GOOGLE_NO_KEY:
			break;
	}
	return true;
}

const char *
google_key_problem(const char *text, bool any_kind)
{
	const char *why;
	JsonDoc    *doc;
	JsonValue  *key;
	int			kind;
	const char *wanted = NULL;

	/* no key file, but perhaps what other Google services take */
	if (text[0] != '\0' && text[strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.")] == '\0')
		return SERVICE_ACCOUNT_WANTED "; an API key is no use to Vertex AI's batch jobs";
	doc = json_parse(text, strlen(text), &why);
	if (doc == NULL)
		return SERVICE_ACCOUNT_WANTED;

	key = json_root(doc);
	kind = find_kind(key);
	if (json_member(key, "installed") != NULL || json_member(key, "web") != NULL)
		wanted = SERVICE_ACCOUNT_WANTED ", not the file of an OAuth client";
	else if (kind < 0 || kinds[kind].kind == GOOGLE_METADATA_SERVER)
		wanted = any_kind ? SERVICE_ACCOUNT_WANTED ", or the credentials of another kind that gcloud writes" : SERVICE_ACCOUNT_WANTED;
	else if (!any_kind && kinds[kind].kind != GOOGLE_SERVICE_ACCOUNT)
		wanted = SERVICE_ACCOUNT_WANTED "; credentials of other kinds belong into the file that the server option \"credentials_file\" names";
	else if (!is_complete(key, kind))
		wanted = kinds[kind].wanted;
	google_key_free(doc);
	return wanted;
}

char *
google_key_subject_file(const char *text)
{
	const char *why;
	JsonDoc    *doc = json_parse(text, strlen(text), &why);
	JsonValue  *key = doc ? json_root(doc) : NULL;
	const char *file = NULL;
	char	   *result;

	if (google_key_kind(key) == GOOGLE_EXTERNAL)
		file = json_member_string(json_member(key, "credential_source"), "file");
	result = file ? pstrdup(file) : NULL;
	google_key_free(doc);
	return result;
}

char *
google_key_with_subject(const char *text, const char *content, const char **why)
{
	JsonDoc    *doc = json_parse(text, strlen(text), why);
	JsonValue  *format = doc ? json_path(json_root(doc), "credential_source.format") : NULL;
	const char *type = json_member_string(format, "type");
	const char *field = json_member_string(format, "subject_token_field_name");
	const char *brace = strrchr(text, '}');
	const char *token = content;
	JsonDoc    *inner = NULL;
	StringInfoData result;

	if (doc == NULL || brace == NULL)
		return NULL;
	if (type != NULL && strcmp(type, "json") == 0)
	{
		inner = json_parse(content, strlen(content), why);
		token = (inner != NULL && field != NULL) ? json_member_string(json_root(inner), field) : NULL;
	}
	if (token == NULL || token[0] == '\0' || !json_is_utf8(token, strlen(token)))
	{
		*why = "it holds no token of the kind that the credentials describe";
		google_key_free(inner);
		google_key_free(doc);
		return NULL;
	}

	/* the last of equal names counts */
	initStringInfo(&result);
	appendBinaryStringInfo(&result, text, brace - text);
	appendStringInfoString(&result, ",\"subject_token\":");
	json_append_cstring(&result, token);
	appendStringInfoChar(&result, '}');
	google_key_free(inner);
	google_key_free(doc);
	return result.data;
}

char *
google_key_metadata_server(const char *host, bool api_key_seen)
{
	StringInfoData key;

	initStringInfo(&key);
	appendStringInfoString(&key, "{\"type\":\"dess_batch metadata server\"");
	if (host != NULL && json_is_utf8(host, strlen(host)))
	{
		appendStringInfoString(&key, ",\"host\":");
		json_append_cstring(&key, host);
	}
	appendStringInfo(&key, ",\"api_key_seen\":%s}", api_key_seen ? "true" : "false");
	return key.data;
}

static void
wipe_strings(JsonValue *value)
{
	for (JsonValue *member = json_first(value); member != NULL; member = json_next(member))
	{
		const char *text = json_string(member);

		if (text != NULL)
			explicit_bzero(unconstify(char *, text), strlen(text));
		else
			wipe_strings(member);
	}
}

void
google_key_free(JsonDoc *doc)
{
	if (doc != NULL)
		wipe_strings(json_root(doc));
	json_free(doc);
}

bool
google_is_own_url(const char *url)
{
	static const char *const hosts[] = {".googleapis.com", "://accounts.google.com"};
	const char *host = url + strlen("https");
	size_t		length;

	if (pg_strncasecmp(url, "https://", 8) != 0)
		return false;

	/* "://" and the host: neither a user before it nor a port behind it */
	length = 3 + strspn(url + 8, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.-");
	if (host[length] != '\0' && host[length] != '/')
		return false;
	for (int i = 0; i < lengthof(hosts); i++)
	{
		size_t		suffix = strlen(hosts[i]);

		if (length >= suffix && pg_strncasecmp(host + length - suffix, hosts[i], suffix) == 0)
			return true;
	}
	return false;
}

char *
google_base64(const uint8 *data, size_t length, bool for_url)
{
	const char *digits = for_url ?
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_" :
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	StringInfoData text;

	initStringInfo(&text);
	for (size_t i = 0; i < length; i += 3)
	{
		uint32		bits = data[i] << 16;
		int			n = Min(length - i, 3);

		if (n > 1)
			bits |= data[i + 1] << 8;
		if (n > 2)
			bits |= data[i + 2];
		for (int j = 0; j < 4; j++)
		{
			if (j <= n)
				appendStringInfoChar(&text, digits[(bits >> (18 - 6 * j)) & 0x3F]);
			else if (!for_url)
				appendStringInfoChar(&text, '=');
		}
	}
	return text.data;
}

char *
google_jwt_unsigned(const char *email, const char *key_id, const char *audience, int64 now)
{
	StringInfoData header;
	StringInfoData claims;

	initStringInfo(&header);
	appendStringInfoString(&header, "{\"alg\":\"RS256\",\"typ\":\"JWT\"");
	if (key_id != NULL)
	{
		appendStringInfoString(&header, ",\"kid\":");
		json_append_cstring(&header, key_id);
	}
	appendStringInfoChar(&header, '}');

	initStringInfo(&claims);
	appendStringInfoString(&claims, "{\"iss\":");
	json_append_cstring(&claims, email);
	appendStringInfoString(&claims, ",\"scope\":\"" GOOGLE_SCOPE "\",\"aud\":");
	json_append_cstring(&claims, audience);
	appendStringInfo(&claims, ",\"iat\":" INT64_FORMAT ",\"exp\":" INT64_FORMAT "}", now, now + JWT_LIFETIME);

	return psprintf("%s.%s", google_base64((uint8 *) header.data, header.len, true),
					google_base64((uint8 *) claims.data, claims.len, true));
}

/* A key that asks for a passphrase gets none, instead of a question at the terminal. */
static int
no_passphrase(char *buffer, int size, int writing, void *arg)
{
	return -1;
}

static EVP_PKEY *
read_private_key(const char *pem)
{
	BIO		   *bio = BIO_new_mem_buf(pem, (int) strlen(pem));
	EVP_PKEY   *key = bio ? PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, NULL) : NULL;

	BIO_free(bio);
	return key;
}

/* Signs; returns the signature's length, or 0 with *why set. */
static size_t
sign_rs256(const char *text, const char *pem, uint8 *signature, const char **why)
{
	EVP_PKEY   *key = read_private_key(pem);
	EVP_MD_CTX *context = NULL;
	size_t		length = MAX_SIGNATURE;

	*why = NULL;
	if (key == NULL)
		*why = "the \"private_key\" is not a private key in PEM";
	else if (EVP_PKEY_base_id(key) != EVP_PKEY_RSA || EVP_PKEY_size(key) > MAX_SIGNATURE)
		*why = "the \"private_key\" is not an RSA key of at most 8192 bits";
	else
	{
		context = EVP_MD_CTX_new();
		if (context == NULL ||
			EVP_DigestSignInit(context, NULL, EVP_sha256(), NULL, key) != 1 ||
			EVP_DigestSign(context, signature, &length, (const unsigned char *) text, strlen(text)) != 1)
			*why = "the \"private_key\" could not sign";
	}
	EVP_MD_CTX_free(context);
	EVP_PKEY_free(key);
	ERR_clear_error();
	return *why == NULL ? length : 0;
}

char *
google_jwt_sign(const char *text, const char *private_key, const char **why)
{
	uint8		signature[MAX_SIGNATURE];
	size_t		length = sign_rs256(text, private_key, signature, why);

	if (length == 0)
		return NULL;
	return psprintf("%s.%s", text, google_base64(signature, length, true));
}
