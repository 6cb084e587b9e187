"""Stands between sshd and a target's peer, and passes bytes on both ways, frame types in view.

What is installed as a host's `docker-livemig` calls ``stand_between``: for `peer --stdio` it starts
the real program; any other command is the real one's.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

from livemig.frames import Assembler, FrameType

_SIZE = 1 << 16
Passes = Callable[[FrameType], bool]
"""Asked of each frame before any of its bytes go on; with False the connection ends."""


def stand_between(passes: Passes | None) -> int:
    """Be the wrapper; argv[1] is the real program, which takes this one's place without ``passes``.

    Returns the exit code.
    """
    real, *arguments = sys.argv[1:]
    if arguments[-2:] != ["peer", "--stdio"] or passes is None:
        os.execv(real, [real, *arguments])
    peer = subprocess.Popen(
        [real, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert peer.stdin is not None
    assert peer.stdout is not None
    there, back = _Pump(0, peer.stdin.fileno(), passes), _Pump(peer.stdout.fileno(), 1, passes)
    pumps = {pump.source: pump for pump in (there, back)}
    while back.source in pumps and not (there.cut or back.cut):
        for descriptor in select.select(list(pumps), [], [])[0]:
            with suppress(BrokenPipeError):
                if pumps[descriptor].move():
                    continue
            del pumps[descriptor]
            if descriptor == there.source and not there.cut:
                peer.stdin.close()
    return 0


class _Pump:
    """One direction."""

    def __init__(self, source: int, sink: int, passes: Passes) -> None:
        self.source, self._sink, self._passes = source, sink, passes
        self._assembler = Assembler()
        self.cut = False

    def move(self) -> bool:
        """Pass on what has come; False at its end."""
        data = os.read(self.source, _SIZE)
        self.cut = not all(self._passes(kind) for kind in self._kinds(data))
        if not data or self.cut:
            return False
        view = memoryview(data)
        while view:
            view = view[os.write(self._sink, view) :]
        return True

    def _kinds(self, data: bytes) -> list[FrameType]:
        found = []
        while data:
            room = self._assembler.buffers()[0]
            count = min(len(room), len(data))
            room[:count] = data[:count]
            data = data[count:]
            found += [frame.type for frame in self._assembler.filled(count)]
        return found
