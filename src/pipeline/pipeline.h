/*-------------------------------------------------------------------------
 *
 * pipeline.h
 *		The pipeline: what moves jobs and batches through the five stages.
 *
 * Only the worker calls this room.  Inside it data flow down: the loop gives
 * turns to the stages (prepare, upload, create, status, retrieve and merge; the
 * single requests of mode online), these change batches and jobs, and the rules
 * (fair share, group size, budget, rates) only answer questions.
 *
 * Two things that a newcomer gets wrong: everything in memory is a cache of the
 * ledger that may vanish at any instruction, and pipeline_refresh() builds it
 * again; and no transaction is open while a reply is awaited, so a state is
 * committed before the request that it announces leaves.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_H
#define DESS_PIPELINE_H

/* Called once by the worker: looks at the ledger, and sweeps the spool. */
extern void pipeline_init(void);

/* Looks at the ledger again. */
extern void pipeline_refresh(void);

/* Drops what is under way, but for online requests. */
extern void pipeline_suspend(void);

/* Takes the replies that have arrived. */
extern void pipeline_finished_transfers(void);

/* One bounded piece of work for everybody who has some; false: nothing was due. */
extern bool pipeline_work(void);

/* Milliseconds until something is due; -1: nothing ever. */
extern long pipeline_timeout_ms(void);

/* How many jobs have not ended. */
extern int	pipeline_open_jobs(void);

/* Is nothing left to do or to wait for? */
extern bool pipeline_is_idle(void);

#endif							/* DESS_PIPELINE_H */
