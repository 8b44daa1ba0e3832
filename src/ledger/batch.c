/*-------------------------------------------------------------------------
 *
 * batch.c
 *		The ledger: batches.
 *
 * Batch 0 of a job is no batch: it holds rows that were never sent.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"

#include "ledger/internal.h"

static const char *const batch_state_names[] = {
	"preparing", "prepared", "uploading", "uploaded", "creating", "running", "retrieving",
	"done", "cancelled", "failed"
};

static const char *const remote_status_names[] = {
	"unknown", "queued", "running", "finished", "expired", "cancelled", "failed", "lost"
};

StaticAssertDecl(lengthof(remote_status_names) == REMOTE_LOST + 1, "a remote status has no name");

static const char *const remote_error_names[] = {
	"temporary", "rate", "quota", "auth", "permanent", "no_service", "too_large"
};

StaticAssertDecl(lengthof(remote_error_names) == ERROR_TOO_LARGE + 1, "an error class has no name");

const char *
batch_state_name(BatchState state)
{
	return batch_state_names[state];
}

BatchState
batch_state_from_name(const char *name)
{
	int			position = name_position(batch_state_names, lengthof(batch_state_names), name);

	if (position < 0)
		elog(ERROR, "unknown value \"%s\" in the ledger", name);
	return (BatchState) position;
}

/* ---- loading ---- */

static Statement select_batches = {
	.sql = "SELECT b.job_id, b.no, b.state, b.token, b.items, b.requests, b.bytes, "
	"b.input_uri, b.remote_id, b.remote_state, b.remote_status, b.output_uris, b.remote_error, "
	"b.remote_total, b.remote_finished, b.polls, "
	"b.created_at, b.next_poll_at, b.remote_deleted_at IS NOT NULL, b.account, b.remote_created_at, b.remote_cancelled_at "
	"FROM dess_batch.batch b WHERE b.job_id = $1 AND " BATCH_IS_OPEN("b.") " ORDER BY b.no"
};

/* What is stored in remote_error: class, code and words. */
static void
read_remote_error(List *stored, StepError *error)
{
	int			class;

	error->retry_after_ms = -1;
	if (list_length(stored) != 3)
		return;
	class = name_position(remote_error_names, lengthof(remote_error_names), linitial(stored));
	if (class >= 0)
		error->class = (ErrorClass) class;
	error->code = lsecond(stored);
	error->message = lthird(stored);
}

static Batch *
read_batch(const Ledger *ledger, uint64 row)
{
	Batch	   *batch = MemoryContextAllocZero(ledger->caller, sizeof(Batch));
	BatchRemote *remote = &batch->remote;
	int			c = 0;
	char	   *name;

	batch->job_id = ledger_get_int64(row, ++c, 0);
	batch->no = ledger_get_int32(row, ++c);
	batch->state = batch_state_from_name(TextDatumGetCString(ledger_datum(row, ++c)));
	batch->token = ledger_get_text(ledger, row, ++c);
	batch->items = ledger_get_int32(row, ++c);
	batch->requests = ledger_get_int32(row, ++c);
	batch->bytes = ledger_get_int64(row, ++c, 0);
	remote->input_uri = ledger_get_text(ledger, row, ++c);
	if (remote->input_uri != NULL && remote->input_uri[0] == '\0')
	{
		batch->maybe_uploaded = true;
		remote->input_uri = NULL;
	}
	remote->remote_id = ledger_get_text(ledger, row, ++c);
	remote->remote_state = ledger_get_text(ledger, row, ++c);
	name = ledger_get_text(ledger, row, ++c);
	if (name != NULL)
		remote->status = Max(name_position(remote_status_names, lengthof(remote_status_names), name), 0);
	remote->output_uris = ledger_get_list(ledger, row, ++c);
	read_remote_error(ledger_get_list(ledger, row, ++c), &remote->error);
	remote->total = ledger_get_int64(row, ++c, -1);
	remote->finished = ledger_get_int64(row, ++c, -1);
	batch->polls = ledger_get_int32(row, ++c);
	batch->created_at = ledger_get_time(row, ++c);
	batch->next_poll_at = ledger_get_time(row, ++c);
	batch->remote_deleted = ledger_get_bool(row, ++c);
	name = ledger_get_text(ledger, row, ++c);
	strlcpy(batch->account, name != NULL ? name : "", ACCOUNT_IDENTITY_SIZE);
	batch->remote_created_at = ledger_get_time(row, ++c);
	batch->remote_cancelled_at = ledger_get_time(row, ++c);
	return batch;
}

List *
ledger_load_batches(int64 job_id)
{
	Ledger		ledger;
	List	   *batches = NIL;
	uint64		n;

	ledger_open(&ledger);
	n = ledger_run(&select_batches, arg_int64(job_id));
	for (uint64 i = 0; i < n; i++)
	{
		Batch	   *batch = read_batch(&ledger, i);
		MemoryContext old = MemoryContextSwitchTo(ledger.caller);

		batches = lappend(batches, batch);
		MemoryContextSwitchTo(old);
	}
	ledger_close(&ledger);
	return batches;
}

static Statement select_batch_is_open = {
	.sql = "SELECT 1 FROM dess_batch.batch b WHERE b.job_id = $1 AND b.no = $2 AND NOT " BATCH_IS_FINAL("b.")
};

bool
ledger_batch_is_open(int64 job_id, int no)
{
	return ledger_execute(&select_batch_is_open, arg_int64(job_id), arg_int32(no)) > 0;
}

/* ---- saving ---- */

static Arg
arg_remote_error(const BatchRemote *remote)
{
	const char *stored[3];

	if (remote->status != REMOTE_FAILED &&
		!((remote->status == REMOTE_EXPIRED || remote->status == REMOTE_LOST) && remote->error.code != NULL))
		return arg_null(TEXTARRAYOID);
	stored[0] = remote_error_names[remote->error.class];
	stored[1] = remote->error.code ? remote->error.code : "";
	stored[2] = remote->error.message ? remote->error.message : "";
	return arg_words_array(stored, lengthof(stored), ERROR_BYTES);
}

static Arg
arg_count_or_null(int64 count)
{
	return count >= 0 ? arg_int64(count) : arg_null(INT8OID);
}

/* $1 to $16 of the statements that save a batch. */
#define BATCH_ARGS(batch) \
	arg_int64((batch)->job_id), arg_int32((batch)->no), arg_text((batch)->token), \
	arg_text((batch)->remote.input_uri == NULL && (batch)->maybe_uploaded ? "" : (batch)->remote.input_uri), \
	arg_text((batch)->remote.remote_id), arg_words((batch)->remote.remote_state, ERROR_BYTES), \
	arg_text(remote_status_names[(batch)->remote.status]), arg_remote_error(&(batch)->remote), \
	arg_list((batch)->remote.output_uris), arg_count_or_null((batch)->remote.total), \
	arg_count_or_null((batch)->remote.finished), arg_int32((batch)->polls), arg_time((batch)->next_poll_at), \
	arg_text((batch)->account[0] != '\0' ? (batch)->account : NULL), arg_time((batch)->remote_created_at), \
	arg_time((batch)->remote_cancelled_at)

#define BATCH_SAVES \
	"token = coalesce($3, b.token), input_uri = $4, remote_id = $5, remote_state = $6, remote_status = $7, " \
	"remote_error = $8, output_uris = CASE WHEN cardinality($9) > 0 THEN $9 END, remote_total = $10, " \
	"remote_finished = $11, polled_at = CASE WHEN $12 > b.polls THEN clock_timestamp() ELSE b.polled_at END, " \
	"polls = $12, next_poll_at = $13, account = $14, remote_created_at = $15, remote_cancelled_at = $16 "

void
ledger_insert_batch(const Batch *batch)
{
	static Statement insert = {
		.sql = "INSERT INTO dess_batch.batch (job_id, no, token, input_uri, remote_id, remote_state, remote_status, "
		"remote_error, output_uris, remote_total, remote_finished, polls, next_poll_at, "
		"account, remote_created_at, remote_cancelled_at, state, items, requests, bytes, created_at) "
		"VALUES ($1, $2, $3, $4, $5, $6, $7, $8, CASE WHEN cardinality($9) > 0 THEN $9 END, $10, $11, $12, $13, "
		"$14, $15, $16, $17, $18, $19, $20, coalesce($21, now()))"
	};
	static Statement follow = {
		.sql = "UPDATE dess_batch.job SET last_batch = $2 WHERE id = $1 AND last_batch < $2"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	ledger_run(&insert, BATCH_ARGS(batch), arg_text(batch_state_names[batch->state]), arg_int32(batch->items),
			   arg_int32(batch->requests), arg_int64(batch->bytes), arg_time(batch->created_at));
	ledger_run(&follow, arg_int64(batch->job_id), arg_int32(batch->no));
	ledger_close(&ledger);
}

bool
ledger_move_batch(const Batch *batch, BatchState from, BatchState to)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch b SET " BATCH_SAVES ", state = $18, moved_at = clock_timestamp(), "
		"error_code = CASE WHEN $18 IN ('uploaded', 'cancelled', 'failed') THEN b.error_code END, "
		"error = CASE WHEN $18 IN ('uploaded', 'cancelled', 'failed') THEN b.error END, "
		"finished_at = CASE WHEN $18 IN ('done', 'cancelled', 'failed') THEN now() ELSE b.finished_at END "
		"WHERE b.job_id = $1 AND b.no = $2 AND b.state = $17"
	};

	return ledger_execute(&statement, BATCH_ARGS(batch), arg_text(batch_state_names[from]),
						  arg_text(batch_state_names[to])) > 0;
}

void
ledger_save_batch(const Batch *batch)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch b SET " BATCH_SAVES "WHERE b.job_id = $1 AND b.no = $2"
	};

	ledger_execute(&statement, BATCH_ARGS(batch));
}

void
ledger_grow_batch(int64 job_id, int no, int items, int requests, int64 bytes)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch b SET items = b.items + $3, requests = b.requests + $4, bytes = b.bytes + $5 "
		"WHERE b.job_id = $1 AND b.no = $2"
	};

	ledger_execute(&statement, arg_int64(job_id), arg_int32(no), arg_int32(items), arg_int32(requests),
				   arg_int64(bytes));
}

void
ledger_batch_error(int64 job_id, int no, const char *code, const char *message)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch SET error_code = $3, error = $4 WHERE job_id = $1 AND no = $2"
	};

	ledger_execute(&statement, arg_int64(job_id), arg_int32(no), arg_words(code, ERROR_BYTES),
				   arg_words(message, ERROR_BYTES));
}

void
ledger_batch_cleaned(int64 job_id, int no, bool removed)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch SET remote_deleted_at = CASE WHEN $3 THEN now() ELSE 'infinity' END "
		"WHERE job_id = $1 AND no = $2 AND remote_deleted_at IS NULL"
	};

	ledger_execute(&statement, arg_int64(job_id), arg_int32(no), arg_bool(removed));
}

/* ---- counters ---- */

void
ledger_count_strays(int64 job_id, int no, int64 unmatched, int64 duplicates)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch b SET unmatched = b.unmatched + $3, duplicates = b.duplicates + $4 "
		"WHERE b.job_id = $1 AND b.no = $2"
	};

	ledger_execute(&statement, arg_int64(job_id), arg_int32(no), arg_int64(unmatched), arg_int64(duplicates));
}

void
ledger_count_answers(int64 job_id, int64 *answers, int64 *failed)
{
	static Statement statement = {
		.sql = "SELECT sum(b.ok + b.missing + b.failed)::bigint, sum(b.failed)::bigint "
		"FROM dess_batch.batch b WHERE b.job_id = $1 AND b.no > 0"
	};
	Ledger		ledger;

	ledger_open(&ledger);
	ledger_run(&statement, arg_int64(job_id));
	*answers = ledger_get_int64(0, 1, 0);
	*failed = ledger_get_int64(0, 2, 0);
	ledger_close(&ledger);
}

void
batch_count(int64 job_id, int batch_no, const BatchCounters *counters)
{
	static Statement statement = {
		.sql = "UPDATE dess_batch.batch b SET ok = b.ok + $3, missing = b.missing + $4, empty = b.empty + $5, "
		"failed = b.failed + $6, superseded = b.superseded + $7, "
		"input_tokens = b.input_tokens + $8, cached_tokens = b.cached_tokens + $9, "
		"output_tokens = b.output_tokens + $10, reasoning_tokens = b.reasoning_tokens + $11, "
		"cache_write_tokens = b.cache_write_tokens + $12, cost = b.cost + $13::numeric, unpriced = b.unpriced + $14 "
		"WHERE b.job_id = $1 AND b.no = $2"
	};
	int64		failed = 0;

	for (Outcome outcome = OUTCOME_OK; outcome < OUTCOME_SUPERSEDED; outcome++)
		if (!outcome_is_done(outcome))
			failed += counters->of[outcome];

	if (ledger_run(&statement, arg_int64(job_id), arg_int32(batch_no),
				   arg_int32((int32) counters->of[OUTCOME_OK]),
				   arg_int32((int32) counters->of[OUTCOME_MISSING]),
				   arg_int32((int32) counters->of[OUTCOME_EMPTY]), arg_int32((int32) failed),
				   arg_int32((int32) counters->of[OUTCOME_SUPERSEDED]), arg_int64(counters->input_tokens),
				   arg_int64(counters->cached_tokens), arg_int64(counters->output_tokens),
				   arg_int64(counters->reasoning_tokens), arg_int64(counters->cache_write_tokens),
				   arg_text(counters->cost), arg_int64(counters->unpriced)) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("batch %d of job " INT64_FORMAT " does not exist", batch_no, job_id)));
}
