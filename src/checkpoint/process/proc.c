#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "checkpoint/process/mapping_flags.h"
#include "checkpoint/process/process.h"
#include "platform/process.h"

pid_t saved_id(const struct saving *saving, pid_t pid)
{
	pid_t inner = process_innermost_pid(pid);
	return saving->is_isolated || inner == pid ? inner : 0;
}

Image__Process *saved_process_new(struct saving *saving, pid_t pid)
{
	Image__Image *image = saving->image;
	Image__Process *message = arena_alloc(&saving->arena, sizeof(*message));
	Image__Process **slot = arena_grow(&saving->arena, &image->processes, image->n_processes, sizeof(*slot));
	if (!message || !slot)
		return NULL;
	image__process__init(message);
	message->pid = saved_id(saving, pid);
	*slot = message;
	image->n_processes++;
	return message;
}

const struct mappings_seen *saved_mappings_seen(const struct saving *saving, pid_t pid)
{
	for (size_t i = 0; i < saving->nr_seen; i++)
		if (saving->seen[i].pid == pid)
			return &saving->seen[i];
	return NULL;
}

int saved_no_memory(struct saving *saving)
{
	return checkpoint_fail(&saving->error, -ENOMEM, "checkpoint: %s", strerror(ENOMEM));
}

char *proc_text(struct arena *arena, pid_t pid, const char *name, size_t *ret_len)
{
	char path[96];
	size_t room = 8192, len = 0;
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC);
	_cleanup_free_ char *text = fd < 0 ? NULL : malloc(room);
	while (text) {
		ssize_t n = read(fd, text + len, room - len - 1);
		if (n < 0)
			return NULL;
		len += (size_t)n;
		if (n == 0)
			break;
		if (room - len < 4096) {
			char *larger = realloc(text, room * 2);
			if (!larger)
				return NULL;
			text = larger;
			room *= 2;
		}
	}
	if (!text)
		return NULL;
	text[len] = '\0';
	if (ret_len)
		*ret_len = len;
	return arena_copy(arena, text, len + 1);
}

const char *proc_value(const char *text, const char *key)
{
	size_t length = strlen(key);
	for (const char *line = text; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL)
		if (!strncmp(line, key, length) && line[length] == ':')
			return line + length + 1 + strspn(line + length + 1, " \t");
	return NULL;
}

uint64_t proc_number(const char *text, const char *key, int base)
{
	const char *value = proc_value(text, key);
	return value ? strtoull(value, NULL, base) : 0;
}

char *proc_link(struct arena *arena, pid_t pid, const char *name)
{
	char path[96], target[PATH_MAX + 1];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	ssize_t n = readlink(path, target, sizeof(target) - 1);
	if (n < 0)
		return NULL;
	target[n] = '\0';
	return arena_strdup(arena, target);
}
