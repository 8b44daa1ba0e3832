/*-------------------------------------------------------------------------
 *
 * internal.h
 *		What the files of the ledger share: statements, arguments, values.
 *
 * A function of the ledger is ledger_open(), some ledger_run() and
 * ledger_close(); one that only runs a statement is ledger_execute().  Between
 * open and close the current memory context is that of the SPI connection,
 * which is gone afterwards; what is handed out is copied to the caller's
 * context by the functions that take a Ledger.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_LEDGER_INTERNAL_H
#define DESS_LEDGER_INTERNAL_H

#include "executor/spi.h"
#include "utils/array.h"

#include "ledger/ledger.h"
#include "runtime/txn.h"

/* Conditions that several statements, the views and the partial indexes share. */
#define JOB_IS_OPEN(j)		j "state IN ('queued', 'active')"
#define JOB_GOES_ON(j)		"(" j "control <> 'pause' OR " j "paused_until IS NOT NULL)"	/* now, or by itself later */
#define BATCH_REMAINS(b)	b "remote_deleted_at IS NULL AND (" b "input_uri IS NOT NULL OR " b "remote_id IS NOT NULL)"
#define BATCH_IS_FINAL(b)	b "state IN ('done', 'cancelled', 'failed')"
#define BATCH_IS_OPEN(b)	"(" b "state NOT IN ('done', 'cancelled', 'failed') OR " BATCH_REMAINS(b) ")"

/* SET of an upsert into usage AS u */
#define USAGE_ADDS \
	"requests = u.requests + excluded.requests, input_tokens = u.input_tokens + excluded.input_tokens, " \
	"cached_tokens = u.cached_tokens + excluded.cached_tokens, output_tokens = u.output_tokens + excluded.output_tokens, " \
	"reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens, " \
	"cache_write_tokens = u.cache_write_tokens + excluded.cache_write_tokens, " \
	"cost = u.cost + excluded.cost, unpriced = u.unpriced + excluded.unpriced"

/* what is stored of an error of a job or batch */
#define ERROR_BYTES		1000

/* A constant statement and its plan, made at first use and kept. */
typedef struct Statement
{
	const char *sql;
	SPIPlanPtr	plan;
} Statement;

/* An argument of a statement.  A statement is always run with arguments of the same types. */
typedef struct Arg
{
	Oid			type;
	Datum		value;
	bool		isnull;
} Arg;

#define MAX_ARGS	40

typedef struct Ledger
{
	UserContext user;
	MemoryContext caller;
} Ledger;

/* ---- statement.c ---- */
extern void ledger_open(Ledger *ledger);
extern void ledger_close(Ledger *ledger);

/*
 * ledger_run(&statement, arg_int64(id), arg_text(name), ...) runs a statement
 * in an open ledger with $1, $2, ...  It returns the number of rows that were
 * processed; rows that were returned are in SPI_tuptable until the next one.
 * ledger_execute() does the same where no ledger is open and no row is read.
 */
#define ledger_run(statement, ...)		ledger_run_args(statement, ARGS(__VA_ARGS__))
#define ledger_execute(statement, ...)	ledger_execute_args(statement, ARGS(__VA_ARGS__))
#define ledger_run_plain(statement)		ledger_run_args(statement, NULL, 0)
#define ARGS(...)	(const Arg[]) {__VA_ARGS__}, sizeof((const Arg[]) {__VA_ARGS__}) / sizeof(Arg)

extern uint64 ledger_run_args(Statement *statement, const Arg *args, int nargs);
extern uint64 ledger_execute_args(Statement *statement, const Arg *args, int nargs);

/* Arguments live in the current memory context. */
extern Arg	arg_null(Oid type);
extern Arg	arg_int64(int64 value);
extern Arg	arg_int32(int32 value);
extern Arg	arg_oid(Oid value);
extern Arg	arg_bool(bool value);
extern Arg	arg_float8(double value);
extern Arg	arg_time(TimestampTz value);	/* 0: null */
extern Arg	arg_text(const char *value);	/* NULL: null */
extern Arg	arg_words(const char *value, int limit);	/* text from elsewhere, made valid and cut to limit bytes */
extern Arg	arg_bytes(const void *bytes, size_t length);
extern Arg	arg_texts(const char *const *values, int n);	/* elements may be NULL */
extern Arg	arg_words_array(const char *const *values, int n, int limit);	/* null if all elements are NULL */
extern Arg	arg_list(List *values); /* of char * */
extern Arg	arg_int16s(const int16 *values, int n);
extern Arg	arg_int32s(const int32 *values, int n);
extern Arg	arg_int64s(const int64 *values, int n);
extern Arg	arg_digests(const Digest *digests, int n);

/* Values of a returned row, counted from 0, by column, counted from 1. */
extern bool ledger_is_null(uint64 row, int column);
extern Datum ledger_datum(uint64 row, int column);	/* not null */
extern int64 ledger_get_int64(uint64 row, int column, int64 ifnull);
extern int32 ledger_get_int32(uint64 row, int column);
extern Oid	ledger_get_oid(uint64 row, int column);
extern bool ledger_get_bool(uint64 row, int column);
extern double ledger_get_float8(uint64 row, int column, double ifnull);
extern TimestampTz ledger_get_time(uint64 row, int column); /* null: 0 */
extern void ledger_get_digest(uint64 row, int column, Digest *digest);
extern char *ledger_get_text(const Ledger *ledger, uint64 row, int column);	/* null: NULL */
extern List *ledger_get_list(const Ledger *ledger, uint64 row, int column);	/* of char *; null: NIL */

/* The position of a name in an array of them, or -1. */
extern int	name_position(const char *const *names, int nnames, const char *name);

/* ---- identity.c ---- */
extern Arg	arg_system_identifier(void);
extern Arg	arg_home(void);		/* where this ledger is, as job.home has it */

/* Raises 42P01 or 42704 if the table or the owner of a job does not exist. */
extern void require_job_is_here(const Ledger *ledger, int64 id);

/* ---- job.c ---- */
extern const char *const job_state_names[];
extern const char *const job_control_names[];
extern const char *const job_stage_names[];
extern bool job_state_is_final(const char *name);

/* ---- batch.c ---- */
typedef struct BatchCounters
{
	int64		of[OUTCOME_NONE];	/* rows by outcome */
	int64		input_tokens;
	int64		cached_tokens;
	int64		output_tokens;
	int64		reasoning_tokens;
	int64		cache_write_tokens;
	const char *cost;			/* numeric as text */
	int64		unpriced;		/* requests whose cost is not known */
} BatchCounters;

/*
 * Adds to what the batch has counted.  Raises 42704 when the batch is gone:
 * results, and with them answers, must not be written for one that is.
 */
extern void batch_count(int64 job_id, int batch_no, const BatchCounters *counters);
extern BatchState batch_state_from_name(const char *name);

/* ---- item.c ---- */
/*
 * Like ledger_load_items(), for the tuples that begin at number from or behind
 * it and before number to; index 0 of the arrays is number from, which is the
 * first of a tuple.
 */
extern int	ledger_load_items_between(int64 job_id, int batch_no, int from, int to, JobItem **items, bool **finished);

#endif							/* DESS_LEDGER_INTERNAL_H */
