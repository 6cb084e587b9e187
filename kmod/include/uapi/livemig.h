/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * /dev/livemig: change the layout of another process's memory, in batches.
 *
 * Who rebuilds a process has to unmap, map and move its memory. From outside there is no system
 * call for that; this device is it. It is a mechanism: what to map where is decided in user space.
 *
 * WHO MAY. The caller must be allowed to attach to the process (PTRACE_MODE_ATTACH_REALCREDS,
 * with all that Yama and security modules say of it), and must be its tracer already: every
 * thread of it is stopped by the calling thread's own ptrace. (Where the caller is its parent as
 * well, and another tracer lets it go at that moment, it may run on.) So the device gives nobody
 * what he could not do to memory of his own. The process may get what it could not map itself:
 * memory below vm.mmap_min_addr, files that its security label may not map. Memory that another
 * process shares as a whole (CLONE_VM without CLONE_THREAD) is refused, and so are processes of
 * 32 bits, and those that io_uring has workers for, which nobody can trace. A caller of 32 bits
 * gets ENOTTY.
 *
 * IN WHOSE NAME. Operations run with the credentials of the caller, and count against the process:
 * its RLIMIT_AS, RLIMIT_DATA and RLIMIT_MEMLOCK, its memory cgroup. File modes, seals of memfd and
 * sealed mappings (mseal) hold as they do for the process itself. So capabilities are the caller's:
 * CAP_IPC_LOCK lifts RLIMIT_MEMLOCK, CAP_SYS_RAWIO lets it map below vm.mmap_min_addr, and
 * CAP_SYS_ADMIN takes what vm.admin_reserve_kbytes keeps of memory.
 *
 * WHAT IS NOT THE PROCESS'S. A thread of the kernel does the work, and what else the kernel asks
 * of who maps is that thread's. NUMA policy and cpuset: of pages that are there at once (locked
 * memory that grows). Personality: READ_IMPLIES_EXEC of the process adds nothing. Protection
 * keys: memory of PROT_EXEC alone gets the process's key for such memory, but nothing sets the
 * process's PKRU, by which it can or cannot be read (not by default); locked memory that has a
 * key and grows is not filled at once. The cgroup that pays for pages of hugetlbfs: so its files
 * are refused; mappings of them that are there already can be moved and unmapped.
 *
 * WHAT HAPPENS. Operations are carried out in order until the first one that fails, until the
 * caller has got a fatal signal, which ends what an operation waits for, too, or until the process
 * has been killed, which is looked at before each one (ESRCH is its result); none is undone. The
 * ioctl then returns 0, with the number of those that succeeded in done, and a result for each of
 * them and for the one that failed (if any): the address, or a negative errno. Any other return
 * value means that nothing was done at all, unless another thread of the caller took away the
 * memory that the results go to (EFAULT). The memory may be used as soon as the ioctl has returned;
 * a file that nothing maps any more is closed some milliseconds later.
 */
#ifndef _UAPI_LIVEMIG_H
#define _UAPI_LIVEMIG_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define LIVEMIG_DEVICE "/dev/livemig"
#define LIVEMIG_VERSION 1

/* Operations of one batch at most; else E2BIG. */
#define LIVEMIG_MAX_OPS 4096

enum livemig_kind {
	/*
	 * mremap(2) of [addr, addr + length) to [new_addr, new_addr + new_length), which grows or
	 * shrinks it where the lengths differ. The pages go along, whatever they are. Within one
	 * mapping only (EFAULT). EINVAL: the two overlap (new_addr may be addr, without flags, to
	 * grow or shrink in place); pages of hugetlbfs that are not whole; the vDSO and its data,
	 * which move by LIVEMIG_MOVE_VDSO. The tail that shrinking gives up goes first: where the
	 * rest cannot be moved then, it is gone, and the rest is where it was.
	 */
	LIVEMIG_MOVE = 1,
	/*
	 * Move the vDSO with its data, in their order, so that the first begins at new_addr. Where
	 * that fails, they are where they were. ENOENT: the process has none. EOPNOTSUPP: it has it
	 * in more than 8 mappings.
	 */
	LIVEMIG_MOVE_VDSO = 2,
	/* Map private anonymous memory at [addr, addr + length). */
	LIVEMIG_MAP = 3,
	/*
	 * The same with the file behind fd, a descriptor of the caller's, from offset on. EBADF: fd
	 * is none. EOPNOTSUPP: a file of hugetlbfs.
	 */
	LIVEMIG_MAP_FILE = 4,
	/* munmap(2) of [addr, addr + length); what is not mapped there is no error. */
	LIVEMIG_UNMAP = 5,
};

/*
 * Replace what a destination holds already; without it, EEXIST there. An operation that fails may
 * have removed that, as mremap(2) and mmap(2) may.
 */
#define LIVEMIG_REPLACE (1U << 0)
/* LIVEMIG_MAP: a stack, which grows downwards (MAP_GROWSDOWN). */
#define LIVEMIG_GROWSDOWN (1U << 1)
/* LIVEMIG_MAP, LIVEMIG_MAP_FILE: reserve no swap space (MAP_NORESERVE). */
#define LIVEMIG_NORESERVE (1U << 2)
/* LIVEMIG_MAP_FILE: MAP_SHARED; else MAP_PRIVATE. */
#define LIVEMIG_SHARED (1U << 3)

/*
 * One operation. Fields that its kind does not name must be zero, fd included. Addresses and
 * lengths are in bytes; they must be multiples of the page size, lengths more than zero (EINVAL).
 */
struct livemig_op {
	__u32 kind;  /* enum livemig_kind */
	__u32 flags; /* LIVEMIG_REPLACE ... */
	__u64 addr;
	__u64 length;
	__u64 new_addr;	  /* LIVEMIG_MOVE, LIVEMIG_MOVE_VDSO */
	__u64 new_length; /* LIVEMIG_MOVE */
	__u64 offset;	  /* LIVEMIG_MAP_FILE */
	__u32 prot; /* LIVEMIG_MAP, LIVEMIG_MAP_FILE: PROT_READ, PROT_WRITE, PROT_EXEC of mmap(2) */
	__s32 fd;   /* LIVEMIG_MAP_FILE */
	__s64 result; /* out: the address where it is now, or a negative errno */
};

struct livemig_batch {
	__s32 pidfd;	/* the process: pidfd_open(2) */
	__u32 count;	/* operations behind ops */
	__u64 ops;	/* address of an array of struct livemig_op */
	__u32 done;	/* out: how many succeeded, which is the index of the one that failed */
	__u32 reserved; /* zero */
};

/* What this device is. features has bit k set for each kind of operation k that it knows. */
struct livemig_info {
	__u32 version; /* LIVEMIG_VERSION */
	__u32 max_ops; /* LIVEMIG_MAX_OPS */
	__u64 features;
};

/*
 * LIVEMIG_RUN fails as a whole with
 *   EFAULT  an address of the caller's that cannot be read or written
 *   E2BIG   more operations than LIVEMIG_MAX_OPS
 *   EINVAL  a reserved field that is not zero, no operations
 *   EBADF   pidfd is none
 *   ESRCH   the process, or its first thread, has ended
 *   EACCES  the caller may not attach to the process
 *   EPERM   the caller is not the tracer of all of its threads, or one of them runs, or is a
 *           worker of io_uring
 *   EBUSY   another process has the same memory
 *   EOPNOTSUPP  a process of 32 bits
 *   EAGAIN  no thread for the batch: there are too many
 *   ENOMEM  no memory for the batch
 *   EINTR   the caller was killed
 * Fields of an operation that should be zero are found when its turn comes (EINVAL in its result).
 */
#define LIVEMIG_INFO _IOR('l', 0xe0, struct livemig_info)
#define LIVEMIG_RUN _IOWR('l', 0xe1, struct livemig_batch)

#endif /* _UAPI_LIVEMIG_H */
