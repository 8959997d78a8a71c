/*
 * hold-memory: fills memory, says "ready", waits for the end of its standard input, verifies, ends with a chosen status.
 * usage: hold-memory SIZE_MB [STATUS=0]
 */
#include "victim.h"

int main(int argc, char **argv)
{
	char byte;

	if (argc < 2) {
		fprintf(stderr, "usage: hold-memory SIZE_MB [STATUS]\n");
		return 2;
	}
	size_t nr_pages = (size_t)atol(argv[1]) * MIB / PAGE_BYTES;
	char *memory = map_pages(nr_pages);
	pages_fill(memory, nr_pages, 42);
	puts("ready");
	fflush(stdout);
	while (read(STDIN_FILENO, &byte, 1) > 0)
		;
	pages_check(memory, nr_pages, 42, "held memory");
	puts("right");
	return argc > 2 ? atoi(argv[2]) : 0;
}
