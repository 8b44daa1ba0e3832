/*
 * hold.c
 *		The list of requests that are held, and how they are let go.
 *
 * A held request's connection is suspended, so its client may die unnoticed.
 * What is let go is carried out all the same, as a service does with what has
 * reached it: the work is done here, before the connection is looked at again.
 */
#include "hold.h"

#include <pthread.h>
#include <sys/socket.h>

typedef struct Held
{
	int64_t		id;
	HoldAt		at;
	double		since;
	Request    *req;
	struct Held *next;
} Held;

static const char *const at_names[] = {"request_body", "arrival", "reply", "response_body"};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Held *held;
static int64_t last_id;

const char *
hold_at_name(HoldAt at)
{
	return at_names[at];
}

/* Suspends the request's connection.  Called from its own handler. */
void
hold_request(Request *req, HoldAt at)
{
	Held	   *h = xcalloc(sizeof(Held));
	Held	  **end;

	h->at = at;
	h->since = now_ms();
	h->req = req;
	MHD_suspend_connection(req->conn);
	pthread_mutex_lock(&lock);
	h->id = ++last_id;
	for (end = &held; *end != NULL; end = &(*end)->next)
		;
	*end = h;
	pthread_mutex_unlock(&lock);
}

/* The client sees the end at once, whatever its connection's thread waits for. */
static void
end_connection(Request *req)
{
	const union MHD_ConnectionInfo *info =
		MHD_get_connection_info(req->conn, MHD_CONNECTION_INFO_CONNECTION_FD);

	if (info != NULL)
		shutdown(info->connect_fd, SHUT_RDWR);
}

static void
let_go(Held *h, bool drop)
{
	Request    *req = h->req;

	if (drop)
	{
		/* to be noticed wherever the request is; no work is done any more */
		req->reply.drop = DROP_CLOSE;
		req->reply.drop_after = 0;
		if (h->at == HOLD_ARRIVAL)
			req->served = req->settled = true;
		if (h->at == HOLD_RESPONSE_BODY)
			end_connection(req);
	}
	else if (h->at == HOLD_ARRIVAL)
		request_serve(req);
	MHD_resume_connection(req->conn);
	free(h);
}

/* {"id": N} or, without, everything that is held now; "drop": true ends the connections. */
bool
hold_release(const cJSON *json, StrBuf *out, char *why, size_t size)
{
	int64_t		id = (int64_t) json_num(json, "id", 0);
	bool		drop = json_true(json, "drop");
	Held	   *going = NULL;
	Held	  **end = &going;
	int64_t		n = 0;

	if (!cJSON_IsObject(json))
	{
		snprintf(why, size, "an object is expected");
		return false;
	}
	pthread_mutex_lock(&lock);
	for (Held **h = &held; *h != NULL;)
	{
		if (id != 0 && (*h)->id != id)
		{
			h = &(*h)->next;
			continue;
		}
		*end = *h;
		*h = (*h)->next;
		end = &(*end)->next;
		*end = NULL;
	}
	pthread_mutex_unlock(&lock);
	for (; going != NULL; n++)
	{
		Held	   *h = going;

		going = h->next;
		let_go(h, drop);
	}
	buf_char(out, '{');
	jw_int(out, "released", n);
	buf_char(out, '}');
	return true;
}

void
hold_write(StrBuf *b)
{
	pthread_mutex_lock(&lock);
	buf_char(b, '[');
	for (const Held *h = held; h != NULL; h = h->next)
	{
		jw_key(b, NULL);
		buf_char(b, '{');
		jw_int(b, "id", h->id);
		jw_str(b, "at", at_names[h->at]);
		jw_int(b, "since", (int64_t) h->since);
		jw_str(b, "method", h->req->method);
		jw_str(b, "path", h->req->path);
		jw_int(b, "bytes", h->req->body_bytes);
		buf_char(b, '}');
	}
	buf_char(b, ']');
	pthread_mutex_unlock(&lock);
}

/* Nothing may be suspended when the server ends. */
void
hold_stop(void)
{
	cJSON	   *all = cJSON_Parse("{\"drop\":true}");
	StrBuf		out = {0};
	char		why[100];

	hold_release(all, &out, why, sizeof(why));
	buf_free(&out);
	cJSON_Delete(all);
}
