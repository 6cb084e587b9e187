#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kernel's own check of style, for files that are written for it; says nothing where Debian's
# kernel sources, which it comes with, are not installed.
# usage: checkpatch.sh DIRECTORY FILE…     DIRECTORY: where it is unpacked to, once
set -euo pipefail
tarball=/usr/src/linux-source-6.1.tar.xz
directory=$1
shift
[ -e "$tarball" ] || exit 0
if [ ! -e "$directory/checkpatch.pl" ]; then
	mkdir -p "$directory"
	tar -xf "$tarball" -C "$directory" --strip-components=2 \
		linux-source-6.1/scripts/{checkpatch.pl,spelling.txt,const_structs.checkpatch}
fi
exec perl "$directory/checkpatch.pl" --no-tree --strict --terse --no-summary --ignore BIT_MACRO --max-line-length=100 -f "$@"
