/*-------------------------------------------------------------------------
 *
 * batch_token.h
 *		The random token of a batch, and the request ids made from it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_BATCH_TOKEN_H
#define DESS_RUNTIME_BATCH_TOKEN_H

#define BATCH_TOKEN_SIZE	33

/* 32 hexadecimal digits.  Raises if there is no randomness. */
extern void batch_new_token(char *token);

/*
 * Draws the part of a token anew that is not in request ids: the same request
 * file is submitted once more, as a batch that is not mistaken for the first.
 */
extern void batch_renew_token(char *token);

/* "<12 digits of the token>-<number>": at most 24 characters of [0-9a-f-]. */
extern void batch_custom_id(char *buffer, size_t size, const char *token, int no);

/* The number in a request id of this batch; 0 if it is not one of ours. */
extern int	batch_parse_custom_id(const char *custom_id, const char *token);

#endif							/* DESS_RUNTIME_BATCH_TOKEN_H */
