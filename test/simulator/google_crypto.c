/*
 * google_crypto.c
 *		Base 64, CRC-32C, and the RSA key of the simulated service account.
 *
 * The key is made when it is first asked for: a simulator that only plays
 * another provider need not wait for it.
 */
#include "google.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

static pthread_mutex_t key_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_once_t table_once = PTHREAD_ONCE_INIT;
static EVP_PKEY *key;
static char key_id[41];
static uint32_t table[8][256];

/* To be freed. */
char *
base64_encode(const unsigned char *s, size_t len)
{
	char	   *out = xmalloc((len + 2) / 3 * 4 + 1);

	EVP_EncodeBlock((unsigned char *) out, s, (int) len);
	return out;
}

/* Without padding; NULL if it is not base64url.  To be freed. */
unsigned char *
base64url_decode(const char *s, size_t len, size_t *out)
{
	unsigned char *dst = xmalloc(len + 1);
	uint32_t	bits = 0;
	int			have = 0;

	*out = 0;
	for (size_t i = 0; i < len; i++)
	{
		static const char digits[] =
			"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
		const char *p = s[i] ? strchr(digits, s[i]) : NULL;

		if (p == NULL)
		{
			free(dst);
			return NULL;
		}
		bits = bits << 6 | (uint32_t) (p - digits);
		have += 6;
		if (have >= 8)
		{
			have -= 8;
			dst[(*out)++] = (unsigned char) (bits >> have);
		}
	}
	dst[*out] = '\0';
	return dst;
}

static void
table_make(void)
{
	for (uint32_t i = 0; i < 256; i++)
	{
		uint32_t	c = i;

		for (int k = 0; k < 8; k++)
			c = c & 1 ? c >> 1 ^ 0x82F63B78U : c >> 1;
		table[0][i] = c;
	}
	for (uint32_t i = 0; i < 256; i++)
	{
		for (int k = 1; k < 8; k++)
			table[k][i] = table[k - 1][i] >> 8 ^ table[0][table[k - 1][i] & 0xFF];
	}
}

/* CRC-32C over more data; starts from 0. */
uint32_t
crc32c(uint32_t crc, const void *data, size_t len)
{
	const unsigned char *p = data;

	pthread_once(&table_once, table_make);
	crc = ~crc;
	for (; len >= 8; len -= 8, p += 8)
	{
		uint32_t	low = crc ^ ((uint32_t) p[0] | (uint32_t) p[1] << 8 |
								 (uint32_t) p[2] << 16 | (uint32_t) p[3] << 24);

		crc = table[7][low & 0xFF] ^ table[6][low >> 8 & 0xFF] ^
			table[5][low >> 16 & 0xFF] ^ table[4][low >> 24] ^
			table[3][p[4]] ^ table[2][p[5]] ^ table[1][p[6]] ^ table[0][p[7]];
	}
	while (len-- > 0)
		crc = crc >> 8 ^ table[0][(crc ^ *p++) & 0xFF];
	return ~crc;
}

/* As Cloud Storage writes it: base 64 of the big-endian value.  To be freed. */
char *
crc32c_text(uint32_t crc)
{
	unsigned char b[4] = {(unsigned char) (crc >> 24), (unsigned char) (crc >> 16),
	(unsigned char) (crc >> 8), (unsigned char) crc};

	return base64_encode(b, 4);
}

static void
key_make(void)
{
	unsigned char *der = NULL;
	unsigned char digest[EVP_MAX_MD_SIZE];
	int			len;

	key = EVP_RSA_gen(2048);
	if (key == NULL)
		die("could not make an RSA key");
	len = i2d_PUBKEY(key, &der);
	if (len <= 0 || EVP_Digest(der, (size_t) len, digest, NULL, EVP_sha1(), NULL) != 1)
		die("could not write an RSA key");
	for (int i = 0; i < 20; i++)
		snprintf(key_id + i * 2, 3, "%02x", digest[i]);
	OPENSSL_free(der);
}

static void
need_key(void)
{
	pthread_mutex_lock(&key_lock);
	if (key == NULL)
		key_make();
	pthread_mutex_unlock(&key_lock);
}

const char *
signing_key_id(void)
{
	need_key();
	return key_id;
}

/* The private key as PKCS#8 in PEM, to be freed. */
char *
signing_key_pem(void)
{
	BIO		   *bio = BIO_new(BIO_s_mem());
	char	   *data;
	char	   *pem;
	long		len;

	need_key();
	if (bio == NULL || PEM_write_bio_PKCS8PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL) != 1)
		die("could not write an RSA key");
	len = BIO_get_mem_data(bio, &data);
	pem = xstrndup(data, (size_t) len);
	BIO_free(bio);
	return pem;
}

/* RSASSA-PKCS1-v1_5 with SHA-256, by the service account's key. */
bool
signature_good(const char *signed_text, size_t len, const unsigned char *sig, size_t sig_len)
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	bool		good;

	need_key();
	good = ctx != NULL && EVP_DigestVerifyInit(ctx, NULL, EVP_sha256(), NULL, key) == 1 &&
		EVP_DigestVerify(ctx, sig, sig_len, (const unsigned char *) signed_text, len) == 1;
	EVP_MD_CTX_free(ctx);
	return good;
}

void
crypto_stop(void)
{
	EVP_PKEY_free(key);
	key = NULL;
}
