// SPDX-License-Identifier: Apache-2.0
/* Syscall User Dispatch: the kernel sends calls to a handler of the program's own. */
#define _GNU_SOURCE
#include "refused.h"
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <ucontext.h>
#include <unistd.h>

#define SET_SYSCALL_USER_DISPATCH 59 /* linux/prctl.h */
#define DISPATCH_ON 1
#define GET_SYSCALL_USER_DISPATCH_CONFIG 0x4211 /* linux/ptrace.h */
#define SA_RESTORER 0x04000000
#define PASSING __attribute__((section("passing"), noinline))

enum { ALLOW, BLOCK };
static volatile char selector = ALLOW;
extern const char __start_passing[], __stop_passing[];

struct action {
	void (*handler)(int number, siginfo_t *info, void *context);
	unsigned long flags;
	void (*restorer)(void);
	unsigned long mask;
};

/* The calls of this section are let through.  Nobody else finds "syscall; ret" in it. */
PASSING static long pass(const greg_t *from)
{
	register long r10 __asm__("r10") = from[REG_R10];
	register long r8 __asm__("r8") = from[REG_R8];
	register long r9 __asm__("r9") = from[REG_R9];
	long result;

	__asm__ volatile("syscall\n\tnop"
			 : "=a"(result)
			 : "a"(from[REG_RAX]), "D"(from[REG_RDI]), "S"(from[REG_RSI]),
			   "d"(from[REG_RDX]), "r"(r10), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory");
	return result;
}

PASSING __attribute__((naked)) static void restore(void)
{
	__asm__("mov $15, %eax\n\tsyscall\n\thlt");
}

static void handle(int number, siginfo_t *info, void *context)
{
	greg_t *registers = ((ucontext_t *)context)->uc_mcontext.gregs;

	(void)number;
	(void)info;
	registers[REG_RAX] = pass(registers);
}

/* Whether the kernel tells others of it: Linux does from 6.4 on. */
static int is_told(void)
{
	long config[4];
	int pid = fork(), told;

	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		_exit(0);
	}
	waitpid(pid, NULL, 0);
	told = !ptrace(GET_SYSCALL_USER_DISPATCH_CONFIG, pid, sizeof(config), config);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	return told;
}

int dispatch(void)
{
	if (!is_told())
		return -1;
	return syscall(SYS_prctl, SET_SYSCALL_USER_DISPATCH, DISPATCH_ON, __start_passing,
		       __stop_passing - __start_passing, &selector);
}

/* Every call goes to the handler from here on, which makes it. */
int dispatch_blocked(void)
{
	struct action action = { handle, SA_SIGINFO | SA_RESTORER, restore, 0 };

	if (syscall(SYS_rt_sigaction, SIGSYS, &action, NULL, sizeof(action.mask)) || dispatch() < 0)
		return -1;
	selector = BLOCK;
	return 0;
}
