/*-------------------------------------------------------------------------
 *
 * give_up.c
 *		The ledger: rows that get no result from the provider.
 *
 * Rows of a batch that is given up, and waiting rows of a job that ends.  Both
 * are done in bounded parts, each in a transaction of the caller's.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ledger/internal.h"

/* rows of one part; a tuple that begins among them is taken whole */
#define PART_ROWS		5000

/* waiting rows that become a tuple of batch 0 */
#define TUPLE_ROWS		1000

static Statement select_part_end = {
	.sql = "SELECT min(i.first_no) FROM dess_batch.item i "
	"WHERE i.job_id = $1 AND i.batch_no = $2 AND i.first_no >= $3"
};

static Statement end_batch = {
	.sql = "UPDATE dess_batch.batch b SET state = $3, finished_at = coalesce(b.finished_at, now()) "
	"WHERE b.job_id = $1 AND b.no = $2"
};

/* The number from which on a batch has more items; 0: there are none, and the batch has ended in state. */
static int
next_part(const Job *job, int batch_no, int from, BatchState state)
{
	Ledger		ledger;
	int			next;

	ledger_open(&ledger);
	ledger_run(&select_part_end, arg_int64(job->id), arg_int32(batch_no), arg_int32(from));
	next = ledger_is_null(0, 1) ? 0 : ledger_get_int32(0, 1);
	if (next == 0)
		ledger_run(&end_batch, arg_int64(job->id), arg_int32(batch_no), arg_text(batch_state_name(state)));
	ledger_close(&ledger);
	return next;
}

int
ledger_give_up_batch(const Job *job, int batch_no, int *from, BatchState state, Outcome outcome,
					   const char *error_code, const char *error)
{
	JobItem    *items;
	bool	   *finished;
	int			before = *from - 1;
	int			nitems;
	ItemResult *results;
	char	  **keys;
	int		   *attempts;
	int			n = 0;

	nitems = ledger_load_items_between(job->id, batch_no, *from, *from + PART_ROWS, &items, &finished);
	results = palloc0_array(ItemResult, nitems + 1);
	keys = palloc_array(char *, nitems + 1);
	attempts = palloc_array(int, nitems + 1);
	for (int i = 0; i < nitems; i++)
	{
		if (finished[i])
			continue;
		results[n].no = before + i + 1;
		results[n].outcome = outcome;
		results[n].error_code = error_code;
		results[n].error = error;
		keys[n] = items[i].key;
		attempts[n++] = Max(items[i].attempts - 1, 0);
	}
	ledger_add_results(job, batch_no, results, n, 0);
	if (outcome == OUTCOME_SUPERSEDED)
		ledger_retry_queue_insert(job->id, keys, attempts, n);
	*from = next_part(job, batch_no, before + nitems + 1, state);
	return n;
}

/* Those that count become rows of batch 0 with an outcome, the others are dropped. */
bool
ledger_close_retry_queue(const Job *job, Outcome outcome, int limit)
{
	List	   *rows;
	int			taken = 0;

	while (taken < limit && (rows = ledger_retry_queue_take(job->id, Min(limit - taken, TUPLE_ROWS))) != NIL)
	{
		JobItem    *items = palloc0_array(JobItem, list_length(rows));
		ItemResult *results = palloc0_array(ItemResult, list_length(rows));
		int			first_no;
		int			n = 0;
		ListCell   *lc;

		foreach(lc, rows)
		{
			const RetryRow *row = lfirst(lc);

			if (!row->counts)
				continue;
			items[n].key = row->key;
			items[n].attempts = row->attempts;
			results[n++].outcome = outcome;
		}
		first_no = ledger_insert_items(job->id, 0, 0, items, n);
		for (int i = 0; i < n; i++)
			results[i].no = first_no + i;
		ledger_add_results(job, 0, results, n, 0);
		taken += list_length(rows);
	}
	return taken < limit;
}
