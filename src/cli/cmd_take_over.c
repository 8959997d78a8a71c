/*
 * membox take-over: what a keeper that is upgraded calls exec with, and asks beforehand (checkpoint/upgrade.h). Not in the list of verbs.
 *
 *   take-over --check            says which format it takes over
 *   take-over --check STATE      says whether it could go on from the state in this descriptor
 *   take-over STATE KEY          becomes the keeper; KEY is a pipe with the key of the encryption, or -1
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "checkpoint/handed.h"
#include "checkpoint/take_over.h"
#include "checkpoint/upgrade.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "control/server.h"
#include "platform/requirements.h"

static int check(const char *state)
{
	struct checkpoint_error error = {0};
	Upgrade__Keeper *keeper;

	if (!state)
		printf(UPGRADE_TAKES "%u\n", HANDED_FORMAT);
	else if (handed_read(atoi(state), &keeper, &error) < 0)
		printf(UPGRADE_NO "%s\n", error.text);
	else if (!requirements_have_fork_events()) /* exec may have taken rights away */
		puts(UPGRADE_NO "it has less rights than the program that runs: CAP_SYS_PTRACE is missing");
	else
		puts(UPGRADE_YES);
	return finish_output(0);
}

/* Without a control socket the container goes on, as where none could be made at its start. */
static struct control_server *take_server(const Upgrade__Control *control)
{
	struct control_server *server = NULL;
	if (!control)
		return NULL;
	const struct runtime_handed handed = {
		.path = control->folder_path, .runtime = control->runtime, .folder = control->folder, .lock = control->lock};
	struct runtime_folder *folder = runtime_folder_take_over(&handed);
	if (!folder || control_server_take_over(folder, control, &server) < 0)
		log_error("the control socket in %s cannot be taken over", handed.path);
	return server;
}

int cmd_take_over(int argc, char **argv)
{
	struct checkpoint_error error = {0};
	struct taken_over *taken;

	if (argc >= 2 && !strcmp(argv[1], "--check"))
		return check(argv[2]);
	if (argc != 3) {
		log_error("take-over: only keepers use this");
		return EXIT_MEMBOX_FAILED;
	}
	if (take_over_begin(atoi(argv[1]), atoi(argv[2]), &taken, &error) < 0) {
		log_error("the keeper cannot go on after the upgrade: %s", error.text);
		return EXIT_MEMBOX_FAILED;
	}
	struct control_server *server = take_server(take_over_control(taken));
	take_over_go_on(taken, server ? control_server_service(server) : NULL);
	return 0;
}
