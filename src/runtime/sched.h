/*-------------------------------------------------------------------------
 *
 * sched.h
 *		Rules about time and rate, without a clock: "now" is always passed in.
 *
 * All times are milliseconds on one monotonic axis of the caller's choice.
 * Randomness is passed in as well (0 <= random_fraction < 1), so every rule is a pure
 * function of its arguments.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_RUNTIME_SCHED_H
#define DESS_RUNTIME_SCHED_H

/* 0.5 s doubling to cap, minus up to a quarter (failures from 1). */
extern int64 sched_backoff_ms(int failures, int64 first_ms, int64 cap_ms, double random_fraction);

/* Polls of one batch: first_ms, growing by half each time to five minutes, minus up to a tenth (polls from 0). */
extern int64 sched_poll_ms(int polls, int64 first_ms, double random_fraction);

/*
 * Requests (or tokens) per minute: spread evenly, with a burst of a second's
 * worth, and never more than the limit in any sixty seconds.  Counted by whole
 * seconds, of which a minute touches 61; one more is for what travels slower
 * than what follows it.
 */
#define RATE_SECONDS	62

typedef struct RateWindow
{
	int64		per_minute;		/* 0: no limit */
	double		level;			/* what may be sent now */
	int64		updated_at;
	int64		second;			/* the newest in used */
	int64		total;			/* of used */
	int64		used[RATE_SECONDS]; /* what was taken in each second, by the second's number */
} RateWindow;

extern void sched_rate_init(RateWindow *window, int64 per_minute, int64 now);
extern int64 sched_rate_delay(RateWindow *window, int64 cost, int64 now);	/* 0: go; else ms to wait */
extern void sched_rate_take(RateWindow *window, int64 cost, int64 now);

/* What was taken then has turned out to cost more, or less, by difference. */
extern void sched_rate_correct(RateWindow *window, int64 difference, int64 taken_at, int64 now);

/*
 * How many requests may be in flight.  Slow start; additive growth only after
 * a round of clean successes at 80 % use; one cut by a fifth per cool-down on
 * a 429 (15 s or what the server says); other failures neither cut nor grow.
 */
typedef struct Concurrency
{
	int			limit;			/* in force */
	int			ceiling;		/* max_concurrency */
	int			clean;			/* successes since the last change */
	bool		slow_start;
	int64		cool_until;
	int			closed;			/* of the limit, not to be used before closed_until */
	int64		closed_until;
	int			refusals;		/* rounds of 429 since the last success */
} Concurrency;

extern void sched_concurrency_init(Concurrency *c, int ceiling);

/* in_flight counts the requests that are still under way when this success comes in. */
extern void sched_concurrency_success(Concurrency *c, int in_flight, int64 now);

/* A request was refused with 429; the server asked for this pause (0 or less: for none). */
extern void sched_concurrency_limited(Concurrency *c, int64 retry_after_ms, int64 now);

/* How many more may leave, and when there will be room without a reply (PG_INT64_MAX: never). */
extern int	sched_concurrency_room(const Concurrency *c, int in_flight, int64 now);
extern int64 sched_concurrency_opens(const Concurrency *c, int64 now);

/*
 * Header values.  All return milliseconds from 0 to one day, or -1 when the
 * text is NULL or not understood.  A negative delay and a past date are 0.
 */
extern int64 sched_parse_retry_after(const char *value, int64 now_unix_ms);	/* seconds, or an HTTP date */
extern int64 sched_parse_retry_after_ms(const char *value);	/* "retry-after-ms": milliseconds */
extern int64 sched_parse_duration(const char *value);	/* "12ms", "1m26.4s", "6m0s", "1.5s"; "30" is seconds */

#endif							/* DESS_RUNTIME_SCHED_H */
