// SPDX-License-Identifier: Apache-2.0
/* Guard pages, which fault though they are mapped. */
#define _GNU_SOURCE
#include "state_area.h"
#include <fcntl.h>
#include <stdint.h>
#include <sys/mman.h>

#define GUARD_INSTALL 102

static int guards; /* page 3 to 5, and 9 */

static void guard(void)
{
	if (madvise(area + 3 * PAGE, 3 * PAGE, GUARD_INSTALL) ||
	    madvise(area + 9 * PAGE, PAGE, GUARD_INSTALL))
		lacks();
	guards = 1;
}

static void guarded(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	guard();
}

static int guarded_check(void)
{
	for (int i = 0; i < PAGES; i++) {
		int guarded = guards && ((i >= 3 && i < 6) || i == 9);

		if (faults(area + i * PAGE) != guarded)
			return bad("page %d does %s", i, guarded ? "not fault" : "fault");
		if (!guarded && *(uint64_t *)(area + i * PAGE) != 0x1000UL + i)
			return bad("page %d", i);
	}
	return 0;
}

/* In a file that is shared for reading: our own program. */
static void guarded_file(void)
{
	int file = open("/proc/self/exe", O_RDONLY);

	area = mmap(NULL, 3 * PAGE, PROT_READ, MAP_SHARED, file, 0);
	if (area == MAP_FAILED || madvise(area + PAGE, PAGE, GUARD_INSTALL))
		lacks(); /* before Linux 6.15 */
}

static int guarded_file_check(void)
{
	for (int i = 0; i < 3; i++)
		if (faults(area + i * PAGE) != (i == 1))
			return bad("page %d", i);
	return 0;
}

static void late_guard(void)
{
	area = map(MAP_PRIVATE, SIZE);
	mark(area, PAGES);
	if (madvise(map(MAP_PRIVATE, PAGE), PAGE, GUARD_INSTALL))
		lacks(); /* before it is too late */
}

static int late_guard_now(void)
{
	guard();
	return 0;
}

const struct thing guard_things[] = {
	{ "guarded", guarded, guarded_check, NULL },
	{ "guarded-file", guarded_file, guarded_file_check, NULL },
	{ "late-guard", late_guard, guarded_check, late_guard_now },
	{ NULL, NULL, NULL, NULL },
};
