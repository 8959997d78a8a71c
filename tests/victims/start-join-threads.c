/*
 * start-join-threads: starts and joins threads while other threads keep the memory under pressure. The kernel clears a word in the
 * thread's record when a thread ends; where that word was evicted the clear is lost and the join never returns.
 * usage: start-join-threads COUNT BATCH PRESS_MB
 */
#include <pthread.h>

#include "victim.h"

static _Atomic bool is_over;
static size_t nr_press_pages;

static void *press(void *argument)
{
	char *memory = map_pages(nr_press_pages);
	uint64_t tag = 1;

	pages_fill(memory, nr_press_pages, tag);
	while (!is_over) {
		pages_check(memory, nr_press_pages, tag, "pressed memory");
		pages_fill(memory, nr_press_pages, ++tag);
	}
	return NULL;
}

/* Uses some stack and some heap of its own arena, and gives back a value made from both. */
static void *short_life(void *argument)
{
	uint64_t tag = (uint64_t)(size_t)argument;
	uint64_t stack[2 * PAGE_WORDS];
	void *heap = malloc(PAGE_BYTES);

	CHECK(heap, "no memory");
	page_fill(stack, tag);
	page_fill(stack + PAGE_WORDS, tag + 1);
	page_fill(heap, tag + 2);
	page_check(stack, tag, "stack");
	page_check(stack + PAGE_WORDS, tag + 1, "stack");
	page_check(heap, tag + 2, "heap");
	free(heap);
	return (void *)(size_t)(tag + 3);
}

int main(int argc, char **argv)
{
	enum { MAX_BATCH = 256 };
	pthread_t presser, threads[MAX_BATCH];

	if (argc < 4) {
		fprintf(stderr, "usage: start-join-threads COUNT BATCH PRESS_MB\n");
		return 2;
	}
	size_t count = (size_t)atol(argv[1]), batch = (size_t)atol(argv[2]);
	CHECK(batch >= 1 && batch <= MAX_BATCH, "numbers");
	nr_press_pages = (size_t)atol(argv[3]) * MIB / PAGE_BYTES;
	CHECK(!pthread_create(&presser, NULL, press, NULL), "pthread_create");
	for (size_t done = 0; done < count; done += batch) {
		for (size_t i = 0; i < batch; i++)
			CHECK(!pthread_create(&threads[i], NULL, short_life, (void *)(done + i)), "pthread_create");
		for (size_t i = 0; i < batch; i++) {
			void *value = NULL;
			CHECK(!pthread_join(threads[i], &value) && (size_t)value == done + i + 3, "thread %zu gave %p", done + i, value);
		}
	}
	is_over = true;
	pthread_join(presser, NULL);
	printf("%zu threads\n", count);
	return 0;
}
