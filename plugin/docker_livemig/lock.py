"""Locks that end with their owner (flock(2)): of a journal, and of a container that is moved."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from docker_livemig.containers import ContainerSpec
from livemig.errors import NotRunning, UnderWay
from livemig.system import procfs

_PAUSE = 0.05
# Seconds. A peer that was killed keeps its locks until all it had open is closed: a counter of
# system calls (perf_event_open(2)) takes the kernel one or two of them.
_DYING = 15.0


def acquire(place: Path, patience: float = 0.0) -> int | None:
    """Lock a directory, and return a descriptor that ends the lock when it is closed.

    None where a living process has it, ``patience`` seconds long; one that is dying is waited for.
    FileNotFoundError where the directory is not there, or not any more.
    """
    begun = time.monotonic()
    while True:
        owners = _owners(place)  # before the attempt, which tells whether they have gone since
        if (handle := _attempt(place)) is not None:
            return handle
        dying = bool(owners) and all(procfs.is_dying(pid) for pid in owners)
        if time.monotonic() - begun >= (max(patience, _DYING) if dying else patience):
            return None
        time.sleep(_PAUSE)  # flock(2) has no time limit of its own


def _attempt(place: Path) -> int | None:
    handle = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(handle), place.stat()):
            raise FileNotFoundError(place)
    except BaseException as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            return None
        raise
    return handle


def _owners(place: Path) -> list[int]:
    """Return who has the lock, as far as can be seen from this PID namespace.

    The kernel lists locks by the number of the file alone that is good on every file system.
    """
    number = str(place.stat().st_ino)
    owners = [
        int(words[-4])
        for line in Path("/proc/locks").read_text().splitlines()
        if "FLOCK" in (words := line.split()) and words[-3].rpartition(":")[2] == number
    ]
    return [pid for pid in owners if pid > 0]


@contextmanager
def alone(spec: ContainerSpec) -> Iterator[None]:
    """Be the only one on this host who moves the container; UnderWay where another peer does.

    NotRunning where it is gone: the lock is on the directory of its files, which is there as long
    as the container.
    """
    try:
        handle = acquire(Path(spec.upper_dir))
    except FileNotFoundError as error:
        raise NotRunning(f"container {spec.name} ended, and was removed") from error
    if handle is None:
        raise UnderWay(
            f"container {spec.name} is being moved already",
            hint="wait for the end of that move",
        )
    try:
        yield
    finally:
        os.close(handle)
