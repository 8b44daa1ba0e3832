/*-------------------------------------------------------------------------
 *
 * settled.c
 *		The ledger: rows that need not be asked about again.
 *
 * A row is settled if its very same request has ended in a way that another
 * try would only repeat.  This outlives the job.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ledger/internal.h"

/* $1 to $5 of the statements below. */
#define SETTLED_ARGS \
	arg_oid(job->source), arg_text(job->target ? job->target : ""), arg_text(key_join_list(job->key_columns)), \
	arg_texts((const char *const *) keys, n), arg_digests(hashes, n)

void
ledger_settle(const Job *job, char **keys, const Digest *hashes, const Outcome *outcomes, int n)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.settled AS s (source, source_name, target, key_columns, key, hash, outcome) "
		"SELECT DISTINCT ON (u.key COLLATE \"C\", u.hash) $1, $7, $2, $3, u.key, u.hash, u.outcome::dess_batch.outcome "
		"FROM unnest($4, $5, $6) WITH ORDINALITY AS u(key, hash, outcome, i) "
		"WHERE u.key IS NOT NULL ORDER BY u.key COLLATE \"C\", u.hash, u.i DESC "
		"ON CONFLICT (source, target, key, hash) DO UPDATE SET outcome = excluded.outcome, "
		"key_columns = excluded.key_columns, settled_at = excluded.settled_at"
	};
	Ledger		ledger;
	const char **names;

	if (n <= 0)
		return;

	ledger_open(&ledger);
	names = palloc_array(const char *, n);
	for (int i = 0; i < n; i++)
		names[i] = outcome_name(outcomes[i]);
	ledger_run(&statement, SETTLED_ARGS, arg_texts(names, n), arg_text(job->source_name));
	ledger_close(&ledger);
}

void
ledger_find_settled(const Job *job, char **keys, const Digest *hashes, int n, bool *settled)
{
	static Statement statement = {
		.sql = "SELECT u.i FROM unnest($4, $5) WITH ORDINALITY AS u(key, hash, i) "
		"JOIN dess_batch.settled s ON s.source = $1 AND s.target = $2 AND s.key = u.key AND s.hash = u.hash "
		"WHERE s.key_columns = $3"
	};
	Ledger		ledger;
	uint64		found;

	memset(settled, 0, n * sizeof(bool));
	if (n <= 0)
		return;

	ledger_open(&ledger);
	found = ledger_run(&statement, SETTLED_ARGS);
	for (uint64 i = 0; i < found; i++)
		settled[ledger_get_int64(i, 1, 0) - 1] = true;
	ledger_close(&ledger);
}
