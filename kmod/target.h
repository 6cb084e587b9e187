/* SPDX-License-Identifier: GPL-2.0 */
/* The process whose memory is changed, and whether the caller may do that. */
#ifndef LIVEMIG_TARGET_H
#define LIVEMIG_TARGET_H

struct mm_struct;
struct task_struct;

struct livemig_target {
	struct task_struct *task;
	struct mm_struct *mm;
};

/*
 * Find the process behind a descriptor of the caller's, check that the caller may change its
 * memory, and hold on to both. The caller, its tracer, is the one who could let it run: as long as
 * it is kept in the kernel, the process stays stopped, or dies. (But see held_by_caller.)
 */
int livemig_target_get(struct livemig_target *target, int pidfd);

/* Let it go. */
void livemig_target_put(struct livemig_target *target);

#endif
