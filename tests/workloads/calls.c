// SPDX-License-Identifier: Apache-2.0
/*
 * calls: waits in one system call after the other, and tells how each of them ended.
 *
 * A line "NAME MILLIS" makes it say "waiting NUMBER", the number of the call that it makes then.
 * Afterwards it says "ended RESULT NANOSECONDS REST SIGNALS": what the kernel returned, how long it
 * took on CLOCK_MONOTONIC, what the call wrote as the time that was left (-1: nothing), and how
 * often a handler has run.  "bad" in place of "ended" means that the call changed a register or
 * memory that it should not have.
 * "handle restart" and "handle plain" catch SIGUSR1 with and without SA_RESTART.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000L
#define PAGE 4096

static volatile int signals;
static struct timespec length, rest, at;
static struct timeval short_length;
/* A page of its own, which cannot be written while a call waits. */
static union {
	struct timespec length;
	char page[PAGE];
} constant __attribute__((aligned(PAGE)));
static struct pollfd input = { 0, POLLIN, 0 };
static uint32_t word;
static uint64_t set;
static siginfo_t info;
static fd_set readable;
static struct epoll_event event;
static struct sembuf down = { 0, -1, 0 };
static char buffer[256];
static int epoll_number, semaphore, listener, pair[2];

static void die(const char *what)
{
	perror(what);
	_exit(99);
}

static long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * SECOND + time.tv_nsec;
}

static void count(int number)
{
	(void)number;
	signals++;
}

/* One way of waiting: its number and arguments. */
struct wait {
	const char *name;
	long number;
	long argument[6];
	int set_up; /* what has to be there first */
};

enum { NOTHING, ABSOLUTE, CHILD, SEMAPHORE, SOCKETS, EPOLL };

#define P(thing) ((long)&(thing))

/* -2 in place of an argument stands for the milliseconds. */
static const struct wait waits[] = {
	{ "nanosleep", SYS_nanosleep, { P(length) }, 0 },
	{ "nanosleep-rest", SYS_nanosleep, { P(length), P(rest) }, 0 },
	{ "nanosleep-same", SYS_nanosleep, { P(length), P(length) }, 0 },
	{ "clock", SYS_clock_nanosleep, { CLOCK_REALTIME, 0, P(length) }, 0 },
	{ "clock-rest", SYS_clock_nanosleep, { CLOCK_MONOTONIC, 0, P(length), P(rest) }, 0 },
	{ "clock-boot", SYS_clock_nanosleep, { CLOCK_BOOTTIME, 0, P(length) }, 0 },
	{ "clock-tai", SYS_clock_nanosleep, { CLOCK_TAI, 0, P(length) }, 0 },
	{ "clock-until", SYS_clock_nanosleep, { CLOCK_MONOTONIC, 1, P(at) }, ABSOLUTE },
	{ "poll", SYS_poll, { P(input), 1, -2 }, 0 },
	{ "poll-forever", SYS_poll, { P(input), 1, -1 }, 0 },
	{ "ppoll", SYS_ppoll, { P(input), 1, P(length), P(set), 8 }, 0 },
	{ "select", SYS_select, { 1, P(readable), 0, 0, P(short_length) }, 0 },
	{ "pselect", SYS_pselect6, { 1, P(readable), 0, 0, P(length) }, 0 },
	{ "pselect-constant", SYS_pselect6, { 1, P(readable), 0, 0, P(constant.length) }, 0 },
	{ "futex", SYS_futex, { P(word), FUTEX_WAIT_PRIVATE, 0, P(length) }, 0 },
	{ "futex-until",
	  SYS_futex,
	  { P(word), FUTEX_WAIT_BITSET_PRIVATE, 0, P(at), 0, FUTEX_BITSET_MATCH_ANY },
	  ABSOLUTE },
	{ "futex-forever", SYS_futex, { P(word), FUTEX_WAIT_PRIVATE, 0 }, 0 },
	{ "sigtimedwait", SYS_rt_sigtimedwait, { P(set), P(info), P(length), 8 }, 0 },
	{ "sigtimedwait-constant",
	  SYS_rt_sigtimedwait,
	  { P(set), P(info), P(constant.length), 8 },
	  0 },
	{ "sigwaitinfo", SYS_rt_sigtimedwait, { P(set), P(info), 0, 8 }, 0 },
	{ "sigsuspend", SYS_rt_sigsuspend, { P(set), 8 }, 0 },
	{ "pause", SYS_pause, { 0 }, 0 },
	{ "read", SYS_read, { 0, P(buffer), sizeof(buffer) }, 0 },
	{ "wait", SYS_wait4, { -1 }, CHILD },
	{ "waitid", SYS_waitid, { P_ALL, 0, P(info), WEXITED }, CHILD },
	{ "semop", SYS_semop, { 0, P(down), 1 }, SEMAPHORE },
	{ "semtimedop", SYS_semtimedop, { 0, P(down), 1, P(length) }, SEMAPHORE },
	{ "accept", SYS_accept, { 0 }, SOCKETS },
	{ "receive", SYS_recvfrom, { 0, P(buffer), sizeof(buffer) }, SOCKETS },
	{ "epoll", SYS_epoll_wait, { 0, P(event), 1, -2 }, EPOLL },
	{ "epoll-mask", SYS_epoll_pwait, { 0, P(event), 1, -2, P(set), 8 }, EPOLL },
};

static int open_child(void)
{
	int child = fork();

	if (!child) {
		nanosleep(&length, NULL);
		_exit(7);
	}
	return child;
}

static void open_semaphore(void)
{
	if (!semaphore && (semaphore = semget(IPC_PRIVATE, 1, 0600)) < 0)
		die("semget");
}

static void open_sockets(void)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	const struct timeval limit = { 5, 0 };

	if (listener)
		return;
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(listener, (struct sockaddr *)&address, sizeof(sa_family_t)) || listen(listener, 1))
		die("listen");
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair))
		die("socketpair");
	if (setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		die("SO_RCVTIMEO");
}

static void open_epoll(void)
{
	struct epoll_event wanted = { .events = EPOLLIN };

	if (epoll_number)
		return;
	epoll_number = epoll_create1(0);
	if (epoll_ctl(epoll_number, EPOLL_CTL_ADD, 0, &wanted))
		die("epoll_ctl");
}

/* Makes a call, and tells whether it has left all registers of its arguments alone. */
static long call(long number, const long *argument, int *changed)
{
	register long a __asm__("rdi") = argument[0];
	register long b __asm__("rsi") = argument[1];
	register long c __asm__("rdx") = argument[2];
	register long d __asm__("r10") = argument[3];
	register long e __asm__("r8") = argument[4];
	register long f __asm__("r9") = argument[5];
	long result;

	__asm__ volatile("syscall"
			 : "=a"(result), "+r"(a), "+r"(b), "+r"(c), "+r"(d), "+r"(e), "+r"(f)
			 : "a"(number)
			 : "rcx", "r11", "memory");
	*changed = a != argument[0] || b != argument[1] || c != argument[2] || d != argument[3] ||
		   e != argument[4] || f != argument[5];
	return result;
}

static void prepare(const struct wait *wait, long millis, long *argument)
{
	long end = now() + millis * 1000000;

	length = (struct timespec){ millis / 1000, millis % 1000 * 1000000 };
	short_length = (struct timeval){ millis / 1000, millis % 1000 * 1000 };
	at = (struct timespec){ end / SECOND, end % SECOND };
	rest = (struct timespec){ -1, -1 };
	/* Of ppoll's and sigsuspend's mask nothing is blocked; the others wait for SIGUSR2. */
	set = !strncmp(wait->name, "sig", 3) && strcmp(wait->name, "sigsuspend")
		  ? 1UL << (SIGUSR2 - 1)
		  : 0;
	if (mprotect(&constant, PAGE, PROT_READ | PROT_WRITE))
		die("mprotect");
	constant.length = length;
	if (mprotect(&constant, PAGE, PROT_READ))
		die("mprotect");
	FD_ZERO(&readable);
	FD_SET(0, &readable);
	memcpy(argument, wait->argument, sizeof(wait->argument));
	for (int i = 0; i < 6; i++)
		if (argument[i] == -2)
			argument[i] = millis;
	if (wait->set_up == CHILD)
		open_child();
	if (wait->set_up == SEMAPHORE)
		open_semaphore(), argument[0] = semaphore;
	if (wait->set_up == SOCKETS) {
		open_sockets();
		argument[0] = wait->number == SYS_accept ? listener : pair[0];
	}
	if (wait->set_up == EPOLL)
		open_epoll(), argument[0] = epoll_number;
}

static void perform(const struct wait *wait, long millis)
{
	long argument[6], start, result, took, left;
	int changed;

	prepare(wait, millis, argument);
	start = now();
	printf("waiting %ld\n", wait->number);
	result = call(wait->number, argument, &changed);
	took = now() - start;
	left = rest.tv_nsec < 0 ? -1 : rest.tv_sec * SECOND + rest.tv_nsec;
	/* The kernel changes nothing of what only tells a time-out. */
	if (wait->number == SYS_rt_sigtimedwait || wait->number == SYS_semtimedop)
		changed |= length.tv_sec * 1000 + length.tv_nsec / 1000000 != millis;
	printf("%s %ld %ld %ld %d\n", changed ? "bad" : "ended", result, took, left, signals);
	if (wait->set_up == CHILD)
		while (waitpid(-1, NULL, 0) < 0 && errno == EINTR)
			;
}

static void handle(int flags)
{
	struct sigaction action = { .sa_handler = count, .sa_flags = flags };
	sigset_t blocked;

	if (sigaction(SIGUSR1, &action, NULL) || sigaction(SIGALRM, &action, NULL))
		die("sigaction");
	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	sigprocmask(SIG_BLOCK, &blocked, NULL);
	puts("handled");
}

/* Reads byte by byte, so that what follows stays in the pipe. */
static int line(char *text, size_t size)
{
	for (size_t i = 0; i < size - 1;) {
		long got = read(0, text + i, 1);

		if (got < 0 && errno == EINTR)
			continue;
		if (got <= 0)
			return 0;
		if (text[i] == '\n') {
			text[i] = 0;
			return 1;
		}
		i++;
	}
	die("a line is too long");
	return 0;
}

int main(void)
{
	char text[128], name[64];
	long millis;

	setvbuf(stdout, NULL, _IOLBF, 0);
	handle(0);
	while (line(text, sizeof(text))) {
		if (!strcmp(text, "handle restart"))
			handle(SA_RESTART);
		else if (!strcmp(text, "handle plain"))
			handle(0);
		else if (sscanf(text, "%63s %ld", name, &millis) == 2)
			for (size_t i = 0; i < sizeof(waits) / sizeof(*waits); i++) {
				if (!strcmp(waits[i].name, name))
					perform(&waits[i], millis);
			}
	}
	if (semaphore)
		semctl(semaphore, 0, IPC_RMID);
	return 0;
}
