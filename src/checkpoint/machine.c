#include "checkpoint/machine.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/utsname.h>
#include <xxhash.h>

#include "base/cleanup.h"
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
	*ret = m;
	return m->architecture && m->kernel ? 0 : -ENOMEM;
}

int machine_check(const Image__Machine *saved, struct checkpoint_error *error)
{
	struct arena arena = {0};
	Image__Machine *here;
	int r = machine_describe(&arena, &here);
	if (r < 0)
		checkpoint_fail(error, r, "restore: %s", strerror(-r));
	else if (strcmp(saved->architecture, here->architecture))
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint is of a machine of kind %.40s, this one is %.40s", saved->architecture, here->architecture);
	else if (saved->vdso_checksum != here->vdso_checksum)
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint is of kernel %.80s, this one is %.80s", saved->kernel, here->kernel);
	else if (saved->xstate_features & ~here->xstate_features)
		r = checkpoint_fail(error, -ENOTSUP, "the checkpoint needs vector registers that this processor does not have (features %llx, here %llx)",
				    (unsigned long long)saved->xstate_features, (unsigned long long)here->xstate_features);
	arena_release(&arena);
	return r;
}
