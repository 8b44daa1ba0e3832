/*-------------------------------------------------------------------------
 *
 * txn_procedure.c
 *		Procedures that end the transaction in which they were called.
 *
 * A commit in the middle of a CALL ends everything that belongs to the
 * transaction: no snapshot of ours may be active then, and what must outlive
 * it lies in the context that was current when the procedure was entered, or
 * in that of the connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/spi.h"
#include "nodes/parsenodes.h"

#include "runtime/txn.h"

bool
txn_call_is_atomic(FunctionCallInfo fcinfo)
{
	return fcinfo->context == NULL || !IsA(fcinfo->context, CallContext) ||
		castNode(CallContext, fcinfo->context)->atomic || IsSubTransaction();
}

void
txn_procedure_begin(void)
{
	if (SPI_connect_ext(SPI_OPT_NONATOMIC) != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
}

void
txn_procedure_commit(void)
{
	SPI_commit();
}

void
txn_procedure_end(void)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
}
