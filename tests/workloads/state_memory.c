// SPDX-License-Identifier: Apache-2.0
/* What memory is beside its bytes. */
#define _GNU_SOURCE
#include "state_area.h"
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ROOM (64L << 20)
#define HUGE_SIZE (2L << 20)
#define DROPPABLE 8

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
	{ "only-executed", only_executed, only_executed_check, NULL },
	{ "key", key, NULL, NULL },
	{ "huge-pages", huge_pages, huge_pages_check, NULL },
	{ "only-read", only_read, only_read_check, NULL },
	{ NULL, NULL, NULL, NULL },
};
