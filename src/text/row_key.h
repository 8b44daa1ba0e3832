/*-------------------------------------------------------------------------
 *
 * row_key.h
 *		Text form of a row's key, as the ledger keeps it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TEXT_ROW_KEY_H
#define DESS_TEXT_ROW_KEY_H

#include "nodes/pg_list.h"

/* The texts of the key's columns as one text, palloc'd; the text itself when there is one column. */
extern char *key_join(char *const *values, int nvalues);
extern char *key_join_list(List *values);	/* of char * */

/* And back, palloc'd.  Raises XX000 when the key does not have that many columns. */
extern void key_split(const char *key, int nvalues, char **values);

/* A hash of a key that is the same on every machine, and evenly spread. */
extern uint64 key_hash64(const char *key);

#endif							/* DESS_TEXT_ROW_KEY_H */
