/*-------------------------------------------------------------------------
 *
 * socket.c
 *		A set of sockets that is waited for together with the process latch.
 *
 * A WaitEventSet can neither forget a socket nor grow.  Where there is epoll,
 * the sockets lie in an epoll instance of ours, which is itself one socket of
 * a small constant WaitEventSet, so that a change costs one system call however
 * many sockets there are.  Elsewhere the WaitEventSet is built anew after
 * changes.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <unistd.h>
#if defined(HAVE_SYS_EPOLL_H) && !defined(SOCKET_SET_WITHOUT_EPOLL)
#define SOCKET_SET_USE_EPOLL
#include <sys/epoll.h>
#endif

#include "http/socket.h"
#include "runtime/compat.h"
#include "miscadmin.h"
#include "storage/fd.h"
#include "storage/latch.h"
#include "utils/memutils.h"

static WaitEventSet *wait_set = NULL;

/* Starts a wait set with the latch, the postmaster and room for more sockets. */
static void
renew_wait_set(int sockets)
{
	if (wait_set != NULL)
		FreeWaitEventSet(wait_set);
	wait_set = NULL;

	wait_set = compat_create_wait_event_set(sockets + 2);
	AddWaitEventToSet(wait_set, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	if (IsUnderPostmaster)
		AddWaitEventToSet(wait_set, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
}

#ifdef SOCKET_SET_USE_EPOLL

static int	epoll_fd = -1;
static bool complete = false;

void
socket_set_init(void)
{
	if (complete)
		return;

	if (epoll_fd < 0)
	{
		if (!AcquireExternalFD())
			ereport(ERROR,
					(errcode(ERRCODE_INSUFFICIENT_RESOURCES),
					 errmsg("could not reserve a file descriptor: %m"),
					 errhint("Raise \"max_files_per_process\".")));
		epoll_fd = epoll_create1(EPOLL_CLOEXEC);
		if (epoll_fd < 0)
		{
			ReleaseExternalFD();
			ereport(ERROR,
					(errcode(ERRCODE_SYSTEM_ERROR),
					 errmsg("could not create an epoll instance: %m")));
		}
	}

	renew_wait_set(1);
	AddWaitEventToSet(wait_set, WL_SOCKET_READABLE, epoll_fd, NULL, NULL);
	complete = true;
}

int
socket_set_watch(pgsocket fd, int events)
{
	struct epoll_event change = {0};

	if (events == 0)
	{
		/* a socket that is closed already has left the set by itself */
		(void) epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, &change);
		return 0;
	}

	change.data.fd = fd;
	if (events & SOCKET_READ)
		change.events |= EPOLLIN;
	if (events & SOCKET_WRITE)
		change.events |= EPOLLOUT;

	if (epoll_ctl(epoll_fd, EPOLL_CTL_MOD, fd, &change) == 0)
		return 0;
	if (errno == ENOENT && epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &change) == 0)
		return 0;
	return errno;
}

/* The sockets that are ready now, without waiting. */
static int
collect_ready(ReadySocket *ready, int size)
{
	struct epoll_event events[64];
	int			count;

	count = epoll_wait(epoll_fd, events, Min(size, lengthof(events)), 0);
	for (int i = 0; i < count; i++)
	{
		ready[i].fd = events[i].data.fd;
		ready[i].events = 0;
		if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))
			ready[i].events |= SOCKET_READ;
		if (events[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR))
			ready[i].events |= SOCKET_WRITE;
	}
	return Max(count, 0);
}

int
socket_set_wait(long timeout_ms, uint32 wait_event_info,
				ReadySocket *ready, int size, bool *latch_set)
{
	WaitEvent	events[3];
	bool		sockets = false;
	int			count;

	*latch_set = false;
	count = WaitEventSetWait(wait_set, timeout_ms, events, lengthof(events), wait_event_info);
	for (int i = 0; i < count; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			*latch_set = true;
		if (events[i].events & WL_SOCKET_READABLE)
			sockets = true;
	}

	if (*latch_set)
		ResetLatch(MyLatch);
	return sockets ? collect_ready(ready, size) : 0;
}

#else							/* !SOCKET_SET_USE_EPOLL */

/* What each descriptor number is watched for; malloc'd, because callbacks extend it. */
static uint8 *watched = NULL;
static int	watched_size = 0;
static int	watched_count = 0;
static bool changed = true;

void
socket_set_init(void)
{
}

int
socket_set_watch(pgsocket fd, int events)
{
	if (fd >= watched_size)
	{
		int			size = Max(fd + 1, Max(64, watched_size * 2));
		uint8	   *larger;

		if (events == 0)
			return 0;
		larger = realloc(watched, size);
		if (larger == NULL)
			return ENOMEM;
		memset(larger + watched_size, 0, size - watched_size);
		watched = larger;
		watched_size = size;
	}

	watched_count += (events != 0) - (watched[fd] != 0);
	watched[fd] = events;

	/* even for equal events: the number may stand for another socket now */
	changed = true;
	return 0;
}

static void
rebuild_wait_set(void)
{
	renew_wait_set(watched_count);
	for (int fd = 0; fd < watched_size; fd++)
	{
		uint32		events = 0;

		if (watched[fd] & SOCKET_READ)
			events |= WL_SOCKET_READABLE;
		if (watched[fd] & SOCKET_WRITE)
			events |= WL_SOCKET_WRITEABLE;
		if (events != 0)
			AddWaitEventToSet(wait_set, events, fd, NULL, NULL);
	}
	changed = false;
}

int
socket_set_wait(long timeout_ms, uint32 wait_event_info,
				ReadySocket *ready, int size, bool *latch_set)
{
	WaitEvent	events[64];
	int			count;
	int			sockets = 0;

	if (changed)
		rebuild_wait_set();

	*latch_set = false;
	count = WaitEventSetWait(wait_set, timeout_ms, events,
							 Min(size, lengthof(events)), wait_event_info);
	for (int i = 0; i < count; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			*latch_set = true;
		if ((events[i].events & WL_SOCKET_MASK) == 0)
			continue;
		ready[sockets].fd = events[i].fd;
		ready[sockets].events = 0;
		if (events[i].events & WL_SOCKET_READABLE)
			ready[sockets].events |= SOCKET_READ;
		if (events[i].events & WL_SOCKET_WRITEABLE)
			ready[sockets].events |= SOCKET_WRITE;
		sockets++;
	}

	if (*latch_set)
		ResetLatch(MyLatch);
	return sockets;
}

#endif							/* SOCKET_SET_USE_EPOLL */
