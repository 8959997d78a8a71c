#include "base/signals.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static int parse_number(const char *text)
{
	int number = strlen(text) <= 2 && strspn(text, "0123456789") == strlen(text) ? atoi(text) : 0;

	return number >= 1 && number <= SIGRTMAX ? number : -1;
}

int parse_signal(const char *text)
{
	const char *name = strncasecmp(text, "SIG", 3) ? text : text + 3;

	for (int number = 1; number < SIGRTMIN; number++) {
		const char *known = sigabbrev_np(number);

		if (known && !strcasecmp(known, name))
			return number;
	}
	return parse_number(text);
}
