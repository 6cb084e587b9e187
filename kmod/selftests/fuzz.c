// SPDX-License-Identifier: GPL-2.0
/*
 * Random batches on an arena, compared with a model of it: what is mapped, and what is in each
 * page. Values that make no sense are mixed in; an operation that is refused must leave the model
 * true.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "subject.h"
#include "tests.h"

#define ARENA FREE_PLACE(8)
#define PAGES 128
#define MAX_OPS 8
#define UNMAPPED (-1L)

struct arena {
	struct subject subject;
	int memory;
	uint64_t random;
	int64_t token[PAGES]; /* the first word of each page, or UNMAPPED */
	unsigned int moved;
};

static uint64_t next(struct arena *arena)
{
	/* xorshift64* (Vigna 2014) */
	arena->random ^= arena->random >> 12;
	arena->random ^= arena->random << 25;
	arena->random ^= arena->random >> 27;
	return arena->random * 0x2545f4914f6cdd1dULL;
}

static uint64_t below(struct arena *arena, uint64_t limit)
{
	return next(arena) % limit;
}

static uint64_t address(struct arena *arena)
{
	return ARENA + below(arena, PAGES) * PAGE;
}

static uint64_t odd_value(struct arena *arena)
{
	static const uint64_t odd[] = { 0, 1, PAGE - 1, ~0UL, ~0UL << 12, 1UL << 47, 1UL << 63 };

	return odd[below(arena, sizeof(odd) / sizeof(*odd))];
}

static void spoil(struct arena *arena, struct livemig_op *op)
{
	switch (below(arena, 8)) {
	case 0:
		op->kind = (uint32_t)below(arena, 9);
		break;
	case 1:
		op->flags = (uint32_t)next(arena);
		break;
	case 2:
		op->length = odd_value(arena);
		break;
	case 3:
		op->new_length = odd_value(arena);
		break;
	case 4:
		op->offset = odd_value(arena);
		break;
	case 5:
		op->prot = (uint32_t)next(arena);
		break;
	case 6:
		op->fd = (int32_t)next(arena);
		break;
	default:
		op->new_addr = odd_value(arena);
	}
}

/* Never beyond the arena, where the subject has its own memory. */
static struct livemig_op random_op(struct arena *arena, bool *spoiled)
{
	static const uint32_t kinds[] = { LIVEMIG_MOVE, LIVEMIG_MOVE, LIVEMIG_MAP, LIVEMIG_UNMAP };
	struct livemig_op op = { .kind = kinds[below(arena, 4)], .addr = address(arena) };
	uint64_t room = (ARENA + PAGES * PAGE - op.addr) / PAGE;

	op.length = (1 + below(arena, room < 8 ? room : 8)) * PAGE;
	if (op.kind == LIVEMIG_MOVE) {
		op.new_addr = below(arena, 8) ? address(arena) : op.addr;
		room = (ARENA + PAGES * PAGE - op.new_addr) / PAGE;
		op.new_length = below(arena, 2) ? op.length : (1 + below(arena, 8)) * PAGE;
		if (op.new_length > room * PAGE)
			op.new_length = room * PAGE;
	} else if (op.kind == LIVEMIG_MAP) {
		op.prot = PROT_READ | PROT_WRITE;
	}
	if (op.kind != LIVEMIG_UNMAP && below(arena, 2))
		op.flags = LIVEMIG_REPLACE;
	*spoiled = !below(arena, 10);
	if (*spoiled)
		spoil(arena, &op);
	return op;
}

static bool inside(uint64_t addr, uint64_t length)
{
	return addr >= ARENA && length <= PAGES * PAGE && addr - ARENA <= PAGES * PAGE - length;
}

/* What could hurt the subject itself, or is not in the model. */
static bool harmless(const struct livemig_op *op)
{
	if (op->kind == LIVEMIG_MOVE_VDSO || op->kind == LIVEMIG_MAP_FILE)
		return false;
	if (op->flags & LIVEMIG_GROWSDOWN && op->kind == LIVEMIG_MAP)
		return false;
	if (op->kind == LIVEMIG_MAP && op->prot != (PROT_READ | PROT_WRITE) && op->prot < 8)
		return false;
	return inside(op->addr, op->length) &&
	       (op->kind != LIVEMIG_MOVE || inside(op->new_addr, op->new_length));
}

static uint64_t mapped(const struct arena *arena, uint64_t from, uint64_t count)
{
	uint64_t i, found = 0;

	for (i = from; i < from + count; i++)
		found += arena->token[i] != UNMAPPED;
	return found;
}

/* Whether an operation would do what it must not: it lies within the arena. */
static bool must_be_refused(const struct arena *arena, const struct livemig_op *op)
{
	uint64_t from = (op->addr - ARENA) / PAGE, to = (op->new_addr - ARENA) / PAGE;
	uint64_t length = op->length / PAGE, new_length = op->new_length / PAGE;
	bool replaces = op->flags & LIVEMIG_REPLACE;

	if (op->kind == LIVEMIG_MAP)
		return !replaces && mapped(arena, from, length);
	if (op->kind != LIVEMIG_MOVE)
		return false;
	if (mapped(arena, from, length) < length)
		return true;
	if (from == to)
		return replaces ||
		       (new_length > length && mapped(arena, from + length, new_length - length));
	if (from < to + new_length && to < from + length)
		return true;
	return !replaces && mapped(arena, to, new_length);
}

static void model(struct arena *arena, const struct livemig_op *op)
{
	uint64_t from = (op->addr - ARENA) / PAGE, to = (op->new_addr - ARENA) / PAGE;
	uint64_t i, length = op->length / PAGE, new_length = op->new_length / PAGE;
	int64_t moved[PAGES];

	if (op->kind == LIVEMIG_MAP || op->kind == LIVEMIG_UNMAP) {
		for (i = 0; i < length; i++)
			arena->token[from + i] = op->kind == LIVEMIG_MAP ? 0 : UNMAPPED;
		return;
	}
	for (i = 0; i < length; i++) {
		moved[i] = arena->token[from + i];
		arena->token[from + i] = UNMAPPED;
	}
	for (i = 0; i < new_length; i++)
		arena->token[to + i] = i < length ? moved[i] : 0;
}

static void write_tokens(struct arena *arena)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		uint64_t page = below(arena, PAGES);
		int64_t token = (int64_t)(next(arena) >> 1);

		if (arena->token[page] == UNMAPPED)
			continue;
		require(pwrite(arena->memory, &token, 8, (off_t)(ARENA + page * PAGE)) == 8);
		arena->token[page] = token;
	}
}

static void compare(struct arena *arena)
{
	uint64_t page;

	for (page = 0; page < PAGES; page++) {
		int64_t found = UNMAPPED;

		if (pread(arena->memory, &found, 8, (off_t)(ARENA + page * PAGE)) != 8)
			found = UNMAPPED;
		require(found == arena->token[page], "page %lu: %#lx, not %#lx", page, found,
			arena->token[page]);
	}
}

static void one_batch(struct arena *arena)
{
	struct livemig_op ops[MAX_OPS];
	unsigned int i, done, count = 1 + (unsigned int)below(arena, MAX_OPS);
	bool spoiled[MAX_OPS];

	for (i = 0; i < count; i++) {
		do {
			ops[i] = random_op(arena, &spoiled[i]);
		} while (!harmless(&ops[i]));
	}
	require(!run_batch(arena->subject.pidfd, ops, count, &done));
	require(done <= count && (done == count || ops[done].result < 0));
	for (i = 0; i < done; i++) {
		require(ops[i].result >= 0 && !must_be_refused(arena, &ops[i]));
		model(arena, &ops[i]);
		arena->moved += ops[i].kind == LIVEMIG_MOVE;
	}
	/* Of memory that is to be moved the model does not know whether it is one mapping. */
	if (done < count)
		require(must_be_refused(arena, &ops[done]) || spoiled[done] ||
			ops[done].kind == LIVEMIG_MOVE);
	compare(arena);
	write_tokens(arena);
}

void fuzz(uint64_t seed, unsigned int batches)
{
	struct arena arena = { .random = seed * 2 + 1 };
	char path[64];
	unsigned int i;

	memset(arena.token, 0xff, sizeof(arena.token));
	arena.subject = subject_start();
	snprintf(path, sizeof(path), "/proc/%d/mem", arena.subject.pid);
	arena.memory = open(path, O_RDWR | O_CLOEXEC);
	require(arena.memory >= 0);
	subject_stop(&arena.subject);
	for (i = 0; i < batches; i++)
		one_batch(&arena);
	require(arena.moved >= batches / 20, "only %u were moved", arena.moved);
	subject_continue(&arena.subject);
	subject_ask(&arena.subject, ORDER_STACK, 0, 0, 0);
	subject_end(&arena.subject);
}
