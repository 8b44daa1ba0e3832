/*-------------------------------------------------------------------------
 *
 * internal.h
 *		What the files of target share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TABLE_INTERNAL_H
#define DESS_TABLE_INTERNAL_H

#include "access/attnum.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "lib/ilist.h"
#include "lib/stringinfo.h"
#include "nodes/bitmapset.h"
#include "utils/rel.h"

#include "text/answer.h"
#include "table/table.h"
#include "text/template.h"

/*
 * The name that the table has in every statement.  where_sql is kept with it:
 * a subquery refers to the row by this name, everything else by the columns'
 * names alone.  So where_sql may only stand where the table is the one thing
 * that FROM names.
 */
#define TARGET_ALIAS	"t"

/* A request is never larger, so a row with more text than this is not read. */
#define TARGET_TEXT_LIMIT	(32 * 1024 * 1024)

/* A column that is read or written.  Domains count as what they are made of. */
typedef struct TargetColumn
{
	AttrNumber	attnum;
	char	   *name;			/* in the database's encoding */
	char	   *quoted;
	bool		nullable;
	Oid			type;
	char	   *type_name;		/* as SQL, qualified, without length */
	Oid			array_type;		/* that many values travel in; InvalidOid: they travel as text[] */
	int16		typlen;
	bool		typbyval;
	char		typalign;
	FmgrInfo	output;
	FmgrInfo	input;
	Oid			input_param;
	char	   *equal;			/* OPERATOR(...), for key columns */
	char	   *greater;
} TargetColumn;

/* Which rows and columns a page shows. */
typedef enum TargetPageKind
{
	PAGE_ROWS,					/* all columns */
	PAGE_KEYS					/* keys, and whether the targets are null */
} TargetPageKind;

#define TARGET_PAGE_KINDS	(PAGE_KEYS + 1)

struct TargetTable
{
	MemoryContext context;
	dlist_node	link;			/* in the list of open tables */
	bool		changed;		/* something happened since the definition was compared */

	Oid			relid;
	Oid			job_owner;
	char		relkind;
	bool		foreign;		/* a foreign table, or some of its partitions are */
	Oid			key_index;		/* InvalidOid where foreign is set */
	char	   *name;			/* relation, qualified and quoted */
	char	   *from;			/* the same as an item of FROM, with alias */
	char	   *where_sql;		/* NULL: all rows */
	bool		overwrite;

	/* key columns, then targets, then what else the template reads */
	TargetColumn *columns;
	int			ncolumns;
	int			nkeys;
	int			ntargets;
	char	  **properties;		/* of the targets; NULL for a single one */

	Template   *template;
	int		   *inputs;			/* template column -> column, or -1 */
	bool	   *input_is_boolean;
	int			ninputs;		/* columns that the template knows */
	AnswerRules rules;
	Digest		constant;		/* of what all requests have in common */

	Oid			to_utf8;		/* conversion functions, where encodings differ */
	Oid			from_utf8;

	/* statements, prepared when first needed; pages by how many key columns decide where they start */
	SPIPlanPtr	page_plans[TARGET_PAGE_KINDS][2][INDEX_MAX_KEYS + 1];
	SPIPlanPtr	wanted_plan;
	bool		walk;			/* it does not matter what the planner says of it */
	SPIPlanPtr	read_plan;
	SPIPlanPtr	lock_plan;
	SPIPlanPtr	nowait_plan;
	SPIPlanPtr	write_plan;
	SPIPlanPtr	check_plan;

	/* target_check.c */
	int			check_failures; /* groups in a row that could not be written at once */
	int			check_pause;	/* so many are not tried now */
};

/* ---- target.c ---- */

extern Relation target_open_relation(Oid relid, const char *name, LOCKMODE lockmode);
extern Form_pg_attribute target_find_attribute(Relation rel, const char *name);
extern char *target_relation_name(Relation rel);
extern bool target_is_foreign(Oid relid, char relkind);
extern int	target_add_column(TargetTable *table, Form_pg_attribute att, bool is_key);
extern int	target_limit_lock_wait(bool always);

/* UTF-8 text of a database text and back, NULL where that cannot be; the result may be the argument. */
extern const char *target_to_utf8(const TargetTable *table, const char *text, size_t *length);
extern const char *target_from_utf8(const TargetTable *table, const char *text);
extern char *target_own_text(const TargetTable *table, const char *text, const char *what);

/* Adds a text to what is digested, with its length, so that texts are told apart wherever they end. */
extern void target_append_part(StringInfo out, const char *text);

/* ---- target_template.c ---- */

extern void target_open_template(TargetTable *table, Relation rel, const Job *job);

/* ---- target_statement.c ---- */

/* Between these two SPI is connected, the table locked and as it was opened; begin returns what end wants. */
extern int	target_begin(TargetTable *table, LOCKMODE lockmode, bool impatient);
extern void target_end(int nestlevel);

/* Parameters for them: one key, and arrays of keys or values in the database's encoding; raise what input functions raise. */
extern Datum target_value(TargetColumn *column, const char *text);
extern Datum target_array(TargetColumn *column, char *const *texts, int ntexts);

extern SPIPlanPtr target_page_plan(TargetTable *table, TargetPageKind kind, bool only_wanted, int level);
extern SPIPlanPtr target_keys_plan(TargetTable *table, bool lock);
extern SPIPlanPtr target_nowait_plan(TargetTable *table);
extern SPIPlanPtr target_write_plan(TargetTable *table, bool check);
extern SPIPlanPtr target_sample_plan(TargetTable *table, double percent);
extern bool target_writes_by_position(const TargetTable *table);
extern bool target_wanted_is_cheap(TargetTable *table, int limit);
extern void target_free_plans(TargetTable *table);

/* ---- target_read.c ---- */

/*
 * What the values of a row's columns, in the order of a table's, make as a
 * request, and what the targets hold.
 */
typedef struct TargetDigester TargetDigester;

extern TargetDigester *target_digester_begin(TargetTable *table);
extern void target_digest_row(TargetDigester *digester, const Datum *values, const bool *nulls, Digest *hash, uint64 *held);
extern void target_digester_end(TargetDigester *digester);

/* ---- target_check.c ---- */

/* The function that an UPDATE calls for each row, qualified and quoted; its arguments are a row's number and a record of its columns. */
extern char *target_check_function(void);

/* ---- target_write.c ---- */

/* One row to write, with its values in the database's encoding. */
typedef struct TargetPending
{
	TargetWrite *write;
	char	  **keys;			/* one for each key column */
	char	  **values;
	bool		returned;
} TargetPending;

extern int	target_convert_writes(TargetTable *table, TargetWrite *writes, int nwrites, TargetPending *pending);
extern ErrorData *target_try_group(TargetTable *table, TargetPending *group, int n, bool check);
extern int	target_begin_write(TargetTable *table);

/* ---- target_resolve.c ---- */

extern Oid	target_find_key(Relation rel, const Bitmapset *wanted, List **attnums);

#endif							/* DESS_TABLE_INTERNAL_H */
