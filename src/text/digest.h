/*-------------------------------------------------------------------------
 *
 * digest.h
 *		SHA-256 of requests.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_DIGEST_H
#define DESS_TEXT_DIGEST_H

#define DIGEST_LENGTH	32

typedef struct Digest
{
	uint8		bytes[DIGEST_LENGTH];
} Digest;

/* SHA-256 of head (may be NULL with head_len 0) followed by tail. */
extern void digest_sha256(const void *head, size_t head_len,
						  const void *tail, size_t tail_len, Digest *result);
extern char *digest_to_hex(const Digest *digest);	/* 64 characters, palloc'd */
extern uint64 digest_hash64(const Digest *digest);	/* its first eight bytes */

#endif							/* DESS_TEXT_DIGEST_H */
