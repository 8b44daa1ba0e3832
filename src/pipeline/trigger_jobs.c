/*-------------------------------------------------------------------------
 *
 * trigger_jobs.c
 *		Makes jobs of what triggers ask for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "pipeline/internal.h"

/* trouble with a request is repeated after this */
#define REQUEST_RETRY_MS	5000
/* and so is what takes longer than this */
#define REQUEST_LIMIT_MS	5000

static TimestampTz requests_due = DT_NOEND;

/* Needs a transaction. */
void
trigger_jobs_refresh(void)
{
	requests_due = ledger_requests_due();
}

TimestampTz
trigger_jobs_due(void)
{
	return requests_due;
}

/* What is being submitted outlives the transaction that could not. */
typedef struct Submission
{
	MemoryContext cxt;
	TriggerRequest request;
	WorkerTxnError	error;
} Submission;

static void
submit_txn(void *arg)
{
	Submission *submission = arg;
	MemoryContext old = MemoryContextSwitchTo(submission->cxt);
	bool		found = ledger_find_request(&submission->request);

	MemoryContextSwitchTo(old);
	if (found)
	{
		ledger_drop_request(&submission->request);
		ledger_submit_request(&submission->request);
	}
	requests_due = ledger_requests_due();
}

static void
refuse_txn(void *arg)
{
	Submission *submission = arg;

	ledger_drop_request(&submission->request);
	ledger_refuse_request(&submission->request, submission->error.sqlstate, submission->error.message);
	requests_due = ledger_requests_due();
}

/* So that others have their turn. */
static void
put_off_txn(void *arg)
{
	Submission *submission = arg;

	ledger_put_off_request(&submission->request, ms_from_now(REQUEST_RETRY_MS));
	requests_due = ledger_requests_due();
}

/* Makes a job of the requests that are ripe first.  Returns whether there were any. */
bool
trigger_jobs_work(void)
{
	Submission	submission;
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (requests_due > GetCurrentTimestamp())
		return false;
	memset(&submission, 0, sizeof(submission));
	submission.cxt = CurrentMemoryContext;
	verdict = worker_txn_run_limited("submitting for a trigger", submit_txn, &submission,
								0, REQUEST_LIMIT_MS, &submission.error);
	if (verdict == WORKER_TXN_HOPELESS && submission.request.trigger != NULL)
		verdict = worker_txn_run("refusing a trigger", refuse_txn, &submission, &error);
	if (verdict == WORKER_TXN_DONE)
		pipeline_refresh_soon();
	else if (submission.request.trigger == NULL ||
			 worker_txn_run("putting off a trigger", put_off_txn, &submission, &error) != WORKER_TXN_DONE)
		requests_due = ms_from_now(REQUEST_RETRY_MS);
	return true;
}
