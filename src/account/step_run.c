/*-------------------------------------------------------------------------
 *
 * step_run.c
 *		A step of a provider under way: the one place that drives a StageStep.
 *
 * The worker's batches, its access tokens and dess_batch_check all go through
 * steps in this way.  They differ in what a pause, a token or a checksum means
 * to them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "account/account.h"
#include "account/step_run.h"
#include "runtime/guc.h"

static void
end_transfer(void *arg)
{
	StepRun    *run = (StepRun *) arg;

	http_free(run->transfer);
	run->transfer = NULL;
}

void
step_run_init(StepRun *run, MemoryContext parent)
{
	MemoryContextCallback *callback;

	memset(run, 0, sizeof(*run));
	run->context = AllocSetContextCreate(parent, "dess_batch step", ALLOCSET_SMALL_SIZES);
	callback = MemoryContextAllocZero(parent, sizeof(MemoryContextCallback));
	callback->func = end_transfer;
	callback->arg = run;
	MemoryContextRegisterResetCallback(parent, callback);
}

BatchStage *
step_run_begin(StepRun *run, StageStep step)
{
	Assert(run->transfer == NULL);
	MemoryContextReset(run->context);
	memset(&run->stage, 0, sizeof(BatchStage));
	run->step = step;
	return &run->stage;
}

StepKind
step_run_advance(StepRun *run, const Account *account, HttpReply *reply, void *owner, StepResult *result)
{
	MemoryContext caller = MemoryContextSwitchTo(run->context);

	Assert(run->step != NULL);
	memset(result, 0, sizeof(*result));
	result->error.retry_after_ms = -1;
	run->stage.account = account;
	provider_step(run->step, &run->stage, reply, result);
	MemoryContextSwitchTo(caller);

	/* the reply was in it */
	end_transfer(run);
	if (result->kind == STEP_REQUEST)
	{
		account_complete_request(&result->request, account);
		if (result->request.sink_file != NULL)
			result->request.sink_limit = (int64) dess_spool_limit * 1024 * 1024;
		run->transfer = http_start(&result->request, owner);
	}
	else if (result->kind == STEP_DONE || result->kind == STEP_FAILED)
		run->step = NULL;
	return result->kind;
}

void
step_run_stop(StepRun *run)
{
	end_transfer(run);
	run->step = NULL;
}
