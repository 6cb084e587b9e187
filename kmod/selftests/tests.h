/* SPDX-License-Identifier: GPL-2.0 */
/* The selftests, each of which runs in a process of its own and returns if all was well. */
#ifndef SELFTESTS_H
#define SELFTESTS_H

#include <stdbool.h>
#include <stdint.h>

#define NOBODY 65534 /* a user without rights */

struct test {
	const char *name;
	void (*run)(void);
};

extern const struct test moves[], calls[], refusals[], limits[], races[];

/* End a test for which this machine lacks something, after it has looked for it. */
_Noreturn void skip(void);

/* Random batches, compared with what the memory should look like; ends the process on a difference.
 */
void fuzz(uint64_t seed, unsigned int batches);

#endif
