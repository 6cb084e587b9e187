"""Stands between sshd and a target's peer, and cuts the connection at chosen frames, each once.

Installed as a host's `docker-livemig`, it starts the real one for `peer --stdio` and passes bytes
on both ways. The first frame that the file PLAN names (numbers, a line each) is not passed on: this
program ends in its place, and the connection with it, while the peer lives on. Then the next one is
due. Any other command is the real one's.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path

from livemig.frames import Assembler, FrameType

PLAN = Path("/run/livemig-cut")
_SIZE = 1 << 16


def planned() -> FrameType | None:
    """Return the frame at which the next cut is due."""
    try:
        return FrameType(int(PLAN.read_text().split()[0]))
    except FileNotFoundError:
        return None


def done() -> None:
    """Take the cut that was made off the plan; a plan that is done is removed."""
    if rest := PLAN.read_text().split()[1:]:
        PLAN.write_text("\n".join(rest))
    else:
        PLAN.unlink()


class Pump:
    """One direction; tells when the frame comes that must not pass."""

    def __init__(self, source: int, sink: int, cut_at: FrameType | None) -> None:
        self.source, self._sink, self._cut_at = source, sink, cut_at
        self._assembler = Assembler()

    def move(self) -> bool:
        """Pass on what has come; False at its end, or where the cut is due."""
        data = os.read(self.source, _SIZE)
        if not data or (self._cut_at is not None and self._due(data)):
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(self._sink, view) :]
        return True

    def _due(self, data: bytes) -> bool:
        while data:
            room = self._assembler.buffers()[0]
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            if any(frame.type is self._cut_at for frame in self._assembler.filled(count)):
                done()
                return True
        return False


def main() -> int:
    """Be the wrapper; argv[1] is the real program."""
    real, *arguments = sys.argv[1:]
    kind = planned()
    if arguments[-2:] != ["peer", "--stdio"] or kind is None:
        os.execv(real, [real, *arguments])
    peer = subprocess.Popen(
        [real, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    pumps = [Pump(0, peer.stdin.fileno(), kind), Pump(peer.stdout.fileno(), 1, kind)]
    poller = select.poll()
    for pump in pumps:
        poller.register(pump.source, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            if not next(pump for pump in pumps if pump.source == descriptor).move():
                return 0


if __name__ == "__main__":
    sys.exit(main())
