// SPDX-License-Identifier: GPL-2.0
#include <linux/pid.h>
#include <linux/ptrace.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "target.h"

/*
 * Modules cannot take tasklist_lock. So a caller that is the parent of what another one traces may
 * pass for its tracer, in the instant in which that one lets it go; it could attach in the next.
 */
static bool held_by_caller(struct task_struct *thread)
{
	if (READ_ONCE(thread->exit_state))
		return true;
	return thread->ptrace && thread->parent == current && task_is_traced(thread);
}

static bool all_held_by_caller(struct task_struct *task)
{
	struct task_struct *thread;
	bool held = true;

	rcu_read_lock();
	for_each_thread(task, thread)
		held = held && held_by_caller(thread);
	rcu_read_unlock();
	return held;
}

/* Its own threads are stopped, so nobody can begin to share it while we look. */
static bool shared(struct mm_struct *mm, struct task_struct *task)
{
	struct task_struct *process, *thread;
	bool found = false;

	rcu_read_lock();
	for_each_process_thread(process, thread) {
		if (same_thread_group(thread, task) || thread->flags & PF_KTHREAD)
			continue;
		found = found || READ_ONCE(thread->mm) == mm;
	}
	rcu_read_unlock();
	return found;
}

static int check(const struct livemig_target *target)
{
	if (test_tsk_thread_flag(target->task, TIF_ADDR32))
		return -EOPNOTSUPP;
	if (!all_held_by_caller(target->task))
		return -EPERM;
	/* It may have executed a program since we looked. It is held by now, so that it cannot. */
	if (READ_ONCE(target->task->mm) != target->mm)
		return -ESRCH;
	if (shared(target->mm, target->task))
		return -EBUSY;
	return 0;
}

int livemig_target_get(struct livemig_target *target, int pidfd)
{
	unsigned int flags;
	int error;

	target->task = pidfd_get_task(pidfd, &flags);
	if (IS_ERR(target->task))
		return PTR_ERR(target->task);
	target->mm = mm_access(target->task, PTRACE_MODE_ATTACH_REALCREDS);
	if (IS_ERR_OR_NULL(target->mm)) {
		error = target->mm ? PTR_ERR(target->mm) : -ESRCH;
		goto out_task;
	}
	error = check(target);
	if (error)
		goto out_mm;
	return 0;
out_mm:
	mmput(target->mm);
out_task:
	put_task_struct(target->task);
	return error;
}

void livemig_target_put(struct livemig_target *target)
{
	mmput(target->mm);
	put_task_struct(target->task);
}
