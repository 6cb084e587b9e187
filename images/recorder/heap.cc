// SPDX-License-Identifier: Apache-2.0
#include "heap.h"

#include <new>
#include <vector>

namespace
{
// splitmix64 (Vigna, 2015): every bit of the result depends on every bit of x.
std::uint64_t mix(std::uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	return x ^ (x >> 31);
}

// The word of a page that rewrites change.
std::size_t changing(std::size_t page, std::size_t words)
{
	return mix(page) % words;
}

// What that word is after so many rewrites: each makes the next value out of the last one.
std::uint64_t rewritten(std::size_t page, std::uint32_t times)
{
	std::uint64_t value = mix(page);
	while (times--)
		value = mix(value);
	return value;
}
} // namespace

Heap::Heap(std::size_t mebibytes, Choice choice, unsigned per_mille)
    : pages_(mebibytes * (1 << 20) / page_size), choice_(choice), per_mille_(per_mille)
{
	const std::size_t size = pages_ * page_size;
	memory_.reset(static_cast<std::uint64_t *>(std::aligned_alloc(page_size, size)));
	if (!memory_ && size)
		throw std::bad_alloc();
	for (std::size_t word = 0; word < pages_ * words; word++)
		memory_.get()[word] = mix(~word);
	for (std::size_t page = 0; page < pages_; page++)
		memory_.get()[page * words + changing(page, words)] = rewritten(page, 0);
}

std::size_t Heap::taken() const
{
	return choice_ == Choice::none ? 0 : (pages_ * per_mille_ + 999) / 1000;
}

std::size_t Heap::pick(std::uint64_t rewrite, std::size_t turn) const
{
	if (choice_ == Choice::fixed)
		return turn * pages_ / taken();
	return mix(mix(rewrite) + turn) % pages_;
}

void Heap::rewrite()
{
	const std::size_t many = taken();
	for (std::size_t turn = 0; turn < many; turn++) {
		const std::size_t page = pick(rewrites_, turn);
		std::uint64_t *word = memory_.get() + page * words + changing(page, words);
		*word = mix(*word);
	}
	rewrites_++;
}

bool Heap::intact() const
{
	std::vector<std::uint32_t> times(pages_);
	for (std::uint64_t rewrite = 0; rewrite < rewrites_; rewrite++)
		for (std::size_t turn = 0; turn < taken(); turn++)
			times[pick(rewrite, turn)]++;
	bool good = true;
	for (std::size_t page = 0; page < pages_; page++)
		good = good && intact(page, times[page]);
	return good;
}

bool Heap::intact(std::size_t page, std::uint32_t times) const
{
	const std::uint64_t *memory = memory_.get();
	const std::size_t changed = page * words + changing(page, words);
	std::uint64_t wrong = memory[changed] ^ rewritten(page, times);
	for (std::size_t word = page * words; word < (page + 1) * words; word++)
		if (word != changed)
			wrong |= memory[word] ^ mix(~word);
	return !wrong;
}
