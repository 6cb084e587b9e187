// SPDX-License-Identifier: Apache-2.0
/*
 * refused OBJECT DIRECTORY: says "waiting", and at the first byte of its input makes one object
 * that cannot be carried, says "ready", and waits for another byte.  Where the machine has no such
 * object it says "lacks" instead.
 */
#define _GNU_SOURCE
#include "refused.h"
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/io.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SIZE 8192
#define HUGE_SIZE (2 << 20)

static const char *directory_name;

static int map(int flags, int file)
{
	char *place = mmap(NULL, flags & MAP_HUGETLB ? HUGE_SIZE : SIZE, PROT_READ | PROT_WRITE,
			   flags, file, 0);

	if (place == MAP_FAILED)
		return -1;
	place[0] = 1;
	return 0;
}

static int file(const char *name)
{
	int number = open(name, O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (number >= 0 && ftruncate(number, SIZE))
		return -1;
	return number;
}

static int shared(void)
{
	return map(MAP_SHARED | MAP_ANONYMOUS, -1);
}

static int shared_file(void)
{
	int number = file("file");
	int result = map(MAP_SHARED, number);

	close(number);
	return result;
}

/* To be written to with a mprotect(2). */
static int shared_readable(void)
{
	int number = file("file");
	char *place = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, number, 0);

	close(number);
	return place == MAP_FAILED ? -1 : 0;
}

static int shared_segment(void)
{
	int number = shmget(IPC_PRIVATE, SIZE, 0600);
	char *place = shmat(number, NULL, 0);

	shmctl(number, IPC_RMID, NULL);
	return place == (void *)-1 ? -1 : 0;
}

static int memfd(void)
{
	return memfd_create("thing", 0);
}

static int mapped_memfd(void)
{
	int number = memfd();
	int result = ftruncate(number, SIZE) ? -1 : map(MAP_PRIVATE, number);

	close(number);
	return result;
}

static int deleted_file(void)
{
	int number = file("gone");

	return unlink("gone") ? -1 : number;
}

static int mapped_deleted_file(void)
{
	int number = deleted_file();
	int result = map(MAP_PRIVATE, number);

	close(number);
	return result;
}

static int temporary_file(void)
{
	return open(".", O_TMPFILE | O_RDWR, 0600);
}

static int mapped_device(void)
{
	int number = open("/dev/zero", O_RDWR);
	int result = map(MAP_PRIVATE, number);

	close(number);
	return result;
}

static int huge(void)
{
	return map(MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB, -1);
}

/* Where the kernel takes a pointer that was never set to point: root may. */
static int low(void)
{
	void *place = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return place == MAP_FAILED ? -1 : 0;
}

static int key(void)
{
	return syscall(SYS_pkey_alloc, 0, 0);
}

static int keyed(void)
{
	char *place = mmap(NULL, SIZE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	long number = key();

	if (number < 0)
		return -1; /* for pkey_mprotect(2) that means no key, on any processor */
	return syscall(SYS_pkey_mprotect, place, SIZE, PROT_READ | PROT_WRITE, number);
}

/* The kernel gives it the first key that is free: another than where none is allocated. */
static int keyed_code(void)
{
	char *place;

	if (key() < 0)
		return -1;
	place = mmap(NULL, SIZE, PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	return place == MAP_FAILED ? -1 : 0;
}

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int thread(void)
{
	pthread_t id;

	return pthread_create(&id, NULL, wait_for_ever, NULL) ? -1 : 0;
}

static int socket_pair(void)
{
	int pair[2];

	return socketpair(AF_UNIX, SOCK_STREAM, 0, pair);
}

static int listening(void)
{
	int number = socket(AF_INET, SOCK_STREAM, 0);

	return listen(number, 1);
}

static int epoll(void)
{
	return epoll_create1(0);
}

static int event(void)
{
	return eventfd(0, 0);
}

static int signals(void)
{
	sigset_t set;

	sigemptyset(&set);
	return signalfd(-1, &set, 0);
}

static int timer_descriptor(void)
{
	return timerfd_create(CLOCK_MONOTONIC, 0);
}

static int watched(void)
{
	return inotify_init1(0);
}

static int pipes(void)
{
	int pair[2];

	return pipe(pair);
}

static int named_pipe(void)
{
	mkfifo("fifo", 0600);
	return open("fifo", O_RDWR);
}

static int terminal(void)
{
	return open("/dev/ptmx", O_RDWR | O_NOCTTY);
}

static int kernel_file(void)
{
	return open("/proc/self/status", O_RDONLY);
}

static int directory(void)
{
	char entries[256];
	int number = open(".", O_RDONLY | O_DIRECTORY);

	close(file("file"));
	return syscall(SYS_getdents64, number, entries, sizeof(entries)) > 0 ? number : -1;
}

static int flocked(void)
{
	return flock(file("file"), LOCK_EX);
}

static int record_locked(void)
{
	struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_len = 10 };

	return fcntl(file("file"), F_SETLK, &lock);
}

static int leased(void)
{
	return fcntl(file("file"), F_SETLEASE, F_WRLCK);
}

static int signalling(void)
{
	int pair[2];

	if (pipe(pair))
		return -1;
	return fcntl(pair[0], F_SETFL, O_ASYNC);
}

static int owned(void)
{
	return fcntl(file("file"), F_SETOWN, getpid());
}

static int owned_by_group(void)
{
	return fcntl(file("file"), F_SETOWN, -getpgrp());
}

static int other_signal(void)
{
	return fcntl(file("file"), F_SETSIG, SIGRTMIN);
}

static int notifying(void)
{
	return fcntl(open(".", O_RDONLY | O_DIRECTORY), F_NOTIFY, DN_CREATE | DN_MULTISHOT);
}

static int changed_root(void)
{
	return chroot(".");
}

static int cpu_limit(void)
{
	struct rlimit limit = { 3600, RLIM_INFINITY };

	return setrlimit(RLIMIT_CPU, &limit);
}

static int user_namespace(void)
{
	return unshare(CLONE_NEWUSER);
}

static int pid_namespace(void)
{
	return unshare(CLONE_NEWPID);
}

static int time_namespace(void)
{
	return unshare(0x80); /* CLONE_NEWTIME */
}

static int removed_directory(void)
{
	return mkdir("left", 0700) || chdir("left") || rmdir("../left") ? -1 : 0;
}

static int namespace_file(void)
{
	return open("/proc/self/ns/net", O_RDONLY);
}

/* A file of a mount that is there no more, whose name leads to another one. */
static int lost_mount(void)
{
	int number;

	if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
	    mount("none", ".", "tmpfs", 0, NULL) || chdir(directory_name))
		return -1;
	number = file("file");
	return umount2(directory_name, MNT_DETACH) || chdir(directory_name) ? -1 : number;
}

static int io_ports(void)
{
	return ioperm(0x80, 1, 1);
}

static int child(void)
{
	int pid = fork();

	if (pid == 0)
		wait_for_ever(NULL);
	return pid;
}

static int zombie(void)
{
	siginfo_t info;
	int pid = fork();

	if (pid == 0)
		_exit(0);
	return waitid(P_PID, pid, &info, WEXITED | WNOWAIT);
}

static volatile int landed;

static void land(int number)
{
	landed = number;
}

/* SIGUSR1 leads to code whose address is in a file. */
static int landing(void)
{
	void (*address)(int) = land;
	int number = file("place");
	int written = write(number, &address, sizeof(address));

	close(number);
	return written != sizeof(address) || signal(SIGUSR1, land) == SIG_ERR ? -1 : 0;
}

static int nothing(void)
{
	return 0;
}

static const struct {
	const char *name;
	int (*make)(void);
} objects[] = {
	{ "nothing", nothing },
	{ "shared", shared },
	{ "shared-file", shared_file },
	{ "shared-readable", shared_readable },
	{ "shared-segment", shared_segment },
	{ "memfd", memfd },
	{ "mapped-memfd", mapped_memfd },
	{ "deleted-file", deleted_file },
	{ "mapped-deleted-file", mapped_deleted_file },
	{ "temporary-file", temporary_file },
	{ "mapped-device", mapped_device },
	{ "huge", huge },
	{ "low", low },
	{ "keyed", keyed },
	{ "keyed-code", keyed_code },
	{ "thread", thread },
	{ "socket-pair", socket_pair },
	{ "listening", listening },
	{ "epoll", epoll },
	{ "event", event },
	{ "signals", signals },
	{ "timer-descriptor", timer_descriptor },
	{ "watched", watched },
	{ "pipe", pipes },
	{ "named-pipe", named_pipe },
	{ "terminal", terminal },
	{ "kernel-file", kernel_file },
	{ "directory", directory },
	{ "flocked", flocked },
	{ "record-locked", record_locked },
	{ "leased", leased },
	{ "signalling", signalling },
	{ "owned", owned },
	{ "owned-by-group", owned_by_group },
	{ "other-signal", other_signal },
	{ "notifying", notifying },
	{ "changed-root", changed_root },
	{ "cpu-limit", cpu_limit },
	{ "child", child },
	{ "user-namespace", user_namespace },
	{ "pid-namespace", pid_namespace },
	{ "time-namespace", time_namespace },
	{ "removed-directory", removed_directory },
	{ "namespace-file", namespace_file },
	{ "lost-mount", lost_mount },
	{ "io-ports", io_ports },
	{ "landing", landing },
	{ "narrow", narrow_wait },
	{ "zombie", zombie },
	{ "dispatch", dispatch },
	{ "dispatch-blocked", dispatch_blocked },
};

static int read_byte(void)
{
	char byte;

	return read(0, &byte, 1);
}

int (*wait_for_byte)(void) = read_byte;

int main(int argc, char **argv)
{
	if (argc < 3 || chdir(argv[2]))
		return 2;
	directory_name = argv[2];
	setvbuf(stdout, NULL, _IONBF, 0);
	for (size_t i = 0; i < sizeof(objects) / sizeof(*objects); i++) {
		if (strcmp(objects[i].name, argv[1]))
			continue;
		puts("waiting");
		if (read_byte() != 1)
			return 1;
		puts(objects[i].make() < 0 ? "lacks" : "ready");
		return wait_for_byte() != 1;
	}
	return 2;
}
