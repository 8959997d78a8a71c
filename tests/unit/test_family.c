/* Which pages of an image are brought in before the processes are cloned, and whose they are. */
#include "checkpoint/family.h"

#include <string.h>
#include <sys/mman.h>

#include "unit.h"

#define MAX_EXTENTS 8
#define AT(page) ((uint64_t)(0x10000 + (page)) * PAGE_BYTES)

/* A process with one mapping. */
struct one {
	Image__Process process;
	Image__Memory memory;
	Image__Mapping mapping, *mappings[1];
	Image__Extent extents[MAX_EXTENTS], *list[MAX_EXTENTS];
};

static void make_one(struct one *one, int pid, int parent, unsigned first_page, unsigned end_page)
{
	image__process__init(&one->process);
	image__memory__init(&one->memory);
	image__mapping__init(&one->mapping);
	one->process.pid = pid;
	one->process.parent = parent;
	one->process.memory = &one->memory;
	one->mapping.start = AT(first_page);
	one->mapping.end = AT(end_page);
	one->mapping.protection = PROT_READ | PROT_WRITE;
	one->mapping.flags = MAP_PRIVATE | MAP_ANONYMOUS;
	one->mapping.extents = one->list;
	one->mappings[0] = &one->mapping;
	one->memory.mappings = one->mappings;
	one->memory.n_mappings = 1;
}

static void add_extent(struct one *one, unsigned page, unsigned nr, unsigned slot, bool resident)
{
	Image__Extent *e = &one->extents[one->mapping.n_extents];
	image__extent__init(e);
	e->start = AT(page);
	e->nr_pages = nr;
	e->slot = slot;
	e->resident = resident;
	one->list[one->mapping.n_extents++] = e;
}

static const uint64_t *checksums; /* NULL: all content is there */

static struct family *family_of(struct one *ones, size_t nr, uint64_t room)
{
	static Image__Process *processes[8];
	Image__Image image = IMAGE__IMAGE__INIT;
	for (size_t i = 0; i < nr; i++)
		processes[i] = &ones[i].process;
	image.processes = processes;
	image.n_processes = nr;
	return family_new(&image, checksums, room);
}

static void assert_piece(const struct family *f, const struct one *one, unsigned from, unsigned start, unsigned end, bool is_own)
{
	struct family_piece piece;
	assert_true(family_next_piece(f, &one->mapping, AT(from), &piece));
	assert_int_equal(piece.start, AT(start));
	assert_int_equal(piece.end, AT(end));
	assert_int_equal(piece.is_own, is_own);
}

static void what_two_have_in_the_same_slots_is_shared(void **state)
{
	struct one ones[2] = {0};
	struct family_piece piece;
	make_one(&ones[0], 10, 0, 0, 100);
	make_one(&ones[1], 11, 10, 0, 100);
	add_extent(&ones[0], 10, 40, 1010, true);
	add_extent(&ones[1], 10, 10, 1010, true);
	add_extent(&ones[1], 20, 5, 5000, true); /* it has changed them */
	add_extent(&ones[1], 30, 40, 1030, true);
	struct family *f = family_of(ones, 2, 1000);
	assert_non_null(f);
	assert_int_equal(family_nr_pages(f), 30);
	assert_true(family_is_at(f, AT(0), AT(1)));
	assert_false(family_is_at(f, AT(100), AT(101)));
	assert_piece(f, &ones[1], 0, 10, 20, true);
	assert_piece(f, &ones[1], 20, 30, 50, true);
	assert_false(family_next_piece(f, &ones[1].mapping, AT(50), &piece));
	assert_true(family_has_mapping(f, &ones[0].mapping));
	family_free(f);
}

static void what_another_has_changed_is_not_its_own(void **state)
{
	struct one ones[3] = {0};
	make_one(&ones[0], 10, 0, 0, 50);
	make_one(&ones[1], 11, 10, 0, 100);
	make_one(&ones[2], 12, 11, 20, 60); /* its mapping was cut */
	add_extent(&ones[0], 0, 50, 1000, true);
	add_extent(&ones[1], 0, 50, 1000, true);
	add_extent(&ones[2], 30, 10, 1030, true);
	add_extent(&ones[2], 40, 2, 7000, true);
	struct family *f = family_of(ones, 3, 1000);
	assert_non_null(f);
	assert_int_equal(family_nr_pages(f), 50);
	assert_piece(f, &ones[2], 0, 20, 30, false); /* holes of its own */
	assert_piece(f, &ones[2], 30, 30, 40, true);
	assert_piece(f, &ones[2], 40, 40, 42, false);
	assert_piece(f, &ones[2], 42, 42, 50, false);
	assert_true(family_has_mapping(f, &ones[2].mapping));
	family_free(f);
}

static void what_was_out_comes_as_faults(void **state)
{
	struct one ones[2] = {0};
	make_one(&ones[0], 10, 0, 0, 50);
	make_one(&ones[1], 11, 10, 0, 50);
	add_extent(&ones[0], 0, 20, 1000, false);
	add_extent(&ones[1], 0, 20, 1000, false);
	assert_null(family_of(ones, 2, 1000));
	ones[0].extents[0].resident = true; /* in one of them it was out */
	assert_null(family_of(ones, 2, 1000));
}

static void only_what_is_cloned_from_the_first_is_family(void **state)
{
	struct one ones[3] = {0};
	make_one(&ones[0], 10, 0, 0, 50);
	make_one(&ones[1], 11, 0, 0, 50);  /* the keeper's own child */
	make_one(&ones[2], 12, 12, 0, 50); /* nonsense */
	for (size_t i = 0; i < 3; i++)
		add_extent(&ones[i], 0, 20, 1000, true);
	assert_null(family_of(ones, 3, 1000));
}

static void room_bounds_it(void **state)
{
	struct one ones[2] = {0};
	make_one(&ones[0], 10, 0, 0, 50);
	make_one(&ones[1], 11, 10, 0, 50);
	for (size_t i = 0; i < 2; i++) {
		add_extent(&ones[i], 0, 20, 1000, true);
		add_extent(&ones[i], 30, 20, 3000, true);
	}
	struct family *f = family_of(ones, 2, 25);
	assert_int_equal(family_nr_pages(f), 25);
	assert_piece(f, &ones[1], 20, 30, 35, true);
	family_free(f);
	assert_null(family_of(ones, 2, 0));
}

static void where_the_kernel_maps_nothing_else_is_put(void **state)
{
	struct one ones[3] = {0};
	make_one(&ones[0], 10, 0, 0, 50);
	make_one(&ones[1], 11, 10, 0, 50);
	make_one(&ones[2], 12, 10, 40, 42);
	add_extent(&ones[0], 0, 20, 1000, true);
	add_extent(&ones[1], 0, 20, 1000, true);
	ones[2].mapping.kind = IMAGE__MAPPING__KIND__KERNEL;
	assert_null(family_of(ones, 3, 1000));
}

static void two_families_at_one_place(void **state)
{
	struct one ones[4] = {0};
	for (int i = 0; i < 4; i++) {
		make_one(&ones[i], 10 + i, i ? 10 : 0, 0, 50);
		add_extent(&ones[i], i < 2 ? 0 : 10, 20, i < 2 ? 1000 : 9000, true);
	}
	struct family *f = family_of(ones, 4, 1000);
	assert_int_equal(family_nr_pages(f), 30);
	assert_piece(f, &ones[0], 0, 0, 20, true);
	assert_piece(f, &ones[0], 20, 20, 30, false);
	assert_piece(f, &ones[3], 0, 0, 10, false);
	assert_piece(f, &ones[3], 10, 10, 20, false);
	assert_piece(f, &ones[3], 20, 20, 30, true);
	family_free(f);
}

static void what_is_still_to_come_is_left_out(void **state)
{
	struct one ones[2] = {0};
	uint64_t some[200];
	memset(some, 1, sizeof(some));
	memset(&some[110], 0, 5 * sizeof(*some));
	make_one(&ones[0], 10, 0, 0, 50);
	make_one(&ones[1], 11, 10, 0, 50);
	for (int i = 0; i < 2; i++)
		add_extent(&ones[i], 0, 20, 100, true);
	checksums = some;
	struct family *f = family_of(ones, 2, 1000);
	checksums = NULL;
	assert_int_equal(family_nr_pages(f), 15);
	assert_piece(f, &ones[1], 0, 0, 10, true);
	assert_piece(f, &ones[1], 10, 15, 20, true);
	family_free(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_two_have_in_the_same_slots_is_shared),
		cmocka_unit_test(what_another_has_changed_is_not_its_own),
		cmocka_unit_test(what_was_out_comes_as_faults),
		cmocka_unit_test(only_what_is_cloned_from_the_first_is_family),
		cmocka_unit_test(room_bounds_it),
		cmocka_unit_test(where_the_kernel_maps_nothing_else_is_put),
		cmocka_unit_test(two_families_at_one_place),
		cmocka_unit_test(what_is_still_to_come_is_left_out),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
