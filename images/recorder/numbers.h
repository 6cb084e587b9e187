// SPDX-License-Identifier: Apache-2.0
// The numbers that were typed, in three structures that must agree after a move.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include <ext/pb_ds/assoc_container.hpp>
#include <ext/pb_ds/tree_policy.hpp>

class Numbers
{
public:
	// Records one number and returns its rank, from 1, among all different numbers so far.
	std::size_t record(std::int64_t number);

	std::uint64_t count() const
	{
		return count_;
	}

	// "count=N hash=HEX last=A,B,…": FNV-1a 64 over all numbers in order, each as eight bytes,
	// least significant first; the last eight numbers, oldest first.
	std::string report() const;

private:
	using Ordered = __gnu_pbds::tree<std::int64_t, __gnu_pbds::null_type,
					 std::less<std::int64_t>, __gnu_pbds::rb_tree_tag,
					 __gnu_pbds::tree_order_statistics_node_update>;

	static constexpr std::size_t kept = 1024;
	static constexpr std::size_t shown = 8;

	std::array<std::int64_t, kept> ring_{};
	std::uint64_t count_ = 0;
	std::uint64_t hash_ = 0xcbf29ce484222325u;
	Ordered ordered_;
};
