/* What a keeper answers: to each verb of the command line that asks for something. The first byte chooses the verb, the rest is what comes from the socket. */
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control/runtime_folder.h"
#include "fuzz.h"

int membox_main(int argc, char **argv); /* main of the program */

static const uint8_t *answer;
static size_t answer_bytes;

int __wrap_runtime_folder_connect(const char *name, int timeout_ms, struct runtime_error *error);

int __wrap_runtime_folder_connect(const char *name, int timeout_ms, struct runtime_error *error)
{
	int ends[2], room = 1 << 20;
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) < 0)
		abort();
	setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	for (size_t sent = 0; sent < answer_bytes;) {
		ssize_t n = send(ends[1], answer + sent, answer_bytes - sent, MSG_NOSIGNAL);
		if (n <= 0)
			break;
		sent += (size_t)n;
	}
	shutdown(ends[1], SHUT_WR);
	close(ends[1]);
	return ends[0];
}

int __wrap_runtime_folder_list(int (*each)(const char *name, void *context), void *context,
			       struct runtime_error *error);

int __wrap_runtime_folder_list(int (*each)(const char *name, void *context), void *context, struct runtime_error *error)
{
	return each("one", context);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_be_quiet();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const char *const commands[][5] = {
		{"stat", "one"},
		{"stat", "one", "--json"},
		{"ps"},
		{"ps", "--json"},
		{"set", "one", "--limit", "1G"},
		{"reclaim", "one", "1M"},
		{"park", "one"},
		{"unpark", "one"},
		{"kill", "one"},
		{"wait", "one"},
		{"swapon", "one", "/x"},
		{"swapoff", "one"},
		{"release", "one"},
		{"checkpoint", "one", "/x"},
		{"stat", "one", "--watch", "0.01"},
	};
	char *argv[7] = {(char *)(uintptr_t) "membox"};
	int argc = 1;
	if (!size)
		return 0;
	for (const char *const *word = commands[data[0] % ARRAY_LEN(commands)]; *word; word++)
		argv[argc++] = (char *)(uintptr_t)*word;
	answer = data + 1;
	answer_bytes = size - 1;
	optind = 0; /* glibc: from the beginning */
	membox_main(argc, argv);
	return 0;
}
