/*-------------------------------------------------------------------------
 *
 * jobstore_request.c
 *		The ledger: what triggers ask for, and the jobs made of it.
 *
 * A request is a row that a transaction leaves behind when it changed a table;
 * all requests of a trigger become one job, once the table has been quiet for a
 * second, or ten seconds after the first.  Submit sees the rows of every
 * transaction whose request it takes away.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "jobstore_int.h"

#define QUIET		"interval '1 second'"
#define PATIENCE	"interval '10 seconds'"
#define REQUEST_IS_RIPE	"least(max(r.at) + " QUIET ", min(r.at) + " PATIENCE ")"

/* The arguments of dess_batch_submit that a trigger may give. */
static const char *const option_names[] = {
	"prompt", "target", "key", "where_sql", "overwrite", "mode", "server", "system_prompt",
	"response_schema", "target_columns", "input_columns", "missing", "parameters", "max_rows",
	"sample", "only", "max_cost", "max_failed", "keep", "label"
};

void
jobstore_add_request(Oid source, const char *trigger, List *arguments, bool updates)
{
	static Statement statement = {
		.sql = "INSERT INTO dess_batch.request (source, trigger_name, arguments, updates) VALUES ($1, $2, $3, $4)"
	};
	Ledger		ledger;
	Args		args = {0};

	ledger_open(&ledger);
	arg_oid(&args, source);
	arg_text(&args, trigger);
	arg_list(&args, arguments);
	arg_bool(&args, updates);
	ledger_run(&statement, &args);
	ledger_close(&ledger);
}

TimestampTz
jobstore_requests_due(void)
{
	static Statement statement = {
		.sql = "SELECT min(x.at) FROM (SELECT " REQUEST_IS_RIPE " AS at "
		"FROM dess_batch.request r GROUP BY r.source, r.trigger_name, r.arguments) x"
	};
	Ledger		ledger;
	Args		args = {0};
	TimestampTz due;

	ledger_open(&ledger);
	ledger_run(&statement, &args);
	due = ledger_get_time(0, 1);
	ledger_close(&ledger);
	return due != 0 ? due : DT_NOEND;
}

bool
jobstore_find_request(TriggerRequest *request)
{
	static Statement statement = {
		.sql = "SELECT r.source, r.trigger_name, r.arguments, bool_or(r.updates) "
		"FROM dess_batch.request r GROUP BY r.source, r.trigger_name, r.arguments "
		"HAVING " REQUEST_IS_RIPE " <= $1 ORDER BY min(r.at) LIMIT 1"
	};
	Ledger		ledger;
	Args		args = {0};
	bool		found;

	ledger_open(&ledger);
	arg_time(&args, GetCurrentTimestamp());
	found = ledger_run(&statement, &args) > 0;
	if (found)
	{
		request->source = ledger_get_oid(0, 1);
		request->trigger = ledger_get_text(&ledger, 0, 2);
		request->arguments = ledger_get_list(&ledger, 0, 3);
		request->updates = ledger_get_bool(0, 4);
	}
	ledger_close(&ledger);
	return found;
}

/* What came after the request was found goes too. */
void
jobstore_drop_request(TriggerRequest *request)
{
	static Statement statement = {
		.sql = "WITH gone AS (DELETE FROM dess_batch.request "
		"WHERE source = $1 AND trigger_name = $2 AND arguments = $3 RETURNING updates) "
		"SELECT coalesce(bool_or(g.updates), false) FROM gone g"
	};
	Ledger		ledger;
	Args		args = {0};

	ledger_open(&ledger);
	arg_oid(&args, request->source);
	arg_text(&args, request->trigger);
	arg_list(&args, request->arguments);
	ledger_run(&statement, &args);
	request->updates = ledger_get_bool(0, 1);
	ledger_close(&ledger);
}

void
jobstore_put_off_request(const TriggerRequest *request, TimestampTz until)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.request SET at = $4 - " QUIET " "
		"WHERE source = $1 AND trigger_name = $2 AND arguments = $3"
	};
	Ledger		ledger;
	Args		args = {0};

	ledger_open(&ledger);
	arg_oid(&args, request->source);
	arg_text(&args, request->trigger);
	arg_list(&args, request->arguments);
	arg_time(&args, until);
	ledger_run(&statement, &args);
	ledger_close(&ledger);
}

/* ---- a job ---- */

/*
 * Whoever may create triggers on a table says what its owner's job does: which
 * functions where_sql calls, and where the texts go.  So that must be nobody who
 * has not the owner's rights anyway.
 */
static void
require_own_triggers(const TriggerRequest *request, Oid owner)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(request->source));
	bool		isnull;
	Datum		datum = SysCacheGetAttr(RELOID, tuple, Anum_pg_class_relacl, &isnull);
	Acl		   *acl = isnull ? NULL : DatumGetAclPCopy(datum);

	ReleaseSysCache(tuple);
	for (int i = 0; acl != NULL && i < ACL_NUM(acl); i++)
	{
		const AclItem *item = &ACL_DAT(acl)[i];
		Oid			grantee = item->ai_grantee;

		if ((ACLITEM_GET_PRIVS(*item) & ACL_TRIGGER) == 0 ||
			(grantee != ACL_ID_PUBLIC && has_privs_of_role(grantee, owner)))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("trigger \"%s\" may be somebody else's than the table owner's", request->trigger),
				 errdetail("%s has the right to create triggers on the table, and what they ask for would be done as its owner.",
						   grantee == ACL_ID_PUBLIC ? "PUBLIC" : GetUserNameFromId(grantee, false)),
				 errhint("Run: REVOKE TRIGGER ON %s FROM %s;",
						 quote_qualified_identifier(get_namespace_name(get_rel_namespace(request->source)),
													get_rel_name(request->source)),
						 grantee == ACL_ID_PUBLIC ? "PUBLIC" : quote_identifier(GetUserNameFromId(grantee, false)))));
	}
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

/* Where the extension's functions are, quoted; raises 42725 where the one that is to be called might be another. */
static char *
extension_schema(void)
{
	static Statement statement = {
		.sql = "SELECT quote_ident(n.nspname), (SELECT count(*) FROM pg_catalog.pg_proc p "
		"WHERE p.pronamespace = n.oid AND p.proname = 'dess_batch_submit') = 1 FROM pg_catalog.pg_extension e "
		"JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'dess_batch'"
	};
	Ledger		ledger;
	Args		args = {0};
	char	   *schema;

	ledger_open(&ledger);
	if (ledger_run(&statement, &args) != 1)
		elog(ERROR, "could not find the extension's schema");
	schema = ledger_get_text(&ledger, 0, 1);
	if (!ledger_get_bool(0, 2))
		ereport(ERROR,
				(errcode(ERRCODE_AMBIGUOUS_FUNCTION),
				 errmsg("schema %s has more than one function \"dess_batch_submit\"", schema)));
	ledger_close(&ledger);
	return schema;
}

/* Appends "name => 'value'" for an argument "name=value" of the trigger; nothing behind "=" is null. */
static void
append_option(StringInfo sql, const TriggerRequest *request, const char *option)
{
	const char *equals = strchr(option, '=');
	char	   *name = equals != NULL ? pnstrdup(option, equals - option) : pstrdup(option);

	if (equals == NULL || name_position(option_names, lengthof(option_names), name) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\": invalid option \"%s\"", request->trigger, option),
				 errhint("An option is \"argument=value\" with an argument of dess_batch_submit other than source and model.")));
	appendStringInfo(sql, ", %s => %s", quote_identifier(name),
					 equals[1] == '\0' ? "NULL" : quote_literal_cstr(equals + 1));
}

static bool
has_option(const TriggerRequest *request, const char *name)
{
	size_t		length = strlen(name);
	ListCell   *lc;

	foreach(lc, request->arguments)
	{
		const char *option = lfirst(lc);

		if (strncmp(option, name, length) == 0 && option[length] == '=')
			return true;
	}
	return false;
}

/*
 * After an UPDATE, rows whose input changed since their answer are wanted too,
 * unless the trigger's own options say which rows are.
 */
static char *
submit_statement(const TriggerRequest *request)
{
	StringInfoData sql;

	if (request->arguments == NIL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("trigger \"%s\" names no model", request->trigger),
				 errhint("Create it with EXECUTE FUNCTION dess_batch_trigger('model').")));
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s.dess_batch_submit(source => %u::pg_catalog.oid::pg_catalog.regclass, model => %s",
					 extension_schema(), request->source,
					 quote_literal_cstr(linitial(request->arguments)));
	for (int i = 1; i < list_length(request->arguments); i++)
		append_option(&sql, request, list_nth(request->arguments, i));
	if (request->updates && !has_option(request, "only") && !has_option(request, "overwrite") &&
		!has_option(request, "sample"))
		appendStringInfoString(&sql, ", overwrite => true, \"only\" => '{changed,new}'");
	appendStringInfoChar(&sql, ')');
	return sql.data;
}

void
jobstore_submit_request(const TriggerRequest *request)
{
	Oid			owner = table_owner(request->source);
	UserContext user;
	int			rc;

	if (!OidIsValid(owner))
		return;
	require_own_triggers(request, owner);
	usercxt_enter(&user, owner);
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	rc = SPI_execute(submit_statement(request), false, 1);
	if (rc != SPI_OK_SELECT)
		elog(ERROR, "could not submit a job: %s", SPI_result_code_string(rc));
	SPI_finish();
	usercxt_leave(&user);
}

/* The same reason for the same trigger makes one job, however often. */
void
jobstore_refuse_request(const TriggerRequest *request, const char *sqlstate, const char *message)
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
	Args		args = {0};

	ledger_open(&ledger);
	arg_oid(&args, request->source);
	arg_text(&args, sqlstate);
	arg_text(&args, message);
	if (ledger_run(&known, &args) == 0)
	{
		arg_list(&args, request->arguments);
		arg_text(&args, request->trigger);
		arg_home(&args);
		ledger_run(&insert, &args);
	}
	ledger_close(&ledger);
}
