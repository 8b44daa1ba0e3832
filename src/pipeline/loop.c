/*-------------------------------------------------------------------------
 *
 * loop.c
 *		Whose turn it is: one bounded piece of work for everybody in turn.
 *
 * No job waits for another's stage: each round gives every batch at most one
 * step, and one job, see group_size.c, a page of rows or a group of answers.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "storage/ipc.h"
#include "utils/timestamp.h"

#include "pipeline/internal.h"
#include "runtime/guc.h"
#include "text/encoding.h"

/* a look at the ledger failed and is repeated after this */
#define REFRESH_RETRY_MS	1000

/* ---- time ---- */

static TimestampTz
batch_due(const BatchTask *batch)
{
	if (batch->run.transfer != NULL)
		return DT_NOEND;
	if (batch->job->job->online && batch->batch.state == BATCH_RUNNING)
		return online_due(batch);
	return batch->due;
}

/* What is due already and could not be done waits for an event, not for time. */
static TimestampTz
job_due(const JobTask *task, TimestampTz now)
{
	TimestampTz first = DT_NOEND;
	dlist_iter	iter;

	if (task->due > now)
		first = Min(first, task->due);
	if (task->retry_due > now)
		first = Min(first, task->retry_due);
	if (task->job->paused_until > now)
		first = Min(first, task->job->paused_until);
	if (task->session != NULL && session_due(task->session) > now)
		first = Min(first, session_due(task->session));
	dlist_foreach(iter, &((JobTask *) task)->batches)
	{
		TimestampTz due = batch_due(dlist_container(BatchTask, node, iter.cur));

		if (due > now)
			first = Min(first, due);
	}
	return first;
}

/* ---- turns ---- */

/* Is there room in the spool? */
static bool
spool_has_room(void)
{
	dlist_iter	jobs;
	dlist_iter	iter;
	int64		bytes = 0;

	dlist_foreach(jobs, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, jobs.cur);

		dlist_foreach(iter, &task->batches)
		{
			BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

			if (batch->batch.state < BATCH_DONE)
				bytes += batch->batch.bytes;
		}
	}
	return bytes < (int64) dess_spool_limit * 1024 * 1024;
}

/* The work of stage 1. */
static bool
job_prepare(JobTask *task)
{
	bool		wanted = prepare_wanted(task);
	bool		did = true;

	if (task->due > GetCurrentTimestamp() || !(wanted || (jobtask_may_send(task) && count_wanted(task))) ||
		!fair_share_is_turn(&task->share))
		return false;
	if (wanted && spool_has_room())
		did = prepare_work(task);
	else if (wanted && prepare_close(task))
		did = true;
	else if (jobtask_may_send(task) && count_wanted(task))
		count_work(task);
	else
		did = false;
	task->prepared_last = did;
	return did;
}

static bool
job_work(JobTask *task)
{
	dlist_mutable_iter iter;
	bool		answers_first = task->prepared_last;
	bool		did = budget_resume(task);

	task->prepared_last = false;
	if (!answers_first && job_prepare(task))
		did = true;
	dlist_foreach_modify(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch_work(batch))
			did = true;
		/* a job that failed for good leaves alone what it cannot fetch */
		if (batch->batch.state >= BATCH_DONE ?
			batch->run.transfer == NULL && batch->run.step == NULL && !batch_needs_cleaning(batch) :
			task->job->state > JOB_ACTIVE)
			jobtask_drop_batch(batch);
	}
	if (answers_first && job_prepare(task))
		did = true;
	if (task->due <= GetCurrentTimestamp() && jobtask_try_finish(task))
		did = true;
	return did;
}

/* The other jobs have to know when this one needs the worker. */
static void
tell_share(JobTask *task)
{
	dlist_iter	iter;

	task->share.due = job_due(task, GetCurrentTimestamp());
	task->share.has_requests = false;
	dlist_foreach(iter, &task->batches)
	{
		const BatchTask *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->run.transfer != NULL || online_in_flight(batch) > 0)
			task->share.has_requests = true;
	}
}

bool
pipeline_work(void)
{
	dlist_mutable_iter iter;
	bool		did = false;

	if (pipeline_refresh_due <= GetCurrentTimestamp())
		pipeline_refresh();
	if (trigger_jobs_work())
		did = true;
	dlist_foreach_modify(iter, &fair_share_queue)
		tell_share(dlist_container(JobTask, share.node, iter.cur));
	fair_share_begin_round();
	dlist_foreach_modify(iter, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, iter.cur);

		if (job_work(task))
		{
			task->share.active_at = GetCurrentTimestamp();
			did = true;
		}
		tell_share(task);
		if (task->job->state > JOB_ACTIVE && dlist_is_empty(&task->batches))
			jobtask_drop(task);
	}
	return fair_share_end_round() || did;
}

void
pipeline_finished_transfers(void)
{
	HttpTransfer *transfer;

	while ((transfer = http_next_finished()) != NULL)
	{
		TransferOwner *owner = http_owner(transfer);

		if (owner->batch == NULL)
			session_take_reply(owner->session, http_reply(transfer));
		else if (owner->online)
			online_reply(owner, transfer);
		else
			batch_take_reply(owner->batch, http_reply(transfer));
	}
	online_flush();
}

/* ---- waiting ---- */

long
pipeline_timeout_ms(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz first = Min(pipeline_refresh_due, trigger_jobs_due());
	dlist_iter	jobs;

	dlist_foreach(jobs, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, jobs.cur);

		first = Min(first, job_due(task, now));
		first = Min(first, fair_share_due(&task->share));
	}
	if (first == DT_NOEND)
		return -1;
	return Max(first - now, 0) / 1000 + 1;
}

int
pipeline_open_jobs(void)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &fair_share_queue)
	{
		if (dlist_container(JobTask, share.node, iter.cur)->job->state <= JOB_ACTIVE)
			n++;
	}
	return n;
}

bool
pipeline_is_idle(void)
{
	return dlist_is_empty(&fair_share_queue) && pipeline_refresh_due == DT_NOEND && trigger_jobs_due() == DT_NOEND;
}

/* ---- the ledger ---- */

static bool
spool_is_claimed(int64 job_id, int batch_no)
{
	JobTask    *task = jobtask_find(job_id);
	dlist_iter	iter;

	if (task == NULL)
		return ledger_batch_is_open(job_id, batch_no);
	dlist_foreach(iter, &task->batches)
	{
		BatchTask  *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch->batch.no == batch_no)
			return batch->batch.state < BATCH_DONE;
	}
	return false;
}

static int
compare_tasks(const void *a, const void *b)
{
	int64		x = (*(JobTask *const *) a)->job->id;
	int64		y = (*(JobTask *const *) b)->job->id;

	return x < y ? -1 : x > y ? 1 : 0;
}

/* All jobs in memory, by id. */
static int
sort_tasks(JobTask ***tasks)
{
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &fair_share_queue)
		n++;
	*tasks = MemoryContextAllocHuge(CurrentMemoryContext, Max(n, 1) * sizeof(JobTask *));
	n = 0;
	dlist_foreach(iter, &fair_share_queue)
		(*tasks)[n++] = dlist_container(JobTask, share.node, iter.cur);
	qsort(*tasks, n, sizeof(JobTask *), compare_tasks);
	return n;
}

/* Jobs whose row is the one that we know are not read again: there may be many that wait. */
static void
refresh_txn(void *arg)
{
	JobVersion *versions;
	JobTask   **tasks;
	int			nversions = ledger_load_versions(&versions);
	int			ntasks = sort_tasks(&tasks);
	int			t = 0;
	ListCell   *lc;

	for (int v = 0; v < nversions; v++)
	{
		while (t < ntasks && tasks[t]->job->id < versions[v].id)
			t++;
		/* this may drop the task, which is not looked at again */
		if (t < ntasks && tasks[t]->job->id == versions[v].id)
			jobtask_refresh(tasks[t++], &versions[v]);
		else
			jobtask_refresh(NULL, &versions[v]);
	}
	foreach(lc, ledger_asked_polls())
	{
		const AskedPoll *poll = lfirst(lc);
		JobTask    *task = jobtask_find(poll->job_id);

		if (task != NULL)
			jobtask_ask_poll(task, poll->batch_no);
	}
	trigger_jobs_refresh();
}

void
pipeline_refresh(void)
{
	dlist_mutable_iter iter;
	WorkerTxnError	error;

	dlist_foreach_modify(iter, &fair_share_queue)
		dlist_container(JobTask, share.node, iter.cur)->seen = false;
	if (worker_txn_look("looking for jobs", refresh_txn, NULL, &error) != WORKER_TXN_DONE)
	{
		pipeline_refresh_due = ms_from_now(REFRESH_RETRY_MS);
		return;
	}
	pipeline_refresh_due = DT_NOEND;
	dlist_foreach_modify(iter, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, iter.cur);

		if (!task->seen)
			jobtask_drop(task);
	}
}

static void
init_txn(void *arg)
{
	encoding_init();
	ledger_check_identity();
}

static void
sweep_txn(void *arg)
{
	spool_sweep(spool_is_claimed);
}

/* The job whose table's code ended the last worker must not end this one as well. */
static void
block_culprit(void)
{
	JobTask    *task = jobtask_find(spool_culprit());

	if (task != NULL)
		jobtask_block(task);
	/* if that could not be written down, the next worker learns it again */
	if (task == NULL || task->job->control == CONTROL_FAIL)
		spool_forget_culprit();
}

void
pipeline_init(void)
{
	WorkerTxnError	error;

	session_init();
	if (worker_txn_run("starting", init_txn, NULL, &error) != WORKER_TXN_DONE)
	{
		spool_note_start_error(error.message);
		proc_exit(1);
	}
	spool_forget_start_error();
	pipeline_refresh();
	block_culprit();
	(void) worker_txn_run("sweeping the spool", sweep_txn, NULL, &error);
}

void
pipeline_suspend(void)
{
	dlist_mutable_iter iter;

	dlist_foreach_modify(iter, &fair_share_queue)
	{
		JobTask    *task = dlist_container(JobTask, share.node, iter.cur);

		if (!task->job->online)
			jobtask_drop(task);
	}
}
