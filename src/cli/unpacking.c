#include "cli/unpacking.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "checkpoint/image.h"
#include "checkpoint/pack/unpack.h"
#include "cli/packing.h"

static void remove_draft(const void *what)
{
	image_draft_remove(what);
}

static int commit(struct image_draft *draft, const struct unpacked *unpacked, int pages, struct checkpoint_error *error)
{
	if (fdatasync(pages) < 0)
		return checkpoint_fail(error, -errno, "%.200s: %s", draft->path, strerror(errno));
	packing_block_signals();
	return image_draft_commit(draft, unpacked->message, unpacked->checksums, unpacked->message->pages->nr_slots, error);
}

static int unpack(int fd, const char *text, const char *file, struct image_draft *draft, struct unpacked *ret, struct checkpoint_error *error)
{
	struct packing_display display = {.text = text};
	struct pack_progress progress = packing_progress(&display);
	struct pack_reader *reader = NULL;
	_cleanup_close_ int pages = image_draft_create_pages(draft, error);
	struct unpack_options options = {.pages = pages, .path = draft->path, .progress = &progress};
	int r = pages < 0 ? pages : pack_reader_new(fd, file, &reader);
	if (r == -ENOMEM)
		checkpoint_fail(error, r, "%s: %s", text, strerror(ENOMEM));
	if (r == 0)
		r = unpack_stream(reader, &options, ret, error);
	if (r == 0)
		r = pack_reader_finish(reader, error);
	packing_clear(&display);
	if (r == 0)
		r = commit(draft, ret, pages, error);
	pack_reader_free(reader);
	return r;
}

static int open_input(const char *file, const char **ret_name)
{
	bool is_standard = !strcmp(file, "-");
	int fd = is_standard ? STDIN_FILENO : open(file, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	*ret_name = is_standard ? "standard input" : file;
	if (fd < 0)
		log_error("%s: %s", file, strerror(errno));
	else if (isatty(fd))
		log_error("%s: is a terminal (give a file, or a pipe from another program)", *ret_name);
	else
		return fd;
	if (fd > STDERR_FILENO)
		close(fd);
	return -1;
}

int unpacking_run(const char *text, const char *file, const char *folder, uint64_t *ret_pages)
{
	struct checkpoint_error error = {0};
	struct unpacked unpacked = {0};
	struct image_draft draft;
	const char *name;
	int fd = open_input(file, &name);
	if (fd < 0)
		return -EBADF;
	signal(SIGXFSZ, SIG_IGN);
	packing_block_signals();
	int r = image_draft_begin(folder, &draft, &error);
	if (r == 0) {
		packing_begin_undo(remove_draft, &draft);
		r = unpack(fd, text, name, &draft, &unpacked, &error);
		packing_block_signals();
		image_draft_end(&draft);
		packing_end_undo();
	}
	if (fd > STDERR_FILENO)
		close(fd);
	if (r < 0)
		log_error("%s", error.text);
	else
		*ret_pages = unpacked.pages;
	unpacked_release(&unpacked);
	return r;
}
