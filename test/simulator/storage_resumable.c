/*
 * storage_resumable.c
 *		Resumable uploads: sessions, pieces, and what is left when they break.
 *
 * As in the service, a piece that is not the last is kept only up to a
 * multiple of 256 KiB, and so is what arrived before a connection broke; the
 * client has to look at the Range of the 308.  A session needs no token, its
 * address is one.  A piece that does not reach back to what is stored is
 * answered 503 in plain text.
 */
#include "storage.h"

#include <fcntl.h>
#include <unistd.h>

#define GRAIN	262144

typedef struct Session
{
	char		id[80];
	NewObject	object;
	int			fd;
	int64_t		bytes;			/* stored */
	int64_t		total;			/* -1: not known yet */
	double		until;
	bool		busy;			/* a request works on it */
	int			dead;			/* status it is answered with, or 0 */
	char	   *done;			/* the finished object's JSON */
	struct Session *older;
} Session;

/* What a Content-Range header says. */
typedef struct Range
{
	int64_t		from;			/* -1: a question, no bytes */
	int64_t		to;
	int64_t		total;			/* -1: "*" */
} Range;

static Session *newest;

static void
session_free(Session *s)
{
	if (s->fd >= 0)
		close(s->fd);
	new_object_free(&s->object);
	free(s->done);
	free(s);
}

void
sessions_clear(void)
{
	pthread_mutex_lock(&google_lock);
	while (newest != NULL)
	{
		Session    *s = newest;

		newest = s->older;
		session_free(s);
	}
	pthread_mutex_unlock(&google_lock);
}

/* POST ...?uploadType=resumable */
void
session_start(Request *req, Reply *reply, const char *bucket)
{
	const char *type = req_header(req, "X-Upload-Content-Type");
	const char *length = req_header(req, "X-Upload-Content-Length");
	cJSON	   *meta = NULL;
	NewObject	n = {0};
	GError		e;
	bool		ok;

	ok = (meta = google_body(req, &e)) != NULL && new_object_read(req, bucket, meta, &n, &e);
	if (ok)
	{
		pthread_mutex_lock(&google_lock);
		ok = new_object_allowed(&n, &e);
		pthread_mutex_unlock(&google_lock);
	}
	if (ok)
	{
		Session    *s = xcalloc(sizeof(Session));
		char	   *origin = request_origin(req);
		StrBuf		url = {0};

		make_id(s->id, sizeof(s->id), "AHxI1n", 64);
		s->object = n;
		memset(&n, 0, sizeof(n));
		if (s->object.content_type == NULL && type != NULL)
			s->object.content_type = xstrdup(type);
		s->fd = -1;
		s->total = length ? strtoll(length, NULL, 10) : -1;
		s->until = now_ms() + settings_get().session_ms;
		buf_printf(&url, "%s%s?%s&upload_id=%s", origin, req->path, req->query, s->id);
		reply->status = 200;
		reply_header(reply, "Location", url.data);
		reply->content_type = "text/plain; charset=utf-8";
		pthread_mutex_lock(&google_lock);
		s->older = newest;
		newest = s;
		pthread_mutex_unlock(&google_lock);
		buf_free(&url);
		free(origin);
	}
	else
		storage_refuse(reply, &e);
	new_object_free(&n);
	cJSON_Delete(meta);
}

static bool
range_error(GError *e)
{
	return storage_error(e, 400, "badRequest", "Failed to parse Content-Range header.");
}

static bool
read_content_range(const char *text, int64_t bytes, Range *r, GError *e)
{
	long long	from;
	long long	to;
	long long	total;
	int			end = 0;

	*r = (Range) {0, bytes - 1, bytes};
	if (text == NULL)
		return true;
	if (strncmp(text, "bytes ", 6) == 0)
	{
		text += 6;
		if (strcmp(text, "*/*") == 0)
		{
			*r = (Range) {-1, -1, -1};
			return true;
		}
		if (sscanf(text, "*/%lld%n", &total, &end) == 1 && text[end] == '\0' && total >= 0)
		{
			*r = (Range) {-1, -1, total};
			return true;
		}
		/* an end that is not told is where the body ends, and the object too */
		end = 0;
		if (sscanf(text, "%lld-*/%n", &from, &end) == 1 && end > 0 && from >= 0)
		{
			*r = (Range) {from, from + bytes - 1, from + bytes};
			return strcmp(text + end, "*") == 0 ||
				(sscanf(text + end, "%lld", &total) == 1 && (r->total = total) >= from + bytes) ||
				range_error(e);
		}
		end = 0;
		if (sscanf(text, "%lld-%lld/%n", &from, &to, &end) == 2 && end > 0 && from >= 0 &&
			to >= from)
		{
			*r = (Range) {from, to, -1};
			if (strcmp(text + end, "*") == 0)
				return true;
			text += end;
			end = 0;
			if (sscanf(text, "%lld%n", &total, &end) == 1 && text[end] == '\0' && total > to)
			{
				r->total = total;
				return true;
			}
		}
	}
	return range_error(e);
}

static void
plain(Reply *reply, int status, const char *text)
{
	reply->status = status;
	reply->content_type = "text/plain; charset=utf-8";
	buf_reset(&reply->body);
	buf_str(&reply->body, text);
}

static void
reply_308(Reply *reply, const Session *s)
{
	char		range[64];

	reply->status = 308;
	reply->content_type = "text/plain; charset=utf-8";
	snprintf(range, sizeof(range), "bytes=0-%lld", (long long) s->bytes - 1);
	if (s->bytes > 0)
		reply_header(reply, "Range", range);
}

/* Keeps bytes of the request's body, from at on. */
static void
store(Session *s, const Request *req, int64_t at, int64_t bytes)
{
	if (s->fd < 0 && at == 0 && bytes == req->body_bytes)
		s->fd = fcntl(req->body_fd, F_DUPFD_CLOEXEC, 3);
	else
	{
		if (s->fd < 0)
			s->fd = spool_file(NULL);
		lseek(s->fd, 0, SEEK_END);
		copy_bytes(req->body_fd, at, bytes, s->fd);
	}
	s->bytes += bytes;
}

/* All bytes are here. */
static void
complete(Session *s, Request *req, Reply *reply)
{
	StrBuf		b = {0};
	GError		e;
	const Object *o;

	if (s->fd < 0)
		s->fd = spool_file(NULL);
	o = object_store(&s->object, s->fd, &e);
	s->fd = -1;
	if (o == NULL)
	{
		s->dead = 410;
		storage_refuse(reply, &e);
		return;
	}
	object_write(&b, o);
	pthread_mutex_unlock(&google_lock);
	s->done = b.data;
	reply_json(req, reply, s->done);
}

/* A piece of the content, whose range was read.  The session is busy. */
static void
take_piece(Session *s, Request *req, Reply *reply, const Range *r, const cJSON *order)
{
	int64_t		skip = s->bytes - r->from;
	int64_t		keep = r->to + 1 - s->bytes;
	bool		last = r->total >= 0 && r->to + 1 == r->total;
	int64_t		limit = (int64_t) json_num(order, "persist", -1);
	char		text[300];

	if (r->from > s->bytes)
	{
		snprintf(text, sizeof(text), "Invalid request.  According to the Content-Range header, "
				 "the upload offset is %lld byte(s), which exceeds already uploaded size of %lld "
				 "byte(s).", (long long) r->from, (long long) s->bytes);
		plain(reply, 503, text);
		return;
	}
	if (limit >= 0 && keep > limit)
	{
		keep = limit;
		last = false;
	}
	if (!last)
		keep = (s->bytes + (keep > 0 ? keep : 0)) / GRAIN * GRAIN - s->bytes;
	if (keep > 0)
		store(s, req, skip, keep);
	if (last)
		complete(s, req, reply);
	else
		reply_308(reply, s);
}

static bool
check_piece(const Session *s, const Request *req, const Range *r, GError *e)
{
	if (r->from >= 0 && r->to - r->from + 1 != req->body_bytes)
		return storage_error(e, 400, "badRequest", "Invalid request.  There were %lld byte(s) in "
							 "the request body.  There should have been %lld byte(s) (starting at "
							 "offset %lld and ending at offset %lld) according to the "
							 "Content-Range header.", (long long) req->body_bytes,
							 (long long) (r->to - r->from + 1), (long long) r->from,
							 (long long) r->to);
	if (r->from < 0 && req->body_bytes > 0)
		return range_error(e);
	if (s->total >= 0 && r->total >= 0 && r->total != s->total)
		return storage_error(e, 400, "badRequest", "Invalid request.  The total size %lld in the "
							 "request differs from the size %lld that was declared before.",
							 (long long) r->total, (long long) s->total);
	return true;
}

static void
work(Session *s, Request *req, Reply *reply)
{
	cJSON	   *order = faults_object(ON_STORAGE, req, NULL, NULL);
	Range		r;
	GError		e;

	if (json_num(order, "die", 0) != 0)
		s->dead = (int) json_num(order, "die", 0);
	if (s->dead == 0 && now_ms() > s->until)
		s->dead = 410;
	if (s->dead != 0)
		plain(reply, s->dead, s->dead == 410 ? "Gone" : "Not Found");
	else if (s->done != NULL)
		reply_json(req, reply, s->done);
	else if (!read_content_range(req_header(req, "Content-Range"), req->body_bytes, &r, &e) ||
			 !check_piece(s, req, &r, &e))
		storage_refuse(reply, &e);
	else
	{
		if (r.total >= 0)
			s->total = r.total;
		new_object_headers(req, &s->object);
		if (r.from >= 0 && req->body_bytes > 0)
			take_piece(s, req, reply, &r, order);
		else if (r.total >= 0 && r.total == s->bytes)
			complete(s, req, reply);
		else
			reply_308(reply, s);
	}
	cJSON_Delete(order);
}

/* The session that the query names, marked busy, or NULL with its status. */
static Session *
session_claim(const Request *req, int *status)
{
	char	   *id = req_query(req, "upload_id");
	Session    *s;

	pthread_mutex_lock(&google_lock);
	for (s = newest; s != NULL && (id == NULL || strcmp(s->id, id) != 0); s = s->older)
		;
	*status = id == NULL ? 400 : 404;
	if (s != NULL && s->busy)
	{
		*status = 503;
		s = NULL;
	}
	if (s != NULL)
		s->busy = true;
	pthread_mutex_unlock(&google_lock);
	free(id);
	return s;
}

static void
session_release(Session *s)
{
	pthread_mutex_lock(&google_lock);
	s->busy = false;
	pthread_mutex_unlock(&google_lock);
}

void
session_put(Request *req, Reply *reply)
{
	int			status;
	Session    *s = session_claim(req, &status);

	if (s == NULL)
	{
		plain(reply, status, status == 404 ? "Not Found" : status == 503 ?
			  "Another request works on this upload." : "Invalid upload request");
		return;
	}
	work(s, req, reply);
	session_release(s);
}

/* DELETE of a session: the status of a request that its client closed. */
void
session_cancel(Request *req, Reply *reply)
{
	int			status;
	Session    *s = session_claim(req, &status);

	if (s == NULL)
		plain(reply, status, "Not Found");
	else
	{
		if (s->done == NULL)
			s->dead = 499;
		plain(reply, 499, "");
		session_release(s);
	}
}

/* The connection broke while a piece arrived: whole grains of it are kept. */
void
session_broken(Request *req)
{
	int			status;
	int64_t		have = req->body_fd >= 0 ? lseek(req->body_fd, 0, SEEK_END) : 0;
	Session    *s;
	Range		r;
	GError		e;

	if (strcmp(req->method, "PUT") != 0 || have <= 0)
		return;
	s = session_claim(req, &status);
	if (s == NULL)
		return;
	if (s->dead == 0 && s->done == NULL &&
		read_content_range(req_header(req, "Content-Range"), have, &r, &e) &&
		r.from >= 0 && r.from <= s->bytes)
	{
		int64_t		end = (r.from + have) / GRAIN * GRAIN;

		if (end > s->bytes)
			store(s, req, s->bytes - r.from, end - s->bytes);
	}
	session_release(s);
}
