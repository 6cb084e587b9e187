"""The guest with Debian 12 as people have it, and this repository in it."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tests.hosts.config import REPO
from tests.programs import PLACE as PROGRAMS_PLACE
from tests.programs import copy_to, kept_places

from . import disks, network
from .guest import Guest, Parts
from .qmp import VmError

CLONE = "/root/docker-livemig"
CLONING = f"""\
set -e
cd /root
[ -e {CLONE} ] || git clone -q bundle {CLONE}
cd {CLONE}
git fetch -q ../bundle HEAD
git checkout -q --force --detach FETCH_HEAD
git clean -q -x -d -ff -e .venv -e __pycache__
[ ! -e .venv/.stamp ] || touch .venv/.stamp"""
CLONE_LIMIT = 300.0
DEMO_LIMIT = 1800.0
SLOWEST = 12.0  # a limit shall still be one
TIMING = """\
begin=$(date +%s%N)
for _ in $(seq 200); do /bin/true; done
echo $(($(date +%s%N) - begin))"""
PROOF = "none lost, none twice, none out of order"

_slowness: dict[str, float] = {}


def state_root() -> Path:
    """Directory below which guests keep everything while they run (LIVEMIG_VM_DIR)."""
    return Path(os.environ.get("LIVEMIG_VM_DIR") or "/var/tmp/livemig-vm")


def clone(guest: Guest) -> None:
    """Put a fresh clone of HEAD into the guest.

    Of the last one the virtual environment stays, and what Python compiled: it looks at the time
    and size of the source, and compiles what is new.
    """
    guest.write("/root/bundle", _bundle())
    guest.run(CLONING, timeout=CLONE_LIMIT)
    _hand_over_programs(guest)


def _hand_over_programs(guest: Guest) -> None:
    """Give it the tests' programs of these sources: its own compiler takes minutes for them."""
    with tempfile.TemporaryDirectory() as scratch:
        copy_to(Path(scratch))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as tar:
        for place in kept_places():
            tar.add(place, place.name)
    where = f"/root/.cache/livemig/{PROGRAMS_PLACE}"
    guest.run(f"mkdir -p {where} && tar -xz -C {where}", input=buffer.getvalue())


def _bundle() -> bytes:
    argv = ["git", "-C", str(REPO), "bundle", "create", "-q", "-", "HEAD"]
    return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout


def make(guest: Guest, *words: str, limit: float, show: bool = False, check: bool = True) -> str:
    """Run `make` in the clone and return what it wrote; VmError where it fails and `check` is set.

    The tests' own time limits are made longer by as much as the guest is slower than this machine.
    """
    script = f"cd {CLONE} && LIVEMIG_SLOW={slowness(guest):.1f} exec make {' '.join(words)}"
    return guest.run(script, timeout=limit, show=show, check=check).stdout


def slowness(guest: Guest) -> float:
    """Measure how often longer it takes to start a program in the guest than on this machine."""
    if guest.name not in _slowness:
        here, there = (float(run()) for run in (_time_here, lambda: guest.run(TIMING).stdout))
        _slowness[guest.name] = min(max(there / here, 2), SLOWEST)
    return _slowness[guest.name]


def _time_here() -> str:
    argv = ["sh", "-c", TIMING]
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


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
    """Start the guest with all that the tests need, as it was saved with two Docker hosts up."""
    guest.start(Parts.of(disks.debian(), prepare()))
    network.take_over(guest)


def prepare() -> Path:
    """Have it in the cache: booted from a disk with all of it, the hosts started, and saved."""
    disk = ready_disk()

    def make_saved(directory: Path) -> None:
        # Not in the cache, which may be anywhere: the names of sockets have to be short.
        with running(Guest(state_root() / "making" / "debian")) as guest:
            guest.start(replace(Parts.of(disks.debian()), disk=disk))
            clone(guest)
            make(guest, "images", "hosts", limit=DEMO_LIMIT)
            guest.run("sync; echo 3 >/proc/sys/vm/drop_caches")
            guest.save(directory)

    return disks.kept(saved_place(), make_saved)


def saved_place() -> Path:
    """Return where that guest is kept, made or not."""
    return disks.saved_place("saved", ready_name())


def ready_disk() -> Path:
    """Return the disk with all that the tests need; made where the cache lacks it."""
    return disks.ready(disks.ready_place(ready_name()), _bundle(), CLONE) / "disk.img"


def ready_name() -> str:
    """Return what names it: all that is installed; images, hosts and programs are made anew."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    words = json.dumps(project, sort_keys=True), REPO / "tests/hosts/deps.sh"
    return disks.digest_of(*words)


@contextmanager
def running(guest: Guest) -> Iterator[Guest]:
    """End the guest, and forget it, when the scope ends."""
    try:
        yield guest
    finally:
        guest.remove()
