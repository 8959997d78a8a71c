#include "pager/shared_pages.h"

#include <stdlib.h>

#include "pager/evict.h"

/*
 * Races: between the look and the eviction a process may write to a page (then it has its own copy, which leaves), fork (then MOVE refuses, and the
 * page stays), or give it back (then it is not present). What a sharer that joined meanwhile holds stays until its turn comes.
 */
uint64_t shared_pages_evict(struct address_space **spaces, uint32_t nr, remote_addr_t start)
{
	struct page_set *sets = calloc(nr, sizeof(*sets));
	int64_t freed = 0;
	if (!sets)
		return 0;
	for (uint32_t i = 0; i < nr; i++) {
		sets[i].start = start;
		if (atomic_load(&spaces[i]->leaves) || !evict_find_shared(spaces[i], &sets[i]))
			sets[i].start = 0;
	}
	for (uint32_t i = 0; i < nr; i++)
		if (sets[i].start)
			freed += evict_shared(spaces[i], &sets[i]);
	free(sets);
	return freed > 0 ? (uint64_t)freed : 0;
}
