#include "pager/preference.h"

#include <string.h>

#include "base/log.h"

/* Races: who reads while the words change has seen an older seq, and reads again. */
void preference_set(struct preference *preference, const struct node_set *nodes)
{
	for (size_t i = 0; i < ARRAY_LEN(nodes->words); i++)
		atomic_store(&preference->words[i], nodes->words[i]);
	atomic_fetch_add(&preference->seq, 1);
}

uint32_t preference_follow(const struct preference *preference)
{
	static _Thread_local uint32_t seen;
	uint32_t seq = atomic_load_explicit(&preference->seq, memory_order_acquire);
	if (__builtin_expect(seq == seen, 1))
		return seen;
	struct node_set nodes;
	for (size_t i = 0; i < ARRAY_LEN(nodes.words); i++)
		nodes.words[i] = atomic_load(&preference->words[i]);
	int r = numa_prefer(&nodes);
	if (r < 0)
		log_debug("keeper: memory policy: %s", strerror(-r));
	return seen = seq;
}
