/*
 * pin-evicted: memory that the kernel holds on to: mlock of evicted and of new pages, O_DIRECT into and out of evicted buffers with
 * eviction going on meanwhile, a pipe that holds pages of the program (vmsplice).
 * usage: pin-evicted mlock|direct|vmsplice
 */
#include <pthread.h>
#include <sys/resource.h>
#include <sys/uio.h>

#include "victim.h"

enum { NR = 256 };

static void lock_pages(void)
{
	char *memory = map_pages(NR);

	pages_fill(memory, NR, 1);
	evict(memory, NR);
	if (mlock(memory, NR * PAGE_BYTES))
		victim_skip("mlock of 1 MiB is not allowed (RLIMIT_MEMLOCK)");
	CHECK(pages_absent(memory, NR) == 0, "a locked page is not resident");
	pages_check(memory, NR, 1, "locked");
	for (int i = 0; i < 3; i++)
		memory_press();
	CHECK(pages_absent(memory, NR) == 0, "a locked page was evicted");
	pages_check(memory, NR, 1, "locked, after pressure");
	CHECK(!munlock(memory, NR * PAGE_BYTES), "munlock");
	pages_fill(memory, NR, 2);
	evict(memory, NR);
	pages_check(memory, NR, 2, "unlocked");
}

static _Atomic bool is_over;

static void *press_on(void *argument)
{
	while (!is_over)
		memory_press();
	return NULL;
}

static void direct(void)
{
	char path[] = "victim-XXXXXX";
	int plain = mkstemp(path);
	pthread_t presser;

	CHECK(plain >= 0, "mkstemp");
	int fd = open(path, O_RDWR | O_DIRECT | O_CLOEXEC);
	unlink(path);
	if (fd < 0)
		victim_skip("the file system has no O_DIRECT");
	char *out = map_pages(NR), *in = map_pages(NR);
	pages_fill(out, NR, 10);
	pages_fill(in, NR, 11);
	evict(out, NR);
	CHECK(!pthread_create(&presser, NULL, press_on, NULL), "pthread_create");
	const ssize_t bytes = NR * (ssize_t)PAGE_BYTES;
	double until = now_seconds() + 3;
	for (uint64_t round = 0; now_seconds() < until; round++) {
		uint64_t tag = 1000 * round;
		pages_fill(out, NR, tag);
		if (round % 8 == 0)
			sleep_ms(50);
		CHECK(pwrite(fd, out, (size_t)bytes, 0) == bytes, "write with O_DIRECT");
		CHECK(pread(fd, in, (size_t)bytes, 0) == bytes, "read with O_DIRECT");
		pages_check(in, NR, tag, "read with O_DIRECT");
		pages_check(out, NR, tag, "written with O_DIRECT");
		victim_evicted_pages += pages_absent(in, NR);
	}
	is_over = true;
	pthread_join(presser, NULL);
	close(plain);
	close(fd);
}

static void splice_pages(void)
{
	int ends[2];
	char *memory = map_pages(16), *in = map_pages(16);

	CHECK(!pipe(ends), "pipe");
	pages_fill(memory, 16, 20);
	evict(memory, 16);
	struct iovec part = { memory, 8 * PAGE_BYTES };
	CHECK(vmsplice(ends[1], &part, 1, 0) == 8 * (ssize_t)PAGE_BYTES, "vmsplice");
	memory_press();
	memory_press();
	CHECK(read(ends[0], in, 8 * PAGE_BYTES) == 8 * (ssize_t)PAGE_BYTES, "read");
	pages_check(in, 8, 20, "through vmsplice");
	pages_check(memory, 16, 20, "after vmsplice");
}

int main(int argc, char **argv)
{
	const char *what = argc > 1 ? argv[1] : "";

	if (!strcmp(what, "mlock"))
		lock_pages();
	else if (!strcmp(what, "direct"))
		direct();
	else if (!strcmp(what, "vmsplice"))
		splice_pages();
	else
		return 2;
	victim_report();
	puts("right");
	return 0;
}
