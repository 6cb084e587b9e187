// SPDX-License-Identifier: Apache-2.0
#include "options.h"

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include <getopt.h>

namespace
{
constexpr char usage[] =
    "usage: recorder [--tick FILE|-] [--heap MIB] [--rewrite fixed|random] [--per-mille N]\n"
    "                [--every-ms MS]\n"
    "\n"
    "Reads integers, one a line. A positive one is recorded and answered with\n"
    "\"ok COUNT NUMBER RANK\". Zero is answered with what was recorded and whether the heap is\n"
    "intact, and so is a negative one, which also begins the largest gap anew.\n"
    "\n"
    "  --tick FILE|-   write CLOCK_REALTIME every millisecond, and report the largest gap (on\n"
    "                  zero and on SIGUSR1)\n"
    "  --heap MIB      how much memory to fill with a pattern that does not compress (10)\n"
    "  --rewrite WHICH rewrite eight bytes in some pages: fixed ones, or random ones each time\n"
    "  --per-mille N   in how many pages of a thousand (1)\n"
    "  --every-ms MS   how often (100)\n";

[[noreturn]] void wrong(const char *why)
{
	std::fprintf(stderr, "recorder: %s\n%s", why, usage);
	std::exit(2);
}

unsigned number(const char *text, unsigned least, unsigned most)
{
	char *end;
	const unsigned long value = std::strtoul(text, &end, 10);
	if (end == text || *end || value < least || value > most)
		wrong("a number is out of range");
	return static_cast<unsigned>(value);
}

Choice choice(std::string_view text)
{
	if (text == "fixed")
		return Choice::fixed;
	if (text == "random")
		return Choice::random;
	wrong("--rewrite takes fixed or random");
}
} // namespace

Options parse(int argc, char **argv)
{
	static const option known[] = {
		{ "tick", required_argument, nullptr, 't' },
		{ "heap", required_argument, nullptr, 'm' },
		{ "rewrite", required_argument, nullptr, 'r' },
		{ "per-mille", required_argument, nullptr, 'p' },
		{ "every-ms", required_argument, nullptr, 'e' },
		{ "help", no_argument, nullptr, 'h' },
		{},
	};
	Options options;
	int found;
	while ((found = getopt_long(argc, argv, "h", known, nullptr)) != -1) {
		if (found == 't')
			options.tick = optarg;
		else if (found == 'm')
			options.heap_mib = number(optarg, 0, 1 << 20);
		else if (found == 'r')
			options.rewrite = choice(optarg);
		else if (found == 'p')
			options.per_mille = number(optarg, 1, 1000);
		else if (found == 'e')
			options.every_ms = number(optarg, 1, 1000000);
		else if (found == 'h')
			std::exit(std::fputs(usage, stdout) < 0);
		else
			wrong("no such option");
	}
	if (optind < argc)
		wrong("no arguments, please");
	return options;
}
