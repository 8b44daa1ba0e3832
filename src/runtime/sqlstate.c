/*-------------------------------------------------------------------------
 *
 * sqlstate.c
 *		What an error says of the work that raised it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "runtime/sqlstate.h"

SqlstateKind
sqlstate_kind(int sqlerrcode)
{
	switch (sqlerrcode)
	{
		case ERRCODE_LOCK_NOT_AVAILABLE:
			return SQLSTATE_LOCKED;
		case ERRCODE_QUERY_CANCELED:
			return SQLSTATE_CANCELED;
		case ERRCODE_READ_ONLY_SQL_TRANSACTION:
			return SQLSTATE_READ_ONLY;
		default:
			break;
	}

	switch (ERRCODE_TO_CATEGORY(sqlerrcode))
	{
		case ERRCODE_TRANSACTION_ROLLBACK:
			return SQLSTATE_CONFLICT;
		case ERRCODE_INSUFFICIENT_RESOURCES:
			return SQLSTATE_RESOURCES;
		case ERRCODE_OPERATOR_INTERVENTION:
		case ERRCODE_SYSTEM_ERROR:
			return SQLSTATE_SERVER;
		case ERRCODE_CONNECTION_EXCEPTION:
		case ERRCODE_FDW_ERROR:
			return SQLSTATE_REMOTE;
		case ERRCODE_INTERNAL_ERROR:
			return SQLSTATE_INTERNAL;
		default:
			return SQLSTATE_OWN;
	}
}
