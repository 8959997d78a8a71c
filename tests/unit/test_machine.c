/* On which machine a checkpoint can go on. */
#include "checkpoint/machine.h"

#include <errno.h>
#include <string.h>

#include "platform/cpu.h"
#include "unit.h"

static void expect(Image__Machine *machine, int code, const char *word)
{
	struct checkpoint_error error = {0};
	assert_int_equal(machine_check(machine, &error), code);
	assert_true(code == 0 || strstr(error.text, word));
}

static void this_one_is_right_and_others_are_refused_by_name(void **state)
{
	struct arena arena = {0};
	Image__Machine *machine;
	char kernel[] = "5.0-other", other[] = "z80";
	assert_int_equal(machine_describe(&arena, &machine), 0);
	expect(machine, 0, NULL);

	Image__Machine changed = *machine;
	changed.architecture = other;
	expect(&changed, -ENOTSUP, "z80");
	changed = *machine;
	changed.kernel = kernel;
	changed.vdso_checksum++;
	expect(&changed, -ENOTSUP, "5.0-other");
	changed = *machine;
	changed.xstate_features |= UINT64_C(1) << 62;
	expect(&changed, -ENOTSUP, "vector registers");
	changed.xstate_features = machine->xstate_features & ~UINT64_C(4); /* fewer are no hindrance */
	changed.n_vector_offsets = 0;
	expect(&changed, 0, NULL);
	arena_release(&arena);
}

static void a_processor_that_can_less_is_refused(void **state)
{
	uint32_t saved[CPU_WORDS], here[CPU_WORDS];
	memset(saved, 0xff, sizeof(saved));
	memset(here, 0xff, sizeof(here));
	assert_null(cpu_find_missing(saved, CPU_WORDS, here));
	for (size_t word = 0; word < CPU_WORDS; word++) {
		here[word] = 0;
		bool is_used = cpu_find_missing(saved, CPU_WORDS, here) != NULL; /* not every architecture needs each word */
		assert_true(is_used || word > 0);
		assert_null(cpu_find_missing(saved, word, here));
		saved[word] = 0;
		assert_null(cpu_find_missing(saved, CPU_WORDS, here));
		saved[word] = here[word] = UINT32_MAX;
	}
}

static void registers_in_another_order_are_refused(void **state)
{
	struct arena arena = {0};
	Image__Machine *machine;
	assert_int_equal(machine_describe(&arena, &machine), 0);
	if (!machine->n_vector_offsets)
		skip();
	machine->vector_offsets[0] += 64;
	expect(machine, -ENOTSUP, "order");
	machine->n_vector_offsets = 0; /* of an earlier membox */
	expect(machine, 0, NULL);
	arena_release(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(this_one_is_right_and_others_are_refused_by_name),
		cmocka_unit_test(a_processor_that_can_less_is_refused),
		cmocka_unit_test(registers_in_another_order_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
