// SPDX-License-Identifier: GPL-2.0
/* /dev/livemig: see include/uapi/livemig.h for what it promises. */

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/uaccess.h>

#include <uapi/livemig.h>

#include "batch.h"

static long tell_info(struct livemig_info __user *place)
{
	const struct livemig_info info = {
		.version = LIVEMIG_VERSION,
		.max_ops = LIVEMIG_MAX_OPS,
		.features = BIT_ULL(LIVEMIG_MOVE) | BIT_ULL(LIVEMIG_MOVE_VDSO) |
			    BIT_ULL(LIVEMIG_MAP) | BIT_ULL(LIVEMIG_MAP_FILE) |
			    BIT_ULL(LIVEMIG_UNMAP),
	};

	return copy_to_user(place, &info, sizeof(info)) ? -EFAULT : 0;
}

static long livemig_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	switch (command) {
	case LIVEMIG_INFO:
		return tell_info((struct livemig_info __user *)argument);
	case LIVEMIG_RUN:
		return livemig_run((struct livemig_batch __user *)argument);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations livemig_fops = {
	.owner = THIS_MODULE,
	.unlocked_ioctl = livemig_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice livemig_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "livemig",
	.fops = &livemig_fops,
	.mode = 0600,
};

static int __init livemig_init(void)
{
	return misc_register(&livemig_device);
}

static void __exit livemig_exit(void)
{
	misc_deregister(&livemig_device);
}

module_init(livemig_init);
module_exit(livemig_exit);

MODULE_DESCRIPTION("Change the memory layout of a traced process");
MODULE_LICENSE("GPL");
MODULE_VERSION(__stringify(LIVEMIG_VERSION));
