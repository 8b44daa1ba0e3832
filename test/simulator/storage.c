/*
 * storage.c
 *		Cloud Storage, JSON API: routes, objects, reading and deleting them.
 *
 * An object's content is an unnamed file in the data directory: whoever reads
 * it has a descriptor of his own, so that overwriting and deleting are
 * possible at any time.  Listing is consistent at once, as in the service.
 */
#include "storage.h"

#include "providers.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_OBJECT	(5LL * 1024 * 1024 * 1024 * 1024)

/* Sorted by bucket and name. */
static Object **objects;
static int	nobjects;
static int	slots;
static int64_t last_generation;

bool
storage_error(GError *e, int status, const char *reason, const char *fmt,...)
{
	va_list		args;

	memset(e, 0, sizeof(*e));
	e->status = status;
	snprintf(e->reason, sizeof(e->reason), "%s", reason);
	va_start(args, fmt);
	vsnprintf(e->message, sizeof(e->message), fmt, args);
	va_end(args);
	e->message[cut_at(e->message, strlen(e->message), sizeof(e->message) - 4)] = '\0';
	return false;
}

static void
storage_error_write(StrBuf *b, const GError *e)
{
	bool		auth = e->status == 401;

	buf_str(b, "{\"error\":{");
	jw_int(b, "code", e->status);
	jw_str(b, "message", auth ? "Invalid Credentials" : e->message);
	jw_raw(b, "errors", "[{");
	jw_str(b, "message", auth ? "Invalid Credentials" : e->message);
	jw_str(b, "domain", strcmp(e->reason, "rateLimitExceeded") == 0 ? "usageLimits" : "global");
	jw_str(b, "reason", e->reason[0] ? e->reason : "invalid");
	if (auth)
	{
		jw_str(b, "locationType", "header");
		jw_str(b, "location", "Authorization");
	}
	buf_str(b, "}]}}");
}

void
storage_refuse(Reply *reply, const GError *e)
{
	reply->status = e->status;
	reply->content_type = "application/json; charset=UTF-8";
	if (e->status == 401)
		reply_header(reply, "WWW-Authenticate", "Bearer realm=\"https://accounts.google.com/\", "
					 "error=\"invalid_token\"");
	buf_reset(&reply->body);
	storage_error_write(&reply->body, e);
}

bool
storage_bucket_exists(const char *name)
{
	for (int i = 0; i < sim_options.nbuckets; i++)
	{
		if (strcmp(sim_options.buckets[i], name) == 0)
			return true;
	}
	return false;
}

bool
bucket_check(const char *name, GError *e)
{
	return storage_bucket_exists(name) ||
		storage_error(e, 404, "notFound", "The specified bucket does not exist.");
}

static int
compare(const Object *o, const char *bucket, const char *name)
{
	int			c = strcmp(o->bucket, bucket);

	return c ? c : strcmp(o->name, name);
}

/* Where the object is or would be. */
static int
position(const char *bucket, const char *name)
{
	int			low = 0;
	int			high = nobjects;

	while (low < high)
	{
		int			mid = (low + high) / 2;

		if (compare(objects[mid], bucket, name) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

bool
object_visible(const Object *o)
{
	return now_ms() >= o->visible_at;
}

/* The caller holds google_lock. */
Object *
object_find(const char *bucket, const char *name)
{
	int			at = position(bucket, name);

	if (at == nobjects || compare(objects[at], bucket, name) != 0 ||
		!object_visible(objects[at]))
		return NULL;
	return objects[at];
}

Object	  **
objects_all(int *n)
{
	*n = nobjects;
	return objects;
}

static void
object_free(Object *o)
{
	close(o->fd);
	free(o->bucket);
	free(o->name);
	free(o->content_type);
	free(o->metadata);
	free(o);
}

void
object_remove(Object *o)
{
	int			at = position(o->bucket, o->name);

	memmove(objects + at, objects + at + 1, (size_t) (--nobjects - at) * sizeof(Object *));
	object_free(o);
}

static void
hash_file(int fd, Object *o)
{
	unsigned char buf[65536];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	ssize_t		n;

	if (ctx == NULL || EVP_DigestInit_ex(ctx, EVP_md5(), NULL) != 1)
		die("no MD5");
	o->size = 0;
	o->crc = 0;
	while ((n = pread(fd, buf, sizeof(buf), (off_t) o->size)) > 0)
	{
		EVP_DigestUpdate(ctx, buf, (size_t) n);
		o->crc = crc32c(o->crc, buf, (size_t) n);
		o->size += n;
	}
	EVP_DigestFinal_ex(ctx, o->md5, NULL);
	EVP_MD_CTX_free(ctx);
}

/* Puts o in its place; what was there before is gone. */
static void
object_insert(Object *o)
{
	int			at = position(o->bucket, o->name);
	int64_t		now = (int64_t) (o->created * 1000);

	last_generation = now > last_generation ? now : last_generation + 1;
	o->generation = last_generation;
	if (at < nobjects && compare(objects[at], o->bucket, o->name) == 0)
	{
		object_free(objects[at]);
		objects[at] = o;
		return;
	}
	if (nobjects == slots)
	{
		slots = slots ? slots * 2 : 256;
		objects = xrealloc(objects, (size_t) slots * sizeof(Object *));
	}
	memmove(objects + at + 1, objects + at, (size_t) (nobjects++ - at) * sizeof(Object *));
	objects[at] = o;
}

/*
 * Makes an object of a complete file, which it takes over, whatever happens.
 * NULL with the error if a hash or a precondition does not hold; else the
 * caller has google_lock, to write the object.
 */
const Object *
object_store(const NewObject *n, int fd, GError *e)
{
	Object	   *o = xcalloc(sizeof(Object));
	char	   *crc;
	char	   *md5;
	char		name[32];
	bool		ok = true;

	hash_file(fd, o);
	crc = crc32c_text(o->crc);
	md5 = base64_encode(o->md5, 16);
	if (n->crc != NULL && strcmp(n->crc, crc) != 0)
		ok = storage_error(e, 400, "invalid", "Provided CRC32C \"%s\" doesn't match calculated "
						   "CRC32C \"%s\".", n->crc, crc);
	else if (n->md5 != NULL && strcmp(n->md5, md5) != 0)
		ok = storage_error(e, 400, "invalid", "Provided MD5 hash \"%s\" doesn't match calculated "
						   "MD5 hash \"%s\".", n->md5, md5);
	free(crc);
	free(md5);
	o->bucket = xstrdup(n->bucket);
	o->name = xstrdup(n->name);
	o->content_type = xstrdup(n->content_type ? n->content_type : "application/octet-stream");
	o->metadata = n->metadata ? xstrdup(n->metadata) : NULL;
	o->fd = fd;
	o->created = real_ms();
	pthread_mutex_lock(&google_lock);
	if (ok && new_object_allowed(n, e))
	{
		object_insert(o);
		snprintf(name, sizeof(name), "%lld", (long long) o->generation);
		keep_upload(name, o->fd, o->size);
		stats_count_by(BY_STORAGE, COUNT_FILES_CREATED, 1);
		stats_count_by(BY_STORAGE, COUNT_BYTES_UPLOADED, o->size);
		return o;
	}
	pthread_mutex_unlock(&google_lock);
	object_free(o);
	return NULL;
}

/* What a job writes.  Takes the file over. */
void
storage_put(const char *bucket, const char *name, const char *content_type, int fd,
			double visible_at)
{
	Object	   *o = xcalloc(sizeof(Object));

	hash_file(fd, o);
	o->bucket = xstrdup(bucket);
	o->name = xstrdup(name);
	o->content_type = xstrdup(content_type);
	o->fd = fd;
	o->created = real_ms();
	o->visible_at = visible_at;
	pthread_mutex_lock(&google_lock);
	object_insert(o);
	pthread_mutex_unlock(&google_lock);
}

/* A descriptor of the object's content, or -1.  The caller holds google_lock. */
int
storage_open(const char *bucket, const char *name, int64_t *bytes, double *visible_at)
{
	Object	   *o = object_find(bucket, name);

	if (o == NULL)
		return -1;
	*bytes = o->size;
	*visible_at = o->visible_at;
	return fcntl(o->fd, F_DUPFD_CLOEXEC, 3);
}

/* Names that a pattern with * matches, to be freed.  The caller holds google_lock. */
int
storage_match(const char *bucket, const char *pattern, char ***names)
{
	int			n = 0;

	*names = xcalloc((size_t) (nobjects + 1) * sizeof(char *));
	for (int i = 0; i < nobjects; i++)
	{
		if (strcmp(objects[i]->bucket, bucket) == 0 && object_visible(objects[i]) &&
			glob_match(pattern, objects[i]->name))
			(*names)[n++] = xstrdup(objects[i]->name);
	}
	return n;
}

int
storage_objects(void)
{
	return nobjects;
}

void
storage_reset(void)
{
	sessions_clear();
	pthread_mutex_lock(&google_lock);
	while (nobjects > 0)
		object_free(objects[--nobjects]);
	free(objects);
	objects = NULL;
	slots = 0;
	pthread_mutex_unlock(&google_lock);
}

/* Times of objects have milliseconds. */
static void
write_time(StrBuf *b, const char *key, double ms)
{
	StrBuf		t = {0};
	size_t		from;

	jw_stamp(&t, NULL, ms);
	jw_key(b, key);
	from = t.len - 5;
	buf_add(b, t.data, from);
	buf_str(b, "Z\"");
	buf_free(&t);
}

static void
write_link(StrBuf *b, const char *key, const char *base, const Object *o, const char *tail)
{
	StrBuf		url = {0};

	buf_printf(&url, "%s/b/%s/o/", base, o->bucket);
	for (const char *p = o->name; *p; p++)
	{
		if (strchr("/:?#%[]@!$&'()*+,;= \"\\", *p) || (unsigned char) *p < 0x20 ||
			(unsigned char) *p >= 0x7F)
			buf_printf(&url, "%%%02X", (unsigned char) *p);
		else
			buf_char(&url, *p);
	}
	buf_str(&url, tail);
	jw_str(b, key, url.data);
	buf_free(&url);
}

/* The resource, as stat and lists show it. */
void
object_write(StrBuf *b, const Object *o)
{
	char	   *crc = crc32c_text(o->crc);
	char	   *md5 = base64_encode(o->md5, 16);
	StrBuf		text = {0};

	jw_key(b, NULL);
	buf_char(b, '{');
	jw_str(b, "kind", "storage#object");
	buf_printf(&text, "%s/%s/%lld", o->bucket, o->name, (long long) o->generation);
	jw_str(b, "id", text.data);
	write_link(b, "selfLink", "https://www.googleapis.com/storage/v1", o, "");
	buf_reset(&text);
	buf_printf(&text, "?generation=%lld&alt=media", (long long) o->generation);
	write_link(b, "mediaLink", "https://storage.googleapis.com/download/storage/v1", o, text.data);
	jw_str(b, "name", o->name);
	jw_str(b, "bucket", o->bucket);
	jw_int_text(b, "generation", o->generation);
	jw_str(b, "metageneration", "1");
	jw_str(b, "contentType", o->content_type);
	jw_str(b, "storageClass", "STANDARD");
	jw_int_text(b, "size", o->size);
	jw_str(b, "md5Hash", md5);
	jw_str(b, "crc32c", crc);
	buf_reset(&text);
	buf_printf(&text, "C%llx=", (unsigned long long) o->generation);
	jw_str(b, "etag", text.data);
	write_time(b, "timeCreated", o->created);
	write_time(b, "updated", o->created);
	write_time(b, "timeStorageClassUpdated", o->created);
	write_time(b, "timeFinalized", o->created);
	if (o->metadata != NULL)
		jw_raw(b, "metadata", o->metadata);
	buf_char(b, '}');
	buf_free(&text);
	free(crc);
	free(md5);
}

/* Replies with the resource in root, or the part of it that "fields" names. */
void
reply_json(Request *req, Reply *reply, const char *root)
{
	char	   *fields = req_query(req, "fields");
	cJSON	   *json = fields ? cJSON_Parse(root) : NULL;
	GError		e;

	reply->status = 200;
	reply->content_type = "application/json; charset=UTF-8";
	if (fields == NULL)
		buf_str(&reply->body, root);
	else if (fields_apply(json, fields, &e))
	{
		char	   *text = cJSON_PrintUnformatted(json);

		buf_str(&reply->body, text);
		free(text);
	}
	else
		storage_refuse(reply, &e);
	cJSON_Delete(json);
	free(fields);
}

static void
serve_bucket(Request *req, Reply *reply, const char *name)
{
	StrBuf		b = {0};

	buf_char(&b, '{');
	jw_str(&b, "kind", "storage#bucket");
	jw_str(&b, "id", name);
	jw_str(&b, "name", name);
	jw_str(&b, "projectNumber", PROJECT_NUMBER);
	jw_str(&b, "location", "US-CENTRAL1");
	jw_str(&b, "locationType", "region");
	jw_str(&b, "storageClass", "STANDARD");
	jw_str(&b, "metageneration", "1");
	buf_char(&b, '}');
	reply_json(req, reply, b.data);
	buf_free(&b);
}

static bool
storage_claims(const Request *req)
{
	return strncmp(req->path, "/storage/v1/", 12) == 0 ||
		strncmp(req->path, "/upload/storage/v1/", 19) == 0 ||
		strncmp(req->path, "/download/storage/v1/", 21) == 0;
}

static void
storage_body(Request *req)
{
	char	   *type = req_query(req, "uploadType");

	req->body_max = 1024 * 1024;
	if (strncmp(req->path, "/upload/", 8) == 0 &&
		(strcmp(req->method, "PUT") == 0 ||
		 (type != NULL && strcmp(type, "resumable") != 0)))
	{
		req->body_kind = BODY_FILE;
		req->body_max = MAX_OBJECT;
	}
	free(type);
}

/* Paths below /storage/v1 or one of its siblings, split. */
static void
route(Request *req, Reply *reply, char **seg, int n)
{
	bool		upload = strcmp(seg[0], "upload") == 0;
	int			at = strcmp(seg[0], "storage") == 0 ? 2 : 3;
	bool		get = strcmp(req->method, "GET") == 0;
	bool		post = strcmp(req->method, "POST") == 0;
	GError		e;

	if (upload && strcmp(req->method, "PUT") == 0)
		session_put(req, reply);
	else if (upload && strcmp(req->method, "DELETE") == 0)
		session_cancel(req, reply);
	else if (!token_check(req, SCOPE_STORAGE, &e))
		storage_refuse(reply, &e);
	else if (n < at + 2 || strcmp(seg[at], "b") != 0)
	{
		storage_error(&e, 404, "notFound", "Not Found");
		storage_refuse(reply, &e);
	}
	else if (!bucket_check(seg[at + 1], &e))
		storage_refuse(reply, &e);
	else if (n == at + 3 && strcmp(seg[at + 2], "o") == 0 && upload && post)
		serve_upload(req, reply, seg[at + 1]);
	else if (n == at + 3 && strcmp(seg[at + 2], "o") == 0 && !upload && get)
		serve_list(req, reply, seg[at + 1]);
	else if (n == at + 4 && strcmp(seg[at + 2], "o") == 0 && !upload &&
			 (get || strcmp(req->method, "DELETE") == 0))
		serve_object(req, reply, seg[at + 1], seg[at + 3]);
	else if (n == at + 2 && get && !upload)
		serve_bucket(req, reply, seg[at + 1]);
	else
	{
		storage_error(&e, n > at + 4 ? 404 : 405, n > at + 4 ? "notFound" : "methodNotAllowed",
					  n > at + 4 ? "Not Found" : "The specified method is not allowed against "
					  "this resource.");
		storage_refuse(reply, &e);
	}
}

static void
storage_serve(Request *req, Reply *reply)
{
	char	   *seg[10];
	int			n = split_path(req->path, seg, 10);
	char		id[80];

	make_id(id, sizeof(id), "AHmU", 60);
	reply_header(reply, "X-GUploader-UploadID", id);
	route(req, reply, seg, n);
	free_path(seg, n);
}

static void
storage_fault_body(int status, StrBuf *out)
{
	GError		e;

	if (status == 429)
		storage_error(&e, status, "rateLimitExceeded", "The object exceeded the rate limit for "
					  "object mutation operations (create, update, and delete). Please reduce "
					  "your request rate. See "
					  "https://cloud.google.com/storage/docs/gcs429.");
	else if (status == 412)
		storage_error(&e, status, "conditionNotMet", "At least one of the pre-conditions you "
					  "specified did not hold.");
	else if (status == 404)
		storage_error(&e, status, "notFound", "Not Found");
	else if (status == 403)
		storage_error(&e, status, "forbidden", "%s does not have storage.objects.get access to "
					  "the Google Cloud Storage object. Permission 'storage.objects.get' denied "
					  "on resource (or it may not exist).", service_account_email());
	else if (status >= 500)
		storage_error(&e, status, "backendError", "We encountered an internal error. Please try "
					  "again.");
	else if (status >= 400)
		storage_error(&e, status, status == 401 ? "authError" : "invalid", "Invalid argument.");
	else
		return;
	storage_error_write(out, &e);
}

const Provider storage_provider = {
	.name = "storage", .claims = storage_claims, .body = storage_body, .prepare = bearer_secret,
	.serve = storage_serve, .fault_body = storage_fault_body, .broken = session_broken
};
