/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		Which databases need a worker; exists only with preload.
 *
 * After a server start, and after a promotion, every database is looked at
 * once, one after the other: a worker is started in it, which stays if it
 * finds work.  From then on commits start workers themselves, and the launcher
 * sees to those that found no slot.  A hook makes workers leave a database
 * that is about to be dropped, renamed, moved or copied, and removes what one
 * that was dropped had in the spool.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "runtime/compat.h"
#include "runtime/guc.h"
#include "runtime/sched.h"
#include "runtime/shmem.h"
#include "runtime/spool.h"
#include "runtime/wait_event.h"
#include "runtime/wake.h"
#include "worker/worker.h"

#define LAUNCHER_RESTART_SECONDS	5
#define PROBE_MS					1000	/* a worker that is still there after this has found work */
#define SLOT_RETRY_FIRST_MS			100
#define SLOT_RETRY_CAP_MS			300000

static ProcessUtility_hook_type previous_utility_hook = NULL;

/* ---- databases ---- */

/* OIDs of the databases that the settings name and that can be connected to. */
static List *
launcher_databases(MemoryContext result_context)
{
	List	   *result = NIL;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);

		if (form->datallowconn && !form->datistemplate &&
			guc_database_listed(NameStr(form->datname)))
		{
			MemoryContext caller = MemoryContextSwitchTo(result_context);

			result = lappend_oid(result, form->oid);
			MemoryContextSwitchTo(caller);
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	return result;
}

/* Sleeps at most ms; handles reload and shutdown. */
static void
launcher_sleep(long ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | (ms >= 0 ? WL_TIMEOUT : 0) | WL_EXIT_ON_PM_DEATH,
					 ms, wait_event_info(WAIT_LAUNCHER));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
}

/*
 * Starts a worker in a database and gives it a moment to find out whether
 * there is work.  Returns false if no slot was free.
 */
static bool
launcher_probe(Oid database)
{
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	if (shmem_has_worker(database))
		return true;
	if (!wake_start_worker_handle(database, &handle))
		return false;
	for (int waited = 0; waited < PROBE_MS; waited += 20)
	{
		if (GetBackgroundWorkerPid(handle, &pid) == BGWH_STOPPED)
			break;
		launcher_sleep(20);
	}
	return true;
}

/* Adds the databases that were flagged meanwhile. */
static List *
launcher_add_flagged(List *databases)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			database;

	while (shmem_next_flagged(&database))
	{
		List	   *flagged = OidIsValid(database) ? list_make1_oid(database) : launcher_databases(context);

		MemoryContextSwitchTo(context);
		databases = list_concat_unique_oid(databases, flagged);
	}
	return databases;
}

/*
 * No slot was free when so many workers had ended: waits for the end of another
 * one, or, because slots are not ours alone, for a time that grows.  Returns how
 * many failures the next one comes after.
 */
static int
launcher_wait_for_slot(int failures, uint64 ended)
{
	TimestampTz end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(),
												  sched_backoff_ms(failures, SLOT_RETRY_FIRST_MS, SLOT_RETRY_CAP_MS, 0));
	long		ms;

	while ((ms = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), end)) > 0)
	{
		if (shmem_ended_workers() != ended)
			return 0;
		launcher_sleep(ms);
	}
	return failures;
}

/*
 * Looks at some databases; where no slot is free, one after the other is tried
 * again, and those that are flagged meanwhile with them.
 */
static void
launcher_serve(List *databases)
{
	int			failures = 0;

	while (databases != NIL)
	{
		Oid			database = linitial_oid(databases);
		uint64		ended = shmem_ended_workers();

		if (launcher_probe(database))
		{
			databases = list_delete_first(databases);
			failures = 0;
			continue;
		}
		databases = lappend_oid(list_delete_first(databases), database);
		failures = launcher_wait_for_slot(failures + 1, ended);
		databases = launcher_add_flagged(databases);
	}
}

void
dess_batch_launcher_main(Datum main_arg)
{
	MemoryContext turn;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	if (IsBinaryUpgrade)
		proc_exit(0);
	shmem_register_launcher();

	turn = AllocSetContextCreate(TopMemoryContext, "dess_batch launcher", ALLOCSET_DEFAULT_SIZES);
	MemoryContextSwitchTo(turn);
	launcher_serve(launcher_databases(turn));
	for (;;)
	{
		List	   *flagged;

		MemoryContextSwitchTo(turn);
		MemoryContextReset(turn);
		flagged = launcher_add_flagged(NIL);
		if (flagged != NIL)
			launcher_serve(flagged);
		else
			launcher_sleep(-1);
	}
}

/* ---- commands that want a database for themselves ---- */

static char *
option_string(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst(lc);

		if (strcmp(option->defname, name) == 0 && option->arg != NULL)
			return defGetString(option);
	}
	return NULL;
}

/*
 * The database that a command needs to be empty of sessions, or NULL.  *drops
 * is set when it will be gone afterwards.
 */
static char *
command_database(Node *parsetree, bool *drops)
{
	*drops = false;
	switch (nodeTag(parsetree))
	{
		case T_DropdbStmt:
			*drops = true;
			return ((DropdbStmt *) parsetree)->dbname;
		case T_RenameStmt:
			if (((RenameStmt *) parsetree)->renameType == OBJECT_DATABASE)
				return ((RenameStmt *) parsetree)->subname;
			return NULL;
		case T_AlterDatabaseStmt:
			if (option_string(((AlterDatabaseStmt *) parsetree)->options, "tablespace") != NULL)
				return ((AlterDatabaseStmt *) parsetree)->dbname;
			return NULL;
		case T_CreatedbStmt:
			return option_string(((CreatedbStmt *) parsetree)->options, "template");
		default:
			return NULL;
	}
}

/* Would the command be allowed?  If not, the command itself says so. */
static bool
command_allowed(Node *parsetree, Oid database)
{
	if (compat_database_ownercheck(database, GetUserId()))
		return true;
	return IsA(parsetree, CreatedbStmt) && superuser();
}

static void
launcher_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				 ProcessUtilityContext context, ParamListInfo params,
				 QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	volatile Oid database = InvalidOid;
	volatile Oid dropped = InvalidOid;
	bool		drops;
	char	   *name = command_database(pstmt->utilityStmt, &drops);

	if (name != NULL)
		database = get_database_oid(name, true);
	if (drops)
		dropped = database;
	if (!OidIsValid(database) || !shmem_has_worker(database) ||
		!command_allowed(pstmt->utilityStmt, database))
		database = InvalidOid;

	/* whatever comes of it, a worker that was stopped is started again */
	PG_TRY();
	{
		if (OidIsValid(database) && !shmem_stop_worker(database))
			ereport(WARNING,
					(errmsg("the dess_batch worker of database \"%s\" does not stop", name)));
		if (previous_utility_hook)
			previous_utility_hook(pstmt, query, read_only_tree, context, params, env, dest, qc);
		else
			standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	}
	PG_CATCH();
	{
		if (OidIsValid(database))
			shmem_flag_database(database);
		PG_RE_THROW();
	}
	PG_END_TRY();
	if (OidIsValid(dropped))
		spool_remove_database(dropped);
	else if (OidIsValid(database))
		shmem_flag_database(database);
}

void
launcher_init(void)
{
	BackgroundWorker worker;

	memset(&worker, 0, sizeof(worker));
	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = LAUNCHER_RESTART_SECONDS;
	strlcpy(worker.bgw_library_name, "dess_batch", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "dess_batch_launcher_main", BGW_MAXLEN);
	strlcpy(worker.bgw_name, "dess_batch launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "dess_batch launcher", BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);

	previous_utility_hook = ProcessUtility_hook;
	ProcessUtility_hook = launcher_utility;
}
