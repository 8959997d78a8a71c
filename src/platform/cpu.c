#include "platform/cpu.h"

#include <string.h>

struct cpu_feature {
	unsigned char word, bit;
	const char *name;
};

#if defined(__x86_64__)
#include "platform/arch/x86_64/cpu.h"
#elif defined(__aarch64__)
#include "platform/arch/aarch64/cpu.h"
#else
#error "membox knows x86_64 and aarch64"
#endif

void cpu_features(uint32_t ret_words[CPU_WORDS])
{
	memset(ret_words, 0, CPU_WORDS * sizeof(*ret_words));
	cpu_read_features(ret_words);
}

const char *cpu_find_missing(const uint32_t *saved, size_t nr_saved, const uint32_t here[CPU_WORDS])
{
	for (size_t i = 0; i < ARRAY_LEN(cpu_feature_names); i++) {
		const struct cpu_feature *f = &cpu_feature_names[i];
		if (f->word < nr_saved && saved[f->word] >> f->bit & 1 && !(here[f->word] >> f->bit & 1))
			return f->name;
	}
	return NULL;
}

uint32_t cpu_vector_offset(unsigned bit)
{
	return cpu_read_vector_offset(bit);
}
