/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table of system calls that the stub runs, as the engine writes it into the memory of a
 * process.  table.py packs the same layout; a change here raises LIVEMIG_STUB_VERSION.
 */
#ifndef LIVEMIG_STUB_H
#define LIVEMIG_STUB_H

typedef unsigned long u64;
typedef unsigned int u32;
typedef long s64;

#define LIVEMIG_STUB_MAGIC 0x62757473 /* "stub" */
#define LIVEMIG_STUB_VERSION 1

/* The call may fail without ending the run. */
#define LIVEMIG_CALL_MAY_FAIL 1UL

struct livemig_call {
	u64 nr;
	u64 arg[6];
	s64 result; /* as the kernel returned it: -errno, or the value */
	u64 flags;
};

struct livemig_table {
	u32 magic;
	u32 version;
	u32 count;
	u32 done;   /* calls that were made; below count where one failed */
	u64 frame;  /* rt_sigframe that leads back, or 0 */
	u32 signal; /* signal that tells the tracer that the run is over */
	u32 reserved;
	struct livemig_call call[];
};

_Static_assert(sizeof(struct livemig_call) == 72, "table.py packs 72 bytes a call");
_Static_assert(sizeof(struct livemig_table) == 32, "table.py packs a header of 32 bytes");

#endif
