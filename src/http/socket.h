/*-------------------------------------------------------------------------
 *
 * socket.h
 *		A set of sockets that is waited for together with the process latch.
 *
 *-------------------------------------------------------------------------
 */
#ifndef DESS_HTTP_SOCKET_H
#define DESS_HTTP_SOCKET_H

#define SOCKET_READ		0x01
#define SOCKET_WRITE	0x02

typedef struct ReadySocket
{
	pgsocket	fd;
	int			events;			/* SOCKET_READ, SOCKET_WRITE; both after an error */
} ReadySocket;

extern void socket_set_init(void);

/*
 * Watches a socket for these events, or for others than before; 0 forgets it.
 * Returns 0 or an errno.  Never raises, so that libcurl's callbacks can use it.
 */
extern int	socket_set_watch(pgsocket fd, int events);

/*
 * Waits until a socket is ready, the process latch is set or timeout_ms passed
 * (-1: no limit), and returns how many of "ready" it filled in.  Resets the
 * latch if it was set.  Ends the process when the postmaster has died.
 */
extern int	socket_set_wait(long timeout_ms, uint32 wait_event_info,
							ReadySocket *ready, int size, bool *latch_set);

#endif							/* DESS_HTTP_SOCKET_H */
