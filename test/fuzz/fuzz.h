/*-------------------------------------------------------------------------
 *
 * fuzz.h
 *		What the fuzz targets share.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_FUZZ_H
#define DESS_FUZZ_H

#ifdef FRONTEND
#include "postgres_fe.h"
#endif

extern int	LLVMFuzzerTestOneInput(const uint8 *data, size_t size);
extern void arena_reset(void);

/* What must hold for every input; the fuzzer keeps the one for which it does not. */
#define MUST(condition) \
	do { \
		if (!(condition)) \
		{ \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #condition); \
			abort(); \
		} \
	} while (0)

#endif							/* DESS_FUZZ_H */
