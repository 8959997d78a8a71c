/*
 * trade-places: threads move their mappings around at the same time, so that one takes the place that another has just left, and check every page.
 * usage: trade-places TOTAL_MB THREADS ROUNDS (of all threads together)
 */
#include <pthread.h>

#include "victim.h"

enum {
	CHUNK_PAGES = 96
};

static size_t nr_chunks, nr_rounds;

struct chunk {
	char *memory;
	uint64_t tag; /* of the first page */
};

static void chunk_take(struct chunk *chunk, uint64_t tag)
{
	chunk->memory = map_pages(CHUNK_PAGES);
	chunk->tag = tag;
	for (size_t i = 0; i < CHUNK_PAGES; i++)
		*(uint64_t *)(void *)(chunk->memory + i * PAGE_BYTES) = page_word(tag + i, 0);
}

static void chunk_check(const struct chunk *chunk, const char *what)
{
	for (size_t i = 0; i < CHUNK_PAGES; i++) {
		const uint64_t *word = (const void *)(chunk->memory + i * PAGE_BYTES);
		CHECK(*word == page_word(chunk->tag + i, 0), "%s: page %zu at %p holds %#llx", what, i,
		      (const void *)word, (unsigned long long)*word);
	}
}

/* Grown by a few pages it seldom fits where it is. */
static void chunk_move(struct chunk *chunk, size_t more)
{
	size_t bytes = CHUNK_PAGES * PAGE_BYTES, grown = bytes + more * PAGE_BYTES;

	chunk->memory = mremap(chunk->memory, bytes, grown, MREMAP_MAYMOVE);
	CHECK(chunk->memory != MAP_FAILED, "mremap");
	chunk_check(chunk, "moved");
	CHECK(mremap(chunk->memory, grown, bytes, 0) == chunk->memory, "mremap");
}

static void *worker(void *argument)
{
	uint64_t id = (uint64_t)(size_t)argument, state = mix(id + 1), next_tag = id << 32;
	struct chunk *chunks = calloc(nr_chunks, sizeof(*chunks));

	CHECK(chunks, "calloc");
	for (size_t i = 0; i < nr_chunks; i++)
		chunk_take(&chunks[i], next_tag += CHUNK_PAGES);
	for (size_t round = 0; round < nr_rounds; round++) {
		struct chunk *chunk = &chunks[random_next(&state) % nr_chunks];
		if (random_next(&state) % 8) {
			chunk_move(chunk, 1 + random_next(&state) % 8);
		} else {
			chunk_check(chunk, "given back");
			munmap(chunk->memory, CHUNK_PAGES * PAGE_BYTES);
			chunk_take(chunk, next_tag += CHUNK_PAGES);
		}
	}
	for (size_t i = 0; i < nr_chunks; i++)
		chunk_check(&chunks[i], "at the end");
	free(chunks);
	return NULL;
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	size_t nr_threads = argc > 3 ? (size_t)atol(argv[2]) : 0;

	if (nr_threads < 1 || nr_threads > 64) {
		fprintf(stderr, "usage: trade-places TOTAL_MB THREADS ROUNDS\n");
		return 2;
	}
	nr_chunks = (size_t)atol(argv[1]) * MIB / nr_threads / (CHUNK_PAGES * PAGE_BYTES);
	nr_rounds = (size_t)atol(argv[3]) / nr_threads;
	for (size_t i = 0; i < nr_threads; i++)
		CHECK(!pthread_create(&threads[i], NULL, worker, (void *)i), "pthread_create");
	for (size_t i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
	puts("right");
	return 0;
}
