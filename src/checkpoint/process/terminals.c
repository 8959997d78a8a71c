#include "checkpoint/process/terminals.h"

#include <asm/termbits.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <linux/tty.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "platform/process.h"

#define TERMINAL_MAJOR 136       /* of /dev/pts; the number is the minor one */
#define INPUT_MAX 4000           /* a terminal holds 4095 characters that wait */
#define PIECE 64u                /* bytes of output */
#define LAST_PIECE 1500u
#define WORKER_TIMEOUT_MS 5000   /* for what only the kernel's own worker has to do */
#define MAX_TRIES 4096           /* terminals that are opened to get the one with a number */

static int refuse(struct saving *saving, pid_t pid, int fd, const char *why)
{
	return checkpoint_fail(&saving->error, -ENOTSUP, "process %d, descriptor %d (pseudo terminal): %s", pid, fd, why);
}

static int take(pid_t pid, int fd)
{
	_cleanup_close_ int pidfd = pidfd_open_process(pid);
	return pidfd < 0 ? pidfd : pidfd_take_fd(pidfd, fd);
}

static Image__Terminal *find_terminal(const Image__Image *image, uint32_t number)
{
	for (size_t i = 0; i < image->n_terminals; i++)
		if (image->terminals[i]->number == number)
			return image->terminals[i];
	return NULL;
}

static bool has_open_end(const Image__Image *image, const Image__Terminal *t)
{
	for (size_t i = 0; i < image->n_files; i++)
		if (image->files[i]->kind == IMAGE__FILE__KIND__TERMINAL && image->files[i]->terminal == t->number)
			return true;
	return false;
}

/* --- what waits --- */

static int append(struct arena *arena, ProtobufCBinaryData *data, const void *more, size_t bytes)
{
	uint8_t *larger = arena_alloc(arena, data->len + bytes);
	if (!larger)
		return -ENOMEM;
	if (data->len)
		memcpy(larger, data->data, data->len);
	memcpy(larger + data->len, more, bytes);
	data->data = larger;
	data->len += bytes;
	return 0;
}

static int add_input(struct arena *arena, Image__Terminal *t, const void *content, size_t bytes, bool is_complete)
{
	Image__Input **slot = arena_grow(arena, &t->input, t->n_input, sizeof(*slot)), *input = arena_alloc(arena, sizeof(*input));
	if (!slot || !input)
		return -ENOMEM;
	image__input__init(input);
	input->is_complete = is_complete;
	*slot = input;
	t->n_input++;
	return append(arena, &input->content, content, bytes);
}

static bool is_in_lines(const struct termios2 *settings)
{
	return settings->c_lflag & ICANON;
}

/* Whole lines one by one: only so is it known where they end, and that an end of file waits (a line without anything). */
static int take_lines(struct arena *arena, int end, Image__Terminal *t)
{
	char line[8192];
	ssize_t n;
	int r = 0;
	while (r == 0 && (n = read(end, line, sizeof(line))) >= 0)
		r = add_input(arena, t, line, (size_t)n, true);
	return r < 0 ? r : errno == EAGAIN ? 0 : -errno;
}

/* Characters that are no line yet, or that come as such. In lines they can be read only when it is not told in lines for a moment. */
static int take_characters(struct arena *arena, int end, Image__Terminal *t, const struct termios2 *settings)
{
	struct termios2 plain = *settings;
	char content[8192];
	plain.c_lflag &= ~(tcflag_t)ICANON;
	plain.c_cc[VMIN] = plain.c_cc[VTIME] = 0;
	if (ioctl(end, TCSETS2, &plain) < 0)
		return -errno;
	ssize_t n, last = 0;
	int r = 0;
	while (r == 0 && (n = last = read(end, content, sizeof(content))) > 0)
		r = add_input(arena, t, content, (size_t)n, false);
	if (r == 0 && last < 0 && errno != EAGAIN)
		r = -errno;
	return ioctl(end, TCSETS2, settings) < 0 && r == 0 ? -errno : r;
}

static int take_output(struct arena *arena, int maker, Image__Terminal *t)
{
	char content[8192];
	ssize_t n;
	int r = 0;
	while (r == 0 && (n = read(maker, content, sizeof(content))) > 0)
		r = append(arena, &t->output, content, (size_t)n);
	return r;
}

/* A character that occurs nowhere in the input, other than `other`; 0: there is none. */
static uint8_t unused_character(const Image__Terminal *t, uint8_t other)
{
	bool is_used[256] = {[0] = true, ['\n'] = true};
	is_used[other] = true;
	for (size_t i = 0; i < t->n_input; i++)
		for (size_t k = 0; k < t->input[i]->content.len; k++)
			is_used[t->input[i]->content.data[k]] = true;
	for (unsigned int c = 255; c; c--)
		if (!is_used[c])
			return (uint8_t)c;
	return 0;
}

static int write_all(int fd, const void *data, size_t bytes)
{
	ssize_t n = bytes ? write(fd, data, bytes) : 0;
	return n == (ssize_t)bytes ? 0 : n < 0 ? -errno : -ENOSPC;
}

/* The kernel works on what the maker writes by and by. All of it is done when all of its echo is there, which is taken away. */
static int await_echo(int maker, size_t bytes)
{
	char echo[8192];
	while (bytes) {
		struct pollfd ready = {.fd = maker, .events = POLLIN};
		ssize_t n = poll(&ready, 1, WORKER_TIMEOUT_MS) == 1 ? read(maker, echo, MIN_OF(bytes, sizeof(echo))) : -1;
		if (n <= 0)
			return -EIO;
		bytes -= (size_t)n;
	}
	return 0;
}

/*
 * Writes the input so that it is again as it was: lines with their ends, characters without one. A line that does not end in one was ended by a character of its own, or by
 * an end of file; both read the same, and are made by an end of file. Behind everything goes a character that is taken back: its echo says that an end of
 * file before it, which has none, is done too.
 */
static int put_input(struct arena *arena, int maker, const Image__Terminal *t, const struct termios2 *settings)
{
	struct termios2 plain = {.c_cflag = settings->c_cflag, .c_lflag = (settings->c_lflag & ICANON) | ECHO, .c_ispeed = settings->c_ispeed, .c_ospeed = settings->c_ospeed};
	ProtobufCBinaryData stream = {0};
	size_t echoed = 0;
	int r = 0;
	plain.c_cc[VEOF] = unused_character(t, 0);
	plain.c_cc[VERASE] = unused_character(t, plain.c_cc[VEOF]);
	if (!plain.c_cc[VERASE])
		return -EOVERFLOW;
	plain.c_cc[VMIN] = is_in_lines(settings) ? 0 : 1;
	for (size_t i = 0; r == 0 && i < t->n_input; i++) {
		const ProtobufCBinaryData *content = &t->input[i]->content;
		bool is_ended = content->len && content->data[content->len - 1] == '\n';
		r = append(arena, &stream, content->data, content->len);
		echoed += content->len;
		if (r == 0 && is_in_lines(settings) && t->input[i]->is_complete && !is_ended)
			r = append(arena, &stream, &plain.c_cc[VEOF], 1);
	}
	if (r == 0 && is_in_lines(settings)) {
		const uint8_t taken_back[2] = {'x', plain.c_cc[VERASE]};
		r = append(arena, &stream, taken_back, sizeof(taken_back));
		echoed += sizeof(taken_back);
	}
	if (r == 0 && ioctl(maker, TCSETS2, &plain) < 0)
		return -errno;
	if (r == 0)
		r = write_all(maker, stream.data, stream.len);
	if (r == 0)
		r = await_echo(maker, echoed);
	return ioctl(maker, TCSETS2, settings) < 0 && r == 0 ? -errno : r;
}

/*
 * A terminal that was full takes all of it again, if it is written as densely: the kernel keeps small pieces in buffers of one size, which it fills, and gives large ones
 * buffers of their own. It takes one more piece, of any size, when nothing but that piece is left. And it is not taken at once: the kernel's worker
 * has to move the first part from where it is written to where it is read, which it tells nobody.
 */
static int write_output(int end, const uint8_t *data, size_t bytes)
{
	for (int waited_ms = 0; bytes && waited_ms < WORKER_TIMEOUT_MS;) {
		struct pollfd ready = {.fd = end, .events = POLLOUT};
		ssize_t n = write(end, data, bytes > LAST_PIECE ? MIN_OF(bytes - LAST_PIECE, PIECE) : bytes);
		if (n < 0 && errno != EAGAIN)
			return -errno;
		data += MAX_OF(n, 0);
		bytes -= (size_t)MAX_OF(n, 0);
		if (bytes && n <= 0)
			waited_ms += poll(&ready, 1, 1) == 0;
	}
	return bytes ? -EIO : 0;
}

static int put_output(int end, const Image__Terminal *t, const struct termios2 *settings)
{
	struct termios2 plain = *settings;
	plain.c_oflag &= ~(tcflag_t)OPOST;
	int r = ioctl(end, TCSETS2, &plain) < 0 ? -errno : write_output(end, t->output.data, t->output.len);
	return ioctl(end, TCSETS2, settings) < 0 && r == 0 ? -errno : r;
}

/* Both ends do not wait, packets are off, and nothing is in there. */
static int fill(struct arena *arena, int maker, int end, const Image__Terminal *t)
{
	struct termios2 settings;
	memcpy(&settings, t->settings.data, sizeof(settings));
	int r = t->n_input ? put_input(arena, maker, t, &settings) : 0;
	return r == 0 && t->output.len ? put_output(end, t, &settings) : r;
}

/* --- save --- */

int terminal_save_maker(struct saved_process *p, Image__File *f, int fd)
{
	struct arena *arena = &p->saving->arena;
	_cleanup_close_ int maker = take(p->pid, fd);
	unsigned int number;
	int discipline;
	if (maker < 0 || ioctl(maker, TIOCGPTN, &number) < 0)
		return refuse(p->saving, p->pid, fd, strerror(maker < 0 ? -maker : errno));
	if (ioctl(maker, TIOCGETD, &discipline) < 0 || discipline != N_TTY)
		return refuse(p->saving, p->pid, fd, "it has a line discipline of its own");
	f->kind = IMAGE__FILE__KIND__TERMINAL_MAKER;
	f->terminal = number;
	if (find_terminal(p->saving->image, number))
		return refuse(p->saving, p->pid, fd, "two terminals have the same number (of several mounts of devpts)");
	Image__Terminal **slot = arena_grow(arena, &p->saving->image->terminals, p->saving->image->n_terminals, sizeof(*slot));
	Image__Terminal *t = arena_alloc(arena, sizeof(*t));
	if (!slot || !t)
		return saved_no_memory(p->saving);
	image__terminal__init(t);
	t->number = number;
	*slot = t;
	p->saving->image->n_terminals++;
	return 0;
}

/* /dev/tty is whichever terminal the process had when it opened it. */
int terminal_save(struct saved_process *p, Image__File *f, int fd, const struct stat *st)
{
	dev_t device = st->st_rdev;
	f->kind = IMAGE__FILE__KIND__TERMINAL;
	if (device == makedev(5, 0)) {
		_cleanup_close_ int end = take(p->pid, fd);
		unsigned int number = 0;
		device = end >= 0 && ioctl(end, TIOCGDEV, &number) == 0 ? makedev(number >> 8 & 0xfff, (number & 0xff) | (number >> 12 & 0xfff00)) : 0;
	}
	if (major(device) == TERMINAL_MAJOR)
		f->terminal = minor(device);
	else
		f->kind = IMAGE__FILE__KIND__OUTSIDE;
	return 0;
}

static int describe_settings(struct arena *arena, int maker, Image__Terminal *t)
{
	struct termios2 settings;
	struct winsize size;
	int locked, exclusive, packets;
	if (ioctl(maker, TCGETS2, &settings) < 0 || ioctl(maker, TIOCGWINSZ, &size) < 0 || ioctl(maker, TIOCGPTLCK, &locked) < 0 ||
	    ioctl(maker, TIOCGEXCL, &exclusive) < 0 || ioctl(maker, TIOCGPKT, &packets) < 0)
		return -errno;
	t->locked = locked;
	t->exclusive = exclusive;
	t->packets = packets;
	int r = append(arena, &t->settings, &settings, sizeof(settings));
	return r == 0 ? append(arena, &t->size, &size, sizeof(size)) : r;
}

static bool is_hung_up(int maker)
{
	struct pollfd state = {.fd = maker};
	return poll(&state, 1, 0) == 1 && state.revents & POLLHUP;
}

/* The session whose terminal it is, and the group in the foreground; 0: none. */
static int describe_session(struct saving *saving, int maker, Image__Terminal *t)
{
	pid_t session = 0, group = 0;
	if (ioctl(maker, TIOCGSID, &session) < 0 || session <= 0)
		return 0;
	t->session = saved_id(saving, session);
	for (size_t i = 0; i < saving->image->n_processes; i++)
		if (saving->image->processes[i]->pid == t->session && !saving->image->processes[i]->is_zombie) {
			t->foreground = ioctl(maker, TIOCGPGRP, &group) == 0 && group > 0 ? saved_id(saving, group) : 0;
			return 0;
		}
	return -ENOTSUP;
}

/* The other end, opened once more: its own way of waiting concerns nobody. O_CLOEXEC would stay with the open file, and /proc show it of every descriptor. */
static int open_end(int maker, int flags)
{
	int fd = ioctl(maker, TIOCGPTPEER, O_NOCTTY | flags);
	if (fd < 0)
		return -errno;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

static int take_content(struct arena *arena, int maker, int end, Image__Terminal *t)
{
	struct termios2 settings;
	memcpy(&settings, t->settings.data, sizeof(settings));
	int r = take_output(arena, maker, t);
	if (r == 0 && is_in_lines(&settings))
		r = take_lines(arena, end, t);
	return r == 0 ? take_characters(arena, end, t, &settings) : r;
}

static bool is_too_much(const Image__Terminal *t)
{
	size_t bytes = 0;
	for (size_t i = 0; i < t->n_input; i++)
		bytes += t->input[i]->content.len + 1;
	return bytes > INPUT_MAX;
}

/* The maker's own file is asked not to wait for that long: whoever has it is held. */
static int save_content(struct saving *saving, int maker, Image__Terminal *t)
{
	struct arena *arena = &saving->arena;
	int off = 0, on = 1, flags = fcntl(maker, F_GETFL);
	_cleanup_close_ int end = open_end(maker, O_RDWR | O_NONBLOCK);
	if (end < 0 || flags < 0)
		return end < 0 ? end : -errno;
	fcntl(maker, F_SETFL, flags | O_NONBLOCK);
	if (t->packets)
		ioctl(maker, TIOCPKT, &off);
	int r = take_content(arena, maker, end, t), put = fill(arena, maker, end, t);
	if (t->packets)
		ioctl(maker, TIOCPKT, &on);
	fcntl(maker, F_SETFL, flags);
	if (r == 0 && put == 0 && is_too_much(t))
		r = -E2BIG;
	return r < 0 ? r : put;
}

/* A terminal that nobody has open has no input; opened once, it would be hung up afterwards. */
static int complete_maker(struct saving *saving, Image__Terminal *t, pid_t pid, int fd)
{
	_cleanup_close_ int maker = take(pid, fd);
	int r = maker < 0 ? maker : describe_settings(&saving->arena, maker, t);
	if (r < 0)
		return refuse(saving, pid, fd, strerror(-r));
	t->is_hung_up = is_hung_up(maker);
	if (saving->is_look)
		return 0;
	if (describe_session(saving, maker, t) < 0)
		return refuse(saving, pid, fd, "it is the terminal of a session outside of the container");
	r = t->is_hung_up || has_open_end(saving->image, t) ? save_content(saving, maker, t) : 0;
	if (r == -E2BIG)
		return refuse(saving, pid, fd, "more waits in it than can be put back");
	return r < 0 ? refuse(saving, pid, fd, strerror(-r)) : 0;
}

int terminal_complete(struct saving *saving, Image__File *f, pid_t pid, int fd)
{
	Image__Terminal *t = find_terminal(saving->image, f->terminal);
	if (f->kind == IMAGE__FILE__KIND__TERMINAL_MAKER)
		return complete_maker(saving, t, pid, fd);
	if (!t)
		f->kind = IMAGE__FILE__KIND__OUTSIDE;
	return 0;
}

/* --- restore --- */

static int open_maker(unsigned int *ret_number)
{
	int fd = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (fd >= 0 && ioctl(fd, TIOCGPTN, ret_number) == 0)
		return fd;
	int error = -errno;
	if (fd >= 0)
		close(fd);
	return error;
}

/* The kernel gives the lowest number that is free: others are opened until it comes. If it is taken, whichever number there is. */
static int open_numbered(unsigned int wanted)
{
	int *others = calloc(MAX_TRIES, sizeof(*others)), found = -ENOMEM;
	unsigned int number = 0;
	size_t nr = 0;
	for (bool go_on = others; go_on; go_on = found >= 0 && number < wanted && nr < MAX_TRIES) {
		if (nr)
			others[nr - 1] = found;
		found = open_maker(&number);
		nr++;
	}
	if (nr > 1 && (found < 0 || number != wanted)) { /* the first of them will do */
		if (found >= 0)
			close(found);
		found = others[0];
		others[0] = -1;
	}
	for (size_t i = 0; i + 1 < nr; i++)
		if (others[i] >= 0)
			close(others[i]);
	free(others);
	return found;
}

static int make_high(int fd, int above)
{
	int high = fd < 0 ? fd : fcntl(fd, F_DUPFD_CLOEXEC, above);
	int error = high < 0 && fd >= 0 ? -errno : high;
	if (fd >= 0)
		close(fd);
	return error;
}

/* In the order in which nothing disturbs what comes later. */
static int make_terminal(const Image__Image *image, const Image__Terminal *t, struct restored_terminal *made, int above)
{
	struct arena arena = {0};
	int off = 0, on = 1;
	made->maker = make_high(open_numbered(t->number), above);
	if (made->maker < 0)
		return made->maker;
	if (ioctl(made->maker, TIOCSPTLCK, &off) < 0 || ioctl(made->maker, TCSETS2, t->settings.data) < 0 || ioctl(made->maker, TIOCSWINSZ, t->size.data) < 0)
		return -errno;
	if (t->is_hung_up || has_open_end(image, t)) {
		made->end = make_high(open_end(made->maker, O_RDWR | O_NONBLOCK), above);
		int r = made->end < 0 ? made->end : fill(&arena, made->maker, made->end, t);
		arena_release(&arena);
		if (r < 0)
			return r;
	}
	if (t->packets)
		ioctl(made->maker, TIOCPKT, &on);
	return 0;
}

int terminals_restore(struct restoring *r, int above)
{
	const Image__Image *image = r->image->message;
	r->terminals = malloc((image->n_terminals + 1) * sizeof(*r->terminals));
	if (!r->terminals)
		return checkpoint_fail(&r->error, -ENOMEM, "restore: %s", strerror(ENOMEM));
	for (size_t i = 0; i < image->n_terminals; i++)
		r->terminals[i] = (struct restored_terminal){-1, -1};
	for (size_t i = 0; i < image->n_terminals; i++) {
		int result = make_terminal(image, image->terminals[i], &r->terminals[i], above);
		if (result < 0)
			return checkpoint_fail(&r->error, result, "pseudo terminal %u: %s", image->terminals[i]->number, strerror(-result));
	}
	return 0;
}

/* What forbids others to open it comes last. */
void terminals_close(struct restoring *r)
{
	const Image__Image *image = r->image->message;
	int on = 1;
	for (size_t i = 0; r->terminals && i < image->n_terminals; i++) {
		const struct restored_terminal *made = &r->terminals[i];
		if (made->maker >= 0 && image->terminals[i]->exclusive)
			ioctl(made->maker, TIOCEXCL);
		if (made->maker >= 0 && image->terminals[i]->locked)
			ioctl(made->maker, TIOCSPTLCK, &on);
		if (made->end >= 0)
			close(made->end);
		if (made->maker >= 0)
			close(made->maker);
	}
	free(r->terminals);
	r->terminals = NULL;
}

static const struct restored_terminal *find_restored(const struct restoring *r, uint32_t number)
{
	for (size_t i = 0; i < r->image->message->n_terminals; i++)
		if (r->image->message->terminals[i]->number == number)
			return &r->terminals[i];
	return NULL;
}

int terminal_open(const struct restoring *r, const Image__File *f)
{
	const struct restored_terminal *made = find_restored(r, f->terminal);
	if (!made)
		return -ENXIO;
	if (f->kind == IMAGE__FILE__KIND__TERMINAL)
		return open_end(made->maker, (int)f->flags & (O_ACCMODE | O_NONBLOCK));
	int fd = fcntl(made->maker, F_DUPFD_CLOEXEC, 0);
	return fd < 0 ? -errno : fd;
}

static int fail_control(struct restored_process *p, const Image__Terminal *t, long code)
{
	return checkpoint_fail(&p->restoring->error, (int)code, "process %d: its terminal (%u): %s", p->pid, t->number, strerror((int)-code));
}

int terminal_control(struct restored_process *p)
{
	const Image__Image *image = p->restoring->image->message;
	for (size_t i = 0; i < image->n_terminals; i++) {
		const struct restored_terminal *made = &p->restoring->terminals[i];
		if (image->terminals[i]->session != p->message->pid || made->end < 0)
			continue;
		long r = REMOTE_CALL(&p->remote, SYS_ioctl, (uint64_t)made->end, TIOCSCTTY, 0, 0, 0, 0);
		return r < 0 ? fail_control(p, image->terminals[i], r) : 0;
	}
	return 0;
}

int terminal_set_foreground(struct restored_process *p)
{
	const Image__Image *image = p->restoring->image->message;
	for (size_t i = 0; i < image->n_terminals; i++) {
		const Image__Terminal *t = image->terminals[i];
		int end = p->restoring->terminals[i].end;
		pid_t group = t->foreground;
		if (t->session != p->message->pid || end < 0 || !group)
			continue;
		remote_addr_t at = remote_put(&p->remote, 0, &group, sizeof(group));
		long r = at ? REMOTE_CALL(&p->remote, SYS_ioctl, (uint64_t)end, TIOCSPGRP, at, 0, 0, 0) : -EFAULT;
		return r < 0 && r != -ESRCH ? fail_control(p, t, r) : 0; /* a group that has ended is in nobody's way */
	}
	return 0;
}
