// SPDX-License-Identifier: Apache-2.0
/*
 * Holds one object of the kind that its argument names, says so, and then answers each line of
 * standard input with "alive LINE": holder KIND
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <err.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/inotify.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096

static void *wait_for_ever(void *unused)
{
	for (;;)
		pause();
	return unused;
}

static int thread(void)
{
	pthread_t made;

	return pthread_create(&made, NULL, wait_for_ever, NULL);
}

static int child(void)
{
	pid_t made = fork();

	if (made == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		wait_for_ever(NULL);
	}
	return made;
}

static int map(int flags, int fd)
{
	return mmap(NULL, PAGE, PROT_READ | PROT_WRITE, flags, fd, 0) == MAP_FAILED ? -1 : 0;
}

static int scratch(void)
{
	int fd = open("/tmp/scratch", O_RDWR | O_CREAT, 0600);

	return ftruncate(fd, PAGE) ? -1 : fd;
}

static int shared(void)
{
	return map(MAP_SHARED | MAP_ANONYMOUS, -1);
}

static int shared_file(void)
{
	return map(MAP_SHARED, scratch());
}

static int deleted_map(void)
{
	int fd = scratch();

	return map(MAP_PRIVATE, fd) || close(fd) || unlink("/tmp/scratch") ? -1 : 0;
}

static int deleted_file(void)
{
	return scratch() < 0 ? -1 : unlink("/tmp/scratch");
}

static int memfd(void)
{
	return memfd_create("held", 0);
}

static int pipes(void)
{
	int ends[2];

	return pipe(ends);
}

static int unix_socket(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static int bound(struct sockaddr_in *address)
{
	socklen_t size = sizeof(*address);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	memset(address, 0, size);
	address->sin_family = AF_INET;
	address->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(fd, (struct sockaddr *)address, size) || listen(fd, 1))
		return -1;
	return getsockname(fd, (struct sockaddr *)address, &size) ? -1 : fd;
}

static int listening(void)
{
	struct sockaddr_in address;

	return bound(&address);
}

static int connection(void)
{
	struct sockaddr_in address;
	int listener = bound(&address), fd = socket(AF_INET, SOCK_STREAM, 0);

	if (connect(fd, (struct sockaddr *)&address, sizeof(address)))
		return -1;
	return accept(listener, NULL, NULL) < 0 ? -1 : close(listener);
}

static int event(void)
{
	return eventfd(0, 0);
}

static int epoll(void)
{
	return epoll_create1(0);
}

static int timer_descriptor(void)
{
	return timerfd_create(CLOCK_MONOTONIC, 0);
}

static int signal_descriptor(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	return signalfd(-1, &set, 0);
}

static int notify(void)
{
	return inotify_init();
}

static int lock(void)
{
	return flock(scratch(), LOCK_EX);
}

static int record_lock(void)
{
	struct flock whole = { .l_type = F_WRLCK };

	return fcntl(scratch(), F_SETLK, &whole);
}

static int posix_timer(void)
{
	timer_t made;

	return timer_create(CLOCK_MONOTONIC, NULL, &made);
}

static int locked_memory(void)
{
	static char page[PAGE];

	return mlock(page, sizeof(page));
}

static int changed_root(void)
{
	return chroot("/tmp");
}

static int posix_shared(void)
{
	int fd = shm_open("/held", O_CREAT | O_RDWR, 0600);

	return ftruncate(fd, PAGE) ? -1 : close(fd);
}

static int sysv_shared(void)
{
	return shmget(IPC_PRIVATE, PAGE, IPC_CREAT | 0600);
}

static int sysv_attached(void)
{
	return shmat(sysv_shared(), NULL, 0) == (void *)-1 ? -1 : 0;
}

static int sysv_semaphore(void)
{
	return semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
}

static int sysv_queue(void)
{
	return msgget(IPC_PRIVATE, IPC_CREAT | 0600);
}

static int kernel_file(void)
{
	return open("/proc/self/status", O_RDONLY);
}

static const struct {
	const char *name;
	int (*hold)(void);
} kinds[] = {
	{ "thread", thread },
	{ "child", child },
	{ "shared", shared },
	{ "shared-file", shared_file },
	{ "deleted-map", deleted_map },
	{ "deleted-file", deleted_file },
	{ "memfd", memfd },
	{ "pipe", pipes },
	{ "unix-socket", unix_socket },
	{ "listening", listening },
	{ "connection", connection },
	{ "eventfd", event },
	{ "epoll", epoll },
	{ "timerfd", timer_descriptor },
	{ "signalfd", signal_descriptor },
	{ "inotify", notify },
	{ "flock", lock },
	{ "record-lock", record_lock },
	{ "timer", posix_timer },
	{ "mlock", locked_memory },
	{ "chroot", changed_root },
	{ "posix-shm", posix_shared },
	{ "sysv-shm", sysv_shared },
	{ "sysv-attached", sysv_attached },
	{ "sysv-sem", sysv_semaphore },
	{ "sysv-msg", sysv_queue },
	{ "proc-file", kernel_file },
};

int main(int argc, char **argv)
{
	char line[256];

	setvbuf(stdout, NULL, _IOLBF, 0);
	for (size_t i = 0; argc == 2 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		if (strcmp(argv[1], kinds[i].name))
			continue;
		if (kinds[i].hold() < 0)
			err(1, "%s", argv[1]);
		printf("holds %s\n", argv[1]);
		while (fgets(line, sizeof(line), stdin))
			printf("alive %s", line);
		return 0;
	}
	errx(2, "usage: holder KIND");
}
