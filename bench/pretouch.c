/*
 * pretouch SIZE_MB: touches and frees memory. A virtual machine that reports its free pages gives them back to the host, and their first
 * touch later costs several times as much; run before a measurement, this makes both sides of a comparison start alike.
 */
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

int main(int argc, char **argv)
{
	size_t size = (size_t)(argc > 1 ? atol(argv[1]) : 1024) << 20;
	char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED) {
		perror("pretouch: mmap");
		return 1;
	}
	madvise(memory, size, MADV_NOHUGEPAGE);
	for (size_t at = 0; at < size; at += 4096)
		*(volatile char *)(memory + at) = 1;
	return 0;
}
