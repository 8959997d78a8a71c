/*
 * What a client sends to a keeper: the whole server, at a socket, without a container. The first byte of the input says in what pieces the rest arrives. Each
 * line of the answer must be a JSON object with "version" and "ok".
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/server.h"
#include "control/verbs.h"
#include "fuzz.h"

static int waiting = -1; /* a connection that the server has not accepted yet */

int __wrap_accept4(int listener, void *address, void *len, int flags);

int __wrap_accept4(int listener, void *address, void *len, int flags)
{
	int fd = waiting;
	waiting = -1;
	errno = EAGAIN;
	return fd;
}

int __wrap_runtime_folder_listen(const struct runtime_folder *folder);

int __wrap_runtime_folder_listen(const struct runtime_folder *folder)
{
	return eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
}

int __wrap_runtime_folder_write_pid(const struct runtime_folder *folder, pid_t pid);

int __wrap_runtime_folder_write_pid(const struct runtime_folder *folder, pid_t pid)
{
	return 0;
}

void __wrap_runtime_folder_remove(const struct runtime_folder *folder);

void __wrap_runtime_folder_remove(const struct runtime_folder *folder)
{
}

int __wrap_control_begin(struct request *request, struct container *c);

/* As a container might answer. */
int __wrap_control_begin(struct request *request, struct container *c)
{
	json_object *path;
	if (!request->verb->step && !request->verb->is_change)
		return -EINPROGRESS;
	if (!json_object_object_get_ex(request->members, "path", &path))
		return 0;
	snprintf(request->text, sizeof(request->text), "%s: no", json_object_get_string(path));
	request->error = request->text;
	return -EINVAL;
}

static void check_answers(const char *text, size_t len)
{
	for (const char *end; (end = memchr(text, '\n', len)); len -= (size_t)(end + 1 - text), text = end + 1) {
		char *line = strndup(text, (size_t)(end - text));
		json_object *answer = json_tokener_parse(line);
		if (!json_object_object_get_ex(answer, "version", NULL) ||
		    !json_object_object_get_ex(answer, "ok", NULL))
			abort();
		json_object_put(answer);
		free(line);
	}
	if (len)
		abort();
}

/* Takes what the server has answered so far. */
static void take_answers(int fd, char **answers, size_t *len)
{
	for (;;) {
		char piece[4096];
		ssize_t n = recv(fd, piece, sizeof(piece), MSG_DONTWAIT);
		if (n <= 0)
			return;
		*answers = realloc(*answers, *len + (size_t)n);
		memcpy(*answers + *len, piece, (size_t)n);
		*len += (size_t)n;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct container c;
	struct control_server *server;
	char *answers = NULL;
	size_t len = 0, piece = size && data[0] ? (size_t)data[0] * data[0] : 1u << 16;
	int ends[2];
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0 ||
	    control_server_new(NULL, &server) < 0)
		abort();
	struct container_service *service = control_server_service(server);
	waiting = ends[0];
	for (size_t at = 1; at < size; at += MIN_OF(piece, size - at)) {
		send(ends[1], data + at, MIN_OF(piece, size - at), MSG_DONTWAIT | MSG_NOSIGNAL);
		service->serve(service, &c);
		take_answers(ends[1], &answers, &len);
	}
	shutdown(ends[1], SHUT_WR);
	service->serve(service, &c);
	service->ended(service, &c);
	take_answers(ends[1], &answers, &len);
	check_answers(answers ? answers : "", len);
	control_server_free(server);
	if (waiting >= 0)
		close(waiting);
	waiting = -1;
	close(ends[1]);
	free(answers);
	return 0;
}
