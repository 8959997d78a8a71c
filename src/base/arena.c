#include "base/arena.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIRST_ITEMS 8

struct arena_block {
	struct arena_block *next;
	max_align_t data[];
};

void *arena_alloc(struct arena *arena, size_t len)
{
	struct arena_block *block = len < SIZE_MAX - sizeof(*block) ? calloc(1, sizeof(*block) + len + 1) : NULL;
	if (!block) {
		arena->is_exhausted = true;
		return NULL;
	}
	block->next = arena->blocks;
	arena->blocks = block;
	return block->data;
}

void *arena_copy(struct arena *arena, const void *data, size_t len)
{
	void *copy = arena_alloc(arena, len);
	return copy && len ? memcpy(copy, data, len) : copy;
}

char *arena_strdup(struct arena *arena, const char *text)
{
	return arena_copy(arena, text, strlen(text) + 1);
}

char *arena_printf(struct arena *arena, const char *format, ...)
{
	va_list args;
	char *text = NULL, *copy = NULL;
	va_start(args, format);
	if (vasprintf(&text, format, args) >= 0) {
		copy = arena_strdup(arena, text);
		free(text);
	}
	va_end(args);
	return copy;
}

/* The capacity follows from the number: FIRST_ITEMS, then powers of two. */
void *arena_grow(struct arena *arena, void *array, size_t nr, size_t len)
{
	void *items;
	memcpy(&items, array, sizeof(items));
	bool is_full = nr == 0 || (nr >= FIRST_ITEMS && (nr & (nr - 1)) == 0);
	if (is_full) {
		size_t capacity = nr ? nr * 2 : FIRST_ITEMS;
		void *larger = len <= SIZE_MAX / 2 / capacity ? arena_alloc(arena, capacity * len) : NULL;
		if (!larger) {
			arena->is_exhausted = true;
			return NULL;
		}
		if (nr)
			memcpy(larger, items, nr * len);
		items = larger;
		memcpy(array, &items, sizeof(items));
	}
	return (char *)items + nr * len;
}

void arena_release(struct arena *arena)
{
	while (arena->blocks) {
		struct arena_block *block = arena->blocks;
		arena->blocks = block->next;
		free(block);
	}
}
