"""Two machines, vm1 and vm2: guests with a patched kernel, the mremap device, Docker, the plugin.

with running_pair() as (a, b):
    a.run(["docker", "livemig", "recorder", b.name])

A cable of their own links them. They start from guests that were saved with Docker up; vm1 has
cgroup v2 and the recorder's image, vm2 cgroup v1. What moves should be started with
`random_addresses`.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.hosts import in_both
from tests.hosts.config import REPO
from tests.hosts.images import RECORDER, built_archives, cache_dir

from . import disks, network
from .debian import ready_disk, ready_name, state_root
from .guest import Cable, Guest, Parts, Size, command
from .kernellog import complaints
from .kernels import Kernel
from .qmp import VmError

Pair = tuple[Guest, Guest]
NAMES = ("vm1", "vm2")
ADDRESSES = ("10.203.1.1", "10.203.1.2")
SIZE = Size(cpus=2, memory=2048)
KERNEL = Kernel("6.1", ("debug.config",))
CGROUPS = ("systemd.unified_cgroup_hierarchy=1", "systemd.unified_cgroup_hierarchy=0")
QUICK_STARTS = "norandmaps"
"""QEMU's emulator keeps translated code by its address: where the addresses of libraries are random
it translates them anew for each program that starts: 38 ms, and 10 where they are not."""
MODULE = "/root/livemig.ko"
WHEELS = "wheels"
PYTHON = "/usr/local/lib/docker-livemig/bin/python"
LIMIT = 600.0
_TRIES = 2
"""What is saved, complaints of its kernel included, is what all tests start from; and on a machine
that is busy the watchdogs of a slow kernel bark at nothing (workqueue lockup)."""
FURNISH = """\
set -e
hostnamectl set-hostname {name}
printf '127.0.0.1 localhost\\n{address} {name}\\n{far_address} {far_name}\\n' >/etc/hosts
printf 'auto eth1\\niface eth1 inet static\\n\\taddress {address}/24\\n' >>/etc/network/interfaces
ifup eth1
chmod 0600 /root/.ssh/id_ed25519
# The disk of both has the same key.
for name in {name} {address} {far_name} {far_address}; do
	echo "$name $(cut -d ' ' -f 1-2 /etc/ssh/ssh_host_ed25519_key.pub)"
done >/root/.ssh/known_hosts
docker info >/dev/null
docker livemig setup
sync
echo 3 >/proc/sys/vm/drop_caches
"""


@dataclass(frozen=True)
class Machine:
    """One of the two: which, and with which kernel."""

    number: int
    kernel: Kernel = KERNEL

    @property
    def name(self) -> str:
        """Its node name."""
        return NAMES[self.number]

    def guest(self, root: Path, size: Size = SIZE) -> Guest:
        """Return its guest below a directory where the other one is, too."""
        ends = [root / f"{name}.cable" for name in NAMES]
        mac = f"52:54:00:0a:cb:{self.number + 1:02x}"
        cable = Cable(ends[self.number], ends[1 - self.number], mac)
        return Guest(root / self.name, size=size, cable=cable)

    def parts(self, saved: Path | None = None) -> Parts:
        """Return what it is made of, or what it was saved as."""
        found = Parts.of(disks.debian(), saved)
        disk = ready_disk() if saved is None else found.disk
        words = self._words()
        return replace(found, kernel=self.kernel.image(), initrd=None, disk=disk, words=words)

    def _words(self) -> str:
        return f"{CGROUPS[self.number]} {QUICK_STARTS}"

    def place(self) -> Path:
        """Return where it is kept as it was saved, made or not."""
        ours = f"{ADDRESSES} {SIZE} {self._words()} {FURNISH}"
        words = (ours, self.kernel.digest(), ready_name())
        return disks.saved_place(f"{self.name}-{self.kernel.name}", *words, cache_dir().name)

    def saved(self) -> Path:
        """Return where it is kept as it was saved with Docker up; made where the cache lacks it."""
        return disks.kept(self.place(), self._make)

    def _make(self, directory: Path) -> None:
        home = state_root() / "making"  # the names of sockets have to be short
        home.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            guest = self.guest(home)
            try:
                guest.start(self.parts())
                self.furnish(guest)
                said = complaints(guest)
                if not said:
                    guest.save(directory)
                    return
            finally:
                guest.remove()
        raise VmError(f"{self.name} cannot be saved: its kernel complained at its start: {said}")

    def furnish(self, guest: Guest) -> None:
        """Give it its name and its address, and let both log in to each other."""
        network.take_over(guest)
        guest.write("/root/.ssh/id_ed25519", (disks.debian() / "key").read_bytes())
        far = 1 - self.number
        names = {"name": self.name, "far_name": NAMES[far]}
        script = FURNISH.format(**names, address=ADDRESSES[self.number], far_address=ADDRESSES[far])
        guest.run(script, timeout=LIMIT)
        if self.number == 0:
            guest.run("docker load", input=built_archives()[RECORDER].read_bytes(), timeout=LIMIT)


@contextmanager
def running_pair(
    kernels: tuple[Kernel, Kernel] = (KERNEL, KERNEL), root: Path | None = None
) -> Iterator[Pair]:
    """Start both, and end them on the way out."""
    home = root or state_root() / "pair"
    try:
        yield start(home, kernels)
    finally:
        stop(home)


def start(root: Path, kernels: tuple[Kernel, Kernel]) -> Pair:
    """Start both from what was saved, with the module and the plugin as they are here."""
    stop(root)
    (root / WHEELS).mkdir(parents=True)
    each = [Machine(number, kernel) for number, kernel in enumerate(kernels)]
    saved = [machine.saved() for machine in each]
    pair = each[0].guest(root), each[1].guest(root)
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", root / WHEELS)
    command(*pip, REPO)
    for machine in each:
        machine.kernel.module(root / f"kmod-{machine.name}")

    def ready(number: int) -> None:
        pair[number].start(each[number].parts(saved[number]))
        install(pair[number])

    in_both((0, 1), ready)
    return pair


@contextmanager
def random_addresses(*guests: Guest) -> Iterator[None]:
    """Have programs that start meanwhile get random addresses, as on any other machine."""

    def turn(mode: int) -> None:
        for guest in guests:
            guest.run(f"echo {mode} >/proc/sys/kernel/randomize_va_space")

    turn(2)
    try:
        yield
    finally:
        turn(0)


@contextmanager
def put_back(guest: Guest, machine: Machine) -> Iterator[None]:
    """Have a machine run on as it was saved after what is done to it in the scope."""
    saved = machine.saved()
    try:
        yield
    finally:
        guest.stop()
        guest.start(machine.parts(saved))
        install(guest)


@contextmanager
def booted_as(guest: Guest, machine: Machine, model: str) -> Iterator[Guest]:
    """Have a machine's processors be of another model for a while; it boots for that."""
    other = machine.guest(guest.dir.parent, replace(guest.size, model=model))
    with put_back(guest, machine):
        guest.stop()
        try:
            other.start(replace(machine.parts(machine.saved()), memory=None))
            install(other)
            yield other
        finally:
            other.stop()


def stop(root: Path) -> None:
    """End both, and forget their disks."""
    for number, name in enumerate(NAMES):
        Machine(number).guest(root).remove()
        shutil.rmtree(root / f"kmod-{name}", ignore_errors=True)
    shutil.rmtree(root / WHEELS, ignore_errors=True)


def attach(root: Path) -> Pair:
    """Return both that are up; VmError where they are not."""
    pair = Machine(0).guest(root), Machine(1).guest(root)
    for guest in pair:
        if not guest.alive():
            raise VmError(f"{guest.name} is down (make vms)")
    return pair


def install(guest: Guest) -> None:
    """Have this tree's plugin and module in it, as `start` has built them."""
    home = guest.dir.parent
    guest.write(MODULE, (home / f"kmod-{guest.name}" / "livemig.ko").read_bytes())
    wheel = next((home / WHEELS).glob("*.whl"))
    guest.write(f"/root/{wheel.name}", wheel.read_bytes())
    pip = f"{PYTHON} -m pip install -q --no-index --no-deps --force-reinstall /root/{wheel.name}"
    guest.run(f"insmod {MODULE} && {pip} && docker livemig setup", timeout=LIMIT)
