// SPDX-License-Identifier: Apache-2.0
/* The commands of the program that checks itself; carried.h says what it is for. */
#define _GNU_SOURCE
#include "carried.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static const struct item *const all[] = { memory_items, signal_items, file_items, process_items };
static char input[4096];
static size_t buffered;
static int leave;

void die(const char *what)
{
	perror(what);
	_exit(99);
}

void fill(void *place, size_t size, uint64_t seed)
{
	uint64_t *word = place;

	for (size_t i = 0; i < size / 8; i++) {
		seed = seed * 6364136223846793005UL + 1442695040888963407UL;
		word[i] = seed;
	}
}

int differs(const void *place, size_t size, uint64_t seed)
{
	const uint64_t *word = place;

	for (size_t i = 0; i < size / 8; i++) {
		seed = seed * 6364136223846793005UL + 1442695040888963407UL;
		if (word[i] != seed)
			return 1;
	}
	return 0;
}

static void say(const char *text)
{
	size_t left = strlen(text);

	while (left) {
		long count = write(1, text, left);

		if (count < 0 && errno != EINTR)
			_exit(98);
		if (count > 0) {
			text += count;
			left -= count;
		}
	}
}

/* Waits for a line with a pattern in every register; NULL at the end of the input. */
static char *next_line(void)
{
	static char line[256];
	char *end;

	while (!(end = memchr(input, '\n', buffered))) {
		long count =
		    registers_call(SYS_read, 0, (long)input + buffered, sizeof(input) - buffered);

		if (count == -EINTR)
			continue;
		if (count < 0) {
			errno = -count;
			die("read");
		}
		if (count == 0)
			return NULL;
		buffered += count;
	}
	*end = 0;
	snprintf(line, sizeof(line), "%.200s", input);
	buffered -= end + 1 - input;
	memmove(input, end + 1, buffered);
	return line;
}

static void check(void)
{
	char answer[4096] = "bad:";

	for (size_t kind = 0; kind < sizeof(all) / sizeof(*all); kind++)
		for (const struct item *item = all[kind]; item->name; item++)
			if (item->verify()) {
				strcat(answer, " ");
				strcat(answer, item->name);
			}
	if (registers_bad)
		strcat(answer, " registers");
	if (!strcmp(answer, "bad:"))
		strcpy(answer, "ok");
	strcat(answer, "\n");
	say(answer);
}

static void spin(void)
{
	uint64_t before = registers_turns;

	registers_stop = 0; /* before anybody knows, for the signal may come at once */
	say("spinning\n");
	registers_spin();
	say(registers_turns > before ? "spun\n" : "did not spin\n");
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static void sleep_for(long millis)
{
	struct timespec length = { millis / 1000, millis % 1000 * 1000000 };
	char answer[64];
	uint64_t start;
	long result;

	say("sleeping\n");
	start = now();
	result = registers_call(SYS_nanosleep, (long)&length, 0, 0);
	snprintf(answer, sizeof(answer), "slept %ld %lu\n", result, now() - start);
	say(answer);
}

static void tell_clocks(void)
{
	struct timespec monotonic, boottime;
	char answer[128];

	clock_gettime(CLOCK_MONOTONIC, &monotonic);
	clock_gettime(CLOCK_BOOTTIME, &boottime);
	snprintf(answer, sizeof(answer), "%ld%09ld %ld%09ld\n", monotonic.tv_sec, monotonic.tv_nsec,
		 boottime.tv_sec, boottime.tv_nsec);
	say(answer);
}

static void tell_seen(void)
{
	char answer[64];

	snprintf(answer, sizeof(answer), "%d %d %d %d\n", seen[SIGUSR1], seen[SIGUSR2],
		 seen[SIGHUP], seen[SIGRTMIN]);
	say(answer);
}

static void tell_taken(void)
{
	char answer[64];

	snprintf(answer, sizeof(answer), "took %d\n", take_pending());
	say(answer);
}

static void tick(long micros)
{
	struct itimerval often = { { 0, micros }, { 0, micros } };

	if (setitimer(ITIMER_REAL, &often, NULL))
		die("setitimer");
}

static void tell_ticks(void)
{
	int enough = seen[SIGALRM] + 3;

	for (int i = 0; i < 1000 && seen[SIGALRM] < enough; i++)
		usleep(10000);
	tick(0);
	say(seen[SIGALRM] < enough ? "silent\n" : "ticked\n");
}

static void obey(void);

static void stay(void)
{
	say("there\n");
	while (!leave)
		obey();
	leave = 0;
}

static void obey(void)
{
	char *line = next_line();

	if (!line)
		_exit(registers_bad ? 97 : 0);
	if (!strcmp(line, "check"))
		check();
	else if (!strcmp(line, "spin")) /* until SIGUSR1 */
		spin();
	else if (!strncmp(line, "sleep ", 6)) /* milliseconds */
		sleep_for(atol(line + 6));
	else if (!strcmp(line, "clocks")) /* monotonic and boottime, ns */
		tell_clocks();
	else if (!strcmp(line, "seen")) /* SIGUSR1, SIGUSR2, SIGHUP, SIGRTMIN */
		tell_seen();
	else if (!strcmp(line, "take")) /* the pending signals */
		tell_taken();
	else if (!strcmp(line, "tick")) /* SIGALRM often, from here on */
		tick(5000), say("ticking\n");
	else if (!strcmp(line, "ticks")) /* wait for some more, and no more then */
		tell_ticks();
	else if (!strcmp(line, "over")) /* go on on a small alternate stack */
		on_alternate_stack(stay);
	else if (!strcmp(line, "back")) /* and come back from there */
		leave = 1, say("here\n");
	else if (!strcmp(line, "confine"))
		confine(), say("confined\n");
	else if (!strcmp(line, "confined"))
		say(confined() ? "no\n" : "yes\n");
	else
		say("what?\n");
}

int main(int argc, char **argv)
{
	if (argc < 2 || chdir(argv[1]))
		die("usage: carried DIRECTORY");
	registers_setup();
	for (size_t kind = 0; kind < sizeof(all) / sizeof(*all); kind++)
		for (const struct item *item = all[kind]; item->name; item++)
			item->setup();
	say("ready\n");
	for (;;)
		obey();
}
