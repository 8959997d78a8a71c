/* aarch64 features; included by platform/cpu.c. The kernel says which there are. */
#pragma once

#include <sys/auxv.h>

static const struct cpu_feature cpu_feature_names[] = {
	{0, 3, "aes"}, {0, 4, "pmull"}, {0, 5, "sha1"}, {0, 6, "sha2"}, {0, 7, "crc32"}, {0, 8, "atomics"}, {0, 9, "fphp"}, {0, 10, "asimdhp"},
	{0, 12, "asimdrdm"}, {0, 13, "jscvt"}, {0, 14, "fcma"}, {0, 15, "lrcpc"}, {0, 16, "dcpop"}, {0, 17, "sha3"}, {0, 20, "asimddp"},
	{0, 21, "sha512"}, {0, 22, "sve"}, {0, 23, "asimdfhm"}, {0, 26, "ilrcpc"}, {0, 27, "flagm"}, {0, 29, "sb"}, {0, 30, "paca"}, {0, 31, "pacg"},
	{2, 1, "sve2"}, {2, 13, "i8mm"}, {2, 14, "bf16"}, {2, 16, "rng"}, {2, 17, "bti"}, {2, 18, "mte"}, {2, 23, "sme"}, {3, 11, "mops"},
};

static inline void cpu_read_features(uint32_t words[CPU_WORDS])
{
	uint64_t first = getauxval(AT_HWCAP), second = getauxval(AT_HWCAP2);
	words[0] = (uint32_t)first;
	words[1] = (uint32_t)(first >> 32);
	words[2] = (uint32_t)second;
	words[3] = (uint32_t)(second >> 32);
}

static inline uint32_t cpu_read_vector_offset(unsigned bit)
{
	(void)bit;
	return 0;
}
