/* SPDX-License-Identifier: GPL-2.0 */
/* A kernel thread that carries out one batch with the memory of the target as its own. */
#ifndef LIVEMIG_WORKER_H
#define LIVEMIG_WORKER_H

struct livemig_steps;
struct livemig_target;

/*
 * Carry out steps until one fails or the caller is killed, and wait until that is done. Returns a
 * negative errno where none was begun, else 0 with steps->done and the results set.
 */
int livemig_work(const struct livemig_target *target, struct livemig_steps *steps);

#endif
