/*-------------------------------------------------------------------------
 *
 * trigger_jobs.c
 *		Makes jobs of what triggers ask for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "pipeline/pipeline.h"

/* trouble with a request is repeated after this */
#define REQUEST_RETRY_MS	5000
/* and so is what takes longer than this */
#define REQUEST_LIMIT_MS	5000

static TimestampTz requests_due = DT_NOEND;

/* Needs a transaction. */
void
triggered_refresh(void)
{
	requests_due = jobstore_requests_due();
}

TimestampTz
triggered_due(void)
{
	return requests_due;
}

/* What is being submitted outlives the transaction that could not. */
typedef struct Submission
{
	MemoryContext cxt;
	TriggerRequest request;
	SliceError	error;
} Submission;

static void
submit_slice(void *arg)
{
	Submission *submission = arg;
	MemoryContext old = MemoryContextSwitchTo(submission->cxt);
	bool		found = jobstore_find_request(&submission->request);

	MemoryContextSwitchTo(old);
	if (found)
	{
		jobstore_drop_request(&submission->request);
		jobstore_submit_request(&submission->request);
	}
	requests_due = jobstore_requests_due();
}

static void
refuse_slice(void *arg)
{
	Submission *submission = arg;

	jobstore_drop_request(&submission->request);
	jobstore_refuse_request(&submission->request, submission->error.sqlstate, submission->error.message);
	requests_due = jobstore_requests_due();
}

/* So that others have their turn. */
static void
put_off_slice(void *arg)
{
	Submission *submission = arg;

	jobstore_put_off_request(&submission->request, later(REQUEST_RETRY_MS));
	requests_due = jobstore_requests_due();
}

/* Makes a job of the requests that are ripe first.  Returns whether there were any. */
bool
triggered_work(void)
{
	Submission	submission;
	SliceError	error;
	SliceVerdict verdict;

	if (requests_due > GetCurrentTimestamp())
		return false;
	memset(&submission, 0, sizeof(submission));
	submission.cxt = CurrentMemoryContext;
	verdict = slice_run_limited("submitting for a trigger", submit_slice, &submission,
								0, REQUEST_LIMIT_MS, &submission.error);
	if (verdict == SLICE_HOPELESS && submission.request.trigger != NULL)
		verdict = slice_run("refusing a trigger", refuse_slice, &submission, &error);
	if (verdict == SLICE_DONE)
		pipeline_refresh_soon();
	else if (submission.request.trigger == NULL ||
			 slice_run("putting off a trigger", put_off_slice, &submission, &error) != SLICE_DONE)
		requests_due = later(REQUEST_RETRY_MS);
	return true;
}
