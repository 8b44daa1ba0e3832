/*-------------------------------------------------------------------------
 *
 * price.c
 *		The trigger of table dess_batch.price.
 *
 * Shipped prices are replaced by upgrade scripts and are no part of a dump.  So
 * that a user's correction of one survives both, it makes the row the user's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

PG_FUNCTION_INFO_V1(dess_batch_price_changed);

Datum
dess_batch_price_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	int			column;
	Datum		value = BoolGetDatum(false);
	bool		isnull = false;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_BEFORE(trigger->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(trigger->tg_event) || !TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("dess_batch.price_changed() must be called before an update of a row")));
	desc = RelationGetDescr(trigger->tg_relation);
	column = get_attnum(RelationGetRelid(trigger->tg_relation), "shipped");
	if (column <= 0 || TupleDescAttr(desc, column - 1)->atttypid != BOOLOID)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("relation \"%s\" has no column \"shipped\" of type boolean",
						RelationGetRelationName(trigger->tg_relation))));
	PG_RETURN_POINTER(heap_modify_tuple_by_cols(trigger->tg_newtuple, desc, 1, &column, &value, &isnull));
}
