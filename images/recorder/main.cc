// SPDX-License-Identifier: Apache-2.0
// The number recorder: somebody types numbers into it, and it must not lose one while it moves.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>
#include <system_error>

#include <poll.h>
#include <unistd.h>

#include "clock.h"
#include "heap.h"
#include "numbers.h"
#include "options.h"
#include "output.h"
#include "ticker.h"

namespace
{
volatile sig_atomic_t asked;
volatile sig_atomic_t told_to_end;

void on_signal(int number)
{
	if (number == SIGUSR1)
		asked = 1;
	else
		told_to_end = 1;
}

// Signals are let in only while the program waits, so that none is seen too late.
sigset_t catch_signals()
{
	struct sigaction action = {};
	action.sa_handler = on_signal;
	sigset_t caught, before;
	sigemptyset(&caught);
	for (int number : { SIGUSR1, SIGTERM, SIGINT }) {
		sigaction(number, &action, nullptr);
		sigaddset(&caught, number);
	}
	sigprocmask(SIG_BLOCK, &caught, &before);
	return before;
}

class Recorder
{
public:
	explicit Recorder(const Options &options)
	    : before_(catch_signals()), heap_(options.heap_mib, options.rewrite, options.per_mille),
	      ticker_(options.tick), tick_(ticker_.on() ? nanoseconds / 1000 : 0),
	      rewrite_(options.rewrite == Choice::none ? 0
						       : options.every_ms * (nanoseconds / 1000))
	{
	}

	void run()
	{
		say("ready");
		while (!told_to_end && (open_ || ticker_.on() || rewrite_.due() != INT64_MAX)) {
			const bool readable = wait();
			const std::int64_t time = now(CLOCK_MONOTONIC);
			if (tick_.take(time))
				ticker_.tick();
			if (rewrite_.take(time))
				heap_.rewrite();
			if (asked) {
				asked = 0;
				say(ticker_.report());
			}
			if (readable)
				read_lines();
		}
	}

private:
	// Waits until something is due, typed or signalled; whether something was typed.
	bool wait()
	{
		pollfd input = { open_ ? STDIN_FILENO : -1, POLLIN, 0 };
		if (ticker_.on()) {
			sleep_until(std::min(tick_.due(), rewrite_.due()));
			return poll(&input, 1, 0) > 0;
		}
		const std::int64_t left = std::max<std::int64_t>(
		    0, rewrite_.due() == INT64_MAX ? 0 : rewrite_.due() - now(CLOCK_MONOTONIC));
		const timespec limit = { left / nanoseconds, left % nanoseconds };
		const bool forever = rewrite_.due() == INT64_MAX;
		return ppoll(&input, 1, forever ? nullptr : &limit, &before_) > 0;
	}

	void sleep_until(std::int64_t due)
	{
		const timespec time = { due / nanoseconds, due % nanoseconds };
		sigset_t blocked;
		sigprocmask(SIG_SETMASK, &before_, &blocked);
		while (!asked && !told_to_end &&
		       clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR)
			;
		sigprocmask(SIG_SETMASK, &blocked, nullptr);
	}

	void read_lines()
	{
		char buffer[4096];
		const ssize_t many = read(STDIN_FILENO, buffer, sizeof(buffer));
		if (many < 0 && errno != EINTR && errno != EAGAIN)
			throw std::system_error(errno, std::generic_category(), "read");
		if (many == 0)
			open_ = false;
		if (many > 0)
			typed_.append(buffer, static_cast<std::size_t>(many));
		std::size_t end;
		while ((end = typed_.find('\n')) != std::string::npos) {
			answer(typed_.substr(0, end));
			typed_.erase(0, end + 1);
		}
	}

	void answer(const std::string &line)
	{
		char *end;
		errno = 0;
		const std::int64_t number = std::strtoll(line.c_str(), &end, 10);
		if (line.empty() || *end || errno) {
			say("error: not a number: " + line);
		} else if (number > 0) {
			const std::size_t rank = numbers_.record(number);
			say("ok " + std::to_string(numbers_.count()) + ' ' +
			    std::to_string(number) + ' ' + std::to_string(rank));
		} else {
			report(number < 0);
		}
	}

	void report(bool anew)
	{
		const std::string gap = ticker_.on() ? ' ' + ticker_.report() : "";
		const char *heap = heap_.intact() ? " heap=intact" : " heap=damaged";
		// Before it is said: who reads it may stop this program at once.
		ticker_.pause();
		if (anew)
			ticker_.forget();
		say(numbers_.report() + heap + gap);
	}

	static void say(const std::string &line)
	{
		write_all(STDOUT_FILENO, line + '\n');
	}

	sigset_t before_;
	Heap heap_;
	Ticker ticker_;
	Pace tick_;
	Pace rewrite_;
	Numbers numbers_;
	std::string typed_;
	bool open_ = true;
};
} // namespace

int main(int argc, char **argv)
{
	const Options options = parse(argc, argv);
	try {
		Recorder(options).run();
	} catch (const std::exception &problem) {
		std::fprintf(stderr, "recorder: %s\n", problem.what());
		return 1;
	}
	return 0;
}
