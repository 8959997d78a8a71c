/*
 * Touches a little of a very large mapping, here and there, and checks it when it is told to.
 *
 *   touch-sparse GIB MIB RUN FILE    MIB of GIB, in runs of RUN pages. "ready" on stdout; when FILE exists all is checked and "right" is said; when FILE2 exists it ends.
 */
#include "victim.h"

struct sparse {
	char *memory;
	size_t nr_runs, run_pages, stride; /* bytes: each run lies somewhere in a stride of its own */
};

static char *place_of(const struct sparse *s, size_t i)
{
	size_t room = s->stride / PAGE_BYTES - s->run_pages;

	return s->memory + i * s->stride + mix(i) % room * PAGE_BYTES;
}

static void wait_for(const char *path, const char *more)
{
	char name[4096];

	snprintf(name, sizeof(name), "%s%s", path, more);
	while (access(name, F_OK) < 0)
		sleep_ms(2);
}

static void say(const char *what)
{
	puts(what);
	fflush(stdout);
}

int main(int argc, char **argv)
{
	if (argc != 5)
		victim_skip("usage: touch-sparse GIB MIB RUN FILE");
	size_t bytes = (size_t)atol(argv[1]) << 30;
	struct sparse s = { .run_pages = (size_t)atol(argv[3]) };

	s.nr_runs = (size_t)atol(argv[2]) * MIB / PAGE_BYTES / s.run_pages;
	s.stride = bytes / s.nr_runs / PAGE_BYTES * PAGE_BYTES;
	s.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (s.memory == MAP_FAILED)
		victim_skip("this machine does not map that much");
	madvise(s.memory, bytes, MADV_NOHUGEPAGE);
	for (size_t i = 0; i < s.nr_runs; i++)
		pages_fill(place_of(&s, i), s.run_pages, i * s.run_pages);
	say("ready");
	wait_for(argv[4], "");
	for (size_t i = 0; i < s.nr_runs; i++)
		pages_check(place_of(&s, i), s.run_pages, i * s.run_pages, "sparse");
	say("right");
	wait_for(argv[4], "2");
	return 0;
}
