/* Memory that is given back all at once. Not thread-safe. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct arena {
	struct arena_block *blocks;
	bool is_exhausted; /* some allocation has failed, ever */
};

/* Zeroed, aligned for any type. NULL when memory is exhausted (len 0: not NULL). */
void *arena_alloc(struct arena *arena, size_t len);

void *arena_copy(struct arena *arena, const void *data, size_t len);
char *arena_strdup(struct arena *arena, const char *text);

/* Printed into memory of the arena; NULL when memory is exhausted. */
char *arena_printf(struct arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Room for one more in an array of nr items of len bytes, whose address is in *array: the address of the new item, zeroed, or NULL. The array must have grown by
 * this function only.
 */
void *arena_grow(struct arena *arena, void *array, size_t nr, size_t len);

void arena_release(struct arena *arena);
