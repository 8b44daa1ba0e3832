/*-------------------------------------------------------------------------
 *
 * worker.h
 *		One database's process, and the launcher that starts them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_WORKER_H
#define DESS_WORKER_H

extern PGDLLEXPORT void dess_batch_worker_main(Datum main_arg);
extern PGDLLEXPORT void dess_batch_launcher_main(Datum main_arg);

/* Registers the launcher and the hook that stops workers for DROP DATABASE and its kin; for a preloaded library. */
extern void launcher_init(void);

#endif							/* DESS_WORKER_H */
