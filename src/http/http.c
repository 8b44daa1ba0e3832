/*-------------------------------------------------------------------------
 *
 * http.c
 *		Many HTTP transfers at once in one process, driven by its latch.
 *
 * libcurl never waits here: it says which sockets and which moment it waits
 * for, and is called when they come.
 *
 * A transfer is first kept in a list and given to libcurl by http_wait(), when
 * the descriptors of its files are reserved.  Connections are reserved apart
 * from transfers, since they outlive them: libcurl is allowed as many as are
 * reserved, and holds back the transfers beyond that.
 *
 * A transfer's struct and its memory are one context; deleting the context, by
 * whomever and for whatever error, is what ends the transfer.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "http/socket.h"
#include "http/transfer.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "storage/fd.h"
#include "storage/ipc.h"
#include "utils/memutils.h"

#include "runtime/wait_event.h"

#define DEFAULT_IDLE_TIMEOUT 120	/* seconds */
/* a request may last so many idle timeouts, and longer only while bytes move at a decent rate */
#define TOTAL_TIMEOUTS		20
#define SLOWEST_BYTES_A_MS	1
#define GIVE_MAX 64				/* transfers given to libcurl by one http_wait() */
#define READY_MAX 64			/* sockets looked after by one http_wait() */
#define RETRY_MS 1000			/* when to ask again for a descriptor that was refused */
#define ABSENCE_MS 1000			/* what the caller may take between two calls of http_wait() */
#define SPARE_CONNECTIONS 16	/* to other hosts, that stay open unused */

static MemoryContext http_context = NULL;
static CURLM *multi = NULL;
static bool exit_registered = false;

static dlist_head waiting = DLIST_STATIC_INIT(waiting);
static dlist_head finished = DLIST_STATIC_INIT(finished);
static int	waiting_count = 0;
static int	running_count = 0;
static bool waiting_blocked = false;	/* no descriptor for one of them */

static int	reserved_connections = 0;
static int	allowed_connections = 0;	/* what libcurl was told last */

static int64 left_at = -1;		/* when http_wait() last returned */
static int64 absent_ms = 0;		/* see wait_clock() */

static int64 timer_at = -1;		/* when libcurl wants to be called, -1: never */
static int	watch_error = 0;	/* errno of a socket that could not be watched */

static pairingheap *looks = NULL;	/* transfers by look_at, the earliest first */

static int64
monotonic_ms(void)
{
	instr_time	now;

	INSTR_TIME_SET_CURRENT(now);
	return (int64) INSTR_TIME_GET_MICROSEC(now) / 1000;
}

/*
 * A clock that stands still while the caller is away from http_wait() for more
 * than a moment: what a server sends meanwhile nobody has read, and it must not
 * be called idle for that.
 */
static int64
wait_clock(void)
{
	return monotonic_ms() - absent_ms;
}

static int
compare_looks(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const HttpTransfer *left = pairingheap_const_container(HttpTransfer, look_node, a);
	const HttpTransfer *right = pairingheap_const_container(HttpTransfer, look_node, b);

	if (left->look_at == right->look_at)
		return 0;
	return left->look_at < right->look_at ? 1 : -1;
}

/* ----------
 * What libcurl calls, under the rules of http_transfer.c
 * ----------
 */

static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	int			events = 0;
	int			error;

	if (what == CURL_POLL_IN || what == CURL_POLL_INOUT)
		events |= SOCKET_READ;
	if (what == CURL_POLL_OUT || what == CURL_POLL_INOUT)
		events |= SOCKET_WRITE;

	error = socket_set_watch(fd, events);
	if (error != 0)
		watch_error = error;
	return 0;
}

static int
set_timer(CURLM *of_multi, long timeout_ms, void *arg)
{
	timer_at = timeout_ms < 0 ? -1 : monotonic_ms() + timeout_ms;
	return 0;
}

/* ----------
 * Beginning and end of the process's part
 * ----------
 */

/* At exit: deleting the contexts ends the transfers and wipes their secrets. */
static void
http_shutdown(int code, Datum arg)
{
	sigset_t	saved;

	if (http_context != NULL)
		MemoryContextDeleteChildren(http_context);

	curl_enter(&saved);
	if (multi != NULL)
		curl_multi_cleanup(multi);
	multi = NULL;
	curl_leave(&saved);
}

static CURLM *
create_multi(void)
{
	CURLM	   *created = curl_multi_init();

	if (created == NULL)
		return NULL;

	if (curl_multi_setopt(created, CURLMOPT_SOCKETFUNCTION, watch_socket) == CURLM_OK &&
		curl_multi_setopt(created, CURLMOPT_TIMERFUNCTION, set_timer) == CURLM_OK &&
		curl_multi_setopt(created, CURLMOPT_PIPELINING, CURLPIPE_NOTHING) == CURLM_OK &&
		curl_multi_setopt(created, CURLMOPT_MAXCONNECTS, (long) max_safe_fds) == CURLM_OK)
		return created;

	curl_multi_cleanup(created);
	return NULL;
}

void
http_init(void)
{
	sigset_t	saved;

	if (multi != NULL)
		return;

	if (http_context == NULL)
		http_context = AllocSetContextCreate(TopMemoryContext, "dess_batch http",
											 ALLOCSET_SMALL_SIZES);
	if (looks == NULL)
	{
		MemoryContext caller = MemoryContextSwitchTo(http_context);

		looks = pairingheap_allocate(compare_looks, NULL);
		MemoryContextSwitchTo(caller);
	}
	socket_set_init();

	if (!exit_registered)
		on_proc_exit(http_shutdown, 0);
	exit_registered = true;

	curl_enter(&saved);
	if (curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK)
		multi = create_multi();
	curl_leave(&saved);

	if (multi == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("could not initialize libcurl")));
}

/* ----------
 * A transfer's states
 * ----------
 */

static void
leave_state(HttpTransfer *transfer)
{
	switch (transfer->state)
	{
		case TRANSFER_WAITING:
			dlist_delete(&transfer->node);
			waiting_count--;
			break;
		case TRANSFER_RUNNING:
			running_count--;
			break;
		case TRANSFER_FINISHED:
			dlist_delete(&transfer->node);
			break;
		case TRANSFER_TAKEN:
			break;
	}

	if (transfer->look_planned)
		pairingheap_remove(looks, &transfer->look_node);
	transfer->look_planned = false;
	transfer->state = TRANSFER_TAKEN;
}

static void
finish(HttpTransfer *transfer)
{
	leave_state(transfer);
	transfer_release(transfer);
	dlist_push_tail(&finished, &transfer->node);
	transfer->state = TRANSFER_FINISHED;
}

/* The reset callback of a transfer's context. */
static void
on_delete(void *arg)
{
	HttpTransfer *transfer = arg;

	leave_state(transfer);
	transfer_destroy(transfer);
}

HttpTransfer *
http_start(const HttpRequest *request, void *owner)
{
	MemoryContext context;
	MemoryContext caller;
	HttpTransfer *transfer;
	char	   *refusal;

	http_init();

	/* the caller's at first, so that an error here takes it along */
	context = AllocSetContextCreate(CurrentMemoryContext, "dess_batch transfer",
									ALLOCSET_SMALL_SIZES);
	transfer = MemoryContextAllocZero(context, sizeof(HttpTransfer));
	transfer->context = context;
	transfer->state = TRANSFER_TAKEN;
	transfer->owner = owner;
	transfer->body_fd = -1;
	transfer->sink_fd = -1;
	transfer->on_delete.func = on_delete;
	transfer->on_delete.arg = transfer;
	MemoryContextRegisterResetCallback(context, &transfer->on_delete);

	caller = MemoryContextSwitchTo(context);
	transfer_copy_request(transfer, request);
	refusal = http_check_url(request->url, request->trusted);
	if (refusal != NULL)
		transfer_fail(transfer, HTTP_REFUSED_ADDRESS, "%s", refusal);
	MemoryContextSwitchTo(caller);

	MemoryContextSetParent(context, http_context);

	if (transfer->reply.failure != HTTP_OK)
		finish(transfer);
	else
	{
		dlist_push_tail(&waiting, &transfer->node);
		waiting_count++;
		transfer->state = TRANSFER_WAITING;
	}
	return transfer;
}

HttpTransfer *
http_next_finished(void)
{
	HttpTransfer *transfer;

	if (dlist_is_empty(&finished))
		return NULL;

	transfer = dlist_head_element(HttpTransfer, node, &finished);
	leave_state(transfer);
	return transfer;
}

void *
http_owner(HttpTransfer *transfer)
{
	return transfer->owner;
}

void
http_free(HttpTransfer *transfer)
{
	if (transfer != NULL)
		MemoryContextDelete(transfer->context);
}

int
http_in_flight(void)
{
	return waiting_count + running_count;
}

/* The reply of a finished transfer; raises only when out of memory. */
HttpReply *
http_reply(HttpTransfer *transfer)
{
	HttpReply  *reply = &transfer->reply;
	MemoryContext caller;
	size_t		position = 0;

	Assert(transfer->state == TRANSFER_FINISHED || transfer->state == TRANSFER_TAKEN);
	if (transfer->reply_complete)
		return reply;

	caller = MemoryContextSwitchTo(transfer->context);
	reply->body = transfer->body.data ? transfer->body.data : pstrdup("");
	reply->body_length = transfer->body.length;
	reply->message = transfer->message[0] != '\0' ? transfer->message : NULL;

	list_free(reply->headers);
	reply->headers = NIL;
	while (position < transfer->head.length)
	{
		char	   *header = transfer->head.data + position;

		reply->headers = lappend(reply->headers, header);
		position += strlen(header) + 1;
	}
	MemoryContextSwitchTo(caller);

	transfer->reply_complete = true;
	return reply;
}

const char *
http_header(const HttpReply *reply, const char *name)
{
	size_t		length = strlen(name);
	ListCell   *cell;

	foreach(cell, reply->headers)
	{
		const char *header = lfirst(cell);

		if (strncmp(header, name, length) == 0 && header[length] == ':')
			return header + length + 1 + strspn(header + length + 1, " \t");
	}
	return NULL;
}

/* ----------
 * Descriptors
 * ----------
 */

/*
 * Reserves a descriptor for each connection that "transfers" transfers may
 * need, one in any case and others as far as there are, gives back what is too
 * much, and lets libcurl have as many; at the limit it closes idle ones.  A
 * quarter of the process's descriptors at most, because fd.c grants a third,
 * and files need some.
 */
static void
reserve_connections(int transfers)
{
	int			open = transfer_open_sockets();
	int			wanted = Min(Max(open, transfers) + SPARE_CONNECTIONS, max_safe_fds / 4);

	if (reserved_connections == 0)
	{
		ReserveExternalFD();
		reserved_connections = 1;
	}
	while (reserved_connections < wanted && AcquireExternalFD())
		reserved_connections++;
	for (; reserved_connections > Max(wanted, open); reserved_connections--)
		ReleaseExternalFD();

	if (reserved_connections != allowed_connections &&
		curl_multi_setopt(multi, CURLMOPT_MAX_TOTAL_CONNECTIONS,
						  (long) reserved_connections) == CURLM_OK)
		allowed_connections = reserved_connections;
}

/* ----------
 * Progress
 * ----------
 */

static int64
idle_limit_ms(const HttpTransfer *transfer)
{
	int			seconds = transfer->request.idle_timeout;

	return (seconds > 0 ? seconds : DEFAULT_IDLE_TIMEOUT) * INT64CONST(1000);
}

/* Four looks within the limit find out well enough when the last byte moved. */
static void
plan_look(HttpTransfer *transfer, int64 now)
{
	int64		limit = idle_limit_ms(transfer);

	transfer->look_at = Min(now + limit / 4, Max(transfer->progress_at + limit, now + 1));
	pairingheap_add(looks, &transfer->look_node);
	transfer->look_planned = true;
}

static void
give_to_libcurl(HttpTransfer *transfer, int64 now)
{
	sigset_t	saved;
	CURLMcode	code;

	curl_enter(&saved);
	code = curl_multi_add_handle(multi, transfer->easy);
	curl_leave(&saved);

	if (code != CURLM_OK)
	{
		transfer_fail(transfer, HTTP_LOCAL, "could not start the request: %s",
					  curl_multi_strerror(code));
		finish(transfer);
		return;
	}

	transfer->multi = multi;
	transfer->given_at = now;
	transfer->started_at = 0;
	transfer->progress_at = now;
	transfer->progress_mark = -1;
	plan_look(transfer, now);
}

/*
 * For a transfer that got no connection for longer than connecting may take:
 * libcurl looks at those again when a connection becomes free, not when more
 * are allowed or when the one whose turn it was has been freed by us.
 */
static void
give_anew(HttpTransfer *transfer, int64 now)
{
	sigset_t	saved;

	curl_enter(&saved);
	curl_multi_remove_handle(multi, transfer->easy);
	curl_leave(&saved);
	transfer->multi = NULL;
	give_to_libcurl(transfer, now);
}

static void
give_up_transfer(HttpTransfer *transfer, const char *format, int64 seconds)
{
	transfer_fail(transfer, HTTP_BROKEN, format, seconds);
	transfer_judge(transfer, CURLE_OPERATION_TIMEDOUT);
	finish(transfer);
}

static void
look_at_transfer(HttpTransfer *transfer, int64 now)
{
	int64		mark;

	pairingheap_remove(looks, &transfer->look_node);
	transfer->look_planned = false;

	if (!transfer->started)
	{
		transfer->progress_at = now;
		if (now - transfer->given_at > 2 * CONNECT_TIMEOUT_MS)
			give_anew(transfer, now);
		else
			plan_look(transfer, now);
		return;
	}

	if (transfer->started_at == 0)
		transfer->started_at = now;
	mark = transfer_progress(transfer);
	if (mark != transfer->progress_mark)
	{
		transfer->progress_mark = mark;
		transfer->progress_at = now;
	}

	if (now - transfer->progress_at >= idle_limit_ms(transfer))
		give_up_transfer(transfer, "no progress for " INT64_FORMAT " seconds", idle_limit_ms(transfer) / 1000);
	else if (now - transfer->started_at > TOTAL_TIMEOUTS * idle_limit_ms(transfer) + mark / SLOWEST_BYTES_A_MS)
		give_up_transfer(transfer, "hardly any progress for " INT64_FORMAT " seconds",
						 (now - transfer->started_at) / 1000);
	else
		plan_look(transfer, now);
}

static void
look_at_due_transfers(void)
{
	int64		now = wait_clock();

	while (!pairingheap_is_empty(looks))
	{
		HttpTransfer *transfer = pairingheap_container(HttpTransfer, look_node,
													   pairingheap_first(looks));

		if (transfer->look_at > now)
			break;
		look_at_transfer(transfer, now);
	}
}

/*
 * Gives some of those waiting to libcurl, in their order.  Where descriptors are
 * short, one at least gets what it needs.
 */
static void
give_waiting(void)
{
	int64		now = wait_clock();
	int			seen = 0;
	dlist_mutable_iter iter;

	waiting_blocked = false;
	dlist_foreach_modify(iter, &waiting)
	{
		HttpTransfer *transfer = dlist_container(HttpTransfer, node, iter.cur);

		if (seen++ == GIVE_MAX)
			break;

		reserve_connections(running_count + 1);
		if (!transfer_reserve_files(transfer, running_count == 0))
		{
			waiting_blocked = true;
			continue;
		}

		leave_state(transfer);
		transfer->state = TRANSFER_RUNNING;
		running_count++;

		if (transfer_open(transfer))
			give_to_libcurl(transfer, now);
		else
			finish(transfer);
	}
}

static void
collect_finished(void)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(multi, &left)) != NULL)
	{
		CURLcode	code = message->data.result;
		char	   *transfer;

		if (message->msg != CURLMSG_DONE)
			continue;
		curl_easy_getinfo(message->easy_handle, CURLINFO_PRIVATE, &transfer);
		transfer_judge((HttpTransfer *) transfer, code);
		finish((HttpTransfer *) transfer);
	}
}

/* Calls libcurl for the sockets that are ready and for the time that has come. */
static void
drive(const ReadySocket *ready, int count)
{
	sigset_t	saved;
	int			running;

	curl_enter(&saved);
	for (int i = 0; i < count; i++)
	{
		int			events = 0;

		if (ready[i].events & SOCKET_READ)
			events |= CURL_CSELECT_IN;
		if (ready[i].events & SOCKET_WRITE)
			events |= CURL_CSELECT_OUT;
		curl_multi_socket_action(multi, ready[i].fd, events, &running);
	}
	if (timer_at >= 0 && timer_at <= monotonic_ms())
	{
		timer_at = -1;
		curl_multi_socket_action(multi, CURL_SOCKET_TIMEOUT, 0, &running);
	}
	curl_leave(&saved);

	collect_finished();
}

/* How long http_wait() may sleep. */
static long
sleep_ms(long timeout_ms)
{
	int64		until = -1;
	int64		now = monotonic_ms();
	int64		limit;

	if (!dlist_is_empty(&finished) || (!dlist_is_empty(&waiting) && !waiting_blocked))
		return 0;

	if (waiting_blocked)
		until = now + RETRY_MS;
	if (timer_at >= 0 && (until < 0 || timer_at < until))
		until = timer_at;
	if (!pairingheap_is_empty(looks))
	{
		HttpTransfer *next = pairingheap_container(HttpTransfer, look_node,
												   pairingheap_first(looks));

		if (until < 0 || next->look_at + absent_ms < until)
			until = next->look_at + absent_ms;
	}
	if (until < 0)
		return timeout_ms;

	limit = Min(Max(until - now, 0), INT_MAX);
	return timeout_ms < 0 ? limit : Min(timeout_ms, limit);
}

bool
http_wait(long timeout_ms, uint32 wait_event_info)
{
	ReadySocket ready[READY_MAX];
	bool		latch_set;
	int			count;

	http_init();
	if (left_at >= 0)
		absent_ms += Max(monotonic_ms() - left_at - ABSENCE_MS, 0);

	give_waiting();
	count = socket_set_wait(sleep_ms(timeout_ms), wait_event_info, ready, READY_MAX, &latch_set);
	drive(ready, count);
	look_at_due_transfers();
	reserve_connections(running_count);
	left_at = monotonic_ms();

	/* the transfers concerned run into their timeouts */
	if (watch_error != 0)
	{
		errno = watch_error;
		watch_error = 0;
		ereport(LOG,
				(errcode(ERRCODE_SYSTEM_ERROR),
				 errmsg("could not watch a socket: %m")));
	}
	return latch_set;
}

HttpReply *
http_await(HttpTransfer *transfer)
{
	while (transfer->state != TRANSFER_FINISHED)
	{
		http_wait(-1, wait_event_info(WAIT_REPLY));
		CHECK_FOR_INTERRUPTS();
	}
	leave_state(transfer);
	return http_reply(transfer);
}
