/*
 * http.c
 *		The HTTP side: takes requests in, hands them to a provider, replies.
 *
 * libmicrohttpd runs a few threads with epoll.  A request is served in one go
 * when its body is complete; a reply that has to wait is finished first and
 * its connection suspended until the timer resumes it.  Large bodies go to a
 * file while they arrive.  Paths are not decoded before routing, since object
 * names may hold an encoded slash.
 */
#include "http.h"

#include "faults.h"
#include "providers.h"
#include "record.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEFAULT_BODY_MAX	(16 * 1024 * 1024)

static const Provider *const providers[] = {
	&control_provider, &google_auth_provider, &google_metadata_provider, &storage_provider,
	&vertex_provider, &gemini_provider, &openai_provider, NULL
};

static struct MHD_Daemon *server;
static int	listen_port;

int
http_port(void)
{
	return listen_port;
}

const char *
req_header(const Request *req, const char *name)
{
	return MHD_lookup_connection_value(req->conn, MHD_HEADER_KIND, name);
}

char *
url_decode(const char *s, size_t len)
{
	char	   *out = xmalloc(len + 1);
	size_t		n = 0;

	for (size_t i = 0; i < len; i++)
	{
		unsigned	v;

		if (s[i] == '%' && i + 2 < len && sscanf(s + i + 1, "%2x", &v) == 1)
		{
			out[n++] = (char) v;
			i += 2;
		}
		else
			out[n++] = s[i] == '+' ? ' ' : s[i];
	}
	out[n] = '\0';
	return out;
}

/* Decoded value of a query parameter, to be freed; NULL if absent. */
char *
req_query(const Request *req, const char *name)
{
	const char *p = req->query;

	while (*p)
	{
		size_t		len = strcspn(p, "&");
		size_t		key = strcspn(p, "=&");
		char	   *k = url_decode(p, key);
		bool		hit = strcmp(k, name) == 0;

		free(k);
		if (hit)
			return key < len ? url_decode(p + key + 1, len - key - 1) : xstrdup("");
		p += len;
		if (*p == '&')
			p++;
	}
	return NULL;
}

void
reply_header(Reply *reply, const char *name, const char *value)
{
	Header	   *h = xcalloc(sizeof(Header));

	h->name = xstrdup(name);
	h->value = xstrdup(value);
	h->next = reply->headers;
	reply->headers = h;
}

/*
 * A new file in the data directory, open for reading and writing.  With path
 * NULL it has no name and is gone when closed.
 */
int
spool_file(char **path)
{
	char		name[4096];
	int			fd;

	snprintf(name, sizeof(name), "%s/spool-XXXXXX", sim_options.data_dir);
	fd = mkostemp(name, O_CLOEXEC);
	if (fd < 0)
		die("could not create a file in \"%s\": %s", sim_options.data_dir, strerror(errno));
	if (path != NULL)
		*path = xstrdup(name);
	else
		unlink(name);
	return fd;
}

/* Called with the request line; what it returns becomes *con_cls. */
static void *
on_uri(void *cls, const char *uri, struct MHD_Connection *conn)
{
	Request    *req = xcalloc(sizeof(Request));
	size_t		len = strcspn(uri, "?");

	(void) cls;
	req->conn = conn;
	req->path = xstrndup(uri, len);
	req->query = xstrdup(uri[len] == '?' ? uri + len + 1 : "");
	req->body_fd = -1;
	req->cut_after = -1;
	req->hold_after = -1;
	req->reply.fd = -1;
	req->reply.drop_after = -1;
	req->reply.hold_after = -1;
	return req;
}

static void
on_completed(void *cls, struct MHD_Connection *conn, void **con_cls,
			 enum MHD_RequestTerminationCode code)
{
	Request    *req = *con_cls;

	(void) cls;
	(void) conn;
	(void) code;
	if (req == NULL)
		return;
	*con_cls = NULL;
	if (req->started && !req->served && req->provider != NULL && req->provider->broken != NULL)
		req->provider->broken(req);
	if (req->inference)
		stats_in_flight(-1);
	faults_release(req);
	effect_free(req->effect);
	while (req->reply.headers != NULL)
	{
		Header	   *h = req->reply.headers;

		req->reply.headers = h->next;
		free(h->name);
		free(h->value);
		free(h);
	}
	buf_free(&req->reply.body);
	if (req->reply.fd >= 0)
		close(req->reply.fd);
	if (req->body_fd >= 0)
		close(req->body_fd);
	form_free(req->form);
	buf_free(&req->body);
	buf_free(&req->prompt);
	free(req->secret);
	free(req->note);
	free(req->path);
	free(req->query);
	free(req);
}

/* Behind how many bytes of its body a request is held; -1: not at all. */
static int64_t
hold_in_body(Request *req)
{
	const char *length = req_header(req, "Content-Length");
	int64_t		after;

	if (!faults_hold(req, HOLD_REQUEST_BODY, &after))
		return -1;
	return after >= 0 ? after : length != NULL ? atoll(length) / 2 : 0;
}

static void
request_begin(Request *req, const char *method)
{
	req->started = true;
	req->arrived = now_ms();
	req->body_max = DEFAULT_BODY_MAX;
	snprintf(req->method, sizeof(req->method), "%s", method);
	for (int i = 0; providers[i] != NULL; i++)
	{
		if (providers[i]->claims(req))
		{
			req->provider = providers[i];
			break;
		}
	}
	if (req->provider != NULL && req->provider->body != NULL)
		req->provider->body(req);
	if (req->provider != &control_provider)
	{
		req->cut_after = faults_body(req);
		req->hold_after = hold_in_body(req);
	}
	if (req->body_kind == BODY_FORM)
		req->form = form_begin(req_header(req, "Content-Type"), &req->form_error);
	else if (req->body_kind == BODY_FILE)
		req->body_fd = spool_file(NULL);
}

static void
request_body(Request *req, const char *data, size_t len)
{
	req->body_bytes += (int64_t) len;
	if ((uint64_t) req->body_bytes > req->body_max)
	{
		req->too_large = true;
		return;
	}
	switch (req->body_kind)
	{
		case BODY_BUFFER:
			buf_add(&req->body, data, len);
			break;
		case BODY_FORM:
			if (req->form != NULL)
				form_feed(req->form, data, len);
			break;
		case BODY_FILE:
			while (len > 0)
			{
				ssize_t		n = write(req->body_fd, data, len);

				if (n < 0 && errno == EINTR)
					continue;
				if (n <= 0)
					die("could not spool a body: %s", strerror(errno));
				data += n;
				len -= (size_t) n;
			}
			break;
	}
}

static void
apply_effect_body(Request *req, const Effect *e)
{
	Reply	   *reply = &req->reply;

	reply->status = e->status;
	reply->fill = e->fill;
	reply->fill_byte = e->fill_byte;
	reply->content_type = e->content_type ? e->content_type : "application/json";
	if (e->body != NULL)
		buf_add(&reply->body, e->body, e->body_len);
	else if (e->fill == 0 && req->provider != NULL && req->provider->fault_body != NULL)
		req->provider->fault_body(e->status, &reply->body);
}

static void
apply_effect(Request *req, const Effect *e)
{
	Reply	   *reply = &req->reply;

	for (Header *h = e->headers; h != NULL; h = h->next)
		reply_header(reply, h->name, h->value);
	reply->delay_ms += e->delay_ms;
	reply->drop_after = e->drop_after;
	reply->trickle_ms = e->trickle_ms;
	if (e->drop != DROP_NOT)
		reply->drop = e->drop;
	else if (e->lose_reply != DROP_NOT)
		reply->drop = e->lose_reply;
	if (e->truncate >= 0 && reply->body.len > (size_t) e->truncate)
		reply->body.len = (size_t) e->truncate;
	if (e->truncate >= 0 && reply->fd >= 0 && reply->fd_bytes > e->truncate)
		reply->fd_bytes = e->truncate;
	reply_encode(reply, e->prefix, e->gzip);
}

/* The whole request is here: does the work and fills req->reply. */
void
request_serve(Request *req)
{
	Reply	   *reply = &req->reply;
	char		id[64];

	req->served = true;
	reply->content_type = "application/json";
	if (req->provider == NULL)
	{
		reply->status = 404;
		buf_str(&reply->body, "{\"error\":{\"message\":\"nothing is served here\"}}");
		return;
	}
	if (req->provider->prepare != NULL)
		req->provider->prepare(req);
	if (req->provider != &control_provider)
	{
		record_request(req);
		stats_arrival(req);
		if (req->inference)
			stats_in_flight(1);
		req->effect = faults_request(req);
	}
	make_id(id, sizeof(id), "req_", 22);
	reply_header(reply, "x-request-id", id);
	if (req->effect != NULL && (req->effect->status != 0 || req->effect->drop != DROP_NOT) &&
		req->effect->lose_reply == DROP_NOT)
		apply_effect_body(req, req->effect);
	else
		req->provider->serve(req, reply);
	if (req->effect != NULL)
		apply_effect(req, req->effect);
}

static void
resume_request(void *arg)
{
	Request    *req = arg;

	MHD_resume_connection(req->conn);
}

/* Feeds a body that is dropped on the way, or comes byte by byte, or is made up. */
typedef struct Slow
{
	Request    *req;
	int64_t		sent;
	double		next;			/* when the next byte may go */
} Slow;

static ssize_t
slow_read(void *cls, uint64_t pos, char *buf, size_t max)
{
	Slow	   *s = cls;
	Reply	   *reply = &s->req->reply;
	size_t		n = max;

	if (timer_stopping())
		return MHD_CONTENT_READER_END_WITH_ERROR;
	if (reply->drop_after >= 0)
	{
		if ((int64_t) pos >= reply->drop_after)
			return MHD_CONTENT_READER_END_WITH_ERROR;
		if ((int64_t) (pos + n) > reply->drop_after)
			n = (size_t) (reply->drop_after - (int64_t) pos);
	}
	if (reply->hold_after >= 0)
	{
		if ((int64_t) pos >= reply->hold_after)
		{
			reply->hold_after = -1;
			hold_request(s->req, HOLD_RESPONSE_BODY);
			return 0;
		}
		if ((int64_t) (pos + n) > reply->hold_after)
			n = (size_t) (reply->hold_after - (int64_t) pos);
	}
	if (reply->trickle_ms > 0)
	{
		if (now_ms() < s->next)
		{
			MHD_suspend_connection(s->req->conn);
			timer_add(s->next, resume_request, s->req);
			return 0;
		}
		s->next = now_ms() + reply->trickle_ms;
		n = 1;
	}
	if (reply->fill > 0)
	{
		memset(buf, reply->fill_byte, n);
		return (ssize_t) n;
	}
	if (reply->fd >= 0)
	{
		if ((int64_t) (pos + n) > reply->fd_bytes)
			n = (size_t) (reply->fd_bytes - (int64_t) pos);
		return pread(reply->fd, buf, n, (off_t) (reply->fd_from + (int64_t) pos));
	}
	if (pos + n > reply->body.len)
		n = reply->body.len - pos;
	memcpy(buf, reply->body.data + pos, n);
	return (ssize_t) n;
}

static struct MHD_Response *
make_response(Request *req)
{
	Reply	   *reply = &req->reply;
	struct MHD_Response *r;
	int64_t		total;

	if (reply->fill > 0)
		total = reply->fill;
	else
		total = reply->fd >= 0 ? reply->fd_bytes : (int64_t) reply->body.len;
	if (req->provider != &control_provider && faults_hold(req, HOLD_RESPONSE_BODY, &reply->hold_after) &&
		reply->hold_after < 0)
		reply->hold_after = total / 2;
	if (reply->hold_after >= 0 || reply->fill > 0 || reply->drop_after >= 0 || reply->trickle_ms > 0)
	{
		Slow	   *s = xcalloc(sizeof(Slow));

		s->req = req;
		return MHD_create_response_from_callback((uint64_t) total, 65536, slow_read, s, free);
	}
	if (reply->fd >= 0)
	{
		r = MHD_create_response_from_fd_at_offset64((uint64_t) total, reply->fd,
													 (uint64_t) reply->fd_from);
		reply->fd = -1;
		return r;
	}
	r = MHD_create_response_from_buffer(reply->body.len, reply->body.data,
										MHD_RESPMEM_MUST_FREE);
	memset(&reply->body, 0, sizeof(reply->body));
	return r;
}

/* Ends the connection without a reply. */
static enum MHD_Result
drop_connection(Request *req)
{
	if (req->reply.drop == DROP_RESET)
	{
		const union MHD_ConnectionInfo *info =
			MHD_get_connection_info(req->conn, MHD_CONNECTION_INFO_CONNECTION_FD);
		struct linger hard = {1, 0};

		if (info != NULL)
			setsockopt(info->connect_fd, SOL_SOCKET, SO_LINGER, &hard, sizeof(hard));
	}
	record_status(req, 0, req->effect && req->effect->lose_reply ? "reply lost" : "dropped");
	return MHD_NO;
}

static enum MHD_Result
send_reply(Request *req)
{
	Reply	   *reply = &req->reply;
	struct MHD_Response *r;
	enum MHD_Result ok;

	if (reply->drop != DROP_NOT || timer_stopping())
		return drop_connection(req);
	if (req->provider != &control_provider)
		record_status(req, reply->status, req->effect ? "fault" : NULL);
	r = make_response(req);
	if (r == NULL)
		return MHD_NO;
	if (reply->content_type != NULL)
		MHD_add_response_header(r, "Content-Type", reply->content_type);
	for (Header *h = reply->headers; h != NULL; h = h->next)
		MHD_add_response_header(r, h->name, h->value);
	ok = MHD_queue_response(req->conn, (unsigned int) reply->status, r);
	MHD_destroy_response(r);
	return ok;
}

static enum MHD_Result
on_request(void *cls, struct MHD_Connection *conn, const char *url, const char *method,
		   const char *version, const char *data, size_t *size, void **con_cls)
{
	Request    *req = *con_cls;

	(void) cls;
	(void) conn;
	(void) url;
	(void) version;
	if (!req->started)
	{
		request_begin(req, method);
		return MHD_YES;
	}
	if (*size > 0)
	{
		size_t		left = 0;

		if (req->reply.drop != DROP_NOT)
			return drop_connection(req);
		if (req->hold_after >= 0 && req->body_bytes + (int64_t) *size > req->hold_after)
			left = (size_t) (req->body_bytes + (int64_t) *size - req->hold_after);
		request_body(req, data, *size - left);
		*size = left;
		if (left > 0)
		{
			req->hold_after = -1;
			hold_request(req, HOLD_REQUEST_BODY);
			return MHD_YES;
		}
		if (req->cut_after >= 0 && req->body_bytes >= req->cut_after)
		{
			req->reply.drop = DROP_RESET;
			return drop_connection(req);
		}
		return MHD_YES;
	}
	if (!req->served)
	{
		if (req->provider != &control_provider && faults_hold(req, HOLD_ARRIVAL, NULL))
		{
			hold_request(req, HOLD_ARRIVAL);
			return MHD_YES;
		}
		request_serve(req);
	}
	if (!req->settled)
	{
		req->settled = true;
		if (req->provider != &control_provider && faults_hold(req, HOLD_REPLY, NULL))
		{
			hold_request(req, HOLD_REPLY);
			return MHD_YES;
		}
		if (req->reply.delay_ms > 0 && !timer_stopping())
		{
			MHD_suspend_connection(req->conn);
			timer_add(now_ms() + req->reply.delay_ms, resume_request, req);
			return MHD_YES;
		}
	}
	return send_reply(req);
}

/* Paths stay as they came. */
static size_t
keep_escapes(void *cls, struct MHD_Connection *conn, char *s)
{
	(void) cls;
	(void) conn;
	return strlen(s);
}

static void
on_connection(void *cls, struct MHD_Connection *conn, void **context,
			  enum MHD_ConnectionNotificationCode code)
{
	(void) cls;
	(void) conn;
	(void) context;
	if (code == MHD_CONNECTION_NOTIFY_STARTED)
		stats_count(COUNT_CONNECTIONS, 1);
}

static int
open_socket(void)
{
	struct sockaddr_in addr = {.sin_family = AF_INET};
	socklen_t	len = sizeof(addr);
	int			one = 1;
	int			fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	addr.sin_port = htons((uint16_t) sim_options.port);
	if (fd < 0)
		die("could not create a socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *) &addr, sizeof(addr)) != 0 || listen(fd, 4096) != 0)
		die("could not listen on port %d: %s", sim_options.port, strerror(errno));
	getsockname(fd, (struct sockaddr *) &addr, &len);
	listen_port = ntohs(addr.sin_port);
	return fd;
}

void
http_start(void)
{
	int			fd = open_socket();

	server = MHD_start_daemon(MHD_USE_EPOLL_INTERNAL_THREAD | MHD_ALLOW_SUSPEND_RESUME |
							  MHD_USE_ITC | MHD_USE_TURBO,
							  0, NULL, NULL, on_request, NULL,
							  MHD_OPTION_LISTEN_SOCKET, fd,
							  MHD_OPTION_THREAD_POOL_SIZE, (unsigned int) sim_options.threads,
							  MHD_OPTION_CONNECTION_LIMIT, 20000U,
							  MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t) 65536,
							  MHD_OPTION_CONNECTION_TIMEOUT, 600U,
							  MHD_OPTION_URI_LOG_CALLBACK, on_uri, NULL,
							  MHD_OPTION_NOTIFY_COMPLETED, on_completed, NULL,
							  MHD_OPTION_NOTIFY_CONNECTION, on_connection, NULL,
							  MHD_OPTION_UNESCAPE_CALLBACK, keep_escapes, NULL,
							  MHD_OPTION_END);
	if (server == NULL)
		die("could not start the HTTP server");
}

/* No new connections, what waits is let go, then everything ends. */
void
http_stop(void)
{
	MHD_socket	fd = MHD_quiesce_daemon(server);

	if (fd != MHD_INVALID_SOCKET)
		close(fd);
	hold_stop();
	timer_stop();
	MHD_stop_daemon(server);
}
