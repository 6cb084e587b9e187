// SPDX-License-Identifier: GPL-2.0
#include <linux/completion.h>
#include <linux/cred.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>

#include "batch.h"
#include "ops.h"
#include "target.h"
#include "worker.h"

struct work {
	const struct livemig_target *target;
	struct livemig_steps *steps;
	struct task_struct *caller;
	const struct cred *cred;
	struct completion done;
};

/* The kernel looks at the limits of who maps: so the thread, which is only ours, gets the target's.
 */
static void adopt_limits(struct task_struct *target)
{
	struct rlimit limits[RLIM_NLIMITS];

	task_lock(target->group_leader);
	memcpy(limits, target->signal->rlim, sizeof(limits));
	task_unlock(target->group_leader);
	task_lock(current->group_leader);
	memcpy(current->signal->rlim, limits, sizeof(limits));
	task_unlock(current->group_leader);
}

/* Whether to go on: not for a caller that nobody hears of again, nor with memory of no owner. */
static int over(const struct work *work)
{
	if (fatal_signal_pending(work->caller))
		return -EINTR;
	return READ_ONCE(work->target->task->signal->flags) & SIGNAL_GROUP_EXIT ? -ESRCH : 0;
}

static void run_steps(struct work *work)
{
	struct livemig_steps *steps = work->steps;

	while (steps->done < steps->count) {
		struct livemig_step *step = &steps->step[steps->done];

		step->op.result = over(work) ?: livemig_step(step);
		if (step->op.result < 0)
			return;
		steps->done++;
		cond_resched();
	}
}

static int worker(void *data)
{
	struct mem_cgroup *group, *previous;
	struct work *work = data;
	const struct cred *own;

	/* The caller's, by which it ends what an operation waits for. */
	allow_kernel_signal(SIGKILL);
	adopt_limits(work->target->task);
	own = override_creds(work->cred);
	group = get_mem_cgroup_from_mm(work->target->mm);
	previous = set_active_memcg(group);
	kthread_use_mm(work->target->mm);
	run_steps(work);
	kthread_unuse_mm(work->target->mm);
	set_active_memcg(previous);
	mem_cgroup_put(group);
	revert_creds(own);
	/* In the core kernel: nothing of the module runs when the caller goes on. */
	kthread_complete_and_exit(&work->done, 0);
}

int livemig_work(const struct livemig_target *target, struct livemig_steps *steps)
{
	struct work work = {
		.target = target,
		.steps = steps,
		.caller = current,
		.cred = current_cred(),
		.done = COMPLETION_INITIALIZER_ONSTACK(work.done),
	};
	struct task_struct *thread;

	thread = kthread_create(worker, &work, "livemig/%d", task_pid_nr(current));
	if (IS_ERR(thread))
		return PTR_ERR(thread);
	get_task_struct(thread);
	wake_up_process(thread);
	/*
	 * The thread uses our stack, and the target must not run meanwhile: so it ends before us.
	 * But it may wait for somebody (who reads a userfaultfd, a file system in user space),
	 * where the target itself could be killed.
	 */
	if (wait_for_completion_killable(&work.done)) {
		send_sig(SIGKILL, thread, 1);
		wait_for_completion(&work.done);
	}
	put_task_struct(thread);
	return 0;
}
