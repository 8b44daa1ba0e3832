/*-------------------------------------------------------------------------
 *
 * step_run.h
 *		A step of a provider under way: the one place that drives a StageStep.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_ACCOUNT_STEP_RUN_H
#define DESS_ACCOUNT_STEP_RUN_H

#include "provider/provider.h"

typedef struct StepRun
{
	StageStep	step;			/* NULL: none is under way */
	BatchStage	stage;			/* what it looks at and changes */
	HttpTransfer *transfer;		/* whose reply it waits for; NULL: none */
	MemoryContext context;		/* of what it allocates; reset when a step begins */
} StepRun;

/* The context of steps is made below parent, and with it the transfer is ended. */
extern void step_run_init(StepRun *run, MemoryContext parent);

/* A step begins: its stage is all zeros, and the caller fills it in, in run->context. */
extern BatchStage *step_run_begin(StepRun *run, StageStep step);

/*
 * Lets the step look at a reply (NULL: none) and returns what it wants, with
 * the details in *result.  A request that it wants is started here: its
 * transfer comes back with owner, or is waited for by http_await().  After
 * STEP_DONE and STEP_FAILED no step is under way.
 */
extern StepKind step_run_advance(StepRun *run, const Account *account, HttpReply *reply,
								 void *owner, StepResult *result);

/* Ends the step in whatever state it is. */
extern void step_run_stop(StepRun *run);

#endif							/* DESS_ACCOUNT_STEP_RUN_H */
