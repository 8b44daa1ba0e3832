/*
 * google_jwt.c
 *		Reads a signed JWT; whether its claims are right is for others to say.
 */
#include "google.h"

static cJSON *
read_part(const char *s, size_t len)
{
	size_t		n;
	unsigned char *text = base64url_decode(s, len, &n);
	const char *why;
	cJSON	   *json = text ? json_parse((char *) text, n, &why) : NULL;

	free(text);
	if (!cJSON_IsObject(json))
	{
		cJSON_Delete(json);
		return NULL;
	}
	return json;
}

/* False if it is none; jwt is to be freed in either case. */
bool
jwt_read(const char *text, Jwt *jwt)
{
	const char *dot = strchr(text, '.');
	const char *dot2 = dot ? strchr(dot + 1, '.') : NULL;
	const char *alg;
	unsigned char *sig;
	size_t		sig_len;

	memset(jwt, 0, sizeof(*jwt));
	if (dot2 == NULL || strchr(dot2 + 1, '.') != NULL)
		return false;
	jwt->header = read_part(text, (size_t) (dot - text));
	jwt->claims = read_part(dot + 1, (size_t) (dot2 - dot - 1));
	sig = base64url_decode(dot2 + 1, strlen(dot2 + 1), &sig_len);
	alg = json_str(jwt->header, "alg");
	if (jwt->header == NULL || jwt->claims == NULL || sig == NULL || alg == NULL)
	{
		free(sig);
		return false;
	}
	jwt->signed_well = strcmp(alg, "RS256") == 0 &&
		(json_get(jwt->header, "kid") == NULL ||
		 (json_str(jwt->header, "kid") != NULL &&
		  strcmp(json_str(jwt->header, "kid"), signing_key_id()) == 0)) &&
		signature_good(text, (size_t) (dot2 - text), sig, sig_len);
	free(sig);
	return true;
}

void
jwt_free(Jwt *jwt)
{
	cJSON_Delete(jwt->header);
	cJSON_Delete(jwt->claims);
	memset(jwt, 0, sizeof(*jwt));
}
