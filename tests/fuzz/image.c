/* A checkpoint's folder. The first byte says whether image.pb is the input itself or gets a header that fits it; what is taken for a checkpoint is printed. */
#include "checkpoint/image.h"

#include <endian.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "checkpoint/process/process.h"
#include "checkpoint/restore.h"
#include "fuzz.h"

int membox_main(int argc, char **argv); /* main of the program */

#define NR_SLOTS_MOST (1u << 16)

struct header { /* docs/checkpoint-format.md */
	char magic[8];
	uint32_t version, zero;
	uint64_t bytes, checksum;
};

static uint32_t slots_of(const uint8_t *message, size_t size)
{
	Image__Image *image = image__image__unpack(NULL, size, message);
	uint32_t nr = image && image->pages ? image->pages->nr_slots : 0;
	if (image)
		image__image__free_unpacked(image, NULL);
	return MIN_OF(nr, NR_SLOTS_MOST);
}

static int see(remote_addr_t addr, void *context)
{
	*(uint64_t *)context += addr;
	return 0;
}

/* As far as a restore gets without a process. */
static void use(const char *folder)
{
	struct checkpoint_error error = {0};
	struct restore *restore;
	struct image image;
	uint8_t page[PAGE_BYTES];
	uint64_t sum = 0;
	if (image_open(folder, &image, &error) < 0)
		return;
	for (uint32_t slot = 0; slot < 4; slot++)
		image_read_page(&image, slot, page);
	for (size_t i = 0; i < image.message->n_processes; i++)
		threads_for_each_record(image.message->processes[i], see, &sum);
	if (restore_new(&image, NULL, &restore, &error) == 0)
		restore_free(restore);
	image_close(&image);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	fuzz_be_quiet();
	return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static uint64_t checksums[NR_SLOTS_MOST];
	static const char folder[] = "/";
	bool is_raw = size && data[0] & 1;
	const uint8_t *body = data + (size > 0);
	size_t len = size - (size > 0), head = is_raw ? 0 : sizeof(struct header);
	struct header header = {.magic = "MEMBOXIM",
				.version = htole32(1),
				.bytes = htole64(len),
				.checksum = htole64(XXH3_64bits(body, len))};
	uint32_t nr_slots = slots_of(body, len);
	uint8_t *file = malloc(head + len + 1);
	memcpy(file, &header, head);
	memcpy(file + head, body, len);
	const struct fuzz_file files[] = {
		{.name = "image.pb", .data = file, .len = head + len},
		{.name = "checksums", .data = checksums, .len = (size_t)nr_slots * sizeof(*checksums)},
		{.name = "pages", .data = "", .bytes = (uint64_t)nr_slots * PAGE_BYTES},
	};
	char *argv[] = {(char *)(uintptr_t) "membox", (char *)(uintptr_t) "inspect", (char *)(uintptr_t)folder,
			size && data[0] & 2 ? (char *)(uintptr_t) "--json" : NULL, NULL};
	fuzz_files_set(files, ARRAY_LEN(files));
	use(folder);
	optind = 0;
	membox_main(argv[3] ? 4 : 3, argv);
	fuzz_files_set(NULL, 0);
	free(file);
	return 0;
}
