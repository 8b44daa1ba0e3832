/*-------------------------------------------------------------------------
 *
 * internal.h
 *		What the files of the user's table share.
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

#include "table/table.h"
#include "text/answer.h"
#include "text/template.h"

/*
 * The name that the table has in every statement.  where_sql is kept with it:
 * a subquery refers to the row by this name, everything else by the columns'
 * names alone.  So where_sql may only stand where the table is the one thing
 * that FROM names.
 */
#define SOURCE_ALIAS	"t"

/* A request is never larger, so a row with more text than this is not read. */
#define SOURCE_TEXT_LIMIT	(32 * 1024 * 1024)

/* A column that is read or written.  Domains count as what they are made of. */
typedef struct SourceColumn
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
} SourceColumn;

/* Which rows and columns a page shows. */
typedef enum PageKind
{
	PAGE_ROWS,					/* all columns */
	PAGE_KEYS					/* keys, and whether the targets are null */
} PageKind;

#define PAGE_KINDS	(PAGE_KEYS + 1)

struct SourceTable
{
	MemoryContext context;
	MemoryContextCallback close;
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
	SourceColumn *columns;
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
	SPIPlanPtr	page_plans[PAGE_KINDS][2][INDEX_MAX_KEYS + 1];
	SPIPlanPtr	wanted_plan;
	bool		walk;			/* it does not matter what the planner says of it */
	SPIPlanPtr	read_plan;
	SPIPlanPtr	lock_plan;
	SPIPlanPtr	nowait_plan;
	SPIPlanPtr	write_plan;
	SPIPlanPtr	check_plan;

	/* check.c */
	int			check_failures; /* groups in a row that could not be written at once */
	int			check_pause;	/* so many are not tried now */
};

/* ---- table.c ---- */

extern Relation source_open_relation(Oid relid, const char *name, LOCKMODE lockmode);
extern Form_pg_attribute source_find_attribute(Relation rel, const char *name);
extern char *source_relation_name(Relation rel);
extern bool source_is_foreign(Oid relid, char relkind);
extern int	source_add_column(SourceTable *table, Form_pg_attribute att, bool is_key);
extern int	source_limit_lock_wait(bool always);

/* Is the current user the one that the job's statements run as? */
extern bool source_role_is_right(const SourceTable *table);

/* From now on the table is marked as changed when anything happens to its definition. */
extern void source_watch(SourceTable *table);

/* UTF-8 text of a database text and back, NULL where that cannot be; the result may be the argument. */
extern const char *source_to_utf8(const SourceTable *table, const char *text, size_t *length);
extern const char *source_from_utf8(const SourceTable *table, const char *text);
extern char *source_own_text(const SourceTable *table, const char *text, const char *what);

/* Adds a text to what is digested, with its length, so that texts are told apart wherever they end. */
extern void source_append_part(StringInfo out, const char *text);

/* ---- template.c ---- */

extern void source_open_template(SourceTable *table, Relation rel, const Job *job);

/* ---- statement.c ---- */

/* Between these two SPI is connected, the table locked and as it was opened; begin returns what end wants. */
extern int	source_begin(SourceTable *table, LOCKMODE lockmode, bool impatient);
extern void source_end(int nestlevel);

/* Parameters for them: one key, and arrays of keys or values in the database's encoding; raise what input functions raise. */
extern Datum source_value(SourceColumn *column, const char *text);
extern Datum source_array(SourceColumn *column, char *const *texts, int ntexts);

extern SPIPlanPtr source_page_plan(SourceTable *table, PageKind kind, bool only_wanted, int level);
extern SPIPlanPtr source_keys_plan(SourceTable *table, bool lock);
extern SPIPlanPtr source_nowait_plan(SourceTable *table);
extern SPIPlanPtr source_write_plan(SourceTable *table, bool check);
extern SPIPlanPtr source_sample_plan(SourceTable *table, double percent);
extern bool source_writes_by_position(const SourceTable *table);
extern bool source_wanted_is_cheap(SourceTable *table, int limit);
extern void source_free_plans(SourceTable *table);

/* ---- read.c ---- */

/*
 * What the values of a row's columns, in the order of a table's, make as a
 * request, and what the targets hold.
 */
typedef struct RowDigester RowDigester;

extern RowDigester *source_digester_begin(SourceTable *table);
extern void source_digest_row(RowDigester *digester, const Datum *values, const bool *nulls, Digest *hash, uint64 *held);
extern void source_digester_end(RowDigester *digester);

/* ---- write.c ---- */

/* One row to write, with its values in the database's encoding. */
typedef struct SourcePending
{
	SourceWrite *write;
	char	  **keys;			/* one for each key column */
	char	  **values;
	bool		returned;
} SourcePending;

extern int	source_convert_writes(SourceTable *table, SourceWrite *writes, int nwrites, SourcePending *pending);
extern ErrorData *source_try_group(SourceTable *table, SourcePending *group, int n, bool check);
extern int	source_begin_write(SourceTable *table);

/* ---- resolve.c ---- */

extern Oid	source_find_key(Relation rel, const Bitmapset *wanted, List **attnums);

#endif							/* DESS_TABLE_INTERNAL_H */
