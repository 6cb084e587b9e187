// SPDX-License-Identifier: GPL-2.0
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "files.h"
#include "subject.h"

long read_number(const char *path)
{
	FILE *file = fopen(path, "re");
	long number;

	require(file && fscanf(file, "%ld", &number) == 1, "%s", path);
	fclose(file);
	return number;
}

void write_text(const char *path, const char *text)
{
	int descriptor = open(path, O_WRONLY | O_CLOEXEC);

	require(descriptor >= 0, "%s", path);
	require(write(descriptor, text, strlen(text)) == (ssize_t)strlen(text), "%s", path);
	close(descriptor);
}

void write_number(const char *path, long number)
{
	char text[32];

	snprintf(text, sizeof(text), "%ld", number);
	write_text(path, text);
}
