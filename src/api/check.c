/*-------------------------------------------------------------------------
 *
 * check.c
 *		dess_batch_check: tries an account step by step.
 *
 * The one function that talks to a provider in the caller's own process.  What
 * is wrong with the account becomes a row, and ends the list.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "foreign/foreign.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "account/account.h"
#include "account/step_run.h"
#include "api/account.h"
#include "runtime/spool.h"
#include "runtime/wait_event.h"
#include "text/encoding.h"

PG_FUNCTION_INFO_V1(dess_batch_check);

/* No provider needs more requests than this to tell whether an account is good. */
#define MAX_STEPS		20
#define MAX_PAUSE_MS	5000

typedef struct Check
{
	ReturnSetInfo *rsinfo;
	bool		reached;		/* the provider has answered, whatever it said */
} Check;

static void
check_report(Check *check, const char *step, bool ok, const char *detail)
{
	Datum		values[3];
	bool		nulls[3] = {false, false, false};

	values[0] = CStringGetTextDatum(step);
	values[1] = BoolGetDatum(ok);
	values[2] = CStringGetTextDatum(detail);
	tuplestore_putvalues(check->rsinfo->setResult, check->rsinfo->setDesc, values, nulls);
}

/* ---- without the network ---- */

/* The provider whose built-in server has this name, or NULL. */
static const BatchProvider *
built_in_provider(const char *server)
{
	ListCell   *lc;

	foreach(lc, provider_list())
	{
		const BatchProvider *provider = lfirst(lc);

		if (provider->built_in &&
			strcmp(server, psprintf("(built-in %s)", provider->name)) == 0)
			return provider;
	}
	return NULL;
}

/* Reports what there is about the server itself.  NULL: nothing more can be tried. */
static Account *
check_server(Check *check, const char *server)
{
	const BatchProvider *provider = built_in_provider(server);
	Oid			oid = provider == NULL ? get_foreign_server_oid(server, true) : InvalidOid;
	Account    *account;
	char	   *why;

	if (provider == NULL && !OidIsValid(oid))
	{
		check_report(check, "server", false, psprintf("server \"%s\" does not exist", server));
		return NULL;
	}
	account = account_try_load(oid, provider != NULL ? provider->name : NULL, GetUserId(), &why);
	if (account == NULL)
		check_report(check, "server", false, why);
	else
		check_report(check, "server", true, psprintf("provider \"%s\"", account->provider->name));
	return account;
}

/* How the server gets a secret, or another one than it has; "" where that is no SQL. */
static const char *
mapping_hint(const Account *account)
{
	const char *user = "user mapping of ";
	const char *option = account->provider->mapping_option;

	if (!OidIsValid(account->server_oid) || option == NULL)
		return "";
	if (account->secret == NULL)
		return psprintf("; CREATE USER MAPPING FOR PUBLIC SERVER %s OPTIONS (%s '...') gives it one to all who may use it",
						quote_identifier(account->server), option);
	if (account->secret_source == NULL || strncmp(account->secret_source, user, strlen(user)) != 0)
		return "";
	return psprintf("; ALTER USER MAPPING FOR %s SERVER %s OPTIONS (SET %s '...') changes the secret",
					account->secret_source + strlen(user), quote_identifier(account->server), option);
}

static bool
check_secret(Check *check, const Account *account)
{
	if (account->provider->mapping_option == NULL)
		check_report(check, "secret", true, "none is needed");
	else if (account->secret != NULL)
		check_report(check, "secret", true, psprintf("found in %s", account->secret_source));
	else
	{
		check_report(check, "secret", false,
					 account->secret_searched[0] != '\0' ?
					 psprintf("not found; looked at: %s%s", account->secret_searched, mapping_hint(account)) : "not found");
		return false;
	}
	return true;
}

static bool
check_address(Check *check, const Account *account)
{
	char	   *why;

	if (account->base_url == NULL)
		return true;
	why = http_check_url(account->base_url, account->trusted);
	check_report(check, "address", why == NULL,
				 why == NULL ? account->base_url :
				 psprintf("%s: %s", account->base_url, encoding_to_server_lossy(why)));
	return why == NULL;
}

/* ---- with it ---- */

static void
check_pause(int64 ms)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
					 Min(ms, MAX_PAUSE_MS), wait_event_info(WAIT_TIME));
	ResetLatch(MyLatch);
	CHECK_FOR_INTERRUPTS();
}

static bool check_authorize(Check *check, Account *account, StepResult *result);

/* Goes through the step that run has begun; false when it does not end well, result says why. */
static bool
check_step(Check *check, Account *account, StepRun *run, StepResult *result)
{
	HttpReply  *reply = NULL;

	for (int i = 0; i < MAX_STEPS; i++)
	{
		StepKind	kind = step_run_advance(run, account, reply, NULL, result);

		reply = NULL;
		switch (kind)
		{
			case STEP_REQUEST:
				reply = http_await(run->transfer);
				check->reached = check->reached || reply->failure == HTTP_OK;
				break;
			case STEP_WAIT:
				check_pause(result->wait_ms);
				break;
			case STEP_AUTHORIZE:
				if (!check_authorize(check, account, result))
					return false;
				break;
			case STEP_CHECKSUM:
				step_fail(result, ERROR_PERMANENT, NULL, "there is no file to be checked");
				return false;
			case STEP_DONE:
				return true;
			case STEP_FAILED:
				return false;
		}
	}
	step_fail(result, ERROR_TEMPORARY, NULL, "the provider does not come to an end");
	return false;
}

/* Begins a step that belongs to no batch. */
static StepRun *
check_begin(StageStep step)
{
	StepRun    *run = palloc_object(StepRun);
	BatchStage *stage;

	step_run_init(run, CurrentMemoryContext);
	stage = step_run_begin(run, step);
	stage->remote = palloc0_object(BatchRemote);
	stage->created_at = GetCurrentTimestamp();
	return run;
}

/* Exchanges the secret for an access token, once. */
static bool
check_authorize(Check *check, Account *account, StepResult *result)
{
	StepRun    *run;

	if (account->access_token != NULL || account->provider->authorize == NULL)
	{
		step_fail(result, ERROR_AUTH, NULL, "the provider refuses the access token");
		return false;
	}
	run = check_begin(account->provider->authorize);
	if (!check_step(check, account, run, result))
		return false;
	account->access_token = run->stage.access_token;
	return true;
}

static char *
error_in_words(const StepError *error)
{
	const char *message = error->message != NULL ? error->message : "unknown error";

	return encoding_to_server_lossy(error->code != NULL && error->code[0] != '\0' ?
									psprintf("%s: %s", error->code, message) : message);
}

/* Reports a failure of what was tried as step, or that nobody could be reached. */
static void
check_report_failure(Check *check, const Account *account, const char *step, const StepError *error)
{
	check_report(check, "connection", check->reached,
				 check->reached ? "the provider answers" : error_in_words(error));
	if (check->reached)
		check_report(check, error->class == ERROR_AUTH ? "credentials" : step, false,
					 error->class == ERROR_AUTH ?
					 psprintf("%s%s", error_in_words(error), mapping_hint(account)) : error_in_words(error));
}

static void
check_network(Check *check, Account *account)
{
	StepRun    *run;
	StepResult	result;

	memset(&result, 0, sizeof(result));
	http_init();
	if (account->provider->authorize != NULL && !check_authorize(check, account, &result))
	{
		check_report_failure(check, account, "token", &result.error);
		return;
	}
	run = check_begin(account->provider->check_account);
	if (!check_step(check, account, run, &result))
	{
		check_report_failure(check, account, "model list", &result.error);
		return;
	}
	check_report(check, "connection", true, "the provider answers");
	if (account->provider->authorize != NULL)
		check_report(check, "token", true, "obtained");
	check_report(check, "credentials", true, "the provider accepts them");
	check_report(check, "model list", true,
				 run->stage.scratch != NULL ? encoding_to_server_lossy(run->stage.scratch) : "readable");
}

Datum
dess_batch_check(PG_FUNCTION_ARGS)
{
	const char *server = NameStr(*PG_GETARG_NAME(0));
	Check		check;
	Account    *account;
	char	   *start_error;

	InitMaterializedSRF(fcinfo, 0);
	memset(&check, 0, sizeof(check));
	check.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

	start_error = spool_start_error();
	if (start_error != NULL)
		check_report(&check, "worker", false, psprintf("it could not start: %s", start_error));
	account = check_server(&check, server);
	if (account == NULL)
		return (Datum) 0;
	if (check_secret(&check, account) & check_address(&check, account))
		check_network(&check, account);
	account_wipe(account);
	return (Datum) 0;
}
