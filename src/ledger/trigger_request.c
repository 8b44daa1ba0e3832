/*-------------------------------------------------------------------------
 *
 * trigger_request.c
 *		The ledger: what triggers ask for, and the jobs made of it.
 *
 * A transaction that changes a table inserts a request; all requests of a trigger
 * become one job when the table has been quiet for a second, or ten seconds
 * after the first.  Submit sees the rows of every transaction whose request is
 * deleted with it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "ledger/internal.h"

#define QUIET		"interval '1 second'"
#define PATIENCE	"interval '10 seconds'"
#define REQUEST_IS_RIPE	"least(max(r.at) + " QUIET ", min(r.at) + " PATIENCE ")"

/* What an option of a trigger begins with that is no argument of dess_batch_submit, and one that is completed. */
#define OLD_ROWS	"old_rows="
#define WHERE_SQL	"where_sql="

/* The arguments of dess_batch_submit that a trigger may give. */
static const char *const option_names[] = {
	"prompt", "target", "key", "where_sql", "overwrite", "mode", "server", "system_prompt",
	"response_schema", "target_columns", "input_columns", "missing", "parameters", "max_rows",
	"sample", "outcomes", "max_cost", "max_failed", "keep", "label"
};

void
ledger_add_request(Oid source, const char *trigger, List *arguments, bool updates)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.request (source, trigger_name, arguments, updates) VALUES ($1, $2, $3, $4)"
	};

	ledger_execute(&statement, arg_oid(source), arg_text(trigger), arg_list(arguments), arg_bool(updates));
}

/*
 * Remembers who makes the triggers that the current DDL command has made, for
 * an event trigger.  What a dump has brought is remembered as it was there.
 */
void
ledger_note_trigger_makers(void)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.trigger_maker AS m (source_name, name, trigger, maker_name, home) "
		"SELECT n.nspname || '.' || c.relname, t.tgname, t.oid, $1, $2 "
		"FROM pg_catalog.pg_event_trigger_ddl_commands() d "
		"JOIN pg_catalog.pg_trigger t ON t.oid = d.objid "
		"JOIN pg_catalog.pg_class c ON c.oid = t.tgrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
		"JOIN pg_catalog.pg_depend p ON p.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND p.objid = t.tgfoid "
		"AND p.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND p.deptype = 'e' "
		"JOIN pg_catalog.pg_extension e ON e.oid = p.refobjid AND e.extname = 'dess_batch' "
		"WHERE d.classid = 'pg_catalog.pg_trigger'::pg_catalog.regclass "
		"ON CONFLICT (source_name, name) DO UPDATE SET trigger = EXCLUDED.trigger, home = EXCLUDED.home, "
		"maker_name = CASE WHEN m.home = EXCLUDED.home THEN EXCLUDED.maker_name ELSE m.maker_name END"
	};
	const char *maker = GetUserNameFromId(GetUserId(), false);

	ledger_execute(&statement, arg_text(maker), arg_home());
}

TimestampTz
ledger_requests_due(void)
{
	static Statement statement = {
		.sql = "SELECT min(x.at) FROM (SELECT " REQUEST_IS_RIPE " AS at "
		"FROM dess_batch.request r GROUP BY r.source, r.trigger_name, r.arguments) x"
	};
	Ledger		ledger;
	TimestampTz due;

	ledger_open(&ledger);
	ledger_run_plain(&statement);
	due = ledger_get_time(0, 1);
	ledger_close(&ledger);
	return due != 0 ? due : DT_NOEND;
}

bool
ledger_find_request(TriggerRequest *request)
{
	static Statement statement = {
		.sql = "SELECT r.source, r.trigger_name, r.arguments, bool_or(r.updates), min(r.xid) "
		"FROM dess_batch.request r GROUP BY r.source, r.trigger_name, r.arguments "
		"HAVING " REQUEST_IS_RIPE " <= $1 ORDER BY min(r.at) LIMIT 1"
	};
	Ledger		ledger;
	bool		found;

	ledger_open(&ledger);
	found = ledger_run(&statement, arg_time(GetCurrentTimestamp())) > 0;
	if (found)
	{
		request->source = ledger_get_oid(0, 1);
		request->trigger = ledger_get_text(&ledger, 0, 2);
		request->arguments = ledger_get_list(&ledger, 0, 3);
		request->updates = ledger_get_bool(0, 4);
		request->first_xid = ledger_get_int64(0, 5, 0);
	}
	ledger_close(&ledger);
	return found;
}

/* Also deletes requests that came after this one was found. */
void
ledger_drop_request(TriggerRequest *request)
{
	static Statement statement = {
		.sql = "WITH gone AS (DELETE FROM dess_batch.request "
		"WHERE source = $1 AND trigger_name = $2 AND arguments = $3 RETURNING updates) "
		"SELECT coalesce(bool_or(g.updates), false) FROM gone g"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	ledger_run(&statement, arg_oid(request->source), arg_text(request->trigger),
			   arg_list(request->arguments));
	request->updates = ledger_get_bool(0, 1);
	ledger_close(&ledger);
}

void
ledger_put_off_request(const TriggerRequest *request, TimestampTz until)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.request SET at = $4 - " QUIET " "
		"WHERE source = $1 AND trigger_name = $2 AND arguments = $3"
	};

	ledger_execute(&statement, arg_oid(request->source), arg_text(request->trigger),
				   arg_list(request->arguments), arg_time(until));
}

/* ---- a job ---- */

/*
 * Whoever made a trigger says what the job of the table's owner does: which
 * functions where_sql calls, and where the texts go.  So that must be somebody
 * who has the owner's rights anyway, and it does not help to have lost the right
 * to create triggers since.
 */
static void
require_own_trigger(const TriggerRequest *request, Oid owner)
{
	static Statement statement = {
		.sql = "SELECT r.oid, m.maker_name FROM dess_batch.trigger_maker m "
		"JOIN pg_catalog.pg_trigger t ON t.oid = m.trigger "
		"LEFT JOIN pg_catalog.pg_roles r ON r.rolname = m.maker_name "
		"WHERE t.tgrelid = $1 AND t.tgname = $2"
	};
	Ledger		ledger;
	Oid			maker = InvalidOid;
	char	   *maker_name = NULL;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_oid(request->source), arg_text(request->trigger)) > 0)
	{
		maker = ledger_is_null(0, 1) ? InvalidOid : ledger_get_oid(0, 1);
		maker_name = ledger_get_text(&ledger, 0, 2);
	}
	ledger_close(&ledger);
	if (OidIsValid(maker) && has_privs_of_role(maker, owner))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("trigger \"%s\" was not made by the owner of the table or a superuser", request->trigger),
			 maker_name != NULL ?
			 errdetail("Role \"%s\" made it, and what it asks for would be done as the owner of the table.", maker_name) :
			 errdetail("It is not known who made it, and what it asks for would be done as the owner of the table."),
			 errhint("Drop it, and create it anew as the owner if it is wanted: DROP TRIGGER %s ON %s;",
					 quote_identifier(request->trigger),
					 quote_qualified_identifier(get_namespace_name(get_rel_namespace(request->source)),
												get_rel_name(request->source)))));
}

/* The table's owner, or InvalidOid for a table that is gone. */
static Oid
table_owner(Oid source)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(source));
	Oid			owner = InvalidOid;

	if (HeapTupleIsValid(tuple))
	{
		owner = ((Form_pg_class) GETSTRUCT(tuple))->relowner;
		ReleaseSysCache(tuple);
	}
	return owner;
}

/*
 * The extension's own function.  It is called by its OID: by name it could be
 * another one that somebody has put beside it, or be ambiguous.
 */
static Oid
submit_function(void)
{
	static Statement statement = {
		.sql = "SELECT p.oid FROM pg_catalog.pg_proc p "
		"JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid "
		"AND d.refclassid = 'pg_catalog.pg_extension'::pg_catalog.regclass AND d.deptype = 'e' "
		"JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid "
		"WHERE p.proname = 'dess_batch_submit' AND e.extname = 'dess_batch'"
	};
	Ledger		ledger;
	Oid			function;

	ledger_open(&ledger);
	if (ledger_run_plain(&statement) != 1)
		elog(ERROR, "could not find function \"dess_batch_submit\" of the extension");
	function = ledger_get_oid(0, 1);
	ledger_close(&ledger);
	return function;
}

/* A call of it that is being built. */
typedef struct SubmitCall
{
	Oid			function;
	Oid		   *types;			/* of its arguments */
	char	  **names;
	int			nargs;
	List	   *args;			/* of NamedArgExpr */
} SubmitCall;

static void
open_call(SubmitCall *call)
{
	HeapTuple	tuple;
	char	   *modes;

	call->function = submit_function();
	call->args = NIL;
	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(call->function));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for function %u", call->function);
	call->nargs = get_func_arg_info(tuple, &call->types, &call->names, &modes);
	ReleaseSysCache(tuple);
}

/* Adds an argument, read by the input function of its type; NULL is null. */
static void
add_argument(SubmitCall *call, const char *name, const char *text)
{
	int			number = name_position((const char *const *) call->names, call->nargs, name);
	NamedArgExpr *named = makeNode(NamedArgExpr);
	Oid			type;
	Oid			input;
	Oid			param;
	int16		length;
	bool		byval;
	Datum		value = (Datum) 0;

	if (number < 0)
		elog(ERROR, "function %u has no argument \"%s\"", call->function, name);
	type = call->types[number];
	getTypeInputInfo(type, &input, &param);
	get_typlenbyval(type, &length, &byval);
	if (text != NULL)
		value = OidInputFunctionCall(input, pstrdup(text), param, -1);
	named->arg = (Expr *) makeConst(type, -1, get_typcollation(type), length, value, text == NULL, byval);
	named->name = pstrdup(name);
	named->argnumber = number;
	named->location = -1;
	call->args = lappend(call->args, named);
}

static bool
has_argument(const SubmitCall *call, const char *name)
{
	ListCell   *lc;

	foreach(lc, call->args)
	{
		if (strcmp(((NamedArgExpr *) lfirst(lc))->name, name) == 0)
			return true;
	}
	return false;
}

/* Adds an argument "name=value" of the trigger; nothing behind "=" is null. */
static void
add_option(SubmitCall *call, const TriggerRequest *request, const char *option)
{
	const char *equals = strchr(option, '=');
	char	   *name = equals != NULL ? pnstrdup(option, equals - option) : pstrdup(option);

	if (equals == NULL || name_position(option_names, lengthof(option_names), name) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\": invalid option \"%s\"", request->trigger, option),
				 errhint("An option is \"argument=value\" with an argument of dess_batch_submit other than source and model, or \"old_rows=true\".")));
	if (has_argument(call, name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\": option \"%s\" is given twice", request->trigger, name)));
	add_argument(call, name, equals[1] != '\0' ? equals + 1 : NULL);
}

static bool
read_old_rows(const TriggerRequest *request, const char *value)
{
	bool		result;

	if (!parse_bool(value, &result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\": option \"old_rows\" requires a Boolean value", request->trigger)));
	return result;
}

/*
 * The condition for rows that were inserted or changed since the trigger was
 * made, and for those of the requests, whatever has happened to the trigger.
 * Their version is not older than the transaction that made it.
 */
static char *
only_new_rows(const TriggerRequest *request, const char *where_sql)
{
	static Statement statement = {
		.sql = "SELECT t.xmin::text FROM pg_catalog.pg_trigger t WHERE t.tgrelid = $1 AND t.tgname = $2"
	};
	Ledger		ledger;
	char	   *since = NULL;
	StringInfoData condition;

	ledger_open(&ledger);
	if (ledger_run(&statement, arg_oid(request->source), arg_text(request->trigger)) > 0)
		since = ledger_get_text(&ledger, 0, 1);
	ledger_close(&ledger);
	initStringInfo(&condition);
	if (where_sql != NULL && where_sql[0] != '\0')
		appendStringInfo(&condition, "(%s) AND ", where_sql);
	appendStringInfo(&condition, "pg_catalog.age(xmin) <= greatest(pg_catalog.age('%u'::pg_catalog.xid), pg_catalog.age('%s'::pg_catalog.xid))",
					 (TransactionId) request->first_xid, since != NULL ? since : psprintf("%u", (TransactionId) request->first_xid));
	return condition.data;
}

/*
 * After an UPDATE, rows whose input changed since their answer are wanted too,
 * unless the trigger's own options say which rows are.
 */
static void
add_arguments(SubmitCall *call, const TriggerRequest *request)
{
	bool		old_rows = false;
	const char *where_sql = NULL;

	if (request->arguments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" names no model", request->trigger),
				 errhint("Create it with EXECUTE FUNCTION dess_batch_trigger('model').")));
	add_argument(call, "source", psprintf("%u", request->source));
	add_argument(call, "model", linitial(request->arguments));
	for (int i = 1; i < list_length(request->arguments); i++)
	{
		const char *option = list_nth(request->arguments, i);

		if (strncmp(option, OLD_ROWS, strlen(OLD_ROWS)) == 0)
			old_rows = read_old_rows(request, option + strlen(OLD_ROWS));
		else if (strncmp(option, WHERE_SQL, strlen(WHERE_SQL)) == 0 && where_sql == NULL)
			where_sql = option + strlen(WHERE_SQL);
		else
			add_option(call, request, option);
	}
	if (!old_rows)
		where_sql = only_new_rows(request, where_sql);
	if (where_sql != NULL && where_sql[0] != '\0')
		add_argument(call, "where_sql", where_sql);
	if (request->updates && !has_argument(call, "outcomes") && !has_argument(call, "overwrite") &&
		!has_argument(call, "sample"))
	{
		add_argument(call, "overwrite", "true");
		add_argument(call, "outcomes", "{changed,new}");
	}
}

/* The defaults of the other arguments are added as the expression is planned. */
static void
run_call(const SubmitCall *call)
{
	EState	   *estate = CreateExecutorState();
	FuncExpr   *expression = makeFuncExpr(call->function, INT8OID, call->args, InvalidOid, DEFAULT_COLLATION_OID,
										  COERCE_EXPLICIT_CALL);
	bool		isnull;

	/* as a statement of its own, it sees what was done before */
	CommandCounterIncrement();
	PushActiveSnapshot(GetTransactionSnapshot());
	(void) ExecEvalExprSwitchContext(ExecPrepareExpr((Expr *) expression, estate),
									 GetPerTupleExprContext(estate), &isnull);
	PopActiveSnapshot();
	FreeExecutorState(estate);
}

void
ledger_submit_request(const TriggerRequest *request)
{
	Oid			owner = table_owner(request->source);
	SubmitCall	call;
	UserContext user;

	if (!OidIsValid(owner))
		return;
	require_own_trigger(request, owner);
	open_call(&call);
	usercxt_enter(&user, owner);
	add_arguments(&call, request);
	run_call(&call);
	usercxt_leave(&user);
}

/* The same reason for the same table makes one job, however often it comes. */
void
ledger_refuse_request(const TriggerRequest *request, const char *sqlstate, const char *message)
{
	static Statement known = {
		.sql = "UPDATE dess_batch.job SET finished_at = now() WHERE id = (SELECT max(j.id) FROM dess_batch.job j "
		"WHERE j.source = $1 AND j.state = 'failed' AND j.started_at IS NULL AND j.error_code = $2 AND j.error = $3)"
	};
	static Statement insert = {
		.sql = "INSERT INTO dess_batch.job (owner, owner_name, submitted_by, source, source_name, model, mode, provider, "
		"server, server_name, label, key_columns, key_kinds, prompt, department, input_columns, counting_columns, "
		"overwrite, parameters, sample, max_failed, keep, args, home, extension_version, all_prepared, "
		"state, error_code, error, finished_at) "
		"SELECT r.oid, r.rolname, r.rolname, c.oid, c.oid::regclass::text, coalesce($4[1], ''), 'batch', '', "
		"0, '', 'trigger ' || $5, '{}', '', '', false, '{}', '{}', "
		"false, '{}', false, 0.5, 'none', jsonb_build_object('trigger', $5, 'arguments', to_jsonb($4)), $6, e.extversion, true, "
		"'failed', $2, $3, now() "
		"FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid = c.relowner, pg_catalog.pg_extension e "
		"WHERE c.oid = $1 AND e.extname = 'dess_batch'"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	if (ledger_run(&known, arg_oid(request->source), arg_text(sqlstate), arg_text(message)) == 0)
		ledger_run(&insert, arg_oid(request->source), arg_text(sqlstate), arg_text(message),
				   arg_list(request->arguments), arg_text(request->trigger), arg_home());
	ledger_close(&ledger);
}
