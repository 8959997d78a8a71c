/*
 * zipf-get SOCKET NR_KEYS VALUE_BYTES NR_GETS: fills a redis server with keys and times GETs whose keys have a zipf distribution (exponent 0.99, the ranks
 * scattered over the keys), one at a time; checks every value; shuts the server down. Prints us_per_set=T us_per_get=T.
 */
#include <errno.h>
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { MAX_VALUE = 65536, PIPELINE = 64 };

static FILE *to_server, *from_server;
static char line[MAX_VALUE + 64];

static void fail(const char *what)
{
	fprintf(stderr, "zipf-get: %s: %s\n", what, errno ? strerror(errno) : "wrong answer");
	exit(1);
}

static double now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

static double random_unit(void)
{
	static uint64_t state;

	return (double)(mix(state++) >> 11) * 0x1p-53;
}

/* Printable, half of it random: it starts with the key's number. */
static void make_value(char *value, size_t size, size_t key)
{
	memset(value, 'x', size);
	for (size_t at = 0; at + 16 <= size / 2 || at == 0; at += 16) {
		char text[17];
		snprintf(text, sizeof(text), "%016llx", (unsigned long long)mix(key * 1000 + at));
		memcpy(value + at, text, 16);
	}
}

static void connect_to(const char *path)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX};
	int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	for (int i = 0; connect(s, (struct sockaddr *)&address, sizeof(address)) < 0; i++) {
		if (i == 600)
			fail(path);
		usleep(50000);
	}
	to_server = fdopen(s, "w");
	from_server = fdopen(dup(s), "r");
	if (!to_server || !from_server)
		fail("fdopen");
	errno = 0;
}

static void fill(size_t nr_keys, size_t size)
{
	char value[MAX_VALUE];

	for (size_t key = 0; key < nr_keys;) {
		size_t n = 0;
		for (; n < PIPELINE && key < nr_keys; n++, key++) {
			make_value(value, size, key);
			fprintf(to_server, "*3\r\n$3\r\nSET\r\n$10\r\nk%09zu\r\n$%zu\r\n", key, size);
			fwrite(value, 1, size, to_server);
			fputs("\r\n", to_server);
		}
		fflush(to_server);
		while (n--)
			if (!fgets(line, sizeof(line), from_server) || strcmp(line, "+OK\r\n"))
				fail("SET");
	}
}

static void get(size_t key, size_t size)
{
	char value[MAX_VALUE];

	fprintf(to_server, "*2\r\n$3\r\nGET\r\n$10\r\nk%09zu\r\n", key);
	fflush(to_server);
	make_value(value, size, key);
	if (!fgets(line, sizeof(line), from_server) || strtoul(line + 1, NULL, 10) != size || fread(line, 1, size + 2, from_server) != size + 2 ||
	    memcmp(line, value, size))
		fail("GET");
}

/* Where each rank ends, of all that is drawn. */
static double *zipf_table(size_t n)
{
	double *ends = malloc(n * sizeof(double)), sum = 0;

	if (!ends)
		fail("malloc");
	for (size_t i = 0; i < n; i++)
		ends[i] = sum += 1 / pow((double)(i + 1), 0.99);
	for (size_t i = 0; i < n; i++)
		ends[i] /= sum;
	return ends;
}

static size_t zipf_key(const double *ends, size_t n)
{
	double x = random_unit();
	size_t low = 0, high = n - 1;

	while (low < high) {
		size_t middle = (low + high) / 2;
		if (ends[middle] < x)
			low = middle + 1;
		else
			high = middle;
	}
	return mix(low) % n;
}

int main(int argc, char **argv)
{
	if (argc < 5) {
		fprintf(stderr, "usage: zipf-get SOCKET NR_KEYS VALUE_BYTES NR_GETS\n");
		return 2;
	}
	size_t nr_keys = (size_t)atol(argv[2]), size = (size_t)atol(argv[3]), nr_gets = (size_t)atol(argv[4]);
	if (!nr_keys || nr_keys > 999999999 || size < 16 || size > MAX_VALUE || !nr_gets) {
		fprintf(stderr, "zipf-get: numbers\n");
		return 2;
	}
	double *ends = zipf_table(nr_keys);
	connect_to(argv[1]);

	double start = now_us();
	fill(nr_keys, size);
	double set_us = (now_us() - start) / (double)nr_keys;
	start = now_us();
	for (size_t i = 0; i < nr_gets; i++)
		get(zipf_key(ends, nr_keys), size);
	double get_us = (now_us() - start) / (double)nr_gets;
	printf("us_per_set=%.3f us_per_get=%.3f\n", set_us, get_us);
	fputs("*2\r\n$8\r\nSHUTDOWN\r\n$6\r\nNOSAVE\r\n", to_server);
	fflush(to_server);
	fgetc(from_server); /* the server hangs up */
	return 0;
}
