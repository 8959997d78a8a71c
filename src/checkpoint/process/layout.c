/* What is mapped where, without the content of pages. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/family.h"
#include "checkpoint/objects.h"
#include "checkpoint/process/mapping_flags.h"
#include "checkpoint/process/process.h"
#include "checkpoint/system_v.h"
#include "platform/process.h"

#define USER_START 0x10000ull          /* vm.mmap_min_addr */
#define USER_END ((1ull << 47) - PAGE_BYTES)
#define KERNEL_RANGES_MAX 8
#define KERNEL_RANGES_BYTES (64 * PAGE_BYTES) /* all that the kernel maps itself fits in it */
#define SHADOW_STACK_FLAG "ss"

static const struct advice {
	const char *flag;
	uint32_t advice;
} advices[] = {
	{"sr", MADV_SEQUENTIAL}, {"rr", MADV_RANDOM},     {"dc", MADV_DONTFORK},   {"wf", MADV_WIPEONFORK},
	{"dd", MADV_DONTDUMP},   {"hg", MADV_HUGEPAGE},   {"nh", MADV_NOHUGEPAGE}, {"mg", MADV_MERGEABLE},
};

static int save_advice(struct saved_process *p, Image__Mapping *m, const char *flags)
{
	for (size_t i = 0; i < ARRAY_LEN(advices); i++) {
		if (!mapping_has_flag(flags, advices[i].flag))
			continue;
		uint32_t *slot = arena_grow(&p->saving->arena, &m->advice, m->n_advice, sizeof(*slot));
		if (!slot)
			return saved_no_memory(p->saving);
		*slot = advices[i].advice;
		m->n_advice++;
	}
	return 0;
}

static int refuse(struct saved_process *p, const Image__Mapping *m, const char *why)
{
	return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: mapping %llx-%llx%s%.100s: %s", p->pid, (unsigned long long)m->start,
			       (unsigned long long)m->end, m->path[0] ? " of " : "", m->path, why);
}

/* Memory that is shared, System V's too, and files that have been removed. */
static bool is_without_name(const char *path)
{
	size_t length = strlen(path);
	return length > 10 && !strcmp(path + length - 10, " (deleted)");
}

/* The file must be found again, and be the same then. */
static int save_file(struct saved_process *p, Image__Mapping *m, unsigned long long inode)
{
	struct stat st;
	int r = system_v_save_mapping(p, m, inode);
	if (r)
		return MIN_OF(r, 0);
	if (is_without_name(m->path)) {
		char path[64];
		snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", p->pid, (unsigned long long)m->start, (unsigned long long)m->end);
		m->kind = IMAGE__MAPPING__KIND__SHARED;
		return object_find(p, path, m->path, &m->object);
	}
	if (m->path[0] != '/' || stat(m->path, &st) < 0 || st.st_ino != inode || !S_ISREG(st.st_mode))
		return refuse(p, m, "its file has been replaced, or is none");
	m->kind = IMAGE__MAPPING__KIND__FILE;
	m->file_bytes = (uint64_t)st.st_size;
	m->file_changed_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
	return 0;
}

static bool is_of_kernel(const char *name)
{
	return !strncmp(name, "[vvar", 5) || !strcmp(name, "[vdso]");
}

static int classify(struct saved_process *p, Image__Mapping *m, const char *flags, unsigned long long inode)
{
	if (mapping_has_flag(flags, "ht"))
		return refuse(p, m, "huge pages of hugetlbfs");
	if (mapping_has_flag(flags, SHADOW_STACK_FLAG))
		return refuse(p, m, "a shadow stack");
	if ((mapping_has_flag(flags, "um") || mapping_has_flag(flags, "uw")) && !p->is_adopted)
		return refuse(p, m, "the program has put it under a userfaultfd of its own");
	if (!strncmp(m->path, "/[aio]", 6))
		return refuse(p, m, "asynchronous I/O (io_setup)");
	if (is_of_kernel(m->path)) {
		m->kind = IMAGE__MAPPING__KIND__KERNEL;
		p->message->memory->vdso = !strcmp(m->path, "[vdso]") ? m->start : p->message->memory->vdso;
		return 0;
	}
	if (mapping_has_flag(flags, "io") || mapping_has_flag(flags, "pf"))
		return refuse(p, m, "memory of a device");
	if (inode)
		return save_file(p, m, inode);
	if (m->path[0] && m->path[0] != '[')
		return refuse(p, m, "not known what it is");
	m->kind = IMAGE__MAPPING__KIND__ANONYMOUS;
	m->flags |= MAP_ANONYMOUS;
	return 0;
}

/* What is not the program's: the kernel's own page above all, and what membox has put there. */
static bool is_ours(const struct saved_process *p, remote_addr_t start, remote_addr_t end)
{
	bool is_ours = start >= USER_END || (start < p->remote.scratch + REMOTE_SCRATCH_BYTES && end > p->remote.scratch);
	for (size_t i = 0; i < ARRAY_LEN(p->ours); i++)
		is_ours |= start < p->ours[i].end && end > p->ours[i].start;
	return is_ours;
}

/* A line of /proc/PID/smaps that begins a mapping, and the flags that end it (proc(5)). */
static int save_mapping(struct saved_process *p, const char *line, const char *flags)
{
	unsigned long long start, end, offset, inode;
	char modes[5];
	int name_at = 0;
	if (sscanf(line, "%llx-%llx %4s %llx %*x:%*x %llu %n", &start, &end, modes, &offset, &inode, &name_at) < 5 || !name_at)
		return checkpoint_fail(&p->saving->error, -EPROTO, "process %d: /proc/%d/smaps is not understood", p->pid, p->pid);
	if (is_ours(p, start, end))
		return 0;
	struct arena *arena = &p->saving->arena;
	Image__Memory *memory = p->message->memory;
	Image__Mapping *m = arena_alloc(arena, sizeof(*m)), **slot = arena_grow(arena, &memory->mappings, memory->n_mappings, sizeof(*slot));
	if (!m || !slot)
		return saved_no_memory(p->saving);
	image__mapping__init(m);
	m->start = start;
	m->end = end;
	m->offset = offset;
	m->path = arena_strdup(arena, line + name_at);
	if (!m->path)
		return saved_no_memory(p->saving);
	m->protection = (uint32_t)((modes[0] == 'r' ? PROT_READ : 0) | (modes[1] == 'w' ? PROT_WRITE : 0) | (modes[2] == 'x' ? PROT_EXEC : 0));
	bool shared = modes[3] == 's';
	m->flags = shared ? MAP_SHARED : MAP_PRIVATE;
	m->flags |= mapping_has_flag(flags, "gd") ? MAP_GROWSDOWN : 0;
	m->flags |= mapping_has_flag(flags, "nr") ? MAP_NORESERVE : 0;
	m->locked = mapping_has_flag(flags, "lo");
	m->may_write = mapping_has_flag(flags, "mw");
	*slot = m;
	memory->n_mappings++;
	int r = classify(p, m, flags, inode);
	return r < 0 || m->kind == IMAGE__MAPPING__KIND__KERNEL ? r : save_advice(p, m, flags);
}

/* True when all flags are known that the lines of /proc/PID/maps do not show. */
static bool is_all_known(const struct saved_process *p, const struct mappings_seen *seen, const char *maps)
{
	bool is_known = true;
	for (const char *line = maps; is_known && line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		unsigned long start, end;
		is_known = sscanf(line, "%lx-%lx", &start, &end) == 2 && (is_ours(p, start, end) || mapping_flags_of(seen, line));
	}
	return is_known;
}

/* 1: something is new since it was looked at, and all have to be looked at once more. */
static int save_mappings_as_seen(struct saved_process *p, const struct mappings_seen *seen)
{
	char *text = proc_text(&p->saving->arena, p->pid, "maps", NULL), *next = NULL;
	int r = 0;
	if (!text || !is_all_known(p, seen, text))
		return 1;
	for (char *line = text; r == 0 && line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		r = save_mapping(p, line, mapping_flags_of(seen, line));
	}
	return r;
}

static int save_mappings(struct saved_process *p)
{
	const struct mappings_seen *seen = saved_mappings_seen(p->saving, p->pid);
	int as_seen = seen ? save_mappings_as_seen(p, seen) : 1;
	if (as_seen <= 0)
		return as_seen;
	char *text = proc_text(&p->saving->arena, p->pid, "smaps", NULL), *next = NULL, *head = NULL;
	if (!text)
		return checkpoint_fail(&p->saving->error, -EIO, "process %d: cannot read /proc/%d/smaps", p->pid, p->pid);
	for (char *line = text; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (strncmp(line, "VmFlags:", 8)) {
			const char *dash = line + strspn(line, "0123456789abcdef");
			head = dash > line && *dash == '-' ? line : head;
			continue;
		}
		const char *flags = line + 8 + strspn(line + 8, " ");
		int r = head ? save_mapping(p, head, flags) : -EPROTO;
		if (r < 0)
			return r;
	}
	return 0;
}

/* Fields of /proc/PID/stat, counted from 1 (proc(5)). */
static uint64_t stat_field(const char *text, int number)
{
	const char *at = strrchr(text, ')');
	for (int i = 2; at && i < number; i++)
		at = strchr(at + 1, ' ');
	return at ? strtoull(at + 1, NULL, 10) : 0;
}

int layout_save(struct saved_process *p)
{
	struct arena *arena = &p->saving->arena;
	Image__Memory *memory = arena_alloc(arena, sizeof(*memory));
	char *stat = proc_text(arena, p->pid, "stat", NULL);
	size_t auxv_len = 0;
	char *auxv = proc_text(arena, p->pid, "auxv", &auxv_len);
	if (!memory || !stat || !auxv)
		return saved_no_memory(p->saving);
	image__memory__init(memory);
	p->message->memory = memory;
	memory->executable = proc_link(arena, p->pid, "exe");
	if (!memory->executable)
		return checkpoint_fail(&p->saving->error, -errno, "process %d: its program is not known: %s", p->pid, strerror(errno));
	memory->auxv.data = (uint8_t *)auxv;
	memory->auxv.len = auxv_len;
	memory->start_code = stat_field(stat, 26);
	memory->end_code = stat_field(stat, 27);
	memory->start_stack = stat_field(stat, 28);
	memory->start_data = stat_field(stat, 45);
	memory->end_data = stat_field(stat, 46);
	memory->start_brk = stat_field(stat, 47);
	memory->arg_start = stat_field(stat, 48);
	memory->arg_end = stat_field(stat, 49);
	memory->env_start = stat_field(stat, 50);
	memory->env_end = stat_field(stat, 51);
	long brk = REMOTE_CALL(&p->remote, SYS_brk, 0, 0, 0, 0, 0, 0);
	if (brk < 0)
		return checkpoint_fail(&p->saving->error, (int)brk, "process %d: the end of its heap: %s", p->pid, strerror((int)-brk));
	memory->brk = (uint64_t)brk;
	return save_mappings(p);
}

/* --- restore --- */

static int fail_restore(struct restored_process *p, const Image__Mapping *m, const char *what, long code)
{
	return checkpoint_fail(&p->restoring->error, (int)code, "process %d: mapping %llx-%llx%s%.100s: %s: %s", p->pid, (unsigned long long)m->start,
			       (unsigned long long)m->end, m->path[0] ? " of " : "", m->path, what, strerror((int)-code));
}

struct kernel_range {
	remote_addr_t start, end;
	char name[32];
};

struct kernel_ranges {
	struct kernel_range items[KERNEL_RANGES_MAX];
	size_t nr;
};

/* What the kernel has mapped by itself, in address order. */
static int find_kernel_ranges(pid_t pid, struct kernel_ranges *ret)
{
	struct arena arena = {0};
	char *text = proc_text(&arena, pid, "maps", NULL), *next = NULL;
	ret->nr = 0;
	for (char *line = text; line && *line; line = next) {
		struct kernel_range range = {0};
		unsigned long long start, end;
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		char *name = strchr(line, '[');
		if (!name || !is_of_kernel(name) || sscanf(line, "%llx-%llx", &start, &end) != 2 || ret->nr == KERNEL_RANGES_MAX)
			continue;
		range.start = start;
		range.end = end;
		snprintf(range.name, sizeof(range.name), "%s", name);
		ret->items[ret->nr++] = range;
	}
	arena_release(&arena);
	return text ? 0 : -ESRCH;
}

static bool is_free_of(remote_addr_t start, remote_addr_t end, const struct kernel_ranges *ranges)
{
	for (size_t i = 0; i < ranges->nr; i++)
		if (start < ranges->items[i].end && ranges->items[i].start < end)
			return false;
	return true;
}

/* Room of `bytes` that neither the image nor what the kernel has mapped now takes, nor the family's pages. 0: there is none. */
static remote_addr_t find_gap(const struct restored_process *p, const struct kernel_ranges *now, uint64_t bytes)
{
	const Image__Memory *memory = p->message->memory;
	remote_addr_t at = USER_START;
	for (size_t i = 0; i <= memory->n_mappings; i++) {
		remote_addr_t start = i < memory->n_mappings ? memory->mappings[i]->start : USER_END;
		for (; at + bytes <= start; at += KERNEL_RANGES_BYTES)
			if (is_free_of(at, at + bytes, now) && !family_is_at(p->restoring->family, at, at + bytes))
				return at;
		at = i < memory->n_mappings ? MAX_OF(at, memory->mappings[i]->end) : at;
	}
	return 0;
}

/* A copy of us has a restartable sequence registered, in memory that is going to be unmapped. */
static long forget_rseq(struct restored_process *p)
{
	long r = 0;
#ifdef PTRACE_GET_RSEQ_CONFIGURATION
	struct __ptrace_rseq_configuration area = {0};
	if (ptrace(PTRACE_GET_RSEQ_CONFIGURATION, p->pid, sizeof(area), &area) < 0)
		r = errno == EIO ? 0 : -errno; /* a kernel without the request has forgotten it at fork, or has none */
	if (r == 0 && area.rseq_abi_pointer)
		r = REMOTE_CALL(&p->remote, SYS_rseq, area.rseq_abi_pointer, area.rseq_abi_size, 1 /* RSEQ_FLAG_UNREGISTER */, area.signature, 0, 0);
#endif
	if (r >= 0)
		r = REMOTE_CALL(&p->remote, SYS_set_robust_list, 0, 24, 0, 0, 0, 0);
	return r < 0 ? r : REMOTE_CALL(&p->remote, SYS_set_tid_address, 0, 0, 0, 0, 0, 0);
}

/* What is left is what the kernel has mapped, and what is inherited on purpose. */
static long unmap_rest(struct restored_process *p, const struct kernel_ranges *now)
{
	if (p->has_inherited)
		return REMOTE_CALL(&p->remote, SYS_munmap, p->leftover, REMOTE_SCRATCH_BYTES, 0, 0, 0, 0);
	remote_addr_t at = 0;
	long r = 0;
	for (size_t i = 0; r == 0 && i <= now->nr; i++) {
		remote_addr_t start = i < now->nr ? now->items[i].start : USER_END;
		if (start > at)
			r = REMOTE_CALL(&p->remote, SYS_munmap, at, start - at, 0, 0, 0, 0);
		at = i < now->nr ? now->items[i].end : at;
	}
	return r;
}

static long move_range(struct restored_process *p, struct kernel_range *range, remote_addr_t to)
{
	uint64_t bytes = range->end - range->start;
	remote_addr_t pc = world_syscall_address(p->remote.world);
	if (to == range->start)
		return 0;
	long r = REMOTE_CALL(&p->remote, SYS_mremap, range->start, bytes, bytes, MREMAP_MAYMOVE | MREMAP_FIXED, to, 0);
	if (r < 0)
		return r;
	if (pc >= range->start && pc < range->end)
		world_use_syscall_at(p->remote.world, pc - range->start + to);
	range->start = to;
	range->end = to + bytes;
	return 0;
}

static const Image__Mapping *find_kernel_mapping(const Image__Memory *memory, const char *name)
{
	for (size_t i = 0; i < memory->n_mappings; i++)
		if (memory->mappings[i]->kind == IMAGE__MAPPING__KIND__KERNEL && !strcmp(memory->mappings[i]->path, name))
			return memory->mappings[i];
	return NULL;
}

/* By way of a free place, because old and new places may overlap. One that the image does not have goes. */
static int place_kernel_ranges(struct restored_process *p, struct kernel_ranges *now, remote_addr_t free_place)
{
	const Image__Memory *memory = p->message->memory;
	remote_addr_t at = free_place;
	for (size_t i = 0; i < now->nr; i++) {
		uint64_t bytes = now->items[i].end - now->items[i].start;
		const Image__Mapping *m = find_kernel_mapping(memory, now->items[i].name);
		if (!m || m->end - m->start != bytes)
			return checkpoint_fail(&p->restoring->error, -ENOTSUP, "process %d: this kernel's %s is not the one of the checkpoint", p->pid,
					       now->items[i].name);
		long r = move_range(p, &now->items[i], at);
		if (r < 0)
			return checkpoint_fail(&p->restoring->error, (int)r, "process %d: %s: %s", p->pid, now->items[i].name, strerror((int)-r));
		at += bytes;
	}
	for (size_t i = 0; i < now->nr; i++) {
		long r = move_range(p, &now->items[i], find_kernel_mapping(memory, now->items[i].name)->start);
		if (r < 0)
			return checkpoint_fail(&p->restoring->error, (int)r, "process %d: %s: %s", p->pid, now->items[i].name, strerror((int)-r));
	}
	return 0;
}

int layout_clear(struct restored_process *p)
{
	struct kernel_ranges now;
	int r = find_kernel_ranges(p->pid, &now);
	remote_addr_t place = r == 0 ? find_gap(p, &now, KERNEL_RANGES_BYTES + REMOTE_SCRATCH_BYTES) : 0;
	if (!place)
		return checkpoint_fail(&p->restoring->error, -ENOMEM, "process %d: no free place among its mappings", p->pid);
	long done = forget_rseq(p);
	if (done >= 0)
		done = REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_THP_DISABLE, 1, 0, 0, 0, 0);
	if (done >= 0)
		done = unmap_rest(p, &now);
	if (done < 0)
		return checkpoint_fail(&p->restoring->error, (int)done, "process %d: cannot be emptied: %s", p->pid, strerror((int)-done));
	r = place_kernel_ranges(p, &now, place);
	if (r < 0)
		return r;
	r = remote_open(&p->remote, p->remote.world, place + KERNEL_RANGES_BYTES);
	return r < 0 ? checkpoint_fail(&p->restoring->error, r, "process %d: no memory: %s", p->pid, strerror(-r)) : 0;
}

int mapping_check_file(const Image__Mapping *m)
{
	struct stat st;
	if (stat(m->path, &st) < 0)
		return -errno;
	uint64_t changed_ns = (uint64_t)st.st_mtim.tv_sec * 1000000000u + (uint64_t)st.st_mtim.tv_nsec;
	bool is_written = m->flags & MAP_SHARED && m->may_write; /* by the program itself, or others that share it */
	if (!is_written && ((uint64_t)st.st_size != m->file_bytes || changed_ns != m->file_changed_ns))
		return -ESTALE;
	return 0;
}

static int open_file(struct restored_process *p, const Image__Mapping *m)
{
	int r = mapping_check_file(m);
	if (r < 0)
		return fail_restore(p, m, r == -ESTALE ? "its file is not what it was" : "its file", r);
	int flags = (m->flags & MAP_SHARED && m->may_write ? O_RDWR : O_RDONLY) | O_CLOEXEC;
	remote_addr_t path = remote_put(&p->remote, 0, m->path, strlen(m->path) + 1);
	long fd = path ? REMOTE_CALL(&p->remote, SYS_openat, (uint64_t)AT_FDCWD, path, (uint64_t)flags, 0, 0, 0) : -EFAULT;
	return fd < 0 ? fail_restore(p, m, "its file", fd) : (int)fd;
}

static int map(struct restored_process *p, const Image__Mapping *m)
{
	bool is_file = m->kind == IMAGE__MAPPING__KIND__FILE;
	uint64_t bytes = m->end - m->start;
	if (m->kind == IMAGE__MAPPING__KIND__SYSTEM_V) {
		long attached = system_v_attach(p, m);
		return attached < 0 ? fail_restore(p, m, "cannot be attached", attached) : 0;
	}
	int fd = is_file ? open_file(p, m) : -1;
	if (is_file && fd < 0)
		return fd;
	int source = m->kind == IMAGE__MAPPING__KIND__SHARED ? object_fd(p->restoring, m->object) : fd;
	long r = REMOTE_CALL(&p->remote, SYS_mmap, m->start, bytes, m->protection, m->flags | MAP_FIXED_NOREPLACE, (uint64_t)source, source < 0 ? 0 : m->offset);
	if (fd >= 0)
		REMOTE_CALL(&p->remote, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return r < 0 ? fail_restore(p, m, "cannot be made", r) : 0;
}

static int restore_mapping(struct restored_process *p, const Image__Mapping *m)
{
	bool is_there = p->has_inherited && family_has_mapping(p->restoring->family, m);
	int r = is_there ? 0 : map(p, m);
	for (size_t i = 0; r == 0 && i < m->n_advice; i++)
		REMOTE_CALL(&p->remote, SYS_madvise, m->start, m->end - m->start, m->advice[i], 0, 0, 0);
	return r;
}

/* What /proc shows and brk(2) works with: prctl(2), PR_SET_MM_MAP. */
static int restore_description(struct restored_process *p)
{
	const Image__Memory *memory = p->message->memory;
	struct {
		struct prctl_mm_map map;
		uint8_t auxv[1024];
	} data = {0};
	size_t auxv_bytes = MIN_OF(memory->auxv.len, sizeof(data.auxv));
	memcpy(data.auxv, memory->auxv.data, auxv_bytes);
	data.map = (struct prctl_mm_map){
		.start_code = memory->start_code, .end_code = memory->end_code, .start_data = memory->start_data, .end_data = memory->end_data,
		.start_brk = memory->start_brk, .brk = memory->brk, .start_stack = memory->start_stack, .arg_start = memory->arg_start,
		.arg_end = memory->arg_end, .env_start = memory->env_start, .env_end = memory->env_end,
		.auxv = (void *)(uintptr_t)(p->remote.scratch + offsetof(typeof(data), auxv)), .auxv_size = (uint32_t)auxv_bytes, .exe_fd = (uint32_t)-1};
	remote_addr_t path = remote_put(&p->remote, 4096, memory->executable, strlen(memory->executable) + 1);
	long exe = path ? REMOTE_CALL(&p->remote, SYS_openat, (uint64_t)AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0, 0, 0) : -EFAULT;
	data.map.exe_fd = exe >= 0 ? (uint32_t)exe : (uint32_t)-1;
	remote_addr_t at = remote_put(&p->remote, 0, &data, sizeof(data));
	long r = at ? REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, at, sizeof(data.map), 0, 0) : -EFAULT;
	if (r < 0 && exe >= 0) { /* another program's name needs CAP_CHECKPOINT_RESTORE: without it /proc/PID/exe is membox */
		data.map.exe_fd = (uint32_t)-1;
		at = remote_put(&p->remote, 0, &data, sizeof(data));
		r = at ? REMOTE_CALL(&p->remote, SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, at, sizeof(data.map), 0, 0) : -EFAULT;
	}
	if (exe >= 0)
		REMOTE_CALL(&p->remote, SYS_close, (uint64_t)exe, 0, 0, 0, 0, 0);
	return r < 0 ? checkpoint_fail(&p->restoring->error, (int)r, "process %d: description of its memory: %s", p->pid, strerror((int)-r)) : 0;
}

int layout_restore(struct restored_process *p)
{
	const Image__Memory *memory = p->message->memory;
	int r = p->has_inherited ? family_keep_own(p->restoring->family, p) : 0;
	for (size_t i = 0; r == 0 && i < memory->n_mappings; i++)
		if (memory->mappings[i]->kind != IMAGE__MAPPING__KIND__KERNEL)
			r = restore_mapping(p, memory->mappings[i]);
	return r < 0 ? r : restore_description(p);
}
