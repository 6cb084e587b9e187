// SPDX-License-Identifier: Apache-2.0
/* What is open: files with their offsets and flags, directories, devices; where the process is. */
#define _GNU_SOURCE
#include "carried.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define HIGH 200

static int plain, twin, other, appending, directory, null, random_device, high;
static char *where;
static struct rlimit limit;
static off_t position = 7;
static size_t appended;

static int opened(const char *name, int flags)
{
	int file = open(name, flags, 0640);

	if (file < 0)
		die(name);
	return file;
}

static void files_setup(void)
{
	plain = opened("plain", O_RDWR | O_CREAT | O_TRUNC);
	if (write(plain, "0123456789abcdef", 16) != 16 || lseek(plain, position, SEEK_SET) < 0)
		die("plain");
	twin = dup(plain);
	other = opened("plain", O_RDONLY | O_CLOEXEC);
	appending = opened("appended", O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_NONBLOCK);
	high = fcntl(other, F_DUPFD_CLOEXEC, HIGH);
	close(opened("plain", O_RDONLY)); /* leave a hole in the numbers */
	directory = opened(".", O_RDONLY | O_DIRECTORY);
	null = opened("/dev/null", O_RDWR);
	random_device = opened("/dev/urandom", O_RDONLY);
}

static int flags_differ(int file, int status, int close_on_exec)
{
	int all = O_ACCMODE | O_APPEND | O_NONBLOCK;

	return (fcntl(file, F_GETFL) & all) != status ||
	       !(fcntl(file, F_GETFD) & FD_CLOEXEC) != !close_on_exec;
}

static int flags_verify(void)
{
	return flags_differ(plain, O_RDWR, 0) || flags_differ(twin, O_RDWR, 0) ||
	       flags_differ(other, O_RDONLY, 1) || high != HIGH ||
	       flags_differ(high, O_RDONLY, 1) || flags_differ(null, O_RDWR, 0) ||
	       flags_differ(appending, O_WRONLY | O_APPEND | O_NONBLOCK, 0);
}

/* Two descriptors share the position where they did, and only there. */
static int position_verify(void)
{
	char byte;

	if (lseek(plain, 0, SEEK_CUR) != position || lseek(twin, 0, SEEK_CUR) != position)
		return 1;
	if (read(twin, &byte, 1) != 1 || byte != "0123456789abcdef"[position % 16])
		return 1;
	position++;
	if (lseek(plain, 0, SEEK_CUR) != position)
		return 1;
	if (position == 16)
		position = lseek(plain, 0, SEEK_SET);
	return lseek(other, 0, SEEK_CUR) != lseek(high, 0, SEEK_CUR) || read(other, &byte, 1) < 0;
}

static int append_verify(void)
{
	struct stat status;

	appended += 5;
	if (lseek(appending, 0, SEEK_SET) || write(appending, "line\n", 5) != 5)
		return 1;
	return fstat(appending, &status) || (size_t)status.st_size != appended;
}

static int devices_verify(void)
{
	struct stat status;
	char bytes[16] = { 0 }, none[16] = { 0 };

	if (fstat(null, &status) || status.st_rdev != makedev(1, 3))
		return 1;
	if (write(null, bytes, 16) != 16 || read(null, bytes, 16) != 0)
		return 1;
	return read(random_device, bytes, 16) != 16 || !memcmp(bytes, none, 16);
}

static int directory_verify(void)
{
	struct stat here, there;

	return fstat(directory, &there) || stat(".", &here) || here.st_ino != there.st_ino ||
	       faccessat(directory, "plain", R_OK, 0);
}

/* Nothing but the standard streams and what was opened. */
static int numbers_verify(void)
{
	int wanted[] = { 0,	    1,	       2,    plain,	    twin, other,
			 appending, directory, null, random_device, high };
	DIR *list = opendir("/proc/self/fd");
	struct dirent *entry;
	size_t found = 0, count = sizeof(wanted) / sizeof(*wanted);
	int unknown = 0;

	while (list && (entry = readdir(list))) {
		int number = atoi(entry->d_name), is_wanted = 0;

		if (entry->d_name[0] == '.' || number == dirfd(list))
			continue;
		for (size_t i = 0; i < count; i++)
			is_wanted |= wanted[i] == number;
		found += is_wanted;
		unknown |= !is_wanted;
	}
	closedir(list);
	return unknown || found != count;
}

static void place_setup(void)
{
	umask(0137);
	where = getcwd(NULL, 0);
	getrlimit(RLIMIT_NOFILE, &limit);
	limit.rlim_cur = 700;
	setrlimit(RLIMIT_NOFILE, &limit);
}

static int place_verify(void)
{
	char here[PATH_MAX];
	mode_t mask = umask(0137);
	struct rlimit found;

	getrlimit(RLIMIT_NOFILE, &found);
	return mask != 0137 || !getcwd(here, sizeof(here)) || strcmp(here, where) ||
	       found.rlim_cur != limit.rlim_cur || found.rlim_max != limit.rlim_max;
}

static void no_setup(void)
{
}

const struct item file_items[] = {
	{ "descriptors", files_setup, numbers_verify }, { "flags", no_setup, flags_verify },
	{ "positions", no_setup, position_verify },	{ "append", no_setup, append_verify },
	{ "devices", no_setup, devices_verify },	{ "directory", no_setup, directory_verify },
	{ "place", place_setup, place_verify },		{ NULL, NULL, NULL },
};
