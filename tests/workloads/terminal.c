// SPDX-License-Identifier: Apache-2.0
/*
 * Says what each read(2) from its terminal returns, and which signals came from there:
 *
 *	terminal [raw] [more] [detached] [nobody]
 *
 * raw: a mode of its own; more: the terminal open in several ways; detached: gives it up as its
 * controlling one; nobody: a group that is gone is in the foreground.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

enum { CONSOLE = 5, SLAVE = 6, COPY = 7 };

static void say(int number)
{
	static const char *const names[] = {
		[SIGINT] = "INT", [SIGQUIT] = "QUIT", [SIGTSTP] = "TSTP"
	};
	char text[64];
	struct winsize size;
	int length;

	ioctl(0, TIOCGWINSZ, &size);
	if (number == SIGWINCH)
		length = snprintf(text, sizeof(text), "<%dx%d>\n", size.ws_col, size.ws_row);
	else
		length = snprintf(text, sizeof(text), "<%s>\n", names[number]);
	if (write(1, text, (size_t)length) != length)
		_exit(2);
}

static void open_more(void)
{
	dup2(open("/dev/tty", O_RDWR | O_NONBLOCK), CONSOLE);
	dup3(open(ttyname(0), O_WRONLY | O_APPEND | O_NOCTTY), SLAVE, O_CLOEXEC);
	dup2(1, COPY);
	close(3);
	close(4);
}

static void leave_foreground(void)
{
	pid_t child = fork();

	if (!child)
		_exit(pause());
	setpgid(child, child);
	tcsetpgrp(0, child);
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
	signal(SIGTTOU, SIG_IGN);
	signal(SIGTTIN, SIG_IGN);
}

static void make_raw(void)
{
	struct termios raw;

	tcgetattr(0, &raw);
	cfmakeraw(&raw);
	raw.c_oflag |= OPOST | ONLCR;
	raw.c_iflag |= IUTF8;
	raw.c_lflag |= ISIG;
	raw.c_cc[VMIN] = 3;
	raw.c_cc[VTIME] = 0;
	raw.c_cc[VINTR] = 'I';
	tcsetattr(0, TCSANOW, &raw);
}

static void show(const unsigned char *data, ssize_t size)
{
	ssize_t i;

	putchar('[');
	for (i = 0; i < size; i++)
		if (data[i] > ' ' && data[i] < 127)
			putchar(data[i]);
		else
			printf("\\%02x", data[i]);
	puts("]");
}

int main(int argc, char **argv)
{
	static const int signals[] = { SIGINT, SIGQUIT, SIGTSTP, SIGWINCH };
	static unsigned char data[8192];
	struct sigaction action = { .sa_handler = say, .sa_flags = SA_RESTART };
	size_t each;
	int i;

	for (each = 0; each < sizeof(signals) / sizeof(*signals); each++)
		sigaction(signals[each], &action, NULL);
	setvbuf(stdout, NULL, _IOLBF, 16384);
	for (i = 1; i < argc; i++)
		if (!strcmp(argv[i], "raw")) {
			make_raw();
		} else if (!strcmp(argv[i], "more")) {
			open_more();
		} else if (!strcmp(argv[i], "nobody")) {
			leave_foreground();
		} else if (!strcmp(argv[i], "detached")) {
			signal(SIGHUP, SIG_IGN);
			ioctl(0, TIOCNOTTY);
			signal(SIGHUP, SIG_DFL);
		}
	puts("ready");
	for (;;) {
		ssize_t size = read(0, data, sizeof(data));

		if (size < 0)
			_exit(pause());
		show(data, size);
		if (size == 4 && !memcmp(data, "all\n", 4)) {
			dprintf(CONSOLE, "console\n");
			dprintf(SLAVE, "slave\n");
			dprintf(COPY, "copy\n");
		}
		if (size == 4 && !memcmp(data, "end\n", 4))
			return 0;
	}
}
