/*-------------------------------------------------------------------------
 *
 * batch.h
 *		Batches in the worker's memory: what the stages of the pipeline need.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_BATCH_H
#define DESS_PIPELINE_BATCH_H

#include "pipeline/pipeline.h"

#define RETRY_CAP_MS		300000
/* a limit of the provider's queue: what waits there must shrink first */
#define QUEUE_RETRY_MS		60000
#define QUEUE_RETRY_CAP_MS	600000

/* Commits a new state of the batch, with what is known of it at the provider.  False: trouble, or somebody was faster. */
extern bool batch_move(BatchTask *batch, BatchState to, const char *activity);

/*
 * Commits that what was made at the provider is nothing, and is to be made
 * again when due, for the reason why.  False: trouble, and all is as before.
 */
extern bool batch_put_back(BatchTask *batch, const StepError *why, TimestampTz due);

/* Saves what is known of the batch; why (NULL: nothing) is noted as its error. */
extern void batch_save(BatchTask *batch, const StepError *why);

/* Is the account there, as it is now, with a secret?  Otherwise the job waits or has failed. */
extern bool batch_account_ready(BatchTask *batch);

/* What a step has learnt becomes the batch's own. */
extern void batch_adopt_remote(BatchTask *batch, const BatchRemote *learnt);
extern char *batch_copy_text(BatchTask *batch, const char *text);

/* May another batch go to the provider? */
extern bool batch_has_room(const BatchTask *batch);

/* The provider had no room for the batch: when to try again, unless another one ends before.  Counts. */
extern TimestampTz batch_queue_full(BatchTask *batch);

/* This batch has ended at the provider: what waits for room there longest is tried at once. */
extern void batch_left_queue(const BatchTask *batch);

/* Is the request file what the ledger says?  If not, it is being released, so that its rows are prepared anew. */
extern bool batch_file_intact(BatchTask *batch);

/*
 * The batch will not run: its rows go back, or are cancelled with the job, some
 * thousand a call.  False: trouble.  What began it begins it again after a
 * crash: what is wanted of the job, or a request file that is not whole.
 */
extern bool batch_release(BatchTask *batch);

/* Some megabytes of the checksum that a step wants; true when it stands in the stage. */
extern bool batch_checksum(BatchTask *batch);

/* The step is taken again after a delay. */
extern void batch_retry_step(BatchTask *batch, const StepError *error);

/* The provider takes smaller files than we thought: the rows are prepared again in smaller batches. */
extern void batch_too_large(BatchTask *batch, const StepError *why);

/* ---- batch_watch.c: batches at the provider ---- */

/* A look at the provider has succeeded: what now depends on what it says. */
extern void batch_looked_at(BatchTask *batch);

/*
 * Failed there without a result, for the provider's load: it is saved as that
 * before its job is removed there; then the same file is submitted again later,
 * unless ours ends.
 */
extern bool batch_was_turned_away(const BatchTask *batch);
extern void batch_go_back(BatchTask *batch);

/* The provider was asked by the account as it is now; what it answered is this account's. */
extern void batch_asks(BatchTask *batch);
extern void batch_was_seen(BatchTask *batch);

/* Was the batch last seen, or its creation last asked for, by another account than the one that asks now? */
extern bool batch_is_of_another_account(const BatchTask *batch);

/* The account in use has no such batch, and another one was to make it: it is looked for again, and the user is told why. */
extern void batch_wait_for_creator(BatchTask *batch);

/* Is "not found" old enough, and said by the right one, to be believed? */
extern bool batch_not_found_for_good(BatchTask *batch, const StepError *error);

/* A strange batch was not found: the same look is taken again, soon, and the user is told why.  False: it is not that. */
extern bool batch_wait_for_account(BatchTask *batch, const StepError *error);

#endif							/* DESS_PIPELINE_BATCH_H */
