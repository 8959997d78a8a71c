/*
 * random-memory-ops: random operations on a range of pages, each mirrored in a small model of what every page must hold.
 * usage: random-memory-ops SEED SECONDS SIZE_MB [THREADS=1]
 * The model is one word a page: 0 for a page of zeros, UNMAPPED, or the tag of its content. Threads work on ranges of their own but
 * share the address space, so that layout changes of one meet the evictions of the others. A failure names the seed and the step.
 */
#include <pthread.h>
#include <sys/wait.h>

#include "victim.h"

#define UNMAPPED UINT64_MAX

struct world {
	char *memory;
	uint64_t *model;
	size_t nr_pages;
	uint64_t seed, state, step, next_tag;
};

static double deadline;

/* While a range is moved away its place is a hole, and no other thread's mmap may take it. */
static pthread_mutex_t hole_lock = PTHREAD_MUTEX_INITIALIZER;

static char *page_of(struct world *w, size_t i)
{
	return w->memory + i * PAGE_BYTES;
}

static void check_page(struct world *w, size_t i, const char *what)
{
	char text[128];

	if (w->model[i] == UNMAPPED)
		return;
	snprintf(text, sizeof(text), "seed %llu step %llu page %zu, %s", (unsigned long long)w->seed, (unsigned long long)w->step, i, what);
	if (w->model[i])
		page_check(page_of(w, i), w->model[i], text);
	else
		pages_check_zero(page_of(w, i), 1, text);
}

static void range_choose(struct world *w, size_t *ret_first, size_t *ret_count)
{
	size_t most = random_next(&w->state) % 4 ? 64 : w->nr_pages / 4;
	size_t first = random_next(&w->state) % w->nr_pages, count = 1 + random_next(&w->state) % most;

	*ret_first = first;
	*ret_count = first + count > w->nr_pages ? w->nr_pages - first : count;
}

static void write_range(struct world *w, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++) {
		if (w->model[i] == UNMAPPED)
			continue;
		w->model[i] = w->next_tag++;
		page_fill(page_of(w, i), w->model[i]);
	}
}

static void read_range(struct world *w, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		check_page(w, i, "read");
}

static void set_model(struct world *w, size_t first, size_t count, uint64_t value, bool only_mapped)
{
	for (size_t i = first; i < first + count; i++)
		if (!only_mapped || w->model[i] != UNMAPPED)
			w->model[i] = value;
}

static void discard(struct world *w, size_t first, size_t count)
{
	CHECK(!madvise(page_of(w, first), count * PAGE_BYTES, MADV_DONTNEED) || errno == ENOMEM, "madvise");
	set_model(w, first, count, 0, true);
}

/* The place is kept by a mapping without rights, so that other threads' mappings do not come to lie there. */
static void unmap(struct world *w, size_t first, size_t count)
{
	CHECK(mmap(page_of(w, first), count * PAGE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) !=
	      MAP_FAILED, "mmap");
	set_model(w, first, count, UNMAPPED, false);
}

static void map_again(struct world *w, size_t first, size_t count)
{
	CHECK(mmap(page_of(w, first), count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED,
	      "mmap");
	set_model(w, first, count, 0, false);
}

/*
 * More than one mapping: a kernel that moves several at once moves those before the one that it refuses, so nothing is known of the range. On the way
 * back, too: what moved away as several mappings may be registered in part meanwhile, and those of a userfaultfd move alone.
 */
static void moved_in_part(struct world *w, size_t first, size_t count, char *place)
{
	CHECK(errno == EFAULT, "mremap");
	munmap(place, count * PAGE_BYTES);
	map_again(w, first, count);
}

static void move_away_and_back(struct world *w, size_t first, size_t count)
{
	size_t bytes = count * PAGE_BYTES;
	for (size_t i = first; i < first + count; i++)
		if (w->model[i] == UNMAPPED)
			map_again(w, i, 1);
	pthread_mutex_lock(&hole_lock);
	char *place = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(place != MAP_FAILED, "mmap");
	bool is_away = mremap(page_of(w, first), bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, place) == place;
	for (size_t i = 0; i < count && is_away; i += 7)
		if (w->model[first + i])
			page_check(place + i * PAGE_BYTES, w->model[first + i], "moved away");
	if (!is_away || mremap(place, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, page_of(w, first)) == MAP_FAILED)
		moved_in_part(w, first, count, place);
	pthread_mutex_unlock(&hole_lock);
}

static void protect_and_back(struct world *w, size_t first, size_t count)
{
	for (size_t i = first; i < first + count; i++)
		if (w->model[i] == UNMAPPED)
			return;
	CHECK(!mprotect(page_of(w, first), count * PAGE_BYTES, PROT_READ), "mprotect");
	read_range(w, first, count);
	CHECK(!mprotect(page_of(w, first), count * PAGE_BYTES, PROT_READ | PROT_WRITE), "mprotect");
}

static void fork_and_check(struct world *w, size_t first, size_t count)
{
	pid_t pid = fork();
	int status = 0;

	CHECK(pid >= 0, "fork");
	if (!pid) {
		read_range(w, first, count);
		write_range(w, first, count / 2);
		read_range(w, 0, w->nr_pages);
		_exit(0);
	}
	write_range(w, first, count / 3);
	CHECK(waitpid(pid, &status, 0) == pid && !status, "child ended with %#x", (unsigned)status);
	read_range(w, first, count);
}

static void through_kernel(struct world *w, size_t first, size_t count)
{
	int ends[2];

	if (w->model[first] == UNMAPPED || w->model[first + count - 1] == UNMAPPED)
		return;
	CHECK(!pipe(ends), "pipe");
	CHECK(write(ends[1], page_of(w, first), PAGE_BYTES) == (ssize_t)PAGE_BYTES, "write");
	CHECK(read(ends[0], page_of(w, first + count - 1), PAGE_BYTES) == (ssize_t)PAGE_BYTES, "read");
	w->model[first + count - 1] = w->model[first];
	close(ends[0]);
	close(ends[1]);
}

static void *run(void *argument)
{
	struct world *w = argument;
	size_t first, count;

	for (w->step = 0; now_seconds() < deadline; w->step++) {
		unsigned choice = (unsigned)(random_next(&w->state) % 100);
		range_choose(w, &first, &count);
		if (choice < 40)
			write_range(w, first, count);
		else if (choice < 70)
			read_range(w, first, count);
		else if (choice < 76)
			discard(w, first, count);
		else if (choice < 80)
			unmap(w, first, count);
		else if (choice < 86)
			map_again(w, first, count);
		else if (choice < 91)
			move_away_and_back(w, first, count);
		else if (choice < 95)
			protect_and_back(w, first, count);
		else if (choice < 99)
			through_kernel(w, first, count);
		else if (random_next(&w->state) % 4 == 0)
			fork_and_check(w, first, count);
	}
	read_range(w, 0, w->nr_pages);
	return NULL;
}

int main(int argc, char **argv)
{
	enum { MAX_THREADS = 16 };
	struct world worlds[MAX_THREADS];
	pthread_t threads[MAX_THREADS];

	if (argc < 4) {
		fprintf(stderr, "usage: random-memory-ops SEED SECONDS SIZE_MB [THREADS]\n");
		return 2;
	}
	size_t nr_threads = argc > 4 ? (size_t)atol(argv[4]) : 1;
	CHECK(nr_threads >= 1 && nr_threads <= MAX_THREADS, "numbers");
	deadline = now_seconds() + atof(argv[2]);
	for (size_t i = 0; i < nr_threads; i++) {
		struct world *w = &worlds[i];
		memset(w, 0, sizeof(*w));
		w->seed = strtoull(argv[1], NULL, 0);
		w->state = mix(w->seed) + i;
		w->next_tag = 1 + ((uint64_t)i << 40);
		w->nr_pages = (size_t)atol(argv[3]) * MIB / PAGE_BYTES / nr_threads;
		w->memory = map_pages(w->nr_pages);
		w->model = map_bytes(w->nr_pages * sizeof(uint64_t));
		CHECK(!pthread_create(&threads[i], NULL, run, w), "pthread_create");
	}
	uint64_t nr_steps = 0;
	for (size_t i = 0; i < nr_threads; i++) {
		pthread_join(threads[i], NULL);
		nr_steps += worlds[i].step;
	}
	fprintf(stderr, "steps=%llu\n", (unsigned long long)nr_steps);
	puts("right");
	return 0;
}
