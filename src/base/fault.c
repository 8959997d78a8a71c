#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RULES_MAX 8
#define ERRNO_MAX 133
#define NAME_MAX_BYTES 48

enum rule_kind {
	RULE_ERROR,
	RULE_SHORT,
	RULE_FLIP,
	RULE_KILL
};

struct rule {
	char name[NAME_MAX_BYTES];
	enum rule_kind kind;
	int error;
	uint64_t from, to; /* passes, counted from 1, at which it holds ... */
	uint64_t one_in;   /* ... or 0, or one in as many, by chance */
};

static struct rule rules[RULES_MAX];
static uint32_t nr_rules;
static _Atomic pid_t armed;
static struct fault_site *_Atomic sites;
static _Thread_local bool is_inside; /* what is done here meets no faults */

static int errno_of(const char *name)
{
	for (int number = 1; number <= ERRNO_MAX; number++) {
		const char *known = strerrorname_np(number);
		if (known && !strcmp(known, name))
			return number;
	}
	return 0;
}

static _Noreturn void reject(const char *text)
{
	fprintf(stderr, "membox: MEMBOX_FAULT: '%s': not a list of NAME:WHAT[:WHEN]\n", text);
	_exit(125);
}

/* "3": the third pass; "3+": from then on; "1/100": each with a chance of one in a hundred. */
static bool parse_when(const char *text, struct rule *rule)
{
	char *end;
	rule->from = strtoull(text, &end, 10);
	rule->to = *end == '+' ? UINT64_MAX : rule->from;
	if (*end == '/') {
		rule->one_in = strtoull(end + 1, &end, 10);
		return rule->from == 1 && rule->one_in && !*end;
	}
	return rule->from && (!*end || !strcmp(end, "+"));
}

static bool parse_rule(char *text, struct rule *rule)
{
	char *what = strchr(text, ':'), *when = what ? strchr(what + 1, ':') : NULL;
	if (!what)
		return false;
	*what++ = '\0';
	if (when)
		*when++ = '\0';
	snprintf(rule->name, sizeof(rule->name), "%s", text);
	rule->error = errno_of(what);
	rule->kind = !strcmp(what, "short")  ? RULE_SHORT
		     : !strcmp(what, "flip") ? RULE_FLIP
		     : !strcmp(what, "kill") ? RULE_KILL
					     : RULE_ERROR;
	return (rule->kind != RULE_ERROR || rule->error) && parse_when(when ? when : "1", rule);
}

void fault_arm(void)
{
	const char *list = getenv("MEMBOX_FAULT");
	char *copy = list ? strdup(list) : NULL, *rest = NULL;
	for (char *word = copy ? strtok_r(copy, ",", &rest) : NULL; word; word = strtok_r(NULL, ",", &rest))
		if (nr_rules == RULES_MAX || !parse_rule(word, &rules[nr_rules++]))
			reject(list);
	free(copy);
	atomic_store(&armed, getpid());
}

static void note(const char *format, const char *name, uint64_t passes)
{
	const char *path = getenv("MEMBOX_FAULT_LOG");
	int fd = path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
	if (fd < 0)
		return;
	dprintf(fd, format, name, (unsigned long long)passes);
	close(fd);
}

static bool holds(const struct rule *rule, uint64_t pass)
{
	if (rule->one_in)
		return (pass * 0x9e3779b97f4a7c15ull >> 20) % rule->one_in == 0;
	return pass >= rule->from && pass <= rule->to;
}

static const struct rule *find_rule(const struct fault_site *site, uint64_t pass)
{
	for (uint32_t i = 0; i < nr_rules; i++)
		if (!strcmp(rules[i].name, site->name) && holds(&rules[i], pass))
			return &rules[i];
	return NULL;
}

static void enlist(struct fault_site *site)
{
	struct fault_site *head = atomic_load(&sites);
	do {
		site->next = head;
	} while (!atomic_compare_exchange_weak(&sites, &head, site));
}

static void die(pid_t pid)
{
	kill(pid ? pid : getpid(), SIGKILL);
	while (!pid)
		pause();
}

enum fault_kind fault_pass(struct fault_site *site, pid_t pid, int *ret_error)
{
	static const enum fault_kind kinds[] = {[RULE_ERROR] = FAULT_ERROR,
						[RULE_SHORT] = FAULT_SHORT,
						[RULE_FLIP] = FAULT_FLIP,
						[RULE_KILL] = FAULT_NONE};
	int error = errno;
	if (is_inside || !atomic_load_explicit(&armed, memory_order_relaxed) || atomic_load(&armed) != getpid())
		return FAULT_NONE;
	uint64_t pass = atomic_fetch_add(&site->passes, 1) + 1;
	is_inside = true;
	if (pass == 1)
		enlist(site);
	const struct rule *rule = find_rule(site, pass);
	if (rule && (pass == rule->from || rule->one_in))
		note("fault %s %llu\n", site->name, pass);
	if (rule && rule->kind == RULE_KILL)
		die(pid);
	is_inside = false;
	errno = error;
	*ret_error = rule ? rule->error : 0;
	return rule ? kinds[rule->kind] : FAULT_NONE;
}

ssize_t fault_transfer(struct fault_site *site, void *buffer, ssize_t n)
{
	int error;
	switch (fault_pass(site, 0, &error)) {
	case FAULT_ERROR:
		return -error;
	case FAULT_SHORT: /* of a disk: whole sectors */
		return n > 512 ? n / 2 & ~511l : n;
	case FAULT_FLIP:
		if (n > 0)
			((uint8_t *)buffer)[n / 3] ^= 0x10;
		return n;
	case FAULT_NONE:
		break;
	}
	return n;
}

void fault_report(void)
{
	is_inside = true;
	for (struct fault_site *site = atomic_load(&sites); site; site = site->next)
		note("passed %s %llu\n", site->name, atomic_load(&site->passes));
	is_inside = false;
}
