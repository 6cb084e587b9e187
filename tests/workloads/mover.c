// SPDX-License-Identifier: Apache-2.0
/*
 * Moves its memory about without pause, lets it grow and shrink, gives some up and maps some anew,
 * grows its heap, and knows what every page holds.
 *
 * A line on standard input is answered by one: the longest mremap(2) since the last in nanoseconds,
 * how many there were in all, and how many pages were wrong.
 */
#define _GNU_SOURCE
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define BLOCKS 4
#define PLACES 9
#define MOST 96 /* pages of a block */
#define HEAP 512
#define HOME 0x2000000000UL
#define DISTANCE (MOST * PAGE)

struct block {
	unsigned int place, pages;
	uint64_t word[MOST]; /* the first one of each page */
};

static struct block block[BLOCKS];
static uint64_t heap_word[HEAP], number;
static unsigned int heap_pages, moves;
static char *heap;
static uint64_t longest;

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static char *address(unsigned int place)
{
	return (char *)HOME + place * DISTANCE;
}

static volatile uint64_t *page(const struct block *b, unsigned int i)
{
	return (void *)(address(b->place) + i * PAGE);
}

static unsigned int free_place(void)
{
	for (;;) {
		unsigned int place = random() % PLACES, i = 0;

		while (i < BLOCKS && block[i].place != place)
			i++;
		if (i == BLOCKS)
			return place;
	}
}

static void map(struct block *b)
{
	const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE;

	b->place = free_place();
	b->pages = MOST / 4 + random() % (MOST / 2);
	if (mmap(address(b->place), b->pages * PAGE, 3, flags, -1, 0) != address(b->place))
		die("mmap");
	for (unsigned int i = 0; i < b->pages; i++)
		b->word[i] = *page(b, i) = ++number;
}

static void unmap(struct block *b)
{
	munmap(address(b->place), b->pages * PAGE);
	b->place = PLACES;
}

static void move(struct block *b)
{
	unsigned int place = free_place(), pages = b->pages + random() % 9 - 4;
	uint64_t before, took;
	void *found;

	if (pages < 2 || pages > MOST)
		pages = b->pages;
	before = now();
	found = mremap(address(b->place), b->pages * PAGE, pages * PAGE,
		       MREMAP_MAYMOVE | MREMAP_FIXED, address(place));
	took = now() - before;
	if (found != address(place))
		die("mremap");
	longest = took > longest ? took : longest;
	moves++;
	b->place = place;
	for (; b->pages < pages; b->pages++)
		b->word[b->pages] = 0;
	b->pages = pages;
}

static void write_some(struct block *b)
{
	for (int i = random() % 4; i; i--) {
		unsigned int at = random() % b->pages;

		b->word[at] = *page(b, at) = ++number;
	}
}

static void grow_heap(void)
{
	if (heap_pages == HEAP || sbrk(PAGE) == (void *)-1)
		return;
	heap_word[heap_pages] = *(volatile uint64_t *)(heap + heap_pages * PAGE) = ++number;
	heap_pages++;
}

static unsigned int wrong_pages(void)
{
	unsigned int wrong = 0;

	for (unsigned int i = 0; i < BLOCKS; i++)
		for (unsigned int j = 0; j < block[i].pages; j++)
			wrong += *page(&block[i], j) != block[i].word[j];
	for (unsigned int i = 0; i < heap_pages; i++)
		wrong += *(volatile uint64_t *)(heap + i * PAGE) != heap_word[i];
	return wrong;
}

static int asked(void)
{
	struct pollfd input = { 0, POLLIN, 0 };
	char line[64];

	if (poll(&input, 1, 0) != 1)
		return 0;
	if (read(0, line, sizeof(line)) <= 0)
		exit(0);
	return 1;
}

int main(void)
{
	heap = sbrk(0);
	heap += -(uintptr_t)heap % PAGE;
	if (brk(heap))
		die("brk");
	for (int i = 0; i < BLOCKS; i++)
		block[i].place = PLACES;
	for (int i = 0; i < BLOCKS; i++)
		map(&block[i]);
	for (unsigned int turn = 0;; turn++) {
		struct block *b = &block[random() % BLOCKS];

		move(b);
		write_some(b);
		if (turn % 64 == 0) {
			unmap(b);
			map(b);
			grow_heap();
		}
		if (turn % 16 == 0 && asked()) {
			dprintf(1, "%lu %u %u\n", longest, moves, wrong_pages());
			longest = 0;
		}
	}
}
