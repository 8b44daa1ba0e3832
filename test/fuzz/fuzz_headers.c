/*-------------------------------------------------------------------------
 *
 * fuzz_headers.c
 *		Header values, and the rules that live on what they say.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include "fuzz.h"
#include "runtime/sched.h"

#define DAY INT64CONST(86400000)

static void
check_header(const char *text, int64 now)
{
	int64		results[] = {
		sched_parse_retry_after(text, now), sched_parse_retry_after_ms(text), sched_parse_duration(text)
	};

	for (int i = 0; i < lengthof(results); i++)
		MUST(results[i] >= -1 && results[i] <= DAY);
}

/* Every byte is something that happens. */
static void
check_rules(const uint8 *data, size_t size)
{
	Concurrency c;
	RateWindow	window;
	int64		now = 0;

	sched_concurrency_init(&c, size > 0 ? data[0] : 1);
	sched_rate_init(&window, size > 1 ? data[1] * data[1] : 0, now);
	for (size_t i = 2; i < size; i++)
	{
		int64		delay = sched_rate_delay(&window, data[i], now);
		int			before = c.limit;

		MUST(delay >= 0 && delay <= DAY);
		if (delay == 0)
			sched_rate_take(&window, data[i], now);
		else
		{
			/* waiting as long as was said must be enough */
			now += delay;
			MUST(sched_rate_delay(&window, data[i], now) <= 1);
		}
		if (data[i] & 1)
			sched_concurrency_success(&c, data[i] >> 1, now);
		else
			sched_concurrency_limited(&c, (int64) data[i] * 1000 - 1000, now);
		MUST(c.limit >= 1 && c.limit <= c.ceiling);
		MUST(c.limit <= before + 1);
		now += data[i] * 100;
	}
}

int
LLVMFuzzerTestOneInput(const uint8 *data, size_t size)
{
	char	   *text = palloc(size + 1);
	int64		now = 0;

	memcpy(text, data, size);
	text[size] = '\0';
	memcpy(&now, data, Min(size, 8));
	check_header(text, INT64CONST(1795348800000));
	check_header(text, now);
	check_rules(data, size);
	arena_reset();
	return 0;
}
