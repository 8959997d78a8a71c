#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/container_options.h"
#include "cli/options.h"
#include "cli/verbs.h"
#include "control/server.h"

int container_run_controlled(struct run_config *config)
{
	struct runtime_folder *folder = NULL;
	struct control_server *server = NULL;
	struct runtime_error error;
	int r = runtime_folder_create(config->name, &folder, &error);

	if (r == 0) {
		r = control_server_new(folder, &server);
		if (r < 0)
			snprintf(error.text, sizeof(error.text), "control socket in %.300s: %s", runtime_folder_path(folder), strerror(-r));
	}
	if (r == -EEXIST) {
		log_error("%s", error.text);
		return EXIT_MEMBOX_FAILED;
	}
	if (r < 0)
		log_error("%s: container %s runs, but cannot be managed", error.text, config->name);
	config->service = server ? control_server_service(server) : NULL;

	int code = container_run(config);
	bool is_detached = config->detach && code == 0;

	if (is_detached)
		puts(config->name);
	else if (folder)
		runtime_folder_remove(folder); /* the keeper has done it, if it was not killed */
	control_server_free(server);
	runtime_folder_release(folder);
	return finish_output(code);
}
