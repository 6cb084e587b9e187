"""Stands between sshd and a target's peer, and holds everything up at one chosen frame.

When the frame comes that the file PLAN names (a number), it writes REACHED, and passes nothing on,
heartbeats neither, until OPEN is there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from livemig.frames import FrameType
from tests import pace
from tests.docker.moves import wrapped
from tests.docker.passing import Passes, stand_between
from tests.hosts import Host

PLAN, OPEN = Path("/run/livemig-gate.plan"), Path("/run/livemig-gate.open")
REACHED = Path("/run/livemig-gate.reached")
LIMIT = pace.limit(25)


# In the test


class Gate:
    """The gate of one host, for one frame."""

    def __init__(self, host: Host, frame: FrameType) -> None:
        self._host = host
        host.path(PLAN).write_text(str(int(frame)))

    def wait(self) -> None:
        """Return once the frame has come."""
        deadline = time.monotonic() + LIMIT
        reached = self._host.path(REACHED)
        while not reached.exists():
            assert time.monotonic() < deadline, "the frame did not come"
            time.sleep(0.02)  # a file in another mount namespace

    def open(self) -> None:
        """Let everything pass from now on."""
        self._host.path(OPEN).touch()


@contextmanager
def gate(host: Host, frame: FrameType) -> Iterator[Gate]:
    """Hold up what goes to and from the peer of a host, at its first frame of that kind."""
    with wrapped(host, sys.modules[__name__]):
        one = Gate(host, frame)
        try:
            yield one
        finally:
            one.open()
            for place in (PLAN, REACHED, OPEN):
                host.path(place).unlink(missing_ok=True)


# In the host


def holding(due: FrameType) -> Passes:
    """Stop everything where this frame comes."""

    def passes(kind: FrameType) -> bool:
        if kind is due and PLAN.exists():
            PLAN.unlink()
            REACHED.touch()
            deadline = time.monotonic() + LIMIT
            while not OPEN.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        return True

    return passes


def main() -> int:
    """Be the wrapper."""
    return stand_between(holding(FrameType(int(PLAN.read_text()))) if PLAN.exists() else None)


if __name__ == "__main__":
    sys.exit(main())
