#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Puts onto a disk of guest-debian all that the tests need, by their own `make build`, compiles their
# programs, and installs the plugin; on this machine's processor, for an emulated one takes ten times
# as long:
#     unshare --mount --pid --fork --kill-child ready.sh DISK FILES CLONE CACHE
# FILES is a directory of files that the disk gets, such as /etc/pip.conf, and /root/bundle, of which
# CLONE becomes a clone. CACHE is this machine's. Needs root, loop devices, and namespaces of its own.
set -eu

disk=$1
files=$2
clone=$3
cache=$4
work=$(mktemp -d)
trap 'umount -R "$work"; rmdir "$work"' EXIT

mount -o loop "$disk" "$work"
mount -t proc proc "$work/proc"
mount --rbind /dev "$work/dev"
mount --bind /etc/resolv.conf "$work/etc/resolv.conf"
cp -r "$files/." "$work/"

inside() {
	env -i HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
		chroot "$work" sh -c 'set -a; . /etc/environment; set +a; exec "$@"' sh "$@"
}

# Nothing is started now.
printf '#!/bin/sh\nexit 101\n' >"$work/usr/sbin/policy-rc.d"
chmod 0755 "$work/usr/sbin/policy-rc.d"
inside git clone -q /root/bundle "$clone"
inside make -C "$clone" build install
inside sh -c "cd $clone && .venv/bin/python -m tests.programs"
inside sh -c "cd $clone && .venv/bin/python -m pytest -q --collect-only tests/root tests/docker"
# Images that this machine has built of the same sources, with the same compiler, are the same.
name='from tests.hosts.images import cache_dir; print(cache_dir().name)'
images=$(inside sh -c "cd $clone && exec .venv/bin/python -c '$name'")
if [ -d "$cache/$images" ]; then
	mkdir -p "$work/root/.cache/livemig"
	cp -r "$cache/$images" "$work/root/.cache/livemig/"
fi
rm "$work/usr/sbin/policy-rc.d"
rm -rf "$work"/var/cache/apt/archives/*.deb
