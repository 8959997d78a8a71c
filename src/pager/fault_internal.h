/* Private to serving faults: what fault.c, from memory, and load.c, from the swap file, use of each other. Layout lock held, but where it says so. */
#pragma once

#include "pager/fault.h"

#define POOL_MAX_WINDOW 32
/* An epoch that is never "just now", for pages that came along with the one that faulted. */
#define NOT_RECENT 128

/* --- fault.c --- */

/* The container is on its way to be killed. */
void fault_fatal(struct fault_context *context, const char *reason);
void fault_say_damaged(struct fault_context *context, slot_t slot, bool from_pool);

uint64_t fault_prepare_if_room(struct pager *pager, uint64_t want, bool counts);
uint64_t fault_prepare(struct fault_context *context, struct fault *fault, uint64_t want);
/* Room for some of so many pages that nobody waits for, if there is any. */
uint64_t fault_prepare_unasked(struct fault_context *context, const struct address_space *as, uint64_t want);
bool fault_is_in_pool(const struct pager *pager, slot_t slot);
uint8_t fault_epoch(const struct address_space *as);
remote_addr_t fault_chunk_start(remote_addr_t page, bool down, uint32_t filled, uint32_t n);
void fault_note_filled(struct address_space *as, remote_addr_t start, uint32_t nr_pages, struct window window);
void fault_drop_stale(struct pager *pager, struct address_space *as, remote_addr_t page);

/* --- load.c --- */

/* Has the page read that somebody waits for, and its window. */
enum fault_result load_start(struct fault_context *context, struct fault *fault, shadow_entry_t entry);

/* A fault on a page whose read is under way: only at a gate there is something to do. */
void load_pass_gate(struct fault_context *context, const struct fault *fault);

/* As fault_bring_back, of a page whose content is in the file. */
uint32_t load_bring_back(struct fault_context *context, struct address_space *as, remote_addr_t page, shadow_entry_t entry, uint32_t max);

/* Takes the layout lock. What is under way is given up: whoever waits for one of its pages faults again, and another thread serves it. */
void load_give_up(struct fault_context *context, struct load *load);
