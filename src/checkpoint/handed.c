#include "checkpoint/handed.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/xxh3.h"
#include "container/container.h"
#include "container/processes.h"
#include "pager/hand_over.h"
#include "swap/swap_hand_over.h"

#define MAGIC "MBXHAND\n"

struct head {
	char magic[8];
	uint32_t format, reserved;
	uint64_t bytes, checksum;
};

#define NEW(arena, type, init)                                         \
	({                                                             \
		type *message_ = arena_alloc((arena), sizeof(type));   \
		if (message_)                                          \
			init(message_);                                \
		message_;                                              \
	})

/* One more item at the end of a repeated field; NULL: no memory. */
#define ADD(arena, items, nr, value)                                               \
	({                                                                         \
		__typeof__(*(items)) *slot_ = arena_grow((arena), &(items), (nr), sizeof(*(items))); \
		if (slot_)                                                         \
			*slot_ = (value);                                          \
		if (slot_)                                                         \
			(nr)++;                                                    \
		slot_;                                                             \
	})

int handed_fd(struct handed *handed, int fd)
{
	if (fd >= 0)
		ADD(&handed->arena, handed->fds, handed->nr_fds, fd);
	return fd;
}

static char *text_of(struct arena *arena, const char *text)
{
	return arena_strdup(arena, text ? text : "");
}

static Upgrade__Config *describe_config(struct handed *handed, const struct run_config *config)
{
	struct arena *arena = &handed->arena;
	Upgrade__Config *m = NEW(arena, Upgrade__Config, upgrade__config__init);
	if (!m)
		return NULL;
	m->name = text_of(arena, config->name);
	m->limit_bytes = config->limit_bytes;
	m->swap_path = text_of(arena, config->swap_path);
	m->swap_is_default = config->swap_is_default;
	m->swap_bytes = config->swap_size_bytes;
	m->encrypt = config->encrypt;
	m->pool_bytes = config->pool_bytes;
	m->oom = (uint32_t)config->oom;
	m->stats_path = text_of(arena, config->stats_path);
	m->detach = config->detach;
	m->isolate = config->isolate;
	m->is_attached = config->attach != NULL;
	for (char **word = config->argv; *word; word++)
		ADD(arena, m->command, m->n_command, text_of(arena, *word));
	return m;
}

static void describe_pager(struct handed *handed, const struct pager *pager, Upgrade__Container *m)
{
	m->pool_share = atomic_load(&pager->pool_fit.share);
	m->evicted = atomic_load(&pager->evicted);
	m->nr_spaces = atomic_load(&pager->nr_spaces);
	for (size_t i = 0; atomic_load(&pager->preference.seq) && i < ARRAY_LEN(pager->preference.words); i++)
		ADD(&handed->arena, m->preference, m->n_preference, atomic_load(&pager->preference.words[i]));
}

static Upgrade__Container *describe_container(struct handed *handed, struct container *c)
{
	Upgrade__Container *m = NEW(&handed->arena, Upgrade__Container, upgrade__container__init);
	if (!m)
		return NULL;
	m->channel = handed_fd(handed, c->channel);
	m->guardian = handed_fd(handed, c->guardian);
	m->last_guardian = c->last_guardian;
	m->front_is_gone = c->front_is_gone;
	m->begin_ns = c->begin_ns;
	m->stopped_ns = handed->stopped_ns;
	m->program = c->program;
	m->program_ended = c->program_ended;
	m->exit_status = c->exit_status;
	m->closed = c->closed;
	m->adopt_threshold = c->adopt_threshold;
	m->limit_pages = charge_limit(&c->charge);
	m->failcnt = c->charge.failcnt;
	m->pool_most = atomic_load(&c->pool_most);
	m->init = c->isolation.init;
	m->lifeline = handed_fd(handed, c->isolation.lifeline);
	m->proc = handed_fd(handed, c->isolation.proc);
	m->backstop = text_of(&handed->arena, c->backstop.folder);
	m->backstop_v2 = c->backstop.v2;
	m->backstop_bytes = c->backstop.limit_bytes;
	m->oom_report = text_of(&handed->arena, c->oom_report);
	describe_pager(handed, &c->pager, m);
	return m;
}

/* --- the swap file --- */

struct slots {
	struct handed *handed;
	Upgrade__Swap *message;
	Upgrade__Checksums *last;
};

static void add_checksum(slot_t slot, uint64_t checksum, void *context)
{
	struct slots *slots = context;
	struct arena *arena = &slots->handed->arena;
	if (!slots->last || slots->last->first + slots->last->n_values != slot) {
		slots->last = NEW(arena, Upgrade__Checksums, upgrade__checksums__init);
		if (!slots->last || !ADD(arena, slots->message->checksums, slots->message->n_checksums, slots->last))
			return;
		slots->last->first = slot;
	}
	ADD(arena, slots->last->values, slots->last->n_values, checksum);
}

static void add_pinned(slot_t slot, void *context)
{
	struct slots *slots = context;
	ADD(&slots->handed->arena, slots->message->pinned, slots->message->n_pinned, slot);
}

static Upgrade__Base *describe_base(struct handed *handed, const struct swap_base *base)
{
	Upgrade__Base *m = NEW(&handed->arena, Upgrade__Base, upgrade__base__init);
	if (!m)
		return NULL;
	m->fd = handed_fd(handed, base->fd);
	m->nr_slots = base->nr_slots;
	m->seed = base->seed;
	m->is_encrypted = base->key != NULL;
	m->path = text_of(&handed->arena, base->path);
	m->checksums = arena_copy(&handed->arena, base->checksums, base->nr_slots * sizeof(*base->checksums));
	m->n_checksums = m->checksums ? base->nr_slots : 0;
	return m;
}

static Upgrade__Swap *describe_swap(struct handed *handed, struct container *c)
{
	struct swap_handed file = swap_hand_over(c->swap);
	Upgrade__Swap *m = NEW(&handed->arena, Upgrade__Swap, upgrade__swap__init);
	if (!m)
		return NULL;
	m->path = text_of(&handed->arena, file.path);
	m->fd = handed_fd(handed, file.fd);
	m->directory = handed_fd(handed, file.directory);
	m->nr_slots = file.nr_slots;
	m->seed = file.seed;
	m->was_created = file.was_created;
	m->has_fallocate = file.has_fallocate;
	m->is_direct = file.is_direct;
	m->is_default = c->swap_is_default;
	m->is_encrypted = swap_is_encrypted(c->swap);
	m->below = file.base ? describe_base(handed, file.base) : NULL;
	swap_for_each_used(c->swap, add_checksum, &(struct slots){.handed = handed, .message = m});
	swap_for_each_pinned(c->swap, add_pinned, &(struct slots){.handed = handed, .message = m});
	return m;
}

/* --- address spaces --- */

static Upgrade__Agent *describe_agent(struct handed *handed, const struct agent *agent)
{
	Upgrade__Agent *m = NEW(&handed->arena, Upgrade__Agent, upgrade__agent__init);
	if (!m)
		return NULL;
	m->pid = agent->pid;
	m->inner_pid = agent->inner_pid;
	m->pidfd = handed_fd(handed, agent->pidfd);
	m->stage_uffd = handed_fd(handed, agent->stage_uffd);
	m->ring = handed_fd(handed, agent->ring_fd);
	m->doorbell = handed_fd(handed, agent->doorbell);
	m->region = agent->base;
	m->bytes = agent->size;
	m->stage1 = agent->stage1;
	m->stage2 = agent->stage2;
	m->stage_pages = agent->stage_pages;
	m->sentinel = agent->sentinel;
	m->requests = agent->requests;
	return m;
}

struct table {
	struct handed *handed;
	Upgrade__Space *message;
	Upgrade__Entries *last;
};

static void add_entry(remote_addr_t page, shadow_entry_t entry, void *context)
{
	struct table *table = context;
	struct arena *arena = &table->handed->arena;
	if (!table->last || table->last->start + table->last->n_values * PAGE_BYTES != page) {
		table->last = NEW(arena, Upgrade__Entries, upgrade__entries__init);
		if (!table->last || !ADD(arena, table->message->entries, table->message->n_entries, table->last))
			return;
		table->last->start = page;
	}
	ADD(arena, table->last->values, table->last->n_values, entry);
}

static Upgrade__Space *describe_space(struct handed *handed, struct address_space *as)
{
	struct arena *arena = &handed->arena;
	Upgrade__Space *m = NEW(arena, Upgrade__Space, upgrade__space__init);
	if (!m)
		return NULL;
	m->pid = atomic_load(&as->pid);
	m->uffd = handed_fd(handed, as->uffd);
	m->pagemap = handed_fd(handed, as->pagemap);
	m->maps = handed_fd(handed, as->maps);
	m->sentinel = as->sentinel;
	m->token = as->token;
	m->process_seen = as->process_seen;
	m->oom_killed = as->oom_killed;
	m->shares = as->shares;
	m->has_saved = as->has_saved;
	m->wipe_unchecked = as->wipe_unchecked;
	m->fills = as->fills;
	m->hand = as->hand;
	m->broken = atomic_load(&as->broken);
	m->evicted = atomic_load(&as->evicted);
	m->agent = as->agent ? describe_agent(handed, as->agent) : NULL;
	for (uint32_t i = 0; i < as->ranges.nr; i++) {
		ADD(arena, m->ranges, m->n_ranges, as->ranges.items[i].start);
		ADD(arena, m->ranges, m->n_ranges, as->ranges.items[i].end);
	}
	hand_over_entries(as, add_entry, &(struct table){.handed = handed, .message = m});
	return m;
}

/* --- members --- */

static uint32_t number_of_space(const struct container *c, const struct address_space *wanted)
{
	uint32_t number = 1;
	for (const struct address_space *as = c->spaces; as; as = as->next, number++)
		if (as == wanted)
			return number;
	return 0;
}

static Upgrade__Member *describe_member(struct handed *handed, const struct container *c, const struct member *member)
{
	Upgrade__Member *m = NEW(&handed->arena, Upgrade__Member, upgrade__member__init);
	if (!m)
		return NULL;
	m->pid = member->pid;
	m->task = member->task;
	m->statm = handed_fd(handed, member->statm);
	m->pidfd = handed_fd(handed, member->pidfd);
	m->space = member->as ? number_of_space(c, member->as) : 0;
	m->unadoptable = member->unadoptable;
	m->reaped = member->reaped;
	m->oom_killed = member->oom_killed;
	m->same_memory = member->same_memory;
	m->resident = member->resident;
	m->file = member->file;
	m->shared_anon = member->shared_anon;
	m->shared_file = member->shared_file;
	m->common = member->common;
	m->shmem = member->shmem;
	m->locked = member->locked;
	m->seen_faults = member->seen_faults;
	m->seen_broken = member->seen_broken;
	m->seen_evicted = member->seen_evicted;
	return m;
}

static void describe_members(struct handed *handed, const struct container *c)
{
	struct arena *arena = &handed->arena;
	Upgrade__Keeper *k = handed->keeper;
	for (uint32_t i = 0; i < c->members.nr; i++)
		ADD(arena, k->members, k->n_members, describe_member(handed, c, &c->members.items[i]));
	for (uint32_t i = 0; i < c->members.nr_departed; i++) {
		Upgrade__Departed *m = NEW(arena, Upgrade__Departed, upgrade__departed__init);
		if (!m || !ADD(arena, k->departed, k->n_departed, m))
			return;
		m->pid = c->members.departed[i].pid;
		m->start_time = c->members.departed[i].start_time;
	}
}

#define ADD_FIGURE(name_, unit, meaning)                                                         \
	{                                                                                        \
		Upgrade__Figure *m = NEW(arena, Upgrade__Figure, upgrade__figure__init);         \
		if (m && ADD(arena, k->figures, k->n_figures, m)) {                              \
			m->name = text_of(arena, #name_);                                        \
			m->value = stat_get(&c->stats, name_);                                   \
		}                                                                                \
	}

int handed_describe(struct container *c, Upgrade__Control *control, struct handed *handed)
{
	struct arena *arena = &handed->arena;
	Upgrade__Keeper *k = handed->keeper = NEW(arena, Upgrade__Keeper, upgrade__keeper__init);
	if (!k)
		return -ENOMEM;
	k->config = describe_config(handed, c->config);
	k->container = describe_container(handed, c);
	k->swap = c->swap ? describe_swap(handed, c) : NULL;
	k->control = control;
	for (struct address_space *as = c->spaces; as; as = as->next)
		ADD(arena, k->spaces, k->n_spaces, describe_space(handed, as));
	describe_members(handed, c);
	STATS_LIST(ADD_FIGURE)
	return arena->is_exhausted ? -ENOMEM : 0;
}

/* --- the memfd --- */

static int write_all(int fd, const void *data, size_t len)
{
	for (const uint8_t *at = data; len;) {
		ssize_t n = write(fd, at, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		len -= (size_t)n;
	}
	return 0;
}

int handed_write(const struct handed *handed)
{
	size_t bytes = upgrade__keeper__get_packed_size(handed->keeper);
	_cleanup_free_ uint8_t *body = malloc(bytes);
	_cleanup_close_ int fd = memfd_create("membox-keeper", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (!body || fd < 0)
		return body ? -errno : -ENOMEM;
	upgrade__keeper__pack(handed->keeper, body);
	struct head head = {.magic = MAGIC, .format = htole32(HANDED_FORMAT), .bytes = htole64(bytes), .checksum = htole64(XXH3_64bits(body, bytes))};
	int r = write_all(fd, &head, sizeof(head));
	if (r == 0)
		r = write_all(fd, body, bytes);
	if (r == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		r = -errno;
	return r < 0 ? r : steal_fd(&fd);
}

static int map(int fd, const uint8_t **ret_data, size_t *ret_bytes)
{
	struct stat st;
	int seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || !(seals & F_SEAL_SHRINK) || !(seals & F_SEAL_WRITE) || fstat(fd, &st) < 0 || st.st_size <= (off_t)sizeof(struct head))
		return -EBADMSG;
	void *data = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	if (data == MAP_FAILED)
		return -errno;
	*ret_data = data;
	*ret_bytes = (size_t)st.st_size;
	return 0;
}

static int unpack(const uint8_t *data, size_t bytes, Upgrade__Keeper **ret, struct checkpoint_error *error)
{
	struct head head;
	memcpy(&head, data, sizeof(head));
	const uint8_t *body = data + sizeof(head);
	if (memcmp(head.magic, MAGIC, sizeof(head.magic)) != 0)
		return checkpoint_fail(error, -EBADMSG, "it is no keeper's state");
	if (le32toh(head.format) != HANDED_FORMAT)
		return checkpoint_fail(error, -EPROTO, "it takes over keepers of format %u, and this one is of format %u", HANDED_FORMAT, le32toh(head.format));
	if (le64toh(head.bytes) != bytes - sizeof(head) || XXH3_64bits(body, bytes - sizeof(head)) != le64toh(head.checksum))
		return checkpoint_fail(error, -EBADMSG, "the keeper's state is damaged");
	*ret = upgrade__keeper__unpack(NULL, bytes - sizeof(head), body);
	return *ret ? 0 : checkpoint_fail(error, -EBADMSG, "the keeper's state cannot be read");
}

static bool config_is_valid(const Upgrade__Config *config)
{
	return config && config->name[0] && config->n_command && config->limit_bytes && config->oom <= OOM_STOP;
}

static bool swap_is_valid(const Upgrade__Swap *swap)
{
	if (!swap)
		return true;
	bool is_valid = swap->path[0] && swap->fd >= 0 && swap->directory >= 0 && swap->nr_slots >= 2 && swap->nr_slots <= SLOT_OF_BASE;
	if (swap->below)
		is_valid = is_valid && swap->below->fd >= 0 && swap->below->nr_slots <= SLOT_OF_BASE && swap->below->n_checksums == swap->below->nr_slots;
	for (size_t i = 0; is_valid && i < swap->n_checksums; i++)
		is_valid = swap->checksums[i]->first && swap->checksums[i]->first + swap->checksums[i]->n_values <= swap->nr_slots;
	for (size_t i = 0; is_valid && i < swap->n_pinned; i++)
		is_valid = swap->pinned[i] && swap->pinned[i] < swap->nr_slots;
	return is_valid;
}

static bool agent_is_valid(const Upgrade__Agent *agent)
{
	bool is_open = agent && agent->pidfd >= 0 && agent->stage_uffd >= 0 && agent->ring >= 0 && agent->doorbell >= 0;
	return !agent || (is_open && agent->pid > 0 && agent->region && agent->stage1 && agent->stage2 && agent->stage_pages && agent->sentinel);
}

static bool slot_is_valid(slot_t slot, const Upgrade__Swap *swap)
{
	if (slot == NO_SLOT || !swap)
		return slot == NO_SLOT;
	return slot & SLOT_OF_BASE ? swap->below && (slot & ~SLOT_OF_BASE) < swap->below->nr_slots : slot < swap->nr_slots;
}

static bool entries_are_valid(const Upgrade__Entries *entries, const Upgrade__Swap *swap)
{
	for (size_t i = 0; i < entries->n_values; i++)
		if (!hand_over_entry_is_valid(entries->start + i * PAGE_BYTES, entries->values[i]) || !slot_is_valid(entry_slot(entries->values[i]), swap))
			return false;
	return true;
}

static bool space_is_valid(const Upgrade__Space *space, const Upgrade__Swap *swap)
{
	bool is_valid = space->uffd >= 0 && space->n_ranges % 2 == 0 && agent_is_valid(space->agent);
	for (size_t i = 0; is_valid && i < space->n_ranges; i += 2)
		is_valid = space->ranges[i] < space->ranges[i + 1] && space->ranges[i] % PAGE_BYTES == 0 && space->ranges[i + 1] % PAGE_BYTES == 0;
	for (size_t i = 0; is_valid && i < space->n_entries; i++)
		is_valid = entries_are_valid(space->entries[i], swap);
	return is_valid;
}

static int check(const Upgrade__Keeper *k, struct checkpoint_error *error)
{
	bool is_valid = config_is_valid(k->config) && k->container && k->container->channel >= 0 && k->container->guardian >= 0 && swap_is_valid(k->swap);
	is_valid = is_valid && k->container->limit_pages && k->container->n_preference <= NUMA_NODES_MAX / 64;
	for (size_t i = 0; is_valid && i < k->n_spaces; i++)
		is_valid = space_is_valid(k->spaces[i], k->swap);
	for (size_t i = 0; is_valid && i < k->n_members; i++)
		is_valid = k->members[i]->pid > 0 && k->members[i]->statm >= 0 && k->members[i]->space <= k->n_spaces;
	return is_valid ? 0 : checkpoint_fail(error, -EBADMSG, "the keeper's state makes no sense");
}

int handed_read(int fd, Upgrade__Keeper **ret, struct checkpoint_error *error)
{
	const uint8_t *data = NULL;
	size_t bytes = 0;
	Upgrade__Keeper *k = NULL;
	int r = map(fd, &data, &bytes);
	if (r < 0)
		return checkpoint_fail(error, r, "it is no sealed memfd with a keeper's state");
	r = unpack(data, bytes, &k, error);
	munmap((void *)(uintptr_t)data, bytes);
	if (r == 0)
		r = check(k, error);
	if (r < 0 && k)
		upgrade__keeper__free_unpacked(k, NULL);
	else if (r == 0)
		*ret = k;
	return r;
}
