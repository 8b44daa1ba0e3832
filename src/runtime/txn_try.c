/*-------------------------------------------------------------------------
 *
 * txn_try.c
 *		Work whose errors are returned instead of being raised.
 *
 * Only the rollback of a subtransaction makes an error harmless.  It restores
 * the current user and the settings as well.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "runtime/sqlstate.h"
#include "runtime/txn.h"

/* Message, detail and hint of an error as one text. */
static char *
error_in_words(const ErrorData *error)
{
	StringInfoData words;

	initStringInfo(&words);
	appendStringInfoString(&words, error->message != NULL ? error->message : "unknown error");
	if (error->detail != NULL)
		appendStringInfo(&words, ". %s", error->detail);
	if (error->hint != NULL)
		appendStringInfo(&words, "%s %s", error->detail != NULL ? "" : ".", error->hint);
	return words.data;
}

ErrorData *
txn_catch(void (*fn) (void *arg), void *arg)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		fn(arg);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return error;
}

bool
txn_try(void (*fn) (void *arg), void *arg, char **why)
{
	ErrorData  *error = txn_catch(fn, arg);
	SqlstateKind kind;

	if (error == NULL)
		return true;
	/* a file that is missing (58P01) may be what was tried */
	kind = sqlstate_kind(error->sqlerrcode);
	if (kind == SQLSTATE_CANCELED || kind == SQLSTATE_RESOURCES)
		ReThrowError(error);
	*why = error_in_words(error);
	FreeErrorData(error);
	return false;
}
