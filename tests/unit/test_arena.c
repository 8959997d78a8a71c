/* Memory that is given back at once: zeroed, and arrays that keep what is in them while they grow. */
#include "base/arena.h"

#include <stdint.h>
#include <string.h>

#include "unit.h"

static void arrays_keep_their_items(void **state)
{
	struct arena arena = {0};
	uint64_t *items = NULL;
	for (size_t nr = 0; nr < 1000; nr++) {
		uint64_t *item = arena_grow(&arena, &items, nr, sizeof(*item));
		assert_non_null(item);
		assert_int_equal(*item, 0);
		*item = nr + 1;
		for (size_t i = 0; i <= nr; i++)
			assert_int_equal(items[i], i + 1);
	}
	assert_false(arena.is_exhausted);
	arena_release(&arena);
	assert_null(arena.blocks);
}

static void texts_are_copied(void **state)
{
	struct arena arena = {0};
	char text[] = "one";
	char *copy = arena_strdup(&arena, text), *printed = arena_printf(&arena, "%s and %d", text, 2);
	text[0] = 'x';
	assert_string_equal(copy, "one");
	assert_string_equal(printed, "one and 2");
	assert_non_null(arena_copy(&arena, NULL, 0));
	arena_release(&arena);
}

static void too_much_is_refused(void **state)
{
	struct arena arena = {0};
	void *items = NULL;
	assert_null(arena_alloc(&arena, SIZE_MAX));
	assert_true(arena.is_exhausted);
	assert_null(arena_grow(&arena, &items, 0, SIZE_MAX / 4));
	arena_release(&arena);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(arrays_keep_their_items),
		cmocka_unit_test(texts_are_copied),
		cmocka_unit_test(too_much_is_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
