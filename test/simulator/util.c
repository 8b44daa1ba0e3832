/*
 * util.c
 *		Memory, byte buffers, clocks, hashes, identifiers.
 *
 * Running out of memory ends the process: a simulator that half works is
 * worse than none.
 */
#include "sim.h"

#include <pthread.h>
#include <stdarg.h>
#include <time.h>

void
die(const char *fmt,...)
{
	va_list		args;

	va_start(args, fmt);
	fputs("simulator: ", stderr);
	vfprintf(stderr, fmt, args);
	fputc('\n', stderr);
	va_end(args);
	exit(1);
}

void *
xmalloc(size_t n)
{
	void	   *p = malloc(n ? n : 1);

	if (p == NULL)
		die("out of memory");
	return p;
}

void *
xcalloc(size_t n)
{
	void	   *p = calloc(1, n ? n : 1);

	if (p == NULL)
		die("out of memory");
	return p;
}

void *
xrealloc(void *p, size_t n)
{
	p = realloc(p, n ? n : 1);
	if (p == NULL)
		die("out of memory");
	return p;
}

char *
xstrndup(const char *s, size_t n)
{
	char	   *p = xmalloc(n + 1);

	memcpy(p, s, n);
	p[n] = '\0';
	return p;
}

char *
xstrdup(const char *s)
{
	return xstrndup(s, strlen(s));
}

void
buf_free(StrBuf *b)
{
	free(b->data);
	memset(b, 0, sizeof(*b));
}

void
buf_reset(StrBuf *b)
{
	b->len = 0;
	if (b->data != NULL)
		b->data[0] = '\0';
}

void
buf_reserve(StrBuf *b, size_t more)
{
	if (b->len + more + 1 > b->cap)
	{
		size_t		cap = b->cap ? b->cap * 2 : 256;

		while (cap < b->len + more + 1)
			cap *= 2;
		b->data = xrealloc(b->data, cap);
		b->cap = cap;
	}
}

void
buf_add(StrBuf *b, const char *data, size_t len)
{
	buf_reserve(b, len);
	if (len > 0)
		memcpy(b->data + b->len, data, len);
	b->len += len;
	b->data[b->len] = '\0';
}

void
buf_str(StrBuf *b, const char *s)
{
	buf_add(b, s, strlen(s));
}

void
buf_char(StrBuf *b, char c)
{
	buf_add(b, &c, 1);
}

void
buf_printf(StrBuf *b, const char *fmt,...)
{
	va_list		args;
	int			n;

	buf_reserve(b, 128);
	va_start(args, fmt);
	n = vsnprintf(b->data + b->len, b->cap - b->len, fmt, args);
	va_end(args);
	if ((size_t) n >= b->cap - b->len)
	{
		buf_reserve(b, n + 1);
		va_start(args, fmt);
		vsnprintf(b->data + b->len, b->cap - b->len, fmt, args);
		va_end(args);
	}
	b->len += n;
}

double
now_ms(void)
{
	static double start = 0;
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct timespec ts;
	double		t;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	t = ts.tv_sec * 1000.0 + ts.tv_nsec / 1000000.0;
	if (start == 0)
	{
		pthread_mutex_lock(&lock);
		if (start == 0)
			start = t;
		pthread_mutex_unlock(&lock);
	}
	return t - start;
}

int64_t
now_unix(void)
{
	return (int64_t) time(NULL);
}

/* FNV-1a, finished by a mixer so that all bits can be used. */
uint64_t
hash_bytes(const void *data, size_t len)
{
	const unsigned char *p = data;
	uint64_t	h = 1469598103934665603ULL;

	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 1099511628211ULL;
	return mix64(h);
}

uint64_t
mix64(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	x ^= x >> 33;
	x *= 0xc4ceb9fe1a85ec53ULL;
	x ^= x >> 33;
	return x;
}

/*
 * Writes prefix and a run of letters and digits that no other call returns:
 * the run is drawn from a counter through a bijection, started by the seed.
 */
void
make_id(char *dst, size_t size, const char *prefix, int chars)
{
	static const char alphabet[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
	static uint64_t counter = 0;
	uint64_t	n = __atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	uint64_t	x = mix64(n + sim_options.seed * 0x9e3779b97f4a7c15ULL);
	size_t		len = strlen(prefix);

	if (len + chars + 1 > size)
		chars = (int) (size - len - 1);
	memcpy(dst, prefix, len);
	for (int i = 0; i < chars; i++)
	{
		dst[len + i] = alphabet[x % 62];
		x /= 62;
		if (x == 0)
			x = mix64(n * 31 + (uint64_t) i);
	}
	dst[len + chars] = '\0';
}

/* "*" matches any run, "?" one byte; iterative, so no pattern is slow. */
bool
glob_match(const char *pattern, const char *s)
{
	const char *star = NULL;
	const char *mark = NULL;

	while (*s)
	{
		if (*pattern == '*')
		{
			star = ++pattern;
			mark = s;
		}
		else if (*pattern == '?' || *pattern == *s)
		{
			pattern++;
			s++;
		}
		else if (star != NULL)
		{
			pattern = star;
			s = ++mark;
		}
		else
			return false;
	}
	while (*pattern == '*')
		pattern++;
	return *pattern == '\0';
}

static void
table_grow(HashTable *t)
{
	HashTable	bigger = {.size = t->size ? t->size * 2 : 1024, .limit = t->limit};

	bigger.slot = xcalloc(bigger.size * sizeof(HashCount));
	for (size_t i = 0; i < t->size; i++)
	{
		size_t		at;

		if (t->slot[i].count == 0)
			continue;
		at = t->slot[i].key & (bigger.size - 1);
		while (bigger.slot[at].count != 0)
			at = (at + 1) & (bigger.size - 1);
		bigger.slot[at] = t->slot[i];
		bigger.used++;
	}
	free(t->slot);
	*t = bigger;
}

/* Counts key; returns how often it was counted, this time included. */
uint32_t
table_add(HashTable *t, uint64_t key)
{
	size_t		at;

	if (t->limit != 0 && t->used >= t->limit)
		table_free(t);
	if ((t->used + 1) * 4 > t->size * 3)
		table_grow(t);
	at = key & (t->size - 1);
	while (t->slot[at].count != 0 && t->slot[at].key != key)
		at = (at + 1) & (t->size - 1);
	if (t->slot[at].count == 0)
	{
		t->slot[at].key = key;
		t->used++;
	}
	return ++t->slot[at].count;
}

uint32_t
table_get(const HashTable *t, uint64_t key)
{
	size_t		at;

	if (t->size == 0)
		return 0;
	at = key & (t->size - 1);
	while (t->slot[at].count != 0 && t->slot[at].key != key)
		at = (at + 1) & (t->size - 1);
	return t->slot[at].count;
}

void
table_free(HashTable *t)
{
	free(t->slot);
	t->slot = NULL;
	t->size = t->used = 0;
}
