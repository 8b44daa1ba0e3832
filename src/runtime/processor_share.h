/*-------------------------------------------------------------------------
 *
 * processor_share.h
 *		How many other sessions of this server are at work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_PROCESSOR_SHARE_H
#define DESS_RUNTIME_PROCESSOR_SHARE_H

/*
 * Client backends that run a statement at this moment and wait neither for a
 * lock nor for somebody else.  Without track_activities: 0.
 */
extern int	active_backends(void);

/*
 * Which part of its time a process may use, if all that are at work have equal
 * parts of the processors: between 0 and 1.
 */
extern double processor_share(void);

#endif							/* DESS_RUNTIME_PROCESSOR_SHARE_H */
