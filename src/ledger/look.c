/*-------------------------------------------------------------------------
 *
 * look.c
 *		The ledger: small questions.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ledger/internal.h"

static Statement select_batch_is_open = {
	.sql = "SELECT 1 FROM dess_batch.batch b WHERE b.job_id = $1 AND b.no = $2 AND NOT " BATCH_IS_FINAL("b.")
};

bool
ledger_batch_is_open(int64 job_id, int no)
{
	Ledger		ledger;
	Args		args = {0};
	bool		open;

	ledger_open(&ledger);
	arg_int64(&args, job_id);
	arg_int32(&args, no);
	open = ledger_run(&select_batch_is_open, &args) > 0;
	ledger_close(&ledger);
	return open;
}

static Statement select_known_targets = {
	.sql = "SELECT coalesce(pg_catalog.array_agg(DISTINCT c.name), '{}') FROM "
	"(SELECT j.target AS name FROM dess_batch.job j "
	"WHERE j.source = $1 AND j.target IS NOT NULL AND j.target_columns IS NULL "
	"UNION SELECT e.value FROM dess_batch.job j, pg_catalog.jsonb_each_text(j.target_columns) e "
	"WHERE j.source = $1 "
	"UNION SELECT s.target FROM dess_batch.settled s WHERE s.source = $1 AND s.target <> '') c"
};

List *
ledger_known_targets(Oid source)
{
	Ledger		ledger;
	Args		args = {0};
	List	   *targets = NIL;

	ledger_open(&ledger);
	arg_oid(&args, source);
	if (ledger_run(&select_known_targets, &args) > 0)
		targets = ledger_get_list(&ledger, 0, 1);
	ledger_close(&ledger);
	return targets;
}
