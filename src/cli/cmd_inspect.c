/* membox inspect: what is in a checkpoint. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "checkpoint/image.h"
#include "cli/options.h"
#include "cli/request.h"
#include "cli/text.h"
#include "cli/verbs.h"

static const char usage[] = "Usage: membox inspect FOLDER [--json]\n"
			    "Show what a checkpoint holds: its processes, their memory, threads and open files.\n"
			    "\n"
			    "  --json  print an object instead\n"
			    "  --help  print this\n"
			    "\n"
			    "Exit code 0; 125 when it is not a checkpoint, is damaged, or membox itself failed.\n";

static const char *const kinds[] = {"file", "folder", "device", "outside", "pipe", "eventfd", "epoll", "timerfd", "signalfd", "socket", "object"};

static uint64_t pages_of(const Image__Process *process)
{
	uint64_t pages = 0;
	for (size_t i = 0; process->memory && i < process->memory->n_mappings; i++)
		for (size_t k = 0; k < process->memory->mappings[i]->n_extents; k++)
			pages += process->memory->mappings[i]->extents[k]->nr_pages;
	return pages;
}

static json_object *process_object(const Image__Process *process)
{
	json_object *object = json_object_new_object();
	json_object_object_add(object, "pid", json_object_new_int(process->pid));
	json_object_object_add(object, "parent", json_object_new_int(process->parent));
	json_object_object_add(object, "name", json_object_new_string(process->n_threads ? process->threads[0]->name : "?"));
	json_object_object_add(object, "executable", json_object_new_string(process->memory ? process->memory->executable : ""));
	json_object_object_add(object, "threads", json_object_new_uint64(process->n_threads));
	json_object_object_add(object, "mappings", json_object_new_uint64(process->memory ? process->memory->n_mappings : 0));
	json_object_object_add(object, "bytes", json_object_new_uint64(pages_of(process) << PAGE_SHIFT));
	json_object_object_add(object, "descriptors", json_object_new_uint64(process->n_descriptors));
	return object;
}

static json_object *file_object(const Image__File *file)
{
	json_object *object = json_object_new_object();
	json_object_object_add(object, "kind", json_object_new_string(file->kind < ARRAY_LEN(kinds) ? kinds[file->kind] : "?"));
	json_object_object_add(object, "path", json_object_new_string(file->path));
	return object;
}

static json_object *image_object(const Image__Image *image)
{
	json_object *object = json_object_new_object(), *command = json_object_new_array(), *processes = json_object_new_array(),
		    *files = json_object_new_array();
	for (size_t i = 0; i < image->container->n_command; i++)
		json_object_array_add(command, json_object_new_string(image->container->command[i]));
	for (size_t i = 0; i < image->n_processes; i++)
		json_object_array_add(processes, process_object(image->processes[i]));
	for (size_t i = 0; i < image->n_files; i++)
		json_object_array_add(files, file_object(image->files[i]));
	json_object_object_add(object, "name", json_object_new_string(image->container->name));
	json_object_object_add(object, "command", command);
	json_object_object_add(object, "taken", json_object_new_uint64(image->container->taken_at));
	json_object_object_add(object, "kernel", json_object_new_string(image->machine->kernel));
	json_object_object_add(object, "architecture", json_object_new_string(image->machine->architecture));
	json_object_object_add(object, "rss_limit", json_object_new_uint64(image->container->limit_bytes));
	json_object_object_add(object, "bytes", json_object_new_uint64(image->pages->nr_pages << PAGE_SHIFT));
	json_object_object_add(object, "written", json_object_new_uint64(image->pages->written << PAGE_SHIFT));
	json_object_object_add(object, "encrypted", json_object_new_boolean(image->pages->key.len > 0));
	json_object_object_add(object, "processes", processes);
	json_object_object_add(object, "files", files);
	return object;
}

static void print_process(json_object *process)
{
	char size[SIZE_TEXT_MAX];
	printf("%8llu %8llu %8s %7llu %8llu %5llu  ", (unsigned long long)object_number(process, "pid"), (unsigned long long)object_number(process, "parent"),
	       format_size_short(object_number(process, "bytes"), size), (unsigned long long)object_number(process, "threads"),
	       (unsigned long long)object_number(process, "mappings"), (unsigned long long)object_number(process, "descriptors"));
	print_safely(object_text(process, "name"), 0);
	putchar('\n');
}

static void print_image(json_object *object)
{
	char size[SIZE_TEXT_MAX], age[AGE_TEXT_MAX];
	json_object *processes = object_array(object, "processes");
	printf("container  ");
	print_safely(object_text(object, "name"), 0);
	printf("\ncommand    ");
	print_command(json_object_object_get(object, "command"));
	printf("\ntaken      %s ago, Linux ", format_age(object_number(object, "taken"), age));
	print_safely(object_text(object, "kernel"), 0);
	printf("\npages      %s", format_size_short(object_number(object, "bytes"), size));
	printf(", %s of it written for this checkpoint%s\n\n", format_size_short(object_number(object, "written"), size),
	       json_object_get_boolean(json_object_object_get(object, "encrypted")) ? ", encrypted with the key beside them" : "");
	printf("%8s %8s %8s %7s %8s %5s  %s\n", "PID", "PARENT", "PAGES", "THREADS", "MAPPINGS", "FILES", "NAME");
	for (size_t i = 0; i < json_object_array_length(processes); i++)
		print_process(json_object_array_get_idx(processes, i));
}

int cmd_inspect(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, REQUEST_JSON},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const struct request_syntax syntax = {usage, options, 1, 1, "no folder given"};
	struct request_line line = {0};
	struct checkpoint_error error = {0};
	struct image image;
	int r = request_parse(argc, argv, &syntax, &line);

	if (!r && line.help)
		return finish_output(0);
	if (r)
		return r;
	if (image_open(line.words[0], &image, &error) < 0) {
		log_error("%s", error.text);
		return EXIT_MEMBOX_FAILED;
	}
	_cleanup_object_ json_object *object = image_object(image.message);
	image_close(&image);
	if (request_value(&line, REQUEST_JSON))
		print_object(object, false);
	else
		print_image(object);
	return finish_output(0);
}
