/*-------------------------------------------------------------------------
 *
 * test_sched.c
 *		Tests of src/sched.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "runtime/sched.h"
#include "tap.h"

#define DAY INT64CONST(86400000)

/* 2026-11-22 12:00:00 UTC */
#define NOW INT64CONST(1795348800000)

static void
test_backoff(void)
{
	static const struct
	{
		int			failures;
		int64		first;
		int64		cap;
		double		random_fraction;
		int64		expected;
	}			cases[] = {
		{1, 500, 8000, 0, 500}, {2, 500, 8000, 0, 1000}, {3, 500, 8000, 0, 2000},
		{5, 500, 8000, 0, 8000}, {6, 500, 8000, 0, 8000}, {1000000000, 500, 8000, 0, 8000},
		{1, 500, 8000, 0.5, 438}, {5, 500, 8000, 0.999999, 6001},
		{0, 500, 8000, 0, 500}, {-7, 500, 8000, 0, 500},
		{1, 500, 100, 0, 100}, {1, 0, 8000, 0, 1}, {1, 0, 0, 0.9, 1},
		{100, 1, PG_INT64_MAX, 0, PG_INT64_MAX}, {4, 3, 20, 0, 20}
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_int(sched_backoff_ms(cases[i].failures, cases[i].first, cases[i].cap, cases[i].random_fraction),
			   cases[i].expected, "back-off after %d failures from " INT64_FORMAT " to " INT64_FORMAT ", random_fraction %g",
			   cases[i].failures, cases[i].first, cases[i].cap, cases[i].random_fraction);
}

static void
test_poll(void)
{
	static const struct
	{
		int			polls;
		int64		first;
		double		random_fraction;
		int64		expected;
	}			cases[] = {
		{0, 30000, 0, 30000}, {1, 30000, 0, 45000}, {2, 30000, 0, 67500}, {5, 30000, 0, 227812},
		{6, 30000, 0, 300000}, {1000000, 30000, 0, 300000}, {0, 30000, 0.5, 28500},
		{0, 1000, 0, 1000}, {1, 1, 0, 2}, {100, 1, 0, 300000}, {0, 3600000, 0, 3600000},
		{9, 3600000, 0, 3600000}, {-1, 30000, 0, 30000}, {0, 0, 0, 1}
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_int(sched_poll_ms(cases[i].polls, cases[i].first, cases[i].random_fraction), cases[i].expected,
			   "poll %d from " INT64_FORMAT ", random_fraction %g", cases[i].polls, cases[i].first, cases[i].random_fraction);
}

/* The most of n times, in rising order, that lie within a minute. */
static int
most_in_a_minute(const int64 *times, int n)
{
	int			most = 0;

	for (int first = 0, last = 0; last < n; last++)
	{
		while (times[last] - times[first] > 60000)
			first++;
		most = Max(most, last - first + 1);
	}
	return most;
}

static void
test_rate(void)
{
	static int64 times[40000];
	RateWindow	window;
	int			sent = 0;

	sched_rate_init(&window, 0, 0);
	is_int(sched_rate_delay(&window, 1000000, 0), 0, "no limit, no delay");
	sched_rate_take(&window, 1000000, 0);
	is_int(sched_rate_delay(&window, 1, 0), 0, "no limit, no debt");

	/* an hour in steps of a millisecond: never more than 600 in a minute, and not much less */
	sched_rate_init(&window, 600, 0);
	for (int64 now = 0; now < 3600000; now++)
	{
		if (sched_rate_delay(&window, 1, now) == 0)
		{
			sched_rate_take(&window, 1, now);
			times[sent++] = now;
		}
	}
	ok(sent >= 34500 && sent <= 36000, "600 per minute for an hour: %d", sent);
	is_int(most_in_a_minute(times, sent), 600, "no more in any minute of it");

	/* what the delay says is neither too short nor much too long */
	sched_rate_init(&window, 600, 0);
	for (int i = 0; i < 10; i++)
		sched_rate_take(&window, 1, 0);
	is_int(sched_rate_delay(&window, 1, 0), 100, "after the burst one every 100 ms");
	is_int(sched_rate_delay(&window, 1, 99), 1, "almost");
	is_int(sched_rate_delay(&window, 1, 100), 0, "after the delay it may go");

	sched_rate_init(&window, 12000, 0);
	is_int(sched_rate_delay(&window, 5000, 0), 0, "a cost above the burst goes when the burst is there");
	sched_rate_take(&window, 5000, 0);
	is_int(sched_rate_delay(&window, 1, 0), 24005, "and leaves a debt");
	is_int(sched_rate_delay(&window, 5000, 26000), 0, "after which the next goes");
	sched_rate_take(&window, 5000, 26000);
	is_int(sched_rate_delay(&window, 5000, 55000), 7000, "a third would be too much for the minute");
	is_int(sched_rate_delay(&window, 2000, 55000), 0, "a smaller one is not");
	sched_rate_take(&window, 2000, 55000);
	is_int(sched_rate_delay(&window, 5000, 70000), 0, "the first is past");
	is_int(sched_rate_delay(&window, 50000, 70000), 47000, "what is more than a minute's waits for an empty minute");
	is_int(sched_rate_delay(&window, 50000, 117000), 0, "and goes then");

	sched_rate_init(&window, 1, 0);
	is_int(sched_rate_delay(&window, 1, 0), 0, "one per minute: the first goes");
	sched_rate_take(&window, 1, 0);
	is_int(sched_rate_delay(&window, 1, 0), 62000, "one per minute: the second waits");
	is_int(sched_rate_delay(&window, 1, -5000), 67000, "a clock that went back gives nothing");
	is_int(sched_rate_delay(&window, 1, PG_INT64_MAX), 0, "a clock that jumped gives the burst");
	is_int(sched_rate_delay(&window, -5, 0), 0, "a cost below zero is free");
	sched_rate_init(&window, 60, INT64CONST(100000000));
	sched_rate_take(&window, 60, INT64CONST(100000000));
	ok(sched_rate_delay(&window, 60, INT64CONST(50000000)) <= 62000, "a clock that went back by hours is a minute's wait");

	/* what turns out to cost more is counted when it left, and ends with that second */
	sched_rate_init(&window, 6000, 0);
	sched_rate_take(&window, 100, 1000);
	sched_rate_correct(&window, 5900, 1000, 9000);
	is_int(sched_rate_delay(&window, 50, 61000), 6500, "tokens that were found out later count");
	is_int(sched_rate_delay(&window, 50, 67500), 0, "until they are made up for");
	sched_rate_take(&window, 6000, 70000);
	sched_rate_correct(&window, -5950, 70000, 71000);
	is_int(sched_rate_delay(&window, 50, 71000), 0, "what was not used is given back");
	sched_rate_correct(&window, 100000, 1000, 71000);
	ok(sched_rate_delay(&window, 50, 2000000) == 0, "what left long ago is past");

	sched_rate_init(&window, 1, 0);
	sched_rate_take(&window, PG_INT64_MAX, 0);
	is_int(sched_rate_delay(&window, PG_INT64_MAX, 0), DAY, "an absurd debt waits a day at a time");
	sched_rate_init(&window, PG_INT64_MAX, 0);
	is_int(sched_rate_delay(&window, 1, 0), 0, "an absurd limit is none");
	sched_rate_init(&window, -3, 0);
	is_int(sched_rate_delay(&window, 1, 0), 0, "a limit below zero is none");
}

static void
test_concurrency(void)
{
	Concurrency c;
	int			limit;

	sched_concurrency_init(&c, 64);
	is_int(c.limit, 4, "starts with a few");
	for (int i = 0; i < 4; i++)
		sched_concurrency_success(&c, c.limit - 1, 0);
	is_int(c.limit, 8, "slow start doubles in a round");
	for (int i = 0; i < 100; i++)
		sched_concurrency_success(&c, 5, 0);
	is_int(c.limit, 8, "an idle line does not raise it");
	for (int i = 0; i < 1000; i++)
		sched_concurrency_success(&c, c.limit, 0);
	is_int(c.limit, 64, "the ceiling holds");

	sched_concurrency_limited(&c, -1, 1000);
	is_int(c.limit, 52, "a 429 cuts by a fifth");
	is_int(c.cool_until, 16000, "and cools for 15 s");
	sched_concurrency_limited(&c, -1, 1001);
	sched_concurrency_limited(&c, 0, 15999);
	is_int(c.limit, 52, "one cut per cool-down");
	is_int(c.cool_until, 16000, "which those 429 do not prolong");
	sched_concurrency_limited(&c, 30000, 2000);
	is_int(c.cool_until, 32000, "unless the server says so");
	for (int i = 0; i < 1000; i++)
		sched_concurrency_success(&c, c.limit, 31999);
	is_int(c.limit, 52, "no growth while cooling");
	for (int i = 0; i < 51; i++)
		sched_concurrency_success(&c, c.limit, 32000);
	is_int(c.limit, 52, "later growth needs a whole round");
	sched_concurrency_success(&c, c.limit, 32000);
	is_int(c.limit, 53, "and is by one");
	for (int i = 0; i < 53; i++)
		sched_concurrency_success(&c, c.limit, 32000);
	is_int(c.limit, 54, "a round for every one");

	sched_concurrency_limited(&c, 60000, 40000);
	is_int(c.limit, 44, "the next cool-down cuts again");
	is_int(c.cool_until, 100000, "for as long as the server says");
	sched_concurrency_limited(&c, PG_INT64_MAX, 100000);
	is_int(c.cool_until, 100000 + DAY, "but a day at most");

	limit = c.limit;
	for (int64 now = 2 * DAY; c.limit > 1 && now < 100 * DAY; now += DAY)
	{
		sched_concurrency_limited(&c, -1, now);
		ok(c.limit < limit && c.limit >= 1, "cut from %d to %d", limit, c.limit);
		limit = c.limit;
	}
	sched_concurrency_limited(&c, -1, 200 * DAY);
	is_int(c.limit, 1, "one is left");
	sched_concurrency_success(&c, 0, 300 * DAY);
	is_int(c.limit, 2, "and can grow again");

	sched_concurrency_init(&c, 1);
	sched_concurrency_success(&c, 1, 0);
	is_int(c.limit, 1, "a ceiling of one");
	sched_concurrency_init(&c, -5);
	is_int(c.limit, 1, "no ceiling below one");
	sched_concurrency_limited(&c, -1, 0);
	is_int(c.limit, 1, "nor a limit");
}

/* What a server that takes 20 at a time gets to do, by the rules alone; in steps of 10 ms. */
static void
play_server(int capacity, int latency_ms, int64 from, int64 until, int64 *served, int64 *refused)
{
	static int64 ends[1000];
	Concurrency c;
	int			n = 0;

	*served = *refused = 0;
	sched_concurrency_init(&c, 64);
	for (int64 now = 0; now < until; now += 10)
	{
		for (int i = 0; i < n; i++)
		{
			if (ends[i] > now)
				continue;
			sched_concurrency_success(&c, n, now);
			*served += (now >= from);
			ends[i--] = ends[--n];
		}
		for (int room = sched_concurrency_room(&c, n, now); room > 0; room--)
		{
			if (n < capacity)
				ends[n++] = now + latency_ms;
			else
			{
				sched_concurrency_limited(&c, -1, now);
				*refused += (now >= from);
			}
		}
	}
}

static void
test_adaption(void)
{
	static const int latencies[] = {50, 200, 1000, 5000};

	for (int i = 0; i < lengthof(latencies); i++)
	{
		int64		served;
		int64		refused;
		int64		possible = INT64CONST(540000) / latencies[i] * 20;

		play_server(20, latencies[i], 60000, 600000, &served, &refused);
		ok(served >= possible * 80 / 100, "20 at a time, %d ms: " INT64_FORMAT " of " INT64_FORMAT " served",
		   latencies[i], served, possible);
		ok(refused * 20 < served + refused, "and " INT64_FORMAT " refused", refused);
	}
}

static void
test_closed_slots(void)
{
	Concurrency c;

	sched_concurrency_init(&c, 64);
	c.limit = 10;
	is_int(sched_concurrency_room(&c, 4, 0), 6, "room is what the limit leaves");
	is_int(sched_concurrency_opens(&c, 0), PG_INT64_MAX, "no slot is closed");
	sched_concurrency_limited(&c, -1, 1000);
	sched_concurrency_limited(&c, -1, 1000);
	is_int(c.limit, 8, "the limit is cut");
	is_int(sched_concurrency_room(&c, 4, 1000), 2, "and two slots are closed");
	is_int(sched_concurrency_opens(&c, 1000), 1500, "for half a second");
	is_int(sched_concurrency_room(&c, 4, 1500), 4, "then they open");
	sched_concurrency_limited(&c, 0, 1500);
	is_int(sched_concurrency_opens(&c, 1500), 2500, "refused again, for longer");
	sched_concurrency_limited(&c, 200, 2500);
	is_int(sched_concurrency_opens(&c, 2500), 2700, "or for as long as the server says");
	sched_concurrency_limited(&c, 9000, 2600);
	is_int(sched_concurrency_opens(&c, 2600), 11600, "the longest that it says");
	sched_concurrency_success(&c, 1, 12000);
	sched_concurrency_limited(&c, -1, 12000);
	is_int(sched_concurrency_opens(&c, 12000), 12500, "a success begins anew");
	for (int64 now = 20000, next; now < DAY; now = next)
	{
		sched_concurrency_limited(&c, -1, now);
		next = sched_concurrency_opens(&c, now);
		if (next > now + 60000 || next <= now)
		{
			ok(false, "closed from " INT64_FORMAT " to " INT64_FORMAT, now, next);
			break;
		}
	}
	is_int(c.refusals, 100, "refusals are counted up to an end");
	for (int i = 0; i < 100; i++)
		sched_concurrency_limited(&c, -1, 2 * DAY);
	is_int(sched_concurrency_room(&c, 0, 2 * DAY), 0, "all slots may be closed");
}

static void
test_retry_after(void)
{
	static const struct
	{
		const char *value;
		int64		expected;
	}			cases[] = {
		{"0", 0}, {"1", 1000}, {"30", 30000}, {"1.5", 1500}, {"0.0004", 0}, {".25", 250}, {"3.", 3000},
		{"  20  ", 20000}, {"-1", 0}, {"-0.5", 0}, {"86400", DAY}, {"86401", DAY},
		{"99999999999999999999999999999999", DAY},
		{"", -1}, {" ", -1}, {"-", -1}, {".", -1}, {"nan", -1}, {"inf", -1}, {"-inf", -1}, {"NaN", -1},
		{"1e3", -1}, {"0x10", -1}, {"+5", -1}, {"--5", -1}, {"5s", -1}, {"1,5", -1}, {"1 2", -1}, {"soon", -1},
		{"Sun, 22 Nov 2026 12:00:30 GMT", 30000},
		{"Sun, 22 Nov 2026 12:00:30 UTC", 30000},
		{"Sunday, 22-Nov-26 12:01:00 GMT", 60000},
		{"Sun Nov 22 12:00:05 2026", 5000},
		{"Sun, 22 Nov 2026 11:00:00 GMT", 0},
		{"Sun, 06 Nov 1994 08:49:37 GMT", 0},
		{"Sunday, 06-Nov-94 08:49:37 GMT", 0},
		{"Sun Nov  6 08:49:37 1994", 0},
		{"Mon, 23 Nov 2026 12:00:00 GMT", DAY},
		{"Fri, 31 Dec 9999 23:59:59 GMT", DAY},
		{"Mon, 23 Nov 2026 00:00:00 GMT", 43200000},
		{"Sunday, 22-Nov-76 12:00:00 GMT", DAY},
		{"Monday, 22-Nov-77 12:00:00 GMT", 0},
		{"Sun, 22 Nov 2026 12:00:60 GMT", 60000},
		{"Sun, 22 Nov 2026 12:00:30", -1}, {"Sun, 22 Nov 2026 12:00:30 PST", -1},
		{"Sun, 22 Nov 2026 25:00:30 GMT", -1}, {"Sun, 32 Nov 2026 12:00:30 GMT", -1},
		{"Sun, 00 Nov 2026 12:00:30 GMT", -1}, {"Sun, 22 Nop 2026 12:00:30 GMT", -1},
		{"Sun, 22 Nov 2026 12:60:30 GMT", -1}, {"Sun, 22 Nov 2026 12:00:30 GMT x", -1},
		{"Sun, 22 Nov 20261 12:00:30 GMT", -1}, {"Sun, 22 Nov 202 12:00:30 GMT", -1},
		{"Sun, 22 Nov", -1}, {"Sun,", -1}, {"Sun", -1}, {"Sun, 22", -1}, {"Sun, 22-", -1}, {"Sun, 22 Nov 2026", -1},
		{"Sun Nov", -1}, {"Sun Nov 22", -1}, {"Sun Nov 22 12:00:05", -1}, {"S, 22 Nov 2026 12:00:30 GMT", -1},
		{"2026-11-22T12:00:30Z", -1}, {"Sun, 22-Nov 2026 12:00:30 GMT", -1}
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_int(sched_parse_retry_after(cases[i].value, NOW), cases[i].expected, "retry-after \"%s\"", cases[i].value);
	is_int(sched_parse_retry_after(NULL, NOW), -1, "no retry-after");
	is_int(sched_parse_retry_after("Thu, 01 Jan 1970 00:00:10 GMT", 0), 10000, "the epoch");
	is_int(sched_parse_retry_after("Tue, 29 Feb 2028 00:00:00 GMT", INT64CONST(1835308800000)), DAY, "a leap day");
	is_int(sched_parse_retry_after("Wed, 01 Mar 2028 00:00:00 GMT", INT64CONST(1835481540000)), 60000, "the day after");
	is_int(sched_parse_retry_after("Saturday, 01-Jan-00 00:00:01 GMT", INT64CONST(4102444800000)), 1000, "two digits in 2100");
	is_int(sched_parse_retry_after("Sun, 22 Nov 2026 12:00:30 GMT", PG_INT64_MAX), 0, "a clock at its end");
	is_int(sched_parse_retry_after("Sunday, 22-Nov-26 12:00:30 GMT", PG_INT64_MIN), DAY, "a clock at its beginning");

	is_int(sched_parse_retry_after_ms("12.5"), 13, "retry-after-ms with a fraction");
	is_int(sched_parse_retry_after_ms(" 1500 "), 1500, "retry-after-ms");
	is_int(sched_parse_retry_after_ms("-1"), 0, "retry-after-ms below zero");
	is_int(sched_parse_retry_after_ms("1e9"), -1, "retry-after-ms with an exponent");
	is_int(sched_parse_retry_after_ms(NULL), -1, "no retry-after-ms");
}

static void
test_duration(void)
{
	static const struct
	{
		const char *value;
		int64		expected;
	}			cases[] = {
		{"12ms", 12}, {"1s", 1000}, {"6m0s", 360000}, {"1m26.4s", 86400}, {"1.5s", 1500}, {"26.4s", 26400},
		{"1h", 3600000}, {"23h59m59s", 86399000}, {"1d", DAY}, {"2d", DAY}, {"1h1m1s1ms", 3661001},
		{"0s", 0}, {"0", 0}, {"30", 30000}, {"1.5", 1500}, {" 1s ", 1000}, {"32s", 32000}, {"0.5ms", 1},
		{"999999999999999999999999999999h", DAY},
		{"", -1}, {" ", -1}, {"s", -1}, {"-1", -1}, {"-1s", -1}, {"1x", -1}, {"1s x", -1}, {"1m26", -1}, {"1m 2s", -1},
		{"nan", -1}, {"1 s", -1}, {"ms", -1}, {".s", -1}, {"1..5s", -1}, {"1S", -1}
	};

	for (int i = 0; i < lengthof(cases); i++)
		is_int(sched_parse_duration(cases[i].value), cases[i].expected, "duration \"%s\"", cases[i].value);
	is_int(sched_parse_duration(NULL), -1, "no duration");
	is_int(sched_parse_duration(repeat("1s", 50000)), 50000000, "fifty thousand durations");
	is_int(sched_parse_duration(repeat("9", 100000)), DAY, "a hundred thousand digits");
	arena_reset();
}

int
main(void)
{
	test_backoff();
	test_poll();
	test_rate();
	test_concurrency();
	test_closed_slots();
	test_adaption();
	test_retry_after();
	test_duration();
	return done_testing();
}
