"""What a process moves, as a userfaultfd tells it, and what that says of pages that were read.

Moves are heard of soon after they were made. So a page that was read may belong to a move that is
not known yet: whatever is read stays open until no move is under way that began before.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from livemig.intervals import Span, intersect, merged
from livemig.model import Mapping
from livemig.relocation import Relocation
from livemig.system import uffd
from livemig.system.listener import Listener
from livemig.travels import Travels

_TRIES = 30  # in some ten microseconds
_NAPS, _NAP = 40, 0.0005  # seconds: who moves memory may have to wait for a processor


class Moves:
    """The moves of one process since the layout that the target has.

    The descriptor has FEATURE_EVENT_REMAP, and stays the caller's.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._listener = Listener(descriptor)
        self._travels = Travels()
        self._count = 0
        self._open: list[Span] = []

    def heard(self) -> int:
        """Return how many moves are known of so far."""
        self._take()
        return self._count

    def relocations(
        self, old: Sequence[Mapping], new: Sequence[Mapping], held: list[Span]
    ) -> tuple[list[Relocation], list[Span]]:
        """Return what the target can move, and where all else has come; then begin anew.

        Of what is known since ``heard`` was called last: see Travels.
        """
        found = self._travels.relocations(old, new, held)
        self._travels.begin(merged((each.start, each.end) for each in new))
        return found

    def misread(
        self, spans: list[Span], *, last: bool = False, at_rest: bool = False
    ) -> list[Span] | None:
        """Return which of the pages that are open, and of ``spans``, may have been moved before.

        None while moves are under way, which cannot be where the process is ``at_rest``: they stay
        open then. The ``last`` time it is tried for longer.
        """
        self._open = merged([*self._open, *spans])
        if not at_rest and not self.await_rest(_NAPS if last else 0):
            return None
        self._take()
        found, self._open = intersect(self._open, self._travels.touched), []
        return found

    def await_rest(self, naps: int = _NAPS) -> bool:
        """Wait until no move is under way; False where it always was, after so many naps."""
        for nap in range(naps + 1):
            if nap:
                time.sleep(_NAP)
            if not all(uffd.is_moving(self._descriptor) for _ in range(_TRIES)):
                return True
        return False

    def _take(self) -> None:
        moves, lost = self._listener.take()
        for move in moves:
            self._travels.note(move.start, move.length, move.to)
        if lost:
            self._travels.lose()
        self._count += len(moves) + lost

    def close(self) -> None:
        """Hear no more: whoever moves memory waits then until the descriptor is closed."""
        self._listener.close()
