// SPDX-License-Identifier: GPL-2.0
/* What makes a call fail as a whole: who may not, what is none, what is not to be had. */
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "files.h"
#include "subject.h"
#include "tests.h"

#define NARROW_PLACE 0x10000
#define NARROW_GETPID 20 /* their numbers for programs of 32 bits */
#define NARROW_IOCTL 54
#define THREADS_MAX "/proc/sys/kernel/threads-max"
#define FAILSLAB "/sys/kernel/debug/failslab"

static int run_map(const struct subject *subject)
{
	struct livemig_op op = map_page(FREE_PLACE(1));

	return run_batch(subject->pidfd, &op, 1, NULL);
}

static void not_traced(void)
{
	struct subject subject = subject_start();

	require(run_map(&subject) == -EPERM);
	require(!ptrace(PTRACE_SEIZE, subject.pid, 0, 0));
	require(run_map(&subject) == -EPERM, "traced, but it runs");
	subject_end(&subject);
}

static void *run_map_in_thread(void *subject)
{
	return (void *)(long)run_map(subject);
}

static void traced_by_another_thread(void)
{
	struct subject subject = subject_start();
	pthread_t thread;
	void *result;

	subject_stop(&subject);
	require(!pthread_create(&thread, NULL, run_map_in_thread, &subject));
	require(!pthread_join(thread, &result));
	require((long)result == -EPERM);
	require(!run_map(&subject));
	subject_end(&subject);
}

static int pause_for_ever(void *unused)
{
	(void)unused;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (1)
		pause();
	return 0;
}

static void one_thread_runs(void)
{
	char *stack =
	    mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct subject subject = { 0 };
	int ready[2];
	char byte;

	require(!pipe(ready));
	subject.pid = fork();
	if (!subject.pid) {
		require(clone(pause_for_ever, stack + (1 << 16),
			      CLONE_VM | CLONE_THREAD | CLONE_SIGHAND | CLONE_FS | CLONE_FILES,
			      NULL) > 0);
		require(write(ready[1], "r", 1) == 1);
		pause_for_ever(NULL);
	}
	subject.pidfd = (int)syscall(SYS_pidfd_open, subject.pid, 0);
	require(read(ready[0], &byte, 1) == 1);
	subject_stop(&subject); /* its first thread alone */
	require(run_map(&subject) == -EPERM);
	kill(subject.pid, SIGKILL);
	waitpid(subject.pid, NULL, __WALL);
}

static void shared_memory_of_another_process(void)
{
	char *stack =
	    mmap(NULL, 1 << 16, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct subject subject = { 0 };

	subject.pid = clone(pause_for_ever, stack + (1 << 16), CLONE_VM | SIGCHLD, NULL);
	subject.pidfd = (int)syscall(SYS_pidfd_open, subject.pid, 0);
	subject_stop(&subject);
	require(run_map(&subject) == -EBUSY);
	kill(subject.pid, SIGKILL);
	waitpid(subject.pid, NULL, __WALL);
}

static void not_ours_to_trace(void)
{
	struct subject subject = subject_start();
	int status;
	pid_t caller;

	device(); /* open already: its mode alone would keep the caller out */
	caller = fork();
	if (!caller) {
		require(!setresgid(NOBODY, NOBODY, NOBODY) && !setresuid(NOBODY, NOBODY, NOBODY));
		require(open(LIVEMIG_DEVICE, O_RDWR) < 0 && errno == EACCES);
		require(run_map(&subject) == -EACCES);
		_exit(0);
	}
	require(waitpid(caller, &status, 0) == caller && !status);
	subject_end(&subject);
}

static void no_process(void)
{
	struct subject subject = subject_start();
	struct livemig_op op = map_page(FREE_PLACE(1));

	require(run_batch(-1, &op, 1, NULL) == -EBADF);
	require(run_batch(device(), &op, 1, NULL) == -EBADF);
	kill(subject.pid, SIGKILL);
	require(waitid(P_PID, (id_t)subject.pid, &(siginfo_t){ 0 }, WEXITED | WNOWAIT) == 0);
	require(run_map(&subject) == -ESRCH);
	subject_end(&subject);
	subject.pidfd = -1;
}

static void batches(void)
{
	struct subject subject = subject_start();
	struct livemig_op op = map_page(FREE_PLACE(1));
	struct livemig_batch batch = { .pidfd = subject.pidfd, .count = 1, .ops = (uint64_t)&op };
	struct livemig_info info;

	subject_stop(&subject);
	require(run_batch(subject.pidfd, &op, 0, NULL) == -EINVAL);
	require(run_batch(subject.pidfd, &op, LIVEMIG_MAX_OPS + 1, NULL) == -E2BIG);
	require(run_batch(subject.pidfd, NULL, 1, NULL) == -EFAULT);
	require(ioctl(device(), LIVEMIG_RUN, NULL) && errno == EFAULT);
	require(ioctl(device(), LIVEMIG_INFO, NULL) && errno == EFAULT);
	require(ioctl(device(), _IO('l', 0xe2), NULL) && errno == ENOTTY);
	batch.reserved = 1;
	require(ioctl(device(), LIVEMIG_RUN, &batch) && errno == EINVAL);
	require(!ioctl(device(), LIVEMIG_INFO, &info));
	require(info.version == LIVEMIG_VERSION && info.max_ops == LIVEMIG_MAX_OPS);
	require(info.features == 0x3e);
	subject_end(&subject);
}

/* A program of 32 bits, which only waits. */
static int narrow_program(void)
{
	static const struct {
		Elf32_Ehdr header;
		Elf32_Phdr segment;
		unsigned char code[9];
	} image = {
		.header = { .e_ident = { ELFMAG0, ELFMAG1, ELFMAG2, ELFMAG3, ELFCLASS32,
					 ELFDATA2LSB, EV_CURRENT },
			    .e_type = ET_EXEC,
			    .e_machine = EM_386,
			    .e_version = EV_CURRENT,
			    .e_entry = NARROW_PLACE + sizeof(Elf32_Ehdr) + sizeof(Elf32_Phdr),
			    .e_phoff = sizeof(Elf32_Ehdr),
			    .e_ehsize = sizeof(Elf32_Ehdr),
			    .e_phentsize = sizeof(Elf32_Phdr),
			    .e_phnum = 1 },
		.segment = { .p_type = PT_LOAD,
			     .p_vaddr = NARROW_PLACE,
			     .p_filesz = sizeof(image),
			     .p_memsz = sizeof(image),
			     .p_flags = PF_R | PF_X,
			     .p_align = PAGE },
		/* again: mov $__NR_pause, %eax; int $0x80; jmp again */
		.code = { 0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7 },
	};
	int descriptor = memfd_create("narrow", MFD_CLOEXEC);

	require(write(descriptor, &image, sizeof(image)) == (ssize_t)sizeof(image));
	return descriptor;
}

static void of_32_bits(void)
{
	char *const none[] = { "narrow", NULL };
	struct subject subject = { .pid = fork() };
	int status;

	if (!subject.pid) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		ptrace(PTRACE_TRACEME, 0, 0, 0);
		fexecve(narrow_program(), none, none);
		_exit(errno == ENOEXEC ? 0 : 1);
	}
	require(waitpid(subject.pid, &status, 0) == subject.pid);
	if (WIFEXITED(status) && !WEXITSTATUS(status))
		skip(); /* without CONFIG_IA32_EMULATION */
	require(WIFSTOPPED(status), "%#x", status);
	subject.pidfd = (int)syscall(SYS_pidfd_open, subject.pid, 0);
	require(run_map(&subject) == -EOPNOTSUPP);
	kill(subject.pid, SIGKILL);
	waitpid(subject.pid, NULL, __WALL);
}

/* A system call as programs of 32 bits make it. */
static long narrow_call(long number, long first, long second, long third)
{
	long result;

	asm volatile("int $0x80"
		     : "=a"(result)
		     : "a"(number), "b"(first), "c"(second), "d"(third)
		     : "memory", "r8", "r9", "r10", "r11");
	return result;
}

/* Without CONFIG_IA32_EMULATION it is no call, but a fault. */
static bool has_narrow_calls(void)
{
	int status;
	pid_t child = fork();

	if (!child)
		_exit(narrow_call(NARROW_GETPID, 0, 0, 0) != getpid());
	require(waitpid(child, &status, 0) == child && !WEXITSTATUS(status));
	return WIFEXITED(status);
}

static void by_32_bits(void)
{
	struct livemig_info *info = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
					 MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);

	if (!has_narrow_calls())
		skip();
	require(!ioctl(device(), LIVEMIG_INFO, info) && info->version == LIVEMIG_VERSION);
	require(narrow_call(NARROW_IOCTL, device(), (long)LIVEMIG_INFO, (long)info) == -ENOTTY);
	require(narrow_call(NARROW_IOCTL, device(), (long)LIVEMIG_RUN, (long)info) == -ENOTTY);
}

static void with_a_worker_of_io_uring(void)
{
	struct subject subject = subject_start();

	subject_ask(&subject, ORDER_RING, 0, 0, 0);
	subject_stop(&subject);
	require(run_map(&subject) == -EPERM);
	subject_end(&subject);
}

static void no_thread_to_be_had(void)
{
	struct subject subject = subject_start();
	long most = read_number(THREADS_MAX);
	int result;

	subject_stop(&subject);
	write_number(THREADS_MAX, 20); /* the least that it takes */
	result = run_map(&subject);
	write_number(THREADS_MAX, most);
	require(result == -EAGAIN, "%d", result);
	require(!run_map(&subject));
	subject_end(&subject);
}

/*
 * Each allocation that the caller makes fails in turn: fault-injection.rst, fail-nth. The kernel
 * can do without some of them, which only tell who pays for others.
 */
static void no_memory_to_be_had(void)
{
	struct subject subject = subject_start();
	int descriptor = open("/proc/thread-self/fail-nth", O_RDWR | O_CLOEXEC), result;
	unsigned int nth = 0, refused = 0;
	char left[4] = "";

	if (descriptor < 0 || access(FAILSLAB, F_OK))
		skip(); /* without CONFIG_FAILSLAB */
	write_text(FAILSLAB "/verbose", "0");
	write_text(FAILSLAB "/ignore-gfp-wait", "N");
	device(); /* opened before */
	subject_stop(&subject);
	do {
		require(dprintf(descriptor, "%u", ++nth) > 0);
		result = run_map(&subject);
		require(pread(descriptor, left, sizeof(left), 0) > 0);
		require(pwrite(descriptor, "0", 1, 0) == 1);
		require(!result || (result == -ENOMEM && *left == '0'), "%u: %d", nth, result);
		refused += !!result;
	} while (*left == '0');
	require(refused >= 2, "only %u of %u", refused, nth - 1);
	write_text(FAILSLAB "/ignore-gfp-wait", "Y");
	subject_end(&subject);
}

/* Files that a batch names are let go, however it ends. A lock tells: it lasts as they do. */
static void no_file_is_kept(void)
{
	struct subject subject = subject_start();
	int named = open("/var/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600), again;
	char path[64];
	struct livemig_op file = { .kind = LIVEMIG_MAP_FILE,
				   .addr = FREE_PLACE(2),
				   .length = PAGE,
				   .prot = PROT_READ,
				   .fd = named };
	struct livemig_op ops[] = { file, map_page(1), file };
	struct livemig_op unmap = { .kind = LIVEMIG_UNMAP, .addr = file.addr, .length = PAGE };
	unsigned int i, done;

	require(named >= 0 && !flock(named, LOCK_EX));
	snprintf(path, sizeof(path), "/proc/self/fd/%d", named);
	again = open(path, O_RDWR | O_CLOEXEC);
	require(again >= 0 && flock(again, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK);
	require(run_batch(-1, ops, 3, NULL) == -EBADF);
	require(run_batch(subject.pidfd, ops, 3, NULL) == -EPERM, "not traced");
	subject_stop(&subject);
	require(!run_batch(subject.pidfd, ops, 3, &done) && done == 1);
	require(!run_batch(subject.pidfd, ops, 3, &done) && !done, "occupied");
	require(run_one(&subject, unmap) == (int64_t)unmap.addr);
	close(named);
	for (i = 0; flock(again, LOCK_EX | LOCK_NB); i++) {
		require(errno == EWOULDBLOCK && i < 10000, "something holds it");
		usleep(1000);
	}
	subject_end(&subject);
}

const struct test calls[] = { { "not_traced", not_traced },
			      { "traced_by_another_thread", traced_by_another_thread },
			      { "one_thread_runs", one_thread_runs },
			      { "shared_memory_of_another_process",
				shared_memory_of_another_process },
			      { "not_ours_to_trace", not_ours_to_trace },
			      { "no_process", no_process },
			      { "of_32_bits", of_32_bits },
			      { "by_32_bits", by_32_bits },
			      { "with_a_worker_of_io_uring", with_a_worker_of_io_uring },
			      { "batches", batches },
			      { "no_thread_to_be_had", no_thread_to_be_had },
			      { "no_memory_to_be_had", no_memory_to_be_had },
			      { "no_file_is_kept", no_file_is_kept },
			      { 0 } };
