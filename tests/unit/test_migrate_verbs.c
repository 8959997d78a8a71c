/* What the control protocol says of a migration: its result, how far it is, and who has to wait meanwhile. The migration itself is played. */
#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>

#include "control/verbs.h"
#include "unit.h"

static struct {
	const char *read[2], *wrong; /* lists of nodes, as they came; the one that is refused */
	int nr_read;
	struct node_set to, from;
	bool has_from;
	int begins;
	struct migrate_result result;
	struct migrate_progress progress;
	bool is_under_way;
} played;

static struct container c;
static struct request request;

int __wrap_migration_read_nodes(const char *what, const char *text, struct node_set *ret, struct migrate_error *error);
int __wrap_migration_begin(struct container *container, const struct node_set *to, const struct node_set *from, struct migration **ret);
int __wrap_migration_step(struct migration **migration, struct migrate_result *ret);
bool __wrap_migration_progress(const struct container *container, struct migrate_progress *ret);

int __wrap_migration_read_nodes(const char *what, const char *text, struct node_set *ret, struct migrate_error *error)
{
	if (played.wrong && !strcmp(text, played.wrong)) {
		snprintf(error->text, sizeof(error->text), "%s: wrong", what);
		return -ENODEV;
	}
	assert_string_equal(what, played.nr_read ? "--from-node" : "--to-node");
	played.read[played.nr_read++] = text;
	return node_set_parse(text, ret);
}

int __wrap_migration_begin(struct container *container, const struct node_set *to, const struct node_set *from, struct migration **ret)
{
	played.begins++;
	played.to = *to;
	played.has_from = from;
	if (from)
		played.from = *from;
	return 0;
}

int __wrap_migration_step(struct migration **migration, struct migrate_result *ret)
{
	*ret = played.result;
	return 0;
}

bool __wrap_migration_progress(const struct container *container, struct migrate_progress *ret)
{
	if (played.is_under_way)
		*ret = played.progress;
	return played.is_under_way;
}

static int begin(void **state)
{
	memset(&played, 0, sizeof(played));
	memset(&c, 0, sizeof(c));
	return 0;
}

/* What beginning a verb returns. */
static int ask(const char *verb, const char *members)
{
	request = (struct request){.verb = control_find_verb(verb), .members = json_tokener_parse(members), .reply = json_object_new_object()};
	assert_non_null(request.verb);
	return control_begin(&request, &c);
}

static void end_request(void)
{
	json_object_put(request.members);
	json_object_put(request.reply);
}

static uint64_t number(json_object *object, const char *name)
{
	json_object *value;
	assert_true(json_object_object_get_ex(object, name, &value));
	return json_object_get_uint64(value);
}

static double real(const char *name)
{
	json_object *value;
	assert_true(json_object_object_get_ex(request.reply, name, &value));
	return json_object_get_double(value);
}

static void expect_refusal(const char *verb, const char *members, int r, const char *why)
{
	assert_int_equal(ask(verb, members), r);
	assert_string_equal(request.error, why);
	assert_int_equal(played.begins, 0);
	end_request();
}

static bool has_only(const struct node_set *set, unsigned node)
{
	return node_set_next(set, 0) == (int)node && node_set_next(set, node + 1) < 0;
}

static void test_all_but_the_targets(void **state)
{
	assert_int_equal(ask("migrate", "{\"to\": \"3\"}"), -EINPROGRESS);
	assert_true(has_only(&played.to, 3) && !played.has_from);
	end_request();
}

static void test_from_some_nodes(void **state)
{
	assert_int_equal(ask("migrate", "{\"to\": \"3\", \"from\": \"5\"}"), -EINPROGRESS);
	assert_true(has_only(&played.to, 3) && played.has_from && has_only(&played.from, 5));
	end_request();
}

static void test_wrong_nodes(void **state)
{
	played.wrong = "7";
	expect_refusal("migrate", "{\"to\": \"7\"}", -ENODEV, "--to-node: wrong");
	expect_refusal("migrate", "{\"to\": \"7\", \"from\": \"5\"}", -ENODEV, "--to-node: wrong");
	expect_refusal("migrate", "{\"to\": \"3\", \"from\": \"7\"}", -ENODEV, "--from-node: wrong");
}

static void test_not_while_something_else_is_under_way(void **state)
{
	static const char *const to = "{\"to\": \"3\"}", *const parked = "a park or a swapoff is under way, or the container is parked";
	for (c.parking = PARKING_HOLDS; c.parking <= PARKING_DONE; c.parking++, played.nr_read = 0)
		expect_refusal("migrate", to, -EBUSY, parked);
	c.parking = PARKING_NOT;
	c.swapoff = (struct bring_back *)&c;
	expect_refusal("migrate", to, -EBUSY, parked);
	c.swapoff = NULL;
	c.is_being_saved = true;
	expect_refusal("migrate", to, -EBUSY, "a checkpoint is under way");
	c.is_being_saved = false;
	played.nr_read = 0;
	c.migration = (struct migration *)&c;
	expect_refusal("migrate", to, -EBUSY, "another migration is under way");
}

static void test_who_has_to_wait(void **state)
{
	static const char *const verbs[] = {"park", "swapon", "swapoff", "release", "checkpoint", "upgrade"};
	c.migration = (struct migration *)&c;
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		expect_refusal(verbs[i], "{\"path\": \"/absent\", \"program\": \"/absent\"}", -EBUSY, "a migration is under way");
}

static void test_result(void **state)
{
	static const char *const reasons[] = {"busy", "shared", "refused", "other"};
	json_object *failed;
	played.result = (struct migrate_result){
		.figures = {.found = 1000, .moved = 500, .swapped = 60, .freed = 7, .failed = {1, 20, 300, 4000}, .left = 50000}, .took_ns = 250000000, .undirected = 3};
	assert_int_equal(ask("migrate", "{\"to\": \"3\"}"), -EINPROGRESS);
	assert_int_equal(request.verb->step(&request, &c), 0);
	assert_int_equal(number(request.reply, "found"), 1000);
	assert_int_equal(number(request.reply, "moved"), 500);
	assert_int_equal(number(request.reply, "swapped"), 60);
	assert_int_equal(number(request.reply, "freed"), 7);
	assert_int_equal(number(request.reply, "failed"), 4321);
	assert_int_equal(number(request.reply, "left"), 50000);
	assert_int_equal(number(request.reply, "undirected"), 3);
	assert_true(json_object_object_get_ex(request.reply, "failed_by_reason", &failed));
	assert_int_equal(json_object_object_length(failed), NR_MIGRATE_FAILURES);
	for (int i = 0; i < NR_MIGRATE_FAILURES; i++)
		assert_int_equal(number(failed, reasons[i]), played.result.figures.failed[i]);
	assert_true(real("seconds") == 0.25);
	assert_true(real("gb_per_s") == 500.0 * PAGE_BYTES / 1e9 / 0.25);
	end_request();
}

static void expect_progress(bool is_under_way, uint64_t resident, uint64_t looked_at, uint64_t moved)
{
	json_object *under_way;
	assert_int_equal(ask("migration", "{}"), 0);
	assert_true(json_object_object_get_ex(request.reply, "under_way", &under_way));
	assert_true(json_object_get_boolean(under_way) == is_under_way);
	assert_int_equal(number(request.reply, "resident"), resident);
	assert_int_equal(number(request.reply, "looked_at"), looked_at);
	assert_int_equal(number(request.reply, "moved"), moved);
	end_request();
}

/* Whoever asks disturbs nobody. */
static void test_progress(void **state)
{
	expect_progress(false, 0, 0, 0);
	played.is_under_way = true;
	played.progress = (struct migrate_progress){.resident = 10, .looked_at = 5, .moved = 2};
	c.is_being_saved = true;
	expect_progress(true, 10, 5, 2);
}

#define TEST(name) cmocka_unit_test_setup(test_##name, begin)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(all_but_the_targets),
		TEST(from_some_nodes),
		TEST(wrong_nodes),
		TEST(not_while_something_else_is_under_way),
		TEST(who_has_to_wait),
		TEST(result),
		TEST(progress),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
