/* A system call without a C library, for code that runs in the target. Returns -errno on failure. */
#pragma once

static inline __attribute__((always_inline)) long raw_syscall(long number, long a, long b, long c, long d, long e, long f)
{
	register long r10 __asm__("r10") = d;
	register long r8 __asm__("r8") = e;
	register long r9 __asm__("r9") = f;
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

static inline __attribute__((always_inline)) void cpu_pause(void)
{
	__asm__ volatile("pause" ::: "memory");
}
