#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Makes a disk with Debian 12 as it is installed, and no more than git, Python and make on it:
#     image.sh DIRECTORY AUTHORIZED_KEY [MIRROR]
# DIRECTORY gets disk.img (ext4, sparse), vmlinuz and initrd.img. Needs root, debootstrap, mke2fs.
set -eu

out=$(realpath "$1")
key=$2
mirror=${3-}
size=16G
work=$(mktemp -d "$out/root.XXXXXX")
trap 'rm -rf "$work"' EXIT

# What `tasksel` leaves on a server is Debian's base system, its kernel, AppArmor and sshd.
packages=linux-image-amd64,apparmor,openssh-server,dbus,libpam-systemd
packages=$packages,ca-certificates,git,python3,make

chmod 0755 "$work"
# shellcheck disable=SC2086 # no mirror: debootstrap knows Debian's own
debootstrap --arch=amd64 --include="$packages" bookworm "$work" $mirror

cd "$work"
echo debian >etc/hostname
printf '127.0.0.1\tlocalhost debian\n::1\tlocalhost\n' >etc/hosts
echo '/dev/vda / ext4 errors=remount-ro,noatime 0 1' >etc/fstab
# The addresses of QEMU's user-mode network.
cat >etc/network/interfaces <<'NET'
auto lo eth0
iface lo inet loopback
iface eth0 inet static
	address 10.0.2.15/24
	gateway 10.0.2.2
NET
echo 'nameserver 10.0.2.3' >etc/resolv.conf
install -d -m 0700 root/.ssh
echo "$key" >root/.ssh/authorized_keys
# Nothing shall take the lock of apt, or the processor, while tests run.
for unit in apt-daily.timer apt-daily-upgrade.timer man-db.timer e2scrub_all.timer fstrim.timer; do
	ln -sf /dev/null "etc/systemd/system/$unit"
done
rm -rf var/cache/apt/archives/*.deb

cp --dereference vmlinuz initrd.img "$out/"
chmod 0644 "$out/vmlinuz" "$out/initrd.img"
cd "$out"
truncate -s "$size" disk.img
mke2fs -q -t ext4 -d "$work" disk.img
