/* SPDX-License-Identifier: Apache-2.0 */
/* One area of memory that is looked at: what smaps says of it, and what its pages hold. */
#ifndef STATE_AREA_H
#define STATE_AREA_H

#include "state.h"
#include <stddef.h>

#define PAGE 4096L
#define PAGES 64
#define SIZE (PAGES * PAGE)

extern char *area;
extern char wanted[256]; /* its flags */

/* What smaps says of the area that ends at an address, but for what tracking and use change: its
 * flags, and how much of it is in huge pages, in KiB; -1 where there is none. */
long smaps(const char *end, char *flags, size_t size);

void mark(char *place, int pages);
int marked(const char *place, int pages); /* 0 where they are as they were marked */

/* Maps memory between two holes, so that it is an area of its own whatever it is like. */
char *map(int flags, long size);

/* Notes the flags that the area has now, which are those that it should have. */
void note(void);

/* 0 where flags and pages of the area are as they were. */
int flags_check(void);

/* Makes it an area with some advice of madvise(2). */
void advised(int advice);

/* Whether reading a byte is a fault. */
int faults(volatile char *place);

#endif
