/*-------------------------------------------------------------------------
 *
 * digest.c
 *		SHA-256 of requests.
 *
 * Every rendered request is hashed, twice in its life, so the algorithm is
 * fetched from OpenSSL once per process and one context is used again and
 * again: a fetch costs more than hashing a short prompt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <openssl/evp.h>

#include "text/digest.h"

static EVP_MD *sha256 = NULL;
static EVP_MD_CTX *context = NULL;

static void
digest_broken(void)
{
#ifndef FRONTEND
	elog(ERROR, "could not compute a SHA-256 digest");
#else
	fprintf(stderr, "could not compute a SHA-256 digest\n");
	abort();
#endif
}

/* Gets what OpenSSL needs, once; may be called again after an error. */
static void
digest_prepare(void)
{
	if (sha256 == NULL)
		sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
	if (context == NULL)
		context = EVP_MD_CTX_new();
	if (sha256 == NULL || context == NULL)
		digest_broken();
}

void
digest_sha256(const void *head, size_t head_len,
			  const void *tail, size_t tail_len, Digest *result)
{
	unsigned int length = 0;

	if (sha256 == NULL || context == NULL)
		digest_prepare();

	if (EVP_DigestInit_ex(context, sha256, NULL) != 1 ||
		(head_len > 0 && EVP_DigestUpdate(context, head, head_len) != 1) ||
		(tail_len > 0 && EVP_DigestUpdate(context, tail, tail_len) != 1) ||
		EVP_DigestFinal_ex(context, result->bytes, &length) != 1 ||
		length != DIGEST_LENGTH)
		digest_broken();
}

char *
digest_to_hex(const Digest *digest)
{
	static const char digits[] = "0123456789abcdef";
	char	   *hex = palloc(2 * DIGEST_LENGTH + 1);

	for (int i = 0; i < DIGEST_LENGTH; i++)
	{
		hex[2 * i] = digits[digest->bytes[i] >> 4];
		hex[2 * i + 1] = digits[digest->bytes[i] & 0x0F];
	}
	hex[2 * DIGEST_LENGTH] = '\0';
	return hex;
}

/* Most significant byte first, so that the number is the same on every machine. */
uint64
digest_hash64(const Digest *digest)
{
	uint64		hash = 0;

	for (int i = 0; i < 8; i++)
		hash = (hash << 8) | digest->bytes[i];
	return hash;
}
