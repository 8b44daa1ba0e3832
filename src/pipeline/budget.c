/*-------------------------------------------------------------------------
 *
 * budget.c
 *		What a job may still spend.
 *
 * Nothing is sent unless what was spent, what is reserved for requests under
 * way and what the new ones may cost fit into every budget together.  What was
 * spent stands in the ledger; reservations follow from the batches and requests
 * themselves, so that there is nothing to save and nothing to lose.  One worker
 * sends for all jobs of a database, so that no two of them pass a budget together.
 *
 * A request's reservation is the input that its bytes amount to, and the
 * output that it may have: max_output_tokens, or what 95 of 100 of the job's
 * answers have had so far, but not less than their mean with a margin.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <float.h>
#include <math.h>

#include "access/transam.h"
#include "port/pg_bitutils.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "ledger/ledger.h"
#include "pipeline/internal.h"
#include "pipeline/merge.h"
#include "provider/parameters.h"

/* of a request at first */
#define FIRST_OUTPUT_TOKENS	1000
#define FIRST_BYTES_A_TOKEN	3.0
/* answers from which on a job's own are believed, and by how much their mean is exceeded */
#define ENOUGH_ANSWERS		50
#define INPUT_MARGIN		1.1
#define OUTPUT_MARGIN		1.25
#define LIMIT_MARGIN		2
/* of the answers before a restart */
#define ANSWERS_LOADED		20000
/* prices may change, and other databases' clocks go on */
#define FIGURES_MAX_AGE_MS	60000
/* a batch is not cut smaller than this share of a budget, unless there is nothing more to send */
#define LEAST_SHARE			0.01

/* answers by output tokens: exactly up to 64, then in sixteenths of a power of two */
#define EXACT_BUCKETS		64
#define BUCKETS				(EXACT_BUCKETS + 26 * 16)

typedef struct Budget
{
	uint64		generation;		/* of what was spent, as of the last look; 0: never looked */
	TimestampTz loaded_at;
	bool		priced;
	double		input;			/* dollars for a token */
	double		output;
	double		max_cost;		/* negative: none */
	Spending	spending;

	/* answers so far */
	bool		answers_loaded;
	int64		answers;
	double		input_tokens;
	double		output_tokens;
	int64		most;			/* output tokens of an answer */
	int64		buckets[BUCKETS];

	/* what follows from that */
	double		per_request;	/* dollars */
	double		per_byte;
	double		headroom;		/* for one answer as long as the longest */
} Budget;

/* Which budget is the narrowest. */
typedef struct BudgetLimit
{
	const char *name;
	double		limit;
	Spent		spent;
	double		reserved;
	TimestampTz until;			/* it begins anew; 0: never */
} BudgetLimit;

static uint64 spending_generation = 1;

void
budget_note_spending(void)
{
	spending_generation++;
}

bool
budget_watches(const JobTask *task)
{
	const Account *account = task->session->account;

	return task->job->max_cost != NULL ||
		(account != NULL && (account->max_cost_per_day >= 0 || account->max_cost_per_month >= 0));
}

/* ---- what answers have ---- */

static int
bucket_of(int64 tokens)
{
	int			power;

	if (tokens < EXACT_BUCKETS)
		return (int) Max(tokens, 0);
	tokens = Min(tokens, PG_INT32_MAX);
	power = pg_leftmost_one_pos64(tokens);
	return EXACT_BUCKETS + (power - 6) * 16 + (int) ((tokens >> (power - 4)) & 15);
}

/* The most tokens that are in the bucket. */
static double
bucket_end(int bucket)
{
	int			power = (bucket - EXACT_BUCKETS) / 16 + 6;

	if (bucket < EXACT_BUCKETS)
		return bucket;
	return ldexp(16 + (bucket - EXACT_BUCKETS) % 16 + 1, power - 4) - 1;
}

static void
count_answer(Budget *budget, int64 input_tokens, int64 output_tokens)
{
	budget->answers++;
	budget->input_tokens += input_tokens;
	budget->output_tokens += output_tokens;
	budget->most = Max(budget->most, output_tokens);
	budget->buckets[bucket_of(output_tokens)]++;
}

void
budget_note_answer(JobTask *task, int64 input_tokens, int64 output_tokens)
{
	if (task->budget != NULL && task->budget->answers_loaded && input_tokens + output_tokens > 0)
		count_answer(task->budget, input_tokens, output_tokens);
}

/* Output tokens that 95 of 100 answers do not exceed. */
static double
most_answers(const Budget *budget)
{
	int64		left = budget->answers - budget->answers / 20;
	int			bucket = 0;

	while (bucket < BUCKETS - 1 && (left -= budget->buckets[bucket]) > 0)
		bucket++;
	return bucket_end(bucket);
}

/* Who asks a model to think long gets longer answers. */
static double
first_output_tokens(const char *effort)
{
	static const char *const efforts[] = {"medium", "high", "xhigh", "max"};
	double		tokens = FIRST_OUTPUT_TOKENS;

	for (int i = 0; effort != NULL && i < lengthof(efforts); i++)
	{
		tokens *= 2;
		if (strcmp(effort, efforts[i]) == 0)
			return tokens;
	}
	return FIRST_OUTPUT_TOKENS;
}

/* What is reserved for requests from now on. */
static void
set_reserve(Budget *budget, const BatchParameters *parameters)
{
	double		output = first_output_tokens(parameters->reasoning_effort);
	double		tokens_a_byte = 1 / FIRST_BYTES_A_TOKEN;
	double		learnt = 0;
	double		headroom = 0;

	if (budget->answers > 0 && budget->spending.bytes_a_request > 0)
		learnt = INPUT_MARGIN * budget->input_tokens / budget->answers / budget->spending.bytes_a_request;
	/* a long text has more tokens a byte of its request than a short one: what is learnt may only raise it */
	tokens_a_byte = Max(tokens_a_byte, learnt);

	if (budget->answers >= ENOUGH_ANSWERS)
		output = Max(most_answers(budget), OUTPUT_MARGIN * budget->output_tokens / budget->answers);
	else
		output = Max(output, budget->most);
	/* a limit that answers hardly come near to would let next to nothing be sent */
	if (parameters->max_output_tokens > 0)
		output = budget->answers >= ENOUGH_ANSWERS ?
			Min(LIMIT_MARGIN * output, parameters->max_output_tokens) : parameters->max_output_tokens;
	headroom = Max(budget->most - output, 0);
	budget->per_request = output * budget->output;
	budget->per_byte = tokens_a_byte * budget->input;
	budget->headroom = headroom * budget->output;
}

/* ---- figures ---- */

static void
load_answers(Budget *budget, int64 job_id)
{
	int32	   *input;
	int32	   *output;
	int			n = ledger_load_answers(job_id, ANSWERS_LOADED, &input, &output);

	for (int i = 0; i < n; i++)
		count_answer(budget, input[i], output[i]);
	budget->answers_loaded = true;
}

/* In a transaction. */
static void
load_figures(JobTask *task)
{
	Budget	   *budget = task->budget;
	uint64		generation = spending_generation;
	BatchParameters parameters;
	Price	   *price;

	if (budget == NULL)
		budget = task->budget = MemoryContextAllocZero(task->cxt, sizeof(Budget));
	price = ledger_find_price(task->job);
	ledger_load_spending(task->job, &budget->spending);
	if (!budget->answers_loaded)
		load_answers(budget, task->job->id);
	budget->priced = price != NULL;
	budget->input = price != NULL ? price->most_input : 0;
	budget->output = price != NULL ? price->a_output : 0;
	budget->max_cost = task->job->max_cost != NULL ? strtod(task->job->max_cost, NULL) : -1;
	parameters_read(task->job->parameters, &parameters);
	set_reserve(budget, &parameters);
	budget->generation = generation;
	budget->loaded_at = GetCurrentTimestamp();
}

static bool
figures_are_old(const Budget *budget)
{
	return budget == NULL || budget->generation == 0 ||
		TimestampDifferenceExceeds(budget->loaded_at, GetCurrentTimestamp(), FIGURES_MAX_AGE_MS);
}

/* Do both send by the same server, and draw on its budgets? */
static bool
shares_server(const JobTask *task, const JobTask *other)
{
	return other == task || (OidIsValid(task->job->server) && other->job->server == task->job->server);
}

/* The job's own figures, and prices of the others whose requests are under way. */
static void
load_txn(void *arg)
{
	JobTask    *task = (JobTask *) arg;
	dlist_iter	iter;

	(void) session_account(task->session);
	load_figures(task);
	dlist_foreach(iter, &fair_share_queue)
	{
		JobTask    *other = dlist_container(JobTask, share.node, iter.cur);

		if (other != task && shares_server(task, other) && figures_are_old(other->budget) &&
			!dlist_is_empty(&other->batches) && other->job->state <= JOB_ACTIVE)
			load_figures(other);
	}
}

static bool
figures_are_fresh(const JobTask *task)
{
	return !figures_are_old(task->budget) && task->budget->generation == spending_generation &&
		task->budget->spending.day_end > GetCurrentTimestamp();
}

static bool pause_job(JobTask *task, TimestampTz until, const char *code, const char *words);

/* Sees to it that the figures are those of the ledger; false: trouble, or the job had to be paused. */
static bool
budget_refresh(JobTask *task)
{
	WorkerTxnError	error;
	WorkerTxnVerdict verdict;

	if (!figures_are_fresh(task))
	{
		verdict = worker_txn_run("looking at budgets", load_txn, task, &error);
		if (verdict != WORKER_TXN_DONE)
		{
			jobtask_trouble(task, verdict, &error);
			return false;
		}
	}
	if (task->budget->priced)
		return true;
	(void) pause_job(task, 0, "no_price",
					 psprintf("no price is known for model \"%s\", and a budget needs one", task->job->model));
	return false;
}

/* ---- what is under way ---- */

double
budget_reserve(const JobTask *task, int64 requests, int64 bytes)
{
	return requests * task->budget->per_request + bytes * task->budget->per_byte;
}

/* What a batch may still cost, over what the ledger has of it. */
static double
batch_reserved(const BatchTask *batch)
{
	const JobTask *task = batch->job;
	BatchState	state = batch->batch.state;
	double		left = 1;
	int64		requests;
	int64		bytes;

	if (task->budget == NULL)
		return 0;
	if (task->job->online)
	{
		online_reserved(batch, &requests, &bytes);
		return budget_reserve(task, requests, bytes);
	}
	/* what is uploaded but will not be created now is looked at again before it is */
	if (state < BATCH_UPLOADING || state > BATCH_RETRIEVING ||
		(state <= BATCH_UPLOADED && (!jobtask_may_send(task) || task->job->stage < STAGE_CREATE)))
		return 0;
	if (batch->merge != NULL && batch->merge->nitems > 0)
		left = 1 - (double) batch->merge->nfinished / batch->merge->nitems;
	return left * budget_reserve(task, batch->batch.requests, batch->batch.bytes);
}

static double
job_reserved(const JobTask *task, const BatchTask *except)
{
	double		reserved = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &((JobTask *) task)->batches)
	{
		const BatchTask *batch = dlist_container(BatchTask, node, iter.cur);

		if (batch != except)
			reserved += batch_reserved(batch);
	}
	return reserved;
}

static double
server_reserved(const JobTask *task, const BatchTask *except)
{
	double		reserved = 0;
	dlist_iter	iter;

	dlist_foreach(iter, &fair_share_queue)
	{
		const JobTask *other = dlist_container(JobTask, share.node, iter.cur);

		if (shares_server(task, other))
			reserved += job_reserved(other, except);
	}
	return reserved;
}

/* ---- limits ---- */

/* A budget of which it is not known what is left has no room. */
static double
limit_room(const BudgetLimit *limit)
{
	if (limit->spent.unpriced > 0)
		return -DBL_MAX;
	return limit->limit - limit->spent.cost - limit->reserved;
}

/* Keeps the narrower one. */
static void
consider(BudgetLimit *least, const char *name, double limit, Spent spent, double reserved, TimestampTz until)
{
	BudgetLimit other = {name, limit, spent, reserved, until};

	if (limit >= 0 && (least->name == NULL || limit_room(&other) < limit_room(least)))
		*least = other;
}

static void
find_limit(const JobTask *task, const BatchTask *except, BudgetLimit *least)
{
	const Budget *budget = task->budget;
	const Spending *spending = &budget->spending;
	const Account *account = task->session->account;
	bool		shared = account->max_cost_per_day >= 0 || account->max_cost_per_month >= 0;
	double		reserved = shared ? server_reserved(task, except) : 0;

	memset(least, 0, sizeof(*least));
	least->limit = INFINITY;
	consider(least, "max_cost", budget->max_cost, spending->job, job_reserved(task, except), 0);
	consider(least, "max_cost_per_day", account->max_cost_per_day, spending->day, reserved, spending->day_end);
	consider(least, "max_cost_per_month", account->max_cost_per_month, spending->month, reserved, spending->month_end);
}

/* Dollars that may be reserved for more requests of the job; *waits: what is under way may leave some of its own. */
static double
budget_room(const JobTask *task, const BatchTask *except, bool *waits)
{
	BudgetLimit least;

	find_limit(task, except, &least);
	*waits = least.reserved > 0;
	return limit_room(&least) - task->budget->headroom;
}

/* ---- pauses ---- */

typedef struct PauseArg
{
	JobTask    *task;
	TimestampTz until;
	const char *code;
	const char *words;
} PauseArg;

static void
pause_txn(void *arg)
{
	PauseArg   *pause = (PauseArg *) arg;

	ledger_pause(pause->task->job->id, pause->until, pause->code, pause->words);
}

static bool
pause_job(JobTask *task, TimestampTz until, const char *code, const char *words)
{
	PauseArg	pause = {task, until, code, words};
	WorkerTxnError	error;

	if (worker_txn_run("pausing a job", pause_txn, &pause, &error) != WORKER_TXN_DONE)
	{
		task->due = ms_from_now(1000);
		return false;
	}
	task->note = NOTE_NONE;
	task->job->control = CONTROL_PAUSE;
	task->job->paused_until = until;
	/* whoever lets it go on may have changed a price, too */
	task->budget->generation = 0;
	return true;
}

void
budget_pause(JobTask *task)
{
	BudgetLimit least;
	const char *name;
	char	   *words;

	if (!jobtask_may_send(task))
		return;
	find_limit(task, NULL, &least);
	name = least.until == 0 ? least.name : psprintf("%s of server \"%s\"", least.name, task->job->server_name);
	if (least.spent.unpriced > 0)
		words = psprintf("%s cannot be watched, because no price was known for " INT64_FORMAT " of the requests",
						 name, least.spent.unpriced);
	else
		words = psprintf("the next request could pass %s: %.10g of %.10g US dollars are spent",
						 name, least.spent.cost, least.limit);
	if (least.until != 0)
		words = psprintf("%s; it goes on at %s", words, timestamptz_to_str(least.until));
	(void) pause_job(task, least.until, least.spent.unpriced > 0 ? "unknown_cost" : least.name, words);
}

static void
resume_txn(void *arg)
{
	JobTask    *task = (JobTask *) arg;

	if (!ledger_unpause(task->job->id))
	{
		task->version.xmin = InvalidTransactionId;
		pipeline_refresh_soon();
	}
	else
		task->job->control = CONTROL_RUN;
}

bool
budget_resume(JobTask *task)
{
	WorkerTxnError	error;

	if (task->job->control != CONTROL_PAUSE || task->job->paused_until == 0 ||
		task->job->paused_until > GetCurrentTimestamp())
		return false;
	if (worker_txn_run("resuming a job", resume_txn, task, &error) != WORKER_TXN_DONE)
	{
		task->job->control = CONTROL_PAUSE;
		task->job->paused_until = ms_from_now(5000);
		return false;
	}
	task->job->paused_until = 0;
	return true;
}

/* ---- requests ---- */

bool
budget_find_room(JobTask *task, double *room)
{
	bool		waits;

	*room = INFINITY;
	if (!budget_watches(task))
		return true;
	if (!budget_refresh(task))
		return false;
	*room = budget_room(task, NULL, &waits);
	return true;
}

bool
budget_takes_request(JobTask *task, size_t bytes, double *room)
{
	double		cost;
	bool		waits;

	if (isinf(*room))
		return true;
	cost = budget_reserve(task, 1, bytes);
	if (cost <= *room)
	{
		*room -= cost;
		return true;
	}
	(void) budget_room(task, NULL, &waits);
	if (!waits)
		budget_pause(task);
	return false;
}

/* ---- batches ---- */

/* Nothing of the job can be sent before requests that are under way have left some of what is reserved for them. */
static void
note_waiting(JobTask *task, const BatchTask *batch)
{
	BudgetLimit least;

	if (job_reserved(task, batch) > 0)
		return;
	find_limit(task, batch, &least);
	jobtask_note_budget(task, psprintf("a budget: %.10g of %.10g US dollars (%s) are spent, and %.10g are reserved for requests under way",
									   least.spent.cost, least.limit, least.name, least.reserved));
}

BudgetVerdict
budget_takes_batch(const BatchTask *batch)
{
	JobTask    *task = batch->job;
	const Batch *row = &batch->batch;
	double		room;
	bool		waits;

	if (!budget_watches(task))
		return BUDGET_FITS;
	if (!budget_refresh(task))
		return BUDGET_WAIT;
	room = budget_room(task, batch, &waits);
	if (budget_reserve(task, row->requests, row->bytes) <= room)
	{
		jobtask_note_budget(task, NULL);
		return BUDGET_FITS;
	}
	if (waits)
	{
		note_waiting(task, batch);
		return BUDGET_WAIT;
	}
	if (row->requests > 1 && budget_reserve(task, 2, 2 * row->bytes / row->requests) <= room)
		return BUDGET_CUT;
	budget_pause(task);
	return BUDGET_WAIT;
}

/* As long as something is under way, small batches are not worth while. */
bool
budget_may_prepare(JobTask *task)
{
	BudgetLimit least;
	WorkerTxnError	error;

	/* what is wrong with the account is for prepare's own transaction to say */
	if (task->job->online || task->filling != NULL ||
		session_refresh(task->session, &error) != WORKER_TXN_DONE || !budget_watches(task))
		return true;
	if (!budget_refresh(task))
		return false;
	find_limit(task, NULL, &least);
	if (least.reserved > 0 &&
		limit_room(&least) - task->budget->headroom < (least.limit - least.spent.cost) / 4)
	{
		note_waiting(task, NULL);
		return false;
	}
	if (dlist_is_empty(&task->batches))
		jobtask_note_budget(task, NULL);
	return true;
}

double
budget_for_batch(JobTask *task)
{
	BudgetLimit least;
	double		room;

	if (task->job->online || !budget_watches(task))
		return -1;
	if (!figures_are_fresh(task))
		load_txn(task);
	find_limit(task, NULL, &least);
	room = limit_room(&least) - task->budget->headroom;
	if (!task->budget->priced || room < LEAST_SHARE * least.limit)
		return 0;
	return room;
}
