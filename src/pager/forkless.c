#include "pager/forkless.h"

#include <errno.h>
#include <string.h>

#include "pager/events.h"
#include "platform/pagemap.h"
#include "platform/process.h"
#include "platform/userfaultfd.h"

static void note(struct address_space *as, enum past_kind kind, remote_addr_t start, uint64_t nr_pages, slot_t slot)
{
	struct past_item item = {
		.start = start, .nr_pages = (uint32_t)nr_pages, .kind = kind, .first_slot = slot, .until = as->stamp.value};
	if (as->stamp.page && nr_pages)
		past_add(&as->past, &item);
}

void forkless_note_zeros(struct address_space *as, remote_addr_t start, uint64_t nr_pages)
{
	note(as, PAST_ZEROS, start, nr_pages, NO_SLOT);
}

void forkless_note_slot(struct address_space *as, remote_addr_t page, slot_t slot)
{
	if (as->stamp.page)
		swap_get(as->pager->swap, slot);
	note(as, PAST_SLOT, page, 1, slot);
}

void forkless_note_unknown(struct address_space *as, remote_addr_t page)
{
	note(as, PAST_UNKNOWN, page, 1, NO_SLOT);
	if (as->stamp.page)
		stamp_raise(&as->stamp);
}

int forkless_before_eviction(struct address_space *as)
{
	return as->stamp.page ? stamp_raise(&as->stamp) : 0;
}

void forkless_discarded(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	if (as->stamp.page)
		past_cut(&as->past, start, end);
}

/* One task alone cannot unmap and fork at the same time. */
static bool others_may_fork(const struct address_space *as)
{
	pid_t tids[2];
	return atomic_load(&as->sharers) || process_threads(as->pid, tids, ARRAY_LEN(tids)) != 1;
}

void forkless_unmapped(struct address_space *as, remote_addr_t start, remote_addr_t end)
{
	remote_addr_t evicted;
	if (!as->stamp.page)
		return;
	bool had_slots = past_cut(&as->past, start, end);
	had_slots |= shadow_next_evicted(as->shadow, start, &evicted) && evicted < end;
	if (!had_slots || !others_may_fork(as))
		return;
	note(as, PAST_UNKNOWN, start, (end - start) / PAGE_BYTES, NO_SLOT);
	stamp_raise(&as->stamp);
}

void forkless_forget_past(struct address_space *as)
{
	lock_take(&as->layout);
	if (as->stamp.page && as->past.nr && stamp_raise(&as->stamp) == 0)
		past_forget(&as->past, as->stamp.value);
	lock_drop(&as->layout);
}

uint64_t forkless_kept_slots(struct address_space *as)
{
	lock_take(&as->layout);
	uint64_t slots = as->past.slots;
	lock_drop(&as->layout);
	return slots;
}

bool forkless_has_heritage(struct address_space *as)
{
	lock_take(&as->layout);
	bool has = as->past.slots || shadow_count(as->shadow, STATE_STAGED) + shadow_count(as->shadow, STATE_SWAPPED);
	lock_drop(&as->layout);
	return has;
}

bool forkless_is_child(const struct address_space *as, pid_t pid, uint64_t *ret_stamp)
{
	struct stamp_copy copy;
	if (!stamp_read(pid, as->stamp.page, &copy) || copy.owner != as->stamp.owner)
		return false;
	*ret_stamp = copy.value;
	return true;
}

struct override {
	struct address_space *child;
	bool failed;
};

/* The table of the child says for these pages what the item says. A slot may still be in a batch. */
static void override(const struct past_item *item, void *context)
{
	struct override *o = context;
	struct shadow *shadow = o->child->shadow;
	struct swap *swap = o->child->pager->swap;
	for (uint32_t i = 0; i < item->nr_pages; i++) {
		remote_addr_t page = item->start + i * PAGE_BYTES;
		shadow_entry_t old = shadow_get(shadow, page), entry = old & ENTRY_PINNED;
		if (item->kind == PAST_UNKNOWN)
			entry |= ENTRY_UNKNOWN;
		else if (item->kind == PAST_SLOT)
			entry = entry_make(STATE_STAGED, item->first_slot + i, 0, 0, entry);
		if (entry_slot(entry) != NO_SLOT)
			swap_get(swap, entry_slot(entry));
		if (entry_slot(old) != NO_SLOT)
			swap_put(swap, entry_slot(old));
		shadow_set(shadow, page, 0);
		if (shadow_set(shadow, page, entry))
			continue;
		o->failed = true;
		if (entry_slot(entry) != NO_SLOT)
			swap_put(swap, entry_slot(entry));
	}
}

int forkless_fork(struct address_space *parent, uint64_t stamp, struct address_space **ret_child)
{
	lock_take(&parent->layout);
	events_settle_now(parent);
	struct override o = {.child = address_space_fork(parent, -1)};
	int r = o.child ? past_visit(&parent->past, stamp, override, &o) : -ENOMEM;
	lock_drop(&parent->layout);
	if (r == 0 && o.failed)
		r = -ENOMEM;
	if (r == 0)
		*ret_child = o.child;
	else if (o.child)
		address_space_put(o.child);
	return r;
}

/* What is there has come with the fork. A large page could be one that the kernel has put together from pages that were not all there. */
static int page_is_there(struct address_space *child, remote_addr_t page, bool is_large)
{
	shadow_entry_t entry = shadow_get(child->shadow, page);
	if (!entry || !(entry_is_evicted(entry) || entry & (ENTRY_UNKNOWN | ENTRY_REMOVED)))
		return 0;
	if (is_large && entry_is_evicted(entry))
		return -ESTALE;
	if (entry_slot(entry) != NO_SLOT)
		swap_put(child->pager->swap, entry_slot(entry));
	shadow_set(child->shadow, page, entry & ENTRY_PINNED);
	return 0;
}

/* Also what the system's own swap has, and what is being migrated just now, in one look: it may change from one to the other. */
static int believe_what_is_there(struct address_space *child)
{
	struct page_run runs[256];
	struct pagemap_query query = {.start = 0,
				      .end = ADDRESS_END,
				      .any = PAGE_PRESENT | PAGE_SWAPPED,
				      .forbid = PAGE_FILE,
				      .report = PAGE_HUGE | PAGE_PRESENT | PAGE_SWAPPED};
	while (query.start < query.end) {
		int n = pagemap_scan(child->pagemap, &query, runs, ARRAY_LEN(runs), &query.start);
		if (n < 0)
			return n;
		for (int i = 0; i < n; i++) {
			for (remote_addr_t page = runs[i].start; page < runs[i].end; page += PAGE_BYTES) {
				int r = page_is_there(child, page, runs[i].categories & PAGE_HUGE);
				if (r < 0)
					return r;
			}
		}
	}
	return 0;
}

struct cover {
	struct address_space *child;
	remote_addr_t end; /* of what has been looked at */
};

static bool may_be_ours(const struct address_space *child, const struct mapping *m)
{
	if (m->shared || m->inode || (m->start < child->agent->base + child->agent->size && child->agent->base < m->end))
		return false;
	return m->name[0] != '[' || !strcmp(m->name, "[heap]") || !strncmp(m->name, "[stack", 6) || !strncmp(m->name, "[anon:", 6);
}

static void look_for_unknown(struct shadow *shadow, remote_addr_t addr, shadow_entry_t entry, void *context)
{
	*(bool *)context |= (entry & ENTRY_UNKNOWN) != 0;
}

static bool has_unknown(struct address_space *child, remote_addr_t start, remote_addr_t end)
{
	bool found = false;
	shadow_for_each(child->shadow, start, end, look_for_unknown, &found);
	return found;
}

/* Whatever its protection: the program may have taken it away, and give it back. */
static int cover_mapping(const struct mapping *m, void *context)
{
	struct cover *cover = context;
	struct address_space *child = cover->child;
	remote_addr_t evicted;
	address_space_forget(child, cover->end, m->start);
	cover->end = m->end;
	if (!may_be_ours(child, m)) {
		address_space_forget(child, m->start, m->end);
		return 0;
	}
	if (!(shadow_next_evicted(child->shadow, m->start, &evicted) && evicted < m->end) && !has_unknown(child, m->start, m->end))
		return 0;
	return uffd_register(child->uffd, m->start, m->end - m->start, true);
}

int forkless_settle_child(struct address_space *child)
{
	struct cover cover = {.child = child};
	lock_take(&child->layout);
	int r = believe_what_is_there(child);
	if (r == 0)
		r = maps_for_each(child->pid, cover_mapping, &cover);
	if (r == 0)
		address_space_forget(child, cover.end, UINT64_MAX);
	lock_drop(&child->layout);
	return r;
}
