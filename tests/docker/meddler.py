"""Stands between sshd and a target's peer, and records what passes, or changes one frame of it.

Installed as a host's `docker-livemig`, it starts the real one for `peer --stdio`. The file PLAN
says what to do, a word each: ``record``, or ``change``, the direction (``to`` or ``from`` the
peer), the number of the frame and a seed. Every other command is the real one's.
"""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
from pathlib import Path

from tests.sessions import length, mutated_frame, split

PLAN = Path("/run/livemig-meddle")
RECORD = Path("/run/livemig-record")
_SIZE = 1 << 16


class Pump:
    """One direction, passed on frame by frame."""

    def __init__(self, source: int, sink: int, direction: str, plan: list[str]) -> None:
        self.source, self._sink = source, sink
        self._direction, self._plan = direction, plan
        self._data = bytearray()
        self._number = 0

    def move(self) -> bool:
        """Pass on what is whole; False at the end."""
        data = os.read(self.source, _SIZE)
        self._data += data
        while (size := length(self._data)) and size <= len(self._data):
            frame = bytes(self._data[:size])
            del self._data[:size]
            self._pass(self._changed(frame))
            self._number += 1
        return bool(data)

    def _changed(self, frame: bytes) -> bytes:
        if self._plan[0] == "record":
            with RECORD.with_suffix(f".{self._direction}").open("ab") as file:
                file.write(frame)
        elif self._plan[1:3] == [self._direction, str(self._number)]:
            PLAN.unlink()
            return mutated_frame(random.Random(int(self._plan[3])), next(split(frame))).encode()
        return frame

    def _pass(self, frame: bytes) -> None:
        view = memoryview(frame)
        while view:
            view = view[os.write(self._sink, view) :]


def main() -> int:
    """Be the wrapper; argv[1] is the real program."""
    real, *arguments = sys.argv[1:]
    if arguments[-2:] != ["peer", "--stdio"] or not PLAN.exists():
        os.execv(real, [real, *arguments])
    plan = PLAN.read_text().split()
    peer = subprocess.Popen(
        [real, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    pumps = [
        Pump(0, peer.stdin.fileno(), "to", plan),
        Pump(peer.stdout.fileno(), 1, "from", plan),
    ]
    poller = select.poll()
    for pump in pumps:
        poller.register(pump.source, select.POLLIN)
    while True:
        for descriptor, _ in poller.poll():
            pump = next(each for each in pumps if each.source == descriptor)
            try:
                if pump.move():
                    continue
            except BrokenPipeError:
                pass
            if pump is pumps[1]:
                return 0
            peer.stdin.close()
            poller.unregister(descriptor)


if __name__ == "__main__":
    sys.exit(main())
