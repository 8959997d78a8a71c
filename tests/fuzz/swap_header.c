/* The first page of a swap file: as it is, and with a checksum that fits. What is taken for ours comes out of encoding as it went in. */
#include "swap/swap_header.h"

#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct swap_header header, again;
	uint8_t page[PAGE_BYTES] = {0}, encoded[PAGE_BYTES];
	memcpy(page, data, MIN_OF(size, sizeof(page)));
	swap_header_decode(page, &header);
	uint64_t checksum = XXH3_64bits(page, PAGE_BYTES - sizeof(checksum));
	memcpy(page + PAGE_BYTES - sizeof(checksum), &checksum, sizeof(checksum));
	if (swap_header_decode(page, &header) != SWAP_HEADER_OURS)
		return 0;
	swap_header_encode(&header, encoded);
	if (swap_header_decode(encoded, &again) != SWAP_HEADER_OURS || again.clean != header.clean ||
	    again.keeps_checkpoint != header.keeps_checkpoint ||
	    memcmp(again.uuid, header.uuid, sizeof(header.uuid)) != 0 || strcmp(again.container, header.container) != 0)
		abort();
	return 0;
}
