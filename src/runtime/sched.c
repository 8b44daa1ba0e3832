/*-------------------------------------------------------------------------
 *
 * sched.c
 *		Rules about time and rate, without a clock.
 *
 * Every number may come from a remote party, so none is trusted: what a
 * server asks for is bounded to a day, and no sum can overflow.
 *
 * A rate is kept twice over.  A bucket spreads requests evenly; because what
 * it lets through in a minute exceeds the limit by the burst, what was taken is
 * also counted by the second, and no sixty seconds have more than the limit.
 * A request that costs more than the burst is let through when the burst is
 * there and leaves a debt, one that costs more than the limit when nothing
 * else was taken; otherwise they would wait for ever.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <math.h>

#include "runtime/sched.h"

#define DAY_MS				INT64CONST(86400000)
#define POLL_CAP_MS			INT64CONST(300000)
#define COOL_DOWN_MS		INT64CONST(15000)
#define FIRST_CONCURRENCY	4
#define CLOSED_FIRST_MS		500
#define CLOSED_CAP_MS		60000
/* no sum of a minute's costs overflows */
#define RATE_MOST			(PG_INT64_MAX / 1000000000)

static int64
clamp_day(double ms)
{
	if (!(ms > 0))
		return 0;
	return ms >= (double) DAY_MS ? DAY_MS : (int64) (ms + 0.5);
}

int64
sched_backoff_ms(int failures, int64 first_ms, int64 cap_ms, double random_fraction)
{
	int64		ms = Max(first_ms, 1);

	while (--failures > 0 && ms < cap_ms)
		ms = ms > cap_ms / 2 ? cap_ms : ms * 2;
	ms = Max(Min(ms, cap_ms), 1);
	return ms - (int64) ((double) ms * 0.25 * random_fraction);
}

int64
sched_poll_ms(int polls, int64 first_ms, double random_fraction)
{
	int64		first = Max(first_ms, 1);
	int64		cap = Max(first, POLL_CAP_MS);
	int64		ms = first;

	while (polls-- > 0 && ms < cap)
		ms += Max(ms / 2, 1);
	ms = Min(ms, cap);
	return ms - (int64) ((double) ms * 0.1 * random_fraction);
}

/* One second's worth. */
static double
rate_burst(const RateWindow *window)
{
	return Max((double) window->per_minute / 60, 1.0);
}

/* Which bucket a time falls into. */
static int64
rate_second(int64 now)
{
	return Max(now, 0) / 1000;
}

/* Fills the bucket, and forgets seconds that are past. */
static void
rate_refill(RateWindow *window, int64 now)
{
	int64		second = rate_second(now);
	int64		passed = Min(second - window->second, RATE_SECONDS);

	if (passed < 0)
	{
		/* a clock that went back: the minute begins again, with nothing given back */
		memset(window->used, 0, sizeof(window->used));
		window->used[second % RATE_SECONDS] = window->total;
	}
	if (now > window->updated_at)
	{
		double		elapsed = (double) now - (double) window->updated_at;

		window->level = Min(rate_burst(window),
							window->level + elapsed * (double) window->per_minute / 60000);
	}
	window->updated_at = now;
	for (int64 i = 1; i <= passed; i++)
	{
		int64	   *oldest = &window->used[(window->second + i) % RATE_SECONDS];

		window->total -= *oldest;
		*oldest = 0;
	}
	window->second = second;
}

void
sched_rate_init(RateWindow *window, int64 per_minute, int64 now)
{
	memset(window, 0, sizeof(RateWindow));
	window->per_minute = Max(per_minute, 0);
	window->level = rate_burst(window);
	window->updated_at = now;
	window->second = rate_second(now);
}

/* When so much of the minute is past that cost fits into what is left of it. */
static int64
rate_minute_delay(const RateWindow *window, int64 cost, int64 now)
{
	int64		left = window->total;
	int64		oldest = window->second - RATE_SECONDS + 1;

	for (int i = 0; i < RATE_SECONDS; i++)
	{
		if (left <= 0 || cost <= window->per_minute - left)
			return i == 0 ? 0 : (oldest + i - 1 + RATE_SECONDS) * 1000 - now;
		left -= window->used[(oldest + i + RATE_SECONDS) % RATE_SECONDS];
	}
	return (window->second + RATE_SECONDS) * 1000 - now;
}

int64
sched_rate_delay(RateWindow *window, int64 cost, int64 now)
{
	double		need;
	double		ms = 0;

	if (window->per_minute == 0 || cost <= 0)
		return 0;
	cost = Min(cost, RATE_MOST);
	rate_refill(window, now);
	need = Min((double) cost, rate_burst(window));

	/* a millionth is what rounding may lose while the level grows */
	if (window->level < need - 1e-6)
		ms = Max(ceil((need - window->level - 1e-6) * 60000 / (double) window->per_minute), 1);
	return Max(clamp_day(ms), Min(rate_minute_delay(window, cost, now), DAY_MS));
}

void
sched_rate_take(RateWindow *window, int64 cost, int64 now)
{
	if (window->per_minute == 0 || cost <= 0)
		return;
	rate_refill(window, now);
	sched_rate_correct(window, cost, now, now);
}

void
sched_rate_correct(RateWindow *window, int64 difference, int64 taken_at, int64 now)
{
	int64		second;

	if (window->per_minute == 0)
		return;
	rate_refill(window, now);
	difference = Max(Min(difference, RATE_MOST), -RATE_MOST);
	window->level = Min(rate_burst(window), window->level - (double) difference);
	second = Min(rate_second(taken_at), window->second);
	if (window->second - second < RATE_SECONDS)
	{
		window->used[second % RATE_SECONDS] += difference;
		window->total += difference;
	}
}

void
sched_concurrency_init(Concurrency *c, int ceiling)
{
	memset(c, 0, sizeof(Concurrency));
	c->ceiling = Max(ceiling, 1);
	c->limit = Min(c->ceiling, FIRST_CONCURRENCY);
	c->slow_start = true;
	c->cool_until = PG_INT64_MIN;
	c->closed_until = PG_INT64_MIN;
}

/*
 * During slow start every success raises the limit by one, which doubles it
 * in a round; later a round of successes does.  A success counts only where
 * the limit was nearly used up: an idle line says nothing about a higher one.
 */
void
sched_concurrency_success(Concurrency *c, int in_flight, int64 now)
{
	c->refusals = 0;
	if (now < c->cool_until || c->limit >= c->ceiling ||
		((int64) in_flight + 1) * 5 < (int64) c->limit * 4)
		return;
	c->clean++;
	if (!c->slow_start && c->clean < c->limit)
		return;
	c->limit++;
	c->clean = 0;
}

/*
 * The slot of the refused request stays closed for a while, so that what the
 * limit is too high by is not asked for again and again until the next cut,
 * while the others go on.  Slots that close together open together; the time
 * grows as long as nothing else succeeds.
 */
static void
close_slot(Concurrency *c, int64 wait, int64 now)
{
	if (now >= c->closed_until)
	{
		c->closed = 0;
		c->refusals = Min(c->refusals + 1, 100);
		c->closed_until = now + sched_backoff_ms(c->refusals, CLOSED_FIRST_MS, CLOSED_CAP_MS, 0);
		if (wait > 0)
			c->closed_until = now + wait;
	}
	c->closed_until = Max(c->closed_until, now + wait);
	c->closed++;
}

void
sched_concurrency_limited(Concurrency *c, int64 retry_after_ms, int64 now)
{
	int64		wait = Min(Max(retry_after_ms, 0), DAY_MS);

	close_slot(c, wait, now);
	if (now < c->cool_until)
	{
		c->cool_until = Max(c->cool_until, now + wait);
		return;
	}
	c->limit = Max(c->limit - Max(c->limit / 5, 1), 1);
	c->clean = 0;
	c->slow_start = false;
	c->cool_until = now + Max(wait, COOL_DOWN_MS);
}

int
sched_concurrency_room(const Concurrency *c, int in_flight, int64 now)
{
	int			closed = now < c->closed_until ? c->closed : 0;

	return Max(c->limit - closed - in_flight, 0);
}

int64
sched_concurrency_opens(const Concurrency *c, int64 now)
{
	return now < c->closed_until ? c->closed_until : PG_INT64_MAX;
}

/*
 * Reads digits with an optional fraction and moves *p behind them.  strtod()
 * would follow the locale and take "nan", "inf" and hexadecimal digits.
 */
static bool
parse_decimal(const char **p, double *result)
{
	const char *s = *p;
	double		value = 0;
	double		unit = 1;
	int			digits = 0;

	for (; *s >= '0' && *s <= '9'; s++, digits++)
		value = value * 10 + (*s - '0');
	if (*s == '.')
	{
		for (s++; *s >= '0' && *s <= '9'; s++, digits++)
		{
			unit /= 10;
			value += (*s - '0') * unit;
		}
	}
	if (digits == 0)
		return false;
	*p = s;
	*result = value;
	return true;
}

static const char *
skip_blanks(const char *s)
{
	while (*s == ' ' || *s == '\t')
		s++;
	return s;
}

/*
 * A number of one or two digits in front of which blanks may stand, and the
 * character that must follow unless it is NUL; -1 if there is none.
 */
static int
parse_field(const char **p, char after)
{
	const char *s = skip_blanks(*p);
	int			value = 0;
	int			digits = 0;

	for (; *s >= '0' && *s <= '9' && digits < 2; s++, digits++)
		value = value * 10 + (*s - '0');
	if (digits == 0 || (after != '\0' && *s != after))
		return -1;
	*p = after != '\0' ? s + 1 : s;
	return value;
}

/* Month from 1 by its English three letters; 0 if *p does not start with one. */
static int
parse_month(const char **p)
{
	static const char months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";

	for (int i = 0; i < 12; i++)
	{
		if (strncmp(*p, months + 3 * i, 3) == 0)
		{
			*p += 3;
			return i + 1;
		}
	}
	return 0;
}

/* Four digits, or two that mean the nearest year not more than fifty years ahead. */
static int
parse_year(const char **p, int64 now_unix_ms)
{
	const char *s = skip_blanks(*p);
	int64		now = Min(Max(now_unix_ms, 0), DAY_MS * 2000000);
	int			this_year = 1970 + (int) (now / (DAY_MS * 365.2425));
	int			value = 0;
	int			digits = 0;

	for (; *s >= '0' && *s <= '9' && digits < 4; s++, digits++)
		value = value * 10 + (*s - '0');
	*p = s;
	if (digits == 4)
		return value;
	if (digits != 2)
		return -1;

	value += this_year / 100 * 100;
	if (value > this_year + 50)
		return value - 100;
	if (value <= this_year - 50)
		return value + 100;
	return value;
}

/* Days from 1970-01-01 in the Gregorian calendar; the year starts in March, so that the leap day is its last. */
static int64
days_from_date(int year, int month, int day)
{
	int			y = month <= 2 ? year - 1 : year;
	int			m = month <= 2 ? month + 9 : month - 3;

	return (int64) y * 365 + y / 4 - y / 100 + y / 400 + (m * 153 + 2) / 5 + day - 719469;
}

typedef struct HttpDate
{
	int			year;
	int			month;
	int			day;
	int			hour;
	int			minute;
	int			second;
} HttpDate;

static bool
parse_time(const char **s, HttpDate *date)
{
	return (date->hour = parse_field(s, ':')) >= 0 &&
		(date->minute = parse_field(s, ':')) >= 0 &&
		(date->second = parse_field(s, '\0')) >= 0;
}

/* "Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT" or "Sun Nov  6 08:49:37 1994" */
static bool
parse_http_date(const char *s, int64 now_unix_ms, HttpDate *date)
{
	int			letters = strspn(s, "abcdefghijklmnopqrstuvwxyzSMTWF");

	if (letters < 3)
		return false;
	s += letters;
	if (*s == ',')
	{
		char		separator;

		s++;
		if ((date->day = parse_field(&s, '\0')) < 0)
			return false;
		separator = *s++;
		if ((separator != ' ' && separator != '-') ||
			(date->month = parse_month(&s)) == 0 || *s++ != separator ||
			(date->year = parse_year(&s, now_unix_ms)) < 0 || *s++ != ' ' ||
			!parse_time(&s, date))
			return false;
		s = skip_blanks(s);
		if (strncmp(s, "GMT", 3) != 0 && strncmp(s, "UTC", 3) != 0)
			return false;
		s += 3;
	}
	else
	{
		s = skip_blanks(s);
		if ((date->month = parse_month(&s)) == 0 ||
			(date->day = parse_field(&s, ' ')) < 0 ||
			!parse_time(&s, date) ||
			*s++ != ' ' ||
			(date->year = parse_year(&s, now_unix_ms)) < 0)
			return false;
	}
	return *skip_blanks(s) == '\0' &&
		date->day >= 1 && date->day <= 31 && date->hour <= 23 &&
		date->minute <= 59 && date->second <= 60;
}

/* Seconds with an optional fraction and an optional minus sign, and nothing behind them. */
static bool
parse_number(const char *s, double *result)
{
	bool		negative = (*s == '-');

	if (negative)
		s++;
	if (!parse_decimal(&s, result) || *skip_blanks(s) != '\0')
		return false;
	if (negative)
		*result = 0;
	return true;
}

int64
sched_parse_retry_after(const char *value, int64 now_unix_ms)
{
	HttpDate	date;
	double		seconds;

	if (value == NULL)
		return -1;
	value = skip_blanks(value);
	if (parse_number(value, &seconds))
		return clamp_day(seconds * 1000);
	if (!parse_http_date(value, now_unix_ms, &date))
		return -1;
	seconds = (double) days_from_date(date.year, date.month, date.day) * 86400 +
		date.hour * 3600 + date.minute * 60 + date.second;
	return clamp_day(seconds * 1000 - (double) now_unix_ms);
}

int64
sched_parse_retry_after_ms(const char *value)
{
	double		ms;

	if (value == NULL || !parse_number(skip_blanks(value), &ms))
		return -1;
	return clamp_day(ms);
}

/* Milliseconds of the unit that *p starts with, and moves *p behind it; 0 if there is none. */
static double
parse_unit(const char **p)
{
	static const struct
	{
		const char *name;
		double		ms;
	}			units[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};

	for (int i = 0; i < lengthof(units); i++)
	{
		size_t		length = strlen(units[i].name);

		if (strncmp(*p, units[i].name, length) == 0)
		{
			*p += length;
			return units[i].ms;
		}
	}
	return 0;
}

int64
sched_parse_duration(const char *value)
{
	double		total = 0;
	double		number;

	if (value == NULL)
		return -1;
	value = skip_blanks(value);

	/* a bare number is seconds */
	if (*value != '-' && parse_number(value, &number))
		return clamp_day(number * 1000);

	do
	{
		double		unit;

		if (!parse_decimal(&value, &number) || (unit = parse_unit(&value)) == 0)
			return -1;
		total += number * unit;
	} while (*value != '\0' && *skip_blanks(value) != '\0');
	return clamp_day(total);
}
