/*-------------------------------------------------------------------------
 *
 * wait_event.h
 *		What pg_stat_activity calls our waits, from PostgreSQL 17 on; before,
 *		all of them are the wait event "Extension".
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_WAIT_EVENT_H
#define DESS_RUNTIME_WAIT_EVENT_H

typedef enum DessWaitEvent
{
	WAIT_LAUNCHER,				/* the launcher: until a database may have work */
	WAIT_IDLE,					/* a worker: for work */
	WAIT_TIME,					/* a worker: until something is due */
	WAIT_REPLY,					/* whoever sent a request: for its reply */
	WAIT_JOB,					/* a session: in dess_batch_wait or dess_batch_run */
	WAIT_WORKER				/* a process: for a worker to look up or to end */
} DessWaitEvent;

/* What WaitLatch() takes for such a wait.  Must not be called before the process has its place in shared memory. */
extern uint32 wait_event_info(DessWaitEvent event);

#endif							/* DESS_RUNTIME_WAIT_EVENT_H */
