/*-------------------------------------------------------------------------
 *
 * wait_event.c
 *		Names of wait events.
 *
 * A name is taken when it is first needed: that may be in a process that has
 * loaded the module late, without preload.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "pgstat.h"

#include "runtime/compat.h"
#include "runtime/wait_event.h"

static const char *const names[] = {
	"DessBatchLauncher", "DessBatchIdle", "DessBatchTime", "DessBatchReply", "DessBatchJob", "DessBatchWorker"
};

uint32
wait_event_info(DessWaitEvent event)
{
	static uint32 events[lengthof(names)];

	if (events[event] == 0)
		events[event] = compat_wait_event(names[event]);
	return events[event];
}
