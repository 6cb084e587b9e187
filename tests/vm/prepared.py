"""What the tests of guests start from: in the cache, or on its way there."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.hosts import HostsError
from tests.hosts.images import are_cached, built_archives

from . import debian, disks
from .machines import KERNEL, NAMES, Machine
from .qmp import VmError

MACHINES = tuple(Machine(number) for number in range(len(NAMES)))


def is_prepared() -> bool:
    """Tell whether the cache has all of it."""
    try:
        places = (debian.saved_place(), KERNEL.place(), *(each.place() for each in MACHINES))
    except (VmError, HostsError):
        return False  # what it is made of is not even installed
    return are_cached() and all(place.exists() for place in places)


def prepare_all() -> None:
    """Have all of it in the cache, and tell what takes a while."""
    if not are_cached():
        _tell("the recorder's image", built_archives)
    parts: dict[str, tuple[Path, Callable[[], Path]]] = {
        "a disk with Debian 12": (disks.debian_place(), disks.debian),
        "Debian 12 with two Docker hosts up": (debian.saved_place(), debian.prepare),
        f"Linux {KERNEL.name} with the patch": (KERNEL.place(), KERNEL.directory),
    }
    for each in MACHINES:
        parts[f"{each.name} with that and Docker up"] = (each.place(), each.saved)
    for what, (place, make) in parts.items():
        if not place.exists():
            _tell(what, make)


def _tell(what: str, make: Callable[[], object]) -> None:
    begun = time.monotonic()
    print(f"making {what}", end=": ", flush=True)
    make()
    print(f"{time.monotonic() - begun:.0f} s", flush=True)
