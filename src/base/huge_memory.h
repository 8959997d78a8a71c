/* Memory for large tables that are filled in one go: one huge page costs a tenth of its pages one by one, in a virtual machine a fortieth. */
#pragma once

#include "base/types.h"

/* Zeroed address space of that many bytes (rounded up to whole huge pages), aligned to one; it takes memory as it is touched. NULL: there is none. */
void *huge_memory_map(size_t bytes);

/* The same, and in huge pages where the kernel has them. */
void *huge_memory_zeroed(size_t bytes);

/* NULL is allowed. */
void huge_memory_free(void *memory, size_t bytes);
