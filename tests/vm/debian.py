"""The guest with Debian 12 as people have it, and this repository in it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.hosts.config import REPO

from . import disks, network
from .guest import Guest, Parts
from .qmp import VmError

CLONE = "/root/docker-livemig"
DEMO_LIMIT = 1500.0
PROOF = "none lost, none twice, none out of order"
# What `make demo` installs and builds.
MADE_OF = ("pyproject.toml", "tests/hosts/deps.sh", "images/base", "images/recorder")


def state_root() -> Path:
    """Directory below which guests keep everything while they run (LIVEMIG_VM_DIR)."""
    return Path(os.environ.get("LIVEMIG_VM_DIR") or "/var/tmp/livemig-vm")


def clone(guest: Guest) -> None:
    """Put a fresh clone of HEAD into the guest."""
    argv = ["git", "-C", str(REPO), "bundle", "create", "-q", "-", "HEAD"]
    bundle = subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout
    guest.write("/root/bundle", bundle)
    guest.run(f"rm -rf {CLONE} && git clone -q /root/bundle {CLONE} && rm /root/bundle")


def make(guest: Guest, *words: str, limit: float, show: bool = False) -> str:
    """Run `make` in the clone and return what it wrote; VmError where it fails."""
    script = f"cd {CLONE} && exec make {' '.join(words)}"
    return guest.run(script, timeout=limit, show=show).stdout


def demonstrate(guest: Guest) -> str:
    """Run `make demo` in the clone; VmError unless every number arrived."""
    output = make(guest, "demo", limit=DEMO_LIMIT)
    if PROOF not in output:
        raise VmError(f"make demo did not say that all is well:\n{output}")
    return output


def start_bare(guest: Guest) -> None:
    """Start the guest as it is just after its installation: git, Python, make, and no Docker."""
    guest.start(Parts.of(disks.debian()))
    network.take_over(guest)


def start_ready(guest: Guest) -> None:
    """Start the guest as it is after its first `make demo`; that is run where it has not been."""
    base = disks.debian()

    def prepare(directory: Path) -> None:
        with running(Guest(directory / "guest")) as first:
            start_bare(first)
            clone(first)
            demonstrate(first)
            first.run(f"rm -rf {CLONE}; sync; echo 3 >/proc/sys/vm/drop_caches")
            first.save(directory)

    guest.start(Parts.of(base, disks.saved(base, _digest(), prepare)))
    network.take_over(guest)


def _digest() -> str:
    places = (REPO / name for name in MADE_OF)
    files = [file for place in places for file in ([place], place.rglob("*"))[place.is_dir()]]
    return disks.digest_of(*sorted(file for file in files if file.is_file()))


@contextmanager
def running(guest: Guest) -> Iterator[Guest]:
    """End the guest, and forget it, when the scope ends."""
    try:
        yield guest
    finally:
        guest.remove()
