/*
 * google.c
 *		What all Google providers share: error objects, times, paths, bodies.
 *
 * Bodies are proto JSON: every field may be written in camelCase or in
 * snake_case, 64-bit numbers as text or number.  proto_get() hides that.
 */
#include "google.h"

#include "providers.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

pthread_mutex_t google_lock = PTHREAD_MUTEX_INITIALIZER;

typedef struct StatusName
{
	int			status;
	int			code;
	const char *name;
} StatusName;

static const StatusName status_names[] = {
	{400, 3, "INVALID_ARGUMENT"}, {401, 16, "UNAUTHENTICATED"}, {403, 7, "PERMISSION_DENIED"},
	{404, 5, "NOT_FOUND"}, {409, 10, "ABORTED"}, {412, 9, "FAILED_PRECONDITION"},
	{416, 11, "OUT_OF_RANGE"}, {429, 8, "RESOURCE_EXHAUSTED"}, {499, 1, "CANCELLED"},
	{500, 13, "INTERNAL"}, {501, 12, "UNIMPLEMENTED"}, {503, 14, "UNAVAILABLE"},
	{504, 4, "DEADLINE_EXCEEDED"}, {400, 9, "FAILED_PRECONDITION"}, {409, 6, "ALREADY_EXISTS"},
	{0, 2, "UNKNOWN"}
};

/* Fills e and returns false, for "return gerror(...)". */
bool
gerror(GError *e, int status, const char *fmt,...)
{
	va_list		args;

	memset(e, 0, sizeof(*e));
	e->status = status;
	va_start(args, fmt);
	vsnprintf(e->message, sizeof(e->message), fmt, args);
	va_end(args);
	e->message[cut_at(e->message, strlen(e->message), sizeof(e->message) - 4)] = '\0';
	return false;
}

const char *
gerror_name(const GError *e)
{
	int			i = 0;

	if (e->name[0])
		return e->name;
	while (status_names[i].status != 0 && status_names[i].status != e->status)
		i++;
	return status_names[i].name;
}

/* The number of the canonical code. */
int
gerror_code(const GError *e)
{
	const char *name = gerror_name(e);
	int			i = 0;

	while (status_names[i].status != 0 && strcmp(status_names[i].name, name) != 0)
		i++;
	return status_names[i].code;
}

void
gerror_write(StrBuf *b, const GError *e)
{
	buf_str(b, "{\"error\":{");
	jw_int(b, "code", e->status);
	jw_str(b, "message", e->message);
	jw_str(b, "status", gerror_name(e));
	if (e->details[0])
	{
		jw_raw(b, "details", "[");
		buf_str(b, e->details);
		buf_char(b, ']');
	}
	buf_str(b, "}}");
}

void
gerror_reply(Reply *reply, const GError *e)
{
	reply->status = e->status;
	reply->content_type = "application/json; charset=UTF-8";
	buf_reset(&reply->body);
	gerror_write(&reply->body, e);
}

/* The body that usually goes with an error status. */
void
google_fault_body(int status, StrBuf *out)
{
	GError		e;

	if (status < 400)
		return;
	if (status == 429)
		gerror(&e, status, "Resource has been exhausted (e.g. check quota).");
	else if (status == 503)
		gerror(&e, status, "The service is currently unavailable.");
	else if (status == 401)
		gerror(&e, status, "Request had invalid authentication credentials. Expected OAuth 2 "
			   "access token, login cookie or other valid authentication credential. See "
			   "https://developers.google.com/identity/sign-in/web/devconsole-project.");
	else if (status == 403)
		gerror(&e, status, "The caller does not have permission");
	else if (status == 404)
		gerror(&e, status, "Requested entity was not found.");
	else if (status >= 500)
		gerror(&e, status, "Internal error encountered.");
	else
		gerror(&e, status, "Request contains an invalid argument.");
	gerror_write(out, &e);
}

/* Milliseconds since 1970. */
double
real_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (double) ts.tv_sec * 1000.0 + (double) ts.tv_nsec / 1e6;
}

/* A time as RFC 3339 with microseconds; nothing when ms is 0. */
void
jw_stamp(StrBuf *b, const char *key, double ms)
{
	time_t		s = (time_t) (ms / 1000);
	struct tm	tm;
	char		text[64];
	size_t		n;

	if (ms == 0)
		return;
	gmtime_r(&s, &tm);
	n = strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(text + n, sizeof(text) - n, ".%06dZ", (int) ((ms - (double) s * 1000.0) * 1000.0));
	jw_str(b, key, text);
}

/* 64-bit numbers are JSON strings at Google. */
void
jw_int_text(StrBuf *b, const char *key, int64_t val)
{
	char		text[32];

	snprintf(text, sizeof(text), "%lld", (long long) val);
	jw_str(b, key, text);
}

/* The decoded segments of a path; returns how many, at most max. */
int
split_path(const char *path, char **seg, int max)
{
	int			n = 0;

	while (*path == '/' && n < max)
	{
		size_t		len = strcspn(++path, "/");
		char	   *plus = xmalloc(len * 3 + 1);
		size_t		m = 0;

		/* a plus sign stands for itself in a path */
		for (size_t i = 0; i < len; i++)
		{
			if (path[i] == '+')
			{
				memcpy(plus + m, "%2B", 3);
				m += 3;
			}
			else
				plus[m++] = path[i];
		}
		seg[n++] = url_decode(plus, m);
		free(plus);
		path += len;
	}
	return n;
}

void
free_path(char **seg, int n)
{
	while (n > 0)
		free(seg[--n]);
}

/* "http://host:port" as the client sees us, to be freed. */
char *
request_origin(const Request *req)
{
	const char *host = req_header(req, "Host");
	StrBuf		b = {0};

	if (host != NULL && utf8_valid(host, strlen(host)))
		buf_printf(&b, "http://%s", host);
	else
		buf_printf(&b, "http://127.0.0.1:%d", http_port());
	return b.data;
}

/* Notes the bearer token of a request as what it showed. */
void
bearer_secret(Request *req)
{
	const char *auth = req_header(req, "Authorization");

	if (auth != NULL && starts_nocase(auth, "Bearer "))
		req->secret = trim_copy(auth + 7, strlen(auth + 7));
}

/* The JSON object of the body, to be deleted, or NULL with the error. */
cJSON *
google_body(Request *req, GError *e)
{
	const char *why;
	cJSON	   *json;

	if (req->body.len == 0)
		return cJSON_CreateObject();
	json = json_parse(req->body.data, req->body.len, &why);
	if (json == NULL)
		gerror(e, 400, "Invalid JSON payload received. %s.", why);
	else if (!cJSON_IsObject(json))
	{
		gerror(e, 400, "Invalid JSON payload received. Unknown name \"\": Root element must be a "
			   "message.");
		cJSON_Delete(json);
		json = NULL;
	}
	return json;
}

/* The field called name, which is camelCase, in either spelling. */
const cJSON *
proto_get(const cJSON *o, const char *name)
{
	const cJSON *v = json_get(o, name);
	char		snake[100];
	size_t		n = 0;

	if (v != NULL || !cJSON_IsObject(o))
		return v;
	for (const char *p = name; *p && n < sizeof(snake) - 2; p++)
	{
		if (*p >= 'A' && *p <= 'Z')
		{
			snake[n++] = '_';
			snake[n++] = (char) (*p - 'A' + 'a');
		}
		else
			snake[n++] = *p;
	}
	snake[n] = '\0';
	return json_get(o, snake);
}

const char *
proto_str(const cJSON *o, const char *name)
{
	const cJSON *v = proto_get(o, name);

	return cJSON_IsString(v) ? v->valuestring : NULL;
}

int64_t
proto_int(const cJSON *o, const char *name, int64_t dflt)
{
	const cJSON *v = proto_get(o, name);

	if (cJSON_IsString(v))
		return strtoll(v->valuestring, NULL, 10);
	return cJSON_IsNumber(v) ? (int64_t) v->valuedouble : dflt;
}

/* An upload stays in the keep directory, if there is one, as NAME.jsonl. */
void
keep_upload(const char *name, int from, int64_t bytes)
{
	char		path[4096];
	int			fd;

	if (sim_options.keep_dir == NULL)
		return;
	snprintf(path, sizeof(path), "%s/%s.jsonl", sim_options.keep_dir, name);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		die("could not keep \"%s\": %s", path, strerror(errno));
	copy_bytes(from, 0, bytes, fd);
	close(fd);
}

/* Appends a piece of one file to another. */
void
copy_bytes(int from, int64_t at, int64_t bytes, int to)
{
	char		buf[65536];

	while (bytes > 0)
	{
		size_t		want = bytes < (int64_t) sizeof(buf) ? (size_t) bytes : sizeof(buf);
		ssize_t		n = pread(from, buf, want, (off_t) at);

		if (n <= 0)
			die("could not read a spooled file: %s", strerror(errno));
		at += n;
		bytes -= n;
		for (ssize_t done = 0; done < n;)
		{
			ssize_t		m = write(to, buf + done, (size_t) (n - done));

			if (m < 0 && errno == EINTR)
				continue;
			if (m <= 0)
				die("could not write a spooled file: %s", strerror(errno));
			done += m;
		}
	}
}
