/*-------------------------------------------------------------------------
 *
 * processor_share.c
 *		How many other sessions of this server are at work.
 *
 * What pg_stat_activity shows, read without a transaction.  A session that
 * waits for a lock, for its client or for a worker needs no processor; one that
 * waits for the disk or for another session's WAL does, or will in a moment.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>

#include "storage/proc.h"
#include "storage/procarray.h"
#include "utils/backend_status.h"
#include "utils/wait_event.h"

#include "runtime/compat.h"
#include "runtime/processor_share.h"

#define WAIT_CLASS(event)	((event) & 0xFF000000)

static bool
is_working(const PgBackendStatus *status)
{
	PGPROC	   *proc;
	uint32		class;

	if (status->st_backendType != B_BACKEND || status->st_state != STATE_RUNNING)
		return false;
	proc = BackendPidGetProc(status->st_procpid);
	if (proc == NULL)
		return false;
	class = WAIT_CLASS(proc->wait_event_info);
	return class == 0 || class == PG_WAIT_LWLOCK || class == COMPAT_WAIT_BUFFER || class == PG_WAIT_IO;
}

int
active_backends(void)
{
	int			n = 0;

	pgstat_clear_backend_activity_snapshot();
	for (int i = pgstat_fetch_stat_numbackends(); i > 0; i--)
	{
		LocalPgBackendStatus *local = compat_local_beentry(i);

		if (local != NULL && is_working(&local->backendStatus))
			n++;
	}
	pgstat_clear_backend_activity_snapshot();
	return n;
}

double
processor_share(void)
{
	static long processors = 0;

	/* the C library opens a file for this */
	if (processors == 0)
		processors = Max(sysconf(_SC_NPROCESSORS_ONLN), 1);
	return Min((double) processors / (active_backends() + 1), 1.0);
}
