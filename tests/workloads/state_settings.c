// SPDX-License-Identifier: Apache-2.0
/* Settings of the process: those of prctl(2), and who it is. */
#define _GNU_SOURCE
#include "state.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define SET_MDWE 65
#define GET_MDWE 66
#define SET_MERGE 67
#define GET_MERGE 68
#define GET_CPUID 0x1011 /* asm/prctl.h */
#define SET_CPUID 0x1012
#define OTHER_USER 4321

static void write_number(const char *name, const char *value)
{
	int file = open(name, O_WRONLY);

	need(write(file, value, strlen(value)), name);
	close(file);
}

static long read_number(const char *name, int base)
{
	char text[32] = "";
	int file = open(name, O_RDONLY);

	need(read(file, text, sizeof(text) - 1), name);
	close(file);
	return strtol(text, NULL, base);
}

static void proc_setup(void)
{
	write_number("/proc/self/oom_score_adj", "345");
	write_number("/proc/self/coredump_filter", "0x15");
}

static int proc_check(void)
{
	long score = read_number("/proc/self/oom_score_adj", 10);
	long filter = read_number("/proc/self/coredump_filter", 16);

	return score != 345 || filter != 0x15 ? bad("%ld %lx", score, filter) : 0;
}

static int store_bypass = PR_SPEC_DISABLE;

static void settings_setup(void)
{
	need(prctl(PR_SET_CHILD_SUBREAPER, 1), "subreaper");
	need(prctl(PR_SET_PDEATHSIG, 10), "death signal");
	need(prctl(PR_SET_THP_DISABLE, 1, 0, 0, 0), "THP");
	need(prctl(PR_SET_TSC, PR_TSC_SIGSEGV), "TSC");
	need(prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0), "MCE");
	if (prctl(PR_SET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, PR_SPEC_DISABLE, 0, 0))
		store_bypass = 0;
}

static int settings_check(void)
{
	int subreaper = 0, death = 0, tsc = 0;
	int found = prctl(PR_GET_SPECULATION_CTRL, PR_SPEC_STORE_BYPASS, 0, 0, 0);

	prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
	prctl(PR_GET_PDEATHSIG, &death);
	prctl(PR_GET_TSC, &tsc);
	if (!subreaper || death != 10 || tsc != PR_TSC_SIGSEGV)
		return bad("subreaper %d, death signal %d, TSC %d", subreaper, death, tsc);
	if (prctl(PR_GET_THP_DISABLE, 0, 0, 0, 0) != 1)
		return bad("THP");
	if (prctl(PR_MCE_KILL_GET, 0, 0, 0, 0) != PR_MCE_KILL_EARLY)
		return bad("MCE");
	return (found & store_bypass) != store_bypass ? bad("speculation %x", found) : 0;
}

static void death_setup(void)
{
	need(setresuid(OTHER_USER, OTHER_USER, OTHER_USER), "setresuid");
	need(prctl(PR_SET_PDEATHSIG, 12), "death signal");
	need(prctl(PR_SET_DUMPABLE, 1), "dumpable");
}

static int death_check(void)
{
	int death = 0;

	prctl(PR_GET_PDEATHSIG, &death);
	return death != 12 || prctl(PR_GET_DUMPABLE) != 1 || getuid() != OTHER_USER
		   ? bad("death signal %d, dumpable %d", death, prctl(PR_GET_DUMPABLE))
		   : 0;
}

static void dumpable_setup(void)
{
	need(prctl(PR_SET_DUMPABLE, 0), "dumpable");
}

static int dumpable_check(void)
{
	int found = prctl(PR_GET_DUMPABLE);

	return found ? bad("dumpable %d", found) : 0;
}

static void no_exec_setup(void)
{
	if (prctl(SET_MDWE, 1, 0, 0, 0))
		lacks();
}

static int no_exec_check(void)
{
	void *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC,
			   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	return place != MAP_FAILED ? bad("writable code") : prctl(GET_MDWE, 0, 0, 0, 0) != 1;
}

static void merge_setup(void)
{
	if (prctl(SET_MERGE, 1, 0, 0, 0))
		lacks();
}

static int merge_check(void)
{
	int found = prctl(GET_MERGE, 0, 0, 0, 0);

	return found != 1 ? bad("memory merge %d", found) : 0;
}

static void no_cpuid_setup(void)
{
	if (syscall(SYS_arch_prctl, SET_CPUID, 0))
		lacks();
}

static int no_cpuid_check(void)
{
	int found = syscall(SYS_arch_prctl, GET_CPUID, 0);

	return found ? bad("CPUID %d", found) : 0;
}

/* An ambient capability, and securebits that forbid to raise it again. */
static int bits = SECBIT_NO_CAP_AMBIENT_RAISE | SECBIT_NO_CAP_AMBIENT_RAISE_LOCKED |
		  SECBIT_KEEP_CAPS | SECBIT_NOROOT | SECBIT_NO_SETUID_FIXUP;

static void securebits_setup(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct sets[2];

	need(syscall(SYS_capget, &header, sets), "capget");
	sets[0].inheritable |= 1 << CAP_KILL;
	need(syscall(SYS_capset, &header, sets), "capset");
	need(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, CAP_KILL, 0, 0), "ambient");
	need(prctl(PR_SET_SECUREBITS, bits), "securebits");
}

static int securebits_check(void)
{
	int found = prctl(PR_GET_SECUREBITS);
	int ambient = prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, CAP_KILL, 0, 0);

	return found != bits || prctl(PR_GET_KEEPCAPS) != 1 || ambient != 1
		   ? bad("securebits %x, ambient %d", found, ambient)
		   : 0;
}

static void keep_setup(void)
{
	need(prctl(PR_SET_KEEPCAPS, 1), "keepcaps");
}

static int keep_check(void)
{
	return prctl(PR_GET_KEEPCAPS) != 1 ? bad("keepcaps") : 0;
}

static void file_user_setup(void)
{
	setfsuid(OTHER_USER);
	setfsgid(OTHER_USER + 1);
}

static int file_user_check(void)
{
	int user = setfsuid(-1), group = setfsgid(-1);

	return user != OTHER_USER || group != OTHER_USER + 1 ? bad("%d %d", user, group) : 0;
}

/* Commands of membarrier(2); each has to be registered for by the next one. */
#define GLOBAL (1 << 1)
#define PRIVATE (1 << 3)
#define PRIVATE_SYNC_CORE (1 << 5)
#define PRIVATE_RSEQ (1 << 7)
#define REGISTRATIONS (1 << 9)

static int barriers, registered;

static int barrier(int command)
{
	return syscall(SYS_membarrier, command, 0, 0);
}

static int registrations(void)
{
	int found = barrier(REGISTRATIONS);

	return found < 0 ? 0 : found; /* before Linux 6.3 */
}

static void barriers_setup(int commands)
{
	for (int command = 1; command <= commands; command <<= 1)
		if (commands & command && barrier(command << 1))
			lacks();
	barriers = commands;
	registered = registrations();
}

static void barrier_setup(void)
{
	barriers_setup(PRIVATE);
}

static void more_barriers_setup(void)
{
	barriers_setup(GLOBAL | PRIVATE_SYNC_CORE | PRIVATE_RSEQ);
}

static int barriers_check(void)
{
	for (int command = PRIVATE; command <= PRIVATE_RSEQ; command <<= 2) {
		int found = barrier(command) ? errno : 0;

		if (found != (barriers & command ? 0 : EPERM))
			return bad("membarrier %x: errno %d", command, found);
	}
	return registrations() != registered ? bad("registered %x", registrations()) : 0;
}

static void keyring(int which)
{
	if (syscall(SYS_keyctl, KEYCTL_GET_KEYRING_ID, which, 1) < 0)
		lacks();
}

static void thread_keyring(void)
{
	keyring(KEY_SPEC_THREAD_KEYRING);
}

static void process_keyring(void)
{
	keyring(KEY_SPEC_PROCESS_KEYRING);
}

static void strict_setup(void)
{
	need(prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT), "seccomp");
}

static void filter(int flags, int action)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sync, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { sizeof(code) / sizeof(*code), code };

	need(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program), "seccomp");
}

static void logged_setup(void)
{
	filter(SECCOMP_FILTER_FLAG_LOG, SECCOMP_RET_ERRNO | EDOM);
	filter(0, SECCOMP_RET_ERRNO | ERANGE);
}

static int logged_check(void)
{
	return syscall(SYS_sync) != -1 || errno != ERANGE ? bad("errno %d", errno) : 0;
}

static void asking_setup(void)
{
	filter(0, SECCOMP_RET_USER_NOTIF);
}

const struct thing setting_things[] = {
	{ "proc", proc_setup, proc_check, NULL },
	{ "settings", settings_setup, settings_check, NULL },
	{ "death-signal-of-a-user", death_setup, death_check, NULL },
	{ "not-dumpable", dumpable_setup, dumpable_check, NULL },
	{ "no-writable-code", no_exec_setup, no_exec_check, NULL },
	{ "memory-merge", merge_setup, merge_check, NULL },
	{ "no-cpuid", no_cpuid_setup, no_cpuid_check, NULL },
	{ "securebits", securebits_setup, securebits_check, NULL },
	{ "keepcaps", keep_setup, keep_check, NULL },
	{ "file-user", file_user_setup, file_user_check, NULL },
	{ "barrier", barrier_setup, barriers_check, NULL },
	{ "more-barriers", more_barriers_setup, barriers_check, NULL },
	{ "thread-keyring", thread_keyring, NULL, NULL },
	{ "process-keyring", process_keyring, NULL, NULL },
	{ "strict", strict_setup, NULL, NULL },
	{ "logged-filter", logged_setup, logged_check, NULL },
	{ "asking-filter", asking_setup, NULL, NULL },
	{ NULL, NULL, NULL, NULL },
};
