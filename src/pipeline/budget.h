/*-------------------------------------------------------------------------
 *
 * budget.h
 *		What a job may still spend.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_BUDGET_H
#define DESS_PIPELINE_BUDGET_H

#include "pipeline/pipeline.h"

/* Has the job, or its server, a budget?  The session's account is loaded. */
extern bool budget_watches(const JobTask *task);

/* What is reserved for so many requests, of so many bytes together. */
extern double budget_reserve(const JobTask *task, int64 requests, int64 bytes);

/* Pauses the job: its next request does not fit.  The figures are fresh. */
extern void budget_pause(JobTask *task);

/* A job's pause that ends by itself ends here.  Returns true if it did. */
extern bool budget_resume(JobTask *task);

/* Dollars that may be reserved for more requests; infinite where there is no budget.  False: nothing may be sent. */
extern bool budget_find_room(JobTask *task, double *room);

/* Does one more request fit?  Then *room is less by what is reserved for it; if it never will, the job is paused. */
extern bool budget_takes_request(JobTask *task, size_t bytes, double *room);

/* May the batch, which is not at the provider, go there?  If it never will, it is cut smaller, or the job is paused. */
extern bool budget_takes_batch(BatchTask *batch);

/* ---- for prepare.c ---- */

/* Is it worth while to prepare another batch now? */
extern bool budget_may_prepare(JobTask *task);

/* Dollars for the batch being filled; negative: no limit.  Needs a transaction, raises. */
extern double budget_for_batch(JobTask *task);

/* ---- for the merge ---- */

extern void budget_note_answer(JobTask *task, int64 input_tokens, int64 output_tokens);
extern void budget_note_spending(void);	/* the ledger has other figures than before */

#endif							/* DESS_PIPELINE_BUDGET_H */
