/*-------------------------------------------------------------------------
 *
 * batch_token.c
 *		The random token of a batch, and the request ids made from it.
 *
 * The token is in the ledger before anything is sent, and travels with the
 * batch, so that a batch whose creation was not confirmed can be found again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "runtime/batch_token.h"

#define TOKEN_BYTES		((BATCH_TOKEN_SIZE - 1) / 2)
#define TOKEN_IN_ID		12

void
batch_new_token(char *token)
{
	uint8		random[TOKEN_BYTES];

	if (!pg_strong_random(random, sizeof(random)))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate a random token")));
	for (int i = 0; i < TOKEN_BYTES; i++)
		snprintf(token + 2 * i, 3, "%02x", random[i]);
}

void
batch_renew_token(char *token)
{
	char		fresh[BATCH_TOKEN_SIZE];

	batch_new_token(fresh);
	memcpy(token + TOKEN_IN_ID, fresh + TOKEN_IN_ID, BATCH_TOKEN_SIZE - TOKEN_IN_ID);
}

void
batch_custom_id(char *buffer, size_t size, const char *token, int no)
{
	snprintf(buffer, size, "%.*s-%d", TOKEN_IN_ID, token, no);
}

int
batch_parse_custom_id(const char *custom_id, const char *token)
{
	char	   *end;
	long		no;

	if (strncmp(custom_id, token, TOKEN_IN_ID) != 0 || custom_id[TOKEN_IN_ID] != '-')
		return 0;
	if (custom_id[TOKEN_IN_ID + 1] < '1' || custom_id[TOKEN_IN_ID + 1] > '9')
		return 0;
	errno = 0;
	no = strtol(custom_id + TOKEN_IN_ID + 1, &end, 10);
	if (errno != 0 || *end != '\0' || no > INT_MAX)
		return 0;
	return (int) no;
}
