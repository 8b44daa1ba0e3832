/*-------------------------------------------------------------------------
 *
 * price.c
 *		The ledger: prices, and what was spent.
 *
 * A price is looked up when an answer is merged, and the cost is stored beside
 * the tokens, so that a later change of the price rewrites nothing.  Days
 * and months are those of UTC.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "ledger/internal.h"

/* ---- prices ---- */

Price *
ledger_find_price(const Job *job)
{
	static Statement statement = {
		.sql = "SELECT p.input::text, p.cached::text, p.cache_write::text, p.output::text, "
		"greatest(p.input, p.cached, p.cache_write)::float8, p.output::float8, p.price_date "
		"FROM dess_batch.price_of($1, $2, $3, $4, (now() AT TIME ZONE 'UTC')::date) p"
	};
	Ledger		ledger;
	Price	   *price = NULL;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_text(job->model), arg_text(job->provider), arg_text(job->server_name),
				   arg_bool(job->online)) > 0)
	{
		price = MemoryContextAllocZero(ledger.caller, sizeof(Price));
		price->input = ledger_get_text(&ledger, 0, 1);
		price->cached = ledger_get_text(&ledger, 0, 2);
		price->cache_write = ledger_get_text(&ledger, 0, 3);
		price->output = ledger_get_text(&ledger, 0, 4);
		price->most_input = ledger_get_float8(0, 5, 0);
		price->a_output = ledger_get_float8(0, 6, 0);
		price->date = DatumGetDateADT(ledger_datum(0, 7));
	}
	ledger_close(&ledger);
	return price;
}

static Datum
numeric_times(const char *price, int64 tokens)
{
	Datum		factor = DirectFunctionCall3(numeric_in, CStringGetDatum(price),
											 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));

	return DirectFunctionCall2(numeric_mul, factor, NumericGetDatum(int64_to_numeric(tokens)));
}

Datum
price_of_tokens(const Price *price, int64 input, int64 cached, int64 cache_write, int64 output)
{
	Datum		cost = numeric_times(price->input, input - cached - cache_write);

	cost = DirectFunctionCall2(numeric_add, cost, numeric_times(price->cached, cached));
	cost = DirectFunctionCall2(numeric_add, cost, numeric_times(price->cache_write, cache_write));
	cost = DirectFunctionCall2(numeric_add, cost, numeric_times(price->output, output));
	return DirectFunctionCall1(numeric_trim_scale, cost);
}

/* ---- what was spent ---- */

/* A cost and, in the next column, how many requests had none. */
static Spent
read_spent(int column)
{
	return (Spent) {ledger_get_float8(0, column, 0), ledger_get_int64(0, column + 1, 0)};
}

void
ledger_load_spending(const Job *job, Spending *spending)
{
	static Statement statement = {
		.sql = "SELECT b.cost::float8, b.unpriced, u.day::float8, u.day_unpriced, u.month::float8, u.month_unpriced, b.bytes_a_request, "
		"(t.day + 1)::timestamp AT TIME ZONE 'UTC', (t.month + interval '1 month') AT TIME ZONE 'UTC' "
		"FROM (SELECT d.day, date_trunc('month', d.day::timestamp) AS month "
		"FROM (SELECT (now() AT TIME ZONE 'UTC')::date AS day) d) t "
		"CROSS JOIN (SELECT sum(b.cost) AS cost, sum(b.unpriced)::bigint AS unpriced, sum(b.bytes)::float8 / nullif(sum(b.requests), 0) AS bytes_a_request "
		"FROM dess_batch.batch b WHERE b.job_id = $1) b "
		"CROSS JOIN LATERAL (SELECT sum(u.cost) FILTER (WHERE u.day = t.day) AS day, sum(u.cost) AS month, "
		"sum(u.unpriced) FILTER (WHERE u.day = t.day)::bigint AS day_unpriced, sum(u.unpriced)::bigint AS month_unpriced "
		"FROM dess_batch.usage u WHERE u.server = $2 AND u.day >= t.month::date) u"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	ledger_run(&statement, arg_int64(job->id), arg_text(job->server_name));
	spending->job = read_spent(1);
	spending->day = read_spent(3);
	spending->month = read_spent(5);
	spending->bytes_a_request = ledger_get_float8(0, 7, 0);
	spending->day_end = ledger_get_time(0, 8);
	spending->month_end = ledger_get_time(0, 9);
	ledger_close(&ledger);
}

int
ledger_load_answers(int64 job_id, int limit, int32 **input_tokens, int32 **output_tokens)
{
	static Statement statement = {
		.sql = "SELECT coalesce(u.input, 0), coalesce(u.output, 0) FROM (SELECT r.input_tokens, r.output_tokens FROM dess_batch.result r "
		"WHERE r.job_id = $1 AND r.input_tokens IS NOT NULL ORDER BY r.batch_no DESC, r.seq DESC LIMIT $2) r "
		"CROSS JOIN LATERAL unnest(r.input_tokens, r.output_tokens) AS u(input, output) "
		"WHERE u.input > 0 OR u.output > 0 LIMIT $2"
	};
	Ledger		ledger;
	int			n;

	ledger_open(&ledger);
	n = (int) ledger_run(&statement, arg_int64(job_id), arg_int64(limit));
	*input_tokens = MemoryContextAlloc(ledger.caller, (n + 1) * sizeof(int32));
	*output_tokens = MemoryContextAlloc(ledger.caller, (n + 1) * sizeof(int32));
	for (int i = 0; i < n; i++)
	{
		(*input_tokens)[i] = ledger_get_int32(i, 1);
		(*output_tokens)[i] = ledger_get_int32(i, 2);
	}
	ledger_close(&ledger);
	return n;
}

/* Only jobs of the same owner, because others must not learn from an estimate what they used. */
void
ledger_load_history(const Job *job, UsageHistory *history)
{
	static Statement statement = {
		.sql = "SELECT sum(b.requests)::bigint, sum(b.bytes)::bigint, sum(b.input_tokens)::bigint, "
		"sum(b.cached_tokens)::bigint, sum(b.cache_write_tokens)::bigint, sum(b.output_tokens)::bigint "
		"FROM (SELECT j.id FROM dess_batch.job j WHERE j.home = $9 AND j.owner = $1 AND j.source = $2 AND j.model = $3 AND j.provider = $4 "
		"AND j.prompt = $5 AND j.system_prompt IS NOT DISTINCT FROM $6 AND j.parameters = $7::jsonb "
		"AND j.response_schema IS NOT DISTINCT FROM $8::jsonb ORDER BY j.id DESC LIMIT 10) j "
		"JOIN dess_batch.batch b ON b.job_id = j.id AND b.no > 0 AND b.state = 'done' AND b.ok + b.missing > 0 AND b.failed = 0"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	ledger_run(&statement, arg_oid(job->owner), arg_oid(job->source), arg_text(job->model),
			   arg_text(job->provider), arg_text(job->prompt), arg_text(job->system_prompt),
			   arg_text(job->parameters), arg_text(job->response_schema), arg_home());
	history->requests = ledger_get_int64(0, 1, 0);
	history->bytes = ledger_get_int64(0, 2, 0);
	history->input_tokens = ledger_get_int64(0, 3, 0);
	history->cached_tokens = ledger_get_int64(0, 4, 0);
	history->cache_write_tokens = ledger_get_int64(0, 5, 0);
	history->output_tokens = ledger_get_int64(0, 6, 0);
	ledger_close(&ledger);
}
