// SPDX-License-Identifier: Apache-2.0
/* AMX: a process has to ask for its tiles (arch_prctl(2)), and gets SIGILL where it has not. */
#define _GNU_SOURCE
#include "state.h"
#include <immintrin.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARCH_GET_XCOMP_PERM 0x1022
#define ARCH_REQ_XCOMP_PERM 0x1023
#define TILE_DATA 18
#define ROWS 16
#define COLUMN_BYTES 64

static struct {
	unsigned char palette, start, reserved[14];
	unsigned short column_bytes[16];
	unsigned char rows[16];
} config = { .palette = 1, .column_bytes = { COLUMN_BYTES }, .rows = { ROWS } };

static unsigned char data[ROWS * COLUMN_BYTES], found[ROWS * COLUMN_BYTES];

static void allowed_setup(void)
{
	unsigned long features = 0;

	if (syscall(SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA))
		lacks();
	need(syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &features), "ARCH_GET_XCOMP_PERM");
}

static int allowed_check(void)
{
	unsigned long features = 0;

	syscall(SYS_arch_prctl, ARCH_GET_XCOMP_PERM, &features);
	return features >> TILE_DATA & 1 ? 0 : bad("features %lx", features);
}

__attribute__((target("amx-tile"))) static void fill(void)
{
	_tile_loadconfig(&config);
	_tile_loadd(0, data, COLUMN_BYTES);
}

__attribute__((target("amx-tile"))) static int in_use_check(void)
{
	memset(found, 0, sizeof(found));
	_tile_stored(0, found, COLUMN_BYTES);
	return memcmp(found, data, sizeof(data)) ? bad("another tile") : 0;
}

__attribute__((target("amx-tile"))) static int allowed_finish(void)
{
	int result;

	fill();
	result = in_use_check();
	_tile_release();
	return result;
}

static void in_use_setup(void)
{
	allowed_setup();
	memset(data, 0xA5, sizeof(data));
	fill();
}

const struct thing tile_things[] = {
	{ "tiles-allowed", allowed_setup, allowed_check, allowed_finish },
	{ "tiles-in-use", in_use_setup, in_use_check, NULL },
	{ NULL, NULL, NULL, NULL },
};
