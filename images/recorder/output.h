// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string_view>

// Writes all of it, however long that takes; throws std::system_error if it cannot.
void write_all(int fd, std::string_view text);
