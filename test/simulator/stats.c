/*
 * stats.c
 *		Counts: requests, rows, tokens, how often the same prompt was answered.
 *
 * Tests ask these figures whether a row was bought twice, so prompts and
 * custom ids are counted by a 64-bit hash: exact for any number of rows that
 * a test can have, and sixteen bytes each.
 */
#include "record.h"

#include <pthread.h>

#define MAX_KINDS		64
#define MAX_REPEATED	50
#define MAX_MINUTES		1440

typedef struct Kind
{
	char		name[96];
	int64_t		n;
} Kind;

typedef struct Repeated
{
	uint64_t	key;
	char	   *text;
} Repeated;

typedef struct Minute
{
	int64_t		requests;
	int64_t		inference;
	int64_t		tokens;
} Minute;

static const char *const counter_names[COUNTERS] = {
	"batches_created", "batches_cancelled", "batches_completed", "batches_failed",
	"batches_expired", "files_created", "files_deleted", "bytes_uploaded",
	"batch_rows_ok", "batch_rows_failed", "online_ok", "online_failed", "faults_fired",
	"connections"
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int64_t counters[COUNTERS];
static int64_t counters_by[BY_ALL][COUNTERS];
static Kind kinds[MAX_KINDS];
static int	nkinds;
static Minute minutes[MAX_MINUTES];
static int	nminutes;
static double minutes_from;
static int64_t seconds[60];		/* inference calls in each of the last seconds */
static int64_t second_now;
static int64_t in_last_minute;
static int64_t max_in_a_minute;
static int	flying;
static int	max_flying;
static Usage used[2];			/* online, batch */
static Usage used_by[BY_ALL][2];
static HashTable prompts;
static HashTable custom_ids;
static int64_t prompts_answered;
static int64_t prompts_repeated;
static int64_t prompts_max;
static int64_t ids_answered;
static int64_t ids_repeated;
static Repeated repeated[MAX_REPEATED];
static int	nrepeated;

void
stats_count(Counter what, int64_t n)
{
	__atomic_add_fetch(&counters[what], n, __ATOMIC_RELAXED);
}

void
stats_count_by(By who, Counter what, int64_t n)
{
	stats_count(what, n);
	__atomic_add_fetch(&counters_by[who][what], n, __ATOMIC_RELAXED);
}

/* Of what stats_served counts, the part of one provider. */
void
stats_used_by(By who, bool batch, const Usage *u)
{
	Usage	   *sum = &used_by[who][batch];

	pthread_mutex_lock(&lock);
	sum->input += u->input;
	sum->cached += u->cached;
	sum->output += u->output;
	sum->reasoning += u->reasoning;
	pthread_mutex_unlock(&lock);
}

static int64_t
counter(int what)
{
	return __atomic_load_n(&counters[what], __ATOMIC_RELAXED);
}

/* Whether the segment that begins here is followed by the name of an object. */
static bool
names_objects(const char *segment)
{
	static const char *const lists[] = {"/o/", "/batchPredictionJobs/", "/files/", "/batches/",
	"/operations/", NULL};

	for (int i = 0; lists[i] != NULL; i++)
	{
		if (strncmp(segment, lists[i], strlen(lists[i])) == 0)
			return true;
	}
	return false;
}

/* The path with what identifies an object replaced by {id}. */
static void
path_kind(const Request *req, char *dst, size_t size)
{
	StrBuf		b = {0};
	const char *p = req->path;
	const char *before = "";

	buf_printf(&b, "%s ", req->method);
	while (*p)
	{
		size_t		len = strcspn(p + 1, "/") + 1;

		if (names_objects(before))
		{
			/* a verb may follow the name */
			const char *colon = memrchr(p, ':', len);

			buf_str(&b, "/{id}");
			if (colon != NULL && strncmp(before, "/o/", 3) != 0)
				buf_add(&b, colon, (size_t) (p + len - colon));
		}
		else if (starts_nocase(p, "/file-") || starts_nocase(p, "/batch_") ||
			len > 24)
			buf_str(&b, "/{id}");
		else
			buf_add(&b, p, len);
		before = p;
		p += len;
	}
	snprintf(dst, size, "%s", b.data);
	buf_free(&b);
}

static Minute *
this_minute(void)
{
	int64_t		m = (int64_t) ((now_ms() - minutes_from) / 60000);

	if (m >= MAX_MINUTES)
		m = MAX_MINUTES - 1;
	if (m + 1 > nminutes)
		nminutes = (int) m + 1;
	return &minutes[m];
}

static void
count_second(void)
{
	int64_t		s = (int64_t) (now_ms() / 1000);

	for (; second_now < s; second_now++)
	{
		int64_t    *oldest = &seconds[(second_now + 1) % 60];

		if (s - second_now > 60)
			second_now = s - 60;
		in_last_minute -= *oldest;
		*oldest = 0;
	}
	seconds[s % 60]++;
	if (++in_last_minute > max_in_a_minute)
		max_in_a_minute = in_last_minute;
}

void
stats_arrival(const Request *req)
{
	char		name[96];
	int			i;

	path_kind(req, name, sizeof(name));
	pthread_mutex_lock(&lock);
	for (i = 0; i < nkinds; i++)
	{
		if (strcmp(kinds[i].name, name) == 0)
			break;
	}
	if (i == nkinds && nkinds < MAX_KINDS)
		memcpy(kinds[nkinds++].name, name, sizeof(name));
	if (i < nkinds)
		kinds[i].n++;
	this_minute()->requests++;
	if (req->inference)
	{
		this_minute()->inference++;
		count_second();
	}
	pthread_mutex_unlock(&lock);
}

/* Inference calls that were not answered yet. */
void
stats_in_flight(int delta)
{
	pthread_mutex_lock(&lock);
	flying += delta;
	if (flying > max_flying)
		max_flying = flying;
	pthread_mutex_unlock(&lock);
}

static void
note_repeated(uint64_t key, const char *text, size_t len)
{
	for (int i = 0; i < nrepeated; i++)
	{
		if (repeated[i].key == key)
			return;
	}
	if (nrepeated < MAX_REPEATED)
	{
		/* the end tells rows apart, the beginning is often the same */
		size_t		from = len > 160 ? len - 160 : 0;

		while (from < len && ((unsigned char) text[from] & 0xC0) == 0x80)
			from++;
		repeated[nrepeated].key = key;
		repeated[nrepeated++].text = xstrndup(text + from, len - from);
	}
}

/* One prompt was answered and is billed. */
void
stats_served(bool batch, const Usage *usage, const char *prompt, size_t prompt_len,
			 const char *custom_id)
{
	uint64_t	key = hash_bytes(prompt, prompt_len);
	uint32_t	n;

	pthread_mutex_lock(&lock);
	used[batch].input += usage->input;
	used[batch].cached += usage->cached;
	used[batch].output += usage->output;
	used[batch].reasoning += usage->reasoning;
	this_minute()->tokens += usage->input + usage->output;
	n = table_add(&prompts, key);
	prompts_answered++;
	if (n > prompts_max)
		prompts_max = n;
	if (n == 2)
		prompts_repeated++;
	if (n > 1)
		note_repeated(key, prompt, prompt_len);
	if (custom_id != NULL)
	{
		ids_answered++;
		if (table_add(&custom_ids, hash_bytes(custom_id, strlen(custom_id))) == 2)
			ids_repeated++;
	}
	pthread_mutex_unlock(&lock);
}

static void
write_usage(StrBuf *b, const char *key, const Usage *u)
{
	jw_key(b, key);
	buf_char(b, '{');
	jw_int(b, "input", u->input);
	jw_int(b, "cached", u->cached);
	jw_int(b, "output", u->output);
	jw_int(b, "reasoning", u->reasoning);
	buf_char(b, '}');
}

static void
write_prompts(StrBuf *b)
{
	jw_key(b, "prompts");
	buf_char(b, '{');
	jw_int(b, "answered", prompts_answered);
	jw_int(b, "distinct", (int64_t) prompts.used);
	jw_int(b, "answered_more_than_once", prompts_repeated);
	jw_int(b, "most_often", prompts_max);
	jw_key(b, "examples");
	buf_char(b, '[');
	for (int i = 0; i < nrepeated; i++)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_int(b, "times", table_get(&prompts, repeated[i].key));
		jw_str(b, "end_of_prompt", repeated[i].text);
		buf_char(b, '}');
	}
	buf_str(b, "]}");
	jw_key(b, "custom_ids");
	buf_char(b, '{');
	jw_int(b, "answered", ids_answered);
	jw_int(b, "distinct", (int64_t) custom_ids.used);
	jw_int(b, "answered_more_than_once", ids_repeated);
	buf_char(b, '}');
}

static void
subtract_usage(Usage *from, const Usage *u)
{
	from->input -= u->input;
	from->cached -= u->cached;
	from->output -= u->output;
	from->reasoning -= u->reasoning;
}

static void
write_provider(StrBuf *b, const char *name, const int64_t *counts, const Usage *tokens)
{
	jw_key(b, name);
	buf_char(b, '{');
	for (int i = 0; i < COUNTERS; i++)
	{
		if (i != COUNT_FAULTS && i != COUNT_CONNECTIONS)
			jw_int(b, counter_names[i], counts[i]);
	}
	jw_raw(b, "tokens", "{");
	write_usage(b, "online", &tokens[0]);
	write_usage(b, "batch", &tokens[1]);
	buf_str(b, "}}");
}

static void
write_providers(StrBuf *b)
{
	static const char *const names[BY_ALL] = {"vertex", "gemini", "storage"};
	int64_t		rest[COUNTERS];
	Usage		rest_used[2] = {used[0], used[1]};

	for (int i = 0; i < COUNTERS; i++)
		rest[i] = counter(i);
	jw_key(b, "providers");
	buf_char(b, '{');
	for (int who = 0; who < BY_ALL; who++)
	{
		write_provider(b, names[who], counters_by[who], used_by[who]);
		for (int i = 0; i < COUNTERS; i++)
			rest[i] -= counters_by[who][i];
		for (int i = 0; i < 2; i++)
			subtract_usage(&rest_used[i], &used_by[who][i]);
	}
	write_provider(b, "openai", rest, rest_used);
	buf_char(b, '}');
}

static void
write_minutes(StrBuf *b)
{
	jw_key(b, "per_minute");
	buf_char(b, '[');
	for (int i = 0; i < nminutes; i++)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_int(b, "minute", i);
		jw_int(b, "requests", minutes[i].requests);
		jw_int(b, "inference", minutes[i].inference);
		jw_int(b, "tokens", minutes[i].tokens);
		buf_char(b, '}');
	}
	buf_char(b, ']');
	jw_int(b, "max_inference_in_any_60s", max_in_a_minute);
}

/* Members of an object that the caller opened and will close. */
void
stats_write(StrBuf *b)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < COUNTERS; i++)
		jw_int(b, counter_names[i], counter(i));
	jw_int(b, "rows_served", counter(COUNT_ROWS_OK) + counter(COUNT_ONLINE_OK));
	jw_int(b, "in_flight", flying);
	jw_int(b, "max_in_flight", max_flying);
	jw_key(b, "tokens");
	buf_char(b, '{');
	write_usage(b, "online", &used[0]);
	write_usage(b, "batch", &used[1]);
	buf_char(b, '}');
	write_providers(b);
	write_prompts(b);
	write_minutes(b);
	jw_key(b, "requests");
	buf_char(b, '{');
	for (int i = 0; i < nkinds; i++)
		jw_int(b, kinds[i].name, kinds[i].n);
	buf_char(b, '}');
	pthread_mutex_unlock(&lock);
}

void
stats_reset(void)
{
	pthread_mutex_lock(&lock);
	for (int i = 0; i < COUNTERS; i++)
		__atomic_store_n(&counters[i], 0, __ATOMIC_RELAXED);
	memset(kinds, 0, sizeof(kinds));
	nkinds = 0;
	memset(minutes, 0, sizeof(minutes));
	nminutes = 0;
	minutes_from = now_ms();
	memset(seconds, 0, sizeof(seconds));
	in_last_minute = max_in_a_minute = 0;
	max_flying = flying;
	memset(used, 0, sizeof(used));
	memset(counters_by, 0, sizeof(counters_by));
	memset(used_by, 0, sizeof(used_by));
	table_free(&prompts);
	table_free(&custom_ids);
	prompts_answered = prompts_repeated = prompts_max = 0;
	ids_answered = ids_repeated = 0;
	while (nrepeated > 0)
		free(repeated[--nrepeated].text);
	pthread_mutex_unlock(&lock);
}
