/*-------------------------------------------------------------------------
 *
 * report.h
 *		What a report shows of a job, as text in the database's encoding.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_LEDGER_REPORT_H
#define DESS_LEDGER_REPORT_H

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

/* All of them in the transaction's snapshot; lives in the current memory context.  The job exists. */
extern void ledger_read_report(int64 id, JobReport *report);

#endif							/* DESS_LEDGER_REPORT_H */
