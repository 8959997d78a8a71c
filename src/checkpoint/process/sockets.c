#include "checkpoint/process/sockets.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "platform/process.h"

static const struct option {
	int level, name;
} options[] = {
	{SOL_SOCKET, SO_REUSEADDR}, {SOL_SOCKET, SO_REUSEPORT}, {SOL_SOCKET, SO_KEEPALIVE}, {SOL_SOCKET, SO_BROADCAST},
	{SOL_SOCKET, SO_PASSCRED},  {IPPROTO_IPV6, IPV6_V6ONLY}, {IPPROTO_TCP, TCP_NODELAY},
};

static int refuse(struct saved_process *p, int fd, const char *why)
{
	return checkpoint_fail(&p->saving->error, -ENOTSUP, "process %d, descriptor %d (socket): %s", p->pid, fd, why);
}

/* --- what the kernel tells of UNIX sockets: sock_diag(7) --- */

struct unix_facts {
	uint64_t peer;
	uint32_t shutdown;
	uint32_t backlog;
};

static void read_attributes(const struct nlmsghdr *message, struct unix_facts *ret)
{
	const struct unix_diag_msg *diag = NLMSG_DATA(message);
	const struct rtattr *a = (const struct rtattr *)(diag + 1);
	unsigned int left = (unsigned int)(message->nlmsg_len - NLMSG_LENGTH(sizeof(*diag)));
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left)) {
		uint32_t number = 0;
		memcpy(&number, RTA_DATA(a), MIN_OF(RTA_PAYLOAD(a), sizeof(number)));
		if (a->rta_type == UNIX_DIAG_PEER)
			ret->peer = number;
		if (a->rta_type == UNIX_DIAG_SHUTDOWN)
			ret->shutdown = number & 0xff;
		if (a->rta_type == UNIX_DIAG_RQLEN && RTA_PAYLOAD(a) >= 2 * sizeof(number))
			memcpy(&ret->backlog, (const uint8_t *)RTA_DATA(a) + sizeof(number), sizeof(number));
	}
}

static int ask_unix(uint32_t inode, struct unix_facts *ret)
{
	struct {
		struct nlmsghdr header;
		struct unix_diag_req request;
	} question = {.header = {.nlmsg_len = sizeof(question), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
		      .request = {.sdiag_family = AF_UNIX, .udiag_states = UINT32_MAX, .udiag_ino = inode, .udiag_show = UDIAG_SHOW_PEER | UDIAG_SHOW_RQLEN,
				  .udiag_cookie = {UINT32_MAX, UINT32_MAX}}};
	_Alignas(struct nlmsghdr) uint8_t answer[4096];
	_cleanup_close_ int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	if (fd < 0 || send(fd, &question, sizeof(question), 0) < 0)
		return -errno;
	ssize_t n = recv(fd, answer, sizeof(answer), 0);
	const struct nlmsghdr *message = (const struct nlmsghdr *)answer;
	if (n < (ssize_t)sizeof(*message) || !NLMSG_OK(message, (unsigned int)n))
		return n < 0 ? -errno : -EPROTO;
	if (message->nlmsg_type == NLMSG_ERROR)
		return ((const struct nlmsgerr *)NLMSG_DATA(message))->error ?: -EPROTO;
	read_attributes(message, ret);
	return 0;
}

/* --- save --- */

static int number_of(int fd, int level, int name, int *ret)
{
	socklen_t len = sizeof(*ret);
	return getsockopt(fd, level, name, ret, &len) < 0 ? -errno : 0;
}

static int save_options(struct saved_process *p, Image__Socket *s, int fd)
{
	struct arena *arena = &p->saving->arena;
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		int value;
		if (number_of(fd, options[i].level, options[i].name, &value) < 0 || !value)
			continue;
		Image__Option **slot = arena_grow(arena, &s->options, s->n_options, sizeof(*slot)), *o = arena_alloc(arena, sizeof(*o));
		if (!slot || !o)
			return saved_no_memory(p->saving);
		image__option__init(o);
		o->level = (uint32_t)options[i].level;
		o->name = (uint32_t)options[i].name;
		o->value = value;
		*slot = o;
		s->n_options++;
	}
	return 0;
}

/* It is bound to something more than its family. */
static int save_address(struct saved_process *p, Image__Socket *s, int fd)
{
	struct sockaddr_storage address;
	socklen_t len = sizeof(address);
	if (getsockname(fd, (struct sockaddr *)&address, &len) < 0)
		return -errno;
	bool is_unbound = address.ss_family == AF_UNIX	  ? len <= sizeof(sa_family_t)
			  : address.ss_family == AF_INET  ? !((struct sockaddr_in *)&address)->sin_port
			  : address.ss_family == AF_INET6 ? !((struct sockaddr_in6 *)&address)->sin6_port
							  : true;
	if (is_unbound)
		return 0;
	s->address.len = len;
	s->address.data = arena_copy(&p->saving->arena, &address, len);
	return s->address.data ? 0 : -ENOMEM;
}

static int save_content(struct saved_process *p, Image__Socket *s, int fd, int number)
{
	int waiting = 0;
	char control[256];
	struct iovec iov;
	struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	if (ioctl(fd, FIONREAD, &waiting) < 0)
		return refuse(p, number, strerror(errno));
	if (!waiting)
		return 0;
	if (s->type != SOCK_STREAM)
		return refuse(p, number, "messages wait in it");
	s->content.data = arena_alloc(&p->saving->arena, (size_t)waiting);
	if (!s->content.data)
		return saved_no_memory(p->saving);
	iov = (struct iovec){s->content.data, (size_t)waiting};
	ssize_t n = recvmsg(fd, &message, MSG_PEEK | MSG_DONTWAIT);
	if (n != waiting)
		return refuse(p, number, "what waits in it cannot be read");
	if (message.msg_controllen)
		return refuse(p, number, "descriptors wait in it");
	s->content.len = (size_t)n;
	return 0;
}

static int save_unix(struct saved_process *p, Image__Socket *s, int fd, int number)
{
	struct unix_facts facts = {0};
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	int r = ask_unix((uint32_t)s->inode, &facts);
	if (r < 0)
		return refuse(p, number, strerror(-r));
	s->shutdown = facts.shutdown;
	s->peer = facts.peer;
	s->backlog = s->listens ? facts.backlog : 0;
	s->is_connected = facts.peer || getpeername(fd, (struct sockaddr *)&peer, &len) == 0;
	return s->listens ? 0 : save_content(p, s, fd, number);
}

static int save_inet(struct saved_process *p, Image__Socket *s, int fd, int number)
{
	struct sockaddr_storage peer;
	struct tcp_info info = {0};
	socklen_t len = sizeof(peer), info_len = sizeof(info);
	if (getpeername(fd, (struct sockaddr *)&peer, &len) == 0)
		return refuse(p, number, "it is connected over the network");
	if (s->listens && s->protocol == IPPROTO_TCP && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &info_len) == 0)
		s->backlog = info.tcpi_sacked; /* of a listening socket: the length of its queue at most */
	return 0;
}

static int describe(struct saved_process *p, Image__Socket *s, int fd, int number)
{
	int domain, type, protocol, listens = 0;
	struct stat st;
	if (number_of(fd, SOL_SOCKET, SO_DOMAIN, &domain) < 0 || number_of(fd, SOL_SOCKET, SO_TYPE, &type) < 0 ||
	    number_of(fd, SOL_SOCKET, SO_PROTOCOL, &protocol) < 0 || fstat(fd, &st) < 0)
		return refuse(p, number, strerror(errno));
	number_of(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens);
	s->domain = (uint32_t)domain;
	s->type = (uint32_t)type;
	s->protocol = (uint32_t)protocol;
	s->listens = listens;
	s->inode = st.st_ino;
	if (domain != AF_UNIX && domain != AF_INET && domain != AF_INET6)
		return refuse(p, number, "its family is not supported");
	int r = domain == AF_UNIX ? save_unix(p, s, fd, number) : save_inet(p, s, fd, number);
	if (r < 0)
		return r;
	return s->is_connected || save_address(p, s, fd) == 0 ? save_options(p, s, fd) : refuse(p, number, "its address is not known");
}

int socket_save(struct saved_process *p, Image__File *f, int fd)
{
	_cleanup_close_ int pidfd = pidfd_open_process(p->pid);
	_cleanup_close_ int copy = pidfd < 0 ? pidfd : pidfd_take_fd(pidfd, fd);
	if (copy < 0)
		return refuse(p, fd, strerror(-copy));
	f->socket = arena_alloc(&p->saving->arena, sizeof(*f->socket));
	if (!f->socket)
		return saved_no_memory(p->saving);
	image__socket__init(f->socket);
	f->kind = IMAGE__FILE__KIND__SOCKET;
	return describe(p, f->socket, copy, fd);
}

static const Image__File *find_peer(const Image__Image *image, const Image__Socket *s)
{
	for (size_t i = 0; s->peer && i < image->n_files; i++)
		if (image->files[i]->kind == IMAGE__FILE__KIND__SOCKET && image->files[i]->socket->inode == s->peer)
			return image->files[i];
	return NULL;
}

bool socket_has_its_peer(const Image__Image *image, const Image__File *f)
{
	return f->socket->is_connected && find_peer(image, f->socket);
}

int socket_complete(struct saving *saving, const Image__File *f, pid_t pid, int fd)
{
	const Image__Socket *s = f->socket;
	if (!s->is_connected || !s->peer || find_peer(saving->image, s))
		return 0;
	return checkpoint_fail(&saving->error, -ENOTSUP, "process %d, descriptor %d (socket): its other end is not in the container", pid, fd);
}

/* --- restore --- */

static int set_options(const Image__Socket *s, int fd)
{
	for (size_t i = 0; i < s->n_options; i++)
		if (setsockopt(fd, (int)s->options[i]->level, (int)s->options[i]->name, &s->options[i]->value, sizeof(s->options[i]->value)) < 0)
			return -errno;
	return 0;
}

/* The name that a UNIX socket has left in the file system, if it is one that nobody listens at any more. */
static void remove_stale_name(const Image__Socket *s)
{
	struct sockaddr_un address = {0};
	struct stat st;
	memcpy(&address, s->address.data, MIN_OF(s->address.len, sizeof(address) - 1)); /* a path of full length has no zero behind it */
	if (address.sun_path[0] != '/' || lstat(address.sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
		return;
	_cleanup_close_ int fd = socket(AF_UNIX, (int)s->type | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, (socklen_t)MIN_OF(s->address.len, sizeof(address))) < 0 && errno == ECONNREFUSED)
		unlink(address.sun_path);
}

static int restore_unconnected(const Image__Socket *s)
{
	_cleanup_close_ int fd = socket((int)s->domain, (int)s->type | SOCK_CLOEXEC, (int)s->protocol);
	int r = fd < 0 ? -errno : set_options(s, fd);
	if (r == 0 && s->address.len) {
		if (s->domain == AF_UNIX)
			remove_stale_name(s);
		r = bind(fd, (const struct sockaddr *)s->address.data, (socklen_t)s->address.len) < 0 ? -errno : 0;
	}
	if (r == 0 && s->listens)
		r = listen(fd, (int)s->backlog) < 0 ? -errno : 0;
	return r < 0 ? r : steal_fd(&fd);
}

/* What waits in one end is written to the other. */
static int fill(const Image__Socket *s, int other)
{
	return !s->content.len || send(other, s->content.data, s->content.len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)s->content.len ? 0 : -EIO;
}

static int enlarge(int fd, size_t bytes)
{
	int most = (int)MIN_OF(bytes * 2 + 65536, (size_t)1 << 30);
	return setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &most, sizeof(most)) < 0 ? setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &most, sizeof(most)) : 0;
}

static void shut_down(const Image__Socket *s, int fd)
{
	if (s->shutdown & 1)
		shutdown(fd, SHUT_RD);
	if (s->shutdown & 2)
		shutdown(fd, SHUT_WR);
}

int socket_restore(const Image__Image *image, const Image__File *f, size_t *ret_other_index, int *ret_other)
{
	const Image__Socket *s = f->socket;
	const Image__File *peer = find_peer(image, s);
	int ends[2];
	*ret_other = -1;
	if (!s->is_connected)
		return restore_unconnected(s);
	if (socketpair((int)s->domain, (int)s->type | SOCK_CLOEXEC, (int)s->protocol, ends) < 0)
		return -errno;
	enlarge(ends[1], s->content.len);
	if (peer)
		enlarge(ends[0], peer->socket->content.len);
	int r = fill(s, ends[1]);
	if (r == 0 && peer)
		r = fill(peer->socket, ends[0]);
	if (r == 0)
		r = set_options(s, ends[0]);
	if (r == 0 && peer)
		r = set_options(peer->socket, ends[1]);
	shut_down(s, ends[0]);
	if (peer)
		shut_down(peer->socket, ends[1]);
	if (r < 0 || !peer)
		close(ends[1]);
	if (r < 0) {
		close(ends[0]);
		return r;
	}
	*ret_other = peer ? ends[1] : -1;
	*ret_other_index = peer ? peer->id : 0;
	return ends[0];
}
