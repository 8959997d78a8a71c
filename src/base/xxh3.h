/* xxHash with the widest vectors that the processor has: the plain functions of Debian's library are compiled for the least, three times slower here. */
#pragma once

#include <xxhash.h>
#ifdef __x86_64__
#include <xxh_x86dispatch.h>
#endif
