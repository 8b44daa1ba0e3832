/*-------------------------------------------------------------------------
 *
 * pipeline.h
 *		Jobs and batches in the worker's memory, and what moves them.
 *
 * Everything here is a cache of the ledger and may vanish at any instruction;
 * pipeline_refresh() builds it again.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_H
#define DESS_PIPELINE_H

#include "lib/ilist.h"

#include "ledger/ledger.h"
#include "pipeline/account_session.h"
#include "pipeline/fair_share.h"
#include "runtime/spool.h"
#include "runtime/worker_txn.h"
#include "table/table.h"

struct JobTask;
struct MergeState;
struct OnlineState;
struct SampleState;
struct OnlyState;
struct CountState;
struct Budget;

/* A batch in the worker's memory. */
typedef struct BatchTask
{
	dlist_node	node;			/* in its job's list */
	struct JobTask *job;
	MemoryContext cxt;			/* as long as the batch */
	Batch		batch;

	/* the step under way */
	StageStep	step;			/* NULL: none */
	StageStep	begun;			/* the one that began last, under way or ended */
	BatchStage	stage;
	MemoryContext step_cxt;		/* reset when a step begins */
	TransferOwner owner;		/* of the step's transfers */
	HttpTransfer *transfer;		/* NULL: none */
	int64		checksum_at;	/* how far STEP_CHECKSUM has come; -1: none is wanted */
	const char *checksum_file;
	int64		checksum_length;
	uint32		checksum;
	int			downloaded;		/* result files that are in the spool */
	int			fetches;		/* how often they lacked lines and were fetched again */
	bool		cancel_sent;	/* the provider was told, by this process */
	bool		overdue;		/* looked at when it should have ended long ago, and had not */
	bool		resumed;		/* an upload may have had its effect without our knowing its name */
	bool		file_intact;	/* as of the last look at the request file */
	int			release_from;	/* it is being released, and this is the next row; 0: it is not */
	bool		asked;			/* in creating: the batch is known not to exist at the provider */

	TimestampTz due;			/* nothing happens before this */
	int			failures;		/* of this step in a row */
	int			queue_full;		/* how often the provider had no room for it; 0 when it has been let in */
	TimestampTz entered_at;		/* the provider was asked to create it */
	int			not_found;		/* polls in a row that said so */
	TimestampTz not_found_since;
	char		seen_by[ACCOUNT_IDENTITY_SIZE]; /* the account that asked last */

	struct MergeState *merge;
	struct OnlineState *online;
} BatchTask;

/* A job in the worker's memory. */
typedef struct JobTask
{
	dlist_node	node;
	MemoryContext cxt;			/* as long as the job */
	MemoryContext job_cxt;		/* the ledger's values; replaced when it has others */
	Job		   *job;
	JobVersion	version;		/* of the ledger's row that they are from, or an older one */
	AccountSession    *session;		/* NULL until first needed */
	dlist_head	batches;		/* of BatchTask */
	bool		seen;			/* by the refresh under way */
	bool		blocked;			/* its table's code has ended a worker: it ends, and that code runs no more */
	bool		stale;			/* to be loaded anew: the ledger has more than this */

	/* the user's table, opened when needed */
	MemoryContext table_cxt;
	SourceTable *table;

	/* what the provider's request lines have in common */
	MemoryContext options_cxt;
	BatchOptions *options;

	/* the batch being prepared: requests seen in it, by digest */
	struct requests_hash *requests;
	BatchTask  *filling;
	bool		filling_checked;	/* its file is what the ledger says */

	struct SampleState *sample; /* while sample rows are being chosen */
	struct OnlyState *only;		/* while rows are being chosen by what is known of them */
	struct CountState *count;	/* while the rows still to come are being counted */

	int			online_in_flight;	/* requests of all its batches that wait for their answers */
	bool		online_wants;	/* it could send more, as of the last count */

	struct Budget *budget;		/* NULL until first needed */
	FairShare		share;			/* of the worker's time */
	GroupSize		reading;		/* rows that are prepared */
	GroupSize		scanning;		/* rows whose keys are counted or chosen from */
	GroupSize		writing;		/* lines that are merged */
	bool		prepared_last;	/* in its last turn it prepared: its answers come first now */

	TimestampTz due;			/* job-level work waits until then */
	TimestampTz retry_due;		/* rows to be sent once more wait until then */
	int			rate_rounds;	/* results in a row that had rows refused for the provider's load */
	int			failures;
	int			repeats;		/* of database work that others stood in the way of */
	bool		told;			/* the reason of waiting stands in the ledger */
	bool		troubled;		/* and it is that database work failed */
} JobTask;

/* ---- pipeline.c: the five stages ---- */
extern bool batch_work(BatchTask *batch);	/* one turn of a batch; false: nothing was due */
extern bool batch_needs_cleaning(const BatchTask *batch);
extern void batch_take_reply(BatchTask *batch, HttpReply *reply);

/* ---- pipeline_loop.c: whose turn it is ---- */
extern void pipeline_init(void);
extern void pipeline_refresh(void); /* look at the ledger again */
extern void pipeline_refresh_soon(void);
extern void pipeline_suspend(void);	/* drop what is under way, but for online requests */
extern void pipeline_finished_transfers(void);
extern bool pipeline_work(void);	/* one transaction for whoever is due; false: nothing was due */
extern long pipeline_timeout_ms(void);	/* until something is due; -1: nothing ever */
extern int	pipeline_open_jobs(void);
extern bool pipeline_is_idle(void); /* nothing left to do or to wait for */
extern TimestampTz pipeline_job_due(const JobTask *task, TimestampTz now);	/* when the job is due after now */

/* ---- job_task.c: loading, ending and pausing jobs ---- */
extern dlist_head pipeline_jobs;
extern JobTask *jobtask_find(int64 id);
extern void jobtask_refresh(JobTask *task, const JobVersion *version);
extern void jobtask_ask_poll(JobTask *task, int batch_no);	/* a look at the provider is due */
extern BatchTask *jobtask_add_batch(JobTask *task, const Batch *batch);
extern void jobtask_drop_batch(BatchTask *batch);
extern void jobtask_drop(JobTask *task);
extern bool jobtask_may_send(const JobTask *task);
extern BatchOptions *jobtask_options(JobTask *task);
extern SourceTable *jobtask_table(JobTask *task);
extern void jobtask_fail(JobTask *task, const char *code, const char *message);
extern void jobtask_block(JobTask *task);	/* its table's code has ended the worker before this one */
extern void jobtask_pause(JobTask *task, const char *code, const char *message);
extern void jobtask_trouble(JobTask *task, WorkerTxnVerdict verdict, const WorkerTxnError *error);
extern void jobtask_note_failing(JobTask *task, const char *code, const char *message);
extern void jobtask_note(JobTask *task, const char *code, const char *message);
extern void jobtask_note_gone(JobTask *task);
extern void jobtask_recovered(JobTask *task);
extern void jobtask_wait_for_secret(JobTask *task);
extern bool jobtask_try_finish(JobTask *task);
extern void jobtask_end_failed(JobTask *task);	/* a failing job ends although batches are at the provider */
extern TimestampTz ms_from_now(int64 ms);
extern double random_fraction(void);

/* ---- prepare.c: stage 1 ---- */
#define PREPARE_PAGE_ROWS	1000	/* in one transaction, at most */
extern bool prepare_wanted(JobTask *task);
extern bool prepare_work(JobTask *task);	/* one transaction; false: nothing to do now */
extern bool prepare_close(JobTask *task);	/* the batch being filled goes as it is; false: there is none */

/* ---- prepare_in_flight.c: rows that other jobs have in flight ---- */
extern void in_flight_load(const JobTask *task);	/* in a worker transaction, until whose end they can be asked for */
extern bool in_flight_have(const char *key);

/* ---- prepare_list.c: sample and only ---- */
extern void prepare_list(JobTask *task);

/* ---- prepare_only.c: only ---- */
extern WorkerTxnVerdict prepare_only(JobTask *task, WorkerTxnError *error);

/* ---- prepare_count.c: how many rows there will be ---- */
extern bool count_wanted(const JobTask *task);
extern void count_work(JobTask *task);
#define COUNT_PAGE_ROWS		10000	/* in one transaction, at most; of a sample too */

/* ---- triggered.c: jobs that triggers ask for ---- */
extern void trigger_jobs_refresh(void);	/* in a transaction */
extern TimestampTz trigger_jobs_due(void);
extern bool trigger_jobs_work(void);	/* one job; false: nobody asks for one now */

/* ---- merge.c: stage 5 ---- */
/* lines in one transaction: at first, and at most where they take but a moment */
#define MERGE_FIRST_LINES	500
#define MERGE_MOST_LINES	4000
extern bool merge_work(BatchTask *batch);	/* one transaction; false: it is another batch's turn */
extern void merge_end(BatchTask *batch);

/* ---- online_share.c: jobs that ask the same server online ---- */
extern int	online_room(const BatchTask *batch);	/* how many of its requests may leave now */

/* ---- online.c: stages 2 to 4 of online mode ---- */
extern bool online_work(BatchTask *batch);
extern TimestampTz online_due(const BatchTask *batch);
extern void online_reply(TransferOwner *owner, HttpTransfer *transfer);
extern void online_flush(void); /* replies that have arrived go to the spool */
extern int64 online_unsent(const BatchTask *batch);
extern void online_reserved(const BatchTask *batch, int64 *requests, int64 *bytes);	/* sent, and not merged */
extern int	online_in_flight(const BatchTask *batch);	/* requests that wait for their answers */
extern bool online_wants(const BatchTask *batch, TimestampTz now);	/* could it send more, if there were room? */
extern void online_end(BatchTask *batch);

#endif							/* DESS_PIPELINE_H */
