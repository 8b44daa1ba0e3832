/*-------------------------------------------------------------------------
 *
 * txn.c
 *		Transactions of the worker, and becoming the ledger's owner.
 *
 * Without synchronous_commit a crash of the server could lose a batch's state
 * "creating" after its batch was created at the provider, and a second one
 * would be paid for; so it is raised in each transaction, whatever the role,
 * the database or a reload says.  The isolation level is set for the same
 * reason: what others have committed must be seen.
 *
 * A lock is waited for a tenth of a second only.  A user's transaction that is left
 * open behind a control function thus cannot stop the jobs of others, and where
 * it and the worker wait for each other it is the worker that gives way.
 *
 * The ledger's tables belong to the owner of schema dess_batch, and statements
 * on them run as that role and no stronger one, so that what it may have
 * attached to them runs with its own rights.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_namespace.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "runtime/guc.h"
#include "runtime/txn.h"

#define EXTENSION_NAME	"dess_batch"
#define LEDGER_SCHEMA	"dess_batch"

Oid
txn_extension_oid(void)
{
	return get_extension_oid(EXTENSION_NAME, true);
}

/* The worker's own settings, until the end of the transaction. */
static void
set_locally(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_LOCAL, true, 0, false);
}

/* Locks the extension against DROP and looks again; false when it is gone, or is another one. */
static bool
lock_extension(void)
{
	Oid			extension = txn_extension_oid();

	if (!OidIsValid(extension))
		return false;
	LockDatabaseObject(ExtensionRelationId, extension, 0, AccessShareLock);
	return txn_extension_oid() == extension;
}

bool
txn_begin(const char *activity)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	XactIsoLevel = XACT_READ_COMMITTED;
	/* default_transaction_read_only is for sessions; dess_batch.enabled stops the worker */
	XactReadOnly = false;

	if (!lock_extension())
	{
		AbortCurrentTransaction();
		return false;
	}

	if (synchronous_commit < SYNCHRONOUS_COMMIT_LOCAL_FLUSH)
		set_locally("synchronous_commit", "local");
	set_locally("lock_timeout", "100ms");
	PushActiveSnapshot(GetTransactionSnapshot());
	pgstat_report_activity(STATE_RUNNING, activity);
	return true;
}

void
txn_commit(void)
{
	PopActiveSnapshot();
	CommitTransactionCommand();
	pgstat_report_stat(true);
	pgstat_report_activity(STATE_IDLE, NULL);
}

static Oid
ledger_owner(void)
{
	HeapTuple	tuple;
	Oid			owner;

	tuple = SearchSysCache1(NAMESPACENAME, CStringGetDatum(LEDGER_SCHEMA));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_SCHEMA),
				 errmsg("schema \"%s\" does not exist", LEDGER_SCHEMA),
				 errhint("Use CREATE EXTENSION %s to make it.", EXTENSION_NAME)));
	owner = ((Form_pg_namespace) GETSTRUCT(tuple))->nspowner;
	ReleaseSysCache(tuple);
	return owner;
}

/*
 * Settings under which the ledger's plans are made.  They are kept, possibly
 * from a time when the tables were empty, for which a sequential scan is the
 * best plan; and the views' estimates are too coarse for the compiler.
 */
static void
pin_planner(void)
{
	static const char *const settings[] = {"enable_seqscan", "jit"};

	for (int i = 0; i < lengthof(settings); i++)
		(void) set_config_option(settings[i], "off",
								 PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
}

/* Errors between enter and leave end the transaction or subtransaction, which undoes it as well. */
void
ledger_enter(UserContext *context)
{
	Oid			owner = ledger_owner();

	GetUserIdAndSecContext(&context->saved_user, &context->saved_sec_context);
	SetUserIdAndSecContext(owner,
						   context->saved_sec_context | SECURITY_LOCAL_USERID_CHANGE);
	context->guc_nestlevel = guc_pin_output();
	pin_planner();
}

void
ledger_leave(UserContext *context)
{
	guc_unpin(context->guc_nestlevel);
	SetUserIdAndSecContext(context->saved_user, context->saved_sec_context);
}
