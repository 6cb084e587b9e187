"""One move of a container at a time."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager

from docker_livemig.containers import ContainerSpec
from livemig.errors import UnderWay


@contextmanager
def alone(spec: ContainerSpec) -> Iterator[None]:
    """Be the only one on this host who moves the container; UnderWay where another peer does.

    It is a lock (flock(2)) of the directory of its files: that is there as long as the container,
    and whoever dies loses it.
    """
    handle = os.open(spec.upper_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UnderWay(
                f"container {spec.name} is being moved already",
                hint="wait for the end of that move",
            ) from None
        yield
    finally:
        os.close(handle)
