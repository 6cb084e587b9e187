// SPDX-License-Identifier: Apache-2.0
/* Registers of AVX that hold something while the process says "held", and waits for a byte. */
#include "state.h"
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SIZE 32

static unsigned char held[2][SIZE], found[2][SIZE];

static void setup(void)
{
	if (!__builtin_cpu_supports("avx"))
		lacks();
	for (int i = 0; i < SIZE; i++) {
		held[0][i] = i * 7 + 1;
		held[1][i] = i * 11 + 2;
	}
}

__attribute__((target("avx"))) static long wait_with_vectors(char *byte)
{
	long result;

	__asm__ volatile("vmovdqu (%[held]), %%ymm2\n\t"
			 "vmovdqu 32(%[held]), %%ymm13\n\t"
			 "syscall\n\t"
			 "vmovdqu %%ymm2, (%[found])\n\t"
			 "vmovdqu %%ymm13, 32(%[found])\n\t"
			 : "=a"(result)
			 : [held] "r"(held), [found] "r"(found), "a"((long)SYS_read), "D"(0L),
			   "S"(byte), "d"(1L)
			 : "rcx", "r11", "memory", "xmm2", "xmm13");
	return result;
}

static int finish(void)
{
	char byte;

	need(write(1, "held\n", 5), "write");
	need(wait_with_vectors(&byte), "read");
	return memcmp(held, found, sizeof(held)) ? bad("other vectors") : 0;
}

const struct thing vector_things[] = {
	{ "vectors", setup, NULL, finish },
	{ NULL, NULL, NULL, NULL },
};
