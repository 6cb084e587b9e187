// SPDX-License-Identifier: Apache-2.0
/*
 * The stub: a few hundred bytes, position independent, that run a table of system calls.
 *
 * In the source it is placed into a running process for a moment.  Every run is entered on a signal
 * frame: when the tracer has died, the stub's last instruction is rt_sigreturn on that frame, and
 * the application goes on with its own registers as if nothing had been.  A living tracer learns of
 * the end by a signal that a process without a tracer ignores.
 *
 * In the target the same code is what the container's first process runs while it is being turned
 * into the process that arrives.  That process starts as livemig-hold, which only waits.
 */
#include "stub.h"

#define __NR_rt_sigreturn 15
#define __NR_pause 34
#define __NR_getpid 39
#define __NR_gettid 186
#define __NR_tgkill 234

#define STUB __attribute__((section(".stub")))

static inline __attribute__((always_inline)) s64 stub_syscall(u64 nr, const u64 *arg)
{
	register u64 r10 __asm__("r10") = arg[3];
	register u64 r8 __asm__("r8") = arg[4];
	register u64 r9 __asm__("r9") = arg[5];
	s64 result;

	__asm__ volatile("syscall"
			 : "=a"(result)
			 : "a"(nr), "D"(arg[0]), "S"(arg[1]), "d"(arg[2]), "r"(r10), "r"(r8),
			   "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

/* Called from the entry with the table; returns to it. */
STUB __attribute__((used)) static void stub_run(struct livemig_table *table)
{
	const u64 none[6] = { 0 };
	u64 self[6] = { 0 };
	u32 i;

	for (i = 0; i < table->count; i++) {
		struct livemig_call *call = &table->call[i];

		call->result = stub_syscall(call->nr, call->arg);
		if (call->result < 0 && call->result > -4096 &&
		    !(call->flags & LIVEMIG_CALL_MAY_FAIL))
			break;
		table->done = i + 1;
	}
	self[0] = (u64)stub_syscall(__NR_getpid, none);
	self[1] = (u64)stub_syscall(__NR_gettid, none);
	self[2] = table->signal;
	stub_syscall(__NR_tgkill, self);
}

/*
 * The head of the blob: what blob.py reads, then the entry.  rdi holds the table, rsp the end of a
 * stack.  What follows the call is for a process whose tracer has died.
 */
__asm__(".section .stub.head, \"ax\"\n"
	"	.long 0x62757473\n" /* LIVEMIG_STUB_MAGIC */
	"	.long 1\n"	    /* LIVEMIG_STUB_VERSION */
	"	.long stub_entry - stub_head_start\n"
	"	.long 0\n"
	".set stub_head_start, . - 16\n"
	"stub_entry:\n"
	"	mov	%rdi, %rbx\n"
	"	call	stub_run\n"
	"	mov	16(%rbx), %rsp\n"
	"	mov	$15, %eax\n"
	"	syscall\n"
	"	hlt\n"
	".text\n");

/* livemig-hold: the container's first process until its memory is taken over. */
__attribute__((noreturn)) void _start(void)
{
	const u64 none[6] = { 0 };

	for (;;)
		stub_syscall(__NR_pause, none);
}
