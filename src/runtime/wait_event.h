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

typedef enum WaitKind
{
	WAITS_LAUNCHER,				/* the launcher: until a database may have work */
	WAITS_IDLE,					/* a worker: for work */
	WAITS_TIME,					/* a worker: until something is due */
	WAITS_REPLY,				/* whoever sent a request: for its reply */
	WAITS_JOB,					/* a session: in dess_batch_wait or dess_batch_run */
	WAITS_WORKER				/* a process: for a worker to look up or to end */
} WaitKind;

/* The wait_event_info of such a wait.  Not before the process has its place in shared memory. */
extern uint32 waits_event(WaitKind kind);

#endif							/* DESS_RUNTIME_WAIT_EVENT_H */
