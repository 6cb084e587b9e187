// SPDX-License-Identifier: GPL-2.0
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "subject.h"

struct message {
	enum order order;
	uint64_t addr;
	size_t length;
	uint64_t seed;
};

void require_at(const char *file, int line, bool condition, const char *text, const char *format,
		...)
{
	va_list arguments;

	if (condition)
		return;
	fprintf(stderr, "%s:%d: %s (errno %d) ", file, line, text, errno);
	va_start(arguments, format);
	vfprintf(stderr, format, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	_exit(1);
}

static uint64_t word(uint64_t seed, uint64_t index)
{
	uint64_t value = seed * 0x9e3779b97f4a7c15ULL + index * 0xbf58476d1ce4e5b9ULL;

	return value ^ (value >> 29);
}

void fill(void *place, size_t length, uint64_t seed)
{
	uint64_t *words = place;
	size_t i;

	for (i = 0; i < length / sizeof(*words); i++)
		words[i] = word(seed, i);
}

bool holds(const volatile uint64_t *words, size_t length, uint64_t seed)
{
	size_t i;

	for (i = 0; i < length / sizeof(*words); i++) {
		if (words[i] != word(seed, i))
			return false;
	}
	return true;
}

static bool check(const struct message *message)
{
	volatile uint64_t *words = (void *)message->addr;
	size_t i, step = PAGE / sizeof(*words);

	if (!holds(words, message->length, message->seed))
		return false;
	for (i = 0; i < message->length / sizeof(*words); i += step) {
		words[i]++;
		if (words[i] != word(message->seed, i) + 1)
			return false;
		words[i]--;
	}
	return true;
}

/* clock_gettime of the vDSO whose image begins at an address. */
static int (*vdso_clock(uint64_t base))(clockid_t, struct timespec *)
{
	const Elf64_Ehdr *header = (void *)base;
	const Elf64_Phdr *segment = (void *)(base + header->e_phoff);
	const Elf64_Dyn *dynamic = NULL;
	const Elf64_Sym *symbols = NULL;
	const char *strings = NULL;
	const uint32_t *hash = NULL;
	uint32_t i;

	for (i = 0; i < header->e_phnum; i++) {
		if (segment[i].p_type == PT_DYNAMIC)
			dynamic = (void *)(base + segment[i].p_offset);
	}
	for (; dynamic->d_tag != DT_NULL; dynamic++) {
		if (dynamic->d_tag == DT_SYMTAB)
			symbols = (void *)(base + dynamic->d_un.d_ptr);
		else if (dynamic->d_tag == DT_STRTAB)
			strings = (void *)(base + dynamic->d_un.d_ptr);
		else if (dynamic->d_tag == DT_HASH)
			hash = (void *)(base + dynamic->d_un.d_ptr);
	}
	for (i = 0; hash && i < hash[1]; i++) {
		if (!strcmp(strings + symbols[i].st_name, "__vdso_clock_gettime"))
			return (void *)(base + symbols[i].st_value);
	}
	return NULL;
}

static bool clock_is_right(uint64_t base)
{
	int (*told)(clockid_t, struct timespec *) = vdso_clock(base);
	struct timespec before, here, after;

	if (!told)
		return false;
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &before);
	if (told(CLOCK_MONOTONIC, &here))
		return false;
	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &after);
#define NANOS(t) ((t).tv_sec * 1000000000LL + (t).tv_nsec)
	return NANOS(before) <= NANOS(here) && NANOS(here) <= NANOS(after);
}

static __attribute__((noinline)) bool deep(unsigned int depth)
{
	volatile char room[PAGE];

	memset((char *)room, (int)depth, sizeof(room));
	return (!depth || deep(depth - 1)) && room[PAGE / 2] == (char)depth;
}

static bool use_heap(void)
{
	char *parts[64];
	size_t i;
	bool good = true;

	for (i = 0; i < 64; i++) {
		parts[i] = malloc(60000);
		memset(parts[i], (int)i, 60000);
	}
	for (i = 0; i < 64; i++) {
		good = good && parts[i][59999] == (char)i;
		free(parts[i]);
	}
	return good;
}

static bool watch(const struct message *message)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_UNMAP };
	struct uffdio_register area = { .range = { message->addr, message->length },
					.mode = UFFDIO_REGISTER_MODE_MISSING };
	int descriptor = (int)syscall(SYS_userfaultfd, O_CLOEXEC);

	return descriptor >= 0 && !ioctl(descriptor, UFFDIO_API, &api) &&
	       !ioctl(descriptor, UFFDIO_REGISTER, &area);
}

/* One that looks for work by itself; it lasts as long as the ring. */
static bool start_worker(void)
{
	struct io_uring_params params = { .flags = IORING_SETUP_SQPOLL };

	return syscall(SYS_io_uring_setup, 1, &params) >= 0;
}

static bool obey(const struct message *message)
{
	switch (message->order) {
	case ORDER_FILL:
		fill((void *)message->addr, message->length, message->seed);
		return true;
	case ORDER_CHECK:
		return check(message);
	case ORDER_READ:
		return holds((void *)message->addr, message->length, message->seed);
	case ORDER_CLOCK:
		return clock_is_right(message->addr);
	case ORDER_STACK:
		return deep(100);
	case ORDER_HEAP:
		return use_heap();
	case ORDER_LOCK:
		return !mlock((void *)message->addr, message->length);
	case ORDER_RING:
		return start_worker();
	case ORDER_WATCH:
		return watch(message);
	}
	return false;
}

static _Noreturn void live(int orders, int answers)
{
	struct message message;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (read(orders, &message, sizeof(message)) == sizeof(message)) {
		bool good = obey(&message);

		if (write(answers, &good, sizeof(good)) != sizeof(good))
			break;
	}
	_exit(0);
}

struct subject subject_start(void)
{
	struct subject subject;
	int orders[2], answers[2];

	require(!pipe2(orders, O_CLOEXEC) && !pipe2(answers, O_CLOEXEC));
	subject.pid = fork();
	require(subject.pid >= 0);
	if (!subject.pid) {
		close(orders[1]);
		close(answers[0]);
		live(orders[0], answers[1]);
	}
	close(orders[0]);
	close(answers[1]);
	subject.orders = orders[1];
	subject.answers = answers[0];
	subject.pidfd = (int)syscall(SYS_pidfd_open, subject.pid, 0);
	require(subject.pidfd >= 0);
	return subject;
}

void subject_ask(const struct subject *subject, enum order order, uint64_t addr, size_t length,
		 uint64_t seed)
{
	const struct message message = { order, addr, length, seed };
	bool good = false;

	require(write(subject->orders, &message, sizeof(message)) == sizeof(message));
	require(read(subject->answers, &good, sizeof(good)) == sizeof(good), "the subject died");
	require(good, "order %d at %#lx", order, addr);
}

void subject_stop(const struct subject *subject)
{
	int status;

	require(!ptrace(PTRACE_SEIZE, subject->pid, 0, 0));
	require(!ptrace(PTRACE_INTERRUPT, subject->pid, 0, 0));
	require(waitpid(subject->pid, &status, __WALL) == subject->pid);
	require(WIFSTOPPED(status));
}

void subject_continue(const struct subject *subject)
{
	require(!ptrace(PTRACE_DETACH, subject->pid, 0, 0));
}

void subject_end(struct subject *subject)
{
	kill(subject->pid, SIGKILL);
	require(waitpid(subject->pid, NULL, __WALL) == subject->pid);
	close(subject->pidfd);
	close(subject->orders);
	close(subject->answers);
}

bool subject_find(const struct subject *subject, const char *name, uint64_t *start, uint64_t *end)
{
	char path[64], line[512];
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", subject->pid);
	maps = fopen(path, "re");
	require(maps);
	while (!found && fgets(line, sizeof(line), maps)) {
		line[strcspn(line, "\n")] = 0;
		found = strstr(line, name) && sscanf(line, "%lx-%lx", start, end) == 2;
	}
	fclose(maps);
	return found;
}

int device(void)
{
	static int descriptor = -1;

	if (descriptor < 0)
		descriptor = open(LIVEMIG_DEVICE, O_RDWR | O_CLOEXEC);
	require(descriptor >= 0);
	return descriptor;
}

int run_batch(int pidfd, struct livemig_op *ops, unsigned int count, unsigned int *done)
{
	struct livemig_batch batch = { .pidfd = pidfd, .count = count, .ops = (uint64_t)ops };
	int result = ioctl(device(), LIVEMIG_RUN, &batch) ? -errno : 0;

	if (done)
		*done = batch.done;
	return result;
}

struct livemig_op map_page(uint64_t addr)
{
	return (struct livemig_op){
		.kind = LIVEMIG_MAP, .addr = addr, .length = PAGE, .prot = PROT_READ
	};
}

int64_t run_one(const struct subject *subject, struct livemig_op op)
{
	unsigned int done;

	require(!run_batch(subject->pidfd, &op, 1, &done));
	require(done == (op.result >= 0));
	return op.result;
}
