/* SPDX-License-Identifier: GPL-2.0 */
/* Files by which the kernel tells and takes single values. */
#ifndef FILES_H
#define FILES_H

/* The number in a file. */
long read_number(const char *path);

/* Write to a file that is there. */
void write_text(const char *path, const char *text);
void write_number(const char *path, long number);

#endif
