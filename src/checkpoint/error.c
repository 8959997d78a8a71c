#include "checkpoint/error.h"

#include <stdarg.h>
#include <stdio.h>

int checkpoint_fail(struct checkpoint_error *error, int code, const char *format, ...)
{
	va_list args;

	if (error->text[0])
		return code;
	va_start(args, format);
	vsnprintf(error->text, sizeof(error->text), format, args);
	va_end(args);
	return code;
}
