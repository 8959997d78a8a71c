/* A sorted list of disjoint address ranges. Not thread-safe. */
#pragma once

#include "base/types.h"

struct range {
	remote_addr_t start, end;
};

struct range_list {
	struct range *items; /* ascending */
	uint32_t nr, capacity;
};

/* The range that addr lies in, or NULL. Valid until the list changes. */
const struct range *range_list_find(const struct range_list *list, remote_addr_t addr);

/* Takes [start, end) out: ranges are shortened, split or removed. false: no memory to split one; then all of it is removed. */
bool range_list_cut(struct range_list *list, remote_addr_t start, remote_addr_t end);

/* Puts [start, end) in as one range; what it covers of others is taken out of them. false: no memory, the list does not have it. */
bool range_list_put(struct range_list *list, remote_addr_t start, remote_addr_t end);

bool range_list_copy(struct range_list *to, const struct range_list *from); /* to is empty; false: no memory */
void range_list_release(struct range_list *list);
