// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <ctime>

constexpr std::int64_t nanoseconds = 1000000000;

inline std::int64_t now(clockid_t clock)
{
	timespec time;
	clock_gettime(clock, &time);
	return time.tv_sec * nanoseconds + time.tv_nsec;
}

// Something that is due again and again; turns that were missed are left out.
class Pace
{
public:
	// Every `period` nanoseconds of CLOCK_MONOTONIC; never if it is zero.
	explicit Pace(std::int64_t period)
	    : period_(period), due_(period ? now(CLOCK_MONOTONIC) + period : INT64_MAX)
	{
	}

	std::int64_t due() const
	{
		return due_;
	}

	// Whether it is due now; if so, it is due again a period later.
	bool take(std::int64_t time)
	{
		if (time < due_)
			return false;
		due_ += ((time - due_) / period_ + 1) * period_;
		return true;
	}

private:
	std::int64_t period_;
	std::int64_t due_;
};
