// SPDX-License-Identifier: GPL-2.0
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/hugetlb.h>
#include <linux/magic.h>
#include <linux/memcontrol.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/string.h>
#include <linux/syscalls.h>

#include "batch.h"
#include "ops.h"

#define MAX_VDSO_PARTS 8
#define PROT_KNOWN (PROT_READ | PROT_WRITE | PROT_EXEC)

struct span {
	unsigned long start;
	unsigned long length;
};

/* The vDSO and its data as they lie in memory, the lowest first. */
struct vdso {
	struct span part[MAX_VDSO_PARTS];
	unsigned int count;
};

static bool valid(unsigned long start, unsigned long length)
{
	return length && !offset_in_page(start | length) && length <= TASK_SIZE &&
	       start <= TASK_SIZE - length;
}

static bool overlap(unsigned long a, unsigned long a_length, unsigned long b,
		    unsigned long b_length)
{
	return a < b + b_length && b < a + a_length;
}

static bool occupied(unsigned long start, unsigned long length)
{
	bool found;

	mmap_read_lock(current->mm);
	found = find_vma_intersection(current->mm, start, start + length);
	mmap_read_unlock(current->mm);
	return found;
}

/* [vdso], [vvar], and what newer kernels have beside them ([vvar_vclock]). */
static bool of_vdso(struct vm_area_struct *vma)
{
	const char *name;

	if (!vma->vm_ops || !vma->vm_ops->name)
		return false;
	name = vma->vm_ops->name(vma);
	return name && (strstarts(name, "[vdso") || strstarts(name, "[vvar"));
}

/*
 * Whether memory can be moved as an operation says. mremap would find that too, but only after it
 * has unmapped what is in its way; and it would round lengths up to whole huge pages.
 */
static int movable(const struct livemig_op *op)
{
	unsigned long all = op->addr | op->length | op->new_addr | op->new_length;
	struct vm_area_struct *vma;
	int error = 0;

	mmap_read_lock(current->mm);
	vma = find_vma(current->mm, op->addr);
	if (!vma || op->addr < vma->vm_start || op->addr + op->length > vma->vm_end)
		error = -EFAULT;
	else if (of_vdso(vma) || !IS_ALIGNED(all, vma_kernel_pagesize(vma)))
		error = -EINVAL;
	mmap_read_unlock(current->mm);
	return error;
}

static int find_vdso(struct vdso *vdso)
{
	VMA_ITERATOR(vmi, current->mm, 0);
	struct vm_area_struct *vma;
	int error = 0;

	vdso->count = 0;
	mmap_read_lock(current->mm);
	for_each_vma(vmi, vma) {
		if (!of_vdso(vma))
			continue;
		if (vdso->count == MAX_VDSO_PARTS) {
			error = -EOPNOTSUPP;
			break;
		}
		vdso->part[vdso->count].start = vma->vm_start;
		vdso->part[vdso->count++].length = vma->vm_end - vma->vm_start;
	}
	mmap_read_unlock(current->mm);
	if (error)
		return error;
	return vdso->count ? 0 : -ENOENT;
}

static long remap(unsigned long from, unsigned long length, unsigned long to,
		  unsigned long new_length)
{
	return ksys_mremap(from, length, new_length, MREMAP_MAYMOVE | MREMAP_FIXED, to);
}

/* Grow or shrink without moving. */
static long resize(const struct livemig_op *op)
{
	if (op->flags)
		return -EINVAL;
	if (op->new_length > op->length &&
	    occupied(op->addr + op->length, op->new_length - op->length))
		return -EEXIST;
	return ksys_mremap(op->addr, op->length, op->new_length, 0, 0);
}

static long move(const struct livemig_op *op)
{
	int error;

	if (op->flags & ~LIVEMIG_REPLACE || op->prot || op->fd || op->offset)
		return -EINVAL;
	if (!valid(op->addr, op->length) || !valid(op->new_addr, op->new_length))
		return -EINVAL;
	error = movable(op);
	if (error)
		return error;
	if (op->addr == op->new_addr)
		return resize(op);
	if (overlap(op->addr, op->length, op->new_addr, op->new_length))
		return -EINVAL;
	if (!(op->flags & LIVEMIG_REPLACE) && occupied(op->new_addr, op->new_length))
		return -EEXIST;
	return remap(op->addr, op->length, op->new_addr, op->new_length);
}

static long move_parts(const struct vdso *vdso, unsigned long distance)
{
	struct mem_cgroup *group;
	unsigned int i;
	long result;

	/* Not to be broken off, nor the way back: where nothing is, nothing waits for anybody. */
	disallow_signal(SIGKILL);
	for (i = 0; i < vdso->count; i++) {
		const struct span *part = &vdso->part[i];

		result = remap(part->start, part->length, part->start + distance, part->length);
		if (result < 0)
			goto back;
	}
	result = vdso->part[0].start + distance;
	goto out;
back:
	/*
	 * A vDSO that is apart from its data crashes who calls it. So the way back takes no memory
	 * of the process's cgroup, which may have none left.
	 */
	group = set_active_memcg(NULL);
	while (i--) {
		const struct span *part = &vdso->part[i];

		if (remap(part->start + distance, part->length, part->start, part->length) < 0)
			pr_warn_once("a part of a vDSO found no way back\n");
	}
	set_active_memcg(group);
out:
	allow_kernel_signal(SIGKILL);
	return result;
}

static long move_vdso(const struct livemig_op *op)
{
	unsigned long start, length;
	const struct span *last;
	struct vdso vdso;
	int error;

	if (op->flags & ~LIVEMIG_REPLACE || op->addr || op->length || op->new_length || op->prot ||
	    op->fd || op->offset)
		return -EINVAL;
	error = find_vdso(&vdso);
	if (error)
		return error;
	start = vdso.part[0].start;
	last = &vdso.part[vdso.count - 1];
	length = last->start + last->length - start;
	if (!valid(op->new_addr, length) || overlap(start, length, op->new_addr, length))
		return -EINVAL;
	/*
	 * mremap would unmap it, too, but part by part. That may wait for who reads a userfaultfd,
	 * and may split a mapping, and be one too many for the next part and for the way back. Now
	 * it can still be broken off, or be refused, and nothing has moved.
	 */
	if (op->flags & LIVEMIG_REPLACE)
		error = vm_munmap(op->new_addr, length);
	else
		error = occupied(op->new_addr, length) ? -EEXIST : 0;
	return error ? error : move_parts(&vdso, op->new_addr - start);
}

static unsigned long map_flags(u32 flags)
{
	unsigned long result = flags & LIVEMIG_SHARED ? MAP_SHARED : MAP_PRIVATE;

	result |= flags & LIVEMIG_REPLACE ? MAP_FIXED : MAP_FIXED | MAP_FIXED_NOREPLACE;
	if (flags & LIVEMIG_GROWSDOWN)
		result |= MAP_GROWSDOWN;
	if (flags & LIVEMIG_NORESERVE)
		result |= MAP_NORESERVE;
	return result;
}

static long map(const struct livemig_op *op)
{
	if (op->flags & ~(LIVEMIG_REPLACE | LIVEMIG_GROWSDOWN | LIVEMIG_NORESERVE))
		return -EINVAL;
	if (op->new_addr || op->new_length || op->fd || op->offset || op->prot & ~PROT_KNOWN)
		return -EINVAL;
	if (!valid(op->addr, op->length))
		return -EINVAL;
	return vm_mmap(NULL, op->addr, op->length, op->prot, map_flags(op->flags) | MAP_ANONYMOUS,
		       0);
}

/* is_file_hugepages() takes a symbol that Linux 6.1 does not export. */
static bool of_hugetlbfs(const struct file *file)
{
	return file_inode(file)->i_sb->s_magic == HUGETLBFS_MAGIC;
}

static long map_file(const struct livemig_step *step)
{
	const struct livemig_op *op = &step->op;

	if (op->flags & ~(LIVEMIG_REPLACE | LIVEMIG_NORESERVE | LIVEMIG_SHARED))
		return -EINVAL;
	if (op->new_addr || op->new_length || op->prot & ~PROT_KNOWN)
		return -EINVAL;
	if (!valid(op->addr, op->length) || offset_in_page(op->offset))
		return -EINVAL;
	if (!step->file)
		return -EBADF;
	/* It would reserve pages at once, and from the worker's cgroup. */
	if (of_hugetlbfs(step->file))
		return -EOPNOTSUPP;
	return vm_mmap(step->file, op->addr, op->length, op->prot, map_flags(op->flags),
		       op->offset);
}

static long unmap(const struct livemig_op *op)
{
	int error;

	if (op->flags || op->new_addr || op->new_length || op->prot || op->fd || op->offset)
		return -EINVAL;
	if (!valid(op->addr, op->length))
		return -EINVAL;
	error = vm_munmap(op->addr, op->length);
	return error ? error : (long)op->addr;
}

long livemig_step(const struct livemig_step *step)
{
	switch (step->op.kind) {
	case LIVEMIG_MOVE:
		return move(&step->op);
	case LIVEMIG_MOVE_VDSO:
		return move_vdso(&step->op);
	case LIVEMIG_MAP:
		return map(&step->op);
	case LIVEMIG_MAP_FILE:
		return map_file(step);
	case LIVEMIG_UNMAP:
		return unmap(&step->op);
	default:
		return -EINVAL;
	}
}
