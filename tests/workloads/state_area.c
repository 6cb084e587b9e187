// SPDX-License-Identifier: Apache-2.0
#define _GNU_SOURCE
#include "state_area.h"
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

char *area;
char wanted[256];
static sigjmp_buf back;

long smaps(const char *end, char *flags, size_t size)
{
	static char line[512];
	FILE *file = fopen("/proc/self/smaps", "r");
	unsigned long first = 0, last = 0;
	long huge = 0, found = -1;

	if (!file)
		need(-1, "smaps");
	while (found < 0 && fgets(line, sizeof(line), file)) {
		if (sscanf(line, "%lx-%lx ", &first, &last) == 2)
			continue;
		sscanf(line, "AnonHugePages: %ld", &huge);
		if (!strncmp(line, "VmFlags:", 8) && last == (unsigned long)end) {
			*flags = 0;
			for (char *word = strtok(line + 8, " \n"); word; word = strtok(NULL, " \n"))
				if (strcmp(word, "uw") && strcmp(word, "sd") &&
				    strlen(flags) + 4 < size)
					strcat(strcat(flags, word), " ");
			found = huge;
		}
	}
	fclose(file);
	return found;
}

void mark(char *place, int pages)
{
	for (int i = 0; i < pages; i++)
		*(uint64_t *)(place + i * PAGE) = 0x1000 + i;
}

int marked(const char *place, int pages)
{
	for (int i = 0; i < pages; i++)
		if (*(const uint64_t *)(place + i * PAGE) != 0x1000UL + i)
			return bad("page %d", i);
	return 0;
}

char *map(int flags, long size)
{
	char *place = mmap(NULL, size + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	place = mmap(place + PAGE, size, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS | MAP_FIXED,
		     -1, 0);
	if (place == MAP_FAILED)
		lacks();
	return place;
}

void note(void)
{
	if (smaps(area + SIZE, wanted, sizeof(wanted)) < 0)
		need(-1, "no such area");
}

int flags_check(void)
{
	char found[256] = "none";

	smaps(area + SIZE, found, sizeof(found));
	if (strcmp(found, wanted))
		return bad("%s, not %s", found, wanted);
	return marked(area, PAGES);
}

void advised(int advice)
{
	area = map(MAP_PRIVATE, SIZE);
	if (madvise(area, SIZE, advice))
		lacks();
	mark(area, PAGES);
	note();
}

static void caught(int number)
{
	siglongjmp(back, number);
}

int faults(volatile char *place)
{
	int result = 1;

	signal(SIGSEGV, caught);
	if (!sigsetjmp(back, 1)) {
		(void)*place;
		result = 0;
	}
	signal(SIGSEGV, SIG_DFL);
	return result;
}
