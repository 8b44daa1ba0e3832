/*-------------------------------------------------------------------------
 *
 * control.c
 *		What users do to their jobs: stage by stage, pause, cancel, retry and
 *		the like, and the start of the worker.
 *
 * Nothing is done here but to write down what is wanted; the worker does it.
 * What is so already is a notice, so that scripts may repeat a call; what
 * cannot be is an error.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "catalog/objectaddress.h"
#include "catalog/pg_class.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"

#include "api/submit.h"
#include "ledger/ledger.h"
#include "runtime/compat.h"
#include "runtime/guc.h"
#include "runtime/usercxt.h"
#include "runtime/wake.h"
#include "table/table.h"

PG_FUNCTION_INFO_V1(dess_batch_upload);
PG_FUNCTION_INFO_V1(dess_batch_create);
PG_FUNCTION_INFO_V1(dess_batch_retrieve);
PG_FUNCTION_INFO_V1(dess_batch_status);
PG_FUNCTION_INFO_V1(dess_batch_cancel);
PG_FUNCTION_INFO_V1(dess_batch_pause);
PG_FUNCTION_INFO_V1(dess_batch_resume);
PG_FUNCTION_INFO_V1(dess_batch_retry);
PG_FUNCTION_INFO_V1(dess_batch_adopt);
PG_FUNCTION_INFO_V1(dess_batch_home);
PG_FUNCTION_INFO_V1(dess_batch_erase);
PG_FUNCTION_INFO_V1(dess_batch_forget);
PG_FUNCTION_INFO_V1(dess_batch_purge);
PG_FUNCTION_INFO_V1(dess_batch_start);

/* ---- what a job must not be ---- */

static bool
job_has_ended(const Job *job)
{
	return job->state != JOB_QUEUED && job->state != JOB_ACTIVE;
}

static void
refuse_ended(const Job *job)
{
	if (job_has_ended(job))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 job->state == JOB_FAILED ?
				 errmsg("job " INT64_FORMAT " has already failed", job->id) :
				 errmsg("job " INT64_FORMAT " is already %s", job->id, job_state_name(job->state)),
				 errhint("Use dess_batch_retry(" INT64_FORMAT ") to send its failed rows again.", job->id)));
}

static void
refuse_held(const Job *job)
{
	if (job->control == CONTROL_HOLD)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is held", job->id),
				 errdetail("Its ledger was restored from another cluster or database, where the job may go on."),
				 errhint("Call dess_batch_adopt(" INT64_FORMAT ") first, if it is to go on here.", job->id)));
}

/* Raises when the job is on its way to an end that cannot be stopped. */
static void
refuse_ending(const Job *job)
{
	if (job->control == CONTROL_CANCEL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " is being cancelled", job->id),
				 errdetail("It ends when what was finished at the provider has been merged.")));
	if (job->control == CONTROL_FAIL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("job " INT64_FORMAT " cannot go on", job->id),
				 errdetail("It ends as failed when its batches at the provider have been merged."),
				 errhint("See dess_batch_explain(" INT64_FORMAT ").", job->id)));
}

/* The job, which the caller may control and which goes on. */
static Job *
control_going_job(int64 id)
{
	Job		   *job = ledger_control_job(id);

	refuse_ended(job);
	refuse_held(job);
	refuse_ending(job);
	return job;
}

static void
refuse_online(const Job *job)
{
	if (job->online)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("job " INT64_FORMAT " is in mode \"online\", which has no stages", job->id),
				 errhint("See dess_batch_progress for how far it is.")));
}

/* ---- stage by stage ---- */

static const char *const stage_verbs[] = {"prepare", "upload", "create", "retrieve"};

static const char *const stage_limits[] = {
	"The job stops when its request files are prepared.",
	"The job stops when its request files are uploaded.",
	"The job stops when its batches are created at the provider.",
	"The job goes to its end by itself."
};

/* Lets a job that stops at the stage before go as far as stage. */
static Datum
control_advance(int64 id, JobStage stage)
{
	Job		   *job = ledger_control_job(id);

	refuse_online(job);
	refuse_ended(job);
	refuse_held(job);
	refuse_ending(job);
	if (job->stage != stage - 1)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 job->stage < stage ?
				 errmsg("it is too early for dess_batch_%s(" INT64_FORMAT ")", stage_verbs[stage], id) :
				 errmsg("it is too late for dess_batch_%s(" INT64_FORMAT ")", stage_verbs[stage], id),
				 errdetail_internal("%s", stage_limits[job->stage]),
				 job->stage == STAGE_RETRIEVE ?
				 errhint("See dess_batch_progress for how far it is.") :
				 errhint("Call dess_batch_%s(" INT64_FORMAT ") to let it go on.",
						 stage_verbs[job->stage + 1], id)));

	ledger_set_stage(id, stage);
	if (job->control == CONTROL_PAUSE)
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " is paused", id),
				 errhint("Use dess_batch_resume(" INT64_FORMAT ") to let it go on.", id)));
	wake_at_commit();
	PG_RETURN_INT64(id);
}

Datum
dess_batch_upload(PG_FUNCTION_ARGS)
{
	return control_advance(PG_GETARG_INT64(0), STAGE_UPLOAD);
}

Datum
dess_batch_create(PG_FUNCTION_ARGS)
{
	return control_advance(PG_GETARG_INT64(0), STAGE_CREATE);
}

Datum
dess_batch_retrieve(PG_FUNCTION_ARGS)
{
	return control_advance(PG_GETARG_INT64(0), STAGE_RETRIEVE);
}

Datum
dess_batch_status(PG_FUNCTION_ARGS)
{
	Job		   *job = ledger_control_job(PG_GETARG_INT64(0));
	char	   *state;

	refuse_online(job);
	(void) ledger_stands_still(job->id, &state);
	if (!job_has_ended(job) && job->control != CONTROL_HOLD)
	{
		ledger_ask_poll(job->id);
		wake_at_commit();
	}
	PG_RETURN_TEXT_P(cstring_to_text(state));
}

/* ---- stop and go ---- */

Datum
dess_batch_cancel(PG_FUNCTION_ARGS)
{
	Job		   *job = ledger_control_job(PG_GETARG_INT64(0));

	if (job->state == JOB_CANCELLED)
	{
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " is already cancelled", job->id)));
		PG_RETURN_VOID();
	}
	refuse_ended(job);
	refuse_held(job);
	if (job->control == CONTROL_CANCEL)
	{
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " is already being cancelled", job->id)));
		PG_RETURN_VOID();
	}

	ledger_set_control(job->id, CONTROL_CANCEL);
	wake_at_commit();
	PG_RETURN_VOID();
}

Datum
dess_batch_pause(PG_FUNCTION_ARGS)
{
	Job		   *job = control_going_job(PG_GETARG_INT64(0));

	if (job->control == CONTROL_PAUSE && job->paused_until == 0)
	{
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " is already paused", job->id)));
		PG_RETURN_VOID();
	}

	ledger_set_control(job->id, CONTROL_PAUSE);
	wake_at_commit();
	PG_RETURN_VOID();
}

Datum
dess_batch_resume(PG_FUNCTION_ARGS)
{
	Job		   *job;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	job = control_going_job(PG_GETARG_INT64(0));

	if (!PG_ARGISNULL(1))
	{
		job->max_cost = submit_budget(PG_GETARG_NUMERIC(1));
		if (ledger_find_price(job) == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("no price is known for model \"%s\"", job->model),
					 errdetail("A budget needs a price."),
					 errhint("INSERT INTO dess_batch.price (model, input, cached, output, source) VALUES (%s, ..., ..., ..., '...'), in US dollars for a million tokens; or leave out max_cost.",
							 quote_literal_cstr(job->model))));
	}
	else
		job->max_cost = NULL;
	if (job->control != CONTROL_PAUSE && job->max_cost == NULL)
	{
		ereport(NOTICE,
				(errmsg("job " INT64_FORMAT " is not paused", job->id)));
		PG_RETURN_VOID();
	}

	ledger_resume(job->id, job->max_cost);
	wake_at_commit();
	PG_RETURN_VOID();
}

/* ---- once more ---- */

/* The names in argument "outcomes", each of them one of a failure. */
static List *
failed_outcomes(ArrayType *array)
{
	List	   *names = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			n;

	deconstruct_array(array, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		Outcome		outcome;
		char	   *name;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"outcomes\" must not contain nulls")));
		name = TextDatumGetCString(elements[i]);
		if (!outcome_from_name(name, &outcome) || outcome_is_done(outcome) || outcome >= OUTCOME_SUPERSEDED)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid outcome \"%s\" in argument \"outcomes\"", name),
					 errhint("Valid values are: stale, gone, refused, truncated, invalid, rejected, expired, cancelled, lost.")));
		names = lappend(names, name);
	}
	return names;
}

Datum
dess_batch_retry(PG_FUNCTION_ARGS)
{
	List	   *outcomes = NIL;
	Job		   *job;
	int64		n;

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	job = ledger_control_job(PG_GETARG_INT64(0));
	if (!PG_ARGISNULL(1))
	{
		outcomes = failed_outcomes(PG_GETARG_ARRAYTYPE_P(1));
		if (outcomes == NIL)
			PG_RETURN_INT64(0);
	}

	n = ledger_retry_job(job, outcomes);
	wake_at_commit();
	PG_RETURN_INT64(n);
}

Datum
dess_batch_adopt(PG_FUNCTION_ARGS)
{
	int64		id = 0;

	if (!PG_ARGISNULL(0))
	{
		id = PG_GETARG_INT64(0);
		(void) ledger_control_job(id);
	}
	ledger_adopt(id);
	wake_at_commit();
	PG_RETURN_VOID();
}

/* For the views: a copy of a ledger shows its jobs as held before a worker has seen it. */
Datum
dess_batch_home(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(ledger_home()));
}

/* ---- forgetting ---- */

Datum
dess_batch_erase(PG_FUNCTION_ARGS)
{
	Job		   *job = ledger_control_job(PG_GETARG_INT64(0));

	ledger_erase(job->id);
	wake_at_commit();
	PG_RETURN_VOID();
}

static void
check_table_owner(Oid source)
{
	char	   *name = get_rel_name(source);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", source)));
	if (!compat_class_ownercheck(source, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(source)), name);
}

/* Does the object have a member for each of these columns, and no other one? */
static bool
names_exactly(Jsonb *row_key, List *columns)
{
	ListCell   *lc;

	if (!JB_ROOT_IS_OBJECT(row_key) || JB_ROOT_COUNT(row_key) != list_length(columns))
		return false;
	foreach(lc, columns)
	{
		const char *name = lfirst(lc);
		JsonbValue	member;

		if (getKeyJsonValueFromContainer(&row_key->root, name, strlen(name), &member) == NULL)
			return false;
	}
	return true;
}

/* The ledger's form of a key.  A domain's constraint is code of the table's owner. */
static char *
ledger_key(Oid source, List *columns, Jsonb *row_key)
{
	UserContext user;
	char	   *key;

	usercxt_enter(&user, usercxt_effective_role(GetUserId(), source));
	key = source_key_from_json(source, columns, row_key);
	usercxt_leave(&user);
	return key;
}

static char *
key_in_words(List *columns)
{
	StringInfoData words;
	ListCell   *lc;

	initStringInfo(&words);
	foreach(lc, columns)
		appendStringInfo(&words, "%s%s", words.len > 0 ? ", " : "",
						 quote_identifier(lfirst(lc)));
	return words.data;
}

/* Jobs may have used several keys of the table; all that row_key fits are meant. */
Datum
dess_batch_forget(PG_FUNCTION_ARGS)
{
	Oid			source = PG_GETARG_OID(0);
	Jsonb	   *row_key = PG_GETARG_JSONB_P(1);
	List	   *keys;
	ListCell   *lc;
	bool		matched = false;
	bool		found = false;

	check_table_owner(source);
	keys = ledger_source_keys(source);
	foreach(lc, keys)
	{
		List	   *columns = lfirst(lc);

		if (!names_exactly(row_key, columns))
			continue;
		matched = true;
		if (ledger_forget_row(source, columns, ledger_key(source, columns, row_key)))
			found = true;
	}
	/* the worker counts the rows that wait */
	if (found)
		wake_at_commit();
	if (!matched && keys != NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("row_key must be an object of exactly the key columns"),
				 errhint("The key of \"%s\" is (%s).", get_rel_name(source),
						 key_in_words(linitial(keys)))));
	if (!found)
		ereport(NOTICE,
				(errmsg("nothing is known of that row of \"%s\"", get_rel_name(source)),
				 errhint("Numbers must be spelled as in column row_key of dess_batch_rows.")));
	PG_RETURN_VOID();
}

Datum
dess_batch_purge(PG_FUNCTION_ARGS)
{
	Interval   *older_than = PG_GETARG_INTERVAL_P(0);
	Interval	none;
	TimestampTz before;
	PurgeProgress progress = {0};

	memset(&none, 0, sizeof(none));
	if (DatumGetBool(DirectFunctionCall2(interval_lt, IntervalPGetDatum(older_than),
										 IntervalPGetDatum(&none))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"older_than\" must not be negative")));
	before = DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
													 TimestampTzGetDatum(GetCurrentTimestamp()),
													 IntervalPGetDatum(older_than)));
	while (ledger_purge(before, before, &progress))
		CHECK_FOR_INTERRUPTS();
	PG_RETURN_INT64(progress.removed);
}

/* ---- the worker ---- */

/* Starts at once and not at commit, so that it can tell when it cannot. */
Datum
dess_batch_start(PG_FUNCTION_ARGS)
{
	BackgroundWorkerHandle *handle;
	pid_t		pid;

	if (RecoveryInProgress())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("recovery is in progress"),
				 errhint("The worker runs on the primary server and starts here after a promotion.")));
	if (!dess_enabled)
		ereport(WARNING,
				(errmsg("dess_batch.enabled is off"),
				 errdetail("The worker does nothing until it is on.")));

	if (ledger_find_worker() != 0)
	{
		wake_lock_holder();
		PG_RETURN_VOID();
	}
	if (!wake_start_worker_handle(MyDatabaseId, &handle))
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("no background worker slot is free for dess_batch"),
				 errhint("Increase max_worker_processes (now %d), or try again when a slot is free.",
						 max_worker_processes)));

	/* that it has ended again means that another one was faster */
	if (WaitForBackgroundWorkerStartup(handle, &pid) == BGWH_POSTMASTER_DIED)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
				 errmsg("cannot start background processes without postmaster")));
	PG_RETURN_VOID();
}
