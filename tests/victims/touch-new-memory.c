/*
 * touch-new-memory: takes new memory as fast as it can, keeps it all, then verifies it.
 * usage: touch-new-memory TOTAL_MB WORKERS SHAPE [CHUNK_KB=64]
 * SHAPE: one      every worker thread touches its share of one large mapping
 *        chunk    every thread calls mmap for each CHUNK_KB (the kernel merges neighbours)
 *        split    as chunk, each chunk is a mapping of its own: a page without rights lies between two of them
 *        malloc   every thread calls malloc for each CHUNK_KB
 *        fork     every worker is a process, made by a binary tree of forks, all holding their share at the same time
 */
#include <pthread.h>
#include <sys/wait.h>

#include "victim.h"

static struct {
	size_t nr_workers;
	size_t share_bytes;
	size_t chunk_bytes;
	const char *shape;
	char *one;
} work;

static pthread_barrier_t *barrier;

static void touch(char *memory, size_t bytes, uint64_t tag)
{
	for (size_t at = 0; at + sizeof(uint64_t) <= bytes; at += PAGE_BYTES)
		*(volatile uint64_t *)(void *)(memory + at) = page_word(tag, at / PAGE_BYTES);
}

static void touch_verify(const char *memory, size_t bytes, uint64_t tag)
{
	for (size_t at = 0; at + sizeof(uint64_t) <= bytes; at += PAGE_BYTES)
		CHECK(*(const volatile uint64_t *)(const void *)(memory + at) == page_word(tag, at / PAGE_BYTES), "chunk %llu byte %zu of %p",
		      (unsigned long long)tag, at, (const void *)memory);
}

static char *take_chunk(void)
{
	if (!strcmp(work.shape, "malloc"))
		return malloc(work.chunk_bytes);
	if (strcmp(work.shape, "split"))
		return map_bytes(work.chunk_bytes);
	char *memory = mmap(NULL, work.chunk_bytes + PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED && !mprotect(memory, work.chunk_bytes, PROT_READ | PROT_WRITE), "mmap");
	return memory;
}

static void touch_chunks(uint64_t id)
{
	size_t nr_chunks = work.share_bytes / work.chunk_bytes;
	char **chunks = calloc(nr_chunks, sizeof(*chunks));

	CHECK(chunks, "calloc");
	for (size_t i = 0; i < nr_chunks; i++) {
		chunks[i] = take_chunk();
		CHECK(chunks[i], "no memory");
		touch(chunks[i], work.chunk_bytes, id << 32 | i);
	}
	pthread_barrier_wait(barrier);
	for (size_t i = 0; i < nr_chunks; i++)
		touch_verify(chunks[i], work.chunk_bytes, id << 32 | i);
	free(chunks);
}

static void *worker(void *argument)
{
	uint64_t id = (uint64_t)(size_t)argument;

	if (strcmp(work.shape, "one")) {
		touch_chunks(id);
		return NULL;
	}
	char *memory = work.one + id * work.share_bytes;
	touch(memory, work.share_bytes, id);
	pthread_barrier_wait(barrier);
	touch_verify(memory, work.share_bytes, id);
	return NULL;
}

/* Process `id` of the tree: starts its children first, then touches its own share. */
static void process(size_t id)
{
	pid_t children[2] = { 0, 0 };

	for (size_t i = 0; i < 2; i++) {
		size_t child = 2 * id + 1 + i;
		if (child >= work.nr_workers)
			continue;
		children[i] = fork();
		CHECK(children[i] >= 0, "fork");
		if (!children[i]) {
			process(child);
			_exit(0);
		}
	}
	char *memory = map_bytes(work.share_bytes);
	touch(memory, work.share_bytes, id);
	pthread_barrier_wait(barrier);
	touch_verify(memory, work.share_bytes, id);
	for (size_t i = 0; i < 2; i++) {
		int status = 0;
		if (children[i])
			CHECK(waitpid(children[i], &status, 0) == children[i] && !status, "child ended with %#x", (unsigned)status);
	}
}

int main(int argc, char **argv)
{
	pthread_t threads[64];
	pthread_barrierattr_t attributes;

	if (argc < 4) {
		fprintf(stderr, "usage: touch-new-memory TOTAL_MB WORKERS one|chunk|split|malloc|fork [CHUNK_KB]\n");
		return 2;
	}
	work.nr_workers = (size_t)atol(argv[2]);
	CHECK(work.nr_workers >= 1 && work.nr_workers <= 64, "numbers");
	work.share_bytes = (size_t)atol(argv[1]) * MIB / work.nr_workers / PAGE_BYTES * PAGE_BYTES;
	work.shape = argv[3];
	work.chunk_bytes = (argc > 4 ? (size_t)atol(argv[4]) : 64) * 1024;
	barrier = mmap(NULL, sizeof(*barrier), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(barrier != MAP_FAILED, "mmap");
	pthread_barrierattr_init(&attributes);
	pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
	pthread_barrier_init(barrier, &attributes, (unsigned)work.nr_workers);
	if (!strcmp(work.shape, "fork")) {
		process(0);
	} else {
		if (!strcmp(work.shape, "one"))
			work.one = map_bytes(work.share_bytes * work.nr_workers);
		for (size_t i = 0; i < work.nr_workers; i++)
			CHECK(!pthread_create(&threads[i], NULL, worker, (void *)i), "pthread_create");
		for (size_t i = 0; i < work.nr_workers; i++)
			pthread_join(threads[i], NULL);
	}
	puts("right");
	return 0;
}
