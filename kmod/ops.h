/* SPDX-License-Identifier: GPL-2.0 */
/* The operations, on the memory that the current thread has adopted. */
#ifndef LIVEMIG_OPS_H
#define LIVEMIG_OPS_H

struct livemig_step;

/* Carry out one operation; returns an address, or a negative errno. */
long livemig_step(const struct livemig_step *step);

#endif
