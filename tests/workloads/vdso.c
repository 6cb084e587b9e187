// SPDX-License-Identifier: Apache-2.0
/*
 * vdso: reads the clocks without pause, through every entry of the vDSO that it was given, by
 * pointers that it looked up when it began, as C libraries do.  Each answer is compared with the
 * system call's.  It answers lines:
 *
 * "check"               "ok", or the first thing that was wrong
 * "entries"             the functions that it found, by name
 * "calls"               how often it has called one
 * "where"               the address of its vDSO (auxiliary vector)
 * "spin", "mix"         hardly leaves the vDSO from now on; does all of it again
 * "interrupt STACK"     stops in a handler that has interrupted the vDSO, on the "same" stack or an
 *                       "alternate" one: "inside" as soon as that is so, "left" after another line
 * "exec"                executes itself anew
 *
 * With the argument "watch" it reads no input, and says several times a second what "check" and
 * "calls" would, on one line: "ok 12345".
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

#define BILLION 1000000000LL
#define COUNT(array) (sizeof(array) / sizeof(*(array)))

typedef int64_t ns;

struct droppable {
	uint32_t size, prot, flags, reserved[13];
};

static struct {
	int (*clock_gettime)(clockid_t, struct timespec *);
	int (*clock_getres)(clockid_t, struct timespec *);
	int (*gettimeofday)(struct timeval *, void *);
	time_t (*time)(time_t *);
	int (*getcpu)(unsigned int *, unsigned int *, void *);
	ssize_t (*getrandom)(void *, size_t, unsigned int, void *, size_t);
} vdso[2]; /* by the two names that each has */

static const char *const prefixes[] = { "__vdso_", "" };
static const struct {
	const char *name;
	size_t place;
} functions[] = {
	{ "clock_gettime", offsetof(typeof(vdso[0]), clock_gettime) },
	{ "clock_getres", offsetof(typeof(vdso[0]), clock_getres) },
	{ "gettimeofday", offsetof(typeof(vdso[0]), gettimeofday) },
	{ "time", offsetof(typeof(vdso[0]), time) },
	{ "getcpu", offsetof(typeof(vdso[0]), getcpu) },
	{ "getrandom", offsetof(typeof(vdso[0]), getrandom) },
};

/* A clock, how far vDSO and system call may differ, and whether it only goes on, also elsewhere. */
static struct clock {
	clockid_t id;
	const char *name;
	ns slack;
	bool goes_on;
	ns last;
} clocks[] = {
	{ CLOCK_REALTIME, "REALTIME", 100000, false, 0 },
	{ CLOCK_MONOTONIC, "MONOTONIC", 100000, true, 0 },
	{ CLOCK_MONOTONIC_RAW, "MONOTONIC_RAW", 100000, false, 0 },
	{ CLOCK_REALTIME_COARSE, "REALTIME_COARSE", 100000000, false, 0 },
	{ CLOCK_MONOTONIC_COARSE, "MONOTONIC_COARSE", 100000000, true, 0 },
	{ CLOCK_BOOTTIME, "BOOTTIME", 100000, true, 0 },
	{ CLOCK_TAI, "TAI", 100000, false, 0 },
};

static const char *image;
static char wrong[200];
static unsigned long calls;
static void *state;
static struct droppable needs;
static volatile uintptr_t inside[2];

__attribute__((format(printf, 1, 2))) static void fail(const char *format, ...)
{
	va_list rest;

	if (wrong[0])
		return;
	va_start(rest, format);
	vsnprintf(wrong, sizeof(wrong), format, rest);
	va_end(rest);
}

static void say(const char *text)
{
	dprintf(STDOUT_FILENO, "%s\n", text);
}

static ns in_ns(struct timespec at)
{
	return at.tv_sec * BILLION + at.tv_nsec;
}

/* Look a function up as tools/testing/selftests/vDSO/parse_vdso.c does, its version aside. */
static const void *look_up(const char *prefix, const char *name)
{
	const Elf64_Ehdr *header = (const void *)image;
	const Elf64_Phdr *segment = (const void *)(image + header->e_phoff);
	const Elf64_Dyn *dynamic = NULL;
	const Elf64_Sym *symbols = NULL;
	const char *strings = NULL, *found;
	uintptr_t bias = 0;

	for (int i = 0; i < header->e_phnum; i++) {
		if (segment[i].p_type == PT_LOAD)
			bias = (uintptr_t)image + segment[i].p_offset - segment[i].p_vaddr;
		else if (segment[i].p_type == PT_DYNAMIC)
			dynamic = (const void *)(image + segment[i].p_offset);
	}
	for (; dynamic->d_tag != DT_NULL; dynamic++) {
		if (dynamic->d_tag == DT_SYMTAB)
			symbols = (const void *)(bias + dynamic->d_un.d_ptr);
		else if (dynamic->d_tag == DT_STRTAB)
			strings = (const void *)(bias + dynamic->d_un.d_ptr);
	}
	/* The table of names follows that of symbols. */
	for (const Elf64_Sym *each = symbols; (const char *)each < strings; each++) {
		found = strings + each->st_name;
		if (!strncmp(found, prefix, strlen(prefix)) && each->st_shndx &&
		    !strcmp(found + strlen(prefix), name))
			return (const void *)(bias + each->st_value);
	}
	return NULL;
}

static void find_entries(void)
{
	image = (const char *)getauxval(AT_SYSINFO_EHDR);
	for (size_t way = 0; way < COUNT(vdso); way++)
		for (size_t i = 0; i < COUNT(functions); i++) {
			const void *found = look_up(prefixes[way], functions[i].name);

			memcpy((char *)&vdso[way] + functions[i].place, &found, sizeof(found));
		}
	if (!vdso[0].getrandom || vdso[0].getrandom(NULL, 0, 0, &needs, ~0UL))
		return;
	state = mmap(NULL, needs.size, (int)needs.prot, (int)needs.flags, -1, 0);
	if (state == MAP_FAILED)
		state = NULL;
}

static ns raw_clock(clockid_t id)
{
	struct timespec at;

	if (syscall(SYS_clock_gettime, id, &at))
		fail("clock_gettime(%d): %s", id, strerror(errno));
	return in_ns(at);
}

static ns call_clock(clockid_t id, int way)
{
	struct timespec at = { -1, -1 };
	int result;

	if (way < 2)
		result = vdso[way].clock_gettime(id, &at);
	else
		result = clock_gettime(id, &at);
	if (result)
		fail("clock_gettime(%d) returned %d, by way %d", id, result, way);
	calls++;
	return in_ns(at);
}

/* Between two system calls the clock may become another host's, but not twice. */
static void read_clock(struct clock *clock, int way)
{
	ns before = 0, found = 0, after = 0;

	for (int look = 0; look < 2; look++) {
		before = raw_clock(clock->id);
		found = call_clock(clock->id, way);
		after = raw_clock(clock->id);
		if (clock->goes_on && found < clock->last)
			fail("%s went back by %lld ns", clock->name,
			     (long long)(clock->last - found));
		clock->last = found;
		if (before - clock->slack <= found && found <= after + clock->slack)
			return;
	}
	fail("%s is %lld, not between %lld and %lld, by way %d", clock->name, (long long)found,
	     (long long)before, (long long)after, way);
}

static void read_day(int way)
{
	struct timeval at = { -1, -1 };
	ns off = 0, seconds = 0;
	time_t stored = -1;

	for (int look = 0; look < 2; look++) {
		if (vdso[way].gettimeofday(&at, NULL))
			fail("gettimeofday failed");
		off = raw_clock(CLOCK_REALTIME) - at.tv_sec * BILLION - at.tv_usec * 1000LL;
		seconds = raw_clock(CLOCK_REALTIME) / BILLION - vdso[way].time(&stored);
		calls += 2;
		if (stored != vdso[way].time(NULL) && stored + 1 != vdso[way].time(NULL))
			fail("time stores another value than it returns");
		if (off >= -clocks[0].slack && off < BILLION && seconds >= -1 && seconds <= 1)
			return;
	}
	fail("gettimeofday is %lld ns off, time %lld s", (long long)off, (long long)seconds);
}

static void read_others(int way)
{
	struct timespec ours, theirs;
	unsigned int cpu = -1U, node = -1U;

	for (size_t i = 0; i < COUNT(clocks); i++) {
		bool same = false;

		for (int look = 0; look < 2 && !same; look++) {
			if (vdso[way].clock_getres(clocks[i].id, &ours) ||
			    syscall(SYS_clock_getres, clocks[i].id, &theirs))
				fail("clock_getres(%s) failed", clocks[i].name);
			same = in_ns(ours) == in_ns(theirs);
		}
		if (!same)
			fail("clock_getres(%s) is %lld", clocks[i].name, (long long)in_ns(ours));
	}
	if (vdso[way].getcpu(&cpu, &node, NULL) || cpu >= 4096 || node >= 1024)
		fail("getcpu tells CPU %u of node %u", cpu, node);
	/* What the vDSO leaves to the kernel, and an error. */
	call_clock(CLOCK_PROCESS_CPUTIME_ID, way);
	if (vdso[way].clock_gettime(1000, &ours) != -EINVAL)
		fail("an unknown clock is no error");
	calls += 2 + COUNT(clocks);
}

static void read_random(int way)
{
	static uint64_t last[4];
	uint64_t found[4] = { 0 };

	if (!state)
		return;
	if (vdso[way].getrandom(found, sizeof(found), 0, state, needs.size) != sizeof(found))
		fail("getrandom failed");
	for (size_t i = 0; i < COUNT(found); i++)
		if (!found[i] || found[i] == last[i])
			fail("getrandom gave no random bytes");
	memcpy(last, found, sizeof(last));
	calls++;
}

static void mix(void)
{
	for (size_t i = 0; i < COUNT(clocks); i++)
		for (int way = 0; way < 3; way++)
			read_clock(&clocks[i], way);
	for (int way = 0; way < 2; way++) {
		read_day(way);
		read_others(way);
		read_random(way);
	}
}

static void spin(void)
{
	struct clock *clock = &clocks[1];
	struct timespec at;
	ns now;

	for (int i = 0; i < 50000; i++) {
		if (vdso[0].clock_gettime(CLOCK_MONOTONIC, &at))
			fail("clock_gettime failed");
		now = in_ns(at);
		if (now < clock->last)
			fail("MONOTONIC went back by %lld ns", (long long)(clock->last - now));
		clock->last = now;
	}
	calls += 50000;
}

static bool next_line(char *line, size_t size)
{
	for (size_t length = 0; length < size - 1;) {
		ssize_t count = read(STDIN_FILENO, line + length, 1);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return false;
		if (line[length] == '\n') {
			line[length] = 0;
			return true;
		}
		length++;
	}
	return false;
}

static void set_timer(long microseconds)
{
	struct itimerval value = { { 0, microseconds }, { 0, microseconds } };

	setitimer(ITIMER_REAL, &value, NULL);
}

static void on_alarm(int number, siginfo_t *info, void *context)
{
	uintptr_t at = (uintptr_t)((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP];
	char line[100];

	(void)number, (void)info;
	if (at < inside[0] || at >= inside[1])
		return;
	set_timer(0);
	inside[1] = 0; /* one more signal may wait already */
	say("inside");
	if (next_line(line, sizeof(line)))
		say("left");
}

static void interrupt(const char *stack)
{
	static char room[1 << 16];
	stack_t alternate = { .ss_sp = room, .ss_size = sizeof(room) };
	struct sigaction action = { .sa_sigaction = on_alarm, .sa_flags = SA_SIGINFO | SA_RESTART };
	FILE *maps = fopen("/proc/self/maps", "r");
	char line[500];

	while (maps && fgets(line, sizeof(line), maps))
		if (strstr(line, "[vdso]"))
			sscanf(line, "%lx-%lx", (unsigned long *)&inside[0],
			       (unsigned long *)&inside[1]);
	if (maps)
		fclose(maps);
	if (!strcmp(stack, "alternate")) {
		sigaltstack(&alternate, NULL);
		action.sa_flags |= SA_ONSTACK;
	}
	sigaction(SIGALRM, &action, NULL);
	set_timer(100);
}

static void tell_entries(void)
{
	char text[200] = "";

	for (size_t i = 0; i < COUNT(functions); i++) {
		void *found;

		memcpy(&found, (char *)&vdso[0] + functions[i].place, sizeof(found));
		if (found)
			sprintf(text + strlen(text), "%s%s", *text ? " " : "", functions[i].name);
	}
	say(text);
}

static void watch(void)
{
	for (ns said = 0;;) {
		mix();
		if (clocks[1].last - said < BILLION / 5)
			continue;
		said = clocks[1].last;
		dprintf(STDOUT_FILENO, "%s %lu\n", wrong[0] ? wrong : "ok", calls);
	}
}

int main(int count, char **words)
{
	struct pollfd input = { .fd = STDIN_FILENO, .events = POLLIN };
	void (*doing)(void) = mix;
	char line[100];

	find_entries();
	if (count > 1 && !strcmp(words[1], "watch"))
		watch();
	say("ready");
	for (;;) {
		doing();
		if (poll(&input, 1, 0) <= 0)
			continue;
		if (!next_line(line, sizeof(line)))
			return 0;
		if (!strcmp(line, "check"))
			say(wrong[0] ? wrong : "ok");
		else if (!strcmp(line, "entries"))
			tell_entries();
		else if (!strcmp(line, "calls"))
			dprintf(STDOUT_FILENO, "%lu\n", calls);
		else if (!strcmp(line, "where"))
			dprintf(STDOUT_FILENO, "%lx\n", (unsigned long)image);
		else if (!strcmp(line, "spin"))
			doing = spin, say("spinning");
		else if (!strcmp(line, "mix"))
			doing = mix, say("mixing");
		else if (!strncmp(line, "interrupt ", 10))
			interrupt(line + 10);
		else if (!strcmp(line, "exec"))
			execv("/proc/self/exe", words);
		else
			say("what?");
	}
}
