/*
 * record.c
 *		Remembers what arrived, for tests to look at.
 *
 * A ring bounded by number and by bytes; what falls out is counted.  Secrets
 * are never kept: of a key only its last four characters.
 */
#include "record.h"

#include <pthread.h>

typedef struct Seen
{
	uint64_t	seq;
	double		t;
	int			status;
	const char *how;
	char		method[16];
	char	   *path;
	char	   *query;
	char	   *headers;		/* JSON object */
	char	   *note;			/* JSON, or NULL */
	char	   *body;			/* at most record_body bytes, or NULL */
	size_t		body_kept;
	int64_t		bytes;
} Seen;

/* Seen number seq lies at ring[seq % ring_size]; first_seq..next_seq-1 live. */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Seen **ring;
static size_t ring_size;
static uint64_t first_seq = 1;
static uint64_t next_seq = 1;
static size_t kept;
static uint64_t forgotten;

static size_t
seen_size(const Seen *s)
{
	return sizeof(Seen) + s->body_kept + strlen(s->headers) + strlen(s->path) +
		(s->note ? strlen(s->note) : 0);
}

static void
drop_first(void)
{
	Seen	   *s = ring[first_seq++ % ring_size];

	kept -= seen_size(s);
	free(s->path);
	free(s->query);
	free(s->headers);
	free(s->note);
	free(s->body);
	free(s);
}

static void
ring_grow(void)
{
	size_t		bigger = ring_size ? ring_size * 2 : 1024;
	Seen	  **moved = xcalloc(bigger * sizeof(Seen *));

	for (uint64_t i = first_seq; i < next_seq; i++)
		moved[i % bigger] = ring[i % ring_size];
	free(ring);
	ring = moved;
	ring_size = bigger;
}

static bool
is_secret(const char *name)
{
	return strcasecmp(name, "authorization") == 0 ||
		strcasecmp(name, "api-key") == 0 ||
		strcasecmp(name, "x-api-key") == 0 ||
		strcasecmp(name, "x-goog-api-key") == 0 ||
		strcasecmp(name, "proxy-authorization") == 0 ||
		strcasecmp(name, "cookie") == 0;
}

static enum MHD_Result
add_header(void *cls, enum MHD_ValueKind kind, const char *name, const char *value)
{
	StrBuf	   *b = cls;

	(void) kind;
	if (value == NULL)
		value = "";
	if (is_secret(name))
	{
		size_t		len = strlen(value);
		char		tail[32];

		snprintf(tail, sizeof(tail), "...%s", len > 4 ? value + len - 4 : "");
		jw_str(b, name, tail);
	}
	else if (utf8_valid(value, strlen(value)))
		jw_str(b, name, value);
	else
		jw_str(b, name, "(not UTF-8)");
	return MHD_YES;
}

/* A query without the key that it may hold. */
static char *
public_query(const char *query)
{
	StrBuf		b = {0};

	buf_str(&b, "");
	while (*query)
	{
		size_t		len = strcspn(query, "&");

		if (strncmp(query, "key=", 4) == 0)
			buf_printf(&b, "key=...%.*s", len > 8 ? 4 : 0, query + len - 4);
		else
			buf_add(&b, query, len);
		query += len;
		if (*query == '&')
			buf_char(&b, *query++);
	}
	return b.data;
}

/* Keeps the request, whose body is complete, and gives it its number. */
void
record_request(Request *req)
{
	Settings	set = settings_get();
	Seen	   *s = xcalloc(sizeof(Seen));
	StrBuf		b = {0};

	s->t = req->arrived;
	memcpy(s->method, req->method, sizeof(s->method));
	s->path = xstrdup(req->path);
	s->query = public_query(req->query);
	s->bytes = req->body_bytes;
	s->note = req->note ? xstrdup(req->note) : NULL;
	if (req->body_kind == BODY_BUFFER && req->body.len > 0 && !req->private)
	{
		s->body_kept = cut_at(req->body.data, req->body.len, (size_t) set.record_body);
		s->body = xstrndup(req->body.data, s->body_kept);
	}
	buf_char(&b, '{');
	MHD_get_connection_values(req->conn, MHD_HEADER_KIND, add_header, &b);
	buf_char(&b, '}');
	s->headers = b.data;

	pthread_mutex_lock(&lock);
	if (next_seq - first_seq >= ring_size)
		ring_grow();
	s->seq = req->seq = next_seq;
	ring[next_seq++ % ring_size] = s;
	kept += seen_size(s);
	while (next_seq - first_seq > 1 &&
		   (next_seq - first_seq > (uint64_t) set.record_limit ||
			kept > (size_t) set.record_bytes))
	{
		drop_first();
		forgotten++;
	}
	pthread_mutex_unlock(&lock);
}

/* Notes how a request was answered; how is a constant such as "dropped" or NULL. */
void
record_status(const Request *req, int status, const char *how)
{
	pthread_mutex_lock(&lock);
	if (req->seq >= first_seq && req->seq < next_seq)
	{
		Seen	   *s = ring[req->seq % ring_size];

		s->status = status;
		s->how = how;
	}
	pthread_mutex_unlock(&lock);
}

static void
write_seen(StrBuf *b, const Seen *s)
{
	jw_key(b, NULL);
	buf_char(b, '{');
	jw_int(b, "seq", (int64_t) s->seq);
	jw_key(b, "t");
	buf_printf(b, "%.3f", s->t);
	jw_str(b, "method", s->method);
	jw_str(b, "path", s->path);
	jw_str(b, "query", s->query);
	jw_int(b, "status", s->status);
	jw_str(b, "how", s->how);
	jw_raw(b, "headers", s->headers);
	jw_int(b, "bytes", s->bytes);
	if (s->note != NULL)
		jw_raw(b, "upload", s->note);
	if (s->body == NULL)
		jw_raw(b, "body", "null");
	else if (utf8_valid(s->body, s->body_kept))
	{
		jw_key(b, "body");
		buf_json(b, s->body, s->body_kept);
	}
	else
		jw_str(b, "body", "(not UTF-8)");
	jw_bool(b, "body_cut", s->body != NULL && (int64_t) s->body_kept < s->bytes);
	buf_char(b, '}');
}

void
record_write(StrBuf *b, int64_t since, const char *path, const char *method,
			 int64_t limit)
{
	int64_t		n = 0;
	uint64_t	last_seq = (uint64_t) since;
	bool		more = false;

	pthread_mutex_lock(&lock);
	buf_char(b, '{');
	jw_key(b, "requests");
	buf_char(b, '[');
	for (uint64_t i = first_seq; i < next_seq; i++)
	{
		Seen	   *s = ring[i % ring_size];

		if ((int64_t) s->seq <= since || (path && !glob_match(path, s->path)) ||
			(method && strcasecmp(method, s->method) != 0))
			continue;
		if (n++ >= limit)
		{
			more = true;
			break;
		}
		write_seen(b, s);
		last_seq = s->seq;
	}
	buf_char(b, ']');
	jw_int(b, "last_seq", (int64_t) last_seq);
	jw_bool(b, "has_more", more);
	jw_int(b, "forgotten", (int64_t) forgotten);
	buf_char(b, '}');
	pthread_mutex_unlock(&lock);
}

/* Forgets everything; numbers go on, so that "since" stays right. */
void
record_reset(void)
{
	pthread_mutex_lock(&lock);
	while (first_seq < next_seq)
		drop_first();
	forgotten = 0;
	pthread_mutex_unlock(&lock);
}
