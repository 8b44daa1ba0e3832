/*-------------------------------------------------------------------------
 *
 * submit_resolve.c
 *		The arguments of dess_batch_submit, checked and resolved into a job.
 *
 * Everything that can be checked without the network is checked here, in the
 * caller's transaction and with the caller's rights; the worker later acts on
 * what is written down, and checks rights anew.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"
#include "utils/rel.h"

#include "account/account.h"
#include "api/submit.h"
#include "ledger/ledger.h"
#include "provider/parameters.h"
#include "runtime/usercxt.h"
#include "runtime/wake.h"
#include "table/table.h"
#include "text/json.h"
#include "text/sample.h"
#include "text/template.h"

/* from which on a table's fillfactor is looked at */
#define MANY_ROWS		100000

/* of a label or a model: both are in every view, and in the key of dess_batch.usage */
#define MAX_NAME_BYTES	1000

/* Arguments in the order of the SQL declaration. */
typedef enum SubmitArg
{
	ARG_SOURCE,
	ARG_MODEL,
	ARG_PROMPT,
	ARG_TARGET,
	ARG_KEY,
	ARG_WHERE_SQL,
	ARG_OVERWRITE,
	ARG_MODE,
	ARG_SERVER,
	ARG_SYSTEM_PROMPT,
	ARG_RESPONSE_SCHEMA,
	ARG_TARGET_COLUMNS,
	ARG_INPUT_COLUMNS,
	ARG_MISSING,
	ARG_PARAMETERS,
	ARG_MAX_ROWS,
	ARG_SAMPLE,
	ARG_OUTCOMES,
	ARG_MAX_COST,
	ARG_MAX_FAILED,
	ARG_KEEP,
	ARG_LABEL
} SubmitArg;

/* ---- reading arguments ---- */

static char *
arg_text(FunctionCallInfo fcinfo, SubmitArg arg)
{
	return PG_ARGISNULL(arg) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(arg));
}

static char *
arg_name(FunctionCallInfo fcinfo, SubmitArg arg)
{
	return PG_ARGISNULL(arg) ? NULL : pstrdup(NameStr(*PG_GETARG_NAME(arg)));
}

static char *
arg_jsonb(FunctionCallInfo fcinfo, SubmitArg arg)
{
	Jsonb	   *value;

	if (PG_ARGISNULL(arg))
		return NULL;
	value = PG_GETARG_JSONB_P(arg);
	return JsonbToCString(NULL, &value->root, VARSIZE(value));
}

static bool
arg_bool(FunctionCallInfo fcinfo, SubmitArg arg, bool otherwise)
{
	return PG_ARGISNULL(arg) ? otherwise : PG_GETARG_BOOL(arg);
}

/* Elements of a name[] or text[] as strings.  Raises 22004 for a null among them. */
static List *
arg_list(FunctionCallInfo fcinfo, SubmitArg arg, Oid type, const char *argument)
{
	List	   *result = NIL;
	Datum	   *values;
	bool	   *nulls;
	int			n;

	if (PG_ARGISNULL(arg))
		return NIL;
	if (type == NAMEOID)
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), NAMEOID, NAMEDATALEN, false,
						  TYPALIGN_CHAR, &values, &nulls, &n);
	else
		deconstruct_array(PG_GETARG_ARRAYTYPE_P(arg), TEXTOID, -1, false,
						  TYPALIGN_INT, &values, &nulls, &n);
	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" must not be an empty array", argument)));
	for (int i = 0; i < n; i++)
	{
		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("argument \"%s\" must not contain nulls", argument)));
		result = lappend(result, type == NAMEOID ? pstrdup(NameStr(*DatumGetName(values[i]))) :
						 TextDatumGetCString(values[i]));
	}
	return result;
}

static void
refuse_null(FunctionCallInfo fcinfo, SubmitArg arg, const char *argument)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("argument \"%s\" must not be null", argument)));
}

static void
refuse_long(const char *value, const char *argument)
{
	if (value != NULL && strlen(value) > MAX_NAME_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"%s\" is too long", argument),
				 errdetail("It has %zu bytes, and may have %d.", strlen(value), MAX_NAME_BYTES)));
}

static void
resolve_prompt(Job *job, char *prompt, char *system_prompt)
{
	if (prompt != NULL)
	{
		job->prompt = prompt;
		job->system_prompt = system_prompt;
		return;
	}
	job->department = true;
	job->prompt = pstrdup(template_department_user);
	job->system_prompt = system_prompt == NULL ? pstrdup(template_department_system) :
		psprintf("%s\n\n%s", template_department_system, system_prompt);
}

/* ---- the other arguments ---- */

static void
resolve_mode(Job *job, const char *mode)
{
	if (strcmp(mode, "batch") != 0 && strcmp(mode, "online") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"mode\": \"%s\"", mode),
				 errhint("Valid modes are: batch, online.")));
	job->online = strcmp(mode, "online") == 0;
}

/* Some providers have but one mode; of a server nobody knows before it is asked. */
static void
check_mode(const Job *job, const BatchProvider *provider)
{
	if (job->online ? provider->infer == NULL : !provider_has_batches(provider))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("provider \"%s\" of server \"%s\" has no mode \"%s\"",
						provider->name, job->server_name, job->online ? "online" : "batch"),
				 errhint("Use mode => '%s'.", job->online ? "batch" : "online")));
}

static void
resolve_keep(Job *job, const char *keep)
{
	if (!keep_from_name(keep, &job->keep))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid value for argument \"keep\": \"%s\"", keep),
				 errhint("Valid values are: none, unwritten, answer, reply.")));
}

static void
resolve_outcomes(Job *job)
{
	ListCell   *lc;

	foreach(lc, job->outcomes)
	{
		Outcome		outcome;

		if (strcmp(lfirst(lc), "changed") != 0 && strcmp(lfirst(lc), "new") != 0 &&
			(!outcome_from_name(lfirst(lc), &outcome) || outcome >= OUTCOME_SUPERSEDED))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid outcome \"%s\" in argument \"outcomes\"", (char *) lfirst(lc)),
					 errhint("Valid values are: ok, missing, empty, stale, gone, refused, truncated, invalid, rejected, expired, cancelled, lost, changed, new.")));
	}
	if (job->outcomes != NIL && job->sample)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("arguments \"outcomes\" and \"sample\" cannot be used together")));
}

static void
resolve_numbers(FunctionCallInfo fcinfo, Job *job)
{
	if (!PG_ARGISNULL(ARG_MAX_ROWS))
	{
		job->max_rows = PG_GETARG_INT64(ARG_MAX_ROWS);
		if (job->max_rows <= 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("argument \"max_rows\" must be positive")));
	}
	job->sample = arg_bool(fcinfo, ARG_SAMPLE, false);
	if (job->sample && job->max_rows == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"sample\" needs \"max_rows\"")));
	if (job->sample && job->max_rows > SAMPLE_MAX_ROWS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a sample has at most %d rows", SAMPLE_MAX_ROWS)));

	job->max_failed = 0.5;
	if (!PG_ARGISNULL(ARG_MAX_FAILED))
		job->max_failed = DatumGetFloat8(DirectFunctionCall1(numeric_float8, PG_GETARG_DATUM(ARG_MAX_FAILED)));
	if (!(job->max_failed >= 0 && job->max_failed <= 1))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"max_failed\" must be between 0 and 1")));

	if (!PG_ARGISNULL(ARG_MAX_COST))
		job->max_cost = submit_budget(PG_GETARG_NUMERIC(ARG_MAX_COST));
}

/* A budget in dollars, as text.  Raises 22023 for what is not greater than zero, or not finite. */
char *
submit_budget(Numeric budget)
{
	Numeric		zero = int64_to_numeric(0);

	if (numeric_is_nan(budget) || numeric_is_inf(budget) ||
		!DatumGetBool(DirectFunctionCall2(numeric_gt, NumericGetDatum(budget), NumericGetDatum(zero))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("argument \"max_cost\" must be an amount of US dollars greater than zero")));
	return numeric_normalize(budget);
}

/* A budget that cannot be watched is refused, not ignored. */
void
submit_check_price(const Job *job, const Account *account)
{
	bool		by_server = account->max_cost_per_day >= 0 || account->max_cost_per_month >= 0;

	if ((job->max_cost == NULL && !by_server) || ledger_find_price(job) != NULL)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("no price is known for model \"%s\"", job->model),
			 by_server ?
			 errdetail("A budget needs a price, and server \"%s\" has one.", account->server) :
			 errdetail("A budget needs a price."),
			 errhint("INSERT INTO dess_batch.price (model, input, cached, output, source) VALUES (%s, ..., ..., ..., '...'), in US dollars for a million tokens; or do without the budget.",
					 quote_literal_cstr(job->model))));
}

/* ---- the table as the worker will open it ---- */

/* Where a page is full, an UPDATE moves the row, and every index has to learn where to. */
static void
advise_fillfactor(const Job *job)
{
	Relation	rel;
	char	   *name;

	if (job->target == NULL)
		return;
	rel = relation_open(job->source, AccessShareLock);
	if (rel->rd_rel->relkind == RELKIND_RELATION && rel->rd_rel->reltuples >= MANY_ROWS &&
		RelationGetFillFactor(rel, HEAP_DEFAULT_FILLFACTOR) >= 100)
	{
		name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
										  RelationGetRelationName(rel));
		ereport(NOTICE,
				(errmsg("table \"%s\" has fillfactor 100: answers take less time and disk where its pages have room for them",
						RelationGetRelationName(rel)),
				 errhint("For pages that are filled from now on: ALTER TABLE %s SET (fillfactor = 80); VACUUM FULL or CLUSTER fills all anew.",
						 name)));
	}
	relation_close(rel, AccessShareLock);
}

static void
check_table(Job *job, bool quiet)
{
	UserContext user;
	SourceTable *table;

	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	table = source_open(job);
	source_check_rights(table);
	usercxt_leave(&user);

	ledger_check_key(job, 0);
	if (source_columns_read(table) == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the prompt shows no column of relation \"%s\"", get_rel_name(job->source)),
				 errhint("Write {column} for one of its columns, or {row} for all but the key and the targets.")));
	if (quiet)
		return;
	ereport(NOTICE,
			(errmsg("columns sent to server \"%s\": %s",
					job->server_name, submit_column_list(source_columns_read(table)))));
	advise_fillfactor(job);
}

/* A job without a secret is accepted, because the secret may come later; but it is said. */
static void
warn_without_secret(const Account *route, Oid owner)
{
	Account    *account = account_load(route->server_oid, route->provider->name, owner);

	if (account->secret == NULL)
		ereport(WARNING,
				(errmsg("server \"%s\" has no secret yet, the job will wait for it", account->server),
				 errdetail("Looked at: %s.", account->secret_searched),
				 OidIsValid(account->server_oid) ?
				 errhint("Run: CREATE USER MAPPING FOR CURRENT_USER SERVER %s OPTIONS (%s '...');",
						 quote_identifier(account->server), account->provider->mapping_option) :
				 errhint("Set it in the environment of the database server, or create a server and name it.")));
	account_wipe(account);
}

/* A provider's complaint as a detail. */
static char *
as_sentence(const char *complaint)
{
	char	   *sentence = psprintf("%s.", complaint);

	sentence[0] = pg_toupper((unsigned char) sentence[0]);
	return sentence;
}

Job *
submit_resolve(FunctionCallInfo fcinfo, bool quiet)
{
	Job		   *job = palloc0_object(Job);
	Relation	rel;
	Account    *account;
	BatchOptions *options;
	char	   *why;
	char	   *keep = arg_text(fcinfo, ARG_KEEP);
	List	   *key;

	refuse_null(fcinfo, ARG_SOURCE, "source");
	refuse_null(fcinfo, ARG_MODEL, "model");
	refuse_null(fcinfo, ARG_MODE, "mode");
	refuse_null(fcinfo, ARG_KEEP, "keep");
	job->owner = GetUserId();
	job->owner_name = GetUserNameFromId(job->owner, false);
	job->submitted_by = wake_in_worker() ? job->owner_name : GetUserNameFromId(GetSessionUserId(), false);
	job->source = PG_GETARG_OID(ARG_SOURCE);
	job->model = arg_text(fcinfo, ARG_MODEL);
	job->label = arg_text(fcinfo, ARG_LABEL);
	refuse_long(job->model, "model");
	refuse_long(job->label, "label");
	job->overwrite = arg_bool(fcinfo, ARG_OVERWRITE, false);
	job->response_schema = arg_jsonb(fcinfo, ARG_RESPONSE_SCHEMA);
	job->target_columns = arg_jsonb(fcinfo, ARG_TARGET_COLUMNS);
	job->missing = arg_text(fcinfo, ARG_MISSING);
	job->parameters = PG_ARGISNULL(ARG_PARAMETERS) ? pstrdup("{}") : arg_jsonb(fcinfo, ARG_PARAMETERS);
	job->outcomes = arg_list(fcinfo, ARG_OUTCOMES, TEXTOID, "outcomes");
	job->counted = -1;
	job->stage = STAGE_RETRIEVE;

	rel = submit_open_source(job->source);
	job->source_name = quote_qualified_identifier(get_namespace_name(RelationGetNamespace(rel)),
												  RelationGetRelationName(rel));
	resolve_mode(job, arg_text(fcinfo, ARG_MODE));
	resolve_keep(job, keep);

	account = account_route(job->model, arg_name(fcinfo, ARG_SERVER), job->owner);
	job->server = account->server_oid;
	job->server_name = account->server;
	job->provider = pstrdup(account->provider->name);
	check_mode(job, account->provider);

	resolve_numbers(fcinfo, job);
	resolve_outcomes(job);
	key = arg_list(fcinfo, ARG_KEY, NAMEOID, "key");
	submit_check_columns(rel, key, "key");
	job->key_columns = source_resolve_key(job->source, key, &job->key_kinds);
	submit_resolve_target(rel, job, arg_name(fcinfo, ARG_TARGET));
	submit_resolve_missing(rel, job);
	submit_check_properties(job, arg_text(fcinfo, ARG_PROMPT), arg_text(fcinfo, ARG_SYSTEM_PROMPT));
	resolve_prompt(job, arg_text(fcinfo, ARG_PROMPT), arg_text(fcinfo, ARG_SYSTEM_PROMPT));
	submit_resolve_input(rel, job, arg_list(fcinfo, ARG_INPUT_COLUMNS, NAMEOID, "input_columns"));
	if (!PG_ARGISNULL(ARG_WHERE_SQL))
		job->where_sql = source_resolve_where(job->source, arg_text(fcinfo, ARG_WHERE_SQL));
	relation_close(rel, NoLock);

	options = parameters_to_options(account, job->model, job->system_prompt, job->response_schema,
										job->department, job->parameters);
	why = account->provider->check_options(options);
	if (why != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("model \"%s\" on server \"%s\" cannot be asked that way", job->model, job->server_name),
				 errdetail_internal("%s", as_sentence(why))));
	check_table(job, quiet);
	if (!quiet)
	{
		submit_check_price(job, account);
		warn_without_secret(account, job->owner);
	}
	job->args = submit_args_json(job, keep);
	return job;
}
