/* x86_64 features; included by platform/cpu.c. Names as /proc/cpuinfo has them (Intel SDM and AMD APM, CPUID). */
#pragma once

#include <cpuid.h>

enum { LEAF_1_C, LEAF_7_B, LEAF_7_C, LEAF_7_D, LEAF_7_1_A, LEAF_7_1_D, LEAF_D_1_A, LEAF_AMD_C };

/* Not: what only the system itself can use, and what is done all the same where it is missing (prefetching, fast string moves). */
static const struct cpu_feature cpu_feature_names[] = {
	{LEAF_1_C, 0, "sse3"}, {LEAF_1_C, 1, "pclmulqdq"}, {LEAF_1_C, 9, "ssse3"}, {LEAF_1_C, 12, "fma"}, {LEAF_1_C, 13, "cx16"}, {LEAF_1_C, 19, "sse4_1"},
	{LEAF_1_C, 20, "sse4_2"}, {LEAF_1_C, 22, "movbe"}, {LEAF_1_C, 23, "popcnt"}, {LEAF_1_C, 25, "aes"}, {LEAF_1_C, 26, "xsave"}, {LEAF_1_C, 28, "avx"},
	{LEAF_1_C, 29, "f16c"}, {LEAF_1_C, 30, "rdrand"},
	{LEAF_7_B, 0, "fsgsbase"}, {LEAF_7_B, 3, "bmi1"}, {LEAF_7_B, 5, "avx2"}, {LEAF_7_B, 8, "bmi2"}, {LEAF_7_B, 11, "rtm"}, {LEAF_7_B, 16, "avx512f"},
	{LEAF_7_B, 17, "avx512dq"}, {LEAF_7_B, 18, "rdseed"}, {LEAF_7_B, 19, "adx"}, {LEAF_7_B, 21, "avx512ifma"}, {LEAF_7_B, 23, "clflushopt"},
	{LEAF_7_B, 24, "clwb"}, {LEAF_7_B, 28, "avx512cd"}, {LEAF_7_B, 29, "sha_ni"}, {LEAF_7_B, 30, "avx512bw"}, {LEAF_7_B, 31, "avx512vl"},
	{LEAF_7_C, 1, "avx512vbmi"}, {LEAF_7_C, 4, "ospke"}, {LEAF_7_C, 5, "waitpkg"}, {LEAF_7_C, 6, "avx512_vbmi2"}, {LEAF_7_C, 8, "gfni"},
	{LEAF_7_C, 9, "vaes"}, {LEAF_7_C, 10, "vpclmulqdq"}, {LEAF_7_C, 11, "avx512_vnni"}, {LEAF_7_C, 12, "avx512_bitalg"},
	{LEAF_7_C, 14, "avx512_vpopcntdq"}, {LEAF_7_C, 22, "rdpid"}, {LEAF_7_C, 27, "movdiri"}, {LEAF_7_C, 28, "movdir64b"},
	{LEAF_7_D, 8, "avx512_vp2intersect"}, {LEAF_7_D, 14, "serialize"}, {LEAF_7_D, 22, "amx_bf16"}, {LEAF_7_D, 23, "avx512_fp16"},
	{LEAF_7_D, 24, "amx_tile"}, {LEAF_7_D, 25, "amx_int8"},
	{LEAF_7_1_A, 0, "sha512"}, {LEAF_7_1_A, 1, "sm3"}, {LEAF_7_1_A, 2, "sm4"}, {LEAF_7_1_A, 4, "avx_vnni"}, {LEAF_7_1_A, 5, "avx512_bf16"},
	{LEAF_7_1_A, 21, "amx_fp16"}, {LEAF_7_1_A, 23, "avx_ifma"}, {LEAF_7_1_D, 4, "avx_vnni_int8"}, {LEAF_7_1_D, 5, "avx_ne_convert"},
	{LEAF_D_1_A, 0, "xsaveopt"}, {LEAF_D_1_A, 1, "xsavec"}, {LEAF_D_1_A, 2, "xgetbv1"},
	{LEAF_AMD_C, 0, "lahf_lm"}, {LEAF_AMD_C, 5, "abm"}, {LEAF_AMD_C, 6, "sse4a"}, {LEAF_AMD_C, 11, "xop"}, {LEAF_AMD_C, 16, "fma4"}, {LEAF_AMD_C, 21, "tbm"},
};

static inline void cpu_read_features(uint32_t words[CPU_WORDS])
{
	uint32_t most, most_amd, a, b, c, d;
	__cpuid(0, most, b, c, d);
	__cpuid(0x80000000u, most_amd, b, c, d);
	__cpuid(1, a, b, words[LEAF_1_C], d);
	if (most >= 7)
		__cpuid_count(7, 0, a, words[LEAF_7_B], words[LEAF_7_C], words[LEAF_7_D]);
	if (most >= 7 && a >= 1)
		__cpuid_count(7, 1, words[LEAF_7_1_A], b, c, words[LEAF_7_1_D]);
	if (most >= 0xd)
		__cpuid_count(0xd, 1, words[LEAF_D_1_A], b, c, d);
	if (most_amd >= 0x80000001u)
		__cpuid(0x80000001u, a, b, words[LEAF_AMD_C], d);
}

static inline uint32_t cpu_read_vector_offset(unsigned bit)
{
	uint32_t most, bytes, offset, c, d;
	__cpuid(0, most, offset, c, d);
	if (bit < 2 || most < 0xd)
		return 0;
	__cpuid_count(0xd, bit, bytes, offset, c, d);
	return bytes ? offset : 0;
}
