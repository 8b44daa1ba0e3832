/*-------------------------------------------------------------------------
 *
 * report.c
 *		The ledger: figures and samples of a job for its report.
 *
 * The rows of a job are read once for all sums and once for the samples.  A
 * sample is the rows with the smallest request hashes of each outcome: random
 * to the eye, the same every time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "ledger/internal.h"

#define COST_TEXT(c) "trim_scale(round(" c ", 6))::text"
#define UTC_TEXT(t)	"to_char(" t " AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS')"

static void
read_table(Statement *statement, int64 id, int limit, ReportTable *table)
{
	Ledger		ledger;

	ledger_open(&ledger);
	if (limit > 0)
		table->nrows = ledger_run(statement, arg_int64(id), arg_int32(limit));
	else
		table->nrows = ledger_run(statement, arg_int64(id));
	table->rows = MemoryContextAlloc(ledger.caller, (table->nrows + 1) * sizeof(char **));
	for (int row = 0; row < table->nrows; row++)
	{
		int			ncolumns = SPI_tuptable->tupdesc->natts;

		table->rows[row] = MemoryContextAlloc(ledger.caller, ncolumns * sizeof(char *));
		for (int i = 0; i < ncolumns; i++)
			table->rows[row][i] = ledger_get_text(&ledger, row, i + 1);
	}
	ledger_close(&ledger);
}

static void
read_job(int64 id, ReportTable *table)
{
	static Statement statement = {
		.sql = "SELECT j.label, coalesce(c.oid::regclass::text, j.source_name), j.target, j.model, j.server_name, j.mode, "
		"f.state, p.waiting_for, f.rows::text, f.requests::text, f.done::text, f.failed::text, p.percent::text, "
		"p.rows_per_second::text, p.eta::text, f.input_tokens::text, f.cached_tokens::text, "
		"f.output_tokens::text, f.reasoning_tokens::text, " COST_TEXT("f.cost") ", "
		"coalesce(r.rolname::text, j.owner_name), j.submitted_by, "
		UTC_TEXT("j.created_at") ", " UTC_TEXT("j.started_at") ", " UTC_TEXT("j.finished_at") ", "
		"date_trunc('second', coalesce(j.finished_at, now()) - j.started_at)::text, "
		"j.error_code, j.error, j.prompt, j.system_prompt, j.extension_version, " UTC_TEXT("now()") " "
		"FROM dess_batch.job j JOIN dess_batch.figures f ON f.job_id = j.id JOIN dess_batch.progress p ON p.job_id = j.id "
		"LEFT JOIN pg_class c ON c.oid = dess_batch.source_here(j.source, j.source_name, j.home) "
		"LEFT JOIN pg_roles r ON r.oid = dess_batch.owner_here(j.owner, j.owner_name, j.home) "
		"WHERE j.id = $1"
	};

	read_table(&statement, id, 0, table);
}

/*
 * One scan for the sums by outcome, by kind of error and by time; grouping()
 * tells them apart.
 */
static Statement sums_statement = {
	.sql = "WITH span AS (SELECT extract(epoch FROM j.started_at)::float8 AS low, "
	"extract(epoch FROM coalesce(j.finished_at, now()))::float8 AS high FROM dess_batch.job j WHERE j.id = $1) "
	"SELECT grouping(x.bucket, x.error_code)::text, x.outcome, x.error_code, x.bucket::text, count(*)::text, min(x.error), "
	"sum(x.input_tokens)::text, sum(x.cached_tokens)::text, sum(x.output_tokens)::text, sum(x.reasoning_tokens)::text, "
	"CASE WHEN count(x.cost) = count(*) THEN " COST_TEXT("sum(x.cost)") " END "
	"FROM (SELECT r.outcome::text AS outcome, coalesce(r.error_code, '') AS error_code, r.error, "
	"least(1 + trunc(greatest(extract(epoch FROM r.finished_at)::float8 - s.low, 0) * $2 / greatest(s.high - s.low, 0.001)), $2)::int AS bucket, "
	"r.input_tokens, r.cached_tokens, r.output_tokens, r.reasoning_tokens, r.cost "
	"FROM dess_batch.item_result r CROSS JOIN span s "
	"WHERE r.job_id = $1 AND r.key IS NOT NULL AND r.outcome IS NOT NULL) x "
	"GROUP BY GROUPING SETS ((x.outcome), (x.outcome, x.error_code), (x.outcome, x.bucket)) "
	"ORDER BY 1, count(*) DESC, 2, 3"
};

static bool
is_good(const char *outcome)
{
	return strcmp(outcome, "ok") == 0 || strcmp(outcome, "missing") == 0 || strcmp(outcome, "empty") == 0;
}

/* A new row of a table that is built here. */
static char **
add_row(ReportTable *table, int most, int ncolumns)
{
	if (table->rows == NULL)
		table->rows = palloc(most * sizeof(char **));
	table->rows[table->nrows] = palloc0(ncolumns * sizeof(char *));
	return table->rows[table->nrows++];
}

static void
add_outcome(JobReport *report, int most, char **sums)
{
	char	  **row = add_row(&report->outcomes, most, RO_COST + 1);

	row[RO_OUTCOME] = sums[1];
	row[RO_ROWS] = sums[4];
	for (int i = RO_INPUT_TOKENS; i <= RO_COST; i++)
		row[i] = sums[6 + i - RO_INPUT_TOKENS];
}

static void
add_error(JobReport *report, int most, char **sums)
{
	char	  **row;

	if (is_good(sums[1]) || strcmp(sums[1], "superseded") == 0)
		return;
	row = add_row(&report->errors, most, RE_WORDS + 1);
	row[RE_OUTCOME] = sums[1];
	row[RE_CODE] = sums[2];
	row[RE_ROWS] = sums[4];
	row[RE_WORDS] = sums[5];
}

static void
add_time(JobReport *report, int most, char **sums)
{
	bool		good = is_good(sums[1]);
	char	  **row;

	if (sums[3] == NULL || strcmp(sums[1], "superseded") == 0)
		return;
	row = add_row(&report->times, most, RT_FAILED + 1);
	row[RT_BUCKET] = sums[3];
	row[RT_GOOD] = good ? sums[4] : "0";
	row[RT_FAILED] = good ? "0" : sums[4];
}

/* Tokens of superseded rows count, the rows do not: a later try counts them. */
static void
read_sums(int64 id, JobReport *report)
{
	ReportTable sums;

	read_table(&sums_statement, id, REPORT_BUCKETS, &sums);
	for (int i = 0; i < sums.nrows; i++)
	{
		char	  **row = sums.rows[i];

		/* bit 1: not grouped by bucket; bit 0: not grouped by error_code */
		if (strcmp(row[0], "3") == 0)
			add_outcome(report, sums.nrows, row);
		else if (strcmp(row[0], "2") == 0)
			add_error(report, sums.nrows, row);
		else
			add_time(report, sums.nrows, row);
	}
}

static void
read_batches(int64 id, JobReport *report)
{
	static Statement batches = {
		.sql = "SELECT x.no::text, x.state, x.requests::text, x.seconds::text, x.words FROM ("
		"SELECT b.no, b.state, b.requests, coalesce(b.error, b.remote_state) AS words, "
		"round(extract(epoch FROM coalesce(b.finished_at, now()) - b.created_at), 1) AS seconds "
		"FROM dess_batch.batch b WHERE b.job_id = $1 AND b.no > 0 ORDER BY b.no DESC LIMIT $2) x ORDER BY x.no"
	};
	static Statement latency = {
		.sql = "SELECT count(*)::text, min(x.seconds)::text, percentile_disc(0.5) WITHIN GROUP (ORDER BY x.seconds)::text, "
		"percentile_disc(0.95) WITHIN GROUP (ORDER BY x.seconds)::text, max(x.seconds)::text FROM ("
		"SELECT round(extract(epoch FROM b.finished_at - b.created_at), 1) AS seconds "
		"FROM dess_batch.batch b WHERE b.job_id = $1 AND b.no > 0 AND b.finished_at IS NOT NULL) x"
	};

	read_table(&batches, id, REPORT_BATCHES, &report->batches);
	read_table(&latency, id, 0, &report->latency);
}

static void
read_samples(int64 id, ReportTable *table)
{
	static Statement statement = {
		.sql = "SELECT x.key, dess_batch.row_key(x.key, j.key_columns, j.key_kinds)::text, x.outcome::text, a.answer, "
		"x.error_code, x.error FROM ("
		"SELECT r.*, row_number() OVER (PARTITION BY r.outcome ORDER BY r.hash, r.batch_no, r.no) AS n "
		"FROM dess_batch.item_result r "
		"WHERE r.job_id = $1 AND r.key IS NOT NULL AND r.outcome IS NOT NULL AND r.outcome <> 'superseded') x "
		"JOIN dess_batch.job j ON j.id = x.job_id "
		"LEFT JOIN dess_batch.answer a ON a.job_id = x.job_id AND a.batch_no = x.batch_no AND a.no = x.no "
		"WHERE x.n <= $2 ORDER BY x.outcome, x.n"
	};

	read_table(&statement, id, REPORT_SAMPLES, table);
}

void
ledger_read_report(int64 id, JobReport *report)
{
	memset(report, 0, sizeof(*report));
	read_job(id, &report->job);
	read_sums(id, report);
	read_batches(id, report);
	read_samples(id, &report->samples);
}
