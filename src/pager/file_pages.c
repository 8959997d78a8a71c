#include "pager/file_pages.h"

#include <errno.h>
#include <string.h>

#include "platform/pagemap.h"

/* Collects runs of pages until a request to the agent is full. */
struct drop {
	struct address_space *as;
	struct agent_op ops[AGENT_MAX_OPS];
	uint32_t nr_ops;
	int64_t pages;
};

bool file_pages_are_in(const struct mapping *m)
{
	return m->inode && m->name[0] == '/' && strncmp(m->name, "/dev/", 5) && strncmp(m->name, "/memfd:", 7) &&
	       strncmp(m->name, "/SYSV", 5);
}

static int flush(struct drop *drop)
{
	int r = drop->nr_ops ? agent_execute(drop->as->agent, drop->ops, drop->nr_ops) : 0;
	for (uint32_t i = 0; r == 0 && i < drop->nr_ops; i++)
		drop->pages += drop->ops[i].result == 0 ? (int64_t)(drop->ops[i].len / PAGE_BYTES) : 0;
	drop->nr_ops = 0;
	return r;
}

static int drop_mapping(const struct mapping *m, void *context)
{
	struct drop *drop = context;
	struct page_run runs[64];
	struct pagemap_query query = {.start = m->start,
				      .end = MIN_OF(m->end, ADDRESS_END),
				      .require = PAGE_PRESENT | PAGE_FILE,
				      .report = PAGE_PRESENT | PAGE_FILE};
	while (file_pages_are_in(m) && query.start < query.end) {
		int n = pagemap_scan(drop->as->pagemap, &query, runs, ARRAY_LEN(runs), &query.start);
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			int r = drop->nr_ops == AGENT_MAX_OPS ? flush(drop) : 0;
			if (r < 0)
				return r;
			drop->ops[drop->nr_ops++] = (struct agent_op){
				.opcode = AGENT_DISCARD, .dst = runs[i].start, .len = runs[i].end - runs[i].start};
		}
	}
	return 0;
}

int64_t file_pages_drop(struct address_space *as)
{
	static _Thread_local struct drop drop;
	int r = -ESRCH;
	lock_take(&as->agent_lock);
	if (as->agent && as->pagemap >= 0 && !atomic_load(&as->dead)) {
		drop = (struct drop){.as = as};
		r = maps_for_each(as->pid, drop_mapping, &drop);
		if (r == 0)
			r = flush(&drop);
	}
	lock_drop(&as->agent_lock);
	return r < 0 ? r : drop.pages;
}
