// SPDX-License-Identifier: Apache-2.0
/* What a process is beside memory, signals and files: IDs, arguments, clocks, settings, rights. */
#define _GNU_SOURCE
#include "carried.h"
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NAME "carried thing"
#define SLACK 77000
#define USER 1234

struct text {
	char bytes[8192];
	long length;
};

static struct text cmdline, environment, auxv;
static char exe[512];
static pid_t pid, tid;
static struct timespec monotonic, boottime;
static void *robust;
static void *clear_tid;

static void read_text(const char *name, struct text *text)
{
	int file = open(name, O_RDONLY);

	text->length = read(file, text->bytes, sizeof(text->bytes));
	close(file);
	if (text->length < 0)
		die(name);
}

static int text_differs(const char *name, const struct text *text)
{
	static struct text found;

	read_text(name, &found);
	return found.length != text->length || memcmp(found.bytes, text->bytes, found.length);
}

static void arguments_setup(void)
{
	read_text("/proc/self/cmdline", &cmdline);
	read_text("/proc/self/environ", &environment);
	read_text("/proc/self/auxv", &auxv);
	if (readlink("/proc/self/exe", exe, sizeof(exe) - 1) < 0)
		die("exe");
}

static int arguments_verify(void)
{
	char found[512] = "";

	if (readlink("/proc/self/exe", found, sizeof(found) - 1) < 0 || strcmp(found, exe))
		return 1;
	return text_differs("/proc/self/cmdline", &cmdline) ||
	       text_differs("/proc/self/environ", &environment) ||
	       text_differs("/proc/self/auxv", &auxv) || strcmp((char *)getauxval(AT_EXECFN), exe);
}

static void ids_setup(void)
{
	size_t length;

	pid = getpid();
	tid = gettid();
	syscall(SYS_get_robust_list, 0, &robust, &length);
	prctl(PR_GET_TID_ADDRESS, &clear_tid);
}

static int ids_verify(void)
{
	size_t length;
	void *head, *address = NULL;

	syscall(SYS_get_robust_list, 0, &head, &length);
	prctl(PR_GET_TID_ADDRESS, &address);
	return getpid() != pid || gettid() != tid || syscall(SYS_getpid) != pid || head != robust ||
	       length != 24 || address != clear_tid;
}

/* The kernel keeps the CPU's number up to date only where the area is registered. */
static int rseq_verify(void)
{
	struct rseq *area = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
	cpu_set_t before, one;
	int bad = 0;

	sched_getaffinity(0, sizeof(before), &before);
	for (unsigned int i = 0; i < CPU_SETSIZE && __rseq_size; i++) {
		if (!CPU_ISSET(i, &before))
			continue;
		CPU_ZERO(&one);
		CPU_SET(i, &one);
		sched_setaffinity(0, sizeof(one), &one);
		bad |= *(volatile unsigned int *)&area->cpu_id != i;
	}
	sched_setaffinity(0, sizeof(before), &before);
	return bad;
}

static int backwards(clockid_t clock, struct timespec *last)
{
	struct timespec fast, slow;
	int bad = 0;

	for (int i = 0; i < 200; i++) {
		clock_gettime(clock, &fast);
		syscall(SYS_clock_gettime, clock, &slow);
		bad |= fast.tv_sec < last->tv_sec ||
		       (fast.tv_sec == last->tv_sec && fast.tv_nsec < last->tv_nsec);
		bad |= slow.tv_sec < fast.tv_sec || slow.tv_sec > fast.tv_sec + 1;
		*last = slow;
	}
	return bad;
}

static int clocks_verify(void)
{
	return backwards(CLOCK_MONOTONIC, &monotonic) | backwards(CLOCK_BOOTTIME, &boottime);
}

static void clocks_setup(void)
{
	clocks_verify();
}

static void settings_setup(void)
{
	prctl(PR_SET_NAME, NAME);
	prctl(PR_SET_TIMERSLACK, SLACK);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	prctl(PR_SET_PDEATHSIG, SIGUSR2);
	prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0);
	personality(ADDR_NO_RANDOMIZE);
}

static int settings_verify(void)
{
	char name[16];
	int subreaper = 0, death = 0;

	prctl(PR_GET_NAME, name);
	prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
	prctl(PR_GET_PDEATHSIG, &death);
	return strcmp(name, NAME) || prctl(PR_GET_TIMERSLACK) != SLACK || !subreaper ||
	       death != SIGUSR2 || prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 1 ||
	       personality(0xffffffff) != ADDR_NO_RANDOMIZE;
}

/* sync(2) answers EDOM from here on: a filter that shows itself. */
static void filter(void)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EDOM),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
		die("seccomp");
}

void confine(void)
{
	static const gid_t groups[] = { 5, 77, 1000 };
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2] = { { 1 << CAP_NET_BIND_SERVICE,
						    1 << CAP_NET_BIND_SERVICE | 1 << CAP_KILL,
						    1 << CAP_NET_BIND_SERVICE } };

	for (int i = 0; i < 41; i++)
		if (i != CAP_NET_BIND_SERVICE && i != CAP_KILL && i != CAP_CHOWN)
			prctl(PR_CAPBSET_DROP, i);
	if (setgroups(3, groups) || setresgid(USER, USER + 1, USER + 2) ||
	    prctl(PR_SET_KEEPCAPS, 1) || setresuid(USER, USER + 3, USER + 4) ||
	    syscall(SYS_capset, &header, sets) ||
	    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_NET_BIND_SERVICE, 0, 0) ||
	    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		die("confine");
	filter();
}

int confined(void)
{
	static const gid_t groups[] = { 5, 77, 1000 };
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];
	uid_t user[3];
	gid_t group[3], found[8];

	getresuid(&user[0], &user[1], &user[2]);
	getresgid(&group[0], &group[1], &group[2]);
	syscall(SYS_capget, &header, sets);
	if (user[0] != USER || user[1] != USER + 3 || user[2] != USER + 4 || group[0] != USER ||
	    group[1] != USER + 1 || group[2] != USER + 2)
		return 1;
	if (getgroups(8, found) != 3 || memcmp(found, groups, sizeof(groups)))
		return 2;
	if (sets[0].effective != 1 << CAP_NET_BIND_SERVICE ||
	    sets[0].permitted != (1 << CAP_NET_BIND_SERVICE | 1 << CAP_KILL) ||
	    sets[0].inheritable != 1 << CAP_NET_BIND_SERVICE ||
	    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_NET_BIND_SERVICE, 0, 0) != 1 ||
	    prctl(PR_CAPBSET_READ, CAP_CHOWN) != 1 || prctl(PR_CAPBSET_READ, CAP_SYS_ADMIN))
		return 3;
	if (prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1 || prctl(PR_GET_SECCOMP) != 2)
		return 4;
	return syscall(SYS_sync) != -1 || errno != EDOM;
}

static void no_setup(void)
{
}

const struct item process_items[] = {
	{ "arguments", arguments_setup, arguments_verify },
	{ "ids", ids_setup, ids_verify },
	{ "rseq", no_setup, rseq_verify },
	{ "clocks", clocks_setup, clocks_verify },
	{ "settings", settings_setup, settings_verify },
	{ NULL, NULL, NULL },
};
