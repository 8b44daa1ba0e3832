/*-------------------------------------------------------------------------
 *
 * arena.c
 *		palloc() and its kin for tests, by way of the linker's --wrap.
 *
 * What the modules under test palloc is listed, so that all of it can be
 * freed at once, as a memory context would.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres_fe.h"

extern void arena_reset(void);
extern void *__wrap_palloc(Size size);
extern void *__wrap_palloc0(Size size);
extern void *__wrap_repalloc(void *pointer, Size size);
extern void __wrap_pfree(void *pointer);
extern char *__wrap_pstrdup(const char *text);
extern char *__wrap_pnstrdup(const char *text, Size length);

typedef struct Chunk
{
	struct Chunk *previous;
	struct Chunk *next;
} Chunk;

static Chunk arena = {&arena, &arena};

/* Lists a chunk that malloc() or realloc() returned. */
static void *
link_chunk(Chunk *chunk)
{
	if (chunk == NULL)
		abort();
	chunk->previous = &arena;
	chunk->next = arena.next;
	arena.next->previous = chunk;
	arena.next = chunk;
	return chunk + 1;
}

static Chunk *
unlink_chunk(void *pointer)
{
	Chunk	   *chunk = (Chunk *) pointer - 1;

	chunk->previous->next = chunk->next;
	chunk->next->previous = chunk->previous;
	return chunk;
}

void *
__wrap_palloc(Size size)
{
	return link_chunk(malloc(sizeof(Chunk) + size));
}

void *
__wrap_palloc0(Size size)
{
	return link_chunk(calloc(1, sizeof(Chunk) + size));
}

void *
__wrap_repalloc(void *pointer, Size size)
{
	return link_chunk(realloc(unlink_chunk(pointer), sizeof(Chunk) + size));
}

void
__wrap_pfree(void *pointer)
{
	free(unlink_chunk(pointer));
}

char *
__wrap_pstrdup(const char *text)
{
	size_t		size = strlen(text) + 1;

	return memcpy(__wrap_palloc(size), text, size);
}

char *
__wrap_pnstrdup(const char *text, Size length)
{
	size_t		size = strnlen(text, length);
	char	   *copy = __wrap_palloc(size + 1);

	memcpy(copy, text, size);
	copy[size] = '\0';
	return copy;
}

void
arena_reset(void)
{
	while (arena.next != &arena)
		__wrap_pfree(arena.next + 1);
}
