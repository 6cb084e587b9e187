#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Writes the root file system of the base image as a tar archive: rootfs.sh OUTPUT
# It holds what a dynamically linked C++ program needs, bash and busybox; all from Debian's packages.
set -eu

packages="libc6 libgcc-s1 libstdc++6 busybox-static bash libtinfo6"
output=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

mkdir "$work/debs" "$work/root"
cd "$work/debs"
# _apt, the user that apt downloads as, must be able to write here.
chmod 0755 "$work"
chown _apt "$work/debs" 2>/dev/null || true
apt-get -qq download $packages

cd "$work/root"
mkdir -p bin etc dev proc run sys tmp root usr/local/bin var/tmp
chmod 1777 tmp var/tmp
chmod 0700 root
for deb in "$work"/debs/*.deb; do
	dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner
done
rm -rf usr/share usr/lib/*/gconv usr/lib/*/audit
find . -name '*.conf' -path './etc/*' -delete

for applet in $(./bin/busybox --list); do
	[ -e "bin/$applet" ] || ln -s busybox "bin/$applet"
done
echo 'root:x:0:0:root:/root:/bin/sh' >etc/passwd
echo 'nobody:x:65534:65534:nobody:/nonexistent:/bin/false' >>etc/passwd
echo 'root:x:0:' >etc/group
echo 'nogroup:x:65534:' >>etc/group

# The same packages give the same archive, so that the layer keeps its digest.
tar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner -cf "$output" .
