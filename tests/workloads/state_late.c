// SPDX-License-Identifier: Apache-2.0
/* What memory becomes while it is moved already. */
#define _GNU_SOURCE
#include "state_area.h"
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

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

const struct thing late_things[] = {
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
