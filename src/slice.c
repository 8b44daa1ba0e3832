/*-------------------------------------------------------------------------
 *
 * slice.c
 *		The worker's one error boundary.
 *
 * Everything that the worker does with the database goes through slice_run():
 * one transaction, one memory context, one place where errors end.  Transfers
 * live in contexts of their own and go on whatever happens here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/ipc.h"
#include "storage/lock.h"
#include "storage/lwlock.h"
#include "utils/memutils.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "slice.h"
#include "spool.h"
#include "txn.h"

/* A table's own code (triggers, functions in where_sql) may hold up everybody for this long, not longer. */
#define SLICE_TIMEOUT_MS	30000

static MemoryContext slice_context = NULL;
static TimestampTz slice_began;
static bool lock_lost = false;
static bool extension_seen = false;
uint64		slice_count = 0;
void		(*slice_after_abort) (void) = NULL;

/* Repetition without charge, with back-off, or never: by SQLSTATE class. */
static SliceVerdict
slice_verdict(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
		case ERRCODE_QUERY_CANCELED:
		case ERRCODE_T_R_SERIALIZATION_FAILURE:
		case ERRCODE_T_R_DEADLOCK_DETECTED:
			return SLICE_AGAIN;
		case ERRCODE_READ_ONLY_SQL_TRANSACTION:
			return SLICE_TROUBLE;
		default:
			break;
	}

	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_INSUFFICIENT_RESOURCES:
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
		case ERRCODE_INTERNAL_ERROR:
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_FDW_ERROR:
			return SLICE_TROUBLE;
		default:
			return SLICE_HOPELESS;
	}
}

static SliceVerdict
slice_recover(SliceError *error)
{
	ErrorData  *edata;
	SliceVerdict verdict;

	HOLD_INTERRUPTS();
	disable_timeout(STATEMENT_TIMEOUT, false);
	MemoryContextSwitchTo(slice_context);
	edata = CopyErrorData();
	FlushErrorState();
	AbortCurrentTransaction();
	LWLockReleaseAll();
	pgstat_report_activity(STATE_IDLE, NULL);
	RESUME_INTERRUPTS();
	lock_lost = true;

	verdict = slice_verdict(edata->sqlerrcode);
	if (edata->sqlerrcode == ERRCODE_QUERY_CANCELED &&
		TimestampDifferenceExceeds(slice_began, GetCurrentTimestamp(), SLICE_TIMEOUT_MS))
	{
		verdict = SLICE_TROUBLE;
		edata->message = psprintf("canceled after %d s: code of the table (trigger, function) is too slow",
								  SLICE_TIMEOUT_MS / 1000);
	}
	strlcpy(error->sqlstate, unpack_sql_state(edata->sqlerrcode), sizeof(error->sqlstate));
	strlcpy(error->message, edata->message ? edata->message : "unknown error", sizeof(error->message));
	error->message[pg_mbcliplen(error->message, strlen(error->message), sizeof(error->message) - 5)] = '\0';

	if (verdict != SLICE_AGAIN)
		ereport(LOG,
				(errcode(edata->sqlerrcode),
				 errmsg("dess_batch worker: %s", error->message),
				 edata->detail ? errdetail_internal("%s", edata->detail) : 0,
				 edata->context ? errcontext("%s", edata->context) : 0));
	return verdict;
}

SliceVerdict
slice_run(const char *activity, void (*fn) (void *arg), void *arg, SliceError *error)
{
	MemoryContext caller = CurrentMemoryContext;
	volatile SliceVerdict verdict = SLICE_DONE;

	if (slice_context == NULL)
		slice_context = AllocSetContextCreate(TopMemoryContext, "dess_batch slice",
											  ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(slice_context);
	slice_count++;

	PG_TRY();
	{
		if (!txn_begin(activity))
		{
			/* at the first look that is no news: not every database has the extension */
			if (extension_seen)
			{
				ereport(LOG, (errmsg("dess_batch worker stops because the extension is gone")));
				spool_remove_database(MyDatabaseId);
			}
			proc_exit(0);
		}
		extension_seen = true;
		MemoryContextSwitchTo(slice_context);
		slice_began = GetCurrentTimestamp();
		enable_timeout_after(STATEMENT_TIMEOUT, SLICE_TIMEOUT_MS);
		fn(arg);
		disable_timeout(STATEMENT_TIMEOUT, false);
		txn_commit();
	}
	PG_CATCH();
	{
		verdict = slice_recover(error);
	}
	PG_END_TRY();

	/* advisory locks that a table's own code took for its session: this one has no end */
	LockReleaseSession(USER_LOCKMETHOD);
	MemoryContextSwitchTo(caller);
	if (lock_lost)
	{
		lock_lost = false;
		if (slice_after_abort != NULL)
			slice_after_abort();
	}
	return verdict;
}
