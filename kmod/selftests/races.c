// SPDX-License-Identifier: GPL-2.0
/* What happens at the same time: other callers, deaths, an attempt to unload. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "subject.h"
#include "tests.h"

#define OPS 64
#define DEATHS 100
#define KTHREADD 2
#define WATCHED (64 * PAGE) /* more than a vDSO has */

static void make_ops(struct livemig_op *ops)
{
	unsigned int i;

	for (i = 0; i < OPS; i++) {
		ops[i] = (struct livemig_op){ .kind = i % 2 ? LIVEMIG_UNMAP : LIVEMIG_MAP,
					      .addr = FREE_PLACE(1),
					      .length = 64 * PAGE,
					      .prot = i % 2 ? 0 : PROT_READ | PROT_WRITE };
	}
}

struct rival {
	const struct subject *subject;
	atomic_bool begun;
	atomic_bool over;
};

static void *try_too(void *argument)
{
	struct rival *rival = argument;
	struct livemig_op ops[OPS];

	while (!atomic_load(&rival->over)) {
		make_ops(ops);
		require(run_batch(rival->subject->pidfd, ops, OPS, NULL) == -EPERM);
	}
	return NULL;
}

static void two_callers(void)
{
	struct subject subject = subject_start();
	struct rival rival = { .subject = &subject };
	struct livemig_op ops[OPS];
	pthread_t thread;
	unsigned int i, done;

	subject_stop(&subject);
	require(!pthread_create(&thread, NULL, try_too, &rival));
	for (i = 0; i < 200; i++) {
		make_ops(ops);
		require(!run_batch(subject.pidfd, ops, OPS, &done) && done == OPS);
	}
	atomic_store(&rival.over, true);
	require(!pthread_join(thread, NULL));
	subject_continue(&subject);
	subject_ask(&subject, ORDER_STACK, 0, 0, 0);
	subject_end(&subject);
}

static void nap(unsigned int microseconds)
{
	nanosleep(&(struct timespec){ .tv_nsec = microseconds * 1000L }, NULL);
}

/* Calls of one process, which another one may look at; those that failed do not end. */
struct calls {
	atomic_uint begun;
	atomic_uint ended;
};

static struct calls *common_calls(void)
{
	struct calls *calls =
	    mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	require(calls != MAP_FAILED);
	return calls;
}

/* Returns also how many operations of a call that did not fail were carried out. */
static int call(struct calls *calls, const struct subject *subject, unsigned int *done)
{
	struct livemig_op ops[OPS];
	int result;

	make_ops(ops);
	atomic_fetch_add(&calls->begun, 1);
	result = run_batch(subject->pidfd, ops, OPS, done);
	if (!result)
		atomic_fetch_add(&calls->ended, 1);
	require(result || *done == OPS || ops[*done].result == -ESRCH);
	return result;
}

static bool within_call(const struct calls *calls)
{
	return atomic_load(&calls->begun) > atomic_load(&calls->ended);
}

/* Return a while after the first call has ended, so that later ones are on their way. */
static void await_calls(const struct calls *calls, unsigned int microseconds)
{
	unsigned int i;

	for (i = 0; !atomic_load(&calls->ended); i++) {
		require(i < 100000, "no call ends");
		nap(100);
	}
	nap(microseconds);
}

struct victim {
	const struct subject *subject;
	struct calls calls;
	bool within;
};

static void *kill_soon(void *argument)
{
	struct victim *victim = argument;

	await_calls(&victim->calls, (unsigned int)victim->subject->pid * 37 % 3000);
	victim->within = within_call(&victim->calls);
	kill(victim->subject->pid, SIGKILL);
	return NULL;
}

static void the_target_dies(void)
{
	unsigned int i, within = 0, early = 0;

	for (i = 0; i < DEATHS; i++) {
		struct subject subject = subject_start();
		struct victim victim = { .subject = &subject };
		pthread_t thread;
		unsigned int done;
		int result;

		subject_stop(&subject);
		require(!pthread_create(&thread, NULL, kill_soon, &victim));
		do {
			result = call(&victim.calls, &subject, &done);
			early += !result && done < OPS;
		} while (!result);
		require(result == -ESRCH || result == -EPERM, "%d", result);
		require(victim.calls.ended, "the first call failed: %d", result);
		require(!pthread_join(thread, NULL));
		within += victim.within;
		subject_end(&subject);
	}
	require(within >= DEATHS / 2, "only %u died during a call", within);
	require(early, "nothing was spared");
}

static _Noreturn void call_for_ever(const struct subject *subject, struct calls *calls)
{
	unsigned int done;

	subject_stop(subject);
	while (1)
		require(!call(calls, subject, &done) && done == OPS);
}

static void the_caller_dies(void)
{
	struct subject subject = subject_start();
	unsigned int i, within = 0;

	device();
	for (i = 0; i < DEATHS; i++) {
		struct livemig_op op = { .kind = LIVEMIG_UNMAP,
					 .addr = FREE_PLACE(1),
					 .length = 64 * PAGE };
		struct calls *calls = common_calls();
		pid_t caller = fork();

		if (!caller)
			call_for_ever(&subject, calls);
		await_calls(calls, i * 53 % 3000);
		kill(caller, SIGKILL);
		require(waitpid(caller, NULL, 0) == caller);
		within += within_call(calls);
		munmap(calls, PAGE);
		subject_ask(&subject, ORDER_STACK, 0, 0, 0);
		subject_stop(&subject);
		require(run_one(&subject, op) == (int64_t)FREE_PLACE(1));
		subject_continue(&subject);
	}
	require(within >= DEATHS / 2, "only %u died during a call", within);
	subject_end(&subject);
}

/* Where it is to say which process is changed, by somebody who can then kill it. */
static pid_t *common_pid(void)
{
	pid_t *pid = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	require(pid != MAP_FAILED);
	return pid;
}

/*
 * Have unmapped, as an operation of a kind does, what the subject is to be told of by a
 * userfaultfd, which it never listens to.
 */
static _Noreturn void unmap_what_is_watched(pid_t *pid, enum livemig_kind kind)
{
	char *own = mmap(NULL, WATCHED, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct livemig_op op = { .kind = LIVEMIG_UNMAP, .addr = (uint64_t)own, .length = WATCHED };
	struct subject subject = subject_start();

	if (kind == LIVEMIG_MOVE_VDSO)
		op = (struct livemig_op){ .kind = kind,
					  .flags = LIVEMIG_REPLACE,
					  .new_addr = (uint64_t)own };
	subject_ask(&subject, ORDER_WATCH, (uint64_t)own, WATCHED, 0);
	subject_stop(&subject);
	*pid = subject.pid;
	_exit(run_one(&subject, op) != (int64_t)own);
}

static char state_of(pid_t pid)
{
	char path[32], state = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	file = fopen(path, "re");
	require(file && fscanf(file, "%*d (%*[^)]) %c", &state) == 1);
	fclose(file);
	return state;
}

/* Return once a process has waited in the kernel for half a second. */
static void await_wait(pid_t pid)
{
	unsigned int i, waits = 0;

	for (i = 0; waits < 500; i++) {
		waits = state_of(pid) == 'D' ? waits + 1 : 0;
		require(i < 20000, "it does not wait");
		nap(1000);
	}
}

static bool ends(pid_t pid, int *status)
{
	unsigned int i;

	for (i = 0; i < 10000; i++) {
		if (waitpid(pid, status, WNOHANG) == pid)
			return true;
		nap(1000);
	}
	return false;
}

/* An operation that waits for somebody ends with the caller, or with the target. */
static int death_within(enum livemig_kind kind, bool of_the_target)
{
	pid_t *subject = common_pid(), caller = (device(), fork());
	int status = 0;
	bool ended;

	if (!caller)
		unmap_what_is_watched(subject, kind);
	await_wait(caller);
	kill(of_the_target ? *subject : caller, SIGKILL);
	ended = ends(caller, &status);
	kill(*subject, SIGKILL); /* or nothing would ever end them */
	require(ended);
	return status;
}

static void the_caller_dies_within(void)
{
	int status = death_within(LIVEMIG_UNMAP, false);

	require(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void the_target_dies_within(void)
{
	require(death_within(LIVEMIG_UNMAP, true) == 0);
}

static void the_caller_dies_within_a_move_of_the_vdso(void)
{
	int status = death_within(LIVEMIG_MOVE_VDSO, false);

	require(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
}

static void the_target_dies_within_a_move_of_the_vdso(void)
{
	require(death_within(LIVEMIG_MOVE_VDSO, true) == 0);
}

static void run_on_cpu(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	require(!sched_setaffinity(pid, sizeof(set), &set));
}

static long long nanos(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/*
 * Keep kthreadd, which makes all threads of the kernel, from running: for less than the 0.95 s
 * after which the kernel itself sees to it (sched_rt_runtime_us).
 */
static void *starve_kthreadd(void *argument)
{
	const struct sched_param param = { .sched_priority = 1 };
	struct rival *rival = argument;
	long long until = nanos() + 900000000LL;

	run_on_cpu(0, 0);
	run_on_cpu(KTHREADD, 0);
	require(!sched_setscheduler(0, SCHED_FIFO, &param));
	atomic_store(&rival->begun, true);
	while (!atomic_load(&rival->over) && nanos() < until)
		;
	return NULL;
}

/* Start a process that stops the subject, writes a byte, reads one, and calls. */
static pid_t start_caller(const struct subject *subject, int *descriptor)
{
	struct calls calls = { 0 };
	unsigned int done;
	int ends[2];
	char byte = 0;
	pid_t caller;

	device();
	require(!socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends));
	caller = fork();
	if (!caller) {
		subject_stop(subject);
		require(write(ends[1], &byte, 1) == 1 && read(ends[1], &byte, 1) == 1);
		_exit(!!call(&calls, subject, &done));
	}
	require(read(ends[0], &byte, 1) == 1);
	*descriptor = ends[0];
	return caller;
}

/* Have a caller begin to wait for a thread, and kill it; return how it is seen to end. */
static int kill_while_it_waits(const struct rival *rival, pid_t caller, int descriptor)
{
	int status;

	while (!atomic_load(&rival->begun))
		nap(100);
	require(write(descriptor, "", 1) == 1);
	while (!strchr("Dt", state_of(caller))) /* or it is at its end already, where it stops */
		nap(100);
	kill(caller, SIGKILL);
	require(waitpid(caller, &status, __WALL) == caller);
	return status;
}

/* Whether a call was cut short. Only a tracer sees what it returns to who is killed in it. */
static bool cut_short(const struct subject *subject)
{
	struct rival rival = { .subject = subject };
	struct user_regs_struct registers;
	cpu_set_t usual;
	pthread_t starver;
	int descriptor, status;
	pid_t caller = start_caller(subject, &descriptor);

	require(!sched_getaffinity(KTHREADD, sizeof(usual), &usual));
	run_on_cpu(caller, 1);
	require(!ptrace(PTRACE_SEIZE, caller, 0, PTRACE_O_TRACEEXIT | PTRACE_O_EXITKILL));
	require(!pthread_create(&starver, NULL, starve_kthreadd, &rival));
	status = kill_while_it_waits(&rival, caller, descriptor);
	atomic_store(&rival.over, true);
	require(!pthread_join(starver, NULL));
	require(!sched_setaffinity(KTHREADD, sizeof(usual), &usual));
	require(status >> 8 == (SIGTRAP | PTRACE_EVENT_EXIT << 8), "%#x", status);
	require(!ptrace(PTRACE_GETREGS, caller, 0, &registers));
	require(!ptrace(PTRACE_CONT, caller, 0, 0) && waitpid(caller, &status, __WALL) == caller);
	close(descriptor);
	return registers.orig_rax == SYS_ioctl && registers.rax == (unsigned long long)-EINTR;
}

/* Before there is a thread for it: nothing is done. A busy machine may let kthreadd run in time. */
static void the_caller_dies_before_it_begins(void)
{
	struct subject subject = subject_start();
	unsigned int tries = 0;
	uint64_t start, end;

	if (sysconf(_SC_NPROCESSORS_ONLN) < 2)
		skip();
	run_on_cpu(0, 1);
	while (!cut_short(&subject))
		require(++tries < 5, "no call was cut short");
	subject_ask(&subject, ORDER_STACK, 0, 0, 0);
	require(!subject_find(&subject, "100040000000", &start, &end));
	subject_end(&subject);
}

static void not_unloaded_in_use(void)
{
	device();
	require(syscall(SYS_delete_module, "livemig", O_NONBLOCK) && errno == EWOULDBLOCK);
}

const struct test races[] = {
	{ "two_callers", two_callers },
	{ "the_target_dies", the_target_dies },
	{ "the_caller_dies", the_caller_dies },
	{ "the_caller_dies_within", the_caller_dies_within },
	{ "the_target_dies_within", the_target_dies_within },
	{ "the_caller_dies_within_a_move_of_the_vdso", the_caller_dies_within_a_move_of_the_vdso },
	{ "the_target_dies_within_a_move_of_the_vdso", the_target_dies_within_a_move_of_the_vdso },
	{ "the_caller_dies_before_it_begins", the_caller_dies_before_it_begins },
	{ "not_unloaded_in_use", not_unloaded_in_use },
	{ 0 }
};
