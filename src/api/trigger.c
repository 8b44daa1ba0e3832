/*-------------------------------------------------------------------------
 *
 * trigger.c
 *		dess_batch_trigger: a table that asks for a job when it changes.
 *
 * The trigger only writes down that a transaction changed the table, once a
 * transaction: the worker makes the job, for what many transactions changed, as
 * the table's owner.  So the statement neither waits for anybody nor fails for
 * an argument that submit refuses.  The worker's own writes ask for nothing,
 * whatever table they reach, because a loop would cost money.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/event_trigger.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/tuplestore.h"

#include "ledger/ledger.h"
#include "runtime/wake.h"

PG_FUNCTION_INFO_V1(dess_batch_trigger);
PG_FUNCTION_INFO_V1(dess_batch_note_trigger_makers);

/* What the current transaction has asked for already. */
typedef struct Asked
{
	Oid			trigger;
	bool		updates;
	int			level;			/* nesting level of the transaction that asked */
} Asked;

static List *asked = NIL;		/* of Asked, in TopTransactionContext */

static void
forget_asked(XactEvent event, void *arg)
{
	if (event == XACT_EVENT_COMMIT || event == XACT_EVENT_ABORT || event == XACT_EVENT_PREPARE)
		asked = NIL;
}

/* What a subtransaction asked for is its parent's, or undone. */
static void
hand_on_asked(SubXactEvent event, SubTransactionId my, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	ListCell   *lc;

	if (event != SUBXACT_EVENT_ABORT_SUB && event != SUBXACT_EVENT_COMMIT_SUB)
		return;
	foreach(lc, asked)
	{
		Asked	   *entry = lfirst(lc);

		if (entry->level < level)
			continue;
		if (event == SUBXACT_EVENT_COMMIT_SUB)
			entry->level = level - 1;
		else
			asked = foreach_delete_current(asked, lc);
	}
}

/* Has this transaction asked for as much already?  Remembers that it has. */
static bool
ask_once(Oid trigger, bool updates)
{
	static bool registered = false;
	MemoryContext old;
	Asked	   *entry;
	ListCell   *lc;

	foreach(lc, asked)
	{
		entry = lfirst(lc);
		if (entry->trigger == trigger && (entry->updates || !updates))
			return true;
	}
	if (!registered)
	{
		RegisterXactCallback(forget_asked, NULL);
		RegisterSubXactCallback(hand_on_asked, NULL);
		registered = true;
	}
	old = MemoryContextSwitchTo(TopTransactionContext);
	entry = palloc(sizeof(Asked));
	entry->trigger = trigger;
	entry->updates = updates;
	entry->level = GetCurrentTransactionNestLevel();
	asked = lappend(asked, entry);
	MemoryContextSwitchTo(old);
	return false;
}

static void
check_protocol(FunctionCallInfo fcinfo)
{
	TriggerData *data = (TriggerData *) fcinfo->context;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"dess_batch_trigger\" was not called by trigger manager")));
	if (!TRIGGER_FIRED_AFTER(data->tg_event) || !TRIGGER_FIRED_FOR_STATEMENT(data->tg_event) ||
		!(TRIGGER_FIRED_BY_INSERT(data->tg_event) || TRIGGER_FIRED_BY_UPDATE(data->tg_event)))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" must be fired AFTER INSERT OR UPDATE for each statement",
						data->tg_trigger->tgname),
				 errhint("Create it with: CREATE TRIGGER ... AFTER INSERT OR UPDATE ON ... "
						 "FOR EACH STATEMENT EXECUTE FUNCTION dess_batch_trigger('model');")));
}

Datum
dess_batch_trigger(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Trigger    *trigger;
	List	   *arguments = NIL;
	bool		updates;

	check_protocol(fcinfo);
	if (wake_in_worker())
		return PointerGetDatum(NULL);
	/* a transition table tells that no row was touched */
	if (data->tg_newtable != NULL && tuplestore_tuple_count(data->tg_newtable) == 0)
		return PointerGetDatum(NULL);

	trigger = data->tg_trigger;
	updates = TRIGGER_FIRED_BY_UPDATE(data->tg_event);
	if (ask_once(trigger->tgoid, updates))
		return PointerGetDatum(NULL);
	for (int i = 0; i < trigger->tgnargs; i++)
		arguments = lappend(arguments, trigger->tgargs[i]);
	ledger_add_request(RelationGetRelid(data->tg_relation), trigger->tgname, arguments, updates);
	wake_at_commit();
	return PointerGetDatum(NULL);
}

/* The event trigger that remembers who makes triggers: the role that CREATE TRIGGER runs as. */
Datum
dess_batch_note_trigger_makers(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("function \"note_trigger_makers\" was not called by event trigger manager")));
	ledger_note_trigger_makers();
	return (Datum) 0;
}
