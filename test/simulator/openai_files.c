/*
 * openai_files.c
 *		/v1/files: upload, look, list, read, delete.
 *
 * The content lies in the data directory, one file each; whoever reads it has
 * opened it under the lock, so deleting is possible at any time.
 */
#include "openai.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAX_BATCH_FILE	(200LL * 1024 * 1024)
#define MONTH			(30LL * 86400)

static File *newest;

static bool
file_visible(const File *f)
{
	return now_ms() >= f->visible_at &&
		(f->expires_at == 0 || now_unix() < f->expires_at);
}

/* The caller holds openai_lock.  NULL when absent, expired, or another key's. */
File *
file_find(const char *id, int key)
{
	for (File *f = newest; f != NULL; f = f->older)
	{
		if (strcmp(f->id, id) == 0)
			return f->key == key && file_visible(f) ? f : NULL;
	}
	return NULL;
}

static File *
file_link(int key, const char *filename, const char *purpose, char *path, int64_t bytes)
{
	File	   *f = xcalloc(sizeof(File));

	make_id(f->id, sizeof(f->id), "file-", 22);
	f->key = key;
	f->filename = xstrdup(filename);
	snprintf(f->purpose, sizeof(f->purpose), "%s", purpose);
	f->path = path;
	f->bytes = bytes;
	f->created_at = now_unix();
	f->older = newest;
	if (newest != NULL)
		newest->newer = f;
	newest = f;
	return f;
}

/*
 * A file that the service made; takes path over.  The caller holds
 * openai_lock; the id lives as long as the file.
 */
const char *
file_add(int key, const char *filename, const char *purpose, char *path, int64_t bytes,
		 int64_t expires_at, double content_at)
{
	File	   *f = file_link(key, filename, purpose, path, bytes);

	f->expires_at = expires_at;
	f->content_at = content_at;
	return f->id;
}

static void
file_free(File *f)
{
	if (f->newer != NULL)
		f->newer->older = f->older;
	else
		newest = f->older;
	if (f->older != NULL)
		f->older->newer = f->newer;
	unlink(f->path);
	free(f->path);
	free(f->filename);
	free(f);
}

void
files_clear(void)
{
	pthread_mutex_lock(&openai_lock);
	while (newest != NULL)
		file_free(newest);
	pthread_mutex_unlock(&openai_lock);
}

int
files_alive(void)
{
	int			n = 0;

	pthread_mutex_lock(&openai_lock);
	for (File *f = newest; f != NULL; f = f->older)
		n++;
	pthread_mutex_unlock(&openai_lock);
	return n;
}

static void
file_write(StrBuf *b, const File *f)
{
	const char *status = "processed";

	if (f->broken)
		status = "error";
	else if (now_ms() < f->ready_at)
		status = "uploaded";
	jw_key(b, NULL);
	buf_char(b, '{');
	jw_str(b, "object", "file");
	jw_str(b, "id", f->id);
	jw_str(b, "purpose", f->purpose);
	jw_str(b, "filename", f->filename);
	jw_int(b, "bytes", f->bytes);
	jw_int(b, "created_at", f->created_at);
	jw_time(b, "expires_at", f->expires_at);
	jw_str(b, "status", status);
	jw_raw(b, "status_details", "null");
	buf_char(b, '}');
}

static bool
check_expiry(Form *form, int64_t *seconds, ApiError *e)
{
	FormPart   *anchor = form_part(form, "expires_after[anchor]");
	FormPart   *secs = form_part(form, "expires_after[seconds]");
	char	   *end;

	*seconds = 0;
	if (anchor == NULL && secs == NULL)
		return true;
	if (anchor == NULL || strcmp(anchor->value.data, "created_at") != 0)
		return api_error(e, 400, "invalid_value", "expires_after.anchor",
						 "Invalid value for 'expires_after.anchor'. Supported values are: "
						 "'created_at'.");
	if (secs == NULL)
		return api_error(e, 400, "missing_required_parameter", "expires_after.seconds",
						 "Missing required parameter: 'expires_after.seconds'.");
	*seconds = strtoll(secs->value.data, &end, 10);
	if (*end != '\0' || *seconds < 3600 || *seconds > MONTH)
		return api_error(e, 400, "invalid_value", "expires_after.seconds",
						 "Invalid 'expires_after.seconds': expected an integer between 3600 "
						 "and 2592000.");
	return true;
}

static bool
check_upload(Request *req, ApiError *e, int64_t *seconds)
{
	static const char *const purposes[] = {"fine-tune", "assistants", "batch", "user_data",
	"vision", "evals", NULL};
	const char *why = req->form_error;
	FormPart   *purpose;
	FormPart   *file;
	int			i;

	if (req->form == NULL || !form_finish(req->form, &why))
		return api_error(e, 400, NULL, NULL, "Could not parse multipart form: %s", why);
	purpose = form_part(req->form, "purpose");
	file = form_part(req->form, "file");
	for (FormPart *p = form_first(req->form); p != NULL; p = p->next)
	{
		if (p != purpose && p != file && strncmp(p->name, "expires_after[", 14) != 0)
			return api_error(e, 400, NULL, NULL, "Additional properties are not allowed "
							 "('%s' was unexpected)", p->name);
	}
	if (file == NULL || file->filename == NULL)
		return api_error(e, 400, NULL, NULL, "'file' is a required property");
	if (purpose == NULL)
		return api_error(e, 400, NULL, NULL, "'purpose' is a required property");
	for (i = 0; purposes[i] != NULL && strcmp(purposes[i], purpose->value.data) != 0; i++)
		;
	if (purposes[i] == NULL)
		return api_error(e, 400, NULL, "purpose", "'%s' is not one of ['fine-tune', "
						 "'assistants', 'batch', 'user_data', 'vision', 'evals'] - 'purpose'",
						 purpose->value.data);
	if (strcmp(purpose->value.data, "batch") == 0)
	{
		size_t		len = strlen(file->filename);

		if (len < 7 || strcmp(file->filename + len - 6, ".jsonl") != 0)
			return api_error(e, 400, NULL, "file", "Invalid file format for Batch API. Must "
							 "be .jsonl");
		if (file->bytes > MAX_BATCH_FILE)
			return api_error(e, 413, "file_too_large", "file", "File is too large: %lld "
							 "bytes, the limit for the Batch API is %lld bytes.",
							 (long long) file->bytes, (long long) MAX_BATCH_FILE);
	}
	return check_expiry(req->form, seconds, e);
}

/* Another name for the content, where a test finds it after the file is deleted. */
static void
keep_upload(const File *f)
{
	char		name[4096];

	if (sim_options.keep_dir == NULL)
		return;
	snprintf(name, sizeof(name), "%s/%s.jsonl", sim_options.keep_dir, f->id);
	if (link(f->path, name) != 0)
		die("could not keep \"%s\" as \"%s\"", f->path, name);
}

void
files_upload(Request *req, Reply *reply, int key)
{
	Settings	set = settings_get();
	ApiError	e;
	int64_t		seconds = 0;
	FormPart   *part;
	const char *purpose;
	cJSON	   *order;
	File	   *f;

	if (!check_upload(req, &e, &seconds))
	{
		reply_error(reply, &e);
		return;
	}
	part = form_part(req->form, "file");
	purpose = form_part(req->form, "purpose")->value.data;
	order = faults_object(ON_FILE, req, NULL, NULL);
	pthread_mutex_lock(&openai_lock);
	f = file_link(key, part->filename, purpose, part->path, part->bytes);
	part->path = NULL;
	keep_upload(f);
	if (seconds == 0 && strcmp(purpose, "batch") == 0)
		seconds = MONTH;
	if (seconds > 0)
		f->expires_at = f->created_at + seconds;
	f->ready_at = now_ms() + json_num(order, "ready_ms", set.file_ms);
	f->broken = json_str(order, "status") && strcmp(json_str(order, "status"), "error") == 0;
	reply->status = 200;
	file_write(&reply->body, f);
	if (json_get(order, "missing_ms") != NULL)
		f->visible_at = now_ms() + json_num(order, "missing_ms", 0);
	stats_count(COUNT_FILES_CREATED, 1);
	stats_count(COUNT_BYTES_UPLOADED, f->bytes);
	pthread_mutex_unlock(&openai_lock);
	cJSON_Delete(order);
}

/* The query's limit, within 1..max. */
bool
list_limit(Request *req, long max, long dflt, long *limit, ApiError *e)
{
	char	   *s = req_query(req, "limit");
	char	   *end;
	bool		ok = true;

	*limit = dflt;
	if (s == NULL)
		return true;
	*limit = strtol(s, &end, 10);
	if (*s == '\0' || *end != '\0')
		ok = api_error(e, 400, "invalid_type", "limit", "Invalid type for 'limit': expected "
					   "an integer, but got a string instead.");
	else if (*limit < 1)
		ok = api_error(e, 400, "integer_below_min_value", "limit", "Invalid 'limit': integer "
					   "below minimum value. Expected a value >= 1, but got %ld instead.",
					   *limit);
	else if (*limit > max)
		ok = api_error(e, 400, "integer_above_max_value", "limit", "Invalid 'limit': integer "
					   "above maximum value. Expected a value <= %ld, but got %ld instead.",
					   max, *limit);
	free(s);
	return ok;
}

static void
list_write(Reply *reply, int key, long limit, const char *after, const char *purpose, bool asc)
{
	StrBuf	   *b = &reply->body;
	File	   *f = newest;
	const char *first = NULL;
	const char *last = NULL;
	bool		more = false;
	bool		on = after == NULL;

	while (asc && f != NULL && f->older != NULL)
		f = f->older;
	buf_char(b, '{');
	jw_str(b, "object", "list");
	jw_key(b, "data");
	buf_char(b, '[');
	for (; f != NULL; f = asc ? f->newer : f->older)
	{
		if (f->key != key || !file_visible(f) || (purpose && strcmp(purpose, f->purpose) != 0))
			continue;
		if (!on)
		{
			on = strcmp(f->id, after) == 0;
			continue;
		}
		if (limit-- == 0)
		{
			more = true;
			break;
		}
		file_write(b, f);
		last = f->id;
		if (first == NULL)
			first = f->id;
	}
	buf_char(b, ']');
	jw_str(b, "first_id", first);
	jw_str(b, "last_id", last);
	jw_bool(b, "has_more", more);
	buf_char(b, '}');
}

void
files_list(Request *req, Reply *reply, int key)
{
	char	   *after = req_query(req, "after");
	char	   *purpose = req_query(req, "purpose");
	char	   *order = req_query(req, "order");
	long		limit;
	ApiError	e;
	bool		ok = list_limit(req, 10000, 10000, &limit, &e);

	if (ok && order != NULL && strcmp(order, "asc") != 0 && strcmp(order, "desc") != 0)
		ok = api_error(&e, 400, "invalid_value", "order", "Invalid value: '%s'. Supported "
					   "values are: 'asc' and 'desc'.", order);
	if (ok)
	{
		reply->status = 200;
		pthread_mutex_lock(&openai_lock);
		list_write(reply, key, limit, after, purpose, order && strcmp(order, "asc") == 0);
		pthread_mutex_unlock(&openai_lock);
	}
	else
		reply_error(reply, &e);
	free(after);
	free(purpose);
	free(order);
}

static void
file_content(Reply *reply, const File *f, ApiError *e)
{
	if (now_ms() < f->content_at)
	{
		api_error(e, 404, NULL, "id", "No such File object: %s", f->id);
		reply_error(reply, e);
		return;
	}
	reply->fd = open(f->path, O_RDONLY | O_CLOEXEC);
	reply->fd_bytes = f->bytes;
	reply->status = 200;
	reply->content_type = "application/octet-stream";
	reply_header(reply, "Content-Disposition", "attachment");
}

/* rest is what follows /v1/files/ in the path. */
void
files_one(Request *req, Reply *reply, int key, const char *rest)
{
	size_t		len = strcspn(rest, "/");
	char	   *id = url_decode(rest, len);
	bool		get = strcmp(req->method, "GET") == 0;
	ApiError	e;
	File	   *f;

	pthread_mutex_lock(&openai_lock);
	f = file_find(id, key);
	if (f == NULL)
	{
		api_error(&e, 404, NULL, "id", "No such File object: %s", id);
		reply_error(reply, &e);
	}
	else if (get && rest[len] == '\0')
	{
		reply->status = 200;
		file_write(&reply->body, f);
	}
	else if (get && strcmp(rest + len, "/content") == 0)
		file_content(reply, f, &e);
	else if (strcmp(req->method, "DELETE") == 0 && rest[len] == '\0')
	{
		file_free(f);
		stats_count(COUNT_FILES_DELETED, 1);
		reply->status = 200;
		buf_char(&reply->body, '{');
		jw_str(&reply->body, "object", "file");
		jw_bool(&reply->body, "deleted", true);
		jw_str(&reply->body, "id", id);
		buf_char(&reply->body, '}');
	}
	else
	{
		api_error(&e, 405, NULL, NULL, "Not allowed to %s on %s (HINT: Perhaps you meant to "
				  "use a different HTTP method?)", req->method, req->path);
		reply_error(reply, &e);
	}
	pthread_mutex_unlock(&openai_lock);
	free(id);
}
