/*
 * storage_read.c
 *		One object: its resource, its content by ranges, and its end.
 *
 * Errors of a download are plain text, as the service tells them; those of
 * everything else are JSON.
 */
#include "storage.h"

#include <fcntl.h>

/* True if the request's generation conditions hold. */
static bool
conditions_hold(const Request *req, const Object *o, GError *e)
{
	static const char *const names[] = {"generation", "ifGenerationMatch",
	"ifGenerationNotMatch", "ifMetagenerationMatch"};
	bool		ok = true;

	for (int i = 0; i < 4 && ok; i++)
	{
		char	   *v = req_query(req, names[i]);
		int64_t		want = v ? strtoll(v, NULL, 10) : 0;
		int64_t		have = i == 3 ? 1 : o->generation;

		if (v != NULL && i == 0 && want != have)
			ok = storage_error(e, 404, "notFound", "No such object: %s/%s", o->bucket, o->name);
		else if (v != NULL && i > 0 && (i == 2 ? want == have : want != have))
			ok = storage_error(e, 412, "conditionNotMet", "At least one of the pre-conditions you "
							   "specified did not hold.");
		free(v);
	}
	return ok;
}

/* Start and length of what a Range header asks for; false: past the end. */
static bool
read_range(const char *range, int64_t size, int64_t *from, int64_t *bytes, bool *partial)
{
	long long	a;
	long long	b;
	int			end = 0;

	*from = 0;
	*bytes = size;
	*partial = false;
	if (range == NULL || strncmp(range, "bytes=", 6) != 0 || strchr(range, ',') != NULL)
		return true;
	range += 6;
	if (sscanf(range, "%lld-%lld%n", &a, &b, &end) == 2 && range[end] == '\0' && a >= 0)
	{
		if (a > b)
			return true;
		*from = a;
		*bytes = (b < size - 1 ? b : size - 1) - a + 1;
	}
	else if (sscanf(range, "%lld-%n", &a, &end) == 1 && end > 0 && range[end] == '\0' && a >= 0)
	{
		*from = a;
		*bytes = size - a;
	}
	else if (sscanf(range, "-%lld%n", &b, &end) == 1 && range[end] == '\0' && b > 0)
	{
		*bytes = b < size ? b : size;
		*from = size - *bytes;
	}
	else
		return true;
	*partial = true;
	return *from < size;
}

static void
media_headers(Reply *reply, const Object *o)
{
	char	   *crc = crc32c_text(o->crc);
	char	   *md5 = base64_encode(o->md5, 16);
	StrBuf		b = {0};

	buf_printf(&b, "crc32c=%s,md5=%s", crc, md5);
	reply_header(reply, "X-Goog-Hash", b.data);
	buf_reset(&b);
	buf_printf(&b, "%lld", (long long) o->generation);
	reply_header(reply, "X-Goog-Generation", b.data);
	reply_header(reply, "X-Goog-Metageneration", "1");
	buf_reset(&b);
	buf_printf(&b, "%lld", (long long) o->size);
	reply_header(reply, "X-Goog-Stored-Content-Length", b.data);
	reply_header(reply, "X-Goog-Stored-Content-Encoding", "identity");
	reply_header(reply, "X-Goog-Storage-Class", "STANDARD");
	buf_reset(&b);
	buf_printf(&b, "C%llx=", (unsigned long long) o->generation);
	reply_header(reply, "ETag", b.data);
	reply_header(reply, "Content-Type", o->content_type);
	buf_free(&b);
	free(crc);
	free(md5);
}

static void
serve_media(Request *req, Reply *reply, const Object *o)
{
	int64_t		from;
	int64_t		bytes;
	bool		partial;
	StrBuf		b = {0};

	if (!read_range(req_header(req, "Range"), o->size, &from, &bytes, &partial))
	{
		buf_printf(&b, "bytes */%lld", (long long) o->size);
		reply->status = 416;
		reply->content_type = "text/html; charset=UTF-8";
		reply_header(reply, "Content-Range", b.data);
		buf_str(&reply->body, "The requested range cannot be satisfied.");
		buf_free(&b);
		return;
	}
	reply->content_type = NULL;
	media_headers(reply, o);
	reply->status = partial ? 206 : 200;
	if (partial)
	{
		buf_printf(&b, "bytes %lld-%lld/%lld", (long long) from, (long long) (from + bytes - 1),
				   (long long) o->size);
		reply_header(reply, "Content-Range", b.data);
		buf_free(&b);
	}
	reply->fd = fcntl(o->fd, F_DUPFD_CLOEXEC, 3);
	reply->fd_from = from;
	reply->fd_bytes = bytes;
}

/* GET of the resource or the content, and DELETE. */
void
serve_object(Request *req, Reply *reply, const char *bucket, const char *name)
{
	char	   *alt = req_query(req, "alt");
	bool		media = alt != NULL && strcmp(alt, "media") == 0;
	bool		get = strcmp(req->method, "GET") == 0;
	StrBuf		b = {0};
	GError		e;
	Object	   *o;

	pthread_mutex_lock(&google_lock);
	o = object_find(bucket, name);
	if (o == NULL)
		storage_error(&e, 404, "notFound", "No such object: %s/%s", bucket, name);
	if (o == NULL || !conditions_hold(req, o, &e))
	{
		storage_refuse(reply, &e);
		if (get && media)
		{
			/* downloads tell their errors as plain text */
			reply->content_type = "text/html; charset=UTF-8";
			buf_reset(&reply->body);
			buf_str(&reply->body, e.message);
		}
	}
	else if (get && media)
		serve_media(req, reply, o);
	else if (get)
		object_write(&b, o);
	else
	{
		object_remove(o);
		stats_count_by(BY_STORAGE, COUNT_FILES_DELETED, 1);
		reply->status = 204;
		reply->content_type = NULL;
	}
	pthread_mutex_unlock(&google_lock);
	if (b.len > 0)
		reply_json(req, reply, b.data);
	buf_free(&b);
	free(alt);
}
