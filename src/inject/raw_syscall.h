/* raw_syscall() and cpu_pause() of this architecture. */
#pragma once

#if defined(__x86_64__)
#include "inject/arch/x86_64/raw_syscall.h"
#elif defined(__aarch64__)
#include "inject/arch/aarch64/raw_syscall.h"
#else
#error "membox knows x86_64 and aarch64"
#endif
