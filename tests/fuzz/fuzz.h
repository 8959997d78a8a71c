/*
 * What the fuzzers share. They are linked with --wrap (meson.build), so that the functions under test are fuzzed as they are: a file that they open holds what
 * the fuzzer has made, and what they log goes nowhere.
 */
#pragma once

#include "base/types.h"

#define FUZZ_FILES_MAX 4

struct fuzz_file {
	const char *name; /* the end of the path by which it is opened; "" fits all */
	const void *data;
	size_t len;
	uint64_t bytes; /* of the file, with zeros behind the data; 0: len */
};

/* From now on. A path that fits none of them does not exist; nr 0: files are the real ones again. */
void fuzz_files_set(const struct fuzz_file *files, size_t nr);

/* What is printed is formatted and goes to /dev/null. */
void fuzz_be_quiet(void);

/* libFuzzer's interface. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerInitialize(int *argc, char ***argv);
