/*
 * settings.c
 *		Timings and sizes that a test may change while the simulator runs.
 */
#include "sim.h"

#include <pthread.h>

static const Settings defaults = {
	.validate_ms = 200,
	.run_ms = 200,
	.finalize_ms = 200,
	.cancel_ms = 200,
	.window_ms = 86400000,
	.file_ms = 0,
	.latency_ms = 0,
	.jitter_ms = 0,
	.record_body = 65536,
	.record_limit = 20000,
	.record_bytes = 128 * 1024 * 1024,
	.cached_tokens = 1,
	.requests_limit = 10000,
	.tokens_limit = 2000000,
	.token_seconds = 3599,
	.session_ms = 7.0 * 86400000,
	.output_files = 1,
	.vertex_rows = 200000,
	.vertex_bytes = 1024.0 * 1024 * 1024,
	.gemini_jobs = 100,
	.file_life_ms = 48.0 * 3600000
};

typedef struct Field
{
	const char *name;
	size_t		at;
} Field;

#define FIELD(x)	{#x, offsetof(Settings, x)}

static const Field fields[] = {
	FIELD(validate_ms), FIELD(run_ms), FIELD(finalize_ms), FIELD(cancel_ms),
	FIELD(window_ms), FIELD(batch_tokens), FIELD(file_ms), FIELD(latency_ms), FIELD(jitter_ms),
	FIELD(record_body), FIELD(record_limit), FIELD(record_bytes),
	FIELD(cached_tokens), FIELD(requests_limit), FIELD(tokens_limit),
	FIELD(token_seconds), FIELD(session_ms),
	FIELD(queue_ms), FIELD(output_files), FIELD(output_names), FIELD(extra_field),
	FIELD(vertex_rows), FIELD(vertex_bytes), FIELD(gemini_jobs), FIELD(gemini_tokens),
	FIELD(gemini_job_names), FIELD(file_life_ms)
};

#define NFIELDS		(sizeof(fields) / sizeof(fields[0]))

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Settings start;			/* as the command line left them */
static Settings current;
static bool started;

static double *
field_of(Settings *s, size_t i)
{
	return (double *) ((char *) s + fields[i].at);
}

Settings
settings_get(void)
{
	Settings	s;

	pthread_mutex_lock(&lock);
	s = started ? current : defaults;
	pthread_mutex_unlock(&lock);
	return s;
}

/*
 * Takes the members of an object; "batch_ms" sets the four durations of a
 * batch at once.  With NULL the present ones become what reset returns to.
 */
bool
settings_set(const cJSON *o, char *why, size_t size)
{
	Settings	s = settings_get();
	const cJSON *c;

	cJSON_ArrayForEach(c, o)
	{
		size_t		i;

		if (!cJSON_IsNumber(c) && !cJSON_IsBool(c))
		{
			snprintf(why, size, "\"%s\" must be a number", c->string);
			return false;
		}
		if (strcmp(c->string, "batch_ms") == 0)
		{
			s.validate_ms = s.run_ms = s.finalize_ms = s.cancel_ms = c->valuedouble;
			continue;
		}
		for (i = 0; i < NFIELDS && strcmp(fields[i].name, c->string) != 0; i++)
			;
		if (i == NFIELDS)
		{
			snprintf(why, size, "unknown setting \"%s\"", c->string);
			return false;
		}
		*field_of(&s, i) = cJSON_IsBool(c) ? cJSON_IsTrue(c) : c->valuedouble;
	}
	pthread_mutex_lock(&lock);
	current = s;
	if (o == NULL)
		start = s;
	started = true;
	pthread_mutex_unlock(&lock);
	return true;
}

void
settings_reset(void)
{
	pthread_mutex_lock(&lock);
	current = start;
	pthread_mutex_unlock(&lock);
}

void
settings_write(StrBuf *b)
{
	Settings	s = settings_get();

	buf_char(b, '{');
	for (size_t i = 0; i < NFIELDS; i++)
	{
		jw_key(b, fields[i].name);
		buf_printf(b, "%.15g", *field_of(&s, i));
	}
	buf_char(b, '}');
}
