// SPDX-License-Identifier: GPL-2.0
/* What operations may not be asked for, each by its result. */
#include <errno.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "subject.h"
#include "tests.h"

#ifndef SYS_mseal
#define SYS_mseal 462
#endif

static void the_first_failure_ends_a_batch(void)
{
	struct subject subject = subject_start();
	struct livemig_op ops[3] = { map_page(FREE_PLACE(1)), map_page(FREE_PLACE(1) + 1),
				     map_page(FREE_PLACE(2)) };
	uint64_t start, end;
	unsigned int done;

	ops[2].result = 77;
	subject_stop(&subject);
	require(!run_batch(subject.pidfd, ops, 3, &done));
	require(done == 1 && ops[0].result == (int64_t)FREE_PLACE(1));
	require(ops[1].result == -EINVAL && ops[2].result == 0);
	require(subject_find(&subject, "100040000000", &start, &end));
	require(!subject_find(&subject, "100080000000", &start, &end));
	subject_end(&subject);
}

struct refusal {
	struct livemig_op op;
	int64_t result;
};

static void expect(const struct subject *subject, const struct refusal *refusals, size_t count)
{
	size_t i;

	for (i = 0; i < count; i++) {
		int64_t result = run_one(subject, refusals[i].op);

		require(result == refusals[i].result, "%zu: %ld, not %ld", i, result,
			refusals[i].result);
	}
}

/* Memory that it can be moved to: what the kernel chooses may be just below it. */
static void *away_from_the_vdso(size_t length, int prot)
{
	void *place = mmap((void *)FREE_PLACE(3), length, prot,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

	require(place != MAP_FAILED);
	return place;
}

static void operations(void)
{
	char *own = away_from_the_vdso(4 * PAGE, PROT_READ);
	struct subject subject = subject_start();
	uint64_t here = (uint64_t)own, free = FREE_PLACE(1), vdso = getauxval(AT_SYSINFO_EHDR);
	const struct refusal refusals[] = {
		{ { .kind = 0 }, -EINVAL },
		{ { .kind = 99 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = 0 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = 100 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free + 8, .length = PAGE }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = ~0UL << 12 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = ~0UL << 12, .length = PAGE }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = 0x7ffffffff000, .length = PAGE }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = PAGE, .prot = 8 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = PAGE, .flags = LIVEMIG_SHARED },
		  -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = PAGE, .fd = 1 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = PAGE, .offset = 1 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = free, .length = PAGE, .new_addr = 1 }, -EINVAL },
		{ { .kind = LIVEMIG_MAP, .addr = here, .length = PAGE }, -EEXIST },
		{ { .kind = LIVEMIG_MAP_FILE, .addr = free, .length = PAGE, .fd = -1 }, -EBADF },
		{ { .kind = LIVEMIG_MAP_FILE, .addr = free, .length = PAGE, .offset = 5 },
		  -EINVAL },
		{ { .kind = LIVEMIG_UNMAP, .addr = here, .length = PAGE, .flags = 1 }, -EINVAL },
		{ { .kind = LIVEMIG_UNMAP, .addr = here, .length = 0 }, -EINVAL },
		{ { .kind = LIVEMIG_MOVE, .addr = here, .length = PAGE, .new_addr = free },
		  -EINVAL },
		{ { .kind = LIVEMIG_MOVE,
		    .addr = here,
		    .length = 2 * PAGE,
		    .new_addr = here + PAGE,
		    .new_length = 2 * PAGE },
		  -EINVAL },
		{ { .kind = LIVEMIG_MOVE,
		    .addr = free,
		    .length = PAGE,
		    .new_addr = free + PAGE,
		    .new_length = PAGE },
		  -EFAULT },
		{ { .kind = LIVEMIG_MOVE,
		    .addr = here,
		    .length = PAGE,
		    .new_addr = vdso,
		    .new_length = PAGE },
		  -EEXIST },
		{ { .kind = LIVEMIG_MOVE,
		    .addr = vdso,
		    .length = PAGE,
		    .new_addr = free,
		    .new_length = PAGE },
		  -EINVAL },
		{ { .kind = LIVEMIG_MOVE,
		    .addr = here,
		    .length = PAGE,
		    .new_addr = free,
		    .new_length = PAGE,
		    .flags = LIVEMIG_GROWSDOWN },
		  -EINVAL },
		{ { .kind = LIVEMIG_MOVE,
		    .addr = here,
		    .length = PAGE,
		    .new_addr = here,
		    .new_length = 2 * PAGE },
		  -EEXIST },
		{ { .kind = LIVEMIG_MOVE_VDSO, .new_addr = here }, -EEXIST },
		{ { .kind = LIVEMIG_MOVE_VDSO, .new_addr = free + 1 }, -EINVAL },
		{ { .kind = LIVEMIG_MOVE_VDSO, .new_addr = vdso }, -EINVAL },
		{ { .kind = LIVEMIG_MOVE_VDSO, .new_addr = free, .length = PAGE }, -EINVAL },
	};

	subject_stop(&subject);
	expect(&subject, refusals, sizeof(refusals) / sizeof(*refusals));
	subject_continue(&subject);
	subject_ask(&subject, ORDER_STACK, 0, 0, 0);
	subject_end(&subject);
}

static void files(void)
{
	struct subject subject = subject_start();
	int sealed = memfd_create("sealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	int huge = memfd_create("huge", MFD_CLOEXEC | MFD_HUGETLB);
	int reading = open("/bin/sh", O_RDONLY | O_CLOEXEC),
	    directory = open("/", O_RDONLY | O_CLOEXEC);
	struct livemig_op op = { .kind = LIVEMIG_MAP_FILE,
				 .flags = LIVEMIG_SHARED,
				 .addr = FREE_PLACE(1),
				 .length = PAGE,
				 .prot = PROT_READ | PROT_WRITE };

	require(!ftruncate(sealed, PAGE) && !fcntl(sealed, F_ADD_SEALS, F_SEAL_WRITE));
	subject_stop(&subject);
	op.fd = sealed;
	require(run_one(&subject, op) == -EPERM, "a seal");
	op.fd = huge;
	require(huge >= 0 && run_one(&subject, op) == -EOPNOTSUPP, "of hugetlbfs");
	op.fd = reading;
	require(run_one(&subject, op) == -EACCES, "a file that is open for reading");
	op.flags = 0;
	op.fd = directory;
	require(run_one(&subject, op) == -ENODEV, "a directory");
	op.fd = reading;
	require(run_one(&subject, op) == (int64_t)op.addr, "a private copy");
	subject_end(&subject);
}

/* What nobody may change any more, neither from within nor from here. */
static void sealed(void)
{
	char *own = away_from_the_vdso(2 * PAGE, PROT_READ | PROT_WRITE);
	uint64_t here = (uint64_t)own, free = FREE_PLACE(1);
	struct livemig_op unmap = { .kind = LIVEMIG_UNMAP, .addr = here, .length = PAGE };
	struct livemig_op move = { .kind = LIVEMIG_MOVE,
				   .addr = here,
				   .length = PAGE,
				   .new_addr = FREE_PLACE(2),
				   .new_length = PAGE };
	struct livemig_op vdso = { .kind = LIVEMIG_MOVE_VDSO,
				   .flags = LIVEMIG_REPLACE,
				   .new_addr = here };
	struct livemig_op map = map_page(here);
	struct subject subject;

	fill(own, 2 * PAGE, 1);
	if (syscall(SYS_mseal, own, 2 * PAGE, 0)) {
		require(errno == ENOSYS);
		skip(); /* before Linux 6.10 */
	}
	subject = subject_start();
	subject_stop(&subject);
	require(run_one(&subject, unmap) == -EPERM);
	require(run_one(&subject, move) == -EPERM);
	require(run_one(&subject, vdso) == -EPERM);
	map.flags = LIVEMIG_REPLACE;
	require(run_one(&subject, map) == -EPERM);
	require(run_one(&subject, map_page(free)) == (int64_t)free);
	move.flags = LIVEMIG_REPLACE;
	move.addr = free;
	move.new_addr = here;
	require(run_one(&subject, move) == -EPERM);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, here, 2 * PAGE, 1);
	subject_end(&subject);
}

static void below_the_lowest_address(void)
{
	int status;
	pid_t caller = (device(), fork());

	if (!caller) {
		struct subject subject;

		require(!setresgid(NOBODY, NOBODY, NOBODY) && !setresuid(NOBODY, NOBODY, NOBODY));
		require(!prctl(PR_SET_DUMPABLE, 1)); /* or nobody but root may trace our child */
		subject = subject_start();
		subject_stop(&subject);
		require(run_one(&subject, map_page(FREE_PLACE(1))) == (int64_t)FREE_PLACE(1));
		require(run_one(&subject, map_page(0)) == -EPERM);
		subject_end(&subject);
		_exit(0);
	}
	require(waitpid(caller, &status, 0) == caller && !status);
}

const struct test refusals[] = { { "the_first_failure_ends_a_batch",
				   the_first_failure_ends_a_batch },
				 { "operations", operations },
				 { "files", files },
				 { "sealed", sealed },
				 { "below_the_lowest_address", below_the_lowest_address },
				 { 0 } };
