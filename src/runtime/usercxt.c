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
#include "catalog/pg_inherits.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/syscache.h"

#include "runtime/compat.h"
#include "runtime/guc.h"
#include "runtime/usercxt.h"

/*
 * Raises 42501 for a partition that is not a superuser's, below a table that
 * is: nobody but a superuser can act on the table, and nobody with a
 * superuser's rights may meet the triggers of the partition.
 */
static void
refuse_strange_partitions(Oid relation)
{
	ListCell   *lc;

	/* once locked, they cannot be given away behind our back */
	foreach(lc, find_all_inheritors(relation, AccessShareLock, NULL))
	{
		HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_class class;

		if (!HeapTupleIsValid(tuple))
			continue;
		class = (Form_pg_class) GETSTRUCT(tuple);
		if (!superuser_arg(class->relowner))
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
					 errmsg("partition \"%s\" does not belong to a superuser, as its table does",
							NameStr(class->relname)),
					 errdetail("Its triggers would run with the rights of a superuser."),
					 errhint("Submit as a role that is not a superuser, or let table and partitions have one owner.")));
		ReleaseSysCache(tuple);
	}
}

/*
 * Whom to act as on a relation.  Raises 42P01 when it is gone, and 42501 when
 * there is nobody; needs a transaction.
 */
Oid
usercxt_effective_role(Oid job_owner, Oid relation)
{
	HeapTuple	tuple;
	Oid			relation_owner;
	char		relkind;

	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relation));
	/* who opens the relation knows its name and says that it is gone */
	if (!HeapTupleIsValid(tuple))
		return job_owner;
	relation_owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
	relkind = ((Form_pg_class) GETSTRUCT(tuple))->relkind;
	ReleaseSysCache(tuple);

	if (!superuser_arg(job_owner))
		return job_owner;
	if (!superuser_arg(relation_owner))
		return relation_owner;
	if (relkind == RELKIND_PARTITIONED_TABLE)
		refuse_strange_partitions(relation);
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
