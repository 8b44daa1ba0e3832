/*-------------------------------------------------------------------------
 *
 * txn.h
 *		Transactions of the worker, and becoming the ledger's owner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TXN_H
#define DESS_TXN_H

#include "usercxt.h"

/*
 * Starts a transaction with a snapshot.  The extension is locked in share
 * mode, so that DROP EXTENSION waits for us and not we for it.  Returns false,
 * with no transaction open, when the extension is gone.
 */
extern bool txn_begin(const char *activity);
extern void txn_commit(void);

/* A new snapshot inside the transaction, to see what others have committed. */
extern void txn_refresh_snapshot(void);

/* OID of the extension, or InvalidOid.  Needs a transaction. */
extern Oid	txn_extension_oid(void);

/* Become the ledger's owner with a safe search_path, and back. */
extern void ledger_enter(UserContext *context);
extern void ledger_leave(UserContext *context);

#endif							/* DESS_TXN_H */
