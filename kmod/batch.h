/* SPDX-License-Identifier: GPL-2.0 */
/* A batch of operations on its way from user space and back. */
#ifndef LIVEMIG_BATCH_H
#define LIVEMIG_BATCH_H

#include <linux/compiler_types.h>
#include <linux/types.h>

#include <uapi/livemig.h>

struct file;

/* One operation, with the file that its descriptor named, NULL without one. */
struct livemig_step {
	struct livemig_op op;
	struct file *file;
};

struct livemig_steps {
	u32 count;
	u32 done;
	struct livemig_step step[];
};

/* LIVEMIG_RUN. */
long livemig_run(struct livemig_batch __user *place);

#endif
