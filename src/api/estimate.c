/*-------------------------------------------------------------------------
 *
 * estimate.c
 *		dess_batch_estimate: what a job would take, before anything is sent.
 *
 * The rows are read, rendered and hashed as the job would do it.  A table that
 * is not small is not read as a whole: rows of some blocks all over it stand
 * for the others.  Tokens are counted by what the owner's jobs with the same
 * requests used, and where there are none by the length of the texts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <math.h>

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "account/account.h"
#include "api/submit.h"
#include "ledger/ledger.h"
#include "provider/parameters.h"
#include "runtime/batch_token.h"
#include "runtime/usercxt.h"
#include "table/table.h"

PG_FUNCTION_INFO_V1(dess_batch_estimate);

/* a table that seems to have no more rows than this is read as a whole */
#define WHOLE_ROWS			20000
#define SAMPLE_ROWS			10000
#define PAGE_ROWS			1000
#define LISTED_ROWS			5000
/* rows of a sample that lie together, in this many or in the next, count as one place */
#define PLACE_ROWS			50
/* reading ends after this, and what was read stands for the rest */
#define READ_MS				3000

/* what a token is taken to be: providers speak of four characters, Anthropic of fewer */
#define BYTES_A_TOKEN		4.0
#define ANTHROPIC_BYTES_A_TOKEN 3.5
/* an answer where nothing is known about it: a department's name, any other text */
#define DEPARTMENT_TOKENS	8
#define ANSWER_TOKENS		100

/* Requests seen, and how often. */
typedef struct SeenEntry
{
	uint64		hash;
	int			count;			/* of a sample: in how many places */
	int			place;			/* the last of them */
	char		status;
} SeenEntry;

#define SH_PREFIX seen
#define SH_ELEMENT_TYPE SeenEntry
#define SH_KEY_TYPE uint64
#define SH_KEY hash
#define SH_HASH_KEY(tb, key) ((uint32) (key))
#define SH_EQUAL(tb, a, b) ((a) == (b))
#define SH_SCOPE static inline
#define SH_DECLARE
#define SH_DEFINE
#include "lib/simplehash.h"

typedef struct Estimate
{
	Job		   *job;
	BatchOptions *options;
	SourceTable *table;
	uint64	   *in_flight;			/* digests of keys that are in flight, ascending */
	int			nin_flight;
	int64		max_requests;	/* of a batch */
	int64		max_bytes;
	TimestampTz until;

	/* what was read */
	double		read;			/* rows of the table */
	double		rows;			/* of these, such as would be sent */
	double		requests;
	double		places;			/* in a sample: places where requests were seen */
	double		once;			/* requests that were seen in one place only */
	double		bytes;			/* of request lines */
	double		text_bytes;		/* of what is rendered */
	int			batches;
	struct seen_hash *seen;		/* requests of the batch that would be filled now */
	int64		batch_requests;
	int64		batch_bytes;
	bool		sampled;
} Estimate;

/* ---- rows ---- */

static int
compare_uint64(const void *a, const void *b)
{
	uint64		x = *(const uint64 *) a;
	uint64		y = *(const uint64 *) b;

	return x < y ? -1 : x > y ? 1 : 0;
}

static bool
in_flight(const Estimate *estimate, const char *key)
{
	uint64		hash;

	if (estimate->nin_flight == 0)
		return false;
	hash = key_hash64(key);
	return bsearch(&hash, estimate->in_flight, estimate->nin_flight, sizeof(uint64), compare_uint64) != NULL;
}

static void
new_batch(Estimate *estimate)
{
	seen_reset(estimate->seen);
	estimate->batches++;
	estimate->batch_requests = 0;
	estimate->batch_bytes = 0;
}

/* A row that would be sent: alone, or with an equal one.  A sample is not cut into batches. */
static void
add_row(Estimate *estimate, const SourceRow *row, int place, StringInfo line)
{
	BatchItem	item;
	char		custom_id[64];
	SeenEntry  *entry;
	bool		found;

	entry = seen_insert(estimate->seen, digest_hash64(&row->hash), &found);
	if (found)
	{
		estimate->rows++;
		if (place - entry->place > 1)
		{
			estimate->places++;
			if (entry->count++ == 1)
				estimate->once--;
		}
		entry->place = place;
		return;
	}
	entry->count = 1;
	entry->place = place;
	batch_custom_id(custom_id, sizeof(custom_id), "00000000000000000000000000000000", 1000);
	item.custom_id = custom_id;
	item.text = row->text;
	item.text_length = row->text_length;
	resetStringInfo(line);
	estimate->options->account->provider->prepare_batch_file(line, &item, estimate->options);
	if (line->len > estimate->max_bytes)
		return;
	if (!estimate->sampled && (estimate->batches == 0 || estimate->batch_requests >= estimate->max_requests ||
							   estimate->batch_bytes + line->len > estimate->max_bytes))
	{
		new_batch(estimate);
		entry = seen_insert(estimate->seen, digest_hash64(&row->hash), &found);
		entry->count = 1;
		entry->place = place;
	}
	estimate->rows++;
	estimate->requests++;
	estimate->places++;
	estimate->once++;
	estimate->batch_requests++;
	estimate->batch_bytes += line->len;
	estimate->bytes += line->len;
	estimate->text_bytes += row->text_length;
}

/* Counts those rows that would be sent; false when max_rows is reached. */
static bool
add_rows(Estimate *estimate, const SourceRow *rows, int nrows, bool check_settled)
{
	const Job  *job = estimate->job;
	char	  **keys = palloc_array(char *, nrows + 1);
	Digest	   *hashes = palloc_array(Digest, nrows + 1);
	int		   *index = palloc_array(int, nrows + 1);
	bool	   *settled = palloc0_array(bool, nrows + 1);
	StringInfoData line;
	int			n = 0;

	for (int i = 0; i < nrows; i++)
	{
		if (!rows[i].wanted || rows[i].text == NULL || in_flight(estimate, rows[i].key))
			continue;
		keys[n] = rows[i].key;
		hashes[n] = rows[i].hash;
		index[n++] = i;
	}
	if (check_settled && n > 0)
		ledger_find_settled(job, keys, hashes, n, settled);
	initStringInfo(&line);
	for (int i = 0; i < n; i++)
	{
		if (settled[i])
			continue;
		if (!estimate->sampled && !job->sample && job->max_rows > 0 && estimate->rows >= job->max_rows)
			return false;
		add_row(estimate, &rows[index[i]], index[i] / PLACE_ROWS, &line);
	}
	return true;
}

/* ---- ways through the table ---- */

/* In key order, as the job goes.  Returns whether that was all the job would take. */
static bool
read_in_order(Estimate *estimate)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext page = AllocSetContextCreate(caller, "dess_batch estimate", ALLOCSET_DEFAULT_SIZES);
	char	   *last_key = NULL;
	bool		more = true;
	bool		end = false;

	MemoryContextSwitchTo(page);
	while (!end && GetCurrentTimestamp() < estimate->until)
	{
		SourceRow  *rows;
		int			nrows = source_read_page(estimate->table, last_key, PAGE_ROWS, &rows, &more);

		end = !add_rows(estimate, rows, nrows, !estimate->job->overwrite) || (nrows < PAGE_ROWS && !more);
		estimate->read += nrows;
		if (nrows > 0)
			last_key = MemoryContextStrdup(caller, rows[nrows - 1].key);
		MemoryContextReset(page);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
	MemoryContextDelete(page);
	return end;
}

/* Rows all over the table.  Returns how many it has by that. */
static double
read_sample(Estimate *estimate, double table_rows)
{
	SourceRow  *rows;
	double		share = Min(SAMPLE_ROWS / table_rows, 1);
	bool		more;
	int			nrows;

	estimate->sampled = true;
	nrows = source_read_sample(estimate->table, 100 * share, &rows, &more);
	(void) add_rows(estimate, rows, nrows, !estimate->job->overwrite);
	estimate->read = nrows;
	return more ? table_rows : nrows / share;
}

/* Rows that "outcomes" names; of many, some all over the list.  Returns how many there are. */
static double
read_listed(Estimate *estimate, const List *listed)
{
	int			n = list_length(listed);
	int			step = n / LISTED_ROWS + 1;

	estimate->sampled = step > 1;
	for (int i = 0; i < n && GetCurrentTimestamp() < estimate->until; i += step)
	{
		const RetryRow *again = list_nth(listed, i);
		char	   *key = again->key;
		SourceRow  *rows;

		estimate->read++;
		if (source_read_keys(estimate->table, &key, 1, &rows) == 0)
			continue;
		if (again->has_hash && memcmp(&again->unless_hash, &rows[0].hash, sizeof(Digest)) == 0)
			continue;
		if (!add_rows(estimate, rows, 1, false))
			return estimate->read;
		CHECK_FOR_INTERRUPTS();
	}
	return n;
}

/*
 * Reads what there is, or enough of it.  Returns how many rows each row that
 * was read stands for.
 */
static double
read_rows(Estimate *estimate, const List *listed)
{
	const Job  *job = estimate->job;
	double		table_rows;
	double		total;
	bool		analyzed;
	bool		samples;
	bool		few = job->max_rows > 0 && job->max_rows <= WHOLE_ROWS && !job->sample;

	if (job->outcomes != NIL && !job_takes_new(job))
		total = read_listed(estimate, listed);
	else
	{
		table_rows = source_guess_rows(estimate->table, &analyzed, &samples);
		if (table_rows > WHOLE_ROWS && samples && !few)
		{
			total = read_sample(estimate, table_rows);
			/* statistics are more exact, unless the table has become another since */
			if (analyzed && fabs(table_rows - total) < total / 3)
				total = table_rows;
		}
		else if (read_in_order(estimate))
			total = estimate->read;
		else
			total = Max(table_rows, estimate->read);
	}
	return estimate->read > 0 ? Max(total / estimate->read, 1.0) : 1.0;
}

/* ---- from what was read to the whole ---- */

/*
 * Different requests in a batch of that many rows, where a sample of fewer has
 * so many: the estimator of Haas and Stokes that ANALYZE uses as well.  Equal
 * requests that lie together are everywhere as many as in the sample, so it
 * is places that are counted.
 */
static double
distinct_requests(const Estimate *estimate, double rows)
{
	double		n = estimate->places;
	double		d = estimate->requests;
	double		places = rows * n / estimate->rows;

	if (places <= n)
		return d * places / n;
	return Min(n * d / (n - estimate->once + estimate->once * n / places), places);
}

/* Makes of what was read what it stands for. */
static void
extrapolate(Estimate *estimate, double factor)
{
	const Job  *job = estimate->job;
	double		rows = estimate->rows * factor;
	double		batch_rows;
	double		requests;

	if (job->max_rows > 0)
		rows = Min(rows, job->max_rows);
	if (rows == estimate->rows || estimate->requests == 0)
		return;
	if (estimate->sampled)
	{
		batch_rows = Min(rows, estimate->max_requests);
		requests = distinct_requests(estimate, batch_rows) * rows / batch_rows;
	}
	else
		requests = estimate->requests * rows / estimate->rows;
	estimate->bytes *= requests / estimate->requests;
	estimate->text_bytes *= requests / estimate->requests;
	estimate->rows = rint(rows);
	estimate->requests = rint(requests);
	estimate->batches = (int) Min(Max(ceil(requests / estimate->max_requests), ceil(estimate->bytes / estimate->max_bytes)),
								  PG_INT32_MAX);
}

/* ---- tokens ---- */

static void
count_tokens(const Estimate *estimate, int64 *input, int64 *cached, int64 *cache_write, int64 *output)
{
	const BatchOptions *options = estimate->options;
	int64		most = options->parameters.max_output_tokens;
	double		bytes_a_token = strcmp(estimate->job->provider, "anthropic") == 0 ?
		ANTHROPIC_BYTES_A_TOKEN : BYTES_A_TOKEN;
	double		texts = estimate->text_bytes +
		estimate->requests * (options->system != NULL ? strlen(options->system) : 0);
	double		answer = ANSWER_TOKENS;
	UsageHistory history;

	ledger_load_history(estimate->job, &history);
	*cached = *cache_write = 0;
	*input = (int64) rint(texts / bytes_a_token + estimate->requests / 2);
	if (history.input_tokens > 0 && history.bytes > 0)
	{
		double		tokens = estimate->bytes * history.input_tokens / history.bytes;

		*input = (int64) rint(tokens);
		*cached = (int64) rint(tokens * history.cached_tokens / history.input_tokens);
		*cache_write = (int64) rint(tokens * history.cache_write_tokens / history.input_tokens);
	}
	if (history.requests > 0 && history.output_tokens > 0)
		answer = (double) history.output_tokens / history.requests;
	else if (options->department)
		answer = most > 0 ? Min(most, DEPARTMENT_TOKENS) : DEPARTMENT_TOKENS;
	else if (most > 0)
		answer = most;
	*output = (int64) rint(estimate->requests * answer);
}

/* ---- the function ---- */

static void
open_estimate(Estimate *estimate, Job *job)
{
	const Account *account = account_route(job->model, job->server_name, job->owner);

	memset(estimate, 0, sizeof(*estimate));
	estimate->job = job;
	estimate->options = parameters_to_options(account, job->model, job->system_prompt, job->response_schema,
										job->department, job->parameters);
	if (account->provider->prepare_options != NULL)
		account->provider->prepare_options(estimate->options);
	estimate->max_requests = account->max_batch_requests;
	estimate->max_bytes = account->max_batch_bytes;
	if (job->online)
	{
		estimate->max_requests = Min(estimate->max_requests, ONLINE_BATCH_ROWS);
		estimate->max_bytes = Min(estimate->max_bytes, ONLINE_BATCH_BYTES);
	}
	estimate->until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), READ_MS);
	estimate->seen = seen_create(CurrentMemoryContext, 1024, NULL);
	estimate->nin_flight = ledger_load_in_flight_keys(job, &estimate->in_flight);
}

static void
estimate_rows(Estimate *estimate)
{
	const Job  *job = estimate->job;
	List	   *listed = job->outcomes != NIL ? submit_list_outcomes(estimate->job) : NIL;
	UserContext user;
	double		factor;

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	estimate->table = source_open(job);
	factor = read_rows(estimate, listed);
	usercxt_leave(&user);
	extrapolate(estimate, factor);
}

/* Without a price there is no cost; whoever asks is told how to set one. */
static void
say_no_price(const Job *job)
{
	ereport(NOTICE,
			(errmsg("no price is known for model \"%s\", so the cost is not known", job->model),
			 errhint("INSERT INTO dess_batch.price (model, input, cached, output, source) VALUES (%s, ..., ..., ..., '...'), in US dollars for a million tokens.",
					 quote_literal_cstr(job->model))));
}

Datum
dess_batch_estimate(PG_FUNCTION_ARGS)
{
	Estimate	estimate;
	TupleDesc	tupdesc;
	Price	   *price;
	Datum		values[7];
	bool		nulls[7] = {false};
	int64		input;
	int64		cached;
	int64		cache_write;
	int64		output;

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	open_estimate(&estimate, submit_resolve(fcinfo, true));
	estimate_rows(&estimate);
	count_tokens(&estimate, &input, &cached, &cache_write, &output);
	price = ledger_find_price(estimate.job);

	values[0] = Int64GetDatum((int64) estimate.rows);
	values[1] = Int64GetDatum((int64) estimate.requests);
	values[2] = Int64GetDatum((int64) estimate.batches);
	values[3] = Int64GetDatum(input);
	values[4] = Int64GetDatum(output);
	if (price != NULL)
	{
		values[5] = price_of_tokens(price, input, cached, cache_write, output);
		values[6] = DateADTGetDatum(price->date);
	}
	else
		say_no_price(estimate.job);
	nulls[5] = nulls[6] = price == NULL;
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
