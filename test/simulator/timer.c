/*
 * timer.c
 *		Calls functions later, from one thread.
 *
 * A delayed reply costs an entry in a heap, not a sleeping thread: a thousand
 * requests may wait at once.  When the simulator stops, everything that waits
 * is called at once, so that no connection stays suspended.
 */
#include "http.h"

#include <pthread.h>
#include <time.h>

typedef struct Entry
{
	double		due;
	TimerFn		fn;
	void	   *arg;
} Entry;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake;
static pthread_t thread;
static Entry *heap;
static size_t used;
static size_t size;
static bool stopping;

static void
swap_entries(size_t a, size_t b)
{
	Entry		tmp = heap[a];

	heap[a] = heap[b];
	heap[b] = tmp;
}

static void
heap_push(Entry e)
{
	size_t		at = used;

	if (used == size)
	{
		size = size ? size * 2 : 256;
		heap = xrealloc(heap, size * sizeof(Entry));
	}
	heap[used++] = e;
	while (at > 0 && heap[(at - 1) / 2].due > heap[at].due)
	{
		swap_entries(at, (at - 1) / 2);
		at = (at - 1) / 2;
	}
}

static Entry
heap_pop(void)
{
	Entry		top = heap[0];
	size_t		at = 0;

	heap[0] = heap[--used];
	for (;;)
	{
		size_t		child = at * 2 + 1;

		if (child >= used)
			break;
		if (child + 1 < used && heap[child + 1].due < heap[child].due)
			child++;
		if (heap[at].due <= heap[child].due)
			break;
		swap_entries(at, child);
		at = child;
	}
	return top;
}

static void *
timer_main(void *arg)
{
	(void) arg;
	pthread_mutex_lock(&lock);
	for (;;)
	{
		double		now = now_ms();

		if (used > 0 && (stopping || heap[0].due <= now))
		{
			Entry		e = heap_pop();

			pthread_mutex_unlock(&lock);
			e.fn(e.arg);
			pthread_mutex_lock(&lock);
		}
		else if (stopping)
			break;
		else if (used == 0)
			pthread_cond_wait(&wake, &lock);
		else
		{
			struct timespec ts;
			double		ms = heap[0].due - now;

			clock_gettime(CLOCK_MONOTONIC, &ts);
			ts.tv_sec += (time_t) (ms / 1000);
			ts.tv_nsec += (long) ((ms - 1000.0 * (time_t) (ms / 1000)) * 1e6);
			if (ts.tv_nsec >= 1000000000L)
			{
				ts.tv_sec++;
				ts.tv_nsec -= 1000000000L;
			}
			pthread_cond_timedwait(&wake, &lock, &ts);
		}
	}
	pthread_mutex_unlock(&lock);
	return NULL;
}

void
timer_start(void)
{
	pthread_condattr_t attr;

	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&wake, &attr);
	if (pthread_create(&thread, NULL, timer_main, NULL) != 0)
		die("could not start a thread");
}

/* Due is on the clock of now_ms().  After timer_stop began it is called soon. */
void
timer_add(double due, TimerFn fn, void *arg)
{
	Entry		e = {due, fn, arg};

	pthread_mutex_lock(&lock);
	heap_push(e);
	if (heap[0].fn == fn && heap[0].arg == arg)
		pthread_cond_signal(&wake);
	pthread_mutex_unlock(&lock);
}

bool
timer_stopping(void)
{
	bool		answer;

	pthread_mutex_lock(&lock);
	answer = stopping;
	pthread_mutex_unlock(&lock);
	return answer;
}

/* Calls all that waits, then ends the thread. */
void
timer_stop(void)
{
	pthread_mutex_lock(&lock);
	stopping = true;
	pthread_cond_signal(&wake);
	pthread_mutex_unlock(&lock);
	pthread_join(thread, NULL);
	free(heap);
	heap = NULL;
}
