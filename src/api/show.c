/*-------------------------------------------------------------------------
 *
 * show.c
 *		dess_batch_show and the row_key of the views: one row of a job.
 *
 * The ledger keeps no prompts.  What was asked is shown by asking again: the
 * row is rendered as it is now, and is what was sent if its hash is the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "account/account.h"
#include "api/account.h"
#include "api/submit.h"
#include "provider/parameters.h"
#include "runtime/batch_token.h"
#include "runtime/usercxt.h"
#include "table/table.h"
#include "text/encoding.h"
#include "text/json.h"

PG_FUNCTION_INFO_V1(dess_batch_show);
PG_FUNCTION_INFO_V1(dess_batch_row_key);

/* ---- a key as an object ---- */

static void
set_string(JsonbValue *value, char *text)
{
	value->type = jbvString;
	value->val.string.val = text;
	value->val.string.len = strlen(text);
}

/* JSON has no number for NaN and the infinities. */
static void
key_member(JsonbValue *value, char *text, char kind)
{
	if (kind == 'b')
	{
		value->type = jbvBool;
		value->val.boolean = text[0] == 't';
	}
	else if (kind == 'n' && strpbrk(text, "NnIi") == NULL)
	{
		value->type = jbvNumeric;
		value->val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(text),
																 ObjectIdGetDatum(InvalidOid),
																 Int32GetDatum(-1)));
	}
	else
		set_string(value, text);
}

Datum
dess_batch_row_key(PG_FUNCTION_ARGS)
{
	char	   *key = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *kinds = text_to_cstring(PG_GETARG_TEXT_PP(2));
	JsonbParseState *state = NULL;
	Datum	   *columns;
	bool	   *nulls;
	char	  **values;
	int			n;

	deconstruct_array(PG_GETARG_ARRAYTYPE_P(1), TEXTOID, -1, false, TYPALIGN_INT,
					  &columns, &nulls, &n);
	if (n == 0 || strlen(kinds) != n)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a key needs columns and as many kinds")));
	values = palloc_array(char *, n);
	key_split(key, n, values);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
	{
		JsonbValue	name;
		JsonbValue	value;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("name of a key column must not be null")));
		set_string(&name, TextDatumGetCString(columns[i]));
		key_member(&value, values[i], kinds[i]);
		pushJsonbValue(&state, WJB_KEY, &name);
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	PG_RETURN_JSONB_P(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
}

/* ---- a row ---- */

typedef struct Show
{
	const Job  *job;
	SourceTable *table;
	char	   *key;			/* as the ledger keeps it */
	Digest		sent;
	RowTrace	trace;
	SourceRow  *row;			/* as it is now; NULL: it is gone */
	char	   *answer;
	char	   *reply;
} Show;

/*
 * Reads the row as it is now.  Its own spelling of the key counts: 1.5 finds
 * 1.50 in the table, but only 1.50 is in the ledger.
 */
static void
show_read(Show *show, Jsonb *row_key)
{
	const Job  *job = show->job;
	UserContext user;
	SourceRow  *rows;

	if (get_rel_name(job->source) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" does not exist", job->source_name)));
	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	show->key = source_key_from_json(job->source, job->key_columns, row_key);
	show->table = source_open(job);
	if (source_read_keys(show->table, &show->key, 1, &rows) > 0)
	{
		show->row = &rows[0];
		show->key = rows[0].key;
	}
	usercxt_leave(&user);
}

/* Finds the row in the ledger. */
static void
show_find(Show *show)
{
	const Job  *job = show->job;
	int			batch_no;

	if (!ledger_find_row(job, show->key, &show->sent, &show->answer, &show->reply, &batch_no) ||
		!ledger_trace_row(job->id, batch_no, show->key, &show->trace))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("job " INT64_FORMAT " has no row with that key", job->id),
				 errhint("SELECT row_key FROM dess_batch_rows WHERE job_id = " INT64_FORMAT " lists its rows.", job->id)));
}

/* An answer that was written and not kept is what the target holds, as far as anybody knows. */
static void
show_written(Show *show)
{
	const Job  *job = show->job;
	UserContext user;

	if (show->answer != NULL ||
		(show->trace.outcome != OUTCOME_OK && show->trace.outcome != OUTCOME_MISSING))
		return;
	usercxt_enter(&user, usercxt_effective_role(job->owner, job->source));
	show->answer = source_read_value(show->table, show->key);
	usercxt_leave(&user);
}

/* JSON in UTF-8, as a value of the database. */
static Datum
json_datum(const char *json)
{
	return DirectFunctionCall1(jsonb_in, CStringGetDatum(encoding_to_server_lossy(json)));
}

/* The request for the row as it is now, or false when there is nothing to ask or nobody to be asked. */
static bool
show_request(const Show *show, Datum *request)
{
	const Job  *job = show->job;
	Account    *account;
	BatchOptions *options;
	BatchItem	item;
	StringInfoData line;
	char		custom_id[64] = "row";
	char	   *why;

	if (show->row == NULL || show->row->text == NULL)
		return false;
	account = account_try_load(job->server, job->provider, job->owner, &why);
	if (account == NULL)
	{
		ereport(NOTICE,
				(errmsg("the request cannot be shown"),
				 errdetail_internal("%s", why)));
		return false;
	}
	account_wipe(account);
	options = parameters_to_options(account, job->model, job->system_prompt, job->response_schema,
										job->department, job->parameters);
	if (show->trace.token[0] != '\0')
		batch_custom_id(custom_id, sizeof(custom_id), show->trace.token, show->trace.request_no);
	item.custom_id = custom_id;
	item.text = show->row->text;
	item.text_length = show->row->text_length;
	initStringInfo(&line);
	account->provider->prepare_batch_file(&line, &item, options);
	*request = json_datum(line.data);
	return true;
}

/*
 * JSON with characters in place of their escapes, or NULL: in a database that
 * is not in UTF-8, jsonb raises at an escape that has no character there.
 */
static char *
without_escapes(const char *json)
{
	const char *why;
	JsonDoc    *doc = json_parse(json, strlen(json), &why);
	StringInfoData out;

	if (doc == NULL)
		return NULL;
	initStringInfo(&out);
	json_append_value(&out, json_root(doc));
	json_free(doc);
	return out.data;
}

/* What the provider sent, as JSON if it is: jsonb cannot hold a NUL that is escaped. */
static Datum
reply_datum(const char *reply)
{
	char	   *utf8 = pg_server_to_any(reply, strlen(reply), PG_UTF8);
	const char *why;
	char	   *clean = json_clean(utf8, strlen(utf8), &why);
	StringInfoData quoted;

	if (clean != NULL && GetDatabaseEncoding() != PG_UTF8)
		clean = without_escapes(clean);
	if (clean != NULL)
		return json_datum(clean);
	initStringInfo(&quoted);
	json_append_cstring(&quoted, utf8);
	return json_datum(quoted.data);
}

Datum
dess_batch_show(PG_FUNCTION_ARGS)
{
	Show		show;
	TupleDesc	tupdesc;
	Datum		values[4] = {0};
	bool		nulls[4] = {true, true, true, true};

	if (get_call_result_type(fcinfo, NULL, &tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	memset(&show, 0, sizeof(show));
	show.job = ledger_look_at_job(PG_GETARG_INT64(0));
	show_read(&show, PG_GETARG_JSONB_P(1));
	show_find(&show);
	show_written(&show);

	nulls[0] = !show_request(&show, &values[0]);
	nulls[1] = false;
	values[1] = BoolGetDatum(show.row != NULL &&
							 memcmp(&show.row->hash, &show.sent, sizeof(Digest)) == 0);
	if (show.answer != NULL)
	{
		nulls[2] = false;
		values[2] = CStringGetTextDatum(show.answer);
	}
	if (show.reply != NULL)
	{
		nulls[3] = false;
		values[3] = reply_datum(show.reply);
	}
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(tupdesc), values, nulls)));
}
