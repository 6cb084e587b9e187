// SPDX-License-Identifier: GPL-2.0
#include <linux/build_bug.h>
#include <linux/file.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "batch.h"
#include "target.h"
#include "worker.h"

static_assert(sizeof(struct livemig_op) == 64);
static_assert(sizeof(struct livemig_batch) == 24);
static_assert(sizeof(struct livemig_info) == 16);

static struct livemig_step *end_of(struct livemig_steps *steps)
{
	return steps->step + steps->count;
}

static void free_steps(struct livemig_steps *steps)
{
	struct livemig_step *step;

	for (step = steps->step; step < end_of(steps); step++) {
		if (step->file)
			fput(step->file);
	}
	kvfree(steps);
}

/*
 * Take the operations in, and the files while we are in the caller's context. The results go back
 * at once: so memory of the caller's that cannot be written is found before anything is done.
 */
static int take(struct livemig_steps *steps, struct livemig_op __user *ops)
{
	struct livemig_step *step;

	for (step = steps->step; step < end_of(steps); step++, ops++) {
		if (copy_from_user(&step->op, ops, sizeof(step->op)))
			return -EFAULT;
		step->op.result = 0;
		if (put_user(step->op.result, &ops->result))
			return -EFAULT;
		if (step->op.kind == LIVEMIG_MAP_FILE)
			step->file = fget(step->op.fd);
	}
	return 0;
}

static struct livemig_steps *take_steps(const struct livemig_batch *batch)
{
	struct livemig_steps *steps;
	int error;

	if (batch->reserved || !batch->count)
		return ERR_PTR(-EINVAL);
	if (batch->count > LIVEMIG_MAX_OPS)
		return ERR_PTR(-E2BIG);
	steps = kvzalloc(struct_size(steps, step, batch->count), GFP_KERNEL_ACCOUNT);
	if (!steps)
		return ERR_PTR(-ENOMEM);
	steps->count = batch->count;
	error = take(steps, u64_to_user_ptr(batch->ops));
	if (error) {
		free_steps(steps);
		return ERR_PTR(error);
	}
	return steps;
}

static int give_results(const struct livemig_steps *steps, const struct livemig_batch *batch,
			struct livemig_batch __user *place)
{
	struct livemig_op __user *ops = u64_to_user_ptr(batch->ops);
	u32 last = min(steps->done + 1, steps->count);
	u32 i;

	for (i = 0; i < last; i++) {
		if (put_user(steps->step[i].op.result, &ops[i].result))
			return -EFAULT;
	}
	return put_user(steps->done, &place->done);
}

long livemig_run(struct livemig_batch __user *place)
{
	struct livemig_target target;
	struct livemig_steps *steps;
	struct livemig_batch batch;
	long error;

	if (copy_from_user(&batch, place, sizeof(batch)) || put_user(0, &place->done))
		return -EFAULT;
	steps = take_steps(&batch);
	if (IS_ERR(steps))
		return PTR_ERR(steps);
	error = livemig_target_get(&target, batch.pidfd);
	if (error)
		goto out;
	error = livemig_work(&target, steps);
	livemig_target_put(&target);
	if (!error)
		error = give_results(steps, &batch, place);
out:
	free_steps(steps);
	return error;
}
