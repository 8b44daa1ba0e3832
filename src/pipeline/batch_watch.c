/*-------------------------------------------------------------------------
 *
 * batch_watch.c
 *		Batches at the provider: what a look at one means, and those that are not
 *		found, that another account sees, or that never end.
 *
 * "Not found" is said for a while of batches that exist, and for ever to the
 * key of another project.  A batch is given up as lost, and its rows are bought
 * again, only when the account that says so is the one that saw it last: a new
 * key of the same project sees it, and becomes that account at its first look.
 * Likewise only the account that was to make a batch can tell that it did not.
 *
 * A batch that did not end in the time that the service allows itself, and some
 * slack, is cancelled there and treated as expired.  The time of its creation
 * is in the ledger, so that this outlives the worker.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/timestamp.h"

#include "account/account.h"
#include "pipeline/internal.h"
#include "text/encoding.h"

/* "not found" is believed after this many looks over this time */
#define NOT_FOUND_LOOKS		4
#define NOT_FOUND_MS		(15 * 60 * 1000)
/* failures in a row that count for the pause between looks: half a minute; two seconds */
#define STRANGE_FAILURES	6
#define CANCEL_FAILURES		2
/* for a batch that was cancelled to end */
#define CANCEL_MS			(60 * 60 * 1000)
#define HOUR_MS				INT64CONST(3600000)
#define CANCEL_POLL_MS		2000

void
batch_asks(BatchTask *batch)
{
	if (batch->batch.state >= BATCH_CREATING)
		account_identity(batch->job->session->account, batch->looks.seen_by);
}

void
batch_was_seen(BatchTask *batch)
{
	/* its trouble, which an earlier process may have noted, is over */
	if (batch_is_of_another_account(batch))
		batch->failures = Max(batch->failures, 1);
	strlcpy(batch->batch.account, batch->looks.seen_by, ACCOUNT_IDENTITY_SIZE);
}

bool
batch_is_of_another_account(const BatchTask *batch)
{
	return batch->batch.account[0] != '\0' && strcmp(batch->batch.account, batch->looks.seen_by) != 0;
}

/* ---- batches that are not found ---- */

static bool
is_not_found(const StepError *error)
{
	return error->code != NULL && (strcmp(error->code, "404") == 0 || strcmp(error->code, CODE_NOT_FOUND) == 0);
}

/*
 * Whoever cancels the job gives up what a strange batch has cost: then a few
 * looks are enough.
 */
bool
batch_not_found_for_good(BatchTask *batch, const StepError *error)
{
	bool		strange = batch_is_of_another_account(batch);

	if (!is_not_found(error) || (strange && batch->job->job->control != CONTROL_CANCEL))
	{
		batch->looks.not_found = 0;
		return false;
	}
	if (batch->looks.not_found++ == 0)
		batch->looks.not_found_since = GetCurrentTimestamp();
	return batch->looks.not_found >= NOT_FOUND_LOOKS &&
		(strange || TimestampDifferenceExceeds(batch->looks.not_found_since, GetCurrentTimestamp(), NOT_FOUND_MS));
}

bool
batch_wait_for_account(BatchTask *batch, const StepError *error)
{
	StepError	why = *error;

	if (!is_not_found(error) || !batch_is_of_another_account(batch))
		return false;
	batch->failures = Min(batch->failures,
						  batch->job->job->control == CONTROL_CANCEL ? CANCEL_FAILURES - 1 : STRANGE_FAILURES - 1);
	why.code = CODE_OTHER_ACCOUNT;
	why.message = psprintf("the secret or the project has changed since the batch was last seen, and now it is not found: %s",
						   error->message != NULL ? error->message : "");
	batch_retry_step(batch, &why);
	return true;
}

void
batch_wait_for_creator(BatchTask *batch)
{
	static const StepError why = {
		.class = ERROR_TEMPORARY,
		.code = CODE_OTHER_ACCOUNT,
		.message = "the secret or the project has changed since the batch was asked for, and the account in use does not have it",
		.retry_after_ms = -1
	};

	batch->failures = Min(batch->failures, STRANGE_FAILURES - 1);
	batch_retry_step(batch, &why);
}

/* ---- batches that do not end ---- */

/* Should the provider have ended it long ago? */
static bool
is_overdue(const BatchTask *batch)
{
	int			hours = batch->job->session->account->provider->limits.max_hours;

	return hours > 0 && batch->batch.remote_created_at != 0 &&
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(batch->batch.remote_created_at, hours * HOUR_MS);
}

/* What an overdue batch comes to: expired, with words. */
static void
call_expired(BatchTask *batch)
{
	BatchRemote *remote = &batch->batch.remote;

	remote->status = REMOTE_EXPIRED;
	remote->error.class = ERROR_TEMPORARY;
	remote->error.code = batch_copy_text(batch, CODE_OVERDUE);
	remote->error.message = batch_copy_text(batch,
											psprintf("the batch did not end at the provider within %d hours",
													 batch->job->session->account->provider->limits.max_hours));
}

/* Was the provider told to cancel an overdue batch, and has not done it for an hour? */
static bool
was_cancelled_in_vain(const BatchTask *batch)
{
	return batch->looks.cancel_sent && is_overdue(batch) && batch->batch.remote_cancelled_at != 0 &&
		GetCurrentTimestamp() >= TimestampTzPlusMilliseconds(batch->batch.remote_cancelled_at, CANCEL_MS);
}

/* ---- what a look has shown ---- */

bool
batch_was_turned_away(const BatchTask *batch)
{
	const BatchRemote *remote = &batch->batch.remote;

	return remote->status == REMOTE_FAILED && remote->error.class == ERROR_RATE && remote->output_uris == NIL;
}

void
batch_go_back(BatchTask *batch)
{
	StepError	why = batch->batch.remote.error;

	if (batch->job->job->control == CONTROL_RUN)
	{
		(void) batch_put_back(batch, &why, batch_queue_full(batch));
		return;
	}
	batch_left_queue(batch);
	batch_move(batch, BATCH_RETRIEVING, "reading results");
}

static void
look_later(BatchTask *batch)
{
	const Account *account = batch->job->session->account;
	int64		ms = sched_poll_ms(batch->looks.watch == WATCH_OVERDUE ? 0 : batch->batch.polls - 1,
								   account->poll_interval * INT64CONST(1000), random_fraction());

	if (batch->job->job->control == CONTROL_CANCEL)
		ms = Min(ms, CANCEL_POLL_MS);
	batch->batch.next_poll_at = ms_from_now(ms);
	batch->due = batch->batch.next_poll_at;
}

/* The batch ended without anything to read: what now depends on why. */
static void
look_failed(BatchTask *batch)
{
	StepError	why = batch->batch.remote.error;
	JobTask    *task = batch->job;

	if (batch_was_turned_away(batch))
	{
		batch_save(batch, NULL);
		batch->failures = 0;
		batch->due = 0;
		return;
	}
	batch_left_queue(batch);
	if (why.class == ERROR_TOO_LARGE && task->job->control == CONTROL_RUN)
	{
		batch_too_large(batch, &why);
		return;
	}
	if (why.class == ERROR_TEMPORARY)
	{
		batch_move(batch, BATCH_RETRIEVING, "reading results");
		return;
	}
	batch_save(batch, &why);
	if (batch_release(batch) && task->job->control != CONTROL_CANCEL)
		jobtask_fail(task, encoding_to_server_lossy(why.code), encoding_to_server_lossy(why.message));
}

/* The batch has ended there; its results are read next. */
static void
look_ended(BatchTask *batch)
{
	if (batch->batch.remote.status == REMOTE_CANCELLED && batch->job->job->control != CONTROL_CANCEL &&
		is_overdue(batch))
		call_expired(batch);
	batch_left_queue(batch);
	batch->download.files = 0;
	batch->failures = 0;
	batch_move(batch, BATCH_RETRIEVING, "reading results");
}

/* The batch has not ended there: it is waited for, but not for ever. */
static void
look_not_ended(BatchTask *batch)
{
	if (was_cancelled_in_vain(batch))
	{
		call_expired(batch);
		batch->batch.remote.output_uris = NIL;
		look_ended(batch);
		return;
	}
	look_later(batch);
	if (is_overdue(batch) && batch->looks.watch == WATCH_WAIT)
	{
		batch->looks.watch = WATCH_OVERDUE;
		if (!batch->looks.cancel_sent)
			batch->due = 0;
		ereport(LOG,
				(errmsg("batch %d of dess_batch job " INT64_FORMAT " has not ended at the provider within %d hours, cancelling it",
						batch->batch.no, batch->job->job->id, batch->job->session->account->provider->limits.max_hours)));
	}
	batch_save(batch, NULL);
	batch->failures = 0;
}

void
batch_looked_at(BatchTask *batch)
{
	batch->looks.not_found = 0;
	batch_was_seen(batch);
	batch->batch.polls++;
	switch (batch->batch.remote.status)
	{
		case REMOTE_RUNNING:
			batch->queue.refusals = 0;
			/* FALLTHROUGH */
		case REMOTE_UNKNOWN:
		case REMOTE_QUEUED:
			look_not_ended(batch);
			break;
		case REMOTE_FAILED:
			if (batch->batch.remote.output_uris == NIL)
			{
				look_failed(batch);
				break;
			}
			/* FALLTHROUGH */
		case REMOTE_FINISHED:
		case REMOTE_EXPIRED:
		case REMOTE_CANCELLED:
		case REMOTE_LOST:
			look_ended(batch);
			break;
	}
}
