/* A recorded trace, which may come from somebody else, as the simulator reads it. */
#include "fuzz.h"
#include "workload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct fuzz_file file = {.name = "", .data = data, .len = size};
	struct workload workload;
	fuzz_files_set(&file, 1);
	if (workload_read_trace("/trace", &workload) == 0)
		workload_release(&workload);
	fuzz_files_set(NULL, 0);
	return 0;
}
