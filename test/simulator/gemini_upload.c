/*
 * gemini_upload.c
 *		Uploads to the Gemini API: the resumable protocol of X-Goog-Upload-*.
 *
 * Pieces that are not the last have to be multiples of the granularity that
 * "start" told.  What arrived before a connection broke is kept in multiples
 * of 256 KiB, and "query" tells how much that is.
 */
#include "gemini.h"

#include <fcntl.h>
#include <unistd.h>

#define GRANULARITY	8388608
#define GRAIN		262144
#define MAX_FILE	(2LL * 1024 * 1024 * 1024)
#define MAX_STORED	(20LL * 1024 * 1024 * 1024)

typedef struct Upload
{
	char		id[100];
	int			key;
	char	   *display_name;
	char	   *mime_type;
	char		name[64];		/* chosen by the client, or empty */
	int64_t		total;			/* -1: not told */
	int			fd;
	int64_t		bytes;
	double		until;
	bool		busy;
	bool		cancelled;
	int			dead;
	char	   *done;			/* the reply of the last request */
	struct Upload *older;
} Upload;

static Upload *newest;

static void
upload_free(Upload *u)
{
	if (u->fd >= 0)
		close(u->fd);
	free(u->display_name);
	free(u->mime_type);
	free(u->done);
	free(u);
}

void
gemini_uploads_clear(void)
{
	pthread_mutex_lock(&google_lock);
	while (newest != NULL)
	{
		Upload	   *u = newest;

		newest = u->older;
		upload_free(u);
	}
	pthread_mutex_unlock(&google_lock);
}

static bool
read_file_fields(const cJSON *body, Upload *u, int key, GError *e)
{
	const cJSON *file = json_get(body, "file");
	const char *name = json_str(file, "name");
	const cJSON *v;

	cJSON_ArrayForEach(v, body)
	{
		if (strcmp(v->string, "file") != 0)
			return gerror(e, 400, "Invalid JSON payload received. Unknown name \"%.60s\": Cannot "
						  "find field.", v->string);
	}
	cJSON_ArrayForEach(v, file)
	{
		static const char known[] = " name displayName display_name mimeType mime_type "
			"sizeBytes size_bytes createTime expirationTime updateTime sha256Hash uri state "
			"source ";

		if (strstr(known, v->string) == NULL)
			return gerror(e, 400, "Invalid JSON payload received. Unknown name \"%.60s\" at "
						  "'file': Cannot find field.", v->string);
	}
	if (name != NULL)
	{
		if (strncmp(name, "files/", 6) == 0)
			name += 6;
		if (*name == '\0' || strlen(name) > 40 || *name == '-' || name[strlen(name) - 1] == '-' ||
			strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(name))
			return gerror(e, 400, "* CreateFileRequest.file.name: the name can only contain "
						  "lowercase alphanumeric characters or dashes (-), must not begin or end "
						  "with a dash and have at most 40 of them.");
		if (gfile_find(name, key) != NULL)
		{
			gerror(e, 409, "Resource with name \"files/%s\" already exists.", name);
			snprintf(e->name, sizeof(e->name), "ALREADY_EXISTS");
			return false;
		}
		snprintf(u->name, sizeof(u->name), "%s", name);
	}
	if (proto_str(file, "displayName") != NULL)
		u->display_name = xstrdup(proto_str(file, "displayName"));
	if (proto_str(file, "mimeType") != NULL)
		u->mime_type = xstrdup(proto_str(file, "mimeType"));
	return true;
}

static bool
read_start(Request *req, const cJSON *body, Upload *u, GError *e)
{
	const char *protocol = req_header(req, "X-Goog-Upload-Protocol");
	const char *length = req_header(req, "X-Goog-Upload-Header-Content-Length");
	const char *type = req_header(req, "X-Goog-Upload-Header-Content-Type");
	bool		ok;

	if (protocol == NULL || strcmp(protocol, "resumable") != 0)
		return gerror(e, 400, "Upload protocol \"%.40s\" is not supported.",
					  protocol ? protocol : "");
	u->total = length ? strtoll(length, NULL, 10) : -1;
	if (u->total > MAX_FILE)
		return gerror(e, 400, "The file is too large: at most 2147483648 bytes can be stored.");
	pthread_mutex_lock(&google_lock);
	ok = read_file_fields(body, u, u->key, e);
	if (ok && gfiles_bytes(u->key) + (u->total > 0 ? u->total : 0) > MAX_STORED)
		ok = gerror(e, 429, "You have exceeded the file storage quota of the project.");
	pthread_mutex_unlock(&google_lock);
	if (u->mime_type == NULL && type != NULL)
		u->mime_type = xstrdup(type);
	if (ok && (u->mime_type == NULL || u->mime_type[0] == '\0'))
		ok = gerror(e, 400, "Unsupported MIME type: ");
	return ok;
}

static void
serve_start(Request *req, Reply *reply)
{
	Upload	   *u = xcalloc(sizeof(Upload));
	cJSON	   *body = NULL;
	StrBuf		url = {0};
	GError		e;

	u->fd = -1;
	u->key = gemini_key(req, &e);
	if (u->key < 0 || (body = google_body(req, &e)) == NULL || !read_start(req, body, u, &e))
	{
		gerror_reply(reply, &e);
		upload_free(u);
		cJSON_Delete(body);
		return;
	}
	make_id(u->id, sizeof(u->id), "AFiWUQ", 90);
	u->until = now_ms() + settings_get().session_ms;
	{
		char	   *origin = request_origin(req);

		buf_printf(&url, "%s%s?upload_id=%s&upload_protocol=resumable", origin, req->path, u->id);
		free(origin);
	}
	reply->status = 200;
	reply->content_type = "text/plain; charset=utf-8";
	reply_header(reply, "X-Goog-Upload-Status", "active");
	reply_header(reply, "X-Goog-Upload-URL", url.data);
	reply_header(reply, "X-Goog-Upload-Control-URL", url.data);
	reply_header(reply, "X-Goog-Upload-Chunk-Granularity", "8388608");
	pthread_mutex_lock(&google_lock);
	u->older = newest;
	newest = u;
	pthread_mutex_unlock(&google_lock);
	buf_free(&url);
	cJSON_Delete(body);
}

/* The upload that the query names, marked busy, or NULL with the status. */
static Upload *
upload_claim(const Request *req, int *status)
{
	char	   *id = req_query(req, "upload_id");
	Upload	   *u;

	pthread_mutex_lock(&google_lock);
	for (u = newest; u != NULL && (id == NULL || strcmp(u->id, id) != 0); u = u->older)
		;
	*status = id == NULL ? 400 : 404;
	if (u != NULL && u->busy)
	{
		*status = 503;
		u = NULL;
	}
	if (u != NULL)
		u->busy = true;
	pthread_mutex_unlock(&google_lock);
	free(id);
	return u;
}

static void
upload_release(Upload *u)
{
	pthread_mutex_lock(&google_lock);
	u->busy = false;
	pthread_mutex_unlock(&google_lock);
}

static void
store(Upload *u, const Request *req, int64_t bytes)
{
	if (u->fd < 0 && bytes == req->body_bytes)
		u->fd = fcntl(req->body_fd, F_DUPFD_CLOEXEC, 3);
	else
	{
		if (u->fd < 0)
			u->fd = spool_file(NULL);
		lseek(u->fd, 0, SEEK_END);
		copy_bytes(req->body_fd, 0, bytes, u->fd);
	}
	u->bytes += bytes;
}

static void
status_headers(Reply *reply, const Upload *u)
{
	char		number[32];

	snprintf(number, sizeof(number), "%lld", (long long) u->bytes);
	reply_header(reply, "X-Goog-Upload-Size-Received", number);
	reply_header(reply, "X-Goog-Upload-Status", u->cancelled ? "cancelled" :
				 u->done ? "final" : "active");
}

/* The last request: the file is there. */
static bool
finalize(Upload *u, Request *req, GError *e)
{
	cJSON	   *order;
	StrBuf		b = {0};
	char		id[64];
	GFile	   *f;

	if (u->total >= 0 && u->bytes != u->total)
		return gerror(e, 400, "Upload has %lld bytes, but its start announced %lld.",
					  (long long) u->bytes, (long long) u->total);
	if (u->bytes == 0)
		return gerror(e, 400, "The file is empty.");
	order = faults_object(ON_FILE, req, NULL, NULL);
	lower_id(id, sizeof(id), 12);
	f = gfile_add(u->key, u->name[0] ? u->name : id, u->fd, u->mime_type);
	u->fd = -1;
	if (u->display_name != NULL)
		f->display_name = xstrdup(u->display_name);
	f->visible_at = now_ms() + json_num(order, "missing_ms", 0);
	f->ready_at = now_ms() + json_num(order, "ready_ms", settings_get().file_ms);
	f->broken = json_str(order, "status") != NULL &&
		strcmp(json_str(order, "status"), "error") == 0;
	keep_upload(f->id, f->fd, f->bytes);
	stats_count_by(BY_GEMINI, COUNT_FILES_CREATED, 1);
	stats_count_by(BY_GEMINI, COUNT_BYTES_UPLOADED, f->bytes);
	buf_char(&b, '{');
	gfile_write(&b, "file", f);
	buf_char(&b, '}');
	pthread_mutex_unlock(&google_lock);
	u->done = b.data;
	cJSON_Delete(order);
	return true;
}

static bool
take_piece(Upload *u, Request *req, bool last, GError *e)
{
	const char *offset = req_header(req, "X-Goog-Upload-Offset");
	char	   *end;
	long long	at = offset ? strtoll(offset, &end, 10) : -1;

	if (offset == NULL || *end || at < 0)
		return gerror(e, 400, "Missing or malformed X-Goog-Upload-Offset header.");
	if (at != u->bytes)
		return gerror(e, 400, "The upload offset is %lld, but %lld bytes were received.", at,
					  (long long) u->bytes);
	if (!last && (req->body_bytes == 0 || req->body_bytes % GRANULARITY != 0))
		return gerror(e, 400, "The size of a piece that is not the last must be a multiple of the "
					  "chunk granularity of %d bytes.", GRANULARITY);
	if (u->bytes + req->body_bytes > MAX_FILE || (u->total >= 0 &&
												  u->bytes + req->body_bytes > u->total))
		return gerror(e, 400, "The upload is larger than its start announced.");
	if (req->body_bytes > 0)
		store(u, req, req->body_bytes);
	return true;
}

static void
work(Upload *u, Request *req, Reply *reply, const char *command)
{
	bool		upload = find_nocase(command, "upload") != NULL;
	bool		last = find_nocase(command, "finalize") != NULL;
	cJSON	   *order = faults_object(ON_STORAGE, req, NULL, NULL);
	GError		e;
	bool		ok = true;

	if (json_num(order, "die", 0) != 0)
		u->dead = (int) json_num(order, "die", 0);
	cJSON_Delete(order);
	if (u->dead == 0 && now_ms() > u->until)
		u->dead = 404;
	if (u->dead != 0)
		ok = gerror(&e, u->dead, "The upload was not found.");
	else if (find_nocase(command, "query") != NULL)
		ok = true;
	else if (u->cancelled || (u->done != NULL && upload))
		ok = gerror(&e, 400, "Upload has already been %s.", u->cancelled ? "cancelled" :
					"finalized");
	else if (find_nocase(command, "cancel") != NULL)
		u->cancelled = true;
	else if (!upload && !last)
		ok = gerror(&e, 400, "Unknown X-Goog-Upload-Command.");
	else
	{
		if (upload)
			ok = take_piece(u, req, last, &e);
		if (ok && last && u->done == NULL)
			ok = finalize(u, req, &e);
	}
	if (u->dead == 0)
		status_headers(reply, u);
	if (!ok)
	{
		gerror_reply(reply, &e);
		return;
	}
	reply->status = 200;
	if (u->done != NULL)
		buf_str(&reply->body, u->done);
	else
		reply->content_type = "text/plain; charset=utf-8";
}

/* POST /upload/v1beta/files, with and without upload_id. */
void
gemini_upload(Request *req, Reply *reply)
{
	const char *command = req_header(req, "X-Goog-Upload-Command");
	GError		e;
	Upload	   *u;
	int			status;

	if (strcmp(req->method, "POST") != 0 && strcmp(req->method, "PUT") != 0)
	{
		gerror(&e, 404, "Method not found.");
		gerror_reply(reply, &e);
	}
	else if (command == NULL)
	{
		gerror(&e, 400, "Upload request without X-Goog-Upload-Command.");
		gerror_reply(reply, &e);
	}
	else if (find_nocase(command, "start") != NULL)
		serve_start(req, reply);
	else if ((u = upload_claim(req, &status)) == NULL)
	{
		gerror(&e, status, status == 503 ? "Another request works on this upload." :
			   "The upload was not found.");
		gerror_reply(reply, &e);
	}
	else
	{
		work(u, req, reply, command);
		upload_release(u);
	}
}

/* The connection broke while a piece arrived. */
void
gemini_broken(Request *req)
{
	int64_t		have = req->body_fd >= 0 ? lseek(req->body_fd, 0, SEEK_END) : 0;
	const char *offset = req_header(req, "X-Goog-Upload-Offset");
	int			status;
	Upload	   *u;

	if (have < GRAIN || offset == NULL)
		return;
	u = upload_claim(req, &status);
	if (u == NULL)
		return;
	if (!u->cancelled && u->done == NULL && strtoll(offset, NULL, 10) == u->bytes)
		store(u, req, have / GRAIN * GRAIN);
	upload_release(u);
}
