/*-------------------------------------------------------------------------
 *
 * clock.h
 *		Points in time from now on, and chance.  Rules (sched.h) get both passed in.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_CLOCK_H
#define DESS_RUNTIME_CLOCK_H

#include "common/pg_prng.h"
#include "utils/timestamp.h"

static inline TimestampTz
ms_from_now(int64 ms)
{
	return GetCurrentTimestamp() + ms * 1000;
}

/* At least 0 and less than 1. */
static inline double
random_fraction(void)
{
	return pg_prng_double(&pg_global_prng_state);
}

#endif							/* DESS_RUNTIME_CLOCK_H */
