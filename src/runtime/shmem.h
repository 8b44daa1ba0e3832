/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		Control block in shared memory; exists only with preload.
 *
 * Locking: one spinlock over everything; nothing is done while it is held but
 * reading and writing the block.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_SHMEM_H
#define DESS_RUNTIME_SHMEM_H

/* To be called from _PG_init() of a preloaded library. */
extern void shmem_init(void);

/* A database whose worker could not be started: the launcher sees to it.  Nothing without preload. */
extern void shmem_flag_database(Oid database);

/* For the launcher. */
extern void shmem_register_launcher(void);
extern bool shmem_next_flagged(Oid *database);

/* How many workers have ended; each sets the launcher's latch, shortly before its slot is free. */
extern uint64 shmem_ended_workers(void);

/* For workers: this process serves the database, until it says otherwise or exits. */
extern void shmem_register_worker(Oid database);
extern void shmem_unregister_worker(void);

/* Sets the latch of the worker of a database.  False: none has registered.  Raises nothing. */
extern bool shmem_wake_worker(Oid database);

/* How often this worker was woken; may be read in a signal handler.  Always 0 without preload. */
extern uint64 shmem_wake_count(void);

/* Does whoever has work for this worker raise that count?  False without preload, or where there are too many workers. */
extern bool shmem_counts_wakes(void);

/* Has somebody asked this worker to make room? */
extern bool shmem_stop_requested(void);

/* Asks the worker of a database to exit and waits at most ten seconds.  False: it is still there. */
extern bool shmem_stop_worker(Oid database);

/* Is there a worker that has registered for the database?  False without preload. */
extern bool shmem_has_worker(Oid database);
extern bool shmem_available(void);

#endif							/* DESS_RUNTIME_SHMEM_H */
