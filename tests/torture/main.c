/*
 * torture: random operations on memory, from threads and processes, everything that a program can do, each mirrored in a model (torture.h).
 * usage: torture SEED SECONDS SIZE_MB [THREADS=4 [PROCESSES=1 [FOLDER=.]]]
 * A failure names the seed, the step and the operation. The processes count together in shared memory.
 */
#include <stdatomic.h>
#include <sys/wait.h>

#include "torture.h"

#define MAX_THREADS 16
#define MAX_PROCESSES 64

struct plan {
	uint64_t seed;
	size_t size_mb, nr_threads, nr_processes;
	const char *folder;
};

/* Shared by all processes. */
struct common {
	_Atomic uint64_t steps, pages_absent;
};

static struct common *common;
static double deadline;

char *page_of(const struct area *a, size_t i)
{
	return a->memory + i * PAGE_BYTES;
}

struct range range_choose(struct area *a, size_t most)
{
	most = most ? most : a->nr_pages / 4;
	size_t first = random_next(&a->state) % a->nr_pages, count = 1 + random_next(&a->state) % most;
	return (struct range){first, first + count > a->nr_pages ? a->nr_pages - first : count};
}

bool is_mapped(const struct area *a, struct range range)
{
	for (size_t i = range.first; i < range.first + range.count; i++)
		if (a->model[i] == UNMAPPED)
			return false;
	return true;
}

static void check_page(const struct area *a, size_t i)
{
	char text[160];
	uint64_t tag = a->model[i];
	if (tag == UNMAPPED)
		return;
	snprintf(text, sizeof(text), "seed %llu step %llu thread %d page %zu, %s", (unsigned long long)a->seed,
		 (unsigned long long)a->step, a->thread, i, a->operation);
	if (tag & MAY_BE_ZERO && !*(volatile uint64_t *)page_of(a, i))
		tag = 0;
	if (tag)
		page_check(page_of(a, i), tag & ~MAY_BE_ZERO, text);
	else
		pages_check_zero(page_of(a, i), 1, text);
}

void read_range(struct area *a, struct range range)
{
	for (size_t i = range.first; i < range.first + range.count; i++)
		check_page(a, i);
}

void write_range(struct area *a, struct range range)
{
	for (size_t i = range.first; i < range.first + range.count; i++) {
		if (a->model[i] == UNMAPPED)
			continue;
		a->model[i] = a->next_tag++;
		page_fill(page_of(a, i), a->model[i]);
	}
}

void map_again(struct area *a, struct range range)
{
	void *at = page_of(a, range.first);
	CHECK(mmap(at, range.count * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		   0) == at,
	      "mmap");
	for (size_t i = range.first; i < range.first + range.count; i++)
		a->model[i] = 0;
}

void map_holes(struct area *a, struct range range)
{
	for (size_t i = range.first; i < range.first + range.count; i++)
		if (a->model[i] == UNMAPPED)
			map_again(a, (struct range){i, 1});
}

void set_zero(struct area *a, struct range range)
{
	for (size_t i = range.first; i < range.first + range.count; i++)
		if (a->model[i] != UNMAPPED)
			a->model[i] = 0;
}

void wait_for_child(pid_t pid, int wanted_status)
{
	int status = 0;
	pid_t waited;
	do
		waited = waitpid(pid, &status, 0);
	while (waited < 0 && errno == EINTR);
	CHECK(waited == pid && (status & ~0x80) == wanted_status, "child ended with %#x, not %#x", (unsigned)status,
	      (unsigned)wanted_status);
}

static const struct operation *choose_operation(struct area *a)
{
	static const struct operation *const tables[] = {layout_operations, kernel_operations, task_operations};
	unsigned total = 0;
	for (size_t t = 0; t < 3; t++)
		for (const struct operation *op = tables[t]; op->name; op++)
			total += op->weight;
	unsigned lot = (unsigned)(random_next(&a->state) % total);
	for (size_t t = 0; t < 3; t++)
		for (const struct operation *op = tables[t]; op->name; lot -= op->weight, op++)
			if (lot < op->weight)
				return op;
	abort();
}

static void *work(void *argument)
{
	struct area *a = argument;
	for (a->step = 0; now_seconds() < deadline; a->step++) {
		const struct operation *operation = choose_operation(a);
		a->operation = operation->name;
		operation->run(a, range_choose(a, operation->most));
		if (a->step % 256 == 0)
			a->absent += pages_absent(a->memory, a->nr_pages);
	}
	a->operation = "at the end";
	read_range(a, (struct range){0, a->nr_pages});
	atomic_fetch_add(&common->steps, a->step);
	atomic_fetch_add(&common->pages_absent, a->absent);
	return NULL;
}

static void *map_area(size_t number, size_t nr_pages)
{
	void *at = (void *)(uintptr_t)(AREAS_START + number * AREA_SPACING);
	void *memory = mmap(at, nr_pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	CHECK(memory == at, "an area");
	return memory;
}

static int open_file(const char *folder)
{
	int fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC | O_DIRECT, 0600);
	if (fd < 0)
		fd = open(folder, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && !ftruncate(fd, (off_t)(FILE_PAGES * PAGE_BYTES)), "a file in %s", folder);
	return fd;
}

static void work_process(const struct plan *plan, size_t process)
{
	static struct area areas[MAX_THREADS];
	pthread_t threads[MAX_THREADS];
	for (size_t i = 0; i < plan->nr_threads; i++) {
		size_t number = process * plan->nr_threads + i,
		       nr_pages = plan->size_mb * MIB / PAGE_BYTES / plan->nr_threads / plan->nr_processes;
		areas[i] = (struct area){.nr_pages = nr_pages,
					 .seed = plan->seed,
					 .state = mix(plan->seed) + number,
					 .next_tag = 1 + ((uint64_t)number << 40),
					 .thread = (int)number,
					 .file = open_file(plan->folder),
					 .memory = map_area(number, nr_pages),
					 .model = map_bytes(nr_pages * sizeof(uint64_t))};
	}
	for (size_t i = 0; i < plan->nr_threads; i++)
		CHECK(!pthread_create(&threads[i], NULL, work, &areas[i]), "pthread_create");
	for (size_t i = 0; i < plan->nr_threads; i++)
		CHECK(!pthread_join(threads[i], NULL), "pthread_join");
}

int main(int argc, char **argv)
{
	if (argc < 4) {
		fprintf(stderr, "usage: torture SEED SECONDS SIZE_MB [THREADS [PROCESSES [FOLDER]]]\n");
		return 2;
	}
	struct plan plan = {.seed = strtoull(argv[1], NULL, 0),
			    .size_mb = (size_t)atol(argv[3]),
			    .nr_threads = argc > 4 ? (size_t)atol(argv[4]) : 4,
			    .nr_processes = argc > 5 ? (size_t)atol(argv[5]) : 1,
			    .folder = argc > 6 ? argv[6] : "."};
	pid_t children[MAX_PROCESSES];
	CHECK(plan.nr_threads >= 1 && plan.nr_threads <= MAX_THREADS && plan.nr_processes >= 1 &&
		      plan.nr_processes <= MAX_PROCESSES,
	      "numbers");
	deadline = now_seconds() + atof(argv[2]);
	common = mmap(NULL, sizeof(*common), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(common != MAP_FAILED, "mmap");
	for (size_t i = 1; i < plan.nr_processes; i++) {
		children[i] = fork();
		CHECK(children[i] >= 0, "fork");
		if (!children[i]) {
			work_process(&plan, i);
			_exit(0);
		}
	}
	work_process(&plan, 0);
	for (size_t i = 1; i < plan.nr_processes; i++)
		wait_for_child(children[i], 0);
	fprintf(stderr, "steps=%llu pages_absent=%llu\n", (unsigned long long)common->steps,
		(unsigned long long)common->pages_absent);
	puts("right");
	return 0;
}
