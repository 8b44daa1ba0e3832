/*-------------------------------------------------------------------------
 *
 * usercxt.h
 *		Become the owner of a job, or of its table, and back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_USERCXT_H
#define DESS_RUNTIME_USERCXT_H

typedef struct UserContext
{
	Oid			saved_user;
	int			saved_sec_context;
	int			guc_nestlevel;
} UserContext;

/*
 * Whom the worker acts as on a relation: the job's owner, or the relation's
 * owner where the job's owner is a superuser and the relation's is not (a
 * security-restricted operation does not stop a trigger of that owner from
 * using a superuser's rights).
 */
extern Oid	usercxt_effective_role(Oid job_owner, Oid relation);

/*
 * Switches to role in a security-restricted operation with pinned output
 * settings and a safe search_path.  The transaction's end undoes it as well.
 */
extern void usercxt_enter(UserContext *context, Oid role);
extern void usercxt_leave(UserContext *context);

#endif							/* DESS_RUNTIME_USERCXT_H */
