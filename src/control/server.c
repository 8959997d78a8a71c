#include "control/server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "checkpoint/handed.h"
#include "checkpoint/handover.h"
#include "checkpoint/save.h"
#include "checkpoint/upgrade.h"
#include "control/verbs.h"

#define PROTOCOL_VERSION 1
#define LINE_MAX_BYTES 65536u
#define CLIENTS_MAX 256u
#define STEP_INTERVAL_NS 1000000ull
#define LAST_WORDS_MS 200 /* for a client that does not read at the end */

/* One connection. With fd -1 the client is gone and only the work that it has begun is left. */
struct client {
	struct client *next;
	int fd;
	char *in;
	size_t in_bytes;
	char *out;
	size_t out_bytes, out_sent;
	struct request request; /* .verb NULL: none under way */
	bool is_closing;        /* no more requests; closed when all is sent */
	bool wants_write;       /* registered for it */
};

struct control_server {
	struct container_service service; /* first: the keeper gives it back to us */
	const struct runtime_folder *folder;
	struct upgrade_control hands_over;
	bool is_announced; /* the keeper's pid is in the folder */
	int listener, epoll;
	struct client *clients;
	uint32_t nr_clients;
};

/* ---- replies ---- */

static void queue_reply(struct client *client, json_object *reply)
{
	const char *text = json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
	size_t len = text ? strlen(text) : 0;
	char *bigger = client->fd >= 0 && text ? realloc(client->out, client->out_bytes + len + 1) : NULL;
	if (!bigger) {
		client->is_closing = true;
		return;
	}
	client->out = bigger;
	memcpy(bigger + client->out_bytes, text, len);
	bigger[client->out_bytes + len] = '\n';
	client->out_bytes += len + 1;
}

static json_object *new_reply(bool ok)
{
	json_object *reply = json_object_new_object();
	json_object_object_add(reply, "version", json_object_new_int(PROTOCOL_VERSION));
	json_object_object_add(reply, "ok", json_object_new_boolean(ok));
	return reply;
}

static void reply_error(struct client *client, int error, const char *why, const char *hint)
{
	json_object *reply = new_reply(false);
	const char *name = strerrorname_np(-error);
	json_object_object_add(reply, "errno", json_object_new_string(name ? name : "EIO"));
	json_object_object_add(reply, "error", json_object_new_string(why ? why : strerror(-error)));
	if (hint)
		json_object_object_add(reply, "hint", json_object_new_string(hint));
	queue_reply(client, reply);
	json_object_put(reply);
}

static void end_request(struct client *client)
{
	migration_free(client->request.migration);
	json_object_put(client->request.members);
	json_object_put(client->request.reply);
	save_free(client->request.save);
	upgrade_free(client->request.upgrade);
	client->request = (struct request){0};
}

/* What a verb's begin or step has returned. */
static void conclude(struct client *client, int r)
{
	struct request *request = &client->request;
	if (r == -EINPROGRESS)
		return;
	if (r < 0)
		reply_error(client, r, request->error, request->hint);
	else
		queue_reply(client, request->reply);
	end_request(client);
}

/* ---- requests ---- */

static const struct control_member *find_member(const struct control_verb *verb, const char *name)
{
	for (const struct control_member *m = verb->members; m->name; m++)
		if (!strcmp(m->name, name))
			return m;
	return NULL;
}

static bool is_envelope(const char *name)
{
	return !strcmp(name, "version") || !strcmp(name, "verb");
}

/* 0, or -EINVAL after an error reply. */
static int check_members(struct client *client, const struct control_verb *verb, json_object *object)
{
	char why[128];
	json_object_object_foreach(object, name, value) {
		const struct control_member *known = find_member(verb, name);
		if (is_envelope(name))
			continue;
		bool fits = known && json_object_get_type(value) == known->type && (known->type != json_type_int || json_object_get_int64(value) >= 0);
		if (fits)
			continue;
		snprintf(why, sizeof(why), known ? "member %.64s is of the wrong kind" : "unknown member %.64s", name);
		reply_error(client, -EINVAL, why, NULL);
		return -EINVAL;
	}
	for (const struct control_member *m = verb->members; m->name; m++) {
		if (!m->is_required || json_object_object_get_ex(object, m->name, NULL))
			continue;
		snprintf(why, sizeof(why), "member %s is missing", m->name);
		reply_error(client, -EINVAL, why, NULL);
		return -EINVAL;
	}
	return 0;
}

/* The verb of a well-formed request of our version, or NULL after an error reply. */
static const struct control_verb *understand(struct client *client, json_object *object)
{
	json_object *version, *verb;
	const struct control_verb *known = NULL;
	if (!json_object_object_get_ex(object, "version", &version) || json_object_get_type(version) != json_type_int ||
	    json_object_get_int(version) != PROTOCOL_VERSION) {
		reply_error(client, -EINVAL, "the request is not of version 1 of the protocol", "the keeper may be of another version of membox");
		return NULL;
	}
	if (json_object_object_get_ex(object, "verb", &verb) && json_object_get_type(verb) == json_type_string)
		known = control_find_verb(json_object_get_string(verb));
	if (!known)
		reply_error(client, -EINVAL, "unknown verb", "the keeper may be of another version of membox");
	return known && check_members(client, known, object) == 0 ? known : NULL;
}

static json_object *parse(const char *line, size_t len)
{
	json_tokener *tokener = json_tokener_new();
	json_object *object = tokener ? json_tokener_parse_ex(tokener, line, (int)len) : NULL;
	bool whole = object && json_tokener_get_error(tokener) == json_tokener_success && json_tokener_get_parse_end(tokener) == len;
	json_tokener_free(tokener);
	if (whole && json_object_get_type(object) == json_type_object)
		return object;
	json_object_put(object);
	return NULL;
}

static void take_line(struct control_server *server, struct client *client, struct container *c, const char *line, size_t len)
{
	json_object *object = parse(line, len);
	if (!object) {
		reply_error(client, -EINVAL, "a line is not a JSON object", NULL);
		client->is_closing = true;
		return;
	}
	const struct control_verb *verb = understand(client, object);
	if (!verb) {
		json_object_put(object);
		return;
	}
	client->request = (struct request){.verb = verb, .owner = client, .members = object, .reply = new_reply(true), .control = &server->hands_over};
	conclude(client, control_begin(&client->request, c));
}

/* Complete lines, one request at a time: the next one waits until the one under way has been answered. */
static void take_lines(struct control_server *server, struct client *client, struct container *c)
{
	char *end;
	while (!client->request.verb && !client->is_closing && (end = memchr(client->in, '\n', client->in_bytes))) {
		size_t len = (size_t)(end - client->in);
		take_line(server, client, c, client->in, len);
		client->in_bytes -= len + 1;
		memmove(client->in, end + 1, client->in_bytes);
	}
	if (client->in_bytes == LINE_MAX_BYTES && !memchr(client->in, '\n', client->in_bytes)) {
		reply_error(client, -EMSGSIZE, "a line is too long", NULL);
		client->is_closing = true;
		client->in_bytes = 0;
	}
}

/* ---- connections ---- */

static void hang_up(struct control_server *server, struct client *client)
{
	if (client->fd < 0)
		return;
	close(client->fd); /* epoll forgets it */
	client->fd = -1;
	client->is_closing = true;
	client->in_bytes = client->out_bytes = client->out_sent = 0;
	server->nr_clients--;
	if (client->request.verb && !client->request.verb->step)
		end_request(client); /* it only waited */
}

static void free_client(struct client *client)
{
	end_request(client);
	free(client->in);
	free(client->out);
	free(client);
}

/* The folder keeps others out; this holds also when somebody has widened its mode. */
static bool is_allowed(int fd)
{
	struct ucred peer;
	socklen_t size = sizeof(peer);
	return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == geteuid() || peer.uid == 0);
}

static void admit(struct control_server *server, int fd)
{
	struct client *client = calloc(1, sizeof(*client));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = client};
	if (client)
		client->in = malloc(LINE_MAX_BYTES);
	if (!client || !client->in || epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &event) < 0) {
		close(fd);
		free(client ? client->in : NULL);
		free(client);
		return;
	}
	client->fd = fd;
	client->next = server->clients;
	server->clients = client;
	server->nr_clients++;
	if (is_allowed(fd))
		return;
	reply_error(client, -EACCES, "the container belongs to another user", NULL);
	client->is_closing = true;
}

static void accept_clients(struct control_server *server)
{
	while (server->nr_clients < CLIENTS_MAX) {
		int fd = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0)
			return;
		admit(server, fd);
	}
}

static void receive(struct control_server *server, struct client *client)
{
	ssize_t n = 0;
	while (client->in_bytes < LINE_MAX_BYTES) {
		n = recv(client->fd, client->in + client->in_bytes, LINE_MAX_BYTES - client->in_bytes, 0);
		if (n <= 0)
			break;
		client->in_bytes += (size_t)n;
	}
	if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
		client->is_closing = true; /* half closed: what was asked before is still answered */
	if (n < 0 && (errno == ECONNRESET || errno == EPIPE))
		hang_up(server, client);
}

static void transmit(struct control_server *server, struct client *client)
{
	struct epoll_event event = {.data.ptr = client};
	while (client->out_sent < client->out_bytes) {
		ssize_t n = send(client->fd, client->out + client->out_sent, client->out_bytes - client->out_sent, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR) {
			hang_up(server, client);
			return;
		}
		if (n < 0)
			break;
		client->out_sent += (size_t)n;
	}
	bool is_left = client->out_sent < client->out_bytes;
	if (!is_left)
		client->out_bytes = client->out_sent = 0;
	/* A closing client is not read from any more: its end-of-file would be reported for ever. */
	event.events = (client->is_closing || client->in_bytes == LINE_MAX_BYTES ? 0u : EPOLLIN) | (is_left ? EPOLLOUT : 0u);
	epoll_ctl(server->epoll, EPOLL_CTL_MOD, client->fd, &event);
}

static void serve_client(struct control_server *server, struct client *client, struct container *c)
{
	struct request *request = &client->request;
	if (request->verb && request->verb->step)
		conclude(client, request->verb->step(request, c));
	take_lines(server, client, c);
	if (client->fd >= 0)
		transmit(server, client);
	if (client->fd >= 0 && client->is_closing && !request->verb && client->out_bytes == 0)
		hang_up(server, client);
}

static void poll_once(struct control_server *server)
{
	struct epoll_event events[16];
	int n = epoll_wait(server->epoll, events, ARRAY_LEN(events), 0);
	for (int i = 0; i < n; i++) {
		struct client *client = events[i].data.ptr;
		if (!client)
			accept_clients(server);
		else if (events[i].events & (EPOLLERR | EPOLLHUP))
			hang_up(server, client);
		else if (events[i].events & EPOLLIN)
			receive(server, client);
	}
}

/* Connections are few; each is looked at, those that are gone and have nothing under way are forgotten. */
static uint64_t serve(struct container_service *service, struct container *c)
{
	struct control_server *server = (struct control_server *)(void *)service;
	uint64_t again = UINT64_MAX;
	if (!server->is_announced) {
		server->is_announced = true;
		if (runtime_folder_write_pid(server->folder, getpid()) < 0)
			log_debug("control: no pid file");
	}
	poll_once(server);
	for (struct client **link = &server->clients; *link;) {
		struct client *client = *link;
		serve_client(server, client, c);
		if (client->request.verb && client->request.verb->step)
			again = STEP_INTERVAL_NS;
		if (client->fd >= 0 || client->request.verb) {
			link = &client->next;
			continue;
		}
		*link = client->next;
		handover_release(c, client); /* nobody is left who could say how it ended */
		free_client(client);
	}
	return again;
}

static void say_last_words(struct client *client, struct container *c)
{
	struct timeval patience = {.tv_usec = LAST_WORDS_MS * 1000L};
	bool is_answered = client->request.verb && control_answer_at_end(&client->request, c);
	if (client->request.verb && !is_answered)
		client->request.error = "the container has ended meanwhile";
	if (client->request.verb)
		conclude(client, is_answered ? 0 : -ESRCH);
	if (client->fd < 0 || client->out_sent == client->out_bytes)
		return;
	setsockopt(client->fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	int flags = MSG_NOSIGNAL;
	if (send(client->fd, client->out + client->out_sent, client->out_bytes - client->out_sent, flags) < 0)
		log_debug("control: a client did not read its last reply: errno %d", errno);
}

static void ended(struct container_service *service, struct container *c)
{
	struct control_server *server = (struct control_server *)(void *)service;
	handover_end(c);
	serve(service, c);
	runtime_folder_remove(server->folder); /* whoever comes now finds nobody */
	close(server->listener);
	server->listener = -1;
	for (struct client *client = server->clients; client; client = client->next)
		say_last_words(client, c);
}

/* ---- upgrade ---- */

/* A request that waits for the end is begun again there; one that works is not handed over, so there is none but the upgrade itself. */
static bool describe_client(struct handed *handed, struct client *client, Upgrade__Client *m)
{
	struct arena *arena = &handed->arena;
	const struct request *request = &client->request;
	bool waits = request->verb && !request->verb->step;
	const char *line = waits ? json_object_to_json_string_ext(request->members, JSON_C_TO_STRING_PLAIN) : "";
	char *unread = arena_alloc(arena, strlen(line) + 1 + client->in_bytes);
	if (!unread)
		return false;
	m->fd = handed_fd(handed, client->fd);
	m->unread.data = (uint8_t *)unread;
	unread = stpcpy(unread, line);
	if (waits)
		*unread++ = '\n';
	memcpy(unread, client->in, client->in_bytes);
	m->unread.len = (size_t)(unread - (char *)m->unread.data) + client->in_bytes;
	m->unsent.len = client->out_bytes - client->out_sent;
	m->unsent.data = arena_copy(arena, client->out + client->out_sent, m->unsent.len);
	m->is_closing = client->is_closing;
	m->has_asked = request->upgrade != NULL;
	return m->unsent.data;
}

static bool works(void *context)
{
	struct control_server *server = context;
	for (const struct client *client = server->clients; client; client = client->next)
		if (client->request.verb && client->request.verb->step && !client->request.upgrade)
			return true;
	return false;
}

static Upgrade__Control *describe_control(void *context, struct handed *handed)
{
	struct control_server *server = context;
	struct arena *arena = &handed->arena;
	struct runtime_handed folder = runtime_folder_hand_over(server->folder);
	Upgrade__Control *control = arena_alloc(arena, sizeof(*control));
	if (!control)
		return NULL;
	upgrade__control__init(control);
	control->folder_path = arena_strdup(arena, folder.path);
	control->runtime = handed_fd(handed, folder.runtime);
	control->folder = handed_fd(handed, folder.folder);
	control->lock = handed_fd(handed, folder.lock);
	control->listener = handed_fd(handed, server->listener);
	for (struct client *client = server->clients; client; client = client->next) {
		Upgrade__Client *m = arena_alloc(arena, sizeof(*m));
		Upgrade__Client **slot = m && client->fd >= 0 ? arena_grow(arena, &control->clients, control->n_clients, sizeof(*slot)) : NULL;
		if (!slot)
			continue;
		upgrade__client__init(m);
		*slot = m;
		control->n_clients += describe_client(handed, client, m);
	}
	return control;
}

static void take_client(struct control_server *server, const Upgrade__Client *m)
{
	admit(server, m->fd);
	struct client *client = server->clients;
	if (!client || client->fd != m->fd || m->unread.len > LINE_MAX_BYTES)
		return;
	memcpy(client->in, m->unread.data, m->unread.len);
	client->in_bytes = m->unread.len;
	client->is_closing = m->is_closing;
	client->out = m->unsent.len ? malloc(m->unsent.len) : NULL;
	client->is_closing |= m->unsent.len && !client->out;
	if (client->out) {
		memcpy(client->out, m->unsent.data, m->unsent.len);
		client->out_bytes = m->unsent.len;
	}
	if (!m->has_asked)
		return;
	json_object *reply = new_reply(true);
	json_object_object_add(reply, "keeper", json_object_new_int(getpid()));
	json_object_object_add(reply, "program_version", json_object_new_string(MEMBOX_VERSION));
	queue_reply(client, reply);
	json_object_put(reply);
}

static int server_new(const struct runtime_folder *folder, int listener, struct control_server **ret_server)
{
	struct control_server *server = calloc(1, sizeof(*server));
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = NULL};
	if (!server)
		return -ENOMEM;
	*server = (struct control_server){.service = {.serve = serve, .ended = ended}, .folder = folder, .listener = listener};
	server->hands_over = (struct upgrade_control){.works = works, .describe = describe_control, .context = server};
	server->epoll = epoll_create1(EPOLL_CLOEXEC);
	int r = server->epoll < 0 ? -errno : 0;
	if (r == 0)
		r = epoll_ctl(server->epoll, EPOLL_CTL_ADD, server->listener, &event) < 0 ? -errno : 0;
	if (r < 0) {
		control_server_free(server);
		return r;
	}
	server->service.fd = server->epoll;
	*ret_server = server;
	return 0;
}

int control_server_take_over(const struct runtime_folder *folder, const Upgrade__Control *handed, struct control_server **ret_server)
{
	int r = server_new(folder, handed->listener, ret_server);
	for (size_t i = handed->n_clients; r == 0 && i-- > 0;)
		take_client(*ret_server, handed->clients[i]);
	return r;
}

int control_server_new(const struct runtime_folder *folder, struct control_server **ret_server)
{
	int listener = runtime_folder_listen(folder);
	return listener < 0 ? listener : server_new(folder, listener, ret_server);
}

struct container_service *control_server_service(struct control_server *server)
{
	return &server->service;
}

void control_server_free(struct control_server *server)
{
	if (!server)
		return;
	while (server->clients) {
		struct client *client = server->clients;
		server->clients = client->next;
		hang_up(server, client);
		free_client(client);
	}
	if (server->listener >= 0)
		close(server->listener);
	if (server->epoll >= 0)
		close(server->epoll);
	free(server);
}
