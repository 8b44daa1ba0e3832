/*
 * gemini_files.c
 *		Files of the Gemini API: look, list, delete, download.
 *
 * A file that is not there, or another key's, is answered 403, as the service
 * does.  Only what a batch wrote can be downloaded.
 */
#include "gemini.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <unistd.h>

static GFile *newest;

static bool
alive(const GFile *f)
{
	return now_ms() >= f->visible_at && now_ms() < f->until;
}

/* The caller holds google_lock. */
GFile *
gfile_find(const char *id, int key)
{
	for (GFile *f = newest; f != NULL; f = f->older)
	{
		if (strcmp(f->id, id) == 0)
			return f->key == key && alive(f) ? f : NULL;
	}
	return NULL;
}

static void
hash_file(GFile *f)
{
	unsigned char buf[65536];
	unsigned char digest[EVP_MAX_MD_SIZE];
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	ssize_t		n;

	if (ctx == NULL || EVP_DigestInit_ex(ctx, EVP_sha256(), NULL) != 1)
		die("no SHA-256");
	while ((n = pread(f->fd, buf, sizeof(buf), (off_t) f->bytes)) > 0)
	{
		EVP_DigestUpdate(ctx, buf, (size_t) n);
		f->bytes += n;
	}
	EVP_DigestFinal_ex(ctx, digest, NULL);
	EVP_MD_CTX_free(ctx);
	for (int i = 0; i < 32; i++)
		snprintf(f->sha256 + i * 2, 3, "%02x", digest[i]);
}

/*
 * A file with this content, which is taken over.  Not in the list before the
 * lock is had: the caller may go on filling it, and gets google_lock.
 */
GFile *
gfile_add(int key, const char *id, int fd, const char *mime_type)
{
	GFile	   *f = xcalloc(sizeof(GFile));

	snprintf(f->id, sizeof(f->id), "%s", id);
	f->key = key;
	f->fd = fd;
	f->mime_type = xstrdup(mime_type);
	f->created = real_ms();
	f->until = now_ms() + settings_get().file_life_ms;
	hash_file(f);
	pthread_mutex_lock(&google_lock);
	f->older = newest;
	newest = f;
	return f;
}

static void
gfile_free(GFile *f)
{
	close(f->fd);
	free(f->display_name);
	free(f->mime_type);
	free(f);
}

void
gemini_reset(void)
{
	gemini_uploads_clear();
	pthread_mutex_lock(&google_lock);
	while (newest != NULL)
	{
		GFile	   *f = newest;

		newest = f->older;
		gfile_free(f);
	}
	pthread_mutex_unlock(&google_lock);
}

/* What one key has stored.  The caller holds google_lock. */
int64_t
gfiles_bytes(int key)
{
	int64_t		sum = 0;

	for (GFile *f = newest; f != NULL; f = f->older)
	{
		if (f->key == key && alive(f) && !f->generated)
			sum += f->bytes;
	}
	return sum;
}

const char *
gfile_state(const GFile *f)
{
	if (now_ms() < f->ready_at)
		return "PROCESSING";
	return f->broken ? "FAILED" : "ACTIVE";
}

void
gfile_write(StrBuf *b, const char *key, const GFile *f)
{
	StrBuf		text = {0};
	char	   *hash = base64_encode((const unsigned char *) f->sha256, 64);

	jw_key(b, key);
	buf_char(b, '{');
	buf_printf(&text, "files/%s", f->id);
	jw_str(b, "name", text.data);
	if (f->display_name != NULL)
		jw_str(b, "displayName", f->display_name);
	jw_str(b, "mimeType", f->mime_type);
	if (f->bytes > 0)
		jw_int_text(b, "sizeBytes", f->bytes);
	jw_stamp(b, "createTime", f->created);
	jw_stamp(b, "updateTime", f->created);
	jw_stamp(b, "expirationTime", real_ms() + f->until - now_ms());
	jw_str(b, "sha256Hash", hash);
	buf_reset(&text);
	buf_printf(&text, "https://generativelanguage.googleapis.com/v1beta/files/%s", f->id);
	jw_str(b, "uri", text.data);
	if (f->generated)
	{
		buf_str(&text, ":download?alt=media");
		jw_str(b, "downloadUri", text.data);
	}
	jw_str(b, "state", gfile_state(f));
	jw_str(b, "source", f->generated ? "GENERATED" : "UPLOADED");
	if (f->broken)
		jw_raw(b, "error", "{\"code\":13,\"message\":\"The file could not be processed.\"}");
	buf_char(b, '}');
	buf_free(&text);
	free(hash);
}

/* pageSize and pageToken; after, the last name of the page before, is to be freed. */
bool
gemini_page(Request *req, long dflt, long max, long *size, char **after, GError *e)
{
	char	   *text = req_query(req, "pageSize");
	char	   *token = req_query(req, "pageToken");
	char	   *end = NULL;
	size_t		n;

	*after = NULL;
	*size = text && *text ? strtol(text, &end, 10) : dflt;
	if ((end != NULL && *end) || *size < 0)
	{
		free(text);
		free(token);
		return gerror(e, 400, "Invalid value at 'page_size' (TYPE_INT32)");
	}
	if (*size == 0)
		*size = dflt;
	if (*size > max)
		*size = max;
	free(text);
	if (token != NULL && *token)
		*after = (char *) base64url_decode(token, strlen(token), &n);
	if (token != NULL && *token && *after == NULL)
	{
		free(token);
		return gerror(e, 400, "Invalid page token.");
	}
	free(token);
	return true;
}

/* The member nextPageToken. */
void
gemini_token(StrBuf *b, const char *last)
{
	char	   *token = base64_encode((const unsigned char *) last, strlen(last));

	for (char *p = token; *p; p++)
		*p = *p == '+' ? '-' : *p == '/' ? '_' : *p;
	token[strcspn(token, "=")] = '\0';
	jw_str(b, "nextPageToken", token);
	free(token);
}

void
gemini_files_list(Request *req, Reply *reply, int key)
{
	StrBuf	   *b = &reply->body;
	char	   *after;
	long		size;
	bool		on;
	bool		any = false;
	GError		e;
	const GFile *last = NULL;
	GFile	   *f;

	if (!gemini_page(req, 10, 100, &size, &after, &e))
	{
		gerror_reply(reply, &e);
		return;
	}
	on = after == NULL;
	reply->status = 200;
	buf_char(b, '{');
	pthread_mutex_lock(&google_lock);
	for (f = newest; f != NULL; f = f->older)
	{
		if (f->key != key || !alive(f))
			continue;
		if (!on)
		{
			on = strcmp(f->id, after) == 0;
			continue;
		}
		if (size-- == 0)
			break;
		if (!any)
			jw_raw(b, "files", "[");
		any = true;
		gfile_write(b, NULL, f);
		last = f;
	}
	if (any)
		buf_char(b, ']');
	if (f != NULL && last != NULL)
		gemini_token(b, last->id);
	pthread_mutex_unlock(&google_lock);
	buf_char(b, '}');
	free(after);
}

static bool
download(Request *req, Reply *reply, const GFile *f, GError *e)
{
	char	   *alt = req_query(req, "alt");
	bool		media = alt != NULL && strcmp(alt, "media") == 0;

	free(alt);
	if (!f->generated)
		return gerror(e, 400, "The file files/%s was uploaded; only generated files can be "
					  "downloaded.", f->id);
	if (!media)
		return gerror(e, 400, "alt=media is required to download a file.");
	reply->status = 200;
	reply->content_type = f->mime_type[0] ? "application/octet-stream" : NULL;
	reply->fd = fcntl(f->fd, F_DUPFD_CLOEXEC, 3);
	reply->fd_bytes = f->bytes;
	return true;
}

static void
delete_file(GFile *f)
{
	GFile	  **at = &newest;

	while (*at != f)
		at = &(*at)->older;
	*at = f->older;
	gfile_free(f);
	stats_count_by(BY_GEMINI, COUNT_FILES_DELETED, 1);
}

/* id may have ":download" behind it. */
void
gemini_file(Request *req, Reply *reply, int key, char *id, bool by_download_path)
{
	char	   *colon = strchr(id, ':');
	bool		get = strcmp(req->method, "GET") == 0;
	bool		ok = true;
	GError		e;
	GFile	   *f;

	if (colon != NULL)
		*colon++ = '\0';
	pthread_mutex_lock(&google_lock);
	f = gfile_find(id, key);
	if (f == NULL)
		ok = gerror(&e, 403, "You do not have permission to access the File %.60s or it may not "
					"exist.", id);
	else if (get && colon != NULL && strcmp(colon, "download") == 0)
		ok = download(req, reply, f, &e);
	else if (get && colon == NULL && !by_download_path)
	{
		reply->status = 200;
		gfile_write(&reply->body, NULL, f);
	}
	else if (strcmp(req->method, "DELETE") == 0 && colon == NULL && !by_download_path)
	{
		delete_file(f);
		reply->status = 200;
		buf_str(&reply->body, "{}");
	}
	else
		ok = gerror(&e, 404, "Requested entity was not found.");
	if (!ok)
		gerror_reply(reply, &e);
	pthread_mutex_unlock(&google_lock);
}
