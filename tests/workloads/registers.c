// SPDX-License-Identifier: Apache-2.0
/* Every register holds a pattern while the process waits, or while it computes. */
#include "carried.h"
#include <cpuid.h>
#include <immintrin.h>
#include <stdio.h>
#include <string.h>

#define STATE_ROOM 16384
#define LEGACY 512 /* x87 and SSE, then a header of 64 bytes (Intel SDM vol. 1, 13.4) */
#define HEADER 576
#define REGISTERS 14
#define KINDS 8 /* x87, SSE, AVX, (MPX: 2), opmask, upper halves of zmm, zmm16-31 */
#define WANTED 0xe7UL

struct frame {
	void *in_state;
	void *out_state;
	uint64_t mask;
	uint64_t result;
	uint64_t in[REGISTERS]; /* rax rbx rcx rdx rsi rdi rbp r8 r9 r10 r12 r13 r14 r15 */
	uint64_t out[REGISTERS];
};

void registers_run_call(struct frame *frame);
void registers_run_spin(struct frame *frame);

int registers_bad;
volatile int registers_stop;
volatile uint64_t registers_turns;

static unsigned char in_state[STATE_ROOM] __attribute__((aligned(64)));
static unsigned char out_state[STATE_ROOM] __attribute__((aligned(64)));
static uint64_t mask;
static unsigned int place[KINDS], size[KINDS];

__attribute__((target("xsave"))) static uint64_t enabled(void)
{
	return _xgetbv(0);
}

static void find_components(void)
{
	unsigned int a = 0, b = 0, c, d;

	mask = enabled() & WANTED;
	for (int kind = 2; kind < KINDS; kind++) {
		if (!(mask >> kind & 1))
			continue;
		if (!__get_cpuid_count(0xd, kind, &a, &b, &c, &d))
			die("cpuid");
		size[kind] = a;
		place[kind] = b;
	}
}

void registers_setup(void)
{
	static const unsigned char one[10] = { 0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f };
	unsigned char *header = in_state + LEGACY;

	find_components();
	for (int i = 0; i < 8; i++) { /* a full stack of x87 numbers: 1.0 and its neighbours */
		memcpy(in_state + 32 + 16 * i, one, sizeof(one));
		in_state[32 + 16 * i] = i;
	}
	*(uint16_t *)in_state = 0x0b7f;	       /* control word: round up, double precision */
	in_state[4] = 0xff;		       /* all eight in use */
	*(uint32_t *)(in_state + 24) = 0x5f80; /* MXCSR: round up, all masked */
	for (int i = 0; i < 256; i++)
		in_state[160 + i] = i * 7 + 1;
	for (int kind = 2; kind < KINDS; kind++)
		for (unsigned int i = 0; i < size[kind]; i++)
			in_state[place[kind] + i] = i * 13 + kind;
	memcpy(header, &mask, 8);
}

static int state_differs(void)
{
	if (memcmp(in_state, out_state, 2) || in_state[4] != out_state[4] ||
	    memcmp(in_state + 24, out_state + 24, 4))
		return 1;
	for (int i = 0; i < 8; i++)
		if (memcmp(in_state + 32 + 16 * i, out_state + 32 + 16 * i, 10))
			return 1;
	if (memcmp(in_state + 160, out_state + 160, 256))
		return 1;
	for (int kind = 2; kind < KINDS; kind++)
		if (memcmp(in_state + place[kind], out_state + place[kind], size[kind]))
			return 1;
	return 0;
}

static void prepare(struct frame *frame)
{
	memset(frame, 0, sizeof(*frame));
	memset(out_state, 0, sizeof(out_state));
	frame->in_state = in_state;
	frame->out_state = out_state;
	frame->mask = mask;
	for (int i = 0; i < REGISTERS; i++)
		frame->in[i] = 0x1111111111111111UL * (i + 1);
}

static void compare(const struct frame *frame, uint64_t unknown)
{
	for (int i = 0; i < REGISTERS; i++)
		if (!(unknown >> i & 1) && frame->in[i] != frame->out[i]) {
			fprintf(stderr, "register %d is %#lx\n", i, frame->out[i]);
			registers_bad++;
		}
	if (state_differs()) {
		fprintf(stderr, "the extended state differs\n");
		registers_bad++;
	}
}

long registers_call(long nr, long a, long b, long c)
{
	struct frame frame;

	prepare(&frame);
	frame.in[0] = nr;
	frame.in[5] = a;
	frame.in[4] = b;
	frame.in[3] = c;
	registers_run_call(&frame);
	compare(&frame, 1 << 0 | 1 << 2); /* the result, and rcx, which the call uses */
	return (long)frame.result;
}

void registers_spin(void)
{
	struct frame frame;

	prepare(&frame);
	registers_run_spin(&frame);
	compare(&frame, 1 << 0);
	registers_bad += frame.result != 0;
}
