// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <string>

#include "heap.h"

struct Options {
	std::string tick;
	std::size_t heap_mib = 10;
	Choice rewrite = Choice::none;
	unsigned per_mille = 1;
	unsigned every_ms = 100;
};

// Reads the command line; writes the usage and exits if it asks for that or is wrong.
Options parse(int argc, char **argv);
