/*
 * pretend-membox: what `membox upgrade` may be given instead of a membox. Its own file name says what it does when a keeper asks it (checkpoint/upgrade.h), and
 * ends with the format that it claims to take over: WHAT-FORMAT.
 *   ends      says nothing
 *   crashes   when it is given the state
 *   hangs     the same
 *   refuses   the same, with a reason
 *   babbles   without end
 *   dies      says yes, and ends when it is to take over
 */
#include <stdbool.h>

#include "victim.h"

static bool is(const char *name, const char *what)
{
	return !strncmp(name, what, strlen(what));
}

static int answer_state(const char *name)
{
	if (is(name, "crashes"))
		abort();
	while (is(name, "hangs"))
		pause();
	puts(is(name, "refuses") ? "no it does not like it" : "ok");
	return 0;
}

int main(int argc, char **argv)
{
	char path[4096];
	ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
	path[n > 0 ? n : 0] = '\0';
	const char *name = strrchr(path, '/'), *format = strrchr(path, '-');

	if (!name || !format || argc < 3 || strcmp(argv[2], "--check"))
		return 3;
	name++;
	if (is(name, "ends"))
		return 1;
	while (is(name, "babbles"))
		puts("takes over and over");
	if (argc > 3)
		return answer_state(name);
	printf("takes over %s\n", format + 1);
	return 0;
}
