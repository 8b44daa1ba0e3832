/*-------------------------------------------------------------------------
 *
 * usercxt.c
 *		Become the owner of a job, or of its table, and back.
 *
 * There is no clean-up by PG_TRY: an error that leaves between enter and leave
 * ends a transaction or subtransaction, and that restores user, security
 * context and settings of its beginning.  Such an error must therefore never
 * be caught without rolling back.
 *
 * A security-restricted operation keeps code of the table's owner (triggers,
 * index expressions, policies) from changing the session, not from using the
 * rights of the role it runs as.  Therefore a superuser's rights are put down
 * before a table of another owner is touched.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "compat.h"
#include "guc.h"
#include "usercxt.h"

/*
 * Whom to act as on a relation.  Raises 42P01 when it is gone; needs a
 * transaction.  The owner of the very relation that is read or written counts:
 * who works on one partition passes that partition.
 */
Oid
usercxt_effective_role(Oid job_owner, Oid relation)
{
	HeapTuple	tuple;
	Oid			relation_owner;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relation)));
	relation_owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	ReleaseSysCache(tuple);

	if (superuser_arg(job_owner) && !superuser_arg(relation_owner))
		return relation_owner;
	return job_owner;
}

/*
 * Switches to role.  Raises 42704, and has changed nothing, when the role was
 * dropped: its OID would still have the rights of PUBLIC.
 */
void
usercxt_enter(UserContext *context, Oid role)
{
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role with OID %u does not exist", role)));

	GetUserIdAndSecContext(&context->saved_user, &context->saved_sec_context);
	SetUserIdAndSecContext(role,
						   context->saved_sec_context |
						   SECURITY_LOCAL_USERID_CHANGE |
						   SECURITY_RESTRICTED_OPERATION);
	context->guc_nestlevel = guc_pin_output();
}

/* Undoes usercxt_enter(). */
void
usercxt_leave(UserContext *context)
{
	guc_unpin(context->guc_nestlevel);
	SetUserIdAndSecContext(context->saved_user, context->saved_sec_context);
}
