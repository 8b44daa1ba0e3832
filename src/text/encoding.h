/*-------------------------------------------------------------------------
 *
 * encoding.h
 *		Between UTF-8, which the wire speaks, and the database's encoding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_ENCODING_H
#define DESS_TEXT_ENCODING_H

/* To be called in a transaction by a process that will convert outside of one. */
extern void encoding_init(void);

/*
 * UTF-8 text for the ledger or a message: what the database's encoding cannot
 * hold becomes "?".  Never raises because of the text.  NULL stays NULL.
 */
extern char *encoding_to_server_lossy(const char *utf8);

#endif							/* DESS_TEXT_ENCODING_H */
