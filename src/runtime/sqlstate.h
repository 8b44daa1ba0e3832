/*-------------------------------------------------------------------------
 *
 * sqlstate.h
 *		What an error says of the work that raised it.
 *
 * Errors of PostgreSQL and of the code of users' tables are told apart by
 * their SQLSTATE alone.  Whoever catches one asks here what it means, and
 * decides by that whether to raise it again, to repeat, or to give up.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_SQLSTATE_H
#define DESS_RUNTIME_SQLSTATE_H

typedef enum SqlstateKind
{
	SQLSTATE_OWN,				/* about what was tried: the same will happen again */
	SQLSTATE_LOCKED,			/* somebody else holds a lock */
	SQLSTATE_CONFLICT,			/* serialization failure, deadlock */
	SQLSTATE_CANCELED,
	SQLSTATE_RESOURCES,			/* memory, disk, connections */
	SQLSTATE_SERVER,			/* shutdown, input and output */
	SQLSTATE_READ_ONLY,			/* the transaction may not write: a standby */
	SQLSTATE_REMOTE,			/* a connection or a foreign server */
	SQLSTATE_INTERNAL			/* an internal error */
} SqlstateKind;

/* The kind of the error with this (packed) SQLSTATE. */
extern SqlstateKind sqlstate_kind(int sqlerrcode);

#endif							/* DESS_RUNTIME_SQLSTATE_H */
