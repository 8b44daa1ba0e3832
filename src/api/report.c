/*-------------------------------------------------------------------------
 *
 * report.c
 *		dess_batch_report: a job as a page of HTML.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "api/report_page.h"
#include "runtime/txn.h"
#include "runtime/usercxt.h"
#include "table/table.h"

PG_FUNCTION_INFO_V1(dess_batch_report);

typedef struct WrittenAnswers
{
	const Job  *job;
	ReportTable *samples;
} WrittenAnswers;

/* Answers that were written and not kept are what the table holds now. */
static void
read_written(void *arg)
{
	WrittenAnswers *written = arg;
	const Job  *job = written->job;
	UserContext user;
	SourceTable *table;

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	table = source_open(job);
	for (int i = 0; i < written->samples->nrows; i++)
	{
		char	  **row = written->samples->rows[i];

		if (row[RS_ANSWER] == NULL &&
			(strcmp(row[RS_OUTCOME], "ok") == 0 || strcmp(row[RS_OUTCOME], "missing") == 0))
			row[RS_ANSWER] = source_read_value(table, row[RS_KEY]);
	}
	usercxt_leave(&user);
}

/* A table that is gone or changed costs the report those answers, not more. */
static void
try_read_written(const Job *job, ReportTable *samples)
{
	WrittenAnswers written = {job, samples};
	char	   *why;

	if (job->target != NULL && get_rel_name(job->source) != NULL)
		(void) txn_try(read_written, &written, &why);
}

Datum
dess_batch_report(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	const Job  *job = ledger_look_at_job(id);
	JobReport	report;
	StringInfoData page;

	ledger_read_report(id, &report);
	try_read_written(job, &report.samples);
	initStringInfo(&page);
	report_append_page(&page, id, &report);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(page.data, page.len));
}
