// SPDX-License-Identifier: Apache-2.0
/* Segments of a process's own, as 32-bit code has them. */
#define _GNU_SOURCE
#include "state.h"
#include <asm/ldt.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SET_THREAD_AREA_32 243 /* asm/unistd_32.h */

static const struct user_desc segment = { .limit = 0xfffff, .seg_32bit = 1, .limit_in_pages = 1 };

static void local_setup(void)
{
	if (syscall(SYS_modify_ldt, 1, &segment, sizeof(segment)))
		lacks();
}

static void no_call(int number)
{
	(void)number;
	lacks();
}

/* Only a call of 32-bit programs sets one, which the kernel may not have. */
static void area_setup(void)
{
	struct user_desc *area = mmap(NULL, 4096, PROT_READ | PROT_WRITE,
				      MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int result;

	signal(SIGSEGV, no_call);
	*area = segment;
	area->entry_number = -1;
	__asm__ volatile("int $0x80"
			 : "=a"(result)
			 : "a"(SET_THREAD_AREA_32), "b"(area)
			 : "memory");
	if (result)
		lacks();
}

const struct thing segment_things[] = {
	{ "local-segment", local_setup, NULL, NULL },
	{ "thread-area", area_setup, NULL, NULL },
	{ NULL, NULL, NULL, NULL },
};
