/* SPDX-License-Identifier: Apache-2.0 */
/* One thing of a process's state at a time; state.c says how it is asked. */
#ifndef STATE_H
#define STATE_H

struct thing {
	const char *name;
	void (*setup)(void);
	int (*check)(void);  /* 0 where it is as it was; more often than once */
	int (*finish)(void); /* uses it up, at the end */
};

extern const struct thing scheduling_things[];
extern const struct thing setting_things[];
extern const struct thing timer_things[];
extern const struct thing memory_things[];
extern const struct thing guard_things[];
extern const struct thing late_things[];
extern const struct thing rseq_things[];
extern const struct thing tile_things[];
extern const struct thing vector_things[];
extern const struct thing segment_things[];

/* Says what was found, and that it is wrong. */
__attribute__((format(printf, 1, 2))) int bad(const char *format, ...);

/* The machine does not have the thing: says so, and waits for the end. */
void lacks(void);

/* Ends the program where a call failed that must not. */
void need(long result, const char *what);

#endif
