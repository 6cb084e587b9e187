// SPDX-License-Identifier: Apache-2.0
/* What memory is beside its bytes. */
#define _GNU_SOURCE
#include "state.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE 4096L
#define PAGES 64
#define SIZE (PAGES * PAGE)
#define ROOM (64L << 20)
#define HUGE_SIZE (2L << 20)
#define GUARD_INSTALL 102
#define GUARD_REMOVE 103
#define DROPPABLE 8

static char *area;
static char wanted[256];
static sigjmp_buf back;

/* What smaps says of the area that ends at an address, but for what tracking and use change. */
static long smaps(const char *end, char *flags, size_t size)
{
	static char line[512];
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long first = 0, last = 0;
	long huge = 0, found = -1;

	if (!file)
		need(-1, "smaps");
	while (found < 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &first, &last) == 2)
			continue;
		sscanf(line, "AnonHugePages: %ld", &huge);
		if (!strncmp(line, "VmFlags:", 8) && last == (unsigned long)end) {
			*flags = 0;
			for (char *word = strtok(line + 8, " \n"); word; word = strtok(NULL, " \n"))
				if (strcmp(word, "uw") && strcmp(word, "sd") &&
				    strlen(flags) + 4 < size)
					strcat(strcat(flags, word), " ");
			found = huge;
		}
	}
	fclose(file);
	return found;
}

static void mark(char *place, int pages)
{
	for (int i = 0; i < pages; i++)
		*(uint64_t *)(place + i * PAGE) = 0x1000 + i;
}

static int marked(const char *place, int pages)
{
	for (int i = 0; i < pages; i++)
		if (*(const uint64_t *)(place + i * PAGE) != 0x1000UL + i)
			return bad("page %d", i);
	return 0;
}

/* Between two holes, so that it is an area of its own whatever it is like. */
static char *map(int flags, long size)
{
	char *place = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	place = mmap(place + PAGE, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED,
		     -1, 0);
	if (place == MAP_FAILED)
		lacks();
	return place;
}

static void note(void)
{
	if (smaps(area + SIZE, wanted, sizeof(wanted)) < 0)
		need(-1, "no such area");
}

static int flags_check(void)
{
	char found[256] = "none";

	smaps(area + SIZE, found, sizeof(found));
	if (strcmp(found, wanted))
		return bad("%s, not %s", found, wanted);
	return marked(area, PAGES);
}

static void advised(int advice)
{
	area = map(MAP_PRIVATE, SIZE);
	if (madvise(area, SIZE, advice))
		lacks();
	mark(area, PAGES);
	note();
}

static void dont_dump(void)
{
	advised(MADV_DONTDUMP);
}

static void dont_fork(void)
{
	advised(MADV_DONTFORK);
}

static void wipe_on_fork(void)
{
	advised(MADV_WIPEONFORK);
}

static void huge_advice(void)
{
	advised(MADV_HUGEPAGE);
}

static void no_huge_advice(void)
{
	advised(MADV_NOHUGEPAGE);
}

static void mergeable(void)
{
	advised(MADV_MERGEABLE);
}

static void sequential(void)
{
	advised(MADV_SEQUENTIAL);
}

static void random_advice(void)
{
	advised(MADV_RANDOM);
}

static void locked(void)
{
	area = map(MAP_PRIVATE, SIZE);
	need(mlock(area, SIZE), "mlock");
	mark(area, PAGES);
	note();
}

static void locked_on_fault(void)
{
	area = map(MAP_PRIVATE, SIZE);
	need(mlock2(area, SIZE, MLOCK_ONFAULT), "mlock2");
	mark(area, PAGES);
	note();
}

static void no_reserve(void)
{
	area = map(MAP_PRIVATE | MAP_NORESERVE, SIZE);
	mark(area, PAGES);
	note();
}

static void droppable(void)
{
	area = map(DROPPABLE, SIZE);
	mark(area, PAGES);
	note();
}

/* The kernel may drop its pages whenever it likes. */
static int droppable_check(void)
{
	for (int i = 0; i < PAGES; i++)
		if (!*(uint64_t *)(area + i * PAGE))
			mark(area, PAGES);
	return flags_check();
}

static void sealed(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	if (syscall(462, area, SIZE, 0))
		lacks();
	note();
}

static int sealed_check(void)
{
	return mprotect(area, SIZE, PROT_READ) == 0 ? bad("not sealed") : flags_check();
}

static void all_locked(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	need(mlockall(MCL_CURRENT), "mlockall");
	note();
}

/* What is mapped later is locked, and populated or not. */
static void future(int flags)
{
	need(mlockall(flags), "mlockall");
	area = map(MAP_PRIVATE, SIZE);
	if (!(flags & MCL_ONFAULT))
		mark(area, PAGES);
	note();
}

static void future_locked(void)
{
	future(MCL_FUTURE);
}

static void future_on_fault(void)
{
	future(MCL_FUTURE | MCL_ONFAULT);
}

static int future_check(void)
{
	char found[256] = "none";
	unsigned char in[PAGES];
	char *new = map(MAP_PRIVATE, SIZE);

	smaps(new + SIZE, found, sizeof(found));
	need(mincore(new, SIZE, in), "mincore");
	munmap(new - PAGE, SIZE + 2 * PAGE);
	if (strcmp(found, wanted))
		return bad("%s, not %s", found, wanted);
	/* Linux 6.1 has no name for it. */
	const int on_fault = strstr(wanted, "lf") || strstr(wanted, "??");

	return (in[5] & 1) == on_fault ? bad("populated: %d", in[5]) : 0;
}

/* Each look goes a page deeper. */
static char *lowest;

static void growing(void)
{
	char *room = mmap(NULL, ROOM, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	munmap(room, ROOM);
	area = mmap(room + ROOM - SIZE, SIZE, PROT_READ | PROT_WRITE,
		    MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_GROWSDOWN, -1, 0);
	lowest = area;
	mark(area, PAGES);
	note();
}

static int growing_check(void)
{
	for (int i = 0; i < 3; i++) {
		lowest -= PAGE;
		*lowest = 1;
	}
	return flags_check();
}

static void caught(int number)
{
	siglongjmp(back, number);
}

static int faults(volatile char *place)
{
	int result = 1;

	signal(SIGSEGV, caught);
	if (!sigsetjmp(back, 1)) {
		(void)*place;
		result = 0;
	}
	signal(SIGSEGV, SIG_DFL);
	return result;
}

/* Memory that can be executed alone: the kernel has a key for it where the CPU has keys. */
static void only_executed(void)
{
	area = map(MAP_PRIVATE, SIZE);
	memset(area, 0xC3, SIZE); /* ret */
	need(mprotect(area, SIZE, PROT_EXEC), "mprotect");
	if (!faults(area))
		lacks(); /* a CPU without keys */
}

static int only_executed_check(void)
{
	char *more = mmap(NULL, PAGE, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	int result = faults(area) && faults(more) ? 0 : bad("it can be read");

	munmap(more, PAGE);
	((void (*)(void))area)();
	return result;
}

/* A key that no memory has. */
static void key(void)
{
	if (syscall(SYS_pkey_alloc, 0, 0) < 0)
		lacks();
}

static int guards; /* page 3 to 5, and 9 */

static void guard(void)
{
	if (madvise(area + 3 * PAGE, 3 * PAGE, GUARD_INSTALL) ||
	    madvise(area + 9 * PAGE, PAGE, GUARD_INSTALL))
		lacks();
	guards = 1;
}

static void guarded(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	guard();
}

static int guarded_check(void)
{
	for (int i = 0; i < PAGES; i++) {
		int guarded = guards && ((i >= 3 && i < 6) || i == 9);

		if (faults(area + i * PAGE) != guarded)
			return bad("page %d does %s", i, guarded ? "not fault" : "fault");
		if (!guarded && *(uint64_t *)(area + i * PAGE) != 0x1000UL + i)
			return bad("page %d", i);
	}
	return 0;
}

/* In a file that is shared for reading: our own program. */
static void guarded_file(void)
{
	int file = open("/proc/self/exe", O_RDONLY);

	area = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, file, 0);
	if (area == MAP_FAILED || madvise(area + PAGE, PAGE, GUARD_INSTALL))
		lacks(); /* before Linux 6.15 */
}

static int guarded_file_check(void)
{
	for (int i = 0; i < 3; i++)
		if (faults(area + i * PAGE) != (i == 1))
			return bad("page %d", i);
	return 0;
}

static void late_guard(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	if (madvise(map(MAP_PRIVATE, PAGE), PAGE, GUARD_INSTALL))
		lacks(); /* before it is too late */
}

static int late_guard_now(void)
{
	guard();
	return 0;
}

static void late_advice(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	note();
}

static int late_advice_now(void)
{
	need(madvise(area, SIZE, MADV_DONTDUMP), "madvise");
	need(mlock(area, SIZE), "mlock");
	note();
	return 0;
}

static void *advise(void *nothing)
{
	need(madvise(area, SIZE, MADV_DONTDUMP), "madvise");
	note();
	return nothing;
}

static void in_thread(void *(*work)(void *))
{
	pthread_t thread;

	need(-pthread_create(&thread, NULL, work, NULL), "pthread_create");
	pthread_join(thread, NULL);
}

static void *idle(void *nothing)
{
	return nothing;
}

/* Whose stack is used again, so that no call of the first thread makes a second one. */
static void late_thread(void)
{
	late_advice();
	in_thread(idle);
}

static int late_thread_now(void)
{
	in_thread(advise);
	return 0;
}

/* One area becomes two, of which the first is as it was. */
static int late_part_now(void)
{
	need(madvise(area + SIZE / 2, SIZE / 2, MADV_DONTDUMP), "madvise");
	note();
	return 0;
}

/* Two areas become one, without a change of what was advised. */
static void late_join(void)
{
	advised(MADV_DONTDUMP);
	need(mprotect(area, SIZE / 2, PROT_READ), "mprotect");
	note();
}

static int late_join_now(void)
{
	need(mprotect(area, SIZE / 2, PROT_READ | PROT_WRITE), "mprotect");
	note();
	return 0;
}

/* Mapped where huge pages are not wanted, by kernels from 6.7 on. */
static int late_stack_now(void)
{
	area = map(MAP_PRIVATE | MAP_STACK, SIZE);
	mark(area, PAGES);
	note();
	return 0;
}

/* Nothing is mapped from here on, before it is asked for. */
static void late_future(void)
{
	late_advice();
	need(mlockall(MCL_FUTURE), "mlockall");
}

static int late_future_now(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	note();
	return 0;
}

static int late_future_heap_now(void)
{
	area = sbrk(SIZE);
	mark(area, PAGES);
	note();
	return 0;
}

/* Takes the advice away again, at a place that has just been mapped anew. */
static void late_anew(void)
{
	advised(MADV_DONTFORK);
	need(mlock(area, SIZE), "mlock");
	note();
}

static int late_anew_now(void)
{
	need(munmap(area, SIZE), "munmap");
	area = mmap(area, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
		    0);
	mark(area, PAGES);
	note();
	return 0;
}

/* Huge pages, and small ones where huge ones could be; more of them than of all else. */
static char *huge, *small, *empty;
static long huge_wanted;

#define HUGE_ROOM (16L << 20)

static char *aligned(long size)
{
	char *place = map(MAP_PRIVATE, size + HUGE_SIZE);

	return (char *)(((uintptr_t)place + HUGE_SIZE - 1) & ~(HUGE_SIZE - 1));
}

static void huge_pages(void)
{
	char flags[256];

	huge = aligned(HUGE_ROOM);
	small = aligned(HUGE_ROOM);
	empty = aligned(HUGE_ROOM);
	if (madvise(huge, HUGE_ROOM, MADV_HUGEPAGE))
		lacks();
	memset(huge, 7, HUGE_ROOM / 2);
	mark(huge, HUGE_ROOM / 2 / PAGE);
	for (long at = 0; at < HUGE_ROOM; at += HUGE_SIZE)
		mark(small + at, 3);
	need(madvise(small, HUGE_ROOM, MADV_HUGEPAGE), "madvise");
	need(madvise(empty, HUGE_ROOM, MADV_HUGEPAGE), "madvise");
	for (long at = 0; at < HUGE_ROOM; at += PAGE) /* the huge zero page */
		(void)*(volatile char *)(empty + at);
	huge_wanted = smaps(huge + HUGE_ROOM, flags, sizeof(flags));
	if (huge_wanted < HUGE_ROOM / 2 / 1024)
		lacks();
}

static int huge_pages_check(void)
{
	char flags[256];
	long found = smaps(huge + HUGE_ROOM, flags, sizeof(flags));

	if (marked(huge, HUGE_ROOM / 2 / PAGE) || huge[HUGE_ROOM / 2 - 1] != 7)
		return 1;
	for (long at = 0; at < HUGE_ROOM; at += HUGE_SIZE)
		if (marked(small + at, 3))
			return 1;
	return found != huge_wanted ? bad("%ld KiB in huge pages, not %ld", found, huge_wanted) : 0;
}

/* Pages that were only read: of nothing, and of a file that is mapped for itself alone. */
static void only_read(void)
{
	int file = open("/proc/self/exe", O_RDONLY);
	char *shown = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 0);
	static char rest[PAGE];

	area = map(MAP_PRIVATE, HUGE_ROOM);
	for (long at = 0; at < HUGE_ROOM; at += PAGE)
		(void)*(volatile char *)(area + at);
	for (long at = 0; at < SIZE && pread(file, rest, 1, at) == 1; at += PAGE)
		(void)*(volatile char *)(shown + at);
	close(file);
}

static int only_read_check(void)
{
	for (long at = 0; at < HUGE_ROOM; at += PAGE)
		if (area[at])
			return bad("byte %ld", at);
	return 0;
}

const struct thing memory_things[] = {
	{ "dont-dump", dont_dump, flags_check, NULL },
	{ "dont-fork", dont_fork, flags_check, NULL },
	{ "wipe-on-fork", wipe_on_fork, flags_check, NULL },
	{ "huge-advice", huge_advice, flags_check, NULL },
	{ "no-huge-advice", no_huge_advice, flags_check, NULL },
	{ "mergeable", mergeable, flags_check, NULL },
	{ "sequential", sequential, flags_check, NULL },
	{ "random", random_advice, flags_check, NULL },
	{ "locked", locked, flags_check, NULL },
	{ "locked-on-fault", locked_on_fault, flags_check, NULL },
	{ "no-reserve", no_reserve, flags_check, NULL },
	{ "droppable", droppable, droppable_check, NULL },
	{ "sealed", sealed, sealed_check, NULL },
	{ "all-locked", all_locked, flags_check, NULL },
	{ "future-locked", future_locked, future_check, NULL },
	{ "future-on-fault", future_on_fault, future_check, NULL },
	{ "growing", growing, growing_check, NULL },
	{ "guarded", guarded, guarded_check, NULL },
	{ "guarded-file", guarded_file, guarded_file_check, NULL },
	{ "only-executed", only_executed, only_executed_check, NULL },
	{ "key", key, NULL, NULL },
	{ "huge-pages", huge_pages, huge_pages_check, NULL },
	{ "only-read", only_read, only_read_check, NULL },
	{ "late-guard", late_guard, guarded_check, late_guard_now },
	{ "late-advice", late_advice, flags_check, late_advice_now },
	{ "late-thread", late_thread, flags_check, late_thread_now },
	{ "late-part", late_advice, flags_check, late_part_now },
	{ "late-join", late_join, flags_check, late_join_now },
	{ "late-stack", late_advice, flags_check, late_stack_now },
	{ "late-future", late_future, flags_check, late_future_now },
	{ "late-future-heap", late_future, flags_check, late_future_heap_now },
	{ "late-anew", late_anew, flags_check, late_anew_now },
	{ NULL, NULL, NULL, NULL },
};
