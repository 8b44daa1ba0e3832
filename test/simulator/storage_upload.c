/*
 * storage_upload.c
 *		Uploads in one request: plain media, and multipart/related.
 *
 * Bodies lie in a file before anything is looked at.  Of a multipart body the
 * head is read to find the metadata and the start of the media, and the end
 * to find the closing delimiter; the media itself is copied, not read.
 */
#include "storage.h"

#include <fcntl.h>
#include <unistd.h>

#define HEAD_MAX	(256 * 1024)

void
new_object_free(NewObject *n)
{
	free(n->bucket);
	free(n->name);
	free(n->content_type);
	free(n->metadata);
	free(n->crc);
	free(n->md5);
	memset(n, 0, sizeof(*n));
}

static void
take(char **dst, const char *value)
{
	if (value == NULL)
		return;
	free(*dst);
	*dst = xstrdup(value);
}

/* X-Goog-Hash: crc32c=...,md5=...  Counts at the last request of an upload. */
void
new_object_headers(Request *req, NewObject *n)
{
	const char *p = req_header(req, "X-Goog-Hash");

	while (p != NULL && *p)
	{
		size_t		len = strcspn(p, ", ");
		char	   *one = xstrndup(p, len);

		if (strncmp(one, "crc32c=", 7) == 0)
			take(&n->crc, one + 7);
		else if (strncmp(one, "md5=", 4) == 0)
			take(&n->md5, one + 4);
		free(one);
		p += len;
		p += strspn(p, ", ");
	}
}

static bool
read_metadata(const cJSON *meta, NewObject *n, GError *e)
{
	static const char *const names[] = {"name", "contentType", "metadata", "md5Hash", "crc32c",
		"bucket", "cacheControl", "contentDisposition", "contentEncoding", "contentLanguage",
		"customTime", "storageClass", "kind", "acl", "eventBasedHold", "temporaryHold", "contexts",
	"retention", "generation", "size", "etag", "id", "timeCreated", "updated", NULL};
	const cJSON *c;

	cJSON_ArrayForEach(c, meta)
	{
		int			i;

		for (i = 0; names[i] != NULL && strcmp(names[i], c->string) != 0; i++)
			;
		if (names[i] == NULL)
			return storage_error(e, 400, "invalid", "Invalid JSON payload received. Unknown name "
								 "\"%.100s\": Cannot find field.", c->string);
	}
	take(&n->name, json_str(meta, "name"));
	take(&n->content_type, json_str(meta, "contentType"));
	take(&n->md5, json_str(meta, "md5Hash"));
	take(&n->crc, json_str(meta, "crc32c"));
	if (cJSON_IsObject(json_get(meta, "metadata")))
		n->metadata = cJSON_PrintUnformatted(json_get(meta, "metadata"));
	return true;
}

static int64_t
query_number(const Request *req, const char *name)
{
	char	   *v = req_query(req, name);
	int64_t		n = v ? strtoll(v, NULL, 10) : -1;

	free(v);
	return n;
}

/* What the query, the headers and the metadata (or NULL) say; to be freed. */
bool
new_object_read(Request *req, const char *bucket, const cJSON *meta, NewObject *n, GError *e)
{
	char	   *name = req_query(req, "name");
	const char *bad;

	memset(n, 0, sizeof(*n));
	n->bucket = xstrdup(bucket);
	n->if_generation = query_number(req, "ifGenerationMatch");
	n->if_not_generation = query_number(req, "ifGenerationNotMatch");
	if (!read_metadata(meta, n, e))
	{
		free(name);
		return false;
	}
	take(&n->name, name);
	free(name);
	if (n->name == NULL || *n->name == '\0')
		return storage_error(e, 400, "required", "Required");
	bad = strpbrk(n->name, "\r\n");
	if (!utf8_valid(n->name, strlen(n->name)) || strlen(n->name) > 1024 || bad != NULL ||
		strcmp(n->name, ".") == 0 || strcmp(n->name, "..") == 0)
		return storage_error(e, 400, "invalid", "Invalid argument.");
	return true;
}

/* Whether the preconditions hold.  The caller holds google_lock. */
bool
new_object_allowed(const NewObject *n, GError *e)
{
	Object	   *o = object_find(n->bucket, n->name);
	int64_t		have = o ? o->generation : 0;

	if ((n->if_generation >= 0 && n->if_generation != have) ||
		(n->if_not_generation >= 0 && n->if_not_generation == have))
		return storage_error(e, 412, "conditionNotMet", "At least one of the pre-conditions you "
							 "specified did not hold.");
	return true;
}

static void
finish(Request *req, Reply *reply, NewObject *n, int fd)
{
	StrBuf		b = {0};
	GError		e;
	const Object *o = object_store(n, fd, &e);

	if (o == NULL)
	{
		storage_refuse(reply, &e);
		return;
	}
	object_write(&b, o);
	pthread_mutex_unlock(&google_lock);
	reply_json(req, reply, b.data);
	buf_free(&b);
}

static void
serve_simple(Request *req, Reply *reply, const char *bucket)
{
	const char *type = req_header(req, "Content-Type");
	NewObject	n;
	GError		e;

	if (new_object_read(req, bucket, NULL, &n, &e))
	{
		take(&n.content_type, type);
		new_object_headers(req, &n);
		finish(req, reply, &n, fcntl(req->body_fd, F_DUPFD_CLOEXEC, 3));
	}
	else
		storage_refuse(reply, &e);
	new_object_free(&n);
}

/* Where the pieces of a multipart body lie in the file. */
typedef struct Parts
{
	StrBuf		head;
	int64_t		media;
	int64_t		media_bytes;
	cJSON	   *meta;
	char	   *type;
} Parts;

static const char *
part_type(const char *headers, size_t len)
{
	char	   *text = xstrndup(headers, len);
	const char *at = find_nocase(text, "content-type:");
	char	   *type = at ? trim_copy(at + 13, strcspn(at + 13, "\r\n")) : NULL;

	free(text);
	return type;
}

/* The metadata part, and where the media begins. */
static const char *
read_head(Parts *p, const char *delimiter)
{
	size_t		dlen = strlen(delimiter);
	char	   *head = p->head.data;
	char	   *body1;
	char	   *end1;
	char	   *body2;
	const char *why;

	/* the first delimiter may lack the line end before it */
	if (strncmp(head, delimiter + 2, dlen - 2) != 0 && strncmp(head, delimiter, dlen) != 0)
		return "Missing starting boundary in multipart body.";
	body1 = memmem(head, p->head.len, "\r\n\r\n", 4);
	end1 = body1 ? memmem(body1, p->head.len - (size_t) (body1 - head), delimiter, dlen) : NULL;
	body2 = end1 ? memmem(end1 + dlen, p->head.len - (size_t) (end1 + dlen - head), "\r\n\r\n",
						  4) : NULL;
	if (body2 == NULL)
		return "Multipart body must contain 2 parts: metadata and media.";
	p->meta = json_parse(body1 + 4, (size_t) (end1 - body1 - 4), &why);
	if (!cJSON_IsObject(p->meta))
		return "Parse Error";
	p->type = (char *) part_type(end1 + dlen, (size_t) (body2 - end1) - dlen);
	p->media = body2 + 4 - head;
	return NULL;
}

/* How long the media is: up to the closing delimiter at the end. */
static const char *
read_tail(Parts *p, const Request *req, const char *delimiter)
{
	size_t		dlen = strlen(delimiter);
	char		tail[512];
	int64_t		from = req->body_bytes - (int64_t) sizeof(tail) + 1;
	ssize_t		n;
	char	   *at;

	if (from < p->media - 2)
		from = p->media - 2;
	n = pread(req->body_fd, tail, sizeof(tail) - 1, (off_t) from);
	if (n <= 0)
		return "Missing end boundary in multipart body.";
	tail[n] = '\0';
	at = memmem(tail, (size_t) n, delimiter, dlen);
	if (at == NULL || strncmp(at + dlen, "--", 2) != 0)
		return "Missing end boundary in multipart body.";
	p->media_bytes = from + (at - tail) - p->media;
	return p->media_bytes < 0 ? "Missing end boundary in multipart body." : NULL;
}

static const char *
read_parts(Parts *p, const Request *req)
{
	const char *type = req_header(req, "Content-Type");
	const char *at = type ? find_nocase(type, "boundary=") : NULL;
	StrBuf		d = {0};
	const char *why;
	ssize_t		n;

	if (type == NULL || !starts_nocase(type, "multipart/related") || at == NULL)
		return "Bad Content-Type: multipart/related with a boundary is expected.";
	at += 9;
	buf_str(&d, "\r\n--");
	if (*at == '"' || *at == '\'')
		buf_add(&d, at + 1, strcspn(at + 1, "\"'"));
	else
		buf_add(&d, at, strcspn(at, "; "));
	buf_reserve(&p->head, HEAD_MAX);
	n = pread(req->body_fd, p->head.data, HEAD_MAX, 0);
	p->head.len = n > 0 ? (size_t) n : 0;
	p->head.data[p->head.len] = '\0';
	why = read_head(p, d.data);
	if (why == NULL)
		why = read_tail(p, req, d.data);
	buf_free(&d);
	return why;
}

static void
serve_multipart(Request *req, Reply *reply, const char *bucket)
{
	Parts		p = {0};
	NewObject	n = {0};
	GError		e;
	const char *why = read_parts(&p, req);

	if (why != NULL)
	{
		storage_error(&e, 400, "badRequest", "%s", why);
		storage_refuse(reply, &e);
	}
	else if (new_object_read(req, bucket, p.meta, &n, &e))
	{
		int			fd = spool_file(NULL);

		if (n.content_type == NULL)
			take(&n.content_type, p.type);
		new_object_headers(req, &n);
		copy_bytes(req->body_fd, p.media, p.media_bytes, fd);
		finish(req, reply, &n, fd);
	}
	else
		storage_refuse(reply, &e);
	new_object_free(&n);
	cJSON_Delete(p.meta);
	buf_free(&p.head);
	free(p.type);
}

/* POST /upload/storage/v1/b/{bucket}/o */
void
serve_upload(Request *req, Reply *reply, const char *bucket)
{
	char	   *type = req_query(req, "uploadType");
	GError		e;

	if (type != NULL && strcmp(type, "media") == 0)
		serve_simple(req, reply, bucket);
	else if (type != NULL && strcmp(type, "multipart") == 0)
		serve_multipart(req, reply, bucket);
	else if (type != NULL && strcmp(type, "resumable") == 0)
		session_start(req, reply, bucket);
	else
	{
		storage_error(&e, 400, "invalidParameter", "Invalid upload request: uploadType must be "
					  "media, multipart or resumable.");
		storage_refuse(reply, &e);
	}
	free(type);
}
