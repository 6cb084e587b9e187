// SPDX-License-Identifier: Apache-2.0
/* How the process shares the CPU: policies, nice, affinity, I/O priority, autogroup. */
#define _GNU_SOURCE
#include "state.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/mempolicy.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define RESET_ON_FORK 1 /* SCHED_FLAG_RESET_ON_FORK */
#define IO_IDLE (3 << 13)
#define IO_BEST_3 (2 << 13 | 3)

struct attributes {
	uint32_t size, policy;
	uint64_t flags;
	int32_t nice;
	uint32_t priority;
	uint64_t runtime, deadline, period;
	uint32_t low, high;
};

static struct attributes wanted;

static void get(struct attributes *found)
{
	memset(found, 0, sizeof(*found));
	need(syscall(SYS_sched_getattr, 0, found, sizeof(*found), 0), "sched_getattr");
}

static void set(int policy, int nice, int priority, uint64_t flags)
{
	struct attributes to = {
		.size = 48, .policy = policy, .nice = nice, .flags = flags, .priority = priority
	};

	if (policy == SCHED_DEADLINE) {
		to.runtime = 1000000;
		to.deadline = 20000000;
		to.period = 50000000;
	}
	if (syscall(SYS_sched_setattr, 0, &to, 0))
		lacks();
	get(&wanted);
	if ((int)wanted.policy != policy)
		lacks();
}

/* Linux 6.12 on: what a thread gets at once; the runtime of a policy that has no other. */
static void slice_setup(void)
{
	struct attributes to = { .size = 48, .policy = SCHED_OTHER, .runtime = 7000000 };

	if (syscall(SYS_sched_setattr, 0, &to, 0))
		lacks();
	get(&wanted);
	if (wanted.runtime != to.runtime)
		lacks();
}

static int same(void)
{
	struct attributes found;

	get(&found);
	if (memcmp(&found, &wanted, sizeof(found)))
		return bad("policy %u nice %d priority %u flags %lx", found.policy, found.nice,
			   found.priority, found.flags);
	return 0;
}

static void nice_setup(void)
{
	set(SCHED_OTHER, 7, 0, 0);
}

static void batch_setup(void)
{
	set(SCHED_BATCH, 3, 0, 0);
}

static void idle_setup(void)
{
	set(SCHED_IDLE, 0, 0, 0);
}

static void fifo_setup(void)
{
	need(setpriority(PRIO_PROCESS, 0, 4), "setpriority");
	set(SCHED_FIFO, 0, 3, 0);
}

static int fifo_check(void)
{
	int nice = getpriority(PRIO_PROCESS, 0);

	return nice != 4 ? bad("nice %d", nice) : same();
}

static void round_robin_setup(void)
{
	set(SCHED_RR, 0, 2, RESET_ON_FORK);
}

static void deadline_setup(void)
{
	set(SCHED_DEADLINE, 0, 0, 0);
}

static cpu_set_t bound;

static void affinity_setup(void)
{
	CPU_ZERO(&bound);
	CPU_SET(1, &bound);
	if (sched_setaffinity(0, sizeof(bound), &bound))
		lacks();
}

static int affinity_check(void)
{
	cpu_set_t found;

	need(sched_getaffinity(0, sizeof(found), &found), "sched_getaffinity");
	return CPU_EQUAL(&found, &bound) ? 0 : bad("%d CPUs", CPU_COUNT(&found));
}

static int io_wanted;

static void io_set(int value)
{
	io_wanted = value;
	need(syscall(SYS_ioprio_set, 1, 0, value), "ioprio_set");
}

static void io_best_setup(void)
{
	io_set(IO_BEST_3);
}

static void io_idle_setup(void)
{
	io_set(IO_IDLE);
}

static int io_check(void)
{
	long found = syscall(SYS_ioprio_get, 1, 0);

	return found == io_wanted ? 0 : bad("I/O priority %lx", found);
}

static int autogroup(void)
{
	char text[64], *place;
	int file = open("/proc/self/autogroup", O_RDONLY);
	ssize_t size = read(file, text, sizeof(text) - 1);

	close(file);
	if (size <= 0)
		lacks();
	text[size] = 0;
	place = strstr(text, "nice ");
	return place ? atoi(place + 5) : -99;
}

static void autogroup_setup(void)
{
	int file = open("/proc/self/autogroup", O_WRONLY);

	if (file < 0 || write(file, "6", 1) != 1 || autogroup() != 6)
		lacks();
	close(file);
}

static int autogroup_check(void)
{
	int found = autogroup();

	return found == 6 ? 0 : bad("nice %d", found);
}

/* Memory of its own from node 0, where else it would be from the nearest. */
static void memory_policy_setup(void)
{
	unsigned long nodes = 1;

	if (syscall(SYS_set_mempolicy, MPOL_PREFERRED, &nodes, 8))
		lacks();
}

const struct thing scheduling_things[] = {
	{ "nice", nice_setup, same, NULL },
	{ "slice", slice_setup, same, NULL },
	{ "batch", batch_setup, same, NULL },
	{ "idle", idle_setup, same, NULL },
	{ "fifo", fifo_setup, fifo_check, NULL },
	{ "round-robin", round_robin_setup, same, NULL },
	{ "deadline", deadline_setup, same, NULL },
	{ "affinity", affinity_setup, affinity_check, NULL },
	{ "io-best-effort", io_best_setup, io_check, NULL },
	{ "io-idle", io_idle_setup, io_check, NULL },
	{ "memory-policy", memory_policy_setup, NULL, NULL },
	{ "autogroup", autogroup_setup, autogroup_check, NULL },
	{ NULL, NULL, NULL, NULL },
};
