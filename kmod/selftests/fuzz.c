// SPDX-License-Identifier: GPL-2.0
/*
 * Random batches on an arena, compared with a model of it: what is mapped, and what is in each
 * page. Values that make no sense are mixed in. Each operation has the result that the model says;
 * one that is refused leaves the model true.
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
#define FILE_PAGES 32
#define MAX_OPS 8
#define USER_END 0x7ffffffff000UL
#define UNREADABLE (-1L)

/* What is mapped in a place; two pages of one file have their content in common. */
struct page {
	enum { NOTHING, ANONYMOUS, PRIVATE, SHARED } kind;
	uint64_t index; /* in the file */
	bool own;	/* written to */
	int64_t token;	/* its first word, where it is its own */
};

struct arena {
	struct subject subject;
	int memory;
	int shared, private; /* a file that is only mapped shared, and one that is not */
	uint64_t random;
	struct page page[PAGES];
	int64_t file[FILE_PAGES]; /* the first word of each page of the shared one */
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
	static const uint64_t odd[] = { 0, 1, PAGE - 1, ~0UL, ~0UL << 12, 1UL << 56, 1UL << 63 };

	return odd[below(arena, sizeof(odd) / sizeof(*odd))];
}

static void spoil(struct arena *arena, struct livemig_op *op)
{
	switch (below(arena, 9)) {
	case 0:
		op->kind = (uint32_t)below(arena, 9);
		break;
	case 1:
		op->flags = (uint32_t)next(arena);
		break;
	case 2:
		op->addr = odd_value(arena);
		break;
	case 3:
		op->length = odd_value(arena);
		break;
	case 4:
		op->new_length = odd_value(arena);
		break;
	case 5:
		op->offset = odd_value(arena);
		break;
	case 6:
		op->prot = (uint32_t)next(arena);
		break;
	case 7:
		op->fd = (int32_t)(next(arena) | 1 << 24);
		break;
	default:
		op->new_addr = odd_value(arena);
	}
}

static uint64_t run_of_one_kind(const struct arena *arena, uint64_t from)
{
	uint64_t end = from;

	while (end < PAGES && arena->page[end].kind == arena->page[from].kind)
		end++;
	return end - from;
}

/* What is to be moved has to be there, and one mapping: mostly it is, where little is at random. */
static void aim(struct arena *arena, struct livemig_op *op)
{
	uint64_t room, run, place = (op->addr - ARENA) / PAGE;

	if (below(arena, 8) && arena->page[place].kind != NOTHING) {
		run = run_of_one_kind(arena, place);
		op->length = (1 + below(arena, run < 8 ? run : 8)) * PAGE;
	}
	op->new_addr = below(arena, 8) ? address(arena) : op->addr;
	room = ARENA + PAGES * PAGE - op->new_addr;
	op->new_length = below(arena, 2) ? op->length : (1 + below(arena, 8)) * PAGE;
	if (op->new_length > room)
		op->new_length = room;
}

static void choose_file(struct arena *arena, struct livemig_op *op)
{
	op->offset = below(arena, FILE_PAGES) * PAGE;
	op->fd = arena->private;
	if (below(arena, 2)) {
		op->fd = arena->shared;
		op->flags |= LIVEMIG_SHARED;
	}
}

/* Never beyond the arena, where the subject has its own memory. */
static struct livemig_op random_op(struct arena *arena)
{
	static const uint32_t kinds[] = { LIVEMIG_MOVE, LIVEMIG_MOVE,	  LIVEMIG_MOVE,
					  LIVEMIG_MAP,	LIVEMIG_MAP_FILE, LIVEMIG_UNMAP };
	struct livemig_op op = { .kind = kinds[below(arena, 6)], .addr = address(arena) };
	uint64_t room;

	while (op.kind == LIVEMIG_MOVE && below(arena, 4) &&
	       arena->page[(op.addr - ARENA) / PAGE].kind == NOTHING)
		op.addr = address(arena);
	room = (ARENA + PAGES * PAGE - op.addr) / PAGE;
	op.length = (1 + below(arena, room < 8 ? room : 8)) * PAGE;
	if (op.kind != LIVEMIG_UNMAP && below(arena, 2))
		op.flags = LIVEMIG_REPLACE;
	if (op.kind == LIVEMIG_MOVE)
		aim(arena, &op);
	else if (op.kind != LIVEMIG_UNMAP)
		op.prot = PROT_READ | PROT_WRITE;
	if (op.kind == LIVEMIG_MAP_FILE)
		choose_file(arena, &op);
	if (!below(arena, 10))
		spoil(arena, &op);
	return op;
}

static bool makes_sense(uint64_t addr, uint64_t length)
{
	return length && !((addr | length) % PAGE) && length <= USER_END &&
	       addr <= USER_END - length;
}

static bool inside(uint64_t addr, uint64_t length)
{
	return addr >= ARENA && length <= PAGES * PAGE && addr - ARENA <= PAGES * PAGE - length;
}

static bool maps(const struct livemig_op *op)
{
	return op->kind == LIVEMIG_MAP || op->kind == LIVEMIG_MAP_FILE;
}

/* What the header of the device says of an operation, whatever the memory is. */
static bool well_formed(const struct livemig_op *op)
{
	static const uint32_t flags[] = {
		[LIVEMIG_MOVE] = LIVEMIG_REPLACE,
		[LIVEMIG_MAP] = LIVEMIG_REPLACE | LIVEMIG_GROWSDOWN | LIVEMIG_NORESERVE,
		[LIVEMIG_MAP_FILE] = LIVEMIG_REPLACE | LIVEMIG_NORESERVE | LIVEMIG_SHARED,
		[LIVEMIG_UNMAP] = 0,
	};

	if (op->kind < LIVEMIG_MOVE || op->kind > LIVEMIG_UNMAP || op->flags & ~flags[op->kind])
		return false;
	if (op->kind == LIVEMIG_MOVE ? !makes_sense(op->new_addr, op->new_length)
				     : op->new_addr || op->new_length)
		return false;
	if (op->kind == LIVEMIG_MAP_FILE ? op->offset % PAGE : op->fd || op->offset)
		return false;
	return makes_sense(op->addr, op->length) && op->prot < (maps(op) ? 8 : 1);
}

/* What could hurt the subject itself, or is not in the model. */
static bool harmless(const struct arena *arena, const struct livemig_op *op)
{
	bool shared = op->flags & LIVEMIG_SHARED;

	if (op->kind == LIVEMIG_MOVE_VDSO)
		return false;
	if (!well_formed(op))
		return true;
	if (op->flags & LIVEMIG_GROWSDOWN)
		return false;
	if (op->kind == LIVEMIG_MAP_FILE && op->fd >= 0 && op->fd < 1 << 24 &&
	    op->fd != (shared ? arena->shared : arena->private))
		return false;
	if (maps(op) && op->prot != (PROT_READ | PROT_WRITE))
		return false;
	return inside(op->addr, op->length) &&
	       (op->kind != LIVEMIG_MOVE || inside(op->new_addr, op->new_length));
}

static uint64_t mapped(const struct arena *arena, uint64_t from, uint64_t count)
{
	uint64_t i, found = 0;

	for (i = from; i < from + count; i++)
		found += arena->page[i].kind != NOTHING;
	return found;
}

static int64_t expected_of_map(const struct arena *arena, const struct livemig_op *op)
{
	bool file = op->kind == LIVEMIG_MAP_FILE;

	if (file && op->fd != arena->shared && op->fd != arena->private)
		return -EBADF;
	if (file && op->offset + op->length < op->offset)
		return -EINVAL;
	if (!(op->flags & LIVEMIG_REPLACE) &&
	    mapped(arena, (op->addr - ARENA) / PAGE, op->length / PAGE))
		return -EEXIST;
	return file && op->offset >> 63 ? -EOVERFLOW : (int64_t)op->addr;
}

static int64_t expected_of_move(const struct arena *arena, const struct livemig_op *op)
{
	uint64_t from = (op->addr - ARENA) / PAGE, to = (op->new_addr - ARENA) / PAGE;
	uint64_t length = op->length / PAGE, new_length = op->new_length / PAGE;
	bool replaces = op->flags & LIVEMIG_REPLACE;

	if (mapped(arena, from, length) < length)
		return -EFAULT;
	if (from == to && replaces)
		return -EINVAL;
	if (from != to && from < to + new_length && to < from + length)
		return -EINVAL;
	if (from == to && new_length > length && mapped(arena, from + length, new_length - length))
		return -EEXIST;
	if (from != to && !replaces && mapped(arena, to, new_length))
		return -EEXIST;
	return (int64_t)op->new_addr;
}

/* The result that an operation must have, but that what is moved may be more than one mapping. */
static int64_t expected(const struct arena *arena, const struct livemig_op *op)
{
	if (!well_formed(op))
		return -EINVAL;
	if (op->kind == LIVEMIG_MOVE)
		return expected_of_move(arena, op);
	return op->kind == LIVEMIG_UNMAP ? (int64_t)op->addr : expected_of_map(arena, op);
}

/* Whether it is, as the kernel sees it: the model does not know what has merged. */
static bool in_one_mapping(const struct arena *arena, uint64_t addr, uint64_t length)
{
	uint64_t start, end;
	char path[64], line[512];
	bool found = false;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", arena->subject.pid);
	maps = fopen(path, "re");
	require(maps);
	while (!found && fgets(line, sizeof(line), maps))
		found = sscanf(line, "%lx-%lx", &start, &end) == 2 && start <= addr &&
			addr + length <= end;
	fclose(maps);
	return found;
}

/* The memory is as it was before the operation, or as it was when it was refused. */
static void require_right(const struct arena *arena, const struct livemig_op *op)
{
	int64_t wanted = expected(arena, op);

	if (op->kind == LIVEMIG_MOVE && well_formed(op) && op->result == -EFAULT &&
	    !in_one_mapping(arena, op->addr, op->length))
		return;
	require(op->result == wanted, "kind %u: %ld, not %ld", op->kind, (long)op->result, wanted);
}

static void model_move(struct arena *arena, const struct livemig_op *op)
{
	struct page *from = arena->page + (op->addr - ARENA) / PAGE;
	struct page *to = arena->page + (op->new_addr - ARENA) / PAGE;
	uint64_t i, length = op->length / PAGE, new_length = op->new_length / PAGE;
	struct page moved[PAGES];

	memcpy(moved, from, length * sizeof(*from));
	memset(from, 0, length * sizeof(*from));
	for (i = length; i < new_length; i++)
		moved[i] = (struct page){ .kind = moved[0].kind, .index = moved[i - 1].index + 1 };
	memcpy(to, moved, new_length * sizeof(*to));
}

static void model(struct arena *arena, const struct livemig_op *op)
{
	struct page *page = arena->page + (op->addr - ARENA) / PAGE;
	uint64_t i;

	if (op->kind == LIVEMIG_MOVE) {
		model_move(arena, op);
		return;
	}
	for (i = 0; i < op->length / PAGE; i++) {
		page[i] = (struct page){ .kind = NOTHING };
		if (op->kind == LIVEMIG_MAP)
			page[i].kind = ANONYMOUS;
		if (op->kind != LIVEMIG_MAP_FILE)
			continue;
		page[i].kind = op->flags & LIVEMIG_SHARED ? SHARED : PRIVATE;
		page[i].index = op->offset / PAGE + i;
	}
}

static int64_t of_private_file(uint64_t index)
{
	return (int64_t)(1000 + index);
}

static int64_t content(const struct arena *arena, const struct page *page)
{
	if (page->kind == NOTHING)
		return UNREADABLE;
	if (page->own || page->kind == ANONYMOUS)
		return page->token;
	if (page->index >= FILE_PAGES)
		return UNREADABLE;
	return page->kind == SHARED ? arena->file[page->index] : of_private_file(page->index);
}

static void write_tokens(struct arena *arena)
{
	unsigned int i;

	for (i = 0; i < 4; i++) {
		uint64_t place = below(arena, PAGES);
		int64_t token = (int64_t)(next(arena) >> 1);
		struct page *page = arena->page + place;

		if (content(arena, page) == UNREADABLE)
			continue;
		require(pwrite(arena->memory, &token, 8, (off_t)(ARENA + place * PAGE)) == 8);
		if (page->kind == SHARED) {
			arena->file[page->index] = token;
			continue;
		}
		page->own = true;
		page->token = token;
	}
}

static void compare(struct arena *arena)
{
	uint64_t page;

	for (page = 0; page < PAGES; page++) {
		int64_t found = UNREADABLE, wanted = content(arena, arena->page + page);

		if (pread(arena->memory, &found, 8, (off_t)(ARENA + page * PAGE)) != 8)
			found = UNREADABLE;
		require(found == wanted, "page %lu: %#lx, not %#lx", page, found, wanted);
	}
}

static void one_batch(struct arena *arena)
{
	struct livemig_op ops[MAX_OPS];
	unsigned int i, done, count = 1 + (unsigned int)below(arena, MAX_OPS);

	for (i = 0; i < count; i++) {
		do {
			ops[i] = random_op(arena);
		} while (!harmless(arena, &ops[i]));
	}
	require(!run_batch(arena->subject.pidfd, ops, count, &done));
	require(done <= count && (done == count || ops[done].result < 0));
	for (i = 0; i < done; i++) {
		require(ops[i].result >= 0);
		require_right(arena, &ops[i]);
		model(arena, &ops[i]);
		arena->moved += ops[i].kind == LIVEMIG_MOVE;
	}
	if (done < count)
		require_right(arena, &ops[done]);
	compare(arena);
	write_tokens(arena);
}

static void make_files(struct arena *arena)
{
	uint64_t i;

	arena->shared = memfd_create("shared", MFD_CLOEXEC);
	arena->private = memfd_create("private", MFD_CLOEXEC);
	require(arena->shared >= 0 && !ftruncate(arena->shared, FILE_PAGES * PAGE));
	require(arena->private >= 0 && !ftruncate(arena->private, FILE_PAGES * PAGE));
	for (i = 0; i < FILE_PAGES; i++) {
		int64_t token = of_private_file(i);

		require(pwrite(arena->private, &token, 8, (off_t)(i * PAGE)) == 8);
	}
}

void fuzz(uint64_t seed, unsigned int batches)
{
	struct arena arena = { .random = seed * 2 + 1 };
	char path[64];
	unsigned int i;

	make_files(&arena);
	arena.subject = subject_start();
	snprintf(path, sizeof(path), "/proc/%d/mem", arena.subject.pid);
	arena.memory = open(path, O_RDWR | O_CLOEXEC);
	require(arena.memory >= 0);
	subject_stop(&arena.subject);
	for (i = 0; i < batches; i++)
		one_batch(&arena);
	require(arena.moved >= batches / 5, "only %u were moved", arena.moved);
	subject_continue(&arena.subject);
	subject_ask(&arena.subject, ORDER_STACK, 0, 0, 0);
	subject_end(&arena.subject);
}
