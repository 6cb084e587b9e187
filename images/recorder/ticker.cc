// SPDX-License-Identifier: Apache-2.0
#include "ticker.h"

#include <algorithm>
#include <cerrno>
#include <system_error>

#include <fcntl.h>
#include <unistd.h>

#include "clock.h"
#include "output.h"

Ticker::Ticker(const std::string &path)
{
	if (path.empty())
		return;
	fd_ = path == "-" ? STDOUT_FILENO
			  : open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (fd_ < 0)
		throw std::system_error(errno, std::generic_category(), path);
	last_ = now(CLOCK_REALTIME);
}

void Ticker::tick()
{
	const std::int64_t time = now(CLOCK_REALTIME);
	gap_ = std::max(gap_, time - last_);
	last_ = time;
	write_all(fd_, "tick " + std::to_string(time) + "\n");
}

void Ticker::pause()
{
	last_ = now(CLOCK_REALTIME);
}

std::string Ticker::report() const
{
	return "gap_us=" + std::to_string(gap_ / 1000);
}

void Ticker::forget()
{
	gap_ = 0;
}
