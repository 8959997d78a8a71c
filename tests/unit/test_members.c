/* The members of a container: nobody is forgotten while it lives, whatever the walk over the tree meets. */
#include "container/members.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "platform/process.h"
#include "unit.h"

struct watch {
	struct members members;
	pid_t dies_in_walk; /* when the walk comes to it */
	pid_t gone[8];
	int nr_gone;
};

static int setup(void **state)
{
	static struct watch watch;
	watch = (struct watch){0};
	members_init(&watch.members);
	*state = &watch;
	return 0;
}

static int teardown(void **state)
{
	struct watch *watch = *state;
	for (uint32_t i = 0; i < watch->members.nr; i++)
		member_kill(&watch->members.items[i], SIGKILL);
	members_release(&watch->members);
	while (waitpid(-1, NULL, 0) > 0)
		;
	return 0;
}

static void wait_dead(pid_t pid)
{
	siginfo_t info;
	assert_int_equal(waitid(P_PID, (id_t)pid, &info, WEXITED | WNOWAIT), 0);
}

/* Asked about each process that the walk finds, before its children are looked at. */
static bool is_agent(pid_t pid, void *context)
{
	struct watch *watch = context;
	if (pid == watch->dies_in_walk) {
		kill(pid, SIGKILL);
		wait_dead(pid);
	}
	return false;
}

static void gone(struct member *member, void *context)
{
	struct watch *watch = context;
	assert_in_range(watch->nr_gone, 0, ARRAY_LEN(watch->gone) - 1);
	watch->gone[watch->nr_gone++] = member->pid;
}

static int refresh(struct watch *watch)
{
	const pid_t root = getpid();
	return members_refresh(&watch->members, &root, 1, is_agent, gone, watch);
}

/* A process with a child; both wait for ever. */
static pid_t start_family(pid_t *ret_child)
{
	int channel[2];
	assert_int_equal(pipe(channel), 0);
	pid_t parent = fork();
	if (parent == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		pid_t child = fork();
		if (child > 0 && write(channel[1], &child, sizeof(child)) != sizeof(child))
			_exit(1);
		for (;;)
			pause();
	}
	assert_int_equal(read(channel[0], ret_child, sizeof(*ret_child)), sizeof(*ret_child));
	close(channel[0]);
	close(channel[1]);
	return parent;
}

static void whoever_lives_is_a_member(void **state)
{
	struct watch *watch = *state;
	pid_t child, parent = start_family(&child);
	assert_int_equal(refresh(watch), 2);
	assert_non_null(members_find(&watch->members, parent));
	assert_non_null(members_find(&watch->members, child));

	watch->dies_in_walk = parent; /* its child is this process's then, whose children have been read */
	assert_int_equal(refresh(watch), 2);
	assert_int_equal(watch->nr_gone, 0);
	watch->dies_in_walk = 0;
	assert_int_equal(refresh(watch), 2);

	assert_int_equal(waitpid(parent, NULL, 0), parent);
	assert_int_equal(refresh(watch), 1);
	assert_int_equal(watch->nr_gone, 1);
	assert_int_equal(watch->gone[0], parent);
	member_kill(members_find(&watch->members, child), SIGKILL);
	wait_dead(child);
	assert_int_equal(refresh(watch), 1); /* dead, not reaped */
	assert_int_equal(waitpid(child, NULL, 0), child);
	assert_int_equal(refresh(watch), 0);
	assert_int_equal(watch->nr_gone, 2);
}

/* As if the number of a member that has ended had been given to a new process. */
static void a_number_used_again_is_a_new_member(void **state)
{
	struct watch *watch = *state;
	pid_t first_child, second_child;
	pid_t first = start_family(&first_child), second = start_family(&second_child);
	assert_int_equal(refresh(watch), 4);
	struct member *member = members_find(&watch->members, first), *other = members_find(&watch->members, second);
	struct member old = *member;
	member->statm = other->statm;
	member->pidfd = other->pidfd;
	other->statm = old.statm;
	other->pidfd = old.pidfd;
	kill(second, SIGKILL); /* "first" has its descriptors: it has ended, and its number is found in the tree */
	assert_int_equal(waitpid(second, NULL, 0), second);
	other->present = false;
	member_kill(member, SIGKILL);
	assert_true(member->reaped);
	assert_int_equal(waitpid(first, NULL, WNOHANG), 0); /* alive: no signal went by number */
	refresh(watch);
	member = members_find(&watch->members, first);
	assert_non_null(member);
	assert_false(member->reaped);
	member_kill(member, SIGKILL);
	assert_int_equal(waitpid(first, NULL, 0), first);
}

/* Found otherwise than below its parent, it is no member that stays: it would be counted and killed for what its parent's departure makes unreachable. */
static void the_child_of_one_that_leaves_does_too(void **state)
{
	struct watch *watch = *state;
	struct members *members = &watch->members;
	pid_t child, other_child, parent = start_family(&child), other = start_family(&other_child);
	assert_int_equal(members_add(members, parent, false), 0);
	assert_int_equal(members_add(members, other, false), 0);
	assert_int_equal(members_leave(members, parent), 0);
	assert_int_equal(members_add(members, child, false), 0);
	assert_true(members_find(members, child)->leaves);
	assert_false(members_find(members, other)->leaves);
	assert_int_equal(members_add(members, other_child, true), 0); /* its memory is on its way out */
	assert_true(members_find(members, other_child)->leaves);
	members_sample(members);
	assert_int_equal(members->at_most, members_find(members, other)->resident);
}

static void a_task_that_ends_has_no_memory(void **state)
{
	pid_t child, parent = start_family(&child);
	assert_true(process_has_memory(parent));
	kill(parent, SIGKILL);
	wait_dead(parent);
	assert_false(process_has_memory(parent));
	assert_int_equal(waitpid(parent, NULL, 0), parent);
	assert_false(process_has_memory(parent));
	kill(child, SIGKILL);
}

#define WITH_MEMBERS(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	const struct CMUnitTest tests[] = {
		WITH_MEMBERS(whoever_lives_is_a_member),
		WITH_MEMBERS(a_number_used_again_is_a_new_member),
		WITH_MEMBERS(the_child_of_one_that_leaves_does_too),
		WITH_MEMBERS(a_task_that_ends_has_no_memory),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
