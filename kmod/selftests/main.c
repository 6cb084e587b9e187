// SPDX-License-Identifier: GPL-2.0
/*
 * selftest                    every test, each in a process of its own
 * selftest fuzz SEED BATCHES  random batches
 * A line a test on standard output: ok, FAIL or skip, and its name; the exit status is 0 only if
 * none failed. What may be skipped is for the caller to know.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests.h"

#define LIMIT 120 /* seconds a test */
#define SKIPPED 4 /* the exit status of kselftest's */

void skip(void)
{
	_exit(SKIPPED);
}

static bool passes(const struct test *test)
{
	int status = 0;
	bool skipped;
	pid_t child;

	fflush(NULL);
	child = fork();
	if (child < 0)
		return false;
	if (!child) {
		alarm(LIMIT);
		test->run();
		_exit(0);
	}
	while (waitpid(child, &status, 0) < 0) {
		if (errno != EINTR)
			return false;
	}
	skipped = WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED;
	printf("%s %s\n", skipped ? "skip" : status ? "FAIL" : "ok", test->name);
	return skipped || !status;
}

static int run_all(void)
{
	const struct test *const groups[] = { moves, calls, refusals, limits, races };
	const struct test *test;
	bool good = true;
	size_t i;

	for (i = 0; i < sizeof(groups) / sizeof(*groups); i++) {
		for (test = groups[i]; test->run; test++)
			good = passes(test) && good;
	}
	return good ? EXIT_SUCCESS : EXIT_FAILURE;
}

int main(int argc, char **argv)
{
	if (argc == 1)
		return run_all();
	if (argc == 4 && !strcmp(argv[1], "fuzz")) {
		fuzz(strtoull(argv[2], NULL, 0), (unsigned int)strtoul(argv[3], NULL, 0));
		printf("ok fuzz %s: %s batches\n", argv[2], argv[3]);
		return EXIT_SUCCESS;
	}
	fprintf(stderr, "usage: %s [fuzz SEED BATCHES]\n", argv[0]);
	return 2;
}
