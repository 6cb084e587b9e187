// SPDX-License-Identifier: Apache-2.0
#include "numbers.h"

#include <algorithm>
#include <cinttypes>
#include <cstdio>

std::size_t Numbers::record(std::int64_t number)
{
	ring_[count_++ % kept] = number;
	for (int byte = 0; byte < 8; byte++) {
		hash_ ^= static_cast<std::uint64_t>(number) >> (8 * byte) & 0xff;
		hash_ *= 0x100000001b3u;
	}
	ordered_.insert(number);
	return ordered_.order_of_key(number) + 1;
}

std::string Numbers::report() const
{
	char head[80];
	std::snprintf(head, sizeof(head), "count=%" PRIu64 " hash=%016" PRIx64 " last=", count_,
		      hash_);
	std::string text = head;
	const std::uint64_t many = std::min<std::uint64_t>(count_, shown);
	for (std::uint64_t i = count_ - many; i < count_; i++) {
		text += std::to_string(ring_[i % kept]);
		if (i + 1 < count_)
			text += ',';
	}
	return text;
}
