/* SPDX-License-Identifier: Apache-2.0 */
/*
 * carried: a program that checks itself.
 *
 * It sets up one thing of every kind that a process has, says "ready", and then answers commands,
 * one a line (main() lists them).  "check" looks at every thing again and answers "ok", or "bad:"
 * with the names of those that are not as they were.
 */
#ifndef CARRIED_H
#define CARRIED_H

#include <stddef.h>
#include <stdint.h>

struct item {
	const char *name;
	void (*setup)(void);
	int (*verify)(void); /* 0 where it is as it was */
};

extern const struct item memory_items[];
extern const struct item signal_items[];
extern const struct item file_items[];
extern const struct item process_items[];

/* Ends the program with a message, for what must not fail while setting up. */
void die(const char *what);

/* A page-sized pattern that depends on seed alone. */
void fill(void *place, size_t size, uint64_t seed);
int differs(const void *place, size_t size, uint64_t seed);

/* Tells whether reading or writing a byte faults. */
int faults(volatile char *place, int write);

/* Pending signals that setup queued: takes and compares them, answers how many were right. */
int take_pending(void);

/* Signals that a handler saw. */
extern volatile int seen[65];

/* Runs answer() from a handler on a small alternate stack with something precious below it. */
void on_alternate_stack(void (*answer)(void));

/*
 * Registers: a system call, or a loop without one, in which every register holds a pattern.
 * Both return after they have compared all of them; registers_bad counts what differed.
 */
void registers_setup(void);
long registers_call(long nr, long a, long b, long c);
void registers_spin(void);
extern int registers_bad;
extern volatile int registers_stop;
extern volatile uint64_t registers_turns;

/* Confines the process: groups, users, capabilities, no_new_privs, a seccomp filter. */
void confine(void);
int confined(void);

#endif
