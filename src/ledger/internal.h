/*-------------------------------------------------------------------------
 *
 * internal.h
 *		What the files of the ledger share: statements, arguments, rows.
 *
 * A function of the ledger is ledger_open(), some ledger_run(), and
 * ledger_close().  In between the current memory context is that of the SPI
 * connection, gone afterwards; what is handed out is copied to the caller's
 * context by the ledger_get functions.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_LEDGER_INTERNAL_H
#define DESS_LEDGER_INTERNAL_H

#include "executor/spi.h"
#include "utils/array.h"

#include "ledger/ledger.h"
#include "runtime/txn.h"

/* A constant statement and its plan, made at first use and kept. */
typedef struct Statement
{
	const char *sql;
	SPIPlanPtr	plan;
} Statement;

/* Arguments in the order of $1, $2, ...; each statement is always run with the same types. */
#define MAX_ARGS	40

typedef struct Args
{
	int			n;
	Oid			types[MAX_ARGS];
	Datum		values[MAX_ARGS];
	char		nulls[MAX_ARGS];
} Args;

typedef struct Ledger
{
	UserContext user;
	MemoryContext caller;
} Ledger;

/* Conditions that several statements, the views and the partial indexes share. */
#define JOB_IS_OPEN(j)		j "state IN ('queued', 'active')"
#define JOB_GOES_ON(j)		"(" j "control <> 'pause' OR " j "paused_until IS NOT NULL)"	/* by itself, some time */
#define BATCH_REMAINS(b)	b "remote_deleted_at IS NULL AND (" b "input_uri IS NOT NULL OR " b "remote_id IS NOT NULL)"
#define BATCH_IS_FINAL(b)	b "state IN ('done', 'cancelled', 'failed')"
#define BATCH_IS_OPEN(b)	"(" b "state NOT IN ('done', 'cancelled', 'failed') OR " BATCH_REMAINS(b) ")"

/* ---- ledger_statement.c ---- */
extern void ledger_open(Ledger *ledger);
extern void ledger_close(Ledger *ledger);
extern uint64 ledger_run(Statement *statement, const Args *args);	/* rows processed; rows returned are in SPI_tuptable */

extern void arg_datum(Args *args, Oid type, Datum value, bool isnull);
extern void arg_int64(Args *args, int64 value);
extern void arg_int32(Args *args, int32 value);
extern void arg_oid(Args *args, Oid value);
extern void arg_bool(Args *args, bool value);
extern void arg_float8(Args *args, double value);
extern void arg_time(Args *args, TimestampTz value);	/* 0: NULL */
extern void arg_text(Args *args, const char *value);	/* may be NULL */
extern void arg_words(Args *args, const char *value, int limit);	/* somebody else's text, cut to limit bytes */
extern void arg_bytes(Args *args, const void *bytes, size_t length);
extern void arg_texts(Args *args, const char *const *values, int n);	/* elements may be NULL */
extern void arg_words_array(Args *args, const char *const *values, int n, int limit);	/* NULL if all are */
extern void arg_list(Args *args, List *values);	/* of char * */
extern void arg_int32s(Args *args, const int32 *values, int n);
extern void arg_int64s(Args *args, const int64 *values, int n);
extern void arg_digests(Args *args, const Digest *digests, int n);

/* Values of a returned row, counted from 0, by column, counted from 1. */
extern bool ledger_is_null(uint64 row, int column);
extern Datum ledger_datum(uint64 row, int column);	/* not null */
extern int64 ledger_get_int64(uint64 row, int column, int64 ifnull);
extern int32 ledger_get_int32(uint64 row, int column);
extern Oid	ledger_get_oid(uint64 row, int column);
extern bool ledger_get_bool(uint64 row, int column);
extern double ledger_get_float8(uint64 row, int column, double ifnull);
extern TimestampTz ledger_get_time(uint64 row, int column); /* NULL: 0 */
extern char *ledger_get_text(const Ledger *ledger, uint64 row, int column);	/* NULL: NULL */
extern List *ledger_get_list(const Ledger *ledger, uint64 row, int column);	/* of char *; NULL: NIL */

/* Position of a name, or -1. */
extern int	name_position(const char *const *names, int nnames, const char *name);

/* ---- ledger_identity.c ---- */
extern void arg_home(Args *args);	/* where this ledger is, as job.home has it */

/* ---- ledger.c ---- */
extern const char *const job_state_names[];
extern const char *const job_control_names[];
extern const char *const job_stage_names[];
extern bool job_state_is_final(const char *name);

/* ---- ledger_batch.c: counters; in an open ledger, raises when the batch is gone ---- */
typedef struct BatchCounters
{
	int64		of[OUTCOME_NONE];	/* rows by outcome */
	int64		input_tokens;
	int64		cached_tokens;
	int64		output_tokens;
	int64		reasoning_tokens;
	const char *cost;			/* numeric as text; NULL: not known */
} BatchCounters;

extern void batch_count(int64 job_id, int batch_no, const BatchCounters *counters);

#endif							/* DESS_LEDGER_INTERNAL_H */
