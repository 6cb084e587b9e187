// SPDX-License-Identifier: Apache-2.0
#include "output.h"

#include <cerrno>
#include <system_error>

#include <unistd.h>

void write_all(int fd, std::string_view text)
{
	while (!text.empty()) {
		const ssize_t written = write(fd, text.data(), text.size());
		if (written >= 0)
			text.remove_prefix(static_cast<std::size_t>(written));
		else if (errno != EINTR)
			throw std::system_error(errno, std::generic_category(), "write");
	}
}
