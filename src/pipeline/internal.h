/*-------------------------------------------------------------------------
 *
 * internal.h
 *		Jobs and batches in the worker's memory, and what the files of the
 *		pipeline share, from top to bottom.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_PIPELINE_INTERNAL_H
#define DESS_PIPELINE_INTERNAL_H

#include "lib/ilist.h"

#include "ledger/ledger.h"
#include "pipeline/account_session.h"
#include "pipeline/fair_share.h"
#include "pipeline/group_size.h"
#include "pipeline/pipeline.h"
#include "runtime/clock.h"
#include "runtime/spool.h"
#include "runtime/worker_txn.h"
#include "table/table.h"

struct JobTask;
struct MergeState;
struct OnlineState;
struct SampleState;
struct OutcomesState;
struct CountState;
struct Budget;

/* The steps of a provider that a batch goes through. */
typedef enum BatchStep
{
	BATCH_STEP_UPLOAD,
	BATCH_STEP_FIND,			/* does the batch exist at the provider? */
	BATCH_STEP_CREATE,
	BATCH_STEP_STATUS,
	BATCH_STEP_CANCEL,
	BATCH_STEP_REMOVE_JOB,		/* the batch at the provider alone; its file stays */
	BATCH_STEP_DOWNLOAD,
	BATCH_STEP_CLEAN			/* remove what is left at the provider */
} BatchStep;

/* Is the batch to be cancelled at the provider although the job goes on? */
typedef enum BatchWatch
{
	WATCH_WAIT,					/* no: it is waited for */
	WATCH_OVERDUE				/* yes: a look has found that it should have ended long ago */
} BatchWatch;

/* The checksum that a step wants of a local file (batch.c). */
typedef struct BatchChecksum
{
	int64		at;				/* how far it has come; -1: none is wanted */
	const char *file;
	int64		length;
	uint32		value;
} BatchChecksum;

/* What looks at the provider have shown of the batch (batch_watch.c). */
typedef struct BatchLooks
{
	BatchWatch	watch;
	bool		cancel_sent;	/* this process has told the provider to cancel it */
	int			not_found;		/* looks in a row that did not find it */
	TimestampTz not_found_since;
	char		seen_by[ACCOUNT_IDENTITY_SIZE]; /* the account that asked last */
} BatchLooks;

/* Its place in the provider's queue (batch.c). */
typedef struct BatchQueue
{
	int			refusals;		/* how often there was no room for it; 0 when it has been let in */
	TimestampTz entered_at;		/* the provider was asked to create it */
} BatchQueue;

/* Its result files (stages.c, merge_close.c). */
typedef struct BatchDownload
{
	int			files;			/* that are in the spool */
	int			fetched_again;	/* how often they lacked lines and were fetched again */
} BatchDownload;

/* A batch in the worker's memory. */
typedef struct BatchTask
{
	dlist_node	node;			/* in its job's list */
	struct JobTask *job;
	MemoryContext cxt;			/* as long as the batch; ends its transfer */
	Batch		batch;

	StepRun		run;			/* the step under way */
	BatchStep	step;			/* the one that began last, under way or ended */
	TransferOwner owner;		/* of the step's transfers */

	BatchChecksum checksum;
	BatchLooks	looks;
	BatchQueue	queue;
	BatchDownload download;

	bool		upload_in_doubt;	/* an upload may have had its effect without our knowing its name */
	bool		known_absent;	/* in creating: the provider is known not to have it */
	int			release_from;	/* it is being released, and this is the next row; 0: it is not */

	TimestampTz due;			/* nothing happens before this */
	int			failures;		/* of this step in a row */

	struct MergeState *merge;	/* merge_state.c */
	struct OnlineState *online; /* online.c */
	struct OnlineReserve *reserve;	/* of the same; NULL: nobody has looked yet what was sent before a restart */
} BatchTask;

/* Which reason of waiting stands in the ledger? */
typedef enum JobNote
{
	NOTE_NONE,
	NOTE_WAITING,				/* for something: a secret, a server, a pause that it asked for */
	NOTE_BUDGET,				/* for what others have reserved in a budget */
	NOTE_FAILING				/* database work of the job fails */
} JobNote;

/* A job in the worker's memory. */
typedef struct JobTask
{
	FairShare	share;			/* of the worker's time; first */
	MemoryContext cxt;			/* as long as the job */
	MemoryContext job_cxt;		/* the ledger's values; replaced when it has others */
	Job		   *job;
	JobVersion	version;		/* of the ledger's row that they are from, or an older one */
	AccountSession *session;
	dlist_head	batches;		/* of BatchTask */
	bool		seen;			/* by the refresh under way */
	bool		blocked;		/* its table's code has ended a worker: the job ends, and that code runs no more */
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
	struct OutcomesState *outcomes;	/* while rows are being chosen by what is known of them */
	struct CountState *count;	/* while the rows still to come are being counted */

	int			online_in_flight;	/* requests of all its batches that wait for their answers */
	bool		online_wants;	/* it could send more, as of the last count */

	struct Budget *budget;		/* NULL until first needed */
	GroupSize	reading;		/* rows that are prepared */
	GroupSize	scanning;		/* rows whose keys are counted or chosen from */
	GroupSize	writing;		/* lines that are merged */
	int			slow_rows;		/* single rows in a row that took longer than others let them */
	bool		prepared_last;	/* in its last turn it prepared: its answers come first now */

	TimestampTz due;			/* job-level work waits until then */
	TimestampTz retry_due;		/* rows of the retry queue wait until then */
	int			rate_rounds;	/* results in a row that had rows refused for the provider's load */
	int			unreadable;		/* replies that could not be read, since one could */
	int			failures;
	int			repeats;		/* of database work that others stood in the way of */
	JobNote		note;
} JobTask;

/* ---- stages.c: the five stages ---- */

/* One turn of a batch; false: nothing was due. */
extern bool batch_work(BatchTask *batch);
extern void batch_take_reply(BatchTask *batch, HttpReply *reply);

/* Is something of the batch left at the provider? */
extern bool batch_needs_cleaning(const BatchTask *batch);

/* ---- trigger_jobs.c: jobs that triggers ask for ---- */

extern void trigger_jobs_refresh(void); /* in a transaction */
extern TimestampTz trigger_jobs_due(void);
extern bool trigger_jobs_work(void);	/* one job; false: nobody asks for one now */

/* ---- prepare.c: stage 1 ---- */

#define PREPARE_PAGE_ROWS	1000	/* in one worker transaction, at most */

extern bool prepare_wanted(JobTask *task);
extern bool prepare_work(JobTask *task);	/* a page of rows; false: nothing to do now */
extern bool prepare_close(JobTask *task);	/* the batch being filled goes as it is; false: there is none */

/* ---- prepare_in_flight.c: rows that other jobs have in flight ---- */

extern void in_flight_load(const JobTask *task);	/* in a transaction, until whose end they can be asked for */
extern bool in_flight_have(const char *key);

/* ---- prepare_list.c, prepare_outcomes.c: rows that are chosen beforehand ---- */

extern void prepare_list(JobTask *task);
extern WorkerTxnVerdict prepare_outcomes(JobTask *task, WorkerTxnError *error);

/* ---- prepare_count.c: how many rows there will be ---- */

#define COUNT_PAGE_ROWS		10000	/* in one worker transaction, at most; of a sample too */

extern bool count_wanted(const JobTask *task);
extern void count_work(JobTask *task);

/* ---- online.c: stages 2 to 4 of mode online ---- */

extern bool online_work(BatchTask *batch);	/* one turn; true: there is more to do at once */
extern TimestampTz online_due(const BatchTask *batch);	/* when it has something to do although nothing arrives */
extern void online_flush(void); /* replies that have arrived go to the spool */
extern int64 online_unsent(const BatchTask *batch);
extern int	online_in_flight(const BatchTask *batch);	/* requests that wait for their answers */
extern bool online_wants(const BatchTask *batch, TimestampTz now);	/* could it send more, if there were room? */

/* ---- online_reply.c ---- */

extern void online_reply(TransferOwner *owner, HttpTransfer *transfer);

/* ---- online_share.c: jobs that ask the same server online ---- */

extern int	online_room(const BatchTask *batch);	/* how many of its requests may leave now */

/* ---- merge.c: stage 5; the rest of it is in merge.h ---- */

/* lines in one worker transaction: at first, and at most where they take but a moment */
#define MERGE_FIRST_LINES	500
#define MERGE_MOST_LINES	4000

/* ---- batch_watch.c: batches at the provider ---- */

/* A look at the provider has succeeded: what now depends on what it says. */
extern void batch_looked_at(BatchTask *batch);

/*
 * Failed there without a result, for the provider's load: it is saved as that
 * before its job is removed there; then the same file is submitted again later,
 * unless ours ends.
 */
extern bool batch_was_turned_away(const BatchTask *batch);
extern void batch_go_back(BatchTask *batch);

/* The provider was asked by the account as it is now; what it answered is this account's. */
extern void batch_asks(BatchTask *batch);
extern void batch_was_seen(BatchTask *batch);

/* Was the batch last seen, or its creation last asked for, by another account than the one that asks now? */
extern bool batch_is_of_another_account(const BatchTask *batch);

/* The account in use has no such batch, and another one was to make it: it is looked for again, and the user is told why. */
extern void batch_wait_for_creator(BatchTask *batch);

/* Is "not found" old enough, and said by the right one, to be believed? */
extern bool batch_not_found_for_good(BatchTask *batch, const StepError *error);

/* A strange batch was not found: the same look is taken again, soon, and the user is told why.  False: it is not that. */
extern bool batch_wait_for_account(BatchTask *batch, const StepError *error);

/* ---- batch.c: batches, what all stages need ---- */

#define RETRY_CAP_MS		300000
/* a limit of the provider's queue: what waits there must shrink first */
#define QUEUE_RETRY_MS		60000
#define QUEUE_RETRY_CAP_MS	600000

/* Commits a new state of the batch, with what is known of it at the provider.  False: trouble, or somebody was faster. */
extern bool batch_move(BatchTask *batch, BatchState to, const char *activity);

/*
 * Commits that what was made at the provider is nothing, and is to be made
 * again when due, for the reason why.  False: trouble, and all is as before.
 */
extern bool batch_put_back(BatchTask *batch, const StepError *why, TimestampTz due);

/* Saves what is known of the batch; why (NULL: nothing) is noted as its error. */
extern void batch_save(BatchTask *batch, const StepError *why);

/* Is the account there, as it is now, with a secret?  Otherwise the job waits or has failed. */
extern bool batch_account_ready(BatchTask *batch);

/* What a step has learnt becomes the batch's own. */
extern void batch_adopt_remote(BatchTask *batch, const BatchRemote *learnt);
extern char *batch_copy_text(BatchTask *batch, const char *text);

/* May another batch go to the provider? */
extern bool batch_has_room(const BatchTask *batch);

/* The provider had no room for the batch: when to try again, unless another one ends before.  Counts. */
extern TimestampTz batch_queue_full(BatchTask *batch);

/* This batch has ended at the provider: what waits for room there longest is tried at once. */
extern void batch_left_queue(const BatchTask *batch);

/* Is the request file what the ledger says?  If not, it is being released, so that its rows are prepared anew. */
extern bool batch_file_intact(BatchTask *batch);

/*
 * The batch will not run: its rows go back, or are cancelled with the job, some
 * thousand a call.  False: trouble.  What began it begins it again after a
 * crash: what is wanted of the job, or a request file that is not whole.
 */
extern bool batch_release(BatchTask *batch);

/* Some megabytes of the checksum that a step wants; true when it stands in the stage. */
extern bool batch_checksum(BatchTask *batch);

/* The step is taken again after a delay. */
extern void batch_retry_step(BatchTask *batch, const StepError *error);

/* The provider takes smaller files than we thought: the rows are prepared again in smaller batches. */
extern void batch_too_large(BatchTask *batch, const StepError *why);

/* ---- budget.c: what a job may still spend ---- */

/* Has the job, or its server, a budget?  The session's account is loaded. */
extern bool budget_watches(const JobTask *task);

/* What is reserved for so many requests, of so many bytes together. */
extern double budget_reserve(const JobTask *task, int64 requests, int64 bytes);

/* Pauses the job: its next request does not fit.  The figures are fresh. */
extern void budget_pause(JobTask *task);

/* A job's pause that ends by itself ends here.  Returns true if it did. */
extern bool budget_resume(JobTask *task);

/* Dollars that may be reserved for more requests; infinite where there is no budget.  False: nothing may be sent. */
extern bool budget_find_room(JobTask *task, double *room);

/* Does one more request fit?  Then *room is less by what is reserved for it; if it never will, the job is paused. */
extern bool budget_takes_request(JobTask *task, size_t bytes, double *room);

typedef enum BudgetVerdict
{
	BUDGET_FITS,
	BUDGET_WAIT,				/* what is under way may leave enough; or the job was paused */
	BUDGET_CUT					/* less of it fits */
} BudgetVerdict;

/* May the batch, which is not at the provider, go there?  If nothing of it ever may, the job is paused. */
extern BudgetVerdict budget_takes_batch(const BatchTask *batch);

/* ---- for prepare.c ---- */

/* Is it worth while to prepare another batch now? */
extern bool budget_may_prepare(JobTask *task);

/* Dollars for the batch being filled; negative: no limit.  Needs a transaction, raises. */
extern double budget_for_batch(JobTask *task);

/* ---- for the merge ---- */

extern void budget_note_answer(JobTask *task, int64 input_tokens, int64 output_tokens);
extern void budget_note_spending(void);	/* the ledger has other figures than before */

/* ---- online_reserve.c: requests of mode online that a budget has to reckon with ---- */

typedef struct OnlineReserve
{
	uint32	   *sizes;			/* by item: bytes of the request, while it is sent and not merged; else 0 */
	int64		requests;		/* how many are not 0 */
	int64		bytes;			/* their sum */
	int			as_of;			/* when so many items were finished; -1: they were never counted */
} OnlineReserve;

/* For a batch of so many items, none of them sent; palloc'd. */
extern void online_reserve_init(OnlineReserve *reserve, int nitems);

/* The item's request is sent, or is not (0 bytes). */
extern void online_reserve_set(OnlineReserve *reserve, int no, uint32 bytes);

/* Sees to it that what has been merged is reserved no more. */
extern void online_reserve_settle(OnlineReserve *reserve, const struct MergeState *merge);

/* What of the batch is sent, and not merged. */
extern void online_reserved(const BatchTask *batch, int64 *requests, int64 *bytes);

/* ---- job.c: loading, ending and pausing jobs ---- */

/*
 * Runs work that takes time as a worker transaction and charges it to the job.
 * With a size, which is adapted, it is cancelled when it takes long:
 * WORKER_TXN_SLOW means that it is to be repeated with the rows that the size
 * allows now, when it is the job's turn again.  Without (NULL) it is the
 * ledger's own work.
 */
extern WorkerTxnVerdict jobtask_run(JobTask *task, GroupSize *size, const char *activity,
									void (*fn) (void *arg), void *arg, WorkerTxnError *error);

extern void jobtask_refresh(JobTask *task, const JobVersion *version);
extern void jobtask_ask_poll(JobTask *task, int batch_no);	/* a look at the provider is due */
extern BatchTask *jobtask_add_batch(JobTask *task, const Batch *batch);
extern void jobtask_drop_batch(BatchTask *batch);
extern void jobtask_drop(JobTask *task);
extern BatchOptions *jobtask_options(JobTask *task);
extern SourceTable *jobtask_table(JobTask *task);
extern void jobtask_fail(JobTask *task, const char *code, const char *message);
extern void jobtask_block(JobTask *task);	/* its table's code has ended the worker before this one */
extern void jobtask_pause(JobTask *task, const char *code, const char *message);
extern void jobtask_trouble(JobTask *task, WorkerTxnVerdict verdict, const WorkerTxnError *error);
extern void jobtask_note(JobTask *task, const char *code, const char *message);
extern void jobtask_note_gone(JobTask *task);
extern void jobtask_note_budget(JobTask *task, const char *words);	/* NULL: it waits for none */
extern void jobtask_recovered(JobTask *task);
extern void jobtask_wait_for_secret(JobTask *task);
extern bool jobtask_try_finish(JobTask *task);
extern void jobtask_end_failed(JobTask *task);	/* a failing job ends although batches are at the provider */

/* ---- task.c: what lies below everybody ---- */

extern JobTask *jobtask_find(int64 id);

/* May requests of this job leave? */
extern bool jobtask_may_send(const JobTask *task);

/* When the ledger is looked at although nobody asks; DT_NOEND: never. */
extern TimestampTz pipeline_refresh_due;

/* The ledger has something that is to be looked at soon. */
extern void pipeline_refresh_soon(void);

#endif							/* DESS_PIPELINE_INTERNAL_H */
