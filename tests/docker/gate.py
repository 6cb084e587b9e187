"""Stands between sshd and a target's peer, and holds everything up at one chosen frame.

Installed as a host's `docker-livemig`, it starts the real one for `peer --stdio` and passes bytes
on both ways. When the frame comes that the file PLAN names (a number), it writes REACHED, and
passes nothing on, heartbeats neither, until OPEN is there. Any other command is the real one's.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from livemig.frames import Assembler, FrameType
from tests import pace
from tests.docker.moves import wrapped
from tests.hosts import Host

PLAN, OPEN = Path("/run/livemig-gate.plan"), Path("/run/livemig-gate.open")
REACHED = Path("/run/livemig-gate.reached")
LIMIT = pace.limit(25)
_SIZE = 1 << 16


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


class Pump:
    """One direction; stops everything where its frame comes."""

    def __init__(self, source: int, sink: int, due: FrameType) -> None:
        self.source, self._sink, self._due = source, sink, due
        self._assembler = Assembler()

    def move(self) -> bool:
        """Pass on what has come; False at its end."""
        data = os.read(self.source, _SIZE)
        if not data:
            return False
        if PLAN.exists() and self._has_come(data):
            PLAN.unlink()
            REACHED.touch()
            deadline = time.monotonic() + LIMIT
            while not OPEN.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
        view = memoryview(data)
        while view:
            view = view[os.write(self._sink, view) :]
        return True

    def _has_come(self, data: bytes) -> bool:
        come = False
        while data:
            room = self._assembler.buffers()[0]
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            come |= any(frame.type is self._due for frame in self._assembler.filled(count))
        return come


def main() -> int:
    """Be the wrapper; argv[1] is the real program."""
    real, *arguments = sys.argv[1:]
    if arguments[-2:] != ["peer", "--stdio"] or not PLAN.exists():
        os.execv(real, [real, *arguments])
    due = FrameType(int(PLAN.read_text()))
    peer = subprocess.Popen(
        [real, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    there, back = Pump(0, peer.stdin.fileno(), due), Pump(peer.stdout.fileno(), 1, due)
    pumps = {pump.source: pump for pump in (there, back)}
    while back.source in pumps:
        for descriptor in select.select(list(pumps), [], [])[0]:
            with suppress(BrokenPipeError):
                if pumps[descriptor].move():
                    continue
            del pumps[descriptor]
            if descriptor == there.source:
                peer.stdin.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
