#include "checkpoint/objects.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/pages.h"

/* Its name as /proc shows it, for people and for memfd_create: without what the kernel puts around it. */
static char *short_name(struct arena *arena, const char *name)
{
	char *copy = arena_strdup(arena, strncmp(name, "/memfd:", 7) ? name : name + 7);
	size_t length = copy ? strlen(copy) : 0;
	if (length > 10 && !strcmp(copy + length - 10, " (deleted)"))
		copy[length - 10] = '\0';
	return copy;
}

static int save_content(struct saved_process *p, Image__Object *object, int fd)
{
	off_t end = (off_t)object->bytes;
	for (off_t at = lseek(fd, 0, SEEK_DATA); at >= 0 && at < end;) {
		off_t hole = lseek(fd, at, SEEK_HOLE);
		int r = pages_save_file(p, object, fd, (uint64_t)at, (uint64_t)(hole < 0 ? end : hole));
		if (r < 0)
			return r;
		at = hole < 0 || hole >= end ? end : lseek(fd, hole, SEEK_DATA);
	}
	return 0;
}

static uint64_t id_of(const struct stat *st)
{
	return ((uint64_t)st->st_dev << 40 ^ st->st_ino) & ~OBJECT_OF_SEGMENT;
}

static int open_object(struct saved_process *p, const char *path, const char *name, struct stat *ret)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && fstat(fd, ret) == 0)
		return fd;
	int error = errno;
	if (fd >= 0)
		close(fd);
	return checkpoint_fail(&p->saving->error, -error, "process %d: %.100s cannot be read (%s): that needs CAP_CHECKPOINT_RESTORE", p->pid, name, strerror(error));
}

bool object_is_saved(const Image__Image *image, uint64_t id)
{
	for (size_t i = 0; i < image->n_objects; i++)
		if (image->objects[i]->id == id)
			return true;
	return false;
}

static int save_object(struct saved_process *p, int fd, const struct stat *st, const char *name, uint64_t id)
{
	struct saving *saving = p->saving;
	if (object_is_saved(saving->image, id))
		return 0;
	Image__Object **slot = arena_grow(&saving->arena, &saving->image->objects, saving->image->n_objects, sizeof(*slot));
	Image__Object *object = arena_alloc(&saving->arena, sizeof(*object));
	if (!slot || !object)
		return saved_no_memory(saving);
	image__object__init(object);
	object->id = id;
	object->name = short_name(&saving->arena, name);
	object->bytes = (uint64_t)st->st_size;
	if (!object->name)
		return saved_no_memory(saving);
	*slot = object;
	saving->image->n_objects++;
	return save_content(p, object, fd);
}

int object_find(struct saved_process *p, const char *path, const char *name, uint64_t *ret_id)
{
	struct stat st;
	_cleanup_close_ int fd = open_object(p, path, name, &st);
	if (fd < 0)
		return fd;
	*ret_id = id_of(&st);
	return save_object(p, fd, &st, name, *ret_id);
}

int object_find_as(struct saved_process *p, const char *path, const char *name, uint64_t id)
{
	struct stat st;
	_cleanup_close_ int fd = open_object(p, path, name, &st);
	return fd < 0 ? fd : save_object(p, fd, &st, name, id);
}

static int make_object(struct restoring *r, const Image__Object *object, int above)
{
	const char *slash = strrchr(object->name, '/');
	_cleanup_close_ int fd = memfd_create(slash ? slash + 1 : object->name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint8_t content[PAGE_BYTES];
	if (fd < 0 || ftruncate(fd, (off_t)object->bytes) < 0)
		return -errno;
	for (size_t i = 0; i < object->n_extents; i++) {
		const Image__Extent *extent = object->extents[i];
		for (uint32_t k = 0; k < extent->nr_pages; k++) {
			uint64_t at = extent->start + (uint64_t)k * PAGE_BYTES;
			int result = image_read_page(r->image, extent->slot + k, content);
			size_t bytes = at < object->bytes ? MIN_OF(PAGE_BYTES, object->bytes - at) : 0;
			if (result < 0)
				return result;
			if (pwrite(fd, content, bytes, (off_t)at) != (ssize_t)bytes)
				return -errno;
		}
	}
	int high = fcntl(fd, F_DUPFD_CLOEXEC, above);
	return high < 0 ? -errno : high;
}

int objects_restore(struct restoring *r, int above)
{
	const Image__Image *image = r->image->message;
	r->objects = calloc(image->n_objects + 1, sizeof(*r->objects));
	if (!r->objects)
		return checkpoint_fail(&r->error, -ENOMEM, "restore: %s", strerror(ENOMEM));
	for (size_t i = 0; i < image->n_objects; i++)
		r->objects[i] = -1;
	for (size_t i = 0; i < image->n_objects; i++) {
		if (image->objects[i]->id & OBJECT_OF_SEGMENT)
			continue;
		r->objects[i] = make_object(r, image->objects[i], above);
		if (r->objects[i] < 0)
			return checkpoint_fail(&r->error, r->objects[i], "shared memory %.100s: %s", image->objects[i]->name, strerror(-r->objects[i]));
	}
	return 0;
}

void objects_close(struct restoring *r)
{
	for (size_t i = 0; r->objects && i < r->image->message->n_objects; i++)
		if (r->objects[i] >= 0)
			close(r->objects[i]);
	free(r->objects);
	r->objects = NULL;
}

int object_fd(const struct restoring *r, uint64_t id)
{
	for (size_t i = 0; i < r->image->message->n_objects; i++)
		if (r->image->message->objects[i]->id == id)
			return r->objects[i];
	return -1;
}
