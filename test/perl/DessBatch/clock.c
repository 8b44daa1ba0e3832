/*
 * clock.c
 *		A clock that is wrong by as many seconds as the file $CLOCK_FILE says.
 *
 * To be preloaded into a server whose time a test lets pass: PostgreSQL asks
 * gettimeofday() alone what time it is.  The file is mapped when a program
 * starts, so that processes that run already follow it, too.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile const int64_t *seconds;

__attribute__((constructor)) static void
clock_open(void)
{
	const char *name = getenv("CLOCK_FILE");
	int			fd = name != NULL ? open(name, O_RDONLY | O_CLOEXEC) : -1;
	void	   *map = fd >= 0 ? mmap(NULL, sizeof(*seconds), PROT_READ, MAP_SHARED, fd, 0) : MAP_FAILED;

	if (map != MAP_FAILED)
		seconds = map;
	if (fd >= 0)
		close(fd);
}

int
gettimeofday(struct timeval *restrict tv, void *restrict tz)
{
	struct timespec now;

	(void) tz;
	if (clock_gettime(CLOCK_REALTIME, &now) != 0)
		return -1;
	tv->tv_sec = now.tv_sec + (seconds != NULL ? *seconds : 0);
	tv->tv_usec = now.tv_nsec / 1000;
	return 0;
}
