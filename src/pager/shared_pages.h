/*
 * Pages that several processes share since a fork. UFFDIO_MOVE takes only a page of one process, and eviction from one of the sharers frees nothing, so
 * such pages leave all of them together: one process after the other gets a copy of its own, which leaves it; the last one needs no copy. The
 * content is stored once (writeback.c). Memory grows by a batch meanwhile, and is smaller by one in the end.
 */
#pragma once

#include "pager/address_space.h"

/*
 * Evicts what is shared of the BATCH_PAGES pages from start, from each of the address spaces that shares it. Returns the pages freed, 0 when
 * somebody else, who cannot be reached, holds them too. Reclaim thread only; takes agent and layout locks, one space at a time.
 */
uint64_t shared_pages_evict(struct address_space **spaces, uint32_t nr, remote_addr_t start);
