/*-------------------------------------------------------------------------
 *
 * identity.c
 *		The ledger: is it in its own cluster and database?
 *
 * A dump that was restored, a database that was made from a template and a
 * cluster that went through pg_upgrade have a ledger whose batches may be at
 * work for somebody else.  Its jobs are held until they are adopted.  Each job
 * names its home, because a worker may look while a dump is still being
 * restored, table by table.
 *
 * Tables, roles and servers are kept as OID and as name, because an OID means
 * something else after a restore, or nothing.  What has no namesake gets an OID
 * that nothing ever has.  Roles belong to the cluster: in another database of
 * the same one they stay.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/builtins.h"

#include "ledger/internal.h"

Arg
arg_system_identifier(void)
{
	return arg_text(psprintf(UINT64_FORMAT, GetSystemIdentifier()));
}

char *
ledger_home(void)
{
	return psprintf(UINT64_FORMAT "/%u", GetSystemIdentifier(), MyDatabaseId);
}

Arg
arg_home(void)
{
	return arg_text(ledger_home());
}

static Statement insert_identity = {
	.sql = "INSERT INTO dess_batch.ledger (system_identifier, database) SELECT $1, $2 WHERE NOT EXISTS ("
	"SELECT FROM dess_batch.ledger l WHERE l.system_identifier = $1 AND l.database = $2)"
};

static Statement delete_other_identities = {
	.sql = "DELETE FROM dess_batch.ledger l WHERE l.system_identifier <> $1 OR l.database <> $2"
};

/* A job that may go on somewhere else is held.  All get their table, server and owner by name. */
#define HELD_JOB \
	"(" JOB_IS_OPEN("j.") " OR EXISTS (SELECT FROM dess_batch.batch b WHERE b.job_id = j.id AND " BATCH_REMAINS("b.") "))"

static Statement take_in_jobs = {
	.sql = "WITH copied AS (UPDATE dess_batch.job j SET home = $1, "
	"held_control = CASE WHEN " HELD_JOB " AND j.control <> 'hold' THEN j.control ELSE j.held_control END, "
	"control = CASE WHEN " HELD_JOB " THEN 'hold' ELSE j.control END, "
	"source = dess_batch.source_here(j.source, j.source_name, j.home), "
	"server = CASE WHEN j.server = 0 THEN 0 ELSE coalesce("
	"(SELECT s.oid FROM pg_catalog.pg_foreign_server s WHERE s.srvname = j.server_name), 1) END, "
	"owner = dess_batch.owner_here(j.owner, j.owner_name, j.home) "
	"WHERE j.home <> $1 RETURNING j.control = 'hold' AS held) "
	"SELECT count(*) FROM copied c WHERE c.held"
};

static Statement find_settled_sources = {
	.sql = "WITH moved AS (DELETE FROM dess_batch.settled s WHERE to_regclass(s.source_name)::oid <> s.source RETURNING s.*) "
	"INSERT INTO dess_batch.settled (source, source_name, target, key, hash, key_columns, outcome, settled_at) "
	"SELECT to_regclass(m.source_name), m.source_name, m.target, m.key, m.hash, m.key_columns, m.outcome, m.settled_at "
	"FROM moved m ON CONFLICT DO NOTHING"
};

static Statement find_usage_owners = {
	.sql = "WITH moved AS (DELETE FROM dess_batch.usage u WHERE u.cluster <> $1 RETURNING u.*) "
	"INSERT INTO dess_batch.usage AS u (day, owner, owner_name, server, model, mode, label, "
	"requests, input_tokens, cached_tokens, output_tokens, reasoning_tokens, cache_write_tokens, cost, unpriced, cluster) "
	"SELECT m.day, dess_batch.owner_here(m.owner, m.owner_name, m.cluster), min(m.owner_name), "
	"m.server, m.model, m.mode, m.label, sum(m.requests), sum(m.input_tokens), sum(m.cached_tokens), "
	"sum(m.output_tokens), sum(m.reasoning_tokens), sum(m.cache_write_tokens), sum(m.cost), sum(m.unpriced), $1 "
	"FROM moved m GROUP BY 1, 2, m.server, m.model, m.mode, m.label "
	"ON CONFLICT (day, owner, server, model, mode, label) DO UPDATE SET " USAGE_ADDS
};

/* Requests of triggers are served in the database that this one is a copy of. */
static Statement delete_requests = {
	.sql = "DELETE FROM dess_batch.request"
};

/* Two that come at the same time wait for each other, and the second one finds it done. */
int64
ledger_check_identity(void)
{
	Ledger		ledger;
	int64		held;

	ledger_open(&ledger);
	ledger_run(&insert_identity, arg_system_identifier(), arg_oid(MyDatabaseId));
	if (ledger_run(&delete_other_identities, arg_system_identifier(), arg_oid(MyDatabaseId)) > 0)
	{
		ledger_run_plain(&find_settled_sources);
		ledger_run_plain(&delete_requests);
	}
	ledger_run(&find_usage_owners, arg_system_identifier());
	ledger_run(&take_in_jobs, arg_home());
	held = ledger_get_int64(0, 1, 0);
	ledger_close(&ledger);
	return held;
}

void
require_job_is_here(const Ledger *ledger, int64 id)
{
	static Statement statement = {
		.sql = "SELECT CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = j.source) THEN j.source_name END, "
		"CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = j.owner) THEN j.owner_name END "
		"FROM dess_batch.job j WHERE j.id = $1"
	};
	char	   *table;
	char	   *role;

	if (ledger_run(&statement, arg_int64(id)) == 0)
		return;
	table = ledger_get_text(ledger, 0, 1);
	role = ledger_get_text(ledger, 0, 2);
	if (table != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s\" of job " INT64_FORMAT " does not exist", table, id),
				 errhint("Submit the job anew; dess_batch_erase(" INT64_FORMAT ") removes what it has left at the provider.", id)));
	if (role != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("role \"%s\" of job " INT64_FORMAT " does not exist", role, id),
				 errhint("Submit the job anew; dess_batch_erase(" INT64_FORMAT ") removes what it has left at the provider.", id)));
}

void
ledger_adopt(int64 id)
{
	static Statement adopt = {
		.sql = "UPDATE dess_batch.job j SET control = coalesce(j.held_control, 'run'), held_control = NULL "
		"WHERE j.control = 'hold' AND ($1 = 0 OR j.id = $1) AND j.source <> 0 AND j.owner <> 0 "
		"AND pg_has_role($2, j.owner, 'USAGE')"
	};
	Oid			caller = GetUserId();
	Ledger		ledger;

	/* the caller must not decide by a ledger that has not noticed where it is */
	(void) ledger_check_identity();

	ledger_open(&ledger);
	if (ledger_run(&adopt, arg_int64(id), arg_oid(caller)) == 0 && id != 0)
		require_job_is_here(&ledger, id);
	ledger_close(&ledger);
}
