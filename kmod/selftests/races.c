// SPDX-License-Identifier: GPL-2.0
/* What happens at the same time: other callers, deaths, an attempt to unload. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "subject.h"
#include "tests.h"

#define OPS 64
#define DEATHS 100

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

static void *kill_soon(void *argument)
{
	const struct subject *subject = argument;

	nap((unsigned int)subject->pid * 37 % 3000);
	kill(subject->pid, SIGKILL);
	return NULL;
}

static void the_target_dies(void)
{
	unsigned int i;

	for (i = 0; i < DEATHS; i++) {
		struct subject subject = subject_start();
		struct livemig_op ops[OPS];
		pthread_t thread;
		int result;

		subject_stop(&subject);
		require(!pthread_create(&thread, NULL, kill_soon, &subject));
		do {
			make_ops(ops);
			result = run_batch(subject.pidfd, ops, OPS, NULL);
		} while (!result);
		require(result == -ESRCH || result == -EPERM, "%d", result);
		require(!pthread_join(thread, NULL));
		subject_end(&subject);
	}
}

static _Noreturn void call_for_ever(const struct subject *subject)
{
	struct livemig_op ops[OPS];

	subject_stop(subject);
	while (1) {
		make_ops(ops);
		run_batch(subject->pidfd, ops, OPS, NULL);
	}
}

static void the_caller_dies(void)
{
	struct subject subject = subject_start();
	unsigned int i;

	device();
	for (i = 0; i < DEATHS; i++) {
		struct livemig_op op = { .kind = LIVEMIG_UNMAP,
					 .addr = FREE_PLACE(1),
					 .length = 64 * PAGE };
		pid_t caller = fork();

		if (!caller)
			call_for_ever(&subject);
		nap(1000 + i * 53 % 3000);
		kill(caller, SIGKILL);
		require(waitpid(caller, NULL, 0) == caller);
		subject_ask(&subject, ORDER_STACK, 0, 0, 0);
		subject_stop(&subject);
		require(run_one(&subject, op) == (int64_t)FREE_PLACE(1));
		subject_continue(&subject);
	}
	subject_end(&subject);
}

static void not_unloaded_in_use(void)
{
	device();
	require(syscall(SYS_delete_module, "livemig", O_NONBLOCK) && errno == EWOULDBLOCK);
}

const struct test races[] = { { "two_callers", two_callers },
			      { "the_target_dies", the_target_dies },
			      { "the_caller_dies", the_caller_dies },
			      { "not_unloaded_in_use", not_unloaded_in_use },
			      { 0 } };
