/*-------------------------------------------------------------------------
 *
 * item.c
 *		The ledger: rows of batches and what became of them.
 *
 * Rows are kept many to a tuple, as arrays.  Items are written when they are
 * prepared and results when they are merged, so neither is ever updated in the
 * course of things; a row's result is found by its number in the batch.
 * Columns of a result in which no row has a value are null.
 *
 * Whatever sets an outcome counts it in the batch in the same call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "port/pg_bswap.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"

#include "ledger/internal.h"
#include "ledger/price.h"

#define ROW_ERROR_BYTES		200
#define ROW_WORD_BYTES		200
#define ANSWER_BYTES		(256 * 1024 * 1024)

/* ---- items ---- */

static Statement insert_items = {
	.sql = "INSERT INTO dess_batch.item (job_id, batch_no, first_no, keys, hashes, same_as, held, attempts) "
	"VALUES ($1, $2, $3, $4, $5, $6, $7, $8)"
};

static Statement grow_unsent = {
	.sql = "INSERT INTO dess_batch.batch AS b (job_id, no, state, token, items, finished_at) "
	"VALUES ($1, 0, 'done', '', $2, now()) "
	"ON CONFLICT (job_id, no) DO UPDATE SET items = b.items + excluded.items "
	"RETURNING b.items"
};

/* Attempts of a row about which nothing is stored. */
static int
usual_attempts(int batch_no)
{
	return batch_no == 0 ? 0 : 1;
}

/* Makes batch 0 if there is none, and room in it for n rows; returns the first one's number. */
static int
make_unsent_room(int64 job_id, int n)
{
	Args		args = {0};

	arg_int64(&args, job_id);
	arg_int32(&args, n);
	ledger_run(&grow_unsent, &args);
	return ledger_get_int32(0, 1) - n + 1;
}

static void
arg_item_digests(Args *args, const JobItem *items, int nitems)
{
	uint8	   *hashes = palloc(nitems * DIGEST_LENGTH);

	for (int i = 0; i < nitems; i++)
		memcpy(hashes + i * DIGEST_LENGTH, items[i].hash.bytes, DIGEST_LENGTH);
	arg_bytes(args, hashes, nitems * DIGEST_LENGTH);
}

static void
arg_same_as(Args *args, const JobItem *items, int nitems)
{
	int32	   *same_as = palloc_array(int32, nitems);
	bool		any = false;

	for (int i = 0; i < nitems; i++)
	{
		same_as[i] = items[i].same_as;
		any = any || same_as[i] != 0;
	}
	if (any)
		arg_int32s(args, same_as, nitems);
	else
		arg_datum(args, INT4ARRAYOID, (Datum) 0, true);
}

static void
arg_held(Args *args, const JobItem *items, int nitems)
{
	uint64	   *held = palloc_array(uint64, nitems);
	bool		any = false;

	for (int i = 0; i < nitems; i++)
	{
		held[i] = pg_hton64(items[i].held);
		any = any || held[i] != 0;
	}
	if (any)
		arg_bytes(args, held, nitems * sizeof(uint64));
	else
		arg_datum(args, BYTEAOID, (Datum) 0, true);
}

static void
arg_attempts(Args *args, const JobItem *items, int nitems, int usual)
{
	Datum	   *attempts = palloc_array(Datum, nitems);
	bool		any = false;

	for (int i = 0; i < nitems; i++)
	{
		attempts[i] = Int16GetDatum((int16) Min(items[i].attempts, PG_INT16_MAX));
		any = any || items[i].attempts != usual;
	}
	if (any)
		arg_datum(args, INT2ARRAYOID,
				  PointerGetDatum(construct_array(attempts, nitems, INT2OID,
												  sizeof(int16), true, TYPALIGN_SHORT)), false);
	else
		arg_datum(args, INT2ARRAYOID, (Datum) 0, true);
}

int
ledger_insert_items(int64 job_id, int batch_no, int first_no, const JobItem *items, int nitems)
{
	Ledger		ledger;
	Args		args = {0};
	const char **keys;

	if (nitems <= 0)
		return first_no;

	ledger_open(&ledger);
	if (batch_no == 0)
		first_no = make_unsent_room(job_id, nitems);

	keys = palloc_array(const char *, nitems);
	for (int i = 0; i < nitems; i++)
		keys[i] = items[i].key;

	arg_int64(&args, job_id);
	arg_int32(&args, batch_no);
	arg_int32(&args, first_no);
	arg_texts(&args, keys, nitems);
	arg_item_digests(&args, items, nitems);
	arg_same_as(&args, items, nitems);
	arg_held(&args, items, nitems);
	arg_attempts(&args, items, nitems, usual_attempts(batch_no));
	ledger_run(&insert_items, &args);
	ledger_close(&ledger);
	return first_no;
}

/* ---- loading items ---- */

static Statement select_items = {
	.sql = "SELECT first_no, keys, hashes, same_as, held, attempts FROM dess_batch.item "
	"WHERE job_id = $1 AND batch_no = $2 ORDER BY first_no"
};

static Statement select_finished = {
	.sql = "SELECT nos FROM dess_batch.result WHERE job_id = $1 AND batch_no = $2"
};

/* Bytes of a column that has width bytes for each of nitems rows; NULL if the column is null. */
static const uint8 *
fixed_column(uint64 row, int column, int nitems, int width)
{
	bytea	   *value;

	if (ledger_is_null(row, column))
		return NULL;
	value = DatumGetByteaPP(ledger_datum(row, column));
	if (VARSIZE_ANY_EXHDR(value) != nitems * width)
		elog(ERROR, "column %d of an item has the wrong length", column);
	return (const uint8 *) VARDATA_ANY(value);
}

/* Elements of a column of fixed-length integers; NULL if the column is null. */
static Datum *
integer_column(uint64 row, int column, int nitems, Oid type, int length, char align)
{
	Datum	   *elements;
	int			n;

	if (ledger_is_null(row, column))
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, column)),
					  type, length, true, align, &elements, NULL, &n);
	if (n != nitems)
		elog(ERROR, "column %d of an item has the wrong length", column);
	return elements;
}

/*
 * One tuple of items; returns how many there are now.  The first place is that
 * of number before + 1; *items grows with its number of places.
 */
static int
load_item_tuple(const Ledger *ledger, uint64 row, int batch_no, int before, JobItem **items, int *places)
{
	int			first = ledger_get_int32(row, 1) - 1 - before;
	Datum	   *keys;
	bool	   *forgotten;
	int			n;
	const uint8 *hashes;
	Datum	   *same_as;
	const uint8 *held;
	Datum	   *attempts;
	size_t		room = 0;
	char	   *place;

	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, 2)), TEXTOID, -1, false, TYPALIGN_INT,
					  &keys, &forgotten, &n);
	hashes = fixed_column(row, 3, n, DIGEST_LENGTH);
	same_as = integer_column(row, 4, n, INT4OID, sizeof(int32), TYPALIGN_INT);
	held = fixed_column(row, 5, n, sizeof(uint64));
	attempts = integer_column(row, 6, n, INT2OID, sizeof(int16), TYPALIGN_SHORT);

	if (first + n > *places)
	{
		/* a batch can have hundreds of thousands of rows: no more room than is needed */
		int			more = Max(*places + *places / 8, first + n);

		*items = repalloc_huge(*items, more * sizeof(JobItem));
		memset(*items + *places, 0, (more - *places) * sizeof(JobItem));
		*places = more;
	}
	/* the keys of a tuple share one piece of memory */
	for (int i = 0; i < n; i++)
		room += forgotten[i] ? 0 : VARSIZE_ANY_EXHDR(DatumGetTextPP(keys[i])) + 1;
	place = MemoryContextAlloc(ledger->caller, room + 1);
	for (int i = 0; i < n; i++)
	{
		JobItem    *item = *items + first + i;
		uint64		digest = 0;

		if (!forgotten[i])
		{
			text	   *key = DatumGetTextPP(keys[i]);
			size_t		length = VARSIZE_ANY_EXHDR(key);

			item->key = place;
			memcpy(item->key, VARDATA_ANY(key), length);
			item->key[length] = '\0';
			place += length + 1;
		}
		memcpy(item->hash.bytes, hashes + i * DIGEST_LENGTH, DIGEST_LENGTH);
		item->same_as = same_as ? DatumGetInt32(same_as[i]) : 0;
		if (held != NULL)
			memcpy(&digest, held + i * sizeof(uint64), sizeof(uint64));
		item->held = pg_ntoh64(digest);
		item->attempts = attempts ? DatumGetInt16(attempts[i]) : usual_attempts(batch_no);
	}
	return first + n;
}

/* Marks the numbers of one tuple of results, the first place being that of number before + 1. */
static void
mark_finished(uint64 row, int before, bool *finished, int nitems)
{
	Datum	   *nos;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(ledger_datum(row, 1)), INT4OID, sizeof(int32), true, TYPALIGN_INT,
					  &nos, NULL, &n);
	for (int i = 0; i < n; i++)
	{
		int			no = DatumGetInt32(nos[i]) - before;

		if (no >= 1 && no <= nitems)
			finished[no - 1] = true;
	}
}

/* Rows of the tuples that a statement of select_items' form finds, and which of them have a result. */
static int
load_items(Statement *statement, const Args *select_args, int64 job_id, int batch_no, int before,
		   JobItem **items, bool **finished)
{
	Ledger		ledger;
	Args		args = {0};
	MemoryContext connection;
	MemoryContext tuple_context;
	int			places = 1024;
	int			nitems = 0;
	uint64		n;

	ledger_open(&ledger);
	tuple_context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch items",
										  ALLOCSET_DEFAULT_SIZES);
	*items = MemoryContextAllocExtended(ledger.caller, places * sizeof(JobItem), MCXT_ALLOC_ZERO);

	n = ledger_run(statement, select_args);
	connection = MemoryContextSwitchTo(tuple_context);
	for (uint64 i = 0; i < n; i++)
	{
		nitems = load_item_tuple(&ledger, i, batch_no, before, items, &places);
		MemoryContextReset(tuple_context);
	}
	MemoryContextSwitchTo(connection);

	*finished = MemoryContextAllocZero(ledger.caller, nitems + 1);
	arg_int64(&args, job_id);
	arg_int32(&args, batch_no);
	n = ledger_run(&select_finished, &args);
	MemoryContextSwitchTo(tuple_context);
	for (uint64 i = 0; i < n; i++)
	{
		mark_finished(i, before, *finished, nitems);
		MemoryContextReset(tuple_context);
	}
	MemoryContextSwitchTo(connection);
	ledger_close(&ledger);
	return nitems;
}

int
ledger_load_items(int64 job_id, int batch_no, JobItem **items, bool **finished)
{
	Args		args = {0};

	arg_int64(&args, job_id);
	arg_int32(&args, batch_no);
	return load_items(&select_items, &args, job_id, batch_no, 0, items, finished);
}

/* ---- results ---- */

static Statement insert_results = {
	.sql = "INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, error_codes, errors, "
	"input_tokens, cached_tokens, output_tokens, reasoning_tokens, finish_reasons, model_versions, response_ids, prices) "
	"VALUES ($1, $2, (SELECT coalesce(max(r.seq), 0) + 1 FROM dess_batch.result r WHERE r.job_id = $1 AND r.batch_no = $2), "
	"$3, $4::dess_batch.outcome[], $5, $6, $7, $8, $9, $10, $11, $12, $13, $14::numeric[])"
};

static Statement insert_answers = {
	.sql = "INSERT INTO dess_batch.answer (job_id, batch_no, no, answer, reply) "
	"SELECT $1, $2, u.no, u.answer, u.reply FROM unnest($3, $4, $5) AS u(no, answer, reply) "
	"ON CONFLICT (job_id, batch_no, no) DO UPDATE SET answer = excluded.answer, reply = excluded.reply"
};

static Statement add_usage = {
	.sql = "INSERT INTO dess_batch.usage AS u (day, owner, owner_name, server, model, mode, label, "
	"requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cost) "
	"VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, $5, coalesce($6, ''), $7, $8, $9, $10, $11, $12::numeric) "
	"ON CONFLICT (day, owner, server, model, mode, label) DO UPDATE SET requests = u.requests + excluded.requests, "
	"input_tokens = u.input_tokens + excluded.input_tokens, cached_tokens = u.cached_tokens + excluded.cached_tokens, "
	"output_tokens = u.output_tokens + excluded.output_tokens, "
	"reasoning_tokens = u.reasoning_tokens + excluded.reasoning_tokens, cost = u.cost + excluded.cost"
};

/* What a remote party reports of tokens is bounded by what can be stored. */
static int32
plausible_tokens(int64 tokens)
{
	return (int32) Max(0, Min(tokens, PG_INT32_MAX));
}

/* One of the four numbers of each result, as an array; its sum; NULL if all are 0. */
static int64
arg_tokens(Args *args, const ItemResult *results, int n, size_t offset)
{
	int32	   *tokens = palloc_array(int32, n);
	int64		sum = 0;

	for (int i = 0; i < n; i++)
	{
		tokens[i] = plausible_tokens(*(const int64 *) ((const char *) &results[i] + offset));
		sum += tokens[i];
	}
	if (sum > 0)
		arg_int32s(args, tokens, n);
	else
		arg_datum(args, INT4ARRAYOID, (Datum) 0, true);
	return sum;
}

/* One of the texts of each result, as an array; NULL if none has it. */
static void
arg_result_words(Args *args, const ItemResult *results, int n, size_t offset, int limit)
{
	const char **words = palloc_array(const char *, n);

	for (int i = 0; i < n; i++)
		words[i] = *(const char *const *) ((const char *) &results[i] + offset);
	arg_words_array(args, words, n, limit);
}

/* Arguments of insert_results; what they hold is added to the counters. */
static void
result_args(Args *args, int64 job_id, int batch_no, const ItemResult *results, int n,
			BatchCounters *counters)
{
	int32	   *nos = palloc_array(int32, n);
	const char **outcomes = palloc_array(const char *, n);

	for (int i = 0; i < n; i++)
	{
		if (results[i].outcome >= OUTCOME_NONE)
			elog(ERROR, "row %d of batch %d of job " INT64_FORMAT " has no outcome",
				 results[i].no, batch_no, job_id);
		nos[i] = results[i].no;
		outcomes[i] = outcome_name(results[i].outcome);
		counters->of[results[i].outcome]++;
	}

	arg_int64(args, job_id);
	arg_int32(args, batch_no);
	arg_int32s(args, nos, n);
	arg_texts(args, outcomes, n);
	arg_result_words(args, results, n, offsetof(ItemResult, error_code), ROW_WORD_BYTES);
	arg_result_words(args, results, n, offsetof(ItemResult, error), ROW_ERROR_BYTES);
	counters->input_tokens += arg_tokens(args, results, n, offsetof(ItemResult, input_tokens));
	counters->cached_tokens += arg_tokens(args, results, n, offsetof(ItemResult, cached_tokens));
	counters->output_tokens += arg_tokens(args, results, n, offsetof(ItemResult, output_tokens));
	counters->reasoning_tokens += arg_tokens(args, results, n, offsetof(ItemResult, reasoning_tokens));
	arg_result_words(args, results, n, offsetof(ItemResult, finish_reason), ROW_WORD_BYTES);
	arg_result_words(args, results, n, offsetof(ItemResult, model_version), ROW_WORD_BYTES);
	arg_result_words(args, results, n, offsetof(ItemResult, response_id), ROW_WORD_BYTES);
}

/* The last argument of insert_results: today's prices, if there is anything to pay.  What it comes to is put into the counters. */
static void
price_results(Args *args, const Job *job, BatchCounters *counters)
{
	Price	   *price = NULL;
	const char *prices[3];

	counters->cost = "0";
	if (counters->input_tokens > 0 || counters->output_tokens > 0)
	{
		price = ledger_find_price(job);
		counters->cost = NULL;
	}
	if (price == NULL)
	{
		arg_datum(args, TEXTARRAYOID, (Datum) 0, true);
		return;
	}
	prices[0] = price->input;
	prices[1] = price->cached;
	prices[2] = price->output;
	arg_texts(args, prices, lengthof(prices));
	counters->cost = numeric_normalize(DatumGetNumeric(price_of_tokens(price, counters->input_tokens,
																	   counters->cached_tokens,
																	   counters->output_tokens)));
}

static void
keep_answers(int64 job_id, int batch_no, const ItemResult *results, int nresults)
{
	Args		args = {0};
	int32	   *nos = palloc_array(int32, nresults);
	const char **answers = palloc_array(const char *, nresults);
	const char **replies = palloc_array(const char *, nresults);
	int			n = 0;

	for (int i = 0; i < nresults; i++)
	{
		if (results[i].answer == NULL && results[i].reply == NULL)
			continue;
		nos[n] = results[i].no;
		answers[n] = results[i].answer;
		replies[n++] = results[i].reply;
	}
	if (n == 0)
		return;

	arg_int64(&args, job_id);
	arg_int32(&args, batch_no);
	arg_int32s(&args, nos, n);
	arg_words_array(&args, answers, n, ANSWER_BYTES);
	arg_words_array(&args, replies, n, ANSWER_BYTES);
	ledger_run(&insert_answers, &args);
}

static void
count_usage(const Job *job, int64 requests, const BatchCounters *counters)
{
	Args		args = {0};

	if (requests == 0 && counters->input_tokens == 0 && counters->output_tokens == 0)
		return;

	arg_oid(&args, job->owner);
	arg_text(&args, job->owner_name);
	arg_text(&args, job->server_name);
	arg_text(&args, job->model);
	arg_text(&args, job->online ? "online" : "batch");
	arg_text(&args, job->label);
	arg_int64(&args, requests);
	arg_int64(&args, counters->input_tokens);
	arg_int64(&args, counters->cached_tokens);
	arg_int64(&args, counters->output_tokens);
	arg_int64(&args, counters->reasoning_tokens);
	arg_text(&args, counters->cost);
	ledger_run(&add_usage, &args);
}

void
ledger_add_results(const Job *job, int batch_no, const ItemResult *results, int nresults, int64 requests)
{
	Ledger		ledger;
	Args		args = {0};
	BatchCounters counters = {.of = {0}};

	if (nresults <= 0)
		return;

	ledger_open(&ledger);
	result_args(&args, job->id, batch_no, results, nresults, &counters);
	price_results(&args, job, &counters);
	batch_count(job->id, batch_no, &counters);
	ledger_run(&insert_results, &args);
	keep_answers(job->id, batch_no, results, nresults);
	count_usage(job, requests, &counters);
	ledger_close(&ledger);
}

/* ---- rows that get no result from the provider ---- */

/* rows that are seen to at once; a tuple that begins among them is taken whole */
#define PART_ROWS		5000

static Statement select_item_part = {
	.sql = "SELECT first_no, keys, hashes, same_as, held, attempts FROM dess_batch.item "
	"WHERE job_id = $1 AND batch_no = $2 AND first_no >= $3 AND first_no < $4 ORDER BY first_no"
};

static Statement select_part_end = {
	.sql = "SELECT min(i.first_no) FROM dess_batch.item i "
	"WHERE i.job_id = $1 AND i.batch_no = $2 AND i.first_no >= $3"
};

static Statement end_batch = {
	.sql = "UPDATE dess_batch.batch b SET state = $3, finished_at = coalesce(b.finished_at, now()) "
	"WHERE b.job_id = $1 AND b.no = $2"
};

/* Where the items of a batch go on from a number; 0: nowhere, and the batch has ended in state. */
static int
part_end(const Job *job, int batch_no, int from, BatchState state)
{
	Ledger		ledger;
	Args		args = {0};
	Args		end_args = {0};
	int			next;

	ledger_open(&ledger);
	arg_int64(&args, job->id);
	arg_int32(&args, batch_no);
	arg_int32(&args, from);
	ledger_run(&select_part_end, &args);
	next = ledger_is_null(0, 1) ? 0 : ledger_get_int32(0, 1);
	if (next == 0)
	{
		arg_int64(&end_args, job->id);
		arg_int32(&end_args, batch_no);
		arg_text(&end_args, batch_state_name(state));
		ledger_run(&end_batch, &end_args);
	}
	ledger_close(&ledger);
	return next;
}

int
ledger_give_up_batch(const Job *job, int batch_no, int *from, BatchState state, Outcome outcome,
					   const char *error_code, const char *error)
{
	Args		args = {0};
	JobItem    *items;
	bool	   *finished;
	int			before = *from - 1;
	int			nitems;
	ItemResult *results;
	char	  **keys;
	int		   *attempts;
	int			n = 0;

	arg_int64(&args, job->id);
	arg_int32(&args, batch_no);
	arg_int32(&args, *from);
	arg_int32(&args, *from + PART_ROWS);
	nitems = load_items(&select_item_part, &args, job->id, batch_no, before, &items, &finished);
	results = palloc0_array(ItemResult, nitems + 1);
	keys = palloc_array(char *, nitems + 1);
	attempts = palloc_array(int, nitems + 1);
	for (int i = 0; i < nitems; i++)
	{
		if (finished[i])
			continue;
		results[n].no = before + i + 1;
		results[n].outcome = outcome;
		results[n].error_code = error_code;
		results[n].error = error;
		keys[n] = items[i].key;
		attempts[n++] = Max(items[i].attempts - 1, 0);
	}
	ledger_add_results(job, batch_no, results, n, 0);
	if (outcome == OUTCOME_SUPERSEDED)
		ledger_retry_queue_insert(job->id, keys, attempts, n);
	*from = part_end(job, batch_no, before + nitems + 1, state);
	return n;
}
