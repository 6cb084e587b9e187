// SPDX-License-Identifier: Apache-2.0
/* Signals: handlers, masks, what is pending, the alternate stack, interval timers. */
#define _GNU_SOURCE
#include "carried.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define ROOM (64 << 10)
#define SPARE 3072 /* what the alternate stack has beside the kernel's own frame */

struct kernel_action {
	void *handler;
	unsigned long flags;
	void *restorer;
	uint64_t mask;
};

volatile int seen[65];
static struct kernel_action actions[65];
static uint64_t blocked;
static stack_t stack;
static char room[ROOM] __attribute__((aligned(64))); /* what is precious, then the stack */
static void (*on_stack)(void);
static volatile int stack_bad;

static void count(int number, siginfo_t *info, void *context)
{
	(void)context;
	seen[number]++;
	if (info->si_signo != number)
		seen[0]++;
	if (number == SIGUSR1)
		registers_stop = 1;
}

static void switched(int number)
{
	char *here = __builtin_frame_address(0);

	(void)number;
	stack_bad |= here < (char *)stack.ss_sp || here >= room + ROOM;
	on_stack();
}

static void get_action(int number, struct kernel_action *action)
{
	if (syscall(SYS_rt_sigaction, number, NULL, action, 8))
		die("rt_sigaction");
}

static void set(int number, void (*handler)(int, siginfo_t *, void *), int flags, int also)
{
	struct sigaction action = { .sa_sigaction = handler, .sa_flags = flags };

	if (also)
		sigaddset(&action.sa_mask, also);
	if (sigaction(number, &action, NULL))
		die("sigaction");
}

static void actions_setup(void)
{
	set(SIGUSR1, count, SA_SIGINFO | SA_RESTART, SIGUSR2);
	set(SIGUSR2, count, SA_SIGINFO | SA_NODEFER, 0);
	set(SIGHUP, count, SA_SIGINFO | SA_RESTART, SIGRTMAX);
	set(SIGRTMIN, count, SA_SIGINFO | SA_RESTART, 0);
	set(SIGALRM, count, SA_SIGINFO | SA_RESTART, 0);
	set(SIGVTALRM, count, SA_SIGINFO | SA_RESTART, 0);
	set(SIGPROF, count, SA_SIGINFO | SA_RESTART, 0);
	set(SIGWINCH, count, SA_SIGINFO | SA_RESTART, 0);
	set(SIGTRAP, (void *)switched, SA_ONSTACK, 0);
	signal(SIGPIPE, SIG_IGN);
	for (int i = 1; i < 65; i++)
		if (i != SIGKILL && i != SIGSTOP)
			get_action(i, &actions[i]);
}

static int actions_verify(void)
{
	struct kernel_action action;

	for (int i = 1; i < 65; i++) {
		if (i == SIGKILL || i == SIGSTOP)
			continue;
		get_action(i, &action);
		if (memcmp(&action, &actions[i], sizeof(action))) {
			fprintf(stderr, "action %d: %p %#lx\n", i, action.handler, action.flags);
			return 1;
		}
	}
	return seen[0];
}

static int delivery_verify(void)
{
	int before = seen[SIGUSR1];

	syscall(SYS_kill, getpid(), SIGUSR1);
	return seen[SIGUSR1] != before + 1;
}

static uint64_t current_mask(void)
{
	uint64_t mask;

	syscall(SYS_rt_sigprocmask, SIG_BLOCK, NULL, &mask, 8);
	return mask;
}

static int queue(int number, int value)
{
	union sigval with = { .sival_int = value };

	return sigqueue(getpid(), number, with);
}

/* Some for the process and some for the thread, one of them that the engine uses itself. */
static void pending_setup(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGURG);
	sigaddset(&set, SIGRTMIN + 3);
	sigprocmask(SIG_BLOCK, &set, NULL);
	blocked = current_mask();
	if (queue(SIGRTMIN + 3, 11) || queue(SIGRTMIN + 3, 12) || queue(SIGRTMIN + 3, 13))
		die("sigqueue");
	kill(getpid(), SIGTERM);
	syscall(SYS_tgkill, getpid(), syscall(SYS_gettid), SIGQUIT);
	raise(SIGURG);
}

static int pending_verify(void)
{
	static int taken;
	sigset_t set;

	sigpending(&set);
	taken |= !sigismember(&set, SIGTERM);
	if (current_mask() != blocked)
		return 1;
	if (taken)
		return 0;
	return !sigismember(&set, SIGQUIT) || !sigismember(&set, SIGURG) ||
	       !sigismember(&set, SIGRTMIN + 3);
}

/* Not by the C library, which makes SI_TKILL look like SI_USER. */
static int take(int number, siginfo_t *info)
{
	const struct timespec none = { 0, 0 };
	uint64_t set = 1UL << (number - 1);

	return syscall(SYS_rt_sigtimedwait, &set, info, &none, 8) == number;
}

int take_pending(void)
{
	static const int values[] = { 11, 12, 13 };
	siginfo_t info;
	int right = 0;

	right += take(SIGTERM, &info) && info.si_code == SI_USER && info.si_pid == getpid() &&
		 info.si_uid == getuid();
	right += take(SIGQUIT, &info) && info.si_code == SI_TKILL;
	right += take(SIGURG, &info) && info.si_code == SI_TKILL;
	for (int i = 0; i < 3; i++)
		right += take(SIGRTMIN + 3, &info) && info.si_code == SI_QUEUE &&
			 info.si_value.sival_int == values[i];
	right += !take(SIGTERM, &info) && !take(SIGQUIT, &info) && !take(SIGURG, &info) &&
		 !take(SIGRTMIN + 3, &info); /* each once */
	return right;
}

static void stack_setup(void)
{
	stack.ss_size = (getauxval(AT_MINSIGSTKSZ) + SPARE) & ~63UL;
	stack.ss_sp = room + ROOM - stack.ss_size;
	fill(room, ROOM - stack.ss_size, 20);
	if (sigaltstack(&stack, NULL))
		die("sigaltstack");
}

static int stack_verify(void)
{
	stack_t found;

	sigaltstack(NULL, &found);
	return found.ss_sp != stack.ss_sp || found.ss_size != stack.ss_size ||
	       found.ss_flags & SS_DISABLE || stack_bad || differs(room, ROOM - stack.ss_size, 20);
}

void on_alternate_stack(void (*answer)(void))
{
	on_stack = answer;
	raise(SIGTRAP);
}

static const int timers[] = { ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF };

static void timers_setup(void)
{
	struct itimerval far = { { 500, 0 }, { 1000, 0 } };

	for (int i = 0; i < 3; i++)
		setitimer(timers[i], &far, NULL);
}

static int timers_verify(void)
{
	struct itimerval found;

	for (int i = 0; i < 3; i++) {
		getitimer(timers[i], &found);
		if (found.it_interval.tv_sec != 500 || found.it_value.tv_sec < 900 ||
		    found.it_value.tv_sec > 1000)
			return 1;
	}
	return 0;
}

static void no_setup(void)
{
}

const struct item signal_items[] = {
	{ "alternate-stack", stack_setup, stack_verify },
	{ "handlers", actions_setup, actions_verify },
	{ "delivery", no_setup, delivery_verify },
	{ "pending", pending_setup, pending_verify },
	{ "interval-timers", timers_setup, timers_verify },
	{ NULL, NULL, NULL },
};
