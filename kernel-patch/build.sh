#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Builds a patched kernel from Debian's source package, in a directory that becomes the build
# directory for modules too (KDIR).
# usage: build.sh VERSION DIRECTORY [CONFIG…]     VERSION: 6.1, 6.12; CONFIG: debug.config, kasan.config
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
version=$1 directory=$2
shift 2
tarball=/usr/src/linux-source-$version.tar.xz
[ -e "$tarball" ] || { echo "$tarball is missing: apt-get install linux-source-$version" >&2; exit 1; }

mkdir -p "$directory"
tar -xf "$tarball" -C "$directory" --strip-components=1
for patch in "$here/$version"/*.patch; do
	patch -d "$directory" -p1 --quiet --forward --fuzz=0 <"$patch"
done

configs=("$here/kernel.config")
for name in "$@"; do
	configs+=("$here/$name")
done
cd "$directory"
make -s tinyconfig >/dev/null
scripts/kconfig/merge_config.sh -m .config "${configs[@]}" >/dev/null
make -s olddefconfig

# The same bytes each time, so that ccache finds what was compiled before, wherever that was.
export KBUILD_BUILD_TIMESTAMP='Thu Jan  1 00:00:00 UTC 1970' KBUILD_BUILD_USER=livemig KBUILD_BUILD_HOST=livemig
export CCACHE_BASEDIR=$directory CCACHE_NOHASHDIR=1
compiler=gcc
[ -z "$(command -v ccache)" ] || compiler='ccache gcc'
make -s -j"$(nproc)" CC="$compiler" bzImage modules

# What modules do not need: most of two gigabytes.
cp arch/x86/boot/bzImage .
find . \( -path ./scripts -o -path ./tools \) -prune -o \
	\( -name '*.o' -o -name '*.a' -o -name '.*.cmd' -o -name 'vmlinux*' \) -type f -print0 | xargs -0 rm -f
rm -rf Documentation drivers fs sound samples tools/testing
