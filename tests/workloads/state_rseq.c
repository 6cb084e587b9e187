// SPDX-License-Identifier: Apache-2.0
/*
 * A restartable sequence that ends when somebody outside says so.  "finish" says where it lies, and
 * where that is to be said; then it spins within, and tells whether it was aborted after that.
 */
#define _GNU_SOURCE
#include "state.h"
#include <stdio.h>
#include <sys/rseq.h>
#include <unistd.h>

static volatile int released;

extern char section_start[], section_end[];

static void rseq_setup(void)
{
	if (!__rseq_size)
		lacks();
}

__attribute__((noinline)) static long spin(void)
{
	struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
	long aborts = 0;

	__asm__ volatile(".pushsection .data, \"aw\"\n"
			 "	.balign 32\n"
			 "9:	.long 0, 0\n"
			 "	.quad section_start, section_end - section_start, 4f\n"
			 ".popsection\n"
			 "5:	leaq 9b(%%rip), %%rax\n"
			 "	movq %%rax, %[section]\n"
			 "section_start:\n"
			 "	pause\n"
			 "	cmpl $0, %[released]\n"
			 "	je section_start\n"
			 "section_end:\n"
			 "	jmp 6f\n"
			 "	.byte 0x0f, 0xb9, 0x3d\n"
			 "	.long 0x53053053\n" /* RSEQ_SIG */
			 "4:	cmpl $0, %[released]\n"
			 "	je 5b\n"
			 "	incq %[aborts]\n"
			 "	jmp 5b\n"
			 "6:\n"
			 : [section] "=m"(area->rseq_cs), [aborts] "+r"(aborts)
			 : [released] "m"(released)
			 : "rax", "memory", "cc");
	return aborts;
}

static int rseq_finish(void)
{
	char text[128];
	int size = snprintf(text, sizeof(text), "%p %p %p\n", (void *)section_start,
			    (void *)section_end, (void *)&released);

	need(write(1, text, size), "write");
	return spin() ? 0 : bad("it went on within the sequence");
}

const struct thing rseq_things[] = {
	{ "restartable-sequence", rseq_setup, NULL, rseq_finish },
	{ NULL, NULL, NULL, NULL },
};
