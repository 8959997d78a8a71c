#include "checkpoint/first_pages.h"

#include <sys/mman.h>

#include "checkpoint/process/process.h"

bool pages_come_as_faults(const Image__Mapping *m)
{
	return m->kind == IMAGE__MAPPING__KIND__ANONYMOUS && m->flags & MAP_PRIVATE && m->protection == (PROT_READ | PROT_WRITE) && !m->locked;
}

static void note(struct first_pages *first, remote_addr_t page)
{
	for (size_t i = 0; i < first->nr; i++)
		if (first->pages[i] == page)
			return;
	if (first->nr < ARRAY_LEN(first->pages))
		first->pages[first->nr++] = page;
}

static int visit_record(remote_addr_t addr, void *context)
{
	struct first_pages *first = context;
	remote_addr_t page = page_floor(addr);
	if (page >= first->start && page < first->end)
		note(first, page);
	return first->nr == ARRAY_LEN(first->pages);
}

void first_pages_find(const Image__Process *message, const Image__Extent *extent, struct first_pages *ret)
{
	const Image__Memory *memory = message->memory;
	*ret = (struct first_pages){.start = extent->start, .end = extent->start + extent->nr_pages * PAGE_BYTES};
	threads_for_each_record(message, visit_record, ret);
	for (remote_addr_t page = page_floor(memory->arg_start); page < memory->env_end && ret->nr < ARRAY_LEN(ret->pages); page += PAGE_BYTES)
		visit_record(page, ret);
}

bool first_pages_have(const struct first_pages *first, remote_addr_t page)
{
	bool is_wanted = first->nr == ARRAY_LEN(first->pages);
	for (size_t i = 0; i < first->nr; i++)
		is_wanted |= first->pages[i] == page;
	return is_wanted;
}
