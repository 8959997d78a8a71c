/* Which pages of a checkpoint have to be there when its processes are made, and which come as faults once they run. Pure. */
#pragma once

#include "base/types.h"
#include "checkpoint/image.pb-c.h"

/* Of an extent: those that the kernel itself reads, thread records and arguments. When they are many, all of it. */
struct first_pages {
	remote_addr_t start, end; /* of the extent */
	remote_addr_t pages[64];
	size_t nr;
};

/* Of a mapping of which this is false every page is one of the first. As pager/registration.c chooses: private anonymous memory that can be read and written. */
bool pages_come_as_faults(const Image__Mapping *m);

void first_pages_find(const Image__Process *message, const Image__Extent *extent, struct first_pages *ret);
bool first_pages_have(const struct first_pages *first, remote_addr_t page);
