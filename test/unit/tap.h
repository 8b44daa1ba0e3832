/*-------------------------------------------------------------------------
 *
 * tap.h
 *		Tests that print TAP, and memory that is given back between them.
 *
 * The modules under test call palloc() and never free: in the server a memory
 * context does.  Here the linker's --wrap leads them to an arena, where every
 * piece is a malloc of its own, so that a sanitizer sees every bound.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_TAP_H
#define DESS_TAP_H

#include "postgres_fe.h"

extern bool ok(bool condition, const char *format,...) pg_attribute_printf(2, 3);
extern bool is_text(const char *got, const char *expected, const char *format,...) pg_attribute_printf(3, 4);
extern bool is_int(int64 got, int64 expected, const char *format,...) pg_attribute_printf(3, 4);

/* Prints the plan and the sums; the program's exit status. */
extern int	done_testing(void);

/* Frees everything that was palloc'd since the last call. */
extern void arena_reset(void);

/* What the text repeated n times is, palloc'd. */
extern char *repeat(const char *text, int n);

/* Milliseconds of processor time that this program has used. */
extern double cpu_ms(void);

#endif							/* DESS_TAP_H */
