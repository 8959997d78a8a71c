#include "checkpoint/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>

#include "base/cleanup.h"
#include "base/xxh3.h"
#include "platform/cpu.h"
#include "platform/regs.h"

/* Its code is mapped into every process, this one too. */
static uint64_t vdso_checksum(void)
{
	_cleanup_fclose_ FILE *maps = fopen("/proc/self/maps", "re");
	char line[256];
	while (maps && fgets(line, sizeof(line), maps)) {
		unsigned long start, end;
		if (strstr(line, "[vdso]") && sscanf(line, "%lx-%lx", &start, &end) == 2)
			return XXH3_64bits((const void *)start, end - start);
	}
	return 0;
}

/* The bits of XCR0 whose registers have no fixed place. */
static int describe_vectors(struct arena *arena, Image__Machine *m)
{
	for (unsigned bit = 2; bit < 64; bit++) {
		if (!(m->xstate_features >> bit & 1))
			continue;
		uint32_t *offset = arena_grow(arena, &m->vector_offsets, m->n_vector_offsets, sizeof(*offset));
		if (!offset)
			return -ENOMEM;
		*offset = cpu_vector_offset(bit);
		m->n_vector_offsets++;
	}
	return 0;
}

int machine_describe(struct arena *arena, Image__Machine **ret)
{
	struct utsname name;
	Image__Machine *m = arena_alloc(arena, sizeof(*m));
	if (!m || uname(&name) < 0)
		return -ENOMEM;
	image__machine__init(m);
	m->architecture = arena_strdup(arena, name.machine);
	m->kernel = arena_strdup(arena, name.release);
	m->vdso_checksum = vdso_checksum();
	m->xstate_features = regs_vector_features();
	m->features = arena_alloc(arena, CPU_WORDS * sizeof(*m->features));
	if (!m->architecture || !m->kernel || !m->features || describe_vectors(arena, m) < 0)
		return -ENOMEM;
	cpu_features(m->features);
	m->n_features = CPU_WORDS;
	*ret = m;
	return 0;
}

/* An image of an earlier membox does not say. */
static bool has_vectors_elsewhere(const Image__Machine *saved)
{
	size_t i = 0;
	for (unsigned bit = 2; bit < 64 && i < saved->n_vector_offsets; bit++)
		if (saved->xstate_features >> bit & 1 && saved->vector_offsets[i++] != cpu_vector_offset(bit))
			return true;
	return false;
}

int machine_check(const Image__Machine *saved, struct checkpoint_error *error)
{
	struct arena arena = {0};
	Image__Machine *here;
	const char *missing = NULL;
	int r = machine_describe(&arena, &here);
	if (r == 0)
		missing = cpu_find_missing(saved->features, saved->n_features, here->features);
	if (r < 0)
		checkpoint_fail(error, r, "restore: %s", strerror(-r));
	else if (strcmp(saved->architecture, here->architecture))
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint is of a machine of kind %.40s, this one is %.40s", saved->architecture, here->architecture);
	else if (saved->vdso_checksum != here->vdso_checksum)
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint is of kernel %.80s, this one is %.80s", saved->kernel, here->kernel);
	else if (saved->xstate_features & ~here->xstate_features)
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint needs vector registers that this processor does not have (features %llx, here %llx)",
				    (unsigned long long)saved->xstate_features, (unsigned long long)here->xstate_features);
	else if (missing)
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint is of a processor that can do what this one cannot, which its programs may have found out: %s", missing);
	else if (has_vectors_elsewhere(saved))
		r = checkpoint_fail(error, -ENOTSUP, "the processor of the checkpoint saves vector registers in another order than this one");
	arena_release(&arena);
	return r;
}
