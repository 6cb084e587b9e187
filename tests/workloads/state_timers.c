// SPDX-License-Identifier: Apache-2.0
/* POSIX timers, and signals that wait. */
#define _GNU_SOURCE
#include "state.h"
#include <errno.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000L
#define SLACK (SECOND / 5)

static int64_t now(clockid_t clock)
{
	struct timespec time;

	need(clock_gettime(clock, &time), "clock_gettime");
	return time.tv_sec * SECOND + time.tv_nsec;
}

static int create(clockid_t clock, int notify, int number, int value)
{
	struct sigevent event = { .sigev_notify = notify,
				  .sigev_signo = number,
				  .sigev_value.sival_int = value };
	int timer;

	event._sigev_un._tid = gettid();
	need(syscall(SYS_timer_create, clock, &event, &timer), "timer_create");
	return timer;
}

static void set(int timer, int flags, int64_t value, int64_t interval)
{
	struct itimerspec times = { { interval / SECOND, interval % SECOND },
				    { value / SECOND, value % SECOND } };

	need(syscall(SYS_timer_settime, timer, flags, &times, NULL), "timer_settime");
}

static int64_t left(int timer, int64_t *interval)
{
	struct itimerspec times;

	if (syscall(SYS_timer_gettime, timer, &times))
		return -1;
	*interval = times.it_interval.tv_sec * SECOND + times.it_interval.tv_nsec;
	return times.it_value.tv_sec * SECOND + times.it_value.tv_nsec;
}

static void block(int number)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, number);
	need(sigprocmask(SIG_BLOCK, &set, NULL), "sigprocmask");
}

/* Not by the C library, which hides SI_TKILL. */
static int take(int number, siginfo_t *info, int64_t patience)
{
	struct timespec time = { patience / SECOND, patience % SECOND };
	uint64_t set = 1UL << (number - 1);

	return syscall(SYS_rt_sigtimedwait, &set, info, &time, 8) == number;
}

static int pending(int number)
{
	sigset_t set;

	sigpending(&set);
	return sigismember(&set, number);
}

/* Numbers with gaps between, one timer for each clock, and one that stands. */
static const clockid_t clocks[] = { CLOCK_MONOTONIC,	     CLOCK_REALTIME,
				    CLOCK_BOOTTIME,	     CLOCK_PROCESS_CPUTIME_ID,
				    CLOCK_THREAD_CPUTIME_ID, CLOCK_TAI };
#define CLOCKS ((int)(sizeof(clocks) / sizeof(*clocks)))

static int made[CLOCKS], standing, silent;
static int64_t ends[CLOCKS];

static void clocks_setup(void)
{
	int gap[3];

	gap[0] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
	for (int i = 0; i < CLOCKS; i++) {
		made[i] = create(clocks[i], SIGEV_SIGNAL, SIGRTMIN + i, i);
		if (i == 2)
			gap[1] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
		set(made[i], 0, (1000 + i) * SECOND, (i + 1) * SECOND);
		ends[i] = now(clocks[i]) + (1000 + i) * SECOND;
	}
	gap[2] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, 0);
	standing = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGUSR2, 8);
	silent = create(CLOCK_MONOTONIC, SIGEV_NONE, 0, 0);
	set(silent, 0, 500 * SECOND, 0);
	for (int i = 0; i < 3; i++)
		need(syscall(SYS_timer_delete, gap[i]), "timer_delete");
}

static int clocks_check(void)
{
	int64_t interval;

	for (int i = 0; i < CLOCKS; i++) {
		int64_t found = left(made[i], &interval), wanted = ends[i] - now(clocks[i]);

		/* What the process has used up of the CPU does not move; the host's clock may. */
		if (clocks[i] != CLOCK_MONOTONIC && clocks[i] != CLOCK_BOOTTIME)
			wanted = found > (999 + i) * SECOND || found > wanted ? found : wanted;
		if (interval != (i + 1) * SECOND || found < wanted - SLACK ||
		    found > wanted + SLACK)
			return bad("clock %d: %ld left, not %ld", clocks[i], found, wanted);
	}
	if (left(standing, &interval) != 0 || interval)
		return bad("the one that stood runs");
	return left(silent, &interval) < 400 * SECOND ? bad("the silent one is gone") : 0;
}

/* They work still: each sends its signal to whom it did, with its value. */
static int clocks_finish(void)
{
	siginfo_t info;

	block(SIGUSR2);
	set(standing, 0, SECOND / 100, 0);
	if (!take(SIGUSR2, &info, SECOND) || info.si_value.sival_int != 8)
		return bad("no signal of the thread's timer");
	for (int i = 0; i < CLOCKS; i++) {
		block(SIGRTMIN + i);
		set(made[i], 0, 1, 0);
		while (clocks[i] == CLOCK_PROCESS_CPUTIME_ID && !pending(SIGRTMIN + i))
			;
		while (clocks[i] == CLOCK_THREAD_CPUTIME_ID && !pending(SIGRTMIN + i))
			;
		if (!take(SIGRTMIN + i, &info, SECOND) || info.si_value.sival_int != i ||
		    info.si_code != SI_TIMER || info.si_timerid != made[i])
			return bad("timer %d sent no signal of its own", made[i]);
	}
	return 0;
}

static int timer;
static int64_t rhythm;

static void overruns_setup(void)
{
	siginfo_t info;
	int64_t start = now(CLOCK_MONOTONIC);

	block(SIGRTMIN);
	timer = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGRTMIN, 5);
	rhythm = start - 130 * SECOND;
	set(timer, TIMER_ABSTIME, rhythm, 40 * SECOND);
	if (!take(SIGRTMIN, &info, SECOND) || info.si_overrun != 3)
		need(-1, "overruns");
}

static int overruns_check(void)
{
	int64_t interval, found = left(timer, &interval), ends = found + now(CLOCK_MONOTONIC);
	long overruns = syscall(SYS_timer_getoverrun, timer);

	if (overruns != 3)
		return bad("%ld overruns", overruns);
	if (interval != 40 * SECOND || pending(SIGRTMIN))
		return bad("interval %ld", interval);
	ends = (ends - rhythm) % interval;
	return ends > SLACK && ends < interval - SLACK ? bad("%ld out of step", ends) : 0;
}

/* A signal of each kind of timer waits, between two others of the same number. */
static int once, often;

static void expired_setup(void)
{
	union sigval before = { .sival_int = 1 }, after = { .sival_int = 2 };

	block(SIGRTMIN);
	block(SIGRTMIN + 1);
	once = create(CLOCK_REALTIME, SIGEV_SIGNAL, SIGRTMIN, 7);
	often = create(CLOCK_MONOTONIC, SIGEV_THREAD_ID, SIGRTMIN + 1, 8);
	rhythm = now(CLOCK_MONOTONIC) - 10 * SECOND;
	need(sigqueue(getpid(), SIGRTMIN, before), "sigqueue");
	set(once, 0, 1, 0);
	while (!pending(SIGRTMIN))
		;
	usleep(20000);
	need(sigqueue(getpid(), SIGRTMIN, after), "sigqueue");
	set(often, TIMER_ABSTIME, rhythm, 100 * SECOND);
	while (!pending(SIGRTMIN + 1))
		;
}

static int expired_check(void)
{
	int64_t interval;

	if (!pending(SIGRTMIN) || !pending(SIGRTMIN + 1))
		return bad("nothing waits");
	if (left(once, &interval) || interval)
		return bad("the one that was over runs");
	return left(often, &interval) < 50 * SECOND || interval != 100 * SECOND
		   ? bad("interval %ld", interval)
		   : 0;
}

static int expired_finish(void)
{
	static const int values[] = { 1, 7, 2 };
	int64_t interval, ends;
	siginfo_t info;

	for (int i = 0; i < 3; i++) {
		if (!take(SIGRTMIN, &info, 0) || info.si_value.sival_int != values[i])
			return bad("value %d at %d", info.si_value.sival_int, i);
		if (i == 1 && (info.si_code != SI_TIMER || info.si_timerid != once))
			return bad("code %d", info.si_code);
	}
	if (!take(SIGRTMIN + 1, &info, 0) || info.si_code != SI_TIMER || info.si_timerid != often ||
	    info.si_value.sival_int != 8)
		return bad("the periodic one's signal");
	ends = left(often, &interval) + now(CLOCK_MONOTONIC);
	ends = (ends - rhythm) % interval;
	if (ends > SLACK && ends < interval - SLACK)
		return bad("%ld out of step", ends);
	return take(SIGRTMIN, &info, 0) || take(SIGRTMIN + 1, &info, 0) ? bad("twice") : 0;
}

/* More than the queue takes: a signal that waits without its siginfo. */
static void bare_setup(void)
{
	struct rlimit limit;

	need(getrlimit(RLIMIT_SIGPENDING, &limit), "getrlimit");
	limit.rlim_cur = 0;
	need(setrlimit(RLIMIT_SIGPENDING, &limit), "setrlimit");
	block(SIGTERM);
	need(syscall(SYS_tgkill, getpid(), gettid(), SIGTERM), "tgkill");
}

static int bare_check(void)
{
	return pending(SIGTERM) ? 0 : bad("nothing waits");
}

static int bare_finish(void)
{
	siginfo_t info;

	if (!take(SIGTERM, &info, 0) || info.si_code != SI_USER || info.si_pid)
		return bad("code %d, process %d", info.si_code, info.si_pid);
	return take(SIGTERM, &info, 0) ? bad("twice") : 0;
}

/* For the process and for the thread, in their order, each with all of its siginfo. */
static void queue(int to_thread, int value)
{
	siginfo_t info = { .si_signo = SIGRTMIN + 2, .si_code = SI_QUEUE, .si_errno = 3 };

	info.si_pid = 100 + value;
	info.si_uid = 200 + value;
	info.si_value.sival_ptr = (void *)(0x123456789abc0000 + value);
	need(to_thread ? syscall(SYS_rt_tgsigqueueinfo, getpid(), gettid(), info.si_signo, &info)
		       : syscall(SYS_rt_sigqueueinfo, getpid(), info.si_signo, &info),
	     "sigqueueinfo");
}

#define EACH 400

static void queued_setup(void)
{
	block(SIGRTMIN + 2);
	for (int i = 0; i < EACH; i++) {
		queue(0, i);
		queue(1, EACH + i);
	}
}

static int queued_check(void)
{
	return pending(SIGRTMIN + 2) ? 0 : bad("nothing waits");
}

/* The kernel gives the thread's own first. */
static int queued_finish(void)
{
	siginfo_t info;

	for (int i = 0; i < 2 * EACH; i++) {
		int value = (i + EACH) % (2 * EACH);

		if (!take(SIGRTMIN + 2, &info, 0))
			return bad("only %d", i);
		if (info.si_code != SI_QUEUE || info.si_errno != 3 || info.si_pid != 100 + value ||
		    info.si_uid != 200U + value ||
		    info.si_value.sival_ptr != (void *)(0x123456789abc0000 + value))
			return bad("%p at %d", info.si_value.sival_ptr, i);
	}
	return take(SIGRTMIN + 2, &info, 0) ? bad("more than there were") : 0;
}

/* More than one table holds. */
#define MANY 900

static int many[MANY];

static void many_setup(void)
{
	for (int i = 0; i < MANY; i++) {
		many[i] = create(CLOCK_MONOTONIC, SIGEV_SIGNAL, SIGUSR1, i);
		set(many[i], 0, (1000 + i) * SECOND, 0);
	}
}

static int many_check(void)
{
	int64_t interval;

	for (int i = 0; i < MANY; i++)
		if (left(many[i], &interval) < (900 + i) * SECOND)
			return bad("timer %d", many[i]);
	return 0;
}

const struct thing timer_things[] = {
	{ "timers", clocks_setup, clocks_check, clocks_finish },
	{ "timer-overruns", overruns_setup, overruns_check, NULL },
	{ "timers-expired", expired_setup, expired_check, expired_finish },
	{ "many-timers", many_setup, many_check, NULL },
	{ "signal-without-siginfo", bare_setup, bare_check, bare_finish },
	{ "queued-signals", queued_setup, queued_check, queued_finish },
	{ NULL, NULL, NULL, NULL },
};
