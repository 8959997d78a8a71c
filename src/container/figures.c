/* The figures of `stat` and --stats that are not counted where they happen. Container thread. */
#include "base/monotonic.h"
#include "container/container.h"
#include "platform/process.h"

/* One that has ended and is not waited for yet has no memory and is no process any more. */
static uint64_t count_processes(const struct members *members)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < members->nr; i++) {
		const struct member *member = &members->items[i];
		n += member->resident || (member->pidfd >= 0 && !pidfd_has_exited(member->pidfd));
	}
	return n;
}

void container_publish_usage(struct container *c)
{
	uint64_t usage = c->members.resident << PAGE_SHIFT, file = MIN_OF(c->members.file << PAGE_SHIFT, usage);
	uint64_t certain = usage - MIN_OF(c->members.doubt << PAGE_SHIFT, usage);
	uint64_t pool = (charge_held(&c->charge, CHARGE_POOL) + charge_held(&c->charge, CHARGE_BATCHES)) << PAGE_SHIFT;
	stat_set(&c->stats, rss_usage, usage + pool);
	stat_set(&c->stats, pool, pool);
	stat_set(&c->stats, file, file);
	stat_set(&c->stats, anon, usage - file);
	stat_set(&c->stats, nr_processes, count_processes(&c->members));
	if (certain + pool > stat_get(&c->stats, rss_max_usage))
		stat_set(&c->stats, rss_max_usage, certain + pool);
}

/* Active and pinned pages come from the tables of adopted members, locked ones from the kernel; all else may be evicted, once
 * adopted, or has been: into the pool. */
static void publish_lists(struct container *c)
{
	uint64_t active = 0, unevictable = 0, usage = stat_get(&c->stats, rss_usage) >> PAGE_SHIFT;
	for (struct address_space *as = c->spaces; as; as = as->next) {
		struct page_counts counts = address_space_count(as);
		active += counts.active;
		unevictable += counts.pinned;
	}
	for (uint32_t i = 0; i < c->members.nr; i++)
		unevictable += c->members.items[i].locked;
	active = MIN_OF(active, usage);
	unevictable = MIN_OF(unevictable, usage - active);
	stat_set(&c->stats, active, active << PAGE_SHIFT);
	stat_set(&c->stats, unevictable, unevictable << PAGE_SHIFT);
	stat_set(&c->stats, inactive, (usage - active - unevictable) << PAGE_SHIFT);
}

void container_publish_figures(struct container *c)
{
	struct charge_sample sample = charge_sample_begin(&c->charge);
	members_measure_sharing(&c->members, MEASURE_NOW, monotonic_ns());
	charge_sample_end(&c->charge, sample, members_sample(&c->members));
	container_publish_usage(c);
	publish_lists(c);
	stat_set(&c->stats, rss_failcnt, c->charge.failcnt);
	stat_set(&c->stats, exit_status, c->exit_status);
	stat_set(&c->stats, wall_us, (monotonic_ns() - c->begin_ns) / 1000);
	stat_set(&c->stats, pool_stored, c->pager.pool ? pool_nr_pages(c->pager.pool) * PAGE_BYTES : 0);
	stat_set(&c->stats, swap_used, c->swap ? swap_used_slots(c->swap) * PAGE_BYTES : 0);
	stat_set(&c->stats, swap_total, c->swap ? swap_total_slots(c->swap) * PAGE_BYTES : 0);
}
