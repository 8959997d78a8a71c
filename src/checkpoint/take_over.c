#include "checkpoint/take_over.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "checkpoint/handed.h"
#include "container/container.h"
#include "container/processes.h"
#include "pager/hand_over.h"
#include "swap/cipher.h"
#include "swap/swap_hand_over.h"

struct taken_over {
	Upgrade__Keeper *keeper;
	int key;
	struct successor guardian;
	struct run_config config;
	struct handed_source source;
	struct swap_base base;
	struct address_space **spaces; /* in the order of the message */
};

static const char *text_or_null(const char *text)
{
	return text[0] ? text : NULL;
}

/* --- first half: the swap file and the numbers --- */

static int take_base(struct swap_base *base, const Upgrade__Base *m, int key)
{
	uint8_t *own_key = NULL;
	uint64_t *checksums = reallocarray(NULL, m->nr_slots + 1, sizeof(*checksums));
	if (!checksums)
		return -ENOMEM;
	memcpy(checksums, m->checksums, m->n_checksums * sizeof(*checksums));
	int r = m->is_encrypted ? cipher_key_read(key, &own_key) : 0;
	*base = (struct swap_base){.fd = m->fd, .nr_slots = m->nr_slots, .seed = m->seed, .key = own_key, .checksums = checksums, .path = strdup(m->path)};
	return r == 0 && !base->path ? -ENOMEM : r;
}

static int take_swap(struct container *c, struct taken_over *taken)
{
	const Upgrade__Swap *m = taken->keeper->swap;
	struct swap_handed handed = {.path = m->path,
				     .fd = m->fd,
				     .directory = m->directory,
				     .nr_slots = m->nr_slots,
				     .seed = m->seed,
				     .was_created = m->was_created,
				     .has_fallocate = m->has_fallocate,
				     .is_direct = m->is_direct,
				     .base = m->below ? &taken->base : NULL};
	int r = swap_take_over(&handed, m->is_encrypted ? taken->key : -1, &c->swap);
	if (r == 0 && m->below)
		r = take_base(&taken->base, m->below, taken->key);
	for (size_t i = 0; r == 0 && i < m->n_pinned; i++)
		r = swap_adopt_pinned(c->swap, m->pinned[i]) ? 0 : -EBADMSG;
	c->swap_is_default = m->is_default;
	return r;
}

#define TAKE_FIGURE(name_, unit, meaning)         \
	if (!strcmp(figure->name, #name_))        \
		stat_set(&c->stats, name_, figure->value);

static void take_figures(struct container *c, const Upgrade__Keeper *k)
{
	for (size_t i = 0; i < k->n_figures; i++) {
		const Upgrade__Figure *figure = k->figures[i];
		STATS_LIST(TAKE_FIGURE)
	}
}

static int take_container(struct container *c, const Upgrade__Container *m)
{
	c->last_guardian = m->last_guardian;
	c->front_is_gone = m->front_is_gone;
	c->begin_ns = m->begin_ns;
	c->program = m->program;
	c->program_ended = m->program_ended;
	c->exit_status = m->exit_status;
	c->closed = m->closed;
	c->adopt_threshold = m->adopt_threshold;
	atomic_store(&c->pool_most, m->pool_most);
	c->isolation = (struct isolation){.init = m->init, .lifeline = m->lifeline, .proc = m->proc};
	c->backstop = (struct backstop){.v2 = m->backstop_v2, .limit_bytes = m->backstop_bytes};
	if (m->backstop[0] && !(c->backstop.folder = strdup(m->backstop)))
		return -ENOMEM;
	if (m->oom_report[0] && !(c->oom_report = strdup(m->oom_report)))
		return -ENOMEM;
	charge_set_limit(&c->charge, m->limit_pages);
	c->charge.failcnt = m->failcnt;
	return 0;
}

static int begin(void *context, struct container *c)
{
	struct taken_over *taken = context;
	const Upgrade__Keeper *k = taken->keeper;
	int r = take_container(c, k->container);
	c->last_guardian = taken->guardian.pid;
	take_figures(c, k);
	if (r == 0 && k->swap)
		r = take_swap(c, taken);
	if (taken->key >= 0)
		close(steal_fd(&taken->key));
	return r;
}

/* --- second half: what refers to the pager --- */

static struct agent *take_agent(const Upgrade__Agent *m, int uffd)
{
	struct agent *agent = calloc(1, sizeof(*agent));
	if (!agent)
		return NULL;
	*agent = (struct agent){.pid = m->pid,
				.inner_pid = m->inner_pid,
				.pidfd = m->pidfd,
				.uffd = uffd,
				.stage_uffd = m->stage_uffd,
				.base = m->region,
				.size = m->bytes,
				.stage1 = m->stage1,
				.stage2 = m->stage2,
				.stage_pages = m->stage_pages,
				.sentinel = m->sentinel,
				.ring_fd = m->ring,
				.requests = m->requests,
				.doorbell = m->doorbell};
	if (agent_map_ring(agent) == 0)
		return agent;
	free(agent);
	return NULL;
}

static int take_space(struct pager *pager, const Upgrade__Space *m, struct address_space **ret)
{
	struct agent *agent = m->agent ? take_agent(m->agent, m->uffd) : NULL;
	if (m->agent && !agent)
		return -ENOMEM;
	struct address_space before = {.pid = m->pid,
				       .uffd = m->uffd,
				       .pagemap = m->pagemap,
				       .maps = m->maps,
				       .sentinel = m->sentinel,
				       .token = m->token,
				       .process_seen = m->process_seen,
				       .oom_killed = m->oom_killed,
				       .shares = m->shares,
				       .has_saved = m->has_saved,
				       .wipe_unchecked = m->wipe_unchecked,
				       .fills = m->fills,
				       .hand = m->hand,
				       .broken = m->broken,
				       .evicted = m->evicted,
				       .agent = agent};
	struct address_space *as = address_space_like(pager, &before);
	int r = as ? 0 : -ENOMEM;
	for (size_t i = 0; r == 0 && i < m->n_ranges; i += 2)
		r = take_over_range(as, m->ranges[i], m->ranges[i + 1]);
	for (size_t i = 0; r == 0 && i < m->n_entries; i++)
		r = take_over_entries(as, m->entries[i]->start, m->entries[i]->n_values, m->entries[i]->values);
	if (r == 0)
		*ret = as;
	return r;
}

static void take_checksums(struct swap *swap, const Upgrade__Swap *m)
{
	for (size_t i = 0; i < m->n_checksums; i++)
		for (size_t j = 0; j < m->checksums[i]->n_values; j++)
			if (swap_references(swap, m->checksums[i]->first + (slot_t)j))
				swap_set_checksum(swap, m->checksums[i]->first + (slot_t)j, m->checksums[i]->values[j]);
}

static int take_member(struct container *c, const Upgrade__Member *m, struct address_space *as)
{
	const struct member member = {.pid = m->pid,
				      .task = m->task,
				      .statm = m->statm,
				      .pidfd = m->pidfd,
				      .as = as,
				      .unadoptable = m->unadoptable,
				      .reaped = m->reaped,
				      .oom_killed = m->oom_killed,
				      .same_memory = m->same_memory,
				      .resident = m->resident,
				      .file = m->file,
				      .shared_anon = m->shared_anon,
				      .shared_file = m->shared_file,
				      .common = m->common,
				      .shmem = m->shmem,
				      .locked = m->locked,
				      .seen_faults = m->seen_faults,
				      .seen_broken = m->seen_broken,
				      .seen_evicted = m->seen_evicted};
	return members_take_over(&c->members, &member);
}

static void take_pager(struct pager *pager, const Upgrade__Container *m)
{
	atomic_store(&pager->evicted, m->evicted);
	atomic_store(&pager->pool_fit.share, m->pool_share);
	if (m->n_preference) {
		struct node_set nodes = {0};
		memcpy(nodes.words, m->preference, m->n_preference * sizeof(*m->preference));
		preference_set(&pager->preference, &nodes);
		preference_follow(&pager->preference);
	}
}

/* The members' usage, before anybody is served. */
static void sample(struct container *c)
{
	struct charge_sample begun = charge_sample_begin(&c->charge);
	charge_sample_end(&c->charge, begun, members_sample(&c->members));
	c->last_usage = charge_usage(&c->charge);
}

static int fill(void *context, struct container *c)
{
	struct taken_over *taken = context;
	const Upgrade__Keeper *k = taken->keeper;
	int r = 0;
	take_pager(&c->pager, k->container);
	for (size_t i = 0; r == 0 && i < k->n_spaces; i++)
		r = take_space(&c->pager, k->spaces[i], &taken->spaces[i]);
	atomic_store(&c->pager.nr_spaces, k->container->nr_spaces);
	if (r == 0 && k->swap)
		take_checksums(c->swap, k->swap);
	for (size_t i = 0; r == 0 && i < k->n_members; i++)
		r = take_member(c, k->members[i], k->members[i]->space ? taken->spaces[k->members[i]->space - 1] : NULL);
	for (size_t i = 0; r == 0 && i < k->n_departed; i++)
		r = members_take_over_departed(&c->members, k->departed[i]->pid, k->departed[i]->start_time);
	if (r < 0)
		return r;
	sample(c);
	for (size_t i = k->n_spaces; i-- > 0;) /* the list begins with the last that is added */
		container_add_space(c, taken->spaces[i]);
	return 0;
}

static int serve(void *context, struct container *c)
{
	struct taken_over *taken = context;
	int r = 0;
	for (size_t i = 0; r == 0 && i < taken->keeper->n_spaces; i++)
		r = take_over_serve(taken->spaces[i]);
	log_debug("upgrade: faults have waited for %llu us", (unsigned long long)(monotonic_ns() - taken->keeper->container->stopped_ns) / 1000);
	upgrade__keeper__free_unpacked(steal_pointer(taken->keeper), NULL);
	return r;
}

/* --- the whole --- */

static int make_config(struct taken_over *taken)
{
	static const pid_t nobody;
	const Upgrade__Config *m = taken->keeper->config;
	char **argv = calloc(m->n_command + 1, sizeof(*argv));
	taken->config = (struct run_config){.name = strdup(m->name),
					    .limit_bytes = m->limit_bytes,
					    .swap_path = m->swap_path[0] ? strdup(m->swap_path) : NULL,
					    .swap_is_default = m->swap_is_default,
					    .swap_size_bytes = m->swap_bytes,
					    .encrypt = m->encrypt,
					    .pool_bytes = m->pool_bytes,
					    .oom = (enum oom_policy)m->oom,
					    .stats_path = text_or_null(m->stats_path) ? strdup(m->stats_path) : NULL,
					    .detach = m->detach,
					    .isolate = m->isolate,
					    .attach = m->is_attached ? &nobody : NULL,
					    .argv = argv,
					    .handed = &taken->source};
	bool is_complete = argv && taken->config.name && (!m->swap_path[0] || taken->config.swap_path) && (!m->stats_path[0] || taken->config.stats_path);
	for (size_t i = 0; is_complete && i < m->n_command; i++)
		is_complete = (argv[i] = strdup(m->command[i])) != NULL;
	return is_complete ? 0 : -ENOMEM;
}

int take_over_begin(int state, int key, struct taken_over **ret, struct checkpoint_error *error)
{
	struct taken_over *taken = calloc(1, sizeof(*taken));
	if (!taken)
		return -ENOMEM;
	taken->key = key;
	taken->source = (struct handed_source){.begin = begin, .fill = fill, .serve = serve, .context = taken};
	close_range(STDERR_FILENO, ~0u, CLOSE_RANGE_CLOEXEC);
	prctl(PR_SET_NAME, "membox");
	int r = handed_read(state, &taken->keeper, error);
	close(state);
	if (r == 0)
		r = guardian_succeed(taken->keeper->container->guardian, taken->keeper->container->last_guardian, &taken->guardian);
	FAULT_ARM(); /* not in the guardian */
	FAULT_POINT("upgrade.succeeded");
	if (r == 0)
		r = make_config(taken);
	if (r == 0 && !(taken->spaces = calloc(taken->keeper->n_spaces + 1, sizeof(struct address_space *))))
		r = -ENOMEM;
	if (r == 0)
		*ret = taken;
	return r < 0 ? checkpoint_fail(error, r, "%s", strerror(-r)) : 0;
}

const Upgrade__Control *take_over_control(const struct taken_over *taken)
{
	return taken->keeper->control;
}

const char *take_over_name(const struct taken_over *taken)
{
	return taken->config.name;
}

void take_over_go_on(struct taken_over *taken, struct container_service *service)
{
	const Upgrade__Container *m = taken->keeper->container;
	const struct keeper_links links = {.channel = m->channel, .guardian = m->guardian};
	taken->config.service = service;
	keeper_go_on(&taken->config, &links, &taken->guardian);
}
