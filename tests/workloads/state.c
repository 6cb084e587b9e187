// SPDX-License-Identifier: Apache-2.0
/*
 * state THING: sets up one thing that a process has, says "ready" ("lacks" where the machine does
 * not have it), and answers to every line of its input: "check" looks whether the thing is as it
 * was, "finish" uses it up.  Both say "ok" or "bad" with what was found.
 */
#define _GNU_SOURCE
#include "state.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const struct thing *const all[] = { scheduling_things, setting_things, timer_things,
					   memory_things,     guard_things,   late_things,
					   rseq_things,	      tile_things,    vector_things,
					   segment_things };
static char problem[256];

int bad(const char *format, ...)
{
	va_list list;

	va_start(list, format);
	vsnprintf(problem, sizeof(problem), format, list);
	va_end(list);
	return 1;
}

void lacks(void)
{
	if (write(1, "lacks\n", 6) != 6)
		_exit(98);
	pause();
	_exit(0);
}

void need(long result, const char *what)
{
	if (result < 0) {
		perror(what);
		_exit(99);
	}
}

static void say(const char *text)
{
	need(write(1, text, strlen(text)), "write");
}

static const struct thing *find(const char *name)
{
	for (size_t kind = 0; kind < sizeof(all) / sizeof(*all); kind++)
		for (const struct thing *thing = all[kind]; thing->name; thing++)
			if (!strcmp(thing->name, name))
				return thing;
	errno = ENOENT;
	need(-1, name);
	return NULL;
}

/* By read(2) and write(2) alone: a thing may forbid all others. */
static int next(char *line, size_t size)
{
	size_t used = 0;

	while (used < size - 1) {
		ssize_t count = read(0, line + used, 1);

		if (count < 0 && errno == EINTR)
			continue;
		if (count <= 0)
			return 0;
		if (line[used++] == '\n') {
			line[used - 1] = 0;
			return 1;
		}
	}
	return 0;
}

int main(int argc, char **argv)
{
	const struct thing *thing = find(argc > 1 ? argv[1] : "");
	static char line[64];
	int wrong;

	thing->setup();
	say("ready\n");
	while (next(line, sizeof(line))) {
		if (!strcmp(line, "finish"))
			wrong = thing->finish ? thing->finish() : 0;
		else
			wrong = thing->check ? thing->check() : 0;
		if (wrong) {
			say("bad: ");
			say(problem);
			say("\n");
		} else {
			say("ok\n");
		}
	}
	_exit(0);
}
