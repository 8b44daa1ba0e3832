/*-------------------------------------------------------------------------
 *
 * test_google_key.c
 *		Key files, signed assertions, and the headers of Cloud Storage.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <sys/stat.h>
#include <unistd.h>

#include "provider/google/gcs.h"
#include "provider/google/key.h"
#include "tap.h"

/* Runs a command and returns what it prints, "" if it cannot be run. */
static char *
output_of(const char *command)
{
	FILE	   *pipe = popen(command, "r");
	StringInfoData output;
	char		buffer[4096];
	size_t		got;

	initStringInfo(&output);
	while (pipe != NULL && (got = fread(buffer, 1, sizeof(buffer), pipe)) > 0)
		appendBinaryStringInfo(&output, buffer, got);
	if (pipe != NULL)
		pclose(pipe);
	return output.data;
}

/* The program openssl, which is not ours, signs the same text with the same key. */
static void
test_signature(void)
{
	char		directory[] = "/tmp/dess_batch_key_XXXXXX";
	char	   *pem;
	char	   *text;
	char	   *jwt;
	char	   *expected;
	const char *why = NULL;
	FILE	   *file;

	if (!ok(mkdtemp(directory) != NULL, "a directory"))
		return;
	for (int bits = 2048; bits <= 4096; bits += 2048)
	{
		pem = output_of(psprintf("cd %s && openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:%d -out key.pem 2>/dev/null && cat key.pem", directory, bits));
		text = google_jwt_unsigned("sa@p.iam.gserviceaccount.com", "k\"1", "https://oauth2.googleapis.com/token", INT64CONST(1795300000));
		file = fopen(psprintf("%s/text", directory), "w");
		fputs(text, file);
		fclose(file);
		expected = output_of(psprintf("cd %s && openssl dgst -sha256 -sign key.pem text | openssl base64 -A | tr '+/' '-_' | tr -d '='", directory));
		jwt = google_jwt_sign(text, pem, &why);
		ok(strlen(expected) > 300, "openssl signs");
		is_text(jwt, psprintf("%s.%s", text, expected), "the same signature with %d bits", bits);
	}
	pem = output_of(psprintf("cd %s && openssl ecparam -name prime256v1 -genkey -noout", directory));
	ok(google_jwt_sign("x", pem, &why) == NULL, "no signature with another kind of key");
	is_text(why, "the \"private_key\" is not an RSA key of at most 8192 bits", "why");
	pem = output_of(psprintf("cd %s && openssl rsa -in key.pem -aes128 -passout pass:x 2>/dev/null; rm -r %s", directory, directory));
	ok(strlen(pem) > 300 && google_jwt_sign("x", pem, &why) == NULL, "nor with a locked one");
	is_text(why, "the \"private_key\" is not a private key in PEM", "why");
	arena_reset();
}

static void
test_claims(void)
{
	char	   *text = google_jwt_unsigned("a@b", "k1", "https://t", 1000);

	const char *header = "{\"alg\":\"RS256\",\"typ\":\"JWT\",\"kid\":\"k1\"}";
	const char *claims = "{\"iss\":\"a@b\",\"scope\":\"https://www.googleapis.com/auth/cloud-platform\",\"aud\":\"https://t\",\"iat\":1000,\"exp\":4600}";

	is_text(text, psprintf("%s.%s", google_base64((const uint8 *) header, strlen(header), true),
						   google_base64((const uint8 *) claims, strlen(claims), true)),
			"header and claims");
	is_text(google_base64((const uint8 *) "", 0, false), "", "base64 of nothing");
	is_text(google_base64((const uint8 *) "f", 1, false), "Zg==", "base64 of one byte");
	is_text(google_base64((const uint8 *) "fo", 2, false), "Zm8=", "base64 of two");
	is_text(google_base64((const uint8 *) "foo", 3, false), "Zm9v", "base64 of three");
	is_text(google_base64((const uint8 *) "\xFB\xFF\xFE\xFF", 4, true), "-__-_w", "base64 for addresses");
	is_text(google_base64((const uint8 *) "\xFB\xFF\xFE\xFF", 4, false), "+//+/w==", "base64 otherwise");
	arena_reset();
}

#define ACCOUNT	"\"type\":\"service_account\",\"client_email\":\"a@b\",\"private_key\":\"p\""
#define LOGIN	"{\"type\":\"authorized_user\",\"client_id\":\"i\",\"client_secret\":\"s\",\"refresh_token\":\"r\"}"

static void
test_problems(void)
{
	static const struct
	{
		const char *text;
		bool		any_kind;
		const char *problem;	/* a part of it; NULL: none */
	}			cases[] = {
		{"{" ACCOUNT "}", false, NULL},
		{"{" ACCOUNT "}", true, NULL},
		{LOGIN, true, NULL},
		{LOGIN, false, "\"credentials_file\""},
		{"AIzaSyA-0123456789_abc", false, "an API key is no use"},
		{"AIzaSyA-0123456789_abc", true, "an API key is no use"},
		{"{\"installed\":{\"client_id\":\"x\"}}", true, "not the file of an OAuth client"},
		{"{\"web\":{\"client_id\":\"x\"}}", false, "not the file of an OAuth client"},
		{"{\"type\":\"gdch_service_account\"}", true, "another kind that gcloud writes"},
		{"{\"type\":\"service_account\",\"client_email\":\"a@b\"}", false, "\"private_key\""},
		{"{\"type\":\"authorized_user\",\"client_id\":\"i\"}", true, "\"refresh_token\""},
		{"{\"type\":\"external_account\",\"audience\":\"a\",\"subject_token_type\":\"t\",\"credential_source\":{\"executable\":{}}}", true, "programs, URLs and AWS are not supported"},
		{"{\"type\":\"external_account\",\"audience\":\"a\",\"subject_token_type\":\"t\",\"credential_source\":{\"file\":\"/f\"}}", true, NULL},
		{"{\"type\":\"impersonated_service_account\",\"service_account_impersonation_url\":\"u\"}", true, "\"source_credentials\""},
		{"{\"type\":\"impersonated_service_account\",\"service_account_impersonation_url\":\"u\",\"source_credentials\":" LOGIN "}", true, NULL},
		{"{\"type\":\"impersonated_service_account\",\"service_account_impersonation_url\":\"u\",\"source_credentials\":{\"type\":\"external_account\"}}", true, "\"source_credentials\""},
		{"{\"type\":\"dess_batch metadata server\"}", true, "another kind that gcloud writes"},
		{"", false, "the JSON text"},
		{"[]", false, "the JSON text"},
		{"{" ACCOUNT "} x", false, "the JSON text"},
	};

	for (int i = 0; i < lengthof(cases); i++)
	{
		const char *problem = google_key_problem(cases[i].text, cases[i].any_kind);

		if (cases[i].problem == NULL)
			is_text(problem, NULL, "no problem with %s", cases[i].text);
		else
			ok(problem != NULL && strstr(problem, cases[i].problem) != NULL, "%s: %s", cases[i].text, problem ? problem : "no problem");
	}
	arena_reset();
}

static void
test_subject(void)
{
	const char *text = "{\"type\":\"external_account\",\"subject_token\":\"old\",\"credential_source\":{\"file\":\"/f\"} }\n";
	const char *json = "{\"type\":\"external_account\",\"credential_source\":{\"file\":\"/f\",\"format\":{\"type\":\"json\",\"subject_token_field_name\":\"tok\"}}}";
	const char *why = NULL;
	JsonDoc    *doc;
	char	   *key;

	is_text(google_key_subject_file(text), "/f", "file");
	is_text(google_key_subject_file("{" ACCOUNT "}"), NULL, "no file");
	key = google_key_with_subject(text, "to\"ken", &why);
	doc = json_parse(key, strlen(key), &why);
	is_text(doc ? json_member_string(json_root(doc), "subject_token") : "not JSON", "to\"ken", "token in its place");
	json_free(doc);
	key = google_key_with_subject(json, "{\"tok\":\"abc\"}", &why);
	ok(key != NULL && strstr(key, ",\"subject_token\":\"abc\"}") != NULL, "token out of JSON");
	is_text(google_key_with_subject(json, "{\"other\":\"abc\"}", &why), NULL, "JSON without the token");
	ok(why != NULL && strstr(why, "holds no token") != NULL, "why");
	is_text(google_key_with_subject(text, "", &why), NULL, "empty file");
	arena_reset();
}

static void
test_own_urls(void)
{
	static const struct
	{
		const char *url;
		bool		own;
	}			cases[] = {
		{"https://oauth2.googleapis.com/token", true}, {"https://sts.googleapis.com", true}, {"HTTPS://ACCOUNTS.GOOGLE.COM/o", true},
		{"http://oauth2.googleapis.com/token", false}, {"https://oauth2.googleapis.com.evil.example/", false},
		{"https://evil.example/.googleapis.com", false}, {"https://evilgoogleapis.com/", false},
		{"https://x@oauth2.googleapis.com/", false}, {"https://oauth2.googleapis.com:444/", false},
		{"https://evil.example#.googleapis.com", false}, {"https://evil.example?.googleapis.com", false},
		{"https://evil.example\\.googleapis.com", false}, {"https://evil%2f.googleapis.com", false},
		{"https://xaccounts.google.com/", false}, {"https://", false}, {"", false}, {"http", false},
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_int(google_is_own_url(cases[i].url), cases[i].own, "%s", cases[i].url);
}

static void
test_ranges(void)
{
	static const struct
	{
		const char *value;
		int64		next;
	}			ranges[] = {
		{NULL, 0}, {"bytes=0-0", 1}, {"bytes=0-8388607", 8388608}, {"0-41", 42}, {"BYTES=0-1", 2},
		{"bytes=1-5", -1}, {"bytes=0-", -1}, {"bytes=-5", -1}, {"bytes=0-5,7-9", -1}, {"", -1}, {"bytes=0-x", -1},
		{"bytes=0-99999999999999999999", -1}, {"bytes=0-1 ", -1},
	};
	static const struct
	{
		const char *value;
		bool		good;
	}			contents[] = {
		{"bytes 5-9/10", true}, {"bytes 0-0/1", true}, {"bytes 5-9/*", true}, {"bytes 5-9/9", false}, {"bytes 9-5/10", false},
		{"bytes */10", false}, {"bytes=5-9/10", false}, {"bytes 5-9/10x", false}, {"bytes 5-9", false}, {NULL, false}, {"", false},
	};
	int64		first;
	int64		last;
	int64		total;
	char	   *bucket;
	char	   *name;

	for (int i = 0; i < lengthof(ranges); i++)
		is_int(gcs_parse_range(ranges[i].value), ranges[i].next, "range %s", ranges[i].value ? ranges[i].value : "absent");
	for (int i = 0; i < lengthof(contents); i++)
		is_int(gcs_parse_content_range(contents[i].value, &first, &last, &total), contents[i].good, "content range %s", contents[i].value ? contents[i].value : "absent");
	ok(gcs_parse_content_range("bytes 5-9/10", &first, &last, &total) && first == 5 && last == 9 && total == 10, "its numbers");

	/* the check value of CRC-32C, of "123456789" */
	is_text(gcs_crc32c_text(0xE3069283), "4waSgw==", "checksum as text");
	ok(gcs_parse_uri("gs://b/x/y", &bucket, &name), "address");
	is_text(bucket, "b", "its bucket");
	is_text(name, "x/y", "its name");
	ok(!gcs_parse_uri("gs://b/", &bucket, &name) && !gcs_parse_uri("gs:///x", &bucket, &name) &&
	   !gcs_parse_uri("http://b/x", &bucket, &name) && !gcs_parse_uri("gs://b", &bucket, &name), "addresses that are none");
	arena_reset();
}

int
main(void)
{
	test_signature();
	test_claims();
	test_problems();
	test_subject();
	test_own_urls();
	test_ranges();
	return done_testing();
}
