#include "cli/text.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void print_safely(const char *text, int width)
{
	int columns = 0;

	for (const char *p = text ? text : "-"; *p; p++) {
		unsigned char c = (unsigned char)*p;

		putchar(c < ' ' || c == 0x7f ? '?' : c);
		columns += (c & 0xc0) != 0x80; /* UTF-8: one for each character */
	}
	if (columns < width)
		printf("%*s", width - columns, "");
}

void print_command(json_object *command)
{
	for (size_t i = 0; i < (command ? json_object_array_length(command) : 0); i++) {
		if (i)
			putchar(' ');
		print_safely(json_object_get_string(json_object_array_get_idx(command, i)), 0);
	}
}

const char *format_limit(uint64_t bytes, char buffer[SIZE_TEXT_MAX])
{
	if (bytes < (uint64_t)1 << 60)
		return format_size_short(bytes, buffer);
	snprintf(buffer, SIZE_TEXT_MAX, "none");
	return buffer;
}

const char *format_age(uint64_t since, char buffer[AGE_TEXT_MAX])
{
	uint64_t now = (uint64_t)time(NULL), s = now > since ? now - since : 0;

	if (s < 60)
		snprintf(buffer, AGE_TEXT_MAX, "%" PRIu64 "s", s);
	else if (s < 3600)
		snprintf(buffer, AGE_TEXT_MAX, "%" PRIu64 "m %" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(buffer, AGE_TEXT_MAX, "%" PRIu64 "h %" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(buffer, AGE_TEXT_MAX, "%" PRIu64 "d %" PRIu64 "h", s / 86400, s / 3600 % 24);
	return buffer;
}
