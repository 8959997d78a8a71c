#include "policy.h"

#include <errno.h>
#include <stdlib.h>

int policy_run(const struct policy *policy, const struct workload *workload, uint32_t memory, struct outcome *ret)
{
	bool *seen = calloc(workload->nr_pages, sizeof(*seen));
	void *state = policy->create(workload, memory);
	struct outcome outcome = {0};
	if (!seen || !state) {
		free(seen);
		if (state)
			policy->destroy(state);
		return -ENOMEM;
	}
	for (uint64_t i = 0; i < workload->nr_accesses; i++) {
		struct access access = workload->access[i];
		bool hit = policy->access(state, access);
		outcome.hits += seen[access.page] && hit;
		outcome.misses += seen[access.page] && !hit;
		seen[access.page] = true;
	}
	policy->destroy(state);
	free(seen);
	*ret = outcome;
	return 0;
}
