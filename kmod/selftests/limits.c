// SPDX-License-Identifier: GPL-2.0
/* The limits of the process hold, and its memory cgroup pays. */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"
#include "subject.h"
#include "tests.h"

#define GROUP "/sys/fs/cgroup/livemig-selftest"
#define MIB (1UL << 20)

static struct livemig_op map_op(uint64_t addr, uint64_t length)
{
	return (struct livemig_op){
		.kind = LIVEMIG_MAP, .addr = addr, .length = length, .prot = PROT_READ | PROT_WRITE
	};
}

/* A page that moves to a free place and grows there. */
static struct livemig_op growing(const char *page, uint64_t length)
{
	return (struct livemig_op){ .kind = LIVEMIG_MOVE,
				    .addr = (uint64_t)page,
				    .length = PAGE,
				    .new_addr = FREE_PLACE(1),
				    .new_length = length };
}

static void set_limit(const struct subject *subject, int which, rlim_t value)
{
	const struct rlimit limit = { value, value };

	require(!prlimit(subject->pid, which, &limit, NULL));
}

static void address_space(void)
{
	char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct subject subject = subject_start();
	struct livemig_op grow = growing(own, 512 * MIB);

	subject_stop(&subject);
	set_limit(&subject, RLIMIT_AS, 256 * MIB);
	require(run_one(&subject, map_op(FREE_PLACE(2), 512 * MIB)) == -ENOMEM);
	require(run_one(&subject, map_op(FREE_PLACE(3), MIB)) == (int64_t)FREE_PLACE(3));
	require(run_one(&subject, grow) == -ENOMEM);
	grow.new_length = PAGE;
	require(run_one(&subject, grow) == (int64_t)FREE_PLACE(1));
	subject_end(&subject);
}

/* Private memory that can be written to. */
static void data(void)
{
	char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct subject subject = subject_start();
	struct livemig_op grow = growing(own, 512 * MIB);
	struct livemig_op only_read = map_op(FREE_PLACE(2), 512 * MIB);

	only_read.prot = PROT_READ;
	subject_stop(&subject);
	set_limit(&subject, RLIMIT_DATA, 256 * MIB);
	require(run_one(&subject, map_op(FREE_PLACE(2), 512 * MIB)) == -ENOMEM);
	require(run_one(&subject, only_read) == (int64_t)only_read.addr);
	require(run_one(&subject, map_op(FREE_PLACE(3), MIB)) == (int64_t)FREE_PLACE(3));
	require(run_one(&subject, grow) == -ENOMEM);
	grow.new_length = PAGE;
	require(run_one(&subject, grow) == (int64_t)FREE_PLACE(1));
	subject_end(&subject);
}

/* Without the right to lock memory beyond the limit. */
static void drop_ipc_lock(void)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2];

	require(!syscall(SYS_capget, &header, data));
	data[0].effective &= ~(1U << CAP_IPC_LOCK);
	require(!syscall(SYS_capset, &header, data));
}

static void locked_memory(void)
{
	char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct subject subject;
	struct livemig_op grow;

	subject = subject_start();
	subject_ask(&subject, ORDER_LOCK, (uint64_t)own, PAGE, 0);
	grow = growing(own, 4 * MIB); /* less than our own limit */
	set_limit(&subject, RLIMIT_MEMLOCK, MIB);
	drop_ipc_lock();
	subject_stop(&subject);
	require(run_one(&subject, grow) == -EAGAIN);
	grow.new_length = PAGE;
	require(run_one(&subject, grow) == (int64_t)FREE_PLACE(1));
	subject_end(&subject);
}

/* Map each second page, so that none merge, until one more mapping is refused. */
static void fill_map_count(const struct subject *subject, uint64_t place)
{
	static struct livemig_op ops[LIVEMIG_MAX_OPS];
	unsigned int i, done;

	do {
		for (i = 0; i < LIVEMIG_MAX_OPS; i++, place += 2 * PAGE)
			ops[i] = (struct livemig_op){ .kind = LIVEMIG_MAP,
						      .addr = place,
						      .length = PAGE };
		require(!run_batch(subject->pidfd, ops, LIVEMIG_MAX_OPS, &done));
	} while (done == LIVEMIG_MAX_OPS);
	require(ops[done].result == -ENOMEM);
}

/*
 * A vDSO that goes into the middle of a mapping, which that makes two: where these are too many, it
 * stays where it is with its data. With each mapping that is left free, it gets further.
 */
static void mapping_count(void)
{
	struct subject subject = subject_start();
	uint64_t base = getauxval(AT_SYSINFO_EHDR), first, end, many = FREE_PLACE(16);
	struct livemig_op around = { .kind = LIVEMIG_MAP,
				     .flags = LIVEMIG_REPLACE,
				     .addr = FREE_PLACE(1),
				     .length = 2 * MIB };
	struct livemig_op move = { .kind = LIVEMIG_MOVE_VDSO,
				   .flags = LIVEMIG_REPLACE,
				   .new_addr = around.addr + MIB };
	struct livemig_op one = { .kind = LIVEMIG_UNMAP, .addr = many, .length = PAGE };
	int64_t result;

	subject_stop(&subject);
	require(subject_find(&subject, "[vvar", &first, &end));
	require(run_one(&subject, around) == (int64_t)around.addr);
	fill_map_count(&subject, many);
	while ((result = run_one(&subject, move)) == -ENOMEM) {
		subject_continue(&subject);
		subject_ask(&subject, ORDER_CLOCK, base, 0, 0);
		subject_stop(&subject);
		require(run_one(&subject, one) == (int64_t)one.addr);
		require(run_one(&subject, around) == (int64_t)around.addr);
		one.addr += 2 * PAGE;
		require(one.addr < many + 100 * PAGE);
	}
	require(result == (int64_t)move.new_addr && one.addr > many + 6 * PAGE);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CLOCK, move.new_addr + (base - first), 0, 0);
	subject_end(&subject);
}

static long charged(void)
{
	return read_number(GROUP "/memory.current");
}

/* With cgroup v2 alone. */
static void start_in_group(struct subject *subject)
{
	char pid[16];

	if (access("/sys/fs/cgroup/cgroup.controllers", F_OK))
		skip();
	write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	require(!mkdir(GROUP, 0755) || errno == EEXIST);
	*subject = subject_start();
	snprintf(pid, sizeof(pid), "%d", subject->pid);
	write_text(GROUP "/cgroup.procs", pid);
}

static void end_in_group(struct subject *subject)
{
	subject_end(subject);
	rmdir(GROUP);
}

/* Pages, which are charged to the owner of the memory. */
static void memory_cgroup(void)
{
	char *own = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct livemig_op grow = { .kind = LIVEMIG_MOVE,
				   .addr = (uint64_t)own,
				   .length = PAGE,
				   .new_addr = FREE_PLACE(1),
				   .new_length = 32 * MIB };
	struct subject subject;
	long before;

	start_in_group(&subject);
	subject_ask(&subject, ORDER_LOCK, (uint64_t)own, PAGE, 0);
	subject_stop(&subject);
	before = charged();
	require(run_one(&subject, grow) ==
		(int64_t)FREE_PLACE(1)); /* locked: so it is filled at once */
	require(charged() - before > (long)(30 * MIB), "%ld", charged() - before);
	end_in_group(&subject);
}

/* What the kernel keeps of each mapping, which is charged to who makes it. */
static void kernel_memory(void)
{
	static struct livemig_op ops[LIVEMIG_MAX_OPS];
	struct subject subject;
	unsigned int i, done;
	long before;

	start_in_group(&subject);
	for (i = 0; i < LIVEMIG_MAX_OPS; i++)
		ops[i] = map_op(FREE_PLACE(1) + 2 * i * PAGE, PAGE);
	subject_stop(&subject);
	before = charged();
	require(!run_batch(subject.pidfd, ops, LIVEMIG_MAX_OPS, &done) && done == LIVEMIG_MAX_OPS);
	require(charged() - before > (long)MIB / 2, "%ld", charged() - before);
	end_in_group(&subject);
}

const struct test limits[] = { { "address_space", address_space },
			       { "data", data },
			       { "locked_memory", locked_memory },
			       { "mapping_count", mapping_count },
			       { "memory_cgroup", memory_cgroup },
			       { "kernel_memory", kernel_memory },
			       { 0 } };
