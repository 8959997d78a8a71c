/* A packed checkpoint: what went in comes out; what was cut off or changed anywhere is refused. */
#include "checkpoint/pack/pack.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "checkpoint/pack/format.h"
#include "checkpoint/pack/unpack.h"
#include "swap/swap_header.h"
#include "unit.h"

#define NR_SLOTS 2000u
#define SEED 77

static uint8_t pages[NR_SLOTS][PAGE_BYTES];
static uint64_t checksums[NR_SLOTS];
static Image__Image message;
static struct image image;

static void show_nothing(void *context, uint64_t done, uint64_t all)
{
}

static const struct pack_progress quiet = {show_nothing, NULL};
static const struct pack_options in_threads = {.level = 3, .nr_threads = 2}, alone = {.level = 1};

/* Slots 5 to 7 and 600 to 1500, of which some are named twice; the others hold what nobody may see. */
static int set_up(void **state)
{
	static Image__Extent extents[3];
	static Image__Extent *of_object[] = {&extents[0], &extents[1], &extents[2]};
	static Image__Object object;
	static Image__Object *objects[] = {&object};
	static Image__Machine machine;
	static Image__Container container;
	static Image__Pages in_pages;
	image__image__init(&message);
	image__machine__init(&machine);
	image__container__init(&container);
	image__pages__init(&in_pages);
	image__object__init(&object);
	for (size_t i = 0; i < ARRAY_LEN(extents); i++)
		image__extent__init(&extents[i]);
	extents[0].nr_pages = 3;
	extents[0].slot = 5;
	extents[1].nr_pages = 901;
	extents[1].slot = 600;
	extents[2].nr_pages = 1;
	extents[2].slot = 700;
	object.bytes = 1000 * PAGE_BYTES;
	object.extents = of_object;
	object.n_extents = ARRAY_LEN(of_object);
	container.name = (char *)(uintptr_t)"packed";
	in_pages.nr_slots = 1501;
	in_pages.checksum_seed = SEED;
	message.machine = &machine;
	message.container = &container;
	message.pages = &in_pages;
	message.objects = objects;
	message.n_objects = 1;
	srandom(1);
	for (size_t slot = 0; slot < NR_SLOTS; slot++) {
		memset(pages[slot], (int)slot, PAGE_BYTES);
		for (size_t i = 0; i < 64; i++)
			pages[slot][i * 7] = (uint8_t)random();
		checksums[slot] = XXH3_64bits_withSeed(pages[slot], PAGE_BYTES, SEED);
	}
	image = (struct image){.message = &message, .base = {.nr_slots = 1501, .seed = SEED, .checksums = checksums}};
	image.base.fd = memfd_create("pages", MFD_CLOEXEC);
	image.pages_path = (char *)(uintptr_t)"pages";
	assert_int_equal(write(image.base.fd, pages, sizeof(pages)), sizeof(pages));
	return 0;
}

static int tear_down(void **state)
{
	close(image.base.fd);
	return 0;
}

static int pack_all(int fd, const struct pack_options *options, struct checkpoint_error *error)
{
	struct pack_writer *writer;
	struct pack_result result;
	assert_int_equal(pack_writer_new(fd, options, &writer), 0);
	int r = pack_image(&image, "image", writer, "stream", &quiet, &result, error);
	if (r == 0)
		assert_int_equal(result.pages, 904);
	pack_writer_free(writer);
	return r;
}

/* A stream in a file that is read from its beginning. */
static int packed(const struct pack_options *options)
{
	struct checkpoint_error error = {0};
	int fd = memfd_create("stream", MFD_CLOEXEC);
	assert_int_equal(pack_all(fd, options, &error), 0);
	return fd;
}

static int unpack_all(int stream, int to, struct unpacked *out, struct checkpoint_error *error)
{
	const struct unpack_options options = {.pages = to, .path = "there", .progress = &quiet};
	struct pack_reader *reader;
	lseek(stream, 0, SEEK_SET);
	assert_int_equal(pack_reader_new(stream, "stream", &reader), 0);
	int r = unpack_stream(reader, &options, out, error);
	if (r == 0)
		r = pack_reader_finish(reader, error);
	if (r < 0)
		unpacked_release(out);
	pack_reader_free(reader);
	return r;
}

static void expect_refused(int stream, int code)
{
	struct checkpoint_error error = {0};
	struct unpacked out = {0};
	int to = memfd_create("to", MFD_CLOEXEC), r = unpack_all(stream, to, &out, &error);
	assert_true(r < 0 && (!code || r == code));
	assert_true(error.text[0]);
	assert_null(out.message);
	close(to);
}

static void what_is_packed_is_unpacked(void **state)
{
	const struct pack_options all[] = {in_threads, alone, {.level = 19, .nr_threads = 1, .looks_far_back = true}};
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct checkpoint_error error = {0};
		struct unpacked out = {0};
		struct swap_header header;
		uint8_t page[PAGE_BYTES], zeros[PAGE_BYTES] = {0};
		int stream = packed(&all[i]), to = memfd_create("to", MFD_CLOEXEC);
		struct stat st;
		assert_int_equal(unpack_all(stream, to, &out, &error), 0);
		assert_int_equal(out.pages, 904);
		assert_string_equal(out.message->container->name, "packed");
		fstat(to, &st);
		assert_int_equal(st.st_size, 1501 * PAGE_BYTES);
		assert_int_equal(pread(to, page, sizeof(page), 0), sizeof(page));
		assert_int_equal(swap_header_decode(page, &header), SWAP_HEADER_OURS);
		assert_true(header.keeps_checkpoint);
		for (slot_t slot = 1; slot < 1501; slot++) {
			bool is_named = (slot >= 5 && slot < 8) || slot >= 600;
			assert_int_equal(pread(to, page, sizeof(page), (off_t)slot * (off_t)PAGE_BYTES), sizeof(page));
			assert_memory_equal(page, is_named ? pages[slot] : zeros, sizeof(page));
			assert_int_equal(out.checksums[slot], is_named ? checksums[slot] : 0);
		}
		unpacked_release(&out);
		close(stream);
		close(to);
	}
}

static void cut_off_anywhere_it_is_refused(void **state)
{
	int stream = packed(&in_threads);
	off_t end = lseek(stream, 0, SEEK_END);
	for (off_t size = end - 1; size >= 0; size -= size > end - 64 || size < 64 ? 1 : 997) {
		assert_int_equal(ftruncate(stream, size), 0);
		expect_refused(stream, size ? -ENODATA : -EBADMSG);
	}
	close(stream);
}

static void changed_anywhere_it_is_refused(void **state)
{
	int stream = packed(&alone);
	off_t end = lseek(stream, 0, SEEK_END);
	for (off_t at = 0; at < end; at += at > end - 64 || at < 64 ? 1 : 499) {
		uint8_t byte, changed;
		assert_int_equal(pread(stream, &byte, 1, at), 1);
		changed = byte ^ (uint8_t)(1 << at % 8);
		assert_int_equal(pwrite(stream, &changed, 1, at), 1);
		expect_refused(stream, 0);
		assert_int_equal(pwrite(stream, &byte, 1, at), 1);
	}
	assert_int_equal(pwrite(stream, "x", 1, end), 1);
	expect_refused(stream, -EBADMSG);
	close(stream);
}

static void foreign_files_are_refused(void **state)
{
	static const char text[] = "this is the text of somebody else, and quite long enough for a header";
	int stream = memfd_create("foreign", MFD_CLOEXEC);
	assert_int_equal(write(stream, text, sizeof(text)), sizeof(text));
	expect_refused(stream, -EBADMSG);
	assert_int_equal(ftruncate(stream, 0), 0);
	expect_refused(stream, -EBADMSG);
	close(stream);
}

/* Slots that are sent again count as they were sent last; what is not named in the end is not there. */
static void later_pages_replace_earlier_ones(void **state)
{
	struct checkpoint_error error = {0};
	struct unpacked out = {0};
	struct pack_writer *writer;
	uint8_t page[PAGE_BYTES];
	int stream = memfd_create("stream", MFD_CLOEXEC), to = memfd_create("to", MFD_CLOEXEC);
	assert_int_equal(pack_writer_new(stream, &alone, &writer), 0);
	assert_int_equal(pack_writer_head(writer, message.machine, SEED, 0), 0);
	for (slot_t slot = 600; slot < 1500; slot += 100) /* another content, then the right one below */
		assert_int_equal(pack_writer_pages(writer, slot, 100, checksums + slot - 500, pages[slot - 500]), 0);
	assert_int_equal(pack_writer_image(writer, &message), 0);
	assert_int_equal(pack_writer_pages(writer, 10, 5, checksums + 10, pages[10]), 0);
	assert_int_equal(pack_writer_pages(writer, 5, 3, checksums + 5, pages[5]), 0);
	assert_int_equal(pack_writer_pages(writer, 100, 100, checksums + 100, pages[100]), 0);
	assert_int_equal(pack_writer_flush(writer), 0);
	for (slot_t slot = 600; slot < 1500; slot += 100)
		assert_int_equal(pack_writer_pages(writer, slot, 100, checksums + slot, pages[slot]), 0);
	assert_int_equal(pack_writer_pages(writer, 1500, 1, checksums + 1500, pages[1500]), 0);
	assert_int_equal(pack_writer_image(writer, &message), 0);
	assert_int_equal(pack_writer_end(writer, 904), 0);
	pack_writer_free(writer);
	assert_int_equal(unpack_all(stream, to, &out, &error), 0);
	for (slot_t slot = 1; slot < 1501; slot++) {
		bool is_named = (slot >= 5 && slot < 8) || slot >= 600;
		assert_int_equal(pread(to, page, sizeof(page), (off_t)slot * (off_t)PAGE_BYTES), sizeof(page));
		assert_int_equal(out.checksums[slot], is_named ? checksums[slot] : 0);
		bool may_stay = slot >= 10 && slot < 15; /* a hole of so few pages is not worth it */
		assert_true(may_stay || page[PAGE_BYTES - 1] == (is_named ? (uint8_t)slot : 0));
	}
	unpacked_release(&out);
	close(stream);
	close(to);
}

static void a_page_that_is_missing_is_noticed(void **state)
{
	struct pack_writer *writer;
	int stream = memfd_create("stream", MFD_CLOEXEC);
	assert_int_equal(pack_writer_new(stream, &alone, &writer), 0);
	assert_int_equal(pack_writer_head(writer, message.machine, SEED, 0), 0);
	assert_int_equal(pack_writer_pages(writer, 600, 200, checksums + 600, pages[600]), 0);
	assert_int_equal(pack_writer_image(writer, &message), 0);
	assert_int_equal(pack_writer_end(writer, 904), 0);
	pack_writer_free(writer);
	expect_refused(stream, -EBADMSG);
	close(stream);
}

/* What a stream with a switch may be wrong about. */
enum flaw { NO_FLAW, FIRST_PAGE_LATE, UNKNOWN_LATE, PAGES_BETWEEN, NEW_DESCRIPTION, NEW_ROUND, SWITCH_TWICE, LATE_BEHIND, NOT_ALL_LATE, SOME_MISSING };

/* Slots 5 to 7 are first pages (of an object), 600 to 1500 of a mapping; of these 1000 and more come late, of which 1100 came before with another content. */
static int switched(enum flaw flaw)
{
	static Image__Memory memory;
	static Image__Mapping mapping;
	static Image__Mapping *mappings[] = {&mapping};
	static Image__Process process;
	static Image__Process *processes[] = {&process};
	static Image__Attributes attributes;
	static Image__Scheduling scheduling;
	static Image__Thread thread;
	static Image__Thread *threads[] = {&thread};
	struct pack_writer *writer;
	struct named_slots late;
	const struct pack_options options = {.level = 1, .may_switch = true};
	int stream = memfd_create("stream", MFD_CLOEXEC);
	image__memory__init(&memory);
	image__mapping__init(&mapping);
	image__process__init(&process);
	image__attributes__init(&attributes);
	image__scheduling__init(&scheduling);
	image__thread__init(&thread);
	process.pid = thread.tid = 1;
	process.memory = &memory;
	process.attributes = &attributes;
	process.threads = threads;
	process.n_threads = 1;
	thread.scheduling = &scheduling;
	memory.mappings = mappings;
	memory.n_mappings = 1;
	mapping.kind = IMAGE__MAPPING__KIND__ANONYMOUS;
	mapping.flags = MAP_PRIVATE;
	mapping.protection = flaw == FIRST_PAGE_LATE ? PROT_READ : PROT_READ | PROT_WRITE;
	mapping.start = 600 * PAGE_BYTES;
	mapping.end = 1501 * PAGE_BYTES;
	mapping.extents = &message.objects[0]->extents[1];
	mapping.n_extents = 1;
	mapping.extents[0]->start = mapping.start;
	message.objects[0]->n_extents = 1;
	message.processes = processes;
	message.n_processes = 1;
	assert_int_equal(named_slots_new(1501, &late), 0);
	named_slots_add(&late, 1000, flaw == NOT_ALL_LATE ? 500 : 501);
	if (flaw == UNKNOWN_LATE)
		named_slots_add(&late, 500, 1);
	assert_int_equal(pack_writer_new(stream, &options, &writer), 0);
	assert_int_equal(pack_writer_head(writer, message.machine, SEED, 0), 0);
	assert_int_equal(pack_writer_pages(writer, 1100, 1, checksums + 1, pages[1]), 0);
	assert_int_equal(pack_writer_pages(writer, 5, 3, checksums + 5, pages[5]), 0);
	for (slot_t slot = 600; slot < 1000; slot += 100)
		assert_int_equal(pack_writer_pages(writer, slot, 100, checksums + slot, pages[slot]), 0);
	assert_int_equal(pack_writer_image(writer, &message), 0);
	assert_int_equal(pack_writer_late(writer, &late), 0);
	if (flaw == PAGES_BETWEEN)
		assert_int_equal(pack_writer_pages(writer, 1000, 1, checksums + 1000, pages[1000]), 0);
	assert_int_equal(pack_writer_switch(writer), 0);
	if (flaw == NEW_DESCRIPTION)
		assert_int_equal(pack_writer_image(writer, &message), 0);
	if (flaw == NEW_ROUND)
		assert_int_equal(pack_writer_round(writer), 0);
	if (flaw == SWITCH_TWICE)
		assert_int_equal(pack_writer_switch(writer), 0);
	if (flaw == LATE_BEHIND)
		assert_int_equal(pack_writer_late(writer, &late), 0);
	for (slot_t slot = 1000; slot < 1500; slot += 100)
		assert_int_equal(pack_writer_pages(writer, slot, flaw == SOME_MISSING ? 99 : 100, checksums + slot, pages[slot]), 0);
	assert_int_equal(pack_writer_pages(writer, 1500, 1, checksums + 1500, pages[1500]), 0);
	assert_int_equal(pack_writer_end(writer, 904), 0);
	pack_writer_free(writer);
	named_slots_release(&late);
	return stream;
}

/* Whoever can wait for pages gets what was left out; the others read on to the end. */
static void behind_the_switch_come_late_pages(void **state)
{
	struct checkpoint_error error = {0};
	struct unpacked out = {0};
	struct late_pages late = {0};
	struct image there;
	struct pack_reader *reader;
	int stream = switched(NO_FLAW), to = memfd_create("to", MFD_CLOEXEC);
	const struct unpack_options options = {.pages = memfd_create("to", MFD_CLOEXEC), .path = "there", .stops_at_switch = true, .progress = &quiet};
	assert_int_equal(unpack_all(stream, to, &out, &error), 0);
	assert_false(out.late.is_switched);
	for (slot_t slot = 600; slot < 1501; slot++)
		assert_int_equal(out.checksums[slot], checksums[slot]);
	lseek(stream, 0, SEEK_SET);
	assert_int_equal(pack_reader_new(stream, "stream", &reader), 0);
	assert_int_equal(unpack_image(reader, &options, &there, &late, &error), 0);
	assert_true(late.is_switched);
	assert_int_equal(late.slots.nr, 501);
	assert_int_equal(late.description, unpack_description_digest(&message));
	assert_int_equal(late.description, unpack_description_digest(out.message));
	for (slot_t slot = 600; slot < 1501; slot++) {
		assert_int_equal(there.base.checksums[slot], slot < 1000 ? checksums[slot] : 0);
		assert_int_equal(named_slots_have(&late.slots, slot), slot >= 1000);
	}
	pack_reader_free(reader);
	named_slots_release(&late.slots);
	image_close(&there);
	unpacked_release(&out);
	close(stream);
	close(to);
}

static void expect_no_switch(int stream)
{
	const struct unpack_options options = {.pages = memfd_create("to", MFD_CLOEXEC), .path = "there", .stops_at_switch = true, .progress = &quiet};
	struct checkpoint_error error = {0};
	struct unpacked out = {0};
	struct pack_reader *reader;
	lseek(stream, 0, SEEK_SET);
	assert_int_equal(pack_reader_new(stream, "stream", &reader), 0);
	assert_int_equal(unpack_stream(reader, &options, &out, &error), -EBADMSG);
	assert_true(error.text[0]);
	pack_reader_free(reader);
	close(options.pages);
}

/* Also by who reads on, and what is wrong before the switch by who stops there. */
static void a_wrong_switch_is_refused(void **state)
{
	for (enum flaw flaw = FIRST_PAGE_LATE; flaw <= SOME_MISSING; flaw++) {
		int stream = switched(flaw);
		expect_refused(stream, -EBADMSG);
		if (flaw == FIRST_PAGE_LATE || flaw == UNKNOWN_LATE || flaw == PAGES_BETWEEN || flaw == NOT_ALL_LATE)
			expect_no_switch(stream);
		close(stream);
	}
}

static void a_damaged_checkpoint_is_not_packed(void **state)
{
	struct checkpoint_error error = {0};
	int stream = memfd_create("stream", MFD_CLOEXEC);
	assert_int_equal(pwrite(image.base.fd, "changed", 7, 1000 * (off_t)PAGE_BYTES), 7);
	assert_int_equal(pack_all(stream, &alone, &error), -EBADMSG);
	assert_non_null(strstr(error.text, "damaged"));
	expect_refused(stream, -ENODATA);
	close(stream);
}

static void a_full_disk_is_said(void **state)
{
	struct checkpoint_error error = {0};
	int full = open("/dev/full", O_WRONLY | O_CLOEXEC);
	assert_int_equal(pack_all(full, &alone, &error), -ENOSPC);
	assert_string_equal(error.text, "stream: No space left on device");
	close(full);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_is_packed_is_unpacked, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cut_off_anywhere_it_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(changed_anywhere_it_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(foreign_files_are_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(later_pages_replace_earlier_ones, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_page_that_is_missing_is_noticed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(behind_the_switch_come_late_pages, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_wrong_switch_is_refused, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_damaged_checkpoint_is_not_packed, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_full_disk_is_said, set_up, tear_down),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
