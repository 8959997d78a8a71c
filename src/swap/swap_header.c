#include "swap/swap_header.h"

#include <assert.h>
#include <endian.h>
#include <string.h>

#include "base/xxh3.h"

static const char magic[8] = { 'M', 'E', 'M', 'B', 'O', 'X', 'S', 'W' };

#define FLAG_CLEAN 1u
#define FLAG_KEEPS_CHECKPOINT 2u
#define FLAG_ENCRYPTED 4u

struct disk_header {
	char magic[8];
	uint32_t version;
	uint32_t block_bytes;
	uint8_t uuid[SWAP_UUID_BYTES];
	uint32_t flags;
	uint32_t reserved;
	char container[SWAP_CONTAINER_BYTES];
	uint8_t zero[PAGE_BYTES - 176];
	uint64_t checksum; /* XXH3-64, seed 0, of all that stands before it */
};

static_assert(offsetof(struct disk_header, container) == 40, "docs/swapfile-format.md");
static_assert(offsetof(struct disk_header, checksum) == PAGE_BYTES - 8, "docs/swapfile-format.md");
static_assert(sizeof(struct disk_header) == PAGE_BYTES, "docs/swapfile-format.md");

static uint64_t checksum_of(const struct disk_header *disk)
{
	return XXH3_64bits(disk, offsetof(struct disk_header, checksum));
}

void swap_header_encode(const struct swap_header *header, void *page)
{
	struct disk_header *disk = page;

	memset(disk, 0, sizeof(*disk));
	memcpy(disk->magic, magic, sizeof(magic));
	disk->version = htole32(SWAP_FORMAT_VERSION);
	disk->block_bytes = htole32((uint32_t)PAGE_BYTES);
	memcpy(disk->uuid, header->uuid, sizeof(disk->uuid));
	disk->flags = htole32((header->clean ? FLAG_CLEAN : 0) | (header->keeps_checkpoint ? FLAG_KEEPS_CHECKPOINT : 0) |
			      (header->is_encrypted ? FLAG_ENCRYPTED : 0));
	memcpy(disk->container, header->container, strnlen(header->container, SWAP_CONTAINER_BYTES - 1));
	disk->checksum = htole64(checksum_of(disk));
}

enum swap_header_kind swap_header_decode(const void *page, struct swap_header *ret_header)
{
	struct disk_header disk;

	memcpy(&disk, page, sizeof(disk));
	if (memcmp(disk.magic, magic, sizeof(magic)) != 0)
		return SWAP_HEADER_FOREIGN;
	if (le64toh(disk.checksum) != checksum_of(&disk))
		return SWAP_HEADER_DAMAGED;
	if (le32toh(disk.version) > SWAP_FORMAT_VERSION)
		return SWAP_HEADER_NEWER;
	if (le32toh(disk.version) == 0 || le32toh(disk.block_bytes) != PAGE_BYTES ||
	    disk.container[SWAP_CONTAINER_BYTES - 1] != '\0')
		return SWAP_HEADER_DAMAGED;

	memcpy(ret_header->uuid, disk.uuid, sizeof(disk.uuid));
	memcpy(ret_header->container, disk.container, sizeof(disk.container));
	ret_header->clean = le32toh(disk.flags) & FLAG_CLEAN;
	ret_header->keeps_checkpoint = le32toh(disk.flags) & FLAG_KEEPS_CHECKPOINT;
	ret_header->is_encrypted = le32toh(disk.flags) & FLAG_ENCRYPTED;
	return SWAP_HEADER_OURS;
}
