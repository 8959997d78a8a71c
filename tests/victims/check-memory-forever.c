/*
 * check-memory-forever: checks and rewrites its memory until it is killed, and keeps the score in a file that outlives it.
 * usage: check-memory-forever FILE SIZE_MB THREADS CHILDREN [SECONDS=60]
 * SIZE_MB is the total of all processes. FILE is mapped shared: one record of 64 bytes for each worker (see struct record). A wrong
 * byte is written there before anything else happens, so that a test can see it after kill -9. Ends by itself after SECONDS, or when is_over of the
 * first record is set.
 */
#include <pthread.h>
#include <sys/wait.h>

#include "victim.h"

struct record {
	uint64_t is_ready; /* its memory is filled, checking goes on */
	uint64_t nr_checks;
	uint64_t nr_wrong;
	uint64_t address, expected, found; /* of the first wrong word */
	uint64_t is_over;
	uint64_t spare;
};

struct worker {
	struct record *record;
	size_t nr_pages;
	uint64_t id;
};

static double deadline;
static const volatile struct record *first_record;

static void record_wrong(struct record *record, const uint64_t *word, uint64_t expected, uint64_t found)
{
	if (!record->nr_wrong) {
		record->address = (uintptr_t)word;
		record->expected = expected;
		record->found = found;
	}
	__atomic_add_fetch(&record->nr_wrong, 1, __ATOMIC_SEQ_CST);
}

static void page_verify(struct record *record, const uint64_t *page, uint64_t tag)
{
	for (size_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t found = ((const volatile uint64_t *)page)[i];
		if (found != page_word(tag, i))
			record_wrong(record, page + i, page_word(tag, i), found);
	}
}

/* Every page has a version of its own; the versions lie in evictable memory too. */
static void *work(void *argument)
{
	struct worker *worker = argument;
	struct record *record = worker->record;
	uint64_t *memory = map_pages(worker->nr_pages), *versions = map_bytes(worker->nr_pages * sizeof(uint64_t));
	uint64_t state = worker->id;

	for (size_t i = 0; i < worker->nr_pages; i++) {
		versions[i] = worker->id << 40 | i;
		page_fill(memory + i * PAGE_WORDS, versions[i]);
	}
	record->is_ready = 1;
	while (now_seconds() < deadline && !first_record->is_over) {
		size_t i = random_next(&state) % worker->nr_pages;
		for (size_t run = 0; run < 16 && i < worker->nr_pages; run++, i++) {
			uint64_t *page = memory + i * PAGE_WORDS;
			page_verify(record, page, versions[i]);
			record->nr_checks++;
			if (random_next(&state) % 4 == 0) {
				versions[i] += (uint64_t)1 << 20;
				page_fill(page, versions[i]);
			}
		}
	}
	return NULL;
}

static void run_process(struct record *records, size_t first, size_t nr_threads, size_t pages_each)
{
	struct worker workers[64];
	pthread_t threads[64];

	for (size_t i = 0; i < nr_threads; i++) {
		workers[i] = (struct worker){ records + first + i, pages_each, first + i + 1 };
		CHECK(!pthread_create(&threads[i], NULL, work, &workers[i]), "pthread_create");
	}
	for (size_t i = 0; i < nr_threads; i++)
		pthread_join(threads[i], NULL);
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: check-memory-forever FILE SIZE_MB THREADS CHILDREN [SECONDS]\n");
		return 2;
	}
	size_t nr_threads = (size_t)atol(argv[3]), nr_children = (size_t)atol(argv[4]), nr_workers = nr_threads * (nr_children + 1);
	CHECK(nr_threads >= 1 && nr_threads <= 64 && nr_children <= 16, "numbers");
	size_t pages_each = (size_t)atol(argv[2]) * MIB / PAGE_BYTES / nr_workers;
	int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, (off_t)(nr_workers * sizeof(struct record))), "%s", argv[1]);
	struct record *records = mmap(NULL, nr_workers * sizeof(*records), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(records != MAP_FAILED, "mmap");
	first_record = records;
	deadline = now_seconds() + (argc > 5 ? atof(argv[5]) : 60);
	for (size_t i = 0; i < nr_children; i++) {
		pid_t child = fork();
		CHECK(child >= 0, "fork");
		if (!child) {
			run_process(records, (i + 1) * nr_threads, nr_threads, pages_each);
			_exit(0);
		}
	}
	run_process(records, 0, nr_threads, pages_each);
	while (wait(NULL) > 0)
		;
	for (size_t i = 0; i < nr_workers; i++)
		CHECK(!records[i].nr_wrong, "worker %zu met %llu wrong words", i, (unsigned long long)records[i].nr_wrong);
	puts("right");
	return 0;
}
