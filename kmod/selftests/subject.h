/* SPDX-License-Identifier: GPL-2.0 */
/* A process whose memory is changed under it, and which looks whether it is still right. */
#ifndef SUBJECT_H
#define SUBJECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <uapi/livemig.h>

#define PAGE 4096UL

struct subject {
	pid_t pid;
	int pidfd;
	int orders;
	int answers;
};

/* What a subject can be asked to do, at an address of its own. */
enum order {
	ORDER_FILL,  /* fill with the pattern of seed */
	ORDER_CHECK, /* compare with the pattern of seed, then write to and check each page */
	ORDER_READ,  /* compare with the pattern of seed */
	ORDER_CLOCK, /* compare the clock that the vDSO at the address tells with the kernel's */
	ORDER_STACK, /* use much of the stack */
	ORDER_HEAP,  /* allocate and free, growing the heap */
	ORDER_LOCK,  /* mlock(2) */
	ORDER_RING,  /* have io_uring(7) start a worker of its own */
	ORDER_WATCH, /* ask to be told of its unmapping by a userfaultfd(2), and never listen */
};

/* Ends the process with a message that names the place. */
#define require(condition, ...)                                                                    \
	require_at(__FILE__, __LINE__, condition, #condition, " " __VA_ARGS__)
__attribute__((format(printf, 5, 6))) void require_at(const char *file, int line, bool condition,
						      const char *text, const char *format, ...);

/* Fill memory with the pattern of a seed. */
void fill(void *place, size_t length, uint64_t seed);

/* Whether memory has it. */
bool holds(const volatile uint64_t *words, size_t length, uint64_t seed);

/* Start a subject; it has inherited all of our memory, and dies with us. */
struct subject subject_start(void);

/* Have it carry out an order, and end the test unless it finds that all is well. */
void subject_ask(const struct subject *subject, enum order order, uint64_t addr, size_t length,
		 uint64_t seed);

/* Attach and stop it; let it run on; end it. */
void subject_stop(const struct subject *subject);
void subject_continue(const struct subject *subject);
void subject_end(struct subject *subject);

/* Start, end of the mapping that has this name in /proc/PID/maps, false without one. */
bool subject_find(const struct subject *subject, const char *name, uint64_t *start, uint64_t *end);

/* The device, opened once. */
int device(void);

/* LIVEMIG_RUN; returns 0 or a negative errno. */
int run_batch(int pidfd, struct livemig_op *ops, unsigned int count, unsigned int *done);

/* An operation that maps a page which can be read. */
struct livemig_op map_page(uint64_t addr);

/* Run one operation, which must be looked at; returns its result. */
int64_t run_one(const struct subject *subject, struct livemig_op op);

/* An address where neither we nor a subject have anything, a gigabyte each. */
#define FREE_PLACE(index) (0x100000000000UL + ((uint64_t)(index) << 30))

#endif
