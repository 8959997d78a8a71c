/*
 * churn-memory: uses its memory in every way that has a transaction of its own, checks all it reads, and keeps the score in a file that outlives it: touches,
 * new mappings, unmapping, moving, discarding, forks whose children look at what they have inherited.
 * usage: churn-memory FILE SIZE_MB [FORKS]
 * FORKS of 64 things that it does are forks (1). FILE is mapped shared (struct score). It ends well when the score says stop and at least one round was made since then.
 */
#include <pthread.h>
#include <sys/wait.h>

#include "victim.h"

#define NR_REGIONS 8
#define RUN_PAGES 16
#define CHILD_LOOKS 48

struct score {
	uint64_t is_ready, nr_rounds, nr_wrong;
	uint64_t address, expected, found; /* of the first wrong word */
	uint64_t stop;                     /* set from outside */
	uint64_t nr_forks;
};

static struct score *score;
static size_t region_pages;
static uint64_t nr_forks_of_64 = 1;

struct region {
	uint64_t *memory;
	uint64_t *versions; /* of each page; 0: zeros */
};

static uint64_t word_of(uint64_t version, size_t i)
{
	return version ? page_word(version, i) : 0;
}

static void look_at(const struct region *r, size_t page)
{
	const volatile uint64_t *words = r->memory + page * PAGE_WORDS;
	for (size_t i = 0; i < PAGE_WORDS; i++) {
		uint64_t found = words[i], expected = word_of(r->versions[page], i);
		if (found == expected)
			continue;
		if (!__atomic_fetch_add(&score->nr_wrong, 1, __ATOMIC_SEQ_CST)) {
			score->address = (uintptr_t)(words + i);
			score->expected = expected;
			score->found = found;
		}
	}
}

static void change(struct region *r, size_t page, uint64_t version)
{
	r->versions[page] = version;
	page_fill(r->memory + page * PAGE_WORDS, version);
}

static void use(struct region *r, uint64_t *state)
{
	size_t page = random_next(state) % region_pages;
	for (size_t i = 0; i < RUN_PAGES && page < region_pages; i++, page++) {
		look_at(r, page);
		if (random_next(state) % 3 == 0)
			change(r, page, random_next(state) | 1);
	}
}

static void map_anew(struct region *r)
{
	size_t bytes = region_pages * PAGE_BYTES;
	CHECK(!munmap(r->memory, bytes), "munmap");
	r->memory = map_pages(region_pages);
	memset(r->versions, 0, region_pages * sizeof(*r->versions));
}

static void move(struct region *r)
{
	size_t bytes = region_pages * PAGE_BYTES;
	uint64_t *place = map_pages(region_pages);
	CHECK(mremap(r->memory, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place, "mremap");
	r->memory = place;
}

static void discard(struct region *r, uint64_t *state)
{
	size_t first = random_next(state) % (region_pages / 2), nr = region_pages / 2;
	CHECK(!madvise(r->memory + first * PAGE_WORDS, nr * PAGE_BYTES, MADV_DONTNEED), "madvise");
	memset(r->versions + first, 0, nr * sizeof(*r->versions));
}

static void fork_and_look(struct region *regions, uint64_t *state)
{
	pid_t child = fork();
	int status;
	CHECK(child >= 0, "fork");
	if (!child) {
		for (int i = 0; i < CHILD_LOOKS; i++) {
			struct region *r = &regions[random_next(state) % NR_REGIONS];
			size_t page = random_next(state) % region_pages;
			look_at(r, page);
			if (i % 4 == 0)
				change(r, page, random_next(state) | 1);
		}
		_exit(0);
	}
	CHECK(waitpid(child, &status, 0) == child, "waitpid");
	if (WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL) /* for want of memory: there is a reason elsewhere */
		_exit(128 + SIGKILL);
	CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "child: %#x", (unsigned)status);
	score->nr_forks++;
}

static void do_something(struct region *regions, uint64_t *state)
{
	struct region *r = &regions[random_next(state) % NR_REGIONS];
	uint64_t what = random_next(state) % 64;
	if (what == 0)
		map_anew(r);
	else if (what == 1)
		move(r);
	else if (what == 2)
		discard(r, state);
	else if (what - 3 < nr_forks_of_64)
		fork_and_look(regions, state);
	else
		use(r, state);
}

static void *use_own(void *argument)
{
	struct region own = {map_pages(region_pages), map_bytes(region_pages * sizeof(uint64_t))};
	uint64_t state = 77;
	while (!__atomic_load_n(&score->stop, __ATOMIC_SEQ_CST))
		use(&own, &state);
	return NULL;
}

int main(int argc, char **argv)
{
	struct region regions[NR_REGIONS];
	uint64_t state = (uint64_t)getpid();
	pthread_t thread;
	if (argc < 3)
		return 2;
	int fd = open(argv[1], O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, sizeof(*score)), "%s", argv[1]);
	score = mmap(NULL, sizeof(*score), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	CHECK(score != MAP_FAILED, "mmap");
	if (argc > 3)
		nr_forks_of_64 = (uint64_t)atoi(argv[3]);
	region_pages = (size_t)atol(argv[2]) * MIB / PAGE_BYTES / (NR_REGIONS + 1);
	for (size_t i = 0; i < NR_REGIONS; i++) {
		regions[i] = (struct region){map_pages(region_pages), map_bytes(region_pages * sizeof(uint64_t))};
		for (size_t page = 0; page < region_pages; page++)
			change(&regions[i], page, random_next(&state) | 1);
	}
	CHECK(!pthread_create(&thread, NULL, use_own, NULL), "pthread_create");
	score->is_ready = 1;
	for (bool is_last = false; !is_last; score->nr_rounds++) {
		is_last = __atomic_load_n(&score->stop, __ATOMIC_SEQ_CST);
		do_something(regions, &state);
	}
	pthread_join(thread, NULL);
	for (size_t i = 0; i < NR_REGIONS; i++)
		for (size_t page = 0; page < region_pages; page++)
			look_at(&regions[i], page);
	CHECK(!score->nr_wrong, "%llu wrong words", (unsigned long long)score->nr_wrong);
	puts("right");
	return 0;
}
