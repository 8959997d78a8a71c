#include "cli/restoring.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "checkpoint/restore.h"
#include "cli/verbs.h"

int restoring_run(const char *verb, const struct container_options *given, const struct image *image, struct arrivals *arrivals)
{
	const Image__Container *saved = image->message->container;
	struct container_storage storage = {0};
	struct run_config config = {0};
	struct checkpoint_error error = {0};
	struct restore *restore;
	_cleanup_free_ char **argv = calloc(saved->n_command + 1, sizeof(*argv));
	int code = EXIT_MEMBOX_FAILED;

	if (!argv || restore_new(image, arrivals, &restore, &error) < 0) {
		log_error("%s: %s", verb, argv ? error.text : strerror(ENOMEM));
		return code;
	}
	memcpy(argv, saved->command, saved->n_command * sizeof(*argv));
	if (!container_options_apply(given, saved->n_command ? argv[0] : "restored", &config, &storage)) {
		if (!container_options_have_limit(given))
			config.limit_bytes = MAX_OF(saved->limit_bytes, CONTAINER_MIN_LIMIT_BYTES);
		config.argv = argv;
		config.isolate |= saved->isolated;
		config.restore = restore_as_source(restore);
		code = container_run_controlled(&config);
	}
	restore_free(restore);
	container_storage_release(&storage);
	return code;
}
