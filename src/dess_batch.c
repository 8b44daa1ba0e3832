/*-------------------------------------------------------------------------
 *
 * dess_batch.c
 *		Module entry: settings, providers, hooks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "account/account.h"
#include "provider/provider.h"
#include "runtime/guc.h"
#include "runtime/shmem.h"
#include "runtime/wake.h"
#include "worker/worker.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

void
_PG_init(void)
{
	guc_init();
	provider_init();
	account_init();
	wake_init();
	if (process_shared_preload_libraries_in_progress)
	{
		shmem_init();
		launcher_init();
	}
}
