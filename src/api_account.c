/*-------------------------------------------------------------------------
 *
 * api_account.c
 *		Accounts for functions that tell what is wrong instead of raising it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "api_account.h"
#include "credential.h"

/* Message, detail and hint of an error as one text. */
static char *
error_in_words(const ErrorData *error)
{
	StringInfoData words;

	initStringInfo(&words);
	appendStringInfoString(&words, error->message);
	if (error->detail != NULL)
		appendStringInfo(&words, ". %s", error->detail);
	if (error->hint != NULL)
		appendStringInfo(&words, "%s %s", error->detail != NULL ? "" : ".", error->hint);
	return words.data;
}

/* The subtransaction is there to be rolled back: that alone makes an error harmless. */
Account *
account_try_load(Oid server, const char *provider, Oid role, char **why)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	Account    *volatile account = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		account = account_load(server, provider, role);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(error);
		*why = error_in_words(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return account;
}
