/*-------------------------------------------------------------------------
 *
 * explain.c
 *		dess_batch_explain: why a job is waiting, in words with the remedy.
 *
 * The first line says where the job stands.  The others are what it waits for,
 * from what stops everything down to single batches; for a job that has ended,
 * what can be done about it.  What only the worker's memory holds is told as far as the ledger
 * shows it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "account/account.h"
#include "api/account.h"
#include "ledger/ledger.h"
#include "runtime/guc.h"
#include "runtime/shmem.h"
#include "runtime/spool.h"

PG_FUNCTION_INFO_V1(dess_batch_explain);

/* More lines about batches than this help nobody. */
#define MAX_GROUPS		20

typedef struct Explain
{
	ReturnSetInfo *rsinfo;
	const Job  *job;
	const JobFacts *facts;
	const Account *account;		/* NULL: could not be loaded */
} Explain;

static void explain_say(const Explain *explain, const char *format,...) pg_attribute_printf(2, 3);

/* One line. */
static void
explain_say(const Explain *explain, const char *format,...)
{
	StringInfoData line;
	Datum		value;
	bool		isnull = false;
	int			needed;

	initStringInfo(&line);
	do
	{
		va_list		args;

		va_start(args, format);
		needed = appendStringInfoVA(&line, format, args);
		va_end(args);
		if (needed > 0)
			enlargeStringInfo(&line, needed);
	} while (needed > 0);
	value = CStringGetTextDatum(line.data);
	tuplestore_putvalues(explain->rsinfo->setResult, explain->rsinfo->setDesc, &value, &isnull);
}

/* "code: words", or what there is of them, without a period at the end; NULL for nothing. */
static char *
error_in_words(const char *code, const char *error)
{
	char	   *words;
	size_t		length;

	if (error == NULL && code == NULL)
		return NULL;
	if (error == NULL || code == NULL)
		words = pstrdup(error != NULL ? error : code);
	else
		words = psprintf("%s: %s", code, error);
	length = strlen(words);
	if (length > 0 && words[length - 1] == '.')
		words[length - 1] = '\0';
	return words;
}

/* ---- where the job stands ---- */

/* Is it an SQLSTATE?  Then the trouble was on this side. */
static bool
is_sqlstate(const char *code)
{
	return strlen(code) == 5 && strspn(code, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5 &&
		strcspn(code, "0123456789") < 5;
}

/* What can be done about a job that has failed. */
static void
explain_failure(const Explain *explain)
{
	const Job  *job = explain->job;
	const char *code = explain->facts->error_code != NULL ? explain->facts->error_code : "";

	if (get_rel_name(job->source) == NULL)
		explain_say(explain, "Table %s was dropped and is gone for good: submit anew for another one.", job->source_name);
	else if (OidIsValid(job->server) && GetForeignServerExtended(job->server, FSV_MISSING_OK) == NULL)
		explain_say(explain, "Server \"%s\" was dropped and is gone for good, even if another has its name now: SELECT dess_batch_erase(" INT64_FORMAT ") lets go of the job's rows, then submit anew.",
					job->server_name, job->id);
	else if (strcmp(code, "model_not_found") == 0)
		explain_say(explain, "SELECT * FROM dess_batch_check(%s) tries the account. The model of a job cannot be changed: submit anew with one that the provider knows.",
					quote_literal_cstr(job->server_name));
	else if (is_sqlstate(code) || code[0] == '\0')
		explain_say(explain, "When the cause is gone, SELECT dess_batch_retry(" INT64_FORMAT ") lets it go on.", job->id);
	else
		explain_say(explain, "SELECT * FROM dess_batch_check(%s) tries the account; when the cause is gone, SELECT dess_batch_retry(" INT64_FORMAT ") lets the job go on.",
					quote_literal_cstr(job->server_name), job->id);
}

static void
explain_end(const Explain *explain)
{
	const Job  *job = explain->job;
	const JobFacts *facts = explain->facts;
	StringInfoData line;

	initStringInfo(&line);
	appendStringInfo(&line, "Job " INT64_FORMAT " %s: " INT64_FORMAT " row%s, " INT64_FORMAT " done, " INT64_FORMAT " failed",
					 job->id,
					 job->state == JOB_DONE ? "is done" :
					 job->state == JOB_CANCELLED ? "was cancelled" : "has failed",
					 facts->rows, facts->rows == 1 ? "" : "s", facts->done, facts->failed);
	if (job->state == JOB_FAILED && facts->error != NULL)
		appendStringInfo(&line, ", because of %s", error_in_words(facts->error_code, facts->error));
	explain_say(explain, "%s.", line.data);
	if (job->state == JOB_FAILED)
		explain_failure(explain);
	else if (facts->failed > 0)
		explain_say(explain, "SELECT * FROM dess_batch_errors WHERE job_id = " INT64_FORMAT " says why, SELECT dess_batch_retry(" INT64_FORMAT ") sends again what is neither gone nor refused.",
					job->id, job->id);
	if (job->state == JOB_DONE && facts->rows == 0)
		explain_say(explain, "No row was taken: none meets the condition, or their targets are filled (overwrite => true takes them), another job has them in flight, or they are settled.");
	if (facts->remains > 0)
		explain_say(explain, "Files or jobs of " INT64_FORMAT " batch%s still to be removed at the provider.",
					facts->remains, facts->remains == 1 ? " are" : "es are");
}

static void
explain_standing(const Explain *explain)
{
	const JobFacts *facts = explain->facts;

	if (facts->rows_known)
		explain_say(explain, "Job " INT64_FORMAT " is in state %s: " INT64_FORMAT " row%s, " INT64_FORMAT " done, " INT64_FORMAT " failed.",
					explain->job->id, facts->state, facts->rows, facts->rows == 1 ? "" : "s", facts->done, facts->failed);
	else
		explain_say(explain, "Job " INT64_FORMAT " is in state %s: " INT64_FORMAT " rows done, " INT64_FORMAT " failed; how many there are is not known yet.",
					explain->job->id, facts->state, facts->done, facts->failed);
}

/* ---- what the user has stopped, or must decide ---- */

/* Paused by a budget; words (why) say by which.  Returns false if it was something else. */
static bool
explain_budget_pause(const Explain *explain)
{
	const Job  *job = explain->job;
	const char *code = explain->facts->error_code;
	const char *why = explain->facts->error;

	if (code == NULL || why == NULL)
		return false;
	if (strcmp(code, "max_cost") == 0)
		explain_say(explain, "It is paused: %s. SELECT dess_batch_resume(" INT64_FORMAT ", max_cost => ...) lets it go on with a higher one.",
					why, job->id);
	else if (strcmp(code, "unknown_cost") == 0)
		explain_say(explain, "It is paused: %s. UPDATE %s SET cost = cost + ..., unpriced = 0 WHERE %s AND unpriced > 0, by the extension's owner, says what they cost, and SELECT dess_batch_resume(" INT64_FORMAT ") then lets the job go on.",
					why, job->paused_until != 0 ? "dess_batch.usage" : "dess_batch.batch",
					job->paused_until != 0 ? psprintf("server = %s", quote_literal_cstr(job->server_name)) :
					psprintf("job_id = " INT64_FORMAT, job->id), job->id);
	else if (job->paused_until != 0)
		explain_say(explain, "It is paused: %s. ALTER SERVER %s OPTIONS (SET %s '...') raises it, and SELECT dess_batch_resume(" INT64_FORMAT ") then lets the job go on at once.",
					why, quote_identifier(job->server_name), code, job->id);
	else if (strcmp(code, "no_price") == 0)
		explain_say(explain, "It is paused: %s. INSERT INTO dess_batch.price (model, input, cached, output, source) VALUES (%s, ..., ..., ..., '...') gives it one, and SELECT dess_batch_resume(" INT64_FORMAT ") then lets the job go on.",
					why, quote_literal_cstr(job->model), job->id);
	else
		return false;
	explain_say(explain, "What is at the provider is fetched and merged all the same.");
	return true;
}

/* What other jobs have under way is reserved in the server's budgets. */
static void
explain_reservations(const Explain *explain)
{
	List	   *spenders = ledger_load_spenders(explain->job, MAX_GROUPS);
	StringInfoData line;
	ListCell   *lc;

	if (spenders == NIL)
		return;
	initStringInfo(&line);
	foreach(lc, spenders)
	{
		const Spender *spender = lfirst(lc);

		appendStringInfo(&line, "%s" INT64_FORMAT " batch%s of ", line.len > 0 ? ", " : "",
						 spender->batches, spender->batches == 1 ? "" : "es");
		if (spender->job_id == 0)
			appendStringInfoString(&line, "other roles");
		else
			appendStringInfo(&line, "job " INT64_FORMAT, spender->job_id);
	}
	explain_say(explain, "What is under way for others is reserved as well, and free again when it has been merged: %s.", line.data);
	foreach(lc, spenders)
	{
		const Spender *spender = lfirst(lc);

		if (!spender->stands_still)
			break;
		explain_say(explain, "Job " INT64_FORMAT " keeps its reservation until somebody lets it go on: SELECT dess_batch_retrieve(" INT64_FORMAT "), or SELECT dess_batch_cancel(" INT64_FORMAT ").",
					spender->job_id, spender->job_id, spender->job_id);
	}
}

/* What the job may spend, and how much of it is spent. */
static void
explain_budget(const Explain *explain)
{
	const Account *account = explain->account;
	Spending	spending;

	if (explain->job->max_cost == NULL &&
		(account == NULL || (account->max_cost_per_day < 0 && account->max_cost_per_month < 0)))
		return;
	ledger_load_spending(explain->job, &spending);
	if (explain->job->max_cost != NULL)
		explain_say(explain, "It has spent %.10g of %s US dollars (max_cost); what its requests under way may cost is reserved.",
					spending.job.cost, explain->job->max_cost);
	if (account != NULL && account->max_cost_per_day >= 0)
		explain_say(explain, "Server \"%s\" has spent %.10g of %.10g US dollars today (max_cost_per_day, UTC).",
					account->server, spending.day.cost, account->max_cost_per_day);
	if (account != NULL && account->max_cost_per_month >= 0)
		explain_say(explain, "Server \"%s\" has spent %.10g of %.10g US dollars this month (max_cost_per_month, UTC).",
					account->server, spending.month.cost, account->max_cost_per_month);
	if (account != NULL && OidIsValid(account->server_oid) &&
		(account->max_cost_per_day >= 0 || account->max_cost_per_month >= 0))
		explain_reservations(explain);
}

static void
explain_control(const Explain *explain)
{
	const Job  *job = explain->job;
	char	   *why = error_in_words(explain->facts->error_code, explain->facts->error);

	switch (job->control)
	{
		case CONTROL_RUN:
			/* whether there is a secret by now is looked up below */
			if (explain->facts->error_code != NULL && strcmp(explain->facts->error_code, "budget") == 0)
				explain_say(explain, "It waits for %s.", explain->facts->error);
			else if (why != NULL &&
				(explain->facts->error_code == NULL || strcmp(explain->facts->error_code, "no_secret") != 0))
				explain_say(explain, "The last trouble was %s.", why);
			break;
		case CONTROL_PAUSE:
			if (explain_budget_pause(explain))
				break;
			explain_say(explain, "It is paused%s%s. SELECT dess_batch_resume(" INT64_FORMAT ") lets it go on; what is at the provider is fetched and merged all the same.",
						why != NULL ? " because of " : "", why != NULL ? why : "", job->id);
			break;
		case CONTROL_HOLD:
			explain_say(explain, "It is held, because its ledger was restored from another cluster or database, where the job may go on. If it is to go on here, SELECT dess_batch_adopt(" INT64_FORMAT ").",
						job->id);
			break;
		case CONTROL_CANCEL:
			explain_say(explain, "It is being cancelled: what was finished at the provider is billed, and is merged before it ends.");
			break;
		case CONTROL_FAIL:
			explain_say(explain, "It cannot go on%s%s. It ends as failed when its batches at the provider have been merged.",
						why != NULL ? " because of " : "", why != NULL ? why : "");
			break;
	}
}

/* A job that stands where its stage ends.  Returns whether it does. */
static bool
explain_stage(const Explain *explain)
{
	static const char *const next[] = {"upload", "create", "retrieve"};
	static const char *const done[] = {"prepared", "uploaded", "created"};
	const Job  *job = explain->job;

	if (!explain->facts->stands_still || job->control != CONTROL_RUN || job->stage == STAGE_RETRIEVE)
		return false;
	explain_say(explain, "All its batches are %s, and it is to go no further. SELECT dess_batch_%s(" INT64_FORMAT ") lets it go on.",
				done[job->stage], next[job->stage], job->id);
	return true;
}

/* ---- what stops every job ---- */

/* Returns false where no worker can be. */
static bool
explain_server_wide(const Explain *explain)
{
	if (RecoveryInProgress())
	{
		explain_say(explain, "This server is a standby: the worker runs on the primary server, and starts here after a promotion.");
		return false;
	}
	if (!dess_enabled)
		explain_say(explain, "dess_batch.enabled is off, so no worker does anything. ALTER SYSTEM SET dess_batch.enabled = on, then SELECT pg_reload_conf().");
	return true;
}

static void
explain_worker(const Explain *explain)
{
	const char *database = get_database_name(MyDatabaseId);
	const char *start_error = spool_start_error();

	if (ledger_find_worker() != 0)
		return;
	if (start_error != NULL)
		explain_say(explain, "The worker of this database could not start: %s.", start_error);
	explain_say(explain, "No worker runs in this database. SELECT dess_batch_start() starts it; if no background worker slot is free, increase max_worker_processes (now %d) and restart the server.",
				max_worker_processes);
	if (!shmem_available())
		explain_say(explain, "dess_batch is not in shared_preload_libraries, so after a restart of the server the worker starts with the next submit or with SELECT dess_batch_start().");
	else if (database != NULL && !guc_database_listed(database))
		explain_say(explain, "dess_batch.databases does not name database \"%s\", so the launcher starts no worker here.",
					database);
}

/* ---- the account ---- */

/* The SQL that gives the job's owner a secret. */
static char *
mapping_statement(const Explain *explain)
{
	return psprintf("CREATE USER MAPPING FOR %s SERVER %s OPTIONS (%s '...')",
					quote_identifier(explain->job->owner_name),
					quote_identifier(explain->account->server),
					quote_identifier(explain->account->provider->mapping_option));
}

static void
explain_secret(const Explain *explain)
{
	const Account *account = explain->account;
	const char *const *variables = account->provider->secret_variables;
	bool		environment = variables != NULL && variables[0] != NULL;

	if (account->provider->mapping_option == NULL || account->secret != NULL)
		return;
	if (OidIsValid(account->server_oid))
		explain_say(explain, "There is no secret for server \"%s\"; looked at: %s. %s gives it one.",
					account->server, account->secret_searched, mapping_statement(explain));
	else
		explain_say(explain, "There is no secret for server \"%s\"; looked at: %s. Set %s in the environment of the server and restart it; or create a server and a user mapping, cancel this job and submit anew.",
					account->server, account->secret_searched,
					environment ? variables[0] : "it");
}

static void
explain_account(Explain *explain)
{
	const Job  *job = explain->job;
	Account    *account;
	char	   *why;

	account = account_try_load(job->server, job->provider, job->owner, &why);
	explain->account = account;
	if (account == NULL)
	{
		explain_say(explain, "Server \"%s\" cannot be used: %s", job->server_name, why);
		return;
	}
	account_wipe(account);
	explain_secret(explain);
}

/* ---- batches ---- */

/* "Batch 3 is", "5 batches, from number 3, are" */
static char *
group_subject(const BatchGroup *group)
{
	if (group->batches == 1)
		return psprintf("Batch %d is", group->first_no);
	return psprintf(INT64_FORMAT " batches, from number %d, are", group->batches, group->first_no);
}

/* When what is being done was begun; "" while something is waited for. */
static char *
group_since(const BatchGroup *group)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz since = Max(group->moved_at, group->next_poll_at);

	if (since > now)
		return "";
	return psprintf(" since %s (" INT64_FORMAT " s)", timestamptz_to_str(since), (int64) ((now - since) / USECS_PER_SEC));
}

/* What went wrong with it last, and when it is tried again; "" if nothing did. */
static char *
group_trouble(const BatchGroup *group)
{
	char	   *why = error_in_words(group->error_code, group->error);

	if (why == NULL)
		return "";
	if (group->next_poll_at > GetCurrentTimestamp())
		return psprintf("; the last trouble was %s, it is tried again at %s", why,
						timestamptz_to_str(group->next_poll_at));
	return psprintf("; the last trouble was %s, it is tried again by itself", why);
}

/* What the user can do about that. */
static void
explain_trouble(const Explain *explain, const BatchGroup *group)
{
	const char *code = group->error_code;

	if (code == NULL)
		return;
	if (strcmp(code, CODE_NOT_SENT) == 0 || strcmp(code, CODE_ADDRESS_REFUSED) == 0)
		explain_say(explain, "SELECT * FROM dess_batch_check(%s) tries the server's address; SELECT dess_batch_status(" INT64_FORMAT ") has the job look again at once.",
					quote_literal_cstr(explain->job->server_name), explain->job->id);
	else if (group->state == BATCH_UPLOADED)
		explain_say(explain, "When the provider's queue is full nothing need be done; smaller batches (option max_batch_requests of server \"%s\") fit sooner.",
					explain->job->server_name);
}

/* The SQL that changes an option of the account's server. */
static char *
option_statement(const Account *account, const char *option)
{
	return psprintf("ALTER SERVER %s OPTIONS (%s %s '...')", quote_identifier(account->server),
					account_option(account, option) != NULL ? "SET" : "ADD", option);
}

static void
explain_prepared(const Explain *explain, const BatchGroup *group)
{
	const Account *account = explain->account;

	if (explain->job->stage == STAGE_PREPARE)
		return;
	if (account != NULL && explain->facts->active_batches >= account->max_active_batches)
		explain_say(explain, "%s prepared, but there is no room: " INT64_FORMAT " batch%s at server \"%s\", whose option max_active_batches is %d; it goes on when one has ended, or with a larger one: %s.",
					group_subject(group), explain->facts->active_batches,
					explain->facts->active_batches == 1 ? " is" : "es are", account->server,
					account->max_active_batches, option_statement(account, "max_active_batches"));
	else if (account != NULL && account->max_enqueued_tokens > 0 && explain->facts->active_batches > 0)
		explain_say(explain, "%s prepared, but there is no room: option max_enqueued_tokens of server \"%s\" is " INT64_FORMAT "; it goes on when a batch has ended, or with more of them: %s.",
					group_subject(group), account->server, account->max_enqueued_tokens,
					option_statement(account, "max_enqueued_tokens"));
	else
		explain_say(explain, "%s prepared, to be uploaded%s.", group_subject(group), group_trouble(group));
}

static void
explain_running(const Explain *explain, const BatchGroup *group)
{
	StringInfoData line;

	initStringInfo(&line);
	if (explain->job->online)
	{
		explain_say(explain, "%s being answered%s, " INT64_FORMAT " rows are left%s.",
					group_subject(group), group_since(group), group->rows_left, group_trouble(group));
		return;
	}
	appendStringInfo(&line, "%s at the provider", group_subject(group));
	if (group->remote_state != NULL)
		appendStringInfo(&line, ", which says \"%s\"", group->remote_state);
	if (group->remote_finished >= 0)
		appendStringInfo(&line, ", " INT64_FORMAT " of " INT64_FORMAT " requests are finished",
						 group->remote_finished, group->requests);
	if (explain->job->control == CONTROL_HOLD)
		appendStringInfoString(&line, "; nobody looks at it here");
	else if (group->next_poll_at <= GetCurrentTimestamp())
		appendStringInfo(&line, "; it is being looked at%s", group_since(group));
	else
		appendStringInfo(&line, "; the next look is at %s, SELECT dess_batch_status(" INT64_FORMAT ") looks at once",
						 timestamptz_to_str(group->next_poll_at), explain->job->id);
	if (group->error_code != NULL || group->error != NULL)
		appendStringInfo(&line, "; the last trouble was %s",
						 error_in_words(group->error_code, group->error));
	explain_say(explain, "%s.", line.data);
}

static void
explain_retrieving(const Explain *explain, const BatchGroup *group)
{
	int			locker;

	if (explain->job->stage < STAGE_RETRIEVE)
	{
		explain_say(explain, "%s finished at the provider, to be fetched.", group_subject(group));
		return;
	}
	locker = ledger_find_locker(explain->job->source);
	explain_say(explain, "%s being fetched and merged%s, " INT64_FORMAT " rows are left%s.",
				group_subject(group), group_since(group), group->rows_left, group_trouble(group));
	if (locker != 0)
		explain_say(explain, "Rows that another transaction has locked wait for its end; process %d has a lock on %s, see pg_stat_activity. SELECT pg_terminate_backend(%d) ends it.",
					locker, explain->job->source_name, locker);
}

/* What the account sees no more: only the user can tell whose it is. */
static void
explain_other_account(const Explain *explain, const BatchGroup *group)
{
	if (group->error_code == NULL || strcmp(group->error_code, CODE_OTHER_ACCOUNT) != 0)
		return;
	explain_say(explain, "Its rows are not bought again while it may exist: give server \"%s\" a secret and options of the project that it was created in (ALTER USER MAPPING, ALTER SERVER), and it is fetched by itself; SELECT dess_batch_cancel(" INT64_FORMAT ") gives it up.",
				explain->job->server_name, explain->job->id);
}

static void
explain_group(const Explain *explain, const BatchGroup *group)
{
	switch (group->state)
	{
		case BATCH_PREPARING:
			explain_say(explain, "%s being prepared.", group_subject(group));
			break;
		case BATCH_PREPARED:
			explain_prepared(explain, group);
			break;
		case BATCH_UPLOADING:
			explain_say(explain, "%s being uploaded%s%s.", group_subject(group), group_since(group), group_trouble(group));
			break;
		case BATCH_UPLOADED:
			if (explain->job->stage > STAGE_UPLOAD)
				explain_say(explain, "%s uploaded, to be created%s.",
							group_subject(group), group_trouble(group));
			break;
		case BATCH_CREATING:
			explain_say(explain, "%s being created%s%s.", group_subject(group), group_since(group), group_trouble(group));
			if (group->error_code != NULL && strcmp(group->error_code, CODE_UNCERTAIN) == 0)
				explain_say(explain, "Whether the provider has it cannot be found out, and a second one would be paid: look for \"dess_batch job " INT64_FORMAT "\" in the provider's console; SELECT dess_batch_cancel(" INT64_FORMAT ") gives it up.",
							explain->job->id, explain->job->id);
			explain_other_account(explain, group);
			break;
		case BATCH_RUNNING:
			explain_running(explain, group);
			explain_other_account(explain, group);
			break;
		case BATCH_RETRIEVING:
			explain_retrieving(explain, group);
			explain_other_account(explain, group);
			break;
		case BATCH_DONE:
		case BATCH_CANCELLED:
		case BATCH_FAILED:
			break;
	}
	explain_trouble(explain, group);
}

/* Request files of all jobs of this database may fill the spool. */
static void
explain_spool(const Explain *explain)
{
	int64		limit = (int64) dess_spool_limit * 1024 * 1024;

	if (explain->facts->all_prepared || explain->facts->spool_bytes < limit)
		return;
	explain_say(explain, "The spool is full: request files of " INT64_FORMAT " MB, of dess_batch.spool_limit (%d MB). The next rows are prepared when a batch has ended, or with more room: ALTER SYSTEM SET dess_batch.spool_limit = '...', then SELECT pg_reload_conf().",
				explain->facts->spool_bytes / (1024 * 1024), dess_spool_limit);
}

/* Is it the provider's turn to answer? */
static bool
group_asks(const BatchGroup *group)
{
	return (group->state == BATCH_UPLOADING || group->state == BATCH_CREATING ||
			group->state == BATCH_RUNNING || group->state == BATCH_RETRIEVING) &&
		group->next_poll_at <= GetCurrentTimestamp();
}

static void
explain_batches(const Explain *explain)
{
	const Account *account = explain->account;
	bool		asks = false;
	ListCell   *lc;

	foreach(lc, ledger_load_groups(explain->job->id, MAX_GROUPS))
	{
		explain_group(explain, lfirst(lc));
		asks = asks || group_asks(lfirst(lc));
	}
	if (asks && account != NULL)
		explain_say(explain, "A request that makes no progress for %d s is given up and made again later: option request_timeout of server \"%s\".",
					account->request_timeout, account->server);
	if (explain->facts->waiting_rows > 0)
		explain_say(explain, INT64_FORMAT " row%s sent in a later batch.",
					explain->facts->waiting_rows, explain->facts->waiting_rows == 1 ? " waits to be" : "s wait to be");
}

Datum
dess_batch_explain(PG_FUNCTION_ARGS)
{
	Explain		explain;
	bool		working;

	memset(&explain, 0, sizeof(explain));
	explain.job = ledger_look_at_job(PG_GETARG_INT64(0));
	explain.facts = ledger_load_facts(explain.job->id);
	if (explain.facts == NULL)
		elog(ERROR, "job " INT64_FORMAT " vanished", explain.job->id);
	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	explain.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	if (explain.job->state != JOB_QUEUED && explain.job->state != JOB_ACTIVE)
	{
		explain_end(&explain);
		return (Datum) 0;
	}
	explain_standing(&explain);
	explain_control(&explain);
	working = !explain_stage(&explain) && explain.job->control != CONTROL_HOLD;
	if (working && explain_server_wide(&explain) && explain.job->control != CONTROL_PAUSE)
		explain_worker(&explain);
	if (working)
		explain_account(&explain);
	explain_budget(&explain);
	explain_spool(&explain);
	explain_batches(&explain);
	return (Datum) 0;
}
