#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Installs what building and testing need and this machine lacks; silent where nothing is missing.
# usage: deps.sh [--only-venv | --vm | --kernel]   (--vm: what guests need, besides; --kernel: what
# builds patched kernels for them, too)
set -eu

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
python=${PYTHON:-python3}

# What a command comes with. Looked for by command, so that Docker from elsewhere is left alone.
wanted="
	dockerd:docker.io docker:docker.io
	iptables:iptables ip:iproute2 nsenter:util-linux setpriv:util-linux
	ssh:openssh-client ssh-keygen:openssh-client sudo:sudo
	gcc:gcc g++:g++ make:make ld:binutils clang-format:clang-format git:git
"
case "${1-}" in
--vm | --kernel)
	wanted="$wanted
	qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils
	debootstrap:debootstrap mke2fs:e2fsprogs
	"
	;;
esac
[ "${1-}" != --kernel ] || wanted="$wanted
	flex:flex bison:bison bc:bc ccache:ccache xz:xz-utils patch:patch perl:perl
"
missing=""
have() {
	command -v "$1" >/dev/null 2>&1
}
add() {
	case " $missing " in
	*" $1 "*) ;;
	*) missing="$missing $1" ;;
	esac
}
[ "${1-}" = --only-venv ] || for pair in $wanted; do
	have "${pair%%:*}" || add "${pair##*:}"
done
[ -e /usr/include/linux/limits.h ] || add libc6-dev
[ -e /usr/include/linux/userfaultfd.h ] || add linux-libc-dev
if [ "${1-}" = --kernel ]; then
	[ -e /usr/include/libelf.h ] || add libelf-dev
	[ -e /usr/include/openssl/opensslv.h ] || add libssl-dev
	for version in 6.1 6.12; do
		[ -e "/usr/src/linux-source-$version.tar.xz" ] || add "linux-source-$version"
	done
fi
have "$python" && "$python" -c 'import ensurepip, venv' 2>/dev/null || add python3-venv

install() {
	if [ "$(id -u)" != 0 ]; then
		echo "missing:$* (install them, or run make deps as root)" >&2
		exit 1
	fi
	if ! have apt-get; then
		echo "missing:$* (this machine has no apt-get: install them by hand)" >&2
		exit 1
	fi
	echo "installing $*"
	export DEBIAN_FRONTEND=noninteractive
	log=$(mktemp)
	if ! { apt-get -q update && apt-get -qy install --no-install-recommends "$@"; } \
		>"$log" 2>&1; then
		tail -n 20 "$log" >&2
		rm -f "$log"
		exit 1
	fi
	rm -f "$log"
}

[ -z "$missing" ] || install $missing

# sshd is wanted as a program only: this machine shall not begin to listen.
if [ "${1-}" != --only-venv ] && ! have sshd; then
	policy=/usr/sbin/policy-rc.d
	if [ ! -e "$policy" ]; then
		trap 'rm -f "$policy"' EXIT
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 0755 "$policy"
	fi
	install openssh-server
	if [ -d /run/systemd/system ]; then
		systemctl --quiet disable ssh.service ssh.socket 2>/dev/null || true
	fi
fi

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
	echo "Python 3.11 or later is needed; $python is older (make PYTHON=python3.11)" >&2
	exit 1
}
