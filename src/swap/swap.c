#include "swap/swap.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/monotonic.h"
#include "base/xxh3.h"
#include "swap/cipher.h"
#include "swap/pins.h"
#include "swap/slot_map.h"
#include "swap/swap_claim.h"
#include "swap/swap_header.h"
#include "swap/swap_internal.h"
#include "swap/trimmer.h"

#define CLUSTER_BYTES ((off_t)CLUSTER_SLOTS * (off_t)PAGE_BYTES)
#define KEEP_EMPTY_CLUSTERS 4u /* ready for the next evictions without asking the file system */
#define PUNCH_AT_ONCE 16u
#define FULL_RETRY_NS 10000000ull /* a full disk is asked again this often ... */
#define WRITE_RETRY_NS 100000000ull /* ... and this often by writing to it, where the file system promises nothing */

int swap_fd(const struct swap *swap)
{
	return swap->claim.fd;
}

bool swap_is_direct(const struct swap *swap)
{
	return swap->is_direct;
}

const char *swap_path(const struct swap *swap)
{
	return swap->path;
}

static bool is_of_base(slot_t slot)
{
	return slot & SLOT_OF_BASE;
}

const char *swap_locate(const struct swap *swap, slot_t slot, uint64_t *ret_offset)
{
	*ret_offset = (uint64_t)(slot & ~SLOT_OF_BASE) * PAGE_BYTES;
	return is_of_base(slot) ? swap->base->path : swap->path;
}

int swap_fd_of(const struct swap *swap, slot_t slot)
{
	return is_of_base(slot) ? swap->base->fd : swap->claim.fd;
}

uint64_t swap_seed(const struct swap *swap)
{
	return swap->seed;
}

bool swap_was_created(const struct swap *swap)
{
	return swap->claim.created;
}

/* One caller at a time: swap_open, then the thread that allocates. Space on disk for [offset, offset + len); 0 or -errno. */
static int reserve(struct swap *swap, off_t offset, off_t len)
{
	if (swap->has_fallocate) {
		int r;
		do {
			r = fallocate(swap->claim.fd, 0, offset, len);
		} while (r < 0 && errno == EINTR);
		if (r == 0)
			return 0;
		if (errno != EOPNOTSUPP && errno != ENOSYS)
			return -errno;
		swap->has_fallocate = false; /* the file system cannot promise space: a full disk shows when writing */
	}
	off_t end = lseek(swap->claim.fd, 0, SEEK_END);
	return end >= offset + len || ftruncate(swap->claim.fd, offset + len) == 0 ? 0 : -errno;
}

static off_t cluster_offset(uint32_t cluster)
{
	return (off_t)cluster * CLUSTER_BYTES;
}

/* The cap, and with it the last cluster, may end anywhere. */
static off_t end_below_cap(const struct swap *swap, off_t end)
{
	return MIN_OF(end, (off_t)swap->nr_slots * (off_t)PAGE_BYTES);
}

#define AHEAD_BYTES (16 * (off_t)CLUSTER_BYTES)

/*
 * Space for one cluster. At the end of the file it is asked for in larger steps: a call to the file system takes as long for many clusters as
 * for one. Clusters below have been in use and may have been punched out since: they ask for themselves.
 */
static int reserve_cluster(struct swap *swap, uint32_t cluster)
{
	off_t offset = cluster_offset(cluster);
	off_t end = end_below_cap(swap, offset + CLUSTER_BYTES), ahead = end_below_cap(swap, offset + AHEAD_BYTES);
	if (offset >= swap->ahead_from && end <= swap->ahead_to) {
		swap->ahead_from = end;
		return 0;
	}
	if (offset >= swap->ahead_to && ahead > end && reserve(swap, offset, ahead - offset) == 0) {
		swap->ahead_from = end;
		swap->ahead_to = ahead;
		return 0;
	}
	return reserve(swap, offset, end - offset);
}

static int write_header(struct swap *swap)
{
	_Alignas(4096) uint8_t page[PAGE_BYTES];
	swap_header_encode(&swap->header, page);
	ssize_t n = pwrite(swap->claim.fd, page, sizeof(page), 0);
	return n == (ssize_t)sizeof(page) ? 0 : n < 0 ? -errno : -EIO;
}

/*
 * O_DIRECT, if a transfer shows that it works: some file systems take the flag and refuse the I/O. Without it the page cache takes part, and is
 * told not to read ahead.
 */
static void choose_direct(struct swap *swap)
{
	_Alignas(4096) uint8_t page[PAGE_BYTES];
	int flags = fcntl(swap->claim.fd, F_GETFL);
	bool has_flag = !swap_io_is_forced("buffered") && flags >= 0 && fcntl(swap->claim.fd, F_SETFL, flags | O_DIRECT) == 0;
	swap->is_direct = has_flag && write_header(swap) == 0 && pread(swap->claim.fd, page, sizeof(page), 0) == (ssize_t)sizeof(page);
	if (swap->is_direct)
		return;
	if (has_flag)
		fcntl(swap->claim.fd, F_SETFL, flags);
	log_debug("swap file %s: no O_DIRECT here", swap->path);
	posix_fadvise(swap->claim.fd, 0, 0, POSIX_FADV_RANDOM);
}

/* Trimmer's thread. Gives the space of clusters that have been empty for a while back to the file system, outside the lock. */
static bool trim_step(void *owner)
{
	struct swap *swap = owner;
	uint32_t cluster;
	lock_take(&swap->lock);
	uint32_t nr = slot_map_begin_punch(swap->map, KEEP_EMPTY_CLUSTERS, PUNCH_AT_ONCE, &cluster);
	lock_drop(&swap->lock);
	if (!nr)
		return false;
	off_t offset = cluster_offset(cluster);
	off_t skip = cluster == 0 ? (off_t)PAGE_BYTES : 0; /* the header stays */
	bool gone = fallocate(swap->claim.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset + skip,
			      (off_t)nr * CLUSTER_BYTES - skip) == 0;
	lock_take(&swap->lock);
	slot_map_finish_punch(swap->map, cluster, nr, gone);
	lock_drop(&swap->lock);
	return gone;
}

static uint32_t slots_of(uint64_t size_bytes)
{
	uint64_t slots = size_bytes ? size_bytes / PAGE_BYTES + 1 : SLOT_OF_BASE; /* slot 0 is the header */
	return (uint32_t)MIN_OF(MAX_OF(slots, 2), SLOT_OF_BASE);
}

/* Reserves the header and the first cluster, so that a full disk shows now and not in the middle of the work. */
static int reserve_first(struct swap *swap)
{
	int r = reserve(swap, 0, end_below_cap(swap, CLUSTER_BYTES));
	if (r < 0)
		return r;
	if (slot_map_begin_reserve(swap->map, 0) == 0)
		slot_map_finish_reserve(swap->map, 0, true);
	return 0;
}

static int read_old_header(struct swap *swap, struct swap_error *error)
{
	uint8_t page[PAGE_BYTES];
	if (swap->claim.created || swap->claim.was_empty)
		return 0;
	ssize_t n = pread(swap->claim.fd, page, sizeof(page), 0);
	if (n < 0)
		return swap_error_system(error, swap->path, -errno);
	enum swap_header_kind kind =
		n == (ssize_t)sizeof(page) ? swap_header_decode(page, &swap->header) : SWAP_HEADER_FOREIGN;
	if (kind == SWAP_HEADER_OURS)
		return 0;
	if (kind == SWAP_HEADER_NEWER)
		return swap_error_set(error, swap->path, -EEXIST, "it is a membox swap file of a newer format");
	if (kind == SWAP_HEADER_DAMAGED)
		return swap_error_set(error, swap->path, -EEXIST, "its header is damaged (remove it if nothing in it is needed)");
	return swap_error_set(error, swap->path, -EEXIST, "it is not empty and not a membox swap file; it was left as it is");
}

static int prepare_file(struct swap *swap, const struct swap_options *options, struct swap_error *error)
{
	int r = read_old_header(swap, error);
	if (r < 0)
		return r;
	if (getrandom(swap->header.uuid, sizeof(swap->header.uuid), 0) < 0 || getrandom(&swap->seed, sizeof(swap->seed), 0) < 0)
		return swap_error_system(error, swap->path, -errno);
	if (swap->base)
		swap->seed = swap->base->seed;
	memset(swap->header.container, 0, sizeof(swap->header.container));
	memcpy(swap->header.container, options->container,
	       MIN_OF(strlen(options->container), sizeof(swap->header.container) - 1));
	swap->header.clean = swap->header.is_encrypted = false;
	r = ftruncate(swap->claim.fd, (off_t)PAGE_BYTES) < 0 ? -errno : 0;
	if (r == 0)
		r = write_header(swap);
	if (r == 0)
		r = reserve_first(swap);
	if (r < 0)
		return swap_error_system(error, swap->path, r);
	choose_direct(swap);
	return 0;
}

void swap_free(struct swap *swap)
{
	trimmer_free(swap->trimmer);
	slot_map_free(swap->map);
	pins_clear(&swap->pinned);
	pins_clear(&swap->collected);
	cipher_key_free(swap->key);
	free(swap->path);
	lock_destroy(&swap->lock);
	free(swap);
}

int swap_new(const char *path, uint32_t nr_slots, const struct swap_base *base, struct swap **ret_swap)
{
	struct swap *swap = calloc(1, sizeof(*swap));
	if (!swap)
		return -ENOMEM;
	lock_init(&swap->lock, LOCK_SWAP);
	swap->has_fallocate = true;
	swap->path = strdup(path);
	swap->nr_slots = nr_slots;
	swap->base = base;
	int r = swap->path ? slot_map_new(nr_slots, &swap->map) : -ENOMEM;
	if (r == 0)
		r = trimmer_new(trim_step, swap, &swap->trimmer);
	if (r < 0)
		swap_free(swap);
	else
		*ret_swap = swap;
	return r;
}

int swap_open(const struct swap_options *options, struct swap **ret_swap, struct swap_error *error)
{
	struct swap *swap;
	int r = swap_new(options->path, slots_of(options->size_bytes), options->base, &swap);
	if (r < 0)
		return swap_error_system(error, options->path, r);
	r = swap_claim_open(swap->path, &swap->claim, error);
	if (r == 0) {
		r = prepare_file(swap, options, error);
		if (r < 0) {
			if (swap->claim.created)
				swap_claim_unlink(&swap->claim);
			else if (swap->claim.was_empty && ftruncate(swap->claim.fd, 0) < 0)
				log_debug("swap file %s: cannot be emptied again", swap->path);
			swap_claim_release(&swap->claim);
		}
	}
	if (r < 0) {
		swap_free(swap);
		return r;
	}
	*ret_swap = swap;
	return 0;
}

void swap_close(struct swap *swap, bool remove_file)
{
	trimmer_free(steal_pointer(swap->trimmer));
	if (remove_file || swap->header.keeps_checkpoint) {
		swap_claim_unlink(&swap->claim);
	} else {
		swap->header.clean = true;
		if (ftruncate(swap->claim.fd, (off_t)PAGE_BYTES) < 0 || write_header(swap) < 0)
			log_error("cannot give back the space of swap file %s: %s", swap->path, strerror(errno));
	}
	swap_claim_release(&swap->claim);
	swap_free(swap);
}

int swap_encrypt(struct swap *swap)
{
	int r = cipher_key_new(&swap->key);
	if (r < 0)
		return r;
	swap->header.is_encrypted = true;
	return write_header(swap);
}

bool swap_is_encrypted(const struct swap *swap)
{
	return swap->key;
}

const uint8_t *swap_key(const struct swap *swap)
{
	return swap->key;
}

void swap_apply_cipher(const struct swap *swap, slot_t slot, void *page)
{
	const uint8_t *key = is_of_base(slot) ? swap->base->key : swap->key;
	if (key)
		cipher_apply(key, slot & ~SLOT_OF_BASE, swap_checksum(swap, slot), page);
}

bool swap_error_is_about_space(int error)
{
	return error == -ENOSPC || error == -EDQUOT || error == -EFBIG;
}

void swap_note_no_space(struct swap *swap)
{
	atomic_store(&swap->no_space_until_ns, monotonic_ns() + WRITE_RETRY_NS);
}

bool swap_has_no_space(const struct swap *swap)
{
	uint64_t until = atomic_load_explicit(&swap->no_space_until_ns, memory_order_relaxed);
	return until && monotonic_ns() < until;
}

/* Lock held. An attempt to grow has ended; that the disk fails, and is not just full, is said once. */
static void note_growth(struct swap *swap, int error)
{
	if (error < 0 && error != swap->grow_error && !swap_error_is_about_space(error))
		log_error("cannot get space for swap file %s: %s", swap->path, strerror(-error));
	swap->grow_error = error;
	swap->full_until_ns = error < 0 ? monotonic_ns() + FULL_RETRY_NS : 0;
}

int swap_alloc(struct swap *swap, uint32_t want, slot_t *ret_first, uint32_t *ret_nr)
{
	if (swap_has_no_space(swap))
		return -ENOSPC;
	for (;;) {
		uint32_t cluster;
		lock_take(&swap->lock);
		bool may_grow = !swap->full_until_ns || monotonic_ns() >= swap->full_until_ns;
		int r = slot_map_alloc_run(swap->map, want, may_grow, ret_first, ret_nr, &cluster);
		int grow_error = swap->grow_error;
		lock_drop(&swap->lock);
		if (r == -EBUSY) { /* a cluster is being punched out: it is free again in a moment */
			sched_yield();
			continue;
		}
		if (r != -EAGAIN)
			return r < 0 && grow_error < 0 && !swap_error_is_about_space(grow_error) ? grow_error : r == -ENOMEM ? -ENOSPC : r;
		r = reserve_cluster(swap, cluster);
		lock_take(&swap->lock);
		slot_map_finish_reserve(swap->map, cluster, r == 0);
		note_growth(swap, r);
		lock_drop(&swap->lock);
	}
}

void swap_get(struct swap *swap, slot_t slot)
{
	if (is_of_base(slot))
		return;
	lock_take(&swap->lock);
	slot_map_get(swap->map, slot);
	lock_drop(&swap->lock);
}

void swap_on_free(struct swap *swap, void (*freed)(void *context, slot_t slot), void *context)
{
	lock_take(&swap->lock);
	swap->freed = freed;
	swap->freed_context = context;
	lock_drop(&swap->lock);
}

void swap_put(struct swap *swap, slot_t slot)
{
	if (is_of_base(slot))
		return;
	lock_take(&swap->lock);
	if (swap->freed && slot_map_references(swap->map, slot) == 1)
		swap->freed(swap->freed_context, slot);
	bool emptied = slot_map_put(swap->map, slot) && slot_map_nr_empty(swap->map) > 2 * KEEP_EMPTY_CLUSTERS;
	lock_drop(&swap->lock);
	if (emptied)
		trimmer_wake(swap->trimmer);
}

/* Far from where the count would stick and the slot never be freed. */
#define MANY_REFERENCES 32768

bool swap_get_if_same(struct swap *swap, slot_t slot, uint64_t checksum)
{
	if (is_of_base(slot))
		return swap_checksum(swap, slot) == checksum;
	lock_take(&swap->lock);
	uint32_t references = slot_map_references(swap->map, slot);
	bool same = references && references < MANY_REFERENCES && slot_map_checksum(swap->map, slot) == checksum;
	if (same)
		slot_map_get(swap->map, slot);
	lock_drop(&swap->lock);
	return same;
}

bool swap_get_if_used(struct swap *swap, slot_t slot)
{
	if (is_of_base(slot))
		return true;
	lock_take(&swap->lock);
	uint32_t references = slot_map_references(swap->map, slot);
	if (references)
		slot_map_get(swap->map, slot);
	lock_drop(&swap->lock);
	return references;
}

uint32_t swap_references(struct swap *swap, slot_t slot)
{
	if (is_of_base(slot))
		return MANY_REFERENCES;
	lock_take(&swap->lock);
	uint32_t n = slot_map_references(swap->map, slot);
	lock_drop(&swap->lock);
	return n;
}

uint64_t swap_page_checksum(const struct swap *swap, const void *page)
{
	return XXH3_64bits_withSeed(page, PAGE_BYTES, swap->seed);
}

uint64_t swap_page_second_checksum(const struct swap *swap, const void *page)
{
	return XXH3_128bits_withSeed(page, PAGE_BYTES, swap->seed).high64;
}

void swap_set_checksum(struct swap *swap, slot_t slot, uint64_t checksum)
{
	slot_map_set_checksum(swap->map, slot, checksum);
}

uint64_t swap_checksum(const struct swap *swap, slot_t slot)
{
	if (is_of_base(slot))
		return swap->base->checksums[slot & ~SLOT_OF_BASE];
	return slot_map_checksum(swap->map, slot);
}

bool swap_has_arrived(const struct swap *swap, slot_t slot)
{
	return !is_of_base(slot) || __atomic_load_n(&swap->base->checksums[slot & ~SLOT_OF_BASE], __ATOMIC_ACQUIRE);
}

int swap_pin_new(struct swap *swap, slot_t slot)
{
	int r = pins_add(&swap->collected, slot);
	if (r <= 0) /* it is there already, or there is no memory for it */
		swap_put(swap, slot);
	return MIN_OF(r, 0);
}

int swap_pin_run(struct swap *swap, slot_t first, uint32_t nr)
{
	int r = 0;
	lock_take(&swap->lock);
	for (slot_t slot = first; r >= 0 && slot < first + nr; slot++) {
		r = pins_add(&swap->collected, slot);
		if (r > 0)
			slot_map_get(swap->map, slot);
	}
	lock_drop(&swap->lock);
	return MIN_OF(r, 0);
}

int swap_pin(struct swap *swap, slot_t slot)
{
	return swap_pin_run(swap, slot, 1);
}

static void unpin(slot_t slot, void *context)
{
	swap_put(context, slot);
}

static void unpin_if_twice(slot_t slot, void *context)
{
	struct swap *swap = context;
	if (pins_has(&swap->pinned, slot))
		swap_put(swap, slot);
}

static void keep_earlier(slot_t slot, void *context)
{
	struct swap *swap = context;
	pins_add(&swap->collected, slot); /* there is room: the highest slot was added first */
}

int swap_pins_commit(struct swap *swap, bool earlier_are_gone)
{
	if (earlier_are_gone) {
		pins_for_each(&swap->pinned, unpin, swap);
	} else {
		pins_for_each(&swap->collected, unpin_if_twice, swap);
		for (uint32_t end = swap->pinned.words * 64; end && swap->pinned.nr; end--) {
			if (!pins_has(&swap->pinned, end - 1))
				continue;
			if (pins_add(&swap->collected, end - 1) < 0)
				return -ENOMEM;
			break;
		}
		pins_for_each(&swap->pinned, keep_earlier, swap);
	}
	pins_clear(&swap->pinned);
	swap->pinned = swap->collected;
	swap->collected = (struct pins){0};
	return 0;
}

void swap_pins_cancel(struct swap *swap)
{
	pins_for_each(&swap->collected, unpin, swap);
	pins_clear(&swap->collected);
}

uint64_t swap_pinned_slots(const struct swap *swap)
{
	return swap->pinned.nr;
}

uint32_t swap_pins_end(const struct swap *swap)
{
	for (uint32_t slot = swap->collected.words * 64; slot; slot--)
		if (pins_has(&swap->collected, slot - 1))
			return slot;
	return 0;
}

struct checksums {
	const struct swap *swap;
	uint64_t *checksums;
};

static void add_checksum(slot_t slot, void *context)
{
	struct checksums *c = context;
	c->checksums[slot] = swap_checksum(c->swap, slot);
}

void swap_pins_checksums(const struct swap *swap, uint64_t *ret_checksums)
{
	struct checksums c = {swap, ret_checksums};
	pins_for_each(&swap->collected, add_checksum, &c);
}

uint64_t swap_links(const struct swap *swap)
{
	struct stat st;
	return fstat(swap->claim.fd, &st) == 0 ? st.st_nlink : UINT64_MAX;
}

int swap_keep(struct swap *swap, bool keep)
{
	bool before = swap->header.keeps_checkpoint;
	swap->header.keeps_checkpoint = keep;
	int r = write_header(swap);
	if (r < 0)
		swap->header.keeps_checkpoint = before;
	return r;
}

int swap_link(const struct swap *swap, int folder, const char *name)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/self/fd/%d", swap->claim.fd);
	return linkat(AT_FDCWD, path, folder, name, AT_SYMLINK_FOLLOW) < 0 ? -errno : 0;
}

/* All of it, or -errno. */
static int transfer(int fd, uint8_t *at, size_t left, off_t offset, bool is_write)
{
	while (left) {
		ssize_t n = is_write ? pwrite(fd, at, left, offset) : pread(fd, at, left, offset);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		at += n;
		offset += n;
		left -= (size_t)n;
	}
	return 0;
}

int swap_write(struct swap *swap, slot_t first, uint32_t nr, void *pages)
{
	uint8_t *page = pages;
	for (uint32_t i = 0; i < nr; i++)
		swap_apply_cipher(swap, first + i, page + i * PAGE_BYTES);
	return transfer(swap->claim.fd, page, (size_t)nr * PAGE_BYTES, (off_t)first * (off_t)PAGE_BYTES, true);
}

int swap_read(const struct swap *swap, slot_t first, uint32_t nr, void *pages)
{
	uint8_t *page = pages;
	int r = transfer(swap_fd_of(swap, first), page, (size_t)nr * PAGE_BYTES, (off_t)(first & ~SLOT_OF_BASE) * (off_t)PAGE_BYTES, false);
	for (uint32_t i = 0; r == 0 && i < nr; i++, page += PAGE_BYTES) {
		swap_apply_cipher(swap, first + i, page);
		r = swap_page_checksum(swap, page) == swap_checksum(swap, first + i) ? 0 : -EBADMSG;
	}
	return r;
}

int swap_base_read(const struct swap_base *base, slot_t first, uint32_t nr, void *pages)
{
	bool is_inside = first < base->nr_slots && nr <= base->nr_slots - first;
	uint8_t *page = pages;
	int r = is_inside ? transfer(base->fd, page, nr * PAGE_BYTES, (off_t)first * (off_t)PAGE_BYTES, false) : -EIO;
	for (slot_t slot = first; r == 0 && slot < first + nr; slot++, page += PAGE_BYTES) {
		if (base->key)
			cipher_apply(base->key, slot, base->checksums[slot], page);
		r = XXH3_64bits_withSeed(page, PAGE_BYTES, base->seed) == base->checksums[slot] ? 0 : -EBADMSG;
	}
	return r;
}

/* As choose_direct, for a file that is not written to. */
void swap_base_read_directly(const struct swap_base *base)
{
	_Alignas(4096) uint8_t page[PAGE_BYTES];
	int flags = swap_io_is_forced("buffered") ? -1 : fcntl(base->fd, F_GETFL);
	if (flags < 0 || fcntl(base->fd, F_SETFL, flags | O_DIRECT) < 0)
		return;
	if (pread(base->fd, page, sizeof(page), 0) < 0)
		fcntl(base->fd, F_SETFL, flags);
}

uint64_t swap_used_slots(struct swap *swap)
{
	lock_take(&swap->lock);
	uint64_t used = slot_map_used(swap->map);
	lock_drop(&swap->lock);
	return used;
}

uint64_t swap_total_slots(const struct swap *swap)
{
	return swap->nr_slots - 1;
}

bool swap_check(struct swap *swap)
{
	lock_take(&swap->lock);
	bool ok = slot_map_check(swap->map);
	lock_drop(&swap->lock);
	return ok;
}
