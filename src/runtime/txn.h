/*-------------------------------------------------------------------------
 *
 * txn.h
 *		Transactions of the worker, and becoming the ledger's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_TXN_H
#define DESS_RUNTIME_TXN_H

#include "fmgr.h"

#include "runtime/usercxt.h"

/*
 * Starts a transaction with a snapshot.  The extension is locked in share
 * mode, so that DROP EXTENSION waits for us and not we for it.  Returns false,
 * with no transaction open, when the extension is gone.
 */
extern bool txn_begin(const char *activity);
extern void txn_commit(void);

/* OID of the extension, or InvalidOid.  Needs a transaction. */
extern Oid	txn_extension_oid(void);

/* Become the ledger's owner with a safe search_path, and back. */
extern void ledger_enter(UserContext *context);
extern void ledger_leave(UserContext *context);

/*
 * Runs fn(arg) in a subtransaction of the open transaction, in the caller's
 * memory context (txn_try.c).  Returns the error that undid what it did,
 * palloc'd, or NULL.
 */
extern ErrorData *txn_catch(void (*fn) (void *arg), void *arg);

/*
 * Likewise, but returns false and sets *why to the error's message, detail and
 * hint, palloc'd.  A cancellation and a lack of resources are raised.
 */
extern bool txn_try(void (*fn) (void *arg), void *arg, char **why);

/*
 * Procedures (txn_procedure.c).  A CALL in a transaction block, in a function
 * or under an exception handler is atomic: it cannot commit.  Otherwise, between
 * begin and end, commit ends the transaction, with what the caller did before
 * in it, and starts a new one that has no snapshot yet.
 */
extern bool txn_call_is_atomic(FunctionCallInfo fcinfo);
extern void txn_procedure_begin(void);
extern void txn_procedure_commit(void);
extern void txn_procedure_end(void);

#endif							/* DESS_RUNTIME_TXN_H */
