/*-------------------------------------------------------------------------
 *
 * transfer.h
 *		One HTTP transfer, as http.c, http_request.c and http_transfer.c share it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_HTTP_TRANSFER_H
#define DESS_HTTP_TRANSFER_H

#include <curl/curl.h>

#include "http/http.h"
#include "lib/ilist.h"
#include "lib/pairingheap.h"

#define CONNECT_TIMEOUT_MS 15000

typedef enum TransferState
{
	TRANSFER_WAITING,			/* in http.c's list of those not yet given to libcurl */
	TRANSFER_RUNNING,			/* libcurl's */
	TRANSFER_FINISHED,			/* in the list of those that nobody took */
	TRANSFER_TAKEN
} TransferState;

/* Grown by malloc, because libcurl's callbacks must not raise errors. */
typedef struct Buffer
{
	char	   *data;
	size_t		length;
	size_t		size;
} Buffer;

struct HttpTransfer
{
	MemoryContext context;
	MemoryContextCallback on_delete;
	TransferState state;
	dlist_node	node;
	void	   *owner;
	HttpRequest request;		/* a copy; the headers are in "headers" instead */

	/* looked at from time to time, see http.c */
	pairingheap_node look_node;
	bool		look_planned;
	int64		look_at;		/* milliseconds of http.c's wait_clock(), as all times here */
	int64		given_at;		/* when libcurl got it */
	int64		started_at;		/* when its first bytes were due; 0: it waits for a connection */
	int64		progress_at;
	int64		progress_mark;	/* bytes moved by then */

	/* given back by transfer_release() */
	CURL	   *easy;
	CURLM	   *multi;			/* NULL while the easy handle is in none */
	struct curl_slist *headers;
	curl_mime  *mime;
	int			body_fd;
	int			sink_fd;
	int			reserved_files;

	/* noted by callbacks */
	bool		started;		/* a connection was there and the request may have gone out */
	long		size_before;	/* CURLINFO_REQUEST_SIZE just before that */
	bool		resend_refused;
	bool		address_refused;
	bool		through_proxy;
	int64		body_position;
	bool		body_began;
	Buffer		head;			/* header lines, each ending in NUL */
	Buffer		body;

	HttpReply	reply;
	bool		reply_complete;
	char		message[256];
	char		curl_message[CURL_ERROR_SIZE];
};

/* libcurl must be entered with all signals blocked: its resolver threads inherit the mask. */
extern void curl_enter(sigset_t *saved);
extern void curl_leave(const sigset_t *saved);

/*
 * Copies the request into the current context.  Raises when out of memory; what
 * was acquired by then is in the transfer.
 */
extern void transfer_copy_request(HttpTransfer *transfer, const HttpRequest *request);

/* Reserves the descriptors of the transfer's files.  False, without force: none left now. */
extern bool transfer_reserve_files(HttpTransfer *transfer, bool force);

/* Makes the easy handle.  False: the reply says why. */
extern bool transfer_open(HttpTransfer *transfer);

/* What libcurl calls; "arg" is the transfer. */
extern size_t transfer_receive_head(char *data, size_t size, size_t count, void *arg);
extern size_t transfer_receive_body(char *data, size_t size, size_t count, void *arg);
extern size_t transfer_send_body_file(char *buffer, size_t size, size_t count, void *arg);
extern int	transfer_seek_body_file(void *arg, curl_off_t offset, int origin);
extern curl_socket_t transfer_open_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
extern int	transfer_close_socket(void *arg, curl_socket_t fd);
extern int	transfer_before_sending(void *arg, char *remote_address, char *local_address,
									int remote_port, int local_port);

/* Bytes moved so far, both ways. */
extern int64 transfer_progress(HttpTransfer *transfer);

/* Writes libcurl's verdict into the reply, unless a failure was noted before. */
extern void transfer_judge(HttpTransfer *transfer, CURLcode code);

/* Notes a failure; the first one counts. */
extern void transfer_fail(HttpTransfer *transfer, HttpFailure failure,
						  const char *format,...) pg_attribute_printf(3, 4);

/* Gives back everything but the reply.  Idempotent; never raises. */
extern void transfer_release(HttpTransfer *transfer);

/* transfer_release(), and the reply and secrets too. */
extern void transfer_destroy(HttpTransfer *transfer);

/* Connections that libcurl holds open, idle ones included. */
extern int	transfer_open_sockets(void);

#endif							/* DESS_HTTP_TRANSFER_H */
