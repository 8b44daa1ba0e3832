/*-------------------------------------------------------------------------
 *
 * sched.c
 *		Rules about time and rate, without a clock.
 *
 * Every number may come from a remote party, so none is trusted: what a
 * server asks for is bounded to a day, and no sum can overflow.  A request
 * that costs more than the burst is let through when the burst is there and
 * leaves a debt; otherwise it would wait for ever.
 *
 *-------------------------------------------------------------------------
 */
#ifndef FRONTEND
#include "postgres.h"
#else
#include "postgres_fe.h"
#endif

#include <math.h>

#include "sched.h"

#define DAY_MS				INT64CONST(86400000)
#define POLL_CAP_MS			INT64CONST(300000)
#define COOL_DOWN_MS		INT64CONST(15000)
#define FIRST_CONCURRENCY	4

static int64
clamp_day(double ms)
{
	if (!(ms > 0))
		return 0;
	return ms >= (double) DAY_MS ? DAY_MS : (int64) (ms + 0.5);
}

int64
sched_backoff_ms(int failures, int64 first_ms, int64 cap_ms, double dice)
{
	int64		ms = Max(first_ms, 1);

	while (--failures > 0 && ms < cap_ms)
		ms = ms > cap_ms / 2 ? cap_ms : ms * 2;
	ms = Max(Min(ms, cap_ms), 1);
	return ms - (int64) ((double) ms * 0.25 * dice);
}

int64
sched_poll_ms(int polls, int64 first_ms, double dice)
{
	int64		first = Max(first_ms, 1);
	int64		cap = Max(first, POLL_CAP_MS);
	int64		ms = first;

	while (polls-- > 0 && ms < cap)
		ms += Max(ms / 2, 1);
	ms = Min(ms, cap);
	return ms - (int64) ((double) ms * 0.1 * dice);
}

static double
rate_burst(const RateWindow *window)
{
	return Max((double) window->per_minute / 10, 1.0);
}

static void
rate_refill(RateWindow *window, int64 now)
{
	if (now > window->updated_at)
	{
		double		elapsed = (double) now - (double) window->updated_at;

		window->level = Min(rate_burst(window),
							window->level + elapsed * (double) window->per_minute / 60000);
	}
	window->updated_at = now;
}

void
sched_rate_init(RateWindow *window, int64 per_minute, int64 now)
{
	window->per_minute = Max(per_minute, 0);
	window->level = rate_burst(window);
	window->updated_at = now;
}

int64
sched_rate_delay(RateWindow *window, int64 cost, int64 now)
{
	double		need;
	double		ms;

	if (window->per_minute == 0 || cost <= 0)
		return 0;
	rate_refill(window, now);
	need = Min((double) cost, rate_burst(window));

	/* a millionth is what rounding may lose while the level grows */
	if (window->level >= need - 1e-6)
		return 0;
	ms = ceil((need - window->level - 1e-6) * 60000 / (double) window->per_minute);
	return Max(clamp_day(ms), 1);
}

void
sched_rate_take(RateWindow *window, int64 cost, int64 now)
{
	if (window->per_minute == 0 || cost <= 0)
		return;
	rate_refill(window, now);
	window->level -= (double) cost;
}

void
sched_concurrency_init(Concurrency *c, int ceiling)
{
	c->ceiling = Max(ceiling, 1);
	c->limit = Min(c->ceiling, FIRST_CONCURRENCY);
	c->clean = 0;
	c->slow_start = true;
	c->cool_until = PG_INT64_MIN;
}

/*
 * During slow start every success raises the limit by one, which doubles it
 * in a round; later a round of successes does.  A success counts only where
 * the limit was nearly used up: an idle line says nothing about a higher one.
 */
void
sched_concurrency_success(Concurrency *c, int in_flight, int64 now)
{
	if (now < c->cool_until || c->limit >= c->ceiling ||
		((int64) in_flight + 1) * 5 < (int64) c->limit * 4)
		return;
	c->clean++;
	if (!c->slow_start && c->clean < c->limit)
		return;
	c->limit++;
	c->clean = 0;
}

void
sched_concurrency_limited(Concurrency *c, int64 retry_after_ms, int64 now)
{
	int64		wait = Min(Max(retry_after_ms, 0), DAY_MS);

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
