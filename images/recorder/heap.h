// SPDX-License-Identifier: Apache-2.0
// Memory full of a pattern that does not compress, some of it rewritten again and again.
//
// Every word can be computed from its place and from how often its page was rewritten, and the
// pages that a rewrite takes from the number of that rewrite. So the check needs no second copy,
// and sees a byte that was damaged as well as a rewrite that was lost or came twice.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

enum class Choice { none, fixed, random };

class Heap
{
public:
	// `per_mille` pages of each thousand are taken by one rewrite: always the same, or others
	// each time.
	Heap(std::size_t mebibytes, Choice choice, unsigned per_mille);

	// Rewrites eight bytes in each page whose turn it is.
	void rewrite();

	// Whether every byte is what it must be.
	bool intact() const;

private:
	struct Free {
		void operator()(std::uint64_t *memory) const
		{
			std::free(memory);
		}
	};

	static constexpr std::size_t page_size = 4096;
	static constexpr std::size_t words = page_size / sizeof(std::uint64_t);

	bool intact(std::size_t page, std::uint32_t times) const;
	std::size_t taken() const;
	std::size_t pick(std::uint64_t rewrite, std::size_t turn) const;

	std::size_t pages_;
	Choice choice_;
	unsigned per_mille_;
	std::uint64_t rewrites_ = 0;
	std::unique_ptr<std::uint64_t, Free> memory_;
};
