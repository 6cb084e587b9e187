// SPDX-License-Identifier: GPL-2.0
/* Every kind of mapping, moved under a process that goes on using it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <unistd.h>

#include "files.h"
#include "subject.h"
#include "tests.h"

#define LENGTH (16 * PAGE)
#define HUGE (2UL << 20)

static struct livemig_op move_op(uint64_t from, uint64_t length, uint64_t to)
{
	return (struct livemig_op){ .kind = LIVEMIG_MOVE,
				    .addr = from,
				    .length = length,
				    .new_addr = to,
				    .new_length = length };
}

/* Move memory of a new subject to and fro; it must be what it was each time. */
static void move_and_check(void *place, uint64_t seed, enum order order)
{
	struct subject subject = subject_start();
	uint64_t from = (uint64_t)place, to = FREE_PLACE(1);

	subject_ask(&subject, order, from, LENGTH, seed);
	subject_stop(&subject);
	require(run_one(&subject, move_op(from, LENGTH, to)) == (int64_t)to);
	subject_continue(&subject);
	subject_ask(&subject, order, to, LENGTH, seed);
	subject_stop(&subject);
	require(run_one(&subject, move_op(to, LENGTH, from)) == (int64_t)from);
	subject_continue(&subject);
	subject_ask(&subject, order, from, LENGTH, seed);
	subject_end(&subject);
}

static void anonymous(void)
{
	void *place =
	    mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	require(place != MAP_FAILED);
	fill(place, LENGTH, 1);
	move_and_check(place, 1, ORDER_CHECK);
}

/* How much of the mapping at an address is in huge pages. */
static size_t in_huge_pages(const struct subject *subject, uint64_t addr)
{
	uint64_t start, end;
	size_t kib = 0;
	char path[64], line[512];
	bool here = false, found = false;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", subject->pid);
	file = fopen(path, "re");
	require(file);
	while (!found && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx", &start, &end) == 2)
			here = start == addr;
		found = here && sscanf(line, "AnonHugePages: %lu kB", &kib) == 1;
	}
	fclose(file);
	require(found, "no mapping at %#lx", addr);
	return kib << 10;
}

/* A huge page goes as it is, and a part of it is taken out of it. */
static void huge(void)
{
	char *place =
	    mmap(NULL, 2 * HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	uint64_t from = ((uint64_t)place + HUGE - 1) & ~(HUGE - 1);
	uint64_t to = FREE_PLACE(1), part = to + HUGE - LENGTH, apart = FREE_PLACE(2);
	struct subject subject;

	require(place != MAP_FAILED && !madvise((void *)from, HUGE, MADV_HUGEPAGE));
	subject = subject_start();
	/* Not by us: writing to what a fork shares would split it. */
	subject_ask(&subject, ORDER_FILL, from, HUGE, 2);
	require(in_huge_pages(&subject, from) == HUGE, "before");
	subject_stop(&subject);
	require(run_one(&subject, move_op(from, HUGE, to)) == (int64_t)to);
	require(in_huge_pages(&subject, to) == HUGE, "afterwards");
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, to, HUGE, 2);
	subject_stop(&subject);
	require(run_one(&subject, move_op(part, LENGTH, apart)) == (int64_t)apart);
	require(in_huge_pages(&subject, to) == 0);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, to, HUGE - LENGTH, 2);
	subject_stop(&subject);
	require(run_one(&subject, move_op(apart, LENGTH, part)) == (int64_t)part);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, to, HUGE, 2);
	subject_end(&subject);
}

static int file_with_pattern(int descriptor, uint64_t seed)
{
	char *content = malloc(LENGTH);

	require(descriptor >= 0 && content);
	fill(content, LENGTH, seed);
	require(pwrite(descriptor, content, LENGTH, 0) == LENGTH);
	free(content);
	return descriptor;
}

static int disk_file(uint64_t seed)
{
	return file_with_pattern(open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), seed);
}

static void move_file(int descriptor, int flags, int prot, uint64_t seed)
{
	void *place = mmap(NULL, LENGTH, prot, flags, descriptor, 0);

	require(place != MAP_FAILED);
	move_and_check(place, seed, prot & PROT_WRITE ? ORDER_CHECK : ORDER_READ);
}

static void private_file(void)
{
	move_file(disk_file(3), MAP_PRIVATE, PROT_READ | PROT_WRITE, 3);
}

static void read_only_file(void)
{
	move_file(disk_file(4), MAP_PRIVATE, PROT_READ, 4);
}

static void shared_file(void)
{
	move_file(disk_file(5), MAP_SHARED, PROT_READ | PROT_WRITE, 5);
}

static void memfd(void)
{
	int descriptor = file_with_pattern(memfd_create("selftest", MFD_CLOEXEC), 6);

	move_file(descriptor, MAP_SHARED, PROT_READ | PROT_WRITE, 6);
}

static void to_and_fro(const char *name, enum order order)
{
	struct subject subject = subject_start();
	uint64_t start, end, found, to = FREE_PLACE(2);

	subject_ask(&subject, order, 0, 0, 0);
	subject_stop(&subject);
	require(subject_find(&subject, name, &start, &end), "%s", name);
	require(run_one(&subject, move_op(start, end - start, to)) == (int64_t)to);
	require(subject_find(&subject, "100080000000", &found, &end) && found == to);
	require(run_one(&subject, move_op(to, end - found, start)) == (int64_t)start);
	subject_continue(&subject);
	subject_ask(&subject, order, 0, 0, 0);
	subject_end(&subject);
}

static void stack(void)
{
	to_and_fro("[stack]", ORDER_STACK);
}

static void heap(void)
{
	free(malloc(1));
	to_and_fro("[heap]", ORDER_HEAP);
}

static void vdso(void)
{
	struct subject subject = subject_start();
	uint64_t base = getauxval(AT_SYSINFO_EHDR), first, end, to = FREE_PLACE(3);
	struct livemig_op op = { .kind = LIVEMIG_MOVE_VDSO, .new_addr = to };

	subject_ask(&subject, ORDER_CLOCK, base, 0, 0);
	subject_stop(&subject);
	require(subject_find(&subject, "[vvar", &first, &end));
	require(run_one(&subject, op) == (int64_t)to);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CLOCK, to + (base - first), 0, 0);
	subject_stop(&subject);
	op.new_addr = first;
	require(run_one(&subject, op) == (int64_t)first);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CLOCK, base, 0, 0);
	subject_end(&subject);
}

static void grow_and_shrink(void)
{
	char *place =
	    mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct subject subject;
	struct livemig_op op;
	uint64_t to = FREE_PLACE(4);

	fill(place, LENGTH, 7);
	subject = subject_start();
	op = move_op((uint64_t)place, LENGTH, to);
	op.new_length = 4 * LENGTH;
	subject_stop(&subject);
	require(run_one(&subject, op) == (int64_t)to);
	op = move_op(to, 4 * LENGTH, to);
	op.new_length = 8 * LENGTH;
	require(run_one(&subject, op) == (int64_t)to, "growing in place");
	op = move_op(to, 8 * LENGTH, to);
	op.new_length = LENGTH;
	require(run_one(&subject, op) == (int64_t)to, "shrinking in place");
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, to, LENGTH, 7);
	subject_end(&subject);
}

static void map_and_unmap(void)
{
	uint64_t place = FREE_PLACE(5);
	struct subject subject = subject_start();
	uint64_t start, end;
	struct livemig_op ops[] = {
		{ .kind = LIVEMIG_MAP, .addr = place, .length = LENGTH, .prot = PROT_READ },
		{ .kind = LIVEMIG_UNMAP, .addr = place, .length = LENGTH },
		{ .kind = LIVEMIG_MAP_FILE,
		  .addr = place,
		  .length = LENGTH,
		  .prot = PROT_READ | PROT_WRITE,
		  .fd = disk_file(8) },
		{ .kind = LIVEMIG_MAP,
		  .flags = LIVEMIG_GROWSDOWN | LIVEMIG_NORESERVE,
		  .addr = place + (1 << 28),
		  .length = PAGE,
		  .prot = PROT_READ | PROT_WRITE },
		{ .kind = LIVEMIG_UNMAP, .addr = place + 2 * LENGTH, .length = LENGTH },
	};
	unsigned int done;

	subject_stop(&subject);
	require(!run_batch(subject.pidfd, ops, 5, &done) && done == 5, "%u", done);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, place, LENGTH, 8);
	require(subject_find(&subject, "100150000000", &start, &end));
	subject_end(&subject);
}

/* What either writes, the other one reads: a part of a file that is shared. */
static void map_a_shared_file(void)
{
	int descriptor = file_with_pattern(memfd_create("selftest", MFD_CLOEXEC), 11);
	struct subject subject = subject_start();
	struct livemig_op op = { .kind = LIVEMIG_MAP_FILE,
				 .flags = LIVEMIG_SHARED,
				 .addr = FREE_PLACE(1),
				 .length = LENGTH,
				 .prot = PROT_READ | PROT_WRITE,
				 .fd = descriptor,
				 .offset = LENGTH };
	char *own;

	require(!ftruncate(descriptor, 3 * LENGTH));
	own = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, LENGTH);
	require(own != MAP_FAILED);
	subject_stop(&subject);
	require(run_one(&subject, op) == (int64_t)op.addr);
	subject_continue(&subject);
	fill(own, LENGTH, 12);
	subject_ask(&subject, ORDER_CHECK, op.addr, LENGTH, 12);
	subject_ask(&subject, ORDER_FILL, op.addr, LENGTH, 13);
	require(holds((uint64_t *)own, LENGTH, 13));
	subject_end(&subject);
}

static void replace(void)
{
	char *place =
	    mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char *other = mmap((void *)FREE_PLACE(6), LENGTH, PROT_READ,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
	struct livemig_op op = move_op((uint64_t)place, LENGTH, (uint64_t)other);
	struct subject subject;

	fill(place, LENGTH, 9);
	subject = subject_start();
	subject_stop(&subject);
	require(run_one(&subject, op) == -EEXIST);
	op.flags = LIVEMIG_REPLACE;
	require(run_one(&subject, op) == (int64_t)other);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_CHECK, (uint64_t)other, LENGTH, 9);
	subject_end(&subject);
}

/* The kernel moves them as a whole, whatever part of one it is asked to move. */
static void hugetlb(void)
{
	uint64_t to = FREE_PLACE(1);
	struct subject subject;
	struct livemig_op op;
	char *place;
	int pages = read_number("/proc/sys/vm/nr_hugepages");

	write_number("/proc/sys/vm/nr_hugepages", pages + 4);
	place = mmap(NULL, HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB,
		     -1, 0);
	require(place != MAP_FAILED);
	fill(place, LENGTH, 10);
	subject = subject_start();
	op = move_op((uint64_t)place, PAGE, to);
	subject_stop(&subject);
	require(run_one(&subject, op) == -EINVAL, "a part");
	op = move_op((uint64_t)place, HUGE, to);
	op.new_length = PAGE;
	require(run_one(&subject, op) == -EINVAL, "to a part");
	op.new_length = HUGE;
	require(run_one(&subject, op) == (int64_t)to);
	subject_continue(&subject);
	subject_ask(&subject, ORDER_READ, to, LENGTH, 10);
	subject_end(&subject);
	munmap(place, HUGE);
	write_number("/proc/sys/vm/nr_hugepages", pages);
}

const struct test moves[] = { { "anonymous", anonymous },
			      { "huge", huge },
			      { "private_file", private_file },
			      { "read_only_file", read_only_file },
			      { "shared_file", shared_file },
			      { "memfd", memfd },
			      { "stack", stack },
			      { "heap", heap },
			      { "vdso", vdso },
			      { "grow_and_shrink", grow_and_shrink },
			      { "map_and_unmap", map_and_unmap },
			      { "map_a_shared_file", map_a_shared_file },
			      { "replace", replace },
			      { "hugetlb", hugetlb },
			      { 0 } };
