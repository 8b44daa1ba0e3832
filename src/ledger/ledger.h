/*-------------------------------------------------------------------------
 *
 * ledger.h
 *		The ledger: dess_batch's own tables, as typed values.
 *
 * Jobs, their batches, the rows of the batches and what became of them, rows
 * that wait, what settles a row, usage, prices, and what triggers asked for.
 * May be called by the pipeline, the worker and the SQL interface; no other
 * room runs SQL on these tables.
 *
 * Every function needs a transaction with a snapshot and becomes the ledger's
 * owner by itself.  What is returned is palloc'd in the caller's context.
 * Text is in the database's encoding on both sides.
 *
 * Two things that a newcomer gets wrong:
 *
 * - Users control jobs while the worker works on them.  A change of state is
 *	 an UPDATE under a condition on the state it starts from; false means that
 *	 somebody was faster or that the job is gone, and nothing was changed.
 *	 Counters are changed by addition.
 *
 * - Rows are kept many to a tuple, appended, and hardly ever updated.  What
 *	 would be a column of a row in an ordinary schema is an array here, and a
 *	 row is known by its number in its batch.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_LEDGER_H
#define DESS_LEDGER_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "storage/itemptr.h"
#include "utils/date.h"
#include "utils/jsonb.h"

#include "provider/provider.h"
#include "text/digest.h"
#include "text/row_key.h"

/* online batches are small, so that answers are written early and little is lost by a kill */
#define ONLINE_BATCH_ROWS	1000
#define ONLINE_BATCH_BYTES	(32 * 1024 * 1024)

typedef enum JobControl
{
	CONTROL_RUN,
	CONTROL_PAUSE,
	CONTROL_HOLD,
	CONTROL_CANCEL,
	CONTROL_FAIL				/* nothing more is sent; failed when the batches at the provider are merged */
} JobControl;

typedef enum JobState
{
	JOB_QUEUED,
	JOB_ACTIVE,
	JOB_DONE,
	JOB_CANCELLED,
	JOB_FAILED
} JobState;

typedef enum JobStage
{
	STAGE_PREPARE,
	STAGE_UPLOAD,
	STAGE_CREATE,
	STAGE_RETRIEVE
} JobStage;

typedef enum BatchState
{
	BATCH_PREPARING,
	BATCH_PREPARED,
	BATCH_UPLOADING,
	BATCH_UPLOADED,
	BATCH_CREATING,
	BATCH_RUNNING,
	BATCH_RETRIEVING,
	BATCH_DONE,
	BATCH_CANCELLED,
	BATCH_FAILED
} BatchState;

typedef enum KeepWhat
{
	KEEP_NONE,
	KEEP_UNWRITTEN,
	KEEP_ANSWER,
	KEEP_REPLY
} KeepWhat;

/* What becomes of a row; the first ones are final. */
typedef enum Outcome
{
	OUTCOME_OK,
	OUTCOME_MISSING,
	OUTCOME_EMPTY,
	OUTCOME_STALE,
	OUTCOME_GONE,
	OUTCOME_REFUSED,
	OUTCOME_TRUNCATED,
	OUTCOME_INVALID,
	OUTCOME_REJECTED,
	OUTCOME_EXPIRED,
	OUTCOME_CANCELLED,
	OUTCOME_LOST,
	OUTCOME_SUPERSEDED,			/* the row is sent once more by a later batch */
	OUTCOME_NONE				/* nothing known yet */
} Outcome;

/* A job's arguments as resolved by submit, and where it stands. */
typedef struct Job
{
	int64		id;
	Oid			owner;
	char	   *owner_name;
	char	   *submitted_by;
	Oid			source;
	char	   *source_name;
	char	   *target;			/* NULL: a trial */
	char	   *model;
	bool		online;
	char	   *provider;
	Oid			server;			/* InvalidOid: built in */
	char	   *server_name;
	char	   *label;
	List	   *key_columns;	/* of char * */
	char	   *key_kinds;
	char	   *prompt;
	char	   *system_prompt;
	bool		department;
	List	   *input_columns;
	List	   *counting_columns;
	char	   *where_sql;
	bool		overwrite;
	char	   *response_schema;
	char	   *target_columns; /* JSON object text, or NULL */
	char	   *missing;
	char	   *parameters;		/* JSON object text */
	int64		max_rows;		/* 0: no limit */
	bool		sample;
	List	   *outcomes;			/* of char *; NIL: all */
	char	   *max_cost;		/* numeric as text, or NULL */
	double		max_failed;
	KeepWhat	keep;
	char	   *args;			/* JSON text, for submit */

	JobStage	stage;
	JobControl	control;
	JobState	state;
	bool		listed;
	char	   *last_key;
	int			last_batch;
	bool		all_prepared;
	int64		taken;
	int64		counted;		/* -1: unknown */
	bool		noted;			/* error is set: why it waits, or why it ended */
	int64		requeued;		/* rows in the retry queue that already count */
	int64		batch_bytes;	/* 0: no smaller limit learnt */
	TimestampTz paused_until;	/* 0: not paused, or until somebody resumes it */
	TimestampTz created_at;
} Job;

typedef struct Batch
{
	int64		job_id;
	int			no;
	BatchState	state;
	char	   *token;
	int			items;
	int			requests;
	int64		bytes;
	BatchRemote remote;
	int			polls;
	TimestampTz created_at;
	TimestampTz next_poll_at;	/* 0: none */
	bool		remote_deleted;
	bool		maybe_uploaded; /* a file may be at the provider under a name that is not known */
	char		account[ACCOUNT_IDENTITY_SIZE]; /* that sees the batch at the provider; "": not known */
	TimestampTz remote_created_at;	/* 0: not yet */
	TimestampTz remote_cancelled_at;	/* when the provider was asked to cancel it; 0: it was not */
} Batch;

/* One row of a batch, as prepared. */
typedef struct JobItem
{
	char	   *key;			/* as the ledger keeps it; NULL: finished, then forgotten */
	Digest		hash;
	int			same_as;		/* number of the item whose request serves it; 0: its own */
	uint64		held;			/* digest of what the target held; 0: nothing */
	int			attempts;		/* the number of this attempt, from 1; never sent (batch 0): attempts made */
} JobItem;

typedef struct ItemResult
{
	int			no;
	Outcome		outcome;
	const char *error_code;
	const char *error;
	int64		input_tokens;
	int64		cached_tokens;
	int64		output_tokens;
	int64		reasoning_tokens;
	int64		cache_write_tokens;
	const char *finish_reason;
	const char *model_version;
	const char *response_id;
	const char *answer;			/* to be kept, or NULL */
	const char *reply;			/* to be kept, or NULL */
	bool		billed;			/* a request of its own was answered */
} ItemResult;

/* A row that waits to be taken by its key. */
typedef struct RetryRow
{
	int64		id;
	char	   *key;
	int			attempts;		/* made so far */
	bool		counts;			/* already one of the job's rows; else named by "sample" or "outcomes" */
	bool		has_hash;
	Digest		unless_hash;
} RetryRow;

/* ---- job.c: names of enum values as the ledger spells them ---- */
extern const char *outcome_name(Outcome outcome);
extern bool outcome_from_name(const char *name, Outcome *outcome);
extern bool outcome_settles(Outcome outcome);	/* the same request need not be bought again, although the target stayed NULL */
extern bool outcome_is_done(Outcome outcome);	/* ok, missing, empty */
extern const char *batch_state_name(BatchState state);	/* batch.c */
extern const char *job_state_name(JobState state);
extern bool keep_from_name(const char *name, KeepWhat *keep);

/* ---- job.c: jobs ---- */

/* Which version of a job's row it is; no two that were ever committed are alike. */
typedef struct JobVersion
{
	int64		id;
	TransactionId xmin;			/* invalid: none */
	ItemPointerData place;
} JobVersion;

/* Returns the id.  source_name is not read but made: qualified, so that it means the same in a copy of the ledger. */
extern int64 ledger_insert_job(const Job *job);
extern int	ledger_load_versions(JobVersion **versions);	/* jobs with anything left to do, by id; returns how many */
extern Job *ledger_load_job(int64 id);	/* any job, or NULL */
extern bool ledger_any_work(void);	/* anything that a worker has to stay for */

/* Raises 55006 if another job in flight on the same table and target uses another key; before_id: only older ones, 0: all. */
extern void ledger_check_key(const Job *job, int64 before_id);
extern List *ledger_known_targets(Oid source);	/* of char *: columns of this table that jobs in the ledger write */
extern bool ledger_job_started(int64 id);
extern bool ledger_set_listed(int64 id);

/* taken is added; last_key NULL, all_prepared false and last_batch 0 leave what is there. */
extern bool ledger_advance(int64 id, const char *last_key, int64 taken, bool all_prepared, int last_batch);
extern void ledger_set_counted(int64 id, int64 counted);
extern void ledger_set_batch_bytes(int64 id, int64 bytes);

/*
 * Ends a job.  False when it is final already, when a batch is not (except for
 * JOB_FAILED), and for JOB_DONE when rows wait to be sent once more: the caller
 * looks at the job anew.
 */
extern bool ledger_finish(int64 id, JobState state, const char *error_code, const char *error);
extern void ledger_set_failing(int64 id, const char *error_code, const char *error);	/* control 'fail' */

/* Pauses a running job until then; 0: until somebody resumes it. */
extern bool ledger_pause(int64 id, TimestampTz until, const char *error_code, const char *error);
extern bool ledger_unpause(int64 id);	/* one whose time has come; false: it is not paused that way any more */

/* Notes why a job waits; NULL for both removes the note.  False: it was noted already. */
extern bool ledger_note_error(int64 id, const char *error_code, const char *error);
extern void ledger_notify(int64 id, JobState state);

/* ---- batch.c: batches.  Batch 0 of a job holds rows that were never sent ---- */
extern List *ledger_load_batches(int64 job_id);	/* of Batch *: not final, or with something left at the provider */
extern bool ledger_batch_is_open(int64 job_id, int no);	/* it exists and is not final */
extern void ledger_insert_batch(const Batch *batch);	/* becomes the job's last_batch */
extern bool ledger_move_batch(const Batch *batch, BatchState from, BatchState to);	/* also does what ledger_save_batch() does */
extern void ledger_save_batch(const Batch *batch);	/* token, remote, polls, next_poll_at, account */

/* Adds to what the batch has; its items must be inserted in the same transaction. */
extern void ledger_grow_batch(int64 job_id, int no, int items, int requests, int64 bytes);
extern void ledger_batch_error(int64 job_id, int no, const char *code, const char *message);

/* Nothing of the batch is at the provider any more; removed false: what is there stays, for ever. */
extern void ledger_batch_cleaned(int64 job_id, int no, bool removed);
extern void ledger_count_answers(int64 job_id, int64 *answers, int64 *failed);	/* of rows that were sent */
extern void ledger_count_strays(int64 job_id, int no, int64 unmatched, int64 duplicates);

/* ---- item.c, result.c: rows of batches and what became of them ---- */

/*
 * Inserts one tuple of at most some thousand rows.  Returns the number of the
 * first one: first_no, or for batch 0, which is made and grown here, the next
 * free number.
 */
extern int	ledger_insert_items(int64 job_id, int batch_no, int first_no, const JobItem *items, int nitems);

/* Arrays whose index 0 is row number 1; finished: the row has a result.  Returns how many. */
extern int	ledger_load_items(int64 job_id, int batch_no, JobItem **items, bool **finished);

/*
 * Inserts one tuple of results and adds it to the batch's counters and to
 * usage; keeps the answers that are to be kept.  Rows with OUTCOME_SUPERSEDED
 * are only counted: ledger_retry_queue_insert() makes them wait.
 */
extern void ledger_add_results(const Job *job, int batch_no, const ItemResult *results, int nresults, int64 requests);

/* ---- give_up.c: rows that get no result from the provider ---- */

/*
 * Gives an outcome to the unfinished rows of a batch, some thousand from number
 * *from (at first 1) on.  With OUTCOME_SUPERSEDED they wait to be sent, and
 * this was no attempt.  *from becomes the number to go on from, or 0 when the
 * batch has ended in state.  Returns the number of rows.
 */
extern int	ledger_give_up_batch(const Job *job, int batch_no, int *from, BatchState state, Outcome outcome,
								 const char *error_code, const char *error);

/*
 * Takes at most limit waiting rows of a job out of the retry queue: those that
 * count become rows of batch 0 with an outcome, the others are dropped.
 * False: there may be more.
 */
extern bool ledger_close_retry_queue(const Job *job, Outcome outcome, int limit);

/* ---- retry_queue.c: rows that wait to be taken by their key ---- */

/*
 * attempts: those made so far, of rows that already count; the job's "requeued"
 * grows by n.  NULL: rows that "sample" or "outcomes" names, which do not count yet.
 * NULL keys are passed over.
 */
extern void ledger_retry_queue_insert(int64 job_id, char **keys, const int *attempts, int n);

/* Rows that were chosen and do not count yet; those with_hash are passed over later if their request still has that hash. */
extern void ledger_retry_queue_list(int64 job_id, char **keys, const Digest *hashes, const int *with_hash, int n);
extern List *ledger_retry_queue_take(int64 job_id, int limit);	/* of RetryRow *; deletes them and takes those that count off "requeued" */
extern void ledger_retry_queue_return(int64 job_id, const RetryRow *row);	/* puts one that was taken back in its place */
extern int64 ledger_retry_queue_count(int64 job_id, int64 *counted_ones);

/*
 * Inserts, in one statement, the rows that "outcomes" names.  A row in flight is
 * not one of them, because its outcome is not known.  Returns how many.  The
 * worker does the same piece by piece, see pipeline/prepare_outcomes.c.
 */
extern int64 ledger_list_outcomes(const Job *job);

/* Does a job with "outcomes" take, beside the rows that it names, those that one without it would take? */
extern bool job_takes_new(const Job *job);

/* ---- settled.c: rows that need not be asked about again ---- */
extern void ledger_settle(const Job *job, char **keys, const Digest *hashes, const Outcome *outcomes, int n);

/* settled[i] is set where keys[i] with hashes[i] is settled. */
extern void ledger_find_settled(const Job *job, char **keys, const Digest *hashes, int n, bool *settled);

/* ---- history.c: the rows of all jobs on a table and target, with its key ---- */
#define HISTORY_SETTLED		(-1)	/* what is settled, whatever the job */
#define HISTORY_WAITING		(-2)	/* rows of a job that wait to be sent once more */

typedef struct HistorySource
{
	int64		job_id;
	int			batch_no;		/* or one of the above */
	int			rows;			/* about; 0: not known */
} HistorySource;

typedef struct HistoryRow
{
	char	   *key;			/* NULL: forgotten, or not one of these rows */
	Digest		hash;
	Outcome		outcome;		/* OUTCOME_NONE: in flight */
	TimestampTz at;				/* of the outcome; DT_NOEND: in flight */
	int			no;				/* in its batch */
} HistoryRow;

/* How far a source has been read. */
typedef struct HistoryPlace
{
	bool		end;
	int64		id;
	char	   *key;			/* in the context of the call that set it */
	Digest		hash;
} HistoryPlace;

extern int	ledger_history_sources(const Job *job, HistorySource **sources);
/* The next rows of a source: a few thousand, or a batch.  Returns how many.  *place begins as zeros. */
extern int	ledger_history_rows(const Job *job, const HistorySource *source, HistoryPlace *place, HistoryRow **rows);

/* ---- in_flight.c: rows that other jobs on the same table and target have in flight ---- */

/* A batch of which another job on the same table and target has rows in flight. */
typedef struct InFlightBatch
{
	int64		job_id;
	int			no;
	int			items;
	int			finished;
} InFlightBatch;

extern int	ledger_load_in_flight_batches(const Job *job, InFlightBatch **batches);

/* Another such job, of which rows wait to be sent once more; what is added has greater ids than last_id. */
typedef struct InFlightWaiting
{
	int64		job_id;
	int64		rows;
	int64		last_id;
} InFlightWaiting;

extern int	ledger_load_in_flight_waiting(const Job *job, InFlightWaiting **waiting);

/* These return how many; key_hash64() of keys, ascending, in a palloc'd array. */
extern int	ledger_load_batch_keys(const InFlightBatch *batch, int after, uint64 **hashes);	/* unfinished rows with a greater number */
extern int	ledger_load_waiting_keys(int64 job_id, int64 *last_id, uint64 **hashes);	/* some behind last_id, which goes on to their end */
extern int	ledger_load_in_flight_keys(const Job *job, uint64 **hashes);	/* all that others have in flight */

/* ---- control.c: what users do to their jobs ---- */

typedef struct AskedPoll
{
	int64		job_id;
	int			batch_no;
} AskedPoll;

/*
 * The job, for a caller who has the rights of its owner; raises 42704 and 42501.
 * ledger_look_at_job() writes nothing.  ledger_control_job() is called before
 * any of the others, which check neither rights nor whether the ledger is a copy.
 */
extern Job *ledger_look_at_job(int64 id);
extern Job *ledger_control_job(int64 id);

/*
 * Pauses a job that runs, cancels one that runs or is paused; final jobs stay as
 * they are.  A held job raises 55000, here and in the next two: only
 * ledger_adopt() ends that.
 */
extern void ledger_set_control(int64 id, JobControl control);
extern void ledger_resume(int64 id, const char *max_cost);	/* a job that is not paused gets the budget all the same */
extern void ledger_set_stage(int64 id, JobStage stage);	/* forward only */
extern void ledger_ask_poll(int64 id);
extern List *ledger_asked_polls(void);	/* of AskedPoll *: running batches whose next look is due */

/*
 * Rows that ended with these outcomes (of char *; NIL: every failed one but
 * gone and refused) wait again, with three fresh attempts, and the job goes on.
 * A failed job goes on with whatever it had left; a cancelled one prepares
 * nothing new.  Returns how many rows were named or waited already.  Raises
 * 55000 while the job is held or being cancelled.
 */
extern int64 ledger_retry_job(const Job *job, List *outcomes);

/* ---- identity.c: is this the ledger's own cluster and database? ---- */
extern char *ledger_home(void);	/* where this ledger is, as job.home has it */
extern int64 ledger_check_identity(void);	/* holds all jobs if this ledger came from elsewhere; returns how many */

/* 0: all jobs that the caller has the rights of.  One whose table or owner is not here stays held; raises if it was named. */
extern void ledger_adopt(int64 id);

/* ---- erase.c: forgetting answers, rows and jobs ---- */
extern void ledger_erase(int64 id);	/* raises 55000 unless the job is final */
extern List *ledger_source_keys(Oid source);	/* every key that is known of this table: of List * of char *; called before the next one */

/* Returns whether there was anything to forget; raises 55006 while the row is in flight. */
extern bool ledger_forget_row(Oid source, List *key_columns, const char *key);

/*
 * How far purging has come.  What earlier calls in the same transaction deleted
 * is still in the index, and need not be met again.
 */
typedef struct PurgeProgress
{
	int64		last_id;		/* jobs up to this one were looked at */
	int64		removed;
} PurgeProgress;

/*
 * Forgets jobs that finished before "before", and empty ones that finished
 * before "empty_before", of roles whose rights the current user has, unless
 * anything is left at their provider.  Also drops what settles rows of tables
 * that were dropped.  Bounded; true: there may be more.  progress begins as
 * zeros; NULL: from the start.
 */
extern bool ledger_purge(TimestampTz before, TimestampTz empty_before, PurgeProgress *progress);

/* Gives up batches that were left by jobs that failed before "before".  Bounded; true: there may be more. */
extern bool ledger_close_left(TimestampTz before);

/* ---- show.c: how far a job is, and what became of one row ---- */

/* One line of dess_batch_progress; returns what the job waits for, or NULL.  *state is "forgotten" when the job is gone. */
extern char *ledger_job_figures(int64 id, char **state, int64 *rows, int64 *done, int64 *failed, double *rate,
								bool *rows_known, char **eta, char **bar);
extern bool ledger_stands_still(int64 id, char **state);

/* The last time the row was sent.  False: it is not one of the job's. */
extern bool ledger_find_row(const Job *job, const char *key, Digest *hash, char **answer, char **reply, int *batch_no);

/* ---- explain.c: what those who wait, explain or show ask; nothing here writes ---- */

typedef struct JobFacts
{
	char	   *state;			/* as the views spell it */
	bool		stands_still;
	int64		rows;
	bool		rows_known;
	int64		done;
	int64		failed;
	char	   *error_code;		/* last thing noted, or NULL */
	char	   *error;
	int64		waiting_rows;	/* to be sent once more */
	int64		remains;		/* batches with anything left at the provider */
	int64		active_batches; /* of all jobs of this owner, at or on the way to this server */
	bool		all_prepared;
	int64		spool_bytes;	/* of the request files of all jobs */
} JobFacts;

/* Batches of a job, not final, that are alike. */
typedef struct BatchGroup
{
	BatchState	state;
	char	   *remote_state;
	char	   *error_code;
	char	   *error;
	int64		batches;
	int			first_no;
	int64		rows_left;
	int64		requests;
	int64		remote_finished;	/* -1: unknown */
	TimestampTz next_poll_at;	/* of the first one that has one; 0: none */
	TimestampTz moved_at;		/* into their state, the first of them */
} BatchGroup;

/* Another job of the same server with batches that may still cost. */
typedef struct Spender
{
	int64		job_id;			/* 0: jobs of roles that the current user has no rights of */
	int64		batches;
	bool		stands_still;	/* it is to go no further than it has come */
} Spender;

/* What the ledger knows of one sending of a row. */
typedef struct RowTrace
{
	char	   *token;			/* of its batch; "" for rows that were never sent */
	int			request_no;		/* number of the item whose request served it */
	Outcome		outcome;		/* OUTCOME_NONE: none yet */
} RowTrace;

extern JobFacts *ledger_load_facts(int64 id); /* NULL: no such job */
extern List *ledger_load_groups(int64 id, int limit); /* of BatchGroup *, at most limit */
extern List *ledger_load_spenders(const Job *job, int limit); /* of Spender *, those that stand still first */

/*
 * This database's worker, if it has been at work that may be interrupted (see
 * runtime/wake.h) for ms; otherwise 0.  since: when the work began; 0: it is at none.
 */
extern int	ledger_find_slow_worker(int64 ms, TimestampTz *since);
extern int	ledger_find_worker(void); /* process id of this database's worker; 0: none runs */
extern int	ledger_find_locker(Oid source);	/* one who may have locked rows of the table; 0: nobody */
extern bool ledger_is_forgotten(int64 id);	/* the number was given to a job once */
extern bool ledger_written_here(int64 id);	/* by this transaction, which has not committed */
extern bool ledger_trace_row(int64 job_id, int batch_no, const char *key, RowTrace *trace);

/* ---- price.c: prices, and what was spent, in US dollars.  What is recorded is exact; what is compared with a budget is a double ---- */

/* What one token costs, any discount taken off; numerics as text. */
typedef struct Price
{
	char	   *input;
	char	   *cached;
	char	   *cache_write;
	char	   *output;
	double		most_input;		/* of any kind of input */
	double		a_output;
	DateADT		date;			/* when it was read, or began */
} Price;

/* The price of a job's model today; NULL: none is known. */
extern Price *ledger_find_price(const Job *job);

/* Input tokens, of which some were cached and some written to the cache, and output tokens at this price, as numeric. */
extern Datum price_of_tokens(const Price *price, int64 input, int64 cached, int64 cache_write, int64 output);

/* What was spent, as far as prices were known, and the number of requests that had none. */
typedef struct Spent
{
	double		cost;
	int64		unpriced;
} Spent;

/* What a job and all jobs of its server have spent. */
typedef struct Spending
{
	Spent		job;
	Spent		day;			/* of the server, this UTC day */
	Spent		month;
	double		bytes_a_request;	/* of the job, so far; 0: unknown */
	TimestampTz day_end;
	TimestampTz month_end;
} Spending;

extern void ledger_load_spending(const Job *job, Spending *spending);

/* Tokens of the job's latest answers, of those that have any; returns how many. */
extern int	ledger_load_answers(int64 job_id, int limit, int32 **input_tokens, int32 **output_tokens);

/* What the owner's latest jobs with the same requests used. */
typedef struct UsageHistory
{
	int64		requests;
	int64		bytes;			/* of request files */
	int64		input_tokens;
	int64		cached_tokens;
	int64		cache_write_tokens;
	int64		output_tokens;
} UsageHistory;

extern void ledger_load_history(const Job *job, UsageHistory *history);

/* ---- report.c: what a report shows of a job, as text in the database's encoding ---- */

/* parts of a job's time, from its start to its end or to now */
#define REPORT_BUCKETS		60

/* more batches than this are not shown one by one */
#define REPORT_BATCHES		60

/* rows shown of each outcome */
#define REPORT_SAMPLES		3

/* Rows of texts, NULL for null; columns are named by the enums below. */
typedef struct ReportTable
{
	int			nrows;
	char	 ***rows;
} ReportTable;

typedef enum ReportJobColumn
{
	RJ_LABEL, RJ_SOURCE, RJ_TARGET, RJ_MODEL, RJ_SERVER, RJ_MODE, RJ_STATE, RJ_WAITING_FOR,
	RJ_ROWS, RJ_REQUESTS, RJ_DONE, RJ_FAILED, RJ_PERCENT, RJ_RATE, RJ_ETA,
	RJ_INPUT_TOKENS, RJ_CACHED_TOKENS, RJ_OUTPUT_TOKENS, RJ_REASONING_TOKENS, RJ_COST,
	RJ_OWNER, RJ_SUBMITTED_BY, RJ_CREATED, RJ_STARTED, RJ_FINISHED, RJ_DURATION,
	RJ_ERROR_CODE, RJ_ERROR, RJ_PROMPT, RJ_SYSTEM_PROMPT, RJ_VERSION, RJ_NOW
} ReportJobColumn;

typedef enum ReportOutcomeColumn
{
	RO_OUTCOME, RO_ROWS, RO_INPUT_TOKENS, RO_CACHED_TOKENS, RO_OUTPUT_TOKENS, RO_REASONING_TOKENS, RO_COST
} ReportOutcomeColumn;

typedef enum ReportErrorColumn
{
	RE_OUTCOME, RE_CODE, RE_ROWS, RE_WORDS
} ReportErrorColumn;

typedef enum ReportTimeColumn
{
	RT_BUCKET, RT_GOOD, RT_FAILED
} ReportTimeColumn;

typedef enum ReportBatchColumn
{
	RB_NO, RB_STATE, RB_REQUESTS, RB_SECONDS, RB_WORDS
} ReportBatchColumn;

typedef enum ReportLatencyColumn
{
	RL_BATCHES, RL_LEAST, RL_MEDIAN, RL_P95, RL_MOST
} ReportLatencyColumn;

typedef enum ReportSampleColumn
{
	RS_KEY, RS_ROW_KEY, RS_OUTCOME, RS_ANSWER, RS_ERROR_CODE, RS_ERROR
} ReportSampleColumn;

typedef struct JobReport
{
	ReportTable job;			/* one row */
	ReportTable outcomes;
	ReportTable errors;
	ReportTable times;			/* rows that got their outcome in a bucket, counted from 1 */
	ReportTable batches;		/* the last ones, in order */
	ReportTable latency;		/* one row, of the batches that ended; seconds */
	ReportTable samples;
} JobReport;

/* All of them in the transaction's snapshot.  The job exists. */
extern void ledger_read_report(int64 id, JobReport *report);

/* ---- trigger_request.c: what triggers ask for ---- */

typedef struct TriggerRequest
{
	Oid			source;
	char	   *trigger;
	List	   *arguments;		/* of char *: the model, then "argument=value" of submit */
	bool		updates;		/* rows were changed, not only inserted */
	int64		first_xid;		/* the first transaction that asked */
} TriggerRequest;

/* For an event trigger: remembers who makes the triggers that the current command has made. */
extern void ledger_note_trigger_makers(void);

extern void ledger_add_request(Oid source, const char *trigger, List *arguments, bool updates);

/* When requests will next have waited long enough; DT_NOEND when there are none. */
extern TimestampTz ledger_requests_due(void);

/* The first that has waited long enough, all requests of its kind as one. */
extern bool ledger_find_request(TriggerRequest *request);
extern void ledger_drop_request(TriggerRequest *request);	/* updates becomes true also for those that came later */
extern void ledger_put_off_request(const TriggerRequest *request, TimestampTz until);

/* Submits as the table's owner; raises what dess_batch_submit raises, and 22023 for what is no argument of it. */
extern void ledger_submit_request(const TriggerRequest *request);

/* Writes a failed job instead. */
extern void ledger_refuse_request(const TriggerRequest *request, const char *sqlstate, const char *message);

#endif							/* DESS_LEDGER_H */
