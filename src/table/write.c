/*-------------------------------------------------------------------------
 *
 * write.c
 *		Writes answers into a user's table.
 *
 * A group is one UPDATE in one subtransaction.  When it raises, the group is
 * cut in halves until the rows that raise stand alone; what their triggers did
 * is rolled back with them.  The same is done when it has to wait for a lock of
 * somebody else: it waits once, and the rows that need the lock are left for
 * later.  Errors that say nothing about a row (deadlock, disk full, lost
 * connection) are raised and end the group.
 *
 * Constraints are checked at once: a deferred one would fail at commit, when
 * nobody can tell which row it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "runtime/sqlstate.h"
#include "runtime/txn.h"
#include "table/internal.h"
#include "text/json.h"

#define MESSAGE_BYTES	200

/* After the first wait for a lock, how long and how often others are waited for. */
#define NEXT_LOCK_TIMEOUT	"20ms"
#define MAX_LOCK_TIMEOUTS	50

/* Would the same statement succeed later, or does the error say nothing about a row? */
static bool
is_not_about_row(int sqlerrcode)
{
	SqlstateKind kind = sqlstate_kind(sqlerrcode);

	return kind != SQLSTATE_OWN && kind != SQLSTATE_LOCKED && kind != SQLSTATE_INTERNAL;
}

static void
note_failure(const SourceTable *table, SourceWrite *write, const char *sqlstate, const char *message)
{
	size_t		length;
	const char *utf8 = source_to_utf8(table, message, &length);

	write->written = false;
	write->sqlstate = sqlstate == NULL ? NULL : pstrdup(sqlstate);
	write->message = json_excerpt(utf8 != NULL ? utf8 : "the message is not text in UTF-8", MESSAGE_BYTES);
}

/* Fills pending; returns false, with the reason noted, when a value cannot be had in the database's encoding. */
static bool
convert_write(SourceTable *table, SourceWrite *write, SourcePending *pending)
{
	pending->write = write;
	pending->keys = palloc_array(char *, table->nkeys);
	pending->values = palloc_array(char *, table->ntargets);
	key_split(write->key, table->nkeys, pending->keys);
	for (int i = 0; i < table->ntargets; i++)
	{
		const char *value = write->values[i] == NULL ? NULL : source_from_utf8(table, write->values[i]);

		if (write->values[i] != NULL && value == NULL)
		{
			note_failure(table, write, "22P05",
						 "the answer has characters that the database's encoding does not have");
			return false;
		}
		pending->values[i] = unconstify(char *, value);
	}
	return true;
}

/* Fills pending with what can be had in the database's encoding; returns how many. */
int
source_convert_writes(SourceTable *table, SourceWrite *writes, int nwrites, SourcePending *pending)
{
	int			npending = 0;

	for (int i = 0; i < nwrites; i++)
	{
		writes[i].written = false;
		writes[i].locked = false;
		writes[i].sqlstate = NULL;
		writes[i].message = NULL;
		if (convert_write(table, &writes[i], &pending[npending]))
			npending++;
	}
	return npending;
}

/* All rows that were found unchanged must have been written: which one was not, the statement does not tell. */
static void
require_all_written(const SourcePending *group, int n, uint64 written)
{
	uint64		unchanged = 0;

	for (int i = 0; i < n; i++)
		unchanged += group[i].write->verdict == WRITE_UNCHANGED;
	if (written != unchanged)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("rows were passed over")));
}

/* Executes the UPDATE and marks the rows that it returned.  SPI is connected. */
static void
update_group(SourceTable *table, SourcePending *group, int n, bool check)
{
	int			narrays = table->nkeys + table->ntargets;
	Datum	   *arrays = palloc_array(Datum, narrays);
	char	  **texts = palloc_array(char *, n);
	int			rc;

	for (int column = 0; column < narrays; column++)
	{
		for (int i = 0; i < n; i++)
			texts[i] = column < table->nkeys ? group[i].keys[column] :
				group[i].values[column - table->nkeys];
		arrays[column] = source_array(&table->columns[column], texts, n);
	}

	rc = SPI_execute_plan(source_write_plan(table, check), arrays, NULL, false, 0);
	if (rc != (check ? SPI_OK_UPDATE : SPI_OK_UPDATE_RETURNING))
		elog(ERROR, "could not update table %s: %s", table->name, SPI_result_code_string(rc));
	if (check)
		require_all_written(group, n, SPI_processed);
	for (uint64 i = 0; !check && i < SPI_processed; i++)
	{
		bool		isnull;
		int64		no = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc,
													 1, &isnull));

		if (!isnull && no >= 1 && no <= n)
			group[no - 1].returned = true;
	}
}

typedef struct GroupTry
{
	SourceTable *table;
	SourcePending *group;
	int			n;
	bool		check;
} GroupTry;

static void
try_group(void *arg)
{
	GroupTry   *try = arg;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "could not connect to SPI");
	update_group(try->table, try->group, try->n, try->check);
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "could not disconnect from SPI");
}

/* One group in one subtransaction.  Returns the error that undid it, in the current context, or NULL. */
ErrorData *
source_try_group(SourceTable *table, SourcePending *group, int n, bool check)
{
	GroupTry	try = {table, group, n, check};

	for (int i = 0; i < n; i++)
		group[i].returned = false;
	return txn_catch(try_group, &try);
}

static void
mark_locked(SourcePending *group, int n)
{
	for (int i = 0; i < n; i++)
		group[i].write->locked = true;
}

/* timeouts counts how often this call of source_write() has waited for a lock in vain. */
static void
write_group(SourceTable *table, SourcePending *group, int n, int *timeouts)
{
	ErrorData  *error;
	bool		locked;

	CHECK_FOR_INTERRUPTS();
	if (*timeouts >= MAX_LOCK_TIMEOUTS)
	{
		mark_locked(group, n);
		return;
	}
	error = source_try_group(table, group, n, false);
	if (error != NULL && is_not_about_row(error->sqlerrcode))
		ReThrowError(error);
	locked = error != NULL && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	if (locked && (*timeouts)++ == 0)
		(void) set_config_option("lock_timeout", NEXT_LOCK_TIMEOUT, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
	if (error != NULL && n > 1)
	{
		FreeErrorData(error);
		write_group(table, group, n / 2, timeouts);
		write_group(table, group + n / 2, n - n / 2, timeouts);
		return;
	}
	if (locked)
	{
		FreeErrorData(error);
		mark_locked(group, n);
		return;
	}
	if (error != NULL)
	{
		note_failure(table, group[0].write, unpack_sql_state(error->sqlerrcode),
					 error->message != NULL ? error->message : "unknown error");
		FreeErrorData(error);
		return;
	}
	for (int i = 0; i < n; i++)
	{
		group[i].write->written = group[i].returned;
		if (!group[i].returned)
			note_failure(table, group[i].write, NULL,
						 "the row was passed over: it is gone, or a trigger or a policy keeps it from being updated");
	}
}

static void
check_constraints_at_once(void)
{
	int			rc = SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);

	if (rc != SPI_OK_UTILITY)
		elog(ERROR, "could not set constraints: %s", SPI_result_code_string(rc));
}

/* Like source_begin(), in the caller's memory context. */
int
source_begin_write(SourceTable *table)
{
	MemoryContext caller = CurrentMemoryContext;
	int			nestlevel = source_begin(table, RowExclusiveLock, true);

	check_constraints_at_once();
	MemoryContextSwitchTo(caller);
	return nestlevel;
}

void
source_write(SourceTable *table, SourceWrite *writes, int nwrites)
{
	SourcePending *pending = palloc_array(SourcePending, nwrites + 1);
	int			npending = source_convert_writes(table, writes, nwrites, pending);
	int			timeouts = 0;
	int			nestlevel;

	if (npending == 0)
		return;
	nestlevel = source_begin_write(table);
	write_group(table, pending, npending, &timeouts);
	source_end(nestlevel);
}

typedef struct TypeInput
{
	Oid			type;
	int32		typmod;
	const char *text;
} TypeInput;

static void
read_input(void *arg)
{
	TypeInput  *input = arg;
	Oid			function;
	Oid			param;

	getTypeInputInfo(input->type, &function, &param);
	(void) OidInputFunctionCall(function, unconstify(char *, input->text), param, input->typmod);
}

/* A domain's constraint is code of whoever owns it, so the caller has become the right user. */
bool
source_type_takes(Oid type, int32 typmod, const char *text)
{
	TypeInput	input = {type, typmod, text};
	char	   *why;

	return txn_try(read_input, &input, &why);
}
