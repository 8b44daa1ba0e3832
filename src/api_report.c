/*-------------------------------------------------------------------------
 *
 * api_report.c
 *		dess_batch_report: a job as a page of HTML.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "report.h"
#include "target.h"
#include "usercxt.h"

PG_FUNCTION_INFO_V1(dess_batch_report);

/* Answers that were written and not kept are what the table holds now. */
static void
read_written(const Job *job, ReportTable *samples)
{
	UserContext user;
	TargetTable *table;

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	table = target_open(job);
	for (int i = 0; i < samples->nrows; i++)
	{
		char	  **row = samples->rows[i];

		if (row[RS_ANSWER] == NULL &&
			(strcmp(row[RS_OUTCOME], "ok") == 0 || strcmp(row[RS_OUTCOME], "missing") == 0))
			row[RS_ANSWER] = target_read_value(table, row[RS_KEY]);
	}
	usercxt_leave(&user);
}

/* A table that is gone or changed costs the report those answers, not more. */
static void
try_read_written(const Job *job, ReportTable *samples)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;

	if (job->target == NULL || get_rel_name(job->source) == NULL)
		return;
	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	PG_TRY();
	{
		read_written(job, samples);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		ErrorData  *error;

		MemoryContextSwitchTo(caller);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(caller);
		CurrentResourceOwner = owner;
		if (error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
			ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES)
			ReThrowError(error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
}

Datum
dess_batch_report(PG_FUNCTION_ARGS)
{
	int64		id = PG_GETARG_INT64(0);
	const Job  *job = jobstore_control_job(id);
	JobReport	report;
	StringInfoData page;

	jobstore_read_report(id, &report);
	try_read_written(job, &report.samples);
	initStringInfo(&page);
	report_append_page(&page, id, &report);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(page.data, page.len));
}
