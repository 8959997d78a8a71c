#include <membox.h>

#include <errno.h>
#include <json-c/json.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "base/cleanup.h"
#include "control/runtime_folder.h"

#define PROTOCOL_VERSION 1
#define REQUEST_MAX_BYTES 65536u
#define REPLY_MAX_BYTES ((size_t)16 << 20)
#define READ_BYTES ((size_t)16384)
#define ERRNO_MAX 4095

struct membox {
	char name[RUNTIME_NAME_MAX + 1];
	int fd; /* -1: not connected */
	int timeout_ms;
	bool refused;
	struct runtime_error error;
	char *in; /* read, not yet used: the beginning of the next line */
	size_t in_bytes;
};

static int fail(struct membox *m, int r, const char *format, ...) __attribute__((format(printf, 3, 4)));

static int fail(struct membox *m, int r, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(m->error.text, sizeof(m->error.text), format, args);
	va_end(args);
	return r;
}

static int fail_memory(struct membox *m)
{
	return fail(m, -ENOMEM, "%s: out of memory", m->name[0] ? m->name : "membox");
}

static void hang_up(struct membox *m)
{
	if (m->fd >= 0)
		close(m->fd);
	m->fd = -1;
	free(m->in);
	m->in = NULL;
	m->in_bytes = 0;
}

struct membox *membox_new(void)
{
	struct membox *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->fd = -1;
	m->timeout_ms = -1;
	return m;
}

void membox_free(struct membox *m)
{
	if (!m)
		return;
	hang_up(m);
	free(m);
}

void membox_set_timeout(struct membox *m, int timeout_ms)
{
	m->timeout_ms = timeout_ms < 0 ? -1 : timeout_ms;
}

const char *membox_error(const struct membox *m)
{
	return m ? m->error.text : "membox: out of memory";
}

bool membox_was_refused(const struct membox *m)
{
	return m->refused;
}

int membox_connect(struct membox *m, const char *name)
{
	int fd;

	if (!m)
		return -ENOMEM;
	hang_up(m);
	m->refused = false;
	fd = runtime_folder_connect(name, m->timeout_ms, &m->error);
	if (fd < 0)
		return fd;
	m->fd = fd;
	snprintf(m->name, sizeof(m->name), "%s", name);
	return 0;
}

int membox_list(struct membox *m, int (*each)(const char *name, void *context), void *context)
{
	m->refused = false;
	return runtime_folder_list(each, context, &m->error);
}

/* ---- lines ---- */

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* Waits until the socket can be used; 0, or -ETIMEDOUT after the deadline (-1: none). */
static int wait_for(struct membox *m, short events, int64_t deadline_ms)
{
	struct pollfd fd = {.fd = m->fd, .events = events};

	for (;;) {
		int64_t left = deadline_ms < 0 ? -1 : MAX_OF(deadline_ms - now_ms(), 0);
		int r = poll(&fd, 1, (int)left);

		if (r > 0)
			return 0;
		if (r == 0)
			return -ETIMEDOUT;
		if (errno != EINTR)
			return -errno;
	}
}

/* A keeper that hangs up while it is being written to may have said why: that is read next, so it is no error here. */
static int send_line(struct membox *m, const char *text, size_t len, int64_t deadline_ms)
{
	for (size_t sent = 0; sent < len;) {
		ssize_t n = send(m->fd, text + sent, len - sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		int r = 0;

		if (n >= 0)
			sent += (size_t)n;
		else if (errno == EAGAIN)
			r = wait_for(m, POLLOUT, deadline_ms);
		else if (errno == EPIPE || errno == ECONNRESET)
			return 0;
		else if (errno != EINTR)
			r = -errno;
		if (r)
			return r;
	}
	return 0;
}

/* Reads what there is; 0, -ECONNRESET at the end, -EPROTO when it is more than a reply may be. */
static int read_more(struct membox *m, int64_t deadline_ms)
{
	char *bigger;
	ssize_t n;
	int r;

	if (m->in_bytes > REPLY_MAX_BYTES)
		return -EPROTO;
	r = wait_for(m, POLLIN, deadline_ms);
	if (r)
		return r;
	bigger = realloc(m->in, m->in_bytes + READ_BYTES);
	if (!bigger)
		return -ENOMEM;
	m->in = bigger;
	n = recv(m->fd, m->in + m->in_bytes, READ_BYTES, MSG_DONTWAIT);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -errno;
	m->in_bytes += (size_t)n;
	return n ? 0 : -ECONNRESET;
}

/* The next line, without its line feed, in *ret_line, which the caller frees. */
static int receive_line(struct membox *m, int64_t deadline_ms, char **ret_line)
{
	size_t searched = 0, len;
	char *end = NULL;

	for (;;) {
		int r;

		if (m->in_bytes > searched)
			end = memchr(m->in + searched, '\n', m->in_bytes - searched);
		if (end)
			break;
		searched = m->in_bytes;
		r = read_more(m, deadline_ms);
		if (r)
			return r;
	}
	len = (size_t)(end - m->in);
	*ret_line = strndup(m->in, len);
	if (!*ret_line)
		return -ENOMEM;
	m->in_bytes -= len + 1;
	memmove(m->in, end + 1, m->in_bytes);
	return 0;
}

/* ---- requests ---- */

/* The number of an errno's name; EPROTO when it has none here. */
static int errno_of(const char *name)
{
	for (int number = 1; name && number <= ERRNO_MAX; number++) {
		const char *known = strerrorname_np(number);

		if (known && !strcmp(known, name))
			return number;
	}
	return EPROTO;
}

static const char *text_member(json_object *object, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(object, name, &value) && json_object_is_type(value, json_type_string) ? json_object_get_string(value) : NULL;
}

static int explain_refusal(struct membox *m, json_object *reply)
{
	const char *why = text_member(reply, "error"), *hint = text_member(reply, "hint");
	int error = errno_of(text_member(reply, "errno"));

	m->refused = true;
	if (!why)
		why = strerror(error);
	return hint ? fail(m, -error, "%s: %s (%s)", m->name, why, hint) : fail(m, -error, "%s: %s", m->name, why);
}

/* A reply of our version: 0 with *ret_reply, the caller's, when it says ok. */
static int understand(struct membox *m, const char *line, json_object **ret_reply)
{
	json_object *reply = json_tokener_parse(line), *version, *ok;
	int r = 0;

	if (!json_object_is_type(reply, json_type_object) || !json_object_object_get_ex(reply, "version", &version) ||
	    json_object_get_int(version) != PROTOCOL_VERSION || !json_object_object_get_ex(reply, "ok", &ok) || !json_object_is_type(ok, json_type_boolean))
		r = -EPROTO;
	else if (!json_object_get_boolean(ok))
		r = explain_refusal(m, reply);
	if (r)
		json_object_put(reply);
	else
		*ret_reply = reply;
	return r;
}

/* The connection is of no use after these: what comes next would not be the answer to the next request. */
static int fail_connection(struct membox *m, int r)
{
	hang_up(m);
	if (r == -ETIMEDOUT)
		return fail(m, r, "%s: its keeper does not answer", m->name);
	if (r == -ECONNRESET)
		return fail(m, r, "%s: the container ended before it answered", m->name);
	if (r == -EPROTO)
		return fail(m, r, "%s: its keeper answers nonsense (is it of another version of membox?)", m->name);
	return fail(m, r, "%s: %s", m->name, strerror(-r));
}

/* Sends one line and takes its answer. */
static int exchange(struct membox *m, const char *text, size_t len, json_object **ret_reply)
{
	int64_t deadline_ms = m->timeout_ms < 0 ? -1 : now_ms() + m->timeout_ms;
	_cleanup_free_ char *line = NULL;
	int r = send_line(m, text, len, deadline_ms);

	if (!r)
		r = receive_line(m, deadline_ms, &line);
	if (r)
		return fail_connection(m, r);
	r = understand(m, line, ret_reply);
	return r && !m->refused ? fail_connection(m, r) : r;
}

/* Takes members (an object, or NULL: out of memory) over. 0 with *ret_reply, the caller's. */
static int ask(struct membox *m, const char *verb, json_object *members, json_object **ret_reply)
{
	_cleanup_free_ char *line = NULL;
	const char *text;
	int len = -1, r;

	m->refused = false;
	if (members) {
		json_object_object_add(members, "version", json_object_new_int(PROTOCOL_VERSION));
		json_object_object_add(members, "verb", json_object_new_string(verb));
		text = json_object_to_json_string_ext(members, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
		len = text ? asprintf(&line, "%s\n", text) : -1;
	}
	if (len < 0) {
		line = NULL;
		r = fail_memory(m);
	} else if (m->fd < 0) {
		r = fail(m, -ENOTCONN, "%s: not connected", m->name[0] ? m->name : "membox");
	} else if (len > (int)REQUEST_MAX_BYTES) {
		r = fail(m, -EMSGSIZE, "%s: the request is too long", m->name);
	} else {
		r = exchange(m, line, (size_t)len, ret_reply);
	}
	json_object_put(members);
	return r;
}

int membox_request(struct membox *m, const char *verb, const char *members, char **ret_reply)
{
	json_object *object = json_tokener_parse(members ? members : "{}"), *reply;
	char *text;
	int r;

	m->refused = false;
	if (!json_object_is_type(object, json_type_object)) {
		json_object_put(object);
		return fail(m, -EINVAL, "%s: the request's members are not a JSON object", m->name);
	}
	r = ask(m, verb, object, &reply);
	if (r)
		return r;
	text = ret_reply ? strdup(json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)) : NULL;
	json_object_put(reply);
	if (!ret_reply)
		return 0;
	if (!text)
		return fail_memory(m);
	*ret_reply = text;
	return 0;
}

/* An object with one number; NULL: out of memory. */
static json_object *with_number(const char *name, uint64_t value)
{
	json_object *object = json_object_new_object();

	if (object)
		json_object_object_add(object, name, json_object_new_uint64(value));
	return object;
}

/* Asks and gives back one number of the reply (0 when it is not there); name NULL: none. */
static int ask_number(struct membox *m, const char *verb, json_object *members, const char *name, uint64_t *ret)
{
	json_object *reply, *value;
	int r = ask(m, verb, members, &reply);

	if (r)
		return r;
	if (ret)
		*ret = json_object_object_get_ex(reply, name, &value) ? json_object_get_uint64(value) : 0;
	json_object_put(reply);
	return 0;
}

static int ask_plain(struct membox *m, const char *verb)
{
	return ask_number(m, verb, json_object_new_object(), NULL, NULL);
}

int membox_set_limit(struct membox *m, uint64_t bytes)
{
	return ask_number(m, "set", with_number("limit", bytes), NULL, NULL);
}

int membox_set_pool(struct membox *m, uint64_t bytes)
{
	json_object *members = json_object_new_object();

	if (members)
		json_object_object_add(members, "pool", json_object_new_int64(bytes > INT64_MAX ? INT64_MAX : (int64_t)bytes));
	return ask_number(m, "set", members, NULL, NULL);
}

int membox_reclaim(struct membox *m, uint64_t bytes, uint64_t *ret_reclaimed)
{
	json_object *members = bytes == UINT64_MAX ? json_object_new_object() : with_number("bytes", bytes);

	return ask_number(m, "reclaim", members, "reclaimed", ret_reclaimed);
}

int membox_park(struct membox *m)
{
	return ask_plain(m, "park");
}

int membox_unpark(struct membox *m)
{
	return ask_plain(m, "unpark");
}

int membox_kill(struct membox *m, int signal, uint64_t *ret_signalled)
{
	return ask_number(m, "kill", with_number("signal", (uint64_t)(unsigned)signal), "signalled", ret_signalled);
}

int membox_wait(struct membox *m, int *ret_exit_status)
{
	uint64_t status = 0;
	int r = ask_number(m, "wait", json_object_new_object(), "exit_status", &status);

	if (!r && ret_exit_status)
		*ret_exit_status = (int)status;
	return r;
}

int membox_upgrade(struct membox *m, const char *program)
{
	json_object *members = json_object_new_object();

	if (members)
		json_object_object_add(members, "program", json_object_new_string(program));
	return ask_number(m, "upgrade", members, NULL, NULL);
}

int membox_swapon(struct membox *m, const char *path, uint64_t size)
{
	json_object *members = with_number("size", size);

	if (members)
		json_object_object_add(members, "path", json_object_new_string(path));
	return ask_number(m, "swapon", members, NULL, NULL);
}

int membox_swapoff(struct membox *m)
{
	return ask_plain(m, "swapoff");
}

int membox_release(struct membox *m)
{
	return ask_plain(m, "release");
}

int membox_checkpoint(struct membox *m, const char *path, bool leave_running, struct membox_checkpoint_result *ret)
{
	json_object *members = json_object_new_object(), *reply, *value;
	struct membox_checkpoint_result result = {0};

	if (members) {
		json_object_object_add(members, "path", json_object_new_string(path));
		json_object_object_add(members, "leave_running", json_object_new_boolean(leave_running));
	}
	int r = ask(m, "checkpoint", members, &reply);
	if (r)
		return r;
	if (json_object_object_get_ex(reply, "pages", &value))
		result.pages = json_object_get_uint64(value);
	if (json_object_object_get_ex(reply, "written", &value))
		result.written = json_object_get_uint64(value);
	if (json_object_object_get_ex(reply, "frozen_us", &value))
		result.frozen_us = json_object_get_uint64(value);
	json_object_put(reply);
	if (ret)
		*ret = result;
	return 0;
}
