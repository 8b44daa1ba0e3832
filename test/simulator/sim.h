/*
 * sim.h
 *		What every file of the simulator shares: buffers, time, text, settings.
 *
 * Nothing in here knows HTTP or a provider.  Times are milliseconds since the
 * process started, on the monotonic clock; only what goes over the wire is in
 * seconds since 1970.
 */
#ifndef SIM_H
#define SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>

#include <cjson/cJSON.h>

/* A growing byte string; data is always followed by a NUL once it was used. */
typedef struct StrBuf
{
	char	   *data;
	size_t		len;
	size_t		cap;
} StrBuf;

extern void buf_free(StrBuf *b);
extern void buf_reset(StrBuf *b);
extern void buf_reserve(StrBuf *b, size_t more);
extern void buf_add(StrBuf *b, const char *data, size_t len);
extern void buf_str(StrBuf *b, const char *s);
extern void buf_char(StrBuf *b, char c);
extern void buf_printf(StrBuf *b, const char *fmt,...) __attribute__((format(printf, 2, 3)));

/*
 * JSON writing.  jw_* put the comma themselves, from the last byte written.
 * A NULL string is written as null.
 */
extern void buf_json(StrBuf *b, const char *s, size_t len);
extern void jw_key(StrBuf *b, const char *key);
extern void jw_comma(StrBuf *b);
extern void jw_str(StrBuf *b, const char *key, const char *val);
extern void jw_int(StrBuf *b, const char *key, int64_t val);
extern void jw_bool(StrBuf *b, const char *key, bool val);
extern void jw_raw(StrBuf *b, const char *key, const char *json);
extern void jw_json(StrBuf *b, const char *key, const cJSON *val);
extern void jw_time(StrBuf *b, const char *key, int64_t seconds);

/* JSON reading (json.c): strict syntax, case-sensitive keys. */
extern cJSON *json_parse(const char *s, size_t len, const char **why);
extern const cJSON *json_get(const cJSON *o, const char *key);
extern const char *json_str(const cJSON *o, const char *key);
extern double json_num(const cJSON *o, const char *key, double dflt);
extern bool json_true(const cJSON *o, const char *key);

/* util.c */
extern void *xmalloc(size_t n);
extern void *xcalloc(size_t n);
extern void *xrealloc(void *p, size_t n);
extern char *xstrdup(const char *s);
extern char *xstrndup(const char *s, size_t n);
extern void die(const char *fmt,...) __attribute__((format(printf, 1, 2), noreturn));
extern double now_ms(void);
extern int64_t now_unix(void);
extern uint64_t hash_bytes(const void *data, size_t len);
extern uint64_t mix64(uint64_t x);
extern void make_id(char *dst, size_t size, const char *prefix, int chars);
extern bool glob_match(const char *pattern, const char *s);

/* A set of 64-bit hashes with a counter each. */
typedef struct HashCount
{
	uint64_t	key;
	uint32_t	count;
} HashCount;

typedef struct HashTable
{
	HashCount  *slot;
	size_t		size;
	size_t		used;
	size_t		limit;			/* emptied when it holds so many; 0: never */
} HashTable;

extern uint32_t table_add(HashTable *t, uint64_t key);
extern uint32_t table_get(const HashTable *t, uint64_t key);
extern void table_free(HashTable *t);

/* text.c: UTF-8 */
extern bool utf8_valid(const char *s, size_t len);
extern uint32_t utf8_next(const char **s);
extern void utf8_put(StrBuf *b, uint32_t c);
extern uint32_t fold_char(uint32_t c);
extern char *fold_text(const char *s);
extern bool is_letter(uint32_t c);
extern bool is_upper(uint32_t c);
extern const char *find_nocase(const char *hay, const char *needle);
extern bool starts_nocase(const char *s, const char *prefix);
extern size_t cut_at(const char *s, size_t len, size_t max);
extern char *trim_copy(const char *s, size_t len);
extern char *first_words(const char *s, int words, size_t max_bytes);

/* Settings, changeable while running. */
typedef struct Settings
{
	double		validate_ms;	/* batch: validating */
	double		run_ms;			/* batch: in_progress */
	double		finalize_ms;	/* batch: finalizing */
	double		cancel_ms;		/* batch: cancelling */
	double		window_ms;		/* batch: expires so long after creation */
	double		batch_tokens;	/* OpenAI: enqueued prompt tokens of one model; 0: any */
	double		file_ms;		/* file: uploaded -> processed */
	double		latency_ms;		/* inference: before the reply */
	double		jitter_ms;		/* inference: on top, evenly spread */
	double		record_body;	/* bytes kept of a body */
	double		record_limit;	/* requests kept */
	double		record_bytes;	/* bytes kept over all requests */
	double		cached_tokens;	/* 1: prompt caching from 1024 tokens on */
	double		requests_limit; /* what x-ratelimit-limit-requests says */
	double		tokens_limit;
	double		token_seconds;	/* Google access tokens live so long */
	double		session_ms;		/* Google uploads: a session lives so long */
	double		queue_ms;		/* Google jobs: JOB_STATE_QUEUED */
	double		output_files;	/* Vertex AI: results are spread over so many */
	double		output_names;	/* Vertex AI: 1: prediction.results-00000-of-0000N */
	double		extra_field;	/* Vertex AI: beside "request" 0 fails, 1 drops, 2 keeps */
	double		vertex_rows;	/* Vertex AI: limits of a job */
	double		vertex_bytes;
	double		gemini_jobs;	/* Gemini API: so many may be active */
	double		gemini_tokens;	/* Gemini API: waiting, of one model; 0: any */
	double		gemini_job_names;	/* Gemini API: 1: JOB_STATE_ for BATCH_STATE_ */
	double		file_life_ms;	/* Gemini API: uploaded files live so long */
} Settings;

extern Settings settings_get(void);
extern bool settings_set(const cJSON *o, char *why, size_t size);
extern void settings_write(StrBuf *b);
extern void settings_reset(void);

/* Command line */
typedef struct Options
{
	int			port;
	int			threads;
	int			parent;
	int			verbose;
	uint64_t	seed;
	const char *port_file;
	const char *data_dir;
	const char *keep_dir;		/* uploads are kept here too, or NULL */
	const char *keys[64];
	int			key_projects[64];	/* whose files and batches each key sees */
	int			nkeys;
	const char *models[64];
	int			nmodels;
	const char *buckets[64];
	int			nbuckets;
	const char *project;
	const char *service_account_file;
	const char *authorized_user_file;
	const char *impersonated_file;
	const char *external_account_file;
} Options;

extern Options sim_options;

#endif							/* SIM_H */
