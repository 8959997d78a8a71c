/* Reads the stream of a checkpoint (format.h) record by record, and believes nothing that its checksums do not confirm. One thread. */
#pragma once

#include "checkpoint/error.h"
#include "checkpoint/pack/format.h"

struct pack_reader;

/* The descriptor stays the caller's; name is for messages and outlives the reader. 0 or -ENOMEM. */
int pack_reader_new(int fd, const char *name, struct pack_reader **ret);
void pack_reader_free(struct pack_reader *reader);

/*
 * The next record, its numbers as this machine writes them, and its body, which is valid until the next call. PACK_HEAD comes first and once; PACK_END only when all
 * of the stream was as it had been written, and then nothing comes any more. -ENODATA: it ends before its end; -EBADMSG: it is no such stream, or not what
 * was written; -ENOTSUP: of a newer membox; or what reading said; with the reason.
 */
int pack_reader_next(struct pack_reader *reader, struct pack_record *ret, const uint8_t **ret_body, struct checkpoint_error *error);

/* After PACK_END: waits for the end of the file. -EBADMSG when something follows. */
int pack_reader_finish(struct pack_reader *reader, struct checkpoint_error *error);

uint64_t pack_reader_bytes(const struct pack_reader *reader); /* that were read */
