#include "checkpoint/process/mapping_flags.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "checkpoint/process/process.h"

/* What the image depends on. The flags of a userfaultfd are ours. */
static const char *const kept[] = {"gd", "nr", "lo", "mw", "ht", "ss", "io", "pf", "sr", "rr", "dc", "wf", "dd", "hg", "nh", "mg"};

bool mapping_has_flag(const char *flags, const char *flag)
{
	for (const char *at = flags; at && (at = strstr(at, flag)); at++)
		if ((at == flags || at[-1] == ' ') && (at[2] == ' ' || at[2] == '\0'))
			return true;
	return false;
}

static bool are_alike(const char *a, const char *b)
{
	for (size_t i = 0; i < ARRAY_LEN(kept); i++)
		if (mapping_has_flag(a, kept[i]) != mapping_has_flag(b, kept[i]))
			return false;
	return true;
}

/* False, with *ret as it was, for other lines. */
static bool parse(const char *line, struct mapping_seen *ret)
{
	struct mapping_seen m = {0};
	if (sscanf(line, "%lx-%lx %4s %*x %*x:%*x %lu", &m.start, &m.end, m.modes, &m.inode) != 4)
		return false;
	*ret = m;
	return true;
}

int mappings_look(struct arena *arena, pid_t pid, struct mappings_seen *ret)
{
	struct mapping_seen mapping = {0}, *item;
	char *text = proc_text(arena, pid, "smaps", NULL);
	*ret = (struct mappings_seen){.pid = pid};
	if (!text)
		return -ESRCH;
	for (char *line = text, *next; line && *line; line = next) {
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (parse(line, &mapping) || strncmp(line, "VmFlags:", 8))
			continue;
		item = arena_grow(arena, &ret->items, ret->nr, sizeof(*item));
		if (!item)
			return -ENOMEM;
		mapping.flags = line + 8 + strspn(line + 8, " ");
		*item = mapping;
		ret->nr++;
	}
	return 0;
}

/* The first that ends behind an address. */
static size_t find(const struct mappings_seen *seen, remote_addr_t addr)
{
	size_t low = 0, high = seen->nr;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (seen->items[middle].end <= addr)
			low = middle + 1;
		else
			high = middle;
	}
	return low;
}

static bool is_same_kind(const struct mapping_seen *a, const struct mapping_seen *b)
{
	return !strcmp(a->modes, b->modes) && a->inode == b->inode;
}

const char *mapping_flags_of(const struct mappings_seen *seen, const char *line)
{
	struct mapping_seen now;
	const char *flags = NULL;
	if (!parse(line, &now))
		return NULL;
	for (size_t i = find(seen, now.start); i < seen->nr && seen->items[i].start < now.end; i++) {
		const struct mapping_seen *m = &seen->items[i];
		if (!is_same_kind(m, &now) || (flags && !are_alike(flags, m->flags)))
			return NULL;
		flags = m->flags;
	}
	return flags;
}

bool mappings_agree(const struct mappings_seen *before, const struct mappings_seen *after)
{
	for (size_t i = 0; i < before->nr; i++) {
		const struct mapping_seen *m = &before->items[i];
		for (size_t k = find(after, m->start); k < after->nr && after->items[k].start < m->end; k++)
			if (is_same_kind(m, &after->items[k]) && !are_alike(m->flags, after->items[k].flags))
				return false;
	}
	return true;
}
