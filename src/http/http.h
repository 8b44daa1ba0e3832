/*-------------------------------------------------------------------------
 *
 * http.h
 *		Many HTTP transfers at once in one process, driven by its latch.
 *
 * Knows no provider.  A transfer is described by an HttpRequest, started, and
 * comes back from http_next_finished() when it is over, well or badly; remote
 * trouble is a field of the reply, never an error.  No transaction may be open
 * while http_wait() sleeps.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_HTTP_H
#define DESS_HTTP_H

#include "lib/stringinfo.h"
#include "nodes/pg_list.h"

/* One part of a multipart/form-data body: either text, or a range of a file. */
typedef struct HttpPart
{
	const char *name;
	const char *text;			/* NULL: the request's body_file */
	const char *filename;
	const char *content_type;
} HttpPart;

typedef struct HttpRequest
{
	const char *method;			/* "GET", "POST", "PUT", "DELETE" */
	const char *url;
	List	   *headers;		/* of char *, "Name: value" */
	const char *body;			/* or NULL */
	size_t		body_length;
	const char *body_file;		/* body, or the file part of a multipart body, is read from here */
	int64		body_offset;	/* first byte in that file */
	int64		body_file_length;	/* bytes from there */
	List	   *parts;			/* of HttpPart *; multipart/form-data when not NIL */
	const char *sink_file;		/* a 2xx body is written here (0600); other bodies stay in memory */
	int64		sink_offset;	/* the body is written from here; what lies behind is cut off */
	int64		sink_limit;		/* bytes a sink may take; 0: no limit */
	size_t		reply_limit;	/* bytes kept in memory; 0: 16 MB */

	/* from the account */
	int			idle_timeout;	/* seconds without progress */
	const char *ca_file;
	const char *proxy;
	bool		no_proxy;		/* never through a proxy (metadata server) */
	bool		trusted;		/* http, loopback and link-local addresses are allowed */
} HttpRequest;

typedef enum HttpFailure
{
	HTTP_OK,					/* a status arrived */
	HTTP_NOT_SENT,				/* no connection: name, refused, TLS; nothing can have been done */
	HTTP_BROKEN,				/* connection lost or timed out after sending began */
	HTTP_TOO_LARGE,				/* body above its limit; the server has done what was asked */
	HTTP_REFUSED_ADDRESS,		/* by our own rules: scheme, address, allowed_hosts; nothing was sent */
	HTTP_LOCAL					/* file or memory trouble on this side; it may have been sent */
} HttpFailure;

typedef struct HttpReply
{
	HttpFailure failure;
	int			status;			/* 0 unless one arrived; 3xx too, redirects are not followed */
	char	   *body;			/* NUL-terminated, "" when it went to the sink */
	size_t		body_length;
	int64		sink_length;	/* bytes written to the sink file, from sink_offset on */
	List	   *headers;		/* of char *, "name: value", names in lower case */
	const char *message;		/* why, for a failure; no secret, no URL query */
} HttpReply;

typedef struct HttpTransfer HttpTransfer;

/* Called by the process that makes requests, before the first; registers clean-up at exit.  Idempotent. */
extern void http_init(void);

/*
 * Starts a transfer.  The request is copied; "owner" comes back with it.  An
 * address that the rules refuse finishes at once with HTTP_REFUSED_ADDRESS.
 * Raises only when out of memory.
 */
extern HttpTransfer *http_start(const HttpRequest *request, void *owner);

/* The next finished transfer, or NULL.  Its reply lives until http_free(). */
extern HttpTransfer *http_next_finished(void);
extern HttpReply *http_reply(HttpTransfer *transfer);
extern void *http_owner(HttpTransfer *transfer);

/* Ends a transfer in whatever state it is.  Idempotent by way of NULL. */
extern void http_free(HttpTransfer *transfer);

/* Transfers that were started and are not finished. */
extern int	http_in_flight(void);

/*
 * Lets transfers proceed, and sleeps at most timeout_ms (-1: no limit, 0: not
 * at all) until one finishes, the process latch is set or a socket is ready.
 * Resets the latch; the caller does CHECK_FOR_INTERRUPTS().  Returns true if
 * the latch was set.
 */
extern bool http_wait(long timeout_ms, uint32 wait_event_info);

/* Value of a reply's header (name in lower case), or NULL. */
extern PGDLLEXPORT const char *http_header(const HttpReply *reply, const char *name);

/* NULL if url may be called, else why not, palloc'd: scheme, user info, literal address, dess_batch.allowed_hosts. */
extern char *http_check_url(const char *url, bool trusted);

/*
 * Waits until a transfer has finished; for a backend that has nothing else to
 * do.  Interruptible.  The reply lives until http_free().
 */
extern HttpReply *http_await(HttpTransfer *transfer);

#endif							/* DESS_HTTP_H */
