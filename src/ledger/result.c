/*-------------------------------------------------------------------------
 *
 * result.c
 *		The ledger: what became of the rows of batches.
 *
 * The rows of one call are one tuple; columns in which no row has a value are
 * null.  Whatever sets an outcome counts it in the batch in the same call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "ledger/internal.h"

#define ROW_ERROR_BYTES		200
#define ROW_WORD_BYTES		200
#define ANSWER_BYTES		(256 * 1024 * 1024)

static Statement insert_results = {
	.sql = "INSERT INTO dess_batch.result (job_id, batch_no, seq, nos, outcomes, error_codes, errors, "
	"input_tokens, cached_tokens, output_tokens, reasoning_tokens, cache_write_tokens, "
	"finish_reasons, model_versions, response_ids, prices) "
	"VALUES ($1, $2, (SELECT coalesce(max(r.seq), 0) + 1 FROM dess_batch.result r WHERE r.job_id = $1 AND r.batch_no = $2), "
	"$3, $4::dess_batch.outcome[], $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15::numeric[])"
};

static Statement insert_answers = {
	.sql = "INSERT INTO dess_batch.answer (job_id, batch_no, no, answer, reply) "
	"SELECT $1, $2, u.no, u.answer, u.reply FROM unnest($3, $4, $5) AS u(no, answer, reply) "
	"ON CONFLICT (job_id, batch_no, no) DO UPDATE SET answer = excluded.answer, reply = excluded.reply"
};

static Statement add_usage = {
	.sql = "INSERT INTO dess_batch.usage AS u (day, owner, owner_name, server, model, mode, label, "
	"requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cache_write_tokens, cost, unpriced, cluster) "
	"VALUES ((now() AT TIME ZONE 'UTC')::date, $1, $2, $3, $4, $5, coalesce($6, ''), $7, $8, $9, $10, $11, $12, $13::numeric, $14, $15) "
	"ON CONFLICT (day, owner, server, model, mode, label) DO UPDATE SET " USAGE_ADDS
};

/* The provider's numbers of tokens are limited to what can be stored. */
static int32
plausible_tokens(int64 tokens)
{
	return (int32) Max(0, Min(tokens, PG_INT32_MAX));
}

/* One of the token numbers of each result, and the sum of all. */
static int64
token_column(const ItemResult *results, int n, size_t offset, Arg *arg)
{
	int32	   *tokens = palloc_array(int32, n);
	int64		sum = 0;

	for (int i = 0; i < n; i++)
	{
		tokens[i] = plausible_tokens(*(const int64 *) ((const char *) &results[i] + offset));
		sum += tokens[i];
	}
	*arg = sum > 0 ? arg_int32s(tokens, n) : arg_null(INT4ARRAYOID);
	return sum;
}

/* One of the texts of each result. */
static Arg
word_column(const ItemResult *results, int n, size_t offset, int limit)
{
	const char **words = palloc_array(const char *, n);

	for (int i = 0; i < n; i++)
		words[i] = *(const char *const *) ((const char *) &results[i] + offset);
	return arg_words_array(words, n, limit);
}

/* Today's prices, if there is anything to pay; the cost is put into the counters. */
static Arg
price_results(const Job *job, int64 requests, BatchCounters *counters)
{
	Price	   *price;

	counters->cost = "0";
	if (counters->input_tokens == 0 && counters->output_tokens == 0)
		return arg_null(TEXTARRAYOID);
	price = ledger_find_price(job);
	if (price == NULL)
	{
		counters->unpriced = Max(requests, 1);
		return arg_null(TEXTARRAYOID);
	}
	counters->cost = numeric_normalize(DatumGetNumeric(price_of_tokens(price, counters->input_tokens,
																	   counters->cached_tokens,
																	   counters->cache_write_tokens,
																	   counters->output_tokens)));
	return arg_texts((const char *[]) {price->input, price->cached, price->output, price->cache_write}, 4);
}

#define TOKENS(field)		token_column(results, n, offsetof(ItemResult, field), &field)
#define WORDS(field, limit)	word_column(results, n, offsetof(ItemResult, field), limit)

/* Inserts the tuple and counts in the batch what it holds; the counters are for the caller. */
static void
add_tuple(const Job *job, int batch_no, const ItemResult *results, int n, int64 requests,
		  BatchCounters *counters)
{
	int32	   *nos = palloc_array(int32, n);
	const char **outcomes = palloc_array(const char *, n);
	Arg			input_tokens;
	Arg			cached_tokens;
	Arg			output_tokens;
	Arg			reasoning_tokens;
	Arg			cache_write_tokens;
	Arg			prices;

	for (int i = 0; i < n; i++)
	{
		if (results[i].outcome >= OUTCOME_NONE)
			elog(ERROR, "row %d of batch %d of job " INT64_FORMAT " has no outcome",
				 results[i].no, batch_no, job->id);
		nos[i] = results[i].no;
		outcomes[i] = outcome_name(results[i].outcome);
		counters->of[results[i].outcome]++;
	}
	counters->input_tokens = TOKENS(input_tokens);
	counters->cached_tokens = TOKENS(cached_tokens);
	counters->output_tokens = TOKENS(output_tokens);
	counters->reasoning_tokens = TOKENS(reasoning_tokens);
	counters->cache_write_tokens = TOKENS(cache_write_tokens);
	prices = price_results(job, requests, counters);

	/* first, because the lock on the batch keeps others from the same seq */
	batch_count(job->id, batch_no, counters);
	ledger_run(&insert_results, arg_int64(job->id), arg_int32(batch_no), arg_int32s(nos, n),
			   arg_texts(outcomes, n), WORDS(error_code, ROW_WORD_BYTES), WORDS(error, ROW_ERROR_BYTES),
			   input_tokens, cached_tokens, output_tokens, reasoning_tokens, cache_write_tokens,
			   WORDS(finish_reason, ROW_WORD_BYTES), WORDS(model_version, ROW_WORD_BYTES),
			   WORDS(response_id, ROW_WORD_BYTES), prices);
}

static void
keep_answers(int64 job_id, int batch_no, const ItemResult *results, int nresults)
{
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

	ledger_run(&insert_answers, arg_int64(job_id), arg_int32(batch_no), arg_int32s(nos, n),
			   arg_words_array(answers, n, ANSWER_BYTES), arg_words_array(replies, n, ANSWER_BYTES));
}

static void
count_usage(const Job *job, int64 requests, const BatchCounters *counters)
{
	if (requests == 0 && counters->input_tokens == 0 && counters->output_tokens == 0)
		return;

	ledger_run(&add_usage, arg_oid(job->owner), arg_text(job->owner_name), arg_text(job->server_name),
			   arg_text(job->model), arg_text(job->online ? "online" : "batch"), arg_text(job->label),
			   arg_int64(requests), arg_int64(counters->input_tokens), arg_int64(counters->cached_tokens),
			   arg_int64(counters->output_tokens), arg_int64(counters->reasoning_tokens),
			   arg_int64(counters->cache_write_tokens), arg_text(counters->cost), arg_int64(counters->unpriced), arg_system_identifier());
}

void
ledger_add_results(const Job *job, int batch_no, const ItemResult *results, int nresults, int64 requests)
{
	Ledger		ledger;
	BatchCounters counters = {.of = {0}};

	if (nresults <= 0)
		return;

	ledger_open(&ledger);
	add_tuple(job, batch_no, results, nresults, requests, &counters);
	keep_answers(job->id, batch_no, results, nresults);
	count_usage(job, requests, &counters);
	ledger_close(&ledger);
}
