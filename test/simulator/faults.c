/*
 * faults.c
 *		Ordered faults: rules that are tried in order, the first that fires wins.
 *
 * A rule has a match, counts (skip, every, times, chance), at most one limit
 * (concurrent or per minute; it fires only for what exceeds it) and actions.
 * Rules are counted references: one that was deleted while requests are in
 * flight under its limit lives until they are answered.
 */
#include "faults.h"

#include "record.h"

#include <pthread.h>

#define RULE_SCOPES		(ON_HOLD + HOLD_RESPONSE_BODY + 1)

typedef struct Rule
{
	int			refs;
	RuleScope	scope;
	cJSON	   *json;
	const char *method;			/* these point into json; NULL: any */
	const char *path;
	const char *body;
	const char *prompt;
	const char *custom_id;
	const char *key;
	int64_t		skip;
	int64_t		every;
	int64_t		times;			/* -1: always */
	double		chance;
	int			concurrent;		/* 0: no such limit */
	int			per_window;
	double		window_ms;
	int64_t		seen;			/* matched */
	int64_t		fired;
	int			flying;
	double		window_from;
	int			window_count;
	struct Rule *next;
} Rule;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Rule *rules;
static int	scope_count[RULE_SCOPES];
static uint64_t dice = 1;

static void
rule_unref(Rule *rule)
{
	if (--rule->refs > 0)
		return;
	cJSON_Delete(rule->json);
	free(rule);
}

/* Where a "hold" stops a request; -1: nowhere that exists. */
static int
hold_at(const cJSON *json)
{
	const char *at = json_str(json_get(json, "hold"), "at");

	for (int i = 0; at != NULL && i <= HOLD_RESPONSE_BODY; i++)
	{
		if (strcmp(at, hold_at_name(i)) == 0)
			return i;
	}
	return -1;
}

static RuleScope
rule_scope(const cJSON *json)
{
	if (json_get(json, "hold") != NULL)
		return ON_HOLD + hold_at(json);
	if (json_get(json, "row") != NULL)
		return ON_ROW;
	if (json_get(json, "storage") != NULL)
		return ON_STORAGE;
	if (json_get(json, "batch") != NULL)
		return ON_BATCH;
	if (json_get(json, "file") != NULL)
		return ON_FILE;
	if (json_get(json, "drop_upload_after") != NULL)
		return ON_BODY;
	return ON_REQUEST;
}

static bool
known_keys(const cJSON *o, const char *const *names, char *why, size_t size)
{
	const cJSON *c;

	cJSON_ArrayForEach(c, o)
	{
		int			i;

		for (i = 0; names[i] != NULL && strcmp(names[i], c->string) != 0; i++)
			;
		if (names[i] == NULL)
		{
			snprintf(why, size, "unknown key \"%s\"", c->string);
			return false;
		}
	}
	return true;
}

/* A misspelt order must not pass as "nothing happened", so keys are checked. */
static bool
rule_check(const cJSON *json, char *why, size_t size)
{
	static const char *const top[] = {"name", "match", "skip", "every", "times", "chance",
		"limit", "status", "headers", "body", "json", "repeat", "fill", "content_type",
		"delay_ms", "drop", "lose_reply", "drop_after", "trickle_ms", "truncate", "prefix", "encode", "answer",
	"row", "batch", "file", "error", "drop_upload_after", "storage", "hold", NULL};
	static const char *const match[] = {"method", "path", "body", "prompt", "custom_id",
	"key", NULL};
	static const char *const limit[] = {"concurrent", "per_window", "window_ms", NULL};
	static const char *const file[] = {"missing_ms", "ready_ms", "status", NULL};
	static const char *const batch[] = {"state", "fraction", "code", "message", "line",
		"stuck_at", "show_state", "show_ms", "output_file_id", "error_file_id",
		"result_missing_ms", "validate_ms", "run_ms", "finalize_ms", "no_usage",
		"no_counts", "no_last_newline", "zero_byte_error_file", "queue_ms", "cancel_ms",
	"output_info", "output_files", "unknown_counts", "no_labels", "partial", "output_at", NULL};
	static const char *const storage[] = {"die", "persist", "empty_page", NULL};
	static const char *const hold[] = {"at", "after", NULL};
	static const char *const row[] = {"outcome", "status", "code", "message", "answer", NULL};

	if (!cJSON_IsObject(json))
	{
		snprintf(why, size, "a rule is an object");
		return false;
	}
	if (json_get(json, "hold") != NULL && hold_at(json) < 0)
	{
		snprintf(why, size, "a request is held at arrival, reply, request_body or response_body");
		return false;
	}
	return known_keys(json, top, why, size) &&
		known_keys(json_get(json, "hold"), hold, why, size) &&
		known_keys(json_get(json, "match"), match, why, size) &&
		known_keys(json_get(json, "limit"), limit, why, size) &&
		known_keys(json_get(json, "file"), file, why, size) &&
		known_keys(json_get(json, "batch"), batch, why, size) &&
		known_keys(json_get(json, "storage"), storage, why, size) &&
		known_keys(json_get(json, "row"), row, why, size);
}

static Rule *
rule_make(const cJSON *json)
{
	Rule	   *r = xcalloc(sizeof(Rule));
	const cJSON *m;
	const cJSON *limit;

	r->refs = 1;
	r->json = cJSON_Duplicate(json, 1);
	m = json_get(r->json, "match");
	limit = json_get(r->json, "limit");
	r->scope = rule_scope(r->json);
	r->method = json_str(m, "method");
	r->path = json_str(m, "path");
	r->body = json_str(m, "body");
	r->prompt = json_str(m, "prompt");
	r->custom_id = json_str(m, "custom_id");
	r->key = json_str(m, "key");
	r->skip = (int64_t) json_num(r->json, "skip", 0);
	r->every = (int64_t) json_num(r->json, "every", 1);
	r->times = (int64_t) json_num(r->json, "times", -1);
	r->chance = json_num(r->json, "chance", 1);
	r->concurrent = (int) json_num(limit, "concurrent", 0);
	r->per_window = (int) json_num(limit, "per_window", 0);
	r->window_ms = json_num(limit, "window_ms", 60000);
	return r;
}

/* Appends rules, one object or a list; all or, with a reason, none. */
bool
faults_add(const cJSON *json, char *why, size_t size)
{
	const cJSON *one;
	Rule	  **end;

	if (cJSON_IsObject(json))
	{
		if (!rule_check(json, why, size))
			return false;
	}
	else if (!cJSON_IsArray(json))
	{
		snprintf(why, size, "a rule or a list of rules is expected");
		return false;
	}
	else
	{
		cJSON_ArrayForEach(one, json)
		{
			if (!rule_check(one, why, size))
				return false;
		}
	}
	pthread_mutex_lock(&lock);
	for (end = &rules; *end != NULL; end = &(*end)->next)
		;
	for (one = cJSON_IsArray(json) ? json->child : json; one != NULL;
		 one = cJSON_IsArray(json) ? one->next : NULL)
	{
		*end = rule_make(one);
		__atomic_add_fetch(&scope_count[(*end)->scope], 1, __ATOMIC_RELAXED);
		end = &(*end)->next;
	}
	pthread_mutex_unlock(&lock);
	return true;
}

void
faults_clear(void)
{
	pthread_mutex_lock(&lock);
	while (rules != NULL)
	{
		Rule	   *r = rules;

		rules = r->next;
		rule_unref(r);
	}
	for (int i = 0; i < RULE_SCOPES; i++)
		__atomic_store_n(&scope_count[i], 0, __ATOMIC_RELAXED);
	dice = 1;
	pthread_mutex_unlock(&lock);
}

void
faults_write(StrBuf *b)
{
	pthread_mutex_lock(&lock);
	buf_char(b, '[');
	for (Rule *r = rules; r != NULL; r = r->next)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_json(b, "rule", r->json);
		jw_int(b, "matched", r->seen);
		jw_int(b, "fired", r->fired);
		jw_int(b, "in_flight", r->flying);
		buf_char(b, '}');
	}
	buf_char(b, ']');
	pthread_mutex_unlock(&lock);
}

bool
faults_any(RuleScope scope)
{
	return __atomic_load_n(&scope_count[scope], __ATOMIC_RELAXED) > 0;
}

static bool
contains(const StrBuf *b, const char *needle)
{
	return b->data != NULL &&
		memmem(b->data, b->len, needle, strlen(needle)) != NULL;
}

static bool
key_ends(const char *secret, const char *tail)
{
	size_t		a = secret ? strlen(secret) : 0;
	size_t		b = strlen(tail);

	return a >= b && b > 0 && strcmp(secret + a - b, tail) == 0;
}

static bool
rule_matches(const Rule *r, const Request *req, const char *custom_id, const char *prompt)
{
	if (req != NULL)
	{
		if ((r->method && strcasecmp(r->method, req->method) != 0) ||
			(r->path && !glob_match(r->path, req->path)) ||
			(r->key && !key_ends(req->secret, r->key)))
			return false;
		if (r->body && !contains(&req->body, r->body) &&
			(req->note == NULL || strstr(req->note, r->body) == NULL))
			return false;
		if (r->prompt && !contains(&req->prompt, r->prompt))
			return false;
	}
	else if (r->prompt && (prompt == NULL || strstr(prompt, r->prompt) == NULL))
		return false;
	if (r->custom_id && (custom_id == NULL || !glob_match(r->custom_id, custom_id)))
		return false;
	return true;
}

/* True if the request is beyond the rule's limit; else it is counted under it. */
static bool
beyond_limit(Rule *r, Request *req)
{
	if (r->concurrent > 0)
	{
		if (r->flying >= r->concurrent)
			return true;
		if (req != NULL && req->nheld < (int) (sizeof(req->held) / sizeof(req->held[0])))
		{
			r->flying++;
			r->refs++;
			req->held[req->nheld++] = r;
		}
		return false;
	}
	if (r->per_window > 0)
	{
		double		now = now_ms();

		if (r->window_from == 0 || now - r->window_from >= r->window_ms)
		{
			r->window_from = now;
			r->window_count = 0;
		}
		return r->window_count++ >= r->per_window;
	}
	return true;
}

/* Evenly spread over 0..1, the same sequence for the same seed. */
static double
roll_dice(void)
{
	return (double) (mix64(dice++ + sim_options.seed) >> 11) / 9007199254740992.0;
}

static bool
rule_fires(Rule *r, Request *req)
{
	int64_t		n = r->seen++;

	if (n < r->skip || (r->every > 1 && (n - r->skip) % r->every != 0))
		return false;
	if (r->times >= 0 && r->fired >= r->times)
		return false;
	if (r->chance < 1 && roll_dice() >= r->chance)
		return false;
	if (!beyond_limit(r, req))
		return false;
	r->fired++;
	stats_count(COUNT_FAULTS, 1);
	return true;
}

static void
effect_body(Effect *e, const cJSON *json)
{
	const cJSON *body = json_get(json, "body");
	const cJSON *repeat = json_get(json, "repeat");
	const cJSON *fill = json_get(json, "fill");
	StrBuf		b = {0};

	if (json_get(json, "json") != NULL)
		body = json_get(json, "json");
	if (json_get(json, "error") != NULL)
	{
		buf_char(&b, '{');
		jw_json(&b, "error", json_get(json, "error"));
		buf_char(&b, '}');
	}
	else if (cJSON_IsString(body))
		buf_str(&b, body->valuestring);
	else if (body != NULL)
	{
		char	   *s = cJSON_PrintUnformatted(body);

		buf_str(&b, s);
		free(s);
	}
	for (int i = 0; i < (int) json_num(repeat, "count", 0); i++)
		buf_str(&b, json_str(repeat, "text") ? json_str(repeat, "text") : "x");
	e->fill = (int64_t) json_num(fill, "bytes", 0);
	e->fill_byte = json_str(fill, "byte") ? json_str(fill, "byte")[0] : 'x';
	e->body_len = b.len;
	e->body = b.data;
}

static DropKind
drop_kind(const cJSON *json, const char *key)
{
	const char *s = json_str(json, key);

	if (s != NULL)
		return strcmp(s, "reset") == 0 ? DROP_RESET : DROP_CLOSE;
	return json_true(json, key) ? DROP_CLOSE : DROP_NOT;
}

static Effect *
effect_make(const cJSON *json)
{
	Effect	   *e = xcalloc(sizeof(Effect));
	const cJSON *h;

	e->status = (int) json_num(json, "status", 0);
	effect_body(e, json);
	if (e->status == 0 && (e->body != NULL || e->fill > 0))
		e->status = 200;
	e->content_type = json_str(json, "content_type");
	if (e->content_type != NULL)
		e->content_type = xstrdup(e->content_type);
	cJSON_ArrayForEach(h, json_get(json, "headers"))
	{
		Header	   *new = xcalloc(sizeof(Header));
		char		number[32];

		snprintf(number, sizeof(number), "%.15g", h->valuedouble);
		new->name = xstrdup(h->string);
		new->value = xstrdup(cJSON_IsString(h) ? h->valuestring : number);
		new->next = e->headers;
		e->headers = new;
	}
	e->delay_ms = json_num(json, "delay_ms", 0);
	e->drop = drop_kind(json, "drop");
	e->lose_reply = drop_kind(json, "lose_reply");
	e->drop_after = (int64_t) json_num(json, "drop_after", -1);
	e->truncate = (int64_t) json_num(json, "truncate", -1);
	e->trickle_ms = json_num(json, "trickle_ms", 0);
	e->prefix = json_str(json, "prefix") ? xstrdup(json_str(json, "prefix")) : NULL;
	e->gzip = json_str(json, "encode") != NULL && strcmp(json_str(json, "encode"), "gzip") == 0;
	if (json_get(json, "answer") != NULL)
		e->answer = cJSON_Duplicate(json_get(json, "answer"), 1);
	return e;
}

void
effect_free(Effect *e)
{
	if (e == NULL)
		return;
	while (e->headers != NULL)
	{
		Header	   *h = e->headers;

		e->headers = h->next;
		free(h->name);
		free(h->value);
		free(h);
	}
	cJSON_Delete(e->answer);
	free((char *) e->content_type);
	free(e->body);
	free(e->prefix);
	free(e);
}

/* What happens to this request, or NULL.  The caller frees it. */
Effect *
faults_request(Request *req)
{
	Effect	   *e = NULL;

	if (!faults_any(ON_REQUEST))
		return NULL;
	pthread_mutex_lock(&lock);
	for (Rule *r = rules; r != NULL; r = r->next)
	{
		if (r->scope == ON_REQUEST && rule_matches(r, req, NULL, NULL) &&
			rule_fires(r, req))
		{
			e = effect_make(r->json);
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	return e;
}

/* After how many bytes of its body the connection ends; -1: not at all. */
int64_t
faults_body(Request *req)
{
	int64_t		after = -1;

	if (!faults_any(ON_BODY))
		return -1;
	pthread_mutex_lock(&lock);
	for (Rule *r = rules; r != NULL && after < 0; r = r->next)
	{
		if (r->scope == ON_BODY && rule_matches(r, req, NULL, NULL) && rule_fires(r, NULL))
			after = (int64_t) json_num(r->json, "drop_upload_after", 0);
	}
	pthread_mutex_unlock(&lock);
	return after;
}

/*
 * Is the request to be held here?  *after is set where it is held in a body:
 * behind so many bytes, or -1 for the middle.
 */
bool
faults_hold(Request *req, HoldAt at, int64_t *after)
{
	RuleScope	scope = ON_HOLD + at;
	bool		hold = false;

	if (!faults_any(scope))
		return false;
	pthread_mutex_lock(&lock);
	for (Rule *r = rules; r != NULL && !hold; r = r->next)
	{
		hold = r->scope == scope && rule_matches(r, req, NULL, NULL) && rule_fires(r, NULL);
		if (hold && after != NULL)
			*after = (int64_t) json_num(json_get(r->json, "hold"), "after", -1);
	}
	pthread_mutex_unlock(&lock);
	return hold;
}

/* The request is answered: it no longer counts under any limit. */
void
faults_release(Request *req)
{
	if (req->nheld == 0)
		return;
	pthread_mutex_lock(&lock);
	while (req->nheld > 0)
	{
		Rule	   *r = req->held[--req->nheld];

		r->flying--;
		rule_unref(r);
	}
	pthread_mutex_unlock(&lock);
}

/*
 * The "file", "batch", "row" or "storage" object of the rule that fires, or NULL.  The
 * caller deletes it.  req is NULL for rows.
 */
cJSON *
faults_object(RuleScope scope, const Request *req, const char *custom_id, const char *prompt)
{
	static const char *const names[] = {"", "", "file", "batch", "row", "storage"};
	cJSON	   *o = NULL;

	if (!faults_any(scope))
		return NULL;
	pthread_mutex_lock(&lock);
	for (Rule *r = rules; r != NULL; r = r->next)
	{
		if (r->scope == scope && rule_matches(r, req, custom_id, prompt) &&
			rule_fires(r, NULL))
		{
			o = cJSON_Duplicate(json_get(r->json, names[scope]), 1);
			break;
		}
	}
	pthread_mutex_unlock(&lock);
	return o;
}
