#include "checkpoint/validate.h"

#include <asm/termbits.h>
#include <linux/tty.h>
#include <sys/ioctl.h>

#include "base/types.h"
#include "checkpoint/process/inotify.h"
#include "swap/cipher.h"
#include "swap/swap.h"

static bool extents_make_sense(Image__Extent *const *extents, size_t nr, uint64_t start, uint64_t end, uint32_t nr_slots)
{
	for (size_t i = 0; i < nr; i++) {
		const Image__Extent *e = extents[i];
		uint64_t bytes = (uint64_t)e->nr_pages * PAGE_BYTES;
		if (e->start % PAGE_BYTES || e->start < start || e->start > end || bytes > end - e->start)
			return false;
		if (!e->slot || e->slot >= nr_slots || e->nr_pages > nr_slots - e->slot)
			return false;
	}
	return true;
}

static const char *look_at_memory(const Image__Image *image, const Image__Memory *memory)
{
	uint64_t last = 0;
	for (size_t i = 0; i < memory->n_mappings; i++) {
		const Image__Mapping *m = memory->mappings[i];
		if (m->start % PAGE_BYTES || m->end % PAGE_BYTES || m->start < last || m->end <= m->start || m->end > UINT64_C(1) << 47)
			return "mappings are not in order";
		if (!extents_make_sense(m->extents, m->n_extents, m->start, m->end, image->pages->nr_slots))
			return "pages lie outside their mapping, or in no slot";
		last = m->end;
	}
	return NULL;
}

static const char *look_at_process(const Image__Image *image, const Image__Process *p)
{
	if (p->pid <= 0)
		return "a process has no id";
	if (p->is_zombie)
		return p->memory ? "a process that has ended has memory" : NULL;
	if (!p->memory || !p->attributes || !p->n_threads || p->threads[0]->tid != p->pid)
		return "a process lacks its memory, its first thread or its attributes";
	for (size_t i = 0; i < p->n_threads; i++)
		if (!p->threads[i]->scheduling)
			return "a thread lacks its scheduling";
	for (size_t i = 0; i < p->n_descriptors; i++)
		if (p->descriptors[i]->file >= image->n_files || p->descriptors[i]->number > 1u << 30)
			return "a descriptor leads nowhere";
	return look_at_memory(image, p->memory);
}

static const char *look_at_file(const Image__Image *image, const Image__File *f)
{
	bool has_target = f->kind != IMAGE__FILE__KIND__PIDFD || !f->target;
	if (f->kind == IMAGE__FILE__KIND__SOCKET && !f->socket)
		return "a socket is not described";
	for (size_t i = 0; i < image->n_processes; i++)
		has_target |= image->processes[i]->pid == f->target;
	for (size_t i = 0; i < f->n_marks; i++)
		if (f->marks[i]->number > INOTIFY_NUMBER_MAX || (i && f->marks[i]->number <= f->marks[i - 1]->number))
			return "what is watched is not in order";
	bool has_terminal = f->kind != IMAGE__FILE__KIND__TERMINAL && f->kind != IMAGE__FILE__KIND__TERMINAL_MAKER;
	for (size_t i = 0; i < image->n_terminals; i++)
		has_terminal |= image->terminals[i]->number == f->terminal;
	if (!has_terminal)
		return "a terminal is made by nobody";
	return has_target ? NULL : "a pidfd is of no process";
}

static const char *look_at_terminals(const Image__Image *image)
{
	for (size_t i = 0; i < image->n_terminals; i++)
		if (image->terminals[i]->settings.len != sizeof(struct termios2) || image->terminals[i]->size.len != sizeof(struct winsize))
			return "a terminal has no settings";
	return NULL;
}

static const char *look_at_queues(const Image__Image *image)
{
	for (size_t i = 0; i < image->n_queues; i++)
		for (size_t k = 0; k < image->queues[i]->n_messages; k++)
			if (image->queues[i]->messages[k].len < sizeof(long))
				return "a message has no type";
	return NULL;
}

const char *image_find_nonsense(const Image__Image *image)
{
	const char *wrong = NULL;
	if (!image->machine || !image->container || !image->pages)
		return "a part is missing";
	if (image->pages->nr_slots > SLOT_OF_BASE)
		return "it has more slots than a swap file can have";
	if (image->pages->key.len && image->pages->key.len != CIPHER_KEY_BYTES)
		return "the key has a wrong length";
	for (size_t i = 0; !wrong && i < image->n_processes; i++)
		wrong = look_at_process(image, image->processes[i]);
	for (size_t i = 0; !wrong && i < image->n_files; i++)
		wrong = image->files[i]->id != i ? "an open file is not where it should be" : look_at_file(image, image->files[i]);
	if (!wrong)
		wrong = look_at_terminals(image);
	if (!wrong)
		wrong = look_at_queues(image);
	for (size_t i = 0; !wrong && i < image->n_objects; i++)
		if (!extents_make_sense(image->objects[i]->extents, image->objects[i]->n_extents, 0, page_ceil(image->objects[i]->bytes), image->pages->nr_slots))
			wrong = "shared memory lies outside its bounds, or in no slot";
	return wrong;
}
