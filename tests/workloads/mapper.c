// SPDX-License-Identifier: Apache-2.0
/*
 * mapper: does to its memory what it is told, so that a test can drive it from a seed.
 *
 * mapper FILE [DIRECT]: reads struct command from standard input and answers each with a 64-bit
 * result.  A write that faults answers -EFAULT and leaves the rest of the command undone.
 * Descriptor 3 is FILE, 4 is /dev/urandom, 5 is /dev/zero, 6 is DIRECT, opened with O_DIRECT where
 * its file system has that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <unistd.h>

enum operation { CALL, FILL, POKE, PEEK, EXEC };

struct command {
	uint64_t operation;
	uint64_t number;      /* of a system call, or the seed of what is written */
	uint64_t argument[6]; /* of the call, or address and length in bytes */
};

static sigjmp_buf back;

static void caught(int number)
{
	siglongjmp(back, number);
}

static int64_t work(const struct command *command)
{
	const uint64_t *a = command->argument;
	volatile uint64_t *word = (void *)a[0];
	uint64_t seed = command->number, sum = 0;

	switch (command->operation) {
	case CALL: {
		long result = syscall(command->number, a[0], a[1], a[2], a[3], a[4], a[5]);

		return result == -1 ? -errno : result;
	}
	case FILL: /* every word */
		for (uint64_t i = 0; i < a[1] / 8; i++) {
			seed = seed * 6364136223846793005UL + 1442695040888963407UL;
			word[i] = seed;
		}
		return 0;
	case POKE: /* one word a page */
		for (uint64_t i = 0; i < a[1] / 8; i += 512)
			word[i] = seed + i;
		return 0;
	case PEEK:
		for (uint64_t i = 0; i < a[1] / 8; i += 512)
			sum += word[i];
		return sum & 0xff;
	case EXEC: /* once it has been answered */
		return 0;
	}
	return -EINVAL;
}

static int open_all(int argc, char **argv)
{
	if (argc < 2 || open(argv[1], O_RDWR | O_CLOEXEC) != 3 ||
	    open("/dev/urandom", O_RDONLY | O_CLOEXEC) != 4 ||
	    open("/dev/zero", O_RDONLY | O_CLOEXEC) != 5)
		return -1;
	if (argc > 2 && open(argv[2], O_RDONLY | O_DIRECT | O_CLOEXEC) < 0)
		return open(argv[2], O_RDONLY | O_CLOEXEC);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = caught, .sa_flags = SA_NODEFER };
	static struct command command;

	if (open_all(argc, argv) < 0)
		return 2;
	sigaction(SIGSEGV, &action, NULL);
	sigaction(SIGBUS, &action, NULL);
	for (;;) {
		size_t have = 0;
		int64_t result;

		while (have < sizeof(command)) {
			ssize_t count = read(0, (char *)&command + have, sizeof(command) - have);

			if (count <= 0)
				return 0;
			have += count;
		}
		result = sigsetjmp(back, 1) ? -EFAULT : work(&command);
		if (write(1, &result, sizeof(result)) != sizeof(result))
			return 1;
		if (command.operation == EXEC)
			return execv("/proc/self/exe", argv);
	}
}
