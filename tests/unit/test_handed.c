/* A keeper's state on its way to another program: what is written is read again; what is damaged, or makes no sense, is refused with a reason. */
#include "checkpoint/handed.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/types.h"
#include "pager/shadow.h"
#include "unit.h"

struct made {
	Upgrade__Keeper keeper;
	Upgrade__Config config;
	Upgrade__Container container;
	Upgrade__Swap swap;
	Upgrade__Space space;
	Upgrade__Entries entries;
	Upgrade__Member member;
	char *command[1];
	Upgrade__Space *spaces[1];
	Upgrade__Entries *tables[1];
	Upgrade__Member *members[1];
	uint64_t values[3];
};

static void make(struct made *m)
{
	*m = (struct made){.command = {(char *)"program"}};
	upgrade__keeper__init(&m->keeper);
	upgrade__config__init(&m->config);
	upgrade__container__init(&m->container);
	upgrade__swap__init(&m->swap);
	upgrade__space__init(&m->space);
	upgrade__entries__init(&m->entries);
	upgrade__member__init(&m->member);
	m->keeper.config = &m->config;
	m->keeper.container = &m->container;
	m->keeper.swap = &m->swap;
	m->spaces[0] = &m->space;
	m->members[0] = &m->member;
	m->keeper.spaces = m->spaces;
	m->keeper.members = m->members;
	m->keeper.n_spaces = m->keeper.n_members = 1;
	m->config.name = (char *)"name";
	m->config.limit_bytes = 1 << 20;
	m->config.command = m->command;
	m->config.n_command = 1;
	m->container.limit_pages = 256;
	m->swap.path = (char *)"/swap";
	m->swap.nr_slots = 100;
	m->values[0] = entry_make(STATE_SWAPPED, 99, 0, 0, 0);
	m->values[1] = entry_make(STATE_ZERO, NO_SLOT, 0, 0, 0);
	m->values[2] = entry_make(STATE_RESIDENT, 7, 3, 0, ENTRY_PINNED);
	m->entries.start = 0x7f0000000000;
	m->entries.values = m->values;
	m->entries.n_values = ARRAY_LEN(m->values);
	m->tables[0] = &m->entries;
	m->space.entries = m->tables;
	m->space.n_entries = 1;
	m->member.pid = 1;
	m->member.space = 1;
}

static int transfer(struct made *m, struct checkpoint_error *error)
{
	struct handed handed = {.keeper = &m->keeper};
	Upgrade__Keeper *k;
	int fd = handed_write(&handed);
	assert_true(fd >= 0);
	int r = handed_read(fd, &k, error);
	close(fd);
	if (r < 0)
		return r;
	assert_string_equal(k->config->name, "name");
	assert_int_equal(k->spaces[0]->entries[0]->n_values, 3);
	assert_memory_equal(k->spaces[0]->entries[0]->values, m->values, sizeof(m->values));
	upgrade__keeper__free_unpacked(k, NULL);
	return 0;
}

static void comes_over(void **state)
{
	struct checkpoint_error error = {0};
	struct made m;
	make(&m);
	assert_int_equal(transfer(&m, &error), 0);
}

static void nonsense_is_refused(void **state)
{
	struct made m;
	for (int i = 0;; i++) {
		struct checkpoint_error error = {0};
		make(&m);
		switch (i) {
		case 0: m.values[0] = entry_make(STATE_SWAPPED, 100, 0, 0, 0); break; /* beyond the file */
		case 1: m.values[0] = entry_make(STATE_SWAPPED, NO_SLOT, 0, 0, 0); break;
		case 2: m.values[1] = entry_make(STATE_ZERO, 5, 0, 0, 0); break;
		case 3: m.values[1] = entry_make(NR_STATES, NO_SLOT, 0, 0, 0); break;
		case 4: m.values[2] = entry_make(STATE_RESIDENT, 7, 0, 0, ENTRY_LOADING); break;
		case 5: m.values[0] = entry_make(STATE_SWAPPED, 0x80000000u, 0, 0, 0); break; /* there is no base */
		case 6: m.entries.start = 0x7f0000000001; break;
		case 7: m.entries.start = 1ull << 47; break;
		case 8: m.member.space = 2; break;
		case 9: m.member.pid = 0; break;
		case 10: m.config.n_command = 0; break;
		case 11: m.container.channel = -1; break;
		case 12: m.container.limit_pages = 0; break;
		case 13: m.space.uffd = -1; break;
		case 14: m.swap.nr_slots = 0; break;
		case 15: m.keeper.container = NULL; break;
		default: return;
		}
		assert_int_equal(transfer(&m, &error), -EBADMSG);
		assert_string_equal(error.text, "the keeper's state makes no sense");
	}
}

static int copy_changed(int from, size_t at, uint8_t by, bool sealed)
{
	uint8_t bytes[4096];
	int fd = memfd_create("copy", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	ssize_t n = pread(from, bytes, sizeof(bytes), 0);
	assert_true(fd >= 0 && n > (ssize_t)at && n < (ssize_t)sizeof(bytes));
	bytes[at] ^= by;
	assert_int_equal(write(fd, bytes, (size_t)n), n);
	if (sealed)
		assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE), 0);
	return fd;
}

static void damage_is_refused(void **state)
{
	struct made m;
	make(&m);
	struct handed handed = {.keeper = &m.keeper};
	int fd = handed_write(&handed);
	const struct {
		size_t at;
		uint8_t by;
		bool sealed;
		int result;
	} cases[] = {{0, 0, true, 0}, {0, 1, true, -EBADMSG}, {8, 1, true, -EPROTO}, {16, 1, true, -EBADMSG}, {24, 1, true, -EBADMSG}, {40, 1, true, -EBADMSG}, {0, 0, false, -EBADMSG}};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct checkpoint_error error = {0};
		Upgrade__Keeper *k = NULL;
		int copy = copy_changed(fd, cases[i].at, cases[i].by, cases[i].sealed);
		assert_int_equal(handed_read(copy, &k, &error), cases[i].result);
		assert_true((error.text[0] != 0) == (cases[i].result < 0));
		if (k)
			upgrade__keeper__free_unpacked(k, NULL);
		close(copy);
	}
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(comes_over),
		cmocka_unit_test(nonsense_is_refused),
		cmocka_unit_test(damage_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
