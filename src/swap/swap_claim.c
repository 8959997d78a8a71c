#include "swap/swap_claim.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "swap/swap_header.h"

#define PATH_SHOWN 110 /* characters of a long path that fit in an error text */
#define OPEN_TRIES 20  /* the file comes and goes while other containers start and end */

/* --- error texts --- */

/* A path or a name out of a file may hold anything; the text is one line. */
static void make_printable(char *text)
{
	for (; *text; text++) {
		if (iscntrl((unsigned char)*text))
			*text = '?';
	}
}

int swap_error_set(struct swap_error *error, const char *path, int code, const char *format, ...)
{
	size_t length = strlen(path), room = sizeof(error->text);
	const char *dots = length > PATH_SHOWN ? "..." : "";
	va_list args;
	int n;

	if (!error)
		return code;
	if (length > PATH_SHOWN)
		path += length - PATH_SHOWN;
	n = snprintf(error->text, room, "cannot use swap file %s%s: ", dots, path);
	va_start(args, format);
	if (n > 0 && (size_t)n < room)
		vsnprintf(error->text + n, room - (size_t)n, format, args);
	va_end(args);
	make_printable(error->text);
	return code;
}

int swap_error_system(struct swap_error *error, const char *path, int code)
{
	char buffer[128];
	const char *why;

	switch (-code) {
	case EACCES:
		why = "permission denied";
		break;
	case EROFS:
		why = "the file system is read-only";
		break;
	case ENOSPC:
		why = "no space left on the file system";
		break;
	case EFBIG:
		why = "larger than files may be here (ulimit -f, or the file system)";
		break;
	case EDQUOT:
		why = "disk quota exceeded";
		break;
	case EISDIR:
		why = "it is a directory";
		break;
	case ENOTDIR:
		why = "a part of the path is not a directory";
		break;
	case EPERM:
		why = "operation not permitted (is the file immutable?)";
		break;
	case ETXTBSY:
		why = "the kernel or a running program uses the file";
		break;
	case ENOLCK:
	case EOPNOTSUPP:
	case ENOSYS:
		why = "the file system cannot lock files";
		break;
	default:
		why = strerror_r(-code, buffer, sizeof(buffer));
	}
	return swap_error_set(error, path, code, "%s", why);
}

/* --- looking at what is there --- */

static int refuse_type(mode_t mode, const char *path, struct swap_error *error)
{
	if (S_ISREG(mode))
		return 0;
	if (S_ISDIR(mode))
		return swap_error_system(error, path, -EISDIR);
	if (S_ISLNK(mode))
		return swap_error_set(error, path, -ELOOP, "it is a symbolic link (name the file itself)");
	return swap_error_set(error, path, -EINVAL, "it is not a regular file");
}

static int read_header(int fd, enum swap_header_kind *ret_kind, struct swap_header *ret_header)
{
	char page[PAGE_BYTES] = { 0 };
	ssize_t n;

	do
		n = pread(fd, page, sizeof(page), 0);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	*ret_kind = swap_header_decode(page, ret_header);
	if ((size_t)n < sizeof(page) && *ret_kind != SWAP_HEADER_FOREIGN)
		*ret_kind = SWAP_HEADER_DAMAGED;
	return 0;
}

/* 0 when the bytes in the file are worthless to everybody. */
static int refuse_contents(const char *path, enum swap_header_kind kind, const struct swap_header *header, struct swap_error *error)
{
	switch (kind) {
	case SWAP_HEADER_FOREIGN:
		return swap_error_set(error, path, -EEXIST,
		                      "it exists, is not empty and is not a membox swap file (not touched)");
	case SWAP_HEADER_NEWER:
		return swap_error_set(error, path, -EEXIST, "it was written by a newer membox (not touched)");
	case SWAP_HEADER_DAMAGED:
		return swap_error_set(error, path, -EEXIST, "its header is damaged (not touched; remove it by hand)");
	case SWAP_HEADER_OURS:
		if (header->keeps_checkpoint)
			return swap_error_set(error, path, -EEXIST, "it holds the pages of a checkpoint (not touched; remove it if that is not needed)");
		break;
	}
	return 0;
}

static int refuse_busy(const char *path, off_t size, enum swap_header_kind kind, const struct swap_header *header,
                       struct swap_error *error)
{
	if (size > 0 && kind == SWAP_HEADER_OURS)
		return swap_error_set(error, path, -EBUSY, "in use by container \"%s\"", header->container);
	if (size > 0 && kind == SWAP_HEADER_FOREIGN)
		return refuse_contents(path, kind, header, error);
	return swap_error_set(error, path, -EBUSY, "in use by another process");
}

static bool same_file(const struct swap_claim *claim, const struct stat *mine)
{
	struct stat named;

	return fstatat(claim->directory, claim->name, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
	       named.st_dev == mine->st_dev && named.st_ino == mine->st_ino;
}

/* --- claiming --- */

static int open_directory(const char *path, struct swap_claim *claim, struct swap_error *error)
{
	const char *slash = strrchr(path, '/');
	_cleanup_free_ char *directory = NULL;
	size_t length;

	claim->name = slash ? slash + 1 : path;
	if (*path == '\0')
		return swap_error_set(error, path, -EINVAL, "the name is empty");
	if (*claim->name == '\0' || strcmp(claim->name, ".") == 0 || strcmp(claim->name, "..") == 0)
		return swap_error_system(error, path, -EISDIR);

	length = slash ? (size_t)(slash - path) : 0;
	directory = slash ? strndup(path, MAX_OF(length, (size_t)1)) : strdup(".");
	if (!directory)
		return swap_error_system(error, path, -ENOMEM);
	claim->directory = open(directory, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (claim->directory >= 0)
		return 0;
	if (errno == ENOENT)
		return swap_error_set(error, path, -ENOENT, "the directory %.60s does not exist", directory);
	return swap_error_system(error, path, -errno);
}

/* One attempt to create or open: 0, -EAGAIN when the file appeared or vanished meanwhile, else the error is told. */
static int try_open(const char *path, struct swap_claim *claim, struct swap_error *error)
{
	const int flags = O_RDWR | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
	struct stat st;
	int r;

	if (fstatat(claim->directory, claim->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
		/* Looked at first, since merely opening a device may do something. */
		r = refuse_type(st.st_mode, path, error);
		if (r < 0)
			return r;
		claim->fd = openat(claim->directory, claim->name, flags);
		if (claim->fd < 0)
			return errno == ENOENT ? -EAGAIN : swap_error_system(error, path, -errno);
		claim->created = false;
		return 0;
	}
	if (errno != ENOENT)
		return swap_error_system(error, path, -errno);
	claim->fd = openat(claim->directory, claim->name, flags | O_CREAT | O_EXCL, 0600);
	if (claim->fd < 0)
		return errno == EEXIST ? -EAGAIN : swap_error_system(error, path, -errno);
	claim->created = true;
	return 0;
}

/*
 * Its keeper was killed while or after it made a checkpoint, which has the file under another name, or never came to be: this name is free. Not when it is
 * the checkpoint's own, beside its description.
 */
static bool is_left_by_checkpoint(const struct swap_claim *claim, const struct swap_header *header, const struct stat *st)
{
	return header->keeps_checkpoint && st->st_uid == geteuid() &&
	       faccessat(claim->directory, "image.pb", F_OK, AT_EACCESS) < 0 && errno == ENOENT;
}

static int lock_and_look(const char *path, struct swap_claim *claim, struct swap_error *error)
{
	enum swap_header_kind kind = SWAP_HEADER_FOREIGN;
	struct swap_header header;
	struct stat st;
	bool busy;
	int r;

	busy = flock(claim->fd, LOCK_EX | LOCK_NB) < 0;
	if (busy && errno != EWOULDBLOCK)
		return swap_error_system(error, path, -errno);
	r = read_header(claim->fd, &kind, &header);
	if (r < 0)
		return swap_error_system(error, path, r);
	if (fstat(claim->fd, &st) < 0)
		return swap_error_system(error, path, -errno);
	r = refuse_type(st.st_mode, path, error);
	if (r < 0)
		return r;
	if (!same_file(claim, &st)) /* removed by its last user between our open and our lock */
		return -EAGAIN;
	if (busy)
		return refuse_busy(path, st.st_size, kind, &header, error);
	claim->was_empty = !claim->created && st.st_size == 0;
	if (st.st_size > 0 && kind == SWAP_HEADER_OURS && is_left_by_checkpoint(claim, &header, &st))
		return unlinkat(claim->directory, claim->name, 0) < 0 ? swap_error_system(error, path, -errno) : -EAGAIN;
	if (st.st_size > 0) {
		r = refuse_contents(path, kind, &header, error);
		if (r < 0)
			return r;
	}
	/* Its owner could read what the program has in memory. */
	if (!claim->created && st.st_uid != geteuid())
		return swap_error_set(error, path, -EPERM, "it belongs to another user (uid %u)", (unsigned int)st.st_uid);
	return 0;
}

int swap_claim_open(const char *path, struct swap_claim *ret_claim, struct swap_error *error)
{
	struct swap_claim claim = { .fd = -1, .directory = -1 };
	int r;

	r = open_directory(path, &claim, error);
	for (int tries = 0; r == 0 && tries < OPEN_TRIES; tries++) {
		r = try_open(path, &claim, error);
		if (r == 0)
			r = lock_and_look(path, &claim, error);
		if (r == 0) {
			*ret_claim = claim;
			return 0;
		}
		if (claim.fd >= 0) {
			if (r != -EAGAIN && claim.created)
				swap_claim_unlink(&claim);
			close(steal_fd(&claim.fd));
		}
		if (r == -EAGAIN)
			r = tries + 1 < OPEN_TRIES ? 0 :
			    swap_error_set(error, path, -EBUSY, "other processes keep creating and removing it");
	}
	swap_claim_release(&claim);
	return r;
}

void swap_claim_unlink(const struct swap_claim *claim)
{
	struct stat mine;

	if (fstat(claim->fd, &mine) == 0 && same_file(claim, &mine))
		unlinkat(claim->directory, claim->name, 0);
}

void swap_claim_release(struct swap_claim *claim)
{
	if (claim->fd >= 0) {
		flock(claim->fd, LOCK_UN);
		close(steal_fd(&claim->fd));
	}
	if (claim->directory >= 0)
		close(steal_fd(&claim->directory));
}
