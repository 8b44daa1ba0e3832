/*-------------------------------------------------------------------------
 *
 * submit.c
 *		dess_batch_submit, dess_batch_prepare, dess_batch_preview.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/tuplestore.h"

#include "account/account.h"
#include "api/submit.h"
#include "provider/parameters.h"
#include "provider/provider.h"
#include "runtime/batch_token.h"
#include "runtime/usercxt.h"
#include "runtime/wake.h"
#include "table/table.h"
#include "text/encoding.h"
#include "text/sample.h"

#define PREVIEW_PAGE_ROWS	500

PG_FUNCTION_INFO_V1(dess_batch_submit);
PG_FUNCTION_INFO_V1(dess_batch_prepare);
PG_FUNCTION_INFO_V1(dess_batch_preview);

int64
submit_from_args(FunctionCallInfo fcinfo, JobStage stage)
{
	Job		   *job;

	PreventCommandIfReadOnly("dess_batch_submit");
	job = submit_resolve(fcinfo, false);
	if (stage != STAGE_RETRIEVE && job->online)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a job in mode \"online\" has no stages to stop at"),
				 errhint("Use dess_batch_submit.")));
	job->stage = stage;
	job->id = ledger_insert_job(job);
	wake_at_commit();
	return job->id;
}

Datum
dess_batch_submit(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(submit_from_args(fcinfo, STAGE_RETRIEVE));
}

Datum
dess_batch_prepare(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(submit_from_args(fcinfo, STAGE_PREPARE));
}

/* ---- preview ---- */

typedef struct Preview
{
	const Job  *job;
	ReturnSetInfo *rsinfo;
	SourceTable *table;
	BatchOptions *options;
	ArrayType  *key_columns;
	int64		limit;
	int64		shown;
	int			no;
} Preview;

static void
preview_show(Preview *preview, const SourceRow *row)
{
	StringInfoData line;
	BatchItem	item;
	char		custom_id[64];
	Datum		values[2];
	bool		nulls[2] = {false, false};

	/* the token of a batch is drawn when the batch is made: zeros stand for it */
	batch_custom_id(custom_id, sizeof(custom_id), "00000000000000000000000000000000", ++preview->no);
	item.custom_id = custom_id;
	item.text = row->text;
	item.text_length = row->text_length;
	initStringInfo(&line);
	preview->options->account->provider->prepare_batch_file(&line, &item, preview->options);

	values[0] = DirectFunctionCall3(dess_batch_row_key, CStringGetTextDatum(row->key),
									PointerGetDatum(preview->key_columns),
									CStringGetTextDatum(preview->job->key_kinds));
	values[1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(encoding_to_server_lossy(line.data)));
	tuplestore_putvalues(preview->rsinfo->setResult, preview->rsinfo->setDesc, values, nulls);
	preview->shown++;
}

/* Shows those rows that would be sent. */
static void
preview_rows(Preview *preview, const SourceRow *rows, int nrows, bool check_settled)
{
	for (int i = 0; i < nrows && preview->shown < preview->limit; i++)
	{
		bool		settled = false;
		char	   *key = rows[i].key;

		if (!rows[i].wanted || rows[i].text == NULL)
			continue;
		/* what is named and null is shown when the table is gone through */
		if (job_takes_new(preview->job) && rows[i].target_null != check_settled)
			continue;
		if (check_settled)
			ledger_find_settled(preview->job, &key, &rows[i].hash, 1, &settled);
		if (!settled)
			preview_show(preview, &rows[i]);
	}
}

static void
preview_table(Preview *preview)
{
	MemoryContext caller = CurrentMemoryContext;
	MemoryContext page = AllocSetContextCreate(caller, "dess_batch preview", ALLOCSET_DEFAULT_SIZES);
	char	   *last_key = NULL;
	bool		more = true;
	bool		end = false;

	MemoryContextSwitchTo(page);
	while (!end && preview->shown < preview->limit)
	{
		SourceRow  *rows;
		int			nrows = source_read_page(preview->table, last_key, PREVIEW_PAGE_ROWS, &rows, &more);

		preview_rows(preview, rows, nrows, !preview->job->overwrite || job_takes_new(preview->job));
		end = nrows < PREVIEW_PAGE_ROWS && !more;
		if (nrows > 0)
			last_key = MemoryContextStrdup(caller, rows[nrows - 1].key);
		MemoryContextReset(page);
		CHECK_FOR_INTERRUPTS();
	}
	MemoryContextSwitchTo(caller);
}

static void
preview_sample(Preview *preview)
{
	Sample	   *sample = sample_create(preview->job->max_rows);
	char	   *last_key = NULL;
	SourceRow  *rows;
	int			nrows;
	int			nkeys;

	do
	{
		char	  **keys;
		bool	   *matches;

		nkeys = source_read_key_page(preview->table, last_key, PREVIEW_PAGE_ROWS, &keys, &matches);
		for (int i = 0; i < nkeys; i++)
			if (matches[i])
				sample_add(sample, keys[i]);
		if (nkeys > 0)
			last_key = keys[nkeys - 1];
		CHECK_FOR_INTERRUPTS();
	} while (nkeys == PREVIEW_PAGE_ROWS);
	nrows = source_read_keys(preview->table, sample_keys(sample), sample->nkeys, &rows);
	preview_rows(preview, rows, nrows, !preview->job->overwrite);
}

/*
 * Rows that "outcomes" names: the ledger lists them for a job that is rolled back
 * at once.
 */
List *
submit_list_outcomes(Job *job)
{
	MemoryContext caller = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	List	   *listed;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(caller);
	job->id = ledger_insert_job(job);
	ledger_list_outcomes(job);
	listed = ledger_retry_queue_take(job->id, INT_MAX);
	RollbackAndReleaseCurrentSubTransaction();
	MemoryContextSwitchTo(caller);
	CurrentResourceOwner = owner;
	return listed;
}

static void
preview_only(Preview *preview, const List *listed)
{
	ListCell   *lc;

	foreach(lc, listed)
	{
		const RetryRow *again = lfirst(lc);
		char	   *key = again->key;
		SourceRow  *rows;

		if (preview->shown >= preview->limit)
			break;
		if (source_read_keys(preview->table, &key, 1, &rows) == 0)
			continue;
		if (again->has_hash && memcmp(&again->unless_hash, &rows[0].hash, sizeof(Digest)) == 0)
			continue;
		preview_rows(preview, rows, 1, false);
	}
}

static ArrayType *
text_array(const List *strings)
{
	Datum	   *values = palloc_array(Datum, list_length(strings));
	ListCell   *lc;
	int			n = 0;

	foreach(lc, strings)
		values[n++] = CStringGetTextDatum(lfirst(lc));
	return construct_array(values, n, TEXTOID, -1, false, TYPALIGN_INT);
}

Datum
dess_batch_preview(PG_FUNCTION_ARGS)
{
	Job		   *job = submit_resolve(fcinfo, true);
	Preview		preview;
	List	   *listed = NIL;
	UserContext user;

	InitMaterializedSRF(fcinfo, 0);
	memset(&preview, 0, sizeof(preview));
	preview.job = job;
	preview.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	preview.limit = job->max_rows > 0 ? job->max_rows : 5;
	preview.key_columns = text_array(job->key_columns);
	preview.options = parameters_to_options(account_route(job->model, job->server_name, job->owner), job->model,
											job->system_prompt, job->response_schema, job->department, job->parameters);
	if (job->outcomes != NIL)
		listed = submit_list_outcomes(job);

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	preview.table = source_open(job);
	if (job->outcomes != NIL)
	{
		preview_only(&preview, listed);
		if (job_takes_new(job))
			preview_table(&preview);
	}
	else if (job->sample)
		preview_sample(&preview);
	else
		preview_table(&preview);
	usercxt_leave(&user);
	return (Datum) 0;
}
