/*
 * move-to-and-fro: reads stretches of its memory in order, and after each moves all of it from one place to another and back, again and again, while what comes next is
 * being read ahead.
 * usage: move-to-and-fro TOTAL_MB SECONDS
 */
#include "victim.h"

#define NR_MOVES 100
#define STRETCH_PAGES 600

int main(int argc, char **argv)
{
	size_t pages = argc > 2 ? (size_t)atol(argv[1]) * MIB / PAGE_BYTES : 0, bytes = pages * PAGE_BYTES;
	uint64_t state = 1;
	if (pages < STRETCH_PAGES) {
		fprintf(stderr, "usage: move-to-and-fro TOTAL_MB SECONDS\n");
		return 2;
	}
	char *at = map_pages(pages), *to = map_pages(pages);
	pages_fill(at, pages, 1);
	for (double end = now_seconds() + atof(argv[2]); now_seconds() < end;) {
		size_t first = random_next(&state) % (pages - STRETCH_PAGES);
		pages_check(at + first * PAGE_BYTES, STRETCH_PAGES, 1 + first, "a stretch");
		for (int i = 0; i < NR_MOVES; i++) {
			char *from = at;
			CHECK(mremap(from, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to, "mremap");
			at = to;
			to = from;
		}
	}
	pages_check(at, pages, 1, "at the end");
	puts("right");
	return 0;
}
