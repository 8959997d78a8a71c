#include "cli/packing.h"

#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/log.h"
#include "base/monotonic.h"
#include "base/units.h"
#include "cli/verbs.h"

#define DEFAULT_LEVEL 3
#define MAX_LEVEL 19
#define DEFAULT_THREADS_MOST 8 /* each takes memory of its own */
#define MAX_THREADS 256
#define SHOW_EVERY_NS 200000000ull

/* --- signals --- */

static const int endings[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
static void (*undo_now)(const void *what);
static const void *undo_what;

static sigset_t ending_set(void)
{
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(endings); i++)
		sigaddset(&set, endings[i]);
	return set;
}

static void undo(int number)
{
	undo_now(undo_what);
	raise(number); /* its handler is gone (SA_RESETHAND) */
}

void packing_block_signals(void)
{
	sigset_t set = ending_set();
	sigprocmask(SIG_BLOCK, &set, NULL);
}

static void set_handlers(void (*handler)(int))
{
	struct sigaction action = {.sa_handler = handler, .sa_mask = ending_set(), .sa_flags = (int)SA_RESETHAND}, before;
	sigset_t set = ending_set();
	for (size_t i = 0; i < ARRAY_LEN(endings); i++)
		if (sigaction(endings[i], NULL, &before) == 0 && before.sa_handler != SIG_IGN)
			sigaction(endings[i], &action, NULL);
	sigprocmask(SIG_UNBLOCK, &set, NULL);
}

void packing_begin_undo(void (*function)(const void *what), const void *what)
{
	undo_now = function;
	undo_what = what;
	set_handlers(undo);
}

void packing_end_undo(void)
{
	set_handlers(SIG_DFL);
}

/* --- progress --- */

static void show(void *context, uint64_t done, uint64_t all)
{
	struct packing_display *display = context;
	char size[SIZE_TEXT_MAX], of[SIZE_TEXT_MAX];
	uint64_t now = monotonic_ns();
	if (now - display->last_ns < SHOW_EVERY_NS || !isatty(STDERR_FILENO))
		return;
	display->last_ns = now;
	display->is_shown = true;
	if (all)
		fprintf(stderr, "\r\033[K%s %s of %s", display->text, format_size(done << PAGE_SHIFT, size), format_size(all << PAGE_SHIFT, of));
	else
		fprintf(stderr, "\r\033[K%s %s", display->text, format_size(done << PAGE_SHIFT, size));
}

struct pack_progress packing_progress(struct packing_display *display)
{
	display->last_ns = monotonic_ns(); /* what is done at once shows nothing */
	return (struct pack_progress){show, display};
}

void packing_clear(struct packing_display *display)
{
	if (display->is_shown)
		fputs("\r\033[K", stderr);
	display->is_shown = false;
}

/* --- options --- */

static unsigned processors(void)
{
	cpu_set_t set;
	return sched_getaffinity(0, sizeof(set), &set) == 0 ? (unsigned)CPU_COUNT(&set) : 1;
}

void packing_options_init(struct packing_options *options)
{
	*options = (struct packing_options){.pack = {.level = DEFAULT_LEVEL, .nr_threads = MIN_OF(processors(), DEFAULT_THREADS_MOST)}};
}

static int take_threads(struct packing_options *options)
{
	char *end;
	unsigned long threads = strtoul(optarg, &end, 10);
	if (!*optarg || *end || *optarg == '-' || threads > MAX_THREADS) {
		log_error("--threads: '%s' is not a number from 0 (one for each processor) to %d", optarg, MAX_THREADS);
		return EXIT_MEMBOX_FAILED;
	}
	options->pack.nr_threads = threads ? (unsigned)threads : processors();
	return 0;
}

int packing_take_option(struct packing_options *options, int option, int word)
{
	if (option >= '0' && option <= '9') { /* "-19" comes digit by digit */
		int before = options->level_word == word ? options->pack.level : 0;
		options->level_word = word;
		options->pack.level = MIN_OF(before * 10 + option - '0', 1000);
		return 0;
	}
	if (option == PACKING_LONG)
		options->pack.looks_far_back = true;
	return option == 'T' ? take_threads(options) : option != PACKING_LONG;
}

int packing_check_options(const struct packing_options *options)
{
	if (options->pack.level >= 1 && options->pack.level <= MAX_LEVEL)
		return 0;
	log_error("-%d: is not a level of compression (1 to %d)", options->pack.level, MAX_LEVEL);
	return EXIT_MEMBOX_FAILED;
}
