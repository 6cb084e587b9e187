// SPDX-License-Identifier: Apache-2.0
/* Memory of every kind: heap, stack, thread-local, protected, mapped from files, made code. */
#define _GNU_SOURCE
#include "carried.h"
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096
#define SIZE (3 << 20)
#define FEW (16 * PAGE)
#define SPARSE (1UL << 30)

static uint64_t data[512] = { 1, 2, 3 };
static uint64_t bss[4096];
static __thread uint64_t local = 0x123456789abcdefUL;
static __thread char local_zero[3000];
static void *const pointers[] = { die, fill, malloc, data }; /* relocated, then read-only */
static void *expected[4];
static char *heap, *read_only, *no_access, *zeros, *sparse, *dropped, *file_map, *shared_map;
static int (*code)(void);
static char *brk_end;
static sigjmp_buf back;

static void caught(int number)
{
	siglongjmp(back, number);
}

int faults(volatile char *place, int write)
{
	struct sigaction action = { .sa_handler = caught, .sa_flags = SA_NODEFER }, old;
	int result = 1;

	sigaction(SIGSEGV, &action, &old);
	if (!sigsetjmp(back, 1)) {
		if (write)
			*place = *place;
		else
			(void)*place;
		result = 0;
	}
	sigaction(SIGSEGV, &old, NULL);
	return result;
}

static char *map(size_t size, int prot)
{
	char *place = mmap(NULL, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	if (place == MAP_FAILED)
		die("mmap");
	return place;
}

static void heap_setup(void)
{
	heap = malloc(SIZE);
	fill(heap, SIZE, 1);
	fill(data, sizeof(data), 2);
	fill(bss, sizeof(bss), 3);
}

static int heap_verify(void)
{
	return differs(heap, SIZE, 1) || differs(data, sizeof(data), 2) ||
	       differs(bss, sizeof(bss), 3);
}

static void growth_setup(void)
{
	brk_end = sbrk(0);
}

static int growth_verify(void)
{
	char *small[64], *large;
	int bad = sbrk(0) != brk_end || sbrk(5 * PAGE) != brk_end;

	fill(brk_end, 5 * PAGE, 4);
	bad |= differs(brk_end, 5 * PAGE, 4);
	brk_end = sbrk(0);
	for (int i = 0; i < 64; i++) {
		small[i] = malloc(3000 + i);
		fill(small[i], 3000, i);
	}
	large = malloc(SIZE);
	fill(large, SIZE, 5);
	for (int i = 0; i < 64; i++) {
		bad |= differs(small[i], 3000, i);
		free(small[i]);
	}
	bad |= differs(large, SIZE, 5);
	free(large);
	brk_end = sbrk(0);
	return bad;
}

/* Each call goes deeper than the one before, so that the stack grows. */
static int depth = 200;

__attribute__((noinline)) static int descend(int left)
{
	volatile uint64_t frame[128];

	fill((void *)frame, sizeof(frame), left);
	if (left && descend(left - 1))
		return 1;
	return differs((void *)frame, sizeof(frame), left);
}

static void stack_setup(void)
{
	descend(depth);
}

static int stack_verify(void)
{
	depth += 300;
	return descend(depth);
}

static void local_setup(void)
{
	local = 0xfedcba9876543210UL;
	fill(local_zero, sizeof(local_zero), 6);
	errno = 77;
}

static int local_verify(void)
{
	return local != 0xfedcba9876543210UL || differs(local_zero, sizeof(local_zero), 6);
}

static void relro_setup(void)
{
	memcpy(expected, pointers, sizeof(expected));
	faults((char *)pointers,
	       1); /* what it does to SIGSEGV's action is done before it is noted */
}

static int relro_verify(void)
{
	return memcmp(expected, (void *)pointers, sizeof(expected)) || !faults((char *)pointers, 1);
}

static void protected_setup(void)
{
	read_only = map(FEW, PROT_READ | PROT_WRITE);
	fill(read_only, FEW, 7);
	mprotect(read_only, FEW, PROT_READ);
	no_access = map(3 * FEW, PROT_READ | PROT_WRITE);
	fill(no_access, 3 * FEW, 8);
	mprotect(no_access + FEW, FEW, PROT_NONE);
}

static int protected_verify(void)
{
	int bad = differs(read_only, FEW, 7) || !faults(read_only, 1);

	bad |= !faults(no_access + FEW, 0) || !faults(no_access + 2 * FEW - 1, 0);
	mprotect(no_access + FEW, FEW, PROT_READ | PROT_WRITE);
	bad |= differs(no_access, 3 * FEW, 8);
	mprotect(no_access + FEW, FEW, PROT_NONE);
	return bad;
}

static void code_setup(void)
{
	static const unsigned char bytes[] = { 0xb8, 42, 0, 0, 0, 0xc3 }; /* mov $42, %eax; ret */
	char *place = map(PAGE, PROT_READ | PROT_WRITE);

	memcpy(place + 100, bytes, sizeof(bytes));
	mprotect(place, PAGE, PROT_READ | PROT_EXEC);
	code = (int (*)(void))(place + 100);
}

static int code_verify(void)
{
	return code() != 42 || !faults((char *)code, 1);
}

static void sparse_setup(void)
{
	zeros = map(64 * PAGE, PROT_READ | PROT_WRITE);
	for (int i = 0; i < 64; i += 2) /* the shared zero page, and zeros of its own */
		(void)*(volatile char *)(zeros + i * PAGE);
	memset(zeros + 32 * PAGE, 0, 32 * PAGE);
	sparse = map(SPARSE, PROT_READ | PROT_WRITE);
	for (size_t at = 0; at < SPARSE; at += SPARSE / 16)
		fill(sparse + at, PAGE, at);
	dropped = map(64 * PAGE, PROT_READ | PROT_WRITE);
	fill(dropped, 64 * PAGE, 9);
	for (int i = 0; i < 64; i += 2)
		madvise(dropped + i * PAGE, PAGE, MADV_DONTNEED);
}

static int sparse_verify(void)
{
	int bad = 0;

	for (size_t at = 0; at < 64 * PAGE; at++)
		bad |= zeros[at];
	for (size_t at = 0; at < SPARSE; at += SPARSE / 16)
		bad |= differs(sparse + at, PAGE, at) || sparse[at + PAGE];
	for (int i = 0; i < 64; i += 2)
		bad |= dropped[i * PAGE] | dropped[i * PAGE + PAGE - 1];
	return bad;
}

/* A private mapping of a part of a file, one of its pages changed. */
static void file_setup(void)
{
	static char content[FEW];
	int file = open("mapped", O_RDWR | O_CREAT | O_TRUNC, 0600);

	fill(content, FEW, 10);
	if (file < 0 || write(file, content, FEW) != FEW)
		die("mapped");
	file_map = mmap(NULL, 8 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, file, 2 * PAGE);
	close(file);
	if (file_map == MAP_FAILED)
		die("mmap of a file");
	fill(file_map + 3 * PAGE, PAGE, 11);
	mprotect(file_map + 5 * PAGE, PAGE, PROT_NONE);
}

static int file_verify(void)
{
	static char content[FEW];

	fill(content, FEW, 10);
	mprotect(file_map + 5 * PAGE, PAGE, PROT_READ | PROT_WRITE);
	fill(content + 5 * PAGE, PAGE, 11);
	return memcmp(file_map, content + 2 * PAGE, 8 * PAGE) ||
	       mprotect(file_map + 5 * PAGE, PAGE, PROT_NONE);
}

/* The same file's end, shared, and open for reading alone. */
static void shared_setup(void)
{
	int file = open("mapped", O_RDONLY);

	shared_map = mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, file, 12 * PAGE);
	if (file < 0 || close(file) || shared_map == MAP_FAILED)
		die("mmap of a shared file");
}

static int shared_verify(void)
{
	static char content[FEW];

	fill(content, FEW, 10);
	if (!mprotect(shared_map, PAGE, PROT_READ | PROT_WRITE) || errno != EACCES)
		return 1;
	return memcmp(shared_map, content + 12 * PAGE, 4 * PAGE);
}

const struct item memory_items[] = {
	{ "heap", heap_setup, heap_verify },
	{ "thread-local", local_setup, local_verify },
	{ "relro", relro_setup, relro_verify },
	{ "protected", protected_setup, protected_verify },
	{ "code", code_setup, code_verify },
	{ "sparse", sparse_setup, sparse_verify },
	{ "file-mapping", file_setup, file_verify },
	{ "shared-file", shared_setup, shared_verify },
	{ "stack-growth", stack_setup, stack_verify },
	{ "heap-growth", growth_setup, growth_verify },
	{ NULL, NULL, NULL },
};
