/*-------------------------------------------------------------------------
 *
 * table.h
 *		The user's table: read rows to send, lock and write answers.
 *
 * All statements run as the role that usercxt_effective_role() names; the
 * caller has entered its UserContext.  Text leaves in UTF-8 and comes back in
 * UTF-8; conversion from and to the database's encoding happens here.  Keys
 * are the ledger's and stay in the database's encoding, as what is in a Job.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TABLE_H
#define DESS_TABLE_H

#include "ledger/ledger.h"

typedef struct TargetTable TargetTable;

/* One row of the user's table, rendered. */
typedef struct TargetRow
{
	char	   *key;			/* as the ledger keeps it */
	char	   *text;			/* rendered prompt, UTF-8; NULL: nothing to read, or not convertible */
	size_t		text_length;
	bool		convertible;	/* false: bytes that are not text in UTF-8, or more than 32 MB of them */
	bool		too_large;		/* not convertible because of that */
	bool		wanted;			/* filter and NULL target hold */
	bool		target_null;	/* all targets are null */
	bool		remote;			/* read by key from a foreign partition, which locks nothing */
	Digest		hash;
	uint64		held;			/* digest of what the targets hold; 0: all null */
} TargetRow;

/* What became of a row that was to be written only if it is unchanged. */
typedef enum TargetVerdict
{
	WRITE_OPEN,					/* nothing is known: lock it and look */
	WRITE_UNCHANGED,			/* and written */
	WRITE_TEXT_CHANGED,
	WRITE_TARGET_CHANGED
} TargetVerdict;

typedef struct TargetWrite
{
	int			item;			/* caller's index */
	const char *key;
	char	  **values;			/* one text or NULL per written column, UTF-8 */
	const Digest *hash;			/* for target_write_unchanged() alone, like held */
	uint64		held;
	/* out */
	TargetVerdict verdict;		/* likewise */
	bool		written;
	bool		locked;			/* not written now: others hold a lock that the UPDATE needs */
	char	   *sqlstate;		/* why not; NULL: nothing was raised, but the row was passed over */
	char	   *message;		/* UTF-8, at most 200 bytes */
} TargetWrite;

/*
 * Opens the table of a job: resolves columns and types, parses the template.
 * Raises when something the job needs is gone (42P01, 42703, 42P10, ...) or
 * cannot be (42809, 428C9, 42701, 42883, 22023).  Lives in a child of the
 * current memory context, with the plans of its statements; needs a
 * transaction and outlives it.
 */
extern TargetTable *target_open(const Job *job);

/*
 * True while nothing has changed the table's definition since target_open().
 * Needs a transaction.  Once false, every function that reads or writes raises
 * 40001: the table must be opened anew.
 */
extern bool target_is_current(TargetTable *table);

/* Digest of the request that carries this prompt (UTF-8), as in TargetRow.hash. */
extern void target_request_hash(const TargetTable *table, const char *text, size_t length, Digest *hash);

/* Columns that leave the database, as a list of char *, in the database's encoding. */
extern List *target_columns_read(const TargetTable *table);
extern int	target_column_count(const TargetTable *table);	/* of written columns */
extern const char *target_column_property(const TargetTable *table, int i);	/* "property", "$answer", ...; NULL for a single target */
extern const struct AnswerRules *target_answer_rules(const TargetTable *table);

/*
 * Reads at most limit rows after last_key (NULL: from the start) in key order.
 * wanted tells which of them the job takes; those that it does not are not
 * rendered, and need not be there.  A result shorter than limit is the table's
 * end, unless more is set: then the rows were too large to be read at once.
 */
extern int	target_read_page(TargetTable *table, const char *last_key, int limit, TargetRow **rows, bool *more);
extern void target_walk(TargetTable *table);	/* looking for wanted rows takes long: from now on pages have all rows */

/*
 * How many rows the table has, roughly and at once; *analyzed: by statistics,
 * and not only by its size.  *samples tells whether target_read_sample() can
 * be used: not on foreign tables.
 */
extern double target_guess_rows(TargetTable *table, bool *analyzed, bool *samples);

/* Reads rows like target_read_page(), about percent of the table, from blocks all over it; in no order. */
extern int	target_read_sample(TargetTable *table, double percent, TargetRow **rows, bool *more);

/* Reads rows by key, in no order; missing ones are absent from the result. */
extern int	target_read_keys(TargetTable *table, char **keys, int nkeys, TargetRow **rows);

/* The same with bounded memory; more is set where it ended early: then one that is missing may be there. */
extern int	target_read_some_keys(TargetTable *table, char **keys, int nkeys, TargetRow **rows, bool *more);

/*
 * Like target_read_keys(), but locking and without the texts; rows that others
 * have locked are absent.  What lies on a foreign server is not locked.
 */
extern int	target_lock_keys(TargetTable *table, char **keys, int nkeys, TargetRow **rows);

/*
 * Why does target_lock_keys() not return rows that target_read_keys() does?
 * True: others have some of them locked, or had a moment ago.  False: a policy
 * lets them be seen and not updated.
 */
extern bool target_are_locked(TargetTable *table, char **keys, int nkeys);

/*
 * Writes answers.  A row whose UPDATE raises gets its sqlstate and message;
 * the others are written all the same, and so they are when it waits for locks
 * of others (of a referenced row, of a unique value).  Errors that a repetition
 * may heal (serialization, deadlock, cancel) are raised.
 */
extern void target_write(TargetTable *table, TargetWrite *writes, int nwrites);

/*
 * Writes answers into those rows whose request still has its hash and whose
 * targets still hold what they held: one statement that looks, compares and
 * writes.  Returns false, with all rows WRITE_OPEN, where that cannot be done
 * or has failed and was undone, because a row is locked, raises or is kept by
 * a trigger: then target_lock_keys() and target_write() find out which one.
 */
extern bool target_write_unchanged(TargetTable *table, TargetWrite *writes, int nwrites);

/* Text of the single target of a row as it is now (target_show.c); NULL: null, no such row, no single target. */
extern char *target_read_value(TargetTable *table, const char *key);

/* How many of the next limit rows after last_key the job would take; *last_key moves on, NULL at the end. */
extern int64 target_count_page(TargetTable *table, char **last_key, int limit);

/* Keys for sample: the n rows with the smallest digests among those that meet where_sql, one page at a time. */
extern int	target_read_key_page(TargetTable *table, const char *last_key, int limit, char ***keys, bool **matches);

/* The canonical ledger form of a key given as a JSON object; raises 22023 when it does not name all key columns. */
extern char *target_key_from_json(Oid source, List *key_columns, Jsonb *row_key);

/* One row of two columns as text in the database's encoding, NULL for null; lives until the callback returns. */
typedef void (*TargetPairCallback) (void *arg, const char *a, const char *b, char **key, int nkeys);

/*
 * Calls back for every row of a relation of any kind that has rows
 * (target_pairs.c), as the current user and with his rights: raises 42501,
 * 42703 and 42809.
 */
extern void target_read_pairs(Oid source, const char *a, const char *b, List *key_columns,
							  TargetPairCallback report, void *arg);

/* ---- for submit ---- */

/* What is written when the model finds nothing, unless the job says otherwise. */
#define DEFAULT_MISSING		"MISSING"

/* Does a column of that type take this text (in the database's encoding)?  Needs a transaction. */
extern bool target_type_takes(Oid type, int32 typmod, const char *text);

/* Key columns of a relation: those given, checked; else the primary key, else a unique index on NOT NULL columns. */
extern List *target_resolve_key(Oid source, List *given, char **kinds);

/* where_sql checked and deparsed with every name qualified. */
extern char *target_resolve_where(Oid source, const char *where_sql);

/* Rights of the current user on everything that is read and written; raises 42501.  Executes nothing. */
extern void target_check_rights(TargetTable *table);

#endif							/* DESS_TABLE_H */
