/*-------------------------------------------------------------------------
 *
 * prepare_count.c
 *		How many rows a job will have, while most of them are not prepared yet.
 *
 * Batches are prepared when there is room for them, which can take hours for a
 * large table; until then progress needs a number.  The rest of the table is
 * counted in worker transactions, when there is nothing to prepare, from where preparing
 * stood when the counting began.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "pipeline/internal.h"
#include "runtime/usercxt.h"

typedef struct CountState
{
	MemoryContext cxt;
	char	   *last_key;
	int64		rows;			/* taken when the counting began, and counted since */
	bool		done;

	/* what the transaction under way has found */
	int64		found;
	char	   *found_key;		/* in the transaction's memory */
} CountState;

/* Is there something to count that nobody knows? */
bool
count_wanted(const JobTask *task)
{
	const Job  *job = task->job;

	return !job->all_prepared && !job->listed && !job->sample && job->outcomes == NIL &&
		job->counted < 0 && job->last_key != NULL &&
		(task->count == NULL || !task->count->done);
}

static void
count_txn(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	CountState *count = task->count;
	const Job  *job = task->job;
	char	   *last_key = count->last_key;
	UserContext user;

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	count->found = count->rows + source_count_page(jobtask_table(task), &last_key, task->scanning.rows);
	usercxt_leave(&user);

	if (job->max_rows > 0 && count->found >= job->max_rows)
	{
		count->found = job->max_rows;
		last_key = NULL;
	}
	count->found_key = last_key;
	if (last_key == NULL)
		ledger_set_counted(job->id, count->found);
}

static void
count_remember(CountState *count)
{
	count->rows = count->found;
	count->done = count->found_key == NULL;
	if (count->done)
		return;
	pfree(count->last_key);
	count->last_key = MemoryContextStrdup(count->cxt, count->found_key);
}

/* One transaction of counting. */
void
count_work(JobTask *task)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (task->count == NULL)
	{
		MemoryContext cxt = AllocSetContextCreate(task->cxt, "dess_batch count", ALLOCSET_SMALL_SIZES);

		task->count = MemoryContextAllocZero(cxt, sizeof(CountState));
		task->count->cxt = cxt;
		task->count->last_key = MemoryContextStrdup(cxt, task->job->last_key);
		task->count->rows = task->job->taken;
	}
	verdict = jobtask_run(task, &task->scanning, "counting rows", count_txn, task, &error);
	if (verdict == WORKER_TXN_DONE)
		count_remember(task->count);
	else
		jobtask_trouble(task, verdict, &error);
	if (verdict == WORKER_TXN_SLOW && task->table != NULL)
		source_walk(task->table);
}
