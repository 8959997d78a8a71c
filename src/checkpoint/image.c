#include "checkpoint/image.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fault.h"
#include "base/xxh3.h"
#include "checkpoint/validate.h"
#include "platform/folders.h"

#define IMAGE_NAME "image.pb"
#define PAGES_NAME "pages"
#define CHECKSUMS_NAME "checksums"
#define FORMAT_VERSION 1u
#define DRAFT_SUFFIX ".XXXXXX"
#define DRAFT_SUFFIX_BYTES (sizeof(DRAFT_SUFFIX) - 1)

static const char magic[8] = {'M', 'E', 'M', 'B', 'O', 'X', 'I', 'M'};

/* Little-endian. */
struct file_header {
	char magic[8];
	uint32_t version;
	uint32_t zero;
	uint64_t bytes;    /* of the message, which follows */
	uint64_t checksum; /* XXH3-64, seed 0, of the message */
};

static const char *const names[] = {IMAGE_NAME, PAGES_NAME, CHECKSUMS_NAME};

static int fail_path(struct checkpoint_error *error, const char *path, int code)
{
	return checkpoint_fail(error, code, "%.200s: %s", path, strerror(-code));
}

/* -ENOENT: there is none; 0: an empty folder; 1: a checkpoint; or another -errno. */
static int look_at_target(const char *path)
{
	_cleanup_closedir_ DIR *dir = opendir(path);
	struct dirent *entry;
	bool is_empty = true;
	if (!dir)
		return -errno;
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, IMAGE_NAME))
			return 1;
		is_empty &= !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
	}
	return is_empty ? 0 : -ENOTEMPTY;
}

int image_draft_begin(const char *path, struct image_draft *ret, struct checkpoint_error *error)
{
	struct image_draft draft = {.folder = -1};
	size_t length = strlen(path);
	while (length > 1 && path[length - 1] == '/')
		length--;
	int there = look_at_target(path);
	if (there == -ENOTEMPTY)
		return checkpoint_fail(error, there, "%.200s: it is not empty and not a checkpoint; it was left as it is", path);
	if (there < 0 && there != -ENOENT)
		return fail_path(error, path, there);
	draft.replaces = there >= 0;
	draft.path = strndup(path, length);
	if (!draft.path || asprintf(&draft.work_path, "%s" DRAFT_SUFFIX, draft.path) < 0) {
		free(draft.path);
		return fail_path(error, path, -ENOMEM);
	}
	if (!mkdtemp(draft.work_path)) {
		int r = fail_path(error, path, -errno);
		free(draft.path);
		free(draft.work_path);
		return r;
	}
	draft.folder = open(draft.work_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*ret = draft;
	if (draft.folder >= 0)
		return 0;
	int r = fail_path(error, path, -errno);
	image_draft_end(ret);
	return r;
}

static void remove_folder(int at, const char *path)
{
	_cleanup_close_ int folder = openat(at, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	for (size_t i = 0; folder >= 0 && i < ARRAY_LEN(names); i++)
		unlinkat(folder, names[i], 0);
	unlinkat(at, path, AT_REMOVEDIR);
}

void image_remove(const char *path)
{
	remove_folder(AT_FDCWD, path);
}

void image_remove_drafts(const char *path)
{
	const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
	size_t length = strlen(name);
	_cleanup_free_ char *above = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
	_cleanup_closedir_ DIR *dir = above ? opendir(above) : NULL;
	struct dirent *entry;
	while (dir && (entry = readdir(dir)))
		if (!strncmp(entry->d_name, name, length) && entry->d_name[length] == '.' && strlen(entry->d_name + length) == DRAFT_SUFFIX_BYTES)
			remove_folder(dirfd(dir), entry->d_name);
}

void image_draft_remove(const struct image_draft *draft)
{
	if (draft->work_path)
		remove_folder(AT_FDCWD, draft->work_path);
}

void image_draft_end(struct image_draft *draft)
{
	image_draft_remove(draft);
	if (draft->folder >= 0)
		close(draft->folder);
	free(draft->path);
	free(draft->work_path);
	*draft = (struct image_draft){.folder = -1};
}

int image_draft_create_pages(const struct image_draft *draft, struct checkpoint_error *error)
{
	int fd = openat(draft->folder, PAGES_NAME, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	return fd < 0 ? fail_path(error, draft->path, -errno) : fd;
}

static int write_all(int fd, const void *data, size_t len)
{
	const char *from = data;
	while (len) {
		ssize_t n = write(fd, from, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		from += n;
		len -= (size_t)n;
	}
	return 0;
}

static int save_file(int folder, const char *name, const void *head, size_t head_bytes, const void *body, size_t body_bytes)
{
	_cleanup_close_ int fd = openat(folder, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	int r = fd < 0 ? -errno : write_all(fd, head, head_bytes);
	return r < 0 ? r : write_all(fd, body, body_bytes);
}

static int save_message(int folder, const Image__Image *image)
{
	size_t bytes = image__image__get_packed_size(image);
	_cleanup_free_ uint8_t *body = bytes <= IMAGE_MAX_BYTES ? malloc(bytes + 1) : NULL;
	if (!body)
		return -ENOMEM;
	image__image__pack(image, body);
	struct file_header header = {.version = htole32(FORMAT_VERSION), .bytes = htole64(bytes), .checksum = htole64(XXH3_64bits(body, bytes))};
	memcpy(header.magic, magic, sizeof(magic));
	return save_file(folder, IMAGE_NAME, &header, sizeof(header), body, bytes);
}

static int sync_file(int folder, const char *name)
{
	_cleanup_close_ int fd = openat(folder, name, O_RDONLY | O_CLOEXEC);
	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int sync_files(int folder)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < ARRAY_LEN(names); i++)
		r = sync_file(folder, names[i]);
	return r < 0 ? r : fsync(folder) < 0 ? -errno : 0;
}

int image_sync(const char *path)
{
	_cleanup_close_ int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int r = folder < 0 ? -errno : sync_files(folder);
	return r < 0 ? r : folder_sync_above(path);
}

/* An older one changes places with the new one, in one step, and is removed. */
static int give_name(struct image_draft *draft, bool sync)
{
	int r = renameat2(AT_FDCWD, draft->work_path, AT_FDCWD, draft->path, draft->replaces ? RENAME_EXCHANGE : RENAME_NOREPLACE) < 0 ? -errno : 0;
	FAULT_POINT("checkpoint.named");
	if (r == 0 && sync)
		r = folder_sync_above(draft->path);
	if (r == 0 && draft->replaces)
		remove_folder(AT_FDCWD, draft->work_path);
	FAULT_POINT("checkpoint.replaced");
	if (r == 0) {
		free(draft->work_path);
		draft->work_path = NULL;
	}
	return r;
}

static int commit(struct image_draft *draft, const Image__Image *image, const uint64_t *checksums, uint32_t nr_slots, bool sync,
		  struct checkpoint_error *error)
{
	int r = save_message(draft->folder, image);
	FAULT_POINT("checkpoint.message");
	if (r == 0)
		r = save_file(draft->folder, CHECKSUMS_NAME, NULL, 0, checksums, (size_t)nr_slots * sizeof(*checksums));
	if (r == 0 && sync)
		r = sync_files(draft->folder);
	FAULT_POINT("checkpoint.written");
	if (r == 0)
		r = give_name(draft, sync);
	return r < 0 ? fail_path(error, draft->path, r) : 0;
}

int image_draft_commit(struct image_draft *draft, const Image__Image *image, const uint64_t *checksums, uint32_t nr_slots,
		       struct checkpoint_error *error)
{
	return commit(draft, image, checksums, nr_slots, true, error);
}

int image_draft_commit_unsynced(struct image_draft *draft, const Image__Image *image, const uint64_t *checksums, uint32_t nr_slots,
				struct checkpoint_error *error)
{
	return commit(draft, image, checksums, nr_slots, false, error);
}

/* --- reading --- */

static int damaged(struct checkpoint_error *error, const char *path, const char *how)
{
	return checkpoint_fail(error, -EBADMSG, "%.200s: not a checkpoint of membox, or damaged: %s", path, how);
}

static int read_all(int fd, void *data, size_t len)
{
	char *to = data;
	while (len) {
		ssize_t n = read(fd, to, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		to += n;
		len -= (size_t)n;
	}
	return 0;
}

int image_decode(const void *message, size_t bytes, const char *path, Image__Image **ret, struct checkpoint_error *error)
{
	Image__Image *image = image__image__unpack(NULL, bytes, message);
	const char *wrong = image ? image_find_nonsense(image) : "the content of " IMAGE_NAME " is no description";
	if (!wrong) {
		*ret = image;
		return 0;
	}
	if (image)
		image__image__free_unpacked(image, NULL);
	return damaged(error, path, wrong);
}

static int load_message(int folder, const char *path, Image__Image **ret, struct checkpoint_error *error)
{
	struct file_header header;
	_cleanup_close_ int fd = openat(folder, IMAGE_NAME, O_RDONLY | O_CLOEXEC);
	struct stat st;
	if (fd < 0 || fstat(fd, &st) < 0)
		return errno == ENOENT ? damaged(error, path, "there is no file " IMAGE_NAME) : fail_path(error, path, -errno);
	if (read_all(fd, &header, sizeof(header)) < 0 || memcmp(header.magic, magic, sizeof(magic)))
		return damaged(error, path, "the file " IMAGE_NAME " does not begin as it must");
	uint64_t bytes = le64toh(header.bytes);
	if (le32toh(header.version) > FORMAT_VERSION)
		return checkpoint_fail(error, -ENOTSUP, "%.200s: it was written by a newer membox", path);
	if (bytes > IMAGE_MAX_BYTES || (uint64_t)st.st_size != sizeof(header) + bytes)
		return damaged(error, path, "the file " IMAGE_NAME " has another length than it should");
	_cleanup_free_ uint8_t *body = malloc(bytes + 1);
	int r = body ? read_all(fd, body, bytes) : -ENOMEM;
	if (r < 0)
		return fail_path(error, path, r);
	if (XXH3_64bits(body, bytes) != le64toh(header.checksum))
		return damaged(error, path, "the checksum of " IMAGE_NAME " is wrong");
	return image_decode(body, bytes, path, ret, error);
}

static int map_checksums(int folder, const char *path, struct image *image, struct checkpoint_error *error)
{
	_cleanup_close_ int fd = openat(folder, CHECKSUMS_NAME, O_RDONLY | O_CLOEXEC);
	struct stat st;
	image->checksums_bytes = (uint64_t)image->base.nr_slots * sizeof(uint64_t);
	if (fd < 0 || fstat(fd, &st) < 0 || (uint64_t)st.st_size != image->checksums_bytes)
		return damaged(error, path, "the file " CHECKSUMS_NAME " is missing or has another length than it should");
	if (!image->base.nr_slots)
		return 0;
	void *map = mmap(NULL, image->checksums_bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (map == MAP_FAILED)
		return fail_path(error, path, -errno);
	image->base.checksums = map;
	return 0;
}

static int open_pages(int folder, const char *path, struct image *image, struct checkpoint_error *error)
{
	struct stat st;
	image->base.fd = openat(folder, PAGES_NAME, O_RDONLY | O_CLOEXEC);
	if (asprintf(&image->pages_path, "%s/" PAGES_NAME, path) < 0) {
		image->pages_path = NULL;
		return fail_path(error, path, -ENOMEM);
	}
	image->base.path = image->pages_path;
	if (image->base.fd < 0 || fstat(image->base.fd, &st) < 0 || (uint64_t)st.st_size < (uint64_t)image->base.nr_slots * PAGE_BYTES)
		return damaged(error, path, "the file " PAGES_NAME " is missing or too short");
	posix_fadvise(image->base.fd, 0, 0, POSIX_FADV_RANDOM);
	return 0;
}

int image_open(const char *path, struct image *ret, struct checkpoint_error *error)
{
	_cleanup_close_ int folder = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	*ret = (struct image){.base.fd = -1};
	if (folder < 0)
		return fail_path(error, path, -errno);
	int r = load_message(folder, path, &ret->message, error);
	if (r == 0) {
		ret->base.nr_slots = ret->message->pages->nr_slots;
		ret->base.seed = ret->message->pages->checksum_seed;
		ret->base.key = ret->message->pages->key.len ? ret->message->pages->key.data : NULL;
		r = map_checksums(folder, path, ret, error);
	}
	if (r == 0)
		r = open_pages(folder, path, ret, error);
	if (r < 0)
		image_close(ret);
	return r;
}

void image_close(struct image *image)
{
	if (image->message)
		image__image__free_unpacked(image->message, NULL);
	if (image->base.checksums)
		munmap((void *)(uintptr_t)image->base.checksums, image->checksums_bytes);
	if (image->base.fd >= 0)
		close(image->base.fd);
	free(image->pages_path);
	*image = (struct image){.base.fd = -1};
}

void image_expect_pages(const struct image *image, uint32_t first, uint32_t nr)
{
	posix_fadvise(image->base.fd, (off_t)first * (off_t)PAGE_BYTES, (off_t)nr * (off_t)PAGE_BYTES, POSIX_FADV_WILLNEED);
}

int image_read_pages(const struct image *image, uint32_t first, uint32_t nr, void *pages)
{
	return swap_base_read(&image->base, first, nr, pages);
}
