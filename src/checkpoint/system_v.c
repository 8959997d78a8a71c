#include "checkpoint/system_v.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/objects.h"
#include "checkpoint/pages.h"

#ifndef MSG_COPY
#define MSG_COPY 040000
#endif
#define SHM_DEST_MODE 01000u   /* removed, and there as long as it is attached (the kernel's SHM_DEST) */
#define SHM_LOCKED_MODE 02000u
#define SHM_HUGETLB_MODE 04000u
#define MESSAGE_MAX (REMOTE_SCRATCH_BYTES - PAGE_BYTES)

/* Each of the three kinds, for what is done with all alike. */
static const struct kind {
	const char *name, *next_id;
	long get, control;
	int info, stat_any; /* commands of control */
} kinds[] = {
	{"shared memory", "/proc/sys/kernel/shm_next_id", SYS_shmget, SYS_shmctl, SHM_INFO, SHM_STAT_ANY},
	{"semaphores", "/proc/sys/kernel/sem_next_id", SYS_semget, SYS_semctl, SEM_INFO, SEM_STAT_ANY},
	{"message queue", "/proc/sys/kernel/msg_next_id", SYS_msgget, SYS_msgctl, MSG_INFO, MSG_STAT_ANY},
};
enum { SHARED_MEMORY, SEMAPHORES, MESSAGES };

static int refuse(struct saving *saving, int kind, int id, const char *why)
{
	return checkpoint_fail(&saving->error, -ENOTSUP, "System V %s %d: %s", kinds[kind].name, id, why);
}

/* semctl has its number of a semaphore before the command. */
static long control(const struct remote *remote, int kind, long id, int command, uint64_t argument)
{
	if (kind == SEMAPHORES)
		return REMOTE_CALL(remote, kinds[kind].control, (uint64_t)id, 0, (uint64_t)command, argument, 0, 0);
	return REMOTE_CALL(remote, kinds[kind].control, (uint64_t)id, (uint64_t)command, argument, 0, 0, 0);
}

/* --- save --- */

int system_v_save_mapping(struct saved_process *p, Image__Mapping *m, uint64_t inode)
{
	char path[64];
	if (!p->saving->is_isolated || strncmp(m->path, "/SYSV", 5))
		return 0;
	snprintf(path, sizeof(path), "/proc/%d/map_files/%llx-%llx", p->pid, (unsigned long long)m->start, (unsigned long long)m->end);
	m->kind = IMAGE__MAPPING__KIND__SYSTEM_V;
	m->segment = (uint32_t)inode;
	int r = object_find_as(p, path, m->path, OBJECT_OF_SEGMENT | inode);
	return r < 0 ? r : 1;
}

/* A segment that nobody has attached is read where we attach it. */
static int save_detached(struct saved_process *p, int id, uint64_t bytes)
{
	char path[64];
	long at = REMOTE_CALL(&p->remote, SYS_shmat, (uint64_t)id, 0, SHM_RDONLY, 0, 0, 0);
	if (at < 0)
		return refuse(p->saving, SHARED_MEMORY, id, strerror((int)-at));
	snprintf(path, sizeof(path), "/proc/%d/map_files/%lx-%llx", p->pid, (unsigned long)at, (unsigned long long)((uint64_t)at + page_ceil(bytes)));
	int r = object_find_as(p, path, "System V shared memory", OBJECT_OF_SEGMENT | (uint64_t)id);
	REMOTE_CALL(&p->remote, SYS_shmdt, (uint64_t)at, 0, 0, 0, 0, 0);
	return r;
}

/* It is attached as a whole again: each time that it is now it has to be there as a whole. */
static int check_pieces(struct saved_process *p, const Image__Process *message, uint32_t id, uint64_t bytes)
{
	uint64_t end = 0, offset = 0;
	bool is_inside = false;
	for (size_t i = 0; message->memory && i < message->memory->n_mappings; i++) {
		const Image__Mapping *m = message->memory->mappings[i];
		if (m->kind != IMAGE__MAPPING__KIND__SYSTEM_V || m->segment != id)
			continue;
		if (is_inside ? m->start != end || m->offset != offset : m->offset != 0)
			return refuse(p->saving, SHARED_MEMORY, (int)id, "a part of where it was attached is not mapped any more");
		end = m->end;
		offset = m->offset + (m->end - m->start);
		is_inside = offset < page_ceil(bytes);
	}
	return is_inside ? refuse(p->saving, SHARED_MEMORY, (int)id, "a part of where it was attached is not mapped any more") : 0;
}

static int check_owner(struct saving *saving, int kind, int id, const struct ipc_perm *perm)
{
	bool is_mixed = perm->uid != perm->cuid || perm->gid != perm->cgid;
	return is_mixed ? refuse(saving, kind, id, "it belongs to another user than the one who has made it") : 0;
}

static int save_segment(struct saved_process *p, int id)
{
	struct saving *saving = p->saving;
	struct shmid_ds ds;
	Image__Segment **slot = arena_grow(&saving->arena, &saving->image->segments, saving->image->n_segments, sizeof(*slot));
	Image__Segment *s = arena_alloc(&saving->arena, sizeof(*s));
	if (!slot || !s)
		return saved_no_memory(saving);
	if (remote_get(&p->remote, 0, &ds, sizeof(ds)) < 0)
		return refuse(saving, SHARED_MEMORY, id, strerror(EFAULT));
	image__segment__init(s);
	s->id = (uint32_t)id;
	s->key = (uint32_t)ds.shm_perm.__key;
	s->mode = ds.shm_perm.mode & 0777;
	s->is_removed = ds.shm_perm.mode & SHM_DEST_MODE;
	s->bytes = ds.shm_segsz;
	s->object = OBJECT_OF_SEGMENT | (uint64_t)id;
	*slot = s;
	saving->image->n_segments++;
	if (ds.shm_perm.mode & SHM_HUGETLB_MODE)
		return refuse(saving, SHARED_MEMORY, id, "huge pages");
	if (ds.shm_perm.mode & SHM_LOCKED_MODE)
		return refuse(saving, SHARED_MEMORY, id, "it is locked in memory");
	int r = check_owner(saving, SHARED_MEMORY, id, &ds.shm_perm);
	for (size_t i = 0; r == 0 && i < saving->image->n_processes; i++)
		r = check_pieces(p, saving->image->processes[i], s->id, s->bytes);
	return r == 0 && !object_is_saved(saving->image, s->object) ? save_detached(p, id, s->bytes) : r;
}

static int save_semaphores(struct saved_process *p, int id)
{
	struct saving *saving = p->saving;
	struct semid_ds ds;
	Image__Semaphores **slot = arena_grow(&saving->arena, &saving->image->semaphores, saving->image->n_semaphores, sizeof(*slot));
	Image__Semaphores *s = arena_alloc(&saving->arena, sizeof(*s));
	if (!slot || !s)
		return saved_no_memory(saving);
	if (remote_get(&p->remote, 0, &ds, sizeof(ds)) < 0)
		return refuse(saving, SEMAPHORES, id, strerror(EFAULT));
	image__semaphores__init(s);
	s->id = (uint32_t)id;
	s->key = (uint32_t)ds.sem_perm.__key;
	s->mode = ds.sem_perm.mode & 0777;
	s->values.len = ds.sem_nsems * sizeof(uint16_t);
	s->values.data = arena_alloc(&saving->arena, s->values.len);
	*slot = s;
	saving->image->n_semaphores++;
	long r = s->values.data ? control(&p->remote, SEMAPHORES, id, GETALL, p->remote.scratch) : -ENOMEM;
	if (r >= 0)
		r = remote_get(&p->remote, 0, s->values.data, s->values.len);
	return r < 0 ? refuse(saving, SEMAPHORES, id, strerror((int)-r)) : check_owner(saving, SEMAPHORES, id, &ds.sem_perm);
}

/* A copy of each message; it stays where it is (MSG_COPY, msgop(2)). */
static int save_messages(struct saved_process *p, Image__Queue *q, uint64_t nr)
{
	struct arena *arena = &p->saving->arena;
	for (uint64_t i = 0; i < nr; i++) {
		long bytes = REMOTE_CALL(&p->remote, SYS_msgrcv, q->id, p->remote.scratch, MESSAGE_MAX, i, MSG_COPY | IPC_NOWAIT, 0);
		if (bytes < 0)
			return refuse(p->saving, MESSAGES, (int)q->id, strerror((int)-bytes));
		ProtobufCBinaryData *message = arena_grow(arena, &q->messages, q->n_messages, sizeof(*message));
		if (!message || !(message->data = arena_alloc(arena, sizeof(long) + (size_t)bytes)))
			return saved_no_memory(p->saving);
		message->len = sizeof(long) + (size_t)bytes;
		q->n_messages++;
		if (remote_get(&p->remote, 0, message->data, message->len) < 0)
			return refuse(p->saving, MESSAGES, (int)q->id, strerror(EFAULT));
	}
	return 0;
}

static int save_queue(struct saved_process *p, int id)
{
	struct saving *saving = p->saving;
	struct msqid_ds ds;
	Image__Queue **slot = arena_grow(&saving->arena, &saving->image->queues, saving->image->n_queues, sizeof(*slot));
	Image__Queue *q = arena_alloc(&saving->arena, sizeof(*q));
	if (!slot || !q)
		return saved_no_memory(saving);
	if (remote_get(&p->remote, 0, &ds, sizeof(ds)) < 0)
		return refuse(saving, MESSAGES, id, strerror(EFAULT));
	image__queue__init(q);
	q->id = (uint32_t)id;
	q->key = (uint32_t)ds.msg_perm.__key;
	q->mode = ds.msg_perm.mode & 0777;
	q->capacity = ds.msg_qbytes;
	*slot = q;
	saving->image->n_queues++;
	int r = check_owner(saving, MESSAGES, id, &ds.msg_perm);
	return r == 0 ? save_messages(p, q, ds.msg_qnum) : r;
}

static int save_all_of(struct saved_process *p, int kind, int (*save_one)(struct saved_process *p, int id))
{
	long last = control(&p->remote, kind, 0, kinds[kind].info, p->remote.scratch);
	int r = 0;
	for (long i = 0; r == 0 && i <= last; i++) {
		long id = control(&p->remote, kind, i, kinds[kind].stat_any, p->remote.scratch);
		if (id >= 0)
			r = save_one(p, (int)id);
	}
	return r;
}

int system_v_check_namespace(struct saved_process *p)
{
	char *own = proc_link(&p->saving->arena, p->pid, "ns/ipc");
	if (!own)
		return saved_no_memory(p->saving);
	if (!p->saving->ipc_namespace)
		p->saving->ipc_namespace = own;
	return !strcmp(own, p->saving->ipc_namespace) ? 0 : checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d: it has an IPC namespace of its own", p->pid);
}

int system_v_save(struct saved_process *p)
{
	int r = save_all_of(p, SHARED_MEMORY, save_segment);
	if (r == 0)
		r = save_all_of(p, SEMAPHORES, save_semaphores);
	return r == 0 ? save_all_of(p, MESSAGES, save_queue) : r;
}

/* --- restore --- */

static int fail(struct restored_process *p, int kind, uint32_t id, long code)
{
	return checkpoint_fail(&p->restoring->error, (int)code, "System V %s %u: %s", kinds[kind].name, id, strerror((int)-code));
}

/* The next that is made gets this id. */
static long request_id(const struct remote *remote, int kind, uint32_t id)
{
	char text[16];
	int length = snprintf(text, sizeof(text), "%u", id);
	remote_addr_t path = remote_put(remote, PAGE_BYTES, kinds[kind].next_id, strlen(kinds[kind].next_id) + 1);
	remote_addr_t number = path ? remote_put(remote, 0, text, sizeof(text)) : 0;
	long fd = number ? REMOTE_CALL(remote, SYS_openat, (uint64_t)AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0, 0, 0) : -EFAULT;
	if (fd < 0)
		return fd;
	long n = REMOTE_CALL(remote, SYS_write, (uint64_t)fd, number, (uint64_t)length, 0, 0, 0);
	REMOTE_CALL(remote, SYS_close, (uint64_t)fd, 0, 0, 0, 0, 0);
	return n < 0 ? n : 0;
}

/* amount: bytes of memory, or semaphores. */
static long make(const struct remote *remote, int kind, uint32_t id, uint32_t key, uint64_t amount, uint32_t mode)
{
	uint64_t flags = IPC_CREAT | IPC_EXCL | mode;
	long r = request_id(remote, kind, id);
	if (r < 0)
		return r;
	r = kind == MESSAGES ? REMOTE_CALL(remote, kinds[kind].get, key, flags, 0, 0, 0, 0) : REMOTE_CALL(remote, kinds[kind].get, key, amount, flags, 0, 0, 0);
	return r >= 0 && r != (long)id ? -EEXIST : r;
}

static const Image__Object *find_object(const Image__Image *image, uint64_t id)
{
	for (size_t i = 0; i < image->n_objects; i++)
		if (image->objects[i]->id == id)
			return image->objects[i];
	return NULL;
}

static int put_content(struct restored_process *p, const Image__Object *object, remote_addr_t at)
{
	_cleanup_close_ int memory = pages_open_memory(p->pid);
	uint8_t content[PAGE_BYTES];
	int r = MIN_OF(memory, 0);
	for (size_t i = 0; r == 0 && object && i < object->n_extents; i++)
		for (uint32_t k = 0; r == 0 && k < object->extents[i]->nr_pages; k++) {
			uint64_t page = at + object->extents[i]->start + k * PAGE_BYTES;
			r = image_read_page(p->restoring->image, object->extents[i]->slot + k, content);
			if (r == 0 && pwrite(memory, content, sizeof(content), (off_t)page) != (ssize_t)sizeof(content))
				r = -EIO;
		}
	return r;
}

static int restore_segment(struct restored_process *p, const Image__Segment *s)
{
	long r = make(&p->remote, SHARED_MEMORY, s->id, s->key, s->bytes, s->mode);
	if (r >= 0)
		r = REMOTE_CALL(&p->remote, SYS_shmat, s->id, 0, 0, 0, 0, 0);
	if (r < 0)
		return fail(p, SHARED_MEMORY, s->id, r);
	int put = put_content(p, find_object(p->restoring->image->message, s->object), (remote_addr_t)r);
	r = REMOTE_CALL(&p->remote, SYS_shmdt, (uint64_t)r, 0, 0, 0, 0, 0);
	return put < 0 || r < 0 ? fail(p, SHARED_MEMORY, s->id, put < 0 ? put : r) : 0;
}

static int restore_semaphores(struct restored_process *p, const Image__Semaphores *s)
{
	long r = make(&p->remote, SEMAPHORES, s->id, s->key, s->values.len / sizeof(uint16_t), s->mode);
	remote_addr_t at = r < 0 ? 0 : remote_put(&p->remote, 0, s->values.data, s->values.len);
	if (r >= 0)
		r = at ? control(&p->remote, SEMAPHORES, s->id, SETALL, at) : -EFAULT;
	return r < 0 ? fail(p, SEMAPHORES, s->id, r) : 0;
}

/* A program may have been allowed less, or more, than is usual. */
static long set_capacity(const struct remote *remote, const Image__Queue *q)
{
	struct msqid_ds ds;
	long r = control(remote, MESSAGES, q->id, IPC_STAT, remote->scratch);
	if (r >= 0)
		r = remote_get(remote, 0, &ds, sizeof(ds));
	if (r < 0 || ds.msg_qbytes == q->capacity)
		return r;
	ds.msg_qbytes = q->capacity;
	remote_addr_t at = remote_put(remote, 0, &ds, sizeof(ds));
	return at ? control(remote, MESSAGES, q->id, IPC_SET, at) : -EFAULT;
}

static int restore_queue(struct restored_process *p, const Image__Queue *q)
{
	long r = make(&p->remote, MESSAGES, q->id, q->key, 0, q->mode);
	if (r >= 0)
		r = set_capacity(&p->remote, q);
	for (size_t i = 0; r >= 0 && i < q->n_messages; i++) {
		remote_addr_t at = remote_put(&p->remote, 0, q->messages[i].data, q->messages[i].len);
		r = at ? REMOTE_CALL(&p->remote, SYS_msgsnd, q->id, at, q->messages[i].len - sizeof(long), IPC_NOWAIT, 0, 0) : -EFAULT;
	}
	return r < 0 ? fail(p, MESSAGES, q->id, r) : 0;
}

int system_v_restore(struct restored_process *first)
{
	const Image__Image *image = first->restoring->image->message;
	int r = 0;
	for (size_t i = 0; r == 0 && i < image->n_segments; i++)
		r = restore_segment(first, image->segments[i]);
	for (size_t i = 0; r == 0 && i < image->n_semaphores; i++)
		r = restore_semaphores(first, image->semaphores[i]);
	for (size_t i = 0; r == 0 && i < image->n_queues; i++)
		r = restore_queue(first, image->queues[i]);
	return r;
}

long system_v_attach(struct restored_process *p, const Image__Mapping *m)
{
	uint64_t flags = (m->may_write ? 0 : SHM_RDONLY) | (m->protection & PROT_EXEC ? SHM_EXEC : 0);
	long r = m->offset ? 0 : REMOTE_CALL(&p->remote, SYS_shmat, m->segment, m->start, flags, 0, 0, 0);
	return r < 0 ? r : REMOTE_CALL(&p->remote, SYS_mprotect, m->start, m->end - m->start, m->protection, 0, 0, 0);
}

int system_v_remove(struct restored_process *first)
{
	const Image__Image *image = first->restoring->image->message;
	for (size_t i = 0; i < image->n_segments; i++) {
		long r = image->segments[i]->is_removed ? control(&first->remote, SHARED_MEMORY, image->segments[i]->id, IPC_RMID, 0) : 0;
		if (r < 0)
			return fail(first, SHARED_MEMORY, image->segments[i]->id, r);
	}
	return 0;
}
