/*-------------------------------------------------------------------------
 *
 * table.h
 *		The user's table: reads the rows to send, locks rows, writes answers.
 *
 * Used by the pipeline and the SQL interface.  All statements run as the role
 * that usercxt_effective_role() names, and it is the caller who enters its
 * UserContext.  Texts of rows and answers are in UTF-8 on this side and are
 * converted here; keys, and what is in a Job, stay in the database's encoding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TABLE_H
#define DESS_TABLE_H

#include "ledger/ledger.h"

typedef struct SourceTable SourceTable;

/* One row of the user's table, rendered. */
typedef struct SourceRow
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
	uint64		held;			/* digest of what the targets hold; 0: all null; of rendered rows only */
} SourceRow;

/* What became of a row that was to be written only if it is unchanged. */
typedef enum WriteVerdict
{
	WRITE_OPEN,					/* nothing is known: lock it and look */
	WRITE_UNCHANGED,			/* and written */
	WRITE_TEXT_CHANGED,
	WRITE_TARGET_CHANGED
} WriteVerdict;

typedef struct SourceWrite
{
	int			item;			/* caller's index */
	const char *key;
	char	  **values;			/* one text or NULL per written column, UTF-8 */
	const Digest *hash;			/* for source_write_unchanged() alone, like held */
	uint64		held;
	/* out */
	WriteVerdict verdict;		/* likewise */
	bool		written;
	bool		locked;			/* not written now: others hold a lock that the UPDATE needs */
	char	   *sqlstate;		/* why not; NULL: nothing was raised, but the row was passed over */
	char	   *message;		/* UTF-8, at most 200 bytes */
} SourceWrite;

/*
 * Opens the table of a job: resolves columns and types, parses the template.
 * Raises when something the job needs is gone (42P01, 42703, 42P10, ...) or
 * cannot be (42809, 428C9, 42701, 42883, 22023).  Lives in a child of the
 * current memory context, with the plans of its statements; needs a
 * transaction and outlives it.
 */
extern SourceTable *source_open(const Job *job);

/*
 * True while nothing has changed the table's definition since source_open().
 * Needs a transaction.  Once false, every function that reads or writes raises
 * 40001: the table must be opened anew.
 */
extern bool source_is_current(SourceTable *table);

/* Digest of the request that carries this prompt (UTF-8), as in SourceRow.hash. */
extern void source_request_hash(const SourceTable *table, const char *text, size_t length, Digest *hash);

/* Columns that leave the database, as a list of char *, in the database's encoding. */
extern List *source_columns_read(const SourceTable *table);
extern int	source_target_count(const SourceTable *table);	/* of written columns */
extern const char *source_target_property(const SourceTable *table, int i);	/* "property", "$answer", ...; NULL for a single target */
extern const struct AnswerRules *source_answer_rules(const SourceTable *table);

/*
 * Reads at most limit rows after last_key (NULL: from the start) in key order.
 * wanted tells which of them the job takes; those that it does not are not
 * rendered, and need not be there.  A result shorter than limit is the table's
 * end, unless more is set: then the rows were too large to be read at once.
 */
extern int	source_read_page(SourceTable *table, const char *last_key, int limit, SourceRow **rows, bool *more);
extern void source_walk(SourceTable *table);	/* looking for wanted rows takes long: from now on pages have all rows */

/*
 * How many rows the table has, roughly and at once; *analyzed: by statistics,
 * and not only by its size.  *samples tells whether source_read_sample() can
 * be used: not on foreign tables.
 */
extern double source_guess_rows(SourceTable *table, bool *analyzed, bool *samples);

/* Reads rows like source_read_page(), about percent of the table, from blocks all over it; in no order. */
extern int	source_read_sample(SourceTable *table, double percent, SourceRow **rows, bool *more);

/* Reads rows by key, in no order; missing ones are absent from the result. */
extern int	source_read_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows);

/* The same with bounded memory; more is set where it ended early: then one that is missing may be there. */
extern int	source_read_some_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows, bool *more);

/*
 * Like source_read_keys(), but locking and without the texts; rows that others
 * have locked are absent.  What lies on a foreign server is not locked.
 */
extern int	source_lock_keys(SourceTable *table, char **keys, int nkeys, SourceRow **rows);

/*
 * Why does source_lock_keys() not return rows that source_read_keys() does?
 * True: others have some of them locked, or had a moment ago.  False: a policy
 * lets them be seen and not updated.
 */
extern bool source_are_locked(SourceTable *table, char **keys, int nkeys);

/*
 * Writes answers.  A row whose UPDATE raises gets its sqlstate and message;
 * the others are written all the same, and so they are when it waits for locks
 * of others (of a referenced row, of a unique value).  Errors that a repetition
 * may heal (serialization, deadlock, cancel) are raised.
 */
extern void source_write(SourceTable *table, SourceWrite *writes, int nwrites);

/*
 * Writes answers into those rows whose request still has its hash and whose
 * targets still hold what they held: one statement that looks, compares and
 * writes.  Returns false, with all rows WRITE_OPEN, where that cannot be done
 * or has failed and was undone, because a row is locked, raises or is kept by
 * a trigger: then source_lock_keys() and source_write() find out which one.
 */
extern bool source_write_unchanged(SourceTable *table, SourceWrite *writes, int nwrites);

/* Text of the single target of a row as it is now; NULL: null, no such row, no single target. */
extern char *source_read_value(SourceTable *table, const char *key);

/* How many of the next limit rows after last_key the job would take; *last_key moves on, NULL at the end. */
extern int64 source_count_page(SourceTable *table, char **last_key, int limit);

/* Keys for sample: the n rows with the smallest digests among those that meet where_sql, one page at a time. */
extern int	source_read_key_page(SourceTable *table, const char *last_key, int limit, char ***keys, bool **matches);

/* The canonical ledger form of a key given as a JSON object; raises 22023 when it does not name all key columns. */
extern char *source_key_from_json(Oid source, List *key_columns, Jsonb *row_key);

/* One row of two columns as text in the database's encoding, NULL for null; lives until the callback returns. */
typedef void (*PairCallback) (void *arg, const char *a, const char *b, char **key, int nkeys);

/*
 * Calls back for every row of a relation of any kind that has rows
 * as the current user and with that user's rights: raises 42501,
 * 42703 and 42809.
 */
extern void source_read_pairs(Oid source, const char *a, const char *b, List *key_columns,
							  PairCallback report, void *arg);

/* ---- for submit ---- */

/* What is written when the model finds nothing, unless the job says otherwise. */
#define DEFAULT_MISSING		"MISSING"

/* Does a column of that type take this text (in the database's encoding)?  Needs a transaction. */
extern bool source_type_takes(Oid type, int32 typmod, const char *text);

/* Key columns of a relation: those given, checked; else the primary key, else a unique index on NOT NULL columns. */
extern List *source_resolve_key(Oid source, List *given, char **kinds);

/* where_sql checked and deparsed with every name qualified. */
extern char *source_resolve_where(Oid source, const char *where_sql);

/* Rights of the current user on everything that is read and written; raises 42501.  Executes nothing. */
extern void source_check_rights(SourceTable *table);

#endif							/* DESS_TABLE_H */
