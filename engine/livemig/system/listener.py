"""Hears of the moves (mremap(2)) that a userfaultfd reports, whatever the interpreter is doing.

The work is done by listener.c, in a thread that does not hold the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import threading
from contextlib import suppress
from typing import NamedTuple

from livemig.system import priority
from livemig.system.built import library

_MOVE = struct.Struct("=QQQ")
_ROOM = 1 << 16  # moves; memory is taken for those that were heard of


class _Ring(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in "turn heard taken lost room".split())


_HEAD = ctypes.sizeof(_Ring)


class Move(NamedTuple):
    """So many bytes were moved, fewer where the mapping shrank at that (mm/mremap.c in 6.12)."""

    start: int
    to: int
    length: int


class Listener:
    """Reads the events of a userfaultfd, which stays the caller's, until it is closed.

    Who moves memory goes on as soon as the event is read. What is to be known of it waits in a
    ring; where that is full, moves are lost.
    """

    def __init__(self, descriptor: int) -> None:
        listen = library("listener").livemig_listen
        self._end = os.eventfd(0, os.EFD_CLOEXEC)
        self._memory = mmap.mmap(-1, _HEAD + _ROOM * _MOVE.size)
        self._ring = _Ring.from_buffer(self._memory)
        self._ring.room = _ROOM
        self._lost = 0
        arguments = (descriptor, self._end, ctypes.byref(self._ring))
        self._thread = threading.Thread(target=_run, args=(listen, *arguments), daemon=True)
        self._thread.start()

    def take(self) -> tuple[list[Move], bool]:
        """Return what was heard since the last call, and whether moves were lost meanwhile.

        Every event that had been read when this was called is among it.
        """
        turn = self._ring.turn
        while turn % 2 and self._ring.turn == turn:  # for as long as one read(2) takes
            os.sched_yield()
        taken, heard = self._ring.taken, self._ring.heard
        moves = [self._move(number % _ROOM) for number in range(taken, heard)]
        self._ring.taken = heard
        # Counted by the thread alone: what it adds just now would be lost by a write of ours.
        before, self._lost = self._lost, self._ring.lost
        return moves, self._lost != before

    def _move(self, place: int) -> Move:
        start, to, length = _MOVE.unpack_from(self._memory, _HEAD + place * _MOVE.size)
        return Move(start, to, length)

    def close(self) -> None:
        """Hear no more: who moves memory waits then until the descriptor is closed."""
        os.eventfd_write(self._end, 1)
        self._thread.join()
        os.close(self._end)
        del self._ring
        with suppress(BufferError):  # the thread's arguments may not be collected yet
            self._memory.close()


def _run(listen: ctypes._NamedFuncPointer, *arguments: object) -> None:
    priority.urgent()
    listen(*arguments)
