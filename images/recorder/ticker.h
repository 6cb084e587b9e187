// SPDX-License-Identifier: Apache-2.0
// Ticks of the clock on the wall: the largest gap between two is how long the program stood still.
#pragma once

#include <cstdint>
#include <string>

class Ticker
{
public:
	// Opens where the ticks go: a file, or "-" for standard output; nowhere if it is empty.
	explicit Ticker(const std::string &path);

	bool on() const
	{
		return fd_ >= 0;
	}

	// Writes a line "tick N", N being CLOCK_REALTIME in nanoseconds.
	void tick();

	// Leaves out of account what lies between the last tick and now: the program was busy.
	void pause();

	// "gap_us=N": the largest gap so far, in microseconds.
	std::string report() const;

	void forget();

private:
	int fd_ = -1;
	std::int64_t last_ = 0;
	std::int64_t gap_ = 0;
};
