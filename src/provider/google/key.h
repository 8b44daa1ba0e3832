/*-------------------------------------------------------------------------
 *
 * key.h
 *		Credentials of Google: files of several kinds, and signed assertions.
 *
 * Compiles outside the backend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PROVIDER_GOOGLE_KEY_H
#define DESS_PROVIDER_GOOGLE_KEY_H

#include "text/json.h"

#define GOOGLE_SCOPE	"https://www.googleapis.com/auth/cloud-platform"
#define GOOGLE_TOKEN_URL	"https://oauth2.googleapis.com/token"
#define GOOGLE_STS_URL	"https://sts.googleapis.com/v1/token"

/* By the member "type". */
typedef enum GoogleKeyKind
{
	GOOGLE_SERVICE_ACCOUNT,
	GOOGLE_AUTHORIZED_USER,
	GOOGLE_IMPERSONATED,
	GOOGLE_EXTERNAL,
	GOOGLE_METADATA_SERVER,		/* of our own making: nothing but where to ask */
	GOOGLE_NO_KEY
} GoogleKeyKind;

extern GoogleKeyKind google_key_kind(JsonValue *key);

/*
 * NULL if text can be used, else what it must be ("the JSON text of ...");
 * any_kind allows more than service accounts.  Never quotes the text.
 */
extern const char *google_key_problem(const char *text, bool any_kind);

/* The file that an external account takes its subject token from, palloc'd, or NULL. */
extern char *google_key_subject_file(const char *key);

/*
 * The text of an external account with the content of that file in it, palloc'd;
 * NULL with *why set if that is no token.
 */
extern char *google_key_with_subject(const char *key, const char *content, const char **why);

/* What a machine without a key file asks instead.  host may be NULL. */
extern char *google_key_metadata_server(const char *host, bool api_key_seen);

/* Frees a document after overwriting the strings in it. */
extern void google_key_free(JsonDoc *doc);

/* Is this an https address of Google's own? */
extern bool google_is_own_url(const char *url);

/* Base64, or its form for URLs without padding; palloc'd. */
extern char *google_base64(const uint8 *data, size_t length, bool for_url);

/* The part of a JSON Web Token that is signed: header and claims.  key_id may be NULL. */
extern char *google_jwt_unsigned(const char *email, const char *key_id, const char *audience, int64 now);

/* Header, claims and their RS256 signature by a PEM private key, palloc'd; NULL with *why set. */
extern char *google_jwt_sign(const char *text, const char *private_key, const char **why);

#endif							/* DESS_PROVIDER_GOOGLE_KEY_H */
