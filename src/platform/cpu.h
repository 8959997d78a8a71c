/* What the processor can do that a running program may have found out and rely on. */
#pragma once

#include "base/types.h"

#define CPU_WORDS 8

/* Words whose meaning depends on the architecture; words that the processor does not have are 0. */
void cpu_features(uint32_t ret_words[CPU_WORDS]);

/* The name of one that `saved` has and `here` lacks, among those that programs use; NULL: there is none. Fewer words than CPU_WORDS: the rest is 0. Pure. */
const char *cpu_find_missing(const uint32_t *saved, size_t nr_saved, const uint32_t here[CPU_WORDS]);

/* Where the registers of that bit of regs_vector_features stand among a thread's saved registers, in bytes; 0: nowhere. */
uint32_t cpu_vector_offset(unsigned bit);
