/*-------------------------------------------------------------------------
 *
 * tap.c
 *		Tests that print TAP.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

#include <time.h>

#include "tap.h"

static int	passed = 0;
static int	failed = 0;

/* Prints one result; a line break in a name would end it, so it is shown as a blank. */
static void
print_result(bool good, const char *format, va_list args)
{
	char		name[400];

	vsnprintf(name, sizeof(name), format, args);
	for (char *p = name; *p != '\0'; p++)
	{
		if ((unsigned char) *p < ' ' || *p == '#')
			*p = ' ';
	}
	if (good)
		passed++;
	else
		failed++;
	printf("%s %d - %s\n", good ? "ok" : "not ok", passed + failed, name);
}

bool
ok(bool condition, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	print_result(condition, format, args);
	va_end(args);
	return condition;
}

bool
is_text(const char *got, const char *expected, const char *format,...)
{
	va_list		args;
	bool		same = got == NULL || expected == NULL ? got == expected : strcmp(got, expected) == 0;

	va_start(args, format);
	print_result(same, format, args);
	va_end(args);
	if (!same)
		printf("#      got: %.300s\n# expected: %.300s\n", got ? got : "(null)", expected ? expected : "(null)");
	return same;
}

bool
is_int(int64 got, int64 expected, const char *format,...)
{
	va_list		args;

	va_start(args, format);
	print_result(got == expected, format, args);
	va_end(args);
	if (got != expected)
		printf("#      got: " INT64_FORMAT "\n# expected: " INT64_FORMAT "\n", got, expected);
	return got == expected;
}

int
done_testing(void)
{
	printf("1..%d\n# %d passed, %d failed\n", passed + failed, passed, failed);
	return failed == 0 ? 0 : 1;
}

char *
repeat(const char *text, int n)
{
	size_t		length = strlen(text);
	char	   *result = palloc(length * n + 1);

	for (int i = 0; i < n; i++)
		memcpy(result + i * length, text, length);
	result[length * n] = '\0';
	return result;
}

double
cpu_ms(void)
{
	return (double) clock() * 1000 / CLOCKS_PER_SEC;
}
