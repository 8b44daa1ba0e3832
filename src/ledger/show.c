/*-------------------------------------------------------------------------
 *
 * show.c
 *		The ledger: how far a job is, and what became of one row.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "ledger/internal.h"

#define STATE_OF_NO_JOB		"forgotten"

char *
ledger_job_figures(int64 id, char **state, int64 *rows, int64 *done, int64 *failed, double *rate,
					 bool *rows_known, char **eta, char **bar)
{
	static Statement statement = {
		.sql = "SELECT p.state, p.rows, p.done, p.failed, p.rows_per_second::float8, p.rows_known, p.eta::text, p.bar, p.waiting_for "
		"FROM dess_batch.progress p WHERE p.job_id = $1"
	};
	Ledger		ledger;
	char	   *waiting_for = NULL;

	*state = pstrdup(STATE_OF_NO_JOB);
	*rows = *done = *failed = 0;
	*rate = 0;
	*rows_known = false;
	*eta = *bar = NULL;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_int64(id)) > 0)
	{
		*state = ledger_get_text(&ledger, 0, 1);
		*rows = ledger_get_int64(0, 2, 0);
		*done = ledger_get_int64(0, 3, 0);
		*failed = ledger_get_int64(0, 4, 0);
		*rate = ledger_get_float8(0, 5, 0);
		*rows_known = ledger_get_bool(0, 6);
		*eta = ledger_get_text(&ledger, 0, 7);
		*bar = ledger_get_text(&ledger, 0, 8);
		waiting_for = ledger_get_text(&ledger, 0, 9);
	}
	ledger_close(&ledger);
	return waiting_for;
}

bool
ledger_stands_still(int64 id, char **state)
{
	static Statement statement = {
		.sql = "SELECT f.state, f.stands_still FROM dess_batch.figures f WHERE f.job_id = $1"
	};
	Ledger		ledger;
	bool		still = true;

	*state = pstrdup(STATE_OF_NO_JOB);
	ledger_open(&ledger);
	if (ledger_run(&statement, arg_int64(id)) > 0)
	{
		*state = ledger_get_text(&ledger, 0, 1);
		still = ledger_get_bool(0, 2);
	}
	ledger_close(&ledger);
	return still;
}

bool
ledger_find_row(const Job *job, const char *key, Digest *hash, char **answer, char **reply, int *batch_no)
{
	static Statement statement = {
		.sql = "SELECT substr(i.hashes, (p.i - 1) * 32 + 1, 32), a.answer, a.reply, i.batch_no "
		"FROM dess_batch.item i CROSS JOIN LATERAL (SELECT array_position(i.keys, $2) AS i) p "
		"LEFT JOIN dess_batch.answer a ON a.job_id = i.job_id AND a.batch_no = i.batch_no AND a.no = i.first_no + p.i - 1 "
		"WHERE i.job_id = $1 AND p.i IS NOT NULL "
		"ORDER BY EXISTS (SELECT FROM dess_batch.result r WHERE r.job_id = i.job_id AND r.batch_no = i.batch_no "
		"AND r.outcomes[array_position(r.nos, i.first_no + p.i - 1)] = 'superseded'), i.batch_no DESC, i.first_no DESC "
		"LIMIT 1"
	};
	Ledger		ledger;
	bool		found;

	*answer = *reply = NULL;
	*batch_no = 0;
	memset(hash, 0, sizeof(Digest));

	ledger_open(&ledger);
	found = ledger_run(&statement, arg_int64(job->id), arg_text(key)) > 0;
	if (found)
	{
		ledger_get_digest(0, 1, hash);
		*answer = ledger_get_text(&ledger, 0, 2);
		*reply = ledger_get_text(&ledger, 0, 3);
		*batch_no = ledger_get_int32(0, 4);
	}
	ledger_close(&ledger);
	return found;
}
